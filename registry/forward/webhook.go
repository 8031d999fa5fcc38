package forward

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// webhook sends a batch of CloudEvents (its JSON batch format), signed after the Standard Webhooks specification, version 1
// (https://www.standardwebhooks.com): webhook-signature is "v1," and the base64 of HMAC-SHA256 over
// "<webhook-id>.<webhook-timestamp>.<body>", once for each key.
type webhook struct {
	client     *http.Client
	url        string
	secretFile string
}

func newWebhook(t Target) (*webhook, error) {
	if _, err := readKeys(t.SecretFile); err != nil {
		return nil, fmt.Errorf("receiver %s: %w", t.Name, err)
	}
	client, err := newHTTPClient(t)
	return &webhook{client: client, url: t.URL, secretFile: t.SecretFile}, err
}

func (w *webhook) send(ctx context.Context, batch []Entry) error {
	events := make([]event, len(batch))
	for i, e := range batch {
		events[i] = e.event()
	}
	body, err := json.Marshal(events)
	if err != nil {
		return fmt.Errorf("audit entries from %d on: %w", batch[0].Index, err)
	}
	keys, err := readKeys(w.secretFile)
	if err != nil {
		return err
	}
	id, timestamp := batchID(batch), strconv.FormatInt(time.Now().Unix(), 10)
	header := http.Header{}
	header.Set("Content-Type", "application/cloudevents-batch+json; charset=UTF-8")
	header.Set("Webhook-Id", id)
	header.Set("Webhook-Timestamp", timestamp)
	header.Set("Webhook-Signature", sign(keys, id, timestamp, body))
	_, _, err = post(ctx, w.client, w.url, header, body)
	return err
}

func sign(keys [][]byte, id, timestamp string, body []byte) string {
	signatures := make([]string, len(keys))
	for i, key := range keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signatures, " ")
}

// The specification's bounds of a key, in bytes.
const (
	minKey = 24
	maxKey = 64
)

// readKeys reads the keys of signatures: one a line, in base64, with or without "whsec_" before it. The receiver accepts a
// batch that any of its keys has signed, so keys can be changed one side after the other.
func readKeys(path string) (keys [][]byte, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("secret-file: %w", err)
	}
	for line := range bytes.Lines(content) {
		text := strings.TrimPrefix(strings.TrimSpace(string(line)), "whsec_")
		if text == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) < minKey || len(key) > maxKey {
			return nil, fmt.Errorf("secret-file %s: a line is not the base64 of %d to %d bytes; \"openssl rand -base64 32\" makes a key", path, minKey, maxKey)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("secret-file " + path + " is empty")
	}
	return keys, nil
}
