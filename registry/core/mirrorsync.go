package core

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// ErrSyncOver is the cause of the *domain.Error, CONFLICT, that a sync gets which is not the mirror's any more: it was
// cancelled, the mirror was changed, suspended or deleted, or another replica took it over. What it wants to write does
// not count.
var ErrSyncOver = errors.New("the sync is over")

func syncOver(organization string) error {
	return &domain.Error{
		Code: domain.CodeConflict, Cause: ErrSyncOver,
		Message: fmt.Sprintf("this sync of organization %s is over: it was cancelled, another replica took it over, or the mirror was changed", organization),
	}
}

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

	// beaten is when the last beat was stored, and with which progress.
	beaten struct {
		sync.Mutex
		at       time.Time
		progress domain.MirrorProgress
	}
}

// MirrorTag is a live tag of a mirrored repository.
type MirrorTag struct {
	Name   string
	Digest digest.Digest
	// Mirrored is true where the mirror made the tag, or moved it last. Only such tags may be pruned.
	Mirrored bool
}

// syncs are what a replica knows of the syncs of mirrors.
type syncs struct {
	mu sync.Mutex
	// seen are the leases of syncs that run, and since when each is the same.
	seen map[int64]seenLease
	// own are the epochs of the syncs that this process has.
	own map[int64]int64
}

type seenLease struct {
	meta.SyncLease
	since time.Time
}

func newSyncs() *syncs { return &syncs{seen: map[int64]seenLease{}, own: map[int64]int64{}} }

// abandoned reports whether nobody carries out a sync that runs: its lease was given back, it was the same for a term by
// this replica's clock, or it is of a process that is gone, which is known where there is only one.
func (s *syncs) abandoned(id int64, lease meta.SyncLease, term time.Duration, alone bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lease.Holder == "" || alone && s.own[id] != lease.Epoch {
		return true
	}
	last, known := s.seen[id]
	if !known || last.SyncLease != lease {
		s.seen[id] = seenLease{lease, time.Now()}
		return false
	}
	return time.Since(last.since) >= term
}

// forget drops what is known of syncs that are no turn any more.
func (s *syncs) forget(turns []meta.MirrorTurn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.seen, func(id int64, _ seenLease) bool {
		return !slices.ContainsFunc(turns, func(t meta.MirrorTurn) bool { return t.ID == id && t.Running })
	})
}

// take notes that this process has a sync, leave that it has not any more.
func (s *syncs) take(id, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, id)
	s.own[id] = epoch
}

func (s *syncs) leave(id, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own[id] == epoch {
		delete(s.own, id)
	}
}

// How long to wait for work at most: other replicas tell nothing but by the database.
const (
	mirrorPoll      = time.Second
	mirrorPollAlone = time.Minute
)

// ClaimMirrorSync takes a mirror that is due, was asked to sync, or whose replica let its sync go: it was not heard of for
// Options.LeaseTerm. Without a claim there is nothing to do; look again after wait at the latest, or when WakeMirrors
// says so.
func (c *Core) ClaimMirrorSync(ctx context.Context, holder string) (claim *MirrorClaim, wait time.Duration, err error) {
	if err := c.checkWritable(ctx); err != nil {
		// An operator that has yet to come, or whose log must be explained.
		return nil, mirrorPoll, ctx.Err()
	}
	var turns []meta.MirrorTurn
	var next time.Time
	now := c.now()
	err = c.read(ctx, func(r *meta.Reader) (err error) {
		if turns, err = r.MirrorTurns(now); err == nil {
			next, err = r.NextMirrorSync(now)
		}
		return err
	})
	if err != nil {
		return nil, mirrorPoll, err
	}
	c.syncs.forget(turns)
	wait = mirrorPollAlone
	if c.options.Replicas {
		wait = mirrorPoll
	}
	if !next.IsZero() {
		wait = min(wait, next.Sub(now))
	}
	for _, turn := range turns {
		if turn.Running && !c.syncs.abandoned(turn.ID, turn.Lease, c.options.LeaseTerm, !c.options.Replicas) {
			wait = min(wait, c.options.LeaseTerm/3)
			continue
		}
		claim, err := c.claimSync(ctx, holder, turn)
		if claim != nil || err != nil {
			return claim, 0, err
		}
	}
	return nil, max(wait, 0), nil
}

// claimSync takes a mirror's turn, unless somebody else did, or it is none any more.
func (c *Core) claimSync(ctx context.Context, holder string, turn meta.MirrorTurn) (claim *MirrorClaim, err error) {
	err = c.writeAlways(ctx, domain.System, exclusive(turn.Organization), unlessReadOnly(func(ch *change) error {
		claim = nil
		m, err := ch.MirrorByID(turn.ID)
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		// Discovered is no part of what makes a turn.
		lease := m.Lease
		lease.Discovered = turn.Lease.Discovered
		if err != nil || lease != turn.Lease || running(m.Mirror) != turn.Running {
			return err
		}
		lease = meta.SyncLease{Epoch: m.Lease.Epoch + 1, Holder: holder, Beat: m.Lease.Beat + 1}
		ch.mirror = m.UUID
		ch.caller = domain.Caller{Kind: domain.CallerMirror, Name: m.Organization, Account: m.ID, Epoch: lease.Epoch}
		fresh := !turn.Running
		if fresh {
			began, err := ch.beginSync(&m, lease)
			if err != nil || !began {
				return err
			}
		} else {
			if m.Last.MirrorProgress, err = ch.MirrorProgress(m.ID, m.Last.Number); err != nil {
				return err
			}
			if err := ch.TakeMirrorSync(m.ID, lease, m.Last.MirrorProgress); err != nil {
				return err
			}
		}
		sealed, err := ch.MirrorSecrets(m.ID)
		if err != nil {
			return err
		}
		secrets, err := c.openSecrets(m.UUID, sealed)
		if err != nil {
			c.logger.Error("the credentials of a mirror cannot be read", "organization", m.Organization, "error", err)
			return ch.endSync(&m, domain.SyncFailed, "the stored credentials cannot be read: the key that sealed them is gone; give them again", nil)
		}
		claim = &MirrorClaim{Mirror: m.Mirror, Secrets: secrets, Sync: *m.Last, Epoch: lease.Epoch, Caller: ch.caller, Fresh: fresh, Discovered: !fresh && m.Lease.Discovered}
		return nil
	}))
	if err != nil || claim == nil {
		return nil, err
	}
	claim.beaten.at, claim.beaten.progress = time.Now(), claim.Sync.MirrorProgress
	c.syncs.take(turn.ID, claim.Epoch)
	return claim, nil
}

// beginSync begins a sync, unless the mirror is not due any more.
func (ch *change) beginSync(m *meta.Mirror, lease meta.SyncLease) (bool, error) {
	due := !m.NextSync.IsZero() && !m.NextSync.After(ch.now)
	if m.Lost || m.Suspend || !m.Requested && !due {
		return false, nil
	}
	begun := domain.MirrorSync{Number: 1, State: domain.SyncRunning, Trigger: domain.SyncScheduled, StartedAt: ch.now}
	if m.Last != nil {
		begun.Number = m.Last.Number + 1
	}
	if m.Requested {
		begun.Trigger = domain.SyncRequested
	}
	var err error
	if m.NextSync, err = nextSync(m.MirrorSpec, ch.now, rand.Float64); err != nil {
		return false, err
	}
	m.Requested, m.Last = false, &begun
	ch.logSync(audit.KindOrgMirrorStarted, *m, nil)
	return true, ch.BeginMirrorSync(m.ID, begun, lease, m.NextSync)
}

// logSync adds an entry about the mirror's last sync.
func (ch *change) logSync(kind audit.Kind, m meta.Mirror, metadata audit.Metadata) {
	if metadata == nil {
		metadata = audit.Metadata{}
	}
	metadata["sync"], metadata["started_by"] = m.Last.Number, string(m.Last.Trigger)
	ch.logMirror(kind, m.Mirror, metadata)
}

// LeaveMirrorSync gives a sync back that is not done, so that another replica, or this one, takes it over at once.
func (c *Core) LeaveMirrorSync(ctx context.Context, claim *MirrorClaim) error {
	err := c.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.LeaveMirrorSync(claim.Mirror.ID, claim.Epoch) })
	if err == nil {
		c.syncs.leave(claim.Mirror.ID, claim.Epoch)
	}
	return forClient(err)
}

// progressPause is how long what a sync has done is not stored.
const progressPause = time.Second

// BeatMirrorSync keeps a sync from being taken over and stores how far it has come: all of it, what the claim began with
// included. It is to be called a few times a second, since it is how a sync learns that it was cancelled; it writes only
// where there is something to write. False means that the sync is over, and must stop at once.
func (c *Core) BeatMirrorSync(ctx context.Context, claim *MirrorClaim, p domain.MirrorProgress) (goOn bool, err error) {
	last := &claim.beaten
	last.Lock()
	defer last.Unlock()
	if since := time.Since(last.at); since < c.options.LeaseTerm/6 && (since < progressPause || p == last.progress) {
		err = c.read(ctx, func(r *meta.Reader) error {
			_, err := checkEpoch(r, claim.Caller)
			return err
		})
		if errors.Is(err, ErrSyncOver) {
			c.syncs.leave(claim.Mirror.ID, claim.Epoch)
			return false, nil
		}
		return err == nil, err
	}
	asked := time.Now()
	err = c.store.Write(ctx, meta.Scope{Volatile: true}, func(tx *meta.Tx) (err error) {
		goOn, err = tx.BeatMirrorSync(claim.Mirror.ID, claim.Epoch, p)
		return err
	})
	if err != nil {
		return false, forClient(err)
	}
	last.at, last.progress = asked, p
	if !goOn {
		c.syncs.leave(claim.Mirror.ID, claim.Epoch)
	}
	return goOn, nil
}

// ofSync runs a change of what a sync knows. It fails with ErrSyncOver if the sync is over.
func (c *Core) ofSync(ctx context.Context, claim *MirrorClaim, scope meta.Scope, fn func(*change) error) error {
	return c.writeAlways(ctx, claim.Caller, scope, fn)
}

// discoveryBatch is how many names one transaction records.
const discoveryBatch = 1000

// vanished says why a repository is skipped.
const vanished = "the upstream has it no more, or the filters do not select it"

// DiscoverMirrorRepositories records the names of all repositories that the upstream has and the filters select. Others
// that were known are skipped from now on, until they are back.
func (c *Core) DiscoverMirrorRepositories(ctx context.Context, claim *MirrorClaim, names []string) error {
	id, number := claim.Mirror.ID, claim.Sync.Number
	scope := meta.Scope{Organization: claim.Mirror.Organization, Background: true}
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	for batch := range slices.Chunk(names, discoveryBatch) {
		if err := c.ofSync(ctx, claim, scope, func(ch *change) error { return ch.AddMirrorRepositories(id, number, batch, ch.now) }); err != nil {
			return err
		}
	}
	return c.ofSync(ctx, claim, scope, func(ch *change) error {
		if err := ch.SkipMirrorRepositories(id, number, vanished); err != nil {
			return err
		}
		return ch.SetMirrorDiscovered(id)
	})
}

// PendingMirrorRepositories lists the repositories that are not done yet in this sync by name, those behind after.
func (c *Core) PendingMirrorRepositories(ctx context.Context, claim *MirrorClaim, after string, limit int) (names []string, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		names, err = r.PendingMirrorRepositories(claim.Mirror.ID, claim.Sync.Number, after, limit)
		return err
	})
	return names, err
}

// FinishMirrorRepository records that a repository is done: its Name, State, Message and progress. A state that is none, or
// succeeded although a tag failed, is failed. Doing it twice in a sync changes nothing.
func (c *Core) FinishMirrorRepository(ctx context.Context, claim *MirrorClaim, r domain.MirrorRepository, failures []domain.MirrorFailure, conflicts []domain.MirrorConflict) error {
	if r.State != domain.SyncSkipped && (r.State != domain.SyncSucceeded || r.Tags.Failed > 0) {
		r.State = domain.SyncFailed
	}
	r.Message = claim.scrub(r.Message)
	id := claim.Mirror.ID
	return c.ofSync(ctx, claim, meta.Scope{Organization: claim.Mirror.Organization}, func(ch *change) error {
		r := r
		r.SyncedAt = ch.now
		done, err := ch.FinishMirrorRepository(id, claim.Sync.Number, r)
		if err != nil || !done || len(failures)+len(conflicts) == 0 {
			return err
		}
		failed, conflicting, err := ch.MirrorFindings(id)
		if err != nil {
			return err
		}
		for _, f := range failures[:min(len(failures), domain.MaxMirrorFailures-min(len(failed), domain.MaxMirrorFailures))] {
			f.Reason = claim.scrub(f.Reason)
			failed = append(failed, f)
		}
		conflicting = append(conflicting, conflicts[:min(len(conflicts), domain.MaxMirrorFailures-min(len(conflicting), domain.MaxMirrorFailures))]...)
		return ch.SetMirrorFindings(id, failed, conflicting)
	})
}

// scrub takes the secrets out of a text that came from elsewhere, such as an upstream's error.
func (claim *MirrorClaim) scrub(text string) string {
	s := claim.Secrets
	for _, secret := range []string{s.Password, s.Token, s.ProxyPassword} {
		if secret == "" {
			continue
		}
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			text = strings.ReplaceAll(text, form, domain.Redacted)
		}
	}
	return text
}

// FinishMirrorSync ends a sync and schedules the next one: sooner, though later each time, after one that failed. Where a
// repository failed or is not done, and where conflicts are to fail it, the sync failed whatever the state says.
func (c *Core) FinishMirrorSync(ctx context.Context, claim *MirrorClaim, state domain.SyncState, message string, failures ...domain.MirrorFailure) error {
	failures = slices.Clone(failures)
	for i := range failures {
		failures[i].Reason = claim.scrub(failures[i].Reason)
	}
	err := c.ofSync(ctx, claim, exclusive(claim.Mirror.Organization), func(ch *change) error {
		m, err := ch.MirrorByID(claim.Mirror.ID)
		if err != nil {
			return err
		}
		return ch.endSync(&m, state, claim.scrub(message), failures)
	})
	if err == nil || errors.Is(err, ErrSyncOver) {
		c.syncs.leave(claim.Mirror.ID, claim.Epoch)
	}
	return err
}

// endSync ends the sync that runs, as the one who carries it out says.
func (ch *change) endSync(m *meta.Mirror, state domain.SyncState, message string, failures []domain.MirrorFailure) error {
	var err error
	last := m.Last
	if last.MirrorProgress, err = ch.MirrorProgress(m.ID, last.Number); err != nil {
		return err
	}
	if last.Failures, last.Conflicts, err = ch.MirrorFindings(m.ID); err != nil {
		return err
	}
	last.Failures = append(last.Failures, failures...)
	last.Failures = last.Failures[:min(len(last.Failures), domain.MaxMirrorFailures)]
	if state == domain.SyncSucceeded {
		if missing := shortfall(*m); missing != "" {
			state, message = domain.SyncFailed, missing
		}
	}
	last.State, last.Message, last.FinishedAt = state, message, ch.now
	if err := ch.EndMirrorSync(m.ID, *last); err != nil {
		return err
	}
	kind := audit.KindOrgMirrorCancelled
	switch state {
	case domain.SyncSucceeded:
		kind, m.Failures, m.LastSuccess = audit.KindOrgMirrorSuccess, 0, ch.now
	case domain.SyncFailed:
		kind, m.Failures = audit.KindOrgMirrorFailed, m.Failures+1
		if again := ch.now.Add(backOff(m.MirrorSpec, m.Failures)); !m.NextSync.After(ch.now) || again.Before(m.NextSync) {
			m.NextSync = again
		}
	default:
	}
	ch.wakeMirrors = true
	ch.logSync(kind, *m, syncMetadata(*last))
	return ch.SetMirrorResult(m.ID, m.Failures, m.LastSuccess, m.NextSync)
}

// shortfall says why a sync cannot have succeeded, empty if it can.
func shortfall(m meta.Mirror) string {
	repos, tags := m.Last.Repositories, m.Last.Tags
	switch pending := repos.Discovered - repos.Done(); {
	case !m.Lease.Discovered:
		return "the repositories of the upstream were not listed"
	case len(m.Last.Failures) > 0 || repos.Failed > 0:
		return fmt.Sprintf("%d of %d repositories failed, and %d tags", repos.Failed, repos.Discovered, tags.Failed)
	case pending > 0:
		return fmt.Sprintf("%d of %d repositories were not synced", pending, repos.Discovered)
	case tags.Conflicts > 0 && m.OnConflict == domain.ConflictFail:
		return fmt.Sprintf("%d tags are locked and differ from the upstream's", tags.Conflicts)
	}
	return ""
}

// syncMetadata is what the entry of a sync's end says of it.
func syncMetadata(s domain.MirrorSync) audit.Metadata {
	metadata := audit.Metadata{
		"message": s.Message, "bytes_copied": s.BytesCopied, "bytes_saved": s.BytesSaved, "seconds": int64(s.FinishedAt.Sub(s.StartedAt) / time.Second),
	}
	for what, n := range map[string]domain.MirrorCounts{"repositories": s.Repositories, "tags": s.Tags} {
		for field, count := range map[string]int64{"": n.Discovered, "_copied": n.Copied, "_unchanged": n.Unchanged, "_skipped": n.Skipped, "_failed": n.Failed, "_conflicts": n.Conflicts, "_pruned": n.Pruned} {
			if count > 0 || field == "" {
				metadata[what+field+"_count"] = count
			}
		}
	}
	var failures, conflicts []any
	for _, f := range s.Failures {
		failures = append(failures, audit.Metadata{"repo": f.Repository, "tag": f.Tag, "reason": f.Reason})
	}
	for _, f := range s.Conflicts {
		conflicts = append(conflicts, audit.Metadata{"repo": f.Repository, "tag": f.Tag, "upstream_digest": f.Upstream.String(), "manifest_digest": f.Standing.String(), "reason": f.Reason})
	}
	if len(failures) > 0 {
		metadata["failures"] = failures
	}
	if len(conflicts) > 0 {
		metadata["conflicts"] = conflicts
	}
	return metadata
}

// cancelSync ends the sync that runs, for a reason that is not its own. It goes no further: what it wants to write is
// refused from now on.
func (ch *change) cancelSync(m *meta.Mirror, reason string) error {
	ch.wakeMirrors = true
	m.Last.State, m.Last.FinishedAt, m.Last.Message = domain.SyncCancelled, ch.now, reason
	ch.logSync(audit.KindOrgMirrorCancelled, *m, audit.Metadata{"message": reason})
	return ch.EndMirrorSync(m.ID, *m.Last)
}

// RequestMirrorSync asks for a sync now. CONFLICT while one runs, was asked for, or cannot be because the mirror is
// suspended.
func (c *Core) RequestMirrorSync(ctx context.Context, caller domain.Caller, organizationName string) error {
	return c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		m, err := mirrorOfOrganization(&ch.Reader, organizationName)
		switch {
		case err != nil:
			return err
		case running(m.Mirror) || m.Requested:
			return domain.Errorf(domain.CodeConflict, "the mirror of organization %s is busy: a sync runs or was asked for already; wait for it, or cancel it", m.Organization)
		case m.Suspend:
			return domain.Errorf(domain.CodeConflict, "the mirror of organization %s is suspended; resume it to sync", m.Organization)
		case m.Lost:
			return domain.Errorf(domain.CodeConflict, "the mirror of organization %s syncs no more: the namespace of its object may not manage the organization", m.Organization)
		}
		ch.wakeMirrors = true
		ch.logMirror(audit.KindOrgMirrorRequested, m.Mirror, audit.Metadata{})
		return ch.SetMirrorRequested(m.ID, true, m.RequestedAt)
	})
}

// CancelMirrorSync ends the sync that runs, at once, and takes back one that was asked for. The schedule, and when the next
// sync is due by it, stay as they are. It does nothing where there is neither.
func (c *Core) CancelMirrorSync(ctx context.Context, caller domain.Caller, organizationName string) error {
	return c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		m, err := mirrorOfOrganization(&ch.Reader, organizationName)
		if err != nil {
			return err
		}
		if m.Requested {
			if err := ch.SetMirrorRequested(m.ID, false, m.RequestedAt); err != nil {
				return err
			}
		}
		switch {
		case running(m.Mirror):
			return ch.cancelSync(&m, "the sync was cancelled")
		case m.Requested:
			ch.logMirror(audit.KindOrgMirrorCancelled, m.Mirror, audit.Metadata{"message": "the sync that was asked for was cancelled before it began"})
		}
		return nil
	})
}

// MirrorsBehind counts the mirrors that have a schedule, and those of them whose last sync failed, and finds since when the one
// that is furthest behind has had no success: zero if there is none.
func (c *Core) MirrorsBehind(ctx context.Context) (scheduled, failing int64, since time.Time, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		scheduled, failing, since, err = r.MirrorsBehind()
		return err
	})
	return scheduled, failing, since, err
}

// WakeMirrors tells that something was asked for or changed on this replica: look for claims, and beat those that run.
func (c *Core) WakeMirrors() <-chan struct{} { return c.wakeMirrors }

// MirrorTags lists the live tags of a mirrored repository by name, those behind after; none if there is no such repository.
func (c *Core) MirrorTags(ctx context.Context, claim *MirrorClaim, path, after string, limit int) (list []MirrorTag, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		list = nil
		repo, err := r.Repository(domain.RepositoryName{Organization: claim.Mirror.Organization, Path: path})
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		tags, err := r.Tags(repo.ID, after, "", 0, limit)
		for _, t := range tags {
			list = append(list, MirrorTag{Name: t.Name, Digest: t.Digest, Mirrored: t.MirrorID == claim.Mirror.ID})
		}
		return err
	})
	return list, err
}

// SealMirrorSecrets seals the secrets of mirrors with the present key that were sealed with an older one, and returns of how
// many mirrors. What cannot be opened is logged and stays. Without a Sealer it fails if there are any secrets.
func (c *Core) SealMirrorSecrets(ctx context.Context) (renewed int, err error) {
	var all []meta.SealedSecrets
	err = c.read(ctx, func(r *meta.Reader) (err error) {
		all, err = r.AllMirrorSecrets()
		return err
	})
	if err != nil || len(all) == 0 {
		return 0, err
	}
	sealer := c.options.Sealer
	if sealer == nil {
		return 0, errNoSealer
	}
	for _, s := range all {
		current, err := sealer.Current(s.Sealed)
		if err != nil {
			return renewed, err
		}
		if current {
			continue
		}
		secret, err := sealer.Open(s.Sealed, binding(s.UUID))
		if err != nil {
			c.logger.Error("the credentials of a mirror cannot be read; give them again, or bring back the key that sealed them", "organization", s.Organization, "error", err)
			continue
		}
		again, err := sealer.Seal(secret, binding(s.UUID))
		if err != nil {
			return renewed, err
		}
		if err := c.store.Write(ctx, exclusive(s.Organization), func(tx *meta.Tx) error { return tx.ReplaceMirrorSecrets(s.MirrorID, s.Sealed, again) }); err != nil {
			return renewed, forClient(err)
		}
		renewed++
	}
	return renewed, nil
}
