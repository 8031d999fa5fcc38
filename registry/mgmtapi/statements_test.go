package mgmtapi_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = It("asks the database as often for a page of a hundred mirrored repositories as for a page of one", func() {
	ctx := context.Background()
	counted, err := metatest.OpenCounting(GinkgoT().TempDir(), slog.New(slog.DiscardHandler))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(counted.Close)
	// The core does nothing in the background: nobody runs it.
	c := core.New(counted, core.Options{Logger: slog.New(slog.DiscardHandler)})
	server := serve(c, time.Now)
	defer server.Close()

	_, err = c.CreateOrganization(ctx, user, "team-a")
	Expect(err).NotTo(HaveOccurred())
	_, err = c.CreateMirror(ctx, user, "team-a", domain.MirrorSpec{
		Source: domain.MirrorSource{Type: domain.UpstreamOCI, URL: "https://registry.example.com"}, Schedule: domain.MirrorSchedule{Interval: time.Hour},
	}, domain.MirrorSecrets{})
	Expect(err).NotTo(HaveOccurred())
	claim, _, err := c.ClaimMirrorSync(ctx, "replica-1")
	Expect(err).NotTo(HaveOccurred())
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("app-%03d", i))
	}
	Expect(c.DiscoverMirrorRepositories(ctx, claim, names)).To(Succeed())

	statements := func(path string) (n int64, body string) {
		GinkgoHelper()
		before := counted.Statements.Load()
		answer := send(server, admin, "GET", mirrorPath+path, "")
		Expect(answer.status).To(Equal(200), answer.body)
		return counted.Statements.Load() - before, answer.body
	}
	one, _ := statements("/repositories?limit=1")
	hundred, body := statements("/repositories?limit=100&page=2")
	Expect(hundred).To(Equal(one))
	Expect(hundred).To(BeNumerically("<=", 3))
	Expect(into[openapi.MirrorRepositoryList](response{status: 200, body: body}).Repositories).To(HaveLen(100))
	whole, _ := statements("")
	Expect(whole).To(BeNumerically("<=", 3))
})
