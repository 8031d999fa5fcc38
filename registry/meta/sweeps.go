package meta

import (
	"encoding/json"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// Sweep is one pass of a policy's revision over its tags, with its cursor.
type Sweep struct {
	ID       int64
	PolicyID int64
	Revision int64
	Kind     string
	// Cause says what queued it; it is empty for one of before causes were stored.
	Cause string
	State domain.SweepState
	// Events is the policy's mode of Events when the sweep was queued: its entries and its summary agree on it.
	Events domain.EventsMode
	// AfterID and AfterName say how far it has come: a repository and a tag's name in it, or for a sweep over holds a
	// tag.
	AfterID   int64
	AfterName string
	// Total is how many tags there were to visit when it started; Examined and Changed count on.
	Total, Examined, Changed int64
	// FirstEntry and LastEntry are the ids of the audit entries of its first and last change, 0 if there is none.
	FirstEntry, LastEntry int64
	// Sample holds the first tags that it changed, at most domain.LockSample.
	Sample                           []string
	CreatedAt, StartedAt, FinishedAt time.Time
}

const sweepQuery = `SELECT id, policy_id, revision, kind, cause, state, events, after_id, after_name, total, examined, changed, first_entry, last_entry, sample, created_at, started_at, finished_at FROM sweeps WHERE `

func (r *Reader) sweeps(condition string, args ...any) (list []Sweep, err error) {
	err = r.each(sweepQuery+condition, args, func(row scanner) error {
		var s Sweep
		var sample string
		var created, started, finished int64
		if err := row.Scan(&s.ID, &s.PolicyID, &s.Revision, &s.Kind, &s.Cause, &s.State, &s.Events, &s.AfterID, &s.AfterName, &s.Total, &s.Examined, &s.Changed, &s.FirstEntry, &s.LastEntry, &sample, &created, &started, &finished); err != nil {
			return err
		}
		s.CreatedAt, s.StartedAt, s.FinishedAt = fromMicros(created), fromMicros(started), fromMicros(finished)
		if sample != "" {
			if err := json.Unmarshal([]byte(sample), &s.Sample); err != nil {
				return err
			}
		}
		list = append(list, s)
		return nil
	})
	return list, err
}

// OpenSweeps lists the sweeps whose turn it is, the oldest unfinished one of each policy, the oldest first.
func (r *Reader) OpenSweeps(limit int) ([]Sweep, error) {
	return r.sweeps(`id IN (SELECT MIN(id) FROM sweeps WHERE state IN ('pending', 'running') GROUP BY policy_id) ORDER BY id LIMIT $1`, limit)
}

// Sweep finds a sweep.
func (r *Reader) Sweep(id int64) (Sweep, error) {
	list, err := r.sweeps(`id = $1`, id)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Sweep{}, err
	}
	return list[0], nil
}

// SweepsOfPolicy lists a policy's sweeps, the newest first.
func (r *Reader) SweepsOfPolicy(policyID int64, limit int) ([]Sweep, error) {
	return r.sweeps(`policy_id = $1 ORDER BY id DESC LIMIT $2`, policyID, limit)
}

// OpenSweepsOfPolicy lists a policy's unfinished sweeps, the oldest first.
func (r *Reader) OpenSweepsOfPolicy(policyID int64) ([]Sweep, error) {
	return r.sweeps(`policy_id = $1 AND state IN ('pending', 'running') ORDER BY id`, policyID)
}

// InsertSweep queues a sweep.
func (tx *Tx) InsertSweep(s Sweep) error {
	return tx.do(`INSERT INTO sweeps (policy_id, revision, kind, cause, state, events, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		s.PolicyID, s.Revision, s.Kind, s.Cause, string(domain.SweepPending), string(s.Events), toMicros(s.CreatedAt))
}

// UpdateSweep stores a sweep's state, cursor and counts.
func (tx *Tx) UpdateSweep(s Sweep) error {
	sample := ""
	if len(s.Sample) > 0 {
		b, err := json.Marshal(s.Sample)
		if err != nil {
			return err
		}
		sample = string(b)
	}
	return tx.do(`UPDATE sweeps SET state = $2, after_id = $3, after_name = $4, examined = $5, changed = $6, first_entry = $7, last_entry = $8, sample = $9, started_at = $10, finished_at = $11, total = $12 WHERE id = $1`,
		s.ID, string(s.State), s.AfterID, s.AfterName, s.Examined, s.Changed, s.FirstEntry, s.LastEntry, sample, toMicros(s.StartedAt), toMicros(s.FinishedAt), s.Total)
}
