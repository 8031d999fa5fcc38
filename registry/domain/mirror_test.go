package domain

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"

	. "github.com/onsi/gomega"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	g := NewWithT(t)
	secrets := MirrorSecrets{Username: "puller", Password: "hunter2", Token: "hunter2", ProxyUsername: "proxy", ProxyPassword: "hunter2"}
	inside := struct{ Secrets MirrorSecrets }{secrets}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, value := range []any{secrets, &secrets, inside, []MirrorSecrets{secrets}} {
			g.Expect(fmt.Sprintf(format, value)).NotTo(ContainSubstring("hunter2"), format)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("claimed", "secrets", secrets)
	slog.New(slog.NewTextHandler(&log, nil)).Info("claimed", "secrets", secrets, "inside", inside)
	g.Expect(log.String()).To(And(ContainSubstring(Redacted), Not(ContainSubstring("hunter2"))))
}
