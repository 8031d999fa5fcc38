package compliance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const (
	cluster   = "cluster-1"
	namespace = "acme"
)

// object is an ImmutabilityPolicy of the cluster, as the operator knows it.
type object struct {
	name       string
	uid        string
	generation int64
	// repository is the path in the organization acme, empty for all of it.
	repository string
	spec       spec
}

// operator brings objects to the registry. It is one client, as a leader is.
type operator struct {
	*client
	objects map[string]*object
	count   int
}

var objectNames = []string{"releases", "nightlies", "frozen"}

// work is the next thing that happens to an object.
func (o *operator) work() {
	name := pick(o.client, objectNames)
	present := o.objects[name]
	switch n := o.r.IntN(20); {
	case present == nil:
		o.count++
		present = &object{name: name, uid: fmt.Sprintf("uid-%d", o.count), generation: 1, repository: pick(o.client, []string{"", "app", "web/shop"}), spec: o.someSpec()}
		o.objects[name] = present
		o.put(present)
	case n < 8:
		present.generation++
		present.spec = o.someSpec()
		o.put(present)
	case n < 10:
		o.put(present) // as every ten minutes
	case n < 11:
		stale := *present
		stale.generation, stale.spec = 0, o.someSpec()
		o.put(&stale)
	case n < 12: // deleted and made again in another place, as one change
		o.count++
		present.uid, present.generation, present.repository = fmt.Sprintf("uid-%d", o.count), 1, pick(o.client, []string{"", "app", "tools"})
		o.put(present)
	case n < 17:
		o.remove(present)
	case n < 18:
		o.sync()
	default:
		o.lose(present)
	}
}

// managedBy selects the entries of an object's policies.
func managedBy(name string) func(entry) bool {
	return func(e entry) bool {
		by, _ := e.Metadata["managed_by"].(map[string]any)
		return by["namespace"] == namespace && by["name"] == name
	}
}

func (o *operator) path(name string) string {
	return "/api/v1/operator/immutabilitypolicies/" + namespace + "/" + name
}

// put applies an object. Generation 0 stands for one that is older than what the registry knows.
func (o *operator) put(object *object) {
	generation, status := object.generation, http.StatusOK
	if generation == 0 {
		if o.objects[object.name].generation == 1 {
			return
		}
		generation, status = 1, http.StatusConflict
	}
	body := fmt.Sprintf(`{"cluster":%q,"uid":%q,"generation":%d,"organization":"acme","repository":%q,%s,"claim":{"namespaceUID":"namespace-1","organizations":["acme"]}}`,
		cluster, object.uid, generation, object.repository, object.spec.json())
	s := object.spec
	put := &call{
		what: "put " + object.name + " " + body, method: http.MethodPut, path: o.path(object.name), contentType: "application/json", body: []byte(body), allowed: []int{status},
		causes: either(all(managedBy(object.name), kinds("create_immutability_policy", "update_immutability_policy", "delete_immutability_policy")),
			all(where("namespace", "acme"), kinds("org_create", "org_owner_changed"))),
		fact: func(m *model, c *call) string {
			var answer struct{ Policy struct{ UUID string } }
			_ = json.Unmarshal(c.answer, &answer)
			p := m.policies[answer.Policy.UUID]
			if c.status == http.StatusOK && (p == nil || !p.ever(c.from, c.to, func(r revision) bool { return r.spec == s && !r.deleted })) {
				return "the policy was never like that"
			}
			return ""
		},
	}
	for o.d.do(put); put.lost && generation == object.generation; {
		again := *put
		put = &again
		o.d.do(put)
	}
}

// remove deletes an object; the webhook may have told the registry who asks for it.
func (o *operator) remove(object *object) {
	if o.chance(2) {
		o.d.do(&call{
			what: "say who deletes " + object.name, method: http.MethodPut, path: o.path(object.name) + "/deletion-intent", contentType: "application/json",
			body: fmt.Appendf(nil, `{"uid":%q,"user":"jane"}`, object.uid), allowed: []int{http.StatusNoContent}, causes: none,
		})
	}
	remove := &call{lost: true}
	for remove.lost {
		remove = &call{
			what: "delete " + object.name, method: http.MethodDelete, path: o.path(object.name) + "?cluster=" + cluster + "&uid=" + object.uid,
			allowed: []int{http.StatusNoContent}, causes: all(managedBy(object.name), kinds("update_immutability_policy")),
		}
		o.d.do(remove)
	}
	delete(o.objects, object.name)
}

// sync says which objects there are, less one that is missing.
func (o *operator) sync(missing ...string) {
	var present []string
	for name, object := range o.objects {
		if !slices.Contains(missing, name) {
			present = append(present, fmt.Sprintf(`{"kind":"ImmutabilityPolicy","namespace":%q,"name":%q,"uid":%q}`, namespace, name, object.uid))
		}
	}
	synced := &call{lost: true}
	for synced.lost {
		synced = &call{
			what: "say which objects there are", method: http.MethodPost, path: "/api/v1/operator/synced", contentType: "application/json",
			body:    fmt.Appendf(nil, `{"cluster":%q,"present":[%s]}`, cluster, strings.Join(present, ",")),
			allowed: []int{http.StatusNoContent}, causes: all(kinds("update_immutability_policy"), func(e entry) bool { return e.is("orphaned") }),
		}
		o.d.do(synced)
	}
}

// lose leaves a policy without its object, whose finalizer somebody removed. The object comes back from a backup, or
// the organization adopts or deletes the policy.
func (o *operator) lose(object *object) {
	o.sync(object.name)
	if o.chance(2) {
		o.put(object)
		return
	}
	delete(o.objects, object.name)
	var list struct {
		Policies []struct {
			UUID      string
			ManagedBy *struct{ Name string }
		}
	}
	scope := "organization/acme"
	if object.repository != "" {
		scope = "repository/acme/" + object.repository
	}
	path := "/api/v1/" + scope + "/immutabilitypolicy/"
	read := &call{what: "list policies of " + scope, method: http.MethodGet, path: path, allowed: []int{http.StatusOK, http.StatusNotFound}, causes: none}
	if o.d.do(read); read.status != http.StatusOK || json.Unmarshal(read.answer, &list) != nil {
		return
	}
	for _, p := range list.Policies {
		if p.ManagedBy == nil || p.ManagedBy.Name != object.name {
			continue
		}
		change := &call{what: "delete the orphaned policy " + p.UUID, method: http.MethodDelete, path: path + p.UUID, allowed: []int{http.StatusOK, http.StatusNotFound}}
		if o.chance(2) {
			change = &call{what: "adopt the orphaned policy " + p.UUID, method: http.MethodPost, path: path + p.UUID + "/adopt", allowed: []int{http.StatusNoContent, http.StatusNotFound, http.StatusConflict}}
		}
		change.causes = all(kinds("update_immutability_policy", "delete_immutability_policy"), where("policy_uuid", p.UUID))
		if o.d.do(change); change.status == http.StatusNoContent {
			o.d.policies.add(path + p.UUID)
		}
	}
}
