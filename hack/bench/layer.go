package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// How often each has its turn in a round.
const (
	pullTurns = 10
	pushTurns = 3
)

// layers are layers of one size that differ in their first bytes only, so that many of them need the memory of one.
type layers struct{ content []byte }

func newLayers(size int64) layers {
	l := layers{make([]byte, size)}
	var seed [32]byte
	_, _ = rand.NewChaCha8(seed).Read(l.content)
	return l
}

// layer is the layer with a number: its bytes, in two pieces, and their digest.
func (l layers) layer(number int) (head, tail []byte, d digest.Digest) {
	head = binary.BigEndian.AppendUint64(nil, uint64(number))
	tail = l.content[len(head):]
	hash := sha256.New()
	hash.Write(head)
	hash.Write(tail)
	return head, tail, digest.NewDigest(digest.SHA256, hash)
}

// contender is one of those that take turns at the same work.
type contender struct {
	name   string
	server *server // nil for what is done in this process
	do     func(ctx context.Context, number int) (time.Duration, error)
	times  []float64
	cpu    time.Duration
}

// contest lets each do the work in turn, with another number each time. Each goes first as often as the others. The
// first turns, in which connections and files are opened, do not count.
func contest(ctx context.Context, warmup, turns int, contenders []*contender) error {
	for turn := range warmup + turns {
		for place := range contenders {
			c := contenders[(turn+place)%len(contenders)]
			took, err := c.do(ctx, turn*len(contenders)+place)
			if err != nil {
				return err
			}
			if turn >= warmup {
				c.times = append(c.times, took.Seconds())
			} else if c.server != nil {
				c.cpu = c.server.cpu()
			}
		}
	}
	for _, c := range contenders {
		if c.server != nil {
			c.cpu = (c.server.cpu() - c.cpu) / time.Duration(turns)
		}
	}
	return nil
}

// compare adds how each of the contenders did beside the last one. The ratio is the median of those of each turn, so
// that what slows the machine for a while slows both.
func (t *table) compare(what string, size int64, contenders []*contender, least float64) {
	speed := func(c *contender) float64 { return float64(size) / (1 << 20) / median(c.times) }
	base := contenders[len(contenders)-1]
	for _, c := range contenders[:len(contenders)-1] {
		ratios := make([]float64, len(c.times))
		for turn, took := range c.times {
			ratios[turn] = base.times[turn] / took
		}
		t.ratio(c.server.engine, fmt.Sprintf("%s of %d MiB: %s %.0f MiB/s, %s %.0f MiB/s", what, size>>20, c.name, speed(c), base.name, speed(base)),
			median(ratios), least)
	}
	for _, c := range contenders {
		if c.server != nil {
			t.add("CPU of the server for it, "+c.name, shortest(c.cpu))
		}
	}
}

// pullLayer measures the pull of a large layer by one client, beside a server of files that does nothing else than
// http.ServeFile, on the same disk.
func pullLayer(ctx context.Context, o options, t *table) error {
	servers, stop, err := startEach(ctx, o, "pull")
	if err != nil {
		return err
	}
	defer stop()
	files := filepath.Join(o.dir, "files")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return err
	}
	bare, err := startFileServer(ctx, files)
	if err != nil {
		return err
	}
	defer bare.stop()

	layer := newBlob(newLayers(o.layer).content)
	var contenders []*contender
	for _, s := range servers {
		c := newClient(s, 1)
		if err := c.pushBlob(ctx, "bench/app", layer); err != nil {
			return err
		}
		contenders = append(contenders, pulls(c, "/v2/bench/app/blobs/"+layer.digest.String(), o.layer))
	}
	if err := writeDurably(filepath.Join(files, "layer"), io.Discard, layer.content); err != nil {
		return err
	}
	contenders = append(contenders, pulls(newClient(bare, 1), "/layer", o.layer))
	if err := contest(ctx, pullTurns, pullTurns*o.rounds, contenders); err != nil {
		return err
	}
	t.compare("pull", o.layer, contenders, 0.9)
	return nil
}

// pulls is a contender that pulls the same layer each time.
func pulls(c *client, path string, size int64) *contender {
	return &contender{name: c.server.name, server: c.server, do: func(ctx context.Context, _ int) (time.Duration, error) {
		start := time.Now()
		got, err := c.do(ctx, http.MethodGet, path, "", nil, http.StatusOK)
		if err == nil && got.length != size {
			err = fmt.Errorf("%s has %d bytes, not %d", path, got.length, size)
		}
		return time.Since(start), err
	}}
}

// pushLayer measures the push of a large layer by one client, beside a loop in this process that hashes the same bytes,
// writes them to a file on the same disk and syncs it. It keeps its files as the registry does: on a virtual machine the
// first use of memory for them can cost more than everything else, and who removes a file has its memory again.
func pushLayer(ctx context.Context, o options, t *table) error {
	servers, stop, err := startEach(ctx, o, "push")
	if err != nil {
		return err
	}
	defer stop()
	all := newLayers(o.layer)
	var contenders []*contender
	for _, s := range servers {
		c := newClient(s, 1)
		contenders = append(contenders, &contender{name: s.name, server: s, do: func(ctx context.Context, number int) (time.Duration, error) {
			head, tail, d := all.layer(number)
			start := time.Now()
			err := c.pushBytes(ctx, "bench/app", d, io.MultiReader(bytes.NewReader(head), bytes.NewReader(tail)), o.layer)
			return time.Since(start), err
		}})
	}
	kept := filepath.Join(o.dir, "loop")
	if err := os.Mkdir(kept, 0o755); err != nil {
		return err
	}
	contenders = append(contenders, &contender{name: "loop", do: func(_ context.Context, number int) (time.Duration, error) {
		head, tail, d := all.layer(number)
		path, hash := filepath.Join(kept, strconv.Itoa(number)), sha256.New()
		start := time.Now()
		err := writeDurably(path, hash, head, tail)
		took := time.Since(start)
		if err == nil && digest.NewDigest(digest.SHA256, hash) != d {
			err = errors.New("the loop has hashed other bytes")
		}
		return took, err
	}})
	if err := contest(ctx, pushTurns, pushTurns*o.rounds, contenders); err != nil {
		return err
	}
	if err := os.RemoveAll(kept); err != nil {
		return err
	}
	t.compare("push", o.layer, contenders, 0.8)
	return nil
}

// loopBuffer is how much the loop hashes and writes at once.
const loopBuffer = 256 << 10

// writeDurably writes pieces to a new file, and to hash, and syncs the file.
func writeDurably(path string, hash io.Writer, pieces ...[]byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	for _, piece := range pieces {
		for len(piece) > 0 {
			part := piece[:min(loopBuffer, len(piece))]
			piece = piece[len(part):]
			if _, err := hash.Write(part); err != nil {
				return errors.Join(err, file.Close())
			}
			if _, err := file.Write(part); err != nil {
				return errors.Join(err, file.Close())
			}
		}
	}
	return errors.Join(file.Sync(), file.Close())
}
