package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/tidelock/tidelock/registry"
)

func newRegistryCommand() *cobra.Command {
	var cfg registry.Config
	var identities clusterOptions
	var kubeconfig string
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "Serve the registry",
		Long: `Serve the registry from one data directory, until SIGTERM: then it finishes what runs and exits.

Each setting is a flag, an environment variable (TIDELOCK_DATA_DIR for --data-dir) or a key of the YAML file that
--config names (data-dir). Flags win, then variables, then the file.`,
		Args:              cobra.NoArgs,
		PersistentPreRunE: loadSettings,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Logger = newLogger()
			if err := identities.connect(&cfg, func() (*rest.Config, error) { return clusterConfig(kubeconfig) }, cfg.Logger); err != nil {
				return err
			}
			r, err := registry.New(cfg)
			if err != nil {
				return err
			}
			return r.Run(cmd.Context())
		},
	}
	cfg.AddFlags(cmd.PersistentFlags())
	identities.addFlags(cmd.PersistentFlags(), false)
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "file that leads to the cluster of --kubernetes-tokens; without it, the Pod's own, or that of KUBECONFIG")
	cmd.AddCommand(newAdoptClusterCommand(&cfg), newUnlockCommand(&cfg), newGCCommand(&cfg), newFsckCommand(&cfg), newUserCommand(), newOrgCommand(), newRobotCommand())
	return cmd
}

func newAdoptClusterCommand(cfg *registry.Config) *cobra.Command {
	return &cobra.Command{
		Use:   "adopt-cluster UID",
		Short: "Hand a registry over to another Kubernetes cluster",
		Long: `Hand a registry over to another Kubernetes cluster, after a migration or a rebuilt cluster. With an embedded database it
has to be stopped. UID is the one of that cluster's namespace kube-system:

  kubectl get namespace kube-system -o jsonpath={.metadata.uid}

Policies, locks and evidence stay as they are. The change is an entry of the audit log.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Logger = newLogger()
			if err := registry.AdoptCluster(cmd.Context(), *cfg, args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "the registry now belongs to cluster %s\n", args[0])
			return err
		},
	}
}

// loadSettings completes a command's flags before it runs.
func loadSettings(cmd *cobra.Command, _ []string) error {
	return registry.LoadSettings(cmd.Flags(), os.LookupEnv)
}

func newLogger() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }
