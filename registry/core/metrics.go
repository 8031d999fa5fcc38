package core

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/audit"
)

// metrics are the numbers of what was refused. Labels are kinds and operations, never what a client chose.
type metrics struct {
	refusals      *prometheus.CounterVec
	dryRuns       *prometheus.CounterVec
	views         *prometheus.CounterVec
	loginFailures prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_refusals_total", Help: "Attempts that a lock refused, repeats included, by the kind of their entry and the operation.",
		}, []string{"kind", "operation"}),
		dryRuns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_dry_run_refusals_total", Help: "Attempts that a policy on a dry run would have refused, once for each such policy, by operation.",
		}, []string{"operation"}),
		views: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_views_total", Help: "What readonly superusers looked at, repeats included, by the kind of its entry.",
		}, []string{"kind"}),
		loginFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tidelock_login_failures_total", Help: "Requests with wrong credentials.",
		}),
	}
}

// Metrics are the core's numbers, to be registered.
func (c *Core) Metrics() []prometheus.Collector {
	windows := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tidelock_refusal_windows", Help: "Windows in which repeats are counted, by what of: refusal, login.",
	}, []string{"of"})
	return []prometheus.Collector{c.metrics.refusals, c.metrics.dryRuns, c.metrics.views, c.metrics.loginFailures, windowCollector{windows, c}}
}

// windowCollector counts the open windows when it is asked.
type windowCollector struct {
	*prometheus.GaugeVec
	core *Core
}

// Collect implements prometheus.Collector.
func (w windowCollector) Collect(to chan<- prometheus.Metric) {
	w.WithLabelValues("refusal").Set(float64(w.core.refusals.open()))
	w.WithLabelValues("login").Set(float64(w.core.logins.open()))
	w.GaugeVec.Collect(to)
}

func (m *metrics) refused(r refusal) {
	switch {
	case r.kind == audit.KindDryRun:
		m.dryRuns.WithLabelValues(r.operation).Inc()
		return
	case r.operation == operationView:
		m.views.WithLabelValues(string(r.kind)).Inc()
		return
	}
	m.refusals.WithLabelValues(string(r.kind), r.operation).Inc()
}

func (s *refusals) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.windows)
}

func (s *loginWindows) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.windows)
}
