package controllers

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

func testScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	Expect(registryv1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(metav1.AddMetaToScheme(scheme)).To(Succeed())
	return scheme
}

func policyObject(name string) *registryv1alpha1.ImmutabilityPolicy {
	return &registryv1alpha1.ImmutabilityPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name, UID: types.UID("uid-" + name), Generation: 1}}
}

var _ = Describe("The synchronizer", func() {
	var (
		registry     *stubRegistry
		cluster      client.Client
		synchronizer *Synchronizer
	)

	BeforeEach(func() {
		registry = &stubRegistry{}
		cluster = fake.NewClientBuilder().WithScheme(testScheme()).WithObjects(policyObject("one"), policyObject("two")).Build()
		synchronizer = NewSynchronizer(cluster, registry, "cluster")
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(done)
			Expect(synchronizer.Start(ctx)).To(Succeed())
		}()
		DeferCleanup(func() {
			cancel()
			<-done
		})
	})

	reports := func() [][]openapi.Manager {
		registry.mu.Lock()
		defer registry.mu.Unlock()
		return registry.present
	}
	one := openapi.Manager{Kind: policyKind, Namespace: "team-a", Name: "one", UID: "uid-one"}
	two := openapi.Manager{Kind: policyKind, Namespace: "team-a", Name: "two", UID: "uid-two"}

	It("reports once every object has settled, and again in a new epoch", func() {
		synchronizer.Settled("uid-one")
		Consistently(reports).WithTimeout(3 * settleDelay).Should(BeEmpty())
		synchronizer.Settled("uid-two")
		Eventually(reports).Should(ConsistOf(ConsistOf(one, two)))

		synchronizer.Restart()
		synchronizer.Settled("uid-one")
		Consistently(reports).WithTimeout(3 * settleDelay).Should(HaveLen(1))
		synchronizer.Settled("uid-two")
		Eventually(reports).Should(HaveLen(2))
	})

	It("reports the objects of all kinds", func(ctx context.Context) {
		Expect(cluster.Create(ctx, mirrorObject())).To(Succeed())
		synchronizer.Settled("uid-one")
		synchronizer.Settled("uid-two")
		Consistently(reports).WithTimeout(3 * settleDelay).Should(BeEmpty())
		synchronizer.Settled("uid-upstream")
		Eventually(reports).Should(ConsistOf(ConsistOf(one, two, openapi.Manager{Kind: mirrorKind, Namespace: "team-a", Name: "upstream", UID: "uid-upstream"})))
	})

	It("reports again when an object is gone", func(ctx context.Context) {
		synchronizer.Settled("uid-one")
		synchronizer.Settled("uid-two")
		Eventually(reports).Should(HaveLen(1))
		Expect(cluster.Delete(ctx, policyObject("one"))).To(Succeed())
		synchronizer.Gone()
		Eventually(reports).Should(HaveExactElements(HaveLen(2), ConsistOf(two)))
	})

	It("does not report while an object is being put, which the report might miss", func() {
		put, finish := make(chan struct{}), make(chan struct{})
		go func() {
			defer GinkgoRecover()
			Expect(synchronizer.Put(func() error {
				close(put)
				<-finish
				return nil
			})).To(Succeed())
		}()
		Eventually(put).Should(BeClosed())
		synchronizer.Settled("uid-one")
		synchronizer.Settled("uid-two")
		Consistently(reports).WithTimeout(3 * settleDelay).WithPolling(time.Millisecond).Should(BeEmpty())
		close(finish)
		Eventually(reports).Should(HaveLen(1))
	})
})
