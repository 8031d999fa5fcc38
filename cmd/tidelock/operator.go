package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/auth"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/webhooks"
)

// operatorOptions are the settings of the operator.
type operatorOptions struct {
	// registry is the embedded one; it is not used if registryURL names another.
	registry    registry.Config
	registryURL string
	registryCA  string

	identities  clusterOptions
	kubeconfig  string
	namespace   string
	hosts       []string
	workload    string
	podName     string
	runtimeDir  string
	adminSecret string

	leaderElect    bool
	metricsAddress string
	healthAddress  string
	webhookHost    string
	webhookPort    int
	events         controllers.EventPace
	checkpoints    controllers.CheckpointOptions
}

func newOperatorCommand() *cobra.Command {
	hostname, _ := os.Hostname()
	o := operatorOptions{events: controllers.DefaultEventPace}
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Run the Kubernetes operator, by default with its own registry",
		Long: `Run the Kubernetes operator, by default together with the registry in one process (--data-dir), or beside a registry that
runs elsewhere (--registry-url), until SIGTERM.

Each setting is a flag, an environment variable (TIDELOCK_DATA_DIR for --data-dir) or a key of the YAML file that
--config names (data-dir). Flags win, then variables, then the file.`,
		Args:    cobra.NoArgs,
		PreRunE: loadSettings,
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	o.registry.AddFlags(flags)
	o.identities.addFlags(flags, true)
	flags.StringVar(&o.registryURL, "registry-url", "", "address of a registry that runs elsewhere; needs --operator-token-file")
	flags.StringVar(&o.registryCA, "registry-ca-file", "", "file with the CA of --registry-url, PEM; the system's without it")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "file that leads to the cluster; without it, the Pod's own, or that of KUBECONFIG")
	flags.StringVar(&o.namespace, "namespace", "tidelock-system", "the operator's own namespace")
	flags.StringSliceVar(&o.hosts, "registry-hosts", nil, "the registry's hosts, as host or host:port, as clients know it; credentials that the operator writes to Secrets are for these. The Service's name without it")
	flags.StringVar(&o.workload, "workload", "StatefulSet/tidelock", "what runs the operator there; Events that are about no object are about this")
	flags.StringVar(&o.podName, "pod-name", hostname, "the name under which this process reports Events")
	flags.StringVar(&o.runtimeDir, "runtime-dir", "", "directory for what lives as long as the process: tokens and the webhook's certificate; a temporary one without it")
	flags.StringVar(&o.adminSecret, "admin-secret", "tidelock-admin", "Secret with the password of the account admin (key password), made if it is not there; not used with --admin-password-file")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "let only one of several operators act; all of them serve")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8080", "address of the operator's metrics; 0 for none")
	flags.StringVar(&o.healthAddress, "health-bind-address", ":8081", "address of /healthz and /readyz; 0 for none")
	flags.StringVar(&o.webhookHost, "webhook-host", "", "address that the admission webhook listens on; all without it")
	flags.IntVar(&o.webhookPort, "webhook-port", 9443, "port of the admission webhook; 0 for none")
	flags.IntVar(&o.events.Burst, "events-burst", o.events.Burst, "how many Events may be created at --events-burst-rate before --events-rate applies")
	flags.Float64Var(&o.events.BurstRate, "events-burst-rate", o.events.BurstRate, "Events a second at most")
	flags.Float64Var(&o.events.Rate, "events-rate", o.events.Rate, "Events a second in the long run")
	flags.DurationVar(&o.checkpoints.Interval, "audit-publish-interval", controllers.DefaultCheckpointInterval, "how often a checkpoint of the audit log is published as a ConfigMap at most; 0 for never")
	flags.StringVar(&o.checkpoints.KeyFile, "audit-public-key-file", "", "file with the public keys that checkpoints of the audit log must be signed with, one a line; without it the first ones are trusted")
	return cmd
}

func (o *operatorOptions) validate() error {
	switch {
	case o.registryURL == "" && o.registry.DataDir == "":
		return errors.New("--data-dir is required for the operator's own registry, or --registry-url for another")
	case o.registryURL != "" && o.registry.DataDir != "":
		return errors.New("--data-dir is for the operator's own registry, --registry-url for another; use one of them")
	case o.registryURL != "" && o.registry.OperatorTokenFile == "":
		return errors.New("--registry-url needs --operator-token-file, the same that the registry reads")
	case o.events.Burst < 1 || o.events.BurstRate <= 0 || o.events.Rate <= 0:
		return errors.New("--events-burst, --events-burst-rate and --events-rate must be above 0")
	case o.checkpoints.Interval < 0:
		return errors.New("--audit-publish-interval must not be below 0")
	case slices.ContainsFunc(o.hosts, func(host string) bool { return host == "" || strings.ContainsAny(host, "/@ ") }):
		return fmt.Errorf("--registry-hosts %q are not hosts such as registry.example.com:5000", o.hosts)
	case strings.Count(o.workload, "/") != 1:
		return fmt.Errorf("--workload %q is not kind/name", o.workload)
	}
	return nil
}

func (o *operatorOptions) run(ctx context.Context) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	logger := newLogger()
	ctrl.SetLogger(logr.FromSlogHandler(logger.Handler()))
	klog.SetSlogLogger(logger)
	config, err := o.restConfig()
	if err != nil {
		return fmt.Errorf("no way to a cluster: %w", err)
	}
	removeRuntimeDir, err := o.prepareRuntimeDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeRuntimeDir()) }()

	var embedded *registry.Registry
	if o.registryURL == "" {
		o.registry.Logger = logger
		if embedded, err = o.newRegistry(ctx, config); err != nil {
			return fmt.Errorf("starting the registry: %w", err)
		}
	}
	mgr, err := o.newManager(ctx, config, embedded)
	if err != nil {
		if embedded != nil {
			err = errors.Join(err, embedded.Close())
		}
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	// The registry stops last, so that the controllers do not see it go.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	if embedded != nil {
		group.Go(func() error { return embedded.Run(serving) })
	}
	group.Go(func() error {
		defer stopServing()
		return mgr.Start(ctx)
	})
	return group.Wait()
}

func (o *operatorOptions) restConfig() (*rest.Config, error) {
	config, err := clusterConfig(o.kubeconfig)
	if err != nil {
		return nil, err
	}
	// A sweep changes many statuses at once; the API server's own fairness bounds what it takes.
	config.QPS, config.Burst = 100, 200
	return config, nil
}

// prepareRuntimeDir makes the directory for what lives as long as the process. The returned function removes it, if
// nobody chose it.
func (o *operatorOptions) prepareRuntimeDir() (remove func() error, err error) {
	if o.runtimeDir != "" {
		if err := os.MkdirAll(o.runtimeDir, 0o700); err != nil {
			return nil, fmt.Errorf("--runtime-dir: %w", err)
		}
		return func() error { return nil }, nil
	}
	if o.runtimeDir, err = os.MkdirTemp("", "tidelock-"); err != nil {
		return nil, fmt.Errorf("making a temporary directory; choose another with --runtime-dir: %w", err)
	}
	return func() error { return os.RemoveAll(o.runtimeDir) }, nil
}

// newRegistry makes the embedded registry, with a token that only this process knows.
func (o *operatorOptions) newRegistry(ctx context.Context, config *rest.Config) (*registry.Registry, error) {
	if o.registry.OperatorTokenFile == "" {
		o.registry.OperatorTokenFile = filepath.Join(o.runtimeDir, "operator-token")
		if err := auth.EnsureTokenFile(o.registry.OperatorTokenFile); err != nil {
			return nil, err
		}
	}
	if o.registry.AdminPasswordFile == "" && o.adminSecret != "" {
		password, err := adminPassword(ctx, config, client.ObjectKey{Namespace: o.namespace, Name: o.adminSecret})
		if err != nil {
			return nil, err
		}
		o.registry.AdminPasswordFile = filepath.Join(o.runtimeDir, "admin-password")
		if err := os.WriteFile(o.registry.AdminPasswordFile, password, 0o600); err != nil {
			return nil, fmt.Errorf("writing the password of the account admin: %w", err)
		}
	}
	if err := o.identities.connect(&o.registry, func() (*rest.Config, error) { return config, nil }, o.registry.Logger); err != nil {
		return nil, err
	}
	return registry.New(o.registry)
}

// adminPassword reads the password of the account admin from a Secret, and makes both if the Secret is not there.
func adminPassword(ctx context.Context, config *rest.Config, key client.ObjectKey) ([]byte, error) {
	c, err := client.New(config, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("making a client for the cluster: %w", err)
	}
	secret := &corev1.Secret{}
	err = c.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
			Type:       corev1.SecretTypeBasicAuth,
			Data:       map[string][]byte{corev1.BasicAuthUsernameKey: []byte("admin"), corev1.BasicAuthPasswordKey: []byte(rand.Text())},
		}
		err = c.Create(ctx, secret)
	}
	if err != nil {
		return nil, fmt.Errorf("the password of the account admin, Secret %s: %w", key, err)
	}
	password := secret.Data[corev1.BasicAuthPasswordKey]
	if len(password) == 0 {
		return nil, fmt.Errorf("the password of the account admin, Secret %s: the key %s is missing or empty", key, corev1.BasicAuthPasswordKey)
	}
	return password, nil
}

// newManager puts the operator together. Nothing runs yet.
func (o *operatorOptions) newManager(ctx context.Context, config *rest.Config, embedded *registry.Registry) (ctrl.Manager, error) {
	registryClient, err := o.newClient(embedded)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), registryv1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	user, err := whoAmI(ctx, config)
	if err != nil {
		return nil, err
	}
	if len(o.hosts) == 0 {
		o.hosts = []string{"tidelock-registry." + o.namespace + ".svc:5000"}
	}
	server := webhooks.NewServer(o.webhookHost, o.webhookPort, filepath.Join(o.runtimeDir, "webhook"))
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cache.Options{ByObject: map[client.Object]cache.ByObject{&corev1.Secret{}: webhooks.SecretCache(o.namespace)}},
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:        o.healthAddress,
		WebhookServer:                 server,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "tidelock-operator",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the operator: %w", err)
	}
	kind, name, _ := strings.Cut(o.workload, "/")
	err = controllers.Setup(ctx, mgr, controllers.Options{
		Registry:  registryClient,
		Namespace: o.namespace, User: user, RegistryHosts: o.hosts,
		Workload:  corev1.ObjectReference{APIVersion: "apps/v1", Kind: kind, Namespace: o.namespace, Name: name},
		Instance:  cmp.Or(o.podName, "tidelock"),
		EventPace: o.events, Checkpoints: o.checkpoints,
	})
	if err != nil {
		return nil, err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, err
	}
	if embedded != nil {
		if err := mgr.AddReadyzCheck("registry", func(r *http.Request) error { return registryClient.Ready(r.Context()) }); err != nil {
			return nil, err
		}
	}
	if o.webhookPort == 0 {
		return mgr, nil
	}
	if err := server.SetupCertificates(ctx, mgr, o.namespace); err != nil {
		return nil, err
	}
	if err := webhooks.SetupImmutabilityPolicy(ctx, mgr, registryClient, o.registry.PoliciesMaxLock); err != nil {
		return nil, err
	}
	if err := webhooks.SetupOrgMirror(ctx, mgr, registryClient); err != nil {
		return nil, err
	}
	if err := webhooks.SetupReadonlySuperuser(ctx, mgr, registryClient, o.namespace, user); err != nil {
		return nil, err
	}
	return mgr, mgr.AddReadyzCheck("webhook", server.ReadyChecker(mgr, o.namespace))
}

// whoAmI asks the API server which user the operator is.
func whoAmI(ctx context.Context, config *rest.Config) (string, error) {
	c, err := client.New(config, client.Options{})
	if err != nil {
		return "", fmt.Errorf("making a client for the cluster: %w", err)
	}
	review := &authenticationv1.SelfSubjectReview{}
	if err := c.Create(ctx, review); err != nil {
		return "", fmt.Errorf("asking the API server who the operator is: %w", err)
	}
	return review.Status.UserInfo.Username, nil
}

func (o *operatorOptions) newClient(embedded *registry.Registry) (*registryclient.Client, error) {
	options := registryclient.Options{URL: o.registryURL, TokenFile: o.registry.OperatorTokenFile}
	if embedded != nil {
		options.URL = embedded.URL()
		if o.registry.TLSCert != "" {
			options.TLS = pinned(o.registry.TLSCert)
		}
	}
	if o.registryCA != "" {
		var err error
		if options.CA, err = os.ReadFile(o.registryCA); err != nil {
			return nil, fmt.Errorf("--registry-ca-file: %w", err)
		}
	}
	return registryclient.New(options)
}

// pinned trusts exactly the certificate in a file. The operator reaches its own registry by an address of this machine,
// which no certificate names.
func pinned(file string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection asks for more than names and signatures would.
		VerifyConnection: func(state tls.ConnectionState) error {
			content, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("reading the registry's certificate: %w", err)
			}
			if block, _ := pem.Decode(content); block == nil || !bytes.Equal(block.Bytes, state.PeerCertificates[0].Raw) {
				return fmt.Errorf("the registry does not serve the certificate in %s", file)
			}
			return nil
		},
	}
}
