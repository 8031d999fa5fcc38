package controllers

import (
	"context"
	"errors"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("The reconciler", func() {
	var (
		registry   *stubRegistry
		cluster    client.Client
		reconciler *ImmutabilityPolicyReconciler
		request    = reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "team-a", Name: "one"}}
	)

	BeforeEach(func() {
		registry = &stubRegistry{put: func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
			return openapi.PolicyStatus{Swept: true}, nil
		}}
		scheme := testScheme()
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		policy := policyObject("one")
		policy.Spec.TagPattern = "v.*"
		cluster = fake.NewClientBuilder().WithScheme(scheme).
			WithObjects(policy, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", UID: "team-a"}}).
			WithStatusSubresource(&registryv1alpha1.ImmutabilityPolicy{}).Build()
		reconciler = &ImmutabilityPolicyReconciler{
			Client: cluster, Uncached: cluster, Registry: registry, Cluster: "cluster",
			Sync: NewSynchronizer(cluster, registry, "cluster"), Ledger: &EventLedger{Registry: registry},
			Evidence: new(Publisher).SetCondition,
		}
	})

	ready := func(ctx context.Context) *metav1.Condition {
		GinkgoHelper()
		var policy registryv1alpha1.ImmutabilityPolicy
		Expect(cluster.Get(ctx, request.NamespacedName, &policy)).To(Succeed())
		// Who looks at nothing but the generation must not take old conditions for new ones.
		Expect(policy.Status.ObservedGeneration == policy.Generation).To(Equal(len(policy.Status.Conditions) > 0))
		return meta.FindStatusCondition(policy.Status.Conditions, registryv1alpha1.ConditionReady)
	}

	// uncached is an API server that is ahead of the cache.
	uncached := func(change func(*registryv1alpha1.ImmutabilityPolicy)) client.Reader {
		policy := policyObject("one")
		change(policy)
		return fake.NewClientBuilder().WithScheme(cluster.Scheme()).WithObjects(policy).Build()
	}

	DescribeTable("waits for its cache, where the registry has seen a newer state and the API server has it as well",
		func(ctx context.Context, change func(*registryv1alpha1.ImmutabilityPolicy)) {
			reconciler.Uncached = uncached(change)
			registry.put = func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) { return openapi.PolicyStatus{}, stale() }
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", time.Second, time.Second/5)))
			Expect(registry.puts).To(ConsistOf(HaveField("Rewound", false)))
			Expect(ready(ctx)).To(BeNil())
		},
		Entry("a newer generation", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Generation = 2 }),
		Entry("another object", func(p *registryv1alpha1.ImmutabilityPolicy) { p.UID = "new" }),
	)

	It("puts an old state that the API server confirms", func(ctx context.Context) {
		registry.put = func(p openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
			if !p.Rewound {
				return openapi.PolicyStatus{}, stale()
			}
			return openapi.PolicyStatus{Swept: true}, nil
		}
		Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", putInterval, putInterval/5)))
		Expect(registry.puts).To(HaveExactElements(HaveField("Rewound", false), HaveField("Rewound", true)))
	})

	It("puts again what the registry has refused meanwhile, also where it has put the same before", func(ctx context.Context) {
		var namespace corev1.Namespace
		claiming := func(organizations string) {
			Expect(cluster.Get(ctx, client.ObjectKey{Name: "team-a"}, &namespace)).To(Succeed())
			namespace.Annotations = map[string]string{registryv1alpha1.OrganizationsAnnotation: organizations}
			Expect(cluster.Update(ctx, &namespace)).To(Succeed())
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
		}
		registry.status = func() (openapi.PolicyStatus, error) { return openapi.PolicyStatus{Swept: true}, nil }
		claiming("team-b")
		registry.put = func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
			return openapi.PolicyStatus{}, &registryclient.Error{Status: 409, Code: domain.CodeOrganizationNotOwned}
		}
		claiming("")
		claiming("team-b")
		Expect(registry.puts).To(HaveLen(3))
		Expect(ready(ctx)).To(HaveValue(HaveField("Reason", registryv1alpha1.ReasonOrganizationNotOwned)))
	})

	Describe("for an organization that another namespace owns", func() {
		// owner is the other namespace, as the registry knows it.
		owner := &domain.Owner{Namespace: "team-b", UID: "team-b"}
		BeforeEach(func() {
			registry.put = func(p openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
				if p.Claim.Gone == nil {
					return openapi.PolicyStatus{}, &registryclient.Error{Status: 409, Code: domain.CodeOrganizationNotOwned, Owner: owner}
				}
				return openapi.PolicyStatus{Swept: true}, nil
			}
		})
		DescribeTable("says that it is gone", func(ctx context.Context, namespace *corev1.Namespace, gone bool) {
			var policy registryv1alpha1.ImmutabilityPolicy
			Expect(cluster.Get(ctx, request.NamespacedName, &policy)).To(Succeed())
			policy.Spec.Organization = "shared"
			Expect(cluster.Update(ctx, &policy)).To(Succeed())
			if namespace != nil {
				Expect(cluster.Create(ctx, namespace)).To(Succeed())
			}
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			if !gone {
				Expect(registry.puts).To(HaveLen(1))
				Expect(ready(ctx)).To(HaveValue(HaveField("Reason", registryv1alpha1.ReasonOrganizationNotOwned)))
				return
			}
			Expect(registry.puts).To(HaveExactElements(HaveField("Claim.Gone", BeNil()), HaveField("Claim.Gone", HaveValue(Equal(openapi.Owner{Namespace: "team-b", UID: "team-b"})))))
		},
			Entry("where it does not exist", nil, true),
			Entry("where another one has its name", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: "team-b", UID: "again", Annotations: map[string]string{registryv1alpha1.OrganizationsAnnotation: "shared"},
			}}, true),
			Entry("where it claims the organization no more", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: "team-b", UID: "team-b", Annotations: map[string]string{registryv1alpha1.OrganizationsAnnotation: "other, *"},
			}}, true),
			Entry("not where it claims it", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: "team-b", UID: "team-b", Annotations: map[string]string{registryv1alpha1.OrganizationsAnnotation: "other, shared"},
			}}, false),
		)
		It("does not say so of the organization of its own name, annotation or not", func(ctx context.Context) {
			var policy registryv1alpha1.ImmutabilityPolicy
			Expect(cluster.Get(ctx, request.NamespacedName, &policy)).To(Succeed())
			policy.Spec.Organization = "team-b"
			Expect(cluster.Update(ctx, &policy)).To(Succeed())
			Expect(cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-b", UID: "team-b"}})).To(Succeed())
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(registry.puts).To(HaveLen(1))
		})
	})

	DescribeTable("puts what the object says of where it comes from:", func(ctx context.Context, annotations map[string]string, applied *openapi.Applied, revision string) {
		var policy registryv1alpha1.ImmutabilityPolicy
		Expect(cluster.Get(ctx, request.NamespacedName, &policy)).To(Succeed())
		policy.Annotations = annotations
		Expect(cluster.Update(ctx, &policy)).To(Succeed())
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		Expect(registry.puts).To(ConsistOf(And(HaveField("Applied", applied), HaveField("RevisionClaimed", revision))))
	},
		Entry("nothing", nil, nil, ""),
		Entry("a stamp, of another generation too, and a revision",
			map[string]string{registryv1alpha1.AppliedByAnnotation: `{"generation":3,"username":"alice","uid":"a"}`, registryv1alpha1.RevisionAnnotation: "main\n"},
			&openapi.Applied{User: "alice", UserUID: "a", Generation: 3}, "main"),
		Entry("a stamp that is none", map[string]string{registryv1alpha1.AppliedByAnnotation: "alice"}, nil, ""),
	)

	DescribeTable("treats an answer of the registry as", func(ctx context.Context, answer error, status metav1.ConditionStatus, reason string, retried bool) {
		registry.put = func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) { return openapi.PolicyStatus{}, answer }
		result, err := reconciler.Reconcile(ctx, request)
		if retried {
			Expect(err).To(MatchError(answer))
		} else {
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(BeNumerically("~", putInterval, putInterval/5))
		}
		Expect(ready(ctx)).To(HaveValue(And(HaveField("Status", status), HaveField("Reason", reason), HaveField("ObservedGeneration", int64(1)))))
	},
		Entry("transient: no connection", errors.New("connection refused"), metav1.ConditionUnknown, registryv1alpha1.ReasonRegistryUnavailable, true),
		Entry("transient: not now", &registryclient.Error{Status: 503, Code: domain.CodeUnavailable}, metav1.ConditionUnknown, registryv1alpha1.ReasonRegistryUnavailable, true),
		Entry("transient: the token", &registryclient.Error{Status: 401, Code: domain.CodeUnauthorized}, metav1.ConditionUnknown, registryv1alpha1.ReasonRegistryUnavailable, true),
		Entry("final: another cluster", &registryclient.Error{Status: 409, Code: domain.CodeOtherCluster}, metav1.ConditionFalse, registryv1alpha1.ReasonOtherCluster, false),
		Entry("final: invalid", &registryclient.Error{Status: 400, Code: domain.CodeInvalid}, metav1.ConditionFalse, registryv1alpha1.ReasonInvalidSpec, false),
		Entry("final: anything else", &registryclient.Error{Status: 409, Code: domain.CodeConflict}, metav1.ConditionFalse, registryv1alpha1.ReasonRefused, false),
	)

	Describe("of a policy that is locked", func() {
		var until metav1.Time
		read := func(ctx context.Context) *registryv1alpha1.ImmutabilityPolicy {
			GinkgoHelper()
			var policy registryv1alpha1.ImmutabilityPolicy
			Expect(cluster.Get(ctx, request.NamespacedName, &policy)).To(Succeed())
			return &policy
		}
		lock := func(ctx context.Context, at time.Time) {
			GinkgoHelper()
			until = metav1.NewTime(at).Rfc3339Copy()
			policy := read(ctx)
			policy.Spec.LockedUntil = &until
			Expect(cluster.Update(ctx, policy)).To(Succeed())
		}
		answer := func(locked bool) {
			registry.put = func(p openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
				return openapi.PolicyStatus{Swept: true, Policy: openapi.Policy{LockedUntil: p.LockedUntil, Locked: locked}}, nil
			}
		}

		It("puts until when, comes back when that has passed, and says so once the registry does", func(ctx context.Context) {
			lock(ctx, time.Now().Add(time.Minute))
			answer(true)
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", time.Minute, 5*time.Second)))
			Expect(registry.puts).To(ConsistOf(HaveField("LockedUntil", HaveValue(BeTemporally("==", until.Time)))))
			Expect(read(ctx).Status.LockExpired).To(BeNil())

			answer(false)
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", putInterval, putInterval/5)))
			Expect(read(ctx).Status.LockExpired).To(HaveValue(HaveField("Time", BeTemporally("==", until.Time))))
			Expect(read(ctx).Locked(time.Now())).To(BeFalse(), "the lock was broken")

			lock(ctx, time.Now().Add(2*time.Minute))
			Expect(read(ctx).Locked(time.Now())).To(BeTrue(), "a later time is another lock")
			answer(true)
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(read(ctx).Status.LockExpired).To(BeNil())
		})

		It("asks again soon where the registry's clock is behind", func(ctx context.Context) {
			lock(ctx, time.Now().Add(-time.Second))
			answer(true)
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", 5*time.Second, time.Second)))
			Expect(read(ctx).Status.LockExpired).To(BeNil())
		})

		It("is stalled by what weakens it, until it is not locked any more", func(ctx context.Context) {
			registry.put = func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
				return openapi.PolicyStatus{}, &registryclient.Error{Status: 409, Code: domain.CodePolicyLocked, Message: "locked", LockedUntil: time.Now().Add(time.Minute)}
			}
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", time.Minute, 5*time.Second)))
			Expect(ready(ctx)).To(HaveValue(And(HaveField("Status", metav1.ConditionFalse), HaveField("Reason", registryv1alpha1.ReasonPolicyLocked), HaveField("Message", "locked"))))
		})

		It("lets an object go whose spec the registry refuses: what is not in force locks nothing", func(ctx context.Context) {
			lock(ctx, time.Now().AddDate(100, 0, 0))
			registry.put = func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
				return openapi.PolicyStatus{}, &registryclient.Error{Status: 400, Code: domain.CodeInvalid, Message: "too far away"}
			}
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(read(ctx).Status.LockExpired).To(HaveValue(HaveField("Time", BeTemporally("==", until.Time))))
		})

		DescribeTable("tells the registry whether it goes with its namespace:", func(ctx context.Context, change func(*corev1.Namespace), goes bool) {
			lock(ctx, time.Now().Add(time.Minute))
			answer(true)
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			namespace := &corev1.Namespace{}
			Expect(cluster.Get(ctx, client.ObjectKey{Name: "team-a"}, namespace)).To(Succeed())
			change(namespace)
			Expect(cluster.Delete(ctx, read(ctx))).To(Succeed())
			_, err = reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(registry.deletes).To(Equal([]bool{goes}))
		},
			Entry("it stays", func(*corev1.Namespace) {}, false),
			Entry("it goes", func(n *corev1.Namespace) {
				n.Finalizers = []string{"kubernetes"}
				Expect(cluster.Update(context.Background(), n)).To(Succeed())
				Expect(cluster.Delete(context.Background(), n)).To(Succeed())
			}, true),
			Entry("it is gone", func(n *corev1.Namespace) { Expect(cluster.Delete(context.Background(), n)).To(Succeed()) }, true),
		)
	})

	It("lets the status rest while only counts change", func(ctx context.Context) {
		var covered int64
		registry.put = func(openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
			covered++
			return openapi.PolicyStatus{Swept: true, Coverage: openapi.Coverage{Covered: covered}}, nil
		}
		Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically(">", countsInterval)))
		Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("<=", countsInterval)))
		var policy registryv1alpha1.ImmutabilityPolicy
		Expect(cluster.Get(ctx, request.NamespacedName, &policy)).To(Succeed())
		Expect(policy.Status.Covered).To(HaveValue(Equal(int64(1))))
	})

	It("follows a sweep at growing pauses", func() {
		at := func(ago time.Duration) *time.Time { t := time.Now().Add(-ago); return &t }
		pause := func(started *time.Time) time.Duration {
			var waiting *waitingError
			Expect(errors.As(follow(openapi.PolicyStatus{Sweeps: []openapi.Sweep{{StartedAt: started}}}), &waiting)).To(BeTrue())
			return waiting.after
		}
		Expect(pause(nil)).To(Equal(250 * time.Millisecond))
		Expect(pause(at(2 * time.Second))).To(BeNumerically("~", time.Second, 100*time.Millisecond))
		Expect(pause(at(time.Minute))).To(Equal(5 * time.Second))
		Expect(follow(openapi.PolicyStatus{Swept: true})).To(Succeed())
	})

	It("spreads the pauses between attempts from 750 ms to 15 minutes", func() {
		limiter := registryRateLimiter()
		first := limiter.When(request)
		Expect(first).To(BeNumerically("~", 750*time.Millisecond, 75*time.Millisecond))
		var last time.Duration
		for range 30 {
			last = limiter.When(request)
		}
		Expect(last).To(BeNumerically("~", 15*time.Minute, 90*time.Second))
	})
})
