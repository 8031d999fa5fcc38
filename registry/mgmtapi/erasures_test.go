package mgmtapi_test

import (
	"net/http"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Erasing a person", func() {
	const erasures = "/api/v1/superuser/audit/erasures"

	It("is asked for by name, and goes on behind the answer", func() {
		r := newRegistry(coreOptions)
		r.must("POST", "/api/v1/superuser/users/", `{"username": "mallory", "email": "m@example.com"}`)
		Expect(r.admin("GET", "/api/v1/superuser/logs", "").body).To(ContainSubstring("mallory"))
		answer := r.admin("POST", erasures, `{"name": "mallory"}`)
		Expect(answer.status).To(Equal(http.StatusAccepted))
		started := into[openapi.Erasure](answer)
		Expect(started.EntriesTotal).To(BeNumerically(">", 0))
		var done openapi.Erasure
		Eventually(func() string {
			done = into[openapi.Erasure](r.admin("GET", erasures+"/"+started.UUID, ""))
			return done.State
		}).WithTimeout(soon).Should(Equal("done"))
		Expect(done.EntriesErased).To(Equal(int64(1)))
		Expect(done.EntriesExamined).To(Equal(done.EntriesTotal))
		log := r.admin("GET", "/api/v1/superuser/logs", "").body
		Expect(log).To(And(Not(ContainSubstring("mallory")), ContainSubstring("[erased]"), ContainSubstring("erase_person")))
	})

	It("is refused for what is no person, and for what is no request", func() {
		r := newRegistry(coreOptions)
		for _, body := range []string{`{"name": "system"}`, `{"name": ""}`, `{}`, `{"name": "a", "more": 1}`} {
			Expect(r.admin("POST", erasures, body).status).To(Equal(http.StatusBadRequest), body)
		}
		Expect(r.admin("GET", erasures+"/none", "").status).To(Equal(http.StatusNotFound))
	})
})
