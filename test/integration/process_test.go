package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"
	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	coordinationv1 "k8s.io/api/coordination/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// operatorProcess is the real program, as the user that config/rbac gives rights to.
type operatorProcess struct {
	testRegistry
	args    []string
	session *gexec.Session
}

func newOperatorProcess(args ...string) *operatorProcess {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	password := filepath.Join(dir, "admin")
	Expect(os.WriteFile(password, []byte(adminPassword), 0o600)).To(Succeed())
	port := freePort()
	p := newProcess(config, append([]string{
		"--data-dir", filepath.Join(dir, "data"), "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--admin-password-file", password, "--metrics-bind-address", "0",
	}, args...)...)
	p.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	return p
}

// newProcess prepares a process that reaches the API server of a configuration.
func newProcess(at *rest.Config, args ...string) *operatorProcess {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	user, err := cluster.AddUser(envtest.User{Name: operatorUser, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace}}, at)
	Expect(err).NotTo(HaveOccurred())
	user.Config().Host = at.Host
	content, err := user.KubeConfig()
	Expect(err).NotTo(HaveOccurred())
	kubeconfig := filepath.Join(dir, "kubeconfig")
	Expect(os.WriteFile(kubeconfig, content, 0o600)).To(Succeed())
	p := &operatorProcess{args: append([]string{
		"operator", "--kubeconfig", kubeconfig, "--runtime-dir", filepath.Join(dir, "run"), "--webhook-port", "0", "--health-bind-address", "0",
		"--audit-publish-interval", "0", // see setUpControllers
	}, args...)}
	DeferCleanup(func() {
		if p.session != nil {
			p.session.Kill().Wait(timeout)
		}
	})
	DeferCleanup(removeObjects)
	return p
}

func (p *operatorProcess) start() {
	GinkgoHelper()
	var err error
	p.session, err = gexec.Start(exec.Command(binary("tidelock"), p.args...), GinkgoWriter, GinkgoWriter)
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("The operator's process", func() {
	It("makes exactly 1,000 Events of 1,000 tags, also when it is killed in the middle", func(ctx context.Context) {
		const tags = 1000
		operator := newOperatorProcess("--events-burst-rate", "200")
		operator.start()
		team := newTeam(ctx)
		operator.prepare(ctx, team+"/app")
		operator.pushMany(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		Eventually(eventsOf).WithArguments(policy).WithContext(ctx).WithTimeout(longTimeout).Should(WithTransform(func(list []eventsv1.Event) int { return len(list) }, BeNumerically(">", tags/4)))
		operator.session.Kill().Wait(timeout)
		events, err := eventsOf(ctx, policy)
		Expect(err).NotTo(HaveOccurred())
		Expect(len(events)).To(BeNumerically("<", tags), "the process was killed too late to show anything")

		operator.start()
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Get(ctx, key(policy), policy)).To(Succeed())
			g.Expect(policy).To(And(beReady(), HaveField("Status.Events", HaveValue(And(HaveField("Emitted", int64(tags)), HaveField("Pending", int64(0)))))))
		}).WithContext(ctx).WithTimeout(longTimeout).Should(Succeed())
		expectOneEventForEachTag(ctx, policy, team+"/app", tags)
	})

	It("finishes and hands over when it is asked to stop", func(ctx context.Context) {
		operator := newOperatorProcess()
		operator.start()
		team := newTeam(ctx)
		operator.prepare(ctx, team+"/app")
		Expect(operator.session.Signal(syscall.SIGTERM).Wait(timeout)).To(gexec.Exit(0))
		var lease coordinationv1.Lease
		Expect(admin.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "tidelock-operator"}, &lease)).To(Succeed())
		Expect(lease.Spec.HolderIdentity).To(HaveValue(BeEmpty()), "the next one would have to wait for it")
		operator.start()
		eventually(ctx, create(ctx, newPolicy(team)), beReady())
	})

	It("reaches its own registry over TLS, whatever names the certificate has", func(ctx context.Context) {
		pair, err := (&rotator.CertRotator{CAName: "registry.example"}).CreateCACert(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		Expect(err).NotTo(HaveOccurred())
		dir := GinkgoT().TempDir()
		certificate, private := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		Expect(os.WriteFile(certificate, pair.CertPEM, 0o600)).To(Succeed())
		Expect(os.WriteFile(private, pair.KeyPEM, 0o600)).To(Succeed())
		operator := newOperatorProcess("--tls-cert", certificate, "--tls-key", private)
		operator.start()
		eventually(ctx, create(ctx, newPolicy(newNamespace(ctx).Name)), beReady())
	})

	DescribeTable("says what is wrong with its settings", func(message string, args ...string) {
		session, err := gexec.Start(exec.Command(binary("tidelock"), append([]string{"operator"}, args...)...), GinkgoWriter, GinkgoWriter)
		Expect(err).NotTo(HaveOccurred())
		Expect(session.Wait(timeout)).To(gexec.Exit(1))
		Expect(string(session.Err.Contents())).To(ContainSubstring(message))
	},
		Entry("no registry", "--data-dir is required for the operator's own registry, or --registry-url for another"),
		Entry("two registries", "use one of them", "--data-dir", "x", "--registry-url", "http://localhost"),
		Entry("no token", "--registry-url needs --operator-token-file", "--registry-url", "http://localhost"),
		Entry("no Events", "must be above 0", "--data-dir", "x", "--events-rate", "0"),
		Entry("no workload", "is not kind/name", "--data-dir", "x", "--workload", "tidelock"),
	)
})
