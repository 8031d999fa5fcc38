package integration

import (
	"context"
	"net/http"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

// annotate changes which organizations a namespace claims.
func annotate(ctx context.Context, namespace *corev1.Namespace, organizations string) {
	GinkgoHelper()
	before := namespace.DeepCopy()
	claims(organizations)(namespace)
	Expect(admin.Patch(ctx, namespace, client.MergeFrom(before))).To(Succeed())
}

// removeNamespace does what the namespace controller does, which an API server alone does not have. Nothing may be left
// in the namespace.
func removeNamespace(ctx context.Context, namespace *corev1.Namespace) {
	GinkgoHelper()
	Expect(admin.Delete(ctx, namespace)).To(Succeed())
	Expect(admin.Get(ctx, key(namespace), namespace)).To(Succeed())
	namespace.Spec.Finalizers = nil
	Expect(admin.SubResource("finalize").Update(ctx, namespace)).To(Succeed())
	Eventually(func(ctx context.Context) error {
		return client.IgnoreNotFound(admin.Get(ctx, key(namespace), namespace))
	}).WithContext(ctx).Should(Succeed())
}

// removePolicy deletes a policy and waits until the operator let it go.
func removePolicy(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) {
	GinkgoHelper()
	Expect(admin.Delete(ctx, policy)).To(Succeed())
	eventuallyGone(ctx, policy)
}

func eventuallyGone(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		err := admin.Get(ctx, key(policy), policy)
		g.Expect(err).To(HaveOccurred())
		g.Expect(client.IgnoreNotFound(err)).To(Succeed())
	}).WithContext(ctx).Should(Succeed())
}

var _ = Describe("The ownership of organizations", Ordered, ContinueOnFailure, func() {
	var registry *testRegistry

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		startOperator(ctx, registry)
	})

	// owned makes a namespace that owns the organization of its name by a policy.
	owned := func(ctx context.Context) (*corev1.Namespace, *registryv1alpha1.ImmutabilityPolicy) {
		GinkgoHelper()
		namespace := newNamespace(ctx)
		policy := create(ctx, newPolicy(namespace.Name))
		eventually(ctx, policy, beReady())
		return namespace, policy
	}

	It("comes with the name alone where the organization is new", func(ctx context.Context) {
		namespace, _ := owned(ctx)
		Expect(registry.policies(ctx, namespace.Name)).To(HaveLen(1))
	})

	It("does not come with the name where somebody else made the organization, but with the annotation", func(ctx context.Context) {
		namespace := newNamespace(ctx)
		Eventually(func(ctx context.Context) (answer, error) {
			return registry.call(ctx, http.MethodPost, "/api/v1/organization/", "application/json", []byte(`{"name":"`+namespace.Name+`"}`))
		}).WithContext(ctx).Should(HaveField("Status", http.StatusCreated))
		policy := create(ctx, newPolicy(namespace.Name))
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(message(policy)).To(ContainSubstring("annotate the namespace with registry.tidelock.dev/organizations: " + namespace.Name))
		annotate(ctx, namespace, namespace.Name)
		eventually(ctx, policy, beReady())
	})

	It("is refused for a foreign organization", func(ctx context.Context) {
		owner, _ := owned(ctx)
		other := newNamespace(ctx)
		policy := create(ctx, newPolicy(other.Name, organization(owner.Name)))
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(message(policy)).To(ContainSubstring("organization " + owner.Name + " belongs to namespace " + owner.Name))
		Expect(registry.policies(ctx, owner.Name)).To(HaveLen(1))
	})

	It("is refused to a second claimant while the first exists, and goes to it once that is gone", func(ctx context.Context) {
		owner, first := owned(ctx)
		second := create(ctx, newPolicy(newNamespace(ctx, claims(owner.Name)).Name, organization(owner.Name)))
		eventually(ctx, second, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))

		removePolicy(ctx, first)
		removeNamespace(ctx, owner)
		eventually(ctx, second, beReady())
	})

	It("does not pass to a namespace that was made anew under the owner's name", func(ctx context.Context) {
		owner, first := owned(ctx)
		removePolicy(ctx, first)
		removeNamespace(ctx, owner)
		again := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: owner.Name}}
		Expect(admin.Create(ctx, again)).To(Succeed())
		policy := create(ctx, newPolicy(again.Name))
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		annotate(ctx, again, again.Name)
		eventually(ctx, policy, beReady())
	})

	It("of objects whose namespace is gone for good is refused, and nobody waits for them after a start", func(ctx context.Context) {
		namespace, policy := owned(ctx)
		mirror := newMirror(namespace.Name, into(namespace.Name), fromURL(registry.url), byCron("0 0 1 1 *"))
		Expect(admin.Create(ctx, mirror)).To(Succeed())
		removeNamespace(ctx, namespace)
		Expect(admin.Get(ctx, key(policy), policy)).To(Succeed(), "a policy that nobody can have made")
		Expect(admin.Delete(ctx, mirror)).To(Succeed(), "its finalizer cannot be removed any more")

		another := startRegistry()
		startOperator(ctx, another)
		team := newTeam(ctx)
		another.prepare(ctx, team+"/app")
		another.push(ctx, team+"/app", "v1")
	})

	It("lets a namespace with * make policies anywhere without owning anything, and stops when that is taken away", func(ctx context.Context) {
		owner, _ := owned(ctx)
		registry.prepare(ctx, owner.Name+"/app")
		registry.push(ctx, owner.Name+"/app", "stable")
		auditors := newNamespace(ctx, claims("*"))
		policy := create(ctx, newPolicy(auditors.Name, organization(owner.Name), pattern("stable")))
		eventually(ctx, policy, beReady())
		Expect(registry.immutable(ctx, owner.Name+"/app", "stable")).To(BeTrue())

		annotate(ctx, auditors, "")
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(message(policy)).To(HaveSuffix("what was stored before stays in force, and can only be deleted"))
		Expect(registry.tryPush(ctx, owner.Name+"/app", "stable", "other").Status).To(Equal(http.StatusUnprocessableEntity))
		removePolicy(ctx, policy)
	})
})
