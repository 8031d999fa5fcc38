package crash

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/meta"
)

// newReplicas starts three registries that share all that they keep.
func newReplicas(t *testing.T) []*process {
	first := newProcess(t, engines[len(engines)-1])
	shared := engine{name: "shared", prepare: func(*testing.T, string) deployment { return first.deployment }}
	return []*process{first, newProcess(t, shared), newProcess(t, shared)}
}

// send sends a request to a path or to an address that the registry gave.
func (p *process) send(method, target string, body io.Reader, header http.Header) *http.Response {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, *p.url.Load()+target, body)
	p.g.Expect(err).NotTo(HaveOccurred())
	request.SetBasicAuth("admin", password)
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := p.client.Do(request)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func TestAnUploadGoesOnAtAnotherReplica(t *testing.T) {
	g := NewWithT(t)
	replicas := newReplicas(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	d := digest.FromBytes(content)
	const half = 8<<20 + 5

	begun := replicas[0].send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil, nil)
	g.Expect(begun.StatusCode).To(Equal(http.StatusAccepted))
	location := begun.Header.Get("Location")
	chunk := replicas[1].send(http.MethodPatch, location, bytes.NewReader(content[:half]), http.Header{"Content-Range": {fmt.Sprintf("0-%d", half-1)}})
	g.Expect(chunk.StatusCode).To(Equal(http.StatusAccepted))

	t.Log("a replica dies while a client sends it the rest")
	body, client := io.Pipe()
	lost := make(chan error, 1)
	go func() {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, *replicas[1].url.Load()+location, body)
		if err == nil {
			request.SetBasicAuth("admin", password)
			_, err = replicas[1].client.Do(request)
		}
		lost <- err
	}()
	_, err := client.Write(content[half : half+1000])
	g.Expect(err).NotTo(HaveOccurred())
	_, err = client.Write(content[half+1000 : half+1<<20]) // what was written before is on its way by then
	g.Expect(err).NotTo(HaveOccurred())
	g.Eventually(func() int { return replicas[0].send(http.MethodGet, location, nil, nil).StatusCode }).WithTimeout(10*time.Second).
		Should(Equal(http.StatusConflict), "while it is being written")
	replicas[1].kill()
	g.Expect(client.CloseWithError(io.ErrUnexpectedEOF)).To(Succeed())
	g.Expect(<-lost).To(HaveOccurred())

	t.Log("another one takes over when the dead one's lease is over")
	early := replicas[2].send(http.MethodPatch, location, bytes.NewReader(content[half:]), http.Header{"Content-Range": {fmt.Sprintf("%d-%d", half, len(content)-1)}})
	g.Expect(early.StatusCode).To(Equal(http.StatusConflict))
	g.Eventually(func() int {
		response := replicas[2].send(http.MethodPatch, location, bytes.NewReader(content[half:]), http.Header{"Content-Range": {fmt.Sprintf("%d-%d", half, len(content)-1)}})
		return response.StatusCode
	}).WithTimeout(2 * core.UploadLease).WithPolling(100 * time.Millisecond).Should(Equal(http.StatusAccepted))
	end := replicas[0].send(http.MethodPut, location+"?digest="+d.String(), nil, nil)
	g.Expect(end.StatusCode).To(Equal(http.StatusCreated))
	for _, survivor := range []*process{replicas[0], replicas[2]} {
		status, got, err := survivor.call(http.MethodGet, "/v2/"+repository+"/blobs/"+d.String(), "", nil)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(status).To(Equal(http.StatusOK))
		g.Expect(digest.FromBytes(got)).To(Equal(d))
	}
}

func TestASweepGoesOnAtAnotherReplica(t *testing.T) {
	g := NewWithT(t)
	replicas := newReplicas(t)
	survivor := replicas[2]
	replicas[0].fill(newImage("layer", "filled"))
	interrupted := 0
	for round := range 5 {
		var policy struct{ UUID string }
		replicas[round%3].post("/api/v1/organization/team-a/immutabilitypolicy/", fmt.Sprintf(`{"tagPattern":"filled[.].{0,%d}"}`, 100+round), &policy)
		g.Eventually(func() int { return len(survivor.holds(policy.UUID, 1)) }).WithTimeout(time.Minute).WithPolling(time.Millisecond).Should(Equal(1))
		replicas[0].kill()
		replicas[1].kill()
		if survivor.sweeps() > 0 {
			interrupted++
		}
		g.Eventually(survivor.sweeps).WithTimeout(time.Minute).WithPolling(50 * time.Millisecond).Should(BeZero())
		held := map[string]int{}
		for _, tag := range survivor.holds(policy.UUID, filled+1) {
			held[tag]++
		}
		g.Expect(held).To(HaveLen(filled))
		g.Expect(held).To(HaveEach(1), "one entry for each hold")
		replicas[0].start()
		replicas[1].start()
	}
	g.Expect(interrupted).To(BeNumerically(">", 0), "no sweep was open when its replicas were killed")
}

// holds lists the tags that a policy's sweep has entries for, at most limit.
func (p *process) holds(uuid string, limit int) (tags []string) {
	p.t.Helper()
	for next := ""; len(tags) < limit; {
		var page struct {
			Logs []struct {
				Metadata struct{ Tag string }
			}
			NextPage string `json:"next_page"`
		}
		path := "/api/v1/organization/team-a/logs?kind=change_tag_immutability&policy=" + uuid
		if next != "" {
			path += "&next_page=" + next
		}
		p.get(path, &page)
		for _, entry := range page.Logs {
			tags = append(tags, entry.Metadata.Tag)
		}
		if next = page.NextPage; next == "" {
			break
		}
	}
	return tags[:min(limit, len(tags))]
}

// sweeps counts the sweeps that are open.
func (p *process) sweeps() int {
	var open []meta.Sweep
	p.read(func(r *meta.Reader) (err error) {
		open, err = r.OpenSweeps(10)
		return err
	})
	return len(open)
}

func TestReplicasKnowTheSameAccounts(t *testing.T) {
	g := NewWithT(t)
	replicas := newReplicas(t)
	g.Expect(replicas[0].pushBlobs(repository, newImage("layer", "v1"))).To(BeTrue())
	status, err := replicas[0].putManifest(repository, "v1", newImage("layer", "v1"))
	g.Expect(status, err).To(Equal(http.StatusCreated))

	t.Log("a robot that one replica made logs in at the next, and its token is good at the last")
	robot := replicas[0].send(http.MethodPut, "/api/v1/organization/team-a/robots/ci", nil, nil)
	g.Expect(robot.StatusCode).To(Equal(http.StatusCreated))
	var secret struct{ Name, Token string }
	g.Expect(json.NewDecoder(robot.Body).Decode(&secret)).To(Succeed())
	granted := replicas[1].send(http.MethodPut, "/api/v1/repository/"+repository+"/permissions/user/"+secret.Name, bytes.NewReader([]byte(`{"role":"read"}`)),
		http.Header{"Content-Type": {"application/json"}})
	g.Expect(granted.StatusCode).To(Equal(http.StatusOK))
	token := func(p *process) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, *p.url.Load()+"/v2/auth?service=tidelock&scope=repository:"+repository+":pull", nil)
		g.Expect(err).NotTo(HaveOccurred())
		request.SetBasicAuth(secret.Name, secret.Token)
		response, err := p.client.Do(request)
		g.Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		var answer struct{ Token string }
		_ = json.NewDecoder(response.Body).Decode(&answer)
		return answer.Token
	}
	pull := func(p *process, token string) int {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, *p.url.Load()+"/v2/"+repository+"/manifests/v1", nil)
		g.Expect(err).NotTo(HaveOccurred())
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := p.client.Do(request)
		g.Expect(err).NotTo(HaveOccurred())
		defer response.Body.Close()
		return response.StatusCode
	}
	var issued string
	g.Eventually(func() int {
		issued = token(replicas[1])
		return pull(replicas[2], issued)
	}).WithTimeout(10 * time.Second).Should(Equal(http.StatusOK))

	t.Log("when it is gone at one, its token is refused at all")
	gone := replicas[0].send(http.MethodDelete, "/api/v1/organization/team-a/robots/ci", nil, nil)
	g.Expect(gone.StatusCode).To(Equal(http.StatusNoContent))
	for _, p := range replicas {
		g.Eventually(func() int { return pull(p, issued) }).WithTimeout(5 * time.Second).WithPolling(50 * time.Millisecond).Should(Equal(http.StatusUnauthorized))
	}
}
