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
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(700, 600, 700)))
		Expect(ledger.Count(ctx, "q", nil)).To(Equal(counts(2, 3, 702)))
	})

	It("keeps step with the projector", func(ctx context.Context) {
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(0, 0, 0)))
		registry.appendLocked("p", 10)
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(0, 10, 0)))
		advance(4)
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(4, 6, 4)))
		registry.appendLocked("q", 3)
		registry.appendLocked("p", 2)
		advance(15) // p's last two were not looked at before
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(12, 0, 15)))
	})

	It("goes on after a crash from what the status says, wherever that stopped", func(ctx context.Context) {
		registry.appendLocked("p", 30)
		for stopped := range int64(21) {
			registry.cursor = 20
			ledger = &EventLedger{Registry: registry}
			Expect(ledger.Count(ctx, "p", counts(stopped, 3, stopped))).To(Equal(counts(20, 10, 20)))
			advance(30)
			Expect(ledger.Count(ctx, "p", counts(stopped, 3, stopped))).To(Equal(counts(30, 0, 30)))
		}
	})

	It("counts anew in a log that is shorter than it was", func(ctx context.Context) {
		registry.appendLocked("p", 3)
		registry.cursor = 2
		Expect(ledger.Count(ctx, "p", counts(900, 0, 1000))).To(Equal(counts(2, 1, 2)))
	})

	It("goes back to what the status says when somebody else moved the cursor", func(ctx context.Context) {
		registry.appendLocked("p", 10)
		Expect(ledger.Count(ctx, "p", nil)).To(Equal(counts(0, 10, 0)))
		registry.cursor = 8
		ledger.Restart(8)
		Expect(ledger.Count(ctx, "p", counts(3, 7, 3))).To(Equal(counts(8, 2, 8)))
	})
})
