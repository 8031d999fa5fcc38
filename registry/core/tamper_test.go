package core_test

import (
	"bytes"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

// fill makes a log of 600 entries: two full tiles and a partial one.
func (h *harness) fill() {
	GinkgoHelper()
	origin, err := h.LogOrigin(ctx)
	Expect(err).NotTo(HaveOccurred())
	var records []audit.Record
	for i := range 600 {
		record, err := audit.Encode(origin, audit.Entry{
			Time: h.clock.Now(), Kind: audit.KindCreateTag, Organization: "team-a", Repository: "app", Tag: fmt.Sprintf("v%d", i), Caller: alice,
			Metadata: audit.Metadata{"namespace": "team-a", "repo": "app", "tag": fmt.Sprintf("v%d", i), "username": "alice"},
		})
		Expect(err).NotTo(HaveOccurred())
		records = append(records, record)
	}
	Expect(h.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.AppendAudit(records...) })).To(Succeed())
	checkpoint, err := h.Checkpoint(ctx)
	Expect(err).NotTo(HaveOccurred())
	Expect(checkpoint.Size).To(BeNumerically(">=", 600))
}

// export exports entries of the log.
func (h *harness) export(from, to int64) []byte {
	GinkgoHelper()
	write, err := h.ExportLog(ctx, from, to)
	Expect(err).NotTo(HaveOccurred())
	var out bytes.Buffer
	Expect(write(&out)).To(Succeed())
	return out.Bytes()
}

// verify exports entries of the log and verifies them.
func (h *harness) verify(known note.Verifiers, from, to int64, against ...audit.Checkpoint) audit.Report {
	GinkgoHelper()
	report, err := audit.Verify(bytes.NewReader(h.export(from, to)), audit.VerifyOptions{Known: known, Against: against})
	Expect(err).NotTo(HaveOccurred())
	return report
}

// rewriteTree makes the tree that the entries would have had, had they always been what they are now.
func (h *harness) rewriteTree(levels int) {
	GinkgoHelper()
	var leaves []tlog.Hash
	Expect(h.store.Read(ctx, func(r *meta.Reader) error {
		rows, err := r.Log(audit.Query{After: -1, Ascending: true, Limit: 1000})
		for _, row := range rows {
			leaves = append(leaves, audit.LeafHash(row.Leaf))
		}
		return err
	})).To(Succeed())
	tiles, err := audit.Extend(0, nil, leaves)
	Expect(err).NotTo(HaveOccurred())
	for _, tile := range tiles {
		if tile.Level < levels {
			Expect(metatest.Tamper(ctx, h.dir, `UPDATE audit_tiles SET hashes = $1 WHERE level = $2 AND n = $3`, tile.Hashes, tile.Level, tile.N)).To(Succeed())
		}
	}
}

var _ = eachEngine("Tampering with the log", func(h *harness) {
	var known note.Verifiers
	BeforeEach(func() {
		known = h.withKeys()
		h.fill()
	})

	It("is not found where there is none", func() {
		earlier := checkpointAt(h, 100)
		report := h.verify(known, 0, 0, earlier)
		Expect(report.Problem).To(BeNil())
		Expect(report.Entries).To(Equal(int64(600)))
		Expect(report.Against).To(Equal([]audit.Against{{Origin: earlier.Origin, Size: 100}}))
		Expect(report.SignedBy).To(HaveLen(1))
		for _, part := range [][2]int64{{0, 1}, {0, 256}, {1, 600}, {255, 257}, {256, 512}, {299, 299}, {599, 600}} {
			report := h.verify(known, part[0], part[1])
			Expect(report.Problem).To(BeNil(), "%v", part)
			Expect(report.Entries).To(Equal(part[1] - part[0]))
		}
	})

	// Each row is done on a running registry, which is then restarted, and goes on to write.
	DescribeTable("is found, and where it begins is named",
		func(first int64, reason string, statements ...string) {
			for _, statement := range statements {
				Expect(metatest.Tamper(ctx, h.dir, statement)).To(Succeed())
			}
			found := func() {
				GinkgoHelper()
				problem := h.verify(known, 0, 0).Problem
				Expect(problem).NotTo(BeNil())
				Expect([]int64{problem.First, problem.Last}).To(Equal([]int64{first, first}), problem.Reason)
				Expect(problem.Reason).To(ContainSubstring(reason))
			}
			found()
			h.with(func(*core.Options) {})
			h.mustPush(app, "later")
			found()
		},
		Entry("an edited leaf", int64(5), "its leaf does not have the hash",
			`UPDATE audit_entries SET leaf = (SELECT leaf FROM audit_entries WHERE idx = 7) WHERE idx = 5`),
		Entry("edited personal values", int64(5), "its personal value",
			`UPDATE audit_entries SET personal = (SELECT personal FROM audit_entries WHERE idx = 7) WHERE idx = 5`),
		Entry("an edited tag column", int64(5), `it is found by tag "v99", while the entry says "v5"`,
			`UPDATE audit_entries SET tag = 'v99' WHERE idx = 5`),
		Entry("an edited time column", int64(5), "it is found by time", `UPDATE audit_entries SET time = time - 1 WHERE idx = 5`),
		Entry("an edited performer column", int64(5), "it is found by performer", `UPDATE audit_entries SET performer = 'bob' WHERE idx = 5`),
		Entry("a deleted row", int64(300), "it was deleted", `DELETE FROM audit_entries WHERE idx = 300`),
		Entry("a deleted row whose gap was closed", int64(300), "another entry was put in its place",
			`DELETE FROM audit_entries WHERE idx = 300`, `UPDATE audit_entries SET idx = -idx WHERE idx > 300`, `UPDATE audit_entries SET idx = -idx - 1 WHERE idx < 0`),
		Entry("two rows that changed places", int64(10), "another entry was put in its place",
			`UPDATE audit_entries SET idx = -1 WHERE idx = 10`, `UPDATE audit_entries SET idx = 10 WHERE idx = 11`, `UPDATE audit_entries SET idx = 11 WHERE idx = -1`),
		Entry("a row that was put in", int64(20), "another entry was put in its place",
			`UPDATE audit_entries SET idx = -idx WHERE idx >= 20`, `UPDATE audit_entries SET idx = 1 - idx WHERE idx < 0`,
			`INSERT INTO audit_entries (idx, time, kind, organization, repository, tag, policy, performer, leaf, personal)
				SELECT 20, time, kind, organization, repository, tag, policy, performer, leaf, personal FROM audit_entries WHERE idx = 3`),
		Entry("rows cut off at the end", int64(590), "it was deleted", `DELETE FROM audit_entries WHERE idx >= 590`),
	)

	It("is found in the tree, if not all of it was rewritten", func() {
		Expect(metatest.Tamper(ctx, h.dir, `UPDATE audit_entries SET leaf = (SELECT leaf FROM audit_entries WHERE idx = 7) WHERE idx = 5`)).To(Succeed())
		Expect(metatest.Tamper(ctx, h.dir, `UPDATE audit_entries SET personal = (SELECT personal FROM audit_entries WHERE idx = 7), tag = 'v7',
			time = (SELECT time FROM audit_entries WHERE idx = 7) WHERE idx = 5`)).To(Succeed())
		h.rewriteTree(1)
		problem := h.verify(known, 0, 0).Problem
		Expect(problem).To(HaveField("Reason", ContainSubstring("do not belong to the tree")))
		Expect([]int64{problem.First, problem.Last}).To(Equal([]int64{0, 255}))
		_, err := h.InclusionProof(ctx, 100, 0)
		Expect(err).To(haveCode(domain.CodeLogInconsistent))
		_, err = h.LogEntry(ctx, 5)
		Expect(err).To(haveCode(domain.CodeLogInconsistent))
	})

	It("is found by earlier checkpoints, if the tree was rewritten too", func() {
		var earlier []audit.Checkpoint
		for _, size := range []int64{3, 5, 6, 256, 600} {
			earlier = append(earlier, checkpointAt(h, size))
		}
		Expect(metatest.Tamper(ctx, h.dir, `UPDATE audit_entries SET leaf = (SELECT leaf FROM audit_entries WHERE idx = 7), personal = (SELECT personal FROM audit_entries WHERE idx = 7),
			tag = 'v7', time = (SELECT time FROM audit_entries WHERE idx = 7) WHERE idx = 5`)).To(Succeed())
		h.rewriteTree(2)
		Expect(h.verify(known, 0, 0).Problem).To(BeNil(), "nothing in the database tells")
		among := func(against ...audit.Checkpoint) []int64 {
			GinkgoHelper()
			problem := h.verify(known, 0, 0, against...).Problem
			Expect(problem).To(HaveField("Reason", ContainSubstring("the log had the root")))
			return []int64{problem.First, problem.Last}
		}
		Expect(among(earlier[4])).To(Equal([]int64{0, 599}))
		Expect(among(earlier[4], earlier[0])).To(Equal([]int64{3, 599}))
		Expect(among(earlier[3], earlier[4], earlier[0])).To(Equal([]int64{3, 255}))
		Expect(among(earlier...)).To(Equal([]int64{5, 5}))
		Expect(h.verify(known, 0, 5, earlier[0], earlier[1]).Problem).To(BeNil())
	})

	It("is found by earlier checkpoints, if entries and their hashes were cut off", func() {
		earlier := checkpointAt(h, 600)
		Expect(metatest.Tamper(ctx, h.dir, `DELETE FROM audit_entries WHERE idx >= 550`)).To(Succeed())
		Expect(metatest.Tamper(ctx, h.dir, `DELETE FROM audit_tiles`)).To(Succeed())
		h.with(func(*core.Options) {})
		Expect(h.verify(known, 0, 0).Problem).To(BeNil(), "the tree was made anew")
		problem := h.verify(known, 0, 0, earlier).Problem
		Expect([]int64{problem.First, problem.Last}).To(Equal([]int64{550, 550}), problem.Reason)
		Expect(problem.Reason).To(ContainSubstring("the log had 600 entries, of which the export has those below 550"))
	})

	It("gives no proof of an entry that is not what it was", func() {
		Expect(metatest.Tamper(ctx, h.dir, `UPDATE audit_entries SET leaf = (SELECT leaf FROM audit_entries WHERE idx = 7) WHERE idx = 5`)).To(Succeed())
		Expect(metatest.Tamper(ctx, h.dir, `DELETE FROM audit_entries WHERE idx = 6`)).To(Succeed())
		for _, index := range []int64{5, 6} {
			_, err := h.InclusionProof(ctx, index, 0)
			Expect(err).To(haveCode(domain.CodeLogInconsistent))
			Expect(err).To(MatchError(ContainSubstring(fmt.Sprintf("entry %d", index))))
			_, err = h.LogEntry(ctx, index)
			Expect(err).To(haveCode(domain.CodeLogInconsistent))
		}
		_, err := h.InclusionProof(ctx, 7, 0)
		Expect(err).NotTo(HaveOccurred())
	})
})

// checkpointAt is a checkpoint of an earlier size.
func checkpointAt(h *harness, size int64) audit.Checkpoint {
	GinkgoHelper()
	proof, err := h.InclusionProof(ctx, 0, size)
	Expect(err).NotTo(HaveOccurred())
	origin, err := h.LogOrigin(ctx)
	Expect(err).NotTo(HaveOccurred())
	return audit.Checkpoint{Origin: origin, Size: size, Root: proof.Root}
}
