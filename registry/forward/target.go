package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Target says where entries go.
type Target struct {
	// Name names the target in metrics and logs, and its place in the log: lower-case letters, digits, '.' and '-'.
	Name string
	// Protocol is how it gets them.
	Protocol Protocol
	// URL is where, but for Stdout.
	URL string
	// SecretFile holds the keys of a webhook's signature, or the bearer token for OTLP, which needs none. It is read again
	// for each request.
	SecretFile string
	// CAFile holds the certificates that the receiver's must lead to, PEM; the system's if empty.
	CAFile string
}

// Protocol is a way to hand over entries.
type Protocol string

// The protocols.
const (
	// Stdout is a line of JSON for each entry on standard output.
	Stdout Protocol = "stdout"
	// Webhook is a batch of CloudEvents in JSON, signed after the Standard Webhooks specification.
	Webhook Protocol = "webhook"
	// OTLP is OpenTelemetry's protocol for logs over HTTP, in protobuf.
	OTLP Protocol = "otlp"
)

// targetName is the grammar of names: with "forward." before them they are names of the log's readers.
var targetName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,52}[a-z0-9])?$`)

const otlpScheme = "otlp+"

// ParseTarget reads "stdout", a webhook "https://…" or "otlp+https://…". What stands in the fragment is for the registry:
// "#name=siem&secret-file=/path&ca-file=/path". Without a name, it is the host. Plain HTTP is for receivers on this
// machine. Errors never have the query, which may hold secrets.
func ParseTarget(text string) (Target, error) {
	if text == string(Stdout) {
		return Target{Name: text, Protocol: Stdout}, nil
	}
	t := Target{Protocol: Webhook}
	address, otlp := strings.CutPrefix(text, otlpScheme)
	if otlp {
		t.Protocol = OTLP
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return t, errors.New("a receiver is stdout, https://host/path#secret-file=PATH or otlp+https://host:port, without user or password")
	}
	fail := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("receiver %s: %w", u.Host, fmt.Errorf(format, args...))
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return fail("plain HTTP would send names and addresses over the network in clear; use https")
	}
	parameters, err := url.ParseQuery(u.Fragment)
	if err != nil {
		return fail("what stands behind # is not name=value&…")
	}
	for name, values := range parameters {
		into := map[string]*string{"name": &t.Name, "secret-file": &t.SecretFile, "ca-file": &t.CAFile}[name]
		if into == nil || len(values) != 1 {
			return fail("behind # stand name, secret-file and ca-file, each once, not %q", name)
		}
		*into = values[0]
	}
	if t.Name == "" {
		t.Name = strings.ToLower(u.Hostname())
	}
	if !targetName.MatchString(t.Name) {
		return fail("%q is not a name: lower-case letters, digits, '.' and '-', at most 54; say #name=…", t.Name)
	}
	if t.Protocol == Webhook && t.SecretFile == "" {
		return fail("a webhook is signed: say #secret-file=PATH, a file with a key for it")
	}
	if t.Protocol == OTLP && strings.Trim(u.Path, "/") == "" {
		u.Path = "/v1/logs"
	}
	u.Fragment, u.RawFragment = "", ""
	t.URL = u.String()
	return t, nil
}

// ParseTargets reads several targets, whose names must differ.
func ParseTargets(texts []string) ([]Target, error) {
	var targets []Target
	seen := map[string]bool{}
	for _, text := range texts {
		t, err := ParseTarget(text)
		if err != nil {
			return nil, err
		}
		if seen[t.Name] {
			return nil, fmt.Errorf("two receivers are called %s; give one another name: #name=…", t.Name)
		}
		seen[t.Name] = true
		targets = append(targets, t)
	}
	return targets, nil
}

// Cursor is the name of the target's place in the log.
func (t Target) Cursor() string { return "forward." + t.Name }

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
