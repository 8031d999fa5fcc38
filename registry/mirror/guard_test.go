package mirror

import (
	"context"
	"net/http"
	"net/netip"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
)

func TestMirror(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/mirror")
}

var _ = DescribeTable("an address", func(address, what string) {
	Expect(Networks(nil).check(netip.MustParseAddr(address))).To(Equal(what))
},
	Entry(nil, "8.8.8.8", ""),
	Entry(nil, "2606:4700::1111", ""),
	Entry(nil, "::ffff:8.8.8.8", ""),
	Entry(nil, "64:ff9b::808:808", ""),
	Entry(nil, "127.0.0.1", "a loopback address"),
	Entry(nil, "127.255.0.3", "a loopback address"),
	Entry(nil, "::1", "a loopback address"),
	Entry(nil, "::ffff:127.0.0.1", "a loopback address"),
	Entry(nil, "64:ff9b::7f00:1", "a loopback address"),
	Entry(nil, "2002:7f00:1::", "a loopback address"),
	Entry(nil, "0.0.0.0", "an unspecified address"),
	Entry(nil, "0.1.2.3", "an unspecified address"),
	Entry(nil, "::", "an unspecified address"),
	Entry(nil, "10.1.2.3", "a private address"),
	Entry(nil, "172.31.255.255", "a private address"),
	Entry(nil, "172.32.0.1", ""),
	Entry(nil, "192.168.0.1", "a private address"),
	Entry(nil, "fd12::1", "a private address"),
	Entry(nil, "::ffff:10.0.0.1", "a private address"),
	Entry(nil, "100.64.0.1", "an address behind a carrier's NAT"),
	Entry(nil, "169.254.1.1", "a link-local address"),
	Entry(nil, "fe80::1", "a link-local address"),
	Entry(nil, "fe80::1%eth0", "a link-local address"),
	Entry(nil, "224.0.0.1", "a multicast address"),
	Entry(nil, "ff02::1", "a multicast address"),
	Entry(nil, "255.255.255.255", "a reserved address"),
	Entry(nil, "fec0::1", "a reserved address"),
	Entry(nil, "192.0.2.1", "an address for documentation"),
	Entry(nil, "2001:db8::1", "an address for documentation"),
	Entry(nil, "2001::1", "an address of protocols"),
	Entry(nil, "169.254.169.254", "an address that gives away a machine's credentials"),
	Entry(nil, "::ffff:169.254.169.254", "an address that gives away a machine's credentials"),
	Entry(nil, "fd00:ec2::254", "an address that gives away a machine's credentials"),
	Entry(nil, "100.100.100.200", "an address that gives away a machine's credentials"),
	Entry(nil, "168.63.129.16", "an address that gives away a machine's credentials"),
)

var _ = Describe("networks that are allowed", func() {
	allow := func(networks ...string) (n Networks) {
		for _, text := range networks {
			n = append(n, netip.MustParsePrefix(text))
		}
		return n
	}
	It("are reached, with IPv4 in IPv6 too", func() {
		n := allow("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")
		for _, address := range []string{"10.1.2.3", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "127.0.0.1"} {
			Expect(n.check(netip.MustParseAddr(address))).To(BeEmpty(), address)
		}
		Expect(n.check(netip.MustParseAddr("127.0.0.2"))).NotTo(BeEmpty())
	})
	It("leave out the machine's credentials, unless they are named alone", func() {
		all := allow("0.0.0.0/0", "::/0")
		Expect(all.check(netip.MustParseAddr("127.0.0.1"))).To(BeEmpty())
		for _, address := range []string{"169.254.169.254", "fd00:ec2::254", "168.63.129.16"} {
			Expect(all.check(netip.MustParseAddr(address))).NotTo(BeEmpty(), address)
			alone := netip.MustParseAddr(address)
			Expect(append(all, netip.PrefixFrom(alone, alone.BitLen())).check(alone)).To(BeEmpty(), address)
		}
	})
	DescribeTable("are asked for before a mirror is stored", func(source domain.MirrorSource, message string) {
		err := New(Options{}).CheckSource(context.Background(), source)
		if message == "" {
			Expect(err).NotTo(HaveOccurred())
			return
		}
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeInvalid))
		Expect(err).To(MatchError(And(HavePrefix(message), ContainSubstring("--mirror-allow-networks"))))
	},
		Entry("localhost", domain.MirrorSource{URL: "http://localhost:8080"}, "source.url: "),
		Entry("a name below localhost", domain.MirrorSource{URL: "http://registry.LOCALHOST."}, "source.url: "),
		Entry("a private address", domain.MirrorSource{URL: "https://10.0.0.1"}, "source.url: "),
		Entry("a metadata address", domain.MirrorSource{URL: "http://169.254.169.254"}, "source.url: "),
		Entry("a metadata address in IPv6", domain.MirrorSource{URL: "http://[fd00:ec2::254]:80"}, "source.url: "),
		Entry("a proxy", domain.MirrorSource{URL: "https://1.1.1.1", Proxy: domain.MirrorProxy{HTTPS: "http://127.0.0.1:3128"}}, "source.proxy.httpsProxy: "),
		Entry("a public address", domain.MirrorSource{URL: "https://1.1.1.1"}, ""),
	)
})

var _ = DescribeTable("Retry-After", func(text string, pause time.Duration, said bool) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	got, ok := retryAfter(http.Header{"Retry-After": {text}}, now)
	Expect(got).To(Equal(pause))
	Expect(ok).To(Equal(said))
},
	Entry("seconds", "120", 2*time.Minute, true),
	Entry("none", "0", time.Duration(0), true),
	Entry("a date", "Sat, 28 Nov 2026 12:03:00 GMT", 3*time.Minute, true),
	Entry("a date that is over", "Sat, 28 Nov 2026 11:00:00 GMT", time.Duration(0), true),
	Entry("more than is bearable", "999999999999", 24*time.Hour, true),
	Entry("nothing", "", time.Duration(0), false),
	Entry("nonsense", "-5", time.Duration(0), false),
)

var _ = Describe("the budget of a host", func() {
	var (
		now  time.Time
		all  *budgets
		many = http.Header{"Retry-After": {"90"}}
	)
	BeforeEach(func() {
		now = time.Now()
		all = newBudgets(func() time.Time { return now })
	})
	within := func(d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		DeferCleanup(cancel)
		return ctx
	}

	It("is one for all mirrors, but not for what goes through somebody's proxy", func() {
		all.of("quay.io:443", "proxy.example.com:3128").complained(http.StatusTooManyRequests, many)
		Expect(all.of("quay.io:443", "").wait(within(time.Second), "quay.io")).To(Succeed())
		all.of("quay.io:443", "").complained(http.StatusTooManyRequests, many)
		Expect(all.of("quay.io:443", "").wait(within(time.Second), "quay.io")).NotTo(Succeed())
		Expect(all.of("quay.io:80", "").wait(within(time.Second), "quay.io")).To(Succeed())
	})

	It("asks nobody before the time that the host said, and says so to those who cannot wait as long", func() {
		b := all.of("quay.io:443", "")
		b.complained(http.StatusServiceUnavailable, many)
		now = now.Add(89 * time.Second)
		err := b.wait(within(500*time.Millisecond), "quay.io:443")
		Expect(isKind(err, kindLimited)).To(BeTrue())
		Expect(err).To(MatchError("quay.io:443 asks not to be asked for another 1s"))
		now = now.Add(time.Second)
		Expect(b.wait(within(time.Second), "quay.io:443")).To(Succeed())
	})

	It("halves its rate at 429, and doubles it again as long as nobody complains", func() {
		b := all.of("quay.io:443", "")
		for range 20 {
			Expect(b.wait(within(time.Second), "")).To(Succeed())
		}
		b.complained(http.StatusTooManyRequests, http.Header{"Retry-After": {"0"}})
		Expect(b.limiter.Limit()).To(BeEquivalentTo(10))
		b.complained(http.StatusTooManyRequests, http.Header{"Retry-After": {"0"}})
		Expect(b.limiter.Limit()).To(BeEquivalentTo(10), "of the requests under way one counts")
		b.answered()
		Expect(b.limiter.Limit()).To(BeEquivalentTo(10))
		now = now.Add(recovery)
		b.answered()
		Expect(b.limiter.Limit()).To(BeEquivalentTo(20))
		for range 10 {
			now = now.Add(recovery)
			b.answered()
		}
		Expect(b.limiter.Limit()).To(BeEquivalentTo(fullRate))
	})

	It("waits longer each time where the host does not say how long", func() {
		b := all.of("quay.io:443", "")
		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			b.complained(http.StatusTooManyRequests, nil)
			Expect(b.until).To(Equal(now.Add(pause)))
			now = b.until
		}
	})
})

var _ = DescribeTable("a challenge", func(text, scheme string, parameters map[string]string) {
	gotScheme, got := parseChallenge(text)
	Expect(gotScheme).To(Equal(scheme))
	Expect(got).To(Equal(parameters))
},
	Entry(nil, `Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push"`, "Bearer",
		map[string]string{"realm": "https://auth.example.com/token", "service": "registry", "scope": "repository:a/b:pull,push"}),
	Entry(nil, `Bearer realm="a\"b", service=plain , error=x`, "Bearer", map[string]string{"realm": `a"b`, "service": "plain", "error": "x"}),
	Entry(nil, `Basic realm="Registry Realm"`, "Basic", map[string]string{"realm": "Registry Realm"}),
	Entry(nil, `Negotiate`, "Negotiate", map[string]string{}),
	Entry(nil, `Bearer realm="never closed`, "Bearer", map[string]string{"realm": "never closed"}),
)
