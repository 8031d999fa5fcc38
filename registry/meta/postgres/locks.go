package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/meta"
)

// class is the first key of an advisory lock; the second is an id of that class. Replicas of different versions agree on
// the numbers. Locks are taken in this order.
type class int32

const (
	// classJob is of meta.Job.
	classJob class = 1
	// classNames, with id 0, is for transactions about an organization that does not exist: one of them at a time.
	classNames        class = 2
	classOrganization class = 3
	classRepository   class = 4
	// classSequencer, with id 0, is for giving entries of the audit log their index.
	classSequencer class = 5
	// classLog, with id 0, is shared by all that may append to the audit log, and taken for giving it another origin.
	classLog class = 6
)

// advisoryLock is an advisory lock of a transaction.
type advisoryLock struct {
	class     class
	id        int64
	exclusive bool
}

// How long a statement waits for a lock. An exclusive lock is given up early and tried again, since all that come behind
// wait with it. Each time it is waited for twice as long: on a busy machine its turn would never come else.
const (
	exclusiveTimeout     = 200 * time.Millisecond
	longExclusiveTimeout = 3200 * time.Millisecond
	sharedTimeout        = 5 * time.Second
)

// exclusiveTimeoutOf is how long an exclusive lock is waited for after so many attempts in vain.
func exclusiveTimeoutOf(attempts int) time.Duration {
	return min(exclusiveTimeout<<min(attempts, 8), longExclusiveTimeout)
}

// takeLocks takes locks in their order, by one statement: what a statement reads beside taking a lock may be older than
// the lock. From then on the server ends the transaction if nothing comes any more.
func (s *Store) takeLocks(ctx context.Context, tx *sql.Tx, locks []advisoryLock, attempts int) error {
	timeout := sharedTimeout
	var b strings.Builder
	b.WriteString(`SELECT set_config('lock_timeout', $1, TRUE), set_config('idle_in_transaction_session_timeout', $2, TRUE)`)
	args := []any{nil, milliseconds(s.abandonedAfter)}
	for _, l := range locks {
		args = append(args, int32(l.class), l.id)
		function := "pg_advisory_xact_lock_shared"
		if l.exclusive {
			function, timeout = "pg_advisory_xact_lock", exclusiveTimeoutOf(attempts)
		}
		fmt.Fprintf(&b, ", %s($%d::int, $%d::bigint::int)", function, len(args)-1, len(args))
	}
	b.WriteString(`, pg_current_xact_id()`) // see indexed
	args[0] = milliseconds(timeout)
	if _, err := tx.ExecContext(ctx, b.String(), args...); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	return nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// tryJob takes a job, or returns meta.ErrBusy.
func tryJob(ctx context.Context, tx *sql.Tx, job meta.Job) error {
	var taken bool
	if err := tx.QueryRowContext(ctx, `SELECT pg_try_advisory_xact_lock($1::int, $2::int)`, int32(classJob), int32(job)).Scan(&taken); err != nil {
		return fmt.Errorf("taking a job: %w", err)
	}
	if !taken {
		return meta.ErrBusy
	}
	return nil
}

// ids are what the names of a scope mean, 0 where there is nothing of that name.
type ids struct{ organization, other, repository int64 }

type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// lookUp finds what the names of a scope mean, and beside it, at no cost, the state of the log.
func lookUp(ctx context.Context, db rowQuerier, scope meta.Scope) (found ids, log meta.LogState, err error) {
	err = db.QueryRowContext(ctx, `SELECT COALESCE((SELECT id FROM organizations WHERE name = $1), 0), COALESCE((SELECT id FROM organizations WHERE name = $2), 0), COALESCE((SELECT id FROM repositories WHERE name = $3), 0), `+meta.LogStateQuery,
		scope.Organization, scope.OtherOrganization, scope.Organization+"/"+scope.Repository).Scan(&found.organization, &found.other, &found.repository, &log.Origin, &log.ReadOnly)
	if err != nil {
		err = fmt.Errorf("looking up %s: %w", scope.Organization, err)
	}
	return found, log, err
}

// locks are what a scope needs. Where a name means nothing yet, fn may create it, and whoever waits meanwhile must see
// what fn made: for a repository, the whole organization is locked, and for an organization, the creation of any.
func (found ids) locks(scope meta.Scope) (list []advisoryLock) {
	log := advisoryLock{class: classLog, exclusive: scope.LogExclusive}
	if scope.Organization == "" {
		return []advisoryLock{log}
	}
	exclusive := scope.OrganizationExclusive || scope.Repository != "" && found.repository == 0
	if found.organization == 0 || scope.OtherOrganization != "" && found.other == 0 {
		list = append(list, advisoryLock{class: classNames, exclusive: true})
	}
	organizations := []int64{found.organization, found.other}
	slices.Sort(organizations)
	for _, id := range slices.Compact(organizations) {
		if id != 0 {
			list = append(list, advisoryLock{class: classOrganization, id: id, exclusive: exclusive})
		}
	}
	if scope.Repository != "" && found.repository != 0 {
		list = append(list, advisoryLock{class: classRepository, id: found.repository, exclusive: scope.RepositoryExclusive})
	}
	return append(list, log)
}
