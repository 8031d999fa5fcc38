// Package crash hits a registry with faults, SIGKILL above all, in the middle of what clients ask of it, and looks at what
// is left: no acknowledged change is lost, the audit log tells all of it, and every answer fits to one order of what
// happened.
package crash

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const (
	// organizations have recorded histories at once, each of clientsEach clients, for livesEach rounds: the checker's work
	// grows with the number of operations that may have happened at any time, those that a fault left without an answer.
	organizations = 3
	clientsEach   = 4
	livesEach     = 2
)

// rounds is how often a fault happens: few times as a rule, often in `make soak`.
func rounds() int {
	if os.Getenv("TIDELOCK_SOAK") != "" {
		return 200
	}
	return 4
}

// Each round ends with a fault in the middle of pushes, deletes, the sweeps of a new policy and of the one before over
// many tags, and of all that the clients of small organizations can think of.
func TestFaults(t *testing.T) {
	onEachEngine(t, func(t *testing.T, p *process) {
		p.fill(newImage("layer of filled", ""))
		var all, present []*organization
		var everything []*images
		policy, interrupted, undecided := "", 0, 0
		for round := range rounds() {
			if round%livesEach == 0 {
				present = p.newOrganizations(round)
				all = append(all, present...)
			}
			s := newImages()
			everything = append(everything, s)

			c := p.begin(round, present, s)
			c.await(rand.IntN(200))
			policy = p.replacePolicy(round, policy)
			if round%4 < 2 {
				p.awaitSweep(policy)
			} else {
				c.await(rand.IntN(100))
			}
			if p.fault(round) {
				interrupted++
			}
			c.end()

			p.checkLocked(round)
			s.check(p)
			for _, o := range present {
				o.mustDo(input{kind: opListPolicies})
				if round%livesEach == livesEach-1 {
					p.checkClosures(o.repository())
					o.readAll()
					o.unlockAll()
					if !o.check(t) {
						undecided++
					}
				}
			}
		}
		p.g.Expect(interrupted).To(BeNumerically(">", 0), "no sweep was interrupted in the middle")
		// Operations without an answer may have happened at any time, and now and then there are too many orders.
		p.g.Expect(undecided).To(BeNumerically("<=", len(all)/4), "most histories must be decided")
		p.checkClosures(repository)
		for _, s := range everything {
			s.check(p)
		}
		log := p.checkLog(all, everything)
		t.Logf("%d faults, %d in the middle of a sweep; %s; %s; %d audit entries", rounds(), interrupted, countImages(everything), countHistories(all), log.size)
	})
}

func (p *process) newOrganizations(round int) (list []*organization) {
	for n := range organizations {
		list = append(list, newOrganization(p, fmt.Sprintf("org-%d-%d", round, n)))
	}
	return list
}

// fault is one fault: the registry is killed and started again or, if the database can be, that is restarted. It reports
// whether the registry was killed in the middle of a sweep.
func (p *process) fault(round int) (interrupted bool) {
	if p.restart != nil && round%3 == 2 {
		p.restart()
		p.awaitReady()
		return false
	}
	p.kill()
	interrupted = p.interrupted()
	p.start()
	return interrupted
}

// crowd is the clients of one round.
type crowd struct {
	p       *process
	clients sync.WaitGroup
	// answers has something for each answer that a client got; over is closed when the fault is over.
	answers chan struct{}
	over    chan struct{}
}

func (p *process) begin(round int, list []*organization, s *images) *crowd {
	c := &crowd{p: p, answers: make(chan struct{}, 1_000_000), over: make(chan struct{})}
	for client := range pushers {
		c.clients.Go(func() { c.pushAndDelete(round, client, s) })
	}
	for n, o := range list {
		for client := range clientsEach {
			c.clients.Go(func() { c.work(o, n*clientsEach+client) })
		}
	}
	return c
}

// await waits for answers.
func (c *crowd) await(n int) {
	for range n {
		c.p.g.Eventually(c.answers).WithTimeout(30 * time.Second).Should(Receive())
	}
}

// end lets the clients finish, after the fault.
func (c *crowd) end() {
	close(c.over)
	c.clients.Wait()
}

// isOver reports whether the fault is over.
func (c *crowd) isOver() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// work is a client of an organization. One that gets no answer waits until the fault is over. Then there are a few
// operations more.
func (c *crowd) work(o *organization, client int) {
	const after = 5
	for {
		if c.isOver() {
			for range after {
				o.do(client, o.choose())
			}
			return
		}
		if _, answered := o.do(client, o.choose()); answered {
			c.answers <- struct{}{}
		} else {
			<-c.over
		}
	}
}

// checkLog holds the audit log against what the registry shows, and against what it answered.
func (p *process) checkLog(all []*organization, everything []*images) *auditLog {
	log := readLog(p)
	log.compare(p, "team-a", "app")
	for _, s := range everything {
		s.compareLog(p.g, log)
	}
	for _, o := range all {
		log.compare(p, o.name, "app")
		o.compareLog(log)
	}
	return log
}

func countImages(everything []*images) string {
	present, gone, unsure := 0, 0, 0
	for _, s := range everything {
		present, gone, unsure = present+len(s.present), gone+len(s.gone), unsure+len(s.unsure)
	}
	return fmt.Sprintf("%d pushes and %d deletes acknowledged, %d without an answer", present+gone, gone, unsure)
}

func countHistories(all []*organization) string {
	operations, lost := 0, 0
	for _, o := range all {
		operations += len(o.history)
		for _, op := range o.history {
			if op.Output.(output).lost {
				lost++
			}
		}
	}
	return fmt.Sprintf("%d histories of %d operations, %d of them without an answer", len(all), operations, lost)
}

// mustDo carries out an operation that must be answered.
func (o *organization) mustDo(in input) output {
	out, answered := o.do(0, in)
	o.p.g.Expect(answered).To(BeTrue(), in.String())
	return out
}

// readAll reads everything that there is: what was acknowledged before and is not there now breaks the history.
func (o *organization) readAll() {
	for tag := range modelTags {
		o.mustDo(input{kind: opReadTag, tag: tag})
		o.mustDo(input{kind: opInspect, tag: tag})
	}
	for n := range o.images {
		o.mustDo(input{kind: opReadManifest, image: n + 1})
	}
}

// unlockAll deletes all policies and removes all holds, once their sweeps are through: then nothing may be locked.
func (o *organization) unlockAll() {
	for n, p := range o.mustDo(input{kind: opListPolicies}).policies {
		if p.live {
			o.mustDo(input{kind: opDeletePolicy, policy: n})
		}
	}
	for tag := range modelTags {
		if o.mustDo(input{kind: opReadTag, tag: tag}).status == http.StatusNotFound {
			continue
		}
		o.p.g.Eventually(func() int { return o.mustDo(input{kind: opUnhold, tag: tag}).status }).
			WithTimeout(time.Minute).Should(Equal(http.StatusCreated), o.name)
		o.mustDo(input{kind: opInspect, tag: tag})
		o.mustDo(input{kind: opPush, tag: tag, image: o.newImageNumber()})
	}
}
