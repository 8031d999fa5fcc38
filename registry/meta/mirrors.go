package meta

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// Mirror is a mirror with what only the registry itself needs to know.
type Mirror struct {
	domain.Mirror
	// DeletionIntent is who asked the cluster to delete the manager, as far as the registry was told.
	DeletionIntent domain.DeletionIntent
	// Lease is of the last sync.
	Lease SyncLease
}

// SyncLease says which replica runs a sync, and whether it is alive.
type SyncLease struct {
	// Epoch grows with each replica that takes a sync of the mirror.
	Epoch int64
	// Holder is empty if the sync was given back.
	Holder string
	// Beat grows while the holder is alive.
	Beat int64
	// Discovered is true once the repositories of the sync are known.
	Discovered bool
}

// MirrorRef is what a push has to know of the mirror of its organization.
type MirrorRef struct {
	ID         int64
	UUID       string
	URL        string
	Robot      string
	Visibility domain.Visibility
	// Manager has the kind, namespace and name of the Kubernetes object, nil if there is none.
	Manager *domain.ManagedBy
}

// mirrorRefColumns are of the table mirrors as m, which may have no row.
const mirrorRefColumns = `COALESCE(m.id, 0), COALESCE(m.uuid, ''), COALESCE(m.url, ''), COALESCE(m.robot, ''), COALESCE(m.visibility, ''), COALESCE(m.manager_kind, ''), COALESCE(m.manager_namespace, ''), COALESCE(m.manager_name, '')`

// mirrorRefRow scans columns into dest, and then those of a MirrorRef.
type mirrorRefRow struct {
	scanner
	ref *MirrorRef
}

func (r *mirrorRefRow) Scan(dest ...any) error {
	var ref MirrorRef
	var by domain.ManagedBy
	dest = append(dest, &ref.ID, &ref.UUID, &ref.URL, &ref.Robot, &ref.Visibility, &by.Kind, &by.Namespace, &by.Name)
	if err := r.scanner.Scan(dest...); err != nil || ref.ID == 0 {
		return err
	}
	if by.Kind != "" {
		ref.Manager = &by
	}
	r.ref = &ref
	return nil
}

// RepositoryToFill finds a repository by its name, and the mirror of its organization, nil if it has none.
func (r *Reader) RepositoryToFill(name domain.RepositoryName) (repo domain.Repository, mirror *MirrorRef, err error) {
	err = r.one(`SELECT `+repositoryColumnsOf+`, `+mirrorRefColumns+` FROM repositories r LEFT JOIN mirrors m ON m.organization_id = r.organization_id WHERE r.name = $1`,
		[]any{name.String()}, func(row scanner) error {
			with := mirrorRefRow{scanner: row}
			repo, err = scanRepository(&with)
			mirror = with.ref
			return err
		})
	return repo, mirror, err
}

// OrganizationToFill finds an organization by its name, and its mirror, nil if it has none.
func (r *Reader) OrganizationToFill(name string) (o domain.Organization, mirror *MirrorRef, err error) {
	err = r.one(`SELECT `+organizationColumnsOf+`, `+mirrorRefColumns+` FROM organizations o LEFT JOIN mirrors m ON m.organization_id = o.id WHERE o.name = $1`,
		[]any{name}, func(row scanner) error {
			with := mirrorRefRow{scanner: row}
			o, err = scanOrganization(&with)
			mirror = with.ref
			return err
		})
	return o, mirror, err
}

const mirrorQuery = `SELECT m.id, m.uuid, o.name, m.organization_id, m.spec, m.username, m.has_password, m.has_proxy_credentials,
	m.manager_kind, m.manager_namespace, m.manager_name, m.manager_uid, m.manager_generation, m.manager_revision_claimed, m.orphaned, m.lost,
	m.deletion_user, m.deletion_user_uid, m.deletion_told_at, m.created_at, m.requested, m.requested_at, m.next_sync, m.failures, m.last_success,
	COALESCE(s.number, 0), COALESCE(s.state, ''), COALESCE(s.cause, ''), COALESCE(s.started_at, 0), COALESCE(s.finished_at, 0), COALESCE(s.progress, ''),
	COALESCE(s.message, ''), COALESCE(s.failures, ''), COALESCE(s.conflicts, ''), COALESCE(s.epoch, 0), COALESCE(s.holder, ''), COALESCE(s.beat, 0), COALESCE(s.discovered, FALSE)
	FROM mirrors m JOIN organizations o ON o.id = m.organization_id LEFT JOIN mirror_syncs s ON s.mirror_id = m.id WHERE `

func scanMirror(row scanner) (m Mirror, err error) {
	var by domain.ManagedBy
	var last domain.MirrorSync
	var spec, progress, failures, conflicts string
	var told, created, next, success, started, finished int64
	err = row.Scan(&m.ID, &m.UUID, &m.Organization, &m.OrganizationID, &spec, &m.Username, &m.HasPassword, &m.HasProxyCredentials,
		&by.Kind, &by.Namespace, &by.Name, &by.UID, &by.Generation, &by.RevisionClaimed, &m.Orphaned, &m.Lost,
		&m.DeletionIntent.User, &m.DeletionIntent.UserUID, &told, &created, &m.Requested, &m.RequestedAt, &next, &m.Failures, &success,
		&last.Number, &last.State, &last.Trigger, &started, &finished, &progress,
		&last.Message, &failures, &conflicts, &m.Lease.Epoch, &m.Lease.Holder, &m.Lease.Beat, &m.Lease.Discovered)
	if err != nil {
		return m, err
	}
	if by.Kind != "" {
		m.Manager = &by
	}
	m.DeletionIntent.ToldAt, m.CreatedAt, m.NextSync, m.LastSuccess = fromMicros(told), fromMicros(created), fromMicros(next), fromMicros(success)
	if last.Number > 0 {
		last.StartedAt, last.FinishedAt = fromMicros(started), fromMicros(finished)
		m.Last = &last
		err = errors.Join(read(progress, &last.MirrorProgress), read(failures, &last.Failures), read(conflicts, &last.Conflicts))
	}
	return m, errors.Join(err, read(spec, &m.MirrorSpec))
}

// read reads what document wrote.
func read(text string, into any) error { return json.Unmarshal([]byte(text), into) }

// document is how lists, counts and a mirror's spec are stored: JSON under the names of the fields.
func document(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

func (r *Reader) mirror(condition string, args ...any) (m Mirror, err error) {
	err = r.one(mirrorQuery+condition, args, func(row scanner) error {
		m, err = scanMirror(row)
		return err
	})
	return m, err
}

// Mirror finds the mirror of an organization by the organization's name.
func (r *Reader) Mirror(organization string) (Mirror, error) {
	return r.mirror(`o.name = $1`, organization)
}

// MirrorByID finds a mirror.
func (r *Reader) MirrorByID(id int64) (Mirror, error) { return r.mirror(`m.id = $1`, id) }

// ManagedMirror finds the mirror of a Kubernetes object.
func (r *Reader) ManagedMirror(kind, namespace, name string) (Mirror, error) {
	return r.mirror(`m.manager_kind = $1 AND m.manager_kind <> '' AND m.manager_namespace = $2 AND m.manager_name = $3`, kind, namespace, name)
}

// ManagedMirrors lists the mirrors of all Kubernetes objects.
func (r *Reader) ManagedMirrors() (list []Mirror, err error) {
	err = r.each(mirrorQuery+`m.manager_kind <> '' ORDER BY m.id`, nil, func(row scanner) error {
		m, err := scanMirror(row)
		list = append(list, m)
		return err
	})
	return list, err
}

// SealedSecrets are a mirror's secrets as they are stored.
type SealedSecrets struct {
	MirrorID int64
	// UUID is the mirror's, Organization the name of what it fills.
	UUID, Organization string
	// Sealed is nil if there are none.
	Sealed []byte
}

// MirrorSecrets reads a mirror's secrets.
func (r *Reader) MirrorSecrets(id int64) (sealed []byte, err error) {
	err = r.one(`SELECT secrets FROM mirrors WHERE id = $1`, []any{id}, func(row scanner) error { return row.Scan(&sealed) })
	return sealed, err
}

// AllMirrorSecrets lists the secrets of all mirrors that have some.
func (r *Reader) AllMirrorSecrets() (list []SealedSecrets, err error) {
	err = r.each(`SELECT m.id, m.uuid, o.name, m.secrets FROM mirrors m JOIN organizations o ON o.id = m.organization_id WHERE m.secrets IS NOT NULL ORDER BY m.id`, nil, func(row scanner) error {
		var s SealedSecrets
		err := row.Scan(&s.MirrorID, &s.UUID, &s.Organization, &s.Sealed)
		list = append(list, s)
		return err
	})
	return list, err
}

// InsertMirror creates a mirror and returns its id.
func (tx *Tx) InsertMirror(m domain.Mirror, sealed []byte) (int64, error) {
	spec, err := document(m.MirrorSpec)
	if err != nil {
		return 0, err
	}
	return tx.number(`INSERT INTO mirrors (uuid, organization_id, spec, url, robot, visibility, username, has_password, has_proxy_credentials, secrets, created_at, requested, requested_at, next_sync)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id`,
		m.UUID, m.OrganizationID, spec, m.Source.URL, m.Robot, string(m.Visibility), m.Username, m.HasPassword, m.HasProxyCredentials, sealed, toMicros(m.CreatedAt), m.Requested, m.RequestedAt, toMicros(m.NextSync))
}

// SetMirrorSpec stores a mirror's spec.
func (tx *Tx) SetMirrorSpec(id int64, spec domain.MirrorSpec) error {
	text, err := document(spec)
	if err != nil {
		return err
	}
	return tx.do(`UPDATE mirrors SET spec = $2, url = $3, robot = $4, visibility = $5 WHERE id = $1`, id, text, spec.Source.URL, spec.Robot, string(spec.Visibility))
}

// SetMirrorSecrets stores a mirror's sealed secrets, nil if there are none, with what everybody may know of them.
func (tx *Tx) SetMirrorSecrets(m domain.Mirror, sealed []byte) error {
	return tx.do(`UPDATE mirrors SET username = $2, has_password = $3, has_proxy_credentials = $4, secrets = $5 WHERE id = $1`,
		m.ID, m.Username, m.HasPassword, m.HasProxyCredentials, sealed)
}

// ReplaceMirrorSecrets stores the same secrets under another key. It does nothing if they have changed meanwhile.
func (tx *Tx) ReplaceMirrorSecrets(id int64, before, after []byte) error {
	return tx.do(`UPDATE mirrors SET secrets = $3 WHERE id = $1 AND secrets = $2`, id, before, after)
}

// SetMirrorManager records the Kubernetes object that manages a mirror, nil for none. The mirror is neither orphaned nor
// lost then.
func (tx *Tx) SetMirrorManager(id int64, m *domain.ManagedBy) error {
	if m == nil {
		m = &domain.ManagedBy{}
	}
	return tx.do(`UPDATE mirrors SET manager_kind = $2, manager_namespace = $3, manager_name = $4, manager_uid = $5, manager_generation = $6, manager_revision_claimed = $7, orphaned = FALSE, lost = FALSE WHERE id = $1`,
		id, m.Kind, m.Namespace, m.Name, m.UID, m.Generation, m.RevisionClaimed)
}

// SetMirrorOrphaned marks a mirror whose manager went away.
func (tx *Tx) SetMirrorOrphaned(id int64) error {
	return tx.do(`UPDATE mirrors SET orphaned = TRUE WHERE id = $1`, id)
}

// SetMirrorLost marks a mirror whose manager may not manage the organization any more.
func (tx *Tx) SetMirrorLost(id int64) error {
	return tx.do(`UPDATE mirrors SET lost = TRUE WHERE id = $1`, id)
}

// SetMirrorDeletionIntent records who asks to delete a mirror's manager; the zero value forgets it.
func (tx *Tx) SetMirrorDeletionIntent(id int64, intent domain.DeletionIntent) error {
	return tx.do(`UPDATE mirrors SET deletion_user = $2, deletion_user_uid = $3, deletion_told_at = $4 WHERE id = $1`, id, intent.User, intent.UserUID, toMicros(intent.ToldAt))
}

// SetMirrorRequested records whether a sync was asked for, and the value of the manager's annotation that did it last.
func (tx *Tx) SetMirrorRequested(id int64, requested bool, at string) error {
	return tx.do(`UPDATE mirrors SET requested = $2, requested_at = $3 WHERE id = $1`, id, requested, at)
}

// SetMirrorNextSync says when the next sync is due; the zero time for never.
func (tx *Tx) SetMirrorNextSync(id int64, at time.Time) error {
	return tx.do(`UPDATE mirrors SET next_sync = $2 WHERE id = $1`, id, toMicros(at))
}

// DeleteMirror removes a mirror with its syncs and what is known of its upstream.
func (tx *Tx) DeleteMirror(id int64) error { return tx.do(`DELETE FROM mirrors WHERE id = $1`, id) }

const mirrorRepositoryColumns = `name, state, discovered_at, synced_at, message, tags_discovered, tags_copied, tags_unchanged, tags_skipped, tags_failed, tags_conflicts, tags_pruned, bytes_copied, bytes_saved`

func scanMirrorRepository(row scanner) (repo domain.MirrorRepository, err error) {
	var discovered, synced int64
	t := &repo.Tags
	err = row.Scan(&repo.Name, &repo.State, &discovered, &synced, &repo.Message, &t.Discovered, &t.Copied, &t.Unchanged, &t.Skipped, &t.Failed, &t.Conflicts, &t.Pruned, &repo.BytesCopied, &repo.BytesSaved)
	repo.DiscoveredAt, repo.SyncedAt = fromMicros(discovered), fromMicros(synced)
	return repo, err
}

// MirrorRepositories lists the repositories of a mirror by name, of which offset are skipped, and counts all of them; with
// states, those in one of them.
func (r *Reader) MirrorRepositories(mirrorID int64, states []domain.SyncState, offset, limit int) (list []domain.MirrorRepository, total int64, err error) {
	condition, args := ` FROM mirror_repositories WHERE mirror_id = $1`, []any{mirrorID}
	if len(states) > 0 {
		condition += ` AND state IN (` + placeholders(2, len(states)) + `)`
		for _, state := range states {
			args = append(args, string(state))
		}
	}
	if total, err = r.number(`SELECT COUNT(*)`+condition, args...); err != nil {
		return nil, 0, err
	}
	page := fmt.Sprintf(` ORDER BY name LIMIT $%d OFFSET $%d`, len(args)+1, len(args)+2)
	err = r.each(`SELECT `+mirrorRepositoryColumns+condition+page, append(args, limit, offset), func(row scanner) error {
		repo, err := scanMirrorRepository(row)
		list = append(list, repo)
		return err
	})
	return list, total, err
}

// CountMirrorRepositories counts the repositories of a mirror by their state.
func (r *Reader) CountMirrorRepositories(mirrorID int64) (map[domain.SyncState]int64, error) {
	counts := map[domain.SyncState]int64{}
	err := r.each(`SELECT state, COUNT(*) FROM mirror_repositories WHERE mirror_id = $1 GROUP BY state`, []any{mirrorID}, func(row scanner) error {
		var state domain.SyncState
		var n int64
		err := row.Scan(&state, &n)
		counts[state] = n
		return err
	})
	return counts, err
}
