package domain

import (
	"regexp"
	"strings"
	"time"
)

// Redacted stands wherever a stored secret would.
const Redacted = "***REDACTED***"

// Limits of accounts.
const (
	// MaxAccountName bounds the name of a user and the short name of a robot, in bytes.
	MaxAccountName = 128
	// MinPassword and MaxPassword bound a password, in bytes.
	MinPassword = 8
	MaxPassword = 1024
)

// RobotSeparator stands between the organization and the short name in a robot's name.
const RobotSeparator = "+"

// OrganizationRole is what a member may do in an organization.
type OrganizationRole string

// The roles of members.
const (
	// OrganizationAdmin may do everything in the organization. A robot with this role is an admin of every repository
	// and may create some, but manages neither locks and policies nor members and robots.
	OrganizationAdmin OrganizationRole = "admin"
	// OrganizationCreator may create repositories, and becomes their admin.
	OrganizationCreator OrganizationRole = "creator"
	// OrganizationMember sees the organization, and of its repositories what it has permissions for.
	OrganizationMember OrganizationRole = "member"
)

// ParseOrganizationRole reads a role of a member.
func ParseOrganizationRole(text string) (OrganizationRole, error) {
	switch r := OrganizationRole(text); r {
	case OrganizationAdmin, OrganizationCreator, OrganizationMember:
		return r, nil
	}
	return "", Errorf(CodeInvalid, "role %q is not allowed; use admin, creator or member", text)
}

// RepositoryRole is a permission on one repository. Each includes those before it.
type RepositoryRole string

// The permissions on a repository.
const (
	RepositoryRead  RepositoryRole = "read"
	RepositoryWrite RepositoryRole = "write"
	RepositoryAdmin RepositoryRole = "admin"
)

// ParseRepositoryRole reads a permission on a repository.
func ParseRepositoryRole(text string) (RepositoryRole, error) {
	switch r := RepositoryRole(text); r {
	case RepositoryRead, RepositoryWrite, RepositoryAdmin:
		return r, nil
	}
	return "", Errorf(CodeInvalid, "role %q is not allowed; use read, write or admin", text)
}

// Account is a user or a robot.
type Account struct {
	// ID is never used twice: an account that is deleted and made again is another one.
	ID   int64
	Kind CallerKind
	Name string
	// Organization is the one that a robot belongs to, empty for users.
	Organization string
	Email        string
	Description  string
	// Metadata is a JSON object that clients keep with a robot, or empty.
	Metadata string
	// PasswordHash is the argon2id hash in the PHC string format; empty: the account has no password.
	PasswordHash string
	Disabled     bool
	// Epoch grows when the account loses a credential or a right. What was granted under another epoch is void.
	Epoch int64
	// GrantID is the grant that made the account, which goes with it; 0 if none did.
	GrantID   int64
	CreatedAt time.Time
	// LastUsed is when its latest credential was used; zero if never.
	LastUsed time.Time
}

// AccountToken is a secret that stands for an account. The secret itself is not kept.
type AccountToken struct {
	// ID is a UUID.
	ID        string
	AccountID int64
	// Title is what its owner calls it.
	Title string
	// GrantID is the grant that made the token, which goes with it; 0 if none did.
	GrantID   int64
	CreatedAt time.Time
	LastUsed  time.Time
}

// Rights are what an account was given: nothing else, whatever is public aside.
type Rights struct {
	// Organizations maps names of organizations to the account's role there.
	Organizations map[string]OrganizationRole
	// Repositories maps full names of repositories to the account's permission.
	Repositories map[string]RepositoryRole
}

// Highest is the highest role that the account has in any organization, empty if it is in none.
func (r Rights) Highest() (highest OrganizationRole) {
	rank := map[OrganizationRole]int{OrganizationMember: 1, OrganizationCreator: 2, OrganizationAdmin: 3}
	for _, role := range r.Organizations {
		if rank[role] > rank[highest] {
			highest = role
		}
	}
	return highest
}

// Principal is an account with its rights, and the token by which it was found, if it was by one.
type Principal struct {
	Account
	Rights  Rights
	TokenID string
	// Grant is the grant that made the account or the token, with which they end; 0 if none did.
	Grant int64
}

// Audience says what lists may show somebody.
type Audience struct {
	// Everything is for those who may see all.
	Everything bool
	// Account is the id of who sees what it has rights for; 0 sees what is public.
	Account int64
}

// Member is an account with its role in an organization.
type Member struct {
	Kind CallerKind
	Name string
	Role OrganizationRole
}

// Permission is an account's permission on a repository.
type Permission struct {
	Kind CallerKind
	Name string
	Role RepositoryRole
	// Member says whether the account belongs to the repository's organization.
	Member bool
}

// SigningKey is a key that signs tokens for clients.
type SigningKey struct {
	// ID names the key in tokens.
	ID string
	// Private is the key in PKCS #8, DER.
	Private   []byte
	CreatedAt time.Time
}

// userGrammar is that of an organization's name.
var userGrammar = regexp.MustCompile(`^` + nameComponent + `$`)

// reservedUsers are names that no user of the database can have.
var reservedUsers = map[string]bool{"admin": true, "operator": true, "system": true, "anonymous": true}

// ValidateUser checks the name of a new user.
func ValidateUser(name string) error {
	if len(name) > MaxAccountName || !userGrammar.MatchString(name) {
		return Errorf(CodeInvalid, "user name %q is invalid: lower-case letters and digits, separated by '.', '_', '__' or '-', at most %d bytes", name, MaxAccountName)
	}
	if reservedUsers[name] {
		return Errorf(CodeInvalid, "user name %s is reserved", name)
	}
	return nil
}

// RobotName makes the full name of an organization's robot, and checks it.
func RobotName(organization, short string) (string, error) {
	if err := ValidateOrganization(organization); err != nil {
		return "", err
	}
	if len(short) > MaxAccountName || !userGrammar.MatchString(short) {
		return "", Errorf(CodeInvalid, "robot name %q is invalid: lower-case letters and digits, separated by '.', '_', '__' or '-', at most %d bytes", short, MaxAccountName)
	}
	return organization + RobotSeparator + short, nil
}

// AccountKind tells from its form whether a name is a robot's or a user's. Whether there is such an account is another
// question; false means that there can be none.
func AccountKind(name string) (CallerKind, bool) {
	if organization, short, ok := strings.Cut(name, RobotSeparator); ok {
		_, err := RobotName(organization, short)
		return CallerRobot, err == nil
	}
	return CallerUser, len(name) <= MaxAccountName && userGrammar.MatchString(name)
}

// ValidatePassword checks the length of a new password.
func ValidatePassword(password string) error {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return Errorf(CodeInvalid, "a password has from %d to %d bytes", MinPassword, MaxPassword)
	}
	if password == Redacted {
		return Errorf(CodeInvalid, "%s is no password; leave the field out to keep what is stored", Redacted)
	}
	return nil
}
