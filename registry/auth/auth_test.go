package auth_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	password = "correct horse battery staple"
	token    = "0123456789abcdef0123456789abcdef"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// replace writes a file as a rotation does: a new file under the old name.
func replace(path, content string) {
	GinkgoHelper()
	Expect(os.WriteFile(path+".new", []byte(content), 0o600)).To(Succeed())
	Expect(os.Rename(path+".new", path)).To(Succeed())
}

func requestWith(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	for _, value := range authorization {
		r.Header.Add("Authorization", value)
	}
	return r
}

func basic(name, password string) *http.Request {
	r := requestWith()
	r.SetBasicAuth(name, password)
	return r
}

var _ = Describe("Authenticator", func() {
	var (
		passwordFile, tokenFile string
		options                 auth.Options
		now                     *clock
	)

	BeforeEach(func() {
		dir := GinkgoT().TempDir()
		passwordFile, tokenFile = filepath.Join(dir, "password"), filepath.Join(dir, "token")
		replace(passwordFile, password+"\n")
		replace(tokenFile, token+"\n")
		now = &clock{}
		options = auth.Options{AdminPasswordFile: passwordFile, OperatorTokenFile: tokenFile, Logger: slog.New(slog.DiscardHandler), Now: now.Now}
	})

	authenticator := func() *auth.Authenticator {
		GinkgoHelper()
		a, err := auth.New(options)
		Expect(err).NotTo(HaveOccurred())
		return a
	}

	It("knows a request without credentials as anonymous", func() {
		id, err := authenticator().Authenticate(requestWith())
		Expect(err).NotTo(HaveOccurred())
		Expect(id).To(Equal(auth.Identity{
			Caller: domain.Caller{Kind: domain.CallerAnonymous, Address: "192.0.2.1"}, Role: auth.RoleAnonymous,
		}))
	})

	It("knows admin by the password, with or without the file's line break", func() {
		for _, ending := range []string{"", "\n", "\r\n"} {
			replace(passwordFile, password+ending)
			id, err := authenticator().Authenticate(basic("admin", password))
			Expect(err).NotTo(HaveOccurred())
			Expect(id).To(Equal(auth.Identity{
				Caller: domain.Caller{Name: "admin", Kind: domain.CallerUser, Address: "192.0.2.1"}, Role: auth.RoleSuperuser,
			}))
		}
	})

	It("keeps blanks and further line breaks as part of the password", func() {
		replace(passwordFile, " p \n\n")
		a := authenticator()
		_, err := a.Authenticate(basic("admin", " p \n"))
		Expect(err).NotTo(HaveOccurred())
		_, err = a.Authenticate(basic("admin", "p"))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
	})

	It("knows the operator by its token", func() {
		id, err := authenticator().Authenticate(requestWith("bearer " + token))
		Expect(err).NotTo(HaveOccurred())
		Expect(id).To(Equal(auth.Identity{
			Caller: domain.Caller{Name: "operator", Kind: domain.CallerOperator, Address: "192.0.2.1", TokenID: "operator-token"},
			Role:   auth.RoleOperator,
		}))
	})

	It("knows the operator by its token, whatever that looks like", func() {
		for _, other := range []string{"tdl_" + token, "a.b." + token} {
			replace(tokenFile, other)
			id, err := authenticator().Authenticate(requestWith("Bearer " + other))
			Expect(err).NotTo(HaveOccurred())
			Expect(id.Role).To(Equal(auth.RoleOperator))
		}
	})

	DescribeTable("refuses, and never takes for anonymous,",
		func(request *http.Request) {
			id, err := authenticator().Authenticate(request)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
			Expect(err).To(MatchError("the credentials are wrong"))
			Expect(id).To(Equal(auth.Identity{}))
		},
		Entry("a wrong password", basic("admin", "wrong")),
		Entry("an empty password", basic("admin", "")),
		Entry("a password with the line break", basic("admin", password+"\n")),
		Entry("an unknown name", basic("root", password)),
		Entry("a name in other letters", basic("Admin", password)),
		Entry("the operator's token as a password", basic("operator", token)),
		Entry("the password as a token", requestWith("Bearer "+password)),
		Entry("a wrong token", requestWith("Bearer "+strings.Repeat("x", 32))),
		Entry("an empty token", requestWith("Bearer ")),
		Entry("an empty header", requestWith("")),
		Entry("broken base64", requestWith("Basic !!!")),
		Entry("an unknown scheme", requestWith("Digest username=admin")),
		Entry("two headers", requestWith("Bearer "+token, "Bearer "+token)),
	)

	It("lets nobody in without the files", func() {
		options.AdminPasswordFile, options.OperatorTokenFile = "", ""
		a := authenticator()
		for _, r := range []*http.Request{basic("admin", ""), requestWith("Bearer ")} {
			_, err := a.Authenticate(r)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		}
	})

	DescribeTable("does not start with",
		func(spoil func()) {
			spoil()
			_, err := auth.New(options)
			Expect(err).To(HaveOccurred())
			Expect(err.Error()).To(SatisfyAny(ContainSubstring(options.AdminPasswordFile), ContainSubstring(options.OperatorTokenFile)))
			Expect(err.Error()).NotTo(ContainSubstring("short-secret"))
		},
		Entry("a missing password file", func() { options.AdminPasswordFile += ".missing" }),
		Entry("an empty password", func() { replace(passwordFile, "\n") }),
		Entry("a missing token file", func() { options.OperatorTokenFile += ".missing" }),
		Entry("an empty token", func() { replace(tokenFile, "") }),
		Entry("a short token", func() { replace(tokenFile, "short-secret") }),
	)

	It("reads a changed password, and forgets the old one at once", func() {
		a := authenticator()
		_, err := a.Authenticate(basic("admin", password))
		Expect(err).NotTo(HaveOccurred())
		replace(passwordFile, "another")
		_, err = a.Authenticate(basic("admin", password))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		_, err = a.Authenticate(basic("admin", "another"))
		Expect(err).NotTo(HaveOccurred())
	})

	It("reads a changed token, and forgets the old one at once", func() {
		a := authenticator()
		replace(tokenFile, strings.Repeat("n", 32))
		_, err := a.Authenticate(requestWith("Bearer " + token))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		_, err = a.Authenticate(requestWith("Bearer " + strings.Repeat("n", 32)))
		Expect(err).NotTo(HaveOccurred())
	})

	It("fails closed while a file is missing or empty, and names no secret", func() {
		a := authenticator()
		_, err := a.Authenticate(basic("admin", password))
		Expect(err).NotTo(HaveOccurred())
		Expect(os.Remove(passwordFile)).To(Succeed())
		replace(tokenFile, "")
		for _, r := range []*http.Request{basic("admin", password), requestWith("Bearer " + token), requestWith("Bearer ")} {
			_, err := a.Authenticate(r)
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnavailable))
			Expect(err.Error()).NotTo(ContainSubstring(passwordFile))
		}
		replace(passwordFile, password)
		_, err = a.Authenticate(basic("admin", password))
		Expect(err).NotTo(HaveOccurred())
	})

	It("warns of a file that everybody may read, and works", func() {
		var log bytes.Buffer
		options.Logger = slog.New(slog.NewTextHandler(&log, nil))
		Expect(os.Chmod(passwordFile, 0o644)).To(Succeed())
		authenticator()
		Expect(log.String()).To(And(ContainSubstring(passwordFile), Not(ContainSubstring(tokenFile)), Not(ContainSubstring(password))))
	})

	It("knows the same caller from many goroutines, before and after it forgot the password", func() {
		a := authenticator()
		for range 2 {
			var group sync.WaitGroup
			for i := range 16 {
				group.Go(func() {
					defer GinkgoRecover()
					name, pass, code := "admin", password, domain.Code("")
					if i%4 == 3 {
						pass, code = "wrong", domain.CodeUnauthorized
					}
					_, err := a.Authenticate(basic(name, pass))
					Expect(domain.CodeOf(err)).To(Equal(code))
				})
			}
			group.Wait()
			now.Advance(time.Hour)
		}
	})

	DescribeTable("finds the client's address",
		func(remote string, forwarded []string, want string) {
			options.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
			r := requestWith()
			r.RemoteAddr = remote
			r.Header["X-Forwarded-For"] = forwarded
			id, err := authenticator().Authenticate(r)
			Expect(err).NotTo(HaveOccurred())
			Expect(id.Address).To(Equal(want))
		},
		Entry("of a connection", "192.0.2.7:1234", nil, "192.0.2.7"),
		Entry("of a connection over IPv6", "[2001:db8::1]:1234", nil, "2001:db8::1"),
		Entry("of an IPv4 connection to an IPv6 socket", "[::ffff:192.0.2.7]:1", nil, "192.0.2.7"),
		Entry("and does not believe a stranger's header", "192.0.2.7:1", []string{"198.51.100.1"}, "192.0.2.7"),
		Entry("behind a trusted proxy", "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"),
		Entry("behind two trusted proxies", "10.0.0.1:1", []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1"),
		Entry("and does not believe what the client wrote itself", "10.0.0.1:1", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"),
		Entry("in several headers", "[fd00::1]:1", []string{"203.0.113.9", "198.51.100.1, 10.0.0.2"}, "198.51.100.1"),
		Entry("and stops at rubbish", "10.0.0.1:1", []string{"198.51.100.1, rubbish"}, "10.0.0.1"),
		Entry("without a header", "10.0.0.1:1", nil, "10.0.0.1"),
		Entry("of a Unix socket", "@", nil, "@"),
	)
})

var _ = Describe("EnsureTokenFile", func() {
	It("makes a token that the Authenticator takes, once", func() {
		path := filepath.Join(GinkgoT().TempDir(), "token")
		Expect(auth.EnsureTokenFile(path)).To(Succeed())
		first, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(first)).To(MatchRegexp("^[0-9a-f]{64}\n$"))
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))

		Expect(auth.EnsureTokenFile(path)).To(Succeed())
		Expect(os.ReadFile(path)).To(Equal(first))

		a, err := auth.New(auth.Options{OperatorTokenFile: path})
		Expect(err).NotTo(HaveOccurred())
		id, err := a.Authenticate(requestWith("Bearer " + strings.TrimSpace(string(first))))
		Expect(err).NotTo(HaveOccurred())
		Expect(id.Role).To(Equal(auth.RoleOperator))
	})

	It("reports a folder that is not there", func() {
		Expect(auth.EnsureTokenFile(filepath.Join(GinkgoT().TempDir(), "no", "token"))).To(MatchError(ContainSubstring("making a token file")))
	})
})
