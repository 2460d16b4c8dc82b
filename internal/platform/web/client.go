package web

import (
	"net/http"
	"net/netip"
	"strings"

	"levee"
)

// maxHops is how many addresses of a forwarding chain are looked at: real chains have a handful.
const maxHops = 16

func parseProxies(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range list {
		if a, err := netip.ParseAddr(p); err == nil && a.Zone() == "" {
			a = a.Unmap()
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(p)
		if err != nil || prefix.Addr().Is4In6() {
			return nil, levee.Invalid("http.trusted_proxies", "addresses such as 10.0.0.0/8 or 127.0.0.1", p)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// peerAddr is the other end of the connection; invalid when it is not an IP address (a Unix socket).
func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// clientAddr is where a request comes from: the connection's other end, or, when that is a trusted proxy, the right-most address
// of X-Forwarded-For that is not one. Everything to the left of it was written by the caller and is not looked at.
func (s *Server) clientAddr(r *http.Request, peer netip.Addr) netip.Addr {
	if len(s.proxies) == 0 || !s.trusted(peer) {
		return peer
	}
	return forwardedFor(r.Header["X-Forwarded-For"], peer, s.trusted)
}

func forwardedFor(lines []string, peer netip.Addr, trusted func(netip.Addr) bool) netip.Addr {
	client, hops := peer, 0
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			var hop string
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				rest, hop = rest[:at], rest[at+1:]
			} else {
				hop, more = rest, false
			}
			a, ok := parseHop(strings.Trim(hop, " \t"))
			if hops++; !ok || hops > maxHops {
				return client // the last one that a trusted proxy vouched for
			}
			client = a
			if !trusted(a) {
				return client
			}
		}
	}
	return client
}

// parseHop reads one address as proxies write them: 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1], [2001:db8::1]:443.
func parseHop(h string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(h); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	if len(h) > 2 && h[0] == '[' && h[len(h)-1] == ']' {
		h = h[1 : len(h)-1]
	}
	a, err := netip.ParseAddr(h)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}

// local reports whether the request was made on this machine and by nobody's proxy: a proxy here that is not declared would
// otherwise make the whole world local.
func (c *call) local(r *http.Request) bool {
	return c.peer.IsLoopback() && r.Header["X-Forwarded-For"] == nil && r.Header["Forwarded"] == nil && r.Header["X-Real-Ip"] == nil
}

// secure reports whether the caller's side of the connection is encrypted.
func (s *Server) secure(r *http.Request, peer netip.Addr) bool {
	switch {
	case s.cfg.CookieSecure == "always":
		return true
	case s.cfg.CookieSecure == "never":
		return false
	case r.TLS != nil, strings.HasPrefix(s.cfg.PublicURL, "https:"):
		return true
	}
	return s.trusted(peer) && r.Header.Get("X-Forwarded-Proto") == "https"
}
