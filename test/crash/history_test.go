package crash

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// organization is an organization of a registry with everything that clients asked of it.
type organization struct {
	p     *process
	name  string
	began time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	// images are the images pushed so far; the number of the first is 1.
	images []image
	// policies are the UUIDs of the policies that are known, by number, retired those that a client asked to delete;
	// made is how many were asked for.
	policies map[int]string
	retired  map[int]bool
	made     int
}

// newOrganization makes an organization with a repository that has the blobs of all images.
func newOrganization(p *process, name string) *organization {
	o := &organization{p: p, name: name, began: time.Now(), policies: map[int]string{}, retired: map[int]bool{}}
	p.g.Expect(p.pushBlobs(o.repository(), newImage(o.name, ""))).To(BeTrue())
	return o
}

func (o *organization) repository() string { return o.name + "/app" }

func (o *organization) policyPath(uuid string) string {
	return "/api/v1/organization/" + o.name + "/immutabilitypolicy/" + uuid
}

func tagName(tag int) string { return string(rune('a' + tag)) }

func (o *organization) manifestPath(reference string) string {
	return "/v2/" + o.repository() + "/manifests/" + reference
}

func (o *organization) tagPath(tag int) string {
	return "/api/v1/repository/" + o.repository() + "/tag/" + tagName(tag)
}

// newImageNumber makes an image that nobody pushed before.
func (o *organization) newImageNumber() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.images) + 1
	o.images = append(o.images, newImage(o.name, strconv.Itoa(n)))
	return n
}

// recentImage is one of the latest images, 0 if there is none.
func (o *organization) recentImage() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.images) == 0 {
		return 0
	}
	return len(o.images) - rand.IntN(min(4, len(o.images)))
}

func (o *organization) image(n int) image {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.images[n-1]
}

// numberOf is the number of an image, -1 for one that was never pushed: no state of the model has it.
func (o *organization) numberOf(d digest.Digest) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := slices.IndexFunc(o.images, func(i image) bool { return i.digest == d }); n >= 0 {
		return n + 1
	}
	return -1
}

// newPolicyNumber reports false once the model has no room for another policy.
func (o *organization) newPolicyNumber() (int, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made == modelPolicies {
		return 0, false
	}
	o.made++
	return o.made - 1, true
}

// somePolicy is the number of a policy whose UUID is known, and that nobody asked to delete.
func (o *organization) somePolicy() (int, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := range o.policies { // in random order
		if !o.retired[n] {
			return n, true
		}
	}
	return 0, false
}

func (o *organization) uuid(policy int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.policies[policy]
}

func (o *organization) learn(policy int, uuid string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.policies[policy] = uuid
	delete(o.retired, policy)
}

func (o *organization) retire(policy int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.retired[policy] = true
}

// do carries out an operation and records it. It reports false if the answer was lost.
func (o *organization) do(client int, in input) (output, bool) {
	call := time.Since(o.began)
	out, err := o.send(in)
	answered := time.Since(o.began)
	// 503 says that the registry does not know.
	out.lost = err != nil || out.status == http.StatusServiceUnavailable
	if out.lost {
		if in.reads() {
			return out, false
		}
		out, answered = output{lost: true}, math.MaxInt64
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.history = append(o.history, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(answered)})
	return out, !out.lost
}

// reads reports whether an operation changes nothing, so that nothing follows from one whose answer was lost.
func (i input) reads() bool {
	return i.kind == opReadTag || i.kind == opReadManifest || i.kind == opInspect || i.kind == opListPolicies
}

func (o *organization) send(in input) (out output, err error) {
	switch in.kind {
	case opPush:
		out.status, err = o.p.putManifest(o.repository(), tagName(in.tag), o.image(in.image))
	case opReadTag:
		return o.readTag(in.tag)
	case opReadManifest:
		out.status, _, err = o.p.call(http.MethodHead, o.manifestPath(o.image(in.image).digest.String()), "", nil)
	case opInspect:
		return o.inspect(in.tag)
	case opDeleteTag:
		out.status, err = o.p.deleteManifest(o.repository(), tagName(in.tag))
	case opDeleteManifest:
		out.status, err = o.p.deleteManifest(o.repository(), o.image(in.image).digest.String())
	case opHold, opUnhold:
		body := fmt.Sprintf(`{"immutable":%t}`, in.kind == opHold)
		out.status, _, err = o.p.call(http.MethodPut, o.tagPath(in.tag), "application/json", []byte(body))
	case opCreatePolicy:
		return o.createPolicy(in)
	case opUpdatePolicy:
		out.status, _, err = o.p.call(http.MethodPut, o.policyPath(o.uuid(in.policy)), "application/json", in.policyBody())
	case opDeletePolicy:
		o.retire(in.policy)
		out.status, _, err = o.p.call(http.MethodDelete, o.policyPath(o.uuid(in.policy)), "", nil)
	case opListPolicies:
		return o.listPolicies()
	}
	return out, err
}

// decode reads an answer that came whole; what it cannot read fails the test.
func (o *organization) decode(content []byte, into any) {
	if err := json.Unmarshal(content, into); err != nil {
		o.p.t.Errorf("%v: %s", err, content)
	}
}

// readTag reads a manifest whole. Bytes that are not those of the digest are no image.
func (o *organization) readTag(tag int) (out output, err error) {
	status, content, err := o.p.call(http.MethodGet, o.manifestPath(tagName(tag)), "", nil)
	out.status = status
	if status == http.StatusOK {
		out.image = o.numberOf(digest.FromBytes(content))
	}
	return out, err
}

func (o *organization) inspect(tag int) (out output, err error) {
	status, content, err := o.p.call(http.MethodGet, "/api/v1/repository/"+o.repository()+"/tag/?specificTag="+tagName(tag), "", nil)
	out.status = status
	if err != nil || status != http.StatusOK {
		return out, err
	}
	var list openapi.TagList
	o.decode(content, &list)
	for _, t := range list.Tags {
		out.image, out.immutable = o.numberOf(digest.Digest(t.ManifestDigest)), t.Immutable
	}
	return out, nil
}

// policyBody is the JSON of a policy. Its pattern has the policy's number too, so that it can be known again when the
// answer that would have had its UUID was lost.
func (i input) policyBody() []byte {
	mode, reclaim := domain.Enforce, domain.Retain
	if i.spec.dryRun {
		mode = domain.DryRun
	}
	if i.spec.release {
		reclaim = domain.Release
	}
	body, _ := json.Marshal(map[string]any{
		"tagPattern": strings.Trim(i.spec.covers.String()+"|policy"+strconv.Itoa(i.policy), "|"), "enforcementMode": mode, "reclaimPolicy": reclaim,
	})
	return body
}

var policyNumber = regexp.MustCompile(`policy(\d+)$`)

// parsePolicy reads what policyBody wrote.
func parsePolicy(view openapi.PolicyView) (number int, spec policySpec, err error) {
	match := policyNumber.FindStringSubmatch(view.TagPattern)
	if match == nil {
		return 0, spec, fmt.Errorf("%q is no pattern of this test", view.TagPattern)
	}
	if number, err = strconv.Atoi(match[1]); err != nil || number >= modelPolicies {
		return 0, spec, fmt.Errorf("%q is no pattern of this test", view.TagPattern)
	}
	for tag := range modelTags {
		if slices.Contains(strings.Split(view.TagPattern, "|"), tagName(tag)) {
			spec.covers |= 1 << tag
		}
	}
	spec.dryRun, spec.release = view.EnforcementMode == domain.DryRun, view.ReclaimPolicy == domain.Release
	return number, spec, nil
}

func (o *organization) createPolicy(in input) (out output, err error) {
	status, content, err := o.p.call(http.MethodPost, o.policyPath(""), "application/json", in.policyBody())
	out.status = status
	if err != nil || status != http.StatusCreated {
		return out, err
	}
	var created openapi.PolicyID
	o.decode(content, &created)
	o.learn(in.policy, created.UUID)
	return out, nil
}

// listPolicies reads the policies, and learns the UUIDs of those whose creation had no answer.
func (o *organization) listPolicies() (out output, err error) {
	status, content, err := o.p.call(http.MethodGet, o.policyPath(""), "", nil)
	out.status = status
	if err != nil || status != http.StatusOK {
		return out, err
	}
	var list openapi.PolicyList
	o.decode(content, &list)
	for _, view := range list.Policies {
		number, spec, err := parsePolicy(view)
		if err != nil {
			o.p.t.Error(err)
			return out, err
		}
		out.policies[number] = policyState{live: true, policySpec: spec}
		o.learn(number, view.UUID)
	}
	return out, nil
}

// choose makes a client's next operation.
func (o *organization) choose() input {
	in := input{
		tag:  rand.IntN(modelTags),
		spec: policySpec{covers: tagSet(rand.IntN(1 << modelTags)), dryRun: rand.IntN(6) == 0, release: rand.IntN(3) == 0},
	}
	var known bool
	switch n := rand.IntN(100); {
	case n < 25:
		in.kind, in.image = opPush, o.newImageNumber()
		return in
	case n < 35:
		in.kind, in.image = opPush, o.recentImage()
	case n < 41:
		in.kind, in.image = opReadManifest, o.recentImage()
	case n < 49:
		in.kind, in.image = opDeleteManifest, o.recentImage()
	case n < 59:
		in.kind = opDeleteTag
		return in
	case n < 63:
		in.kind = opHold
		return in
	case n < 73:
		in.kind = opUnhold
		return in
	case n < 77:
		if in.policy, known = o.newPolicyNumber(); known {
			in.kind = opCreatePolicy
			return in
		}
	case n < 81:
		if in.policy, known = o.somePolicy(); known {
			in.kind = opUpdatePolicy
			return in
		}
	case n < 86:
		if in.policy, known = o.somePolicy(); known {
			in.kind = opDeletePolicy
			return in
		}
	case n < 89:
		in.kind = opListPolicies
		return in
	case n < 94:
		in.kind = opInspect
		return in
	}
	if in.image == 0 {
		in.kind = opReadTag
	}
	return in
}

// checkTimeout bounds the search for an order of one history: it is found within seconds, or hardly at all.
const checkTimeout = 30 * time.Second

// check fails the test if no order of the operations, each between its call and its answer, explains all answers. It
// reports false if there are too many orders to tell.
func (o *organization) check(t *testing.T) (decided bool) {
	t.Helper()
	result, info := porcupine.CheckOperationsVerbose(model, o.history, checkTimeout)
	switch result {
	case porcupine.Ok:
		return true
	case porcupine.Unknown:
		t.Logf("the history of %s, %d operations, could not be decided within %s", o.name, len(o.history), checkTimeout)
		return false
	}
	dir := t.ArtifactDir()
	picture := filepath.Join(dir, o.name+".html")
	if err := porcupine.VisualizePath(model, info, picture); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, o.name+".txt"), []byte(list(o.history)), 0o600); err != nil {
		t.Error(err)
	}
	t.Fatalf("the history of %s is not linearizable. All of it is in %s and beside it (kept by go test -artifacts).\n%s", o.name, picture, explain(o.history, info))
	return false
}

// explain says how far the best order of a history goes, and before which operations it ends.
func explain(history []porcupine.Operation, info porcupine.LinearizationInfo) string {
	const enough = 20
	var best []porcupine.Operation
	for _, orders := range info.PartialLinearizationsOperations() {
		for _, order := range orders {
			if len(order) > len(best) {
				best = order
			}
		}
	}
	reached := state{}
	for _, op := range best {
		_, reached = reached.step(op.Input.(input), op.Output.(output))
	}
	rest := slices.DeleteFunc(slices.Clone(history), func(op porcupine.Operation) bool {
		return slices.ContainsFunc(best, func(b porcupine.Operation) bool { return b.Call == op.Call && b.ClientId == op.ClientId })
	})
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	return fmt.Sprintf("The best order that was found ends with\n%sin the state %s. It cannot go on with\n%s",
		list(best[max(0, len(best)-enough):]), reached, list(rest[:min(len(rest), enough)]))
}

// list prints operations, in the given order.
func list(history []porcupine.Operation) string {
	var b strings.Builder
	for _, op := range history {
		answered := "never"
		if op.Return != math.MaxInt64 {
			answered = time.Duration(op.Return).Round(time.Microsecond).String()
		}
		fmt.Fprintf(&b, "%12s to %12s  client %d  %s\n", time.Duration(op.Call).Round(time.Microsecond), answered, op.ClientId, describe(op.Input.(input), op.Output.(output)))
	}
	return b.String()
}
