package meta

import (
	"cmp"
	"slices"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

func (r *Reader) indexed(terms string, args ...any) (list []audit.Indexed, err error) {
	err = r.each(`SELECT `+auditColumns+` FROM audit_entries WHERE `+terms, args, func(row scanner) error {
		e, err := scanIndexed(row)
		list = append(list, e)
		return err
	})
	return list, err
}

// PolicyLog reads the changes of an organization's policies with an index behind after and below to, the oldest first, at
// most limit. The kinds stand in the condition of the index audit_policy_changes in these words.
func (r *Reader) PolicyLog(organization string, after, to int64, limit int) ([]audit.Indexed, error) {
	return r.indexed(`idx IS NOT NULL AND kind IN ('create_immutability_policy', 'update_immutability_policy', 'delete_immutability_policy')
		AND organization = $1 AND idx > $2 AND idx < $3 ORDER BY idx LIMIT $4`, organization, after, to, limit)
}

// SharedLog reads the entries that concern all tags of a repository: its deletion and that of its organization, and refused
// attempts that name no single tag, and even no organization. Those with an index behind after and below to, the oldest
// first, at most limit. The kinds stand in the condition of the index audit_shared in these words.
func (r *Reader) SharedLog(name domain.RepositoryName, after, to int64, limit int) ([]audit.Indexed, error) {
	var list []audit.Indexed
	for _, organization := range []string{"", name.Organization} {
		part, err := r.indexed(`idx IS NOT NULL AND tag = '' AND kind IN ('delete_repo', 'org_delete', 'push_repo_failed', 'delete_tag_failed', 'delete_repo_failed', 'org_delete_failed')
			AND organization = $1 AND repository IN ('', $2) AND idx > $3 AND idx < $4 ORDER BY idx LIMIT $5`, organization, name.Path, after, to, limit)
		if err != nil {
			return nil, err
		}
		list = append(list, part...)
	}
	slices.SortFunc(list, func(a, b audit.Indexed) int { return cmp.Compare(a.Index, b.Index) })
	return list[:min(limit, len(list))], nil
}

// TagPlace is a place among the entries about tags of an organization, in the order of repository, tag and index.
type TagPlace struct {
	Repository, Tag string
	Index           int64
}

// TagLog reads entries about tags of an organization behind a place, in the order of repository, tag and index: those with
// an index below to, at most limit. With a path, those of one repository.
func (r *Reader) TagLog(organization, path string, behind TagPlace, to int64, limit int) ([]audit.Indexed, error) {
	if path != "" {
		return r.indexed(`idx IS NOT NULL AND tag <> '' AND organization = $1 AND repository = $2 AND (tag, idx) > ($3, $4) AND idx < $5 ORDER BY tag, idx LIMIT $6`,
			organization, path, behind.Tag, behind.Index, to, limit)
	}
	return r.indexed(`idx IS NOT NULL AND tag <> '' AND organization = $1 AND (repository, tag, idx) > ($2, $3, $4) AND idx < $5 ORDER BY repository, tag, idx LIMIT $6`,
		organization, behind.Repository, behind.Tag, behind.Index, to, limit)
}

// FirstIndexedAt returns the index of the first entry that is not older than a time, or the size of the log.
func (r *Reader) FirstIndexedAt(t time.Time) (int64, error) {
	size, err := r.LogSize()
	if err != nil {
		return 0, err
	}
	return r.firstIndexedAt(size, t)
}
