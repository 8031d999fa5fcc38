package gc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/domain"
)

// metrics are the numbers of garbage collection.
type metrics struct {
	runs         *prometheus.CounterVec
	seconds      prometheus.Counter
	last         prometheus.Gauge
	removed      *prometheus.CounterVec
	freed        prometheus.Counter
	pendingKeys  prometheus.Gauge
	pendingBytes prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_gc_runs_total", Help: "Runs of garbage collection by result: success or failure.",
		}, []string{"result"}),
		seconds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_gc_duration_seconds_total", Help: "Time spent in runs of garbage collection.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_gc_last_success_timestamp_seconds", Help: "When the last run of this process succeeded, 0 if none did.",
		}),
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_gc_removed_total", Help: "What garbage collection removed, by kind: manifest, link, blob, orphan (queued for removal), or key (its bytes are deleted).",
		}, []string{"kind"}),
		freed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_gc_freed_bytes_total", Help: "Bytes that garbage collection deleted from the blob store.",
		}),
		pendingKeys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_gc_pending_keys", Help: "Keys of the blob store whose bytes wait to be deleted.",
		}),
		pendingBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_gc_pending_bytes", Help: "Bytes that wait to be deleted from the blob store.",
		}),
	}
}

// Metrics are the collector's numbers, to be registered.
func (c *Collector) Metrics() []prometheus.Collector {
	m := c.metrics
	return []prometheus.Collector{m.runs, m.seconds, m.last, m.removed, m.freed, m.pendingKeys, m.pendingBytes}
}

func (m *metrics) observe(n domain.Collected, elapsed time.Duration, err error) {
	result := "success"
	if err != nil {
		result = "failure"
	} else {
		m.last.SetToCurrentTime()
	}
	m.runs.WithLabelValues(result).Inc()
	m.seconds.Add(elapsed.Seconds())
	for kind, count := range map[string]int64{"manifest": n.Manifests, "link": n.Links, "blob": n.Blobs, "orphan": n.Orphans, "key": n.Removed} {
		m.removed.WithLabelValues(kind).Add(float64(count))
	}
	m.freed.Add(float64(n.RemovedBytes))
}

func (m *metrics) pending(keys, bytes int64) {
	m.pendingKeys.Set(float64(keys))
	m.pendingBytes.Set(float64(bytes))
}
