package main

import (
	"context"
	"database/sql/driver" //nolint:depguard // takes the audit log out of a database, which nothing else may do
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	sqlitedriver "modernc.org/sqlite"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// auditClients is how many clients write tags at once: as many as make the database commit in groups.
const auditClients = 32

// withoutLog makes SQLite drop the rows of the audit log as they are inserted. The registry does all that it does
// otherwise, but nothing is appended, and there is nothing to index.
const withoutLog = `CREATE TRIGGER no_audit_log BEFORE INSERT ON audit_entries BEGIN SELECT RAISE(IGNORE); END`

// auditCost measures what the audit log adds to a tag's PUT: two registries, of which one has a database that drops the
// log's rows, take the same writes in turn. What the second one still does, which is to encode an entry, is measured by
// itself and added: one writer encodes the entries of all clients, so each waits for all of them.
func auditCost(ctx context.Context, o options, t *table) error {
	if err := dropLog(ctx, filepath.Join(o.dir, "unaudited", "data")); err != nil {
		return err
	}
	var clients [2]*client
	for i, name := range []string{"audited", "unaudited"} {
		c, err := startAudited(ctx, o, name)
		if err != nil {
			return err
		}
		defer c.server.stop()
		clients[i] = c
	}
	var p50, rate [2][]float64
	for round := range auditTurns(o) {
		for turn := range 2 {
			which := (turn + round) % 2
			start := time.Now()
			times, err := putTags(ctx, clients[which], round, o.writes)
			if err != nil {
				return err
			}
			if round > 0 { // the first round opens connections and files
				p50[which] = append(p50[which], times.quantile(0.5).Seconds())
				rate[which] = append(rate[which], float64(o.writes)/time.Since(start).Seconds())
			}
		}
	}
	encoding, err := encodingTime()
	if err != nil {
		return err
	}
	// Neighbouring turns are compared, so that what slows the machine for a while slows both.
	shares := make([]float64, len(p50[0]))
	for i, with := range p50[0] {
		shares[i] = 100 * (with - p50[1][i] + auditClients*encoding.Seconds()) / with
	}
	t.add(fmt.Sprintf("PUT of a tag, %d clients: p50, a second, CPU of the server", auditClients), summary(clients[0], p50[0], rate[0], o))
	t.add("the same without the log's rows", summary(clients[1], p50[1], rate[1], o))
	t.add("encoding of an entry", shortest(encoding))
	t.limit("share of the log in the p50, encoding included", median(shares), 10, " %")
	return logLag(ctx, o, t)
}

// startAudited starts a registry that has the blobs of what is written.
func startAudited(ctx context.Context, o options, name string) (*client, error) {
	s, err := startTidelock(ctx, o, engines[0], name, nil)
	if err != nil {
		return nil, err
	}
	c := newClient(s, auditClients)
	for _, b := range auditBlobs {
		if err := c.pushBlob(ctx, "bench/app", b); err != nil {
			s.stop()
			return nil, err
		}
	}
	return c, nil
}

// summary stops the server of a client and says how it did.
func summary(c *client, p50, rate []float64, o options) string {
	cpu := c.server.stop() / time.Duration(auditTurns(o)*o.writes)
	return fmt.Sprintf("%s, %.0f, %s", shortest(seconds(median(p50))), median(rate), shortest(cpu))
}

// auditTurns is how often each registry has its turn, the first one included, which does not count. Turns are short and
// many, since the difference is smaller than what else goes on in a machine.
func auditTurns(o options) int { return 1 + 4*o.rounds }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// dropLog makes a database that drops the rows of its audit log.
func dropLog(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, "tidelock.db")
	store, err := sqlite.Open(ctx, path, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := store.Close(); err != nil {
		return err
	}
	database, err := (&sqlitedriver.Driver{}).Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	_, err = database.(driver.ExecerContext).ExecContext(ctx, withoutLog, nil)
	return err
}

// auditBlobs are the config and the layers that all images of the measurement have.
var auditBlobs = func() []blob {
	blobs := make([]blob, 6)
	for i := range blobs {
		blobs[i] = newBlob(fmt.Appendf(nil, `{"blob":%d}`, i))
	}
	return blobs
}()

// auditImage is the manifest of an image that differs from others in its annotation.
func auditImage(name string) []byte {
	descriptor := func(mediaType string, b blob) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, b.digest, len(b.content))
	}
	var layers []string
	for _, b := range auditBlobs[1:] {
		layers = append(layers, descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b))
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s],"annotations":{"n":%q}}`,
		manifestType, descriptor("application/vnd.oci.image.config.v1+json", auditBlobs[0]), strings.Join(layers, ","), name)
}

// putTags writes new tags from several clients, each of an image of its own whose blobs are there: nothing but the tag's
// PUT.
func putTags(ctx context.Context, c *client, round, writes int) (samples, error) {
	times := make(samples, writes)
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range auditClients {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < writes; i = int(next.Add(1)) - 1 {
				name := fmt.Sprintf("t-%d-%d", round, i)
				content := auditImage(name)
				start := time.Now()
				if err := c.putManifest(ctx, "bench/app", name, manifestType, content); err != nil {
					return err
				}
				times[i] = time.Since(start)
			}
			return nil
		})
	}
	err := group.Wait()
	return times, err
}

// encodingTime measures the encoding of the entry of a tag that is created.
func encodingTime() (time.Duration, error) {
	const times = 20_000
	start := time.Now()
	for range times {
		_, err := audit.Encode("tidelock/"+strings.Repeat("0", 32), audit.Entry{
			Time: start, Kind: audit.KindCreateTag, Organization: "bench", Repository: "app", Tag: "t-1-1",
			Caller:   domain.Caller{Name: "admin", Kind: domain.CallerUser, Address: "127.0.0.1"},
			Metadata: audit.Metadata{"namespace": "bench", "repo": "app", "tag": "t-1-1", "manifest_digest": digest.FromString("").String()},
		})
		if err != nil {
			return 0, err
		}
	}
	return time.Since(start) / times, nil
}
