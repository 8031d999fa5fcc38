package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kubectl runs the project's kubectl on a cluster.
type kubectl struct {
	program string
	// kubeconfig is empty for that of the environment.
	kubeconfig string
}

// run gives kubectl the input and returns its output, after a failure what there was of it. The error holds what it said.
func (k kubectl) run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = os.Environ()
	if k.kubeconfig != "" {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+k.kubeconfig)
	}
	// A group of its own, as for the other programs: Ctrl-C ends it by the context.
	cmd.SysProcAttr = attributes()
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.String(), nil
}

// render writes out a folder of config/.
func (k kubectl) render(ctx context.Context, s settings, folder string) (string, error) {
	return k.run(ctx, "", "kustomize", filepath.Join(s.root, "config", folder))
}

// apply applies manifests, and again while a webhook that was started a moment ago does not answer.
func (k kubectl) apply(ctx context.Context, manifests string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := k.run(ctx, manifests, "apply", "--server-side", "--force-conflicts", "--field-manager=make-run", "-f", "-")
		if err == nil || time.Now().After(deadline) || !strings.Contains(err.Error(), "failed calling webhook") {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
