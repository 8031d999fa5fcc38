package core_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

var _ = eachEngine("mounting a blob from anywhere", func(h *harness) {
	const content = "layer"
	blob := digest.FromString(content)
	target := domain.RepositoryName{Organization: "team-b", Path: "app"}
	// upload links the blob to repositories.
	upload := func(names ...domain.RepositoryName) {
		GinkgoHelper()
		for _, name := range names {
			_, err := h.LinkBlob(ctx, alice, name, domain.Blob{Digest: blob, Size: int64(len(content)), Key: blob.String() + ".1"}, core.CreateOrganization)
			Expect(err).NotTo(HaveOccurred())
		}
	}
	// only lets pull from some repositories, and remembers which it was asked about.
	only := func(asked *[]string, allowed ...domain.RepositoryName) func(domain.Repository) (bool, error) {
		return func(repo domain.Repository) (bool, error) {
			*asked = append(*asked, repo.Name.String())
			for _, name := range allowed {
				if repo.Name == name {
					return true, nil
				}
			}
			return false, nil
		}
	}
	mount := func(mayPull func(domain.Repository) (bool, error)) (bool, error) {
		return h.MountAnyBlob(ctx, alice, target, blob, mayPull, core.CreateOrganization)
	}

	It("links it if the caller may pull from one of its repositories", func() {
		hidden := domain.RepositoryName{Organization: "secret", Path: "app"}
		upload(hidden, app)
		var asked []string
		Expect(mount(only(&asked, app))).To(BeTrue())
		Expect(asked).To(Equal([]string{"secret/app", "team-a/app"}))
		Expect(h.Blob(ctx, target, blob)).To(HaveField("Size", int64(len(content))))
	})

	It("gives nothing to whom may pull from none, and makes no repository", func() {
		upload(app)
		var asked []string
		Expect(mount(only(&asked))).To(BeFalse())
		Expect(asked).To(Equal([]string{"team-a/app"}))
		_, err := h.Repository(ctx, target)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeNameUnknown))
	})

	It("asks about a hundred repositories at most", func() {
		var names []domain.RepositoryName
		for n := range 101 {
			names = append(names, domain.RepositoryName{Organization: "many", Path: fmt.Sprintf("r%03d", n)})
		}
		upload(names...)
		var asked []string
		Expect(mount(only(&asked, names[100]))).To(BeFalse())
		Expect(asked).To(HaveLen(100))
		Expect(mount(only(&asked, names[99]))).To(BeTrue())
	})

	It("fails closed if it cannot be known whether the caller may", func() {
		upload(app)
		_, err := mount(func(domain.Repository) (bool, error) { return true, errors.New("the database is away") })
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
		_, err = h.Repository(ctx, target)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeNameUnknown))
	})
})

var _ = eachEngine("sparse manifests", func(h *harness) {
	It("are remembered as such", func() {
		h.with(func(o *core.Options) { o.Sparse = core.Sparse{Indexes: true} })
		child := h.mustPush(app, "v1")
		sparse := func(m domain.Manifest) (is bool) {
			GinkgoHelper()
			_, err := h.put(app, "", m)
			Expect(err).NotTo(HaveOccurred())
			stored, err := h.Manifest(ctx, app, domain.Reference{Digest: m.Digest}, false)
			Expect(err).NotTo(HaveOccurred())
			Expect(h.store.Read(ctx, func(r *meta.Reader) (err error) {
				is, err = r.IsSparse(stored.ID)
				return err
			})).To(Succeed())
			return is
		}
		whole, half := manifest("whole"), manifest("half")
		whole.Index, whole.Children = true, []digest.Digest{child}
		half.Index, half.Children = true, []digest.Digest{child, digest.FromString("elsewhere")}
		Expect(sparse(whole)).To(BeFalse())
		Expect(sparse(half)).To(BeTrue())
		Expect(h.DeleteManifest(ctx, alice, app, half.Digest)).To(Succeed(), "with what was remembered")
	})
})

// hugeIndex is about the most that 4 MiB hold.
const hugeIndex = 26_000

var _ = eachEngine("an index of 26,000 manifests", func(h *harness) {
	It("is stored, listed, protected and deleted, while others push", func() {
		first := h.mustPush(app, "v1")
		repo, err := h.Repository(ctx, app)
		Expect(err).NotTo(HaveOccurred())
		huge := manifest("huge")
		huge.Index, huge.Children = true, []digest.Digest{first}
		for n := range hugeIndex - 1 {
			huge.Children = append(huge.Children, digest.FromString(fmt.Sprint(n)))
		}
		took := func(what string, from time.Time) { GinkgoWriter.Println(what, time.Since(from)) }

		start := time.Now()
		_, err = h.put(app, "huge", huge)
		took("refusing it", start)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeManifestBlobUnknown))
		Expect(len(err.Error())).To(BeNumerically("<", 300), "the refusal names one child and counts the others")

		Expect(h.store.Write(ctx, meta.Scope{Organization: app.Organization, Repository: app.Path}, func(tx *meta.Tx) error {
			for n := range hugeIndex - 1 {
				child := manifest(fmt.Sprint(n))
				child.CreatedAt = h.clock.Now()
				if _, err := tx.InsertManifest(repo.ID, child); err != nil {
					return err
				}
			}
			return nil
		})).To(Succeed())

		// Somebody else pushes meanwhile, to the same repository.
		stop, stopped := make(chan struct{}), make(chan error, 1)
		h.mustPush(app, "beside")
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					stopped <- nil
					return
				default:
				}
				from := time.Now()
				if _, err := h.pushContent(app, "beside", fmt.Sprint("beside", n)); err != nil {
					stopped <- err
					return
				}
				if time.Since(from) > 100*time.Millisecond {
					took("a push beside it", from)
				}
			}
		}()
		start = time.Now()
		_, err = h.put(app, "huge", huge)
		took("storing it", start)
		Expect(err).NotTo(HaveOccurred())
		Expect(time.Since(start)).To(BeNumerically("<", time.Minute), "what it takes where each look-up goes through all manifests is minutes")
		Expect(h.Tags(ctx, app, "", 10)).To(Equal([]string{"beside", "huge", "v1"}))

		Expect(h.hold(app, "huge", true)).To(Succeed())
		start = time.Now()
		err = h.DeleteManifest(ctx, alice, app, huge.Children[hugeIndex-1])
		took("refusing the delete of a child", start)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeTagImmutable))
		Expect(h.hold(app, "huge", false)).To(Succeed())

		start = time.Now()
		Expect(h.DeleteManifest(ctx, alice, app, huge.Digest)).To(Succeed())
		took("deleting it", start)
		Expect(h.DeleteManifest(ctx, alice, app, huge.Children[hugeIndex-1])).To(Succeed(), "nothing holds the child any more")
		close(stop)
		Eventually(stopped).WithTimeout(patience).Should(Receive(BeNil()))
	})

	It("does not share a transaction with other pushes", func() {
		h.with(func(o *core.Options) { o.Sparse = core.Sparse{Indexes: true} })
		long := manifest("long")
		long.Index = true
		for n := range 1001 {
			long.Children = append(long.Children, digest.FromString(fmt.Sprint(n)))
		}
		h.gate.allow(0) // background work waits
		stored := make(chan error, 1)
		go func() {
			_, err := h.put(app, "long", long)
			stored <- err
		}()
		h.mustPush(app, "short")
		Consistently(stored).WithTimeout(200 * time.Millisecond).ShouldNot(Receive())
		h.gate.open()
		Eventually(stored).WithTimeout(patience).Should(Receive(BeNil()))
		Expect(h.tag(app, "long")).To(Equal(long.Digest))
	})

	It("is described in pages, however long the annotations of its referrers are", func() {
		subject := h.mustPush(app, "v1")
		for n := range 12 {
			m := manifest(fmt.Sprint("referrer", n))
			m.Subject, m.Annotations = subject, map[string]string{"note": strings.Repeat("x", 1<<20)}
			_, err := h.put(app, "", m)
			Expect(err).NotTo(HaveOccurred())
		}
		q := core.ReferrersQuery{Subject: subject, Limit: 1000, Size: domain.MaxManifest}
		seen := map[digest.Digest]bool{}
		for more := true; more; {
			var list []domain.Manifest
			var err error
			list, more, err = h.Referrers(ctx, app, q)
			Expect(err).NotTo(HaveOccurred())
			Expect(len(list)).To(BeNumerically("<=", 3), "3 of 1 MiB with what is around them")
			for _, m := range list {
				seen[m.Digest] = true
			}
			q.After = list[len(list)-1].Digest
		}
		Expect(seen).To(HaveLen(12))
	})
})
