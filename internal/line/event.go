package line

import (
	"time"

	"levee"
)

// Offered says that an entry's turn came: its buyer has an order to pay by a deadline.
type Offered struct {
	Entry    levee.EntryID `json:"entry"`
	Sale     levee.SaleID  `json:"sale"`
	Buyer    levee.UserID  `json:"buyer"`
	Order    levee.OrderID `json:"order"`
	Quantity int32         `json:"quantity"`
	PayBy    time.Time     `json:"pay_by"`
}

// Lost says that an entry's chance is gone: its offer lapsed, or it was passed over. Entries that still wait when the sale ends
// are not told so one by one: the sale's own event says it for all.
type Lost struct {
	Entry  levee.EntryID `json:"entry"`
	Sale   levee.SaleID  `json:"sale"`
	Buyer  levee.UserID  `json:"buyer"`
	Reason string        `json:"reason"` // ReasonUnpaid, ReasonCancelled or ReasonLimit
	At     time.Time     `json:"at"`
}

// Drawn says that a sale's draw is decided and its results are public.
type Drawn struct {
	Sale    levee.SaleID `json:"sale"`
	Entries int64        `json:"entries"`
	Winners int64        `json:"winners"`
	At      time.Time    `json:"at"`
}

// EventName is the name the event is kept under.
func (Offered) EventName() string { return "line.offered.v1" }

// EventName is the name the event is kept under.
func (Lost) EventName() string { return "line.lost.v1" }

// EventName is the name the event is kept under.
func (Drawn) EventName() string { return "line.drawn.v1" }

// EventKey keeps the events of one entry in order.
func (e Offered) EventKey() int64 { return int64(e.Entry) }

// EventKey keeps the events of one entry in order.
func (e Lost) EventKey() int64 { return int64(e.Entry) }

// EventKey is the sale.
func (e Drawn) EventKey() int64 { return int64(e.Sale) }
