package core_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = eachEngine("At once,", func(h *harness) {
	It("many pushes to tags and a policy being created: once it is stored, no covered tag changes", func() {
		const tags, pushers = 8, 8
		h.mustPush(app, "other")
		var stored atomic.Bool
		var stop atomic.Bool
		var late atomic.Int64
		var wg sync.WaitGroup
		for worker := range pushers {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := 0; !stop.Load(); i++ {
					after := stored.Load()
					tag := fmt.Sprintf("v%d", i%tags)
					before := h.tag(app, tag)
					d, err := h.pushContent(app, tag, fmt.Sprintf(`{"worker":%d,"push":%d}`, worker, i))
					if err != nil {
						Expect(err).To(haveCode(domain.CodeTagImmutable))
						continue
					}
					if after && before != "" && before != d {
						late.Add(1)
					}
				}
			})
		}
		Eventually(func() int { return len(h.entries(audit.KindMoveTag)) }).WithTimeout(patience).Should(BeNumerically(">", 50))
		h.mustCreate(teamA, releases)
		stored.Store(true)
		standing := map[string]digest.Digest{}
		for i := range tags {
			tag := fmt.Sprintf("v%d", i)
			standing[tag] = h.tag(app, tag)
		}
		Eventually(func() int { return len(h.entries(audit.KindPushFailed)) }).WithTimeout(patience).Should(BeNumerically(">", 0))
		h.idle()
		stop.Store(true)
		wg.Wait()
		Expect(late.Load()).To(BeZero())
		for tag, d := range standing {
			if d != "" {
				Expect(h.tag(app, tag)).To(Equal(d))
			}
		}
		By("finding no move in the log behind the policy")
		created := h.entries(audit.KindCreatePolicy)[0].Index
		for _, e := range h.entries(audit.KindMoveTag) {
			Expect(e.Index).To(BeNumerically("<", created))
		}
	})

	It("many first pushes of one locked name: exactly one wins", func() {
		h.mustPush(app, "other")
		h.mustCreate(teamA, releases)
		var won, lost atomic.Int64
		var winner atomic.Value
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				defer GinkgoRecover()
				d, err := h.pushContent(app, "v1", fmt.Sprintf(`{"candidate":%d}`, i))
				if err == nil {
					won.Add(1)
					winner.Store(d)
					return
				}
				Expect(err).To(haveCode(domain.CodeTagImmutable))
				lost.Add(1)
			})
		}
		wg.Wait()
		Expect(won.Load()).To(Equal(int64(1)))
		Expect(lost.Load()).To(Equal(int64(31)))
		Expect(h.tag(app, "v1")).To(Equal(winner.Load()))
		Expect(h.entries(audit.KindTagCreatedImmutable)).To(HaveLen(1))
	})

	It("clients that disconnect in the middle of a grouped commit harm no other", func() {
		h.mustPush(app, "other")
		var acknowledged sync.Map
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				defer GinkgoRecover()
				client, cancel := context.WithCancel(ctx)
				defer cancel()
				if i%2 == 0 {
					go cancel() // somewhere in the middle
				}
				m := manifest(fmt.Sprintf(`{"push":%d}`, i))
				tag := fmt.Sprintf("t%d", i)
				_, err := h.PutManifest(client, alice, app, core.Push{Reference: domain.Reference{Tag: tag}, Manifest: m, Create: core.CreateNothing})
				if i%2 == 1 {
					Expect(err).NotTo(HaveOccurred())
				}
				if err == nil {
					acknowledged.Store(tag, m.Digest)
				}
			})
		}
		wg.Wait()
		acknowledged.Range(func(tag, d any) bool {
			Expect(h.tag(app, tag.(string))).To(Equal(d))
			return true
		})
	})

	It("the log has neither gaps nor doubles, and an entry for each tag", func() {
		h.mustPush(app, "other")
		h.mustCreate(teamA, releases)
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := range 50 {
					_, err := h.pushContent(app, fmt.Sprintf("v%d.%d", worker, i), `{"same":true}`)
					Expect(err).NotTo(HaveOccurred())
				}
			})
		}
		wg.Wait()
		for i, e := range h.entries() {
			Expect(e.Index).To(Equal(int64(i)))
		}
		Expect(h.entries(audit.KindTagCreatedImmutable)).To(HaveLen(400))
	})
})
