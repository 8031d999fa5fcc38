package meta_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
)

func TestMeta(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "meta")
}

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
)

// explained is a database that notes each statement's plan.
type explained struct {
	db    *sql.DB
	how   string
	plans []string
}

func (e *explained) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return e.db.ExecContext(ctx, query, args...)
}

func (e *explained) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	plan, err := e.db.QueryContext(ctx, e.how+query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = plan.Close() }()
	columns, err := plan.Columns()
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for plan.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := plan.Scan(values...); err != nil {
			return nil, err
		}
		fmt.Fprintln(&text, *values[len(values)-1].(*any))
	}
	e.plans = append(e.plans, text.String())
	return e.db.QueryContext(ctx, query, args...)
}

const (
	logSize = 40_000
	// Nothing was pushed by digest but between these two.
	quietFrom, quietTo = 10_000, 30_000
)

// looks is how many a time in an even log is found by.
const looks = 8

// at is the time of an entry: all are of one day.
func at(i int) time.Time { return time.Date(2026, time.March, 6, 0, 0, i, 0, time.UTC) }

// entry is a log of which a database's planner believes wrong things: what is frequent in all of it and not there where
// it is looked for, and what is rare.
func entry(i int) audit.Record {
	r := audit.Record{
		Time: at(i), Kind: audit.KindCreateTag, Organization: fmt.Sprint("org-", i%10), Repository: fmt.Sprint("app-", i%100), Tag: fmt.Sprint("v", i%2000),
		Performer: fmt.Sprint("user-", i%5), Leaf: bytes.Repeat([]byte("leaf"), 120), Personal: bytes.Repeat([]byte("p"), 100),
	}
	if i%3 == 0 {
		r.Policy = fmt.Sprint("policy-", i%30)
	}
	switch {
	case i >= quietFrom && i < quietTo:
		r.Kind = audit.KindPushRepo
	case i%10_000 == 7:
		r.Kind = audit.KindOrgCreate
	case i%10 > 6:
		r.Kind = audit.KindMoveTag
	}
	if i%10_000 == 5 {
		r.Performer = "seldom"
	}
	if i == 4_444 {
		r.Tag = "once"
	}
	return r
}

func fill(store meta.Store) {
	GinkgoHelper()
	const share = 5000
	for from := 0; from < logSize; from += share {
		Expect(store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
			records := make([]audit.Record, share)
			for i := range records {
				records[i] = entry(from + i)
			}
			return tx.AppendAudit(records...)
		})).To(Succeed())
	}
	Expect(store.SequenceAudit(ctx, logSize)).To(HaveField("Count", logSize))
	Expect(store.Close()).To(Succeed())
}

var logEngines = map[string]func() *explained{
	"sqlite": func() *explained {
		dir := GinkgoT().TempDir()
		store, err := metatest.OpenSQLite(dir, quiet)
		Expect(err).NotTo(HaveOccurred())
		fill(store)
		db, err := sql.Open("sqlite", filepath.Join(dir, "tidelock.db"))
		Expect(err).NotTo(HaveOccurred())
		return &explained{db: db, how: "EXPLAIN QUERY PLAN "}
	},
	"postgres": func() *explained {
		dsn, err := postgrestest.Database(GinkgoT().TempDir())
		Expect(err).NotTo(HaveOccurred())
		store, err := postgres.Open(ctx, dsn, quiet)
		Expect(err).NotTo(HaveOccurred())
		fill(store)
		db, err := sql.Open("pgx", dsn)
		Expect(err).NotTo(HaveOccurred())
		_, err = db.Exec("VACUUM ANALYZE audit_entries")
		Expect(err).NotTo(HaveOccurred())
		return &explained{db: db, how: "EXPLAIN "}
	},
}

var _ = Describe("The log", func() {
	for name, open := range logEngines {
		Context("on "+name, Ordered, ContinueOnFailure, func() {
			var db *explained
			var r *meta.Reader
			BeforeAll(func() {
				db = open()
				DeferCleanup(db.db.Close)
				r = meta.NewReader(ctx, db)
			})
			BeforeEach(func() { db.plans = nil })

			// page reads a page, and says how many entries were read for it and how far it came.
			page := func(q audit.Query, budget audit.Budget) (found []int64, done audit.Progress) {
				GinkgoHelper()
				if q.After == 0 {
					q.After = -1
				}
				if q.Limit == 0 {
					q.Limit = 21
				}
				done, err := r.WalkLog(q, budget, func(e audit.Indexed) (bool, error) {
					found = append(found, e.Index)
					return true, nil
				})
				Expect(err).NotTo(HaveOccurred())
				return found, done
			}
			// expected is what a page has to be.
			expected := func(q audit.Query) (list []int64) {
				for i := range logSize {
					i := int64(i)
					if !q.Ascending {
						i = logSize - 1 - i
					}
					if q.Matches(audit.Indexed{Index: i, Record: entry(int(i))}) && len(list) < 21 && (q.Before == 0 || i < q.Before) && i > q.After {
						list = append(list, i)
					}
				}
				return list
			}
			window := audit.Query{From: at(quietFrom), To: at(quietTo)}
			in := func(q, times audit.Query) audit.Query {
				q.From, q.To = times.From, times.To
				return q
			}

			DescribeTable("is read through one index, from where the page begins", func(q audit.Query, index string) {
				for _, q := range []audit.Query{q, in(q, window)} {
					for _, ascending := range []bool{false, true} {
						q.Ascending, q.After = ascending, -1
						db.plans = nil
						found, done := page(q, audit.Budget{})
						Expect(found).To(Equal(expected(q)))
						Expect(done.Exhausted).To(BeFalse())
						Expect(db.plans).NotTo(BeEmpty())
						Expect(db.plans[len(db.plans)-1]).To(ContainSubstring(index + " "))
						for _, plan := range db.plans {
							Expect(plan).NotTo(Or(ContainSubstring("Seq Scan"), ContainSubstring("Sort"), ContainSubstring("Bitmap"), ContainSubstring("SCAN audit_entries\n"), ContainSubstring("SCAN e\n"), ContainSubstring("TEMP B-TREE")))
						}
					}
				}
			},
				Entry("without a filter", audit.Query{}, "audit_idx"),
				Entry("by organization", audit.Query{Organization: "org-3"}, "audit_organization"),
				Entry("by repository", audit.Query{Organization: "org-3", Repository: "app-13"}, "audit_repository"),
				Entry("by tag", audit.Query{Organization: "org-3", Repository: "app-13", Tag: "v1113"}, "audit_tag"),
				Entry("by the name of a tag anywhere", audit.Query{Tag: "v1113"}, "audit_tag_name"),
				Entry("by the name of a tag in an organization", audit.Query{Organization: "org-3", Tag: "v1113"}, "audit_tag_name"),
				Entry("by the only entry about a tag", audit.Query{Organization: "org-4", Repository: "app-44", Tag: "once"}, "audit_tag"),
				Entry("by policy", audit.Query{Policy: "policy-9"}, "audit_policy"),
				Entry("by performer", audit.Query{Performer: "user-3"}, "audit_performer"),
				Entry("by a performer with few entries", audit.Query{Performer: "seldom"}, "audit_performer"),
				Entry("by a kind", audit.Query{Kinds: []audit.Kind{audit.KindCreateTag}}, "audit_kind"),
				Entry("by a rare kind", audit.Query{Kinds: []audit.Kind{audit.KindOrgCreate}}, "audit_kind"),
				Entry("by several kinds", audit.Query{Kinds: []audit.Kind{audit.KindOrgCreate, audit.KindMoveTag, audit.KindOrgCreate}}, "audit_kind"),
				Entry("by a performer with few entries and a frequent kind", audit.Query{Performer: "seldom", Kinds: []audit.Kind{audit.KindCreateTag}}, "audit_performer"),
				Entry("by a rare kind in an organization", audit.Query{Organization: "org-7", Kinds: []audit.Kind{audit.KindOrgCreate}}, "audit_kind"),
			)

			It("reads no more than is wanted of what is not there", func() {
				for _, kinds := range [][]audit.Kind{{audit.KindCreateTag}, {audit.KindCreateTag, audit.KindMoveTag}} {
					db.plans = nil
					found, done := page(in(audit.Query{Kinds: kinds}, window), audit.Budget{Entries: 100})
					Expect(found).To(BeEmpty())
					Expect(done.More || done.Exhausted).To(BeFalse(), "the end is known at once")
					Expect(len(db.plans)).To(BeNumerically("<=", 2+2*looks+len(kinds)))
				}
			})

			It("is left at the end of the budget, and read on from there", func() {
				q := audit.Query{Organization: "org-0", Kinds: []audit.Kind{audit.KindMoveTag}}
				budget := audit.Budget{Entries: 700}
				found, done := page(q, budget)
				Expect(found).To(BeEmpty())
				Expect(done).To(Equal(audit.Progress{Next: logSize - 700*10, More: true, Exhausted: true}), "nothing of the kind is in the organization, whose entries are the fewer")
				pages := 1
				for done.More {
					q.Before = done.Next
					_, done = page(q, budget)
					pages++
				}
				Expect(done.Exhausted).To(BeFalse())
				Expect(pages).To(BeNumerically("<=", logSize/10/700+1))
			})

			It("is left when the time is over, having looked at one entry at least", func() {
				_, done := page(audit.Query{}, audit.Budget{Until: time.Unix(1, 0)})
				Expect(done).To(Equal(audit.Progress{Next: logSize - 1, More: true, Exhausted: true}))
			})

			It("says whether there is more", func() {
				found, done := page(audit.Query{Performer: "seldom", Limit: 3}, audit.Budget{})
				Expect(found).To(Equal([]int64{30_005, 20_005, 10_005}))
				Expect(done).To(Equal(audit.Progress{Next: 10_005, More: true}))
				found, done = page(audit.Query{Performer: "seldom", Limit: 4}, audit.Budget{})
				Expect(found).To(HaveLen(4))
				Expect(done.More).To(BeFalse())
				found, done = page(audit.Query{Performer: "seldom", Limit: 1, Ascending: true, After: 5}, audit.Budget{})
				Expect(found).To(Equal([]int64{10_005}))
				Expect(done).To(Equal(audit.Progress{Next: 10_005, More: true}))
			})

			It("finds the first entry of a time with a few looks", func() {
				found, _ := page(audit.Query{From: at(35_000), Ascending: true, Limit: 2}, audit.Budget{})
				Expect(found).To(Equal([]int64{35_000, 35_001}))
				Expect(len(db.plans)).To(BeNumerically("<=", 2+looks), "the size, the place and the page")
				for _, i := range []int{0, 1, 63, 64, 65, 12_345, logSize - 65, logSize - 1} {
					for _, t := range []time.Time{at(i), at(i).Add(-time.Millisecond)} {
						Expect(r.FirstIndexedAt(t)).To(BeEquivalentTo(i))
					}
				}
				Expect(r.FirstIndexedAt(at(logSize))).To(BeEquivalentTo(logSize))
			})

			It("is counted as it is read", func() {
				for _, q := range []audit.Query{
					{}, {Organization: "org-3"}, {Organization: "org-3", Kinds: []audit.Kind{audit.KindCreateTag, audit.KindPushRepo}}, {Performer: "seldom"},
					{Kinds: []audit.Kind{audit.KindMoveTag, audit.KindOrgCreate}}, {Tag: "v1113", Performer: "user-3"}, {Performer: "nobody"}, in(audit.Query{Policy: "policy-9"}, window),
				} {
					want := map[audit.Kind]int64{}
					for i := range logSize {
						if e := entry(i); q.Matches(audit.Indexed{Record: e}) {
							want[e.Kind]++
						}
					}
					q.After = -1
					list, counted, err := r.LogCounts(q, logSize)
					Expect(err).NotTo(HaveOccurred())
					Expect(counted).To(BeTrue())
					got := map[audit.Kind]int64{}
					for _, n := range list {
						Expect(n.Day).To(Equal(at(0)), "forty thousand seconds are not a day")
						got[n.Kind] += n.Count
					}
					Expect(got).To(Equal(want), fmt.Sprint(q))
				}
				for _, q := range []audit.Query{{}, {Organization: "org-3"}, {Kinds: []audit.Kind{audit.KindCreateTag}}} {
					q.After = -1
					list, counted, err := r.LogCounts(q, 3999)
					Expect(err).NotTo(HaveOccurred())
					Expect(list).To(BeEmpty())
					Expect(counted).To(BeFalse(), "there are more than may be looked at")
				}
			})
		})
	}
})

var _ = DescribeTable("A time in a log of ten million entries is found by few looks", func(timeOf func(i int64) int64, most int) {
	const size = 10_000_000
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		i := random.Int64N(size)
		looks := 0
		low, high, err := meta.Around(size, timeOf(i), func(index int64) (int64, error) {
			looks++
			return timeOf(index), nil
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(high - low).To(BeNumerically("<=", 64))
		if low > 0 {
			Expect(timeOf(low - 1)).To(BeNumerically("<", timeOf(i)))
		}
		Expect(timeOf(high)).To(BeNumerically(">=", timeOf(i)))
		Expect(looks).To(BeNumerically("<=", most))
	}
},
	Entry("where it grew evenly", func(i int64) int64 { return 3_000_000 * i }, 10),
	Entry("where it grew faster and faster", func(i int64) int64 { return int64(1e12 * math.Sqrt(float64(i))) }, 24),
	Entry("where most came in a day", func(i int64) int64 {
		if i < 9_000_000 {
			return 9_000 * i
		}
		return 9_000*9_000_000 + 30_000_000*(i-9_000_000)
	}, 32),
	Entry("where it doubled again and again", func(i int64) int64 { return int64(1e9 * math.Log2(float64(i+1))) }, 2+3*24),
	Entry("where entries have the same time", func(i int64) int64 { return i / 100_000 }, 2+3*24),
)
