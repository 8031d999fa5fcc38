package webhooks

import (
	"fmt"
	"strconv"
	"strings"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// maxWarning is the length that the API server passes on whatever else there is to warn of.
const maxWarning = 256

// impact says what a policy means for the tags that exist, in one line of at most maxWarning bytes.
func impact(policy *registryv1alpha1.ImmutabilityPolicy, c openapi.Coverage) string {
	verb := "will lock"
	if policy.PolicySpec().EnforcementMode == domain.DryRun {
		verb = "is a dry run; enforced it would lock"
	}
	switch {
	case c.Total == 0:
		return shorten("there are no tags yet in " + policy.Scope())
	case c.Covered == 0:
		return shorten(fmt.Sprintf("%s none of %s existing tags in %s", verb, count(c.Total), policy.Scope()))
	}
	text := fmt.Sprintf("%s %s of %s existing tags in %s", verb, count(c.Covered), count(c.Total), policy.Scope())
	if c.Locked > 0 {
		text += fmt.Sprintf(", %s of them locked already", count(c.Locked))
	}
	return withExamples(text, c.Sample)
}

// shorten cuts a warning where the API server would.
func shorten(text string) string { return registryv1alpha1.Shorten(text, maxWarning) }

// withExamples appends as many examples as fit.
func withExamples(text string, examples []string) string {
	separator := ", e.g. "
	for _, example := range examples {
		if len(text)+len(separator)+len(example) > maxWarning {
			break
		}
		text += separator + example
		separator = ", "
	}
	return shorten(text)
}

// count writes a number with separators of thousands.
func count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
