package mgmtapi

import (
	"strconv"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// logPage is how many entries a page has, as in Quay, if the caller does not say how many up to maxLogPage.
	logPage    = 20
	maxLogPage = 100
	// pageEntries and pageTime bound what is looked at for one page: in a log of any size no call takes long. What the
	// filters do not find by then is left to the next page.
	pageEntries = 10_000
	pageTime    = 2 * time.Second
	// maxSearch bounds a text that is searched for, in bytes.
	maxSearch = 256
)

// pageBudget is what one page may take.
func pageBudget() audit.Budget {
	return audit.Budget{Entries: pageEntries, Until: time.Now().Add(pageTime)}
}

// selectLog reads whose log the path means, and the filters.
func (c *call) selectLog() (audit.Query, error) {
	selection := audit.Query{
		After: -1, Tag: c.query.text("tag"), Policy: c.query.text("policy"), Performer: c.query.text("performer"), Text: c.query.text("search"),
	}
	if len(selection.Text) > maxSearch {
		return selection, badField("search", "the text is longer than %d bytes", maxSearch)
	}
	switch {
	case c.parameters["repository"] != "":
		name, err := c.repository()
		if err != nil {
			return selection, err
		}
		selection.Organization, selection.Repository = name.Organization, name.Path
	case c.parameters["organization"] != "":
		name, err := c.organization()
		if err != nil {
			return selection, err
		}
		selection.Organization = name
	}
	for _, kind := range c.query["kind"] {
		// A kind that there is not would select nothing, which reads as if nothing had happened.
		if !audit.Known(audit.Kind(kind)) {
			return selection, badField("kind", "%q is no kind of entry; there are %s", kind, audit.KindNames())
		}
		selection.Kinds = append(selection.Kinds, audit.Kind(kind))
	}
	var err error
	selection.From, selection.To, err = c.query.period()
	return selection, err
}

func (a *API) listLogs(c *call) (answer, error) {
	selection, err := c.selectLog()
	if err != nil {
		return answer{}, err
	}
	// A page begins below the last entry of the page before, so entries that come in between shift nothing.
	if selection.Before, err = a.nextPage(c); err != nil {
		return answer{}, err
	}
	limit, err := c.query.number("limit", logPage, 1, maxLogPage)
	if err != nil {
		return answer{}, err
	}
	selection.Limit = int(limit)
	found, err := a.core.LogPage(c.Context(), selection, pageBudget())
	if err != nil {
		return answer{}, err
	}
	if len(found.Entries) == 0 && !found.More {
		if err := a.checkLogExists(c, selection); err != nil {
			return answer{}, err
		}
	}
	page := openapi.LogPage{StartTime: rfc2822(time.Unix(0, 0)), EndTime: rfc2822(a.now()), Logs: []openapi.LogItem{}}
	if !selection.From.IsZero() {
		page.StartTime = rfc2822(selection.From)
	}
	if !selection.To.IsZero() {
		page.EndTime = rfc2822(selection.To)
	}
	if found.More {
		page.NextPage = strconv.FormatInt(found.Next, 10)
		page.Incomplete = found.Exhausted
	}
	for _, entry := range found.Entries {
		page.Logs = append(page.Logs, viewLogItem(entry, selection.Organization == ""))
	}
	return ok(page), nil
}

// nextPage reads where a page begins, 0 for the newest entry. A number that no page can have named is refused.
func (a *API) nextPage(c *call) (int64, error) {
	text := c.query.text("next_page")
	if text == "" {
		return 0, nil
	}
	wrong := badField("next_page", "%q is not the next_page of a page of this log", text)
	before, err := strconv.ParseInt(text, 10, 64)
	if err != nil || before < 1 {
		return 0, wrong
	}
	size, err := a.core.LogSize(c.Context())
	if err == nil && before > size {
		err = wrong
	}
	return before, err
}

// checkLogExists tells a name that was never there (404) from a log without entries that match. The log of what was
// deleted stays readable.
func (a *API) checkLogExists(c *call, selection audit.Query) error {
	if selection.Organization == "" {
		return nil
	}
	all := audit.Query{Organization: selection.Organization, Repository: selection.Repository, After: -1, Limit: 1}
	entries, err := a.core.Log(c.Context(), all)
	if err != nil || len(entries) > 0 {
		return err
	}
	if selection.Repository != "" {
		_, err = a.core.Repository(c.Context(), domain.RepositoryName{Organization: selection.Organization, Path: selection.Repository})
	} else {
		_, err = a.core.Organization(c.Context(), selection.Organization)
	}
	return err
}

func (a *API) countLogs(c *call) (answer, error) {
	selection, err := c.selectLog()
	if err != nil {
		return answer{}, err
	}
	counts, err := a.core.LogCounts(c.Context(), selection)
	if err != nil {
		return answer{}, err
	}
	if len(counts) == 0 {
		if err := a.checkLogExists(c, selection); err != nil {
			return answer{}, err
		}
	}
	aggregated := openapi.LogCounts{Aggregated: []openapi.LogCount{}}
	for _, count := range counts {
		aggregated.Aggregated = append(aggregated.Aggregated, openapi.LogCount{Kind: string(count.Kind), Count: count.Count, Datetime: rfc2822(count.Day)})
	}
	return ok(aggregated), nil
}

func viewLogItem(entry audit.View, withNamespace bool) openapi.LogItem {
	item := openapi.LogItem{
		Index: entry.Index, Kind: string(entry.Kind), Metadata: entry.Metadata, IP: entry.Address, Datetime: rfc2822(entry.Time),
	}
	if withNamespace && entry.Organization != "" {
		item.Namespace = &openapi.LogNamespace{Kind: "org", Name: entry.Organization}
	}
	if entry.PerformerKind != "" {
		performer := viewPerformer(entry)
		item.Performer = &performer
	}
	return item
}

func viewPerformer(entry audit.View) openapi.Performer {
	performer := openapi.Performer{Kind: string(entry.PerformerKind), Name: entry.Performer}
	// To Quay's clients a robot is a user of another kind.
	if entry.PerformerKind == domain.CallerRobot {
		performer.Kind, performer.IsRobot = kindUser, true
	}
	return performer
}
