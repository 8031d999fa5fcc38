package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/url"
)

// kind says what an error of an upstream means for what goes on.
type kind int

const (
	// kindBroken is an answer that makes no sense, or content that is not what its digest says.
	kindBroken kind = iota
	// kindUnreachable is no answer.
	kindUnreachable
	// kindRefused is an address that may not be reached, or a way that credentials may not go.
	kindRefused
	// kindCredentials are credentials that are missing, wrong, or not good for this.
	kindCredentials
	// kindMissing is what the upstream does not have.
	kindMissing
	// kindUnsupported is what the upstream does not offer.
	kindUnsupported
	// kindLimited is an upstream that wants to be asked later.
	kindLimited
)

// failure is an error of an upstream. Its text goes into answers, status and logs: it names hosts, paths and statuses, and
// nothing that an upstream said, since an upstream knows the mirror's credentials and could say them.
type failure struct {
	kind    kind
	message string
}

func failed(kind kind, format string, args ...any) error {
	return &failure{kind: kind, message: fmt.Sprintf(format, args...)}
}

func (f *failure) Error() string { return f.message }

// isKind reports whether an error is an upstream's of this kind.
func isKind(err error, k kind) bool {
	var f *failure
	return errors.As(err, &f) && f.kind == k
}

// reason is an error as people may read it. Errors of net/http have the URL with them, whose query may hold a signature.
func reason(err error) string {
	var f *failure
	var withURL *url.Error
	switch {
	case errors.As(err, &f):
		return f.message
	case errors.Is(err, context.DeadlineExceeded):
		return "it took too long"
	case errors.As(err, &withURL):
		return withURL.Err.Error()
	}
	return err.Error()
}

// hostOf is the host of an address without its port, empty if there is none.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
