package mgmtapi

import (
	"context"
	"math"
	"regexp"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// kindPolicy is the Kubernetes kind of the objects that declare policies.
	kindPolicy = "ImmutabilityPolicy"
	// maxFollow bounds the entries of one answer, maxWait how long an answer may wait for one.
	maxFollow = 500
	maxWait   = 30 * time.Second
)

// manager is the Kubernetes object of the path.
func (c *call) manager(kind, uid string) domain.ManagedBy {
	return domain.ManagedBy{Kind: kind, Namespace: c.parameters["namespace"], Name: c.parameters["name"], UID: uid}
}

// claim is the ground on which the namespace of the path manages an organization.
func (c *call) claim(body openapi.Claim) core.Claim {
	claim := core.Claim{
		Namespace:     domain.Owner{Namespace: c.parameters["namespace"], UID: body.NamespaceUID},
		Organizations: body.Organizations,
	}
	if body.Gone != nil {
		claim.Gone = &domain.Owner{Namespace: body.Gone.Namespace, UID: body.Gone.UID}
	}
	return claim
}

// applied is who applied an object, nobody if the body does not say.
func applied(body *openapi.Applied) (domain.Applied, error) {
	if body == nil {
		return domain.Applied{}, nil
	}
	err := needed(field{"applied.user", body.User})
	return domain.Applied{User: body.User, UserUID: body.UserUID, Generation: body.Generation}, err
}

func (a *API) putManagedPolicy(c *call) (answer, error) {
	body, err := readBody[openapi.ManagedPolicy](c)
	if err != nil {
		return answer{}, err
	}
	err = needed(field{"cluster", body.Cluster}, field{"uid", body.UID}, field{"organization", body.Organization},
		field{"claim.namespaceUID", body.Claim.NamespaceUID})
	if err != nil {
		return answer{}, err
	}
	if body.Generation < 1 {
		return answer{}, badField("generation", "%d is not a generation", body.Generation)
	}
	policy := core.ManagedPolicy{
		Cluster: body.Cluster, Manager: c.manager(kindPolicy, body.UID), Rewound: body.Rewound,
		Scope: core.Scope{Organization: body.Organization, Repository: body.Repository},
		Spec: domain.PolicySpec{
			TagPattern: body.TagPattern, TagPatternMatches: body.TagPatternMatches,
			EnforcementMode: body.EnforcementMode, ReclaimPolicy: body.ReclaimPolicy,
		},
		Events: body.Events, Claim: c.claim(body.Claim),
	}
	if body.LockedUntil != nil {
		policy.Spec.LockedUntil = *body.LockedUntil
	}
	policy.Manager.Generation, policy.Manager.RevisionClaimed = body.Generation, body.RevisionClaimed
	if policy.Applied, err = applied(body.Applied); err != nil {
		return answer{}, err
	}
	status, err := a.core.PutManagedPolicy(c.Context(), c.identity.Caller, policy)
	if err != nil {
		return answer{}, err
	}
	return ok(a.viewStatus(status)), nil
}

func (a *API) getManagedPolicy(c *call) (answer, error) {
	status, err := a.core.ManagedPolicyStatus(c.Context(), kindPolicy, c.parameters["namespace"], c.parameters["name"])
	if err != nil {
		return answer{}, err
	}
	return ok(a.viewStatus(status)), nil
}

func (a *API) deleteManagedPolicy(c *call) (answer, error) {
	cluster, uid := c.query.text("cluster"), c.query.text("uid")
	if err := needed(field{"cluster", cluster}, field{"uid", uid}); err != nil {
		return answer{}, err
	}
	namespaceGoes, err := c.query.boolean("namespaceGoes", false)
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteManagedPolicy(c.Context(), c.identity.Caller, cluster, c.manager(kindPolicy, uid), namespaceGoes)
}

func (a *API) noteDeletionIntent(c *call) (answer, error) {
	return a.noteIntent(c, kindPolicy)
}

func (a *API) noteRefusedChange(c *call) (answer, error) {
	body, err := readBody[openapi.RefusedChange](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"uid", body.UID}, field{"user", body.User}, field{"reason", body.Reason}); err != nil {
		return answer{}, err
	}
	if !body.Operation.Valid() {
		return answer{}, badField("operation", "%q is not update or delete", body.Operation)
	}
	change := core.RefusedChange{Delete: body.Operation == openapi.RefusedChangeOperationDelete, User: body.User, UserUID: body.UserUID, Reason: body.Reason}
	return noContent, a.core.NoteRefusedChange(c.Context(), c.identity.Caller, c.manager(kindPolicy, body.UID), change)
}

func (a *API) noteIntent(c *call, kind string) (answer, error) {
	body, err := readBody[openapi.DeletionIntent](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"uid", body.UID}, field{"user", body.User}); err != nil {
		return answer{}, err
	}
	return noContent, a.core.NoteDeletionIntent(c.Context(), c.identity.Caller, c.manager(kind, body.UID), body.User, body.UserUID)
}

func (a *API) previewPolicy(c *call) (answer, error) {
	body, err := readBody[openapi.PreviewRequest](c)
	if err != nil {
		return answer{}, err
	}
	scope := core.Scope{Organization: body.Organization, Repository: body.Repository}
	spec := domain.PolicySpec{
		TagPattern: body.TagPattern, TagPatternMatches: body.TagPatternMatches,
		EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	}
	coverage, err := a.core.Preview(c.Context(), scope, spec)
	if err != nil {
		return answer{}, err
	}
	return ok(viewCoverage(coverage)), nil
}

func (a *API) synced(c *call) (answer, error) {
	body, err := readBody[openapi.Present](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"cluster", body.Cluster}); err != nil {
		return answer{}, err
	}
	present := make([]domain.ManagedBy, 0, len(body.Present))
	for _, manager := range body.Present {
		err := needed(field{"present.kind", manager.Kind}, field{"present.name", manager.Name}, field{"present.uid", manager.UID})
		if err == nil && manager.Kind != domain.KindReadonlySuperuser {
			err = needed(field{"present.namespace", manager.Namespace})
		}
		if err != nil {
			return answer{}, err
		}
		present = append(present, domain.ManagedBy{Kind: manager.Kind, Namespace: manager.Namespace, Name: manager.Name, UID: manager.UID})
	}
	return noContent, a.core.Synced(c.Context(), c.identity.Caller, body.Cluster, present)
}

func (a *API) putPublishedCheckpoint(c *call) (answer, error) {
	body, err := readBody[openapi.PublishedCheckpoint](c)
	if err != nil {
		return answer{}, err
	}
	if err := needed(field{"cluster", body.Cluster}, field{"checkpoint", body.Checkpoint}); err != nil {
		return answer{}, err
	}
	status, err := a.core.Published(c.Context(), c.identity.Caller, body.Cluster, body.Checkpoint)
	return ok(openapi.LogStatus{Origin: status.Origin, OriginIndex: status.OriginIndex, ReadOnly: status.ReadOnly}), err
}

// selectSegment reads which entries the operator wants, and how long it wants to wait for one.
func selectSegment(q query) (audit.Query, time.Duration, error) {
	selection := audit.Query{Ascending: true, Policy: q.text("policy")}
	var err error
	if selection.After, err = q.number("after", -1, -1, math.MaxInt64); err != nil {
		return selection, 0, err
	}
	limit, err := q.number("limit", maxFollow, 1, maxFollow)
	if err != nil {
		return selection, 0, err
	}
	selection.Limit = int(limit)
	wait, err := q.number("wait", 0, 0, int64(maxWait/time.Second))
	if err == nil && wait > 0 && selection.Policy != "" {
		err = badField("wait", "cannot stand beside policy")
	}
	return selection, time.Duration(wait) * time.Second, err
}

func (a *API) followLog(c *call) (answer, error) {
	selection, wait, err := selectSegment(c.query)
	if err != nil {
		return answer{}, err
	}
	entries, err := a.core.Log(c.Context(), selection)
	if err != nil {
		return answer{}, err
	}
	if len(entries) == 0 && wait > 0 {
		if err := a.awaitLog(c, selection.After, wait); err != nil {
			return answer{}, err
		}
		if entries, err = a.core.Log(c.Context(), selection); err != nil {
			return answer{}, err
		}
	}
	segment := openapi.LogSegment{Entries: []openapi.LogEntry{}}
	if segment.Origin, err = a.core.LogOrigin(c.Context()); err != nil {
		return answer{}, err
	}
	if segment.Size, err = a.core.LogSize(c.Context()); err != nil {
		return answer{}, err
	}
	managers, err := a.managers(c.Context(), entries)
	if err != nil {
		return answer{}, err
	}
	for _, entry := range entries {
		item := viewLogEntry(entry)
		if item.Manager = viewManager(managers[entry.Policy]); item.Manager == nil {
			item.Manager = managerInEntry(entry)
		}
		segment.Entries = append(segment.Entries, item)
	}
	return ok(segment), nil
}

// awaitLog waits for an entry behind after, but neither longer than the client asked for nor into a shutdown; that the
// wait ends without an entry is no error.
func (a *API) awaitLog(c *call, after int64, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(c.Context(), wait)
	defer cancel()
	defer context.AfterFunc(a.draining, cancel)()
	if err := a.core.WaitLog(ctx, after); err != nil && ctx.Err() == nil {
		return err
	}
	return c.Context().Err()
}

// managers finds the Kubernetes objects of the policies that the entries are about.
func (a *API) managers(ctx context.Context, entries []audit.View) (map[string]*domain.ManagedBy, error) {
	var uuids []string
	seen := map[string]bool{"": true}
	for _, entry := range entries {
		if !seen[entry.Policy] {
			seen[entry.Policy] = true
			uuids = append(uuids, entry.Policy)
		}
	}
	if len(uuids) == 0 {
		return nil, nil
	}
	return a.core.PolicyManagers(ctx, uuids)
}

// managerInEntry is the Kubernetes object that an entry about a mirror or a grant names, nil if it names none.
func managerInEntry(entry audit.View) *openapi.Manager {
	manager, _ := entry.Metadata["managed_by"].(map[string]any)
	_, mirror := entry.Metadata["mirror_uuid"]
	_, grant := entry.Metadata["grant_uuid"]
	if manager == nil || !mirror && !grant {
		return nil
	}
	text := func(field string) string {
		value, _ := manager[field].(string)
		return value
	}
	return &openapi.Manager{Kind: text("kind"), Namespace: text("namespace"), Name: text("name"), UID: text("uid")}
}

// cursorName is the grammar of the names of the log's readers.
var cursorName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

func (c *call) cursor() (string, error) {
	name := c.parameters["cursor"]
	if !cursorName.MatchString(name) {
		return "", badField("cursor", "%q is not the name of a reader: lower-case letters, digits, '.' and '-', at most 63", name)
	}
	return name, nil
}

func (a *API) getCursor(c *call) (answer, error) {
	name, err := c.cursor()
	if err != nil {
		return answer{}, err
	}
	next, err := a.core.LogCursor(c.Context(), name)
	return ok(openapi.Cursor{Next: next}), err
}

func (a *API) moveCursor(c *call) (answer, error) {
	name, err := c.cursor()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.CursorMove](c)
	if err != nil {
		return answer{}, err
	}
	if body.From < 0 {
		return answer{}, badField("from", "%d is not an index", body.From)
	}
	if body.To < body.From {
		return answer{}, badField("to", "%d is behind from", body.To)
	}
	return noContent, a.core.MoveLogCursor(c.Context(), name, body.From, body.To)
}
