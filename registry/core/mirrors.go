package core

import (
	"context"
	"errors"

	"github.com/tidelock/tidelock/registry/domain"
)

// ManagedMirror is a mirror as a Kubernetes object declares it.
type ManagedMirror struct {
	// Cluster is the UID of the cluster's kube-system namespace.
	Cluster string
	Manager domain.ManagedBy
	// Applied names who applied the spec, if it is about the manager's generation.
	Applied domain.Applied
	// Rewound marks an older generation that an uncached read of the API server confirmed (a restored etcd).
	Rewound      bool
	Organization string
	Spec         domain.MirrorSpec
	Secrets      domain.MirrorSecrets
	Claim        Claim
	// RequestedAt is the value of the object's annotation that asks for a sync; another value than before asks for one.
	RequestedAt string
}

// MirrorRepositoriesQuery selects repositories of a mirror, ordered by name.
type MirrorRepositoriesQuery struct {
	// State selects the repositories in one state; empty selects all.
	State domain.SyncState
	// Pending selects those that were not synced yet, whose state is empty.
	Pending       bool
	Offset, Limit int
}

var errNoMirrors = domain.Unavailable(errors.New("mirrors are not there yet"))

// CreateMirror makes a mirror of an organization that exists; CONFLICT if it has one.
func (c *Core) CreateMirror(ctx context.Context, caller domain.Caller, organization string, spec domain.MirrorSpec, secrets domain.MirrorSecrets) (created domain.Mirror, err error) {
	return created, errNoMirrors
}

// UpdateMirror replaces a mirror's spec and secrets. Secrets that are domain.Redacted stay as they are stored. What a
// Kubernetes object manages is refused: MANAGED_BY_RESOURCE.
func (c *Core) UpdateMirror(ctx context.Context, caller domain.Caller, organization string, spec domain.MirrorSpec, secrets domain.MirrorSecrets) (updated domain.Mirror, err error) {
	return updated, errNoMirrors
}

// DeleteMirror removes a mirror. The organization's content stays and can be written.
func (c *Core) DeleteMirror(ctx context.Context, caller domain.Caller, organization string) error {
	return errNoMirrors
}

// AdoptMirror turns an orphaned mirror into one of the REST API.
func (c *Core) AdoptMirror(ctx context.Context, caller domain.Caller, organization string) error {
	return errNoMirrors
}

// Mirror finds the mirror of an organization; NOT_FOUND if it has none.
func (c *Core) Mirror(ctx context.Context, organization string) (m domain.Mirror, err error) {
	return m, errNoMirrors
}

// RequestMirrorSync asks for a sync now. CONFLICT while one runs, was asked for, or cannot be because the mirror is
// suspended.
func (c *Core) RequestMirrorSync(ctx context.Context, caller domain.Caller, organization string) error {
	return errNoMirrors
}

// CancelMirrorSync ends the sync that runs, at once, and takes back one that was asked for. The schedule stays as it is.
// It does nothing where there is neither.
func (c *Core) CancelMirrorSync(ctx context.Context, caller domain.Caller, organization string) error {
	return errNoMirrors
}

// MirrorRepositories lists a page of a mirror's repositories, and counts all that the query selects.
func (c *Core) MirrorRepositories(ctx context.Context, organization string, q MirrorRepositoriesQuery) (list []domain.MirrorRepository, total int64, err error) {
	return nil, 0, errNoMirrors
}

// PutManagedMirror makes the registry's mirror what a Kubernetes object declares. It is idempotent and fenced as
// PutManagedPolicy is. CONFLICT, naming the other, if the organization has a mirror that the object does not manage.
func (c *Core) PutManagedMirror(ctx context.Context, caller domain.Caller, m ManagedMirror) (put domain.Mirror, err error) {
	return put, errNoMirrors
}

// ManagedMirror finds the mirror of a Kubernetes object; NOT_FOUND if it has none.
func (c *Core) ManagedMirror(ctx context.Context, kind, namespace, name string) (m domain.Mirror, err error) {
	return m, errNoMirrors
}

// DeleteManagedMirror removes the mirror of a Kubernetes object at once. Content stays and can be written. It does
// nothing for another UID than the mirror's.
func (c *Core) DeleteManagedMirror(ctx context.Context, caller domain.Caller, cluster string, m domain.ManagedBy) error {
	return errNoMirrors
}
