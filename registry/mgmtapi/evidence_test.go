package mgmtapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Evidence", func() {
	const base = "/api/v1/superuser/audit/"
	var r *registry

	BeforeEach(func() {
		r = newRegistry(coreOptions)
		for i := range 5 {
			r.push("team-a/app", fmt.Sprintf("v%d", i), "one")
		}
	})

	keys := func() note.Verifiers {
		GinkgoHelper()
		known, err := audit.ParsePublicKeys([]byte(r.must("GET", base+"keys", "").body))
		Expect(err).NotTo(HaveOccurred())
		return known
	}
	checkpoint := func() audit.Checkpoint {
		GinkgoHelper()
		answer := r.must("GET", base+"checkpoint", "")
		Expect(answer.header.Get("Content-Type")).To(Equal("text/plain; charset=utf-8"))
		checkpoint, _, err := audit.OpenCheckpoint([]byte(answer.body+"\n"), keys())
		Expect(err).NotTo(HaveOccurred())
		return checkpoint
	}
	hashes := func(texts []string) (list []tlog.Hash) {
		GinkgoHelper()
		for _, text := range texts {
			hash, err := tlog.ParseHash(text)
			Expect(err).NotTo(HaveOccurred())
			list = append(list, hash)
		}
		return list
	}

	It("is a checkpoint, entries, and proofs that fit together", func() {
		now := checkpoint()
		Expect(now.Size).To(Equal(int64(7)))
		entry := into[openapi.Evidence](r.must("GET", base+"entries/3", ""))
		Expect(entry.Hash).To(Equal(audit.LeafHash([]byte(entry.Leaf)).String()))
		Expect(entry.Leaf).To(ContainSubstring(`"tag":"v1"`))
		var personal audit.Personal
		Expect(json.Unmarshal(entry.Personal, &personal)).To(Succeed())
		Expect(personal.Values).To(HaveKeyWithValue("performer", "admin"))

		proof := into[openapi.InclusionProof](r.must("GET", base+"proof/inclusion?index=3", ""))
		Expect(proof.Size).To(Equal(int64(7)))
		Expect(proof.Root).To(Equal(now.Root.String()))
		Expect(proof.Hash).To(Equal(entry.Hash))
		Expect(audit.VerifyInclusion(now, 3, hashes([]string{proof.Hash})[0], hashes(proof.Proof))).To(Succeed())

		r.push("team-a/app", "later", "one")
		later := checkpoint()
		for _, query := range []string{"from=7", "from=7&to=8"} {
			proof := into[openapi.ConsistencyProof](r.must("GET", base+"proof/consistency?"+query, ""))
			Expect(proof.To).To(Equal(int64(8)))
			Expect(audit.VerifyConsistency(now, later, hashes(proof.Proof))).To(Succeed())
		}
		Expect(into[openapi.ConsistencyProof](r.must("GET", base+"proof/consistency?from=0", "")).Proof).To(BeEmpty())
		Expect(into[openapi.InclusionProof](r.as(operator, "GET", base+"proof/inclusion?index=3&size=7", "")).Root).To(Equal(now.Root.String()))
	})

	It("is an export that verifies", func() {
		for query, entries := range map[string]int64{"": 7, "?from=2": 5, "?from=2&to=4": 2, "?to=1": 1} {
			answer := r.must("GET", base+"export"+query, "")
			Expect(answer.header.Get("Content-Type")).To(Equal("application/jsonl"))
			report, err := audit.Verify(strings.NewReader(answer.body+"\n"), audit.VerifyOptions{Known: keys()})
			Expect(err).NotTo(HaveOccurred())
			Expect(report.Problem).To(BeNil())
			Expect(report.Entries).To(Equal(entries))
		}
	})

	DescribeTable("is refused", func(path string, status int, message string) {
		answer := r.admin("GET", base+path, "")
		Expect(answer.status).To(Equal(status))
		Expect(answer.problem().Detail).To(Equal(message))
	},
		Entry("for no index", "entries/first", 400, `index: "first" is not the index of an entry`),
		Entry("for a negative index", "entries/-1", 400, `index: "-1" is not the index of an entry`),
		Entry("for an entry to come", "entries/7", 404, "index: 7 is beyond the log, which has 7 entries"),
		Entry("without an index", "proof/inclusion?size=7", 400, "index: the parameter is required"),
		Entry("for an index that is none", "proof/inclusion?index=x", 400, `index: "x" is not a whole number from 0 to 9223372036854775807`),
		Entry("for an empty log", "proof/inclusion?index=0&size=0", 400, `size: "0" is not a whole number from 1 to 9223372036854775807`),
		Entry("for an index beyond the log", "proof/inclusion?index=7", 404, "index: 7 is beyond the log, which has 7 entries"),
		Entry("for an index beyond the size", "proof/inclusion?index=5&size=5", 400, "index 5 is not in a log of 5 entries; the size must be above it"),
		Entry("for a size beyond the log", "proof/inclusion?index=5&size=8", 404, "size: 8 is beyond the log, which has 7 entries"),
		Entry("without a size", "proof/consistency?to=7", 400, "from: the parameter is required"),
		Entry("backwards", "proof/consistency?from=5&to=3", 400, "from: 5 is above to, 3"),
		Entry("for a log to come", "proof/consistency?from=5&to=8", 404, "to: 8 is beyond the log, which has 7 entries"),
		Entry("for a log that was larger", "proof/consistency?from=8", 404, "from: 8 is beyond the log, which has 7 entries"),
		Entry("for an export of what is to come", "export?to=8", 404, "to: 8 is beyond the log, which has 7 entries"),
		Entry("for an export that begins beyond the log", "export?from=8", 404, "from: 8 is beyond the log, which has 7 entries"),
		Entry("for an export backwards", "export?from=3&to=2", 400, "from: 3 is above to, 2"),
	)

	It("is 503 without a key that can be read, and 200 again with one", func() {
		path := filepath.Join(GinkgoT().TempDir(), "audit.key")
		Expect(audit.EnsureKeyFile(path)).To(Succeed())
		options := coreOptions
		options.AuditKeys = audit.KeyFile(path)
		r = newRegistry(options)
		Expect(os.Rename(path, path+".gone")).To(Succeed())
		for _, name := range []string{"checkpoint", "keys", "export"} {
			Expect(r.admin("GET", base+name, "").status).To(Equal(http.StatusServiceUnavailable), name)
		}
		Expect(r.admin("GET", base+"proof/consistency?from=0", "").status).To(Equal(http.StatusOK))
		Expect(os.Rename(path+".gone", path)).To(Succeed())
		Expect(r.admin("GET", base+"checkpoint", "").status).To(Equal(http.StatusOK))
	})
})
