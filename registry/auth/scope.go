package auth

import (
	"context"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/registry/domain"
)

// Access is what a token is for, in the words of the Docker Registry token specification
// (https://distribution.github.io/distribution/spec/auth/jwt/).
type Access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// The types and actions of scopes.
const (
	typeRepository = "repository"
	typeRegistry   = "registry"
	nameCatalog    = "catalog"
	actionPull     = "pull"
	actionPush     = "push"
	actionDelete   = "delete"
	actionAll      = "*"
)

// maxScopes bounds the scopes of one request.
const maxScopes = 100

// actions are the permissions that the actions on a repository stand for.
var actions = []struct {
	name       string
	permission Permission
}{{actionPull, RepositoryPull}, {actionPush, RepositoryPush}, {actionDelete, RepositoryDelete}}

// parseScopes reads scopes as clients write them: "type:name:action,action", several in one text with blanks between.
// What is no scope is left out, for it can be granted to nobody.
func parseScopes(texts []string) (list []Access) {
	for _, text := range texts {
		for _, scope := range strings.Fields(text) {
			kind, rest, _ := strings.Cut(scope, ":")
			i := strings.LastIndexByte(rest, ':')
			if i <= 0 || i == len(rest)-1 || len(list) >= maxScopes {
				continue
			}
			list = append(list, Access{Type: kind, Name: rest[:i], Actions: strings.Split(rest[i+1:], ",")})
		}
	}
	return list
}

// formatScopes writes scopes as clients do.
func formatScopes(list []Access) string {
	texts := make([]string, len(list))
	for i, access := range list {
		texts[i] = access.Type + ":" + access.Name + ":" + strings.Join(access.Actions, ",")
	}
	return strings.Join(texts, " ")
}

// grant returns what of the scopes the caller may have.
func (a *Authenticator) grant(ctx context.Context, id Identity, asked []Access) ([]Access, error) {
	granted := []Access{}
	for _, scope := range asked {
		allowed, err := a.grantOne(ctx, id, scope)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(granted, func(g Access) bool { return g.Type == scope.Type && g.Name == scope.Name })
		switch {
		case len(allowed) == 0:
		case i < 0:
			granted = append(granted, Access{Type: scope.Type, Name: scope.Name, Actions: allowed})
		default:
			for _, action := range allowed {
				if !slices.Contains(granted[i].Actions, action) {
					granted[i].Actions = append(granted[i].Actions, action)
				}
			}
		}
	}
	return granted, nil
}

func (a *Authenticator) grantOne(ctx context.Context, id Identity, scope Access) (allowed []string, err error) {
	may := func(permission Permission, on Resource) bool {
		refusal := a.Authorize(ctx, id, permission, on)
		if code := domain.CodeOf(refusal); refusal != nil && code != domain.CodeDenied && code != domain.CodeUnauthorized {
			err = refusal
		}
		return refusal == nil
	}
	switch scope.Type {
	case typeRegistry:
		if scope.Name == nameCatalog && slices.Contains(scope.Actions, actionAll) && may(CatalogRead, Resource{}) {
			allowed = []string{actionAll}
		}
	case typeRepository:
		name, invalid := domain.ParseRepositoryName(scope.Name)
		if invalid != nil {
			return nil, nil //nolint:nilerr // nobody has rights on what cannot be
		}
		all := slices.Contains(scope.Actions, actionAll)
		if all && may(RepositoryAdmin, Repository(name)) {
			return []string{actionAll}, err
		}
		for _, action := range actions {
			if (all || slices.Contains(scope.Actions, action.name)) && may(action.permission, Repository(name)) {
				allowed = append(allowed, action.name)
			}
		}
	}
	return allowed, err
}

// inScope reports whether the token that the caller came with, if it was one of the token endpoint, is for this.
func (id Identity) inScope(permission Permission, on Resource) bool {
	if id.Scopes == nil || permission == RegistryPing {
		return true
	}
	if permission == BlobPull {
		permission = RepositoryPull // one action of tokens is for both
	}
	return slices.ContainsFunc(id.Scopes, func(granted Access) bool {
		if permission == CatalogRead {
			return granted.Type == typeRegistry && granted.Name == nameCatalog
		}
		return granted.Type == typeRepository && on.path != "" && granted.Name == on.String() && slices.ContainsFunc(actions, func(action struct {
			name       string
			permission Permission
		}) bool {
			return action.permission == permission && (slices.Contains(granted.Actions, action.name) || slices.Contains(granted.Actions, actionAll))
		})
	})
}

// Needed is the scope that a token must have for a permission, empty where none is enough.
func Needed(permission Permission, on Resource) string {
	switch permission {
	case CatalogRead:
		return "registry:catalog:*"
	case RepositoryPull, BlobPull:
		return "repository:" + on.String() + ":pull"
	case RepositoryPush:
		return "repository:" + on.String() + ":pull,push"
	case RepositoryDelete:
		return "repository:" + on.String() + ":delete"
	default:
		return ""
	}
}
