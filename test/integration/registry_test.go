package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// answer is what the registry answered.
type answer struct {
	Status int
	Body   string
}

// call calls the registry as the account admin.
func (r *testRegistry) call(ctx context.Context, method, path, contentType string, body []byte) (answer, error) {
	return r.callAs(ctx, "admin", adminPassword, method, path, contentType, body)
}

// callAs calls the registry as somebody.
func (r *testRegistry) callAs(ctx context.Context, user, password, method, path, contentType string, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.SetBasicAuth(user, password)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return answer{Status: response.StatusCode, Body: string(content)}, err
}

// manifest is an image that differs from others by its name only.
func manifest(name string) []byte {
	GinkgoHelper()
	m := imagespec.Manifest{
		MediaType: imagespec.MediaTypeImageManifest, ArtifactType: "application/vnd.tidelock.test",
		Config: imagespec.DescriptorEmptyJSON, Layers: []imagespec.Descriptor{imagespec.DescriptorEmptyJSON},
		Annotations: map[string]string{"name": name},
	}
	m.SchemaVersion = 2
	content, err := json.Marshal(m)
	Expect(err).NotTo(HaveOccurred())
	return content
}

// prepare makes a repository that images can be pushed to.
func (r *testRegistry) prepare(ctx context.Context, repository string) {
	GinkgoHelper()
	empty := imagespec.DescriptorEmptyJSON
	Eventually(func(g Gomega, ctx context.Context) {
		// A registry that has an operator takes writes once that has brought its policies.
		got, err := r.call(ctx, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+url.QueryEscape(empty.Digest.String()), "application/octet-stream", empty.Data)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(got.Status).To(Equal(http.StatusCreated), got.Body)
	}).WithContext(ctx).Should(Succeed())
}

// tryPush pushes the image of a name under a tag.
func (r *testRegistry) tryPush(ctx context.Context, repository, tag, image string) answer {
	GinkgoHelper()
	got, err := r.call(ctx, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, imagespec.MediaTypeImageManifest, manifest(image))
	Expect(err).NotTo(HaveOccurred())
	return got
}

// push pushes an image of the tag's name.
func (r *testRegistry) push(ctx context.Context, repository string, tags ...string) {
	GinkgoHelper()
	for _, tag := range tags {
		got := r.tryPush(ctx, repository, tag, tag)
		Expect(got.Status).To(Equal(http.StatusCreated), got.Body)
	}
}

func (r *testRegistry) remove(ctx context.Context, repository, reference string) answer {
	GinkgoHelper()
	got, err := r.call(ctx, http.MethodDelete, "/v2/"+repository+"/manifests/"+reference, "", nil)
	Expect(err).NotTo(HaveOccurred())
	return got
}

func digestOf(image string) string { return digest.FromBytes(manifest(image)).String() }

// immutable tells whether the registry calls a tag immutable.
func (r *testRegistry) immutable(ctx context.Context, repository, tag string) bool {
	GinkgoHelper()
	got, err := r.call(ctx, http.MethodGet, "/api/v1/repository/"+repository+"/tag/?specificTag="+tag, "", nil)
	Expect(err).NotTo(HaveOccurred())
	Expect(got.Status).To(Equal(http.StatusOK), got.Body)
	var list struct {
		Tags []struct {
			Immutable bool `json:"immutable"`
		} `json:"tags"`
	}
	Expect(json.Unmarshal([]byte(got.Body), &list)).To(Succeed())
	Expect(list.Tags).To(HaveLen(1))
	return list.Tags[0].Immutable
}

// storedPolicy is a policy as the management API shows it.
type storedPolicy struct {
	UUID      string `json:"uuid"`
	Pattern   string `json:"tagPattern"`
	Orphaned  bool   `json:"orphaned"`
	ManagedBy *struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid"`
	} `json:"managedBy"`
}

// policies lists the policies of an organization.
func (r *testRegistry) policies(ctx context.Context, organization string) []storedPolicy {
	GinkgoHelper()
	got, err := r.call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/organization/%s/immutabilitypolicy/", organization), "", nil)
	Expect(err).NotTo(HaveOccurred())
	if got.Status == http.StatusNotFound {
		return nil
	}
	Expect(got.Status).To(Equal(http.StatusOK), got.Body)
	var list struct {
		Policies []storedPolicy `json:"policies"`
	}
	Expect(json.Unmarshal([]byte(got.Body), &list)).To(Succeed())
	return list.Policies
}
