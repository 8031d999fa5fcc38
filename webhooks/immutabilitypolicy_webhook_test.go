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
	"github.com/tidelock/tidelock/registry/policy"
)

type policyChange = func(*registryv1alpha1.ImmutabilityPolicy)

var _ = Describe("The webhook of ImmutabilityPolicy, of a policy that is locked,", func() {
	var (
		validator *immutabilityPolicyValidator
		registry  *deletions
		scheme    *runtime.Scheme
		now       = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	)
	lockedUntil := func(at time.Time) policyChange {
		return func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.LockedUntil = ptr.To(metav1.NewTime(at)) }
	}
	until := now.Add(24 * time.Hour)
	object := func(change ...policyChange) *registryv1alpha1.ImmutabilityPolicy {
		p := &registryv1alpha1.ImmutabilityPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "releases", UID: "u", Generation: 1},
			Spec: registryv1alpha1.ImmutabilityPolicySpec{
				TagPattern: "v.*", TagPatternMatches: ptr.To(true), EnforcementMode: registryv1alpha1.Enforce, ReclaimPolicy: registryv1alpha1.Retain,
			},
		}
		lockedUntil(until)(p)
		for _, f := range change {
			f(p)
		}
		return p
	}
	request := func(operation admissionv1.Operation, dryRun bool, old, p *registryv1alpha1.ImmutabilityPolicy) context.Context {
		GinkgoHelper()
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
			Operation: operation, UserInfo: authenticationv1.UserInfo{Username: "mallory"}, DryRun: &dryRun,
		}}
		for raw, o := range map[*runtime.RawExtension]*registryv1alpha1.ImmutabilityPolicy{&r.OldObject: old, &r.Object: p} {
			if o != nil {
				encoded, err := json.Marshal(o)
				Expect(err).NotTo(HaveOccurred())
				raw.Raw = encoded
			}
		}
		return admission.NewContextWithRequest(context.Background(), r)
	}
	stamped := func(ctx context.Context, p *registryv1alpha1.ImmutabilityPolicy) *registryv1alpha1.ImmutabilityPolicy {
		GinkgoHelper()
		Expect(stamper[*registryv1alpha1.ImmutabilityPolicy]{}.Default(ctx, p)).To(Succeed())
		return p
	}
	update := func(dryRun bool, old, p *registryv1alpha1.ImmutabilityPolicy) error {
		GinkgoHelper()
		ctx := request(admissionv1.Update, dryRun, old, p)
		_, err := validator.ValidateUpdate(ctx, old, stamped(ctx, p))
		return err
	}
	remove := func(dryRun bool, p *registryv1alpha1.ImmutabilityPolicy) error {
		GinkgoHelper()
		_, err := validator.ValidateDelete(request(admissionv1.Delete, dryRun, p, nil), p)
		return err
	}

	// guard asks the guard, as an update if there is a new object.
	guard := func(dryRun bool, old, p *registryv1alpha1.ImmutabilityPolicy) admission.Response {
		GinkgoHelper()
		operation := admissionv1.Delete
		if p != nil {
			operation = admissionv1.Update
		}
		asked, err := admission.RequestFromContext(request(operation, dryRun, old, p))
		Expect(err).NotTo(HaveOccurred())
		return (&lockGuard{validator: validator, decoder: admission.NewDecoder(scheme)}).Handle(context.Background(), asked)
	}

	BeforeEach(func() {
		scheme = runtime.NewScheme()
		Expect(registryv1alpha1.AddToScheme(scheme)).To(Succeed())
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		Expect(metav1.AddMetaToScheme(scheme)).To(Succeed())
		going := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going", Finalizers: []string{"kubernetes"}, DeletionTimestamp: ptr.To(metav1.NewTime(now))}}
		cluster := fake.NewClientBuilder().WithScheme(scheme).
			WithObjects(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}, going).
			WithIndex(&registryv1alpha1.ImmutabilityPolicy{}, scopeIndex, func(client.Object) []string { return nil }).Build()
		registry = &deletions{}
		validator = &immutabilityPolicyValidator{reader: cluster, registry: registry, maxLock: policy.DefaultMaxLock, now: func() time.Time { return now }}
	})

	DescribeTable("refuses to weaken it, with the date, and tells the registry who tried, but not on a dry run:", func(weaken policyChange, field string) {
		err := update(false, object(), object(weaken))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring("spec."+field), ContainSubstring("the policy is locked until 2026-11-29T12:00:00Z"))))
		Expect(registry.noted).To(BeEmpty(), "that is the guard's to do, which is asked before")
		refused := guard(false, object(), object(weaken))
		Expect(refused.Allowed).To(BeFalse())
		Expect(refused.Result.Reason).To(Equal(metav1.StatusReasonInvalid))
		Expect(refused.Result.Message).To(And(ContainSubstring("spec."+field), ContainSubstring("the policy is locked until 2026-11-29T12:00:00Z")))
		Expect(registry.noted).To(ConsistOf(And(HavePrefix("refused mallory to update policy team-a/releases: "), ContainSubstring(field), ContainSubstring("2026-11-29T12:00:00Z"))))

		registry.noted = nil
		Expect(guard(true, object(), object(weaken)).Allowed).To(BeFalse())
		Expect(registry.noted).To(BeEmpty())
		passed := func(p *registryv1alpha1.ImmutabilityPolicy) { p.Status.LockExpired = p.Spec.LockedUntil }
		Expect(update(false, object(passed), object(weaken))).To(Succeed(), "the operator has noted that the lock binds nobody")
		Expect(guard(false, object(passed), object(weaken)).Allowed).To(BeTrue())
		now = now.Add(25 * time.Hour)
		defer func() { now = now.Add(-25 * time.Hour) }()
		Expect(update(false, object(), object(weaken))).To(Succeed(), "the time has passed")
	},
		Entry("pattern", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.TagPattern = "v1" }, "tagPattern"),
		Entry("selection", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.TagPatternMatches = ptr.To(false) }, "tagPatternMatches"),
		Entry("mode", func(p *registryv1alpha1.ImmutabilityPolicy) {
			p.Spec.EnforcementMode, p.Spec.LockedUntil = registryv1alpha1.DryRun, nil
		}, "enforcementMode"),
		Entry("reclaim policy", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.ReclaimPolicy = registryv1alpha1.Release }, "reclaimPolicy"),
		Entry("an earlier time", lockedUntil(until.Add(-time.Hour)), "lockedUntil"),
		Entry("no time", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.LockedUntil = nil }, "lockedUntil"),
	)

	DescribeTable("admits", func(old, change policyChange) {
		Expect(update(false, object(old), object(change))).To(Succeed())
		Expect(guard(false, object(old), object(change)).Allowed).To(BeTrue())
		Expect(registry.noted).To(BeEmpty())
	},
		Entry("a later time", func(*registryv1alpha1.ImmutabilityPolicy) {}, lockedUntil(until.Add(time.Hour))),
		Entry("Retain in place of Release", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.ReclaimPolicy = registryv1alpha1.Release }, func(*registryv1alpha1.ImmutabilityPolicy) {}),
		Entry("Events", func(*registryv1alpha1.ImmutabilityPolicy) {}, func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Events = registryv1alpha1.EventsSummary }),
		Entry("labels", func(*registryv1alpha1.ImmutabilityPolicy) {}, func(p *registryv1alpha1.ImmutabilityPolicy) { p.Labels = map[string]string{"a": "b"} }),
		Entry("a lock that was too long, as it is", lockedUntil(now.AddDate(100, 0, 0)), func(p *registryv1alpha1.ImmutabilityPolicy) {
			lockedUntil(now.AddDate(100, 0, 0))(p)
			p.Spec.Events = registryv1alpha1.EventsSummary
		}),
	)

	It("refuses to delete it, with the date, and tells the registry who tried, but not on a dry run", func() {
		for _, dryRun := range []bool{true, false} {
			err := remove(dryRun, object())
			Expect(apierrors.IsForbidden(err)).To(BeTrue(), "error: %v", err)
			Expect(err).To(MatchError(ContainSubstring("the policy is locked until 2026-11-29T12:00:00Z and cannot be deleted before that time")))
			refused := guard(dryRun, object(), nil)
			Expect(refused.Allowed).To(BeFalse())
			Expect(refused.Result.Reason).To(Equal(metav1.StatusReasonForbidden))
			Expect(refused.Result.Message).To(ContainSubstring("cannot be deleted before that time"))
		}
		Expect(registry.noted).To(ConsistOf(HavePrefix("refused mallory to delete policy team-a/releases: the policy is locked until")))
	})

	It("is not asked to guard what goes anyway", func() {
		Expect(guard(false, object(func(p *registryv1alpha1.ImmutabilityPolicy) { p.Namespace = "going" }), nil).Allowed).To(BeTrue())
		deleted := func(p *registryv1alpha1.ImmutabilityPolicy) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
		Expect(guard(false, object(deleted), nil).Allowed).To(BeTrue())
		Expect(guard(false, object(), object(deleted, func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.TagPattern = "x" })).Allowed).To(BeTrue())
		Expect(registry.noted).To(BeEmpty())
	})

	It("lets it go with its namespace, and where it is being deleted already", func() {
		Expect(remove(false, object(func(p *registryv1alpha1.ImmutabilityPolicy) { p.Namespace = "going" }))).To(Succeed())
		Expect(remove(false, object(func(p *registryv1alpha1.ImmutabilityPolicy) { p.Namespace = "gone" }))).To(Succeed())
		Expect(remove(false, object(func(p *registryv1alpha1.ImmutabilityPolicy) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }))).To(Succeed())
		Expect(remove(false, object(func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.LockedUntil = ptr.To(metav1.NewTime(now)) }))).To(Succeed(), "the time has passed")
		Expect(registry.noted).To(ConsistOf("policy going/releases by mallory", "policy gone/releases by mallory", "policy team-a/releases by mallory"))
	})

	It("takes a time that has passed with a warning, and none that is too far away", func() {
		create := func(p *registryv1alpha1.ImmutabilityPolicy) (admission.Warnings, error) {
			ctx := request(admissionv1.Create, true, nil, p)
			return validator.ValidateCreate(ctx, stamped(ctx, p))
		}
		Expect(create(object(lockedUntil(now.Add(-time.Hour))))).To(ContainElement("lockedUntil 2026-11-28T11:00:00Z has passed: the policy can be weakened and deleted at any time"))
		Expect(create(object())).NotTo(ContainElement(ContainSubstring("has passed")))
		_, err := create(object(lockedUntil(now.AddDate(6, 0, 0))))
		Expect(err).To(MatchError(And(ContainSubstring("spec.lockedUntil"), ContainSubstring("a policy can be locked for 1827 days at most"))))
		_, err = create(object(func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.EnforcementMode = registryv1alpha1.DryRun }))
		Expect(err).To(MatchError(ContainSubstring("spec.lockedUntil: Forbidden: needs enforcementMode Enforce")))
	})
})
