package id

import (
	"math"
	"strings"
	"testing"

	"levee"
)

func testSealer(t testing.TB, first byte) *Sealer {
	t.Helper()
	key := make([]byte, 32)
	for i := range key {
		key[i] = first + byte(i)
	}
	s, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func kinds() (ks []levee.Kind) {
	for k := range 256 {
		if levee.Kind(k).Prefix() != "" {
			ks = append(ks, levee.Kind(k))
		}
	}
	return ks
}

func TestSealAndOpen(t *testing.T) {
	s := testSealer(t, 0)
	for _, k := range kinds() {
		for _, id := range []int64{0, 1, 2, 1 << 22, 247063142400000000, math.MaxInt64, -1, math.MinInt64} {
			p := s.Seal(k, id)
			if len(p) != 30 || !strings.HasPrefix(p, k.Prefix()+"_") || strings.ToLower(p) != p {
				t.Errorf("Seal(%d, %d) = %q", k, id, p)
			}
			if got, err := s.Open(k, p); err != nil || got != id {
				t.Errorf("Open(%d, %q) = %d, %v, want %d", k, p, got, err, id)
			}
		}
	}
	if p := s.Seal(0, 5); p != "" {
		t.Errorf("an unknown kind is shown as %q", p)
	}
}

// Public ids live for ever in links and in other systems: their form may never change.
func TestSealedFormIsFixed(t *testing.T) {
	s := testSealer(t, 0)
	for _, c := range []struct {
		kind levee.Kind
		id   int64
		want string
	}{
		{levee.KindOrder, 1, "ord_2cqszkqsetydrwrjrqrjs8g8ce"},
		{levee.KindUser, 247063142400000000, "usr_1txsfbvy6gp4dxzvgxw7mtpv2a"},
	} {
		if got := s.Seal(c.kind, c.id); got != c.want {
			t.Errorf("Seal(%d, %d) = %q, want %q", c.kind, c.id, got, c.want)
		}
	}
}

func refused(t *testing.T, s *Sealer, k levee.Kind, p string) {
	t.Helper()
	id, err := s.Open(k, p)
	if levee.CodeOf(err) != levee.CodeNotFound || id != 0 {
		t.Errorf("Open(%d, %q) = %d, %v, want not_found", k, p, id, err)
	}
}

func TestOpenRefusesWhatIsNotOurs(t *testing.T) {
	s := testSealer(t, 0)
	p := s.Seal(levee.KindOrder, 247063142400000000)

	// Every other character in every place, that is, every change of a single bit and more.
	for i := range len(p) {
		for c := range 256 {
			if byte(c) != p[i] {
				refused(t, s, levee.KindOrder, p[:i]+string([]byte{byte(c)})+p[i+1:])
			}
		}
	}
	// As another kind, with its own prefix and with the other one.
	for _, k := range append(kinds(), 0, 13, 255) {
		if k != levee.KindOrder {
			refused(t, s, k, p)
			refused(t, s, k, k.Prefix()+p[3:])
		}
	}
	refused(t, testSealer(t, 1), levee.KindOrder, p) // another key
	for _, q := range []string{"", "_", "ord", "ord_", p[:29], p + "0", " " + p, p + "\n", strings.ToUpper(p), p[4:],
		"ord_" + strings.Repeat("0", 26),
		"ord_" + strings.Repeat("z", 26), "ord_247063142400000000", "ord_" + strings.Repeat("\x00", 26), "ord_" + strings.Repeat("é", 13)} {
		refused(t, s, levee.KindOrder, q)
	}
}

// Guessing finds nothing: no neighbour of a known id opens, and a random one opens with a chance of 2^-64.
func TestSealedIDsShowNoOrder(t *testing.T) {
	s := testSealer(t, 0)
	rising, seen := 0, map[string]bool{}
	last := ""
	const n = 10_000
	for id := range int64(n) {
		p := s.Seal(levee.KindSale, id)
		if seen[p] {
			t.Fatalf("%q twice", p)
		}
		seen[p] = true
		if p > last {
			rising++
		}
		last = p
	}
	if rising < n*45/100 || rising > n*55/100 {
		t.Errorf("%d of %d successors sort above their predecessors", rising, n)
	}
}

func TestKey(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		_, err := NewSealer([]byte(strings.Repeat("k", n)))
		if levee.CodeOf(err) != levee.CodeInvalid || strings.Contains(err.Error(), "kkk") {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
}

func TestSealerAllocations(t *testing.T) {
	s := testSealer(t, 0)
	buf := make([]byte, 0, 64)
	p := s.Seal(levee.KindOrder, 77)
	if n := testing.AllocsPerRun(1000, func() { buf = s.AppendSeal(buf[:0], levee.KindOrder, 77) }); n != 0 {
		t.Errorf("AppendSeal allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := s.Open(levee.KindOrder, p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Open allocates %v times", n)
	}
	if string(s.AppendSeal([]byte("x"), levee.KindOrder, 77)) != "x"+p {
		t.Error("AppendSeal does not append")
	}
}

func FuzzSealerOpen(f *testing.F) {
	s := testSealer(f, 0)
	for _, k := range kinds() {
		f.Add(uint8(k), s.Seal(k, 12345))
		f.Add(uint8(k)+1, s.Seal(k, 12345))
	}
	f.Add(uint8(8), "ord_7zzzzzzzzzzzzzzzzzzzzzzzzz")
	f.Add(uint8(8), "ord_8zzzzzzzzzzzzzzzzzzzzzzzzz")
	f.Add(uint8(0), "")
	f.Add(uint8(8), "ORD_00000000000000000000000000")
	f.Fuzz(func(t *testing.T, kind uint8, public string) {
		id, err := s.Open(levee.Kind(kind), public)
		if err != nil {
			if levee.CodeOf(err) != levee.CodeNotFound || id != 0 {
				t.Errorf("Open(%d, %q) = %d, %v", kind, public, id, err)
			}
			return
		}
		// What opens is exactly what we would have sealed: there is one spelling, and nobody else's.
		if again := s.Seal(levee.Kind(kind), id); again != public {
			t.Errorf("Open(%d, %q) = %d, which is sealed as %q", kind, public, id, again)
		}
	})
}
