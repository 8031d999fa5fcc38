package integration

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

var _ = Describe("The guard of the annotation that claims organizations", Ordered, func() {
	// editor may change namespaces and own the organizations "payments" and "payments-mirror"; owner may own all.
	var editor, owner client.Client

	BeforeAll(func(ctx context.Context) {
		namespaces := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"namespaces", "namespaces/status"}, Verbs: []string{"*"}}
		own := rbacv1.PolicyRule{APIGroups: []string{"access.tidelock.dev"}, Resources: []string{"organizations"}, Verbs: []string{"own"}}
		owner = user(ctx, "guard-owner", namespaces, own)
		own.ResourceNames = []string{"payments", "payments-mirror", "o0", "o1", "o2", "o3", "o4", "o5", "o6", "o7", "o8"}
		editor = user(ctx, "guard-editor", namespaces, own)
		// The API server learns of a new policy a moment later.
		Eventually(func(g Gomega, ctx context.Context) {
			g.Expect(claim(ctx, editor, "foreign")).NotTo(Succeed())
		}).WithContext(ctx).Should(Succeed())
	})

	DescribeTable("lets an editor of namespaces claim only what it may own", func(ctx context.Context, organizations, refused string) {
		err := claim(ctx, editor, organizations)
		if refused == "" {
			Expect(err).NotTo(HaveOccurred())
			return
		}
		Expect(err).To(MatchError(ContainSubstring(refused)))
	},
		Entry("nothing", "", ""),
		Entry("one of its own", "payments", ""),
		Entry("two of its own", "payments, payments-mirror ,", ""),
		Entry("a foreign one", "foreign", "you may not claim the organization foreign"),
		Entry("a foreign one behind its own", "payments,payments-mirror,foreign", "you may not claim the organization foreign"),
		Entry("every organization", "*", "you may not claim the organization *"),
		Entry("eight of its own", "o0,o1,o2,o3,o4,o5,o6,o7", ""),
		Entry("a foreign one in the last place", "o0,o1,o2,o3,o4,o5,o6,foreign", "you may not claim the organization foreign"),
		Entry("more than eight at once", "o0,o1,o2,o3,o4,o5,o6,o7,o8", "a request may claim at most 8 more organizations"),
	)

	It("lets one claim anything who may own all organizations", func(ctx context.Context) {
		Expect(claim(ctx, owner, "*")).To(Succeed())
		var many []string
		for i := range 50 {
			many = append(many, fmt.Sprintf("org-%d", i))
		}
		Expect(claim(ctx, owner, strings.Join(many, ","))).To(Succeed())
	})

	It("asks again for each added name only, on every way to change a namespace", func(ctx context.Context) {
		namespace := newNamespace(ctx, claims("foreign"))
		patch := func(organizations string) client.Patch {
			return client.RawPatch(types.MergePatchType,
				fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, registryv1alpha1.OrganizationsAnnotation, organizations))
		}
		Expect(editor.Patch(ctx, namespace, patch("foreign,payments"))).To(Succeed())
		Expect(editor.Patch(ctx, namespace, patch("payments"))).To(Succeed())
		Expect(editor.Patch(ctx, namespace, patch("payments,foreign"))).To(MatchError(ContainSubstring("you may not claim the organization foreign")))
		Expect(editor.Status().Patch(ctx, namespace, patch("payments,foreign"))).
			To(MatchError(ContainSubstring("you may not claim the organization foreign")))
	})
})

// claim creates a namespace that claims the organizations, without keeping it.
func claim(ctx context.Context, as client.Client, organizations string) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "claim-"}}
	claims(organizations)(namespace)
	return as.Create(ctx, namespace, client.DryRunAll)
}

// user makes a user of the cluster with the given rights and returns its client.
func user(ctx context.Context, name string, rules ...rbacv1.PolicyRule) client.Client {
	GinkgoHelper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	Expect(admin.Create(ctx, role)).To(Succeed())
	Expect(admin.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	})).To(Succeed())
	added, err := cluster.AddUser(envtest.User{Name: name}, config)
	Expect(err).NotTo(HaveOccurred())
	c, err := client.New(added.Config(), client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	return c
}
