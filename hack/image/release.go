package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// user is numeric so that the kubelet can check runAsNonRoot.
	user            = "65532:65532"
	certificateFile = "/etc/ssl/certs/ca-certificates.crt"
	refName         = "org.opencontainers.image.ref.name"
)

// A release is what one image, or one image index for several platforms, is made of.
type release struct {
	version, revision string
	created           time.Time
	certificates      []byte // PEM, or nothing
	binaries          []binary
}

type binary struct {
	platform v1.Platform
	file     string
}

// write replaces the layout in dir and returns the digest of what a push of it publishes.
func (r release) write(dir string) (v1.Hash, error) {
	top, err := r.descriptor()
	if err != nil {
		return v1.Hash{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return v1.Hash{}, err
	}
	// Written beside its place and renamed, so that nobody reads half a layout.
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return v1.Hash{}, err
	}
	if _, err := layout.Write(tmp, mutate.AppendManifests(ociIndex(), top)); err != nil {
		return v1.Hash{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return v1.Hash{}, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return v1.Hash{}, err
	}
	return top.Add.(interface{ Digest() (v1.Hash, error) }).Digest()
}

// descriptor is the layout's only entry: the image, or an index if there are several platforms.
func (r release) descriptor() (mutate.IndexAddendum, error) {
	var images []mutate.IndexAddendum
	for _, b := range r.binaries {
		image, err := r.image(b)
		if err != nil {
			return mutate.IndexAddendum{}, err
		}
		platform := b.platform
		images = append(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	top := images[0]
	if len(images) > 1 {
		top = mutate.IndexAddendum{Add: mutate.AppendManifests(ociIndex(), images...)}
	}
	top.Descriptor.Annotations = map[string]string{refName: r.version}
	return top, nil
}

func ociIndex() v1.ImageIndex {
	return mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
}

func (r release) image(b binary) (v1.Image, error) {
	if err := checkStatic(b.file); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(b.file)
	if err != nil {
		return nil, err
	}
	base, err := r.baseLayer()
	if err != nil {
		return nil, err
	}
	binaryLayer, err := layer([]entry{{name: "tidelock", mode: 0o755, content: program}})
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image,
		mutate.Addendum{Layer: base, MediaType: types.OCILayer, History: r.history("base files")},
		mutate.Addendum{Layer: binaryLayer, MediaType: types.OCILayer, History: r.history("tidelock " + r.version)})
	if err != nil {
		return nil, err
	}
	return r.configure(image, b.platform)
}

func (r release) configure(image v1.Image, platform v1.Platform) (v1.Image, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: r.created}
	config.Config = v1.Config{
		Entrypoint:   []string{"/tidelock"},
		User:         user,
		WorkingDir:   "/",
		Env:          []string{"PATH=/", "HOME=/tmp"},
		ExposedPorts: map[string]struct{}{"5000/tcp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "tidelock",
			"org.opencontainers.image.description": "Kubernetes operator and OCI registry with immutable tags and evidence",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.source":      "https://github.com/tidelock/tidelock",
			"org.opencontainers.image.version":     r.version,
		},
	}
	if r.revision != "" {
		config.Config.Labels["org.opencontainers.image.revision"] = r.revision
	}
	return mutate.ConfigFile(image, config)
}

func (r release) history(what string) v1.History {
	return v1.History{Created: v1.Time{Time: r.created}, CreatedBy: "hack/image: " + what}
}

// baseLayer holds the few files that a static program expects of a system.
func (r release) baseLayer() (v1.Layer, error) {
	entries := []entry{
		{name: "etc/", mode: 0o755},
		{name: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n")},
		{name: "etc/group", mode: 0o644, content: []byte("root:x:0:\nnonroot:x:65532:\n")},
	}
	if len(r.certificates) > 0 {
		entries = append(entries,
			entry{name: "etc/ssl/", mode: 0o755},
			entry{name: "etc/ssl/certs/", mode: 0o755},
			entry{name: certificateFile[1:], mode: 0o644, content: r.certificates})
	}
	return layer(append(entries, entry{name: "tmp/", mode: 0o1777}))
}

// An entry is a file, or a folder if its name ends in a slash; it belongs to root.
type entry struct {
	name    string
	mode    int64
	content []byte
}

func layer(entries []entry) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		// Type, names, owners and times are all set here: nothing of the machine that builds gets in.
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if e.name[len(e.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

// checkStatic refuses a program that needs a loader: the image has none, and it would fail only when it is run.
func checkStatic(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s is not a Linux program: %w", file, err)
	}
	defer func() { _ = f.Close() }() // only read
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically; build it with CGO_ENABLED=0", file)
		}
	}
	return nil
}
