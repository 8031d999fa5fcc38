package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// localWebhook is the address of the webhook in config/local.
	localWebhook = "https://localhost:9443/"
	// sampleRegistry is the address of the registry in config/samples.
	sampleRegistry = "http://localhost:5000"
)

// start brings up everything and prints what to type next.
func start(ctx context.Context, s settings, p *processes) error {
	if err := checkFree(ctx, s.registry, "-registry localhost:5001"); err != nil {
		return err
	}
	password := filepath.Join(s.dir, "admin-password")
	if err := ensurePassword(password); err != nil {
		return err
	}
	if s.cluster {
		return startInCluster(ctx, s, p, password)
	}
	if err := checkFree(ctx, net.JoinHostPort("localhost", strconv.Itoa(s.webhook)), "-webhook-port 9444"); err != nil {
		return err
	}
	k := kubectl{program: filepath.Join(s.bin, "kubectl")}
	err := step("etcd and kube-apiserver", func() (err error) {
		k.kubeconfig, err = startControlPlane(ctx, s, p)
		return err
	})
	if err != nil {
		return err
	}
	err = step("CRDs, roles and admission (config/local)", func() error {
		manifests, err := k.render(ctx, s, "local")
		if err != nil {
			return err
		}
		return k.apply(ctx, strings.ReplaceAll(manifests, localWebhook, fmt.Sprintf("https://localhost:%d/", s.webhook)))
	})
	if err != nil {
		return err
	}
	err = step("operator and registry", func() error {
		return startOperator(ctx, s, p, "--data-dir="+filepath.Join(s.dir, "registry"), "--admin-password-file="+password,
			"--kubeconfig="+operatorKubeconfig(s), "--webhook-host=localhost", "--webhook-port="+strconv.Itoa(s.webhook))
	})
	if err != nil {
		return err
	}
	// Only once: from then on they are the user's, who may have changed or deleted them.
	_, err = k.run(ctx, "", "get", "namespace", "team-a")
	if err != nil {
		err = step("samples (config/samples)", func() error { return applySamples(ctx, s, k) })
	}
	if err == nil {
		guide(s)
	}
	return err
}

// applySamples applies the samples and waits until they are in force.
func applySamples(ctx context.Context, s settings, k kubectl) error {
	manifests, err := renderSamples(ctx, s, k)
	if err != nil {
		return err
	}
	if err := k.apply(ctx, manifests); err != nil {
		return err
	}
	_, err = k.run(ctx, "", "wait", "--for=condition=Ready", "immutabilitypolicies", "--all", "--namespace=team-a", "--timeout=60s")
	return err
}

// renderSamples renders the samples for the address of the registry.
func renderSamples(ctx context.Context, s settings, k kubectl) (string, error) {
	manifests, err := k.render(ctx, s, "samples")
	return strings.ReplaceAll(manifests, sampleRegistry, "http://"+s.registry), err
}

// startOperator starts the operator with its registry and waits until it is ready.
func startOperator(ctx context.Context, s settings, p *processes, args ...string) error {
	health, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	err = p.start("operator", filepath.Join(s.bin, "tidelock"), append([]string{
		"operator", "--listen=" + s.registry, "--health-bind-address=" + health, "--metrics-bind-address=0",
		// There is one only, and it need not wait for the lease of one that was killed.
		"--leader-elect=false",
		// The sample of a mirror copies from this registry.
		"--mirror-allow-networks=127.0.0.1/32,::1/128",
		"--registry-hosts=" + s.registry,
	}, args...)...)
	if err != nil {
		return err
	}
	return p.until(ctx, startTimeout, func(ctx context.Context) error { return get(ctx, http.DefaultClient, "http://"+health+"/readyz", "") })
}

// ensurePassword makes the password of the registry's account admin, once.
func ensurePassword(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(rand.Text()), 0o600)
}

// step does something that takes a while, and says so.
func step(what string, do func() error) error {
	fmt.Printf("%-44s", what+" …")
	begun := time.Now()
	if err := do(); err != nil {
		fmt.Println()
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("ready in %.1f s\n", time.Since(begun).Seconds())
	return nil
}
