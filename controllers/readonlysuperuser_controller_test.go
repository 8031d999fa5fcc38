package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// grants is a registry that keeps one grant as the real one does: a token is good until a newer one is named.
type grants struct {
	puts    []openapi.ManagedReadonlySuperuser
	status  openapi.ReadonlySuperuserStatus
	tokens  []string
	made    int
	deleted []string
	refuse  error
}

func (g *grants) PutReadonlySuperuser(_ context.Context, _ string, readonly openapi.ManagedReadonlySuperuser) (openapi.ReadonlySuperuserStatus, error) {
	g.puts = append(g.puts, readonly)
	if g.refuse != nil {
		return openapi.ReadonlySuperuserStatus{}, g.refuse
	}
	if readonly.Credentials != nil {
		if at := slices.Index(g.tokens, readonly.Credentials.TokenID); at > 0 {
			g.tokens = g.tokens[at:]
		}
	} else {
		g.tokens = nil
	}
	return g.read(), nil
}

func (g *grants) GetReadonlySuperuser(context.Context, string) (openapi.ReadonlySuperuserStatus, error) {
	return g.read(), nil
}

func (g *grants) read() openapi.ReadonlySuperuserStatus {
	status := g.status
	status.Credentials = &openapi.ReadonlyCredentialsStatus{}
	for _, id := range g.tokens {
		status.Credentials.Tokens = append(status.Credentials.Tokens, openapi.ReadonlyToken{ID: id})
	}
	return status
}

func (g *grants) DeleteReadonlySuperuser(_ context.Context, name, cluster, uid string) error {
	g.deleted = append(g.deleted, name+" "+cluster+" "+uid)
	return g.refuse
}

func (g *grants) CreateReadonlySuperuserCredentials(context.Context, string, string, string) (openapi.ReadonlyCredentials, error) {
	g.made++
	id := fmt.Sprintf("id-%d", g.made)
	g.tokens = append(g.tokens, id)
	return openapi.ReadonlyCredentials{Username: "auditor", Token: domain.NewSecret("token of " + id), TokenID: id}, nil
}

var _ = Describe("The reconciler of readonly superusers", func() {
	var (
		registry   *grants
		failing    *interceptor.Funcs
		cluster    client.Client
		reconciler *ReadonlySuperuserReconciler
		request    = reconcile.Request{NamespacedName: client.ObjectKey{Name: "auditor"}}
		start      = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
		now        time.Time
	)

	BeforeEach(func() {
		now = start
		registry = &grants{status: openapi.ReadonlySuperuserStatus{UUID: "grant", State: openapi.ReadonlySuperuserStateActive, Resolved: true}}
		scheme := testScheme()
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		failing = &interceptor.Funcs{}
		cluster = fake.NewClientBuilder().WithScheme(scheme).
			WithObjects(&registryv1alpha1.ReadonlySuperuser{
				ObjectMeta: metav1.ObjectMeta{Name: "auditor", UID: "uid-auditor", Generation: 1},
				Spec:       registryv1alpha1.ReadonlySuperuserSpec{Subject: registryv1alpha1.ReadonlySubject{Kind: registryv1alpha1.SubjectRegistryUser, Name: "auditor"}},
			}).
			WithStatusSubresource(&registryv1alpha1.ReadonlySuperuser{}).
			WithInterceptorFuncs(interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
					if failing.Create != nil {
						return failing.Create(ctx, c, o, options...)
					}
					return c.Create(ctx, o, options...)
				},
				Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
					if _, secret := o.(*corev1.Secret); secret && failing.Patch != nil {
						return failing.Patch(ctx, c, o, p, options...)
					}
					return c.Patch(ctx, o, p, options...)
				},
			}).Build()
		sync := &stubRegistry{}
		reconciler = &ReadonlySuperuserReconciler{
			Client: cluster, Uncached: cluster, Registry: registry, Cluster: "cluster", Namespace: "tidelock-system",
			User: "system:serviceaccount:tidelock-system:tidelock", Hosts: []string{"registry.example.com", "localhost:5000"},
			Sync: NewSynchronizer(cluster, sync, "cluster"), Evidence: new(Publisher).SetCondition, Now: func() time.Time { return now },
		}
	})

	reconciled := func(ctx context.Context) reconcile.Result {
		GinkgoHelper()
		result, err := reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		return result
	}
	read := func(ctx context.Context) *registryv1alpha1.ReadonlySuperuser {
		GinkgoHelper()
		readonly := &registryv1alpha1.ReadonlySuperuser{}
		Expect(cluster.Get(ctx, request.NamespacedName, readonly)).To(Succeed())
		return readonly
	}
	change := func(ctx context.Context, f func(*registryv1alpha1.ReadonlySuperuser)) {
		GinkgoHelper()
		readonly := read(ctx)
		f(readonly)
		readonly.Generation++
		Expect(cluster.Update(ctx, readonly)).To(Succeed())
	}
	credentials := func(secret string) func(*registryv1alpha1.ReadonlySuperuser) {
		return func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Spec.Credentials = &registryv1alpha1.ReadonlyCredentials{SecretName: secret, RotateEvery: &metav1.Duration{Duration: time.Hour}}
		}
	}
	ends := func(at time.Time) func(*registryv1alpha1.ReadonlySuperuser) {
		return func(r *registryv1alpha1.ReadonlySuperuser) { r.Spec.ExpiresAt = ptr.To(metav1.NewTime(at)) }
	}
	secretAt := func(ctx context.Context, name string) (*corev1.Secret, error) {
		secret := &corev1.Secret{}
		return secret, cluster.Get(ctx, client.ObjectKey{Namespace: "tidelock-system", Name: name}, secret)
	}
	secret := func(ctx context.Context, name string) *corev1.Secret {
		GinkgoHelper()
		secret, err := secretAt(ctx, name)
		Expect(err).NotTo(HaveOccurred())
		return secret
	}
	noSecret := func(ctx context.Context, name string) {
		GinkgoHelper()
		_, err := secretAt(ctx, name)
		Expect(apierrors.IsNotFound(err)).To(BeTrue(), "error: %v", err)
	}
	// holds expects that the Secret has a token, and that it works.
	holds := func(ctx context.Context, name, id string) {
		GinkgoHelper()
		Expect(string(secret(ctx, name).Data["token"])).To(Equal("token of " + id))
		Expect(registry.tokens).To(ContainElement(id))
	}
	foreign := func(ctx context.Context, name string) *corev1.Secret {
		GinkgoHelper()
		made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "tidelock-system", Name: name}, Data: map[string][]byte{"token": []byte("precious")}}
		Expect(cluster.Create(ctx, made)).To(Succeed())
		return made
	}
	conditionsAre := func(ctx context.Context, ready metav1.ConditionStatus, beside, reason string) string {
		GinkgoHelper()
		readonly := read(ctx)
		Expect(readonly.Status.ObservedGeneration).To(Equal(readonly.Generation))
		condition := meta.FindStatusCondition(readonly.Status.Conditions, registryv1alpha1.ConditionReady)
		Expect(condition).To(HaveValue(And(HaveField("Status", ready), HaveField("Reason", reason), HaveField("ObservedGeneration", readonly.Generation))))
		for _, kind := range []string{registryv1alpha1.ConditionReconciling, registryv1alpha1.ConditionStalled} {
			Expect(meta.IsStatusConditionTrue(readonly.Status.Conditions, kind)).To(Equal(kind == beside), kind)
		}
		return condition.Message
	}

	It("puts all that the object says", func(ctx context.Context) {
		change(ctx, func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Annotations = map[string]string{
				registryv1alpha1.AppliedByAnnotation: `{"generation":2,"username":"alice"}`, registryv1alpha1.RevisionAnnotation: "main",
			}
			r.Spec.Subject = registryv1alpha1.ReadonlySubject{Kind: registryv1alpha1.SubjectServiceAccount, Namespace: "monitoring", Name: "prometheus"}
			r.Spec.Access = registryv1alpha1.ReadonlyMetadataOnly
			ends(start.Add(time.Hour))(r)
		})
		reconciled(ctx)
		Expect(registry.puts).To(HaveLen(1))
		end := registry.puts[0].ExpiresAt
		Expect(end).To(HaveValue(BeTemporally("==", start.Add(time.Hour))))
		Expect(registry.puts[0]).To(Equal(openapi.ManagedReadonlySuperuser{
			Cluster: "cluster", UID: "uid-auditor", Generation: 2, Access: domain.ReadonlyMetadataOnly, ExpiresAt: end,
			Subject:         openapi.Subject{Kind: domain.SubjectServiceAccount, Namespace: "monitoring", Name: "prometheus"},
			Applied:         &openapi.Applied{User: "alice", Generation: 2},
			RevisionClaimed: "main",
		}))
		Expect(read(ctx)).To(And(HaveField("Finalizers", ConsistOf(registryv1alpha1.Finalizer)),
			HaveField("Status.GrantUUID", "grant"), HaveField("Status.Subject", "ServiceAccount monitoring/prometheus"), HaveField("Status.Credentials", BeNil())))
		Expect(conditionsAre(ctx, metav1.ConditionTrue, "", registryv1alpha1.ReasonGranted)).
			To(Equal("ServiceAccount monitoring/prometheus reads everything but blobs and writes nothing, until 2026-11-28T13:00:00Z."))
		reconciled(ctx)
		Expect(registry.puts).To(HaveLen(1), "the registry has it")
	})

	It("tells when the subject was last seen", func(ctx context.Context) {
		registry.status.LastSeen = ptr.To(start.Add(-time.Minute))
		Expect(reconciled(ctx).RequeueAfter).To(BeNumerically("~", seenInterval, seenInterval/10))
		Expect(read(ctx).Status.LastSeenTime.Time).To(BeTemporally("==", start.Add(-time.Minute)))
		Expect(conditionsAre(ctx, metav1.ConditionTrue, "", registryv1alpha1.ReasonGranted)).To(Equal("RegistryUser auditor reads everything and writes nothing."))
	})

	It("says that there is no such user, and how to make one", func(ctx context.Context) {
		registry.status.Resolved = false
		reconciled(ctx)
		Expect(conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSubjectNotFound)).
			To(And(ContainSubstring("no user auditor"), ContainSubstring("spec.credentials")))
	})

	It("applies the rules of admission once more", func(ctx context.Context) {
		change(ctx, func(r *registryv1alpha1.ReadonlySuperuser) {
			r.Spec.Subject = registryv1alpha1.ReadonlySubject{Kind: registryv1alpha1.SubjectServiceAccount, Namespace: "tidelock-system", Name: "tidelock"}
		})
		reconciled(ctx)
		Expect(registry.puts).To(BeEmpty())
		Expect(conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonInvalidSpec)).To(ContainSubstring("is the operator"))
	})

	It("waits for somebody to act where the registry has something else for the subject", func(ctx context.Context) {
		registry.refuse = &registryclient.Error{Status: 409, Code: domain.CodeConflict, Message: "RegistryUser auditor is a readonly superuser already, by ReadonlySuperuser first"}
		Expect(reconciled(ctx).RequeueAfter).To(BeNumerically("~", putInterval, putInterval/10))
		Expect(conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonSubjectConflict)).To(ContainSubstring("by ReadonlySuperuser first"))
	})

	It("goes on trying while the registry does not answer", func(ctx context.Context) {
		registry.refuse = errors.New("connection refused")
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).To(MatchError("connection refused"))
		Expect(conditionsAre(ctx, metav1.ConditionUnknown, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonRegistryUnavailable)).
			To(HaveSuffix("What was granted before stays in force until its time."))
	})

	Describe("with credentials", func() {
		BeforeEach(func(ctx context.Context) { change(ctx, credentials("login")) })

		It("writes them to a Secret of its own namespace, for each host of the registry", func(ctx context.Context) {
			Expect(reconciled(ctx).RequeueAfter).To(BeNumerically("<=", seenInterval*11/10))
			made := secret(ctx, "login")
			Expect(made.Type).To(Equal(corev1.SecretTypeDockerConfigJson))
			Expect(read(ctx).MadeSecret(made)).To(BeTrue())
			Expect(made.Data).To(And(HaveLen(3), HaveKeyWithValue("username", BeEquivalentTo("auditor")), HaveKeyWithValue("token", BeEquivalentTo("token of id-1"))))
			for _, url := range []string{"https://registry.example.com", "http://localhost:5000"} {
				read, err := dockerCredentials(made.Data[corev1.DockerConfigJsonKey], url, "")
				Expect(err).NotTo(HaveOccurred())
				Expect(read).To(Equal(openapi.MirrorSecrets{Username: "auditor", Password: "token of id-1"}))
			}
			Expect(registry.puts).To(HaveLen(2))
			Expect(registry.puts[0].Credentials).To(HaveValue(Equal(openapi.ManagedReadonlyCredentials{})))
			Expect(registry.puts[1].Credentials).To(HaveValue(Equal(openapi.ManagedReadonlyCredentials{TokenID: "id-1"})))
			Expect(read(ctx).Status.Credentials).To(HaveValue(And(
				HaveField("Namespace", "tidelock-system"), HaveField("SecretName", "login"), HaveField("TokenID", "id-1"),
				HaveField("IssuedTime.Time", BeTemporally("==", start)), HaveField("ExpirationTime.Time", BeTemporally("==", start.Add(time.Hour))),
			)))
			status, err := json.Marshal(read(ctx))
			Expect(err).NotTo(HaveOccurred())
			Expect(string(status)).NotTo(ContainSubstring("token of"))
			reconciled(ctx)
			Expect(registry.made).To(Equal(1))
		})

		It("touches no Secret that it has not made, and grants the access all the same", func(ctx context.Context) {
			theirs := foreign(ctx, "login")
			Expect(reconciled(ctx).RequeueAfter).To(BeNumerically("~", secretInterval, secretInterval/5))
			Expect(registry.puts).To(HaveLen(1))
			Expect(registry.made).To(BeZero())
			Expect(conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretConflict)).
				To(ContainSubstring("Secret tidelock-system/login (spec.credentials.secretName) is there and is not this object's"))
			Expect(secret(ctx, "login")).To(Equal(theirs))

			Expect(cluster.Delete(ctx, theirs)).To(Succeed())
			reconciled(ctx)
			conditionsAre(ctx, metav1.ConditionTrue, "", registryv1alpha1.ReasonGranted)
			holds(ctx, "login", "id-1")
		})

		DescribeTable("takes no Secret for its own because of", func(ctx context.Context, pretend func(*corev1.Secret)) {
			theirs := foreign(ctx, "login")
			pretend(theirs)
			Expect(cluster.Update(ctx, theirs)).To(Succeed())
			reconciled(ctx)
			conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretConflict)
			Expect(secret(ctx, "login")).To(Equal(theirs))
		},
			Entry("its annotation", func(s *corev1.Secret) {
				s.Annotations = map[string]string{registryv1alpha1.ReadonlySuperuserAnnotation: "auditor"}
			}),
			Entry("the name of its owner", func(s *corev1.Secret) {
				s.Annotations = map[string]string{registryv1alpha1.ReadonlySuperuserAnnotation: "auditor"}
				s.OwnerReferences = []metav1.OwnerReference{{
					APIVersion: registryv1alpha1.GroupVersion.String(), Kind: "ReadonlySuperuser", Name: "auditor", UID: "of its predecessor", Controller: ptr.To(true),
				}}
			}),
		)

		It("takes no Secret that somebody makes at the same moment", func(ctx context.Context) {
			failing.Create = func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
				theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName()}}
				if err := c.Create(ctx, theirs); err != nil {
					return err
				}
				return c.Create(ctx, o, options...)
			}
			reconciled(ctx)
			conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretConflict)
			Expect(secret(ctx, "login").Data).To(BeEmpty())
		})

		It("rotates them without a gap: the old ones go on for those who have not seen the new ones yet", func(ctx context.Context) {
			reconciled(ctx)
			now = start.Add(time.Hour - time.Second)
			Expect(reconciled(ctx).RequeueAfter).To(Equal(2*time.Second), "when the rotation is due")
			holds(ctx, "login", "id-1")

			now = start.Add(time.Hour)
			reconciled(ctx)
			holds(ctx, "login", "id-2")
			Expect(registry.tokens).To(Equal([]string{"id-1", "id-2"}))
			Expect(read(ctx).Status.Credentials.IssuedTime.Time).To(BeTemporally("==", now))

			now = now.Add(rotationGrace - time.Second)
			Expect(reconciled(ctx).RequeueAfter).To(Equal(2 * time.Second))
			Expect(registry.tokens).To(Equal([]string{"id-1", "id-2"}))
			now = now.Add(time.Second)
			reconciled(ctx)
			holds(ctx, "login", "id-2")
			Expect(registry.tokens).To(Equal([]string{"id-2"}))
			Expect(registry.made).To(Equal(2))
		})

		It("goes on with what works, whenever a rotation is interrupted", func(ctx context.Context) {
			reconciled(ctx)
			now = start.Add(time.Hour)
			failing.Patch = func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
				return errors.New("the API server went away")
			}
			for range 3 {
				_, err := reconciler.Reconcile(ctx, request)
				Expect(err).To(MatchError(ContainSubstring("the API server went away")))
				holds(ctx, "login", "id-1")
			}
			failing.Patch = nil
			reconciled(ctx)
			holds(ctx, "login", "id-5")
			now = now.Add(rotationGrace)
			reconciled(ctx)
			Expect(registry.tokens).To(Equal([]string{"id-5"}))
		})

		It("does not overwrite a Secret that was changed meanwhile", func(ctx context.Context) {
			reconciled(ctx)
			now = start.Add(time.Hour)
			failing.Patch = func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
				changed := secret(ctx, "login")
				changed.Labels["changed"] = "meanwhile"
				Expect(c.Update(ctx, changed)).To(Succeed())
				return c.Patch(ctx, o, p, options...)
			}
			_, err := reconciler.Reconcile(ctx, request)
			Expect(apierrors.IsConflict(errors.Unwrap(err))).To(BeTrue(), "error: %v", err)
			holds(ctx, "login", "id-1")
		})

		It("makes new ones for a Secret that somebody deleted, and ends the old ones at once", func(ctx context.Context) {
			reconciled(ctx)
			Expect(cluster.Delete(ctx, secret(ctx, "login"))).To(Succeed())
			now = start.Add(time.Minute)
			reconciled(ctx)
			holds(ctx, "login", "id-2")
			Expect(registry.tokens).To(Equal([]string{"id-2"}))
		})

		It("makes new ones where the registry does not know them, for instance since it was restored", func(ctx context.Context) {
			reconciled(ctx)
			registry.tokens = nil
			reconciled(ctx)
			holds(ctx, "login", "id-2")
			Expect(registry.puts[len(registry.puts)-1].Credentials.TokenID).To(Equal("id-2"))
		})

		It("makes new ones where the Secret has lost its token", func(ctx context.Context) {
			reconciled(ctx)
			broken := secret(ctx, "login")
			delete(broken.Data, "token")
			Expect(cluster.Update(ctx, broken)).To(Succeed())
			reconciled(ctx)
			holds(ctx, "login", "id-2")
		})

		It("writes the same token for other hosts", func(ctx context.Context) {
			reconciled(ctx)
			reconciler.Hosts = []string{"new.example.com"}
			reconciled(ctx)
			holds(ctx, "login", "id-1")
			Expect(string(secret(ctx, "login").Data[corev1.DockerConfigJsonKey])).To(And(ContainSubstring("new.example.com"), Not(ContainSubstring("localhost"))))
			Expect(registry.made).To(Equal(1))
		})

		It("removes the Secret when the spec names another or none", func(ctx context.Context) {
			reconciled(ctx)
			change(ctx, credentials("other"))
			reconciled(ctx)
			noSecret(ctx, "login")
			holds(ctx, "other", "id-2")
			Expect(registry.tokens).To(Equal([]string{"id-2"}))
			change(ctx, func(r *registryv1alpha1.ReadonlySuperuser) { r.Spec.Credentials = nil })
			reconciled(ctx)
			noSecret(ctx, "other")
			Expect(registry.tokens).To(BeEmpty())
			Expect(read(ctx).Status.Credentials).To(BeNil())
		})

		It("ends with the access, and begins again with a later end", func(ctx context.Context) {
			change(ctx, ends(start.Add(time.Minute/2)))
			Expect(reconciled(ctx).RequeueAfter).To(Equal(time.Minute/2 + time.Second))
			Expect(read(ctx).Status.Credentials.ExpirationTime.Time).To(BeTemporally("==", start.Add(time.Minute/2)), "before the next rotation")
			now = start.Add(time.Minute/2 + time.Second)
			registry.status.State, registry.status.ExpiresAt, registry.tokens = openapi.ReadonlySuperuserStateExpired, ptr.To(start.Add(time.Minute/2)), nil
			reconciled(ctx)
			noSecret(ctx, "login")
			Expect(conditionsAre(ctx, metav1.ConditionFalse, "", registryv1alpha1.ReasonExpired)).To(ContainSubstring("a later spec.expiresAt grants it again"))
			Expect(read(ctx).Status).To(And(HaveField("Credentials", BeNil()), HaveField("ExpiredTime.Time", BeTemporally("==", start.Add(time.Minute/2)))))
			Expect(registry.made).To(Equal(1))

			change(ctx, ends(start.Add(time.Hour)))
			registry.status.State = openapi.ReadonlySuperuserStateActive
			reconciled(ctx)
			holds(ctx, "login", "id-2")
			conditionsAre(ctx, metav1.ConditionTrue, "", registryv1alpha1.ReasonGranted)
			Expect(read(ctx).Status.ExpiredTime).To(BeNil())
		})

		It("makes none for an access that has ended by the operator's clock", func(ctx context.Context) {
			change(ctx, ends(start))
			reconciled(ctx)
			Expect(registry.made).To(BeZero())
		})

		It("is deleted with its Secret, and not before the registry has ended the access", func(ctx context.Context) {
			reconciled(ctx)
			Expect(cluster.Delete(ctx, read(ctx))).To(Succeed())
			registry.refuse = errors.New("connection refused")
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).To(HaveOccurred())
			Expect(meta.FindStatusCondition(read(ctx).Status.Conditions, registryv1alpha1.ConditionReady).Message).To(HaveSuffix("The deletion waits for it."))
			secret(ctx, "login")

			registry.refuse = nil
			reconciled(ctx)
			Expect(registry.deleted).To(HaveEach("auditor cluster uid-auditor"))
			noSecret(ctx, "login")
			Expect(apierrors.IsNotFound(cluster.Get(ctx, request.NamespacedName, &registryv1alpha1.ReadonlySuperuser{}))).To(BeTrue())
		})

		It("is deleted without a Secret that it has not made", func(ctx context.Context) {
			theirs := foreign(ctx, "login")
			reconciled(ctx)
			Expect(cluster.Delete(ctx, read(ctx))).To(Succeed())
			reconciled(ctx)
			Expect(apierrors.IsNotFound(cluster.Get(ctx, request.NamespacedName, &registryv1alpha1.ReadonlySuperuser{}))).To(BeTrue())
			Expect(secret(ctx, "login")).To(Equal(theirs))
		})
	})
})
