package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/tidelock/tidelock/registry/audit"
)

func newAuditVerifyCommand() *cobra.Command {
	var publicKeys, against []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify EXPORT [ARCHIVE…] --public-key KEY",
		Short: "Check that nothing in an exported audit log was changed, removed or put in",
		Long: `Check an export of tidelock audit export, or an archive, which may be compressed with gzip. No registry is needed.

Every entry has the hash that the log's Merkle tree holds, the personal values that are there are those that were hashed, no
index is missing, and the tree is that of the checkpoint at the end, which one of the given keys has signed. With --against,
checkpoints that were kept elsewhere, also that the log only grew since then: whoever has the key can make another log, but
not one that agrees with those.

With the archives of a log that was pruned, each is checked by itself and held against the export: they must have what was
pruned, all of it.

The first bad entry is named, and the exit status is 1.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			options := audit.VerifyOptions{Progress: func(entries int64) {
				if entries%100_000 == 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d entries\n", entries)
				}
			}}
			var err error
			if options.Known, err = readPublicKeys(publicKeys); err != nil {
				return err
			}
			for _, path := range against {
				checkpoint, err := readCheckpoint(path, options.Known)
				if err != nil {
					return err
				}
				options.Against = append(options.Against, checkpoint)
			}
			archives, err := verifyArchives(args[1:], &options)
			if err != nil {
				return err
			}
			report, err := verifyFile(args[0], options)
			if err != nil {
				return err
			}
			if missing := report.Cover(archives); missing >= 0 && report.Problem == nil && len(archives) > 0 {
				report.Problem = audit.NotArchived(missing)
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			} else {
				_, err = fmt.Fprint(cmd.OutOrStdout(), describeReport(report))
			}
			if err == nil && report.Problem != nil {
				err = fmt.Errorf("%s: %w", args[0], report.Problem)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&publicKeys, "public-key", nil, "public key of checkpoints, or a file of them, one a line; may be repeated")
	cmd.Flags().StringArrayVar(&against, "against", nil, "file with an earlier signed checkpoint that was kept elsewhere; may be repeated")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was found as a JSON object")
	return cmd
}

// readPublicKeys reads keys that are given as they are, or as files.
func readPublicKeys(given []string) (note.Verifiers, error) {
	if len(given) == 0 {
		return nil, errors.New("--public-key is required: a key that tidelock audit pubkey prints, or a file of them, which did not come with the export")
	}
	var all bytes.Buffer
	for _, key := range given {
		content := []byte(key)
		if _, err := note.NewVerifier(key); err != nil {
			if content, err = os.ReadFile(key); err != nil {
				return nil, fmt.Errorf("--public-key %s is neither a public key nor a file: %w", key, err)
			}
			if _, err := audit.ParsePublicKeys(content); err != nil {
				return nil, fmt.Errorf("--public-key %s: %w", key, err)
			}
		}
		all.Write(append(content, '\n'))
	}
	return audit.ParsePublicKeys(all.Bytes())
}

func readCheckpoint(path string, known note.Verifiers) (audit.Checkpoint, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("--against: %w", err)
	}
	checkpoint, _, err := audit.OpenCheckpoint(content, known)
	if err != nil {
		return audit.Checkpoint{}, fmt.Errorf("--against %s: %w", path, err)
	}
	return checkpoint, nil
}

// verifyArchives verifies archives, and adds their checkpoints to those that the export is held against.
func verifyArchives(paths []string, options *audit.VerifyOptions) (archives []audit.Report, err error) {
	for _, path := range paths {
		report, err := verifyFile(path, audit.VerifyOptions{Known: options.Known})
		if err == nil && report.Problem != nil {
			err = report.Problem
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		archives = append(archives, report)
		options.Against = append(options.Against, report.Checkpoint())
	}
	return archives, nil
}

func verifyFile(path string, options audit.VerifyOptions) (report audit.Report, err error) {
	var in io.Reader = os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return report, err
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	return audit.Verify(in, options)
}

// describeReport writes a report for people.
func describeReport(r audit.Report) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("log %s, entries %d to %d: %d checked", r.Origin, r.From, r.Size, r.Entries)
	if r.Pruned > 0 {
		line("%d of them were pruned, their hashes are there; %d of those are in the archives that were given", r.Pruned, r.Archived)
	}
	if r.Erased > 0 {
		line("%d of them lack personal values that were erased", r.Erased)
	}
	for _, f := range r.Forks {
		line("entry %d begins the log %s, which goes on from a restored backup of %s; %d published entries from there on are lost; reason: %s", f.Index, f.Origin, f.PreviousOrigin, f.Lost, f.Reason)
	}
	for _, a := range r.Against {
		if a.Lost > 0 {
			line("checkpoint of %d entries of %s: entries %d to %d were lost, as the fork there says", a.Size, a.Origin, a.LostFrom, a.LostFrom+a.Lost-1)
		} else {
			line("checkpoint of %d entries: all of them are unchanged", a.Size)
		}
	}
	if r.Problem == nil {
		line("root %s, signed by %s: nothing was changed, removed or put in", r.Root, strings.Join(r.SignedBy, ", "))
	}
	return b.String()
}
