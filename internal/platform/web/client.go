package web

import (
	"net/http"
	"net/netip"
	"strings"

	"levee/internal/platform/origin"
)

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
	return origin.Client(r.Header["X-Forwarded-For"], peer, s.trusted)
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
