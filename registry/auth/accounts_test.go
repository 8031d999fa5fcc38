package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

const alicePassword = "alice's password"

// aliceHash is made once: each costs what a check of a password does.
var aliceHash = sync.OnceValues(func() (string, error) { return auth.HashPassword(alicePassword) })

var admin = domain.Caller{Name: "admin", Kind: domain.CallerUser}

// watched is a core whose reads are counted, and can fail.
type watched struct {
	*core.Core
	// versions counts reads of the version of identities, reads all others.
	versions, reads atomic.Int64
	down            atomic.Bool
	// remote hides what other processes change in this one.
	remote bool
}

var errDown = errors.New("the database is away")

func (w *watched) call(counter *atomic.Int64) error {
	counter.Add(1)
	if w.down.Load() {
		return errDown
	}
	return nil
}

func (w *watched) IdentityChanges() int64 {
	if w.remote {
		return 0
	}
	return w.Core.IdentityChanges()
}

func (w *watched) IdentityVersion(ctx context.Context) (int64, error) {
	if err := w.call(&w.versions); err != nil {
		return 0, err
	}
	return w.Core.IdentityVersion(ctx)
}

func (w *watched) PrincipalByID(ctx context.Context, id int64) (domain.Principal, int64, error) {
	if err := w.call(&w.reads); err != nil {
		return domain.Principal{}, 0, domain.Unavailable(err)
	}
	return w.Core.PrincipalByID(ctx, id)
}

func (w *watched) PrincipalByToken(ctx context.Context, hash []byte) (domain.Principal, int64, error) {
	if err := w.call(&w.reads); err != nil {
		return domain.Principal{}, 0, domain.Unavailable(err)
	}
	return w.Core.PrincipalByToken(ctx, hash)
}

func (w *watched) Repository(ctx context.Context, name domain.RepositoryName) (domain.Repository, error) {
	if err := w.call(&w.reads); err != nil {
		return domain.Repository{}, domain.Unavailable(err)
	}
	return w.Core.Repository(ctx, name)
}

func (w *watched) SigningKeys(ctx context.Context) ([]domain.SigningKey, error) {
	if err := w.call(&w.reads); err != nil {
		return nil, domain.Unavailable(err)
	}
	return w.Core.SigningKeys(ctx)
}

var _ = Describe("Accounts", func() {
	var (
		dir     string
		now     *clock
		store   *sqlite.Store
		c       *core.Core
		options auth.Options
		app     = domain.RepositoryName{Organization: "team-a", Path: "app"}
		public  = domain.RepositoryName{Organization: "team-a", Path: "public"}
		ctx     = context.Background()
		robot   string
	)

	// a is the first replica, b another one, with its own view of the database.
	replica := func(remote bool) (*auth.Authenticator, *watched) {
		GinkgoHelper()
		w := &watched{Core: c, remote: remote}
		mine := options
		mine.Accounts = w
		a, err := auth.New(mine)
		Expect(err).NotTo(HaveOccurred())
		return a, w
	}

	BeforeEach(func() {
		dir, now = GinkgoT().TempDir(), &clock{now: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC)}
		var err error
		store, err = sqlite.Open(ctx, filepath.Join(dir, "tidelock.db"), slog.New(slog.DiscardHandler))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		c = core.New(store, core.Options{Logger: slog.New(slog.DiscardHandler), Now: now.Now})
		background, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- c.Run(background) }()
		DeferCleanup(func() {
			stop()
			Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
		})
		options = auth.Options{Installation: "here", Logger: slog.New(slog.DiscardHandler), Now: now.Now}
		_, err = c.CreateOrganization(ctx, admin, "team-a")
		Expect(err).NotTo(HaveOccurred())
		Expect(c.CreateRepository(ctx, admin, app, core.NewRepository{})).To(Succeed())
		Expect(c.CreateRepository(ctx, admin, public, core.NewRepository{Visibility: domain.Public})).To(Succeed())
		hash, err := aliceHash()
		Expect(err).NotTo(HaveOccurred())
		Expect(c.CreateUser(ctx, admin, core.NewUser{Name: "alice", PasswordHash: hash})).To(Succeed())
		secret, sum := auth.NewSecret()
		_, err = c.CreateRobot(ctx, admin, core.NewRobot{Organization: "team-a", Short: "ci"}, sum)
		Expect(err).NotTo(HaveOccurred())
		robot = secret
	})

	withAdmin := func() {
		GinkgoHelper()
		options.AdminPasswordFile = filepath.Join(dir, "password")
		replace(options.AdminPasswordFile, password)
	}
	give := func(name string, role domain.RepositoryRole) {
		GinkgoHelper()
		_, err := c.SetPermission(ctx, admin, app, name, role)
		Expect(err).NotTo(HaveOccurred())
	}
	logins := func() (entries []audit.View) {
		GinkgoHelper()
		entries, err := c.Log(ctx, audit.Query{After: -1, Kinds: []audit.Kind{audit.KindLoginFailure}, Limit: 1000})
		Expect(err).NotTo(HaveOccurred())
		return entries
	}
	pullable := func(a *auth.Authenticator, id auth.Identity) domain.Code {
		return domain.CodeOf(a.Authorize(ctx, id, auth.RepositoryPull, auth.Repository(app)))
	}

	Describe("log in", func() {
		It("with a user's password, a user's token and a robot's token, by Basic and as a bearer", func() {
			a, _ := replica(false)
			id, err := a.Authenticate(basic("alice", alicePassword))
			Expect(err).NotTo(HaveOccurred())
			Expect(id.Caller.String()).To(Equal("user:alice"))
			Expect(id.TokenID).To(BeEmpty())

			secret, hash := auth.NewSecret()
			token, err := c.CreateToken(ctx, admin, "alice", "laptop", hash)
			Expect(err).NotTo(HaveOccurred())
			for _, request := range []string{"alice:" + secret, "team-a+ci:" + robot} {
				name, credential, _ := strings.Cut(request, ":")
				direct, err := a.Authenticate(basic(name, credential))
				Expect(err).NotTo(HaveOccurred())
				bearer, err := a.Authenticate(requestWith("Bearer " + credential))
				Expect(err).NotTo(HaveOccurred())
				Expect(bearer).To(Equal(direct))
				Expect(direct.Name).To(Equal(name))
				Expect(direct.TokenID).NotTo(BeEmpty())
				Expect(direct.Address).To(Equal("192.0.2.1"))
				if name == "alice" {
					Expect(direct.TokenID).To(Equal(token.ID))
				}
			}
		})

		DescribeTable("never with", func(name func() string, credential func() string) {
			withAdmin()
			a, _ := replica(false)
			_, err := a.Authenticate(basic(name(), credential()))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			Expect(err).To(MatchError("the credentials are wrong"))
		},
			Entry("a wrong password", func() string { return "alice" }, func() string { return "wrong" }),
			Entry("no password", func() string { return "alice" }, func() string { return "" }),
			Entry("another's password", func() string { return "admin" }, func() string { return alicePassword }),
			Entry("a token under another name", func() string { return "alice" }, func() string { return robot }),
			Entry("a token under the superuser's name", func() string { return "admin" }, func() string { return robot }),
			Entry("half a token", func() string { return "team-a+ci" }, func() string { return robot[:40] }),
			Entry("what is shown in place of a token", func() string { return "team-a+ci" }, func() string { return domain.Redacted }),
			Entry("an unknown user", func() string { return "bob" }, func() string { return alicePassword }),
			Entry("an unknown robot", func() string { return "team-a+cd" }, func() string { return robot }),
			Entry("no name", func() string { return "" }, func() string { return alicePassword }),
			Entry("a robot without a password", func() string { return "team-a+ci" }, func() string { return "" }),
		)

		It("not when they are disabled or deleted, nor with a token that was replaced or revoked", func() {
			a, _ := replica(false)
			secret, hash := auth.NewSecret()
			token, err := c.CreateToken(ctx, admin, "alice", "laptop", hash)
			Expect(err).NotTo(HaveOccurred())
			logIn := func(name, credential string) domain.Code {
				_, err := a.Authenticate(basic(name, credential))
				return domain.CodeOf(err)
			}
			Expect(logIn("alice", alicePassword)).To(BeEmpty())
			Expect(logIn("alice", secret)).To(BeEmpty())
			yes, no := true, false
			Expect(c.UpdateUser(ctx, admin, "alice", core.UserChange{Disabled: &yes})).To(Succeed())
			Expect(logIn("alice", alicePassword)).To(Equal(domain.CodeUnauthorized))
			Expect(logIn("alice", secret)).To(Equal(domain.CodeUnauthorized))
			Expect(c.UpdateUser(ctx, admin, "alice", core.UserChange{Disabled: &no})).To(Succeed())
			Expect(logIn("alice", alicePassword)).To(BeEmpty())
			Expect(c.RevokeToken(ctx, admin, "alice", token.ID)).To(Succeed())
			Expect(logIn("alice", secret)).To(Equal(domain.CodeUnauthorized))

			Expect(logIn("team-a+ci", robot)).To(BeEmpty())
			next, sum := auth.NewSecret()
			_, err = c.RegenerateRobot(ctx, admin, "team-a", "ci", sum)
			Expect(err).NotTo(HaveOccurred())
			Expect(logIn("team-a+ci", robot)).To(Equal(domain.CodeUnauthorized))
			Expect(logIn("team-a+ci", next)).To(BeEmpty())
			Expect(c.DeleteRobot(ctx, admin, "team-a", "ci")).To(Succeed())
			Expect(logIn("team-a+ci", next)).To(Equal(domain.CodeUnauthorized))
		})

		It("leaves no secret in the database", func() {
			withAdmin()
			a, _ := replica(false)
			answer, err := a.Issue(ctx, auth.Identity{Role: auth.RoleSuperuser, Caller: admin}, auth.TokenRequest{})
			Expect(err).NotTo(HaveOccurred())
			for _, name := range []string{"tidelock.db", "tidelock.db-wal"} {
				content, err := os.ReadFile(filepath.Join(dir, name))
				Expect(err).NotTo(HaveOccurred())
				for _, secret := range []string{alicePassword, robot, strings.TrimPrefix(robot, auth.SecretPrefix), password, answer.Token} {
					Expect(strings.Contains(string(content), secret)).To(BeFalse())
				}
			}
		})

		It("is remembered as the last use, written once in a while", func() {
			a, _ := replica(false)
			for range 3 {
				_, err := a.Authenticate(basic("team-a+ci", robot))
				Expect(err).NotTo(HaveOccurred())
			}
			account, err := c.Robot(ctx, "team-a", "ci")
			Expect(err).NotTo(HaveOccurred())
			Expect(account.LastUsed).To(BeZero())
			Expect(a.WriteUses(ctx)).To(Succeed())
			account, err = c.Robot(ctx, "team-a", "ci")
			Expect(err).NotTo(HaveOccurred())
			Expect(account.LastUsed).To(BeTemporally("==", now.Now()))
		})
	})

	Describe("tokens of the token endpoint", func() {
		issue := func(a *auth.Authenticator, name, credential string, scopes ...string) auth.TokenAnswer {
			GinkgoHelper()
			id, err := a.Login(ctx, name, credential, "192.0.2.1")
			Expect(err).NotTo(HaveOccurred())
			answer, err := a.Issue(ctx, id, auth.TokenRequest{Scopes: scopes, Refresh: true})
			Expect(err).NotTo(HaveOccurred())
			return answer
		}
		use := func(a *auth.Authenticator, token string) (auth.Identity, domain.Code) {
			id, err := a.Authenticate(requestWith("Bearer " + token))
			return id, domain.CodeOf(err)
		}

		DescribeTable("are for as much of the scopes as the caller may have", func(role domain.RepositoryRole, asked []string, granted string) {
			a, _ := replica(false)
			if role != "" {
				give("team-a+ci", role)
			}
			Expect(issue(a, "team-a+ci", robot, asked...).Scope).To(Equal(granted))
		},
			Entry("all", domain.RepositoryWrite, []string{"repository:team-a/app:pull,push"}, "repository:team-a/app:pull,push"),
			Entry("a part", domain.RepositoryRead, []string{"repository:team-a/app:pull,push,delete"}, "repository:team-a/app:pull"),
			Entry("none", domain.RepositoryRole(""), []string{"repository:team-a/app:pull,push"}, ""),
			Entry("what is public", domain.RepositoryRole(""), []string{"repository:team-a/public:pull,push"}, "repository:team-a/public:pull"),
			Entry("everything, as an admin", domain.RepositoryAdmin, []string{"repository:team-a/app:*"}, "repository:team-a/app:*"),
			Entry("everything, as less", domain.RepositoryWrite, []string{"repository:team-a/app:*"}, "repository:team-a/app:pull,push,delete"),
			Entry("several", domain.RepositoryWrite, []string{"repository:team-a/app:pull,push", "repository:team-a/public:pull"}, "repository:team-a/app:pull,push repository:team-a/public:pull"),
			Entry("several in one text", domain.RepositoryWrite, []string{"repository:team-a/app:push repository:team-a/public:pull"}, "repository:team-a/app:push repository:team-a/public:pull"),
			Entry("the same twice", domain.RepositoryWrite, []string{"repository:team-a/app:pull", "repository:team-a/app:pull,push"}, "repository:team-a/app:pull,push"),
			Entry("the catalog", domain.RepositoryRole(""), []string{"registry:catalog:*"}, "registry:catalog:*"),
			Entry("what is not there", domain.RepositoryWrite, []string{"repository:team-b/app:pull", "repository:team-a/other:pull"}, ""),
			Entry("what can be nothing", domain.RepositoryWrite, []string{"repository:app:pull", "repository:../x:pull", "nonsense", "repository:team-a/app:", ":::", "repository:team-a/app:fly"}, ""),
		)

		It("carry the caller, for what they are for and nothing else", func() {
			a, w := replica(false)
			give("team-a+ci", domain.RepositoryAdmin)
			id, code := use(a, issue(a, "team-a+ci", robot, "repository:team-a/app:pull").Token)
			Expect(code).To(BeEmpty())
			Expect(id.Caller.String()).To(Equal("robot:team-a+ci"))
			Expect(id.TokenID).NotTo(BeEmpty())
			Expect(a.Authorize(ctx, id, auth.RepositoryPull, auth.Repository(app))).To(Succeed())
			Expect(a.Authorize(ctx, id, auth.RegistryPing, auth.Resource{})).To(Succeed())
			err := a.Authorize(ctx, id, auth.RepositoryPush, auth.Repository(app))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			Expect(err).To(MatchError("the token is not for this; ask for one with the scope repository:team-a/app:pull,push"))
			Expect(domain.CodeOf(a.Authorize(ctx, id, auth.RepositoryPull, auth.Repository(public)))).To(Equal(domain.CodeUnauthorized))
			// Not for the management API either.
			Expect(domain.CodeOf(a.Authorize(ctx, id, auth.TagWrite, auth.Repository(app)))).To(Equal(domain.CodeUnauthorized))
			Expect(domain.CodeOf(a.Authorize(ctx, id, auth.CatalogRead, auth.Resource{}))).To(Equal(domain.CodeUnauthorized))
			repository, err := w.Core.Repository(ctx, app)
			Expect(err).NotTo(HaveOccurred())
			Expect(auth.MayPull(id, repository)).To(BeTrue())
			repository.Name = public
			Expect(auth.MayPull(id, repository)).To(BeFalse())
		})

		It("are given to anybody for what is public, as long as that is", func() {
			a, _ := replica(false)
			anonymous, err := a.Authenticate(requestWith())
			Expect(err).NotTo(HaveOccurred())
			answer, err := a.Issue(ctx, anonymous, auth.TokenRequest{Scopes: []string{"repository:team-a/public:pull,push", "repository:team-a/app:pull"}, Refresh: true})
			Expect(err).NotTo(HaveOccurred())
			Expect(answer.Scope).To(Equal("repository:team-a/public:pull"))
			Expect(answer.RefreshToken).To(BeEmpty())
			id, code := use(a, answer.Token)
			Expect(code).To(BeEmpty())
			Expect(a.Authorize(ctx, id, auth.RepositoryPull, auth.Repository(public))).To(Succeed())
			Expect(domain.CodeOf(a.Authorize(ctx, id, auth.RegistryPing, auth.Resource{}))).To(Equal(domain.CodeUnauthorized))
			private := domain.Private
			Expect(c.UpdateRepository(ctx, admin, public, core.RepositoryChange{Visibility: &private})).To(Succeed())
			now.Advance(2 * time.Second)
			Expect(domain.CodeOf(a.Authorize(ctx, id, auth.RepositoryPull, auth.Repository(public)))).To(Equal(domain.CodeUnauthorized))
		})

		It("never give more than the account has by now", func() {
			a, _ := replica(false)
			give("team-a+ci", domain.RepositoryWrite)
			answer := issue(a, "team-a+ci", robot, "repository:team-a/app:pull,push")
			give("team-a+ci", domain.RepositoryRead)
			_, code := use(a, answer.Token)
			Expect(code).To(Equal(domain.CodeUnauthorized), "its epoch is over")
			again := issue(a, "team-a+ci", robot, "repository:team-a/app:pull,push")
			Expect(again.Scope).To(Equal("repository:team-a/app:pull"))
		})

		It("expire", func() {
			a, _ := replica(false)
			answer := issue(a, "team-a+ci", robot)
			Expect(answer.ExpiresIn).To(Equal(5 * time.Minute))
			now.Advance(answer.ExpiresIn)
			_, code := use(a, answer.Token)
			Expect(code).To(BeEmpty(), "clocks may differ by a little")
			now.Advance(11 * time.Second)
			_, err := a.Authenticate(requestWith("Bearer " + answer.Token))
			Expect(err).To(MatchError("the token has expired; get another one from /v2/auth"))
			Expect(logins()).To(BeEmpty(), "an old token is no failed login")
		})

		It("cannot be forged", func() {
			a, _ := replica(false)
			give("team-a+ci", domain.RepositoryRead)
			answer := issue(a, "team-a+ci", robot, "repository:team-a/app:pull")
			header, rest, _ := strings.Cut(answer.Token, ".")
			payload, signature, _ := strings.Cut(rest, ".")
			decoded, err := base64.RawURLEncoding.DecodeString(payload)
			Expect(err).NotTo(HaveOccurred())
			better := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(decoded), `"pull"`, `"pull","push"`, 1)))
			Expect(better).NotTo(Equal(payload))
			keys, err := a.Keys(ctx)
			Expect(err).NotTo(HaveOccurred())
			public, err := json.Marshal(keys.Keys[0])
			Expect(err).NotTo(HaveOccurred())
			var claims map[string]any
			Expect(json.Unmarshal(decoded, &claims)).To(Succeed())
			sign := func(algorithm jose.SignatureAlgorithm, key any) string {
				GinkgoHelper()
				signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: keys.Keys[0].KeyID}}, nil)
				Expect(err).NotTo(HaveOccurred())
				token, err := jwt.Signed(signer).Claims(claims).Serialize()
				Expect(err).NotTo(HaveOccurred())
				return token
			}
			other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			Expect(err).NotTo(HaveOccurred())
			none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
			for name, token := range map[string]string{
				"changed": header + "." + better + "." + signature, "unsigned": none + "." + payload + ".", "unsigned, the header kept": header + "." + payload + ".",
				"by another key": sign(jose.ES256, other), "with the public key as a secret": sign(jose.HS256, public), "rubbish": "a.b.c", "empty": "..",
				"a refresh token": answer.RefreshToken,
			} {
				id, code := use(a, token)
				Expect(code).To(Equal(domain.CodeUnauthorized), name)
				Expect(id).To(Equal(auth.Identity{}), name)
			}
			_, err = a.Refresh(ctx, answer.Token, "192.0.2.1")
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized), "an access token is no refresh token")
			_, code := use(a, answer.Token)
			Expect(code).To(BeEmpty())
		})

		It("can be renewed without the password, until the account's epoch ends", func() {
			a, _ := replica(false)
			give("alice", domain.RepositoryWrite)
			answer := issue(a, "alice", alicePassword)
			now.Advance(29 * 24 * time.Hour)
			id, err := a.Refresh(ctx, answer.RefreshToken, "192.0.2.9")
			Expect(err).NotTo(HaveOccurred())
			Expect(id.Caller.String()).To(Equal("user:alice"))
			Expect(id.Address).To(Equal("192.0.2.9"))
			renewed, err := a.Issue(ctx, id, auth.TokenRequest{Scopes: []string{"repository:team-a/app:push"}})
			Expect(err).NotTo(HaveOccurred())
			Expect(renewed.Scope).To(Equal("repository:team-a/app:push"))
			hash, err := auth.HashPassword("another password")
			Expect(err).NotTo(HaveOccurred())
			Expect(c.UpdateUser(ctx, admin, "alice", core.UserChange{PasswordHash: &hash})).To(Succeed())
			_, err = a.Refresh(ctx, answer.RefreshToken, "192.0.2.9")
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			_, code := use(a, renewed.Token)
			Expect(code).To(Equal(domain.CodeUnauthorized))
		})

		It("of admin are taken by every replica, until the password changes", func() {
			withAdmin()
			a, _ := replica(false)
			b, _ := replica(true)
			answer := issue(a, "admin", password, "repository:team-a/app:*")
			Expect(answer.Scope).To(Equal("repository:team-a/app:*"))
			for _, replica := range []*auth.Authenticator{a, b} {
				id, code := use(replica, answer.Token)
				Expect(code).To(BeEmpty())
				Expect(id.Role).To(Equal(auth.RoleSuperuser))
				Expect(domain.CodeOf(replica.Authorize(ctx, id, auth.UserManage, auth.Resource{}))).To(Equal(domain.CodeUnauthorized))
			}
			replace(options.AdminPasswordFile, "another")
			for _, replica := range []*auth.Authenticator{a, b} {
				_, code := use(replica, answer.Token)
				Expect(code).To(Equal(domain.CodeUnauthorized))
			}
		})

		It("are signed by a key that is replaced in time, and verified by older ones", func() {
			a, _ := replica(false)
			b, _ := replica(true)
			old := issue(a, "team-a+ci", robot)
			now.Advance(30*24*time.Hour - time.Minute)
			before := issue(a, "team-a+ci", robot)
			now.Advance(2 * time.Minute)
			after := issue(b, "team-a+ci", robot)
			keys, err := a.SigningKeys(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(keys).To(HaveLen(2))
			for _, token := range []string{before.Token, after.Token} {
				for _, replica := range []*auth.Authenticator{a, b} {
					_, code := use(replica, token)
					Expect(code).To(BeEmpty())
				}
			}
			kid := func(token string) string {
				parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
				Expect(err).NotTo(HaveOccurred())
				return parsed.Headers[0].KeyID
			}
			Expect(kid(old.Token)).To(Equal(kid(before.Token)))
			Expect(kid(after.Token)).NotTo(Equal(kid(before.Token)))
			// The first key goes once the last refresh token that it signed has expired.
			for range 3 {
				now.Advance(30*24*time.Hour + time.Minute)
				issue(a, "team-a+ci", robot)
			}
			keys, err = a.SigningKeys(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(keys).To(HaveLen(3))
			for _, key := range keys {
				Expect(key.ID).NotTo(Equal(kid(old.Token)))
				Expect(key.Private).To(BeEmpty())
			}
		})

		It("are void once their key is removed", func() {
			a, _ := replica(false)
			answer := issue(a, "team-a+ci", robot)
			keys, err := a.SigningKeys(ctx)
			Expect(err).NotTo(HaveOccurred())
			now.Advance(time.Second)
			Expect(a.RotateSigningKey(ctx, admin)).To(Succeed())
			_, code := use(a, answer.Token)
			Expect(code).To(BeEmpty())
			Expect(c.DeleteSigningKey(ctx, admin, keys[0].ID)).To(Succeed())
			_, code = use(a, answer.Token)
			Expect(code).To(Equal(domain.CodeUnauthorized))
			_, code = use(a, issue(a, "team-a+ci", robot).Token)
			Expect(code).To(BeEmpty())
		})

		It("can be signed by the keys of a file", func() {
			options.TokenKeyFile = filepath.Join(dir, "keys")
			block := func() string {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				Expect(err).NotTo(HaveOccurred())
				der, err := x509.MarshalPKCS8PrivateKey(key)
				Expect(err).NotTo(HaveOccurred())
				return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
			}
			first, second := block(), block()
			replace(options.TokenKeyFile, first)
			a, _ := replica(false)
			answer := issue(a, "team-a+ci", robot)
			stored, err := c.SigningKeys(ctx)
			Expect(err).NotTo(HaveOccurred())
			Expect(stored).To(BeEmpty())
			Expect(domain.CodeOf(a.RotateSigningKey(ctx, admin))).To(Equal(domain.CodeConflict))
			replace(options.TokenKeyFile, second+first)
			_, code := use(a, answer.Token)
			Expect(code).To(BeEmpty())
			replace(options.TokenKeyFile, second)
			_, code = use(a, answer.Token)
			Expect(code).To(Equal(domain.CodeUnauthorized))
			replace(options.TokenKeyFile, "rubbish")
			_, code = use(a, answer.Token)
			Expect(code).To(Equal(domain.CodeUnavailable))
			_, err = auth.New(options)
			Expect(err).To(MatchError(ContainSubstring(options.TokenKeyFile)))
		})
	})

	Describe("revocation", func() {
		It("is noticed at once where it was made, and by other replicas within two seconds", func() {
			a, _ := replica(false)
			b, _ := replica(true)
			give("team-a+ci", domain.RepositoryRead)
			id, err := a.Login(ctx, "team-a+ci", robot, "")
			Expect(err).NotTo(HaveOccurred())
			answer, err := a.Issue(ctx, id, auth.TokenRequest{Scopes: []string{"repository:team-a/app:pull"}})
			Expect(err).NotTo(HaveOccurred())
			read := func(a *auth.Authenticator) domain.Code {
				id, err := a.Authenticate(requestWith("Bearer " + answer.Token))
				if err != nil {
					return domain.CodeOf(err)
				}
				return pullable(a, id)
			}
			Expect(read(a)).To(BeEmpty())
			Expect(read(b)).To(BeEmpty())
			Expect(c.RemovePermission(ctx, admin, app, "team-a+ci")).To(Succeed())
			Expect(read(a)).To(Equal(domain.CodeUnauthorized))
			Expect(read(b)).To(BeEmpty(), "it has not looked yet")
			now.Advance(time.Second)
			Expect(read(b)).To(Equal(domain.CodeUnauthorized))
			_, err = b.Authenticate(basic("team-a+ci", robot))
			Expect(err).NotTo(HaveOccurred(), "the credential itself is good")
		})

		It("costs reads no look-up but one a second", func() {
			a, w := replica(false)
			give("team-a+ci", domain.RepositoryRead)
			id, err := a.Login(ctx, "team-a+ci", robot, "")
			Expect(err).NotTo(HaveOccurred())
			answer, err := a.Issue(ctx, id, auth.TokenRequest{Scopes: []string{"repository:team-a/app:pull"}})
			Expect(err).NotTo(HaveOccurred())
			read := func() {
				GinkgoHelper()
				id, err := a.Authenticate(requestWith("Bearer " + answer.Token))
				Expect(err).NotTo(HaveOccurred())
				Expect(pullable(a, id)).To(BeEmpty())
			}
			read()
			versions, reads := w.versions.Load(), w.reads.Load()
			for range 3 {
				now.Advance(time.Second)
				for range 50 {
					read()
				}
			}
			Expect(w.versions.Load() - versions).To(BeEquivalentTo(3))
			Expect(w.reads.Load() - reads).To(BeZero())
		})

		It("fails closed when it was unknown for ten seconds, and recovers by itself", func() {
			a, w := replica(true)
			give("team-a+ci", domain.RepositoryRead)
			read := func() domain.Code {
				id, err := a.Authenticate(basic("team-a+ci", robot))
				if err != nil {
					return domain.CodeOf(err)
				}
				return pullable(a, id)
			}
			Expect(read()).To(BeEmpty())
			w.down.Store(true)
			versions := w.versions.Load()
			for range 9 {
				now.Advance(time.Second)
				Expect(read()).To(BeEmpty())
				Expect(read()).To(BeEmpty())
			}
			Expect(w.versions.Load()-versions).To(BeEquivalentTo(9), "it asks once a second")
			now.Advance(time.Second)
			Expect(read()).To(Equal(domain.CodeUnavailable))
			w.down.Store(false)
			Expect(read()).To(BeEmpty())
		})
	})

	Describe("wrong passwords", func() {
		try := func(a *auth.Authenticator, name, credential, address string) error {
			_, err := a.Login(ctx, name, credential, address)
			return err
		}

		It("make an address wait for the account, longer each time, and nobody else", func() {
			withAdmin()
			a, _ := replica(false)
			for range 10 {
				Expect(domain.CodeOf(try(a, "alice", "wrong", "192.0.2.1"))).To(Equal(domain.CodeUnauthorized))
			}
			wait := func() time.Duration {
				GinkgoHelper()
				err := try(a, "alice", alicePassword, "192.0.2.1")
				Expect(domain.CodeOf(err)).To(Equal(domain.CodeTooManyRequests))
				var refusal *domain.Error
				Expect(errors.As(err, &refusal)).To(BeTrue())
				return refusal.RetryAfter
			}
			var waits []time.Duration
			for range 9 {
				waits = append(waits, wait())
				now.Advance(waits[len(waits)-1])
				Expect(domain.CodeOf(try(a, "alice", "wrong", "192.0.2.1"))).To(Equal(domain.CodeUnauthorized))
			}
			Expect(waits).To(HaveExactElements(time.Second, 2*time.Second, 4*time.Second, 8*time.Second, 16*time.Second, 32*time.Second, time.Minute, time.Minute, time.Minute))
			Expect(try(a, "admin", password, "192.0.2.1")).To(Succeed(), "another account from there")
			Expect(try(a, "alice", alicePassword, "192.0.2.2")).To(Succeed(), "the account from elsewhere")
			Expect(try(a, "team-a+ci", robot, "192.0.2.1")).To(Succeed())
			now.Advance(time.Minute)
			Expect(try(a, "alice", alicePassword, "192.0.2.1")).To(Succeed())
			Expect(domain.CodeOf(try(a, "alice", "wrong", "192.0.2.1"))).To(Equal(domain.CodeUnauthorized))
			Expect(try(a, "alice", alicePassword, "192.0.2.1")).To(Succeed(), "a right one forgives")
		})

		It("never make a token wait, nor a password that was right a short while ago", func() {
			a, _ := replica(false)
			Expect(try(a, "alice", alicePassword, "192.0.2.1")).To(Succeed())
			for range 11 {
				_ = try(a, "team-a+ci", "wrong", "192.0.2.1")
				_ = try(a, "alice", "wrong", "192.0.2.1")
			}
			Expect(domain.CodeOf(try(a, "team-a+ci", "wrong", "192.0.2.1"))).To(Equal(domain.CodeTooManyRequests))
			Expect(try(a, "team-a+ci", robot, "192.0.2.1")).To(Succeed())
			Expect(domain.CodeOf(try(a, "alice", "wrong", "192.0.2.1"))).To(Equal(domain.CodeTooManyRequests))
			Expect(try(a, "alice", alicePassword, "192.0.2.1")).To(Succeed())
		})

		It("count for a whole IPv6 network of 64 bits", func() {
			a, _ := replica(false)
			for i := range 10 {
				_ = try(a, "alice", "wrong", fmt.Sprintf("2001:db8::%d", i+1))
			}
			Expect(domain.CodeOf(try(a, "alice", alicePassword, "2001:db8::ffff"))).To(Equal(domain.CodeTooManyRequests))
			Expect(try(a, "alice", alicePassword, "2001:db8:0:1::1")).To(Succeed())
		})

		It("are in the audit log, repeats counted, with the name only where it can be one", func() {
			a, _ := replica(false)
			for range 3 {
				_ = try(a, "alice", "wrong", "192.0.2.1")
			}
			_ = try(a, "My Secret Passphrase!", "", "192.0.2.2")
			entries := logins()
			Expect(entries).To(HaveLen(2))
			Expect(entries[1].Address).To(Equal("192.0.2.1"))
			Expect(entries[1].PerformerKind).To(Equal(domain.CallerAnonymous))
			Expect(entries[1].Metadata).To(Equal(map[string]any{"reason": "wrong credentials", "username": "alice"}))
			Expect(entries[0].Metadata).To(Equal(map[string]any{"reason": "wrong credentials"}))
		})
	})
})
