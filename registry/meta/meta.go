// Package meta stores what the registry knows about its content: organizations, repositories, manifests, tags,
// policies, holds, sweeps and the audit log. The statements stand here once, in a dialect that SQLite and PostgreSQL
// share; an engine (meta/sqlite) opens the database, runs the transactions and migrates the schema.
//
// Only registry/core writes; everybody may read.
package meta

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
)

// ErrNotFound is returned by look-ups of one thing that is not there.
var ErrNotFound = errors.New("not found")

// ErrBusy is returned by Store.Write if another replica has the scope's job now.
var ErrBusy = errors.New("another replica does this now")

// Job is background work that one replica does at a time. The numbers are what replicas of different versions agree on.
type Job int32

// The jobs; 0 is none.
const (
	JobSweep Job = 1
	// JobErase is erasing persons from the audit log.
	JobErase Job = 2
)

// Scope names what a transaction is about, for engines with several writers: they lock the organization, then the
// repository, before the first statement. SQLite has one writer and needs no locks.
type Scope struct {
	// Organization is the organization's name, empty for a transaction outside any.
	Organization string
	// OrganizationExclusive is for changes of the organization, its repositories and policies.
	OrganizationExclusive bool
	// OtherOrganization is the name of a second organization that the transaction changes in the same way, or empty.
	OtherOrganization string
	// Repository is the path in the organization, empty for a transaction on the organization.
	Repository string
	// RepositoryExclusive is for removing manifests and links to blobs, and for changing what hangs on other tags.
	RepositoryExclusive bool
	// LogExclusive is for giving the audit log another origin: all other transactions are over before it begins, and those
	// that come later see what it did.
	LogExclusive bool
	// Background marks work that no client waits for, or that takes long. It takes turns with the clients' transactions
	// and never shares one, so that a client waits for one piece of it at most.
	Background bool
	// Job makes the transaction one that only one replica runs at a time: while another has the job, Write returns
	// ErrBusy. It is given back with the transaction, and so by a replica that dies.
	Job Job
	// Volatile marks work that may be lost with the power, though not with the process: SQLite commits it without an
	// fsync, unless it shares a transaction with work that needs one.
	Volatile bool
}

// Store is a database.
type Store interface {
	// Read runs fn on a consistent snapshot.
	Read(ctx context.Context, fn func(*Reader) error) error
	// Write runs fn in a transaction and returns after it is committed durably. An error of fn undoes all that fn did
	// and is returned. fn may run more than once, so it must set what it leaves behind anew each time; and it must not
	// depend on ctx: it may share a transaction with others, whom a cancelled statement would harm.
	Write(ctx context.Context, scope Scope, fn func(*Tx) error) error
	// PendingAudit and SequenceAudit are what audit.Log asks for.
	PendingAudit(ctx context.Context) (int64, error)
	SequenceAudit(ctx context.Context, limit int) (audit.Sequenced, error)
	Close() error
}

// Querier runs statements; engines hand one to NewTx and NewReader that keeps them prepared.
type Querier interface {
	Exec(ctx context.Context, query string, args ...any) (sql.Result, error)
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Reader reads in one transaction. It carries the context of that transaction, since a writer's statements must not
// run under a client's.
type Reader struct {
	ctx context.Context
	db  Querier
	// setSizes are the sizes of statements over sets.
	setSizes []int
}

// NewReader is for engines with one writer.
func NewReader(ctx context.Context, db Querier) *Reader {
	return &Reader{ctx: ctx, db: db, setSizes: setSizes}
}

// NewConcurrentReader is for engines with several writers.
func NewConcurrentReader(ctx context.Context, db Querier) *Reader {
	return &Reader{ctx: ctx, db: db, setSizes: distantSetSizes}
}

// Tx reads and writes in one transaction.
type Tx struct {
	Reader
	// several is true where other transactions write at the same time.
	several bool
	// knownLog is set where the engine has read it already.
	knownLog *LogState
	// appended, if there is one, takes the entries of the audit log until the engine writes them.
	appended *[]audit.Record
}

// NewTx is for engines with one writer.
func NewTx(ctx context.Context, db Querier) *Tx { return &Tx{Reader: *NewReader(ctx, db)} }

// Gathering makes AppendAudit add to a list, which the engine appends to the log before it commits: of several
// transactions that share a commit, by a few statements for all. The engine takes back what a transaction added that it
// undoes.
func (tx *Tx) Gathering(appended *[]audit.Record) *Tx {
	tx.appended = appended
	return tx
}

// NewConcurrentTx is for engines with several writers, in which every statement sees what was committed before it. The
// look-ups that Tx has beside Reader's lock the rows that they return until the transaction ends.
func NewConcurrentTx(ctx context.Context, db Querier) *Tx {
	return &Tx{Reader: *NewConcurrentReader(ctx, db), several: true}
}

// WithLogState tells a transaction the log's state, which the engine has read behind its locks.
func (tx *Tx) WithLogState(s LogState) *Tx {
	tx.knownLog = &s
	return tx
}

// forUpdate ends a query of rows that the transaction decides about.
func (tx *Tx) forUpdate() string {
	if tx.several {
		return ` FOR UPDATE`
	}
	return ""
}

// Context is the transaction's own context.
func (r *Reader) Context() context.Context { return r.ctx }

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

// one scans the only row of a query, or returns ErrNotFound.
func (r *Reader) one(query string, args []any, scan func(scanner) error) error {
	found := false
	err := r.each(query, args, func(row scanner) error {
		found = true
		return scan(row)
	})
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// each scans every row of a query.
func (r *Reader) each(query string, args []any, scan func(scanner) error) error {
	rows, err := r.db.Query(r.ctx, query, args...)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("scan: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	return nil
}

// number returns the only value of a query.
func (r *Reader) number(query string, args ...any) (n int64, err error) {
	err = r.one(query, args, func(row scanner) error { return row.Scan(&n) })
	return n, err
}

// exec runs a statement and returns how many rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	result, err := tx.db.Exec(tx.ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	return result.RowsAffected()
}

// do is exec for statements whose count of rows does not matter.
func (tx *Tx) do(query string, args ...any) error {
	_, err := tx.exec(query, args...)
	return err
}

// Statements over sets come in a few fixed sizes, so that they stay prepared; a set is cut into these. They are small
// because SQLite looks up each numbered parameter in a list of all. Where each statement is a journey over the network,
// there are larger ones too.
var (
	setSizes        = []int{16, 4, 1}
	distantSetSizes = []int{256, 64, 16, 4, 1}
)

// chunks calls fn with consecutive parts of n items, each of one of setSizes.
func (r *Reader) chunks(n int, fn func(from, size int) error) error {
	for from := 0; from < n; {
		for _, size := range r.setSizes {
			if size <= n-from {
				if err := fn(from, size); err != nil {
					return err
				}
				from += size
				break
			}
		}
	}
	return nil
}

// placeholders returns "$first,$first+1,…", count of them.
func placeholders(first, count int) string {
	var b strings.Builder
	for i := range count {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(first + i))
	}
	return b.String()
}

// insertRows runs "insert VALUES (…),(…)… suffix" over rows of equal width.
func (tx *Tx) insertRows(insert, suffix string, rows [][]any) error {
	return tx.chunks(len(rows), func(from, size int) error {
		query, args := valuesStatement(insert, suffix, rows[from:from+size])
		return tx.do(query, args...)
	})
}

func valuesStatement(insert, suffix string, rows [][]any) (string, []any) {
	width := len(rows[0])
	args := make([]any, 0, len(rows)*width)
	var b strings.Builder
	b.WriteString(insert)
	b.WriteString(" VALUES ")
	for i, row := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('(')
		b.WriteString(placeholders(i*width+1, width))
		b.WriteByte(')')
		args = append(args, row...)
	}
	b.WriteString(suffix)
	return b.String(), args
}

// Times are stored as microseconds since 1970 in UTC; 0 is no time.

func toMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
