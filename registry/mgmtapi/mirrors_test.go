package mgmtapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// mirrored is a registry with the organization team-a, its robot, and what it takes to play the engine.
type mirrored struct{ *registry }

func newMirrored() mirrored {
	GinkgoHelper()
	m := mirrored{newRegistry(coreOptions)}
	m.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
	m.must("PUT", "/api/v1/organization/team-a/robots/mirror", "")
	return m
}

// view reads the mirror.
func (m mirrored) view() openapi.OrganizationMirror {
	GinkgoHelper()
	return into[openapi.OrganizationMirror](m.admin("GET", mirrorPath, ""))
}

// stored are the secrets as the engine gets them.
func (m mirrored) stored() domain.MirrorSecrets {
	GinkgoHelper()
	Expect(m.must("POST", mirrorPath+"/verify", "").body).To(MatchJSON(`{"success": true, "message": "Connection successful"}`))
	return m.upstreams.secrets
}

// begin begins the sync that is due or asked for.
func (m mirrored) begin() *core.MirrorClaim {
	GinkgoHelper()
	claim, _, err := m.core.ClaimMirrorSync(context.Background(), "replica-1")
	Expect(err).NotTo(HaveOccurred())
	Expect(claim).NotTo(BeNil())
	return claim
}

// counted are counts of what a test makes up.
func counted(copied, failed int64) domain.MirrorProgress {
	counts := domain.MirrorCounts{Discovered: copied + failed, Copied: copied, Failed: failed}
	return domain.MirrorProgress{Tags: counts, BytesCopied: 1 << 20, BytesSaved: 1 << 10}
}

var _ = Describe("A mirror", func() {
	var m mirrored
	ctx := context.Background()

	BeforeEach(func() { m = newMirrored() })

	It("is made, read, changed and deleted as in Quay", func() {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			answer := m.admin(method, mirrorPath, `{}`)
			Expect(answer.status).To(Equal(404), answer.body)
			Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeNotFound))
		}
		answer := m.admin("POST", mirrorPath, with(mirrorBody, `external_registry_username="bot"`, `external_registry_password="`+secret+`"`, `repository_filters=["hello*", "busy*"]`))
		Expect(answer.status).To(Equal(201))
		Expect(answer.body).To(Equal(`""`))

		answer = m.must("GET", mirrorPath, "")
		view := into[openapi.OrganizationMirror](answer)
		Expect(answer.body).To(MatchJSON(fmt.Sprintf(`{
			"is_enabled": true, "external_registry_type": "quay", "external_registry_url": "https://quay.example.com", "external_namespace": "upstream",
			"external_registry_username": "bot", "has_external_registry_password": true, "external_registry_password": "***REDACTED***",
			"external_registry_config": {"verify_tls": true, "proxy": {}}, "repository_filters": ["hello*", "busy*"], "robot_username": "team-a+mirror",
			"visibility": "private", "sync_interval": 3600, "sync_start_date": "2026-03-15T00:00:00Z", "sync_expiration_date": null,
			"sync_status": "NEVER_RUN", "sync_retries_remaining": 3,
			"repo_sync_status_counts": {"NEVER_RUN": 0, "SYNC_NOW": 0, "SYNCING": 0, "SUCCESS": 0, "FAIL": 0, "CANCEL": 0, "SKIP": 0},
			"skopeo_timeout": 300, "creation_date": "2026-03-14T15:09:26Z",
			"uuid": %q, "cron": null, "repository_excludes": [], "tags": {}, "platforms": [], "referrers": "Copy", "on_conflict": "Skip", "prune": "Never",
			"concurrency": 4, "bandwidth_limit": 0, "next_sync_date": %q, "last_success_date": null, "failures": 0, "orphaned": false, "lost": false}`,
			view.UUID, *view.NextSyncDate)))

		Expect(m.admin("POST", mirrorPath, mirrorBody).status).To(Equal(400))
		answer = m.admin("PUT", mirrorPath, `{"is_enabled": false, "sync_interval": 7200}`)
		Expect(answer.status).To(Equal(200))
		Expect(answer.body).To(Equal(`""`))
		changed := m.view()
		Expect(changed.IsEnabled).To(BeFalse())
		Expect(changed.SyncInterval).To(HaveValue(Equal(int64(7200))))
		Expect(changed.RepositoryFilters).To(Equal(view.RepositoryFilters))
		Expect(changed.UUID).To(Equal(view.UUID))

		answer = m.admin("DELETE", mirrorPath, "")
		Expect(answer.status).To(Equal(204))
		Expect(answer.body).To(BeEmpty())
		Expect(m.admin("GET", mirrorPath, "").status).To(Equal(404))
	})

	It("needs an organization, and a robot that is there", func() {
		Expect(m.admin("POST", "/api/v1/organization/nobody/mirror", with(mirrorBody, `robot_username="nobody+mirror"`)).status).To(Equal(404))
		answer := m.admin("POST", mirrorPath, with(mirrorBody, `robot_username="team-a+gone"`))
		Expect(answer.status).To(Equal(400), answer.body)
		Expect(answer.problem().Detail).To(ContainSubstring("team-a+gone"))
		m.must("POST", mirrorPath, mirrorBody)
		answer = m.admin("PUT", mirrorPath, `{"robot_username": "team-a+gone"}`)
		Expect(answer.status).To(Equal(400), answer.body)
	})

	It("has fields beyond Quay's", func() {
		m.must("POST", mirrorPath, with(mirrorBody, "sync_interval=", `external_registry_type="oci"`, `external_namespace=""`, `cron="30 4 * * *"`,
			`repository_excludes=["test/**"]`, `tags={"include": [{"semver": ">=1.2"}, {"glob": "latest"}], "exclude": [{"regexp": ".*-rc[0-9]+"}], "newest": 5}`,
			`platforms=["linux/amd64", "linux/arm64/v8"]`, `referrers="Ignore"`, `on_conflict="Fail"`, `prune="Vanished"`, "concurrency=8", "bandwidth_limit=1048576"))
		view := m.view()
		Expect(view.ExternalRegistryType).To(Equal(openapi.QuayRegistryTypeOci))
		Expect(view.SyncInterval).To(BeNil())
		Expect(view.Cron).To(HaveValue(Equal("30 4 * * *")))
		Expect(view.RepositoryExcludes).To(Equal([]string{"test/**"}))
		Expect(view.Tags).To(Equal(openapi.MirrorTags{
			Include: []openapi.MirrorTagMatch{{Semver: ">=1.2"}, {Glob: "latest"}}, Exclude: []openapi.MirrorTagMatch{{Regexp: ".*-rc[0-9]+"}}, Newest: 5,
		}))
		Expect(view.Platforms).To(Equal([]string{"linux/amd64", "linux/arm64/v8"}))
		Expect(view.Referrers).To(Equal(domain.ReferrersIgnore))
		Expect(view.OnConflict).To(Equal(domain.ConflictFail))
		Expect(view.Prune).To(Equal(domain.PruneVanished))
		Expect(view.Concurrency).To(Equal(int64(8)))
		Expect(view.BandwidthLimit).To(Equal(int64(1 << 20)))

		m.must("PUT", mirrorPath, `{"sync_interval": 60}`)
		view = m.view()
		Expect(view.SyncInterval).To(HaveValue(Equal(int64(60))))
		Expect(view.Cron).To(BeNil())
	})

	It("get_has_external_registry_password_true_when_set", func() {
		m.must("POST", mirrorPath, mirrorBody)
		Expect(m.view().HasExternalRegistryPassword).To(BeFalse())
		Expect(m.must("GET", mirrorPath, "").body).NotTo(ContainSubstring(domain.Redacted))
		m.must("PUT", mirrorPath, `{"external_registry_password": "`+secret+`"}`)
		Expect(m.view().HasExternalRegistryPassword).To(BeTrue())
	})

	Context("with credentials", func() {
		BeforeEach(func() {
			m.must("POST", mirrorPath, with(mirrorBody, `external_registry_username="bot"`, `external_registry_password="`+secret+`"`,
				`external_registry_config={"proxy": {"https_proxy": "http://carol:proxy-`+secret+`@proxy.example.com:3128", "no_proxy": "localhost"}}`))
		})
		all := domain.MirrorSecrets{Username: "bot", Password: secret, ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}

		It("never shows them", func() {
			body := m.must("GET", mirrorPath, "").body
			Expect(body).NotTo(ContainSubstring(secret))
			Expect(body).NotTo(ContainSubstring("carol"))
			Expect(*m.view().ExternalRegistryConfig.Proxy.HTTPSProxy).To(Equal("http://***REDACTED***@proxy.example.com:3128"))
			m.upstreams.answer = func(_ context.Context, spec domain.MirrorSpec, _ domain.MirrorSecrets) error {
				Expect(spec.Source.Proxy.HTTPS).To(Equal("http://proxy.example.com:3128"))
				return nil
			}
			Expect(m.stored()).To(Equal(all))
		})

		DescribeTable("keeps what is left out or redacted, and clears what is null",
			func(body string, want domain.MirrorSecrets) {
				m.must("PUT", mirrorPath, body)
				Expect(m.stored()).To(Equal(want))
			},
			Entry("nothing of them", `{"prune": "Vanished"}`, all),
			Entry("redacted ones", `{"external_registry_username": "bot", "external_registry_password": "***REDACTED***", "external_registry_token": "***REDACTED***"}`, all),
			Entry("a redacted proxy", `{"external_registry_config": {"proxy": {"https_proxy": "http://***REDACTED***@proxy.example.com:3128"}}}`, all),
			Entry("an address that is the same", `{"external_registry_url": "https://quay.example.com"}`, all),
			Entry("no password", `{"external_registry_password": null}`, domain.MirrorSecrets{Username: "bot", ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}),
			Entry("an empty password, as Quay's clients write it", `{"external_registry_username": "", "external_registry_password": ""}`,
				domain.MirrorSecrets{ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}),
			Entry("another password", `{"external_registry_password": "other"}`,
				domain.MirrorSecrets{Username: "bot", Password: "other", ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}),
			Entry("a token in their place", `{"external_registry_token": "token"}`,
				domain.MirrorSecrets{Token: "token", ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}),
			Entry("nothing in place of a token", `{"external_registry_token": null}`, all),
			Entry("a proxy without a user, with the password anew", `{"external_registry_password": "other", "external_registry_config": {"proxy": {"https_proxy": "http://other.example.com"}}}`,
				domain.MirrorSecrets{Username: "bot", Password: "other"}),
			Entry("another proxy, which sees nothing of what goes to an upstream that is verified", `{"external_registry_config": {"proxy": {"https_proxy": "http://other.example.com"}}}`,
				domain.MirrorSecrets{Username: "bot", Password: secret}),
			Entry("another upstream, with the password anew", `{"external_registry_url": "https://other.example.com", "external_registry_password": "other"}`,
				domain.MirrorSecrets{Username: "bot", Password: "other", ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}),
			Entry("another upstream, without a password", `{"external_registry_url": "https://other.example.com", "external_registry_password": null}`,
				domain.MirrorSecrets{Username: "bot", ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}),
		)

		DescribeTable("does not send them where they were not meant for",
			func(change string) {
				for _, call := range []struct{ method, path string }{{"PUT", mirrorPath}, {"POST", mirrorPath + "/verify"}} {
					m.upstreams.tried = domain.MirrorSpec{}
					answer := m.admin(call.method, call.path, change)
					Expect(answer.status).To(Equal(400), answer.body)
					Expect(answer.problem().Detail).To(ContainSubstring("give them again"))
					Expect(m.upstreams.tried).To(Equal(domain.MirrorSpec{}))
				}
				Expect(m.stored()).To(Equal(all))
			},
			Entry("another host", `{"external_registry_url": "https://evil.example.com"}`),
			Entry("another port, the password redacted", `{"external_registry_url": "https://quay.example.com:8443", "external_registry_password": "***REDACTED***"}`),
			Entry("plain HTTP", `{"external_registry_url": "http://quay.example.com"}`),
			Entry("another proxy, its user redacted", `{"external_registry_password": "x", "external_registry_config": {"proxy": {"https_proxy": "http://***REDACTED***@evil.example.com:3128"}}}`),
			Entry("whoever answers, without a look at certificates",
				`{"external_registry_config": {"verify_tls": false, "proxy": {"https_proxy": "http://***REDACTED***@proxy.example.com:3128"}}}`),
		)

		It("does not send them through another proxy that sees them", func() {
			m.must("PUT", mirrorPath, `{"external_registry_url": "http://quay.example.com", "external_registry_password": "`+secret+`"}`)
			answer := m.admin("PUT", mirrorPath, `{"external_registry_config": {"proxy": {"http_proxy": "http://evil.example.com:3128"}}}`)
			Expect(answer.status).To(Equal(400), answer.body)
			Expect(m.stored()).To(Equal(all))
		})

		It("clears a token with the password, unless the token is named", func() {
			token := domain.MirrorSecrets{Token: "token", ProxyUsername: "carol", ProxyPassword: "proxy-" + secret}
			m.must("PUT", mirrorPath, `{"external_registry_token": "token"}`)
			m.must("PUT", mirrorPath, `{"external_registry_password": null, "external_registry_token": "***REDACTED***"}`)
			Expect(m.stored()).To(Equal(token))
			m.must("PUT", mirrorPath, `{"external_registry_password": null}`)
			Expect(m.view().HasExternalRegistryPassword).To(BeFalse())
		})

		It("forgets them with the mirror", func() {
			m.must("DELETE", mirrorPath, "")
			m.must("POST", mirrorPath, mirrorBody)
			Expect(m.stored()).To(Equal(domain.MirrorSecrets{}))
		})
	})

	Describe("that is verified", func() {
		It("says how it went, and stores nothing", func() {
			Expect(m.admin("POST", mirrorPath+"/verify", "").status).To(Equal(404))
			answer := m.admin("POST", mirrorPath+"/verify", `{"external_registry_url": "https://quay.example.com"}`)
			Expect(answer.status).To(Equal(400))
			Expect(answer.problem().Detail).To(Equal("external_registry_type: the field is required, since no mirror is stored"))
			answer = m.admin("POST", mirrorPath+"/verify", `{"external_registry_type": "quay"}`)
			Expect(answer.problem().Detail).To(Equal("external_registry_url: the field is required, since no mirror is stored"))
			body := `{"external_registry_type": "harbor", "external_registry_url": "https://harbor.example.com", "external_namespace": "library", "external_registry_password": "` + secret + `"}`
			Expect(m.admin("POST", "/api/v1/organization/nobody/mirror/verify", body).status).To(Equal(404))

			Expect(m.must("POST", mirrorPath+"/verify", body).body).To(MatchJSON(`{"success": true, "message": "Connection successful"}`))
			Expect(m.upstreams.tried.Source).To(Equal(domain.MirrorSource{Type: domain.UpstreamHarbor, URL: "https://harbor.example.com", Namespace: "library"}))
			Expect(m.upstreams.secrets).To(Equal(domain.MirrorSecrets{Password: secret}))
			Expect(m.admin("GET", mirrorPath, "").status).To(Equal(404))

			m.must("POST", mirrorPath, mirrorBody)
			m.must("POST", mirrorPath+"/verify", `{"external_namespace": "other"}`)
			Expect(m.upstreams.tried.Source.Namespace).To(Equal("other"))
			Expect(m.view().ExternalNamespace).To(Equal("upstream"))
		})

		DescribeTable("says what is wrong with the upstream",
			func(failure error, status int, body string) {
				m.must("POST", mirrorPath, mirrorBody)
				m.upstreams.answer = func(context.Context, domain.MirrorSpec, domain.MirrorSecrets) error { return failure }
				answer := m.admin("POST", mirrorPath+"/verify", "")
				Expect(answer.status).To(Equal(status))
				if status == 200 {
					Expect(answer.body).To(MatchJSON(body))
				} else {
					Expect(answer.body).To(ContainSubstring(body))
				}
			},
			Entry("that knows no such user", domain.Errorf(domain.CodeInvalid, "the upstream refuses the credentials"), 200, `{"success": false, "message": "the upstream refuses the credentials"}`),
			Entry("that nobody waited for", fmt.Errorf("dialling: %w", context.DeadlineExceeded), 503, "try again"),
			Entry("of which nothing may be said", errors.New("with "+secret), 500, "the registry failed; its log says why"),
		)

		It("does not reach for what mirrors may not reach", func() {
			m.upstreams.refused = map[string]string{"https://169.254.169.254": "mirrors may not reach this host"}
			answer := m.must("POST", mirrorPath+"/verify", `{"external_registry_type": "oci", "external_registry_url": "https://169.254.169.254"}`)
			Expect(answer.body).To(MatchJSON(`{"success": false, "message": "external_registry_url: mirrors may not reach this host"}`))
			Expect(m.upstreams.tried.Source.URL).To(BeEmpty())
		})
	})

	Describe("that syncs", func() {
		BeforeEach(func() {
			m.must("POST", mirrorPath, with(mirrorBody, `sync_start_date="2026-03-14T00:00:00Z"`))
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusNEVERRUN))
		})

		It("is asked for in Quay's words, once", func() {
			answer := m.admin("POST", mirrorPath+"/sync-now", "")
			Expect(answer.status).To(Equal(204))
			Expect(answer.body).To(BeEmpty())
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusSYNCNOW))
			Expect(m.admin("POST", mirrorPath+"/sync-now", "").status).To(Equal(400))
			m.begin()
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusSYNCING))
			Expect(m.view().LastSync.Trigger).To(Equal(domain.SyncRequested))
		})

		It("sync_now_blocked_when_repos_syncing", func() {
			m.begin()
			answer := m.admin("POST", mirrorPath+"/sync-now", "")
			Expect(answer.status).To(Equal(400))
			Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeInvalidRequest))
		})

		It("cancel_preserves_sync_start_date", func() {
			before := m.view()
			m.begin()
			running := m.view()
			Expect(m.admin("POST", mirrorPath+"/sync-cancel", "").status).To(Equal(204))
			after := m.view()
			Expect(after.SyncStatus).To(Equal(openapi.QuaySyncStatusCANCEL))
			Expect(after.SyncStartDate).To(Equal(before.SyncStartDate))
			Expect(after.SyncInterval).To(Equal(before.SyncInterval))
			Expect(after.NextSyncDate).To(Equal(running.NextSyncDate))
			Expect(after.IsEnabled).To(BeTrue())
		})

		It("cancel_does_not_create_recancel_loop", func() {
			claim := m.begin()
			m.must("POST", mirrorPath+"/sync-cancel", "")
			going, err := m.core.BeatMirrorSync(ctx, claim, domain.MirrorProgress{})
			Expect(err).NotTo(HaveOccurred())
			Expect(going).To(BeFalse())
			m.must("POST", mirrorPath+"/sync-now", "")
			claim = m.begin()
			going, err = m.core.BeatMirrorSync(ctx, claim, domain.MirrorProgress{})
			Expect(err).NotTo(HaveOccurred())
			Expect(going).To(BeTrue())
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusSYNCING))
		})

		It("sync_partial_failure", func() {
			claim := m.begin()
			Expect(m.core.DiscoverMirrorRepositories(ctx, claim, []string{"api", "broken", "web"})).To(Succeed())
			Expect(m.view().RepoSyncStatusCounts).To(HaveKeyWithValue("NEVER_RUN", int64(3)))
			done := func(name string, state domain.SyncState, message string, failures ...domain.MirrorFailure) {
				GinkgoHelper()
				progress := counted(2, int64(len(failures)))
				repository := domain.MirrorRepository{Name: name, State: state, Message: message, MirrorProgress: progress}
				Expect(m.core.FinishMirrorRepository(ctx, claim, repository, failures, nil)).To(Succeed())
			}
			done("api", domain.SyncSucceeded, "")
			done("broken", domain.SyncFailed, "1 of 3 tags failed", domain.MirrorFailure{Repository: "broken", Tag: "v1", Reason: "the upstream breaks off"})
			done("web", domain.SyncSucceeded, "")
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusSYNCING), "success is not claimed before the end")
			Expect(m.core.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())

			view := m.view()
			Expect(view.SyncStatus).To(Equal(openapi.QuaySyncStatusFAIL))
			Expect(view.Failures).To(Equal(int64(1)))
			Expect(view.SyncRetriesRemaining).To(Equal(int64(2)))
			Expect(view.LastSuccessDate).To(BeNil())
			Expect(view.LastSync.Failures).To(Equal([]openapi.MirrorFailure{{Repository: "broken", Tag: "v1", Reason: "the upstream breaks off"}}))
			Expect(view.RepoSyncStatusCounts).To(Equal(map[string]int64{
				"NEVER_RUN": 0, "SYNC_NOW": 0, "SYNCING": 0, "SUCCESS": 2, "FAIL": 1, "CANCEL": 0, "SKIP": 0,
			}))
			Expect(m.must("GET", mirrorPath+"/repositories?status=FAIL", "").body).To(MatchJSON(`{"page": 1, "limit": 100, "total": 1, "has_next": false, "repositories": [
				{"name": "broken", "sync_status": "FAIL", "discovery_date": "2026-03-14T15:09:26Z", "last_sync_date": "2026-03-14T15:09:26Z",
				"status_message": "1 of 3 tags failed", "quay_repository": "team-a/broken",
				"progress": {"repositories": {"discovered": 0, "copied": 0, "unchanged": 0, "skipped": 0, "failed": 0, "conflicts": 0, "pruned": 0},
					"tags": {"discovered": 3, "copied": 2, "unchanged": 0, "skipped": 0, "failed": 1, "conflicts": 0, "pruned": 0},
					"bytesCopied": 1048576, "bytesSaved": 1024}}]}`))
			Expect(m.must("GET", mirrorPath+"/repositories?status=SYNC_NOW", "").body).To(MatchJSON(`{"page": 1, "limit": 100, "total": 0, "has_next": false, "repositories": []}`))
		})

		It("skip_repos_reactivated_when_back_in_active_list", func() {
			sync := func(names ...string) {
				GinkgoHelper()
				m.must("POST", mirrorPath+"/sync-now", "")
				claim := m.begin()
				Expect(m.core.DiscoverMirrorRepositories(ctx, claim, names)).To(Succeed())
				for _, name := range names {
					repository := domain.MirrorRepository{Name: name, State: domain.SyncSucceeded, MirrorProgress: counted(1, 0)}
					Expect(m.core.FinishMirrorRepository(ctx, claim, repository, nil, nil)).To(Succeed())
				}
				Expect(m.core.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())
			}
			listed := func(status string) (names []string) {
				GinkgoHelper()
				for _, repository := range into[openapi.MirrorRepositoryList](m.admin("GET", mirrorPath+"/repositories?status="+status, "")).Repositories {
					names = append(names, repository.Name)
				}
				return names
			}
			sync("api", "web")
			sync("api")
			Expect(listed("SKIP")).To(Equal([]string{"web"}))
			Expect(listed("SUCCESS")).To(Equal([]string{"api"}))
			sync("api", "web")
			Expect(listed("SUCCESS")).To(Equal([]string{"api", "web"}))
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusSUCCESS))
			Expect(m.view().LastSuccessDate).To(HaveValue(Equal("2026-03-14T15:09:26Z")))
		})

		It("delete_org_mirror_config_resets_repository_state", func() {
			claim := m.begin()
			Expect(m.core.DiscoverMirrorRepositories(ctx, claim, []string{"api"})).To(Succeed())
			m.must("DELETE", mirrorPath, "")
			Expect(m.admin("GET", mirrorPath+"/repositories", "").status).To(Equal(404))
			m.must("POST", mirrorPath, mirrorBody)
			Expect(m.must("GET", mirrorPath+"/repositories", "").body).To(MatchJSON(`{"page": 1, "limit": 100, "total": 0, "has_next": false, "repositories": []}`))
			Expect(m.view().SyncStatus).To(Equal(openapi.QuaySyncStatusNEVERRUN))
			going, err := m.core.BeatMirrorSync(ctx, claim, domain.MirrorProgress{})
			Expect(going, err).To(BeFalse())
		})

		It("lists its repositories by pages", func() {
			claim := m.begin()
			var names []string
			for i := range 250 {
				names = append(names, fmt.Sprintf("app-%03d", i))
			}
			Expect(m.core.DiscoverMirrorRepositories(ctx, claim, names)).To(Succeed())
			page := into[openapi.MirrorRepositoryList](m.admin("GET", mirrorPath+"/repositories?page=3&status=NEVER_RUN", ""))
			Expect(page.Total).To(Equal(int64(250)))
			Expect(page.Repositories).To(HaveLen(50))
			Expect(page.HasNext).To(BeFalse())
			Expect(page.Repositories[0]).To(Equal(openapi.MirrorRepository{
				Name: "app-200", SyncStatus: openapi.QuaySyncStatusNEVERRUN, DiscoveryDate: page.Repositories[0].DiscoveryDate,
			}))
			Expect(into[openapi.MirrorRepositoryList](m.admin("GET", mirrorPath+"/repositories?limit=100", "")).HasNext).To(BeTrue())
			Expect(into[openapi.MirrorRepositoryList](m.admin("GET", mirrorPath+"/repositories?limit=125&page=2", "")).HasNext).To(BeFalse())
		})
	})

	It("loses none of two changes at once", func() {
		m.must("POST", mirrorPath, mirrorBody)
		fields := []string{`"prune": "Vanished"`, `"on_conflict": "Fail"`, `"referrers": "Ignore"`, `"concurrency": 7`, `"skopeo_timeout": 77`, `"sync_interval": 77`}
		done := make(chan response)
		for _, field := range fields {
			go func() {
				defer GinkgoRecover()
				done <- m.admin("PUT", mirrorPath, "{"+field+"}")
			}()
		}
		for range fields {
			var answer response
			Eventually(done).WithTimeout(soon).Should(Receive(&answer))
			Expect(answer.status).To(Equal(200), answer.body)
		}
		body := m.must("GET", mirrorPath, "").body
		for _, field := range fields {
			Expect(body).To(ContainSubstring(strings.ReplaceAll(field, ": ", ":")))
		}
	})

	It("can be switched off when it may not be reached any more, and not on to somewhere else", func() {
		m.must("POST", mirrorPath, mirrorBody)
		m.upstreams.refused = map[string]string{"https://quay.example.com": "mirrors may not reach this host", "https://10.0.0.1": "mirrors may not reach this host"}
		m.must("PUT", mirrorPath, `{"is_enabled": false}`)
		answer := m.admin("PUT", mirrorPath, `{"external_registry_url": "https://10.0.0.1"}`)
		Expect(answer.status).To(Equal(400), answer.body)
		Expect(answer.problem().Detail).To(Equal("external_registry_url: mirrors may not reach this host"))
		// Nothing is asked for while it is off.
		Expect(m.admin("POST", mirrorPath+"/sync-now", "").status).To(Equal(400))
	})

	It("stands beside immutability policies and locked tags", func() {
		m.push("team-a/app", "v1", "one")
		m.policy("team-a", "v.*")
		Expect(m.admin("POST", mirrorPath, mirrorBody).status).To(Equal(201))
		m.policy("team-a", "release-.*")
		Expect(m.admin("DELETE", "/api/v1/repository/team-a/app/tag/v1", "").problem().ErrorType).To(Equal(openapi.ErrorTypeTagImmutable))
		Expect(m.admin("DELETE", "/api/v1/organization/team-a", "").status).To(Equal(409))
	})

	It("keeps its robot from being deleted without a word", func() {
		m.must("POST", mirrorPath, mirrorBody)
		answer := m.admin("DELETE", "/api/v1/organization/team-a/robots/mirror", "")
		Expect(answer.status).To(Equal(409), answer.body)
		Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeConflict))
		Expect(answer.problem().Detail).To(And(ContainSubstring("team-a+mirror"), ContainSubstring("https://quay.example.com")))
		Expect(m.view().RobotUsername).To(HaveValue(Equal("team-a+mirror")))
		m.must("PUT", "/api/v1/organization/team-a/robots/other", "")
		m.must("PUT", mirrorPath, `{"robot_username": "team-a+other"}`)
		m.must("DELETE", "/api/v1/organization/team-a/robots/mirror", "")
	})

	It("org_mirror_non_robot_cannot_push", func() {
		d := m.push("team-a/app", "v1", "one")
		m.push("team-a/app", "v2", "two")
		m.must("POST", mirrorPath, mirrorBody)
		tag := "/api/v1/repository/team-a/app/tag/"
		for _, answer := range []response{
			m.admin("PUT", tag+"v2", `{"manifest_digest": "`+d.String()+`"}`),
			m.admin("PUT", tag+"new", `{"manifest_digest": "`+d.String()+`"}`),
			m.admin("POST", tag+"v2/restore", `{"manifest_digest": "`+d.String()+`"}`),
		} {
			Expect(answer.status).To(Equal(403), answer.body)
			Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeInsufficientScope))
			Expect(answer.problem().Detail).To(And(ContainSubstring("team-a"), ContainSubstring("https://quay.example.com")))
		}
		// What takes nothing from the mirror is allowed.
		m.must("PUT", tag+"v1", `{"immutable": true}`)
		m.must("PUT", tag+"v2", `{"expiration": 1900000000}`)
		m.must("DELETE", tag+"v2", "")
		m.must("PUT", tag+"v1", `{"immutable": false}`)
		m.must("DELETE", mirrorPath, "")
		m.must("PUT", tag+"v2", `{"manifest_digest": "`+d.String()+`"}`)
	})

	It("leaves no secret in the log, nor in what the registry logs", func() {
		proxy := `{"proxy": {"http_proxy": "http://carol:proxy-` + secret + `@proxy.example.com"}}`
		m.must("POST", mirrorPath, with(mirrorBody, `external_registry_username="bot"`, `external_registry_password="`+secret+`"`, `external_registry_config=`+proxy))
		m.must("PUT", mirrorPath, `{"external_registry_password": "2-`+secret+`", "external_namespace": "other"}`)
		m.must("PUT", mirrorPath, `{"external_registry_token": "3-`+secret+`", "is_enabled": false}`)
		m.upstreams.answer = func(context.Context, domain.MirrorSpec, domain.MirrorSecrets) error { return errors.New("broken") }
		m.admin("POST", mirrorPath+"/verify", "")
		m.must("DELETE", mirrorPath, "")
		entries, err := m.core.Log(ctx, audit.Query{After: -1, Limit: 100, Ascending: true})
		Expect(err).NotTo(HaveOccurred())
		encoded, err := json.Marshal(entries)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(encoded)).To(ContainSubstring("org_mirror_config_changed"))
		Expect(string(encoded)).NotTo(ContainSubstring(secret))
		Expect(m.log.String()).To(ContainSubstring("broken"))
		Expect(m.log.String()).NotTo(ContainSubstring(secret))
	})
})

var _ = Describe("A mirror of a Kubernetes object", func() {
	const item = "/api/v1/operator/orgmirrors/team-a/upstream"
	var r *registry

	BeforeEach(func() { r = newRegistry(coreOptions) })

	It("is made, said all about, and ended", func() {
		Expect(r.as(operator, "GET", item, "").status).To(Equal(404))
		put := r.as(operator, "PUT", item, managedMirror)
		status := into[openapi.MirrorStatus](put)
		Expect(put.body).To(MatchJSON(fmt.Sprintf(`{"uuid": %q, "organization": "team-a", "generation": 1, "suspended": false, "orphaned": false, "lost": false,
			"manager": {"kind": "OrgMirror", "namespace": "team-a", "name": "upstream", "uid": "m1"},
			"requested": false, "requestedAt": "", "nextSync": %q, "failures": 0, "createdAt": "2026-03-14T15:09:26Z"}`,
			status.UUID, status.NextSync.Format(time.RFC3339Nano))))

		requested := into[openapi.MirrorStatus](r.as(operator, "PUT", item, with(managedMirror, "generation=2", `requestedAt="2026-03-14T15:00:00Z"`)))
		Expect(requested.Requested).To(BeTrue())
		Expect(requested.RequestedAt).To(Equal("2026-03-14T15:00:00Z"))
		Expect(requested.Generation).To(Equal(int64(2)))
		Expect(r.as(operator, "PUT", item, managedMirror).problem().ErrorType).To(Equal(openapi.ErrorTypeStale))

		claim, _, err := r.core.ClaimMirrorSync(context.Background(), "replica-1")
		Expect(err).NotTo(HaveOccurred())
		Expect(claim.Secrets).To(Equal(domain.MirrorSecrets{Username: "bot", Password: secret}))
		Expect(claim.Mirror.MirrorSpec).To(Equal(domain.MirrorSpec{
			Source:       domain.MirrorSource{Type: domain.UpstreamOCI, URL: "https://registry.example.com", Namespace: "library"},
			Repositories: domain.RepositoryFilter{Include: []string{"app"}}, Referrers: domain.ReferrersCopy,
			Schedule: domain.MirrorSchedule{Interval: time.Hour}, Visibility: domain.Private, OnConflict: domain.ConflictSkip, Prune: domain.PruneNever,
			Timeout: 10 * time.Minute, Concurrency: 4,
		}))
		ctx := context.Background()
		Expect(r.core.DiscoverMirrorRepositories(ctx, claim, []string{"app"})).To(Succeed())
		repository := domain.MirrorRepository{Name: "app", State: domain.SyncSucceeded, MirrorProgress: domain.MirrorProgress{
			Tags: domain.MirrorCounts{Discovered: 2, Copied: 1, Conflicts: 1}, BytesCopied: 10, BytesSaved: 20,
		}}
		conflict := domain.MirrorConflict{Repository: "app", Tag: "v1", Upstream: "sha256:1", Standing: "sha256:2", Reason: "locked by hand"}
		Expect(r.core.FinishMirrorRepository(ctx, claim, repository, nil, []domain.MirrorConflict{conflict})).To(Succeed())
		Expect(r.core.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())
		status = into[openapi.MirrorStatus](r.as(operator, "GET", item, ""))
		Expect(status.Requested).To(BeFalse())
		Expect(status.LastSuccess).To(HaveValue(Equal(beginning)))
		Expect(status.Sync.Number).To(Equal(int64(1)))
		Expect(status.Sync.State).To(Equal(domain.SyncSucceeded))
		Expect(status.Sync.Trigger).To(Equal(domain.SyncRequested))
		Expect(status.Sync.StartedAt).To(HaveValue(Equal(beginning)))
		Expect(status.Sync.FinishedAt).To(HaveValue(Equal(beginning)))
		Expect(status.Sync.Progress.Tags).To(Equal(openapi.MirrorCounts{Discovered: 2, Copied: 1, Conflicts: 1}))
		Expect(status.Sync.Progress.BytesCopied).To(Equal(int64(10)))
		Expect(status.Sync.Progress.BytesSaved).To(Equal(int64(20)))
		Expect(status.Sync.Failures).To(BeEmpty())
		Expect(status.Sync.Conflicts).To(Equal([]openapi.MirrorConflict{{Repository: "app", Tag: "v1", Upstream: "sha256:1", Standing: "sha256:2", Reason: "locked by hand"}}))

		intent := r.as(operator, "PUT", item+"/deletion-intent", `{"uid": "m1", "user": "carol"}`)
		Expect(intent.status).To(Equal(204))
		Expect(r.as(operator, "DELETE", item+"?cluster=c1&uid=other", "").status).To(Equal(204))
		Expect(r.as(operator, "GET", item, "").status).To(Equal(200))
		Expect(r.as(operator, "DELETE", item+"?cluster=c1&uid=m1", "").status).To(Equal(204))
		Expect(r.as(operator, "GET", item, "").status).To(Equal(404))
		entries, err := r.core.Log(ctx, audit.Query{After: -1, Limit: 100, Ascending: true})
		Expect(err).NotTo(HaveOccurred())
		last := entries[len(entries)-1]
		Expect(last.Kind).To(Equal(audit.Kind("org_mirror_disabled")))
		Expect(last.Metadata).To(HaveKeyWithValue("applied_by", "carol"))
	})

	It("says why the registry refuses it", func() {
		r.must("POST", "/api/v1/organization/", `{"name": "team-b"}`)
		answer := r.as(operator, "PUT", item, with(managedMirror, `organization="team-b"`))
		Expect(answer.status).To(Equal(409))
		Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeOrganizationNotOwned))
		into[openapi.MirrorStatus](r.as(operator, "PUT", item, managedMirror))
		Expect(r.as(operator, "PUT", item, with(managedMirror, `cluster="c2"`)).problem().ErrorType).To(Equal(openapi.ErrorTypeOtherCluster))
		answer = r.as(operator, "PUT", "/api/v1/operator/orgmirrors/team-a/second", with(managedMirror, `uid="m2"`))
		Expect(answer.status).To(Equal(409))
		Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeConflict))
		Expect(answer.problem().Detail).To(ContainSubstring("team-a/upstream"))
		invalid := strings.Replace(managedMirror, `"concurrency": 4`, `"concurrency": 400`, 1)
		answer = r.as(operator, "PUT", item, with(invalid, "generation=2"))
		Expect(answer.status).To(Equal(400))
		Expect(answer.problem().Detail).To(ContainSubstring("concurrency: 400 is not from 1 to 32"))
	})

	It("can be suspended when it may not be reached any more", func() {
		into[openapi.MirrorStatus](r.as(operator, "PUT", item, managedMirror))
		r.upstreams.refused = map[string]string{"https://registry.example.com": "mirrors may not reach this host"}
		Expect(r.as(operator, "PUT", item, with(managedMirror, "generation=2")).status).To(Equal(400))
		suspended := strings.Replace(managedMirror, `"concurrency": 4`, `"concurrency": 4, "suspend": true`, 1)
		Expect(into[openapi.MirrorStatus](r.as(operator, "PUT", item, with(suspended, "generation=2"))).Suspended).To(BeTrue())
	})

	It("belongs to the object until that is gone, and can then be adopted", func() {
		into[openapi.MirrorStatus](r.as(operator, "PUT", item, managedMirror))
		r.must("PUT", "/api/v1/organization/team-a/robots/mirror", "")
		view := into[openapi.OrganizationMirror](r.must("GET", mirrorPath, ""))
		Expect(view.ManagedBy).To(HaveValue(Equal(openapi.Manager{Kind: "OrgMirror", Namespace: "team-a", Name: "upstream", UID: "m1"})))
		Expect(view.RobotUsername).To(BeNil())
		for method, body := range map[string]string{"POST": mirrorBody, "PUT": `{"is_enabled": false}`, "DELETE": ""} {
			answer := r.admin(method, mirrorPath, body)
			Expect(answer.status).To(Equal(409), method)
			Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeManagedByResource))
			Expect(answer.problem().Detail).To(ContainSubstring("OrgMirror team-a/upstream"))
		}
		Expect(r.admin("POST", mirrorPath+"/adopt", "").status).To(Equal(409))
		// Syncs are no part of what the object declares.
		r.must("POST", mirrorPath+"/sync-now", "")
		r.must("POST", mirrorPath+"/sync-cancel", "")

		r.as(operator, "POST", "/api/v1/operator/synced", `{"cluster": "c1", "present": []}`)
		Expect(into[openapi.OrganizationMirror](r.must("GET", mirrorPath, "")).Orphaned).To(BeTrue())
		answer := r.admin("POST", mirrorPath+"/adopt", "")
		Expect(answer.status).To(Equal(204), answer.body)
		view = into[openapi.OrganizationMirror](r.must("GET", mirrorPath, ""))
		Expect(view.ManagedBy).To(BeNil())
		Expect(view.Orphaned).To(BeFalse())
		r.must("PUT", mirrorPath, `{"is_enabled": false}`)
		r.must("DELETE", mirrorPath, "")
	})

	It("is named by the entries about it", func() {
		into[openapi.MirrorStatus](r.as(operator, "PUT", item, managedMirror))
		segment := into[openapi.LogSegment](r.as(operator, "GET", "/api/v1/operator/log", ""))
		var found bool
		for _, entry := range segment.Entries {
			if entry.Kind == "org_mirror_enabled" {
				found = true
				Expect(entry.Manager).To(HaveValue(Equal(openapi.Manager{Kind: "OrgMirror", Namespace: "team-a", Name: "upstream", UID: "m1"})))
			}
		}
		Expect(found).To(BeTrue())
	})
})
