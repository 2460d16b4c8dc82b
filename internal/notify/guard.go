package notify

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"levee"
)

// guard keeps webhooks away from inner addresses. The address is checked at the moment of dialling, after the name was resolved
// (net.Dialer.Control), so that a name which resolves to something else the second time gains nothing.
type guard struct {
	names    map[string]bool
	networks []netip.Prefix
}

// special are the networks that no webhook may reach: IANA's special-purpose registries for IPv4, and of IPv6 what inside global
// unicast (2000::/3) is special; everything outside of it is refused as a whole, with the forms that embed an IPv4 address.
var special = prefixes("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")

var globalUnicast = netip.MustParsePrefix("2000::/3")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func newGuard(allow []string) (*guard, error) {
	g := &guard{names: map[string]bool{}}
	for _, a := range allow {
		a = strings.TrimSpace(a)
		if p, err := netip.ParsePrefix(a); err == nil {
			g.networks = append(g.networks, p.Masked())
			continue
		}
		if ip, err := netip.ParseAddr(strings.Trim(a, "[]")); err == nil && ip.Zone() == "" {
			ip = ip.Unmap()
			g.networks = append(g.networks, netip.PrefixFrom(ip, ip.BitLen()))
			continue
		}
		name := fold(a)
		if !isName(name) {
			return nil, levee.Invalid("notify.allow_hosts", "host names, addresses, or networks such as 10.0.7.0/24", a)
		}
		g.names[name] = true
	}
	return g, nil
}

// fold is a host name as it is compared: lower case, without the dot of the root.
func fold(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// isName accepts letters, digits, '-', '_' and dots. A name whose last label looks like a number (127.1, 2130706433, 0x7f000001) is an
// address in disguise to some resolvers, and is none.
func isName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.IndexFunc(l, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) >= 0 {
			return false
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}

// listed reports whether the operator's list has the address.
func (g *guard) listed(ip netip.Addr) bool {
	for _, p := range g.networks {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// check refuses an address that is not for the world.
func (g *guard) check(ip netip.Addr) error {
	ip = ip.Unmap()
	if ip.Zone() == "" && g.listed(ip) {
		return nil
	}
	ok := ip.Is4() || ip.Is6() && ip.Zone() == "" && globalUnicast.Contains(ip)
	for _, p := range special {
		ok = ok && !p.Contains(ip)
	}
	if !ok {
		return levee.E(levee.CodeForbidden, "the address %s is an inner one; notify.allow_hosts lists exceptions", ip)
	}
	return nil
}

// checkURL says whether a webhook may have this address, as far as that can be told without asking a name server. The error
// names the field.
func (g *guard) checkURL(field, text string) error {
	refuse := func(allowed string) error { return levee.Invalid(field, allowed, withoutQuery(text)) }
	if len(text) > maxURL {
		return refuse(fmt.Sprintf("at most %d bytes", maxURL))
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return refuse("an https address")
	}
	if u.User != nil || u.Fragment != "" {
		return refuse("an address without user name, password and fragment: the signature says who sends")
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := net.LookupPort("tcp", p); err != nil || n < 1 || n > 65535 {
			return refuse("an address with a port from 1 to 65535, or none")
		}
	}
	host := fold(u.Hostname())
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		if g.check(ip) != nil {
			return refuse("an address that everybody can reach, or one that notify.allow_hosts lists")
		}
		if u.Scheme == "http" && !g.listed(ip.Unmap()) {
			return refuse("an https address: plain http is for hosts that notify.allow_hosts lists")
		}
		return nil
	case !isName(host):
		return refuse("an address with a host name of letters, digits, dots and hyphens (others as xn--…)")
	case g.names[host]:
		return nil
	case u.Scheme == "http":
		return refuse("an https address: plain http is for hosts that notify.allow_hosts lists")
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		return refuse("an address that everybody can reach, or one that notify.allow_hosts lists")
	}
	return nil
}

// withoutQuery cuts what often holds a token.
func withoutQuery(text string) string {
	before, _, cut := strings.Cut(text, "?")
	if cut {
		return before + "?…"
	}
	return before
}

// dial connects to where an address of a webhook leads, unless that is inside.
func (s *Service) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: s.cfg.Timeout, KeepAlive: 30 * time.Second, Resolver: s.resolver}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if !s.guard.names[fold(host)] {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return s.guard.check(to.Addr())
		}
	}
	return d.DialContext(ctx, network, address)
}
