package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// SyncRegistry is what the synchronizer needs of the registry.
type SyncRegistry interface {
	Synced(ctx context.Context, cluster string, present []openapi.Manager) error
}

// Synchronizer tells the registry which objects there are: first once every object was put or refused for good, which
// opens a registry that waits for that, and from then on at intervals and a moment after an object is gone, so that the
// registry notices objects that vanished without a word.
type Synchronizer struct {
	// Reader is the cache that the reconcilers read from.
	Reader   client.Reader
	Registry SyncRegistry
	// Cluster is the UID of the namespace kube-system.
	Cluster string
	// Before is called before each report, which may open the registry for writes; an error holds the report back.
	Before func(context.Context) error

	// putting keeps puts and reports apart: an object that is put while the list of objects is on its way would be
	// missing in it, and taken for gone.
	putting sync.RWMutex

	mu      sync.Mutex
	epoch   int64
	settled map[types.UID]int64
	wake    chan struct{}
	gone    bool
}

var (
	_ manager.Runnable               = &Synchronizer{}
	_ manager.LeaderElectionRunnable = &Synchronizer{}
)

const (
	// settleDelay gathers objects that settle at about the same time, so that the list of all is not looked at for each.
	settleDelay = 100 * time.Millisecond
	// goneDelay gathers objects that go at about the same time into one report.
	goneDelay = 2 * time.Second
)

// NewSynchronizer makes a synchronizer for the cluster.
func NewSynchronizer(reader client.Reader, registry SyncRegistry, cluster string) *Synchronizer {
	before := func(context.Context) error { return nil }
	return &Synchronizer{Reader: reader, Registry: registry, Cluster: cluster, Before: before, epoch: 1, settled: map[types.UID]int64{}, wake: make(chan struct{}, 1)}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (s *Synchronizer) NeedLeaderElection() bool { return true }

// Epoch counts how often everything had to be put anew.
func (s *Synchronizer) Epoch() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Restart begins a new epoch: the registry may have lost what it had.
func (s *Synchronizer) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
}

// Settled tells that an object was put, or refused for good.
func (s *Synchronizer) Settled(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled[uid] != s.epoch {
		s.settled[uid] = s.epoch
		s.notify()
	}
}

// Gone tells that an object is gone.
func (s *Synchronizer) Gone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.notify()
}

func (s *Synchronizer) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Put calls put while no report is on its way.
func (s *Synchronizer) Put(put func() error) error {
	s.putting.RLock()
	defer s.putting.RUnlock()
	return put()
}

// Start implements manager.Runnable.
func (s *Synchronizer) Start(ctx context.Context) error {
	logger := ctrl.LoggerFrom(ctx).WithName("synchronizer")
	var reported int64
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			if reported != s.Epoch() {
				timer.Reset(settleDelay)
			} else if s.somethingIsGone() {
				timer.Reset(goneDelay)
			}
			continue
		case <-timer.C:
		}
		epoch, err := s.report(ctx, reported)
		switch {
		case err != nil:
			logger.Error(err, "the registry was not told which objects there are; trying again")
			timer.Reset(jitter(goneDelay))
		case epoch != reported:
			logger.Info("the registry knows every object", "epoch", epoch)
			reported = epoch
			timer.Reset(jitter(putInterval))
		default:
			timer.Reset(jitter(putInterval))
		}
	}
}

func (s *Synchronizer) somethingIsGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// report sends the list of objects, unless some of them are still to be put in an epoch that was not reported yet. It
// returns the epoch that is reported now.
func (s *Synchronizer) report(ctx context.Context, reported int64) (int64, error) {
	s.putting.Lock()
	defer s.putting.Unlock()
	present, err := s.present(ctx)
	if err != nil {
		return reported, err
	}
	epoch, complete := s.progress(present)
	if epoch != reported && !complete {
		return reported, nil
	}
	err = s.Before(ctx)
	if err == nil {
		err = s.Registry.Synced(ctx, s.Cluster, present)
	}
	if err != nil {
		s.Gone() // the report is still due
		return reported, err
	}
	return epoch, nil
}

// present lists the objects of all kinds.
func (s *Synchronizer) present(ctx context.Context) ([]openapi.Manager, error) {
	var policies registryv1alpha1.ImmutabilityPolicyList
	if err := s.Reader.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing policies: %w", err)
	}
	var mirrors registryv1alpha1.OrgMirrorList
	if err := s.Reader.List(ctx, &mirrors, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing mirrors: %w", err)
	}
	var readonly registryv1alpha1.ReadonlySuperuserList
	if err := s.Reader.List(ctx, &readonly, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing readonly superusers: %w", err)
	}
	present := make([]openapi.Manager, 0, len(policies.Items)+len(mirrors.Items)+len(readonly.Items))
	add := func(kind string, o client.Object) {
		present = append(present, openapi.Manager{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID())})
	}
	for i := range policies.Items {
		add(policyKind, &policies.Items[i])
	}
	for i := range mirrors.Items {
		add(mirrorKind, &mirrors.Items[i])
	}
	for i := range readonly.Items {
		add(readonlyKind, &readonly.Items[i])
	}
	return present, nil
}

// progress tells the epoch and whether every object has settled in it. It forgets objects that are gone.
func (s *Synchronizer) progress(present []openapi.Manager) (epoch int64, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = false
	here := make(map[types.UID]bool, len(present))
	for _, object := range present {
		here[types.UID(object.UID)] = true
	}
	for uid := range s.settled {
		if !here[uid] {
			delete(s.settled, uid)
		}
	}
	for uid := range here {
		if s.settled[uid] != s.epoch {
			return s.epoch, false
		}
	}
	return s.epoch, true
}
