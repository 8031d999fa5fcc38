package core

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// archivePage is how many entries one transaction reads for an archive.
const archivePage = 1000

// archiveHeader is the first line of an archive.
type archiveHeader struct {
	Format     string `json:"format"`
	Origin     string `json:"origin"`
	From       int64  `json:"from"`
	To         int64  `json:"to"`
	Checkpoint string `json:"checkpoint"`
}

type archiveLine struct {
	Index    int64           `json:"index"`
	Hash     tlog.Hash       `json:"hash"`
	Leaf     string          `json:"leaf"`
	Personal json.RawMessage `json:"personal,omitempty"`
}

// ExportArchive writes the entries of a planned archive, all of which must be there. The same entries give the same bytes.
func (c *Core) ExportArchive(ctx context.Context, archive domain.Archive, w io.Writer) error {
	origin, err := c.logOrigin(ctx)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(w)
	if err := encoder.Encode(archiveHeader{Format: "tidelock-audit-export/v1", Origin: origin, From: archive.First, To: archive.End, Checkpoint: string(archive.Checkpoint)}); err != nil {
		return err
	}
	for from := archive.First; from < archive.End; from += archivePage {
		lines, err := c.archiveLines(ctx, from, min(from+archivePage, archive.End))
		if err != nil {
			return err
		}
		for _, line := range lines {
			if err := encoder.Encode(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Core) archiveLines(ctx context.Context, from, to int64) (lines []archiveLine, err error) {
	err = c.readTree(ctx, func(r *meta.Reader, tree *audit.Tree) error {
		hashes, err := tree.Leaves(from, to)
		if err != nil {
			return err
		}
		rows, err := r.Log(audit.Query{After: from - 1, Before: to, Ascending: true, Limit: int(to - from)})
		if err != nil {
			return err
		}
		if len(rows) != len(hashes) {
			return fmt.Errorf("%w: of the entries from %d to %d there are %d", audit.ErrTampered, from, to-1, len(rows))
		}
		for i, row := range rows {
			e := audit.Evidence{Index: from + int64(i), Hash: hashes[i]}
			if err := e.Fill(rows[i : i+1]); err != nil {
				return err
			}
			lines = append(lines, archiveLine{Index: row.Index, Hash: e.Hash, Leaf: string(e.Leaf), Personal: e.Personal})
		}
		return nil
	})
	return lines, err
}
