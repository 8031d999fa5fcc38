package integration

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/webhooks"
)

// startOperatorWithWebhooks starts controllers and webhooks against a registry, until the end of the test. The
// certificate is not the operator's own: one process can rotate one only.
func startOperatorWithWebhooks(ctx context.Context, registry *testRegistry) {
	GinkgoHelper()
	hooks := &envtest.WebhookInstallOptions{Paths: []string{filepath.Join(root, "config", "webhook", "manifests.yaml")}}
	Expect(hooks.PrepWithoutInstalling()).To(Succeed())
	DeferCleanup(hooks.Cleanup)
	server := webhook.NewServer(webhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir})
	mgr := newManager(func(o *ctrl.Options) { o.WebhookServer = server })
	registryClient := newRegistryClient(registry)
	Expect(webhooks.SetupImmutabilityPolicy(ctx, mgr, registryClient, 0)).To(Succeed())
	Expect(webhooks.SetupOrgMirror(ctx, mgr, registryClient)).To(Succeed())
	Expect(webhooks.SetupReadonlySuperuser(ctx, mgr, registryClient, operatorNamespace, operatorUser)).To(Succeed())
	runOperator(ctx, registry, mgr)
	for _, object := range []client.Object{hooks.MutatingWebhooks[0], hooks.ValidatingWebhooks[0]} {
		Expect(admin.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(admin.Delete(ctx, object))).To(Succeed()) })
	}
	Eventually(func(g Gomega, ctx context.Context) {
		policy := newPolicy(metav1.NamespaceDefault)
		g.Expect(admin.Create(ctx, policy, client.DryRunAll)).To(Succeed())
		g.Expect(policy.Annotations).To(HaveKey(registryv1alpha1.AppliedByAnnotation))
	}).WithContext(ctx).Should(Succeed())
}

// Whoever may make objects in a namespace tries to rule the tags of somebody else's organization. Policies and mirrors
// are refused alike.
var _ = Describe("A hijack of an organization", Ordered, ContinueOnFailure, func() {
	var registry *testRegistry

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		startOperatorWithWebhooks(ctx, registry)
	})

	// owned makes a namespace that owns the organization of its name.
	owned := func(ctx context.Context) *corev1.Namespace {
		GinkgoHelper()
		namespace := newNamespace(ctx)
		policy := create(ctx, newPolicy(namespace.Name))
		eventually(ctx, policy, beReady())
		return namespace
	}
	// refused expects that a policy and a mirror of a namespace for an organization wait for somebody to act, and say why.
	refused := func(ctx context.Context, namespace, target, because string) {
		GinkgoHelper()
		policy := create(ctx, newPolicy(namespace, named("hijack"), organization(target)))
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(message(policy)).To(ContainSubstring(because))
		mirror := newMirror(namespace, into(target), fromURL(registry.url), func(m *registryv1alpha1.OrgMirror) { m.Name = "hijack" })
		Expect(admin.Create(ctx, mirror)).To(Succeed())
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Get(ctx, key(mirror), mirror)).To(Succeed())
			stalled := meta.FindStatusCondition(mirror.Status.Conditions, registryv1alpha1.ConditionStalled)
			g.Expect(stalled).To(HaveValue(And(HaveField("Reason", registryv1alpha1.ReasonOrganizationNotOwned), HaveField("Message", ContainSubstring(because)))))
		}).WithContext(ctx).Should(Succeed())
	}
	// ruled counts the policies that the registry has for an organization.
	ruled := func(ctx context.Context, organization string) int { return len(registry.policies(ctx, organization)) }

	It("by a namespace that is created with the name of a foreign organization is refused", func(ctx context.Context) {
		name := "foreign-" + strings.ToLower(newNamespace(ctx).Name)
		Eventually(func(ctx context.Context) (answer, error) { // writes wait for the operator at first
			return registry.call(ctx, http.MethodPost, "/api/v1/organization/", "application/json", []byte(`{"name":"`+name+`"}`))
		}).WithContext(ctx).Should(HaveField("Status", http.StatusCreated))
		newNamespace(ctx, func(n *corev1.Namespace) { n.GenerateName, n.Name = "", name })
		refused(ctx, name, name, "namespace "+name+" may not manage organization "+name+": annotate the namespace with registry.tidelock.dev/organizations: "+name)
		Expect(ruled(ctx, name)).To(BeZero())
	})

	It("by a namespace that was made anew under the owner's name is refused", func(ctx context.Context) {
		owner := owned(ctx)
		removePolicy(ctx, &registryv1alpha1.ImmutabilityPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Name, Name: "releases"}})
		removeNamespace(ctx, owner)
		Expect(admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: owner.Name}})).To(Succeed())
		refused(ctx, owner.Name, owner.Name, "organization "+owner.Name+" belongs to namespace "+owner.Name+"; namespace "+owner.Name+" may not manage it")
	})

	It("by a second claimant is refused while the first exists and claims it", func(ctx context.Context) {
		target := owned(ctx).Name + "-mirror"
		first, second := newNamespace(ctx, claims(target)), newNamespace(ctx, claims(target))
		policy := create(ctx, newPolicy(first.Name, organization(target)))
		eventually(ctx, policy, beReady())
		refused(ctx, second.Name, target, "organization "+target+" belongs to namespace "+first.Name+"; namespace "+second.Name+" may not manage it")
		Expect(ruled(ctx, target)).To(Equal(1))
	})

	It("by an annotation that is set without the right is refused by the API server", func(ctx context.Context) {
		target := owned(ctx).Name
		mallory := user(ctx, "mallory-annotates", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"*"}})
		namespace := newNamespace(ctx)
		Eventually(func(ctx context.Context) error {
			changed := namespace.DeepCopy()
			claims(target)(changed)
			return mallory.Patch(ctx, changed, client.MergeFrom(namespace), client.DryRunAll)
		}).WithContext(ctx).Should(MatchError(ContainSubstring("you may not claim the organization " + target + ": that needs the verb own on organizations.access.tidelock.dev with that name")))
		refused(ctx, namespace.Name, target, "organization "+target+" belongs to namespace "+target)
	})

	It("under a forged stamp is refused where it says so, and else is that of who did it", func(ctx context.Context) {
		namespace := owned(ctx)
		letAct(ctx, "mallory-stamps")
		mallory := as("mallory-stamps")
		forged := newPolicy(namespace.Name, named("forged"), func(p *registryv1alpha1.ImmutabilityPolicy) {
			p.Annotations = map[string]string{registryv1alpha1.AppliedByAnnotation: `{"generation":1,"username":"system:admin"}`}
		})
		Expect(mallory.Create(ctx, forged)).To(Succeed())
		applied, ok := registryv1alpha1.ParseApplied(forged.Annotations)
		Expect(ok).To(BeTrue())
		Expect(applied.Username).To(Equal("mallory-stamps"), "admission overwrites it")
		eventually(ctx, forged, beReady())
		got, err := registry.call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/organization/%s/logs?kind=create_immutability_policy&policy=%s", namespace.Name, forged.Status.PolicyUUID), "", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Body).To(And(ContainSubstring(`"applied_by":"mallory-stamps"`), Not(ContainSubstring("system:admin"))))

		again := forged.DeepCopy()
		again.Annotations[registryv1alpha1.AppliedByAnnotation] = `{"generation":1,"username":"system:admin"}`
		Expect(mallory.Update(ctx, again)).To(Succeed())
		Expect(again.Annotations).To(Equal(forged.Annotations), "a stamp alone cannot be changed")
	})

	It("by a Kubernetes user named admin is refused: that is not the registry's account admin", func(ctx context.Context) {
		target := owned(ctx).Name
		letAct(ctx, "admin")
		namespace := newNamespace(ctx)
		policy := newPolicy(namespace.Name, organization(target))
		Expect(as("admin").Create(ctx, policy)).To(Succeed())
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(message(policy)).To(ContainSubstring("organization " + target + " belongs to namespace " + target))

		// Nor does what is granted to the one concern the other.
		readonly := createReadonly(ctx, about(registryv1alpha1.SubjectUser, "", "admin"))
		eventuallyGranted(ctx, readonly)
		registry.prepare(ctx, target+"/app")
		registry.push(ctx, target+"/app", "latest")
		err := admin.Create(ctx, newReadonly(about(registryv1alpha1.SubjectRegistryUser, "", "admin")))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(ContainSubstring("the account admin, the operator and the registry itself cannot be readonly superusers")))
	})

	It("by nobody: an owner gives its organization up with the annotation, and then it goes to who claims it", func(ctx context.Context) {
		target := owned(ctx).Name + "-mirror"
		first, second := newNamespace(ctx, claims(target)), newNamespace(ctx, claims(target))
		policy := create(ctx, newPolicy(first.Name, organization(target)))
		eventually(ctx, policy, beReady())
		mirror := newMirror(first.Name, into(target), fromURL(registry.url), byCron("0 0 1 1 *"))
		Expect(admin.Create(ctx, mirror)).To(Succeed())
		later := create(ctx, newPolicy(second.Name, organization(target)))
		eventually(ctx, later, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))

		annotate(ctx, first, "")
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(message(policy)).To(HaveSuffix("what was stored before stays in force, and can only be deleted"))
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Get(ctx, key(mirror), mirror)).To(Succeed())
			g.Expect(meta.FindStatusCondition(mirror.Status.Conditions, registryv1alpha1.ConditionStalled)).
				To(HaveValue(HaveField("Reason", registryv1alpha1.ReasonOrganizationNotOwned)))
		}).WithContext(ctx).Should(Succeed())
		eventually(ctx, later, beReady())
		annotate(ctx, first, target)
		eventually(ctx, policy, And(beStalled(registryv1alpha1.ReasonOrganizationNotOwned), WithTransform(message, ContainSubstring("belongs to namespace "+second.Name))))

		annotate(ctx, second, "")
		eventually(ctx, policy, beReady())
		eventually(ctx, later, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
	})
})
