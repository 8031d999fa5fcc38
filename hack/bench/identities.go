package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/tidelock/tidelock/kubeauth"
	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/auth"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// identityPulls is how often the manifest is pulled by each in a round.
const identityPulls = 1000

// identities measures what it costs a pull of a small manifest to find out who pulls and whether they may: by anybody, of
// what is public; by a password; and by the token of a ServiceAccount whom a real API server lets pull. They take turns.
func identities(ctx context.Context, o options, t *table) error {
	cluster := &envtest.Environment{BinaryAssetsDirectory: filepath.Join(o.bin, "k8s", "current")}
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		cluster.BinaryAssetsDirectory = dir
	}
	config, err := cluster.Start()
	if err != nil {
		return fmt.Errorf("starting kube-apiserver: %w", err)
	}
	defer func() { _ = cluster.Stop() }()
	token, uid, err := reader(ctx, config)
	if err != nil {
		return err
	}
	var asked atomic.Int64
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			return rt.RoundTrip(r)
		})
	})
	url, stop, err := clusterRegistry(ctx, o, config, uid)
	if err != nil {
		return err
	}
	defer stop()

	callers := []struct {
		name string
		*client
	}{
		{"anybody", newClient(&server{url: url}, 1)},
		{"a password", newClient(&server{url: url, password: benchPassword}, 1)},
		{"a token of a ServiceAccount", newClient(&server{url: url, password: token}, 1)},
	}
	const path = "/v2/" + benchOrganization + "/app/manifests/v1"
	times := make([]samples, len(callers))
	for round := range o.rounds + 1 {
		for i, caller := range callers {
			for range identityPulls {
				start := time.Now()
				if _, err := caller.do(ctx, http.MethodGet, path, "", nil, http.StatusOK); err != nil {
					return fmt.Errorf("%s: %w", caller.name, err)
				}
				if round > 0 {
					times[i] = append(times[i], time.Since(start))
				}
			}
		}
	}
	for i, caller := range callers {
		p50 := times[i].quantile(0.5)
		what := fmt.Sprintf("pull of a small manifest by %s, p50 (p95 %s)", caller.name, shortest(times[i].quantile(0.95)))
		if i == 0 {
			t.add(what, shortest(p50))
			continue
		}
		t.limit(what+": more than by anybody", float64((p50-times[0].quantile(0.5)).Microseconds())/1000, 1, " ms")
	}
	t.add(fmt.Sprintf("questions to the API server for %d pulls by the ServiceAccount", (o.rounds+1)*identityPulls), fmt.Sprint(asked.Load()))
	return nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// reader makes a ServiceAccount that may pull from the organization of its namespace. It returns a token of it, and the
// namespace's UID.
func reader(ctx context.Context, config *rest.Config) (token, uid string, err error) {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", "", err
	}
	namespace, err := kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchOrganization}}, metav1.CreateOptions{})
	if err != nil {
		return "", "", err
	}
	meta := metav1.ObjectMeta{Namespace: benchOrganization, Name: "reader"}
	_, err = kube.CoreV1().ServiceAccounts(benchOrganization).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		return "", "", err
	}
	_, err = kube.RbacV1().Roles(benchOrganization).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{kubeauth.Group}, Resources: []string{kubeauth.Resource}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", "", err
	}
	_, err = kube.RbacV1().RoleBindings(benchOrganization).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: benchOrganization, Name: "reader"}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", "", err
	}
	lifetime := int64(7200)
	request, err := kube.CoreV1().ServiceAccounts(benchOrganization).CreateToken(ctx, "reader", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{auth.Service}, ExpirationSeconds: &lifetime},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", "", err
	}
	return request.Status.Token, string(namespace.UID), nil
}

const benchPassword = "measured"

// clusterRegistry runs a registry in this process that takes the identities of a cluster, with one public image in the
// organization of a namespace.
func clusterRegistry(ctx context.Context, o options, config *rest.Config, namespaceUID string) (url string, stop func(), err error) {
	dir := filepath.Join(o.dir, "identities")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	secret, operatorToken := filepath.Join(dir, "admin-password"), filepath.Join(dir, "operator-token")
	if err := errors.Join(os.WriteFile(secret, []byte(benchPassword), 0o600), auth.EnsureTokenFile(operatorToken)); err != nil {
		return "", nil, err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cluster, err := kubeauth.New(config, kubeauth.Options{Logger: logger})
	if err != nil {
		return "", nil, err
	}
	embedded, err := registry.New(registry.Config{
		DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: secret, OperatorTokenFile: operatorToken, Cluster: cluster, Logger: logger,
	})
	if err != nil {
		return "", nil, err
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- embedded.Run(running) }()
	stop = func() {
		cancel()
		<-done
	}
	if err := publish(ctx, embedded.URL(), operatorToken, namespaceUID); err != nil {
		stop()
		return "", nil, err
	}
	return embedded.URL(), stop, nil
}

// publish makes the organization a namespace's, and pushes an image to it that everybody may pull.
func publish(ctx context.Context, url, operatorToken, namespaceUID string) error {
	operator, err := registryclient.New(registryclient.Options{URL: url, TokenFile: operatorToken})
	if err != nil {
		return err
	}
	_, err = operator.PutPolicy(ctx, benchOrganization, "releases", openapi.ManagedPolicy{
		Cluster: benchCluster, UID: "11111111-1111-4111-8111-111111111111", Generation: 1,
		Claim:        openapi.Claim{NamespaceUID: namespaceUID, Organizations: []string{benchOrganization}},
		Organization: benchOrganization, TagPattern: "none", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	})
	if err == nil {
		err = operator.Synced(ctx, benchCluster, []openapi.Manager{{Kind: "ImmutabilityPolicy", Namespace: benchOrganization, Name: "releases", UID: "11111111-1111-4111-8111-111111111111"}})
	}
	if err != nil {
		return err
	}
	c := newClient(&server{url: url, password: benchPassword}, 1)
	if err := c.push(ctx, benchOrganization+"/app", "v1", newImage(rand.NewChaCha8([32]byte{1}), 1024)); err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPost, "/api/v1/repository/"+benchOrganization+"/app/changevisibility", "application/json", []byte(`{"visibility": "public"}`), http.StatusOK)
	return err
}
