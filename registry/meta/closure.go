package meta

import (
	"errors"

	"github.com/opencontainers/go-digest"
)

// Node is a manifest as a walk from manifest to manifest sees it.
type Node struct {
	ID      int64
	Digest  digest.Digest
	Subject digest.Digest
}

const nodeColumns = `m.id, m.digest, m.subject`

func (r *Reader) nodes(query string, args []any) (list []Node, err error) {
	err = r.each(query, args, func(row scanner) error {
		var n Node
		err := row.Scan(&n.ID, &n.Digest, &n.Subject)
		list = append(list, n)
		return err
	})
	return list, err
}

// nodesIn collects the nodes that a query, which ends in IN, finds for a set of digests.
func (r *Reader) nodesIn(query string, repositoryID int64, digests []digest.Digest) (list []Node, err error) {
	err = r.chunks(len(digests), func(from, size int) error {
		args := []any{repositoryID}
		for _, d := range digests[from : from+size] {
			args = append(args, string(d))
		}
		found, err := r.nodes(query+"("+placeholders(2, size)+")", args)
		list = append(list, found...)
		return err
	})
	return list, err
}

// NodesOf finds those of the manifests that the repository has.
func (r *Reader) NodesOf(repositoryID int64, digests []digest.Digest) ([]Node, error) {
	return r.nodesIn(`SELECT `+nodeColumns+` FROM manifests m WHERE m.repository_id = $1 AND m.digest IN `, repositoryID, digests)
}

// ParentsOf finds the repository's indexes that have any of the digests as a child; one that has several may come more
// than once.
func (r *Reader) ParentsOf(repositoryID int64, children []digest.Digest) ([]Node, error) {
	return r.nodesIn(`SELECT DISTINCT `+nodeColumns+` FROM manifest_children c JOIN manifests m ON m.id = c.manifest_id WHERE c.repository_id = $1 AND c.child_digest IN `, repositoryID, children)
}

// NodesOfBlob finds manifests of the repository that refer to a blob, at most limit.
func (r *Reader) NodesOfBlob(repositoryID int64, d digest.Digest, limit int) ([]Node, error) {
	return r.nodes(`SELECT `+nodeColumns+` FROM manifest_blobs b JOIN manifests m ON m.id = b.manifest_id WHERE b.repository_id = $1 AND b.digest = $2 LIMIT $3`,
		[]any{repositoryID, string(d), limit})
}

// NodeByPrefix finds the repository's manifest whose digest begins with prefix, which has so many digits that there is
// only one; ErrNotFound if there is none.
func (r *Reader) NodeByPrefix(repositoryID int64, prefix string) (Node, error) {
	// 'g' comes behind every hexadecimal digit.
	list, err := r.nodes(`SELECT `+nodeColumns+` FROM manifests m WHERE m.repository_id = $1 AND m.digest >= $2 AND m.digest < $3 ORDER BY m.digest LIMIT 1`,
		[]any{repositoryID, prefix, prefix + "g"})
	if err != nil {
		return Node{}, err
	}
	if len(list) == 0 {
		return Node{}, ErrNotFound
	}
	return list[0], nil
}

// perManifest runs a query, which has IN before its set of manifest ids, on all nodes.
func (r *Reader) perManifest(query, suffix string, nodes []Node, scan func(scanner) error) error {
	return r.chunks(len(nodes), func(from, size int) error {
		args := make([]any, size)
		for i, n := range nodes[from : from+size] {
			args[i] = n.ID
		}
		return r.each(query+"("+placeholders(1, size)+")"+suffix, args, scan)
	})
}

// errFound ends a query early.
var errFound = errors.New("found")

// HeldNode finds one of the manifests that a tag with a hold points to; 0 if there is none.
func (r *Reader) HeldNode(nodes []Node) (id int64, err error) {
	err = r.perManifest(`SELECT t.manifest_id FROM tags t WHERE t.manifest_id IN `, ` AND EXISTS (SELECT 1 FROM holds h WHERE h.tag_id = t.id) LIMIT 1`, nodes, func(row scanner) error {
		if err := row.Scan(&id); err != nil {
			return err
		}
		return errFound
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return id, err
}

// EachTagOf calls fn for each live tag that points to one of the manifests, until it returns false.
func (r *Reader) EachTagOf(nodes []Node, fn func(manifestID, tagID int64, name string) bool) error {
	err := r.perManifest(`SELECT t.manifest_id, t.id, t.name FROM tags t WHERE t.manifest_id IN `, ``, nodes, func(row scanner) error {
		var manifestID, tagID int64
		var name string
		if err := row.Scan(&manifestID, &tagID, &name); err != nil {
			return err
		}
		if !fn(manifestID, tagID, name) {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return err
}

// SignatureTagsOf lists the names of live tags that point to one of the manifests and may be signature tags: those from
// "sha256-" to "sha512-".
func (r *Reader) SignatureTagsOf(nodes []Node) (names []string, err error) {
	// '.' comes behind '-'.
	err = r.perManifest(`SELECT t.name FROM tags t WHERE t.name >= 'sha256-' AND t.name < 'sha512.' AND t.manifest_id IN `, ``, nodes, func(row scanner) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}
