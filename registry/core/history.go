package core

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/history"
	"github.com/tidelock/tidelock/registry/meta"
)

// historyPart is how many entries one statement of a history reads.
const historyPart = 1000

// HistoryQuery says of which part of the log a history tells.
type HistoryQuery struct {
	// Size leaves out the entries from this index on; 0 leaves out none.
	Size int64
	// From and To bound the period, From included, To not; zero is unbounded.
	From, To time.Time
	// Cursor goes on where an earlier page ended. It has the period, so Size, From and To do not count with it.
	Cursor *HistoryCursor
	// Limit is how many entries about the tag a page reads.
	Limit int
}

// HistoryCursor is where a page of a tag's history ended.
type HistoryCursor struct {
	State  history.State  `json:"state"`
	Period history.Period `json:"period"`
}

// HistoryPage is a part of a tag's history. Spans that began on an earlier page are told again.
type HistoryPage struct {
	history.History
	Period history.Period
	// Basis are the indices of entries before the period on which the tag's state at its beginning rests.
	Basis []int64
	// Entries are all entries of the period that concern the tag, as far as the page goes.
	Entries []audit.View
	// Next is nil on the last page.
	Next *HistoryCursor
}

// History tells a tag's history from the log alone, whatever has become of tag, repository and policies. NOT_FOUND if the
// log knows no such tag.
func (c *Core) History(ctx context.Context, name domain.RepositoryName, tag string, q HistoryQuery) (page HistoryPage, err error) {
	if err := c.syncLog(ctx); err != nil {
		return page, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		page = HistoryPage{}
		cursor := q.Cursor
		if cursor == nil {
			known, err := r.Log(audit.Query{Organization: name.Organization, Repository: name.Path, Tag: tag, After: -1, Limit: 1})
			if err != nil {
				return err
			}
			if len(known) == 0 {
				return domain.Errorf(domain.CodeNotFound, "the audit log knows no tag %s in repository %s", tag, name)
			}
			period, err := periodOf(r, q)
			if err != nil {
				return err
			}
			cursor = &HistoryCursor{Period: period, State: history.NewTimeline(name, tag).State()}
		}
		page, err = historyPage(r, name, tag, *cursor, q.Limit)
		return err
	})
	return page, err
}

// periodOf turns times into indices, as entries are in the order of time but for the width of a commit.
func periodOf(r *meta.Reader, q HistoryQuery) (period history.Period, err error) {
	if period.To, err = r.LogSize(); err != nil {
		return period, err
	}
	if period.PrunedBefore, err = r.PrunedBefore(); err != nil {
		return period, err
	}
	if q.Size > 0 {
		period.To = min(period.To, q.Size)
	}
	if !q.To.IsZero() {
		to, err := r.FirstIndexedAt(q.To)
		if err != nil {
			return period, err
		}
		period.To = min(period.To, to)
	}
	if !q.From.IsZero() {
		period.From, err = r.FirstIndexedAt(q.From)
	}
	return period, err
}

func historyPage(r *meta.Reader, name domain.RepositoryName, tag string, cursor HistoryCursor, limit int) (page HistoryPage, err error) {
	from, to := cursor.State.Next, cursor.Period.To
	changes, views, err := policyChanges(r, name.Organization, to)
	if err != nil {
		return page, err
	}
	var own []audit.Indexed
	if to > from {
		own, err = r.Log(audit.Query{Organization: name.Organization, Repository: name.Path, Tag: tag, After: from - 1, Before: to, Ascending: true, Limit: limit})
		if err != nil {
			return page, err
		}
	}
	if len(own) == limit {
		to = own[limit-1].Index + 1
	}
	shared, err := r.SharedLog(name, from-1, to, limit)
	if err != nil {
		return page, err
	}
	if len(shared) == limit {
		to = shared[limit-1].Index + 1
	}
	list := slices.Concat(own, shared)
	slices.SortFunc(list, func(a, b audit.Indexed) int { return cmp.Compare(a.Index, b.Index) })
	replay := history.NewReplay(history.Resume(name, tag, cursor.State), changes, cursor.Period)
	for _, e := range list {
		if e.Index >= to {
			break
		}
		view, err := audit.Decode(e)
		if err != nil {
			return page, err
		}
		if replay.Apply(view) {
			page.Entries = append(page.Entries, view)
		}
	}
	replay.Advance(to)
	if to == cursor.Period.To {
		replay.Finish()
	} else {
		page.Next = &HistoryCursor{State: replay.State(), Period: cursor.Period}
	}
	for _, index := range replay.Used {
		page.Entries = append(page.Entries, views[index])
	}
	slices.SortFunc(page.Entries, func(a, b audit.View) int { return cmp.Compare(a.Index, b.Index) })
	page.History, page.Period, page.Basis = replay.Take(), cursor.Period, replay.Basis
	return page, nil
}

// policyChanges reads all changes of an organization's policies below an index, and their entries.
func policyChanges(r *meta.Reader, organization string, to int64) (changes []*history.Change, views map[int64]audit.View, err error) {
	views = map[int64]audit.View{}
	for after, more := int64(-1), true; more; {
		list, err := r.PolicyLog(organization, after, to, historyPart)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range list {
			after = e.Index
			view, err := audit.Decode(e)
			if err != nil {
				return nil, nil, err
			}
			change, err := history.ParseChange(view)
			if err != nil {
				return nil, nil, err
			}
			if change != nil {
				changes, views[e.Index] = append(changes, change), view
			}
		}
		more = len(list) == historyPart
	}
	return changes, views, nil
}

// CoverageQuery says of which part of the log a policy's report tells, and where a page begins.
type CoverageQuery struct {
	// Size, From and To are as in HistoryQuery.
	Size     int64
	From, To time.Time
	// Behind is the tag that an earlier page ended with.
	Behind TagName
	// Limit is how many tags a page has at most.
	Limit int
}

// TagName names a tag of an organization.
type TagName struct{ Repository, Tag string }

// CoveragePage is a part of a policy's report: the tags by repository and name that the policy locked, or whose names it
// covers while they were not locked.
type CoveragePage struct {
	Policy *history.PolicyTimeline
	Period history.Period
	Tags   []history.Coverage
	// Next is nil on the last page.
	Next *TagName
}

// coverageBudget is how many entries a page of a policy's report reads, but for the last tag's.
const coverageBudget = 50_000

// PolicyCoverage tells from the log alone which tags a policy locked and when, and when tags whose names it covers were
// not locked. NOT_FOUND if the log knows no such policy.
//
// It reads in short transactions: what is written meanwhile has an index behind the period. Its memory is that of one
// page and of one tag's history.
func (c *Core) PolicyCoverage(ctx context.Context, uuid string, q CoverageQuery) (page CoveragePage, err error) {
	if err := c.syncLog(ctx); err != nil {
		return page, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		page = CoveragePage{}
		first, err := r.Log(audit.Query{Policy: uuid, Kinds: history.PolicyKinds, After: -1, Ascending: true, Limit: 1})
		if err != nil {
			return err
		}
		if len(first) == 0 {
			return domain.Errorf(domain.CodeNotFound, "the audit log knows no immutability policy %s", uuid)
		}
		if page.Period, err = periodOf(r, HistoryQuery{Size: q.Size, From: q.From, To: q.To}); err != nil {
			return err
		}
		created, err := audit.Decode(first[0])
		if err != nil {
			return err
		}
		changes, _, err := policyChanges(r, created.Organization, page.Period.To)
		page.Policy = history.NewPolicyTimeline(created, changes)
		return err
	})
	if err != nil {
		return page, err
	}
	walk := coverageWalk{policy: page.Policy, period: page.Period, limit: q.Limit}
	place := meta.TagPlace{Repository: q.Behind.Repository, Tag: q.Behind.Tag, Index: math.MaxInt64}
	for read := 0; ; {
		var part []audit.Indexed
		err := c.read(ctx, func(r *meta.Reader) (err error) {
			part, err = r.TagLog(page.Policy.Organization, page.Policy.Repository, place, page.Period.To, historyPart)
			return err
		})
		if err != nil {
			return page, err
		}
		for _, e := range part {
			at := TagName{Repository: e.Repository, Tag: e.Tag}
			if at != walk.at {
				walk.finish()
				if walk.full() || read > coverageBudget {
					previous := walk.at
					page.Tags, page.Next = walk.found, &previous
					return page, nil
				}
				walk.start(at)
			}
			read++
			if err := walk.apply(e); err != nil {
				return page, err
			}
		}
		if len(part) < historyPart {
			walk.finish()
			page.Tags = walk.found
			return page, nil
		}
		last := part[len(part)-1]
		place = meta.TagPlace{Repository: last.Repository, Tag: last.Tag, Index: last.Index}
		if walk.replay == nil {
			place.Index = math.MaxInt64 // on to the next tag
		}
	}
}

// coverageWalk goes from tag to tag.
type coverageWalk struct {
	policy *history.PolicyTimeline
	period history.Period
	limit  int
	at     TagName
	// replay is nil for a tag that the policy does not concern.
	replay *history.Replay
	found  []history.Coverage
}

func (w *coverageWalk) full() bool { return len(w.found) >= w.limit }

func (w *coverageWalk) start(at TagName) {
	w.at, w.replay = at, nil
	if w.policy.Concerns(at.Repository, at.Tag, w.period) {
		name := domain.RepositoryName{Organization: w.policy.Organization, Path: at.Repository}
		w.replay = history.NewReplay(history.NewTimeline(name, at.Tag), w.policy.All, w.period)
	}
}

func (w *coverageWalk) apply(e audit.Indexed) error {
	if w.replay == nil {
		return nil
	}
	view, err := audit.Decode(e)
	if err == nil {
		w.replay.Apply(view)
	}
	return err
}

func (w *coverageWalk) finish() {
	if w.replay == nil {
		return
	}
	w.replay.Finish()
	c := w.policy.Cover(w.at.Repository, w.at.Tag, w.replay.Take(), w.period)
	if len(c.Locked) > 0 || len(c.Unprotected) > 0 {
		w.found = append(w.found, c)
	}
	w.replay = nil
}
