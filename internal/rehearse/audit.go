package rehearse

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// evidence is what an audit compares: what clients were told, and what the server says that it holds.
type evidence struct {
	crowd    []buyer
	told     *told
	rows     []row
	account  Account
	perBuyer int64
	operator string // who rehearses: he may take part by hand
	units    int64
	answered reading
}

// audit compares. Nobody asks or answers any more while it runs.
func audit(e *evidence) []Check {
	e.told.mu.Lock()
	defer e.told.mu.Unlock()
	rows := make(map[string]*row, len(e.rows))
	people := make(map[string]int32, len(e.crowd))
	for i := range e.crowd {
		people[e.crowd[i].id] = int32(i)
	}
	double := Check{Name: "each order once", Promise: "no order, reservation or press appears twice, and no answer contradicts another"}
	reservations := make(map[string]struct{}, len(e.rows))
	for i := range e.rows {
		r := &e.rows[i]
		if rows[r.Order] != nil {
			double.Find("SQL lists order %s twice", r.Order)
		}
		if _, known := reservations[r.Reservation]; known {
			double.Find("SQL lists reservation %s twice", r.Reservation)
		}
		reservations[r.Reservation] = struct{}{}
		rows[r.Order] = r
	}
	for _, lie := range e.told.lies {
		double.Find("%s", lie)
	}
	double.Facts = fmt.Sprintf("%d rows, %d orders that were told", len(e.rows), len(e.told.orders))
	checks := []Check{e.kept(rows), e.untold(people), double, e.limit(), e.oversold(), e.balance(), e.books(), e.money(rows),
		e.known(), e.servers(), e.odd(), e.leftOver()}
	for i := range checks {
		if c := &checks[i]; c.Verdict == "" {
			c.Verdict = Holds
			if c.Count > 0 {
				c.Verdict = Broken
			}
		}
	}
	return checks
}

// kept: every order that a person was told of is in SQL, is his, and is what he was told.
func (e *evidence) kept(rows map[string]*row) (c Check) {
	c = Check{Name: "every yes is kept", Promise: "each order that a buyer was told of is in SQL, his, and for the units he was told"}
	found := 0
	for _, order := range slices.Sorted(maps.Keys(e.told.orders)) {
		p := e.told.orders[order]
		r := rows[order]
		switch who := e.crowd[p.buyer].id; {
		case r == nil:
			c.Find("buyer %s was told of order %s (key %012x), which SQL does not hold", who, order, p.press)
			continue
		case r.Buyer != who:
			c.Find("order %s was told to buyer %s, but SQL gives it to %s", order, who, r.Buyer)
		case r.Quantity != int64(p.quantity):
			c.Find("buyer %s was told that order %s is for %d units, SQL says %d", who, order, p.quantity, r.Quantity)
		case p.reservation != "" && r.Reservation != p.reservation:
			c.Find("buyer %s was told that order %s is reservation %s, SQL says %s", who, order, p.reservation, r.Reservation)
		}
		found++
	}
	c.Facts = fmt.Sprintf("%d told, %d of them in SQL", len(e.told.orders), found)
	return c
}

// untold: every order in SQL was told to its buyer; who was told sold out holds nothing.
func (e *evidence) untold(people map[string]int32) (c Check) {
	c = Check{Name: "no order behind a buyer's back", Promise: "each order in SQL was told to its buyer; who was told no holds nothing he does not know of"}
	untold, own := 0, 0
	for i := range e.rows {
		r := &e.rows[i]
		switch {
		case e.told.orders[r.Order] != nil:
			continue
		case r.Buyer == e.operator && r.Buyer != "":
			own++
			continue
		}
		untold++
		who, ours := people[r.Buyer]
		if !ours {
			c.Find("SQL gives order %s to %s, who is none of the invented buyers", r.Order, r.Buyer)
			continue
		}
		c.Find("buyer %s holds order %s (%s) and was not told; the last he heard is: %s", r.Buyer, r.Order, r.State,
			finalLabels[e.told.last[who].Load()])
	}
	c.Facts = fmt.Sprintf("%d orders in SQL, %d not told", len(e.rows), untold)
	if own > 0 {
		c.Facts += fmt.Sprintf(", %d bought by the operator himself", own)
	}
	return c
}

func (e *evidence) limit() (c Check) {
	c = Check{Name: "the limit per buyer", Promise: fmt.Sprintf("nobody holds more than %d", e.perBuyer)}
	held := map[string]int64{}
	most := int64(0)
	for i := range e.rows {
		if r := &e.rows[i]; r.State != "released" {
			held[r.Buyer] += r.Quantity
			most = max(most, held[r.Buyer])
		}
	}
	for _, who := range slices.Sorted(maps.Keys(held)) {
		if held[who] > e.perBuyer {
			c.Find("buyer %s holds %d units", who, held[who])
		}
	}
	c.Facts = fmt.Sprintf("%d buyers hold units, the most anybody holds is %d", len(held), most)
	return c
}

// units of the rows that are not released.
func (e *evidence) held() (reserved, sold, released int64) {
	for i := range e.rows {
		switch r := &e.rows[i]; r.State {
		case "released":
			released += r.Quantity
		case "sold":
			sold += r.Quantity
		default:
			reserved += r.Quantity
		}
	}
	return reserved, sold, released
}

func (e *evidence) oversold() (c Check) {
	c = Check{Name: "nothing oversold", Promise: "the units of all orders are not more than were offered"}
	reserved, sold, _ := e.held()
	free := e.units - e.account.Stock.Withdrawn
	if reserved+sold > free {
		c.Find("%d units are in orders, %d more than the %d offered", reserved+sold, reserved+sold-free, free)
	}
	if e.account.Stock.Offered != e.units {
		c.Find("the sale was made for %d units, the account says %d", e.units, e.account.Stock.Offered)
	}
	told := int64(0)
	for _, p := range e.told.orders {
		told += int64(p.quantity)
	}
	c.Facts = fmt.Sprintf("%d offered, %d in orders, %d told to buyers", e.account.Stock.Offered, reserved+sold, told)
	return c
}

func (e *evidence) balance() (c Check) {
	c = Check{Name: "the stock balances", Promise: "sold + reserved + remaining + withdrawn = offered, and the server's own proof finds nothing"}
	s := e.account.Stock
	if sum := s.Sold + s.Reserved + s.Remaining + s.Withdrawn; sum != s.Offered {
		c.Find("%d + %d + %d + %d = %d, not %d", s.Sold, s.Reserved, s.Remaining, s.Withdrawn, sum, s.Offered)
	}
	if s.Remaining < 0 || s.Reserved < 0 || s.Sold < 0 || s.Withdrawn < 0 {
		c.Find("a number of units is negative: %+v", s)
	}
	for _, p := range e.account.Problems {
		c.Find("the server says: %s", p)
	}
	if !e.account.Balanced && len(e.account.Problems) == 0 {
		c.Find("the server says that its books do not balance")
	}
	c.Facts = fmt.Sprintf("%d sold + %d reserved + %d remaining + %d withdrawn = %d", s.Sold, s.Reserved, s.Remaining, s.Withdrawn, s.Offered)
	return c
}

func (e *evidence) books() (c Check) {
	c = Check{Name: "books and rows agree", Promise: "the account's sums are the sums of the reservations"}
	reserved, sold, released := e.held()
	if reserved != e.account.Stock.Reserved {
		c.Find("the rows have %d units reserved, the account %d", reserved, e.account.Stock.Reserved)
	}
	if sold != e.account.Stock.Sold {
		c.Find("the rows have %d units sold, the account %d", sold, e.account.Stock.Sold)
	}
	if e.account.Gate.Unsettled != 0 || e.account.Gate.Waiting != 0 {
		c.Find("the server did not come to rest: %d units unsettled, %d purchases waiting", e.account.Gate.Unsettled, e.account.Gate.Waiting)
	}
	c.Facts = fmt.Sprintf("rows: %d reserved, %d sold, %d released", reserved, sold, released)
	return c
}

func (e *evidence) money(rows map[string]*row) (c Check) {
	c = Check{Name: "paid is sold", Promise: "who paid has his units sold to him, and nobody's units are sold who did not pay"}
	paid, sold := 0, 0
	for order, p := range e.told.orders {
		r := rows[order]
		if p.paid {
			paid++
		}
		switch {
		case r == nil:
		case p.paid && r.State != "sold":
			c.Find("buyer %s paid order %s, but it is %s", r.Buyer, order, r.State)
		case r.State == "sold" && !p.paying:
			c.Find("order %s is sold, but its buyer %s did not pay", order, r.Buyer)
		}
		if r != nil && r.State == "sold" {
			sold++
		}
	}
	c.Facts = fmt.Sprintf("%d paid, %d sold", paid, sold)
	return c
}

func (e *evidence) known() (c Check) {
	c = Check{Name: "every outcome is known", Promise: "each lost or late reply was found out by asking again with the same key"}
	n := e.told.counts[finalUnknown].Load()
	if n > 0 {
		c.Find("what became of %d presses could not be learned before the time was over", n)
		c.Count = int(n)
	}
	c.Facts = fmt.Sprintf("%d replies lost, %d presses without an outcome", e.answered.answers[classLost], n)
	return c
}

func (e *evidence) servers() (c Check) {
	c = Check{Name: "no server errors", Promise: "no answer of 500 and above but 503, which asks to come again"}
	var facts []string
	for _, status := range slices.Sorted(maps.Keys(e.told.statuses)) {
		n := e.told.statuses[status]
		facts = append(facts, fmt.Sprintf("%d × %d", n, status))
		if status != 503 {
			c.Find("%d answers of %d", n, status)
		}
	}
	c.Facts = cmp.Or(strings.Join(facts, ", "), "none at all")
	return c
}

func (e *evidence) odd() (c Check) {
	c = Check{Name: "no odd answers", Promise: "every answer is one that a buyer of this sale may get"}
	n := uint64(0)
	for _, what := range slices.Sorted(maps.Keys(e.told.odd)) {
		n += e.told.odd[what]
		c.Find("%d × %s", e.told.odd[what], what)
	}
	c.Facts = fmt.Sprintf("%d odd answers of %d", n, e.answered.total())
	return c
}

// leftOver: units that nobody got although people were told that all are sold. It can be right (a commit failed after others
// were turned away and nobody came again), so it is a note.
func (e *evidence) leftOver() (c Check) {
	c = Check{Name: "nothing left over", Promise: "no unit is left while people were told that all are sold"}
	turned := e.told.counts[finalSoldOut].Load()
	c.Facts = fmt.Sprintf("%d units remain, %d presses were told sold out", e.account.Stock.Remaining, turned)
	if _, _, released := e.held(); e.account.Stock.Remaining > 0 && turned > 0 {
		c.Verdict = Note
		c.Find("%d units remain (%d came back from released orders)", e.account.Stock.Remaining, released)
	}
	return c
}
