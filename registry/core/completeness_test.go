package core_test

import (
	"fmt"
	"math/rand/v2"
	"sort"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// holdsInLog rebuilds from the log alone which tags each policy (or, with an empty policy, somebody by hand) holds. It
// fails if a hold is placed twice or removed without being there.
func holdsInLog(entries []audit.View) map[string]bool {
	GinkgoHelper()
	holds := map[string]bool{}
	for _, e := range entries {
		key := fmt.Sprintf("%s:%s by %s", e.Repository, e.Tag, e.Policy)
		placed := e.Kind == audit.KindTagCreatedImmutable || e.Kind == audit.KindChangeImmutability && e.Metadata["hold"] == "placed"
		removed := e.Kind == audit.KindChangeImmutability && e.Metadata["hold"] == "removed"
		switch {
		case placed:
			Expect(holds).NotTo(HaveKey(key), "entry %d places a hold that is there", e.Index)
			holds[key] = true
		case removed:
			Expect(holds).To(HaveKey(key), "entry %d removes a hold that is not there", e.Index)
			delete(holds, key)
		}
	}
	return holds
}

// tagsInLog rebuilds from the log alone what each tag points to.
func tagsInLog(entries []audit.View) map[string]string {
	tags := map[string]string{}
	for _, e := range entries {
		key := e.Repository + ":" + e.Tag
		switch e.Kind {
		case audit.KindCreateTag, audit.KindMoveTag, audit.KindRevertTag:
			tags[key] = e.Metadata["manifest_digest"].(string)
		case audit.KindDeleteTag:
			delete(tags, key)
		}
	}
	return tags
}

var _ = eachEngine("The log alone", func(h *harness) {
	It("tells every tag's digest, and traces every lock to its policy and to exactly one entry", func() {
		seed := uint64(GinkgoRandomSeed())
		random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a test that can be repeated
		names := []domain.RepositoryName{app, {Organization: "team-a", Path: "web"}}
		tags := []string{"v1", "v2", "v3", "r1", "r2", "latest"}
		patterns := []string{"v.*", "v[12]", "r.*", "latest|v3", "nothing"}
		modes := []domain.EnforcementMode{domain.Enforce, domain.Enforce, domain.DryRun}
		reclaims := []domain.ReclaimPolicy{domain.Retain, domain.Release}
		var policies []string
		for _, name := range names {
			h.mustPush(name, "latest")
		}
		randomSpec := func() domain.PolicySpec {
			return domain.PolicySpec{
				TagPattern: patterns[random.IntN(len(patterns))], TagPatternMatches: random.IntN(5) > 0,
				EnforcementMode: modes[random.IntN(len(modes))], ReclaimPolicy: reclaims[random.IntN(len(reclaims))],
			}
		}
		for range 400 {
			name, tag := names[random.IntN(len(names))], tags[random.IntN(len(tags))]
			// Whether it is allowed does not matter here: what happened and the log must agree.
			switch random.IntN(10) {
			case 0, 1, 2, 3:
				_, _ = h.push(name, tag)
			case 4:
				_ = h.DeleteTag(ctx, alice, name, tag)
			case 5:
				_ = h.hold(name, tag, random.IntN(2) == 0)
			case 6:
				if m, err := h.Manifest(ctx, name, domain.Reference{Tag: tag}, false); err == nil {
					_ = h.DeleteManifest(ctx, alice, name, m.Digest)
				}
			case 7:
				if p, err := h.CreatePolicy(ctx, alice, teamA, randomSpec()); err == nil {
					policies = append(policies, p.UUID)
				}
			case 8:
				if len(policies) > 0 {
					_, _ = h.UpdatePolicy(ctx, alice, teamA, policies[random.IntN(len(policies))], randomSpec())
				}
			case 9:
				if len(policies) > 0 {
					i := random.IntN(len(policies))
					_ = h.DeletePolicy(ctx, alice, teamA, policies[i])
					_, _ = h.ReleasePolicy(ctx, alice, teamA, policies[random.IntN(len(policies))])
				}
			}
		}
		h.idle()

		entries := h.entries()
		there, held := map[string]string{}, map[string]bool{}
		for _, name := range names {
			views, err := h.ListTags(ctx, name, core.TagQuery{Limit: 100})
			Expect(err).NotTo(HaveOccurred())
			for _, v := range views {
				there[name.Path+":"+v.Name] = v.Digest.String()
				for _, lock := range v.Locks {
					by := ""
					if lock.Policy != nil {
						by = lock.Policy.UUID
					}
					held[fmt.Sprintf("%s:%s by %s", name.Path, v.Name, by)] = true
				}
			}
		}
		Expect(tagsInLog(entries)).To(Equal(there))
		Expect(sorted(holdsInLog(entries))).To(Equal(sorted(held)))
	})
})

func sorted(set map[string]bool) []string {
	list := []string{}
	for key := range set {
		list = append(list, key)
	}
	sort.Strings(list)
	return list
}
