package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/history"
)

func newAuditVerifyReportCommand() *cobra.Command {
	var publicKey string
	cmd := &cobra.Command{
		Use:   "verify-report FILE --public-key FILE",
		Short: "Check a tag's report offline: signature, proofs, and that the statements follow from the entries",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return verifyReport(args[0], publicKey, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&publicKey, "public-key", "", "file with the log's public keys, one a line, from whom you trust")
	_ = cmd.MarkFlagRequired("public-key")
	return cmd
}

func verifyReport(file, publicKey string, out io.Writer) error {
	keys, err := os.ReadFile(publicKey)
	if err != nil {
		return fmt.Errorf("--public-key: %w", err)
	}
	known, err := audit.ParsePublicKeys(keys)
	if err != nil {
		return fmt.Errorf("--public-key: %w", err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var report history.Report
	if err := json.Unmarshal(content, &report); err != nil {
		return fmt.Errorf("%s is no report as --format json of tidelock audit report writes it: %w", file, err)
	}
	checkpoint, signedBy, err := report.Verify(known)
	if err != nil {
		return fmt.Errorf("%s does not verify: %w", file, err)
	}
	_, err = fmt.Fprintf(out, "verified: %d entries are in the log %s of %d entries, signed by %s\n%s\n",
		len(report.Entries), checkpoint.Origin, checkpoint.Size, strings.Join(signedBy, ", "), strings.Join(report.Statements, "\n"))
	return err
}
