package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidelock/tidelock/registry/domain"
)

// SQLSTATE codes.
const (
	foreignKeyViolation    = "23503"
	uniqueViolation        = "23505"
	undefinedTable         = "42P01"
	serializationFailure   = "40001"
	deadlockDetected       = "40P01"
	lockNotAvailable       = "55P03"
	characterNotStorable   = "22021"
	escapeNotStorable      = "22P05"
	adminShutdown          = "57P01"
	crashShutdown          = "57P02"
	maxConstraintConflicts = 10
)

// errMoved means that between the look-up of a name and the lock on its id the name came to mean something else.
var errMoved = errors.New("an organization or repository was created or deleted meanwhile")

func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// again reports whether a transaction that failed before its COMMIT may succeed when it runs once more, and whether it
// ran into what another transaction has stored meanwhile: then it will find that.
func again(err error) (retry, constraint bool) {
	switch sqlState(err) {
	case serializationFailure, deadlockDetected, lockNotAvailable:
		return true, false
	case uniqueViolation, foreignKeyViolation:
		return true, true
	}
	// A connection that was dead before anything was sent.
	return errors.Is(err, errMoved) || errors.Is(err, driver.ErrBadConn), false
}

// lost reports whether the connection is gone that an error came from.
func lost(err error) bool {
	switch sqlState(err) {
	case adminShutdown, crashShutdown:
		return true
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, driver.ErrBadConn)
}

// clientError makes of an error what a client may see: its own cancellation, an error of the domain, or UNAVAILABLE.
func clientError(ctx context.Context, err error) error {
	switch code := sqlState(err); {
	case err == nil:
		return nil
	case lost(err):
		return unavailable(ctx, err)
	case code == characterNotStorable || code == escapeNotStorable:
		return domain.Errorf(domain.CodeInvalid, "a text has characters that cannot be stored; NUL is one: %w", err)
	case code != "":
		return unavailable(ctx, err)
	}
	return err
}

// unavailable is the answer if the database does not do what it should, unless the client has left.
func unavailable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return domain.Unavailable(err)
}
