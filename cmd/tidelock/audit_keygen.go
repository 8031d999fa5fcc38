package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry/audit"
)

func newAuditKeygenCommand() *cobra.Command {
	var name, file string
	cmd := &cobra.Command{
		Use:   "keygen --key-file FILE",
		Short: "Make a key that signs checkpoints of the audit log",
		Long: `Make an Ed25519 key that signs checkpoints of the audit log. The private key goes to a new file, for the registry's
--audit-key-file; the public key, for tidelock audit verify, is printed.

All keys of a file sign. To rotate keys, add the new one as a line of its own to the registry's file, hand its public key to
those who verify, and remove the old line later. Keep old public keys: old checkpoints are verified with them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errors.New("--key-file is required: the file that the private key is written to")
			}
			private, public, err := audit.GenerateKey(name)
			if err != nil {
				return err
			}
			if err := audit.WriteKeyFile(file, private); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), public)
			return err
		},
	}
	cmd.Flags().StringVar(&file, "key-file", "", "file to make; it must not exist")
	cmd.Flags().StringVar(&name, "name", audit.DefaultKeyName, "name of the key, which stands beside its signatures")
	return cmd
}

func newAuditPubkeyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "pubkey --key-file FILE",
		Short: "Print the public keys of a file of private keys",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errors.New("--key-file is required: a file of private keys, such as audit.key in a registry's data directory")
			}
			keys, err := audit.KeyFile(file).Keys()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(keys.Public(), "\n"))
			return err
		},
	}
	cmd.Flags().StringVar(&file, "key-file", "", "file of private keys")
	return cmd
}
