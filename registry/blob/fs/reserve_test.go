package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("keys", func() {
	It("are those of blobs, with the time of their bytes", func() {
		ctx := context.Background()
		dir := tempDirectory()
		store, err := Open(dir)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		want := map[string]bool{}
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			u, err := store.Append(ctx, store.Begin(blob.NewUploadID(), algorithm), strings.NewReader("tide"), nil)
			Expect(err).NotTo(HaveOccurred())
			stored, err := store.Commit(ctx, u, algorithm.FromString("tide"))
			Expect(err).NotTo(HaveOccurred())
			want[stored.Key] = true
		}
		_, err = store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader("open"), nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(filepath.Join(dir.Path(), "blobs", "sha256", "README"), nil, 0o600)).To(Succeed())
		Expect(os.Mkdir(filepath.Join(dir.Path(), "blobs", "sha256", "00"), 0o700)).To(Succeed())
		Expect(os.WriteFile(filepath.Join(dir.Path(), "blobs", "sha256", "00", "README"), nil, 0o600)).To(Succeed())

		got := map[string]bool{}
		Expect(Inspect(dir).Keys(ctx, func(key string, modified time.Time) error {
			got[key] = true
			Expect(modified).To(BeTemporally("~", time.Now(), time.Minute))
			return nil
		})).To(Succeed())
		Expect(got).To(Equal(want))
		enough := errors.New("enough")
		Expect(store.Keys(ctx, func(string, time.Time) error { return enough })).To(MatchError(enough))
		Expect(files(filepath.Join(dir.Path(), "uploads"))).To(HaveLen(1), "looking removes nothing")
	})
})

var _ = Describe("the reserve", func() {
	It("is taken where there is room, with space on the disk for all of it", func() {
		dir := tempDirectory()
		Expect(dir.Check()).To(Succeed())
		Expect(dir.Room()).To(Succeed())
		var stat unix.Stat_t
		Expect(unix.Stat(filepath.Join(dir.Path(), "reserve"), &stat)).To(Succeed())
		Expect(stat.Size).To(BeEquivalentTo(reserveSize))
		Expect(stat.Blocks * 512).To(BeNumerically(">=", reserveSize))
	})

	It("is written where the file system cannot allocate", func() {
		file, err := os.Create(filepath.Join(GinkgoT().TempDir(), "reserve"))
		Expect(err).NotTo(HaveOccurred())
		Expect(fillFile(file, 2<<20)).To(Succeed())
		info, err := file.Stat()
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Size()).To(BeEquivalentTo(2 << 20))
		Expect(file.Close()).To(Succeed())
	})

	It("makes an upload that meets a full disk fail with the reason, and its bytes go", func() {
		ctx := context.Background()
		dir := tempDirectory()
		store, err := Open(dir)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		u, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader("tide"), nil)
		Expect(err).NotTo(HaveOccurred())
		dir.full.Store(true)
		_, err = store.Append(ctx, u, strings.NewReader("lock"), nil)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeStorageFull))
		Expect(files(filepath.Join(dir.Path(), "uploads"))).To(BeEmpty())
		dir.full.Store(false)
		_, err = store.Append(ctx, u, strings.NewReader("lock"), nil)
		Expect(err).To(MatchError(blob.ErrUnknown))
	})

	It("is looked after at every write that fails for want of space", func() {
		dir := tempDirectory()
		store, err := Open(dir)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		Expect(dir.reserved()).To(BeFalse())
		err = store.full(&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC})
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeStorageFull))
		Expect(dir.reserved()).To(BeTrue(), "there was room after all")
		other := errors.New("input/output error")
		Expect(store.full(other)).To(Equal(other))
	})
})
