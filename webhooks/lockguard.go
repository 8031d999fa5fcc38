package webhooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// lockGuardPath is where the guard is called.
const lockGuardPath = "/guard-registry-tidelock-dev-v1alpha1-immutabilitypolicy"

// +kubebuilder:webhook:path=/guard-registry-tidelock-dev-v1alpha1-immutabilitypolicy,mutating=true,failurePolicy=ignore,sideEffects=NoneOnDryRun,timeoutSeconds=2,groups=registry.tidelock.dev,resources=immutabilitypolicies,verbs=update;delete,versions=v1alpha1,name=locks.immutabilitypolicies.registry.tidelock.dev,admissionReviewVersions=v1,serviceName=tidelock-webhook,serviceNamespace=tidelock-system

// lockGuard refuses to weaken or delete a policy that is locked, and tells the registry who tried. It changes nothing, and
// is called among those webhooks that do: the ValidatingAdmissionPolicy, which holds while the operator is away, refuses
// before webhooks that validate are asked, so that these would never learn of an attempt. What gets past it here, that one
// and the validator refuse.
type lockGuard struct {
	validator *immutabilityPolicyValidator
	decoder   admission.Decoder
}

var _ admission.Handler = &lockGuard{}

// Handle implements admission.Handler.
func (g *lockGuard) Handle(ctx context.Context, request admission.Request) admission.Response {
	old, policy := &registryv1alpha1.ImmutabilityPolicy{}, &registryv1alpha1.ImmutabilityPolicy{}
	err := g.decoder.DecodeRaw(request.OldObject, old)
	if err == nil && request.Operation == admissionv1.Update {
		err = g.decoder.DecodeRaw(request.Object, policy)
	}
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	ctx = admission.NewContextWithRequest(ctx, request)
	switch request.Operation { //nolint:exhaustive // it is configured for these two
	case admissionv1.Update:
		if errs := registryv1alpha1.ValidateLock(old, policy, g.validator.now()); len(errs) > 0 && policy.DeletionTimestamp.IsZero() {
			g.note(ctx, old, openapi.RefusedChangeOperationUpdate, errs.ToAggregate().Error())
			return refuse(invalid(policy, errs))
		}
	case admissionv1.Delete:
		if reason := g.validator.undeletable(ctx, old); reason != "" {
			g.note(ctx, old, openapi.RefusedChangeOperationDelete, reason)
			return refuse(forbidden(old, reason))
		}
	}
	return admission.Allowed("")
}

// refuse is a refusal as the validators make it.
func refuse(err error) admission.Response {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return admission.Denied(err.Error())
	}
	result := status.Status()
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Result: &result}}
}

// note tells the registry, at best effort, who was refused to weaken or delete a locked policy.
func (g *lockGuard) note(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, operation openapi.RefusedChangeOperation, reason string) {
	request, err := admission.RequestFromContext(ctx)
	if err != nil || ptr.Deref(request.DryRun, false) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, registryBudget)
	defer cancel()
	err = g.validator.registry.NoteRefusedChange(ctx, policy.Namespace, policy.Name, openapi.RefusedChange{
		UID: string(policy.UID), User: request.UserInfo.Username, UserUID: request.UserInfo.UID,
		Operation: operation, Reason: registryv1alpha1.Shorten(reason, maxRefusalReason),
	})
	if err != nil {
		log.FromContext(ctx).Info("the registry could not be told who was refused to change a locked policy", "user", request.UserInfo.Username, "cause", err.Error())
	}
}

// maxRefusalReason is the longest reason that the registry takes, in bytes.
const maxRefusalReason = 1024

// undeletable says why a policy cannot be deleted now: it is locked, and neither its namespace goes nor is it being deleted
// already. Empty if it can.
func (v *immutabilityPolicyValidator) undeletable(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) string {
	if !policy.DeletionTimestamp.IsZero() || !policy.Locked(v.now()) || v.namespaceGoes(ctx, policy.Namespace) {
		return ""
	}
	return fmt.Sprintf("the policy is locked until %s and cannot be deleted before that time", registryv1alpha1.LockEnd(policy))
}

func forbidden(policy *registryv1alpha1.ImmutabilityPolicy, reason string) error {
	return apierrors.NewForbidden(registryv1alpha1.GroupVersion.WithResource("immutabilitypolicies").GroupResource(), policy.Name, errors.New(reason))
}

// namespaceGoes reports whether a namespace is being deleted. Where that cannot be found out it is not: the namespace's
// controller asks again.
func (v *immutabilityPolicyValidator) namespaceGoes(ctx context.Context, name string) bool {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := v.reader.Get(ctx, client.ObjectKey{Name: name}, namespace); err != nil {
		log.FromContext(ctx).Error(err, "the policy's namespace could not be read")
		return apierrors.IsNotFound(err)
	}
	return !namespace.DeletionTimestamp.IsZero()
}
