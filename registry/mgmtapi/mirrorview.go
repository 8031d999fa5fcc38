package mgmtapi

import (
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// quayRetries is how often Quay tries a sync again that failed.
const quayRetries = 3

// quayStatuses are all of Quay's words for how a sync is.
var quayStatuses = []openapi.QuaySyncStatus{
	openapi.QuaySyncStatusNEVERRUN, openapi.QuaySyncStatusSYNCNOW, openapi.QuaySyncStatusSYNCING, openapi.QuaySyncStatusSUCCESS,
	openapi.QuaySyncStatusFAIL, openapi.QuaySyncStatusCANCEL, openapi.QuaySyncStatusSKIP,
}

// mirrorStatus is how a mirror is in Quay's words: what runs counts more than what was asked for, and both more than how
// the last sync ended.
func mirrorStatus(mirror domain.Mirror) openapi.QuaySyncStatus {
	switch last := mirror.Last; {
	case last != nil && last.State == domain.SyncRunning:
		return openapi.QuaySyncStatusSYNCING
	case mirror.Requested:
		return openapi.QuaySyncStatusSYNCNOW
	case last == nil:
		return openapi.QuaySyncStatusNEVERRUN
	default:
		return repositoryStates[last.State]
	}
}

func viewMirror(mirror domain.Mirror, counts map[domain.SyncState]int64) openapi.OrganizationMirror {
	view := openapi.OrganizationMirror{
		UUID: mirror.UUID, IsEnabled: !mirror.Suspend, ExternalRegistryURL: mirror.Source.URL, ExternalNamespace: mirror.Source.Namespace,
		ExternalRegistryUsername: orNull(mirror.Username), HasExternalRegistryPassword: mirror.HasPassword,
		ExternalRegistryConfig: viewConfig(mirror),
		RepositoryFilters:      append([]string{}, mirror.Repositories.Include...), RepositoryExcludes: append([]string{}, mirror.Repositories.Exclude...),
		RobotUsername: orNull(mirror.Robot), Visibility: mirror.Visibility,
		SyncInterval: orNull(int64(mirror.Schedule.Interval / time.Second)), Cron: orNull(mirror.Schedule.Cron),
		SyncStartDate: quayTime(mirror.Schedule.StartAt), SyncStatus: mirrorStatus(mirror),
		SyncRetriesRemaining: int64(max(0, quayRetries-mirror.Failures)), RepoSyncStatusCounts: map[string]int64{},
		SkopeoTimeout: int64(mirror.Timeout / time.Second), CreationDate: mirror.CreatedAt.UTC().Format(quayDate),
		Tags: viewTags(mirror.Tags), Platforms: append([]string{}, mirror.Platforms...), Referrers: mirror.Referrers,
		OnConflict: mirror.OnConflict, Prune: mirror.Prune, Concurrency: int64(mirror.Concurrency), BandwidthLimit: mirror.BandwidthLimit,
		NextSyncDate: quayTime(mirror.NextSync), LastSuccessDate: quayTime(mirror.LastSuccess), Failures: int64(mirror.Failures),
		LastSync: viewSync(mirror.Last), ManagedBy: viewManager(mirror.Manager), Orphaned: mirror.Orphaned, Lost: mirror.Lost,
	}
	for word, known := range upstreamTypes {
		if known == mirror.Source.Type {
			view.ExternalRegistryType = word
		}
	}
	if mirror.HasPassword {
		view.ExternalRegistryPassword = domain.Redacted
	}
	for _, word := range quayStatuses {
		view.RepoSyncStatusCounts[string(word)] = 0
	}
	for state, n := range counts {
		view.RepoSyncStatusCounts[string(repositoryStates[state])] += n
	}
	return view
}

func viewConfig(mirror domain.Mirror) openapi.ExternalRegistryConfig {
	verify := !mirror.Source.InsecureSkipTLSVerify
	proxy := func(address string) *string {
		if mirror.HasProxyCredentials {
			address = strings.Replace(address, "://", "://"+domain.Redacted+"@", 1)
		}
		return orNull(address)
	}
	return openapi.ExternalRegistryConfig{
		VerifyTLS: &verify, CaBundle: orNull(mirror.Source.CABundle),
		Proxy: &openapi.ExternalRegistryProxy{
			HTTPProxy: proxy(mirror.Source.Proxy.HTTP), HTTPSProxy: proxy(mirror.Source.Proxy.HTTPS), NoProxy: orNull(mirror.Source.Proxy.NoProxy),
		},
	}
}

// orNull is nil for what is not set.
func orNull[T comparable](value T) *T {
	var unset T
	if value == unset {
		return nil
	}
	return &value
}

// quayTime is a time as Quay writes it in mirrors, nil for one that is not set.
func quayTime(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return orNull(t.UTC().Format(quayDate))
}

func viewTags(filter domain.TagFilter) openapi.MirrorTags {
	matches := func(list []domain.TagMatch) (matches []openapi.MirrorTagMatch) {
		for _, match := range list {
			matches = append(matches, openapi.MirrorTagMatch(match))
		}
		return matches
	}
	return openapi.MirrorTags{Include: matches(filter.Include), Exclude: matches(filter.Exclude), Newest: int64(filter.Newest)}
}

func viewMirrorRepository(organization string, repository domain.MirrorRepository) openapi.MirrorRepository {
	view := openapi.MirrorRepository{
		Name: repository.Name, SyncStatus: repositoryStates[repository.State], DiscoveryDate: quayTime(repository.DiscoveredAt),
		LastSyncDate: quayTime(repository.SyncedAt), StatusMessage: orNull(repository.Message),
	}
	if !repository.SyncedAt.IsZero() {
		name := organization + "/" + repository.Name
		progress := viewProgress(repository.MirrorProgress)
		view.QuayRepository, view.Progress = &name, &progress
	}
	return view
}

// viewSync is a sync in an answer, nil if there was none.
func viewSync(sync *domain.MirrorSync) *openapi.MirrorSync {
	if sync == nil {
		return nil
	}
	view := &openapi.MirrorSync{
		Number: sync.Number, State: sync.State, Trigger: sync.Trigger, StartedAt: optionalTime(sync.StartedAt), FinishedAt: optionalTime(sync.FinishedAt),
		Message: sync.Message, Progress: viewProgress(sync.MirrorProgress),
		Failures: []openapi.MirrorFailure{}, Conflicts: []openapi.MirrorConflict{},
	}
	for _, failure := range sync.Failures {
		view.Failures = append(view.Failures, openapi.MirrorFailure{Repository: failure.Repository, Tag: failure.Tag, Reason: failure.Reason})
	}
	for _, conflict := range sync.Conflicts {
		view.Conflicts = append(view.Conflicts, openapi.MirrorConflict{
			Repository: conflict.Repository, Tag: conflict.Tag, Upstream: conflict.Upstream.String(), Standing: conflict.Standing.String(), Reason: conflict.Reason,
		})
	}
	return view
}

func viewProgress(progress domain.MirrorProgress) openapi.MirrorProgress {
	return openapi.MirrorProgress{
		Repositories: viewCounts(progress.Repositories), Tags: viewCounts(progress.Tags),
		BytesCopied: progress.BytesCopied, BytesSaved: progress.BytesSaved,
	}
}

func viewCounts(counts domain.MirrorCounts) openapi.MirrorCounts {
	return openapi.MirrorCounts{
		Discovered: counts.Discovered, Copied: counts.Copied, Unchanged: counts.Unchanged, Skipped: counts.Skipped,
		Failed: counts.Failed, Conflicts: counts.Conflicts, Pruned: counts.Pruned,
	}
}
