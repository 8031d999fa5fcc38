package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
)

func TestPostgreSQL(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "meta/postgres")
}

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	app   = domain.RepositoryName{Organization: "team-a", Path: "app"}
)

// patience is how long a test waits for what takes milliseconds on a machine that has nothing else to do.
const patience = time.Minute

// database makes an empty database for the running spec.
func database() (dsn string) {
	GinkgoHelper()
	dsn, err := postgrestest.Database(GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	return dsn
}

func open(dsn string) *postgres.Store {
	GinkgoHelper()
	store, err := postgres.Open(ctx, dsn, quiet)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(store.Close)
	return store
}

// with adds a parameter to a DSN.
func with(dsn, name, value string) string {
	GinkgoHelper()
	u, err := url.Parse(dsn)
	Expect(err).NotTo(HaveOccurred())
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// value returns the only value of a query beside the store.
func value(dsn, query string) (n int64) {
	GinkgoHelper()
	db, err := sql.Open("pgx", dsn)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = db.Close() }()
	Expect(db.QueryRow(query).Scan(&n)).To(Succeed())
	return n
}

func insert(name string) func(*meta.Tx) error {
	return func(tx *meta.Tx) error {
		_, err := tx.InsertOrganization(name, domain.Owner{}, time.Unix(1, 0))
		return err
	}
}

// fill makes the repository app with a manifest under a tag.
func fill(store meta.Store) {
	GinkgoHelper()
	scope := meta.Scope{Organization: app.Organization, Repository: app.Path}
	Expect(store.Write(ctx, scope, func(tx *meta.Tx) error {
		organization, err := tx.InsertOrganization(app.Organization, domain.Owner{}, time.Unix(1, 0))
		if err != nil {
			return err
		}
		repository, err := tx.InsertRepository(domain.Repository{OrganizationID: organization, Name: app, Visibility: domain.Private})
		if err != nil {
			return err
		}
		manifest, err := tx.InsertManifest(repository, domain.Manifest{Digest: "sha256:1", Content: []byte("1")})
		if err == nil {
			_, err = tx.InsertTag(repository, "v1", manifest, 0, time.Unix(1, 0))
		}
		return err
	})).To(Succeed())
}

func record(kind string) audit.Record {
	return audit.Record{Time: time.Unix(1, 0), Kind: audit.Kind(kind), Leaf: []byte(kind)}
}

var _ = Describe("A store", func() {
	It("brings an empty database up to date once, however many replicas start together", func() {
		dsn := database()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				defer GinkgoRecover()
				store, err := postgres.Open(ctx, dsn, quiet)
				Expect(err).NotTo(HaveOccurred())
				Expect(store.Read(ctx, func(r *meta.Reader) error { _, err := r.Organizations(); return err })).To(Succeed())
				Expect(store.Close()).To(Succeed())
			})
		}
		wg.Wait()
		Expect(value(dsn, `SELECT COUNT(*) - COUNT(DISTINCT version_id) FROM goose_db_version`)).To(BeZero())
		Expect(value(dsn, `SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'`)).To(BeZero())
	})

	It("brings a database of the first version up to date and keeps what it holds", func() {
		dsn := database()
		Expect(postgres.MigrateToVersion1(ctx, dsn)).To(Succeed())
		db, err := sql.Open("pgx", dsn)
		Expect(err).NotTo(HaveOccurred())
		for _, statement := range metatest.Version1 {
			_, err := db.Exec(statement)
			Expect(err).NotTo(HaveOccurred(), statement)
		}
		Expect(db.Close()).To(Succeed())
		metatest.ExpectVersion1(open(dsn))
	})

	DescribeTable("is refused", func(setting, value, reason string) {
		_, err := postgres.Open(ctx, with(database(), setting, value), quiet)
		Expect(err).To(MatchError(ContainSubstring(reason)))
	},
		Entry("where an acknowledged push could be lost", "synchronous_commit", "off", "synchronous_commit is off"),
		Entry("where nothing can be written", "default_transaction_read_only", "on", "read-only transaction"),
	)

	It("is refused on a database that does not hold every character", func() {
		server, err := postgrestest.Shared()
		Expect(err).NotTo(HaveOccurred())
		dsn, err := server.Database("latin", "ENCODING 'LATIN1'", "TEMPLATE template0")
		Expect(err).NotTo(HaveOccurred())
		_, err = postgres.Open(ctx, dsn, quiet)
		Expect(err).To(MatchError(ContainSubstring("LATIN1")))
	})

	It("orders names by their bytes, whatever the order of the database is", func() {
		server, err := postgrestest.Shared()
		Expect(err).NotTo(HaveOccurred())
		dsn, err := server.Database("icu", "LOCALE_PROVIDER icu", "ICU_LOCALE 'en'", "TEMPLATE template0")
		Expect(err).NotTo(HaveOccurred())
		Expect(value(dsn, `SELECT COUNT(*) FROM (VALUES ('a-b'), ('B')) AS v (name) WHERE name < 'b'`)).To(Equal(int64(1)), "an order that is not of the bytes")
		store := open(dsn)
		names := []string{"B", "a-b", "a.b", "a_b", "aa", "b"}
		for _, name := range []string{"b", "a_b", "aa", "a-b", "B", "a.b"} {
			Expect(store.Write(ctx, meta.Scope{Organization: name}, insert(name))).To(Succeed())
		}
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			list, err := r.Organizations()
			for i, o := range list {
				Expect(o.Name).To(Equal(names[i]))
			}
			return err
		})).To(Succeed())
	})

	It("reads one snapshot, whatever is committed meanwhile", func() {
		store := open(database())
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			before, err := r.Organizations()
			Expect(err).NotTo(HaveOccurred())
			Expect(store.Write(ctx, meta.Scope{Organization: "team-a"}, insert("team-a"))).To(Succeed())
			Expect(r.Organizations()).To(Equal(before))
			return nil
		})).To(Succeed())
	})

	It("works without prepared statements, for poolers that cannot keep them", func() {
		store := open(with(database(), "default_query_exec_mode", "exec"))
		fill(store)
		Expect(store.Write(ctx, meta.Scope{Organization: app.Organization, Repository: app.Path}, func(tx *meta.Tx) error {
			repository, err := tx.Repository(app)
			Expect(err).NotTo(HaveOccurred())
			_, err = tx.Tag(repository.ID, "v1")
			Expect(err).NotTo(HaveOccurred())
			return tx.AppendAudit(record("a"), record("b"))
		})).To(Succeed())
		Expect(store.SequenceAudit(ctx, 10)).To(HaveField("Count", 2))
	})

	It("answers a text that cannot be stored as bad input", func() {
		store := open(database())
		err := store.Write(ctx, meta.Scope{Organization: "team-a"}, insert("a\x00b"))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeInvalid))
	})

	It("undoes a write that fails or panics, and refuses all once it is closed", func() {
		store := open(database())
		wrong := errors.New("wrong")
		Expect(store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { _ = insert("a")(tx); return wrong })).To(MatchError(wrong))
		err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { _ = insert("a")(tx); panic("oops") })
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			Expect(r.Organizations()).To(BeEmpty())
			return nil
		})).To(Succeed())
		gone, cancel := context.WithCancel(ctx)
		cancel()
		Expect(store.Write(gone, meta.Scope{}, insert("a"))).To(MatchError(context.Canceled))
		Expect(store.Close()).To(Succeed())
		Expect(domain.CodeOf(store.Write(ctx, meta.Scope{}, insert("a")))).To(Equal(domain.CodeUnavailable))
		Expect(domain.CodeOf(store.Read(ctx, func(*meta.Reader) error { return nil }))).To(Equal(domain.CodeUnavailable))
	})

	It("does not commit where an error was swallowed", func() {
		store := open(database())
		err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
			_ = insert("a")(tx)
			_ = insert("a")(tx) // breaks the transaction
			return nil
		})
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
	})

	It("goes on at once after a restart of the database, whatever connections it had", func() {
		server, err := postgrestest.New()
		Expect(err).NotTo(HaveOccurred())
		defer func() { Expect(server.Close()).To(Succeed()) }()
		dsn, err := server.Database("restarted")
		Expect(err).NotTo(HaveOccurred())
		store := open(dsn)
		fill(store)
		scope := meta.Scope{Organization: app.Organization, Repository: app.Path}
		read := func(fn func()) error {
			return store.Read(ctx, func(r *meta.Reader) error { fn(); _, err := r.Organizations(); return err })
		}
		write := func(fn func()) error {
			return store.Write(ctx, scope, func(tx *meta.Tx) error { fn(); _, err := tx.Organizations(); return err })
		}
		// Several connections of each kind are used together, and lie in their pools then.
		const together = 6
		var barrier, done sync.WaitGroup
		barrier.Add(2 * together)
		for range together {
			for _, use := range []func(func()) error{read, write} {
				done.Go(func() {
					defer GinkgoRecover()
					Expect(use(func() { barrier.Done(); barrier.Wait() })).To(Succeed())
				})
			}
		}
		done.Wait()
		Expect(server.Stop()).To(Succeed())
		Expect(server.Start()).To(Succeed())
		Expect(read(func() {})).To(Succeed())
		Expect(write(func() {})).To(Succeed())
	})

	It("finishes what has begun when the client leaves", func() {
		store := open(database())
		client, leave := context.WithCancel(ctx)
		Expect(store.Write(client, meta.Scope{}, func(tx *meta.Tx) error { leave(); return insert("a")(tx) })).To(Succeed())
	})
})

var _ = Describe("The scope of a write", func() {
	var store *postgres.Store
	BeforeEach(func() {
		store = open(database())
		fill(store)
		Expect(store.Write(ctx, meta.Scope{Organization: "team-b"}, insert("team-b"))).To(Succeed())
	})

	// expectBeside checks whether a second write can run while a first one does.
	expectBeside := func(first, second meta.Scope, together bool) {
		GinkgoHelper()
		entered, release := make(chan struct{}), make(chan struct{})
		done := make(chan error, 2)
		once := sync.OnceFunc(func() { close(entered) })
		go func() {
			done <- store.Write(ctx, first, func(*meta.Tx) error { once(); <-release; return nil })
		}()
		<-entered
		ran := make(chan struct{})
		go func() {
			done <- store.Write(ctx, second, func(*meta.Tx) error { close(ran); return nil })
		}()
		if together {
			Eventually(ran).WithTimeout(patience).Should(BeClosed())
		} else {
			Consistently(ran).WithTimeout(100 * time.Millisecond).ShouldNot(BeClosed())
		}
		close(release)
		for range 2 {
			Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
		}
		Expect(ran).To(BeClosed())
	}
	shared := meta.Scope{Organization: "team-a", Repository: "app"}
	exclusive := meta.Scope{Organization: "team-a", Repository: "app", RepositoryExclusive: true}
	policy := meta.Scope{Organization: "team-a", OrganizationExclusive: true}

	DescribeTable("lets another one", func(first, second meta.Scope, together bool) {
		expectBeside(first, second, together)
		expectBeside(second, first, together)
	},
		Entry("run beside it: two pushes", shared, shared, true),
		Entry("wait: a push and a delete by digest", shared, exclusive, false),
		Entry("run beside it: a delete by digest and a push elsewhere", exclusive, meta.Scope{Organization: "team-b", Repository: "app"}, true),
		Entry("wait: a push and a change of policy", shared, policy, false),
		Entry("wait: a delete by digest and a change of policy", exclusive, policy, false),
		Entry("wait: two changes of policy", policy, policy, false),
		Entry("run beside it: changes of policy in two organizations", policy, meta.Scope{Organization: "team-b", OrganizationExclusive: true}, true),
		Entry("wait: a change in two organizations and one in the second", meta.Scope{Organization: "team-a", OtherOrganization: "team-b", OrganizationExclusive: true}, meta.Scope{Organization: "team-b", OrganizationExclusive: true}, false),
		Entry("wait: a push that makes a repository and any other", meta.Scope{Organization: "team-a", Repository: "new"}, shared, false),
		Entry("wait: two pushes that make an organization", meta.Scope{Organization: "new", Repository: "app"}, meta.Scope{Organization: "newer", Repository: "app"}, false),
		Entry("run beside it: a push that makes an organization and a push elsewhere", meta.Scope{Organization: "new", Repository: "app"}, shared, true),
		Entry("run beside it: the entry of a refusal and anything", meta.Scope{}, policy, true),
	)

	It("gets its turn beside long ones, though no moment is without one", func() {
		const long = 500 * time.Millisecond
		writes, enough := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer enough()
		for range 3 {
			begun := make(chan struct{})
			once := sync.OnceFunc(func() { close(begun) })
			wg.Go(func() {
				defer GinkgoRecover()
				for writes.Err() == nil {
					Expect(store.Write(ctx, shared, func(*meta.Tx) error {
						once()
						<-time.After(long)
						return nil
					})).To(Succeed())
				}
			})
			<-begun
			<-time.After(long / 3) // the next one begins in the middle of this one
		}
		Expect(store.Write(ctx, policy, func(*meta.Tx) error { return nil })).To(Succeed())
	})

	It("is of what its names mean once it is locked: who waits for a creation finds what was made", func() {
		scope := meta.Scope{Organization: "new", Repository: "app"}
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for range 16 {
			wg.Go(func() {
				defer GinkgoRecover()
				mine := 0
				Expect(store.Write(ctx, scope, func(tx *meta.Tx) error {
					mine = 0
					_, err := tx.Organization("new")
					if errors.Is(err, meta.ErrNotFound) {
						mine = 1
						return insert("new")(tx)
					}
					return err
				})).To(Succeed())
				mu.Lock()
				defer mu.Unlock()
				made += mine
			})
		}
		wg.Wait()
		Expect(made).To(Equal(1))
	})

	It("gives a job to one at a time", func() {
		scope := meta.Scope{Organization: "team-a", Job: meta.JobSweep}
		Expect(store.Write(ctx, scope, func(*meta.Tx) error {
			Expect(store.Write(ctx, scope, insert("never"))).To(MatchError(meta.ErrBusy))
			return nil
		})).To(Succeed())
		Expect(store.Write(ctx, scope, insert("then"))).To(Succeed())
	})

	It("waits for a lock no longer than its client", func() {
		release := make(chan struct{})
		done := make(chan error, 1)
		entered := make(chan struct{})
		go func() {
			done <- store.Write(ctx, policy, func(*meta.Tx) error { close(entered); <-release; return nil })
		}()
		<-entered
		client, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		Expect(store.Write(client, policy, insert("never"))).To(MatchError(context.DeadlineExceeded))
		close(release)
		Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
	})

	It("is given back by a replica that stops in the middle, whose write then fails", func() {
		store.AbandonAfter(200 * time.Millisecond)
		stopped, other := make(chan struct{}), make(chan error, 1)
		runs := 0
		err := store.Write(ctx, policy, func(tx *meta.Tx) error {
			if runs++; runs > 1 { // the driver may find the connection dead before it sends anything
				return domain.Unavailable(errors.New("begun anew"))
			}
			go func() {
				defer close(stopped)
				other <- store.Write(ctx, policy, insert("other"))
			}()
			<-stopped
			return insert("late")(tx)
		})
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
		Expect(other).To(Receive(BeNil()))
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			_, err := r.Organization("late")
			return err
		})).To(MatchError(meta.ErrNotFound))
	})

	It("runs a write again that met another at a unique index, at most a few times", func() {
		runs := 0
		err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { runs++; return insert("team-a")(tx) })
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
		Expect(runs).To(Equal(11))
	})

	It("has a tag to itself from its look-up on, also where another moves, deletes or makes it meanwhile", func() {
		var repository domain.Repository
		var second int64
		Expect(store.Write(ctx, shared, func(tx *meta.Tx) (err error) {
			if repository, err = tx.Repository(app); err == nil {
				second, err = tx.InsertManifest(repository.ID, domain.Manifest{Digest: "sha256:2", Content: []byte("2")})
			}
			return err
		})).To(Succeed())
		// meanwhile returns what a second write sees of the tag that began while a first one changed it.
		meanwhile := func(change func(*meta.Tx, domain.Tag) error) (seen domain.Tag, err error) {
			GinkgoHelper()
			entered, release := make(chan struct{}), make(chan struct{})
			done := make(chan error, 2)
			go func() {
				done <- store.Write(ctx, shared, func(tx *meta.Tx) error {
					t, err := tx.Tag(repository.ID, "v1")
					if err != nil && !errors.Is(err, meta.ErrNotFound) {
						return err
					}
					if err := change(tx, t); err != nil {
						return err
					}
					close(entered)
					<-release
					return nil
				})
			}()
			<-entered
			var found error
			go func() {
				done <- store.Write(ctx, shared, func(tx *meta.Tx) error {
					seen, found = tx.Tag(repository.ID, "v1")
					return nil
				})
			}()
			Consistently(done).WithTimeout(100 * time.Millisecond).ShouldNot(Receive())
			close(release)
			for range 2 {
				Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
			}
			return seen, found
		}
		seen, err := meanwhile(func(tx *meta.Tx, t domain.Tag) error { return tx.MoveTag(t, second, 0, time.Unix(2, 0)) })
		Expect(err).NotTo(HaveOccurred())
		Expect(seen.Digest).To(BeEquivalentTo("sha256:2"))
		before := seen.ID
		seen, err = meanwhile(func(tx *meta.Tx, t domain.Tag) error {
			if err := tx.DeleteTag(t, time.Unix(3, 0)); err != nil {
				return err
			}
			_, err := tx.InsertTag(repository.ID, "v1", second, 0, time.Unix(3, 0))
			return err
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(seen.ID).To(BeNumerically(">", before))
		_, err = meanwhile(func(tx *meta.Tx, t domain.Tag) error { return tx.DeleteTag(t, time.Unix(4, 0)) })
		Expect(err).To(MatchError(meta.ErrNotFound))
	})
})

var _ = Describe("The sequencer's index", func() {
	var dsn string
	var store, other *postgres.Store
	BeforeEach(func() {
		dsn = database()
		store, other = open(dsn), open(dsn)
		store.MarkEvery(1)
	})

	log := func() (kinds []string) {
		GinkgoHelper()
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			entries, err := r.Log(audit.Query{After: -1, Ascending: true, Limit: 100_000})
			for i, e := range entries {
				Expect(e.Index).To(Equal(int64(i)))
				kinds = append(kinds, string(e.Kind))
			}
			return err
		})).To(Succeed())
		return kinds
	}
	// hold appends entries and commits them when told to.
	hold := func(kinds ...string) (commit func()) {
		entered, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			done <- store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
				for _, kind := range kinds {
					if err := tx.AppendAudit(record(kind)); err != nil {
						return err
					}
				}
				close(entered)
				<-release
				return nil
			})
		}()
		<-entered
		return func() {
			GinkgoHelper()
			close(release)
			Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
		}
	}
	appendNow := func(kinds ...string) {
		GinkgoHelper()
		hold(kinds...)()
	}

	It("follows the commits, not the ids", func() {
		commit := hold("late")
		appendNow("early")
		Expect(other.SequenceAudit(ctx, 10)).To(HaveField("Count", 1))
		commit()
		Expect(other.SequenceAudit(ctx, 10)).To(HaveField("Count", 1))
		Expect(log()).To(Equal([]string{"early", "late"}))
		Expect(store.SequenceAudit(ctx, 10)).To(BeZero())
	})

	// rounds are those of a sequencer until there is nothing to do, and a few more.
	rounds := func() {
		GinkgoHelper()
		for idle := 0; idle < 4; {
			more, err := store.PendingAudit(ctx)
			Expect(err).NotTo(HaveOccurred())
			_, err = store.SequenceAudit(ctx, 10)
			Expect(err).NotTo(HaveOccurred())
			if more == 0 {
				idle++
			}
		}
	}

	It("looks no more at what has one, and misses nothing that a long transaction commits behind later ones", func() {
		appendNow("a", "b")
		commit := hold("late")
		appendNow("c", "d")
		rounds()
		Expect(log()).To(Equal([]string{"a", "b", "c", "d"}))
		Expect(store.IndexedUpTo()).To(BeNumerically("<", 3), "the id of the late one is 3")
		commit()
		rounds()
		Expect(log()).To(Equal([]string{"a", "b", "c", "d", "late"}))
		Expect(store.IndexedUpTo()).To(BeNumerically(">=", 5))
		appendNow("e")
		rounds()
		Expect(log()).To(HaveLen(6))
	})

	It("learns it also where nothing is written", func() {
		appendNow("a", "b", "c")
		Expect(other.SequenceAudit(ctx, 10)).To(HaveField("Count", 3))
		for range 2 {
			Expect(store.PendingAudit(ctx)).To(BeZero())
		}
		Expect(store.IndexedUpTo()).To(Equal(int64(3)))
	})

	It("rests on transaction ids that are given before the ids of entries", func() {
		Expect(store.Write(ctx, meta.Scope{}, func(*meta.Tx) error {
			Expect(value(dsn, `SELECT COUNT(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE l.locktype = 'transactionid' AND a.datname = current_database()`)).To(Equal(int64(1)))
			return nil
		})).To(Succeed())
	})

	It("looks at all again on a server that holds an older state", func() {
		appendNow("a", "b", "c")
		rounds()
		Expect(store.IndexedUpTo()).To(Equal(int64(3)))
		value(dsn, `WITH gone AS (DELETE FROM audit_entries WHERE id > 1 RETURNING id) SELECT setval(pg_get_serial_sequence('audit_entries', 'id'), 1) FROM gone LIMIT 1`)
		value(dsn, `WITH gone AS (DELETE FROM audit_tiles RETURNING n) SELECT COUNT(*) FROM gone`)
		appendNow("b")
		rounds()
		Expect(log()).To(Equal([]string{"a", "b"}))
	})

	It("shows a reader all that was committed before it asked, also where entries with lower ids come meanwhile", func() {
		commit := hold("low 1", "low 2")
		sequencer := audit.NewSequencer(oneByOne{other, sync.OnceFunc(commit)}, quiet)
		begun := sequencer.Indexed()
		running, stop := context.WithCancel(ctx)
		defer stop()
		go func() { _ = sequencer.Run(running) }()
		Eventually(begun).WithTimeout(patience).Should(BeClosed())
		appendNow("high 1", "high 2")
		Expect(sequencer.Sync(ctx)).To(Succeed())
		Expect(log()).To(ContainElements("high 1", "high 2"))
	})

	It("has neither gaps nor doubles when two replicas write it", func() {
		var wg sync.WaitGroup
		for i, replica := range []*postgres.Store{store, other} {
			sequencer := audit.NewSequencer(replica, quiet)
			running, stop := context.WithCancel(ctx)
			defer stop()
			go func() { _ = sequencer.Run(running) }()
			for worker := range 4 {
				wg.Go(func() {
					defer GinkgoRecover()
					for n := range 50 {
						Expect(replica.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
							return tx.AppendAudit(record(fmt.Sprintf("%d %d %d", i, worker, n)), record("second"))
						})).To(Succeed())
						if n%10 == 0 {
							Expect(sequencer.Sync(ctx)).To(Succeed())
						}
					}
				})
			}
		}
		wg.Wait()
		for {
			done, err := store.SequenceAudit(ctx, 10)
			Expect(err).NotTo(HaveOccurred())
			if done.Count == 0 {
				break
			}
		}
		kinds := log()
		Expect(kinds).To(HaveLen(800))
		By("keeping the order of each writer")
		last := map[string]int{}
		for _, kind := range kinds {
			var replica, worker, n int
			if _, err := fmt.Sscanf(kind, "%d %d %d", &replica, &worker, &n); err == nil {
				key := fmt.Sprint(replica, worker)
				Expect(n).To(Equal(last[key]))
				last[key] = n + 1
			}
		}
		Expect(last).To(HaveLen(8))
	})
})

// oneByOne is a log whose transactions index one entry each. Before the first of them something happens.
type oneByOne struct {
	*postgres.Store
	first func()
}

func (s oneByOne) SequenceAudit(ctx context.Context, _ int) (audit.Sequenced, error) {
	s.first()
	return s.Store.SequenceAudit(ctx, 1)
}
