package kubeauth

import (
	"context"
	"sync"
	"time"
)

// answers keeps what was answered for a while, and asks once for all who want to know the same at the same time. That
// there was no answer is not kept, and an answer that is too old is none.
type answers[K comparable, V any] struct {
	now func() time.Time

	mu    sync.Mutex
	kept  map[K]answer[V]
	asked map[K]*question[V]
}

type answer[V any] struct {
	value V
	until time.Time
}

// question is one that is being asked. value and err are there once done is closed.
type question[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func newAnswers[K comparable, V any](now func() time.Time) *answers[K, V] {
	return &answers[K, V]{now: now, kept: map[K]answer[V]{}, asked: map[K]*question[V]{}}
}

// get returns the answer that is kept, or that ask gives, with how long it is good for from the moment it is asked.
func (a *answers[K, V]) get(ctx context.Context, key K, ask func(context.Context) (V, time.Duration, error)) (V, error) {
	a.mu.Lock()
	if kept, ok := a.kept[key]; ok && a.now().Before(kept.until) {
		a.mu.Unlock()
		return kept.value, nil
	}
	q, ok := a.asked[key]
	if !ok {
		q = &question[V]{done: make(chan struct{})}
		a.asked[key] = q
		// Others may want to know it still when the first has left.
		go a.find(context.WithoutCancel(ctx), key, q, ask)
	}
	a.mu.Unlock()
	select {
	case <-q.done:
		return q.value, q.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

func (a *answers[K, V]) find(ctx context.Context, key K, q *question[V], ask func(context.Context) (V, time.Duration, error)) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	begin := a.now()
	value, keep, err := ask(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	q.value, q.err = value, err
	delete(a.asked, key)
	if err == nil {
		a.makeRoom()
		a.kept[key] = answer[V]{value: value, until: begin.Add(keep)}
	}
	close(q.done)
}

// makeRoom forgets what is too old, or, in a flood, everything.
func (a *answers[K, V]) makeRoom() {
	if len(a.kept) < maxKept {
		return
	}
	for key, kept := range a.kept {
		if !a.now().Before(kept.until) {
			delete(a.kept, key)
		}
	}
	if len(a.kept) >= maxKept {
		clear(a.kept)
	}
}
