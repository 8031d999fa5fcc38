package mirror

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/domain"
)

// metrics are the numbers of mirrors on this replica.
type metrics struct {
	syncs       *prometheus.CounterVec
	seconds     prometheus.Counter
	bytes       *prometheus.CounterVec
	copied      prometheus.Counter
	saved       prometheus.Counter
	failures    prometheus.Counter
	lastSuccess *prometheus.GaugeVec
	running     prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_mirror_syncs_total", Help: "Syncs of mirrors that ended on this replica, by result: succeeded, failed or cancelled.",
		}, []string{"result"}),
		seconds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_mirror_sync_duration_seconds_total", Help: "Time spent in syncs of mirrors.",
		}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_mirror_bytes_total", Help: "Bytes of blobs of mirrors: fetched from upstreams, or saved since they were here.",
		}, []string{"kind"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_mirror_failures_total", Help: "Tags that a sync of a mirror could not copy.",
		}),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tidelock_mirror_last_success_timestamp_seconds", Help: "When the last sync that succeeded ended, as far as this replica knows, by organization; the latest of all replicas counts.",
		}, []string{"organization"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_mirror_syncs_running", Help: "Syncs of mirrors that this replica carries out now.",
		}),
	}
	m.copied, m.saved = m.bytes.WithLabelValues("fetched"), m.bytes.WithLabelValues("saved")
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.syncs, m.seconds, m.bytes, m.failures, m.lastSuccess, m.running}
}

// began notes a sync that begins, or is taken over.
func (m *metrics) began(mirror domain.Mirror) {
	m.running.Inc()
	if !mirror.LastSuccess.IsZero() {
		m.lastSuccess.WithLabelValues(mirror.Organization).Set(float64(mirror.LastSuccess.Unix()))
	}
}

// observe notes a sync that ended.
func (m *metrics) observe(mirror domain.Mirror, state domain.SyncState, elapsed time.Duration, now time.Time) {
	m.syncs.WithLabelValues(string(state)).Inc()
	m.seconds.Add(elapsed.Seconds())
	if state == domain.SyncSucceeded {
		m.lastSuccess.WithLabelValues(mirror.Organization).Set(float64(now.Unix()))
	}
}
