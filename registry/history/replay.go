package history

import (
	"slices"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// Replay runs a tag's entries and the changes of policies through a timeline, in the order of their indices.
type Replay struct {
	*Timeline
	// Basis are the indices of the entries before the period on which the tag's state at its beginning rests, and Used
	// those of the changes of policies in the period.
	Basis, Used []int64
	changes     []*Change
	next        int
	period      Period
	begun       bool
}

// NewReplay makes a replay of a tag's history in a period. Changes are those of the organization's policies, from the log's
// beginning on.
func NewReplay(t *Timeline, changes []*Change, period Period) *Replay {
	r := &Replay{Timeline: t, changes: changes, period: period, begun: t.state.Next > period.From}
	r.Advance(t.state.Next) // brings the revisions in force back to mind
	r.Used, r.Basis = nil, nil
	return r
}

// Advance applies the changes of policies below an index: there are no other entries before it.
func (r *Replay) Advance(to int64) {
	for ; r.next < len(r.changes) && r.changes[r.next].Index < to; r.next++ {
		c := r.changes[r.next]
		if !r.Covers(c) {
			continue
		}
		r.beginAt(c.Index)
		if r.ApplyChange(c); r.begun {
			r.Used = append(r.Used, c.Index)
		} else {
			r.Basis = append(r.Basis, c.Index)
		}
	}
	r.beginAt(to - 1)
	r.Done(to)
}

// Apply applies an entry about the tag or its repository, and the changes of policies before it. It reports whether the
// entry concerns the tag and lies in the period.
func (r *Replay) Apply(entry audit.View) bool {
	r.Advance(entry.Index)
	r.beginAt(entry.Index)
	return r.Timeline.Apply(entry) && r.begun
}

// Finish applies what is left of the period's changes.
func (r *Replay) Finish() {
	r.Advance(r.period.To)
	r.beginAt(r.period.From)
	slices.Sort(r.Basis)
}

func (r *Replay) beginAt(index int64) {
	if !r.begun && index >= r.period.From {
		r.begun = true
		r.Basis = append(r.Basis, r.Begin()...)
	}
}

// Take is the timeline's, with nothing from before the period.
func (r *Replay) Take() History {
	h := r.Timeline.Take()
	if !r.begun {
		return History{}
	}
	return h
}

// Build tells a tag's history in a period from entries in the order of their indices.
func Build(name domain.RepositoryName, tag string, period Period, entries []audit.View) (History, error) {
	var changes []*Change
	for _, entry := range entries {
		if !slices.Contains(PolicyKinds, entry.Kind) {
			continue
		}
		change, err := ParseChange(entry)
		if err != nil {
			return History{}, err
		}
		if change != nil {
			changes = append(changes, change)
		}
	}
	r := NewReplay(NewTimeline(name, tag), changes, period)
	for _, entry := range entries {
		if !slices.Contains(PolicyKinds, entry.Kind) {
			r.Apply(entry)
		}
	}
	r.Finish()
	return r.Take(), nil
}
