package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// craneUser runs the real crane, logged in to a registry.
type craneUser struct {
	host, config string
}

func newCraneUser(ctx context.Context, r *testRegistry) craneUser {
	GinkgoHelper()
	c := craneUser{host: strings.TrimPrefix(r.url, "http://"), config: GinkgoT().TempDir()}
	_, err := c.run(ctx, "auth", "login", c.host, "-u", "admin", "-p", adminPassword)
	Expect(err).NotTo(HaveOccurred())
	return c
}

func (c craneUser) run(ctx context.Context, args ...string) (output string, err error) {
	GinkgoHelper()
	command := exec.CommandContext(ctx, binary("crane"), args...)
	command.Env = append(os.Environ(), "DOCKER_CONFIG="+c.config)
	output, err = execute(command)
	return strings.TrimSpace(output), err
}

// The end-to-end test that the report on deletion by digest asks for: a policy, a push, and attempts to delete.
var _ = Describe("An image whose tag a policy locks", Ordered, func() {
	var (
		crane        craneUser
		image        string
		digest       string
		layer        string
		pullable     func(ctx context.Context)
		mustNotWork  func(ctx context.Context, names string, args ...string)
		otherContent string
	)

	BeforeAll(func(ctx context.Context) {
		registry := startRegistry()
		startOperator(ctx, registry)
		crane = newCraneUser(ctx, registry)
		team := newNamespace(ctx).Name
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())

		layer = filepath.Join(GinkgoT().TempDir(), "layer.tar")
		Expect(exec.Command("tar", "-cf", layer, "-C", root, "go.mod").Run()).To(Succeed())
		otherContent = filepath.Join(GinkgoT().TempDir(), "other.tar")
		Expect(exec.Command("tar", "-cf", otherContent, "-C", root, "go.sum").Run()).To(Succeed())
		image = crane.host + "/" + team + "/app"
		for _, tag := range []string{"v1.0.0", "mutable"} {
			_, err := crane.run(ctx, "append", "--new_layer", layer, "--new_tag", image+":"+tag)
			Expect(err).NotTo(HaveOccurred())
		}
		var err error
		digest, err = crane.run(ctx, "digest", image+":v1.0.0")
		Expect(err).NotTo(HaveOccurred())
		Expect(digest).To(HavePrefix("sha256:"))
		pullable = func(ctx context.Context) {
			GinkgoHelper()
			_, err := crane.run(ctx, "pull", image+":v1.0.0", filepath.Join(GinkgoT().TempDir(), "image.tar"))
			Expect(err).NotTo(HaveOccurred())
			Expect(crane.run(ctx, "digest", image+":v1.0.0")).To(Equal(digest))
		}
		mustNotWork = func(ctx context.Context, names string, args ...string) {
			GinkgoHelper()
			output, err := crane.run(ctx, args...)
			Expect(err).To(HaveOccurred())
			Expect(output).To(And(ContainSubstring("TAG_IMMUTABLE"), ContainSubstring(names)))
			pullable(ctx)
		}
	})

	It("cannot be deleted by its tag", func(ctx context.Context) { mustNotWork(ctx, "'v1.0.0'", "delete", image+":v1.0.0") })

	It("cannot be deleted by its digest, also where mutable tags lead to it as well", func(ctx context.Context) {
		mustNotWork(ctx, "'v1.0.0'", "delete", image+"@"+digest)
		Expect(crane.run(ctx, "digest", image+":mutable")).To(Equal(digest))
	})

	It("cannot be overwritten", func(ctx context.Context) {
		mustNotWork(ctx, "'v1.0.0'", "append", "--new_layer", otherContent, "--new_tag", image+":v1.0.0")
	})

	It("may be pushed again as it is", func(ctx context.Context) {
		_, err := crane.run(ctx, "append", "--new_layer", layer, "--new_tag", image+":v1.0.0")
		Expect(err).NotTo(HaveOccurred())
		pullable(ctx)
	})
})
