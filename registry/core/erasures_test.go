package core_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// records are the entries as they are stored.
func (h *harness) records() (list []audit.Indexed) {
	GinkgoHelper()
	Expect(h.store.Read(ctx, func(r *meta.Reader) (err error) {
		list, err = r.Log(audit.Query{After: -1, Ascending: true, Limit: 1_000_000})
		return err
	})).To(Succeed())
	return list
}

// erased waits until an erasure is done.
func (h *harness) erased(id string) (e domain.Erasure) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		var err error
		e, err = h.Erasure(ctx, id)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(e.FinishedAt).NotTo(BeZero())
	}).WithTimeout(patience).Should(Succeed())
	return e
}

var _ = eachEngine("Erasing a person", func(h *harness) {
	admin := domain.Caller{Name: "admin", Kind: domain.CallerUser, Address: "192.0.2.1"}
	bob := domain.Caller{Name: "bob", Kind: domain.CallerUser, Address: "192.0.2.9"}

	push := func(caller domain.Caller, n int) {
		GinkgoHelper()
		m := manifest(fmt.Sprintf(`{"image":%d}`, n))
		_, err := h.PutManifest(ctx, caller, app, core.Push{Reference: domain.Reference{Tag: "latest"}, Manifest: m, Create: core.CreateOrganization})
		Expect(err).NotTo(HaveOccurred())
	}

	It("takes the name, the address and the salt of each entry that names the person, and leaves every leaf as it is", func() {
		known := h.withKeys()
		push(alice, 0)
		push(bob, 1)
		Expect(h.CreateUser(ctx, admin, core.NewUser{Name: "alice"})).To(Succeed()) // metadata names her
		Expect(h.LoginFailed(ctx, "alice", "192.0.2.66")).To(Succeed())
		push(alice, 2)
		h.entries()
		before := h.records()

		started, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		done := h.erased(started.UUID)
		after, views := h.records(), h.entries()
		erased := int64(0)
		for i, r := range before {
			Expect(after[i].Leaf).To(Equal(r.Leaf))
			Expect(after[i].Index).To(Equal(r.Index))
			if !strings.Contains(string(r.Personal), `"alice"`) {
				Expect(after[i].Record).To(Equal(r.Record))
				continue
			}
			erased++
			Expect(after[i].Personal).To(BeEmpty())
			Expect(after[i].Performer).To(BeEmpty())
			Expect(views[i].Performer).To(BeElementOf(audit.Erased, ""))
			Expect(views[i].Address).To(Equal(audit.Erased))
			if _, named := views[i].Metadata["username"]; named {
				Expect(views[i].Metadata["username"]).To(Equal(audit.Erased))
			}
			Expect(fmt.Sprint(views[i])).NotTo(ContainSubstring("alice"))
		}
		Expect(erased).To(BeNumerically(">=", 5))
		Expect(done.Entries).To(Equal(erased))
		report := h.verify(known, 0, 0)
		Expect(report.Problem).To(BeNil())
		Expect(report.Erased).To(Equal(erased))

		By("writing an entry that says how many, and who asked, without the name")
		last := views[len(views)-1]
		Expect(last.Kind).To(Equal(audit.KindErasePerson))
		Expect(last.Performer).To(Equal("admin"))
		Expect(last.Address).To(Equal("192.0.2.1"))
		Expect(last.Metadata).To(HaveKeyWithValue("entries_count", BeEquivalentTo(erased)))
		Expect(h.Log(ctx, audit.Query{Performer: "alice", After: -1, Limit: 10})).To(BeEmpty())
		Expect(h.Log(ctx, audit.Query{Performer: "bob", After: -1, Limit: 10})).NotTo(BeEmpty())
		Expect(h.store.Read(ctx, func(r *meta.Reader) error {
			stored, err := r.Erasure(started.UUID)
			Expect(stored.Person).To(BeEmpty())
			Expect(stored.Caller).To(BeZero())
			return err
		})).To(Succeed())
	})

	It("can be asked for again, and finds nothing then", func() {
		push(alice, 0)
		first, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		Expect(h.erased(first.UUID).Entries).To(Equal(int64(3)))
		before := h.records()
		second, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		Expect(second.UUID).NotTo(Equal(first.UUID))
		Expect(h.erased(second.UUID).Entries).To(BeZero())
		h.entries()
		Expect(h.records()[:len(before)]).To(Equal(before))
	})

	It("goes on after a restart where it was, beside pushes, and is one request while it goes on", func() {
		const pushes = 700
		for n := range pushes {
			push(alice, n)
		}
		h.entries()
		h.gate.allow(1)
		started, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		again, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		Expect(again.UUID).To(Equal(started.UUID))
		Eventually(func() (int64, error) {
			e, err := h.Erasure(ctx, started.UUID)
			return e.Next, err
		}).WithTimeout(patience).Should(Equal(int64(500)))
		push(bob, pushes)
		h.stop()
		h.gate.open()
		h.run()
		done := h.erased(started.UUID)
		Expect(done.Entries).To(Equal(int64(pushes + 2)))
		Expect(h.entries(audit.KindErasePerson)).To(HaveLen(1))
		for _, r := range h.records() {
			Expect(string(r.Personal)).NotTo(ContainSubstring(`"alice"`))
		}
	})

	It("skips nothing where two replicas begin at the same place", func() {
		stop := h.beside(core.New(h.store, h.options))
		defer stop()
		for n := range 600 {
			push(alice, n)
		}
		h.entries()
		h.gate.allow(0)
		started, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		Eventually(h.gate.held.Load).WithTimeout(patience).Should(Equal(int64(2)))
		h.gate.open()
		Expect(h.erased(started.UUID).Entries).To(Equal(int64(602)))
		Expect(h.entries(audit.KindErasePerson)).To(HaveLen(1))
	})

	It("commits what is erased together with the count", func() {
		for n := range 5 {
			push(alice, n)
		}
		h.entries()
		h.gate.allow(0)
		started, err := h.ErasePerson(ctx, admin, "alice")
		Expect(err).NotTo(HaveOccurred())
		Eventually(h.gate.waiting).WithTimeout(patience).Should(BeTrue())
		failure := errors.New("the disk broke")
		h.fail.Store(&failure)
		h.gate.open()
		Consistently(func(g Gomega) {
			for _, r := range h.records() {
				g.Expect(r.Personal).NotTo(BeEmpty())
			}
		}).WithTimeout(200 * time.Millisecond).Should(Succeed())
		h.fail.Store(nil)
		Expect(h.erased(started.UUID).Entries).To(Equal(int64(7)))
	})

	DescribeTable("is refused for what is no person", func(name string) {
		_, err := h.ErasePerson(ctx, admin, name)
		Expect(err).To(haveCode(domain.CodeInvalid))
	}, Entry(nil, ""), Entry(nil, "system"), Entry(nil, "operator"), Entry(nil, "admin"), Entry(nil, strings.Repeat("a", 1025)))
})
