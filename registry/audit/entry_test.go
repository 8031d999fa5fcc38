package audit_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

func entry() audit.Entry {
	return audit.Entry{
		Time: time.Date(2026, 3, 6, 10, 5, 0, 1000, time.FixedZone("CET", 3600)), Kind: audit.KindChangeImmutability,
		Organization: "team-a", Repository: "app", Tag: "v1", Policy: "p",
		Caller:   domain.Caller{Name: "alice", Kind: domain.CallerUser, Address: "192.0.2.7", TokenID: "t1"},
		Metadata: audit.Metadata{"username": "alice", "tag": "v1", "immutable": true, "count": 3, "list": []string{"b", "a"}, "nested": audit.Metadata{"z": int64(1), "a": nil}},
	}
}

// The encoding is final: these bytes are what a Merkle tree of any age holds.
func TestTheLeafIsFinal(t *testing.T) {
	g := NewWithT(t)
	record, err := audit.Encode("tidelock/0123", entry())
	g.Expect(err).NotTo(HaveOccurred())
	var personal audit.Personal
	g.Expect(json.Unmarshal(record.Personal, &personal)).To(Succeed())
	salt, err := hex.DecodeString(personal.Salt)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(salt).To(HaveLen(16))
	hash := func(field, value string) string { return audit.HashPersonal(salt, field, value) }
	g.Expect(string(record.Leaf)).To(Equal(`{"address":"` + hash("address", "192.0.2.7") + `","format":"tidelock-audit/v1","kind":"change_tag_immutability",` +
		`"metadata":{"count":3,"immutable":true,"list":["b","a"],"nested":{"a":null,"z":1},"tag":"v1","username":"` + hash("metadata.username", "alice") + `"},` +
		`"namespace":"team-a","origin":"tidelock/0123","performer":"` + hash("performer", "alice") + `","performer_kind":"user","repository":"app","time":"2026-03-06T09:05:00.000001Z","token":"t1"}`))
}

func TestPersonalHashes(t *testing.T) {
	g := NewWithT(t)
	g.Expect(audit.HashPersonal(bytes.Repeat([]byte{1}, 16), "performer", "alice")).To(Equal("sha256:df2db3dcf107e9794e979b4f610fce5ec99bdee25690bc6eb52ce08e51156c84"))
}

func TestLeavesOfEqualEntriesDiffer(t *testing.T) {
	g := NewWithT(t)
	first, err := audit.Encode("o", entry())
	g.Expect(err).NotTo(HaveOccurred())
	second, err := audit.Encode("o", entry())
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(first.Leaf).NotTo(Equal(second.Leaf))
}

func TestDecode(t *testing.T) {
	g := NewWithT(t)
	record, err := audit.Encode("o", entry())
	g.Expect(err).NotTo(HaveOccurred())
	view, err := audit.Decode(audit.Indexed{Index: 7, Record: record})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(view).To(And(
		HaveField("Index", int64(7)), HaveField("Performer", "alice"), HaveField("Address", "192.0.2.7"), HaveField("Hash", audit.LeafHash(record.Leaf)),
		HaveField("Metadata", HaveKeyWithValue("username", "alice")), HaveField("Time", BeTemporally("==", entry().Time))))
	g.Expect(entry().Metadata["username"]).To(Equal("alice"))

	erased := record
	erased.Personal = nil
	view, err = audit.Decode(audit.Indexed{Index: 7, Record: erased})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(view.Performer).To(Equal(audit.Erased))
	g.Expect(view.Metadata).To(HaveKeyWithValue("username", audit.Erased))
	g.Expect(view.Hash).To(Equal(audit.LeafHash(record.Leaf)), "erasing a person breaks no proof")

	record.Leaf = bytes.Replace(record.Leaf, []byte("tidelock-audit/v1"), []byte("tidelock-audit/v9"), 1)
	_, err = audit.Decode(audit.Indexed{Index: 7, Record: record})
	g.Expect(err).To(MatchError(ContainSubstring(`format "tidelock-audit/v9"`)))
}

func TestWhatCannotBeEncodedIsAnError(t *testing.T) {
	g := NewWithT(t)
	for _, value := range []any{1.5, int64(1) << 60, struct{}{}} {
		_, err := audit.Encode("o", audit.Entry{Kind: audit.KindPushRepo, Metadata: audit.Metadata{"x": value}})
		g.Expect(err).To(MatchError(ContainSubstring("x: ")))
	}
}

// FuzzCanonical checks strings against encoding/json: what it reads back is the same, and nothing else is escaped than
// what RFC 8785 says.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"", "plain", "\x00\x1f\x7f", `"\`, "\b\f\n\r\t", "é\u2028\U0001F600", "\xff\xc0", "<&>"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		record, err := audit.Encode("o", audit.Entry{Kind: audit.KindPushRepo, Metadata: audit.Metadata{"s": s}})
		if err != nil {
			t.Fatal(err)
		}
		var leaf struct{ Metadata map[string]string }
		if err := json.Unmarshal(record.Leaf, &leaf); err != nil {
			t.Fatalf("%q: %v", record.Leaf, err)
		}
		want := string([]rune(s))
		if got := leaf.Metadata["s"]; got != want {
			t.Fatalf("%q came back as %q", want, got)
		}
		if bytes.Contains(record.Leaf, []byte(`\u2028`)) || bytes.Contains(record.Leaf, []byte(`\u003c`)) {
			t.Fatalf("%q escapes what needs none", record.Leaf)
		}
	})
}
