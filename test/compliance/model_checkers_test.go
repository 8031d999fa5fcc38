package compliance

import (
	"encoding/json"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

// entries of small logs. The tag is v1 of acme/app, the policies are p and q.
const (
	organized = `org_create`
	founded   = `create_repo "repo":"app"`
	pushed    = `create_tag "repo":"app","tag":"v1","manifest_digest":"d1"`
	moved     = `move_tag "repo":"app","tag":"v1","manifest_digest":"d2","original_manifest_digest":"d1"`
	dropped   = `delete_tag "repo":"app","tag":"v1","manifest_digest":"d1"`
	expires   = `change_tag_expiration "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"manual","expiration_date":1000`
	outlives  = `change_tag_expiration "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"move","old_expiration_date":1000`
	held      = `change_tag_immutability "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"manual","hold":"placed","immutable":true,"previous_immutable":false`
	freed     = `change_tag_immutability "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"manual","hold":"removed","immutable":false,"previous_immutable":true`
	covers    = `"tag_pattern":"v.*","tag_pattern_matches":true,"enforcement_mode":"Enforce","reclaim_policy":"Retain"`
	decreed   = `create_immutability_policy "policy_uuid":"p","revision":1,` + covers
	inverted  = `update_immutability_policy "policy_uuid":"p","revision":2,"tag_pattern":"v.*","tag_pattern_matches":false,"enforcement_mode":"Enforce","reclaim_policy":"Retain",` +
		`"previous_tag_pattern":"v.*","previous_tag_pattern_matches":true,"previous_enforcement_mode":"Enforce","previous_reclaim_policy":"Retain"`
	orphaned  = `update_immutability_policy "policy_uuid":"p","revision":1,"orphaned":true`
	withdrawn = `delete_immutability_policy "policy_uuid":"p","revision":1,` + covers
	swept     = `change_tag_immutability "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"policy","policy_uuid":"p","hold":"placed","immutable":true,"previous_immutable":false`
	unswept   = `change_tag_immutability "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"policy","policy_uuid":"p","hold":"removed","immutable":false,"previous_immutable":true`
	closed    = `change_tag_immutability "repo":"app","tag":"v1","manifest_digest":"d1","trigger":"policy","policy_uuid":"p","hold":"placed","immutable":true,"previous_immutable":true`
	summed    = `apply_immutability_policy_retroactive "policy_uuid":"p","sweep":"apply","tags_affected_count":1,"sample_tags":["app:v1"]`
	born      = `tag_created_immutable_by_policy "repo":"app","tag":"v1","manifest_digest":"d1","policy_uuid":"p"`
)

// carryOut carries out entries until one cannot be true.
func carryOut(g *WithT, lines ...string) (*model, error) {
	m := newModel()
	for n, line := range lines {
		kind, metadata, _ := strings.Cut(line, " ")
		e := entry{Index: int64(n), Kind: kind}
		g.Expect(json.Unmarshal([]byte(strings.TrimSuffix(`{"namespace":"acme",`+metadata, ",")+"}"), &e.Metadata)).To(Succeed(), line)
		if err := m.add(e); err != nil {
			return m, err
		}
	}
	return m, nil
}

func TestTheModelTakesNoLogThatCannotBeTrue(t *testing.T) {
	for name, test := range map[string]struct {
		entries []string
		err     string
	}{
		"a whole life":                          {[]string{pushed, expires, outlives, held, freed, moved}, ""},
		"a whole sweep":                         {[]string{pushed, decreed, swept, summed, withdrawn}, ""},
		"a tag that is created twice":           {[]string{pushed, pushed}, "there already"},
		"a move from elsewhere":                 {[]string{pushed, moved, moved}, "does not point to"},
		"a deletion of another digest":          {[]string{pushed, moved, dropped}, "does not point to"},
		"a held tag that moves":                 {[]string{pushed, held, moved}, "is locked by"},
		"a covered tag that goes":               {[]string{pushed, decreed, dropped}, "is locked by"},
		"an expiration that a move forgets":     {[]string{pushed, expires, moved}, "became of the expiration"},
		"a hold that is placed twice":           {[]string{pushed, held, held}, "already"},
		"a hold that is removed twice":          {[]string{pushed, held, freed, freed}, "has no hold"},
		"a new tag that nothing says is locked": {[]string{decreed, pushed, held}, "cover the new tag"},
		"a new tag with its lock":               {[]string{decreed, pushed, born}, ""},
		"a policy orphaned beside a new tag":    {[]string{decreed, pushed, orphaned, born}, ""},
		"a sweep that miscounts":                {[]string{pushed, decreed, summed}, "the sweep of policy p"},
		"a hold of a policy that does not care": {[]string{pushed, decreed, swept, summed, inverted, swept}, "does not cover"},
		"a sweep that releases what it covers":  {[]string{pushed, decreed, swept, summed, unswept}, "covers it"},
		"a revision that misses":                {[]string{inverted}, "there is no policy"},
		"what a closing revision covers goes":   {[]string{pushed, decreed, withdrawn, dropped}, "is locked by"},
		"what a closing revision covers stays":  {[]string{pushed, decreed, withdrawn, closed}, ""},
		"what came after it closed goes":        {[]string{decreed, withdrawn, pushed, dropped}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := carryOut(g, append([]string{organized, founded}, test.entries...)...)
			if test.err == "" {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(err).To(MatchError(ContainSubstring(test.err)))
			}
		})
	}
	gap := entry{Index: 1, Kind: "org_create"}
	NewWithT(t).Expect(newModel().add(gap)).To(MatchError(ContainSubstring("index 1")))
}

func TestTheModelKnowsWhatATagWasAtEveryIndex(t *testing.T) {
	g := NewWithT(t)
	m, err := carryOut(g, organized, founded, pushed, decreed, swept, summed, withdrawn)
	g.Expect(err).NotTo(HaveOccurred())
	name := tagName{"acme/app", "v1"}
	for size, locked := range []bool{2: false, 3: false, 4: true, 5: true, 6: true, 7: true} {
		views := m.during(name, int64(size), int64(size))
		g.Expect(views).To(HaveLen(1))
		g.Expect(views[0].immutable()).To(Equal(locked), "with %d entries", size)
		g.Expect(views[0].digest != "").To(Equal(size > 2), "with %d entries", size)
	}
	g.Expect(m.ever(name, 0, 3, view.immutable)).To(BeFalse())
	g.Expect(m.ever(name, 0, 4, view.immutable)).To(BeTrue())
}
