package sqlite_test

import (
	"database/sql"
	"log/slog"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

var _ = Describe("A file that is inspected", func() {
	var path string
	BeforeEach(func() {
		path = filepath.Join(GinkgoT().TempDir(), "tidelock.db")
		store, err := sqlite.Open(ctx, path, slog.New(slog.DiscardHandler))
		Expect(err).NotTo(HaveOccurred())
		Expect(store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
			_, err := tx.InsertOrganization("team-a", domain.Owner{}, time.Unix(1, 0))
			return err
		})).To(Succeed())
		Expect(store.Close()).To(Succeed())
	})

	It("is read and never written", func() {
		store, err := sqlite.Inspect(ctx, path)
		Expect(err).NotTo(HaveOccurred())
		Expect(store.Read(ctx, func(r *meta.Reader) error {
			_, err := r.Organization("team-a")
			return err
		})).To(Succeed())
		Expect(domain.CodeOf(store.Write(ctx, meta.Scope{}, func(*meta.Tx) error { return nil }))).To(Equal(domain.CodeUnavailable))
		Expect(store.Close()).To(Succeed())
	})

	It("is refused with the schema of another version", func() {
		db, err := sql.Open("sqlite", path)
		Expect(err).NotTo(HaveOccurred())
		_, err = db.Exec(`DELETE FROM goose_db_version WHERE version_id > 1`)
		Expect(err).NotTo(HaveOccurred())
		Expect(db.Close()).To(Succeed())
		_, err = sqlite.Inspect(ctx, path)
		Expect(err).To(MatchError(ContainSubstring("the schema is of version 1, this program's of ")))
	})
})
