package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// mirrorTags is how many tags each repository of the upstream has, skopeoProgram what copies beside us.
	mirrorTags    = 10
	skopeoProgram = "skopeo"
	upstreamName  = "upstream"
)

// mirrors measures a mirror of a namespace beside skopeo sync: both copy from one distribution, on the same disk, into
// a registry of ours, first into an empty one and then with nothing to do. Then it mirrors four times as many repositories,
// to see what that takes in memory.
func mirrors(ctx context.Context, o options, t *table) error {
	if _, err := exec.LookPath(skopeoProgram); err != nil {
		return fmt.Errorf("%w; it is a package of the distribution", err)
	}
	upstream, err := startPeer(ctx, o)
	if err != nil {
		return err
	}
	defer upstream.stop()
	few := max(1, o.repositories/4)
	if err := fillUpstream(ctx, upstream, 0, few); err != nil {
		return err
	}
	for _, e := range o.engines {
		if err := mirrorBeside(ctx, o, e, t, upstream, few); err != nil {
			return err
		}
	}
	if err := fillUpstream(ctx, upstream, few, o.repositories); err != nil {
		return err
	}
	return mirrorMany(ctx, o, t, upstream, few)
}

// mirrorBeside measures one engine beside skopeo.
func mirrorBeside(ctx context.Context, o options, e engine, t *table, upstream *server, repositories int) error {
	var first, again [2][]float64
	for round := range o.rounds {
		for turn := range 2 {
			which := (round + turn) % 2
			target, err := startTidelock(ctx, o, e, fmt.Sprintf("mirror-%s-%d-%d", e.name, round, which), nil)
			if err != nil {
				return err
			}
			sync := func() error { return syncBySkopeo(ctx, o, upstream, target, repositories) }
			if which == 0 {
				if err := declareMirror(ctx, upstream, target); err != nil {
					target.stop()
					return err
				}
				sync = func() error { return syncByMirror(ctx, target, repositories) }
			}
			for _, times := range []*[2][]float64{&first, &again} {
				start := time.Now()
				if err := sync(); err != nil {
					target.stop()
					return err
				}
				times[which] = append(times[which], time.Since(start).Seconds())
			}
			target.stop()
		}
	}
	what := fmt.Sprintf("%d repositories of %d tags, %s", repositories, mirrorTags, e.name)
	for _, m := range []struct {
		name  string
		times [2][]float64
		least float64
	}{{"first sync", first, 3}, {"sync that changes nothing", again, 10}} {
		ours, theirs := median(m.times[0]), median(m.times[1])
		t.ratio(e, fmt.Sprintf("%s of %s: %.1f s, skopeo sync %.1f s", m.name, what, ours, theirs), theirs/ours, m.least)
	}
	return nil
}

// mirrorMany compares what a mirror takes in memory for few repositories and for all.
func mirrorMany(ctx context.Context, o options, t *table, upstream *server, few int) error {
	var peaks []float64
	for _, n := range []int{few, o.repositories} {
		target, err := startTidelock(ctx, o, o.engines[0], fmt.Sprintf("mirror-memory-%d", n), nil)
		if err != nil {
			return err
		}
		filters := []string{}
		for i := range n {
			filters = append(filters, repositoryName(i))
		}
		if n > 100 {
			filters = nil // all there are
		}
		err = declareMirror(ctx, upstream, target, filters...)
		if err == nil {
			err = syncByMirror(ctx, target, n)
		}
		var peak float64
		if err == nil {
			peak, err = target.peakMemory()
		}
		target.stop()
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("memory for a first sync of %d repositories, %s", n, o.engines[0].name), figure(peak, " MiB"))
		peaks = append(peaks, peak)
	}
	t.limit(fmt.Sprintf("memory for %d repositories to that for %d", o.repositories, few), peaks[1]/peaks[0], 1.5, "×")
	return nil
}

func repositoryName(i int) string { return fmt.Sprintf("app-%04d", i) }

// fillUpstream pushes repositories: of each image one layer is shared by all repositories, one by the repository's tags, and
// one is its own.
func fillUpstream(ctx context.Context, s *server, from, to int) error {
	c := newClient(s, peerClients)
	random := rand.NewChaCha8([32]byte{7})
	noise := func(size int) blob {
		content := make([]byte, size)
		_, _ = random.Read(content)
		return newBlob(content)
	}
	shared := noise(1 << 20)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(peerClients)
	for r := from; r < to; r++ {
		base := noise(256 << 10)
		own := make([]blob, mirrorTags)
		for i := range own {
			own[i] = noise(32 << 10)
		}
		group.Go(func() error {
			name := upstreamName + "/" + repositoryName(r)
			for i, layer := range own {
				config := newBlob(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%s"}`, layer.digest))
				layers := []string{}
				for _, b := range []blob{shared, base, layer} {
					if err := c.pushBlob(ctx, name, b); err != nil {
						return err
					}
					layers = append(layers, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}`, b.digest, len(b.content)))
				}
				if err := c.pushBlob(ctx, name, config); err != nil {
					return err
				}
				manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[%s]}`,
					manifestType, config.digest, len(config.content), strings.Join(layers, ","))
				if err := c.putManifest(ctx, name, fmt.Sprintf("v1.%d", i), manifestType, manifest); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

const (
	mirrorOrganization = "mirrored"
	mirrorPath         = "/api/v1/organization/" + mirrorOrganization + "/mirror"
)

// declareMirror makes an organization with a mirror of the upstream, as it comes but for what starts it.
func declareMirror(ctx context.Context, upstream, target *server, filters ...string) error {
	c := newClient(target, 1)
	body, err := json.Marshal(map[string]any{
		"external_registry_type": "oci", "external_registry_url": upstream.url, "external_namespace": upstreamName, "robot_username": mirrorOrganization + "+mirror",
		"visibility": "private", "sync_interval": 86400, "sync_start_date": time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339), "repository_filters": filters,
	})
	if err != nil {
		return err
	}
	for _, call := range []struct{ method, path, body string }{
		{http.MethodPost, "/api/v1/organization/", `{"name":"` + mirrorOrganization + `"}`},
		{http.MethodPut, "/api/v1/organization/" + mirrorOrganization + "/robots/mirror", "{}"},
		{http.MethodPost, mirrorPath, string(body)},
	} {
		if _, err := c.do(ctx, call.method, call.path, "application/json", []byte(call.body), http.StatusCreated); err != nil {
			return err
		}
	}
	return nil
}

// syncByMirror asks for a sync and waits for its end.
func syncByMirror(ctx context.Context, target *server, repositories int) error {
	c := newClient(target, 1)
	var m struct {
		LastSync *struct {
			Number   int64
			State    string
			Message  string
			Progress struct{ Repositories struct{ Discovered int } }
		} `json:"last_sync"`
	}
	read := func() error {
		answer, err := c.do(ctx, http.MethodGet, mirrorPath, "", nil, http.StatusOK)
		if err != nil {
			return err
		}
		return json.Unmarshal(answer.content, &m)
	}
	if err := read(); err != nil {
		return err
	}
	number := int64(1)
	if m.LastSync != nil {
		number = m.LastSync.Number + 1
	}
	if _, err := c.do(ctx, http.MethodPost, mirrorPath+"/sync-now", "", nil, http.StatusNoContent); err != nil {
		return err
	}
	for {
		if err := read(); err != nil {
			return err
		}
		if s := m.LastSync; s != nil && s.Number == number && s.State != "running" {
			if s.State != "succeeded" || s.Progress.Repositories.Discovered != repositories {
				return fmt.Errorf("the sync of %d repositories %s: %s", s.Progress.Repositories.Discovered, s.State, s.Message)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// syncBySkopeo copies the same with one process of skopeo.
func syncBySkopeo(ctx context.Context, o options, upstream, target *server, repositories int) error {
	host := strings.TrimPrefix(upstream.url, "http://")
	var list strings.Builder
	fmt.Fprintf(&list, "%q:\n  tls-verify: false\n  images:\n", host)
	for i := range repositories {
		fmt.Fprintf(&list, "    %s/%s: []\n", upstreamName, repositoryName(i))
	}
	file := filepath.Join(o.dir, "skopeo.yaml")
	if err := os.WriteFile(file, []byte(list.String()), 0o600); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, skopeoProgram, "sync", "--src", "yaml", "--dest", "docker", "--dest-tls-verify=false", "--dest-creds", "admin:"+target.password,
		file, strings.TrimPrefix(target.url, "http://")+"/"+mirrorOrganization)
	command.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+o.dir)
	if out, err := command.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("skopeo sync: %w", err), errors.New(string(out[max(0, len(out)-2000):])))
	}
	return nil
}
