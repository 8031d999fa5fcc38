package meta

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// MirrorTurn is a mirror that has a sync, or is to have one.
type MirrorTurn struct {
	ID           int64
	Organization string
	// Running is true where a sync runs, of which Lease is.
	Running bool
	Lease   SyncLease
}

// MirrorTurns lists the mirrors of which a sync runs, was asked for, or is due: those first that were asked for, then
// those that wait longest.
func (r *Reader) MirrorTurns(now time.Time) (list []MirrorTurn, err error) {
	err = r.each(`SELECT m.id, o.name, COALESCE(s.state, '') = 'running', COALESCE(s.epoch, 0), COALESCE(s.holder, ''), COALESCE(s.beat, 0)
		FROM mirrors m JOIN organizations o ON o.id = m.organization_id LEFT JOIN mirror_syncs s ON s.mirror_id = m.id
		WHERE NOT m.lost AND (s.state = 'running' OR m.requested OR m.next_sync > 0 AND m.next_sync <= $1) ORDER BY m.requested DESC, m.next_sync, m.id`, []any{toMicros(now)},
		func(row scanner) error {
			var t MirrorTurn
			err := row.Scan(&t.ID, &t.Organization, &t.Running, &t.Lease.Epoch, &t.Lease.Holder, &t.Lease.Beat)
			list = append(list, t)
			return err
		})
	return list, err
}

// NextMirrorSync returns when the first sync after a time is due, zero if none is.
func (r *Reader) NextMirrorSync(after time.Time) (time.Time, error) {
	at, err := r.number(`SELECT COALESCE(MIN(next_sync), 0) FROM mirrors WHERE next_sync > $1 AND NOT lost`, toMicros(after))
	return fromMicros(at), err
}

// MirrorsBehind counts the mirrors that have a schedule, and those of them whose last sync failed, and finds since when the one
// that is furthest behind has had no success: zero if there is none.
func (r *Reader) MirrorsBehind() (scheduled, failing int64, since time.Time, err error) {
	var at int64
	err = r.one(`SELECT COUNT(*), COUNT(CASE WHEN failures > 0 THEN 1 END), COALESCE(MIN(CASE WHEN last_success > 0 THEN last_success ELSE created_at END), 0) FROM mirrors WHERE next_sync > 0 AND NOT lost`, nil,
		func(row scanner) error { return row.Scan(&scheduled, &failing, &at) })
	return scheduled, failing, fromMicros(at), err
}

// RunningSync returns the UUID of a mirror whose sync runs in an epoch.
func (r *Reader) RunningSync(mirrorID, epoch int64) (uuid string, err error) {
	err = r.one(`SELECT m.uuid FROM mirror_syncs s JOIN mirrors m ON m.id = s.mirror_id WHERE s.mirror_id = $1 AND s.epoch = $2 AND s.state = 'running'`, []any{mirrorID, epoch},
		func(row scanner) error { return row.Scan(&uuid) })
	return uuid, err
}

// BeginMirrorSync records a sync that begins, in place of the last one, and takes back that it was asked for.
func (tx *Tx) BeginMirrorSync(mirrorID int64, s domain.MirrorSync, lease SyncLease, next time.Time) error {
	err := tx.do(`INSERT INTO mirror_syncs (mirror_id, number, state, cause, started_at, epoch, holder, beat) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (mirror_id) DO UPDATE SET number = excluded.number, state = excluded.state, cause = excluded.cause, started_at = excluded.started_at, finished_at = 0,
		epoch = excluded.epoch, holder = excluded.holder, beat = excluded.beat, discovered = FALSE, progress = '{}', message = '', failures = '[]', conflicts = '[]'`,
		mirrorID, s.Number, string(s.State), string(s.Trigger), toMicros(s.StartedAt), lease.Epoch, lease.Holder, lease.Beat)
	if err != nil {
		return err
	}
	return tx.do(`UPDATE mirrors SET requested = FALSE, next_sync = $2 WHERE id = $1`, mirrorID, toMicros(next))
}

// TakeMirrorSync gives a sync that runs to another holder, with the progress that it goes on from.
func (tx *Tx) TakeMirrorSync(mirrorID int64, lease SyncLease, p domain.MirrorProgress) error {
	progress, err := document(p)
	if err != nil {
		return err
	}
	return tx.do(`UPDATE mirror_syncs SET epoch = $2, holder = $3, beat = $4, progress = $5 WHERE mirror_id = $1`, mirrorID, lease.Epoch, lease.Holder, lease.Beat, progress)
}

// BeatMirrorSync makes the beat of a sync grow and stores its progress. It reports false if the sync does not run in this
// epoch any more.
func (tx *Tx) BeatMirrorSync(mirrorID, epoch int64, p domain.MirrorProgress) (bool, error) {
	progress, err := document(p)
	if err != nil {
		return false, err
	}
	n, err := tx.exec(`UPDATE mirror_syncs SET beat = beat + 1, progress = $3 WHERE mirror_id = $1 AND epoch = $2 AND state = 'running'`, mirrorID, epoch, progress)
	return n > 0, err
}

// LeaveMirrorSync gives a sync back, if it runs in this epoch still.
func (tx *Tx) LeaveMirrorSync(mirrorID, epoch int64) error {
	return tx.do(`UPDATE mirror_syncs SET holder = '', beat = beat + 1 WHERE mirror_id = $1 AND epoch = $2 AND state = 'running'`, mirrorID, epoch)
}

// SetMirrorDiscovered records that the repositories of a sync are known.
func (tx *Tx) SetMirrorDiscovered(mirrorID int64) error {
	return tx.do(`UPDATE mirror_syncs SET discovered = TRUE WHERE mirror_id = $1`, mirrorID)
}

// EndMirrorSync records how the sync that runs ended.
func (tx *Tx) EndMirrorSync(mirrorID int64, s domain.MirrorSync) error {
	progress, err := document(s.MirrorProgress)
	if err != nil {
		return err
	}
	if err := tx.SetMirrorFindings(mirrorID, s.Failures, s.Conflicts); err != nil {
		return err
	}
	return tx.do(`UPDATE mirror_syncs SET state = $2, finished_at = $3, progress = $4, message = $5 WHERE mirror_id = $1`, mirrorID, string(s.State), toMicros(s.FinishedAt), progress, s.Message)
}

// SetMirrorResult records what the end of a sync means for the mirror.
func (tx *Tx) SetMirrorResult(mirrorID int64, failures int, lastSuccess, next time.Time) error {
	return tx.do(`UPDATE mirrors SET failures = $2, last_success = $3, next_sync = $4 WHERE id = $1`, mirrorID, failures, toMicros(lastSuccess), toMicros(next))
}

// MirrorFindings reads the failures and conflicts of a sync, for a change of them.
func (tx *Tx) MirrorFindings(mirrorID int64) (failures []domain.MirrorFailure, conflicts []domain.MirrorConflict, err error) {
	var failed, conflicting string
	err = tx.one(`SELECT failures, conflicts FROM mirror_syncs WHERE mirror_id = $1`+tx.forUpdate(), []any{mirrorID}, func(row scanner) error { return row.Scan(&failed, &conflicting) })
	if err == nil {
		err = read(failed, &failures)
	}
	if err == nil {
		err = read(conflicting, &conflicts)
	}
	return failures, conflicts, err
}

// SetMirrorFindings stores the failures and conflicts of a sync.
func (tx *Tx) SetMirrorFindings(mirrorID int64, failures []domain.MirrorFailure, conflicts []domain.MirrorConflict) error {
	failed, err := document(failures)
	if err != nil {
		return err
	}
	conflicting, err := document(conflicts)
	if err != nil {
		return err
	}
	return tx.do(`UPDATE mirror_syncs SET failures = $2, conflicts = $3 WHERE mirror_id = $1`, mirrorID, failed, conflicting)
}

// AddMirrorRepositories records that a sync found repositories upstream. Those that were skipped before come back.
func (tx *Tx) AddMirrorRepositories(mirrorID, number int64, names []string, now time.Time) error {
	rows := make([][]any, len(names))
	for i, name := range names {
		rows[i] = []any{mirrorID, name, toMicros(now), number}
	}
	return tx.insertRows(`INSERT INTO mirror_repositories (mirror_id, name, discovered_at, discovered_in)`, ` ON CONFLICT (mirror_id, name) DO UPDATE SET discovered_in = excluded.discovered_in,
		state = CASE WHEN mirror_repositories.state = 'skipped' THEN '' ELSE mirror_repositories.state END, message = CASE WHEN mirror_repositories.state = 'skipped' THEN '' ELSE mirror_repositories.message END`, rows)
}

// SkipMirrorRepositories marks the repositories that a sync did not find, with a message that says so.
func (tx *Tx) SkipMirrorRepositories(mirrorID, number int64, message string) error {
	return tx.do(`UPDATE mirror_repositories SET state = 'skipped', message = $3 WHERE mirror_id = $1 AND discovered_in <> $2 AND state <> 'skipped'`, mirrorID, number, message)
}

// PendingMirrorRepositories lists the repositories that a sync found and is not done with by name, those behind after.
func (r *Reader) PendingMirrorRepositories(mirrorID, number int64, after string, limit int) (names []string, err error) {
	err = r.each(`SELECT name FROM mirror_repositories WHERE mirror_id = $1 AND name > $2 AND discovered_in = $3 AND synced_in <> $3 ORDER BY name LIMIT $4`, []any{mirrorID, after, number, limit},
		func(row scanner) error {
			var name string
			err := row.Scan(&name)
			names = append(names, name)
			return err
		})
	return names, err
}

// FinishMirrorRepository records that a sync is done with a repository. It reports false if there is no such repository, or
// the sync was done with it before.
func (tx *Tx) FinishMirrorRepository(mirrorID, number int64, repo domain.MirrorRepository) (bool, error) {
	t := repo.Tags
	n, err := tx.exec(`UPDATE mirror_repositories SET state = $4, synced_at = $5, synced_in = $3, message = $6, tags_discovered = $7, tags_copied = $8, tags_unchanged = $9, tags_skipped = $10,
		tags_failed = $11, tags_conflicts = $12, tags_pruned = $13, bytes_copied = $14, bytes_saved = $15 WHERE mirror_id = $1 AND name = $2 AND synced_in <> $3`,
		mirrorID, repo.Name, number, string(repo.State), toMicros(repo.SyncedAt), repo.Message, t.Discovered, t.Copied, t.Unchanged, t.Skipped, t.Failed, t.Conflicts, t.Pruned, repo.BytesCopied, repo.BytesSaved)
	return n > 0, err
}

// MirrorProgress adds up what a sync did in the repositories that it is done with. Each counts in one way; one that failed
// by conflicts alone counts as a conflict.
func (r *Reader) MirrorProgress(mirrorID, number int64) (p domain.MirrorProgress, err error) {
	count := func(condition string) string { return `COUNT(CASE WHEN ` + condition + ` THEN 1 END), ` }
	const (
		failed   = `state = 'failed' AND (tags_failed > 0 OR tags_conflicts = 0)`
		conflict = `synced_in = $2 AND state <> 'skipped' AND tags_conflicts > 0 AND NOT (` + failed + `)`
		clean    = `synced_in = $2 AND state = 'succeeded' AND tags_conflicts = 0`
	)
	repos, tags := &p.Repositories, &p.Tags
	err = r.one(`SELECT `+count(`discovered_in = $2`)+count(`synced_in = $2 AND `+failed)+count(`synced_in = $2 AND state = 'skipped'`)+count(conflict)+
		count(clean+` AND tags_copied + tags_pruned > 0`)+count(clean+` AND tags_copied + tags_pruned = 0`)+`
		`+sums(`tags_discovered`, `tags_failed`, `tags_skipped`, `tags_conflicts`, `tags_copied`, `tags_unchanged`, `tags_pruned`, `bytes_copied`, `bytes_saved`)+`
		FROM mirror_repositories WHERE mirror_id = $1 AND (discovered_in = $2 OR synced_in = $2)`, []any{mirrorID, number}, func(row scanner) error {
		return row.Scan(&repos.Discovered, &repos.Failed, &repos.Skipped, &repos.Conflicts, &repos.Copied, &repos.Unchanged,
			&tags.Discovered, &tags.Failed, &tags.Skipped, &tags.Conflicts, &tags.Copied, &tags.Unchanged, &tags.Pruned, &p.BytesCopied, &p.BytesSaved)
	})
	return p, err
}

// sums adds up columns of the repositories that a sync is done with.
func sums(columns ...string) (list string) {
	for i, column := range columns {
		if i > 0 {
			list += `, `
		}
		list += `CAST(COALESCE(SUM(CASE WHEN synced_in = $2 THEN ` + column + ` ELSE 0 END), 0) AS BIGINT)`
	}
	return list
}
