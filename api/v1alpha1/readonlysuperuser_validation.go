package v1alpha1

import (
	"cmp"
	"strings"
	"time"
	"unicode"

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

	// kubernetesPrefix begins the names of Kubernetes' own users and groups.
	kubernetesPrefix = "system:"
)

// String names the subject as messages do, for instance "ServiceAccount monitoring/prometheus". Two subjects with the same
// text are the same.
func (s ReadonlySubject) String() string {
	if s.Namespace != "" {
		return string(s.Kind) + " " + s.Namespace + "/" + s.Name
	}
	return string(s.Kind) + " " + s.Name
}

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
	if (subject.Kind == SubjectServiceAccount) != (subject.Namespace != "") {
		errs = append(errs, field.Invalid(namespace, subject.Namespace, "is required for a ServiceAccount, and for that only"))
	}
	refuse := func(detail string) { errs = append(errs, field.Invalid(name, subject.Name, detail)) }
	switch subject.Kind {
	case SubjectRegistryUser:
		if strings.Contains(subject.Name, domain.RobotSeparator) {
			refuse("is a robot's: robots write, and cannot be readonly superusers; name a user")
		} else if err := domain.ValidateUser(subject.Name); err != nil {
			refuse(err.Error())
		}
	case SubjectServiceAccount:
		if problems := validation.IsDNS1123Subdomain(subject.Name); len(problems) > 0 {
			refuse("must be a ServiceAccount's name, without the namespace: " + problems[0])
		}
		if problems := validation.IsDNS1123Label(subject.Namespace); subject.Namespace != "" && len(problems) > 0 {
			errs = append(errs, field.Invalid(namespace, subject.Namespace, problems[0]))
		}
		if operator == "system:serviceaccount:"+subject.Namespace+":"+subject.Name {
			refuse("is the operator, which cannot be a readonly superuser")
		}
	case SubjectUser, SubjectGroup:
		switch {
		case strings.HasPrefix(subject.Name, kubernetesPrefix):
			refuse("must not be one of Kubernetes' own users and groups, which begin with system:; for a ServiceAccount use kind ServiceAccount")
		case subject.Name == "" || strings.TrimSpace(subject.Name) != subject.Name || strings.ContainsFunc(subject.Name, unicode.IsControl):
			refuse("must neither be empty, nor begin or end with a blank, nor have control characters")
		case subject.Kind == SubjectUser && subject.Name == operator:
			refuse("is the operator, which cannot be a readonly superuser")
		}
	default:
		kinds := []SubjectKind{SubjectRegistryUser, SubjectServiceAccount, SubjectUser, SubjectGroup}
		errs = append(errs, field.NotSupported(path.Child("kind"), subject.Kind, kinds))
	}
	return errs
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
