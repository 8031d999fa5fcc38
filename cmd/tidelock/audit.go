package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/client"
)

func newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read, export and verify the audit log of a registry",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newAuditKeygenCommand(), newAuditPubkeyCommand(), newAuditExportCommand(), newAuditVerifyCommand(), newAuditTailCommand(),
		newAuditReportCommand(), newAuditVerifyReportCommand(), newAuditForkCommand())
	return cmd
}

// remote says where a registry is that serves, and who calls it.
type remote struct {
	url, username, passwordFile, caFile string
}

func (r *remote) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&r.url, "registry", "http://"+registry.DefaultListen, "address of the registry")
	flags.StringVar(&r.username, "username", "admin", "account to call as; it must have the right to what is asked for")
	flags.StringVar(&r.passwordFile, "password-file", "", "file with the account's password or token")
	flags.StringVar(&r.caFile, "ca-file", "", "PEM file with the certificates that the registry's must lead to; the system's without it")
}

func (r *remote) client() (*client.Client, error) {
	if r.passwordFile == "" {
		return nil, errors.New("--password-file is required: a file with the password or token of --username")
	}
	options := client.Options{URL: r.url, Username: r.username, PasswordFile: r.passwordFile}
	if r.caFile != "" {
		var err error
		if options.CA, err = os.ReadFile(r.caFile); err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
	}
	return client.New(options)
}
