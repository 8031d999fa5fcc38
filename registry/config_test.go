package registry

import (
	"fmt"
	"net/netip"
	"net/url"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/pflag"

	"github.com/tidelock/tidelock/registry/policy"
)

var _ = Describe("settings", func() {
	// load reads settings as the command does.
	load := func(file string, environment map[string]string, arguments ...string) (Config, error) {
		GinkgoHelper()
		var cfg Config
		flags := pflag.NewFlagSet("registry", pflag.ContinueOnError)
		cfg.AddFlags(flags)
		if file != "" {
			arguments = append(arguments, "--config", write(GinkgoT().TempDir(), "tidelock.yaml", file))
		}
		Expect(flags.Parse(arguments)).To(Succeed())
		err := LoadSettings(flags, func(name string) (string, bool) {
			value, ok := environment[name]
			return value, ok
		})
		return cfg, err
	}

	It("have defaults", func() {
		cfg, err := load("", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(cfg).To(Equal(Config{
			Database: "sqlite", Listen: "127.0.0.1:5000", TokenLifetime: 5 * time.Minute, PoliciesDeletionDelay: 5 * time.Minute,
			PoliciesMaxLock: policy.DefaultMaxLock,
			GC:              GarbageCollection{Interval: time.Hour, Grace: 24 * time.Hour, Delay: time.Hour},
		}))
	})

	It("come from flags, then variables, then the file", func() {
		cfg, err := load("data-dir: file\nlisten: file:1\nadmin-password-file: file\n",
			map[string]string{"TIDELOCK_DATA_DIR": "variable", "TIDELOCK_LISTEN": "variable:1"}, "--data-dir=flag")
		Expect(err).NotTo(HaveOccurred())
		Expect(cfg.DataDir).To(Equal("flag"))
		Expect(cfg.Listen).To(Equal("variable:1"))
		Expect(cfg.AdminPasswordFile).To(Equal("file"))
	})

	It("can all stand in the file", func() {
		cfg, err := load(`# a comment
data-dir: /var/lib/tidelock
database: postgres://tidelock@db/tidelock
listen: ":5000"
admin-password-file: /etc/tidelock/password
operator-token-file: /etc/tidelock/token
tls-cert: cert
tls-key: key
insecure-http: true
token-key-file: /etc/tidelock/keys
token-lifetime: 10m
audit-key-file: /etc/tidelock/audit-keys
secret-key-file: /etc/tidelock/secret-keys
external-url: https://registry.example.com/
trusted-proxies: [10.0.0.0/8, 192.0.2.1]
policies-deletion-delay: 30s
policies-max-lock: 400d
gc-interval: 10m
gc-grace: 12h
gc-delay: 30m
gc-untagged-manifests: true
audit-retention: 400d
audit-archive: s3://bucket/audit
audit-forward: [stdout, "otlp+https://collector:4318"]
superusers: [carol]
superusers-full-access: true
global-readonly-superusers: [audit-user, monitoring-bot]
`, nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(cfg).To(Equal(Config{
			DataDir: "/var/lib/tidelock", Database: "postgres://tidelock@db/tidelock", Listen: ":5000", AdminPasswordFile: "/etc/tidelock/password", OperatorTokenFile: "/etc/tidelock/token",
			TLSCert: "cert", TLSKey: "key", InsecureHTTP: true, PoliciesDeletionDelay: 30 * time.Second, PoliciesMaxLock: 400 * 24 * time.Hour,
			TokenKeyFile: "/etc/tidelock/keys", TokenLifetime: 10 * time.Minute, AuditKeyFile: "/etc/tidelock/audit-keys", SecretKeyFile: "/etc/tidelock/secret-keys", ExternalURL: &url.URL{Scheme: "https", Host: "registry.example.com"},
			GC:             GarbageCollection{Interval: 10 * time.Minute, Grace: 12 * time.Hour, Delay: 30 * time.Minute, UntaggedManifests: true},
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")},
			AuditRetention: 400 * 24 * time.Hour, AuditArchive: "s3://bucket/audit", AuditForward: []string{"stdout", "otlp+https://collector:4318"}, Superusers: []string{"carol"}, SuperusersFullAccess: true, ReadonlySuperusers: []string{"audit-user", "monitoring-bot"},
		}))
	})

	DescribeTable("are refused in the file, with the line", func(file, message string) {
		_, err := load(file, nil)
		Expect(err).To(MatchError(MatchRegexp(`^/.*/tidelock\.yaml` + message)))
	},
		Entry("an unknown key", "listen: localhost:1\n\ndata_dir: x\n", `:3: there is no setting "data_dir"$`),
		Entry("the file itself", "config: other.yaml\n", `:1: there is no setting "config"$`),
		Entry("a key twice", "listen: a:1\nlisten: b:1\n", `:2: the setting listen occurs twice$`),
		Entry("a key that a flag sets too, twice", "listen: a:1\nlisten: b:1\n", `:2: `),
		Entry("a value of another kind", "\ninsecure-http: perhaps\n", `:2: insecure-http: .*perhaps`),
		Entry("a duration without a unit", "policies-deletion-delay: 5\n", `:1: policies-deletion-delay: .*unit`),
		Entry("no value", "data-dir:\n", `:1: data-dir: a value is needed$`),
		Entry("a value that is a group", "data-dir: {a: b}\n", `:1: data-dir: a value is needed$`),
		Entry("a list of groups", "trusted-proxies: [{a: b}]\n", `:1: trusted-proxies: a list of plain values is needed$`),
		Entry("no period", "audit-retention: 400y\n", `:1: audit-retention: .*"400y" is neither a number of days`),
		Entry("no number of days", "audit-retention: -1d\n", `:1: audit-retention: .*"-1d" is not a number of days`),
		Entry("no address", "trusted-proxies: [proxy]\n", `:1: trusted-proxies: .*"proxy" is neither an address nor a network`),
		Entry("an address without a scheme", "external-url: registry.example.com\n", `:1: external-url: .*"registry.example.com" is not http://host or https://host`),
		Entry("an address with a path", "external-url: https://registry.example.com/v2\n", `:1: external-url: .*is not http://host`),
		Entry("no settings", "- listen\n", `:1: settings must be written as "name: value"$`),
		Entry("no YAML", "listen: localhost:1\na: b: c\n", `: yaml: line 2: `),
	)

	It("name the variable that is wrong", func() {
		_, err := load("", map[string]string{"TIDELOCK_INSECURE_HTTP": "perhaps"})
		Expect(err).To(MatchError(HavePrefix("TIDELOCK_INSECURE_HTTP: ")))
	})

	It("may come from an empty file, but not from one that is not there", func() {
		_, err := load("# nothing\n", nil)
		Expect(err).NotTo(HaveOccurred())
		_, err = load("", map[string]string{"TIDELOCK_CONFIG": "/none/such.yaml"})
		Expect(err).To(MatchError(ContainSubstring("/none/such.yaml")))
	})

	DescribeTable("are checked before anything is touched", func(change func(*Config), message string) {
		cfg := settings()
		change(&cfg)
		_, err := New(cfg)
		if message == "" {
			Expect(cfg.validate()).To(Succeed())
			return
		}
		Expect(err).To(MatchError(message))
		Expect(cfg.DataDir).NotTo(BeADirectory())
	},
		Entry("no data directory", func(c *Config) { c.DataDir = "" }, "--data-dir is required"),
		Entry("no key of the audit log that replicas could share", func(c *Config) { c.Database, c.BlobStore = "postgres://db", "s3://bucket" },
			"--audit-key-file is required where nothing is kept in a data directory; tidelock audit keygen makes a key, which all replicas share"),
		Entry("another database", func(c *Config) { c.Database = "mysql://user:secret@host/db" }, "--database must be sqlite, or a URL that begins with postgres://"),
		Entry("nobody who could log in", func(c *Config) { c.AdminPasswordFile = "" }, "nobody could log in; --admin-password-file is required"),
		Entry("half of TLS", func(c *Config) { c.TLSCert = "cert" }, "--tls-cert and --tls-key belong together"),
		Entry("tokens that live too long", func(c *Config) { c.TokenLifetime = 2 * time.Hour }, "--token-lifetime 2h0m0s is not from 1m to 1h"),
		Entry("tokens that live too short", func(c *Config) { c.TokenLifetime = time.Second }, "--token-lifetime 1s is not from 1m to 1h"),
		Entry("a blob store that is none", func(c *Config) { c.BlobStore = "blobs" },
			`--blob-store: "blobs" is not s3://bucket[/prefix][?endpoint=https://host:port&region=name&path-style=true]: it has no bucket, or more than that`),
		Entry("redirects to files", func(c *Config) { c.BlobRedirect = true }, "--blob-redirect needs a --blob-store in S3"),
		Entry("a log that is lost when it is old", func(c *Config) { c.AuditRetention = 24 * time.Hour }, "--audit-retention prunes only what is in an archive; --audit-archive is required"),
		Entry("a log that is hardly kept", func(c *Config) { c.AuditRetention, c.AuditArchive = time.Second, "x" }, "--audit-retention must be at least 1h0m0s, or 0 to keep the log for ever"),
		Entry("a receiver that is none", func(c *Config) { c.AuditForward = []string{"syslog"} },
			"--audit-forward: a receiver is stdout, https://host/path#secret-file=PATH or otlp+https://host:port, without user or password"),
		Entry("no port", func(c *Config) { c.Listen = "localhost" }, `--listen "localhost" is not host:port`),
		Entry("all addresses", func(c *Config) { c.Listen = ":0" }, plainText(":0")),
		Entry("all addresses, written out", func(c *Config) { c.Listen = "0.0.0.0:0" }, plainText("0.0.0.0:0")),
		Entry("an address", func(c *Config) { c.Listen = "192.0.2.1:0" }, plainText("192.0.2.1:0")),
		Entry("a name", func(c *Config) { c.Listen = "registry.example:0" }, plainText("registry.example:0")),
		Entry("localhost", func(c *Config) { c.Listen = "localhost:0" }, ""),
		Entry("loopback", func(c *Config) { c.Listen = "[::1]:0" }, ""),
		Entry("all addresses, if the user insists", func(c *Config) { c.Listen, c.InsecureHTTP = ":0", true }, ""),
		Entry("all addresses with TLS", func(c *Config) { c.Listen, c.TLSCert, c.TLSKey = ":0", "cert", "key" }, ""),
	)
})

func plainText(listen string) string {
	return fmt.Sprintf("--listen %s would send passwords over the network in clear; use --tls-cert and --tls-key, a loopback address, or --insecure-http", listen)
}
