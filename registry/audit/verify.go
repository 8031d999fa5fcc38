package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxExportLine bounds a line of an export, in bytes.
const maxExportLine = 16 << 20

// VerifyOptions say what an export is held against.
type VerifyOptions struct {
	// Known are the public keys that checkpoints may be signed with.
	Known note.Verifiers
	// Against are earlier checkpoints, kept elsewhere, whose signatures were checked.
	Against []Checkpoint
	// Progress, if there is one, is told now and then how many entries were checked.
	Progress func(entries int64)
}

// Report is what Verify found.
type Report struct {
	// Problem is the first thing that is wrong; nil if all is as it should be.
	Problem *Problem `json:"problem,omitempty"`
	Origin  string   `json:"origin"`
	// From is the index of the first entry, Size the size of the log behind the last.
	From int64 `json:"from"`
	Size int64 `json:"size"`
	// Root is the root of the checkpoint, SignedBy who signed that.
	Root     *tlog.Hash `json:"root,omitempty"`
	SignedBy []string   `json:"signed_by,omitempty"`
	// Entries counts what was checked. Of Pruned ones only the hash is left; of Erased ones personal values are gone.
	Entries int64 `json:"entries"`
	Pruned  int64 `json:"pruned,omitempty"`
	Erased  int64 `json:"erased,omitempty"`
	// Archived counts those of the Pruned ones whose content is in the archives that were given.
	Archived int64 `json:"archived,omitempty"`
	// Forks are where the log went on from a restored backup, and Against is what became of each earlier checkpoint.
	Forks   []Fork    `json:"forks,omitempty"`
	Against []Against `json:"against,omitempty"`
}

// Problem is what is wrong with a log.
type Problem struct {
	// First is the first bad index and Last the last that it can be. They differ where only the hashes of several entries
	// together tell that one was changed; both are -1 for what is no entry's fault.
	First  int64  `json:"first_bad_index"`
	Last   int64  `json:"last_bad_index"`
	Reason string `json:"reason"`
}

func (p *Problem) Error() string {
	switch {
	case p.First < 0:
		return p.Reason
	case p.First == p.Last:
		return fmt.Sprintf("entry %d: %s", p.First, p.Reason)
	}
	return fmt.Sprintf("one of the entries %d to %d: %s", p.First, p.Last, p.Reason)
}

// Fork is where a log went on from a restored backup, under a new origin.
type Fork struct {
	// Index is that of the first entry of the new origin.
	Index          int64  `json:"index"`
	PreviousOrigin string `json:"previous_origin"`
	Origin         string `json:"origin"`
	Reason         string `json:"reason"`
	// Lost is how many entries of the previous origin, from Index on, had been published and are gone.
	Lost int64 `json:"lost"`
}

// Against is what became of an earlier checkpoint.
type Against struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	// Lost is how many of the checkpoint's entries went with a fork, which is at LostFrom; 0: all are there, unchanged.
	Lost     int64 `json:"lost,omitempty"`
	LostFrom int64 `json:"lost_from,omitempty"`
}

// Verify checks an export, which may be compressed with gzip, in bounded memory. It stops at the first problem, which is in
// the report; errors are those of reading.
func Verify(r io.Reader, options VerifyOptions) (Report, error) {
	lines, err := newLineReader(r)
	if err != nil {
		return Report{}, err
	}
	v := &verifier{options: options, lines: lines}
	v.against = slices.SortedFunc(slices.Values(options.Against), func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	err = v.run()
	var problem *Problem
	switch {
	case errors.As(err, &problem):
		v.report.Problem = problem
	case errors.Is(err, errCutOff):
		v.report.Problem = &Problem{First: -1, Last: -1, Reason: fmt.Sprintf("the export was cut off behind %d entries; export again", v.report.Entries)}
	case err != nil:
		return v.report, fmt.Errorf("reading the export: %w", err)
	}
	return v.report, nil
}

var errCutOff = errors.New("the export ends early")

type verifier struct {
	options VerifyOptions
	lines   *lineReader
	report  Report
	header  ExportHeader
	tree    *compactRange
	// against are the checkpoints that were not reached yet, by size; agreed is the size up to which one has agreed.
	against []Checkpoint
	agreed  int64
	// origin is that of the entry before.
	origin string
	// suspect is a problem of a tile, whose entries are still to come: one of them may tell more.
	suspect *Problem
}

func problemf(format string, args ...any) *Problem {
	return &Problem{First: -1, Last: -1, Reason: fmt.Sprintf(format, args...)}
}

func badEntry(index int64, format string, args ...any) *Problem {
	return &Problem{First: index, Last: index, Reason: fmt.Sprintf(format, args...)}
}

func (v *verifier) run() error {
	if err := v.begin(); err != nil {
		return err
	}
	for v.tree.size < v.header.Size {
		if err := v.entry(); err != nil {
			return err
		}
		if v.report.Entries++; v.options.Progress != nil && v.report.Entries%10_000 == 0 {
			v.options.Progress(v.report.Entries)
		}
		if err := v.compare(); err != nil {
			return err
		}
	}
	return v.end()
}

func (v *verifier) begin() error {
	line, err := v.lines.next()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &v.header); err != nil || v.header.Format != ExportFormat {
		return problemf("this is no export of the format %s", ExportFormat)
	}
	h := v.header
	v.report.Origin, v.report.From, v.report.Size = h.Origin, h.From, h.Size
	if h.From < 0 || h.Size < h.From {
		return problemf("the header speaks of entries %d to %d", h.From, h.Size)
	}
	if v.tree, err = newCompactRange(h.From, h.Tree); err != nil {
		return problemf("header: %s", err)
	}
	v.agreed = h.From
	if len(v.against) > 0 && v.against[0].Size < h.From {
		return problemf("the export begins with entry %d; the checkpoint of %d entries can only be compared with one that begins earlier", h.From, v.against[0].Size)
	}
	return v.compare()
}

func (v *verifier) entry() error {
	line, err := v.lines.next()
	if err != nil {
		return err
	}
	var e struct {
		ExportEntry
		// Index shadows that of ExportEntry, to tell 0 from none.
		Index *int64 `json:"index"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return badEntry(v.tree.size, "its line cannot be read: %s", err)
	}
	index := v.tree.size
	if e.Index == nil || *e.Index != index {
		return badEntry(index, "it is missing from the export")
	}
	if err := v.check(index, e.ExportEntry); err != nil {
		return err
	}
	if v.suspect == nil && e.Unproven {
		v.suspect = &Problem{First: index, Last: min(index-index%TileWidth+TileWidth, v.header.Size) - 1, Reason: "the hashes of these entries do not belong to the tree: at least one of them was changed"}
	}
	if v.suspect != nil && index == v.suspect.Last {
		return v.suspect
	}
	v.tree.add(*e.Hash)
	return nil
}

// check checks an entry by itself.
func (v *verifier) check(index int64, e ExportEntry) error {
	if e.Hash == nil {
		return badEntry(index, "its hash is missing from the tree")
	}
	if e.Leaf == nil {
		if index >= v.header.PrunedBefore {
			return badEntry(index, "it is missing: it was deleted from the database")
		}
		v.report.Pruned++
		return nil
	}
	leaf := []byte(*e.Leaf)
	if LeafHash(leaf) != *e.Hash {
		return badEntry(index, "its leaf does not have the hash that the tree holds: it was changed, or another entry was put in its place")
	}
	values, err := parseLeaf(leaf)
	if err != nil {
		return badEntry(index, "its leaf is not an entry: %s", err)
	}
	erased, err := values.checkPersonal(e.Personal)
	if err != nil {
		return badEntry(index, "%s", err)
	}
	if erased {
		v.report.Erased++
	}
	if e.Columns != nil {
		want, err := columnsOf(leaf, e.Personal)
		if err != nil {
			return badEntry(index, "what it is found by cannot be compared: %s", err)
		}
		if difference := e.Columns.difference(want); difference != "" {
			return badEntry(index, "it is found by %s: the column was changed", difference)
		}
	}
	return v.follow(index, values)
}

// follow checks that the entry is of the same log as the one before, or says why not.
func (v *verifier) follow(index int64, leaf leafValues) error {
	was, is := v.origin, leaf.text["origin"]
	v.origin = is
	if was == "" || was == is {
		return nil
	}
	text := func(name string) string {
		value, _ := leaf.metadata[name].(string)
		return value
	}
	if leaf.text["kind"] != string(KindForkLog) || text("previous_origin") != was {
		return badEntry(index, "it is of the log %s and those before are of %s, but it is not the entry of a fork", is, was)
	}
	fork := Fork{Index: index, PreviousOrigin: was, Origin: is, Reason: text("reason")}
	if published := text("checkpoint"); published != "" {
		last, err := ParseCheckpoint(published)
		if err != nil || last.Origin != was {
			return badEntry(index, "the checkpoint of the fork is not one of %s", was)
		}
		fork.Lost = max(0, last.Size-index)
	}
	v.report.Forks = append(v.report.Forks, fork)
	return nil
}

// compare holds the tree against the earlier checkpoints of its present size.
func (v *verifier) compare() error {
	for len(v.against) > 0 && v.against[0].Size == v.tree.size {
		earlier := v.against[0]
		v.against = v.against[1:]
		if v.tree.root() == earlier.Root {
			v.agreed = v.tree.size
			v.report.Against = append(v.report.Against, Against{Origin: earlier.Origin, Size: earlier.Size})
			continue
		}
		if err := v.lost(earlier, &Problem{
			First: v.agreed, Last: v.tree.size - 1,
			Reason: fmt.Sprintf("the log had the root %s when it had %d entries, and now those have %s: at least one of them was changed", earlier.Root, earlier.Size, v.tree.root()),
		}); err != nil {
			return err
		}
	}
	return nil
}

// lost explains by a fork, which was met before the checkpoint's size, that the log does not have all of its entries, or
// returns otherwise.
func (v *verifier) lost(earlier Checkpoint, otherwise *Problem) error {
	for _, fork := range v.report.Forks {
		if fork.PreviousOrigin == earlier.Origin {
			v.report.Against = append(v.report.Against, Against{Origin: earlier.Origin, Size: earlier.Size, Lost: earlier.Size - fork.Index, LostFrom: fork.Index})
			return nil
		}
	}
	return otherwise
}

func (v *verifier) end() error {
	line, err := v.lines.next()
	if err != nil {
		return err
	}
	var end ExportEnd
	if err := json.Unmarshal(line, &end); err != nil || end.Checkpoint == "" {
		return problemf("there is no checkpoint behind the last entry")
	}
	if _, err := v.lines.next(); !errors.Is(err, errCutOff) {
		return cmp.Or(err, error(problemf("something stands behind the checkpoint")))
	}
	checkpoint, signedBy, err := OpenCheckpoint([]byte(end.Checkpoint), v.options.Known)
	if err != nil {
		return problemf("the checkpoint is not signed with a key that was given: %s", err)
	}
	v.report.SignedBy, v.report.Root = signedBy, &checkpoint.Root
	if checkpoint.Origin != v.header.Origin || checkpoint.Size != v.header.Size {
		return problemf("the checkpoint is that of %s with %d entries, the export that of %s with %d", checkpoint.Origin, checkpoint.Size, v.header.Origin, v.header.Size)
	}
	if root := v.tree.root(); root != checkpoint.Root {
		return &Problem{First: min(v.agreed, v.tree.size-1), Last: v.tree.size - 1, Reason: fmt.Sprintf("the entries have the root %s, and the signed checkpoint %s", root, checkpoint.Root)}
	}
	if v.origin != "" && v.origin != checkpoint.Origin {
		return badEntry(v.tree.size-1, "it is of the log %s and the checkpoint of %s", v.origin, checkpoint.Origin)
	}
	for _, later := range v.against {
		if err := v.lost(later, badEntry(v.header.Size, "it is missing: the log had %d entries, of which the export has those below %d; if it is an export of all, the end of the log was cut off", later.Size, v.header.Size)); err != nil {
			return err
		}
	}
	return nil
}

// lineReader reads the lines of an export.
type lineReader struct{ in *bufio.Reader }

func newLineReader(r io.Reader) (*lineReader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		in = bufio.NewReaderSize(unpacked, 64<<10)
	}
	return &lineReader{in: in}, nil
}

// next returns the next line, which is good until the one after is read, or errCutOff if there is none.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return whole(line, err)
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(long) > maxExportLine {
			return nil, problemf("a line is longer than %d bytes", maxExportLine)
		}
		line, err = l.in.ReadSlice('\n')
		long = append(long, line...)
	}
	return whole(long, err)
}

func whole(line []byte, err error) ([]byte, error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errCutOff
	}
	return line, err
}
