package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Registry is all that the controllers need of the registry.
type Registry interface {
	PolicyRegistry
	MirrorRegistry
	ReadonlyRegistry
	SyncRegistry
	LogRegistry
	LedgerRegistry
	CheckpointRegistry
}

// Options say how the controllers run.
type Options struct {
	Registry Registry
	// Namespace is the operator's own, and User who it is to the API server. Workload is what runs the operator there,
	// Instance the name of its pod.
	Namespace string
	User      string
	Workload  corev1.ObjectReference
	Instance  string
	// RegistryHosts are the registry's, as clients know them: those that Secrets have credentials for.
	RegistryHosts []string
	// Now is the clock of readonly superusers, time.Now by default.
	Now func() time.Time
	// EventPace is DefaultEventPace if it is zero.
	EventPace EventPace
	// Checkpoints are those of the registry's audit log.
	Checkpoints CheckpointOptions
}

// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;create;update,namespace=tidelock-system
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch,namespace=tidelock-system
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch,namespace=tidelock-system

// Setup adds all controllers to the manager. The markers above are for the manager's own leader election.
func Setup(ctx context.Context, mgr ctrl.Manager, options Options) error {
	cluster, err := namespaceByName(ctx, mgr.GetAPIReader(), metav1.NamespaceSystem)
	if err != nil {
		return fmt.Errorf("reading the cluster's identity, the UID of the namespace %s: %w", metav1.NamespaceSystem, err)
	}
	events, err := NewEventsClient(mgr.GetConfig())
	if err != nil {
		return fmt.Errorf("making a client for Events: %w", err)
	}
	if options.EventPace == (EventPace{}) {
		options.EventPace = DefaultEventPace
	}
	if options.Checkpoints.Now == nil {
		options.Checkpoints.Now = time.Now
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	uid := string(cluster.UID)
	synchronizer := NewSynchronizer(mgr.GetClient(), options.Registry, uid)
	ledger := &EventLedger{Registry: options.Registry}
	policies := &ImmutabilityPolicyReconciler{
		Client: mgr.GetClient(), Uncached: mgr.GetAPIReader(), Registry: options.Registry, Cluster: uid, Sync: synchronizer, Ledger: ledger,
	}
	mirrors := &OrgMirrorReconciler{
		Client: mgr.GetClient(), Uncached: mgr.GetAPIReader(), Registry: options.Registry, Cluster: uid, Sync: synchronizer, Now: time.Now,
	}
	readonly := &ReadonlySuperuserReconciler{
		Client: mgr.GetClient(), Uncached: mgr.GetAPIReader(), Registry: options.Registry, Cluster: uid, Sync: synchronizer, Now: options.Now,
		Namespace: options.Namespace, User: options.User, Hosts: options.RegistryHosts,
	}
	putAll := func(ctx context.Context) error {
		return errors.Join(policies.PutAll(ctx), mirrors.PutAll(ctx), readonly.PutAll(ctx))
	}
	publisher := &Publisher{
		Registry: options.Registry, Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: events,
		Cluster: uid, Namespace: options.Namespace, Workload: options.Workload, Instance: options.Instance,
		Options: options.Checkpoints, VerdictChanged: putAll, wake: make(chan struct{}, 1),
	}
	policies.Evidence, mirrors.Evidence, readonly.Evidence = publisher.SetCondition, publisher.SetCondition, publisher.SetCondition
	projector := &Projector{
		Registry: options.Registry, Events: events, Ledger: ledger,
		Namespace: options.Namespace, Workload: options.Workload, Instance: options.Instance, Pace: options.EventPace,
		CountsChanged: policies.CountsChanged, SyncChanged: mirrors.SyncChanged, AccessChanged: readonly.AccessChanged,
		Recovered: func(ctx context.Context) error {
			synchronizer.Restart()
			publisher.Wake()
			return putAll(ctx)
		},
	}
	if err := policies.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller of %s: %w", policyKind, err)
	}
	if err := mirrors.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller of %s: %w", mirrorKind, err)
	}
	if err := readonly.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller of %s: %w", readonlyKind, err)
	}
	if err := mgr.Add(synchronizer); err != nil {
		return fmt.Errorf("setting up the synchronizer: %w", err)
	}
	if err := mgr.Add(projector); err != nil {
		return fmt.Errorf("setting up the projector of Events: %w", err)
	}
	if options.Checkpoints.Interval == 0 {
		return nil
	}
	synchronizer.Before = publisher.Bring
	if err := mgr.Add(publisher); err != nil {
		return fmt.Errorf("setting up the publisher of checkpoints: %w", err)
	}
	return nil
}
