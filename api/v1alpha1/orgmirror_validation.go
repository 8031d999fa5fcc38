package v1alpha1

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/selection"
)

// RequestedAt returns the value of the annotation that asks for a sync, as far as it counts.
func (m *OrgMirror) RequestedAt() string { return printable(m.Annotations[RequestedAtAnnotation]) }

// MirrorSpec returns the spec as the registry takes it, with the defaults of fields that are not set and without what the
// spec only refers to: credentials and certificates.
func (m *OrgMirror) MirrorSpec() domain.MirrorSpec {
	spec := domain.MirrorSpec{
		Source: domain.MirrorSource{
			Type: domain.UpstreamType(m.Spec.Source.Type), URL: m.Spec.Source.URL, Namespace: m.Spec.Source.Namespace,
			InsecureSkipTLSVerify: ptr.Deref(m.Spec.Source.InsecureSkipTLSVerify, false),
		},
		Repositories: domain.RepositoryFilter{Include: m.Spec.Repositories.Include, Exclude: m.Spec.Repositories.Exclude},
		Tags: domain.TagFilter{
			Include: tagMatches(m.Spec.Tags.Include), Exclude: tagMatches(m.Spec.Tags.Exclude), Newest: int(ptr.Deref(m.Spec.Tags.Newest, 0)),
		},
		Platforms: m.Spec.Platforms,
		Referrers: domain.ReferrersMode(m.Spec.Referrers),
		Schedule: domain.MirrorSchedule{
			Interval: ptr.Deref(m.Spec.Schedule.Interval, metav1.Duration{}).Duration, Cron: m.Spec.Schedule.Cron,
		},
		Visibility:  domain.Visibility(m.Spec.Visibility),
		OnConflict:  domain.ConflictMode(m.Spec.OnConflict),
		Prune:       domain.PruneMode(m.Spec.Prune),
		Suspend:     ptr.Deref(m.Spec.Suspend, false),
		Timeout:     ptr.Deref(m.Spec.Timeout, metav1.Duration{}).Duration,
		Concurrency: int(ptr.Deref(m.Spec.Concurrency, 0)),
	}
	if proxy := m.Spec.Source.Proxy; proxy != nil {
		spec.Source.Proxy = domain.MirrorProxy{HTTP: proxy.HTTPProxy, HTTPS: proxy.HTTPSProxy, NoProxy: proxy.NoProxy}
	}
	if start := m.Spec.Schedule.StartAt; start != nil {
		spec.Schedule.StartAt = start.UTC()
	}
	if limit := m.Spec.BandwidthLimit; limit != nil {
		spec.BandwidthLimit = limit.Value()
	}
	return selection.WithDefaults(spec)
}

func tagMatches(list []TagMatch) (matches []domain.TagMatch) {
	for _, m := range list {
		matches = append(matches, domain.TagMatch{Glob: m.Glob, Regexp: m.Regexp, Semver: m.Semver})
	}
	return matches
}

// ValidateOrgMirror checks a mirror by the registry's own rules. The webhook and the reconciler share it: an object can
// get past admission, for instance where webhooks are not installed.
func ValidateOrgMirror(m *OrgMirror) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if err := domain.ValidateOrganization(m.Organization()); err != nil {
		errs = append(errs, field.Invalid(spec.Child("organization"), m.Spec.Organization, err.Error()))
	}
	for _, problem := range selection.Problems(m.MirrorSpec()) {
		// The value is not repeated: it may be a URL with a password in it.
		errs = append(errs, field.Invalid(specPath(problem.Field), field.OmitValueType{}, problem.Message))
	}
	source := m.Spec.Source
	if source.CABundleRef != nil && ptr.Deref(source.InsecureSkipTLSVerify, false) {
		errs = append(errs, field.Forbidden(spec.Child("source", "insecureSkipTLSVerify"), "trusts every certificate: remove it, or caBundleRef"))
	}
	if proxy := source.Proxy; proxy != nil && proxy.CredentialsSecretRef != nil && proxy.HTTPProxy == "" && proxy.HTTPSProxy == "" {
		errs = append(errs, field.Forbidden(spec.Child("source", "proxy", "credentialsSecretRef"), "is for httpProxy and httpsProxy: set one of them, or remove it"))
	}
	wholeSeconds := func(path *field.Path, d *metav1.Duration) {
		if d != nil && d.Duration%time.Second != 0 {
			errs = append(errs, field.Invalid(path, d.Duration.String(), "must be whole seconds"))
		}
	}
	wholeSeconds(spec.Child("schedule", "interval"), m.Spec.Schedule.Interval)
	wholeSeconds(spec.Child("timeout"), m.Spec.Timeout)
	if limit := m.Spec.BandwidthLimit; limit != nil && limit.Sign() <= 0 {
		errs = append(errs, field.Invalid(spec.Child("bandwidthLimit"), limit.String(), "must be above 0; leave it out for no limit"))
	}
	return errs
}

// ValidateOrgMirrorUpdate checks a change of a mirror: which organization it fills is fixed.
func ValidateOrgMirrorUpdate(old, m *OrgMirror) field.ErrorList {
	errs := ValidateOrgMirror(m)
	if was, is := old.Spec.Organization, m.Spec.Organization; was != is {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "organization"),
			fmt.Sprintf("cannot be changed from %q to %q: create another mirror, and delete this one", was, is)))
	}
	return errs
}

// specPath makes a path of a problem's field such as "tags.include[0].glob".
func specPath(text string) *field.Path {
	path := field.NewPath("spec")
	for name := range strings.SplitSeq(text, ".") {
		name, index, indexed := strings.Cut(name, "[")
		path = path.Child(name)
		if i, err := strconv.Atoi(strings.TrimSuffix(index, "]")); indexed && err == nil {
			path = path.Index(i)
		}
	}
	return path
}
