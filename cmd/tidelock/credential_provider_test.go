package main

import (
	"bytes"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("tidelock credential-provider", func() {
	request := func(change ...string) string {
		return strings.NewReplacer(change...).Replace(`{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest",
			"image": "registry.example.com:5000/team-a/app:v1", "serviceAccountToken": "a.b.c", "serviceAccountAnnotations": {}}`)
	}

	It("gives the kubelet the token of the Pod's ServiceAccount for the image's registry", func() {
		var out bytes.Buffer
		Expect(provideCredentials(strings.NewReader(request()), &out)).To(Succeed())
		Expect(out.String()).To(MatchJSON(`{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
			"cacheDuration": "5m0s", "auth": {"registry.example.com:5000": {"username": "token", "password": "a.b.c"}}}`))
	})

	DescribeTable("says what is wrong, and gives nothing:", func(in, message string) {
		var out bytes.Buffer
		Expect(provideCredentials(strings.NewReader(in), &out)).To(MatchError(ContainSubstring(message)))
		Expect(out.String()).To(BeEmpty())
	},
		Entry("no request", "now", "reading the kubelet's request"),
		Entry("another version", request("/v1\"", "/v9\""), "credentialprovider.kubelet.k8s.io/v9"),
		Entry("no token", request("a.b.c", ""), "serviceAccountTokenAudience"),
		Entry("no registry", request("registry.example.com:5000/team-a/app:v1", "app"), "names no registry"),
	)
})
