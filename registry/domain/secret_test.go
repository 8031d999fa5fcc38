package domain_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("Secrets", func() {
	const text = "hunter2hunter2"
	secrets := map[string]any{
		"given": domain.GivenSecret(text), "raw": domain.RawSecret(`"` + text + `"`), "masked": domain.MaskedSecret(text), "new": domain.NewSecret(text),
	}

	It("are never printed or logged, whatever they are part of", func() {
		for name, secret := range secrets {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
				Expect(fmt.Sprintf(format, secret)).NotTo(ContainSubstring(text), name+" "+format)
				Expect(fmt.Sprintf(format, struct{ Field any }{secret})).NotTo(Or(ContainSubstring(text), ContainSubstring(fmt.Sprintf("%x", text))), name+" "+format)
			}
			for _, handler := range []func(*bytes.Buffer) slog.Handler{
				func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
				func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
			} {
				var log bytes.Buffer
				slog.New(handler(&log)).Info("a call", "secret", secret)
				Expect(log.String()).To(And(ContainSubstring(domain.Redacted), Not(ContainSubstring(text))), name)
			}
			Expect(fmt.Errorf("refused: %v", secret)).To(MatchError(Not(ContainSubstring(text))), name)
		}
	})

	DescribeTable("in JSON", func(secret any, want string) {
		encoded, err := json.Marshal(secret)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(encoded)).To(Equal(want))
	},
		Entry("as a client gives it", domain.GivenSecret(text), `"hunter2hunter2"`),
		Entry("as a client gives it, or null", domain.RawSecret(`null`), `null`),
		Entry("masked", domain.MaskedSecret(text), `"***REDACTED***"`),
		Entry("masked, where there is none", domain.MaskedSecret(""), `""`),
		Entry("just made", domain.NewSecret(text), `"hunter2hunter2"`),
		Entry("made some other time", domain.NewSecret(""), `"***REDACTED***"`),
	)

	It("can be told to be null from not given", func() {
		var body struct {
			Given domain.RawSecret `json:"given"`
			Null  domain.RawSecret `json:"null"`
			Not   domain.RawSecret `json:"not"`
		}
		Expect(json.Unmarshal([]byte(`{"given": "x", "null": null}`), &body)).To(Succeed())
		Expect([]byte(body.Given)).To(Equal([]byte(`"x"`)))
		Expect([]byte(body.Null)).To(Equal([]byte("null")))
		Expect(body.Not).To(BeNil())
	})
})

func TestSecrets(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "secrets")
}
