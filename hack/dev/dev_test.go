package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
	"github.com/onsi/gomega/gexec"

	"github.com/tidelock/tidelock/test/walkthrough"
)

const (
	upTimeout   = 3 * time.Minute
	stepTimeout = time.Minute
	// stopTimeout of the program bounds each of three; a person sees them end in a second or two.
	downTimeout = 30 * time.Second
)

// root is the repository, bin the folder of its programs, and dev the program under test.
var root, bin, dev string

func TestDev(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "make run")
}

var _ = BeforeSuite(func() {
	var err error
	root, err = filepath.Abs(filepath.Join("..", ".."))
	Expect(err).NotTo(HaveOccurred())
	if bin = os.Getenv("TIDELOCK_BIN"); bin == "" {
		bin = filepath.Join(root, "bin")
	}
	for _, program := range []string{"tidelock", "kubectl", "crane"} {
		Expect(filepath.Join(bin, program)).To(BeAnExistingFile(), "run `make test`, which builds it")
	}
	dev, err = gexec.Build("github.com/tidelock/tidelock/hack/dev")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(gexec.CleanupBuildArtifacts)
})

// session is a running `make run` with a folder and ports of its own.
type session struct {
	dir      string
	registry string
	flags    []string
	*gexec.Session
}

func newSession(flags ...string) *session {
	GinkgoHelper()
	s := &session{dir: GinkgoT().TempDir()}
	var ports []string
	for range 2 {
		address, err := freeAddress(context.Background())
		Expect(err).NotTo(HaveOccurred())
		_, port, err := net.SplitHostPort(address)
		Expect(err).NotTo(HaveOccurred())
		ports = append(ports, port)
	}
	s.registry = "localhost:" + ports[0]
	s.flags = append([]string{"-bin", bin, "-dir", s.dir, "-registry", s.registry, "-webhook-port", ports[1]}, flags...)
	return s
}

// start starts the program and waits until it has told what to type next.
func (s *session) start(environment ...string) {
	GinkgoHelper()
	s.launch(environment...)
	Eventually(s).WithTimeout(upTimeout).Should(gbytes.Say("Ctrl-C stops everything"))
}

func (s *session) launch(environment ...string) {
	GinkgoHelper()
	cmd := exec.Command(dev, s.flags...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), environment...)
	var err error
	s.Session, err = gexec.Start(cmd, GinkgoWriter, GinkgoWriter)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(s.end)
}

// end presses Ctrl-C.
func (s *session) end() {
	GinkgoHelper()
	Eventually(s.Interrupt()).WithTimeout(downTimeout).Should(gexec.Exit())
}

// shell runs a command line in the root of the repository, behind the given exports, and returns all that it prints.
func (s *session) shell(exports []string, command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	line := strings.Join(append(exports, command), "\n")
	line = strings.NewReplacer("localhost:5000", s.registry, "$PWD/.dev/", s.dir+"/", " .dev/", " "+s.dir+"/").Replace(line)
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	fmt.Fprintf(GinkgoWriter, "$ %s\n%s", command, out)
	return strings.ReplaceAll(string(out), s.registry, "localhost:5000"), err
}

var _ = Describe("README.md", func() {
	It("tells what happens in the first five minutes", func() {
		steps, err := walkthrough.Steps(filepath.Join(root, "README.md"), "First five minutes")
		Expect(err).NotTo(HaveOccurred())
		Expect(len(steps)).To(BeNumerically(">", 10))
		Expect(steps[0].Command).To(Equal("make run"))
		s := newSession()
		s.start()
		Expect(walkthrough.Normal(string(s.Out.Contents()))).To(MatchRegexp(steps[0].Pattern()))

		var exports []string
		for _, step := range steps[1:] {
			By(step.Command)
			if strings.HasPrefix(step.Command, "export ") {
				exports = append(exports, step.Command)
				continue
			}
			try := func(g Gomega) {
				out, err := s.shell(exports, step.Command)
				g.Expect(err != nil).To(Equal(step.Refused), "%v: %s", err, out)
				g.Expect(walkthrough.Normal(out)).To(MatchRegexp(step.Pattern()))
			}
			if step.Reading() {
				Eventually(try).WithTimeout(stepTimeout).WithPolling(time.Second).Should(Succeed())
			} else {
				try(Default)
			}
		}

		By("Ctrl-C, and make run again")
		s.end()
		Expect(s.Session).To(gexec.Exit(0))
		s.start()
		out, err := s.shell(exports, "bin/crane ls localhost:5000/team-a/tidelock")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(Equal("lts-2026\nv1.0.0\n"))
		out, err = s.shell(exports, "bin/crane delete localhost:5000/team-a/tidelock:v1.0.0")
		Expect(err).To(HaveOccurred(), out)
		Expect(out).To(ContainSubstring("TAG_IMMUTABLE"))
	})
})

var _ = Describe("make run", func() {
	It("says which address is in use", func() {
		s := newSession()
		listener, err := net.Listen("tcp", s.registry)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(listener.Close)
		s.launch()
		Eventually(s).WithTimeout(stepTimeout).Should(gexec.Exit(1))
		Expect(string(s.Err.Contents())).To(ContainSubstring("%s is in use by another program", s.registry))
	})

	It("stops everything, also when it is killed", func() {
		s := newSession()
		s.start()
		second := newSession()
		second.dir, second.flags = s.dir, s.flags
		second.launch()
		Eventually(second).WithTimeout(stepTimeout).Should(gexec.Exit(1))
		Expect(string(second.Err.Contents())).To(ContainSubstring("another `make run` uses"))

		Expect(s.Command.Process.Signal(syscall.SIGKILL)).To(Succeed())
		s.Wait(downTimeout)
		Eventually(func() error { return checkFree(context.Background(), s.registry, "") }).WithTimeout(downTimeout).Should(Succeed())
		s.start()

		By("publishing checkpoints as the operator, whom alone admission lets")
		k := kubectl{program: filepath.Join(bin, "kubectl"), kubeconfig: filepath.Join(s.dir, "kubeconfig")}
		Eventually(func() (string, error) {
			return k.run(context.Background(), "", "get", "configmaps", "--namespace=tidelock-system", "--selector=registry.tidelock.dev/audit-checkpoint=daily", "-o", "name")
		}).WithTimeout(stepTimeout).WithPolling(time.Second).Should(HavePrefix("configmap/tidelock-checkpoint-"))
	})

	It("leaves a cluster as it was", func(ctx context.Context) {
		cluster := startBareCluster()
		s := newSession("-cluster")
		s.start("KUBECONFIG=" + cluster.kubeconfig)
		out, err := cluster.run(ctx, "", "get", "namespaces,crd,immutabilitypolicies", "--all-namespaces", "-o", "name")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(ContainSubstring("immutabilitypolicy.registry.tidelock.dev/releases"))

		By("a second one, which would take over what is there")
		second := newSession("-cluster")
		second.launch("KUBECONFIG=" + cluster.kubeconfig)
		Eventually(second).WithTimeout(stepTimeout).Should(gexec.Exit(1))
		Expect(string(second.Err.Contents())).To(ContainSubstring("takes over nothing that is there"))

		By("Ctrl-C")
		s.end()
		Expect(s.Session).To(gexec.Exit(0))
		out, err = cluster.run(ctx, "", "get", "namespaces,crd", "-o", "name")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).NotTo(ContainSubstring("tidelock"))
		Expect(out).NotTo(ContainSubstring("team-a"))
	})
})
