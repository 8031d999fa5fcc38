package policy_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/policy"
)

func revision(id int64, repository, pattern string, change func(*domain.PolicyRevision)) domain.PolicyRevision {
	r := domain.PolicyRevision{PolicyID: id, Repository: repository, Revision: 1, State: domain.RevisionCurrent, PolicySpec: domain.PolicySpec{
		TagPattern: pattern, TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	}}
	if change != nil {
		change(&r)
	}
	return r
}

func TestSet(t *testing.T) {
	g := NewWithT(t)
	set, err := policy.NewSet([]domain.PolicyRevision{
		revision(1, "", "v.*", nil),
		revision(2, "app", "r.*", nil),
		revision(3, "", "d.*", func(r *domain.PolicyRevision) { r.EnforcementMode = domain.DryRun }),
		revision(4, "", "c.*", func(r *domain.PolicyRevision) { r.State, r.TagBound = domain.RevisionClosing, 10 }),
	})
	g.Expect(err).NotTo(HaveOccurred())
	locks := func(repository string, id int64, name string) bool { return set.Locking(repository, id, name) != nil }
	g.Expect(locks("app", 1, "v1")).To(BeTrue())
	g.Expect(locks("app", 1, "r1")).To(BeTrue())
	g.Expect(locks("web", 1, "r1")).To(BeFalse(), "another repository's policy")
	g.Expect(locks("app", 1, "d1")).To(BeFalse(), "a dry run")
	g.Expect(locks("app", 10, "c1")).To(BeTrue(), "there when the revision closed")
	g.Expect(locks("app", 11, "c1")).To(BeFalse(), "created later")
	g.Expect(set.Creating("app", "c1")).To(BeEmpty())
	g.Expect(set.Creating("app", "v1")).To(HaveLen(1))
	g.Expect(set.DryRun("app", "d1")).To(HaveLen(1))
	g.Expect(set.Without(1, 1).Locking("app", 1, "v1")).To(BeNil())
	g.Expect(set.OfPolicy(2).Locking("app", 1, "v1")).To(BeNil())
}

func TestAPatternThatCannotBeCompiledFailsClosed(t *testing.T) {
	g := NewWithT(t)
	_, err := policy.NewSet([]domain.PolicyRevision{revision(1, "", "(", nil)})
	g.Expect(err).To(HaveOccurred())
}

// Backtracking engines take years for this; Quay's gave up after a second and took the tag for mutable.
func TestMatchesPolicyDoesNotHang(t *testing.T) {
	g := NewWithT(t)
	matcher, err := policy.NewMatcher(domain.PolicySpec{TagPattern: `(a+)+(a+)+(a+)+$`, TagPatternMatches: true})
	g.Expect(err).NotTo(HaveOccurred())
	done := make(chan bool, 1)
	go func() { done <- matcher.Covers(strings.Repeat("a", 127) + "!") }()
	g.Eventually(done).WithTimeout(time.Second).Should(Receive(BeFalse()))
}
