package crash

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"net/http"
	"strings"

	"github.com/anishathalye/porcupine"
)

// The model says what the clients of one organization may observe: its tags, all in one repository, and its policies.
//
// A tag is locked
//   - while it is held by hand;
//   - while an enforced policy covers it, from the moment at which the policy is stored. Whether the policy's sweep has
//     come by is nothing that a client can tell: before, the tag is locked because it is covered, after, twice;
//   - retained: after a policy with the reclaim policy Retain that covered it was withdrawn, narrowed or put on a dry
//     run. Until a sweep has placed each hold, the old revision stays in force as a closing one; then there are the
//     holds. Both lock. A client can tell them apart in one way: a hold that is left of a policy can be removed by hand
//     (201), but not while a closing revision covers the tag (409). So both answers are right as long as the model does
//     not say which it is, and 201 says that the sweep is over;
//   - perhaps, fading: after a policy that covered or retained it came to have the reclaim policy Release, and does not
//     cover it any more. There may be a hold until a sweep removes it, or there was none yet. This ends once and does not
//     come back, so what shows that the tag is not locked ends it for the model too.
//
// An operation whose answer was lost may have been carried out at any time after its call, or never. It is legal in every
// state, does what it can there, and never returns: an operation that never happened is one that came last.
const (
	modelTags     = 3
	modelPolicies = 24
	modelImages   = 1024
)

type operationKind int

const (
	opPush operationKind = iota
	opReadTag
	opReadManifest
	opInspect
	opDeleteTag
	opDeleteManifest
	opHold
	opUnhold
	opCreatePolicy
	opUpdatePolicy
	opDeletePolicy
	opListPolicies
)

// tagSet is a set of tags, by number.
type tagSet uint8

func (s tagSet) has(tag int) bool { return s>>tag&1 == 1 }

// policySet is a set of policies, by number.
type policySet uint32

// policySpec is what a policy declares.
type policySpec struct {
	covers  tagSet
	dryRun  bool
	release bool
}

// locks reports whether the policy locks a tag.
func (s policySpec) locks(tag int) bool { return !s.dryRun && s.covers.has(tag) }

// input is an operation. Which fields count depends on the kind.
type input struct {
	kind operationKind
	tag  int
	// image is the number of the image, from 1.
	image int
	// policy is the number of the policy.
	policy int
	spec   policySpec
}

// output is the answer to an operation.
type output struct {
	// lost is true if there was none: nobody knows whether the operation was carried out.
	lost   bool
	status int
	// image is what a tag points to, 0 if the tag is not there.
	image     int
	immutable bool
	policies  [modelPolicies]policyState
}

// is reports whether the answer may have been this one.
func (o output) is(status int) bool { return o.lost || o.status == status }

// done reports whether an operation that a lock refuses was carried out, and whether the answer is legal.
func (o output) done(l lock, ok, refused int) (done, legal bool) {
	switch {
	case o.lost:
		return l != locked, true
	case o.status == ok:
		return true, l != locked
	default:
		return false, o.status == refused && l != unlocked
	}
}

type tagState struct {
	// image is 0 for a tag that is not there.
	image  uint16
	byHand bool
	// retained and fading are the policies that lock the tag without covering it.
	retained, fading policySet
}

type policyState struct {
	live bool
	policySpec
}

// state is a state of the model. It is compared by ==.
type state struct {
	tags      [modelTags]tagState
	manifests [modelImages / 64]uint64
	policies  [modelPolicies]policyState
}

type lock int

const (
	unlocked lock = iota
	perhaps
	locked
)

func (s *state) covered(tag int) bool {
	for _, p := range s.policies {
		if p.live && p.locks(tag) {
			return true
		}
	}
	return false
}

// lock says whether a tag is locked.
func (s *state) lock(tag int) lock {
	switch t := s.tags[tag]; {
	case t.image == 0:
		return unlocked
	case t.byHand || t.retained != 0 || s.covered(tag):
		return locked
	case t.fading != 0:
		return perhaps
	default:
		return unlocked
	}
}

func (s *state) hasManifest(image int) bool { return s.manifests[image/64]>>(image%64)&1 == 1 }

// step carries out an operation on a copy of the state, and reports whether the answer is legal.
func (s state) step(in input, out output) (bool, state) {
	t := &s.tags[in.tag]
	switch in.kind {
	case opPush:
		return s.push(in, out)
	case opReadTag:
		return out.status == found(t.image != 0, http.StatusOK) && out.image == int(t.image), s
	case opReadManifest:
		return out.status == found(s.hasManifest(in.image), http.StatusOK), s
	case opInspect:
		return s.inspect(in, out)
	case opDeleteTag:
		if t.image == 0 {
			return out.is(http.StatusNotFound), s
		}
		done, legal := out.done(s.lock(in.tag), http.StatusAccepted, http.StatusUnprocessableEntity)
		if done {
			*t = tagState{}
		}
		return legal, s
	case opDeleteManifest:
		return s.deleteManifest(in, out)
	case opHold:
		if t.image != 0 {
			t.byHand = true
		}
		return out.is(found(t.image != 0, http.StatusCreated)), s
	case opUnhold:
		return s.unhold(in, out)
	case opListPolicies:
		return out.status == http.StatusOK && out.policies == s.policies, s
	default:
		return s.changePolicy(in, out)
	}
}

// found is the answer to an operation on what may not be there.
func found(is bool, status int) int {
	if is {
		return status
	}
	return http.StatusNotFound
}

func (s state) push(in input, out output) (bool, state) {
	t := &s.tags[in.tag]
	if int(t.image) == in.image {
		return out.is(http.StatusCreated), s
	}
	done, legal := out.done(s.lock(in.tag), http.StatusCreated, http.StatusUnprocessableEntity)
	if done {
		*t = tagState{image: uint16(in.image)}
		s.manifests[in.image/64] |= 1 << (in.image % 64)
	}
	return legal, s
}

func (s state) deleteManifest(in input, out output) (bool, state) {
	if !s.hasManifest(in.image) {
		return out.is(http.StatusNotFound), s
	}
	most := unlocked
	for tag, t := range s.tags {
		if int(t.image) == in.image {
			most = max(most, s.lock(tag))
		}
	}
	done, legal := out.done(most, http.StatusAccepted, http.StatusUnprocessableEntity)
	if done {
		s.manifests[in.image/64] &^= 1 << (in.image % 64)
		for tag, t := range s.tags {
			if int(t.image) == in.image {
				s.tags[tag] = tagState{}
			}
		}
	}
	return legal, s
}

// inspect is a read that tells whether the tag is immutable.
func (s state) inspect(in input, out output) (bool, state) {
	t, is := &s.tags[in.tag], s.lock(in.tag)
	if !out.immutable {
		t.fading = 0
	}
	return out.status == http.StatusOK && out.image == int(t.image) && (is == perhaps || out.immutable == (is == locked)), s
}

func (s state) unhold(in input, out output) (bool, state) {
	t := &s.tags[in.tag]
	switch {
	case t.image == 0:
		return out.is(http.StatusNotFound), s
	case s.covered(in.tag):
		return out.is(http.StatusConflict), s
	case out.status == http.StatusConflict:
		return t.retained != 0 || t.fading != 0, s
	}
	*t = tagState{image: t.image}
	return out.is(http.StatusCreated), s
}

func (s state) changePolicy(in input, out output) (bool, state) {
	p := &s.policies[in.policy]
	switch {
	case in.kind == opCreatePolicy:
		*p = policyState{live: true, policySpec: in.spec}
		return out.is(http.StatusCreated), s
	case !p.live:
		return out.is(http.StatusNotFound), s
	case in.kind == opDeletePolicy:
		old := p.policySpec
		*p = policyState{}
		s.withdraw(in.policy, old, policySpec{release: old.release})
		return out.is(http.StatusOK), s
	default:
		old := p.policySpec
		p.policySpec = in.spec
		if old != in.spec {
			s.withdraw(in.policy, old, in.spec)
		}
		return out.is(http.StatusNoContent), s
	}
}

// withdraw is what the change of a policy leaves behind.
func (s *state) withdraw(policy int, old, now policySpec) {
	own := policySet(1) << policy
	for tag := range s.tags {
		t := &s.tags[tag]
		if t.image == 0 {
			continue
		}
		if now.locks(tag) {
			t.fading &^= own
		}
		switch {
		case !now.release && old.locks(tag) && (old.covers != now.covers || old.dryRun != now.dryRun):
			t.retained |= own
		case now.release && !now.locks(tag) && (old.locks(tag) || t.retained&own != 0):
			t.retained &^= own
			t.fading |= own
		}
	}
}

func (i input) String() string {
	tag, image, policy := tagName(i.tag), fmt.Sprintf("image%d", i.image), fmt.Sprintf("policy%d", i.policy)
	switch i.kind {
	case opPush:
		return "push " + tag + "=" + image
	case opReadTag:
		return "read " + tag
	case opReadManifest:
		return "read " + image
	case opInspect:
		return "inspect " + tag
	case opDeleteTag:
		return "delete " + tag
	case opDeleteManifest:
		return "delete " + image
	case opHold:
		return "hold " + tag
	case opUnhold:
		return "unhold " + tag
	case opCreatePolicy:
		return "create " + policy + " " + i.spec.String()
	case opUpdatePolicy:
		return "update " + policy + " " + i.spec.String()
	case opDeletePolicy:
		return "delete " + policy
	default:
		return "list policies"
	}
}

func (s policySpec) String() string {
	mode, reclaim := "Enforce", "Retain"
	if s.dryRun {
		mode = "DryRun"
	}
	if s.release {
		reclaim = "Release"
	}
	return "{" + s.covers.String() + " " + mode + " " + reclaim + "}"
}

func (s tagSet) String() string {
	var names []string
	for tag := range modelTags {
		if s.has(tag) {
			names = append(names, tagName(tag))
		}
	}
	return strings.Join(names, "|")
}

// describe is an operation with its answer.
func describe(in input, out output) string {
	if out.lost {
		return in.String() + " -> lost"
	}
	answer := fmt.Sprintf("%s -> %d", in, out.status)
	switch in.kind {
	case opReadTag, opInspect:
		answer += fmt.Sprintf(" image%d", out.image)
	case opListPolicies:
		answer += describePolicies(out.policies)
	}
	if in.kind == opInspect {
		answer += fmt.Sprintf(" immutable=%t", out.immutable)
	}
	return answer
}

func describePolicies(policies [modelPolicies]policyState) string {
	var b strings.Builder
	for n, p := range policies {
		if p.live {
			fmt.Fprintf(&b, " policy%d %s", n, p.policySpec)
		}
	}
	return b.String()
}

func (s state) String() string {
	var b strings.Builder
	for n, t := range s.tags {
		if t.image != 0 {
			fmt.Fprintf(&b, "%s=image%d by hand %t, retained %d, fading %d; ", tagName(n), t.image, t.byHand, bits.OnesCount32(uint32(t.retained)), bits.OnesCount32(uint32(t.fading)))
		}
	}
	return b.String() + describePolicies(s.policies)
}

var seed = maphash.MakeSeed()

// model is the model for the checker.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Hash: func(s any) uint64 { return maphash.Comparable(seed, s.(state)) },
	Step: func(s, in, out any) (bool, any) {
		legal, next := s.(state).step(in.(input), out.(output))
		return legal, next
	},
	DescribeOperation: func(in, out any) string { return describe(in.(input), out.(output)) },
	DescribeState:     func(s any) string { return s.(state).String() },
}
