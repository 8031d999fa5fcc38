package registry

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/pflag"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("superusers of the configuration", func() {
	DescribeTable("are users", func(set func(*Config), want string) {
		cfg := settings()
		set(&cfg)
		_, err := New(cfg)
		Expect(err).To(MatchError(ContainSubstring(want)))
	},
		Entry("not robots", func(c *Config) { c.ReadonlySuperusers = []string{"team-a+ci"} }, "--global-readonly-superusers: robot"),
		Entry("not admin", func(c *Config) { c.ReadonlySuperusers = []string{"admin"} }, "--global-readonly-superusers: admin cannot be"),
		Entry("with names that can be", func(c *Config) { c.ReadonlySuperusers = []string{"No Name"} }, "--global-readonly-superusers: user name"),
		Entry("not robots either", func(c *Config) { c.Superusers = []string{"team-a+ci"} }, "--superusers: user name"),
		Entry("not admin either, who is one", func(c *Config) { c.Superusers = []string{"admin"} }, "--superusers: user name admin is reserved"),
	)

	It("are named by flags, the environment or the file, as all settings are", func() {
		var cfg Config
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		cfg.AddFlags(flags)
		file := write(GinkgoT().TempDir(), "config.yaml", "global-readonly-superusers: [quayadmin, readonly, audit-bot]\nsuperusers: root\n")
		Expect(flags.Parse([]string{"--config", file, "--superusers-full-access"})).To(Succeed())
		Expect(LoadSettings(flags, func(name string) (string, bool) { return "carol,dave", name == "TIDELOCK_SUPERUSERS" })).To(Succeed())
		Expect(cfg.ReadonlySuperusers).To(Equal([]string{"quayadmin", "readonly", "audit-bot"}))
		Expect(cfg.Superusers).To(Equal([]string{"carol", "dave"}))
		Expect(cfg.SuperusersFullAccess).To(BeTrue())
	})

	It("make organizations and become their admins", func() {
		cfg := settings()
		cfg.Superusers = []string{"carol"}
		s := start(cfg)
		hash, err := auth.HashPassword(accountSecret)
		Expect(err).NotTo(HaveOccurred())
		Expect(s.core.CreateUser(context.Background(), byAdmin, core.NewUser{Name: "carol", PasswordHash: hash})).To(Succeed())
		c := &scene{stage: &stage{running: s, ctx: context.Background()}, name: "carol", password: accountSecret}
		c.must(c.send(c.authenticate, "POST", "/api/v1/organization/", []byte(`{"name": "carols"}`)), 201)
		c.must(c.send(c.authenticate, "GET", "/api/v1/organization/carols/robots", nil), 200)
		c.must(c.admin("POST", "/api/v1/organization/", []byte(`{"name": "others"}`)), 201)
		c.must(c.send(c.authenticate, "GET", "/api/v1/organization/others/robots", nil), 403)
	})
})

var _ = Describe("settings that are shown", func() {
	DescribeTable("hold no secret", func(text, want string) {
		Expect(withoutSecrets(text, strings.Contains(text, "hooks."))).To(Equal(want))
	},
		Entry("a word", "sqlite", "sqlite"),
		Entry("a path", "/var/lib/tidelock", "/var/lib/tidelock"),
		Entry("a database with a password", "postgres://tidelock:hunter2@db.example.com:5432/registry?sslmode=require&password=hunter2", "postgres://tidelock:***REDACTED***@db.example.com:5432/registry?***REDACTED***"),
		Entry("a database without one", "postgres:///registry", "postgres:///registry"),
		Entry("a password with an at", "postgres://a:p%40ss@db/x", "postgres://a:***REDACTED***@db/x"),
		Entry("a bucket", "s3://bucket/prefix?endpoint=http://s3.example.com&region=eu", "s3://bucket/prefix?endpoint=http://s3.example.com&region=eu"),
		Entry("a webhook", "https://hooks.example.com/services/T0/B0/hunter2#secret-file=/etc/x", "https://hooks.example.com/***REDACTED***"),
		Entry("an issuer", "https://issuer.example.com/realm#audience=tidelock", "https://issuer.example.com/realm#audience=tidelock"),
		Entry("an address", "https://registry.example.com", "https://registry.example.com"),
		Entry("what cannot be read", "postgres://a:hunter2@%zz/", "postgres://***REDACTED***"),
	)

	It("are all of the flags", func() {
		cfg := settings()
		cfg.Superusers, cfg.AuditForward = []string{"carol", "dave"}, []string{"stdout"}
		shown := map[string]string{}
		for _, setting := range cfg.settings() {
			shown[setting.Name] = setting.Value
		}
		Expect(shown).To(And(HaveKeyWithValue("superusers", "carol,dave"), HaveKeyWithValue("listen", "127.0.0.1:0"), HaveKeyWithValue("audit-forward", "stdout"), HaveKeyWithValue("superusers-full-access", "false"), Not(HaveKey("config"))))
	})
})

var _ = Describe("a readonly superuser on several replicas", func() {
	It("is one everywhere within two seconds, with writes refused at once, and none any more after the revocation", func() {
		cfg := settings()
		dsn, err := postgrestest.Database("readonly")
		Expect(err).NotTo(HaveOccurred())
		cfg.Database = dsn
		first := start(cfg)
		other := settings()
		other.Database, other.AdminPasswordFile = dsn, cfg.AdminPasswordFile
		second := start(other)
		ctx := context.Background()
		hash, err := auth.HashPassword(accountSecret)
		Expect(err).NotTo(HaveOccurred())
		Expect(first.core.CreateUser(ctx, byAdmin, core.NewUser{Name: "carol", PasswordHash: hash})).To(Succeed())
		_, err = first.core.CreateOrganization(ctx, byAdmin, "team-a")
		Expect(err).NotTo(HaveOccurred())
		_, err = first.core.CreateOrganization(ctx, byAdmin, "team-b")
		Expect(err).NotTo(HaveOccurred())
		_, err = first.core.SetMember(ctx, byAdmin, "team-a", "carol", domain.OrganizationAdmin)
		Expect(err).NotTo(HaveOccurred())
		on := func(r *running) *scene {
			return &scene{stage: &stage{running: r, ctx: ctx}, organization: "team-a", name: "carol", password: accountSecret}
		}
		read := func(c *scene) int {
			return c.send(c.authenticate, "GET", "/api/v1/organization/team-b/robots", nil).status
		}
		change := func(c *scene) reply {
			return c.send(c.authenticate, "POST", "/api/v1/organization/team-a/immutabilitypolicy/", []byte(`{"tagPattern": "v`+time.Now().Format("150405.000000000")+`"}`))
		}
		a, b := on(first), on(second)
		for _, c := range []*scene{a, b} {
			c.must(change(c), 201)
			Expect(read(c)).To(Equal(http.StatusForbidden))
		}
		// A token with the right to push, from before the grant.
		var token struct{ Token string }
		answer := b.must(b.send(b.authenticate, "GET", "/v2/auth?scope=repository:team-a/app:pull,push", nil), 200)
		Expect(json.Unmarshal([]byte(answer.body), &token)).To(Succeed())
		bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token.Token) }
		b.must(b.send(bearer, "POST", "/v2/team-a/app/blobs/uploads/", nil), 202)

		grant := core.ManagedReadonlySuperuser{
			Cluster: "cluster", Manager: domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: "audit", UID: "u1", Generation: 1},
			Subject: domain.Subject{Kind: domain.SubjectRegistryUser, Name: "carol"}, Access: domain.ReadonlyFull,
		}
		_, err = first.core.PutManagedReadonlySuperuser(ctx, byOperator, grant)
		Expect(err).NotTo(HaveOccurred())
		a.must(change(a), 403)
		refused := change(b)
		Expect(refused.status).To(BeElementOf(http.StatusUnauthorized, http.StatusForbidden), "the other replica may not know it yet, but its transaction does: %s", refused.body)
		Eventually(func() int { return read(b) }).WithTimeout(2 * time.Second).Should(Equal(http.StatusOK))
		b.must(change(b), 403)
		push := func() int { return b.send(bearer, "POST", "/v2/team-a/app/blobs/uploads/", nil).status }
		Expect(push()).To(BeElementOf(http.StatusUnauthorized, http.StatusForbidden), "the token does not let it write any more")
		Eventually(push).WithTimeout(2*time.Second).Should(Equal(http.StatusUnauthorized), "and is void")
		var problem openapi.Problem
		Expect(json.Unmarshal([]byte(change(b).body), &problem)).To(Succeed())
		Expect(problem.Detail).To(ContainSubstring("reads everything and writes nothing"))
		denied := b.send(b.authenticate, "POST", "/v2/team-a/app/blobs/uploads/", nil)
		Expect(denied.status).To(Equal(http.StatusForbidden))
		Expect(denied.code()).To(Equal("DENIED"))
		Expect(strings.ToLower(denied.body)).To(ContainSubstring("readonly superuser"))

		Expect(second.core.DeleteManagedReadonlySuperuser(ctx, byOperator, "cluster", grant.Manager)).To(Succeed())
		Expect(read(b)).To(Equal(http.StatusForbidden))
		Eventually(func() int { return read(a) }).WithTimeout(2 * time.Second).Should(Equal(http.StatusForbidden))
		a.must(change(a), 201)
	})
})
