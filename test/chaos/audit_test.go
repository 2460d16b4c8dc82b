package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// wish is one idempotency key of one buyer: what he asked for, what he was told, and what he did afterwards.
type wish struct {
	sale, buyer, key string
	quantity         int32
	first            time.Time // before it was sent for the first time

	told   []string // reservations of all 201 answers; must all be one
	queued string   // the reservation of a 202
	lost   bool     // the last sending has no answer
	cut    bool     // the buyer hung up on a sending: it may still be under way when the next one is answered

	giveUp string // "", "tried" (no answer), "done" (204)
	paid   string // "", "tried", "done" (the provider's page said so, before the deadline)
}

// may reports whether a reservation of this wish may exist. One that was refused in the end has none: a key whose reservation
// is there, held or released, is answered 201 again.
func (w *wish) may() bool {
	return len(w.told) > 0 || w.queued != "" || w.lost || w.cut
}

// row is one reservation as SQL holds it.
type row struct {
	Reservation string `json:"reservation"`
	Order       string `json:"order"`
	Buyer       string `json:"buyer"`
	Quantity    int32  `json:"quantity"`
	State       string `json:"state"`
}

type account struct {
	Balanced bool     `json:"balanced"`
	Problems []string `json:"problems"`
	Stock    struct {
		Offered, Remaining, Reserved, Sold, Withdrawn int64
	} `json:"stock"`
	Gate struct {
		Warm                 bool
		Remaining, Unsettled int64
	} `json:"gate"`
}

// book is what the house shows of one sale while nobody buys; orders may expire and payments arrive meanwhile.
type book struct {
	id            string
	perBuyer      int32
	payWithin     time.Duration
	offered       int64 // what operators were told to have been offered; offeredMost what they may have offered besides
	offeredMost   int64
	taken         time.Time // after the last look
	before, after account
	rows          []row
	orders        map[string]string // states of those that were looked up; "" is not found
	everyOrder    bool              // orders holds all there are
	over          bool              // every deadline has passed and nobody does anything: nothing may be reserved any more
}

// problems compares what was told with what SQL holds and names every difference.
func problems(wishes []*wish, books []*book) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	bySale := map[string][]*wish{}
	for _, w := range wishes {
		bySale[w.sale] = append(bySale[w.sale], w)
	}
	for _, b := range books {
		b.accounts(say)
		b.told(bySale[b.id], say)
		b.buyers(bySale[b.id], say)
	}
	return list
}

// accounts checks stock against its own sums and against the rows.
func (b *book) accounts(say func(string, ...any)) {
	for _, a := range []account{b.before, b.after} {
		st := a.Stock
		if !a.Balanced || len(a.Problems) > 0 {
			say("sale %s: its books do not balance: %v %+v", b.id, a.Problems, st)
		}
		if st.Offered-st.Withdrawn != st.Remaining+st.Reserved+st.Sold || min(st.Remaining, st.Reserved, st.Sold, st.Withdrawn) < 0 {
			say("sale %s: stock does not add up: %+v", b.id, st)
		}
		if st.Offered < b.offered || st.Offered > b.offeredMost {
			say("sale %s: %d offered, but operators were told %d to %d", b.id, st.Offered, b.offered, b.offeredMost)
		}
	}
	sums, seen := map[string]int64{}, map[string]bool{}
	for _, r := range b.rows {
		if seen[r.Reservation] {
			say("sale %s: reservation %s stands there twice", b.id, r.Reservation)
		}
		seen[r.Reservation] = true
		sums[r.State] += int64(r.Quantity)
	}
	if most := b.after.Stock.Offered - b.after.Stock.Withdrawn; sums["reserved"]+sums["sold"] > max(most, b.before.Stock.Offered-b.before.Stock.Withdrawn) {
		say("sale %s: oversold: %d held of %d", b.id, sums["reserved"]+sums["sold"], most)
	}
	if b.before.Stock == b.after.Stock {
		if st := b.after.Stock; sums["reserved"] != st.Reserved || sums["sold"] != st.Sold {
			say("sale %s: stock says %d reserved and %d sold, the rows %d and %d", b.id, st.Reserved, st.Sold, sums["reserved"], sums["sold"])
		}
	}
	// The gate is read a moment after the stock that it is shown with, and orders expire meanwhile.
	free, low, high := b.before.Gate.Remaining+b.before.Gate.Unsettled, b.before.Stock.Remaining, b.after.Stock.Remaining
	if b.before.Gate.Warm && (free < min(low, high) || free > max(low, high)) {
		say("sale %s: the gate has %d free, SQL %d to %d", b.id, free, low, high)
	}
	if b.over && b.after.Stock.Reserved != 0 {
		say("sale %s: %d units are still reserved after every deadline", b.id, b.after.Stock.Reserved)
	}
}

// orderOf is an order's state for a reservation's.
var orderOf = map[string]string{"reserved": "created", "sold": "paid", "released": "cancelled"}

// told checks every 201: its reservation and its order are there, once, as they were told, and nothing was taken back too early.
func (b *book) told(wishes []*wish, say func(string, ...any)) {
	rows := map[string]row{}
	for _, r := range b.rows {
		rows[r.Reservation] = r
		if state, asked := b.orders[r.Order]; asked && b.everyOrder && state != orderOf[r.State] {
			say("sale %s: reservation %s is %s, but its order %s is %q", b.id, r.Reservation, r.State, r.Order, state)
		} else if b.everyOrder && !asked {
			say("sale %s: reservation %s has no order", b.id, r.Reservation)
		}
	}
	if b.everyOrder && len(b.orders) != len(b.rows) {
		say("sale %s: %d orders for %d reservations", b.id, len(b.orders), len(b.rows))
	}
	for _, w := range wishes {
		if len(w.told) == 0 {
			continue
		}
		for _, again := range w.told[1:] {
			if again != w.told[0] {
				say("sale %s: buyer %s was told %s and then %s for the same key", b.id, w.buyer, w.told[0], again)
			}
		}
		r, ok := rows[w.told[0]]
		if !ok {
			say("sale %s: buyer %s was told 201 with %s, and SQL does not hold it", b.id, w.buyer, w.told[0])
			continue
		}
		if r.Buyer != w.buyer || r.Quantity != w.quantity {
			say("sale %s: reservation %s is of %s for %d, but %s was told %d", b.id, r.Reservation, r.Buyer, r.Quantity, w.buyer, w.quantity)
		}
		if state, asked := b.orders[r.Order]; asked && state == "" {
			say("sale %s: buyer %s was told 201, but there is no order %s", b.id, w.buyer, r.Order)
		}
		switch {
		case r.State == "released" && w.giveUp == "" && b.taken.Before(w.first.Add(b.payWithin)):
			say("sale %s: reservation %s was released before its time", b.id, r.Reservation)
		case r.State != "released" && w.giveUp == "done":
			say("sale %s: reservation %s was given up and is %s", b.id, r.Reservation, r.State)
		case r.State == "sold" && w.paid == "":
			say("sale %s: reservation %s is sold, and nobody paid", b.id, r.Reservation)
		case r.State != "sold" && w.paid == "done" && w.giveUp == "" && b.over:
			say("sale %s: reservation %s was paid and is %s", b.id, r.Reservation, r.State)
		}
	}
}

// buyers checks limits, and that nobody has more reservations than keys that may have one.
func (b *book) buyers(wishes []*wish, say func(string, ...any)) {
	type pair struct {
		buyer    string
		quantity int32
	}
	may, have, held := map[pair]int{}, map[pair]int{}, map[string]int32{}
	for _, w := range wishes {
		if w.may() {
			may[pair{w.buyer, w.quantity}]++
		}
	}
	for _, r := range b.rows {
		have[pair{r.Buyer, r.Quantity}]++
		if r.State != "released" {
			held[r.Buyer] += r.Quantity
		}
	}
	for p, n := range have {
		if n > may[p] {
			say("sale %s: buyer %s has %d reservations of %d, but only %d of his keys can have one", b.id, p.buyer, n, p.quantity, may[p])
		}
	}
	for buyer, n := range held {
		if n > b.perBuyer {
			say("sale %s: buyer %s holds %d, more than %d", b.id, buyer, n, b.perBuyer)
		}
	}
}

// few shortens a list for a person.
func few(list []string) string {
	slices.SortFunc(list, cmp.Compare[string])
	text := ""
	for i, s := range list {
		if i == 12 {
			return text + fmt.Sprintf("\n  … and %d more", len(list)-i)
		}
		text += "\n  " + s
	}
	return text
}
