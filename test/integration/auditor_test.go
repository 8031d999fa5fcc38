package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
	"github.com/tidelock/tidelock/test/walkthrough"
)

// The document has a registry with an image, a policy and a mirror, and every tool at hand.
var _ = Describe("docs/auditor.md", func() {
	It("tells a day of an auditor", func(ctx context.Context) {
		registry := startRegistry()
		host := strings.TrimPrefix(registry.url, "http://")
		startOperator(ctx, registry, func(o *controllers.Options) { o.RegistryHosts = []string{host} })
		prepareAuditedRegistry(ctx, registry)

		dir := GinkgoT().TempDir()
		environment := append(os.Environ(), "REGISTRY="+host, "REGISTRY_URL="+registry.url, "KUBECONFIG="+kubeconfig,
			"PATH="+assets()+":"+filepath.Dir(binary("tidelock"))+":"+os.Getenv("PATH"))
		environment = append(environment, podmanIn(dir, host)...)
		steps, err := walkthrough.Steps(filepath.Join(root, "docs", "auditor.md"), "")
		Expect(err).NotTo(HaveOccurred())
		Expect(len(steps)).To(BeNumerically(">", 15))
		for _, step := range steps {
			By(step.Command)
			try := func(g Gomega, ctx context.Context) {
				command := exec.CommandContext(ctx, "bash", "-c", step.Command)
				command.Dir, command.Env = dir, environment
				out, err := command.CombinedOutput()
				fmt.Fprintf(GinkgoWriter, "$ %s\n%s", step.Command, out)
				g.Expect(err != nil).To(Equal(step.Refused), "%v: %s", err, out)
				g.Expect(walkthrough.Normal(string(out))).To(MatchRegexp(step.Pattern()))
			}
			if step.Reading() {
				Eventually(try).WithContext(ctx).WithPolling(time.Second / 2).Should(Succeed())
			} else {
				try(Default, ctx)
			}
		}
	})
})

// prepareAuditedRegistry makes what an auditor looks at: team-a/app:v1.0.0, a policy that locks it, and a mirror with
// credentials.
func prepareAuditedRegistry(ctx context.Context, registry *testRegistry) {
	GinkgoHelper()
	team := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}
	claims("team-a,team-a-mirror")(team)
	if err := admin.Create(ctx, team); err != nil { // another test may have made it
		Expect(admin.Get(ctx, key(team), team)).To(Succeed())
		annotate(ctx, team, "team-a,team-a-mirror")
	}
	policy := create(ctx, newPolicy("team-a"))
	eventually(ctx, policy, beReady())
	upstream := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "upstream-", Namespace: "team-a"}, Type: corev1.SecretTypeBasicAuth,
		StringData: map[string]string{"username": "admin", "password": adminPassword},
	}
	Expect(admin.Create(ctx, upstream)).To(Succeed())
	mirror := newMirror("team-a", into("team-a-mirror"), fromURL(registry.url), withCredentials(upstream.Name), func(m *registryv1alpha1.OrgMirror) {
		m.Spec.Source.Namespace = "team-a"
	})
	crane := newCraneUser(ctx, registry)
	layer := filepath.Join(GinkgoT().TempDir(), "layer.tar")
	Expect(exec.Command("tar", "-cf", layer, "-C", root, "go.mod").Run()).To(Succeed())
	_, err := crane.run(ctx, "append", "--oci-empty-base", "--new_layer", layer, "--new_tag", crane.host+"/team-a/app:v1.0.0")
	Expect(err).NotTo(HaveOccurred())
	Expect(admin.Create(ctx, mirror)).To(Succeed())
	Eventually(func(g Gomega, ctx context.Context) {
		g.Expect(admin.Get(ctx, key(mirror), mirror)).To(Succeed())
		g.Expect(meta.IsStatusConditionTrue(mirror.Status.Conditions, registryv1alpha1.ConditionReady)).To(BeTrue())
	}).WithContext(ctx).Should(Succeed())
}

// podmanIn are the settings of a podman that keeps everything in a folder and reaches a registry over plain HTTP.
func podmanIn(dir, host string) []string {
	GinkgoHelper()
	storage, registries := filepath.Join(dir, "storage.conf"), filepath.Join(dir, "registries.conf")
	Expect(os.WriteFile(storage, fmt.Appendf(nil, "[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n",
		filepath.Join(dir, "store"), filepath.Join(dir, "run")), 0o600)).To(Succeed())
	Expect(os.WriteFile(registries, fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n", host), 0o600)).To(Succeed())
	auth := filepath.Join(dir, "auth.json")
	Expect(os.WriteFile(auth, []byte("{}"), 0o600)).To(Succeed())
	return []string{"CONTAINERS_STORAGE_CONF=" + storage, "CONTAINERS_REGISTRIES_CONF=" + registries, "REGISTRY_AUTH_FILE=" + auth, "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir}
}
