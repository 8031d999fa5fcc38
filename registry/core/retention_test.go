package core_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = eachEngine("The part of a log before a fork", func(h *harness) {
	It("is exported and verified under its own origin", func() {
		known := h.withKeys()
		h.mustPush(app, "v1")
		previous, err := h.LogOrigin(ctx)
		Expect(err).NotTo(HaveOccurred())
		fork, err := h.ForkLog(ctx, operator, "a restored backup", true)
		Expect(err).NotTo(HaveOccurred())
		h.mustPush(app, "v2")
		for _, part := range [][2]int64{{0, fork.Index - 1}, {0, fork.Index}, {1, fork.Index + 1}, {0, fork.Index + 2}, {0, 0}} {
			Expect(h.verify(known, part[0], part[1]).Problem).To(BeNil(), "%v", part)
		}
		Expect(h.verify(known, 0, fork.Index).Origin).To(Equal(previous))
	})
})
