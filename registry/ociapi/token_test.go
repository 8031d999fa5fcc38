package ociapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// guarded is a harness with the real registry/auth, and one account of each sort.
type guarded struct {
	*harness
	// secrets are the credentials of the accounts, by their names.
	secrets map[string]string
}

const (
	adminPassword = "a password for tests"
	operatorToken = "a token for tests, long enough for one"
)

var superuser = domain.Caller{Name: "admin", Kind: domain.CallerUser}

// newGuarded makes team-a/app, private, and team-a/public, both with image under v1, and accounts with what their names
// say in team-a or on both repositories.
func newGuarded(changes ...func(*auth.Options)) *guarded {
	GinkgoHelper()
	g := &guarded{secrets: map[string]string{"admin": adminPassword}}
	g.harness = newHarness()
	g.with(func(o *Options) {
		dir := GinkgoT().TempDir()
		options := auth.Options{
			AdminPasswordFile: filepath.Join(dir, "password"), OperatorTokenFile: filepath.Join(dir, "token"), Accounts: o.Core.(*core.Core),
			Logger: o.Logger, Now: g.clock.Now,
		}
		Expect(os.WriteFile(options.AdminPasswordFile, []byte(adminPassword), 0o600)).To(Succeed())
		Expect(os.WriteFile(options.OperatorTokenFile, []byte(operatorToken), 0o600)).To(Succeed())
		for _, change := range changes {
			change(&options)
		}
		authenticator, err := auth.New(options)
		Expect(err).NotTo(HaveOccurred())
		o.Auth = authenticator
	})
	ctx := context.Background()
	for _, repository := range []string{"/v2/team-a/app", "/v2/team-a/public"} {
		for _, content := range []string{layer, config} {
			Expect(g.send("admin", "POST", repository+"/blobs/uploads/?digest="+sha(content), content).Code).To(Equal(http.StatusCreated))
		}
		Expect(g.send("admin", "PUT", repository+"/manifests/v1", image).Code).To(Equal(http.StatusCreated))
	}
	public := domain.Public
	Expect(g.core.UpdateRepository(ctx, superuser, name("public"), core.RepositoryChange{Visibility: &public})).To(Succeed())
	user := func(account string, organization domain.OrganizationRole, repository domain.RepositoryRole) {
		GinkgoHelper()
		secret, hash := auth.NewSecret()
		if _, short, robot := strings.Cut(account, "+"); robot {
			_, err := g.core.CreateRobot(ctx, superuser, core.NewRobot{Organization: "team-a", Short: short}, hash)
			Expect(err).NotTo(HaveOccurred())
		} else {
			Expect(g.core.CreateUser(ctx, superuser, core.NewUser{Name: account})).To(Succeed())
			_, err := g.core.CreateToken(ctx, superuser, account, "test", hash)
			Expect(err).NotTo(HaveOccurred())
		}
		g.secrets[account] = secret
		if organization != "" {
			_, err := g.core.SetMember(ctx, superuser, "team-a", account, organization)
			Expect(err).NotTo(HaveOccurred())
		}
		if repository != "" {
			for _, path := range []string{"app", "public"} {
				_, err := g.core.SetPermission(ctx, superuser, name(path), account, repository)
				Expect(err).NotTo(HaveOccurred())
			}
		}
	}
	user("outsider", "", "")
	user("member", domain.OrganizationMember, "")
	user("creator", domain.OrganizationCreator, "")
	user("org-admin", domain.OrganizationAdmin, "")
	user("reader", "", domain.RepositoryRead)
	user("writer", "", domain.RepositoryWrite)
	user("repo-admin", "", domain.RepositoryAdmin)
	user("team-a+idle", "", "")
	user("team-a+reader", "", domain.RepositoryRead)
	user("team-a+writer", "", domain.RepositoryWrite)
	user("team-a+creator", domain.OrganizationCreator, "")
	user("team-a+admin", domain.OrganizationAdmin, "")
	return g
}

func name(path string) domain.RepositoryName {
	return domain.RepositoryName{Organization: "team-a", Path: path}
}

// everybody lists all callers: the accounts, "" for anonymous, and the operator.
func (g *guarded) everybody() []string {
	list := []string{"", "operator"}
	for account := range g.secrets {
		list = append(list, account)
	}
	return list
}

// send sends a request as an account, with Basic.
func (g *guarded) send(as, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	switch as {
	case "":
	case "operator":
		r.Header.Set("Authorization", "Bearer "+operatorToken)
	default:
		r.SetBasicAuth(as, g.secrets[as])
	}
	return g.serve(r)
}

func (g *guarded) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

// withToken sends a request with a bearer token.
func (g *guarded) withToken(token, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	return g.serve(r)
}

// token gets a token by GET.
func (g *guarded) token(as string, scopes ...string) tokenBody {
	GinkgoHelper()
	query := url.Values{"service": {"tidelock"}, "scope": scopes}
	return readToken(g.send(as, "GET", "/v2/auth?"+query.Encode(), ""))
}

func readToken(w *httptest.ResponseRecorder) (body tokenBody) {
	GinkgoHelper()
	Expect(w.Code).To(Equal(http.StatusOK), w.Body.String())
	Expect(w.Header().Get("Cache-Control")).To(Equal("no-store"))
	Expect(json.Unmarshal(w.Body.Bytes(), &body)).To(Succeed())
	Expect(body.Token).NotTo(BeEmpty())
	Expect(body.AccessToken).To(Equal(body.Token))
	return body
}

// The groups of callers who may do something.
const (
	writers  = "admin org-admin writer repo-admin team-a+writer team-a+admin"
	readers  = writers + " reader team-a+reader"
	founders = "admin org-admin creator team-a+creator team-a+admin"
	known    = "admin outsider member creator org-admin reader writer repo-admin team-a+idle team-a+reader team-a+writer team-a+creator team-a+admin"
)

// allowed says for each route who gets through, on team-a/app, team-a/public, and a repository of team-a that does not
// exist.
var allowed = map[string]struct{ app, public, missing string }{
	"GET /v2/":                                {known, known, known},
	"GET /v2/_catalog":                        {known, known, known},
	"GET /v2/auth":                            {" " + known, " " + known, " " + known},
	"POST /v2/auth":                           {" " + known, " " + known, " " + known},
	"GET /v2/auth/jwks.json":                  {" " + known, " " + known, " " + known},
	"GET /v2/{name}/tags/list":                {readers, " " + known, founders},
	"GET /v2/{name}/referrers/{digest}":       {readers, " " + known, founders},
	"GET /v2/{name}/manifests/{reference}":    {readers, " " + known, founders},
	"PUT /v2/{name}/manifests/{reference}":    {writers, writers, founders},
	"DELETE /v2/{name}/manifests/{reference}": {writers, writers, "admin org-admin team-a+admin"},
	"GET /v2/{name}/blobs/{digest}":           {readers, " " + known, founders},
	"DELETE /v2/{name}/blobs/{digest}":        {writers, writers, "admin org-admin team-a+admin"},
	"POST /v2/{name}/blobs/uploads/":          {writers, writers, founders},
	"GET /v2/{name}/blobs/uploads/{id}":       {writers, writers, founders},
	"PATCH /v2/{name}/blobs/uploads/{id}":     {writers, writers, founders},
	"PUT /v2/{name}/blobs/uploads/{id}":       {writers, writers, founders},
	"DELETE /v2/{name}/blobs/uploads/{id}":    {writers, writers, founders},
}

var _ = Describe("the permission table", Ordered, func() {
	var g *guarded
	BeforeAll(func() { g = newGuarded() })

	It("decides for each caller on each route", func() {
		checked := 0
		for _, r := range routes {
			key := r.method + " " + patterns[r.endpoint]
			Expect(allowed).To(HaveKey(key), "say in the table who may call it")
			for path, who := range map[string]string{"team-a/app": allowed[key].app, "team-a/public": allowed[key].public, "team-a/none": allowed[key].missing} {
				through := map[string]bool{}
				for account := range strings.FieldsSeq(who) {
					through[account] = true
				}
				through[""] = strings.HasPrefix(who, " ")
				for _, caller := range g.everybody() {
					// No request changes anything: references and bodies are not good.
					target := strings.NewReplacer("{name}", path, "{reference}", "-", "{digest}", "sha256:00", "{id}", "00").Replace(patterns[r.endpoint])
					if r.endpoint == endpointUploads {
						target += "?digest=sha256:00"
					}
					w := g.send(caller, r.method, target, "")
					what := fmt.Sprintf("%s as %q: %d %s", r.method+" "+target, caller, w.Code, w.Body)
					switch {
					case through[caller]:
						Expect(w.Code).NotTo(BeElementOf(http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable), what)
					case caller == "":
						Expect(w.Code).To(Equal(http.StatusUnauthorized), what)
						Expect(w.Header().Get("WWW-Authenticate")).To(HavePrefix(`Bearer realm="http://example.com/v2/auth",service="tidelock"`))
					default:
						Expect(w.Code).To(Equal(http.StatusForbidden), what)
						Expect(w.Body.String()).To(ContainSubstring(`"DENIED"`), what)
					}
					checked++
				}
			}
		}
		Expect(checked).To(Equal(len(allowed) * 3 * 15))
	})

	It("does not tell a private repository from one that does not exist", func() {
		for _, caller := range []string{"", "outsider", "member", "team-a+idle"} {
			for _, path := range []string{"manifests/v1", "tags/list", "blobs/" + sha(layer), "referrers/" + sha(image)} {
				answer := func(repository string) string {
					w := g.send(caller, "GET", "/v2/"+repository+"/"+path, "")
					return fmt.Sprint(w.Code, w.Header(), strings.ReplaceAll(w.Body.String(), repository, "X"))
				}
				there := strings.ReplaceAll(answer("team-a/app"), "team-a/app", "X")
				for _, missing := range []string{"team-a/ape", "team-z/app"} {
					Expect(strings.ReplaceAll(answer(missing), missing, "X")).To(Equal(there))
				}
			}
		}
	})

	It("shows in the catalog what the caller may pull", func() {
		for caller, want := range map[string]string{
			"admin": `{"repositories":["team-a/app","team-a/public"]}`, "org-admin": `{"repositories":["team-a/app","team-a/public"]}`,
			"reader": `{"repositories":["team-a/app","team-a/public"]}`, "team-a+admin": `{"repositories":["team-a/app","team-a/public"]}`,
			"outsider": `{"repositories":["team-a/public"]}`, "member": `{"repositories":["team-a/public"]}`, "creator": `{"repositories":["team-a/public"]}`,
		} {
			Expect(g.send(caller, "GET", "/v2/_catalog", "").Body.String()).To(Equal(want), caller)
		}
		w := g.send("reader", "GET", "/v2/_catalog?n=1", "")
		Expect(w.Body.String()).To(Equal(`{"repositories":["team-a/app"]}`))
		Expect(w.Header().Get("Link")).To(Equal(`</v2/_catalog?last=team-a%2Fapp&n=1>; rel="next"`))
	})

	It("says to whoever is known that a name is bad, and to nobody else", func() {
		w := g.send("team-a+writer", "POST", "/v2/app/blobs/uploads/", "")
		Expect(w.Code).To(Equal(http.StatusBadRequest))
		Expect(w.Body.String()).To(Equal(refusal("NAME_INVALID", `repository name "app" has one segment; use organization/repository`)))
		Expect(g.send("", "POST", "/v2/app/blobs/uploads/", "").Code).To(Equal(http.StatusUnauthorized))
		Expect(g.send("operator", "POST", "/v2/app/blobs/uploads/", "").Code).To(Equal(http.StatusForbidden))
	})
})

var _ = Describe("pushes of accounts", func() {
	push := func(g *guarded, as, repository string) *httptest.ResponseRecorder {
		for _, content := range []string{layer, config} {
			if w := g.send(as, "POST", repository+"/blobs/uploads/?digest="+sha(content), content); w.Code != http.StatusCreated {
				return w
			}
		}
		return g.send(as, "PUT", repository+"/manifests/v1", image)
	}

	It("create repositories where the caller may, and make the caller their admin", func() {
		g := newGuarded()
		Expect(push(g, "creator", "/v2/team-a/manifests/blobs/new").Code).To(Equal(http.StatusCreated))
		Expect(push(g, "creator", "/v2/team-a/manifests/blobs/new").Code).To(Equal(http.StatusCreated), "again")
		permission, err := g.core.Permission(context.Background(), name("manifests/blobs/new"), "creator")
		Expect(err).NotTo(HaveOccurred())
		Expect(permission.Role).To(Equal(domain.RepositoryAdmin))
		Expect(push(g, "team-a+creator", "/v2/team-a/manifests/blobs/new").Code).To(Equal(http.StatusForbidden))
		Expect(g.send("creator", "DELETE", "/v2/team-a/manifests/blobs/new/manifests/v1", "").Code).To(Equal(http.StatusAccepted))
		for _, caller := range []string{"writer", "member", "team-a+writer", "repo-admin"} {
			Expect(push(g, caller, "/v2/team-a/"+strings.TrimPrefix(caller, "team-a+")).Code).To(Equal(http.StatusForbidden), caller)
		}
		Expect(push(g, "org-admin", "/v2/team-b/new").Code).To(Equal(http.StatusForbidden))
		Expect(push(g, "admin", "/v2/team-b/new").Code).To(Equal(http.StatusCreated))
	})

	It("never write to what somebody else created meanwhile", func() {
		g := newGuarded()
		// The creator may, as long as there is no such repository; the answer is remembered for a second.
		Expect(g.send("creator", "GET", "/v2/team-a/new/tags/list", "").Code).To(Equal(http.StatusNotFound))
		Expect(push(g, "org-admin", "/v2/team-a/new").Code).To(Equal(http.StatusCreated))
		w := push(g, "creator", "/v2/team-a/new")
		Expect(w.Code).To(Equal(http.StatusForbidden))
		Expect(w.Body.String()).To(Equal(refusal("DENIED", "creator may not push to team-a/new")))
	})

	It("are refused in their transaction once the account's rights have changed", func() {
		g := newGuarded()
		id, err := g.auth.Authenticate(func() *http.Request {
			r := httptest.NewRequest("GET", "/v2/", nil)
			r.SetBasicAuth("writer", g.secrets["writer"])
			return r
		}())
		Expect(err).NotTo(HaveOccurred())
		Expect(g.core.RemovePermission(context.Background(), superuser, name("app"), "writer")).To(Succeed())
		err = g.core.DeleteTag(context.Background(), id.Caller, name("app"), "v1")
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
	})

	It("mount blobs only from where the caller, and its token, may pull", func() {
		g := newGuarded()
		Expect(push(g, "admin", "/v2/team-b/secret").Code).To(Equal(http.StatusCreated))
		other := "only in team-b"
		Expect(g.send("admin", "POST", "/v2/team-b/secret/blobs/uploads/?digest="+sha(other), other).Code).To(Equal(http.StatusCreated))
		mount := func(from, content string) string {
			return "/v2/team-a/app/blobs/uploads/?mount=" + sha(content) + "&from=" + from
		}
		Expect(g.send("writer", "POST", mount("team-b/secret", other), "").Code).To(Equal(http.StatusAccepted))
		Expect(g.send("writer", "GET", "/v2/team-a/app/blobs/"+sha(other), "").Code).To(Equal(http.StatusNotFound))
		Expect(g.send("admin", "POST", mount("team-b/secret", other), "").Code).To(Equal(http.StatusCreated))

		third := "only in team-a/public"
		Expect(g.send("writer", "POST", "/v2/team-a/public/blobs/uploads/?digest="+sha(third), third).Code).To(Equal(http.StatusCreated))
		narrow := g.token("writer", "repository:team-a/app:pull,push")
		for _, path := range []string{mount("team-a/public", third), "/v2/team-a/app/blobs/uploads/?mount=" + sha(third)} {
			w := g.withToken(narrow.Token, "POST", path, "")
			Expect(w.Code).To(Equal(http.StatusUnauthorized))
			Expect(w.Header().Get("WWW-Authenticate")).To(HaveSuffix(`scope="repository:team-a/app:pull,push repository:team-a/public:pull",error="insufficient_scope"`))
		}
		Expect(g.withToken(narrow.Token, "POST", mount("team-b/secret", other), "").Code).To(Equal(http.StatusAccepted), "the account may not, so no token will do")
		wide := g.token("writer", "repository:team-a/app:pull,push", "repository:team-a/public:pull")
		Expect(g.withToken(wide.Token, "POST", mount("team-a/public", third), "").Code).To(Equal(http.StatusCreated))
	})
})

var _ = Describe("the token endpoint", func() {
	var g *guarded
	BeforeEach(func() { g = newGuarded() })

	It("is where the challenge sends a client, which then gets what it wanted", func() {
		w := g.send("", "PUT", "/v2/team-a/app/manifests/v2", image)
		Expect(w.Code).To(Equal(http.StatusUnauthorized))
		Expect(w.Header().Get("WWW-Authenticate")).To(Equal(`Bearer realm="http://example.com/v2/auth",service="tidelock",scope="repository:team-a/app:pull,push"`))
		answer := g.token("team-a+writer", "repository:team-a/app:pull,push")
		Expect(answer.Scope).To(Equal("repository:team-a/app:pull,push"))
		Expect(answer.ExpiresIn).To(Equal(300))
		Expect(answer.IssuedAt).To(Equal("2026-03-06T10:00:00Z"))
		Expect(g.withToken(answer.Token, "GET", "/v2/", "").Code).To(Equal(http.StatusOK))
		Expect(g.withToken(answer.Token, "PUT", "/v2/team-a/app/manifests/v2", image).Code).To(Equal(http.StatusCreated))
	})

	It("gives less than was asked for with 200, and what is missing is a challenge later", func() {
		answer := g.token("team-a+reader", "repository:team-a/app:pull,push")
		Expect(answer.Scope).To(Equal("repository:team-a/app:pull"))
		Expect(g.withToken(answer.Token, "GET", "/v2/team-a/app/manifests/v1", "").Code).To(Equal(http.StatusOK))
		w := g.withToken(answer.Token, "PUT", "/v2/team-a/app/manifests/v2", image)
		Expect(w.Code).To(Equal(http.StatusUnauthorized))
		Expect(w.Header().Get("WWW-Authenticate")).To(Equal(`Bearer realm="http://example.com/v2/auth",service="tidelock",scope="repository:team-a/app:pull,push",error="insufficient_scope"`))
		Expect(w.Body.String()).To(Equal(refusal("UNAUTHORIZED", `robot "team-a+reader" does not have the permission repository:push on team-a/app`)))
		w = g.withToken(g.token("team-a+writer", "repository:team-a/app:pull").Token, "DELETE", "/v2/team-a/app/manifests/v1", "")
		Expect(w.Header().Get("WWW-Authenticate")).To(ContainSubstring(`scope="repository:team-a/app:delete",error="insufficient_scope"`))
	})

	It("gives anybody a token for what is public", func() {
		answer := g.token("", "repository:team-a/public:pull,push")
		Expect(answer.Scope).To(Equal("repository:team-a/public:pull"))
		Expect(g.withToken(answer.Token, "GET", "/v2/team-a/public/manifests/v1", "").Code).To(Equal(http.StatusOK))
		Expect(g.withToken(answer.Token, "GET", "/v2/team-a/app/manifests/v1", "").Code).To(Equal(http.StatusUnauthorized))
		Expect(g.send("", "GET", "/v2/team-a/public/manifests/v1", "").Code).To(Equal(http.StatusOK), "without a token too")
	})

	It("asks for name and password if they are wrong", func() {
		r := httptest.NewRequest("GET", "/v2/auth?service=tidelock", nil)
		r.SetBasicAuth("team-a+writer", "wrong")
		w := g.serve(r)
		Expect(w.Code).To(Equal(http.StatusUnauthorized))
		Expect(w.Header().Get("WWW-Authenticate")).To(Equal(`Basic realm="Tidelock"`))
	})

	It("gives no token for a token", func() {
		answer := g.token("team-a+writer", "repository:team-a/app:pull")
		w := g.withToken(answer.Token, "GET", "/v2/auth?scope=repository:team-a/app:push", "")
		Expect(w.Code).To(Equal(http.StatusUnauthorized))
	})

	post := func(form url.Values) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/v2/auth", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return g.serve(r)
	}

	It("takes OAuth2 forms, and refreshes", func() {
		form := url.Values{
			"grant_type": {"password"}, "service": {"tidelock"}, "client_id": {"docker"}, "access_type": {"offline"},
			"scope": {"repository:team-a/app:pull repository:team-a/public:pull"}, "username": {"team-a+reader"}, "password": {g.secrets["team-a+reader"]},
		}
		answer := readToken(post(form))
		Expect(answer.Scope).To(Equal("repository:team-a/app:pull repository:team-a/public:pull"))
		Expect(answer.RefreshToken).NotTo(BeEmpty())
		renewed := readToken(post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {answer.RefreshToken}, "scope": {"repository:team-a/app:pull"}}))
		Expect(renewed.Scope).To(Equal("repository:team-a/app:pull"))
		Expect(renewed.RefreshToken).To(BeEmpty())
		Expect(g.withToken(renewed.Token, "GET", "/v2/team-a/app/manifests/v1", "").Code).To(Equal(http.StatusOK))
		form.Del("access_type")
		Expect(readToken(post(form)).RefreshToken).To(BeEmpty())
	})

	DescribeTable("refuses forms", func(form url.Values, status int) { Expect(post(form).Code).To(Equal(status)) },
		Entry("of another grant", url.Values{"grant_type": {"client_credentials"}}, http.StatusBadRequest),
		Entry("of none", url.Values{}, http.StatusBadRequest),
		Entry("with a wrong password", url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {"wrong"}}, http.StatusUnauthorized),
		Entry("without a password", url.Values{"grant_type": {"password"}}, http.StatusUnauthorized),
		Entry("with a wrong refresh token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"a.b.c"}}, http.StatusUnauthorized),
		Entry("that are too large", url.Values{"grant_type": {"password"}, "password": {strings.Repeat("x", 70<<10)}}, http.StatusBadRequest),
	)

	It("publishes its keys, and nothing secret of them", func() {
		w := g.send("", "GET", "/v2/auth/jwks.json", "")
		Expect(w.Code).To(Equal(http.StatusOK))
		Expect(w.Header().Get("Content-Type")).To(Equal("application/jwk-set+json"))
		var set struct{ Keys []map[string]string }
		Expect(json.Unmarshal(w.Body.Bytes(), &set)).To(Succeed())
		Expect(set.Keys).To(HaveLen(1))
		Expect(set.Keys[0]).To(And(HaveKeyWithValue("kty", "EC"), HaveKeyWithValue("crv", "P-256"), HaveKeyWithValue("alg", "ES256"), HaveKeyWithValue("use", "sig"), HaveKey("kid"), Not(HaveKey("d"))))
	})
})

var _ = DescribeTable("the realm of a challenge", func(external string, change func(*http.Request), want string) {
	g := newGuarded(func(o *auth.Options) {
		o.TrustedProxies = append(o.TrustedProxies, trusted)
		if external != "" {
			var err error
			o.ExternalURL, err = url.Parse(external)
			Expect(err).NotTo(HaveOccurred())
		}
	})
	r := httptest.NewRequest("GET", "/v2/", nil)
	change(r)
	Expect(g.serve(r).Header().Get("WWW-Authenticate")).To(Equal(`Bearer realm="` + want + `/v2/auth",service="tidelock"`))
},
	Entry("is the host that the client asked", "", func(r *http.Request) { r.Host = "registry.example.com:5000" }, "http://registry.example.com:5000"),
	Entry("is https with TLS", "", func(r *http.Request) { *r = *httptest.NewRequest("GET", "https://example.com/v2/", nil) }, "https://example.com"),
	Entry("is what a trusted proxy says", "", func(r *http.Request) {
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Host", "registry.example.com")
	}, "https://registry.example.com"),
	Entry("is not what anybody else says", "", func(r *http.Request) {
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Host", "evil.example.com")
	}, "http://example.com"),
	Entry("is not what ends the quotes", "", func(r *http.Request) {
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-Host", `x",scope="y`)
	}, "http://example.com"),
	Entry("is the setting", "https://registry.example.com", func(r *http.Request) { r.Host = "127.0.0.1:5000" }, "https://registry.example.com"),
)

// trusted is the network of a proxy.
var trusted = netip.MustParsePrefix("10.0.0.0/8")
