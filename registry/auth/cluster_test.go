package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// stubCluster knows the holders of tokens, and what each may do: "verb namespace/name".
type stubCluster struct {
	subjects map[string]auth.Subject
	rules    map[string][]string
	down     error
}

func (s *stubCluster) Review(_ context.Context, token string) (auth.Subject, error) {
	if s.down != nil {
		return auth.Subject{}, domain.Unavailable(s.down)
	}
	subject, ok := s.subjects[token]
	if !ok {
		return subject, domain.Errorf(domain.CodeUnauthorized, "the token is not valid")
	}
	return subject, nil
}

func (s *stubCluster) Allows(_ context.Context, subject auth.Subject, verb auth.Verb, owner domain.Owner, name string) (bool, error) {
	if s.down != nil {
		return false, domain.Unavailable(s.down)
	}
	for _, rule := range s.rules[subject.User] {
		if rule == string(verb)+" "+owner.Namespace+"/"+name || rule == string(verb)+" "+owner.Namespace+"/*" {
			return owner.UID == "ns-1", nil
		}
	}
	return false, nil
}

var _ = Describe("Identities of other authorities", func() {
	var (
		ctx     = context.Background()
		now     *clock
		cluster *stubCluster
		c       *core.Core
		key     *ecdsa.PrivateKey
		a       *auth.Authenticator
		options auth.Options
		app     = domain.RepositoryName{Organization: "team-a", Path: "app"}
		fresh   = domain.RepositoryName{Organization: "team-a", Path: "fresh"}
		foreign = domain.RepositoryName{Organization: "team-b", Path: "app"}
	)
	sign := func(claims ...any) string {
		GinkgoHelper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		Expect(err).NotTo(HaveOccurred())
		builder := jwt.Signed(signer)
		for _, c := range claims {
			builder = builder.Claims(c)
		}
		text, err := builder.Serialize()
		Expect(err).NotTo(HaveOccurred())
		return text
	}
	// holder makes a token that the cluster knows.
	holder := func(subject auth.Subject, rules ...string) string {
		GinkgoHelper()
		token := sign(jwt.Claims{Issuer: "https://kubernetes.default.svc", Subject: subject.User})
		subject.Expires = now.Now().Add(time.Hour)
		cluster.subjects[token] = subject
		cluster.rules[subject.User] = rules
		return token
	}
	builder := auth.Subject{
		Kind: domain.CallerServiceAccount, Name: "team-a/builder", User: "system:serviceaccount:team-a:builder", UID: "sa-uid",
		Groups: []string{"system:serviceaccounts"}, Extra: map[string][]string{"x": {"1"}}, TokenID: "JTI=1",
	}
	login := func(token string) auth.Identity {
		GinkgoHelper()
		id, err := a.Authenticate(requestWith("Bearer " + token))
		Expect(err).NotTo(HaveOccurred())
		return id
	}
	may := func(id auth.Identity, permission auth.Permission, on auth.Resource) domain.Code {
		return domain.CodeOf(a.Authorize(ctx, id, permission, on))
	}
	start := func() {
		GinkgoHelper()
		var err error
		a, err = auth.New(options)
		Expect(err).NotTo(HaveOccurred())
	}

	BeforeEach(func() {
		now = &clock{now: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
		store, err := sqlite.Open(ctx, GinkgoT().TempDir()+"/db", slog.New(slog.DiscardHandler))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		c = core.New(store, core.Options{Logger: slog.New(slog.DiscardHandler), Now: now.Now})
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func(c *core.Core) { done <- c.Run(running) }(c)
		DeferCleanup(func() {
			stop()
			Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
		})
		operator := domain.Caller{Name: "operator", Kind: domain.CallerOperator}
		// The organization team-a belongs to the namespace of its name, team-b to none.
		_, err = c.PutManagedPolicy(ctx, operator, core.ManagedPolicy{
			Cluster: "c", Manager: domain.ManagedBy{Kind: "ImmutabilityPolicy", Namespace: "team-a", Name: "p", UID: "u", Generation: 1}, Scope: core.Scope{Organization: "team-a"},
			Spec:  domain.PolicySpec{TagPattern: "v.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain},
			Claim: core.Claim{Namespace: domain.Owner{Namespace: "team-a", UID: "ns-1"}},
		})
		Expect(err).NotTo(HaveOccurred())
		_, err = c.CreateOrganization(ctx, admin, "team-b")
		Expect(err).NotTo(HaveOccurred())
		for _, name := range []domain.RepositoryName{app, foreign} {
			Expect(c.CreateRepository(ctx, admin, name, core.NewRepository{})).To(Succeed())
		}
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		Expect(err).NotTo(HaveOccurred())
		cluster = &stubCluster{subjects: map[string]auth.Subject{}, rules: map[string][]string{}}
		options = auth.Options{Accounts: c, Cluster: cluster, Logger: slog.New(slog.DiscardHandler), Now: now.Now}
		start()
	})

	It("come with tokens as bearers and as passwords, under whatever name", func() {
		token := holder(builder)
		for _, r := range []*http.Request{requestWith("Bearer " + token), basic("token", token), basic("admin", token)} {
			id, err := a.Authenticate(r)
			Expect(err).NotTo(HaveOccurred())
			Expect(id.Caller).To(And(HaveField("Kind", domain.CallerServiceAccount), HaveField("Name", "team-a/builder"), HaveField("TokenID", "JTI=1"), HaveField("Account", BeZero())))
			Expect(id.Role).To(Equal(auth.RoleExternal))
			Expect(id.Groups).To(Equal([]string{"system:serviceaccounts"}))
		}
		_, err := a.Authenticate(basic("token", sign(jwt.Claims{Issuer: "https://elsewhere"})))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
	})

	It("are off without a cluster", func() {
		token := holder(builder)
		options.Cluster = nil
		start()
		for _, r := range []*http.Request{requestWith("Bearer " + token), basic("token", token)} {
			_, err := a.Authenticate(r)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		}
	})

	It("are let in by nobody while the cluster does not answer", func() {
		token := holder(builder, "get team-a/*")
		id := login(token)
		cluster.down = errors.New("away")
		_, err := a.Authenticate(requestWith("Bearer " + token))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
		Expect(may(id, auth.RepositoryPull, auth.Repository(app))).To(Equal(domain.CodeUnavailable))
	})

	It("have no right of the registry's account of their name", func() {
		id := login(holder(auth.Subject{Kind: domain.CallerKubernetesUser, Name: "admin", User: "admin"}))
		Expect(id.Role).To(Equal(auth.RoleExternal))
		for _, permission := range []auth.Permission{auth.UserManage, auth.SuperuserLogs, auth.OrganizationCreate, auth.OperatorProtocol} {
			Expect(may(id, permission, auth.Resource{})).To(Equal(domain.CodeDenied))
		}
	})

	DescribeTable("may do what the cluster lets them, in organizations of its namespaces", func(rule string, allowed ...auth.Permission) {
		id := login(holder(builder, rule))
		for permission, on := range map[auth.Permission]auth.Resource{
			auth.RepositoryPull: auth.Repository(app), auth.TagRead: auth.Repository(app), auth.RepositoryRead: auth.Repository(app),
			auth.RepositoryPush: auth.Repository(app), auth.TagWrite: auth.Repository(app),
			auth.RepositoryDelete: auth.Repository(app), auth.TagDelete: auth.Repository(app),
			auth.RepositoryCreate: auth.Repository(fresh),
			auth.PolicyWrite:      auth.Repository(app), auth.PolicyRead: auth.Repository(app), auth.TagManage: auth.Repository(app),
			auth.LogsRead: auth.Repository(app), auth.RepositoryAdmin: auth.Repository(app),
			auth.MemberManage: auth.Organization("team-a"), auth.RobotManage: auth.Organization("team-a"), auth.OrganizationAdmin: auth.Organization("team-a"),
			auth.MirrorWrite: auth.Organization("team-a"), auth.PermissionManage: auth.Repository(app),
		} {
			expected := domain.CodeDenied
			for _, is := range allowed {
				if is == permission {
					expected = ""
				}
			}
			Expect(may(id, permission, on)).To(Equal(expected), "%s", permission)
		}
		Expect(may(id, auth.RepositoryPull, auth.Repository(foreign))).To(Equal(domain.CodeDenied), "team-b belongs to no namespace")
		Expect(may(id, auth.RegistryPing, auth.Resource{})).To(BeEmpty())
	},
		Entry("nothing", "-"),
		Entry("get", "get team-a/*", auth.RepositoryPull, auth.TagRead, auth.RepositoryRead),
		Entry("create", "create team-a/*", auth.RepositoryCreate),
		Entry("update", "update team-a/*", auth.RepositoryPush, auth.TagWrite),
		Entry("delete", "delete team-a/*", auth.RepositoryDelete, auth.TagDelete),
		Entry("manage", "manage team-a/*", auth.PolicyWrite, auth.PolicyRead, auth.TagManage, auth.LogsRead, auth.RepositoryAdmin),
		Entry("get of another repository", "get team-a/web"),
		Entry("get in another namespace", "get team-b/*"),
	)

	It("may push to a repository that is not there, if they may create it", func() {
		id := login(holder(builder, "create team-a/*"))
		Expect(may(id, auth.RepositoryPush, auth.Repository(fresh))).To(BeEmpty())
		Expect(may(id, auth.RepositoryPush, auth.Repository(app))).To(Equal(domain.CodeDenied))
		Expect(may(id, auth.RepositoryCreate, auth.Anywhere)).To(BeEmpty(), "the call asks again")
	})

	It("get tokens of the token endpoint, for a minute, that are no more than they", func() {
		token := holder(builder, "get team-a/*")
		id := login(token)
		issued, err := a.Issue(ctx, id, auth.TokenRequest{Scopes: []string{"repository:team-a/app:pull,push"}, Refresh: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(issued.Scope).To(Equal("repository:team-a/app:pull"))
		Expect(issued.ExpiresIn).To(Equal(time.Minute))
		Expect(issued.RefreshToken).To(BeEmpty())
		again := login(issued.Token)
		Expect(again.Caller).To(Equal(id.Caller))
		Expect(again.Subject.Extra).To(Equal(builder.Extra))
		Expect(again.Subject.UID).To(Equal("sa-uid"))
		Expect(again.Groups).To(Equal(id.Groups))
		Expect(may(again, auth.RepositoryPull, auth.Repository(app))).To(BeEmpty())
		Expect(may(again, auth.RepositoryPush, auth.Repository(app))).To(Equal(domain.CodeUnauthorized))
		cluster.rules[builder.User] = nil
		Expect(may(again, auth.RepositoryPull, auth.Repository(app))).To(Equal(domain.CodeDenied), "a right that is taken is gone, whatever the token says")
		now.Advance(2 * time.Minute)
		_, err = a.Authenticate(requestWith("Bearer " + issued.Token))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
	})

	It("follow the owner of an organization within a second", func() {
		id := login(holder(builder, "get team-a/*"))
		Expect(may(id, auth.RepositoryPull, auth.Repository(app))).To(BeEmpty())
		Expect(c.AdoptCluster(ctx, admin, "another")).To(Succeed())
		now.Advance(time.Second)
		Expect(may(id, auth.RepositoryPull, auth.Repository(app))).To(Equal(domain.CodeDenied))
	})

	Describe("of an issuer of OpenID Connect", func() {
		var (
			issuer *httptest.Server
			down   bool
			text   string
		)
		BeforeEach(func() {
			down = false
			mux := http.NewServeMux()
			issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if down {
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				mux.ServeHTTP(w, r)
			}))
			DeferCleanup(issuer.Close)
			answer := func(path string, body func() any) {
				mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(body()) })
			}
			answer("/.well-known/openid-configuration", func() any {
				return map[string]any{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}}
			})
			answer("/keys", func() any {
				return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}}
			})
			text = issuer.URL + "#username-claim=email&username-prefix=oidc:&groups-prefix=oidc:"
		})
		use := func() {
			GinkgoHelper()
			parsed, err := auth.ParseOIDCIssuer(text)
			Expect(err).NotTo(HaveOccurred())
			options.OIDCIssuers = []auth.OIDCIssuer{parsed}
			start()
		}
		idToken := func(change ...func(map[string]any)) string {
			GinkgoHelper()
			claims := map[string]any{
				"iss": issuer.URL, "sub": "1234", "aud": "tidelock", "iat": now.Now().Unix(), "exp": now.Now().Add(time.Hour).Unix(),
				"email": "ann@example.com", "email_verified": true, "groups": []string{"dev", "ops"},
			}
			for _, f := range change {
				f(claims)
			}
			return sign(claims)
		}
		with := func(name string, value any) func(map[string]any) {
			return func(c map[string]any) { c[name] = value }
		}

		It("are known by its claims, behind its prefix, and ruled by the cluster", func() {
			use()
			id := login(idToken())
			Expect(id.Caller).To(And(HaveField("Kind", domain.CallerOIDC), HaveField("Name", "oidc:ann@example.com")))
			Expect(id.Groups).To(Equal([]string{"oidc:dev", "oidc:ops"}))
			Expect(may(id, auth.RepositoryPull, auth.Repository(app))).To(Equal(domain.CodeDenied))
			cluster.rules["oidc:ann@example.com"] = []string{"get team-a/*"}
			Expect(may(id, auth.RepositoryPull, auth.Repository(app))).To(BeEmpty())
		})

		It("are by default named by sub, behind the issuer's address", func() {
			text = issuer.URL
			use()
			Expect(login(idToken())).To(And(HaveField("Caller.Name", issuer.URL+"#1234"), HaveField("Groups", []string{issuer.URL + "#dev", issuer.URL + "#ops"})))
		})

		DescribeTable("are refused", func(change func(map[string]any)) {
			use()
			_, err := a.Authenticate(requestWith("Bearer " + idToken(change)))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		},
			Entry("for another audience", with("aud", "another")),
			Entry("once expired", with("exp", time.Date(2026, 11, 28, 11, 0, 0, 0, time.UTC).Unix())),
			Entry("without the claim", with("email", "")),
			Entry("with an address that is not verified", with("email_verified", false)),
		)

		It("are refused with another's signature, or a name of Kubernetes' own", func() {
			text = issuer.URL + "#username-prefix=sys&groups-prefix=g:"
			use()
			_, err := a.Authenticate(requestWith("Bearer " + idToken(with("sub", "tem:admin"))))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			Expect(err).NotTo(HaveOccurred())
			own := key
			key = stranger
			forged := idToken()
			key = own
			_, err = a.Authenticate(requestWith("Bearer " + forged))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		})

		It("wait for an issuer that does not answer, and are let in once it does", func() {
			use()
			down = true
			token := idToken()
			_, err := a.Authenticate(requestWith("Bearer " + token))
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
			down = false
			now.Advance(6 * time.Second)
			login(token)
			down = true
			login(token)
		})

		DescribeTable("need settings that can work:", func(text, message string) {
			_, err := auth.ParseOIDCIssuer(text)
			Expect(err).To(MatchError(ContainSubstring(message)))
		},
			Entry("no plain HTTP over the network", "http://issuer.example.com", "is not https://issuer"),
			Entry("a host", "https://", "is not https://issuer"),
			Entry("no other settings", "https://issuer.example.com#scope=x", `there is no setting "scope" of an issuer`),
			Entry("no empty prefix", "https://issuer.example.com#username-prefix=", "username-prefix needs one value"),
			Entry("no prefix of Kubernetes", "https://issuer.example.com#groups-prefix=system:", "Kubernetes' own names"),
		)
	})
})
