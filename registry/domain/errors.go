package domain

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Code classifies an error for the answer to a client. The first group are the codes of the OCI Distribution
// Specification 1.1; the second are the registry's own.
type Code string

// Error codes.
const (
	CodeBlobUnknown         Code = "BLOB_UNKNOWN"
	CodeBlobUploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	CodeBlobUploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	CodeDigestInvalid       Code = "DIGEST_INVALID"
	CodeManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN"
	CodeManifestInvalid     Code = "MANIFEST_INVALID"
	CodeManifestUnknown     Code = "MANIFEST_UNKNOWN"
	CodeNameInvalid         Code = "NAME_INVALID"
	CodeNameUnknown         Code = "NAME_UNKNOWN"
	CodeSizeInvalid         Code = "SIZE_INVALID"
	CodeTagInvalid          Code = "TAG_INVALID"
	CodeUnauthorized        Code = "UNAUTHORIZED"
	CodeDenied              Code = "DENIED"
	CodeUnsupported         Code = "UNSUPPORTED"
	CodeTooManyRequests     Code = "TOOMANYREQUESTS"

	// CodeTagImmutable refuses a change of a locked tag; Error.Lock says which.
	CodeTagImmutable Code = "TAG_IMMUTABLE"
	// CodeInvalid is bad input that has no more special code.
	CodeInvalid Code = "INVALID"
	// CodeNotFound is anything but a blob, manifest or repository that is not there.
	CodeNotFound Code = "NOT_FOUND"
	// CodeConflict is a request that the present state forbids.
	CodeConflict Code = "CONFLICT"
	// CodePreconditionFailed refuses a request whose own conditions the present state does not meet.
	CodePreconditionFailed Code = "PRECONDITION_FAILED"
	// CodePolicyLocked refuses to weaken or delete a policy before its LockedUntil, which is in Error.LockedUntil.
	CodePolicyLocked Code = "POLICY_LOCKED"
	// CodeManagedByResource refuses a change by the REST API of what a Kubernetes object manages.
	CodeManagedByResource Code = "MANAGED_BY_RESOURCE"
	// CodeOrganizationNotOwned refuses a claim of an organization that belongs to another namespace.
	CodeOrganizationNotOwned Code = "ORGANIZATION_NOT_OWNED"
	// CodeStale refuses a request of an operator that acts on an older state than one seen before.
	CodeStale Code = "STALE"
	// CodeOtherCluster refuses the operator of a cluster that the registry does not belong to.
	CodeOtherCluster Code = "OTHER_CLUSTER"
	// CodeUnavailable means that the answer cannot be determined now. Writes fail closed with it.
	CodeUnavailable Code = "UNAVAILABLE"
	// CodeStorageFull refuses content because the disk is full; reading and deleting go on.
	CodeStorageFull Code = "STORAGE_FULL"
	// CodeLogInconsistent means that the audit log was changed by somebody else than the registry.
	CodeLogInconsistent Code = "LOG_INCONSISTENT"
)

// Error is the one error type that reaches clients. Message says what is wrong and what to do; it never holds a
// secret. Cause is for the log only.
type Error struct {
	Code    Code
	Message string
	// Lock is set with CodeTagImmutable, and with CodeConflict where locked tags forbid a deletion.
	Lock *LockError
	// Owner is set with CodeOrganizationNotOwned.
	Owner *Owner
	// LockedUntil is set with CodePolicyLocked.
	LockedUntil time.Time
	// RetryAfter is how long to wait with CodeTooManyRequests; 0 leaves it to whoever answers.
	RetryAfter time.Duration
	Cause      error
}

// LockError says which locks forbid a change.
type LockError struct {
	// Tags are the first locked tags in the way, at most LockSample of them, sorted.
	Tags []string
	// Count is how many locked tags were found in the way, at least len(Tags).
	Count int
	// Digest is what the first tag points to, and keeps pointing to.
	Digest digest.Digest
	// Policy is one policy that covers or holds the first tag, nil for a hold by hand.
	Policy *PolicyRef
	// Policies are the same for each of Tags, where the tags lock one manifest.
	Policies []*PolicyRef
	// Signature is set where the tag that was asked for is no locked one, but a signature tag whose subject Tags lock.
	Signature *SignatureLock
	// Hint, if there is one, ends the message: what to do instead.
	Hint string
}

// SignatureLock is a signature tag that cannot go, or lose what it has, because of its subject.
type SignatureLock struct {
	Tag string
	// Digest is what the tag points to, and keeps pointing to.
	Digest digest.Digest
	// Subject is the manifest that the tag belongs to.
	Subject digest.Digest
}

// LockSample bounds the tags that an answer or an audit entry names.
const LockSample = 10

// PolicyRef names a policy in answers and audit entries.
type PolicyRef struct {
	UUID     string
	Revision int64
	Pattern  string
	Scope    PolicyScope
}

// Owner is the Kubernetes namespace that owns an organization.
type Owner struct {
	Namespace string
	UID       string
}

// Errorf makes an Error. A %w verb sets the cause without showing more than the format says.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// Unavailable wraps a failure of the machinery beneath a request. The client learns only that it may try again.
func Unavailable(cause error) *Error {
	return &Error{Code: CodeUnavailable, Message: "the registry cannot answer this now; try again", Cause: cause}
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Cause }

// CodeOf returns the code of the first *Error in err's chain, or empty.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Immutable makes the refusal of an operation ("overwrite", "delete", ...) on locked tags.
func Immutable(operation string, lock *LockError) *Error {
	var b strings.Builder
	noun := "tag"
	if lock.Count > 1 {
		noun = "tags"
	}
	if lock.Signature != nil {
		fmt.Fprintf(&b, "cannot %s signature tag '%s', since its subject %s belongs to immutable %s ", operation, lock.Signature.Tag, lock.Signature.Subject, noun)
	} else {
		fmt.Fprintf(&b, "cannot %s immutable %s ", operation, noun)
	}
	for i, tag := range lock.Tags {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "'%s'", tag)
	}
	if more := lock.Count - len(lock.Tags); more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	if lock.Digest != "" {
		fmt.Fprintf(&b, ": %s stands", lock.Digest)
	}
	if lock.Policy != nil {
		fmt.Fprintf(&b, ", locked by %s policy %s (pattern %s)", lock.Policy.Scope, lock.Policy.UUID, lock.Policy.Pattern)
	} else {
		b.WriteString(", locked by hand")
	}
	if lock.Hint != "" {
		b.WriteString("; " + lock.Hint)
	}
	return &Error{Code: CodeTagImmutable, Message: b.String(), Lock: lock}
}
