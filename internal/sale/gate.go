package sale

import (
	"sync"
	"time"

	"levee"
)

// verdict is what the gate says to an attempt.
type verdict uint8

const (
	verdictTaken   verdict = iota // stock is taken; the taking waits for its settlement
	verdictSoldOut                // fewer units are free than were asked for
	verdictKnown                  // the buyer holds or held units: look whether his key was answered before he takes more
	verdictLimit                  // with these he would hold more than he may
	verdictRunning                // a taking with the same idempotency key waits for its settlement
	verdictCold                   // stock is not loaded
	verdictFull                   // too many takings wait for their settlement; nothing was taken
)

// attempt is one wish to buy, as the gate sees it.
type attempt struct {
	id       levee.ReservationID
	buyer    levee.UserID
	quantity int32
	key      int64 // hash of the idempotency key
	at       time.Time
	// checked says that SQL was asked for the key, and that it was not there: the buyer may take more, up to his limit.
	checked bool
}

// taking is an attempt that took stock from the gate and waits for SQL's word. It belongs to the gate until settled is
// signalled, and to the one who waits for it afterwards.
type taking struct {
	attempt
	slot    uint32 // where it stands among the gate's unsettled takings
	before  uint32 // the slot of the same buyer's taking before this one, noSlot if none
	settled chan struct{}
	result  outcome
}

// outcome is SQL's word on a taking: err nil means that the reservation and its order are on disk.
type outcome struct {
	err error
	// existing is set where the buyer's key was settled before: his first answer, again.
	existing levee.ReservationID
}

var takings = sync.Pool{New: func() any { return &taking{settled: make(chan struct{}, 1)} }}

// gateNumbers is the gate's account at one moment.
type gateNumbers struct {
	Warm      bool
	Remaining int64
	Unsettled int64 // units taken whose settlement is under way
	Waiting   int   // takings not yet picked up for settlement
	Buyers    int
	Epoch     uint64
}

// holding is what a buyer holds by SQL, for the gate to be loaded from; 0 units where he gave them back.
type holding struct {
	buyer    levee.UserID
	quantity int32
}
