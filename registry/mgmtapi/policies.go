package mgmtapi

import (
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// scope is what the policies of the path hang on, a repository or an organization.
func (c *call) scope() (core.Scope, error) {
	if _, ok := c.parameters["repository"]; ok {
		name, err := c.repository()
		return core.Scope{Organization: name.Organization, Repository: name.Path}, err
	}
	name, err := c.organization()
	return core.Scope{Organization: name}, err
}

// policy is the scope and the UUID of the path.
func (c *call) policy() (core.Scope, string, error) {
	scope, err := c.scope()
	return scope, c.parameters["uuid"], err
}

// readPolicy reads a policy's body. What is left out has its default, also when a policy is replaced.
func readPolicy(c *call) (domain.PolicySpec, error) {
	body, err := readBody[openapi.PolicyBody](c)
	if err != nil {
		return domain.PolicySpec{}, err
	}
	spec := domain.PolicySpec{
		TagPattern: strings.TrimSpace(body.TagPattern), TagPatternMatches: true,
		EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	}
	if body.TagPatternMatches != nil {
		spec.TagPatternMatches = *body.TagPatternMatches
	}
	if body.EnforcementMode != nil {
		spec.EnforcementMode = *body.EnforcementMode
	}
	if body.ReclaimPolicy != nil {
		spec.ReclaimPolicy = *body.ReclaimPolicy
	}
	if body.LockedUntil != nil {
		spec.LockedUntil = *body.LockedUntil
	}
	return spec, nil
}

func (a *API) listPolicies(c *call) (answer, error) {
	scope, err := c.scope()
	if err != nil {
		return answer{}, err
	}
	policies, err := a.core.Policies(c.Context(), scope)
	if err != nil {
		return answer{}, err
	}
	list := openapi.PolicyList{Policies: []openapi.PolicyView{}}
	for _, policy := range policies {
		list.Policies = append(list.Policies, a.viewPolicy(policy))
	}
	return ok(list), nil
}

func (a *API) createPolicy(c *call) (answer, error) {
	scope, err := c.scope()
	if err != nil {
		return answer{}, err
	}
	spec, err := readPolicy(c)
	if err != nil {
		return answer{}, err
	}
	policy, err := a.core.CreatePolicy(c.Context(), c.identity.Caller, scope, spec)
	if err != nil {
		return answer{}, err
	}
	return created(openapi.PolicyID{UUID: policy.UUID}), nil
}

func (a *API) getPolicy(c *call) (answer, error) {
	scope, uuid, err := c.policy()
	if err != nil {
		return answer{}, err
	}
	policy, err := a.core.Policy(c.Context(), scope, uuid)
	if err != nil {
		return answer{}, err
	}
	return ok(a.viewPolicy(policy)), nil
}

func (a *API) updatePolicy(c *call) (answer, error) {
	scope, uuid, err := c.policy()
	if err != nil {
		return answer{}, err
	}
	spec, err := readPolicy(c)
	if err != nil {
		return answer{}, err
	}
	_, err = a.core.UpdatePolicy(c.Context(), c.identity.Caller, scope, uuid, spec)
	return noContent, err
}

func (a *API) deletePolicy(c *call) (answer, error) {
	scope, uuid, err := c.policy()
	if err != nil {
		return answer{}, err
	}
	return ok(openapi.PolicyID{UUID: uuid}), a.core.DeletePolicy(c.Context(), c.identity.Caller, scope, uuid)
}

func (a *API) releasePolicy(c *call) (answer, error) {
	scope, uuid, err := c.policy()
	if err != nil {
		return answer{}, err
	}
	released, err := a.core.ReleasePolicy(c.Context(), c.identity.Caller, scope, uuid)
	return ok(openapi.Released{Released: int64(released)}), err
}

func (a *API) adoptPolicy(c *call) (answer, error) {
	scope, uuid, err := c.policy()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.AdoptPolicy(c.Context(), c.identity.Caller, scope, uuid)
}

func (a *API) viewPolicy(policy domain.Policy) openapi.PolicyView {
	return openapi.PolicyView{
		UUID: policy.UUID, TagPattern: policy.TagPattern, TagPatternMatches: policy.TagPatternMatches,
		EnforcementMode: policy.EnforcementMode, ReclaimPolicy: policy.ReclaimPolicy,
		LockedUntil: optionalTime(policy.LockedUntil), Locked: policy.Locked(a.now()),
		ManagedBy: viewManager(policy.Manager), Orphaned: policy.Orphaned, DeleteAt: optionalTime(policy.DeleteAt),
	}
}

func viewManager(manager *domain.ManagedBy) *openapi.Manager {
	if manager == nil {
		return nil
	}
	return &openapi.Manager{Kind: manager.Kind, Namespace: manager.Namespace, Name: manager.Name, UID: manager.UID}
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
