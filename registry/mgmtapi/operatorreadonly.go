package mgmtapi

import (
	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

func (a *API) putManagedReadonlySuperuser(c *call) (answer, error) {
	body, err := readBody[openapi.ManagedReadonlySuperuser](c)
	if err != nil {
		return answer{}, err
	}
	err = needed(field{"cluster", body.Cluster}, field{"uid", body.UID}, field{"subject.kind", string(body.Subject.Kind)}, field{"subject.name", body.Subject.Name})
	if err != nil {
		return answer{}, err
	}
	if body.Generation < 1 {
		return answer{}, badField("generation", "%d is not a generation", body.Generation)
	}
	grant := core.ManagedReadonlySuperuser{
		Cluster: body.Cluster, Manager: c.manager(domain.KindReadonlySuperuser, body.UID), Rewound: body.Rewound,
		Subject: domain.Subject{Kind: body.Subject.Kind, Namespace: body.Subject.Namespace, Name: body.Subject.Name}, Access: body.Access,
	}
	grant.Manager.Generation, grant.Manager.RevisionClaimed = body.Generation, body.RevisionClaimed
	if body.ExpiresAt != nil {
		grant.ExpiresAt = body.ExpiresAt.UTC()
	}
	if body.Credentials != nil {
		grant.Credentials, grant.TokenID = true, body.Credentials.TokenID
	}
	if grant.Applied, err = applied(body.Applied); err != nil {
		return answer{}, err
	}
	status, err := a.core.PutManagedReadonlySuperuser(c.Context(), c.identity.Caller, grant)
	if err != nil {
		return answer{}, err
	}
	return ok(viewReadonlySuperuser(status)), nil
}

func (a *API) getManagedReadonlySuperuser(c *call) (answer, error) {
	status, err := a.core.ManagedReadonlySuperuser(c.Context(), domain.KindReadonlySuperuser, c.parameters["name"])
	if err != nil {
		return answer{}, err
	}
	return ok(viewReadonlySuperuser(status)), nil
}

func (a *API) deleteManagedReadonlySuperuser(c *call) (answer, error) {
	cluster, uid := c.query.text("cluster"), c.query.text("uid")
	if err := needed(field{"cluster", cluster}, field{"uid", uid}); err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteManagedReadonlySuperuser(c.Context(), c.identity.Caller, cluster, c.manager(domain.KindReadonlySuperuser, uid))
}

func (a *API) noteReadonlySuperuserDeletionIntent(c *call) (answer, error) {
	return a.noteIntent(c, domain.KindReadonlySuperuser)
}

func (a *API) createReadonlySuperuserCredentials(c *call) (answer, error) {
	body, err := readBody[openapi.NewReadonlyCredentials](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"cluster", body.Cluster}, field{"uid", body.UID}); err != nil {
		return answer{}, err
	}
	secret, hash := auth.NewSecret()
	token, username, err := a.core.CreateGrantToken(c.Context(), c.identity.Caller, body.Cluster, c.manager(domain.KindReadonlySuperuser, body.UID), hash)
	if err != nil {
		return answer{}, err
	}
	return created(openapi.ReadonlyCredentials{Username: username, Token: domain.NewSecret(secret), TokenID: token.ID, CreatedAt: token.CreatedAt.UTC()}), nil
}

func viewReadonlySuperuser(status core.ReadonlySuperuserStatus) openapi.ReadonlySuperuserStatus {
	view := openapi.ReadonlySuperuserStatus{
		UUID: status.UUID, Subject: openapi.Subject{Kind: status.Subject.Kind, Namespace: status.Subject.Namespace, Name: status.Subject.Name},
		Access: status.Access, State: openapi.ReadonlySuperuserStateExpired, Resolved: status.Resolved, ExpiresAt: optionalTime(status.ExpiresAt),
		Manager: viewManager(&status.Manager), Generation: status.Manager.Generation, LastSeen: optionalTime(status.LastSeen), CreatedAt: status.CreatedAt.UTC(),
	}
	if status.Active {
		view.State = openapi.ReadonlySuperuserStateActive
	}
	if !status.Credentials {
		return view
	}
	view.Credentials = &openapi.ReadonlyCredentialsStatus{
		Username: status.Subject.Name, OwnAccount: status.OwnAccount, TokenID: status.TokenID, Tokens: []openapi.ReadonlyToken{},
	}
	for _, token := range status.Tokens {
		view.Credentials.Tokens = append(view.Credentials.Tokens, openapi.ReadonlyToken{
			ID: token.ID, CreatedAt: token.CreatedAt.UTC(), LastUsed: optionalTime(token.LastUsed),
		})
	}
	return view
}
