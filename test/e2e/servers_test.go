package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const (
	// nodeAddress is where Pods reach what listens on the node.
	nodeAddress  = "10.99.0.1"
	databaseRole = "postgres"
	// Credentials of servers that end with the specs.
	databasePassword, s3AccessKey, s3SecretKey = "of-the-database", "tidelock", "of-the-object-store"
	upstreamPassword                           = "of-the-upstream"
	bucket                                     = "registry"
)

// startPostgreSQL starts a server on the node, for which PostgreSQL has to be installed, and returns its URL.
func startPostgreSQL() string {
	GinkgoHelper()
	binaries, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	Expect(err).NotTo(HaveOccurred())
	Expect(binaries).NotTo(BeEmpty(), "install the Debian package postgresql")
	slices.Sort(binaries)
	bin := binaries[len(binaries)-1]
	dir := directory()
	Expect(os.WriteFile(filepath.Join(dir, "password"), []byte(databasePassword), 0o644)).To(Succeed()) //nolint:gosec // PostgreSQL runs as another user
	data := filepath.Join(dir, "data")
	asPostgres := []string{"runuser", "-u", databaseRole, "--"}
	run("chown", databaseRole, dir)
	run(append(asPostgres, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", databaseRole, "--pwfile", filepath.Join(dir, "password"),
		"--auth", "scram-sha-256", "--no-sync")...)
	run("sh", "-c", "echo 'host all all 10.0.0.0/8 scram-sha-256' >> "+filepath.Join(data, "pg_hba.conf"))
	serve(append(asPostgres, filepath.Join(bin, "postgres"), "-D", data, "-h", nodeAddress, "-p", "5432", "-k", dir)...)
	return "postgres://" + databaseRole + ":" + databasePassword + "@" + nodeAddress + ":5432/postgres?sslmode=disable"
}

// startS3 starts an object store on the node and returns what --blob-store says about it.
func startS3() string {
	GinkgoHelper()
	dir, address := directory(), nodeAddress+":7070"
	Expect(os.MkdirAll(filepath.Join(dir, bucket), 0o755)).To(Succeed())
	serve(filepath.Join(os.Getenv("TIDELOCK_BIN"), "versitygw"), "--port", address, "--access", s3AccessKey, "--secret", s3SecretKey, "--quiet",
		"posix", "--sidecar", directory(), dir)
	return "s3://" + bucket + "?endpoint=http://" + address + "&region=us-east-1&path-style=true"
}

// startRegistryPod runs another registry in a Pod of the cluster, behind the Service registry in the namespace upstream, and
// returns the Service's address. The password of its account admin is upstreamPassword.
func startRegistryPod() string {
	GinkgoHelper()
	kubectl("create", "namespace", "upstream")
	kubectl("-n", "upstream", "create", "secret", "generic", "admin", "--from-literal=password="+upstreamPassword)
	runWith(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"registry","namespace":"upstream","labels":{"app":"registry"}},"spec":{`+
		`"enableServiceLinks":false,"securityContext":{"runAsUser":65532,"runAsGroup":65532,"fsGroup":65532},`+
		`"containers":[{"name":"registry","image":"`+os.Getenv("TIDELOCK_IMAGE")+`","args":["registry","--data-dir=/data","--listen=:5000","--insecure-http","--admin-password-file=/admin/password"],`+
		`"readinessProbe":{"httpGet":{"path":"/readyz","port":5000},"periodSeconds":1},`+
		`"volumeMounts":[{"name":"data","mountPath":"/data"},{"name":"admin","mountPath":"/admin"}]}],`+
		`"volumes":[{"name":"data","emptyDir":{}},{"name":"admin","secret":{"secretName":"admin"}}]}}`, "kubectl", "apply", "-f", "-")
	kubectl("-n", "upstream", "expose", "pod", "registry", "--port=5000")
	kubectl("-n", "upstream", "wait", "--for=condition=Ready", "pod/registry", "--timeout", patience.String())
	address := kubectl("-n", "upstream", "get", "service", "registry", "-o", "jsonpath={.spec.clusterIP}").stdout + ":5000"
	runWith(upstreamPassword, "crane", "auth", "login", "--insecure", address, "-u", "admin", "--password-stdin")
	return address
}

// directory is a new directory that ends with the specs.
func directory() string {
	GinkgoHelper()
	dir, err := os.MkdirTemp("", "e2e")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	return dir
}

// serve runs a program inside the node until the specs are over.
func serve(args ...string) {
	GinkgoHelper()
	var output bytes.Buffer
	command := exec.Command(os.Getenv("TIDELOCK_NODE"), append([]string{"x", "sh", "-c", `trap 'kill $!; wait' EXIT; "$@" & read end`, "sh"}, args...)...)
	command.Stdout, command.Stderr = &output, &output
	// Its end ends the program: signals do not reach into the node.
	stdin, err := command.StdinPipe()
	Expect(err).NotTo(HaveOccurred())
	command.WaitDelay = time.Minute
	Expect(command.Start()).To(Succeed())
	DeferCleanup(func() {
		_ = stdin.Close()
		_ = command.Wait() // the shell says that it read nothing
		GinkgoWriter.Println(strings.Join(args, " "), output.String())
	})
}
