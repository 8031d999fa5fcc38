package meta

import (
	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// Erasure is a request to erase a person from the audit log.
type Erasure struct {
	domain.Erasure
	// Person and Caller are empty when it is done.
	Person string
	Caller domain.Caller
}

const erasureQuery = `SELECT uuid, person, caller_kind, caller_name, caller_address, caller_token, next_index, end_index, entries, created_at, finished_at FROM erasures WHERE `

func (r *Reader) erasure(where string, args ...any) (e Erasure, err error) {
	err = r.one(erasureQuery+where, args, func(row scanner) error {
		var created, finished int64
		err := row.Scan(&e.UUID, &e.Person, &e.Caller.Kind, &e.Caller.Name, &e.Caller.Address, &e.Caller.TokenID, &e.Next, &e.End, &e.Entries, &created, &finished)
		e.CreatedAt, e.FinishedAt = fromMicros(created), fromMicros(finished)
		return err
	})
	return e, err
}

// Erasure returns a request, or ErrNotFound.
func (r *Reader) Erasure(uuid string) (Erasure, error) { return r.erasure(`uuid = $1`, uuid) }

// OpenErasure returns the oldest request that is not done, or ErrNotFound.
func (r *Reader) OpenErasure() (Erasure, error) {
	return r.erasure(`finished_at = 0 ORDER BY created_at LIMIT 1`)
}

// OpenErasureOf returns the request that is not done for a person, or ErrNotFound.
func (r *Reader) OpenErasureOf(person string) (Erasure, error) {
	return r.erasure(`finished_at = 0 AND person = $1 ORDER BY created_at LIMIT 1`, person)
}

// InsertErasure stores a request.
func (tx *Tx) InsertErasure(e Erasure) error {
	return tx.do(`INSERT INTO erasures (uuid, person, caller_kind, caller_name, caller_address, caller_token, next_index, end_index, entries, created_at, finished_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		e.UUID, e.Person, string(e.Caller.Kind), e.Caller.Name, e.Caller.Address, e.Caller.TokenID, e.Next, e.End, e.Entries, toMicros(e.CreatedAt), toMicros(e.FinishedAt))
}

// UpdateErasure stores how far a request has come.
func (tx *Tx) UpdateErasure(e Erasure) error {
	return tx.do(`UPDATE erasures SET person = $2, caller_kind = $3, caller_name = $4, caller_address = $5, caller_token = $6, next_index = $7, entries = $8, finished_at = $9 WHERE uuid = $1`,
		e.UUID, e.Person, string(e.Caller.Kind), e.Caller.Name, e.Caller.Address, e.Caller.TokenID, e.Next, e.Entries, toMicros(e.FinishedAt))
}

// LogNaming returns the indices of the entries from one index to another, that one not included, whose personal values
// name a person.
func (r *Reader) LogNaming(person string, from, to int64) (indices []int64, err error) {
	err = r.each(`SELECT idx, personal FROM audit_entries WHERE idx >= $1 AND idx < $2 AND personal IS NOT NULL ORDER BY idx`, []any{from, to}, func(row scanner) error {
		var index int64
		var personal []byte
		if err := row.Scan(&index, &personal); err != nil {
			return err
		}
		names, err := audit.Names(personal, person)
		if names {
			indices = append(indices, index)
		}
		return err
	})
	return indices, err
}

// EraseAudit removes the personal values of entries, with the salt, and returns how many had some. Leaves stay as they are.
func (tx *Tx) EraseAudit(indices []int64) (erased int64, err error) {
	err = tx.chunks(len(indices), func(from, size int) error {
		args := make([]any, size)
		for i := range args {
			args[i] = indices[from+i]
		}
		n, err := tx.exec(`UPDATE audit_entries SET personal = NULL, performer = '' WHERE personal IS NOT NULL AND idx IN (`+placeholders(1, size)+`)`, args...)
		erased += n
		return err
	})
	return erased, err
}

// ForgetDeletionUser forgets that a person asked to delete policies that are deleted.
func (tx *Tx) ForgetDeletionUser(person string) error {
	return tx.do(`UPDATE policies SET deletion_user = '', deletion_user_uid = '' WHERE deletion_user = $1 AND deleted`, person)
}
