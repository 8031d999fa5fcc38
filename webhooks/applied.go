package webhooks

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

// stamper stamps each object of a kind with who made the latest change of its spec.
type stamper[T client.Object] struct{}

var (
	_ admission.Defaulter[*registryv1alpha1.ImmutabilityPolicy] = stamper[*registryv1alpha1.ImmutabilityPolicy]{}
	_ admission.Defaulter[*registryv1alpha1.OrgMirror]          = stamper[*registryv1alpha1.OrgMirror]{}
	_ admission.Defaulter[*registryv1alpha1.ReadonlySuperuser]  = stamper[*registryv1alpha1.ReadonlySuperuser]{}
)

// Default implements admission.Defaulter. What it does depends on nothing but the request, so it may be done again after
// other webhooks, and on a dry run.
func (stamper[T]) Default(ctx context.Context, object T) error {
	stamp, err := stampFor(ctx)
	if err != nil {
		return err
	}
	annotations := object.GetAnnotations()
	if stamp == "" {
		delete(annotations, registryv1alpha1.AppliedByAnnotation)
		return nil
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[registryv1alpha1.AppliedByAnnotation] = stamp
	object.SetAnnotations(annotations)
	return nil
}

// checkStamp refuses an object whose stamp is not the one that the request makes: webhooks of others run after the one
// that stamps.
func checkStamp(ctx context.Context, object client.Object) field.ErrorList {
	path := field.NewPath("metadata", "annotations").Key(registryv1alpha1.AppliedByAnnotation)
	stamp, err := stampFor(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	found := object.GetAnnotations()[registryv1alpha1.AppliedByAnnotation]
	if found == stamp {
		return nil
	}
	if stamp == "" {
		stamp = "no annotation"
	}
	return field.ErrorList{field.Invalid(path, found, fmt.Sprintf("admission has to leave %s here, which says who applied the spec: "+
		"another mutating webhook changed it, or the MutatingWebhookConfiguration %s is not installed", stamp, ConfigurationName))}
}

// admitted is what the stamp depends on of an object in a request.
type admitted struct {
	Metadata struct {
		Generation  int64             `json:"generation"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	// Spec is compared as the API server does, which decides by it whether the generation goes up: a field that is empty
	// is not one that is missing.
	Spec any `json:"spec"`
}

// stampFor returns the stamp that the request's object has to have, empty for none. A change of spec, a creation too, is
// stamped with the request's user and the generation that it makes. Without one, the stamp stays what it was.
func stampFor(ctx context.Context) (string, error) {
	request, err := admission.RequestFromContext(ctx)
	if err != nil {
		return "", err
	}
	applied := registryv1alpha1.Applied{Generation: 1, Username: request.UserInfo.Username, UID: request.UserInfo.UID}
	if request.Operation == admissionv1.Update {
		var before, after admitted
		if err := json.Unmarshal(request.OldObject.Raw, &before); err != nil {
			return "", fmt.Errorf("reading the object before the change: %w", err)
		}
		if err := json.Unmarshal(request.Object.Raw, &after); err != nil {
			return "", fmt.Errorf("reading the object: %w", err)
		}
		if reflect.DeepEqual(before.Spec, after.Spec) {
			return before.Metadata.Annotations[registryv1alpha1.AppliedByAnnotation], nil
		}
		applied.Generation = before.Metadata.Generation + 1
	}
	stamp, err := json.Marshal(applied)
	return string(stamp), err
}
