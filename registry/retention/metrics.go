package retention

import "github.com/prometheus/client_golang/prometheus"

// metrics are the numbers of pruning.
type metrics struct {
	runs         *prometheus.CounterVec
	last         prometheus.Gauge
	archived     prometheus.Counter
	pruned       prometheus.Counter
	held         prometheus.Gauge
	prunedBefore prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_audit_retention_runs_total", Help: "Runs of archiving and pruning by result: success or failure.",
		}, []string{"result"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_audit_retention_last_success_timestamp_seconds", Help: "When the last run of this process succeeded, 0 if none did.",
		}),
		archived: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_audit_archived_entries_total", Help: "Entries of the audit log that were written to archives.",
		}),
		pruned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_audit_pruned_entries_total", Help: "Entries of the audit log that were pruned.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_audit_retention_held_entries", Help: "Entries that are old enough to be pruned, but that a receiver or the operator has not read.",
		}),
		prunedBefore: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_audit_pruned_before", Help: "The index of the first entry that is not pruned, as of the last run.",
		}),
	}
}

// Metrics are the pruner's numbers, to be registered.
func (p *Pruner) Metrics() []prometheus.Collector {
	m := p.metrics
	return []prometheus.Collector{m.runs, m.last, m.archived, m.pruned, m.held, m.prunedBefore}
}

func (m *metrics) observe(err error) {
	if err != nil {
		m.runs.WithLabelValues("failure").Inc()
		return
	}
	m.runs.WithLabelValues("success").Inc()
	m.last.SetToCurrentTime()
}
