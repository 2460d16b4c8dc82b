package admission

import (
	"time"

	"levee"
)

// Policy is what an operator chose for one sale's admissions. The zero value: tokens are given to every signed-in buyer at once.
type Policy struct {
	// Room tells whether a waiting room stands before the sale.
	Room bool
	// Order is OrderArrival (default) or OrderRandom: random draws lots among all who wait when the sale opens; later ones queue
	// behind by arrival.
	Order string
	// PerSecond is how many are admitted a second, 1 to 100000. Default 100.
	PerSecond int32
	// Multiple bounds the tokens that are out and unspent to so many times the units that are free, 1 to 1000. Default 3: not
	// everybody who is admitted buys, and a unit that waits for somebody who does not is a unit not sold.
	Multiple int32
	// Brake is what a buyer must do before he gets a place: BrakeNone (default), BrakeWork or BrakePicture.
	Brake string
	// WorkBits is how many leading zero bits of SHA-256 BrakeWork asks for, 8 to 24. Default 16. One more doubles the work.
	WorkBits int32
	// PerAddress is how many places one visitor address may hold (an IPv4 address, or an IPv6 /64); 0: no limit, at most 100000.
	// Offices, schools and mobile networks share addresses.
	PerAddress int32
}

// The orders of a waiting room.
const (
	OrderArrival = "arrival"
	OrderRandom  = "random"
)

// The brakes against robots.
const (
	BrakeNone    = "none"
	BrakeWork    = "work"
	BrakePicture = "picture"
)

// Bounds of a policy.
const (
	perSecondMost, perSecondDefault = 100_000, 100
	multipleMost, multipleDefault   = 1000, 3
	bitsLeast, bitsMost             = 8, 24
	bitsDefault                     = 16
	perAddressMost                  = 100_000
)

// Check fills in defaults and refuses what is out of bounds with CodeInvalid naming body.admission.<field>.
func (p *Policy) Check() error {
	for _, w := range []struct {
		name string
		v    *string
		of   []string
	}{
		{"order", &p.Order, []string{OrderArrival, OrderRandom}},
		{"brake", &p.Brake, []string{BrakeNone, BrakeWork, BrakePicture}},
	} {
		if *w.v == "" {
			*w.v = w.of[0]
		}
		ok := false
		allowed := "one of"
		for i, a := range w.of {
			ok = ok || *w.v == a
			if i > 0 {
				allowed += ","
			}
			allowed += " " + a
		}
		if !ok {
			return levee.Invalid("body.admission."+w.name, allowed, *w.v)
		}
	}
	for _, n := range []struct {
		name             string
		v                *int32
		def, least, most int32
		allowed          string
	}{
		{"per_second", &p.PerSecond, perSecondDefault, 1, perSecondMost, "a number from 1 to 100000"},
		{"multiple", &p.Multiple, multipleDefault, 1, multipleMost, "a number from 1 to 1000"},
		{"work_bits", &p.WorkBits, bitsDefault, bitsLeast, bitsMost, "a number from 8 to 24"},
		{"per_address", &p.PerAddress, 0, 0, perAddressMost, "a number from 0 to 100000"},
	} {
		if *n.v == 0 {
			*n.v = n.def
		}
		if *n.v < n.least || *n.v > n.most {
			return levee.Invalid("body.admission."+n.name, n.allowed, *n.v)
		}
	}
	return nil
}

// Window is what the room must know of a sale. The owner of the sale gives a new one at each change of its terms.
type Window struct {
	Sale levee.SaleID
	// Public is the sale's sealed id, as it stands in paths and topics.
	Public      string
	Opens, Ends time.Time
	// Open is false while the sale is paused or stopped: places are kept, nobody is admitted.
	Open bool
	// Draw marks a sale in draw mode: nobody is admitted at all, who asks is told to enter the draw (CodeDrawOnly).
	Draw bool
	// Rehearsal sales admit invented buyers and operators only, and the others real accounts only.
	Rehearsal bool
	Policy    Policy
	// Free tells how many units could be sold now; with 0 or less nobody is admitted. Nil: there is no such bound. It is called
	// without any lock of this room held, some twenty times a second and once per first arrival, and must not block.
	Free func() int64
}
