package core_test

import (
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// bypass is a way around immutability. The texts are rows of docs/bypasses.md, which is made of them; try shows that what
// they say is so.
type bypass struct {
	// name is how people call it, attempt what somebody does, outcome what happens then, and why.
	name, attempt, outcome, why string
	try                         func(h *harness)
}

// chapter is a part of the table.
type chapter struct {
	title string
	rows  []bypass
}

var _ = eachEngine("There is no way around a lock:", func(h *harness) {
	for _, c := range bypasses {
		Context(c.title, func() {
			for _, b := range c.rows {
				It(b.name, func() { b.try(h) })
			}
		})
	}
})

// lockedImage pushes team-a/app:v1 and locks it by the policy v.*, whose sweep is done.
func (h *harness) lockedImage() digest.Digest {
	GinkgoHelper()
	d := h.mustPush(app, "v1")
	p := h.mustCreate(teamA, releases)
	h.swept(teamA, p.UUID)
	return d
}

// stands checks that a refusal names the tag v1 and that the tag still points to a digest, whose manifest is there.
func (h *harness) stands(err error, d digest.Digest) {
	GinkgoHelper()
	Expect(err).To(And(haveCode(domain.CodeTagImmutable), MatchError(ContainSubstring("'v1'"))))
	h.unharmed(d)
}

func (h *harness) unharmed(d digest.Digest) {
	GinkgoHelper()
	Expect(h.tag(app, "v1")).To(Equal(d))
	_, err := h.Manifest(ctx, app, domain.Reference{Digest: d}, true)
	Expect(err).NotTo(HaveOccurred())
}

// overwrite pushes something else to v1.
func (h *harness) overwrite() error {
	_, err := h.push(app, "v1")
	return err
}

// blob makes a blob of a repository.
func (h *harness) blob(name domain.RepositoryName, content string) digest.Digest {
	GinkgoHelper()
	d := digest.FromString(content)
	_, err := h.LinkBlob(ctx, alice, name, domain.Blob{Digest: d, Size: int64(len(content)), Key: d.Encoded() + "." + name.Path}, core.CreateOrganization)
	Expect(err).NotTo(HaveOccurred())
	return d
}

// withBlobs is an image that refers to blobs.
func withBlobs(content string, blobs ...digest.Digest) domain.Manifest {
	m := manifest(content)
	m.Blobs = blobs
	return m
}

var (
	robot = domain.Caller{Name: "team-a+ci", Kind: domain.CallerRobot}
	other = domain.RepositoryName{Organization: "team-b", Path: "app"}
	no    = false
)

var bypasses = []chapter{
	{"Changing the rules", []bypass{
		{
			"Remove the rule, retag, restore the rule", "deletes the policy and at once pushes to a tag that it covered",
			"refused", "A withdrawn policy closes: it goes on locking what it covered until each tag has a hold of its own, which stays",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				h.gate.allow(0)
				p := h.mustCreate(teamA, releases)
				Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
				h.stands(h.overwrite(), d)
				h.gate.open()
				h.idle()
				h.stands(h.overwrite(), d)
			},
		},
		{
			"Withdraw a policy in the middle of its sweep", "deletes the policy while its sweep has reached some of the tags only",
			"every tag stays locked", "The closing revision has a sweep of its own, which places the missing holds",
			func(h *harness) {
				for i := range 30 {
					h.mustPush(app, fmt.Sprintf("v%02d", i))
				}
				h.with(func(o *core.Options) { o.SweepBatch = 1 })
				h.gate.allow(5)
				p := h.mustCreate(teamA, releases)
				Eventually(h.gate.used).WithTimeout(patience).Should(BeTrue())
				Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
				h.gate.open()
				h.idle()
				for i := range 30 {
					Expect(h.locked(app, fmt.Sprintf("v%02d", i))).To(BeTrue())
				}
			},
		},
		{
			"Narrow, invert or un-enforce the rule", "changes pattern, selection or mode so that the tag is not covered any more",
			"the tag stays locked", "Under `Retain`, the default, a change that uncovers tags closes the old revision as a deletion does",
			func(h *harness) {
				scope := core.Scope{Organization: "team-a", Repository: "app"}
				for i, change := range []func(*domain.PolicySpec){
					func(s *domain.PolicySpec) { s.TagPattern = "w.*" },
					func(s *domain.PolicySpec) { s.TagPatternMatches = false },
					func(s *domain.PolicySpec) { s.EnforcementMode = domain.DryRun },
				} {
					tag := fmt.Sprintf("v%d", i)
					d := h.mustPush(app, tag)
					h.gate.allow(0)
					p := h.mustCreate(scope, spec(tag))
					narrowed := p.PolicySpec
					change(&narrowed)
					_, err := h.UpdatePolicy(ctx, alice, scope, p.UUID, narrowed)
					Expect(err).NotTo(HaveOccurred())
					_, err = h.push(app, tag)
					Expect(err).To(haveCode(domain.CodeTagImmutable), "before any hold is placed")
					h.gate.open()
					h.idle()
					_, err = h.push(app, tag)
					Expect(err).To(haveCode(domain.CodeTagImmutable), "with the hold only")
					Expect(h.tag(app, tag)).To(Equal(d))
					Expect(h.DeletePolicy(ctx, alice, scope, p.UUID)).To(Succeed())
				}
			},
		},
		{
			"Take back a rule that is locked", "changes or deletes a policy before its `lockedUntil`, by itself, with its organization, or through its Kubernetes object, whose finalizer is then removed",
			"refused with the date, and an entry; the policy stays in force", "Whoever may edit a policy, or steals the account of somebody who may, is not the one whom a lock is to stop last",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				m := managed("u1", 1)
				m.Spec.LockedUntil = h.clock.Now().Add(time.Hour)
				m.Claim.Organizations = []string{"team-a"}
				status, err := h.PutManagedPolicy(ctx, operator, m)
				Expect(err).NotTo(HaveOccurred())
				weaker := m
				weaker.Manager.Generation, weaker.Spec = 2, spec("nothing")
				weaker.Spec.EnforcementMode = domain.DryRun
				_, err = h.PutManagedPolicy(ctx, operator, weaker)
				Expect(err).To(haveCode(domain.CodePolicyLocked))
				Expect(h.DeleteManagedPolicy(ctx, operator, cluster, m.Manager, false)).To(haveCode(domain.CodePolicyLocked))
				Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed()) // the object is gone
				Expect(h.DeletePolicy(ctx, alice, teamA, status.Policy.UUID)).To(haveCode(domain.CodePolicyLocked))
				Expect(h.AdoptPolicy(ctx, alice, teamA, status.Policy.UUID)).To(Succeed())
				_, err = h.UpdatePolicy(ctx, alice, teamA, status.Policy.UUID, weaker.Spec)
				Expect(err).To(haveCode(domain.CodePolicyLocked))
				h.idle()
				h.stands(h.overwrite(), d)
			},
		},
		{
			"Contradict the rule by another", "adds a policy with the same pattern and the opposite selection, or a narrower one beside it",
			"the same pattern is refused in one scope; in another scope it changes nothing", "Policies combine as OR: one more can only lock more",
			func(h *harness) {
				d := h.lockedImage()
				inverse := releases
				inverse.TagPatternMatches = false
				_, err := h.CreatePolicy(ctx, alice, teamA, inverse)
				Expect(err).To(haveCode(domain.CodeInvalid))
				h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, inverse)
				h.stands(h.overwrite(), d)
			},
		},
		{
			"Slip past half of the pattern", "names a tag so that an engine that looks for a part, or for a beginning, decides otherwise",
			"a pattern covers the names that it matches as a whole, and no other", "`v1|v2` means either name, and nothing that only begins or ends like one",
			func(h *harness) {
				h.mustPush(app, "latest")
				h.mustCreate(teamA, spec("v1|v2"))
				for tag, locked := range map[string]bool{"v1": true, "v2": true, "v1x": false, "xv2": false, "v1-v2": false} {
					h.mustPush(app, tag)
					Expect(h.locked(app, tag)).To(Equal(locked), tag)
				}
			},
		},
		{
			"Clear the flag of a covered tag", "sets `immutable: false`, alone or together with another digest, while a policy covers the tag",
			"refused, naming the policy; nothing is moved", "A flag is one hold; the policy locks without it",
			func(h *harness) {
				d := h.lockedImage()
				latest := h.mustPush(app, "latest")
				Expect(h.hold(app, "v1", true)).To(Succeed())
				for _, change := range []core.TagChange{{Immutable: &no}, {Immutable: &no, Digest: latest}} {
					Expect(h.ChangeTag(ctx, alice, app, "v1", change)).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("change the policy"))))
				}
				h.unharmed(d)
				Expect(h.entries(audit.KindDeleteTagFailed)).To(HaveLen(1), "the attempt is in the log")
			},
		},
		{
			"Let an admin robot clear the flag", "removes a hold by hand, or releases the holds of a policy, as a robot",
			"denied, with an entry", "Holds are removed by people, who can be asked why",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				Expect(h.hold(app, "v1", true)).To(Succeed())
				Expect(h.ChangeTag(ctx, robot, app, "v1", core.TagChange{Immutable: &no})).To(haveCode(domain.CodeDenied))
				p := h.mustCreate(teamA, releases)
				h.swept(teamA, p.UUID)
				Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
				h.idle()
				_, err := h.ReleasePolicy(ctx, robot, teamA, p.UUID)
				Expect(err).To(haveCode(domain.CodeDenied))
				Expect(h.ChangeTag(ctx, robot, app, "v1", core.TagChange{Immutable: &no})).To(haveCode(domain.CodeDenied))
				h.stands(h.overwrite(), d)
				Expect(metadataOf(h.entries(audit.KindDeleteTagFailed), "operation")).To(Equal([]any{"unlock", "unlock"}))
			},
		},
		{
			"Release another policy's holds", "releases a policy that also covers the tag, or is deleted",
			"the other holds stay", "A hold belongs to one policy, or to whoever placed it by hand",
			func(h *harness) {
				d := h.lockedImage()
				p := h.mustCreate(teamA, spec("v1"))
				h.swept(teamA, p.UUID)
				Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
				h.idle()
				Expect(h.ReleasePolicy(ctx, alice, teamA, p.UUID)).To(Equal(1))
				h.stands(h.overwrite(), d)
			},
		},
		{
			"Turn the feature off", "restarts the registry with other settings", "the tag stays locked",
			"No setting, flag or mode means \"mutable\"",
			func(h *harness) {
				d := h.lockedImage()
				h.with(func(o *core.Options) { o.SweepBatch, o.RefusalWindow, o.DeletionDelay = 1, time.Hour, time.Nanosecond })
				h.stands(h.overwrite(), d)
			},
		},
	}},
	{"Making the decision fail", []bypass{
		{
			"Break the look-up", "writes while a stored policy cannot be read, or while the database does not answer",
			"503, nothing changes", "What cannot be determined is not allowed",
			func(h *harness) {
				d := h.lockedImage()
				soon := h.clock.Now().Add(time.Hour)
				Expect(h.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
					o, err := tx.Organization("team-a")
					if err != nil {
						return err
					}
					policies, err := tx.Policies(o.ID, "")
					if err != nil {
						return err
					}
					damaged := policies[0]
					damaged.Revision++
					damaged.TagPattern = "v("
					return tx.InsertRevision(damaged, soon)
				})).To(Succeed())
				attempts := map[string]func() error{
					"overwrite":           h.overwrite,
					"create":              func() error { _, err := h.push(app, "new"); return err },
					"delete":              func() error { return h.DeleteTag(ctx, alice, app, "v1") },
					"delete by digest":    func() error { return h.DeleteManifest(ctx, alice, app, d) },
					"restore":             func() error { return h.RestoreTag(ctx, alice, app, "v2", d) },
					"expire":              func() error { return h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Expiration: &soon}) },
					"unlock":              func() error { return h.hold(app, "v1", false) },
					"delete repository":   func() error { return h.DeleteRepository(ctx, alice, app) },
					"delete organization": func() error { return h.DeleteOrganization(ctx, alice, "team-a") },
				}
				for what, attempt := range attempts {
					Expect(attempt()).To(haveCode(domain.CodeUnavailable), what)
				}
				h.unharmed(d)
				Expect(h.store.Close()).To(Succeed())
				for what, attempt := range attempts {
					Expect(attempt()).To(haveCode(domain.CodeUnavailable), what)
				}
				h.with(func(*core.Options) {})
				h.unharmed(d)
			},
		},
		{
			"Let the look-up run out of time", "deletes a manifest that thousands of others lead to",
			"503 once two seconds have passed, nothing changes", "A timeout is no answer, and the writer is not held up for longer",
			func(h *harness) {
				d := h.mustPush(app, "latest")
				h.with(func(o *core.Options) { o.DecisionTimeout = time.Nanosecond })
				Expect(h.DeleteManifest(ctx, alice, app, d)).To(haveCode(domain.CodeUnavailable))
				Expect(h.tag(app, "latest")).To(Equal(d))
			},
		},
		{
			"Make the pattern hang", "writes a pattern with which a backtracking engine takes for ever, and a tag to go with it",
			"the tag is locked", "RE2 matches in linear time, so there is no timeout that could count as \"no match\"",
			func(h *harness) {
				tag := strings.Repeat("x", domain.MaxTag)
				d := h.mustPush(app, tag)
				h.mustCreate(teamA, spec("(x+x+)+x?"))
				_, err := h.push(app, tag)
				Expect(err).To(haveCode(domain.CodeTagImmutable))
				Expect(h.tag(app, tag)).To(Equal(d))
			},
		},
		{
			"Come as somebody else", "writes as a user, a robot, the operator, the registry itself or nobody",
			"refused for all of them", "The decision does not look at who asks, or how they proved it",
			func(h *harness) {
				d := h.lockedImage()
				for _, kind := range []domain.CallerKind{domain.CallerUser, domain.CallerRobot, domain.CallerOperator, domain.CallerSystem, domain.CallerAnonymous} {
					_, err := h.PutManifest(ctx, domain.Caller{Name: "somebody", Kind: kind}, app, core.Push{Reference: domain.Reference{Tag: "v1"}, Manifest: manifest(`{}`)})
					h.stands(err, d)
				}
			},
		},
		{
			"Race another push", "pushes many images to one new covered name at once",
			"one wins, the others are refused", "Decision and write are one transaction",
			func(h *harness) {
				h.mustPush(app, "latest")
				h.mustCreate(teamA, releases)
				var won sync.Map
				var wg sync.WaitGroup
				for i := range 16 {
					wg.Go(func() {
						if d, err := h.pushContent(app, "v1", fmt.Sprintf(`{"racer":%d}`, i)); err == nil {
							won.Store(d, true)
						}
					})
				}
				wg.Wait()
				n := 0
				won.Range(func(d, _ any) bool { n++; return Expect(h.tag(app, "v1")).To(Equal(d)) })
				Expect(n).To(Equal(1))
			},
		},
		{
			"Race the policy", "pushes and deletes while the policy is being made",
			"what the tag pointed to when the policy was stored stands", "A policy protects from the commit that stores it, not from its sweep on",
			func(h *harness) {
				h.mustPush(app, "latest")
				h.gate.allow(0) // no sweep helps
				var wg sync.WaitGroup
				begin := make(chan struct{})
				for i := range 8 {
					wg.Go(func() {
						<-begin
						for j := range 20 {
							_, _ = h.pushContent(app, "v1", fmt.Sprintf(`{"racer":%d,"push":%d}`, i, j))
						}
					})
				}
				close(begin)
				h.mustCreate(teamA, releases)
				_, err := h.pushContent(app, "v1", `{"in case":"there was none"}`)
				if err != nil {
					Expect(err).To(haveCode(domain.CodeTagImmutable))
				}
				stored := h.tag(app, "v1")
				wg.Wait()
				h.unharmed(stored)
				h.gate.open()
			},
		},
		{
			"Race a hold", "deletes a tag while somebody locks it by hand",
			"either the tag is gone and nothing was locked, or it is locked and stays", "Both are decided in their transactions",
			func(h *harness) {
				for range 20 {
					d := h.mustPush(app, "v1")
					var wg sync.WaitGroup
					var locked, deleted error
					wg.Go(func() { locked = h.hold(app, "v1", true) })
					wg.Go(func() { deleted = h.DeleteTag(ctx, alice, app, "v1") })
					wg.Wait()
					if deleted == nil {
						Expect(locked).To(haveCode(domain.CodeManifestUnknown))
						continue
					}
					Expect(locked).NotTo(HaveOccurred())
					h.stands(deleted, d)
					Expect(h.hold(app, "v1", false)).To(Succeed())
				}
			},
		},
	}},
	{"Changing the tag", []bypass{
		{
			"Overwrite it", "pushes another image to the tag, or points the tag to another digest through the API",
			"refused: 422 on `/v2`, 409 on the API, naming tag, digest and policy", "This is what a lock is. The digest that stands may be pushed again, by clients that retry",
			func(h *harness) {
				d := h.lockedImage()
				latest := h.mustPush(app, "latest")
				h.stands(h.overwrite(), d)
				h.stands(h.setTag(app, "v1", latest), d)
				_, err := h.pushContent(app, "v1", `{"image":1}`)
				Expect(err).NotTo(HaveOccurred())
			},
		},
		{
			"Push the platforms of an index to the index's tag", "pushes as old versions of buildx do: each child, and then the index, to one tag",
			"the second push is refused, and says to push children by digest", "The first push created the locked tag. A second digest under it is what a lock is against",
			func(h *harness) {
				h.mustPush(app, "latest")
				p := h.mustCreate(teamA, releases)
				child := h.mustPut(app, "v1", imageOf("amd64"))
				index := indexOf(child)
				for what, m := range map[string]domain.Manifest{"locked a moment ago": imageOf("arm64"), "a child of the pushed index": index} {
					_, err := h.put(app, "v1", m)
					h.stands(err, child)
					Expect(err).To(MatchError(And(ContainSubstring(p.UUID), ContainSubstring(what), ContainSubstring("push the platforms of an index by digest"))))
				}
				By("doing as it says")
				h.mustPut(app, "", imageOf("arm64"))
				h.mustPut(app, "v2", index)
			},
		},
		{
			"Delete it", "deletes the tag", "refused, with an entry", "A deleted tag can be pushed anew",
			func(h *harness) {
				d := h.lockedImage()
				h.stands(h.DeleteTag(ctx, alice, app, "v1"), d)
				Expect(h.entries(audit.KindDeleteTagFailed)).To(HaveLen(1))
			},
		},
		{
			"Restore an older state", "restores a digest that the tag had before it was locked",
			"refused; where there is no tag, restoring creates one, which is locked", "Restoring is a move, or a creation",
			func(h *harness) {
				old := h.mustPush(app, "v1")
				d := h.lockedImage()
				h.stands(h.RestoreTag(ctx, alice, app, "v1", old), d)
				Expect(h.RestoreTag(ctx, alice, app, "v2", old)).To(Succeed())
				Expect(h.DeleteTag(ctx, alice, app, "v2")).To(haveCode(domain.CodeTagImmutable))
			},
		},
		{
			"Delete it first, and use the name again", "deletes tag or repository before the policy comes, and pushes under the old name",
			"the first push creates the tag, and locks it", "Policies go by names, and outlive tags and repositories",
			func(h *harness) {
				h.mustPush(app, "v1")
				h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, spec("v[2-9]"))
				Expect(h.DeleteTag(ctx, alice, app, "v1")).To(Succeed())
				Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed())
				d := h.mustPush(app, "v2")
				_, err := h.push(app, "v2")
				Expect(err).To(haveCode(domain.CodeTagImmutable))
				Expect(h.tag(app, "v2")).To(Equal(d))
			},
		},
		{
			"Write it in other letters", "pushes `V1` beside `v1`", "another tag; `v1` stands",
			"Tags and patterns are case-sensitive, so that the two never meet",
			func(h *harness) {
				d := h.lockedImage()
				h.mustPush(app, "V1")
				Expect(h.DeleteTag(ctx, alice, app, "V1")).To(Succeed())
				h.unharmed(d)
			},
		},
		{
			"Say it with another algorithm", "points the tag to the same bytes under their sha512 digest, and deletes them under it",
			"the tag is refused; the other manifest is another one, and may go", "A tag stands for a digest, not for bytes that somebody believes to be the same",
			func(h *harness) {
				d := h.mustPut(app, "v1", manifest(`{"same":"bytes"}`))
				h.mustCreate(teamA, releases)
				m := manifest(`{"same":"bytes"}`)
				m.Digest = digest.SHA512.FromBytes(m.Content)
				h.mustPut(app, "", m)
				h.stands(h.setTag(app, "v1", m.Digest), d)
				Expect(h.DeleteManifest(ctx, alice, app, m.Digest)).To(Succeed())
				h.unharmed(d)
			},
		},
		{
			"Push the same digest as something else", "pushes the standing bytes with another Content-Type",
			"succeeds and changes nothing", "A manifest's media type is stored with it once",
			func(h *harness) {
				d := h.lockedImage()
				m := manifest(`{"image":1}`)
				m.MediaType = "application/vnd.oci.image.index.v1+json"
				Expect(h.put(app, "v1", m)).To(Equal(d))
				Expect(h.put(app, "", m)).To(Equal(d))
				stored, err := h.Manifest(ctx, app, domain.Reference{Tag: "v1"}, false)
				Expect(err).NotTo(HaveOccurred())
				Expect(stored.MediaType).To(Equal("application/vnd.oci.image.manifest.v1+json"))
			},
		},
		{
			"Overwrite it with its own referrer", "pushes a manifest to the tag that names the standing one as its subject",
			"refused", "Only signature tags take more, and only what keeps all that they have",
			func(h *harness) {
				d := h.lockedImage()
				_, err := h.put(app, "v1", referrerOf(d, "signature"))
				h.stands(err, d)
			},
		},
		{
			"Hide behind unlocked tags", "deletes one of many tags after another, or all with their digest",
			"each tag is decided alone; the digest's deletion is all or nothing", "One locked tag keeps its digest, and no other's",
			func(h *harness) {
				d := h.lockedImage()
				for _, tag := range []string{"a", "b", "z"} {
					Expect(h.setTag(app, tag, d)).To(Succeed())
				}
				h.stands(h.DeleteManifest(ctx, alice, app, d), d)
				Expect(h.tag(app, "a")).To(Equal(d))
				for _, tag := range []string{"a", "b", "z"} {
					Expect(h.DeleteTag(ctx, alice, app, tag)).To(Succeed())
				}
				h.unharmed(d)
			},
		},
	}},
	{"Taking the image away", []bypass{
		{
			"Delete by digest", "deletes the manifest by its digest", "refused, naming the tags", "The walk from the manifest finds the tag",
			func(h *harness) {
				d := h.lockedImage()
				h.stands(h.DeleteManifest(ctx, alice, app, d), d)
			},
		},
		{
			"Delete a child of a locked index", "deletes a platform of the index by digest, at any depth",
			"refused, naming the index's tag", "The walk goes from a child to every index that has it",
			func(h *harness) {
				child := h.mustPut(app, "", manifest(`{"child":1}`))
				inner := h.mustPut(app, "", indexOf(child))
				outer := h.mustPut(app, "v1", indexOf(inner))
				h.mustCreate(teamA, releases)
				h.stands(h.DeleteManifest(ctx, alice, app, child), outer)
				h.stands(h.DeleteManifest(ctx, alice, app, inner), outer)
			},
		},
		{
			"Delete the index to free its children", "deletes an unlocked index, and then a child that has a locked tag or belongs to a locked index too",
			"the index goes, the child stays", "What leads to a manifest is looked for anew with each deletion; nothing is counted",
			func(h *harness) {
				child := h.mustPut(app, "", manifest(`{"child":1}`))
				d := h.mustPut(app, "v1", indexOf(child))
				h.mustCreate(teamA, releases)
				nightly := h.mustPut(app, "nightly", indexOf(child, d))
				Expect(h.DeleteManifest(ctx, alice, app, nightly)).To(Succeed())
				h.stands(h.DeleteManifest(ctx, alice, app, child), d)
			},
		},
		{
			"Delete a blob, a layer or the config", "deletes a blob of the image, of a child or of a signature from the repository",
			"422 naming the tag; 405 where the manifest is not locked", "A link to a blob stays while a manifest of the repository refers to it",
			func(h *harness) {
				config, child, signed := h.blob(app, "config"), h.blob(app, "child"), h.blob(app, "signed")
				platform := h.mustPut(app, "", withBlobs(`{"platform":1}`, child))
				index := withBlobs(`{"index":1}`, config)
				index.Children = []digest.Digest{platform}
				d := h.mustPut(app, "v1", index)
				m := imageOf("1", signature("a"))
				m.Blobs = []digest.Digest{signed}
				h.mustPut(app, signatureTag(d, ".sig"), m)
				h.mustCreate(teamA, releases)
				for _, b := range []digest.Digest{config, child, signed} {
					h.stands(h.DeleteBlob(ctx, alice, app, b), d)
				}
				free := h.blob(app, "free")
				h.mustPut(app, "nightly", withBlobs(`{"nightly":1}`, free))
				Expect(h.DeleteBlob(ctx, alice, app, free)).To(haveCode(domain.CodeUnsupported))
			},
		},
		{
			"Use a blob's link elsewhere", "mounts a blob into another repository and deletes it there",
			"the locked image keeps its own link", "Repositories share bytes, never links",
			func(h *harness) {
				layer := h.blob(app, "layer")
				d := h.mustPut(app, "v1", withBlobs(`{"with":"layer"}`, layer))
				h.mustCreate(teamA, releases)
				Expect(h.MountBlob(ctx, alice, other, app, layer, core.CreateOrganization)).To(BeTrue())
				Expect(h.DeleteBlob(ctx, alice, other, layer)).To(Succeed())
				Expect(h.MountBlob(ctx, alice, app, other, layer, core.CreateNothing)).To(BeFalse(), "it is not there any more")
				_, err := h.Blob(ctx, app, layer)
				Expect(err).NotTo(HaveOccurred())
				h.stands(h.DeleteBlob(ctx, alice, app, layer), d)
			},
		},
		{
			"Delete the manifest elsewhere", "pushes the same image to an unlocked repository and deletes it there, with the repository",
			"the locked one stands", "Each repository has its own manifests",
			func(h *harness) {
				d := h.lockedImage()
				Expect(h.pushContent(other, "v1", `{"image":1}`)).To(Equal(d))
				Expect(h.DeleteManifest(ctx, alice, other, d)).To(Succeed())
				Expect(h.DeleteRepository(ctx, alice, other)).To(Succeed())
				Expect(h.DeleteOrganization(ctx, alice, "team-b")).To(Succeed())
				h.unharmed(d)
			},
		},
		{
			"Delete the repository or the organization", "deletes what holds the tag", "409 with count and names of the locked tags, and an entry",
			"The deletion would delete the tags",
			func(h *harness) {
				d := h.lockedImage()
				for kind, attempt := range map[audit.Kind]func() error{
					audit.KindDeleteRepoFailed: func() error { return h.DeleteRepository(ctx, alice, app) },
					audit.KindDeleteOrgFailed:  func() error { return h.DeleteOrganization(ctx, alice, "team-a") },
				} {
					Expect(attempt()).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("1 locked tags"))))
					Expect(h.entries(kind)).To(HaveLen(1))
				}
				h.unharmed(d)
			},
		},
		{
			"Push garbage that is refused", "pushes manifests to a locked tag to fill the store with what nobody sees",
			"nothing of a refused push is stored", "The refusal undoes the transaction, but for its entry",
			func(h *harness) {
				d := h.lockedImage()
				refused := manifest(`{"refused":true}`)
				_, err := h.put(app, "v1", refused)
				h.stands(err, d)
				_, err = h.Manifest(ctx, app, domain.Reference{Digest: refused.Digest}, false)
				Expect(err).To(haveCode(domain.CodeManifestUnknown))
			},
		},
	}},
	{"Taking the evidence of the image away", []bypass{
		{
			"Delete a referrer", "deletes a signature, an SBOM, or a referrer of these by digest",
			"refused, naming the image's tag; new ones may be added", "The walk goes from a referrer to its subject",
			func(h *harness) {
				d := h.lockedImage()
				sbom := h.mustPut(app, "", referrerOf(d, "sbom"))
				signed := h.mustPut(app, "", referrerOf(sbom, "signature of the sbom"))
				for _, referrer := range []digest.Digest{sbom, signed} {
					h.stands(h.DeleteManifest(ctx, alice, app, referrer), d)
				}
			},
		},
		{
			"Overwrite a signature", "pushes a signature tag (`.sig`, `.att`, or the referrers tag) that lacks something that it had",
			"refused; what only adds is let through, and marked `append` in the log",
			"A second signature must not be refused by a policy `.*`, and a first one must not get lost without any policy for it",
			func(h *harness) {
				d := h.lockedImage()
				sig := signatureTag(d, ".sig")
				h.mustPut(app, sig, imageOf("1", signature("a")))
				h.mustPut(app, sig, imageOf("2", signature("a"), signature("b")))
				_, err := h.put(app, sig, imageOf("3", signature("a"), signature("c")))
				h.stands(err, d)
				Expect(h.appended()).To(Equal([]any{sig}))
			},
		},
		{
			"Delete a signature", "deletes a signature tag, or what it points to by digest (`cosign clean`)",
			"refused, naming the tags of the subject", "Of a locked image, its signature tags are protected too, without a hold of their own",
			func(h *harness) {
				d := h.lockedImage()
				sig := signatureTag(d, ".sig")
				signed := h.mustPut(app, sig, imageOf("1", signature("a")))
				h.stands(h.DeleteTag(ctx, alice, app, sig), d)
				h.stands(h.DeleteManifest(ctx, alice, app, signed), d)
				Expect(h.tag(app, sig)).To(Equal(signed))
			},
		},
		{
			"Smuggle an image past as a signature", "names an image's tag as a signature tag, so that it could be \"added to\"",
			"locked as any tag", "Only manifests whose layers are all signatures or attestations can be added to",
			func(h *harness) {
				subject := h.mustPush(app, "latest")
				sig := signatureTag(subject, ".sig")
				fs := layer("application/vnd.oci.image.layer.v1.tar+gzip", "root")
				h.mustPut(app, sig, imageOf("1", fs))
				h.mustCreate(teamA, spec(".*sig"))
				for _, more := range []string{fs, signature("a")} {
					_, err := h.put(app, sig, imageOf("2", fs, more))
					Expect(err).To(haveCode(domain.CodeTagImmutable))
				}
			},
		},
		{
			"Fill the referrers tag with strangers", "adds manifests to the referrers tag that are not there, or refer to something else",
			"refused", "Each manifest must be in the repository, with that subject",
			func(h *harness) {
				d := h.lockedImage()
				one := h.mustPut(app, "", referrerOf(d, "one"))
				stranger := h.mustPut(app, "", referrerOf(one, "of another"))
				referrers := signatureTag(d, "")
				h.mustPut(app, referrers, indexOf(one))
				_, err := h.put(app, referrers, indexOf(one, stranger))
				h.stands(err, d)
				Expect(h.tag(app, referrers)).To(Equal(indexOf(one).Digest))
			},
		},
	}},
	{"Waiting", []bypass{
		{
			"Let it expire", "sets an expiration of the locked tag", "refused, with an entry", "An expiration is a deletion that waits",
			func(h *harness) {
				d := h.lockedImage()
				_, err := h.expire(app, "v1")
				h.stands(err, d)
				Expect(h.entries(audit.KindDeleteTagFailed)).To(HaveLen(1))
			},
		},
		{
			"Set the expiration before the policy", "lets the tag expire, and waits for the policy that locks it",
			"the lock removes the expiration, with an entry", "A policy is no less in force for what was agreed before it",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				_, err := h.expire(app, "v1")
				Expect(err).NotTo(HaveOccurred())
				p := h.mustCreate(teamA, releases)
				h.swept(teamA, p.UUID)
				h.mustPush(app, "nightly")
				_, err = h.expire(app, "nightly")
				Expect(err).NotTo(HaveOccurred())
				h.clock.Advance(2 * time.Hour)
				h.gone(app, "nightly")
				h.unharmed(d)
				Expect(metadataOf(h.entries(audit.KindChangeExpiry), "trigger")).To(Equal([]any{"manual", "policy", "manual"}))
			},
		},
		{
			"Let the expiration race the lock", "locks the tag in the moment in which the expired tag is being deleted",
			"whoever commits first wins; a locked tag is not deleted", "The deletion looks at tag and lock again in its own transaction",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				h.mustPush(app, "nightly")
				for _, tag := range []string{"v1", "nightly"} {
					_, err := h.expire(app, tag)
					Expect(err).NotTo(HaveOccurred())
				}
				h.gate.allow(0)
				h.clock.Advance(2 * time.Hour)
				Eventually(h.gate.waiting).WithTimeout(patience).Should(BeTrue())
				h.mustCreate(teamA, releases)
				h.gate.open()
				h.gone(app, "nightly")
				h.unharmed(d)
			},
		},
		{
			"Let setting the expiration race the lock", "sets an expiration while somebody locks the tag by hand",
			"a locked tag has no expiration, whoever was first", "Either the lock is seen and the expiration refused, or the lock removes it",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				for range 20 {
					var wg sync.WaitGroup
					wg.Go(func() { _, _ = h.expire(app, "v1") })
					wg.Go(func() { _ = h.hold(app, "v1", true) })
					wg.Wait()
					_, err := h.expire(app, "v1")
					h.stands(err, d)
					Expect(h.hold(app, "v1", false)).To(Succeed())
					Expect(h.expiration(app, "v1")).To(BeZero())
				}
			},
		},
		{
			"Push it with a label that lets it expire", "pushes an image with the label `quay.expires-after`, to a locked tag or anew",
			"the label has no effect", "What an image says of itself changes no tag; expirations are set by the API, which looks at locks",
			func(h *harness) {
				h.mustPush(app, "latest")
				h.mustCreate(teamA, releases)
				m := manifest(`{"annotations":{"quay.expires-after":"1s"}}`)
				m.Annotations = map[string]string{"quay.expires-after": "1s"}
				d := h.mustPut(app, "v1", m)
				h.mustPush(app, "nightly")
				_, err := h.expire(app, "nightly")
				Expect(err).NotTo(HaveOccurred())
				h.clock.Advance(2 * time.Hour)
				h.gone(app, "nightly")
				h.unharmed(d)
			},
		},
		{
			"Put one locked tag among those that expire", "makes the deletion of expired tags fail on a locked one",
			"the others are deleted", "A locked tag is no error: it loses its expiration",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				for _, tag := range []string{"a", "v1", "z"} {
					if tag != "v1" {
						h.mustPush(app, tag)
					}
					_, err := h.expire(app, tag)
					Expect(err).NotTo(HaveOccurred())
				}
				h.gate.allow(0)
				h.mustCreate(teamA, releases)
				h.clock.Advance(2 * time.Hour)
				h.gate.open()
				h.gone(app, "a")
				h.gone(app, "z")
				h.unharmed(d)
			},
		},
		{
			"Wait for garbage collection", "lets everything grow old, with a collector that takes manifests without a tag too",
			"the locked image keeps its manifests, configs, layers and signatures", "A live tag is a root, and all that it leads to, and all that refers to that, goes with it",
			func(h *harness) {
				h.with(func(o *core.Options) {
					o.Collection = &core.Collection{Grace: time.Hour, Delay: time.Hour, UntaggedManifests: true}
				})
				layer := h.layer("layer")
				h.upload(app, layer)
				child, err := h.put(app, "", image("child", []digest.Digest{layer.Digest}))
				Expect(err).NotTo(HaveOccurred())
				d := h.mustPut(app, "v1", image("index", nil, child))
				signature := manifest("a signature")
				signature.Subject = d
				signed, err := h.put(app, "", signature)
				Expect(err).NotTo(HaveOccurred())
				stray, err := h.put(app, "", manifest("a stray"))
				Expect(err).NotTo(HaveOccurred())
				p := h.mustCreate(teamA, releases)
				h.swept(teamA, p.UUID)
				h.clock.Advance(1000 * time.Hour)
				Expect(h.collect()).To(Equal(domain.Collected{Manifests: 1}))
				Expect(h.hasManifest(app, stray)).To(BeFalse())
				h.unharmed(d)
				Expect(h.hasManifest(app, child)).To(BeTrue())
				Expect(h.hasManifest(app, signed)).To(BeTrue())
				Expect(h.hasBlob(app, layer.Digest)).To(BeTrue())
			},
		},
		{
			"Start a registry that has lost its policies", "restores an old backup and lets expired tags be deleted before the operator has come",
			"nothing is written until the operator has brought every policy", "A registry that belongs to an operator knows that it does not know",
			func(h *harness) {
				d := h.mustPush(app, "v1")
				_, err := h.expire(app, "v1")
				Expect(err).NotTo(HaveOccurred())
				h.with(func(o *core.Options) { o.RequireSync = true })
				h.clock.Advance(2 * time.Hour)
				Expect(h.overwrite()).To(haveCode(domain.CodeUnavailable))
				h.unharmed(d)
				policy := managed("u1", 1)
				policy.Claim.Organizations = []string{"team-a"}
				_, err = h.PutManagedPolicy(ctx, operator, policy)
				Expect(err).NotTo(HaveOccurred())
				Expect(h.Synced(ctx, operator, cluster, []domain.ManagedBy{policy.Manager})).To(Succeed())
				h.idle()
				h.stands(h.overwrite(), d)
			},
		},
	}},
	{"Leaving no trace", []bypass{
		{
			"Lock, release or refuse without an entry", "looks for a change of a tag that the log does not tell",
			"every hold, release and refusal has its entry, with organization, repository and tag", "Entries are committed with what they tell of; a refusal's is committed before the answer",
			func(h *harness) {
				d := h.lockedImage()
				h.stands(h.overwrite(), d)
				h.mustPush(app, "v2")
				for _, e := range h.entries(audit.KindChangeImmutability, audit.KindTagCreatedImmutable, audit.KindPushFailed) {
					Expect(e.Organization).To(Equal("team-a"))
					Expect(e.Repository).To(Equal("app"))
					Expect(e.Tag).To(HavePrefix("v"))
					Expect(e.Policy).NotTo(BeEmpty())
				}
				Expect(h.entries(audit.KindChangeImmutability)).To(HaveLen(1))
				Expect(h.entries(audit.KindTagCreatedImmutable)).To(HaveLen(1))
				Expect(h.entries(audit.KindPushFailed)).To(HaveLen(1))
			},
		},
		{
			"Have two tags of one name", "creates the tag twice at once, so that one of the two is not locked",
			"there is one", "The database has one row for a name, and no deleted ones among them",
			func(h *harness) {
				h.mustPush(app, "latest")
				var wg sync.WaitGroup
				for i := range 16 {
					wg.Go(func() { _, _ = h.pushContent(app, "v1", fmt.Sprintf(`{"racer":%d}`, i)) })
				}
				wg.Wait()
				views, err := h.ListTags(ctx, app, core.TagQuery{Contains: "v1", Limit: 10})
				Expect(err).NotTo(HaveOccurred())
				Expect(views).To(HaveLen(1))
			},
		},
	}},
}
