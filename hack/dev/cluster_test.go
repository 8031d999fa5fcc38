package main

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// startBareCluster starts a control plane with nothing in it, and what real ones have to let namespaces go.
func startBareCluster() kubectl {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := GinkgoT().TempDir()
	p := &processes{dir: filepath.Join(dir, "logs")}
	DeferCleanup(func() {
		cancel()
		Expect(p.stop()).To(Succeed())
	})
	kubeconfig, err := startControlPlane(ctx, settings{root: root, bin: bin, dir: dir}, p)
	Expect(err).NotTo(HaveOccurred())
	k := kubectl{program: filepath.Join(bin, "kubectl"), kubeconfig: kubeconfig}
	// Its context's own namespace is that of the samples, which is not there.
	_, err = k.run(ctx, "", "config", "set-context", "--current", "--namespace=default")
	Expect(err).NotTo(HaveOccurred())
	go func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for range ticker.C {
			if ctx.Err() != nil {
				return
			}
			finalizeNamespaces(ctx, k)
		}
	}()
	return k
}

// finalizeNamespaces lets go of namespaces that are deleted, which are empty here.
func finalizeNamespaces(ctx context.Context, k kubectl) {
	const deleted = `{range .items[?(@.metadata.deletionTimestamp)]}{.metadata.name}{"\n"}{end}`
	names, err := k.run(ctx, "", "get", "namespaces", "-o", "jsonpath="+deleted)
	if err != nil {
		return
	}
	for _, name := range strings.Fields(names) {
		body := `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + name + `"},"spec":{"finalizers":[]}}`
		// A failure is tried again.
		_, _ = k.run(ctx, body, "replace", "--raw", "/api/v1/namespaces/"+name+"/finalize", "-f", "-")
	}
}
