package integration

import (
	"context"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("An operator whose registry", func() {
	var r *testRegistry

	BeforeEach(func(ctx context.Context) {
		r = startRegistry()
		startOperator(ctx, r)
	})

	unavailable := And(
		haveCondition(registryv1alpha1.ConditionReady, metav1.ConditionUnknown, registryv1alpha1.ReasonRegistryUnavailable),
		haveCondition(registryv1alpha1.ConditionReconciling, metav1.ConditionTrue, registryv1alpha1.ReasonRegistryUnavailable),
	)

	It("is away says so, and loses nothing", func(ctx context.Context) {
		team := newTeam(ctx)
		r.prepare(ctx, team+"/app")
		r.push(ctx, team+"/app", "v1", "w1")
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		uuid := policy.Status.PolicyUUID

		r.stop()
		change(ctx, policy, pattern("[vw]1"))
		another := create(ctx, newPolicy(team, named("another"), pattern("x.*")))
		eventually(ctx, policy, unavailable)
		eventually(ctx, another, unavailable)
		Expect(policy.Status.PolicyUUID).To(Equal(uuid))

		r.start()
		eventually(ctx, policy, And(beReady(), HaveField("Status.Revision", int64(2))))
		eventually(ctx, another, beReady())
		Expect(r.immutable(ctx, team+"/app", "w1")).To(BeTrue())
	})

	It("came back empty brings everything again, and opens it for writes then", func(ctx context.Context) {
		team := newTeam(ctx)
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		uuid := policy.Status.PolicyUUID

		r.stop()
		r.config.DataDir = filepath.Join(GinkgoT().TempDir(), "new")
		r.start()
		eventually(ctx, policy, And(beReady(), HaveField("Status.PolicyUUID", Not(Equal(uuid)))))
		r.prepare(ctx, team+"/app")
	})

	It("belongs to another cluster stalls until it is handed over", func(ctx context.Context) {
		team := newTeam(ctx)
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())

		r.stop()
		Expect(registry.AdoptCluster(ctx, r.config, "another-cluster")).To(Succeed())
		r.start()
		eventually(ctx, policy, beStalled(registryv1alpha1.ReasonOtherCluster))
		Expect(message(policy)).To(ContainSubstring("tidelock registry adopt-cluster"))
	})

	It("has seen a newer state than an etcd that was restored goes back to what the cluster says", func(ctx context.Context) {
		team := newNamespace(ctx)
		policy := create(ctx, newPolicy(team.Name))
		eventually(ctx, policy, beReady())

		var kubeSystem corev1.Namespace
		Expect(admin.Get(ctx, types.NamespacedName{Name: metav1.NamespaceSystem}, &kubeSystem)).To(Succeed())
		_, err := newRegistryClient(r).PutPolicy(ctx, team.Name, policy.Name, openapi.ManagedPolicy{
			Cluster: string(kubeSystem.UID), UID: string(policy.UID), Generation: 10, Organization: team.Name,
			TagPattern: "from-the-lost-future", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
			Claim: openapi.Claim{NamespaceUID: string(team.UID)},
		})
		Expect(err).NotTo(HaveOccurred())

		change(ctx, policy, pattern("w.*"))
		eventually(ctx, policy, beReady())
		Expect(r.policies(ctx, team.Name)).To(ConsistOf(HaveField("Pattern", "w.*")))
	})
})
