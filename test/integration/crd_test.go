package integration

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

var _ = Describe("The CRD of ImmutabilityPolicy", Ordered, func() {
	var namespace *corev1.Namespace

	BeforeAll(func(ctx context.Context) { namespace = newNamespace(ctx) })

	It("sets the defaults", func(ctx context.Context) {
		policy := newPolicy(namespace.Name)
		Expect(admin.Create(ctx, policy, client.DryRunAll)).To(Succeed())
		Expect(policy.Spec).To(Equal(registryv1alpha1.ImmutabilityPolicySpec{
			TagPattern: `v[\d.]+`, TagPatternMatches: ptr.To(true),
			EnforcementMode: registryv1alpha1.Enforce, ReclaimPolicy: registryv1alpha1.Retain, Events: registryv1alpha1.EventsPerTag,
		}))
	})

	DescribeTable("admits", func(ctx context.Context, change policyChange) {
		Expect(admin.Create(ctx, newPolicy(namespace.Name, change), client.DryRunAll)).To(Succeed())
	},
		Entry("an organization", organization("team-a.b__c--d")),
		Entry("a nested repository", repository("backend/api_v2/x")),
		Entry("an inverted pattern", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.TagPatternMatches = ptr.To(false) }),
		Entry("a pattern of 256 characters", pattern(strings.Repeat("v", 256))),
		Entry("a pattern with escaped parentheses", pattern(`\(?=v`)),
		Entry("a dry run", mode(registryv1alpha1.DryRun)),
		Entry("reclaim policy Release", reclaim(registryv1alpha1.Release)),
		Entry("one Event of each sweep", events(registryv1alpha1.EventsSummary)),
		Entry("a lock", lockedFor(time.Hour)),
		Entry("names of 254 characters together", func(p *registryv1alpha1.ImmutabilityPolicy) {
			p.Spec.Organization, p.Spec.Repository = strings.Repeat("o", 100), strings.Repeat("r", 154)
		}),
	)

	DescribeTable("refuses", func(ctx context.Context, change policyChange, field, message string) {
		err := admin.Create(ctx, newPolicy(namespace.Name, change), client.DryRunAll)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring(field), ContainSubstring(message))))
	},
		Entry("no pattern", pattern(""), "spec.tagPattern", "at least 1 chars"),
		Entry("a pattern of 257 characters", pattern(strings.Repeat("v", 257)),
			"spec.tagPattern", "256"),
		Entry("a pattern that is no expression", pattern("v(1"),
			"spec.tagPattern", "missing closing )"),
		Entry("a look-ahead", pattern("v(?!0).*"),
			"spec.tagPattern", "look-arounds and back-references are not supported, set tagPatternMatches to false"),
		Entry("an upper-case organization", organization("Team"),
			"spec.organization", "must be lower-case letters and digits"),
		Entry("an organization with a slash", organization("team/a"),
			"spec.organization", "must be lower-case letters and digits"),
		Entry("a repository that begins with a slash", repository("/api"),
			"spec.repository", "joined by '/'"),
		Entry("names of 255 characters together", func(p *registryv1alpha1.ImmutabilityPolicy) {
			p.Spec.Organization, p.Spec.Repository = strings.Repeat("o", 100), strings.Repeat("r", 155)
		}, "spec", "together are at most 254 characters long"),
		Entry("an unknown mode", mode("Sometimes"),
			"spec.enforcementMode", "Unsupported value"),
		Entry("an unknown reclaim policy", reclaim("Delete"),
			"spec.reclaimPolicy", "Unsupported value"),
		Entry("a lock on a dry run", func(p *registryv1alpha1.ImmutabilityPolicy) {
			lockedFor(time.Hour)(p)
			p.Spec.EnforcementMode = registryv1alpha1.DryRun
		}, "spec", "lockedUntil needs enforcementMode Enforce"),
		Entry("unknown Events", events("Never"),
			"spec.events", "Unsupported value"),
	)

	DescribeTable("keeps what a policy names", func(ctx context.Context, was, is policyChange, message string) {
		policy := newPolicy(namespace.Name, func(p *registryv1alpha1.ImmutabilityPolicy) { p.Name, p.GenerateName = "", "policy-" }, was)
		Expect(admin.Create(ctx, policy)).To(Succeed())
		before := policy.DeepCopy()
		is(policy)
		err := admin.Patch(ctx, policy, client.MergeFrom(before))
		if message == "" {
			Expect(err).NotTo(HaveOccurred())
			return
		}
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(ContainSubstring(message)))
	},
		Entry("organization: another", organization("a"), organization("b"), "organization cannot be changed, set or removed"),
		Entry("organization: set later", organization(""), organization("b"), "organization cannot be changed, set or removed"),
		Entry("organization: removed", organization("a"), organization(""), "organization cannot be changed, set or removed"),
		Entry("repository: another", repository("a"), repository("b"), "repository cannot be changed, set or removed"),
		Entry("repository: set later", repository(""), repository("b"), "repository cannot be changed, set or removed"),
		Entry("repository: removed", repository("a"), repository(""), "repository cannot be changed, set or removed"),
		Entry("pattern: may change", organization("a"), pattern("w"), ""),
	)
})
