package registry

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/mgmtapi"
)

// Limits of the HTTP server. There is none on a whole request or answer, since nobody knows how long an honest client
// needs for gigabytes; but a client that neither sends nor takes anything for stallTimeout is cut off.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	stallTimeout   = time.Minute
	maxHeaderBytes = 64 << 10
	readyTimeout   = 5 * time.Second
)

// stride is how much of a file is sent between two looks at the clock.
const stride = 1 << 20

func newServer(logger *slog.Logger, metrics *metrics, ready func(context.Context) error, oci, management http.Handler) *http.Server {
	exposition := metrics.handler()
	// No ServeMux: it redirects paths with "//", and clients would take that for an answer of the API.
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		switch {
		case path == "/v2" || strings.HasPrefix(path, "/v2/"):
			oci.ServeHTTP(w, r)
		case strings.HasPrefix(path, mgmtapi.Prefix):
			r.Pattern = mgmtapi.Prefix
			management.ServeHTTP(w, r)
		// These three are for everybody, and tell nothing about content.
		case path == "/healthz":
			r.Pattern = path
			serveHealth(w, nil)
		case path == "/readyz":
			r.Pattern = path
			ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
			defer cancel()
			err := ready(ctx)
			if err != nil {
				logger.WarnContext(ctx, "not ready", "error", err)
			}
			serveHealth(w, err)
		case path == "/metrics":
			r.Pattern = path
			exposition.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
	return &http.Server{
		Handler:           &observer{next: handler, logger: logger, metrics: metrics},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// serveHealth tells a probe yes or no. Why not is in the log.
func serveHealth(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "unavailable\n")
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// observer gives each request its id, counts and logs it, and guards it against clients that stall.
type observer struct {
	next    http.Handler
	logger  *slog.Logger
	metrics *metrics
}

func (o *observer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	id := rand.Text()
	r = r.WithContext(contextWithRequestID(r.Context(), id))
	w.Header().Set("X-Request-Id", id)
	control := http.NewResponseController(w)
	received := &guardedBody{ReadCloser: r.Body, control: control}
	r.Body = received
	sent := &guardedWriter{ResponseWriter: w, control: control, status: http.StatusOK}
	o.metrics.inFlight.Inc()
	defer func() {
		o.metrics.inFlight.Dec()
		// The next request on the connection begins without this one's deadline.
		_ = control.SetWriteDeadline(time.Time{})
		elapsed := time.Since(start)
		o.metrics.observe(r, sent.status, elapsed, received.bytes, sent.bytes)
		level := slog.LevelInfo
		if r.Pattern == r.URL.Path && !strings.HasPrefix(r.Pattern, "/v2") { // probes, every few seconds
			level = slog.LevelDebug
		}
		o.logger.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", sent.status,
			"received", received.bytes, "sent", sent.bytes, "duration", elapsed, "peer", r.RemoteAddr, "agent", r.UserAgent())
	}()
	o.next.ServeHTTP(sent, r)
}

// guardedBody gives each read of a body stallTimeout.
type guardedBody struct {
	io.ReadCloser
	control *http.ResponseController
	bytes   int64
}

func (b *guardedBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(stallTimeout))
	n, err := b.ReadCloser.Read(p)
	b.bytes += int64(n)
	if err != nil {
		// net/http goes on reading, to see whether the client leaves. The time that an answer takes is not the client's.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// guardedWriter gives each write of an answer stallTimeout, and lets the kernel send files.
type guardedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int
	bytes   int64
}

// Unwrap is for http.ResponseController.
func (w *guardedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *guardedWriter) WriteHeader(status int) {
	if status >= http.StatusOK { // not an interim answer
		w.status = status
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *guardedWriter) Write(p []byte) (int, error) {
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *guardedWriter) extend() { _ = w.control.SetWriteDeadline(time.Now().Add(stallTimeout)) }

// ReadFrom implements io.ReaderFrom. It passes a limited reader on as a limited reader of the same source: net sends a
// file with sendfile(2) through one such layer, not through two.
func (w *guardedWriter) ReadFrom(source io.Reader) (total int64, err error) {
	limited, ok := source.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: source, N: 1<<63 - 1}
	}
	for limited.N > 0 {
		w.extend()
		size := min(limited.N, stride)
		n, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: limited.R, N: size})
		limited.N -= n
		total += n
		w.bytes += n
		if err != nil || n < size {
			return total, err
		}
	}
	return total, nil
}
