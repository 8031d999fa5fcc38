package compliance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// call is what a client asked for, with what came of it.
type call struct {
	what         string
	method, path string
	contentType  string
	body         []byte
	begin, end   time.Time
	status       int
	answer       []byte
	lost         bool
	// from and to are sizes of the log between which it happened.
	from, to int64

	// allowed are the statuses that a client may get.
	allowed []int
	// causes reports whether the call may have made an entry, other than of its refusal.
	causes func(entry) bool
	refusal
	// fact says what is wrong if the answer cannot be true, empty if it can.
	fact func(m *model, c *call) string
}

// refusal is what the log says if a lock refuses a call, or a dry run would have.
type refusal struct {
	// kind is empty where there are several.
	kind string
	// refuses selects the entries of all calls that are repeats of one another.
	refuses func(entry) bool
	// attempted is the digest that was asked for, empty if it is not told.
	attempted string
}

// isRefusal reports whether an entry is the first of a refused attempt.
func isRefusal(e entry) bool { return strings.HasSuffix(e.Kind, "_failed") && !e.has("repeat_of") }

// mayCause reports whether an entry may have come from the call.
func (c *call) mayCause(e entry) bool {
	if !isRefusal(e) && e.Kind != "immutability_dry_run" {
		return c.causes(e)
	}
	return c.mayRepeat(e) && (c.attempted == "" || !e.has("attempted_digest") || e.text("attempted_digest") == c.attempted)
}

// mayRepeat reports whether the call, if it was refused, may be a repeat of what an entry tells.
func (c *call) mayRepeat(e entry) bool {
	return c.refuses != nil && (c.kind == "" || e.Kind == c.kind || e.Kind == "immutability_dry_run") && c.refuses(e)
}

func (c *call) String() string {
	answer := strings.Join(strings.Fields(string(c.answer[:min(len(c.answer), 300)])), " ")
	return fmt.Sprintf("%s -> %d %s (between %d and %d)", c.what, c.status, answer, c.from, c.to)
}

// refused reports whether a lock refused the call, and by which tags it was answered to be locked.
func (c *call) refused() (tags []string, is bool) {
	var problem struct {
		Errors []struct {
			Code   string
			Detail json.RawMessage
		}
		Locked *struct{ Tags []string }
	}
	if c.lost || c.status != http.StatusUnprocessableEntity && c.status != http.StatusConflict || json.Unmarshal(c.answer, &problem) != nil {
		return nil, false
	}
	if problem.Locked != nil {
		return problem.Locked.Tags, true
	}
	return nil, len(problem.Errors) > 0 && problem.Errors[0].Code == "TAG_IMMUTABLE"
}

// kinds selects entries by kind.
func kinds(names ...string) func(entry) bool {
	return func(e entry) bool { return slices.Contains(names, e.Kind) }
}

// all selects the entries that all of the selections select.
func all(selections ...func(entry) bool) func(entry) bool {
	return func(e entry) bool {
		return !slices.ContainsFunc(selections, func(s func(entry) bool) bool { return !s(e) })
	}
}

// either selects the entries that one of the selections selects.
func either(selections ...func(entry) bool) func(entry) bool {
	return func(e entry) bool {
		return slices.ContainsFunc(selections, func(s func(entry) bool) bool { return s(e) })
	}
}

// where selects the entries whose metadata has the given values: field, value, field, value and so on.
func where(pairs ...string) func(entry) bool {
	return func(e entry) bool {
		for i := 0; i < len(pairs); i += 2 {
			if e.text(pairs[i]) != pairs[i+1] {
				return false
			}
		}
		return true
	}
}

// about selects the entries about a tag.
func about(name tagName) func(entry) bool {
	return func(e entry) bool { return e.repository() == name.repository && e.text("tag") == name.tag }
}

// within selects the entries about a repository and what is in it.
func within(repository string) func(entry) bool {
	return func(e entry) bool { return e.repository() == repository }
}

// without selects the entries that have no such field.
func without(field string) func(entry) bool { return func(e entry) bool { return !e.has(field) } }

// obtains selects what a push makes if it is not there: the repository, and its organization.
func obtains(repository string) func(entry) bool {
	organization, _, _ := strings.Cut(repository, "/")
	return either(all(kinds("create_repo"), within(repository)), all(kinds("org_create"), where("namespace", organization)))
}

// moves selects the entries of a tag that comes to point to a digest.
func moves(name tagName, digest string, names ...string) func(entry) bool {
	return all(about(name), kinds(names...), where("manifest_digest", digest))
}
