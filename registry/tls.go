package registry

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// tlsConfig serves the certificate of two PEM files as they are at the time of a handshake.
func tlsConfig(certFile, keyFile string, logger *slog.Logger) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current(), nil
		},
	}, nil
}

// certificate is a certificate that somebody else renews.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu     sync.Mutex
	parsed *tls.Certificate
	// changed are the times of the files that parsed, or the last attempt, was made from.
	changed [2]time.Time
}

func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		// Most often the pair is being replaced just now. Better the old certificate than none.
		c.logger.Warn("the TLS certificate cannot be read again; the one before is served", "error", err)
	}
	return c.parsed
}

// load reads the pair unless the files are as they were.
func (c *certificate) load() error {
	var changed [2]time.Time
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("TLS certificate: %w", err)
		}
		changed[i] = info.ModTime()
	}
	if changed == c.changed {
		return nil
	}
	c.changed = changed
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS certificate %s: %w", c.certFile, err)
	}
	c.parsed = &pair
	return nil
}
