package integration

import (
	"context"
	"net/http"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

var _ = Describe("The deletion of an ImmutabilityPolicy", Ordered, ContinueOnFailure, func() {
	var (
		registry *testRegistry
		team     string
		app      string
		policy   *registryv1alpha1.ImmutabilityPolicy
	)

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		startOperator(ctx, registry)
	})

	// locked makes a policy that locks v1.
	locked := func(ctx context.Context, change ...policyChange) {
		GinkgoHelper()
		team = newTeam(ctx)
		app = team + "/app"
		registry.prepare(ctx, app)
		registry.push(ctx, app, "v1")
		policy = create(ctx, newPolicy(team, change...))
		eventually(ctx, policy, beReady())
	}

	// effective waits until the registry has carried out the deletion.
	effective := func(ctx context.Context) {
		GinkgoHelper()
		Eventually(registry.policies).WithArguments(team).WithContext(ctx).Should(BeEmpty())
	}

	It("leaves the policy in force for the deletion delay, and then its locks under Retain", func(ctx context.Context) {
		locked(ctx)
		removePolicy(ctx, policy)
		Expect(registry.policies(ctx, team)).To(HaveLen(1))
		registry.push(ctx, app, "v2")
		Expect(registry.tryPush(ctx, app, "v2", "other").Status).To(Equal(http.StatusUnprocessableEntity))
		effective(ctx)
		Expect(registry.immutable(ctx, app, "v1")).To(BeTrue())
		Expect(registry.immutable(ctx, app, "v2")).To(BeTrue())
		registry.push(ctx, app, "v3")
		Expect(registry.tryPush(ctx, app, "v3", "other").Status).To(Equal(http.StatusCreated))
	})

	It("releases the locks under Release", func(ctx context.Context) {
		locked(ctx, reclaim(registryv1alpha1.Release))
		removePolicy(ctx, policy)
		Expect(registry.immutable(ctx, app, "v1")).To(BeTrue())
		Eventually(registry.immutable).WithArguments(app, "v1").WithContext(ctx).Should(BeFalse())
		Eventually(eventsOf).WithArguments(policy).WithContext(ctx).Should(ContainElement(And(
			HaveField("Reason", "TagReleased"), HaveField("Type", "Normal"), HaveField("Note", ContainSubstring(app+":v1")))))
	})

	It("is undone by re-creating the policy in time, which keeps its identity", func(ctx context.Context) {
		locked(ctx)
		uuid := policy.Status.PolicyUUID
		removePolicy(ctx, policy)
		policy = create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		Expect(policy.Status.PolicyUUID).To(Equal(uuid))
		Consistently(registry.policies).WithArguments(team).WithContext(ctx).WithTimeout(2 * deletionDelay).Should(HaveLen(1))
	})

	It("waits for the registry, and for nothing else", func(ctx context.Context) {
		locked(ctx)
		registry.stop()
		Expect(admin.Delete(ctx, policy)).To(Succeed())
		eventually(ctx, policy, WithTransform(message, Equal("The registry does not answer; the operator goes on trying. The deletion waits for it.")))
		registry.start()
		eventuallyGone(ctx, policy)
	})

	It("leaves an orphan in force if the finalizer is removed by hand, which a policy of the same name takes over", func(ctx context.Context) {
		locked(ctx)
		uuid := policy.Status.PolicyUUID
		// The finalizer is put back if nobody deletes the object.
		removeFinalizers(ctx, policy)
		eventually(ctx, policy, HaveField("Finalizers", ConsistOf(registryv1alpha1.Finalizer)))

		Eventually(func(g Gomega, ctx context.Context) {
			// The operator is quick; it must not see the deletion before the finalizer is gone.
			registry.stop()
			g.Expect(client.IgnoreNotFound(admin.Delete(ctx, policy))).To(Succeed())
			removeFinalizers(ctx, policy)
		}).WithContext(ctx).Should(Succeed())
		registry.start()
		Eventually(registry.policies).WithArguments(team).WithContext(ctx).Should(ConsistOf(And(HaveField("Orphaned", true), HaveField("UUID", uuid))))
		Expect(registry.tryPush(ctx, app, "v1", "other").Status).To(Equal(http.StatusUnprocessableEntity))

		policy = create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		Expect(policy.Status.PolicyUUID).To(Equal(uuid))
		Expect(registry.policies(ctx, team)).To(ConsistOf(HaveField("Orphaned", false)))
	})
})
