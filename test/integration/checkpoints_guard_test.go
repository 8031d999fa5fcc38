package integration

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tidelock/tidelock/controllers"
)

// checkpointObject looks like a published checkpoint.
func checkpointObject(name, kept string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: name, Labels: map[string]string{controllers.CheckpointLabel: kept}},
		Immutable:  ptr.To(true), Data: map[string]string{"checkpoint": "forged"},
	}
}

var _ = Describe("The guard of the published checkpoints", Serial, Ordered, func() {
	// operator is the operator's ServiceAccount; editor may do anything with ConfigMaps.
	var operator, editor client.Client
	var latest, daily *corev1.ConfigMap

	BeforeAll(func(ctx context.Context) {
		guarded(ctx)
		var err error
		operator, err = client.New(operatorConfig(), client.Options{Scheme: scheme})
		Expect(err).NotTo(HaveOccurred())
		editor = user(ctx, "checkpoints-editor", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}})
		latest, daily = checkpointObject("tidelock-checkpoint-a", controllers.CheckpointLatest), checkpointObject("tidelock-checkpoint-b", controllers.CheckpointDaily)
		Expect(operator.Create(ctx, latest)).To(Succeed())
		Expect(operator.Create(ctx, daily)).To(Succeed())
		DeferCleanup(removeCheckpoints)
	})

	It("lets only the operator create them, by label or by name, and only immutable ones", func(ctx context.Context) {
		for _, as := range []client.Client{admin, editor} {
			Expect(as.Create(ctx, checkpointObject("anything", controllers.CheckpointLatest))).To(MatchError(ContainSubstring("only the operator publishes checkpoints")))
			unlabelled := checkpointObject("tidelock-checkpoint-c", "")
			unlabelled.Labels = nil
			Expect(as.Create(ctx, unlabelled)).To(MatchError(ContainSubstring("only the operator publishes checkpoints")))
		}
		changeable := checkpointObject("tidelock-checkpoint-d", controllers.CheckpointLatest)
		changeable.Immutable = nil
		Expect(operator.Create(ctx, changeable)).To(MatchError(ContainSubstring("is immutable")))
	})

	It("lets nobody change them, labels neither", func(ctx context.Context) {
		// The operator has no right to update any.
		for _, as := range []client.Client{admin, editor} {
			for _, object := range []*corev1.ConfigMap{latest, daily} {
				for what, patch := range map[string]string{
					"label":      `{"metadata":{"labels":{"registry.tidelock.dev/audit-checkpoint":"latest","x":"y"}}}`,
					"no label":   `{"metadata":{"labels":{"registry.tidelock.dev/audit-checkpoint":null}}}`,
					"annotation": `{"metadata":{"annotations":{"x":"y"}}}`,
					"owner":      `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x"}]}}`,
					"finalizer":  `{"metadata":{"finalizers":["example.org/x"]}}`,
				} {
					Expect(as.Patch(ctx, object.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch)))).To(MatchError(ContainSubstring("never changes")), what)
				}
				Expect(as.Patch(ctx, object.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"data":{"checkpoint":"other"}}`)))).NotTo(Succeed())
			}
		}
		Expect(admin.Update(ctx, latest.DeepCopy())).To(Succeed(), "an update of nothing, as migrations of storage make it")
	})

	It("lets only the operator delete them, and not those that are kept", func(ctx context.Context) {
		for _, as := range []client.Client{admin, editor} {
			Expect(as.Delete(ctx, latest)).To(MatchError(ContainSubstring("only the operator removes checkpoints")))
			Expect(as.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(operatorNamespace))).NotTo(Succeed())
		}
		Expect(operator.Delete(ctx, daily)).To(MatchError(ContainSubstring("is removed by nobody")))
		Expect(operator.Delete(ctx, latest)).To(Succeed())
	})

	It("concerns no other ConfigMap, and no other namespace", func(ctx context.Context) {
		other := checkpointObject("other", "")
		other.Labels = nil
		Expect(editor.Create(ctx, other)).To(Succeed())
		Expect(editor.Delete(ctx, other)).To(Succeed())
		elsewhere := checkpointObject("tidelock-checkpoint-a", controllers.CheckpointDaily)
		elsewhere.Namespace = newNamespace(ctx).Name
		Expect(editor.Create(ctx, elsewhere)).To(Succeed())
		Expect(editor.Delete(ctx, elsewhere)).To(Succeed())
	})

	It("lets a namespace that is deleted take them with it", func(ctx context.Context) {
		as := func(name string) client.Client {
			c, err := client.New(impersonated(name, "system:masters"), client.Options{Scheme: scheme})
			Expect(err).NotTo(HaveOccurred())
			return c
		}
		controller := as("system:serviceaccount:kube-system:namespace-controller")
		Expect(controller.Delete(ctx, daily)).To(MatchError(ContainSubstring("only the operator removes checkpoints")), "this one stays")

		By("guarding another namespace, which goes")
		namespace := newNamespace(ctx)
		policy, binding := &admissionv1.ValidatingAdmissionPolicy{}, &admissionv1.ValidatingAdmissionPolicyBinding{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: "tidelock-checkpoints"}, policy)).To(Succeed())
		policy.ObjectMeta = metav1.ObjectMeta{Name: "checkpoints-of-" + namespace.Name}
		policy.Spec.MatchConstraints.NamespaceSelector.MatchLabels = map[string]string{corev1.LabelMetadataName: namespace.Name}
		binding.Name, binding.Spec = policy.Name, admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}
		Expect(admin.Create(ctx, policy)).To(Succeed())
		Expect(admin.Create(ctx, binding)).To(Succeed())
		object := checkpointObject("tidelock-checkpoint-a", controllers.CheckpointDaily)
		object.Namespace = namespace.Name
		Expect(as(operatorUser).Create(ctx, object)).To(Succeed())
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(controller.Delete(ctx, object, client.DryRunAll)).NotTo(Succeed())
		}).WithContext(ctx).Should(Succeed())
		Expect(admin.Delete(ctx, namespace)).To(Succeed())
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Delete(ctx, object)).To(MatchError(ContainSubstring("only the operator removes checkpoints")))
			g.Expect(controller.Delete(ctx, object)).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
	})
})
