package sqlite_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// BenchmarkSequence gives entries, as a sweep writes them, their index and their place in the tree, in the batches of the
// sequencer. The time is that of one entry.
func BenchmarkSequence(b *testing.B) {
	const batch = 500
	ctx := context.Background()
	store, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "tidelock.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	for have := 0; have < b.N; have += 1000 {
		var records []audit.Record
		for i := range min(1000, b.N-have) {
			record, err := audit.Encode("tidelock/0123456789abcdef0123456789abcdef", audit.Entry{
				Time: time.Unix(1_800_000_000, 0), Kind: audit.KindChangeImmutability, Organization: "team-a", Repository: "app", Tag: fmt.Sprintf("v%d", have+i),
				Policy: "0b54b2a8-6f0e-4ac6-a3a1-0d5dd0ec2a05", Caller: domain.System,
				Metadata: audit.Metadata{"tag": fmt.Sprintf("v%d", have+i), "username": "system", "trigger": "policy", "hold": "placed", "immutable": true, "previous_immutable": false,
					"manifest_digest": "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", "policy_uuid": "0b54b2a8-6f0e-4ac6-a3a1-0d5dd0ec2a05"},
			})
			if err != nil {
				b.Fatal(err)
			}
			records = append(records, record)
		}
		if err := store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error { return tx.AppendAudit(records...) }); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for done := 0; done < b.N; {
		sequenced, err := store.SequenceAudit(ctx, batch)
		if err != nil || sequenced.Count == 0 {
			b.Fatal(done, err)
		}
		done += sequenced.Count
	}
}
