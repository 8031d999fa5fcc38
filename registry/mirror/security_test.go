package mirror_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/mirror"
)

// listenAt starts a server at an address of this machine, over TLS if it has a scheme https.
func listenAt(address string, secure bool, handler http.Handler) *httptest.Server {
	GinkgoHelper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	Expect(err).NotTo(HaveOccurred())
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}} //nolint:gosec // a test
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	DeferCleanup(s.Close)
	return s
}

// trap is a server that nobody may reach, or that may not be told something.
type trap struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
	auth []string
}

func newTrap(address string, secure bool) *trap {
	GinkgoHelper()
	t := &trap{}
	t.Server = listenAt(address, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.seen = append(t.seen, r.Method+" "+r.URL.Path)
		t.auth = append(t.auth, r.Header.Get("Authorization")+r.Header.Get("Proxy-Authorization"))
		_, _ = fmt.Fprint(w, `{"token":"from-the-trap","repositories":[]}`)
	}))
	return t
}

func (t *trap) requests() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}

// certificate is a server's certificate in PEM.
func certificate(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

var _ = Describe("the way to an upstream", func() {
	reach := func(networks mirror.Networks, spec domain.MirrorSpec, with domain.MirrorSecrets) error {
		return mirror.New(mirror.Options{Networks: networks, RetryPause: time.Millisecond}).Verify(ctx, spec, with)
	}
	both := mirror.Networks{netip.MustParsePrefix("127.0.0.0/8")}

	It("does not lead to this machine, unless that is allowed", func() {
		t := newTrap("127.0.0.1", false)
		for _, kind := range []domain.UpstreamType{domain.UpstreamQuay, domain.UpstreamHarbor, domain.UpstreamOCI} {
			err := reach(nil, specOf(kind, t.URL), secrets)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeInvalid))
			Expect(err).To(MatchError(And(ContainSubstring("a loopback address, which mirrors may not reach"), ContainSubstring("--mirror-allow-networks"))))
		}
		By("by a name neither, and without saying what the name resolves to")
		_, port, err := net.SplitHostPort(t.Listener.Addr().String())
		Expect(err).NotTo(HaveOccurred())
		err = reach(nil, specOf(domain.UpstreamOCI, "http://ip6-localhost.example.com.invalid:"+port), secrets)
		Expect(err).To(HaveOccurred())
		Expect(t.requests()).To(BeEmpty())
	})

	// Whatever an upstream that may be reached says, it leads nowhere else.
	DescribeTable("does not lead on to where it may not", func(target, message string) {
		t := newTrap("127.0.0.2", false)
		if target == "" {
			target = t.URL
		}
		app := newImage(noise(100))
		say := map[string]func(w http.ResponseWriter, r *http.Request) bool{
			"a redirect of a list": func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, target+"/v2/_catalog", http.StatusFound)
				return true
			},
			"a redirect of a blob": func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/blobs/") {
					http.Redirect(w, r, target+"/blob", http.StatusTemporaryRedirect)
					return true
				}
				return false
			},
			"the next page": func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Link", "<"+target+`/v2/_catalog?last=a>; rel="next"`)
				_, _ = fmt.Fprint(w, `{"repositories":["upstream/a"]}`)
				return true
			},
			"the realm of tokens": func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+target+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			},
		}
		for what, answer := range say {
			By(what)
			up := newTidelock()
			up.push("app", app, "v1")
			up.answer(answer)
			d := newDownstream(only)
			sync := d.mirror(specOf(domain.UpstreamOCI, up.URL), domain.MirrorSecrets{Username: user, Password: password})
			Expect(sync.State).To(Equal(domain.SyncFailed), what)
			Expect(t.requests()).To(BeEmpty(), what)
			Expect(sync.Message+fmt.Sprint(sync.Failures)).NotTo(ContainSubstring(password), what)
		}
	},
		Entry("loopback", "", ""),
		Entry("link-local", "http://169.254.10.10", ""),
		Entry("metadata", "http://169.254.169.254/latest/meta-data", ""),
		Entry("metadata in IPv6", "http://[fd00:ec2::254]", ""),
		Entry("IPv4 in IPv6", "http://[::ffff:127.0.0.2]", ""),
	)

	It("leaves the credentials behind where a blob is somewhere else", func() {
		app := newImage(noise(100), noise(200))
		up := newTidelock()
		up.push("app", app, "v1")
		var elsewhere *httptest.Server
		var auth []string
		var mu sync.Mutex
		elsewhere = listenAt("127.0.0.2", false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			auth = append(auth, r.Header.Get("Authorization"))
			mu.Unlock()
			for _, content := range app.blobs {
				if strings.HasSuffix(r.URL.Path, describe("", content).Digest.Encoded()) {
					_, _ = w.Write(content)
					return
				}
			}
			http.NotFound(w, r)
		}))
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/blobs/") || r.Header.Get("Authorization") == "" {
				return false
			}
			http.Redirect(w, r, elsewhere.URL+"/signed/"+r.URL.Path[strings.LastIndex(r.URL.Path, ":")+1:], http.StatusTemporaryRedirect)
			return true
		})
		d := newDownstream(both)
		sync := d.mirror(specOf(domain.UpstreamQuay, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		d.has("app", "v1", app)
		Expect(auth).To(HaveLen(3))
		Expect(auth).To(HaveEach(""))
	})

	It("refuses lists from another host", func() {
		other := newTrap("127.0.0.2", false)
		for _, kind := range []domain.UpstreamType{domain.UpstreamQuay, domain.UpstreamHarbor, domain.UpstreamOCI} {
			up := newFront("")
			up.answer(func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, other.URL+r.URL.Path, http.StatusMovedPermanently)
				return true
			})
			Expect(reach(both, specOf(kind, up.URL), secrets)).To(MatchError(ContainSubstring("redirects to another host, 127.0.0.2:")))
		}
		Expect(other.requests()).To(BeEmpty())
	})

	It("takes no credentials to a realm that could be read on the way", func() {
		other := newTrap("127.0.0.2", false)
		challenge := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+other.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		By("from https to http, with or without credentials")
		secure := listenAt("127.0.0.1", true, challenge)
		spec := specOf(domain.UpstreamOCI, secure.URL)
		spec.Source.CABundle = certificate(secure)
		for _, with := range []domain.MirrorSecrets{secrets, {}} {
			Expect(reach(both, spec, with)).To(MatchError(ContainSubstring("by http, where everybody could read the credentials")))
		}
		By("to another host")
		plain := listenAt("127.0.0.1", false, challenge)
		Expect(reach(both, specOf(domain.UpstreamOCI, plain.URL), secrets)).To(MatchError(ContainSubstring("to another host, 127.0.0.2:")))
		Expect(other.requests()).To(BeEmpty())
	})

	It("gets tokens from another host by https, which may not redirect", func() {
		realm := newTrap("127.0.0.1", true)
		var got []string
		up := listenAt("127.0.0.1", true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if got = append(got, r.Header.Get("Authorization")); got[len(got)-1] != "Bearer from-the-trap" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm.URL+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = fmt.Fprint(w, `{"repositories":[]}`)
		}))
		spec := specOf(domain.UpstreamOCI, up.URL)
		spec.Source.CABundle = certificate(up)
		Expect(reach(both, spec, secrets)).To(Succeed())
		Expect(realm.auth).To(ConsistOf(HavePrefix("Basic ")))
		Expect(got).To(HaveExactElements("", "Bearer from-the-trap"), "the password itself never goes to the registry")
	})

	It("trusts what the mirror says of the upstream's certificate for the upstream alone", func() {
		up := listenAt("127.0.0.1", true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"repositories":[]}`) }))
		spec := specOf(domain.UpstreamQuay, up.URL)
		Expect(reach(both, spec, secrets)).To(MatchError(ContainSubstring("is not to be trusted")))
		spec.Source.InsecureSkipTLSVerify = true
		Expect(reach(both, spec, secrets)).To(Succeed())
		spec.Source.InsecureSkipTLSVerify, spec.Source.CABundle = false, certificate(up)
		Expect(reach(both, spec, secrets)).To(Succeed())

		By("not for a realm that cannot be verified")
		realm := newTrap("127.0.0.1", true)
		asks := listenAt("127.0.0.1", true, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		spec = specOf(domain.UpstreamOCI, asks.URL)
		spec.Source.InsecureSkipTLSVerify = true
		Expect(reach(both, spec, secrets)).NotTo(Succeed())
		Expect(realm.auth).To(BeEmpty())
	})

	Context("with a proxy", func() {
		var (
			mu       sync.Mutex
			proxied  []string
			proxy    *httptest.Server
			password = "proxy-password"
			with     = domain.MirrorSecrets{Username: user, Password: password, ProxyUsername: "p", ProxyPassword: "proxy-password"}
		)
		BeforeEach(func() {
			proxied = nil
			proxy = listenAt("127.0.0.1", false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				name, given, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
				mu.Lock()
				proxied = append(proxied, fmt.Sprintf("%s:%s %s", name, given, r.URL.Host))
				mu.Unlock()
				(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetXForwarded() }}).ServeHTTP(w, r)
			}))
		})
		It("goes through it, with its credentials, and around it where it should", func() {
			up := newFront("")
			up.answer(func(w http.ResponseWriter, _ *http.Request) bool {
				_, _ = fmt.Fprint(w, `{"repositories":[]}`)
				return true
			})
			host := strings.TrimPrefix(up.URL, "http://")
			// Loopback never goes through a proxy, so the upstream has another name, which the proxy alone resolves.
			spec := specOf(domain.UpstreamQuay, "http://registry.invalid")
			spec.Source.Proxy = domain.MirrorProxy{HTTP: proxy.URL}
			Expect(reach(only, spec, with)).NotTo(Succeed(), "it is for the proxy to resolve")
			Expect(proxied).NotTo(BeEmpty())
			Expect(proxied).To(HaveEach("p:proxy-password registry.invalid"))

			proxied = nil
			spec.Source.URL = "http://" + host
			spec.Source.Proxy.NoProxy = "127.0.0.1"
			Expect(reach(only, spec, with)).To(Succeed())
			Expect(proxied).To(BeEmpty())
			Expect(up.headers(".", "Proxy-Authorization")).To(HaveEach(""))
		})
		It("does not go through one that may not be reached, nor to addresses that nobody may reach", func() {
			t := newTrap("127.0.0.2", false)
			spec := specOf(domain.UpstreamQuay, "http://registry.example.com")
			spec.Source.Proxy = domain.MirrorProxy{HTTP: t.URL}
			Expect(reach(only, spec, secrets)).To(MatchError(ContainSubstring("a loopback address")))
			Expect(t.requests()).To(BeEmpty())
			spec.Source.URL, spec.Source.Proxy.HTTP = "http://169.254.169.254", proxy.URL
			Expect(reach(only, spec, secrets)).To(MatchError(ContainSubstring("a machine's credentials")))
			Expect(proxied).To(BeEmpty())
		})
	})

	It("honours Retry-After across mirrors", func() {
		up := newFront("")
		up.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		e := mirror.New(mirror.Options{Networks: only})
		for range 3 {
			Expect(e.Verify(ctx, specOf(domain.UpstreamQuay, up.URL), secrets)).To(MatchError(ContainSubstring("asks not to be asked for another 1h")))
		}
		Expect(up.seen(".")).To(HaveLen(1))
	})

	It("bounds what an upstream may send", func() {
		up := newFront("")
		up.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = fmt.Fprint(w, `{"repositories":[{"name":"`)
			for range 17 << 10 {
				_, _ = fmt.Fprint(w, strings.Repeat("a", 1024))
			}
			_, _ = fmt.Fprint(w, `"}]}`)
			return true
		})
		Expect(reach(only, specOf(domain.UpstreamQuay, up.URL), secrets)).To(MatchError(ContainSubstring("it has more than 16777216 bytes")))
	})

	DescribeTable("says what is wrong with credentials", func(kind domain.UpstreamType, with domain.MirrorSecrets, message string) {
		up := newTidelock()
		up.push("app", newImage(), "v1")
		err := reach(only, specOf(kind, up.URL), with)
		if message == "" {
			Expect(err).NotTo(HaveOccurred())
			return
		}
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeInvalid))
		Expect(err).To(MatchError(ContainSubstring(message)))
		Expect(err).NotTo(MatchError(ContainSubstring("geheim")))
	},
		Entry("right for Quay's API", domain.UpstreamQuay, secrets, ""),
		Entry("wrong for Quay's API", domain.UpstreamQuay, domain.MirrorSecrets{Username: user, Password: "geheim"}, "refused the credentials (401)"),
		Entry("right for OCI", domain.UpstreamOCI, secrets, ""),
		Entry("wrong for OCI", domain.UpstreamOCI, domain.MirrorSecrets{Username: user, Password: "geheim"}, "refused the credentials"),
		Entry("an upstream of another kind", domain.UpstreamHarbor, secrets, "does not have it (404)"),
	)
})

// harborServer answers as Harbor's specification of version 2.0 says, about what a registry of ours has.
func harborServer(up *upstream, links bool, repositories ...string) {
	up.answer(func(w http.ResponseWriter, r *http.Request) bool {
		path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v2.0/projects/"+there+"/repositories")
		if !ok {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		if name, password, _ := r.BasicAuth(); name != user || password != secrets.Password {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		page, size := 1, 10
		_, _ = fmt.Sscan(r.URL.Query().Get("page"), &page)
		_, _ = fmt.Sscan(r.URL.Query().Get("page_size"), &size)
		if size > 100 {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return true
		}
		var items []any
		if path == "" {
			for _, repository := range repositories {
				items = append(items, map[string]any{"name": there + "/" + repository, "artifact_count": 1})
			}
		} else {
			repository, ok := strings.CutSuffix(strings.TrimPrefix(path, "/"), "/artifacts")
			if !ok || strings.Contains(repository, "/") || strings.Contains(strings.ReplaceAll(repository, "%252F", ""), "%") {
				w.WriteHeader(http.StatusNotFound) // a slash must be escaped twice
				return true
			}
			items = harborArtifacts(up, strings.ReplaceAll(repository, "%252F", "/"))
		}
		from, to := min((page-1)*size, len(items)), min(page*size, len(items))
		w.Header().Set("X-Total-Count", fmt.Sprint(len(items)))
		if links {
			var list []string
			link := func(n int, rel string) {
				list = append(list, fmt.Sprintf(`<%s?page=%d&page_size=%d>; rel="%s"`, r.URL.Path, n, size, rel))
			}
			if page > 1 {
				link(page-1, "prev")
			}
			if to < len(items) {
				link(page+1, "next")
			}
			if len(list) > 0 {
				w.Header().Set("Link", strings.Join(list, " , "))
			}
		}
		Expect(json.NewEncoder(w).Encode(items[from:to])).To(Succeed())
		return true
	})
}

// harborArtifacts are the artifacts of a repository: what has a tag that is no signature's, with its signatures.
func harborArtifacts(up *upstream, repository string) (items []any) {
	_, body := up.call(http.MethodGet, "/api/v1/repository/"+there+"/"+repository+"/tag/?limit=100", "", nil)
	var list struct {
		Tags []struct {
			Name   string
			Digest string `json:"manifest_digest"`
		}
	}
	Expect(json.Unmarshal(body, &list)).To(Succeed())
	tags, signatures := map[string][]any{}, map[string]string{}
	for _, t := range list.Tags {
		if subject, ok := strings.CutSuffix(t.Name, ".sig"); ok {
			signatures[strings.Replace(subject, "-", ":", 1)] = t.Digest
		} else {
			tags[t.Digest] = append(tags[t.Digest], map[string]any{"name": t.Name})
		}
	}
	for d, names := range tags {
		item := map[string]any{"digest": d, "tags": names, "accessories": nil}
		if signature := signatures[d]; signature != "" {
			item["accessories"] = []any{map[string]any{"digest": signature, "type": "signature.cosign", "subject_artifact_digest": d}}
		}
		items = append(items, item)
	}
	return items
}

var _ = DescribeTableSubtree("a mirror of Harbor", func(links bool) {
	It("reads all pages, finds nested names and signatures, and asks for nothing else where nothing changed", func() {
		up := newTidelock()
		signed, signature := newImage(), newSignature()
		var repositories []string
		for n := range 3 {
			repositories = append(repositories, fmt.Sprintf("team/app-%d", n))
			up.push(repositories[n], newImage(), "v1", "v2")
		}
		up.push("team/app-2", signed, "signed")
		up.push("team/app-2", signature, signatureTag(signed))
		for n := range 247 { // names that have nothing
			repositories = append(repositories, fmt.Sprintf("empty-%03d", n))
		}
		harborServer(up, links, repositories...)
		d := newDownstream(only)
		spec := specOf(domain.UpstreamHarbor, up.URL)
		spec.Repositories.Exclude = []string{"empty-00?"}
		sync := d.mirror(spec, secrets)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message+fmt.Sprint(sync.Failures))
		Expect(sync.Repositories.Discovered).To(BeEquivalentTo(240))
		Expect(sync.Tags.Copied).To(BeEquivalentTo(8))
		d.has("team/app-2", "signed", signed)
		d.has("team/app-2", signatureTag(signed), signature)
		Expect(up.seen("/repositories[?]")).To(HaveLen(3))
		up.forget()
		sync = d.sync()
		Expect(sync.Tags).To(Equal(domain.MirrorCounts{Discovered: 8, Unchanged: 8}))
		Expect(up.seen("^HEAD|/manifests/|/blobs/")).To(BeEmpty())
	})
},
	Entry("with Link headers", true),
	Entry("without", false),
)
