package core_test

import (
	"fmt"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

// withKeys restarts the core with a key of the audit log, and returns what checks its signatures.
func (h *harness) withKeys() note.Verifiers {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "audit.key")
	Expect(audit.EnsureKeyFile(path)).To(Succeed())
	h.with(func(o *core.Options) { o.AuditKeys = audit.KeyFile(path) })
	keys, err := audit.KeyFile(path).Keys()
	Expect(err).NotTo(HaveOccurred())
	known, err := audit.ParsePublicKeys([]byte(keys.Public()[0]))
	Expect(err).NotTo(HaveOccurred())
	return known
}

var _ = eachEngine("The evidence of the log", func(h *harness) {
	It("is a signed checkpoint of all that was committed", func() {
		known := h.withKeys()
		h.mustPush(app, "v1")
		signed, err := h.SignedCheckpoint(ctx)
		Expect(err).NotTo(HaveOccurred())
		checkpoint, _, err := audit.OpenCheckpoint(signed, known)
		Expect(err).NotTo(HaveOccurred())
		Expect(checkpoint.Size).To(Equal(int64(3)))
		Expect(h.LogOrigin(ctx)).To(Equal(checkpoint.Origin))
	})

	It("proves each entry in each later size, and each size in each later one", func() {
		h.mustPush(app, "v0")
		checkpoints := map[int64]audit.Checkpoint{}
		for i := range 12 {
			h.mustPush(app, fmt.Sprintf("v%d", i))
			checkpoint, err := h.Checkpoint(ctx)
			Expect(err).NotTo(HaveOccurred())
			checkpoints[checkpoint.Size] = checkpoint
		}
		entries := h.entries()
		for size, checkpoint := range checkpoints {
			for index := range size {
				proof, err := h.InclusionProof(ctx, index, size)
				Expect(err).NotTo(HaveOccurred())
				Expect(proof.Root).To(Equal(checkpoint.Root))
				Expect(proof.Hash).To(Equal(entries[index].Hash))
				Expect(audit.VerifyInclusion(checkpoint, index, entries[index].Hash, proof.Proof)).To(Succeed())
			}
			for later, larger := range checkpoints {
				if later < size {
					continue
				}
				proof, err := h.ConsistencyProof(ctx, size, later)
				Expect(err).NotTo(HaveOccurred())
				Expect(audit.VerifyConsistency(checkpoint, larger, proof.Proof)).To(Succeed())
			}
		}
	})

	It("has the entries of a version without a tree, before those that come", func() {
		h.mustPush(app, "v1")
		h.fill()
		before, err := h.Checkpoint(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(metatest.Tamper(ctx, h.dir, `DELETE FROM audit_tiles`)).To(Succeed())
		h.mustPush(app, "v2")
		after, err := h.Checkpoint(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(after.Size).To(Equal(before.Size + 1))
		proof, err := h.ConsistencyProof(ctx, before.Size, after.Size)
		Expect(err).NotTo(HaveOccurred())
		Expect(audit.VerifyConsistency(before, after, proof.Proof)).To(Succeed())
	})

	It("is one tree, whoever of several puts the entries into it", func() {
		known := h.withKeys()
		other := core.New(h.store, h.options)
		defer h.beside(other)()
		var group errgroup.Group
		for worker := range 6 {
			group.Go(func() (err error) {
				c := h.Core
				if worker%2 == 0 {
					c = other
				}
				for i := range 40 {
					m := manifest(fmt.Sprintf("%d %d", worker, i))
					push := core.Push{Reference: domain.Reference{Tag: fmt.Sprintf("w%d", worker)}, Manifest: m, Create: core.CreateOrganization}
					if _, err = c.PutManifest(ctx, alice, app, push); err != nil {
						return err
					}
				}
				return nil
			})
		}
		Expect(group.Wait()).To(Succeed())
		report := h.verify(known, 0, 0)
		Expect(report.Problem).To(BeNil())
		Expect(report.Entries).To(Equal(int64(242)))
	})

	It("is asked for what there is", func() {
		h.mustPush(app, "v1")
		code := func(_ any, err error) domain.Code { return domain.CodeOf(err) }
		Expect(code(h.InclusionProof(ctx, 2, 0))).To(BeEmpty())
		Expect(code(h.InclusionProof(ctx, 3, 0))).To(Equal(domain.CodeNotFound))
		Expect(code(h.InclusionProof(ctx, 2, 4))).To(Equal(domain.CodeNotFound))
		Expect(code(h.InclusionProof(ctx, 2, 2))).To(Equal(domain.CodeInvalid))
		Expect(code(h.ConsistencyProof(ctx, 0, 3))).To(BeEmpty())
		Expect(code(h.ConsistencyProof(ctx, 2, 0))).To(BeEmpty())
		Expect(code(h.ConsistencyProof(ctx, 3, 2))).To(Equal(domain.CodeInvalid))
		Expect(code(h.ConsistencyProof(ctx, 2, 4))).To(Equal(domain.CodeNotFound))
		Expect(code(h.LogEntry(ctx, 2))).To(BeEmpty())
		Expect(code(h.LogEntry(ctx, 3))).To(Equal(domain.CodeNotFound))
		Expect(code(h.SignedCheckpoint(ctx))).To(Equal(domain.CodeUnavailable), "there is no key")
	})
})
