package integration

import (
	"context"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	. "github.com/onsi/gomega/gstruct"
	gomegatypes "github.com/onsi/gomega/types"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

// haveCondition matches a policy whose condition is about its present generation.
func haveCondition(kind string, status metav1.ConditionStatus, reason string) gomegatypes.GomegaMatcher {
	return WithTransform(func(p *registryv1alpha1.ImmutabilityPolicy) []any {
		c := meta.FindStatusCondition(p.Status.Conditions, kind)
		if c == nil {
			return nil
		}
		return []any{c.Status, c.Reason, c.ObservedGeneration == p.Generation, p.Status.ObservedGeneration == p.Generation}
	}, Equal([]any{status, reason, true, true}))
}

// beReady matches a policy that is enforced.
func beReady() gomegatypes.GomegaMatcher {
	return And(
		haveCondition(registryv1alpha1.ConditionReady, metav1.ConditionTrue, registryv1alpha1.ReasonEnforced),
		WithTransform(func(p *registryv1alpha1.ImmutabilityPolicy) int { return len(p.Status.Conditions) }, Equal(1)),
	)
}

// beStalled matches a policy that waits for somebody to act.
func beStalled(reason string) gomegatypes.GomegaMatcher {
	return And(
		haveCondition(registryv1alpha1.ConditionStalled, metav1.ConditionTrue, reason),
		haveCondition(registryv1alpha1.ConditionReady, metav1.ConditionFalse, reason),
	)
}

// eventually reads a policy until it matches, and leaves the caller with what was read.
func eventually(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, matcher gomegatypes.GomegaMatcher) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		g.Expect(admin.Get(ctx, key(policy), policy)).To(Succeed())
		g.Expect(policy).To(matcher)
	}).WithContext(ctx).Should(Succeed())
}

func key(o client.Object) client.ObjectKey { return client.ObjectKeyFromObject(o) }

func create(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) *registryv1alpha1.ImmutabilityPolicy {
	GinkgoHelper()
	Expect(admin.Create(ctx, policy)).To(Succeed())
	return policy
}

func change(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, f policyChange) {
	GinkgoHelper()
	before := policy.DeepCopy()
	f(policy)
	Expect(admin.Patch(ctx, policy, client.MergeFrom(before))).To(Succeed())
}

func message(policy *registryv1alpha1.ImmutabilityPolicy) string {
	return meta.FindStatusCondition(policy.Status.Conditions, registryv1alpha1.ConditionReady).Message
}

var _ = Describe("An ImmutabilityPolicy", Ordered, ContinueOnFailure, func() {
	var registry *testRegistry

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		startOperator(ctx, registry)
	})

	It("locks tags that exist already, and tells so in its status", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		registry.push(ctx, team+"/app", "v1.0.0", "v1.0.1", "latest")

		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		Expect(message(policy)).To(Equal("Every tag in organization " + team + " that the policy covers is locked."))
		status := policy.Status
		Expect(status.Organization).To(Equal(team))
		Expect(registry.policies(ctx, team)).To(ConsistOf(HaveField("UUID", status.PolicyUUID)))
		Expect(status.Revision).To(Equal(int64(1)))
		Expect([]*int64{status.Covered, status.Locked, status.Pending}).To(Equal([]*int64{ptr.To(int64(2)), ptr.To(int64(2)), ptr.To(int64(0))}))
		Expect(status.WouldLock).To(BeNil())
		Expect(*status.LastSweep).To(And(
			HaveField("Revision", int64(1)), HaveField("State", registryv1alpha1.SweepDone),
			HaveField("Examined", int64(3)), HaveField("TagsChanged", int64(2)),
			HaveField("StartTime", Not(BeNil())), HaveField("CompletionTime", Not(BeNil())),
		))
		Expect(*status.LastSweep.LastAuditIndex - *status.LastSweep.FirstAuditIndex).To(Equal(int64(1)))

		Expect(registry.tryPush(ctx, team+"/app", "v1.0.0", "other")).To(And(
			HaveField("Status", http.StatusUnprocessableEntity), HaveField("Body", ContainSubstring("TAG_IMMUTABLE"))))
		Expect(registry.tryPush(ctx, team+"/app", "latest", "other").Status).To(Equal(http.StatusCreated))
	})

	It("counts later pushes and refusals, and the Events about them", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())

		registry.push(ctx, team+"/app", "v1", "v2", "v3")
		Expect(registry.tryPush(ctx, team+"/app", "v2", "other").Status).To(Equal(http.StatusUnprocessableEntity))
		eventually(ctx, policy, HaveField("Status", And(
			HaveField("Locked", Equal(ptr.To(int64(3)))), HaveField("Pending", Equal(ptr.To(int64(0)))),
			HaveField("Events", PointTo(And(HaveField("Emitted", int64(4)), HaveField("Pending", int64(0))))),
		)))
	})

	It("is waited for by kubectl, and shown with its story", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		registry.push(ctx, team+"/app", "v1", "v2")
		create(ctx, newPolicy(team))
		output, err := kubectl(ctx, "-n", team, "wait", "--for=condition=Ready", "--timeout=30s", "immutabilitypolicy/releases")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("condition met"))
		output, err = kubectl(ctx, "-n", team, "get", "impol")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(MatchRegexp(`NAME\s+ORGANIZATION\s+PATTERN\s+MODE\s+LOCKED\s+PENDING\s+READY\s+REASON\s+AGE\n`))
		Expect(output).To(MatchRegexp(`releases\s+` + team + `\s+v\[\\d\.\]\+\s+Enforce\s+2\s+0\s+True\s+Enforced\s+`))
		output, err = kubectl(ctx, "-n", team, "get", "tidelock")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("releases"))
	})

	It("locks only one repository if it names one", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/backend/api")
		registry.prepare(ctx, team+"/web")
		registry.push(ctx, team+"/backend/api", "v1")
		registry.push(ctx, team+"/web", "v1")
		policy := create(ctx, newPolicy(team, repository("backend/api")))
		eventually(ctx, policy, beReady())
		Expect(message(policy)).To(ContainSubstring("repository " + team + "/backend/api"))
		Expect(registry.immutable(ctx, team+"/backend/api", "v1")).To(BeTrue())
		Expect(registry.immutable(ctx, team+"/web", "v1")).To(BeFalse())
	})

	It("locks nothing as a dry run, and reports what it would do", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		registry.push(ctx, team+"/app", "v1", "v2", "latest")
		policy := create(ctx, newPolicy(team, mode(registryv1alpha1.DryRun)))
		eventually(ctx, policy, haveCondition(registryv1alpha1.ConditionReady, metav1.ConditionTrue, registryv1alpha1.ReasonDryRun))
		Expect(policy.Status.WouldLock).To(Equal(ptr.To(int64(2))))
		Expect(registry.tryPush(ctx, team+"/app", "v1", "other").Status).To(Equal(http.StatusCreated))
		eventually(ctx, policy, HaveField("Status.WouldRefuse", Equal(ptr.To(int64(1)))))

		change(ctx, policy, mode(registryv1alpha1.Enforce))
		eventually(ctx, policy, beReady())
		Expect(policy.Status.WouldLock).To(BeNil())
		Expect(registry.immutable(ctx, team+"/app", "v1")).To(BeTrue())
	})

	It("keeps its locks when it is narrowed under Retain, and drops its own under Release", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		registry.push(ctx, team+"/app", "v1", "v2")
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		change(ctx, policy, pattern("v1"))
		eventually(ctx, policy, And(beReady(), HaveField("Status.Revision", int64(2))))
		Expect(registry.immutable(ctx, team+"/app", "v2")).To(BeTrue())
		change(ctx, policy, reclaim(registryv1alpha1.Release))
		eventually(ctx, policy, And(beReady(), HaveField("Status.Revision", int64(3))))
		Expect(registry.immutable(ctx, team+"/app", "v1")).To(BeTrue())
		Expect(registry.immutable(ctx, team+"/app", "v2")).To(BeFalse())
	})

	It("shows a spec that got past admission as stalled", func(ctx context.Context) {
		team := newTeam(ctx)
		// Fine for the schema, which counts characters; the registry counts bytes.
		policy := create(ctx, newPolicy(team, pattern(strings.Repeat("é", 150))))
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonInvalidSpec))
		Expect(message(policy)).To(ContainSubstring("spec.tagPattern"))
		change(ctx, policy, pattern("v1"))
		eventually(ctx, policy, beReady())
	})
})
