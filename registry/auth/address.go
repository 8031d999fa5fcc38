package auth

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// hostGrammar is what a Host header may say: nothing that could end the quotes of a challenge.
var hostGrammar = regexp.MustCompile(`^[A-Za-z0-9._:\[\]-]+$`)

// ExternalURL is where the client of a request reaches the registry: the setting, or what the request says. A trusted
// proxy may say it with X-Forwarded-Proto and X-Forwarded-Host.
func (a *Authenticator) ExternalURL(r *http.Request) *url.URL {
	if a.externalURL != nil {
		return a.externalURL
	}
	external := &url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		external.Scheme = "https"
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && a.trusts(peer.Addr().Unmap().WithZone("")) {
		if proto := strings.ToLower(r.Header.Get("X-Forwarded-Proto")); proto == "http" || proto == "https" {
			external.Scheme = proto
		}
		if host := r.Header.Get("X-Forwarded-Host"); hostGrammar.MatchString(host) {
			external.Host = host
		}
	}
	if !hostGrammar.MatchString(external.Host) {
		external.Host = "localhost"
	}
	return external
}

func (a *Authenticator) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(a.proxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

// clientAddress returns the address of the client without its port. X-Forwarded-For is read from the right as long as
// the hop before was a trusted proxy: what stands further left was written by the client itself.
func clientAddress(r *http.Request, trusted []netip.Prefix) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	address = address.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(address) }) {
			break
		}
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		address = next.Unmap().WithZone("")
	}
	return address.String()
}
