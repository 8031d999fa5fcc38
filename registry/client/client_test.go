package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	token = "0123456789abcdef0123456789abcdef"
	// soon is how long the registry may take for what it does in the background.
	soon = 10 * time.Second
)

// registry is a real registry without its /v2, over TLS.
type registry struct {
	core      *core.Core
	server    *httptest.Server
	tokenFile string
	client    *client.Client
}

// open lets mirrors reach everything, and finds it well.
type open struct{}

func (open) CheckSource(context.Context, domain.MirrorSource) error { return nil }

func (open) Verify(context.Context, domain.MirrorSpec, domain.MirrorSecrets) error { return nil }

func newRegistry() *registry {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	logger := slog.New(slog.NewTextHandler(GinkgoWriter, nil))
	r := &registry{tokenFile: filepath.Join(dir, "token")}
	Expect(os.WriteFile(r.tokenFile, []byte(token+"\n"), 0o600)).To(Succeed())
	ctx, cancel := context.WithCancel(context.Background())
	store, err := sqlite.Open(ctx, filepath.Join(dir, "registry.db"), logger)
	Expect(err).NotTo(HaveOccurred())
	r.core = core.New(store, core.Options{Logger: logger, RequireSync: true})
	done := make(chan error, 1)
	go func() { done <- r.core.Run(ctx) }()
	authenticator, err := auth.New(auth.Options{OperatorTokenFile: r.tokenFile, Logger: logger})
	Expect(err).NotTo(HaveOccurred())
	mux := http.NewServeMux()
	mux.Handle(mgmtapi.Prefix, mgmtapi.New(mgmtapi.Options{Core: r.core, Authenticator: authenticator, Mirrors: open{}, Logger: logger}))
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, q *http.Request) {
		if r.core.Ready(q.Context()) != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r.server = httptest.NewUnstartedServer(mux)
	r.server.Config.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelInfo)
	r.server.StartTLS()
	r.client, err = client.New(client.Options{URL: r.server.URL, TokenFile: r.tokenFile, CA: ca(r.server), Timeout: soon})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		r.server.Close()
		cancel()
		Eventually(done).WithTimeout(soon).Should(Receive(BeNil()))
		Expect(store.Close()).To(Succeed())
	})
	return r
}

func ca(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func (r *registry) push(repository, tag, content string) (digest.Digest, error) {
	GinkgoHelper()
	name, err := domain.ParseRepositoryName(repository)
	Expect(err).NotTo(HaveOccurred())
	d := digest.FromString(content)
	_, err = r.core.PutManifest(context.Background(), domain.Caller{Name: "admin", Kind: domain.CallerUser}, name, core.Push{
		Reference: domain.Reference{Tag: tag},
		Manifest:  domain.Manifest{Digest: d, MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(content)), Content: []byte(content)},
		Create:    core.CreateOrganization,
	})
	return d, err
}

// policy is what an ImmutabilityPolicy of the namespace team-a declares.
func policy(change ...func(*openapi.ManagedPolicy)) openapi.ManagedPolicy {
	p := openapi.ManagedPolicy{
		Cluster: "cluster-1", UID: "uid-1", Generation: 1, Organization: "team-a", TagPattern: "v.*", TagPatternMatches: true,
		EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
		Claim: openapi.Claim{NamespaceUID: "namespace-1", Organizations: []string{"team-a"}},
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

// mirror is what an OrgMirror of the namespace team-a declares.
func mirror(change ...func(*openapi.ManagedMirror)) openapi.ManagedMirror {
	m := openapi.ManagedMirror{
		Cluster: "cluster-1", UID: "uid-1", Generation: 1, Organization: "team-a",
		Spec: openapi.MirrorSpec{
			Source:    openapi.MirrorSource{Type: domain.UpstreamHarbor, URL: "https://harbor.example.com", Namespace: "library"},
			Referrers: domain.ReferrersCopy, Schedule: openapi.MirrorSchedule{IntervalSeconds: 3600}, Visibility: domain.Private,
			OnConflict: domain.ConflictSkip, Prune: domain.PruneNever, TimeoutSeconds: 600, Concurrency: 4,
		},
		Claim: openapi.Claim{NamespaceUID: "namespace-1", Organizations: []string{"team-a"}},
	}
	for _, f := range change {
		f(&m)
	}
	return m
}

var _ = Describe("The client of a real registry", func() {
	var r *registry

	BeforeEach(func() { r = newRegistry() })

	It("brings a policy, follows its sweep and its entries, and withdraws it", func(ctx SpecContext) {
		Expect(r.client.Ready(ctx)).To(Succeed())

		_, err := r.push("team-a/app", "v1", "one")
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable), "nobody writes before the operator has synced")
		Expect(r.client.Synced(ctx, "cluster-1", nil)).To(Succeed())
		d, err := r.push("team-a/app", "v1", "one")
		Expect(err).NotTo(HaveOccurred())
		_, err = r.push("team-a/app", "latest", "one")
		Expect(err).NotTo(HaveOccurred())

		coverage, err := r.client.Preview(ctx, openapi.PreviewRequest{Organization: "team-a", TagPattern: "v.*", TagPatternMatches: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(coverage).To(Equal(openapi.Coverage{Total: 2, Covered: 1, Sample: []string{"app:v1"}}))
		coverage, err = r.client.Preview(ctx, openapi.PreviewRequest{Organization: "nobody", TagPattern: "v.*", TagPatternMatches: true})
		Expect(err).NotTo(HaveOccurred())
		Expect(coverage).To(Equal(openapi.Coverage{Sample: []string{}}))

		_, err = r.client.PolicyStatus(ctx, "team-a", "releases")
		Expect(client.IsNotFound(err)).To(BeTrue())
		before, err := r.client.Log(ctx, -1, client.MaxLogLimit, 0)
		Expect(err).NotTo(HaveOccurred())
		last := before.Entries[len(before.Entries)-1].Index

		put, err := r.client.PutPolicy(ctx, "team-a", "releases", policy(func(p *openapi.ManagedPolicy) {
			p.Applied, p.RevisionClaimed = &openapi.Applied{User: "bob", UserUID: "bob-uid", Generation: 1}, "main@sha1:1"
		}))
		Expect(err).NotTo(HaveOccurred())
		Expect(put.Policy.Revision).To(Equal(int64(1)))
		Expect(put.Policy.Manager).To(Equal(&openapi.Manager{Kind: "ImmutabilityPolicy", Namespace: "team-a", Name: "releases", UID: "uid-1"}))
		Eventually(func(g Gomega) {
			status, err := r.client.PolicyStatus(ctx, "team-a", "releases")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(status.Swept).To(BeTrue())
			g.Expect(status.Holds).To(Equal(int64(1)))
		}).WithTimeout(soon).Should(Succeed())

		again, err := r.client.PutPolicy(ctx, "team-a", "releases", policy())
		Expect(err).NotTo(HaveOccurred())
		Expect(again.Policy.UUID).To(Equal(put.Policy.UUID))
		Expect(again.Policy.Revision).To(Equal(int64(1)), "the same again changes nothing")

		segment, err := r.client.Log(ctx, last, client.MaxLogLimit, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(segment.Origin).To(Equal(before.Origin))
		found := map[string]openapi.LogEntry{}
		for i, entry := range segment.Entries {
			Expect(entry.Index).To(Equal(last + 1 + int64(i)))
			if entry.Policy != "" {
				Expect(entry.Manager).To(Equal(put.Policy.Manager))
			}
			found[entry.Kind] = entry
		}
		Expect(found["change_tag_immutability"].Tag).To(Equal("v1"))
		Expect(found["change_tag_immutability"].Metadata).To(HaveKeyWithValue("manifest_digest", d.String()))
		Expect(found["create_immutability_policy"].Metadata).To(And(HaveKeyWithValue("applied_by", "bob"), HaveKeyWithValue("applied_by_uid", "bob-uid"),
			HaveKeyWithValue("generation", 1.0), HaveKeyWithValue("revision_claimed", "main@sha1:1")))
		Expect(found["create_immutability_policy"].Performer).To(Equal(openapi.Performer{Kind: "operator", Name: "operator"}))

		about, err := r.client.PolicyLog(ctx, put.Policy.UUID, -1, 1)
		Expect(err).NotTo(HaveOccurred())
		Expect(about.Entries).To(Equal([]openapi.LogEntry{found["create_immutability_policy"]}))
		Expect(about.Size).To(Equal(segment.Entries[len(segment.Entries)-1].Index + 1))
		about, err = r.client.PolicyLog(ctx, put.Policy.UUID, about.Entries[0].Index, client.MaxLogLimit)
		Expect(err).NotTo(HaveOccurred())
		Expect(about.Entries).To(ContainElement(found["change_tag_immutability"]))
		for _, entry := range about.Entries {
			Expect(entry.Policy).To(Equal(put.Policy.UUID))
		}

		Expect(r.client.DeletePolicy(ctx, "team-a", "releases", "cluster-1", "another-uid", false)).To(Succeed(), "a no-op")
		status, err := r.client.PolicyStatus(ctx, "team-a", "releases")
		Expect(err).NotTo(HaveOccurred())
		Expect(status.Policy.DeleteAt).To(BeNil())
		intent := openapi.DeletionIntent{UID: "uid-1", User: "carol", UserUID: "carol-uid"}
		Expect(r.client.NoteDeletionIntent(ctx, "team-a", "releases", intent)).To(Succeed())
		Expect(r.client.NoteDeletionIntent(ctx, "team-a", "nothing", intent)).To(Succeed(), "a no-op")
		Expect(r.client.DeletePolicy(ctx, "team-a", "releases", "cluster-1", "uid-1", false)).To(Succeed())
		about, err = r.client.PolicyLog(ctx, put.Policy.UUID, about.Entries[len(about.Entries)-1].Index, client.MaxLogLimit)
		Expect(err).NotTo(HaveOccurred())
		Expect(about.Entries).To(ConsistOf(HaveField("Metadata", And(
			HaveKeyWithValue("applied_by", "carol"), HaveKeyWithValue("applied_by_uid", "carol-uid"), HaveKeyWithValue("revision_claimed", "main@sha1:1")))))
		status, err = r.client.PolicyStatus(ctx, "team-a", "releases")
		Expect(err).NotTo(HaveOccurred())
		Expect(status.Policy.DeleteAt).NotTo(BeNil())
		Expect(r.client.DeletePolicy(ctx, "team-a", "nothing", "cluster-1", "uid-1", false)).To(Succeed(), "a no-op")
	})

	It("brings a mirror, follows its syncs, and ends it", func(ctx SpecContext) {
		Expect(r.client.Synced(ctx, "cluster-1", nil)).To(Succeed())
		_, err := r.client.GetOrgMirror(ctx, "team-a", "upstream")
		Expect(client.IsNotFound(err)).To(BeTrue())
		put, err := r.client.PutOrgMirror(ctx, "team-a", "upstream", mirror())
		Expect(err).NotTo(HaveOccurred())
		Expect(put.Organization).To(Equal("team-a"))
		Expect(put.Manager).To(Equal(&openapi.Manager{Kind: "OrgMirror", Namespace: "team-a", Name: "upstream", UID: "uid-1"}))
		Expect(put.Sync).To(BeNil())
		again, err := r.client.PutOrgMirror(ctx, "team-a", "upstream", mirror())
		Expect(err).NotTo(HaveOccurred())
		Expect(again.UUID).To(Equal(put.UUID), "the same again changes nothing")

		requested, err := r.client.PutOrgMirror(ctx, "team-a", "upstream", mirror(func(m *openapi.ManagedMirror) { m.RequestedAt = "now" }))
		Expect(err).NotTo(HaveOccurred())
		Expect(requested.Requested).To(BeTrue())
		claim, _, err := r.core.ClaimMirrorSync(ctx, "replica-1")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.core.FinishMirrorSync(ctx, claim, domain.SyncFailed, "the upstream is away", domain.MirrorFailure{Reason: "the upstream is away"})).To(Succeed())
		status, err := r.client.GetOrgMirror(ctx, "team-a", "upstream")
		Expect(err).NotTo(HaveOccurred())
		Expect(status.Failures).To(Equal(int64(1)))
		Expect(status.RequestedAt).To(Equal("now"))
		Expect(status.Sync.State).To(Equal(domain.SyncFailed))
		Expect(status.Sync.Message).To(Equal("the upstream is away"))
		Expect(status.Sync.Failures).To(Equal([]openapi.MirrorFailure{{Reason: "the upstream is away"}}))

		_, err = r.client.PutOrgMirror(ctx, "team-a", "upstream", mirror(func(m *openapi.ManagedMirror) { m.Generation, m.Spec.Schedule.IntervalSeconds = 2, 1 }))
		Expect(client.IsInvalid(err)).To(BeTrue(), "%v", err)
		_, err = r.client.PutOrgMirror(ctx, "team-b", "upstream", mirror(func(m *openapi.ManagedMirror) {
			m.UID, m.Claim = "uid-2", openapi.Claim{NamespaceUID: "namespace-2", Organizations: []string{"*"}}
		}))
		Expect(client.IsNotOwned(err)).To(BeTrue(), "%v", err)

		intent := openapi.DeletionIntent{UID: "uid-1", User: "carol"}
		Expect(r.client.NoteOrgMirrorDeletionIntent(ctx, "team-a", "upstream", intent)).To(Succeed())
		Expect(r.client.NoteOrgMirrorDeletionIntent(ctx, "team-a", "nothing", intent)).To(Succeed(), "a no-op")
		Expect(r.client.DeleteOrgMirror(ctx, "team-a", "upstream", "cluster-1", "another-uid")).To(Succeed(), "a no-op")
		_, err = r.client.GetOrgMirror(ctx, "team-a", "upstream")
		Expect(err).NotTo(HaveOccurred())
		Expect(r.client.DeleteOrgMirror(ctx, "team-a", "upstream", "cluster-1", "uid-1")).To(Succeed())
		_, err = r.client.GetOrgMirror(ctx, "team-a", "upstream")
		Expect(client.IsNotFound(err)).To(BeTrue())
	})

	It("classifies refusals", func(ctx SpecContext) {
		put := func(change ...func(*openapi.ManagedPolicy)) error {
			_, err := r.client.PutPolicy(ctx, "team-a", "releases", policy(change...))
			return err
		}
		Expect(put(func(p *openapi.ManagedPolicy) { p.Generation = 3 })).To(Succeed())

		err := put(func(p *openapi.ManagedPolicy) { p.Generation = 2 })
		Expect(client.IsStale(err)).To(BeTrue(), "%v", err)
		Expect(client.IsTransient(err)).To(BeFalse())

		err = put(func(p *openapi.ManagedPolicy) { p.Cluster, p.Generation = "cluster-2", 4 })
		Expect(client.IsOtherCluster(err)).To(BeTrue(), "%v", err)
		Expect(client.IsTransient(err)).To(BeFalse())

		err = put(func(p *openapi.ManagedPolicy) { p.TagPattern, p.Generation = "v(", 4 })
		Expect(client.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(client.IsTransient(err)).To(BeFalse())
		Expect(err).To(MatchError(ContainSubstring("registry answered INVALID: Invalid regex pattern: ")))

		err = put(func(p *openapi.ManagedPolicy) { p.Applied = &openapi.Applied{Generation: 4} })
		Expect(client.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("applied.user")))

		err = put(func(p *openapi.ManagedPolicy) { p.Organization = "Team" })
		Expect(client.IsInvalid(err)).To(BeTrue(), "%v", err)

		_, err = r.client.PutPolicy(ctx, "team-b", "releases", policy(func(p *openapi.ManagedPolicy) {
			p.UID, p.Claim = "uid-2", openapi.Claim{NamespaceUID: "namespace-2", Organizations: []string{"team-a"}}
		}))
		Expect(client.IsNotOwned(err)).To(BeTrue(), "%v", err)
		Expect(client.IsTransient(err)).To(BeFalse())
		var refused *client.Error
		Expect(errors.As(err, &refused)).To(BeTrue())
		Expect(refused.Status).To(Equal(http.StatusConflict))
		Expect(refused.Owner).To(Equal(&domain.Owner{Namespace: "team-a", UID: "namespace-1"}))
	})

	It("waits for the log, and gets an entry as soon as it is there", func(ctx SpecContext) {
		Expect(r.client.Synced(ctx, "cluster-1", nil)).To(Succeed())
		_, err := r.push("team-a/app", "v1", "one")
		Expect(err).NotTo(HaveOccurred())
		segment, err := r.client.Log(ctx, -1, client.MaxLogLimit, 0)
		Expect(err).NotTo(HaveOccurred())
		last := segment.Entries[len(segment.Entries)-1].Index

		empty, err := r.client.Log(ctx, last, 1, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(empty.Entries).To(BeEmpty())

		type result struct {
			segment openapi.LogSegment
			err     error
		}
		answered := make(chan result, 1)
		go func() {
			segment, err := r.client.Log(ctx, last, 1, client.MaxLogWait)
			answered <- result{segment, err}
		}()
		Consistently(answered).WithTimeout(200 * time.Millisecond).ShouldNot(Receive())
		_, err = r.push("team-a/app", "v2", "one")
		Expect(err).NotTo(HaveOccurred())
		var got result
		Eventually(answered).WithTimeout(soon).Should(Receive(&got))
		Expect(got.err).NotTo(HaveOccurred())
		Expect(got.segment.Entries).To(HaveLen(1))
		Expect(got.segment.Entries[0].Index).To(Equal(last + 1))
		Expect(got.segment.Entries[0].Tag).To(Equal("v2"))
	})

	It("stops to wait when its context ends", func(ctx SpecContext) {
		waiting, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			_, err := r.client.Log(waiting, 1_000_000, 1, client.MaxLogWait)
			done <- err
		}()
		Consistently(done).WithTimeout(200 * time.Millisecond).ShouldNot(Receive())
		cancel()
		var err error
		Eventually(done).WithTimeout(soon).Should(Receive(&err))
		Expect(err).To(MatchError(context.Canceled))
	})

	It("moves a cursor by compare-and-set", func(ctx SpecContext) {
		Expect(r.client.LogCursor(ctx, "events")).To(Equal(int64(0)))
		Expect(r.client.MoveLogCursor(ctx, "events", 0, 500)).To(Succeed())
		err := r.client.MoveLogCursor(ctx, "events", 0, 300)
		Expect(client.IsStale(err)).To(BeTrue(), "%v", err)
		Expect(r.client.LogCursor(ctx, "events")).To(Equal(int64(500)))
		Expect(r.client.LogCursor(ctx, "another")).To(Equal(int64(0)))
	})

	It("sends its token, also after it was changed", func(ctx SpecContext) {
		changed := strings.Repeat("n", auth.MinToken)
		wrong, err := client.New(client.Options{URL: r.server.URL, CA: ca(r.server), Token: func() (string, error) { return changed, nil }})
		Expect(err).NotTo(HaveOccurred())
		_, err = wrong.LogCursor(ctx, "events")
		var refused *client.Error
		Expect(errors.As(err, &refused)).To(BeTrue())
		Expect(refused.Status).To(Equal(http.StatusUnauthorized))
		Expect(client.IsTransient(err)).To(BeTrue())
		Expect(err.Error()).NotTo(ContainSubstring(changed))

		Expect(os.WriteFile(r.tokenFile, []byte(changed), 0o600)).To(Succeed())
		_, err = wrong.LogCursor(ctx, "events")
		Expect(err).NotTo(HaveOccurred())
		_, err = r.client.LogCursor(ctx, "events")
		Expect(err).NotTo(HaveOccurred())
	})

	It("takes a TLS configuration", func(ctx SpecContext) {
		pool := x509.NewCertPool()
		pool.AddCert(r.server.Certificate())
		c, err := client.New(client.Options{URL: r.server.URL, TokenFile: r.tokenFile, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}})
		Expect(err).NotTo(HaveOccurred())
		Expect(c.Ready(ctx)).To(Succeed())
	})

	It("trusts only the CA that it was given", func(ctx SpecContext) {
		c, err := client.New(client.Options{URL: r.server.URL, TokenFile: r.tokenFile})
		Expect(err).NotTo(HaveOccurred())
		err = c.Ready(ctx)
		Expect(err).To(MatchError(ContainSubstring("certificate")))
		Expect(client.IsTransient(err)).To(BeTrue())
	})
})

var _ = Describe("The client of something else", func() {
	newClient := func(handler http.HandlerFunc, timeout time.Duration) *client.Client {
		GinkgoHelper()
		server := httptest.NewServer(handler)
		DeferCleanup(server.Close)
		c, err := client.New(client.Options{URL: server.URL, Token: func() (string, error) { return token, nil }, Timeout: timeout})
		Expect(err).NotTo(HaveOccurred())
		return c
	}

	DescribeTable("classifies",
		func(ctx SpecContext, status int, body string, transient, notFound, invalid bool, message string) {
			c := newClient(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}, soon)
			_, err := c.PolicyStatus(ctx, "a", "b")
			Expect(err).To(MatchError(message))
			Expect(client.IsTransient(err)).To(Equal(transient))
			Expect(client.IsNotFound(err)).To(Equal(notFound))
			Expect(client.IsInvalid(err)).To(Equal(invalid))
			var answered *client.Error
			Expect(errors.As(err, &answered)).To(BeTrue())
			Expect(answered.RetryAfter).To(Equal(7 * time.Second))
		},
		Entry("a proxy's 404", 404, "<html>", true, false, false, "registry answered 404: Not Found"),
		Entry("a proxy's 502", 502, "", true, false, false, "registry answered 502: Bad Gateway"),
		Entry("a proxy's 400", 400, `{"detail": "no"}`, true, false, false, "registry answered 400: Bad Request"),
		Entry("the registry's 404", 404, `{"code": "NOT_FOUND", "detail": "not here"}`, false, true, false, "registry answered NOT_FOUND: not here"),
		Entry("the registry's 400", 400, `{"code": "INVALID", "detail": "bad"}`, false, false, true, "registry answered INVALID: bad"),
		Entry("the registry's 413", 413, `{"code": "TOO_LARGE", "detail": "big"}`, false, false, true, "registry answered TOO_LARGE: big"),
		Entry("the registry's 503", 503, `{"code": "UNAVAILABLE", "detail": "later"}`, true, false, false, "registry answered UNAVAILABLE: later"),
		Entry("the registry's 429", 429, `{"code": "TOOMANYREQUESTS", "detail": "slower"}`, true, false, false, "registry answered TOOMANYREQUESTS: slower"),
		Entry("the registry's 409", 409, `{"code": "CONFLICT", "detail": "taken"}`, false, false, false, "registry answered CONFLICT: taken"),
	)

	It("follows no redirect, which would carry the token away", func(ctx SpecContext) {
		var reached atomic.Bool
		elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
		defer elsewhere.Close()
		c := newClient(func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, elsewhere.URL, http.StatusTemporaryRedirect)
		}, soon)
		Expect(c.Synced(ctx, "c", nil)).To(MatchError("registry answered 307: Temporary Redirect"))
		Expect(reached.Load()).To(BeFalse())
	})

	It("gives up in time", func(ctx SpecContext) {
		release := make(chan struct{})
		c := newClient(func(_ http.ResponseWriter, q *http.Request) {
			select {
			case <-release:
			case <-q.Context().Done():
			}
		}, 50*time.Millisecond)
		defer close(release)
		err := c.Ready(ctx)
		Expect(err).To(MatchError(context.DeadlineExceeded))
		Expect(client.IsTransient(err)).To(BeTrue())
	})

	It("takes no answer that it cannot read", func(ctx SpecContext) {
		c := newClient(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, soon)
		_, err := c.LogCursor(ctx, "events")
		Expect(err).To(MatchError(ContainSubstring("reading the registry's answer to GET /api/v1/operator/cursors/events")))
		Expect(client.IsTransient(err)).To(BeTrue())
	})

	It("escapes names", func(ctx SpecContext) {
		paths := make(chan string, 1)
		c := newClient(func(w http.ResponseWriter, q *http.Request) {
			paths <- q.URL.EscapedPath()
			_, _ = io.WriteString(w, "{}")
		}, soon)
		_, err := c.PolicyStatus(ctx, "..", "a/b?c")
		Expect(err).NotTo(HaveOccurred())
		Expect(<-paths).To(Equal("/api/v1/operator/immutabilitypolicies/../a%2Fb%3Fc"))
	})

	It("keeps the path of the registry's address", func(ctx SpecContext) {
		var path string
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { path = q.URL.Path }))
		defer server.Close()
		for _, address := range []string{server.URL + "/registry", server.URL + "/registry/"} {
			c, err := client.New(client.Options{URL: address, Token: func() (string, error) { return token, nil }})
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Ready(ctx)).To(Succeed())
			Expect(path).To(Equal("/registry/readyz"))
		}
	})

	It("reports a token that cannot be read, without calling", func(ctx SpecContext) {
		c, err := client.New(client.Options{URL: "http://127.0.0.1:1", Token: func() (string, error) { return "", fmt.Errorf("no token") }})
		Expect(err).NotTo(HaveOccurred())
		err = c.Ready(ctx)
		Expect(err).To(MatchError("reading the operator's token: no token"))
		Expect(client.IsTransient(err)).To(BeTrue())
	})

	DescribeTable("is not made from",
		func(options client.Options) {
			_, err := client.New(options)
			Expect(err).To(HaveOccurred())
		},
		Entry("no address", client.Options{TokenFile: "token"}),
		Entry("an address without a scheme", client.Options{URL: "registry:5000", TokenFile: "token"}),
		Entry("an address of another scheme", client.Options{URL: "ftp://registry", TokenFile: "token"}),
		Entry("no token", client.Options{URL: "http://registry"}),
		Entry("two tokens", client.Options{URL: "http://registry", TokenFile: "token", Token: func() (string, error) { return "", nil }}),
		Entry("a CA and a TLS configuration", client.Options{URL: "https://registry", TokenFile: "token", CA: []byte("x"), TLS: &tls.Config{}}),
		Entry("a CA that is none", client.Options{URL: "http://registry", TokenFile: "token", CA: []byte("rubbish")}),
	)
})
