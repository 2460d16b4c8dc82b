// Package gate is the admission filter in front of the database for one sale: it lets through no more attempts than there is stock
// and refuses the rest in nanoseconds from memory, or in one shared call from Redis, where several nodes sell.
//
// It owns the count of free units and of what each buyer holds, the log of takings that wait for their settlement, and each node's own
// line of them. It does not own the truth: that is SQL's, in the settlement. The gate only ever says no; it is loaded from SQL and follows
// SQL's ledger movement by movement: docs/decisions/0011-the-gate-follows-the-ledger.md.
package gate

import (
	"sync"
	"time"

	"levee"
)

// Verdict is what the gate says to an attempt.
type Verdict uint8

// The verdicts.
const (
	Taken     Verdict = iota // stock is taken; the taking waits for its settlement
	SoldOut                  // fewer units are free than were asked for
	Known                    // the buyer holds or held units: look whether his key was answered before he takes more
	OverLimit                // with these he would hold more than he may
	Running                  // a taking with the same idempotency key waits for its settlement
	Cold                     // stock is not loaded, or the shared gate came back empty: some node must Load
	Full                     // too many takings wait for their settlement; nothing was taken
	Away                     // the gate cannot be reached: nothing is taken, or it is given back before long; answer 503
)

// Attempt is one wish to buy, as the gate sees it.
type Attempt struct {
	ID       levee.ReservationID
	Buyer    levee.UserID
	Quantity int32
	Key      int64 // hash of the idempotency key
	At       time.Time
	// Checked says that SQL was asked for the key, and that it was not there: the buyer may take more, up to his limit.
	Checked bool
}

// Taking is an attempt that took stock from the gate and waits for SQL's word. It belongs to the gate until Settled is
// signalled, and to the one who waits for it afterwards, who gives it back with Free.
type Taking struct {
	Attempt
	slot    uint32 // where it stands among the gate's unsettled takings; noSlot in Redis, and when it is dealt with
	before  uint32 // the slot of the same buyer's taking before this one, noSlot if none
	Settled chan struct{}
	Result  Outcome
}

// Outcome is SQL's word on a taking: Err nil means that the reservation and its order are on disk.
type Outcome struct {
	Err error
	// Existing is set where the buyer's key was settled before: his first answer, again.
	Existing levee.ReservationID
}

// Refused reports whether the taking's units go back to the gate.
func (o Outcome) Refused() bool { return o.Err != nil || o.Existing != 0 }

var takings = sync.Pool{New: func() any { return &Taking{Settled: make(chan struct{}, 1)} }}

// Free gives a taking whose result was read back for reuse.
func (t *Taking) Free() {
	t.Result = Outcome{}
	takings.Put(t)
}

// Numbers is the gate's account at one moment.
type Numbers struct {
	Warm      bool
	Remaining int64 // units free; below zero after takings were lost that SQL let have their units: then none is free
	Unsettled int64 // units taken whose settlement is under way, on all nodes
	Waiting   int   // takings of this node not yet picked up for settlement
	Buyers    int
	Epoch     uint64 // rises whenever stock comes back
	// Applied: every movement up to this one is in. Missing are the first gaps (at most 1,000) before later ones that are in, too.
	Applied int64
	Missing []int64
}

// Holding is what a buyer holds by SQL, for the gate to be loaded from; 0 units where he gave them back.
type Holding struct {
	Buyer    levee.UserID
	Quantity int32
}
