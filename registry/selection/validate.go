package selection

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// Limits and defaults of mirrors that are no one's but this package's to know.
const (
	// MinTimeout is the least bound of the time of one tag's copy.
	MinTimeout = 30 * time.Second
	// MaxTimeout is the greatest one.
	MaxTimeout     = time.Hour
	DefaultTimeout = 10 * time.Minute
	// MaxConcurrency bounds the transfers of one mirror.
	MaxConcurrency     = 32
	DefaultConcurrency = 4
	// MinBandwidth is the least limit of the bandwidth, in bytes a second.
	MinBandwidth = 1 << 10
	// MaxCABundle bounds the certificates of a mirror, in bytes.
	MaxCABundle = 256 << 10
	// MaxInterval is the longest time between two syncs: longer ones are mistakes, and would overflow somewhere.
	MaxInterval = 366 * 24 * time.Hour
	// maxURL and maxNoProxy bound what has no limit of its own, in bytes.
	maxURL, maxNoProxy = 2048, 4096
)

// WithDefaults is the declaration with what it leaves out.
func WithDefaults(spec domain.MirrorSpec) domain.MirrorSpec {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set((*string)(&spec.Referrers), string(domain.ReferrersCopy))
	set((*string)(&spec.OnConflict), string(domain.ConflictSkip))
	set((*string)(&spec.Prune), string(domain.PruneNever))
	set((*string)(&spec.Visibility), string(domain.Private))
	if spec.Timeout == 0 {
		spec.Timeout = DefaultTimeout
	}
	if spec.Concurrency == 0 {
		spec.Concurrency = DefaultConcurrency
	}
	return spec
}

// Problem is what is wrong with a field.
type Problem struct {
	// Field is a path such as "tags.include[0].glob", in the words of the Kubernetes object's spec.
	Field string
	// Message says what is allowed.
	Message string
}

// Validate checks all fields of a mirror, defaults included. The error is a *domain.Error with code INVALID that names
// the first field that is wrong, and what it may be.
func Validate(spec domain.MirrorSpec) error {
	problems := Problems(spec)
	if len(problems) == 0 {
		return nil
	}
	return domain.Errorf(domain.CodeInvalid, "%s: %s", problems[0].Field, problems[0].Message)
}

// Problems are all that is wrong with a mirror's declaration, in the order of the fields.
func Problems(spec domain.MirrorSpec) []Problem {
	p := &problems{}
	p.source(spec.Source)
	p.globs("repositories.include", spec.Repositories.Include)
	p.globs("repositories.exclude", spec.Repositories.Exclude)
	p.tags("tags.include", spec.Tags.Include)
	p.tags("tags.exclude", spec.Tags.Exclude)
	if spec.Tags.Newest < 0 {
		p.add("tags.newest", "%d is less than 0; 0 keeps all tags", spec.Tags.Newest)
	}
	if len(spec.Platforms) > domain.MaxMirrorFilters {
		p.add("platforms", "%d platforms; at most %d are allowed", len(spec.Platforms), domain.MaxMirrorFilters)
	}
	for i, platform := range spec.Platforms {
		_, err := parsePlatform(platform)
		p.check(index("platforms", i), err)
	}
	oneOf(p, "referrers", spec.Referrers, domain.ReferrersCopy, domain.ReferrersIgnore)
	p.schedule(spec.Schedule)
	oneOf(p, "visibility", spec.Visibility, domain.Private, domain.Public)
	oneOf(p, "onConflict", spec.OnConflict, domain.ConflictSkip, domain.ConflictFail)
	oneOf(p, "prune", spec.Prune, domain.PruneNever, domain.PruneVanished)
	if spec.Timeout < MinTimeout || spec.Timeout > MaxTimeout {
		p.add("timeout", "%s is not from %s to %s", spec.Timeout, short(MinTimeout), short(MaxTimeout))
	}
	if spec.Concurrency < 1 || spec.Concurrency > MaxConcurrency {
		p.add("concurrency", "%d is not from 1 to %d", spec.Concurrency, MaxConcurrency)
	}
	if spec.BandwidthLimit != 0 && spec.BandwidthLimit < MinBandwidth {
		p.add("bandwidthLimit", "%d bytes a second are too few; use %d or more, or 0 for no limit", spec.BandwidthLimit, MinBandwidth)
	}
	if kind, ok := domain.AccountKind(spec.Robot); spec.Robot != "" && (!ok || kind != domain.CallerRobot) {
		p.add("robot", "%s is not the full name of a robot, organization+robot", domain.Quote(spec.Robot))
	}
	return p.list
}

// problems collects them.
type problems struct{ list []Problem }

func (p *problems) add(field, format string, args ...any) {
	p.list = append(p.list, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// check adds an error, if it is one.
func (p *problems) check(field string, err error) {
	if err != nil {
		p.add(field, "%s", err.Error())
	}
}

func oneOf[T ~string](p *problems, field string, value T, allowed ...T) {
	if slices.Contains(allowed, value) {
		return
	}
	words := make([]string, len(allowed))
	for i, word := range allowed {
		words[i] = string(word)
	}
	last := len(words) - 1
	p.add(field, "%s is not allowed; use %s or %s", domain.Quote(string(value)), strings.Join(words[:last], ", "), words[last])
}

func (p *problems) source(source domain.MirrorSource) {
	oneOf(p, "source.type", source.Type, domain.UpstreamQuay, domain.UpstreamHarbor, domain.UpstreamOCI)
	p.address("source.url", source.URL)
	switch {
	case source.Namespace == "" && source.Type != domain.UpstreamOCI:
		p.add("source.namespace", "a namespace is required, since %s lists the repositories of one", source.Type)
	case len(source.Namespace) > domain.MaxMirrorNamespace:
		p.add("source.namespace", "the namespace is %d bytes long; at most %d are allowed", len(source.Namespace), domain.MaxMirrorNamespace)
	case source.Namespace != "":
		if domain.ValidateRepositoryPath(source.Namespace) != nil {
			p.add("source.namespace", "namespace %s is invalid: segments of lower-case letters and digits, separated by '.', '_', '__' or '-', joined by '/'", domain.Quote(source.Namespace))
		} else if source.Type != domain.UpstreamOCI && strings.Contains(source.Namespace, "/") {
			p.add("source.namespace", "namespace %s has several segments; %s has namespaces of one", domain.Quote(source.Namespace), source.Type)
		}
	}
	if len(source.CABundle) > MaxCABundle {
		p.add("source.caBundle", "the certificates have %d bytes; at most %d are allowed", len(source.CABundle), MaxCABundle)
	} else if source.CABundle != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(source.CABundle)) {
		p.add("source.caBundle", "there is no certificate in PEM")
	}
	if source.CABundle != "" && source.InsecureSkipTLSVerify {
		p.add("source.insecureSkipTLSVerify", "certificates that are not verified need no CA bundle; use one of the two")
	}
	if source.Proxy.HTTP != "" {
		p.address("source.proxy.httpProxy", source.Proxy.HTTP)
	}
	if source.Proxy.HTTPS != "" {
		p.address("source.proxy.httpsProxy", source.Proxy.HTTPS)
	}
	if len(source.Proxy.NoProxy) > maxNoProxy || strings.ContainsAny(source.Proxy.NoProxy, "\r\n") {
		p.add("source.proxy.noProxy", "the list must be one line of at most %d bytes", maxNoProxy)
	}
}

// address checks the base address of a server.
func (p *problems) address(field, text string) {
	if len(text) > maxURL {
		p.add(field, "the address is %d bytes long; at most %d are allowed", len(text), maxURL)
		return
	}
	// What the text holds is not repeated before it is known to hold no password.
	u, err := url.Parse(text)
	switch {
	case err != nil:
		p.add(field, "it is no URL; write one such as https://registry.example.com")
	case u.User != nil:
		p.add(field, "user and password do not belong into an address, which everybody may read; give them as credentials")
	case u.Scheme != "http" && u.Scheme != "https":
		p.add(field, "scheme %s is not allowed; use https or http", domain.Quote(u.Scheme))
	case u.Hostname() == "" || u.Opaque != "":
		p.add(field, "the address has no host; write one such as https://registry.example.com")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		p.add(field, "an address has neither query nor fragment")
	case strings.Trim(u.Path, "/") != "":
		p.add(field, "an address has no path; %s belongs into the namespace, if anywhere", domain.Quote(u.Path))
	}
}

func (p *problems) globs(field string, patterns []string) {
	p.count(field, len(patterns))
	for i, pattern := range patterns {
		_, err := compileGlob(pattern)
		p.check(index(field, i), err)
	}
}

func (p *problems) count(field string, n int) {
	if n > domain.MaxMirrorFilters {
		p.add(field, "%d filters; at most %d are allowed", n, domain.MaxMirrorFilters)
	}
}

func (p *problems) tags(field string, matches []domain.TagMatch) {
	p.count(field, len(matches))
	for i, match := range matches {
		_, err := compileTag(match)
		switch set := kinds(match); {
		case len(set) != 1:
			p.add(index(field, i), "exactly one of glob, regexp and semver must be set")
		default:
			p.check(index(field, i)+"."+set[0], err)
		}
	}
}

// kinds names the fields that are set.
func kinds(match domain.TagMatch) (set []string) {
	for _, kind := range []struct{ name, value string }{{"glob", match.Glob}, {"regexp", match.Regexp}, {"semver", match.Semver}} {
		if kind.value != "" {
			set = append(set, kind.name)
		}
	}
	return set
}

func (p *problems) schedule(schedule domain.MirrorSchedule) {
	switch {
	case (schedule.Interval != 0) == (schedule.Cron != ""):
		p.add("schedule", "exactly one of interval and cron must be set")
	case schedule.Cron != "":
		_, err := parseCron(schedule.Cron)
		p.check("schedule.cron", err)
	case schedule.Interval < domain.MinMirrorInterval || schedule.Interval > MaxInterval:
		p.add("schedule.interval", "%s is not from %s to %s", schedule.Interval, short(domain.MinMirrorInterval), short(MaxInterval))
	}
}

// short writes a time without what is zero in it.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// at says in which field an error is.
func at(field string, err error) error {
	var e *domain.Error
	if errors.As(err, &e) {
		return domain.Errorf(e.Code, "%s: %s", field, e.Message)
	}
	return fmt.Errorf("%s: %w", field, err)
}
