package audit_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
)

// testLog is a log in memory.
type testLog struct {
	origin  string
	private string
	known   note.Verifiers
	records []audit.Record
	tiles   map[tlog.Tile][]byte
	pruned  int64
}

func newTestLog(t *testing.T, n int) *testLog {
	t.Helper()
	g := NewWithT(t)
	l := &testLog{origin: "tidelock/0123", tiles: map[tlog.Tile][]byte{}}
	private, public, err := audit.GenerateKey("test")
	g.Expect(err).NotTo(HaveOccurred())
	l.private = private
	l.known, err = audit.ParsePublicKeys([]byte(public))
	g.Expect(err).NotTo(HaveOccurred())
	for range n {
		l.add(t, nil)
	}
	l.integrate(t, 0)
	return l
}

// add appends an entry, which change may change before.
func (l *testLog) add(t *testing.T, change func(*audit.Entry)) {
	t.Helper()
	e := entry()
	e.Metadata["policy_uuid"], e.Metadata["n"] = e.Policy, len(l.records)
	if change != nil {
		change(&e)
	}
	record, err := audit.Encode(l.origin, e)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	l.records = append(l.records, record)
}

// integrate puts the entries from an index on into the tree.
func (l *testLog) integrate(t *testing.T, from int64) {
	t.Helper()
	var leaves []tlog.Hash
	for _, record := range l.records[from:] {
		leaves = append(leaves, audit.LeafHash(record.Leaf))
	}
	frontier, err := l.source(audit.Frontier(from))
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	changed, err := audit.Extend(from, frontier, leaves)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	for _, tile := range changed {
		l.tiles[tlog.Tile{L: tile.Level, N: tile.N}] = tile.Hashes
	}
}

func (l *testLog) source(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		if hashes := l.tiles[tlog.Tile{L: tile.L, N: tile.N}]; len(hashes) >= tile.W*tlog.HashSize {
			data[i] = hashes[:tile.W*tlog.HashSize]
		}
	}
	return data, nil
}

func (l *testLog) checkpoint(t *testing.T, size int64) audit.Checkpoint {
	t.Helper()
	g := NewWithT(t)
	tree, err := audit.OpenTree(int64(len(l.records)), l.source)
	g.Expect(err).NotTo(HaveOccurred())
	root, err := tree.Root(size)
	g.Expect(err).NotTo(HaveOccurred())
	return audit.Checkpoint{Origin: l.origin, Size: size, Root: root}
}

func (l *testLog) sign(t *testing.T, checkpoint audit.Checkpoint) []byte {
	t.Helper()
	keys, err := audit.ParseKeys([]byte(l.private))
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	signed, err := keys.Sign(checkpoint)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return signed
}

// export is the export of the entries from an index to another.
func (l *testLog) export(t *testing.T, from, to int64) []byte {
	t.Helper()
	g := NewWithT(t)
	tree, err := audit.OpenTree(to, l.source)
	g.Expect(err).NotTo(HaveOccurred())
	header := audit.ExportHeader{Origin: l.origin, From: from, Size: to, PrunedBefore: l.pruned}
	header.Tree, err = tree.Prefix(from)
	g.Expect(err).NotTo(HaveOccurred())
	var out bytes.Buffer
	w, err := audit.NewExportWriter(&out, header)
	g.Expect(err).NotTo(HaveOccurred())
	hashes, err := tree.Leaves(from, to)
	g.Expect(err).NotTo(HaveOccurred())
	for i := from; i < to; i++ {
		row := &l.records[i]
		if row.Leaf == nil {
			row = nil
		}
		g.Expect(w.Entry(i, &hashes[i-from], true, row)).To(Succeed())
	}
	g.Expect(w.Close(l.sign(t, l.checkpoint(t, to)))).To(Succeed())
	return out.Bytes()
}

func (l *testLog) verify(t *testing.T, export []byte, against ...audit.Checkpoint) audit.Report {
	t.Helper()
	report, err := audit.Verify(bytes.NewReader(export), audit.VerifyOptions{Known: l.known, Against: against})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return report
}

func TestAnExportVerifies(t *testing.T) {
	g := NewWithT(t)
	l := newTestLog(t, 600)
	for _, part := range [][2]int64{{0, 0}, {0, 1}, {0, 600}, {1, 600}, {255, 257}, {256, 512}, {300, 300}, {599, 600}} {
		report := l.verify(t, l.export(t, part[0], part[1]))
		g.Expect(report.Problem).To(BeNil(), "%v", part)
		g.Expect(report.Entries).To(Equal(part[1] - part[0]))
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(l.export(t, 0, 600))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(z.Close()).To(Succeed())
	report := l.verify(t, packed.Bytes())
	g.Expect(report.Problem).To(BeNil())
	root := l.checkpoint(t, 600).Root
	g.Expect(report.Root).To(HaveValue(Equal(root)))
	g.Expect(report.SignedBy).To(ConsistOf(MatchRegexp(`^test\+[0-9a-f]{8}$`)))

	cut := l.verify(t, packed.Bytes()[:packed.Len()/2])
	g.Expect(cut.Problem).To(MatchError(MatchRegexp("^the export was cut off behind [0-9]+ entries; export again$")))
}

// lines of an export: the header, the entries 0 to 9, and the checkpoint.
type lines []string

func (l lines) edit(n int, change func(map[string]any)) {
	var line map[string]any
	if err := json.Unmarshal([]byte(l[n]), &line); err != nil {
		panic(err)
	}
	change(line)
	edited, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	l[n] = string(edited)
}

func set(name string, value any) func(map[string]any) {
	return func(line map[string]any) { line[name] = value }
}

func TestAnEditedExportIsRefused(t *testing.T) {
	l := newTestLog(t, 10)
	other := newTestLog(t, 10)
	for name, test := range map[string]struct {
		edit    func(lines) lines
		problem string
	}{
		"no header":                          {func(x lines) lines { return x[1:] }, "this is no export of the format tidelock-audit-export/v1"},
		"another format":                     {func(x lines) lines { x.edit(0, set("format", "tidelock-audit-export/v2")); return x }, "this is no export of the format tidelock-audit-export/v1"},
		"a range that ends before it begins": {func(x lines) lines { x.edit(0, set("from", 11)); return x }, "the header speaks of entries 11 to 10"},
		"a tree of another size":             {func(x lines) lines { x.edit(0, set("from", 1)); return x }, "header: the hashes of the tree are not those of its size"},
		"a line that is missing":             {func(x lines) lines { return append(x[:4:4], x[5:]...) }, "entry 3: it is missing from the export"},
		"a line twice":                       {func(x lines) lines { return append(x[:5:5], x[4:]...) }, "entry 4: it is missing from the export"},
		"a line without an index":            {func(x lines) lines { x.edit(1, func(l map[string]any) { delete(l, "index") }); return x }, "entry 0: it is missing from the export"},
		"a line that is none":                {func(x lines) lines { x[4] = "{"; return x }, "entry 3: its line cannot be read: unexpected end of JSON input"},
		"no hash":                            {func(x lines) lines { x.edit(4, func(l map[string]any) { delete(l, "hash") }); return x }, "entry 3: its hash is missing from the tree"},
		"no leaf":                            {func(x lines) lines { x.edit(4, func(l map[string]any) { delete(l, "leaf") }); return x }, "entry 3: it is missing: it was deleted from the database"},
		"another leaf":                       {func(x lines) lines { x.edit(4, set("leaf", string(l.records[4].Leaf))); return x }, "entry 3: its leaf does not have the hash that the tree holds: it was changed, or another entry was put in its place"},
		"another personal value": {func(x lines) lines {
			x.edit(4, func(l map[string]any) { l["personal"].(map[string]any)["values"].(map[string]any)["performer"] = "bob" })
			return x
		}, "entry 3: its personal value performer was changed: it does not have the hash that the leaf holds"},
		"another salt": {func(x lines) lines {
			x.edit(4, func(l map[string]any) { l["personal"].(map[string]any)["salt"] = "00" })
			return x
		}, "entry 3: its personal value "},
		"personal values that are none": {func(x lines) lines { x.edit(4, set("personal", "text")); return x }, "entry 3: its personal values cannot be read"},
		"a hash that was found to be wrong": {func(x lines) lines { x.edit(4, set("unproven", true)); return x },
			"one of the entries 3 to 9: the hashes of these entries do not belong to the tree: at least one of them was changed"},
		"a wrong hash, and a leaf that tells which": {func(x lines) lines {
			for n := range 10 {
				x.edit(n+1, set("unproven", true))
			}
			x.edit(6, set("leaf", string(l.records[4].Leaf)))
			return x
		}, "entry 5: its leaf does not have the hash"},
		"leaf and hash of another entry": {func(x lines) lines {
			x.edit(4, set("leaf", string(l.records[4].Leaf)))
			x.edit(4, set("personal", json.RawMessage(l.records[4].Personal)))
			x.edit(4, set("hash", audit.LeafHash(l.records[4].Leaf)))
			return x
		}, "one of the entries 0 to 9: the entries have the root "},
		"another column": {func(x lines) lines {
			x.edit(4, set("columns", map[string]any{"time": "2026-03-06T09:05:00.000001Z", "kind": "change_tag_immutability", "namespace": "team-a", "repository": "app", "tag": "v1", "policy": "p", "performer": "bob"}))
			return x
		}, `entry 3: it is found by performer "bob", while the entry says "alice": the column was changed`},
		"no checkpoint":           {func(x lines) lines { return x[:11] }, "the export was cut off behind 10 entries; export again"},
		"another line at its end": {func(x lines) lines { return append(x[:11:11], x[10]) }, "there is no checkpoint behind the last entry"},
		"a line behind its end":   {func(x lines) lines { return append(x, x[11]) }, "something stands behind the checkpoint"},
		"a signature of somebody else": {func(x lines) lines {
			x.edit(11, set("checkpoint", string(other.sign(t, l.checkpoint(t, 10)))))
			return x
		}, "the checkpoint is not signed with a key that was given: checkpoint: note has no verifiable signatures"},
		"a checkpoint of another size": {func(x lines) lines { x.edit(11, set("checkpoint", string(l.sign(t, l.checkpoint(t, 9))))); return x },
			"the checkpoint is that of tidelock/0123 with 9 entries, the export that of tidelock/0123 with 10"},
		"a checkpoint of another log": {func(x lines) lines {
			checkpoint := l.checkpoint(t, 10)
			checkpoint.Origin = "tidelock/4567"
			x.edit(11, set("checkpoint", string(l.sign(t, checkpoint))))
			return x
		}, "the checkpoint is that of tidelock/4567 with 10 entries, the export that of tidelock/0123 with 10"},
	} {
		t.Run(name, func(t *testing.T) {
			whole := lines(strings.Split(strings.TrimSuffix(string(l.export(t, 0, 10)), "\n"), "\n"))
			edited := strings.Join(test.edit(whole), "\n") + "\n"
			NewWithT(t).Expect(l.verify(t, []byte(edited)).Problem).To(MatchError(HavePrefix(test.problem)))
		})
	}
}

// Whoever has the key can sign what is not an entry.
func TestOnlyCanonicalLeavesAreEntries(t *testing.T) {
	const rest = `"kind":"push_repo","origin":"tidelock/0123","time":"2026-03-06T09:05:00.000001Z"}`
	for leaf, problem := range map[string]string{
		`{"format":"tidelock-audit/v1",` + rest: "",
		`{"format":"tidelock-audit/v1","kind":"push_repo","metadata":{"a":[1,"b",null,true,{"c":-2}]},` + rest[19:]: "",
		`text`: "invalid character",
		`[]`:   "it is no object",
		`{"format":"tidelock-audit/v1",` + rest + " ":                                        "it is not in its canonical encoding",
		`{"format":"tidelock-audit/v1",` + rest + "{}":                                       "something stands behind the object",
		`{"format": "tidelock-audit/v1",` + rest:                                             "it is not in its canonical encoding",
		`{"format":"tidelock-audit/v1","format":"tidelock-audit/v1",` + rest:                 "it is not in its canonical encoding",
		`{"format":"tidelock-audit\/v1",` + rest:                                             "it is not in its canonical encoding",
		`{"format":"tidelock-audit/v2",` + rest:                                              `its format is "tidelock-audit/v2"`,
		`{"extra":"x","format":"tidelock-audit/v1",` + rest:                                  `it has a member "extra"`,
		`{"address":1,"format":"tidelock-audit/v1",` + rest:                                  `it has a member "address"`,
		`{"format":"tidelock-audit/v1","kind":"push_repo","metadata":1,` + rest[19:]:         "metadata is no object",
		`{"format":"tidelock-audit/v1","kind":"push_repo","metadata":{"a":1.5},` + rest[19:]: "invalid syntax",
		`{"format":"tidelock-audit/v1",` + strings.Replace(rest, ".000001Z", "Z", 1):         "is not the time of an entry",
	} {
		l := newTestLog(t, 3)
		l.records[1] = audit.Record{Leaf: []byte(leaf)}
		l.integrate(t, 0)
		lines := strings.Split(string(l.export(t, 0, 3)), "\n")
		// The columns of such a leaf cannot be right.
		var line map[string]any
		NewWithT(t).Expect(json.Unmarshal([]byte(lines[2]), &line)).To(Succeed())
		delete(line, "columns")
		edited, _ := json.Marshal(line)
		lines[2] = string(edited)
		got := l.verify(t, []byte(strings.Join(lines, "\n"))).Problem
		if problem == "" {
			NewWithT(t).Expect(got).To(BeNil(), leaf)
		} else {
			NewWithT(t).Expect(got).To(MatchError(And(HavePrefix("entry 1: its leaf is not an entry: "), ContainSubstring(problem))), leaf)
		}
	}
}

func TestEarlierCheckpointsShowThatTheLogOnlyGrew(t *testing.T) {
	g := NewWithT(t)
	l, other := newTestLog(t, 300), newTestLog(t, 300)
	export := l.export(t, 0, 300)
	at := func(size int64) audit.Checkpoint { return l.checkpoint(t, size) }
	report := l.verify(t, export, at(300), at(0), at(17), at(17))
	g.Expect(report.Problem).To(BeNil())
	g.Expect(report.Against).To(HaveLen(4))

	g.Expect(l.verify(t, export, at(10), other.checkpoint(t, 20)).Problem).To(MatchError(HavePrefix("one of the entries 10 to 19: the log had the root " + other.checkpoint(t, 20).Root.String())))
	g.Expect(l.verify(t, l.export(t, 0, 200), at(250)).Problem).To(MatchError("entry 200: it is missing: the log had 250 entries, of which the export has those below 200; if it is an export of all, the end of the log was cut off"))
	part := l.export(t, 100, 300)
	g.Expect(l.verify(t, part, at(100), at(101)).Problem).To(BeNil())
	g.Expect(l.verify(t, part, other.checkpoint(t, 100)).Problem).To(MatchError(ContainSubstring("the log had the root")))
	g.Expect(l.verify(t, part, at(99)).Problem).To(MatchError("the export begins with entry 100; the checkpoint of 99 entries can only be compared with one that begins earlier"))
}

func TestAForkExplainsWhatIsLost(t *testing.T) {
	g := NewWithT(t)
	l := newTestLog(t, 20)
	published := l.checkpoint(t, 20)
	signed := l.sign(t, published)
	at10 := l.checkpoint(t, 10)

	// A backup of 12 entries is restored.
	fork := func(e *audit.Entry) {
		e.Kind, e.Organization, e.Repository, e.Tag, e.Policy = audit.KindForkLog, "", "", "", ""
		e.Metadata = audit.Metadata{"previous_origin": "tidelock/0123", "checkpoint": string(signed), "reason": "the volume was lost"}
	}
	begin := func(change func(*audit.Entry)) *testLog {
		forked := &testLog{origin: "tidelock/4567", private: l.private, known: l.known, records: append([]audit.Record{}, l.records[:12]...), tiles: map[tlog.Tile][]byte{}}
		forked.add(t, change)
		for range 30 {
			forked.add(t, nil)
		}
		forked.integrate(t, 0)
		return forked
	}
	forked := begin(fork)
	report := forked.verify(t, forked.export(t, 0, 43), published, at10, l.checkpoint(t, 12), forked.checkpoint(t, 30))
	g.Expect(report.Problem).To(BeNil())
	g.Expect(report.Forks).To(Equal([]audit.Fork{{Index: 12, PreviousOrigin: "tidelock/0123", Origin: "tidelock/4567", Reason: "the volume was lost", Lost: 8}}))
	g.Expect(report.Against).To(ContainElements(
		audit.Against{Origin: "tidelock/0123", Size: 20, Lost: 8, LostFrom: 12}, audit.Against{Origin: "tidelock/0123", Size: 10}, audit.Against{Origin: "tidelock/4567", Size: 30}))

	// One that ends before the checkpoint's size, too.
	report = forked.verify(t, forked.export(t, 0, 15), published)
	g.Expect(report.Problem).To(BeNil())
	g.Expect(report.Against).To(Equal([]audit.Against{{Origin: "tidelock/0123", Size: 20, Lost: 8, LostFrom: 12}}))

	// What came before the fork is not explained by it.
	g.Expect(forked.verify(t, forked.export(t, 0, 43), newTestLog(t, 20).checkpoint(t, 11)).Problem).To(MatchError(ContainSubstring("the log had the root")))
	unexplained := begin(nil)
	g.Expect(unexplained.verify(t, unexplained.export(t, 0, 43)).Problem).To(MatchError(
		"entry 12: it is of the log tidelock/4567 and those before are of tidelock/0123, but it is not the entry of a fork"))
	foreign := begin(func(e *audit.Entry) {
		fork(e)
		e.Metadata["previous_origin"] = "tidelock/89ab"
	})
	g.Expect(foreign.verify(t, foreign.export(t, 0, 43)).Problem).To(MatchError(HavePrefix("entry 12: it is of the log tidelock/4567")))
	lying := begin(func(e *audit.Entry) {
		fork(e)
		e.Metadata["checkpoint"] = "text"
	})
	g.Expect(lying.verify(t, lying.export(t, 0, 43)).Problem).To(MatchError("entry 12: the checkpoint of the fork is not one of tidelock/0123"))
}

func TestPrunedAndErasedEntriesStayProven(t *testing.T) {
	g := NewWithT(t)
	l := newTestLog(t, 20)
	for i := range 5 {
		l.records[i] = audit.Record{}
	}
	for i := 7; i < 10; i++ {
		l.records[i].Personal, l.records[i].Performer = nil, ""
	}
	g.Expect(l.verify(t, l.export(t, 0, 20)).Problem).To(MatchError(HavePrefix("entry 0: it is missing")))
	l.pruned = 5
	report := l.verify(t, l.export(t, 0, 20))
	g.Expect(report.Problem).To(BeNil())
	g.Expect(report.Pruned).To(Equal(int64(5)))
	g.Expect(report.Erased).To(Equal(int64(3)))
	l.pruned = 4
	g.Expect(l.verify(t, l.export(t, 0, 20)).Problem).To(MatchError(HavePrefix("entry 4: it is missing")))
}

func TestOnlyAWholeExportIsCopied(t *testing.T) {
	g := NewWithT(t)
	l := newTestLog(t, 5)
	export := l.export(t, 1, 5)
	var out bytes.Buffer
	n, err := audit.CopyExport(&out, bytes.NewReader(export), nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(n).To(Equal(int64(4)))
	g.Expect(out.Bytes()).To(Equal(export))
	for size := range len(export) {
		_, err := audit.CopyExport(io.Discard, bytes.NewReader(export[:size]), nil)
		g.Expect(err).To(MatchError(MatchRegexp("cut off|does not end")), "%d bytes", size)
	}
	_, err = audit.CopyExport(io.Discard, strings.NewReader("{}\n"), nil)
	g.Expect(err).To(MatchError("the answer is no export of the format tidelock-audit-export/v1"))
}

func FuzzVerify(f *testing.F) {
	_, public, err := audit.GenerateKey("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	known, err := audit.ParsePublicKeys([]byte(public))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(fmt.Sprintf("{\"format\":%q,\"origin\":\"o\",\"from\":0,\"size\":1}\n{\"index\":0,\"hash\":\"%s\",\"leaf\":\"{}\"}\n{\"checkpoint\":\"\"}\n", audit.ExportFormat, audit.LeafHash([]byte("{}")))))
	f.Add([]byte(fmt.Sprintf("{\"format\":%q,\"origin\":\"o\",\"from\":3,\"size\":3,\"tree\":[\"%s\",\"%s\"]}\n", audit.ExportFormat, tlog.Hash{}, tlog.Hash{1})))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, export []byte) {
		// Nobody has the private key, so nothing verifies.
		if report, err := audit.Verify(bytes.NewReader(export), audit.VerifyOptions{Known: known}); err == nil && report.Problem == nil {
			t.Errorf("verified: %+v", report)
		}
	})
}
