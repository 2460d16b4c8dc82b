package rehearse

import (
	"fmt"
	"sync"
	"sync/atomic"

	"levee/internal/report"
)

// final is the last word that a person was told about a press, or that the rehearsal ended without one.
type final uint8

const (
	finalNone     final = iota // has not pressed
	finalOrdered               // holds an order
	finalSoldOut               //
	finalLimit                 //
	finalEnded                 //
	finalGaveUp                // was told to wait until he had enough
	finalRefused               // refused in a way that should not happen
	finalNeverWas              // his press was not sent before the end
	finalWaiting               // stands in the waiting room
	finalMissed                // was not there when it was his turn
	finalUnknown               // whether he holds an order could not be learned
	finals
)

var finalNames, finalLabels = func() (names, labels [finals]string) {
	for f, k := range report.Outcomes {
		names[f], labels[f] = k.Name, k.Label
	}
	return names, labels
}()

// promise is an order that a person was told he holds.
type promise struct {
	buyer       int32
	quantity    int32
	press       uint64
	reservation string
	times       int  // how often he was told
	paying      bool // he went to pay
	paid        bool // he was told that his payment went through
}

// told is what clients know at the end: the side of the audit that the server cannot change any more.
type told struct {
	last   []atomic.Uint32 // by buyer: the final of his latest press
	counts [finals]atomic.Uint64

	mu      sync.Mutex // guards all below
	orders  map[string]*promise
	presses map[uint64]string // press to order
	// lies are answers that contradict each other.
	lies []string
	// odd counts answers that no person should see, by status and code.
	odd      map[string]uint64
	statuses map[int]uint64
}

func newTold(buyers int) *told {
	return &told{last: make([]atomic.Uint32, buyers), orders: map[string]*promise{}, presses: map[uint64]string{},
		odd: map[string]uint64{}, statuses: map[int]uint64{}}
}

const liesKept = 1000

func (t *told) lie(format string, args ...any) {
	if len(t.lies) < liesKept {
		t.lies = append(t.lies, fmt.Sprintf(format, args...))
	}
}

// order notes that a press was answered with an order. It is new when nobody was told of it before.
func (t *told) order(crowd []buyer, buyer int32, press uint64, quantity int32, order, reservation string) (fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before, known := t.presses[press]; known && before != order {
		t.lie("buyer %s was told of two orders for one press (key %012x): %s and %s", crowd[buyer].id, press, before, order)
	}
	p := t.orders[order]
	if p == nil {
		t.orders[order] = &promise{buyer: buyer, quantity: quantity, press: press, reservation: reservation, times: 1}
		t.presses[press] = order
		return true
	}
	p.times++
	switch {
	case p.buyer != buyer:
		t.lie("order %s was given to two buyers: %s and %s", order, crowd[p.buyer].id, crowd[buyer].id)
	case p.press != press:
		t.lie("buyer %s was told of order %s for two presses (keys %012x and %012x)", crowd[buyer].id, order, p.press, press)
	case p.quantity != quantity:
		t.lie("buyer %s was told that order %s is for %d units and for %d", crowd[buyer].id, order, p.quantity, quantity)
	}
	return false
}

// pay notes that the holder of an order goes to pay, and later that he has paid.
func (t *told) pay(order string, done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.orders[order]; p != nil {
		p.paying, p.paid = true, p.paid || done
	}
}

// paidUnits is how many units people were told they have paid.
func (t *told) paidUnits() (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.orders {
		if p.paid {
			n += int64(p.quantity)
		}
	}
	return n
}

// finish notes the last word of a press.
func (t *told) finish(buyer int32, f final) {
	t.counts[f].Add(1)
	t.last[buyer].Store(uint32(f))
}

func (t *told) strange(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.odd) < 100 || t.odd[what] > 0 {
		t.odd[what]++
	}
}

// trouble counts an answer of 500 and above.
func (t *told) trouble(status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.statuses[status]++
}
