package core_test

import (
	"crypto/sha256"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

var auditor = domain.Subject{Kind: domain.SubjectRegistryUser, Name: "auditor"}

// granted is what a ReadonlySuperuser "audit" declares.
func granted(uid string, generation int64, changes ...func(*core.ManagedReadonlySuperuser)) core.ManagedReadonlySuperuser {
	m := core.ManagedReadonlySuperuser{
		Cluster: cluster, Manager: domain.ManagedBy{Kind: domain.KindReadonlySuperuser, Name: "audit", UID: uid, Generation: generation},
		Subject: auditor, Access: domain.ReadonlyFull,
	}
	for _, change := range changes {
		change(&m)
	}
	return m
}

func withCredentials(token string) func(*core.ManagedReadonlySuperuser) {
	return func(m *core.ManagedReadonlySuperuser) { m.Credentials, m.TokenID = true, token }
}

func to(s domain.Subject) func(*core.ManagedReadonlySuperuser) {
	return func(m *core.ManagedReadonlySuperuser) { m.Subject = s }
}

func until(at time.Time) func(*core.ManagedReadonlySuperuser) {
	return func(m *core.ManagedReadonlySuperuser) { m.ExpiresAt = at }
}

var _ = eachEngine("A readonly superuser that a Kubernetes object makes", func(h *harness) {
	put := func(m core.ManagedReadonlySuperuser) (core.ReadonlySuperuserStatus, error) {
		return h.PutManagedReadonlySuperuser(ctx, operator, m)
	}
	mustPut := func(m core.ManagedReadonlySuperuser) core.ReadonlySuperuserStatus {
		GinkgoHelper()
		status, err := put(m)
		Expect(err).NotTo(HaveOccurred())
		return status
	}
	remove := func(uid string) {
		GinkgoHelper()
		Expect(h.DeleteManagedReadonlySuperuser(ctx, operator, cluster, granted(uid, 1).Manager)).To(Succeed())
	}
	newToken := func(uid, secret string) domain.AccountToken {
		GinkgoHelper()
		hash := sha256.Sum256([]byte(secret))
		token, username, err := h.CreateGrantToken(ctx, operator, cluster, granted(uid, 1).Manager, hash[:])
		Expect(err).NotTo(HaveOccurred())
		Expect(username).To(Equal("auditor"))
		return token
	}
	holds := func(secret string) error {
		hash := sha256.Sum256([]byte(secret))
		_, _, err := h.PrincipalByToken(ctx, hash[:])
		return err
	}
	user := func(name, password string) domain.Account {
		GinkgoHelper()
		Expect(h.CreateUser(ctx, alice, core.NewUser{Name: name, PasswordHash: password})).To(Succeed())
		a, err := h.User(ctx, name)
		Expect(err).NotTo(HaveOccurred())
		return a
	}

	It("is put idempotently and follows the object", func() {
		status := mustPut(granted("u1", 1))
		Expect(status.Active).To(BeTrue())
		Expect(status.Resolved).To(BeFalse(), "there is no such user")
		before := len(h.entries())
		Expect(mustPut(granted("u1", 1))).To(Equal(status))
		Expect(h.entries()).To(HaveLen(before))

		user("auditor", "hash")
		changed := mustPut(granted("u1", 2, func(m *core.ManagedReadonlySuperuser) { m.Access = domain.ReadonlyMetadataOnly }))
		Expect(changed.UUID).To(Equal(status.UUID))
		Expect(changed.Resolved).To(BeTrue())
		entries := h.entries(audit.KindGrantReadonly, audit.KindChangeReadonly)
		Expect(entries).To(HaveLen(2))
		Expect(entries[0].Metadata).To(And(HaveKeyWithValue("username", "auditor"), HaveKeyWithValue("subject_kind", "RegistryUser"), HaveKeyWithValue("access", "Full"),
			HaveKeyWithValue("grant_uuid", status.UUID), HaveKeyWithValue("managed_by", HaveKeyWithValue("name", "audit"))))
		Expect(entries[1].Metadata).To(And(HaveKeyWithValue("previous_access", "Full"), HaveKeyWithValue("access", "MetadataOnly")))
		Expect(h.ManagedReadonlySuperuser(ctx, domain.KindReadonlySuperuser, "audit")).To(Equal(changed))
	})

	It("is fenced, and adopted by an object of the same name and subject", func() {
		first := mustPut(granted("u1", 5))
		_, err := put(granted("u1", 4))
		Expect(err).To(haveCode(domain.CodeStale))
		mustPut(granted("u1", 4, func(m *core.ManagedReadonlySuperuser) { m.Rewound = true }))
		second := mustPut(granted("u2", 1))
		Expect(second.UUID).To(Equal(first.UUID))
		_, err = put(granted("u1", 6))
		Expect(err).To(haveCode(domain.CodeStale), "its object was replaced")
		remove("u1")
		Expect(h.ManagedReadonlySuperuser(ctx, domain.KindReadonlySuperuser, "audit")).To(HaveField("Active", true))
		_, err = put(granted("u3", 1, func(m *core.ManagedReadonlySuperuser) { m.Cluster = "cluster-2" }))
		Expect(err).To(haveCode(domain.CodeOtherCluster))
	})

	It("has one grant, and who has one is named", func() {
		mustPut(granted("u1", 1))
		_, err := put(granted("u2", 1, func(m *core.ManagedReadonlySuperuser) { m.Manager.Name = "second" }))
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("ReadonlySuperuser audit"))))
	})

	It("ends the old grant when the object gets another subject", func() {
		first := mustPut(granted("u1", 1))
		second := mustPut(granted("u1", 2, to(domain.Subject{Kind: domain.SubjectGroup, Name: "auditors"})))
		Expect(second.UUID).NotTo(Equal(first.UUID))
		Expect(h.entries(audit.KindRevokeReadonly)).To(HaveLen(1))
		Expect(h.ReadonlySuperusers(ctx)).To(HaveLen(1))
	})

	DescribeTable("cannot be", func(s domain.Subject, why string) {
		_, err := put(granted("u1", 1, to(s)))
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring(why))))
	},
		Entry("a robot", domain.Subject{Kind: domain.SubjectRegistryUser, Name: "team-a+ci"}, "robot"),
		Entry("admin", domain.Subject{Kind: domain.SubjectRegistryUser, Name: "admin"}, "needs it"),
		Entry("the operator", domain.Subject{Kind: domain.SubjectRegistryUser, Name: "operator"}, "needs it"),
		Entry("a user of Kubernetes itself", domain.Subject{Kind: domain.SubjectUser, Name: "system:kube-scheduler"}, "Kubernetes itself"),
		Entry("a group of Kubernetes itself", domain.Subject{Kind: domain.SubjectGroup, Name: "system:authenticated"}, "Kubernetes itself"),
		Entry("a ServiceAccount without a namespace", domain.Subject{Kind: domain.SubjectServiceAccount, Name: "audit"}, "namespace"),
		Entry("a user with a namespace", domain.Subject{Kind: domain.SubjectUser, Namespace: "x", Name: "audit"}, "no namespace"),
		Entry("of an unknown kind", domain.Subject{Kind: "Robot", Name: "audit"}, "subject kind"),
		Entry("without a name", domain.Subject{Kind: domain.SubjectGroup}, "has a name"),
	)

	It("cannot be a superuser of the configuration", func() {
		h.with(func(o *core.Options) { o.Superusers = []string{"auditor"} })
		_, err := put(granted("u1", 1))
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("superuser by the registry's configuration"))))
	})

	It("loses what was authorised before: the grant ends the user's epoch, and so does the end of the grant", func() {
		a := user("auditor", "hash")
		caller := domain.Caller{Kind: domain.CallerUser, Name: "auditor", Account: a.ID, Epoch: a.Epoch}
		push := func() error {
			h.n++
			_, err := h.PutManifest(ctx, caller, app, core.Push{Reference: domain.Reference{Tag: "t"}, Manifest: manifest(`{"x":1}`), Create: core.CreateOrganization})
			return err
		}
		version := h.IdentityChanges()
		mustPut(granted("u1", 1))
		Expect(h.IdentityChanges()).To(BeNumerically(">", version))
		Expect(push()).To(haveCode(domain.CodeUnauthorized))
		a, err := h.User(ctx, "auditor")
		Expect(err).NotTo(HaveOccurred())
		caller.Epoch = a.Epoch
		remove("u1")
		Expect(push()).To(haveCode(domain.CodeUnauthorized))
	})

	It("loses what was authorised before also without an account", func() {
		grants, err := h.Grants(ctx)
		Expect(err).NotTo(HaveOccurred())
		caller := domain.Caller{Kind: "serviceaccount", Name: "ns/audit", Epoch: grants.Epoch}
		push := func(content string) error {
			_, err := h.PutManifest(ctx, caller, app, core.Push{Reference: domain.Reference{Tag: "t"}, Manifest: manifest(content), Create: core.CreateOrganization})
			return err
		}
		Expect(push(`{"x":1}`)).To(Succeed())
		mustPut(granted("u1", 1, to(domain.Subject{Kind: domain.SubjectServiceAccount, Namespace: "ns", Name: "audit"})))
		Expect(push(`{"x":2}`)).To(haveCode(domain.CodeUnauthorized))
	})

	Describe("with credentials", func() {
		It("has an account of its own, which goes with the grant", func() {
			status := mustPut(granted("u1", 1, withCredentials("")))
			Expect(status.Resolved).To(BeTrue())
			Expect(status.OwnAccount).To(BeTrue())
			newToken("u1", "one")
			Expect(holds("one")).To(Succeed())
			Expect(h.DeleteUser(ctx, alice, "auditor")).To(And(haveCode(domain.CodeManagedByResource), MatchError(ContainSubstring("ReadonlySuperuser audit"))))
			Expect(h.UpdateUser(ctx, alice, "auditor", core.UserChange{PasswordHash: new(string)})).To(haveCode(domain.CodeManagedByResource))
			remove("u1")
			Expect(holds("one")).To(haveCode(domain.CodeNotFound))
			_, err := h.User(ctx, "auditor")
			Expect(err).To(haveCode(domain.CodeNotFound))
		})

		It("uses an account that is there and has no password, and leaves it", func() {
			user("auditor", "")
			status := mustPut(granted("u1", 1, withCredentials("")))
			Expect(status.OwnAccount).To(BeFalse())
			newToken("u1", "one")
			Expect(holds("one")).To(Succeed())
			remove("u1")
			Expect(holds("one")).To(haveCode(domain.CodeNotFound))
			_, err := h.User(ctx, "auditor")
			Expect(err).NotTo(HaveOccurred())
		})

		It("is refused for a user with a password, and for who has credentials elsewhere", func() {
			user("auditor", "hash")
			_, err := put(granted("u1", 1, withCredentials("")))
			Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("has a password"))))
			_, err = put(granted("u1", 1, withCredentials(""), to(domain.Subject{Kind: domain.SubjectGroup, Name: "auditors"})))
			Expect(err).To(haveCode(domain.CodeInvalid))
		})

		It("rotates without a gap: the older tokens go when the object says that it has the newer one", func() {
			mustPut(granted("u1", 1, withCredentials("")))
			one := newToken("u1", "one")
			mustPut(granted("u1", 1, withCredentials(one.ID)))
			two := newToken("u1", "two")
			Expect(holds("one")).To(Succeed())
			mustPut(granted("u1", 1, withCredentials(one.ID)))
			Expect(holds("one")).To(Succeed())
			Expect(holds("two")).To(Succeed(), "somebody is about to write it down")
			status := mustPut(granted("u1", 1, withCredentials(two.ID)))
			Expect(status.TokenID).To(Equal(two.ID))
			Expect(status.Tokens).To(HaveLen(1))
			Expect(holds("one")).To(haveCode(domain.CodeNotFound))
			Expect(holds("two")).To(Succeed())
			Expect(h.entries(audit.KindCreateToken)).To(HaveLen(2))
			Expect(h.entries(audit.KindRevokeToken)).To(HaveLen(1))

			By("keeping the newest when the object names one that is not there")
			mustPut(granted("u1", 1, withCredentials("lost")))
			Expect(holds("two")).To(Succeed())
		})

		It("keeps a few tokens only, and never loses the one that the object has", func() {
			mustPut(granted("u1", 1, withCredentials("")))
			one := newToken("u1", "one")
			mustPut(granted("u1", 1, withCredentials(one.ID)))
			for _, secret := range []string{"a", "b", "c", "d", "e", "f", "g"} {
				newToken("u1", secret)
			}
			Expect(holds("one")).To(Succeed())
			Expect(holds("a")).To(haveCode(domain.CodeNotFound))
			Expect(holds("g")).To(Succeed())
			status, err := h.ManagedReadonlySuperuser(ctx, domain.KindReadonlySuperuser, "audit")
			Expect(err).NotTo(HaveOccurred())
			Expect(status.Tokens).To(HaveLen(5))
		})

		It("takes them away when the object asks for none any more", func() {
			mustPut(granted("u1", 1, withCredentials("")))
			newToken("u1", "one")
			status := mustPut(granted("u1", 2))
			Expect(status.Resolved).To(BeFalse())
			Expect(holds("one")).To(haveCode(domain.CodeNotFound))
			hash := sha256.Sum256([]byte("two"))
			_, _, err := h.CreateGrantToken(ctx, operator, cluster, granted("u1", 1).Manager, hash[:])
			Expect(err).To(haveCode(domain.CodeConflict))
			_, _, err = h.CreateGrantToken(ctx, operator, cluster, granted("u9", 1).Manager, hash[:])
			Expect(err).To(haveCode(domain.CodeStale))
		})
	})

	It("ends by itself, with one entry, and begins again with a later time", func() {
		end := h.clock.Now().Add(time.Hour)
		mustPut(granted("u1", 1, withCredentials(""), until(end)))
		newToken("u1", "one")
		Consistently(func() []audit.View { return h.entries(audit.KindExpireReadonly) }, "30ms").Should(BeEmpty())
		h.clock.Advance(time.Hour)
		Eventually(func() []audit.View { return h.entries(audit.KindExpireReadonly) }).WithTimeout(patience).Should(HaveLen(1))
		Consistently(func() []audit.View { return h.entries(audit.KindExpireReadonly) }, "30ms").Should(HaveLen(1))
		entry := h.entries(audit.KindExpireReadonly)[0]
		Expect(entry.Performer).To(Equal("system"))
		Expect(entry.Metadata).To(And(HaveKeyWithValue("username", "auditor"), HaveKey("expires_at"), HaveKeyWithValue("managed_by", HaveKeyWithValue("uid", "u1"))))
		Expect(holds("one")).To(haveCode(domain.CodeNotFound))
		status := mustPut(granted("u1", 1, withCredentials(""), until(end)))
		Expect(status.Active).To(BeFalse())
		Expect(status.Resolved).To(BeFalse(), "its account has gone")
		hash := sha256.Sum256([]byte("two"))
		_, _, err := h.CreateGrantToken(ctx, operator, cluster, granted("u1", 1).Manager, hash[:])
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("expired"))))

		status = mustPut(granted("u1", 2, withCredentials(""), until(h.clock.Now().Add(time.Hour))))
		Expect(status.Active).To(BeTrue())
		Expect(status.OwnAccount).To(BeTrue())
		h.clock.Advance(time.Hour)
		Eventually(func() []audit.View { return h.entries(audit.KindExpireReadonly) }).WithTimeout(patience).Should(HaveLen(2))
	})

	It("names who deleted it, and ends with an object that is gone at the sync", func() {
		mustPut(granted("u1", 1))
		Expect(h.NoteDeletionIntent(ctx, operator, granted("u1", 1).Manager, "dave", "dave-uid")).To(Succeed())
		remove("u1")
		mustPut(granted("u2", 1))
		Expect(h.Synced(ctx, operator, cluster, []domain.ManagedBy{granted("u2", 1).Manager})).To(Succeed())
		Expect(h.ReadonlySuperusers(ctx)).To(HaveLen(1))
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(h.ReadonlySuperusers(ctx)).To(BeEmpty())
		revoked := h.entries(audit.KindRevokeReadonly)
		Expect(revoked).To(HaveLen(2))
		Expect(revoked[0].Metadata).To(And(HaveKeyWithValue("applied_by", "dave"), HaveKeyWithValue("applied_by_uid", "dave-uid")))
		Expect(revoked[1].Metadata).To(And(HaveKeyWithValue("applied_by", "unknown"), HaveKeyWithValue("orphaned", true)))
	})

	It("remembers when its subject was seen", func() {
		status := mustPut(granted("u1", 1))
		at := h.clock.Now()
		Expect(h.TouchReadonlySuperusers(ctx, map[string]time.Time{status.UUID: at})).To(Succeed())
		Expect(h.TouchReadonlySuperusers(ctx, map[string]time.Time{status.UUID: at.Add(-time.Hour)})).To(Succeed())
		Expect(mustPut(granted("u1", 1)).LastSeen).To(BeTemporally("==", at))
	})
})
