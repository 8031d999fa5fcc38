package crash

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// byHand stands for the policy of a hold by hand.
const byHand = "by hand"

// auditLog is what the audit log says: all entries, carried out one after the other. The log is in the order of commits,
// so each change must fit to the state that those before it left.
type auditLog struct {
	size     int64
	policies map[string]*loggedPolicy
	// tags are the live tags by repository and name.
	tags map[string]map[string]*loggedTag
	// arrivals counts, by repository@digest, how often a tag came to point to a digest.
	arrivals map[string]int
}

type loggedTag struct {
	digest string
	// holds are the UUIDs of policies, and byHand.
	holds []string
}

type loggedPolicy struct {
	organization string
	revision     float64
	pattern      string
	mode         string
	deleted      bool
}

func newAuditLog() *auditLog {
	return &auditLog{policies: map[string]*loggedPolicy{}, tags: map[string]map[string]*loggedTag{}, arrivals: map[string]int{}}
}

// readLog reads the whole log.
func readLog(p *process) *auditLog {
	log := newAuditLog()
	log.follow(p)
	return log
}

// follow reads what is new in the log.
func (l *auditLog) follow(p *process) {
	var fresh []openapi.LogItem
	for next := ""; ; {
		var page openapi.LogPage
		p.get("/api/v1/superuser/logs?"+next, &page)
		for _, item := range page.Logs {
			if item.Index >= l.size {
				fresh = append(fresh, item)
			}
		}
		if page.NextPage == "" || page.Logs[len(page.Logs)-1].Index <= l.size {
			break
		}
		next = "next_page=" + page.NextPage
	}
	for _, item := range slices.Backward(fresh) {
		p.g.Expect(l.add(item)).To(Succeed(), "entry %d: %s %v", item.Index, item.Kind, item.Metadata)
	}
}

// add carries out the next entry. It reports an error for a gap, and for a change that cannot have happened in the
// state that the entries before it left.
func (l *auditLog) add(item openapi.LogItem) error {
	if item.Index != l.size {
		return fmt.Errorf("index %d follows on %d", item.Index, l.size-1)
	}
	l.size++
	text := func(field string) string {
		value, _ := item.Metadata[field].(string)
		return value
	}
	organization, repository, tag, policy, digest := text("namespace"), text("namespace")+"/"+text("repo"), text("tag"), text("policy_uuid"), text("manifest_digest")
	if l.tags[repository] == nil {
		l.tags[repository] = map[string]*loggedTag{}
	}
	t := l.tags[repository][tag]
	switch audit.Kind(item.Kind) {
	case audit.KindCreateTag:
		if t != nil {
			return fmt.Errorf("%s is there already", tag)
		}
		l.tags[repository][tag] = &loggedTag{digest: digest}
		l.arrivals[repository+"@"+digest]++
	case audit.KindMoveTag:
		if err := l.mayChange(organization, tag, t, text("original_manifest_digest")); err != nil {
			return err
		}
		t.digest = digest
		l.arrivals[repository+"@"+digest]++
	case audit.KindDeleteTag:
		if err := l.mayChange(organization, tag, t, digest); err != nil {
			return err
		}
		delete(l.tags[repository], tag)
	case audit.KindTagCreatedImmutable:
		return t.hold(policy, digest)
	case audit.KindChangeImmutability:
		if text("trigger") == audit.TriggerManual && policy == "" {
			policy = byHand
		}
		if text("hold") == "removed" {
			return t.release(policy, digest)
		}
		return t.hold(policy, digest)
	case audit.KindCreatePolicy, audit.KindUpdatePolicy, audit.KindDeletePolicy:
		return l.addPolicy(item, policy, organization)
	}
	return nil
}

// mayChange reports an error if a tag cannot have changed, since it was not what the entry says or was locked.
func (l *auditLog) mayChange(organization, name string, t *loggedTag, from string) error {
	switch {
	case t == nil:
		return fmt.Errorf("%s is not there", name)
	case t.digest != from:
		return fmt.Errorf("%s points to %s", name, t.digest)
	case len(t.holds) > 0:
		return fmt.Errorf("%s is held: %v", name, t.holds)
	}
	for uuid, p := range l.policies {
		if p.organization == organization && p.locks(name) {
			return fmt.Errorf("%s is covered by policy %s (%s)", name, uuid, p.pattern)
		}
	}
	return nil
}

func (p *loggedPolicy) locks(tag string) bool {
	return !p.deleted && p.mode == string(domain.Enforce) && regexp.MustCompile(`^(?:`+p.pattern+`)$`).MatchString(tag)
}

func (t *loggedTag) hold(by, digest string) error {
	if t == nil || t.digest != digest || slices.Contains(t.holds, by) {
		return fmt.Errorf("no place for a hold by %s: %v", by, t)
	}
	t.holds = append(t.holds, by)
	slices.Sort(t.holds)
	return nil
}

func (t *loggedTag) release(by, digest string) error {
	if t == nil || t.digest != digest || !slices.Contains(t.holds, by) {
		return fmt.Errorf("no hold by %s to remove: %v", by, t)
	}
	t.holds = slices.DeleteFunc(t.holds, func(h string) bool { return h == by })
	return nil
}

func (l *auditLog) addPolicy(item openapi.LogItem, uuid, organization string) error {
	p := l.policies[uuid]
	revision, _ := item.Metadata["revision"].(float64)
	pattern, _ := item.Metadata["tag_pattern"].(string)
	mode, _ := item.Metadata["enforcement_mode"].(string)
	switch kind := audit.Kind(item.Kind); {
	case kind == audit.KindCreatePolicy:
		if p != nil || revision != 1 {
			return fmt.Errorf("policy %s is there already, or revision %v is not the first", uuid, revision)
		}
	case p == nil || p.deleted:
		return fmt.Errorf("policy %s is not there", uuid)
	case kind == audit.KindDeletePolicy:
		if revision != p.revision {
			return fmt.Errorf("policy %s is at revision %v, not %v", uuid, p.revision, revision)
		}
		p.deleted = true
		return nil
	case revision != p.revision+1 || item.Metadata["previous_tag_pattern"] != p.pattern || item.Metadata["previous_enforcement_mode"] != p.mode:
		return fmt.Errorf("policy %s is at revision %v, %s %s", uuid, p.revision, p.pattern, p.mode)
	}
	l.policies[uuid] = &loggedPolicy{organization: organization, revision: revision, pattern: pattern, mode: mode}
	return nil
}

// compare holds the log against what the registry shows of a repository and of its organization's policies, as soon as
// the sweeps are through: each tag with its digest, and one hold in the log for each lock.
func (l *auditLog) compare(p *process, organization, path string) {
	repository := organization + "/" + path
	p.g.Eventually(func(g Gomega) {
		tags, policies := map[string]*loggedTag{}, map[string]string{}
		for _, tag := range p.listTags(repository) {
			holds := []string(nil)
			for _, lock := range tag.Locks {
				if lock.Policy == nil {
					holds = append(holds, byHand)
				} else {
					holds = append(holds, lock.Policy.UUID)
				}
			}
			slices.Sort(holds)
			tags[tag.Name] = &loggedTag{digest: tag.ManifestDigest, holds: holds}
		}
		var list openapi.PolicyList
		p.get("/api/v1/organization/"+organization+"/immutabilitypolicy/", &list)
		for _, policy := range list.Policies {
			policies[policy.UUID] = policy.TagPattern
		}
		l.follow(p)
		g.Expect(l.tags[repository]).To(HaveLen(len(tags)))
		for name, tag := range tags {
			logged := l.tags[repository][name]
			g.Expect(logged).NotTo(BeNil(), name)
			g.Expect(logged.digest).To(Equal(tag.digest), name)
			g.Expect(logged.holds).To(ConsistOf(tag.holds), name)
		}
		g.Expect(l.livePolicies(organization)).To(Equal(policies))
	}).WithTimeout(time.Minute).Should(Succeed())
}

func (l *auditLog) livePolicies(organization string) map[string]string {
	live := map[string]string{}
	for uuid, p := range l.policies {
		if p.organization == organization && !p.deleted {
			live[uuid] = p.pattern
		}
	}
	return live
}

// compareLog holds the answers that clients got against the log: each acknowledged change has its one entry, what was
// refused has none.
func (o *organization) compareLog(l *auditLog) {
	pushes, acknowledged, refused := map[int]int{}, map[int]int{}, map[int]int{}
	for _, op := range o.history {
		in, out := op.Input.(input), op.Output.(output)
		switch {
		case in.kind == opCreatePolicy && out.status == http.StatusCreated:
			o.p.g.Expect(l.policies).To(HaveKey(o.uuid(in.policy)), "the creation of policy%d of %s", in.policy, o.name)
		case in.kind == opDeletePolicy && out.status == http.StatusOK:
			o.p.g.Expect(l.policies[o.uuid(in.policy)].deleted).To(BeTrue(), "the deletion of policy%d of %s", in.policy, o.name)
		case in.kind == opPush:
			pushes[in.image]++
			if out.status == http.StatusCreated {
				acknowledged[in.image]++
			} else if !out.lost {
				refused[in.image]++
			}
		}
	}
	for n, attempts := range pushes {
		entries := l.arrivals[o.repository()+"@"+o.image(n).digest.String()]
		o.p.g.Expect(entries).To(BeNumerically("<=", attempts-refused[n]), "pushes of image%d of %s", n, o.name)
		if acknowledged[n] > 0 {
			o.p.g.Expect(entries).To(BeNumerically(">=", 1), "pushes of image%d of %s", n, o.name)
		}
	}
}
