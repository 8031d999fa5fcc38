package audit

import (
	"errors"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// compactRange is a Merkle tree of which only what further leaves need is kept: the roots of its complete subtrees, the
// largest first.
type compactRange struct {
	size  int64
	roots []tlog.Hash
}

// newCompactRange makes the tree of a size from its roots.
func newCompactRange(size int64, roots []tlog.Hash) (*compactRange, error) {
	if size < 0 || len(roots) != bits.OnesCount64(uint64(size)) {
		return nil, errors.New("the hashes of the tree are not those of its size")
	}
	return &compactRange{size: size, roots: append([]tlog.Hash{}, roots...)}, nil
}

// add appends a leaf.
func (c *compactRange) add(leaf tlog.Hash) {
	c.roots = append(c.roots, leaf)
	c.size++
	for range bits.TrailingZeros64(uint64(c.size)) {
		last := len(c.roots) - 1
		c.roots = append(c.roots[:last-1], tlog.NodeHash(c.roots[last-1], c.roots[last]))
	}
}

// root is the root of the tree.
func (c *compactRange) root() tlog.Hash {
	if c.size == 0 {
		root, _ := tlog.TreeHash(0, nil) // it reads nothing
		return root
	}
	root := c.roots[len(c.roots)-1]
	for i := len(c.roots) - 2; i >= 0; i-- {
		root = tlog.NodeHash(c.roots[i], root)
	}
	return root
}
