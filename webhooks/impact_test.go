package webhooks

import (
	"strings"
	"testing"
	"unicode/utf8"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

func TestWebhooks(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Webhooks")
}

var _ = Describe("The impact warning", func() {
	policy := func(change ...func(*registryv1alpha1.ImmutabilityPolicy)) *registryv1alpha1.ImmutabilityPolicy {
		p := &registryv1alpha1.ImmutabilityPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "releases"}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	dryRun := func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.EnforcementMode = registryv1alpha1.DryRun }
	inRepository := func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Repository = "backend/api" }

	DescribeTable("says", func(p *registryv1alpha1.ImmutabilityPolicy, c openapi.Coverage, text string) {
		Expect(impact(p, c)).To(Equal(text))
	},
		Entry("how many of how many tags, with examples", policy(), openapi.Coverage{Total: 1203, Covered: 847, Sample: []string{"app:v1.0.0", "web:v2.3.1"}},
			"will lock 847 of 1,203 existing tags in organization team-a, e.g. app:v1.0.0, web:v2.3.1"),
		Entry("large numbers", policy(), openapi.Coverage{Total: 1234567, Covered: 1000000},
			"will lock 1,000,000 of 1,234,567 existing tags in organization team-a"),
		Entry("what is locked already", policy(), openapi.Coverage{Total: 10, Covered: 5, Locked: 4, Sample: []string{"app:v1"}},
			"will lock 5 of 10 existing tags in organization team-a, 4 of them locked already, e.g. app:v1"),
		Entry("that nothing matches", policy(), openapi.Coverage{Total: 999}, "will lock none of 999 existing tags in organization team-a"),
		Entry("that there is nothing", policy(inRepository), openapi.Coverage{}, "there are no tags yet in repository team-a/backend/api"),
		Entry("what a dry run would lock", policy(dryRun), openapi.Coverage{Total: 2, Covered: 1, Sample: []string{"app:v1"}},
			"is a dry run; enforced it would lock 1 of 2 existing tags in organization team-a, e.g. app:v1"),
	)

	It("is never longer than 256 bytes, and never cuts a character", func() {
		for length := range 300 {
			p := policy(func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.Organization = strings.Repeat("é", length) })
			text := impact(p, openapi.Coverage{Total: 9, Covered: 9, Sample: []string{"app:v1", strings.Repeat("v", 128), "app:v2"}})
			Expect(len(text)).To(BeNumerically("<=", 256))
			Expect(utf8.ValidString(text)).To(BeTrue())
		}
	})
})
