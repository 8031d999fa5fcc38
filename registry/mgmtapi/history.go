package mgmtapi

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"time"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/history"
	"github.com/tidelock/tidelock/registry/openapi"
)

// historyLimit bounds the entries that a page of a tag's history reads, and the tags of a page of a policy's report.
const historyLimit = 1000

// tagHistory is TagHistory in the OpenAPI document, whose parts are those of registry/history.
type tagHistory struct {
	Repository string         `json:"repository"`
	Tag        string         `json:"tag"`
	Period     history.Period `json:"period"`
	history.History
	Basis    []int64           `json:"basis"`
	Entries  []openapi.LogItem `json:"entries"`
	NextPage string            `json:"next_page,omitempty"`
}

func (a *API) tagHistory(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	var q core.HistoryQuery
	if q.From, q.To, q.Size, q.Limit, err = c.query.historyPart(); err != nil {
		return answer{}, err
	}
	if text := c.query.text("next_page"); text != "" {
		if !q.From.IsZero() || !q.To.IsZero() || q.Size != 0 {
			return answer{}, badField("next_page", "it has since, until and size in it; leave them out")
		}
		q.Cursor = &core.HistoryCursor{}
		if err := decodePage(text, q.Cursor); err != nil {
			return answer{}, err
		}
		if !q.Cursor.State.Valid() {
			return answer{}, errNotAPage
		}
	}
	page, err := a.core.History(c.Context(), name, c.parameters["tag"], q)
	if err != nil {
		return answer{}, err
	}
	view := tagHistory{
		Repository: name.String(), Tag: c.parameters["tag"], Period: page.Period, History: page.History, Basis: orEmpty(page.Basis), Entries: []openapi.LogItem{},
	}
	view.Digests, view.Locks, view.Refusals = orEmpty(view.Digests), orEmpty(view.Locks), orEmpty(view.Refusals)
	for _, entry := range page.Entries {
		view.Entries = append(view.Entries, viewLogItem(entry, false))
	}
	if page.Next != nil {
		view.NextPage, err = encodePage(page.Next)
	}
	return ok(view), err
}

// policyCoverage is PolicyCoverage in the OpenAPI document.
type policyCoverage struct {
	Policy       string                   `json:"policy_uuid"`
	Organization string                   `json:"organization"`
	Repository   string                   `json:"repository,omitempty"`
	Created      history.Moment           `json:"created"`
	Period       history.Period           `json:"period"`
	Revisions    []history.PolicyRevision `json:"revisions"`
	Tags         []history.Coverage       `json:"tags"`
	NextPage     string                   `json:"next_page,omitempty"`
}

func (a *API) policyCoverage(c *call) (answer, error) {
	var q core.CoverageQuery
	var err error
	if q.From, q.To, q.Size, q.Limit, err = c.query.historyPart(); err != nil {
		return answer{}, err
	}
	text := c.query.text("next_page")
	if text != "" {
		if err := decodePage(text, &q.Behind); err != nil {
			return answer{}, err
		}
	}
	page, err := a.core.PolicyCoverage(c.Context(), c.parameters["uuid"], q)
	if err != nil {
		return answer{}, err
	}
	p := page.Policy
	view := policyCoverage{
		Policy: p.Policy, Organization: p.Organization, Repository: p.Repository, Created: p.Created, Period: page.Period,
		Revisions: []history.PolicyRevision{}, Tags: orEmpty(page.Tags),
	}
	if text == "" {
		view.Revisions = p.Revisions()
	}
	for i := range view.Tags {
		view.Tags[i].Locked, view.Tags[i].Unprotected = orEmpty(view.Tags[i].Locked), orEmpty(view.Tags[i].Unprotected)
	}
	if page.Next != nil {
		view.NextPage, err = encodePage(page.Next)
	}
	return ok(view), err
}

// historyPart reads since, until, size and limit.
func (q query) historyPart() (from, to time.Time, size int64, limit int, err error) {
	if from, _, err = q.isoInstant("since"); err != nil {
		return from, to, 0, 0, err
	}
	to, whole, err := q.isoInstant("until")
	if err != nil {
		return from, to, 0, 0, err
	}
	if whole {
		to = to.AddDate(0, 0, 1)
	}
	if !to.IsZero() && !to.After(from) {
		return from, to, 0, 0, badField("until", "%s is before since", q.text("until"))
	}
	if size, err = q.number("size", 0, 1, math.MaxInt64); err != nil {
		return from, to, 0, 0, err
	}
	most, err := q.number("limit", historyLimit, 1, historyLimit)
	return from, to, size, int(most), err
}

// isoInstant reads a date (YYYY-MM-DD) or a time (RFC 3339); zero if there is none. whole reports a date.
func (q query) isoInstant(name string) (t time.Time, whole bool, err error) {
	text := q.text(name)
	if text == "" {
		return time.Time{}, false, nil
	}
	if t, err = time.Parse(time.DateOnly, text); err == nil {
		return t, true, nil
	}
	if t, err = time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), false, nil
	}
	return time.Time{}, false, badField(name, "%q is neither a date (YYYY-MM-DD) nor a time (RFC 3339, such as 2026-01-31T00:00:00Z)", text)
}

// encodePage writes where the next page begins. It holds nothing but what the page before told.
func encodePage(cursor any) (string, error) {
	content, err := json.Marshal(cursor)
	return base64.RawURLEncoding.EncodeToString(content), err
}

var errNotAPage = badField("next_page", "it is not what the page before gave; begin again without it")

func decodePage(text string, cursor any) error {
	content, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(content, cursor)
	}
	if err != nil {
		return errNotAPage
	}
	return nil
}

// orEmpty makes JSON say [] where there is nothing.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
