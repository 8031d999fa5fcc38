// Package fsck checks that every tag can be pulled: its manifest, an index's children, their configs and layers, and the
// referrers attached to them are there, and have the bytes that their digests say. It changes nothing.
package fsck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// page is how many names are read at once.
	page = 1000
	// pageSize is how much of descriptions is read at once, in bytes.
	pageSize = 4 << 20
	// remembered bounds the digests that are known to be right, so that a blob of many tags is read once: about 100 MB.
	remembered = 1 << 19
	// progressInterval is how often progress is told.
	progressInterval = 2 * time.Second
)

// Core is what the check needs of registry/core.
type Core interface {
	Catalog(ctx context.Context, to domain.Audience, after string, limit int) ([]string, error)
	ListTags(ctx context.Context, name domain.RepositoryName, q core.TagQuery) ([]core.TagView, error)
	Manifest(ctx context.Context, name domain.RepositoryName, ref domain.Reference, withContent bool) (domain.Manifest, error)
	// IsSparse reports whether a manifest may lack some of what it refers to.
	IsSparse(ctx context.Context, m domain.Manifest) (bool, error)
	Referrers(ctx context.Context, name domain.RepositoryName, q core.ReferrersQuery) (list []domain.Manifest, more bool, err error)
	Blob(ctx context.Context, name domain.RepositoryName, d digest.Digest) (domain.Blob, error)
}

// Options are what a check needs. Core and Blobs are required.
type Options struct {
	Core  Core
	Blobs blob.Store
	// Damage is called for each damage found.
	Damage func(Damage) error
	// Progress is called every now and then with what was checked so far.
	Progress func(Summary)
}

// Damage is something that is missing or wrong in the closure of a tag.
type Damage struct {
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"`
	Locked     bool          `json:"locked"`
	Digest     digest.Digest `json:"digest"`
	// Problem says what is the matter, for people.
	Problem string `json:"problem"`
}

// Summary counts what was checked.
type Summary struct {
	// Tags are the tags that were checked, Locked those of them that are locked.
	Tags   int64 `json:"tags"`
	Locked int64 `json:"locked_tags"`
	// Blobs and Bytes were read from the blob store, each as a rule once.
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Damages counts what Damage was called for, DamagedTags the tags concerned.
	Damages     int64 `json:"damages"`
	DamagedTags int64 `json:"damaged_tags"`
}

// Check checks all tags, the locked ones first. The error says that it could not be done; damage is no error.
func Check(ctx context.Context, options Options) (Summary, error) {
	c := &check{Options: options, sound: newRecent(remembered), wrong: newRecent(remembered / 64), told: time.Now()}
	for _, locked := range []bool{true, false} {
		if err := c.tags(ctx, locked); err != nil {
			return c.Summary, err
		}
	}
	return c.Summary, nil
}

type check struct {
	Options
	Summary
	// sound and wrong remember the blobs whose bytes were read; wrong with the problem.
	sound, wrong *recent
	told         time.Time
}

// tags checks the tags of all repositories that are locked, or those that are not.
func (c *check) tags(ctx context.Context, locked bool) error {
	for after := ""; ; {
		names, err := c.Core.Catalog(ctx, domain.Audience{Everything: true}, after, page)
		if err != nil {
			return err
		}
		for _, text := range names {
			name, err := domain.ParseRepositoryName(text)
			if err != nil {
				return err
			}
			if err := c.repository(ctx, name, locked); err != nil {
				return fmt.Errorf("repository %s: %w", name, err)
			}
		}
		if len(names) < page {
			return nil
		}
		after = names[len(names)-1]
	}
}

func (c *check) repository(ctx context.Context, name domain.RepositoryName, locked bool) error {
	for after := ""; ; {
		tags, err := c.Core.ListTags(ctx, name, core.TagQuery{After: after, Limit: page})
		if err != nil {
			return err
		}
		for _, tag := range tags {
			if tag.Immutable != locked {
				continue
			}
			if err := c.tag(ctx, name, tag); err != nil {
				return fmt.Errorf("tag %s: %w", tag.Name, err)
			}
		}
		if len(tags) < page {
			return nil
		}
		after = tags[len(tags)-1].Name
	}
}

// tag walks the closure of a tag.
func (c *check) tag(ctx context.Context, name domain.RepositoryName, tag core.TagView) error {
	w := &walk{check: c, name: name, tag: tag, seen: map[digest.Digest]bool{}}
	w.visit(tag.Digest)
	for len(w.queue) > 0 {
		next := w.queue[0]
		w.queue = w.queue[1:]
		if err := w.manifest(ctx, next); err != nil {
			return err
		}
	}
	c.Tags++
	if tag.Immutable {
		c.Locked++
	}
	if w.damaged {
		c.DamagedTags++
	}
	return nil
}

// progress tells how far the check has come, now and then.
func (c *check) progress() {
	if c.Progress != nil && time.Since(c.told) >= progressInterval {
		c.told = time.Now()
		c.Progress(c.Summary)
	}
}

// walk goes through the closure of one tag.
type walk struct {
	*check
	name    domain.RepositoryName
	tag     core.TagView
	seen    map[digest.Digest]bool
	queue   []digest.Digest
	damaged bool
}

// visit queues a manifest that was not visited yet.
func (w *walk) visit(d digest.Digest) {
	if !w.seen[d] {
		w.seen[d] = true
		w.queue = append(w.queue, d)
	}
}

func (w *walk) report(d digest.Digest, problem string, args ...any) error {
	w.damaged = true
	w.Damages++
	if w.Damage == nil {
		return nil
	}
	return w.Damage(Damage{Repository: w.name.String(), Tag: w.tag.Name, Locked: w.tag.Immutable, Digest: d, Problem: fmt.Sprintf(problem, args...)})
}

// content is what a manifest refers to. What the client pushed counts, not what the registry noted of it.
type content struct {
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
}

type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
}

// manifestTypes are the media types of an index's children. What has another is a blob, as in BuildKit's caches.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws",
}

// elsewhere reports whether clients fetch a layer from elsewhere, so that it need not be here.
func (d descriptor) elsewhere() bool {
	return strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, ".nondistributable.")
}

// manifest checks a manifest and what it refers to, and queues its children and referrers.
func (w *walk) manifest(ctx context.Context, d digest.Digest) error {
	defer w.progress()
	m, err := w.Core.Manifest(ctx, w.name, domain.Reference{Digest: d}, true)
	if domain.CodeOf(err) == domain.CodeManifestUnknown {
		return w.report(d, "the manifest is missing")
	}
	if err != nil {
		return err
	}
	if actual := d.Algorithm().FromBytes(m.Content); actual != d {
		return w.report(d, "the manifest has the digest %s", actual)
	}
	var refers content
	if err := json.Unmarshal(m.Content, &refers); err != nil {
		return w.report(d, "the manifest cannot be read: %v", err)
	}
	sparse, err := w.Core.IsSparse(ctx, m)
	if err != nil {
		return err
	}
	if refers.Config != nil {
		refers.Layers = append(refers.Layers, *refers.Config)
	}
	for _, layer := range refers.Layers {
		if err := w.blob(ctx, layer, sparse); err != nil {
			return err
		}
	}
	if err := w.children(ctx, refers.Manifests, sparse); err != nil {
		return err
	}
	return w.referrers(ctx, d)
}

// children queues an index's children. Those that a sparse index lacks are no damage.
func (w *walk) children(ctx context.Context, children []descriptor, sparse bool) error {
	for _, child := range children {
		if !slices.Contains(manifestTypes, child.MediaType) {
			if err := w.blob(ctx, child, sparse); err != nil {
				return err
			}
			continue
		}
		if sparse {
			_, err := w.Core.Manifest(ctx, w.name, domain.Reference{Digest: child.Digest}, false)
			if domain.CodeOf(err) == domain.CodeManifestUnknown {
				continue
			}
			if err != nil {
				return err
			}
		}
		w.visit(child.Digest)
	}
	return nil
}

func (w *walk) referrers(ctx context.Context, of digest.Digest) error {
	for after := digest.Digest(""); ; {
		list, more, err := w.Core.Referrers(ctx, w.name, core.ReferrersQuery{Subject: of, After: after, Limit: page, Size: pageSize})
		if err != nil {
			return err
		}
		for _, m := range list {
			w.visit(m.Digest)
		}
		if !more {
			return nil
		}
		after = list[len(list)-1].Digest
	}
}

// blob checks that a blob is in the repository, unless it may be missing, and that its bytes are right.
func (w *walk) blob(ctx context.Context, layer descriptor, mayMiss bool) error {
	if w.seen[layer.Digest] {
		return nil
	}
	stored, err := w.Core.Blob(ctx, w.name, layer.Digest)
	if domain.CodeOf(err) == domain.CodeBlobUnknown {
		if mayMiss || layer.elsewhere() {
			return nil
		}
		w.seen[layer.Digest] = true
		return w.report(layer.Digest, "the blob is missing")
	}
	if err != nil {
		return err
	}
	w.seen[layer.Digest] = true
	problem, err := w.bytes(ctx, stored)
	if err != nil || problem == "" {
		return err
	}
	return w.report(layer.Digest, "%s", problem)
}

// bytes reads a blob, or remembers that it did, and returns what is wrong with it.
func (c *check) bytes(ctx context.Context, stored domain.Blob) (problem string, err error) {
	if _, ok := c.sound.get(stored.Digest); ok {
		return "", nil
	}
	if problem, ok := c.wrong.get(stored.Digest); ok {
		return problem, nil
	}
	problem, err = c.read(ctx, stored)
	switch {
	case err != nil:
		return "", err
	case problem == "":
		c.sound.put(stored.Digest, "")
	default:
		c.wrong.put(stored.Digest, problem)
	}
	return problem, nil
}

func (c *check) read(ctx context.Context, stored domain.Blob) (problem string, err error) {
	c.Summary.Blobs++
	reader, err := c.Options.Blobs.Open(ctx, stored.Key)
	if errors.Is(err, blob.ErrUnknown) {
		return fmt.Sprintf("the bytes of the blob are missing (key %s)", stored.Key), nil
	}
	if err != nil {
		return fmt.Sprintf("the bytes of the blob cannot be read: %v (key %s)", err, stored.Key), ctx.Err()
	}
	defer func() { _ = reader.Close() }()
	if reader.Size() != stored.Size {
		return fmt.Sprintf("the blob has %d bytes instead of %d (key %s)", reader.Size(), stored.Size, stored.Key), nil
	}
	digester := stored.Digest.Algorithm().Digester()
	if _, err := io.Copy(digester.Hash(), &counted{Reader: reader, ctx: ctx, check: c}); err != nil {
		return fmt.Sprintf("the bytes of the blob cannot be read: %v (key %s)", err, stored.Key), ctx.Err()
	}
	if actual := digester.Digest(); actual != stored.Digest {
		return fmt.Sprintf("the bytes of the blob have the digest %s (key %s)", actual, stored.Key), nil
	}
	return "", nil
}

// counted counts the bytes that are read, and stops with the context.
type counted struct {
	io.Reader
	ctx   context.Context
	check *check
}

func (r *counted) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	r.check.Bytes += int64(n)
	r.check.progress()
	return n, err
}

// recent remembers what was put into it last: at least half of limit, at most limit.
type recent struct {
	limit    int
	new, old map[digest.Digest]string
}

func newRecent(limit int) *recent {
	return &recent{limit: limit, new: map[digest.Digest]string{}}
}

func (r *recent) get(d digest.Digest) (string, bool) {
	text, ok := r.new[d]
	if !ok {
		if text, ok = r.old[d]; ok {
			r.put(d, text)
		}
	}
	return text, ok
}

func (r *recent) put(d digest.Digest, text string) {
	if len(r.new) >= r.limit/2 {
		r.new, r.old = map[digest.Digest]string{}, r.new
	}
	r.new[d] = text
}
