package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/tidelock/tidelock/controllers"
	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/auth"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// benchCluster is the UID of a cluster that the registry is told of.
const benchCluster = "00000000-0000-4000-8000-000000000000"

// events measures how fast the operator's projector turns the audit log into Events of a real API server: a policy locks
// many tags first, then the projector starts, and the time counts until it is through. Its pace, by default 500 a
// second, is lifted. Registry, projector, kube-apiserver and etcd share this machine.
func events(ctx context.Context, o options, t *table) error {
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	cluster := &envtest.Environment{BinaryAssetsDirectory: filepath.Join(o.bin, "k8s", "current")}
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		cluster.BinaryAssetsDirectory = dir
	}
	config, err := cluster.Start()
	if err != nil {
		return fmt.Errorf("starting kube-apiserver: %w", err)
	}
	defer func() { _ = cluster.Stop() }()
	config.QPS, config.Burst = -1, -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchOrganization}}
	if _, err := kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}

	operator, stop, err := operatedRegistry(ctx, o)
	if err != nil {
		return err
	}
	defer stop()
	if err := lockTags(ctx, operator, o.events); err != nil {
		return err
	}
	took, err := project(ctx, operator, config)
	if err != nil {
		return err
	}
	list, err := kube.EventsV1().Events(benchOrganization).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(list.Items) != o.events {
		return fmt.Errorf("there are %d Events of %d entries", len(list.Items), o.events)
	}
	t.goal(fmt.Sprintf("Events of %d locked tags, distinct and complete", o.events), float64(o.events)/took.Seconds(), 500, " a second")
	return nil
}

// operated is a registry with the clients that a user and an operator have.
type operated struct {
	user     *client
	operator *registryclient.Client
}

// operatedRegistry runs a registry in this process, for an operator.
func operatedRegistry(ctx context.Context, o options) (r operated, stop func(), err error) {
	dir := filepath.Join(o.dir, "operated")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return r, nil, err
	}
	const password = "measured"
	secret, token := filepath.Join(dir, "admin-password"), filepath.Join(dir, "operator-token")
	if err := errors.Join(os.WriteFile(secret, []byte(password), 0o600), auth.EnsureTokenFile(token)); err != nil {
		return r, nil, err
	}
	embedded, err := registry.New(registry.Config{
		DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: secret, OperatorTokenFile: token,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return r, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- embedded.Run(ctx) }()
	stop = func() {
		cancel()
		<-done
	}
	r.user = newClient(&server{url: embedded.URL(), password: password}, auditClients)
	if r.operator, err = registryclient.New(registryclient.Options{URL: embedded.URL(), TokenFile: token}); err != nil {
		stop()
		return r, nil, err
	}
	return r, stop, nil
}

// lockTags pushes tags, lets a policy of a Kubernetes object lock them and waits until each has its entry.
func lockTags(ctx context.Context, r operated, tags int) error {
	if err := r.operator.Synced(ctx, benchCluster, nil); err != nil {
		return err
	}
	if _, err := putTags(ctx, r.user, 0, tags); err != nil {
		return err
	}
	const name = "every-tag"
	_, err := r.operator.PutPolicy(ctx, benchOrganization, name, openapi.ManagedPolicy{
		Cluster: benchCluster, UID: "11111111-1111-4111-8111-111111111111", Generation: 1,
		Claim:        openapi.Claim{NamespaceUID: "22222222-2222-4222-8222-222222222222", Organizations: []string{benchOrganization}},
		Organization: benchOrganization, TagPattern: ".*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	})
	for err == nil {
		var status openapi.PolicyStatus
		status, err = r.operator.PolicyStatus(ctx, benchOrganization, name)
		if err == nil && status.Swept && status.Holds == int64(tags) {
			return nil
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}

// project runs the projector until it has come to the end of the log.
func project(ctx context.Context, r operated, config *rest.Config) (time.Duration, error) {
	segment, err := r.operator.Log(ctx, -1, 1, 0)
	if err != nil {
		return 0, err
	}
	client, err := controllers.NewEventsClient(config)
	if err != nil {
		return 0, err
	}
	const cursor = "kubernetes-events"
	projector := &controllers.Projector{
		Registry: r.operator, Events: client, Ledger: &controllers.EventLedger{Registry: r.operator},
		Namespace: metav1.NamespaceDefault, Workload: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: metav1.NamespaceDefault, Name: "tidelock"},
		Instance: "bench", Pace: controllers.EventPace{Burst: 1 << 30, BurstRate: 1e6, Rate: 1e6},
		CountsChanged: func(types.NamespacedName) {}, Recovered: func(context.Context) error { return nil },
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- projector.Start(running) }()
	defer func() {
		stop()
		<-done
	}()
	for {
		next, err := r.operator.LogCursor(ctx, cursor)
		if err != nil {
			return 0, err
		}
		if next >= segment.Size {
			return time.Since(start), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
