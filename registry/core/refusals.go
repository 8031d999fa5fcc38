package core

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// refusal is an attempt that a lock refused, or that a policy on a dry run would have refused.
type refusal struct {
	kind      audit.Kind
	operation string
	about     subject
	metadata  audit.Metadata
	// attempted is the digest that the caller wanted, empty for a delete.
	attempted string
}

func newRefusal(kind audit.Kind, operation string, about subject, lock *domain.LockError, attempted, reason string) refusal {
	metadata := audit.Metadata{"operation": operation, "reason": reason}
	if lock.Digest != "" {
		metadata["manifest_digest"] = lock.Digest.String()
	}
	if attempted != "" {
		metadata["attempted_digest"] = attempted
	}
	if lock.Count > len(lock.Tags) {
		metadata["locked_tags_count"] = lock.Count
	}
	if lock.Policy != nil {
		about.policy = lock.Policy.UUID
	}
	policyMetadata(lock.Policy, metadata)
	return refusal{kind: kind, operation: operation, about: about, metadata: metadata, attempted: attempted}
}

// Limits of the windows in which repeats are counted.
const (
	// refusalWindowsPerCaller is how many windows a caller may have open before it gets one for each repository, whatever
	// addresses it comes from.
	refusalWindowsPerCaller = 100
	// refusalRepositoriesPerCaller is how many windows it may have open before it gets one for everything.
	refusalRepositoriesPerCaller = 1000
	// refusalDigests is how many attempted digests a closing entry lists.
	refusalDigests = 10
	// refusalTags bounds the tags that the window of a repository, or of everything, counts one by one.
	refusalTags = 1000
)

// windowKey is what makes two refusals repeats of one another. A window of a whole repository has no tag, no policy, no user and
// no address, a window of everything no repository either.
type windowKey struct {
	caller             domain.Caller
	kind               audit.Kind
	operation          string
	organization, path string
	tag, policy        string
	// user is the Kubernetes user for whom the operator tells it.
	user  string
	whole bool
}

// window counts the repeats of a refusal whose first entry is in the log.
type window struct {
	key     windowKey
	opened  time.Time
	first   string // the hash of the first entry
	count   int64
	from    time.Time
	to      time.Time
	digests []string
	// tags counts the refusals of a window that is of more than one tag, as far as it knows their names.
	tags map[string]int64
	// policies counts the repeats by policy.
	policies map[string]int64
	// ready is closed once the first entry is committed, or failed.
	ready chan struct{}
	err   error
}

// refusals are the open windows of this process.
type refusals struct {
	length time.Duration
	now    func() time.Time

	mu      sync.Mutex
	windows map[windowKey]*window
	// callers counts the windows of each caller, without address.
	callers map[domain.Caller]int
}

func newRefusals(length time.Duration, now func() time.Time) *refusals {
	return &refusals{length: length, now: now, windows: map[windowKey]*window{}, callers: map[domain.Caller]int{}}
}

// enter returns the window of a refusal, and whether the caller opened it and must write the first entry.
func (s *refusals) enter(caller domain.Caller, r refusal) (w *window, first bool) {
	// Another credential or epoch of the same caller is no other caller.
	caller.TokenID, caller.Epoch = "", 0
	user, _ := r.metadata["applied_by"].(string)
	key := windowKey{caller: caller, kind: r.kind, operation: r.operation, organization: r.about.organization, path: r.about.repository, tag: r.about.tag, policy: r.about.policy, user: user}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	caller.Address = ""
	w, ok := s.windows[key]
	if !ok && s.callers[caller] >= refusalWindowsPerCaller {
		key.caller, key.tag, key.policy, key.user, key.whole = caller, "", "", "", true
		w, ok = s.windows[key]
	}
	if !ok && s.callers[caller] >= refusalRepositoriesPerCaller {
		key.organization, key.path = "", ""
		w, ok = s.windows[key]
	}
	if !ok {
		w = &window{key: key, opened: now, ready: make(chan struct{}), policies: map[string]int64{}}
		s.windows[key] = w
		s.callers[caller]++
		return w, true
	}
	if w.count == 0 {
		w.from = now
	}
	w.count++
	w.policies[r.about.policy]++
	w.to = now
	if r.attempted != "" && len(w.digests) < refusalDigests && !slices.Contains(w.digests, r.attempted) {
		w.digests = append(w.digests, r.attempted)
	}
	if key.whole {
		w.countTag(r.about)
	}
	return w, false
}

// countTag counts a refusal by its tag; in a window of everything by repository and tag.
func (w *window) countTag(about subject) {
	name := about.tag
	if w.key.path == "" && about.repository != "" {
		name = about.organization + "/" + about.repository + ":" + about.tag
	}
	if w.tags == nil {
		w.tags = map[string]int64{}
	}
	if _, known := w.tags[name]; known || len(w.tags) < refusalTags {
		w.tags[name]++
	}
}

// leave removes windows and returns them: those that are over, or all.
func (s *refusals) leave(all bool) []*window {
	s.mu.Lock()
	defer s.mu.Unlock()
	var over []*window
	for key, w := range s.windows {
		select {
		case <-w.ready:
		default:
			continue
		}
		if all || w.err != nil || s.now().Sub(w.opened) >= s.length {
			s.remove(key)
			if w.err == nil && w.count > 0 {
				over = append(over, w)
			}
		}
	}
	slices.SortFunc(over, func(a, b *window) int { return a.opened.Compare(b.opened) })
	return over
}

func (s *refusals) remove(key windowKey) {
	delete(s.windows, key)
	caller := key.caller
	caller.Address = ""
	if s.callers[caller]--; s.callers[caller] <= 0 {
		delete(s.callers, caller)
	}
}

// recordRefusals writes the first entry of each refusal, or counts a repeat. It returns once the entries are
// committed; an error means that the evidence could not be written.
func (c *Core) recordRefusals(ctx context.Context, caller domain.Caller, list []refusal) error {
	if len(list) == 0 {
		return nil
	}
	// The answer must not go out without its entry, so the entry does not depend on the client staying.
	ctx = context.WithoutCancel(ctx)
	var opened, waited []*window
	var entries []audit.Entry
	dryRuns := map[string]int64{}
	for _, r := range list {
		c.metrics.refused(r)
		w, first := c.refusals.enter(caller, r)
		if !first {
			waited = append(waited, w)
			continue
		}
		opened = append(opened, w)
		entries = append(entries, r.about.entry(r.kind, c.now(), caller, r.metadata))
		if r.kind == audit.KindDryRun {
			dryRuns[r.about.policy]++
		}
	}
	var err error
	if len(opened) > 0 {
		var hashes []string
		hashes, err = c.appendRefusals(ctx, entries, dryRuns)
		for i, w := range opened {
			if w.err = err; err == nil {
				w.first = hashes[i]
			}
			close(w.ready)
		}
	}
	for _, w := range waited {
		<-w.ready
		if w.err != nil {
			err = w.err
		}
	}
	return err
}

// appendRefusals commits entries of refusals with what dry runs count, and returns the hashes of the entries.
func (c *Core) appendRefusals(ctx context.Context, entries []audit.Entry, dryRuns map[string]int64) ([]string, error) {
	if err := c.install(ctx); err != nil {
		return nil, err
	}
	hashes := make([]string, len(entries))
	err := c.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
		state, err := tx.LogState()
		if err != nil {
			return err
		}
		records, err := encode(state.Origin, entries)
		if err != nil {
			return err
		}
		for i, r := range records {
			hashes[i] = audit.LeafHash(r.Leaf).String()
		}
		for _, uuid := range slices.Sorted(maps.Keys(dryRuns)) { // replicas lock the rows in one order
			if err := tx.CountWouldRefuse(uuid, dryRuns[uuid]); err != nil {
				return err
			}
		}
		return tx.AppendAudit(records...)
	})
	if err != nil {
		return nil, forClient(err)
	}
	c.sequencer.Notify()
	return hashes, nil
}

// runRefusals closes windows when they are over.
func (c *Core) runRefusals(ctx context.Context) error {
	ticker := time.NewTicker(min(time.Second, c.options.RefusalWindow))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.closeRefusals(ctx, false)
		}
	}
}

// closings are entries of windows that are over, and what they count of dry runs.
type closings struct {
	entries []audit.Entry
	dryRuns map[string]int64
}

// closeRefusals writes the closing entries of windows that are over, or of all. What cannot be written is kept for the next
// time: as long as nothing can, no window is opened either.
func (c *Core) closeRefusals(ctx context.Context, all bool) {
	entries, dryRuns := c.unwritten.entries, c.unwritten.dryRuns
	if dryRuns == nil {
		dryRuns = map[string]int64{}
	}
	for _, w := range c.refusals.leave(all) {
		entries = append(entries, w.closing(c.now()))
		if w.key.kind == audit.KindDryRun {
			for policy, count := range w.policies {
				dryRuns[policy] += count
			}
		}
	}
	entries = append(entries, c.logins.leave(all)...)
	if len(entries) == 0 {
		return
	}
	if _, err := c.appendRefusals(ctx, entries, dryRuns); err != nil {
		c.logger.Error("writing the counts of repeated refusals failed", "windows", len(entries), "error", err)
		c.unwritten = closings{entries, dryRuns}
		return
	}
	c.unwritten = closings{}
}

// closing is the entry that says how often a refusal was repeated.
func (w *window) closing(now time.Time) audit.Entry {
	metadata := audit.Metadata{
		"operation": w.key.operation, "repeat_of": w.first, "count": w.count,
		"first_time": w.from.UTC().Format(time.RFC3339), "last_time": w.to.UTC().Format(time.RFC3339),
	}
	if len(w.digests) > 0 {
		metadata["attempted_digests"] = w.digests
	}
	if w.key.user != "" {
		metadata["applied_by"] = w.key.user
	}
	about := subject{organization: w.key.organization, repository: w.key.path, tag: w.key.tag, policy: w.key.policy}
	if w.key.whole {
		tags := audit.Metadata{}
		for tag, n := range w.tags {
			tags[tag] = n
		}
		metadata["tags"] = tags
	}
	return about.entry(w.key.kind, now, w.key.caller, metadata)
}
