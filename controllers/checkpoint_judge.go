package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/audit"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/openapi"
)

// CheckpointRegistry is what the publisher of checkpoints needs of the registry. It is not trusted: whatever it says of
// its log, it has to prove.
type CheckpointRegistry interface {
	// Checkpoint returns the signed checkpoint of the whole log, AuditKeys the public keys of those who sign, one a line.
	Checkpoint(ctx context.Context) ([]byte, error)
	AuditKeys(ctx context.Context) ([]byte, error)
	Consistency(ctx context.Context, from, to int64) (tlog.TreeProof, error)
	LogEntry(ctx context.Context, index int64) (openapi.Evidence, error)
	Inclusion(ctx context.Context, index, size int64) (tlog.RecordProof, error)
	// Published tells the registry what was published last.
	Published(ctx context.Context, cluster, checkpoint string) (openapi.LogStatus, error)
}

// verdict is what is known of the registry's log. Its message holds nothing that changes from one look to the next.
type verdict struct {
	status          metav1.ConditionStatus
	reason, message string
}

var (
	logConsistent = verdict{metav1.ConditionTrue, registryv1alpha1.ReasonLogConsistent, "The registry's audit log holds all that was published of it."}
	logUnproven   = verdict{metav1.ConditionUnknown, registryv1alpha1.ReasonLogUnproven, "The registry has not proven for ten minutes that its audit log holds all that was published of it; the operator's log says why."}
)

// inconsistency is an error that no further attempt makes better: the log contradicts what was published of it.
type inconsistency struct {
	reason, message string
}

func (e *inconsistency) Error() string { return e.message }

func inconsistent(reason, format string, args ...any) error {
	return &inconsistency{reason: reason, message: fmt.Sprintf(format, args...)}
}

// trusted returns the keys that checkpoints must be signed with, and of which there may be more that sign as well: those
// of --audit-public-key-file, else those that have signed what was published last, else, at the very first, the
// registry's own.
func (p *Publisher) trusted(ctx context.Context, last *publication) (known note.Verifiers, candidates []byte, err error) {
	if p.Options.KeyFile != "" {
		if candidates, err = os.ReadFile(p.Options.KeyFile); err != nil {
			return nil, nil, fmt.Errorf("--audit-public-key-file: %w", err)
		}
		known, err = audit.ParsePublicKeys(candidates)
		return known, candidates, err
	}
	if candidates, err = p.Registry.AuditKeys(ctx); err != nil {
		return nil, nil, fmt.Errorf("reading the public keys of the audit log: %w", err)
	}
	keys := candidates
	if last != nil {
		keys = last.keys
	}
	known, err = audit.ParsePublicKeys(keys)
	return known, candidates, err
}

// judge asks the registry for its checkpoint and for the proof that the log begins with what was published last. An
// inconsistency says that it does not; any other error, that it cannot be told now.
func (p *Publisher) judge(ctx context.Context, last *publication, log openapi.LogStatus) (next publication, err error) {
	known, candidates, err := p.trusted(ctx, last)
	if err != nil {
		return next, err
	}
	if next.note, err = p.Registry.Checkpoint(ctx); err != nil {
		return next, answered(err, registryv1alpha1.ReasonLogChanged)
	}
	if next.Checkpoint, _, err = audit.OpenCheckpoint(next.note, known); err != nil || !originPattern.MatchString(next.Origin) {
		return next, inconsistent(registryv1alpha1.ReasonSignatureInvalid, "No key that the operator knows has signed the checkpoint of the registry's audit log. If its keys were replaced, tell the operator the new public key with --audit-public-key-file.")
	}
	next.keys = signers(candidates, next.note)
	switch {
	case last == nil:
		return next, nil
	case last.Origin != next.Origin:
		err = p.explained(ctx, *last, next.Checkpoint, log)
	default:
		err = p.consistent(ctx, *last, next.Checkpoint)
	}
	if err == nil && log.ReadOnly != "" {
		err = inconsistent(registryv1alpha1.ReasonRegistryReadOnly, "The registry takes no writes: %s.", log.ReadOnly)
	}
	return next, err
}

// consistent proves that the log of a checkpoint begins with what was published.
func (p *Publisher) consistent(ctx context.Context, last publication, next audit.Checkpoint) error {
	name := checkpointName(last.Checkpoint)
	if next.Size < last.Size {
		return inconsistent(registryv1alpha1.ReasonLogRegressed, "The registry's audit log has lost entries: it has fewer than the %d of the published checkpoint %s. Find out what happened to the registry's data, then run `tidelock audit fork`.", last.Size, name)
	}
	var proof tlog.TreeProof
	if next.Size > last.Size {
		var err error
		if proof, err = p.Registry.Consistency(ctx, last.Size, next.Size); err != nil {
			return answered(err, registryv1alpha1.ReasonLogChanged)
		}
	}
	if audit.VerifyConsistency(last.Checkpoint, next, proof) != nil {
		return inconsistent(registryv1alpha1.ReasonLogChanged, "The registry's audit log was changed: it does not begin with the %d entries of the published checkpoint %s. Export it and run `tidelock audit verify`, find out what happened to the registry's data, then run `tidelock audit fork`.", last.Size, name)
	}
	return nil
}

// explained proves that a log of another origin has the entry of a fork that names what was published last.
func (p *Publisher) explained(ctx context.Context, last publication, next audit.Checkpoint, log openapi.LogStatus) error {
	unexplained := inconsistent(registryv1alpha1.ReasonOriginUnexplained, "The registry has another audit log than the one of the published checkpoint %s, and no entry in it explains that. Find out what happened to the registry's data, then run `tidelock audit fork`.", checkpointName(last.Checkpoint))
	switch {
	case log.Origin != next.Origin || log.OriginIndex >= next.Size:
		return errors.New("the audit log is being forked")
	case log.ReadOnly != "":
		return unexplained
	}
	entry, err := p.Registry.LogEntry(ctx, log.OriginIndex)
	if err != nil {
		return answered(err, registryv1alpha1.ReasonOriginUnexplained)
	}
	proof, err := p.Registry.Inclusion(ctx, log.OriginIndex, next.Size)
	if err != nil {
		return answered(err, registryv1alpha1.ReasonOriginUnexplained)
	}
	if audit.VerifyInclusion(next, log.OriginIndex, audit.LeafHash([]byte(entry.Leaf)), proof) != nil {
		return unexplained
	}
	var leaf struct {
		Kind     audit.Kind
		Origin   string
		Metadata struct{ Checkpoint string }
	}
	if json.Unmarshal([]byte(entry.Leaf), &leaf) != nil || leaf.Kind != audit.KindForkLog || leaf.Origin != next.Origin {
		return unexplained
	}
	if named, err := audit.ParseCheckpoint(leaf.Metadata.Checkpoint); err != nil || named != last.Checkpoint {
		return unexplained
	}
	return nil
}

// answered turns the registry's word that it cannot prove its log into an inconsistency.
func answered(err error, reason string) error {
	if registryclient.IsLogInconsistent(err) || registryclient.IsNotFound(err) || registryclient.IsInvalid(err) {
		return inconsistent(reason, "The registry cannot prove its audit log, which was changed. Export it and run `tidelock audit verify`, find out what happened to the registry's data, then run `tidelock audit fork`.")
	}
	return err
}
