package fs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/blobtest"
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

	It("keeps blobs and loses unfinished uploads over a crash", func() {
		ctx := context.Background()
		path := GinkgoT().TempDir()
		dir, err := Lock(path)
		Expect(err).NotTo(HaveOccurred())
		store, err := Open(dir)
		Expect(err).NotTo(HaveOccurred())
		done, open := blob.NewUploadID(), blob.NewUploadID()
		for _, id := range []string{done, open} {
			Expect(store.Begin(ctx, id)).To(Succeed())
			Expect(store.Append(ctx, id, 0, strings.NewReader("tide"))).To(BeEquivalentTo(4))
		}
		stored, err := store.Commit(ctx, done, digest.FromString("tide"))
		Expect(err).NotTo(HaveOccurred())
		Expect(dir.Release()).To(Succeed()) // the kernel does as much for a process that is killed

		dir, err = Lock(path)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(dir.Release)
		store, err = Open(dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(files(path)).To(ConsistOf("lock", "blobs/sha256/"+stored.Digest.Encoded()[:2]+"/"+stored.Digest.Encoded()+"."+done))
		_, err = store.Size(ctx, open)
		Expect(err).To(MatchError(blob.ErrUnknown))
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
		store, err = open(dir, func(f *os.File) error {
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
		})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
	})
	commit := func(content string) (string, error) {
		GinkgoHelper()
		ctx, id := context.Background(), blob.NewUploadID()
		Expect(store.Begin(ctx, id)).To(Succeed())
		Expect(store.Append(ctx, id, 0, strings.NewReader(content))).To(BeEquivalentTo(len(content)))
		synced = nil
		_, err := store.Commit(ctx, id, digest.FromString(content))
		return id, err
	}

	It("syncs the directories that it makes", func() {
		Expect(synced).To(Equal([]string{".", ".", "blobs", "blobs"}))
	})

	It("syncs the file, a new directory's parent, and the directory, before it answers", func() {
		shard := "blobs/sha256/" + digest.FromString("tide").Encoded()[:2]
		id, err := commit("tide")
		Expect(err).NotTo(HaveOccurred())
		Expect(synced).To(Equal([]string{"uploads/" + id, "blobs/sha256", shard}))
		id, err = commit("tide")
		Expect(err).NotTo(HaveOccurred())
		Expect(synced).To(Equal([]string{"uploads/" + id, shard}))
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
		id, err := commit("tide")
		Expect(err).To(MatchError(ContainSubstring("input/output error")))
		Expect(files(dir.Path())).To(ConsistOf("lock"))
		Expect(store.Cancel(context.Background(), id)).To(MatchError(blob.ErrUnknown))
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
