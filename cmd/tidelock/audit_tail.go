package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// tailWait is how long one call waits for an entry, and tailRetry how long the next one after a failure waits.
	tailWait  = 20 * time.Second
	tailRetry = time.Second
)

// tail is what `tidelock audit tail` reads, and how it prints it.
type tail struct {
	remote       remote
	lines        int
	follow, json bool

	organization, repository string
	filters                  url.Values

	out, messages io.Writer
}

func newAuditTailCommand() *cobra.Command {
	t := tail{filters: url.Values{}}
	filters := map[string]*string{}
	var kinds []string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print the newest entries of the audit log, and with -f those that come in",
		Long: `Print the newest entries of the audit log, the oldest of them first, and with -f those that come in.

With -f it goes on when the registry was away, at the entry where it was, until Ctrl-C. A log that is another one than
before, for instance that of an older backup, ends it with an error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.out, t.messages = cmd.OutOrStdout(), cmd.ErrOrStderr()
			for name, value := range filters {
				if *value != "" {
					t.filters.Set(name, *value)
				}
			}
			if len(kinds) > 0 {
				t.filters["kind"] = kinds
			}
			return t.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	t.remote.addFlags(flags)
	flags.IntVarP(&t.lines, "lines", "n", 20, "how many of the newest entries to print, up to "+strconv.Itoa(client.MaxLogLimit))
	flags.BoolVarP(&t.follow, "follow", "f", false, "print entries as they come in")
	flags.BoolVar(&t.json, "json", false, "print each entry as JSON on a line")
	flags.StringVar(&t.organization, "organization", "", "only the log of this organization and its repositories")
	flags.StringVar(&t.repository, "repository", "", "only the log of this repository, such as team-a/app")
	for _, filter := range []struct{ flag, parameter, usage string }{
		{"tag", "tag", "only entries about tags of this name"},
		{"policy", "policy", "only entries about the policy of this UUID"},
		{"performer", "performer", "only what the account of this name did"},
		{"search", "search", "only entries that say this text"},
		{"since", "starttime", "only entries since then, MM/DD/YYYY or RFC 3339"},
	} {
		filters[filter.parameter] = flags.String(filter.flag, "", filter.usage)
	}
	flags.StringArrayVar(&kinds, "kind", nil, "only entries of this kind; may be given several times")
	return cmd
}

// path names the log to read.
func (t *tail) path() []string {
	switch {
	case t.repository != "":
		return []string{"repository", t.repository}
	case t.organization != "":
		return []string{"organization", t.organization}
	default:
		return []string{"superuser"}
	}
}

// run prints the newest entries, and follows the log until ctx ends, which is no error.
func (t *tail) run(ctx context.Context) error {
	switch {
	case t.lines < 0 || t.lines > client.MaxLogLimit:
		return fmt.Errorf("--lines: %d is not from 0 to %d", t.lines, client.MaxLogLimit)
	case t.organization != "" && t.repository != "":
		return errors.New("--organization and --repository cannot stand together: a repository's name has its organization's")
	}
	registry, err := t.remote.client()
	if err != nil {
		return err
	}
	query := maps.Clone(t.filters)
	query.Set("limit", strconv.Itoa(t.lines))
	read := func(wait time.Duration) (openapi.LogTail, error) {
		return t.read(ctx, registry, query, wait)
	}
	segment, err := read(0)
	origin := segment.Origin
	if err == nil && segment.Incomplete {
		fmt.Fprintln(t.messages, "tidelock: older entries were not searched: give --since, or fewer --lines, or another filter")
	}
	for err == nil {
		if err := t.print(segment.Entries); err != nil {
			return err
		}
		if !t.follow {
			return nil
		}
		query.Set("limit", strconv.Itoa(client.MaxLogLimit))
		query.Set("after", strconv.FormatInt(segment.Next, 10))
		if segment, err = read(tailWait); err == nil && segment.Origin != origin {
			fmt.Fprintf(t.messages, "tidelock: the log goes on as %s: a backup was restored\n", segment.Origin)
			origin = segment.Origin
		}
	}
	if t.follow && ctx.Err() != nil {
		return nil //nolint:nilerr // Ctrl-C is how it ends
	}
	return err
}

// read calls the registry, and while it follows the log again until the registry answers.
func (t *tail) read(ctx context.Context, registry *client.Client, query url.Values, wait time.Duration) (openapi.LogTail, error) {
	for waiting := false; ; {
		segment, err := registry.FollowLog(ctx, t.path(), query, wait)
		if err == nil && waiting {
			fmt.Fprintln(t.messages, "tidelock: the registry is back")
		}
		if err == nil || !t.follow || ctx.Err() != nil || !worthWaiting(err) {
			return segment, err
		}
		if !waiting {
			fmt.Fprintf(t.messages, "tidelock: waiting for the registry: %v\n", err)
			// That it is back is said at once, not when there is an entry.
			waiting, wait = true, 0
		}
		pause := tailRetry
		var answered *client.Error
		if errors.As(err, &answered) {
			pause = max(pause, answered.RetryAfter)
		}
		select {
		case <-ctx.Done():
			return segment, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// worthWaiting tells that the same call may succeed later. Wrong credentials do not become right.
func worthWaiting(err error) bool {
	var answered *client.Error
	if errors.As(err, &answered) && (answered.Status == http.StatusUnauthorized || answered.Status == http.StatusForbidden) {
		return false
	}
	return client.IsTransient(err)
}

func (t *tail) print(entries []openapi.LogEntry) error {
	for _, entry := range entries {
		line := describeEntry(entry)
		if t.json {
			encoded, err := json.Marshal(entry)
			if err != nil {
				return err
			}
			line = string(encoded)
		}
		if _, err := fmt.Fprintln(t.out, line); err != nil {
			return err
		}
	}
	return nil
}

// described is the metadata that a line says in other words.
var described = []string{"namespace", "repo", "tag"}

// describeEntry writes an entry on one line for people:
//
//	2026-03-14T15:09:26Z 12 create_tag team-a/app:v1 by user admin from 192.0.2.1 manifest_digest=sha256:…
func describeEntry(entry openapi.LogEntry) string {
	words := []string{entry.Time.UTC().Format(time.RFC3339), strconv.FormatInt(entry.Index, 10), entry.Kind}
	about := entry.Organization
	if entry.Repository != "" {
		about += "/" + entry.Repository
	}
	if entry.Tag != "" {
		about += ":" + entry.Tag
	}
	if about != "" {
		words = append(words, printable(about))
	}
	if entry.Performer.Kind != "" {
		words = append(words, "by", entry.Performer.Kind)
	}
	if entry.Performer.Name != "" {
		words = append(words, printable(entry.Performer.Name))
	}
	if entry.Address != "" {
		words = append(words, "from", printable(entry.Address))
	}
	for _, name := range slices.Sorted(maps.Keys(entry.Metadata)) {
		if !slices.Contains(described, name) {
			words = append(words, printable(name)+"="+describeValue(entry.Metadata[name]))
		}
	}
	return strings.Join(words, " ")
}

func describeValue(value any) string {
	if text, ok := value.(string); ok && text != "" && !strings.ContainsFunc(text, unicode.IsSpace) {
		return printable(text)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return printable(string(encoded))
}

// printable keeps what a terminal would obey out of a line.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.QuoteToGraphic(text)
	}
	return text
}
