package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	operatorSecret = "a token for tests, long enough for one"
	accountSecret  = "a password of every account"
	nowhere        = "no-such-org"
)

var (
	byAdmin    = domain.Caller{Name: "admin", Kind: domain.CallerUser}
	byOperator = domain.Caller{Name: "operator", Kind: domain.CallerOperator}
)

// stage is a running registry with a caller of each sort.
type stage struct {
	*running
	ctx   context.Context
	hash  string
	n     int
	grant domain.ManagedBy
	// robots has the tokens of robots by their names.
	robots map[string]string
}

// verbs is a cluster whose tokens say which verb their holder has, on everything that a namespace owns.
type verbs struct{}

func (verbs) Review(_ context.Context, token string) (auth.Subject, error) {
	claims, err := auth.Unverified(token)
	return auth.Subject{Kind: domain.CallerServiceAccount, Name: "tests/" + claims.Subject, User: claims.Subject, Expires: time.Now().Add(time.Hour)}, err
}

func (verbs) Allows(_ context.Context, subject auth.Subject, verb auth.Verb, _ domain.Owner, _ string) (bool, error) {
	return subject.User == string(verb), nil
}

// clusterToken is a token of the cluster.
func clusterToken(verb string) string {
	GinkgoHelper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, nil)
	Expect(err).NotTo(HaveOccurred())
	token, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: "https://cluster.example.com", Subject: verb}).Serialize()
	Expect(err).NotTo(HaveOccurred())
	return token
}

func newStage(fullAccess bool) *stage {
	GinkgoHelper()
	cfg := settings()
	cfg.OperatorTokenFile = write(filepath.Dir(cfg.DataDir), "operator-token", operatorSecret)
	cfg.MirrorAllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	cfg.Cluster = verbs{}
	cfg.Superusers, cfg.ReadonlySuperusers, cfg.SuperusersFullAccess = []string{"superuser"}, []string{"readonly"}, fullAccess
	s := &stage{running: start(cfg), ctx: context.Background(), robots: map[string]string{}}
	var err error
	s.hash, err = auth.HashPassword(accountSecret)
	Expect(err).NotTo(HaveOccurred())
	s.grant = domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: "audit", UID: "audit-uid", Generation: 1}
	s.sync()
	for _, name := range []string{"superuser", "readonly", "metadata"} {
		s.user(name)
	}
	_, err = s.core.PutManagedReadonlySuperuser(s.ctx, byOperator, core.ManagedReadonlySuperuser{
		Cluster: "cluster", Manager: s.grant, Subject: domain.Subject{Kind: domain.SubjectRegistryUser, Name: "metadata"}, Access: domain.ReadonlyMetadataOnly,
	})
	Expect(err).NotTo(HaveOccurred())
	return s
}

// sync is the operator's: all that it manages but the grant is orphaned.
func (s *stage) sync() {
	GinkgoHelper()
	Expect(s.core.Synced(s.ctx, byOperator, "cluster", []domain.ManagedBy{s.grant})).To(Succeed())
}

func (s *stage) user(name string) {
	GinkgoHelper()
	Expect(s.core.CreateUser(s.ctx, byAdmin, core.NewUser{Name: name, PasswordHash: s.hash})).To(Succeed())
}

// scene is an organization with all that a request may be about.
type scene struct {
	*stage
	organization string
	// manifests are the two that the tag v1 had and has; blob is one that none of them needs.
	manifests [2]string
	blob      string
	// name and password are the caller's.
	name, password string
	policies       map[string]string
}

// scene makes one for a caller of a sort.
func (s *stage) scene(sort auth.Sort) *scene {
	GinkgoHelper()
	s.n++
	c := &scene{stage: s, organization: fmt.Sprintf("org-%d", s.n), policies: map[string]string{}}
	config := []byte("{}")
	for _, blob := range [][]byte{config, []byte("a blob that nothing refers to")} {
		c.blob = digestOf(blob)
		c.must(c.admin("POST", "/v2/"+c.repository()+"/blobs/uploads/?digest="+c.blob, blob), 201)
	}
	for i := range c.manifests {
		manifest := c.manifest(fmt.Sprint(i))
		c.manifests[i] = digestOf(manifest)
		c.must(c.admin("PUT", "/v2/"+c.repository()+"/manifests/v1", manifest), 201)
	}
	c.must(c.admin("PUT", "/api/v1/organization/"+c.organization+"/robots/ci", nil), 201)
	c.user("bystander-of-" + c.organization)
	c.must(c.admin("PUT", "/api/v1/organization/"+c.organization+"/members/bystander-of-"+c.organization, []byte(`{"role": "member"}`)), 200)
	c.must(c.admin("PUT", "/api/v1/repository/"+c.repository()+"/permissions/user/bystander-of-"+c.organization, []byte(`{"role": "read"}`)), 200)
	c.cast(sort)
	return c
}

func (c *scene) repository() string { return c.organization + "/app" }

func (c *scene) manifest(annotation string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],"annotations":{"org":%q,"n":%q}}`,
		digestOf([]byte("{}")), c.organization, annotation)
}

// cast makes the caller, with the roles that its sort has in the scene.
func (c *scene) cast(sort auth.Sort) {
	GinkgoHelper()
	c.password = accountSecret
	var member domain.OrganizationRole
	var permission domain.RepositoryRole
	if verb, is := strings.CutPrefix(sort.Name, "cluster "); is {
		c.name, c.password = "tests/"+verb, clusterToken(verb)
		c.managed("", false) // then the organization belongs to a namespace
		return
	}
	switch sort.Name {
	case "anonymous":
		return
	case "operator":
		c.name = "operator"
		return
	case "superuser", "limited superuser":
		c.name = "superuser"
		return
	case "readonly":
		c.name = "readonly"
		member = domain.OrganizationAdmin // which does not count
	case "readonly metadata":
		c.name = "metadata"
		member = domain.OrganizationAdmin
	case "reader":
		permission = domain.RepositoryRead
	case "writer", "robot":
		permission = domain.RepositoryWrite
	case "repository admin":
		permission = domain.RepositoryAdmin
	case "member":
		member = domain.OrganizationMember
	case "creator":
		member = domain.OrganizationCreator
	case "organization admin", "robot admin":
		member = domain.OrganizationAdmin
	case "user":
	default:
		Fail("say how a caller of the sort " + sort.Name + " is made")
	}
	switch {
	case strings.HasPrefix(sort.Name, "robot"):
		secret, hash := auth.NewSecret()
		short := strings.ReplaceAll(sort.Name, " ", "-")
		_, err := c.core.CreateRobot(c.ctx, byAdmin, core.NewRobot{Organization: c.organization, Short: short}, hash)
		Expect(err).NotTo(HaveOccurred())
		c.name, c.password = c.organization+"+"+short, secret
	case c.name == "":
		c.name = strings.ReplaceAll(sort.Name, " ", "-")
		if _, err := c.core.User(c.ctx, c.name); err != nil {
			c.user(c.name)
		}
	}
	if member != "" {
		_, err := c.core.SetMember(c.ctx, byAdmin, c.organization, c.name, member)
		Expect(err).NotTo(HaveOccurred())
	}
	if permission != "" {
		_, err := c.core.SetPermission(c.ctx, byAdmin, domain.RepositoryName{Organization: c.organization, Path: "app"}, c.name, permission)
		Expect(err).NotTo(HaveOccurred())
	}
}

// authenticate puts the caller's credentials into a request.
func (c *scene) authenticate(r *http.Request) {
	switch c.name {
	case "":
	case "operator":
		r.Header.Set("Authorization", "Bearer "+operatorSecret)
	default:
		r.SetBasicAuth(c.name, c.password)
	}
}

type reply struct {
	status int
	body   string
	header http.Header
}

func (c *scene) send(authenticate func(*http.Request), method, path string, body []byte) reply {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(c.ctx, method, c.URL()+path, bytes.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	authenticate(request)
	switch {
	case strings.Contains(path, "/manifests/"):
		request.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	case path == "/v2/auth":
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := http.DefaultClient.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return reply{response.StatusCode, string(content), response.Header}
}

func (c *scene) admin(method, path string, body []byte) reply {
	GinkgoHelper()
	return c.send(func(r *http.Request) { r.SetBasicAuth("admin", password) }, method, path, body)
}

func (c *scene) must(r reply, status int) reply {
	GinkgoHelper()
	Expect(r.status).To(Equal(status), r.body)
	return r
}

// policy makes a policy of the organization or the repository, once.
func (c *scene) policy(path string) string {
	GinkgoHelper()
	if c.policies[path] == "" {
		p, err := c.core.CreatePolicy(c.ctx, byAdmin, core.Scope{Organization: c.organization, Repository: path},
			domain.PolicySpec{TagPattern: "locked-.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})
		Expect(err).NotTo(HaveOccurred())
		c.policies[path] = p.UUID
	}
	return c.policies[path]
}

// object is a Kubernetes object of the scene.
func (c *scene) object(kind, name string) domain.ManagedBy {
	return domain.ManagedBy{Kind: kind, Namespace: c.organization, Name: name, UID: name + "-of-" + c.organization, Generation: 1}
}

func (c *scene) claim() core.Claim {
	return core.Claim{Namespace: domain.Owner{Namespace: c.organization, UID: "uid-of-" + c.organization}, Organizations: []string{c.organization}}
}

// managed makes a policy of a Kubernetes object, once, and orphans it if the object is to be gone.
func (c *scene) managed(path string, orphaned bool) string {
	GinkgoHelper()
	key := "managed " + path
	if c.policies[key] == "" {
		name := "releases"
		if path != "" {
			name += "-of-a-repository"
		}
		status, err := c.core.PutManagedPolicy(c.ctx, byOperator, core.ManagedPolicy{
			Cluster: "cluster", Manager: c.object("ImmutabilityPolicy", name), Scope: core.Scope{Organization: c.organization, Repository: path}, Claim: c.claim(),
			Spec: domain.PolicySpec{TagPattern: "managed-.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain},
		})
		Expect(err).NotTo(HaveOccurred())
		c.policies[key] = status.Policy.UUID
	}
	if orphaned {
		c.sync()
	}
	return c.policies[key]
}

// mirrorSpec is of an upstream that does not answer, and that nothing is synced from by schedule.
func mirrorSpec() domain.MirrorSpec {
	return domain.MirrorSpec{
		Source:   domain.MirrorSource{Type: domain.UpstreamOCI, URL: "http://127.0.0.1:9", Namespace: "upstream"},
		Schedule: domain.MirrorSchedule{Interval: time.Hour, StartAt: time.Now().Add(24 * time.Hour).UTC()},
	}
}

// mirror makes the organization's mirror, once.
func (c *scene) mirror() {
	GinkgoHelper()
	if _, err := c.core.Mirror(c.ctx, c.organization); err != nil {
		_, err := c.core.CreateMirror(c.ctx, byAdmin, c.organization, mirrorSpec(), domain.MirrorSecrets{Username: "bot", Password: "hunter2hunter2"})
		Expect(err).NotTo(HaveOccurred())
	}
}

// managedMirror makes the mirror of a Kubernetes object, once, and orphans it if the object is to be gone.
func (c *scene) managedMirror(orphaned bool) {
	GinkgoHelper()
	if _, err := c.core.Mirror(c.ctx, c.organization); err != nil {
		_, err := c.core.PutManagedMirror(c.ctx, byOperator, core.ManagedMirror{
			Cluster: "cluster", Manager: c.object(domain.KindOrgMirror, "upstream"), Organization: c.organization, Spec: mirrorSpec(), Claim: c.claim(),
		})
		Expect(err).NotTo(HaveOccurred())
	}
	if orphaned {
		c.sync()
	}
}

// readonlyUser is the grant of a Kubernetes object.
func (c *scene) readonlyUser() string {
	GinkgoHelper()
	name := "grant-of-" + c.organization
	_, err := c.core.PutManagedReadonlySuperuser(c.ctx, byOperator, core.ManagedReadonlySuperuser{
		Cluster: "cluster", Manager: domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: name, UID: name + "-uid", Generation: 1},
		Subject: domain.Subject{Kind: domain.SubjectRegistryUser, Name: "made-by-" + name}, Access: domain.ReadonlyFull, Credentials: true,
	})
	Expect(err).NotTo(HaveOccurred())
	return name
}

// upload opens an upload, of the caller if it may have one, and returns its path.
func (c *scene) upload() string {
	GinkgoHelper()
	path := "/v2/" + c.repository() + "/blobs/uploads/"
	opened := c.send(c.authenticate, "POST", path, nil)
	if opened.status != 202 {
		opened = c.must(c.admin("POST", path, nil), 202)
	}
	location, err := url.Parse(opened.header.Get("Location"))
	Expect(err).NotTo(HaveOccurred())
	return location.RequestURI()
}

// entries counts the entries of the log that the caller made, without what it looked at.
func (c *scene) entries() (n int) {
	GinkgoHelper()
	views, err := c.core.Log(c.ctx, audit.Query{After: -1, Performer: c.name, Limit: 1_000_000})
	Expect(err).NotTo(HaveOccurred())
	for _, view := range views {
		if view.Performer == c.name && !strings.HasPrefix(string(view.Kind), "view_") && view.Kind != audit.KindLoginFailure {
			n++
		}
	}
	return n
}

// valid is a request that is right, and what it does if the caller may.
type valid struct {
	path   string
	body   string
	status int
	// changes says that it leaves an entry in the log.
	changes bool
}

// requests has a valid request for each endpoint.
func requests() map[string]func(c *scene) valid {
	v2 := func(c *scene, rest string) string { return "/v2/" + c.repository() + rest }
	org := func(c *scene, rest string) string { return "/api/v1/organization/" + c.organization + rest }
	repo := func(c *scene, rest string) string { return "/api/v1/repository/" + c.repository() + rest }
	object := func(c *scene, kind, rest string) string {
		return "/api/v1/operator/" + kind + "/" + c.organization + "/" + rest
	}
	read := func(path func(c *scene) string) func(*scene) valid {
		return func(c *scene) valid { return valid{path: path(c), status: 200} }
	}
	fixed := func(path string) func(*scene) valid {
		return read(func(*scene) string { return path })
	}
	ofOrg := func(rest string) func(*scene) valid { return read(func(c *scene) string { return org(c, rest) }) }
	ofRepo := func(rest string) func(*scene) valid { return read(func(c *scene) string { return repo(c, rest) }) }
	const super = "/api/v1/superuser/"

	list := map[string]func(c *scene) valid{
		"GET /v2/":               fixed("/v2/"),
		"GET /v2/_catalog":       fixed("/v2/_catalog"),
		"GET /v2/auth":           fixed("/v2/auth?service=tidelock&scope=repository:x/y:pull"),
		"GET /v2/auth/jwks.json": fixed("/v2/auth/jwks.json"),
		"POST /v2/auth": func(*scene) valid {
			form := url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {password}, "service": {"tidelock"}}
			return valid{path: "/v2/auth", body: form.Encode(), status: 200}
		},
		"GET /v2/{name}/tags/list":             read(func(c *scene) string { return v2(c, "/tags/list") }),
		"GET /v2/{name}/referrers/{digest}":    read(func(c *scene) string { return v2(c, "/referrers/"+c.manifests[1]) }),
		"GET /v2/{name}/manifests/{reference}": read(func(c *scene) string { return v2(c, "/manifests/v1") }),
		"PUT /v2/{name}/manifests/{reference}": func(c *scene) valid {
			return valid{v2(c, "/manifests/v2"), string(c.manifest("new")), 201, true}
		},
		"DELETE /v2/{name}/manifests/{reference}": func(c *scene) valid { return valid{v2(c, "/manifests/"+c.manifests[1]), "", 202, true} },
		"GET /v2/{name}/blobs/{digest}":           read(func(c *scene) string { return v2(c, "/blobs/"+c.blob) }),
		"DELETE /v2/{name}/blobs/{digest}":        func(c *scene) valid { return valid{v2(c, "/blobs/"+c.blob), "", 202, true} },
		"POST /v2/{name}/blobs/uploads/":          func(c *scene) valid { return valid{path: v2(c, "/blobs/uploads/"), status: 202} },
		"GET /v2/{name}/blobs/uploads/{id}":       func(c *scene) valid { return valid{path: c.upload(), status: 204} },
		"PATCH /v2/{name}/blobs/uploads/{id}":     func(c *scene) valid { return valid{path: c.upload(), body: "tide", status: 202} },
		"DELETE /v2/{name}/blobs/uploads/{id}":    func(c *scene) valid { return valid{path: c.upload(), status: 204} },
		"PUT /v2/{name}/blobs/uploads/{id}": func(c *scene) valid {
			path := c.upload()
			separator := "?"
			if strings.Contains(path, "?") {
				separator = "&"
			}
			return valid{path: path + separator + "digest=" + digestOf([]byte("tidelock")), body: "tidelock", status: 201}
		},

		"POST /api/v1/organization/": func(c *scene) valid {
			return valid{"/api/v1/organization/", fmt.Sprintf(`{"name": "new-%s"}`, c.organization), 201, true}
		},
		"GET /api/v1/organization/{organization}":    ofOrg(""),
		"DELETE /api/v1/organization/{organization}": func(c *scene) valid { return valid{org(c, ""), "", 204, true} },
		"GET /api/v1/superuser/organizations/":       fixed(super + "organizations/"),
		"GET /api/v1/repository":                     read(func(c *scene) string { return "/api/v1/repository?namespace=" + c.organization }),
		"POST /api/v1/repository": func(c *scene) valid {
			return valid{"/api/v1/repository", fmt.Sprintf(`{"namespace": %q, "repository": "new", "visibility": "private", "description": ""}`, c.organization), 201, true}
		},
		"GET /api/v1/repository/{repository}":    ofRepo(""),
		"PUT /api/v1/repository/{repository}":    func(c *scene) valid { return valid{repo(c, ""), `{"description": "new"}`, 200, true} },
		"DELETE /api/v1/repository/{repository}": func(c *scene) valid { return valid{repo(c, ""), "", 204, true} },
		"POST /api/v1/repository/{repository}/changevisibility": func(c *scene) valid {
			return valid{repo(c, "/changevisibility"), `{"visibility": "public"}`, 200, true}
		},
		"GET /api/v1/repository/{repository}/tag/":         ofRepo("/tag/"),
		"PUT /api/v1/repository/{repository}/tag/{tag}":    func(c *scene) valid { return valid{repo(c, "/tag/v1"), `{"immutable": true}`, 201, true} },
		"DELETE /api/v1/repository/{repository}/tag/{tag}": func(c *scene) valid { return valid{repo(c, "/tag/v1"), "", 204, true} },
		"POST /api/v1/repository/{repository}/tag/{tag}/restore": func(c *scene) valid {
			return valid{repo(c, "/tag/v1/restore"), fmt.Sprintf(`{"manifest_digest": %q}`, c.manifests[0]), 200, true}
		},

		"GET /api/v1/organization/{organization}/mirror": func(c *scene) valid { c.mirror(); return valid{path: org(c, "/mirror"), status: 200} },
		"POST /api/v1/organization/{organization}/mirror": func(c *scene) valid {
			return valid{org(c, "/mirror"), fmt.Sprintf(`{"external_registry_type": "oci", "external_registry_url": "http://127.0.0.1:9", "external_namespace": "upstream",
				"robot_username": "%s+ci", "visibility": "private", "sync_interval": 3600, "sync_start_date": "2099-01-01T00:00:00Z"}`, c.organization), 201, true}
		},
		"PUT /api/v1/organization/{organization}/mirror": func(c *scene) valid {
			c.mirror()
			return valid{org(c, "/mirror"), `{"sync_interval": 7200}`, 200, true}
		},
		"DELETE /api/v1/organization/{organization}/mirror":           func(c *scene) valid { c.mirror(); return valid{org(c, "/mirror"), "", 204, true} },
		"POST /api/v1/organization/{organization}/mirror/sync-now":    func(c *scene) valid { c.mirror(); return valid{org(c, "/mirror/sync-now"), "", 204, true} },
		"POST /api/v1/organization/{organization}/mirror/sync-cancel": func(c *scene) valid { c.mirror(); return valid{path: org(c, "/mirror/sync-cancel"), status: 204} },
		"POST /api/v1/organization/{organization}/mirror/verify":      func(c *scene) valid { c.mirror(); return valid{path: org(c, "/mirror/verify"), status: 200} },
		"GET /api/v1/organization/{organization}/mirror/repositories": func(c *scene) valid { c.mirror(); return valid{path: org(c, "/mirror/repositories"), status: 200} },
		"POST /api/v1/organization/{organization}/mirror/adopt":       func(c *scene) valid { c.managedMirror(true); return valid{org(c, "/mirror/adopt"), "", 204, true} },
		"GET /api/v1/organization/{organization}/logs":                ofOrg("/logs"),
		"GET /api/v1/repository/{repository}/logs":                    ofRepo("/logs"),
		"GET /api/v1/superuser/logs":                                  fixed(super + "logs"),
		"GET /api/v1/organization/{organization}/logs/export":         ofOrg("/logs/export?format=jsonl"),
		"GET /api/v1/repository/{repository}/logs/export":             ofRepo("/logs/export?format=jsonl"),
		"GET /api/v1/superuser/logs/export":                           fixed(super + "logs/export?format=jsonl"),
		"GET /api/v1/organization/{organization}/logs/follow":         ofOrg("/logs/follow"),
		"GET /api/v1/repository/{repository}/logs/follow":             ofRepo("/logs/follow"),
		"GET /api/v1/superuser/logs/follow":                           fixed(super + "logs/follow"),
		"GET /api/v1/organization/{organization}/aggregatelogs":       ofOrg("/aggregatelogs"),
		"GET /api/v1/repository/{repository}/aggregatelogs":           ofRepo("/aggregatelogs"),
		"GET /api/v1/superuser/aggregatelogs":                         fixed(super + "aggregatelogs"),
		"GET /api/v1/repository/{repository}/tag/{tag}/history":       ofRepo("/tag/v1/history"),
		"GET /api/v1/superuser/immutabilitypolicy/{uuid}/coverage":    read(func(c *scene) string { return super + "immutabilitypolicy/" + c.policy("") + "/coverage" }),
		"GET /api/v1/superuser/audit/checkpoint":                      fixed(super + "audit/checkpoint"),
		"GET /api/v1/superuser/audit/keys":                            fixed(super + "audit/keys"),
		"GET /api/v1/superuser/audit/entries/{index}":                 fixed(super + "audit/entries/0"),
		"GET /api/v1/superuser/audit/proof/inclusion":                 fixed(super + "audit/proof/inclusion?index=0"),
		"GET /api/v1/superuser/audit/proof/consistency":               fixed(super + "audit/proof/consistency?from=1"),
		"GET /api/v1/superuser/audit/export":                          fixed(super + "audit/export"),
		"POST /api/v1/superuser/audit/erasures": func(c *scene) valid {
			return valid{super + "audit/erasures", fmt.Sprintf(`{"name": "nobody-of-%s"}`, c.organization), 202, true}
		},
		"GET /api/v1/superuser/audit/erasures/{uuid}": read(func(c *scene) string {
			erasure, err := c.core.ErasePerson(c.ctx, byAdmin, "nobody-at-all")
			Expect(err).NotTo(HaveOccurred())
			return super + "audit/erasures/" + erasure.UUID
		}),

		"GET /api/v1/organization/{organization}/robots":                     ofOrg("/robots"),
		"GET /api/v1/organization/{organization}/robots/{robot}":             ofOrg("/robots/ci"),
		"PUT /api/v1/organization/{organization}/robots/{robot}":             func(c *scene) valid { return valid{org(c, "/robots/new"), "", 201, true} },
		"DELETE /api/v1/organization/{organization}/robots/{robot}":          func(c *scene) valid { return valid{org(c, "/robots/ci"), "", 204, true} },
		"POST /api/v1/organization/{organization}/robots/{robot}/regenerate": func(c *scene) valid { return valid{org(c, "/robots/ci/regenerate"), "", 200, true} },
		"GET /api/v1/organization/{organization}/members":                    ofOrg("/members"),
		"GET /api/v1/organization/{organization}/members/{member}":           read(func(c *scene) string { return org(c, "/members/bystander-of-"+c.organization) }),
		"PUT /api/v1/organization/{organization}/members/{member}": func(c *scene) valid {
			return valid{org(c, "/members/bystander-of-"+c.organization), `{"role": "admin"}`, 200, true}
		},
		"DELETE /api/v1/organization/{organization}/members/{member}":    func(c *scene) valid { return valid{org(c, "/members/bystander-of-"+c.organization), "", 204, true} },
		"GET /api/v1/repository/{repository}/permissions/user/":          ofRepo("/permissions/user/"),
		"GET /api/v1/repository/{repository}/permissions/user/{account}": read(func(c *scene) string { return repo(c, "/permissions/user/bystander-of-"+c.organization) }),
		"PUT /api/v1/repository/{repository}/permissions/user/{account}": func(c *scene) valid {
			return valid{repo(c, "/permissions/user/bystander-of-"+c.organization), `{"role": "write"}`, 200, true}
		},
		"DELETE /api/v1/repository/{repository}/permissions/user/{account}": func(c *scene) valid {
			return valid{repo(c, "/permissions/user/bystander-of-"+c.organization), "", 204, true}
		},

		"GET /api/v1/user/": fixed("/api/v1/user/"),
		"PUT /api/v1/user/": func(*scene) valid {
			return valid{"/api/v1/user/", fmt.Sprintf(`{"password": %q}`, accountSecret), 200, true}
		},
		"GET /api/v1/user/apptoken":           fixed("/api/v1/user/apptoken"),
		"POST /api/v1/user/apptoken":          func(*scene) valid { return valid{"/api/v1/user/apptoken", `{"title": "laptop"}`, 200, true} },
		"GET /api/v1/user/apptoken/{uuid}":    read(func(c *scene) string { return "/api/v1/user/apptoken/" + c.ownToken() }),
		"DELETE /api/v1/user/apptoken/{uuid}": func(c *scene) valid { return valid{"/api/v1/user/apptoken/" + c.ownToken(), "", 204, true} },

		"GET /api/v1/superuser/users/": fixed(super + "users/"),
		"POST /api/v1/superuser/users/": func(c *scene) valid {
			return valid{super + "users/", fmt.Sprintf(`{"username": "new-%s", "email": ""}`, c.organization), 200, true}
		},
		"GET /api/v1/superuser/users/{user}": read(func(c *scene) string { return super + "users/bystander-of-" + c.organization }),
		"PUT /api/v1/superuser/users/{user}": func(c *scene) valid {
			return valid{super + "users/bystander-of-" + c.organization, `{"enabled": false}`, 200, true}
		},
		"DELETE /api/v1/superuser/users/{user}": func(c *scene) valid { return valid{super + "users/bystander-of-" + c.organization, "", 204, true} },
		"GET /api/v1/superuser/signingkeys/":    fixed(super + "signingkeys/"),
		"POST /api/v1/superuser/signingkeys/":   func(*scene) valid { return valid{super + "signingkeys/", "", 200, true} },
		"DELETE /api/v1/superuser/signingkeys/{key}": func(c *scene) valid {
			Expect(c.auth.RotateSigningKey(c.ctx, byAdmin)).To(Succeed())
			keys, err := c.auth.SigningKeys(c.ctx)
			Expect(err).NotTo(HaveOccurred())
			return valid{super + "signingkeys/" + keys[0].ID, "", 204, true}
		},
		"GET /api/v1/superuser/readonlysuperusers/": fixed(super + "readonlysuperusers/"),
		"GET /api/v1/superuser/config":              fixed(super + "config"),

		"PUT /api/v1/operator/immutabilitypolicies/{namespace}/{name}": func(c *scene) valid {
			return valid{object(c, "immutabilitypolicies", "new"), fmt.Sprintf(`{"cluster": "cluster", "uid": "new-%[1]s", "generation": 1, "organization": %[1]q, "tagPattern": "new-.*", "tagPatternMatches": true,
				"enforcementMode": "Enforce", "reclaimPolicy": "Retain", "claim": {"namespaceUID": "uid-of-%[1]s", "organizations": [%[1]q]}}`, c.organization), 200, true}
		},
		"GET /api/v1/operator/immutabilitypolicies/{namespace}/{name}": read(func(c *scene) string {
			c.managed("", false)
			return object(c, "immutabilitypolicies", "releases")
		}),
		"DELETE /api/v1/operator/immutabilitypolicies/{namespace}/{name}": func(c *scene) valid {
			c.managed("", false)
			return valid{object(c, "immutabilitypolicies", "releases?cluster=cluster&uid=releases-of-"+c.organization), "", 204, true}
		},
		"PUT /api/v1/operator/immutabilitypolicies/{namespace}/{name}/deletion-intent": func(c *scene) valid {
			c.managed("", false)
			return valid{path: object(c, "immutabilitypolicies", "releases/deletion-intent"), body: fmt.Sprintf(`{"uid": "releases-of-%s", "user": "dave"}`, c.organization), status: 204}
		},
		"POST /api/v1/operator/immutabilitypolicies/{namespace}/{name}/refused-changes": func(c *scene) valid {
			c.managed("", false)
			body := fmt.Sprintf(`{"uid": "releases-of-%s", "user": "dave", "operation": "delete", "reason": "it is locked"}`, c.organization)
			return valid{object(c, "immutabilitypolicies", "releases/refused-changes"), body, 204, true}
		},
		"PUT /api/v1/operator/orgmirrors/{namespace}/{name}": func(c *scene) valid {
			return valid{object(c, "orgmirrors", "upstream"), fmt.Sprintf(`{"cluster": "cluster", "uid": "upstream-of-%[1]s", "generation": 1, "organization": %[1]q, "secrets": {},
				"claim": {"namespaceUID": "uid-of-%[1]s", "organizations": [%[1]q]},
				"spec": {"source": {"type": "OCI", "url": "http://127.0.0.1:9", "namespace": "upstream"}, "repositories": {}, "tags": {}, "referrers": "Copy", "visibility": "private",
					"schedule": {"intervalSeconds": 3600, "startAt": "2099-01-01T00:00:00Z"}, "onConflict": "Skip", "prune": "Never", "timeoutSeconds": 300, "concurrency": 4}}`, c.organization), 200, true}
		},
		"GET /api/v1/operator/orgmirrors/{namespace}/{name}": read(func(c *scene) string { c.managedMirror(false); return object(c, "orgmirrors", "upstream") }),
		"DELETE /api/v1/operator/orgmirrors/{namespace}/{name}": func(c *scene) valid {
			c.managedMirror(false)
			return valid{object(c, "orgmirrors", "upstream?cluster=cluster&uid=upstream-of-"+c.organization), "", 204, true}
		},
		"PUT /api/v1/operator/orgmirrors/{namespace}/{name}/deletion-intent": func(c *scene) valid {
			c.managedMirror(false)
			return valid{path: object(c, "orgmirrors", "upstream/deletion-intent"), body: fmt.Sprintf(`{"uid": "upstream-of-%s", "user": "dave"}`, c.organization), status: 204}
		},
		"PUT /api/v1/operator/readonlysuperusers/{name}": func(c *scene) valid {
			return valid{"/api/v1/operator/readonlysuperusers/new-" + c.organization, fmt.Sprintf(`{"cluster": "cluster", "uid": "new-grant-%[1]s", "generation": 1, "access": "Full",
				"subject": {"kind": "Group", "name": "auditors-%[1]s"}}`, c.organization), 200, true}
		},
		"GET /api/v1/operator/readonlysuperusers/{name}": read(func(c *scene) string { return "/api/v1/operator/readonlysuperusers/" + c.readonlyUser() }),
		"DELETE /api/v1/operator/readonlysuperusers/{name}": func(c *scene) valid {
			name := c.readonlyUser()
			return valid{"/api/v1/operator/readonlysuperusers/" + name + "?cluster=cluster&uid=" + name + "-uid", "", 204, true}
		},
		"PUT /api/v1/operator/readonlysuperusers/{name}/deletion-intent": func(c *scene) valid {
			name := c.readonlyUser()
			return valid{path: "/api/v1/operator/readonlysuperusers/" + name + "/deletion-intent", body: fmt.Sprintf(`{"uid": "%s-uid", "user": "dave"}`, name), status: 204}
		},
		"POST /api/v1/operator/readonlysuperusers/{name}/credentials": func(c *scene) valid {
			name := c.readonlyUser()
			return valid{"/api/v1/operator/readonlysuperusers/" + name + "/credentials", fmt.Sprintf(`{"cluster": "cluster", "uid": "%s-uid"}`, name), 201, true}
		},
		"POST /api/v1/operator/preview": func(c *scene) valid {
			return valid{path: "/api/v1/operator/preview", body: fmt.Sprintf(`{"organization": %q, "tagPattern": "v.*", "tagPatternMatches": true}`, c.organization), status: 200}
		},
		"POST /api/v1/operator/synced": func(c *scene) valid {
			c.sync() // then nothing is left that this orphans
			return valid{path: "/api/v1/operator/synced", body: fmt.Sprintf(`{"cluster": "cluster", "present": [{"kind": %q, "namespace": "", "name": "audit", "uid": "audit-uid"}]}`, domain.KindReadonlySuperuser), status: 204}
		},
		"PUT /api/v1/operator/published-checkpoint": func(c *scene) valid {
			checkpoint, err := c.core.SignedCheckpoint(c.ctx)
			Expect(err).NotTo(HaveOccurred())
			body, err := json.Marshal(map[string]string{"cluster": "cluster", "checkpoint": string(checkpoint)})
			Expect(err).NotTo(HaveOccurred())
			return valid{path: "/api/v1/operator/published-checkpoint", body: string(body), status: 200}
		},
		"GET /api/v1/operator/log":              fixed("/api/v1/operator/log?limit=1"),
		"GET /api/v1/operator/cursors/{cursor}": fixed("/api/v1/operator/cursors/reader"),
		"PUT /api/v1/operator/cursors/{cursor}": func(c *scene) valid {
			return valid{path: "/api/v1/operator/cursors/reader-of-" + c.organization, body: `{"from": 0, "to": 1}`, status: 204}
		},
		"GET /api/v1/openapi.json": fixed("/api/v1/openapi.json"),
		"GET /api/v1/openapi.yaml": fixed("/api/v1/openapi.yaml"),
	}
	for scope, path := range map[string]string{"organization/{organization}": "", "repository/{repository}": "app"} {
		at := func(c *scene, rest string) string {
			if path == "" {
				return org(c, "/immutabilitypolicy/"+rest)
			}
			return repo(c, "/immutabilitypolicy/"+rest)
		}
		prefix := "/api/v1/" + scope + "/immutabilitypolicy/"
		list["GET "+prefix] = read(func(c *scene) string { return at(c, "") })
		list["POST "+prefix] = func(c *scene) valid { return valid{at(c, ""), `{"tagPattern": "new-.*"}`, 201, true} }
		list["GET "+prefix+"{uuid}"] = read(func(c *scene) string { return at(c, c.policy(path)) })
		list["PUT "+prefix+"{uuid}"] = func(c *scene) valid { return valid{at(c, c.policy(path)), `{"tagPattern": "other-.*"}`, 204, true} }
		list["DELETE "+prefix+"{uuid}"] = func(c *scene) valid { return valid{at(c, c.policy(path)), "", 200, true} }
		list["POST "+prefix+"{uuid}/release"] = func(c *scene) valid { return valid{path: at(c, c.policy(path)+"/release"), status: 200} }
		list["POST "+prefix+"{uuid}/adopt"] = func(c *scene) valid { return valid{at(c, c.managed(path, true)+"/adopt"), "", 204, true} }
	}
	return list
}

// ownToken is the id of a token of the caller, or of nobody if it can have none.
func (c *scene) ownToken() string {
	GinkgoHelper()
	if _, err := c.core.User(c.ctx, c.name); err != nil {
		return "none"
	}
	_, hash := auth.NewSecret()
	token, err := c.core.CreateToken(c.ctx, byAdmin, c.name, "test", hash)
	Expect(err).NotTo(HaveOccurred())
	// A readonly superuser's own token goes again, so that it does not reach the limit.
	return token.ID
}

// code is the registry's code in an answer of either API.
func (r reply) code() string {
	var problem struct {
		Code   string `json:"code"`
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	_ = json.Unmarshal([]byte(r.body), &problem)
	if len(problem.Errors) > 0 {
		return problem.Errors[0].Code
	}
	return problem.Code
}

var _ = Describe("The permission table", func() {
	// check calls every endpoint as one sort of caller, and holds what happens against the table.
	check := func(s *stage, sort auth.Sort) {
		GinkgoHelper()
		valids := requests()
		shared := s.scene(sort)
		for _, e := range Endpoints() {
			key := e.Method + " " + e.Path
			prepare := valids[key]
			Expect(prepare).NotTo(BeNil(), "%s: write a valid request for it", key)
			may := sort.May(e.Permission)
			c := shared
			if may && (e.Method != http.MethodGet || e.Permission == auth.OperatorProtocol) {
				c = s.scene(sort) // it is as it was made only once
			}
			request := prepare(c)
			what := fmt.Sprintf("%s as %s", key, sort.Name)
			before := c.entries()
			answer := c.send(c.authenticate, e.Method, request.path, []byte(request.body))
			if may {
				Expect(answer.status).To(Equal(request.status), "%s: %s", what, answer.body)
				switch {
				case c.name == "":
				case request.changes: // the entry of an erasure comes when it is done
					Eventually(c.entries).WithTimeout(10*time.Second).Should(BeNumerically(">", before), "%s: it leaves an entry", what)
				default:
					Expect(c.entries()).To(Equal(before), "%s: it leaves no entry", what)
				}
				continue
			}
			status, code := http.StatusForbidden, "DENIED"
			if sort.Name == "anonymous" {
				status, code = http.StatusUnauthorized, "UNAUTHORIZED"
			}
			Expect(answer.status).To(Equal(status), "%s: %s", what, answer.body)
			Expect(answer.code()).To(Equal(code), "%s: %s", what, answer.body)
			Expect(c.entries()).To(Equal(before), what)
			// Neither what is in the request nor what is there makes a difference. Where only the body names the organization, who may
			// create in another one is told that it cannot be read.
			others := []reply{c.send(c.authenticate, e.Method, strings.ReplaceAll(request.path, c.organization, nowhere), []byte(request.body))}
			if e.Permission != auth.RepositoryCreate {
				others = append(others, c.send(c.authenticate, e.Method, request.path, []byte("{")))
			}
			for _, other := range others {
				Expect(other.status).To(Equal(status), "%s: %s", what, other.body)
				Expect(strings.ReplaceAll(other.body, nowhere, c.organization)).To(Equal(answer.body), what)
			}
		}
	}
	// checkPublic calls what is of a public repository.
	checkPublic := func(s *stage, sort auth.Sort) {
		GinkgoHelper()
		c := s.scene(sort)
		c.must(c.admin("POST", "/api/v1/repository/"+c.repository()+"/changevisibility", []byte(`{"visibility": "public"}`)), 200)
		for _, e := range Endpoints() {
			if e.Method != http.MethodGet || !auth.Allowed(auth.RoleReader, e.Permission) {
				continue
			}
			request := requests()[e.Method+" "+e.Path](c)
			answer := c.send(c.authenticate, e.Method, request.path, nil)
			Expect(answer.status == request.status).To(Equal(sort.MayIfPublic(e.Permission)), "%s %s as %s: %d %s", e.Method, e.Path, sort.Name, answer.status, answer.body)
		}
	}

	var limited, full *stage
	Describe("is what a running registry does", Ordered, ContinueOnFailure, func() {
		BeforeAll(func() {
			limited, full = newStage(false), newStage(true)
		})
		for _, sort := range auth.Sorts() {
			It("for the sort "+sort.Name, func() {
				s := limited
				if sort.Name == "superuser" {
					s = full
				}
				check(s, sort)
				checkPublic(s, sort)
			})
		}
	})

	It("has a valid request for each endpoint, and no other", func() {
		known := map[string]bool{}
		for _, e := range Endpoints() {
			key := e.Method + " " + e.Path
			Expect(known).NotTo(HaveKey(key))
			known[key] = true
			Expect(auth.Sorts()).To(ContainElement(Satisfy(func(s auth.Sort) bool { return s.May(e.Permission) })), "%s is nobody's", key)
		}
		for key := range requests() {
			Expect(known).To(HaveKey(key))
		}
	})
})
