// Package policy evaluates immutability policies. It is pure: the same revisions and names always give the same answer.
package policy

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"

	"github.com/tidelock/tidelock/registry/domain"
)

// ValidatePattern checks a tag pattern: RE2 syntax (https://golang.org/s/re2syntax), 1 to domain.MaxPattern bytes.
// The error is an *domain.Error with code INVALID that says what to write instead.
func ValidatePattern(pattern string) error {
	switch {
	case pattern == "":
		return domain.Errorf(domain.CodeInvalid, "tag_pattern must not be empty; use .* for every tag")
	case len(pattern) > domain.MaxPattern:
		return domain.Errorf(domain.CodeInvalid, "tag_pattern must be %d characters or less", domain.MaxPattern)
	}
	_, err := compile(pattern)
	return err
}

// Validate checks all fields of a policy.
func Validate(spec domain.PolicySpec) error {
	if err := ValidatePattern(spec.TagPattern); err != nil {
		return err
	}
	if spec.EnforcementMode != domain.Enforce && spec.EnforcementMode != domain.DryRun {
		return domain.Errorf(domain.CodeInvalid, "enforcementMode %q is not allowed; use %s or %s", spec.EnforcementMode, domain.Enforce, domain.DryRun)
	}
	if spec.ReclaimPolicy != domain.Retain && spec.ReclaimPolicy != domain.Release {
		return domain.Errorf(domain.CodeInvalid, "reclaimPolicy %q is not allowed; use %s or %s", spec.ReclaimPolicy, domain.Retain, domain.Release)
	}
	if !spec.LockedUntil.IsZero() && spec.EnforcementMode != domain.Enforce {
		return domain.Errorf(domain.CodeInvalid, "lockedUntil needs enforcementMode %s", domain.Enforce)
	}
	return nil
}

// compiled keeps patterns that were compiled before: every push evaluates the same few.
var compiled = struct {
	sync.RWMutex
	patterns map[string]*regexp.Regexp
}{patterns: map[string]*regexp.Regexp{}}

// compiledLimit bounds the cache; when it is full, it starts anew.
const compiledLimit = 4096

func compile(pattern string) (*regexp.Regexp, error) {
	compiled.RLock()
	re, ok := compiled.patterns[pattern]
	compiled.RUnlock()
	if ok {
		return re, nil
	}
	// Compiled alone first: `a)|(b` is no pattern although it is one between parentheses.
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, invalid(pattern, err)
	}
	re, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, invalid(pattern, err)
	}
	compiled.Lock()
	defer compiled.Unlock()
	if len(compiled.patterns) >= compiledLimit {
		clear(compiled.patterns)
	}
	compiled.patterns[pattern] = re
	return re, nil
}

func invalid(pattern string, err error) error {
	for _, look := range []string{"(?=", "(?!", "(?<=", "(?<!"} {
		if strings.Contains(pattern, look) {
			return domain.Errorf(domain.CodeInvalid, "Invalid regex pattern: look-around %s...) is not supported (RE2 syntax); to cover what a pattern does not match, set tagPatternMatches to false", look)
		}
	}
	if e, ok := err.(*syntax.Error); ok { //nolint:errorlint // regexp returns it unwrapped
		return domain.Errorf(domain.CodeInvalid, "Invalid regex pattern: %s: `%s` (RE2 syntax)", e.Code, e.Expr)
	}
	return domain.Errorf(domain.CodeInvalid, "Invalid regex pattern: %v (RE2 syntax)", err)
}

// Matcher says which tag names a policy covers.
type Matcher struct {
	re     *regexp.Regexp
	invert bool
}

// NewMatcher compiles a policy's pattern.
func NewMatcher(spec domain.PolicySpec) (Matcher, error) {
	re, err := compile(spec.TagPattern)
	return Matcher{re: re, invert: !spec.TagPatternMatches}, err
}

// Covers reports whether the whole name matches, or does not if the policy is inverted.
func (m Matcher) Covers(name string) bool { return m.re.MatchString(name) != m.invert }

// Revision is a compiled revision of a policy.
type Revision struct {
	domain.PolicyRevision
	Matcher
}

// CoversTag reports whether the revision covers a live tag. A closing revision covers only the tags that were there
// when it was replaced.
func (r *Revision) CoversTag(id int64, name string) bool {
	if r.State == domain.RevisionClosing && id > r.TagBound {
		return false
	}
	return r.Covers(name)
}

// Set holds the revisions in force for the tags of one repository, or of an organization.
type Set struct {
	revisions []Revision
}

// NewSet compiles revisions. An error means that it cannot be determined what is locked: the caller must fail closed.
func NewSet(revisions []domain.PolicyRevision) (Set, error) {
	set := Set{revisions: make([]Revision, 0, len(revisions))}
	for _, revision := range revisions {
		matcher, err := NewMatcher(revision.PolicySpec)
		if err != nil {
			return Set{}, err
		}
		set.revisions = append(set.revisions, Revision{PolicyRevision: revision, Matcher: matcher})
	}
	return set, nil
}

// Locking returns an enforced revision that covers a live tag of the repository, or nil.
func (s Set) Locking(repository string, id int64, name string) *Revision {
	for i := range s.revisions {
		if r := &s.revisions[i]; r.locks(repository, id, name) {
			return r
		}
	}
	return nil
}

// AllLocking returns every enforced revision that covers a live tag of the repository.
func (s Set) AllLocking(repository string, id int64, name string) []*Revision {
	var locking []*Revision
	for i := range s.revisions {
		if r := &s.revisions[i]; r.locks(repository, id, name) {
			locking = append(locking, r)
		}
	}
	return locking
}

func (r *Revision) locks(repository string, id int64, name string) bool {
	return r.EnforcementMode == domain.Enforce && r.inScope(repository) && r.CoversTag(id, name)
}

// Creating returns the current enforced revisions that cover a tag about to be created in the repository.
func (s Set) Creating(repository, name string) []*Revision {
	return s.current(domain.Enforce, repository, name)
}

// DryRun returns the current dry-run revisions that cover a tag of the repository.
func (s Set) DryRun(repository, name string) []*Revision {
	return s.current(domain.DryRun, repository, name)
}

func (s Set) current(mode domain.EnforcementMode, repository, name string) []*Revision {
	var covering []*Revision
	for i := range s.revisions {
		r := &s.revisions[i]
		if r.State == domain.RevisionCurrent && r.EnforcementMode == mode && r.inScope(repository) && r.Covers(name) {
			covering = append(covering, r)
		}
	}
	return covering
}

// Find returns a revision of a policy if it is in force, else nil.
func (s Set) Find(policyID, revision int64) *Revision {
	for i := range s.revisions {
		if r := &s.revisions[i]; r.PolicyID == policyID && r.Revision == revision {
			return r
		}
	}
	return nil
}

// OfPolicy returns the revisions of one policy.
func (s Set) OfPolicy(policyID int64) Set {
	own := Set{}
	for _, r := range s.revisions {
		if r.PolicyID == policyID {
			own.revisions = append(own.revisions, r)
		}
	}
	return own
}

// Without returns the set less the given revision of a policy: what would be in force if it were not.
func (s Set) Without(policyID, revision int64) Set {
	rest := Set{}
	for _, r := range s.revisions {
		if r.PolicyID != policyID || r.Revision != revision {
			rest.revisions = append(rest.revisions, r)
		}
	}
	return rest
}

func (r *Revision) inScope(repository string) bool {
	return r.Repository == "" || r.Repository == repository
}
