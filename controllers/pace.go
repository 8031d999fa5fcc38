package controllers

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// jitter spreads a pause by a tenth in both directions, so that what began together does not go on together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// untilPassed is how long to wait for a time of the registry's clock, which may be a little behind this one.
func untilPassed(at time.Time) time.Duration {
	if wait := time.Until(at); wait > 0 {
		return wait + time.Second
	}
	return jitter(5 * time.Second)
}

// The pauses between attempts at a registry that does not answer.
const (
	shortestPause = 750 * time.Millisecond
	longestPause  = 15 * time.Minute
)

// jittered is a rate limiter whose pauses are spread.
type jittered struct {
	workqueue.TypedRateLimiter[reconcile.Request]
}

func registryRateLimiter() workqueue.TypedRateLimiter[reconcile.Request] {
	return jittered{workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](shortestPause, longestPause)}
}

// When implements workqueue.TypedRateLimiter.
func (j jittered) When(item reconcile.Request) time.Duration {
	return jitter(j.TypedRateLimiter.When(item))
}

// putState is what a put was about. As long as it is the same, the registry has it.
type putState struct {
	epoch      int64
	uid        types.UID
	generation int64
	claim      string
	// requestedAt is of mirrors only, token, which is named, of readonly superusers.
	requestedAt, token string
}

// visit is what this process remembers of an object from one reconciliation to the next. Nothing is lost with it but a
// pause.
type visit struct {
	put      putState
	putAgain time.Time
	patched  time.Time
	// putAt is when a mirror was put, next when its next sync is due.
	putAt, next time.Time
}

// visits remembers the visits by object.
type visits struct {
	mu   sync.Mutex
	byID map[types.NamespacedName]visit
}

func (v *visits) get(key types.NamespacedName) visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.byID[key]
}

func (v *visits) change(key types.NamespacedName, f func(*visit)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.byID == nil {
		v.byID = map[types.NamespacedName]visit{}
	}
	current := v.byID[key]
	f(&current)
	v.byID[key] = current
}

// refused forgets what was put before: the registry may have it no more, or not for this object.
func (v *visits) refused(key types.NamespacedName) {
	v.change(key, func(v *visit) { v.put = putState{} })
}

// forget tells whether the object was visited before.
func (v *visits) forget(key types.NamespacedName) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, visited := v.byID[key]
	delete(v.byID, key)
	return visited
}

// wakeups is a source of reconciliations that somebody asks for. An object that is asked for again before its time is
// reconciled once, at the earliest of the times.
type wakeups struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// Start implements source.Source.
func (w *wakeups) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = queue
	return nil
}

// after asks for an object. Before the controller has started this does nothing: it begins with all objects.
func (w *wakeups) after(key types.NamespacedName, pause time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil {
		w.queue.AddAfter(reconcile.Request{NamespacedName: key}, pause)
	}
}
