package integration

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

type readonlyChange = func(*registryv1alpha1.ReadonlySuperuser)

// newReadonly makes a readonly superuser for a user of the registry that nobody else has.
func newReadonly(change ...readonlyChange) *registryv1alpha1.ReadonlySuperuser {
	name := "auditor-" + utilrand.String(8)
	readonly := &registryv1alpha1.ReadonlySuperuser{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       registryv1alpha1.ReadonlySuperuserSpec{Subject: registryv1alpha1.ReadonlySubject{Kind: registryv1alpha1.SubjectRegistryUser, Name: name}},
	}
	for _, f := range change {
		f(readonly)
	}
	return readonly
}

func about(kind registryv1alpha1.SubjectKind, namespace, name string) readonlyChange {
	return func(r *registryv1alpha1.ReadonlySuperuser) {
		r.Spec.Subject = registryv1alpha1.ReadonlySubject{Kind: kind, Namespace: namespace, Name: name}
	}
}

func metadataOnly(r *registryv1alpha1.ReadonlySuperuser) {
	r.Spec.Access = registryv1alpha1.ReadonlyMetadataOnly
}

func until(end time.Time) readonlyChange {
	return func(r *registryv1alpha1.ReadonlySuperuser) { r.Spec.ExpiresAt = ptr.To(metav1.NewTime(end)) }
}

// credentialed asks for credentials in a Secret.
func credentialed(secret string, every ...time.Duration) readonlyChange {
	return func(r *registryv1alpha1.ReadonlySuperuser) {
		r.Spec.Credentials = &registryv1alpha1.ReadonlyCredentials{SecretName: secret}
		for _, d := range every {
			r.Spec.Credentials.RotateEvery = &metav1.Duration{Duration: d}
		}
	}
}

var _ = Describe("The CRD of ReadonlySuperuser", func() {
	const (
		registryUser   = registryv1alpha1.SubjectRegistryUser
		serviceAccount = registryv1alpha1.SubjectServiceAccount
		kubernetesUser = registryv1alpha1.SubjectUser
		group          = registryv1alpha1.SubjectGroup
	)

	It("sets the defaults", func(ctx context.Context) {
		readonly := newReadonly(credentialed("auditor"))
		Expect(admin.Create(ctx, readonly, client.DryRunAll)).To(Succeed())
		Expect(readonly.Spec.Access).To(Equal(registryv1alpha1.ReadonlyFull))
		Expect(readonly.Spec.Credentials.RotateEvery).To(HaveValue(Equal(metav1.Duration{Duration: registryv1alpha1.DefaultRotation})))
		Expect(readonly.Status.ObservedGeneration).To(BeEquivalentTo(-1))
	})

	DescribeTable("admits", func(ctx context.Context, change ...readonlyChange) {
		Expect(admin.Create(ctx, newReadonly(change...), client.DryRunAll)).To(Succeed())
	},
		Entry("a user of the registry"),
		Entry("a ServiceAccount", about(serviceAccount, "monitoring", "prometheus.k8s")),
		Entry("a user of the cluster", about(kubernetesUser, "", "Ada Lovelace <ada@example.com>")),
		Entry("a user of the cluster who is called admin", about(kubernetesUser, "", "admin")),
		Entry("a user of one character", about(kubernetesUser, "", "a")),
		Entry("a group", about(group, "", "oidc:auditors")),
		Entry("the longest name", about(group, "", strings.Repeat("a", 253))),
		Entry("no images", metadataOnly),
		Entry("an end", until(time.Now().Add(time.Hour))),
		Entry("an end that has passed, so that what stands in Git can be applied again", until(time.Now().Add(-time.Hour))),
		Entry("the shortest rotation", credentialed("auditor", 10*time.Minute)),
		Entry("the longest rotation", credentialed("auditor", 8784*time.Hour)),
	)

	DescribeTable("refuses", func(ctx context.Context, change readonlyChange, field, message string) {
		err := admin.Create(ctx, newReadonly(change), client.DryRunAll)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring(field+": "), ContainSubstring(message))))
	},
		Entry("an unknown kind", about("Robot", "", "a"), "spec.subject.kind", "Unsupported value"),
		Entry("no name", about(kubernetesUser, "", ""), "spec.subject.name", "at least 1 chars"),
		Entry("a name that is too long", about(kubernetesUser, "", strings.Repeat("a", 254)), "spec.subject.name", "253"),
		Entry("a robot", about(registryUser, "", "team-a+ci"), "spec.subject.name", "is a robot's"),
		Entry("the account admin", about(registryUser, "", "admin"), "spec.subject.name", "is reserved"),
		Entry("the operator's name in the registry", about(registryUser, "", "operator"), "spec.subject.name", "is reserved"),
		Entry("a user's name that the registry does not have", about(registryUser, "", "Ada"), "spec.subject.name", "must be a user's name"),
		Entry("a user of the registry in a namespace", about(registryUser, "a", "ada"), "spec.subject.namespace", "for that only"),
		Entry("a ServiceAccount without a namespace", about(serviceAccount, "", "prometheus"), "spec.subject.namespace", "is required for a ServiceAccount"),
		Entry("a ServiceAccount's name with its namespace", about(serviceAccount, "a", "a/b"), "spec.subject.name", "without the namespace"),
		Entry("a namespace that none can be", about(serviceAccount, "A", "b"), "spec.subject.namespace", "must be the name of a namespace"),
		Entry("a user of Kubernetes itself", about(kubernetesUser, "", "system:kube-scheduler"), "spec.subject.name", "begin with system:"),
		Entry("the operator by its user", about(kubernetesUser, "", operatorUser), "spec.subject.name", "begin with system:"),
		Entry("every authenticated user", about(group, "", "system:authenticated"), "spec.subject.name", "begin with system:"),
		Entry("a user with a line break", about(kubernetesUser, "", "a\nb"), "spec.subject.name", "printable characters"),
		Entry("an unknown access", func(r *registryv1alpha1.ReadonlySuperuser) { r.Spec.Access = "Write" }, "spec.access", "Unsupported value"),
		Entry("credentials for somebody who has some", func(r *registryv1alpha1.ReadonlySuperuser) {
			about(kubernetesUser, "", "ada")(r)
			credentialed("ada")(r)
		}, "spec.credentials", "RegistryUser only"),
		Entry("credentials in no Secret", credentialed(""), "spec.credentials.secretName", "at least 1 chars"),
		Entry("credentials in another namespace", credentialed("team-a/auditor"), "spec.credentials.secretName", "must be a Secret's name"),
		Entry("a rotation that is too quick", credentialed("a", 10*time.Minute-time.Second), "spec.credentials.rotateEvery", "must be a duration from 10m"),
		Entry("a rotation that is too slow", credentialed("a", 8785*time.Hour), "spec.credentials.rotateEvery", "must be a duration from 10m to 8784h"),
	)

	It("has no namespace", func(ctx context.Context) {
		mapping, err := admin.RESTMapper().RESTMapping(registryv1alpha1.GroupVersion.WithKind("ReadonlySuperuser").GroupKind())
		Expect(err).NotTo(HaveOccurred())
		Expect(mapping.Scope.Name()).To(BeEquivalentTo("root"))
	})

	It("fixes who it is about, and lets all else change", func(ctx context.Context) {
		readonly := newReadonly()
		Expect(admin.Create(ctx, readonly)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, readonly)).To(Succeed()) })
		change := func(f readonlyChange) error {
			changed := readonly.DeepCopy()
			f(changed)
			return admin.Patch(ctx, changed, client.MergeFrom(readonly), client.DryRunAll)
		}
		err := change(about(kubernetesUser, "", "somebody"))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring("spec.subject: "), ContainSubstring("create another ReadonlySuperuser"))))
		Expect(change(metadataOnly)).To(Succeed())
		Expect(change(until(time.Now()))).To(Succeed())
		Expect(change(credentialed("auditor"))).To(Succeed())
	})

	It("tells a status that was never written from one that was", func(ctx context.Context) {
		object := &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "auditor-" + utilrand.String(8)},
			"spec":     map[string]any{"subject": map[string]any{"kind": "Group", "name": "auditors"}},
		}}
		object.SetGroupVersionKind(registryv1alpha1.GroupVersion.WithKind("ReadonlySuperuser"))
		Expect(admin.Create(ctx, object, client.DryRunAll)).To(Succeed())
		generation, _, err := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
		Expect(err).NotTo(HaveOccurred())
		Expect(generation).To(BeEquivalentTo(-1))
	})
})
