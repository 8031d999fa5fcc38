package mirror_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// The requests that upstreams are counted by.
const (
	manifestGets = `^GET /v2/.*/manifests/`
	heads        = `^HEAD /v2/.*/manifests/`
	blobGets     = `^GET /v2/.*/blobs/`
	referrerGets = `^GET /v2/.*/referrers/`
)

var _ = DescribeTableSubtree("a mirror of Tidelock", func(kind domain.UpstreamType) {
	var (
		up *upstream
		d  *downstream
	)
	BeforeEach(func() {
		up = newTidelock()
		d = newDownstream(only)
	})

	It("copies everything byte for byte, and costs next to nothing when nothing has changed", func() {
		shared := noise(5 << 20)
		amd64, arm64 := newImage(shared), newImage(shared, noise(100))
		app, index := newImage(shared, noise(3000)), newIndex(amd64, arm64)
		sbom, signature, childSignature := newReferrer(app), newSignature(), newSignature()
		onSBOM := newReferrer(sbom)
		up.push("app", app, "v1", "latest")
		up.push("app", sbom)
		up.push("app", onSBOM)
		up.push("app", signature, signatureTag(app))
		up.push("team/multi", index, "v1")
		up.push("team/multi", childSignature, signatureTag(arm64))
		up.push("other/deep/name", newImage(shared), "v2")

		first := d.mirror(specOf(kind, up.URL), secrets)
		Expect(first.State).To(Equal(domain.SyncSucceeded), first.Message)
		Expect(first.Failures).To(BeEmpty())
		d.has("app", "v1", app)
		d.has("app", "latest", app)
		d.has("app", sbom.digest().String(), sbom)
		d.has("app", onSBOM.digest().String(), onSBOM)
		d.has("app", signatureTag(app), signature)
		d.has("team/multi", "v1", index)
		d.has("team/multi", signatureTag(arm64), childSignature)
		Expect(first.Repositories).To(Equal(domain.MirrorCounts{Discovered: 3, Copied: 3}))
		Expect(first.Tags).To(Equal(domain.MirrorCounts{Discovered: 6, Copied: 6}))
		Expect(up.seen(blobGets+".*"+digest.FromBytes(shared).Encoded())).To(HaveLen(1), "each blob is fetched once")
		Expect(first.BytesCopied).To(BeNumerically("~", 5<<20, 20000))
		Expect(first.BytesSaved).To(BeNumerically(">", 3*5<<20))

		up.forget()
		second := d.sync()
		Expect(second.State).To(Equal(domain.SyncSucceeded), second.Message)
		Expect(second.Tags).To(Equal(domain.MirrorCounts{Discovered: 6, Unchanged: 6}))
		Expect(second.Repositories).To(Equal(domain.MirrorCounts{Discovered: 3, Unchanged: 3}))
		Expect(second.BytesCopied).To(BeZero())
		Expect(up.seen(manifestGets)).To(BeEmpty())
		Expect(up.seen(blobGets)).To(BeEmpty())
		Expect(len(up.seen(referrerGets))).To(BeNumerically("<=", 4), "one for each tag that is no signature")
		if kind == domain.UpstreamQuay {
			Expect(up.seen(heads)).To(BeEmpty())
			Expect(up.seen(`^GET /api/v1/repository\?`)).To(HaveLen(2), "the password as Quay takes it, then as we do")
			Expect(up.seen(`^GET /api/v1/repository/.*/tag/`)).To(HaveLen(3))
		} else {
			Expect(up.seen(heads)).To(HaveLen(6))
		}

		By("asking for no referrers where they are not wanted")
		spec := specOf(kind, up.URL)
		spec.Referrers = domain.ReferrersIgnore
		_, err := d.UpdateMirror(ctx, alice, here, spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		up.forget()
		third := d.sync()
		Expect(third.Tags).To(Equal(domain.MirrorCounts{Discovered: 4, Unchanged: 4}))
		Expect(up.seen(referrerGets)).To(BeEmpty())
	})

	It("copies what changed and nothing else", func() {
		shared := noise(100_000)
		for n := range 5 {
			up.push("app", newImage(shared), fmt.Sprint("v", n))
		}
		d.mirror(specOf(kind, up.URL), secrets)
		moved, added := newImage(shared, noise(700)), newImage(shared)
		up.push("app", moved, "v3")
		up.push("app", added, "v9")
		attached := newReferrer(added)
		up.push("app", attached)
		up.forget()
		sync := d.sync()
		Expect(sync.Tags).To(Equal(domain.MirrorCounts{Discovered: 6, Copied: 2, Unchanged: 4}))
		d.has("app", "v3", moved)
		d.has("app", "v9", added)
		d.has("app", attached.digest().String(), attached)
		Expect(up.seen(manifestGets)).To(HaveLen(3))
		Expect(len(up.seen(blobGets))).To(Equal(2+1+1+1), "two configs, the new layer, and what the referrer has")

		By("noticing a signature of what did not change")
		signature, sbom := newSignature(), newReferrer(moved)
		up.push("app", signature, signatureTag(moved))
		up.push("app", sbom)
		sync = d.sync()
		Expect(sync.State).To(Equal(domain.SyncSucceeded))
		d.has("app", signatureTag(moved), signature)
		d.has("app", sbom.digest().String(), sbom)
	})

	It("copies selected repositories, tags and platforms", func() {
		amd64, arm64 := newImage(), newImage()
		index := newIndex(amd64, arm64)
		up.push("team/app", index, "v1.0.0", "v1.1.0", "v2.0.0", "nightly")
		up.push("team/app", newSignature(), signatureTag(index))
		up.push("team/old", newImage(), "v1.0.0")
		up.push("other", newImage(), "v1.0.0")
		spec := specOf(kind, up.URL)
		spec.Repositories = domain.RepositoryFilter{Include: []string{"team/*"}, Exclude: []string{"*/old"}}
		spec.Tags = domain.TagFilter{Include: []domain.TagMatch{{Semver: ">=1"}}, Newest: 2}
		spec.Platforms = []string{"linux/amd64"}
		sync := d.mirror(spec, secrets)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(sync.Repositories.Discovered).To(BeEquivalentTo(1))
		Expect(d.Tags(ctx, name("team/app"), "", 100)).To(ConsistOf("v1.1.0", "v2.0.0", signatureTag(index)))
		Expect(d.content("team/app", "v2.0.0")).To(Equal(index.manifest), "the index stays byte for byte")
		d.has("team/app", amd64.digest().String(), amd64)
		Expect(d.content("team/app", arm64.digest().String())).To(BeNil())

		By("adding a platform to what is here")
		spec.Platforms = nil
		_, err := d.UpdateMirror(ctx, alice, here, spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		Expect(d.sync().State).To(Equal(domain.SyncSucceeded))
		d.has("team/app", arm64.digest().String(), arm64)
	})

	It("goes on by range where a download broke off", func() {
		layer := noise(6 << 20)
		app := newImage(layer)
		up.push("app", app, "v1")
		broken := 0
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.FromBytes(layer).String()) || broken == 3 {
				return false
			}
			broken++
			from := 0
			if r.Header.Get("Range") != "" {
				_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				Expect(err).NotTo(HaveOccurred())
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(layer)-1, len(layer)))
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(layer)-from))
			if from > 0 {
				w.WriteHeader(http.StatusPartialContent)
			}
			_, _ = w.Write(layer[from : from+1<<20])
			panic(http.ErrAbortHandler)
		})
		sync := d.mirror(specOf(kind, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		d.has("app", "v1", app)
		Expect(up.headers(blobGets+".*"+digest.FromBytes(layer).Encoded(), "Range")).To(Equal([]string{"", "bytes=1048576-", "bytes=2097152-", "bytes=3145728-"}))
		Expect(sync.BytesCopied).To(BeNumerically("~", 6<<20, 1000), "nothing is fetched twice")
	})

	DescribeTable("refuses what is not what its digest says", func(change func(layer []byte) []byte, why string) {
		layer := noise(2000)
		app, good := newImage(layer), newImage()
		up.push("app", app, "bad")
		up.push("app", good, "good")
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.FromBytes(layer).String()) {
				return false
			}
			_, _ = w.Write(change(layer))
			return true
		})
		sync := d.mirror(specOf(kind, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncFailed))
		Expect(sync.Tags).To(Equal(domain.MirrorCounts{Discovered: 2, Copied: 1, Failed: 1}))
		Expect(sync.Failures).To(HaveLen(1))
		Expect(sync.Failures[0]).To(And(HaveField("Repository", "app"), HaveField("Tag", "bad"), HaveField("Reason", ContainSubstring(why))))
		Expect(d.content("app", "bad")).To(BeNil())
		_, err := d.Blob(ctx, name("app"), digest.FromBytes(layer))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeBlobUnknown))
		d.has("app", "good", good)
	},
		Entry("other bytes", func(layer []byte) []byte { return append(noise(1), layer[1:]...) }, "do not have this digest"),
		Entry("more bytes", func(layer []byte) []byte { return append(layer, noise(10)...) }, "more than the 2000 bytes"),
	)

	It("reports a locked tag that differs, overwrites nothing, and leaves evidence", func() {
		before, after := newImage(), newImage()
		up.push("app", before, "v1")
		up.push("app", newImage(), "v2")
		Expect(d.mirror(specOf(kind, up.URL), secrets).State).To(Equal(domain.SyncSucceeded))
		_, err := d.CreatePolicy(ctx, alice, core.Scope{Organization: here}, domain.PolicySpec{TagPattern: "v1", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})
		Expect(err).NotTo(HaveOccurred())
		up.push("app", after, "v1")
		up.push("app", newImage(), "v3")
		up.forget()
		sync := d.sync()
		Expect(sync.State).To(Equal(domain.SyncSucceeded), "onConflict is Skip")
		Expect(sync.Tags).To(Equal(domain.MirrorCounts{Discovered: 3, Copied: 1, Unchanged: 1, Conflicts: 1}))
		Expect(sync.Conflicts).To(HaveLen(1))
		Expect(sync.Conflicts[0]).To(And(HaveField("Repository", "app"), HaveField("Tag", "v1"), HaveField("Upstream", after.digest()), HaveField("Standing", before.digest()),
			HaveField("Reason", ContainSubstring("locked by namespace policy"))))
		d.has("app", "v1", before)
		for _, content := range after.blobs {
			Expect(up.seen(digest.FromBytes(content).Encoded())).To(BeEmpty(), "nothing is fetched for what is refused")
		}
		Eventually(func() ([]string, error) { return d.entries("push_repo_failed") }).Should(ContainElement(And(ContainSubstring(`"tag":"v1"`), ContainSubstring(`"trigger":"mirror"`))))

		By("failing the sync, but nothing else, where the mirror says so")
		spec := specOf(kind, up.URL)
		spec.OnConflict = domain.ConflictFail
		_, err = d.UpdateMirror(ctx, alice, here, spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		up.push("app", newImage(), "v4")
		sync = d.sync()
		Expect(sync.State).To(Equal(domain.SyncFailed))
		Expect(sync.Tags).To(Equal(domain.MirrorCounts{Discovered: 4, Copied: 1, Unchanged: 2, Conflicts: 1}))
	})

	It("deletes what vanished where it made it, and nothing that is locked", func() {
		locked, kept := newImage(), newImage()
		up.push("app", newImage(), "gone", "stays")
		up.push("app", locked, "locked")
		up.push("app", newSignature(), signatureTag(locked))
		up.push("app", kept, "filtered")
		spec := specOf(kind, up.URL)
		Expect(d.mirror(spec, secrets).State).To(Equal(domain.SyncSucceeded))
		_, err := d.CreatePolicy(ctx, alice, core.Scope{Organization: here}, domain.PolicySpec{TagPattern: "locked", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})
		Expect(err).NotTo(HaveOccurred())
		for _, tag := range []string{"gone", "locked", signatureTag(locked)} {
			up.remove("app", tag)
		}
		Expect(d.sync().Tags.Pruned).To(BeZero(), "by default nothing is deleted")
		spec.Prune = domain.PruneVanished
		spec.Tags.Exclude = []domain.TagMatch{{Glob: "filtered"}}
		_, err = d.UpdateMirror(ctx, alice, here, spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		sync := d.sync()
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(sync.Tags.Pruned).To(BeEquivalentTo(1))
		Expect(d.Tags(ctx, name("app"), "", 10)).To(ConsistOf("stays", "locked", "filtered", signatureTag(locked)))
		Expect(d.entries("delete_tag_failed")).To(BeEmpty())
		Expect(d.entries("delete_tag")).To(ConsistOf(And(ContainSubstring(`"tag":"gone"`), ContainSubstring(`"trigger":"mirror"`))))
	})

	It("goes on when a repository is broken, and says which", func() {
		good, bad := newImage(), newImage()
		up.push("good", good, "v1")
		up.push("bad", bad, "v1")
		up.push("worse", newImage(), "v1")
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			broken := strings.Contains(r.URL.Path, "/bad/manifests/") || strings.Contains(r.URL.Path, "/worse/tag")
			if broken {
				http.Error(w, `{"errors":[{"message":"`+password+`"}]}`, http.StatusTeapot)
			}
			return broken
		})
		sync := d.mirror(specOf(kind, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncFailed))
		Expect(sync.Repositories).To(Equal(domain.MirrorCounts{Discovered: 3, Copied: 1, Failed: 2}))
		Expect(sync.Failures).To(ConsistOf(
			And(HaveField("Repository", "bad"), HaveField("Tag", "v1"), HaveField("Reason", ContainSubstring("the upstream answered 418"))),
			And(HaveField("Repository", "worse"), HaveField("Tag", ""), HaveField("Reason", ContainSubstring("the upstream answered 418")))))
		d.has("good", "v1", good)
		m, err := d.Mirror(ctx, here)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.LastSuccess).To(BeZero())
		Expect(m.Failures).To(Equal(1))

		By("being whole as soon as they are")
		up.answer(nil)
		Expect(d.sync().State).To(Equal(domain.SyncSucceeded))
		d.has("bad", "v1", bad)
	})

	It("leaves repositories that vanished alone, until they are back", func() {
		up.push("one", newImage(), "v1")
		up.push("two", newImage(), "v1")
		Expect(d.mirror(specOf(kind, up.URL), secrets).State).To(Equal(domain.SyncSucceeded))
		response, _ := up.call(http.MethodDelete, "/api/v1/repository/"+there+"/two", "", nil)
		Expect(response.StatusCode).To(Equal(http.StatusNoContent))
		up.forget()
		sync := d.sync()
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(sync.Repositories.Discovered).To(BeEquivalentTo(1))
		Expect(up.seen(there + "/two")).To(BeEmpty())
		list, _, err := d.MirrorRepositories(ctx, here, core.MirrorRepositoriesQuery{States: []domain.SyncState{domain.SyncSkipped}, Limit: 10})
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(ConsistOf(HaveField("Name", "two")))
		Expect(d.content("two", "v1")).NotTo(BeNil(), "its content stays")
		up.push("two", newImage(), "v2")
		Expect(d.sync().State).To(Equal(domain.SyncSucceeded))
		Expect(d.content("two", "v2")).NotTo(BeNil())
	})

	It("skips a tag that vanishes meanwhile", func() {
		up.push("app", newImage(), "v1", "v2")
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tags/list") || strings.Contains(r.URL.Path, "/tag/") {
				return false
			}
			if strings.HasSuffix(r.URL.Path, "/manifests/v1") || strings.Contains(r.URL.Path, "/manifests/sha256:") {
				http.NotFound(w, r)
				return true
			}
			return false
		})
		sync := d.mirror(specOf(kind, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(sync.Tags.Skipped).To(BeNumerically(">=", 1))
	})

	It("links what is public or the organization's own, and fetches everything else", func() {
		mine, open, secret := noise(1000), noise(1000), noise(1000)
		for org, layer := range map[string][]byte{"public": open, "victim": secret} {
			_, err := d.CreateOrganization(ctx, alice, org)
			Expect(err).NotTo(HaveOccurred())
			visibility := domain.Private
			if org == "public" {
				visibility = domain.Public
			}
			at := domain.RepositoryName{Organization: org, Path: "app"}
			Expect(d.CreateRepository(ctx, alice, at, core.NewRepository{Visibility: visibility})).To(Succeed())
			d.store(at, layer)
		}
		app := newImage(mine, open, secret)
		up.push("app", app, "v1")
		up.push("app2", newImage(mine), "v1")
		sync := d.mirror(specOf(kind, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(up.seen(blobGets + ".*" + digest.FromBytes(mine).Encoded())).To(HaveLen(1))
		Expect(up.seen(blobGets + ".*" + digest.FromBytes(open).Encoded())).To(BeEmpty())
		Expect(up.seen(blobGets+".*"+digest.FromBytes(secret).Encoded())).To(HaveLen(1), "who has the bytes may have the digest")
		d.has("app", "v1", app)
	})

	It("gives nothing of another tenant to an upstream that merely names digests", func() {
		secret := noise(1000)
		_, err := d.CreateOrganization(ctx, alice, "victim")
		Expect(err).NotTo(HaveOccurred())
		at := domain.RepositoryName{Organization: "victim", Path: "app"}
		Expect(d.CreateRepository(ctx, alice, at, core.NewRepository{Visibility: domain.Private})).To(Succeed())
		d.store(at, secret)
		stolen := newImage(secret)
		up.push("app", stolen, "v1")
		up.answer(func(w http.ResponseWriter, r *http.Request) bool {
			named := strings.HasSuffix(r.URL.Path, digest.FromBytes(secret).String())
			if named {
				http.NotFound(w, r)
			}
			return named
		})
		sync := d.mirror(specOf(kind, up.URL), secrets)
		Expect(sync.State).To(Equal(domain.SyncFailed))
		Expect(sync.Failures[0].Reason).To(ContainSubstring("the upstream does not have blob " + digest.FromBytes(secret).String()))
		Expect(d.content("app", "v1")).To(BeNil())
		_, err = d.Blob(ctx, name("app"), digest.FromBytes(secret))
		Expect(err).To(HaveOccurred())
	})

	It("is one sync at a time, is cancelled at once, and keeps its schedule", func() {
		up.push("app", newImage(), "v1")
		spec := specOf(kind, up.URL)
		hanging := make(chan struct{})
		var once sync.Once
		up.answer(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				once.Do(func() { close(hanging) })
				<-r.Context().Done()
				return true
			}
			return false
		})
		_, err := d.CreateMirror(ctx, alice, here, spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		number := d.request()
		Eventually(hanging).WithTimeout(10 * time.Second).Should(BeClosed())
		before, err := d.Mirror(ctx, here)
		Expect(err).NotTo(HaveOccurred())
		Expect(before.Last.State).To(Equal(domain.SyncRunning))
		Expect(before.LastSuccess).To(BeZero(), "success is not claimed before the end")
		Expect(domain.CodeOf(d.RequestMirrorSync(ctx, alice, here))).To(Equal(domain.CodeConflict), "sync-now while it is busy")

		start := time.Now()
		Expect(d.CancelMirrorSync(ctx, alice, here)).To(Succeed())
		Expect(d.await(number).State).To(Equal(domain.SyncCancelled))
		Eventually(d.log.String).WithTimeout(5 * time.Second).WithPolling(10 * time.Millisecond).Should(ContainSubstring("state=cancelled"))
		Expect(time.Since(start)).To(BeNumerically("<", 3*time.Second))
		after, err := d.Mirror(ctx, here)
		Expect(err).NotTo(HaveOccurred())
		Expect(after.Schedule.StartAt).To(BeTemporally("~", spec.Schedule.StartAt, time.Millisecond))
		Expect(after.NextSync).To(Equal(before.NextSync), "a cancel leaves the schedule alone")
		Expect(d.CancelMirrorSync(ctx, alice, here)).To(Succeed(), "and does nothing twice")
		Consistently(func() int64 {
			m, err := d.Mirror(ctx, here)
			Expect(err).NotTo(HaveOccurred())
			return m.Last.Number
		}).WithTimeout(time.Second).Should(Equal(number), "nothing begins by itself")
		up.answer(nil)
		Expect(d.sync().State).To(Equal(domain.SyncSucceeded))
	})

	It("goes on after a stop at the repositories that are not done", func() {
		for n := range 8 {
			up.push(fmt.Sprint("app", n), newImage(), "v1")
		}
		spec := specOf(kind, up.URL)
		spec.Concurrency = 1
		hanging := make(chan struct{})
		var once sync.Once
		up.answer(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/app5/blobs/") {
				once.Do(func() { close(hanging) })
				<-r.Context().Done()
				return true
			}
			return false
		})
		_, err := d.CreateMirror(ctx, alice, here, spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		number := d.request()
		Eventually(hanging).WithTimeout(20 * time.Second).Should(BeClosed())
		d.stop()
		m, err := d.Mirror(ctx, here)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Last.State).To(Equal(domain.SyncRunning), "nobody ended it")
		up.answer(nil)
		up.forget()
		d.start(only)
		sync := d.await(number)
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(up.seen("app[0-4]/")).To(BeEmpty(), "what was done is not looked at again")
		Expect(sync.Repositories).To(Equal(domain.MirrorCounts{Discovered: 8, Copied: 8}))
		Expect(sync.Tags).To(Equal(domain.MirrorCounts{Discovered: 8, Copied: 8}))
	})

	It("meets a policy that comes while it runs", func() {
		old, next := newImage(), newImage()
		up.push("app", old, "v1")
		Expect(d.mirror(specOf(kind, up.URL), secrets).State).To(Equal(domain.SyncSucceeded))
		up.push("app", next, "v1")
		up.push("app", newImage(), "v2")
		var once sync.Once
		up.answer(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				once.Do(func() {
					defer GinkgoRecover()
					_, err := d.CreatePolicy(ctx, alice, core.Scope{Organization: here}, domain.PolicySpec{TagPattern: ".*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})
					Expect(err).NotTo(HaveOccurred())
				})
			}
			return false
		})
		sync := d.sync()
		Expect(sync.State).To(Equal(domain.SyncSucceeded), sync.Message)
		Expect(d.content("app", "v2")).NotTo(BeNil())
		views, err := d.ListTags(ctx, name("app"), core.TagQuery{Limit: 10})
		Expect(err).NotTo(HaveOccurred())
		Expect(views).To(HaveLen(2))
		for _, v := range views {
			Expect(v.Immutable).To(BeTrue(), v.Name)
		}
		// v1 was copied before the policy, or is reported.
		if sync.Tags.Conflicts > 0 {
			d.has("app", "v1", old)
		} else {
			d.has("app", "v1", next)
		}
	})
},
	Entry("through Quay's API", domain.UpstreamQuay),
	Entry("through the OCI API", domain.UpstreamOCI),
)

// store stores a blob in a repository.
func (d *downstream) store(at domain.RepositoryName, content []byte) {
	GinkgoHelper()
	stored, err := storeBytes(d.blobs, content)
	Expect(err).NotTo(HaveOccurred())
	kept, err := d.LinkBlob(ctx, alice, at, stored, core.CreateNothing)
	Expect(kept, err).To(BeTrue())
}

// entries are the metadata of the log's entries of a kind.
func (d *downstream) entries(kind string) (list []string, err error) {
	views, err := d.Log(ctx, audit.Query{Organization: here, Kinds: []audit.Kind{audit.Kind(kind)}, After: -1, Limit: 100})
	if err != nil {
		return nil, err
	}
	for _, e := range views {
		list = append(list, string(encode(e.Metadata)))
	}
	return list, nil
}
