package webhooks

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// readonlySuperuserValidator admits or refuses readonly superusers by themselves and by those that are there.
type readonlySuperuserValidator struct {
	reader client.Reader
	// uncached reads Secrets, of which the cache holds none.
	uncached client.Reader
	registry Registry
	// namespace is the operator's, and user who it is to the API server.
	namespace, user string
	now             func() time.Time
}

var _ admission.Validator[*registryv1alpha1.ReadonlySuperuser] = &readonlySuperuserValidator{}

// subjectIndex finds readonly superusers by who they are.
const subjectIndex = "subject"

// +kubebuilder:webhook:path=/mutate-registry-tidelock-dev-v1alpha1-readonlysuperuser,mutating=true,failurePolicy=fail,reinvocationPolicy=IfNeeded,sideEffects=None,timeoutSeconds=5,groups=registry.tidelock.dev,resources=readonlysuperusers,verbs=create;update,versions=v1alpha1,name=stamps.readonlysuperusers.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:webhook:path=/validate-registry-tidelock-dev-v1alpha1-readonlysuperuser,mutating=false,failurePolicy=fail,sideEffects=None,timeoutSeconds=5,groups=registry.tidelock.dev,resources=readonlysuperusers,verbs=create;update,versions=v1alpha1,name=readonlysuperusers.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:webhook:path=/validate-registry-tidelock-dev-v1alpha1-readonlysuperuser,mutating=false,failurePolicy=ignore,sideEffects=NoneOnDryRun,timeoutSeconds=2,groups=registry.tidelock.dev,resources=readonlysuperusers,verbs=delete,versions=v1alpha1,name=deletions.readonlysuperusers.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get,namespace=tidelock-system
// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=readonlysuperusers,verbs=get;list;watch

// SetupReadonlySuperuser registers the webhooks for ReadonlySuperuser with the manager's webhook server. namespace is the
// operator's, and user who it is to the API server.
func SetupReadonlySuperuser(ctx context.Context, mgr ctrl.Manager, registry Registry, namespace, user string) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &registryv1alpha1.ReadonlySuperuser{}, subjectIndex, func(o client.Object) []string {
		return []string{o.(*registryv1alpha1.ReadonlySuperuser).Spec.Subject.String()}
	})
	if err != nil {
		return fmt.Errorf("indexing readonly superusers by subject: %w", err)
	}
	return ctrl.NewWebhookManagedBy(mgr, &registryv1alpha1.ReadonlySuperuser{}).
		WithDefaulter(stamper[*registryv1alpha1.ReadonlySuperuser]{}).
		WithValidator(&readonlySuperuserValidator{
			reader: mgr.GetClient(), uncached: mgr.GetAPIReader(), registry: registry, namespace: namespace, user: user, now: time.Now,
		}).
		Complete()
}

// ValidateCreate implements admission.Validator.
func (v *readonlySuperuserValidator) ValidateCreate(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) (admission.Warnings, error) {
	errs := append(registryv1alpha1.ValidateReadonlySuperuser(readonly, v.user), checkStamp(ctx, readonly)...)
	if len(errs) == 0 {
		errs = v.checkOther(ctx, readonly)
	}
	if len(errs) > 0 {
		return nil, invalidReadonly(readonly, errs)
	}
	return v.warnings(ctx, readonly), nil
}

// ValidateUpdate implements admission.Validator. What touches neither the spec nor the stamp is always admitted, and so is
// everything once the object is deleted: a rule that became stricter must neither stop finalizers nor annotations.
func (v *readonlySuperuserValidator) ValidateUpdate(ctx context.Context, old, readonly *registryv1alpha1.ReadonlySuperuser) (admission.Warnings, error) {
	if !readonly.DeletionTimestamp.IsZero() {
		return nil, nil
	}
	errs := checkStamp(ctx, readonly)
	unchanged := equality.Semantic.DeepEqual(old.Spec, readonly.Spec)
	if !unchanged {
		errs = append(errs, registryv1alpha1.ValidateReadonlySuperuserUpdate(old, readonly, v.user)...)
	}
	if len(errs) > 0 {
		return nil, invalidReadonly(readonly, errs)
	}
	if unchanged {
		return nil, nil
	}
	return v.warnings(ctx, readonly), nil
}

// ValidateDelete implements admission.Validator. It refuses nothing: it tells the registry who asks.
func (v *readonlySuperuserValidator) ValidateDelete(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) (admission.Warnings, error) {
	return nil, noteDeletion(ctx, readonly, func(ctx context.Context, _, name string, intent openapi.DeletionIntent) error {
		return v.registry.NoteReadonlySuperuserDeletionIntent(ctx, name, intent)
	})
}

func invalidReadonly(readonly *registryv1alpha1.ReadonlySuperuser, errs field.ErrorList) error {
	return apierrors.NewInvalid(registryv1alpha1.GroupVersion.WithKind("ReadonlySuperuser").GroupKind(), readonly.Name, errs)
}

// checkOther refuses a second object for a subject: which of two would say how much it reads, and until when? One that is
// being deleted does not count. Two requests at once may pass; then the registry refuses the second.
func (v *readonlySuperuserValidator) checkOther(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) field.ErrorList {
	path := field.NewPath("spec", "subject")
	var others registryv1alpha1.ReadonlySuperuserList
	if err := v.reader.List(ctx, &others, client.MatchingFields{subjectIndex: readonly.Spec.Subject.String()}); err != nil {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("the others could not be read: %w", err))}
	}
	for i := range others.Items {
		if other := &others.Items[i]; other.Name != readonly.Name && other.DeletionTimestamp.IsZero() {
			detail := fmt.Sprintf("%s has the ReadonlySuperuser %s already: change that, or delete it first", readonly.Spec.Subject, other.Name)
			return field.ErrorList{field.Forbidden(path, detail)}
		}
	}
	return nil
}

func (v *readonlySuperuserValidator) warnings(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) admission.Warnings {
	ctx, cancel := context.WithTimeout(ctx, registryBudget)
	defer cancel()
	return warningsOf(ctx, readonly, v.warnExpired, v.warnSecret)
}

// warnExpired warns of a time that has passed. It is admitted, so that what stands in Git can be applied again.
func (v *readonlySuperuserValidator) warnExpired(_ context.Context, readonly *registryv1alpha1.ReadonlySuperuser) string {
	if !readonly.Expired(v.now()) {
		return ""
	}
	return fmt.Sprintf("expiresAt %s has passed: %s has no access", readonly.Spec.ExpiresAt.UTC().Format(time.RFC3339), readonly.Spec.Subject)
}

// warnSecret warns of a Secret that is there and not this object's.
func (v *readonlySuperuserValidator) warnSecret(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) string {
	if readonly.Spec.Credentials == nil {
		return ""
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: v.namespace, Name: readonly.Spec.Credentials.SecretName}
	err := v.uncached.Get(ctx, key, secret)
	switch {
	case apierrors.IsNotFound(err):
		return ""
	case err != nil:
		log.FromContext(ctx).Info("the Secret for a readonly superuser's credentials could not be read", "name", key.Name, "cause", err.Error())
		return ""
	case readonly.MadeSecret(secret):
		return ""
	}
	return fmt.Sprintf("Secret %s (credentials.secretName) is there and is not this object's: it is not touched, and no credentials are made until it is gone", key)
}
