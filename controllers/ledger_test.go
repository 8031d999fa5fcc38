package controllers

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

var _ = Describe("The ledger of Events", func() {
	var (
		registry *stubRegistry
		ledger   *EventLedger
	)

	BeforeEach(func() {
		registry = &stubRegistry{}
		ledger = &EventLedger{Registry: registry}
	})

	// withoutRate are counts without how fast they change.
	withoutRate := func(status *registryv1alpha1.EventsStatus, err error) (*registryv1alpha1.EventsStatus, error) {
		if status != nil {
			status.Rate = nil
		}
		return status, err
	}
	counts := func(emitted, pending, next int64) *registryv1alpha1.EventsStatus {
		return &registryv1alpha1.EventsStatus{Emitted: emitted, Pending: pending, NextAuditIndex: next}
	}

	// advance does what the projector does with everything up to an index.
	advance := func(next int64) {
		from := registry.cursor
		registry.cursor = next
		ledger.Advance(registry.entries[from:next], next)
	}

	It("counts from the beginning what nobody counted before", func(ctx context.Context) {
		registry.appendLocked("p", 700)
		registry.appendLocked("q", 5)
		registry.appendLocked("p", 600)
		registry.cursor = 702
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(700, 600, 700)))
		Expect(withoutRate(ledger.Count(ctx, "q", nil))).To(Equal(counts(2, 3, 702)))
	})

	It("keeps step with the projector", func(ctx context.Context) {
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(0, 0, 0)))
		registry.appendLocked("p", 10)
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(0, 10, 0)))
		advance(4)
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(4, 6, 4)))
		registry.appendLocked("q", 3)
		registry.appendLocked("p", 2)
		advance(15) // p's last two were not looked at before
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(12, 0, 15)))
	})

	It("goes on after a crash from what the status says, wherever that stopped", func(ctx context.Context) {
		registry.appendLocked("p", 30)
		for stopped := range int64(21) {
			registry.cursor = 20
			ledger = &EventLedger{Registry: registry}
			Expect(withoutRate(ledger.Count(ctx, "p", counts(stopped, 3, stopped)))).To(Equal(counts(20, 10, 20)))
			advance(30)
			Expect(withoutRate(ledger.Count(ctx, "p", counts(stopped, 3, stopped)))).To(Equal(counts(30, 0, 30)))
		}
	})

	It("does not hold up the projector while it reads, and misses nothing of what that does meanwhile", func(ctx context.Context) {
		registry.appendLocked("p", 3000)
		registry.cursor = 10
		pages := 0
		registry.onPolicyLog = func() {
			if pages++; pages <= 6 {
				registry.appendLocked("p", 100)
				advance(min(registry.cursor+600, int64(len(registry.entries))-1)) // faster than the pages
			}
		}
		Expect(withoutRate(ledger.Count(ctx, "p", counts(5, 0, 5)))).To(Equal(counts(registry.cursor, int64(len(registry.entries))-registry.cursor, registry.cursor)))
		Expect(pages).To(BeNumerically(">", 6))
		registry.onPolicyLog = nil
		advance(int64(len(registry.entries)))
		all := int64(len(registry.entries))
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(all, 0, all)))
	})

	It("misses nothing that the projector has passed since a page was read", func(ctx context.Context) {
		registry.appendLocked("p", 5)
		registry.cursor = 5
		registry.afterPolicyLog = func() {
			registry.afterPolicyLog = nil
			registry.appendLocked("p", 3)
			advance(8)
		}
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(8, 0, 8)))
		registry.appendLocked("p", 2)
		advance(10)
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(10, 0, 10)))
	})

	It("counts nothing twice that the projector has passed since a page was read", func(ctx context.Context) {
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(0, 0, 0)))
		registry.appendLocked("p", 5)
		registry.afterPolicyLog = func() { advance(5) }
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(5, 0, 5)))
	})

	It("begins anew when the cursor is set back while it reads", func(ctx context.Context) {
		registry.appendLocked("p", 1000)
		registry.cursor = 900
		pages := 0
		registry.onPolicyLog = func() {
			if pages++; pages == 2 {
				registry.cursor = 300
				ledger.Restart(300)
			}
		}
		Expect(withoutRate(ledger.Count(ctx, "p", counts(250, 0, 250)))).To(Equal(counts(300, 700, 300)))
	})

	It("tells how fast Events are made while some are pending", func(ctx context.Context) {
		registry.appendLocked("p", 2)
		Expect(ledger.Count(ctx, "p", nil)).To(HaveField("Rate", HaveValue(BeZero())))
		advance(2)
		Expect(ledger.Count(ctx, "p", nil)).To(HaveField("Rate", BeNil()))
	})

	It("counts anew in a log that is shorter than it was", func(ctx context.Context) {
		registry.appendLocked("p", 3)
		registry.cursor = 2
		Expect(withoutRate(ledger.Count(ctx, "p", counts(900, 0, 1000)))).To(Equal(counts(2, 1, 2)))
	})

	It("goes back to what the status says when somebody else moved the cursor", func(ctx context.Context) {
		registry.appendLocked("p", 10)
		Expect(withoutRate(ledger.Count(ctx, "p", nil))).To(Equal(counts(0, 10, 0)))
		registry.cursor = 8
		ledger.Restart(8)
		Expect(withoutRate(ledger.Count(ctx, "p", counts(3, 7, 3)))).To(Equal(counts(8, 2, 8)))
	})
})
