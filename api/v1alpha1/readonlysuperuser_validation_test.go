package v1alpha1

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var _ = Describe("ValidateReadonlySuperuser", func() {
	const operator = "system:serviceaccount:tidelock-system:tidelock"
	readonly := func(subject ReadonlySubject, change ...func(*ReadonlySuperuser)) *ReadonlySuperuser {
		r := &ReadonlySuperuser{ObjectMeta: metav1.ObjectMeta{Name: "auditor", UID: "uid"}, Spec: ReadonlySuperuserSpec{Subject: subject}}
		for _, f := range change {
			f(r)
		}
		return r
	}
	registryUser := func(name string) ReadonlySubject { return ReadonlySubject{Kind: SubjectRegistryUser, Name: name} }
	account := func(namespace, name string) ReadonlySubject {
		return ReadonlySubject{Kind: SubjectServiceAccount, Namespace: namespace, Name: name}
	}
	credentials := func(name string, every time.Duration) func(*ReadonlySuperuser) {
		return func(r *ReadonlySuperuser) {
			r.Spec.Credentials = &ReadonlyCredentials{SecretName: name, RotateEvery: &metav1.Duration{Duration: every}}
		}
	}

	DescribeTable("takes", func(r *ReadonlySuperuser) {
		Expect(ValidateReadonlySuperuser(r, operator)).To(BeEmpty())
	},
		Entry("a user of the registry", readonly(registryUser("auditor"))),
		Entry("a ServiceAccount", readonly(account("monitoring", "prometheus"))),
		Entry("another ServiceAccount of the operator's name", readonly(account("monitoring", "tidelock"))),
		Entry("a user of the cluster", readonly(ReadonlySubject{Kind: SubjectUser, Name: "Ada Lovelace <ada@example.com>"})),
		Entry("a user of the cluster that is called admin, which is not the registry's", readonly(ReadonlySubject{Kind: SubjectUser, Name: "admin"})),
		Entry("a group", readonly(ReadonlySubject{Kind: SubjectGroup, Name: "oidc:auditors"})),
		Entry("everything", readonly(registryUser("auditor"), credentials("auditor", time.Hour), func(r *ReadonlySuperuser) {
			r.Spec.Access, r.Spec.ExpiresAt = ReadonlyMetadataOnly, ptr.To(metav1.Now())
		})),
	)

	DescribeTable("refuses", func(r *ReadonlySuperuser, field, detail string) {
		Expect(ValidateReadonlySuperuser(r, operator)).To(ConsistOf(And(HaveField("Field", field), HaveField("ErrorBody()", ContainSubstring(detail)))))
	},
		Entry("a robot", readonly(registryUser("team-a+ci")), "spec.subject.name", "robot"),
		Entry("the account admin", readonly(registryUser("admin")), "spec.subject.name", "the registry needs it"),
		Entry("the operator's name in the registry", readonly(registryUser("operator")), "spec.subject.name", "the registry needs it"),
		Entry("a user's name that none can have", readonly(registryUser("Ada")), "spec.subject.name", "lower-case"),
		Entry("the operator", readonly(account("tidelock-system", "tidelock")), "spec.subject.name", "is the operator"),
		Entry("a ServiceAccount without a namespace", readonly(account("", "prometheus")), "spec.subject.namespace", "is required"),
		Entry("a ServiceAccount's name that none can have", readonly(account("a", "B")), "spec.subject.name", "ServiceAccount's name"),
		Entry("a namespace's name that none can have", readonly(account("A", "b")), "spec.subject.namespace", "lower case"),
		Entry("a user with a namespace", readonly(ReadonlySubject{Kind: SubjectUser, Namespace: "a", Name: "b"}), "spec.subject.namespace", "that only"),
		Entry("a user of Kubernetes itself", readonly(ReadonlySubject{Kind: SubjectUser, Name: operator}), "spec.subject.name", "of Kubernetes itself"),
		Entry("a group of Kubernetes itself", readonly(ReadonlySubject{Kind: SubjectGroup, Name: "system:masters"}), "spec.subject.name", "of Kubernetes itself"),
		Entry("a user without a name", readonly(ReadonlySubject{Kind: SubjectUser}), "spec.subject.name", "has a name"),
		Entry("a user with a line break", readonly(ReadonlySubject{Kind: SubjectUser, Name: "ada\n"}), "spec.subject.name", "printable"),
		Entry("an unknown kind", readonly(ReadonlySubject{Kind: "Robot", Name: "a"}), "spec.subject.name", "subject kind"),
		Entry("an unknown access", readonly(registryUser("a"), func(r *ReadonlySuperuser) { r.Spec.Access = "Write" }), "spec.access", "supported values"),
		Entry("credentials for somebody else's user", readonly(account("a", "b"), credentials("a", time.Hour)), "spec.credentials", "RegistryUser only"),
		Entry("a Secret's name that none can have", readonly(registryUser("a"), credentials("A", time.Hour)), "spec.credentials.secretName", "lower case"),
		Entry("a rotation that is too quick", readonly(registryUser("a"), credentials("a", time.Minute)), "spec.credentials.rotateEvery", "from 10m"),
		Entry("a rotation that is too slow", readonly(registryUser("a"), credentials("a", 8785*time.Hour)), "spec.credentials.rotateEvery", "to 8784h"),
		Entry("a rotation in fractions of a second", readonly(registryUser("a"), credentials("a", time.Hour+1)), "spec.credentials.rotateEvery", "whole seconds"),
	)

	It("refuses another subject, and lets all else change", func() {
		old := readonly(registryUser("auditor"))
		Expect(ValidateReadonlySuperuserUpdate(old, readonly(registryUser("auditor"), credentials("a", time.Hour)), operator)).To(BeEmpty())
		Expect(ValidateReadonlySuperuserUpdate(old, readonly(registryUser("other")), operator)).To(ConsistOf(HaveField("Field", "spec.subject")))
	})

	It("has defaults also where the schema did not set them", func() {
		r := readonly(registryUser("auditor"))
		Expect(r.Access()).To(Equal(ReadonlyFull))
		Expect((&ReadonlyCredentials{}).Rotation()).To(Equal(720 * time.Hour))
		Expect(r.Expired(time.Now())).To(BeFalse())
	})

	It("ends at its time, not after it", func() {
		end := time.Now()
		r := readonly(registryUser("auditor"), func(r *ReadonlySuperuser) { r.Spec.ExpiresAt = ptr.To(metav1.NewTime(end)) })
		Expect(r.Expired(end.Add(-time.Nanosecond))).To(BeFalse())
		Expect(r.Expired(end)).To(BeTrue())
	})

	It("knows the Secret that was made for it by both marks, and no other", func() {
		r := readonly(registryUser("auditor"))
		secret := func(change ...func(*corev1.Secret)) *corev1.Secret {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
				Annotations:     map[string]string{ReadonlySuperuserAnnotation: "auditor"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: GroupVersion.String(), Kind: "ReadonlySuperuser", Name: "auditor", UID: "uid", Controller: ptr.To(true)}},
			}}
			for _, f := range change {
				f(s)
			}
			return s
		}
		Expect(r.MadeSecret(secret())).To(BeTrue())
		Expect(r.MadeSecret(secret(func(s *corev1.Secret) { s.Annotations = nil }))).To(BeFalse())
		Expect(r.MadeSecret(secret(func(s *corev1.Secret) { s.Annotations[ReadonlySuperuserAnnotation] = "other" }))).To(BeFalse())
		Expect(r.MadeSecret(secret(func(s *corev1.Secret) { s.OwnerReferences = nil }))).To(BeFalse())
		Expect(r.MadeSecret(secret(func(s *corev1.Secret) { s.OwnerReferences[0].UID = "of its predecessor" }))).To(BeFalse())
		Expect(r.MadeSecret(secret(func(s *corev1.Secret) { s.OwnerReferences[0].Controller = nil }))).To(BeFalse())
		Expect(readonly(registryUser("auditor"), func(r *ReadonlySuperuser) { r.UID = "" }).MadeSecret(secret(func(s *corev1.Secret) { s.OwnerReferences[0].UID = "" }))).To(BeFalse())
	})
})
