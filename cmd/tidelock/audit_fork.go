package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/domain"
)

func newAuditForkCommand() *cobra.Command {
	var cfg registry.Config
	var reason string
	var force bool
	cmd := &cobra.Command{
		Use:   "fork --reason TEXT",
		Short: "Explain an audit log that contradicts what was published of it",
		Long: `Begin a new origin of the audit log, with an entry that says why, what was published of the log before, and which entries
are lost. A registry that has become read-only, because it was restored from a backup for instance, takes writes again.
With an embedded database it has to be stopped.

Find out first what happened: the entries behind the last good checkpoint are gone or changed, and so may be the tags
that they tell of.`,
		Args:    cobra.NoArgs,
		PreRunE: loadSettings,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = newLogger()
			fork, err := registry.ForkLog(cmd.Context(), cfg, reason, force)
			if domain.CodeOf(err) == domain.CodeConflict {
				return fmt.Errorf("%w; if you have restored a registry that no operator watches, use --force", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "entry %d of the audit log begins the origin %s\nit explains the checkpoint of %d entries of %s, of which %d are lost\n",
				fork.Index, fork.Origin, fork.Checkpoint.Size, fork.Checkpoint.Origin, fork.Lost())
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&reason, "reason", "", "what happened, for auditors to read; required")
	flags.BoolVar(&force, "force", false, "fork a log that nothing contradicts")
	cfg.AddFlags(flags)
	return cmd
}
