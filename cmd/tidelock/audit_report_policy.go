package main

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"strings"

	"github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/history"
)

// policyHead is the first line of a policy's report in JSON.
type policyHead struct {
	Format       string                   `json:"format"`
	Policy       string                   `json:"policy_uuid"`
	Organization string                   `json:"organization"`
	Repository   string                   `json:"repository,omitempty"`
	Since        string                   `json:"since,omitempty"`
	Until        string                   `json:"until,omitempty"`
	Created      history.Moment           `json:"created"`
	Period       history.Period           `json:"period"`
	Revisions    []history.PolicyRevision `json:"revisions"`
	Checkpoint   string                   `json:"checkpoint"`
}

// policyPage is a page of the registry's answer.
type policyPage struct {
	policyHead
	Tags     []history.Coverage `json:"tags"`
	NextPage string             `json:"next_page"`
}

// policyReportFormat is the version of a policy's report.
const policyReportFormat = "tidelock-policy-report/v1"

// reportPolicy writes a policy's report page by page: it holds one page at a time.
func (o *reportOptions) reportPolicy(ctx context.Context, api *client.Client, signed string, size int64, out io.Writer) error {
	query := o.period(size)
	write, end := writePolicyJSON, func() error { return nil }
	if o.format == formatText {
		text := &policyText{textWriter: textWriter{out: out}}
		write, end = text.page, text.end
	}
	for first := true; ; first = false {
		var page policyPage
		if err := api.Get(ctx, []string{"api", "v1", "superuser", "immutabilitypolicy", o.policy, "coverage"}, query, &page); err != nil {
			return err
		}
		page.Format, page.Since, page.Until, page.Checkpoint = policyReportFormat, o.since, o.until, signed
		if err := write(out, &page, first); err != nil {
			return err
		}
		if page.NextPage == "" {
			return end()
		}
		query = withPage(query, page.NextPage)
	}
}

func withPage(query url.Values, next string) url.Values {
	query.Set("next_page", next)
	return query
}

func writePolicyJSON(out io.Writer, page *policyPage, first bool) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if first {
		if err := encoder.Encode(page.policyHead); err != nil {
			return err
		}
	}
	for _, t := range page.Tags {
		if err := encoder.Encode(t); err != nil {
			return err
		}
	}
	return nil
}

// policyText writes a policy's report for people.
type policyText struct {
	textWriter
	locked, windows int
	checkpoint      string
}

func (w *policyText) page(_ io.Writer, page *policyPage, first bool) error {
	if first {
		w.head(page)
	}
	for _, t := range page.Tags {
		w.line("  %s/%s:%s", page.Organization, t.Repository, t.Tag)
		if len(t.Locked) > 0 {
			w.locked++
		}
		for _, s := range t.Locked {
			w.line("    locked from %s to %s", moment(s.From), ending(s.To))
		}
		for _, window := range t.Unprotected {
			w.windows++
			w.line("    NOT PROTECTED from %s to %s: %s", moment(window.From), ending(window.To), windowCauses[window.Cause])
		}
	}
	return w.err
}

// windowCauses say why a policy did not lock a name.
var windowCauses = map[history.WindowCause]string{
	history.WindowDryRun:     "the policy was on a dry run",
	history.WindowNotCovered: "the policy did not cover the name",
	history.WindowDeleted:    "the policy was deleted",
}

func (w *policyText) head(page *policyPage) {
	w.checkpoint = page.Checkpoint
	where := "organization " + page.Organization
	if page.Repository != "" {
		where = "repository " + page.Organization + "/" + page.Repository
	}
	w.line("Audit report of policy %s of %s, %s", page.Policy, where, entries(page.Period))
	if before := page.Period.PrunedBefore; before > 0 {
		w.line("\nThe entries before %d were archived and pruned; what only they say is missing here.", before)
	}
	w.line("\nRevisions")
	for _, r := range page.Revisions {
		pattern := r.Pattern
		if r.Inverted {
			pattern = "all but " + pattern
		}
		w.line("  %d: pattern %s, %s, %s, by %s, from %s to %s", r.Revision, pattern, r.Mode, r.Reclaim, r.By, moment(r.From), ending(r.To))
	}
	w.line("\nTags")
}

func (w *policyText) end() error {
	w.line("\nThe policy locked %d tags. There were %d windows in which a tag whose name it covers was not protected.", w.locked, w.windows)
	w.line("\nThe log's checkpoint\n%s", strings.TrimRight(w.checkpoint, "\n"))
	return w.err
}
