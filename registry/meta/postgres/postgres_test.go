package postgres_test

import (
	"context"
	"log/slog"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

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
)

func open(key string) *postgres.Store {
	GinkgoHelper()
	dsn, err := postgrestest.Database(key)
	Expect(err).NotTo(HaveOccurred())
	store, err := postgres.Open(ctx, dsn, quiet)
	Expect(err).NotTo(HaveOccurred())
	return store
}

var _ = Describe("x", func() {
	It("opens", func() {
		s := open("a")
		Expect(s.Close()).To(Succeed())
	})
})
