package mgmtapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// upstreams stands for the engine that copies: it knows what may be reached, and tries what it is told to.
type upstreams struct {
	mu sync.Mutex
	// refused are the messages for addresses that mirrors may not reach.
	refused map[string]string
	// answer is what a try comes to.
	answer func(context.Context, domain.MirrorSpec, domain.MirrorSecrets) error
	// tried is what was tried last.
	tried   domain.MirrorSpec
	secrets domain.MirrorSecrets
}

func (u *upstreams) CheckSource(_ context.Context, source domain.MirrorSource) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, address := range [][2]string{{"source.url", source.URL}, {"source.proxy.httpProxy", source.Proxy.HTTP}, {"source.proxy.httpsProxy", source.Proxy.HTTPS}} {
		if message, refused := u.refused[address[1]]; refused {
			return domain.Errorf(domain.CodeInvalid, "%s: %s", address[0], message)
		}
	}
	return nil
}

func (u *upstreams) Verify(ctx context.Context, spec domain.MirrorSpec, secrets domain.MirrorSecrets) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tried, u.secrets = spec, secrets
	if u.answer == nil {
		return nil
	}
	return u.answer(ctx, spec, secrets)
}

const (
	mirrorPath = "/api/v1/organization/team-a/mirror"
	// mirrorBody is the least that makes a mirror.
	mirrorBody = `{"external_registry_type": "quay", "external_registry_url": "https://quay.example.com", "external_namespace": "upstream",
		"robot_username": "team-a+mirror", "visibility": "private", "sync_interval": 3600, "sync_start_date": "2026-03-15T00:00:00Z"}`
)

// with is a body with other fields; a field without a value is left out.
func with(body string, fields ...string) string {
	object := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(body), &object); err != nil {
		panic(err)
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, "=")
		if object[name] = json.RawMessage(value); value == "" {
			delete(object, name)
		}
	}
	changed, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	return string(changed)
}

// many is a list of that many strings in JSON.
func many(n int, text string) string {
	return "[" + strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%q,", text), n), ",") + "]"
}

// secret must never be in an answer, whatever is wrong with the rest.
const secret = "s3cret-of-the-upstream"

var _ = DescribeTable("A new mirror is refused",
	func(detail string, fields ...string) {
		server := serve(nil, nil)
		defer server.Close()
		body := with(mirrorBody, append([]string{`external_registry_password="` + secret + `"`}, fields...)...)
		answer := send(server, admin, "POST", mirrorPath, body)
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		Expect(answer.body).NotTo(ContainSubstring(secret))
		Expect(answer.problem()).To(Equal(openapi.Problem{
			Type: "urn:tidelock:error:invalid_request", Title: "invalid_request", Status: 400, Detail: detail,
			ErrorType: openapi.ErrorTypeInvalidRequest, ErrorMessage: detail, Code: "INVALID",
		}))
	},
	Entry("without a type", "external_registry_type: the field is required", "external_registry_type="),
	Entry("without an address", "external_registry_url: the field is required", "external_registry_url="),
	Entry("without a namespace", "external_namespace: the field is required", "external_namespace="),
	Entry("without a robot", "robot_username: the field is required", "robot_username="),
	Entry("without a visibility", "visibility: the field is required", "visibility="),
	Entry("without a first time", "sync_start_date: the field is required", "sync_start_date="),
	Entry("without a schedule", "sync_interval: the field is required, unless there is cron", "sync_interval="),
	Entry("with null for a required field", "external_namespace: the field must not be null", "external_namespace=null"),
	Entry("with an unknown field", "the body is not as it should be: json: unknown field \"verify\"", `external_registry_config={"verify": true}`),
	Entry("with another type", `external_registry_type: "docker" is not allowed; use quay, harbor or oci`, `external_registry_type="docker"`),
	Entry("with the type in other letters", `external_registry_type: "Quay" is not allowed; use quay, harbor or oci`, `external_registry_type="Quay"`),
	Entry("create_with_ftp_scheme_rejected", `external_registry_url: scheme "ftp" is not allowed; use https or http`, `external_registry_url="ftp://quay.example.com"`),
	Entry("with a file for an address", `external_registry_url: scheme "file" is not allowed; use https or http`, `external_registry_url="file:///etc/passwd"`),
	Entry("with a user in the address", "external_registry_url: user and password do not belong into an address, which everybody may read; give them as credentials",
		`external_registry_url="https://bot:`+secret+`@quay.example.com"`),
	Entry("with an address that is none", "external_registry_url: it is no URL; write one such as https://registry.example.com", `external_registry_url="https://bot:`+secret+`@quay example"`),
	Entry("with a path in the address", `external_registry_url: an address has no path; "/v2/" belongs into the namespace, if anywhere`, `external_registry_url="https://quay.example.com/v2/"`),
	Entry("with a query in the address", "external_registry_url: an address has neither query nor fragment", `external_registry_url="https://quay.example.com?x=`+secret+`"`),
	Entry("with an empty namespace", "external_namespace: a namespace is required, since Quay lists the repositories of one", `external_namespace=""`),
	Entry("with a long namespace", "external_namespace: the namespace is 256 bytes long; at most 255 are allowed", `external_namespace="`+strings.Repeat("a", 256)+`"`),
	Entry("with a robot that is a user", `robot_username: "carol" is not the full name of a robot; write team-a+name`, `robot_username="carol"`),
	Entry("with a robot of another organization", "robot_username: robot team-b+mirror belongs to another organization than team-a", `robot_username="team-b+mirror"`),
	Entry("with an unknown visibility", `visibility: "hidden" is not allowed; use private or public`, `visibility="hidden"`),
	Entry("with a short interval", "sync_interval: 59 is not from 60 to 31622400 seconds", "sync_interval=59"),
	Entry("with a negative interval", "sync_interval: -3600 is not from 60 to 31622400 seconds", "sync_interval=-3600"),
	Entry("with an interval that overflows", "sync_interval: 9223372036854775807 is not from 60 to 31622400 seconds", "sync_interval=9223372036854775807"),
	Entry("with half an interval", "sync_interval: a whole number is needed, not a JSON number 60.5", "sync_interval=60.5"),
	Entry("with two schedules", "cron: cannot stand beside sync_interval", `cron="0 4 * * *"`),
	Entry("with a cron expression that is none", `cron: "every day" is no cron expression; write minute, hour, day of the month, month and day of the week, in UTC, such as "30 4 * * *"`,
		"sync_interval=", `cron="every day"`),
	Entry("with a date alone", `sync_start_date: "2026-03-15" is no time such as 2026-01-31T00:00:00Z`, `sync_start_date="2026-03-15"`),
	Entry("with a date that is none", `sync_start_date: "2026-02-30T00:00:00Z" is no time such as 2026-01-31T00:00:00Z`, `sync_start_date="2026-02-30T00:00:00Z"`),
	Entry("with a zone in its date", `sync_start_date: "2026-03-15T00:00:00+01:00" is no time such as 2026-01-31T00:00:00Z`, `sync_start_date="2026-03-15T00:00:00+01:00"`),
	Entry("with a date before its time", `sync_start_date: "0001-01-01T00:00:00Z" is no time such as 2026-01-31T00:00:00Z`, `sync_start_date="0001-01-01T00:00:00Z"`),
	Entry("with a short timeout", "skopeo_timeout: 29 is not from 30 to 3600 seconds", "skopeo_timeout=29"),
	Entry("with a long timeout", "skopeo_timeout: 3601 is not from 30 to 3600 seconds", "skopeo_timeout=3601"),
	Entry("with a password that is a number", "external_registry_password: a string is needed, or null for none", "external_registry_password=12345"),
	Entry("with a password that is a list", "external_registry_password: a string is needed, or null for none", `external_registry_password=["`+secret+`"]`),
	Entry("with a password of several lines", "external_registry_password: control characters are not allowed", `external_registry_password="`+secret+`\r\nX-Evil: 1"`),
	Entry("with a long password", "external_registry_password: 8193 bytes are too many; at most 8192 are allowed", `external_registry_password="`+strings.Repeat("x", 8193)+`"`),
	Entry("with a long user name", "external_registry_username: 256 bytes are too many; at most 255 are allowed", `external_registry_username="`+strings.Repeat("x", 256)+`"`),
	Entry("with a password that stands for a stored one", "external_registry_password: there is nothing stored that ***REDACTED*** could stand for", `external_registry_password="***REDACTED***"`),
	Entry("with a token that stands for a stored one", "external_registry_token: there is nothing stored that ***REDACTED*** could stand for", "external_registry_password=", `external_registry_token="***REDACTED***"`),
	Entry("with a proxy's user that stands for a stored one", "external_registry_config.proxy: there is nothing stored that ***REDACTED*** could stand for",
		`external_registry_config={"proxy": {"https_proxy": "http://***REDACTED***@proxy.example.com"}}`),
	Entry("with a password and a token", "external_registry_token: cannot stand beside external_registry_password", `external_registry_token="`+secret+`"`),
	Entry("with a proxy that is no address", "external_registry_config.proxy.http_proxy: it is no URL; write one such as http://proxy.example.com:3128",
		`external_registry_config={"proxy": {"http_proxy": "bot:`+secret+`@proxy.example.com:3128"}}`),
	Entry("with a proxy of another scheme", `external_registry_config.proxy.https_proxy: scheme "socks5" is not allowed; use https or http`,
		`external_registry_config={"proxy": {"https_proxy": "socks5://proxy.example.com"}}`),
	Entry("with two users for its proxies", "external_registry_config.proxy: where there are two proxies, both have the same user part, or none",
		`external_registry_config={"proxy": {"http_proxy": "http://proxy.example.com", "https_proxy": "http://bot:`+secret+`@proxy.example.com"}}`),
	Entry("with a proxy's password that breaks out of a header", "external_registry_config.proxy.http_proxy: control characters are not allowed",
		`external_registry_config={"proxy": {"http_proxy": "http://bot:`+secret+`%0d%0a@proxy.example.com"}}`),
	Entry("with hosts without a proxy in several lines", "external_registry_config.proxy.no_proxy: the list must be one line of at most 4096 bytes",
		`external_registry_config={"proxy": {"no_proxy": "a\nb"}}`),
	Entry("with certificates that are none", "external_registry_config.ca_bundle: there is no certificate in PEM", `external_registry_config={"ca_bundle": "`+secret+`"}`),
	Entry("with a glob that is none", `repository_filters[1]: "a[" is no glob: a [ is not closed, or has nothing in it`, `repository_filters=["ok", "a["]`),
	Entry("with too many globs", "repository_filters: 101 filters; at most 100 are allowed", "repository_filters="+many(101, "a")),
	Entry("with a glob of excludes that is none", `repository_excludes[0]: a pattern must not be empty`, `repository_excludes=[""]`),
	Entry("with a tag match of two sorts", "tags.include[0]: exactly one of glob, regexp and semver must be set", `tags={"include": [{"glob": "v*", "semver": ">1"}]}`),
	Entry("with a tag match of no sort", "tags.exclude[0]: exactly one of glob, regexp and semver must be set", `tags={"exclude": [{}]}`),
	Entry("with less than no tags", "tags.newest: -1 is less than 0; 0 keeps all tags", `tags={"newest": -1}`),
	Entry("with an unknown mode of referrers", `referrers: "copy" is not allowed; use Copy or Ignore`, `referrers="copy"`),
	Entry("with an unknown mode of conflicts", `on_conflict: "Overwrite" is not allowed; use Skip or Fail`, `on_conflict="Overwrite"`),
	Entry("with an unknown mode of pruning", `prune: "All" is not allowed; use Never or Vanished`, `prune="All"`),
	Entry("with no transfers", "concurrency: 0 is not from 1 to 32", "concurrency=0"),
	Entry("with more transfers than any mirror has", "concurrency: 4294967300 is not from 1 to 32", "concurrency=4294967300"),
	Entry("with hardly any bandwidth", "bandwidth_limit: 1 bytes a second are too few; use 1024 or more, or 0 for no limit", "bandwidth_limit=1"),
)

var _ = DescribeTable("A new mirror of what mirrors may not reach is refused",
	func(address, field, value string) {
		engine := &upstreams{refused: map[string]string{address: "mirrors may not reach this host"}}
		server := serveWith(nil, engine, nil)
		defer server.Close()
		answer := send(server, admin, "POST", mirrorPath, with(mirrorBody, value))
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		Expect(answer.problem().Detail).To(Equal(field + ": mirrors may not reach this host"))
	},
	Entry("as its upstream", "https://upstream.example.com", "external_registry_url", `external_registry_url="https://upstream.example.com"`),
	Entry("as its proxy", "http://proxy.example.com:3128", "external_registry_config.proxy.http_proxy",
		`external_registry_config={"proxy": {"http_proxy": "http://bot:`+secret+`@proxy.example.com:3128"}}`),
	Entry("as its proxy for https", "http://proxy.example.com:3128", "external_registry_config.proxy.https_proxy",
		`external_registry_config={"proxy": {"https_proxy": "http://proxy.example.com:3128"}}`),
)

var _ = It("makes no mirror where nothing knows what mirrors may reach", func() {
	server := serveWith(nil, nil, nil)
	defer server.Close()
	Expect(send(server, admin, "POST", mirrorPath, mirrorBody).status).To(Equal(http.StatusServiceUnavailable))
	Expect(send(server, operator, "PUT", "/api/v1/operator/orgmirrors/team-a/upstream", managedMirror).status).To(Equal(http.StatusServiceUnavailable))
})

var _ = DescribeTable("A query of a mirror's repositories is refused",
	func(query, detail string) {
		server := serve(nil, nil)
		defer server.Close()
		answer := send(server, admin, "GET", mirrorPath+"/repositories?"+query, "")
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		Expect(answer.problem().Detail).To(Equal(detail))
	},
	Entry("with a page of 0", "page=0", `page: "0" is not a whole number from 1 to 1000000`),
	Entry("with too large a page", "limit=501", `limit: "501" is not a whole number from 1 to 500`),
	Entry("with an unknown status", "status=BUSY", `status: "BUSY" is not allowed; use one of NEVER_RUN, SYNC_NOW, SYNCING, SUCCESS, FAIL, CANCEL, SKIP`),
	Entry("with an unknown parameter", "state=FAIL", "state: unknown parameter; allowed are page, limit, status"),
)

// managedMirror is the body of a valid PUT of the operator.
const managedMirror = `{"cluster": "c1", "uid": "m1", "generation": 1, "organization": "team-a",
	"spec": {"source": {"type": "OCI", "url": "https://registry.example.com", "namespace": "library"}, "repositories": {"include": ["app"]}, "tags": {},
		"referrers": "Copy", "schedule": {"intervalSeconds": 3600}, "visibility": "private", "onConflict": "Skip", "prune": "Never",
		"timeoutSeconds": 600, "concurrency": 4},
	"secrets": {"username": "bot", "password": "` + secret + `"},
	"claim": {"namespaceUID": "n1", "organizations": ["team-a"]}}`

var _ = DescribeTable("The operator's endpoints of mirrors refuse",
	func(method, path, body, detail string) {
		engine := &upstreams{refused: map[string]string{"https://internal.example.com": "mirrors may not reach this host"}}
		server := serveWith(nil, engine, nil)
		defer server.Close()
		answer := send(server, operator, method, "/api/v1/operator/orgmirrors/team-a/upstream"+path, body)
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		Expect(answer.body).NotTo(ContainSubstring(secret))
		Expect(answer.problem().Detail).To(ContainSubstring(detail))
	},
	Entry("a mirror without its cluster", "PUT", "", with(managedMirror, "cluster="), "cluster: the field is required"),
	Entry("a mirror with an empty cluster", "PUT", "", with(managedMirror, `cluster=""`), "cluster: the field must not be empty"),
	Entry("a mirror without a uid", "PUT", "", with(managedMirror, `uid=""`), "uid: the field must not be empty"),
	Entry("a mirror without a generation", "PUT", "", with(managedMirror, "generation=0"), "generation: 0 is not a generation"),
	Entry("a mirror without an organization", "PUT", "", with(managedMirror, `organization=""`), "organization: the field must not be empty"),
	Entry("a mirror without secrets", "PUT", "", with(managedMirror, "secrets="), "secrets: the field is required"),
	Entry("a mirror with an empty claim", "PUT", "", with(managedMirror, `claim={"namespaceUID": ""}`), "claim.namespaceUID: the field must not be empty"),
	Entry("a mirror that nobody applied", "PUT", "", with(managedMirror, `applied={"user": "", "generation": 1}`), "applied.user: the field must not be empty"),
	Entry("a mirror with an unknown field", "PUT", "", with(managedMirror, `secrets={"passwort": "`+secret+`"}`), `unknown field "passwort"`),
	Entry("a mirror of what mirrors may not reach", "PUT", "", strings.Replace(managedMirror, "registry.example.com", "internal.example.com", 1), "source.url: mirrors may not reach this host"),
	Entry("a delete without its cluster", "DELETE", "?uid=m1", "", "cluster: the field must not be empty"),
	Entry("a delete without its uid", "DELETE", "?cluster=c1", "", "uid: the field must not be empty"),
	Entry("an intent without its uid", "PUT", "/deletion-intent", `{"user": "carol"}`, "uid: the field is required"),
	Entry("an intent of nobody", "PUT", "/deletion-intent", `{"uid": "m1", "user": ""}`, "user: the field must not be empty"),
)
