package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/tlog"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubernetesfake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/audit"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// testLog is an audit log in memory with the registry's way to prove it.
type testLog struct {
	origin      string
	originIndex int64
	leaves      []string
	hashes      []tlog.Hash
	private     []string
	readOnly    string
	told        []audit.Checkpoint
	failure     error
}

func originOf(digit string) string { return "tidelock/" + strings.Repeat(digit, 32) }

func newKey() (private string) {
	private, _, err := audit.GenerateKey(audit.DefaultKeyName)
	Expect(err).NotTo(HaveOccurred())
	return private
}

func newTestLog(digit string) *testLog {
	return &testLog{origin: originOf(digit), private: []string{newKey()}}
}

func (l *testLog) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) (found []tlog.Hash, _ error) {
		for _, i := range indexes {
			found = append(found, l.hashes[i])
		}
		return found, nil
	})
}

func (l *testLog) add(leaves ...string) {
	GinkgoHelper()
	for _, leaf := range leaves {
		more, err := tlog.StoredHashes(int64(len(l.leaves)), []byte(leaf), l.reader())
		Expect(err).NotTo(HaveOccurred())
		l.leaves, l.hashes = append(l.leaves, leaf), append(l.hashes, more...)
	}
}

func (l *testLog) grow(n int) {
	for range n {
		l.add(fmt.Sprintf("entry %d", len(l.leaves)))
	}
}

// fork begins a new origin that explains a checkpoint.
func (l *testLog) fork(digit string, explains audit.Checkpoint) {
	l.origin, l.originIndex, l.readOnly = originOf(digit), int64(len(l.leaves)), ""
	leaf, err := json.Marshal(map[string]any{"kind": "fork_log", "origin": l.origin, "metadata": map[string]any{"checkpoint": explains.Text()}})
	Expect(err).NotTo(HaveOccurred())
	l.add(string(leaf))
}

// copy is a log with the first n entries, like a restored backup.
func (l *testLog) copy(n int) *testLog {
	c := &testLog{origin: l.origin, originIndex: l.originIndex, private: l.private}
	c.add(l.leaves[:n]...)
	return c
}

func (l *testLog) keys() *audit.Keys {
	keys, err := audit.ParseKeys([]byte(strings.Join(l.private, "\n")))
	Expect(err).NotTo(HaveOccurred())
	return keys
}

func (l *testLog) checkpoint() audit.Checkpoint {
	root, err := tlog.TreeHash(int64(len(l.leaves)), l.reader())
	Expect(err).NotTo(HaveOccurred())
	return audit.Checkpoint{Origin: l.origin, Size: int64(len(l.leaves)), Root: root}
}

func (l *testLog) Checkpoint(context.Context) ([]byte, error) {
	if l.failure != nil {
		return nil, l.failure
	}
	return l.keys().Sign(l.checkpoint())
}

func (l *testLog) AuditKeys(context.Context) ([]byte, error) {
	return []byte(strings.Join(l.keys().Public(), "\n") + "\n"), nil
}

func (l *testLog) Consistency(_ context.Context, from, to int64) (tlog.TreeProof, error) {
	return tlog.ProveTree(to, from, l.reader())
}

func (l *testLog) LogEntry(_ context.Context, index int64) (openapi.Evidence, error) {
	return openapi.Evidence{Index: index, Leaf: l.leaves[index]}, nil
}

func (l *testLog) Inclusion(_ context.Context, index, size int64) (tlog.RecordProof, error) {
	return tlog.ProveRecord(size, index, l.reader())
}

func (l *testLog) Published(_ context.Context, _, checkpoint string) (openapi.LogStatus, error) {
	told, err := audit.ParseCheckpoint(checkpoint)
	l.told = append(l.told, told)
	return openapi.LogStatus{Origin: l.origin, OriginIndex: l.originIndex, ReadOnly: l.readOnly}, err
}

// gauge is the value of a metric as it is scraped.
func gauge(name string) float64 {
	GinkgoHelper()
	families, err := metrics.Registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	Fail("there is no metric " + name)
	return 0
}

var _ = Describe("The publisher of checkpoints", func() {
	var (
		log       *testLog
		cluster   client.Client
		events    *kubernetesfake.Clientset
		now       time.Time
		changes   int
		publisher *Publisher
	)
	newPublisher := func() *Publisher {
		return &Publisher{
			Registry: log, Client: cluster, Reader: cluster, Events: events.EventsV1(), Cluster: "cluster", Namespace: "operator", Instance: "test",
			Workload:       corev1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: "operator", Name: "tidelock"},
			Options:        CheckpointOptions{Interval: time.Minute, Now: func() time.Time { return now }},
			VerdictChanged: func(context.Context) error { changes++; return nil },
		}
	}
	BeforeEach(func() {
		scheme := runtime.NewScheme()
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		cluster, events = fake.NewClientBuilder().WithScheme(scheme).Build(), kubernetesfake.NewClientset()
		now, changes = time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC), 0
		log = newTestLog("a")
		log.grow(5)
		publisher = newPublisher()
	})

	published := func(ctx context.Context) (sizes []int64) {
		GinkgoHelper()
		var list corev1.ConfigMapList
		Expect(cluster.List(ctx, &list)).To(Succeed())
		for i := range list.Items {
			read, err := readPublication(&list.Items[i])
			Expect(err).NotTo(HaveOccurred())
			sizes = append(sizes, read.Size)
		}
		return sizes
	}
	round := func(ctx context.Context) time.Duration {
		GinkgoHelper()
		publisher.Registry = log
		wait, err := publisher.round(ctx)
		Expect(err).NotTo(HaveOccurred())
		return wait
	}
	verdictIs := func(status metav1.ConditionStatus, reason string) {
		GinkgoHelper()
		var conditions []metav1.Condition
		publisher.SetCondition(&conditions, 1)
		Expect(conditions).To(ConsistOf(And(HaveField("Type", registryv1alpha1.ConditionAuditLogConsistent), HaveField("Status", status), HaveField("Reason", reason))))
	}
	warnings := func(ctx context.Context) []eventsv1.Event {
		GinkgoHelper()
		list, err := events.EventsV1().Events("operator").List(ctx, metav1.ListOptions{})
		Expect(err).NotTo(HaveOccurred())
		return list.Items
	}

	It("publishes one an interval at most, and only if the log has grown", func(ctx context.Context) {
		Expect(round(ctx)).To(Equal(time.Minute))
		Expect(published(ctx)).To(ConsistOf(int64(5)))
		Expect(log.told).To(HaveExactElements(log.checkpoint()), "the registry is told")
		log.grow(1)
		now = now.Add(20 * time.Second)
		Expect(round(ctx)).To(Equal(40 * time.Second))
		Expect(published(ctx)).To(ConsistOf(int64(5)))
		now = now.Add(40 * time.Second)
		log.grow(1)
		round(ctx)
		Expect(published(ctx)).To(ConsistOf(int64(5), int64(7)))
		now = now.Add(time.Hour)
		round(ctx)
		Expect(published(ctx)).To(HaveLen(2))
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
		Expect(changes).To(Equal(1))
		Expect(gauge("tidelock_audit_log_consistent")).To(Equal(1.0))
		Expect(gauge("tidelock_audit_published_entries")).To(Equal(7.0))

		By("going on after a restart where it was, also with a clock that was ahead")
		log.grow(1)
		publisher, now = newPublisher(), now.Add(-2*time.Hour)
		Expect(round(ctx)).To(Equal(time.Minute))
		Expect(published(ctx)).To(HaveLen(2))
		now = now.Add(2*time.Hour + time.Minute)
		round(ctx)
		Expect(published(ctx)).To(HaveLen(3))
	})

	It("keeps the first one of each day, and the latest ones", func(ctx context.Context) {
		for range 3 {
			for range 30 {
				log.grow(1)
				round(ctx)
				now = now.Add(time.Minute)
			}
			now = now.Add(24 * time.Hour)
		}
		want := []int64{6, 36, 66}
		for size := int64(86); size <= 95; size++ {
			want = append(want, size)
		}
		Expect(published(ctx)).To(ConsistOf(want))
		var daily corev1.ConfigMapList
		Expect(cluster.List(ctx, &daily, client.MatchingLabels{CheckpointLabel: CheckpointDaily})).To(Succeed())
		Expect(daily.Items).To(HaveLen(3))
		Expect(daily.Items).To(HaveEach(HaveField("Immutable", HaveValue(BeTrue()))))
	})

	It("gets along with another one that leads as well", func(ctx context.Context) {
		round(ctx)
		other := newPublisher()
		_, err := other.round(ctx)
		Expect(err).NotTo(HaveOccurred())
		log.grow(2)
		now = now.Add(time.Minute)
		for range 2 {
			round(ctx)
			_, err := other.round(ctx)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(published(ctx)).To(ConsistOf(int64(5), int64(7)))
		By("finding that the two were shown two logs")
		log.grow(1)
		now = now.Add(time.Minute)
		forked := log.copy(7)
		forked.add("another entry")
		round(ctx)
		other.Registry = forked
		_, err = other.round(ctx)
		Expect(err).NotTo(HaveOccurred())
		publisher = other
		verdictIs(metav1.ConditionFalse, registryv1alpha1.ReasonLogChanged)
		Expect(published(ctx)).To(HaveLen(3))
	})

	DescribeTable("publishes nothing over an inconsistency, tells of it once, and of its end", func(ctx context.Context, reason string, become func(*testLog) *testLog) {
		round(ctx)
		good := log
		log = become(log)
		for range 3 {
			now = now.Add(time.Minute)
			log.grow(1)
			round(ctx)
			verdictIs(metav1.ConditionFalse, reason)
		}
		Expect(published(ctx)).To(ConsistOf(int64(5)))
		Expect(warnings(ctx)).To(ConsistOf(And(HaveField("Type", corev1.EventTypeWarning), HaveField("Reason", EventAuditLogInconsistent), HaveField("Regarding.Name", "tidelock"))))
		Expect(changes).To(Equal(2))
		Expect(gauge("tidelock_audit_log_consistent")).To(Equal(0.0))

		By("telling nothing twice after a restart")
		publisher = newPublisher()
		round(ctx)
		Expect(warnings(ctx)).To(HaveLen(1))

		log = good
		log.grow(1)
		round(ctx)
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
		Expect(published(ctx)).To(ConsistOf(int64(5), int64(6)))
	},
		Entry("of a log that lost entries", registryv1alpha1.ReasonLogRegressed, func(l *testLog) *testLog { return l.copy(1) }),
		Entry("of a log that was changed", registryv1alpha1.ReasonLogChanged, func(l *testLog) *testLog {
			changed := &testLog{origin: l.origin, private: l.private}
			changed.add("changed")
			changed.grow(4)
			return changed
		}),
		Entry("of another log", registryv1alpha1.ReasonOriginUnexplained, func(l *testLog) *testLog {
			another := &testLog{origin: originOf("b"), private: l.private}
			another.grow(9)
			return another
		}),
		Entry("of a fork that explains something else", registryv1alpha1.ReasonOriginUnexplained, func(l *testLog) *testLog {
			forked, other := l.copy(3), l.copy(4)
			forked.fork("b", other.checkpoint())
			return forked
		}),
		Entry("of a log that cannot be proven", registryv1alpha1.ReasonLogChanged, func(l *testLog) *testLog {
			broken := l.copy(5)
			broken.failure = &registryclient.Error{Status: 500, Code: domain.CodeLogInconsistent}
			return broken
		}),
		Entry("of a log that another key signs", registryv1alpha1.ReasonSignatureInvalid, func(l *testLog) *testLog {
			another := l.copy(5)
			another.private = []string{newKey()}
			return another
		}),
		Entry("of a registry that says so", registryv1alpha1.ReasonRegistryReadOnly, func(l *testLog) *testLog {
			stopped := l.copy(5)
			stopped.readOnly = "something was published"
			return stopped
		}),
	)

	It("goes on under the origin of a fork that explains what was published", func(ctx context.Context) {
		round(ctx)
		last := log.checkpoint()
		log = log.copy(3)
		now = now.Add(time.Minute)
		round(ctx)
		verdictIs(metav1.ConditionFalse, registryv1alpha1.ReasonLogRegressed)
		log.fork("b", last)
		now = now.Add(time.Minute)
		round(ctx)
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
		Expect(published(ctx)).To(ConsistOf(int64(5), int64(4)))
		By("knowing after a restart which one is the last")
		log.grow(1)
		now = now.Add(time.Minute)
		publisher = newPublisher()
		round(ctx)
		Expect(log.told[len(log.told)-2:]).To(HaveEach(HaveField("Origin", originOf("b"))))
		Expect(published(ctx)).To(ConsistOf(int64(5), int64(4), int64(5)))
	})

	It("trusts a new key that signs beside the one that it knows", func(ctx context.Context) {
		round(ctx)
		step := func(private ...string) {
			GinkgoHelper()
			log.private = private
			log.grow(1)
			now = now.Add(time.Minute)
			round(ctx)
		}
		first, second := log.private[0], newKey()
		step(first, second)
		publisher = newPublisher()
		step(second)
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
		Expect(published(ctx)).To(HaveLen(3))
		step(first)
		verdictIs(metav1.ConditionFalse, registryv1alpha1.ReasonSignatureInvalid)
	})

	It("trusts no other keys than those of a file, if there is one", func(ctx context.Context) {
		file := filepath.Join(GinkgoT().TempDir(), "keys")
		_, other, err := audit.GenerateKey("tidelock")
		Expect(err).NotTo(HaveOccurred())
		publisher.Options.KeyFile = file
		Expect(os.WriteFile(file, []byte(other+"\n"), 0o600)).To(Succeed())
		round(ctx)
		verdictIs(metav1.ConditionFalse, registryv1alpha1.ReasonSignatureInvalid)
		Expect(published(ctx)).To(BeEmpty())
		Expect(os.WriteFile(file, []byte(other+"\n"+log.keys().Public()[0]+"\n"), 0o600)).To(Succeed())
		round(ctx)
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
		Expect(published(ctx)).To(HaveLen(1))
	})

	It("does not take a ConfigMap for its own that somebody else has made", func(ctx context.Context) {
		forged := publication{Checkpoint: log.checkpoint(), note: []byte(log.checkpoint().Text()), at: now}
		public, err := log.AuditKeys(ctx)
		Expect(err).NotTo(HaveOccurred())
		forged.keys = public
		Expect(cluster.Create(ctx, forged.configMap("operator"))).To(Succeed())
		round(ctx)
		verdictIs(metav1.ConditionFalse, registryv1alpha1.ReasonPublishedInvalid)
		Expect(cluster.Delete(ctx, forged.configMap("operator"))).To(Succeed())
		round(ctx)
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
	})

	It("says that nothing is known when the registry has not answered for ten minutes", func(ctx context.Context) {
		round(ctx)
		log.failure = errors.New("away")
		for range 10 {
			now = now.Add(time.Minute)
			_, err := publisher.round(ctx)
			Expect(err).To(MatchError(ContainSubstring("away")))
		}
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
		now = now.Add(time.Second)
		_, err := publisher.round(ctx)
		Expect(err).To(HaveOccurred())
		verdictIs(metav1.ConditionUnknown, registryv1alpha1.ReasonLogUnproven)
		log.failure = nil
		round(ctx)
		verdictIs(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)
	})

	It("brings what was published before the registry may take writes", func(ctx context.Context) {
		round(ctx)
		log.told = nil
		registry := &stubRegistry{}
		synchronizer := NewSynchronizer(fake.NewClientBuilder().WithScheme(testScheme()).Build(), registry, "cluster")
		synchronizer.Before = func(ctx context.Context) error {
			Expect(registry.present).To(BeEmpty())
			return errors.Join(newPublisher().Bring(ctx), errors.New("not yet"))
		}
		_, err := synchronizer.report(ctx, 0)
		Expect(err).To(MatchError(ContainSubstring("not yet")))
		Expect(registry.present).To(BeEmpty())
		Expect(log.told).To(HaveExactElements(log.checkpoint()))
	})
})
