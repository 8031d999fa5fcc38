package core

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/selection"
)

// Sealer encrypts the secrets of mirrors before they are stored. What is sealed opens only where the same binding is given,
// which says what it belongs to.
type Sealer interface {
	Seal(secret []byte, binding string) ([]byte, error)
	Open(sealed []byte, binding string) ([]byte, error)
	// Current reports whether what is sealed need not be sealed again with a newer key.
	Current(sealed []byte) (bool, error)
}

// checkedMirror is a spec with its defaults in the form in which it is stored; INVALID says what is wrong.
func checkedMirror(spec domain.MirrorSpec) (domain.MirrorSpec, error) {
	spec = selection.WithDefaults(spec)
	if err := selection.Validate(spec); err != nil {
		return spec, err
	}
	for _, list := range []*[]string{&spec.Repositories.Include, &spec.Repositories.Exclude, &spec.Platforms} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	for _, list := range []*[]domain.TagMatch{&spec.Tags.Include, &spec.Tags.Exclude} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if !spec.Schedule.StartAt.IsZero() {
		spec.Schedule.StartAt = spec.Schedule.StartAt.UTC().Truncate(time.Microsecond)
	}
	return spec, nil
}

func same(a, b domain.MirrorSpec) bool { return reflect.DeepEqual(a, b) }

// contentOf is what of a spec says what a sync brings.
func contentOf(spec domain.MirrorSpec) domain.MirrorSpec {
	spec.Schedule, spec.Suspend, spec.Robot, spec.Visibility = domain.MirrorSchedule{}, false, "", ""
	spec.Timeout, spec.Concurrency, spec.BandwidthLimit = 0, 0, 0
	return spec
}

// pace is what of a spec says how fast a sync goes.
type pace struct {
	timeout     time.Duration
	concurrency int
	bandwidth   int64
}

func paceOf(spec domain.MirrorSpec) pace {
	return pace{spec.Timeout, spec.Concurrency, spec.BandwidthLimit}
}

// running reports whether a sync of the mirror runs.
func running(m domain.Mirror) bool { return m.Last != nil && m.Last.State == domain.SyncRunning }

// jitter spreads the syncs of mirrors with the same interval: they come that much later, as a share of it.
const jitter = 0.05

// nextSync is when a mirror is due again whose sync began at a time, zero if it has no schedule.
func nextSync(spec domain.MirrorSpec, began time.Time, random func() float64) (time.Time, error) {
	schedule, err := selection.NewSchedule(spec.Schedule)
	if err != nil {
		return noTime, fmt.Errorf("a stored schedule: %w", err)
	}
	next := schedule.Next(began, began)
	if spec.Schedule.Interval > 0 && next.Equal(began.Add(spec.Schedule.Interval)) {
		next = next.Add(time.Duration(random() * jitter * float64(spec.Schedule.Interval)))
	}
	return next, nil
}

// dueBySchedule is when a mirror is due by its schedule alone, which is not before now, or zero while it is suspended. By
// an interval a mirror is due at once that has not synced, or not to the end.
func dueBySchedule(m domain.Mirror, now time.Time) (time.Time, error) {
	if m.Suspend {
		return noTime, nil
	}
	schedule, err := selection.NewSchedule(m.Schedule)
	if err != nil {
		return noTime, fmt.Errorf("a stored schedule: %w", err)
	}
	began := noTime
	if last := m.Last; last != nil && (last.State == domain.SyncSucceeded || last.State == domain.SyncRunning) && m.Schedule.Cron == "" {
		began = last.StartedAt
	}
	return later(schedule.Next(began, now), now), nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Limits of how long a mirror waits after a sync that failed.
const (
	firstBackOff   = time.Minute
	longestBackOff = time.Hour
)

// backOff is how long a mirror waits after so many syncs in a row that failed: twice as long each time, and never longer
// than its interval.
func backOff(spec domain.MirrorSpec, failures int) time.Duration {
	longest := longestBackOff
	if interval := spec.Schedule.Interval; interval > 0 {
		longest = min(longest, interval)
	}
	wait := firstBackOff
	for ; failures > 1 && wait < longest; failures-- {
		wait *= 2
	}
	return min(wait, longest)
}

// mirrorMetadata is what entries say of a spec. It has no secrets.
func mirrorMetadata(spec domain.MirrorSpec) audit.Metadata {
	metadata := audit.Metadata{
		"source_type": string(spec.Source.Type), "source_url": spec.Source.URL, "source_namespace": spec.Source.Namespace, "insecure_skip_tls_verify": spec.Source.InsecureSkipTLSVerify,
		"referrers": string(spec.Referrers), "visibility": string(spec.Visibility), "on_conflict": string(spec.OnConflict), "prune": string(spec.Prune), "suspend": spec.Suspend,
		"timeout": spec.Timeout.String(), "concurrency": spec.Concurrency,
	}
	for field, value := range map[string]string{
		"proxy_http": spec.Source.Proxy.HTTP, "proxy_https": spec.Source.Proxy.HTTPS, "no_proxy": spec.Source.Proxy.NoProxy, "cron": spec.Schedule.Cron, "robot": spec.Robot,
	} {
		if value != "" {
			metadata[field] = value
		}
	}
	for field, list := range map[string][]string{
		"repositories_include": spec.Repositories.Include, "repositories_exclude": spec.Repositories.Exclude, "platforms": spec.Platforms,
		"tags_include": tagMatches(spec.Tags.Include), "tags_exclude": tagMatches(spec.Tags.Exclude),
	} {
		if len(list) > 0 {
			metadata[field] = list
		}
	}
	if spec.Source.CABundle != "" {
		metadata["ca_bundle_digest"] = digest.FromString(spec.Source.CABundle).String()
	}
	if spec.Tags.Newest > 0 {
		metadata["tags_newest"] = spec.Tags.Newest
	}
	if spec.Schedule.Interval > 0 {
		metadata["interval"] = spec.Schedule.Interval.String()
	}
	if !spec.Schedule.StartAt.IsZero() {
		metadata["start_at"] = spec.Schedule.StartAt.Format(timestamp)
	}
	if spec.BandwidthLimit > 0 {
		metadata["bandwidth_limit"] = spec.BandwidthLimit
	}
	return metadata
}

func tagMatches(list []domain.TagMatch) (texts []string) {
	for _, match := range list {
		for kind, text := range map[string]string{"glob": match.Glob, "regexp": match.Regexp, "semver": match.Semver} {
			if text != "" {
				texts = append(texts, kind+":"+text)
			}
		}
	}
	return texts
}

// addMirrorChanges adds the fields that differ, with their old values. Of one that is not there any more, or was not, there
// is only the other value.
func addMirrorChanges(metadata audit.Metadata, before, after domain.MirrorSpec) {
	old, now := mirrorMetadata(before), mirrorMetadata(after)
	for field, value := range now {
		if !reflect.DeepEqual(old[field], value) {
			metadata[field] = value
		}
	}
	for field, value := range old {
		if !reflect.DeepEqual(now[field], value) {
			metadata["previous_"+field] = value
		}
	}
}

// describeSecrets records of secrets what everybody may know of them.
func describeSecrets(m *domain.Mirror, s domain.MirrorSecrets) {
	m.Username, m.HasPassword = s.Username, s.Password != "" || s.Token != ""
	m.HasProxyCredentials = s.ProxyUsername != "" || s.ProxyPassword != ""
}

// upstream are the secrets that the upstream gets, proxy those that a proxy gets.
func upstream(s *domain.MirrorSecrets) []*string {
	return []*string{&s.Username, &s.Password, &s.Token}
}
func proxy(s *domain.MirrorSecrets) []*string { return []*string{&s.ProxyUsername, &s.ProxyPassword} }

// redacted reports whether any secret only stands for a stored one.
func redacted(s domain.MirrorSecrets) bool {
	for _, field := range append(upstream(&s), proxy(&s)...) {
		if *field == domain.Redacted {
			return true
		}
	}
	return false
}

// binding is what a mirror's secrets are sealed for.
func binding(uuid string) string { return "mirror/" + uuid }

var errNoSealer = errors.New("the registry has no key to seal secrets with; start it with --secret-key-file")

// sealSecrets seals secrets, nil if there are none.
func (c *Core) sealSecrets(uuid string, s domain.MirrorSecrets) ([]byte, error) {
	if s == (domain.MirrorSecrets{}) {
		return nil, nil
	}
	if c.options.Sealer == nil {
		return nil, domain.Errorf(domain.CodeUnavailable, "credentials cannot be stored: %w", errNoSealer)
	}
	text, err := json.Marshal(s) //nolint:gosec // it is sealed at once
	if err != nil {
		return nil, err
	}
	sealed, err := c.options.Sealer.Seal(text, binding(uuid))
	if err != nil {
		return nil, domain.Unavailable(err)
	}
	return sealed, nil
}

// openSecrets is the reverse of sealSecrets.
func (c *Core) openSecrets(uuid string, sealed []byte) (s domain.MirrorSecrets, err error) {
	if len(sealed) == 0 {
		return s, nil
	}
	if c.options.Sealer == nil {
		return s, errNoSealer
	}
	text, err := c.options.Sealer.Open(sealed, binding(uuid))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

// keepSecrets puts stored secrets in the place of those that stand for them. It reports whether the secrets are others than
// those that are stored, and returns them sealed then.
func (c *Core) keepSecrets(ch *change, m meta.Mirror, spec domain.MirrorSpec, given domain.MirrorSecrets) (secrets domain.MirrorSecrets, sealed []byte, changed bool, err error) {
	secrets, changed, err = c.storedSecrets(&ch.Reader, m, spec.Source, given)
	if err != nil || !changed {
		return secrets, nil, false, err
	}
	sealed, err = c.sealSecrets(m.UUID, secrets)
	return secrets, sealed, true, err
}

// storedSecrets puts stored secrets in the place of those that stand for them, for the source that they go to. It reports
// whether the secrets are others than those that are stored.
func (c *Core) storedSecrets(r *meta.Reader, m meta.Mirror, to domain.MirrorSource, given domain.MirrorSecrets) (secrets domain.MirrorSecrets, changed bool, err error) {
	sealed, err := r.MirrorSecrets(m.ID)
	if err != nil {
		return given, false, err
	}
	stored, unknown := c.openSecrets(m.UUID, sealed)
	if unknown != nil && redacted(given) {
		return given, false, &domain.Error{Code: domain.CodeUnavailable, Message: "the stored credentials cannot be read; give them again", Cause: unknown}
	}
	secrets = given
	if err := keep(upstream(&secrets), upstream(&stored), sameUpstream(m.Source, to)); err != nil {
		return given, false, err
	}
	sameProxies := m.Source.Proxy.HTTP == to.Proxy.HTTP && m.Source.Proxy.HTTPS == to.Proxy.HTTPS
	err = keep(proxy(&secrets), proxy(&stored), sameProxies)
	return secrets, unknown != nil || secrets != stored, err
}

// keep puts stored secrets in the place of those that stand for them, if they may be kept.
func keep(given, stored []*string, allowed bool) error {
	for i, field := range given {
		if *field != domain.Redacted {
			continue
		}
		if *stored[i] != "" && !allowed {
			return domain.Errorf(domain.CodeInvalid, "the stored credentials would go to another server; give them again")
		}
		*field = *stored[i]
	}
	return nil
}

// sameUpstream reports whether stored credentials go to nobody new: who may change a mirror need not know them, and must
// not get them by naming a server, or a proxy that is not verified, of their own.
func sameUpstream(before, after domain.MirrorSource) bool {
	old, errOld := url.Parse(before.URL)
	now, errNow := url.Parse(after.URL)
	if errOld != nil || errNow != nil || old.Scheme != now.Scheme || !strings.EqualFold(old.Host, now.Host) {
		return false
	}
	switch {
	case after.Proxy == domain.MirrorProxy{}:
		return true
	case before.CABundle != after.CABundle || before.InsecureSkipTLSVerify != after.InsecureSkipTLSVerify:
		return false
	}
	return before.Proxy == after.Proxy || now.Scheme == "https" && after.CABundle == "" && !after.InsecureSkipTLSVerify
}
