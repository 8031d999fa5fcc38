package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry/audit"
)

func newAuditExportCommand() *cobra.Command {
	var registry remote
	var output string
	var from, to int64
	cmd := &cobra.Command{
		Use:   "export --output FILE",
		Short: "Write the audit log to a file that tidelock audit verify checks",
		Long: `Write the audit log of a running registry to a file: JSON Lines with each entry as it is hashed, and at its end a signed
checkpoint. tidelock audit verify checks it without the registry.

The file is there under its name once it is whole.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "" {
				return errors.New("--output is required: the file to write")
			}
			query := url.Values{"from": {strconv.FormatInt(from, 10)}}
			if cmd.Flags().Changed("to") {
				query.Set("to", strconv.FormatInt(to, 10))
			}
			progress := func(entries, of int64) { fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d entries\n", entries, of) }
			entries, err := exportLog(cmd.Context(), registry, query, output, progress)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d entries written to %s\n", entries, output)
			return err
		},
	}
	registry.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&output, "output", "", "file to write; one that is there is replaced")
	cmd.Flags().Int64Var(&from, "from", 0, "index of the first entry")
	cmd.Flags().Int64Var(&to, "to", 0, "index behind the last entry; the end of the log without it")
	return cmd
}

// exportLog writes an export under a temporary name, and gives it its own when it is whole.
func exportLog(ctx context.Context, registry remote, query url.Values, output string, progress func(entries, of int64)) (entries int64, err error) {
	client, err := registry.client()
	if err != nil {
		return 0, err
	}
	stream, err := client.Stream(ctx, []string{"api", "v1", "superuser", "audit", "export"}, query)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }()
	file, err := os.CreateTemp(filepath.Dir(output), ".tidelock-export-*")
	if err != nil {
		return 0, err
	}
	entries, err = audit.CopyExport(file, stream, progress)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), output)
	}
	if err != nil {
		return entries, errors.Join(err, os.Remove(file.Name()))
	}
	return entries, nil
}
