package controllers

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	ctrl "sigs.k8s.io/controller-runtime"

	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(GinkgoWriter, nil)))
	SetDefaultEventuallyTimeout(20 * time.Second)
	EnforceDefaultTimeoutsWhenUsingContexts()
	RunSpecs(t, "Controllers")
}

// stubRegistry is a registry whose answers a test sets. Its log is in memory.
type stubRegistry struct {
	mu      sync.Mutex
	origin  string
	entries []openapi.LogEntry
	cursor  int64
	pace    int64
	// onMove is called before the cursor is moved.
	onMove func()
	// logError is what reading the log fails with, waits how long the calls would have waited.
	logError error
	waits    []time.Duration
	// reads is how many entries each call has read that found some.
	reads []int
	// onPolicyLog is called before the log of a policy is read, afterPolicyLog before what was read is returned.
	onPolicyLog, afterPolicyLog func()

	put  func(openapi.ManagedPolicy) (openapi.PolicyStatus, error)
	puts []openapi.ManagedPolicy
	// deletes says of each deletion of a policy whether it went with its namespace.
	deletes []bool
	// status answers what a policy is; without it there is none.
	status func() (openapi.PolicyStatus, error)

	// putMirror and mirror answer for mirrors, mirrors is what was put.
	putMirror func(openapi.ManagedMirror) (openapi.MirrorStatus, error)
	mirror    func() (openapi.MirrorStatus, error)
	mirrors   []openapi.ManagedMirror

	present [][]openapi.Manager
}

func stale() error {
	return &registryclient.Error{Status: 409, Code: domain.CodeStale, Message: "stale"}
}

func (r *stubRegistry) PutPolicy(_ context.Context, _, _ string, policy openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.puts = append(r.puts, policy)
	return r.put(policy)
}

func (r *stubRegistry) PolicyStatus(context.Context, string, string) (openapi.PolicyStatus, error) {
	if r.status != nil {
		return r.status()
	}
	return openapi.PolicyStatus{}, &registryclient.Error{Status: 404, Code: domain.CodeNotFound}
}

func (r *stubRegistry) DeletePolicy(_ context.Context, _, _, _, _ string, namespaceGoes bool) error {
	r.deletes = append(r.deletes, namespaceGoes)
	return nil
}

func (r *stubRegistry) PutOrgMirror(_ context.Context, _, _ string, mirror openapi.ManagedMirror) (openapi.MirrorStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mirrors = append(r.mirrors, mirror)
	return r.putMirror(mirror)
}

func (r *stubRegistry) GetOrgMirror(context.Context, string, string) (openapi.MirrorStatus, error) {
	return r.mirror()
}

func (r *stubRegistry) DeleteOrgMirror(context.Context, string, string, string, string) error {
	return nil
}

func (r *stubRegistry) Synced(_ context.Context, _ string, present []openapi.Manager) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.present = append(r.present, present)
	return nil
}

func (r *stubRegistry) Log(ctx context.Context, after int64, limit int, wait time.Duration) (openapi.LogSegment, error) {
	r.set(func() { r.waits = append(r.waits, wait) })
	segment, err := r.read(after, limit, func(openapi.LogEntry) bool { return true })
	if len(segment.Entries) > 0 {
		r.set(func() { r.reads = append(r.reads, len(segment.Entries)) })
	}
	if err == nil && len(segment.Entries) == 0 && !sleep(ctx, time.Millisecond) { // the long poll, in short
		err = ctx.Err()
	}
	return segment, err
}

func (r *stubRegistry) PolicyLog(_ context.Context, uuid string, after int64, limit int) (openapi.LogSegment, error) {
	if r.onPolicyLog != nil {
		r.onPolicyLog()
	}
	segment, err := r.read(after, limit, func(e openapi.LogEntry) bool { return e.Policy == uuid })
	if r.afterPolicyLog != nil {
		r.afterPolicyLog()
	}
	return segment, err
}

func (r *stubRegistry) read(after int64, limit int, selected func(openapi.LogEntry) bool) (openapi.LogSegment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	segment := openapi.LogSegment{Origin: r.origin, Size: int64(len(r.entries))}
	for _, entry := range r.entries {
		if entry.Index > after && selected(entry) && len(segment.Entries) < limit {
			segment.Entries = append(segment.Entries, entry)
		}
	}
	return segment, r.logError
}

func (r *stubRegistry) place(cursor string) *int64 {
	if cursor == paceName {
		return &r.pace
	}
	return &r.cursor
}

func (r *stubRegistry) LogCursor(_ context.Context, name string) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *r.place(name), nil
}

func (r *stubRegistry) MoveLogCursor(_ context.Context, name string, from, to int64) error {
	if r.onMove != nil && name == cursorName {
		r.onMove()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if *r.place(name) != from {
		return stale()
	}
	*r.place(name) = to
	return nil
}

func (r *stubRegistry) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// appendLocked adds entries about tags that the policy locked.
func (r *stubRegistry) appendLocked(policy string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range n {
		i := int64(len(r.entries))
		r.entries = append(r.entries, openapi.LogEntry{
			Index: i, Hash: "hash-" + strconv.FormatInt(i, 10), Kind: "tag_created_immutable_by_policy", Time: time.Unix(1_800_000_000, 0),
			Organization: "team-a", Repository: "app", Tag: "v" + strconv.FormatInt(i, 10), Policy: policy,
			Manager:  &openapi.Manager{Kind: policyKind, Namespace: "team-a", Name: policy, UID: "uid-" + policy},
			Metadata: map[string]any{"policy_pattern": "v.*", "manifest_digest": "sha256:abc"},
		})
	}
}
