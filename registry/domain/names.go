// Package domain holds the words that every part of the registry shares: names, digests, descriptors, policies,
// callers, audit kinds and errors. It depends on nothing else of the project.
package domain

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Limits of names, in bytes.
const (
	// MaxRepositoryName bounds organization and path together, as most clients do.
	MaxRepositoryName = 255
	// MaxTag is the limit of the OCI Distribution Specification 1.1.
	MaxTag = 128
)

// The grammar of the OCI Distribution Specification 1.1, "Pulling manifests".
var (
	nameComponent = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	nameGrammar   = regexp.MustCompile(`^` + nameComponent + `(?:/` + nameComponent + `)*$`)
	orgGrammar    = regexp.MustCompile(`^` + nameComponent + `$`)
	tagGrammar    = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// maxQuote is how much of a client's text a message repeats, in bytes. Whole digests fit.
const maxQuote = 160

// Quote quotes what a client sent, for a message: control characters are escaped, and of a long text it shows the
// beginning.
func Quote(text string) string {
	if len(text) <= maxQuote {
		return strconv.Quote(text)
	}
	return fmt.Sprintf("%q… (%d bytes)", text[:maxQuote], len(text))
}

// RepositoryName names a repository: the organization is the first segment, the path all that follows.
type RepositoryName struct {
	Organization string
	Path         string
}

// String returns the name as clients write it, for instance "team-a/backend/api".
func (n RepositoryName) String() string { return n.Organization + "/" + n.Path }

// ParseRepositoryName reads "organization/path". The error is an *Error with code NAME_INVALID.
func ParseRepositoryName(name string) (RepositoryName, error) {
	if len(name) > MaxRepositoryName {
		return RepositoryName{}, Errorf(CodeNameInvalid, "repository name is %d bytes long; at most %d are allowed", len(name), MaxRepositoryName)
	}
	organization, path, ok := strings.Cut(name, "/")
	if !ok {
		return RepositoryName{}, Errorf(CodeNameInvalid, "repository name %s has one segment; use organization/repository", Quote(name))
	}
	if !nameGrammar.MatchString(name) {
		return RepositoryName{}, Errorf(CodeNameInvalid, "repository name %s is invalid: each segment is lower-case letters and digits, separated by '.', '_', '__' or '-'", Quote(name))
	}
	return RepositoryName{Organization: organization, Path: path}, nil
}

// ValidateOrganization checks an organization's name: one segment of the repository grammar.
func ValidateOrganization(name string) error {
	if len(name) > MaxRepositoryName || !orgGrammar.MatchString(name) {
		return Errorf(CodeNameInvalid, "organization name %s is invalid: lower-case letters and digits, separated by '.', '_', '__' or '-', at most %d bytes", Quote(name), MaxRepositoryName)
	}
	return nil
}

// ValidateRepositoryPath checks the part of a repository's name behind the organization.
func ValidateRepositoryPath(path string) error {
	if len(path) > MaxRepositoryName || !nameGrammar.MatchString(path) {
		return Errorf(CodeNameInvalid, "repository %s is invalid: segments of lower-case letters and digits, separated by '.', '_', '__' or '-', joined by '/'", Quote(path))
	}
	return nil
}

// ValidateTag checks a tag against the OCI grammar.
func ValidateTag(tag string) error {
	if !tagGrammar.MatchString(tag) {
		return Errorf(CodeTagInvalid, "tag %s is invalid: a letter, digit or '_', then at most %d letters, digits, '.', '_' or '-'", Quote(tag), MaxTag-1)
	}
	return nil
}

// ParseDigest checks that the text is a digest of an algorithm that the registry can verify (sha256 or sha512).
func ParseDigest(text string) (digest.Digest, error) {
	d := digest.Digest(text)
	if err := d.Validate(); err != nil || (d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512) {
		return "", Errorf(CodeDigestInvalid, "digest %s is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>", Quote(text))
	}
	return d, nil
}

// Reference is the last segment of a manifest's address: a tag or a digest, never both.
type Reference struct {
	Tag    string
	Digest digest.Digest
}

// ParseReference reads a tag or a digest.
func ParseReference(text string) (Reference, error) {
	if strings.Contains(text, ":") {
		d, err := ParseDigest(text)
		return Reference{Digest: d}, err
	}
	if err := ValidateTag(text); err != nil {
		return Reference{}, err
	}
	return Reference{Tag: text}, nil
}

func (r Reference) String() string {
	if r.Tag != "" {
		return r.Tag
	}
	return r.Digest.String()
}

// Visibility says whether a repository may be read without permission.
type Visibility string

// The visibilities of a repository.
const (
	Private Visibility = "private"
	Public  Visibility = "public"
)

// ParseVisibility reads "public" or "private"; empty means private.
func ParseVisibility(text string) (Visibility, error) {
	switch v := Visibility(text); v {
	case Public, Private:
		return v, nil
	case "":
		return Private, nil
	}
	return "", Errorf(CodeInvalid, "visibility %s is not allowed; use public or private", Quote(text))
}

// Caller is who asks for something, as authentication found it.
type Caller struct {
	// Name is the account's name, unique within Kind.
	Name string
	Kind CallerKind
	// Address is the client's network address without port.
	Address string
	// TokenID names the credential that was used, never its value; empty for a password.
	TokenID string
	// Account is the id of an account in the database, else 0, and Epoch the one under which it was authorised: a write
	// of the account is refused if it has another one by then. For a mirror they are its id and the epoch of its sync. Who
	// has no account but is known elsewhere has the epoch of all grants, which each change of one ends.
	Account, Epoch int64
}

// CallerKind is the source of an identity: names are never equal across kinds.
type CallerKind string

// The kinds of callers.
const (
	CallerAnonymous CallerKind = "anonymous"
	CallerUser      CallerKind = "user"
	CallerRobot     CallerKind = "robot"
	CallerOperator  CallerKind = "operator"
	CallerSystem    CallerKind = "system"
	// CallerMirror is a mirror that fills an organization, whose name it has.
	CallerMirror CallerKind = "mirror"
	// CallerServiceAccount is a ServiceAccount of the cluster, by namespace/name.
	CallerServiceAccount CallerKind = "serviceaccount"
	// CallerKubernetesUser is a user as the cluster knows it.
	CallerKubernetesUser CallerKind = "kubernetes"
	// CallerOIDC is a user as an OIDC issuer of the registry knows it.
	CallerOIDC CallerKind = "oidc"
)

// System is the caller of what the registry does by itself.
var System = Caller{Name: "system", Kind: CallerSystem}

func (c Caller) String() string { return fmt.Sprintf("%s:%s", c.Kind, c.Name) }
