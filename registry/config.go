package registry

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/blob/s3"
	"github.com/tidelock/tidelock/registry/forward"
	"github.com/tidelock/tidelock/registry/policy"
)

// Config is how a registry runs.
type Config struct {
	// DataDir is where everything is kept that is not kept elsewhere. It must be on a local file system. With a Database
	// and a BlobStore elsewhere there is none.
	DataDir string
	// Database is "sqlite", or empty, for a file in DataDir, or the URL of a PostgreSQL database that several replicas may
	// share.
	Database string
	// BlobStore is where blobs are kept, "s3://bucket…" (see s3.ParseLocation); in DataDir if empty.
	BlobStore string
	// BlobRedirect sends clients that get a blob to its address in S3.
	BlobRedirect bool
	// Listen is the address to serve on, "host:port"; port 0 takes a free one.
	Listen string
	// AdminPasswordFile holds the password of the account "admin".
	AdminPasswordFile string
	// OperatorTokenFile holds the token of the operator. With one the registry belongs to an operator, and refuses
	// writes until that has brought all of its policies once.
	OperatorTokenFile string
	// TLSCert and TLSKey are PEM files; both or none. They are read again when they change.
	TLSCert, TLSKey string
	// InsecureHTTP allows plain HTTP on other addresses than loopback.
	InsecureHTTP bool
	// TokenKeyFile holds the private keys that sign tokens for clients, in PEM: the first signs, all verify. Without it
	// the registry makes keys and keeps them in its database.
	TokenKeyFile string
	// AuditKeyFile holds the private keys that sign checkpoints of the audit log, one a line: all of them sign. Without it
	// they are in audit.key in DataDir, made if it is not there.
	AuditKeyFile string
	// SecretKeyFile holds the keys that seal secrets in the database, such as the passwords of mirrors' upstreams, one a
	// line: the first seals, all open. Without it they are in secret.key in DataDir, made if it is not there; where there
	// is none, no secrets are stored.
	SecretKeyFile string
	// OIDCIssuers are issuers of OpenID Connect whose tokens are taken (see auth.ParseOIDCIssuer).
	OIDCIssuers []string
	// Cluster is the Kubernetes cluster whose identities are taken; nil for none.
	Cluster auth.Cluster
	// TokenLifetime is how long a token for clients is good for; 5 minutes if 0.
	TokenLifetime time.Duration
	// ExternalURL is where clients reach the registry; nil: where their requests say.
	ExternalURL *url.URL
	// TrustedProxies are the addresses whose X-Forwarded-For, -Proto and -Host headers count.
	TrustedProxies []netip.Prefix
	// SparseIndexes admits indexes before all of their manifests, SparseImages images before all of their blobs.
	SparseIndexes, SparseImages bool
	// PoliciesDeletionDelay is how long a policy stays in force after its Kubernetes object was deleted; 5 minutes if 0.
	PoliciesDeletionDelay time.Duration
	// PoliciesMaxLock is how far away the end of a policy's lock may be; 5 years if 0.
	PoliciesMaxLock time.Duration
	// GC says what garbage is collected, and when.
	GC GarbageCollection
	// AuditRetention is how long entries of the audit log are kept; 0: for ever.
	AuditRetention time.Duration
	// AuditArchive is where entries go before they are pruned: a directory, or "s3://bucket…" (see s3.ParseLocation).
	AuditArchive string
	// AuditForward are the receivers of the audit log's entries (see forward.ParseTarget).
	AuditForward []string
	// MirrorAllowNetworks are the addresses that mirrors may reach although they are loopback, link-local, private or
	// otherwise not public (see mirror.Networks).
	MirrorAllowNetworks []netip.Prefix
	// Superusers and ReadonlySuperusers are users of the database who administer the registry, and who read everything and
	// write nothing. Who is both is a readonly superuser. The users need not exist.
	Superusers, ReadonlySuperusers []string
	// SuperusersFullAccess lets Superusers do in all organizations what their admins do.
	SuperusersFullAccess bool
	// Logger is slog.Default if nil.
	Logger *slog.Logger
}

// DefaultListen is where a registry serves if nobody says otherwise.
const DefaultListen = "127.0.0.1:5000"

// configFlag names the file that LoadSettings reads.
const configFlag = "config"

// AddFlags adds the settings of a registry as flags, with the present values as defaults.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.DataDir, "data-dir", c.DataDir, "directory of all data, on a local file system; made if it is not there")
	flags.StringVar(&c.Database, "database", cmp.Or(c.Database, embeddedDatabase), "sqlite for a file in the data directory, or the URL of a PostgreSQL database, postgres://…; a password is better in TIDELOCK_DATABASE than on the command line")
	flags.StringVar(&c.BlobStore, "blob-store", c.BlobStore, "where blobs are kept, s3://bucket[/prefix][?endpoint=URL&region=NAME&path-style=BOOL]; in the data directory by default")
	flags.BoolVar(&c.BlobRedirect, "blob-redirect", c.BlobRedirect, "redirect clients that get a blob to its address in S3, which is good for 5 minutes")
	flags.StringVar(&c.Listen, "listen", cmp.Or(c.Listen, DefaultListen), "address to serve on, host:port")
	flags.StringVar(&c.AdminPasswordFile, "admin-password-file", c.AdminPasswordFile, "file with the password of the account admin")
	flags.StringVar(&c.OperatorTokenFile, "operator-token-file", c.OperatorTokenFile, "file with the operator's token; the registry then waits for its operator before it takes writes")
	flags.StringVar(&c.TLSCert, "tls-cert", c.TLSCert, "file with the TLS certificate and its chain, PEM")
	flags.StringVar(&c.TLSKey, "tls-key", c.TLSKey, "file with the TLS certificate's key, PEM")
	flags.BoolVar(&c.InsecureHTTP, "insecure-http", c.InsecureHTTP, "serve plain HTTP also on other addresses than loopback")
	flags.StringVar(&c.TokenKeyFile, "token-key-file", c.TokenKeyFile, "file with the private keys that sign tokens for clients, PEM; the first signs, all verify; without it they are in the database")
	flags.StringVar(&c.AuditKeyFile, "audit-key-file", c.AuditKeyFile, "file with the private keys that sign checkpoints of the audit log, one a line, made by tidelock audit keygen; all sign; audit.key in the data directory by default")
	flags.StringVar(&c.SecretKeyFile, "secret-key-file", c.SecretKeyFile, "file with the keys that seal secrets in the database, such as passwords of mirrors' upstreams, one a line, 32 bytes in base64; the first seals, all open; secret.key in the data directory by default")
	flags.DurationVar(&c.TokenLifetime, "token-lifetime", cmp.Or(c.TokenLifetime, auth.DefaultTokenLifetime), "how long a token for clients is good for, from 1m to 1h")
	flags.StringSliceVar(&c.OIDCIssuers, "oidc-issuer", c.OIDCIssuers, "issuers of OpenID Connect whose tokens are taken, comma-separated or repeated: https://issuer[#audience=tidelock&username-claim=sub&username-prefix=PREFIX&groups-claim=groups&groups-prefix=PREFIX&ca-file=PATH]")
	flags.Var(&externalURL{&c.ExternalURL}, "external-url", "where clients reach the registry, such as https://registry.example.com; without it, where their requests say")
	flags.Var((*prefixes)(&c.TrustedProxies), "trusted-proxies", "addresses or networks, comma-separated, whose X-Forwarded-For, -Proto and -Host headers count")
	flags.BoolVar(&c.SparseIndexes, "sparse-indexes", c.SparseIndexes, "take indexes of which some manifests are missing")
	flags.BoolVar(&c.SparseImages, "sparse-images", c.SparseImages, "take images of which some layers are missing")
	flags.DurationVar(&c.PoliciesDeletionDelay, "policies-deletion-delay", cmp.Or(c.PoliciesDeletionDelay, 5*time.Minute), "how long a policy stays in force after its Kubernetes object was deleted")
	c.PoliciesMaxLock = cmp.Or(c.PoliciesMaxLock, policy.DefaultMaxLock)
	flags.Var((*days)(&c.PoliciesMaxLock), "policies-max-lock", "how far away a policy's lockedUntil may be, such as 400d; an operator beside the registry needs the same")
	c.GC.addFlags(flags)
	flags.Var((*days)(&c.AuditRetention), "audit-retention", "how long entries of the audit log are kept before they are archived and pruned, such as 400d or 9600h; 0 keeps them for ever")
	flags.StringVar(&c.AuditArchive, "audit-archive", c.AuditArchive, "where entries of the audit log go before they are pruned: a directory, or s3://bucket[/prefix][?endpoint=URL&region=NAME&path-style=BOOL]")
	flags.StringSliceVar(&c.AuditForward, "audit-forward", c.AuditForward, "receivers of the audit log's entries, comma-separated or repeated: stdout, https://host/path#secret-file=PATH for a signed webhook, otlp+https://host:port[#secret-file=PATH] for OTLP")
	flags.Var((*prefixes)(&c.MirrorAllowNetworks), "mirror-allow-networks", "addresses or networks, comma-separated, that mirrors may reach although they are private, loopback or link-local")
	flags.StringSliceVar(&c.Superusers, "superusers", c.Superusers, "users who administer the registry: users, and the log of everything, comma-separated")
	flags.BoolVar(&c.SuperusersFullAccess, "superusers-full-access", c.SuperusersFullAccess, "let superusers do in all organizations what their admins do")
	flags.StringSliceVar(&c.ReadonlySuperusers, "global-readonly-superusers", c.ReadonlySuperusers, "users who read everything and write nothing, comma-separated; who is a superuser too is a readonly superuser")
	flags.String(configFlag, "", "YAML file with the same settings: its keys are the flags' names")
}

// EnvironmentVariable is the variable that sets a flag, for instance TIDELOCK_DATA_DIR for "data-dir".
func EnvironmentVariable(flag string) string {
	return "TIDELOCK_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// LoadSettings completes parsed flags: what the command line does not set is taken from the flag's environment variable,
// else from the YAML file of --config. The file is read strictly: errors name the line. Lookup is os.LookupEnv.
func LoadSettings(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	path := ""
	open := map[string]*pflag.Flag{}
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed {
			return
		}
		name := EnvironmentVariable(flag.Name)
		value, ok := lookup(name)
		if !ok {
			open[flag.Name] = flag
		} else if err := flags.Set(flag.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	if flag := flags.Lookup(configFlag); flag != nil {
		path = flag.Value.String()
	}
	if path != "" {
		errs = append(errs, loadFile(path, flags, open))
	}
	return errors.Join(errs...)
}

// loadFile sets the open flags from a file. Keys of other flags are checked only for being flags.
func loadFile(path string, flags *pflag.FlagSet, open map[string]*pflag.Flag) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--%s: %w", configFlag, err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if document.IsZero() { // an empty file
		return nil
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: settings must be written as \"name: value\"", path, root.Line)
	}
	var errs []error
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s:%d: %w", path, key.Line, fmt.Errorf(format, args...)))
		}
		switch {
		case flags.Lookup(key.Value) == nil || key.Value == configFlag || key.Value == "help":
			fail("there is no setting %q", key.Value)
		case seen[key.Value]:
			fail("the setting %s occurs twice", key.Value)
		default:
			seen[key.Value] = true
			text, err := settingText(value)
			if flag := open[key.Value]; flag != nil && err == nil {
				err = flags.Set(flag.Name, text)
			}
			if err != nil {
				fail("%s: %w", key.Value, err)
			}
		}
	}
	return errors.Join(errs...)
}

// settingText writes a YAML value as a flag's text: a scalar, or a list of them, joined by commas.
func settingText(value *yaml.Node) (string, error) {
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag != "!!null":
		return value.Value, nil
	case value.Kind == yaml.SequenceNode:
		var items []string
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("a list of plain values is needed")
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("a value is needed")
}

// validate refuses what cannot work, or would only seem to be safe.
func (c *Config) validate() error {
	if c.DataDir == "" && c.usesDirectory() {
		return errors.New("--data-dir is required")
	}
	if err := c.validateDatabase(); err != nil {
		return err
	}
	if c.AdminPasswordFile == "" && c.OperatorTokenFile == "" {
		return errors.New("nobody could log in; --admin-password-file is required")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key belong together")
	}
	if c.BlobStore != "" {
		if _, err := s3.ParseLocation(c.BlobStore); err != nil {
			return fmt.Errorf("--blob-store: %w", err)
		}
	} else if c.BlobRedirect {
		return errors.New("--blob-redirect needs a --blob-store in S3")
	}
	if c.AuditKeyFile == "" && !c.usesDirectory() {
		return errors.New("--audit-key-file is required where nothing is kept in a data directory; tidelock audit keygen makes a key, which all replicas share")
	}
	if _, err := c.oidcIssuers(); err != nil {
		return err
	}
	if c.TokenLifetime != 0 && (c.TokenLifetime < time.Minute || c.TokenLifetime > time.Hour) {
		return fmt.Errorf("--token-lifetime %s is not from 1m to 1h", c.TokenLifetime)
	}
	if c.PoliciesMaxLock < 0 {
		return errors.New("--policies-max-lock must not be below 0")
	}
	if err := c.GC.validate(); err != nil {
		return err
	}
	if _, err := forward.ParseTargets(c.AuditForward); err != nil {
		return fmt.Errorf("--audit-forward: %w", err)
	}
	if err := c.validateRetention(); err != nil {
		return err
	}
	if err := c.validateSuperusers(); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %q is not host:port", c.Listen)
	}
	if c.TLSCert == "" && !c.InsecureHTTP && !loopback(host) {
		return fmt.Errorf("--listen %s would send passwords over the network in clear; use --tls-cert and --tls-key, a loopback address, or --insecure-http", c.Listen)
	}
	return nil
}

// oidcIssuers reads the settings of issuers.
func (c *Config) oidcIssuers() ([]auth.OIDCIssuer, error) {
	var issuers []auth.OIDCIssuer
	for _, text := range c.OIDCIssuers {
		issuer, err := auth.ParseOIDCIssuer(text)
		if err != nil {
			return nil, fmt.Errorf("--oidc-issuer: %w", err)
		}
		if slices.ContainsFunc(issuers, func(other auth.OIDCIssuer) bool { return other.URL == issuer.URL }) {
			return nil, fmt.Errorf("--oidc-issuer: %s occurs twice", issuer.URL)
		}
		issuers = append(issuers, issuer)
	}
	return issuers, nil
}

// loopback reports whether a host can only mean this machine. Names other than localhost can mean anything.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// externalURL is the flag of an http or https address.
type externalURL struct{ target **url.URL }

func (e *externalURL) Set(text string) error {
	parsed, err := url.Parse(text)
	if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" ||
		parsed.RawQuery != "" || parsed.Fragment != "" || parsed.User != nil {
		return fmt.Errorf("%q is not http://host or https://host", text)
	}
	*e.target = &url.URL{Scheme: parsed.Scheme, Host: parsed.Host}
	return nil
}

func (e *externalURL) String() string {
	if e.target == nil || *e.target == nil {
		return ""
	}
	return (*e.target).String()
}

// Type implements pflag.Value.
func (e *externalURL) Type() string { return "url" }

// prefixes is the flag of a comma-separated list of addresses and networks.
type prefixes []netip.Prefix

func (p *prefixes) Set(text string) error {
	var list []netip.Prefix
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			address, err := netip.ParseAddr(item)
			if err != nil {
				return fmt.Errorf("%q is neither an address nor a network", item)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		list = append(list, prefix)
	}
	*p = list
	return nil
}

func (p *prefixes) String() string {
	items := make([]string, len(*p))
	for i, prefix := range *p {
		items[i] = prefix.String()
	}
	return strings.Join(items, ",")
}

// Type implements pflag.Value.
func (p *prefixes) Type() string { return "networks" }
