package integration

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

// publishing has checkpoints published as soon as the log has grown, but for a moment.
func publishing(o *controllers.Options) { o.Checkpoints.Interval = 300 * time.Millisecond }

// checkpoints lists the published checkpoints, by the ConfigMap's name.
func checkpoints(ctx context.Context) (map[string]audit.Checkpoint, error) {
	var list corev1.ConfigMapList
	if err := admin.List(ctx, &list, client.InNamespace(operatorNamespace), client.HasLabels{controllers.CheckpointLabel}); err != nil {
		return nil, err
	}
	found := map[string]audit.Checkpoint{}
	for _, object := range list.Items {
		known, err := audit.ParsePublicKeys([]byte(object.Data["publicKeys"]))
		if err != nil {
			return nil, err
		}
		if found[object.Name], _, err = audit.OpenCheckpoint([]byte(object.Data["checkpoint"]), known); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// longest is the published checkpoint with the most entries.
func longest(ctx context.Context) (last audit.Checkpoint, err error) {
	all, err := checkpoints(ctx)
	for _, c := range all {
		if c.Size > last.Size {
			last = c
		}
	}
	return last, err
}

// published waits until a checkpoint of the whole log is published, whatever was before, and returns it.
func (r *testRegistry) published(ctx context.Context) (last audit.Checkpoint) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		got, err := newRegistryClient(r).Checkpoint(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		last, err = audit.ParseCheckpoint(string(got))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(longest(ctx)).To(Equal(last))
	}).WithContext(ctx).Should(Succeed())
	return last
}

// removeCheckpoints removes all checkpoints at the end of a test, with the guard out of the way.
func removeCheckpoints(ctx context.Context) {
	GinkgoHelper()
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{}
	Expect(admin.Get(ctx, client.ObjectKey{Name: "tidelock-checkpoints"}, binding)).To(Succeed())
	Expect(admin.Delete(ctx, binding)).To(Succeed())
	Eventually(func(ctx context.Context) error {
		return admin.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(operatorNamespace), client.HasLabels{controllers.CheckpointLabel})
	}).WithContext(ctx).Should(Succeed())
	Expect(admin.Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: binding.Name, Labels: binding.Labels}, Spec: binding.Spec})).To(Succeed())
	guarded(ctx)
}

// guarded waits until the API server enforces the guard of the checkpoints.
func guarded(ctx context.Context) {
	GinkgoHelper()
	Eventually(func(g Gomega, ctx context.Context) {
		g.Expect(admin.Create(ctx, checkpointObject("probe", controllers.CheckpointLatest), client.DryRunAll)).To(MatchError(ContainSubstring("only the operator publishes")))
	}).WithContext(ctx).Should(Succeed())
}

// inconsistencies lists the Events that tell of an inconsistent log.
func inconsistencies(ctx context.Context) (found []eventsv1.Event, err error) {
	var list eventsv1.EventList
	err = admin.List(ctx, &list, client.InNamespace(operatorNamespace))
	for _, event := range list.Items {
		if event.Reason == controllers.EventAuditLogInconsistent {
			found = append(found, event)
		}
	}
	return found, err
}

func removeInconsistencies(ctx context.Context) {
	GinkgoHelper()
	events, err := inconsistencies(ctx)
	Expect(err).NotTo(HaveOccurred())
	for i := range events {
		Expect(admin.Delete(ctx, &events[i])).To(Succeed())
	}
}

func haveLogCondition(status metav1.ConditionStatus, reason string) OmegaMatcher {
	return HaveField("Status.Conditions", ContainElement(And(HaveField("Type", registryv1alpha1.ConditionAuditLogConsistent), HaveField("Status", status), HaveField("Reason", reason))))
}

var _ = Describe("Published checkpoints", Serial, func() {
	var registry *testRegistry
	var team string
	var policy *registryv1alpha1.ImmutabilityPolicy

	BeforeEach(func(ctx context.Context) {
		guarded(ctx)
		registry = startRegistry()
		DeferCleanup(removeInconsistencies)
		DeferCleanup(removeCheckpoints)
	})
	start := func(ctx context.Context) (stop func()) {
		GinkgoHelper()
		return startOperator(ctx, registry, publishing)
	}
	prepare := func(ctx context.Context) (stop func()) {
		GinkgoHelper()
		stop = start(ctx)
		team = newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		policy = create(ctx, newPolicy(team))
		eventually(ctx, policy, And(HaveField("Status.Conditions", ContainElement(And(HaveField("Type", "Ready"), HaveField("Status", metav1.ConditionTrue)))), haveLogCondition(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent)))
		Expect(registry.tryPush(ctx, team+"/app", "v1", "one").Status).To(Equal(http.StatusCreated))
		return stop
	}
	data := func() string { return registry.config.DataDir }
	fork := func(reason string) (string, error) {
		return execute(exec.Command(binary("tidelock"), "audit", "fork", "--data-dir", data(), "--reason", reason))
	}

	It("follow the log, across restarts of the operator and the registry", func(ctx context.Context) {
		stop := prepare(ctx)
		first := registry.published(ctx)
		stop()
		registry.tryPush(ctx, team+"/app", "v2", "two")
		Consistently(longest).WithContext(ctx).WithTimeout(time.Second).Should(Equal(first))
		registry.stop()
		registry.start()
		start(ctx)
		second := registry.published(ctx)
		Expect(second.Size).To(BeNumerically(">", first.Size))
		Expect(second.Origin).To(Equal(first.Origin))
		Expect(inconsistencies(ctx)).To(BeEmpty())

		By("keeping the first one of the day, which not even the operator can remove")
		var list corev1.ConfigMapList
		Expect(admin.List(ctx, &list, client.InNamespace(operatorNamespace), client.MatchingLabels{controllers.CheckpointLabel: controllers.CheckpointDaily})).To(Succeed())
		Expect(list.Items).To(HaveExactElements(HaveField("Immutable", HaveValue(BeTrue()))))
		operator, err := client.New(operatorConfig(), client.Options{Scheme: scheme})
		Expect(err).NotTo(HaveOccurred())
		Expect(operator.Delete(ctx, &list.Items[0])).To(MatchError(ContainSubstring("is removed by nobody")))
	})

	It("contradict a log that was changed in the database, down to the tree", func(ctx context.Context) {
		stop := prepare(ctx)
		before := registry.published(ctx)
		stop()
		registry.stop()
		// The registry makes the tree anew when it starts.
		for _, statement := range []string{`UPDATE audit_entries SET leaf = (SELECT leaf FROM audit_entries WHERE idx = 1) WHERE idx = 0`, `DELETE FROM audit_tiles`} {
			Expect(metatest.Tamper(ctx, data(), statement)).To(Succeed())
		}
		registry.start()
		start(ctx)
		eventually(ctx, policy, haveLogCondition(metav1.ConditionFalse, registryv1alpha1.ReasonLogChanged))
		Eventually(inconsistencies).WithContext(ctx).Should(HaveLen(1))
		Expect(inconsistencies(ctx)).To(HaveExactElements(And(HaveField("Type", "Warning"), HaveField("Regarding.Kind", "StatefulSet"), HaveField("Regarding.Name", "tidelock"),
			HaveField("Note", ContainSubstring("The registry's audit log was changed")))))

		refused := registry.tryPush(ctx, team+"/app", "v2", "two")
		Expect(refused.Status).To(Equal(http.StatusServiceUnavailable))
		Expect(refused.Body).To(And(ContainSubstring("the registry is read-only"), ContainSubstring("tidelock audit fork --reason")))
		got, err := registry.call(ctx, http.MethodGet, "/v2/"+team+"/app/manifests/v1", "", nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Status).To(Equal(http.StatusOK), "pulls go on")
		Consistently(longest).WithContext(ctx).WithTimeout(time.Second).Should(Equal(before))
		Consistently(inconsistencies).WithContext(ctx).WithTimeout(time.Second).Should(HaveLen(1))
	})

	It("stop a registry that was restored from a backup, till a fork explains it", func(ctx context.Context) {
		stop := prepare(ctx)
		registry.published(ctx)
		stop()
		registry.stop()
		backup := filepath.Join(GinkgoT().TempDir(), "backup")
		Expect(os.CopyFS(backup, os.DirFS(data()))).To(Succeed())
		registry.start()
		stop = start(ctx)
		Eventually(func() answer { return registry.tryPush(ctx, team+"/app", "v2", "two") }).Should(HaveField("Status", http.StatusCreated))
		published := registry.published(ctx)
		registry.stop()
		Expect(os.RemoveAll(data())).To(Succeed())
		Expect(os.CopyFS(data(), os.DirFS(backup))).To(Succeed())
		registry.start()

		By("refusing writes, whether the operator was away or not")
		eventually(ctx, policy, haveLogCondition(metav1.ConditionFalse, registryv1alpha1.ReasonLogRegressed))
		Expect(registry.tryPush(ctx, team+"/app", "v3", "three")).To(And(HaveField("Status", http.StatusServiceUnavailable), HaveField("Body", ContainSubstring("tidelock audit fork"))))
		Expect(registry.call(ctx, http.MethodGet, "/metrics", "", nil)).To(HaveField("Body", ContainSubstring("\ntidelock_registry_read_only 1\n")))
		output, err := fork("too early")
		Expect(err).To(HaveOccurred(), "the registry runs")
		Expect(output).To(ContainSubstring("is in use by another registry"))
		stop()
		registry.stop()
		registry.start()
		Expect(registry.tryPush(ctx, team+"/app", "v3", "three").Status).To(Equal(http.StatusServiceUnavailable), "it knows by itself")
		registry.stop()

		By("forking the log")
		output, err = fork("restored the backup of Friday")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("begins the origin tidelock/"))
		registry.start()
		start(ctx)
		eventually(ctx, policy, haveLogCondition(metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent))
		Eventually(func() answer { return registry.tryPush(ctx, team+"/app", "v3", "three") }).Should(HaveField("Status", http.StatusCreated))
		var again audit.Checkpoint
		Eventually(func(g Gomega, ctx context.Context) {
			all, err := checkpoints(ctx)
			g.Expect(err).NotTo(HaveOccurred())
			for _, c := range all {
				if c.Origin != published.Origin && c.Size > again.Size {
					again = c
				}
			}
			g.Expect(again.Size).NotTo(BeZero())
		}).WithContext(ctx).Should(Succeed())
		Expect(inconsistencies(ctx)).To(HaveLen(1))

		By("verifying the log against what was published before")
		var object corev1.ConfigMap
		all, err := checkpoints(ctx)
		Expect(err).NotTo(HaveOccurred())
		for name, c := range all {
			if c == published {
				Expect(admin.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: name}, &object)).To(Succeed())
			}
		}
		dir := GinkgoT().TempDir()
		file := func(name, content string) string {
			path := filepath.Join(dir, name)
			Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
			return path
		}
		export := filepath.Join(dir, "export.jsonl")
		_, err = execute(exec.CommandContext(ctx, binary("tidelock"), "audit", "export", "--registry", registry.url, "--password-file", registry.config.AdminPasswordFile, "--output", export))
		Expect(err).NotTo(HaveOccurred())
		output, err = execute(exec.CommandContext(ctx, binary("tidelock"), "audit", "verify", "--public-key", file("key", object.Data["publicKeys"]),
			"--against", file("published", object.Data["checkpoint"]), export))
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("restored the backup of Friday"))
	})
})
