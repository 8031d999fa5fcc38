package v1alpha1

import "unicode/utf8"

// Shorten cuts a text at limit bytes, between characters, and marks the cut. Kubernetes bounds notes of Events, warnings
// and names that way.
func Shorten(text string, limit int) string {
	const ellipsis = "…"
	if len(text) <= limit {
		return text
	}
	end := limit - len(ellipsis)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}
