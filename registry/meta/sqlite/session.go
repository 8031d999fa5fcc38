package sqlite

import (
	"context"
	"database/sql"
)

// session is one connection that keeps its statements prepared. It is used by one goroutine at a time.
type session struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
}

func newSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, statements: map[string]*sql.Stmt{}}, nil
}

// Exec implements meta.Querier.
func (s *session) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	statement, err := s.prepared(query) //nolint:sqlclosecheck // it stays prepared until close
	if err != nil {
		return nil, err
	}
	return statement.ExecContext(ctx, args...)
}

// Query implements meta.Querier.
func (s *session) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	statement, err := s.prepared(query) //nolint:sqlclosecheck // it stays prepared until close
	if err != nil {
		return nil, err
	}
	return statement.QueryContext(ctx, args...)
}

func (s *session) prepared(query string) (*sql.Stmt, error) {
	if statement, ok := s.statements[query]; ok {
		return statement, nil
	}
	// Not under a request's context: the statement outlives it.
	statement, err := s.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	s.statements[query] = statement
	return statement, nil
}

func (s *session) close() {
	for _, statement := range s.statements {
		_ = statement.Close()
	}
	_ = s.conn.Close()
}
