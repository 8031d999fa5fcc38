package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	repository = "team-a/app"
	pushers    = 4
	// filled is how many tags are there from the start: enough for a sweep to be found in the middle.
	filled = 1000
)

// images are the images that clients pushed and deleted, by tag.
type images struct {
	mu sync.Mutex
	// present were acknowledged, gone were deleted with acknowledgement, unsure had a push or a deletion without answer.
	present, gone, unsure map[string]image
}

func newImages() *images {
	return &images{present: map[string]image{}, gone: map[string]image{}, unsure: map[string]image{}}
}

// move notes what became of an image.
func (s *images) move(tag string, i image, to map[string]image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.present, tag)
	delete(s.unsure, tag)
	to[tag] = i
}

// fill pushes one image under many tags.
func (p *process) fill(i image) {
	p.g.Expect(p.pushBlobs(repository, i)).To(BeTrue())
	var clients sync.WaitGroup
	for client := range pushers {
		clients.Go(func() {
			for n := client; n < filled; n += pushers {
				if status, err := p.putManifest(repository, fmt.Sprintf("filled.%d", n), i); err != nil || status != http.StatusCreated {
					p.t.Errorf("filling: %d %v", status, err)
				}
			}
		})
	}
	clients.Wait()
}

// pushAndDelete pushes images, and deletes each third again, by tag or by digest, until there is no answer.
func (c *crowd) pushAndDelete(round, client int, s *images) {
	p := c.p
	for n := 0; !c.isOver(); n++ { // a short fault may pass between two of its requests
		tag := fmt.Sprintf("round%d.%d.%d.kept", round, client, n)
		if n%3 == 0 {
			tag = fmt.Sprintf("round%d.%d.%d.dropped", round, client, n)
		}
		i := newImage("layer of "+tag, "")
		s.move(tag, i, s.unsure)
		if !p.pushBlobs(repository, i) {
			return
		}
		if status, err := p.putManifest(repository, tag, i); err != nil || status != http.StatusCreated {
			return
		}
		s.move(tag, i, s.present)
		c.answers <- struct{}{}
		if n%3 != 0 {
			continue
		}
		reference := tag
		if n%2 == 0 {
			reference = i.digest.String()
		}
		s.move(tag, i, s.unsure)
		if status, err := p.deleteManifest(repository, reference); err != nil || status != http.StatusAccepted {
			return
		}
		s.move(tag, i, s.gone)
	}
}

// replacePolicy withdraws a round's policy for that of the next, so that one sweep ends what another begins.
func (p *process) replacePolicy(round int, old string) (uuid string) {
	const policies = "/api/v1/organization/team-a/immutabilitypolicy/"
	if old != "" {
		status, answer, err := p.call(http.MethodDelete, policies+old, "", nil)
		p.g.Expect(err).NotTo(HaveOccurred())
		p.g.Expect(status).To(Equal(http.StatusOK), string(answer))
	}
	reclaim := domain.Retain
	if round%2 == 1 {
		reclaim = domain.Release
	}
	var created openapi.PolicyID
	p.post(policies, fmt.Sprintf(`{"tagPattern":"filled[.].*|round%d[.].*[.]kept","reclaimPolicy":"%s"}`, round, reclaim), &created)
	return created.UUID
}

// awaitSweep waits until the sweep of a policy has placed its first hold.
func (p *process) awaitSweep(uuid string) {
	p.g.Eventually(func(g Gomega) {
		var page openapi.LogPage
		p.get("/api/v1/organization/team-a/logs?kind=change_tag_immutability&policy="+uuid, &page)
		g.Expect(page.Logs).NotTo(BeEmpty())
	}).WithTimeout(time.Minute).WithPolling(5 * time.Millisecond).Should(Succeed())
}

// interrupted reports whether a sweep was left in the middle.
func (p *process) interrupted() (is bool) {
	store, err := p.open(p.t.Context())
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(store.Read(context.Background(), func(r *meta.Reader) error {
		open, err := r.OpenSweeps(10)
		for _, sweep := range open {
			is = is || sweep.Examined > 0
		}
		return err
	})).To(Succeed())
	p.g.Expect(store.Close()).To(Succeed())
	return is
}

// checkLocked tries to move a tag that the policy in force covers.
func (p *process) checkLocked(round int) {
	other := newImage("layer of filled", fmt.Sprintf("attempt %d", round))
	status, err := p.putManifest(repository, fmt.Sprintf("filled.%d", rand.IntN(filled)), other)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(status).To(Equal(http.StatusUnprocessableEntity))
}

// check reads a round's images: what was acknowledged is there, or gone; what was not is there whole, or not at all.
func (s *images) check(p *process) {
	for tag, i := range s.present {
		p.g.Expect(p.fetch("/v2/"+repository+"/manifests/"+tag, i.digest)).To(Equal(i.manifest))
	}
	for tag := range s.gone {
		status, _, err := p.call(http.MethodGet, "/v2/"+repository+"/manifests/"+tag, "", nil)
		p.g.Expect(err).NotTo(HaveOccurred())
		p.g.Expect(status).To(Equal(http.StatusNotFound), tag)
	}
	for tag, i := range s.unsure {
		status, content, err := p.call(http.MethodGet, "/v2/"+repository+"/manifests/"+tag, "", nil)
		p.g.Expect(err).NotTo(HaveOccurred())
		if status != http.StatusNotFound {
			p.g.Expect(content).To(Equal(i.manifest), tag)
		}
	}
}

// compareLog holds what was acknowledged against the log.
func (s *images) compareLog(g *WithT, log *auditLog) {
	for tag, i := range s.present {
		g.Expect(log.tags[repository]).To(HaveKey(tag))
		g.Expect(log.arrivals[repository+"@"+i.digest.String()]).To(Equal(1), tag)
	}
	for tag, i := range s.gone {
		g.Expect(log.tags[repository]).NotTo(HaveKey(tag))
		g.Expect(log.arrivals[repository+"@"+i.digest.String()]).To(Equal(1), tag)
	}
}
