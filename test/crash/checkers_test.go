package crash

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/openapi"
)

// The operations of the histories below, on the tag a unless said otherwise.

func push(image int) input         { return input{kind: opPush, image: image} }
func update(spec policySpec) input { return input{kind: opUpdatePolicy, spec: spec} }
func answered(status int) output   { return output{status: status} }

var (
	retain     = policySpec{covers: 1}
	release    = policySpec{covers: 1, release: true}
	uncovering = policySpec{covers: 2}

	create     = input{kind: opCreatePolicy, spec: retain}
	withdraw   = input{kind: opDeletePolicy}
	read       = input{kind: opReadTag}
	inspect    = input{kind: opInspect}
	deleteTag  = input{kind: opDeleteTag}
	hold       = input{kind: opHold}
	unhold     = input{kind: opUnhold}
	list1      = input{kind: opListPolicies}
	lost       = output{lost: true}
	ok         = answered(http.StatusOK)
	created    = answered(http.StatusCreated)
	accepted   = answered(http.StatusAccepted)
	noContent  = answered(http.StatusNoContent)
	absent     = answered(http.StatusNotFound)
	conflict   = answered(http.StatusConflict)
	refused    = answered(http.StatusUnprocessableEntity)
	mutable1   = output{status: http.StatusOK, image: 1}
	mutable2   = output{status: http.StatusOK, image: 2}
	immutable1 = output{status: http.StatusOK, image: 1, immutable: true}
)

func deleteImage(image int) input { return input{kind: opDeleteManifest, image: image} }
func readsImage(image int) output { return output{status: http.StatusOK, image: image} }

func listed(spec policySpec) output {
	out := answered(http.StatusOK)
	out.policies[0] = policyState{live: true, policySpec: spec}
	return out
}

// answer is an operation with its answer.
type answer struct {
	in  input
	out output
}

// sequence makes a history of operations that follow on one another; what was lost never returns.
func sequence(answers ...answer) (history []porcupine.Operation) {
	for n, a := range answers {
		op := porcupine.Operation{Input: a.in, Output: a.out, Call: int64(2 * n), Return: int64(2*n + 1)}
		if a.out.lost {
			op.Return = math.MaxInt64
		}
		history = append(history, op)
	}
	return history
}

func TestModelKnowsWhatIsLegal(t *testing.T) {
	for name, test := range map[string]struct {
		history []answer
		legal   bool
	}{
		"a push is read":                            {[]answer{{push(1), created}, {read, readsImage(1)}}, true},
		"an acknowledged push is lost":              {[]answer{{push(1), created}, {read, absent}}, false},
		"an acknowledged move is lost":              {[]answer{{push(1), created}, {push(2), created}, {read, readsImage(1)}}, false},
		"other bytes are read":                      {[]answer{{push(1), created}, {read, readsImage(-1)}}, false},
		"an acknowledged deletion is lost":          {[]answer{{push(1), created}, {deleteTag, accepted}, {read, readsImage(1)}}, false},
		"a lost push never happened":                {[]answer{{push(1), lost}, {read, absent}, {read, absent}}, true},
		"a lost push happened late":                 {[]answer{{push(1), lost}, {read, absent}, {read, readsImage(1)}}, true},
		"a lost push happened and was undone":       {[]answer{{push(1), lost}, {read, readsImage(1)}, {read, absent}}, false},
		"a lost push was refused":                   {[]answer{{push(1), created}, {hold, created}, {push(2), lost}, {read, readsImage(1)}}, true},
		"a lost push went through a hold":           {[]answer{{push(1), created}, {hold, created}, {push(2), lost}, {read, readsImage(2)}}, false},
		"a refusal without a lock":                  {[]answer{{push(1), created}, {push(2), refused}}, false},
		"an answer that nobody foresaw":             {[]answer{{push(1), answered(http.StatusInternalServerError)}}, false},
		"a manifest stays when its tag goes":        {[]answer{{push(1), created}, {deleteTag, accepted}, {deleteImage(1), accepted}, {deleteImage(1), absent}}, true},
		"a manifest goes with its tag":              {[]answer{{push(1), created}, {deleteTag, accepted}, {deleteImage(1), absent}}, false},
		"a deletion by digest leaves the tag":       {[]answer{{push(1), created}, {deleteImage(1), accepted}, {read, readsImage(1)}}, false},
		"a hold refuses a deletion by digest":       {[]answer{{push(1), created}, {hold, created}, {deleteImage(1), refused}, {unhold, created}, {deleteImage(1), accepted}}, true},
		"a deletion by digest walks around a hold":  {[]answer{{push(1), created}, {hold, created}, {deleteImage(1), accepted}}, false},
		"a covered tag is overwritten":              {[]answer{{push(1), created}, {create, created}, {push(2), created}}, false},
		"a covered tag is deleted":                  {[]answer{{push(1), created}, {create, created}, {deleteTag, accepted}}, false},
		"a covered tag is pushed as it is":          {[]answer{{push(1), created}, {create, created}, {push(1), created}}, true},
		"the push of what a covered tag is refused": {[]answer{{push(1), created}, {create, created}, {push(1), refused}}, false},
		"a tag is created under a policy":           {[]answer{{create, created}, {push(1), created}, {push(2), refused}, {inspect, immutable1}}, true},
		"a covered tag does not look immutable":     {[]answer{{create, created}, {push(1), created}, {inspect, mutable1}}, false},
		"a hold is removed though a policy covers":  {[]answer{{create, created}, {push(1), created}, {unhold, created}}, false},
		"a dry run locks nothing":                   {[]answer{{input{kind: opCreatePolicy, spec: policySpec{covers: 1, dryRun: true}}, created}, {push(1), created}, {push(2), created}}, true},
		"an acknowledged policy is lost":            {[]answer{{create, created}, {list1, ok}}, false},
		"a lost policy came to be":                  {[]answer{{create, lost}, {list1, listed(retain)}, {update(uncovering), noContent}, {list1, listed(uncovering)}}, true},
		"a withdrawn policy is still there":         {[]answer{{create, created}, {withdraw, ok}, {update(uncovering), noContent}}, false},

		"a withdrawn Retain policy keeps its lock":        {[]answer{{push(1), created}, {create, created}, {withdraw, ok}, {push(2), refused}, {inspect, immutable1}}, true},
		"a withdrawn Retain policy lets go":               {[]answer{{push(1), created}, {create, created}, {withdraw, ok}, {push(2), created}}, false},
		"a narrowed Retain policy lets go":                {[]answer{{push(1), created}, {create, created}, {update(uncovering), noContent}, {deleteTag, accepted}}, false},
		"a retained hold is removed, at once or later":    {[]answer{{push(1), created}, {create, created}, {withdraw, ok}, {unhold, conflict}, {unhold, created}, {push(2), created}}, true},
		"a removed retained hold comes back":              {[]answer{{push(1), created}, {create, created}, {withdraw, ok}, {unhold, created}, {push(2), refused}}, false},
		"a policy retains what it covered, not new tags":  {[]answer{{create, created}, {withdraw, ok}, {push(1), created}, {push(2), created}}, true},
		"a withdrawn Release policy lets go in time":      {[]answer{{push(1), created}, {create, created}, {update(release), noContent}, {withdraw, ok}, {push(2), refused}, {push(2), created}}, true},
		"a withdrawn Release policy lets go at once":      {[]answer{{push(1), created}, {create, created}, {update(release), noContent}, {withdraw, ok}, {push(2), created}, {inspect, mutable2}}, true},
		"a hold that a sweep released comes back":         {[]answer{{push(1), created}, {create, created}, {update(release), noContent}, {withdraw, ok}, {inspect, mutable1}, {push(2), refused}}, false},
		"a Release policy drops what it retained":         {[]answer{{push(1), created}, {create, created}, {update(uncovering), noContent}, {update(policySpec{covers: 2, release: true}), noContent}, {push(2), created}}, true},
		"a Release policy drops a hold of somebody else":  {[]answer{{push(1), created}, {hold, created}, {create, created}, {update(release), noContent}, {withdraw, ok}, {push(2), created}}, false},
		"a Release policy still locks what it covers now": {[]answer{{push(1), created}, {create, created}, {update(release), noContent}, {push(2), created}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			want := porcupine.Illegal
			if test.legal {
				want = porcupine.Ok
			}
			NewWithT(t).Expect(porcupine.CheckOperationsTimeout(model, sequence(test.history...), time.Minute)).To(Equal(want))
		})
	}
}

func TestModelOrdersWhatIsConcurrent(t *testing.T) {
	g := NewWithT(t)
	// Two pushes and two reads, all at once: each may have come first, but the readers must agree.
	history := sequence(answer{push(1), created}, answer{push(2), created}, answer{read, readsImage(2)}, answer{read, readsImage(1)})
	history[0].Return, history[1].Call = 10, 0
	history[1].Return, history[2].Call = 10, 0
	g.Expect(porcupine.CheckOperations(model, history)).To(BeTrue())
	after := sequence(answer{read, readsImage(1)}, answer{read, readsImage(2)})
	for n := range after {
		after[n].Call, after[n].Return = after[n].Call+20, after[n].Return+20
	}
	g.Expect(porcupine.CheckOperations(model, append(history, after[0]))).To(BeTrue())
	g.Expect(porcupine.CheckOperations(model, append(history, after...))).To(BeFalse())
}

func TestAViolationIsExplained(t *testing.T) {
	g := NewWithT(t)
	history := sequence(answer{push(1), created}, answer{create, created}, answer{push(2), lost}, answer{read, readsImage(2)}, answer{read, readsImage(1)})
	result, info := porcupine.CheckOperationsVerbose(model, history, time.Minute)
	g.Expect(result).To(Equal(porcupine.Illegal))
	best, rest, found := strings.Cut(explain(history, info), "in the state a=image1")
	g.Expect(found).To(BeTrue(), best)
	g.Expect(best).To(ContainSubstring("create policy0 {a Enforce Retain} -> 201"))
	g.Expect(rest).To(ContainSubstring("read a -> 200 image2"))
}

func TestAuditLogMustFit(t *testing.T) {
	about := func(kind string, metadata map[string]any) openapi.LogItem {
		metadata["namespace"], metadata["repo"], metadata["tag"] = "o", "app", "a"
		return openapi.LogItem{Kind: kind, Metadata: metadata}
	}
	create := about("create_tag", map[string]any{"manifest_digest": "d1"})
	move := about("move_tag", map[string]any{"manifest_digest": "d2", "original_manifest_digest": "d1"})
	remove := about("delete_tag", map[string]any{"manifest_digest": "d1"})
	hold := about("change_tag_immutability", map[string]any{"manifest_digest": "d1", "trigger": "policy", "policy_uuid": "p", "hold": "placed"})
	release := about("change_tag_immutability", map[string]any{"manifest_digest": "d1", "trigger": "policy", "policy_uuid": "p", "hold": "removed"})
	born := about("tag_created_immutable_by_policy", map[string]any{"manifest_digest": "d1", "policy_uuid": "p"})
	policy := about("create_immutability_policy", map[string]any{"policy_uuid": "p", "revision": 1.0, "tag_pattern": "a", "enforcement_mode": "Enforce"})
	later := about("update_immutability_policy", map[string]any{"policy_uuid": "p", "revision": 3.0, "previous_tag_pattern": "a", "previous_enforcement_mode": "Enforce"})

	for name, test := range map[string]struct {
		entries []openapi.LogItem
		err     string
	}{
		"a whole life":                    {[]openapi.LogItem{create, hold, release, move}, ""},
		"a tag that is created twice":     {[]openapi.LogItem{create, create}, "there already"},
		"a move without a creation":       {[]openapi.LogItem{move}, "not there"},
		"a move whose predecessor misses": {[]openapi.LogItem{create, move, move}, "points to d2"},
		"a deletion of another digest":    {[]openapi.LogItem{create, move, remove}, "points to d2"},
		"a hold that is placed twice":     {[]openapi.LogItem{create, born, hold}, "no place"},
		"a hold that is removed twice":    {[]openapi.LogItem{create, hold, release, release}, "no hold"},
		"a held tag that moves":           {[]openapi.LogItem{create, hold, move}, "is held"},
		"a covered tag that goes":         {[]openapi.LogItem{create, policy, remove}, "is covered"},
		"a revision that misses":          {[]openapi.LogItem{policy, later}, "is at revision 1"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			log := newAuditLog()
			var err error
			for n, item := range test.entries {
				g.Expect(err).NotTo(HaveOccurred())
				item.Index = int64(n)
				err = log.add(item)
			}
			if test.err == "" {
				g.Expect(err).NotTo(HaveOccurred())
			} else {
				g.Expect(err).To(MatchError(ContainSubstring(test.err)))
			}
		})
	}
	gap := create
	gap.Index = 1
	NewWithT(t).Expect(newAuditLog().add(gap)).To(MatchError(ContainSubstring("index 1")))
}
