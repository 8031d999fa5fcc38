package core_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

var update = flag.Bool("update", false, "write docs/bypasses.md instead of comparing it")

// quayTest says where a behaviour is tested that Quay's tests check.
type quayTest struct {
	// names are Quay's, file the one of ours below registry/, spec the text of a spec in it.
	names, file, spec string
}

var quayTests = []quayTest{
	{"pattern_too_long", "core/policies_test.go", "too long"},
	{"invalid_regex", "core/policies_test.go", "invalid regex"},
	{"inverted_match", "core/policies_test.go", "inverted"},
	{"star_quantifier_without_anchors", "core/policies_test.go", "star without anchors"},
	{"inverted_star_quantifier", "core/policies_test.go", "inverted star"},
	{"same_pattern_different_matches_rejected, update_to_duplicate_pattern_raises", "core/policies_test.go", "is refused twice in a scope, also by an update, and is not in two scopes"},
	{"namespace_policy_marks_matching_tags, create_namespace_policy_logs_retroactive_changes", "core/policies_test.go", "locks the tags that are there, retroactively, with an entry each and one summary"},
	{"inverted_pattern_marks_non_matching_tags", "core/policies_test.go", "covers by whole name, case-sensitively, inverted if told so"},
	{"update_policy_marks_newly_matching_tags", "core/policies_test.go", "marks nothing anew when it is widened and narrowed again"},
	{"delete_policy_does_not_unmark_tags", "core/policies_test.go", "retains its holds by default, until they are released"},
	{"batch_processing_large_number_of_tags, namespace_policy_affects_multiple_repositories", "core/policies_test.go", "sweeps more than 1,000 tags over several repositories, each to exactly one entry"},
	{"create_namespace_policy_no_log_when_no_tags_affected", "core/policies_test.go", "writes no summary when no tag is affected"},
	{"expired_tags_not_affected, hidden_tags_not_affected (no tag is hidden here)", "core/quay_test.go", "expired_tags_not_affected"},
	{"create_namespace_, create_repository_, update_namespace_, update_repository_policy_rolls_back_on_failure", "core/quay_test.go", "create_and_update_policy_rolls_back_on_failure"},
	{"retroactive_policy_clears_expiration", "core/expiration_test.go", "goes when the tag is locked, by a sweep and by hand, with an entry"},
	{"matches_policy_does_not_hang", "core/bypasses_test.go", "Make the pattern hang"},
	{"delete_by_digest_blocks_if_immutable_tag_exists", "core/locks_test.go", "blocks_if_immutable_tag_exists"},
	{"delete_by_digest_succeeds_if_all_tags_mutable", "core/locks_test.go", "succeeds_if_all_tags_mutable"},
	{"delete_by_digest_with_mixed_tags", "core/locks_test.go", "with_mixed_tags"},
	{"delete_by_tag_still_blocks_immutable, delete_manifest_by_tag_immutable, remove_alive_immutable_tag_returns_false", "core/locks_test.go", "delete_by_tag_still_blocks_immutable"},
	{"delete_manifest_by_digest_immutable, delete_tags_for_manifest_raises_on_immutable", "core/bypasses_test.go", "Delete by digest"},
	{"remove_immutability_denied_for_non_admin", "core/bypasses_test.go", "Let an admin robot clear the flag"},
	{"delete_immutable_tag", "core/bypasses_test.go", "Delete it"},
	{"retarget_immutable_tag, write_manifest_by_tagname_immutable, push_immutable_tag_blocked", "core/bypasses_test.go", "Overwrite it"},
	{"restore_immutable_tag", "core/bypasses_test.go", "Restore an older state"},
	{"push_different_tag_with_immutable_tag_succeeds", "core/bypasses_test.go", "Write it in other letters"},
	{"set_immutability_idempotent", "core/locks_test.go", "is locked and unlocked by hand, idempotently, with an entry each"},
	{"change_tag_expiration_blocked_on_immutable_tag", "mgmtapi/tags_test.go", "change_tag_expiration_blocked_on_immutable_tag"},
	{"prune_tags_skips_immutable_tags", "core/bypasses_test.go", "Put one locked tag among those that expire"},
	{"gc_skips_immutable_tags", "core/bypasses_test.go", "Wait for garbage collection"},
	{"delete_tag_skips_immutable_cosign_sibling", "core/quay_test.go", "delete_tag_skips_immutable_cosign_sibling"},
}

// bypassesDocument writes docs/bypasses.md.
func bypassesDocument() string {
	var b strings.Builder
	b.WriteString(`# Ways around a lock

<!-- Made from registry/core/bypasses_test.go by: go test ./registry/core -run TestBypassesDocument -update -->

What people have done, in other registries and in thought, to change a tag that may not change. Each row is a test that runs on
every storage engine (` + "`go test ./registry/core -ginkgo.focus 'no way around'`" + `). "Locked" means: by a policy that covers the tag now, or
by a hold.
`)
	for _, c := range bypasses {
		fmt.Fprintf(&b, "\n## %s\n\n| way | what somebody does | what happens | why |\n|---|---|---|---|\n", c.title)
		for _, row := range c.rows {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(row.name), cell(row.attempt), cell(row.outcome), cell(row.why))
		}
	}
	b.WriteString("\n## What Quay tests\n\nQuay's own tests of immutability, by name, and the spec that checks the same here.\n\n| test | spec | in |\n|---|---|---|\n")
	for _, q := range quayTests {
		fmt.Fprintf(&b, "| %s | %s | `registry/%s` |\n", cell(q.names), cell(q.spec), q.file)
	}
	return b.String()
}

// cell escapes what would end a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func TestBypassesDocument(t *testing.T) {
	g := NewWithT(t)
	path := filepath.Join("..", "..", "docs", "bypasses.md")
	if *update {
		g.Expect(os.WriteFile(path, []byte(bypassesDocument()), 0o644)).To(Succeed()) //nolint:gosec // a file of the repository
	}
	content, err := os.ReadFile(path)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(content)).To(Equal(bypassesDocument()), "docs/bypasses.md is not current; run: go test ./registry/core -run TestBypassesDocument -update")
}

func TestSpecsOfTheDocumentAreThere(t *testing.T) {
	g := NewWithT(t)
	for _, q := range quayTests {
		content, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(q.file)))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(content)).To(ContainSubstring(fmt.Sprintf("%q", q.spec)), q.file)
	}
}
