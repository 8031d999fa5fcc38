package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// What the entries of the log that is measured are about.
const (
	logOrganizations = 50
	logRepositories  = 20 // of each organization
	logTags          = 200
	logPolicies      = 40
	logPerformers    = 100
	// logRare is the share of the entries of a rare kind and of a performer who seldom does anything.
	logRare = 50_000
	// logYear is how long the log took to grow.
	logYear = 365 * 24 * time.Hour
	// logBatch is how many entries are stored in one transaction.
	logBatch = 20_000
	// logReads is how often each page is read in a round.
	logReads = 20
)

// logs measures pages of a long audit log by each filter, over the whole log and in a range of a month, and the export of
// the log and its check. The entries are stored beforehand, straight in the database.
func logs(ctx context.Context, o options, t *table) error {
	for _, e := range o.engines {
		begin := time.Now().Add(-logYear)
		start := time.Now()
		s, err := startTidelock(ctx, o, e, "log-"+e.name, func(ctx context.Context, store meta.Store) error { return fillLog(ctx, store, o.entries, begin) })
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("%d entries stored first, %s", o.entries, e.name), figure(time.Since(start).Seconds(), " s"))
		c := newClient(s, 1)
		if err = readLog(ctx, o, e, c, begin, t); err == nil {
			err = exportAndVerify(ctx, o, s, c, t)
		}
		s.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// loggedKinds are the frequent kinds, in the order of their numbers.
var loggedKinds = []audit.Kind{
	audit.KindCreateTag, audit.KindCreateTag, audit.KindMoveTag, audit.KindPushRepo, audit.KindTagCreatedImmutable, audit.KindTagCreatedImmutable,
	audit.KindChangeImmutability, audit.KindPushFailed, audit.KindDeleteTag, audit.KindDeleteTagFailed,
}

func loggedPolicy(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// logged is the entry with a number.
func logged(number, entries int, begin time.Time) audit.Entry {
	random := rand.New(rand.NewPCG(1, uint64(number))) //nolint:gosec // the same log each time
	e := audit.Entry{
		Time: begin.Add(time.Duration(float64(logYear) * float64(number) / float64(entries))), Kind: loggedKinds[random.IntN(len(loggedKinds))],
		Organization: fmt.Sprintf("org-%d", random.IntN(logOrganizations)), Repository: fmt.Sprintf("app-%d", random.IntN(logRepositories)),
		Tag:    fmt.Sprintf("v1.%d", random.IntN(logTags)),
		Caller: domain.Caller{Name: fmt.Sprintf("user-%d", random.IntN(logPerformers)), Kind: domain.CallerUser, Address: fmt.Sprintf("192.0.2.%d", random.IntN(250))},
	}
	if random.IntN(2) == 0 {
		e.Policy = loggedPolicy(random.IntN(logPolicies))
	}
	switch random.IntN(logRare) {
	case 0:
		e.Kind = audit.KindAdoptCluster
	case 1:
		e.Caller.Name = "seldom"
	}
	e.Metadata = audit.Metadata{
		"namespace": e.Organization, "repo": e.Repository, "tag": e.Tag, "policy_uuid": e.Policy, "manifest_digest": digest.FromString(e.Tag).String(),
	}
	return e
}

func fillLog(ctx context.Context, store meta.Store, entries int, begin time.Time) error {
	const origin = "tidelock/bench"
	if err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.InitInstallation(origin, begin) }); err != nil {
		return err
	}
	for first := 0; first < entries; first += logBatch {
		records := make([]audit.Record, min(logBatch, entries-first))
		var group errgroup.Group
		const share = 1000
		for from := 0; from < len(records); from += share {
			group.Go(func() (err error) {
				for i := from; i < min(from+share, len(records)) && err == nil; i++ {
					records[i], err = audit.Encode(origin, logged(first+i, entries, begin))
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.AppendAudit(records...) }); err != nil {
			return err
		}
		if _, err := store.SequenceAudit(ctx, logBatch); err != nil {
			return err
		}
	}
	return nil
}

// logRead is a kind of page that is read: what is asked for, other values each time.
type logRead struct {
	name   string
	target func() (path string, query url.Values)
	// promised says whether a page has to come in time.
	promised bool
}

func logReadings() []logRead {
	organization := func() string { return fmt.Sprintf("org-%d", rand.IntN(logOrganizations)) }                     //nolint:gosec // any
	repository := func() string { return organization() + "/" + fmt.Sprintf("app-%d", rand.IntN(logRepositories)) } //nolint:gosec // any
	tag := func() string { return fmt.Sprintf("v1.%d", rand.IntN(logTags)) }                                        //nolint:gosec // any
	user := func() string { return fmt.Sprintf("user-%d", rand.IntN(logPerformers)) }                               //nolint:gosec // any
	everything := func(query func() url.Values) func() (string, url.Values) {
		return func() (string, url.Values) { return "/api/v1/superuser/logs", query() }
	}
	return []logRead{
		{"everything", everything(func() url.Values { return url.Values{} }), true},
		{"organization", func() (string, url.Values) { return "/api/v1/organization/" + organization() + "/logs", url.Values{} }, true},
		{"repository", func() (string, url.Values) { return "/api/v1/repository/" + repository() + "/logs", url.Values{} }, true},
		{"tag", func() (string, url.Values) {
			return "/api/v1/repository/" + repository() + "/logs", url.Values{"tag": {tag()}}
		}, true},
		{"tag anywhere", everything(func() url.Values { return url.Values{"tag": {tag()}} }), true},
		{"policy", everything(func() url.Values { return url.Values{"policy": {loggedPolicy(rand.IntN(logPolicies))}} }), true}, //nolint:gosec // any
		{"performer", everything(func() url.Values { return url.Values{"performer": {user()}} }), true},
		{"performer with few entries", everything(func() url.Values { return url.Values{"performer": {"seldom"}} }), true},
		{"kind", everything(func() url.Values { return url.Values{"kind": {string(audit.KindPushFailed)}} }), true},
		{"rare kind", everything(func() url.Values { return url.Values{"kind": {string(audit.KindAdoptCluster)}} }), true},
		{"three kinds", everything(func() url.Values {
			return url.Values{"kind": {string(audit.KindAdoptCluster), string(audit.KindPushFailed), string(audit.KindDeleteTagFailed)}}
		}), true},
		{"performer and kind", everything(func() url.Values {
			return url.Values{"performer": {user()}, "kind": {string(audit.KindPushFailed)}}
		}), false},
		{"organization and rare kind", func() (string, url.Values) {
			return "/api/v1/organization/" + organization() + "/logs", url.Values{"kind": {string(audit.KindAdoptCluster)}}
		}, false},
		{"text that is nowhere", everything(func() url.Values { return url.Values{"search": {"nowhere to be found"}} }), false},
	}
}

func readLog(ctx context.Context, o options, e engine, c *client, begin time.Time, t *table) error {
	for _, reading := range logReadings() {
		for _, ranged := range []bool{false, true} {
			var times samples
			for round := range o.rounds + 1 {
				for range logReads {
					path, query := reading.target()
					if ranged {
						from := begin.Add(rand.N(logYear - 30*24*time.Hour)) //nolint:gosec // any
						query.Set("starttime", from.UTC().Format(time.RFC3339))
						query.Set("endtime", from.Add(30*24*time.Hour).UTC().Format(time.RFC3339))
					}
					took, err := c.logPage(ctx, path+"?"+query.Encode())
					if err != nil {
						return err
					}
					if round > 0 {
						times = append(times, took)
					}
				}
			}
			what := reading.name
			if ranged {
				what += ", in a month"
			}
			what = fmt.Sprintf("page by %s of %d entries, %s (p50 %s): p95", what, o.entries, e.name, shortest(times.quantile(0.5)))
			p95 := float64(times.quantile(0.95).Microseconds()) / 1000
			if reading.promised {
				t.limit(what, p95, 20, " ms")
			} else {
				t.add(what, figure(p95, " ms"))
			}
		}
	}
	return nil
}

// logPage reads a page of the log and checks that it is one.
func (c *client) logPage(ctx context.Context, target string) (time.Duration, error) {
	start := time.Now()
	a, err := c.do(ctx, http.MethodGet, target, "", nil, http.StatusOK)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	var page struct{ Logs *[]json.RawMessage }
	if err := json.Unmarshal(a.content, &page); err != nil {
		return 0, err
	}
	if page.Logs == nil {
		return 0, fmt.Errorf("%s is no page of the log", target)
	}
	return took, nil
}
