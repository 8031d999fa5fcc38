package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidelock/tidelock/kubeauth"
	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/auth"
)

// clusterOptions are the settings of whether a registry takes the identities of the cluster.
type clusterOptions struct {
	tokens   bool
	audience string
}

// addFlags adds the settings as flags. Where a registry runs beside no operator, nobody's identities are taken by default.
func (o *clusterOptions) addFlags(flags *pflag.FlagSet, byDefault bool) {
	flags.BoolVar(&o.tokens, "kubernetes-tokens", byDefault, "take tokens of the cluster's ServiceAccounts and users as passwords and bearer tokens; its RBAC on repositories.access.tidelock.dev says what they may do")
	flags.StringVar(&o.audience, "kubernetes-audience", auth.Service, "the audience that such tokens must be for")
}

// connect gives a registry the way to the cluster, if it is to have one.
func (o *clusterOptions) connect(cfg *registry.Config, way func() (*rest.Config, error), logger *slog.Logger) error {
	if !o.tokens {
		return nil
	}
	config, err := way()
	if err != nil {
		return fmt.Errorf("--kubernetes-tokens: no way to a cluster: %w", err)
	}
	cfg.Cluster, err = kubeauth.New(config, kubeauth.Options{Audience: o.audience, Logger: logger})
	return err
}

// clusterConfig finds the way to the cluster: by a file, the Pod's own, or that of KUBECONFIG.
func clusterConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
}
