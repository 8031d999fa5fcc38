package forward_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	collector "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/forward"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// listen listens on an address again.
func listen(address string) (listener net.Listener) {
	GinkgoHelper()
	Eventually(func() (err error) {
		listener, err = net.Listen("tcp", address) //nolint:noctx // of a test
		return err
	}).WithTimeout(patience).Should(Succeed())
	return listener
}

func onSQLite() bool {
	store := newReplica(GinkgoT().TempDir(), core.Options{}).store.Store
	_, is := store.(*sqlite.Store)
	return is
}

var _ = DescribeTable("A receiver's address", func(text string, want forward.Target, problem string) {
	t, err := forward.ParseTarget(text)
	if problem != "" {
		Expect(err).To(MatchError(ContainSubstring(problem)))
		Expect(err.Error()).NotTo(ContainSubstring("hidden"))
		return
	}
	Expect(err).NotTo(HaveOccurred())
	Expect(t).To(Equal(want))
},
	Entry("standard output", "stdout", forward.Target{Name: "stdout", Protocol: forward.Stdout}, ""),
	Entry("a webhook", "https://Siem.example.com/in?token=x#secret-file=/run/key", forward.Target{
		Name: "siem.example.com", Protocol: forward.Webhook, URL: "https://Siem.example.com/in?token=x", SecretFile: "/run/key",
	}, ""),
	Entry("a webhook with all", "https://h/#name=siem&secret-file=/a&ca-file=/b", forward.Target{
		Name: "siem", Protocol: forward.Webhook, URL: "https://h/", SecretFile: "/a", CAFile: "/b",
	}, ""),
	Entry("OTLP", "otlp+https://collector:4318", forward.Target{Name: "collector", Protocol: forward.OTLP, URL: "https://collector:4318/v1/logs"}, ""),
	Entry("OTLP with a path", "otlp+http://127.0.0.1:1/otlp/v1/logs#secret-file=/t", forward.Target{
		Name: "127.0.0.1", Protocol: forward.OTLP, URL: "http://127.0.0.1:1/otlp/v1/logs", SecretFile: "/t",
	}, ""),
	Entry("no address", "syslog", forward.Target{}, "a receiver is stdout"),
	Entry("credentials", "https://user:hidden@h/#secret-file=/a", forward.Target{}, "without user or password"),
	Entry("a webhook that is not signed", "https://h/?token=hidden", forward.Target{}, "say #secret-file="),
	Entry("clear text", "http://h/?token=hidden#secret-file=/a", forward.Target{}, "use https"),
	Entry("a wrong parameter", "https://h/?token=hidden#secret=/a", forward.Target{}, `not "secret"`),
	Entry("a wrong name", "https://h/?token=hidden#name=A&secret-file=/a", forward.Target{}, `"A" is not a name`),
	Entry("a host that is no name", "https://[::1]/#secret-file=/a", forward.Target{}, "say #name="),
)

var _ = Describe("Receivers", func() {
	It("have names of their own", func() {
		_, err := forward.ParseTargets([]string{"otlp+https://h", "https://h/#secret-file=/a"})
		Expect(err).To(MatchError(ContainSubstring("two receivers are called h")))
	})

	DescribeTable("with a file that does not serve are refused at start", func(target, content, problem string) {
		path := filepath.Join(GinkgoT().TempDir(), "file")
		if content != "" {
			Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
		}
		t, err := forward.ParseTarget(target + path)
		Expect(err).NotTo(HaveOccurred())
		_, err = forward.New(forward.Options{Targets: []forward.Target{t}})
		Expect(err).To(MatchError(ContainSubstring(problem)))
	},
		Entry("no key", "https://h/#secret-file=", "", "no such file"),
		Entry("an empty key", "https://h/#secret-file=", "\n", "is empty"),
		Entry("a short key", "https://h/#secret-file=", "c2hvcnQ=\n", "24 to 64 bytes"),
		Entry("no base64", "https://h/#secret-file=", "a key of thirty-two bytes, or so\n", "24 to 64 bytes"),
		Entry("two tokens", "otlp+https://h/#secret-file=", "a\nb\n", "one line"),
		Entry("no certificate", "otlp+https://h/#ca-file=", "x", "no certificate in PEM"),
	)
})

// lines collects what is written, unless it is blocked.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	gate chan struct{}
	fail error
}

func (l *lines) Write(p []byte) (int, error) {
	if l.gate != nil {
		<-l.gate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, l.fail
	}
	return l.text.Write(p)
}

func (l *lines) indices() (list []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for decoder := json.NewDecoder(bytes.NewReader(l.text.Bytes())); ; {
		var line struct{ Index int }
		if err := decoder.Decode(&line); errors.Is(err, io.EOF) {
			return list
		}
		list = append(list, line.Index)
	}
}

var _ = Describe("Standard output", func() {
	It("gets a line of JSON for each entry", func() {
		log, out := newReplica(GinkgoT().TempDir(), core.Options{}), &lines{}
		forwarding(log, forward.Options{Stdout: out}, "stdout")
		log.pushes(0, 300)
		size := log.indexed()
		Eventually(func() []int { return out.indices() }).WithTimeout(patience).Should(Equal(upTo(size)))
		Expect(bytes.Count(out.text.Bytes(), []byte("\n"))).To(Equal(size))
	})

	It("that nobody reads keeps neither pushes nor the end waiting", func() {
		log, out := newReplica(GinkgoT().TempDir(), core.Options{}), &lines{gate: make(chan struct{})}
		DeferCleanup(func() { close(out.gate) })
		_, stop := forwarding(log, forward.Options{Stdout: out}, "stdout")
		log.pushes(0, 10)
		stop()
	})

	It("that fails gets the entries again", func() {
		log, out := newReplica(GinkgoT().TempDir(), core.Options{}), &lines{fail: io.ErrClosedPipe}
		f, _ := forwarding(log, forward.Options{Stdout: out}, "stdout")
		log.pushes(0, 2)
		Eventually(func() float64 { return gathered(f, "tidelock_audit_forward_failures_total", "stdout") }).WithTimeout(patience).Should(BeNumerically(">", 1))
		out.mu.Lock()
		out.fail = nil
		out.mu.Unlock()
		size := log.indexed()
		Eventually(func() []int { return out.indices() }).WithTimeout(patience).Should(Equal(upTo(size)))
	})
})

var _ = Describe("OTLP", func() {
	var records []*logs.LogRecord
	var resources []*logs.ResourceLogs
	var header http.Header
	var mu sync.Mutex
	var answers []func(w http.ResponseWriter)

	serve := func() string {
		records, resources, answers = nil, nil, nil
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer GinkgoRecover()
			Expect(r.URL.Path).To(Equal("/v1/logs"))
			Expect(r.Header.Get("Content-Type")).To(Equal("application/x-protobuf"))
			body, err := io.ReadAll(r.Body)
			Expect(err).NotTo(HaveOccurred())
			var request collector.ExportLogsServiceRequest
			Expect(proto.Unmarshal(body, &request)).To(Succeed())
			mu.Lock()
			defer mu.Unlock()
			header = r.Header
			if len(answers) > 0 {
				answers[0](w)
				answers = answers[1:]
				return
			}
			for _, resource := range request.GetResourceLogs() {
				resources = append(resources, resource)
				records = append(records, resource.GetScopeLogs()[0].GetLogRecords()...)
			}
		}))
		DeferCleanup(server.Close)
		return "otlp+" + server.URL
	}
	indices := func() (list []int) {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range records {
			for _, a := range r.GetAttributes() {
				if a.GetKey() == "tidelock.audit.index" {
					list = append(list, int(a.GetValue().GetIntValue()))
				}
			}
		}
		return list
	}

	It("carries each entry as a log record", func() {
		address, token := serve(), filepath.Join(GinkgoT().TempDir(), "token")
		Expect(os.WriteFile(token, []byte("t0ken\n"), 0o600)).To(Succeed())
		log := newReplica(GinkgoT().TempDir(), core.Options{})
		forwarding(log, forward.Options{}, address+"#name=otel&secret-file="+token)
		log.pushes(0, 5)
		size := log.indexed()
		Eventually(indices).WithTimeout(patience).Should(Equal(upTo(size)))
		views, err := log.ReadLog(ctx, 0, 100)
		Expect(err).NotTo(HaveOccurred())
		mu.Lock()
		defer mu.Unlock()
		Expect(header.Get("Authorization")).To(Equal("Bearer t0ken"))
		last, view := records[size-1], views[size-1]
		Expect(last.GetEventName()).To(Equal("dev.tidelock.registry.audit.move_tag"))
		Expect(last.GetTimeUnixNano()).To(Equal(uint64(view.Time.UnixNano()))) //nolint:gosec // after 1970
		attributes := map[string]string{}
		for _, a := range append(last.GetAttributes(), resources[0].GetResource().GetAttributes()...) {
			attributes[a.GetKey()] = a.GetValue().GetStringValue()
		}
		Expect(attributes).To(HaveKeyWithValue("service.name", "tidelock"))
		Expect(attributes).To(HaveKeyWithValue("user.name", "alice"))
		Expect(attributes).To(HaveKeyWithValue("client.address", "192.0.2.7"))
		Expect(attributes).To(HaveKeyWithValue("tidelock.repository", "app"))
		Expect(attributes).To(HaveKeyWithValue("tidelock.tag", "latest"))
		var body forward.Entry
		Expect(json.Unmarshal([]byte(last.GetBody().GetStringValue()), &body)).To(Succeed())
		Expect(body.Index).To(Equal(view.Index))
		Expect(body.Hash).To(Equal(view.Hash))
	})

	It("goes on behind what the receiver rejects for good, and counts it", func() {
		address := serve()
		rejected, err := proto.Marshal(&collector.ExportLogsServiceResponse{PartialSuccess: &collector.ExportLogsPartialSuccess{RejectedLogRecords: 2, ErrorMessage: "too old"}})
		Expect(err).NotTo(HaveOccurred())
		mu.Lock()
		answers = append(answers, func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/x-protobuf")
			_, _ = w.Write(rejected)
		})
		mu.Unlock()
		log := newReplica(GinkgoT().TempDir(), core.Options{})
		log.pushes(0, 3)
		first := log.indexed()
		f, _ := forwarding(log, forward.Options{}, address+"#name=otel")
		Eventually(func() float64 {
			return gathered(f, "tidelock_audit_forward_rejected_entries_total", "otel")
		}).WithTimeout(patience).Should(Equal(2.0))
		log.pushes(3, 6)
		size := log.indexed()
		Eventually(indices).WithTimeout(patience).Should(Equal(upTo(size)[first:]))
	})
})
