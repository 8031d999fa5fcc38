// Package history tells from the entries of the audit log alone what became of a tag: what it pointed to, who moved it,
// when it was locked and by what, and which attempts were refused. It is pure: the same entries always give the same
// history, whatever has become of the tag, its repository and the policies since.
//
// A tag is locked while an enforced policy covers it, or while a hold is on it. So it is locked from the entry of the
// policy that came to cover it, or from its own creation, not from the entry of its hold, which a sweep writes later.
package history

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// Moment is an entry's place in the log, and its time.
type Moment struct {
	Index int64     `json:"index"`
	Time  time.Time `json:"time"`
}

func momentOf(entry audit.View) Moment { return Moment{Index: entry.Index, Time: entry.Time} }

// Performer is who did something. Name is empty where it was erased.
type Performer struct {
	Kind domain.CallerKind `json:"kind"`
	Name string            `json:"name,omitempty"`
	// Resource is the Kubernetes object that the operator did it for, as "kind namespace/name", and AppliedBy the user who
	// applied or deleted it, "unknown" if nobody told the registry.
	Resource  string `json:"resource,omitempty"`
	AppliedBy string `json:"applied_by,omitempty"`
	// RevisionClaimed is the source revision that the object named. Nobody has checked it.
	RevisionClaimed string `json:"revision_claimed,omitempty"`
}

func performerOf(entry audit.View) Performer {
	p := Performer{
		Kind: entry.PerformerKind, Name: entry.Performer, AppliedBy: text(entry.Metadata, "applied_by"), RevisionClaimed: text(entry.Metadata, "revision_claimed"),
	}
	if m, ok := entry.Metadata["managed_by"].(map[string]any); ok {
		p.Resource = text(m, "kind") + " " + text(m, "namespace") + "/" + text(m, "name")
	}
	return p
}

// Pointed is a span in which a tag pointed to one manifest.
type Pointed struct {
	Digest string `json:"manifest_digest"`
	From   Moment `json:"from"`
	// To is the entry that ended the span, nil while it lasts.
	To *Moment `json:"to,omitempty"`
	// Kind is what the entry did: audit.KindCreateTag, audit.KindMoveTag or audit.KindRevertTag.
	Kind audit.Kind `json:"kind"`
	By   Performer  `json:"by"`
	// Append says that a locked signature tag was only added to.
	Append bool `json:"append,omitempty"`
}

// Cause says what locks a tag.
type Cause string

// The causes of a lock.
const (
	// CausePolicy: a policy in force covers the tag.
	CausePolicy Cause = "policy"
	// CauseHold: the policy locked the tag before, and its hold stays although the policy does not cover the tag now.
	CauseHold Cause = "hold"
	// CauseManual: somebody placed a hold by hand.
	CauseManual Cause = "manual"
)

// Reason is a span in which one thing locked a tag.
type Reason struct {
	Cause Cause `json:"cause"`
	// Policy, Pattern, Inverted, Scope and Revision are empty for a hold by hand. Of a hold they are the revision's that
	// the policy covered the tag with last.
	Policy   string             `json:"policy_uuid,omitempty"`
	Pattern  string             `json:"policy_pattern,omitempty"`
	Inverted bool               `json:"policy_pattern_inverted,omitempty"`
	Scope    domain.PolicyScope `json:"policy_scope,omitempty"`
	Revision int64              `json:"policy_revision,omitempty"`
	// Entry is the entry that the reason comes from: of the policy's revision, or of the hold by hand; By is who made it.
	Entry int64      `json:"entry"`
	By    *Performer `json:"by,omitempty"`
	From  Moment     `json:"from"`
	To    *Moment    `json:"to,omitempty"`
}

// same reports whether two reasons are one that goes on.
func (r *Reason) same(other *Reason) bool {
	return r.Cause == other.Cause && r.Policy == other.Policy && r.Revision == other.Revision && r.Entry == other.Entry
}

// Lock is a span in which a tag was locked without interruption.
type Lock struct {
	From Moment `json:"from"`
	// To is the entry that unlocked the tag, nil while it is locked.
	To *Moment `json:"to,omitempty"`
	// Reasons are what locked it, in the order in which they came; they overlap.
	Reasons []Reason `json:"reasons"`
	// Refused counts the attempts in the span, as far as it lies in the period asked for, repeats included.
	Refused int64 `json:"refused"`
}

// Refusal is an attempt that was refused, or the count of its repeats.
type Refusal struct {
	Moment
	Kind audit.Kind `json:"kind"`
	// Of is what the attempt was on: "tag", or the "repository" or "organization" with the tag in it.
	Of        string    `json:"of"`
	Operation string    `json:"operation,omitempty"`
	By        Performer `json:"by"`
	Policy    string    `json:"policy_uuid,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	// Attempted are the digests that the tag was to get.
	Attempted []string `json:"attempted_digests,omitempty"`
	// Count is 1, or how many repeats there were of the refusal whose entry has the hash RepeatOf.
	Count    int64  `json:"count"`
	RepeatOf string `json:"repeat_of,omitempty"`
}

// What a refusal was on.
const (
	OfTag          = "tag"
	OfRepository   = "repository"
	OfOrganization = "organization"
)

// History is what became of a tag.
type History struct {
	// Digests are the manifests that the tag pointed to, in order. Between two of them it may not have existed.
	Digests []Pointed `json:"digests"`
	Locks   []Lock    `json:"locks"`
	// Refusals are those on the tag, and on its repository and organization because of their locked tags.
	Refusals []Refusal `json:"refusals"`
}

// State is where a timeline stands between two entries. It can be stored as JSON, to go on later.
type State struct {
	// Next is the index from which on entries were not applied.
	Next int64 `json:"next"`
	// Pointed and Lock are the spans that last, nil if there is none.
	Pointed *Pointed `json:"pointed,omitempty"`
	Lock    *Lock    `json:"lock,omitempty"`
	// Last is the last lock that ended: closing entries of refusals come a little later.
	Last *Lock `json:"last,omitempty"`
	// Born is the index of the entry that created the tag, as long as it exists.
	Born int64 `json:"born"`
	// Holds are the entries that placed the holds that stand, by policy; "" is the hold by hand.
	Holds map[string]hold `json:"holds,omitempty"`
	// Kept are the revisions that keep the tag locked although they are not in force any more, by policy.
	Kept map[string]kept `json:"kept,omitempty"`
	// LockEntries are the indices of the tag's own entries that the lock rests on, since it began.
	LockEntries []int64 `json:"lock_entries,omitempty"`
}

// Valid reports whether a timeline can go on from the state. A timeline's own states always are.
func (s *State) Valid() bool { return s.Last == nil || s.Last.To != nil }

type hold struct {
	Entry int64     `json:"entry"`
	By    Performer `json:"by"`
}

// kept is the last revision of a policy that locked the tag.
type kept struct {
	Pattern  string             `json:"pattern"`
	Inverted bool               `json:"inverted,omitempty"`
	Scope    domain.PolicyScope `json:"scope"`
	Number   int64              `json:"revision"`
	Entry    int64              `json:"entry"`
	By       Performer          `json:"by"`
	// Closing says that the revision was withdrawn before the sweep had placed its hold.
	Closing bool `json:"closing,omitempty"`
}

// Timeline builds the history of one tag from entries in the order of their indices: those about the tag, and those about
// its repository, its organization and their policies. Others it leaves out.
type Timeline struct {
	organization, repository, tag string
	state                         State
	// inForce are the revisions in force that lock the tag's name, by policy.
	inForce map[string]*Revision
	found   History
}

// NewTimeline begins the history of a tag at the beginning of the log.
func NewTimeline(name domain.RepositoryName, tag string) *Timeline {
	return &Timeline{organization: name.Organization, repository: name.Path, tag: tag, inForce: map[string]*Revision{}, state: State{Born: -1}}
}

// Resume goes on from a state. The changes of policies before it must be applied again.
func Resume(name domain.RepositoryName, tag string, state State) *Timeline {
	t := NewTimeline(name, tag)
	t.state = state
	return t
}

// State returns where the timeline stands.
func (t *Timeline) State() State { return t.state }

// Done says that all entries below an index were applied.
func (t *Timeline) Done(next int64) { t.state.Next = max(t.state.Next, next) }

// Covers reports whether a policy's change concerns the tag: only these need to be applied.
func (t *Timeline) Covers(c *Change) bool { return c.covers(t.repository, t.tag) }

// ApplyChange applies a policy's change. One from before the timeline's state only brings its revision back to mind.
func (t *Timeline) ApplyChange(c *Change) {
	if !t.Covers(c) {
		return
	}
	before := t.inForce[c.Policy]
	delete(t.inForce, c.Policy)
	if c.New.locks(t.repository, t.tag) {
		t.inForce[c.Policy] = c.New
	}
	if c.Index < t.state.Next {
		return
	}
	if before == nil && c.Old.locks(t.repository, t.tag) {
		before = c.Old // the log's beginning is not there any more
	}
	if _, held := t.state.Holds[c.Policy]; before != nil && t.state.Pointed != nil && (held || c.Closing) {
		t.keep(before, !held)
	}
	t.settle(c.Moment)
	t.Done(c.Index + 1)
}

// keep remembers with what a policy locked the tag, since its hold stays, or will come.
func (t *Timeline) keep(r *Revision, closing bool) {
	if t.state.Kept == nil {
		t.state.Kept = map[string]kept{}
	}
	t.state.Kept[r.Policy] = kept{
		Pattern: r.Spec.TagPattern, Inverted: !r.Spec.TagPatternMatches, Scope: r.scope(), Number: r.Number, Entry: r.Entry.Index, By: r.AppliedBy, Closing: closing,
	}
}

// Apply applies an entry that is no change of a policy. It reports whether the entry concerns the tag.
func (t *Timeline) Apply(entry audit.View) bool {
	if entry.Organization != "" && entry.Organization != t.organization || entry.Repository != "" && entry.Repository != t.repository || entry.Tag != "" && entry.Tag != t.tag {
		return false
	}
	concerns := t.apply(entry)
	t.settle(momentOf(entry))
	t.Done(entry.Index + 1)
	return concerns
}

func (t *Timeline) apply(entry audit.View) bool {
	switch entry.Kind {
	case audit.KindPushFailed, audit.KindDeleteTagFailed, audit.KindDeleteRepoFailed, audit.KindDeleteOrgFailed:
		return t.refuse(entry)
	case audit.KindDeleteRepo, audit.KindOrgDelete:
	case audit.KindCreateTag, audit.KindMoveTag, audit.KindRevertTag:
		t.point(entry)
	case audit.KindDeleteTag:
		t.endSpan(momentOf(entry))
		t.state.Born, t.state.Holds, t.state.Kept = -1, nil, nil
	case audit.KindTagCreatedImmutable:
		t.place(entry)
	case audit.KindChangeImmutability:
		if text(entry.Metadata, "hold") == "removed" {
			t.state.LockEntries = append(t.state.LockEntries, entry.Index)
			delete(t.state.Holds, entry.Policy)
			delete(t.state.Kept, entry.Policy)
		} else {
			t.place(entry)
		}
	default:
		return entry.Tag != ""
	}
	return true
}

// point ends the span of one manifest and begins that of another.
func (t *Timeline) point(entry audit.View) {
	at := momentOf(entry)
	if t.state.Pointed == nil {
		t.state.Born = entry.Index
	}
	t.endSpan(at)
	t.state.Pointed = &Pointed{
		Digest: text(entry.Metadata, "manifest_digest"), From: at, Kind: entry.Kind, By: performerOf(entry), Append: entry.Metadata["append"] == true,
	}
}

func (t *Timeline) endSpan(at Moment) {
	if p := t.state.Pointed; p != nil {
		p.To = &at
		t.found.Digests = append(t.found.Digests, *p)
		t.state.Pointed = nil
	}
}

func (t *Timeline) place(entry audit.View) {
	if t.state.Holds == nil {
		t.state.Holds = map[string]hold{}
	}
	t.state.Holds[entry.Policy] = hold{Entry: entry.Index, By: performerOf(entry)}
	t.state.LockEntries = append(t.state.LockEntries, entry.Index)
	if k, ok := t.state.Kept[entry.Policy]; ok {
		k.Closing = false
		t.state.Kept[entry.Policy] = k
	} else if entry.Policy != "" && t.inForce[entry.Policy] == nil {
		// The policy's own entries are not there any more.
		t.keepUnknown(entry)
	}
}

// keepUnknown remembers a hold by what its own entry says of the policy.
func (t *Timeline) keepUnknown(entry audit.View) {
	if t.state.Kept == nil {
		t.state.Kept = map[string]kept{}
	}
	t.state.Kept[entry.Policy] = kept{
		Pattern: text(entry.Metadata, "policy_pattern"), Scope: domain.PolicyScope(text(entry.Metadata, "policy_scope")), Entry: entry.Index, By: performerOf(entry),
	}
}

// settle compares what locks the tag with what locked it before.
func (t *Timeline) settle(at Moment) {
	s := &t.state
	reasons := t.reasons()
	switch {
	case s.Lock == nil && len(reasons) == 0:
		return
	case s.Lock == nil:
		s.Lock = &Lock{From: at}
	}
	for i := range s.Lock.Reasons {
		r := &s.Lock.Reasons[i]
		if r.To != nil {
			continue
		}
		same := slices.IndexFunc(reasons, func(other Reason) bool { return r.same(&other) })
		if same < 0 {
			r.To = &at
		} else {
			reasons = slices.Delete(reasons, same, same+1)
		}
	}
	for _, r := range reasons {
		r.From = at
		s.Lock.Reasons = append(s.Lock.Reasons, r)
	}
	if slices.ContainsFunc(s.Lock.Reasons, func(r Reason) bool { return r.To == nil }) {
		return
	}
	s.Lock.To = &at
	t.endLast()
	s.Last, s.Lock, s.LockEntries = s.Lock, nil, nil
}

func (t *Timeline) endLast() {
	if t.state.Last != nil {
		t.found.Locks = append(t.found.Locks, *t.state.Last)
		t.state.Last = nil
	}
}

// reasons lists what locks the tag now, in a fixed order. No more than one is of the same policy.
func (t *Timeline) reasons() (list []Reason) {
	if t.state.Pointed == nil {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(t.inForce)) {
		r := t.inForce[id]
		list = append(list, Reason{
			Cause: CausePolicy, Policy: id, Pattern: r.Spec.TagPattern, Inverted: !r.Spec.TagPatternMatches, Scope: r.scope(), Revision: r.Number, Entry: r.Entry.Index, By: &r.AppliedBy,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(t.state.Kept)) {
		k := t.state.Kept[id]
		_, held := t.state.Holds[id]
		if t.inForce[id] == nil && (held || k.Closing) {
			list = append(list, Reason{Cause: CauseHold, Policy: id, Pattern: k.Pattern, Inverted: k.Inverted, Scope: k.Scope, Revision: k.Number, Entry: k.Entry, By: &k.By})
		}
	}
	if h, ok := t.state.Holds[""]; ok {
		list = append(list, Reason{Cause: CauseManual, Entry: h.Entry, By: &h.By})
	}
	return list
}

// refuse counts a refusal. The window of a whole repository, or of everything, counts its tags one by one.
func (t *Timeline) refuse(entry audit.View) bool {
	r := Refusal{
		Moment: momentOf(entry), Kind: entry.Kind, Of: OfTag, Operation: text(entry.Metadata, "operation"), By: performerOf(entry), Policy: entry.Policy,
		Reason: text(entry.Metadata, "reason"), RepeatOf: text(entry.Metadata, "repeat_of"), Count: cmp.Or(integer(entry.Metadata, "count"), 1),
	}
	switch {
	case entry.Kind == audit.KindDeleteRepoFailed:
		r.Of = OfRepository
	case entry.Kind == audit.KindDeleteOrgFailed:
		r.Of = OfOrganization
	case entry.Tag == "":
		tags, _ := entry.Metadata["tags"].(map[string]any)
		counted := t.tag
		if entry.Repository == "" {
			counted = t.organization + "/" + t.repository + ":" + t.tag
		}
		if r.Count = whole(tags[counted]); r.Count == 0 {
			return false
		}
	}
	if d := text(entry.Metadata, "attempted_digest"); d != "" {
		r.Attempted = []string{d}
	}
	if list, ok := entry.Metadata["attempted_digests"].([]any); ok {
		for _, d := range list {
			if d, ok := d.(string); ok {
				r.Attempted = append(r.Attempted, d)
			}
		}
	}
	if lock := t.refusing(entry); lock != nil {
		lock.Refused += r.Count
	}
	t.found.Refusals = append(t.found.Refusals, r)
	return true
}

// refusing finds the lock that refused an attempt, nil if it was none of the tag's own. The entry may come after the
// lock's end: that of a first refusal a moment, that of repeats up to the length of a window. The times of repeats are
// whole seconds.
func (t *Timeline) refusing(entry audit.View) *Lock {
	last := t.state.Last
	if first, err := time.Parse(time.RFC3339, text(entry.Metadata, "first_time")); err == nil {
		if last != nil && first.Before(last.To.Time) {
			return last
		}
		return t.state.Lock
	}
	if t.state.Lock == nil && entry.Metadata["subject_digest"] == nil {
		return last
	}
	return t.state.Lock
}

// Begin begins the period that is asked for: what lies before it is left out, but for what lasts. It returns the
// indices of the tag's own entries on which that rests.
func (t *Timeline) Begin() []int64 {
	t.found, t.state.Last = History{}, nil
	if t.state.Pointed == nil {
		return nil
	}
	if t.state.Lock != nil {
		t.state.Lock.Refused = 0
	}
	basis := append([]int64{t.state.Born, t.state.Pointed.From.Index}, t.state.LockEntries...)
	slices.Sort(basis)
	return slices.Compact(basis)
}

// Take returns what was found since the last call, with the spans that last. Spans that went on from the last call are
// told again: a later one with the same beginning takes the place of the earlier.
func (t *Timeline) Take() History {
	h := t.found
	t.found = History{}
	for _, lock := range []*Lock{t.state.Last, t.state.Lock} {
		if lock != nil {
			told := *lock
			told.Reasons = slices.Clone(lock.Reasons)
			h.Locks = append(h.Locks, told)
		}
	}
	if t.state.Pointed != nil {
		h.Digests = append(h.Digests, *t.state.Pointed)
	}
	return h
}

// Add joins what a later call of Take returned.
func (h *History) Add(later History) {
	for _, p := range later.Digests {
		if n := len(h.Digests); n > 0 && h.Digests[n-1].From.Index == p.From.Index {
			h.Digests = h.Digests[:n-1]
		}
		h.Digests = append(h.Digests, p)
	}
	for _, l := range later.Locks {
		h.Locks = append(slices.DeleteFunc(h.Locks, func(before Lock) bool { return before.From.Index == l.From.Index }), l)
	}
	h.Refusals = append(h.Refusals, later.Refusals...)
}
