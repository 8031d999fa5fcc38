package v1alpha1

import (
	"cmp"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/policy"
)

// PolicySpec returns the spec as the registry takes it, with the defaults of fields that are not set.
func (p *ImmutabilityPolicy) PolicySpec() domain.PolicySpec {
	spec := domain.PolicySpec{
		TagPattern:        p.Spec.TagPattern,
		TagPatternMatches: p.Spec.TagPatternMatches == nil || *p.Spec.TagPatternMatches,
		EnforcementMode:   domain.EnforcementMode(p.Spec.EnforcementMode),
		ReclaimPolicy:     domain.ReclaimPolicy(p.Spec.ReclaimPolicy),
	}
	if spec.EnforcementMode == "" {
		spec.EnforcementMode = domain.Enforce
	}
	if spec.ReclaimPolicy == "" {
		spec.ReclaimPolicy = domain.Retain
	}
	if p.Spec.LockedUntil != nil {
		spec.LockedUntil = p.Spec.LockedUntil.UTC()
	}
	return spec
}

// Locked reports whether nobody may weaken or delete the policy.
func (p *ImmutabilityPolicy) Locked(now time.Time) bool {
	until := p.Spec.LockedUntil
	return until != nil && until.After(now) && !until.Equal(p.Status.LockExpired)
}

// EventsMode returns the mode of Events as the registry takes it, with the default where it is not set.
func (p *ImmutabilityPolicy) EventsMode() domain.EventsMode {
	return cmp.Or(domain.EventsMode(p.Spec.Events), domain.EventsPerTag)
}

// ValidateImmutabilityPolicy checks a policy by the registry's own rules. The webhook and the reconciler share it: an
// object can get past admission, for instance where webhooks are not installed.
func ValidateImmutabilityPolicy(p *ImmutabilityPolicy) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if err := domain.ValidateOrganization(p.Organization()); err != nil {
		errs = append(errs, field.Invalid(spec.Child("organization"), p.Spec.Organization, err.Error()))
	}
	if path := p.Spec.Repository; path != "" {
		if err := domain.ValidateRepositoryPath(path); err != nil {
			errs = append(errs, field.Invalid(spec.Child("repository"), path, err.Error()))
		}
		if name := p.Organization() + "/" + path; len(name) > domain.MaxRepositoryName {
			errs = append(errs, field.Invalid(spec.Child("repository"), path,
				fmt.Sprintf("organization %s and repository together are %d bytes long; at most %d are allowed", p.Organization(), len(name), domain.MaxRepositoryName)))
		}
	}
	policySpec := p.PolicySpec()
	if err := policy.ValidatePattern(policySpec.TagPattern); err != nil {
		errs = append(errs, field.Invalid(spec.Child("tagPattern"), p.Spec.TagPattern, err.Error()))
	}
	switch policySpec.EnforcementMode {
	case domain.Enforce, domain.DryRun:
	default:
		errs = append(errs, field.NotSupported(spec.Child("enforcementMode"), p.Spec.EnforcementMode, []EnforcementMode{Enforce, DryRun}))
	}
	switch policySpec.ReclaimPolicy {
	case domain.Retain, domain.Release:
	default:
		errs = append(errs, field.NotSupported(spec.Child("reclaimPolicy"), p.Spec.ReclaimPolicy, []ReclaimPolicy{Retain, Release}))
	}
	if p.Spec.LockedUntil != nil && policySpec.EnforcementMode != domain.Enforce {
		errs = append(errs, field.Forbidden(spec.Child("lockedUntil"), fmt.Sprintf("needs enforcementMode %s", Enforce)))
	}
	switch p.EventsMode() {
	case domain.EventsPerTag, domain.EventsSummary:
	default:
		errs = append(errs, field.NotSupported(spec.Child("events"), p.Spec.Events, []EventsMode{EventsPerTag, EventsSummary}))
	}
	return errs
}

// ValidateImmutabilityPolicyUpdate checks a change of a policy: what it names is fixed.
func ValidateImmutabilityPolicyUpdate(old, p *ImmutabilityPolicy) field.ErrorList {
	errs := ValidateImmutabilityPolicy(p)
	spec := field.NewPath("spec")
	fixed := func(name, was, is string) {
		if was != is {
			errs = append(errs, field.Forbidden(spec.Child(name), fmt.Sprintf("cannot be changed from %q to %q: create another policy beside this one", was, is)))
		}
	}
	fixed("organization", old.Spec.Organization, p.Spec.Organization)
	fixed("repository", old.Spec.Repository, p.Spec.Repository)
	return errs
}

// ValidateLock checks a change of a policy that may be locked: a locked one must not be weakened.
func ValidateLock(old, p *ImmutabilityPolicy, now time.Time) field.ErrorList {
	if !old.Locked(now) {
		return nil
	}
	var errs field.ErrorList
	for _, w := range policy.Weakens(old.PolicySpec(), p.PolicySpec()) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", w.Field), fmt.Sprintf("the policy is locked until %s: %s", LockEnd(old), w.Reason)))
	}
	return errs
}

// ValidateLockEnd checks how far away the end of a policy's lock is. What stood there before counts for nothing.
func ValidateLockEnd(p *ImmutabilityPolicy, before *metav1.Time, now time.Time, longest time.Duration) field.ErrorList {
	until := p.Spec.LockedUntil
	if until == nil || until.Equal(before) || !until.After(now.Add(longest)) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "lockedUntil"), LockEnd(p),
		fmt.Sprintf("is too far away: a policy can be locked for %d days at most (--policies-max-lock)", longest/(24*time.Hour)))}
}

// LockEnd writes until when a policy is locked.
func LockEnd(p *ImmutabilityPolicy) string {
	if p.Spec.LockedUntil == nil {
		return ""
	}
	return p.Spec.LockedUntil.UTC().Format(time.RFC3339)
}
