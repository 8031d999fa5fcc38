package forward

import (
	"context"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the numbers of forwarding, by the receivers' names.
type metrics struct {
	forwarded *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	failures  *prometheus.CounterVec
	last      *prometheus.GaugeVec
}

func newMetrics() *metrics {
	labels := []string{"receiver"}
	return &metrics{
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_audit_forwarded_entries_total", Help: "Entries of the audit log that this process handed over.",
		}, labels),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_audit_forward_rejected_entries_total", Help: "Entries that a receiver took and rejected for good.",
		}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_audit_forward_failures_total", Help: "Attempts to hand over entries that failed and were repeated.",
		}, labels),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tidelock_audit_forward_last_success_timestamp_seconds", Help: "When this process last handed over entries, 0 if it did not.",
		}, labels),
	}
}

// add makes a receiver's numbers start at 0.
func (m *metrics) add(receiver string) {
	m.forwarded.WithLabelValues(receiver)
	m.rejected.WithLabelValues(receiver)
	m.failures.WithLabelValues(receiver)
	m.last.WithLabelValues(receiver)
}

func (m *metrics) succeeded(receiver string) { m.last.WithLabelValues(receiver).SetToCurrentTime() }

// scrapeTimeout bounds what is asked of the database for a scrape.
const scrapeTimeout = 2 * time.Second

// Metrics are the numbers of forwarding, to be registered. The lag is the same on every replica.
func (f *Forwarder) Metrics() []prometheus.Collector {
	list := []prometheus.Collector{f.metrics.forwarded, f.metrics.rejected, f.metrics.failures, f.metrics.last}
	for _, r := range f.receivers {
		list = append(list, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidelock_audit_forward_lag_entries", Help: "Entries of the audit log that a receiver does not have yet.",
			ConstLabels: prometheus.Labels{"receiver": r.target.Name},
		}, r.lag))
	}
	return list
}

// lag is NaN where it is not known.
func (r *receiver) lag() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	next, err := r.Log.LogCursor(ctx, r.target.Cursor())
	if err != nil {
		return math.NaN()
	}
	size, err := r.Log.LogSize(ctx)
	if err != nil {
		return math.NaN()
	}
	return float64(max(0, size-next))
}
