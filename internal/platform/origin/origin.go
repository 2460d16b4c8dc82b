// Package origin tells where a request comes from, seen through proxies.
package origin

import (
	"net/netip"
	"strings"

	"levee"
)

// maxHops is how many addresses of a forwarding chain are looked at: real chains have a handful.
const maxHops = 16

// Parse reads addresses and networks: 10.0.0.0/8, 127.0.0.1. What is neither is CodeInvalid for the field.
func Parse(field string, list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, p := range list {
		if a, err := netip.ParseAddr(p); err == nil && a.Zone() == "" {
			a = a.Unmap()
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(p)
		if err != nil || prefix.Addr().Is4In6() {
			return nil, levee.Invalid(field, "addresses such as 10.0.0.0/8 or 127.0.0.1", p)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

// Client returns where a request comes from by the lines of X-Forwarded-For, given the other end of its connection, a trusted proxy: the
// right-most address that is not trusted. Everything to the left of it was written by the caller and is not looked at.
func Client(lines []string, peer netip.Addr, trusted func(netip.Addr) bool) netip.Addr {
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
