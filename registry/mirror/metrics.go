package mirror

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// metrics are the numbers of mirrors on this replica.
type metrics struct {
	syncs    *prometheus.CounterVec
	seconds  prometheus.Counter
	bytes    *prometheus.CounterVec
	copied   prometheus.Counter
	saved    prometheus.Counter
	failures prometheus.Counter
	running  prometheus.Gauge
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
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_mirror_syncs_running", Help: "Syncs of mirrors that this replica carries out now.",
		}),
	}
	m.copied, m.saved = m.bytes.WithLabelValues("fetched"), m.bytes.WithLabelValues("saved")
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.syncs, m.seconds, m.bytes, m.failures, m.running}
}

// observe notes a sync that ended.
func (m *metrics) observe(state domain.SyncState, elapsed time.Duration) {
	m.syncs.WithLabelValues(string(state)).Inc()
	m.seconds.Add(elapsed.Seconds())
}

// behind are numbers of all mirrors, whichever replica syncs them. They name none: everybody may read metrics.
type behind struct {
	core                      *core.Core
	scheduled, failing, since *prometheus.Desc
}

func newBehind(c *core.Core) *behind {
	return &behind{
		core:      c,
		scheduled: prometheus.NewDesc("tidelock_mirrors_scheduled", "Mirrors that have a schedule.", nil, nil),
		failing:   prometheus.NewDesc("tidelock_mirrors_failing", "Mirrors with a schedule whose last sync failed.", nil, nil),
		since:     prometheus.NewDesc("tidelock_mirrors_oldest_success_timestamp_seconds", "When the mirror with a schedule that has been without a success for longest had its last one, or was made; 0 if there is no such mirror.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (b *behind) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- b.scheduled
	descriptions <- b.failing
	descriptions <- b.since
}

// Collect implements prometheus.Collector. While the database does not answer there are no numbers.
func (b *behind) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	scheduled, failing, since, err := b.core.MirrorsBehind(ctx)
	if err != nil {
		return
	}
	seconds := 0.0
	if !since.IsZero() {
		seconds = float64(since.Unix())
	}
	metrics <- prometheus.MustNewConstMetric(b.scheduled, prometheus.GaugeValue, float64(scheduled))
	metrics <- prometheus.MustNewConstMetric(b.failing, prometheus.GaugeValue, float64(failing))
	metrics <- prometheus.MustNewConstMetric(b.since, prometheus.GaugeValue, seconds)
}
