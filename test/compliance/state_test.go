package compliance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// state is all that an auditor would look at, in the registry as in the model: what there is, and what it is.
type state map[string]string

// shownTag is a tag as the management API shows it.
type shownTag struct {
	Name      string
	Digest    string `json:"manifest_digest"`
	Expires   int64  `json:"end_ts"`
	Immutable bool
	Locks     []struct {
		Policy *struct{ UUID string }
	}
}

func (t shownTag) view() view {
	v := view{digest: t.Digest, expires: t.Expires}
	for _, lock := range t.Locks {
		if lock.Policy == nil {
			v.locks = append(v.locks, byHand)
		} else {
			v.locks = append(v.locks, lock.Policy.UUID)
		}
	}
	slices.Sort(v.locks)
	if t.Immutable != v.immutable() {
		v.locks = append(v.locks, fmt.Sprintf("shown as immutable: %t", t.Immutable))
	}
	return v
}

func (v view) String() string {
	return fmt.Sprintf("{%s expires %d locked by %v}", v.digest, v.expires, v.locks)
}

// shownPolicy is a policy as the management API shows it.
type shownPolicy struct {
	UUID              string
	TagPattern        string
	TagPatternMatches bool
	EnforcementMode   string
	ReclaimPolicy     string
	ManagedBy         *struct{ Namespace, Name, UID string }
	Orphaned          bool
	DeleteAt          *time.Time
}

func (p shownPolicy) String() string {
	manager, deleteAt := "", ""
	if p.ManagedBy != nil {
		manager = p.ManagedBy.Namespace + "/" + p.ManagedBy.Name + " " + p.ManagedBy.UID
	}
	if p.DeleteAt != nil {
		deleteAt = p.DeleteAt.UTC().Format(time.RFC3339)
	}
	return describePolicy(spec{pattern: p.TagPattern, matches: p.TagPatternMatches, mode: p.EnforcementMode, reclaim: p.ReclaimPolicy}, manager, p.Orphaned, deleteAt)
}

func describePolicy(s spec, manager string, orphaned bool, deleteAt string) string {
	return fmt.Sprintf("{%s managed by %q orphaned %t deleted at %q}", s.json(), manager, orphaned, deleteAt)
}

// state reads all of it through the API.
func (p *process) state() state {
	s := state{}
	var organizations struct{ Organizations []struct{ Name string } }
	p.get("/api/v1/superuser/organizations/", &organizations)
	for _, o := range organizations.Organizations {
		s["organization "+o.Name] = "there"
		p.readPolicies(s, "organization/"+o.Name)
		var list struct {
			Repositories []struct{ Name string }
		}
		p.get("/api/v1/repository?namespace="+o.Name, &list)
		for _, r := range list.Repositories {
			path := o.Name + "/" + r.Name
			s["repository "+path] = "there"
			p.readPolicies(s, "repository/"+path)
			for page, more := 1, true; more; page++ {
				var tags struct {
					Tags          []shownTag
					HasAdditional bool `json:"has_additional"`
				}
				p.get(fmt.Sprintf("/api/v1/repository/%s/tag/?limit=100&page=%d", path, page), &tags)
				for _, t := range tags.Tags {
					s["tag "+tagName{path, t.Name}.String()] = t.view().String()
				}
				more = tags.HasAdditional
			}
		}
	}
	return s
}

func (p *process) readPolicies(s state, scope string) {
	var list struct{ Policies []shownPolicy }
	p.get("/api/v1/"+scope+"/immutabilitypolicy/", &list)
	for _, policy := range list.Policies {
		s["policy "+policy.UUID+" of "+scope] = policy.String()
	}
}

// state is the same by the log.
func (m *model) state() state {
	s := state{}
	for name := range m.organizations {
		s["organization "+name] = "there"
	}
	for path, r := range m.repositories {
		s["repository "+path] = "there"
		for tag := range r.tags {
			name := tagName{path, tag}
			s["tag "+name.String()] = m.look(name).String()
		}
	}
	for uuid, p := range m.policies {
		scope := "organization/" + p.organization
		if p.repository != "" {
			scope = "repository/" + p.repository
		}
		// Those of a repository that was deleted are in force when it comes again; till then nothing shows them.
		if !p.deleted && (p.repository == "" || m.repositories[p.repository] != nil) {
			s["policy "+uuid+" of "+scope] = describePolicy(p.spec, p.manager, p.orphaned, p.deleteAt)
		}
	}
	return s
}

// difference lists what is not the same, empty if all is.
func (s state) difference(other state) string {
	keys := maps.Clone(s)
	maps.Copy(keys, other)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if s[key] != other[key] {
			fmt.Fprintf(&b, "%s\n  is  %s\n  log %s\n", key, s[key], other[key])
		}
	}
	return b.String()
}
