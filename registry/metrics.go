package registry

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// metrics are the numbers of one registry. Labels never hold a name that a client chose, so their number is bounded.
type metrics struct {
	gatherer *prometheus.Registry
	inFlight prometheus.Gauge
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	received *prometheus.CounterVec
	sent     *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		gatherer: prometheus.NewRegistry(),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tidelock_http_requests_in_flight", Help: "Requests that are being answered.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_http_requests_total", Help: "Requests by route, method and status.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tidelock_http_request_duration_seconds", Help: "Time from a request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"route", "method"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_http_received_bytes_total", Help: "Bytes of request bodies.",
		}, []string{"route"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tidelock_http_sent_bytes_total", Help: "Bytes of answer bodies.",
		}, []string{"route"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tidelock_build_info", Help: "Always 1; the label has the version.", ConstLabels: prometheus.Labels{"version": domain.Version},
	})
	build.Set(1)
	m.gatherer.MustRegister(m.inFlight, m.requests, m.duration, m.received, m.sent, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// logMetrics are the numbers of the audit log.
func logMetrics(c *core.Core) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidelock_registry_read_only",
			Help: "1 while all writes are refused because the audit log contradicts what was published of it, else 0; -1 if it is not known.",
		}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			status, err := c.LogStatus(ctx)
			switch {
			case err != nil:
				return -1
			case status.ReadOnly != "":
				return 1
			}
			return 0
		}),
	}
}

// diskMetrics are the numbers of the disk that a data directory is on.
func diskMetrics(directory *fs.Directory) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidelock_disk_full", Help: "1 while the disk is full and pushes are refused, else 0.",
		}, func() float64 {
			if directory.Room() != nil {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tidelock_disk_free_bytes", Help: "Free space on the disk of the data directory, without the reserve; -1 if it is not known.",
		}, func() float64 {
			free, err := directory.Free()
			if err != nil {
				return -1
			}
			return float64(free)
		}),
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.gatherer, promhttp.HandlerOpts{})
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

func (m *metrics) observe(r *http.Request, status int, elapsed time.Duration, received, sent int64) {
	route, method := r.Pattern, r.Method
	if route == "" {
		route = "other"
	}
	if !slices.Contains(methods, method) {
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route, method).Observe(elapsed.Seconds())
	m.received.WithLabelValues(route).Add(float64(received))
	m.sent.WithLabelValues(route).Add(float64(sent))
}
