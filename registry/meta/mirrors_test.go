package meta_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

var mirrorSpec = domain.MirrorSpec{
	Source: domain.MirrorSource{
		Type: domain.UpstreamHarbor, URL: "https://upstream.example.com", Namespace: "library", CABundle: "PEM", InsecureSkipTLSVerify: true,
		Proxy: domain.MirrorProxy{HTTP: "http://p1", HTTPS: "http://p2", NoProxy: "internal"},
	},
	Repositories: domain.RepositoryFilter{Include: []string{"app*"}, Exclude: []string{"app-old"}},
	Tags:         domain.TagFilter{Include: []domain.TagMatch{{Glob: "v*"}, {Regexp: "v.*"}, {Semver: ">1"}}, Exclude: []domain.TagMatch{{Glob: "*-rc*"}}, Newest: 3},
	Platforms:    []string{"linux/amd64"},
	Referrers:    domain.ReferrersIgnore,
	Schedule:     domain.MirrorSchedule{Interval: time.Hour, Cron: "0 4 * * *", StartAt: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC)},
	Visibility:   domain.Public,
	OnConflict:   domain.ConflictFail,
	Prune:        domain.PruneVanished,
	Suspend:      true,
	Timeout:      time.Minute,
	Concurrency:  7, BandwidthLimit: 1 << 20,
	Robot: "team-a+ci",
}

// stored is mirrorSpec in a database. What is there was written by any version.
const stored = `{"Source":{"Type":"Harbor","URL":"https://upstream.example.com","Namespace":"library","CABundle":"PEM","InsecureSkipTLSVerify":true,` +
	`"Proxy":{"HTTP":"http://p1","HTTPS":"http://p2","NoProxy":"internal"}},"Repositories":{"Include":["app*"],"Exclude":["app-old"]},` +
	`"Tags":{"Include":[{"Glob":"v*","Regexp":"","Semver":""},{"Glob":"","Regexp":"v.*","Semver":""},{"Glob":"","Regexp":"","Semver":"\u003e1"}],` +
	`"Exclude":[{"Glob":"*-rc*","Regexp":"","Semver":""}],"Newest":3},"Platforms":["linux/amd64"],"Referrers":"Ignore",` +
	`"Schedule":{"Interval":3600000000000,"Cron":"0 4 * * *","StartAt":"2026-03-06T10:00:00Z"},"Visibility":"public","OnConflict":"Fail","Prune":"Vanished",` +
	`"Suspend":true,"Timeout":60000000000,"Concurrency":7,"BandwidthLimit":1048576,"Robot":"team-a+ci"}`

var _ = Describe("A mirror", func() {
	It("is stored in a form that later versions can read", func() {
		Expect(meta.Document(mirrorSpec)).To(Equal(stored))
	})

	for name, open := range engines {
		It("comes back from "+name+" as it was stored, and is told to those who push", func() {
			store := open(GinkgoT().TempDir())
			at := time.Unix(1_000_000, 7000).UTC()
			made := domain.Mirror{
				UUID: "uuid", Organization: "team-a", MirrorSpec: mirrorSpec, Username: "puller", HasPassword: true, HasProxyCredentials: true,
				CreatedAt: at, Requested: true, RequestedAt: "now", NextSync: at.Add(time.Hour),
			}
			manager := domain.ManagedBy{Kind: "OrgMirror", Namespace: "team-a", Name: "upstream", UID: "u1", Generation: 3, RevisionClaimed: "main"}
			app := domain.RepositoryName{Organization: "team-a", Path: "app"}
			Expect(store.Write(ctx, meta.Scope{Organization: "team-a", OrganizationExclusive: true}, func(tx *meta.Tx) (err error) {
				m := made
				if m.OrganizationID, err = tx.InsertOrganization("team-a", domain.Owner{}, at); err != nil {
					return err
				}
				if _, err = tx.InsertRepository(domain.Repository{OrganizationID: m.OrganizationID, Name: app, Visibility: domain.Private}); err != nil {
					return err
				}
				repo, mirror, err := tx.RepositoryToFill(app)
				if err != nil || mirror != nil {
					Expect(mirror).To(BeNil())
					return err
				}
				Expect(repo.Name).To(Equal(app))
				if m.ID, err = tx.InsertMirror(m, []byte("sealed")); err != nil {
					return err
				}
				made.ID, made.OrganizationID = m.ID, m.OrganizationID
				return tx.SetMirrorManager(m.ID, &manager)
			})).To(Succeed())
			made.Manager = &manager
			Expect(store.Read(ctx, func(r *meta.Reader) error {
				found, err := r.Mirror("team-a")
				Expect(err).NotTo(HaveOccurred())
				Expect(found.Mirror).To(Equal(made))
				Expect(r.MirrorByID(made.ID)).To(Equal(found))
				Expect(r.ManagedMirror("OrgMirror", "team-a", "upstream")).To(Equal(found))
				Expect(r.ManagedMirrors()).To(ConsistOf(found))
				Expect(r.MirrorSecrets(made.ID)).To(BeEquivalentTo("sealed"))
				_, err = r.RunningSync(made.ID, 0)
				Expect(err).To(MatchError(meta.ErrNotFound))

				ref := meta.MirrorRef{
					ID: made.ID, UUID: "uuid", URL: mirrorSpec.Source.URL, Robot: "team-a+ci", Visibility: domain.Public, Manager: &domain.ManagedBy{Kind: "OrgMirror", Namespace: "team-a", Name: "upstream"},
				}
				repo, mirror, err := r.RepositoryToFill(app)
				Expect(err).NotTo(HaveOccurred())
				Expect(mirror).To(HaveValue(Equal(ref)))
				Expect(r.Repository(app)).To(Equal(repo))
				o, mirror, err := r.OrganizationToFill("team-a")
				Expect(err).NotTo(HaveOccurred())
				Expect(mirror).To(HaveValue(Equal(ref)))
				Expect(r.Organization("team-a")).To(Equal(o))
				for _, organization := range []string{"team-a", "team-b"} {
					all, own, mirror, err := r.OpenUploads(domain.CallerUser, "alice", organization)
					Expect(err).NotTo(HaveOccurred())
					Expect([]int{all, own}).To(Equal([]int{0, 0}))
					Expect(mirror != nil).To(Equal(organization == "team-a"))
				}
				return nil
			})).To(Succeed())
		})
	}
})

var engines = map[string]func(dir string) meta.Store{
	"sqlite": func(dir string) meta.Store {
		store, err := metatest.OpenSQLite(dir, quiet)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		return store
	},
	"postgres": func(dir string) meta.Store {
		store, err := metatest.OpenPostgreSQL(dir, quiet)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		return store
	},
}
