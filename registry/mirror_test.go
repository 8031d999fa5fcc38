package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("a mirror by the management API", Ordered, func() {
	const mirror = "/api/v1/organization/team-a/mirror"
	// body is a mirror of an address.
	body := func(kind, address, more string) string {
		return fmt.Sprintf(`{"external_registry_type": %q, "external_registry_url": %q, "external_namespace": "upstream"%s}`, kind, address, more)
	}
	const whole = `, "robot_username": "team-a+mirror", "visibility": "private", "sync_interval": 3600, "sync_start_date": "2126-01-01T00:00:00Z"`
	var strict, open *running

	prepare := func(cfg Config) *running {
		GinkgoHelper()
		s := start(cfg)
		for _, call := range [][3]string{
			{"POST", "/api/v1/organization/", `{"name": "team-a"}`}, {"PUT", "/api/v1/organization/team-a/robots/mirror", "{}"},
		} {
			response, answer := s.call(http.DefaultClient, call[0], call[1], strings.NewReader(call[2]))
			Expect(response.StatusCode).To(Equal(201), answer)
		}
		return s
	}
	BeforeAll(func() {
		strict = prepare(settings())
		cfg := settings()
		cfg.MirrorAllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
		open = prepare(cfg)
	})

	send := func(s *running, method, path, content string) (int, string) {
		GinkgoHelper()
		response, answer := s.call(http.DefaultClient, method, path, strings.NewReader(content))
		return response.StatusCode, answer
	}
	detail := func(answer string) string {
		GinkgoHelper()
		var problem struct {
			Detail string `json:"detail"`
		}
		Expect(json.Unmarshal([]byte(answer), &problem)).To(Succeed(), answer)
		return problem.Detail
	}

	DescribeTable("create_with",
		func(address, reason string) {
			status, answer := send(strict, "POST", mirror, body("quay", address, whole))
			Expect(status).To(Equal(400), answer)
			Expect(detail(answer)).To(HavePrefix("external_registry_url: "))
			Expect(detail(answer)).To(ContainSubstring(reason))
			status, answer = send(strict, "GET", mirror, "")
			Expect(status).To(Equal(404), answer)
		},
		Entry("localhost_rejected", "https://localhost:8443", "a loopback address"),
		Entry("loopback_ip_rejected", "https://127.0.0.1", "a loopback address"),
		Entry("loopback_ipv6_rejected", "https://[::1]:443", "a loopback address"),
		Entry("mapped_ipv6_rejected", "https://[::ffff:127.0.0.1]", "a loopback address"),
		Entry("unspecified_ip_rejected", "https://0.0.0.0", "an unspecified address"),
		Entry("private_ip_rejected", "https://10.0.0.1", "a private address"),
		Entry("link_local_ip_rejected", "https://169.254.1.1", "a link-local address"),
		Entry("aws_metadata_ip_rejected", "http://169.254.169.254", "credentials"),
		Entry("aws_metadata_ipv6_rejected", "http://[fd00:ec2::254]", "credentials"),
		Entry("gcp_metadata_hostname_rejected", "http://metadata.google.internal", "credentials"),
		Entry("kubernetes_hostname_rejected", "https://kubernetes.default.svc", "a name inside of a cluster"),
		Entry("kubernetes_long_hostname_rejected", "https://registry.team-b.svc.cluster.local.", "a name inside of a cluster"),
		Entry("ftp_scheme_rejected", "ftp://quay.example.com", `scheme "ftp" is not allowed`),
	)

	It("does not reach through a proxy for what mirrors may not reach", func() {
		status, answer := send(strict, "POST", mirror, body("quay", "https://quay.example.com", whole+`, "external_registry_config": {"proxy": {"https_proxy": "http://10.0.0.1:3128"}}`))
		Expect(status).To(Equal(400), answer)
		Expect(detail(answer)).To(HavePrefix("external_registry_config.proxy.https_proxy: the host is, or resolves to, a private address"))
		status, answer = send(strict, "POST", mirror+"/verify", body("oci", strict.URL(), ""))
		Expect(status).To(Equal(200), answer)
		Expect(answer).To(And(ContainSubstring(`"success":false`), ContainSubstring("a loopback address")))
	})

	It("reaches what is allowed", func() {
		for _, address := range []string{"https://registry.team-b.svc", "https://10.0.0.1"} {
			status, answer := send(open, "POST", mirror, body("quay", address, whole))
			Expect(status).To(Equal(201), answer)
			status, answer = send(open, "DELETE", mirror, "")
			Expect(status).To(Equal(204), answer)
		}
	})

	It("verifies an upstream, with the credentials and without", func() {
		layer := []byte("tidelock")
		status, answer := send(strict, "POST", "/v2/upstream/app/blobs/uploads/?digest="+digestOf(layer), string(layer))
		Expect(status).To(Equal(201), answer)
		for _, kind := range []string{"oci", "quay"} {
			status, answer = send(open, "POST", mirror+"/verify", body(kind, strict.URL(), fmt.Sprintf(`, "external_registry_username": "admin", "external_registry_password": %q`, password)))
			Expect(status).To(Equal(200), answer)
			Expect(answer).To(MatchJSON(`{"success": true, "message": "Connection successful"}`), kind)
			status, answer = send(open, "POST", mirror+"/verify", body(kind, strict.URL(), `, "external_registry_username": "admin", "external_registry_password": "not the password"`))
			Expect(status).To(Equal(200), answer)
			Expect(answer).To(And(ContainSubstring(`"success":false`), Not(ContainSubstring("not the password"))), kind)
		}
	})
})
