package controllers

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// validateMirror applies the rules of admission once more: not everything has passed it.
func validateMirror(mirror *registryv1alpha1.OrgMirror) error {
	if errs := registryv1alpha1.ValidateOrgMirror(mirror); len(errs) > 0 {
		return &stalledError{reason: registryv1alpha1.ReasonInvalidSpec, message: errs.ToAggregate().Error()}
	}
	return nil
}

// put makes the registry's mirror what the spec and its Secrets say, unless this process did so already a short while ago
// and no sync is about to begin: then it only reads how the syncs are doing.
func (r *OrgMirrorReconciler) put(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (status openapi.MirrorStatus, err error) {
	namespace, err := r.fence().namespaceOf(ctx, r.Client, mirror)
	if err != nil {
		return status, err
	}
	key := client.ObjectKeyFromObject(mirror)
	ground := claim(namespace)
	now := putState{
		epoch: r.Sync.Epoch(), uid: mirror.UID, generation: mirror.Generation, claim: fmt.Sprint(ground), requestedAt: mirror.RequestedAt(),
	}
	if last := r.visits.get(key); last.put == now && !last.due(r.Now()) {
		status, err = r.Registry.GetOrgMirror(ctx, mirror.Namespace, mirror.Name)
		// One that is gone, or has lost the organization, only a put brings back.
		if !registryclient.IsNotFound(err) && !status.Lost {
			r.remember(key, status)
			return status, refusedMirror(mirror).refusalOrNil(err)
		}
	}
	managed, err := r.managed(ctx, mirror)
	if err != nil {
		return status, err
	}
	managed.Claim = ground
	err = r.fence().put(ctx, refusedMirror(mirror), &managed.Claim, &managed.Rewound, func() (err error) {
		status, err = r.Registry.PutOrgMirror(ctx, mirror.Namespace, mirror.Name, managed)
		return err
	})
	if err != nil {
		r.visits.refused(key)
		return status, err
	}
	r.visits.change(key, func(v *visit) {
		v.put, v.putAt, v.putAgain = now, r.Now(), r.Now().Add(jitter(putInterval))
	})
	r.remember(key, status)
	return status, nil
}

// remember keeps when the next sync is due.
func (r *OrgMirrorReconciler) remember(key client.ObjectKey, status openapi.MirrorStatus) {
	r.visits.change(key, func(v *visit) {
		v.next = time.Time{}
		if status.NextSync != nil {
			v.next = *status.NextSync
		}
	})
}

// due tells that an object is to be put again, or that a sync is about to begin that is to use the Secrets as they are then.
func (v visit) due(now time.Time) bool {
	eve := v.next.Add(-beforeSync)
	return !now.Before(v.putAgain) || !v.next.IsZero() && !now.Before(eve) && v.putAt.Before(eve)
}

// managed says what to put, but for the claim: the spec with all that it refers to.
func (r *OrgMirrorReconciler) managed(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (openapi.ManagedMirror, error) {
	spec := mirror.MirrorSpec()
	managed := openapi.ManagedMirror{
		Cluster: r.Cluster, UID: string(mirror.UID), Generation: mirror.Generation, Organization: mirror.Organization(),
		RevisionClaimed: registryv1alpha1.ClaimedRevision(mirror.Annotations), Applied: applied(mirror), RequestedAt: mirror.RequestedAt(),
	}
	var err error
	managed.Secrets, err = r.secrets(ctx, mirror)
	if err == nil {
		spec.Source.CABundle, err = r.bundle(ctx, mirror)
	}
	// What is missing does not keep a mirror from being suspended, which needs none of it.
	if err != nil && !spec.Suspend {
		return managed, err
	}
	managed.Spec = declared(spec)
	return managed, nil
}

// declared writes a spec as the registry's API has it.
func declared(spec domain.MirrorSpec) openapi.MirrorSpec {
	tags := func(matches []domain.TagMatch) (list []openapi.MirrorTagMatch) {
		for _, m := range matches {
			list = append(list, openapi.MirrorTagMatch(m))
		}
		return list
	}
	written := openapi.MirrorSpec{
		Source: openapi.MirrorSource{
			Type: spec.Source.Type, URL: spec.Source.URL, Namespace: spec.Source.Namespace,
			CaBundle: spec.Source.CABundle, InsecureSkipTLSVerify: spec.Source.InsecureSkipTLSVerify,
			HTTPProxy: spec.Source.Proxy.HTTP, HTTPSProxy: spec.Source.Proxy.HTTPS, NoProxy: spec.Source.Proxy.NoProxy,
		},
		Repositories: openapi.MirrorRepositoryFilter{Include: spec.Repositories.Include, Exclude: spec.Repositories.Exclude},
		Tags:         openapi.MirrorTags{Include: tags(spec.Tags.Include), Exclude: tags(spec.Tags.Exclude), Newest: int64(spec.Tags.Newest)},
		Platforms:    spec.Platforms,
		Referrers:    spec.Referrers,
		Schedule:     openapi.MirrorSchedule{IntervalSeconds: int64(spec.Schedule.Interval / time.Second), Cron: spec.Schedule.Cron},
		Visibility:   spec.Visibility,
		OnConflict:   spec.OnConflict,
		Prune:        spec.Prune,
		Suspend:      spec.Suspend,

		TimeoutSeconds: int64(spec.Timeout / time.Second),
		Concurrency:    int64(spec.Concurrency),
		BandwidthLimit: spec.BandwidthLimit,
	}
	if !spec.Schedule.StartAt.IsZero() {
		written.Schedule.StartAt = &spec.Schedule.StartAt
	}
	return written
}

// secrets reads the credentials that a spec refers to. Their values go nowhere but to the registry.
func (r *OrgMirrorReconciler) secrets(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (secrets openapi.MirrorSecrets, err error) {
	source := mirror.Spec.Source
	if ref := source.CredentialsSecretRef; ref != nil {
		field := "spec.source.credentialsSecretRef"
		secret, err := r.secret(ctx, mirror, ref.Name, field, acceptedSecrets)
		if err != nil {
			return secrets, err
		}
		if secrets, err = upstreamCredentials(secret, source.URL, source.Namespace); err != nil {
			return secrets, invalidSecret(secret, field, err)
		}
	}
	if source.Proxy == nil || source.Proxy.CredentialsSecretRef == nil {
		return secrets, nil
	}
	field := "spec.source.proxy.credentialsSecretRef"
	secret, err := r.secret(ctx, mirror, source.Proxy.CredentialsSecretRef.Name, field, "type kubernetes.io/basic-auth, or Opaque, with username and password")
	if err != nil {
		return secrets, err
	}
	username, password, err := basicCredentials(secret)
	if err != nil {
		return secrets, invalidSecret(secret, field, err)
	}
	secrets.ProxyUsername, secrets.ProxyPassword = username, domain.GivenSecret(password)
	return secrets, nil
}

// secret reads a Secret past the cache, which holds none of them.
func (r *OrgMirrorReconciler) secret(ctx context.Context, mirror *registryv1alpha1.OrgMirror, name, field, accepted string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := r.Uncached.Get(ctx, client.ObjectKey{Namespace: mirror.Namespace, Name: name}, secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, missing(registryv1alpha1.ReasonSecretNotFound, "Secret %s/%s (%s) is not there. Create it: %s.", mirror.Namespace, name, field, accepted)
	case apierrors.IsForbidden(err):
		return nil, missing(registryv1alpha1.ReasonSecretInvalid, "Secret %s/%s (%s) cannot be used: the operator has no right to get it.", mirror.Namespace, name, field)
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s/%s (%s): %w", mirror.Namespace, name, field, err)
	}
	return secret, nil
}

func invalidSecret(secret *corev1.Secret, field string, err error) error {
	return missing(registryv1alpha1.ReasonSecretInvalid, "Secret %s/%s (%s) cannot be used: %s.", secret.Namespace, secret.Name, field, err)
}

// missing is a condition until somebody makes what is missing. What the registry has of the mirror goes on meanwhile.
func missing(reason, format string, args ...any) error {
	return &waitingError{
		reason: reason, message: fmt.Sprintf(format, args...) + " The operator looks again; until then the registry has the mirror as it was before.",
		after: secretInterval,
	}
}

// bundle reads the certificates that a spec refers to, past the cache.
func (r *OrgMirrorReconciler) bundle(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (string, error) {
	ref := mirror.Spec.Source.CABundleRef
	if ref == nil {
		return "", nil
	}
	kind, key := ref.Kind, ref.Key
	if key == "" {
		key = "ca.crt"
	}
	var content []byte
	var err error
	at := client.ObjectKey{Namespace: mirror.Namespace, Name: ref.Name}
	if kind == registryv1alpha1.BundleSecret {
		secret := &corev1.Secret{}
		err = r.Uncached.Get(ctx, at, secret)
		content = secret.Data[key]
	} else {
		kind = registryv1alpha1.BundleConfigMap
		configMap := &corev1.ConfigMap{}
		err = r.Uncached.Get(ctx, at, configMap)
		if content = configMap.BinaryData[key]; content == nil {
			content = []byte(configMap.Data[key])
		}
	}
	const field = "spec.source.caBundleRef"
	switch {
	case apierrors.IsNotFound(err):
		return "", missing(registryv1alpha1.ReasonCABundleNotFound, "%s %s (%s) is not there. Create it, with certificates in PEM under the key %s.", kind, at, field, key)
	case apierrors.IsForbidden(err):
		return "", missing(registryv1alpha1.ReasonCABundleInvalid, "%s %s (%s) cannot be used: the operator has no right to get it.", kind, at, field)
	case err != nil:
		return "", fmt.Errorf("reading %s %s (%s): %w", kind, at, field, err)
	case !x509.NewCertPool().AppendCertsFromPEM(content):
		return "", missing(registryv1alpha1.ReasonCABundleInvalid, "%s %s (%s) has no certificate in PEM under the key %s.", kind, at, field, key)
	}
	return string(content), nil
}
