package origin

import (
	"net/netip"
	"strings"
	"testing"
)

// FuzzForwardedFor: whatever a caller writes, the address is the peer's or one of the list, and nothing to the left of an
// address that is not trusted counts.
func FuzzForwardedFor(f *testing.F) {
	f.Add("198.51.100.1, 10.0.0.2", "6.6.6.6")
	f.Add("[2001:db8::7]:443 ,,", ", ")
	f.Add("::ffff:10.0.0.1%x", "1.2.3.4:70000")
	trusted := func(a netip.Addr) bool { return netip.MustParsePrefix("10.0.0.0/8").Contains(a) }
	peer := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, first, second string) {
		got := Client([]string{first, second}, peer, trusted)
		if !got.IsValid() || got.Is4In6() || got.Zone() != "" {
			t.Fatalf("%v", got)
		}
		// What the proxy itself appends decides.
		if got := Client([]string{first, second + ", 192.0.2.77"}, peer, trusted); got != netip.MustParseAddr("192.0.2.77") {
			t.Fatalf("%q and %q make %v", first, second, got)
		}
		if got != peer && !trusted(got) {
			return // the right-most that is not ours
		}
		for hop := range strings.SplitSeq(second, ",") {
			if a, ok := parseHop(strings.Trim(hop, " \t")); ok && !trusted(a) && !strings.Contains(second, ",") {
				t.Fatalf("%v was passed over", a)
			}
		}
	})
}
