package core

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// ExportLog prepares an export of the entries from one index to another, that one not included; 0 for to stands for the
// log's present size. What can be refused is refused now: NOT_FOUND for what the log does not have, INVALID if from is
// above to. The returned function writes the export (see audit.ExportFormat). It reads a tile's entries at a time, so that
// no transaction is open while the writer waits. Entries that were tampered with are written as they are: who verifies the
// export learns which.
func (c *Core) ExportLog(ctx context.Context, from, to int64) (func(io.Writer) error, error) {
	origin, err := c.logOrigin(ctx)
	if err != nil {
		return nil, err
	}
	e := &export{core: c, header: audit.ExportHeader{Origin: origin, From: from, Size: to}}
	err = c.evidence(ctx, func(r *meta.Reader, present *audit.Tree) error {
		if to == 0 {
			e.header.Size = present.Size()
		}
		return e.open(r, present)
	})
	if err != nil {
		return nil, err
	}
	root, err := e.tree.Root(e.header.Size)
	if err != nil {
		return nil, c.tampered(ctx, err)
	}
	if e.signed, err = c.sign(audit.Checkpoint{Origin: e.header.Origin, Size: e.header.Size, Root: root}); err != nil {
		return nil, err
	}
	return func(w io.Writer) error { return e.write(ctx, w) }, nil
}

// export is an export on its way.
type export struct {
	core   *Core
	header audit.ExportHeader
	signed []byte
	// tree is that of header.Size. It reads with reader, which is another one for each page.
	tree   *audit.Tree
	reader *meta.Reader
}

// open finds the tree that the export belongs to.
func (e *export) open(r *meta.Reader, present *audit.Tree) (err error) {
	from, to := e.header.From, e.header.Size
	if err := errors.Join(within("from", from, present.Size(), present), within("to", to, present.Size(), present)); err != nil {
		return err
	}
	if from > to {
		return domain.Errorf(domain.CodeInvalid, "from: %d is above to, %d", from, to)
	}
	if to < present.Size() {
		// A part of the log may end before a fork.
		if e.header.Origin, err = originAt(r, to-1, e.header.Origin); err != nil {
			return err
		}
	}
	root, err := present.Root(to)
	if err != nil {
		return err
	}
	e.reader = r
	if e.header.PrunedBefore, err = r.PrunedBefore(); err != nil {
		return err
	}
	if e.tree, err = audit.OpenTree(to, func(tiles []tlog.Tile) ([][]byte, error) { return e.reader.Tiles(tiles) }); err != nil {
		return err
	}
	if is, err := e.tree.Root(to); err != nil || is != root {
		return errors.Join(err, audit.ErrTampered)
	}
	e.header.Tree, err = e.tree.Prefix(from)
	return err
}

// originAt returns the origin of an entry, or the given one if the entry does not tell.
func originAt(r *meta.Reader, index int64, otherwise string) (string, error) {
	rows, err := r.Log(audit.Query{After: index - 1, Before: index + 1, Limit: 1})
	if err != nil || len(rows) == 0 {
		return otherwise, err
	}
	var leaf struct{ Origin string }
	// One that was tampered with may not tell. Who verifies the export learns of that.
	_ = json.Unmarshal(rows[0].Leaf, &leaf)
	return cmp.Or(leaf.Origin, otherwise), nil
}

func (e *export) write(ctx context.Context, w io.Writer) error {
	out, err := audit.NewExportWriter(w, e.header)
	if err != nil {
		return err
	}
	for from := e.header.From; from < e.header.Size; {
		to := min(from-from%audit.TileWidth+audit.TileWidth, e.header.Size)
		if err := e.page(ctx, out, from, to); err != nil {
			return err
		}
		from = to
	}
	return out.Close(e.signed)
}

// exported is what is stored of the entries of a page.
type exported struct {
	hashes []*tlog.Hash
	proven bool
	rows   map[int64]*audit.Record
}

// page writes the entries of one tile.
func (e *export) page(ctx context.Context, out *audit.ExportWriter, from, to int64) error {
	var page exported
	err := e.core.store.Read(ctx, func(r *meta.Reader) (err error) {
		e.reader = r
		page, err = e.read(from, to)
		return err
	})
	if err != nil {
		return err
	}
	for index := from; index < to; index++ {
		if err := out.Entry(index, page.hashes[index-from], page.proven, page.rows[index]); err != nil {
			return err
		}
	}
	return nil
}

func (e *export) read(from, to int64) (page exported, err error) {
	page = exported{proven: true, rows: map[int64]*audit.Record{}}
	proven, err := e.tree.Leaves(from, to)
	for i := range proven {
		page.hashes = append(page.hashes, &proven[i])
	}
	if errors.Is(err, audit.ErrTampered) {
		page.proven = false
		page.hashes, err = e.tree.UnprovenLeaves(from, to)
	}
	if err != nil {
		return page, err
	}
	rows, err := e.reader.Log(audit.Query{After: from - 1, Before: to, Ascending: true, Limit: int(to - from)})
	for i := range rows {
		page.rows[rows[i].Index] = &rows[i].Record
	}
	if err != nil || len(rows) == len(page.hashes) {
		return page, err
	}
	// Else it would look as if somebody had deleted them.
	if start, err := e.reader.PrunedBefore(); err != nil || start > max(from, e.header.PrunedBefore) {
		return page, errors.Join(err, domain.Errorf(domain.CodeUnavailable, "the log was pruned meanwhile; export again"))
	}
	return page, nil
}
