package history

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidelock/tidelock/registry/domain"
)

func number(n int64) string { return strconv.FormatInt(n, 10) }

// String names the performer: "user alice", "Kubernetes user carol with ImmutabilityPolicy team-a/releases".
func (p Performer) String() string {
	name := strings.TrimSpace(string(p.Kind) + " " + p.Name)
	if p.Kind == domain.CallerSystem || p.Kind == domain.CallerOperator || p.Kind == domain.CallerAnonymous {
		name = string(p.Kind) // their name says the same again
	}
	if p.AppliedBy != "" {
		name = "Kubernetes user " + p.AppliedBy
	}
	if p.Resource != "" {
		name += " with " + p.Resource
	}
	if p.RevisionClaimed != "" {
		name += ", which claims to be revision " + p.RevisionClaimed
	}
	return name
}

// String says what locked the tag.
func (r Reason) String() string {
	if r.Cause == CauseManual {
		return fmt.Sprintf("by hand (%s, entry %d)", r.By, r.Entry)
	}
	pattern := "pattern " + r.Pattern
	if r.Inverted {
		pattern = "all but pattern " + r.Pattern
	}
	what := "by policy "
	if r.Cause == CauseHold {
		what = "by a hold of policy "
	}
	return fmt.Sprintf("%s%s (%s, scope %s, revision %d, applied by %s, entry %d)", what, r.Policy, pattern, r.Scope, r.Revision, r.By, r.Entry)
}

// Statements say in sentences when and by what the tag was locked, and first of all what they cannot say.
func (h *History) Statements(name domain.RepositoryName, tag string, period Period) (list []string) {
	full := name.String() + ":" + tag
	known := ""
	if period.PrunedBefore > 0 {
		known = "As far as the entries tell that are left, "
		list = append(list, fmt.Sprintf("The entries before %d were archived and pruned; what only they say of %s is missing here.", period.PrunedBefore, full))
	}
	if len(h.Locks) == 0 {
		return append(list, fmt.Sprintf("%s%s was not locked before entry %d.", known, full, period.To))
	}
	for _, lock := range h.Locks {
		list = append(list, known+h.statement(full, lock, period.To))
	}
	return list
}

func (h *History) statement(full string, lock Lock, end int64) string {
	until := func(to *Moment) string {
		if to == nil {
			return "entry " + number(end) + ", where this report ends"
		}
		return when(*to)
	}
	by := ""
	if len(lock.Reasons) == 1 {
		by = " " + lock.Reasons[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s was locked%s without interruption from %s to %s; %s refused.", full, by, when(lock.From), until(lock.To), attempts(lock.Refused))
	if len(lock.Reasons) > 1 {
		for _, r := range lock.Reasons {
			fmt.Fprintf(&b, "\n  It was locked %s from %s to %s.", r, when(r.From), until(r.To))
		}
	}
	within := h.pointedIn(lock)
	switch {
	case len(within) == 1:
		fmt.Fprintf(&b, "\n  All the while it pointed to %s.", within[0].Digest)
	case len(within) > 1:
		fmt.Fprintf(&b, "\n  It pointed to %s at first and was added to %d times, as a signature tag may be.", within[0].Digest, len(within)-1)
	}
	return b.String()
}

func attempts(n int64) string {
	if n == 1 {
		return "1 attempt was"
	}
	return number(n) + " attempts were"
}

// pointedIn lists the manifests that the tag pointed to while it was locked.
func (h *History) pointedIn(lock Lock) (list []Pointed) {
	for _, p := range h.Digests {
		if (lock.To == nil || p.From.Index < lock.To.Index) && (p.To == nil || p.To.Index > lock.From.Index) {
			list = append(list, p)
		}
	}
	return list
}
