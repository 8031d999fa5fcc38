package compliance

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

// entry is an entry of the audit log, as docs/audit.md describes it.
type entry struct {
	Index     int64          `json:"index"`
	Hash      string         `json:"hash"`
	Time      time.Time      `json:"time"`
	Kind      string         `json:"kind"`
	Metadata  map[string]any `json:"metadata"`
	Performer struct{ Kind string }
}

func (e entry) text(field string) string {
	value, _ := e.Metadata[field].(string)
	return value
}

func (e entry) number(field string) int64 {
	value, _ := e.Metadata[field].(float64)
	return int64(value)
}

func (e entry) is(field string) bool {
	value, _ := e.Metadata[field].(bool)
	return value
}

func (e entry) has(field string) bool {
	_, ok := e.Metadata[field]
	return ok
}

// repository is the repository's full name, empty for an entry about an organization.
func (e entry) repository() string {
	if !e.has("repo") {
		return ""
	}
	return e.text("namespace") + "/" + e.text("repo")
}

func (e entry) String() string {
	metadata, _ := json.Marshal(e.Metadata)
	return fmt.Sprintf("entry %d, %s %s %s", e.Index, e.Time.Format("15:04:05.000000"), e.Kind, metadata)
}

// byHand stands for the policy of a hold by hand.
const byHand = "by hand"

// model is what an auditor knows who has nothing but the log: every entry is carried out in its turn, and must fit to what
// those before it left. It shares no code with the registry.
type model struct {
	// size is the number of entries so far.
	size          int64
	organizations map[string]bool
	repositories  map[string]*repository
	// policies are all policies that there ever were, by UUID.
	policies map[string]*policy
	// past is what each tag was and what locked it, from the beginning to now, by tagName.
	past map[tagName][]view
	// refusals are the first entries of refused attempts, those of dry runs too, by what repeat_of calls them.
	refusals map[string]entry
}

// tagName is a repository's full name and a tag.
type tagName struct{ repository, tag string }

func (n tagName) String() string { return n.repository + ":" + n.tag }

type repository struct {
	organization string
	tags         map[string]*tag
}

type tag struct {
	digest string
	// expires is in Unix seconds, 0 for never.
	expires int64
	// holds are those that were placed; closing are policies that locked the tag, went under Retain, and have yet to
	// place their hold; owed are policies that covered the tag when it was created and have yet to say so.
	holds, closing, owed map[string]bool
}

// view is what a tag is from one size of the log on, until the next view. A tag that is not there has no digest.
type view struct {
	from    int64
	digest  string
	expires int64
	// locks are the UUIDs of the policies that cover or hold the tag, and byHand.
	locks []string
}

func (v view) immutable() bool { return len(v.locks) > 0 }

func (v view) equal(other view) bool {
	return v.digest == other.digest && v.expires == other.expires && slices.Equal(v.locks, other.locks)
}

// spec is what a policy says.
type spec struct {
	pattern       string
	matches       bool
	mode, reclaim string
}

func (s spec) compile() *regexp.Regexp { return regexp.MustCompile(`\A(?:` + s.pattern + `)\z`) }

func specOf(e entry, prefix string) spec {
	return spec{pattern: e.text(prefix + "tag_pattern"), matches: e.is(prefix + "tag_pattern_matches"), mode: e.text(prefix + "enforcement_mode"), reclaim: e.text(prefix + "reclaim_policy")}
}

type policy struct {
	uuid         string
	organization string
	// repository is the full name, empty for a policy of the whole organization.
	repository string
	spec
	expression *regexp.Regexp
	revision   int64
	deleted    bool
	// manager is "namespace/name uid" of the object that manages the policy, empty if there is none.
	manager  string
	orphaned bool
	deleteAt string
	// past are the policy's revisions, and its end.
	past []revision
	// swept are the tags whose holds sweeps changed since the last summary.
	swept []string
	hold  string
}

// revision is what a policy says from one size of the log on.
type revision struct {
	from int64
	spec
	deleted bool
}

// ever reports whether the policy was as asked at some size of the log from from to to, both included.
func (p *policy) ever(from, to int64, is func(revision) bool) bool {
	for i, r := range p.past {
		if r.from <= to && (i == len(p.past)-1 || p.past[i+1].from > from) && is(r) {
			return true
		}
	}
	return false
}

const (
	enforce = "Enforce"
	dryRun  = "DryRun"
	retain  = "Retain"
	release = "Release"
)

func newModel() *model {
	return &model{organizations: map[string]bool{}, repositories: map[string]*repository{}, policies: map[string]*policy{}, past: map[tagName][]view{}, refusals: map[string]entry{}}
}

func (p *policy) inScope(repository, organization string) bool {
	return p.organization == organization && (p.repository == "" || p.repository == repository)
}

// matches reports whether the policy is in force for a tag that is there or comes to be.
func (p *policy) covers(r *repository, name tagName) bool {
	return !p.deleted && p.mode == enforce && p.inScope(name.repository, r.organization) && p.names(name.tag)
}

// names reports whether the policy's pattern selects a name.
func (p *policy) names(tag string) bool { return p.expression.MatchString(tag) == p.matches }

func (m *model) covering(r *repository, name tagName) map[string]bool {
	covering := map[string]bool{}
	for uuid, p := range m.policies {
		if p.covers(r, name) {
			covering[uuid] = true
		}
	}
	return covering
}

// look is the present view of a tag.
func (m *model) look(name tagName) view {
	r := m.repositories[name.repository]
	if r == nil || r.tags[name.tag] == nil {
		return view{from: m.size}
	}
	t := r.tags[name.tag]
	locks := m.covering(r, name)
	maps.Copy(locks, t.holds)
	maps.Copy(locks, t.closing)
	v := view{from: m.size, digest: t.digest, expires: t.expires, locks: slices.Sorted(maps.Keys(locks))}
	if v.immutable() {
		v.expires = 0 // it has no effect
	}
	return v
}

// remember adds the present views of tags to the past, where they are new.
func (m *model) remember(names ...tagName) {
	for _, name := range names {
		now, past := m.look(name), m.past[name]
		if len(past) == 0 || !past[len(past)-1].equal(now) {
			m.past[name] = append(past, now)
		}
	}
}

// during lists what a tag was while the log had from to to entries, both included.
func (m *model) during(name tagName, from, to int64) []view {
	past := m.past[name]
	first := sort.Search(len(past), func(i int) bool { return past[i].from > from })
	last := sort.Search(len(past), func(i int) bool { return past[i].from > to })
	if first == 0 {
		return append([]view{{}}, past[:last]...)
	}
	return past[first-1 : last]
}

// ever reports whether a tag was as asked at some size of the log from from to to.
func (m *model) ever(name tagName, from, to int64, is func(view) bool) bool {
	return slices.ContainsFunc(m.during(name, from, to), is)
}

// tagsIn lists the live tags in a policy's scope.
func (m *model) tagsIn(p *policy) (names []tagName) {
	for path, r := range m.repositories {
		if p.inScope(path, r.organization) {
			for name := range r.tags {
				names = append(names, tagName{path, name})
			}
		}
	}
	return names
}

func (m *model) tag(name tagName) *tag {
	if r := m.repositories[name.repository]; r != nil {
		return r.tags[name.tag]
	}
	return nil
}

// add carries out the next entry. It reports an error for a gap, and for an entry that cannot be true.
func (m *model) add(e entry) error {
	if e.Index != m.size {
		return fmt.Errorf("index %d follows on %d", e.Index, m.size-1)
	}
	m.size++
	name := tagName{e.repository(), e.text("tag")}
	if err := m.apply(e, name); err != nil {
		return err
	}
	switch {
	case strings.HasSuffix(e.Kind, "_immutability_policy"):
		p := m.policies[e.text("policy_uuid")]
		p.past = append(p.past, revision{from: m.size, spec: p.spec, deleted: p.deleted})
		m.remember(m.tagsIn(p)...)
	case name.tag != "":
		m.remember(name)
	}
	return nil
}

func (m *model) apply(e entry, name tagName) error {
	if t := m.tag(name); t != nil && len(t.owed) > 0 && e.Kind != "tag_created_immutable_by_policy" && !strings.HasSuffix(e.Kind, "_failed") && e.Kind != "immutability_dry_run" {
		return fmt.Errorf("no entry says that %v cover the new tag %s", slices.Sorted(maps.Keys(t.owed)), name)
	}
	switch e.Kind {
	case "org_create":
		return m.createOrganization(e.text("namespace"))
	case "org_delete":
		return m.deleteOrganization(e.text("namespace"))
	case "create_repo":
		return m.createRepository(e)
	case "delete_repo":
		return m.deleteRepository(e)
	case "create_tag":
		return m.createTag(e, name)
	case "move_tag":
		return m.moveTag(e, name)
	case "revert_tag":
		if m.tag(name) == nil {
			return m.createTag(e, name)
		}
		return m.moveTag(e, name)
	case "delete_tag":
		return m.deleteTag(e, name)
	case "change_tag_expiration":
		return m.changeExpiration(e, name)
	case "tag_created_immutable_by_policy":
		return m.createImmutable(e, name)
	case "change_tag_immutability":
		if e.text("hold") == "placed" {
			return m.placeHold(e, name)
		}
		return m.removeHold(e, name)
	case "create_immutability_policy", "update_immutability_policy", "delete_immutability_policy":
		return m.changePolicy(e)
	case "apply_immutability_policy_retroactive":
		return m.endSweep(e)
	case "push_repo_failed", "delete_tag_failed", "delete_repo_failed", "org_delete_failed", "immutability_dry_run":
		return m.refuse(e)
	}
	return nil
}

func (m *model) createOrganization(name string) error {
	if m.organizations[name] {
		return fmt.Errorf("organization %s is there already", name)
	}
	m.organizations[name] = true
	return nil
}

func (m *model) deleteOrganization(name string) error {
	if !m.organizations[name] {
		return fmt.Errorf("organization %s is not there", name)
	}
	for path, r := range m.repositories {
		if r.organization == name {
			return fmt.Errorf("repository %s is there still", path)
		}
	}
	for uuid, p := range m.policies {
		if p.organization == name && !p.deleted {
			return fmt.Errorf("policy %s is there still", uuid)
		}
	}
	delete(m.organizations, name)
	return nil
}

func (m *model) createRepository(e entry) error {
	if !m.organizations[e.text("namespace")] || m.repositories[e.repository()] != nil {
		return fmt.Errorf("there is no organization for repository %s, or it is there already", e.repository())
	}
	m.repositories[e.repository()] = &repository{organization: e.text("namespace"), tags: map[string]*tag{}}
	return nil
}

func (m *model) deleteRepository(e entry) error {
	r := m.repositories[e.repository()]
	if r == nil || len(r.tags) > 0 {
		return fmt.Errorf("repository %s is not there, or has tags still", e.repository())
	}
	delete(m.repositories, e.repository())
	return nil
}

func (m *model) createTag(e entry, name tagName) error {
	r := m.repositories[name.repository]
	if r == nil || r.tags[name.tag] != nil {
		return fmt.Errorf("there is no repository for tag %s, or it is there already", name)
	}
	if e.has("original_manifest_digest") {
		return fmt.Errorf("tag %s is new, and pointed nowhere before", name)
	}
	r.tags[name.tag] = &tag{digest: e.text("manifest_digest"), holds: map[string]bool{}, closing: map[string]bool{}, owed: m.covering(r, name)}
	return nil
}

func (m *model) moveTag(e entry, name tagName) error {
	t := m.tag(name)
	if t == nil || t.digest != e.text("original_manifest_digest") {
		return fmt.Errorf("%s does not point to %s", name, e.text("original_manifest_digest"))
	}
	if t.expires != 0 {
		return fmt.Errorf("no entry says what became of the expiration of %s", name)
	}
	if e.is("append") {
		if t.holds[byHand] || !signatureTag.MatchString(name.tag) {
			return fmt.Errorf("nothing can be added to %s: %v", name, m.look(name).locks)
		}
	} else if err := m.mayGo(name); err != nil {
		return err
	}
	t.digest = e.text("manifest_digest")
	return nil
}

// signatureTag is the name of a tag for what belongs to another manifest.
var signatureTag = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64})(\.(sig|att))?$`)

// mayGo reports an error for a tag that may neither move nor be deleted.
func (m *model) mayGo(name tagName) error {
	if locks := m.look(name).locks; len(locks) > 0 {
		return fmt.Errorf("%s is locked by %v", name, locks)
	}
	parts := signatureTag.FindStringSubmatch(name.tag)
	if parts == nil {
		return nil
	}
	subject := parts[1] + ":" + parts[2]
	for other, t := range m.repositories[name.repository].tags {
		if locks := m.look(tagName{name.repository, other}).locks; t.digest == subject && len(locks) > 0 {
			return fmt.Errorf("%s belongs to %s, which is locked by %v", name, other, locks)
		}
	}
	return nil
}

func (m *model) deleteTag(e entry, name tagName) error {
	t := m.tag(name)
	if t == nil || t.digest != e.text("manifest_digest") {
		return fmt.Errorf("%s does not point to %s", name, e.text("manifest_digest"))
	}
	if e.text("trigger") == "expiration" && (t.expires == 0 || t.expires != e.number("expiration_date") || e.Time.Unix() < t.expires) {
		return fmt.Errorf("%s expires at %d", name, t.expires)
	}
	if err := m.mayGo(name); err != nil {
		return err
	}
	delete(m.repositories[name.repository].tags, name.tag)
	return nil
}

func (m *model) changeExpiration(e entry, name tagName) error {
	t := m.tag(name)
	if t == nil || t.digest != e.text("manifest_digest") {
		return fmt.Errorf("%s does not point to %s", name, e.text("manifest_digest"))
	}
	if t.expires != e.number("old_expiration_date") || t.expires == e.number("expiration_date") {
		return fmt.Errorf("%s expires at %d", name, t.expires)
	}
	if e.has("expiration_date") {
		if err := m.mayGo(name); err != nil {
			return err
		}
	}
	t.expires = e.number("expiration_date")
	return nil
}

func (m *model) createImmutable(e entry, name tagName) error {
	t, by := m.tag(name), e.text("policy_uuid")
	if t == nil || t.digest != e.text("manifest_digest") || !t.owed[by] {
		return fmt.Errorf("%s is not new, or policy %s does not cover it", name, by)
	}
	delete(t.owed, by)
	t.holds[by] = true
	return nil
}

func (m *model) placeHold(e entry, name tagName) error {
	t := m.tag(name)
	if t == nil || t.digest != e.text("manifest_digest") {
		return fmt.Errorf("%s does not point to %s", name, e.text("manifest_digest"))
	}
	before := m.look(name).immutable()
	by := byHand
	if e.text("trigger") == "policy" {
		by = e.text("policy_uuid")
		p := m.policies[by]
		switch {
		case p == nil:
			return fmt.Errorf("there is no policy %s", by)
		case t.closing[by]:
			before = true
		case p.covers(m.repositories[name.repository], name):
			before = len(t.holds) > 0 || len(m.covering(m.repositories[name.repository], name)) > 1 || len(t.closing) > 0 || p.coveredBefore(name)
		default:
			return fmt.Errorf("policy %s does not cover %s", by, name)
		}
		if err := p.sweep("placed", name); err != nil {
			return err
		}
	}
	if t.holds[by] {
		return fmt.Errorf("%s has a hold by %s already", name, by)
	}
	if !e.is("immutable") || e.is("previous_immutable") != before {
		return fmt.Errorf("the cause locked %s, which was locked before: %t", name, before)
	}
	t.holds[by] = true
	delete(t.closing, by)
	return nil
}

func (m *model) removeHold(e entry, name tagName) error {
	t, by := m.tag(name), byHand
	if e.has("policy_uuid") {
		by = e.text("policy_uuid")
		p := m.policies[by]
		if p == nil || t == nil || p.covers(m.repositories[name.repository], name) || t.closing[by] {
			return fmt.Errorf("policy %s, which may hold %s, is not there or covers it", by, name)
		}
		if e.text("trigger") == "policy" {
			if err := p.sweep("removed", name); err != nil {
				return err
			}
		}
	}
	if t == nil || t.digest != e.text("manifest_digest") || !t.holds[by] {
		return fmt.Errorf("%s has no hold by %s", name, by)
	}
	delete(t.holds, by)
	if now := m.look(name).immutable(); !e.is("previous_immutable") || e.is("immutable") != now {
		return fmt.Errorf("%s is locked now: %t", name, now)
	}
	return nil
}

// coveredBefore reports whether the revision before the present one locked a tag.
func (p *policy) coveredBefore(name tagName) bool {
	for i := len(p.past) - 1; i >= 0; i-- {
		if before := p.past[i].spec; before != p.spec {
			return before.mode == enforce && before.compile().MatchString(name.tag) == before.matches
		}
	}
	return false
}

// sweep notes that a sweep changed a hold.
func (p *policy) sweep(hold string, name tagName) error {
	if len(p.swept) > 0 && p.hold != hold {
		return fmt.Errorf("a sweep of policy %s that %s holds of %v has no summary", p.uuid, p.hold, p.swept)
	}
	_, path, _ := strings.Cut(name.repository, "/")
	p.hold, p.swept = hold, append(p.swept, path+":"+name.tag)
	return nil
}

func (m *model) endSweep(e entry) error {
	p := m.policies[e.text("policy_uuid")]
	if p == nil {
		return fmt.Errorf("there is no policy %s", e.text("policy_uuid"))
	}
	hold := "placed"
	if e.text("sweep") == "release" {
		hold = "removed"
	}
	var sample []string
	list, _ := e.Metadata["sample_tags"].([]any)
	for _, item := range list {
		text, _ := item.(string)
		sample = append(sample, text)
	}
	if len(p.swept) == 0 || hold != p.hold || e.number("tags_affected_count") != int64(len(p.swept)) || !slices.Equal(sample, p.swept[:min(10, len(p.swept))]) {
		return fmt.Errorf("the sweep of policy %s %s holds of %v", p.uuid, p.hold, p.swept)
	}
	p.swept = nil
	return nil
}

func (m *model) refuse(e entry) error {
	if first := e.text("repeat_of"); first != "" {
		if refused, ok := m.refusals[first]; !ok || refused.Kind != e.Kind || e.number("count") < 1 {
			return fmt.Errorf("there is no first refusal %s", first)
		}
		return nil
	}
	hash, err := hex.DecodeString(e.Hash)
	m.refusals[base64.StdEncoding.EncodeToString(hash)] = e
	return err
}

// changePolicy carries out a revision, or what else becomes of a policy.
func (m *model) changePolicy(e entry) error {
	uuid := e.text("policy_uuid")
	p := m.policies[uuid]
	if e.Kind == "create_immutability_policy" {
		if p != nil || e.number("revision") != 1 || !m.organizations[e.text("namespace")] {
			return fmt.Errorf("policy %s is there already, or its organization is not", uuid)
		}
		p = &policy{uuid: uuid, organization: e.text("namespace"), repository: e.repository()}
		m.policies[uuid] = p
		return m.revise(p, e)
	}
	if p == nil || p.deleted || p.organization != e.text("namespace") || p.repository != e.repository() {
		return fmt.Errorf("there is no policy %s", uuid)
	}
	if e.Kind == "delete_immutability_policy" {
		if err := m.checkOwed(p); err != nil {
			return err
		}
		if e.number("revision") != p.revision || specOf(e, "").mode != p.mode || specOf(e, "").pattern != p.pattern {
			return fmt.Errorf("policy %s is at revision %d: %v", uuid, p.revision, p.spec)
		}
		p.reclaim = e.text("reclaim_policy")
		if p.reclaim == retain {
			m.close(p)
		}
		p.deleted = true
		return nil
	}
	p.manage(e)
	if !e.has("tag_pattern") {
		if e.number("revision") != p.revision {
			return fmt.Errorf("policy %s is at revision %d", uuid, p.revision)
		}
		return nil // what else becomes of a policy changes nothing about tags, and may come between a tag and its entries
	}
	if err := m.checkOwed(p); err != nil {
		return err
	}
	if e.number("revision") != p.revision+1 || specOf(e, "previous_") != p.spec {
		return fmt.Errorf("policy %s is at revision %d: %v", uuid, p.revision, p.spec)
	}
	next := specOf(e, "")
	if next.reclaim == retain && (next.pattern != p.pattern || next.matches != p.matches || next.mode != p.mode) {
		m.close(p)
	}
	return m.revise(p, e)
}

// checkOwed reports an error for a tag that was created and does not say yet which policies cover it.
func (m *model) checkOwed(p *policy) error {
	for _, name := range m.tagsIn(p) {
		if t := m.tag(name); len(t.owed) > 0 {
			return fmt.Errorf("no entry says that %v cover the new tag %s", slices.Sorted(maps.Keys(t.owed)), name)
		}
	}
	return nil
}

// close keeps the tags locked that a policy covers till now, until their holds are placed.
func (m *model) close(p *policy) {
	for _, name := range m.tagsIn(p) {
		if t := m.tag(name); p.covers(m.repositories[name.repository], name) && !t.holds[p.uuid] {
			t.closing[p.uuid] = true
		}
	}
}

func (m *model) revise(p *policy, e entry) error {
	p.manage(e)
	p.spec, p.revision = specOf(e, ""), e.number("revision")
	p.expression = p.compile()
	return nil
}

// manage notes what an entry says of the object that manages a policy.
func (p *policy) manage(e entry) {
	if by, ok := e.Metadata["managed_by"].(map[string]any); ok {
		p.manager = fmt.Sprintf("%v/%v %v", by["namespace"], by["name"], by["uid"])
	}
	switch {
	case e.is("adopted"):
		p.manager, p.orphaned = "", false
	case e.has("orphaned"):
		p.orphaned = e.is("orphaned")
	case e.has("adopted_from_uid"):
		p.orphaned = false
	}
	if e.is("deletion_requested") {
		p.deleteAt = e.text("delete_at")
	}
	if e.is("deletion_withdrawn") {
		p.deleteAt = ""
	}
}

// unsettled says what sweeps have yet to do, empty if nothing.
func (m *model) unsettled() string {
	for uuid, p := range m.policies {
		if len(p.swept) > 0 {
			return fmt.Sprintf("a sweep of policy %s has no summary: it %s holds of %v", uuid, p.hold, p.swept)
		}
	}
	for path, r := range m.repositories {
		for tag, t := range r.tags {
			name := tagName{path, tag}
			if len(t.owed) > 0 || len(t.closing) > 0 {
				return fmt.Sprintf("%s has no hold yet by %v%v", name, slices.Collect(maps.Keys(t.owed)), slices.Collect(maps.Keys(t.closing)))
			}
			for uuid, p := range m.policies {
				switch covers := p.covers(r, name); {
				case covers && !t.holds[uuid]:
					return fmt.Sprintf("%s has no hold yet by %s", name, uuid)
				case !covers && t.holds[uuid] && p.reclaim == release:
					return fmt.Sprintf("%s has its hold by %s still", name, uuid)
				case covers && t.expires != 0:
					return fmt.Sprintf("%s is locked and expires still", name)
				}
			}
		}
	}
	return ""
}
