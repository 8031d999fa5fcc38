package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/domain"
)

// content is bytes that are other ones for each seed.
func content(size int, seed byte) []byte {
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = byte(i>>8) ^ byte(i) ^ seed
	}
	return bytes
}

func read(store *Store, key string) []byte {
	GinkgoHelper()
	r, err := store.Open(context.Background(), key)
	Expect(err).NotTo(HaveOccurred())
	got, err := io.ReadAll(r)
	Expect(errors.Join(err, r.Close())).To(Succeed())
	return got
}

var _ = Describe("an upload in S3", func() {
	ctx := context.Background()
	kept := func(domain.Upload) error { return nil }
	var store *Store
	BeforeEach(func() { store = connect(server.Address, server.Bucket(), 0) })
	open := func() int {
		n := 0
		for info := range store.client.ListIncompleteUploads(ctx, store.bucket, store.prefix, true) {
			Expect(info.Err).NotTo(HaveOccurred())
			n++
		}
		return n
	}
	appended := func(u domain.Upload, bytesOf []byte) domain.Upload {
		GinkgoHelper()
		u, err := store.Append(ctx, u, bytes.NewReader(bytesOf), kept)
		Expect(err).NotTo(HaveOccurred())
		return u
	}

	It("says how far it is safe before it gets a part, and after each", func() {
		var sizes []int64
		var first domain.Upload
		u, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), bytes.NewReader(content(11<<20, 1)), func(u domain.Upload) error {
			if sizes = append(sizes, u.Size); len(sizes) == 1 {
				first = u
			}
			return nil
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(u.Size).To(BeEquivalentTo(11 << 20))
		Expect(sizes).To(Equal([]int64{0, 5 << 20, 10 << 20}))
		// Who knows no more than what was saved first can cancel it all.
		Expect(open()).To(Equal(1))
		Expect(store.Cancel(ctx, first)).To(Succeed())
		Expect(open()).To(BeZero())
	})

	It("ends when it cannot be recorded, and leaves no multipart upload that nobody knows", func() {
		stop := errors.New("taken over")
		_, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), bytes.NewReader(content(11<<20, 1)), func(domain.Upload) error { return stop })
		Expect(err).To(MatchError(stop))
		Expect(open()).To(BeZero())
	})

	It("is not spoilt by parts of a writer that was taken over", func() {
		all := content(16<<20, 1)
		saved := appended(store.Begin(blob.NewUploadID(), digest.SHA256), all[:5<<20])
		stale := saved
		taken := saved
		taken.Interrupted = true
		var before []int
		taken, err := store.Append(ctx, taken, bytes.NewReader(all[5<<20:11<<20]), func(u domain.Upload) error {
			st, _, err := decode(u)
			before = append(before, st.Next)
			return err
		})
		Expect(err).NotTo(HaveOccurred())
		Expect(before).To(Equal([]int{3, 4}), "the number that it skips is recorded before it sends anything")
		appended(stale, content(6<<20, 2)) // sends its part 2 and wakes up too late
		taken = appended(taken, all[11<<20:])
		stored, err := store.Commit(ctx, taken, digest.FromBytes(all))
		Expect(err).NotTo(HaveOccurred())
		Expect(bytes.Equal(read(store, stored.Key), all)).To(BeTrue())

		_, err = store.Commit(ctx, appended(stale, nil), digest.FromBytes(all[:5<<20]))
		Expect(err).To(MatchError(blob.ErrUnknown), "the stale writer's commit finds other bytes")
		Expect(bytes.Equal(read(store, stored.Key), all)).To(BeTrue())
	})

	It("does not take the bytes of a writer that was taken over for its own", func() {
		all := content(16<<20, 5)
		saved := appended(store.Begin(blob.NewUploadID(), digest.SHA256), all[:6<<20])
		taken := appended(saved, all[6<<20:])
		_, err := store.Commit(ctx, saved, digest.FromBytes(all[:6<<20])) // too late, but before the other
		Expect(err).NotTo(HaveOccurred())
		_, err = store.Commit(ctx, taken, digest.FromBytes(all))
		Expect(err).To(MatchError(blob.ErrUnknown))
	})

	It("is sure of its bytes without reading them", func() {
		for _, size := range []int{10 << 20, 11 << 20} {
			st, _, err := decode(appended(store.Begin(blob.NewUploadID(), digest.SHA256), content(size, 6)))
			Expect(err).NotTo(HaveOccurred())
			sure, err := store.complete(ctx, st)
			Expect(sure, err).To(BeTrue())
		}
	})

	It("does not lose bytes to the other key of an object", func() {
		all := content(6<<20, 3)
		u := appended(store.Begin(blob.NewUploadID(), digest.SHA256), all)
		first, err := store.Commit(ctx, u, digest.FromBytes(all))
		Expect(err).NotTo(HaveOccurred())
		second, err := store.Commit(ctx, u, digest.SHA512.FromBytes(all))
		Expect(err).NotTo(HaveOccurred())
		Expect(store.Remove(ctx, first.Key)).To(Succeed())
		Expect(bytes.Equal(read(store, second.Key), all)).To(BeTrue())
		Expect(store.Remove(ctx, second.Key)).To(Succeed())
		_, err = store.Open(ctx, second.Key)
		Expect(err).To(MatchError(blob.ErrUnknown))
	})

	It("refuses what is no state of its own", func() {
		for _, text := range [][]byte{nil, []byte("sha256"), {0, 0, 0, 9, '{', '}'}, {0, 0, 0, 2, '{', '}'}} {
			_, err := store.Append(ctx, domain.Upload{ID: "x", State: text}, bytes.NewReader(nil), kept)
			Expect(err).To(MatchError(ContainSubstring("upload x has no state of an S3 store")))
		}
	})

	It("says that it is too large when the numbers of parts are used up", func() {
		u := store.Begin(blob.NewUploadID(), digest.SHA256)
		st, _, err := decode(u)
		Expect(err).NotTo(HaveOccurred())
		st.Next = maxParts + 1
		u.State, err = st.encode()
		Expect(err).NotTo(HaveOccurred())
		_, err = store.Append(ctx, u, bytes.NewReader([]byte("x")), kept)
		Expect(err).To(MatchError(blob.ErrTooLarge))
	})

	It("waits for memory, and not for ever", func() {
		store := connect(server.Address, store.bucket, 100*time.Millisecond)
		var reading atomic.Int64
		release := make(chan struct{})
		var all sync.WaitGroup
		for range memoryLimit / minPart {
			all.Go(func() {
				defer GinkgoRecover()
				_, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), readerFunc(func([]byte) (int, error) {
					reading.Add(1)
					<-release
					return 0, io.EOF
				}), kept)
				Expect(err).NotTo(HaveOccurred())
			})
		}
		Eventually(reading.Load).WithTimeout(10 * time.Second).Should(BeEquivalentTo(64))
		_, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), bytes.NewReader([]byte("x")), kept)
		Expect(err).To(MatchError("too many parts of uploads are in memory"))
		close(release)
		all.Wait()
		appended(store.Begin(blob.NewUploadID(), digest.SHA256), []byte("x"))
	})

	It("has room for 1 TiB in 10,000 parts that S3 takes", func() {
		total := 0
		for number := 1; number <= maxParts; number++ {
			size := partSize(number)
			Expect(size).To(And(BeNumerically(">=", 5<<20), BeNumerically("<=", memoryLimit)))
			total += size
		}
		Expect(total).To(BeNumerically(">", 1<<40))
	})
})

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

var _ = Describe("reading from S3", func() {
	It("goes on where a connection broke, and gives up when S3 is silent", func() {
		ctx, proxy, bucket := context.Background(), s3test.NewProxy(GinkgoT(), server), server.Bucket()
		store := connect(proxy.Address, bucket, 300*time.Millisecond)
		all := content(6<<20, 4)
		stored, err := store.put(ctx, all, digest.FromBytes(all))
		Expect(err).NotTo(HaveOccurred())
		r, err := store.Open(ctx, stored.Key)
		Expect(err).NotTo(HaveOccurred())
		half := make([]byte, 1<<20)
		_, err = io.ReadFull(r, half)
		Expect(err).NotTo(HaveOccurred())
		proxy.Refuse()
		proxy.Pass()
		rest, err := io.ReadAll(r)
		Expect(err).NotTo(HaveOccurred())
		Expect(bytes.Equal(slices.Concat(half, rest), all)).To(BeTrue())

		Expect(r.Seek(0, io.SeekStart)).To(BeZero())
		proxy.Stall()
		_, err = r.Read(half)
		Expect(err).To(HaveOccurred())
		proxy.Pass()
		Expect(r.Close()).To(Succeed())
	})
})

var _ = Describe("opening a bucket", func() {
	options := func(change func(*Options)) Options {
		o := Options{Location: Location{Bucket: "none", Endpoint: server.Address, Region: "us-east-1"}, Credentials: s3test.Credentials(), Timeout: time.Second}
		change(&o)
		return o
	}
	It("says what is wrong with it", func() {
		_, err := Open(context.Background(), options(func(*Options) {}))
		Expect(err).To(MatchError(fmt.Sprintf("blob store: there is no bucket none at %s; make it first", server.Address)))
		bucket := server.Bucket()
		GinkgoT().Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		GinkgoT().Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
		_, err = Open(context.Background(), options(func(o *Options) { o.Bucket, o.Credentials = bucket, nil }))
		Expect(err).To(MatchError(HavePrefix(fmt.Sprintf("blob store: bucket %s at %s: ", bucket, server.Address))))
		GinkgoT().Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		_, err = Open(context.Background(), options(func(o *Options) { o.Bucket, o.Credentials = bucket, nil }))
		Expect(err).NotTo(HaveOccurred())
	})
	It("does not need the server to be there", func() {
		proxy := s3test.NewProxy(GinkgoT(), server)
		proxy.Refuse()
		_, err := Open(context.Background(), options(func(o *Options) { o.Endpoint = proxy.Address }))
		Expect(err).NotTo(HaveOccurred())
	})
})

var _ = DescribeTable("a location", func(text string, want Location) {
	Expect(ParseLocation(text)).To(Equal(want))
},
	Entry(nil, "s3://blobs", Location{Bucket: "blobs", Endpoint: "s3.us-east-1.amazonaws.com", TLS: true, Region: "us-east-1"}),
	Entry(nil, "s3://blobs/a/b/?region=eu-central-1", Location{Bucket: "blobs", Prefix: "a/b/", Endpoint: "s3.eu-central-1.amazonaws.com", TLS: true, Region: "eu-central-1"}),
	Entry(nil, "s3://blobs?endpoint=http://minio:9000&path-style=true", Location{Bucket: "blobs", Endpoint: "minio:9000", Region: "us-east-1", Lookup: minio.BucketLookupPath}),
	Entry(nil, "s3://blobs?endpoint=https://s3.example&path-style=false", Location{Bucket: "blobs", Endpoint: "s3.example", TLS: true, Region: "us-east-1", Lookup: minio.BucketLookupDNS}),
)

var _ = DescribeTable("no location", func(text, message string) {
	_, err := ParseLocation(text)
	Expect(err).To(MatchError(ContainSubstring(message)))
},
	Entry(nil, "blobs", "it has no bucket"),
	Entry(nil, "s3://", "it has no bucket"),
	Entry(nil, "s3://key:secret@blobs", "or more than that"),
	Entry(nil, "s3://blobs?endpoint=minio:9000", `endpoint "minio:9000" is not https://host:port or http://host:port`),
	Entry(nil, "s3://blobs?path-style=perhaps", `path-style "perhaps" is neither true nor false`),
	Entry(nil, "s3://blobs?key=x", `there is no parameter "key"`),
)
