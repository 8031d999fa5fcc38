package mgmtapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/mgmtapi"
)

// guarded is a registry with one account of each sort.
type guarded struct {
	*registry
	callers map[string]caller
}

// alicePassword is that of the user "password", who has no role anywhere.
const alicePassword = "a user's own password"

// newGuarded makes team-a/app, private, and team-a/public, and accounts with what their names say in team-a or on both
// repositories. All but the user "password" come with tokens.
func newGuarded() *guarded {
	GinkgoHelper()
	g := &guarded{registry: newRegistry(coreOptions)}
	g.callers = map[string]caller{"": anonymous, "admin": admin, "operator": operator}
	ctx := context.Background()
	g.push("team-a/app", "v1", "one")
	g.push("team-a/public", "v1", "two")
	public := domain.Public
	publicName := domain.RepositoryName{Organization: "team-a", Path: "public"}
	Expect(g.core.UpdateRepository(ctx, user, publicName, core.RepositoryChange{Visibility: &public})).To(Succeed())

	add := func(name string, organization domain.OrganizationRole, repository domain.RepositoryRole) {
		GinkgoHelper()
		secret, hash := auth.NewSecret()
		if _, short, robot := strings.Cut(name, "+"); robot {
			_, err := g.core.CreateRobot(ctx, user, core.NewRobot{Organization: "team-a", Short: short}, hash)
			Expect(err).NotTo(HaveOccurred())
		} else {
			Expect(g.core.CreateUser(ctx, user, core.NewUser{Name: name})).To(Succeed())
			_, err := g.core.CreateToken(ctx, user, name, "test", hash)
			Expect(err).NotTo(HaveOccurred())
		}
		if organization != "" {
			_, err := g.core.SetMember(ctx, user, "team-a", name, organization)
			Expect(err).NotTo(HaveOccurred())
		}
		if repository != "" {
			for _, path := range []string{"app", "public"} {
				_, err := g.core.SetPermission(ctx, user, domain.RepositoryName{Organization: "team-a", Path: path}, name, repository)
				Expect(err).NotTo(HaveOccurred())
			}
		}
		g.callers[name] = func(r *http.Request) { r.SetBasicAuth(name, secret) }
	}
	add("limited", "", "") // a superuser of the configuration
	add("outsider", "", "")
	add("member", domain.OrganizationMember, "")
	add("creator", domain.OrganizationCreator, "")
	add("org-admin", domain.OrganizationAdmin, "")
	add("reader", "", domain.RepositoryRead)
	add("writer", "", domain.RepositoryWrite)
	add("repo-admin", "", domain.RepositoryAdmin)
	add("team-a+idle", "", "")
	add("team-a+writer", "", domain.RepositoryWrite)
	add("team-a+repo-admin", "", domain.RepositoryAdmin)
	add("team-a+admin", domain.OrganizationAdmin, "")
	// Both have admin rights in the organization, which do not count any more.
	for name, access := range map[string]domain.ReadonlyAccess{"readonly": domain.ReadonlyFull, "metadata": domain.ReadonlyMetadataOnly} {
		add(name, domain.OrganizationAdmin, domain.RepositoryAdmin)
		g.grant(name, access)
	}
	hash, err := auth.HashPassword(alicePassword)
	Expect(err).NotTo(HaveOccurred())
	Expect(g.core.CreateUser(ctx, user, core.NewUser{Name: "password", PasswordHash: hash})).To(Succeed())
	g.callers["password"] = func(r *http.Request) { r.SetBasicAuth("password", alicePassword) }
	return g
}

// grant makes a user a readonly superuser.
func (r *registry) grant(name string, access domain.ReadonlyAccess) {
	GinkgoHelper()
	_, err := r.core.PutManagedReadonlySuperuser(context.Background(), domain.Caller{Name: "operator", Kind: domain.CallerOperator}, core.ManagedReadonlySuperuser{
		Cluster: "cluster", Manager: domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: name, UID: name + "-uid", Generation: 1},
		Subject: domain.Subject{Kind: domain.SubjectRegistryUser, Name: name}, Access: access,
	})
	Expect(err).NotTo(HaveOccurred())
}

// The groups of callers who may do something; a blank at the beginning means that anonymous callers may, too.
const (
	onlyAdmin      = "admin"
	everySuperuser = "admin limited"
	seers          = " readonly metadata" // readonly superusers
	auditors       = everySuperuser + " operator" + seers
	orgAdmins      = "admin org-admin"
	repoAdmins     = orgAdmins + " repo-admin team-a+repo-admin team-a+admin"
	writers        = repoAdmins + " writer team-a+writer"
	readers        = writers + " reader"
	members        = orgAdmins + " member creator team-a+idle team-a+writer team-a+repo-admin team-a+admin"
	creators       = orgAdmins + " creator team-a+admin"
	known          = readers + " outsider member creator team-a+idle password limited" + seers
	everybody      = " " + known
)

// allowed says who gets through to each route. The first is for team-a and team-a/app, the second, if there is one, for
// team-a/public; on an organization or repository of somebody else only admin does.
var allowed = map[string][]string{
	"POST /api/v1/organization/":                             {everySuperuser},
	"GET /api/v1/organization/{organization}":                {members + seers},
	"DELETE /api/v1/organization/{organization}":             {orgAdmins},
	"GET /api/v1/superuser/organizations/":                   {everySuperuser + seers},
	"GET /api/v1/repository":                                 {known},
	"POST /api/v1/repository":                                {creators},
	"GET /api/v1/repository/{repository}":                    {readers + seers, everybody},
	"PUT /api/v1/repository/{repository}":                    {repoAdmins},
	"DELETE /api/v1/repository/{repository}":                 {repoAdmins},
	"GET /api/v1/repository/{repository}/tag/":               {readers + seers, everybody},
	"PUT /api/v1/repository/{repository}/tag/{tag}":          {writers},
	"DELETE /api/v1/repository/{repository}/tag/{tag}":       {writers},
	"POST /api/v1/repository/{repository}/changevisibility":  {repoAdmins},
	"POST /api/v1/repository/{repository}/tag/{tag}/restore": {writers},

	"GET /api/v1/organization/{organization}/immutabilitypolicy/":                {orgAdmins + seers},
	"POST /api/v1/organization/{organization}/immutabilitypolicy/":               {orgAdmins},
	"GET /api/v1/organization/{organization}/immutabilitypolicy/{uuid}":          {orgAdmins + seers},
	"PUT /api/v1/organization/{organization}/immutabilitypolicy/{uuid}":          {orgAdmins},
	"DELETE /api/v1/organization/{organization}/immutabilitypolicy/{uuid}":       {orgAdmins},
	"POST /api/v1/organization/{organization}/immutabilitypolicy/{uuid}/release": {orgAdmins},
	"POST /api/v1/organization/{organization}/immutabilitypolicy/{uuid}/adopt":   {orgAdmins},
	"GET /api/v1/repository/{repository}/immutabilitypolicy/":                    {orgAdmins + seers},
	"POST /api/v1/repository/{repository}/immutabilitypolicy/":                   {orgAdmins},
	"GET /api/v1/repository/{repository}/immutabilitypolicy/{uuid}":              {orgAdmins + seers},
	"PUT /api/v1/repository/{repository}/immutabilitypolicy/{uuid}":              {orgAdmins},
	"DELETE /api/v1/repository/{repository}/immutabilitypolicy/{uuid}":           {orgAdmins},
	"POST /api/v1/repository/{repository}/immutabilitypolicy/{uuid}/release":     {orgAdmins},
	"POST /api/v1/repository/{repository}/immutabilitypolicy/{uuid}/adopt":       {orgAdmins},

	"GET /api/v1/organization/{organization}/mirror":              {orgAdmins + seers},
	"POST /api/v1/organization/{organization}/mirror":             {orgAdmins},
	"PUT /api/v1/organization/{organization}/mirror":              {orgAdmins},
	"DELETE /api/v1/organization/{organization}/mirror":           {orgAdmins},
	"POST /api/v1/organization/{organization}/mirror/sync-now":    {orgAdmins},
	"POST /api/v1/organization/{organization}/mirror/sync-cancel": {orgAdmins},
	"POST /api/v1/organization/{organization}/mirror/verify":      {orgAdmins},
	"GET /api/v1/organization/{organization}/mirror/repositories": {orgAdmins + seers},
	"POST /api/v1/organization/{organization}/mirror/adopt":       {orgAdmins},

	"GET /api/v1/organization/{organization}/logs":             {orgAdmins + seers},
	"GET /api/v1/repository/{repository}/logs":                 {orgAdmins + seers},
	"GET /api/v1/superuser/logs":                               {everySuperuser + seers},
	"GET /api/v1/organization/{organization}/aggregatelogs":    {orgAdmins + seers},
	"GET /api/v1/repository/{repository}/aggregatelogs":        {orgAdmins + seers},
	"GET /api/v1/organization/{organization}/logs/export":      {orgAdmins + seers},
	"GET /api/v1/repository/{repository}/logs/export":          {orgAdmins + seers},
	"GET /api/v1/superuser/logs/export":                        {everySuperuser + seers},
	"GET /api/v1/organization/{organization}/logs/follow":      {orgAdmins + seers},
	"GET /api/v1/repository/{repository}/logs/follow":          {orgAdmins + seers},
	"GET /api/v1/superuser/logs/follow":                        {everySuperuser + seers},
	"GET /api/v1/superuser/aggregatelogs":                      {everySuperuser + seers},
	"GET /api/v1/repository/{repository}/tag/{tag}/history":    {orgAdmins + seers},
	"GET /api/v1/superuser/immutabilitypolicy/{uuid}/coverage": {everySuperuser + seers},

	"GET /api/v1/superuser/audit/checkpoint":        {auditors},
	"GET /api/v1/superuser/audit/keys":              {auditors},
	"GET /api/v1/superuser/audit/entries/{index}":   {auditors},
	"GET /api/v1/superuser/audit/proof/inclusion":   {auditors},
	"GET /api/v1/superuser/audit/proof/consistency": {auditors},
	"GET /api/v1/superuser/audit/export":            {auditors},
	"POST /api/v1/superuser/audit/erasures":         {onlyAdmin},
	"GET /api/v1/superuser/audit/erasures/{uuid}":   {onlyAdmin + seers},

	"GET /api/v1/organization/{organization}/robots":                     {orgAdmins + seers},
	"GET /api/v1/organization/{organization}/robots/{robot}":             {orgAdmins + seers},
	"PUT /api/v1/organization/{organization}/robots/{robot}":             {orgAdmins},
	"DELETE /api/v1/organization/{organization}/robots/{robot}":          {orgAdmins},
	"POST /api/v1/organization/{organization}/robots/{robot}/regenerate": {orgAdmins},
	"GET /api/v1/organization/{organization}/members":                    {orgAdmins + seers},
	"GET /api/v1/organization/{organization}/members/{member}":           {orgAdmins + seers},
	"PUT /api/v1/organization/{organization}/members/{member}":           {orgAdmins},
	"DELETE /api/v1/organization/{organization}/members/{member}":        {orgAdmins},
	"GET /api/v1/repository/{repository}/permissions/user/":              {repoAdmins + seers},
	"GET /api/v1/repository/{repository}/permissions/user/{account}":     {repoAdmins + seers},
	"PUT /api/v1/repository/{repository}/permissions/user/{account}":     {repoAdmins},
	"DELETE /api/v1/repository/{repository}/permissions/user/{account}":  {repoAdmins},

	"GET /api/v1/user/":                   {known},
	"PUT /api/v1/user/":                   {"password"},
	"GET /api/v1/user/apptoken":           {"password" + seers},
	"POST /api/v1/user/apptoken":          {"password"},
	"GET /api/v1/user/apptoken/{uuid}":    {"password" + seers},
	"DELETE /api/v1/user/apptoken/{uuid}": {"password"},

	"GET /api/v1/superuser/users/":               {everySuperuser + seers},
	"POST /api/v1/superuser/users/":              {everySuperuser},
	"GET /api/v1/superuser/users/{user}":         {everySuperuser + seers},
	"PUT /api/v1/superuser/users/{user}":         {everySuperuser},
	"DELETE /api/v1/superuser/users/{user}":      {everySuperuser},
	"GET /api/v1/superuser/signingkeys/":         {everySuperuser + seers},
	"POST /api/v1/superuser/signingkeys/":        {everySuperuser},
	"DELETE /api/v1/superuser/signingkeys/{key}": {everySuperuser},

	"GET /api/v1/superuser/readonlysuperusers/": {everySuperuser + seers},
	"GET /api/v1/superuser/config":              {everySuperuser + seers},

	"PUT /api/v1/operator/immutabilitypolicies/{namespace}/{name}":                  {"operator"},
	"GET /api/v1/operator/immutabilitypolicies/{namespace}/{name}":                  {"operator"},
	"DELETE /api/v1/operator/immutabilitypolicies/{namespace}/{name}":               {"operator"},
	"PUT /api/v1/operator/immutabilitypolicies/{namespace}/{name}/deletion-intent":  {"operator"},
	"POST /api/v1/operator/immutabilitypolicies/{namespace}/{name}/refused-changes": {"operator"},
	"PUT /api/v1/operator/orgmirrors/{namespace}/{name}":                            {"operator"},
	"GET /api/v1/operator/orgmirrors/{namespace}/{name}":                            {"operator"},
	"DELETE /api/v1/operator/orgmirrors/{namespace}/{name}":                         {"operator"},
	"PUT /api/v1/operator/orgmirrors/{namespace}/{name}/deletion-intent":            {"operator"},
	"PUT /api/v1/operator/readonlysuperusers/{name}":                                {"operator"},
	"GET /api/v1/operator/readonlysuperusers/{name}":                                {"operator"},
	"DELETE /api/v1/operator/readonlysuperusers/{name}":                             {"operator"},
	"PUT /api/v1/operator/readonlysuperusers/{name}/deletion-intent":                {"operator"},
	"POST /api/v1/operator/readonlysuperusers/{name}/credentials":                   {"operator"},
	"POST /api/v1/operator/preview":                                                 {"operator"},
	"POST /api/v1/operator/synced":                                                  {"operator"},
	"PUT /api/v1/operator/published-checkpoint":                                     {"operator"},
	"GET /api/v1/operator/log":                                                      {"operator"},
	"GET /api/v1/operator/cursors/{cursor}":                                         {"operator"},
	"PUT /api/v1/operator/cursors/{cursor}":                                         {"operator"},

	"GET /api/v1/openapi.json": {everybody},
	"GET /api/v1/openapi.yaml": {everybody},
}

var _ = Describe("The permission table", Ordered, func() {
	var g *guarded
	BeforeAll(func() { g = newGuarded() })

	// A parameter that no route has is refused behind the permission: whoever gets that far is 400.
	check := func(route mgmtapi.RouteInfo, path, who string) {
		GinkgoHelper()
		through := map[string]bool{"": strings.HasPrefix(who, " ")}
		for name := range strings.FieldsSeq(who) {
			Expect(g.callers).To(HaveKey(name))
			through[name] = true
		}
		for name, as := range g.callers {
			answer := g.as(as, route.Method, path+"?nonsense=1", "")
			what := fmt.Sprintf("%s %s as %q: %s", route.Method, path, name, answer.body)
			switch {
			case through[name]:
				Expect(answer.status).To(Equal(http.StatusBadRequest), what)
				Expect(answer.body).To(ContainSubstring("nonsense: unknown parameter"), what)
			case name == "":
				Expect(answer.status).To(Equal(http.StatusUnauthorized), what)
			default:
				Expect(answer.status).To(Equal(http.StatusForbidden), what)
			}
		}
	}

	It("decides for each caller on each route", func() {
		for _, route := range mgmtapi.Routes() {
			key := route.Method + " " + route.Path
			Expect(allowed).To(HaveKey(key), "say in the table who may call it")
			who := allowed[key]
			own := strings.NewReplacer("{organization}", "team-a", "{repository}", "team-a/app")
			check(route, example.Replace(own.Replace(route.Path)), who[0])
			if strings.Contains(route.Path, "{repository}") {
				public := strings.Replace(route.Path, "{repository}", "team-a/public", 1)
				check(route, example.Replace(public), who[len(who)-1])
			}
			if strings.Contains(route.Path, "{repository}") || strings.Contains(route.Path, "{organization}") {
				others := onlyAdmin
				if route.Method == http.MethodGet {
					others += seers
				}
				check(route, example.Replace(route.Path), others)
			}
		}
		Expect(allowed).To(HaveLen(len(mgmtapi.Routes())))
	})

	It("resolves a nested repository with the rightmost keyword", func() {
		ctx := context.Background()
		// The tags of team-a/app/tag/x are not those of team-a/app, and its logs are not a tag of somebody else's.
		g.push("team-a/app/tag/x", "v1", "three")
		for path, status := range map[string]int{
			"/api/v1/repository/team-a/app/tag/":       http.StatusOK,
			"/api/v1/repository/team-a/app/tag/x/tag/": http.StatusForbidden,
		} {
			Expect(g.as(g.callers["reader"], "GET", path, "").status).To(Equal(status), path)
		}
		_, err := g.core.SetPermission(ctx, user, domain.RepositoryName{Organization: "team-a", Path: "app/tag/x"}, "outsider", domain.RepositoryRead)
		Expect(err).NotTo(HaveOccurred())
		Expect(g.as(g.callers["outsider"], "GET", "/api/v1/repository/team-a/app/tag/x/tag/", "").status).To(Equal(http.StatusOK))
		Expect(g.as(g.callers["outsider"], "GET", "/api/v1/repository/team-a/app/tag/", "").status).To(Equal(http.StatusForbidden))
	})

	It("lets nobody create a repository in an organization where they may not, though they may in another", func() {
		ctx := context.Background()
		_, err := g.core.CreateOrganization(ctx, user, "team-b")
		Expect(err).NotTo(HaveOccurred())
		body := func(organization string) string {
			return fmt.Sprintf(`{"namespace": %q, "repository": "made", "visibility": "private", "description": ""}`, organization)
		}
		Expect(g.as(g.callers["creator"], "POST", "/api/v1/repository", body("team-b")).status).To(Equal(http.StatusForbidden))
		Expect(g.as(g.callers["creator"], "POST", "/api/v1/repository", body("no-such-org")).status).To(Equal(http.StatusForbidden))
		Expect(g.as(g.callers["creator"], "POST", "/api/v1/repository", body("team-a")).status).To(Equal(http.StatusCreated))
		permission, err := g.core.Permission(ctx, domain.RepositoryName{Organization: "team-a", Path: "made"}, "creator")
		Expect(err).NotTo(HaveOccurred())
		Expect(permission.Role).To(Equal(domain.RepositoryAdmin))
	})

	It("lets a writer lock a tag by hand, and only an admin who is a person unlock it", func() {
		path := "/api/v1/repository/team-a/app/tag/v1"
		Expect(g.as(g.callers["team-a+writer"], "PUT", path, `{"immutable": true}`).status).To(Equal(http.StatusCreated))
		for _, name := range []string{"writer", "repo-admin", "team-a+writer", "team-a+repo-admin", "team-a+admin"} {
			Expect(g.as(g.callers[name], "PUT", path, `{"immutable": false}`).status).To(Equal(http.StatusForbidden), name)
		}
		Expect(g.as(g.callers["org-admin"], "PUT", path, `{"immutable": false}`).status).To(Equal(http.StatusCreated))
	})

	It("shows in a list of repositories what the caller may read", func() {
		list := func(name, organization string) response {
			return g.as(g.callers[name], "GET", "/api/v1/repository?namespace="+organization, "")
		}
		Expect(list("org-admin", "team-a").body).To(ContainSubstring(`"app"`))
		Expect(list("reader", "team-a").body).To(ContainSubstring(`"app"`))
		Expect(list("member", "team-a").body).To(And(ContainSubstring(`"public"`), Not(ContainSubstring(`"app"`))))
		Expect(list("outsider", "no-such-org").body).To(Equal(`{"repositories":[]}`))
		Expect(list("admin", "no-such-org").status).To(Equal(http.StatusNotFound))
	})
})
