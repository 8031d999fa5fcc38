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

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

// DescribeStore adds the suite to the calling package's specs. Each spec opens a store of its own.
func DescribeStore(text string, open func() blob.Store) bool {
	return ginkgo.Describe(text, func() {
		var t *specs
		ginkgo.BeforeEach(func() { t = &specs{Store: open(), ctx: context.Background()} })

		ginkgo.It("gives back what was stored, for both digests and any size", func() {
			for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				for _, size := range []int{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 3<<20 + 7} {
					content := random(size)
					stored := t.put(algorithm.FromBytes(content), content)
					gomega.Expect(stored.Size).To(gomega.BeEquivalentTo(size))
					gomega.Expect(t.get(stored.Key)).To(gomega.Equal(content))
				}
			}
		})

		ginkgo.It("gives each upload of one digest a key of its own", func() {
			content := random(100)
			d := digest.FromBytes(content)
			first, second := t.put(d, content), t.put(d, content)
			gomega.Expect(first.Key).To(gomega.HavePrefix(d.String() + "."))
			gomega.Expect(second.Key).NotTo(gomega.Equal(first.Key))

			gomega.Expect(t.Remove(t.ctx, first.Key)).To(gomega.Succeed())
			gomega.Expect(t.get(second.Key)).To(gomega.Equal(content))
			_, err := t.Open(t.ctx, first.Key)
			gomega.Expect(err).To(gomega.MatchError(blob.ErrUnknown))
			gomega.Expect(t.Remove(t.ctx, first.Key)).To(gomega.Succeed(), "removing again")
		})

		ginkgo.It("takes an upload in pieces and refuses a piece at another offset", func() {
			id := t.begin()
			size, err := t.Append(t.ctx, id, 0, strings.NewReader("tide"))
			gomega.Expect(size, err).To(gomega.BeEquivalentTo(4))
			for _, offset := range []int64{0, 3, 5} {
				size, err = t.Append(t.ctx, id, offset, strings.NewReader("xx"))
				gomega.Expect(err).To(gomega.MatchError(blob.ErrOffset))
				gomega.Expect(size).To(gomega.BeEquivalentTo(4))
			}
			gomega.Expect(t.Append(t.ctx, id, 4, strings.NewReader("lo"))).To(gomega.BeEquivalentTo(6))
			gomega.Expect(t.Append(t.ctx, id, blob.End, strings.NewReader("ck"))).To(gomega.BeEquivalentTo(8))
			gomega.Expect(t.Size(t.ctx, id)).To(gomega.BeEquivalentTo(8))

			stored, err := t.Commit(t.ctx, id, digest.FromString("tidelock"))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(t.get(stored.Key)).To(gomega.BeEquivalentTo("tidelock"))
		})

		ginkgo.It("keeps what a broken reader gave, so that the upload can go on", func() {
			content := random(700 << 10)
			id := t.begin()
			broken := errors.New("connection reset")
			size, err := t.Append(t.ctx, id, 0, io.MultiReader(bytes.NewReader(content[:600<<10]), iotest.ErrReader(broken)))
			gomega.Expect(err).To(gomega.MatchError(broken))
			gomega.Expect(size).To(gomega.BeEquivalentTo(600 << 10))
			size, err = t.Append(t.ctx, id, size, io.MultiReader(bytes.NewReader(content[600<<10:650<<10]), iotest.ErrReader(io.ErrUnexpectedEOF)))
			gomega.Expect(err).To(gomega.MatchError(io.ErrUnexpectedEOF))
			gomega.Expect(t.Append(t.ctx, id, size, bytes.NewReader(content[size:]))).To(gomega.BeEquivalentTo(len(content)))
			stored, err := t.Commit(t.ctx, id, digest.FromBytes(content))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(t.get(stored.Key)).To(gomega.Equal(content))
		})

		ginkgo.DescribeTable("refuses another digest and leaves the upload as it was", func(algorithm digest.Algorithm) {
			id := t.begin()
			gomega.Expect(t.Append(t.ctx, id, 0, strings.NewReader("tide"))).To(gomega.BeEquivalentTo(4))
			_, err := t.Commit(t.ctx, id, algorithm.FromString("other"))
			gomega.Expect(err).To(gomega.MatchError(blob.ErrMismatch))
			_, err = t.Commit(t.ctx, id, algorithm.FromString("tide"))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
		},
			ginkgo.Entry("sha256", digest.SHA256),
			ginkgo.Entry("sha512", digest.SHA512),
		)

		ginkgo.It("knows no upload that was never begun, is committed or cancelled", func() {
			committed, cancelled := t.begin(), t.begin()
			_, err := t.Commit(t.ctx, committed, digest.FromString(""))
			gomega.Expect(err).NotTo(gomega.HaveOccurred())
			gomega.Expect(t.Cancel(t.ctx, cancelled)).To(gomega.Succeed())
			for _, id := range []string{committed, cancelled, blob.NewUploadID(), "../../lock"} {
				_, err := t.Append(t.ctx, id, 0, strings.NewReader("x"))
				gomega.Expect(err).To(gomega.MatchError(blob.ErrUnknown))
				_, err = t.Size(t.ctx, id)
				gomega.Expect(err).To(gomega.MatchError(blob.ErrUnknown))
				_, err = t.Commit(t.ctx, id, digest.FromString(""))
				gomega.Expect(err).To(gomega.MatchError(blob.ErrUnknown))
				gomega.Expect(t.Cancel(t.ctx, id)).To(gomega.MatchError(blob.ErrUnknown))
			}
		})

		ginkgo.It("lets one call at a time write an upload", func() {
			id := t.begin()
			body, feed := io.Pipe()
			done := make(chan error)
			go func() {
				_, err := t.Append(t.ctx, id, 0, body)
				done <- err
			}()
			_, err := feed.Write([]byte("tide")) // returns when Append has read it
			gomega.Expect(err).NotTo(gomega.HaveOccurred())

			_, err = t.Append(t.ctx, id, blob.End, strings.NewReader("x"))
			gomega.Expect(err).To(gomega.MatchError(blob.ErrBusy))
			_, err = t.Commit(t.ctx, id, digest.FromString("tide"))
			gomega.Expect(err).To(gomega.MatchError(blob.ErrBusy))
			gomega.Expect(t.Cancel(t.ctx, id)).To(gomega.MatchError(blob.ErrBusy))

			gomega.Expect(feed.Close()).To(gomega.Succeed())
			gomega.Expect(<-done).To(gomega.Succeed())
			gomega.Expect(t.Size(t.ctx, id)).To(gomega.BeEquivalentTo(4))
		})

		ginkgo.It("stops writing when the request ends", func() {
			ctx, cancel := context.WithCancel(t.ctx)
			id := t.begin()
			_, err := t.Append(ctx, id, 0, io.MultiReader(bytes.NewReader(random(256<<10)), readerFunc(func(p []byte) (int, error) {
				cancel()
				return len(p), nil
			})))
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

func (t *specs) begin() string {
	ginkgo.GinkgoHelper()
	id := blob.NewUploadID()
	gomega.Expect(t.Begin(t.ctx, id)).To(gomega.Succeed())
	return id
}

func (t *specs) put(d digest.Digest, content []byte) domain.Blob {
	ginkgo.GinkgoHelper()
	id := t.begin()
	gomega.Expect(t.Append(t.ctx, id, 0, bytes.NewReader(content))).To(gomega.BeEquivalentTo(len(content)))
	stored, err := t.Commit(t.ctx, id, d)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	gomega.Expect(stored.Digest).To(gomega.Equal(d))
	return stored
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
