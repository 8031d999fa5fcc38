package controllers

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	clienttesting "k8s.io/client-go/testing"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("The projector", func() {
	var (
		registry  *stubRegistry
		cluster   *fake.Clientset
		projector *Projector
		recovered atomic.Int32
	)

	BeforeEach(func() {
		registry = &stubRegistry{origin: "origin"}
		cluster = fake.NewClientset()
		recovered.Store(0)
		projector = &Projector{
			Registry: registry, Events: cluster.EventsV1(), Ledger: &EventLedger{Registry: registry},
			Namespace: "tidelock-system", Instance: "tidelock-0", Pace: EventPace{Burst: 100_000, BurstRate: 100_000, Rate: 40},
			Workload:      corev1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: "tidelock-system", Name: "tidelock"},
			CountsChanged: func(types.NamespacedName) {}, AccessChanged: func(types.NamespacedName) {},
			Recovered: func(context.Context) error {
				recovered.Add(1)
				return nil
			},
		}
	})

	// start runs the projector until the test ends.
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer GinkgoRecover()
			defer close(done)
			Expect(projector.Start(ctx)).To(Succeed())
		}()
		stop = func() {
			cancel()
			<-done
		}
		DeferCleanup(stop)
		return stop
	}

	// answers makes the API server answer the first n creations with err.
	answers := func(n int32, err error) {
		var count atomic.Int32
		cluster.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			return count.Add(1) <= n, nil, err
		})
	}

	events := func(ctx context.Context, namespace string) []eventsv1.Event {
		list, err := cluster.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
		Expect(err).NotTo(HaveOccurred())
		return list.Items
	}

	resource := eventsv1.Resource("events")

	It("moves its cursor in batches behind what it has made", func(ctx context.Context) {
		many := &memoryEvents{before: func() {}}
		projector.Events = many
		registry.appendLocked("p", 1203)
		start()
		Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(1203)))
		Expect(many.count.Load()).To(BeEquivalentTo(1203))
	})

	DescribeTable("loses nothing while the API server",
		func(ctx context.Context, err error) {
			answers(20, err)
			registry.appendLocked("p", 50)
			start()
			Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(50)))
			Expect(events(ctx, "team-a")).To(HaveLen(50))
		},
		Entry("throttles", apierrors.NewTooManyRequests("slow down", 0)),
		Entry("is not there", errors.New("connection refused")),
		Entry("has not given the right yet", apierrors.NewForbidden(resource, "", errors.New(`User "operator" cannot create resource "events" in API group "events.k8s.io" in the namespace "team-a"`))),
		Entry("times out", apierrors.NewServerTimeout(resource, "create", 0)),
	)

	It("counts an Event that is refused for good, and goes on", func(ctx context.Context) {
		answers(1, apierrors.NewInvalid(eventsv1.SchemeGroupVersion.WithKind("Event").GroupKind(), "e", nil))
		registry.appendLocked("p", 10)
		start()
		Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(10)))
		Expect(events(ctx, "team-a")).To(HaveLen(9))
	})

	DescribeTable("puts Events into its own namespace, about the same object, where the object's",
		func(ctx context.Context, err error) {
			answers(1, err)
			registry.appendLocked("p", 1)
			start()
			Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(1)))
			Expect(events(ctx, "tidelock-system")).To(ConsistOf(HaveField("Regarding", And(HaveField("Namespace", "team-a"), HaveField("Name", "p")))))
		},
		Entry("is gone", apierrors.NewNotFound(corev1.Resource("namespaces"), "team-a")),
		Entry("is ending", &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 403, Reason: metav1.StatusReasonForbidden,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}},
		}}),
		Entry("has no room for more", apierrors.NewForbidden(resource, "e", errors.New("exceeded quota: events"))),
	)

	It("goes on from another's cursor when it loses the race, and makes nothing twice", func(ctx context.Context) {
		registry.appendLocked("p", 20)
		var raced atomic.Bool
		registry.onMove = func() {
			if raced.CompareAndSwap(false, true) {
				registry.set(func() { registry.cursor = 12 })
			}
		}
		start()
		Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(20)))
		Expect(events(ctx, "team-a")).To(HaveLen(20))
		Expect(projector.Ledger.Count(ctx, "p", nil)).To(Equal(&registryv1alpha1.EventsStatus{Emitted: 20, NextAuditIndex: 20}))
	})

	It("has everything put again when the registry was away, and when its log is another", func(ctx context.Context) {
		registry.appendLocked("p", 1)
		start()
		Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(1)))
		Expect(recovered.Load()).To(BeZero())
		registry.set(func() { registry.logError = errors.New("connection refused") })
		Consistently(recovered.Load).WithTimeout(200 * time.Millisecond).Should(BeZero())
		registry.set(func() { registry.logError, registry.waits = nil, nil })
		Eventually(recovered.Load).Should(Equal(int32(1)))
		registry.set(func() { Expect(registry.waits[0]).To(BeZero(), "an empty log would keep it waiting") })
		registry.set(func() { registry.origin = "restored" })
		Eventually(recovered.Load).Should(Equal(int32(2)))
	})

	It("holds no more of the log than a batch, and no more requests than it has workers, while the API server does not answer", func(ctx context.Context) {
		var asked atomic.Int32
		answer := make(chan struct{})
		release := sync.OnceFunc(func() { close(answer) })
		many := &memoryEvents{before: func() {
			asked.Add(1)
			<-answer
		}}
		projector.Events = many
		registry.appendLocked("p", 5000)
		start()
		DeferCleanup(release)
		Eventually(asked.Load).Should(BeEquivalentTo(eventWorkers))
		Consistently(asked.Load).WithTimeout(200 * time.Millisecond).Should(BeEquivalentTo(eventWorkers))
		registry.set(func() { Expect(registry.reads).To(Equal([]int{logBatch})) })
		release()
		Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(5000)))
		Expect(many.count.Load()).To(BeEquivalentTo(5000))
		registry.set(func() { Expect(registry.reads).To(HaveEach(BeNumerically("<=", logBatch))) })
	})

	It("keeps its pace", func(ctx context.Context) {
		projector.Pace = EventPace{Burst: 5, BurstRate: 100_000, Rate: 50}
		registry.appendLocked("p", 15)
		began := time.Now()
		start()
		Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(15)))
		Expect(time.Since(began)).To(BeNumerically(">=", 190*time.Millisecond))
	})

	Describe("that takes the place of another", func() {
		left := func() float64 { return projector.sustained.Tokens() }

		It("goes on with what that one left of the burst", func(ctx context.Context) {
			projector.Pace = EventPace{Burst: 1000, BurstRate: 100_000, Rate: 0.1}
			projector.Events = &memoryEvents{before: func() {}}
			registry.appendLocked("p", 600)
			stop := start()
			Eventually(registry.LogCursor).WithArguments(ctx, cursorName).Should(Equal(int64(600)))
			Eventually(registry.LogCursor).WithArguments(ctx, paceName).Should(BeNumerically("~", time.Now().Add(6000*time.Second).UnixMilli(), 30_000))
			stop()
			Expect(projector.loadPace(ctx)).To(Succeed())
			Expect(left()).To(BeNumerically("~", 400, 5))
		})

		It("has the whole burst again once enough time has passed, and never less than nothing", func(ctx context.Context) {
			projector.Pace = EventPace{Burst: 1000, BurstRate: 100_000, Rate: 0.1}
			registry.pace = time.Now().Add(-time.Second).UnixMilli()
			Expect(projector.loadPace(ctx)).To(Succeed())
			Expect(left()).To(BeNumerically("~", 1000, 1))
			registry.pace = time.Now().Add(24 * time.Hour).UnixMilli()
			Expect(projector.loadPace(ctx)).To(Succeed())
			Expect(left()).To(BeNumerically("~", 0, 1))
		})

		It("takes what another one uses at the same time from the same bucket", func(ctx context.Context) {
			projector.Pace = EventPace{Burst: 1000, BurstRate: 100_000, Rate: 0.1}
			Expect(projector.loadPace(ctx)).To(Succeed())
			Expect(projector.sustained.AllowN(time.Now(), 100)).To(BeTrue())
			registry.pace = time.Now().Add(3000 * time.Second).UnixMilli() // 300 of them
			Expect(projector.savePace(ctx)).To(Succeed())
			Expect(left()).To(BeNumerically("~", 700, 5))
		})
	})
})

// memoryEvents keeps the names of many Events. The fake cluster takes one call at a time, and long for each.
type memoryEvents struct {
	eventsclient.EventInterface
	names sync.Map
	count atomic.Int32
	// before is called before each Event is created.
	before func()
}

func (m *memoryEvents) Events(string) eventsclient.EventInterface { return m }

func (m *memoryEvents) Create(_ context.Context, event *eventsv1.Event, _ metav1.CreateOptions) (*eventsv1.Event, error) {
	m.before()
	if _, there := m.names.LoadOrStore(event.Name, true); there {
		return nil, apierrors.NewAlreadyExists(eventsv1.Resource("events"), event.Name)
	}
	m.count.Add(1)
	return event, nil
}

var _ = Describe("An Event", func() {
	from := origin{log: "origin", namespace: "tidelock-system", instance: "tidelock-0",
		workload: corev1.ObjectReference{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: "tidelock-system", Name: "tidelock"}}
	entry := func(change ...func(*openapi.LogEntry)) openapi.LogEntry {
		e := openapi.LogEntry{
			Index: 7, Hash: "h", Kind: "change_tag_immutability", Organization: "team-a", Repository: "app", Tag: "v1", Policy: "uuid", Time: time.Unix(1_800_000_000, 0),
			Manager:  &openapi.Manager{Kind: policyKind, Namespace: "team-a", Name: "releases", UID: "uid"},
			Metadata: map[string]any{"trigger": "policy", "hold": "placed", "immutable": true, "previous_immutable": false, "manifest_digest": "sha256:abc", "policy_pattern": "v.*"},
		}
		for _, f := range change {
			f(&e)
		}
		return e
	}
	with := func(field string, value any) func(*openapi.LogEntry) {
		return func(e *openapi.LogEntry) { e.Metadata[field] = value }
	}
	kind := func(kind string) func(*openapi.LogEntry) { return func(e *openapi.LogEntry) { e.Kind = kind } }
	// policyEntry is about a policy itself, by the registry's user ann.
	policyEntry := func(change ...func(*openapi.LogEntry)) openapi.LogEntry {
		e := entry(change...)
		e.Repository, e.Tag, e.Performer = "", "", openapi.Performer{Kind: "user", Name: "ann"}
		return e
	}

	DescribeTable("is made of", func(e openapi.LogEntry, made bool) { Expect(becomesEvent(e)).To(Equal(made)) },
		Entry("a push of a covered tag", entry(kind("tag_created_immutable_by_policy")), true),
		Entry("a hold that a sweep placed", entry(), true),
		Entry("not a hold by hand", entry(with("trigger", "manual")), false),
		Entry("a refused push", entry(kind("push_repo_failed")), true),
		Entry("a refused deletion", entry(kind("delete_tag_failed")), true),
		Entry("not a repeated refusal", entry(kind("push_repo_failed"), with("repeat_of", "x")), false),
		Entry("not a refusal for a hold by hand", entry(kind("push_repo_failed"), func(e *openapi.LogEntry) { e.Policy = "" }), false),
		Entry("not the summary of a sweep", entry(kind("apply_immutability_policy_retroactive")), false),
		Entry("where summaries are asked for: the summary of a sweep", entry(kind("apply_immutability_policy_retroactive"), with("events", "Summary")), true),
		Entry("where summaries are asked for: no hold that a sweep placed", entry(with("events", "Summary")), false),
		Entry("where summaries are asked for: no push of a covered tag", entry(kind("tag_created_immutable_by_policy"), with("events", "Summary")), false),
		Entry("where summaries are asked for: a refused push", entry(kind("push_repo_failed"), with("events", "Summary")), true),
		Entry("a refused change of a locked policy", entry(kind("update_immutability_policy_failed")), true),
		Entry("a refused deletion of a locked policy", entry(kind("delete_immutability_policy_failed")), true),
		Entry("not a repeated one", entry(kind("delete_immutability_policy_failed"), with("repeat_of", "x")), false),
		Entry("a lock that was broken", entry(kind("unlock_immutability_policy")), true),
		Entry("not a changed policy", entry(kind("update_immutability_policy")), false),
		Entry("not a dry run", entry(kind("immutability_dry_run")), false),
		Entry("not a push of another tag", entry(kind("create_tag")), false),
		Entry("a grant", entry(kind("grant_readonly_superuser")), true),
		Entry("a changed grant", entry(kind("change_readonly_superuser"), with("previous_access", "Full")), true),
		Entry("not a grant that stays what it was", entry(kind("change_readonly_superuser")), false),
		Entry("a revoked grant", entry(kind("revoke_readonly_superuser")), true),
		Entry("a grant that has ended", entry(kind("expire_readonly_superuser")), true),
	)

	DescribeTable("says", func(e openapi.LogEntry, kind, reason, note string) {
		event := newEvent(from, e)
		Expect([]string{event.Type, event.Reason, event.Note}).To(Equal([]string{kind, reason, note}))
	},
		Entry("what is locked", entry(), "Normal", "TagLocked", "team-a/app:v1 is locked at sha256:abc by pattern v.*"),
		Entry("what is released", entry(with("hold", "removed"), with("immutable", false), with("previous_immutable", true)),
			"Normal", "TagReleased", "team-a/app:v1 at sha256:abc is no longer held by pattern v.*"),
		Entry("what is released by one of several", entry(with("hold", "removed"), with("previous_immutable", true)),
			"Normal", "TagReleased", "team-a/app:v1 at sha256:abc is no longer held by pattern v.*; something else still locks it"),
		Entry("what is locked by one of several", entry(with("previous_immutable", true)),
			"Normal", "TagLocked", "team-a/app:v1 is locked at sha256:abc by pattern v.*"),
		Entry("what is refused", entry(kind("push_repo_failed"), with("operation", "overwrite"), with("reason", "it is locked"), with("attempted_digest", "sha256:def"),
			func(e *openapi.LogEntry) { e.Performer = openapi.Performer{Kind: "user", Name: "ann"} }),
			"Warning", "PushRefused", "refused user ann to overwrite team-a/app:v1: it is locked; attempted sha256:def"),
		Entry("what is refused about a whole repository", entry(kind("delete_repo_failed"), with("operation", "delete"), with("reason", "it holds locked tags"),
			func(e *openapi.LogEntry) { e.Tag, e.Performer = "", openapi.Performer{Kind: "user", Name: "ann"} }),
			"Warning", "DeleteRefused", "refused user ann to delete team-a/app: it holds locked tags"),
		Entry("what admission refused of a locked policy", policyEntry(kind("delete_immutability_policy_failed"), with("operation", "delete"), with("reason", "it is locked"), with("applied_by", "ann")),
			"Warning", "PolicyChangeRefused", "refused Kubernetes user ann to delete policy uuid of team-a: it is locked"),
		Entry("what the registry refused of a locked policy", policyEntry(kind("update_immutability_policy_failed"), with("operation", "update"), with("reason", "it is locked")),
			"Warning", "PolicyChangeRefused", "refused user ann to update policy uuid of team-a: it is locked"),
		Entry("whose lock was broken, and why", policyEntry(kind("unlock_immutability_policy"), with("locked_until", "2027-01-01T00:00:00Z"), with("reason", "a wrong pattern")),
			"Warning", "PolicyUnlocked", "the lock of policy uuid of team-a until 2027-01-01T00:00:00Z was broken: a wrong pattern"),
	)

	summary := func(change ...func(*openapi.LogEntry)) openapi.LogEntry {
		return entry(append([]func(*openapi.LogEntry){func(e *openapi.LogEntry) {
			e.Kind, e.Tag, e.Repository = "apply_immutability_policy_retroactive", "", ""
			e.Metadata = map[string]any{
				"events": "Summary", "sweep": "apply", "state": "done", "tag_pattern": "v.*",
				"tags_affected_count": 847., "sample_tags": []any{"app:v1", "app:v2"},
			}
		}}, change...)...)
	}

	DescribeTable("sums up", func(e openapi.LogEntry, reason, note string) {
		event := newEvent(from, e)
		Expect([]string{event.Type, event.Reason, event.Action, event.Note}).To(Equal([]string{"Normal", reason, "Sweep", note}))
	},
		Entry("what a sweep locked", summary(), "TagsLocked", "tags in team-a locked by pattern v.*: 847 (app:v1, app:v2 and 845 more)"),
		Entry("what it locked in a repository", summary(func(e *openapi.LogEntry) { e.Repository = "app" }, with("tags_affected_count", 2.)),
			"TagsLocked", "tags in team-a/app locked by pattern v.*: 2 (app:v1, app:v2)"),
		Entry("what a closing sweep locked until it was stopped", summary(with("sweep", "close"), with("state", "stopped")),
			"TagsLocked", "tags in team-a locked by pattern v.* before a change of the policy stopped the sweep: 847 (app:v1, app:v2 and 845 more)"),
		Entry("what it released", summary(with("sweep", "release")), "TagsReleased", "tags in team-a no longer held by pattern v.*: 847 (app:v1, app:v2 and 845 more)"),
	)

	access := func(of string, change ...func(*openapi.LogEntry)) openapi.LogEntry {
		return entry(append([]func(*openapi.LogEntry){func(e *openapi.LogEntry) {
			e.Kind, e.Organization, e.Repository, e.Tag, e.Policy = of, "", "", "", ""
			e.Manager = &openapi.Manager{Kind: readonlyKind, Name: "auditor", UID: "uid"}
			e.Metadata = map[string]any{"subject_kind": "RegistryUser", "username": "ada", "access": "Full"}
		}}, change...)...)
	}

	DescribeTable("tells of an access:", func(e openapi.LogEntry, reason, action, note string) {
		event := newEvent(from, e)
		Expect([]string{event.Namespace, event.Type, event.Reason, event.Action, event.Note}).To(Equal([]string{"default", "Normal", reason, action, note}))
		Expect(event.Regarding).To(Equal(corev1.ObjectReference{APIVersion: "registry.tidelock.dev/v1alpha1", Kind: "ReadonlySuperuser", Name: "auditor", UID: "uid"}))
	},
		Entry("that it was granted", access("grant_readonly_superuser", with("applied_by", "root")), "AccessGranted", "Grant", "RegistryUser ada reads everything and writes nothing; by root"),
		Entry("that it was granted for a time, and not for images", access("grant_readonly_superuser", with("access", "MetadataOnly"), with("expires_at", "2026-12-01T00:00:00Z")),
			"AccessGranted", "Grant", "RegistryUser ada reads everything but blobs and writes nothing, until 2026-12-01T00:00:00Z"),
		Entry("that it was changed", access("change_readonly_superuser", with("previous_access", "MetadataOnly"), with("applied_by", "root")),
			"AccessChanged", "Change", "RegistryUser ada now reads everything and writes nothing; by root"),
		Entry("that it was revoked", access("revoke_readonly_superuser", with("applied_by", "root")), "AccessRevoked", "Revoke", "RegistryUser ada is no readonly superuser any more; by root"),
		Entry("that it has ended", access("expire_readonly_superuser", with("expires_at", "2026-12-01T00:00:00Z")),
			"AccessExpired", "Expire", "RegistryUser ada has no access any more: it has ended at 2026-12-01T00:00:00Z"),
	)

	It("has a name of its own for each entry of each log", func() {
		other := entry(func(e *openapi.LogEntry) { e.Hash = "other" })
		elsewhere := from
		elsewhere.log = "restored"
		names := []string{newEvent(from, entry()).Name, newEvent(from, other).Name, newEvent(elsewhere, entry()).Name}
		Expect(newEvent(from, entry()).Name).To(Equal(names[0]))
		Expect(names[1]).NotTo(Or(Equal(names[0]), Equal(names[2])))
		Expect(names[2]).NotTo(Equal(names[0]))
	})

	It("is about the workload where no object declares the policy, and in the namespace default where neither has one", func() {
		event := newEvent(from, entry(func(e *openapi.LogEntry) { e.Manager = nil }))
		Expect(event.Namespace).To(Equal("tidelock-system"))
		Expect(event.Regarding).To(Equal(from.workload))
		event = newEvent(from, entry(func(e *openapi.LogEntry) { e.Manager = &openapi.Manager{Kind: "ReadonlySuperuser", Name: "auditor"} }))
		Expect(event.Namespace).To(Equal("default"))
	})

	It("stays within what the API server takes", func() {
		event := newEvent(from, entry(with("policy_pattern", strings.Repeat("é", 1000))))
		Expect(len(event.Note)).To(BeNumerically("<=", 1024))
		Expect(event.Note).To(HaveSuffix("é…"))
	})
})
