package fsck_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/fsck"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

func TestFsck(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/fsck")
}

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	alice = domain.Caller{Name: "alice", Kind: domain.CallerUser}
	app   = domain.RepositoryName{Organization: "team-a", Path: "app"}
)

// broken is a core that has lost something.
type broken struct {
	*core.Core
	lost    map[digest.Digest]bool
	content map[digest.Digest]string
	sparse  digest.Digest
}

func (b *broken) Manifest(ctx context.Context, name domain.RepositoryName, ref domain.Reference, withContent bool) (domain.Manifest, error) {
	if b.lost[ref.Digest] {
		return domain.Manifest{}, domain.Errorf(domain.CodeManifestUnknown, "lost")
	}
	m, err := b.Core.Manifest(ctx, name, ref, withContent)
	if content, ok := b.content[ref.Digest]; ok {
		m.Content = []byte(content)
	}
	return m, err
}

func (b *broken) Blob(ctx context.Context, name domain.RepositoryName, d digest.Digest) (domain.Blob, error) {
	if b.lost[d] {
		return domain.Blob{}, domain.Errorf(domain.CodeBlobUnknown, "lost")
	}
	return b.Core.Blob(ctx, name, d)
}

func (b *broken) IsSparse(_ context.Context, m domain.Manifest) (bool, error) {
	return m.Digest == b.sparse, nil
}

// unreadable is a blob store whose disk fails.
type unreadable struct{ blob.Store }

func (unreadable) Open(context.Context, string) (blob.Reader, error) {
	return nil, errors.New("input/output error")
}

var _ = Describe("a check", func() {
	var (
		c       *core.Core
		meta    *broken
		blobs   *fs.Store
		damages []string
		options fsck.Options
	)
	BeforeEach(func() {
		directory, err := fs.Lock(GinkgoT().TempDir())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(directory.Release)
		store, err := sqlite.Open(ctx, filepath.Join(directory.Path(), "tidelock.db"), quiet)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		blobs, err = fs.Open(directory)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(blobs.Close)
		c = core.New(store, core.Options{Logger: quiet})
		meta = &broken{Core: c, lost: map[digest.Digest]bool{}, content: map[digest.Digest]string{}}
		damages = nil
		options = fsck.Options{Core: meta, Blobs: blobs, Damage: func(d fsck.Damage) error {
			text := d.Repository + ":" + d.Tag
			if d.Locked {
				text += " (locked)"
			}
			damages = append(damages, fmt.Sprintf("%s %s: %s", text, d.Digest, d.Problem))
			return nil
		}}
	})
	upload := func(content string) domain.Blob {
		GinkgoHelper()
		u, err := blobs.Append(ctx, blobs.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader(content), nil)
		Expect(err).NotTo(HaveOccurred())
		stored, err := blobs.Commit(ctx, u, digest.FromString(content))
		Expect(err).NotTo(HaveOccurred())
		_, err = c.LinkBlob(ctx, alice, app, stored, core.CreateOrganization)
		Expect(err).NotTo(HaveOccurred())
		return stored
	}
	put := func(tag, content string, m domain.Manifest) digest.Digest {
		GinkgoHelper()
		m.Digest, m.MediaType, m.Size, m.Content = digest.FromString(content), ocispec.MediaTypeImageManifest, int64(len(content)), []byte(content)
		ref := domain.Reference{Tag: tag}
		if tag == "" {
			ref.Digest = m.Digest
		}
		_, err := c.PutManifest(ctx, alice, app, core.Push{Reference: ref, Manifest: m})
		Expect(err).NotTo(HaveOccurred())
		return m.Digest
	}
	// image pushes an image of one config and layers, with a subject if there is one.
	image := func(tag string, subject digest.Digest, config domain.Blob, layers ...domain.Blob) digest.Digest {
		GinkgoHelper()
		m := domain.Manifest{Subject: subject, Blobs: []digest.Digest{config.Digest}}
		var list []string
		for _, layer := range layers {
			m.Blobs = append(m.Blobs, layer.Digest)
			list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q}`, layer.Digest))
		}
		return put(tag, fmt.Sprintf(`{"tag":%q,"subject":%q,"config":{"digest":%q},"layers":[%s]}`, tag, subject, config.Digest, strings.Join(list, ",")), m)
	}
	index := func(tag string, children ...digest.Digest) digest.Digest {
		GinkgoHelper()
		var list []string
		for _, child := range children {
			list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q}`, ocispec.MediaTypeImageManifest, child))
		}
		return put(tag, `{"manifests":[`+strings.Join(list, ",")+`]}`, domain.Manifest{Children: children})
	}
	check := func() fsck.Summary {
		GinkgoHelper()
		summary, err := fsck.Check(ctx, options)
		Expect(err).NotTo(HaveOccurred())
		Expect(summary.Damages).To(Equal(int64(len(damages))))
		return summary
	}
	file := func(b domain.Blob) string {
		GinkgoHelper()
		reader, err := blobs.Open(ctx, b.Key)
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = reader.Close() }()
		return reader.(interface{ Name() string }).Name()
	}

	It("finds nothing where all is well, and reads each blob once", func() {
		config, layer := upload("{}"), upload("layer")
		child := image("", "", config, layer)
		index("multi", child)
		image("v1", "", config, layer)
		image("", digest.FromString("nothing"), config) // no tag leads to it
		Expect(check()).To(Equal(fsck.Summary{Tags: 2, Blobs: 2, Bytes: 7}))
	})

	It("says which tags are damaged, the locked ones first", func() {
		config := upload("{}")
		gone, short, wrong, unlinked := upload("gone"), upload("short"), upload("wrong"), upload("unlinked")
		for tag, layer := range map[string]domain.Blob{"a": gone, "b": short, "c": wrong, "d": unlinked} {
			image(tag, "", config, layer)
		}
		yes := true
		Expect(c.ChangeTag(ctx, alice, app, "c", core.TagChange{Immutable: &yes})).To(Succeed())
		Expect(os.Remove(file(gone))).To(Succeed())
		Expect(os.Truncate(file(short), 3)).To(Succeed())
		Expect(os.WriteFile(file(wrong), []byte("WRONG"), 0o600)).To(Succeed())
		meta.lost[unlinked.Digest] = true
		summary := check()
		Expect(damages).To(Equal([]string{
			"team-a/app:c (locked) " + wrong.Digest.String() + ": the bytes of the blob have the digest " + digest.FromString("WRONG").String() + " (key " + wrong.Key + ")",
			"team-a/app:a " + gone.Digest.String() + ": the bytes of the blob are missing (key " + gone.Key + ")",
			"team-a/app:b " + short.Digest.String() + ": the blob has 3 bytes instead of 5 (key " + short.Key + ")",
			"team-a/app:d " + unlinked.Digest.String() + ": the blob is missing",
		}))
		Expect(summary.DamagedTags).To(Equal(int64(4)))
		Expect(summary.Locked).To(Equal(int64(1)))
	})

	It("names every tag that a damaged blob concerns", func() {
		config := upload("{}")
		image("v1", "", config)
		image("v2", "", config)
		Expect(os.WriteFile(file(config), []byte("[]"), 0o600)).To(Succeed())
		summary := check()
		Expect(damages).To(HaveLen(2))
		Expect(damages[1]).To(HavePrefix("team-a/app:v2 " + config.Digest.String()))
		Expect(summary.Blobs).To(Equal(int64(1)), "it is read once all the same")
	})

	It("looks at children and referrers, at any distance", func() {
		config, layer := upload("{}"), upload("layer")
		child := image("", "", config)
		outer := index("multi", index("", child))
		signature := image("", child, config, layer)
		meta.lost[child] = true
		Expect(os.Remove(file(layer))).To(Succeed())
		check()
		Expect(damages).To(Equal([]string{"team-a/app:multi " + child.String() + ": the manifest is missing"}), "%s cannot be found without it", signature)

		delete(meta.lost, child)
		damages = nil
		check()
		Expect(damages).To(Equal([]string{"team-a/app:multi " + layer.Digest.String() + ": the bytes of the blob are missing (key " + layer.Key + ")"}))

		damages = nil
		meta.content[outer] = "{}"
		check()
		Expect(damages).To(Equal([]string{"team-a/app:multi " + outer.String() + ": the manifest has the digest " + digest.FromString("{}").String()}))
	})

	It("takes what a sparse index lacks for no damage", func() {
		config := upload("{}")
		child := image("", "", config)
		sparse := index("multi", child)
		meta.lost[child] = true
		meta.sparse = sparse
		check()
		Expect(damages).To(BeEmpty())
		delete(meta.lost, child)
		Expect(os.Remove(file(config))).To(Succeed())
		check()
		Expect(damages).To(HaveLen(1), "what it has is looked at")
	})

	It("takes layers that clients fetch from elsewhere for no damage, and what an index has beside manifests for blobs", func() {
		upload("{}")
		put("foreign", fmt.Sprintf(`{"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":%q}]}`, digest.FromString("elsewhere")), domain.Manifest{})
		cache := upload("cache")
		put("cache", fmt.Sprintf(`{"manifests":[{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":%q}]}`, cache.Digest), domain.Manifest{Blobs: []digest.Digest{cache.Digest}})
		check()
		Expect(damages).To(BeEmpty())
		Expect(os.Remove(file(cache))).To(Succeed())
		check()
		Expect(damages).To(HaveLen(1))
	})

	It("goes on where bytes cannot be read, and says so", func() {
		config := upload("{}")
		image("v1", "", config)
		options.Blobs = unreadable{}
		check()
		Expect(damages).To(Equal([]string{"team-a/app:v1 " + config.Digest.String() + ": the bytes of the blob cannot be read: input/output error (key " + config.Key + ")"}))
	})

	It("ends with its context", func() {
		image("v1", "", upload("{}"))
		over, cancel := context.WithCancel(ctx)
		cancel()
		_, err := fsck.Check(over, options)
		Expect(err).To(MatchError(context.Canceled))
	})
})
