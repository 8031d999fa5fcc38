package registry

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/forward"
	"github.com/tidelock/tidelock/registry/retention"
)

// minRetention keeps a mistyped period from emptying the log.
const minRetention = time.Hour

func (c *Config) validateRetention() error {
	switch {
	case c.AuditRetention == 0:
		return nil
	case c.AuditRetention < minRetention:
		return fmt.Errorf("--audit-retention must be at least %s, or 0 to keep the log for ever", minRetention)
	case c.AuditArchive == "":
		return errors.New("--audit-retention prunes only what is in an archive; --audit-archive is required")
	}
	return nil
}

// forwardLog prepares the forwarding of the audit log, if there is anybody to forward it to.
func (r *Registry) forwardLog(cfg Config, metrics *metrics) error {
	targets, err := forward.ParseTargets(cfg.AuditForward)
	if err != nil || len(targets) == 0 {
		return err
	}
	forwarder, err := forward.New(forward.Options{Log: r.core, Targets: targets, Logger: r.logger})
	if err != nil {
		return fmt.Errorf("--audit-forward: %w", err)
	}
	metrics.gatherer.MustRegister(forwarder.Metrics()...)
	r.background = append(r.background, forwarder.Run)
	return nil
}

// pruneLog prepares the pruning of the audit log, if it is not kept for ever.
func (r *Registry) pruneLog(cfg Config, metrics *metrics) error {
	if cfg.AuditRetention == 0 {
		return nil
	}
	store, err := retention.OpenStore(cfg.AuditArchive)
	if err != nil {
		return fmt.Errorf("--audit-archive: %w", err)
	}
	readers, err := cfg.logReaders()
	if err != nil {
		return err
	}
	pruner := retention.New(retention.Options{Core: r.core, Store: store, Period: cfg.AuditRetention, Readers: readers, Logger: r.logger})
	metrics.gatherer.MustRegister(pruner.Metrics()...)
	r.background = append(r.background, pruner.Run)
	return nil
}

// logReaders are the cursors of all who must have read an entry before it is pruned.
func (c *Config) logReaders() (cursors []string, err error) {
	if c.OperatorTokenFile != "" {
		cursors = append(cursors, audit.EventsCursor)
	}
	targets, err := forward.ParseTargets(c.AuditForward)
	for _, t := range targets {
		cursors = append(cursors, t.Cursor())
	}
	return cursors, err
}

// days is the flag of a duration that may be given in days: "400d".
type days time.Duration

func (d *days) Set(text string) error {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is not a number of days", text)
		}
		*d = days(time.Duration(n) * 24 * time.Hour) //nolint:gosec // it has 16 bits
		return nil
	}
	parsed, err := time.ParseDuration(text)
	if err != nil || parsed < 0 {
		return fmt.Errorf("%q is neither a number of days, such as 400d, nor a duration, such as 9600h", text)
	}
	*d = days(parsed)
	return nil
}

func (d *days) String() string {
	if day := days(24 * time.Hour); *d > 0 && *d%day == 0 {
		return strconv.Itoa(int(*d/day)) + "d"
	}
	return time.Duration(*d).String()
}

// Type implements pflag.Value.
func (d *days) Type() string { return "period" }
