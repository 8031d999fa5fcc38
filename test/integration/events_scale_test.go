package integration

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
)

// soak chooses between the short and the long form of a test, which `make soak` runs.
func soak[T any](short, long T) T {
	if os.Getenv("TIDELOCK_SOAK") != "" {
		return long
	}
	return short
}

// apiServer is a second kube-apiserver over the cluster's etcd, which a test can kill, and start again.
type apiServer struct {
	args    []string
	host    string
	session *gexec.Session
}

func startAPIServer(ctx context.Context, flags ...string) *apiServer {
	GinkgoHelper()
	first := cluster.ControlPlane.GetAPIServer()
	file := func(name string) string { return filepath.Join(first.CertDir, name) }
	port := freePort()
	s := &apiServer{host: fmt.Sprintf("https://127.0.0.1:%d", port), args: append([]string{
		"--etcd-servers=" + first.EtcdURL.String(), "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + file("apiserver.crt"), "--tls-private-key-file=" + file("apiserver.key"), "--client-ca-file=" + file("client-cert-auth-ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + file("sa-signer.crt"), "--service-account-signing-key-file=" + file("sa-signer.key"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount",
	}, flags...)}
	s.start(ctx)
	DeferCleanup(func() { s.session.Kill().Wait(timeout) })
	return s
}

// start starts it and waits until it answers.
func (s *apiServer) start(ctx context.Context) {
	GinkgoHelper()
	var err error
	s.session, err = gexec.Start(exec.Command(filepath.Join(assets(), "kube-apiserver"), s.args...), GinkgoWriter, GinkgoWriter)
	Expect(err).NotTo(HaveOccurred())
	Eventually(s.get).WithArguments("/readyz").WithContext(ctx).WithTimeout(longTimeout).Should(Equal("ok"))
}

func (s *apiServer) kill() { s.session.Kill().Wait(timeout) }

// get reads a page of it as the cluster's administrator.
func (s *apiServer) get(ctx context.Context, path string) (string, error) {
	kube, err := kubernetes.NewForConfig(s.config(config))
	if err != nil {
		return "", err
	}
	content, err := kube.RESTClient().Get().AbsPath(path).DoRaw(ctx)
	return string(content), err
}

// config is the way of a user to this API server in place of the first one.
func (s *apiServer) config(user *rest.Config) *rest.Config {
	c := rest.CopyConfig(user)
	c.Host = s.host
	return c
}

// throttled is how many creations of Events it has answered with 429.
func (s *apiServer) throttled(ctx context.Context) int {
	GinkgoHelper()
	metrics, err := s.get(ctx, "/metrics")
	Expect(err).NotTo(HaveOccurred())
	return int(sum(metrics, "apiserver_request_total{", `code="429"`, `resource="events"`))
}

// sum adds the samples of a page of metrics that begin with a name and contain all of the labels.
func sum(metrics, name string, labels ...string) (total float64) {
	for lines := bufio.NewScanner(strings.NewReader(metrics)); lines.Scan(); {
		line := lines.Text()
		selected := strings.HasPrefix(line, name)
		for _, label := range labels {
			selected = selected && strings.Contains(line, label)
		}
		if selected {
			value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			Expect(err).NotTo(HaveOccurred())
			total += value
		}
	}
	return total
}

// fill pushes one image under n tags v0, v1, … of a repository, several at once.
func (r *testRegistry) fill(ctx context.Context, repository string, n int) {
	GinkgoHelper()
	r.prepare(ctx, repository)
	image := manifest("filled")
	var pushes errgroup.Group
	pushes.SetLimit(32)
	for i := range n {
		pushes.Go(func() error {
			got, err := r.call(ctx, http.MethodPut, fmt.Sprintf("/v2/%s/manifests/v%d", repository, i), imagespec.MediaTypeImageManifest, image)
			if err == nil && got.Status != http.StatusCreated {
				err = fmt.Errorf("pushing tag v%d: %d %s", i, got.Status, got.Body)
			}
			return err
		})
	}
	Expect(pushes.Wait()).To(Succeed())
}

// eventIndices lists the indices in the audit log of the Events about a policy, one for each Event, read in pages.
func eventIndices(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, namespaces ...string) (indices []int64, err error) {
	for _, namespace := range append(namespaces, policy.Namespace) {
		var list eventsv1.EventList
		for more := true; more; more = list.Continue != "" {
			err := admin.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"reportingController": controllers.EventController},
				client.Limit(1000), client.Continue(list.Continue))
			if err != nil {
				return nil, err
			}
			for _, event := range list.Items {
				if event.Regarding.UID != policy.UID {
					continue
				}
				if event.Series != nil {
					return nil, fmt.Errorf("the Event %s counts others", event.Name)
				}
				index, err := strconv.ParseInt(event.Annotations[controllers.AuditIndexAnnotation], 10, 64)
				if err != nil {
					return nil, err
				}
				indices = append(indices, index)
			}
		}
	}
	return indices, nil
}

// countEvents counts the Events in a policy's namespace, without reading them all.
func countEvents(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (int64, error) {
	var list eventsv1.EventList
	err := admin.List(ctx, &list, client.InNamespace(policy.Namespace), client.Limit(1))
	return int64(len(list.Items)) + ptr.Deref(list.RemainingItemCount, 0), err
}

// expectOneEventForEachEntry compares the Events about a policy with the audit log: one for each of n entries that say
// that a tag was locked.
func expectOneEventForEachEntry(ctx context.Context, r *testRegistry, policy *registryv1alpha1.ImmutabilityPolicy, n int, namespaces ...string) {
	GinkgoHelper()
	registry := newRegistryClient(r)
	entries := map[int64]int{}
	for after := int64(-1); ; {
		segment, err := registry.PolicyLog(ctx, policy.Status.PolicyUUID, after, 500)
		Expect(err).NotTo(HaveOccurred())
		for _, entry := range segment.Entries {
			after = entry.Index
			if entry.Kind == "change_tag_immutability" || entry.Kind == "tag_created_immutable_by_policy" {
				entries[entry.Index] = 1
			}
		}
		if len(segment.Entries) < 500 {
			break
		}
	}
	Expect(entries).To(HaveLen(n))
	indices, err := eventIndices(ctx, policy, namespaces...)
	Expect(err).NotTo(HaveOccurred())
	events := map[int64]int{}
	for _, index := range indices {
		events[index]++
	}
	var wrong []string
	for index := range entries {
		if events[index] != 1 {
			wrong = append(wrong, fmt.Sprintf("entry %d has %d Events", index, events[index]))
		}
	}
	Expect(wrong).To(BeEmpty())
	Expect(indices).To(HaveLen(n))
}

// haveAllEvents matches a policy of which each entry has become an Event.
func haveAllEvents(n int) OmegaMatcher {
	return And(beReady(), HaveField("Status.Events", HaveValue(And(HaveField("Emitted", int64(n)), HaveField("Pending", int64(0)), HaveField("Rate", BeNil())))))
}

// awaitEvents waits until a policy's status says that all Events are there. An API server may be away meanwhile.
func awaitEvents(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, n int) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		g.Expect(admin.Get(ctx, key(policy), policy)).To(Succeed())
		g.Expect(policy).To(haveAllEvents(n))
	}).WithContext(ctx).WithTimeout(soak(longTimeout, 20*time.Minute)).Should(Succeed())
}

// awaitSome waits until at least so many Events are there, and checks that they are not all.
func awaitSome(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, some, all int) {
	GinkgoHelper()
	Eventually(countEvents).WithArguments(policy).WithContext(ctx).WithTimeout(soak(longTimeout, 20*time.Minute)).Should(BeNumerically(">=", some))
	Expect(countEvents(ctx, policy)).To(BeNumerically("<", all), "the test was too late to show anything")
}

var _ = Describe("Events", func() {
	slowly := func(perSecond float64) func(*controllers.Options) {
		return func(o *controllers.Options) {
			o.EventPace = controllers.EventPace{Burst: 1_000_000, BurstRate: perSecond, Rate: 40}
		}
	}

	It("are neither lost nor doubled while the API server answers 429", func(ctx context.Context) {
		tags := soak(300, 3000)
		r := startRegistry()
		// Two writes at a time: the projector alone would have many more under way.
		server := startAPIServer(ctx, "--enable-priority-and-fairness=false", "--max-mutating-requests-inflight=2")
		runOperator(ctx, r, newManagerAt(server.config(operatorConfig())), slowly(1000))
		team := newTeam(ctx)
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		awaitEvents(ctx, policy, tags)
		expectOneEventForEachEntry(ctx, r, policy, tags)
		Expect(server.throttled(ctx)).To(BeNumerically(">", 0), "nothing was throttled")
	})

	It("are neither lost nor doubled while the API server is killed and started again", func(ctx context.Context) {
		tags := soak(2000, 20_000)
		r := startRegistry()
		server := startAPIServer(ctx)
		runOperator(ctx, r, newManagerAt(server.config(operatorConfig())), slowly(400))
		team := newTeam(ctx)
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		for round := range 2 {
			awaitSome(ctx, policy, (round+1)*tags/4, tags)
			server.kill()
			server.start(ctx)
		}
		awaitEvents(ctx, policy, tags)
		expectOneEventForEachEntry(ctx, r, policy, tags)
	})

	It("are made once by two operators that both take themselves for the leader", func(ctx context.Context) {
		tags := soak(2000, 20_000)
		r := startRegistry()
		team := newTeam(ctx)
		runOperator(ctx, r, newManager(), slowly(400))
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		awaitSome(ctx, policy, tags/4, tags)
		stop := runOperator(ctx, r, newManager(), slowly(500))
		awaitSome(ctx, policy, tags/2, tags)
		stop()
		awaitEvents(ctx, policy, tags)
		expectOneEventForEachEntry(ctx, r, policy, tags)
	})

	It("are neither lost nor doubled when one leader follows the other", func(ctx context.Context) {
		const leaders = 4
		tags := soak(2000, 20_000)
		r := startRegistry()
		next := func() func() {
			return runOperator(ctx, r, newManager(func(o *ctrl.Options) {
				o.LeaderElection, o.LeaderElectionID, o.LeaderElectionNamespace, o.LeaderElectionReleaseOnCancel = true, "events-scale", operatorNamespace, true
				o.LeaseDuration, o.RenewDeadline, o.RetryPeriod = ptr.To(20*time.Second), ptr.To(15*time.Second), ptr.To(100*time.Millisecond)
			}), slowly(400))
		}
		stop := next()
		team := newTeam(ctx)
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		for leader := 1; leader < leaders; leader++ {
			follower := next()
			awaitSome(ctx, policy, leader*tags/(leaders+1), tags)
			stop()
			stop = follower
		}
		awaitEvents(ctx, policy, tags)
		expectOneEventForEachEntry(ctx, r, policy, tags)
	})

	It("of a sweep of many tags are neither lost nor doubled while the API server and the leading operator are killed", func(ctx context.Context) {
		tags := soak(4000, 100_000)
		r := startRegistry()
		server := startAPIServer(ctx)
		newOperator := func() (*operatorProcess, string) {
			address := fmt.Sprintf("127.0.0.1:%d", freePort())
			p := newProcess(server.config(config), "--registry-url", r.url, "--operator-token-file", r.config.OperatorTokenFile, "--metrics-bind-address", address)
			return p, "http://" + address + "/metrics"
		}
		leader, _ := newOperator()
		leader.start()
		team := newTeam(ctx)
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		awaitSome(ctx, policy, tags/8, tags)
		standby, metrics := newOperator()
		standby.start()
		awaitSome(ctx, policy, tags/4, tags)
		leader.session.Kill().Wait(timeout)
		awaitSome(ctx, policy, tags/2, tags)
		server.kill()
		server.start(ctx)

		var memory float64
		Eventually(func(g Gomega, ctx context.Context) {
			if standby.session.ExitCode() >= 0 {
				standby.start() // it could not renew its lease in time; a Pod is started again as well
			}
			page, err := read(ctx, metrics)
			g.Expect(err).NotTo(HaveOccurred())
			memory = max(memory, sum(page, "process_resident_memory_bytes "))
			g.Expect(admin.Get(ctx, key(policy), policy)).To(Succeed())
			g.Expect(policy).To(haveAllEvents(tags))
			g.Expect(sum(page, "tidelock_events_backlog_entries ")).To(BeZero())
			g.Expect(sum(page, "tidelock_events_emitted_total{", `reason="TagLocked"`)).To(BeNumerically(">", 0))
		}).WithContext(ctx).WithTimeout(soak(longTimeout, 20*time.Minute)).Should(Succeed())
		expectOneEventForEachEntry(ctx, r, policy, tags)
		AddReportEntry("the operator's memory at most", fmt.Sprintf("%.0f MiB", memory/(1<<20)))
		Expect(memory).To(And(BeNumerically(">", 0), BeNumerically("<", 256<<20)))
	})

	DescribeTable("go into the operator's namespace, about the same object, and hold up nothing, when a namespace in the middle of its sweep",
		func(ctx context.Context, remove func(context.Context, *corev1.Namespace)) {
			tags := soak(1000, 20_000)
			r := startRegistry()
			runOperator(ctx, r, newManager(), slowly(400))
			team, other := newTeam(ctx), newTeam(ctx)
			r.fill(ctx, team+"/app", tags)
			r.fill(ctx, other+"/app", 10)
			policy := create(ctx, newPolicy(team))
			eventually(ctx, policy, beReady())
			awaitSome(ctx, policy, tags/4, tags)
			Expect(admin.Get(ctx, key(policy), policy)).To(Succeed()) // its UUID, before it is gone
			remove(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team}})
			behind := create(ctx, newPolicy(other))
			awaitEvents(ctx, behind, 10)
			expectOneEventForEachEntry(ctx, r, behind, 10)
			expectOneEventForEachEntry(ctx, r, policy, tags, operatorNamespace)
			Expect(countEvents(ctx, policy)).To(BeNumerically("<", tags), "none went elsewhere")
		},
		Entry("is ending", func(ctx context.Context, n *corev1.Namespace) { Expect(admin.Delete(ctx, n)).To(Succeed()) }),
		Entry("is gone", func(ctx context.Context, n *corev1.Namespace) {
			Expect(admin.Delete(ctx, n)).To(Succeed())
			// What the namespace controller would do in the end.
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(n), n)).To(Succeed())
			n.Spec.Finalizers = nil
			Expect(admin.SubResource("finalize").Update(ctx, n)).To(Succeed())
			Eventually(admin.Get).WithArguments(client.ObjectKeyFromObject(n), n).WithContext(ctx).Should(MatchError(ContainSubstring("not found")))
		}),
	)

	DescribeTable("that something in a namespace refuses hold up nothing", func(ctx context.Context, reason metav1.StatusReason, elsewhere int) {
		const tags = 50
		r := startRegistry()
		runOperator(ctx, r, newManager())
		team := newTeam(ctx)
		refuseEvents(ctx, team, reason)
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		awaitEvents(ctx, policy, tags)
		Expect(countEvents(ctx, policy)).To(BeZero())
		indices, err := eventIndices(ctx, policy, operatorNamespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(indices).To(HaveLen(elsewhere))
	},
		Entry("as forbidden: they go into the operator's", metav1.StatusReasonForbidden, 50),
		Entry("as invalid: they are counted, and stay in the audit log", metav1.StatusReasonInvalid, 0),
	)

	It("are one for each sweep where the policy asks for summaries, and one for each refusal all the same", func(ctx context.Context) {
		const tags = 700
		r := startRegistry()
		startOperator(ctx, r)
		team := newTeam(ctx)
		r.fill(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team, events(registryv1alpha1.EventsSummary)))
		awaitEvents(ctx, policy, 1)
		r.push(ctx, team+"/app", "v-later", "v9999")
		r.tryPush(ctx, team+"/app", "v9999", "other")
		awaitEvents(ctx, policy, 2)
		Expect(policy.Status.Locked).To(HaveValue(BeEquivalentTo(tags + 1)))
		list, err := eventsOf(ctx, policy)
		Expect(err).NotTo(HaveOccurred())
		Expect(list).To(ConsistOf(
			And(HaveField("Reason", "TagsLocked"), HaveField("Note", And(
				HavePrefix(`tags in `+team+` locked by pattern v[\d.]+: 700 (app:v0, app:v1, `), HaveSuffix(" and 690 more)")))),
			And(HaveField("Reason", "PushRefused"), HaveField("Note", ContainSubstring(team+"/app:v9999"))),
		))

		revision := policy.Status.Revision
		change(ctx, policy, events(registryv1alpha1.EventsPerTag))
		eventually(ctx, policy, And(beReady(), HaveField("Status.ObservedGeneration", policy.Generation), HaveField("Status.Revision", revision)))
		r.push(ctx, team+"/app", "v10000")
		awaitEvents(ctx, policy, 3)
	})
})

// refuseEvents lets the API server refuse the operator's Events in a namespace, and waits until it does.
func refuseEvents(ctx context.Context, namespace string, reason metav1.StatusReason) {
	GinkgoHelper()
	name := metav1.ObjectMeta{Name: "no-events-in-" + namespace}
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: name, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{"events.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"events"}},
		}}}},
		Validations: []admissionv1.Validation{{Expression: fmt.Sprintf("object.metadata.namespace != %q", namespace), Reason: &reason}},
	}}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: name, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: name.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}}
	for _, object := range []client.Object{policy, binding} {
		Expect(admin.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, object)).To(Succeed()) })
	}
	Eventually(func(ctx context.Context) error {
		return admin.Create(ctx, &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "probe-"}, EventTime: metav1.NowMicro(), Reason: "Probe", Action: "Probe", Type: "Normal",
			ReportingController: "registry.tidelock.dev/test", ReportingInstance: "test", Regarding: corev1.ObjectReference{Namespace: namespace, Name: "x"},
		}, client.DryRunAll)
	}).WithContext(ctx).Should(MatchError(ContainSubstring(name.Name)))
}

// read reads a page over HTTP.
func read(ctx context.Context, url string) (string, error) {
	page, err := (&testRegistry{url: url}).call(ctx, http.MethodGet, "", "", nil)
	return page.Body, err
}
