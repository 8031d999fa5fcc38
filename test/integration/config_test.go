package integration

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The suite has applied the namespace and the CRDs before.
var _ = Describe("config", func() {
	It("default is admitted whole by the API server", func(ctx context.Context) {
		output, err := kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-k", "config/default")
		Expect(err).NotTo(HaveOccurred())
		for _, object := range kustomization("config", "default") {
			Expect(output).To(ContainSubstring("/"+object.GetName()+" serverside-applied (server dry run)"), object.GetKind())
		}
		Expect(output).NotTo(ContainSubstring("Warning"))
	})

	It("default runs a Pod that Pod Security restricted admits", func(ctx context.Context) {
		var workload appsv1.StatefulSet
		for _, object := range kustomization("config", "default") {
			if object.GetKind() == "StatefulSet" {
				Expect(runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &workload)).To(Succeed())
			}
		}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "tidelock-0", Labels: workload.Spec.Template.Labels},
			Spec:       workload.Spec.Template.Spec,
		}
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data-tidelock-0"},
		}})
		Expect(admin.Create(ctx, pod.DeepCopy(), client.DryRunAll)).To(Succeed())
		pod.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = ptr.To(true)
		Expect(admin.Create(ctx, pod, client.DryRunAll)).To(MatchError(ContainSubstring(`violates PodSecurity "restricted`)))
	})

	It("samples are admitted", func(ctx context.Context) {
		for _, object := range kustomization("config", "samples") {
			if object.GetKind() == "Namespace" {
				Expect(admin.Create(ctx, object)).To(Succeed())
			}
		}
		output, err := kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-k", "config/samples")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("immutabilitypolicy.registry.tidelock.dev/releases serverside-applied"))
	})

	It("lets those edit and view policies who may do so with a namespace's other objects", func(ctx context.Context) {
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
	})

	It("explains every field", func(ctx context.Context) {
		output, err := kubectl(ctx, "explain", "impol", "--recursive")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(And(ContainSubstring("tagPattern"), ContainSubstring("lastSweep"), ContainSubstring("locks image tags in the registry")))
		output, err = kubectl(ctx, "explain", "impol.spec.tagPattern")
		Expect(err).NotTo(HaveOccurred())
		Expect(output).To(ContainSubstring("RE2 syntax"))
	})
})
