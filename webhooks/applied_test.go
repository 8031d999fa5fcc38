package webhooks

import (
	"context"
	"encoding/json"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

var _ = Describe("The stamp of who applied a policy", func() {
	const (
		byAlice = `{"generation":1,"username":"alice","uid":"alice-uid"}`
		byBob   = `{"generation":4,"username":"bob","uid":"bob-uid"}`
		forged  = `{"generation":4,"username":"mallory"}`
	)
	// object is a policy as the API server sends it; an empty stamp is none.
	object := func(stamp, spec string) string {
		annotations := map[string]string{"another": "annotation"}
		if stamp != "" {
			annotations[registryv1alpha1.AppliedByAnnotation] = stamp
		}
		encoded, err := json.Marshal(annotations)
		Expect(err).NotTo(HaveOccurred())
		return `{"metadata":{"name":"releases","namespace":"team-a","generation":3,"annotations":` + string(encoded) + `},"spec":` + spec + `}`
	}
	const spec, changed = `{"tagPattern":"v.*"}`, `{"tagPattern":"r.*"}`

	// request is bob's, an update if there is an object from before.
	request := func(before, after string) context.Context {
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
			Operation: admissionv1.Create, UserInfo: authenticationv1.UserInfo{Username: "bob", UID: "bob-uid"},
			Object: runtime.RawExtension{Raw: []byte(after)},
		}}
		if before != "" {
			r.Operation, r.OldObject = admissionv1.Update, runtime.RawExtension{Raw: []byte(before)}
		}
		return admission.NewContextWithRequest(context.Background(), r)
	}
	read := func(text string) *registryv1alpha1.ImmutabilityPolicy {
		GinkgoHelper()
		policy := &registryv1alpha1.ImmutabilityPolicy{}
		Expect(json.Unmarshal([]byte(text), policy)).To(Succeed())
		return policy
	}

	DescribeTable("is", func(before, after, stamp string) {
		ctx, policy := request(before, after), read(after)
		Expect(stamper[*registryv1alpha1.ImmutabilityPolicy]{}.Default(ctx, policy)).To(Succeed())
		found, is := policy.Annotations[registryv1alpha1.AppliedByAnnotation]
		Expect(found).To(Equal(stamp))
		Expect(is).To(Equal(stamp != ""))
		Expect(policy.Annotations).To(HaveKeyWithValue("another", "annotation"))
		Expect(checkStamp(ctx, policy)).To(BeEmpty())

		again := policy.DeepCopy()
		Expect(stamper[*registryv1alpha1.ImmutabilityPolicy]{}.Default(ctx, again)).To(Succeed())
		Expect(again).To(Equal(policy), "done again it changes nothing")
	},
		Entry("of the creator at generation 1", "", object("", spec), `{"generation":1,"username":"bob","uid":"bob-uid"}`),
		Entry("of the creator, whatever the manifest says", "", object(byAlice, spec), `{"generation":1,"username":"bob","uid":"bob-uid"}`),
		Entry("of who changes the spec, at the next generation", object(byAlice, spec), object(byAlice, changed), byBob),
		Entry("of who changes the spec and says it was another", object(byAlice, spec), object(forged, changed), byBob),
		Entry("of who changes the spec and leaves the stamp out", object(byAlice, spec), object("", changed), byBob),
		Entry("of who adds an empty field, which makes a generation", object(byAlice, spec), object(byAlice, `{"tagPattern":"v.*","repository":""}`), byBob),
		Entry("what it was where the spec stays", object(byAlice, spec), object(byAlice, `{ "tagPattern": "v.*" }`), byAlice),
		Entry("what it was where only the stamp is edited", object(byAlice, spec), object(forged, spec), byAlice),
		Entry("what it was where only the stamp is removed", object(byAlice, spec), object("", spec), byAlice),
		Entry("none where there was none and the spec stays", object("", spec), object(forged, spec), ""),
		Entry("of who changes the spec of an object that had none", object("", spec), object("", changed), byBob),
	)

	It("has no UID for a user without one", func() {
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Create, UserInfo: authenticationv1.UserInfo{Username: `a "user"`}}}
		policy := &registryv1alpha1.ImmutabilityPolicy{}
		Expect(stamper[*registryv1alpha1.ImmutabilityPolicy]{}.Default(admission.NewContextWithRequest(context.Background(), r), policy)).To(Succeed())
		Expect(policy.Annotations).To(HaveKeyWithValue(registryv1alpha1.AppliedByAnnotation, `{"generation":1,"username":"a \"user\""}`))
		applied, ok := registryv1alpha1.ParseApplied(policy.Annotations)
		Expect(ok).To(BeTrue())
		Expect(applied).To(Equal(registryv1alpha1.Applied{Generation: 1, Username: `a "user"`}))
	})

	DescribeTable("is refused by the validation where another webhook changed it:", func(before, after, message string) {
		validator := &immutabilityPolicyValidator{now: time.Now}
		ctx, policy := request(before, after), read(after)
		var err error
		if before == "" {
			_, err = validator.ValidateCreate(ctx, policy)
		} else {
			_, err = validator.ValidateUpdate(ctx, read(before), policy)
		}
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring("metadata.annotations[registry.tidelock.dev/applied-by]"), ContainSubstring(message))))
	},
		Entry("a creation without", "", object("", spec), `admission has to leave {"generation":1,"username":"bob","uid":"bob-uid"} here`),
		Entry("a creation by another", "", object(byAlice, spec), "the MutatingWebhookConfiguration tidelock is not installed"),
		Entry("a change of spec by another", object(byAlice, spec), object(forged, changed), "another mutating webhook changed it"),
		Entry("a change of spec with the old stamp", object(byAlice, spec), object(byAlice, changed), "admission has to leave "+byBob),
		Entry("a change of the stamp only", object(byAlice, spec), object(forged, spec), "admission has to leave "+byAlice),
		Entry("a stamp out of nothing", object("", spec), object(forged, spec), "admission has to leave no annotation here"),
	)

	It("holds up nothing once the object is being deleted", func() {
		now := metav1.Now()
		policy := read(object(forged, changed))
		policy.DeletionTimestamp = &now
		_, err := (&immutabilityPolicyValidator{}).ValidateUpdate(request(object(byAlice, spec), object(forged, changed)), read(object(byAlice, spec)), policy)
		Expect(err).NotTo(HaveOccurred())
	})
})
