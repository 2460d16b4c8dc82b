package order

import (
	"fmt"
	"slices"

	"levee"
)

// State is where an order stands. The numbers are kept in SQL: a value is never reused.
type State uint8

// The states. An order is born created; done, refunded and cancelled are where it ends.
const (
	StateCreated   State = 1 // waits for the money until PayBy
	StatePaid      State = 2 // the money is here, the goods are not yet under way
	StateShipped   State = 3 // handed to a carrier
	StateDone      State = 4 // delivered
	StateRefunding State = 5 // the provider was told to give the money back and has not confirmed it yet
	StateRefunded  State = 6 // the money is back
	StateCancelled State = 7 // never paid, or paid too late; what was taken has gone back to its source
)

var stateNames = [...]string{
	StateCreated: "created", StatePaid: "paid", StateShipped: "shipped", StateDone: "done",
	StateRefunding: "refunding", StateRefunded: "refunded", StateCancelled: "cancelled",
}

// next lists for each state where an act of the business may lead; every step that is neither here nor in back is refused.
var next = [...][]State{
	StateCreated:   {StatePaid, StateCancelled},
	StatePaid:      {StateShipped, StateRefunding},
	StateShipped:   {StateDone, StateRefunding},
	StateDone:      {},
	StateRefunding: {StateRefunded},
	StateRefunded:  {},
	StateCancelled: {},
}

// back lists the steps against the stream, which only one method each may walk: MarkPaidTx revives an order whose money came
// after its expiry, RefundRefusedTx returns an order to what it was when the provider refused its refund for good.
var back = map[State][]State{
	StateCancelled: {StatePaid},
	StateRefunding: {StatePaid, StateShipped},
}

// States returns all states in their numeric order.
func States() []State {
	all := make([]State, 0, len(stateNames)-1)
	for s := range stateNames[1:] {
		all = append(all, State(s+1))
	}
	return all
}

// String returns the state's name as the world sees it.
func (s State) String() string {
	if s == 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state(%d)", uint8(s))
	}
	return stateNames[s]
}

// MayBecome reports whether an act of the business may lead from s to the other state.
func (s State) MayBecome(to State) bool {
	return int(s) < len(next) && slices.Contains(next[s], to)
}

func illegal(from, to State) error {
	return levee.E(levee.CodeConflict, "the order is %s, it cannot become %s", from, to).
		With("state", from.String())
}
