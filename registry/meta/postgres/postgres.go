// Package postgres is the engine of meta for several replicas: they share one PostgreSQL database, and know nothing of
// each other beside.
//
// Writes run READ COMMITTED. The first statement of a transaction takes advisory locks on the organization and the
// repository that it is about, so every later statement sees all that was committed before. The locks belong to the
// transaction, never to a session: what stands between the registry and the database may pool connections.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// Limits of one replica.
const (
	// readConnections and writeConnections are kept apart, so that pulls do not wait behind pushes that wait for a lock.
	readConnections  = 12
	writeConnections = 20
	// connectTimeout bounds the attempt to reach the database, unless the DSN sets connect_timeout.
	connectTimeout = 5 * time.Second
	// connectionLifetime lets a replica find its way to another server of the same name.
	connectionLifetime = 30 * time.Minute
	connectionIdle     = 5 * time.Minute
	// patience bounds how long a request waits for a connection and for locks, before it is answered 503.
	patience = 10 * time.Second
	// abandonedAfter is how long the server keeps the locks of a replica that has stopped in the middle of a transaction,
	// or cannot be reached any more.
	abandonedAfter = 30 * time.Second
	// transactionLimit bounds a transaction, against a server that does not answer any more.
	transactionLimit = 5 * time.Minute
)

var errClosed = errors.New("the database is closed")

// Store is a database. It is safe for concurrent use, by several processes too.
type Store struct {
	reads, writes *sql.DB
	logger        *slog.Logger
	closed        atomic.Bool
	indexed       indexed

	abandonedAfter time.Duration
	markEvery      int64
}

var _ meta.Store = (*Store)(nil)

// Open connects to the database that a DSN names ("postgres://…", or keywords and values), and brings its schema up to
// date: of several replicas that start together one does it, and the others wait.
func Open(ctx context.Context, dsn string, logger *slog.Logger) (*Store, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err // it hides the password
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	s := &Store{reads: connect(config, readConnections), writes: connect(config, writeConnections), logger: logger, abandonedAfter: abandonedAfter, markEvery: markEvery}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("database %s on %s: %w", config.Database, config.Host, err)
	}
	return s, nil
}

func connect(config *pgx.ConnConfig, connections int) *sql.DB {
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(checkSettings))
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxLifetime(connectionLifetime)
	db.SetConnMaxIdleTime(connectionIdle)
	return db
}

// checkSettings refuses a connection on which an acknowledged push could be lost, or names be changed.
func checkSettings(ctx context.Context, conn *pgx.Conn) error {
	var commit, encoding string
	if err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('server_encoding')`).Scan(&commit, &encoding); err != nil {
		return err
	}
	if commit == "off" {
		return errors.New("synchronous_commit is off: a crash of the database would lose pushes that were acknowledged; set it to on for this role or database")
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the encoding of the database is %s; create it with ENCODING 'UTF8'", encoding)
	}
	return nil
}

func (s *Store) prepare(ctx context.Context) error {
	if err := s.writes.PingContext(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, s.writes, migrations); err != nil {
		return fmt.Errorf("bringing the schema up to date: %w", err)
	}
	return nil
}

// Read runs fn on a snapshot.
func (s *Store) Read(ctx context.Context, fn func(*meta.Reader) error) error {
	return s.read(ctx, func(ctx context.Context, tx *sql.Tx) error { return fn(meta.NewConcurrentReader(ctx, querier{tx})) })
}

func (s *Store) read(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	if s.closed.Load() {
		return domain.Unavailable(errClosed)
	}
	limited, cancel := context.WithTimeout(ctx, transactionLimit)
	defer cancel()
	var tx *sql.Tx
	conn, err := live(ctx, s.reads, func(conn *sql.Conn) (err error) {
		tx, err = conn.BeginTx(limited, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		return err
	})
	if err != nil {
		return unavailable(ctx, fmt.Errorf("begin: %w", err))
	}
	defer func() { _ = conn.Close() }()  // gives it back
	defer func() { _ = tx.Rollback() }() // there is nothing to commit
	return clientError(ctx, fn(limited, tx))
}

// live takes a connection of the pool and runs the first statement on it. A connection that was lost while it lay in the
// pool, because the database was started anew, is passed over, so first may run several times.
func live(ctx context.Context, db *sql.DB, first func(*sql.Conn) error) (conn *sql.Conn, err error) {
	for range db.Stats().MaxOpenConnections + 1 {
		if conn, err = connection(ctx, db); err != nil {
			return nil, err
		}
		if err = first(conn); err == nil {
			return conn, nil
		}
		_ = conn.Close() // gives it back, or up
		if !lost(err) {
			break
		}
	}
	return nil, err
}

// connection takes a connection of the pool.
func connection(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := db.Conn(limited)
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("connecting: %w", err))
	}
	return conn, nil
}

// Close waits for running reads and writes and closes the connections.
func (s *Store) Close() error {
	s.closed.Store(true)
	return errors.Join(s.reads.Close(), s.writes.Close())
}

// querier runs statements in a transaction. The driver keeps them prepared on each connection.
type querier struct{ tx *sql.Tx }

// Exec implements meta.Querier.
func (q querier) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return q.tx.ExecContext(ctx, query, args...)
}

// largeSet is from how many arguments on a query is planned each time, for them. The plan that is kept otherwise may have
// been made when there was little, and go through everything: an index of 26,000 manifests took minutes to push.
const largeSet = 64

// Query implements meta.Querier.
func (q querier) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if len(args) >= largeSet {
		args = slices.Insert(args, 0, any(pgx.QueryExecModeCacheDescribe))
	}
	return q.tx.QueryContext(ctx, query, args...)
}
