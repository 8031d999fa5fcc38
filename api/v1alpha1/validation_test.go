package v1alpha1

import (
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tidelock/tidelock/registry/domain"
)

func TestV1alpha1(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "API v1alpha1")
}

func testPolicy(spec ImmutabilityPolicySpec) *ImmutabilityPolicy {
	if spec.TagPattern == "" {
		spec.TagPattern = "v.*"
	}
	return &ImmutabilityPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "releases"}, Spec: spec}
}

var _ = Describe("ValidateImmutabilityPolicy", func() {
	DescribeTable("takes", func(spec ImmutabilityPolicySpec) {
		Expect(ValidateImmutabilityPolicy(testPolicy(spec))).To(BeEmpty())
	},
		Entry("the least", ImmutabilityPolicySpec{}),
		Entry("everything", ImmutabilityPolicySpec{
			Organization: "team-b", Repository: "backend/api", TagPattern: `v\d+`, TagPatternMatches: ptr.To(false), EnforcementMode: DryRun, ReclaimPolicy: Release,
		}),
	)

	DescribeTable("refuses", func(spec ImmutabilityPolicySpec, field, detail string) {
		Expect(ValidateImmutabilityPolicy(testPolicy(spec))).To(ConsistOf(And(HaveField("Field", field), HaveField("ErrorBody()", ContainSubstring(detail)))))
	},
		Entry("an organization's name", ImmutabilityPolicySpec{Organization: "Team"}, "spec.organization", "lower-case"),
		Entry("a repository's path", ImmutabilityPolicySpec{Repository: "a//b"}, "spec.repository", "segments"),
		Entry("a name that is too long with the namespace's", ImmutabilityPolicySpec{Repository: strings.Repeat("r", 249)}, "spec.repository", "at most 255"),
		Entry("a look-ahead", ImmutabilityPolicySpec{TagPattern: "v(?!0)"}, "spec.tagPattern", "tagPatternMatches"),
		Entry("a broken pattern", ImmutabilityPolicySpec{TagPattern: "v("}, "spec.tagPattern", "missing closing )"),
		Entry("a long pattern", ImmutabilityPolicySpec{TagPattern: strings.Repeat("é", 129)}, "spec.tagPattern", "256"),
		Entry("a mode", ImmutabilityPolicySpec{EnforcementMode: "Sometimes"}, "spec.enforcementMode", "supported values"),
		Entry("a reclaim policy", ImmutabilityPolicySpec{ReclaimPolicy: "Delete"}, "spec.reclaimPolicy", "supported values"),
		Entry("Events", ImmutabilityPolicySpec{Events: "Never"}, "spec.events", "supported values"),
	)

	It("fixes what a policy names", func() {
		old := testPolicy(ImmutabilityPolicySpec{})
		changed := testPolicy(ImmutabilityPolicySpec{Organization: "team-a", Repository: "app"})
		Expect(ValidateImmutabilityPolicyUpdate(old, changed)).To(ConsistOf(HaveField("Field", "spec.organization"), HaveField("Field", "spec.repository")))
		Expect(ValidateImmutabilityPolicyUpdate(old, testPolicy(ImmutabilityPolicySpec{TagPattern: "w"}))).To(BeEmpty())
	})
})

var _ = Describe("An ImmutabilityPolicy", func() {
	It("has the defaults of the schema also where they were not set", func() {
		Expect(testPolicy(ImmutabilityPolicySpec{}).PolicySpec()).To(Equal(domain.PolicySpec{
			TagPattern: "v.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
		}))
	})

	It("is about its namespace's organization unless it names another", func() {
		Expect(testPolicy(ImmutabilityPolicySpec{}).Organization()).To(Equal("team-a"))
		Expect(testPolicy(ImmutabilityPolicySpec{Organization: "team-b"}).Organization()).To(Equal("team-b"))
	})
})

var _ = DescribeTable("ClaimedOrganizations", func(annotation string, claimed ...string) {
	Expect(ClaimedOrganizations(map[string]string{OrganizationsAnnotation: annotation})).To(HaveExactElements(claimed))
},
	Entry("none", ""),
	Entry("one", "a", "a"),
	Entry("blanks and empty names", " a, ,b ,", "a", "b"),
	Entry("any", "*", "*"),
)

var _ = DescribeTable("ParseApplied", func(annotation string, applied Applied, ok bool) {
	found, is := ParseApplied(map[string]string{AppliedByAnnotation: annotation})
	Expect(is).To(Equal(ok))
	if ok {
		Expect(found).To(Equal(applied))
	}
},
	Entry("a stamp", `{"generation":2,"username":"alice","uid":"u"}`, Applied{Generation: 2, Username: "alice", UID: "u"}, true),
	Entry("of a user without UID", `{"generation":2,"username":"alice"}`, Applied{Generation: 2, Username: "alice"}, true),
	Entry("none", "", Applied{}, false),
	Entry("no JSON", "alice", Applied{}, false),
	Entry("nobody", `{"generation":2}`, Applied{}, false),
	Entry("no generation", `{"username":"alice"}`, Applied{}, false),
)

var _ = DescribeTable("ClaimedRevision", func(annotation, claimed string) {
	Expect(ClaimedRevision(map[string]string{RevisionAnnotation: annotation})).To(Equal(claimed))
},
	Entry("none", "", ""),
	Entry("as Flux writes it", "main@sha1:7c2f", "main@sha1:7c2f"),
	Entry("blanks and what cannot be printed", " main\n\x00@1\u202e ", "main@1"),
	Entry("256 characters", strings.Repeat("é", 256), strings.Repeat("é", 256)),
	Entry("more", strings.Repeat("é", 257), strings.Repeat("é", 255)+"…"),
)
