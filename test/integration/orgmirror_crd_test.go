package integration

import (
	"context"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

type mirrorChange = func(*registryv1alpha1.OrgMirror)

// newMirror makes a mirror of an upstream's organization "upstream" into the organization of the namespace's name.
func newMirror(namespace string, change ...mirrorChange) *registryv1alpha1.OrgMirror {
	mirror := &registryv1alpha1.OrgMirror{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "upstream"},
		Spec: registryv1alpha1.OrgMirrorSpec{
			Source:   registryv1alpha1.MirrorSource{Type: registryv1alpha1.UpstreamQuay, URL: "https://quay.example.com", Namespace: "upstream"},
			Schedule: registryv1alpha1.MirrorSchedule{Interval: &metav1.Duration{Duration: time.Hour}},
		},
	}
	for _, f := range change {
		f(mirror)
	}
	return mirror
}

func fromURL(url string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.Source.URL = url }
}

func upstream(kind registryv1alpha1.UpstreamType, namespace string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.Source.Type, m.Spec.Source.Namespace = kind, namespace }
}

func into(organization string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.Organization = organization }
}

func every(interval time.Duration) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) {
		m.Spec.Schedule.Interval = &metav1.Duration{Duration: interval}
	}
}

func byCron(expression string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) {
		m.Spec.Schedule = registryv1alpha1.MirrorSchedule{Cron: expression}
	}
}

func onlyTags(matches ...registryv1alpha1.TagMatch) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.Tags.Include = matches }
}

func onlyRepositories(globs ...string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.Repositories.Include = globs }
}

func through(proxy registryv1alpha1.MirrorProxy) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.Source.Proxy = &proxy }
}

func withCredentials(secret string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) {
		m.Spec.Source.CredentialsSecretRef = &registryv1alpha1.SecretReference{Name: secret}
	}
}

func limitedTo(bandwidth string) mirrorChange {
	return func(m *registryv1alpha1.OrgMirror) { m.Spec.BandwidthLimit = ptr.To(resource.MustParse(bandwidth)) }
}

var _ = Describe("The CRD of OrgMirror", Ordered, func() {
	var namespace string

	BeforeAll(func(ctx context.Context) { namespace = newNamespace(ctx).Name })

	It("sets the defaults", func(ctx context.Context) {
		mirror := newMirror(namespace, func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Name: "ca"}
		})
		Expect(admin.Create(ctx, mirror, client.DryRunAll)).To(Succeed())
		Expect(mirror.Spec).To(Equal(registryv1alpha1.OrgMirrorSpec{
			Source: registryv1alpha1.MirrorSource{
				Type: registryv1alpha1.UpstreamQuay, URL: "https://quay.example.com", Namespace: "upstream",
				CABundleRef: &registryv1alpha1.BundleReference{Kind: registryv1alpha1.BundleConfigMap, Name: "ca", Key: "ca.crt"},
			},
			Schedule:  registryv1alpha1.MirrorSchedule{Interval: &metav1.Duration{Duration: time.Hour}},
			Referrers: registryv1alpha1.ReferrersCopy, Visibility: registryv1alpha1.VisibilityPrivate,
			OnConflict: registryv1alpha1.ConflictSkip, Prune: registryv1alpha1.PruneNever,
			Timeout: &metav1.Duration{Duration: 10 * time.Minute}, Concurrency: ptr.To(int32(4)),
		}))
	})

	DescribeTable("admits", func(ctx context.Context, change ...mirrorChange) {
		Expect(admin.Create(ctx, newMirror(namespace, change...), client.DryRunAll)).To(Succeed())
	},
		Entry("an organization", into("team-a.b__c--d")),
		Entry("an address with a port", fromURL("http://registry.internal:5000")),
		Entry("an IPv6 address", fromURL("https://[2001:db8::1]:5000/")),
		Entry("Harbor", upstream(registryv1alpha1.UpstreamHarbor, "project")),
		Entry("a whole OCI registry", upstream(registryv1alpha1.UpstreamOCI, "")),
		Entry("a part of an OCI registry", upstream(registryv1alpha1.UpstreamOCI, "team/base")),
		Entry("the shortest interval", every(time.Minute)),
		Entry("a cron expression", byCron("*/15 2-4 * * 1,3")),
		Entry("tags in every way", onlyTags(registryv1alpha1.TagMatch{Glob: "v*"}, registryv1alpha1.TagMatch{Regexp: `v\d+`}, registryv1alpha1.TagMatch{Semver: ">=1.2 <2"})),
		Entry("the newest tags", func(m *registryv1alpha1.OrgMirror) { m.Spec.Tags.Newest = ptr.To(int32(10)) }),
		Entry("as many globs as there may be", onlyRepositories(slices.Repeat([]string{strings.Repeat("a", 256)}, 100)...)),
		Entry("as many tags as there may be", onlyTags(slices.Repeat([]registryv1alpha1.TagMatch{{Regexp: strings.Repeat("a", 256)}}, 100)...)),
		Entry("platforms", func(m *registryv1alpha1.OrgMirror) { m.Spec.Platforms = []string{"linux/amd64", "linux/arm/v7"} }),
		Entry("proxies", through(registryv1alpha1.MirrorProxy{
			HTTPProxy: "http://proxy.internal:3128", HTTPSProxy: "https://proxy.internal", NoProxy: "localhost,10.0.0.0/8",
			CredentialsSecretRef: &registryv1alpha1.SecretReference{Name: "proxy"},
		})),
		Entry("a limit of the bandwidth", limitedTo("10Mi")),
		Entry("the least limit of the bandwidth", limitedTo("1024")),
		Entry("all modes", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Referrers, m.Spec.Visibility = registryv1alpha1.ReferrersIgnore, registryv1alpha1.VisibilityPublic
			m.Spec.OnConflict, m.Spec.Prune, m.Spec.Suspend = registryv1alpha1.ConflictFail, registryv1alpha1.PruneVanished, ptr.To(true)
		}),
		Entry("credentials, certificates and a time to start at", withCredentials("upstream"), func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Kind: registryv1alpha1.BundleSecret, Name: "ca", Key: "tls.crt"}
			m.Spec.Schedule.StartAt = ptr.To(metav1.Now())
		}),
	)

	const userPart = "must not contain a user: many can read this object"
	DescribeTable("refuses", func(ctx context.Context, change mirrorChange, field, message string) {
		err := admin.Create(ctx, newMirror(namespace, change), client.DryRunAll)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring(field+": "), ContainSubstring(message))))
	},
		Entry("an upper-case organization", into("Team"), "spec.organization", "must be lower-case letters and digits"),
		Entry("an organization with a slash", into("team/a"), "spec.organization", "must be lower-case letters and digits"),
		Entry("an unknown type", upstream("Docker", "a"), "spec.source.type", "Unsupported value"),
		Entry("no address", fromURL(""), "spec.source.url", "must be an address"),
		Entry("a host alone", fromURL("quay.io"), "spec.source.url", "must be an address"),
		Entry("another scheme", fromURL("ftp://quay.io"), "spec.source.url", "must be an address"),
		Entry("a scheme alone", fromURL("https://"), "spec.source.url", "must be an address"),
		Entry("an address with a path", fromURL("https://quay.io/v2"), "spec.source.url", "without a path"),
		Entry("a user in the address", fromURL("https://user@quay.io"), "spec.source.url", userPart),
		Entry("a password in the address", fromURL("https://user:secret@quay.io"), "spec.source.url", userPart),
		Entry("a query in the address", fromURL("https://quay.io/?a=b"), "spec.source.url", "must not have a query or fragment"),
		Entry("a fragment in the address", fromURL("https://quay.io#a"), "spec.source.url", "must not have a query or fragment"),
		Entry("an address that is too long", fromURL("https://"+strings.Repeat("a", 505)), "spec.source.url", "512"),
		Entry("Quay without a namespace", upstream(registryv1alpha1.UpstreamQuay, ""), "spec.source.namespace", "is required for Quay"),
		Entry("Harbor without a project", upstream(registryv1alpha1.UpstreamHarbor, ""), "spec.source.namespace", "is required for Quay (the organization) and Harbor (the project)"),
		Entry("a nested namespace of Quay", upstream(registryv1alpha1.UpstreamQuay, "a/b"), "spec.source.namespace", "is one segment"),
		Entry("a namespace that begins with a slash", upstream(registryv1alpha1.UpstreamOCI, "/a"), "spec.source.namespace", "must be segments"),
		Entry("an upper-case namespace", upstream(registryv1alpha1.UpstreamOCI, "A"), "spec.source.namespace", "must be segments"),
		Entry("a Secret without a name", withCredentials(""), "spec.source.credentialsSecretRef.name", "at least 1 chars"),
		Entry("certificates of another kind", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Kind: "Pod", Name: "ca"}
		}, "spec.source.caBundleRef.kind", "Unsupported value"),
		Entry("certificates that nothing looks at", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Name: "ca"}
			m.Spec.Source.InsecureSkipTLSVerify = ptr.To(true)
		}, "spec.source.insecureSkipTLSVerify", "trusts every certificate"),
		Entry("a proxy that is no address", through(registryv1alpha1.MirrorProxy{HTTPProxy: "proxy:3128"}), "spec.source.proxy.httpProxy", "must be an address"),
		Entry("a user in the address of a proxy", through(registryv1alpha1.MirrorProxy{HTTPProxy: "http://user:secret@proxy"}), "spec.source.proxy.httpProxy", userPart),
		Entry("a query in the address of a proxy", through(registryv1alpha1.MirrorProxy{HTTPProxy: "http://proxy?a"}), "spec.source.proxy.httpProxy", "must not have a query"),
		Entry("a proxy for https that is no address", through(registryv1alpha1.MirrorProxy{HTTPSProxy: "socks5://proxy"}), "spec.source.proxy.httpsProxy", "must be an address"),
		Entry("a user in the address of a proxy for https", through(registryv1alpha1.MirrorProxy{HTTPSProxy: "http://user@proxy"}), "spec.source.proxy.httpsProxy", userPart),
		Entry("a fragment in the address of a proxy for https", through(registryv1alpha1.MirrorProxy{HTTPSProxy: "http://proxy#a"}), "spec.source.proxy.httpsProxy", "must not have a query"),
		Entry("credentials for no proxy", through(registryv1alpha1.MirrorProxy{NoProxy: "a", CredentialsSecretRef: &registryv1alpha1.SecretReference{Name: "proxy"}}),
			"spec.source.proxy", "credentialsSecretRef is for httpProxy and httpsProxy"),
		Entry("too many globs", onlyRepositories(slices.Repeat([]string{"a"}, 101)...), "spec.repositories.include", "at most 100"),
		Entry("an empty glob", onlyRepositories("a", ""), "spec.repositories.include[1]", "at least 1 chars"),
		Entry("a glob that is too long", onlyRepositories(strings.Repeat("a", 257)), "spec.repositories.include[0]", "256"),
		Entry("a tag in no way", onlyTags(registryv1alpha1.TagMatch{Glob: "a"}, registryv1alpha1.TagMatch{}), "spec.tags.include[1]", "exactly one of glob, regexp and semver"),
		Entry("a tag in two ways", onlyTags(registryv1alpha1.TagMatch{Glob: "a", Semver: "1"}), "spec.tags.include[0]", "exactly one of glob, regexp and semver"),
		Entry("an excluded tag in two ways", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Tags.Exclude = []registryv1alpha1.TagMatch{{Glob: "a", Regexp: "a"}}
		}, "spec.tags.exclude[0]", "exactly one of glob, regexp and semver"),
		Entry("an expression that is none", onlyTags(registryv1alpha1.TagMatch{Regexp: "v("}), "spec.tags.include[0].regexp", "missing closing )"),
		Entry("a look-ahead", onlyTags(registryv1alpha1.TagMatch{Regexp: "v(?!0)"}), "spec.tags.include[0].regexp", "put what is not wanted into exclude"),
		Entry("none of the newest tags", func(m *registryv1alpha1.OrgMirror) { m.Spec.Tags.Newest = ptr.To(int32(0)) }, "spec.tags.newest", "greater than or equal to 1"),
		Entry("a platform without an architecture", func(m *registryv1alpha1.OrgMirror) { m.Spec.Platforms = []string{"linux/amd64", "linux"} },
			"spec.platforms[1]", "must be os/architecture"),
		Entry("unknown referrers", func(m *registryv1alpha1.OrgMirror) { m.Spec.Referrers = "Some" }, "spec.referrers", "Unsupported value"),
		Entry("no schedule", func(m *registryv1alpha1.OrgMirror) { m.Spec.Schedule = registryv1alpha1.MirrorSchedule{} }, "spec.schedule", "exactly one of interval and cron"),
		Entry("two schedules", func(m *registryv1alpha1.OrgMirror) { m.Spec.Schedule.Cron = "0 0 * * *" }, "spec.schedule", "exactly one of interval and cron"),
		Entry("an interval that is too short", every(59*time.Second), "spec.schedule.interval", "must be a duration from 60s"),
		Entry("an interval that is too long", every(8785*time.Hour), "spec.schedule.interval", "must be a duration from 60s to 8784h"),
		Entry("an interval with a fraction", every(time.Minute+time.Millisecond), "spec.schedule.interval", "must be a duration from 60s"),
		Entry("a cron expression of six fields", byCron("0 0 * * * *"), "spec.schedule.cron", "must have five fields"),
		Entry("a cron expression with a name", byCron("@daily"), "spec.schedule.cron", "must have five fields"),
		Entry("an unknown visibility", func(m *registryv1alpha1.OrgMirror) { m.Spec.Visibility = "internal" }, "spec.visibility", "Unsupported value"),
		Entry("an unknown way with conflicts", func(m *registryv1alpha1.OrgMirror) { m.Spec.OnConflict = "Overwrite" }, "spec.onConflict", "Unsupported value"),
		Entry("an unknown way to prune", func(m *registryv1alpha1.OrgMirror) { m.Spec.Prune = "Always" }, "spec.prune", "Unsupported value"),
		Entry("a timeout that is too short", func(m *registryv1alpha1.OrgMirror) { m.Spec.Timeout = &metav1.Duration{Duration: 29 * time.Second} },
			"spec.timeout", "must be a duration from 30s to 1h"),
		Entry("a timeout that is too long", func(m *registryv1alpha1.OrgMirror) { m.Spec.Timeout = &metav1.Duration{Duration: 2 * time.Hour} },
			"spec.timeout", "must be a duration from 30s to 1h"),
		Entry("no transfers", func(m *registryv1alpha1.OrgMirror) { m.Spec.Concurrency = ptr.To(int32(0)) }, "spec.concurrency", "greater than or equal to 1"),
		Entry("too many transfers", func(m *registryv1alpha1.OrgMirror) { m.Spec.Concurrency = ptr.To(int32(33)) }, "spec.concurrency", "less than or equal to 32"),
		Entry("a limit of the bandwidth that is too low", limitedTo("1023"), "spec.bandwidthLimit", "at least 1Ki"),
		Entry("a limit of the bandwidth below zero", limitedTo("-1Mi"), "spec.bandwidthLimit", "at least 1Ki"),
		Entry("a limit of the bandwidth with a fraction", limitedTo("1024500m"), "spec.bandwidthLimit", "must be whole bytes a second"),
	)

	DescribeTable("refuses what the Go types cannot say,", func(ctx context.Context, value any, message string, path ...string) {
		object := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": registryv1alpha1.GroupVersion.String(), "kind": "OrgMirror", "metadata": map[string]any{"namespace": namespace, "name": "raw"},
			"spec": map[string]any{"source": map[string]any{"type": "OCI", "url": "https://registry.example.com"}, "schedule": map[string]any{"interval": "1h"}},
		}}
		Expect(unstructured.SetNestedField(object.Object, value, path...)).To(Succeed())
		err := admin.Create(ctx, object, client.DryRunAll)
		if message == "" {
			Expect(err).NotTo(HaveOccurred())
			return
		}
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring(strings.Join(path, ".")), ContainSubstring(message))))
	},
		Entry("an interval that is none", "soon", "must be a duration from 60s", "spec", "schedule", "interval"),
		Entry("an interval in days", "1d", "must be a duration from 60s", "spec", "schedule", "interval"),
		Entry("an interval below zero", "-1h", "must be a duration from 60s", "spec", "schedule", "interval"),
		Entry("a start that is no time", "tomorrow", "date-time", "spec", "schedule", "startAt"),
		Entry("a timeout that is none", "", "must be a duration from 30s", "spec", "timeout"),
		Entry("a bandwidth that is none", "fast", "bandwidthLimit", "spec", "bandwidthLimit"),
		Entry("but a bandwidth as a number", int64(1<<20), "", "spec", "bandwidthLimit"),
	)

	DescribeTable("keeps which organization a mirror fills", func(ctx context.Context, was, is mirrorChange, message string) {
		mirror := newMirror(namespace, func(m *registryv1alpha1.OrgMirror) { m.Name, m.GenerateName = "", "mirror-" }, was)
		Expect(admin.Create(ctx, mirror)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, mirror)).To(Succeed()) })
		before := mirror.DeepCopy()
		is(mirror)
		err := admin.Patch(ctx, mirror, client.MergeFrom(before))
		if message == "" {
			Expect(err).NotTo(HaveOccurred())
			return
		}
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("another", into("a"), into("b"), "organization cannot be changed, set or removed"),
		Entry("set later", into(""), into("b"), "organization cannot be changed, set or removed"),
		Entry("removed", into("a"), into(""), "organization cannot be changed, set or removed"),
		Entry("the source may change", into("a"), fromURL("https://harbor.example.com"), ""),
	)
})
