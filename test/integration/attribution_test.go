package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	gomegatypes "github.com/onsi/gomega/types"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/webhooks"
)

var _ = Describe("Attribution", Ordered, ContinueOnFailure, func() {
	var (
		registry            *testRegistry
		stopOperator        func()
		hooks               *envtest.WebhookInstallOptions
		team                string
		alice, bob, mallory client.Client
	)
	stamp := func(user string, generation int) string {
		return fmt.Sprintf(`{"generation":%d,"username":%q,"uid":%q}`, generation, user, user+"-uid")
	}
	stamped := func(policy *registryv1alpha1.ImmutabilityPolicy) string {
		return policy.Annotations[registryv1alpha1.AppliedByAnnotation]
	}
	// eventuallyStamped waits until the API server has taken notice that the webhooks are there, or are not.
	eventuallyStamped := func(ctx context.Context, expected string) {
		GinkgoHelper()
		Eventually(func(g Gomega, ctx context.Context) {
			probe := newPolicy(metav1.NamespaceDefault)
			g.Expect(alice.Create(ctx, probe, client.DryRunAll)).To(Succeed())
			g.Expect(stamped(probe)).To(Equal(expected))
		}).WithContext(ctx).Should(Succeed())
	}
	runOperator := func(ctx context.Context) {
		GinkgoHelper()
		mgr := newManager()
		setUpControllers(ctx, mgr, newRegistryClient(registry))
		stopOperator = inBackground(mgr.Start)
	}
	install := func(ctx context.Context) {
		GinkgoHelper()
		Expect(admin.Create(ctx, hooks.MutatingWebhooks[0].DeepCopy())).To(Succeed())
		Expect(admin.Create(ctx, hooks.ValidatingWebhooks[0].DeepCopy())).To(Succeed())
		eventuallyStamped(ctx, stamp("alice", 1))
	}
	uninstall := func(ctx context.Context) {
		GinkgoHelper()
		name := metav1.ObjectMeta{Name: webhooks.ConfigurationName}
		Expect(admin.Delete(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: name})).To(Succeed())
		Expect(admin.Delete(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: name})).To(Succeed())
		eventuallyStamped(ctx, "")
	}

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		// Webhooks and controllers are apart, as in two operators of which one leads: changes are admitted also while
		// nobody brings them to the registry.
		hooks = &envtest.WebhookInstallOptions{Paths: []string{filepath.Join(root, "config", "webhook", "manifests.yaml")}}
		Expect(hooks.PrepWithoutInstalling()).To(Succeed())
		DeferCleanup(hooks.Cleanup)
		server := webhook.NewServer(webhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir})
		mgr := newManager(func(o *ctrl.Options) { o.WebhookServer = server })
		Expect(webhooks.SetupImmutabilityPolicy(ctx, mgr, newRegistryClient(registry), 0)).To(Succeed())
		// Another's webhook, for those policies that ask for it.
		server.Register("/forge", &admission.Webhook{Handler: admission.HandlerFunc(forge)})
		DeferCleanup(inBackground(mgr.Start))
		runOperator(ctx)
		DeferCleanup(removeObjects)
		DeferCleanup(func() { stopOperator() })
		letAct(ctx, "alice", "bob", "mallory")
		alice, bob, mallory = as("alice"), as("bob"), as("mallory")
		install(ctx)
		DeferCleanup(uninstall)
	})

	BeforeEach(func(ctx context.Context) { team = newTeam(ctx) })

	// entries is what the log says of the team's policies themselves, the latest first.
	entries := func(ctx context.Context) (list []map[string]any) {
		GinkgoHelper()
		got, err := registry.call(ctx, http.MethodGet, "/api/v1/organization/"+team+"/logs?kind=create_immutability_policy&kind=update_immutability_policy", "", nil)
		Expect(err).NotTo(HaveOccurred())
		var log struct {
			Logs []struct {
				Metadata map[string]any `json:"metadata"`
			} `json:"logs"`
		}
		Expect(json.Unmarshal([]byte(got.Body), &log)).To(Succeed(), got.Body)
		for _, entry := range log.Logs {
			list = append(list, entry.Metadata)
		}
		return list
	}
	// enforced waits until the policy's latest spec is enforced, and returns what the latest entry says.
	enforced := func(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) map[string]any {
		GinkgoHelper()
		eventually(ctx, policy, beReady())
		list := entries(ctx)
		Expect(list).NotTo(BeEmpty())
		return list[0]
	}
	by := func(user string, generation int) gomegatypes.GomegaMatcher {
		return And(HaveKeyWithValue("applied_by", user), HaveKeyWithValue("applied_by_uid", user+"-uid"), HaveKeyWithValue("generation", float64(generation)))
	}
	unknown := func(generation int) gomegatypes.GomegaMatcher {
		return And(HaveKeyWithValue("applied_by", "unknown"), Not(HaveKey("applied_by_uid")), HaveKeyWithValue("generation", float64(generation)))
	}
	// patch changes a policy as a user.
	patch := func(ctx context.Context, user client.Client, policy *registryv1alpha1.ImmutabilityPolicy, changes ...policyChange) error {
		before := policy.DeepCopy()
		for _, f := range changes {
			f(policy)
		}
		return user.Patch(ctx, policy, client.MergeFrom(before))
	}
	annotated := func(key, value string) policyChange {
		return func(p *registryv1alpha1.ImmutabilityPolicy) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
	}
	forged := func(text string) policyChange { return annotated(registryv1alpha1.AppliedByAnnotation, text) }
	// forging has the other webhook forge the stamp, over ours.
	forging := func(text string) policyChange { return annotated("forge", text) }

	It("names who creates a policy and who changes it, and not who changes something else of it", func(ctx context.Context) {
		policy := newPolicy(team)
		Expect(alice.Create(ctx, policy)).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
		Expect(enforced(ctx, policy)).To(And(by("alice", 1), Not(HaveKey("unseen_generations"))))

		Expect(patch(ctx, bob, policy, annotated("a", "note"))).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)), "nor did the operator's finalizer and status")
		Expect(policy.Finalizers).To(ConsistOf(registryv1alpha1.Finalizer))
		Expect(patch(ctx, bob, policy, pattern("r.*"))).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("bob", 2)))
		Expect(enforced(ctx, policy)).To(And(by("bob", 2), HaveKeyWithValue("previous_tag_pattern", `v[\d.]+`), HaveKeyWithValue("tag_pattern", "r.*")))
		Expect(entries(ctx)).To(HaveLen(2))
	})

	It("cannot be edited, removed or forged", func(ctx context.Context) {
		policy := newPolicy(team, forged(stamp("bob", 1)))
		Expect(alice.Create(ctx, policy)).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
		Expect(patch(ctx, mallory, policy, forged(stamp("bob", 1)))).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
		eventually(ctx, policy, beReady())
		Expect(patch(ctx, mallory, policy, func(p *registryv1alpha1.ImmutabilityPolicy) { p.Annotations = nil })).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
		before := policy.DeepCopy()
		forged(stamp("bob", 1))(policy)
		Expect(mallory.Status().Patch(ctx, policy, client.MergeFrom(before))).To(MatchError(ContainSubstring("only the operator writes the status")))
		Expect(admin.Get(ctx, key(policy), policy)).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)), "by way of the status")
		Expect(patch(ctx, mallory, policy, forged(stamp("bob", 2)), pattern("r.*"))).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("mallory", 2)))
		Expect(enforced(ctx, policy)).To(by("mallory", 2))
	})

	It("holds against another mutating webhook, or the change is refused", func(ctx context.Context) {
		var ours admissionregistrationv1.MutatingWebhookConfiguration
		Expect(admin.Get(ctx, client.ObjectKey{Name: webhooks.ConfigurationName}, &ours)).To(Succeed())
		stamps := slices.IndexFunc(ours.Webhooks, func(w admissionregistrationv1.MutatingWebhook) bool {
			return strings.HasPrefix(w.Name, "stamps.immutabilitypolicies")
		})
		other := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "zz-another"}, Webhooks: ours.Webhooks[stamps : stamps+1]}
		hook := &other.Webhooks[0]
		hook.Name, hook.ClientConfig.URL = "forge.example.com", ptr.To(fmt.Sprintf("https://%s/forge", net.JoinHostPort(hooks.LocalServingHost, strconv.Itoa(hooks.LocalServingPort))))
		hook.ReinvocationPolicy = ptr.To(admissionregistrationv1.NeverReinvocationPolicy)
		Expect(admin.Create(ctx, other)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, other)).To(Succeed()) })
		Eventually(func(g Gomega, ctx context.Context) {
			probe := newPolicy(team, named("probe"), forging(stamp("bob", 1)))
			g.Expect(alice.Create(ctx, probe, client.DryRunAll)).To(Succeed())
			g.Expect(probe.Annotations).To(HaveKey("forged"), "the other webhook runs")
			g.Expect(stamped(probe)).To(Equal(stamp("alice", 1)), "ours ran again after it")
		}).WithContext(ctx).Should(Succeed())

		before := other.DeepCopy()
		other.Webhooks[0].ReinvocationPolicy = ptr.To(admissionregistrationv1.IfNeededReinvocationPolicy)
		Expect(admin.Patch(ctx, other, client.MergeFrom(before))).To(Succeed())
		Eventually(func(g Gomega, ctx context.Context) {
			err := alice.Create(ctx, newPolicy(team, forging(stamp("bob", 1))), client.DryRunAll)
			g.Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
			g.Expect(err).To(MatchError(ContainSubstring("admission has to leave " + stamp("alice", 1) + " here, which says who applied the spec")))
		}).WithContext(ctx).Should(Succeed())
		Expect(alice.Create(ctx, newPolicy(team))).To(Succeed(), "who does not ask for the other webhook")
	})

	It("is no concern of server-side apply: no conflict, no owner, and nothing to write the second time", func(ctx context.Context) {
		apply := func(user client.Client, manager, pattern string) *unstructured.Unstructured {
			GinkgoHelper()
			object := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": registryv1alpha1.GroupVersion.String(), "kind": "ImmutabilityPolicy",
				"metadata": map[string]any{"name": "releases", "namespace": team},
				"spec":     map[string]any{"tagPattern": pattern},
			}}
			Expect(user.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(manager))).To(Succeed())
			return object
		}
		created := apply(alice, "flux", "v.*")
		Expect(created.GetAnnotations()).To(HaveKeyWithValue(registryv1alpha1.AppliedByAnnotation, stamp("alice", 1)))
		policy := newPolicy(team)
		Expect(enforced(ctx, policy)).To(by("alice", 1))
		again := apply(bob, "flux", "v.*")
		Expect(again.GetResourceVersion()).To(Equal(policy.ResourceVersion))
		Expect(again.GetAnnotations()).To(HaveKeyWithValue(registryv1alpha1.AppliedByAnnotation, stamp("alice", 1)))

		apply(bob, "flux", "r.*")
		apply(alice, "argocd", "r.*")
		Expect(enforced(ctx, policy)).To(by("bob", 2))
		for _, managed := range policy.ManagedFields {
			Expect(managed.FieldsV1.GetRawString()).NotTo(ContainSubstring("applied-by"), managed.Manager)
		}
	})

	It("makes no differences for kubectl", func(ctx context.Context) {
		file := filepath.Join(GinkgoT().TempDir(), "policy.yaml")
		Expect(os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion": "registry.tidelock.dev/v1alpha1", "kind": "ImmutabilityPolicy",
			"metadata": {"name": "releases", "namespace": %q}, "spec": {"tagPattern": "v.*"}}`, team), 0o600)).To(Succeed())
		for _, expected := range []string{"created", "unchanged"} {
			output, err := kubectl(ctx, "apply", "--as", "alice", "--as-uid", "alice-uid", "-f", file)
			Expect(err).NotTo(HaveOccurred())
			Expect(output).To(ContainSubstring("immutabilitypolicy.registry.tidelock.dev/releases " + expected))
		}
		policy := newPolicy(team)
		Expect(enforced(ctx, policy)).To(by("alice", 1))
		for _, command := range []string{"diff", "replace"} {
			_, err := kubectl(ctx, command, "-f", file)
			Expect(err).NotTo(HaveOccurred(), command)
		}
		Expect(admin.Get(ctx, key(policy), policy)).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
	})

	It("stamps a dry run without leaving anything", func(ctx context.Context) {
		policy := newPolicy(team)
		Expect(alice.Create(ctx, policy, client.DryRunAll)).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
		policy = newPolicy(team)
		Expect(alice.Create(ctx, policy)).To(Succeed())
		changed := policy.DeepCopy()
		changed.Spec.TagPattern = "r.*"
		Expect(bob.Patch(ctx, changed, client.MergeFrom(policy), client.DryRunAll)).To(Succeed())
		Expect(stamped(changed)).To(Equal(stamp("bob", 2)))
		Expect(enforced(ctx, policy)).To(by("alice", 1))
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
	})

	It("takes the revision that the object claims, and does not call another claim a change", func(ctx context.Context) {
		policy := newPolicy(team, annotated(registryv1alpha1.RevisionAnnotation, " main@sha1:1\n"))
		Expect(alice.Create(ctx, policy)).To(Succeed())
		Expect(enforced(ctx, policy)).To(And(by("alice", 1), HaveKeyWithValue("revision_claimed", "main@sha1:1")))
		Expect(patch(ctx, bob, policy, annotated(registryv1alpha1.RevisionAnnotation, "main@sha1:2"))).To(Succeed())
		Expect(policy.Generation).To(Equal(int64(1)))
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)))
		stopOperator()
		runOperator(ctx) // it puts everything again
		Expect(patch(ctx, bob, policy, pattern("r.*"), annotated(registryv1alpha1.RevisionAnnotation, "main@sha1:3"))).To(Succeed())
		Expect(enforced(ctx, policy)).To(And(by("bob", 2), HaveKeyWithValue("revision_claimed", "main@sha1:3")))
		Expect(entries(ctx)).To(HaveLen(2))
	})

	It("names as a range the generations that nobody brought to the registry", func(ctx context.Context) {
		policy := newPolicy(team)
		Expect(alice.Create(ctx, policy)).To(Succeed())
		Expect(enforced(ctx, policy)).To(by("alice", 1))
		stopOperator()
		for _, change := range []struct {
			user    client.Client
			pattern string
		}{{mallory, "nothing"}, {mallory, "nothing-either"}, {alice, "x.*"}, {bob, `v[\d.]+`}} {
			Expect(patch(ctx, change.user, policy, pattern(change.pattern))).To(Succeed())
		}
		runOperator(ctx)
		Expect(enforced(ctx, policy)).To(And(by("bob", 5), HaveKeyWithValue("unseen_generations", "2-4"), HaveKeyWithValue("revision", float64(1))))
		Expect(entries(ctx)).To(HaveLen(2))
	})

	It("names nobody for a change that no webhook saw", func(ctx context.Context) {
		policy := newPolicy(team)
		Expect(alice.Create(ctx, policy)).To(Succeed())
		Expect(enforced(ctx, policy)).To(by("alice", 1))
		uninstall(ctx)
		Expect(patch(ctx, mallory, policy, pattern("r.*"))).To(Succeed())
		Expect(enforced(ctx, policy)).To(unknown(2))
		other := newPolicy(team, named("other"))
		Expect(mallory.Create(ctx, other)).To(Succeed())
		Expect(enforced(ctx, other)).To(unknown(1))

		install(ctx)
		Expect(patch(ctx, mallory, policy, forged(stamp("bob", 2)))).To(Succeed())
		Expect(stamped(policy)).To(Equal(stamp("alice", 1)), "nobody is named afterwards")
		Expect(patch(ctx, mallory, other, forged(stamp("bob", 1)))).To(Succeed())
		Expect(stamped(other)).To(BeEmpty())
		Expect(patch(ctx, bob, policy, pattern("x.*"))).To(Succeed())
		Expect(enforced(ctx, policy)).To(by("bob", 3))
	})
})

// forge is another's webhook: it puts what the annotation "forge" says where the stamp is.
func forge(_ context.Context, request admission.Request) admission.Response {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(request.Object.Raw); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	annotations := object.GetAnnotations()
	text, asked := annotations["forge"]
	if !asked || request.Operation != admissionv1.Create {
		return admission.Allowed("")
	}
	annotations["forged"], annotations[registryv1alpha1.AppliedByAnnotation] = "yes", text
	object.SetAnnotations(annotations)
	forged, err := object.MarshalJSON()
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, forged)
}
