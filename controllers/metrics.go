package controllers

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

var (
	eventsEmitted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tidelock_events_emitted_total",
		Help: "Kubernetes Events that this process made of entries of the registry's audit log.",
	}, []string{"reason"})
	eventsDeadLettered = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tidelock_events_dead_lettered_total",
		Help: "Entries of the registry's audit log whose Event the API server refuses for good. The log has them all the same.",
	})
	eventsBacklog = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tidelock_events_backlog_entries",
		Help: "Entries of the registry's audit log that were not looked at yet.",
	})
	auditLogConsistent = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tidelock_audit_log_consistent",
		Help: "1 if the registry's audit log holds all that was published of it, 0 if it does not; -1 while this process does not know, for instance since another one leads.",
	})
	publishedSize = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tidelock_audit_published_entries",
		Help: "Entries of the registry's audit log that the last published checkpoint stands for.",
	})
	publishedTime = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tidelock_audit_published_timestamp_seconds",
		Help: "When the last checkpoint of the registry's audit log was published, in seconds since 1970.",
	})
	policyEvents = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_immutabilitypolicy_events",
		Help: "Entries of the registry's audit log about a policy's tags, by whether they have become Kubernetes Events.",
	}, []string{"namespace", "name", "state"})
)

var (
	mirrorLastSuccess = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_orgmirror_last_success_timestamp_seconds",
		Help: "When the last sync of a mirror that succeeded ended, in seconds since 1970; 0 if none did.",
	}, []string{"namespace", "name"})
	mirrorFailures = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_orgmirror_failed_syncs",
		Help: "Syncs of a mirror that failed since the last one that did not.",
	}, []string{"namespace", "name"})
	mirrorTags = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_orgmirror_tags",
		Help: "Tags of the sync of a mirror that runs, or else of the last one, by what became of them.",
	}, []string{"namespace", "name", "outcome"})
)

var (
	readonlyEnd = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_readonlysuperuser_expiration_timestamp_seconds",
		Help: "When the access of a readonly superuser ends by itself, in seconds since 1970; +Inf if it does not.",
	}, []string{"name"})
	readonlyCredentialsEnd = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_readonlysuperuser_credentials_expiration_timestamp_seconds",
		Help: "When the credentials that the operator made for a readonly superuser end, in seconds since 1970. What has passed was not rotated.",
	}, []string{"name"})
)

func init() {
	metrics.Registry.MustRegister(eventsEmitted, eventsDeadLettered, eventsBacklog, auditLogConsistent, publishedSize, publishedTime, policyEvents,
		mirrorLastSuccess, mirrorFailures, mirrorTags, readonlyEnd, readonlyCredentialsEnd)
	auditLogConsistent.Set(-1)
}

// observeBacklog records how far the projector is behind the log.
func observeBacklog(segment openapi.LogSegment, next int64) {
	eventsBacklog.Set(float64(max(0, segment.Size-next)))
}

func observeEvents(key types.NamespacedName, events *registryv1alpha1.EventsStatus) {
	policyEvents.WithLabelValues(key.Namespace, key.Name, "emitted").Set(float64(events.Emitted))
	policyEvents.WithLabelValues(key.Namespace, key.Name, "pending").Set(float64(events.Pending))
}

func forgetEventMetrics(key types.NamespacedName) {
	policyEvents.DeletePartialMatch(prometheus.Labels{"namespace": key.Namespace, "name": key.Name})
}

func observeMirror(key types.NamespacedName, status openapi.MirrorStatus) {
	var succeeded float64
	if status.LastSuccess != nil {
		succeeded = float64(status.LastSuccess.Unix())
	}
	mirrorLastSuccess.WithLabelValues(key.Namespace, key.Name).Set(succeeded)
	mirrorFailures.WithLabelValues(key.Namespace, key.Name).Set(float64(status.Failures))
	if status.Sync == nil {
		return
	}
	tags := status.Sync.Progress.Tags
	for outcome, n := range map[string]int64{
		"copied": tags.Copied, "unchanged": tags.Unchanged, "skipped": tags.Skipped, "failed": tags.Failed, "conflict": tags.Conflicts, "pruned": tags.Pruned,
	} {
		mirrorTags.WithLabelValues(key.Namespace, key.Name, outcome).Set(float64(n))
	}
}

func forgetMirrorMetrics(key types.NamespacedName) {
	labels := prometheus.Labels{"namespace": key.Namespace, "name": key.Name}
	mirrorLastSuccess.DeletePartialMatch(labels)
	mirrorFailures.DeletePartialMatch(labels)
	mirrorTags.DeletePartialMatch(labels)
}

func observeReadonly(readonly *registryv1alpha1.ReadonlySuperuser) {
	end := math.Inf(1)
	if at := readonly.Spec.ExpiresAt; at != nil {
		end = float64(at.Unix())
	}
	readonlyEnd.WithLabelValues(readonly.Name).Set(end)
	if credentials := readonly.Status.Credentials; credentials != nil {
		readonlyCredentialsEnd.WithLabelValues(readonly.Name).Set(float64(credentials.ExpirationTime.Unix()))
	} else {
		readonlyCredentialsEnd.DeleteLabelValues(readonly.Name)
	}
}

func forgetReadonlyMetrics(name string) {
	readonlyEnd.DeleteLabelValues(name)
	readonlyCredentialsEnd.DeleteLabelValues(name)
}
