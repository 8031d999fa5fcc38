package integration

import (
	"context"
	"fmt"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/controllers"
)

// eventsIn lists the operator's Events of a namespace.
func eventsIn(ctx context.Context, namespace string) ([]eventsv1.Event, error) {
	var list eventsv1.EventList
	err := admin.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"reportingController": controllers.EventController})
	return list.Items, err
}

// eventsOf lists the Events about a policy.
func eventsOf(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) ([]eventsv1.Event, error) {
	all, err := eventsIn(ctx, policy.Namespace)
	var list []eventsv1.Event
	for _, event := range all {
		if event.Regarding.UID == policy.UID {
			list = append(list, event)
		}
	}
	return list, err
}

// pushMany pushes tags v0, v1, … to a repository.
func (r *testRegistry) pushMany(ctx context.Context, repository string, n int) {
	GinkgoHelper()
	for i := range n {
		r.push(ctx, repository, fmt.Sprintf("v%d", i))
	}
}

// expectOneEventForEachTag checks that the tags v0, v1, … have exactly one Event each, none of them counting others.
func expectOneEventForEachTag(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, repository string, n int) {
	GinkgoHelper()
	events, err := eventsOf(ctx, policy)
	Expect(err).NotTo(HaveOccurred())
	notes := map[string]bool{}
	indices := map[string]bool{}
	for _, event := range events {
		Expect(event.Series).To(BeNil())
		notes[event.Note] = true
		indices[event.Annotations[controllers.AuditIndexAnnotation]] = true
	}
	for i := range n {
		tag := fmt.Sprintf("v%d", i)
		Expect(notes).To(HaveKey(fmt.Sprintf("%s:%s is locked at %s by pattern %s", repository, tag, digestOf(tag), policy.Spec.TagPattern)))
	}
	Expect(events).To(HaveLen(n))
	Expect(notes).To(HaveLen(n))
	Expect(indices).To(HaveLen(n))
}

var _ = Describe("The projector", Ordered, ContinueOnFailure, func() {
	var registry *testRegistry

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		startOperator(ctx, registry)
	})

	It("makes exactly one Event for each of 1,000 tags that a policy locks retroactively", func(ctx context.Context) {
		const tags = 1000
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		registry.pushMany(ctx, team+"/app", tags)
		policy := create(ctx, newPolicy(team))
		awaitEvents(ctx, policy, tags)
		expectOneEventForEachTag(ctx, policy, team+"/app", tags)
	})

	It("says in an Event what happened to which tag, by which policy", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		before := time.Now().Add(-time.Second)
		registry.push(ctx, team+"/app", "v1")
		registry.tryPush(ctx, team+"/app", "v1", "other")
		registry.tryPush(ctx, team+"/app", "v1", "other") // a repeat is counted, and is no Event
		registry.remove(ctx, team+"/app", digestOf("v1"))

		var events []eventsv1.Event
		Eventually(func(g Gomega, ctx context.Context) {
			var err error
			events, err = eventsOf(ctx, policy)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(events).To(ConsistOf(
				And(HaveField("Type", "Normal"), HaveField("Reason", "TagLocked"), HaveField("Action", "Push"),
					HaveField("Note", fmt.Sprintf(`%s/app:v1 was pushed and is locked at %s by pattern v[\d.]+`, team, digestOf("v1")))),
				And(HaveField("Type", "Warning"), HaveField("Reason", "PushRefused"), HaveField("Action", "Push"),
					HaveField("Note", And(HavePrefix("refused user admin to overwrite "+team+"/app:v1: "), HaveSuffix("; attempted "+digestOf("other"))))),
				And(HaveField("Type", "Warning"), HaveField("Reason", "DeleteRefused"), HaveField("Action", "Delete"),
					HaveField("Note", HavePrefix("refused user admin to delete "+team+"/app:v1: "))),
			))
		}).WithContext(ctx).Should(Succeed())
		for _, event := range events {
			Expect(event.Regarding).To(Equal(corev1.ObjectReference{
				APIVersion: "registry.tidelock.dev/v1alpha1", Kind: "ImmutabilityPolicy", Namespace: team, Name: policy.Name, UID: policy.UID,
			}))
			Expect(event.ReportingInstance).To(Equal("test"))
			Expect(event.EventTime.Time).To(BeTemporally("~", before, time.Minute))
		}
		output, err := kubectl(ctx, "-n", team, "events", "--for", "immutabilitypolicy/releases")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("TagLocked"))
	})

	It("tells of policies that no object declares at the operator's workload", func(ctx context.Context) {
		organization := newNamespace(ctx).Name // the name only
		registry.prepare(ctx, organization+"/app")
		created, err := registry.call(ctx, http.MethodPost, "/api/v1/organization/"+organization+"/immutabilitypolicy/", "application/json", []byte(`{"tagPattern":"v.*"}`))
		Expect(err).NotTo(HaveOccurred())
		Expect(created.Status).To(Equal(http.StatusCreated), created.Body)
		registry.push(ctx, organization+"/app", "v1")
		Eventually(eventsIn).WithArguments(operatorNamespace).WithContext(ctx).Should(ContainElement(And(
			HaveField("Note", ContainSubstring(organization+"/app:v1")),
			HaveField("Regarding", And(HaveField("Kind", "StatefulSet"), HaveField("Name", "tidelock"), HaveField("Namespace", operatorNamespace))),
		)))
	})

	It("puts Events about a namespace that ends into the operator's", func(ctx context.Context) {
		team := newTeam(ctx)
		registry.prepare(ctx, team+"/app")
		policy := create(ctx, newPolicy(team))
		eventually(ctx, policy, beReady())
		Expect(admin.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team}})).To(Succeed())
		registry.push(ctx, team+"/app", "v1")
		Eventually(eventsIn).WithArguments(operatorNamespace).WithContext(ctx).Should(ContainElement(And(
			HaveField("Note", ContainSubstring(team+"/app:v1")),
			HaveField("Regarding", And(HaveField("Namespace", team), HaveField("UID", policy.UID))),
		)))
	})
})
