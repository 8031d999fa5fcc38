package mgmtapi

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/openapi"
)

// exportPage is how many entries of a download are read at a time. Between two reads no transaction is open, however slow
// the client is.
const exportPage = 500

// logEncoder writes entries of a download.
type logEncoder interface {
	begin() error
	encode(openapi.LogEntry) error
	// flush is called after each page.
	flush() error
}

// logFormat is a form in which the log can be downloaded.
type logFormat struct {
	name, contentType string
	encoder           func(io.Writer) logEncoder
}

var logFormats = []logFormat{
	{"jsonl", "application/jsonl", newJSONLines},
	{"csv", "text/csv; charset=utf-8; header=present", newCSV},
}

func (a *API) exportLogs(c *call) (answer, error) {
	at := slices.IndexFunc(logFormats, func(f logFormat) bool { return f.name == c.query.text("format") })
	if at < 0 {
		return answer{}, badField("format", "%q is neither jsonl nor csv", c.query.text("format"))
	}
	selection, err := c.selectLog()
	if err != nil {
		return answer{}, err
	}
	selection.Ascending, selection.Limit = true, exportPage
	// What can be refused is refused now, before the answer begins.
	page, err := a.core.LogPage(c.Context(), selection, pageBudget())
	if err != nil {
		return answer{}, err
	}
	if len(page.Entries) == 0 && !page.More {
		if err := a.checkLogExists(c, selection); err != nil {
			return answer{}, err
		}
	}
	// A download ends, however fast the log grows.
	if selection.Before, err = a.core.LogSize(c.Context()); err != nil {
		return answer{}, err
	}
	format := logFormats[at]
	stream := func(w io.Writer) error { return a.writeLog(c, format.encoder(w), selection, page) }
	return answer{status: http.StatusOK, contentType: format.contentType, stream: stream}, nil
}

// writeLog writes a page and all that come behind it.
func (a *API) writeLog(c *call, encoder logEncoder, selection audit.Query, page audit.Page) (err error) {
	if err := encoder.begin(); err != nil {
		return err
	}
	for {
		for _, entry := range page.Entries {
			if err := encoder.encode(viewLogEntry(entry)); err != nil {
				return err
			}
		}
		if err := encoder.flush(); err != nil || !page.More {
			return err
		}
		selection.After = page.Next
		if page, err = a.core.LogPage(c.Context(), selection, pageBudget()); err != nil {
			return err
		}
	}
}

// jsonLines is one entry in JSON a line.
type jsonLines struct{ *json.Encoder }

func newJSONLines(w io.Writer) logEncoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return jsonLines{encoder}
}

func (jsonLines) begin() error                          { return nil }
func (e jsonLines) encode(entry openapi.LogEntry) error { return e.Encode(entry) }
func (jsonLines) flush() error                          { return nil }

// csvHeader names the columns of a download as CSV. New ones come at the end.
var csvHeader = []string{
	"index", "time", "kind", "organization", "repository", "tag", "policy", "performer_kind", "performer", "address", "token", "metadata", "hash",
}

// csvLines is RFC 4180: a header, fields in quotes where they need it, lines that end in CRLF. What a spreadsheet would
// take for a formula gets an apostrophe before it.
type csvLines struct{ *csv.Writer }

func newCSV(w io.Writer) logEncoder {
	writer := csv.NewWriter(w)
	writer.UseCRLF = true
	return csvLines{writer}
}

func (e csvLines) begin() error { return e.Write(csvHeader) }

func (e csvLines) encode(entry openapi.LogEntry) error {
	var metadata strings.Builder
	encoder := json.NewEncoder(&metadata)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(entry.Metadata); err != nil {
		return err
	}
	fields := []string{
		strconv.FormatInt(entry.Index, 10), entry.Time.Format("2006-01-02T15:04:05.000000Z07:00"), entry.Kind, entry.Organization, entry.Repository, entry.Tag, entry.Policy,
		entry.Performer.Kind, entry.Performer.Name, entry.Address, entry.Token, strings.TrimSuffix(metadata.String(), "\n"), entry.Hash,
	}
	for i, field := range fields {
		fields[i] = defuse(field)
	}
	return e.Write(fields)
}

func (e csvLines) flush() error {
	e.Flush()
	return e.Error()
}

// formulas are the first characters of what spreadsheets calculate, their full-width forms included.
const formulas = "=+-@\t\r\n＝＋－＠"

// defuse puts an apostrophe before what a spreadsheet would calculate, as OWASP advises. No reader of CSV takes it away.
func defuse(field string) string {
	if first := strings.IndexAny(field, formulas); first == 0 {
		return "'" + field
	}
	return field
}
