// Package retention prunes the audit log: entries older than a period go to an archive, and once that is written and read
// again, from the database. Their hashes stay, so that every proof goes on to verify.
//
// A run is steps each of which leaves everything right: it can be killed anywhere. At worst a file is written once more.
package retention

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// DefaultInterval is the time between two runs.
const DefaultInterval = time.Hour

// lease names what one replica does at a time.
const lease = "retention"

// IsBucket reports whether archives go to S3.
func IsBucket(location string) bool { return strings.HasPrefix(location, "s3://") }

// Options are what pruning needs. Core, Store and Period are required.
type Options struct {
	Core  *core.Core
	Store Store
	// Period is how long entries are kept.
	Period time.Duration
	// Readers are the cursors of those who read the log: what one of them has not read stays.
	Readers []string
	// Interval is the time between two runs; DefaultInterval if 0.
	Interval time.Duration
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Logger is slog.Default by default.
	Logger *slog.Logger
}

// Pruner prunes the log.
type Pruner struct {
	Options
	metrics *metrics
}

// New makes a pruner. Run lets it work on a schedule.
func New(options Options) *Pruner {
	if options.Interval == 0 {
		options.Interval = DefaultInterval
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	return &Pruner{Options: options, metrics: newMetrics()}
}

// Run prunes every interval until the context ends, on one replica at a time.
func (p *Pruner) Run(ctx context.Context) error {
	p.Core.Lead(ctx, lease, func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := p.Prune(ctx); err != nil && ctx.Err() == nil {
				p.Logger.Error("pruning the audit log failed; nothing is pruned that is not in an archive; trying again at the next run", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(p.Interval):
			}
		}
		return nil
	})
	return nil
}

// Prune does one run: it archives and prunes all that is due.
func (p *Pruner) Prune(ctx context.Context) (err error) {
	defer func() { p.metrics.observe(err) }()
	before := p.Now().Add(-p.Period)
	for ctx.Err() == nil {
		archive, more, err := p.Core.PlanArchive(ctx, before, p.Readers)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		// One that was written before may have been lost since.
		if archive.WrittenAt.IsZero() || p.check(ctx, archive) != nil {
			if archive, err = p.write(ctx, archive); err != nil {
				return fmt.Errorf("archive %s: %w", archive.Name, err)
			}
		}
		if err := p.prune(ctx, archive); err != nil {
			return fmt.Errorf("archive %s: %w", archive.Name, err)
		}
	}
	due, err := p.Core.LogDue(ctx, before, p.Readers)
	if err == nil {
		p.metrics.held.Set(float64(due.Held))
		p.metrics.prunedBefore.Set(float64(due.First))
	}
	return errors.Join(err, ctx.Err())
}

// write writes an archive and reads it again: what is stored must be what was verified.
func (p *Pruner) write(ctx context.Context, archive domain.Archive) (_ domain.Archive, err error) {
	file, err := os.CreateTemp("", "tidelock-archive-*")
	if err != nil {
		return archive, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	hash := sha256.New()
	// Without a name and a time, so that the same entries give the same file.
	compressed := gzip.NewWriter(io.MultiWriter(file, hash))
	if err := p.Core.ExportArchive(ctx, archive, compressed); err != nil {
		return archive, err
	}
	if err := compressed.Close(); err != nil {
		return archive, err
	}
	if archive.Size, err = file.Seek(0, io.SeekCurrent); err != nil {
		return archive, err
	}
	// Before it is stored: it may take the place of one that another replica has written and begun to prune by.
	if err := p.verify(file, archive); err != nil {
		return archive, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return archive, err
	}
	archive.SHA256 = hex.EncodeToString(hash.Sum(nil))
	if err := p.Store.Put(ctx, archive.Name, file, archive.Size); err != nil {
		return archive, err
	}
	if err := p.check(ctx, archive); err != nil {
		return archive, err
	}
	p.metrics.archived.Add(float64(archive.End - archive.First))
	return archive, p.Core.FinishArchive(ctx, archive)
}

// verify reads an archive as an auditor would: it must have every entry, unchanged.
func (p *Pruner) verify(file *os.File, archive domain.Archive) error {
	public, err := p.Core.AuditPublicKeys()
	if err != nil {
		return err
	}
	known, err := audit.ParsePublicKeys([]byte(strings.Join(public, "\n")))
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	report, err := audit.Verify(file, audit.VerifyOptions{Known: known})
	switch {
	case err != nil:
		return err
	case report.Problem != nil:
		return report.Problem
	case report.From != archive.First || report.Size != archive.End || report.Pruned > 0:
		return fmt.Errorf("it has entries %d to %d, %d of them without content", report.From, report.Size-1, report.Pruned)
	}
	return nil
}

// check reads a stored archive and compares it with what was written.
func (p *Pruner) check(ctx context.Context, archive domain.Archive) error {
	stored, err := p.Store.Open(ctx, archive.Name)
	if err != nil {
		return fmt.Errorf("reading it again: %w", err)
	}
	hash := sha256.New()
	_, err = io.Copy(hash, stored)
	if err = errors.Join(err, stored.Close()); err != nil {
		return fmt.Errorf("reading it again: %w", err)
	}
	if is := hex.EncodeToString(hash.Sum(nil)); is != archive.SHA256 {
		return fmt.Errorf("its SHA-256 is %s, but %s was written", is, archive.SHA256)
	}
	return nil
}

// prune removes the entries of an archive, some at a time.
func (p *Pruner) prune(ctx context.Context, archive domain.Archive) error {
	for ctx.Err() == nil {
		done, err := p.Core.PruneLog(ctx, archive.First)
		if err != nil {
			return err
		}
		if done {
			p.metrics.pruned.Add(float64(archive.End - archive.First))
			p.Logger.Info("pruned the audit log", "from", archive.First, "to", archive.End-1, "archive", archive.Name)
			return nil
		}
	}
	return ctx.Err()
}
