package compliance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"sync"
	"time"
)

// follower reads the log while the day goes on, and so knows between which sizes of the log something happened.
type follower struct {
	p *process

	mu      sync.Mutex
	entries []entry
	looks   []look
}

// look is one look at the log: all that was committed before it began has an index below size.
type look struct {
	begin, end time.Time
	size       int64
}

// follow looks again and again until the context ends. That a look fails while the registry is down is no matter.
func (f *follower) follow(ctx context.Context) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_, _ = f.look(ctx)
		}
	}
}

// look reads what is new and returns the size of the log.
func (f *follower) look(ctx context.Context) (size int64, err error) {
	const page = 500
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		begin := time.Now()
		status, answer, err := f.p.call(ctx, http.MethodGet, fmt.Sprintf("/api/v1/operator/log?limit=%d&after=%d", page, len(f.entries)-1), "", nil)
		if err != nil {
			return 0, err
		}
		if status != http.StatusOK {
			return 0, fmt.Errorf("reading the log: %d %s", status, answer)
		}
		var segment struct{ Entries []entry }
		if err := json.Unmarshal(answer, &segment); err != nil {
			return 0, err
		}
		f.entries = append(f.entries, segment.Entries...)
		if len(segment.Entries) < page {
			size = int64(len(f.entries))
			f.looks = append(f.looks, look{begin: begin, end: time.Now(), size: size})
			return size, nil
		}
	}
}

// since lists the entries from an index on.
func (f *follower) since(index int64) []entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entries[index:]
}

// bounds returns sizes of the log between which all happened that was begun and answered at the given times.
func (f *follower) bounds(begin, end time.Time) (from, to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := sort.Search(len(f.looks), func(i int) bool { return !f.looks[i].end.Before(begin) })
	after := sort.Search(len(f.looks), func(i int) bool { return f.looks[i].begin.After(end) })
	if before > 0 {
		from = f.looks[before-1].size
	}
	to = int64(len(f.entries))
	if after < len(f.looks) {
		to = f.looks[after].size
	}
	return from, to
}
