package forward_test

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/forward"
)

// gathered returns a number of a forwarder's metrics, by receiver.
func gathered(f *forward.Forwarder, name, receiver string) float64 {
	GinkgoHelper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(f.Metrics()...)
	families, err := registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == receiver {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return math.NaN()
}

var _ = Describe("A webhook", func() {
	var log *replica
	var dir string
	var to *receiver
	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		log, to = newReplica(dir, core.Options{}), newReceiver()
	})

	It("gets each entry in order, as CloudEvents, from the first on", func() {
		log.pushes(0, 5)
		f, _ := forwarding(log, forward.Options{}, to.target())
		log.pushes(5, 10)
		to.has(log.indexed())
		views, err := log.ReadLog(ctx, 0, 100)
		Expect(err).NotTo(HaveOccurred())
		origin, err := log.LogOrigin(ctx)
		Expect(err).NotTo(HaveOccurred())
		for _, d := range to.accepted() {
			Expect(d.header.Get("Content-Type")).To(Equal("application/cloudevents-batch+json; charset=UTF-8"))
			for _, e := range d.events {
				Expect(e.SpecVersion).To(Equal("1.0"))
				Expect(e.Source).To(Equal(origin))
				Expect(e.DataContentType).To(Equal("application/json"))
			}
		}
		last := to.accepted()[len(to.accepted())-1].events
		e, view := last[len(last)-1], views[len(views)-1]
		Expect(e.Type).To(Equal("dev.tidelock.registry.audit.move_tag"))
		Expect(e.Subject).To(Equal("team-a/app:latest"))
		Expect(e.Time).To(BeTemporally("==", view.Time))
		want, err := json.Marshal(map[string]any{
			"origin": origin, "index": view.Index, "hash": view.Hash.String(), "time": view.Time, "kind": "move_tag", "ip": "192.0.2.7",
			"performer": map[string]any{"kind": "user", "name": "alice"}, "metadata": view.Metadata,
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(e.Data).To(MatchJSON(want))
		Eventually(func() float64 { return gathered(f, "tidelock_audit_forward_lag_entries", "siem") }).WithTimeout(patience).Should(BeZero())
		Expect(gathered(f, "tidelock_audit_forwarded_entries_total", "siem")).To(Equal(float64(log.size())))
	})

	It("goes on after a restart where it was", func() {
		log.pushes(0, 3)
		_, stop := forwarding(log, forward.Options{}, to.target())
		size := log.indexed()
		to.has(size)
		Eventually(func() (int64, error) { return log.LogCursor(ctx, "forward.siem") }).WithTimeout(patience).Should(BeEquivalentTo(size))
		stop()
		log.pushes(3, 6)
		log.stop()
		log = newReplica(dir, core.Options{})
		log.pushes(6, 9)
		forwarding(log, forward.Options{}, to.target())
		to.has(log.indexed())
	})

	It("gets what it refused again, with the same id and another signature, until it accepts it", func() {
		to.decide(func(w http.ResponseWriter, n int, _ []event) bool {
			for i, status := range []int{500, 400, 401, 410, 429, 503, 100 + 199} {
				if n == i {
					w.WriteHeader(status)
					return status < 300
				}
			}
			return true
		})
		log.pushes(0, 3)
		size := log.indexed()
		f, _ := forwarding(log, forward.Options{}, to.target())
		to.has(size)
		requests := to.asked()
		Expect(requests).To(HaveLen(7))
		for _, r := range requests {
			Expect(r.header.Get("webhook-id")).To(Equal(requests[0].header.Get("webhook-id")))
		}
		Expect(gathered(f, "tidelock_audit_forward_failures_total", "siem")).To(Equal(6.0))
	})

	It("is left alone for as long as it asks", func() {
		to.decide(func(w http.ResponseWriter, n int, _ []event) bool {
			if n == 0 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n > 0
		})
		log.pushes(0, 1)
		forwarding(log, forward.Options{}, to.target())
		to.has(log.indexed())
		Expect(to.asked()[1].at.Sub(to.asked()[0].at)).To(BeNumerically(">=", time.Second))
	})

	It("may be away: nothing is missing once it is back", func() {
		address := to.Listener.Addr().String()
		to.Close()
		log.pushes(0, 3)
		f, _ := forwarding(log, forward.Options{}, to.target())
		Eventually(func() float64 { return gathered(f, "tidelock_audit_forward_failures_total", "siem") }).WithTimeout(patience).Should(BeNumerically(">", 2))
		size := log.indexed()
		Expect(gathered(f, "tidelock_audit_forward_lag_entries", "siem")).To(Equal(float64(size)))
		log.pushes(3, 6)
		back := httptest.NewUnstartedServer(http.HandlerFunc(to.serve))
		Expect(back.Listener.Close()).To(Succeed())
		back.Listener = listen(address)
		back.Start()
		DeferCleanup(back.Close)
		to.has(log.indexed())
	})

	It("may be slow: pushes go on, and the database is free", func() {
		release := make(chan struct{})
		to.decide(func(http.ResponseWriter, int, []event) bool {
			<-release
			return true
		})
		log.pushes(0, 1)
		forwarding(log, forward.Options{}, to.target())
		Eventually(func() int { return len(to.asked()) }).WithTimeout(patience).Should(Equal(1))
		log.pushes(1, 200)
		size := log.indexed()
		Expect(to.accepted()).To(BeEmpty(), "the receiver has not answered yet")
		close(release)
		to.has(size)
	})

	It("is not followed to another address", func() {
		elsewhere := atomic.Int64{}
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
		DeferCleanup(other.Close)
		to.decide(func(w http.ResponseWriter, n int, _ []event) bool {
			if n < 2 {
				w.Header().Set("Location", other.URL)
				w.WriteHeader([]int{http.StatusTemporaryRedirect, http.StatusFound}[n])
			}
			return n >= 2
		})
		log.pushes(0, 1)
		forwarding(log, forward.Options{}, to.target())
		to.has(log.indexed())
		Expect(elsewhere.Load()).To(BeZero())
	})

	It("gets less at once if that is too large", func() {
		to.decide(func(w http.ResponseWriter, _ int, events []event) bool {
			if len(events) > 3 {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
			return len(events) <= 3
		})
		log.pushes(0, 20)
		size := log.indexed()
		forwarding(log, forward.Options{}, to.target())
		to.has(size)
	})

	It("is called over TLS, and only if its certificate leads to the right authority", func() {
		ca := to.overTLS()
		log.pushes(0, 1)
		f, stop := forwarding(log, forward.Options{}, to.target())
		Eventually(func() float64 { return gathered(f, "tidelock_audit_forward_failures_total", "siem") }).WithTimeout(patience).Should(BeNumerically(">", 0))
		Expect(to.asked()).To(BeEmpty())
		stop()
		forwarding(log, forward.Options{}, to.target("ca-file="+ca))
		to.has(log.indexed())
	})

	It("is signed with each key of the file, which may change", func() {
		Expect(os.WriteFile(to.secretFile, []byte(keyB+"\n"+keyA+"\n"), 0o600)).To(Succeed())
		log.pushes(0, 1)
		forwarding(log, forward.Options{}, to.target())
		to.has(log.indexed())
		Expect(to.accepted()[0].keys).To(ConsistOf(keyA, keyB))
		Expect(os.WriteFile(to.secretFile, []byte(keyB), 0o600)).To(Succeed())
		log.pushes(1, 2)
		to.has(log.indexed())
		Expect(to.accepted()[len(to.accepted())-1].keys).To(ConsistOf(keyB))
	})

	It("is one of several, each at its own pace", func() {
		stuck := newReceiver()
		stuck.decide(func(w http.ResponseWriter, _ int, _ []event) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return false
		})
		log.pushes(0, 3)
		f, _ := forwarding(log, forward.Options{}, to.target(), stuck.URL+"/hook?tenant=a#name=stuck&secret-file="+stuck.secretFile)
		size := log.indexed()
		to.has(size)
		Expect(gathered(f, "tidelock_audit_forward_lag_entries", "stuck")).To(Equal(float64(size)))
	})
})

var _ = Describe("Two replicas", func() {
	It("forward one at a time, and the other goes on when one dies", func() {
		dir, to := GinkgoT().TempDir(), newReceiver()
		options := core.Options{Replicas: true, LeaseTerm: 600 * time.Millisecond}
		var replicas [2]*replica
		var forwarders [2]*forward.Forwarder
		if onSQLite() {
			// One process has the file: the replicas are two cores of it.
			replicas[0] = newReplica(dir, options)
			replicas[1] = &replica{store: &mortalStore{Store: replicas[0].store.Store}}
			replicas[1].Core = core.New(replicas[1].store, options)
			running, cancel := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- replicas[1].Run(running) }()
			DeferCleanup(func() {
				cancel()
				Eventually(done).WithTimeout(patience).Should(Receive())
			})
		} else {
			replicas = [2]*replica{newReplica(dir, options), newReplica(dir, options)}
		}
		for i, r := range replicas {
			forwarders[i], _ = forwarding(r, forward.Options{}, to.target())
		}
		replicas[0].pushes(0, 20)
		size := replicas[1].indexed()
		to.has(size)
		forwarded := func(i int) float64 { return gathered(forwarders[i], "tidelock_audit_forwarded_entries_total", "siem") }
		Eventually(func() float64 { return forwarded(0) + forwarded(1) }).WithTimeout(patience).Should(Equal(float64(size)))
		leader := 0
		if forwarded(1) > 0 {
			leader = 1
		}
		Expect(forwarded(1 - leader)).To(BeZero())

		By("losing the one that forwards")
		survivor := replicas[1-leader]
		replicas[leader].store.dead.Store(true)
		survivor.pushes(20, 40)
		size = survivor.indexed()
		Eventually(func() int { return len(to.indices()) }).WithTimeout(patience).Should(BeNumerically(">=", size))
		expectAtLeastOnce(to.indices(), size)
		Eventually(forwarded).WithArguments(1 - leader).WithTimeout(patience).Should(BeNumerically(">=", 20))
		replicas[leader].store.dead.Store(false)
	})
})

// expectAtLeastOnce checks that all indices below size came, none before the one below it.
func expectAtLeastOnce(indices []int, size int) {
	GinkgoHelper()
	next := 0
	for _, index := range indices {
		Expect(index).To(BeNumerically("<=", next))
		next = max(next, index+1)
	}
	Expect(next).To(Equal(size))
}
