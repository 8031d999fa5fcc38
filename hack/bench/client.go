package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

// client speaks the OCI Distribution protocol as Docker and crane do, and does nothing else: the digests of what it
// sends are computed before, and what it gets is only counted, so that the time is the server's.
type client struct {
	server *server
	http   *http.Client
}

func newClient(s *server, connections int) *client {
	return &client{server: s, http: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: connections, DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}}}
}

// image is one layer of random bytes with its config and manifest.
type image struct {
	config, layer, manifest blob
}

type blob struct {
	digest  digest.Digest
	content []byte
}

func newBlob(content []byte) blob { return blob{digest.FromBytes(content), content} }

func newImage(random *rand.ChaCha8, size int) image {
	layer := make([]byte, size)
	_, _ = random.Read(layer)
	i := image{layer: newBlob(layer), config: newBlob(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%x"}`, layer[:16]))}
	i.manifest = newBlob(fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}]}`,
		manifestType, i.config.digest, len(i.config.content), i.layer.digest, size))
	return i
}

// push pushes an image: for each blob a HEAD, and an upload of one piece if it is not there; then the manifest.
func (c *client) push(ctx context.Context, repository, tag string, i image) error {
	for _, b := range []blob{i.layer, i.config} {
		if err := c.pushBlob(ctx, repository, b); err != nil {
			return err
		}
	}
	return c.putManifest(ctx, repository, tag, manifestType, i.manifest.content)
}

func (c *client) putManifest(ctx context.Context, repository, tag, mediaType string, content []byte) error {
	_, err := c.do(ctx, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, mediaType, content, http.StatusCreated)
	return err
}

func (c *client) pushBlob(ctx context.Context, repository string, b blob) error {
	return c.pushBytes(ctx, repository, b.digest, bytes.NewReader(b.content), int64(len(b.content)))
}

// pushBytes pushes a blob that is read as it is sent.
func (c *client) pushBytes(ctx context.Context, repository string, d digest.Digest, content io.Reader, size int64) error {
	head, err := c.do(ctx, http.MethodHead, "/v2/"+repository+"/blobs/"+d.String(), "", nil, http.StatusOK, http.StatusNotFound)
	if err != nil || head.status == http.StatusOK {
		return err
	}
	begun, err := c.do(ctx, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	sent, err := c.send(ctx, http.MethodPatch, begun.location, "application/octet-stream", content, size, http.StatusAccepted)
	if err != nil {
		return err
	}
	separator := "?"
	if strings.Contains(sent.location, "?") {
		separator = "&"
	}
	_, err = c.do(ctx, http.MethodPut, sent.location+separator+"digest="+url.QueryEscape(d.String()), "", nil, http.StatusCreated)
	return err
}

// pull pulls an image and checks how long each part is.
func (c *client) pull(ctx context.Context, repository, tag string, i image) error {
	for path, want := range map[string]int{
		"/manifests/" + tag:                  len(i.manifest.content),
		"/blobs/" + i.config.digest.String(): len(i.config.content),
		"/blobs/" + i.layer.digest.String():  len(i.layer.content),
	} {
		got, err := c.do(ctx, http.MethodGet, "/v2/"+repository+path, "", nil, http.StatusOK)
		if err != nil {
			return err
		}
		if got.length != int64(want) {
			return fmt.Errorf("%s has %d bytes, not %d", path, got.length, want)
		}
	}
	return nil
}

type answer struct {
	status   int
	location string
	length   int64
	// content is the answer itself if it is JSON, else its beginning.
	content []byte
}

// do sends a request. An answer with another status than those wanted is an error.
func (c *client) do(ctx context.Context, method, target, contentType string, body []byte, wanted ...int) (a answer, err error) {
	return c.send(ctx, method, target, contentType, bytes.NewReader(body), int64(len(body)), wanted...)
}

// send is do with a body that is read as it is sent.
func (c *client) send(ctx context.Context, method, target, contentType string, body io.Reader, size int64, wanted ...int) (a answer, err error) {
	if strings.HasPrefix(target, "/") {
		target = c.server.url + target
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return a, err
	}
	request.ContentLength = size
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if method == http.MethodGet {
		request.Header.Set("Accept", manifestType)
	}
	if c.server.password != "" {
		request.SetBasicAuth("admin", c.server.password)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	buffer := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buffer)
	kept := keeper{most: keptOfBytes}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		kept.most = keptOfJSON
	}
	length, err := io.CopyBuffer(&kept, response.Body, *buffer)
	if err != nil {
		return a, err
	}
	a = answer{status: response.StatusCode, location: response.Header.Get("Location"), length: length, content: kept.start}
	for _, status := range wanted {
		if status == a.status {
			return a, nil
		}
	}
	return a, errors.New(method + " " + request.URL.Path + ": " + response.Status + " " + string(kept.start))
}

// copyBuffers are larger than the connections' own buffers, which are passed by then.
var copyBuffers = sync.Pool{New: func() any {
	buffer := make([]byte, 256<<10)
	return &buffer
}}

// What is kept of an answer, in bytes.
const (
	keptOfBytes = 512
	keptOfJSON  = 1 << 20
)

// keeper keeps the first bytes of what is written to it.
type keeper struct {
	start []byte
	most  int
}

func (k *keeper) Write(p []byte) (int, error) {
	k.start = append(k.start, p[:min(k.most-len(k.start), len(p))]...)
	return len(p), nil
}
