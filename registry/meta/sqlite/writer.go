package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// groupLimit bounds the requests of one transaction, and so how long the first of them waits for the others.
const groupLimit = 64

var (
	errClosed   = errors.New("the database is closed")
	errReadOnly = errors.New("the database is open for reading only")
)

// writer owns the one connection that writes. Its goroutine takes the waiting requests as a group, runs each in a
// savepoint, commits, and only then answers them.
type writer struct {
	*session
	db     *sql.DB
	logger *slog.Logger
	// full makes room when the disk is full, nil if nobody can.
	full func()
	// requests and background are those that wait. Background work is never in a group with others.
	requests   chan *request
	background chan *request
	// appended are the entries of the audit log that the running transaction has still to write.
	appended []audit.Record
	// broken is the first error of the running transaction after which its state is unknown.
	broken error
	// durable is whether COMMIT waits for the disk now. It does when the file is opened.
	durable bool

	mu     sync.RWMutex
	closed bool
	done   chan struct{}
}

type request struct {
	ctx      context.Context
	fn       func(*meta.Tx) error
	volatile bool
	result   chan error
	err      error
}

// gone answers a request whose client has left before it began.
func (r *request) gone() bool {
	r.err = r.ctx.Err()
	return r.err != nil
}

func newWriter(ctx context.Context, db *sql.DB, logger *slog.Logger) (*writer, error) {
	session, err := newSession(ctx, db)
	if err != nil {
		return nil, err
	}
	w := &writer{session: session, db: db, logger: logger, durable: true, done: make(chan struct{})}
	w.requests, w.background = make(chan *request, 4*groupLimit), make(chan *request, groupLimit)
	go w.run()
	return w, nil
}

// do hands fn to the writer and waits for the commit. Once the request is queued it is waited for, whatever becomes of
// the caller: a client that goes away leaves no doubt about what was done, and disturbs nobody in its group.
func (w *writer) do(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	r := &request{ctx: ctx, fn: fn, volatile: scope.Volatile, result: make(chan error, 1)}
	queue := w.requests
	if scope.Background {
		queue = w.background
	}
	w.mu.RLock()
	if w.closed {
		w.mu.RUnlock()
		return domain.Unavailable(errClosed)
	}
	select {
	case queue <- r:
		w.mu.RUnlock()
	case <-ctx.Done():
		w.mu.RUnlock()
		return ctx.Err()
	}
	return <-r.result
}

func (w *writer) close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.requests)
	close(w.background)
	w.mu.Unlock()
	<-w.done
	w.session.close()
	return w.db.Close()
}

// run lets the clients' groups and the pieces of background work take turns while both wait.
func (w *writer) run() {
	defer close(w.done)
	requests, background := w.requests, w.background
	for requests != nil || background != nil {
		select {
		case r, open := <-requests:
			if !open {
				requests = nil
				continue
			}
			w.answer(w.gather(r))
			// Not left to the select above, which may choose clients again and again.
			select {
			case r, open := <-background:
				if open {
					w.answer([]*request{r})
				}
			default:
			}
		case r, open := <-background:
			if !open {
				background = nil
				continue
			}
			w.answer([]*request{r})
			// Clients that came meanwhile go first.
			select {
			case r, open := <-requests:
				if open {
					w.answer(w.gather(r))
				}
			default:
			}
		}
	}
}

// gather adds the requests that wait already to the first.
func (w *writer) gather(first *request) []*request {
	group := []*request{first}
	for len(group) < groupLimit {
		select {
		case r, open := <-w.requests:
			if !open {
				return group
			}
			group = append(group, r)
		default:
			return group
		}
	}
	return group
}

func (w *writer) answer(group []*request) {
	w.commit(group)
	for _, r := range group {
		r.result <- r.err
	}
}

// commit runs a group in one transaction. If the transaction breaks, nothing of it stands: the request that broke it
// is answered 503, the others are run once more, each alone, so that none suffers for another twice.
func (w *writer) commit(group []*request) {
	culprit, err := w.transaction(group)
	if w.full != nil && isFull(err) {
		w.logger.Warn("the disk is full; trying again with the space in reserve", "requests", len(group))
		w.full()
		culprit, err = w.transaction(group)
	}
	if err == nil {
		return
	}
	w.logger.Error("a transaction failed and was rolled back", "requests", len(group), "error", err)
	for _, r := range group {
		if r == culprit || len(group) == 1 {
			r.err = domain.Unavailable(err)
			continue
		}
		if _, err := w.transaction([]*request{r}); err != nil {
			r.err = domain.Unavailable(err)
		}
	}
}

func isFull(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL
}

// transaction runs the group, appends the entries of all of it to the audit log, and commits. After an error nothing
// stands; the culprit is the request that was running, nil if it was the end of the transaction.
func (w *writer) transaction(group []*request) (culprit *request, err error) {
	ctx := context.Background()
	w.broken, w.appended = nil, w.appended[:0]
	durable := slices.ContainsFunc(group, func(r *request) bool { return !r.volatile })
	if err := w.setDurable(ctx, durable); err != nil {
		return nil, err
	}
	if _, err := w.session.Exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	for _, r := range group {
		if err := w.member(ctx, r, len(group) > 1); err != nil {
			w.rollback(ctx)
			return r, err
		}
	}
	if failed := len(group) == 1 && group[0].err != nil; failed {
		w.rollback(ctx)
		return nil, nil
	}
	if err := meta.NewTx(ctx, w).AppendAudit(w.appended...); err != nil {
		w.rollback(ctx)
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if _, err := w.session.Exec(ctx, "COMMIT"); err != nil {
		w.rollback(ctx)
		return nil, fmt.Errorf("commit: %w", err)
	}
	return nil, nil
}

// setDurable says whether COMMIT waits for the disk. Without that a commit still outlives the process, and never comes
// before an earlier one: the log of writes has one order, and the next durable commit makes all of it durable.
func (w *writer) setDurable(ctx context.Context, durable bool) error {
	if w.durable == durable {
		return nil
	}
	pragma := "PRAGMA synchronous=NORMAL"
	if durable {
		pragma = "PRAGMA synchronous=FULL"
	}
	// Not kept prepared: SQLite may carry out a pragma when it prepares it.
	if _, err := w.conn.ExecContext(ctx, pragma); err != nil {
		return fmt.Errorf("%s: %w", pragma, err)
	}
	w.durable = durable
	return nil
}

func (w *writer) rollback(ctx context.Context) {
	// Fails where SQLite has rolled back by itself, which is as good.
	_, _ = w.session.Exec(ctx, "ROLLBACK")
}

// member runs one request. Its own error undoes what it did, by its savepoint or, if it is alone, by the transaction.
// The returned error means that the whole transaction is lost.
func (w *writer) member(ctx context.Context, r *request, savepoint bool) error {
	if r.gone() {
		return nil
	}
	if savepoint {
		if _, err := w.session.Exec(ctx, "SAVEPOINT member"); err != nil {
			return fmt.Errorf("savepoint: %w", err)
		}
	}
	// The client's context ends here: a statement that is cancelled makes SQLite roll back the whole transaction.
	before := len(w.appended)
	r.err = w.call(ctx, r.fn)
	if r.err != nil {
		w.appended = w.appended[:before]
	}
	w.note(r.err)
	if w.broken != nil {
		return w.broken
	}
	if !savepoint {
		return nil
	}
	if r.err != nil {
		if _, err := w.session.Exec(ctx, "ROLLBACK TO member"); err != nil {
			return fmt.Errorf("rollback to savepoint: %w", err)
		}
	}
	if _, err := w.session.Exec(ctx, "RELEASE member"); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	return nil
}

func (w *writer) call(ctx context.Context, fn func(*meta.Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.logger.Error("a write panicked", "panic", p, "stack", string(debug.Stack()))
			err = domain.Unavailable(fmt.Errorf("panic: %v", p))
		}
	}()
	return fn(meta.NewTx(ctx, w).Gathering(&w.appended))
}

// Exec implements meta.Querier.
func (w *writer) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	result, err := w.session.Exec(ctx, query, args...)
	w.note(err)
	return result, err
}

// Query implements meta.Querier.
func (w *writer) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	rows, err := w.session.Query(ctx, query, args...)
	w.note(err)
	return rows, err
}

// note remembers errors after which SQLite may have rolled back the transaction.
func (w *writer) note(err error) {
	if err == nil || w.broken != nil {
		return
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CORRUPT:
		w.broken = err
	}
}
