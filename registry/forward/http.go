package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// requestTimeout bounds a request with its answer.
	requestTimeout = 30 * time.Second
	// answerLimit bounds what is read of an answer.
	answerLimit = 64 << 10
	// maxRetryAfter bounds how long a receiver can ask to be left alone.
	maxRetryAfter = time.Hour
)

// statusError is an answer that does not accept a batch.
type statusError struct {
	status     int
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	if e.status >= 300 && e.status < 400 {
		return fmt.Sprintf("the receiver answered %d; redirects are not followed, so name the address that it leads to", e.status)
	}
	return fmt.Sprintf("the receiver answered %d %s", e.status, http.StatusText(e.status))
}

// newHTTPClient makes the client for a target.
func newHTTPClient(t Target) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		content, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("receiver %s: ca-file: %w", t.Name, err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("receiver %s: %s holds no certificate in PEM", t.Name, t.CAFile)
		}
	}
	return &http.Client{
		Transport: transport, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// post sends a body, and returns the answer's with its media type if the receiver accepted it. Errors do not have the URL, whose query may hold
// a secret.
func post(ctx context.Context, client *http.Client, address string, header http.Header, body []byte) (answer []byte, mediaType string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, "", withoutURL(err)
	}
	request.Header = header
	request.Header.Set("User-Agent", "tidelock/"+domain.Version)
	response, err := client.Do(request)
	if err != nil {
		return nil, "", withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, "", &statusError{status: response.StatusCode, retryAfter: retryAfter(response.Header.Get("Retry-After"), time.Now())}
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the receiver's answer: %w", withoutURL(err))
	}
	mediaType, _, _ = mime.ParseMediaType(response.Header.Get("Content-Type"))
	return answer, mediaType, nil
}

func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.Atoi(value); err == nil {
		wait = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return max(0, min(wait, maxRetryAfter))
}
