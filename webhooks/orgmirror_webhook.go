package webhooks

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

// orgMirrorValidator admits or refuses mirrors by themselves, and warns by what it sees around them. The upstream is not
// asked.
type orgMirrorValidator struct {
	reader client.Reader
	// uncached reads Secrets and ConfigMaps, of which the cache holds none.
	uncached client.Reader
	registry Registry
}

var _ admission.Validator[*registryv1alpha1.OrgMirror] = &orgMirrorValidator{}

// organizationIndex finds mirrors by the organization that they fill.
const organizationIndex = "organization"

// +kubebuilder:webhook:path=/mutate-registry-tidelock-dev-v1alpha1-orgmirror,mutating=true,failurePolicy=fail,reinvocationPolicy=IfNeeded,sideEffects=None,timeoutSeconds=5,groups=registry.tidelock.dev,resources=orgmirrors,verbs=create;update,versions=v1alpha1,name=stamps.orgmirrors.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:webhook:path=/validate-registry-tidelock-dev-v1alpha1-orgmirror,mutating=false,failurePolicy=fail,sideEffects=None,timeoutSeconds=5,groups=registry.tidelock.dev,resources=orgmirrors,verbs=create;update,versions=v1alpha1,name=orgmirrors.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:webhook:path=/validate-registry-tidelock-dev-v1alpha1-orgmirror,mutating=false,failurePolicy=ignore,sideEffects=NoneOnDryRun,timeoutSeconds=2,groups=registry.tidelock.dev,resources=orgmirrors,verbs=delete,versions=v1alpha1,name=deletions.orgmirrors.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=configmaps;secrets,verbs=get
// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=orgmirrors,verbs=get;list;watch

// SetupOrgMirror registers the webhooks for OrgMirror with the manager's webhook server.
func SetupOrgMirror(ctx context.Context, mgr ctrl.Manager, registry Registry) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &registryv1alpha1.OrgMirror{}, organizationIndex, func(o client.Object) []string {
		return []string{o.(*registryv1alpha1.OrgMirror).Organization()}
	})
	if err != nil {
		return fmt.Errorf("indexing mirrors by organization: %w", err)
	}
	return ctrl.NewWebhookManagedBy(mgr, &registryv1alpha1.OrgMirror{}).
		WithDefaulter(stamper[*registryv1alpha1.OrgMirror]{}).
		WithValidator(&orgMirrorValidator{reader: mgr.GetClient(), uncached: mgr.GetAPIReader(), registry: registry}).
		Complete()
}

// ValidateCreate implements admission.Validator.
func (v *orgMirrorValidator) ValidateCreate(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (admission.Warnings, error) {
	errs := append(registryv1alpha1.ValidateOrgMirror(mirror), checkStamp(ctx, mirror)...)
	if len(errs) > 0 {
		return nil, invalidMirror(mirror, errs)
	}
	return v.warnings(ctx, mirror), nil
}

// ValidateUpdate implements admission.Validator. What touches neither the spec nor the stamp is always admitted, and so is
// everything once the object is deleted: a rule that became stricter must neither stop finalizers nor annotations.
func (v *orgMirrorValidator) ValidateUpdate(ctx context.Context, old, mirror *registryv1alpha1.OrgMirror) (admission.Warnings, error) {
	if !mirror.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	errs := checkStamp(ctx, mirror)
	unchanged := equality.Semantic.DeepEqual(old.Spec, mirror.Spec)
	if !unchanged {
		errs = append(errs, registryv1alpha1.ValidateOrgMirrorUpdate(old, mirror)...)
	}
	if len(errs) > 0 {
		return nil, invalidMirror(mirror, errs)
	}
	if unchanged {
		return nil, nil
	}
	return v.warnings(ctx, mirror), nil
}

// ValidateDelete implements admission.Validator. It refuses nothing: it tells the registry who asks.
func (v *orgMirrorValidator) ValidateDelete(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (admission.Warnings, error) {
	return nil, noteDeletion(ctx, mirror, v.registry.NoteOrgMirrorDeletionIntent)
}

func invalidMirror(mirror *registryv1alpha1.OrgMirror, errs field.ErrorList) error {
	return apierrors.NewInvalid(registryv1alpha1.GroupVersion.WithKind("OrgMirror").GroupKind(), mirror.Name, errs)
}

func (v *orgMirrorValidator) warnings(ctx context.Context, mirror *registryv1alpha1.OrgMirror) admission.Warnings {
	ctx, cancel := context.WithTimeout(ctx, registryBudget)
	defer cancel()
	return warningsOf(ctx, mirror, v.warnOwnership, v.warnOther, v.warnCredentials, v.warnProxyCredentials, v.warnBundle, v.warnClearText)
}

// warnOwnership warns where the mirror will stall because its namespace has no claim to the organization.
func (v *orgMirrorValidator) warnOwnership(ctx context.Context, mirror *registryv1alpha1.OrgMirror) string {
	return warnOwnership(ctx, v.reader, mirror.Namespace, mirror.Organization(), "mirror", false)
}

// warnOther warns of another mirror that fills the organization. It is admitted, so that a mirror can be renamed: the new
// one waits until the old one is gone.
func (v *orgMirrorValidator) warnOther(ctx context.Context, mirror *registryv1alpha1.OrgMirror) string {
	var others registryv1alpha1.OrgMirrorList
	if err := v.reader.List(ctx, &others, client.MatchingFields{organizationIndex: mirror.Organization()}); err != nil {
		log.FromContext(ctx).Error(err, "other mirrors could not be read; whether one fills the organization was not checked")
		return ""
	}
	for i := range others.Items {
		other := &others.Items[i]
		if other.Namespace != mirror.Namespace || other.Name != mirror.Name {
			return fmt.Sprintf("organization %s has the mirror %s/%s already: an organization has one, and the second waits until the first is deleted",
				mirror.Organization(), other.Namespace, other.Name)
		}
	}
	return ""
}

// warnCredentials warns of a Secret that is not there yet.
func (v *orgMirrorValidator) warnCredentials(ctx context.Context, mirror *registryv1alpha1.OrgMirror) string {
	if ref := mirror.Spec.Source.CredentialsSecretRef; ref != nil {
		return v.warnMissing(ctx, mirror, "Secret", ref.Name, "source.credentialsSecretRef")
	}
	return ""
}

// warnProxyCredentials warns of a Secret for the proxies that is not there yet.
func (v *orgMirrorValidator) warnProxyCredentials(ctx context.Context, mirror *registryv1alpha1.OrgMirror) string {
	if proxy := mirror.Spec.Source.Proxy; proxy != nil && proxy.CredentialsSecretRef != nil {
		return v.warnMissing(ctx, mirror, "Secret", proxy.CredentialsSecretRef.Name, "source.proxy.credentialsSecretRef")
	}
	return ""
}

// warnBundle warns of certificates that are not there yet.
func (v *orgMirrorValidator) warnBundle(ctx context.Context, mirror *registryv1alpha1.OrgMirror) string {
	ref := mirror.Spec.Source.CABundleRef
	if ref == nil {
		return ""
	}
	return v.warnMissing(ctx, mirror, string(ref.Kind), ref.Name, "source.caBundleRef")
}

// warnMissing warns of an object that the spec refers to and that is not there.
func (v *orgMirrorValidator) warnMissing(ctx context.Context, mirror *registryv1alpha1.OrgMirror, kind, name, field string) string {
	var object client.Object = &corev1.Secret{}
	if kind != "Secret" {
		kind, object = "ConfigMap", &corev1.ConfigMap{}
	}
	err := v.uncached.Get(ctx, client.ObjectKey{Namespace: mirror.Namespace, Name: name}, object)
	switch {
	case err == nil:
		return ""
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("%s %s/%s (%s) is not there: nothing is synced until it is", kind, mirror.Namespace, name, field)
	}
	log.FromContext(ctx).Info("an object that a mirror refers to could not be read", "kind", kind, "name", name, "cause", err.Error())
	return ""
}

// warnClearText warns of credentials that anybody on the way can read.
func (v *orgMirrorValidator) warnClearText(_ context.Context, mirror *registryv1alpha1.OrgMirror) string {
	source := mirror.Spec.Source
	if source.CredentialsSecretRef == nil || !strings.HasPrefix(source.URL, "http:") {
		return ""
	}
	return "source.url is http: the credentials go to the upstream unencrypted"
}
