package auth_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

func (w *watched) Grants(ctx context.Context) (domain.Grants, error) {
	if err := w.call(&w.reads); err != nil {
		return domain.Grants{}, domain.Unavailable(err)
	}
	return w.Core.Grants(ctx)
}

// reading are the permissions that only read, and that a readonly superuser has therefore.
var reading = []auth.Permission{
	auth.RegistryPing, auth.CatalogRead, auth.RepositoryPull, auth.BlobPull, auth.RepositoryList, auth.RepositoryRead, auth.PermissionRead,
	auth.OrganizationList, auth.OrganizationRead, auth.MemberRead, auth.RobotRead, auth.TagRead, auth.PolicyRead, auth.MirrorRead,
	auth.LogsRead, auth.SuperuserLogs, auth.LogsProve, auth.ErasureRead, auth.UserRead, auth.OwnTokensRead, auth.UserList,
	auth.ReadonlySuperuserRead, auth.ConfigurationRead, auth.SigningKeyRead,
	// These are for everybody.
	auth.TokenIssue, auth.TokenKeysRead, auth.OpenAPIRead,
}

var _ = Describe("A readonly superuser", func() {
	var (
		ctx     = context.Background()
		now     *clock
		c       *core.Core
		options auth.Options
		app     = domain.RepositoryName{Organization: "team-a", Path: "app"}
		public  = domain.RepositoryName{Organization: "team-a", Path: "public"}
		other   = domain.RepositoryName{Organization: "team-b", Path: "app"}
		alice   = domain.Subject{Kind: domain.SubjectRegistryUser, Name: "alice"}
		holder  = domain.Caller{Name: "operator", Kind: domain.CallerOperator}
	)

	replica := func(remote bool) (*auth.Authenticator, *watched) {
		GinkgoHelper()
		w := &watched{Core: c, remote: remote}
		mine := options
		mine.Accounts = w
		a, err := auth.New(mine)
		Expect(err).NotTo(HaveOccurred())
		return a, w
	}
	grant := func(name string, to domain.Subject, change ...func(*core.ManagedReadonlySuperuser)) core.ReadonlySuperuserStatus {
		GinkgoHelper()
		m := core.ManagedReadonlySuperuser{
			Cluster: "cluster", Manager: domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: name, UID: name + "-uid", Generation: 1},
			Subject: to, Access: domain.ReadonlyFull,
		}
		for _, f := range change {
			f(&m)
		}
		status, err := c.PutManagedReadonlySuperuser(ctx, holder, m)
		Expect(err).NotTo(HaveOccurred())
		return status
	}
	metadataOnly := func(m *core.ManagedReadonlySuperuser) { m.Access = domain.ReadonlyMetadataOnly }
	revoke := func(name string) {
		GinkgoHelper()
		m := domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: name, UID: name + "-uid"}
		Expect(c.DeleteManagedReadonlySuperuser(ctx, holder, "cluster", m)).To(Succeed())
	}
	login := func(a *auth.Authenticator) auth.Identity {
		GinkgoHelper()
		id, err := a.Authenticate(basic("alice", alicePassword))
		Expect(err).NotTo(HaveOccurred())
		return id
	}
	may := func(a *auth.Authenticator, id auth.Identity, permission auth.Permission, on auth.Resource) domain.Code {
		return domain.CodeOf(a.Authorize(ctx, id, permission, on))
	}

	BeforeEach(func() {
		now = &clock{now: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC)}
		store, err := sqlite.Open(ctx, filepath.Join(GinkgoT().TempDir(), "tidelock.db"), slog.New(slog.DiscardHandler))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		c = core.New(store, core.Options{Logger: slog.New(slog.DiscardHandler), Now: now.Now})
		options = auth.Options{Installation: "here", Logger: slog.New(slog.DiscardHandler), Now: now.Now}
		for _, name := range []string{"team-a", "team-b"} {
			_, err := c.CreateOrganization(ctx, admin, name)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(c.CreateRepository(ctx, admin, app, core.NewRepository{})).To(Succeed())
		Expect(c.CreateRepository(ctx, admin, other, core.NewRepository{})).To(Succeed())
		Expect(c.CreateRepository(ctx, admin, public, core.NewRepository{Visibility: domain.Public})).To(Succeed())
		hash, err := aliceHash()
		Expect(err).NotTo(HaveOccurred())
		Expect(c.CreateUser(ctx, admin, core.NewUser{Name: "alice", PasswordHash: hash})).To(Succeed())
		// Alice had admin rights before.
		_, err = c.SetMember(ctx, admin, "team-a", "alice", domain.OrganizationAdmin)
		Expect(err).NotTo(HaveOccurred())
	})

	DescribeTable("reads everything and writes nothing, whatever it was given before", func(access domain.ReadonlyAccess) {
		a, _ := replica(false)
		Expect(may(a, login(a), auth.PolicyWrite, auth.Organization("team-a"))).To(BeEmpty())
		grant("audit", alice, func(m *core.ManagedReadonlySuperuser) { m.Access = access })
		id := login(a)
		Expect(id.Readonly).To(Equal(access))
		allowed := map[auth.Permission]bool{}
		for _, permission := range reading {
			allowed[permission] = permission != auth.BlobPull || access == domain.ReadonlyFull
		}
		for _, permission := range auth.Permissions() {
			for _, on := range []auth.Resource{
				{}, auth.Organization("team-a"), auth.Organization("team-b"), auth.Repository(app), auth.Repository(other), auth.Repository(public),
				auth.Repository(domain.RepositoryName{Organization: "team-a", Path: "new"}), auth.Repository(domain.RepositoryName{Organization: "new", Path: "new"}), auth.Anywhere,
			} {
				err := a.Authorize(ctx, id, permission, on)
				if allowed[permission] {
					Expect(err).NotTo(HaveOccurred(), "%s on %s", permission, on)
					continue
				}
				Expect(domain.CodeOf(err)).To(Equal(domain.CodeDenied), "%s on %s", permission, on)
				Expect(err).To(MatchError(ContainSubstring(`user "alice" is a readonly superuser`)))
			}
		}
		Expect(id.Audience().Everything).To(BeTrue())
	},
		Entry("with the access Full", domain.ReadonlyFull),
		Entry("with the access MetadataOnly", domain.ReadonlyMetadataOnly),
	)

	It("gets tokens for pulls only, and no token lets it write", func() {
		a, _ := replica(false)
		grant("audit", alice)
		answer, err := a.Issue(ctx, login(a), auth.TokenRequest{Scopes: []string{"repository:team-b/app:pull,push,delete", "repository:team-a/app:*", "registry:catalog:*"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(answer.Scope).To(Equal("repository:team-b/app:pull repository:team-a/app:pull registry:catalog:*"))
		id, err := a.Authenticate(requestWith("Bearer " + answer.Token))
		Expect(err).NotTo(HaveOccurred())
		Expect(may(a, id, auth.RepositoryPull, auth.Repository(other))).To(BeEmpty())
		Expect(may(a, id, auth.BlobPull, auth.Repository(other))).To(BeEmpty())
		Expect(may(a, id, auth.RepositoryPush, auth.Repository(other))).To(Equal(domain.CodeDenied), "another token would not help")
		Expect(may(a, id, auth.RepositoryPull, auth.Repository(public))).To(Equal(domain.CodeUnauthorized), "another token would help")
	})

	It("with the access MetadataOnly pulls no blob with a token either, not even of a public repository", func() {
		a, w := replica(false)
		grant("audit", alice, metadataOnly)
		answer, err := a.Issue(ctx, login(a), auth.TokenRequest{Scopes: []string{"repository:team-a/public:pull"}})
		Expect(err).NotTo(HaveOccurred())
		id, err := a.Authenticate(requestWith("Bearer " + answer.Token))
		Expect(err).NotTo(HaveOccurred())
		Expect(may(a, id, auth.RepositoryPull, auth.Repository(public))).To(BeEmpty())
		err = a.Authorize(ctx, id, auth.BlobPull, auth.Repository(public))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeDenied))
		Expect(err).To(MatchError(ContainSubstring("MetadataOnly")))
		repository, err := w.Core.Repository(ctx, public)
		Expect(err).NotTo(HaveOccurred())
		Expect(auth.MayPull(id, repository)).To(BeFalse())
	})

	It("had tokens before the grant: they are void, or readonly", func() {
		a, _ := replica(false)
		b, _ := replica(true)
		secret, hash := auth.NewSecret()
		_, err := c.CreateToken(ctx, admin, "alice", "laptop", hash)
		Expect(err).NotTo(HaveOccurred())
		before, err := a.Issue(ctx, login(a), auth.TokenRequest{Scopes: []string{"repository:team-a/app:pull,push"}, Refresh: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(before.Scope).To(Equal("repository:team-a/app:pull,push"))
		for _, replica := range []*auth.Authenticator{a, b} {
			id, err := replica.Authenticate(requestWith("Bearer " + before.Token))
			Expect(err).NotTo(HaveOccurred())
			Expect(may(replica, id, auth.RepositoryPush, auth.Repository(app))).To(BeEmpty())
		}
		grant("audit", alice)
		_, err = a.Authenticate(requestWith("Bearer " + before.Token))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		_, err = b.Authenticate(requestWith("Bearer " + before.Token))
		Expect(err).NotTo(HaveOccurred(), "another replica has not looked yet; core refuses what it would write")
		now.Advance(time.Second)
		_, err = b.Authenticate(requestWith("Bearer " + before.Token))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		_, err = a.Refresh(ctx, before.RefreshToken, "192.0.2.1")
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		for _, replica := range []*auth.Authenticator{a, b} {
			id, err := replica.Authenticate(requestWith("Bearer " + secret))
			Expect(err).NotTo(HaveOccurred())
			Expect(may(replica, id, auth.RepositoryPush, auth.Repository(app))).To(Equal(domain.CodeDenied))
			Expect(may(replica, id, auth.MirrorRead, auth.Organization("team-b"))).To(BeEmpty())
		}
	})

	It("is none any more after the revocation, at once where it was made and within two seconds elsewhere", func() {
		a, _ := replica(false)
		b, _ := replica(true)
		grant("audit", alice)
		answer, err := a.Issue(ctx, login(a), auth.TokenRequest{Scopes: []string{"repository:team-b/app:pull"}})
		Expect(err).NotTo(HaveOccurred())
		read := func(a *auth.Authenticator) domain.Code {
			return may(a, login(a), auth.MirrorRead, auth.Organization("team-b"))
		}
		Expect(read(a)).To(BeEmpty())
		Expect(read(b)).To(BeEmpty())
		revoke("audit")
		Expect(read(a)).To(Equal(domain.CodeDenied))
		Expect(read(b)).To(BeEmpty(), "it has not looked yet")
		now.Advance(time.Second)
		Expect(read(b)).To(Equal(domain.CodeDenied))
		for _, replica := range []*auth.Authenticator{a, b} {
			_, err = replica.Authenticate(requestWith("Bearer " + answer.Token))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			Expect(may(replica, login(replica), auth.PolicyWrite, auth.Organization("team-a"))).To(BeEmpty(), "it has what it was given before")
		}
	})

	It("is none any more when the grant expires, on every replica by its clock alone", func() {
		grant("audit", alice, func(m *core.ManagedReadonlySuperuser) { m.ExpiresAt = now.Now().Add(time.Hour) })
		a, w := replica(false)
		b, _ := replica(true)
		for _, replica := range []*auth.Authenticator{a, b} {
			Expect(may(replica, login(replica), auth.MirrorRead, auth.Organization("team-b"))).To(BeEmpty())
		}
		now.Advance(time.Hour - time.Second)
		Expect(may(a, login(a), auth.MirrorRead, auth.Organization("team-b"))).To(BeEmpty())
		w.down.Store(true)
		now.Advance(time.Second)
		for _, replica := range []*auth.Authenticator{a, b} {
			Expect(may(replica, login(replica), auth.MirrorRead, auth.Organization("team-b"))).To(Equal(domain.CodeDenied))
		}
	})

	It("with credentials of the grant has none any more when the grant expires, before anybody cleans up", func() {
		grant("audit", domain.Subject{Kind: domain.SubjectRegistryUser, Name: "made"}, func(m *core.ManagedReadonlySuperuser) {
			m.Credentials, m.ExpiresAt = true, now.Now().Add(time.Hour)
		})
		secret, hash := auth.NewSecret()
		_, _, err := c.CreateGrantToken(ctx, holder, "cluster", domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: "audit", UID: "audit-uid"}, hash)
		Expect(err).NotTo(HaveOccurred())
		a, _ := replica(false)
		id, err := a.Authenticate(basic("made", secret))
		Expect(err).NotTo(HaveOccurred())
		Expect(id.Readonly).To(Equal(domain.ReadonlyFull))
		answer, err := a.Issue(ctx, id, auth.TokenRequest{})
		Expect(err).NotTo(HaveOccurred())
		_, err = a.Authenticate(requestWith("Bearer " + answer.Token))
		Expect(err).NotTo(HaveOccurred())
		now.Advance(time.Hour)
		for _, request := range []string{secret, answer.Token} {
			_, err = a.Authenticate(requestWith("Bearer " + request))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		}
	})

	It("is one still while the database is briefly away, and nobody is anything after ten seconds", func() {
		a, w := replica(true)
		grant("audit", alice)
		writes := func() domain.Code {
			id, err := a.Authenticate(basic("alice", alicePassword))
			if err != nil {
				return domain.CodeOf(err)
			}
			return may(a, id, auth.RepositoryPush, auth.Repository(app))
		}
		Expect(writes()).To(Equal(domain.CodeDenied))
		w.down.Store(true)
		for range 9 {
			now.Advance(time.Second)
			Expect(writes()).To(Equal(domain.CodeDenied))
		}
		now.Advance(time.Second)
		Expect(writes()).To(Equal(domain.CodeUnavailable))
		w.down.Store(false)
		Expect(writes()).To(Equal(domain.CodeDenied))
	})

	It("is not let in as somebody else when its grant cannot be read", func() {
		a, w := replica(false)
		login(a)
		grant("audit", alice)
		w.down.Store(true)
		_, err := a.Authenticate(basic("alice", alicePassword))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
	})

	It("is one also where the user is made after the grant", func() {
		a, _ := replica(false)
		grant("audit", domain.Subject{Kind: domain.SubjectRegistryUser, Name: "bob"})
		hash, err := aliceHash()
		Expect(err).NotTo(HaveOccurred())
		Expect(c.CreateUser(ctx, admin, core.NewUser{Name: "bob", PasswordHash: hash})).To(Succeed())
		id, err := a.Authenticate(basic("bob", alicePassword))
		Expect(err).NotTo(HaveOccurred())
		Expect(id.Readonly).To(Equal(domain.ReadonlyFull))
	})

	It("costs requests no look-up", func() {
		a, w := replica(false)
		grant("audit", alice)
		login(a)
		reads := w.reads.Load()
		for range 50 {
			login(a)
		}
		Expect(w.reads.Load()).To(Equal(reads))
	})

	It("is remembered as seen, written once in a while", func() {
		a, _ := replica(false)
		grant("audit", alice)
		login(a)
		Expect(a.WriteUses(ctx)).To(Succeed())
		status, err := c.ManagedReadonlySuperuser(ctx, domain.KindReadonlySuperuser, "audit")
		Expect(err).NotTo(HaveOccurred())
		Expect(status.LastSeen).To(BeTemporally("==", now.Now()))
	})

	Describe("that has no account", func() {
		user := func(kind domain.CallerKind, name string, groups ...string) auth.Identity {
			return auth.Identity{Caller: domain.Caller{Kind: kind, Name: name}, Role: auth.RoleAnybody, Groups: groups}
		}
		group := func(name string) domain.Subject { return domain.Subject{Kind: domain.SubjectGroup, Name: name} }

		It("is found by its kind and name, or by a group", func() {
			a, _ := replica(false)
			grant("sa", domain.Subject{Kind: domain.SubjectServiceAccount, Namespace: "ns", Name: "audit"})
			grant("user", domain.Subject{Kind: domain.SubjectUser, Name: "carol"}, metadataOnly)
			grant("wide", group("auditors"))
			grant("narrow", group("interns"), metadataOnly)
			for _, expected := range []struct {
				id     auth.Identity
				access domain.ReadonlyAccess
			}{
				{user(domain.CallerServiceAccount, "ns/audit"), domain.ReadonlyFull},
				{user(domain.CallerServiceAccount, "ns2/audit"), ""},
				{user(domain.CallerKubernetesUser, "ns/audit"), ""},
				{user(domain.CallerKubernetesUser, "carol"), domain.ReadonlyMetadataOnly},
				{user(domain.CallerOIDC, "carol"), domain.ReadonlyMetadataOnly},
				{user(domain.CallerKubernetesUser, "alice"), ""},
				{user(domain.CallerKubernetesUser, "dan", "auditors"), domain.ReadonlyFull},
				{user(domain.CallerKubernetesUser, "dan", "auditors", "interns"), domain.ReadonlyMetadataOnly},
				{user(domain.CallerKubernetesUser, "dan", "interns", "auditors"), domain.ReadonlyMetadataOnly},
				{user(domain.CallerServiceAccount, "ns/audit", "interns"), domain.ReadonlyFull},
			} {
				ranked, err := a.Rank(ctx, expected.id)
				Expect(err).NotTo(HaveOccurred())
				Expect(ranked.Readonly).To(Equal(expected.access), "%s in %v", expected.id.Caller, expected.id.Groups)
				Expect(ranked.Epoch).NotTo(BeZero())
			}
			registryUser, err := a.Rank(ctx, auth.Identity{Caller: domain.Caller{Kind: domain.CallerUser, Name: "carol", Account: 9}, Role: auth.RoleAccount})
			Expect(err).NotTo(HaveOccurred())
			Expect(registryUser.Readonly).To(BeEmpty(), "names of different sources are never equal")
			robot, err := a.Rank(ctx, auth.Identity{Caller: domain.Caller{Kind: domain.CallerRobot, Name: "carol", Account: 9}, Role: auth.RoleAccount, Groups: []string{"auditors"}})
			Expect(err).NotTo(HaveOccurred())
			Expect(robot.Readonly).To(BeEmpty())
		})
	})

	Describe("by the configuration", func() {
		It("is one for life, and wins over being a superuser", func() {
			options.Superusers, options.ReadonlySuperusers, options.SuperusersFullAccess = []string{"alice"}, []string{"alice"}, true
			a, _ := replica(false)
			id := login(a)
			Expect(id.Readonly).To(Equal(domain.ReadonlyFull))
			Expect(may(a, id, auth.MirrorRead, auth.Organization("team-b"))).To(BeEmpty())
			Expect(may(a, id, auth.UserManage, auth.Resource{})).To(Equal(domain.CodeDenied))
			Expect(auth.EffectiveSuperusers(options.Superusers, options.ReadonlySuperusers)).To(BeEmpty())
		})

		It("is narrowed by a grant", func() {
			options.ReadonlySuperusers = []string{"alice"}
			a, _ := replica(false)
			grant("audit", alice, metadataOnly)
			Expect(login(a).Readonly).To(Equal(domain.ReadonlyMetadataOnly))
		})

		It("is no superuser by a grant either", func() {
			options.Superusers, options.SuperusersFullAccess = []string{"alice"}, true
			a, _ := replica(false)
			Expect(may(a, login(a), auth.UserManage, auth.Resource{})).To(BeEmpty())
			grant("audit", alice)
			Expect(may(a, login(a), auth.UserManage, auth.Resource{})).To(Equal(domain.CodeDenied))
		})
	})
})

var _ = Describe("A superuser of the configuration", func() {
	id := func(role auth.Role) auth.Identity {
		return auth.Identity{
			Caller: domain.Caller{Kind: domain.CallerUser, Name: "alice", Account: 7}, Role: role,
			Rights: domain.Rights{Organizations: map[string]domain.OrganizationRole{"team-a": domain.OrganizationAdmin}},
		}
	}
	has := func(id auth.Identity, permission auth.Permission, organization string) bool {
		return id.Holds(permission, auth.Organization(organization))
	}

	It("without full access manages users, reads the whole log, and has in organizations what it was given", func() {
		limited := id(auth.RoleLimitedSuperuser)
		for _, permission := range []auth.Permission{auth.UserManage, auth.UserList, auth.OrganizationList, auth.SuperuserLogs, auth.LogsProve, auth.SigningKeyManage, auth.ConfigurationRead, auth.UserChange} {
			Expect(limited.Holds(permission, auth.Resource{})).To(BeTrue(), string(permission))
		}
		for _, permission := range []auth.Permission{auth.PersonErase, auth.OperatorProtocol} {
			Expect(limited.Holds(permission, auth.Resource{})).To(BeFalse(), string(permission))
		}
		for _, permission := range []auth.Permission{auth.PolicyRead, auth.PolicyWrite, auth.MirrorRead, auth.MirrorWrite, auth.RobotRead, auth.LogsRead, auth.OrganizationRead, auth.OrganizationAdmin} {
			Expect(has(limited, permission, "team-a")).To(BeTrue(), string(permission))
			Expect(has(limited, permission, "team-b")).To(BeFalse(), string(permission))
		}
	})

	It("with full access has what admin has, and an account", func() {
		full := id(auth.RoleSuperuser)
		for _, permission := range auth.Permissions() {
			Expect(has(full, permission, "team-b")).To(Equal(permission != auth.OperatorProtocol), string(permission))
		}
	})
})
