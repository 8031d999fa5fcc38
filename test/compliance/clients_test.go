package compliance

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Names of the day. The namespace acme manages policies in the organization acme; lab comes and goes.
var (
	repositories = []string{"acme/app", "acme/app", "acme/app", "acme/web/shop", "acme/tools", "lab/box"}
	tagNames     = []string{"v1", "v2", "v3", "v4", "v5", "v6", "nightly-1", "nightly-2", "nightly-3", "dev", "latest"}
	patterns     = []string{"v.*", "v[1-3]", "v[2-5]|dev", "nightly-.*", "latest|v1", ".*-1", "sha256-.*", "dev", "v6|nightly-3"}
)

// client is somebody who works with the registry, in an order that its seed gives.
type client struct {
	d *day
	r *rand.Rand
}

func pick[T any](c *client, list []T) T { return list[c.r.IntN(len(list))] }

func (c *client) chance(of int) bool { return c.r.IntN(of) == 0 }

// someTag is a tag of some repository, now and then a signature's.
func (c *client) someTag() tagName {
	name := tagName{pick(c, repositories), pick(c, tagNames)}
	if c.chance(8) {
		if m, ok := c.d.content.recent(c.r, name.repository); ok {
			name.tag = signatureOf(m.digest)
		}
	}
	return name
}

// work is the next thing that a client does.
func (c *client) work() {
	switch n := c.r.IntN(100); {
	case n < 26:
		c.push()
	case n < 33:
		c.sign()
	case n < 38:
		c.pushSeveral()
	case n < 43:
		c.retag()
	case n < 52:
		c.deleteTag()
	case n < 58:
		c.deleteManifest()
	case n < 63:
		c.restore()
	case n < 69:
		c.hold(true)
	case n < 78:
		c.hold(false)
	case n < 86:
		c.expire()
	case n < 98:
		c.inspect()
	default:
		c.deleteRepository()
	}
}

// locked reports whether a tag was locked, by itself or as the signature of an image that was.
func (d *day) locked(m *model, name tagName, from, to int64) bool {
	if m.ever(name, from, to, view.immutable) {
		return true
	}
	subject := subjectOf(name.tag)
	return subject != "" && d.leads(m, name.repository, subject, from, to)
}

// leads reports whether a locked tag protected a manifest: by itself, as an index, or as the subject of a signature tag.
func (d *day) leads(m *model, repository, digest string, from, to int64) bool {
	above := []string{digest}
	for i := 0; i < len(above); i++ {
		more := d.content.indexesOf(above[i])
		for name := range m.past {
			if name.repository != repository {
				continue
			}
			pointed := func(v view) bool { return v.digest == above[i] }
			if m.ever(name, from, to, func(v view) bool { return pointed(v) && v.immutable() }) {
				return true
			}
			if subject := subjectOf(name.tag); subject != "" && m.ever(name, from, to, pointed) {
				more = append(more, subject)
			}
		}
		for _, digest := range more {
			if !slices.Contains(above, digest) {
				above = append(above, digest)
			}
		}
	}
	return false
}

// points is the fact that a tag came to point to a digest, or that a lock forbade it.
func (d *day) points(name tagName, digest string) func(*model, *call) string {
	return func(m *model, c *call) string {
		_, refused := c.refused()
		switch {
		case c.status < 300 && !m.ever(name, c.from, c.to, func(v view) bool { return v.digest == digest }):
			return "the tag never pointed there"
		case refused && !d.locked(m, name, c.from, c.to):
			return "the tag was not locked"
		}
		return ""
	}
}

func (c *client) push() {
	name := tagName{pick(c, repositories), pick(c, tagNames)}
	m, ok := manifest{}, false
	if c.chance(3) {
		m, ok = c.d.content.recent(c.r, name.repository)
	}
	if !ok {
		m = c.d.content.next(c.r, name.repository)
	}
	c.pushAs(name, m)
	for c.chance(4) { // somebody's script tries again
		c.pushAs(name, m)
	}
}

func (c *client) sign() {
	name := c.someTag()
	if subjectOf(name.tag) == "" {
		m, ok := c.d.content.recent(c.r, name.repository)
		if !ok {
			return
		}
		name.tag = signatureOf(m.digest)
	}
	c.pushAs(name, c.d.content.sign(c.r, name))
}

func (c *client) pushAs(name tagName, m manifest) {
	put := &call{
		what: fmt.Sprintf("push %s to %s", m.digest, name), method: http.MethodPut, path: "/v2/" + name.repository + "/manifests/" + name.tag,
		contentType: m.mediaType, body: []byte(m.content), allowed: []int{http.StatusCreated, http.StatusNotFound, http.StatusUnprocessableEntity},
		causes:  either(obtains(name.repository), moves(name, m.digest, "create_tag", "move_tag")),
		refusal: refusal{"push_repo_failed", all(about(name), where("operation", "overwrite")), m.digest},
		fact:    c.d.points(name, m.digest),
	}
	if c.d.do(put); put.status == http.StatusNotFound {
		c.pushBlobs(name.repository)
	}
}

// pushSeveral pushes an image by its digest with two tags at once.
func (c *client) pushSeveral() {
	repository, names := pick(c, repositories), []string{pick(c, tagNames), pick(c, tagNames)}
	m := c.d.content.next(c.r, repository)
	first, second := tagName{repository, names[0]}, tagName{repository, names[1]}
	put := &call{
		what: fmt.Sprintf("push %s to %s and %s", m.digest, first, second), method: http.MethodPut,
		path:        "/v2/" + repository + "/manifests/" + m.digest + "?tag=" + names[0] + "&tag=" + names[1],
		contentType: m.mediaType, body: []byte(m.content), allowed: []int{http.StatusCreated, http.StatusNotFound, http.StatusUnprocessableEntity},
		causes: either(obtains(repository), all(within(repository), kinds("push_repo"), where("manifest_digest", m.digest)),
			moves(first, m.digest, "create_tag", "move_tag"), moves(second, m.digest, "create_tag", "move_tag")),
		refusal: refusal{"push_repo_failed", all(either(about(first), about(second)), where("operation", "overwrite")), m.digest},
		fact: func(m1 *model, c1 *call) string {
			if c1.status == http.StatusCreated {
				return c.d.points(first, m.digest)(m1, c1) + c.d.points(second, m.digest)(m1, c1)
			}
			if _, refused := c1.refused(); refused && !c.d.locked(m1, first, c1.from, c1.to) && !c.d.locked(m1, second, c1.from, c1.to) {
				return "neither tag was locked"
			}
			return ""
		},
	}
	if c.d.do(put); put.status == http.StatusNotFound {
		c.pushBlobs(repository)
	}
}

// pushBlobs makes the repository, if need be, and pushes all that its images consist of.
func (c *client) pushBlobs(repository string) {
	for _, blob := range blobs {
		c.d.do(&call{
			what: "push a blob to " + repository, method: http.MethodPost, path: "/v2/" + repository + "/blobs/uploads/?digest=" + digest.FromString(blob).String(),
			contentType: "application/octet-stream", body: []byte(blob), allowed: []int{http.StatusCreated}, causes: obtains(repository),
		})
	}
}

func tagPath(name tagName) string {
	return "/api/v1/repository/" + name.repository + "/tag/" + name.tag
}

// change changes a tag through the management API.
func (c *client) change(name tagName, what, body string, causes func(entry) bool, refusal refusal, fact func(*model, *call) string) {
	c.d.do(&call{
		what: what + " " + name.String(), method: http.MethodPut, path: tagPath(name), contentType: "application/json", body: []byte(body),
		allowed: []int{http.StatusCreated, http.StatusNotFound, http.StatusConflict, http.StatusBadRequest},
		causes:  causes, refusal: refusal, fact: fact,
	})
}

// retag points a tag to an image of its repository, now and then after removing what holds it.
func (c *client) retag() {
	name := c.someTag()
	m, ok := c.d.content.recent(c.r, name.repository)
	if !ok {
		return
	}
	body := fmt.Sprintf(`{"manifest_digest":%q}`, m.digest)
	causes := moves(name, m.digest, "create_tag", "move_tag")
	refused := refusal{"push_repo_failed", all(about(name), where("operation", "overwrite")), m.digest}
	if c.chance(4) {
		body = fmt.Sprintf(`{"immutable":false,"manifest_digest":%q}`, m.digest)
		causes, refused = either(causes, unholds(name)), refusal{"", all(about(name), either(where("operation", "overwrite"), where("operation", "unlock"))), ""}
	}
	c.change(name, "point to "+m.digest, body, causes, refused, c.d.points(name, m.digest))
}

func unholds(name tagName) func(entry) bool {
	return all(about(name), kinds("change_tag_immutability"), where("trigger", "manual", "hold", "removed"))
}

func (c *client) hold(immutable bool) {
	name := c.someTag()
	if immutable {
		c.change(name, "hold", `{"immutable":true}`, all(about(name), kinds("change_tag_immutability", "change_tag_expiration"), where("trigger", "manual")), refusal{},
			func(m *model, c *call) string {
				if c.status == http.StatusCreated && !m.ever(name, c.from, c.to, func(v view) bool { return slices.Contains(v.locks, byHand) }) {
					return "the tag was never held by hand"
				}
				return ""
			})
		return
	}
	c.change(name, "unlock", `{"immutable":false}`, unholds(name), refusal{"delete_tag_failed", all(about(name), where("operation", "unlock")), ""}, func(m *model, c *call) string {
		if c.status == http.StatusCreated && !m.ever(name, c.from, c.to, func(v view) bool { return v.digest != "" && !v.immutable() }) {
			return "the tag was never unlocked"
		}
		if c.status == http.StatusConflict && !m.ever(name, c.from, c.to, view.immutable) {
			return "the tag was never locked"
		}
		return ""
	})
}

// expire lets a tag expire in a moment, or never.
func (c *client) expire() {
	name := c.someTag()
	at, body := time.Now().Unix()+1+int64(c.r.IntN(3)), `{"expiration":null}`
	if c.chance(5) {
		at = 0
	} else {
		body = fmt.Sprintf(`{"expiration":%d}`, at)
	}
	causes := all(about(name), kinds("change_tag_expiration"), where("trigger", "manual"))
	refused := refusal{"delete_tag_failed", all(about(name), where("operation", "set an expiration of")), ""}
	c.change(name, fmt.Sprintf("set the expiration %d of", at), body, causes, refused, func(m *model, call *call) string {
		if call.status == http.StatusCreated && !m.ever(name, call.from, call.to, func(v view) bool { return v.digest != "" && v.expires == at }) {
			return "the tag never had this expiration"
		}
		if _, refused := call.refused(); refused && !c.d.locked(m, name, call.from, call.to) {
			return "the tag was not locked"
		}
		return ""
	})
}

func (c *client) restore() {
	name := c.someTag()
	m, ok := c.d.content.recent(c.r, name.repository)
	if !ok {
		return
	}
	c.d.do(&call{
		what: fmt.Sprintf("restore %s to %s", name, m.digest), method: http.MethodPost, path: tagPath(name) + "/restore", contentType: "application/json",
		body: fmt.Appendf(nil, `{"manifest_digest":%q}`, m.digest), allowed: []int{http.StatusOK, http.StatusNotFound, http.StatusConflict},
		causes: moves(name, m.digest, "revert_tag"), refusal: refusal{"push_repo_failed", all(about(name), where("operation", "restore")), m.digest},
		fact: c.d.points(name, m.digest),
	})
}

func (c *client) deleteTag() {
	name := c.someTag()
	remove := &call{
		what: "delete " + name.String(), method: http.MethodDelete, path: tagPath(name), allowed: []int{http.StatusNoContent, http.StatusNotFound, http.StatusConflict},
		causes:  all(about(name), kinds("delete_tag"), without("trigger")),
		refusal: refusal{"delete_tag_failed", all(about(name), where("operation", "delete")), ""},
		fact: func(m *model, call *call) string {
			_, refused := call.refused()
			switch {
			case call.status < 300 && !c.d.any(call, all(about(name), kinds("delete_tag"))):
				return "no entry says that the tag was deleted"
			case call.status == http.StatusNotFound && !m.ever(name, call.from, call.to, func(v view) bool { return v.digest == "" }):
				return "the tag was there all the time"
			case refused && !c.d.locked(m, name, call.from, call.to):
				return "the tag was not locked"
			}
			return ""
		},
	}
	if c.chance(2) {
		remove.path, remove.allowed = "/v2/"+name.repository+"/manifests/"+name.tag, []int{http.StatusAccepted, http.StatusNotFound, http.StatusUnprocessableEntity}
	}
	c.d.do(remove)
}

func (c *client) deleteManifest() {
	repository := pick(c, repositories)
	m, ok := c.d.content.recent(c.r, repository)
	if !ok {
		return
	}
	deleted := all(within(repository), kinds("delete_manifest"), where("manifest_digest", m.digest))
	c.d.do(&call{
		what: "delete " + repository + "@" + m.digest, method: http.MethodDelete, path: "/v2/" + repository + "/manifests/" + m.digest,
		allowed: []int{http.StatusAccepted, http.StatusNotFound, http.StatusUnprocessableEntity},
		causes:  either(deleted, all(within(repository), kinds("delete_tag"), where("manifest_digest", m.digest), without("trigger"))),
		refusal: refusal{"delete_tag_failed", all(within(repository), where("operation", "delete")), m.digest},
		fact: func(model *model, call *call) string {
			if call.status == http.StatusAccepted && !slices.ContainsFunc(c.d.between(call), func(e entry) bool {
				return deleted(e) && !c.d.leads(model, repository, m.digest, e.Index, e.Index)
			}) {
				return "no entry says that the manifest was deleted while nothing protected it"
			}
			if _, refused := call.refused(); refused && !c.d.leads(model, repository, m.digest, call.from, call.to) {
				return "no locked tag led to the manifest"
			}
			return ""
		},
	})
}

// inspect reads what a tag is: that must be what the log says for some moment of the call.
func (c *client) inspect() {
	name := c.someTag()
	c.d.do(&call{
		what: "look at " + name.String(), method: http.MethodGet, path: "/api/v1/repository/" + name.repository + "/tag/?specificTag=" + name.tag,
		allowed: []int{http.StatusOK, http.StatusNotFound}, causes: none,
		fact: func(m *model, c *call) string {
			seen := view{}
			if c.status == http.StatusOK {
				var list struct{ Tags []shownTag }
				if err := json.Unmarshal(c.answer, &list); err != nil {
					return err.Error()
				}
				for _, t := range list.Tags {
					seen = t.view()
				}
			}
			if !m.ever(name, c.from, c.to, seen.equal) {
				return fmt.Sprintf("the log says %v", m.during(name, c.from, c.to))
			}
			return ""
		},
	})
}

func none(entry) bool { return false }

// deleteRepository deletes a small repository or the organization that comes and goes.
func (c *client) deleteRepository() {
	const organization = "lab"
	if c.chance(2) {
		c.d.do(&call{
			what: "delete organization " + organization, method: http.MethodDelete, path: "/api/v1/organization/" + organization,
			allowed: []int{http.StatusNoContent, http.StatusNotFound, http.StatusConflict},
			causes: all(where("namespace", organization), either(all(kinds("delete_tag"), without("trigger")),
				kinds("delete_repo", "org_delete", "delete_immutability_policy"))),
			refusal: refusal{"org_delete_failed", where("namespace", organization), ""},
			fact: func(_ *model, call *call) string {
				if call.status == http.StatusNoContent && !c.d.any(call, all(kinds("org_delete"), where("namespace", organization))) {
					return "no entry says that the organization was deleted"
				}
				return ""
			},
		})
		return
	}
	repository := pick(c, []string{"acme/tools", "lab/box"})
	c.d.do(&call{
		what: "delete repository " + repository, method: http.MethodDelete, path: "/api/v1/repository/" + repository,
		allowed: []int{http.StatusNoContent, http.StatusNotFound, http.StatusConflict},
		causes:  all(within(repository), either(all(kinds("delete_tag"), without("trigger")), kinds("delete_repo"))),
		refusal: refusal{"delete_repo_failed", within(repository), ""},
		fact: func(_ *model, call *call) string {
			if call.status == http.StatusNoContent && !c.d.any(call, all(kinds("delete_repo"), within(repository))) {
				return "no entry says that the repository was deleted"
			}
			return ""
		},
	})
}

// known are the policies that clients of the REST API have made and not deleted.
type known struct {
	mu    sync.Mutex
	paths []string
}

func (k *known) add(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.paths = append(k.paths, path)
}

// take returns the path of a policy, and forgets it on request; empty if none is known.
func (k *known) take(r *rand.Rand, forget bool) (path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.paths) == 0 {
		return ""
	}
	i := r.IntN(len(k.paths))
	path = k.paths[i]
	if forget {
		k.paths = slices.Delete(k.paths, i, i+1)
	}
	return path
}

func (k *known) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.paths)
}

func (c *client) someSpec() spec {
	s := spec{pattern: pick(c, patterns), matches: !c.chance(8), mode: enforce, reclaim: retain}
	if c.chance(6) {
		s.mode = dryRun
	}
	if c.chance(2) {
		s.reclaim = release
	}
	return s
}

func (s spec) json() string {
	return fmt.Sprintf(`"tagPattern":%q,"tagPatternMatches":%t,"enforcementMode":%q,"reclaimPolicy":%q`, s.pattern, s.matches, s.mode, s.reclaim)
}

// selects selects the entries of a policy's revision.
func (s spec) selects(e entry) bool { return specOf(e, "") == s }

// legislate is the next thing that somebody does with policies through the REST API.
func (c *client) legislate() {
	const most = 3
	switch n := c.r.IntN(10); {
	case n < 3 && c.d.policies.count() < most || c.d.policies.count() == 0:
		c.createPolicy()
	case n < 6:
		c.updatePolicy()
	case n < 8:
		c.deletePolicy()
	default:
		c.releasePolicy()
	}
}

func (c *client) createPolicy() {
	scope := pick(c, []string{"organization/acme", "organization/acme", "repository/acme/app", "repository/acme/tools", "repository/lab/box", "organization/lab"})
	s, path := c.someSpec(), "/api/v1/"+scope+"/immutabilitypolicy/"
	create := &call{
		what: "create a policy of " + scope + " " + s.json(), method: http.MethodPost, path: path, contentType: "application/json", body: []byte("{" + s.json() + "}"),
		allowed: []int{http.StatusCreated, http.StatusNotFound, http.StatusBadRequest}, causes: all(kinds("create_immutability_policy"), s.selects, without("managed_by")),
		fact: func(_ *model, call *call) string {
			if call.status == http.StatusCreated && !c.d.any(call, all(kinds("create_immutability_policy"), where("policy_uuid", uuidOf(call)))) {
				return "no entry says that the policy was made"
			}
			return ""
		},
	}
	c.d.do(create)
	if create.status == http.StatusCreated {
		c.d.policies.add(path + uuidOf(create))
	}
}

func uuidOf(c *call) string {
	var answer struct{ UUID string }
	_ = json.Unmarshal(c.answer, &answer)
	return answer.UUID
}

func lastSegment(path string) string { return path[strings.LastIndex(path, "/")+1:] }

func (c *client) updatePolicy() {
	s, path := c.someSpec(), c.d.policies.take(c.r, false)
	uuid := lastSegment(path)
	c.d.do(&call{
		what: "update policy " + uuid + " " + s.json(), method: http.MethodPut, path: path, contentType: "application/json", body: []byte("{" + s.json() + "}"),
		allowed: []int{http.StatusNoContent, http.StatusNotFound, http.StatusBadRequest},
		causes:  all(kinds("update_immutability_policy"), where("policy_uuid", uuid), s.selects),
		fact: func(m *model, c *call) string {
			p := m.policies[uuid]
			if c.status == http.StatusNoContent && !p.ever(c.from, c.to, func(r revision) bool { return r.spec == s && !r.deleted }) {
				return "the policy was never like that"
			}
			return ""
		},
	})
}

func (c *client) deletePolicy() {
	path := c.d.policies.take(c.r, true)
	uuid := lastSegment(path)
	remove := &call{
		what: "delete policy " + uuid, method: http.MethodDelete, path: path, allowed: []int{http.StatusOK, http.StatusNotFound},
		causes: all(kinds("delete_immutability_policy"), where("policy_uuid", uuid)),
		fact: func(m *model, c *call) string {
			if !m.policies[uuid].ever(c.from, c.to, func(r revision) bool { return r.deleted }) && c.status == http.StatusOK {
				return "the policy was never deleted"
			}
			return ""
		},
	}
	if c.d.do(remove); remove.lost {
		c.d.policies.add(path)
	}
}

// releasePolicy removes the holds that a policy has left on tags that it does not cover, of a policy that is there or was.
func (c *client) releasePolicy() {
	path := c.d.policies.take(c.r, false)
	if gone := c.d.somePolicy(c.r); c.chance(2) && gone != "" {
		path = gone
	}
	uuid := lastSegment(path)
	removed := all(kinds("change_tag_immutability"), where("trigger", "manual", "hold", "removed", "policy_uuid", uuid))
	c.d.do(&call{
		what: "release policy " + uuid, method: http.MethodPost, path: path + "/release", allowed: []int{http.StatusOK, http.StatusNotFound}, causes: removed,
		fact: func(_ *model, call *call) string {
			var answer struct{ Released int }
			_ = json.Unmarshal(call.answer, &answer)
			if n := c.d.count(call, removed); call.status == http.StatusOK && n < answer.Released {
				return fmt.Sprintf("%d entries tell of %d released holds", n, answer.Released)
			}
			return ""
		},
	})
}
