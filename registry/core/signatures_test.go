package core_test

import (
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// signature is a layer as cosign writes it: all signatures of a manifest have one payload, and differ in the annotation.
func signature(name string) string {
	return layer("application/vnd.dev.cosign.simplesigning.v1+json", name)
}

func attestation(name string) string {
	return layer("application/vnd.dsse.envelope.v1+json", name)
}

func layer(mediaType, annotation string) string {
	return fmt.Sprintf(`{"mediaType":%q,"size":7,"digest":%q,"annotations":{"dev.cosignproject.cosign/signature":%q}}`, mediaType, digest.FromString("payload"), annotation)
}

// imageOf is an image manifest with these layers. The config says nothing.
func imageOf(config string, layers ...string) domain.Manifest {
	return manifest(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":%q},"layers":[%s]}`,
		ocispec.MediaTypeImageManifest, digest.FromString(config), strings.Join(layers, ",")))
}

// indexOf is an index of these manifests.
func indexOf(children ...digest.Digest) domain.Manifest {
	var entries []string
	for _, child := range children {
		entries = append(entries, fmt.Sprintf(`{"mediaType":%q,"size":7,"digest":%q}`, ocispec.MediaTypeImageManifest, child))
	}
	m := manifest(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ocispec.MediaTypeImageIndex, strings.Join(entries, ",")))
	m.MediaType, m.Children = ocispec.MediaTypeImageIndex, children
	return m
}

// referrerOf is a manifest with a subject.
func referrerOf(subject digest.Digest, content string) domain.Manifest {
	m := manifest(fmt.Sprintf(`{"refers":%q,"content":%q}`, subject, content))
	m.Subject = subject
	return m
}

// signatureTag is the name of a signature tag; suffix is ".sig", ".att" or empty for the referrers tag.
func signatureTag(subject digest.Digest, suffix string) string {
	return fmt.Sprintf("%s-%.64s%s", subject.Algorithm(), subject.Encoded(), suffix)
}

// mustPut stores a manifest that nothing forbids.
func (h *harness) mustPut(name domain.RepositoryName, tag string, m domain.Manifest) digest.Digest {
	GinkgoHelper()
	d, err := h.put(name, tag, m)
	Expect(err).NotTo(HaveOccurred())
	return d
}

func (h *harness) appended() (tags []any) {
	GinkgoHelper()
	for _, e := range h.entries(audit.KindMoveTag) {
		if e.Metadata["append"] == true {
			tags = append(tags, e.Metadata["tag"])
		}
	}
	return tags
}

var _ = eachEngine("A signature tag", func(h *harness) {
	var subject digest.Digest
	var sig, att, referrers string
	BeforeEach(func() {
		subject = h.mustPush(app, "v1")
		sig, att, referrers = signatureTag(subject, ".sig"), signatureTag(subject, ".att"), signatureTag(subject, "")
	})

	// Both reasons for being append-only have the same effect, but for holds and for what a refusal names.
	for reason, pattern := range map[string]string{"a policy covers it": ".*", "its subject is locked": "v.*"} {
		Context("when "+reason, func() {
			refusal := func(tag string) OmegaMatcher {
				if pattern == ".*" {
					return And(haveCode(domain.CodeTagImmutable), MatchError(ContainSubstring("immutable tag '"+tag+"'")))
				}
				return And(haveCode(domain.CodeTagImmutable), MatchError(And(
					ContainSubstring("signature tag '"+tag+"', since its subject "+subject.String()+" belongs to immutable tag 'v1': "+subject.String()+" stands"))))
			}
			BeforeEach(func() {
				h.mustCreate(teamA, spec(pattern))
				h.idle()
			})

			for suffix, mark := range map[string]func(string) string{".sig": signature, ".att": attestation} {
				It(suffix+" takes a manifest that keeps all layers, whatever its config and order are", func() {
					tag := signatureTag(subject, suffix)
					first := h.mustPut(app, tag, imageOf("1", mark("a"), mark("b")))
					second := h.mustPut(app, tag, imageOf("2", mark("c"), mark("b"), mark("a")))
					Expect(h.tag(app, tag)).To(Equal(second))
					Expect(h.appended()).To(Equal([]any{tag}))
					move := h.entries(audit.KindMoveTag)[0]
					Expect(move.Metadata).To(And(HaveKeyWithValue("original_manifest_digest", first.String()), HaveKeyWithValue("manifest_digest", second.String())))
				})

				It(suffix+" refuses a manifest that lacks or changes a layer", func() {
					tag := signatureTag(subject, suffix)
					standing := h.mustPut(app, tag, imageOf("1", mark("a"), mark("a"), mark("b")))
					docker := imageOf("1", mark("a"), mark("a"), mark("b"), mark("c"))
					docker.Content = []byte(strings.Replace(string(docker.Content), ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json", 1))
					docker.MediaType, docker.Digest = "application/vnd.docker.distribution.manifest.v2+json", digest.FromBytes(docker.Content)
					for what, m := range map[string]domain.Manifest{
						"fewer":                     imageOf("1", mark("a"), mark("a")),
						"none":                      imageOf("1"),
						"as many, one replaced":     imageOf("1", mark("a"), mark("a"), mark("c")),
						"more, one replaced":        imageOf("1", mark("a"), mark("a"), mark("c"), mark("d")),
						"one of two alike is gone":  imageOf("1", mark("a"), mark("b"), mark("c")),
						"more, one is no signature": imageOf("1", mark("a"), mark("a"), mark("b"), layer(ocispec.MediaTypeImageLayerGzip, "d")),
						"another media type":        docker,
						"an index":                  indexOf(subject),
						"no manifest at all":        manifest(`{"some":"thing"}`),
					} {
						_, err := h.put(app, tag, m)
						Expect(err).To(refusal(tag), what)
						Expect(err).To(MatchError(ContainSubstring("it can only be added to")), what)
						Expect(h.tag(app, tag)).To(Equal(standing), what)
					}
					Expect(h.appended()).To(BeEmpty())
				})
			}

			It("refuses every other change", func() {
				old := h.mustPut(app, sig, imageOf("1", signature("a")))
				standing := h.mustPut(app, sig, imageOf("1", signature("a"), signature("b")))
				soon := h.clock.Now().Add(time.Hour)
				Expect(h.DeleteTag(ctx, alice, app, sig)).To(refusal(sig))
				Expect(h.RestoreTag(ctx, alice, app, sig, old)).To(refusal(sig))
				Expect(h.setTag(app, sig, subject)).To(refusal(sig))
				Expect(h.ChangeTag(ctx, alice, app, sig, core.TagChange{Expiration: &soon})).To(refusal(sig))
				Expect(h.DeleteManifest(ctx, alice, app, standing)).To(haveCode(domain.CodeTagImmutable))
				Expect(h.tag(app, sig)).To(Equal(standing))
				Expect(metadataOf(h.entries(audit.KindPushFailed), "tag")).To(HaveEach(sig))
				Expect(metadataOf(h.entries(audit.KindPushFailed), "manifest_digest")).To(HaveEach(standing.String()))
				Expect(h.entries(audit.KindPushFailed)[0].Policy).NotTo(BeEmpty())
			})

			It("takes a restored manifest that keeps all layers", func() {
				more := h.mustPut(app, "", imageOf("1", signature("a"), signature("b")))
				h.mustPut(app, sig, imageOf("1", signature("a")))
				Expect(h.RestoreTag(ctx, alice, app, sig, more)).To(Succeed())
				Expect(h.tag(app, sig)).To(Equal(more))
			})

			It("without a suffix takes an index that keeps all referrers", func() {
				one, two := h.mustPut(app, "", referrerOf(subject, "one")), h.mustPut(app, "", referrerOf(subject, "two"))
				h.mustPut(app, referrers, indexOf(one))
				both := h.mustPut(app, referrers, indexOf(two, one))
				Expect(h.tag(app, referrers)).To(Equal(both))
				Expect(h.appended()).To(Equal([]any{referrers}))
				By("keeping the referrers themselves")
				Expect(h.DeleteManifest(ctx, alice, app, one)).To(haveCode(domain.CodeTagImmutable))
			})

			It("without a suffix refuses anything else", func() {
				one, two := h.mustPut(app, "", referrerOf(subject, "one")), h.mustPut(app, "", referrerOf(subject, "two"))
				stranger := h.mustPut(app, "", referrerOf(one, "refers to another"))
				standing := h.mustPut(app, referrers, indexOf(one))
				for what, m := range map[string]domain.Manifest{
					"an empty index":          indexOf(),
					"another referrer":        indexOf(two),
					"the referrer of another": indexOf(one, stranger),
					"the subject":             indexOf(one, subject),
					"an image":                imageOf("1", signature("a")),
				} {
					_, err := h.put(app, referrers, m)
					Expect(err).To(refusal(referrers), what)
				}
				missing := indexOf(one, digest.FromString("nowhere"))
				missing.Children = nil // as a registry that takes sparse indexes would
				_, err := h.put(app, referrers, missing)
				Expect(err).To(refusal(referrers))
				Expect(h.setTag(app, referrers, subject)).To(refusal(referrers))
				Expect(h.tag(app, referrers)).To(Equal(standing))
			})

			It("without a suffix that points to the image itself, as cosign copy leaves it, is locked as usual", func() {
				one := h.mustPut(app, "", referrerOf(subject, "one"))
				Expect(h.setTag(app, referrers, subject)).To(Succeed())
				_, err := h.put(app, referrers, indexOf(one))
				Expect(err).To(refusal(referrers))
				Expect(h.DeleteTag(ctx, alice, app, referrers)).To(refusal(referrers))
			})

			It("that is held by hand takes nothing", func() {
				h.mustPut(app, sig, imageOf("1", signature("a")))
				Expect(h.hold(app, sig, true)).To(Succeed())
				_, err := h.put(app, sig, imageOf("1", signature("a"), signature("b")))
				Expect(err).To(haveCode(domain.CodeTagImmutable))
			})
		})
	}

	It("has a hold and its entry where a policy covers it, and none where only its subject is locked", func() {
		h.mustCreate(teamA, releases)
		h.idle()
		h.mustPut(app, sig, imageOf("1", signature("a")))
		Expect(h.locked(app, sig)).To(BeFalse())
		Expect(h.entries(audit.KindTagCreatedImmutable)).To(BeEmpty())
		h.mustCreate(teamA, spec(".*sig"))
		h.idle()
		Expect(h.locked(app, sig)).To(BeTrue())
		h.mustPut(app, sig, imageOf("1", signature("a"), signature("b")))
		h.mustPut(app, signatureTag(subject, ".att"), imageOf("1", attestation("a")))
		Expect(h.entries(audit.KindTagCreatedImmutable)).To(BeEmpty())
	})

	It("stays append-only while a hold of a withdrawn policy is left", func() {
		h.mustPut(app, sig, imageOf("1", signature("a")))
		p := h.mustCreate(teamA, spec(".*sig"))
		h.swept(teamA, p.UUID)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		h.mustPut(app, sig, imageOf("1", signature("a"), signature("b")))
		_, err := h.put(app, sig, imageOf("1", signature("b")))
		Expect(err).To(haveCode(domain.CodeTagImmutable))
	})

	It("is as free as any tag while nothing locks it or its subject, or its subject is not there", func() {
		absent := signatureTag(digest.FromString("nowhere"), ".sig")
		for _, tag := range []string{sig, att, absent} {
			h.mustPut(app, tag, imageOf("1", signature("a")))
			h.mustPut(app, tag, imageOf("1", signature("b")))
			Expect(h.DeleteTag(ctx, alice, app, tag)).To(Succeed())
		}
		Expect(h.appended()).To(BeEmpty())
		h.mustCreate(teamA, releases)
		h.mustPut(app, absent, imageOf("1", signature("a")))
		Expect(h.DeleteTag(ctx, alice, app, absent)).To(Succeed())
	})

	It("loses nothing to a change that was decided while its subject was being locked", func() {
		soon := h.clock.Now().Add(time.Hour)
		for what, change := range map[string]func() error{
			"a push":        func() error { _, err := h.put(app, sig, imageOf("1", signature("b"))); return err },
			"a move":        func() error { return h.setTag(app, sig, subject) },
			"a restoration": func() error { return h.RestoreTag(ctx, alice, app, sig, subject) },
			"a deletion":    func() error { return h.DeleteTag(ctx, alice, app, sig) },
			"an expiration": func() error { return h.ChangeTag(ctx, alice, app, sig, core.TagChange{Expiration: &soon}) },
		} {
			standing := h.mustPut(app, sig, imageOf("1", signature("a")))
			placed, release, locked, changed := make(chan struct{}), make(chan struct{}), make(chan error, 1), make(chan error, 1)
			go func() {
				var once sync.Once
				locked <- h.store.Write(ctx, meta.Scope{Organization: app.Organization, Repository: app.Path}, func(tx *meta.Tx) error {
					repo, err := tx.Repository(app)
					if err != nil {
						return err
					}
					tag, err := tx.Tag(repo.ID, "v1")
					if err != nil {
						return err
					}
					defer func() {
						once.Do(func() { close(placed) })
						<-release
					}()
					return tx.PlaceHolds([]meta.Hold{{TagID: tag.ID, PolicyID: meta.ByHand}}, h.clock.Now())
				})
			}()
			<-placed
			go func() { changed <- change() }()
			Consistently(changed, "100ms").ShouldNot(Receive(), what)
			close(release)
			Eventually(locked).WithTimeout(patience).Should(Receive(BeNil()), what)
			Eventually(changed).WithTimeout(patience).Should(Receive(haveCode(domain.CodeTagImmutable)), what)
			Expect(h.tag(app, sig)).To(Equal(standing), what)
			Expect(h.hold(app, "v1", false)).To(Succeed())
		}
	})

	It("belongs to children and referrers of a locked image as well", func() {
		child := h.mustPut(app, "", manifest(`{"child":1}`))
		index := h.mustPut(app, "v2", indexOf(child))
		sbom := h.mustPut(app, "", referrerOf(index, "sbom"))
		h.mustCreate(teamA, spec("v2"))
		for _, of := range []digest.Digest{child, index, sbom} {
			tag := signatureTag(of, ".sig")
			d := h.mustPut(app, tag, imageOf("1", signature("a")))
			Expect(h.DeleteTag(ctx, alice, app, tag)).To(And(haveCode(domain.CodeTagImmutable), MatchError(ContainSubstring("'v2'"))))
			Expect(h.DeleteManifest(ctx, alice, app, d)).To(haveCode(domain.CodeTagImmutable))
		}
	})

	It("is found for a sha512 digest by its first 64 digits, as the specification cuts it", func() {
		m := manifest(`{"sha":512}`)
		m.Digest = digest.SHA512.FromBytes(m.Content)
		h.mustPut(app, "", m)
		Expect(h.setTag(app, "v2", m.Digest)).To(Succeed())
		h.mustCreate(teamA, spec("v2"))
		tag := signatureTag(m.Digest, "")
		Expect(tag).To(HaveLen(len("sha512-") + 64))
		one, two := h.mustPut(app, "", referrerOf(m.Digest, "one")), h.mustPut(app, "", referrerOf(m.Digest, "two"))
		h.mustPut(app, tag, indexOf(one))
		h.mustPut(app, tag, indexOf(one, two))
		_, err := h.put(app, tag, indexOf(two))
		Expect(err).To(haveCode(domain.CodeTagImmutable))
		Expect(h.DeleteTag(ctx, alice, app, tag)).To(haveCode(domain.CodeTagImmutable))
	})

	It("of another form is a tag like any other", func() {
		h.mustCreate(teamA, spec("sha.*"))
		for _, tag := range []string{sig[:len(sig)-5] + ".sig", sig + "x", signatureTag(subject, ".sbom"), strings.ToUpper(sig), "sha512-" + digest.SHA512.FromString("x").Encoded()[:100] + ".sig", "sha384-" + sig[7:]} {
			h.mustPut(app, tag, imageOf("1", signature("a")))
			_, err := h.put(app, tag, imageOf("1", signature("a"), signature("b")))
			if strings.HasPrefix(tag, "sha") {
				Expect(err).To(haveCode(domain.CodeTagImmutable), tag)
				continue
			}
			Expect(err).NotTo(HaveOccurred(), "%s is not covered", tag)
		}
	})

	It("under a policy on a dry run is reported for what would be refused, and not for what is added", func() {
		dry := spec(".*sig")
		dry.EnforcementMode = domain.DryRun
		h.mustPut(app, sig, imageOf("1", signature("a")))
		h.mustCreate(teamA, dry)
		h.mustPut(app, sig, imageOf("1", signature("a"), signature("b")))
		Expect(h.entries(audit.KindDryRun)).To(BeEmpty())
		Expect(h.appended()).To(BeEmpty(), "nothing protected the tag")
		h.mustPut(app, sig, imageOf("1", signature("c")))
		Expect(h.entries(audit.KindDryRun)).To(HaveLen(1))
	})
})

var _ = eachEngine("The way from a manifest to a locked tag", func(h *harness) {
	It("ends in circles of subjects", func() {
		one := manifest(`{"circle":1}`)
		two := manifest(`{"circle":2}`)
		one.Subject, two.Subject = two.Digest, one.Digest
		h.mustPut(app, "", one)
		h.mustPut(app, "nightly", two)
		h.mustCreate(teamA, releases)
		Expect(h.DeleteManifest(ctx, alice, app, one.Digest)).To(Succeed())

		three := manifest(`{"circle":3}`)
		three.Subject = two.Digest
		h.mustPut(app, "", three)
		h.mustPut(app, "", one)
		Expect(h.setTag(app, "v1", one.Digest)).To(Succeed())
		Expect(h.DeleteManifest(ctx, alice, app, three.Digest)).To(haveCode(domain.CodeTagImmutable))
	})

	// store puts manifests into a repository without a transaction for each.
	store := func(list []domain.Manifest) {
		GinkgoHelper()
		Expect(h.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
			repo, err := tx.Repository(app)
			for _, m := range list {
				if err == nil {
					_, err = tx.InsertManifest(repo.ID, m)
				}
			}
			return err
		})).To(Succeed())
	}

	It("is found from the children of a large index, which can be added to", func() {
		const children = 3_000
		h.with(func(o *core.Options) { o.DecisionTimeout = patience })
		subject := h.mustPush(app, "v1")
		list, digests := make([]domain.Manifest, children), make([]digest.Digest, children)
		for i := range list {
			list[i] = referrerOf(subject, fmt.Sprint(i))
			digests[i] = list[i].Digest
		}
		store(list)
		tag := signatureTag(subject, "")
		h.mustPut(app, tag, indexOf(digests[:children-1]...))
		h.mustCreate(teamA, releases)
		whole := indexOf(digests...)
		h.mustPut(app, tag, whole)
		Expect(h.appended()).To(Equal([]any{tag}))
		_, err := h.put(app, tag, indexOf(digests[1:]...))
		Expect(err).To(haveCode(domain.CodeTagImmutable))
		Expect(h.DeleteManifest(ctx, alice, app, digests[children/2])).To(haveCode(domain.CodeTagImmutable))
	})

	It("is found from the end of a long chain of referrers, and through hundreds of indexes that share a child", func() {
		const length = 500
		h.with(func(o *core.Options) { o.DecisionTimeout = patience })
		subject := h.mustPush(app, "v1")
		last := subject
		chain := make([]domain.Manifest, length)
		for i := range chain {
			chain[i] = referrerOf(last, fmt.Sprint(i))
			last = chain[i].Digest
		}
		child := manifest(`{"child":1}`)
		parents := []domain.Manifest{child}
		for i := range length {
			m := referrerOf("", fmt.Sprint("parent ", i))
			m.Children = []digest.Digest{child.Digest}
			parents = append(parents, m)
		}
		parents[length].Subject = subject
		store(chain)
		store(parents)
		for _, d := range []digest.Digest{last, child.Digest} {
			locked := h.mustCreate(teamA, releases)
			Expect(h.DeleteManifest(ctx, alice, app, d)).To(And(haveCode(domain.CodeTagImmutable), MatchError(ContainSubstring("'v1'"))))
			h.idle()
			Expect(h.DeleteManifest(ctx, alice, app, d)).To(haveCode(domain.CodeTagImmutable), "with the hold too")
			Expect(h.DeletePolicy(ctx, alice, teamA, locked.UUID)).To(Succeed())
			h.idle()
			Expect(h.ReleasePolicy(ctx, alice, teamA, locked.UUID)).To(Equal(1))
			Expect(h.DeleteManifest(ctx, alice, app, d)).To(Succeed())
		}
	})

	It("that cannot be walked in time refuses the change", func() {
		d := h.mustPush(app, "latest")
		h.with(func(o *core.Options) { o.DecisionTimeout = time.Nanosecond })
		Expect(h.DeleteManifest(ctx, alice, app, d)).To(haveCode(domain.CodeUnavailable))
		Expect(h.tag(app, "latest")).To(Equal(d))
	})
})
