package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/history"
	"github.com/tidelock/tidelock/registry/openapi"
)

// reportOptions say what a report is about.
type reportOptions struct {
	remote
	repository, tag, policy, since, until, format string
}

// Formats of reports.
const (
	formatText = "text"
	formatJSON = "json"
)

// checkpointTimeout bounds how long the registry may take for a checkpoint.
const checkpointTimeout = time.Minute

func newAuditReportCommand() *cobra.Command {
	var o reportOptions
	cmd := &cobra.Command{
		Use:   "report (--repository REPOSITORY --tag TAG | --policy UUID)",
		Short: "Report from the audit log when a tag was locked and by what, or which tags a policy locked",
		Long: `Report from the audit log, also about what is gone.

With --repository and --tag: every manifest that the tag pointed to, when the tag was locked, by what, and which attempts
were refused. --format json has the entries that the report rests on, with proofs that they are in the log of a signed
checkpoint; tidelock audit verify-report checks them offline.

With --policy: each tag that the policy locked, and the windows in which a tag whose name the policy covers was there and
nothing locked it. --format json has one line for the policy and one for each tag.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	o.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&o.repository, "repository", "", "repository of the tag, as organization/path")
	cmd.Flags().StringVar(&o.tag, "tag", "", "tag to report about")
	cmd.Flags().StringVar(&o.policy, "policy", "", "UUID of the policy to report about")
	cmd.Flags().StringVar(&o.since, "since", "", "first day (YYYY-MM-DD, UTC) or instant (RFC 3339) of the period; the log's beginning without it")
	cmd.Flags().StringVar(&o.until, "until", "", "last day (YYYY-MM-DD, UTC) of the period, or the instant (RFC 3339) before which it ends; now without it")
	cmd.Flags().StringVar(&o.format, "format", formatText, "text or json")
	return cmd
}

func (o *reportOptions) run(ctx context.Context, out io.Writer) error {
	ofTag := o.repository != "" && o.tag != "" && o.policy == ""
	if !ofTag && (o.policy == "" || o.repository != "" || o.tag != "") {
		return errors.New("say what to report about: --repository and --tag, or --policy")
	}
	if o.format != formatText && o.format != formatJSON {
		return fmt.Errorf("--format %q is neither text nor json", o.format)
	}
	api, err := o.client()
	if err != nil {
		return err
	}
	signed, err := fetchCheckpoint(ctx, api)
	if err != nil {
		return err
	}
	checkpoint, err := audit.ParseCheckpoint(signed)
	if err != nil {
		return err
	}
	if checkpoint.Size == 0 {
		return errors.New("the audit log is empty")
	}
	if !ofTag {
		return o.reportPolicy(ctx, api, signed, checkpoint.Size, out)
	}
	report, err := o.reportTag(ctx, api, checkpoint.Size)
	if err != nil {
		return err
	}
	report.Checkpoint = signed
	if o.format == formatJSON {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	return writeTagReport(out, report)
}

func fetchCheckpoint(ctx context.Context, api *client.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	body, err := api.Stream(ctx, []string{"api", "v1", "superuser", "audit", "checkpoint"}, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	content, err := io.ReadAll(io.LimitReader(body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("reading the checkpoint: %w", err)
	}
	return string(content), nil
}

// period is what the report's calls ask for.
func (o *reportOptions) period(size int64) url.Values {
	query := url.Values{"size": {strconv.FormatInt(size, 10)}}
	if o.since != "" {
		query.Set("since", o.since)
	}
	if o.until != "" {
		query.Set("until", o.until)
	}
	return query
}

// reportTag asks which entries a tag's history rests on, reads these with their proofs, and tells the history from them.
func (o *reportOptions) reportTag(ctx context.Context, api *client.Client, size int64) (*history.Report, error) {
	name, err := domain.ParseRepositoryName(o.repository)
	if err != nil {
		return nil, err
	}
	report := &history.Report{Format: history.ReportFormat, Repository: o.repository, Tag: o.tag, Since: o.since, Until: o.until}
	var indices []int64
	for query := o.period(size); ; {
		var page openapi.TagHistory
		if err := api.Get(ctx, []string{"api", "v1", "repository", name.String(), "tag", o.tag, "history"}, query, &page); err != nil {
			return nil, err
		}
		report.Period = history.Period{From: page.Period.From, To: page.Period.To, PrunedBefore: page.Period.PrunedBefore}
		indices = append(indices, page.Basis...)
		for _, entry := range page.Entries {
			indices = append(indices, entry.Index)
		}
		if page.NextPage == "" {
			break
		}
		query = url.Values{"next_page": {page.NextPage}}
	}
	slices.Sort(indices)
	indices = slices.Compact(indices)
	report.Entries = make([]history.ProvenEntry, len(indices))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, index := range indices {
		group.Go(func() (err error) {
			report.Entries[i], err = readProven(ctx, api, index, size)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return report, report.Tell()
}

func readProven(ctx context.Context, api *client.Client, index, size int64) (e history.ProvenEntry, err error) {
	var evidence openapi.Evidence
	if err := api.Get(ctx, []string{"api", "v1", "superuser", "audit", "entries", strconv.FormatInt(index, 10)}, nil, &evidence); err != nil {
		return e, err
	}
	var proof openapi.InclusionProof
	query := url.Values{"index": {strconv.FormatInt(index, 10)}, "size": {strconv.FormatInt(size, 10)}}
	if err := api.Get(ctx, []string{"api", "v1", "superuser", "audit", "proof", "inclusion"}, query, &proof); err != nil {
		return e, err
	}
	e = history.ProvenEntry{Index: index, Leaf: evidence.Leaf, Personal: evidence.Personal, Proof: make([]tlog.Hash, len(proof.Proof))}
	for i, text := range proof.Proof {
		if e.Proof[i], err = tlog.ParseHash(text); err != nil {
			return e, fmt.Errorf("the proof of entry %d: %w", index, err)
		}
	}
	return e, nil
}

// textWriter writes lines until one fails.
type textWriter struct {
	out io.Writer
	err error
}

func (w *textWriter) line(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.out, format+"\n", args...)
	}
}

// moment writes an entry's place for people.
func moment(m history.Moment) string {
	return m.Time.UTC().Format(time.RFC3339) + " (entry " + strconv.FormatInt(m.Index, 10) + ")"
}

func ending(to *history.Moment) string {
	if to == nil {
		return "the end of the report"
	}
	return moment(*to)
}

// entries says which part of the log a report is about.
func entries(p history.Period) string {
	if p.To <= p.From {
		return "a period without entries"
	}
	return fmt.Sprintf("entries %d to %d of the log", p.From, p.To-1)
}

func writeTagReport(out io.Writer, r *history.Report) error {
	w := &textWriter{out: out}
	w.line("Audit report of %s:%s, %s", r.Repository, r.Tag, entries(r.Period))
	w.line("")
	for _, statement := range r.Statements {
		w.line("%s", statement)
	}
	w.line("\nIt pointed to")
	for _, p := range r.Digests {
		note := ""
		if p.Append {
			note = ", added to a locked signature tag"
		}
		w.line("  %s from %s to %s, by %s (%s%s)", p.Digest, moment(p.From), ending(p.To), p.By, p.Kind, note)
	}
	w.line("\nRefused attempts")
	if len(r.Refusals) == 0 {
		w.line("  none")
	}
	for _, refusal := range r.Refusals {
		w.line("  %s %s", moment(refusal.Moment), describeRefusal(refusal))
	}
	w.line("\nEntries that this rests on, with their hashes")
	for i := range r.Entries {
		e := &r.Entries[i]
		view, err := e.View()
		if err != nil {
			return err
		}
		w.line("  %d %s %s %s", e.Index, view.Time.UTC().Format(time.RFC3339), audit.LeafHash([]byte(e.Leaf)), describeView(view))
	}
	w.line("\nThe log's checkpoint\n%s", strings.TrimRight(r.Checkpoint, "\n"))
	return w.err
}

func describeRefusal(r history.Refusal) string {
	text := r.Operation + " by " + r.By.String()
	if r.Of != history.OfTag {
		text += ", on the " + r.Of
	}
	if len(r.Attempted) > 0 {
		text += ", with " + strings.Join(r.Attempted, ", ")
	}
	if r.RepeatOf != "" {
		return fmt.Sprintf("%s: %d repeats of %s", text, r.Count, r.RepeatOf)
	}
	return text + ": " + r.Reason
}

// describeView says what an entry did, in few words.
func describeView(v audit.View) string {
	text := string(v.Kind)
	for _, field := range []string{"hold", "policy_uuid", "trigger", "operation"} {
		if value, ok := v.Metadata[field].(string); ok {
			text += " " + field + "=" + value
		}
	}
	for _, field := range []string{"old_expiration_date", "expiration_date"} {
		if at, ok := v.Metadata[field].(float64); ok {
			text += " " + field + "=" + time.Unix(int64(at), 0).UTC().Format(time.RFC3339)
		}
	}
	return text
}
