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

// peer measures push and pull of images beside distribution, on the same disk and by the same client. In each round all
// get the same images, one server after the other and in turn first; the median of the rounds counts.
func peer(ctx context.Context, o options, t *table) error {
	servers, stop, err := startEach(ctx, o, "peer")
	if err != nil {
		return err
	}
	defer stop()
	theirs, err := startPeer(ctx, o)
	if err != nil {
		return err
	}
	defer theirs.stop()
	servers = append(servers, theirs)
	clients := newClients(servers, peerClients)
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
		push, pull := make([][]float64, len(clients)), make([][]float64, len(clients))
		// One round more than counts: in the first one both open their connections and files.
		for round := range o.rounds + 1 {
			images := make([]image, size.images)
			for i := range images {
				images[i] = newImage(random, size.bytes)
			}
			repository := fmt.Sprintf("bench/size-%d", size.bytes)
			tag := func(i int) string { return fmt.Sprintf("r%d-%d", round, i) }
			for turn := range clients {
				which := (turn + round) % len(clients)
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
		for i, s := range servers[:len(servers)-1] {
			for _, flow := range []struct {
				name   string
				speeds [][]float64
			}{{"push", push}, {"pull", pull}} {
				ours, theirs := median(flow.speeds[i]), median(flow.speeds[len(servers)-1])
				t.ratio(s.engine, fmt.Sprintf("%s of %s, %d clients: %s %.0f/s, distribution %.0f/s", flow.name, size.name, peerClients, s.name, ours, theirs), ours/theirs, 1.3)
			}
		}
	}
	return nil
}

func newClients(servers []*server, connections int) []*client {
	clients := make([]*client, len(servers))
	for i, s := range servers {
		clients[i] = newClient(s, connections)
	}
	return clients
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
