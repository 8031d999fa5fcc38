package meta

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
)

// ErrStale is returned where the log has grown since what a transaction does was planned.
var ErrStale = errors.New("the audit log has grown meanwhile")

// logState is how far the log has come.
type logState struct {
	// lastID and lastIndex are of the row with the highest index; 0 and -1 if there is none.
	lastID, lastIndex int64
	// treeSize is how many entries the Merkle tree has.
	treeSize int64
}

// behind reports whether entries have an index that are not in the tree: a program that knew no tree gave it to them.
func (s logState) behind() bool { return s.treeSize <= s.lastIndex }

func (r *Reader) logState() (s logState, err error) {
	s.lastIndex = -1
	err = r.one(`SELECT id, idx FROM audit_entries WHERE idx IS NOT NULL ORDER BY idx DESC LIMIT 1`, nil, func(row scanner) error {
		return row.Scan(&s.lastID, &s.lastIndex)
	})
	if err == nil || errors.Is(err, ErrNotFound) {
		s.treeSize, err = r.TreeSize()
	}
	return s, err
}

// TreeSize is how many entries are in the Merkle tree.
func (r *Reader) TreeSize() (int64, error) {
	size, err := r.number(`SELECT n * ` + strconv.Itoa(audit.TileWidth) + ` + octet_length(hashes) / ` + strconv.Itoa(tlog.HashSize) +
		` FROM audit_tiles WHERE level = 0 ORDER BY n DESC LIMIT 1`)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return size, err
}

// Tiles is an audit.TileSource.
func (r *Reader) Tiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	err := r.chunks(len(tiles), func(from, size int) error {
		var terms []string
		var args []any
		for _, tile := range tiles[from : from+size] {
			args = append(args, tile.L, tile.N)
			terms = append(terms, fmt.Sprintf("level = $%d AND n = $%d", len(args)-1, len(args)))
		}
		return r.each(`SELECT level, n, hashes FROM audit_tiles WHERE `+strings.Join(terms, " OR "), args, func(row scanner) error {
			var found audit.Tile
			if err := row.Scan(&found.Level, &found.N, &found.Hashes); err != nil {
				return err
			}
			for i, tile := range tiles[from : from+size] {
				if width := tile.W * tlog.HashSize; tile.L == found.Level && tile.N == found.N && len(found.Hashes) >= width {
					data[from+i] = found.Hashes[:width]
				}
			}
			return nil
		})
	})
	return data, err
}

// Sequence is what a transaction of the sequencer will do, and what it goes by.
type Sequence struct {
	was logState
	// ids are the rows that get the indices from first on; none where the tree only catches up.
	ids   []int64
	first int64
	tiles []audit.Tile
	done  audit.Sequenced
}

// PlanSequence plans the index of up to limit entries that have none and their place in the tree, for an engine in which
// ids grow in the order of commits. What it reads and hashes never changes, so it need not keep writers waiting.
func (r *Reader) PlanSequence(limit int) (s Sequence, err error) {
	if s.was, err = r.logState(); err != nil {
		return s, err
	}
	if s.was.behind() {
		return s, r.catchUp(&s, limit)
	}
	var leaves []tlog.Hash
	err = r.each(`SELECT id, leaf FROM audit_entries WHERE id > $1 AND idx IS NULL ORDER BY id LIMIT $2`, []any{s.was.lastID, limit}, func(row scanner) error {
		var id int64
		var leaf []byte
		err := row.Scan(&id, &leaf)
		s.ids, leaves = append(s.ids, id), append(leaves, audit.LeafHash(leaf))
		return err
	})
	if err != nil || len(s.ids) == 0 {
		return s, err
	}
	s.first, s.done = s.was.treeSize, audit.Sequenced{Count: len(s.ids), LastID: s.ids[len(s.ids)-1]}
	s.tiles, err = r.extend(s.was.treeSize, leaves)
	return s, err
}

// catchUp plans the place in the tree of entries that have an index.
func (r *Reader) catchUp(s *Sequence, limit int) error {
	var leaves []tlog.Hash
	err := r.each(`SELECT idx, leaf FROM audit_entries WHERE idx >= $1 ORDER BY idx LIMIT $2`, []any{s.was.treeSize, limit}, func(row scanner) error {
		var index int64
		var leaf []byte
		if err := row.Scan(&index, &leaf); err != nil {
			return err
		}
		if want := s.was.treeSize + int64(len(leaves)); index != want {
			return fmt.Errorf("%w: entry %d is missing", audit.ErrTampered, want)
		}
		leaves = append(leaves, audit.LeafHash(leaf))
		return nil
	})
	if err != nil {
		return err
	}
	// No id: who waits for those of entries without an index has to go on.
	s.done = audit.Sequenced{Count: len(leaves)}
	s.tiles, err = r.extend(s.was.treeSize, leaves)
	return err
}

// extend returns the tiles of a tree to which leaves are added.
func (r *Reader) extend(size int64, leaves []tlog.Hash) ([]audit.Tile, error) {
	frontier, err := r.Tiles(audit.Frontier(size))
	if err != nil {
		return nil, err
	}
	return audit.Extend(size, frontier, leaves)
}

// ApplySequence does what was planned, or returns ErrStale.
func (tx *Tx) ApplySequence(s Sequence) (audit.Sequenced, error) {
	if s.done.Count == 0 {
		return s.done, nil
	}
	if is, err := tx.logState(); err != nil || is != s.was {
		return audit.Sequenced{}, errors.Join(err, ErrStale)
	}
	// One statement for each run of ids without a gap: as a rule there is one run.
	for from := 0; from < len(s.ids); {
		to := from
		for to+1 < len(s.ids) && s.ids[to+1] == s.ids[to]+1 {
			to++
		}
		shift := s.first + int64(from) - s.ids[from]
		if err := tx.do(`UPDATE audit_entries SET idx = id + $1 WHERE id BETWEEN $2 AND $3`, shift, s.ids[from], s.ids[to]); err != nil {
			return audit.Sequenced{}, err
		}
		from = to + 1
	}
	return s.done, tx.putTiles(s.tiles)
}

func (tx *Tx) putTiles(tiles []audit.Tile) error {
	rows := make([][]any, len(tiles))
	for i, tile := range tiles {
		rows[i] = []any{tile.Level, tile.N, tile.Hashes}
	}
	return tx.insertRows(`INSERT INTO audit_tiles (level, n, hashes)`, ` ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes`, rows)
}

// PendingByID returns the highest id of an entry without an index, for an engine in which ids grow in the order of
// commits. It is 0 if there is nothing for the sequencer to do, and above 0 where only the tree is behind.
func (r *Reader) PendingByID() (int64, error) {
	was, err := r.logState()
	if err != nil {
		return 0, err
	}
	last, err := r.number(`SELECT COALESCE(MAX(id), 0) FROM audit_entries WHERE id > $1 AND idx IS NULL`, was.lastID)
	return orBehind(last, was), err
}

// Pending is PendingByID for an engine in which ids do not grow in the order of commits. It looks at ids above after only,
// and returns the lowest one without an index too, 0 if there is none.
func (r *Reader) Pending(after int64) (first, last int64, err error) {
	was, err := r.logState()
	if err != nil {
		return 0, 0, err
	}
	err = r.one(`SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), 0) FROM audit_entries WHERE id > $1 AND idx IS NULL`, []any{after}, func(row scanner) error {
		return row.Scan(&first, &last)
	})
	return first, orBehind(last, was), err
}

func orBehind(last int64, was logState) int64 {
	if was.behind() {
		return max(last, 1)
	}
	return last
}

// Sequence indexes up to limit entries with ids above after for an engine in which ids do not grow in the order of commits,
// and puts them into the tree. No two transactions may do it at the same time. Entries that were committed earlier than others get smaller
// indices: those of the others' transactions that had begun by then may come before them, since neither saw what the
// other did.
func (tx *Tx) Sequence(after int64, limit int) (audit.Sequenced, error) {
	s := Sequence{}
	var err error
	if s.was, err = tx.logState(); err != nil {
		return audit.Sequenced{}, err
	}
	if s.was.behind() {
		err = tx.catchUp(&s, limit)
	} else {
		err = tx.index(&s, after, limit)
	}
	if err == nil {
		err = tx.putTiles(s.tiles)
	}
	return s.done, err
}

// index gives entries their index and plans their place in the tree.
func (tx *Tx) index(s *Sequence, after int64, limit int) error {
	leaves := make([]tlog.Hash, limit)
	err := tx.each(`WITH pending AS (SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM (SELECT id FROM audit_entries WHERE id > $3 AND idx IS NULL ORDER BY id LIMIT $1) AS first)
		UPDATE audit_entries AS e SET idx = $2 + p.place FROM pending AS p WHERE e.id = p.id RETURNING p.place, e.id, e.leaf`, []any{limit, s.was.treeSize, after}, func(row scanner) error {
		var place, id int64
		var leaf []byte
		if err := row.Scan(&place, &id, &leaf); err != nil {
			return err
		}
		leaves[place] = audit.LeafHash(leaf)
		s.done = audit.Sequenced{Count: s.done.Count + 1, LastID: max(s.done.LastID, id)}
		return nil
	})
	if err != nil {
		return err
	}
	s.tiles, err = tx.extend(s.was.treeSize, leaves[:s.done.Count])
	return err
}
