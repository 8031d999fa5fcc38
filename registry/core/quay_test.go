package core_test

import (
	"errors"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// Behaviours that Quay tests and that no other spec has, by its names.
var _ = eachEngine("As in Quay,", func(h *harness) {
	It("expired_tags_not_affected", func() {
		h.mustPush(app, "v1")
		_, err := h.expire(app, "v1")
		Expect(err).NotTo(HaveOccurred())
		h.clock.Advance(2 * time.Hour)
		h.gone(app, "v1")
		p := h.mustCreate(teamA, releases)
		Expect(h.swept(teamA, p.UUID).Holds).To(BeZero())
		Expect(h.entries(audit.KindChangeImmutability, audit.KindApplyPolicy)).To(BeEmpty())
	})

	It("delete_tag_skips_immutable_cosign_sibling", func() {
		d := h.mustPush(app, "latest")
		sig := signatureTag(d, ".sig")
		signed := h.mustPut(app, sig, imageOf("1", signature("a")))
		h.mustCreate(teamA, spec("sha256-.*"))
		Expect(h.DeleteTag(ctx, alice, app, "latest")).To(Succeed())
		Expect(h.tag(app, sig)).To(Equal(signed))
	})

	It("create_and_update_policy_rolls_back_on_failure", func() {
		h.mustPush(app, "v1")
		for _, scope := range []core.Scope{teamA, {Organization: "team-a", Repository: "app"}} {
			p := h.mustCreate(scope, spec("w.*"))
			h.idle()
			entries := len(h.entries())
			failure := errors.New("the disk is full")
			h.fail.Store(&failure)
			_, err := h.CreatePolicy(ctx, alice, scope, releases)
			Expect(err).To(haveCode(domain.CodeUnavailable))
			_, err = h.UpdatePolicy(ctx, alice, scope, p.UUID, releases)
			Expect(err).To(haveCode(domain.CodeUnavailable))
			h.fail.Store(nil)
			h.idle()
			Expect(h.Policies(ctx, scope)).To(HaveExactElements(p))
			Expect(h.locked(app, "v1")).To(BeFalse())
			Expect(h.entries()).To(HaveLen(entries))
		}
	})
})
