package v1alpha1

import (
	"cmp"
	"fmt"

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
	return spec
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
