package v1alpha1

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tidelock/tidelock/registry/domain"
)

func testMirror(change ...func(*OrgMirror)) *OrgMirror {
	m := &OrgMirror{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "upstream"}, Spec: OrgMirrorSpec{
		Source:   MirrorSource{Type: UpstreamQuay, URL: "https://quay.example.com", Namespace: "upstream"},
		Schedule: MirrorSchedule{Interval: &metav1.Duration{Duration: time.Hour}},
	}}
	for _, f := range change {
		f(m)
	}
	return m
}

var _ = Describe("ValidateOrgMirror", func() {
	everything := func(m *OrgMirror) {
		start := metav1.NewTime(time.Date(2026, 12, 1, 2, 0, 0, 0, time.FixedZone("", 3600)))
		m.Spec = OrgMirrorSpec{
			Organization: "team-b",
			Source: MirrorSource{
				Type: UpstreamOCI, URL: "http://registry.internal:5000", Namespace: "base/images", InsecureSkipTLSVerify: ptr.To(true),
				CredentialsSecretRef: &SecretReference{Name: "upstream"},
				Proxy:                &MirrorProxy{HTTPProxy: "http://a", HTTPSProxy: "http://b", NoProxy: "c", CredentialsSecretRef: &SecretReference{Name: "proxy"}},
			},
			Repositories: RepositoryFilter{Include: []string{"a/**"}, Exclude: []string{"a/b"}},
			Tags:         TagFilter{Include: []TagMatch{{Glob: "v*"}, {Semver: ">=1"}}, Exclude: []TagMatch{{Regexp: ".*-rc"}}, Newest: ptr.To(int32(5))},
			Platforms:    []string{"linux/arm64/v8"}, Referrers: ReferrersIgnore, Schedule: MirrorSchedule{Cron: "0 4 * * *", StartAt: &start},
			Visibility: VisibilityPublic, OnConflict: ConflictFail, Prune: PruneVanished, Suspend: ptr.To(true),
			Timeout: &metav1.Duration{Duration: time.Minute}, Concurrency: ptr.To(int32(8)), BandwidthLimit: ptr.To(resource.MustParse("10Mi")),
		}
	}

	It("takes the least, and everything", func() {
		Expect(ValidateOrgMirror(testMirror())).To(BeEmpty())
		Expect(ValidateOrgMirror(testMirror(everything))).To(BeEmpty())
	})

	It("has the defaults of the schema also where they were not set", func() {
		Expect(testMirror().MirrorSpec()).To(Equal(domain.MirrorSpec{
			Source:    domain.MirrorSource{Type: domain.UpstreamQuay, URL: "https://quay.example.com", Namespace: "upstream"},
			Referrers: domain.ReferrersCopy, Schedule: domain.MirrorSchedule{Interval: time.Hour}, Visibility: domain.Private,
			OnConflict: domain.ConflictSkip, Prune: domain.PruneNever, Timeout: 10 * time.Minute, Concurrency: 4,
		}))
	})

	It("leaves out nothing", func() {
		Expect(testMirror(everything).MirrorSpec()).To(Equal(domain.MirrorSpec{
			Source: domain.MirrorSource{
				Type: domain.UpstreamOCI, URL: "http://registry.internal:5000", Namespace: "base/images", InsecureSkipTLSVerify: true,
				Proxy: domain.MirrorProxy{HTTP: "http://a", HTTPS: "http://b", NoProxy: "c"},
			},
			Repositories: domain.RepositoryFilter{Include: []string{"a/**"}, Exclude: []string{"a/b"}},
			Tags: domain.TagFilter{
				Include: []domain.TagMatch{{Glob: "v*"}, {Semver: ">=1"}}, Exclude: []domain.TagMatch{{Regexp: ".*-rc"}}, Newest: 5,
			},
			Platforms: []string{"linux/arm64/v8"}, Referrers: domain.ReferrersIgnore,
			Schedule:   domain.MirrorSchedule{Cron: "0 4 * * *", StartAt: time.Date(2026, 12, 1, 1, 0, 0, 0, time.UTC)},
			Visibility: domain.Public, OnConflict: domain.ConflictFail, Prune: domain.PruneVanished, Suspend: true,
			Timeout: time.Minute, Concurrency: 8, BandwidthLimit: 10 << 20,
		}))
	})

	DescribeTable("refuses", func(change func(*OrgMirror), field, detail string) {
		Expect(ValidateOrgMirror(testMirror(change))).To(ConsistOf(And(HaveField("Field", field), HaveField("ErrorBody()", ContainSubstring(detail)))))
	},
		Entry("an organization's name", func(m *OrgMirror) { m.Spec.Organization = "Team" }, "spec.organization", "lower-case"),
		Entry("a glob", func(m *OrgMirror) { m.Spec.Repositories.Exclude = []string{"a", "{b"} }, "spec.repositories.exclude[1]", "{ is not closed"),
		Entry("a constraint", func(m *OrgMirror) { m.Spec.Tags.Include = []TagMatch{{Semver: "newer"}} }, "spec.tags.include[0].semver", "no constraint of versions"),
		Entry("a glob of tags", func(m *OrgMirror) { m.Spec.Tags.Exclude = []TagMatch{{Glob: "[a"}} }, "spec.tags.exclude[0].glob", "[ is not closed"),
		Entry("an expression that is too long in bytes", func(m *OrgMirror) { m.Spec.Tags.Include = []TagMatch{{Regexp: strings.Repeat("é", 129)}} },
			"spec.tags.include[0].regexp", "at most 256"),
		Entry("a cron expression", func(m *OrgMirror) { m.Spec.Schedule = MirrorSchedule{Cron: "61 * * * *"} }, "spec.schedule.cron", "no cron expression"),
		Entry("a day that never comes", func(m *OrgMirror) { m.Spec.Schedule = MirrorSchedule{Cron: "0 0 30 2 *"} }, "spec.schedule.cron", "never comes"),
		Entry("an interval with a fraction", func(m *OrgMirror) { m.Spec.Schedule.Interval.Duration += time.Millisecond }, "spec.schedule.interval", "whole seconds"),
		Entry("a timeout with a fraction", func(m *OrgMirror) { m.Spec.Timeout = &metav1.Duration{Duration: time.Minute + 1} }, "spec.timeout", "whole seconds"),
		Entry("no bandwidth", func(m *OrgMirror) { m.Spec.BandwidthLimit = ptr.To(resource.MustParse("0")) }, "spec.bandwidthLimit", "above 0"),
		Entry("certificates that nothing looks at", func(m *OrgMirror) {
			m.Spec.Source.CABundleRef, m.Spec.Source.InsecureSkipTLSVerify = &BundleReference{Name: "ca"}, ptr.To(true)
		}, "spec.source.insecureSkipTLSVerify", "trusts every certificate"),
		Entry("credentials for no proxy", func(m *OrgMirror) {
			m.Spec.Source.Proxy = &MirrorProxy{CredentialsSecretRef: &SecretReference{Name: "proxy"}}
		}, "spec.source.proxy.credentialsSecretRef", "set one of them"),
	)

	It("repeats no password that somebody put into an address", func() {
		errs := ValidateOrgMirror(testMirror(func(m *OrgMirror) { m.Spec.Source.URL = "https://user:hunter2@quay.example.com" }))
		Expect(errs).To(ConsistOf(HaveField("Field", "spec.source.url")))
		Expect(errs.ToAggregate().Error()).NotTo(ContainSubstring("hunter2"))
	})

	It("fixes which organization a mirror fills", func() {
		changed := testMirror(func(m *OrgMirror) { m.Spec.Organization = "team-a" })
		Expect(ValidateOrgMirrorUpdate(testMirror(), changed)).To(ConsistOf(HaveField("Field", "spec.organization")))
		Expect(ValidateOrgMirrorUpdate(testMirror(), testMirror(func(m *OrgMirror) { m.Spec.Source.URL = "https://other.example.com" }))).To(BeEmpty())
	})
})

var _ = Describe("An OrgMirror", func() {
	It("fills its namespace's organization unless it names another", func() {
		Expect(testMirror().Organization()).To(Equal("team-a"))
		Expect(testMirror(func(m *OrgMirror) { m.Spec.Organization = "team-b" }).Organization()).To(Equal("team-b"))
	})

	It("asks for a sync as far as the registry takes it", func() {
		m := testMirror(func(m *OrgMirror) {
			m.Annotations = map[string]string{RequestedAtAnnotation: " now\n" + strings.Repeat("é", 300)}
		})
		Expect(m.RequestedAt()).To(Equal("now" + strings.Repeat("é", 252) + "…"))
		Expect(testMirror().RequestedAt()).To(BeEmpty())
	})
})
