// Package compliance shows that the audit log suffices: from it alone, a model that shares no code with the registry
// rebuilds what every tag pointed to and what locked it, at every index, through random days in an organization.
package compliance

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

var (
	seed = flag.Uint64("compliance.seed", 0, "run the one day of this seed")
	days = flag.Int("compliance.days", 0, "run this many days on each engine")
)

// size is how long a day is.
type size struct {
	// days are run on each engine, each with phases, in which every client does steps.
	days, phases, steps int
}

func sizes() size {
	s := size{days: 3, phases: 3, steps: 90}
	if os.Getenv("TIDELOCK_SOAK") != "" {
		s = size{days: 30, phases: 5, steps: 200}
	}
	if *days > 0 {
		s.days = *days
	}
	if *seed != 0 {
		s.days = 1
	}
	return s
}

const clients = 6

func TestTheLogAloneTellsAll(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			s, happened := sizes(), map[string]int{}
			for range s.days {
				number := *seed
				if number == 0 {
					number = rand.Uint64() >> 32
				}
				t.Run(fmt.Sprintf("seed=%d", number), func(t *testing.T) {
					d := newDay(t, e, number)
					for phase := range s.phases {
						d.phase(phase, s.steps)
					}
					d.check()
					d.tell(happened)
				})
			}
			t.Log(happened)
			if *seed == 0 && !t.Failed() {
				for _, what := range eventful {
					NewWithT(t).Expect(happened).To(HaveKey(what), "the days were too quiet to show anything")
				}
			}
		})
	}
}

// eventful is what happens on every few days.
var eventful = []string{
	"create_tag", "move_tag", "move_tag append", "revert_tag", "delete_tag", "delete_tag expiration", "change_tag_expiration move",
	"create_immutability_policy", "update_immutability_policy", "update_immutability_policy deletion_requested", "delete_immutability_policy",
	"tag_created_immutable_by_policy", "change_tag_immutability policy placed", "change_tag_immutability policy removed",
	"change_tag_immutability manual placed", "change_tag_immutability manual removed",
	"apply_immutability_policy_retroactive apply", "apply_immutability_policy_retroactive release",
	"push_repo_failed", "push_repo_failed repeat_of", "delete_tag_failed", "delete_tag_failed repeat_of",
}

// tell counts what the log tells of, by kind and by what makes a difference.
func (d *day) tell(happened map[string]int) {
	for _, e := range d.follower.since(0) {
		what := []string{e.Kind}
		for _, field := range []string{"trigger", "hold", "sweep"} {
			if e.has(field) {
				what = append(what, e.text(field))
			}
		}
		for _, field := range []string{"append", "repeat_of", "subject_digest", "deletion_requested", "deletion_withdrawn", "adopted", "orphaned"} {
			if e.has(field) {
				what = append(what, field)
			}
		}
		happened[strings.Join(what, " ")]++
	}
}

// day is a day in an organization.
type day struct {
	t       *testing.T
	g       *WithT
	p       *process
	random  *rand.Rand
	clients []*client
	// legislator changes policies through the REST API, operator through objects.
	legislator *client
	operator   *operator
	content    *content
	policies   known
	follower   *follower
	// model has carried out all entries that were looked at.
	model *model
	// writers is held by each call of a client, and by who stops them.
	writers sync.RWMutex
	answers atomic.Int64

	mu    sync.Mutex
	calls []*call
	// compared counts the comparisons.
	compared int
}

func newDay(t *testing.T, e engine, seed uint64) *day {
	d := &day{t: t, g: NewWithT(t), p: newProcess(t, e), random: rand.New(rand.NewPCG(seed, 0)), content: newContent(), model: newModel()}
	d.follower = &follower{p: d.p}
	for n := range clients {
		d.clients = append(d.clients, &client{d: d, r: rand.New(rand.NewPCG(seed, uint64(n)+1))})
	}
	d.legislator = &client{d: d, r: rand.New(rand.NewPCG(seed, clients+2))}
	d.operator = &operator{client: &client{d: d, r: rand.New(rand.NewPCG(seed, clients+1))}, objects: map[string]*object{}}
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { d.follower.follow(ctx) })
	t.Cleanup(func() {
		stop()
		following.Wait()
	})
	d.operator.sync()
	return d
}

// do carries out a call and records it. A client that gets no answer waits until there is a registry again.
func (d *day) do(c *call) {
	d.writers.RLock()
	c.begin = time.Now()
	status, answer, err := d.p.call(d.t.Context(), c.method, c.path, c.contentType, c.body)
	c.end, c.status, c.answer = time.Now(), status, answer
	d.writers.RUnlock()
	// 503 says that the registry does not know.
	if c.lost = err != nil || status == http.StatusServiceUnavailable; c.lost {
		c.status = 0
		d.awaitRegistry()
	} else if !slices.Contains(c.allowed, status) {
		d.t.Errorf("unforeseen: %v", c)
	}
	d.mu.Lock()
	d.calls = append(d.calls, c)
	d.mu.Unlock()
	d.answers.Add(1)
}

// awaitRegistry waits until there is a registry again, or ends the client with the test.
func (d *day) awaitRegistry() {
	for d.p.ready(d.t.Context()) != nil {
		select {
		case <-d.t.Context().Done():
			runtime.Goexit()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// phase is a part of the day: everybody works, is stopped for a look now and then, and loses the registry once.
func (d *day) phase(number, steps int) {
	var working sync.WaitGroup
	d.t.Cleanup(working.Wait)
	begun := d.answers.Load()
	for _, c := range d.clients {
		working.Go(func() {
			for range steps {
				c.work()
			}
		})
	}
	working.Go(func() {
		for range steps / 6 {
			d.legislator.legislate()
		}
	})
	working.Go(func() {
		for range steps / 6 {
			d.operator.work()
		}
	})
	total := int64(len(d.clients) * steps)
	for _, part := range []struct {
		until int64
		do    func()
	}{{total / 4, d.pause}, {total / 2, d.fault}, {total * 3 / 4, d.pause}} {
		d.await(begun + part.until + d.random.Int64N(total/8))
		part.do()
	}
	working.Wait()
	if number%2 == 1 {
		d.p.restart(syscall.SIGTERM)
	}
	d.settle()
}

// await waits until clients got so many answers.
func (d *day) await(answers int64) {
	d.g.Eventually(d.answers.Load).WithTimeout(5 * time.Minute).WithPolling(time.Millisecond).Should(BeNumerically(">=", answers))
}

func (d *day) fault() { d.p.restart(syscall.SIGKILL) }

// pause stops those who write and compares what the registry shows with what the log says. Sweeps and expirations go on
// beside it: what they do is in the log too, so a comparison counts if the log did not grow meanwhile.
func (d *day) pause() {
	d.writers.Lock()
	defer d.writers.Unlock()
	d.g.Eventually(d.compare).WithTimeout(time.Minute).WithPolling(time.Millisecond).Should(BeTrue(), "the log never stood still")
}

// settle lets sweeps finish and compares.
func (d *day) settle() {
	d.g.Eventually(func() string {
		d.look()
		return d.model.unsettled()
	}).WithTimeout(time.Minute).WithPolling(20 * time.Millisecond).Should(BeEmpty())
	d.pause()
}

// look reads what is new in the log, and carries it out.
func (d *day) look() int64 {
	size, err := d.follower.look(d.t.Context())
	d.g.Expect(err).NotTo(HaveOccurred())
	for _, e := range d.follower.since(d.model.size) {
		if err := d.model.add(e); err != nil {
			d.t.Fatalf("%v: %v\n%s", e, err, d.context(e))
		}
	}
	return size
}

// compare reports whether the log stood still for a comparison, which must find no difference.
func (d *day) compare() bool {
	before := d.look()
	shown := d.p.state()
	if d.look() != before {
		return false
	}
	if difference := shown.difference(d.model.state()); difference != "" {
		d.t.Fatalf("with %d entries in the log\n%s", before, difference)
	}
	d.compared++
	return true
}

// context lists the latest entries about the same tag or policy.
func (d *day) context(e entry) string {
	const enough = 25
	var lines []string
	for _, other := range d.follower.since(0)[:e.Index+1] {
		sameTag := e.text("tag") != "" && other.repository() == e.repository() && other.text("tag") == e.text("tag")
		samePolicy := e.has("policy_uuid") && other.text("policy_uuid") == e.text("policy_uuid") && strings.HasSuffix(other.Kind, "_policy")
		if sameTag || samePolicy {
			lines = append(lines, other.String())
		}
	}
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}

// somePolicy is the path of a policy that somebody made through the REST API, gone or not.
func (d *day) somePolicy(r *rand.Rand) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var made []string
	for _, c := range d.calls {
		if c.status == http.StatusCreated && strings.HasSuffix(c.path, "/immutabilitypolicy/") {
			made = append(made, c.path+uuidOf(c))
		}
	}
	if len(made) == 0 {
		return ""
	}
	return made[r.IntN(len(made))]
}

// between lists the entries that may have come from a call.
func (d *day) between(c *call) []entry { return d.follower.since(0)[c.from:c.to] }

func (d *day) any(c *call, is func(entry) bool) bool { return slices.ContainsFunc(d.between(c), is) }

func (d *day) count(c *call, is func(entry) bool) (n int) {
	for _, e := range d.between(c) {
		if is(e) {
			n++
		}
	}
	return n
}

// check holds everything that clients were told against the log, and the log against what they asked for.
func (d *day) check() {
	entries := d.follower.since(0)
	lost, refused := 0, 0
	for _, c := range d.calls {
		if c.from, c.to = d.follower.bounds(c.begin, c.end); c.lost {
			c.to = int64(len(entries))
			lost++
			continue
		}
		if c.fact != nil {
			if wrong := c.fact(d.model, c); wrong != "" {
				d.t.Errorf("%v: %s", c, wrong)
			}
		}
		if _, is := c.refused(); is {
			refused++
			d.checkRefused(c)
		}
	}
	first := 0
	for _, e := range entries {
		switch {
		case isRefusal(e):
			first++
			d.checkRefusal(e)
		case !d.bySystem(e) && !d.caused(e, func(*call) bool { return true }):
			d.t.Errorf("nobody asked for %v", e)
		}
	}
	d.t.Logf("%d calls, %d without an answer, %d refused with %d first entries; %d entries; %d comparisons", len(d.calls), lost, refused, first, len(entries), d.compared)
}

// caused reports whether an entry may have come from a call.
func (d *day) caused(e entry, by func(*call) bool) bool {
	return slices.ContainsFunc(d.calls, func(c *call) bool {
		return c.from <= e.Index && e.Index < c.to && c.mayCause(e) && by(c)
	})
}

// bySystem reports whether an entry tells what the registry does by itself, or what follows from the entries before; the
// model has checked that.
func (d *day) bySystem(e entry) bool {
	switch e.Kind {
	case "tag_created_immutable_by_policy", "apply_immutability_policy_retroactive", "garbage_collection", "create_signing_key":
		return true
	case "change_tag_immutability":
		return e.text("trigger") == "policy"
	case "change_tag_expiration":
		return e.text("trigger") != "manual"
	case "delete_tag":
		return e.text("trigger") == "expiration"
	case "immutability_dry_run": // of the deletion of an expired tag
		return e.Performer.Kind == "system" || e.has("repeat_of")
	case "delete_immutability_policy":
		at, err := time.Parse(time.RFC3339, d.model.policies[e.text("policy_uuid")].deleteAt)
		return err == nil && !e.Time.Before(at)
	}
	return e.has("repeat_of")
}

// window is how long repeats of a refusal are counted, and a little more.
const window = 65 * time.Second

// checkRefused looks for the first entry of an attempt that was refused.
func (d *day) checkRefused(c *call) {
	born := d.p.lifeOf(c.begin)
	recent := 0
	for _, e := range d.model.refusals {
		if e.Index >= c.to || e.Time.Before(c.begin.Add(-window)) || e.Time.Before(born) {
			continue
		}
		if recent++; isRefusal(e) && c.mayRepeat(e) {
			return
		}
	}
	// Past 100 windows a caller has one for each repository.
	if recent < 100 {
		d.t.Errorf("%v: no entry says that it was refused", c)
	}
}

// checkRefusal looks for the attempt that an entry tells of, and for the lock that refused it at some time between the
// attempt and the entry.
func (d *day) checkRefusal(e entry) {
	if !d.caused(e, func(c *call) bool {
		_, refused := c.refused()
		return (c.lost || refused) && d.lockRefused(e, c.from)
	}) {
		d.t.Errorf("nothing locked what was refused: %v", e)
	}
}

// lockRefused reports whether the lock that an entry of a refusal names was there when the log had from entries, or later.
func (d *day) lockRefused(e entry, from int64) bool {
	locked := func(name tagName, digest, by string) bool {
		return d.model.ever(name, from, e.Index, func(v view) bool {
			return v.immutable() && (digest == "" || v.digest == digest) && (by == "" || slices.Contains(v.locks, by))
		})
	}
	named := func(field string) (names []tagName) {
		list, _ := e.Metadata[field].([]any)
		for _, item := range list {
			text, _ := item.(string)
			repository := e.repository()
			if path, tag, ok := strings.Cut(text, ":"); ok {
				repository, text = e.text("namespace")+"/"+path, tag
			}
			names = append(names, tagName{repository, text})
		}
		return names
	}
	by := e.text("policy_uuid")
	switch {
	case e.has("sample_tags"):
		return len(named("sample_tags")) > 0 && !slices.ContainsFunc(named("sample_tags"), func(name tagName) bool { return !locked(name, "", "") })
	case e.has("subject_digest"):
		return len(named("subject_tags")) > 0 && !slices.ContainsFunc(named("subject_tags"), func(name tagName) bool { return !locked(name, "", "") })
	case by == "":
		by = byHand
	}
	return locked(tagName{e.repository(), e.text("tag")}, e.text("manifest_digest"), by)
}
