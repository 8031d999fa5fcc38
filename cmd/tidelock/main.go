// Command tidelock is the Kubernetes operator and the registry that it runs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry/domain"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks to finish, the second one ends the process.
	context.AfterFunc(ctx, stop)

	root := &cobra.Command{
		Use:           "tidelock",
		Short:         "A registry whose image tags can be locked, and its Kubernetes operator",
		Version:       domain.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newOperatorCommand(), newRegistryCommand(), newAuditCommand(), newCredentialProviderCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tidelock:", err)
		return 1
	}
	return 0
}
