package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry"
)

func newUnlockCommand(cfg *registry.Config) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "unlock UUID --reason TEXT",
		Short: "Break the lock of an immutability policy",
		Long: `Break the lock (lockedUntil) of an immutability policy, which nobody can weaken or delete otherwise before its time. With an
embedded database the registry has to be stopped. UUID is the policy's: status.policyUUID of an ImmutabilityPolicy.

The policy stays in force; from then on it can be changed and deleted as any other. Tags stay locked. What was done, and why,
is an entry of the audit log. A lockedUntil that is later than the broken one binds again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Logger = newLogger()
			policy, err := registry.UnlockPolicy(cmd.Context(), *cfg, args[0], reason)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the lock of policy %s until %s is broken; the policy stays in force until somebody changes or deletes it\n",
				policy.UUID, policy.LockedUntil.Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for auditors to read; required")
	return cmd
}
