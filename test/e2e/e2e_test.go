// Package e2e runs the operator's image on a real Kubernetes node: `make e2e` brings the node up and sets TIDELOCK_NODE
// (whose `x` runs a command inside), TIDELOCK_IMAGE and TIDELOCK_BIN.
package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/test/walkthrough"
)

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "e2e")
}

const (
	// host is how the kubelet names the registry: the node is told where that is.
	host = "registry.tidelock.test:5000"
	// A Pod, its volume, a rollout and a first pull are each a matter of seconds; machines may be slow.
	patience = 3 * time.Minute
	polling  = time.Second
)

// result is what a command printed.
type result struct{ stdout, stderr string }

// try runs a command inside the node.
func try(stdin string, args ...string) (result, error) {
	command := exec.Command(os.Getenv("TIDELOCK_NODE"), append([]string{"x"}, args...)...)
	command.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	return result{strings.TrimSpace(stdout.String()), stderr.String()}, err
}

// run is try for what must succeed.
func run(args ...string) result {
	GinkgoHelper()
	return runWith("", args...)
}

func runWith(stdin string, args ...string) result {
	GinkgoHelper()
	r, err := try(stdin, args...)
	Expect(err).NotTo(HaveOccurred(), "%s\n%s\n%s", strings.Join(args, " "), r.stdout, r.stderr)
	return r
}

func kubectl(args ...string) result {
	GinkgoHelper()
	return run(append([]string{"kubectl"}, args...)...)
}

// path is a path inside the project.
func path(parts ...string) string {
	GinkgoHelper()
	root, err := filepath.Abs("../..")
	Expect(err).NotTo(HaveOccurred())
	return filepath.Join(append([]string{root}, parts...)...)
}

// podmanIn are the settings of a podman that keeps everything in a folder and reaches a registry over plain HTTP.
func podmanIn(dir, registry string) []string {
	GinkgoHelper()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		Expect(os.WriteFile(file, []byte(content), 0o600)).To(Succeed())
		return file
	}
	return []string{
		"CONTAINERS_STORAGE_CONF=" + write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "store"), filepath.Join(dir, "run"))),
		"CONTAINERS_REGISTRIES_CONF=" + write("registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", registry)),
		"REGISTRY_AUTH_FILE=" + write("auth.json", "{}"),
	}
}

var _ = Describe("Tidelock on a real node", Ordered, func() {
	var registry, password, database, store string
	image := func(reference string) string { return registry + "/team-a/" + reference }

	BeforeAll(func() {
		for _, variable := range []string{"TIDELOCK_NODE", "TIDELOCK_IMAGE", "TIDELOCK_BIN"} {
			Expect(os.Getenv(variable)).NotTo(BeEmpty(), "%s is not set: run make e2e", variable)
		}
		rendered, err := exec.Command(path("hack", "render.sh"), os.Getenv("TIDELOCK_IMAGE")).Output()
		Expect(err).NotTo(HaveOccurred())
		runWith(string(rendered), "kubectl", "apply", "--server-side", "-f", "-")
		database, store = startPostgreSQL(), startS3()
	})

	It("comes up as a Pod under Pod Security restricted", func() {
		Expect(kubectl("get", "namespace", "tidelock-system", "-o", `jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}`).stdout).To(Equal("restricted"))
		kubectl("-n", "tidelock-system", "rollout", "status", "statefulset/tidelock", "--timeout", patience.String())
		registry = kubectl("-n", "tidelock-system", "get", "service", "tidelock-registry", "-o", "jsonpath={.spec.clusterIP}").stdout + ":5000"
		encoded := kubectl("-n", "tidelock-system", "get", "secret", "tidelock-admin", "-o", "jsonpath={.data.password}").stdout
		decoded, err := base64.StdEncoding.DecodeString(encoded)
		Expect(err).NotTo(HaveOccurred())
		password = string(decoded)
		runWith(password, "crane", "auth", "login", "--insecure", registry, "-u", "admin", "--password-stdin")
		out, err := exec.Command(os.Getenv("TIDELOCK_NODE"), "mirror", host, "http://"+registry).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(out))
	})

	It("takes an image, and locks its tag when a sample policy is applied", func() {
		Eventually(func() error {
			_, err := try("", "crane", "copy", "--insecure", "127.0.0.1:5000/pause:1", image("pause:v1.0.0"))
			return err
		}).WithTimeout(patience).WithPolling(polling).Should(Succeed())
		kubectl("apply", "-k", path("config", "samples"))
		kubectl("-n", "team-a", "wait", "--for=condition=Ready", "impol/releases", "--timeout", patience.String())
		Expect(kubectl("-n", "team-a", "get", "impol", "releases", "-o", "jsonpath={.status.locked}").stdout).To(Equal("1"))
		Eventually(func() string {
			r, _ := try("", "kubectl", "-n", "team-a", "get", "events.events.k8s.io", "-o", `jsonpath={range .items[?(@.reason=="TagLocked")]}{.note}{"\n"}{end}`)
			return r.stdout
		}).WithTimeout(patience).WithPolling(polling).Should(ContainSubstring("team-a/pause:v1.0.0"))
	})

	It("answers admission through its Service", func() {
		policy := `{"apiVersion":"registry.tidelock.dev/v1alpha1","kind":"ImmutabilityPolicy","metadata":{"name":"preview","namespace":"team-a"},"spec":{"tagPattern":"v.*"}}`
		r := runWith(policy, "kubectl", "apply", "--dry-run=server", "-f", "-")
		Expect(r.stderr).To(ContainSubstring("1 of 1 existing tag"))
		Expect(r.stderr).To(ContainSubstring("organization team-a"))
	})

	It("refuses every change of the locked tag", func() {
		digest := run("crane", "digest", "--insecure", image("pause:v1.0.0")).stdout
		run("crane", "mutate", "--insecure", "--label", "other=yes", "-t", image("pause:next"), image("pause:v1.0.0"))
		for _, refused := range [][]string{
			{"crane", "copy", "--insecure", image("pause:next"), image("pause:v1.0.0")},
			{"crane", "delete", "--insecure", image("pause:v1.0.0")},
			{"crane", "delete", "--insecure", image("pause@" + digest)},
		} {
			r, err := try("", refused...)
			Expect(err).To(HaveOccurred(), strings.Join(refused, " "))
			Expect(r.stderr).To(And(ContainSubstring("TAG_IMMUTABLE"), ContainSubstring("'v1.0.0'")))
		}
		Expect(run("crane", "digest", "--insecure", image("pause:v1.0.0")).stdout).To(Equal(digest))
	})

	It("serves the locked image to the kubelet", func() {
		kubectl("-n", "team-a", "create", "secret", "docker-registry", "pull", "--docker-server", host, "--docker-username", "admin", "--docker-password", password)
		runWith(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"locked","namespace":"team-a"},"spec":{"imagePullSecrets":[{"name":"pull"}],`+
			`"containers":[{"name":"pause","image":"`+host+`/team-a/pause:v1.0.0","imagePullPolicy":"Always"}]}}`, "kubectl", "apply", "-f", "-")
		kubectl("-n", "team-a", "wait", "--for=condition=Ready", "pod/locked", "--timeout", patience.String())
	})

	It("mirrors a registry in the cluster, with credentials from a Secret", func() {
		upstream := startRegistryPod()
		Eventually(func() error {
			_, err := try("", "crane", "copy", "--insecure", "127.0.0.1:5000/pause:1", upstream+"/base/pause:v1.0.0")
			return err
		}).WithTimeout(patience).WithPolling(polling).Should(Succeed())
		digest := run("crane", "digest", "--insecure", upstream+"/base/pause:v1.0.0").stdout
		// Pods and Services have private addresses, which a mirror reaches only if it may.
		kubectl("-n", "tidelock-system", "set", "env", "statefulset/tidelock", "TIDELOCK_MIRROR_ALLOW_NETWORKS=10.0.0.0/8")
		kubectl("-n", "tidelock-system", "rollout", "status", "statefulset/tidelock", "--timeout", patience.String())

		kubectl("create", "namespace", "mirrors")
		mirror := `{"apiVersion":"registry.tidelock.dev/v1alpha1","kind":"OrgMirror","metadata":{"name":"base","namespace":"mirrors"},"spec":{` +
			`"source":{"type":"Quay","url":"http://registry.upstream.svc.cluster.local:5000","namespace":"base","credentialsSecretRef":{"name":"upstream"}},"schedule":{"interval":"1h"}}}`
		r := runWith(mirror, "kubectl", "apply", "-f", "-")
		Expect(r.stderr).To(ContainSubstring("Secret mirrors/upstream (source.credentialsSecretRef) is not there"))
		kubectl("-n", "mirrors", "wait", `--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=SecretNotFound`, "orgmir/base", "--timeout", patience.String())
		kubectl("-n", "mirrors", "create", "secret", "generic", "upstream", "--type=kubernetes.io/basic-auth", "--from-literal=username=admin", "--from-literal=password="+upstreamPassword)
		kubectl("-n", "mirrors", "wait", "--for=condition=Ready", "orgmir/base", "--timeout", patience.String())
		Expect(run("crane", "digest", "--insecure", registry+"/mirrors/pause:v1.0.0").stdout).To(Equal(digest))
		r, err := try("", "crane", "copy", "--insecure", image("pause:v1.0.0"), registry+"/mirrors/pause:mine")
		Expect(err).To(HaveOccurred())
		Expect(r.stderr).To(And(ContainSubstring("DENIED"), ContainSubstring("mirrors/base")))
	})

	It("lets an auditor read everything and write nothing, as docs/auditor.md tells", func() {
		steps, err := walkthrough.Steps(path("docs", "auditor.md"), "")
		Expect(err).NotTo(HaveOccurred())
		// The sample's mirror gets the upstream that there is here, and the sample of the same subject would be in the way.
		kubectl("-n", "team-a", "create", "secret", "generic", "team-a-upstream", "--type=kubernetes.io/basic-auth", "--from-literal=username=admin", "--from-literal=password="+upstreamPassword)
		kubectl("-n", "team-a", "patch", "orgmir/releases", "--type=merge", "-p", `{"spec":{"source":{"url":"http://registry.upstream.svc.cluster.local:5000","namespace":"base"}}}`)
		kubectl("-n", "team-a", "wait", "--for=condition=Ready", "orgmir/releases", "--timeout", patience.String())
		kubectl("delete", "rosu", "auditor", "--ignore-not-found")
		run("crane", "copy", "--insecure", image("pause:v1.0.0"), image("app:v1.0.0"))
		dir := GinkgoT().TempDir()
		settings := append([]string{"REGISTRY=" + registry, "REGISTRY_URL=http://" + registry, "PATH=" + os.Getenv("TIDELOCK_BIN") + ":$PATH"}, podmanIn(dir, registry)...)
		for _, step := range steps {
			By(step.Command)
			do := func(g Gomega) {
				r, err := try("", "bash", "-c", "cd "+dir+" && export "+strings.Join(settings, " ")+" && exec 2>&1\n"+step.Command)
				g.Expect(err != nil).To(Equal(step.Refused), "%v: %s%s", err, r.stdout, r.stderr)
				g.Expect(walkthrough.Normal(r.stdout)).To(MatchRegexp(step.Pattern()))
			}
			if step.Reading() {
				Eventually(do).WithTimeout(patience).WithPolling(polling).Should(Succeed())
			} else {
				do(Default)
			}
		}
	})

	It("keeps everything when its Pod is replaced", func() {
		kubectl("-n", "tidelock-system", "delete", "pod", "tidelock-0")
		kubectl("-n", "tidelock-system", "rollout", "status", "statefulset/tidelock", "--timeout", patience.String())
		Eventually(func() string {
			r, _ := try("", "crane", "delete", "--insecure", image("pause:v1.0.0"))
			return r.stderr
		}).WithTimeout(patience).WithPolling(polling).Should(ContainSubstring("TAG_IMMUTABLE"))
		kubectl("-n", "team-a", "wait", "--for=condition=Ready", "impol/releases", "--timeout", patience.String())
	})

	It("goes over to several replicas on PostgreSQL and S3, which have every policy before they take a push", func() {
		password = "of-several-replicas"
		kubectl("-n", "tidelock-system", "delete", "statefulset/tidelock", "persistentvolumeclaim/data-tidelock-0")
		key := filepath.Join(GinkgoT().TempDir(), "audit.key")
		run(filepath.Join(os.Getenv("TIDELOCK_BIN"), "tidelock"), "audit", "keygen", "--key-file", key)
		kubectl("-n", "tidelock-system", "create", "secret", "generic", "tidelock-scale-out",
			"--from-literal=database="+database, "--from-literal=blob-store="+store, "--from-literal=access-key-id="+s3AccessKey,
			"--from-literal=secret-access-key="+s3SecretKey, "--from-literal=operator-token="+strings.Repeat("0123456789abcdef", 4), "--from-literal=admin-password="+password, "--from-file=audit-key="+key,
			"--from-literal=secret-key="+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
		rendered, err := exec.Command(path("hack", "render.sh"), os.Getenv("TIDELOCK_IMAGE"), "overlays/scale-out").Output()
		Expect(err).NotTo(HaveOccurred())
		runWith(string(rendered), "kubectl", "apply", "--server-side", "-f", "-")
		for _, deployment := range []string{"tidelock-registry", "tidelock-operator"} {
			kubectl("-n", "tidelock-system", "rollout", "status", "deployment/"+deployment, "--timeout", patience.String())
		}
		runWith(password, "crane", "auth", "login", "--insecure", registry, "-u", "admin", "--password-stdin")
		// The log that the operator has published is gone; somebody has to say why.
		Eventually(func() error {
			_, err := try("", filepath.Join(os.Getenv("TIDELOCK_BIN"), "tidelock"), "audit", "fork", "--database", database, "--blob-store", store,
				"--audit-key-file", key, "--reason", "a new registry on PostgreSQL and S3")
			return err
		}).WithTimeout(patience).WithPolling(polling).Should(Succeed())
		Eventually(func() error {
			_, err := try("", "crane", "copy", "--insecure", "127.0.0.1:5000/pause:1", image("pause:v1.0.0"))
			return err
		}).WithTimeout(patience).WithPolling(polling).Should(Succeed())
		r, err := try("", "crane", "delete", "--insecure", image("pause:v1.0.0"))
		Expect(err).To(HaveOccurred())
		Expect(r.stderr).To(ContainSubstring("TAG_IMMUTABLE"))
	})

	It("goes on when the operator that leads and a registry are gone", func() {
		leader := kubectl("-n", "tidelock-system", "get", "lease", "-o", "jsonpath={.items[0].spec.holderIdentity}").stdout
		pod, _, _ := strings.Cut(leader, "_")
		kubectl("-n", "tidelock-system", "delete", "pod", pod, "--grace-period=0", "--force")
		gone := kubectl("-n", "tidelock-system", "get", "pod", "-l", "app.kubernetes.io/component=registry", "-o", "jsonpath={.items[0].metadata.name}").stdout
		kubectl("-n", "tidelock-system", "delete", "pod", gone, "--grace-period=0", "--force")
		run("crane", "copy", "--insecure", "127.0.0.1:5000/pause:1", image("pause:next"))
		policy := `{"apiVersion":"registry.tidelock.dev/v1alpha1","kind":"ImmutabilityPolicy","metadata":{"name":"next","namespace":"team-a"},"spec":{"tagPattern":"next"}}`
		runWith(policy, "kubectl", "apply", "-f", "-")
		kubectl("-n", "team-a", "wait", "--for=condition=Ready", "impol/next", "--timeout", patience.String())
		Expect(kubectl("-n", "team-a", "get", "impol", "next", "-o", "jsonpath={.status.locked}").stdout).To(Equal("1"))
	})
})
