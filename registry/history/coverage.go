package history

import (
	"slices"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// Span is a piece of a tag's life.
type Span struct {
	From Moment `json:"from"`
	// To is the entry that ended the span, nil while it lasts.
	To *Moment `json:"to,omitempty"`
}

// Window is a span in which a live tag was not locked although a policy covers its name at some time of the period.
type Window struct {
	Span
	// Cause says what the policy was at the window's beginning.
	Cause WindowCause `json:"cause"`
}

// WindowCause says why a policy did not lock a name.
type WindowCause string

// The causes of windows.
const (
	// WindowDryRun: the policy covered the name on a dry run.
	WindowDryRun WindowCause = "dry_run"
	// WindowNotCovered: the revision in force did not cover the name.
	WindowNotCovered WindowCause = "not_covered"
	// WindowDeleted: the policy was deleted.
	WindowDeleted WindowCause = "deleted"
)

// Coverage is what a policy did for one tag.
type Coverage struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	// Locked are the spans in which the policy locked the tag, by covering it or by its hold.
	Locked []Span `json:"locked"`
	// Unprotected are the windows.
	Unprotected []Window `json:"unprotected"`
}

// PolicyTimeline holds the changes of one policy, and those of all others of its organization.
type PolicyTimeline struct {
	Policy       string
	Organization string
	// Repository is the path that the policy is bound to, empty for the whole organization.
	Repository string
	// Created is the policy's first entry.
	Created Moment
	// Own are the policy's own changes, All those of the organization, both in the order of their indices.
	Own, All []*Change
}

// NewPolicyTimeline selects a policy's changes. Created is its first entry.
func NewPolicyTimeline(created audit.View, all []*Change) *PolicyTimeline {
	p := &PolicyTimeline{Policy: created.Policy, Organization: created.Organization, Repository: created.Repository, Created: momentOf(created), All: all}
	for _, c := range all {
		if c.Policy == p.Policy {
			p.Own = append(p.Own, c)
		}
	}
	return p
}

// Period bounds a report by indices: From included, To not.
type Period struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// PrunedBefore is the index below which the registry has no entries any more: they are in archives. What only they
	// say is missing in the report.
	PrunedBefore int64 `json:"pruned_before,omitempty"`
}

// Concerns reports whether any revision that was in force in the period covers a tag's name, on a dry run too.
func (p *PolicyTimeline) Concerns(repository, tag string, period Period) bool {
	for i, c := range p.Own {
		ends := period.To
		if i+1 < len(p.Own) {
			ends = p.Own[i+1].Index
		}
		if c.New.covers(repository, tag) && c.Index < period.To && ends > period.From {
			return true
		}
		if i == 0 && c.Old.covers(repository, tag) && c.Index > period.From {
			return true // of a policy whose first entries are not there any more
		}
	}
	return false
}

// Cover tells from a tag's history in a period what the policy did for it.
func (p *PolicyTimeline) Cover(repository, tag string, h History, period Period) Coverage {
	c := Coverage{Repository: repository, Tag: tag}
	for _, lock := range h.Locks {
		for _, r := range lock.Reasons {
			if r.Policy == p.Policy && (r.To == nil || r.To.Index > period.From) {
				c.Locked = join(c.Locked, Span{From: r.From, To: r.To})
			}
		}
	}
	for _, span := range live(h.Digests) {
		c.Unprotected = append(c.Unprotected, p.windows(repository, tag, span, h.Locks, period)...)
	}
	return c
}

// join adds a span, which goes on with the last one if that ends where it begins.
func join(list []Span, s Span) []Span {
	if n := len(list); n > 0 && list[n-1].To != nil && list[n-1].To.Index == s.From.Index {
		list[n-1].To = s.To
		return list
	}
	return append(list, s)
}

// live lists the spans in which a tag existed.
func live(digests []Pointed) (list []Span) {
	for _, d := range digests {
		list = join(list, Span{From: d.From, To: d.To})
	}
	return list
}

// windows cuts the locks out of a span of the tag's life, from the policy's creation on.
func (p *PolicyTimeline) windows(repository, tag string, life Span, locks []Lock, period Period) (list []Window) {
	from := &life.From
	if from.Index < p.Created.Index {
		from = &p.Created
	}
	add := func(to *Moment) {
		if from != nil && (to == nil || to.Index > from.Index && to.Index > period.From) && (life.To == nil || life.To.Index > from.Index) {
			list = append(list, Window{Span: Span{From: *from, To: to}, Cause: p.cause(repository, tag, from.Index)})
		}
	}
	for _, lock := range locks {
		if life.To != nil && lock.From.Index >= life.To.Index || lock.To != nil && lock.To.Index <= from.Index {
			continue
		}
		add(&lock.From)
		if from = lock.To; from == nil {
			return list
		}
	}
	add(life.To)
	return list
}

// cause says what the policy was at an index.
func (p *PolicyTimeline) cause(repository, tag string, at int64) WindowCause {
	behind := slices.IndexFunc(p.Own, func(c *Change) bool { return c.Index > at })
	if behind < 0 {
		behind = len(p.Own)
	}
	switch r := p.revisionBefore(behind); {
	case r == nil:
		return WindowDeleted
	case r.covers(repository, tag) && r.Spec.EnforcementMode == domain.DryRun:
		return WindowDryRun
	}
	return WindowNotCovered
}

func (p *PolicyTimeline) revisionBefore(behind int) *Revision {
	if behind == 0 {
		if len(p.Own) == 0 {
			return nil
		}
		return p.Own[0].Old
	}
	return p.Own[behind-1].New
}

// PolicyRevision is a revision in a report.
type PolicyRevision struct {
	Revision int64                  `json:"revision"`
	Pattern  string                 `json:"policy_pattern"`
	Inverted bool                   `json:"policy_pattern_inverted,omitempty"`
	Scope    domain.PolicyScope     `json:"policy_scope"`
	Mode     domain.EnforcementMode `json:"enforcement_mode"`
	Reclaim  domain.ReclaimPolicy   `json:"reclaim_policy"`
	By       Performer              `json:"by"`
	Span
}

// Revisions lists the policy's revisions.
func (p *PolicyTimeline) Revisions() []PolicyRevision {
	list := []PolicyRevision{}
	for _, c := range p.Own {
		if n := len(list); n > 0 {
			list[n-1].To = &c.Moment
		}
		if r := c.New; r != nil {
			list = append(list, PolicyRevision{
				Revision: r.Number, Pattern: r.Spec.TagPattern, Inverted: !r.Spec.TagPatternMatches, Scope: r.scope(), Mode: r.Spec.EnforcementMode, Reclaim: r.Spec.ReclaimPolicy,
				By: r.AppliedBy, Span: Span{From: r.Entry},
			})
		}
	}
	return list
}

// when writes a moment for people: its time in UTC, and its index.
func when(m Moment) string {
	return m.Time.UTC().Format(time.RFC3339) + " (entry " + number(m.Index) + ")"
}
