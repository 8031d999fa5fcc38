package core_test

import (
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
})
