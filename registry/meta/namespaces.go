package meta

import (
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

const (
	organizationColumns = `id, name, owner_namespace, owner_uid, created_at`
	// organizationColumnsOf are the same of the table as o.
	organizationColumnsOf = `o.id, o.name, o.owner_namespace, o.owner_uid, o.created_at`
)

func scanOrganization(row scanner) (o domain.Organization, err error) {
	var created int64
	err = row.Scan(&o.ID, &o.Name, &o.Owner.Namespace, &o.Owner.UID, &created)
	o.CreatedAt = fromMicros(created)
	return o, err
}

// Organization finds an organization by its name.
func (r *Reader) Organization(name string) (o domain.Organization, err error) {
	err = r.one(`SELECT `+organizationColumns+` FROM organizations WHERE name = $1`, []any{name}, func(row scanner) error {
		o, err = scanOrganization(row)
		return err
	})
	return o, err
}

// Organizations lists all organizations by name.
func (r *Reader) Organizations() (list []domain.Organization, err error) {
	err = r.each(`SELECT `+organizationColumns+` FROM organizations ORDER BY name`, nil, func(row scanner) error {
		o, err := scanOrganization(row)
		list = append(list, o)
		return err
	})
	return list, err
}

// InsertOrganization creates an organization and returns its id.
func (tx *Tx) InsertOrganization(name string, owner domain.Owner, now time.Time) (int64, error) {
	return tx.number(`INSERT INTO organizations (name, owner_namespace, owner_uid, created_at) VALUES ($1, $2, $3, $4) RETURNING id`,
		name, owner.Namespace, owner.UID, toMicros(now))
}

// SetOrganizationOwner records the owner.
func (tx *Tx) SetOrganizationOwner(id int64, owner domain.Owner) error {
	return tx.do(`UPDATE organizations SET owner_namespace = $2, owner_uid = $3 WHERE id = $1`, id, owner.Namespace, owner.UID)
}

// DisownOrganizations forgets the owners of all organizations.
func (tx *Tx) DisownOrganizations() error {
	return tx.do(`UPDATE organizations SET owner_namespace = '', owner_uid = ''`)
}

// DeleteOrganization removes an organization that has no repository.
func (tx *Tx) DeleteOrganization(id int64) error {
	return tx.do(`DELETE FROM organizations WHERE id = $1`, id)
}

const (
	repositoryColumns = `id, organization_id, name, description, visibility, created_at`
	// repositoryColumnsOf are the same of the table as r.
	repositoryColumnsOf = `r.id, r.organization_id, r.name, r.description, r.visibility, r.created_at`
)

func scanRepository(row scanner) (repo domain.Repository, err error) {
	var created int64
	var name string
	err = row.Scan(&repo.ID, &repo.OrganizationID, &name, &repo.Description, &repo.Visibility, &created)
	repo.Name.Organization, repo.Name.Path, _ = strings.Cut(name, "/")
	repo.CreatedAt = fromMicros(created)
	return repo, err
}

// Repository finds a repository by its name.
func (r *Reader) Repository(name domain.RepositoryName) (repo domain.Repository, err error) {
	err = r.one(`SELECT `+repositoryColumns+` FROM repositories WHERE name = $1`, []any{name.String()}, func(row scanner) error {
		repo, err = scanRepository(row)
		return err
	})
	return repo, err
}

// Repositories lists an organization's repositories by path, those behind after.
func (r *Reader) Repositories(organizationID int64, after string, limit int) (list []domain.Repository, err error) {
	err = r.each(`SELECT `+repositoryColumns+` FROM repositories WHERE organization_id = $1 AND path > $2 ORDER BY path LIMIT $3`,
		[]any{organizationID, after, limit}, func(row scanner) error {
			repo, err := scanRepository(row)
			list = append(list, repo)
			return err
		})
	return list, err
}

// NextRepository finds the repository of an organization with the lowest id of at least from.
func (r *Reader) NextRepository(organizationID, from int64) (repo domain.Repository, err error) {
	err = r.one(`SELECT `+repositoryColumns+` FROM repositories WHERE organization_id = $1 AND id >= $2 ORDER BY id LIMIT 1`,
		[]any{organizationID, from}, func(row scanner) error {
			repo, err = scanRepository(row)
			return err
		})
	return repo, err
}

// Catalog lists the names of all repositories in lexical order, those behind after.
func (r *Reader) Catalog(after string, limit int) (names []string, err error) {
	err = r.each(`SELECT name FROM repositories WHERE name > $1 ORDER BY name LIMIT $2`, []any{after, limit}, func(row scanner) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}

// InsertRepository creates a repository and returns its id.
func (tx *Tx) InsertRepository(repo domain.Repository) (int64, error) {
	return tx.number(`INSERT INTO repositories (organization_id, path, name, description, visibility, created_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`,
		repo.OrganizationID, repo.Name.Path, repo.Name.String(), repo.Description, string(repo.Visibility), toMicros(repo.CreatedAt))
}

// UpdateRepository stores description and visibility.
func (tx *Tx) UpdateRepository(repo domain.Repository) error {
	return tx.do(`UPDATE repositories SET description = $2, visibility = $3 WHERE id = $1`, repo.ID, repo.Description, string(repo.Visibility))
}

// DeleteRepository removes a repository with its tags, manifests and links to blobs.
func (tx *Tx) DeleteRepository(id int64) error {
	// Tags first: they refer to manifests.
	if err := tx.do(`DELETE FROM tags WHERE repository_id = $1`, id); err != nil {
		return err
	}
	return tx.do(`DELETE FROM repositories WHERE id = $1`, id)
}
