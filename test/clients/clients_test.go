package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("client", func() {
	for _, c := range clients {
		Context(c.name, Ordered, ContinueOnFailure, func() { behaves(c) })
	}
})

// behaves declares the specs of one client: one for each operation that it knows.
func behaves(c client) {
	var m *machine
	// Each client has its own repositories, so that none can live on what another one pushed.
	repository := c.name + "/backend/app"
	BeforeAll(func() {
		m = newMachine()
		Expect(c.login(m, "wrong")).NotTo(Succeed(), "login with a wrong password")
		Expect(c.login(m, password)).To(Succeed(), "login")
	})

	It("pushes", func() {
		image := newImage()
		_, err := c.push(m, image.layout(), repository+":pushed")
		Expect(err).NotTo(HaveOccurred())
		if c.recompresses {
			Expect(tagDigest(repository, "pushed")).NotTo(BeEmpty())
		} else {
			Expect(tagDigest(repository, "pushed")).To(Equal(image.digest()))
		}
		_, err = c.push(m, image.layout(), repository+":pushed")
		Expect(err).NotTo(HaveOccurred(), "pushing again")
	})

	if c.pull != nil {
		It("pulls each byte", func() {
			image := newImage()
			image.push(repository, "pulled")
			layout := filepath.Join(GinkgoT().TempDir(), "pulled")
			Expect(c.pull(m, repository+":pulled", layout)).To(Succeed())
			image.expectLayout(layout)
			layout = filepath.Join(GinkgoT().TempDir(), "pulled-by-digest")
			Expect(c.pull(m, repository+"@"+image.digest(), layout)).To(Succeed())
			image.expectLayout(layout)
		})
	}

	if c.digest != nil {
		It("pulls", func() {
			image := newImage()
			image.push(repository, "pulled")
			Expect(c.digest(m, repository+":pulled")).To(Equal(image.digest()))
		})
	}

	if c.copy != nil {
		It("copies, to another organization too", func() {
			image := newImage()
			image.push(repository, "original")
			for _, to := range []string{repository, c.name + "-other/app"} {
				_, err := c.copy(m, repository+":original", to+":copied")
				Expect(err).NotTo(HaveOccurred())
				Expect(tagDigest(to, "copied")).To(Equal(image.digest()))
			}
		})
	}

	It("lists tags, however many there are", func() {
		listed := c.tags(m, "many/tags")
		slices.Sort(listed)
		Expect(listed).To(Equal(manyTags))
	})

	if c.deleteTag != nil {
		It("deletes a tag and nothing else", func() {
			image := newImage()
			image.push(repository, "stays", "goes")
			_, err := c.deleteTag(m, repository+":goes")
			Expect(err).NotTo(HaveOccurred())
			Expect(tagDigest(repository, "goes")).To(BeEmpty())
			Expect(tagDigest(repository, "stays")).To(Equal(image.digest()))
		})
	}

	if c.deleteDigest != nil {
		It("deletes a digest with its tags", func() {
			image := newImage()
			image.push(repository, "first", "second")
			_, err := c.deleteDigest(m, repository, image.digest())
			Expect(err).NotTo(HaveOccurred())
			Expect(tagDigest(repository, "first")).To(BeEmpty())
			Expect(tagDigest(repository, "second")).To(BeEmpty())
		})
	}

	It("shows why a locked tag cannot be changed, and pulls it", func() {
		organization := c.name + "-locked"
		locked := organization + "/app"
		image, other := newImage(), newImage()
		image.push(locked, "v1")
		other.push(repository, "other")
		why := fmt.Sprintf("immutable tag 'v1': %s stands, locked by namespace policy %s (pattern .*)", image.digest(), lock(organization))

		refused := func(operation string) func(string, error) {
			return func(out string, err error) {
				GinkgoHelper()
				Expect(err).To(HaveOccurred())
				Expect(out).To(ContainSubstring("cannot " + operation + " " + why))
				Expect(tagDigest(locked, "v1")).To(Equal(image.digest()))
			}
		}
		refused("overwrite")(c.push(m, other.layout(), locked+":v1"))
		if c.copy != nil {
			refused("overwrite")(c.copy(m, repository+":other", locked+":v1"))
			_, err := c.copy(m, locked+":v1", locked+":v1")
			Expect(err).NotTo(HaveOccurred(), "pushing the digest that stands")
		}
		if c.deleteTag != nil {
			// regctl, refused, tries to overwrite the tag with something that it could delete.
			out, err := c.deleteTag(m, locked+":v1")
			Expect(err).To(HaveOccurred())
			Expect(out).To(ContainSubstring(why))
			Expect(tagDigest(locked, "v1")).To(Equal(image.digest()))
		}
		if c.deleteDigest != nil {
			refused("delete")(c.deleteDigest(m, locked, image.digest()))
		}
		if c.pull != nil {
			layout := filepath.Join(GinkgoT().TempDir(), "locked")
			Expect(c.pull(m, locked+":v1", layout)).To(Succeed())
			image.expectLayout(layout)
		}
		if c.digest != nil {
			Expect(c.digest(m, locked+":v1")).To(Equal(image.digest()))
		}
	})
}

var _ = Describe("client", func() {
	Context("helm", func() {
		It("pushes and pulls a chart, and shows why a locked version cannot be changed", func() {
			m, helm := newMachine(), built("helm")
			login := func(password string) error {
				return failure(m.run(helm, "registry", "login", host, "--plain-http", "-u", user, "-p", password))
			}
			Expect(login("wrong")).NotTo(Succeed())
			Expect(login(password)).To(Succeed())

			m.must(helm, "create", "chart")
			m.must(helm, "package", "chart")
			m.must(helm, "push", "chart-0.1.0.tgz", "oci://"+host+"/helm/charts", "--plain-http")
			target := GinkgoT().TempDir()
			m.must(helm, "pull", "oci://"+host+"/helm/charts/chart", "--version", "0.1.0", "--plain-http", "--destination", target)
			original, err := os.ReadFile(filepath.Join(m.home, "chart-0.1.0.tgz"))
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadFile(filepath.Join(target, "chart-0.1.0.tgz"))).To(Equal(original))
			digest := tagDigest("helm/charts/chart", "0.1.0")

			policy := lock("helm")
			values := filepath.Join(m.home, "chart", "values.yaml")
			Expect(os.WriteFile(values, []byte("changed: true\n"), 0o600)).To(Succeed())
			m.must(helm, "package", "chart")
			out, err := m.run(helm, "push", "chart-0.1.0.tgz", "oci://"+host+"/helm/charts", "--plain-http")
			Expect(err).To(HaveOccurred())
			Expect(out).To(ContainSubstring(fmt.Sprintf("cannot overwrite immutable tag '0.1.0': %s stands, locked by namespace policy %s (pattern .*)", digest, policy)))
			Expect(tagDigest("helm/charts/chart", "0.1.0")).To(Equal(digest))
		})
	})
})
