package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

// How long things may take on a slow machine, and how often they are looked at.
const (
	timeout     = 30 * time.Second
	longTimeout = 2 * time.Minute
	interval    = 100 * time.Millisecond
)

// operatorNamespace and operatorUser are who the operator is in a cluster that config/default was applied to.
const (
	operatorNamespace = "tidelock-system"
	operatorUser      = "system:serviceaccount:tidelock-system:tidelock"
)

// root is the repository's root.
var root = func() string {
	path, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		panic(err)
	}
	return path
}()

var (
	cluster *envtest.Environment
	config  *rest.Config
	// admin may do everything in the cluster and reads without a cache.
	admin      client.Client
	kubeconfig string
	scheme     = runtime.NewScheme()
)

func TestIntegration(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(timeout)
	SetDefaultEventuallyPollingInterval(interval)
	EnforceDefaultTimeoutsWhenUsingContexts()
	RunSpecs(t, "Integration")
}

var _ = BeforeSuite(func(ctx context.Context) {
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(GinkgoWriter, nil)))
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(registryv1alpha1.AddToScheme(scheme)).To(Succeed())

	cluster = &envtest.Environment{
		Scheme:                scheme,
		CRDDirectoryPaths:     []string{filepath.Join(root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
		BinaryAssetsDirectory: assets(),
	}
	var err error
	config, err = cluster.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(cluster.Stop()).To(Succeed()) })
	config.QPS, config.Burst = 1000, 2000
	admin = newClient(config)
	kubeconfig = filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	Expect(os.WriteFile(kubeconfig, cluster.KubeConfig, 0o600)).To(Succeed())

	// All that an operator outside of the cluster needs; the webhook only where a test is about it.
	for _, object := range kustomization("config", "local") {
		switch object.GetKind() {
		case "CustomResourceDefinition", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		default:
			Expect(admin.Create(ctx, object)).To(Succeed())
		}
	}
})

// assets is the folder of kube-apiserver, etcd and kubectl: $KUBEBUILDER_ASSETS, by default what hack/tools built.
func assets() string {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return dir
	}
	return filepath.Join(root, "bin", "k8s", "current")
}

// binary finds a program that `make test` has built.
func binary(name string) string {
	dir := os.Getenv("TIDELOCK_BIN")
	if dir == "" {
		dir = filepath.Join(root, "bin")
	}
	path := filepath.Join(dir, name)
	Expect(path).To(BeAnExistingFile(), "run `make test`, which builds it")
	return path
}

// kubectl runs the real kubectl as the cluster's administrator and returns what it printed.
func kubectl(ctx context.Context, args ...string) (output string, err error) {
	GinkgoHelper()
	return execute(exec.CommandContext(ctx, filepath.Join(assets(), "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...))
}

// execute runs a program in the repository's root and returns what it printed.
func execute(command *exec.Cmd) (output string, err error) {
	var printed bytes.Buffer
	both := io.MultiWriter(&printed, GinkgoWriter)
	command.Dir, command.Stdout, command.Stderr = root, both, both
	err = command.Run()
	return printed.String(), err
}

// kustomization renders a folder of the repository with kubectl.
func kustomization(path ...string) []*unstructured.Unstructured {
	GinkgoHelper()
	command := exec.Command(filepath.Join(assets(), "kubectl"), "kustomize", filepath.Join(append([]string{root}, path...)...))
	command.Stderr = GinkgoWriter
	rendered, err := command.Output()
	Expect(err).NotTo(HaveOccurred())
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(rendered), 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		Expect(err).NotTo(HaveOccurred())
		objects = append(objects, object)
	}
}

// newNamespace makes a namespace of its own for a test. A control plane without controllers never empties one, so it is
// left to the end of the suite.
func newNamespace(ctx context.Context, change ...func(*corev1.Namespace)) *corev1.Namespace {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "team-"}}
	for _, f := range change {
		f(namespace)
	}
	Expect(admin.Create(ctx, namespace)).To(Succeed())
	return namespace
}

// newTeam makes a namespace that claims the organization of its own name, which may be there already: only a new one
// comes with the name alone.
func newTeam(ctx context.Context) string {
	GinkgoHelper()
	name := "team-" + utilrand.String(8)
	newNamespace(ctx, func(n *corev1.Namespace) { n.GenerateName, n.Name = "", name }, claims(name))
	return name
}

func claims(organizations string) func(*corev1.Namespace) {
	return func(n *corev1.Namespace) {
		n.Annotations = map[string]string{registryv1alpha1.OrganizationsAnnotation: organizations}
	}
}

type policyChange = func(*registryv1alpha1.ImmutabilityPolicy)

// newPolicy makes a policy for release tags of the organization of the namespace's name.
func newPolicy(namespace string, change ...policyChange) *registryv1alpha1.ImmutabilityPolicy {
	policy := &registryv1alpha1.ImmutabilityPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "releases"},
		Spec:       registryv1alpha1.ImmutabilityPolicySpec{TagPattern: `v[\d.]+`},
	}
	for _, f := range change {
		f(policy)
	}
	return policy
}

func named(name string) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Name = name }
}

func organization(name string) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Organization = name }
}

func repository(path string) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Repository = path }
}

func pattern(pattern string) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.TagPattern = pattern }
}

func mode(mode registryv1alpha1.EnforcementMode) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.EnforcementMode = mode }
}

func reclaim(reclaim registryv1alpha1.ReclaimPolicy) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.ReclaimPolicy = reclaim }
}

// lockedFor locks a policy for a while, or until a time that has passed.
func lockedFor(d time.Duration) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) {
		p.Spec.LockedUntil = ptr.To(metav1.NewTime(time.Now().Add(d)).Rfc3339Copy())
	}
}

func events(events registryv1alpha1.EventsMode) policyChange {
	return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Events = events }
}
