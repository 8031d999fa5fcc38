package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tidelock/tidelock/registry/domain"
)

// Subject is whom a token of another authority speaks of: a Kubernetes cluster, or an issuer of OpenID Connect.
type Subject struct {
	// Kind is domain.CallerServiceAccount, CallerKubernetesUser or CallerOIDC, and Name the registry's name for it.
	Kind domain.CallerKind
	Name string
	// User, UID, Groups and Extra are what a cluster's authorizer is asked about.
	User, UID string
	Groups    []string
	Extra     map[string][]string
	// TokenID names the token, empty if nothing does.
	TokenID string
	// Expires is when the token does.
	Expires time.Time
}

// Verb is what the RBAC of a cluster may allow on repositories.
type Verb string

// The verbs.
const (
	// VerbGet is pulling, and reading what there is of a repository.
	VerbGet Verb = "get"
	// VerbCreate is making a repository that is not there, by a push too; VerbUpdate is pushing to one that is.
	VerbCreate Verb = "create"
	VerbUpdate Verb = "update"
	// VerbDelete is deleting tags, manifests and blobs.
	VerbDelete Verb = "delete"
	// VerbManage is policies and holds, and the settings and logs of a repository.
	VerbManage Verb = "manage"
)

// Cluster is a Kubernetes cluster whose identities the registry takes, and whose RBAC says what they may do. Its errors are
// *domain.Error; UNAVAILABLE means that it does not answer now, and that nobody is let in on the strength of what it said
// long ago.
type Cluster interface {
	// Review finds out whose a token is: UNAUTHORIZED for one that is not valid, or not for this registry.
	Review(ctx context.Context, token string) (Subject, error)
	// Allows reports whether a subject may do something with a repository, whose path in its organization is the name, or
	// with all of the organization's if the name is empty. Owner is the namespace that the organization belongs to; another
	// namespace of its name does not count.
	Allows(ctx context.Context, subject Subject, verb Verb, owner domain.Owner, name string) (bool, error)
}

// externalLifetime is how long a token of the token endpoint is good for at most where the caller came with one of another
// authority: that may be revoked there, and the registry would not learn of it.
const externalLifetime = time.Minute

// foreignAlgorithms are those of tokens that others sign and verify.
var foreignAlgorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Unverified reads what a token says of itself, which nobody has to believe. UNAUTHORIZED if it is none.
func Unverified(token string) (claims jwt.Claims, err error) {
	parsed, err := jwt.ParseSigned(token, foreignAlgorithms)
	if err == nil {
		err = parsed.UnsafeClaimsWithoutVerification(&claims)
	}
	if err != nil {
		return claims, wrongToken()
	}
	return claims, nil
}

// external finds the identity of a token that another authority has issued. Foreign is false for anything else, also where
// the registry takes nobody's tokens but its own.
func (a *Authenticator) external(ctx context.Context, token, address string) (id Identity, foreign bool, err error) {
	if !looksLikeJWT(token) || !a.takesExternal() {
		return id, false, nil
	}
	claims, err := Unverified(token)
	if err != nil || claims.Issuer == Service {
		return id, false, nil //nolint:nilerr // whoever issued it, it is for somebody else to refuse
	}
	var subject Subject
	switch issuer := a.issuers[claims.Issuer]; {
	case issuer != nil:
		subject, err = issuer.verify(ctx, token)
	case a.cluster != nil:
		subject, err = a.cluster.Review(ctx, token)
	default:
		err = wrongToken()
	}
	if err != nil {
		return id, true, err
	}
	id = subject.identity()
	id.Address = address
	return id, true, nil
}

func (a *Authenticator) takesExternal() bool { return a.cluster != nil || len(a.issuers) > 0 }

// identity is a subject as a caller.
func (s Subject) identity() Identity {
	return Identity{
		Caller: domain.Caller{Name: s.Name, Kind: s.Kind, TokenID: s.TokenID},
		Role:   RoleExternal, Groups: s.Groups, Subject: &s,
	}
}

// subjectClaims are a subject in a token of the token endpoint.
type subjectClaims struct {
	User   string              `json:"user"`
	UID    string              `json:"uid,omitempty"`
	Groups []string            `json:"groups,omitempty"`
	Extra  map[string][]string `json:"extra,omitempty"`
}

// fromSubject is the identity of a token of the token endpoint that was issued to a subject of another authority.
func (a *Authenticator) fromSubject(c claims, scopes []Access) (Identity, error) {
	if !a.takesExternal() {
		return Identity{}, wrongToken()
	}
	subject := Subject{
		Kind: c.Kind, Name: c.Subject, TokenID: c.Credential,
		User: c.External.User, UID: c.External.UID, Groups: c.External.Groups, Extra: c.External.Extra,
	}
	if c.Expiry != nil {
		subject.Expires = c.Expiry.Time()
	}
	id := subject.identity()
	id.Scopes = scopes
	return id, nil
}

// verbRoles are the roles that the cluster gives, by verb.
var verbRoles = []struct {
	role Role
	verb Verb
}{{RoleVerbGet, VerbGet}, {RoleVerbCreate, VerbCreate}, {RoleVerbUpdate, VerbUpdate}, {RoleVerbDelete, VerbDelete}, {RoleVerbManage, VerbManage}}

// allowedByCluster looks whether the cluster lets its subject do what a permission is for, in an organization that belongs
// to one of its namespaces.
func (a *Authenticator) allowedByCluster(ctx context.Context, id Identity, permission Permission, on Resource) (bool, error) {
	if id.Role != RoleExternal || a.cluster == nil || a.directory == nil {
		return false, nil
	}
	var verbs []Verb
	for _, given := range verbRoles {
		if Allowed(given.role, permission) {
			verbs = append(verbs, given.verb)
		}
	}
	founder := on.path != "" && Allowed(RoleFounder, permission)
	switch {
	case on.anywhere:
		// The call asks again once it knows the organization.
		return len(verbs) > 0, nil
	case on.organization == "" || len(verbs) == 0 && !founder:
		return false, nil
	}
	owner, err := a.directory.owner(ctx, on.organization)
	if err != nil || owner.Namespace == "" {
		return false, err
	}
	allows := func(verb Verb) (bool, error) { return a.cluster.Allows(ctx, *id.Subject, verb, owner, on.path) }
	for _, verb := range verbs {
		if allowed, err := allows(verb); allowed || err != nil {
			return allowed, err
		}
	}
	if !founder || slices.Contains(verbs, VerbCreate) {
		return false, nil
	}
	state, err := a.directory.repository(ctx, on.repository())
	if err != nil || state.exists {
		return false, err
	}
	return allows(VerbCreate)
}

// isSystem reports whether a name is one that Kubernetes keeps for itself.
func isSystem(name string) bool { return strings.HasPrefix(name, "system:") }
