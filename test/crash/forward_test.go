package crash

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/meta"
)

// listener is a webhook that refuses some requests and accepts some without an answer, as receivers do on bad days.
type listener struct {
	*httptest.Server
	requests atomic.Int64
	mu       sync.Mutex
	// entries are what was accepted, as it came; hashes what each index said first.
	indices []int64
	hashes  map[int64]string
	changed []int64
}

func newListener(t *testing.T) *listener {
	l := &listener{hashes: map[int64]string{}}
	l.Server = httptest.NewServer(http.HandlerFunc(l.serve))
	t.Cleanup(l.Close)
	return l
}

func (l *listener) serve(w http.ResponseWriter, r *http.Request) {
	var events []struct {
		Data struct {
			Index int64
			Hash  string
		}
	}
	n := l.requests.Add(1)
	if err := json.NewDecoder(r.Body).Decode(&events); err != nil || n%11 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	l.mu.Lock()
	for _, e := range events {
		l.indices = append(l.indices, e.Data.Index)
		if hash, again := l.hashes[e.Data.Index]; again && hash != e.Data.Hash {
			l.changed = append(l.changed, e.Data.Index)
		}
		l.hashes[e.Data.Index] = e.Data.Hash
	}
	l.mu.Unlock()
	if n%7 == 0 {
		panic(http.ErrAbortHandler) // accepted, but the registry does not learn of it
	}
}

func (l *listener) entries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.hashes)
}

func TestForwardingLosesNoEntry(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			to, secret := newListener(t), filepath.Join(t.TempDir(), "secret")
			key := base64.StdEncoding.EncodeToString(make([]byte, 32))
			NewWithT(t).Expect(os.WriteFile(secret, []byte(key), 0o600)).To(Succeed())
			forwardLog(newProcess(t, e, "--audit-forward", to.URL+"#secret-file="+url.QueryEscape(secret)), to)
		})
	}
}

func forwardLog(p *process, to *listener) {
	g := p.g
	const kills = 2
	var images []image
	for i := range 4 {
		images = append(images, newImage("a layer", fmt.Sprint(i)))
	}
	for round := range kills + 1 {
		before := to.entries()
		for i := range 40 {
			g.Expect(p.push(fmt.Sprintf("t%d", i%4), images[(i+round)%len(images)])).To(BeTrue())
		}
		g.Eventually(to.entries).WithTimeout(2 * time.Minute).Should(BeNumerically(">", before))
		if round < kills {
			p.kill()
			p.start()
		}
	}
	size := func() (size int64) {
		var log struct {
			Logs []struct{ Index int64 }
		}
		p.get("/api/v1/superuser/logs", &log)
		return log.Logs[0].Index + 1
	}()
	g.Eventually(to.entries).WithTimeout(2 * time.Minute).Should(BeNumerically(">=", size))
	to.mu.Lock()
	defer to.mu.Unlock()
	next := int64(0)
	for _, index := range to.indices {
		g.Expect(index).To(BeNumerically("<=", next), "an entry came before the one below it")
		next = max(next, index+1)
	}
	g.Expect(next).To(BeNumerically(">=", size))
	g.Expect(to.changed).To(BeEmpty())
	p.kill()
	p.read(func(r *meta.Reader) error {
		g.Expect(r.LogSize()).To(Equal(next))
		return nil
	})
}
