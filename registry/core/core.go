// Package core is the one writer: every change of a tag, manifest, repository, organization or policy goes through it,
// whoever asks. It decides immutability and writes the audit entries in the transaction of the change.
package core

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// Options are the settings of the core.
type Options struct {
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// DeletionDelay is how long a policy stays in force after its Kubernetes object was deleted; 5 minutes by default.
	DeletionDelay time.Duration
	// MaxLock is how far away the end of a policy's lock may be; policy.DefaultMaxLock by default.
	MaxLock time.Duration
	// RefusalWindow is how long repeats of a refusal are counted into one entry; 60 seconds by default.
	RefusalWindow time.Duration
	// SweepBatch is how many tags one transaction of a sweep visits while clients write; 100 by default, so that they
	// wait for a few milliseconds only. While nobody writes it grows tenfold.
	SweepBatch int
	// Sparse admits manifests before what they refer to.
	Sparse Sparse
	// ExpirationPoll is how long an expired tag waits for its deletion at most, while there is nothing else to do; 1
	// second by default.
	ExpirationPoll time.Duration
	// DecisionTimeout is how long it may take to find out whether a locked tag leads to a manifest; 2 seconds by
	// default. What takes longer is refused: UNAVAILABLE.
	DecisionTimeout time.Duration
	// RequireSync refuses writes of clients until an operator has said once that all its objects are here.
	RequireSync bool
	// MaxUploads bounds the uploads that are open at once, 1,000 by default; one caller gets a quarter of them.
	MaxUploads int
	// UploadIdle is how long an upload stays open without a request for it; an hour by default.
	UploadIdle time.Duration
	// SharedUploads says that other processes write to the uploads of this database too: then each request that
	// writes takes a lease on its upload.
	SharedUploads bool
	// Replicas says that other processes work on this database too.
	Replicas bool
	// LeaseTerm is how long a replica may stand still before another does what it led; 15 seconds by default.
	LeaseTerm time.Duration
	// Superusers are the users of the database who are superusers by the registry's configuration. They cannot be made
	// readonly superusers.
	Superusers []string
	// Collection says what garbage collection may remove; DefaultCollection if nil.
	Collection *Collection
	// Sealer encrypts the secrets of mirrors. Without one no secret is stored.
	Sealer Sealer
	// AuditKeys sign checkpoints of the log; without them there are none.
	AuditKeys audit.KeyFile
	// Room returns why nothing more can be stored, for instance because the disk is full; nil if it can. By default
	// there is always room.
	Room func() error
}

// Core decides and writes. It is safe for concurrent use.
type Core struct {
	store     meta.Store
	sequencer *audit.Sequencer
	logger    *slog.Logger
	now       func() time.Time
	options   Options
	refusals  *refusals
	logins    *loginWindows
	// unwritten belongs to the one goroutine that closes windows.
	unwritten closings
	metrics   *metrics
	wake      chan struct{}
	// installed is set once the installation is known to be there.
	installed atomic.Bool
	// wakeErasures says that somebody is to be erased, wakeMirrors that there is news of a mirror.
	wakeErasures, wakeMirrors chan struct{}
	// clientWrites counts what clients asked to write.
	clientWrites atomic.Int64
	// writable is when the registry was last seen to take writes, as UnixNano; 0 if it was not.
	writable atomic.Int64
	uploads  locks
	// syncs are what this replica knows of the syncs of mirrors.
	syncs *syncs
	// identityChanges counts the changes of identities that this process has committed.
	identityChanges atomic.Int64
	// found is what HEADs found.
	found *notes
}

// New makes a core on a store. Run does its background work.
func New(store meta.Store, options Options) *Core {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.DeletionDelay == 0 {
		options.DeletionDelay = 5 * time.Minute
	}
	if options.MaxLock == 0 {
		options.MaxLock = policy.DefaultMaxLock
	}
	if options.RefusalWindow == 0 {
		options.RefusalWindow = time.Minute
	}
	if options.ExpirationPoll == 0 {
		options.ExpirationPoll = time.Second
	}
	if options.DecisionTimeout == 0 {
		options.DecisionTimeout = 2 * time.Second
	}
	if options.SweepBatch == 0 {
		options.SweepBatch = 100
	}
	if options.MaxUploads == 0 {
		options.MaxUploads = 1000
	}
	if options.UploadIdle == 0 {
		options.UploadIdle = time.Hour
	}
	if options.LeaseTerm == 0 {
		options.LeaseTerm = 15 * time.Second
	}
	if options.Collection == nil {
		options.Collection = &DefaultCollection
	}
	if options.Room == nil {
		options.Room = func() error { return nil }
	}
	return &Core{
		store: store, sequencer: audit.NewSequencer(store, options.Logger), logger: options.Logger, now: options.Now, options: options,
		refusals: newRefusals(options.RefusalWindow, options.Now), logins: newLoginWindows(options.RefusalWindow, options.Now), wake: make(chan struct{}, 1),
		wakeErasures: make(chan struct{}, 1),
		wakeMirrors:  make(chan struct{}, 1),
		uploads:      locks{ids: map[string]bool{}},
		syncs:        newSyncs(),
		found:        newNotes(),
		metrics:      newMetrics(),
	}
}

// Run does the background work until the context ends: it indexes the audit log, sweeps policies over their tags,
// carries out delayed deletions, deletes expired tags, ends expired readonly superusers, closes the windows of refusals, notes
// what HEADs found and erases persons from the log. Before it returns, all windows are written.
func (c *Core) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.sequencer.Run(ctx) })
	group.Go(func() error { return c.runSweeps(ctx) })
	group.Go(func() error { return c.runExpirations(ctx) })
	group.Go(func() error { return c.runRefusals(ctx) })
	group.Go(func() error { return c.runNotes(ctx) })
	group.Go(func() error { return c.runErasures(ctx) })
	group.Go(func() error {
		c.Lead(ctx, grantLease, c.runGrants)
		return nil
	})
	err := group.Wait()
	c.closeRefusals(context.WithoutCancel(ctx), true)
	return err
}

// Ready reports whether the store answers.
func (c *Core) Ready(ctx context.Context) error {
	return c.read(ctx, func(r *meta.Reader) error {
		_, err := r.Installation()
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		return err
	})
}

// read runs fn on a snapshot. Errors that are not meant for clients come back as UNAVAILABLE.
func (c *Core) read(ctx context.Context, fn func(*meta.Reader) error) error {
	return forClient(c.store.Read(ctx, fn))
}

// noTime is the absence of a time.
var noTime time.Time

// timestamp is how metadata writes a time.
const timestamp = time.RFC3339

// forClient lets domain errors and the caller's own cancellation through; anything else fails closed.
func forClient(err error) error {
	var e *domain.Error
	if err == nil || errors.As(err, &e) || errors.Is(err, context.Canceled) {
		return err
	}
	return domain.Unavailable(err)
}

// change is one transaction with the audit entries that it will commit.
type change struct {
	*meta.Tx
	caller domain.Caller
	now    time.Time
	// origin is the log's, which the entries get. readOnly says why the registry takes no writes; empty if it does.
	origin, readOnly string
	// decideBy is when the decision about a lock has taken too long.
	decideBy time.Time
	entries  []audit.Entry
	// dryRuns are what policies on a dry run would have refused of this change.
	dryRuns []refusal
	// mirror is the UUID of the mirror whose sync makes the change, empty if none does.
	mirror string
	// wakeSweeps is set where the change queued a sweep or a deletion, wakeMirrors where there is news of a mirror.
	wakeSweeps, wakeMirrors bool
	// identities is set where the change gave or took a right or a credential.
	identities bool
}

// log adds an entry to the transaction. The metadata gets Quay's namespace and repo.
func (ch *change) log(kind audit.Kind, about subject, metadata audit.Metadata) {
	ch.entries = append(ch.entries, about.entry(kind, ch.now, ch.caller, ofMirror(ch.mirror, metadata)))
}

// ofMirror adds which mirror did it, if one did.
func ofMirror(uuid string, metadata audit.Metadata) audit.Metadata {
	if uuid == "" {
		return metadata
	}
	if metadata == nil {
		metadata = audit.Metadata{}
	}
	metadata["mirror_uuid"] = uuid
	if metadata["trigger"] == nil {
		metadata["trigger"] = audit.TriggerMirror
	}
	return metadata
}

// subject is what an entry is about; fields that do not apply are empty.
type subject struct {
	organization, repository, tag, policy string
}

func aboutTag(name domain.RepositoryName, tag string) subject {
	return subject{organization: name.Organization, repository: name.Path, tag: tag}
}

func (s subject) entry(kind audit.Kind, now time.Time, caller domain.Caller, metadata audit.Metadata) audit.Entry {
	if metadata == nil {
		metadata = audit.Metadata{}
	}
	for field, value := range map[string]string{"namespace": s.organization, "repo": s.repository, "tag": s.tag, "policy_uuid": s.policy} {
		if value != "" {
			metadata[field] = value
		}
	}
	return audit.Entry{Time: now, Kind: kind, Organization: s.organization, Repository: s.repository, Tag: s.tag, Policy: s.policy, Caller: caller, Metadata: metadata}
}

// write runs a client's change. A refusal undoes all of it; the entry of the refusal is committed before write returns
// it, or, if it cannot be, the answer is UNAVAILABLE.
func (c *Core) write(ctx context.Context, caller domain.Caller, scope meta.Scope, fn func(*change) error) error {
	c.clientWrites.Add(1)
	if err := c.checkWritable(ctx); err != nil {
		return err
	}
	return c.writeAlways(ctx, caller, scope, unlessReadOnly(fn))
}

// unlessReadOnly refuses a change of what the registry stores while its log has to be explained.
func unlessReadOnly(fn func(*change) error) func(*change) error {
	return func(ch *change) error {
		if ch.readOnly != "" {
			return readOnly(ch.readOnly)
		}
		return fn(ch)
	}
}

// writableOrigin is the log's origin, if the registry is not read-only.
func writableOrigin(tx *meta.Tx) (string, error) {
	state, err := tx.LogState()
	if err == nil && state.ReadOnly != "" {
		err = readOnly(state.ReadOnly)
	}
	return state.Origin, err
}

// begin makes the change of a transaction.
func (c *Core) begin(tx *meta.Tx, caller domain.Caller) (*change, error) {
	state, err := tx.LogState()
	return &change{Tx: tx, caller: caller, now: c.now(), origin: state.Origin, readOnly: state.ReadOnly}, err
}

// writeAlways is write for those who need not wait for the operator: the operator, and the registry itself.
func (c *Core) writeAlways(ctx context.Context, caller domain.Caller, scope meta.Scope, fn func(*change) error) error {
	if err := c.install(ctx); err != nil {
		return err
	}
	var done *change
	var mirror string
	err := c.store.Write(ctx, scope, func(tx *meta.Tx) error {
		ch, err := c.begin(tx, caller)
		if err != nil {
			return err
		}
		ch.decideBy = time.Now().Add(c.options.DecisionTimeout)
		if ch.mirror, err = checkEpoch(&tx.Reader, caller); err != nil {
			return err
		}
		mirror = ch.mirror
		if err := fn(ch); err != nil {
			return err
		}
		if ch.identities {
			if err := tx.BumpIdentityVersion(); err != nil {
				return err
			}
		}
		done = ch
		return appendEntries(tx, ch.origin, ch.entries)
	})
	var refused *refusedError
	if errors.As(err, &refused) {
		for _, r := range refused.refusals {
			ofMirror(mirror, r.metadata)
		}
		if err := c.recordRefusals(ctx, caller, refused.refusals); err != nil {
			return err
		}
		return refused.answer
	}
	if err != nil {
		return forClient(err)
	}
	if done.identities {
		c.identityChanges.Add(1)
	}
	if len(done.entries) > 0 {
		c.sequencer.Notify()
	}
	if done.wakeSweeps {
		wakeUp(c.wake)
	}
	if done.wakeMirrors {
		wakeUp(c.wakeMirrors)
	}
	for _, r := range done.dryRuns {
		ofMirror(mirror, r.metadata)
	}
	if err := c.recordRefusals(ctx, caller, done.dryRuns); err != nil {
		// The change stands; only the report of a dry run is missing.
		c.logger.Warn("reporting a dry run failed", "error", err)
	}
	return nil
}

func appendEntries(tx *meta.Tx, origin string, entries []audit.Entry) error {
	records, err := encode(origin, entries)
	if err != nil {
		return err
	}
	return tx.AppendAudit(records...)
}

// encode encodes entries, many of them on all processors: a sweep's batch holds the writer meanwhile.
func encode(origin string, entries []audit.Entry) ([]audit.Record, error) {
	records := make([]audit.Record, len(entries))
	var group errgroup.Group
	const share = 64
	for from := 0; from < len(entries); from += share {
		some := func() (err error) {
			for i := from; i < min(from+share, len(entries)) && err == nil; i++ {
				records[i], err = audit.Encode(origin, entries[i])
			}
			return err
		}
		if len(entries) <= share {
			return records, some()
		}
		group.Go(some)
	}
	return records, group.Wait()
}

func wakeUp(sleeper chan<- struct{}) {
	select {
	case sleeper <- struct{}{}:
	default:
	}
}

// install makes the installation with the first write: its name, and the log's.
func (c *Core) install(ctx context.Context) error {
	if c.installed.Load() {
		return nil
	}
	origin, err := newOrigin()
	if err != nil {
		return err
	}
	err = c.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.InitInstallation(origin, c.now()) })
	if err != nil {
		return forClient(err)
	}
	c.installed.Store(true)
	return nil
}

// installation reads what this registry is.
func (c *Core) installation(ctx context.Context) (i meta.Installation, err error) {
	if err := c.install(ctx); err != nil {
		return i, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		i, err = r.Installation()
		return err
	})
	return i, err
}

// writableFor is how long a replica may not notice that the registry was handed over to another cluster. What it stores
// meanwhile is checked for a log that must be explained in its transaction.
const writableFor = time.Second

// checkWritable refuses clients' writes while a registry under an operator does not know all of its policies, and while
// the log must be explained.
func (c *Core) checkWritable(ctx context.Context) error {
	now := c.now().UnixNano()
	if seen := c.writable.Load(); seen != 0 && now-seen < int64(writableFor) {
		return nil
	}
	installation, err := c.installation(ctx)
	if err != nil {
		return err
	}
	if installation.ReadOnly != "" {
		return readOnly(installation.ReadOnly)
	}
	if c.options.RequireSync && !installation.Synced {
		return domain.Errorf(domain.CodeUnavailable, "the registry waits for its operator to bring all policies; try again")
	}
	c.writable.Store(now)
	return nil
}

// inForce reads and compiles the policies of a repository, or with an empty path of a whole organization. Any failure
// means that it cannot be determined what is locked, and fails closed.
func inForce(r *meta.Reader, organizationID int64, path string) (policy.Set, error) {
	revisions, err := r.InForce(organizationID, path)
	if err != nil {
		return policy.Set{}, err
	}
	set, err := policy.NewSet(revisions)
	if err != nil {
		return policy.Set{}, domain.Unavailable(err)
	}
	return set, nil
}
