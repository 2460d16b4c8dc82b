// Package books holds how a sale's units are counted: what each movement does to its stock, and when its books balance.
//
// It owns the words and the arithmetic of the account. It owns no rows: the sale keeps stock, reservations and ledger in SQL.
package books

// Stock is a sale's account by SQL: offered - withdrawn = remaining + reserved + sold. Seq is the number of the last movement that it holds.
type Stock struct {
	Offered, Remaining, Reserved, Sold, Withdrawn int64
	Seq                                           int64
}

// Balanced reports whether every unit is accounted for.
func (s Stock) Balanced() bool {
	return s.Offered-s.Withdrawn == s.Remaining+s.Reserved+s.Sold &&
		s.Remaining >= 0 && s.Reserved >= 0 && s.Sold >= 0 && s.Withdrawn >= 0
}

// Add returns the stock after a change, which is one movement.
func (s Stock) Add(d Stock) Stock {
	return Stock{s.Offered + d.Offered, s.Remaining + d.Remaining, s.Reserved + d.Reserved, s.Sold + d.Sold, s.Withdrawn + d.Withdrawn, s.Seq + 1}
}

// The kinds of movements in the ledger.
const (
	Offered   = "offered"
	Reserved  = "reserved"
	Sold      = "sold"
	Released  = "released"
	Returned  = "returned" // sold before, refunded, never shipped
	Withdrawn = "withdrawn"
)

// Change is what a movement of n units changes in a sale's stock; nothing for an unknown kind.
func Change(kind string, n int64) (d Stock) {
	switch kind {
	case Offered:
		d.Offered, d.Remaining = n, n
	case Reserved:
		d.Remaining, d.Reserved = -n, n
	case Sold:
		d.Reserved, d.Sold = -n, n
	case Released:
		d.Reserved, d.Remaining = -n, n
	case Returned:
		d.Sold, d.Remaining = -n, n
	case Withdrawn:
		d.Remaining, d.Withdrawn = -n, n
	}
	return d
}

// Sum of reservations in one state.
type Sum struct{ Count, Units int64 }

// Differences names every book that does not balance: the stock, the reservations that are reserved and sold, the ledger's sums by kind, and
// how many buyers hold more than they may.
func Differences(st Stock, reserved, sold Sum, ledger map[string]int64, overLimit int64) (problems []string) {
	check := func(ok bool, what string) {
		if !ok {
			problems = append(problems, what)
		}
	}
	check(st.Balanced(), "offered - withdrawn is not remaining + reserved + sold")
	check(st.Reserved == reserved.Units, "stock reserved is not the sum of reserved reservations")
	check(st.Sold == sold.Units, "stock sold is not the sum of sold reservations")
	check(st.Offered == ledger[Offered], "stock offered is not the ledger's offered")
	check(st.Withdrawn == ledger[Withdrawn], "stock withdrawn is not the ledger's withdrawn")
	check(st.Sold == ledger[Sold]-ledger[Returned], "stock sold is not the ledger's sold - returned")
	check(st.Reserved == ledger[Reserved]-ledger[Released]-ledger[Sold], "stock reserved is not the ledger's reserved - released - sold")
	check(overLimit == 0, "a buyer holds more than he may")
	return problems
}
