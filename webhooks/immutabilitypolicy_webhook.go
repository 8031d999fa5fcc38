// Package webhooks holds what is done at admission: it stamps objects with who changed them, checks the rules that CEL
// cannot express, and warns about what a change will do.
//
// +kubebuilder:webhookconfiguration:mutating=true,name=tidelock
// +kubebuilder:webhookconfiguration:mutating=false,name=tidelock
package webhooks

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
	registrypolicy "github.com/tidelock/tidelock/registry/policy"
)

// registryBudget bounds how long an admission waits for the registry, which never decides.
const registryBudget = time.Second

// Registry is what admission asks of the registry, and tells it.
type Registry interface {
	// Preview says what a policy would mean for the tags that are there.
	Preview(ctx context.Context, policy openapi.PreviewRequest) (openapi.Coverage, error)
	// NoteDeletionIntent tells who asks to delete a policy.
	NoteDeletionIntent(ctx context.Context, namespace, name string, intent openapi.DeletionIntent) error
	// NoteRefusedChange tells who was refused to weaken or delete a policy that is locked.
	NoteRefusedChange(ctx context.Context, namespace, name string, change openapi.RefusedChange) error
	// NoteOrgMirrorDeletionIntent tells who asks to delete a mirror.
	NoteOrgMirrorDeletionIntent(ctx context.Context, namespace, name string, intent openapi.DeletionIntent) error
	// NoteReadonlySuperuserDeletionIntent tells who asks to delete a readonly superuser.
	NoteReadonlySuperuserDeletionIntent(ctx context.Context, name string, intent openapi.DeletionIntent) error
}

// immutabilityPolicyValidator admits or refuses policies by themselves, and warns by what it sees around them.
type immutabilityPolicyValidator struct {
	reader   client.Reader
	registry Registry
	// maxLock is how far away the end of a policy's lock may be.
	maxLock time.Duration
	now     func() time.Time
}

var _ admission.Validator[*registryv1alpha1.ImmutabilityPolicy] = &immutabilityPolicyValidator{}

// scopeIndex finds policies by what they are about.
const scopeIndex = "scope"

// +kubebuilder:webhook:path=/mutate-registry-tidelock-dev-v1alpha1-immutabilitypolicy,mutating=true,failurePolicy=fail,reinvocationPolicy=IfNeeded,sideEffects=None,timeoutSeconds=5,groups=registry.tidelock.dev,resources=immutabilitypolicies,verbs=create;update,versions=v1alpha1,name=stamps.immutabilitypolicies.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:webhook:path=/validate-registry-tidelock-dev-v1alpha1-immutabilitypolicy,mutating=false,failurePolicy=fail,sideEffects=None,timeoutSeconds=5,groups=registry.tidelock.dev,resources=immutabilitypolicies,verbs=create;update,versions=v1alpha1,name=immutabilitypolicies.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:webhook:path=/validate-registry-tidelock-dev-v1alpha1-immutabilitypolicy,mutating=false,failurePolicy=ignore,sideEffects=NoneOnDryRun,timeoutSeconds=2,groups=registry.tidelock.dev,resources=immutabilitypolicies,verbs=delete,versions=v1alpha1,name=deletions.immutabilitypolicies.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=immutabilitypolicies,verbs=get;list;watch

// SetupImmutabilityPolicy registers the webhooks for ImmutabilityPolicy with the manager's webhook server. maxLock is how
// far away the end of a policy's lock may be, the registry's own default if 0.
func SetupImmutabilityPolicy(ctx context.Context, mgr ctrl.Manager, registry Registry, maxLock time.Duration) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &registryv1alpha1.ImmutabilityPolicy{}, scopeIndex, func(o client.Object) []string {
		return []string{o.(*registryv1alpha1.ImmutabilityPolicy).Scope()}
	})
	if err != nil {
		return fmt.Errorf("indexing policies by scope: %w", err)
	}
	validator := &immutabilityPolicyValidator{reader: mgr.GetClient(), registry: registry, maxLock: cmp.Or(maxLock, registrypolicy.DefaultMaxLock), now: time.Now}
	mgr.GetWebhookServer().Register(lockGuardPath, &webhook.Admission{Handler: &lockGuard{validator: validator, decoder: admission.NewDecoder(mgr.GetScheme())}})
	return ctrl.NewWebhookManagedBy(mgr, &registryv1alpha1.ImmutabilityPolicy{}).
		WithDefaulter(stamper[*registryv1alpha1.ImmutabilityPolicy]{}).
		WithValidator(validator).
		Complete()
}

// ValidateCreate implements admission.Validator.
func (v *immutabilityPolicyValidator) ValidateCreate(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (admission.Warnings, error) {
	errs := append(registryv1alpha1.ValidateImmutabilityPolicy(policy), checkStamp(ctx, policy)...)
	errs = append(errs, registryv1alpha1.ValidateLockEnd(policy, nil, v.now(), v.maxLock)...)
	if len(errs) > 0 {
		return nil, invalid(policy, errs)
	}
	return v.warnings(ctx, policy), nil
}

// ValidateUpdate implements admission.Validator. What touches neither the spec nor the stamp is always admitted, and so is
// everything once the object is deleted: a rule that became stricter must neither stop finalizers nor annotations.
func (v *immutabilityPolicyValidator) ValidateUpdate(ctx context.Context, old, policy *registryv1alpha1.ImmutabilityPolicy) (admission.Warnings, error) {
	if !policy.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	errs := checkStamp(ctx, policy)
	unchanged := equality.Semantic.DeepEqual(old.Spec, policy.Spec)
	if !unchanged {
		errs = append(errs, registryv1alpha1.ValidateImmutabilityPolicyUpdate(old, policy)...)
		errs = append(errs, registryv1alpha1.ValidateLockEnd(policy, old.Spec.LockedUntil, v.now(), v.maxLock)...)
		errs = append(errs, registryv1alpha1.ValidateLock(old, policy, v.now())...)
	}
	if len(errs) > 0 {
		return nil, invalid(policy, errs)
	}
	if unchanged {
		return nil, nil
	}
	return v.warnings(ctx, policy), nil
}

// ValidateDelete implements admission.Validator. It refuses nothing but to delete a policy that is locked, unless its
// namespace goes: it tells the registry who asks, since a deletion leaves no trace of that in the object. What is being
// deleted already was asked for by somebody else.
func (v *immutabilityPolicyValidator) ValidateDelete(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (admission.Warnings, error) {
	if reason := v.undeletable(ctx, policy); reason != "" {
		return nil, forbidden(policy, reason)
	}
	return nil, noteDeletion(ctx, policy, v.registry.NoteDeletionIntent)
}

func invalid(policy *registryv1alpha1.ImmutabilityPolicy, errs field.ErrorList) error {
	return apierrors.NewInvalid(registryv1alpha1.GroupVersion.WithKind("ImmutabilityPolicy").GroupKind(), policy.Name, errs)
}

func (v *immutabilityPolicyValidator) warnings(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) admission.Warnings {
	return warningsOf(ctx, policy, v.warnLock, v.warnOwnership, v.warnRepository, v.warnDuplicate, v.warnImpact)
}

// warnLock warns of a lock whose time has passed. It is admitted, so that what was declared once can be declared again.
func (v *immutabilityPolicyValidator) warnLock(_ context.Context, policy *registryv1alpha1.ImmutabilityPolicy) string {
	if until := policy.Spec.LockedUntil; until == nil || until.After(v.now()) {
		return ""
	}
	return fmt.Sprintf("lockedUntil %s has passed: the policy can be weakened and deleted at any time", registryv1alpha1.LockEnd(policy))
}

// warnOwnership warns where the policy will stall because its namespace has no claim to the organization.
func (v *immutabilityPolicyValidator) warnOwnership(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) string {
	return warnOwnership(ctx, v.reader, policy.Namespace, policy.Organization(), "policy", true)
}

// warnRepository warns of a path that was meant to be a whole name.
func (v *immutabilityPolicyValidator) warnRepository(_ context.Context, policy *registryv1alpha1.ImmutabilityPolicy) string {
	first, rest, _ := strings.Cut(policy.Spec.Repository, "/")
	if rest == "" || first != policy.Organization() {
		return ""
	}
	return fmt.Sprintf("repository is the path inside the organization: this policy covers %s/%s; for %s write %s",
		policy.Organization(), policy.Spec.Repository, policy.Spec.Repository, rest)
}

// warnDuplicate warns of another policy that covers the same tags. It is admitted, so that a policy can be renamed: the
// new one is applied before the old one is pruned.
func (v *immutabilityPolicyValidator) warnDuplicate(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) string {
	var others registryv1alpha1.ImmutabilityPolicyList
	if err := v.reader.List(ctx, &others, client.MatchingFields{scopeIndex: policy.Scope()}); err != nil {
		log.FromContext(ctx).Error(err, "other policies could not be read; the pattern was not compared with theirs")
		return ""
	}
	spec := policy.PolicySpec()
	for i := range others.Items {
		other := &others.Items[i]
		if other.Namespace == policy.Namespace && other.Name == policy.Name {
			continue
		}
		if s := other.PolicySpec(); s.TagPattern == spec.TagPattern && s.TagPatternMatches == spec.TagPatternMatches {
			return fmt.Sprintf("policy %s/%s covers the same tags already; each covered tag gets a hold by both", other.Namespace, other.Name)
		}
	}
	return ""
}

// warnImpact tells how many tags that exist already the policy locks.
func (v *immutabilityPolicyValidator) warnImpact(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) string {
	ctx, cancel := context.WithTimeout(ctx, registryBudget)
	defer cancel()
	spec := policy.PolicySpec()
	coverage, err := v.registry.Preview(ctx, openapi.PreviewRequest{
		Organization: policy.Organization(), Repository: policy.Spec.Repository,
		TagPattern: spec.TagPattern, TagPatternMatches: spec.TagPatternMatches,
	})
	if err != nil {
		log.FromContext(ctx).Info("the registry gave no preview of a policy", "cause", err.Error())
		return "the impact on existing tags is unknown: the registry did not answer in time"
	}
	return impact(policy, coverage)
}
