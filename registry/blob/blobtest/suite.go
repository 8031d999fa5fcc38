// Package blobtest says how a blob.Store behaves. Every engine passes the same suite.
package blobtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing/iotest"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

// DescribeStore adds the suite to the calling package's specs. Each spec opens a store of its own; reopen returns what
// another process sees of the same bytes, after the first has gone.
func DescribeStore(text string, open func() blob.Store, reopen func(blob.Store) blob.Store) bool {
	return ginkgo.Describe(text, func() {
		var t *specs
		ginkgo.BeforeEach(func() { t = &specs{Store: open(), ctx: context.Background()} })

		ginkgo.It("gives back what was stored, for both digests and any size", func() {
			for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				for _, size := range []int{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 3<<20 + 7, 5 << 20, 5<<20 + 1, 17<<20 + 3} {
					content := random(size)
					stored := t.put(algorithm.FromBytes(content), content)
					gomega.Expect(stored.Size).To(gomega.BeEquivalentTo(size))
					gomega.Expect(bytes.Equal(t.get(stored.Key), content)).To(gomega.BeTrue(), "%d bytes", size)
				}
			}
		})

		ginkgo.It("gives each upload of one digest a key of its own", func() {
			for _, size := range []int{100, 6 << 20} {
				content := random(size)
				d := digest.FromBytes(content)
				first, second := t.put(d, content), t.put(d, content)
				gomega.Expect(first.Key).To(gomega.HavePrefix(d.String() + "."))
				gomega.Expect(second.Key).NotTo(gomega.Equal(first.Key))

				gomega.Expect(t.Remove(t.ctx, first.Key)).To(gomega.Succeed())
				gomega.Expect(bytes.Equal(t.get(second.Key), content)).To(gomega.BeTrue())
				_, err := t.Open(t.ctx, first.Key)
				gomega.Expect(err).To(gomega.MatchError(blob.ErrUnknown))
				gomega.Expect(t.Remove(t.ctx, first.Key)).To(gomega.Succeed(), "removing again")
			}
		})

		ginkgo.It("lists the keys that have bytes, with their times, and no open upload", func() {
			gomega.Expect(t.keys()).To(gomega.BeEmpty())
			begin := time.Now().Add(-2 * time.Second) // stores may know whole seconds only
			small, large := t.put(digest.FromString("tide"), []byte("tide")), random(6<<20)
			stored := t.put(digest.SHA512.FromBytes(large), large)
			t.append(t.begin(), bytes.NewReader(large))
			gone := t.put(digest.FromString("lock"), []byte("lock"))
			gomega.Expect(t.Remove(t.ctx, gone.Key)).To(gomega.Succeed())

			keys := t.keys()
			gomega.Expect(keys).To(gomega.And(gomega.HaveLen(2), gomega.HaveKey(small.Key), gomega.HaveKey(stored.Key)))
			for _, modified := range keys {
				gomega.Expect(modified).To(gomega.And(gomega.BeTemporally(">=", begin), gomega.BeTemporally("<=", time.Now().Add(2*time.Second))))
			}
			enough := errors.New("enough")
			gomega.Expect(t.Keys(t.ctx, func(string, time.Time) error { return enough })).To(gomega.MatchError(enough))
		})

		ginkgo.DescribeTable("takes an upload in pieces, here and in another process", func(elsewhere bool, sizes ...int) {
			u, content := t.begin(), []byte(nil)
			for _, size := range sizes {
				piece := random(size)
				content = append(content, piece...)
				u = t.append(u, bytes.NewReader(piece))
				gomega.Expect(u.Size).To(gomega.BeEquivalentTo(len(content)))
				if elsewhere {
					t.Store = reopen(t.Store)
				}
			}
			stored, err := t.Commit(t.ctx, u, digest.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(bytes.Equal(t.get(stored.Key), content)).To(gomega.BeTrue())
		},
			ginkgo.Entry("small ones", false, 4, 2, 2),
			ginkgo.Entry("small ones elsewhere", true, 4, 2, 2),
			ginkgo.Entry("around 5 MiB", false, 5<<20-1, 1, 5<<20, 1, 6<<20, 7),
			ginkgo.Entry("around 5 MiB elsewhere", true, 5<<20-1, 1, 5<<20, 1, 6<<20, 7),
		)

		ginkgo.It("keeps what a broken reader gave, so that the upload can go on", func() {
			content := random(9 << 20)
			broken := errors.New("connection reset")
			u, err := t.Append(t.ctx, t.begin(), io.MultiReader(bytes.NewReader(content[:600<<10]), iotest.ErrReader(broken)), saved)
			gomega.Expect(err).To(gomega.MatchError(broken))
			gomega.Expect(u.Size).To(gomega.BeEquivalentTo(600 << 10))
			u, err = t.Append(t.ctx, u, io.MultiReader(bytes.NewReader(content[600<<10:7<<20]), iotest.ErrReader(io.ErrUnexpectedEOF)), saved)
			gomega.Expect(err).To(gomega.MatchError(io.ErrUnexpectedEOF))
			gomega.Expect(u.Size).To(gomega.BeEquivalentTo(7 << 20))
			u = t.append(u, bytes.NewReader(content[u.Size:]))
			stored, err := t.Commit(t.ctx, u, digest.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(bytes.Equal(t.get(stored.Key), content)).To(gomega.BeTrue())
		})

		ginkgo.It("goes on from an older state of an upload", func() {
			old := t.append(t.begin(), strings.NewReader("tide"))
			t.append(old, strings.NewReader("wash")) // which was never recorded
			u := t.append(old, strings.NewReader("lock"))
			stored, err := t.Commit(t.ctx, u, digest.FromString("tidelock"))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(t.get(stored.Key)).To(gomega.BeEquivalentTo("tidelock"))
		})

		ginkgo.DescribeTable("refuses another digest, and takes the right one after that", func(algorithm digest.Algorithm, size int) {
			content := random(size)
			u := t.append(t.begin(), bytes.NewReader(content))
			_, err := t.Commit(t.ctx, u, algorithm.FromString("other"))
			gomega.Expect(err).To(gomega.MatchError(blob.ErrMismatch))
			stored, err := t.Commit(t.ctx, u, algorithm.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(bytes.Equal(t.get(stored.Key), content)).To(gomega.BeTrue())
			gomega.Expect(t.keys()).To(gomega.HaveLen(1))
		},
			ginkgo.Entry("sha256", digest.SHA256, 4),
			ginkgo.Entry("sha512", digest.SHA512, 4),
			ginkgo.Entry("sha256 of 6 MiB", digest.SHA256, 6<<20),
			ginkgo.Entry("sha512 of 6 MiB", digest.SHA512, 6<<20),
		)

		ginkgo.DescribeTable("makes the same blob again when a commit is repeated, and nothing of other bytes", func(size int) {
			content := random(size)
			u := t.append(t.begin(), bytes.NewReader(content))
			_, err := t.Commit(t.ctx, u, digest.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			t.Store = reopen(t.Store)
			stored, err := t.Commit(t.ctx, u, digest.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(bytes.Equal(t.get(stored.Key), content)).To(gomega.BeTrue())
		},
			ginkgo.Entry("nothing", 0),
			ginkgo.Entry("4 bytes", 4),
			ginkgo.Entry("6 MiB", 6<<20),
			ginkgo.Entry("11 MiB", 11<<20),
		)

		ginkgo.DescribeTable("keeps the hash of either algorithm while an upload moves", func(announced, used digest.Algorithm) {
			content := random(7 << 20)
			u := t.Begin(blob.NewUploadID(), announced)
			for _, piece := range [][]byte{content[:1<<20], content[1<<20 : 6<<20], content[6<<20:]} {
				u = t.append(u, bytes.NewReader(piece))
				t.Store = reopen(t.Store)
			}
			stored, err := t.Commit(t.ctx, u, used.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(bytes.Equal(t.get(stored.Key), content)).To(gomega.BeTrue())
		},
			ginkgo.Entry(nil, digest.SHA256, digest.SHA256),
			ginkgo.Entry(nil, digest.SHA256, digest.SHA512),
			ginkgo.Entry(nil, digest.SHA512, digest.SHA512),
			ginkgo.Entry(nil, digest.SHA512, digest.SHA256),
		)

		ginkgo.DescribeTable("drops the bytes of an upload that is cancelled", func(size int) {
			u := t.append(t.begin(), bytes.NewReader(random(size)))
			gomega.Expect(t.Cancel(t.ctx, u)).To(gomega.Succeed())
			gomega.Expect(t.Cancel(t.ctx, u)).To(gomega.Succeed(), "cancelling again")
			gomega.Expect(t.keys()).To(gomega.BeEmpty())
		},
			ginkgo.Entry("nothing", 0),
			ginkgo.Entry("4 bytes", 4),
			ginkgo.Entry("6 MiB", 6<<20),
		)

		ginkgo.It("knows an upload no more whose bytes are gone", func() {
			u := t.append(t.begin(), bytes.NewReader(random(6<<20)))
			gomega.Expect(t.Cancel(t.ctx, u)).To(gomega.Succeed())
			_, err := t.Append(t.ctx, u, bytes.NewReader(random(6<<20)), saved)
			gomega.Expect(err).To(gomega.MatchError(blob.ErrUnknown))
			_, err = t.Commit(t.ctx, u, digest.FromString(""))
			gomega.Expect(err).To(gomega.Or(gomega.MatchError(blob.ErrUnknown), gomega.MatchError(blob.ErrMismatch)))
		})

		ginkgo.It("stops writing when the request ends", func() {
			ctx, cancel := context.WithCancel(t.ctx)
			defer cancel()
			_, err := t.Append(ctx, t.begin(), io.MultiReader(bytes.NewReader(random(256<<10)), readerFunc(func(p []byte) (int, error) {
				cancel()
				return len(p), nil
			})), saved)
			gomega.Expect(err).To(gomega.MatchError(context.Canceled))
		})

		ginkgo.It("keeps many uploads of the same and of other digests apart", func() {
			var all sync.WaitGroup
			for i := range 16 {
				all.Go(func() {
					defer ginkgo.GinkgoRecover()
					content := bytes.Repeat([]byte(fmt.Sprint(i%4)), 300<<10+i%4)
					stored := t.put(digest.FromBytes(content), content)
					gomega.Expect(t.get(stored.Key)).To(gomega.Equal(content))
				})
			}
			all.Wait()
		})

		ginkgo.It("reads from any position", func() {
			stored := t.put(digest.FromString("tidelock"), []byte("tidelock"))
			r, err := t.Open(t.ctx, stored.Key)
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(r.Size()).To(gomega.BeEquivalentTo(8))
			gomega.Expect(r.Seek(4, io.SeekStart)).To(gomega.BeEquivalentTo(4))
			gomega.Expect(io.ReadAll(r)).To(gomega.BeEquivalentTo("lock"))
			gomega.Expect(r.Close()).To(gomega.Succeed())
		})

		ginkgo.DescribeTable("refuses what is no key", func(key string) {
			_, err := t.Open(t.ctx, key)
			gomega.Expect(err).To(gomega.HaveOccurred())
			gomega.Expect(t.Remove(t.ctx, key)).NotTo(gomega.Succeed())
		},
			ginkgo.Entry("nothing", ""),
			ginkgo.Entry("a digest without an id", digest.FromString("").String()),
			ginkgo.Entry("an id that climbs", digest.FromString("").String()+".../../../lock"),
			ginkgo.Entry("a digest that climbs", "sha256:../../../lock."+blob.NewUploadID()),
			ginkgo.Entry("another algorithm", "sha384:"+strings.Repeat("0", 96)+"."+blob.NewUploadID()),
		)
	})
}

// specs is the store of one spec with short forms of what every spec does.
type specs struct {
	blob.Store
	ctx context.Context
}

// saved is for specs in which every process lives.
func saved(domain.Upload) error { return nil }

func (t *specs) begin() domain.Upload { return t.Begin(blob.NewUploadID(), digest.SHA256) }

func (t *specs) append(u domain.Upload, r io.Reader) domain.Upload {
	ginkgo.GinkgoHelper()
	u, err := t.Append(t.ctx, u, r, saved)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	return u
}

func (t *specs) put(d digest.Digest, content []byte) domain.Blob {
	ginkgo.GinkgoHelper()
	u := t.append(t.Begin(blob.NewUploadID(), d.Algorithm()), bytes.NewReader(content))
	gomega.Expect(u.Size).To(gomega.BeEquivalentTo(len(content)))
	stored, err := t.Commit(t.ctx, u, d)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	gomega.Expect(stored.Digest).To(gomega.Equal(d))
	return stored
}

func (t *specs) keys() map[string]time.Time {
	ginkgo.GinkgoHelper()
	keys := map[string]time.Time{}
	gomega.Expect(t.Keys(t.ctx, func(key string, modified time.Time) error {
		gomega.Expect(keys).NotTo(gomega.HaveKey(key))
		keys[key] = modified
		return nil
	})).To(gomega.Succeed())
	return keys
}

func (t *specs) get(key string) []byte {
	ginkgo.GinkgoHelper()
	r, err := t.Open(t.ctx, key)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	content, err := io.ReadAll(r)
	gomega.Expect(errors.Join(err, r.Close())).To(gomega.Succeed())
	return content
}

func random(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.Read(content) // never fails
	return content
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
