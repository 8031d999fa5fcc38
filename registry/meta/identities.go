package meta

import (
	"database/sql"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// IdentityVersion reads the number that grows with each change of an identity.
func (r *Reader) IdentityVersion() (int64, error) {
	return r.number(`SELECT version FROM identity_state WHERE id = 1`)
}

// BumpIdentityVersion says that identities change in this transaction.
func (tx *Tx) BumpIdentityVersion() error {
	return tx.do(`UPDATE identity_state SET version = version + 1 WHERE id = 1`)
}

const accountColumns = `a.id, a.kind, a.name, COALESCE(o.name, ''), a.email, a.description, a.metadata, a.password_hash, a.disabled, a.epoch, a.grant_id, a.created_at,
	COALESCE((SELECT MAX(t.last_used_at) FROM account_tokens t WHERE t.account_id = a.id), 0)`

const fromAccounts = ` FROM accounts a LEFT JOIN organizations o ON o.id = a.organization_id `

func scanAccount(row scanner, more ...any) (a domain.Account, err error) {
	var created, used int64
	err = row.Scan(append([]any{
		&a.ID, &a.Kind, &a.Name, &a.Organization, &a.Email, &a.Description, &a.Metadata, &a.PasswordHash, &a.Disabled, &a.Epoch, &a.GrantID, &created, &used,
	}, more...)...)
	a.CreatedAt, a.LastUsed = fromMicros(created), fromMicros(used)
	return a, err
}

// Account finds an account by its name.
func (r *Reader) Account(kind domain.CallerKind, name string) (a domain.Account, err error) {
	err = r.one(`SELECT `+accountColumns+fromAccounts+`WHERE a.kind = $1 AND a.name = $2`, []any{string(kind), name}, func(row scanner) error {
		a, err = scanAccount(row)
		return err
	})
	return a, err
}

// AccountByID finds an account by its id.
func (r *Reader) AccountByID(id int64) (a domain.Account, err error) {
	err = r.one(`SELECT `+accountColumns+fromAccounts+`WHERE a.id = $1`, []any{id}, func(row scanner) error {
		a, err = scanAccount(row)
		return err
	})
	return a, err
}

// AccountByToken finds an account by the SHA-256 of one of its tokens, and the token.
func (r *Reader) AccountByToken(hash []byte) (a domain.Account, t domain.AccountToken, err error) {
	err = r.one(`SELECT `+accountColumns+`, k.id, k.grant_id`+fromAccounts+`JOIN account_tokens k ON k.account_id = a.id WHERE k.hash = $1`, []any{hash}, func(row scanner) error {
		a, err = scanAccount(row, &t.ID, &t.GrantID)
		return err
	})
	return a, t, err
}

// AccountEpoch reads the epoch of an account that is not disabled.
func (r *Reader) AccountEpoch(id int64) (int64, error) {
	return r.number(`SELECT epoch FROM accounts WHERE id = $1 AND NOT disabled`, id)
}

// Users lists users by name, those behind after.
func (r *Reader) Users(after string, limit int) ([]domain.Account, error) {
	return r.accounts(`WHERE a.kind = $1 AND a.name > $2 ORDER BY a.name LIMIT $3`, string(domain.CallerUser), after, limit)
}

// Robots lists an organization's robots by name.
func (r *Reader) Robots(organizationID int64) ([]domain.Account, error) {
	return r.accounts(`WHERE a.organization_id = $1 ORDER BY a.name`, organizationID)
}

func (r *Reader) accounts(condition string, args ...any) (list []domain.Account, err error) {
	err = r.each(`SELECT `+accountColumns+fromAccounts+condition, args, func(row scanner) error {
		a, err := scanAccount(row)
		list = append(list, a)
		return err
	})
	return list, err
}

// Rights reads all that an account was given.
func (r *Reader) Rights(accountID int64) (rights domain.Rights, err error) {
	rights = domain.Rights{Organizations: map[string]domain.OrganizationRole{}, Repositories: map[string]domain.RepositoryRole{}}
	err = r.each(`SELECT o.name, m.role FROM organization_members m JOIN organizations o ON o.id = m.organization_id WHERE m.account_id = $1`, []any{accountID}, func(row scanner) error {
		var name, role string
		err := row.Scan(&name, &role)
		rights.Organizations[name] = domain.OrganizationRole(role)
		return err
	})
	if err != nil {
		return rights, err
	}
	err = r.each(`SELECT r.name, p.role FROM repository_permissions p JOIN repositories r ON r.id = p.repository_id WHERE p.account_id = $1`, []any{accountID}, func(row scanner) error {
		var name, role string
		err := row.Scan(&name, &role)
		rights.Repositories[name] = domain.RepositoryRole(role)
		return err
	})
	return rights, err
}

// InsertAccount creates an account and returns its id. organizationID is 0 for users.
func (tx *Tx) InsertAccount(a domain.Account, organizationID int64) (int64, error) {
	return tx.number(`INSERT INTO accounts (kind, name, organization_id, email, description, metadata, password_hash, disabled, grant_id, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id`,
		string(a.Kind), a.Name, sql.NullInt64{Int64: organizationID, Valid: organizationID != 0}, a.Email, a.Description, a.Metadata, a.PasswordHash, a.Disabled, a.GrantID, toMicros(a.CreatedAt))
}

// UpdateAccount stores what can change of an account.
func (tx *Tx) UpdateAccount(a domain.Account) error {
	return tx.do(`UPDATE accounts SET email = $2, description = $3, metadata = $4, password_hash = $5, disabled = $6 WHERE id = $1`,
		a.ID, a.Email, a.Description, a.Metadata, a.PasswordHash, a.Disabled)
}

// EndEpoch makes void what was granted to an account until now.
func (tx *Tx) EndEpoch(accountID int64) error {
	return tx.do(`UPDATE accounts SET epoch = epoch + 1 WHERE id = $1`, accountID)
}

// EndEpochsOfRepository ends the epochs of all who have a permission on a repository, and returns how many there are.
func (tx *Tx) EndEpochsOfRepository(repositoryID int64) (int64, error) {
	return tx.exec(`UPDATE accounts SET epoch = epoch + 1 WHERE id IN (SELECT account_id FROM repository_permissions WHERE repository_id = $1)`, repositoryID)
}

// EndEpochsOfOrganization ends the epochs of all members of an organization.
func (tx *Tx) EndEpochsOfOrganization(organizationID int64) error {
	return tx.do(`UPDATE accounts SET epoch = epoch + 1 WHERE id IN (SELECT account_id FROM organization_members WHERE organization_id = $1)`, organizationID)
}

// DeleteAccount removes an account with its tokens, memberships and permissions.
func (tx *Tx) DeleteAccount(id int64) error {
	return tx.do(`DELETE FROM accounts WHERE id = $1`, id)
}

// InsertToken stores a token of an account by its SHA-256.
func (tx *Tx) InsertToken(t domain.AccountToken, hash []byte) error {
	return tx.do(`INSERT INTO account_tokens (id, account_id, title, hash, created_at, grant_id) VALUES ($1, $2, $3, $4, $5, $6)`, t.ID, t.AccountID, t.Title, hash, toMicros(t.CreatedAt), t.GrantID)
}

// Tokens lists an account's tokens, the oldest first.
func (r *Reader) Tokens(accountID int64) ([]domain.AccountToken, error) {
	return r.tokens(`account_id = $1`, accountID)
}

func (r *Reader) tokens(condition string, args ...any) (list []domain.AccountToken, err error) {
	err = r.each(`SELECT id, account_id, title, grant_id, created_at, last_used_at FROM account_tokens WHERE `+condition+` ORDER BY created_at, id`, args, func(row scanner) error {
		var t domain.AccountToken
		var created, used int64
		err := row.Scan(&t.ID, &t.AccountID, &t.Title, &t.GrantID, &created, &used)
		t.CreatedAt, t.LastUsed = fromMicros(created), fromMicros(used)
		list = append(list, t)
		return err
	})
	return list, err
}

// DeleteToken removes a token of an account, and reports whether it was there.
func (tx *Tx) DeleteToken(accountID int64, id string) (bool, error) {
	n, err := tx.exec(`DELETE FROM account_tokens WHERE account_id = $1 AND id = $2`, accountID, id)
	return n > 0, err
}

// DeleteTokens removes all tokens of an account.
func (tx *Tx) DeleteTokens(accountID int64) error {
	return tx.do(`DELETE FROM account_tokens WHERE account_id = $1`, accountID)
}

// TouchToken records that a token was used.
func (tx *Tx) TouchToken(id string, at time.Time) error {
	return tx.do(`UPDATE account_tokens SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2`, id, toMicros(at))
}

// Members lists an organization's members by name.
func (r *Reader) Members(organizationID int64) (list []domain.Member, err error) {
	err = r.each(`SELECT a.kind, a.name, m.role FROM organization_members m JOIN accounts a ON a.id = m.account_id WHERE m.organization_id = $1 ORDER BY a.name`,
		[]any{organizationID}, func(row scanner) error {
			var m domain.Member
			err := row.Scan(&m.Kind, &m.Name, &m.Role)
			list = append(list, m)
			return err
		})
	return list, err
}

// MemberRole reads an account's role in an organization; ErrNotFound if it is no member.
func (r *Reader) MemberRole(organizationID, accountID int64) (role domain.OrganizationRole, err error) {
	err = r.one(`SELECT role FROM organization_members WHERE organization_id = $1 AND account_id = $2`, []any{organizationID, accountID}, func(row scanner) error {
		return row.Scan(&role)
	})
	return role, err
}

// SetMember stores an account's role in an organization.
func (tx *Tx) SetMember(organizationID, accountID int64, role domain.OrganizationRole, now time.Time) error {
	return tx.do(`INSERT INTO organization_members (organization_id, account_id, role, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (organization_id, account_id) DO UPDATE SET role = excluded.role`, organizationID, accountID, string(role), toMicros(now))
}

// DeleteMember removes an account from an organization.
func (tx *Tx) DeleteMember(organizationID, accountID int64) error {
	return tx.do(`DELETE FROM organization_members WHERE organization_id = $1 AND account_id = $2`, organizationID, accountID)
}

// DeletePermissionsInOrganization removes an account's permissions on all repositories of an organization.
func (tx *Tx) DeletePermissionsInOrganization(organizationID, accountID int64) error {
	return tx.do(`DELETE FROM repository_permissions WHERE account_id = $2 AND repository_id IN (SELECT id FROM repositories WHERE organization_id = $1)`, organizationID, accountID)
}

// Permissions lists the permissions on a repository by the accounts' names.
func (r *Reader) Permissions(repositoryID int64) (list []domain.Permission, err error) {
	err = r.each(`SELECT a.kind, a.name, p.role,
			a.organization_id IS NOT NULL OR EXISTS (SELECT 1 FROM organization_members m WHERE m.organization_id = r.organization_id AND m.account_id = a.id)
		FROM repository_permissions p JOIN accounts a ON a.id = p.account_id JOIN repositories r ON r.id = p.repository_id
		WHERE p.repository_id = $1 ORDER BY a.name`, []any{repositoryID}, func(row scanner) error {
		var p domain.Permission
		err := row.Scan(&p.Kind, &p.Name, &p.Role, &p.Member)
		list = append(list, p)
		return err
	})
	return list, err
}

// PermissionRole reads an account's permission on a repository; ErrNotFound if it has none.
func (r *Reader) PermissionRole(repositoryID, accountID int64) (role domain.RepositoryRole, err error) {
	err = r.one(`SELECT role FROM repository_permissions WHERE repository_id = $1 AND account_id = $2`, []any{repositoryID, accountID}, func(row scanner) error {
		return row.Scan(&role)
	})
	return role, err
}

// SetPermission stores an account's permission on a repository.
func (tx *Tx) SetPermission(repositoryID, accountID int64, role domain.RepositoryRole, now time.Time) error {
	return tx.do(`INSERT INTO repository_permissions (repository_id, account_id, role, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository_id, account_id) DO UPDATE SET role = excluded.role`, repositoryID, accountID, string(role), toMicros(now))
}

// DeletePermission removes an account's permission on a repository.
func (tx *Tx) DeletePermission(repositoryID, accountID int64) error {
	return tx.do(`DELETE FROM repository_permissions WHERE repository_id = $1 AND account_id = $2`, repositoryID, accountID)
}

// visible selects the names of the repositories, behind $1 and at most $2, that are public, that account $3 has a
// permission on, or whose organization it is an admin of. Each part reads an index and is sorted and bounded by itself.
const visible = `SELECT name FROM (
	SELECT name FROM (SELECT name FROM repositories WHERE visibility = 'public' AND name > $1 ORDER BY name LIMIT $2) AS everybodys
	UNION SELECT name FROM (SELECT r.name FROM repository_permissions p JOIN repositories r ON r.id = p.repository_id
		WHERE p.account_id = $3 AND r.name > $1 ORDER BY r.name LIMIT $2) AS given
	UNION SELECT name FROM (SELECT r.name FROM organization_members m JOIN repositories r ON r.organization_id = m.organization_id
		WHERE m.account_id = $3 AND m.role = 'admin' AND r.name > $1 ORDER BY r.name LIMIT $2) AS administered
) AS seen ORDER BY name LIMIT $2`

// VisibleCatalog lists the names of the repositories that an account may see in lexical order, those behind after.
// Account 0 sees what is public.
func (r *Reader) VisibleCatalog(accountID int64, after string, limit int) (names []string, err error) {
	err = r.each(visible, []any{after, limit, accountID}, func(row scanner) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}

// VisibleRepositories lists those of an organization's repositories that an account may see by path, those behind after.
func (r *Reader) VisibleRepositories(organizationID, accountID int64, after string, limit int) (list []domain.Repository, err error) {
	err = r.each(`SELECT `+repositoryColumns+` FROM repositories WHERE organization_id = $1 AND path > $2
			AND (visibility = 'public' OR id IN (SELECT repository_id FROM repository_permissions WHERE account_id = $3)
				OR EXISTS (SELECT 1 FROM organization_members m WHERE m.organization_id = $1 AND m.account_id = $3 AND m.role = 'admin'))
		ORDER BY path LIMIT $4`, []any{organizationID, after, accountID, limit}, func(row scanner) error {
		repo, err := scanRepository(row)
		list = append(list, repo)
		return err
	})
	return list, err
}

// SigningKeys lists the keys that sign tokens, the newest first.
func (r *Reader) SigningKeys() (list []domain.SigningKey, err error) {
	err = r.each(`SELECT id, private_key, created_at FROM token_keys ORDER BY created_at DESC, id`, nil, func(row scanner) error {
		var k domain.SigningKey
		var created int64
		err := row.Scan(&k.ID, &k.Private, &created)
		k.CreatedAt = fromMicros(created)
		list = append(list, k)
		return err
	})
	return list, err
}

// InsertSigningKey stores a key.
func (tx *Tx) InsertSigningKey(k domain.SigningKey) error {
	return tx.do(`INSERT INTO token_keys (id, private_key, created_at) VALUES ($1, $2, $3)`, k.ID, k.Private, toMicros(k.CreatedAt))
}

// DeleteSigningKey removes a key, and reports whether it was there.
func (tx *Tx) DeleteSigningKey(id string) (bool, error) {
	n, err := tx.exec(`DELETE FROM token_keys WHERE id = $1`, id)
	return n > 0, err
}
