package registry

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/pflag"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/ociapi"
	"github.com/tidelock/tidelock/registry/openapi"
)

func (c *Config) validateSuperusers() error {
	for _, name := range c.Superusers {
		if err := domain.ValidateUser(name); err != nil {
			return fmt.Errorf("--superusers: %w", err)
		}
	}
	for _, name := range c.ReadonlySuperusers {
		if err := domain.ValidateReadonlyUser(name); err != nil {
			return fmt.Errorf("--global-readonly-superusers: %w", err)
		}
	}
	return nil
}

// settings are the settings by name as they would be given to the flags, without what is secret.
func (c Config) settings() (list []openapi.Setting) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.AddFlags(flags)
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == configFlag {
			return
		}
		value := strings.TrimSuffix(strings.TrimPrefix(flag.Value.String(), "["), "]")
		parts := strings.Split(value, ",")
		for i, part := range parts {
			parts[i] = withoutSecrets(part, flag.Name == "audit-forward")
		}
		list = append(list, openapi.Setting{Name: flag.Name, Value: strings.Join(parts, ",")})
	})
	return list
}

// withoutSecrets masks what may be secret in an address: the password, a database's query, and of a webhook the path and all
// that follows, which alone may let somebody in. Anything else stays as it is: secrets are in files.
func withoutSecrets(text string, webhook bool) string {
	scheme, rest, is := strings.Cut(text, "://")
	if !is {
		return text
	}
	address, err := url.Parse(text)
	if err != nil {
		return scheme + "://" + domain.Redacted
	}
	authority, behind := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, behind = rest[:i], rest[i:]
	}
	if _, host, found := strings.Cut(authority, "@"); found {
		authority = address.User.Username() + "@" + host
		if _, given := address.User.Password(); given {
			authority = address.User.Username() + ":" + domain.Redacted + "@" + host
		}
	}
	switch {
	case strings.Trim(behind, "/") == "":
	case webhook:
		behind = "/" + domain.Redacted
	case strings.HasPrefix(scheme, "postgres") && address.RawQuery != "":
		behind = address.Path + "?" + domain.Redacted
	}
	return scheme + "://" + authority + behind
}

//go:generate go run ../hack/permissions ../docs/permissions.md

// Endpoints lists every operation of a registry that takes a permission.
func Endpoints() []auth.Endpoint { return append(ociapi.Endpoints(), mgmtapi.Endpoints()...) }
