package mgmtapi

import (
	"encoding/hex"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

func (a *API) viewStatus(status core.PolicyStatus) openapi.PolicyStatus {
	view := openapi.PolicyStatus{
		Policy: a.viewManagedPolicy(status.Policy), Coverage: viewCoverage(status.Coverage), Holds: status.Holds,
		Pending: status.Pending, WouldLock: status.WouldLock, Swept: status.Swept, Sweeps: []openapi.Sweep{},
	}
	for _, sweep := range status.Sweeps {
		view.Sweeps = append(view.Sweeps, viewSweep(sweep))
	}
	return view
}

func (a *API) viewManagedPolicy(policy domain.Policy) openapi.Policy {
	view := openapi.Policy{
		UUID: policy.UUID, Organization: policy.Organization, Repository: policy.Repository, Revision: policy.Revision,
		TagPattern: policy.TagPattern, TagPatternMatches: policy.TagPatternMatches,
		EnforcementMode: policy.EnforcementMode, ReclaimPolicy: policy.ReclaimPolicy,
		LockedUntil: optionalTime(policy.LockedUntil), Locked: policy.Locked(a.now()),
		Manager: viewManager(policy.Manager), Orphaned: policy.Orphaned, DeleteAt: optionalTime(policy.DeleteAt),
		Lost: policy.Lost, Deleted: policy.Deleted, WouldRefuse: policy.WouldRefuse, CreatedAt: policy.CreatedAt.UTC(),
	}
	if policy.Manager != nil {
		view.Generation = policy.Manager.Generation
	}
	return view
}

func viewCoverage(coverage core.Coverage) openapi.Coverage {
	return openapi.Coverage{
		Total: coverage.Total, Covered: coverage.Covered, Locked: coverage.Locked, Held: coverage.Held,
		Sample: append([]string{}, coverage.Sample...),
	}
}

func viewSweep(sweep core.Sweep) openapi.Sweep {
	return openapi.Sweep{
		Revision: sweep.Revision, Kind: openapi.SweepKind(sweep.Kind), State: sweep.State, CreatedAt: sweep.CreatedAt.UTC(),
		StartedAt: optionalTime(sweep.StartedAt), FinishedAt: optionalTime(sweep.FinishedAt),
		Total: sweep.Total, Examined: sweep.Examined, Changed: sweep.Changed,
		FirstIndex: optionalIndex(sweep.FirstIndex), LastIndex: optionalIndex(sweep.LastIndex),
	}
}

func optionalIndex(index int64) *int64 {
	if index < 0 {
		return nil
	}
	return &index
}

func viewLogEntry(entry audit.View) openapi.LogEntry {
	return openapi.LogEntry{
		Index: entry.Index, Hash: hex.EncodeToString(entry.Hash[:]), Time: entry.Time.UTC(), Kind: string(entry.Kind),
		Organization: entry.Organization, Repository: entry.Repository, Tag: entry.Tag, Policy: entry.Policy,
		Performer: viewPerformer(entry), Address: entry.Address, Token: entry.Token, Metadata: entry.Metadata,
	}
}
