package mirror

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
)

// size is how many repositories there are, and how many tags each has.
func size() (repositories, tags int) {
	if os.Getenv("TIDELOCK_SOAK") != "" {
		return 200, 20
	}
	return 20, 6
}

// upstreams are registries that are mirrored.
var upstreams = []struct {
	name, kind string
	referrers  bool
	start      func(t *testing.T) *process
}{
	{"distribution", "oci", false, newDistribution},
	{"tidelock-quay", "quay", true, func(t *testing.T) *process { return newTidelock(t) }},
	{"tidelock-oci", "oci", true, func(t *testing.T) *process { return newTidelock(t) }},
}

func TestAWholeNamespace(t *testing.T) {
	for _, u := range upstreams {
		t.Run(u.name, func(t *testing.T) {
			g := NewWithT(t)
			upstream := u.start(t)
			n := newNamespace(upstream, u.referrers)
			repositories, tags := size()
			n.fill(repositories, tags)
			f := newFront(t, upstream)
			p := newTidelock(t)
			p.createMirror(u.kind, f.URL, upstream, map[string]any{"prune": "Vanished"})

			t.Log("the first sync")
			start := time.Now()
			p.syncNow()
			first := p.await(1)
			g.Expect(first.State).To(BeEquivalentTo("succeeded"), first.Message)
			g.Expect(first.Progress.Repositories.Copied).To(BeEquivalentTo(repositories))
			g.Expect(first.Progress.Tags.Copied).To(BeEquivalentTo(len(n.tags)))
			t.Logf("%d tags with %d requests in %s: %d bytes copied, %d saved", len(n.tags), len(f.seen(".")), time.Since(start), first.Progress.BytesCopied, first.Progress.BytesSaved)
			for _, base := range n.bases {
				g.Expect(f.seen("blobs/"+describe("", base).Digest.String())).To(HaveLen(1), "each shared layer is fetched once")
			}
			n.expect(p)

			t.Log("a sync that changes nothing")
			f.forget()
			start = time.Now()
			p.syncNow()
			second := p.await(2)
			g.Expect(second.State).To(BeEquivalentTo("succeeded"), second.Message)
			g.Expect(second.Progress.Tags.Unchanged).To(BeEquivalentTo(len(n.tags)))
			g.Expect(second.Progress.BytesCopied).To(BeZero())
			images := repositories * tags // those of the tags that are no signature's
			t.Logf("%d requests in %s", len(f.seen(".")), time.Since(start))
			g.Expect(f.seen("^GET .*/(manifests|blobs)/")).To(BeEmpty())
			heads, referrers := len(f.seen("^HEAD ")), len(f.seen("/referrers/"))
			switch u.kind {
			case "quay":
				g.Expect(heads).To(BeZero())
			default:
				g.Expect(heads).To(Equal(len(n.tags)))
			}
			if u.referrers {
				g.Expect(referrers).To(Equal(images))
			} else {
				g.Expect(referrers).To(BeNumerically("<=", 32), "an upstream without the API is asked no more when it is known")
			}
			others := len(f.seen(".")) - heads - referrers
			g.Expect(others).To(BeNumerically("<=", 3*repositories+10), "a list and a token for each repository, and little else")

			t.Log("one of a hundred tags changed, and the upstream is killed and started again on the way")
			changed := n.change(100)
			f.slow(5 * time.Millisecond)
			f.forget()
			p.syncNow()
			g.Eventually(func() []string { return f.seen("/(tags|tag)/") }).WithTimeout(time.Minute).ShouldNot(BeEmpty())
			upstream.kill()
			upstream.start()
			third := p.await(3)
			g.Expect(third.State).To(BeEquivalentTo("succeeded"), fmt.Sprint(third.Message, third.Failures))
			g.Expect(third.Progress.Tags.Copied).To(BeEquivalentTo(changed))
			n.expect(p)

			t.Log("a policy comes while changes are mirrored")
			underPolicy(g, p, n, f)
			g.Expect(p.logged(password)).To(BeZero())
		})
	}
}

// underPolicy changes and removes tags of the upstream, and stores a policy while that is mirrored. What was not done by
// then is not done any more: no locked tag is overwritten or pruned, and each conflict is reported.
func underPolicy(g *WithT, p *process, n *namespace, f *front) {
	changed, vanished := n.change(8), n.vanish(8)
	f.slow(10 * time.Millisecond)
	f.forget()
	p.syncNow()
	g.Eventually(func() int { return len(f.seen("/(tags|tag)/")) }).WithTimeout(time.Minute).Should(BeNumerically(">", len(n.repositories)/2))
	p.must(http.StatusCreated, http.MethodPost, "/api/v1/organization/"+here+"/immutabilitypolicy/", "application/json", []byte(`{"tagPattern": "v1\\..*"}`))
	f.slow(0)
	differing := func() (names []string) {
		for name, o := range n.tags {
			if p.standing(name) != o.digest() {
				names = append(names, name)
			}
		}
		return names
	}
	kept := func() (names []string) {
		for _, name := range vanished {
			if p.standing(name) != "" {
				names = append(names, name)
			}
		}
		return names
	}

	sync := p.await(4)
	g.Expect(sync.State).To(BeEquivalentTo("succeeded"), fmt.Sprint(sync.Message, sync.Failures))
	left := differing()
	p.t.Logf("%d tags changed, of which the policy kept %d; %d vanished, of which it kept %d", changed, len(left), len(vanished), len(kept()))
	g.Expect(sync.Progress.Tags.Copied).To(BeEquivalentTo(changed - len(left)))
	g.Expect(sync.Progress.Tags.Conflicts).To(BeEquivalentTo(len(left)))
	g.Expect(sync.Progress.Tags.Pruned).To(BeEquivalentTo(len(vanished) - len(kept())))

	n.change(8)
	vanished = append(kept(), n.vanish(8)...)
	standing := map[string]digest.Digest{}
	for _, name := range slices.Concat(vanished, slices.Collect(maps.Keys(n.tags))) {
		standing[name] = p.standing(name)
	}
	p.syncNow()
	sync = p.await(5)
	g.Expect(sync.State).To(BeEquivalentTo("succeeded"), fmt.Sprint(sync.Message, sync.Failures))
	g.Expect(sync.Progress.Tags).To(And(HaveField("Copied", BeZero()), HaveField("Pruned", BeZero()), HaveField("Conflicts", BeEquivalentTo(len(differing())))))
	g.Expect(sync.Conflicts).NotTo(BeEmpty())
	for _, c := range sync.Conflicts {
		name := c.Repository + ":" + c.Tag
		g.Expect(digest.Digest(c.Standing)).To(Equal(standing[name]))
		g.Expect(digest.Digest(c.Upstream)).To(Equal(n.tags[name].digest()))
	}
	for name, d := range standing {
		g.Expect(p.standing(name)).To(Equal(d), name)
	}
}

// half waits until a sync has done some repositories, and not all of them.
func half(p *process, repositories int) {
	p.t.Helper()
	p.g.Eventually(func(g Gomega) {
		m := p.mirror()
		g.Expect(m.LastSync).NotTo(BeNil())
		done := m.LastSync.Progress.Repositories.Copied
		g.Expect(done).To(BeNumerically(">=", repositories/4))
		g.Expect(done).To(BeNumerically("<", repositories))
	}).WithTimeout(2 * time.Minute).WithPolling(20 * time.Millisecond).Should(Succeed())
}

// begins is what a replica logs that begins or takes over a sync.
const begins = `"msg":"a mirror syncs"`

func TestASyncGoesOnAfterItsProcessWasKilled(t *testing.T) {
	upstream := newTidelock(t)
	n := newNamespace(upstream, true)
	repositories, tags := size()
	n.fill(repositories, tags)
	f := newFront(t, upstream)

	t.Run("embedded", func(t *testing.T) {
		g := NewWithT(t)
		p := newTidelock(t)
		p.createMirror("quay", f.URL, upstream, nil)
		f.slow(20 * time.Millisecond)
		f.forget()
		p.syncNow()
		half(p, repositories)
		p.kill()
		before := len(f.seen(`^GET /api/v1/repository/.*/tag/`))
		f.slow(0)
		p.start()
		sync := p.await(1)
		g.Expect(sync.State).To(BeEquivalentTo("succeeded"), fmt.Sprint(sync.Message, sync.Failures))
		g.Expect(sync.Progress.Repositories.Discovered).To(BeEquivalentTo(repositories))
		g.Expect(sync.Progress.Repositories.Copied + sync.Progress.Repositories.Unchanged).To(BeEquivalentTo(repositories))
		lists := len(f.seen(`^GET /api/v1/repository/.*/tag/`))
		t.Logf("%d repositories were listed before the kill, %d after it, of %d", before, lists-before, repositories)
		g.Expect(lists).To(BeNumerically("<=", repositories+8), "what was done is not done again")
		n.expect(p)
	})

	t.Run("another replica", func(t *testing.T) {
		g := NewWithT(t)
		replicas := newReplicas(t)
		replicas[0].createMirror("quay", f.URL, upstream, nil)
		f.slow(20 * time.Millisecond)
		f.forget()
		replicas[0].syncNow()
		half(replicas[1], repositories)
		syncing, survivor := replicas[0], replicas[1]
		if survivor.logged(begins) > 0 { // either may take it
			syncing, survivor = survivor, syncing
		}
		killed := time.Now()
		syncing.kill()
		f.slow(0)
		sync := survivor.await(1)
		t.Logf("the survivor was done %s after the kill", time.Since(killed))
		g.Expect(sync.State).To(BeEquivalentTo("succeeded"), fmt.Sprint(sync.Message, sync.Failures))
		g.Expect(survivor.logged(`"taken_over":true`)).To(Equal(1))
		g.Expect(len(f.seen(`^GET /api/v1/repository/.*/tag/`))).To(BeNumerically("<=", repositories+8))
		n.expect(survivor)
	})
}

func TestCosignVerifiesTheCopy(t *testing.T) {
	g := NewWithT(t)
	cosign := binary(t, "cosign")
	upstream := newTidelock(t)
	n := newNamespace(upstream, true)
	home := t.TempDir()
	run := func(arguments ...string) error {
		command := exec.CommandContext(t.Context(), cosign, arguments...)
		command.Dir = home
		command.Env = append(os.Environ(), "HOME="+home, "DOCKER_CONFIG="+home, "COSIGN_PASSWORD=")
		out, err := command.CombinedOutput()
		if err != nil {
			return fmt.Errorf("cosign %s: %w: %s", strings.Join(arguments, " "), err, out)
		}
		return nil
	}
	key := filepath.Join(home, "key")
	g.Expect(run("generate-key-pair", "--output-key-prefix", key)).To(Succeed())
	p := newTidelock(t)
	for _, host := range []string{upstream.address, p.address} {
		g.Expect(run("login", host, "-u", "admin", "-p", password)).To(Succeed())
	}
	forms := map[string]string{"tags": "--new-bundle-format=false", "referrers": "--new-bundle-format=true"}
	images := map[string]object{}
	for form, option := range forms {
		images[form] = n.index()
		n.push(form, images[form], "v1")
		g.Expect(run("sign", option, "--key", key+".key", "--tlog-upload=false", "--use-signing-config=false", "--yes", "--allow-http-registry",
			upstream.address+"/"+there+"/"+form+"@"+images[form].digest().String())).To(Succeed())
	}
	p.createMirror("quay", upstream.url(), upstream, nil)
	p.syncNow()
	sync := p.await(1)
	g.Expect(sync.State).To(BeEquivalentTo("succeeded"), fmt.Sprint(sync.Message, sync.Failures))
	for form, option := range forms {
		g.Expect(run("verify", option, "--key", key+".pub", "--insecure-ignore-tlog", "--allow-http-registry",
			p.address+"/"+here+"/"+form+"@"+images[form].digest().String())).To(Succeed())
	}
}
