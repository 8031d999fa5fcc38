package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// layers is how many layers the images share that stay, and half of those that go: few, so that what is collected is
// pushed again soon.
const layers = 4

// push pushes an image under a tag and reports whether that was acknowledged.
func (p *process) push(tag string, i image) bool {
	if !p.pushBlobs(repository, i) {
		return false
	}
	status, err := p.putManifest(repository, tag, i)
	return err == nil && status == http.StatusCreated
}

// offline runs a command on the data directory.
func (p *process) offline(arguments ...string) string {
	all := slices.Concat([]string{"registry", "--data-dir", filepath.Join(p.dir, "data")}, p.flags, arguments)
	cmd := exec.Command(p.binary, all...)
	out, err := cmd.Output()
	p.g.Expect(err).NotTo(HaveOccurred(), string(out)+p.log())
	return string(out)
}

// read looks into the database.
func (p *process) read(fn func(*meta.Reader) error) {
	store, err := p.open(context.Background())
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(store.Read(context.Background(), fn)).To(Succeed())
	p.g.Expect(store.Close()).To(Succeed())
}

// collecting reports whether garbage collection was left in the middle: something is gone that the log does not know of.
func (p *process) collecting() bool {
	var n domain.Collected
	p.read(func(r *meta.Reader) (err error) {
		n, err = r.Collected()
		return err
	})
	return n != (domain.Collected{})
}

// blobs counts the blobs.
func (p *process) blobs() int {
	var list []meta.ScannedBlob
	p.read(func(r *meta.Reader) (err error) {
		list, err = r.ScanBlobs("", time.Time{}, 1_000_000)
		return err
	})
	return len(list)
}

func TestGarbageCollectionLosesNothingThatIsInUse(t *testing.T) {
	onEachEngine(t, collectGarbage, "--gc-interval=1ms", "--gc-grace=50ms", "--gc-delay=0s", "--gc-untagged-manifests")
}

func collectGarbage(t *testing.T, p *process) {
	g := p.g
	var mu sync.Mutex
	// standing are the images that were acknowledged and are not asked to go.
	standing := map[string]image{}
	interruptions, pushes := 0, 0

	// As a rule one kill in a few hits a run in the middle.
	for round := 0; round < rounds() || interruptions == 0 && round < 10*rounds(); round++ {
		var wg sync.WaitGroup
		acks := make(chan struct{}, 1_000_000)
		for worker := range pushers {
			wg.Go(func() {
				for n := 0; ; n++ {
					tag, layer := fmt.Sprintf("t%d.%d.%d", round, worker, n), fmt.Sprint("going ", rand.IntN(layers))
					keep := rand.IntN(20) == 0
					switch {
					case keep:
						layer = fmt.Sprint("staying ", rand.IntN(layers))
					case rand.IntN(2) == 0:
						layer = "only of " + tag
					}
					i := newImage(layer, tag)
					for !p.push(tag, i) {
						// So short a grace can be over between two requests of a push.
						if status, _, err := p.call(http.MethodGet, "/healthz", "", nil); err != nil || status != http.StatusOK {
							return
						}
					}
					acks <- struct{}{}
					mu.Lock()
					pushes++
					if keep {
						standing[tag] = i
					}
					mu.Unlock()
					if keep {
						continue
					}
					if status, err := p.deleteManifest(repository, i.digest.String()); err != nil || status != http.StatusAccepted {
						return
					}
				}
			})
		}
		for range 40 + rand.IntN(60) {
			select {
			case <-acks:
			case <-time.After(20 * time.Second):
				t.Fatal("no push was acknowledged in time\n" + p.log())
			}
		}
		p.kill()
		wg.Wait()
		if p.collecting() {
			interruptions++
		}
		p.offline("fsck")
		p.start()
		for tag, i := range standing {
			for path, content := range map[string][]byte{"manifests/" + tag: i.manifest, "blobs/" + digest.FromBytes(i.layer).String(): i.layer} {
				status, body, err := p.call(http.MethodGet, "/v2/"+repository+"/"+path, "", nil)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(status).To(Equal(http.StatusOK), tag)
				g.Expect(body).To(Equal(content), tag)
			}
		}
	}
	p.kill()
	t.Logf("%d kills hit garbage collection in the middle; %d pushes were acknowledged, %d stand", interruptions, pushes, len(standing))
	g.Expect(interruptions).To(BeNumerically(">", 0), "no collection was killed in the middle")

	t.Log("nothing is left of what is deleted")
	p.offline("gc", "--gc-grace=0s", "--gc-untagged-manifests")
	var plan struct{ Links, Blobs, Orphans, Removed int64 }
	g.Expect(json.Unmarshal([]byte(p.offline("gc", "--dry-run", "--json", "--gc-grace=0s")), &plan)).To(Succeed())
	g.Expect(plan).To(BeZero())
	if p.keys != nil {
		g.Expect(p.keys()).To(Equal(p.blobs()))
	}
	p.offline("fsck")
}
