package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// mostExported is how many entries are exported at most.
const mostExported = 1_000_000

// exportAndVerify measures the commands of an auditor: the export of a log, and the check of the export.
func exportAndVerify(ctx context.Context, o options, s *server, c *client, t *table) error {
	keys, err := c.do(ctx, http.MethodGet, "/api/v1/superuser/audit/keys", "", nil, http.StatusOK)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.dir, "export-"+s.engine.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	password, public, export := filepath.Join(dir, "password"), filepath.Join(dir, "keys"), filepath.Join(dir, "export.jsonl")
	if err := os.WriteFile(password, []byte(s.password), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(public, keys.content, 0o600); err != nil {
		return err
	}
	entries := min(o.entries, mostExported)
	for _, command := range [][]string{
		{"export", "--registry", s.url, "--password-file", password, "--to", strconv.Itoa(entries), "--output", export},
		{"verify", export, "--public-key", public},
	} {
		took, err := o.audit(ctx, command...)
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("%s of %d entries, %s: time, entries a second", command[0], entries, s.engine.name),
			fmt.Sprintf("%s, %.0f", shortest(took), float64(entries)/took.Seconds()))
	}
	return os.RemoveAll(dir)
}

// audit runs a command of tidelock audit.
func (o options) audit(ctx context.Context, args ...string) (time.Duration, error) {
	command := exec.CommandContext(ctx, filepath.Join(o.bin, "tidelock"), append([]string{"audit"}, args...)...) //nolint:gosec // the program that is measured
	start := time.Now()
	if out, err := command.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("tidelock audit %s: %w: %s", args[0], err, out)
	}
	return time.Since(start), nil
}

// logLag measures how long a reader of the log waits for its newest entries beside writes: an answer of the log has every
// entry of what was acknowledged before it was asked for.
func logLag(ctx context.Context, o options, t *table) error {
	c, err := startAudited(ctx, o, "lag")
	if err != nil {
		return err
	}
	defer c.server.stop()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := putTags(writing, c, 0, 10*o.writes)
		done <- err
	}()
	var times samples
	for {
		took, err := c.logPage(ctx, "/api/v1/superuser/logs?limit=1")
		if err != nil {
			return err
		}
		select {
		case err := <-done:
			if len(times) > 0 && err == nil {
				t.add(fmt.Sprintf("newest entry of the log beside such writes, waited for %d times: p50, p99", len(times)),
					fmt.Sprintf("%s, %s", shortest(times.quantile(0.5)), shortest(times.quantile(0.99))))
			}
			return err
		default:
			times = append(times, took)
		}
	}
}
