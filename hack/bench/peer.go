package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// peerClients is how many clients push or pull at once.
const peerClients = 4

// peer measures push and pull of images beside distribution, on the same disk and by the same client. In each round both
// get the same images, one server after the other and in turn first; the median of the rounds counts.
func peer(ctx context.Context, o options, t *table) error {
	ours, err := startTidelock(ctx, o, "tidelock")
	if err != nil {
		return err
	}
	defer ours.stop()
	theirs, err := startPeer(ctx, o)
	if err != nil {
		return err
	}
	defer theirs.stop()
	clients := []*client{newClient(ours, peerClients), newClient(theirs, peerClients)}
	var seed [32]byte
	random := rand.NewChaCha8(seed)
	for _, size := range []struct {
		name   string
		bytes  int
		images int
	}{
		{"1 MiB", 1 << 20, 64},
		{"10 MiB", 10 << 20, 16},
	} {
		var push, pull [2][]float64
		// One round more than counts: in the first one both open their connections and files.
		for round := range o.rounds + 1 {
			images := make([]image, size.images)
			for i := range images {
				images[i] = newImage(random, size.bytes)
			}
			repository := fmt.Sprintf("bench/size-%d", size.bytes)
			tag := func(i int) string { return fmt.Sprintf("r%d-%d", round, i) }
			for turn := range 2 {
				which := (turn + round) % 2
				c := clients[which]
				pushed, err := throughput(ctx, images, func(ctx context.Context, i int) error { return c.push(ctx, repository, tag(i), images[i]) })
				if err != nil {
					return err
				}
				pulled, err := throughput(ctx, images, func(ctx context.Context, i int) error { return c.pull(ctx, repository, tag(i), images[i]) })
				if err != nil {
					return err
				}
				if round > 0 {
					push[which], pull[which] = append(push[which], pushed), append(pull[which], pulled)
				}
			}
		}
		t.compare("push of "+size.name, push)
		t.compare("pull of "+size.name, pull)
	}
	return nil
}

// compare adds the speeds of both servers, in images a second, and their ratio.
func (t *table) compare(what string, speeds [2][]float64) {
	ours, theirs := median(speeds[0]), median(speeds[1])
	t.goal(fmt.Sprintf("%s, %d clients: %.0f/s, distribution %.0f/s", what, peerClients, ours, theirs), ours/theirs, 1.3, "×")
}

// throughput does something with each image, several at once, and returns how many a second there were.
func throughput(ctx context.Context, images []image, do func(context.Context, int) error) (float64, error) {
	start := time.Now()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range peerClients {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(images); i = int(next.Add(1)) - 1 {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(len(images)) / time.Since(start).Seconds(), err
}
