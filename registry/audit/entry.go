// Package audit is the registry's evidence: what an entry says, its canonical encoding, and the sequencer that gives
// committed entries their place in the log.
package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/domain"
)

// Kind names what happened: Quay's name where Quay has one.
type Kind string

// The kinds of entries.
const (
	KindCreateTag      Kind = "create_tag"
	KindMoveTag        Kind = "move_tag"
	KindDeleteTag      Kind = "delete_tag"
	KindRevertTag      Kind = "revert_tag"
	KindChangeExpiry   Kind = "change_tag_expiration"
	KindPushRepo       Kind = "push_repo"
	KindDeleteManifest Kind = "delete_manifest"
	KindDeleteBlob     Kind = "delete_blob"

	KindCreateRepo           Kind = "create_repo"
	KindDeleteRepo           Kind = "delete_repo"
	KindSetRepoDescription   Kind = "set_repo_description"
	KindChangeRepoVisibility Kind = "change_repo_visibility"
	KindOrgCreate            Kind = "org_create"
	KindOrgDelete            Kind = "org_delete"
	KindOrgOwner             Kind = "org_owner_changed"

	KindTagCreatedImmutable Kind = "tag_created_immutable_by_policy"
	KindChangeImmutability  Kind = "change_tag_immutability"
	KindApplyPolicy         Kind = "apply_immutability_policy_retroactive"
	KindDryRun              Kind = "immutability_dry_run"

	KindCreatePolicy Kind = "create_immutability_policy"
	KindUpdatePolicy Kind = "update_immutability_policy"
	KindDeletePolicy Kind = "delete_immutability_policy"
	KindUnlockPolicy Kind = "unlock_immutability_policy"

	KindPushFailed       Kind = "push_repo_failed"
	KindDeleteTagFailed  Kind = "delete_tag_failed"
	KindDeleteRepoFailed Kind = "delete_repo_failed"
	KindDeleteOrgFailed  Kind = "org_delete_failed"
	// These are refused because the policy is locked.
	KindUpdatePolicyFailed Kind = "update_immutability_policy_failed"
	KindDeletePolicyFailed Kind = "delete_immutability_policy_failed"

	KindAdoptCluster Kind = "adopt_cluster"
	KindForkLog      Kind = "fork_log"

	KindCreateUser       Kind = "user_create"
	KindDeleteUser       Kind = "user_delete"
	KindEnableUser       Kind = "user_enable"
	KindDisableUser      Kind = "user_disable"
	KindChangePassword   Kind = "user_change_password"
	KindChangeEmail      Kind = "user_change_email"
	KindCreateToken      Kind = "create_app_specific_token"
	KindRevokeToken      Kind = "revoke_app_specific_token"
	KindCreateRobot      Kind = "create_robot"
	KindDeleteRobot      Kind = "delete_robot"
	KindRegenerateRobot  Kind = "regenerate_robot_token"
	KindAddMember        Kind = "org_add_team_member"
	KindChangeMember     Kind = "org_set_team_role"
	KindRemoveMember     Kind = "org_remove_team_member"
	KindAddPermission    Kind = "add_repo_permission"
	KindChangePermission Kind = "change_repo_permission"
	KindDeletePermission Kind = "delete_repo_permission"
	KindLoginFailure     Kind = "login_failure"
	KindCreateSigningKey Kind = "create_signing_key"
	KindDeleteSigningKey Kind = "delete_signing_key"

	KindGrantReadonly  Kind = "grant_readonly_superuser"
	KindChangeReadonly Kind = "change_readonly_superuser"
	KindRevokeReadonly Kind = "revoke_readonly_superuser"
	KindExpireReadonly Kind = "expire_readonly_superuser"

	// What readonly superusers have looked at.
	KindViewPolicies      Kind = "view_immutability_policies"
	KindViewMirror        Kind = "view_org_mirror"
	KindViewRobots        Kind = "view_robots"
	KindViewMembers       Kind = "view_org_members"
	KindViewPermissions   Kind = "view_repo_permissions"
	KindViewUsers         Kind = "view_users"
	KindViewConfiguration Kind = "view_configuration"
	KindViewLogs          Kind = "view_logs"

	KindOrgMirrorEnabled   Kind = "org_mirror_enabled"
	KindOrgMirrorDisabled  Kind = "org_mirror_disabled"
	KindOrgMirrorChanged   Kind = "org_mirror_config_changed"
	KindOrgMirrorStarted   Kind = "org_mirror_sync_started"
	KindOrgMirrorFailed    Kind = "org_mirror_sync_failed"
	KindOrgMirrorSuccess   Kind = "org_mirror_sync_success"
	KindOrgMirrorRequested Kind = "org_mirror_sync_now_requested"
	KindOrgMirrorCancelled Kind = "org_mirror_sync_cancelled"
	KindOrgMirrorRepo      Kind = "org_mirror_repo_created"

	KindGarbageCollection Kind = "garbage_collection"

	KindErasePerson Kind = "erase_person"
	KindPruneLog    Kind = "prune_log"
)

// What set off a change, in metadata "trigger".
const (
	TriggerPolicy = "policy"
	TriggerManual = "manual"
	// TriggerMove: the tag came to point elsewhere, and so lost its expiration.
	TriggerMove = "move"
	// TriggerExpiration: the tag's expiration had come.
	TriggerExpiration = "expiration"
	// TriggerMirror: the organization's mirror did it.
	TriggerMirror = "mirror"
)

// EventsField in metadata is "Summary" where a policy wants one Kubernetes Event of a sweep in place of one for each tag:
// in the entries of those tags, which are none, and in that of the summary, which is one.
const EventsField = "events"

// Metadata is what an entry says beside the fixed fields. Values are string, bool, int, int64, []string, []any or
// Metadata; anything else is a programming error that Encode reports.
type Metadata map[string]any

// Entry is one thing that happened.
type Entry struct {
	// Time is when the change was made, in the transaction that made it. Encoded in UTC with microseconds.
	Time time.Time
	Kind Kind
	// Organization, Repository (the path in it), Tag and Policy (a UUID) say what the entry is about, and are what it
	// can be found by. Each may be empty.
	Organization string
	Repository   string
	Tag          string
	Policy       string
	Caller       domain.Caller
	Metadata     Metadata
}

// EventsCursor is the place in the log of what makes Kubernetes Events of its entries.
const EventsCursor = "kubernetes-events"

// Format is the version of the canonical encoding. It is final: the bytes are a leaf of the Merkle tree.
const Format = "tidelock-audit/v1"

// Record is an entry as it is stored. Leaf never changes; Personal can be erased without touching it.
type Record struct {
	Time         time.Time
	Kind         Kind
	Organization string
	Repository   string
	Tag          string
	Policy       string
	// Performer is the caller's name, by which the log can be searched.
	Performer string
	// Leaf is the canonical encoding: JSON by RFC 8785, personal values replaced by salted hashes.
	Leaf []byte
	// Personal is JSON: the salt and the values that the hashes in Leaf stand for.
	Personal []byte
}

// Personal holds an entry's values that identify a person.
type Personal struct {
	// Salt is 16 random bytes in hexadecimal, new for each entry: without it a hash in the leaf tells nothing.
	Salt string `json:"salt"`
	// Values maps a field of the leaf ("performer", "address", "metadata.username", …) to its value.
	Values map[string]string `json:"values"`
}

// personalMetadata lists the metadata that identifies a person.
var personalMetadata = []string{"username", "applied_by", "applied_by_uid"}

// Encode turns an entry of the log with the given origin into a record.
//
// The leaf is the RFC 8785 (JCS) encoding of an object with the members address, format, kind, metadata, namespace,
// origin, performer, performer_kind, repository, time, token; members with an empty value are left out, but for
// format, kind, origin and time. A personal value v of the field f stands as "sha256:" and the hexadecimal SHA-256 of
// salt, 0x00, f, 0x00, v.
func Encode(origin string, e Entry) (Record, error) {
	p, err := newPseudonyms()
	if err != nil {
		return Record{}, fmt.Errorf("salting an audit entry: %w", err)
	}
	var w objectWriter
	w.begin()
	w.optional("address", p.of("address", e.Caller.Address))
	w.text("format", Format)
	w.text("kind", string(e.Kind))
	if len(e.Metadata) > 0 {
		w.value("metadata", p.ofMetadata(e.Metadata))
	}
	w.optional("namespace", e.Organization)
	w.text("origin", origin)
	w.optional("performer", p.of("performer", e.Caller.Name))
	w.optional("performer_kind", string(e.Caller.Kind))
	w.optional("repository", e.Repository)
	w.text("time", e.Time.UTC().Format(timeFormat))
	w.optional("token", e.Caller.TokenID)
	leaf, err := w.end()
	if err != nil {
		return Record{}, fmt.Errorf("encoding a %s entry: %w", e.Kind, err)
	}
	return Record{
		Time: e.Time, Kind: e.Kind, Organization: e.Organization, Repository: e.Repository, Tag: e.Tag, Policy: e.Policy,
		Performer: e.Caller.Name, Leaf: leaf, Personal: p.encode(),
	}, nil
}

// pseudonyms replaces the personal values of one entry by hashes and keeps the values.
type pseudonyms struct {
	salt   [16]byte
	values []personalValue
}

// personalValue is a field of the leaf with what it has beyond its hash.
type personalValue struct{ field, value string }

func newPseudonyms() (*pseudonyms, error) {
	p := &pseudonyms{values: make([]personalValue, 0, 2+len(personalMetadata))}
	_, err := rand.Read(p.salt[:])
	return p, err
}

// of returns what stands in the leaf for the value of a field: empty for an empty value.
func (p *pseudonyms) of(field, value string) string {
	if value == "" {
		return ""
	}
	p.values = append(p.values, personalValue{field, value})
	return HashPersonal(p.salt[:], field, value)
}

func (p *pseudonyms) ofMetadata(metadata Metadata) Metadata {
	for _, field := range personalMetadata {
		if value, ok := metadata[field].(string); ok {
			metadata = maps.Clone(metadata)
			metadata[field] = p.of("metadata."+field, value)
		}
	}
	return metadata
}

// encode returns the JSON of Personal.
func (p *pseudonyms) encode() []byte {
	slices.SortFunc(p.values, func(a, b personalValue) int { return strings.Compare(a.field, b.field) })
	b := append(make([]byte, 0, 192), `{"salt":"`...)
	b = append(hex.AppendEncode(b, p.salt[:]), `","values":{`...)
	for i, v := range p.values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(appendString(b, v.field), ':'), v.value)
	}
	return append(b, "}}"...)
}

// timeFormat is RFC 3339 in UTC with exactly six decimals.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// HashPersonal returns what stands in a leaf for a personal value.
func HashPersonal(salt []byte, field, value string) string {
	b := append(make([]byte, 0, 128), salt...)
	b = append(append(b, 0), field...)
	sum := sha256.Sum256(append(append(b, 0), value...))
	return string(hex.AppendEncode(append(make([]byte, 0, 128), "sha256:"...), sum[:]))
}

// LeafHash is the hash of a leaf in the Merkle tree (RFC 6962, section 2.1).
func LeafHash(leaf []byte) tlog.Hash { return tlog.RecordHash(leaf) }

// Indexed is an entry that has its place in the log.
type Indexed struct {
	// Index counts from 0, without gaps, in the order of commits.
	Index int64
	Record
}

// Erased stands for a personal value that was erased. It is nobody's name.
const Erased = "[erased]"

// Names reports whether an entry's personal values name a person: the performer, or the metadata.
func Names(personal []byte, person string) (bool, error) {
	if len(personal) == 0 {
		return false, nil
	}
	var p Personal
	if err := json.Unmarshal(personal, &p); err != nil {
		return false, err
	}
	for field, value := range p.Values {
		if field != "address" && value == person {
			return true, nil
		}
	}
	return false, nil
}

// value returns the value of a field that stands as hash in the leaf, empty if there is none.
func (p Personal) value(field, hash string) string {
	if value, ok := p.Values[field]; ok || hash == "" {
		return value
	}
	return Erased
}

// View is an entry as readers see it: the leaf with the personal values put back, as far as they are still there.
type View struct {
	Index         int64
	Hash          tlog.Hash
	Time          time.Time
	Kind          Kind
	Organization  string
	Repository    string
	Tag           string
	Policy        string
	Performer     string
	PerformerKind domain.CallerKind
	Address       string
	// Token names the credential that was used; empty for a password.
	Token    string
	Metadata map[string]any
}

// Decode reads a stored entry. It reports an error for a leaf that is not of Format.
func Decode(in Indexed) (View, error) {
	var leaf struct {
		Format        string         `json:"format"`
		Kind          Kind           `json:"kind"`
		Namespace     string         `json:"namespace"`
		Repository    string         `json:"repository"`
		Address       string         `json:"address"`
		Performer     string         `json:"performer"`
		PerformerKind string         `json:"performer_kind"`
		Time          time.Time      `json:"time"`
		Token         string         `json:"token"`
		Metadata      map[string]any `json:"metadata"`
	}
	if err := json.Unmarshal(in.Leaf, &leaf); err != nil {
		return View{}, fmt.Errorf("audit entry %d: %w", in.Index, err)
	}
	if leaf.Format != Format {
		return View{}, fmt.Errorf("audit entry %d: format %q is not %q", in.Index, leaf.Format, Format)
	}
	var personal Personal
	if len(in.Personal) > 0 {
		if err := json.Unmarshal(in.Personal, &personal); err != nil {
			return View{}, fmt.Errorf("audit entry %d: personal values: %w", in.Index, err)
		}
	}
	view := View{
		Index: in.Index, Hash: LeafHash(in.Leaf), Time: leaf.Time, Kind: leaf.Kind, Organization: leaf.Namespace, Repository: leaf.Repository, Tag: in.Tag, Policy: in.Policy,
		Performer: personal.value("performer", leaf.Performer), PerformerKind: domain.CallerKind(leaf.PerformerKind), Address: personal.value("address", leaf.Address), Token: leaf.Token,
		Metadata: leaf.Metadata,
	}
	if view.Metadata == nil {
		view.Metadata = map[string]any{}
	}
	for _, field := range personalMetadata {
		if hash, ok := view.Metadata[field].(string); ok {
			view.Metadata[field] = personal.value("metadata."+field, hash)
		}
	}
	return view, nil
}
