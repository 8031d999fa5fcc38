package mgmtapi

import (
	"time"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

func (a *API) putManagedMirror(c *call) (answer, error) {
	body, err := readBody[openapi.ManagedMirror](c)
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
	mirror := core.ManagedMirror{
		Cluster: body.Cluster, Manager: c.manager(domain.KindOrgMirror, body.UID), Rewound: body.Rewound, Organization: body.Organization,
		Spec: mirrorSpec(body.Spec), Secrets: mirrorSecrets(body.Secrets), Claim: c.claim(body.Claim), RequestedAt: body.RequestedAt,
	}
	mirror.Manager.Generation, mirror.Manager.RevisionClaimed = body.Generation, body.RevisionClaimed
	if mirror.Applied, err = applied(body.Applied); err != nil {
		return answer{}, err
	}
	if a.mirrors == nil {
		return answer{}, errNoMirrors
	}
	// What may not be reached any more can still be suspended.
	if !mirror.Spec.Suspend {
		if err := a.mirrors.CheckSource(c.Context(), mirror.Spec.Source); err != nil {
			return answer{}, err
		}
	}
	stored, err := a.core.PutManagedMirror(c.Context(), c.identity.Caller, mirror)
	if err != nil {
		return answer{}, err
	}
	return ok(viewMirrorStatus(stored)), nil
}

func (a *API) getManagedMirror(c *call) (answer, error) {
	mirror, err := a.core.ManagedMirror(c.Context(), domain.KindOrgMirror, c.parameters["namespace"], c.parameters["name"])
	if err != nil {
		return answer{}, err
	}
	return ok(viewMirrorStatus(mirror)), nil
}

func (a *API) deleteManagedMirror(c *call) (answer, error) {
	cluster, uid := c.query.text("cluster"), c.query.text("uid")
	if err := needed(field{"cluster", cluster}, field{"uid", uid}); err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteManagedMirror(c.Context(), c.identity.Caller, cluster, c.manager(domain.KindOrgMirror, uid))
}

func (a *API) noteMirrorDeletionIntent(c *call) (answer, error) {
	return a.noteIntent(c, domain.KindOrgMirror)
}

func mirrorSecrets(secrets openapi.MirrorSecrets) domain.MirrorSecrets {
	return domain.MirrorSecrets{
		Username: secrets.Username, Password: string(secrets.Password), Token: string(secrets.Token),
		ProxyUsername: secrets.ProxyUsername, ProxyPassword: string(secrets.ProxyPassword),
	}
}

func mirrorSpec(spec openapi.MirrorSpec) domain.MirrorSpec {
	m := domain.MirrorSpec{
		Source: domain.MirrorSource{
			Type: spec.Source.Type, URL: spec.Source.URL, Namespace: spec.Source.Namespace,
			CABundle: spec.Source.CaBundle, InsecureSkipTLSVerify: spec.Source.InsecureSkipTLSVerify,
			Proxy: domain.MirrorProxy{HTTP: spec.Source.HTTPProxy, HTTPS: spec.Source.HTTPSProxy, NoProxy: spec.Source.NoProxy},
		},
		Repositories: domain.RepositoryFilter{Include: spec.Repositories.Include, Exclude: spec.Repositories.Exclude},
		Tags:         tagFilter(spec.Tags), Platforms: spec.Platforms, Referrers: spec.Referrers,
		Schedule:   domain.MirrorSchedule{Interval: seconds(spec.Schedule.IntervalSeconds), Cron: spec.Schedule.Cron},
		Visibility: spec.Visibility, OnConflict: spec.OnConflict, Prune: spec.Prune, Suspend: spec.Suspend,
		Timeout: seconds(spec.TimeoutSeconds), Concurrency: int(spec.Concurrency), BandwidthLimit: spec.BandwidthLimit,
	}
	if at := spec.Schedule.StartAt; at != nil {
		m.Schedule.StartAt = at.UTC()
	}
	return m
}

// seconds is a number of them as a duration. One that no duration can be is longer than anything allows.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(max(-most, min(most, n))) * time.Second
}

func viewMirrorStatus(mirror domain.Mirror) openapi.MirrorStatus {
	view := openapi.MirrorStatus{
		UUID: mirror.UUID, Organization: mirror.Organization, Manager: viewManager(mirror.Manager), Suspended: mirror.Suspend,
		Orphaned: mirror.Orphaned, Lost: mirror.Lost, Requested: mirror.Requested, RequestedAt: mirror.RequestedAt,
		NextSync: optionalTime(mirror.NextSync), LastSuccess: optionalTime(mirror.LastSuccess), Failures: int64(mirror.Failures),
		Sync: viewSync(mirror.Last), CreatedAt: mirror.CreatedAt.UTC(),
	}
	if mirror.Manager != nil {
		view.Generation = mirror.Manager.Generation
	}
	return view
}
