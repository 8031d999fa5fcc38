package clients

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
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
		Expect(c.login(m, user, "wrong")).NotTo(Succeed(), "login with a wrong password")
		Expect(c.login(m, user, password)).To(Succeed(), "login")
	})

	c.does("push", "pushes, and pushes again", func() {
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
		c.does("pull", "gets each byte, by tag and by digest", func() {
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
		c.does("pull", "gets the digest", func() {
			image := newImage()
			image.push(repository, "pulled")
			Expect(c.digest(m, repository+":pulled")).To(Equal(image.digest()))
		})
	}

	if c.copy != nil {
		c.does("copy", "copies, to another organization too", func() {
			image := newImage()
			image.push(repository, "original")
			for _, to := range []string{repository, c.name + "-other/app"} {
				_, err := c.copy(m, repository+":original", to+":copied")
				Expect(err).NotTo(HaveOccurred())
				Expect(tagDigest(to, "copied")).To(Equal(image.digest()))
			}
		})
	}

	if c.copyAll != nil {
		c.does("copy an index", "copies all of its images", func() {
			images := []testImage{newImage(), newImage()}
			index := pushIndex(repository, "multi", images...)
			to := c.name + "-other/multi"
			_, err := c.copyAll(m, repository+":multi", to+":copied")
			Expect(err).NotTo(HaveOccurred())
			Expect(tagDigest(to, "copied")).To(Equal(index))
			for _, image := range images {
				Expect(tagDigest(to, image.digest())).To(Equal(image.digest()), "a child, by its digest")
			}
		})
	}

	if c.copy != nil {
		c.does("copy an artifact", "keeps what it refers to", func() {
			image := newImage()
			image.push(repository, "subject")
			artifact := newArtifact(image)
			artifact.push(repository, "artifact")
			to := c.name + "-other/artifact"
			image.push(to, "subject")
			_, err := c.copy(m, repository+":artifact", to+":artifact")
			Expect(err).NotTo(HaveOccurred())
			Expect(tagDigest(to, "artifact")).To(Equal(artifact.digest()))
			Expect(referrers(to, image.digest())).To(Equal([]string{artifactType}))
		})
	}

	c.does("list tags", "lists them, however many there are", func() {
		listed := c.tags(m, "many/tags")
		slices.Sort(listed)
		Expect(listed).To(Equal(manyTags))
	})

	if c.repositories != nil {
		c.does("list repositories", "lists the catalog", func() {
			newImage().push(repository, "listed")
			Expect(c.repositories(m)).To(And(ContainSubstring("many/tags"), ContainSubstring(repository)))
		})
	}

	if c.inspect != nil {
		c.does("inspect", "tells of an image, and of one that is not there", func() {
			image := newImage()
			image.push(repository, "inspected")
			out, err := c.inspect(m, repository+":inspected")
			Expect(err).NotTo(HaveOccurred())
			Expect(out).To(Or(ContainSubstring(image.digest()), ContainSubstring(digest.FromBytes(image.config).String())))
			_, err = c.inspect(m, repository+":nothing")
			Expect(err).To(HaveOccurred())
		})
	}

	if c.attach != nil {
		c.does("artifact with a subject", "attaches one to a locked image too, and lists it", func() {
			image := newImage()
			attached := c.name + "-attached/app"
			image.push(attached, "v1")
			lock(c.name + "-attached")
			for _, artifactType := range []string{"application/vnd.example.sbom", "application/vnd.example.signature"} {
				_, err := c.attach(m, artifactType, attached+":v1")
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(referrers(attached, image.digest())).To(ConsistOf("application/vnd.example.sbom", "application/vnd.example.signature"))
			Expect(c.referrers(m, attached+":v1")).To(And(ContainSubstring("application/vnd.example.sbom"), ContainSubstring("application/vnd.example.signature")))
			response, _ := call("GET", "/v2/"+attached+"/tags/list", "", nil)
			Expect(response.StatusCode).To(Equal(http.StatusOK))
			fallback := strings.Replace(image.digest(), ":", "-", 1)
			Expect(tagDigest(attached, fallback)).To(BeEmpty(), "the client need not keep a list in a tag")
		})
	}

	if c.deleteTag != nil {
		c.does("delete a tag", "deletes that and nothing else", func() {
			image := newImage()
			image.push(repository, "stays", "goes")
			_, err := c.deleteTag(m, repository+":goes")
			Expect(err).NotTo(HaveOccurred())
			Expect(tagDigest(repository, "goes")).To(BeEmpty())
			Expect(tagDigest(repository, "stays")).To(Equal(image.digest()))
		})
	}

	if c.deleteDigest != nil {
		c.does("delete a manifest", "deletes it with its tags", func() {
			image := newImage()
			image.push(repository, "first", "second")
			_, err := c.deleteDigest(m, repository, image.digest())
			Expect(err).NotTo(HaveOccurred())
			Expect(tagDigest(repository, "first")).To(BeEmpty())
			Expect(tagDigest(repository, "second")).To(BeEmpty())
		})
	}

	c.does("locked tag", "shows why it cannot be changed, and pulls it", func() {
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
	Context(helm.name, Ordered, func() {
		const repository, chart = "helm/charts", "helm/charts/chart"
		var m *machine
		BeforeAll(func() {
			m = newMachine()
			login := func(password string) error {
				return failure(m.run(built("helm"), "registry", "login", host, "--plain-http", "-u", user, "-p", password))
			}
			Expect(login("wrong")).NotTo(Succeed())
			Expect(login(password)).To(Succeed())
			m.must(built("helm"), "create", "chart")
			m.must(built("helm"), "package", "chart")
		})
		push := func() (string, error) {
			return m.run(built("helm"), "push", "chart-0.1.0.tgz", "oci://"+host+"/"+repository, "--plain-http")
		}

		helm.does("push", "pushes a chart, and pushes it again", func() {
			for range 2 {
				_, err := push()
				Expect(err).NotTo(HaveOccurred())
				Expect(tagDigest(chart, "0.1.0")).NotTo(BeEmpty())
			}
		})

		helm.does("pull", "gets each byte", func() {
			target := GinkgoT().TempDir()
			m.must(built("helm"), "pull", "oci://"+host+"/"+chart, "--version", "0.1.0", "--plain-http", "--destination", target)
			original, err := os.ReadFile(filepath.Join(m.home, "chart-0.1.0.tgz"))
			Expect(err).NotTo(HaveOccurred())
			Expect(os.ReadFile(filepath.Join(target, "chart-0.1.0.tgz"))).To(Equal(original))
		})

		helm.does("list tags", "finds the newest version that fits", func() {
			Expect(m.must(built("helm"), "show", "chart", "oci://"+host+"/"+chart, "--version", ">0.0.1", "--plain-http")).To(ContainSubstring("version: 0.1.0"))
		})

		helm.does("inspect", "shows a chart, and misses one that is not there", func() {
			Expect(m.must(built("helm"), "show", "chart", "oci://"+host+"/"+chart, "--version", "0.1.0", "--plain-http")).To(ContainSubstring("name: chart"))
			_, err := m.run(built("helm"), "show", "chart", "oci://"+host+"/"+chart, "--version", "0.2.0", "--plain-http")
			Expect(err).To(HaveOccurred())
		})

		helm.does("locked tag", "shows why a locked version cannot be changed", func() {
			standing, policy := tagDigest(chart, "0.1.0"), lock("helm")
			_, err := push()
			Expect(err).NotTo(HaveOccurred(), "pushing the digest that stands")
			Expect(os.WriteFile(filepath.Join(m.home, "chart", "values.yaml"), []byte("changed: true\n"), 0o600)).To(Succeed())
			m.must(built("helm"), "package", "chart")
			out, err := push()
			Expect(err).To(HaveOccurred())
			Expect(out).To(ContainSubstring(fmt.Sprintf("cannot overwrite immutable tag '0.1.0': %s stands, locked by namespace policy %s (pattern .*)", standing, policy)))
			Expect(tagDigest(chart, "0.1.0")).To(Equal(standing))
		})
	})
})

// operations are the columns of the table, in order.
var operations = []string{
	"push", "pull", "copy", "copy an index", "copy an artifact", "list tags", "list repositories", "inspect", "artifact with a subject", "delete a tag", "delete a manifest", "locked tag",
}

// shown has the operations of each client for which there is a spec.
var shown = map[string][]string{}

// does declares the spec of one operation: a cell of the table.
func (c client) does(operation, text string, body func()) {
	shown[c.name] = append(shown[c.name], operation)
	It(operation+": "+text, body)
}

var _ = Describe("the table of clients and operations", func() {
	It("is in the documentation as the specs show it", func() {
		header, rule := "| client |", "|---|"
		for _, operation := range operations {
			header, rule = header+" "+operation+" |", rule+"---|"
		}
		table := []string{header, rule}
		for _, c := range append(slices.Clone(clients), helm) {
			row := "| " + c.name + " |"
			for _, operation := range operations {
				cell := "–"
				if slices.Contains(shown[c.name], operation) {
					cell = "yes"
				}
				row += " " + cell + " |"
			}
			Expect(operations).To(ContainElements(shown[c.name]))
			table = append(table, row)
		}
		document, err := os.ReadFile(filepath.Join("..", "..", "docs", "api.md"))
		Expect(err).NotTo(HaveOccurred())
		want := strings.Join(table, "\n")
		Expect(strings.Contains(string(document), want)).To(BeTrue(), "docs/api.md must have:\n"+want)
	})
})
