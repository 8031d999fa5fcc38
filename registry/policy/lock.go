package policy

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// DefaultMaxLock is how far away the end of a policy's lock may be if nobody says otherwise: five years, whichever.
const DefaultMaxLock = 1827 * 24 * time.Hour

// Weakening is a change that a locked policy does not take.
type Weakening struct {
	// Field is the field of the spec that must not change so, Reason says what it may.
	Field, Reason string
}

// Weakens lists what a change of a policy's spec takes away from a lock: until its date a locked policy covers what it
// covered, enforces it, and keeps its holds. Only the reclaim policy and the date may change, and only to hold more.
func Weakens(from, to domain.PolicySpec) (list []Weakening) {
	add := func(field, reason string) { list = append(list, Weakening{field, reason}) }
	const fixed = "what a locked policy covers is fixed; to cover more, create another policy beside it"
	if to.TagPattern != from.TagPattern {
		add("tagPattern", fixed)
	}
	if to.TagPatternMatches != from.TagPatternMatches {
		add("tagPatternMatches", fixed)
	}
	if to.EnforcementMode != from.EnforcementMode {
		add("enforcementMode", "a locked policy stays "+string(domain.Enforce))
	}
	if to.ReclaimPolicy != from.ReclaimPolicy && to.ReclaimPolicy != domain.Retain {
		add("reclaimPolicy", "of a locked policy it can only become "+string(domain.Retain))
	}
	switch {
	case to.LockedUntil.IsZero():
		add("lockedUntil", "it cannot be taken away before that time")
	case to.LockedUntil.Before(from.LockedUntil):
		add("lockedUntil", "it can only be moved to a later time")
	}
	return list
}
