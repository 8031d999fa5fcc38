package domain

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// KindReadonlySuperuser is the kind of the Kubernetes objects that make somebody a readonly superuser.
const KindReadonlySuperuser = "ReadonlySuperuser"

// MaxSubjectName bounds the name of a subject, in characters.
const MaxSubjectName = 253

// SubjectKind says where a subject is known.
type SubjectKind string

// The kinds of subjects.
const (
	// SubjectRegistryUser is a user of the registry's database.
	SubjectRegistryUser SubjectKind = "RegistryUser"
	// SubjectServiceAccount is a ServiceAccount of the cluster; it has a namespace.
	SubjectServiceAccount SubjectKind = "ServiceAccount"
	// SubjectUser is a user as the cluster knows it, or as an OIDC issuer of the registry does.
	SubjectUser SubjectKind = "User"
	// SubjectGroup is a group of such users, or of ServiceAccounts.
	SubjectGroup SubjectKind = "Group"
)

// Subject is who a grant is for.
type Subject struct {
	Kind SubjectKind
	// Namespace is empty for all but a ServiceAccount.
	Namespace string
	Name      string
}

// QualifiedName is the name, behind the namespace if it has one.
func (s Subject) QualifiedName() string {
	if s.Namespace == "" {
		return s.Name
	}
	return s.Namespace + "/" + s.Name
}

func (s Subject) String() string { return string(s.Kind) + " " + s.QualifiedName() }

// Validate refuses what can never be a readonly superuser: a robot, the account admin, the operator and the others that the
// registry has by itself, and what Kubernetes has by itself.
func (s Subject) Validate() error {
	switch {
	case s.Kind == SubjectServiceAccount && s.Namespace == "":
		return Errorf(CodeInvalid, "a %s has a namespace", s.Kind)
	case s.Kind != SubjectServiceAccount && s.Namespace != "":
		return Errorf(CodeInvalid, "a %s has no namespace", s.Kind)
	}
	switch s.Kind {
	case SubjectRegistryUser:
		return ValidateReadonlyUser(s.Name)
	case SubjectServiceAccount, SubjectUser, SubjectGroup:
	default:
		return Errorf(CodeInvalid, "subject kind %s is not allowed; use %s, %s, %s or %s", Quote(string(s.Kind)), SubjectRegistryUser, SubjectServiceAccount, SubjectUser, SubjectGroup)
	}
	for _, name := range []string{s.Namespace, s.Name} {
		if utf8.RuneCountInString(name) > MaxSubjectName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return Errorf(CodeInvalid, "the name of a %s has at most %d printable characters", s.Kind, MaxSubjectName)
		}
	}
	if s.Name == "" {
		return Errorf(CodeInvalid, "a %s has a name", s.Kind)
	}
	if s.Kind != SubjectServiceAccount && strings.HasPrefix(s.Name, "system:") {
		return Errorf(CodeInvalid, "%s %s is one of Kubernetes itself; it cannot be a readonly superuser", s.Kind, Quote(s.Name))
	}
	return nil
}

// ValidateReadonlyUser refuses names of users of the registry that cannot be readonly superusers.
func ValidateReadonlyUser(name string) error {
	if strings.Contains(name, RobotSeparator) {
		return Errorf(CodeInvalid, "robot %s cannot be a readonly superuser: a robot belongs to one organization", Quote(name))
	}
	if reservedUsers[name] {
		return Errorf(CodeInvalid, "%s cannot be a readonly superuser: the registry needs it", name)
	}
	return ValidateUser(name)
}

// ReadonlyAccess says how much a readonly superuser reads.
type ReadonlyAccess string

// The accesses of readonly superusers.
const (
	// ReadonlyFull is everything.
	ReadonlyFull ReadonlyAccess = "Full"
	// ReadonlyMetadataOnly is everything but blobs, so that no image can be carried away.
	ReadonlyMetadataOnly ReadonlyAccess = "MetadataOnly"
)

// ParseReadonlyAccess reads an access of a readonly superuser.
func ParseReadonlyAccess(text string) (ReadonlyAccess, error) {
	switch a := ReadonlyAccess(text); a {
	case ReadonlyFull, ReadonlyMetadataOnly:
		return a, nil
	}
	return "", Errorf(CodeInvalid, "access %s is not allowed; use %s or %s", Quote(text), ReadonlyFull, ReadonlyMetadataOnly)
}

// ReadonlySuperuser is a grant: its subject reads everything and writes nothing.
type ReadonlySuperuser struct {
	ID   int64
	UUID string
	Subject
	Access ReadonlyAccess
	// ExpiresAt is when the grant ends by itself; zero if it does not.
	ExpiresAt time.Time
	// Ended is true once the end of an expired grant is in the log, and its credentials are gone.
	Ended bool
	// Credentials says that the registry makes tokens for the subject, a RegistryUser without a password.
	Credentials bool
	// TokenID is the token that the Kubernetes object said last that it has; older ones of the grant are revoked.
	TokenID string
	// Manager is the Kubernetes object that the grant was made from.
	Manager   ManagedBy
	CreatedAt time.Time
	// LastSeen is when the subject called last, to about a minute; zero if it has not.
	LastSeen time.Time
}

// InForce reports whether the grant has not expired.
func (g *ReadonlySuperuser) InForce(now time.Time) bool {
	return g.ExpiresAt.IsZero() || now.Before(g.ExpiresAt)
}

// Grants are all grants at one moment.
type Grants struct {
	List []ReadonlySuperuser
	// Epoch is that of callers without an account.
	Epoch int64
	// Version is that of identities.
	Version int64
}
