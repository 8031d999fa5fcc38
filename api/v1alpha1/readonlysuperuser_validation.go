package v1alpha1

import (
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// DefaultRotation is how long credentials live where the spec does not say.
	DefaultRotation = 720 * time.Hour
	minRotation     = 10 * time.Minute
	maxRotation     = 8784 * time.Hour
)

// Subject returns the subject as the registry takes it.
func (s ReadonlySubject) Subject() domain.Subject {
	return domain.Subject{Kind: domain.SubjectKind(s.Kind), Namespace: s.Namespace, Name: s.Name}
}

// String names the subject as messages do, for instance "ServiceAccount monitoring/prometheus". Two subjects with the same
// text are the same.
func (s ReadonlySubject) String() string { return s.Subject().String() }

// Rotation is how long credentials live.
func (c *ReadonlyCredentials) Rotation() time.Duration {
	if c.RotateEvery == nil {
		return DefaultRotation
	}
	return c.RotateEvery.Duration
}

// Access returns how much the subject reads, with the default where the spec does not say.
func (r *ReadonlySuperuser) Access() ReadonlyAccess { return cmp.Or(r.Spec.Access, ReadonlyFull) }

// ValidateReadonlySuperuser checks a readonly superuser by the registry's own rules. The webhook and the reconciler share
// it: an object can get past admission, for instance where webhooks are not installed. operator is the Kubernetes user that
// the operator is.
func ValidateReadonlySuperuser(r *ReadonlySuperuser, operator string) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateSubject(spec.Child("subject"), r.Spec.Subject, operator)
	switch r.Access() {
	case ReadonlyFull, ReadonlyMetadataOnly:
	default:
		errs = append(errs, field.NotSupported(spec.Child("access"), r.Spec.Access, []ReadonlyAccess{ReadonlyFull, ReadonlyMetadataOnly}))
	}
	if r.Spec.Credentials != nil {
		errs = append(errs, validateCredentials(spec.Child("credentials"), r.Spec.Credentials, r.Spec.Subject.Kind)...)
	}
	return errs
}

// ValidateReadonlySuperuserUpdate checks a change of a readonly superuser: who it is about is fixed.
func ValidateReadonlySuperuserUpdate(old, r *ReadonlySuperuser, operator string) field.ErrorList {
	errs := ValidateReadonlySuperuser(r, operator)
	if old.Spec.Subject != r.Spec.Subject {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "subject"), "cannot be changed: create another ReadonlySuperuser, and delete this one"))
	}
	return errs
}

func validateSubject(path *field.Path, subject ReadonlySubject, operator string) (errs field.ErrorList) {
	name, namespace := path.Child("name"), path.Child("namespace")
	ofAccount := subject.Kind == SubjectServiceAccount
	if ofAccount != (subject.Namespace != "") {
		return field.ErrorList{field.Invalid(namespace, subject.Namespace, "is required for a ServiceAccount, and for that only")}
	}
	if err := subject.Subject().Validate(); err != nil {
		return field.ErrorList{field.Invalid(name, subject.Name, err.Error())}
	}
	if subject.kubernetesUser() == operator {
		errs = append(errs, field.Invalid(name, subject.Name, "is the operator, which cannot be a readonly superuser"))
	}
	if !ofAccount {
		return errs
	}
	if problems := validation.IsDNS1123Subdomain(subject.Name); len(problems) > 0 {
		errs = append(errs, field.Invalid(name, subject.Name, "must be a ServiceAccount's name, without the namespace: "+problems[0]))
	}
	if problems := validation.IsDNS1123Label(subject.Namespace); len(problems) > 0 {
		errs = append(errs, field.Invalid(namespace, subject.Namespace, problems[0]))
	}
	return errs
}

// kubernetesUser is the user that the subject is to the API server; empty if it is none.
func (s ReadonlySubject) kubernetesUser() string {
	switch s.Kind {
	case SubjectServiceAccount:
		return "system:serviceaccount:" + s.Namespace + ":" + s.Name
	case SubjectUser:
		return s.Name
	default:
		return ""
	}
}

func validateCredentials(path *field.Path, credentials *ReadonlyCredentials, kind SubjectKind) (errs field.ErrorList) {
	if kind != SubjectRegistryUser {
		errs = append(errs, field.Forbidden(path, "is for a RegistryUser only: every other subject has credentials of its own"))
	}
	if problems := validation.IsDNS1123Subdomain(credentials.SecretName); len(problems) > 0 {
		errs = append(errs, field.Invalid(path.Child("secretName"), credentials.SecretName, problems[0]))
	}
	every := credentials.Rotation()
	if every < minRotation || every > maxRotation || every%time.Second != 0 {
		errs = append(errs, field.Invalid(path.Child("rotateEvery"), every.String(), "must be whole seconds from 10m to 8784h"))
	}
	return errs
}

// Expired tells whether the spec has the access ended by a time.
func (r *ReadonlySuperuser) Expired(now time.Time) bool {
	return r.Spec.ExpiresAt != nil && !r.Spec.ExpiresAt.After(now)
}

// MadeSecret tells whether the operator has made a Secret for this very object, by the marks that it then has: an annotation
// that names the object, and the object as its owner. Another object of the same name is not this one.
func (r *ReadonlySuperuser) MadeSecret(secret *corev1.Secret) bool {
	return r.UID != "" && secret.Annotations[ReadonlySuperuserAnnotation] == r.Name && metav1.IsControlledBy(secret, r)
}
