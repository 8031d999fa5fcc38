package mgmtapi

import (
	"context"
	"errors"
	"strings"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// mirrorPage is how many repositories of a mirror a page has unless the client says otherwise, maxMirrorPage the most
	// that it can have, maxMirrorPages the last one.
	mirrorPage     = 100
	maxMirrorPage  = 500
	maxMirrorPages = 1_000_000
	// verified is Quay's message for an upstream that answers as it should.
	verified = "Connection successful"
)

// MirrorEngine knows upstreams. *mirror.Engine is one.
type MirrorEngine interface {
	// CheckSource refuses what no mirror may reach, by INVALID with a message "field: reason", whose field is that of a
	// specification. It calls nobody.
	CheckSource(ctx context.Context, source domain.MirrorSource) error
	// Verify tries whether an upstream can be reached and listed, and bounds how long that takes. INVALID says in its
	// message what is wrong, to whoever may manage the mirror.
	Verify(ctx context.Context, spec domain.MirrorSpec, secrets domain.MirrorSecrets) error
}

// errNoMirrors is for an API that was put together without what mirrors need.
var errNoMirrors = domain.Errorf(domain.CodeUnavailable, "mirrors are not served here")

func (a *API) getMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	mirror, err := a.core.Mirror(c.Context(), organization)
	if err != nil {
		return answer{}, err
	}
	counts, err := a.core.MirrorRepositoryCounts(c.Context(), organization)
	if err != nil {
		return answer{}, err
	}
	return ok(viewMirror(mirror, counts)), nil
}

func (a *API) createMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.NewOrganizationMirror](c)
	if err != nil {
		return answer{}, err
	}
	if body.SyncInterval == nil && body.Cron == nil {
		return answer{}, badField("sync_interval", "the field is required, unless there is cron")
	}
	spec, secrets := newMirrorSpec(), domain.MirrorSecrets{}
	if err := applyMirrorChange(changeOf(body), organization, &spec, &secrets); err != nil {
		return answer{}, err
	}
	if err := nothingToKeep(secrets); err != nil {
		return answer{}, err
	}
	if err := a.checkSource(c.Context(), spec.Source); err != nil {
		return answer{}, err
	}
	_, err = a.core.CreateMirror(c.Context(), c.identity.Caller, organization, spec, secrets)
	return created(""), asQuay(err)
}

func (a *API) updateMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.OrganizationMirrorChange](c)
	if err != nil {
		return answer{}, err
	}
	// The change is applied once more to what stands when it is stored: two changes at once do not undo one another.
	apply := func(spec *domain.MirrorSpec, secrets *domain.MirrorSecrets) error {
		return applyMirrorChange(body, organization, spec, secrets)
	}
	mirror, err := a.core.Mirror(c.Context(), organization)
	if err != nil {
		return answer{}, err
	}
	spec, secrets := mirror.MirrorSpec, mirror.KeptSecrets()
	if err := apply(&spec, &secrets); err != nil {
		return answer{}, err
	}
	// What may not be reached any more can still be switched off.
	if spec.Source != mirror.Source {
		if err := a.checkSource(c.Context(), spec.Source); err != nil {
			return answer{}, err
		}
	}
	_, err = a.core.ChangeMirror(c.Context(), c.identity.Caller, organization, apply)
	return ok(""), err
}

func (a *API) deleteMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteMirror(c.Context(), c.identity.Caller, organization)
}

func (a *API) adoptMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.AdoptMirror(c.Context(), c.identity.Caller, organization)
}

func (a *API) syncMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, asQuay(a.core.RequestMirrorSync(c.Context(), c.identity.Caller, organization))
}

func (a *API) cancelMirrorSync(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, asQuay(a.core.CancelMirrorSync(c.Context(), c.identity.Caller, organization))
}

func (a *API) verifyMirror(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	body, err := readOptionalBody[openapi.OrganizationMirrorChange](c)
	if err != nil {
		return answer{}, err
	}
	spec, secrets, err := a.mirrorToVerify(c, organization, body)
	if err != nil {
		return answer{}, err
	}
	err = a.checkSource(c.Context(), spec.Source)
	if err == nil {
		err = a.mirrors.Verify(c.Context(), spec, secrets)
	}
	var known *domain.Error
	switch {
	case err == nil:
		return ok(openapi.MirrorVerification{Success: true, Message: verified}), nil
	case errors.As(err, &known) && known.Code == domain.CodeInvalid:
		return ok(openapi.MirrorVerification{Message: known.Message}), nil
	}
	return answer{}, err
}

// mirrorToVerify is the mirror of a call to verify, with its credentials: the stored one, changed by the body, or the
// body alone where none is stored.
func (a *API) mirrorToVerify(c *call, organization string, body openapi.OrganizationMirrorChange) (domain.MirrorSpec, domain.MirrorSecrets, error) {
	mirror, err := a.core.Mirror(c.Context(), organization)
	spec, secrets := mirror.MirrorSpec, mirror.KeptSecrets()
	stored := err == nil
	switch {
	case stored:
	case domain.CodeOf(err) != domain.CodeNotFound || c.ContentLength == 0:
		return spec, secrets, err
	default:
		if _, err := a.core.Organization(c.Context(), organization); err != nil {
			return spec, secrets, err
		}
		if body.ExternalRegistryType == nil {
			return spec, secrets, badField("external_registry_type", "the field is required, since no mirror is stored")
		}
		if body.ExternalRegistryURL == nil {
			return spec, secrets, badField("external_registry_url", "the field is required, since no mirror is stored")
		}
		spec, secrets = newMirrorSpec(), domain.MirrorSecrets{}
		spec.Schedule.Interval = domain.MinMirrorInterval
	}
	if err := applyMirrorChange(body, organization, &spec, &secrets); err != nil {
		return spec, secrets, err
	}
	if !stored {
		return spec, secrets, nothingToKeep(secrets)
	}
	secrets, err = a.core.MirrorSecrets(c.Context(), organization, spec.Source, secrets)
	return spec, secrets, err
}

// checkSource refuses a source that is, or that is reached through, what mirrors may not reach, in the words of the body.
func (a *API) checkSource(ctx context.Context, source domain.MirrorSource) error {
	if a.mirrors == nil {
		return errNoMirrors
	}
	err := a.mirrors.CheckSource(ctx, source)
	var refused *domain.Error
	if !errors.As(err, &refused) || refused.Code != domain.CodeInvalid {
		return err
	}
	if path, reason, found := strings.Cut(refused.Message, ": "); found {
		return badField(bodyField(path), "%s", reason)
	}
	return err
}

// repositoryStates are the states of repositories in Quay's words. Repositories are never SYNC_NOW: mirrors are.
var repositoryStates = map[domain.SyncState]openapi.QuaySyncStatus{
	"":                   openapi.QuaySyncStatusNEVERRUN,
	domain.SyncRunning:   openapi.QuaySyncStatusSYNCING,
	domain.SyncSucceeded: openapi.QuaySyncStatusSUCCESS,
	domain.SyncFailed:    openapi.QuaySyncStatusFAIL,
	domain.SyncCancelled: openapi.QuaySyncStatusCANCEL,
	domain.SyncSkipped:   openapi.QuaySyncStatusSKIP,
}

// selectRepositories reads which repositories of a mirror the client wants. None is true for a status that none can have.
func selectRepositories(q query) (selection core.MirrorRepositoriesQuery, page int64, none bool, err error) {
	if page, err = q.number("page", 1, 1, maxMirrorPages); err != nil {
		return selection, page, false, err
	}
	limit, err := q.number("limit", mirrorPage, 1, maxMirrorPage)
	if err != nil {
		return selection, page, false, err
	}
	selection.Limit, selection.Offset = int(limit), int((page-1)*limit)
	status := openapi.QuaySyncStatus(q.text("status"))
	switch {
	case status == "":
		return selection, page, false, nil
	case !status.Valid():
		var words []string
		for _, known := range quayStatuses {
			words = append(words, string(known))
		}
		return selection, page, false, badField("status", "%q is not allowed; use one of %s", status, strings.Join(words, ", "))
	}
	for state, word := range repositoryStates {
		if word == status {
			selection.States = []domain.SyncState{state}
			return selection, page, false, nil
		}
	}
	return selection, page, true, nil
}

func (a *API) listMirrorRepositories(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	selection, page, none, err := selectRepositories(c.query)
	if err != nil {
		return answer{}, err
	}
	list := openapi.MirrorRepositoryList{Repositories: []openapi.MirrorRepository{}, Page: page, Limit: int64(selection.Limit)}
	if none {
		_, err := a.core.Mirror(c.Context(), organization)
		return ok(list), err
	}
	repositories, total, err := a.core.MirrorRepositories(c.Context(), organization, selection)
	if err != nil {
		return answer{}, err
	}
	for _, repository := range repositories {
		list.Repositories = append(list.Repositories, viewMirrorRepository(organization, repository))
	}
	list.Total, list.HasNext = total, page*list.Limit < total
	return ok(list), nil
}
