package audit

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// TileHeight is the height of the tiles that the Merkle tree is stored in: a tile has up to TileWidth hashes of one level,
// and the root of a full one is a hash of the tile above.
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
)

// ErrTampered means that the stored log does not agree with itself. The registry never writes it so: somebody has changed
// the database.
var ErrTampered = errors.New("the audit log was tampered with")

// Tile is a tile as it is stored, in the format of tlog: Hashes are one after the other.
type Tile struct {
	Level  int
	N      int64
	Hashes []byte
}

// Frontier lists the partial tiles of a tree: those that further leaves fill.
func Frontier(size int64) (tiles []tlog.Tile) {
	for level := 0; size > 0; level++ {
		if width := int(size % TileWidth); width > 0 {
			tiles = append(tiles, tlog.Tile{H: TileHeight, L: level, N: size / TileWidth, W: width})
		}
		size /= TileWidth
	}
	return tiles
}

// Extend returns the tiles that are new or change when leaves are added to a tree. frontier holds the hashes of the tiles
// of Frontier(size).
func Extend(size int64, frontier [][]byte, leaves []tlog.Hash) (changed []Tile, err error) {
	partial := map[int][]byte{}
	for i, tile := range Frontier(size) {
		if len(frontier[i]) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%w: the tree has %d entries, so its %s has %d bytes; there are %d", ErrTampered, size, tile.Path(), tile.W*tlog.HashSize, len(frontier[i]))
		}
		partial[tile.L] = frontier[i]
	}
	for level := 0; len(leaves) > 0; level++ {
		var above []tlog.Hash
		tile := Tile{Level: level, N: size / TileWidth, Hashes: append(make([]byte, 0, TileWidth*tlog.HashSize), partial[level]...)}
		for _, leaf := range leaves {
			tile.Hashes = append(tile.Hashes, leaf[:]...)
			if len(tile.Hashes) == TileWidth*tlog.HashSize {
				above = append(above, subtree(tile.Hashes))
				changed = append(changed, tile)
				tile = Tile{Level: level, N: tile.N + 1, Hashes: make([]byte, 0, TileWidth*tlog.HashSize)}
			}
		}
		if len(tile.Hashes) > 0 {
			changed = append(changed, tile)
		}
		leaves, size = above, size/TileWidth
	}
	return changed, nil
}

// subtree is the hash of a complete subtree over hashes that stand one after the other.
func subtree(hashes []byte) tlog.Hash {
	if len(hashes) == tlog.HashSize {
		return tlog.Hash(hashes)
	}
	half := len(hashes) / 2
	return tlog.NodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}

// TileSource reads stored tiles, each cut to the width that is asked for; nil stands for one that is not there, or is
// narrower.
type TileSource func(tiles []tlog.Tile) ([][]byte, error)

// Tree is the Merkle tree of a stored log at one size. What it returns is proven to belong to its root: a stored tile that
// does not is reported as ErrTampered.
type Tree struct {
	size   int64
	root   tlog.Hash
	reader *tileReader
}

// OpenTree reads what the root is made of.
func OpenTree(size int64, source TileSource) (*Tree, error) {
	t := &Tree{size: size, reader: &tileReader{source: source, upper: map[tlog.Tile][]byte{}}}
	var err error
	t.root, err = tlog.TreeHash(size, tlog.HashReaderFunc(t.unproven))
	return t, t.reader.explain(err)
}

// unproven reads hashes from tiles as they are.
func (t *Tree) unproven(indexes []int64) ([]tlog.Hash, error) {
	tiles := make([]tlog.Tile, len(indexes))
	for i, index := range indexes {
		tiles[i] = tlog.TileForIndex(TileHeight, index)
	}
	data, err := t.reader.ReadTiles(tiles)
	if err != nil {
		return nil, err
	}
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if hashes[i], err = tlog.HashFromTile(tiles[i], data[i], index); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// proven reads hashes that belong to the root.
func (t *Tree) proven() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: t.size, Hash: t.root}, t.reader)
}

// Size is the number of leaves.
func (t *Tree) Size() int64 { return t.size }

// Root is the root at a size, which must not be above that of the tree.
func (t *Tree) Root(size int64) (tlog.Hash, error) {
	if size == t.size {
		return t.root, nil
	}
	if size == 0 {
		return tlog.TreeHash(0, nil)
	}
	root, err := tlog.TreeHash(size, t.proven())
	return root, t.reader.explain(err)
}

// Inclusion proves that a leaf is in the tree of this size, and returns its hash. index must be below size, and size not
// above that of the tree.
func (t *Tree) Inclusion(index, size int64) (hash tlog.Hash, proof tlog.RecordProof, err error) {
	hashes, err := t.Leaves(index, index+1)
	if err != nil {
		return hash, nil, err
	}
	proof, err = tlog.ProveRecord(size, index, t.proven())
	return hashes[0], proof, t.reader.explain(err)
}

// Consistency proves that the tree of size from is the beginning of that of size to; neither may be above that of the
// tree, nor from above to.
func (t *Tree) Consistency(from, to int64) (tlog.TreeProof, error) {
	if from == 0 {
		return tlog.TreeProof{}, nil
	}
	proof, err := tlog.ProveTree(to, from, t.proven())
	return proof, t.reader.explain(err)
}

// Leaves returns the hashes of leaves.
func (t *Tree) Leaves(from, to int64) ([]tlog.Hash, error) {
	indexes := make([]int64, 0, to-from)
	for n := from; n < to; n++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, n))
	}
	if len(indexes) == 0 {
		return nil, nil
	}
	hashes, err := t.proven().ReadHashes(indexes)
	return hashes, t.reader.explain(err)
}

// UnprovenLeaves returns the hashes of leaves as they are stored, whether they belong to the root or not. Those that are
// not there are nil.
func (t *Tree) UnprovenLeaves(from, to int64) ([]*tlog.Hash, error) {
	hashes := make([]*tlog.Hash, to-from)
	for i := range hashes {
		found, err := t.unproven([]int64{tlog.StoredHashIndex(0, from+int64(i))})
		if err = t.reader.explain(err); errors.Is(err, ErrTampered) {
			continue
		}
		if err != nil {
			return nil, err
		}
		hashes[i] = &found[0]
	}
	return hashes, nil
}

// Prefix returns the roots of the complete subtrees that the leaves below size make, the largest first.
func (t *Tree) Prefix(size int64) ([]tlog.Hash, error) {
	if size == 0 {
		return nil, nil
	}
	var indexes []int64
	for rest, start := size, int64(0); rest > 0; {
		level := bits.Len64(uint64(rest)) - 1
		indexes = append(indexes, tlog.StoredHashIndex(level, start>>level))
		start += 1 << level
		rest -= 1 << level
	}
	hashes, err := t.proven().ReadHashes(indexes)
	return hashes, t.reader.explain(err)
}

// tileReader is a tlog.TileReader on stored tiles. It keeps those above the lowest level: there are few, and each leaf is
// proven by some.
type tileReader struct {
	source TileSource
	upper  map[tlog.Tile][]byte
	// failed is why the source did not answer.
	failed error
}

// Height implements tlog.TileReader.
func (r *tileReader) Height() int { return TileHeight }

// ReadTiles implements tlog.TileReader.
func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	var missing []tlog.Tile
	var at []int
	for i, tile := range tiles {
		if data[i] = r.upper[tile]; data[i] == nil {
			missing, at = append(missing, tile), append(at, i)
		}
	}
	if len(missing) == 0 {
		return data, nil
	}
	read, err := r.source(missing)
	if err != nil {
		r.failed = err
		return nil, err
	}
	for i, tile := range missing {
		if read[i] == nil {
			return nil, fmt.Errorf("%s of its tree is not there", tile.Path())
		}
		if data[at[i]] = read[i]; tile.L > 0 {
			r.upper[tile] = read[i]
		}
	}
	return data, nil
}

// SaveTiles implements tlog.TileReader.
func (r *tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// explain tells an error of the source from tiles that do not agree.
func (r *tileReader) explain(err error) error {
	if err == nil || r.failed != nil {
		return r.failed
	}
	return fmt.Errorf("%w: %w", ErrTampered, err)
}
