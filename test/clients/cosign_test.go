package clients

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// cosigner signs with cosign, with key pairs of its own and without any network.
type cosigner struct {
	*machine
	host string
	// form are the options that choose how signatures are stored.
	form []string
}

func newCosigner(host string, form ...string) cosigner {
	GinkgoHelper()
	c := cosigner{machine: newMachine(), host: host, form: form}
	c.must(built("cosign"), "login", host, "-u", user, "-p", password)
	return c
}

// cosign calls it for an image by its digest.
func (c cosigner) cosign(command, repository, digest string, options ...string) (string, error) {
	arguments := append([]string{"COSIGN_PASSWORD=", built("cosign"), command}, options...)
	return c.run("env", append(arguments, "--allow-http-registry", c.host+"/"+repository+"@"+digest)...)
}

// key makes the key pair of a name, once.
func (c cosigner) key(name string) (private, public string) {
	GinkgoHelper()
	prefix := filepath.Join(c.home, name)
	if _, err := os.Stat(prefix + ".key"); err != nil {
		c.must("env", "COSIGN_PASSWORD=", built("cosign"), "generate-key-pair", "--output-key-prefix", prefix)
	}
	return prefix + ".key", prefix + ".pub"
}

func (c cosigner) sign(repository, digest, name string) error {
	GinkgoHelper()
	private, _ := c.key(name)
	return failure(c.cosign("sign", repository, digest, append(c.form, "--key", private, "--tlog-upload=false", "--use-signing-config=false", "--yes")...))
}

func (c cosigner) verify(repository, digest, name string) error {
	GinkgoHelper()
	_, public := c.key(name)
	return failure(c.cosign("verify", repository, digest, append(c.form, "--key", public, "--insecure-ignore-tlog")...))
}

func (c cosigner) attest(repository, digest, name string, options ...string) (string, error) {
	GinkgoHelper()
	private, _ := c.key(name)
	predicate := filepath.Join(c.home, "predicate.json")
	Expect(os.WriteFile(predicate, []byte(`{"tested":true}`), 0o600)).To(Succeed())
	options = append(options, c.form...)
	return c.cosign("attest", repository, digest, append(options, "--key", private, "--tlog-upload=false", "--use-signing-config=false", "--yes", "--type", "custom", "--predicate", predicate)...)
}

func (c cosigner) verifyAttestation(repository, digest, name string) error {
	GinkgoHelper()
	_, public := c.key(name)
	return failure(c.cosign("verify-attestation", repository, digest, append(c.form, "--key", public, "--insecure-ignore-tlog", "--type", "custom")...))
}

// lockTags locks the tags of an organization that match a pattern.
func lockTags(organization, pattern string) {
	GinkgoHelper()
	response, body := call("POST", "/api/v1/organization/"+organization+"/immutabilitypolicy/", "application/json", fmt.Appendf(nil, `{"tagPattern":%q}`, pattern))
	Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
}

// moves lists the moves of tags of a repository in the log, and whether each was an append.
func moves(repository string) map[string]bool {
	GinkgoHelper()
	response, body := call("GET", "/api/v1/repository/"+repository+"/logs?kind=move_tag", "", nil)
	Expect(response.StatusCode).To(Equal(http.StatusOK), string(body))
	var page struct {
		Logs []struct {
			Metadata struct {
				Tag    string
				Append bool
			}
		}
	}
	Expect(json.Unmarshal(body, &page)).To(Succeed())
	moved := map[string]bool{}
	for _, entry := range page.Logs {
		moved[entry.Metadata.Tag] = entry.Metadata.Append
	}
	return moved
}

var _ = Describe("cosign", func() {
	forms := map[string][]string{
		"tags":      {"--new-bundle-format=false"},
		"referrers": {"--new-bundle-format=true"},
	}
	// Either the signatures' own tags are locked too, or only the image's.
	patterns := map[string]string{"all": ".*", "image": "v.*"}
	for form, options := range forms {
		for what, pattern := range patterns {
			It(fmt.Sprintf("signs what is locked again and again and takes nothing away (%s, policy %s)", form, pattern), func() {
				organization := "cosign-" + form + "-" + what
				repository, target := organization+"/app", organization+"-copy/app"
				image := newImage()
				image.push(repository, "v1")
				digest := image.digest()
				lockTags(organization, pattern)
				c := newCosigner(host, options...)

				By("signing twice and attesting twice")
				for _, name := range []string{"alice", "bob"} {
					Expect(c.sign(repository, digest, name)).To(Succeed())
					Expect(failure(c.attest(repository, digest, name))).To(Succeed())
				}
				stays := func(repository string, names ...string) {
					GinkgoHelper()
					for _, name := range names {
						Expect(c.verify(repository, digest, name)).To(Succeed(), name)
						Expect(c.verifyAttestation(repository, digest, name)).To(Succeed(), name)
					}
					Expect(c.verify(repository, digest, "mallory")).NotTo(Succeed())
				}
				stays(repository, "alice", "bob")
				tag := strings.Replace(digest, ":", "-", 1)
				if form == "tags" {
					Expect(moves(repository)).To(Equal(map[string]bool{tag + ".sig": true, tag + ".att": true}))
					By("not replacing an attestation")
					out, err := c.attest(repository, digest, "mallory", "--replace")
					Expect(err).To(HaveOccurred())
					Expect(out).To(And(ContainSubstring("TAG_IMMUTABLE"), ContainSubstring("it can only be added to")))
				}

				By("not cleaning")
				out, _ := c.cosign("clean", repository, digest, "--force") // it ends with 0 although it could not
				Expect(out).To(And(ContainSubstring("could not delete"), ContainSubstring("TAG_IMMUTABLE")))
				stays(repository, "alice", "bob")

				if form == "tags" { // copy knows nothing of bundles
					By("copying, and copying again what was added")
					copied := func() error {
						return failure(c.run(built("cosign"), "copy", "--force", "--allow-http-registry", host+"/"+repository+":v1", host+"/"+target+":v1"))
					}
					Expect(copied()).To(Succeed())
					lockTags(organization+"-copy", pattern)
					stays(target, "alice", "bob")
					Expect(c.sign(repository, digest, "carol")).To(Succeed())
					Expect(copied()).To(Succeed())
					stays(target, "alice", "bob")
					Expect(c.verify(target, digest, "carol")).To(Succeed())
					Expect(tagDigest(target, tag)).To(Equal(digest), "copy leaves the image under the name of its referrers tag")
				}
			})
		}
	}

	It("adds to the referrers tag of a locked image where it thinks that the registry has no referrers API", func() {
		origin, err := url.Parse("http://" + host)
		Expect(err).NotTo(HaveOccurred())
		proxy := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(origin)
				r.Out.Host = r.In.Host // tokens are to be had here too
			},
			ModifyResponse: func(r *http.Response) error {
				r.Header.Del("OCI-Subject")
				return nil
			},
		}
		old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/referrers/") {
				http.NotFound(w, r)
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		DeferCleanup(old.Close)

		const repository = "cosign-old/app"
		image := newImage()
		image.push(repository, "v1")
		digest := image.digest()
		lockTags("cosign-old", "v.*")
		c := newCosigner(strings.TrimPrefix(old.URL, "http://"), "--new-bundle-format=true")
		for _, name := range []string{"alice", "bob"} {
			Expect(c.sign(repository, digest, name)).To(Succeed())
		}
		tag := strings.Replace(digest, ":", "-", 1)
		Expect(moves(repository)).To(Equal(map[string]bool{tag: true}))
		_, body := call("GET", "/v2/"+repository+"/manifests/"+tag, "", nil)
		var index ocispec.Index
		Expect(json.Unmarshal(body, &index)).To(Succeed())
		Expect(index.Manifests).To(HaveLen(2))
		for _, name := range []string{"alice", "bob"} {
			Expect(c.verify(repository, digest, name)).To(Succeed())
		}
		By("losing none")
		one := encode(ocispec.Index{Versioned: index.Versioned, MediaType: index.MediaType, Manifests: index.Manifests[1:]})
		response, body := call("PUT", "/v2/"+repository+"/manifests/"+tag, ocispec.MediaTypeImageIndex, one)
		Expect(response.StatusCode).To(Equal(http.StatusUnprocessableEntity))
		Expect(string(body)).To(ContainSubstring("'v1'"))
		for _, reference := range []string{tag, index.Manifests[0].Digest.String()} {
			response, _ = call("DELETE", "/v2/"+repository+"/manifests/"+reference, "", nil)
			Expect(response.StatusCode).To(Equal(http.StatusUnprocessableEntity))
		}
	})
})
