package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tidelock/tidelock/registry/domain"
)

const protobuf = "application/x-protobuf"

// otlp sends entries as log records: OTLP/HTTP 1.x in binary protobuf.
type otlp struct {
	client     *http.Client
	url        string
	secretFile string
}

func newOTLP(t Target) (*otlp, error) {
	if _, err := readToken(t.SecretFile); err != nil {
		return nil, fmt.Errorf("receiver %s: %w", t.Name, err)
	}
	client, err := newHTTPClient(t)
	return &otlp{client: client, url: t.URL, secretFile: t.SecretFile}, err
}

// rejectedError says that a receiver took a batch but for some of its entries. The protocol forbids to send them again.
type rejectedError struct {
	count   int64
	message string
}

func (e *rejectedError) Error() string {
	return fmt.Sprintf("the receiver rejects %d entries for good: %.200s", e.count, e.message)
}

func (o *otlp) send(ctx context.Context, batch []Entry) error {
	request, err := otlpRequest(batch, time.Now())
	if err != nil {
		return err
	}
	body, err := proto.Marshal(request)
	if err != nil {
		return fmt.Errorf("audit entries from %d on: %w", batch[0].Index, err)
	}
	token, err := readToken(o.secretFile)
	if err != nil {
		return err
	}
	header := http.Header{}
	header.Set("Content-Type", protobuf)
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	answer, kind, err := post(ctx, o.client, o.url, header, body)
	if err != nil || kind != protobuf { // some receivers only answer 200
		return err
	}
	var response collector.ExportLogsServiceResponse
	if err := proto.Unmarshal(answer, &response); err != nil {
		return errors.New("the receiver's answer is not one of OTLP/HTTP in protobuf")
	}
	if partial := response.GetPartialSuccess(); partial.GetRejectedLogRecords() > 0 {
		return &rejectedError{count: partial.GetRejectedLogRecords(), message: partial.GetErrorMessage()}
	}
	return nil
}

func otlpRequest(batch []Entry, now time.Time) (*collector.ExportLogsServiceRequest, error) {
	records := make([]*logs.LogRecord, len(batch))
	for i, e := range batch {
		body, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("audit entry %d: %w", e.Index, err)
		}
		records[i] = &logs.LogRecord{
			TimeUnixNano: nanoseconds(e.Time), ObservedTimeUnixNano: nanoseconds(now),
			SeverityNumber: logs.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
			EventName: eventType + string(e.Kind), Body: text(string(body)), Attributes: attributes(e),
		}
	}
	return &collector.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: present("service.name", "tidelock", "service.version", domain.Version, "tidelock.audit.origin", batch[0].Origin)},
		ScopeLogs: []*logs.ScopeLogs{{Scope: &common.InstrumentationScope{Name: "tidelock.audit"}, LogRecords: records}},
	}}}, nil
}

// attributes are what records are searched by; all of the entry is in the body.
func attributes(e Entry) []*common.KeyValue {
	metadata := func(name string) string {
		value, _ := e.Metadata[name].(string)
		return value
	}
	list := present("tidelock.audit.kind", string(e.Kind), "tidelock.audit.hash", e.Hash.String(), "tidelock.organization", metadata("namespace"),
		"tidelock.repository", metadata("repo"), "tidelock.tag", metadata("tag"), "tidelock.policy", metadata("policy_uuid"), "client.address", e.IP)
	if e.Performer != nil {
		list = append(list, present("user.name", e.Performer.Name, "tidelock.performer.kind", e.Performer.Kind)...)
	}
	return append(list, &common.KeyValue{Key: "tidelock.audit.index", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: e.Index}}})
}

// present makes attributes of names and values, leaving empty values out.
func present(pairs ...string) (list []*common.KeyValue) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			list = append(list, &common.KeyValue{Key: pairs[i], Value: text(pairs[i+1])})
		}
	}
	return list
}

func text(value string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}
}

func nanoseconds(t time.Time) uint64 { return uint64(max(0, t.UnixNano())) } //nolint:gosec // it is not negative

// readToken reads the bearer token of a file, if there is one.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("secret-file: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("secret-file %s must hold one line, the token", path)
	}
	return token, nil
}
