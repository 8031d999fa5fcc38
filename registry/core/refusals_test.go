package core_test

import (
	"errors"
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = eachEngine("Refusals", func(h *harness) {
	BeforeEach(func() {
		h.mustPush(app, "v1")
		h.mustCreate(teamA, releases)
	})

	It("are an entry at first, and then counted into one closing entry", func() {
		for range 25 {
			_, err := h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeTagImmutable))
		}
		first := h.entries(audit.KindPushFailed)
		Expect(first).To(HaveLen(1))
		h.clock.Advance(time.Minute)
		Eventually(func() int { return len(h.entries(audit.KindPushFailed)) }).WithTimeout(patience).Should(Equal(2))
		closing := h.entries(audit.KindPushFailed)[1]
		Expect(closing.Metadata).To(And(HaveKeyWithValue("repeat_of", first[0].Hash.String()), HaveKeyWithValue("count", BeNumerically("==", 24)),
			HaveKey("first_time"), HaveKey("last_time"), HaveKeyWithValue("attempted_digests", HaveLen(10)), HaveKeyWithValue("tag", "v1")))
		By("opening a new window afterwards")
		_, err := h.push(app, "v1")
		Expect(err).To(HaveOccurred())
		Expect(h.entries(audit.KindPushFailed)).To(HaveLen(3))
	})

	It("are apart for another caller, operation and tag", func() {
		h.mustPush(app, "v2")
		bob := domain.Caller{Name: "bob", Kind: domain.CallerUser}
		for range 2 {
			Expect(h.DeleteTag(ctx, alice, app, "v1")).NotTo(Succeed())
			Expect(h.DeleteTag(ctx, bob, app, "v1")).NotTo(Succeed())
			Expect(h.DeleteTag(ctx, alice, app, "v2")).NotTo(Succeed())
			_, err := h.push(app, "v1")
			Expect(err).To(HaveOccurred())
		}
		Expect(h.entries(audit.KindDeleteTagFailed)).To(HaveLen(3))
		Expect(h.entries(audit.KindPushFailed)).To(HaveLen(1))
	})

	It("past 100 open windows share one for the repository, which lists each tag", func() {
		const tags = 150
		for i := range tags {
			_, err := h.pushContent(app, fmt.Sprintf("v1.%d", i), `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
		for i := range tags {
			for range 2 {
				Expect(h.DeleteTag(ctx, alice, app, fmt.Sprintf("v1.%d", i))).NotTo(Succeed())
			}
		}
		Expect(h.entries(audit.KindDeleteTagFailed)).To(HaveLen(101))
		h.stop()
		h.run()
		all := h.entries(audit.KindDeleteTagFailed)
		total, listed := 0.0, map[string]any{}
		for _, e := range all {
			if e.Metadata["repeat_of"] == nil {
				total++
				continue
			}
			total += e.Metadata["count"].(float64)
			if tags, ok := e.Metadata["tags"].(map[string]any); ok {
				listed = tags
			}
		}
		Expect(total).To(BeNumerically("==", 2*tags), "no refusal is missing from the counts")
		Expect(listed).To(HaveLen(50))
	})

	It("at once are answered only when the one entry is committed", func() {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				defer GinkgoRecover()
				Expect(h.DeleteTag(ctx, alice, app, "v1")).To(haveCode(domain.CodeTagImmutable))
				Expect(h.entries(audit.KindDeleteTagFailed)).To(HaveLen(1))
			})
		}
		wg.Wait()
	})

	// flood runs attempts, several at once, and returns how many entries of a kind there are then, and with all windows
	// closed.
	flood := func(attempts int, kind audit.Kind, attempt func(i int)) (at, closed int) {
		GinkgoHelper()
		var wg sync.WaitGroup
		const clients = 8
		for client := range clients {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := client; i < attempts; i += clients {
					attempt(i)
				}
			})
		}
		wg.Wait()
		at = len(h.entries(kind))
		h.stop()
		h.run()
		all := h.entries(kind)
		total := 0.0
		for _, e := range all {
			if count, ok := e.Metadata["count"].(float64); ok {
				total += count
			} else {
				total++
			}
		}
		Expect(total).To(BeNumerically("==", attempts), "every attempt is counted")
		return at, len(all)
	}

	It("in a flood are few entries, whatever tags and addresses it comes with", func() {
		for i := range 150 {
			_, err := h.pushContent(app, fmt.Sprintf("v1.%d", i), `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
		at, closed := flood(2_000, audit.KindDeleteTagFailed, func(i int) {
			mallory := domain.Caller{Name: "mallory", Kind: domain.CallerRobot, Address: fmt.Sprintf("192.0.%d.%d", i/250, i%250), TokenID: fmt.Sprint("token", i)}
			Expect(h.DeleteTag(ctx, mallory, app, fmt.Sprintf("v1.%d", i%150))).To(haveCode(domain.CodeTagImmutable))
		})
		AddReportEntry("entries of 2,000 refused deletes in a minute", fmt.Sprintf("%d, and %d when the windows are closed", at, closed))
		Expect(at).To(Equal(101), "100 windows, and one for the repository")
		Expect(closed).To(BeNumerically("<=", 202))
	})

	It("of failed logins in a flood are few entries, whatever names and addresses they come with", func() {
		at, closed := flood(10_000, audit.KindLoginFailure, func(i int) {
			Expect(h.LoginFailed(ctx, fmt.Sprint("user-", i%977), fmt.Sprintf("2001:db8::%x", i))).To(Succeed())
		})
		AddReportEntry("entries of 10,000 failed logins in a minute", fmt.Sprintf("%d, and %d when the windows are closed", at, closed))
		Expect(at).To(Equal(101), "100 windows, and one for all others")
		Expect(closed).To(BeNumerically("<=", 202))
	})

	It("past 1,000 open windows share one for everything, which lists repositories and tags", func() {
		const repositories = 1010
		for i := range repositories {
			_, err := h.pushContent(domain.RepositoryName{Organization: "team-a", Path: fmt.Sprintf("r%04d", i)}, "v1", `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
		at, _ := flood(2*repositories, audit.KindDeleteTagFailed, func(i int) {
			name := domain.RepositoryName{Organization: "team-a", Path: fmt.Sprintf("r%04d", i%repositories)}
			Expect(h.DeleteTag(ctx, alice, name, "v1")).To(haveCode(domain.CodeTagImmutable))
		})
		Expect(at).To(Equal(1001))
		var everything []audit.View
		for _, e := range h.entries(audit.KindDeleteTagFailed) {
			if e.Metadata["repeat_of"] != nil && e.Repository == "" {
				everything = append(everything, e)
			}
		}
		Expect(everything).To(HaveLen(1))
		Expect(everything[0].Performer).To(Equal("alice"))
		Expect(everything[0].Metadata["tags"]).To(HaveLen(10))
		for name := range everything[0].Metadata["tags"].(map[string]any) {
			Expect(name).To(MatchRegexp(`^team-a/r\d{4}:v1$`))
		}
	})

	It("are counted in the end, though they could not be written at first", func() {
		for range 3 {
			Expect(h.DeleteTag(ctx, alice, app, "v1")).NotTo(Succeed())
		}
		broken := errors.New("the disk is gone")
		h.fail.Store(&broken)
		h.clock.Advance(time.Minute)
		Eventually(func() float64 { return h.metric("tidelock_refusal_windows") }).WithTimeout(patience).Should(BeZero())
		h.fail.Store(nil)
		Eventually(func() int { return len(h.entries(audit.KindDeleteTagFailed)) }).WithTimeout(patience).Should(Equal(2))
		Expect(h.entries(audit.KindDeleteTagFailed)[1].Metadata).To(HaveKeyWithValue("count", BeNumerically("==", 2)))
	})

	It("are counted in metrics, repeats included, by kind and operation only", func() {
		dry := spec("d.*")
		dry.EnforcementMode = domain.DryRun
		h.mustCreate(teamA, dry)
		h.mustPush(app, "d1")
		for range 3 {
			_, err := h.push(app, "v1")
			Expect(err).To(HaveOccurred())
			Expect(h.DeleteTag(ctx, alice, app, "v1")).NotTo(Succeed())
			h.mustPush(app, "d1")
			Expect(h.LoginFailed(ctx, "nobody", "192.0.2.9")).To(Succeed())
		}
		Expect(h.metric("tidelock_refusals_total", "push_repo_failed")).To(BeNumerically("==", 3))
		Expect(h.metric("tidelock_refusals_total", "delete_tag_failed", "delete")).To(BeNumerically("==", 3))
		Expect(h.metric("tidelock_dry_run_refusals_total")).To(BeNumerically("==", 3))
		Expect(h.metric("tidelock_login_failures_total")).To(BeNumerically("==", 3))
		Expect(h.metric("tidelock_refusal_windows", "refusal")).To(BeNumerically("==", 3))
		Expect(h.metric("tidelock_refusal_windows", "login")).To(BeNumerically("==", 1))
	})
})
