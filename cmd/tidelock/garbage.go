package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/fsck"
	"github.com/tidelock/tidelock/registry/gc"
)

func newGCCommand(cfg *registry.Config) *cobra.Command {
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Collect the garbage of a stopped registry",
		Long: `Collect the garbage of a stopped registry, as a registry that serves does by itself. It removes the links of
repositories to blobs that nothing has referred to for --gc-grace, the blobs that no repository links, and their bytes at
once. With --gc-untagged-manifests it removes first the manifests that no tag leads to.

--dry-run says what would go and removes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = newLogger()
			plan, err := registry.CollectGarbage(cmd.Context(), *cfg, dryRun)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(plan)
			}
			return printPlan(cmd, plan, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would go, and remove nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func printPlan(cmd *cobra.Command, plan gc.Plan, dryRun bool) error {
	out, verb := cmd.OutOrStdout(), "removed"
	if dryRun {
		verb = "would remove"
	}
	for _, text := range plan.Sample {
		if _, err := fmt.Fprintln(out, verb, text); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%s %d manifests, %d links, %d blobs and %d orphans; the bytes of %d keys: %d\n",
		verb, plan.Manifests, plan.Links, plan.Blobs, plan.Orphans, plan.Removed, plan.RemovedBytes)
	return err
}

func newFsckCommand(cfg *registry.Config) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check that every tag of a stopped registry can be pulled",
		Long: `Check that every tag of a stopped registry can be pulled, locked tags first: its manifest, an index's children, their
configs and layers, and all referrers are there, and have the bytes that their digests say. It reads every byte, says what
is damaged, and changes nothing. The exit status is 1 if anything is damaged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = newLogger()
			out, encoder := cmd.OutOrStdout(), json.NewEncoder(cmd.OutOrStdout())
			options := fsck.Options{
				Damage: func(d fsck.Damage) error {
					if asJSON {
						return encoder.Encode(d)
					}
					locked := ""
					if d.Locked {
						locked = " (locked)"
					}
					_, err := fmt.Fprintf(out, "%s:%s%s: %s: %s\n", d.Repository, d.Tag, locked, d.Digest, d.Problem)
					return err
				},
				Progress: func(s fsck.Summary) { fmt.Fprintln(cmd.ErrOrStderr(), describe(s)) },
			}
			summary, err := registry.CheckFiles(cmd.Context(), *cfg, options)
			if err != nil {
				return err
			}
			if asJSON {
				err = encoder.Encode(struct {
					Summary fsck.Summary `json:"summary"`
				}{summary})
			} else {
				_, err = fmt.Fprintln(out, describe(summary))
			}
			if err == nil && summary.Damages > 0 {
				err = fmt.Errorf("%d tags are damaged; restore what is missing or wrong from a backup", summary.DamagedTags)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line: each damage, then the summary")
	return cmd
}

func describe(s fsck.Summary) string {
	return fmt.Sprintf("checked %d tags (%d of them locked), %d blobs, %d bytes: %d damages in %d tags", s.Tags, s.Locked, s.Blobs, s.Bytes, s.Damages, s.DamagedTags)
}
