package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"
	. "github.com/onsi/gomega/gstruct"
	gomegatypes "github.com/onsi/gomega/types"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
)

// upstreamRegistry is another Tidelock, in a process of its own.
type upstreamRegistry struct {
	testRegistry
	args    []string
	session *gexec.Session
}

func startUpstream(ctx context.Context) *upstreamRegistry {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	password := filepath.Join(dir, "admin")
	Expect(os.WriteFile(password, []byte(adminPassword), 0o600)).To(Succeed())
	address := fmt.Sprintf("127.0.0.1:%d", freePort())
	u := &upstreamRegistry{args: []string{"registry", "--data-dir", filepath.Join(dir, "data"), "--listen", address, "--admin-password-file", password}}
	u.url = "http://" + address
	DeferCleanup(func() { u.kill() })
	u.launch(ctx)
	return u
}

func (u *upstreamRegistry) launch(ctx context.Context) {
	GinkgoHelper()
	var err error
	u.session, err = gexec.Start(exec.Command(binary("tidelock"), u.args...), GinkgoWriter, GinkgoWriter)
	Expect(err).NotTo(HaveOccurred())
	Eventually(func(ctx context.Context) (answer, error) { return u.call(ctx, http.MethodGet, "/readyz", "", nil) }).
		WithContext(ctx).Should(HaveField("Status", http.StatusOK))
}

func (u *upstreamRegistry) kill() { u.session.Kill().Wait(timeout) }

// reader makes a robot of an organization that may pull a repository, and returns its name and token.
func (u *upstreamRegistry) reader(ctx context.Context, organization, repository string) (name, token string) {
	GinkgoHelper()
	name = organization + "+reader"
	u.must(ctx, http.MethodPut, "/api/v1/organization/"+organization+"/robots/reader", "")
	u.must(ctx, http.MethodPut, "/api/v1/repository/"+organization+"/"+repository+"/permissions/user/"+name, `{"role":"read"}`)
	return name, u.newToken(ctx, organization)
}

// newToken replaces the token of an organization's robot.
func (u *upstreamRegistry) newToken(ctx context.Context, organization string) string {
	GinkgoHelper()
	var robot struct {
		Token string `json:"token"`
	}
	got := u.must(ctx, http.MethodPost, "/api/v1/organization/"+organization+"/robots/reader/regenerate", "")
	Expect(json.Unmarshal([]byte(got.Body), &robot)).To(Succeed(), got.Body)
	Expect(robot.Token).NotTo(BeEmpty())
	return robot.Token
}

// must calls the registry, which has to agree.
func (u *upstreamRegistry) must(ctx context.Context, method, path, body string) answer {
	GinkgoHelper()
	got, err := u.call(ctx, method, path, "application/json", []byte(body))
	Expect(err).NotTo(HaveOccurred())
	Expect(got.Status).To(BeNumerically("<", 300), "%s %s: %s", method, path, got.Body)
	return got
}

// organizationWith makes an organization with an image under each of the tags in a repository app.
func (u *upstreamRegistry) organizationWith(ctx context.Context, tags ...string) string {
	GinkgoHelper()
	name := "up" + newNamespace(ctx).Name
	u.prepare(ctx, name+"/app")
	u.push(ctx, name+"/app", tags...)
	return name
}

// digestIn is the digest that a registry has under a tag, empty if it has none.
func (r *testRegistry) digestIn(ctx context.Context, repository, tag string) string {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, r.url+"/v2/"+repository+"/manifests/"+tag, nil)
	Expect(err).NotTo(HaveOccurred())
	request.SetBasicAuth("admin", adminPassword)
	response, err := http.DefaultClient.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer response.Body.Close()
	return response.Header.Get("Docker-Content-Digest")
}

// haveMirrorCondition matches a mirror whose condition is about its present generation.
func haveMirrorCondition(kind string, status metav1.ConditionStatus, reason string) gomegatypes.GomegaMatcher {
	return WithTransform(func(m *registryv1alpha1.OrgMirror) []any {
		c := meta.FindStatusCondition(m.Status.Conditions, kind)
		if c == nil {
			return nil
		}
		return []any{c.Status, c.Reason, c.ObservedGeneration == m.Generation, m.Status.ObservedGeneration == m.Generation}
	}, Equal([]any{status, reason, true, true}))
}

// beSynced matches a mirror whose last sync succeeded.
func beSynced() gomegatypes.GomegaMatcher {
	return And(
		haveMirrorCondition(registryv1alpha1.ConditionReady, metav1.ConditionTrue, registryv1alpha1.ReasonSynced),
		HaveField("Status.Conditions", HaveLen(1)), HaveField("Status.LastSync.State", registryv1alpha1.SyncSucceeded),
	)
}

// waitFor matches a mirror that waits for something, beside a condition.
func waitFor(beside, reason string) gomegatypes.GomegaMatcher {
	return And(
		haveMirrorCondition(registryv1alpha1.ConditionReady, metav1.ConditionFalse, reason),
		haveMirrorCondition(beside, metav1.ConditionTrue, reason),
	)
}

// eventuallyMirror reads a mirror until it matches, and leaves the caller with what was read.
func eventuallyMirror(ctx context.Context, mirror *registryv1alpha1.OrgMirror, matcher gomegatypes.GomegaMatcher) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		g.Expect(admin.Get(ctx, key(mirror), mirror)).To(Succeed())
		g.Expect(mirror).To(matcher)
	}).WithContext(ctx).WithTimeout(longTimeout).Should(Succeed())
}

func createMirror(ctx context.Context, mirror *registryv1alpha1.OrgMirror) *registryv1alpha1.OrgMirror {
	GinkgoHelper()
	Expect(admin.Create(ctx, mirror)).To(Succeed())
	return mirror
}

func changeMirror(ctx context.Context, mirror *registryv1alpha1.OrgMirror, f mirrorChange) {
	GinkgoHelper()
	before := mirror.DeepCopy()
	f(mirror)
	Expect(admin.Patch(ctx, mirror, client.MergeFrom(before))).To(Succeed())
}

// syncNow asks for a sync by the annotation, with a value that was not there before.
func syncNow(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (at string) {
	GinkgoHelper()
	at = time.Now().Format(time.RFC3339Nano)
	changeMirror(ctx, mirror, func(m *registryv1alpha1.OrgMirror) {
		m.Annotations = map[string]string{registryv1alpha1.RequestedAtAnnotation: at}
	})
	return at
}

func mirrorMessage(mirror *registryv1alpha1.OrgMirror) string {
	return meta.FindStatusCondition(mirror.Status.Conditions, registryv1alpha1.ConditionReady).Message
}

func removeMirror(ctx context.Context, mirror *registryv1alpha1.OrgMirror) {
	GinkgoHelper()
	Expect(admin.Delete(ctx, mirror)).To(Succeed())
	Eventually(func(ctx context.Context) error {
		err := admin.Get(ctx, key(mirror), mirror)
		if err == nil {
			return fmt.Errorf("%s is still there", mirror.Name)
		}
		return client.IgnoreNotFound(err)
	}).WithContext(ctx).Should(Succeed())
}

// login makes a Secret for the upstream, or changes it.
func login(ctx context.Context, namespace, name, username, password string) {
	GinkgoHelper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: corev1.SecretTypeBasicAuth}
	secret.StringData = map[string]string{"username": username, "password": password}
	err := admin.Create(ctx, secret)
	if client.IgnoreAlreadyExists(err) == nil && err != nil {
		err = admin.Update(ctx, secret)
	}
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("An OrgMirror", Ordered, ContinueOnFailure, func() {
	var (
		here *testRegistry
		up   *upstreamRegistry
	)

	BeforeAll(func(ctx context.Context) {
		here = startRegistry()
		up = startUpstream(ctx)
		startOperator(ctx, here)
	})

	// of makes a mirror of an organization of the upstream, as its admin.
	of := func(ctx context.Context, team, organization string, change ...mirrorChange) *registryv1alpha1.OrgMirror {
		GinkgoHelper()
		login(ctx, team, "login", "admin", adminPassword)
		change = append([]mirrorChange{fromURL(up.url), upstream(registryv1alpha1.UpstreamQuay, organization), withCredentials("login")}, change...)
		return createMirror(ctx, newMirror(team, change...))
	}

	It("fills an organization with credentials from a Secret, and tells so", func(ctx context.Context) {
		organization := up.organizationWith(ctx, "v1", "v2", "latest")
		up.prepare(ctx, organization+"/backend/api")
		up.push(ctx, organization+"/backend/api", "v1")
		team := newTeam(ctx)
		mirror := of(ctx, team, organization, onlyTags(registryv1alpha1.TagMatch{Glob: "v*"}))
		output, err := kubectl(ctx, "-n", team, "wait", "--for=condition=Ready", "--timeout=60s", "orgmirror/upstream")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("condition met"))

		eventuallyMirror(ctx, mirror, beSynced())
		Expect(mirrorMessage(mirror)).To(Equal(fmt.Sprintf("Organization %s has what is selected of %s at %s.", team, organization, up.url)))
		Expect(mirror.Status).To(MatchFields(IgnoreExtras, Fields{
			"Organization": Equal(team), "MirrorUUID": Not(BeEmpty()), "LastHandledRequestedAt": BeEmpty(),
			"NextSyncTime":    HaveValue(HaveField("Time", BeTemporally("~", time.Now().Add(time.Hour), 10*time.Minute))),
			"LastSuccessTime": HaveValue(HaveField("Time", BeTemporally("~", time.Now(), time.Minute))),
		}))
		sync := mirror.Status.LastSync
		Expect(*sync).To(MatchFields(IgnoreExtras, Fields{
			"Number": Equal(int64(1)), "Trigger": Equal(registryv1alpha1.SyncScheduled), "Progress": Equal(int32(100)), "Remaining": BeNil(),
			"StartTime": Not(BeNil()), "CompletionTime": Not(BeNil()), "Failures": BeEmpty(), "Conflicts": BeEmpty(),
			"Repositories": And(HaveField("Discovered", int64(2)), HaveField("Copied", int64(2))),
			"Tags":         And(HaveField("Discovered", int64(3)), HaveField("Copied", int64(3)), HaveField("Failed", int64(0))),
			"BytesCopied":  BeNumerically(">", 0),
		}))
		Expect(here.digestIn(ctx, team+"/app", "v2")).To(Equal(digestOf("v2")))
		Expect(here.digestIn(ctx, team+"/backend/api", "v1")).To(Equal(digestOf("v1")))
		Expect(here.digestIn(ctx, team+"/app", "latest")).To(BeEmpty())

		output, err = kubectl(ctx, "-n", team, "get", "orgmir")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(MatchRegexp(`NAME\s+ORGANIZATION\s+SOURCE\s+SYNC\s+%\s+TAGS\s+FAILED\s+CONFLICTS\s+LAST SUCCESS\s+READY\s+REASON\s+AGE\n`))
		Expect(output).To(MatchRegexp(`upstream\s+` + team + `\s+` + up.url + `\s+Succeeded\s+100\s+3\s+0\s+0\s+\S+\s+True\s+Synced\s+`))
		output, err = kubectl(ctx, "-n", team, "get", "tidelock")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("upstream"))
		Eventually(func(ctx context.Context) ([]eventsv1.Event, error) {
			var list eventsv1.EventList
			err := admin.List(ctx, &list, client.InNamespace(team))
			return list.Items, err
		}).WithContext(ctx).Should(ConsistOf(And(
			HaveField("Reason", controllers.EventSyncSucceeded), HaveField("Type", corev1.EventTypeNormal), HaveField("Note", ContainSubstring("copied 3")),
			HaveField("Regarding", And(HaveField("Kind", "OrgMirror"), HaveField("Name", "upstream"), HaveField("UID", mirror.UID))),
		)))
	})

	It("lets nobody else push, and says why", func(ctx context.Context) {
		team := newTeam(ctx)
		mirror := of(ctx, team, up.organizationWith(ctx, "v1"))
		eventuallyMirror(ctx, mirror, beSynced())
		Expect(here.tryPush(ctx, team+"/app", "mine", "mine")).To(And(
			HaveField("Status", http.StatusForbidden), HaveField("Body", And(ContainSubstring("DENIED"), ContainSubstring(up.url), ContainSubstring("OrgMirror "+team+"/upstream")))))
		got, err := here.call(ctx, http.MethodDelete, "/api/v1/organization/"+team+"/mirror", "", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(got).To(And(HaveField("Status", http.StatusConflict), HaveField("Body", ContainSubstring(team+"/upstream"))))
	})

	It("waits for a Secret that is missing, and begins once it is there", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1")
		mirror := createMirror(ctx, newMirror(team, fromURL(up.url), upstream(registryv1alpha1.UpstreamQuay, organization), withCredentials("later")))
		eventuallyMirror(ctx, mirror, waitFor(registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSecretNotFound))
		Expect(mirrorMessage(mirror)).To(And(ContainSubstring("Secret "+team+"/later (spec.source.credentialsSecretRef) is not there"), ContainSubstring("username and password")))
		login(ctx, team, "later", "admin", adminPassword)
		eventuallyMirror(ctx, mirror, beSynced())
		Expect(here.digestIn(ctx, team+"/app", "v1")).To(Equal(digestOf("v1")))
	})

	It("uses a Secret that was rotated, and says what is wrong until it is", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1")
		robot, token := up.reader(ctx, organization, "app")
		login(ctx, team, "robot", robot, token)
		mirror := createMirror(ctx, newMirror(team, fromURL(up.url), upstream(registryv1alpha1.UpstreamQuay, organization), withCredentials("robot")))
		eventuallyMirror(ctx, mirror, beSynced())

		token = up.newToken(ctx, organization)
		up.push(ctx, organization+"/app", "v2")
		syncNow(ctx, mirror)
		eventuallyMirror(ctx, mirror, waitFor(registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed))
		Expect(mirror.Status.LastSync.Failures).NotTo(BeEmpty())
		Expect(mirror.Status.LastSuccessTime).NotTo(BeNil())
		Expect(mirrorMessage(mirror)).To(HaveSuffix("It is repeated with growing pauses; status.nextSyncTime says when."))

		login(ctx, team, "robot", robot, token)
		at := syncNow(ctx, mirror)
		eventuallyMirror(ctx, mirror, And(beSynced(), HaveField("Status.LastHandledRequestedAt", at)))
		Expect(here.digestIn(ctx, team+"/app", "v2")).To(Equal(digestOf("v2")))
		status, err := json.Marshal(mirror)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(status)).NotTo(ContainSubstring(token))
	})

	It("syncs at once when its annotation asks for it, once for each value", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1")
		mirror := of(ctx, team, organization)
		eventuallyMirror(ctx, mirror, beSynced())
		next := mirror.Status.NextSyncTime
		up.push(ctx, organization+"/app", "v2")
		at := syncNow(ctx, mirror)
		eventuallyMirror(ctx, mirror, And(beSynced(), HaveField("Status.LastHandledRequestedAt", at), HaveField("Status.LastSync", HaveValue(And(
			HaveField("Number", int64(2)), HaveField("Trigger", registryv1alpha1.SyncRequested),
			HaveField("Tags", And(HaveField("Copied", int64(1)), HaveField("Unchanged", int64(1)))))))))
		Expect(here.digestIn(ctx, team+"/app", "v2")).To(Equal(digestOf("v2")))
		Expect(next).NotTo(BeNil())
		changeMirror(ctx, mirror, func(m *registryv1alpha1.OrgMirror) { m.Labels = map[string]string{"a": "label"} })
		Consistently(func(g Gomega, ctx context.Context) {
			g.Expect(admin.Get(ctx, key(mirror), mirror)).To(Succeed())
			g.Expect(mirror.Status.LastSync.Number).To(Equal(int64(2)))
		}).WithContext(ctx).WithTimeout(2 * time.Second).Should(Succeed())
	})

	It("syncs nothing while it is suspended, and goes on afterwards", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1")
		suspended := func(is bool) mirrorChange {
			return func(m *registryv1alpha1.OrgMirror) { m.Spec.Suspend = ptr.To(is) }
		}
		mirror := of(ctx, team, organization, suspended(true))
		eventuallyMirror(ctx, mirror, haveMirrorCondition(registryv1alpha1.ConditionReady, metav1.ConditionFalse, registryv1alpha1.ReasonSuspended))
		Expect(mirror.Status.NextSyncTime).To(BeNil())
		changeMirror(ctx, mirror, suspended(false))
		eventuallyMirror(ctx, mirror, beSynced())

		changeMirror(ctx, mirror, suspended(true))
		eventuallyMirror(ctx, mirror, haveMirrorCondition(registryv1alpha1.ConditionReady, metav1.ConditionTrue, registryv1alpha1.ReasonSuspended))
		at := syncNow(ctx, mirror)
		eventuallyMirror(ctx, mirror, HaveField("Status.LastHandledRequestedAt", at))
		Expect(mirror.Status.LastSync.Number).To(Equal(int64(1)))
	})

	It("never overwrites a locked tag, and reports the conflict with both digests", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1", "v2")
		mirror := of(ctx, team, organization)
		eventuallyMirror(ctx, mirror, beSynced())
		eventually(ctx, create(ctx, newPolicy(team)), beReady())
		Expect(up.tryPush(ctx, organization+"/app", "v1", "moved").Status).To(Equal(http.StatusCreated))

		syncNow(ctx, mirror)
		conflict := MatchFields(IgnoreExtras, Fields{
			"Repository": Equal("app"), "Tag": Equal("v1"), "UpstreamDigest": Equal(digestOf("moved")), "StandingDigest": Equal(digestOf("v1")), "Reason": Not(BeEmpty()),
		})
		eventuallyMirror(ctx, mirror, And(beSynced(), HaveField("Status.LastSync.Conflicts", ConsistOf(conflict)), HaveField("Status.LastSync.Tags.Conflicts", int64(1))))
		Expect(mirrorMessage(mirror)).To(HaveSuffix("Locked tags that differ from the upstream's stay as they are: 1, listed in status.lastSync.conflicts."))
		Expect(here.digestIn(ctx, team+"/app", "v1")).To(Equal(digestOf("v1")))

		changeMirror(ctx, mirror, func(m *registryv1alpha1.OrgMirror) { m.Spec.OnConflict = registryv1alpha1.ConflictFail })
		eventuallyMirror(ctx, mirror, And(
			waitFor(registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed), HaveField("Status.LastSync.State", registryv1alpha1.SyncFailed),
			HaveField("Status.LastSync.Conflicts", ConsistOf(conflict)),
		))
		Expect(here.digestIn(ctx, team+"/app", "v1")).To(Equal(digestOf("v1")))
	})

	It("leaves the content when it is deleted, and lets others write again", func(ctx context.Context) {
		team := newTeam(ctx)
		mirror := of(ctx, team, up.organizationWith(ctx, "v1"))
		eventuallyMirror(ctx, mirror, beSynced())
		removeMirror(ctx, mirror)
		Expect(here.digestIn(ctx, team+"/app", "v1")).To(Equal(digestOf("v1")))
		Expect(here.tryPush(ctx, team+"/app", "v1", "mine").Status).To(Equal(http.StatusCreated))
	})

	It("is one for an organization: the second waits, and takes over when the first is gone", func(ctx context.Context) {
		team := newTeam(ctx)
		first := of(ctx, team, up.organizationWith(ctx, "v1"))
		eventuallyMirror(ctx, first, beSynced())
		second := of(ctx, team, up.organizationWith(ctx, "v2"), func(m *registryv1alpha1.OrgMirror) { m.Name = "second" })
		eventuallyMirror(ctx, second, waitFor(registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonOrganizationMirrored))
		Expect(mirrorMessage(second)).To(ContainSubstring("by OrgMirror " + team + "/upstream; delete that object first"))
		removeMirror(ctx, first)
		eventuallyMirror(ctx, second, beSynced())
		Expect(here.digestIn(ctx, team+"/app", "v1")).To(Equal(digestOf("v1")))
		Expect(here.digestIn(ctx, team+"/app", "v2")).To(Equal(digestOf("v2")))
	})

	It("needs an owner of the organization, for which * is not enough", func(ctx context.Context) {
		owner := newTeam(ctx)
		eventuallyMirror(ctx, of(ctx, owner, up.organizationWith(ctx, "v1")), beSynced())
		other := newNamespace(ctx, claims("*")).Name
		mirror := of(ctx, other, up.organizationWith(ctx, "v1"), into(owner))
		eventuallyMirror(ctx, mirror, waitFor(registryv1alpha1.ConditionStalled, registryv1alpha1.ReasonOrganizationNotOwned))
		Expect(mirrorMessage(mirror)).To(ContainSubstring("organization " + owner + " belongs to namespace " + owner))
	})

	It("says when the registry is away, and goes on when it is back", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1", "w1")
		mirror := of(ctx, team, organization, onlyTags(registryv1alpha1.TagMatch{Glob: "v*"}))
		eventuallyMirror(ctx, mirror, beSynced())
		here.stop()
		changeMirror(ctx, mirror, onlyTags(registryv1alpha1.TagMatch{Glob: "*"}))
		eventuallyMirror(ctx, mirror, And(
			haveMirrorCondition(registryv1alpha1.ConditionReady, metav1.ConditionUnknown, registryv1alpha1.ReasonRegistryUnavailable),
			haveMirrorCondition(registryv1alpha1.ConditionReconciling, metav1.ConditionTrue, registryv1alpha1.ReasonRegistryUnavailable),
		))
		here.start()
		eventuallyMirror(ctx, mirror, And(beSynced(), HaveField("Status.LastSync.Tags.Discovered", int64(2))))
		Expect(here.digestIn(ctx, team+"/app", "w1")).To(Equal(digestOf("w1")))
	})

	It("says when the upstream is away, keeps what it has, and goes on when it is back", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1")
		mirror := of(ctx, team, organization)
		eventuallyMirror(ctx, mirror, beSynced())
		up.kill()
		syncNow(ctx, mirror)
		eventuallyMirror(ctx, mirror, waitFor(registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed))
		Expect(here.digestIn(ctx, team+"/app", "v1")).To(Equal(digestOf("v1")))
		Eventually(func(ctx context.Context) ([]eventsv1.Event, error) {
			var list eventsv1.EventList
			err := admin.List(ctx, &list, client.InNamespace(team))
			return list.Items, err
		}).WithContext(ctx).Should(ContainElement(And(HaveField("Reason", controllers.EventSyncFailed), HaveField("Type", corev1.EventTypeWarning))))
		up.launch(ctx)
		syncNow(ctx, mirror)
		eventuallyMirror(ctx, mirror, beSynced())
	})

	It("goes on as an orphan if its finalizer is removed by hand, which a mirror of the same name takes over", func(ctx context.Context) {
		team := newTeam(ctx)
		organization := up.organizationWith(ctx, "v1")
		mirror := of(ctx, team, organization)
		eventuallyMirror(ctx, mirror, beSynced())
		uuid := mirror.Status.MirrorUUID
		Eventually(func(g Gomega, ctx context.Context) {
			// The operator is quick; it must not see the deletion before the finalizer is gone.
			here.stop()
			g.Expect(client.IgnoreNotFound(admin.Delete(ctx, mirror))).To(Succeed())
			removeFinalizers(ctx, mirror)
		}).WithContext(ctx).Should(Succeed())
		here.start()
		Eventually(func(ctx context.Context) (string, error) {
			got, err := here.call(ctx, http.MethodGet, "/api/v1/organization/"+team+"/mirror", "", nil)
			return got.Body, err
		}).WithContext(ctx).Should(MatchRegexp(`"orphaned":\s*true`))
		Expect(here.tryPush(ctx, team+"/app", "mine", "mine").Status).To(Equal(http.StatusForbidden))

		again := of(ctx, team, organization)
		eventuallyMirror(ctx, again, And(beSynced(), HaveField("Status.MirrorUUID", uuid)))
	})
})
