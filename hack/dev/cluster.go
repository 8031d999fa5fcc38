package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// operatorNamespace is where the operator keeps what is its own.
const operatorNamespace = `apiVersion: v1
kind: Namespace
metadata:
  name: tidelock-system
`

// startInCluster runs the operator on this machine for the cluster of KUBECONFIG. There is no webhook, which the
// cluster could not reach; the reconciler checks the same rules. Everything that is made in the cluster is removed at
// the end, and so is the registry: its policies would be those of objects that are gone.
func startInCluster(ctx context.Context, s settings, p *processes, password string) error {
	k := kubectl{program: filepath.Join(s.bin, "kubectl")}
	data := filepath.Join(s.dir, "cluster-registry")
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	var made []string
	// The policies go while the operator runs, which has to let go of them.
	p.beforeStop(func() error {
		return step("removing what was made in the cluster", func() error { return remove(k, made) })
	})
	p.afterStop(func() error { return os.RemoveAll(data) })

	err := step("CRDs and namespace", func() error {
		manifests, err := k.render(ctx, s, "crd")
		if err != nil {
			return err
		}
		if made, err = create(ctx, k, manifests+"\n---\n"+operatorNamespace); err != nil {
			return err
		}
		_, err = k.run(ctx, "", "wait", "--for=condition=Established", "crd/immutabilitypolicies.registry.tidelock.dev", "crd/orgmirrors.registry.tidelock.dev",
			"crd/readonlysuperusers.registry.tidelock.dev", "--timeout=60s")
		return err
	})
	if err != nil {
		return err
	}
	err = step("operator and registry", func() error {
		return startOperator(ctx, s, p, "--data-dir="+data, "--admin-password-file="+password, "--webhook-port=0")
	})
	if err != nil {
		return err
	}
	err = step("samples (config/samples)", func() error {
		manifests, err := renderSamples(ctx, s, k)
		if err != nil {
			return err
		}
		names, err := create(ctx, k, manifests)
		made = append(made, names...)
		if err != nil {
			return err
		}
		_, err = k.run(ctx, "", "wait", "--for=condition=Ready", "immutabilitypolicies", "--all", "--namespace=team-a", "--timeout=60s")
		return err
	})
	if err == nil {
		guide(s)
	}
	return err
}

// create makes objects that are not there yet and returns the names of those that it made, after an error too.
func create(ctx context.Context, k kubectl, manifests string) ([]string, error) {
	out, err := k.run(ctx, manifests, "create", "-o", "name", "-f", "-")
	if err != nil && strings.Contains(err.Error(), "AlreadyExists") {
		err = fmt.Errorf("`make run` removes at the end what it makes, so it takes over nothing that is there: %w", err)
	}
	return strings.Fields(out), err
}

// remove deletes all policies, mirrors and readonly superusers, then the objects with the given names, the last one first.
func remove(k kubectl, names []string) error {
	// The context of the run is over by now.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var errs []error
	var rest []string
	for _, name := range names {
		if strings.HasPrefix(name, "customresourcedefinition") {
			for _, kind := range []string{"immutabilitypolicies", "orgmirrors", "readonlysuperusers"} {
				// The CRD may not have been made yet.
				_, err := k.run(ctx, "", "delete", kind, "--all", "--all-namespaces", "--timeout=60s")
				errs = append(errs, err)
			}
		}
		if !strings.HasPrefix(name, "immutabilitypolicy") && !strings.HasPrefix(name, "orgmirror") && !strings.HasPrefix(name, "readonlysuperuser") {
			rest = append([]string{name}, rest...)
		}
	}
	if len(rest) > 0 {
		_, err := k.run(ctx, "", append([]string{"delete", "--ignore-not-found", "--timeout=60s"}, rest...)...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
