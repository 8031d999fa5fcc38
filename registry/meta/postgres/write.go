package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// Write runs fn in a transaction of its own, once more if it met another transaction.
func (s *Store) Write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	return s.retry(ctx, func(attempts int) error { return s.write(ctx, scope, fn, attempts) })
}

// retry runs a transaction until it neither loses a lock nor runs into another one, as long as patience lasts. The
// transaction is told how many attempts were in vain.
func (s *Store) retry(ctx context.Context, transaction func(attempts int) error) error {
	const pause = 20 * time.Millisecond
	until := time.Now().Add(patience)
	for attempts, conflicts := 0, 0; ; attempts++ {
		if s.closed.Load() {
			return domain.Unavailable(errClosed)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := transaction(attempts)
		retry, constraint := again(err)
		if constraint {
			conflicts++
		}
		if !retry || conflicts > maxConstraintConflicts || time.Now().After(until) {
			return clientError(ctx, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(pause)): //nolint:gosec // it spreads the replicas
		}
	}
}

func (s *Store) write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error, attempts int) error {
	var found ids
	if scope.Organization != "" {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		conn, err := live(limited, s.writes, func(conn *sql.Conn) (err error) {
			found, _, err = lookUp(limited, conn, scope)
			return err
		})
		if err != nil {
			return unavailable(ctx, err)
		}
		_ = conn.Close() // gives it back
	}
	return s.transaction(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if scope.Job != 0 {
			if err := tryJob(ctx, tx, scope.Job); err != nil {
				return err
			}
		}
		if err := s.takeLocks(ctx, tx, found.locks(scope), attempts); err != nil {
			return err
		}
		if scope.Organization == "" {
			return s.call(meta.NewConcurrentTx(ctx, querier{tx}), fn)
		}
		now, log, err := lookUp(ctx, tx, scope)
		if err != nil {
			return err
		}
		if now != found {
			return errMoved
		}
		return s.call(meta.NewConcurrentTx(ctx, querier{tx}).WithLogState(log), fn)
	})
}

// transaction runs fn and commits. Its context, which fn gets, does not end when the client leaves: a statement that is
// cancelled costs its connection.
func (s *Store) transaction(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	client := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transactionLimit)
	defer cancel()
	var tx *sql.Tx
	conn, err := live(client, s.writes, func(conn *sql.Conn) (err error) {
		tx, err = conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		return err
	})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = conn.Close() }() // gives it back
	if err := fn(ctx, tx); err != nil {
		_ = tx.Rollback() // fails where the connection is lost, which is as good
		return err
	}
	err = tx.Commit()
	if err != nil && sqlState(err) == "" {
		// It may have happened, or not, so it is not tried again.
		return domain.Unavailable(errors.New("commit: " + err.Error()))
	}
	return err
}

// call runs fn, which may panic.
func (s *Store) call(tx *meta.Tx, fn func(*meta.Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.logger.Error("a write panicked", "panic", p, "stack", string(debug.Stack()))
			err = domain.Unavailable(fmt.Errorf("panic: %v", p))
		}
	}()
	return fn(tx)
}
