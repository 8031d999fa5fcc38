package mgmtapi

import (
	"math"
	"slices"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// followPage is how many entries an answer has by default.
const followPage = 100

// follow is how far a caller has read the log, and how it wants to go on.
type follow struct {
	audit.Query
	wait time.Duration
}

// readFollow reads whether the caller follows the log from its end (After is math.MaxInt64) or from where it was.
func (c *call) readFollow() (follow, error) {
	selection, err := c.selectLog()
	if err != nil {
		return follow{}, err
	}
	f := follow{Query: selection}
	least := int64(1)
	if c.query.text("after") == "" {
		least = 0
	}
	if f.After, err = c.query.number("after", math.MaxInt64, -1, math.MaxInt64-1); err != nil {
		return follow{}, err
	}
	limit, err := c.query.number("limit", followPage, least, maxFollow)
	if err != nil {
		return follow{}, err
	}
	f.Limit = int(limit)
	wait, err := c.query.number("wait", 0, 0, int64(maxWait/time.Second))
	f.wait = time.Duration(wait) * time.Second
	return f, err
}

func (a *API) followLogs(c *call) (answer, error) {
	f, err := c.readFollow()
	if err != nil {
		return answer{}, err
	}
	var page audit.Page
	if f.After == math.MaxInt64 {
		page, err = a.newest(c, f.Query)
	} else {
		page, err = a.newer(c, f)
	}
	if err != nil {
		return answer{}, err
	}
	if len(page.Entries) == 0 {
		if err := a.checkLogExists(c, f.Query); err != nil {
			return answer{}, err
		}
	}
	tail := openapi.LogTail{Next: page.Next, Incomplete: page.More, Entries: []openapi.LogEntry{}}
	if tail.Origin, err = a.core.LogOrigin(c.Context()); err != nil {
		return answer{}, err
	}
	for _, entry := range page.Entries {
		tail.Entries = append(tail.Entries, viewLogEntry(entry))
	}
	return ok(tail), nil
}

// newest returns the last entries of the log. Next is its last index; More says that older ones were not looked at.
func (a *API) newest(c *call, selection audit.Query) (audit.Page, error) {
	selection.After = -1
	// What is committed by now comes first; it may not have its index yet.
	page, err := a.core.LogPage(c.Context(), audit.Query{After: -1, Limit: 1}, audit.Budget{})
	if err != nil || len(page.Entries) == 0 {
		return audit.Page{Progress: audit.Progress{Next: -1}}, err
	}
	last := page.Entries[0].Index
	selection.Before = last + 1
	if selection.Limit > 0 {
		if page, err = a.core.LogPage(c.Context(), selection, pageBudget()); err != nil {
			return audit.Page{}, err
		}
	} else {
		page = audit.Page{}
	}
	slices.Reverse(page.Entries)
	page.Progress = audit.Progress{Next: last, More: page.Exhausted}
	return page, nil
}

// newer returns the entries behind a place in the log, and waits for one if there is none.
func (a *API) newer(c *call, f follow) (audit.Page, error) {
	f.Ascending = true
	until := time.Now().Add(f.wait)
	for {
		size, err := a.core.LogSize(c.Context())
		if err != nil {
			return audit.Page{}, err
		}
		if f.After >= size {
			return audit.Page{}, domain.Errorf(domain.CodeStale, "the log has no entry %d: it is not the log that was read before", f.After)
		}
		page, err := a.core.LogPage(c.Context(), f.Query, pageBudget())
		if err != nil {
			return audit.Page{}, err
		}
		// All that there was is looked at, so the next call need not do it again.
		if !page.More {
			page.Next = max(page.Next, size-1)
		}
		left := time.Until(until)
		if len(page.Entries) > 0 || page.More || left <= 0 || a.draining.Err() != nil {
			return page, nil //nolint:nilerr // nothing failed
		}
		f.After = page.Next
		if err := a.awaitLog(c, f.After, left); err != nil {
			return audit.Page{}, err
		}
	}
}
