package webhooks

import (
	"context"
	"encoding/json"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

type readonlyChange = func(*registryv1alpha1.ReadonlySuperuser)

var _ = Describe("The webhook of ReadonlySuperuser", func() {
	var (
		validator *readonlySuperuserValidator
		registry  *deletions
		now       = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
		stamp     = `{"generation":1,"username":"bob"}`
	)
	readonly := func(change ...readonlyChange) *registryv1alpha1.ReadonlySuperuser {
		r := &registryv1alpha1.ReadonlySuperuser{
			ObjectMeta: metav1.ObjectMeta{
				Name: "auditor", UID: "u", Generation: 1, Annotations: map[string]string{registryv1alpha1.AppliedByAnnotation: stamp},
			},
			Spec: registryv1alpha1.ReadonlySuperuserSpec{Subject: registryv1alpha1.ReadonlySubject{Kind: registryv1alpha1.SubjectRegistryUser, Name: "auditor"}},
		}
		for _, f := range change {
			f(r)
		}
		return r
	}
	of := func(kind registryv1alpha1.SubjectKind, namespace, name string) readonlyChange {
		return func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Spec.Subject = registryv1alpha1.ReadonlySubject{Kind: kind, Namespace: namespace, Name: name}
		}
	}
	credentials := func(secret string) readonlyChange {
		return func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Spec.Credentials = &registryv1alpha1.ReadonlyCredentials{SecretName: secret}
		}
	}
	ends := func(at time.Time) readonlyChange {
		return func(r *registryv1alpha1.ReadonlySuperuser) { r.Spec.ExpiresAt = ptr.To(metav1.NewTime(at)) }
	}
	request := func(operation admissionv1.Operation, old, object *registryv1alpha1.ReadonlySuperuser, change ...func(*admission.Request)) context.Context {
		GinkgoHelper()
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: operation, UserInfo: authenticationv1.UserInfo{Username: "bob"}}}
		for raw, o := range map[*runtime.RawExtension]*registryv1alpha1.ReadonlySuperuser{&r.OldObject: old, &r.Object: object} {
			if o != nil {
				encoded, err := json.Marshal(o)
				Expect(err).NotTo(HaveOccurred())
				raw.Raw = encoded
			}
		}
		for _, f := range change {
			f(&r)
		}
		return admission.NewContextWithRequest(context.Background(), r)
	}
	create := func(r *registryv1alpha1.ReadonlySuperuser) (admission.Warnings, error) {
		return validator.ValidateCreate(request(admissionv1.Create, nil, r), r)
	}
	update := func(old, r *registryv1alpha1.ReadonlySuperuser) (admission.Warnings, error) {
		return validator.ValidateUpdate(request(admissionv1.Update, old, r), old, r)
	}

	BeforeEach(func() {
		scheme := runtime.NewScheme()
		Expect(registryv1alpha1.AddToScheme(scheme)).To(Succeed())
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		owner := metav1.OwnerReference{APIVersion: registryv1alpha1.GroupVersion.String(), Kind: "ReadonlySuperuser", Name: "auditor", UID: "u", Controller: ptr.To(true)}
		cluster := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
			readonly(func(r *registryv1alpha1.ReadonlySuperuser) { r.Name = "first" }, of(registryv1alpha1.SubjectServiceAccount, "monitoring", "prometheus")),
			readonly(func(r *registryv1alpha1.ReadonlySuperuser) {
				r.Name, r.Finalizers, r.DeletionTimestamp = "going", []string{registryv1alpha1.Finalizer}, ptr.To(metav1.Now())
			}, of(registryv1alpha1.SubjectGroup, "", "auditors")),
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "tidelock-system", Name: "somebody-elses"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{
				Namespace: "tidelock-system", Name: "its-own", OwnerReferences: []metav1.OwnerReference{owner},
				Annotations: map[string]string{registryv1alpha1.ReadonlySuperuserAnnotation: "auditor"},
			}},
		).WithIndex(&registryv1alpha1.ReadonlySuperuser{}, subjectIndex, func(o client.Object) []string {
			return []string{o.(*registryv1alpha1.ReadonlySuperuser).Spec.Subject.String()}
		}).Build()
		registry = &deletions{}
		validator = &readonlySuperuserValidator{
			reader: cluster, uncached: cluster, registry: registry, namespace: "tidelock-system", user: "system:serviceaccount:tidelock-system:tidelock",
			now: func() time.Time { return now },
		}
	})

	DescribeTable("admits, and warns of", func(change readonlyChange, warnings ...string) {
		Expect(create(readonly(change))).To(ConsistOf(warnings))
	},
		Entry("nothing", func(*registryv1alpha1.ReadonlySuperuser) {}),
		Entry("no end to come", ends(now.Add(time.Second))),
		Entry("an end that has passed", ends(now), "expiresAt 2026-11-28T12:00:00Z has passed: RegistryUser auditor has no access"),
		Entry("no Secret that is to be made", credentials("new")),
		Entry("no Secret that was made for it", credentials("its-own")),
		Entry("a Secret that is somebody else's", credentials("somebody-elses"),
			"Secret tidelock-system/somebody-elses (credentials.secretName) is there and is not this object's: it is not touched, and no credentials are made until it is gone"),
		Entry("nothing about a subject whose object is being deleted", of(registryv1alpha1.SubjectGroup, "", "auditors")),
		Entry("nothing about a user of the same name elsewhere", of(registryv1alpha1.SubjectUser, "", "auditors")),
	)

	DescribeTable("refuses", func(change readonlyChange, field, message string) {
		_, err := create(readonly(change))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring(field+": "), ContainSubstring(message))))
	},
		Entry("a second object for a subject", of(registryv1alpha1.SubjectServiceAccount, "monitoring", "prometheus"),
			"spec.subject", "ServiceAccount monitoring/prometheus has the ReadonlySuperuser first already: change that, or delete it first"),
		Entry("a robot", of(registryv1alpha1.SubjectRegistryUser, "", "team-a+ci"), "spec.subject.name", "robot"),
		Entry("the account admin", of(registryv1alpha1.SubjectRegistryUser, "", "admin"), "spec.subject.name", "the registry needs it"),
		Entry("the operator", of(registryv1alpha1.SubjectServiceAccount, "tidelock-system", "tidelock"), "spec.subject.name", "is the operator"),
		Entry("a group of Kubernetes itself", of(registryv1alpha1.SubjectGroup, "", "system:authenticated"), "spec.subject.name", "of Kubernetes itself"),
		Entry("a stamp that another webhook changed", func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Annotations[registryv1alpha1.AppliedByAnnotation] = `{"generation":1,"username":"mallory"}`
		}, "metadata.annotations[registry.tidelock.dev/applied-by]", "another mutating webhook changed it"),
	)

	It("stamps who applied it", func() {
		r := readonly()
		r.Annotations = nil
		Expect(stamper[*registryv1alpha1.ReadonlySuperuser]{}.Default(request(admissionv1.Create, nil, r), r)).To(Succeed())
		Expect(r.Annotations).To(Equal(map[string]string{registryv1alpha1.AppliedByAnnotation: stamp}))
	})

	It("fixes who it is about, and warns of the rest of a change", func() {
		_, err := update(readonly(), readonly(of(registryv1alpha1.SubjectRegistryUser, "", "other")))
		Expect(err).To(MatchError(ContainSubstring("spec.subject")))
		Expect(update(readonly(), readonly(ends(now.Add(-time.Hour)), func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Annotations[registryv1alpha1.AppliedByAnnotation] = `{"generation":2,"username":"bob"}`
		}))).To(ConsistOf(ContainSubstring("has passed")))
	})

	It("always admits what does not touch the spec, also where that breaks a rule by now, and what is being deleted", func() {
		broken := of(registryv1alpha1.SubjectRegistryUser, "", "admin")
		Expect(update(readonly(broken), readonly(broken, func(r *registryv1alpha1.ReadonlySuperuser) { r.Labels = map[string]string{"a": "b"} }))).To(BeEmpty())
		Expect(update(readonly(), readonly(broken, func(r *registryv1alpha1.ReadonlySuperuser) { r.DeletionTimestamp = ptr.To(metav1.Now()) }))).To(BeEmpty())
	})

	It("tells the registry who deletes it, not on a dry run", func() {
		r := readonly()
		Expect(validator.ValidateDelete(request(admissionv1.Delete, r, nil, func(r *admission.Request) { r.DryRun = ptr.To(true) }), r)).To(BeEmpty())
		Expect(registry.noted).To(BeEmpty())
		Expect(validator.ValidateDelete(request(admissionv1.Delete, r, nil), r)).To(BeEmpty())
		Expect(registry.noted).To(ConsistOf("readonly superuser auditor by bob"))
	})
})
