package core_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

var _ = eachEngine("The part of a log before a fork", func(h *harness) {
	It("is exported and verified under its own origin", func() {
		known := h.withKeys()
		const previous = "tidelock/0123456789abcdef0123456789abcdef"
		present, err := h.LogOrigin(ctx)
		Expect(err).NotTo(HaveOccurred())
		add := func(origin string, kind audit.Kind, metadata audit.Metadata) {
			GinkgoHelper()
			record, err := audit.Encode(origin, audit.Entry{Time: h.clock.Now(), Kind: kind, Caller: domain.System, Metadata: metadata})
			Expect(err).NotTo(HaveOccurred())
			Expect(h.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.AppendAudit(record) })).To(Succeed())
		}
		for range 3 {
			add(previous, audit.KindOrgCreate, nil)
		}
		add(present, audit.KindForkLog, audit.Metadata{"previous_origin": previous, "reason": "a restored backup"})
		h.mustPush(app, "v1")
		for _, part := range [][2]int64{{0, 2}, {0, 3}, {1, 4}, {0, 5}, {0, 0}} {
			Expect(h.verify(known, part[0], part[1]).Problem).To(BeNil(), "%v", part)
		}
		Expect(h.verify(known, 0, 3).Origin).To(Equal(previous))
	})
})
