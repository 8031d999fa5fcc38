package controllers

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// What the operator notes at a Secret with credentials. None of it is a secret.
const (
	// tokenIDAnnotation is how the registry names the token in the Secret, previousTokenAnnotation the one that a rotation
	// replaced.
	tokenIDAnnotation       = "registry.tidelock.dev/token-id"
	previousTokenAnnotation = "registry.tidelock.dev/previous-token-id"
	// issuedAtAnnotation is when the token was made (RFC 3339).
	issuedAtAnnotation = "registry.tidelock.dev/issued-at"
)

// heldCredentials are what a Secret of the operator holds.
type heldCredentials struct {
	secret          *corev1.Secret
	username, token string
	tokenID         string
	// previous is the token that a rotation replaced; empty if these are the first, or made for a Secret that was gone.
	previous string
	issuedAt time.Time
}

// named is the token that the registry is to be told of, which ends those before it: for a while after a rotation still the
// one before.
func (h *heldCredentials) named(now time.Time) string {
	switch {
	case h == nil:
		return ""
	case h.previous != "" && now.Before(h.issuedAt.Add(rotationGrace)):
		return h.previous
	}
	return h.tokenID
}

// rotateAt is when the credentials are to be replaced.
func (h *heldCredentials) rotateAt(readonly *registryv1alpha1.ReadonlySuperuser) time.Time {
	return h.issuedAt.Add(readonly.Spec.Credentials.Rotation())
}

// held reads the credentials in the Secret that the spec names, past the cache; nil if there are none that can be used. A
// Secret that is not this object's is a conflict.
func (r *ReadonlySuperuserReconciler) held(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) (held *heldCredentials, conflict *waitingError, err error) {
	if readonly.Spec.Credentials == nil {
		return nil, nil, nil
	}
	secret, err := r.secretAt(ctx, readonly.Spec.Credentials.SecretName)
	if secret == nil || err != nil {
		return nil, nil, err
	}
	if !readonly.MadeSecret(secret) {
		return nil, r.secretConflict(secret.Name), nil
	}
	held = &heldCredentials{
		secret: secret, username: string(secret.Data[keyUsername]), token: string(secret.Data[keyToken]),
		tokenID: secret.Annotations[tokenIDAnnotation], previous: secret.Annotations[previousTokenAnnotation],
	}
	// Without a time they are as old as can be.
	held.issuedAt, _ = time.Parse(time.RFC3339, secret.Annotations[issuedAtAnnotation])
	if held.token == "" || held.username == "" {
		held.tokenID, held.previous = "", ""
	}
	return held, nil, nil
}

func (r *ReadonlySuperuserReconciler) secretAt(ctx context.Context, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := r.Uncached.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: name}, secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s/%s (spec.credentials.secretName): %w", r.Namespace, name, err)
	}
	return secret, nil
}

func (r *ReadonlySuperuserReconciler) secretConflict(name string) *waitingError {
	return &waitingError{
		reason: registryv1alpha1.ReasonSecretConflict,
		message: fmt.Sprintf("Secret %s/%s (spec.credentials.secretName) is there and is not this object's: it is not touched. Name another, or delete it. "+
			"The access is granted; there are no credentials until then.", r.Namespace, name),
		after: secretInterval,
	}
}

// dockerConfig is the content of a Secret of type kubernetes.io/dockerconfigjson.
type dockerConfig struct {
	Auths map[string]dockerEntry `json:"auths"`
}

type dockerEntry struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

// content is what a Secret with the credentials has.
func (r *ReadonlySuperuserReconciler) content(h *heldCredentials) (map[string][]byte, error) {
	config := dockerConfig{Auths: map[string]dockerEntry{}}
	for _, host := range r.Hosts {
		config.Auths[host] = dockerEntry{
			Username: h.username, Password: h.token, Auth: base64.StdEncoding.EncodeToString([]byte(h.username + ":" + h.token)),
		}
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("writing a Docker configuration: %w", err)
	}
	return map[string][]byte{corev1.DockerConfigJsonKey: encoded, keyUsername: []byte(h.username), keyToken: []byte(h.token)}, nil
}

// write brings credentials into the Secret: into that which holds those before, as it was read, or else into a new one. A
// Secret that somebody else made meanwhile is a conflict.
func (r *ReadonlySuperuserReconciler) write(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, h *heldCredentials) (conflict *waitingError, err error) {
	data, err := r.content(h)
	if err != nil {
		return nil, err
	}
	annotations := map[string]string{
		registryv1alpha1.ReadonlySuperuserAnnotation: readonly.Name,
		tokenIDAnnotation:  h.tokenID,
		issuedAtAnnotation: h.issuedAt.UTC().Format(time.RFC3339),
	}
	if h.previous != "" {
		annotations[previousTokenAnnotation] = h.previous
	}
	if h.secret != nil {
		before := h.secret.DeepCopy()
		delete(h.secret.Annotations, previousTokenAnnotation)
		maps.Copy(h.secret.Annotations, annotations)
		h.secret.Data = data
		err := r.Patch(ctx, h.secret, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		return nil, r.wrap(err, "writing", h.secret.Name)
	}
	h.secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.Namespace, Name: readonly.Spec.Credentials.SecretName, Annotations: annotations,
			Labels: map[string]string{"app.kubernetes.io/managed-by": "tidelock"},
			// With the object it goes, also where nobody sees the object off.
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: registryv1alpha1.GroupVersion.String(), Kind: readonlyKind, Name: readonly.Name, UID: readonly.UID, Controller: ptr.To(true),
			}},
		},
		Type: corev1.SecretTypeDockerConfigJson,
		Data: data,
	}
	err = r.Create(ctx, h.secret)
	if apierrors.IsAlreadyExists(err) {
		return r.secretConflict(h.secret.Name), nil
	}
	return nil, r.wrap(err, "creating", h.secret.Name)
}

// keep repairs a Secret whose content is not what its token makes, for instance since the registry's hosts are others now.
// Where the access has ended, nothing is kept.
func (r *ReadonlySuperuserReconciler) keep(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, held *heldCredentials, now time.Time) (*heldCredentials, error) {
	if held == nil || expired(readonly, status, now) {
		return nil, nil
	}
	data, err := r.content(held)
	if err != nil || reflect.DeepEqual(data, held.secret.Data) {
		return held, err
	}
	_, err = r.write(ctx, readonly, held)
	return held, err
}

// secretNames are the Secrets that may hold credentials for the object: that of the spec, and that which the status tells
// of.
func secretNames(readonly *registryv1alpha1.ReadonlySuperuser) (names []string) {
	if of := readonly.Spec.Credentials; of != nil {
		names = append(names, of.SecretName)
	}
	if of := readonly.Status.Credentials; of != nil && !slices.Contains(names, of.SecretName) {
		names = append(names, of.SecretName)
	}
	return names
}

// discard deletes the Secrets of the object that do not hold its credentials any more.
func (r *ReadonlySuperuserReconciler) discard(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, held *heldCredentials) error {
	for _, name := range secretNames(readonly) {
		if held != nil && held.secret.Name == name {
			continue
		}
		if err := r.deleteSecret(ctx, readonly, name); err != nil {
			return err
		}
	}
	return nil
}

// deleteSecret deletes a Secret if it is the object's, as it was looked at.
func (r *ReadonlySuperuserReconciler) deleteSecret(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, name string) error {
	secret, err := r.secretAt(ctx, name)
	if secret == nil || err != nil || !readonly.MadeSecret(secret) {
		return err
	}
	err = r.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
	return r.wrap(client.IgnoreNotFound(err), "deleting", name)
}

func (r *ReadonlySuperuserReconciler) wrap(err error, doing, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s Secret %s/%s (spec.credentials.secretName): %w", doing, r.Namespace, name, err)
}
