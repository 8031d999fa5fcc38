package core_test

import (
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// hashOf stands for the SHA-256 of a token.
func hashOf(name string) []byte { return []byte("hash of " + name) }

var _ = eachEngine("Accounts", func(h *harness) {
	// callerOf is an account as a caller who was authorised now.
	callerOf := func(kind domain.CallerKind, name string) domain.Caller {
		GinkgoHelper()
		p, _, err := h.PrincipalByName(ctx, kind, name)
		Expect(err).NotTo(HaveOccurred())
		return domain.Caller{Kind: kind, Name: name, Account: p.ID, Epoch: p.Epoch}
	}
	user := func(name string) {
		GinkgoHelper()
		Expect(h.CreateUser(ctx, alice, core.NewUser{Name: name})).To(Succeed())
	}
	robot := func(short string) {
		GinkgoHelper()
		_, err := h.CreateRobot(ctx, alice, core.NewRobot{Organization: "team-a", Short: short}, hashOf(short))
		Expect(err).NotTo(HaveOccurred())
	}
	as := func(caller domain.Caller, create core.Create, name domain.RepositoryName, tag string) error {
		h.n++
		_, err := h.PutManifest(ctx, caller, name, core.Push{Reference: domain.Reference{Tag: tag}, Manifest: manifest(fmt.Sprintf(`{"n":%d}`, h.n)), Create: create})
		return err
	}

	BeforeEach(func() {
		h.mustPush(app, "latest")
		user("carol")
		robot("ci")
	})

	It("can write until they lose a right or a credential, and not in the middle of losing it", func() {
		changes := map[string]func(){
			"a permission is taken": func() { Expect(h.RemovePermission(ctx, alice, app, "carol")).To(Succeed()) },
			"a permission becomes less": func() {
				_, err := h.SetPermission(ctx, alice, app, "carol", domain.RepositoryRead)
				Expect(err).NotTo(HaveOccurred())
			},
			"the membership ends": func() { Expect(h.RemoveMember(ctx, alice, "team-a", "carol")).To(Succeed()) },
			"the membership changes": func() {
				_, err := h.SetMember(ctx, alice, "team-a", "carol", domain.OrganizationCreator)
				Expect(err).NotTo(HaveOccurred())
			},
			"the password changes": func() {
				hash := "x"
				Expect(h.UpdateUser(ctx, alice, "carol", core.UserChange{PasswordHash: &hash})).To(Succeed())
			},
			"a token is revoked": func() {
				tokens, _ := h.Tokens(ctx, "carol")
				Expect(h.RevokeToken(ctx, alice, "carol", tokens[0].ID)).To(Succeed())
			},
			"the account is disabled": func() {
				yes := true
				Expect(h.UpdateUser(ctx, alice, "carol", core.UserChange{Disabled: &yes})).To(Succeed())
			},
			"the account is deleted":      func() { Expect(h.DeleteUser(ctx, alice, "carol")).To(Succeed()) },
			"the repository is deleted":   func() { Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed()) },
			"the organization is deleted": func() { Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(Succeed()) },
		}
		for what, change := range changes {
			if _, err := h.User(ctx, "carol"); err != nil {
				user("carol")
			}
			h.mustPush(app, "latest")
			_, err := h.SetMember(ctx, alice, "team-a", "carol", domain.OrganizationMember)
			Expect(err).NotTo(HaveOccurred())
			_, err = h.SetPermission(ctx, alice, app, "carol", domain.RepositoryWrite)
			Expect(err).NotTo(HaveOccurred())
			no := false
			Expect(h.UpdateUser(ctx, alice, "carol", core.UserChange{Disabled: &no})).To(Succeed())
			_, err = h.CreateToken(ctx, alice, "carol", "t", hashOf(what))
			Expect(err).NotTo(HaveOccurred())

			caller := callerOf(domain.CallerUser, "carol")
			Expect(as(caller, core.CreateNothing, app, "v1")).To(Succeed(), what)
			change()
			err = as(caller, core.CreateOrganization, app, "v1")
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized), what)
			Expect(err).To(MatchError("the rights of carol have changed; authenticate again"))
			if _, err := h.Manifest(ctx, app, domain.Reference{Tag: "v1"}, false); err == nil {
				Expect(h.DeleteTag(ctx, alice, app, "v1")).To(Succeed())
			}
		}
	})

	It("go on to write when they are given more", func() {
		caller := callerOf(domain.CallerRobot, "team-a+ci")
		_, err := h.SetPermission(ctx, alice, app, "team-a+ci", domain.RepositoryWrite)
		Expect(err).NotTo(HaveOccurred())
		_, err = h.SetMember(ctx, alice, "team-a", "team-a+ci", domain.OrganizationCreator)
		Expect(err).NotTo(HaveOccurred())
		Expect(as(caller, core.CreateNothing, app, "v1")).To(Succeed())
	})

	It("are other accounts when they are made again", func() {
		caller := callerOf(domain.CallerRobot, "team-a+ci")
		Expect(h.DeleteRobot(ctx, alice, "team-a", "ci")).To(Succeed())
		robot("ci")
		Expect(domain.CodeOf(as(caller, core.CreateOrganization, app, "v1"))).To(Equal(domain.CodeUnauthorized))
	})

	It("lose a write or their right first, whichever comes first, when both come together", func() {
		caller := callerOf(domain.CallerRobot, "team-a+ci")
		var group sync.WaitGroup
		results := make([]error, 64)
		for i := range results {
			group.Go(func() {
				_, results[i] = h.PutManifest(ctx, caller, app, core.Push{Reference: domain.Reference{Tag: fmt.Sprintf("t%d", i)}, Manifest: manifest(fmt.Sprintf(`{"together":%d}`, i))})
			})
		}
		group.Go(func() {
			_, err := h.RegenerateRobot(ctx, alice, "team-a", "ci", hashOf("next"))
			Expect(err).NotTo(HaveOccurred())
		})
		group.Wait()
		// In the log no push of the robot stands behind the change.
		over := false
		pushed := 0
		for _, e := range h.entries() {
			over = over || e.Kind == audit.KindRegenerateRobot
			if e.Kind == audit.KindCreateTag && e.Performer == "team-a+ci" {
				Expect(over).To(BeFalse(), "entry %d", e.Index)
				pushed++
			}
		}
		Expect(over).To(BeTrue())
		accepted := 0
		for _, err := range results {
			if err == nil {
				accepted++
			} else {
				Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			}
		}
		Expect(pushed).To(Equal(accepted))
	})

	It("become the admins of what they create, unless their role says as much", func() {
		_, err := h.SetMember(ctx, alice, "team-a", "carol", domain.OrganizationCreator)
		Expect(err).NotTo(HaveOccurred())
		made := domain.RepositoryName{Organization: "team-a", Path: "made"}
		Expect(as(callerOf(domain.CallerUser, "carol"), core.CreateOwnRepository, made, "v1")).To(Succeed())
		p, err := h.Permission(ctx, made, "carol")
		Expect(err).NotTo(HaveOccurred())
		Expect(p.Role).To(Equal(domain.RepositoryAdmin))
		Expect(as(callerOf(domain.CallerUser, "carol"), core.CreateOwnRepository, made, "v2")).To(Succeed())
		Expect(domain.CodeOf(as(callerOf(domain.CallerUser, "carol"), core.CreateOwnRepository, app, "v2"))).To(Equal(domain.CodeDenied))

		_, err = h.SetMember(ctx, alice, "team-a", "carol", domain.OrganizationAdmin)
		Expect(err).NotTo(HaveOccurred())
		other := domain.RepositoryName{Organization: "team-a", Path: "other"}
		Expect(as(callerOf(domain.CallerUser, "carol"), core.CreateRepository, other, "v1")).To(Succeed())
		_, err = h.Permission(ctx, other, "carol")
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeNotFound))
	})

	It("see in lists what is public, what they were given, and what they administer, page by page", func() {
		public := domain.Public
		for _, name := range []string{"team-a/b", "team-a/c/d", "team-b/a", "team-b/z", "team-c/x"} {
			parsed, err := domain.ParseRepositoryName(name)
			Expect(err).NotTo(HaveOccurred())
			h.mustPush(parsed, "v1")
			if name == "team-b/z" {
				Expect(h.UpdateRepository(ctx, alice, parsed, core.RepositoryChange{Visibility: &public})).To(Succeed())
			}
		}
		_, err := h.SetPermission(ctx, alice, domain.RepositoryName{Organization: "team-b", Path: "a"}, "carol", domain.RepositoryRead)
		Expect(err).NotTo(HaveOccurred())
		pages := func(to domain.Audience) (all []string) {
			after := ""
			for {
				names, err := h.Catalog(ctx, to, after, 2)
				Expect(err).NotTo(HaveOccurred())
				all = append(all, names...)
				if len(names) < 2 {
					return all
				}
				after = names[1]
			}
		}
		carol := domain.Audience{Account: callerOf(domain.CallerUser, "carol").Account}
		Expect(pages(domain.Audience{})).To(Equal([]string{"team-b/z"}))
		Expect(pages(carol)).To(Equal([]string{"team-b/a", "team-b/z"}))
		_, err = h.SetMember(ctx, alice, "team-a", "carol", domain.OrganizationMember)
		Expect(err).NotTo(HaveOccurred())
		Expect(pages(carol)).To(Equal([]string{"team-b/a", "team-b/z"}))
		_, err = h.SetMember(ctx, alice, "team-a", "carol", domain.OrganizationAdmin)
		Expect(err).NotTo(HaveOccurred())
		Expect(pages(carol)).To(Equal([]string{"team-a/app", "team-a/b", "team-a/c/d", "team-b/a", "team-b/z"}))
		Expect(pages(domain.Audience{Everything: true})).To(HaveLen(6))

		paths := func(to domain.Audience, organization string) (list []string) {
			repositories, err := h.Repositories(ctx, to, organization, "", 10)
			Expect(err).NotTo(HaveOccurred())
			for _, r := range repositories {
				list = append(list, r.Name.Path)
			}
			return list
		}
		Expect(paths(carol, "team-a")).To(Equal([]string{"app", "b", "c/d"}))
		Expect(paths(carol, "team-b")).To(Equal([]string{"a", "z"}))
		Expect(paths(domain.Audience{}, "team-b")).To(Equal([]string{"z"}))
		Expect(paths(carol, "none")).To(BeEmpty())
	})

	It("have at most a hundred tokens", func() {
		for i := range 100 {
			_, err := h.CreateToken(ctx, alice, "carol", "t", hashOf(fmt.Sprint(i)))
			Expect(err).NotTo(HaveOccurred())
		}
		_, err := h.CreateToken(ctx, alice, "carol", "t", hashOf("one more"))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeConflict))
	})

	It("are written by clients only once the operator has brought all policies", func() {
		h.with(func(o *core.Options) { o.RequireSync = true })
		Expect(domain.CodeOf(h.CreateUser(ctx, alice, core.NewUser{Name: "bob"}))).To(Equal(domain.CodeUnavailable))
	})

	It("make one signing key, whichever replica comes first", func() {
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				defer GinkgoRecover()
				key := domain.SigningKey{ID: fmt.Sprint(i), Private: []byte("key")}
				Expect(h.AddSigningKey(ctx, domain.System, key, h.clock.Now().Add(-time.Hour), h.clock.Now().Add(-24*time.Hour))).To(Succeed())
			})
		}
		group.Wait()
		keys, err := h.SigningKeys(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(keys).To(HaveLen(1))
	})
})

var _ = eachEngine("Failed logins", func(h *harness) {
	failures := func() (list []audit.View) {
		for _, e := range h.entries() {
			if e.Kind == audit.KindLoginFailure {
				list = append(list, e)
			}
		}
		return list
	}

	It("are an entry, and repeats within a minute are counted into another", func() {
		for range 5 {
			Expect(h.LoginFailed(ctx, "carol", "192.0.2.1")).To(Succeed())
		}
		Expect(failures()).To(HaveLen(1))
		first := failures()[0]
		Expect(first.Address).To(Equal("192.0.2.1"))
		Expect(first.Metadata).To(Equal(map[string]any{"username": "carol", "reason": "wrong credentials"}))
		h.clock.Advance(time.Minute)
		Eventually(failures).WithTimeout(patience).Should(HaveLen(2))
		Expect(failures()[1].Metadata).To(And(
			HaveKeyWithValue("repeat_of", first.Hash.String()), HaveKeyWithValue("count", BeEquivalentTo(4)), HaveKeyWithValue("username", "carol"),
		))
	})

	It("make a bounded number of entries, whatever names and addresses they come with", func() {
		for i := range 50 {
			Expect(h.LoginFailed(ctx, fmt.Sprintf("name%d", i), "192.0.2.1")).To(Succeed())
		}
		Expect(failures()).To(HaveLen(11), "ten names, and one for all others of the address")
		for i := range 500 {
			Expect(h.LoginFailed(ctx, "carol", fmt.Sprintf("2001:db8::%x", i))).To(Succeed())
		}
		Expect(len(failures())).To(Equal(101), "a hundred windows, and one for all others")
		h.clock.Advance(time.Minute)
		total := func() (n float64) {
			for _, e := range failures() {
				n++
				if count, ok := e.Metadata["count"].(float64); ok {
					n += count - 1
				}
			}
			return n
		}
		Eventually(total).WithTimeout(patience).Should(BeEquivalentTo(550), "none is lost")
		Expect(len(failures())).To(BeNumerically("<", 110))
	})
})
