package v1alpha1

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/domain"
)

// Applied is what AppliedByAnnotation says: who made the latest change of an object's spec.
//
// +kubebuilder:object:generate=false
type Applied struct {
	// Generation is the generation of the object that the change made.
	Generation int64 `json:"generation"`
	// Username and UID are those of the request's user; many users have no UID.
	Username string `json:"username"`
	UID      string `json:"uid,omitempty"`
}

// ParseApplied reads AppliedByAnnotation. It reports false where there is no stamp, or none that can be read.
func ParseApplied(annotations map[string]string) (applied Applied, ok bool) {
	err := json.Unmarshal([]byte(annotations[AppliedByAnnotation]), &applied)
	return applied, err == nil && applied.Generation > 0 && applied.Username != ""
}

// ClaimedRevision reads RevisionAnnotation as the audit log takes it: without unprintable characters, and cut at 256
// characters, the last of which marks the cut.
func ClaimedRevision(annotations map[string]string) string {
	return printable(annotations[RevisionAnnotation])
}

// printable is a text as the registry takes it from an annotation.
func printable(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text))
	if utf8.RuneCountInString(text) > domain.MaxRevisionClaimed {
		text = string([]rune(text)[:domain.MaxRevisionClaimed-1]) + "…"
	}
	return text
}
