package core

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// ErrSyncOver is the cause of the *domain.Error that a sync gets which is not the mirror's any more: it was cancelled, the
// mirror was changed, suspended or deleted, or another replica took it over. What it wants to write does not count.
var ErrSyncOver = errors.New("the sync is over")

// MirrorClaim is a sync that this replica carries out.
type MirrorClaim struct {
	Mirror  domain.Mirror
	Secrets domain.MirrorSecrets
	// Sync has what the sync has done before, if it was taken over: its progress is that of the repositories that are done.
	Sync domain.MirrorSync
	// Epoch is the sync's, which Caller carries: what others did meanwhile ends it.
	Epoch int64
	// Caller is for all content that the sync writes.
	Caller domain.Caller
	// Fresh is true for a sync that begins with this claim, false for one that another replica, or process, let go.
	Fresh bool
	// Discovered is true where DiscoverMirrorRepositories was done for this sync already.
	Discovered bool
}

// MirrorTag is a live tag of a mirrored repository.
type MirrorTag struct {
	Name   string
	Digest digest.Digest
	// Mirrored is true where the mirror made the tag, or moved it last. Only such tags may be pruned.
	Mirrored bool
}

// ClaimMirrorSync takes a mirror that is due, was asked to sync, or whose replica let its sync go: it was not heard of for
// Options.LeaseTerm. Without a claim there is nothing to do; look again after wait at the latest, or when WakeMirrors
// says so.
func (c *Core) ClaimMirrorSync(ctx context.Context, holder string) (claim *MirrorClaim, wait time.Duration, err error) {
	return nil, time.Second, nil
}

// LeaveMirrorSync gives a sync back that is not done, so that another replica, or this one, takes it over at once.
func (c *Core) LeaveMirrorSync(ctx context.Context, claim *MirrorClaim) error {
	return errNoMirrors
}

// BeatMirrorSync keeps a sync from being taken over and stores how far it has come: all of it, what the claim began with
// included. It is to be called at least each fifth of a second: it writes only where there is something to write. False
// means that the sync is over, and must stop at once.
func (c *Core) BeatMirrorSync(ctx context.Context, claim *MirrorClaim, p domain.MirrorProgress) (goOn bool, err error) {
	return false, errNoMirrors
}

// DiscoverMirrorRepositories records the names of all repositories that the upstream has and the filters select. Others
// that were known are skipped from now on, until they are back.
func (c *Core) DiscoverMirrorRepositories(ctx context.Context, claim *MirrorClaim, names []string) error {
	return errNoMirrors
}

// PendingMirrorRepositories lists the repositories that are not done yet in this sync by name, those behind after.
func (c *Core) PendingMirrorRepositories(ctx context.Context, claim *MirrorClaim, after string, limit int) ([]string, error) {
	return nil, errNoMirrors
}

// FinishMirrorRepository records that a repository is done: its Name, State, Message and progress.
func (c *Core) FinishMirrorRepository(ctx context.Context, claim *MirrorClaim, r domain.MirrorRepository, failures []domain.MirrorFailure, conflicts []domain.MirrorConflict) error {
	return errNoMirrors
}

// FinishMirrorSync ends a sync and schedules the next one: sooner, though later each time, after one that failed. Where a
// repository failed or is not done, and where conflicts are to fail it, the sync failed whatever the state says.
func (c *Core) FinishMirrorSync(ctx context.Context, claim *MirrorClaim, state domain.SyncState, message string, failures ...domain.MirrorFailure) error {
	return errNoMirrors
}

// WakeMirrors tells that something was asked for or changed on this replica: look for claims, and beat those that run.
func (c *Core) WakeMirrors() <-chan struct{} { return c.wakeMirrors }

// MirrorTags lists the live tags of a mirrored repository by name, those behind after; none if there is no such repository.
func (c *Core) MirrorTags(ctx context.Context, claim *MirrorClaim, path, after string, limit int) ([]MirrorTag, error) {
	return nil, errNoMirrors
}
