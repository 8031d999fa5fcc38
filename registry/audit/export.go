package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ExportFormat is the version of an export: JSON Lines, first an ExportHeader, then an ExportEntry for each index, at last
// an ExportEnd.
const ExportFormat = "tidelock-audit-export/v1"

// ExportHeader begins an export.
type ExportHeader struct {
	Format string `json:"format"`
	// Origin is the log's at the time of the export. Entries may have earlier ones.
	Origin string `json:"origin"`
	// From is the index of the first entry, Size that behind the last: the size of the checkpoint at the end.
	From int64 `json:"from"`
	Size int64 `json:"size"`
	// Tree holds the roots of the complete subtrees over the entries before From, the largest first.
	Tree []tlog.Hash `json:"tree,omitempty"`
	// PrunedBefore is the index below which entries may stand without leaf: only their hashes are kept.
	PrunedBefore int64 `json:"pruned_before,omitempty"`
}

// ExportEntry is an entry of an export. Hash is what the tree holds, all else what is stored beside it.
type ExportEntry struct {
	Index int64      `json:"index"`
	Hash  *tlog.Hash `json:"hash,omitempty"`
	// Unproven says that some hash of the tile that Hash stands in was changed: the tile does not belong to the tree.
	Unproven bool `json:"unproven,omitempty"`
	// Leaf is missing where the entry is.
	Leaf *string `json:"leaf,omitempty"`
	// Personal is Personal, as far as it is still there.
	Personal json.RawMessage `json:"personal,omitempty"`
	// Columns is what the entry is found by, if it is not what Leaf and Personal say.
	Columns *Columns `json:"columns,omitempty"`
}

// ExportEnd ends an export. An export without it was cut off.
type ExportEnd struct {
	// Checkpoint is signed, and of the header's Size.
	Checkpoint string `json:"checkpoint"`
}

// Columns are what an entry is found by in the database. They repeat what its leaf and its personal values say.
type Columns struct {
	Time       string `json:"time"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Policy     string `json:"policy"`
	Performer  string `json:"performer"`
}

// columns are those that are stored.
func (r Record) columns() Columns {
	return Columns{
		Time: r.Time.UTC().Format(timeFormat), Kind: string(r.Kind), Namespace: r.Organization, Repository: r.Repository,
		Tag: r.Tag, Policy: r.Policy, Performer: r.Performer,
	}
}

// columnsOf are those that follow from a leaf and the personal values.
func columnsOf(leaf, personal []byte) (c Columns, err error) {
	var said struct {
		Time       time.Time `json:"time"`
		Kind       string    `json:"kind"`
		Namespace  string    `json:"namespace"`
		Repository string    `json:"repository"`
		Metadata   struct {
			Tag    string `json:"tag"`
			Policy string `json:"policy_uuid"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(leaf, &said); err != nil {
		return c, err
	}
	var known Personal
	if len(personal) > 0 {
		if err := json.Unmarshal(personal, &known); err != nil {
			return c, err
		}
	}
	return Columns{
		Time: said.Time.UTC().Format(timeFormat), Kind: said.Kind, Namespace: said.Namespace, Repository: said.Repository,
		Tag: said.Metadata.Tag, Policy: said.Metadata.Policy, Performer: known.Values["performer"],
	}, nil
}

// difference names the first column that is not as it should be.
func (c Columns) difference(want Columns) string {
	for _, column := range []struct{ name, is, want string }{
		{"time", c.Time, want.Time}, {"kind", c.Kind, want.Kind}, {"namespace", c.Namespace, want.Namespace}, {"repository", c.Repository, want.Repository},
		{"tag", c.Tag, want.Tag}, {"policy", c.Policy, want.Policy}, {"performer", c.Performer, want.Performer},
	} {
		if column.is != column.want {
			return fmt.Sprintf("%s %q, while the entry says %q", column.name, column.is, column.want)
		}
	}
	return ""
}

// ExportWriter writes an export. What it writes comes to its writer in larger pieces, at last with Close.
type ExportWriter struct {
	out     *bufio.Writer
	encoder *json.Encoder
}

// NewExportWriter begins an export.
func NewExportWriter(w io.Writer, header ExportHeader) (*ExportWriter, error) {
	e := &ExportWriter{out: bufio.NewWriterSize(w, 64<<10)}
	e.encoder = json.NewEncoder(e.out)
	e.encoder.SetEscapeHTML(false)
	header.Format = ExportFormat
	return e, e.encoder.Encode(header)
}

// Entry writes an entry as it is stored, whatever is wrong with it. hash is nil if the tree has none, row if there is no
// such entry; proven is false if the hash does not belong to the tree.
func (e *ExportWriter) Entry(index int64, hash *tlog.Hash, proven bool, row *Record) error {
	line := ExportEntry{Index: index, Hash: hash, Unproven: !proven}
	if row != nil {
		leaf := string(row.Leaf)
		line.Leaf = &leaf
		if len(row.Personal) > 0 {
			line.Personal = row.Personal
			if !json.Valid(row.Personal) {
				line.Personal, _ = json.Marshal(string(row.Personal)) // a string can always be encoded
			}
		}
		// A leaf that cannot be read is told by its hash.
		is := row.columns()
		if want, err := columnsOf(row.Leaf, row.Personal); err != nil || is != want {
			line.Columns = &is
		}
	}
	return e.encoder.Encode(line)
}

// Close ends the export.
func (e *ExportWriter) Close(signed []byte) error {
	if err := e.encoder.Encode(ExportEnd{Checkpoint: string(signed)}); err != nil {
		return err
	}
	return e.out.Flush()
}

// CopyExport copies an export that comes whole, and returns how many entries it has. An export that was cut off is an
// error. progress is told now and then how many entries have come, of how many.
func CopyExport(w io.Writer, r io.Reader, progress func(entries, of int64)) (int64, error) {
	lines := &lineReader{in: bufio.NewReaderSize(r, 64<<10)}
	var header ExportHeader
	for n := int64(-1); ; n++ {
		line, err := lines.next()
		if err != nil {
			return n, fmt.Errorf("the export was cut off behind %d entries: %w", max(n, 0), err)
		}
		if _, err := w.Write(line); err != nil {
			return n, err
		}
		switch {
		case n < 0:
			if err := json.Unmarshal(line, &header); err != nil || header.Format != ExportFormat {
				return 0, fmt.Errorf("the answer is no export of the format %s", ExportFormat)
			}
		case n == header.Size-header.From:
			var end ExportEnd
			if err := json.Unmarshal(line, &end); err != nil || end.Checkpoint == "" {
				return n, fmt.Errorf("the export does not end with a checkpoint behind %d entries", n)
			}
			return n, nil
		case n%100_000 == 0 && n > 0:
			progress(n, header.Size-header.From)
		}
	}
}
