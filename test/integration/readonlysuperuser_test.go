package integration

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
)

// revocation is how long what was granted may go on after it was revoked, with some time for a slow machine.
const revocation = 2*time.Second + time.Second

func createReadonly(ctx context.Context, change ...readonlyChange) *registryv1alpha1.ReadonlySuperuser {
	GinkgoHelper()
	readonly := newReadonly(change...)
	Expect(admin.Create(ctx, readonly)).To(Succeed())
	return readonly
}

func changeReadonly(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, f readonlyChange) {
	GinkgoHelper()
	before := readonly.DeepCopy()
	f(readonly)
	Expect(admin.Patch(ctx, readonly, client.MergeFrom(before))).To(Succeed())
}

// eventuallyAccess reads a readonly superuser until its condition Ready is about its present generation and has a reason,
// and returns the message.
func eventuallyAccess(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, status metav1.ConditionStatus, reason string) (message string) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		g.Expect(admin.Get(ctx, key(readonly), readonly)).To(Succeed())
		ready := meta.FindStatusCondition(readonly.Status.Conditions, registryv1alpha1.ConditionReady)
		g.Expect(ready).NotTo(BeNil())
		g.Expect([]any{ready.Status, ready.Reason, ready.ObservedGeneration}).To(Equal([]any{status, reason, readonly.Generation}))
		message = ready.Message
	}).WithContext(ctx).Should(Succeed())
	return message
}

func eventuallyGranted(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) string {
	GinkgoHelper()
	return eventuallyAccess(ctx, readonly, metav1.ConditionTrue, registryv1alpha1.ReasonGranted)
}

func operatorSecret(ctx context.Context, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	return secret, admin.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: name}, secret)
}

// accessEvents are the Events about a readonly superuser: their reasons, the oldest first, and their notes.
func accessEvents(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) (reasons, notes []string, err error) {
	var list eventsv1.EventList
	if err := admin.List(ctx, &list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
		return nil, nil, err
	}
	byIndex := map[string]eventsv1.Event{}
	for _, e := range list.Items {
		if e.Regarding.UID == readonly.UID {
			byIndex[e.Annotations[controllers.AuditIndexAnnotation]] = e
		}
	}
	for _, e := range sortedByTime(byIndex) {
		reasons, notes = append(reasons, e.Reason), append(notes, e.Note)
	}
	return reasons, notes, nil
}

func sortedByTime(events map[string]eventsv1.Event) (list []eventsv1.Event) {
	for _, e := range events {
		list = append(list, e)
	}
	for i := range list {
		for j := i; j > 0 && list[j].EventTime.Before(&list[j-1].EventTime); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
	return list
}

var _ = Describe("A ReadonlySuperuser", Ordered, ContinueOnFailure, func() {
	var (
		registry *testRegistry
		stop     func()
		start    func(context.Context)
		// ahead is how far the operator's clock is ahead of the real one.
		ahead atomic.Int64
		app   string
	)

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		start = func(ctx context.Context) {
			mgr := newManager()
			setUpControllers(ctx, mgr, newRegistryClient(registry), func(o *controllers.Options) {
				o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
				o.RegistryHosts = []string{strings.TrimPrefix(registry.url, "http://")}
			})
			stop = inBackground(mgr.Start)
		}
		start(ctx)
		DeferCleanup(func(ctx context.Context) { // one test starts another
			stop()
			removeObjects(ctx)
		})
		app = newTeam(ctx) + "/app"
		registry.prepare(ctx, app)
		registry.push(ctx, app, "v1")
	})

	// reads is the status of an answer to who reads a manifest with what a Secret holds.
	reads := func(ctx context.Context, secret *corev1.Secret) int {
		GinkgoHelper()
		got, err := registry.callAs(ctx, string(secret.Data["username"]), string(secret.Data["token"]), http.MethodGet, "/v2/"+app+"/manifests/v1", "", nil)
		Expect(err).NotTo(HaveOccurred())
		return got.Status
	}
	credentialsOf := func(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) *corev1.Secret {
		GinkgoHelper()
		secret, err := operatorSecret(ctx, readonly.Spec.Credentials.SecretName)
		Expect(err).NotTo(HaveOccurred())
		return secret
	}

	It("has credentials in a Secret, with which everything is read and nothing is written", func(ctx context.Context) {
		readonly := createReadonly(ctx, credentialed("reads"))
		Expect(eventuallyGranted(ctx, readonly)).To(Equal("RegistryUser " + readonly.Name + " reads everything and writes nothing."))
		secret := credentialsOf(ctx, readonly)
		Expect(secret.Type).To(Equal(corev1.SecretTypeDockerConfigJson))
		Expect(string(secret.Data["username"])).To(Equal(readonly.Name))
		Expect(readonly.Status.Credentials.TokenID).NotTo(BeEmpty())
		Expect(reads(ctx, secret)).To(Equal(http.StatusOK))
		for _, write := range []struct{ method, path, body string }{
			{http.MethodPut, "/v2/" + app + "/manifests/v2", string(manifest("v2"))},
			{http.MethodDelete, "/v2/" + app + "/manifests/v1", ""},
			{http.MethodPost, "/api/v1/organization/", `{"name":"mine"}`},
			{http.MethodPost, "/v2/" + readonly.Name + "/app/blobs/uploads/", ""},
		} {
			got, err := registry.callAs(ctx, readonly.Name, string(secret.Data["token"]), write.method, write.path, "application/json", []byte(write.body))
			Expect(err).NotTo(HaveOccurred())
			Expect(got.Status).To(Equal(http.StatusForbidden), "%s %s: %s", write.method, write.path, got.Body)
		}
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Get(ctx, key(readonly), readonly)).To(Succeed())
			g.Expect(readonly.Status.LastSeenTime).NotTo(BeNil())
		}).WithContext(ctx).WithTimeout(longTimeout).Should(Succeed())
	})

	It("is an Event for each thing that becomes of it", func(ctx context.Context) {
		readonly := createReadonly(ctx, about(registryv1alpha1.SubjectServiceAccount, "monitoring", "prometheus"))
		eventuallyGranted(ctx, readonly)
		changeReadonly(ctx, readonly, metadataOnly)
		eventuallyGranted(ctx, readonly)
		Expect(admin.Delete(ctx, readonly)).To(Succeed())
		Eventually(func(g Gomega, ctx context.Context) {
			reasons, notes, err := accessEvents(ctx, readonly)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(reasons).To(Equal([]string{"AccessGranted", "AccessChanged", "AccessRevoked"}))
			g.Expect(notes[1]).To(ContainSubstring("ServiceAccount monitoring/prometheus now reads everything but blobs and writes nothing"))
		}).WithContext(ctx).Should(Succeed())
	})

	It("is revoked within two seconds, with its Secret", func(ctx context.Context) {
		readonly := createReadonly(ctx, credentialed("revoked"))
		eventuallyGranted(ctx, readonly)
		secret := credentialsOf(ctx, readonly)
		Expect(reads(ctx, secret)).To(Equal(http.StatusOK))
		Expect(admin.Delete(ctx, readonly)).To(Succeed())
		Eventually(reads).WithArguments(ctx, secret).WithTimeout(revocation).Should(Equal(http.StatusUnauthorized))
		Eventually(func(ctx context.Context) bool {
			_, err := operatorSecret(ctx, "revoked")
			return apierrors.IsNotFound(err) && apierrors.IsNotFound(admin.Get(ctx, key(readonly), readonly))
		}).WithContext(ctx).Should(BeTrue())
	})

	It("ends by itself, also while the operator is down, and begins again with a later end", func(ctx context.Context) {
		end := time.Now().Add(4 * time.Second).Truncate(time.Second)
		readonly := createReadonly(ctx, credentialed("ends"), until(end))
		eventuallyGranted(ctx, readonly)
		secret := credentialsOf(ctx, readonly)
		Expect(reads(ctx, secret)).To(Equal(http.StatusOK))
		stop()
		Eventually(reads).WithArguments(ctx, secret).WithTimeout(time.Until(end) + revocation).Should(Equal(http.StatusUnauthorized))
		Expect(time.Now()).To(BeTemporally(">=", end))
		start(ctx)
		eventuallyAccess(ctx, readonly, metav1.ConditionFalse, registryv1alpha1.ReasonExpired)
		Expect(readonly.Status.ExpiredTime.Time).To(BeTemporally("==", end))
		_, err := operatorSecret(ctx, "ends")
		Expect(apierrors.IsNotFound(err)).To(BeTrue(), "error: %v", err)
		Eventually(func(ctx context.Context) ([]string, error) {
			reasons, _, err := accessEvents(ctx, readonly)
			return reasons, err
		}).WithContext(ctx).Should(Equal([]string{"AccessGranted", "AccessExpired"}))

		changeReadonly(ctx, readonly, until(end.Add(time.Hour)))
		eventuallyGranted(ctx, readonly)
		Expect(reads(ctx, secret)).To(Equal(http.StatusUnauthorized), "what has ended does not come back")
		Expect(reads(ctx, credentialsOf(ctx, readonly))).To(Equal(http.StatusOK))
	})

	It("rotates its credentials without ever refusing who reads the Secret", func(ctx context.Context) {
		DeferCleanup(func() { ahead.Store(0) })
		readonly := createReadonly(ctx, credentialed("rotated", time.Hour))
		eventuallyGranted(ctx, readonly)
		first := credentialsOf(ctx, readonly)
		reading := func() {
			Expect(reads(ctx, credentialsOf(ctx, readonly))).To(Equal(http.StatusOK))
		}
		// poke has the operator look now.
		poke := func() {
			changeReadonly(ctx, readonly, func(r *registryv1alpha1.ReadonlySuperuser) { r.Spec.Access = registryv1alpha1.ReadonlyFull })
			changeReadonly(ctx, readonly, until(time.Now().Add(time.Duration(1+ahead.Load()/int64(time.Hour))*240*time.Hour)))
		}
		ahead.Store(int64(time.Hour))
		poke()
		Eventually(func(ctx context.Context) string {
			reading()
			return string(credentialsOf(ctx, readonly).Data["token"])
		}).WithContext(ctx).Should(Not(Equal(string(first.Data["token"]))))
		Expect(reads(ctx, first)).To(Equal(http.StatusOK), "for those who have not seen the new ones yet")

		ahead.Store(int64(time.Hour + 10*time.Minute))
		poke()
		Eventually(func() int {
			reading()
			return reads(ctx, first)
		}).Should(Equal(http.StatusUnauthorized))
		reading()
	})

	It("touches no Secret that the operator has not made, and the API server would not let it", func(ctx context.Context) {
		theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "precious"}, Data: map[string][]byte{"token": []byte("precious")}}
		Expect(admin.Create(ctx, theirs)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(admin.Delete(ctx, theirs))).To(Succeed()) })
		readonly := createReadonly(ctx, credentialed("precious"))
		Expect(eventuallyAccess(ctx, readonly, metav1.ConditionFalse, registryv1alpha1.ReasonSecretConflict)).To(ContainSubstring("is there and is not this object's"))
		Expect(operatorSecret(ctx, "precious")).To(Equal(theirs))

		operator := newClient(operatorConfig())
		Expect(operator.Delete(ctx, theirs.DeepCopy(), client.DryRunAll)).To(MatchError(ContainSubstring("the operator changes and deletes only Secrets that it has made")))
		changed := theirs.DeepCopy()
		changed.Annotations = map[string]string{registryv1alpha1.ReadonlySuperuserAnnotation: readonly.Name}
		Expect(operator.Patch(ctx, changed, client.MergeFrom(theirs), client.DryRunAll)).To(MatchError(ContainSubstring("only Secrets that it has made")))

		Expect(admin.Delete(ctx, theirs)).To(Succeed())
		eventuallyGranted(ctx, readonly)
		Expect(reads(ctx, credentialsOf(ctx, readonly))).To(Equal(http.StatusOK))
	})

	It("waits where another object has its subject, and takes over when that is deleted", func(ctx context.Context) {
		first := createReadonly(ctx, about(registryv1alpha1.SubjectGroup, "", "auditors"))
		eventuallyGranted(ctx, first)
		second := createReadonly(ctx, about(registryv1alpha1.SubjectGroup, "", "auditors"), metadataOnly)
		Expect(eventuallyAccess(ctx, second, metav1.ConditionFalse, registryv1alpha1.ReasonSubjectConflict)).To(ContainSubstring("ReadonlySuperuser " + first.Name))
		Expect(meta.IsStatusConditionTrue(second.Status.Conditions, registryv1alpha1.ConditionStalled)).To(BeTrue())
		Expect(admin.Delete(ctx, first)).To(Succeed())
		eventuallyGranted(ctx, second)
	})

	It("says that there is no such user, and grants the access to whoever gets the name", func(ctx context.Context) {
		readonly := createReadonly(ctx)
		Expect(eventuallyAccess(ctx, readonly, metav1.ConditionFalse, registryv1alpha1.ReasonSubjectNotFound)).To(ContainSubstring("no user " + readonly.Name))
	})

	It("ends with an object that goes without a word", func(ctx context.Context) {
		readonly := createReadonly(ctx, credentialed("wordless"))
		eventuallyGranted(ctx, readonly)
		secret := credentialsOf(ctx, readonly)
		removeFinalizers(ctx, readonly)
		Expect(admin.Delete(ctx, readonly)).To(Succeed())
		Eventually(reads).WithArguments(ctx, secret).Should(Equal(http.StatusUnauthorized))
	})

	It("is for administrators of the cluster: who edits everything in every namespace makes none", func(ctx context.Context) {
		bind := func(user, role string) {
			binding := &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: user},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
			}
			Expect(admin.Create(ctx, binding)).To(Succeed())
			DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, binding)).To(Succeed()) })
		}
		can := func(user string, what ...string) bool {
			output, err := kubectl(ctx, append([]string{"auth", "can-i", "--as", user}, what...)...)
			return err == nil && strings.HasSuffix(output, "yes\n")
		}
		bind("edits-everything", "tidelock-edit")
		bind("administers-everything", "cluster-admin")
		Eventually(func() bool { return can("edits-everything", "create", "impol", "-n", "default") }).Should(BeTrue())
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection"} {
			Expect(can("edits-everything", verb, "readonlysuperusers")).To(BeFalse(), verb)
		}
		Eventually(func() bool { return can("administers-everything", "create", "readonlysuperusers") }).Should(BeTrue())
		for _, object := range kustomization("config", "default") {
			if object.GetKind() != "ClusterRole" {
				continue
			}
			role := &rbacv1.ClusterRole{}
			Expect(admin.Get(ctx, client.ObjectKey{Name: object.GetName()}, role)).To(Succeed())
			for label := range role.Labels {
				if strings.HasPrefix(label, "rbac.authorization.k8s.io/aggregate-to-") {
					for _, rule := range role.Rules {
						Expect(rule.Resources).NotTo(ContainElement(HavePrefix("readonlysuperusers")), role.Name)
					}
				}
			}
		}
	})
})
