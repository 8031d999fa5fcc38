package webhooks

import (
	"context"
	"encoding/json"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// deletions notes who deletes what.
type deletions struct{ noted []string }

func (d *deletions) Preview(context.Context, openapi.PreviewRequest) (openapi.Coverage, error) {
	return openapi.Coverage{}, nil
}

func (d *deletions) NoteDeletionIntent(_ context.Context, namespace, name string, intent openapi.DeletionIntent) error {
	d.noted = append(d.noted, "policy "+namespace+"/"+name+" by "+intent.User)
	return nil
}

func (d *deletions) NoteRefusedChange(_ context.Context, namespace, name string, change openapi.RefusedChange) error {
	d.noted = append(d.noted, "refused "+change.User+" to "+string(change.Operation)+" policy "+namespace+"/"+name+": "+change.Reason)
	return nil
}

func (d *deletions) NoteOrgMirrorDeletionIntent(_ context.Context, namespace, name string, intent openapi.DeletionIntent) error {
	d.noted = append(d.noted, "mirror "+namespace+"/"+name+" by "+intent.User)
	return nil
}

func (d *deletions) NoteReadonlySuperuserDeletionIntent(_ context.Context, name string, intent openapi.DeletionIntent) error {
	d.noted = append(d.noted, "readonly superuser "+name+" by "+intent.User)
	return nil
}

var _ = Describe("The webhook of OrgMirror", func() {
	var (
		validator *orgMirrorValidator
		registry  *deletions
		stamp     = `{"generation":1,"username":"bob"}`
	)
	mirror := func(change ...func(*registryv1alpha1.OrgMirror)) *registryv1alpha1.OrgMirror {
		m := &registryv1alpha1.OrgMirror{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "team-a", Name: "upstream", UID: "u", Generation: 1,
				Annotations: map[string]string{registryv1alpha1.AppliedByAnnotation: stamp},
			},
			Spec: registryv1alpha1.OrgMirrorSpec{
				Source:   registryv1alpha1.MirrorSource{Type: registryv1alpha1.UpstreamQuay, URL: "https://quay.example.com", Namespace: "up"},
				Schedule: registryv1alpha1.MirrorSchedule{Interval: &metav1.Duration{Duration: time.Hour}},
			},
		}
		for _, f := range change {
			f(m)
		}
		return m
	}
	request := func(operation admissionv1.Operation, old, object *registryv1alpha1.OrgMirror) context.Context {
		GinkgoHelper()
		r := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: operation, UserInfo: authenticationv1.UserInfo{Username: "bob"}}}
		for raw, o := range map[*runtime.RawExtension]*registryv1alpha1.OrgMirror{&r.OldObject: old, &r.Object: object} {
			if o != nil {
				encoded, err := json.Marshal(o)
				Expect(err).NotTo(HaveOccurred())
				raw.Raw = encoded
			}
		}
		return admission.NewContextWithRequest(context.Background(), r)
	}
	create := func(m *registryv1alpha1.OrgMirror) (admission.Warnings, error) {
		return validator.ValidateCreate(request(admissionv1.Create, nil, m), m)
	}
	update := func(old, m *registryv1alpha1.OrgMirror) (admission.Warnings, error) {
		return validator.ValidateUpdate(request(admissionv1.Update, old, m), old, m)
	}

	BeforeEach(func() {
		scheme := runtime.NewScheme()
		Expect(registryv1alpha1.AddToScheme(scheme)).To(Succeed())
		Expect(corev1.AddToScheme(scheme)).To(Succeed())
		Expect(metav1.AddMetaToScheme(scheme)).To(Succeed())
		named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "team-a", Name: name} }
		cluster := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", Annotations: map[string]string{registryv1alpha1.OrganizationsAnnotation: "team-b, *"}}},
			&corev1.Secret{ObjectMeta: named("there")}, &corev1.ConfigMap{ObjectMeta: named("there")},
			mirror(func(m *registryv1alpha1.OrgMirror) {
				m.Namespace, m.Name, m.Spec.Organization = "team-b", "first", "team-b"
			}),
		).WithIndex(&registryv1alpha1.OrgMirror{}, organizationIndex, func(o client.Object) []string {
			return []string{o.(*registryv1alpha1.OrgMirror).Organization()}
		}).Build()
		registry = &deletions{}
		validator = &orgMirrorValidator{reader: cluster, uncached: cluster, registry: registry}
	})

	secret := func(name string) mirrorChange {
		return func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CredentialsSecretRef = &registryv1alpha1.SecretReference{Name: name}
		}
	}
	DescribeTable("admits, and warns of", func(change mirrorChange, warnings ...string) {
		Expect(create(mirror(change))).To(ConsistOf(warnings))
	},
		Entry("nothing", func(*registryv1alpha1.OrgMirror) {}),
		Entry("no Secret that is there", secret("there")),
		Entry("a Secret that is not", secret("login"), "Secret team-a/login (source.credentialsSecretRef) is not there: nothing is synced until it is"),
		Entry("a Secret for the proxy that is not there", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.Proxy = &registryv1alpha1.MirrorProxy{HTTPSProxy: "http://proxy", CredentialsSecretRef: &registryv1alpha1.SecretReference{Name: "proxy"}}
		}, "Secret team-a/proxy (source.proxy.credentialsSecretRef) is not there: nothing is synced until it is"),
		Entry("certificates that are not there", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Name: "ca"}
		}, "ConfigMap team-a/ca (source.caBundleRef) is not there: nothing is synced until it is"),
		Entry("certificates in a Secret that is not there", func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Source.CABundleRef = &registryv1alpha1.BundleReference{Kind: registryv1alpha1.BundleSecret, Name: "ca"}
		}, "Secret team-a/ca (source.caBundleRef) is not there: nothing is synced until it is"),
		Entry("another mirror of the organization", func(m *registryv1alpha1.OrgMirror) { m.Spec.Organization = "team-b" },
			"organization team-b has the mirror team-b/first already: an organization has one, and the second waits until the first is deleted"),
		Entry("an organization that is not claimed, for which * is not enough", func(m *registryv1alpha1.OrgMirror) { m.Spec.Organization = "team-c" },
			"namespace team-a does not claim organization team-c: the mirror has no effect until the namespace's annotation registry.tidelock.dev/organizations names it"),
		Entry("credentials in clear text", func(m *registryv1alpha1.OrgMirror) {
			secret("there")(m)
			m.Spec.Source.URL = "http://quay.example.com"
		}, "source.url is http: the credentials go to the upstream unencrypted"),
	)

	It("refuses by the registry's rules what CEL lets pass, with the field", func() {
		broken := mirror(func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Tags.Include = []registryv1alpha1.TagMatch{{Semver: "newer"}}
			m.Spec.Schedule = registryv1alpha1.MirrorSchedule{Cron: "61 * * * *"}
		})
		_, err := create(broken)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "error: %v", err)
		Expect(err).To(MatchError(And(ContainSubstring("spec.tags.include[0].semver"), ContainSubstring("spec.schedule.cron"))))
	})

	It("refuses a stamp that another webhook changed", func() {
		_, err := create(mirror(func(m *registryv1alpha1.OrgMirror) {
			m.Annotations[registryv1alpha1.AppliedByAnnotation] = `{"generation":1,"username":"mallory"}`
		}))
		Expect(err).To(MatchError(ContainSubstring("metadata.annotations[registry.tidelock.dev/applied-by]")))
	})

	It("stamps who applied it", func() {
		m := mirror()
		m.Annotations = nil
		Expect(stamper[*registryv1alpha1.OrgMirror]{}.Default(request(admissionv1.Create, nil, m), m)).To(Succeed())
		Expect(m.Annotations).To(Equal(map[string]string{registryv1alpha1.AppliedByAnnotation: stamp}))
	})

	It("always admits what does not touch the spec, also where that breaks a rule by now, and what is being deleted", func() {
		broken := func(m *registryv1alpha1.OrgMirror) {
			m.Spec.Schedule = registryv1alpha1.MirrorSchedule{Cron: "61 * * * *"}
		}
		Expect(update(mirror(broken), mirror(broken, func(m *registryv1alpha1.OrgMirror) {
			m.Annotations[registryv1alpha1.RequestedAtAnnotation] = "now"
		}))).To(BeEmpty())
		Expect(update(mirror(), mirror(broken, func(m *registryv1alpha1.OrgMirror) { m.DeletionTimestamp = ptr.To(metav1.Now()) }))).To(BeEmpty())
		_, err := update(mirror(), mirror(broken))
		Expect(err).To(MatchError(ContainSubstring("spec.schedule.cron")))
	})

	It("fixes which organization a mirror fills", func() {
		_, err := update(mirror(), mirror(func(m *registryv1alpha1.OrgMirror) { m.Spec.Organization = "team-b" }))
		Expect(err).To(MatchError(ContainSubstring("spec.organization")))
	})

	It("tells the registry who deletes a mirror", func() {
		m := mirror()
		Expect(validator.ValidateDelete(request(admissionv1.Delete, m, nil), m)).To(BeEmpty())
		m.DeletionTimestamp = ptr.To(metav1.Now())
		Expect(validator.ValidateDelete(request(admissionv1.Delete, m, nil), m)).To(BeEmpty())
		Expect(registry.noted).To(ConsistOf("mirror team-a/upstream by bob"))
	})
})

type mirrorChange = func(*registryv1alpha1.OrgMirror)
