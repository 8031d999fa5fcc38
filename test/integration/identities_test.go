package integration

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tidelock/tidelock/kubeauth"
)

// counting counts the reviews that pass through it.
type counting struct {
	http.RoundTripper
	tokens, access *atomic.Int64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		c.tokens.Add(1)
	case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
		c.access.Add(1)
	}
	return c.RoundTripper.RoundTrip(r)
}

var _ = Describe("Identities of Kubernetes", Ordered, ContinueOnFailure, func() {
	var (
		registry       *testRegistry
		tokens, access atomic.Int64
	)

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		registry.stop()
		// With no more rights than config/rbac gives the operator.
		way := operatorConfig()
		way.Wrap(func(rt http.RoundTripper) http.RoundTripper { return counting{rt, &tokens, &access} })
		cluster, err := kubeauth.New(way, kubeauth.Options{})
		Expect(err).NotTo(HaveOccurred())
		registry.config.Cluster = cluster
		registry.start()
		startOperator(ctx, registry)
	})

	// owned makes a namespace with an organization that belongs to it, and the image v1 in its repository app.
	owned := func(ctx context.Context) (team, app string) {
		GinkgoHelper()
		team = newTeam(ctx)
		app = team + "/app"
		registry.prepare(ctx, app)
		registry.push(ctx, app, "v1", "latest")
		eventually(ctx, create(ctx, newPolicy(team)), beReady())
		return team, app
	}
	account := func(ctx context.Context, namespace, name string) *corev1.ServiceAccount {
		GinkgoHelper()
		made := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		Expect(admin.Create(ctx, made)).To(Succeed())
		return made
	}
	tokenOf := func(ctx context.Context, a *corev1.ServiceAccount, audiences ...string) string {
		GinkgoHelper()
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: ptr.To(int64(3600))}}
		Expect(admin.SubResource("token").Create(ctx, a, request)).To(Succeed())
		return request.Status.Token
	}
	bind := func(ctx context.Context, namespace, role string, a *corev1.ServiceAccount) {
		GinkgoHelper()
		Expect(admin.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role + "-" + a.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: a.Namespace, Name: a.Name}},
		})).To(Succeed())
	}
	// send sends a request with a token.
	send := func(ctx context.Context, token, method, path string, body []byte) answer {
		GinkgoHelper()
		request, err := http.NewRequestWithContext(ctx, method, registry.url+path, strings.NewReader(string(body)))
		Expect(err).NotTo(HaveOccurred())
		request.Header.Set("Authorization", "Bearer "+token)
		request.Header.Set("Content-Type", "application/json")
		if method == http.MethodPut && strings.Contains(path, "/manifests/") {
			request.Header.Set("Content-Type", imagespec.MediaTypeImageManifest)
		}
		response, err := http.DefaultClient.Do(request)
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		Expect(err).NotTo(HaveOccurred())
		return answer{response.StatusCode, string(content)}
	}
	pull := func(ctx context.Context, token, app string) int {
		GinkgoHelper()
		return send(ctx, token, http.MethodGet, "/v2/"+app+"/manifests/v1", nil).Status
	}
	push := func(ctx context.Context, token, app, tag, image string) int {
		GinkgoHelper()
		return send(ctx, token, http.MethodPut, "/v2/"+app+"/manifests/"+tag, manifest(image)).Status
	}

	It("let a ServiceAccount do what RBAC says in the namespace that owns the organization", func(ctx context.Context) {
		team, app := owned(ctx)
		reader, writer, owner, nobody := account(ctx, team, "reader"), account(ctx, team, "writer"), account(ctx, team, "owner"), account(ctx, team, "nobody")
		bind(ctx, team, "tidelock-view", reader)
		bind(ctx, team, "tidelock-view", writer)
		bind(ctx, team, "tidelock-edit", writer)
		bind(ctx, team, "tidelock-admin", owner)

		token := tokenOf(ctx, reader, "tidelock")
		Expect(pull(ctx, token, app)).To(Equal(http.StatusOK))
		Expect(push(ctx, token, app, "latest", "other")).To(Equal(http.StatusForbidden))
		Expect(pull(ctx, tokenOf(ctx, nobody, "tidelock"), app)).To(Equal(http.StatusForbidden))

		token = tokenOf(ctx, writer, "tidelock")
		Expect(push(ctx, token, app, "latest", "other")).To(Equal(http.StatusCreated))
		Expect(push(ctx, token, app, "v1", "other")).To(Equal(http.StatusUnprocessableEntity), "a lock looks at nobody's name")
		Expect(send(ctx, token, http.MethodDelete, "/v2/"+app+"/manifests/latest", nil).Status).To(Equal(http.StatusAccepted))
		Expect(send(ctx, token, http.MethodPost, "/api/v1/organization/"+team+"/immutabilitypolicy/", []byte(`{"tagPattern": "r.*"}`)).Status).To(Equal(http.StatusForbidden))
		empty := imagespec.DescriptorEmptyJSON
		Expect(send(ctx, token, http.MethodPost, "/v2/"+team+"/fresh/blobs/uploads/?digest="+url.QueryEscape(empty.Digest.String()), empty.Data).Status).To(Equal(http.StatusCreated))
		Expect(push(ctx, token, team+"/fresh", "v1", "v1")).To(Equal(http.StatusCreated), "it makes the repository")

		token = tokenOf(ctx, owner, "tidelock")
		made := send(ctx, token, http.MethodPost, "/api/v1/organization/"+team+"/immutabilitypolicy/", []byte(`{"tagPattern": "r.*"}`))
		Expect(made.Status).To(Equal(http.StatusCreated), made.Body)
		log, err := registry.call(ctx, http.MethodGet, "/api/v1/organization/"+team+"/logs", "", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(log.Body).To(ContainSubstring(`"performer":{"is_robot":false,"kind":"serviceaccount","name":"` + team + `/owner"}`))

		_, foreign := owned(ctx)
		Expect(pull(ctx, tokenOf(ctx, reader, "tidelock"), foreign)).To(Equal(http.StatusForbidden))
	})

	It("follow a Role for one repository by its path, and its end within a minute", func(ctx context.Context) {
		team, app := owned(ctx)
		registry.prepare(ctx, team+"/web")
		registry.push(ctx, team+"/web", "v1")
		reader := account(ctx, team, "reader")
		Expect(admin.Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "pull-web"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{kubeauth.Group}, Resources: []string{kubeauth.Resource}, ResourceNames: []string{"web"}, Verbs: []string{"get"}},
		}})).To(Succeed())
		Expect(admin.Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "pull-web"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pull-web"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: team, Name: "reader"}},
		})).To(Succeed())
		token := tokenOf(ctx, reader, "tidelock")
		Expect(pull(ctx, token, team+"/web")).To(Equal(http.StatusOK))
		Expect(pull(ctx, token, app)).To(Equal(http.StatusForbidden))
		Expect(admin.Delete(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: "pull-web"}})).To(Succeed())
		Eventually(pull).WithArguments(token, team+"/web").WithContext(ctx).WithTimeout(longTimeout).Should(Equal(http.StatusForbidden))
	})

	It("are refused with a token for the API server, for somebody else, or of a ServiceAccount that is gone", func(ctx context.Context) {
		team, app := owned(ctx)
		reader := account(ctx, team, "reader")
		bind(ctx, team, "tidelock-view", reader)
		for _, audiences := range [][]string{nil, {"vault"}} {
			refused := send(ctx, tokenOf(ctx, reader, audiences...), http.MethodGet, "/v2/"+app+"/manifests/v1", nil)
			Expect(refused.Status).To(Equal(http.StatusUnauthorized))
			Expect(refused.Body).To(ContainSubstring("--audience tidelock"))
		}
		token := tokenOf(ctx, reader, "tidelock")
		Expect(admin.Delete(ctx, reader)).To(Succeed())
		// The API server itself believes in it for a moment longer.
		Eventually(pull).WithArguments(token, app).WithContext(ctx).WithTimeout(longTimeout).Should(Equal(http.StatusUnauthorized))
	})

	It("get tokens of the token endpoint with theirs as the password, as podman and docker do", func(ctx context.Context) {
		team, app := owned(ctx)
		reader := account(ctx, team, "reader")
		bind(ctx, team, "tidelock-view", reader)
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, registry.url+"/v2/auth?service=tidelock&scope=repository:"+app+":pull,push", nil)
		Expect(err).NotTo(HaveOccurred())
		request.SetBasicAuth("token", tokenOf(ctx, reader, "tidelock"))
		response, err := http.DefaultClient.Do(request)
		Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		var issued struct {
			Token string `json:"token"`
			Scope string `json:"scope"`
		}
		Expect(json.NewDecoder(response.Body).Decode(&issued)).To(Succeed())
		Expect(issued.Scope).To(Equal("repository:" + app + ":pull"))
		Expect(pull(ctx, issued.Token, app)).To(Equal(http.StatusOK))
		Expect(push(ctx, issued.Token, app, "latest", "other")).To(Equal(http.StatusUnauthorized))
	})

	It("cost one TokenReview and one SubjectAccessReview for 1,000 pulls", func(ctx context.Context) {
		team, app := owned(ctx)
		reader := account(ctx, team, "reader")
		bind(ctx, team, "tidelock-view", reader)
		token := tokenOf(ctx, reader, "tidelock")
		beforeTokens, beforeAccess := tokens.Load(), access.Load()
		done := make(chan error, 8)
		for range 8 {
			go func() {
				defer GinkgoRecover()
				for range 125 {
					Expect(pull(ctx, token, app)).To(Equal(http.StatusOK))
				}
				done <- nil
			}()
		}
		for range 8 {
			Eventually(done).WithContext(ctx).Should(Receive())
		}
		Expect(tokens.Load() - beforeTokens).To(Equal(int64(1)))
		Expect(access.Load() - beforeAccess).To(Equal(int64(1)))
	})

	It("have no right in an organization whose namespace was deleted and made anew under its name", func(ctx context.Context) {
		team, app := owned(ctx)
		removePolicy(ctx, newPolicy(team))
		removeNamespace(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team}})
		newNamespace(ctx, func(n *corev1.Namespace) { n.GenerateName, n.Name = "", team })
		thief := account(ctx, team, "thief")
		bind(ctx, team, "tidelock-view", thief)
		Expect(pull(ctx, tokenOf(ctx, thief, "tidelock"), app)).To(Equal(http.StatusForbidden))
	})
})
