package selection_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/selection"
)

func TestSelection(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/selection")
}

func valid() domain.MirrorSpec {
	return selection.WithDefaults(domain.MirrorSpec{
		Source:   domain.MirrorSource{Type: domain.UpstreamQuay, URL: "https://quay.example.com", Namespace: "upstream"},
		Schedule: domain.MirrorSchedule{Interval: time.Hour},
	})
}

var _ = DescribeTable("a glob", func(pattern string, matches, others string) {
	filter, err := selection.CompileRepositories(domain.RepositoryFilter{Include: []string{pattern}})
	Expect(err).NotTo(HaveOccurred())
	for _, name := range strings.Fields(matches) {
		Expect(filter.Selects(name)).To(BeTrue(), name)
	}
	for _, name := range strings.Fields(others) {
		Expect(filter.Selects(name)).To(BeFalse(), name)
	}
},
	Entry(nil, "app", "app", "apps my/app app/x"),
	Entry(nil, "app*", "app apps app-1", "my/app app/x"),
	Entry(nil, "*", "app apps", "my/app"),
	Entry(nil, "**", "app my/app my/own/app", ""),
	Entry(nil, "**/app", "app my/app my/own/app", "myapp my/apps"),
	Entry(nil, "my/**", "my my/app my/own/app", "mine/app"),
	Entry(nil, "my/**/app", "my/app my/own/app my/very/own/app", "app my/own"),
	Entry(nil, "my/a**b", "my/ab my/axb", "my/a/b"),
	Entry(nil, "my/***", "my/ab", "my/a/b"),
	Entry(nil, "v?", "v1 va", "v v12 v/"),
	Entry(nil, "v[0-9]", "v1", "va v12"),
	Entry(nil, "v[!0-9]", "va", "v1 v/"),
	Entry(nil, "v[^0-9a]", "vb", "v1 va"),
	Entry(nil, `v[a\-z]`, "va v- vz", "vb"),
	Entry(nil, `v[\d]`, "vd", "v1"),
	Entry(nil, "{a,b/**}", "a b b/c b/c/d", "c a/b"),
	Entry(nil, "{a,b{c,d}}x", "ax bcx bdx", "bx cx"),
	Entry(nil, "a,b", "a,b", "a b"),
	Entry(nil, `a\*`, "a*", "ab"),
	Entry(nil, "a.b+(c)", "a.b+(c)", "axb"),
	Entry(nil, "ä?", "äö", "a"),
)

var _ = DescribeTable("what is no glob", func(pattern, why string) {
	_, err := selection.CompileRepositories(domain.RepositoryFilter{Exclude: []string{"fine", pattern}})
	Expect(domain.CodeOf(err)).To(Equal(domain.CodeInvalid))
	Expect(err).To(MatchError(And(HavePrefix("repositories.exclude[1]: "), ContainSubstring(why))))
},
	Entry(nil, "", "empty"),
	Entry(nil, strings.Repeat("a", 257), "at most 256"),
	Entry(nil, "{a,b", "{ is not closed"),
	Entry(nil, "a}", "} has no {"),
	Entry(nil, "[a", "[ is not closed"),
	Entry(nil, "[]", "nothing in it"),
	Entry(nil, "[z-a]", "malformed"),
	Entry(nil, `a\`, "ends with a backslash"),
	Entry(nil, "a\xff", "not UTF-8"),
)

var _ = Describe("alternatives", func() {
	It("take no exponential time", func() {
		filter, err := selection.CompileRepositories(domain.RepositoryFilter{Include: []string{strings.Repeat("{a,aa}", 40) + "b"}})
		Expect(err).NotTo(HaveOccurred())
		start := time.Now()
		Expect(filter.Selects(strings.Repeat("a", 100))).To(BeFalse())
		Expect(time.Since(start)).To(BeNumerically("<", time.Minute), "it would take years")
	})
})

var _ = Describe("a filter of repositories", func() {
	It("takes what an include matches and no exclude does", func() {
		filter, err := selection.CompileRepositories(domain.RepositoryFilter{Include: []string{"team/*", "base"}, Exclude: []string{"team/old-*"}})
		Expect(err).NotTo(HaveOccurred())
		for name, selected := range map[string]bool{"team/app": true, "base": true, "team/old-app": false, "other": false} {
			Expect(filter.Selects(name)).To(Equal(selected), name)
		}
		_, plain := filter.Names()
		Expect(plain).To(BeFalse())
	})

	It("takes all without one, and knows a plain list", func() {
		all, err := selection.CompileRepositories(domain.RepositoryFilter{})
		Expect(err).NotTo(HaveOccurred())
		Expect(all.Selects("any/thing")).To(BeTrue())
		_, plain := all.Names()
		Expect(plain).To(BeFalse())
		list, err := selection.CompileRepositories(domain.RepositoryFilter{Include: []string{"b", "a/c", "old", "b"}, Exclude: []string{"o*"}})
		Expect(err).NotTo(HaveOccurred())
		names, plain := list.Names()
		Expect(plain).To(BeTrue())
		Expect(names).To(Equal([]string{"a/c", "b"}))
	})
})

var _ = Describe("a filter of tags", func() {
	tags := strings.Fields("latest v1.0.0 v1.2.0 1.10.0 v2.0.0-rc.1 v2.0.0 nightly-2026-01-02 nightly-2026-01-03 release-1")
	selected := func(filter domain.TagFilter) []string {
		GinkgoHelper()
		t, err := selection.CompileTags(filter)
		Expect(err).NotTo(HaveOccurred())
		return t.Select(tags)
	}

	It("takes all, by name", func() {
		Expect(selected(domain.TagFilter{})).To(HaveLen(len(tags)))
	})
	It("matches by glob, expression and version", func() {
		Expect(selected(domain.TagFilter{Include: []domain.TagMatch{{Glob: "nightly-*"}, {Regexp: "lat.*"}}})).
			To(Equal(strings.Fields("latest nightly-2026-01-02 nightly-2026-01-03")))
		Expect(selected(domain.TagFilter{Include: []domain.TagMatch{{Semver: ">=1.2 <2"}}})).To(Equal(strings.Fields("1.10.0 v1.2.0")))
		Expect(selected(domain.TagFilter{Include: []domain.TagMatch{{Semver: ">=1.2.0-0"}}})).To(Equal(strings.Fields("1.10.0 v1.2.0 v2.0.0 v2.0.0-rc.1")))
		Expect(selected(domain.TagFilter{Include: []domain.TagMatch{{Regexp: "elease"}}})).To(BeEmpty(), "the whole name")
		Expect(selected(domain.TagFilter{Include: []domain.TagMatch{{Regexp: "release-1|x"}}})).To(HaveLen(1))
		Expect(selected(domain.TagFilter{Exclude: []domain.TagMatch{{Semver: "*-0"}, {Glob: "*-*"}}})).To(Equal([]string{"latest"}))
	})
	It("keeps the newest", func() {
		Expect(selected(domain.TagFilter{Newest: 2})).To(ConsistOf("v2.0.0", "v2.0.0-rc.1"))
		Expect(selected(domain.TagFilter{Newest: 3, Include: []domain.TagMatch{{Glob: "v*"}}})).To(ConsistOf("v2.0.0", "v2.0.0-rc.1", "v1.2.0"))
		Expect(selected(domain.TagFilter{Newest: 1, Include: []domain.TagMatch{{Glob: "nightly-*"}}})).To(ConsistOf("nightly-2026-01-03"))
		Expect(selected(domain.TagFilter{Newest: 100})).To(HaveLen(len(tags)))
	})
})

var _ = Describe("platforms", func() {
	It("are selected with or without a variant", func() {
		p, err := selection.CompilePlatforms([]string{"linux/amd64", "linux/arm/v7", "linux/arm64/v8"})
		Expect(err).NotTo(HaveOccurred())
		for platform, is := range map[selection.Platform]bool{
			{OS: "linux", Architecture: "amd64"}: true, {OS: "linux", Architecture: "amd64", Variant: "v2"}: true,
			{OS: "linux", Architecture: "arm", Variant: "v7"}: true, {OS: "linux", Architecture: "arm", Variant: "v6"}: false,
			{OS: "linux", Architecture: "arm64"}: true, {OS: "windows", Architecture: "amd64"}: false,
		} {
			Expect(p.Selects(platform)).To(Equal(is), platform.String())
		}
		all, err := selection.CompilePlatforms(nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(all.All()).To(BeTrue())
		Expect(all.Selects(selection.Platform{OS: "plan9", Architecture: "386"})).To(BeTrue())
		for _, wrong := range []string{"linux", "linux/", "a/b/c/d", "/amd64"} {
			_, err := selection.CompilePlatforms([]string{wrong})
			Expect(err).To(MatchError(HavePrefix("platforms[0]: ")), wrong)
		}
	})
})

var _ = Describe("a schedule", func() {
	now := time.Date(2026, 11, 28, 12, 0, 30, 0, time.UTC)
	next := func(spec domain.MirrorSchedule, last time.Time) time.Time {
		GinkgoHelper()
		s, err := selection.NewSchedule(spec)
		Expect(err).NotTo(HaveOccurred())
		return s.Next(last, now)
	}

	It("of an interval begins at once, or when it may, and goes by the start of the last sync", func() {
		hourly := domain.MirrorSchedule{Interval: time.Hour}
		Expect(next(hourly, time.Time{})).To(Equal(now))
		Expect(next(hourly, now.Add(-10*time.Minute))).To(Equal(now.Add(50 * time.Minute)))
		Expect(next(hourly, now.Add(-2*time.Hour))).To(Equal(now.Add(-time.Hour)), "it is overdue")
		hourly.StartAt = now.Add(24 * time.Hour)
		Expect(next(hourly, time.Time{})).To(Equal(hourly.StartAt))
		Expect(next(hourly, now)).To(Equal(hourly.StartAt))
	})
	It("of cron is UTC", func() {
		daily := domain.MirrorSchedule{Cron: "30 4 * * *"}
		tomorrow := time.Date(2026, 11, 29, 4, 30, 0, 0, time.UTC)
		Expect(next(daily, time.Time{})).To(Equal(tomorrow))
		Expect(next(daily, now.In(time.FixedZone("", 5*3600)))).To(Equal(tomorrow))
		Expect(next(daily, now.Add(-48*time.Hour))).To(Equal(tomorrow.AddDate(0, 0, -2)), "it is overdue")
		daily.StartAt = tomorrow.AddDate(0, 1, 0)
		Expect(next(daily, now)).To(Equal(daily.StartAt), "its own minute counts")
	})
})

var _ = Describe("a mirror's declaration", func() {
	It("is valid with its defaults", func() {
		Expect(selection.Problems(valid())).To(BeEmpty())
		Expect(selection.Validate(valid())).To(Succeed())
	})

	DescribeTable("is refused with the field and what it may be", func(change func(*domain.MirrorSpec), field, message string) {
		spec := valid()
		change(&spec)
		problems := selection.Problems(spec)
		Expect(problems).To(HaveLen(1))
		Expect(problems[0].Field).To(Equal(field))
		Expect(problems[0].Message).To(ContainSubstring(message))
		err := selection.Validate(spec)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeInvalid))
		Expect(err).To(MatchError(field + ": " + problems[0].Message))
	},
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Type = "docker" }, "source.type", "use Quay, Harbor or OCI"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.URL = "ftp://quay.example.com" }, "source.url", "use https or http"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.URL = "quay.example.com" }, "source.url", "use https or http"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.URL = "https://" }, "source.url", "no host"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.URL = "https://quay.example.com/org" }, "source.url", "no path"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.URL = "https://quay.example.com/?a=b" }, "source.url", "neither query"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.URL = "https://" + strings.Repeat("a", 3000) }, "source.url", "at most"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Namespace = "" }, "source.namespace", "required"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Namespace = "a/b" }, "source.namespace", "several segments"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Namespace = "../admin" }, "source.namespace", "invalid"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Namespace = strings.Repeat("a", 256) }, "source.namespace", "at most 255"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.CABundle = "none" }, "source.caBundle", "PEM"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Proxy.HTTP = "socks5://proxy" }, "source.proxy.httpProxy", "use https or http"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Proxy.HTTPS = "http://u:p@proxy:3128" }, "source.proxy.httpsProxy", "credentials"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Source.Proxy.NoProxy = "a\nb" }, "source.proxy.noProxy", "one line"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Repositories.Include = []string{"a", "{"} }, "repositories.include[1]", "no glob"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Repositories.Exclude = make100("a") }, "repositories.exclude", "at most 100"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Tags.Include = []domain.TagMatch{{}} }, "tags.include[0]", "exactly one"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Tags.Include = []domain.TagMatch{{Glob: "a", Semver: "1"}} }, "tags.include[0]", "exactly one"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Tags.Exclude = []domain.TagMatch{{Glob: "["}} }, "tags.exclude[0].glob", "no glob"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Tags.Include = []domain.TagMatch{{Regexp: "(?=a)"}} }, "tags.include[0].regexp", "RE2"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Tags.Include = []domain.TagMatch{{Semver: "newest"}} }, "tags.include[0].semver", "constraint of versions"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Tags.Newest = -1 }, "tags.newest", "less than 0"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Platforms = []string{"amd64"} }, "platforms[0]", "os/architecture"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Referrers = "Some" }, "referrers", "use Copy or Ignore"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Schedule = domain.MirrorSchedule{} }, "schedule", "exactly one"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Schedule.Cron = "* * * * *" }, "schedule", "exactly one"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Schedule.Interval = 59 * time.Second }, "schedule.interval", "from 1m to"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Schedule = domain.MirrorSchedule{Cron: "@daily"} }, "schedule.cron", "minute, hour"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Schedule = domain.MirrorSchedule{Cron: "TZ=0"} }, "schedule.cron", "minute, hour"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Schedule = domain.MirrorSchedule{Cron: "0 0 30 2 *"} }, "schedule.cron", "never comes"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Visibility = "secret" }, "visibility", "use private or public"),
		Entry(nil, func(s *domain.MirrorSpec) { s.OnConflict = "Overwrite" }, "onConflict", "use Skip or Fail"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Prune = "All" }, "prune", "use Never or Vanished"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Timeout = time.Second }, "timeout", "from 30s to 1h"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Concurrency = 33 }, "concurrency", "from 1 to 32"),
		Entry(nil, func(s *domain.MirrorSpec) { s.BandwidthLimit = 10 }, "bandwidthLimit", "1024 or more"),
		Entry(nil, func(s *domain.MirrorSpec) { s.Robot = "somebody" }, "robot", "organization+robot"),
	)

	It("never repeats a password", func() {
		for _, address := range []string{"https://user:geheim@quay.example.com", "https://user:geheim@quay.example.com:x", "https://user:geheim@%zz"} {
			spec := valid()
			spec.Source.URL = address
			Expect(selection.Validate(spec)).To(MatchError(Not(ContainSubstring("geheim"))), address)
		}
	})

	It("says all that is wrong", func() {
		spec := valid()
		spec.Source.Type, spec.Timeout, spec.Prune = "", 0, ""
		var fields []string
		for _, p := range selection.Problems(spec) {
			fields = append(fields, p.Field)
		}
		Expect(fields).To(Equal([]string{"source.type", "prune", "timeout"}))
	})
})

func make100(pattern string) (list []string) {
	for range 101 {
		list = append(list, pattern)
	}
	return list
}
