package mgmtapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/domain"
)

// query are a request's parameters behind the question mark, known to be allowed on its route and not empty.
type query url.Values

// manyValues are the parameters that may be repeated.
var manyValues = []string{"kind"}

// parseQuery refuses unknown, repeated and empty parameters: a filter with a typing error must not select everything.
func parseQuery(r *http.Request, allowed []string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, domain.Errorf(domain.CodeInvalid, "the query cannot be read: %w", err)
	}
	for name, list := range values {
		switch {
		case !storable(name):
			return nil, domain.Errorf(domain.CodeInvalid, "the name of a parameter is not UTF-8 without NUL")
		case slices.ContainsFunc(list, func(value string) bool { return !storable(value) }):
			return nil, badField(name, "the value is not UTF-8 without NUL")
		case !slices.Contains(allowed, name) && len(allowed) == 0:
			return nil, badField(name, "unknown parameter; none is allowed here")
		case !slices.Contains(allowed, name):
			return nil, badField(name, "unknown parameter; allowed are %s", strings.Join(allowed, ", "))
		case len(list) > 1 && !slices.Contains(manyValues, name):
			return nil, badField(name, "the parameter stands more than once")
		case slices.Contains(list, ""):
			return nil, badField(name, "the parameter must not be empty")
		}
	}
	return query(values), nil
}

// storable reports whether every engine can hold a text: not what no name, digest or UUID can be.
func storable(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }

func (q query) text(name string) string { return url.Values(q).Get(name) }

// number reads a whole number from least to most.
func (q query) number(name string, otherwise, least, most int64) (int64, error) {
	text := q.text(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, badField(name, "%q is not a whole number from %d to %d", text, least, most)
	}
	return n, nil
}

func (q query) boolean(name string, otherwise bool) (bool, error) {
	switch text := q.text(name); strings.ToLower(text) {
	case "":
		return otherwise, nil
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	default:
		return false, badField(name, "%q is neither true nor false", text)
	}
}

// day is Quay's format of dates in queries; a leading zero may be left out.
const day = "1/2/2006"

// instant reads a date (MM/DD/YYYY) or a time (RFC 3339); zero if there is none. whole reports a date.
func (q query) instant(name string) (t time.Time, whole bool, err error) {
	text := q.text(name)
	if text == "" {
		return time.Time{}, false, nil
	}
	if t, err = time.Parse(day, text); err == nil {
		return t, true, nil
	}
	if t, err = time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), false, nil
	}
	return time.Time{}, false, badField(name, "%q is neither a date (MM/DD/YYYY) nor a time (RFC 3339, such as 2026-01-31T00:00:00Z)", text)
}

// period reads starttime and endtime. An end that is a date includes the day. Bounds that are not given are zero.
func (q query) period() (from, to time.Time, err error) {
	if from, _, err = q.instant("starttime"); err != nil {
		return from, to, err
	}
	to, whole, err := q.instant("endtime")
	if err != nil {
		return from, to, err
	}
	if whole {
		to = to.AddDate(0, 0, 1)
	}
	if !to.IsZero() && to.Before(from) {
		return from, to, badField("endtime", "%s is before starttime", q.text("endtime"))
	}
	return from, to, nil
}

// rfc2822 formats a time as Quay does: in UTC, with the zone that means "not stated" in RFC 2822.
func rfc2822(t time.Time) string {
	return t.UTC().Format("Mon, 02 Jan 2006 15:04:05") + " -0000"
}
