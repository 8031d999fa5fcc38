package controllers

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/audit"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// cursorName names the projector's place in the log.
	cursorName = audit.EventsCursor
	// paceName names, beside it, when the bucket of Events is full again: in milliseconds since 1970.
	paceName = "kubernetes-events-pace"
	// logBatch is how many entries are read, and at most done twice after a crash.
	logBatch = registryclient.MaxLogLimit
	// logWait is how long the registry holds a request for entries that are not there yet.
	logWait = 25 * time.Second
	// eventTimeout is how long one attempt to create an Event may take.
	eventTimeout = 30 * time.Second
	// eventWorkers is how many Events are created at once.
	eventWorkers = 32
)

// LogRegistry is what the projector needs of the registry.
type LogRegistry interface {
	Log(ctx context.Context, after int64, limit int, wait time.Duration) (openapi.LogSegment, error)
	LogCursor(ctx context.Context, name string) (int64, error)
	MoveLogCursor(ctx context.Context, name string, from, to int64) error
}

// EventPace bounds how many Events there can be at a time: the API server keeps them for an hour, in etcd. It is a token
// bucket, which is kept in the registry: an operator that is started again, or another one that comes to lead, goes on with
// what is left in it.
type EventPace struct {
	// Burst Events are created at BurstRate a second, those beyond at Rate a second.
	Burst     int
	BurstRate float64
	Rate      float64
}

// DefaultEventPace keeps the Events of an hour well below the 2 GiB that etcd holds by default.
var DefaultEventPace = EventPace{Burst: 100_000, BurstRate: 500, Rate: 40}

// Projector makes one Kubernetes Event of each entry of the registry's audit log about a tag that a policy locked,
// released or refused to change, about the end of a sync, and about the access of a readonly superuser: none is lost, none
// is made twice and none is merged with another, however often the operator, the registry or the API server stop. Recorders of client-go do all three.
type Projector struct {
	Registry LogRegistry
	Events   eventsclient.EventsGetter
	Ledger   *EventLedger
	// Namespace is the operator's, and Instance the name of its pod. Workload is what runs it: Events that are about no
	// object of the cluster are about that.
	Namespace string
	Workload  corev1.ObjectReference
	Instance  string
	Pace      EventPace
	// CountsChanged is told of each policy that the log says something about.
	CountsChanged func(types.NamespacedName)
	// SyncChanged is told of each mirror whose syncs the log says something about.
	SyncChanged func(types.NamespacedName)
	// AccessChanged is told of each readonly superuser whose grant the log says something about.
	AccessChanged func(types.NamespacedName)
	// Recovered is called when the registry answers again, and when its log is not the one that it was.
	Recovered func(context.Context) error

	sustained, pace *rate.Limiter
	// fullAt is what is stored as paceName.
	fullAt int64
	origin string
}

var (
	_ manager.Runnable               = &Projector{}
	_ manager.LeaderElectionRunnable = &Projector{}
)

// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create

// NewEventsClient makes a client that creates Events as fast as the projector's own pace allows.
func NewEventsClient(config *rest.Config) (eventsclient.EventsGetter, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = -1, -1
	// An API server that takes a request and never answers is asked again.
	config.Timeout = eventTimeout
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	return eventsclient.NewForConfig(config)
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (p *Projector) NeedLeaderElection() bool { return true }

// Start implements manager.Runnable.
func (p *Projector) Start(ctx context.Context) error {
	p.pace = rate.NewLimiter(rate.Limit(p.Pace.BurstRate), eventWorkers)
	p.Instance = registryv1alpha1.Shorten(p.Instance, maxInstance)
	const longest = 30 * time.Second
	pause := shortestPause
	for {
		read, err := p.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // It was asked to stop, and did.
		}
		if read {
			pause = shortestPause
		}
		ctrl.LoggerFrom(ctx).WithName("projector").Info("following the audit log was interrupted; trying again", "cause", err.Error(), "after", pause.String())
		if !sleep(ctx, jitter(pause)) {
			return nil
		}
		pause = min(2*pause, longest)
	}
}

// follow goes along the log until an error stops it. It tells whether it could read.
func (p *Projector) follow(ctx context.Context) (read bool, err error) {
	next, err := p.Registry.LogCursor(ctx, cursorName)
	if err != nil {
		return false, err
	}
	if err := p.loadPace(ctx); err != nil {
		return false, err
	}
	p.Ledger.Restart(next)
	// The first answer is wanted at once, also if there is nothing new: it tells that the registry is back.
	var wait time.Duration
	for {
		segment, err := p.Registry.Log(ctx, next-1, logBatch, wait)
		if err != nil {
			return read, err
		}
		wait = logWait
		// The first answer after a failure, or of another log: the registry may have lost what it was told.
		if (!read || segment.Origin != p.origin) && p.origin != "" {
			if err := p.Recovered(ctx); err != nil {
				return read, err
			}
		}
		read, p.origin = true, segment.Origin
		if len(segment.Entries) == 0 {
			observeBacklog(segment, next)
			continue
		}
		if next, err = p.project(ctx, segment, next); err != nil {
			return read, err
		}
		observeBacklog(segment, next)
	}
}

// project makes the Events of a segment of the log and moves the cursor behind it. It returns where the cursor is.
func (p *Projector) project(ctx context.Context, segment openapi.LogSegment, from int64) (int64, error) {
	if err := p.emit(ctx, segment); err != nil {
		return from, err
	}
	to := segment.Entries[len(segment.Entries)-1].Index + 1
	err := p.Registry.MoveLogCursor(ctx, cursorName, from, to)
	if registryclient.IsStale(err) {
		// Another operator leads as well, for the moment. Its Events are the same as ours; whoever still leads goes on from
		// where the cursor is.
		next, err := p.Registry.LogCursor(ctx, cursorName)
		if err != nil {
			return from, err
		}
		p.Ledger.Restart(next)
		return next, nil
	}
	if err != nil {
		return from, err
	}
	p.Ledger.Advance(segment.Entries, to)
	p.tellChanged(segment.Entries)
	return to, p.savePace(ctx)
}

// tellChanged tells once of each object that entries are about.
func (p *Projector) tellChanged(entries []openapi.LogEntry) {
	changed := map[openapi.Manager]bool{}
	for _, entry := range entries {
		if entry.Manager != nil {
			changed[openapi.Manager{Kind: entry.Manager.Kind, Namespace: entry.Manager.Namespace, Name: entry.Manager.Name}] = true
		}
	}
	for object := range changed {
		key := types.NamespacedName{Namespace: object.Namespace, Name: object.Name}
		switch object.Kind {
		case policyKind:
			p.CountsChanged(key)
		case mirrorKind:
			p.SyncChanged(key)
		case readonlyKind:
			p.AccessChanged(key)
		}
	}
}

// loadPace reads how much is left in the bucket.
func (p *Projector) loadPace(ctx context.Context) (err error) {
	if p.fullAt, err = p.Registry.LogCursor(ctx, paceName); err != nil {
		return err
	}
	now := time.Now()
	p.sustained = rate.NewLimiter(rate.Limit(p.Pace.Rate), p.Pace.Burst)
	if missing := time.UnixMilli(p.fullAt).Sub(now).Seconds() * p.Pace.Rate; missing >= 1 {
		p.sustained.ReserveN(now, int(min(missing, float64(p.Pace.Burst))))
	}
	return nil
}

// savePace stores how much is left in the bucket.
func (p *Projector) savePace(ctx context.Context) error {
	now := time.Now()
	missing := float64(p.Pace.Burst) - p.sustained.TokensAt(now)
	fullAt := now.UnixMilli() + int64(missing/p.Pace.Rate*1000)
	if missing < 1 || fullAt <= p.fullAt {
		return nil
	}
	err := p.Registry.MoveLogCursor(ctx, paceName, p.fullAt, fullAt)
	if registryclient.IsStale(err) {
		return p.loadPace(ctx) // another operator that leads as well, for the moment, has taken some too
	}
	p.fullAt = fullAt
	return err
}

// emit creates the Events of a segment, several at once, and returns when every one is there.
func (p *Projector) emit(ctx context.Context, segment openapi.LogSegment) error {
	from := origin{log: segment.Origin, namespace: p.Namespace, workload: p.Workload, instance: p.Instance}
	var workers errgroup.Group
	workers.SetLimit(eventWorkers)
	for _, entry := range segment.Entries {
		if !becomesEvent(entry) {
			continue
		}
		if p.sustained.Wait(ctx) != nil || p.pace.Wait(ctx) != nil {
			break
		}
		event := newEvent(from, entry)
		workers.Go(func() error { return p.create(ctx, event) })
	}
	return errors.Join(workers.Wait(), ctx.Err())
}

// create creates an Event, however long the API server needs. It gives up only with the context.
func (p *Projector) create(ctx context.Context, event *eventsv1.Event) error {
	const longest = 10 * time.Second
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, longest) {
		_, err := p.Events.Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
		switch {
		case err == nil:
			eventsEmitted.WithLabelValues(event.Reason).Inc()
			p.Ledger.Created()
			return nil
		case apierrors.IsAlreadyExists(err):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case namespaceTakesNone(err) && event.Namespace != p.Namespace:
			// What it is about stays the same.
			event.Namespace = p.Namespace
			continue
		case isRefusedForGood(err):
			// One bad Event must not hold up all that come after it.
			ctrl.LoggerFrom(ctx).WithName("projector").Error(err, "the API server refuses an Event for good", "event", event.Name, "auditIndex", event.Annotations[AuditIndexAnnotation])
			eventsDeadLettered.Inc()
			return nil
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			pause = max(pause, time.Duration(seconds)*time.Second)
		}
		if !sleep(ctx, jitter(pause)) {
			return ctx.Err()
		}
	}
}

// namespaceTakesNone tells that a namespace is gone or ending, or that something refuses Events there: a quota for instance,
// or somebody's webhook. No namespace may hold up the Events of others. That the operator itself has no right to create any
// is not among them: it can be given.
func namespaceTakesNone(err error) bool {
	const unauthorized = "cannot create resource"
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && !strings.Contains(err.Error(), unauthorized)
}

// isRefusedForGood tells answers that the same Event always gets. Missing rights are not among them: they can be given.
func isRefusedForGood(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && slices.Contains([]int32{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity}, status.Status().Code)
}

// sleep waits and tells whether the context is still there.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
