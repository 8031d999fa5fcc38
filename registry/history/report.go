package history

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// ReportFormat is the version of a Report.
const ReportFormat = "tidelock-report/v1"

// Report is a tag's history with what proves it: whoever has the log's public key can check it offline.
type Report struct {
	Format     string `json:"format"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	// Since and Until bound the period as it was asked for, empty where it is unbounded; Period bounds it by indices.
	Since      string   `json:"since,omitempty"`
	Until      string   `json:"until,omitempty"`
	Period     Period   `json:"period"`
	Statements []string `json:"statements"`
	History
	// Checkpoint is the signed checkpoint of the log that the entries are proven to be in.
	Checkpoint string `json:"checkpoint"`
	// Entries are those that the history rests on, in the order of their indices.
	Entries []ProvenEntry `json:"entries"`
}

// ProvenEntry is an entry with its proof of inclusion.
type ProvenEntry struct {
	Index int64 `json:"index"`
	// Leaf is the canonical encoding, and Personal what stands hashed in it, as far as it was not erased.
	Leaf     string          `json:"leaf"`
	Personal json.RawMessage `json:"personal,omitempty"`
	// Proof is in base64, in the order of RFC 6962, section 2.1.1.
	Proof []tlog.Hash `json:"proof"`
}

// View reads the entry from its leaf alone. It reports an error where a personal value is not the one that the leaf hides.
func (e *ProvenEntry) View() (audit.View, error) {
	view, err := audit.Decode(audit.Indexed{Index: e.Index, Record: audit.Record{Leaf: []byte(e.Leaf), Personal: e.Personal}})
	if err != nil {
		return view, err
	}
	view.Tag, view.Policy = text(view.Metadata, "tag"), text(view.Metadata, "policy_uuid")
	return view, e.checkPersonal()
}

// checkPersonal compares the personal values with their hashes in the leaf.
func (e *ProvenEntry) checkPersonal() error {
	if len(e.Personal) == 0 {
		return nil
	}
	var personal audit.Personal
	var leaf map[string]any
	if err := errors.Join(json.Unmarshal(e.Personal, &personal), json.Unmarshal([]byte(e.Leaf), &leaf)); err != nil {
		return fmt.Errorf("entry %d: %w", e.Index, err)
	}
	salt, err := hex.DecodeString(personal.Salt)
	if err != nil {
		return fmt.Errorf("entry %d: salt: %w", e.Index, err)
	}
	metadata, _ := leaf["metadata"].(map[string]any)
	for field, value := range personal.Values {
		in, name := leaf, field
		if rest, ok := strings.CutPrefix(field, "metadata."); ok {
			in, name = metadata, rest
		}
		if text(in, name) != audit.HashPersonal(salt, field, value) {
			return fmt.Errorf("entry %d: its %s is not %q", e.Index, field, value)
		}
	}
	return nil
}

// Tell fills in the history and the statements from the entries.
func (r *Report) Tell() error {
	name, err := domain.ParseRepositoryName(r.Repository)
	if err != nil {
		return err
	}
	views := make([]audit.View, len(r.Entries))
	for i := range r.Entries {
		if i > 0 && r.Entries[i].Index <= r.Entries[i-1].Index || r.Entries[i].Index >= r.Period.To {
			return fmt.Errorf("entry %d is not in its place", r.Entries[i].Index)
		}
		if views[i], err = r.Entries[i].View(); err != nil {
			return err
		}
	}
	if r.History, err = Build(name, r.Tag, r.Period, views); err != nil {
		return err
	}
	r.Statements = r.History.Statements(name, r.Tag, r.Period)
	return nil
}

// Verify checks that a known key signed the checkpoint, that each entry is in its log, and that history and statements
// follow from the entries. It returns the checkpoint and who signed it.
//
// That the report leaves no entry out does not follow from it: only the whole log shows that.
func (r *Report) Verify(known note.Verifiers) (checkpoint audit.Checkpoint, signedBy []string, err error) {
	if r.Format != ReportFormat {
		return checkpoint, nil, fmt.Errorf("the format %q is not %q", r.Format, ReportFormat)
	}
	if checkpoint, signedBy, err = audit.OpenCheckpoint([]byte(r.Checkpoint), known); err != nil {
		return checkpoint, nil, err
	}
	if r.Period.To > checkpoint.Size {
		return checkpoint, nil, fmt.Errorf("the report goes to entry %d, and the checkpoint to %d only", r.Period.To, checkpoint.Size)
	}
	for _, e := range r.Entries {
		if err := audit.VerifyInclusion(checkpoint, e.Index, audit.LeafHash([]byte(e.Leaf)), e.Proof); err != nil {
			return checkpoint, nil, err
		}
	}
	told := Report{Repository: r.Repository, Tag: r.Tag, Period: r.Period, Entries: r.Entries}
	if err := told.Tell(); err != nil {
		return checkpoint, nil, err
	}
	if !reflect.DeepEqual(told.Statements, r.Statements) {
		return checkpoint, nil, errors.New("the statements do not follow from the entries")
	}
	// As JSON, since a time that was read again differs from itself by its place in memory.
	want, err := json.Marshal(told.History)
	if err != nil {
		return checkpoint, nil, err
	}
	have, err := json.Marshal(r.History)
	if err != nil {
		return checkpoint, nil, err
	}
	if string(want) != string(have) {
		return checkpoint, nil, errors.New("the history does not follow from the entries")
	}
	return checkpoint, signedBy, nil
}
