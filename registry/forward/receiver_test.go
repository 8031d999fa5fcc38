package forward_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
)

// everything selects the whole log.
var everything = audit.Query{After: -1}

// The keys of webhooks in tests, in the form of their file.
var (
	keyA = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a key of thirty-two bytes, or so"))
	keyB = base64.StdEncoding.EncodeToString([]byte("another key of bytes, 24 at least"))
)

// delivery is a request that the receiver got.
type delivery struct {
	at     time.Time
	header http.Header
	events []event
	// keys are those that have signed it.
	keys []string
}

// event is a CloudEvent as the specification names its members.
type event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
}

// receiver is a webhook that checks what it gets and takes it down.
type receiver struct {
	*httptest.Server
	secretFile string
	mu         sync.Mutex
	// answer decides about a request; nil accepts it.
	answer     func(w http.ResponseWriter, n int, events []event) (accepted bool)
	requests   []delivery
	deliveries []delivery
}

func newReceiver() *receiver {
	GinkgoHelper()
	r := &receiver{secretFile: filepath.Join(GinkgoT().TempDir(), "secret")}
	Expect(os.WriteFile(r.secretFile, []byte(keyA+"\n"), 0o600)).To(Succeed())
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.Start()
	DeferCleanup(r.Close)
	return r
}

// overTLS makes the receiver speak TLS, and returns a file with its certificate.
func (r *receiver) overTLS() string {
	GinkgoHelper()
	r.Server = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	DeferCleanup(r.Close)
	path := filepath.Join(GinkgoT().TempDir(), "ca.pem")
	Expect(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}), 0o600)).To(Succeed())
	return path
}

// target is the receiver's address as a setting.
func (r *receiver) target(more ...string) string {
	return r.URL + "/hook?tenant=a#" + strings.Join(append([]string{"name=siem", "secret-file=" + r.secretFile}, more...), "&")
}

func (r *receiver) serve(w http.ResponseWriter, request *http.Request) {
	defer GinkgoRecover()
	Expect(request.Method).To(Equal(http.MethodPost))
	Expect(request.URL.RequestURI()).To(Equal("/hook?tenant=a"))
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // the registry went away
	}
	d := delivery{at: time.Now(), header: request.Header}
	Expect(json.Unmarshal(body, &d.events)).To(Succeed())
	for signature := range strings.FieldsSeq(request.Header.Get("webhook-signature")) {
		for _, key := range []string{keyA, keyB} {
			secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "whsec_"))
			Expect(err).NotTo(HaveOccurred())
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(request.Header.Get("webhook-id") + "." + request.Header.Get("webhook-timestamp") + "."))
			mac.Write(body)
			if signature == "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
				d.keys = append(d.keys, key)
			}
		}
	}
	Expect(d.keys).NotTo(BeEmpty(), "nobody has signed this")
	r.mu.Lock()
	answer, n := r.answer, len(r.requests)
	r.requests = append(r.requests, d)
	r.mu.Unlock()
	if answer != nil && !answer(w, n, d.events) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, d)
}

// decide changes how requests are answered.
func (r *receiver) decide(answer func(w http.ResponseWriter, n int, events []event) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) asked() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

func (r *receiver) accepted() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.deliveries)
}

// indices are those of the entries that the receiver has accepted, as they came.
func (r *receiver) indices() (list []int) {
	GinkgoHelper()
	for _, d := range r.accepted() {
		for _, e := range d.events {
			n, err := strconv.Atoi(e.ID)
			Expect(err).NotTo(HaveOccurred())
			list = append(list, n)
		}
	}
	return list
}

// has waits until the receiver has so many entries, and checks that each came once, in order.
func (r *receiver) has(size int) {
	GinkgoHelper()
	Eventually(func() int { return len(r.indices()) }).WithTimeout(patience).Should(BeNumerically(">=", size))
	Expect(r.indices()).To(Equal(upTo(size)))
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}
