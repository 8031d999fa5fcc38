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
	// organizations are busy at once, each with clientsEach clients, for livesEach rounds: the checker's work grows with
	// the number of operations that may have happened at any time, those that a fault left without an answer.
	organizations = 3
	clientsEach   = 4
	livesEach     = 2
)

// rounds is how often a fault happens: few times as a rule, often in `make soak`.
func rounds(short int) int {
	if os.Getenv("TIDELOCK_SOAK") != "" {
		return 200
	}
	return short
}

func TestHistoriesAreLinearizable(t *testing.T) {
	onEachEngine(t, func(t *testing.T, p *process) {
		var all, now []*organization
		for round := range rounds(4) {
			if round%livesEach == 0 {
				now = nil
				for n := range organizations {
					now = append(now, newOrganization(p, fmt.Sprintf("org-%d-%d", round, n)))
				}
				all = append(all, now...)
			}
			p.busy(now, func() { p.fault(round) })
			for _, o := range now {
				o.rememberPolicies()
			}
			if round%livesEach == livesEach-1 || round == rounds(4)-1 {
				for _, o := range now {
					p.checkClosures(o.repository())
					o.readAll()
					o.unlockAll()
					o.check(t)
				}
			}
		}
		log := readLog(p)
		counts := [2]int{}
		for _, o := range all {
			log.compare(p, o.name, "app")
			o.compareLog(log)
			for _, op := range o.history {
				if op.Output.(output).lost {
					counts[1]++
				}
				counts[0]++
			}
		}
		t.Logf("%d faults; %d operations in %d histories, of which %d had no answer; %d audit entries", rounds(4), counts[0], len(all), counts[1], log.size)
	})
}

// fault is one fault: the registry is killed and started again or, if the database can be, that is restarted.
func (p *process) fault(round int) {
	if p.restart != nil && round%2 == 1 {
		p.restart()
		p.awaitReady()
	} else {
		p.kill()
		p.start()
	}
}

// busy runs the clients of organizations until, at some random moment, the fault has hit. A client that gets no answer
// waits for the end of the fault, and all go on for a while then.
func (p *process) busy(list []*organization, fault func()) {
	const atMost, after = 300, 5
	answers := make(chan struct{}, 1_000_000)
	hit := make(chan struct{})
	var clients sync.WaitGroup
	for n, o := range list {
		for c := range clientsEach {
			clients.Go(func() {
				client := n*clientsEach + c
				for {
					select {
					case <-hit:
						for range after {
							o.do(client, o.choose())
						}
						return
					default:
					}
					if _, answered := o.do(client, o.choose()); !answered {
						<-hit
						continue
					}
					answers <- struct{}{}
				}
			})
		}
	}
	for range rand.IntN(atMost) {
		p.g.Eventually(answers).WithTimeout(30 * time.Second).Should(Receive())
	}
	fault()
	close(hit)
	clients.Wait()
}

// rememberPolicies learns what became of the policies whose creation or deletion had no answer.
func (o *organization) rememberPolicies() { o.mustDo(input{kind: opListPolicies}) }

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
			WithTimeout(20*time.Second).Should(Equal(http.StatusCreated), o.name)
		o.p.g.Expect(o.mustDo(input{kind: opInspect, tag: tag}).immutable).To(BeFalse(), o.name)
		o.mustDo(input{kind: opPush, tag: tag, image: o.newImageNumber()})
	}
}
