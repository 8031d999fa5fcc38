package fs

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/blobtest"
	"github.com/tidelock/tidelock/registry/domain"
)

func TestFS(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/blob/fs")
}

// lockEnv makes the test binary a second process that takes the data directory it names.
const lockEnv = "TIDELOCK_TEST_LOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockEnv); path != "" {
		if _, err := Lock(path); err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func tempDirectory() *Directory {
	GinkgoHelper()
	dir, err := Lock(GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(dir.Release)
	return dir
}

var _ = blobtest.DescribeStore("the file store", func() blob.Store {
	GinkgoHelper()
	store, err := Open(tempDirectory())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(store.Close)
	return store
}, func(store blob.Store) blob.Store {
	GinkgoHelper()
	first := store.(*Store)
	Expect(first.Close()).To(Succeed())
	second, err := open(&Directory{path: first.root}, first.disk)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(second.Close)
	return second
})

var _ = Describe("the data directory", func() {
	It("is refused to a second process, naming the first, until the first lets it go", func() {
		path := filepath.Join(GinkgoT().TempDir(), "new", "data")
		dir, err := Lock(path)
		Expect(err).NotTo(HaveOccurred())

		second := func() (string, error) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), lockEnv+"="+path)
			out, err := cmd.Output()
			return strings.TrimSpace(string(out)), err
		}
		out, err := second()
		Expect(err).To(HaveOccurred())
		Expect(out).To(Equal(fmt.Sprintf("data directory %s is in use by another registry (process %d)", path, os.Getpid())))

		Expect(dir.Release()).To(Succeed())
		out, err = second()
		Expect(out, err).To(BeEmpty())
		// A process that ended without Release leaves no lock behind.
		dir, err = Lock(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(dir.Release()).To(Succeed())
	})

	It("is refused on a network file system", func() {
		path := GinkgoT().TempDir()
		_, err := lock(path, func(string) (string, error) { return "NFS", nil })
		Expect(err).To(MatchError(fmt.Sprintf("data directory %s is on NFS; use a local file system", path)))
		Expect(networkFilesystem(path)).To(BeEmpty())
	})

	It("is refused where a file stands in its place", func() {
		path := filepath.Join(GinkgoT().TempDir(), "file")
		Expect(os.WriteFile(path, nil, 0o600)).To(Succeed())
		_, err := Lock(path)
		Expect(err).To(MatchError(ContainSubstring("not a directory")))
	})

	It("keeps blobs and open uploads over a crash, and nothing of uploads that are not open", func() {
		ctx := context.Background()
		path := GinkgoT().TempDir()
		dir, err := Lock(path)
		Expect(err).NotTo(HaveOccurred())
		store, err := Open(dir)
		Expect(err).NotTo(HaveOccurred())
		upload := func() domain.Upload {
			u, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader("tide"), nil)
			Expect(err).NotTo(HaveOccurred())
			return u
		}
		done, open, ended := upload(), upload(), upload()
		stored, err := store.Commit(ctx, done, digest.FromString("tide"))
		Expect(err).NotTo(HaveOccurred())
		// What the crash cut off: bytes that nobody was told of.
		Expect(os.WriteFile(filepath.Join(path, "uploads", open.ID), []byte("tidewash"), 0o600)).To(Succeed())
		Expect(dir.Release()).To(Succeed()) // the kernel does as much for a process that is killed

		dir, err = Lock(path)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(dir.Release)
		store, err = Open(dir)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		Expect(store.Prune(func(id string) (bool, error) { return id == open.ID, nil })).To(Succeed())
		first := "blobs/sha256/" + stored.Digest.Encoded()[:2] + "/" + stored.Digest.Encoded() + "."
		Expect(files(path)).To(ConsistOf("lock", first+done.ID, "uploads/"+open.ID))
		_, err = store.Append(ctx, ended, strings.NewReader("lock"), nil)
		Expect(err).To(MatchError(blob.ErrUnknown))

		open, err = store.Append(ctx, open, strings.NewReader("lock"), nil)
		Expect(err).NotTo(HaveOccurred())
		stored, err = store.Commit(ctx, open, digest.FromString("tidelock"))
		Expect(err).NotTo(HaveOccurred())
		r, err := store.Open(ctx, stored.Key)
		Expect(err).NotTo(HaveOccurred())
		Expect(io.ReadAll(r)).To(BeEquivalentTo("tidelock"))
		Expect(r.Close()).To(Succeed())
	})

	It("does not believe that bytes are there which the power took", func() {
		ctx, dir := context.Background(), tempDirectory()
		for left, want := range map[string]error{"ti": blob.ErrUnknown, "\x00\x00\x00\x00": blob.ErrMismatch} {
			store, err := Open(dir)
			Expect(err).NotTo(HaveOccurred())
			u, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader("tide"), nil)
			Expect(err).NotTo(HaveOccurred())
			Expect(store.Close()).To(Succeed())
			Expect(os.WriteFile(filepath.Join(dir.Path(), "uploads", u.ID), []byte(left), 0o600)).To(Succeed())

			store, err = Open(dir)
			Expect(err).NotTo(HaveOccurred())
			_, err = store.Commit(ctx, u, digest.FromString("tide"))
			Expect(err).To(MatchError(want))
			Expect(store.Close()).To(Succeed())
		}
	})
})

var _ = Describe("durability", func() {
	var (
		dir    *Directory
		store  *Store
		mu     sync.Mutex
		synced []string
		broken string
	)
	BeforeEach(func() {
		synced, broken = nil, ""
		dir = tempDirectory()
		var err error
		store, err = open(dir, disk{write: (*os.File).WriteAt, sync: func(f *os.File) error {
			mu.Lock()
			defer mu.Unlock()
			name, err := filepath.Rel(dir.Path(), f.Name())
			if err != nil {
				return err
			}
			synced = append(synced, name)
			if name == broken {
				return fmt.Errorf("fsync %s: input/output error", name)
			}
			return nil
		}})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
	})
	commit := func(content string) (domain.Upload, error) {
		GinkgoHelper()
		u, err := store.Append(context.Background(), store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader(content), nil)
		Expect(err).NotTo(HaveOccurred())
		synced = nil
		_, err = store.Commit(context.Background(), u, digest.FromString(content))
		return u, err
	}

	It("syncs the directories that it makes", func() {
		Expect(synced).To(Equal([]string{".", ".", "blobs", "blobs"}))
	})

	It("syncs the file, a new directory's parent, and the directory, before it answers", func() {
		shard := "blobs/sha256/" + digest.FromString("tide").Encoded()[:2]
		u, err := commit("tide")
		Expect(err).NotTo(HaveOccurred())
		Expect(synced).To(Equal([]string{"uploads/" + u.ID, "blobs/sha256", shard}))
		u, err = commit("tide")
		Expect(err).NotTo(HaveOccurred())
		Expect(synced).To(Equal([]string{"uploads/" + u.ID, shard}))
	})

	It("syncs the parent of a directory that another process made and may not have synced", func() {
		shard := "blobs/sha256/" + digest.FromString("tide").Encoded()[:2]
		Expect(os.Mkdir(filepath.Join(dir.Path(), shard), 0o700)).To(Succeed())
		_, err := commit("tide")
		Expect(err).NotTo(HaveOccurred())
		Expect(synced).To(ContainElement("blobs/sha256"))
	})

	It("leaves nothing of a blob that could not be made durable", func() {
		broken = "blobs/sha256/" + digest.FromString("tide").Encoded()[:2]
		u, err := commit("tide")
		Expect(err).To(MatchError(ContainSubstring("input/output error")))
		Expect(files(dir.Path())).To(ConsistOf("lock"))
		_, err = store.Commit(context.Background(), u, digest.FromString("tide"))
		Expect(err).To(MatchError(blob.ErrUnknown))
	})

	It("syncs the directory once more for a commit that is repeated", func() {
		u, err := commit("tide")
		Expect(err).NotTo(HaveOccurred())
		synced = nil
		_, err = store.Commit(context.Background(), u, digest.FromString("tide"))
		Expect(err).NotTo(HaveOccurred())
		Expect(synced).To(Equal([]string{"blobs/sha256/" + digest.FromString("tide").Encoded()[:2]}))
	})

	It("goes on behind a write that failed, wherever the kernel has begun to write", func() {
		ctx, content := context.Background(), strings.Repeat("tide", (3*writebackSize+bufferSize)/4)
		half := writebackSize + 1
		u, err := store.Append(ctx, store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader(content[:half]), nil)
		Expect(err).NotTo(HaveOccurred())
		write := store.disk.write
		store.disk.write = func(*os.File, []byte, int64) (int, error) { return 0, unix.EIO }
		u, err = store.Append(ctx, u, strings.NewReader(content[half:]), nil)
		Expect(err).To(MatchError(unix.EIO))
		Expect(u.Size).To(BeEquivalentTo(half))
		store.disk.write = write
		u, err = store.Append(ctx, u, strings.NewReader(content[half:]), nil)
		Expect(err).NotTo(HaveOccurred())
		stored, err := store.Commit(ctx, u, digest.FromString(content))
		Expect(err).NotTo(HaveOccurred())
		written, err := os.ReadFile(store.blobPath(stored.Digest, u.ID))
		Expect(err).NotTo(HaveOccurred())
		Expect(string(written) == content).To(BeTrue())
	})

	DescribeTable("says that the disk is full, and gives the room back", func(full error) {
		room := 1 << 20
		store.disk.write = func(f *os.File, p []byte, at int64) (int, error) {
			if at+int64(len(p)) > int64(room) {
				n, _ := f.WriteAt(p[:len(p)/2], at)
				return n, &os.PathError{Op: "write", Path: f.Name(), Err: full}
			}
			return f.WriteAt(p, at)
		}
		u, err := store.Append(context.Background(), store.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader(strings.Repeat("x", 2*room)), nil)
		Expect(err).To(MatchError(blob.ErrFull))
		Expect(files(dir.Path())).To(ConsistOf("lock", "reserve"))
		_, err = store.Append(context.Background(), u, strings.NewReader("x"), nil)
		Expect(err).To(MatchError(blob.ErrUnknown))
	},
		Entry("with nothing left on the disk", unix.ENOSPC),
		Entry("with nothing left of the quota", unix.EDQUOT),
	)

	It("says that the disk is full where only the fsync finds out", func() {
		store.disk.sync = func(*os.File) error { return unix.ENOSPC }
		_, err := commit("tide")
		Expect(err).To(MatchError(blob.ErrFull))
		Expect(files(dir.Path())).To(ConsistOf("lock", "reserve"))
	})
})

// files lists the files below a directory.
func files(root string) (names []string) {
	GinkgoHelper()
	Expect(filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, _ := filepath.Rel(root, path)
			names = append(names, name)
		}
		return err
	})).To(Succeed())
	return names
}
