package core_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/seal"
)

const upstreamURL = "https://upstream.example.com"

var (
	hourly = domain.MirrorSpec{
		Source:   domain.MirrorSource{Type: domain.UpstreamOCI, URL: upstreamURL, Namespace: "library"},
		Schedule: domain.MirrorSchedule{Interval: time.Hour},
	}
	credentials = domain.MirrorSecrets{Username: "puller", Password: "a password nobody sees", ProxyUsername: "proxy-user", ProxyPassword: "another that nobody sees"}
)

func changedMirror(spec domain.MirrorSpec, changes ...func(*domain.MirrorSpec)) domain.MirrorSpec {
	for _, change := range changes {
		change(&spec)
	}
	return spec
}

func suspended(spec *domain.MirrorSpec) { spec.Suspend = true }

// managedMirror is the mirror of an object "upstream" in namespace team-a.
func managedMirror(uid string, generation int64, changes ...func(*core.ManagedMirror)) core.ManagedMirror {
	m := core.ManagedMirror{
		Cluster:      cluster,
		Manager:      domain.ManagedBy{Kind: domain.KindOrgMirror, Namespace: "team-a", Name: "upstream", UID: uid, Generation: generation},
		Organization: "team-a", Spec: hourly, Secrets: credentials, Claim: core.Claim{Namespace: namespaceA},
	}
	for _, change := range changes {
		change(&m)
	}
	return m
}

// eachEngineWithKey is eachEngine with a file of keys for secrets, which is at keyFile in the harness's directory.
func eachEngineWithKey(text string, specs func(h *harness)) bool {
	return eachEngine(text, func(h *harness) {
		BeforeEach(func() {
			Expect(seal.EnsureKeyFile(keyFile(h))).To(Succeed())
			h.with(func(o *core.Options) { o.Sealer = seal.KeyFile(keyFile(h)) })
		})
		specs(h)
	})
}

func keyFile(h *harness) string { return filepath.Join(h.dir, "secret.key") }

func (h *harness) mustMirror(spec domain.MirrorSpec, secrets domain.MirrorSecrets) domain.Mirror {
	GinkgoHelper()
	if _, err := h.Organization(ctx, "team-a"); err != nil {
		_, err := h.CreateOrganization(ctx, alice, "team-a")
		Expect(err).NotTo(HaveOccurred())
	}
	m, err := h.CreateMirror(ctx, alice, "team-a", spec, secrets)
	Expect(err).NotTo(HaveOccurred())
	return m
}

func (h *harness) mirror() domain.Mirror {
	GinkgoHelper()
	m, err := h.Mirror(ctx, "team-a")
	Expect(err).NotTo(HaveOccurred())
	return m
}

// claim takes the sync that is due, nil if none is.
func (h *harness) claim() *core.MirrorClaim {
	GinkgoHelper()
	claim, wait, err := h.ClaimMirrorSync(ctx, "replica")
	Expect(err).NotTo(HaveOccurred())
	if claim == nil {
		Expect(wait).To(BeNumerically(">", 0))
	}
	return claim
}

func (h *harness) mustClaim() *core.MirrorClaim {
	GinkgoHelper()
	claim := h.claim()
	Expect(claim).NotTo(BeNil())
	return claim
}

// secretsStored are the secrets as a sync gets them.
func (h *harness) secretsStored() domain.MirrorSecrets {
	GinkgoHelper()
	Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(Or(Succeed(), haveCode(domain.CodeConflict)))
	claim := h.mustClaim()
	Expect(h.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
	return claim.Secrets
}

var mirrorKinds = []audit.Kind{
	audit.KindOrgMirrorEnabled, audit.KindOrgMirrorDisabled, audit.KindOrgMirrorChanged, audit.KindOrgMirrorStarted, audit.KindOrgMirrorFailed,
	audit.KindOrgMirrorSuccess, audit.KindOrgMirrorRequested, audit.KindOrgMirrorCancelled, audit.KindOrgMirrorRepo,
}

// lastMirrorEntry is the latest entry about a mirror.
func (h *harness) lastMirrorEntry() audit.View {
	GinkgoHelper()
	entries := h.entries(mirrorKinds...)
	Expect(entries).NotTo(BeEmpty())
	return entries[len(entries)-1]
}

var _ = eachEngineWithKey("A mirror of the REST API", func(h *harness) {
	It("is made, changed and deleted, each with an entry that has no secret", func() {
		made := h.mustMirror(hourly, credentials)
		Expect(made.UUID).NotTo(BeEmpty())
		Expect(made.HasPassword).To(BeTrue())
		Expect(made.Username).To(Equal("puller"))
		Expect(made.Concurrency).To(Equal(4), "what is left out has its default")
		Expect(h.mirror()).To(Equal(made))
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorEnabled), HaveField("Organization", "team-a"), HaveField("Performer", "alice"), HaveField("Metadata", And(
			HaveKeyWithValue("source_url", upstreamURL), HaveKeyWithValue("interval", "1h0m0s"), HaveKeyWithValue("credentials", true), HaveKeyWithValue("mirror_uuid", made.UUID)))))

		updated, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, func(s *domain.MirrorSpec) {
			s.Repositories.Include, s.Schedule.Interval = []string{"app*"}, 2*time.Hour
		}), domain.MirrorSecrets{Username: "other", Password: "something else"})
		Expect(err).NotTo(HaveOccurred())
		Expect(h.mirror()).To(Equal(updated))
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorChanged), HaveField("Metadata", And(HaveKeyWithValue("repositories_include", ConsistOf("app*")),
			HaveKeyWithValue("interval", "2h0m0s"), HaveKeyWithValue("previous_interval", "1h0m0s"), HaveKeyWithValue("credentials_changed", true), Not(HaveKey("source_url"))))))

		for _, suspend := range []bool{true, false} {
			_, err = h.UpdateMirror(ctx, alice, "team-a", changedMirror(updated.MirrorSpec, func(s *domain.MirrorSpec) { s.Suspend = suspend }), domain.MirrorSecrets{Username: "other", Password: domain.Redacted})
			Expect(err).NotTo(HaveOccurred())
			kind := map[bool]audit.Kind{true: audit.KindOrgMirrorDisabled, false: audit.KindOrgMirrorEnabled}[suspend]
			Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", kind), HaveField("Metadata", Not(HaveKey("credentials_changed")))))
			Expect(h.mirror().NextSync.IsZero()).To(Equal(suspend))
		}
		before := len(h.entries())
		_, err = h.UpdateMirror(ctx, alice, "team-a", updated.MirrorSpec, domain.MirrorSecrets{Username: "other", Password: "something else"})
		Expect(err).NotTo(HaveOccurred())
		Expect(h.entries()).To(HaveLen(before), "nothing changed")

		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorDisabled), HaveField("Metadata", HaveKeyWithValue("deleted", true))))
		_, err = h.Mirror(ctx, "team-a")
		Expect(err).To(And(haveCode(domain.CodeNotFound), MatchError("organization team-a has no mirror")))
		for _, e := range h.entries() {
			for _, value := range e.Metadata {
				Expect(value).NotTo(Or(Equal("puller"), Equal(credentials.Password), Equal("something else"), Equal(domain.Redacted)))
			}
		}
	})

	It("is one of an organization that is there, with a spec that is valid, and the only one", func() {
		_, err := h.CreateMirror(ctx, alice, "team-a", hourly, credentials)
		Expect(err).To(haveCode(domain.CodeNotFound))
		h.mustMirror(hourly, credentials)
		_, err = h.CreateMirror(ctx, alice, "team-a", hourly, credentials)
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring(upstreamURL))))
		invalid := changedMirror(hourly, func(s *domain.MirrorSpec) { s.Schedule.Interval = time.Second })
		_, err = h.UpdateMirror(ctx, alice, "team-a", invalid, credentials)
		Expect(err).To(haveCode(domain.CodeInvalid))
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		_, err = h.CreateMirror(ctx, alice, "team-a", invalid, credentials)
		Expect(err).To(haveCode(domain.CodeInvalid))
		for _, err := range []error{h.DeleteMirror(ctx, alice, "team-a"), h.RequestMirrorSync(ctx, alice, "team-a"), h.CancelMirrorSync(ctx, alice, "team-a"), h.AdoptMirror(ctx, alice, "team-a")} {
			Expect(err).To(haveCode(domain.CodeNotFound))
		}
	})

	It("has a robot of its organization, if any", func() {
		h.mustMirror(hourly, credentials)
		with := func(robot string) error {
			_, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, func(s *domain.MirrorSpec) { s.Robot = robot }), credentials)
			return err
		}
		Expect(with("team-a+ci")).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("no robot of organization team-a"))))
		_, err := h.CreateRobot(ctx, alice, core.NewRobot{Organization: "team-a", Short: "ci"}, []byte("hash"))
		Expect(err).NotTo(HaveOccurred())
		Expect(with("team-a+ci")).To(Succeed())
		Expect(h.DeleteRobot(ctx, alice, "team-a", "ci")).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring(upstreamURL))), "the mirror would go on without it")
		Expect(with("")).To(Succeed())
		Expect(h.DeleteRobot(ctx, alice, "team-a", "ci")).To(Succeed())
	})

	It("goes with its organization", func() {
		h.mustMirror(hourly, credentials)
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(Succeed())
		Expect(h.lastMirrorEntry()).To(HaveField("Kind", audit.KindOrgMirrorDisabled))
		h.mustMirror(hourly, domain.MirrorSecrets{})
	})

	Describe("with credentials", func() {
		It("has none of them in the database, and gives all of them to a sync", func() {
			h.mustMirror(hourly, credentials)
			Expect(h.secretsStored()).To(Equal(credentials))
			_, err := h.UpdateMirror(ctx, alice, "team-a", hourly, domain.MirrorSecrets{Token: "a token nobody sees"})
			Expect(err).NotTo(HaveOccurred())
			Expect(h.secretsStored()).To(Equal(domain.MirrorSecrets{Token: "a token nobody sees"}))
			files, err := filepath.Glob(filepath.Join(h.dir, "tidelock.db*"))
			Expect(err).NotTo(HaveOccurred())
			for _, file := range files { // of SQLite
				content, err := os.ReadFile(file)
				Expect(err).NotTo(HaveOccurred())
				Expect(bytes.Contains(content, []byte("nobody sees"))).To(BeFalse(), file)
			}
			Expect(h.store.Read(ctx, func(r *meta.Reader) error {
				all, err := r.AllMirrorSecrets()
				Expect(all).To(HaveLen(1))
				Expect(string(all[0].Sealed)).NotTo(ContainSubstring("nobody"))
				return err
			})).To(Succeed())
		})

		It("keeps those that are redacted, and loses those that are left out", func() {
			h.mustMirror(hourly, credentials)
			update := func(secrets domain.MirrorSecrets) domain.MirrorSecrets {
				GinkgoHelper()
				_, err := h.UpdateMirror(ctx, alice, "team-a", hourly, secrets)
				Expect(err).NotTo(HaveOccurred())
				return h.secretsStored()
			}
			Expect(update(domain.MirrorSecrets{Username: "puller", Password: domain.Redacted, ProxyUsername: domain.Redacted, ProxyPassword: domain.Redacted})).To(Equal(credentials))
			Expect(update(domain.MirrorSecrets{Username: "another", Password: domain.Redacted})).To(Equal(domain.MirrorSecrets{Username: "another", Password: credentials.Password}))
			Expect(h.mirror()).To(And(HaveField("HasPassword", true), HaveField("HasProxyCredentials", false)))
			Expect(update(domain.MirrorSecrets{})).To(BeZero())
			Expect(h.mirror().HasPassword).To(BeFalse())
			Expect(update(domain.MirrorSecrets{Password: domain.Redacted})).To(BeZero())
			Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
			_, err := h.CreateMirror(ctx, alice, "team-a", hourly, domain.MirrorSecrets{Password: domain.Redacted})
			Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("is no secret"))))
		})

		DescribeTable("does not send them to a server that somebody names who need not know them", func(change func(*domain.MirrorSource), kept bool) {
			before := changedMirror(hourly, func(s *domain.MirrorSpec) { s.Source.Proxy.HTTPS = "http://proxy.example.com" })
			h.mustMirror(before, domain.MirrorSecrets{Username: "puller", Password: "a password nobody sees"})
			after := changedMirror(before, func(s *domain.MirrorSpec) { change(&s.Source) })
			_, err := h.UpdateMirror(ctx, alice, "team-a", after, domain.MirrorSecrets{Username: "puller", Password: domain.Redacted})
			if kept {
				Expect(err).NotTo(HaveOccurred())
				Expect(h.secretsStored().Password).To(Equal("a password nobody sees"))
				return
			}
			Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("another server"))))
			_, err = h.UpdateMirror(ctx, alice, "team-a", after, domain.MirrorSecrets{Username: "puller", Password: "given again"})
			Expect(err).NotTo(HaveOccurred())
		},
			Entry("another host", func(s *domain.MirrorSource) { s.URL = "https://elsewhere.example.com" }, false),
			Entry("without TLS", func(s *domain.MirrorSource) { s.URL = "http://upstream.example.com" }, false),
			Entry("through a proxy that verifies nothing", func(s *domain.MirrorSource) {
				s.Proxy.HTTPS, s.InsecureSkipTLSVerify = "http://elsewhere.example.com", true
			}, false),
			Entry("through the proxy, verified no more", func(s *domain.MirrorSource) { s.InsecureSkipTLSVerify = true }, false),
			Entry("through another proxy, end to end", func(s *domain.MirrorSource) { s.Proxy.HTTPS = "http://elsewhere.example.com" }, true),
			Entry("without a proxy", func(s *domain.MirrorSource) { s.Proxy, s.InsecureSkipTLSVerify = domain.MirrorProxy{}, true }, true),
			Entry("another namespace, the same host in other letters", func(s *domain.MirrorSource) { s.URL, s.Namespace = "https://UPSTREAM.example.com", "other" }, true),
		)

		It("does not send a proxy's to another proxy", func() {
			h.mustMirror(hourly, credentials)
			_, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, func(s *domain.MirrorSpec) { s.Source.Proxy.HTTPS = "http://elsewhere.example.com" }),
				domain.MirrorSecrets{ProxyUsername: "proxy-user", ProxyPassword: domain.Redacted})
			Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("another server"))))
		})

		It("are kept where only something else is changed, and can be tried before", func() {
			h.mustMirror(hourly, credentials)
			_, err := h.ChangeMirror(ctx, alice, "team-a", func(spec *domain.MirrorSpec, _ *domain.MirrorSecrets) error {
				spec.Concurrency = 2
				return nil
			})
			Expect(err).NotTo(HaveOccurred())
			Expect(h.mirror()).To(And(HaveField("Concurrency", 2), HaveField("HasProxyCredentials", true)))
			Expect(h.secretsStored()).To(Equal(credentials))
			redacted := domain.MirrorSecrets{Username: "another", Password: domain.Redacted}
			Expect(h.MirrorSecrets(ctx, "team-a", hourly.Source, redacted)).To(Equal(domain.MirrorSecrets{Username: "another", Password: credentials.Password}))
			_, err = h.MirrorSecrets(ctx, "team-a", domain.MirrorSource{Type: domain.UpstreamOCI, URL: "https://elsewhere.example.com"}, redacted)
			Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("another server"))))
			refused := errors.New("refused")
			_, err = h.ChangeMirror(ctx, alice, "team-a", func(*domain.MirrorSpec, *domain.MirrorSecrets) error { return domain.Unavailable(refused) })
			Expect(err).To(MatchError(refused))
		})

		It("is sealed again with the first key, and bound to its mirror", func() {
			sealed := func() meta.SealedSecrets {
				GinkgoHelper()
				var all []meta.SealedSecrets
				Expect(h.store.Read(ctx, func(r *meta.Reader) (err error) {
					all, err = r.AllMirrorSecrets()
					return err
				})).To(Succeed())
				Expect(all).To(HaveLen(1))
				return all[0]
			}
			h.mustMirror(hourly, credentials)
			Expect(h.SealMirrorSecrets(ctx)).To(BeZero())
			before, err := os.ReadFile(keyFile(h))
			Expect(err).NotTo(HaveOccurred())
			first, err := seal.GenerateKey()
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(keyFile(h), []byte(first+"\n"+string(before)), 0o600)).To(Succeed())
			old := sealed().Sealed
			Expect(h.SealMirrorSecrets(ctx)).To(Equal(1))
			Expect(sealed().Sealed).NotTo(Equal(old))
			Expect(os.WriteFile(keyFile(h), []byte(first), 0o600)).To(Succeed())
			Expect(h.secretsStored()).To(Equal(credentials))
			_, err = seal.KeyFile(keyFile(h)).Open(sealed().Sealed, "mirror/another")
			Expect(err).To(HaveOccurred())
		})

		It("whose key is gone fails its syncs, says so, and takes new ones", func() {
			h.mustMirror(hourly, credentials)
			Expect(os.Remove(keyFile(h))).To(Succeed())
			Expect(seal.EnsureKeyFile(keyFile(h))).To(Succeed())
			Expect(h.SealMirrorSecrets(ctx)).To(BeZero())
			Expect(h.claim()).To(BeNil())
			Expect(h.mirror()).To(And(HaveField("Failures", 1), HaveField("Last", And(HaveField("State", domain.SyncFailed), HaveField("Message", ContainSubstring("give them again"))))))
			Expect(h.claim()).To(BeNil(), "it waits before it tries again")
			_, err := h.UpdateMirror(ctx, alice, "team-a", hourly, domain.MirrorSecrets{Password: domain.Redacted})
			Expect(err).To(haveCode(domain.CodeUnavailable))
			_, err = h.UpdateMirror(ctx, alice, "team-a", hourly, credentials)
			Expect(err).NotTo(HaveOccurred())
			Expect(h.mustClaim().Secrets).To(Equal(credentials), "and tries at once when they were given again")
		})

		It("is refused where there is no key, and nothing else is", func() {
			h.with(func(o *core.Options) { o.Sealer = nil })
			h.mustMirror(hourly, domain.MirrorSecrets{})
			_, err := h.UpdateMirror(ctx, alice, "team-a", hourly, credentials)
			Expect(err).To(And(haveCode(domain.CodeUnavailable), MatchError(ContainSubstring("--secret-key-file"))))
			Expect(h.SealMirrorSecrets(ctx)).To(BeZero())
			h.with(func(o *core.Options) { o.Sealer = seal.KeyFile(keyFile(h)) })
			_, err = h.UpdateMirror(ctx, alice, "team-a", hourly, credentials)
			Expect(err).NotTo(HaveOccurred())
			h.with(func(o *core.Options) { o.Sealer = nil })
			_, err = h.SealMirrorSecrets(ctx)
			Expect(err).To(MatchError(ContainSubstring("--secret-key-file")), "the registry does not start")
		})
	})
})

var _ = eachEngineWithKey("A mirror that a Kubernetes object manages", func(h *harness) {
	put := func(m core.ManagedMirror) (domain.Mirror, error) { return h.PutManagedMirror(ctx, operator, m) }
	mustPut := func(m core.ManagedMirror) domain.Mirror {
		GinkgoHelper()
		mirror, err := put(m)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.mirror()).To(Equal(mirror))
		return mirror
	}
	remove := func(uid string) {
		GinkgoHelper()
		Expect(h.DeleteManagedMirror(ctx, operator, cluster, managedMirror(uid, 1).Manager)).To(Succeed())
	}
	interval := func(d time.Duration) func(*core.ManagedMirror) {
		return func(m *core.ManagedMirror) { m.Spec.Schedule.Interval = d }
	}
	named := func(name string) func(*core.ManagedMirror) {
		return func(m *core.ManagedMirror) { m.Manager.Name = name }
	}
	requested := func(at string) func(*core.ManagedMirror) {
		return func(m *core.ManagedMirror) { m.RequestedAt = at }
	}
	withdrawn := func(m *core.ManagedMirror) {
		m.Claim.Namespace = domain.Owner{Namespace: "team-a", UID: "ns-of-another"}
	}
	last := func() map[string]any {
		GinkgoHelper()
		return h.lastMirrorEntry().Metadata
	}

	It("is put idempotently, makes its organization, and follows the object", func() {
		m := mustPut(managedMirror("u1", 1))
		Expect(m.Manager.UID).To(Equal("u1"))
		o, err := h.Organization(ctx, "team-a")
		Expect(err).NotTo(HaveOccurred())
		Expect(o.Owner).To(Equal(namespaceA))
		before := len(h.entries())
		Expect(mustPut(managedMirror("u1", 1))).To(Equal(m))
		Expect(h.entries()).To(HaveLen(before))
		Expect(mustPut(managedMirror("u1", 2, interval(2*time.Hour))).UUID).To(Equal(m.UUID))
		Expect(last()).To(And(HaveKeyWithValue("interval", "2h0m0s"), HaveKeyWithValue("generation", BeEquivalentTo(2)), HaveKeyWithValue("applied_by", "unknown"),
			HaveKeyWithValue("managed_by", HaveKeyWithValue("name", "upstream"))))
		Expect(h.ManagedMirror(ctx, domain.KindOrgMirror, "team-a", "upstream")).To(Equal(h.mirror()))
		_, err = h.ManagedMirror(ctx, domain.KindOrgMirror, "team-a", "other")
		Expect(err).To(haveCode(domain.CodeNotFound))
	})

	It("notices other credentials at once, of which nobody knows who changed them", func() {
		mustPut(managedMirror("u1", 1))
		mustPut(managedMirror("u1", 1, func(m *core.ManagedMirror) { m.Secrets.Password = "rotated" }))
		Expect(last()).To(And(HaveKeyWithValue("credentials_changed", true), Not(HaveKey("applied_by"))))
		Expect(h.secretsStored().Password).To(Equal("rotated"))
	})

	It("names who applied it, and who deleted it", func() {
		mustPut(managedMirror("u1", 3, func(m *core.ManagedMirror) {
			m.Applied, m.Manager.RevisionClaimed = domain.Applied{User: "bob", UserUID: "bob-uid", Generation: 3}, "main@sha1:1"
		}))
		Expect(last()).To(And(HaveKeyWithValue("applied_by", "bob"), HaveKeyWithValue("revision_claimed", "main@sha1:1"), HaveKeyWithValue("unseen_generations", "1-2")))
		Expect(h.NoteDeletionIntent(ctx, operator, managedMirror("u2", 1).Manager, "mallory", "")).To(Succeed())
		Expect(h.NoteDeletionIntent(ctx, operator, managedMirror("u1", 1).Manager, "carol", "carol-uid")).To(Succeed())
		mustPut(managedMirror("u1", 3))
		remove("u1")
		Expect(last()).To(And(HaveKeyWithValue("deleted", true), HaveKeyWithValue("applied_by", "carol"), HaveKeyWithValue("applied_by_uid", "carol-uid")))
		Expect(h.NoteDeletionIntent(ctx, operator, managedMirror("u1", 1).Manager, "carol", "carol-uid")).To(Succeed())

		mustPut(managedMirror("u2", 1))
		Expect(h.NoteDeletionIntent(ctx, operator, managedMirror("u2", 1).Manager, "carol", "carol-uid")).To(Succeed())
		h.clock.Advance(time.Hour)
		remove("u2")
		Expect(last()).To(HaveKeyWithValue("applied_by", "unknown"), "an old intent is not believed")
	})

	It("is fenced against an old leader, an object that is gone, and another cluster", func() {
		mustPut(managedMirror("u1", 5))
		_, err := put(managedMirror("u1", 4))
		Expect(err).To(haveCode(domain.CodeStale))
		mustPut(managedMirror("u1", 4, func(m *core.ManagedMirror) { m.Rewound = true }))
		_, err = put(managedMirror("u1", 4, func(m *core.ManagedMirror) { m.Cluster = "cluster-2" }))
		Expect(err).To(haveCode(domain.CodeOtherCluster))
		remove("u1")
		_, err = put(managedMirror("u1", 6))
		Expect(err).To(haveCode(domain.CodeStale))
		mustPut(managedMirror("u1", 6, func(m *core.ManagedMirror) { m.Rewound = true }))
	})

	It("is adopted by another object of the same name, which alone can delete it then", func() {
		m := mustPut(managedMirror("u1", 3))
		Expect(mustPut(managedMirror("u2", 1)).UUID).To(Equal(m.UUID))
		Expect(last()).To(HaveKeyWithValue("adopted_from_uid", "u1"))
		_, err := put(managedMirror("u1", 4))
		Expect(err).To(haveCode(domain.CodeStale))
		remove("u1")
		Expect(h.mirror().UUID).To(Equal(m.UUID))
		remove("u2")
		_, err = h.Mirror(ctx, "team-a")
		Expect(err).To(haveCode(domain.CodeNotFound))
		remove("u2")
	})

	It("cannot be changed through the REST API, which may ask for a sync", func() {
		mustPut(managedMirror("u1", 1))
		managedBy := And(haveCode(domain.CodeManagedByResource), MatchError(ContainSubstring("OrgMirror team-a/upstream")))
		_, err := h.UpdateMirror(ctx, alice, "team-a", hourly, credentials)
		Expect(err).To(managedBy)
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(managedBy)
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(managedBy)
		_, err = h.CreateMirror(ctx, alice, "team-a", hourly, credentials)
		Expect(err).To(managedBy)
		Expect(h.AdoptMirror(ctx, alice, "team-a")).To(haveCode(domain.CodeConflict))
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(Succeed())
	})

	It("is refused where there is another, which is named", func() {
		mustPut(managedMirror("u1", 1))
		_, err := put(managedMirror("u2", 1, named("second")))
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("OrgMirror team-a/upstream"))))
		remove("u1")
		h.mustMirror(hourly, credentials)
		_, err = put(managedMirror("u2", 1, named("second")))
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("a mirror of the REST API"))))
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		mustPut(managedMirror("u2", 1, named("second")))
	})

	It("is for a namespace that owns the organization: \"*\" is not enough", func() {
		h.mustPush(domain.RepositoryName{Organization: "team-b", Path: "x"}, "latest")
		claiming := func(organizations ...string) func(*core.ManagedMirror) {
			return func(m *core.ManagedMirror) { m.Organization, m.Claim.Organizations = "team-b", organizations }
		}
		_, err := put(managedMirror("u1", 1, claiming()))
		Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
		_, err = put(managedMirror("u1", 1, claiming("*")))
		Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
		_, err = put(managedMirror("u1", 1, claiming("team-b")))
		Expect(err).NotTo(HaveOccurred())
		o, err := h.Organization(ctx, "team-b")
		Expect(err).NotTo(HaveOccurred())
		Expect(o.Owner).To(Equal(namespaceA))
	})

	It("moves to another organization by being deleted in the first", func() {
		mustPut(managedMirror("u1", 1))
		_, err := put(managedMirror("u1", 2, func(m *core.ManagedMirror) { m.Organization, m.Claim.Organizations = "team-b", []string{"team-b"} }))
		Expect(err).NotTo(HaveOccurred())
		_, err = h.Mirror(ctx, "team-a")
		Expect(err).To(haveCode(domain.CodeNotFound))
		moved, err := h.Mirror(ctx, "team-b")
		Expect(err).NotTo(HaveOccurred())
		Expect(moved.Manager.Generation).To(BeEquivalentTo(2))
		_, err = put(managedMirror("u1", 2, func(m *core.ManagedMirror) { m.Organization, m.Claim.Organizations = "team-b", []string{"team-b"} }))
		Expect(err).NotTo(HaveOccurred())
	})

	It("is orphaned when its object goes without a word: it goes on, and can be adopted or deleted", func() {
		mustPut(managedMirror("u1", 1))
		Expect(h.Synced(ctx, operator, cluster, []domain.ManagedBy{managedMirror("u1", 1).Manager})).To(Succeed())
		Expect(h.mirror().Orphaned).To(BeFalse())
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(h.mirror().Orphaned).To(BeTrue())
		Expect(last()).To(HaveKeyWithValue("orphaned", true))
		entries := len(h.entries())
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(h.entries()).To(HaveLen(entries))
		Expect(h.mustClaim().Secrets).To(Equal(credentials))

		mustPut(managedMirror("u1", 1))
		Expect(last()).To(HaveKeyWithValue("orphaned", false))
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(h.AdoptMirror(ctx, alice, "team-a")).To(Succeed())
		Expect(h.mirror()).To(And(HaveField("Manager", BeNil()), HaveField("Orphaned", false)))
		_, err := put(managedMirror("u1", 2))
		Expect(err).To(haveCode(domain.CodeStale))
		_, err = put(managedMirror("u2", 1))
		Expect(err).To(haveCode(domain.CodeConflict))
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		mustPut(managedMirror("u2", 1))
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
	})

	It("that lost its organization syncs no more, until it is back", func() {
		mustPut(managedMirror("u1", 1))
		claim := h.mustClaim()
		lost := managedMirror("u1", 1, withdrawn)
		_, err := put(lost)
		Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
		Expect(h.mirror()).To(And(HaveField("Lost", true), HaveField("Last.State", domain.SyncCancelled)))
		Expect(last()).To(HaveKeyWithValue("lost", true))
		Expect(h.BeatMirrorSync(ctx, claim, claim.Sync.MirrorProgress)).To(BeFalse())
		entries := len(h.entries())
		_, err = put(lost)
		Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
		Expect(h.entries()).To(HaveLen(entries))
		h.clock.Advance(2 * time.Hour)
		Expect(h.claim()).To(BeNil())
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("syncs no more"))))

		mustPut(managedMirror("u1", 1))
		Expect(last()).To(HaveKeyWithValue("lost", false))
		h.mustClaim()
	})

	It("whose namespace has its organization by annotation syncs as long as there is one", func() {
		claiming := func(organizations ...string) func(*core.ManagedMirror) {
			return func(m *core.ManagedMirror) { m.Organization, m.Claim.Organizations = "team-b", organizations }
		}
		_, err := put(managedMirror("u1", 1, claiming("team-b")))
		Expect(err).NotTo(HaveOccurred())
		for _, without := range [][]string{nil, {"*"}} {
			_, err := put(managedMirror("u1", 1, claiming(without...)))
			Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
			m, err := h.Mirror(ctx, "team-b")
			Expect(err).NotTo(HaveOccurred())
			Expect(m.Lost).To(BeTrue())
		}
		_, err = put(managedMirror("u1", 1, claiming("team-b")))
		Expect(err).NotTo(HaveOccurred())
		m, err := h.Mirror(ctx, "team-b")
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Lost).To(BeFalse())
	})

	It("that lost its organization gives way to one of the new owner, and to the REST API", func() {
		m := mustPut(managedMirror("u1", 1))
		_, err := put(managedMirror("u1", 1, withdrawn))
		Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
		another := managedMirror("u2", 1, named("second"))
		Expect(mustPut(another).UUID).NotTo(Equal(m.UUID))
		_, err = put(managedMirror("u1", 1))
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("OrgMirror team-a/second"))), "it is not retired")
		_, err = put(managedMirror("u2", 1, named("second"), withdrawn))
		Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
	})

	It("syncs when its annotation has another value", func() {
		mustPut(managedMirror("u1", 1, requested("one")))
		Expect(h.mirror()).To(And(HaveField("Requested", true), HaveField("RequestedAt", "one")))
		Expect(last()).To(HaveKeyWithValue("requested_at", "one"))
		claim := h.mustClaim()
		Expect(claim.Sync.Trigger).To(Equal(domain.SyncRequested))
		mustPut(managedMirror("u1", 1, requested("one")))
		Expect(h.mirror().Requested).To(BeFalse())
		Expect(h.BeatMirrorSync(ctx, claim, claim.Sync.MirrorProgress)).To(BeTrue())
		mustPut(managedMirror("u1", 1, requested("two")))
		Expect(h.BeatMirrorSync(ctx, claim, claim.Sync.MirrorProgress)).To(BeTrue(), "the next one waits for this one")
		Expect(h.claim()).To(BeNil())
		Expect(h.FinishMirrorSync(ctx, claim, domain.SyncFailed, "no upstream")).To(Succeed())
		Expect(h.mustClaim().Sync.Trigger).To(Equal(domain.SyncRequested))
		mustPut(managedMirror("u1", 2, func(m *core.ManagedMirror) { m.Spec.Suspend, m.RequestedAt = true, "three" }))
		Expect(h.mirror()).To(And(HaveField("Requested", false), HaveField("RequestedAt", "three")))
		_, err := put(managedMirror("u1", 2, requested(strings.Repeat("x", 300))))
		Expect(err).To(haveCode(domain.CodeInvalid))
	})

	It("is of a kind of its own", func() {
		_, err := put(managedMirror("u1", 1, func(m *core.ManagedMirror) { m.Manager.Kind = "ImmutabilityPolicy" }))
		Expect(err).To(haveCode(domain.CodeInvalid))
		_, err = h.PutManagedPolicy(ctx, operator, changed(managed("u1", 1), func(m *core.ManagedPolicy) { m.Manager.Kind = domain.KindOrgMirror }))
		Expect(err).To(haveCode(domain.CodeInvalid))
	})
})
