package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

func TestSQLite(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "meta/sqlite")
}

var ctx = context.Background()

var _ = Describe("The writer", func() {
	var store *sqlite.Store
	var path string
	open := func() {
		var err error
		store, err = sqlite.Open(ctx, path, slog.New(slog.DiscardHandler))
		Expect(err).NotTo(HaveOccurred())
	}
	BeforeEach(func() {
		path = filepath.Join(GinkgoT().TempDir(), "odd %?#.db")
		open()
	})
	AfterEach(func() { Expect(store.Close()).To(Succeed()) })

	insert := func(name string) func(*meta.Tx) error {
		return func(tx *meta.Tx) error {
			_, err := tx.InsertOrganization(name, domain.Owner{}, time.Unix(1, 0))
			return err
		}
	}
	names := func() (list []string) {
		GinkgoHelper()
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			organizations, err := r.Organizations()
			for _, o := range organizations {
				list = append(list, o.Name)
			}
			return err
		})).To(Succeed())
		return list
	}
	// inScope runs writes so that they share one transaction: the first holds the writer until all are queued.
	inScope := func(scope func(i int) meta.Scope, writes ...func(*meta.Tx) error) []error {
		entered, release := make(chan struct{}), make(chan struct{})
		errs := make([]error, len(writes))
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = store.Write(ctx, meta.Scope{}, func(*meta.Tx) error { close(entered); <-release; return nil })
		})
		<-entered
		for i, write := range writes {
			wg.Go(func() { errs[i] = store.Write(ctx, scope(i), write) })
			Eventually(store.Queued).WithPolling(time.Millisecond).Should(Equal(i + 1)) // in this order
		}
		close(release)
		wg.Wait()
		return errs
	}

	together := func(writes ...func(*meta.Tx) error) []error {
		return inScope(func(int) meta.Scope { return meta.Scope{} }, writes...)
	}

	It("waits for the disk unless all of a transaction may be lost with the power", func() {
		var modes []int
		note := func(*meta.Tx) error {
			mode, err := store.Synchronous()
			modes = append(modes, mode)
			return err
		}
		volatile := func(int) meta.Scope { return meta.Scope{Volatile: true} }
		mixed := func(i int) meta.Scope { return meta.Scope{Volatile: i != 1} }
		for _, scope := range []func(int) meta.Scope{volatile, mixed, volatile} {
			Expect(inScope(scope, note, note, note)).To(HaveEach(BeNil()))
		}
		Expect(store.Write(ctx, meta.Scope{}, note)).To(Succeed())
		Expect(modes).To(Equal([]int{1, 1, 1, 2, 2, 2, 1, 1, 1, 2}))

		Expect(store.Write(ctx, meta.Scope{Volatile: true}, insert("a"))).To(Succeed())
		Expect(store.Close()).To(Succeed())
		open()
		Expect(names()).To(Equal([]string{"a"}))
	})

	It("undoes only the member that fails, also one that panics", func() {
		wrong := errors.New("wrong")
		errs := together(insert("a"),
			func(tx *meta.Tx) error { _ = insert("undone")(tx); return wrong },
			func(tx *meta.Tx) error { _ = insert("undone")(tx); panic("oops") },
			insert("a"), // violates a constraint
			insert("b"))
		Expect(errs[0]).NotTo(HaveOccurred())
		Expect(errs[1]).To(MatchError(wrong))
		Expect(domain.CodeOf(errs[2])).To(Equal(domain.CodeUnavailable))
		Expect(errs[3]).To(HaveOccurred())
		Expect(errs[4]).NotTo(HaveOccurred())
		Expect(names()).To(Equal([]string{"a", "b"}))
	})

	It("appends the entries of its members in their order, once, and none of a member that is undone", func() {
		logged := func(name string, err error) func(*meta.Tx) error {
			return func(tx *meta.Tx) error {
				return errors.Join(insert(name)(tx), tx.AppendAudit(audit.Record{Kind: audit.KindOrgCreate, Organization: name, Leaf: []byte("{}")}), err)
			}
		}
		entries := func() (organizations []string) {
			_, err := store.SequenceAudit(ctx, 100)
			Expect(err).NotTo(HaveOccurred())
			Expect(store.Read(ctx, func(r *meta.Reader) error {
				found, err := r.Log(audit.Query{After: -1, Ascending: true, Limit: 100})
				for _, e := range found {
					organizations = append(organizations, e.Organization)
				}
				return err
			})).To(Succeed())
			return organizations
		}
		together(logged("a", nil), logged("undone", errors.New("wrong")), logged("b", nil),
			func(tx *meta.Tx) error { _ = logged("undone", nil)(tx); panic("oops") }, logged("c", nil))
		Expect(entries()).To(Equal([]string{"a", "b", "c"}))
		By("running a group again")
		together(logged("d", nil), func(tx *meta.Tx) error { err := logged("broken", nil)(tx); store.Break(); return err }, logged("e", nil))
		Expect(entries()).To(Equal([]string{"a", "b", "c", "d", "e"}))
		Expect(names()).To(Equal([]string{"a", "b", "c", "d", "e"}))
	})

	It("runs the others again when one breaks the transaction", func() {
		runs := 0
		errs := together(
			func(tx *meta.Tx) error { runs++; return insert("a")(tx) },
			func(*meta.Tx) error { store.Break(); return nil },
			insert("b"))
		Expect(errs[0]).NotTo(HaveOccurred())
		Expect(domain.CodeOf(errs[1])).To(Equal(domain.CodeUnavailable))
		Expect(errs[2]).NotTo(HaveOccurred())
		Expect(runs).To(Equal(2))
		Expect(names()).To(Equal([]string{"a", "b"}))
	})

	It("answers 503 and loses nothing that was acknowledged when the disk is full, and goes on when there is room", func() {
		Expect(store.Write(ctx, meta.Scope{}, insert("before"))).To(Succeed())
		Expect(store.LimitPages(ctx, 1)).To(Succeed())
		big := func(tx *meta.Tx) error {
			for i := range 2000 {
				if err := insert(fmt.Sprintf("%0200d", i))(tx); err != nil {
					return err
				}
			}
			return nil
		}
		Expect(domain.CodeOf(store.Write(ctx, meta.Scope{}, big))).To(Equal(domain.CodeUnavailable))
		Expect(names()).To(Equal([]string{"before"}))
		Expect(store.LimitPages(ctx, 1<<30)).To(Succeed())
		Expect(store.Write(ctx, meta.Scope{}, insert("later"))).To(Succeed())
		Expect(names()).To(Equal([]string{"before", "later"}))
	})

	It("lets a client leave in the middle of its member: that is finished, and the others are not touched", func() {
		client, leave := context.WithCancel(ctx)
		entered, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = store.Write(ctx, meta.Scope{}, func(*meta.Tx) error { close(entered); <-release; return nil })
		})
		<-entered
		errs := make([]error, 3)
		runs := 0
		for i, write := range []func(*meta.Tx) error{
			func(tx *meta.Tx) error { runs++; return insert("a")(tx) },
			func(tx *meta.Tx) error { leave(); return insert("b")(tx) },
			insert("c"),
		} {
			wg.Go(func() { errs[i] = store.Write(client, meta.Scope{}, write) })
			Eventually(store.Queued).WithPolling(time.Millisecond).Should(Equal(i + 1))
		}
		close(release)
		wg.Wait()
		Expect(errs[0]).NotTo(HaveOccurred())
		Expect(errs[1]).NotTo(HaveOccurred())
		Expect(errs[2]).To(MatchError(context.Canceled), "it had not begun")
		Expect(runs).To(Equal(1))
		Expect(names()).To(Equal([]string{"a", "b"}))
	})

	It("takes turns between clients and background work", func() {
		var order []string
		note := func(name string) func(*meta.Tx) error {
			return func(*meta.Tx) error { order = append(order, name); return nil }
		}
		entered, release := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = store.Write(ctx, meta.Scope{Background: true}, func(*meta.Tx) error { close(entered); <-release; return nil })
		})
		<-entered
		for range 3 {
			wg.Go(func() { _ = store.Write(ctx, meta.Scope{Background: true}, note("background")) })
			wg.Go(func() { _ = store.Write(ctx, meta.Scope{}, note("client")) })
		}
		Eventually(store.Queued).Should(Equal(6))
		close(release)
		wg.Wait()
		Expect(order).To(Equal([]string{"client", "client", "client", "background", "background", "background"}))
	})

	It("does not begin for a client that has gone", func() {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		Expect(store.Write(gone, meta.Scope{}, insert("a"))).To(MatchError(context.Canceled))
		Expect(names()).To(BeEmpty())
	})

	It("keeps what was committed over a restart, and refuses writes once closed", func() {
		Expect(store.Write(ctx, meta.Scope{}, insert("a"))).To(Succeed())
		Expect(store.Close()).To(Succeed())
		Expect(domain.CodeOf(store.Write(ctx, meta.Scope{}, insert("b")))).To(Equal(domain.CodeUnavailable))
		Expect(domain.CodeOf(store.Read(ctx, func(*meta.Reader) error { return nil }))).To(Equal(domain.CodeUnavailable))
		open()
		Expect(names()).To(Equal([]string{"a"}))
	})

	It("gives entries one index and one place in the tree, though several sequencers plan at the same time", func() {
		const entries = 300
		var leaves []tlog.Hash
		var records []audit.Record
		for i := range entries {
			record := audit.Record{Time: time.Unix(1, 0), Kind: audit.KindPushRepo, Leaf: fmt.Appendf(nil, "%d", i)}
			records, leaves = append(records, record), append(leaves, audit.LeafHash(record.Leaf))
		}
		Expect(store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.AppendAudit(records...) })).To(Succeed())
		var late meta.Sequence
		Expect(store.Read(ctx, func(r *meta.Reader) (err error) {
			late, err = r.PlanSequence(7)
			return err
		})).To(Succeed())
		var group errgroup.Group
		for range 4 {
			group.Go(func() error {
				for {
					done, err := store.SequenceAudit(ctx, 7)
					if err != nil || done.Count == 0 {
						return err
					}
				}
			})
		}
		Expect(group.Wait()).To(Succeed())
		Expect(store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
			_, err := tx.ApplySequence(late)
			return err
		})).To(MatchError(meta.ErrStale))
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			size, err := r.TreeSize()
			Expect(err).NotTo(HaveOccurred())
			Expect(size).To(Equal(int64(entries)))
			tree, err := audit.OpenTree(size, r.Tiles)
			Expect(err).NotTo(HaveOccurred())
			Expect(tree.Leaves(0, size)).To(Equal(leaves))
			Expect(r.LogSize()).To(Equal(size))
			return nil
		})).To(Succeed())
	})

	It("lets more readers in than it has sessions, while a write waits", func() {
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				defer GinkgoRecover()
				Expect(names()).To(BeEmpty())
			})
		}
		wg.Wait()
	})
})

var _ = Describe("A database of the first version", func() {
	It("is brought up to date and keeps what it holds", func() {
		path := filepath.Join(GinkgoT().TempDir(), "tidelock.db")
		Expect(sqlite.CreateVersion1(ctx, path, metatest.Version1)).To(Succeed())
		store, err := sqlite.Open(ctx, path, slog.New(slog.DiscardHandler))
		Expect(err).NotTo(HaveOccurred())
		defer func() { Expect(store.Close()).To(Succeed()) }()
		metatest.ExpectVersion1(store)
	})
})
