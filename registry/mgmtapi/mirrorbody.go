package mgmtapi

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
	"github.com/tidelock/tidelock/registry/selection"
)

const (
	// quayTimeout is Quay's default for the copy of a tag.
	quayTimeout = 300 * time.Second
	// maxMirrorName and maxMirrorSecret bound a user name, and a password or token, in bytes.
	maxMirrorName   = 255
	maxMirrorSecret = 8 << 10
	// quayDate is Quay's format of times in a mirror.
	quayDate = "2006-01-02T15:04:05Z"
)

// upstreamTypes are the types of upstreams in the words of the API.
var upstreamTypes = map[openapi.QuayRegistryType]domain.UpstreamType{
	openapi.QuayRegistryTypeQuay:   domain.UpstreamQuay,
	openapi.QuayRegistryTypeHarbor: domain.UpstreamHarbor,
	openapi.QuayRegistryTypeOci:    domain.UpstreamOCI,
}

// newMirrorSpec is what a new mirror is where its body says nothing.
func newMirrorSpec() domain.MirrorSpec {
	return selection.WithDefaults(domain.MirrorSpec{Timeout: quayTimeout})
}

// changeOf is a new mirror as a change of one that has the defaults.
func changeOf(body openapi.NewOrganizationMirror) openapi.OrganizationMirrorChange {
	return openapi.OrganizationMirrorChange{
		IsEnabled: body.IsEnabled, ExternalRegistryType: &body.ExternalRegistryType, ExternalRegistryURL: &body.ExternalRegistryURL,
		ExternalNamespace: &body.ExternalNamespace, RobotUsername: &body.RobotUsername, Visibility: &body.Visibility,
		SyncInterval: body.SyncInterval, SyncStartDate: &body.SyncStartDate, Cron: body.Cron,
		ExternalRegistryUsername: body.ExternalRegistryUsername, ExternalRegistryPassword: body.ExternalRegistryPassword,
		ExternalRegistryToken: body.ExternalRegistryToken, ExternalRegistryConfig: body.ExternalRegistryConfig,
		RepositoryFilters: body.RepositoryFilters, RepositoryExcludes: body.RepositoryExcludes, SkopeoTimeout: body.SkopeoTimeout,
		Tags: body.Tags, Platforms: body.Platforms, Referrers: body.Referrers, OnConflict: body.OnConflict, Prune: body.Prune,
		Concurrency: body.Concurrency, BandwidthLimit: body.BandwidthLimit,
	}
}

// assign sets what the body gives.
func assign[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// applyMirrorChange changes what the body gives, and checks the whole. Errors name the fields of the body, and hold no
// secret.
func applyMirrorChange(body openapi.OrganizationMirrorChange, organization string, spec *domain.MirrorSpec, secrets *domain.MirrorSecrets) error {
	if body.IsEnabled != nil {
		spec.Suspend = !*body.IsEnabled
	}
	if word := body.ExternalRegistryType; word != nil {
		known, ok := upstreamTypes[*word]
		if !ok {
			return badField("external_registry_type", "%q is not allowed; use quay, harbor or oci", *word)
		}
		spec.Source.Type = known
	}
	assign(&spec.Source.URL, body.ExternalRegistryURL)
	assign(&spec.Source.Namespace, body.ExternalNamespace)
	if err := applyRobot(body.RobotUsername, organization, spec); err != nil {
		return err
	}
	assign(&spec.Visibility, body.Visibility)
	if err := applySchedule(body, &spec.Schedule); err != nil {
		return err
	}
	if err := applyCredentials(body, secrets); err != nil {
		return err
	}
	if body.ExternalRegistryConfig != nil {
		if err := applyConfig(*body.ExternalRegistryConfig, &spec.Source, secrets); err != nil {
			return err
		}
	}
	if seconds := body.SkopeoTimeout; seconds != nil {
		least, most := int64(selection.MinTimeout/time.Second), int64(selection.MaxTimeout/time.Second)
		if *seconds < least || *seconds > most {
			return badField("skopeo_timeout", "%d is not from %d to %d seconds", *seconds, least, most)
		}
		spec.Timeout = time.Duration(*seconds) * time.Second
	}
	assign(&spec.Repositories.Include, body.RepositoryFilters)
	assign(&spec.Repositories.Exclude, body.RepositoryExcludes)
	if body.Tags != nil {
		spec.Tags = tagFilter(*body.Tags)
	}
	assign(&spec.Platforms, body.Platforms)
	assign(&spec.Referrers, body.Referrers)
	assign(&spec.OnConflict, body.OnConflict)
	assign(&spec.Prune, body.Prune)
	if body.Concurrency != nil {
		spec.Concurrency = int(*body.Concurrency)
	}
	assign(&spec.BandwidthLimit, body.BandwidthLimit)
	if problems := selection.Problems(*spec); len(problems) > 0 {
		return badField(bodyField(problems[0].Field), "%s", problems[0].Message)
	}
	return nil
}

// bodyFields are the paths of a specification in the words of the body. What is not here has the same name.
var bodyFields = []struct{ path, field string }{
	{"source.type", "external_registry_type"},
	{"source.url", "external_registry_url"},
	{"source.namespace", "external_namespace"},
	{"source.caBundle", "external_registry_config.ca_bundle"},
	{"source.insecureSkipTLSVerify", "external_registry_config.verify_tls"},
	{"source.proxy.httpProxy", "external_registry_config.proxy.http_proxy"},
	{"source.proxy.httpsProxy", "external_registry_config.proxy.https_proxy"},
	{"source.proxy.noProxy", "external_registry_config.proxy.no_proxy"},
	{"repositories.include", "repository_filters"},
	{"repositories.exclude", "repository_excludes"},
	{"schedule.cron", "cron"},
	{"schedule", "sync_interval"},
	{"onConflict", "on_conflict"},
	{"timeout", "skopeo_timeout"},
	{"bandwidthLimit", "bandwidth_limit"},
	{"robot", "robot_username"},
}

func bodyField(path string) string {
	for _, known := range bodyFields {
		if rest, found := strings.CutPrefix(path, known.path); found {
			if known.field == "sync_interval" {
				return known.field
			}
			return known.field + rest
		}
	}
	return path
}

func applyRobot(name *string, organization string, spec *domain.MirrorSpec) error {
	if name == nil {
		return nil
	}
	if kind, ok := domain.AccountKind(*name); !ok || kind != domain.CallerRobot {
		return badField("robot_username", "%q is not the full name of a robot; write %s+name", *name, organization)
	}
	if !strings.HasPrefix(*name, organization+domain.RobotSeparator) {
		return badField("robot_username", "robot %s belongs to another organization than %s", *name, organization)
	}
	spec.Robot = *name
	return nil
}

// applySchedule changes the schedule: an interval takes the place of a cron expression, and the other way round.
func applySchedule(body openapi.OrganizationMirrorChange, schedule *domain.MirrorSchedule) error {
	if body.SyncInterval != nil && body.Cron != nil {
		return badField("cron", "cannot stand beside sync_interval")
	}
	if seconds := body.SyncInterval; seconds != nil {
		least, most := int64(domain.MinMirrorInterval/time.Second), int64(selection.MaxInterval/time.Second)
		if *seconds < least || *seconds > most {
			return badField("sync_interval", "%d is not from %d to %d seconds", *seconds, least, most)
		}
		schedule.Interval, schedule.Cron = time.Duration(*seconds)*time.Second, ""
	}
	if body.Cron != nil {
		schedule.Interval, schedule.Cron = 0, *body.Cron
	}
	if text := body.SyncStartDate; text != nil {
		at, err := time.Parse(quayDate, *text)
		if err != nil || at.Year() < 1970 {
			return badField("sync_start_date", "%q is no time such as 2026-01-31T00:00:00Z", *text)
		}
		schedule.StartAt = at
	}
	return nil
}

// applyCredentials changes what authenticates with the upstream. A token takes the place of user name and password, and
// the other way round.
func applyCredentials(body openapi.OrganizationMirrorChange, secrets *domain.MirrorSecrets) error {
	before := *secrets
	for _, given := range []struct {
		field string
		value []byte
		most  int
		to    *string
	}{
		{"external_registry_username", body.ExternalRegistryUsername, maxMirrorName, &secrets.Username},
		{"external_registry_password", body.ExternalRegistryPassword, maxMirrorSecret, &secrets.Password},
		{"external_registry_token", body.ExternalRegistryToken, maxMirrorSecret, &secrets.Token},
	} {
		if given.value == nil {
			continue
		}
		// Null leaves the text empty.
		var text string
		if json.Unmarshal(given.value, &text) != nil {
			return badField(given.field, "a string is needed, or null for none")
		}
		if err := checkSecret(given.field, text, given.most); err != nil {
			return err
		}
		*given.to = text
	}
	isNew := func(value, old string) bool { return value != "" && value != domain.Redacted && value != old }
	password, token := isNew(secrets.Password, before.Password), isNew(secrets.Token, before.Token)
	switch {
	case password && token:
		return badField("external_registry_token", "cannot stand beside external_registry_password")
	case token:
		secrets.Username, secrets.Password = "", ""
	case password, secrets.Password == "" && body.ExternalRegistryPassword != nil && body.ExternalRegistryToken == nil:
		// Who clears the password, as Quay's clients do, means whatever stands in its place.
		secrets.Token = ""
	}
	return nil
}

// checkSecret bounds a secret, without repeating it.
func checkSecret(field, text string, most int) error {
	if len(text) > most {
		return badField(field, "%d bytes are too many; at most %d are allowed", len(text), most)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return badField(field, "control characters are not allowed")
	}
	return nil
}

// applyConfig replaces all that the body calls the configuration of the upstream.
func applyConfig(config openapi.ExternalRegistryConfig, source *domain.MirrorSource, secrets *domain.MirrorSecrets) error {
	source.InsecureSkipTLSVerify, source.CABundle, source.Proxy = false, "", domain.MirrorProxy{}
	secrets.ProxyUsername, secrets.ProxyPassword = "", ""
	if config.VerifyTLS != nil {
		source.InsecureSkipTLSVerify = !*config.VerifyTLS
	}
	assign(&source.CABundle, config.CaBundle)
	if config.Proxy == nil {
		return nil
	}
	assign(&source.Proxy.NoProxy, config.Proxy.NoProxy)
	var users []domain.MirrorSecrets
	for _, proxy := range []struct {
		field string
		given *string
		to    *string
	}{
		{"external_registry_config.proxy.http_proxy", config.Proxy.HTTPProxy, &source.Proxy.HTTP},
		{"external_registry_config.proxy.https_proxy", config.Proxy.HTTPSProxy, &source.Proxy.HTTPS},
	} {
		if proxy.given == nil || *proxy.given == "" {
			continue
		}
		address, user, err := splitProxy(proxy.field, *proxy.given)
		if err != nil {
			return err
		}
		*proxy.to = address
		users = append(users, user)
	}
	if len(users) == 2 && users[0] != users[1] {
		return badField("external_registry_config.proxy", "where there are two proxies, both have the same user part, or none")
	}
	if len(users) > 0 {
		secrets.ProxyUsername, secrets.ProxyPassword = users[0].ProxyUsername, users[0].ProxyPassword
	}
	return nil
}

// splitProxy takes the user part out of a proxy's address. The address is not repeated in errors: it may hold a password.
func splitProxy(field, text string) (address string, user domain.MirrorSecrets, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "", user, badField(field, "it is no URL; write one such as http://proxy.example.com:3128")
	}
	if u.User == nil {
		return text, user, nil
	}
	user.ProxyUsername = u.User.Username()
	password, given := u.User.Password()
	if user.ProxyPassword = password; !given && user.ProxyUsername == domain.Redacted {
		user.ProxyPassword = domain.Redacted
	}
	if err := checkSecret(field, user.ProxyUsername, maxMirrorName); err != nil {
		return "", user, err
	}
	u.User = nil
	return u.String(), user, checkSecret(field, user.ProxyPassword, maxMirrorSecret)
}

// nothingToKeep refuses secrets that are to stay as they are stored where nothing is.
func nothingToKeep(secrets domain.MirrorSecrets) error {
	for _, secret := range []field{
		{"external_registry_username", secrets.Username}, {"external_registry_password", secrets.Password},
		{"external_registry_token", secrets.Token}, {"external_registry_config.proxy", secrets.ProxyUsername},
		{"external_registry_config.proxy", secrets.ProxyPassword},
	} {
		if secret.value == domain.Redacted {
			return badField(secret.name, "there is nothing stored that %s could stand for", domain.Redacted)
		}
	}
	return nil
}

func tagFilter(tags openapi.MirrorTags) domain.TagFilter {
	matches := func(list []openapi.MirrorTagMatch) (matches []domain.TagMatch) {
		for _, match := range list {
			matches = append(matches, domain.TagMatch(match))
		}
		return matches
	}
	return domain.TagFilter{Include: matches(tags.Include), Exclude: matches(tags.Exclude), Newest: int(tags.Newest)}
}
