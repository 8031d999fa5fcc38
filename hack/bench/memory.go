package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// beforeMeeting is how much each upload sends before it waits for the others.
const beforeMeeting = 1 << 20

// uploadMemory measures the most memory that the process of a registry ever had, while many clients push a layer at
// once. Each sends the beginning of its layer and then waits until all others have, so that all are under way at the
// same time.
func uploadMemory(ctx context.Context, o options, t *table) error {
	all := newLayers(o.layer)
	for _, e := range o.engines {
		s, err := startTidelock(ctx, o, e, "memory-"+e.name, nil)
		if err != nil {
			return err
		}
		before, err := s.peakMemory()
		if err == nil {
			start := time.Now()
			if err = pushAtOnce(ctx, newClient(s, o.uploads), o, all); err == nil {
				var peak float64
				peak, err = s.peakMemory()
				speed := float64(o.uploads) * float64(o.layer>>20) / time.Since(start).Seconds()
				t.limit(fmt.Sprintf("peak memory of %d uploads of %d MiB at once, %s (%.0f MiB before; %.0f MiB/s together)",
					o.uploads, o.layer>>20, e.name, before, speed), peak, e.memory, " MiB")
			}
		}
		s.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

func pushAtOnce(ctx context.Context, c *client, o options, all layers) error {
	group, ctx := errgroup.WithContext(ctx)
	var under sync.WaitGroup
	under.Add(o.uploads)
	for number := range o.uploads {
		group.Go(func() error {
			head, tail, d := all.layer(number)
			content := io.MultiReader(bytes.NewReader(head), bytes.NewReader(tail[:beforeMeeting]), &meeting{others: &under}, bytes.NewReader(tail[beforeMeeting:]))
			return c.pushBytes(ctx, fmt.Sprintf("bench/app-%d", number), d, content, o.layer)
		})
	}
	return group.Wait()
}

// meeting is a reader of nothing that waits, the first time, until all others have come as far.
type meeting struct {
	others *sync.WaitGroup
	met    bool
}

func (m *meeting) Read([]byte) (int, error) {
	if !m.met {
		m.met = true
		m.others.Done()
		m.others.Wait()
	}
	return 0, io.EOF
}
