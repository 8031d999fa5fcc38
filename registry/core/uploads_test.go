package core_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

var bob = domain.Caller{Name: "bob", Kind: domain.CallerUser}

var _ = eachEngine("Upload sessions", func(h *harness) {
	// other is the core of another replica on the same database.
	var other *core.Core
	BeforeEach(func() {
		h.with(func(o *core.Options) { o.SharedUploads, o.UploadIdle = true, time.Hour })
		other = core.New(h.store, h.options)
	})
	begin := func(id string) {
		GinkgoHelper()
		_, err := h.BeginUpload(ctx, alice, app, domain.Upload{ID: id, State: []byte("new")}, false)
		Expect(err).NotTo(HaveOccurred())
	}
	take := func(c *core.Core, id string) core.UploadSession {
		GinkgoHelper()
		s, err := c.TakeUpload(ctx, alice, app, id)
		Expect(err).NotTo(HaveOccurred())
		return s
	}
	giveBack := func(c *core.Core, s core.UploadSession) {
		GinkgoHelper()
		Expect(c.SaveUpload(ctx, s, true)).To(Succeed())
		c.LeaveUpload(s)
	}
	content := domain.Blob{Digest: digest.FromString("tide"), Size: 4}

	It("outlive their process and move, with all that was saved", func() {
		begin("u1")
		s := take(h.Core, "u1")
		Expect(s.Upload).To(Equal(domain.Upload{ID: "u1", State: []byte("new")}))
		s.Size, s.State = 7, []byte("seven")
		giveBack(h.Core, s)
		h.with(func(*core.Options) {})
		s = take(h.Core, "u1")
		Expect(s.Upload).To(Equal(domain.Upload{ID: "u1", Size: 7, State: []byte("seven")}))
	})

	It("belong to one request at a time", func() {
		begin("u1")
		s := take(h.Core, "u1")
		for _, c := range []*core.Core{h.Core, other} {
			_, err := c.TakeUpload(ctx, alice, app, "u1")
			Expect(err).To(And(MatchError(core.ErrUploadBusy), haveCode(domain.CodeBlobUploadInvalid)))
			_, err = c.Upload(ctx, alice, app, "u1")
			Expect(err).To(MatchError(core.ErrUploadBusy))
		}
		giveBack(h.Core, s)
		giveBack(other, take(other, "u1"))

		var won atomic.Int64
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				defer GinkgoRecover()
				_, err := []*core.Core{h.Core, other}[i%2].TakeUpload(ctx, alice, app, "u1")
				if err == nil {
					won.Add(1)
				} else {
					Expect(err).To(MatchError(core.ErrUploadBusy))
				}
			})
		}
		all.Wait()
		Expect(won.Load()).To(BeEquivalentTo(1))
	})

	It("are for nobody else", func() {
		begin("u1")
		s := take(h.Core, "u1")
		for i, name := range []domain.RepositoryName{app, {Organization: "team-a", Path: "other"}} {
			_, err := h.TakeUpload(ctx, []domain.Caller{bob, alice}[i], name, "u1")
			Expect(err).To(haveCode(domain.CodeBlobUploadUnknown), "not even that it is busy")
		}
		giveBack(h.Core, s)
		_, err := h.TakeUpload(ctx, domain.Caller{Name: "alice", Kind: domain.CallerOperator}, app, "u1")
		Expect(err).To(haveCode(domain.CodeBlobUploadUnknown))
		take(h.Core, "u1")
	})

	It("are taken over when their request is not heard of, and then it changes nothing any more", func() {
		begin("u1")
		stale := take(h.Core, "u1")
		stale.Size = 3
		Expect(h.SaveUpload(ctx, stale, false)).To(Succeed())
		h.clock.Advance(core.UploadLease - time.Second)
		Expect(h.RenewUpload(ctx, stale)).To(Succeed())
		h.clock.Advance(core.UploadLease - time.Second)
		_, err := other.TakeUpload(ctx, alice, app, "u1")
		Expect(err).To(MatchError(core.ErrUploadBusy))
		h.clock.Advance(time.Second)

		s := take(other, "u1")
		Expect(s.Upload).To(Equal(domain.Upload{ID: "u1", Size: 3, State: []byte("new"), Interrupted: true}))
		stale.Size = 99
		Expect(h.SaveUpload(ctx, stale, true)).To(MatchError(core.ErrUploadTaken))
		Expect(h.RenewUpload(ctx, stale)).To(MatchError(core.ErrUploadTaken))
		Expect(h.EndUpload(ctx, stale)).To(MatchError(core.ErrUploadTaken))
		_, err = h.LinkUpload(ctx, alice, app, stale, content, core.CreateOrganization)
		Expect(err).To(MatchError(core.ErrUploadTaken))
		_, err = h.Blob(ctx, app, content.Digest)
		Expect(err).To(haveCode(domain.CodeNameUnknown), "nothing is linked, not even the repository is made")

		s.Size = 4
		giveBack(other, s)
		h.LeaveUpload(stale)
		Expect(take(h.Core, "u1").Upload).To(Equal(domain.Upload{ID: "u1", Size: 4, State: []byte("new")}))
	})

	It("end with the transaction that links their blob, or not at all", func() {
		begin("u1")
		s := take(h.Core, "u1")
		blob := content
		blob.Key = "k1"
		_, err := h.LinkUpload(ctx, alice, app, s, blob, core.CreateNothing)
		Expect(err).To(haveCode(domain.CodeNameUnknown))
		Expect(h.UploadOpen(ctx, "u1")).To(BeTrue())
		Expect(h.LinkUpload(ctx, alice, app, s, blob, core.CreateOrganization)).To(BeTrue())
		Expect(h.UploadOpen(ctx, "u1")).To(BeFalse())

		begin("u2")
		blob.Key = "k2"
		Expect(h.LinkUpload(ctx, alice, app, take(h.Core, "u2"), blob, core.CreateNothing)).To(BeFalse(), "the digest has its bytes")
		Expect(h.Blob(ctx, app, content.Digest)).To(HaveField("Key", "k1"))
	})

	It("expire, once, when nobody uses them", func() {
		begin("idle")
		begin("used")
		h.clock.Advance(59 * time.Minute)
		_, err := h.Upload(ctx, alice, app, "used")
		Expect(err).NotTo(HaveOccurred())
		h.clock.Advance(time.Minute)
		_, err = h.Upload(ctx, alice, app, "idle")
		Expect(err).To(haveCode(domain.CodeBlobUploadUnknown))
		Expect(h.IdleUploads(ctx)).To(Equal([]string{"idle"}))
		s, err := h.TakeIdleUpload(ctx, "idle")
		Expect(err).NotTo(HaveOccurred())
		for _, id := range []string{"idle", "used", "none"} {
			_, err = other.TakeIdleUpload(ctx, id)
			Expect(err).To(MatchError(core.ErrUploadBusy), id)
		}
		// The one that had it went away: it is tried again, and stays lost to its client.
		h.LeaveUpload(s)
		h.clock.Advance(core.UploadLease)
		_, err = h.Upload(ctx, alice, app, "idle")
		Expect(err).To(haveCode(domain.CodeBlobUploadUnknown))
		s, err = other.TakeIdleUpload(ctx, "idle")
		Expect(err).NotTo(HaveOccurred())
		Expect(other.EndUpload(ctx, s)).To(Succeed())
		Expect(h.IdleUploads(ctx)).To(BeEmpty())
	})

	It("are bounded over all replicas, for each caller and for all", func() {
		h.with(func(o *core.Options) { o.MaxUploads = 8 })
		for i := range 8 {
			_, err := h.BeginUpload(ctx, domain.Caller{Name: fmt.Sprint(i / 2), Kind: domain.CallerUser}, app, domain.Upload{ID: fmt.Sprint(i), State: []byte{}}, false)
			Expect(err).NotTo(HaveOccurred())
		}
		_, err := h.BeginUpload(ctx, alice, app, domain.Upload{ID: "x", State: []byte{}}, true)
		Expect(err).To(haveCode(domain.CodeTooManyRequests))
	})

	It("that come whole are idle once their request is gone, for nobody can go on with them", func() {
		s, err := h.BeginUpload(ctx, alice, app, domain.Upload{ID: "whole", State: []byte{}}, true)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.RenewUpload(ctx, s)).To(Succeed())
		Expect(h.SaveUpload(ctx, s, false)).To(Succeed())
		Expect(h.IdleUploads(ctx)).To(BeEmpty(), "it has its lease")
		h.clock.Advance(core.UploadLease)
		Expect(h.IdleUploads(ctx)).To(Equal([]string{"whole"}))
		_, err = h.TakeIdleUpload(ctx, "whole")
		Expect(err).To(MatchError(core.ErrUploadBusy), "the request is still there")
		h.LeaveUpload(s)
		s, err = h.TakeIdleUpload(ctx, "whole")
		Expect(err).NotTo(HaveOccurred())
		Expect(h.EndUpload(ctx, s)).To(Succeed())
		h.LeaveUpload(s)
	})

	It("need no lease where one process has the uploads", func() {
		h.with(func(o *core.Options) { o.SharedUploads = false })
		begin("u1")
		s := take(h.Core, "u1")
		h.clock.Advance(30 * time.Minute)
		_, err := h.TakeUpload(ctx, alice, app, "u1")
		Expect(err).To(MatchError(core.ErrUploadBusy))
		s.Size = 3
		Expect(h.SaveUpload(ctx, s, false)).To(Succeed())
		h.LeaveUpload(s)
		Expect(take(h.Core, "u1").Upload).To(Equal(domain.Upload{ID: "u1", Size: 3, State: []byte("new")}))
	})

	It("are not begun before the operator has brought its policies", func() {
		h.with(func(o *core.Options) { o.RequireSync = true })
		_, err := h.BeginUpload(ctx, alice, app, domain.Upload{ID: "u1", State: []byte{}}, false)
		Expect(err).To(haveCode(domain.CodeUnavailable))
		Expect(errors.Unwrap(err)).NotTo(HaveOccurred())
	})
})
