package integration

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	controllerconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/auth"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/webhooks"
)

const adminPassword = "correct horse battery staple"

// deletionDelay is short enough to be waited for, and long enough to do something meanwhile.
const deletionDelay = 3 * time.Second

// testRegistry is a registry in this process. It can be stopped and started again on the same data and port.
type testRegistry struct {
	config registry.Config
	url    string
	stop   func()
}

func startRegistry() *testRegistry {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	r := &testRegistry{config: registry.Config{
		DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0",
		AdminPasswordFile: filepath.Join(dir, "admin"), OperatorTokenFile: filepath.Join(dir, "token"),
		// The upstreams of mirrors are on this machine.
		MirrorAllowNetworks:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		PoliciesDeletionDelay: deletionDelay, Logger: slog.New(slog.NewTextHandler(GinkgoWriter, nil)),
	}}
	Expect(os.WriteFile(r.config.AdminPasswordFile, []byte(adminPassword), 0o600)).To(Succeed())
	Expect(auth.EnsureTokenFile(r.config.OperatorTokenFile)).To(Succeed())
	r.start()
	DeferCleanup(func() { r.stop() })
	return r
}

func (r *testRegistry) start() {
	GinkgoHelper()
	running, err := registry.New(r.config)
	Expect(err).NotTo(HaveOccurred())
	r.url, r.config.Listen = running.URL(), running.Addr().String()
	r.stop = inBackground(running.Run)
}

// inBackground runs a server until the returned function is called, which waits for its end. More calls do nothing.
func inBackground(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		Expect(run(ctx)).To(Succeed())
	}()
	return func() {
		cancel()
		<-done
	}
}

// operatorConfig is the operator's way to the API server, with no more rights than config/rbac gives.
func operatorConfig() *rest.Config {
	return impersonated(operatorUser, "system:serviceaccounts", "system:serviceaccounts:"+operatorNamespace, "system:authenticated")
}

func impersonated(user string, groups ...string) *rest.Config {
	c := rest.CopyConfig(config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return c
}

func newManager(change ...func(*ctrl.Options)) ctrl.Manager {
	GinkgoHelper()
	return newManagerAt(operatorConfig(), change...)
}

// newManagerAt is newManager with another way to the API server.
func newManagerAt(config *rest.Config, change ...func(*ctrl.Options)) ctrl.Manager {
	GinkgoHelper()
	options := ctrl.Options{
		Scheme:  scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		Cache:   cache.Options{ByObject: map[client.Object]cache.ByObject{&corev1.Secret{}: webhooks.SecretCache(operatorNamespace)}},
		// One process runs many managers, one after the other.
		Controller: controllerconfig.Controller{SkipNameValidation: ptr.To(true)},
	}
	for _, f := range change {
		f(&options)
	}
	mgr, err := ctrl.NewManager(config, options)
	Expect(err).NotTo(HaveOccurred())
	return mgr
}

func newRegistryClient(r *testRegistry) *registryclient.Client {
	GinkgoHelper()
	c, err := registryclient.New(registryclient.Options{URL: r.url, TokenFile: r.config.OperatorTokenFile})
	Expect(err).NotTo(HaveOccurred())
	return c
}

// setUpControllers adds to the manager what `tidelock operator` adds. Checkpoints are published where a test is about
// them: the registries of all tests are, one after the other, those of one cluster, in which they would contradict each other.
func setUpControllers(ctx context.Context, mgr ctrl.Manager, registry controllers.Registry, change ...func(*controllers.Options)) {
	GinkgoHelper()
	options := controllers.Options{
		Registry: registry, Namespace: operatorNamespace, User: operatorUser, RegistryHosts: []string{"registry.example.com"}, Instance: "test",
		Workload: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: operatorNamespace, Name: "tidelock"},
	}
	for _, f := range change {
		f(&options)
	}
	Expect(controllers.Setup(ctx, mgr, options)).To(Succeed())
}

// startOperator starts controllers against a registry. At the end of the test no object is left.
func startOperator(ctx context.Context, r *testRegistry, change ...func(*controllers.Options)) (stop func()) {
	GinkgoHelper()
	return runOperator(ctx, r, newManager(), change...)
}

// runOperator is startOperator with a manager that the test has made.
func runOperator(ctx context.Context, r *testRegistry, mgr ctrl.Manager, change ...func(*controllers.Options)) (stop func()) {
	GinkgoHelper()
	setUpControllers(ctx, mgr, newRegistryClient(r), change...)
	stop = inBackground(mgr.Start)
	DeferCleanup(func(ctx context.Context) {
		stop()
		removeObjects(ctx)
	})
	return stop
}

// removeObjects removes all policies, mirrors and readonly superusers with nobody there to see them off.
func removeObjects(ctx context.Context) {
	GinkgoHelper()
	var policies registryv1alpha1.ImmutabilityPolicyList
	Expect(admin.List(ctx, &policies)).To(Succeed())
	for i := range policies.Items {
		unlock(ctx, &policies.Items[i])
		removeFinalizers(ctx, &policies.Items[i])
		Expect(client.IgnoreNotFound(admin.Delete(ctx, &policies.Items[i]))).To(Succeed())
	}
	var mirrors registryv1alpha1.OrgMirrorList
	Expect(admin.List(ctx, &mirrors)).To(Succeed())
	for i := range mirrors.Items {
		removeFinalizers(ctx, &mirrors.Items[i])
		Expect(client.IgnoreNotFound(admin.Delete(ctx, &mirrors.Items[i]))).To(Succeed())
	}
	removeReadonly(ctx)
}

// removeReadonly removes all readonly superusers, and the Secrets that were made for them: no API server alone does.
func removeReadonly(ctx context.Context) {
	GinkgoHelper()
	var all registryv1alpha1.ReadonlySuperuserList
	Expect(admin.List(ctx, &all)).To(Succeed())
	for i := range all.Items {
		removeFinalizers(ctx, &all.Items[i])
		Expect(client.IgnoreNotFound(admin.Delete(ctx, &all.Items[i]))).To(Succeed())
	}
	Expect(admin.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(operatorNamespace), client.MatchingLabels{"app.kubernetes.io/managed-by": "tidelock"})).To(Succeed())
}

// unlock notes, as the operator does, that the lock of a policy binds nobody any more.
func unlock(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) {
	GinkgoHelper()
	if policy.Spec.LockedUntil == nil {
		return
	}
	before := policy.DeepCopy()
	policy.Status.LockExpired = policy.Spec.LockedUntil
	Expect(client.IgnoreNotFound(newClient(operatorConfig()).Status().Patch(ctx, policy, client.MergeFrom(before)))).To(Succeed())
}

func removeFinalizers(ctx context.Context, object client.Object) {
	GinkgoHelper()
	before := object.DeepCopyObject().(client.Object)
	object.SetFinalizers(nil)
	Expect(client.IgnoreNotFound(admin.Patch(ctx, object, client.MergeFrom(before)))).To(Succeed())
}
