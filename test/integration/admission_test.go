package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/webhooks"
)

// warnings collects what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = nil
	return list
}

func freePort() int {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "localhost:0")
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// newClient makes a client that reads without a cache.
func newClient(c *rest.Config) client.Client {
	GinkgoHelper()
	made, err := client.New(c, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	return made
}

// as may do everything in the cluster under a name.
func as(user string) client.Client {
	GinkgoHelper()
	c := rest.CopyConfig(config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user, UID: user + "-uid", Groups: []string{user}}
	return newClient(c)
}

// letAct gives users all rights in the cluster, until the end of the test.
func letAct(ctx context.Context, users ...string) {
	GinkgoHelper()
	for _, user := range users {
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		}
		Expect(admin.Create(ctx, binding)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(admin.Delete(ctx, binding)).To(Succeed()) })
	}
}

var _ = Describe("Admission", Ordered, ContinueOnFailure, func() {
	var (
		registry     *testRegistry
		stopOperator func()
		port         int
		warned       = &warnings{}
		// applicant may do everything and collects warnings.
		applicant client.Client
		team, app string
	)

	BeforeAll(func(ctx context.Context) {
		registry = startRegistry()
		port = freePort()
		registryClient := newRegistryClient(registry)
		server := webhooks.NewServer("localhost", port, GinkgoT().TempDir())
		mgr := newManager(func(o *ctrl.Options) { o.WebhookServer = server })
		setUpControllers(ctx, mgr, registryClient)
		Expect(server.SetupCertificates(ctx, mgr, operatorNamespace)).To(Succeed())
		Expect(webhooks.SetupImmutabilityPolicy(ctx, mgr, registryClient, 0)).To(Succeed())
		Expect(webhooks.SetupOrgMirror(ctx, mgr, registryClient)).To(Succeed())
		Expect(webhooks.SetupReadonlySuperuser(ctx, mgr, registryClient, operatorNamespace, operatorUser)).To(Succeed())
		stopOperator = inBackground(mgr.Start)
		DeferCleanup(removeObjects)
		DeferCleanup(func() { stopOperator() })

		// Those of config/local, at this test's port.
		for _, object := range kustomization("config", "local") {
			if !strings.HasSuffix(object.GetKind(), "WebhookConfiguration") {
				continue
			}
			for _, hook := range object.Object["webhooks"].([]any) {
				at := hook.(map[string]any)["clientConfig"].(map[string]any)
				at["url"] = strings.Replace(at["url"].(string), "localhost:9443", fmt.Sprintf("localhost:%d", port), 1)
			}
			Expect(admin.Create(ctx, object)).To(Succeed())
			DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(admin.Delete(ctx, object))).To(Succeed()) })
		}

		c := rest.CopyConfig(config)
		c.WarningHandler = warned
		applicant = newClient(c)

		team = newTeam(ctx)
		app = team + "/app"
		registry.prepare(ctx, app)
		registry.push(ctx, app, "v1", "v2", "v3", "latest")
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(applicant.Create(ctx, newPolicy(team), client.DryRunAll)).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
		warned.take()
	})

	DescribeTable("warns, also on a server-side dry run,", func(ctx context.Context, change policyChange, text string) {
		policy := newPolicy(team, change)
		policy.Spec.Organization = strings.ReplaceAll(policy.Spec.Organization, "TEAM", team)
		policy.Spec.Repository = strings.ReplaceAll(policy.Spec.Repository, "TEAM", team)
		Expect(applicant.Create(ctx, policy, client.DryRunAll)).To(Succeed())
		Expect(warned.take()).To(ContainElement(strings.ReplaceAll(text, "TEAM", team)))
	},
		Entry("of the tags that will be locked", pattern("v.*"), "will lock 3 of 4 existing tags in organization TEAM, e.g. app:v1, app:v2, app:v3"),
		Entry("of a repository's tags", repository("app"), "will lock 3 of 4 existing tags in repository TEAM/app, e.g. app:v1, app:v2, app:v3"),
		Entry("of an inverted pattern's tags", func(p *registryv1alpha1.ImmutabilityPolicy) { p.Spec.TagPatternMatches = ptr.To(false) },
			"will lock 1 of 4 existing tags in organization TEAM, e.g. app:latest"),
		Entry("that no tag matches", pattern("release-.*"), "will lock none of 4 existing tags in organization TEAM"),
		Entry("that there is no tag", repository("other"), "there are no tags yet in repository TEAM/other"),
		Entry("what a dry run would lock", mode(registryv1alpha1.DryRun),
			"is a dry run; enforced it would lock 3 of 4 existing tags in organization TEAM, e.g. app:v1, app:v2, app:v3"),
		Entry("that the namespace does not claim the organization", organization("somebody-else"),
			"namespace TEAM does not claim organization somebody-else: the policy has no effect until the namespace's annotation registry.tidelock.dev/organizations names it"),
		Entry("that a repository repeats the organization", repository("TEAM/app"),
			"repository is the path inside the organization: this policy covers TEAM/TEAM/app; for TEAM/app write app"),
	)

	It("warns the user of kubectl", func(ctx context.Context) {
		file := filepath.Join(GinkgoT().TempDir(), "policy.yaml")
		Expect(os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion": "registry.tidelock.dev/v1alpha1", "kind": "ImmutabilityPolicy",
			"metadata": {"name": "releases", "namespace": %q}, "spec": {"tagPattern": "v.*"}}`, team), 0o600)).To(Succeed())
		output, err := kubectl(ctx, "apply", "--dry-run=server", "-f", file)
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("Warning: will lock 3 of 4 existing tags in organization " + team + ", e.g. app:v1, app:v2, app:v3"))
	})

	It("warns of the same pattern twice, and of the impact of a change of spec only", func(ctx context.Context) {
		policy := newPolicy(team, named("one"))
		Expect(applicant.Create(ctx, policy)).To(Succeed())
		eventually(ctx, policy, beReady())
		warned.take()

		Expect(applicant.Create(ctx, newPolicy(team, named("two")), client.DryRunAll)).To(Succeed())
		Expect(warned.take()).To(ConsistOf(
			"policy "+team+"/one covers the same tags already; each covered tag gets a hold by both",
			"will lock 3 of 4 existing tags in organization "+team+", 3 of them locked already, e.g. app:v1, app:v2, app:v3"))

		before := policy.DeepCopy()
		policy.Labels = map[string]string{"a": "label"}
		Expect(applicant.Patch(ctx, policy, client.MergeFrom(before))).To(Succeed())
		Expect(warned.take()).To(BeEmpty())

		before = policy.DeepCopy()
		policy.Spec.TagPattern = "v.*|latest"
		Expect(applicant.Patch(ctx, policy, client.MergeFrom(before), client.DryRunAll)).To(Succeed())
		Expect(warned.take()).To(ConsistOf("will lock 4 of 4 existing tags in organization " + team + ", 3 of them locked already, e.g. app:latest, app:v1, app:v2, app:v3"))
		removePolicy(ctx, policy)
	})

	It("refuses by the registry's rules what CEL lets pass, with the field", func(ctx context.Context) {
		err := applicant.Create(ctx, newPolicy(team, pattern(strings.Repeat("é", 150))))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring("spec.tagPattern"), ContainSubstring("256"))))
		Expect(warned.take()).To(BeEmpty())
	})

	It("rotates its certificate, and goes on to answer", func(ctx context.Context) {
		served := func() *x509.Certificate {
			connection, err := tls.Dial("tcp", fmt.Sprintf("localhost:%d", port), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it looks only
			Expect(err).NotTo(HaveOccurred())
			defer connection.Close()
			return connection.ConnectionState().PeerCertificates[0]
		}
		first := served()
		Expect(first.DNSNames).To(ConsistOf("tidelock-webhook.tidelock-system.svc", "localhost"))

		// A certificate that was lost, CA included, is made anew.
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: operatorNamespace, Name: webhooks.SecretName}
		Expect(admin.Get(ctx, key, secret)).To(Succeed())
		before := secret.DeepCopy()
		secret.Data = nil
		Expect(admin.Patch(ctx, secret, client.MergeFrom(before))).To(Succeed())
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(served().Equal(first)).To(BeFalse())
			g.Expect(admin.Get(ctx, key, secret)).To(Succeed())
			var validating admissionregistrationv1.ValidatingWebhookConfiguration
			g.Expect(admin.Get(ctx, client.ObjectKey{Name: webhooks.ConfigurationName}, &validating)).To(Succeed())
			bundle := validating.Webhooks[0].ClientConfig.CABundle
			g.Expect(bundle).To(Equal(secret.Data["ca.crt"]))
			var mutating admissionregistrationv1.MutatingWebhookConfiguration
			g.Expect(admin.Get(ctx, client.ObjectKey{Name: webhooks.ConfigurationName}, &mutating)).To(Succeed())
			g.Expect(mutating.Webhooks[0].ClientConfig.CABundle).To(Equal(bundle))
			block, _ := pem.Decode(bundle)
			g.Expect(block).NotTo(BeNil())
			ca, err := x509.ParseCertificate(block.Bytes)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(served().CheckSignatureFrom(ca)).To(Succeed())
			g.Expect(applicant.Create(ctx, newPolicy(team), client.DryRunAll)).To(Succeed())
		}).WithContext(ctx).Should(Succeed())
	})

	Describe("of a deletion", func() {
		// requests lists what the log says of the requested deletions in the team's organization, the latest first.
		requests := func(ctx context.Context) (list []string) {
			got, err := registry.call(ctx, http.MethodGet, "/api/v1/organization/"+team+"/logs", "", nil)
			Expect(err).NotTo(HaveOccurred())
			var log struct {
				Logs []struct {
					Metadata struct {
						Requested bool   `json:"deletion_requested"`
						AppliedBy string `json:"applied_by"`
						UID       string `json:"applied_by_uid"`
					} `json:"metadata"`
				} `json:"logs"`
			}
			Expect(json.Unmarshal([]byte(got.Body), &log)).To(Succeed(), got.Body)
			for _, entry := range log.Logs {
				if entry.Metadata.Requested {
					list = append(list, entry.Metadata.AppliedBy+" "+entry.Metadata.UID)
				}
			}
			return list
		}
		ready := func(ctx context.Context, name string) *registryv1alpha1.ImmutabilityPolicy {
			policy := newPolicy(team, named(name))
			Expect(applicant.Create(ctx, policy)).To(Succeed())
			eventually(ctx, policy, beReady())
			return policy
		}

		BeforeAll(func(ctx context.Context) {
			letAct(ctx, "carol", "mallory")
		})

		It("tells the registry who asks", func(ctx context.Context) {
			policy := ready(ctx, "attributed")
			Expect(as("carol").Delete(ctx, policy)).To(Succeed())
			eventuallyGone(ctx, policy)
			Expect(requests(ctx)[0]).To(Equal("carol carol-uid"))
		})

		It("tells nothing of a dry run, and is not held up by a registry that is away: nobody is named then", func(ctx context.Context) {
			policy := ready(ctx, "unattributed")
			before := len(requests(ctx))
			Expect(as("mallory").Delete(ctx, policy, client.DryRunAll)).To(Succeed())
			registry.stop()
			Expect(as("carol").Delete(ctx, policy)).To(Succeed())
			registry.start()
			eventuallyGone(ctx, policy)
			Expect(requests(ctx)).To(HaveLen(before + 1))
			Expect(requests(ctx)[0]).To(Equal("unknown "))
		})
	})

	Describe("of a policy that is locked", func() {
		var owner string
		BeforeAll(func(ctx context.Context) { owner = newTeam(ctx) })

		// attempts lists who was refused to do what with the team's policies, the latest first.
		attempts := func(ctx context.Context) (list []string) {
			got, err := registry.call(ctx, http.MethodGet, "/api/v1/organization/"+owner+"/logs", "", nil)
			Expect(err).NotTo(HaveOccurred())
			var log struct {
				Logs []struct {
					Kind     string `json:"kind"`
					Metadata struct {
						AppliedBy string `json:"applied_by"`
					} `json:"metadata"`
				} `json:"logs"`
			}
			Expect(json.Unmarshal([]byte(got.Body), &log)).To(Succeed(), got.Body)
			for _, entry := range log.Logs {
				if strings.HasSuffix(entry.Kind, "_immutability_policy_failed") {
					list = append(list, entry.Metadata.AppliedBy+" "+entry.Kind)
				}
			}
			return list
		}

		It("refuses with the date who weakens or deletes it; the attempt is an entry of the log and an Event, but not on a dry run", func(ctx context.Context) {
			letAct(ctx, "ann", "eve")
			until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
			policy := newPolicy(owner, named("locked"), lockedFor(time.Hour))
			Expect(applicant.Create(ctx, policy)).To(Succeed())
			eventually(ctx, policy, beReady())
			weaken := client.RawPatch(types.MergePatchType, []byte(`{"spec": {"enforcementMode": "DryRun", "lockedUntil": null}}`))

			Expect(as("eve").Patch(ctx, policy.DeepCopy(), weaken, client.DryRunAll)).To(MatchError(ContainSubstring("the policy is locked until " + until[:13])))
			Expect(as("eve").Delete(ctx, policy, client.DryRunAll)).To(MatchError(ContainSubstring("locked until " + until[:13])))
			Expect(attempts(ctx)).To(BeEmpty())

			Expect(as("eve").Patch(ctx, policy.DeepCopy(), weaken)).To(MatchError(And(ContainSubstring("spec.enforcementMode"), ContainSubstring("spec.lockedUntil"))))
			Expect(as("ann").Delete(ctx, policy)).To(MatchError(ContainSubstring("cannot be deleted before that time")))
			Expect(attempts(ctx)).To(Equal([]string{"ann delete_immutability_policy_failed", "eve update_immutability_policy_failed"}))
			Eventually(eventsOf).WithArguments(policy).WithContext(ctx).Should(ContainElements(
				And(HaveField("Reason", "PolicyChangeRefused"), HaveField("Type", "Warning"), HaveField("Note", HavePrefix("refused Kubernetes user eve to update policy "+policy.Status.PolicyUUID))),
				And(HaveField("Reason", "PolicyChangeRefused"), HaveField("Note", HavePrefix("refused Kubernetes user ann to delete policy "+policy.Status.PolicyUUID)))))

			Expect(as("ann").Patch(ctx, policy, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"events": "Summary"}}`)))).To(Succeed(), "what weakens nothing")
		})

		It("takes a time that has passed, with a warning, and none that is too far away", func(ctx context.Context) {
			warned.take()
			Expect(applicant.Create(ctx, newPolicy(owner, lockedFor(-time.Hour)), client.DryRunAll)).To(Succeed())
			Expect(warned.take()).To(ContainElement(ContainSubstring("has passed: the policy can be weakened and deleted at any time")))
			Expect(applicant.Create(ctx, newPolicy(owner, lockedFor(6*365*24*time.Hour)), client.DryRunAll)).To(MatchError(ContainSubstring("1827 days at most")))
		})
	})

	It("needs no registry to decide, and says when the impact is unknown", func(ctx context.Context) {
		registry.stop()
		warned.take()
		Expect(applicant.Create(ctx, newPolicy(team), client.DryRunAll)).To(Succeed())
		Expect(warned.take()).To(ConsistOf("the impact on existing tags is unknown: the registry did not answer in time"))
		registry.start()
	})

	It("fails closed without the operator, but for what is deleted and for the status", func(ctx context.Context) {
		policy := newPolicy(team, named("before"))
		Expect(applicant.Create(ctx, policy)).To(Succeed())
		eventually(ctx, policy, beReady())
		stopOperator()
		Expect(applicant.Create(ctx, newPolicy(team))).To(MatchError(ContainSubstring("failed calling webhook")))
		before := policy.DeepCopy()
		policy.Status.Organization = "changed"
		Expect(newClient(operatorConfig()).Status().Patch(ctx, policy, client.MergeFrom(before))).To(Succeed())
		Expect(admin.Delete(ctx, policy)).To(Succeed())
	})
})
