package controllers

import (
	"context"
	"errors"
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

func mirrorObject(change ...func(*registryv1alpha1.OrgMirror)) *registryv1alpha1.OrgMirror {
	mirror := &registryv1alpha1.OrgMirror{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "upstream", UID: "uid-upstream", Generation: 1},
		Spec: registryv1alpha1.OrgMirrorSpec{
			Source:   registryv1alpha1.MirrorSource{Type: registryv1alpha1.UpstreamQuay, URL: "https://quay.example.com", Namespace: "up"},
			Schedule: registryv1alpha1.MirrorSchedule{Interval: &metav1.Duration{Duration: time.Hour}},
		},
	}
	for _, f := range change {
		f(mirror)
	}
	return mirror
}

var _ = Describe("The reconciler of mirrors", func() {
	var (
		registry   *stubRegistry
		cluster    client.Client
		reconciler *OrgMirrorReconciler
		request    = reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "team-a", Name: "upstream"}}
		now        = time.Now()
	)

	BeforeEach(func() {
		registry = &stubRegistry{
			putMirror: func(openapi.ManagedMirror) (openapi.MirrorStatus, error) { return openapi.MirrorStatus{UUID: "u"}, nil },
			mirror:    func() (openapi.MirrorStatus, error) { return openapi.MirrorStatus{UUID: "u"}, nil },
		}
		scheme := testScheme()
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		cluster = fake.NewClientBuilder().WithScheme(scheme).
			WithObjects(mirrorObject(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", UID: "team-a"}}).
			WithStatusSubresource(&registryv1alpha1.OrgMirror{}).Build()
		reconciler = &OrgMirrorReconciler{
			Client: cluster, Uncached: cluster, Registry: registry, Cluster: "cluster",
			Sync: NewSynchronizer(cluster, registry, "cluster"), Evidence: new(Publisher).SetCondition,
			Now: func() time.Time { return now },
		}
	})

	read := func(ctx context.Context) *registryv1alpha1.OrgMirror {
		GinkgoHelper()
		mirror := &registryv1alpha1.OrgMirror{}
		Expect(cluster.Get(ctx, request.NamespacedName, mirror)).To(Succeed())
		return mirror
	}
	change := func(ctx context.Context, f func(*registryv1alpha1.OrgMirror)) {
		GinkgoHelper()
		mirror := read(ctx)
		f(mirror)
		mirror.Generation++
		Expect(cluster.Update(ctx, mirror)).To(Succeed())
	}
	conditionsAre := func(ctx context.Context, ready metav1.ConditionStatus, beside, reason string) string {
		GinkgoHelper()
		mirror := read(ctx)
		list := mirror.Status.Conditions
		Expect(mirror.Status.ObservedGeneration).To(Equal(mirror.Generation))
		condition := meta.FindStatusCondition(list, registryv1alpha1.ConditionReady)
		Expect(condition).To(HaveValue(And(HaveField("Status", ready), HaveField("Reason", reason), HaveField("ObservedGeneration", mirror.Generation))))
		if beside == "" {
			Expect(list).To(HaveLen(1))
			return condition.Message
		}
		Expect(list).To(HaveLen(2))
		Expect(meta.FindStatusCondition(list, beside)).To(HaveValue(And(HaveField("Status", metav1.ConditionTrue), HaveField("Reason", reason), HaveField("Message", condition.Message))))
		return condition.Message
	}
	answer := func(status openapi.MirrorStatus) {
		registry.putMirror = func(openapi.ManagedMirror) (openapi.MirrorStatus, error) { return status, nil }
		registry.mirror = func() (openapi.MirrorStatus, error) { return status, nil }
	}
	secret := func(name string, data map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name}, Type: corev1.SecretTypeBasicAuth, Data: map[string][]byte{
			"username": []byte(data["username"]), "password": []byte(data["password"]),
		}}
	}
	at := func(d time.Duration) *time.Time { return ptr.To(now.Add(d)) }

	It("puts all that the object says", func(ctx context.Context) {
		change(ctx, func(m *registryv1alpha1.OrgMirror) {
			m.Annotations = map[string]string{
				registryv1alpha1.AppliedByAnnotation: `{"generation":2,"username":"alice"}`, registryv1alpha1.RevisionAnnotation: "main",
				registryv1alpha1.RequestedAtAnnotation: "now",
			}
			m.Spec.Organization, m.Spec.Suspend = "team-b", ptr.To(true)
			m.Spec.Tags.Include = []registryv1alpha1.TagMatch{{Semver: ">=1"}}
		})
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		Expect(registry.mirrors).To(ConsistOf(openapi.ManagedMirror{
			Cluster: "cluster", UID: "uid-upstream", Generation: 2, Organization: "team-b",
			Applied: &openapi.Applied{User: "alice", Generation: 2}, RevisionClaimed: "main", RequestedAt: "now",
			Claim: openapi.Claim{NamespaceUID: "team-a"},
			Spec: openapi.MirrorSpec{
				Source: openapi.MirrorSource{Type: domain.UpstreamQuay, URL: "https://quay.example.com", Namespace: "up"},
				Tags:   openapi.MirrorTags{Include: []openapi.MirrorTagMatch{{Semver: ">=1"}}}, Referrers: domain.ReferrersCopy,
				Schedule: openapi.MirrorSchedule{IntervalSeconds: 3600}, Visibility: domain.Private, OnConflict: domain.ConflictSkip, Prune: domain.PruneNever,
				Suspend: true, TimeoutSeconds: 600, Concurrency: 4,
			},
		}))
		Expect(read(ctx)).To(And(HaveField("Finalizers", ConsistOf(registryv1alpha1.Finalizer)), HaveField("Status.MirrorUUID", "u"), HaveField("Status.Organization", "team-b")))
	})

	Describe("with a Secret", func() {
		BeforeEach(func(ctx context.Context) {
			change(ctx, func(m *registryv1alpha1.OrgMirror) {
				m.Spec.Source.CredentialsSecretRef = &registryv1alpha1.SecretReference{Name: "login"}
			})
		})

		It("waits for one that is missing, and says which keys it needs", func(ctx context.Context) {
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", secretInterval, secretInterval/5)))
			Expect(registry.mirrors).To(BeEmpty())
			message := conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretNotFound)
			Expect(message).To(And(ContainSubstring("Secret team-a/login (spec.source.credentialsSecretRef) is not there"), ContainSubstring("kubernetes.io/basic-auth with username and password")))

			Expect(cluster.Create(ctx, secret("login", map[string]string{"username": "bob"}))).To(Succeed())
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			message = conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretInvalid)
			Expect(message).To(ContainSubstring("Secret team-a/login (spec.source.credentialsSecretRef) cannot be used: the key password is missing or empty"))

			Expect(cluster.Update(ctx, secret("login", map[string]string{"username": "bob", "password": "hunter2"}))).To(Succeed())
			_, err = reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(registry.mirrors).To(ConsistOf(HaveField("Secrets", openapi.MirrorSecrets{Username: "bob", Password: "hunter2"})))
		})

		It("says that it may not read one", func(ctx context.Context) {
			reconciler.Uncached = interceptor.NewClient(cluster.(client.WithWatch), interceptor.Funcs{
				Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
					return apierrors.NewForbidden(corev1.Resource("secrets"), key.Name, nil)
				},
			})
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			message := conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretInvalid)
			Expect(message).To(ContainSubstring("cannot be used: the operator has no right to get it"))
		})

		It("suspends a mirror also where one is missing", func(ctx context.Context) {
			change(ctx, func(m *registryv1alpha1.OrgMirror) { m.Spec.Suspend = ptr.To(true) })
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(registry.mirrors).To(ConsistOf(HaveField("Spec.Suspend", true)))
		})

		It("puts it again shortly before the next sync, and not before", func(ctx context.Context) {
			Expect(cluster.Create(ctx, secret("login", map[string]string{"username": "bob", "password": "old"}))).To(Succeed())
			answer(openapi.MirrorStatus{NextSync: at(5 * time.Minute)})
			Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", 5*time.Minute-beforeSync, 2*time.Second)))
			Expect(cluster.Update(ctx, secret("login", map[string]string{"username": "bob", "password": "new"}))).To(Succeed())
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(registry.mirrors).To(HaveLen(1))

			soon := now.Add(beforeSync / 2)
			reconciler.visits.change(request.NamespacedName, func(v *visit) { v.next, v.putAt = soon, soon.Add(-time.Minute) })
			for range 2 {
				answer(openapi.MirrorStatus{NextSync: &soon})
				_, err = reconciler.Reconcile(ctx, request)
				Expect(err).NotTo(HaveOccurred())
			}
			Expect(registry.mirrors).To(HaveExactElements(HaveField("Secrets.Password", domain.GivenSecret("old")), HaveField("Secrets.Password", domain.GivenSecret("new"))))
		})

		It("reads those of the proxy, and certificates", func(ctx context.Context) {
			Expect(cluster.Create(ctx, secret("login", map[string]string{"username": "bob", "password": "b"}))).To(Succeed())
			change(ctx, func(m *registryv1alpha1.OrgMirror) {
				m.Spec.Source.Proxy = &registryv1alpha1.MirrorProxy{HTTPProxy: "http://proxy", CredentialsSecretRef: &registryv1alpha1.SecretReference{Name: "proxy"}}
				m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Name: "ca"}
			})
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			message := conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretNotFound)
			Expect(message).To(ContainSubstring("Secret team-a/proxy (spec.source.proxy.credentialsSecretRef) is not there"))

			Expect(cluster.Create(ctx, secret("proxy", map[string]string{"username": "p", "password": "q"}))).To(Succeed())
			_, err = reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			message = conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonCABundleNotFound)
			Expect(message).To(ContainSubstring("ConfigMap team-a/ca (spec.source.caBundleRef) is not there. Create it, with certificates in PEM under the key ca.crt"))

			bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "ca"}, Data: map[string]string{"ca.crt": "none"}}
			Expect(cluster.Create(ctx, bundle)).To(Succeed())
			_, err = reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonCABundleInvalid)

			bundle.Data["ca.crt"] = certificate
			Expect(cluster.Update(ctx, bundle)).To(Succeed())
			_, err = reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			Expect(registry.mirrors).To(ConsistOf(And(HaveField("Secrets.ProxyUsername", "p"), HaveField("Secrets.ProxyPassword", BeEquivalentTo("q")), HaveField("Spec.Source.CaBundle", certificate))))
		})
	})

	It("puts again when the annotation asks for a sync, and says which request was handled", func(ctx context.Context) {
		registry.putMirror = func(m openapi.ManagedMirror) (openapi.MirrorStatus, error) {
			return openapi.MirrorStatus{RequestedAt: m.RequestedAt, Requested: m.RequestedAt != ""}, nil
		}
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		mirror := read(ctx)
		mirror.Annotations = map[string]string{registryv1alpha1.RequestedAtAnnotation: "2026-11-28T19:00:00Z"}
		Expect(cluster.Update(ctx, mirror)).To(Succeed())
		Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", soonInterval, soonInterval/5)))
		Expect(registry.mirrors).To(HaveExactElements(HaveField("RequestedAt", ""), HaveField("RequestedAt", "2026-11-28T19:00:00Z")))
		Expect(read(ctx).Status.LastHandledRequestedAt).To(Equal("2026-11-28T19:00:00Z"))
	})

	running := func(started time.Duration, progress openapi.MirrorProgress) *openapi.MirrorSync {
		return &openapi.MirrorSync{Number: 1, State: domain.SyncRunning, Trigger: domain.SyncScheduled, StartedAt: at(started), Progress: progress}
	}
	ended := func(state domain.SyncState, message string, tags openapi.MirrorCounts) *openapi.MirrorSync {
		return &openapi.MirrorSync{
			Number: 1, State: state, Trigger: domain.SyncScheduled, StartedAt: at(-time.Hour), FinishedAt: at(-time.Minute), Message: message,
			Progress: openapi.MirrorProgress{Tags: tags},
		}
	}

	DescribeTable("says how the syncs are doing:", func(ctx context.Context, status openapi.MirrorStatus, ready metav1.ConditionStatus, beside, reason, message string, wait time.Duration) {
		answer(status)
		Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically("~", wait, max(wait/5, 3*time.Second))))
		Expect(conditionsAre(ctx, ready, beside, reason)).To(ContainSubstring(message))
	},
		Entry("the first is about to begin", openapi.MirrorStatus{NextSync: at(-time.Second)},
			metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncing, "The first sync", soonInterval),
		Entry("the first was asked for", openapi.MirrorStatus{Requested: true, NextSync: at(time.Hour)},
			metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncing, "The first sync", soonInterval),
		Entry("the first is due later", openapi.MirrorStatus{NextSync: at(5 * time.Minute)},
			metav1.ConditionFalse, "", registryv1alpha1.ReasonScheduled, "status.nextSyncTime says when the schedule begins", 5*time.Minute-beforeSync),
		Entry("the first runs", openapi.MirrorStatus{Sync: running(-time.Minute, openapi.MirrorProgress{}), NextSync: at(time.Hour)},
			metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncing, "status.lastSync says how far it is", countsInterval),
		Entry("it succeeded", openapi.MirrorStatus{Sync: ended(domain.SyncSucceeded, "", openapi.MirrorCounts{}), LastSuccess: at(-time.Minute), NextSync: at(time.Hour)},
			metav1.ConditionTrue, "", registryv1alpha1.ReasonSynced, "Organization team-a has what is selected of up at https://quay.example.com.", putInterval),
		Entry("it succeeded, but for locked tags", openapi.MirrorStatus{Sync: ended(domain.SyncSucceeded, "", openapi.MirrorCounts{Conflicts: 3}), NextSync: at(time.Hour)},
			metav1.ConditionTrue, "", registryv1alpha1.ReasonSynced, "Locked tags that differ from the upstream's stay as they are: 3", putInterval),
		Entry("it failed", openapi.MirrorStatus{Sync: ended(domain.SyncFailed, "the upstream does not answer", openapi.MirrorCounts{}), Failures: 1, NextSync: at(time.Minute)},
			metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed, "the upstream does not answer. It is repeated", time.Minute-beforeSync),
		Entry("it is repeated", openapi.MirrorStatus{Sync: running(-time.Minute, openapi.MirrorProgress{}), Failures: 1, LastSuccess: at(-time.Hour)},
			metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed, "is repeated now", countsInterval),
		Entry("it was cancelled", openapi.MirrorStatus{Sync: ended(domain.SyncCancelled, "", openapi.MirrorCounts{}), NextSync: at(time.Hour)},
			metav1.ConditionFalse, "", registryv1alpha1.ReasonSyncCancelled, "The last sync was cancelled", putInterval),
		Entry("suspended before anything", openapi.MirrorStatus{Suspended: true},
			metav1.ConditionFalse, "", registryv1alpha1.ReasonSuspended, "No sync has succeeded yet", putInterval),
		Entry("suspended after a success", openapi.MirrorStatus{Suspended: true, Sync: ended(domain.SyncSucceeded, "", openapi.MirrorCounts{}), LastSuccess: at(-time.Minute)},
			metav1.ConditionTrue, "", registryv1alpha1.ReasonSuspended, "The last sync succeeded", putInterval),
		Entry("suspended after a failure", openapi.MirrorStatus{Suspended: true, Sync: ended(domain.SyncFailed, "", openapi.MirrorCounts{}), LastSuccess: at(-time.Hour)},
			metav1.ConditionFalse, "", registryv1alpha1.ReasonSuspended, "The last sync did not succeed", putInterval),
		Entry("the organization is another's", openapi.MirrorStatus{Lost: true},
			metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonOrganizationNotOwned, "can only be deleted", putInterval),
	)

	It("stays ready while the next sync of the same spec runs, and not while the first of another one does", func(ctx context.Context) {
		answer(openapi.MirrorStatus{Sync: ended(domain.SyncSucceeded, "", openapi.MirrorCounts{}), LastSuccess: at(-time.Minute)})
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		again := openapi.MirrorStatus{Sync: running(-time.Second, openapi.MirrorProgress{}), LastSuccess: at(-time.Minute)}
		answer(again)
		_, err = reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		conditionsAre(ctx, metav1.ConditionTrue, "", registryv1alpha1.ReasonSynced)

		change(ctx, func(m *registryv1alpha1.OrgMirror) { m.Spec.Tags.Newest = ptr.To(int32(3)) })
		for range 2 {
			_, err = reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
			conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncing)
		}
	})

	DescribeTable("treats an answer of the registry as", func(ctx context.Context, failure error, status metav1.ConditionStatus, beside, reason string, retried bool) {
		registry.putMirror = func(openapi.ManagedMirror) (openapi.MirrorStatus, error) { return openapi.MirrorStatus{}, failure }
		result, err := reconciler.Reconcile(ctx, request)
		if retried {
			Expect(err).To(MatchError(failure))
		} else {
			Expect(err).NotTo(HaveOccurred())
			Expect(result.RequeueAfter).To(BeNumerically("~", putInterval, putInterval/5))
		}
		conditionsAre(ctx, status, beside, reason)
	},
		Entry("transient: no connection", errors.New("connection refused"), metav1.ConditionUnknown, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonRegistryUnavailable, true),
		Entry("final: another mirror", &registryclient.Error{Status: 409, Code: domain.CodeConflict, Message: "m"}, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonOrganizationMirrored, false),
		Entry("final: another owner", &registryclient.Error{Status: 409, Code: domain.CodeOrganizationNotOwned}, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonOrganizationNotOwned, false),
		Entry("final: another cluster", &registryclient.Error{Status: 409, Code: domain.CodeOtherCluster}, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonOtherCluster, false),
		Entry("final: invalid", &registryclient.Error{Status: 400, Code: domain.CodeInvalid}, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonInvalidSpec, false),
	)

	It("calls a spec invalid that got past admission", func(ctx context.Context) {
		change(ctx, func(m *registryv1alpha1.OrgMirror) { m.Spec.Schedule.Interval = nil })
		_, err := reconciler.Reconcile(ctx, request)
		Expect(err).NotTo(HaveOccurred())
		Expect(conditionsAre(ctx, metav1.ConditionFalse, registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonInvalidSpec)).To(ContainSubstring("spec.schedule"))
		Expect(registry.mirrors).To(BeEmpty())
	})

	It("lets the status rest while only counts of a running sync change, and tells its end at once", func(ctx context.Context) {
		step := func(sync *openapi.MirrorSync) {
			answer(openapi.MirrorStatus{Sync: sync})
			_, err := reconciler.Reconcile(ctx, request)
			Expect(err).NotTo(HaveOccurred())
		}
		for n := range int64(3) {
			step(running(-time.Minute, openapi.MirrorProgress{Tags: openapi.MirrorCounts{Discovered: 10, Copied: n + 1}}))
		}
		Expect(read(ctx).Status.LastSync.Tags.Copied).To(Equal(int64(1)))
		step(ended(domain.SyncSucceeded, "", openapi.MirrorCounts{Copied: 10}))
		Expect(read(ctx).Status.LastSync.Tags.Copied).To(Equal(int64(10)))
	})

	DescribeTable("estimates what is left:", func(ctx context.Context, sync *openapi.MirrorSync, progress int, remaining time.Duration) {
		status := syncStatus(*sync, now)
		Expect(status.Progress).To(Equal(int32(progress)))
		if remaining == 0 {
			Expect(status.Remaining).To(BeNil())
			return
		}
		Expect(status.Remaining).To(HaveValue(HaveField("Duration", remaining)))
	},
		Entry("nothing is known", running(-time.Minute, openapi.MirrorProgress{}), 0, time.Duration(0)),
		Entry("a quarter is done", running(-time.Minute, openapi.MirrorProgress{
			Repositories: openapi.MirrorCounts{Discovered: 4, Copied: 1}, Tags: openapi.MirrorCounts{Discovered: 10, Copied: 8, Unchanged: 2},
		}), 25, 3*time.Minute),
		Entry("one of many repositories is half done", running(-time.Minute, openapi.MirrorProgress{
			Repositories: openapi.MirrorCounts{Discovered: 5}, Tags: openapi.MirrorCounts{Discovered: 10, Copied: 5},
		}), 10, 9*time.Minute),
		Entry("it began a moment ago", running(-time.Second, openapi.MirrorProgress{Repositories: openapi.MirrorCounts{Discovered: 1}, Tags: openapi.MirrorCounts{Discovered: 2, Copied: 1}}), 50, time.Duration(0)),
		Entry("all is done but the end", running(-time.Minute, openapi.MirrorProgress{
			Repositories: openapi.MirrorCounts{Discovered: 1, Copied: 1}, Tags: openapi.MirrorCounts{Discovered: 1, Copied: 1},
		}), 99, time.Duration(0)),
		Entry("it succeeded with nothing", ended(domain.SyncSucceeded, "", openapi.MirrorCounts{}), 100, time.Duration(0)),
		Entry("it was cancelled on the way", ended(domain.SyncCancelled, "", openapi.MirrorCounts{Discovered: 4, Copied: 1}), 25, time.Duration(0)),
	)
})

var _ = DescribeTable("The Event of a sync", func(kind, eventType, reason, note string, metadata map[string]any) {
	entry := openapi.LogEntry{Kind: kind, Organization: "team-a", Metadata: metadata, Manager: &openapi.Manager{Kind: mirrorKind, Namespace: "ns", Name: "upstream", UID: "u"}}
	Expect(becomesEvent(entry)).To(BeTrue())
	event := newEvent(origin{}, entry)
	Expect(event).To(And(HaveField("Type", eventType), HaveField("Reason", reason), HaveField("Action", "Sync"), HaveField("Note", note),
		HaveField("Namespace", "ns"), HaveField("Regarding.Kind", mirrorKind), HaveField("Regarding.Name", "upstream")))
},
	Entry("that succeeded", "org_mirror_sync_success", "Normal", EventSyncSucceeded, "sync 3 of organization team-a succeeded: tags 12, copied 2, unchanged 9, conflicts 1; all is well",
		map[string]any{"sync": 3.0, "tags_count": 12.0, "tags_copied_count": 2.0, "tags_unchanged_count": 9.0, "tags_conflicts_count": 1.0, "message": "all is well"}),
	Entry("that failed", "org_mirror_sync_failed", "Warning", EventSyncFailed, "sync 4 of organization team-a failed: tags 0; the upstream does not answer",
		map[string]any{"sync": 4.0, "tags_count": 0.0, "message": "the upstream does not answer"}),
)

// certificate is one that nobody trusts.
const certificate = `-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUc7EY+3efzHBFt0UT+FzY2t4zXEQwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOY2EuZXhhbXBsZS5jb20wIBcNMjYxMTI4MTkxNjA5WhgPMjEy
NjExMDQxOTE2MDlaMBkxFzAVBgNVBAMMDmNhLmV4YW1wbGUuY29tMFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEBZCyxD2GLgBU/0hwL2l2lKYzZp/KIoORX3xSF/om
6i08GE7/HAwELS/k9bcQt4rM2m7NwiKB4l5i+KO38TiaxqNTMFEwHQYDVR0OBBYE
FNOdsZiu8N/zL9wMHvor/cBxEF7zMB8GA1UdIwQYMBaAFNOdsZiu8N/zL9wMHvor
/cBxEF7zMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgMu4k2UmW
If9QqVeCLBkWhuoRvlvNUBt7N83aoDFDIf8CIQDO6Apc3ybQc1o9pfDGb1ye5YAn
Ux/l9Q2UnfZROS+9SA==
-----END CERTIFICATE-----
`
