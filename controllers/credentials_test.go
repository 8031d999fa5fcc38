package controllers

import (
	"encoding/base64"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Credentials of a Secret", func() {
	secret := func(kind corev1.SecretType, pairs ...string) *corev1.Secret {
		s := &corev1.Secret{Type: kind, Data: map[string][]byte{}}
		for i := 0; i < len(pairs); i += 2 {
			s.Data[pairs[i]] = []byte(pairs[i+1])
		}
		return s
	}
	docker := func(auths string) *corev1.Secret {
		return secret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{`+auths+`}}`)
	}
	entry := func(key, user string) string {
		return fmt.Sprintf("%q:{%q:%q}", key, "auth", base64.StdEncoding.EncodeToString([]byte(user+":of-"+user)))
	}
	of := func(user string) openapi.MirrorSecrets {
		return openapi.MirrorSecrets{Username: user, Password: domain.GivenSecret("of-" + user)}
	}

	DescribeTable("are read:", func(s *corev1.Secret, upstream, namespace string, expected openapi.MirrorSecrets) {
		Expect(upstreamCredentials(s, upstream, namespace)).To(Equal(expected))
	},
		Entry("basic-auth", secret(corev1.SecretTypeBasicAuth, "username", "bob", "password", "of-bob\n"), "https://quay.io", "a", of("bob")),
		Entry("a token", secret(corev1.SecretTypeOpaque, "token", " t0ken\n", "username", "bob"), "https://quay.io", "a", openapi.MirrorSecrets{Token: "t0ken"}),
		Entry("Opaque with user name and password", secret(corev1.SecretTypeOpaque, "username", "bob", "password", "of-bob"), "https://quay.io", "a", of("bob")),
		Entry("a Secret without a type", secret("", "token", "t0ken"), "https://quay.io", "a", openapi.MirrorSecrets{Token: "t0ken"}),
		Entry("dockerconfigjson", docker(entry("other.io", "eve")+","+entry("quay.io", "bob")), "https://quay.io", "a", of("bob")),
		Entry("dockerconfigjson with user name and password", docker(`"quay.io":{"username":"bob","password":"of-bob"}`), "https://quay.io", "a", of("bob")),
		Entry("dockerconfigjson with a token", docker(`"quay.io":{"registrytoken":"t0ken"}`), "https://quay.io", "a", openapi.MirrorSecrets{Token: "t0ken"}),
		Entry("dockerconfigjson by address", docker(entry("https://quay.io/v1/", "bob")), "https://quay.io", "a", of("bob")),
		Entry("dockerconfigjson by a host in another case", docker(entry("QUAY.io", "bob")), "https://quay.IO", "a", of("bob")),
		Entry("dockerconfigjson with a port", docker(entry("reg", "eve")+","+entry("reg:5000", "bob")), "http://reg:5000", "a", of("bob")),
		Entry("dockerconfigjson with the port of the scheme", docker(entry("reg:443", "bob")), "https://reg", "a", of("bob")),
		Entry("dockerconfigjson for a namespace", docker(entry("quay.io", "eve")+","+entry("quay.io/team", "bob")+","+entry("quay.io/tea", "mallory")), "https://quay.io", "team", of("bob")),
		Entry("dockerconfigjson of Docker Hub", docker(entry("https://index.docker.io/v1/", "bob")), "https://registry-1.docker.io", "library", of("bob")),
	)

	DescribeTable("say what is missing, and no value:", func(s *corev1.Secret, message string) {
		_, err := upstreamCredentials(s, "https://quay.io", "team")
		Expect(err).To(MatchError(And(ContainSubstring(message), Not(ContainSubstring("hunter2")))))
	},
		Entry("no password", secret(corev1.SecretTypeBasicAuth, "username", "bob", "token", "hunter2"), "the key password is missing or empty"),
		Entry("no user name", secret(corev1.SecretTypeBasicAuth, "password", "hunter2"), "the key username is missing or empty"),
		Entry("neither", secret(corev1.SecretTypeOpaque, "user", "hunter2"), "neither the key token, nor username and password"),
		Entry("half of them", secret(corev1.SecretTypeOpaque, "password", "hunter2"), "the key username is missing or empty"),
		Entry("another type", secret(corev1.SecretTypeTLS, "tls.key", "hunter2"), "it is of type kubernetes.io/tls; what can be used is type kubernetes.io/basic-auth"),
		Entry("no configuration", secret(corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `hunter2`), "holds no Docker configuration"),
		Entry("no entry", docker(entry("other.io", "hunter2")), "has no entry for quay.io"),
		Entry("an entry for another port", docker(entry("quay.io:8443", "hunter2")), "has no entry for quay.io"),
		Entry("an entry for another namespace", docker(entry("quay.io/other", "hunter2")), "has no entry for quay.io"),
		Entry("an identity token", docker(`"quay.io":{"identitytoken":"hunter2"}`), "identity token, which cannot be used"),
		Entry("an entry with nothing in it", docker(`"quay.io":{}`), "has no user name and password"),
		Entry("an entry that cannot be read", docker(`"quay.io":{"auth":"hunter2"}`), "not user:password in base64"),
	)
})
