package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// EventAuditLogInconsistent is the reason of the Event that says that the registry's audit log contradicts what was
// published of it.
const EventAuditLogInconsistent = "AuditLogInconsistent"

const (
	// DefaultCheckpointInterval is how often a checkpoint is published at most.
	DefaultCheckpointInterval = time.Minute
	// unprovenAfter is how long the registry may fail to prove its log before the condition says so.
	unprovenAfter = 10 * time.Minute
)

// CheckpointOptions say how checkpoints of the audit log are published.
type CheckpointOptions struct {
	// Interval is how often a checkpoint is published at most; 0 for never.
	Interval time.Duration
	// KeyFile holds the public keys that checkpoints must be signed with, one a line. Without it the first ones are trusted,
	// and from then on those that sign together with a trusted one.
	KeyFile string
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Publisher keeps the registry honest. It asks for checkpoints of the audit log, has the registry prove that each begins
// with all that the one before stood for, and publishes them as ConfigMaps, out of the registry's reach. What contradicts
// them is never published: it becomes a condition of every policy, an Event and a metric, and the registry is told.
type Publisher struct {
	Registry CheckpointRegistry
	// Client writes, and Reader reads the API server itself.
	Client client.Client
	Reader client.Reader
	Events eventsclient.EventsGetter
	// Cluster is the UID of the namespace kube-system.
	Cluster string
	// Namespace is the operator's, Workload what runs it there, and Instance the name of its pod.
	Namespace string
	Workload  corev1.ObjectReference
	Instance  string
	Options   CheckpointOptions
	// VerdictChanged is told when the condition of the policies has changed.
	VerdictChanged func(context.Context) error

	wake    chan struct{}
	verdict atomic.Pointer[verdict]

	mu sync.Mutex
	// published are the checkpoints of the cluster, once they are loaded.
	published []publication
	loaded    bool
	// told is the verdict that everybody knows of; proven is when the log was last proven, or the publisher began.
	told   verdict
	proven time.Time
}

var (
	_ manager.Runnable               = &Publisher{}
	_ manager.LeaderElectionRunnable = &Publisher{}
)

// +kubebuilder:rbac:groups="",resources=configmaps,verbs=create;delete;list,namespace=tidelock-system

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (p *Publisher) NeedLeaderElection() bool { return true }

// Wake has the log looked at now: the registry may be another than it was.
func (p *Publisher) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Start implements manager.Runnable.
func (p *Publisher) Start(ctx context.Context) error {
	logger := ctrl.LoggerFrom(ctx).WithName("publisher")
	pause := shortestPause
	for {
		wait, err := p.round(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // It was asked to stop, and did.
		}
		if err != nil {
			logger.Info("the audit log could not be looked at; trying again", "cause", err.Error(), "after", pause.String())
			wait, pause = jitter(pause), min(2*pause, p.Options.Interval)
		} else {
			pause = shortestPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Bring tells the registry what was published last, before it takes writes: if its log does not hold that, it takes none.
func (p *Publisher) Bring(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _, err := p.bring(ctx)
	var found *inconsistency
	if errors.As(err, &found) {
		return nil // a round tells of it
	}
	return err
}

// bring returns what was published last, nil if nothing was, and which log the registry has.
func (p *Publisher) bring(ctx context.Context) (last *publication, log openapi.LogStatus, err error) {
	if err := p.load(ctx); err != nil {
		return nil, log, err
	}
	if last = latest(p.published); last == nil {
		return nil, log, nil
	}
	log, err = p.Registry.Published(ctx, p.Cluster, string(last.note))
	if err != nil {
		return nil, log, fmt.Errorf("telling the registry what was published: %w", err)
	}
	return last, log, nil
}

// load reads the published checkpoints, once.
func (p *Publisher) load(ctx context.Context) error {
	if p.loaded {
		return nil
	}
	var objects corev1.ConfigMapList
	if err := p.Reader.List(ctx, &objects, client.InNamespace(p.Namespace), client.HasLabels{CheckpointLabel}); err != nil {
		return fmt.Errorf("listing the published checkpoints: %w", err)
	}
	p.published = nil
	for i := range objects.Items {
		read, err := readPublication(&objects.Items[i])
		if err != nil {
			ctrl.LoggerFrom(ctx).WithName("publisher").Error(err, "a published checkpoint is invalid", "configMap", objects.Items[i].Name)
			return inconsistent(registryv1alpha1.ReasonPublishedInvalid, "The ConfigMap %s/%s is not a checkpoint that the operator has published. Find out who has made it, and remove it.", p.Namespace, objects.Items[i].Name)
		}
		p.published = append(p.published, read)
	}
	p.loaded = true
	if last := latest(p.published); last != nil {
		observePublished(*last)
	}
	return nil
}

// round looks at the log once, and publishes its checkpoint if there is something new and the time has come. It returns
// when to look again.
func (p *Publisher) round(ctx context.Context) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proven.IsZero() {
		p.proven = p.Options.Now()
	}
	wait, err := p.look(ctx)
	var found *inconsistency
	switch {
	case err == nil:
		p.proven = p.Options.Now()
		err = p.decide(ctx, logConsistent)
	case errors.As(err, &found):
		p.proven = p.Options.Now()
		wait, err = p.Options.Interval, p.decide(ctx, verdict{metav1.ConditionFalse, found.reason, found.message})
	case p.Options.Now().Sub(p.proven) > unprovenAfter:
		err = errors.Join(err, p.decide(ctx, logUnproven))
	}
	return wait, err
}

// look proves the log and publishes.
func (p *Publisher) look(ctx context.Context) (wait time.Duration, err error) {
	last, log, err := p.bring(ctx)
	if err != nil {
		return 0, err
	}
	next, err := p.judge(ctx, last, log)
	if err != nil {
		return 0, err
	}
	if last != nil && last.Checkpoint == next.Checkpoint {
		return p.Options.Interval, nil
	}
	next.at = p.Options.Now()
	if last != nil {
		// A clock that was ahead must not stop everything.
		if wait := min(p.Options.Interval, last.at.Add(p.Options.Interval).Sub(next.at)); wait > 0 {
			return wait, nil
		}
	}
	return p.Options.Interval, p.publish(ctx, next)
}

// publish stores a checkpoint that follows from all that were published, and tells the registry.
func (p *Publisher) publish(ctx context.Context, next publication) error {
	next.daily = !slices.ContainsFunc(p.published, func(o publication) bool {
		return o.daily && o.Origin == next.Origin && sameDay(o.at, next.at)
	})
	object := next.configMap(p.Namespace)
	err := p.Client.Create(ctx, object)
	if err != nil {
		// Another operator leads as well, for the moment, or has led before, if it was not this one whose answer got lost.
		p.loaded = false
	}
	if apierrors.IsAlreadyExists(err) {
		return p.compare(ctx, next)
	}
	if err != nil {
		return fmt.Errorf("publishing the checkpoint %s: %w", object.Name, err)
	}
	next.created = object.CreationTimestamp.Time
	p.published = append(p.published, next)
	observePublished(next)
	if _, err := p.Registry.Published(ctx, p.Cluster, string(next.note)); err != nil {
		return fmt.Errorf("telling the registry what was published: %w", err)
	}
	return p.prune(ctx)
}

// compare finds out whether the log had two roots at one size.
func (p *Publisher) compare(ctx context.Context, next publication) error {
	if err := p.load(ctx); err != nil {
		return err
	}
	for _, other := range p.published {
		if other.Origin == next.Origin && other.Size == next.Size && other.Root != next.Root {
			return inconsistent(registryv1alpha1.ReasonLogChanged, "The registry's audit log was changed: it is not the one of the published checkpoint %s.", checkpointName(other.Checkpoint))
		}
	}
	return nil
}

// prune removes published checkpoints of which there are later ones, but for the one of each day.
func (p *Publisher) prune(ctx context.Context) error {
	slices.SortFunc(p.published, func(a, b publication) int { return a.at.Compare(b.at) })
	excess := -keptLatest
	for _, o := range p.published {
		if !o.daily {
			excess++
		}
	}
	for i := 0; i < len(p.published) && excess > 0; {
		o := p.published[i]
		if o.daily {
			i++
			continue
		}
		if err := p.Client.Delete(ctx, o.configMap(p.Namespace)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("removing the published checkpoint %s: %w", checkpointName(o.Checkpoint), err)
		}
		p.published = slices.Delete(p.published, i, i+1)
		excess--
	}
	return nil
}

// decide makes a verdict known: as a condition, a metric, and where the log is inconsistent, one Event. It is tried again
// until everybody knows.
func (p *Publisher) decide(ctx context.Context, v verdict) error {
	p.verdict.Store(&v)
	auditLogConsistent.Set(map[metav1.ConditionStatus]float64{metav1.ConditionTrue: 1, metav1.ConditionFalse: 0, metav1.ConditionUnknown: -1}[v.status])
	if p.told == v {
		return nil
	}
	if v.status == metav1.ConditionFalse {
		ctrl.LoggerFrom(ctx).WithName("publisher").Error(errors.New(v.message), "the audit log contradicts what was published of it", "reason", v.reason)
		if err := p.tell(ctx, v); err != nil {
			return err
		}
	}
	if err := p.VerdictChanged(ctx); err != nil {
		return err
	}
	p.told = v
	return nil
}

// tell makes the Event of an inconsistency with what was published last: one, however often it is found.
func (p *Publisher) tell(ctx context.Context, v verdict) error {
	about := v.reason
	if last := latest(p.published); last != nil {
		about = checkpointName(last.Checkpoint)
	}
	name := sha256.Sum256([]byte(EventAuditLogInconsistent + "\x00" + about))
	_, err := p.Events.Events(p.Namespace).Create(ctx, &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: p.Namespace, Name: "tidelock-" + hex.EncodeToString(name[:20])},
		EventTime:           metav1.NewMicroTime(p.Options.Now()),
		ReportingController: EventController,
		ReportingInstance:   registryv1alpha1.Shorten(p.Instance, maxInstance),
		Regarding:           p.Workload,
		Type:                corev1.EventTypeWarning,
		Reason:              EventAuditLogInconsistent,
		Action:              "Verify",
		Note:                registryv1alpha1.Shorten(v.message, maxNote),
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making the Event of an inconsistent audit log: %w", err)
	}
	return nil
}

// SetCondition writes into a policy's conditions what is known of the log. Before anything is known they stay as they are.
func (p *Publisher) SetCondition(conditions *[]metav1.Condition, generation int64) {
	if v := p.verdict.Load(); v != nil {
		meta.SetStatusCondition(conditions, metav1.Condition{
			Type: registryv1alpha1.ConditionAuditLogConsistent, Status: v.status, Reason: v.reason, Message: v.message, ObservedGeneration: generation,
		})
	}
}

func observePublished(p publication) {
	publishedSize.Set(float64(p.Size))
	publishedTime.Set(float64(p.at.UnixMilli()) / 1000)
}
