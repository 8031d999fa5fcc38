package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// fence puts objects of any kind into the registry, which holds against them what only the cluster can tell.
type fence struct {
	uncached client.Reader
	sync     *Synchronizer
}

// put calls put, which carries claim and rewound. Where the registry needs to know more, the API server is asked, past the
// cache, and the put repeated with the answer: once for an owner that is gone or has given the organization up, and once for an object that is as old as it
// seems (etcd was restored).
func (f fence) put(ctx context.Context, r refused, claim *openapi.Claim, rewound *bool, put func() error) error {
	for {
		err := f.sync.Put(put)
		switch {
		case registryclient.IsNotOwned(err) && claim.Gone == nil:
			owner := ownerOf(err)
			gone, lookup := f.ownerIsGone(ctx, owner, r.organization)
			if lookup != nil {
				return lookup
			}
			if !gone {
				return r.refusal(err)
			}
			claim.Gone = &openapi.Owner{Namespace: owner.Namespace, UID: owner.UID}
		case registryclient.IsStale(err) && !*rewound:
			if err := f.confirm(ctx, r.object); err != nil {
				return err
			}
			*rewound = true
		default:
			return r.refusalOrNil(err)
		}
	}
}

func ownerOf(err error) *domain.Owner {
	var e *registryclient.Error
	if errors.As(err, &e) {
		return e.Owner
	}
	return nil
}

// ownerIsGone tells whether the namespace that owns an organization exists no more, or claims it no more, neither by its
// name nor by its annotation. One of the same name that was made anew is another namespace.
func (f fence) ownerIsGone(ctx context.Context, owner *domain.Owner, organization string) (bool, error) {
	if owner == nil {
		return false, nil
	}
	namespace, err := namespaceByName(ctx, f.uncached, owner.Namespace)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking up the owner of the organization: %w", err)
	}
	claims := namespace.Name == organization || slices.Contains(registryv1alpha1.ClaimedOrganizations(namespace.Annotations), organization)
	return string(namespace.UID) != owner.UID || !claims, nil
}

// confirm asks the API server whether the object really is at the generation that the registry found too old.
func (f fence) confirm(ctx context.Context, object client.Object) error {
	current, ok := object.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("confirming the generation of a %T: it is no object", object)
	}
	if err := f.uncached.Get(ctx, client.ObjectKeyFromObject(object), current); err != nil {
		return fmt.Errorf("confirming the object's generation: %w", err)
	}
	if current.GetUID() != object.GetUID() || current.GetGeneration() != object.GetGeneration() || !current.GetDeletionTimestamp().IsZero() {
		return &waitingError{after: time.Second}
	}
	ctrl.LoggerFrom(ctx).Info("the registry knew a newer state of the object; the cluster was rewound", "generation", object.GetGeneration(), "uid", object.GetUID())
	return nil
}

// claim is the ground on which objects of a namespace manage organizations.
func claim(namespace *metav1.PartialObjectMetadata) openapi.Claim {
	return openapi.Claim{NamespaceUID: string(namespace.UID), Organizations: registryv1alpha1.ClaimedOrganizations(namespace.Annotations)}
}

// applied is who made the latest change of an object's spec, as admission has stamped it; nil where it has not.
func applied(object client.Object) *openapi.Applied {
	stamp, ok := registryv1alpha1.ParseApplied(object.GetAnnotations())
	if !ok {
		return nil
	}
	return &openapi.Applied{User: stamp.Username, UserUID: stamp.UID, Generation: stamp.Generation}
}

// namespaceOf reads an object's namespace, as the cache has it. Objects can outlive their namespace in a cluster that was
// mended by hand; they are refused, and no one else has to wait for them.
func (f fence) namespaceOf(ctx context.Context, cache client.Reader, object client.Object) (*metav1.PartialObjectMetadata, error) {
	namespace, err := namespaceByName(ctx, cache, object.GetNamespace())
	if apierrors.IsNotFound(err) {
		namespace, err = namespaceByName(ctx, f.uncached, object.GetNamespace())
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, &stalledError{
			reason:  registryv1alpha1.ReasonOrganizationNotOwned,
			message: fmt.Sprintf("there is no namespace %s any more, so nothing in it manages an organization; delete what is left in it", object.GetNamespace()),
		}
	case err != nil:
		return nil, fmt.Errorf("reading the namespace: %w", err)
	}
	return namespace, nil
}

func namespaceByName(ctx context.Context, reader client.Reader, name string) (*metav1.PartialObjectMetadata, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace, reader.Get(ctx, client.ObjectKey{Name: name}, namespace)
}
