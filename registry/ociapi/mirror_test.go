package ociapi

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// mirror makes team-a a mirror with the robot team-a+mirror.
func (h *harness) mirror() {
	GinkgoHelper()
	ctx, admin := context.Background(), domain.Caller{Name: "admin", Kind: domain.CallerUser}
	_, err := h.core.CreateRobot(ctx, admin, core.NewRobot{Organization: "team-a", Short: "mirror"}, []byte("hash"))
	Expect(err).NotTo(HaveOccurred())
	_, err = h.core.CreateMirror(ctx, admin, "team-a", domain.MirrorSpec{
		Source:   domain.MirrorSource{Type: domain.UpstreamQuay, URL: "https://quay.example.com", Namespace: "upstream"},
		Schedule: domain.MirrorSchedule{Interval: time.Hour}, Robot: "team-a+mirror",
	}, domain.MirrorSecrets{})
	Expect(err).NotTo(HaveOccurred())
}

var _ = Describe("In a mirrored organization", func() {
	const reason = "organization team-a is mirrored from https://quay.example.com by its mirror configuration; only the mirror may write to it"
	other := imageManifest("application/vnd.oci.image.config.v1+json", config)
	var h *harness

	BeforeEach(func() { h = withContent() })

	DescribeTable("org_mirror_non_robot_cannot_push",
		func(e exchange) {
			h.mirror()
			e.status, e.answer = 403, refusal("DENIED", reason)
			h.check(e)
		},
		Entry("a tag", exchange{method: "PUT", path: repo + "/manifests/v2", body: image}),
		Entry("a tag that moves", exchange{method: "PUT", path: repo + "/manifests/v1", body: other}),
		Entry("a manifest", exchange{method: "PUT", path: repo + "/manifests/" + sha(other), body: other}),
		Entry("a blob", exchange{method: "POST", path: repo + "/blobs/uploads/?digest=" + sha("x"), body: "x"}),
		Entry("the beginning of a blob", exchange{method: "POST", path: repo + "/blobs/uploads/"}),
		Entry("a mount", exchange{method: "POST", path: repo + "/blobs/uploads/?mount=" + sha(layer) + "&from=team-a/app"}),
		Entry("push_to_nonexistent_repo_in_org_mirror_namespace_denied", exchange{method: "PUT", path: "/v2/team-a/new/manifests/v1", body: image}),
		Entry("a blob of a repository that is not there", exchange{method: "POST", path: "/v2/team-a/new/blobs/uploads/"}),
	)

	It("an upload that was begun before is not taken any more", func() {
		upload := h.begin(repo)
		h.mirror()
		h.check(exchange{method: "PUT", path: upload + "?digest=" + sha("x"), body: "x", status: 403, answer: refusal("DENIED", reason)})
	})

	It("org_mirror_robot_can_push", func() {
		h.mirror()
		h.check(exchange{as: "team-a+mirror", method: "POST", path: "/v2/team-a/new/blobs/uploads/?digest=" + sha(config), body: config, status: 201})
		h.check(exchange{as: "team-a+mirror", method: "PUT", path: "/v2/team-a/new/manifests/v1", body: other, status: 201})
		h.check(exchange{as: "team-a+ci", method: "PUT", path: "/v2/team-a/new/manifests/v2", body: other, status: 403, answer: refusal("DENIED", reason)})
	})

	It("everybody pulls as before, and deletes what is not locked", func() {
		h.mirror()
		h.lock("multi")
		h.check(exchange{method: "GET", path: repo + "/manifests/v1", status: 200, answer: image})
		h.check(exchange{method: "GET", path: repo + "/blobs/" + sha(layer), status: 200, answer: layer})
		h.check(exchange{method: "DELETE", path: repo + "/manifests/v1", status: 202})
		Expect(h.do(exchange{method: "DELETE", path: repo + "/manifests/multi"}).Code).To(Equal(422))
	})

	It("everybody pushes again when the mirror is gone", func() {
		h.mirror()
		Expect(h.core.DeleteMirror(context.Background(), domain.Caller{Name: "admin", Kind: domain.CallerUser}, "team-a")).To(Succeed())
		h.check(exchange{method: "PUT", path: repo + "/manifests/v2", body: image, status: 201})
	})
})
