package mirror

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// namespace is what an upstream has.
type namespace struct {
	p *process
	// referrers says that the upstream has the referrers API.
	referrers bool
	random    *rand.ChaCha8
	// bases are layers that images of all repositories share.
	bases [][]byte
	// repositories are names, tags what each tag points to, by "repository:tag", attached the manifests that refer to others,
	// as "repository@digest".
	repositories []string
	tags         map[string]object
	attached     map[string]object
}

// object is a manifest with what it refers to.
type object struct {
	mediaType string
	manifest  []byte
	blobs     [][]byte
	children  []object
}

func (o object) digest() digest.Digest { return digest.FromBytes(o.manifest) }

func describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func (o object) descriptor() ocispec.Descriptor { return describe(o.mediaType, o.manifest) }

func encode(value any) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return content
}

func newNamespace(p *process, referrers bool) *namespace {
	n := &namespace{p: p, referrers: referrers, random: rand.NewChaCha8([32]byte{1}), tags: map[string]object{}, attached: map[string]object{}}
	for range 4 {
		n.bases = append(n.bases, n.noise(200_000))
	}
	return n
}

func (n *namespace) noise(size int) []byte {
	content := make([]byte, size)
	_, _ = n.random.Read(content)
	return content
}

// image is an image of two shared layers and one of its own.
func (n *namespace) image(architecture string) object {
	own := n.noise(3000)
	config := encode(ocispec.Image{Platform: ocispec.Platform{Architecture: architecture, OS: "linux"}, Author: digest.FromBytes(own).Encoded()})
	base := int(n.random.Uint64() % uint64(len(n.bases)))
	layers := [][]byte{n.bases[base], n.bases[(base+1)%len(n.bases)], own}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, config)}
	for _, layer := range layers {
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayer, layer))
	}
	return object{mediaType: m.MediaType, manifest: encode(m), blobs: append(layers, config)}
}

func (n *namespace) index() object {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	o := object{mediaType: index.MediaType}
	for _, architecture := range []string{"amd64", "arm64"} {
		child := n.image(architecture)
		d := child.descriptor()
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
		index.Manifests, o.children = append(index.Manifests, d), append(o.children, child)
	}
	o.manifest = encode(index)
	return o
}

// signature is what cosign stores under a signature tag.
func (n *namespace) signature() object {
	config, layer := []byte("{}"), n.noise(300)
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{describe("application/vnd.dev.cosign.simplesigning.v1+json", layer)},
	}
	return object{mediaType: m.MediaType, manifest: encode(m), blobs: [][]byte{config, layer}}
}

// referrer is an artifact that refers to a manifest.
func (n *namespace) referrer(subject object) object {
	config, layer, of := []byte("{}"), n.noise(300), subject.descriptor()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Subject: &of,
		Config: describe(ocispec.MediaTypeEmptyJSON, config), Layers: []ocispec.Descriptor{describe("application/vnd.dev.sigstore.bundle.v0.3+json", layer)},
	}
	return object{mediaType: m.MediaType, manifest: encode(m), blobs: [][]byte{config, layer}}
}

// fill makes repositories with tags: each fifth is an index, and each is signed, by a tag or by a referrer.
func (n *namespace) fill(repositories, tags int) {
	var work sync.WaitGroup
	slots := make(chan struct{}, 8)
	for r := range repositories {
		name := fmt.Sprintf("app-%03d", r)
		if r%10 == 9 {
			name = "team/nested/" + name
		}
		n.repositories = append(n.repositories, name)
		var objects []func()
		for t := range tags {
			objects = append(objects, n.add(name, fmt.Sprintf("v1.%d.0", t), t%5 == 4, (r+t)%2 == 0))
		}
		slots <- struct{}{}
		work.Go(func() {
			for _, push := range objects {
				push()
			}
			<-slots
		})
	}
	work.Wait()
}

// add makes a tag with a signature, and returns what pushes it.
func (n *namespace) add(repository, tag string, multi, byTag bool) (push func()) {
	o := n.image("amd64")
	if multi {
		o = n.index()
	}
	n.tags[repository+":"+tag] = o
	of := strings.Replace(o.digest().String(), ":", "-", 1)
	if byTag {
		signature := n.signature()
		n.tags[repository+":"+of+".sig"] = signature
		return func() {
			n.push(repository, o, tag)
			n.push(repository, signature, of+".sig")
		}
	}
	bundle := n.referrer(o)
	n.attached[repository+"@"+bundle.digest().String()] = bundle
	if n.referrers {
		return func() {
			n.push(repository, o, tag)
			n.push(repository, bundle)
		}
	}
	// As clients do for a registry that has no referrers API.
	d := bundle.descriptor()
	d.ArtifactType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	list := object{mediaType: ocispec.MediaTypeImageIndex, children: []object{bundle}, manifest: encode(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d},
	})}
	n.tags[repository+":"+of] = list
	return func() {
		n.push(repository, o, tag)
		n.push(repository, list, of)
	}
}

func (n *namespace) push(repository string, o object, tags ...string) {
	name := there + "/" + repository
	for _, child := range o.children {
		n.push(repository, child)
	}
	for _, content := range o.blobs {
		d := digest.FromBytes(content).String()
		if status, _, _, err := n.p.send(http.MethodHead, "/v2/"+name+"/blobs/"+d, "", nil); err == nil && status == http.StatusOK {
			continue
		}
		header, _ := n.p.must(http.StatusAccepted, http.MethodPost, "/v2/"+name+"/blobs/uploads/", "", nil)
		base, err := url.Parse(n.p.url())
		n.p.g.Expect(err).NotTo(HaveOccurred())
		location, err := base.Parse(header.Get("Location"))
		n.p.g.Expect(err).NotTo(HaveOccurred())
		query := location.Query()
		query.Set("digest", d)
		location.RawQuery = query.Encode()
		n.p.must(http.StatusCreated, http.MethodPut, location.String(), "application/octet-stream", content)
	}
	if len(tags) == 0 {
		tags = []string{o.digest().String()}
	}
	for _, tag := range tags {
		n.p.must(http.StatusCreated, http.MethodPut, "/v2/"+name+"/manifests/"+tag, o.mediaType, o.manifest)
	}
}

// some are the names of one of so many tags that are no signatures, beginning with a certain one.
func (n *namespace) some(every, from int) (names []string) {
	for name := range n.tags {
		if strings.Contains(name, ":v") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var chosen []string
	for i := from; i < len(names); i += every {
		chosen = append(chosen, names[i])
	}
	return chosen
}

// change gives one of so many tags another image, and returns how many.
func (n *namespace) change(every int) (changed int) {
	for _, name := range n.some(every, 0) {
		repository, tag, _ := strings.Cut(name, ":")
		o := n.image("amd64")
		n.tags[name] = o
		n.push(repository, o, tag)
		changed++
	}
	return changed
}

// vanish removes one of so many tags, and returns which.
func (n *namespace) vanish(every int) (removed []string) {
	for _, name := range n.some(every, every/2) {
		repository, tag, _ := strings.Cut(name, ":")
		n.p.must(http.StatusAccepted, http.MethodDelete, "/v2/"+there+"/"+repository+"/manifests/"+tag, "", nil)
		delete(n.tags, name)
		removed = append(removed, name)
	}
	return removed
}

// standing is what a tag of the mirror, "repository:tag", points to; empty if there is no such tag.
func (p *process) standing(name string) digest.Digest {
	p.t.Helper()
	repository, tag, _ := strings.Cut(name, ":")
	status, header, _, err := p.send(http.MethodHead, "/v2/"+here+"/"+repository+"/manifests/"+tag, "", nil)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(status).To(Or(Equal(http.StatusOK), Equal(http.StatusNotFound)))
	return digest.Digest(header.Get("Docker-Content-Digest"))
}

// expect checks that a registry has all of it, byte for byte by digest and by tag.
func (n *namespace) expect(p *process) {
	p.t.Helper()
	var work sync.WaitGroup
	slots := make(chan struct{}, 4)
	checked := map[string]bool{}
	check := func(path string, content []byte) {
		if checked[path] {
			return
		}
		checked[path] = true
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			status, _, answer, err := p.send(http.MethodGet, path, "", nil)
			if err != nil || status != http.StatusOK || string(answer) != string(content) {
				p.t.Errorf("GET %s: %d, %v, and %d bytes of %d", path, status, err, len(answer), len(content))
			}
		})
	}
	var whole func(repository, reference string, o object)
	whole = func(repository, reference string, o object) {
		name := "/v2/" + here + "/" + repository
		check(name+"/manifests/"+reference, o.manifest)
		check(name+"/manifests/"+o.digest().String(), o.manifest)
		for _, content := range o.blobs {
			check(name+"/blobs/"+digest.FromBytes(content).String(), content)
		}
		for _, child := range o.children {
			whole(repository, child.digest().String(), child)
		}
	}
	for name, o := range n.tags {
		repository, tag, _ := strings.Cut(name, ":")
		whole(repository, tag, o)
	}
	for name, o := range n.attached {
		repository, _, _ := strings.Cut(name, "@")
		whole(repository, o.digest().String(), o)
	}
	work.Wait()
}
