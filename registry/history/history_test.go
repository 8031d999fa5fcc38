package history_test

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/history"
)

var app = domain.RepositoryName{Organization: "team-a", Path: "app"}

// entry is an entry about the tag v1.
func entry(index int64, kind audit.Kind, metadata map[string]any) audit.View {
	return audit.View{Index: index, Time: time.Unix(index, 0).UTC(), Kind: kind, Organization: "team-a", Repository: "app", Tag: "v1", Performer: "alice", PerformerKind: domain.CallerUser, Metadata: metadata}
}

// change is an entry of an organization's policy.
func change(index int64, kind audit.Kind, metadata map[string]any) audit.View {
	e := entry(index, kind, metadata)
	e.Repository, e.Tag, e.Policy = "", "", "p"
	return e
}

func specOf(prefix, pattern, mode, reclaim string) map[string]any {
	return map[string]any{
		prefix + "tag_pattern": pattern, prefix + "tag_pattern_matches": true, prefix + "enforcement_mode": mode, prefix + "reclaim_policy": reclaim, "revision": float64(2),
	}
}

func build(g Gomega, entries ...audit.View) history.History {
	h, err := history.Build(app, "v1", history.Period{To: 1000}, entries)
	g.Expect(err).NotTo(HaveOccurred())
	return h
}

// Entries may be gone that are older than a period. What the others say is told nonetheless.
func TestALogWithoutItsBeginning(t *testing.T) {
	g := NewWithT(t)
	updated := specOf("", "w.*", "Enforce", "Retain")
	for field, value := range specOf("previous_", "v.*", "Enforce", "Retain") {
		updated[field] = value
	}
	moved := map[string]any{"manifest_digest": "sha256:b", "original_manifest_digest": "sha256:a"}
	hold := entry(12, audit.KindChangeImmutability, map[string]any{"hold": "placed", "policy_pattern": "v.*", "policy_scope": "namespace"})
	hold.Policy = "p"

	h := build(g, entry(10, audit.KindMoveTag, moved), change(11, audit.KindUpdatePolicy, updated), hold)
	g.Expect(h.Digests).To(HaveExactElements(And(HaveField("Digest", "sha256:b"), HaveField("From.Index", int64(10)))))
	g.Expect(h.Locks).To(HaveExactElements(HaveField("From.Index", int64(11))), "the revision before it covered the tag")
	g.Expect(h.Locks[0].Reasons).To(HaveExactElements(And(HaveField("Cause", history.CauseHold), HaveField("Pattern", "v.*"), HaveField("Revision", int64(1)))))

	h = build(g, entry(10, audit.KindMoveTag, moved), hold)
	g.Expect(h.Locks).To(HaveExactElements(HaveField("From.Index", int64(12))))
	g.Expect(h.Locks[0].Reasons).To(HaveExactElements(And(HaveField("Cause", history.CauseHold), HaveField("Pattern", "v.*"))))
}

func TestEntriesThatSayNothingOfCoverage(t *testing.T) {
	g := NewWithT(t)
	for _, metadata := range []map[string]any{{"adopted": true}, {"deletion_requested": true}, {"orphaned": true}, {"applied_by": "carol", "generation": float64(2)}} {
		c, err := history.ParseChange(change(1, audit.KindUpdatePolicy, metadata))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(c).To(BeNil())
	}
	_, err := history.ParseChange(change(1, audit.KindCreatePolicy, specOf("", "(", "Enforce", "Retain")))
	g.Expect(err).To(MatchError(ContainSubstring("entry 1: policy p: ")), "what cannot be decided is an error, not an unlocked tag")
	_, err = history.ParseChange(entry(1, audit.KindCreateTag, nil))
	g.Expect(err).To(HaveOccurred())
}

func TestEntriesOfOthers(t *testing.T) {
	g := NewWithT(t)
	other := entry(2, audit.KindMoveTag, map[string]any{"manifest_digest": "sha256:b"})
	other.Tag = "v2"
	elsewhere := entry(3, audit.KindDeleteTag, nil)
	elsewhere.Organization = "team-b"
	h := build(g, entry(1, audit.KindCreateTag, map[string]any{"manifest_digest": "sha256:a"}), other, elsewhere)
	g.Expect(h.Digests).To(HaveExactElements(And(HaveField("Digest", "sha256:a"), HaveField("To", BeNil()))))
}

// A caller with too many windows has one for each repository, and past that one for everything.
func TestCountsOfManyTags(t *testing.T) {
	g := NewWithT(t)
	created := entry(1, audit.KindCreateTag, map[string]any{"manifest_digest": "sha256:a"})
	held := entry(2, audit.KindChangeImmutability, map[string]any{"hold": "placed"})
	ofRepository := entry(3, audit.KindPushFailed, map[string]any{"count": float64(9), "repeat_of": "x", "tags": map[string]any{"v1": float64(3), "v2": float64(6)}})
	ofRepository.Tag = ""
	ofAll := entry(4, audit.KindPushFailed, map[string]any{"count": float64(9), "repeat_of": "x", "tags": map[string]any{"team-a/app:v1": float64(4), "v1": float64(5)}})
	ofAll.Organization, ofAll.Repository, ofAll.Tag = "", "", ""
	ofOthers := ofAll
	ofOthers.Index, ofOthers.Metadata = 5, map[string]any{"count": float64(9), "tags": map[string]any{"team-b/app:v1": float64(9)}}
	h := build(g, created, held, ofRepository, ofAll, ofOthers)
	g.Expect(h.Refusals).To(HaveExactElements(HaveField("Count", int64(3)), HaveField("Count", int64(4))))
	g.Expect(h.Locks).To(HaveExactElements(HaveField("Refused", int64(7))))
}

func TestStatements(t *testing.T) {
	g := NewWithT(t)
	created := entry(1, audit.KindCreateTag, map[string]any{"manifest_digest": "sha256:a"})
	policy := change(2, audit.KindCreatePolicy, map[string]any{
		"tag_pattern": "v.*", "tag_pattern_matches": true, "enforcement_mode": "Enforce", "reclaim_policy": "Release", "revision": float64(1),
		"managed_by": map[string]any{"kind": "ImmutabilityPolicy", "namespace": "team-a", "name": "releases"}, "applied_by": "carol", "revision_claimed": "main@sha1:1",
	})
	policy.PerformerKind, policy.Performer = domain.CallerOperator, "operator"
	held := entry(3, audit.KindChangeImmutability, map[string]any{"hold": "placed"})
	gone := change(4, audit.KindDeletePolicy, map[string]any{"tag_pattern": "v.*", "tag_pattern_matches": true, "enforcement_mode": "Enforce", "reclaim_policy": "Release", "revision": float64(1)})
	refused := entry(5, audit.KindDeleteTagFailed, map[string]any{"operation": "delete", "reason": "no"})

	say := func(entries ...audit.View) []string {
		h := build(g, entries...)
		return h.Statements(app, "v1", history.Period{To: 1000})
	}
	g.Expect(say(created)).To(HaveExactElements("team-a/app:v1 was not locked before entry 1000."))
	g.Expect(say(created, policy)).To(HaveExactElements(
		"team-a/app:v1 was locked by policy p (pattern v.*, scope namespace, revision 1, applied by Kubernetes user carol with ImmutabilityPolicy team-a/releases, which claims to be revision main@sha1:1, entry 2) " +
			"without interruption from 1970-01-01T00:00:02Z (entry 2) to entry 1000, where this report ends; 0 attempts were refused.\n  All the while it pointed to sha256:a."))
	g.Expect(say(created, policy, held, gone, refused)).To(HaveExactElements(
		"team-a/app:v1 was locked without interruption from 1970-01-01T00:00:02Z (entry 2) to entry 1000, where this report ends; 1 attempt was refused.\n" +
			"  It was locked by policy p (pattern v.*, scope namespace, revision 1, applied by Kubernetes user carol with ImmutabilityPolicy team-a/releases, which claims to be revision main@sha1:1, entry 2) from 1970-01-01T00:00:02Z (entry 2) to 1970-01-01T00:00:04Z (entry 4).\n" +
			"  It was locked by hand (user alice, entry 3) from 1970-01-01T00:00:03Z (entry 3) to entry 1000, where this report ends.\n" +
			"  All the while it pointed to sha256:a."))

	pruned := build(g, policy)
	g.Expect(pruned.Statements(app, "v1", history.Period{To: 1000, PrunedBefore: 2})).To(HaveExactElements(
		"The entries before 2 were archived and pruned; what only they say of team-a/app:v1 is missing here.",
		"As far as the entries tell that are left, team-a/app:v1 was not locked before entry 1000."))
}
