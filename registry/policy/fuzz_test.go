package policy

import (
	"regexp"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/registry/domain"
)

// FuzzPattern holds that a pattern that is taken matches whole names only, and as RE2 says, whatever is in it.
func FuzzPattern(f *testing.F) {
	for _, pattern := range []string{
		`.*`, `v.*`, `^v[0-9]+\.[0-9]+$`, `a|b`, `a)|(b`, `(?i)V1`, `(?m)^a$`, `\Qa.b`, `\Qa.b\E`, `a*?`, `(a|ab)(c|bcd)`, `(?=a)`, `[[:alpha:]]+`, `\pL+`, `(a{1,9}){1,9}`, `(((((a{9}){9}){9}){9}){9})`, `\z`, `\`, `(?`, ``,
	} {
		f.Add(pattern, "v1.2")
		f.Add(pattern, "abcd")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if err := ValidatePattern(pattern); err != nil {
			if domain.CodeOf(err) != domain.CodeInvalid || len(err.Error()) > 1024 {
				t.Fatalf("%q is refused with %s: %v", pattern, domain.CodeOf(err), err)
			}
			return
		}
		if domain.ValidateTag(name) != nil {
			return
		}
		spec := domain.PolicySpec{TagPattern: pattern, TagPatternMatches: true}
		matcher, err := NewMatcher(spec)
		if err != nil {
			t.Fatalf("%q was taken and cannot be used: %v", pattern, err)
		}
		spec.TagPatternMatches = false
		inverse, err := NewMatcher(spec)
		if err != nil || inverse.Covers(name) == matcher.Covers(name) {
			t.Fatalf("%q and its inverse agree on %q, %v", pattern, name, err)
		}
		// The longest match from the beginning is the whole name if any match is.
		re := regexp.MustCompile(pattern)
		re.Longest()
		at := re.FindStringIndex(name)
		if whole := at != nil && at[0] == 0 && at[1] == len(name); whole != matcher.Covers(name) {
			t.Fatalf("%q covers %q: %v, but RE2 matches %v", pattern, name, matcher.Covers(name), at)
		}
		if strings.Contains(pattern, "(?=") {
			t.Fatalf("%q has a look-around", pattern)
		}
	})
}
