package mgmtapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/openapi"
)

// managed is the body of a valid PUT.
const managed = `{"cluster": "c1", "uid": "u1", "generation": 1, "organization": "team-a", "tagPattern": "v.*", "tagPatternMatches": true,
	"enforcementMode": "Enforce", "reclaimPolicy": "Retain", "claim": {"namespaceUID": "n1", "organizations": ["team-a"]}}`

var _ = Describe("The operator's endpoints", func() {
	const item = "/api/v1/operator/immutabilitypolicies/team-a/releases"

	It("say all about a policy", func() {
		r := newRegistry(coreOptions)
		r.push("team-a/app", "latest", "one")
		d := r.push("team-a/app", "v1", "one")
		put := into[openapi.PolicyStatus](r.as(operator, "PUT", item, managed))
		r.swept(core.Scope{Organization: "team-a"}, put.Policy.UUID)
		Expect(r.as(operator, "GET", item, "").body).To(MatchJSON(fmt.Sprintf(`{
			"policy": {"uuid": %q, "organization": "team-a", "repository": "", "revision": 1, "tagPattern": "v.*", "tagPatternMatches": true,
				"enforcementMode": "Enforce", "reclaimPolicy": "Retain", "generation": 1, "locked": false, "orphaned": false, "lost": false, "deleted": false, "wouldRefuse": 0,
				"createdAt": "2026-03-14T15:09:26Z", "manager": {"kind": "ImmutabilityPolicy", "namespace": "team-a", "name": "releases", "uid": "u1"}},
			"coverage": {"total": 2, "covered": 1, "locked": 0, "held": 1, "sample": ["app:v1"]},
			"holds": 1, "pending": 0, "wouldLock": 0, "swept": true,
			"sweeps": [{"revision": 1, "kind": "apply", "state": "done", "createdAt": "2026-03-14T15:09:26Z", "startedAt": "2026-03-14T15:09:26Z",
				"finishedAt": "2026-03-14T15:09:26Z", "total": 2, "examined": 2, "changed": 1, "firstIndex": 6, "lastIndex": 6}]}`, put.Policy.UUID)))

		segment := into[openapi.LogSegment](r.as(operator, "GET", "/api/v1/operator/log?after=5&limit=1", ""))
		Expect(segment.Origin).To(HavePrefix("tidelock/"))
		Expect(segment.Size).To(Equal(int64(8)))
		Expect(segment.Entries).To(HaveLen(1))
		entry := segment.Entries[0]
		Expect(entry.Hash).To(MatchRegexp("^[0-9a-f]{64}$"))
		Expect(entry.Metadata).To(And(
			HaveKeyWithValue("manifest_digest", d.String()), HaveKeyWithValue("trigger", "policy"), HaveKeyWithValue("immutable", true),
			HaveKeyWithValue("policy_uuid", put.Policy.UUID), HaveKeyWithValue("repo", "app")))
		entry.Hash, entry.Metadata = "", map[string]any{}
		encoded, err := json.Marshal(entry)
		Expect(err).NotTo(HaveOccurred())
		Expect(encoded).To(MatchJSON(fmt.Sprintf(`{"index": 6, "hash": "", "time": "2026-03-14T15:09:26Z", "kind": "change_tag_immutability",
			"organization": "team-a", "repository": "app", "tag": "v1", "policy": %q,
			"manager": {"kind": "ImmutabilityPolicy", "namespace": "team-a", "name": "releases", "uid": "u1"},
			"performer": {"kind": "system", "name": "system", "is_robot": false},
			"metadata": {}}`, put.Policy.UUID)))
	})

	DescribeTable("refuse",
		func(method, path, body, detail string) {
			server := serve(nil, nil)
			defer server.Close()
			answer := send(server, operator, method, path, body)
			Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
			Expect(answer.problem().Detail).To(ContainSubstring(detail))
		},
		Entry("a policy without its cluster", "PUT", item, strings.Replace(managed, `"cluster": "c1", `, "", 1), "cluster: the field is required"),
		Entry("a policy with an empty cluster", "PUT", item, strings.Replace(managed, `"c1"`, `""`, 1), "cluster: the field must not be empty"),
		Entry("a policy without a generation", "PUT", item, strings.Replace(managed, `"generation": 1`, `"generation": 0`, 1), "generation: 0 is not a generation"),
		Entry("a policy with half a generation", "PUT", item, strings.Replace(managed, `"generation": 1`, `"generation": 1.5`, 1), "generation: a whole number is needed"),
		Entry("a policy with an empty claim", "PUT", item, strings.Replace(managed, `"n1"`, `""`, 1), "claim.namespaceUID: the field must not be empty"),
		Entry("a policy with an unknown field in its claim", "PUT", item, strings.Replace(managed, `"claim": {`, `"claim": {"force": true, `, 1), `unknown field "force"`),
		Entry("a delete without its cluster", "DELETE", item+"?uid=u1", "", "cluster: the field must not be empty"),
		Entry("a delete without its uid", "DELETE", item+"?cluster=c1", "", "uid: the field must not be empty"),
		Entry("an intent without its uid", "PUT", item+"/deletion-intent", `{"user": "carol"}`, "uid: the field is required"),
		Entry("an intent of nobody", "PUT", item+"/deletion-intent", `{"uid": "u1", "user": ""}`, "user: the field must not be empty"),
		Entry("a refused change without its reason", "POST", item+"/refused-changes", `{"uid": "u1", "user": "carol", "operation": "delete"}`, "reason: the field is required"),
		Entry("a refused change of another kind", "POST", item+"/refused-changes", `{"uid": "u1", "user": "carol", "operation": "read", "reason": "x"}`, `operation: "read" is not update or delete`),
		Entry("a delete with half an answer", "DELETE", item+"?cluster=c1&uid=u1&namespaceGoes=maybe", "", "namespaceGoes"),
		Entry("a sync without its list", "POST", "/api/v1/operator/synced", `{"cluster": "c1"}`, "present: the field is required"),
		Entry("a sync with half a name", "POST", "/api/v1/operator/synced", `{"cluster": "c1", "present": [{"kind": "ImmutabilityPolicy", "namespace": "a", "name": "", "uid": "u"}]}`, "present.name: the field must not be empty"),
		Entry("a sync with a list of something else", "POST", "/api/v1/operator/synced", `{"cluster": "c1", "present": "all"}`, "present: a list is needed, not a JSON string"),
		Entry("a published checkpoint without a cluster", "PUT", "/api/v1/operator/published-checkpoint", `{"cluster": "", "checkpoint": "x"}`, "cluster: the field must not be empty"),
		Entry("a log before its beginning", "GET", "/api/v1/operator/log?after=-2", "", `after: "-2" is not a whole number from -1`),
		Entry("more log than allowed", "GET", "/api/v1/operator/log?limit=501", "", `limit: "501" is not a whole number from 1 to 500`),
		Entry("a longer wait than allowed", "GET", "/api/v1/operator/log?wait=31", "", `wait: "31" is not a whole number from 0 to 30`),
		Entry("a wait for one policy's entries", "GET", "/api/v1/operator/log?wait=1&policy=u", "", "wait: cannot stand beside policy"),
		Entry("a cursor without a proper name", "GET", "/api/v1/operator/cursors/Events", "", `cursor: "Events" is not the name of a reader`),
		Entry("a cursor that moves back", "PUT", "/api/v1/operator/cursors/events", `{"from": 2, "to": 1}`, "to: 1 is behind from"),
		Entry("a cursor that comes from nowhere", "PUT", "/api/v1/operator/cursors/events", `{"from": -1, "to": 1}`, "from: -1 is not an index"),
	)

	It("tell what was published of the log, and stop all writes if the log does not hold it", func() {
		r := newRegistry(coreOptions)
		r.push("team-a/app", "v1", "one")
		origin, err := r.core.LogOrigin(context.Background())
		Expect(err).NotTo(HaveOccurred())
		none := r.as(operator, "PUT", "/api/v1/operator/published-checkpoint", `{"cluster": "c1", "checkpoint": "x"}`)
		Expect(none.status).To(Equal(http.StatusBadRequest))
		Expect(none.problem().Detail).To(HavePrefix("checkpoint: a checkpoint has lines with its origin"))
		published := audit.Checkpoint{Origin: origin, Size: 1000}
		body, err := json.Marshal(openapi.PublishedCheckpoint{Cluster: "c1", Checkpoint: published.Text()})
		Expect(err).NotTo(HaveOccurred())
		Expect(r.as(operator, "PUT", "/api/v1/operator/published-checkpoint", string(body)).body).To(MatchJSON(fmt.Sprintf(`{"origin": %q, "originIndex": 0,
			"readOnly": "a checkpoint of 1000 entries of its audit log was published, but the log has fewer"}`, origin)))
		refused := r.as(admin, "DELETE", "/api/v1/repository/team-a/app/tag/v1", "")
		Expect(refused.status).To(Equal(http.StatusServiceUnavailable))
		Expect(refused.problem().Detail).To(And(HavePrefix("the registry is read-only: a checkpoint of 1000 entries"), ContainSubstring("`tidelock audit fork --reason TEXT`")))
		Expect(r.as(admin, "GET", "/api/v1/repository/team-a/app/tag/", "").status).To(Equal(http.StatusOK))
	})

	It("lock a policy, say so to the operator, and note what admission refused", func() {
		r := newRegistry(coreOptions)
		locked := strings.Replace(managed, `"claim"`, `"lockedUntil": "2027-01-01T00:00:00Z", "claim"`, 1)
		status := into[openapi.PolicyStatus](r.as(operator, "PUT", item, locked))
		Expect(status.Policy.Locked).To(BeTrue())
		Expect(status.Policy.LockedUntil).To(HaveValue(Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))))
		for _, refused := range []response{
			r.as(operator, "PUT", item, strings.Replace(managed, `"generation": 1`, `"generation": 2`, 1)),
			r.as(operator, "DELETE", item+"?cluster=c1&uid=u1", ""),
		} {
			Expect(refused.status).To(Equal(http.StatusConflict))
			Expect(refused.problem().Code).To(Equal("POLICY_LOCKED"))
		}
		Expect(r.as(operator, "POST", item+"/refused-changes", `{"uid": "u1", "user": "carol", "operation": "delete", "reason": "it is locked"}`).status).To(Equal(http.StatusNoContent))
		segment := into[openapi.LogSegment](r.as(operator, "GET", "/api/v1/operator/log?policy="+status.Policy.UUID, ""))
		kinds := []string{}
		for _, entry := range segment.Entries {
			kinds = append(kinds, fmt.Sprint(entry.Kind, " ", entry.Metadata["applied_by"]))
		}
		Expect(kinds).To(Equal([]string{
			"create_immutability_policy unknown", "update_immutability_policy_failed unknown",
			"delete_immutability_policy_failed unknown", "delete_immutability_policy_failed carol",
		}))
		Expect(r.as(operator, "DELETE", item+"?cluster=c1&uid=u1&namespaceGoes=true", "").status).To(Equal(http.StatusNoContent))
		Expect(into[openapi.PolicyStatus](r.as(operator, "GET", item, "")).Policy.Orphaned).To(BeTrue())
	})

	It("take a large list of objects", func() {
		r := newRegistry(coreOptions)
		var list []string
		for i := range 20_000 {
			list = append(list, fmt.Sprintf(`{"kind": "ImmutabilityPolicy", "namespace": "team-a", "name": "policy-%d", "uid": "00000000-0000-0000-0000-%012d"}`, i, i))
		}
		body := `{"cluster": "c1", "present": [` + strings.Join(list, ",") + `]}`
		Expect(len(body)).To(BeNumerically(">", 1<<20))
		Expect(r.as(operator, "POST", "/api/v1/operator/synced", body).status).To(Equal(http.StatusNoContent))
	})

	It("do not hold up a shutdown", func() {
		r := newRegistry(coreOptions)
		draining, drain := context.WithCancel(context.Background())
		server := httptest.NewServer(mgmtapi.New(mgmtapi.Options{
			Core: r.core, Authenticator: authenticator{r.auth}, Logger: slog.New(slog.DiscardHandler), Draining: draining,
		}))
		defer server.Close()
		answered := make(chan response, 1)
		go func() {
			defer GinkgoRecover()
			answered <- send(server, operator, "GET", "/api/v1/operator/log?wait=30", "")
		}()
		Consistently(answered).WithTimeout(200 * time.Millisecond).ShouldNot(Receive())
		drain()
		var answer response
		Eventually(answered).WithTimeout(soon).Should(Receive(&answer))
		Expect(into[openapi.LogSegment](answer).Entries).To(BeEmpty())
	})
})
