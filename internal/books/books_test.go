package books

import "testing"

// Every movement keeps the stock balanced, and the ledger's sums tell the stock; a row that is missing is named.
func TestMovementsBalance(t *testing.T) {
	var st Stock
	ledger := map[string]int64{}
	for _, m := range []struct {
		kind string
		n    int64
	}{{Offered, 10}, {Reserved, 6}, {Sold, 4}, {Released, 1}, {Returned, 2}, {Withdrawn, 3}} {
		st = st.Add(Change(m.kind, m.n))
		ledger[m.kind] += m.n
		if p := Differences(st, Sum{Units: st.Reserved}, Sum{Units: st.Sold}, ledger, 0); len(p) > 0 {
			t.Fatalf("after %s: %v", m.kind, p)
		}
	}
	if want := (Stock{Offered: 10, Remaining: 4, Reserved: 1, Sold: 2, Withdrawn: 3, Seq: 6}); st != want {
		t.Fatalf("%+v, want %+v", st, want)
	}
	for kind := range ledger {
		ledger[kind]--
		if p := Differences(st, Sum{Units: st.Reserved}, Sum{Units: st.Sold}, ledger, 0); len(p) == 0 {
			t.Errorf("a unit is missing in the ledger's %s, and nothing is said", kind)
		}
		ledger[kind]++
	}
	if p := Differences(st, Sum{}, Sum{Units: st.Sold}, ledger, 1); len(p) != 2 {
		t.Errorf("%v", p)
	}
}
