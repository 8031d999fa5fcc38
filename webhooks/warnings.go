package webhooks

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// warningsOf collects what there is to warn of, each as long as the API server passes on.
func warningsOf[T client.Object](ctx context.Context, object T, warn ...func(context.Context, T) string) (warnings admission.Warnings) {
	for _, f := range warn {
		if text := f(ctx, object); text != "" {
			warnings = append(warnings, shorten(text))
		}
	}
	return warnings
}

// warnOwnership warns where an object will stall because its namespace has no claim to the organization. Whether a claim
// is good is decided by the registry. what is how to call the object; for some, "*" is no claim.
func warnOwnership(ctx context.Context, reader client.Reader, name, organization, what string, anywhere bool) string {
	if organization == name {
		return ""
	}
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := reader.Get(ctx, client.ObjectKey{Name: name}, namespace); err != nil {
		log.FromContext(ctx).Error(err, "the object's namespace could not be read; its claim was not checked")
		return ""
	}
	claimed := registryv1alpha1.ClaimedOrganizations(namespace.Annotations)
	if slices.Contains(claimed, organization) || anywhere && slices.Contains(claimed, registryv1alpha1.AnyOrganization) {
		return ""
	}
	return fmt.Sprintf("namespace %s does not claim organization %s: the %s has no effect until the namespace's annotation %s names it",
		name, organization, what, registryv1alpha1.OrganizationsAnnotation)
}

// noteDeletion tells the registry who asks to delete an object, since a deletion leaves no trace of that in it. It refuses
// nothing. What is being deleted already was asked for by somebody else.
func noteDeletion(ctx context.Context, object client.Object, note func(ctx context.Context, namespace, name string, intent openapi.DeletionIntent) error) error {
	request, err := admission.RequestFromContext(ctx)
	if err != nil {
		return err
	}
	if ptr.Deref(request.DryRun, false) || !object.GetDeletionTimestamp().IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, registryBudget)
	defer cancel()
	err = note(ctx, object.GetNamespace(), object.GetName(), openapi.DeletionIntent{
		UID: string(object.GetUID()), User: request.UserInfo.Username, UserUID: request.UserInfo.UID,
	})
	if err != nil {
		log.FromContext(ctx).Info("the registry could not be told who deletes an object", "user", request.UserInfo.Username, "cause", err.Error())
	}
	return nil
}
