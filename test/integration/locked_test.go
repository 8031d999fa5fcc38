package integration

import (
	"context"
	"fmt"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	serving "github.com/tidelock/tidelock/registry"
)

// Here no webhook is installed, as while the operator is away.
var _ = Describe("A locked ImmutabilityPolicy, while there is no webhook,", Ordered, ContinueOnFailure, func() {
	var (
		registry  *testRegistry
		team, app string
	)

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		startOperator(ctx, registry)
		// The API server learns of a new policy a moment later.
		team = newTeam(ctx)
		probe := create(ctx, newPolicy(team, named("probe"), lockedFor(time.Hour)))
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Delete(ctx, probe, client.DryRunAll)).NotTo(Succeed())
		}).WithContext(ctx).Should(Succeed())
	})

	locked := func(ctx context.Context, change ...policyChange) *registryv1alpha1.ImmutabilityPolicy {
		GinkgoHelper()
		team = newTeam(ctx)
		app = team + "/app"
		registry.prepare(ctx, app)
		registry.push(ctx, app, "v1")
		policy := create(ctx, newPolicy(team, append([]policyChange{lockedFor(time.Hour)}, change...)...))
		eventually(ctx, policy, beReady())
		return policy
	}
	spec := func(fields string) client.Patch {
		return client.RawPatch(types.MergePatchType, []byte(`{"spec": {`+fields+`}}`))
	}
	at := func(policy *registryv1alpha1.ImmutabilityPolicy, d time.Duration) string {
		return policy.Spec.LockedUntil.Add(d).UTC().Format(time.RFC3339)
	}

	It("is not weakened, not deleted, and can be strengthened and extended", func(ctx context.Context) {
		policy := locked(ctx)
		for fields, field := range map[string]string{
			`"tagPattern": "v1"`:                                "tagPattern is fixed",
			`"tagPatternMatches": false`:                        "tagPatternMatches is fixed",
			`"reclaimPolicy": "Release"`:                        "reclaimPolicy can only become Retain",
			`"lockedUntil": null`:                               "lockedUntil can only be moved to a later time",
			`"lockedUntil": "` + at(policy, -time.Second) + `"`: "lockedUntil can only be moved to a later time",
			`"enforcementMode": "DryRun", "lockedUntil": null`:  "enforcementMode stays Enforce",
		} {
			err := admin.Patch(ctx, policy.DeepCopy(), spec(fields))
			Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%s: %v", fields, err)
			Expect(err).To(MatchError(And(ContainSubstring("the policy is locked until "+at(policy, 0)), ContainSubstring(field))))
		}
		Expect(admin.Delete(ctx, policy)).To(MatchError(And(ContainSubstring("the policy is locked until "+at(policy, 0)), ContainSubstring("it cannot be deleted"))))
		Expect(admin.DeleteAllOf(ctx, &registryv1alpha1.ImmutabilityPolicy{}, client.InNamespace(team))).NotTo(Succeed())

		Expect(admin.Patch(ctx, policy, spec(`"lockedUntil": "`+at(policy, time.Hour)+`", "events": "Summary"`))).To(Succeed())
		eventually(ctx, policy, beReady())
		Expect(admin.Patch(ctx, policy.DeepCopy(), spec(`"lockedUntil": "`+at(policy, -time.Hour)+`"`))).NotTo(Succeed())
	})

	It("becomes Retain, and not Release again", func(ctx context.Context) {
		policy := locked(ctx, reclaim(registryv1alpha1.Release))
		Expect(admin.Patch(ctx, policy, spec(`"reclaimPolicy": "Retain"`))).To(Succeed())
		Expect(admin.Patch(ctx, policy.DeepCopy(), spec(`"reclaimPolicy": "Release"`))).To(MatchError(ContainSubstring("reclaimPolicy can only become Retain")))
	})

	It("has a status that nobody writes but the operator, so that nobody can say that the lock has passed", func(ctx context.Context) {
		policy := locked(ctx)
		before := policy.DeepCopy()
		policy.Status.LockExpired = policy.Spec.LockedUntil
		err := admin.Status().Patch(ctx, policy, client.MergeFrom(before))
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(ContainSubstring("only the operator writes the status of policies")))
		Expect(admin.Patch(ctx, before.DeepCopy(), client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status": {"lockExpired": %q}}`, at(before, 0))))).
			To(Succeed(), "the status is no part of the object itself")
		Expect(admin.Delete(ctx, before)).NotTo(Succeed())
	})

	It("stays in force if the finalizer is removed by hand or the guard is taken away, and says so", func(ctx context.Context) {
		policy := locked(ctx)
		uuid := policy.Status.PolicyUUID
		unlock(ctx, policy) // what nobody but the operator can do: admission lets everything pass now
		Expect(admin.Patch(ctx, policy, spec(`"enforcementMode": "DryRun", "lockedUntil": null`))).To(Succeed())
		eventually(ctx, policy, And(beStalled(registryv1alpha1.ReasonPolicyLocked), WithTransform(message, ContainSubstring("enforcementMode: a locked policy stays Enforce"))))
		Expect(registry.tryPush(ctx, app, "v1", "other").Status).To(Equal(http.StatusUnprocessableEntity))
		Eventually(eventsOf).WithArguments(policy).WithContext(ctx).Should(ContainElement(HaveField("Reason", "PolicyChangeRefused")))

		By("deleting it")
		Expect(admin.Delete(ctx, policy)).To(Succeed())
		eventually(ctx, policy, And(beStalled(registryv1alpha1.ReasonPolicyLocked), WithTransform(message, ContainSubstring("it cannot be deleted before that time, and stays in force"))))
		Expect(registry.policies(ctx, team)).To(ConsistOf(And(HaveField("UUID", uuid), HaveField("Orphaned", false))))

		By("removing the finalizer")
		removeFinalizers(ctx, policy)
		eventuallyGone(ctx, policy)
		Eventually(registry.policies).WithArguments(team).WithContext(ctx).Should(ConsistOf(And(HaveField("UUID", uuid), HaveField("Orphaned", true))))
		Expect(registry.tryPush(ctx, app, "v1", "other").Status).To(Equal(http.StatusUnprocessableEntity))
		got, err := registry.call(ctx, http.MethodDelete, "/api/v1/organization/"+team+"/immutabilitypolicy/"+uuid, "", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Status).To(Equal(http.StatusConflict))
		Expect(got.Body).To(ContainSubstring("POLICY_LOCKED"))
	})

	It("goes with its namespace, and the registry enforces on", func(ctx context.Context) {
		policy := locked(ctx)
		namespace := &corev1.Namespace{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: team}, namespace)).To(Succeed())
		Expect(admin.Delete(ctx, namespace)).To(Succeed()) // nobody empties it here
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(client.IgnoreNotFound(admin.Delete(ctx, policy))).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
		eventuallyGone(ctx, policy)
		Expect(registry.policies(ctx, team)).To(ConsistOf(HaveField("Orphaned", true)))
		Expect(registry.tryPush(ctx, app, "v1", "other").Status).To(Equal(http.StatusUnprocessableEntity))
	})

	It("is let go by the operator once its time has passed", func(ctx context.Context) {
		policy := locked(ctx, lockedFor(8*time.Second))
		Expect(admin.Delete(ctx, policy, client.DryRunAll)).NotTo(Succeed())
		eventually(ctx, policy, HaveField("Status.LockExpired", HaveValue(HaveField("Time", BeTemporally("==", policy.Spec.LockedUntil.Time)))))
		Expect(time.Now()).To(BeTemporally(">=", policy.Spec.LockedUntil.Time))
		Expect(admin.Patch(ctx, policy, spec(`"tagPattern": "v1", "lockedUntil": null`))).To(Succeed())
		eventually(ctx, policy, And(beReady(), HaveField("Status.LockExpired", BeNil())))
		removePolicy(ctx, policy)
	})

	It("is let go by the operator once its lock was broken at the registry", func(ctx context.Context) {
		policy := locked(ctx)
		registry.stop()
		_, err := serving.UnlockPolicy(ctx, registry.config, policy.Status.PolicyUUID, "a wrong pattern")
		Expect(err).NotTo(HaveOccurred())
		registry.start()
		change(ctx, policy, func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Events = registryv1alpha1.EventsSummary })
		eventually(ctx, policy, HaveField("Status.LockExpired", HaveValue(HaveField("Time", BeTemporally("==", policy.Spec.LockedUntil.Time)))))
		Eventually(eventsOf).WithArguments(policy).WithContext(ctx).Should(ContainElement(And(
			HaveField("Reason", "PolicyUnlocked"), HaveField("Type", "Warning"), HaveField("Note", HaveSuffix("was broken: a wrong pattern")))))
		removePolicy(ctx, policy)
	})
})
