package integration

import (
	"context"
	"maps"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podsOf finds the Pods that a configuration runs, by the name of their workload, with the volumes that a StatefulSet claims.
func podsOf(objects []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	GinkgoHelper()
	pods := map[string]corev1.PodTemplateSpec{}
	for _, object := range objects {
		switch object.GetKind() {
		case "StatefulSet":
			var workload appsv1.StatefulSet
			Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &workload)).To(Succeed())
			template := workload.Spec.Template
			for _, claim := range workload.Spec.VolumeClaimTemplates {
				template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name + "-" + workload.Name + "-0"},
				}})
			}
			pods[workload.Name] = template
		case "Deployment":
			var workload appsv1.Deployment
			Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &workload)).To(Succeed())
			pods[workload.Name] = workload.Spec.Template
		}
	}
	return pods
}

// The suite has applied the namespace and the CRDs before.
var _ = Describe("config", func() {
	DescribeTable("is admitted whole by the API server", func(ctx context.Context, path string) {
		output, err := kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-k", path)
		Expect(err).NotTo(HaveOccurred())
		for _, object := range kustomization(path) {
			Expect(output).To(ContainSubstring("/"+object.GetName()+" serverside-applied (server dry run)"), object.GetKind())
		}
		Expect(output).NotTo(ContainSubstring("Warning"))
	},
		Entry("as default", "config/default"),
		Entry("as overlays/scale-out", "config/overlays/scale-out"),
	)

	DescribeTable("runs Pods that Pod Security restricted admits", func(ctx context.Context, path string, workloads ...string) {
		pods := podsOf(kustomization(path))
		Expect(slices.Sorted(maps.Keys(pods))).To(Equal(workloads))
		for name, template := range pods {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: name, Labels: template.Labels}, Spec: template.Spec}
			Expect(admin.Create(ctx, pod.DeepCopy(), client.DryRunAll)).To(Succeed())
			pod.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = ptr.To(true)
			Expect(admin.Create(ctx, pod, client.DryRunAll)).To(MatchError(ContainSubstring(`violates PodSecurity "restricted`)))
		}
	},
		Entry("as default", "config/default", "tidelock"),
		Entry("as overlays/scale-out", "config/overlays/scale-out", "tidelock-operator", "tidelock-registry"),
	)

	It("overlays/scale-out sends clients to the registry and admission to the operator", func() {
		objects := kustomization("config/overlays/scale-out")
		pods := podsOf(objects)
		selected := map[string]string{}
		for _, object := range objects {
			if object.GetKind() != "Service" {
				continue
			}
			var service corev1.Service
			Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &service)).To(Succeed())
			for name, template := range pods {
				if labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(template.Labels)) {
					selected[service.Name] += name
				}
			}
		}
		Expect(selected).To(Equal(map[string]string{"tidelock-registry": "tidelock-registry", "tidelock-webhook": "tidelock-operator"}))
	})

	It("samples are admitted", func(ctx context.Context) {
		for _, object := range kustomization("config", "samples") {
			if object.GetKind() == "Namespace" {
				Expect(client.IgnoreAlreadyExists(admin.Create(ctx, object))).To(Succeed())
			}
		}
		output, err := kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-k", "config/samples")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("immutabilitypolicy.registry.tidelock.dev/releases serverside-applied"))
		Expect(output).To(ContainSubstring("orgmirror.registry.tidelock.dev/releases serverside-applied"))
		Expect(output).To(ContainSubstring("readonlysuperuser.registry.tidelock.dev/auditor serverside-applied"))
		Expect(output).To(ContainSubstring("readonlysuperuser.registry.tidelock.dev/scanner serverside-applied"))
	})

	It("lets those edit and view policies and mirrors who may do so with a namespace's other objects", func(ctx context.Context) {
		team := newNamespace(ctx).Name
		for _, role := range []string{"view", "edit"} {
			name := role + "-of-" + team
			Expect(admin.Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "tidelock-" + role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
			})).To(Succeed())
		}
		can := func(user string, what ...string) bool {
			output, err := kubectl(ctx, append([]string{"auth", "can-i", "-n", team, "--as", user}, what...)...)
			return err == nil && output == "yes\n"
		}
		viewer, editor := "view-of-"+team, "edit-of-"+team
		Eventually(func() bool { return can(viewer, "get", "impol") }).Should(BeTrue())
		Expect(can(viewer, "create", "impol")).To(BeFalse())
		Expect(can(editor, "create", "impol")).To(BeTrue())
		Expect(can(editor, "patch", "impol", "--subresource=status")).To(BeFalse())
		Expect(can(viewer, "get", "orgmir")).To(BeTrue())
		Expect(can(viewer, "create", "orgmir")).To(BeFalse())
		Expect(can(editor, "create", "orgmir")).To(BeTrue())
		Expect(can(editor, "patch", "orgmir", "--subresource=status")).To(BeFalse())
	})

	It("lets the operator get Secrets, and neither list nor watch those of others", func(ctx context.Context) {
		team := newNamespace(ctx).Name
		can := func(what ...string) bool {
			output, err := kubectl(ctx, append([]string{"auth", "can-i", "-n", team, "--as", operatorUser}, what...)...)
			return err == nil && output == "yes\n"
		}
		Expect(can("get", "secrets")).To(BeTrue())
		Expect(can("get", "configmaps")).To(BeTrue())
		for _, verb := range []string{"list", "watch", "create", "update", "patch", "delete"} {
			Expect(can(verb, "secrets")).To(BeFalse(), verb)
			Expect(can(verb, "configmaps")).To(BeFalse(), verb)
		}
	})

	It("explains every field", func(ctx context.Context) {
		output, err := kubectl(ctx, "explain", "impol", "--recursive")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(And(ContainSubstring("tagPattern"), ContainSubstring("lastSweep"), ContainSubstring("locks image tags in the registry")))
		output, err = kubectl(ctx, "explain", "impol.spec.tagPattern")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("RE2 syntax"))
		output, err = kubectl(ctx, "explain", "orgmir.spec.source.credentialsSecretRef")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("kubernetes.io/dockerconfigjson"))
	})
})
