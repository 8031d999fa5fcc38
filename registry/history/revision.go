package history

import (
	"encoding/json"
	"fmt"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/policy"
)

// Revision is a revision of a policy as the log tells of it.
type Revision struct {
	Policy string
	// Repository is the path that the policy is bound to, empty for the whole organization.
	Repository string
	Number     int64
	Spec       domain.PolicySpec
	// Entry is the entry that brought the revision, and AppliedBy who made it. Of a revision that is only known from the
	// entry that ended it, that entry.
	Entry     Moment
	AppliedBy Performer
	matcher   policy.Matcher
}

// covers reports whether the revision's selection and pattern cover a tag's name, whatever its mode.
func (r *Revision) covers(repository, tag string) bool {
	return r != nil && (r.Repository == "" || r.Repository == repository) && r.matcher.Covers(tag)
}

// locks reports whether the revision locks tags of this name while it is in force.
func (r *Revision) locks(repository, tag string) bool {
	return r.covers(repository, tag) && r.Spec.EnforcementMode == domain.Enforce
}

func (r *Revision) scope() domain.PolicyScope {
	if r.Repository == "" {
		return domain.ScopeOrganization
	}
	return domain.ScopeRepository
}

// Change is what an entry says of a policy: that a revision came or went.
type Change struct {
	Moment
	Policy string
	// Kind is audit.KindCreatePolicy, audit.KindUpdatePolicy or audit.KindDeletePolicy.
	Kind audit.Kind
	// Old is the revision that ended, nil for a new policy; New the one that came, nil for a deleted policy.
	Old, New *Revision
	// Closing says that what Old locked stays locked, as with a hold, until an entry removes the hold.
	Closing bool
}

// covers reports whether the change concerns a tag's name.
func (c *Change) covers(repository, tag string) bool {
	return c.Old.covers(repository, tag) || c.New.covers(repository, tag)
}

// PolicyKinds are the kinds of entries that ParseChange reads.
var PolicyKinds = []audit.Kind{audit.KindCreatePolicy, audit.KindUpdatePolicy, audit.KindDeletePolicy}

// ParseChange reads an entry of one of PolicyKinds. It returns nil for an entry that changes nothing of what the policy
// covers: that an object was adopted or orphaned, or that a deletion was requested.
func ParseChange(entry audit.View) (*Change, error) {
	c := &Change{Moment: momentOf(entry), Policy: entry.Policy, Kind: entry.Kind}
	number := integer(entry.Metadata, "revision")
	var err error
	switch entry.Kind {
	case audit.KindCreatePolicy:
		c.New, err = revisionOf(entry, "", number)
	case audit.KindUpdatePolicy:
		if text(entry.Metadata, "previous_tag_pattern") == "" {
			return nil, nil
		}
		if c.New, err = revisionOf(entry, "", number); err == nil {
			c.Old, err = revisionOf(entry, "previous_", number-1)
		}
	case audit.KindDeletePolicy:
		c.Old, err = revisionOf(entry, "", number)
	default:
		return nil, fmt.Errorf("entry %d: a %s is no change of a policy", entry.Index, entry.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("entry %d: policy %s: %w", entry.Index, entry.Policy, err)
	}
	c.Closing = closing(c.Old, c.New)
	return c, nil
}

// closing says whether a revision that ends keeps what it locked. A policy that stays decides by its new reclaim policy,
// one that goes by its last.
func closing(old, next *Revision) bool {
	if old == nil || old.Spec.EnforcementMode != domain.Enforce {
		return false
	}
	if next == nil {
		return old.Spec.ReclaimPolicy == domain.Retain
	}
	changed := next.Spec.TagPattern != old.Spec.TagPattern || next.Spec.TagPatternMatches != old.Spec.TagPatternMatches || next.Spec.EnforcementMode != old.Spec.EnforcementMode
	return changed && next.Spec.ReclaimPolicy == domain.Retain
}

func revisionOf(entry audit.View, prefix string, number int64) (*Revision, error) {
	spec := domain.PolicySpec{
		TagPattern: text(entry.Metadata, prefix+"tag_pattern"), TagPatternMatches: entry.Metadata[prefix+"tag_pattern_matches"] == true,
		EnforcementMode: domain.EnforcementMode(text(entry.Metadata, prefix+"enforcement_mode")), ReclaimPolicy: domain.ReclaimPolicy(text(entry.Metadata, prefix+"reclaim_policy")),
	}
	matcher, err := policy.NewMatcher(spec)
	return &Revision{
		Policy: entry.Policy, Repository: entry.Repository, Number: number, Spec: spec, Entry: momentOf(entry), AppliedBy: performerOf(entry), matcher: matcher,
	}, err
}

func text(metadata map[string]any, field string) string {
	s, _ := metadata[field].(string)
	return s
}

// integer reads a number of a leaf, which JSON gives as a float.
func integer(metadata map[string]any, field string) int64 { return whole(metadata[field]) }

func whole(value any) int64 {
	switch n := value.(type) {
	case float64:
		return int64(n)
	case json.Number:
		i, _ := n.Int64()
		return i
	}
	return 0
}
