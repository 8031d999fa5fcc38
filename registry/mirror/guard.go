package mirror

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/tidelock/tidelock/registry/domain"
)

// Networks are the addresses that mirrors may reach although they are not public. Addresses that give a cloud's machine
// its credentials need a prefix of their own, with nothing else in it.
//
// Upstreams, their tokens' realms, and where they redirect to are named by the tenants who declare mirrors, and by
// upstreams that they may own. So it is the address that is dialled, after its name was resolved, that is checked, each
// time: whatever a name resolved to before says nothing.
type Networks []netip.Prefix

// metadata are the addresses at which clouds serve a machine's credentials.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // nearly all of them
	netip.MustParseAddr("169.254.170.2"),   // tasks of AWS
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("168.63.129.16"),   // Azure; it is a public address
}

// special are the networks of IPv4 that are not the Internet's (RFC 6890 and IANA's registry of special-purpose
// addresses), and what they are called.
var special = []struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "an unspecified address"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("100.64.0.0/10"), "an address behind a carrier's NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "an address of protocols"},
	{netip.MustParsePrefix("192.0.2.0/24"), "an address for documentation"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "an address for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "an address for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "an address for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	{netip.MustParsePrefix("2001::/23"), "an address of protocols"},
	{netip.MustParsePrefix("2001:db8::/32"), "an address for documentation"},
	{netip.MustParsePrefix("3fff::/20"), "an address for documentation"},
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	// translated and relayed are IPv6 addresses that lead to the IPv4 address which they hold (RFC 6052, RFC 3056).
	translated = netip.MustParsePrefix("64:ff9b::/96")
	relayed    = netip.MustParsePrefix("2002::/16")
)

// check says what an address is that mirrors may not reach; empty if they may.
func (n Networks) check(address netip.Addr) string {
	address = address.WithZone("").Unmap()
	for _, m := range metadata {
		if m == address {
			if n.names(address) {
				return ""
			}
			return "an address that gives away a machine's credentials"
		}
	}
	for _, allowed := range n {
		if allowed.Contains(address) {
			return ""
		}
	}
	for _, s := range special {
		if s.prefix.Contains(address) {
			return s.name
		}
	}
	if address.Is4() {
		return ""
	}
	bytes := address.As16()
	switch {
	case translated.Contains(address):
		return n.check(netip.AddrFrom4([4]byte(bytes[12:16])))
	case relayed.Contains(address):
		return n.check(netip.AddrFrom4([4]byte(bytes[2:6])))
	case address.IsLoopback():
		return "a loopback address"
	case address.IsUnspecified():
		return "an unspecified address"
	case address.IsLinkLocalUnicast():
		return "a link-local address"
	case address.IsMulticast():
		return "a multicast address"
	case address.IsPrivate():
		return "a private address"
	case !globalUnicast.Contains(address):
		return "a reserved address"
	}
	return ""
}

// names reports whether a prefix allows this one address and nothing else.
func (n Networks) names(address netip.Addr) bool {
	for _, allowed := range n {
		if allowed.IsSingleIP() && allowed.Addr() == address {
			return true
		}
	}
	return false
}

// control refuses a connection before it is made. It is a net.Dialer's ControlContext: what it gets is resolved.
func (n Networks) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	resolved, err := netip.ParseAddrPort(address)
	if err != nil {
		return refusedAddress("an unknown address")
	}
	if what := n.check(resolved.Addr()); what != "" {
		return refusedAddress(what)
	}
	return nil
}

// checkHost refuses hosts of which it is known without resolving that they may not be reached. It is all that can be
// done where a proxy resolves.
func (n Networks) checkHost(host string) error {
	if address, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		if what := n.check(address); what != "" {
			return refusedAddress(what)
		}
		return nil
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	what := ""
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		what = n.check(netip.MustParseAddr("127.0.0.1"))
	case name == "metadata" || name == "metadata.google.internal":
		what = n.check(metadata[0])
	case len(n) == 0 && insideCluster(name):
		what = "a name inside of a cluster"
	}
	if what != "" {
		return refusedAddress(what)
	}
	return nil
}

// insideCluster reports whether a name is one that Kubernetes gives: those of Services and Pods, short ones too. It leads
// to addresses that are private, so nothing may be there that mirrors may reach unless some networks are allowed.
func insideCluster(name string) bool {
	for _, suffix := range []string{".svc", ".svc.cluster.local", ".cluster.local"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return name == "kubernetes" || name == "kubernetes.default"
}

// refusedAddress names the kind of an address, never the address: who may declare mirrors need not be told what the
// names of this network resolve to.
func refusedAddress(what string) error {
	return failed(kindRefused, "the host is, or resolves to, %s, which mirrors may not reach; whoever runs the registry can allow it with --mirror-allow-networks", what)
}

// CheckSource refuses a mirror whose upstream or proxy is known to be out of reach: INVALID. A host whose name cannot
// be resolved just now passes: each connection is checked anyhow.
func (e *Engine) CheckSource(ctx context.Context, source domain.MirrorSource) error {
	for _, at := range []struct{ field, address string }{
		{"source.url", source.URL}, {"source.proxy.httpProxy", source.Proxy.HTTP}, {"source.proxy.httpsProxy", source.Proxy.HTTPS},
	} {
		host := hostOf(at.address)
		if host == "" {
			continue
		}
		err := e.Networks.checkHost(host)
		if err == nil && (at.field != "source.url" || source.Proxy == (domain.MirrorProxy{})) {
			err = e.checkResolved(ctx, host)
		}
		if err != nil {
			return domain.Errorf(domain.CodeInvalid, "%s: %s", at.field, err.Error())
		}
	}
	return nil
}

// checkResolved refuses a host none of whose addresses may be reached.
func (e *Engine) checkResolved(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil //nolint:nilerr // see CheckSource
	}
	what := ""
	for _, address := range addresses {
		if what = e.Networks.check(address); what == "" {
			return nil
		}
	}
	if what == "" {
		return nil
	}
	return refusedAddress(what)
}
