package order

import (
	"time"

	"levee"
)

// CreatedBatch says that these orders exist now. One event stands for a whole settlement batch, so its key (the first
// order's id) does not order it before the later events of the other orders.
type CreatedBatch struct {
	Orders []levee.OrderID `json:"orders"`
	At     time.Time       `json:"at"`
}

// Paid says that an order's money is here. Revived marks an order which had been cancelled before.
type Paid struct {
	Order     levee.OrderID   `json:"order"`
	Buyer     levee.UserID    `json:"buyer"`
	Source    string          `json:"source"`
	SourceRef int64           `json:"source_ref"`
	Payment   levee.PaymentID `json:"payment"`
	Total     levee.Money     `json:"total"`
	Revived   bool            `json:"revived"`
	At        time.Time       `json:"at"`
}

// Cancelled says that an order was given up and its source has its units back.
type Cancelled struct {
	Order     levee.OrderID `json:"order"`
	Buyer     levee.UserID  `json:"buyer"`
	Source    string        `json:"source"`
	SourceRef int64         `json:"source_ref"`
	Reason    string        `json:"reason"`
	At        time.Time     `json:"at"`
}

// Shipped says that the goods are on their way.
type Shipped struct {
	Order    levee.OrderID `json:"order"`
	Buyer    levee.UserID  `json:"buyer"`
	Carrier  string        `json:"carrier"`
	Tracking string        `json:"tracking"`
	At       time.Time     `json:"at"`
}

// Completed says that the order reached its good end.
type Completed struct {
	Order levee.OrderID `json:"order"`
	Buyer levee.UserID  `json:"buyer"`
	At    time.Time     `json:"at"`
}

// Refunded says that the provider confirmed that the money went back. Shipped tells whether the goods had left before.
type Refunded struct {
	Order     levee.OrderID `json:"order"`
	Buyer     levee.UserID  `json:"buyer"`
	Source    string        `json:"source"`
	SourceRef int64         `json:"source_ref"`
	Total     levee.Money   `json:"total"`
	Shipped   bool          `json:"shipped"`
	At        time.Time     `json:"at"`
}

// EventName is the name the event is kept under.
func (CreatedBatch) EventName() string { return "order.created.v1" }

// EventName is the name the event is kept under.
func (Paid) EventName() string { return "order.paid.v1" }

// EventName is the name the event is kept under.
func (Cancelled) EventName() string { return "order.cancelled.v1" }

// EventName is the name the event is kept under.
func (Shipped) EventName() string { return "order.shipped.v1" }

// EventName is the name the event is kept under.
func (Completed) EventName() string { return "order.completed.v1" }

// EventName is the name the event is kept under.
func (Refunded) EventName() string { return "order.refunded.v1" }

// EventKey is the first order of the batch.
func (e CreatedBatch) EventKey() int64 {
	if len(e.Orders) == 0 {
		return 0
	}
	return int64(e.Orders[0])
}

// EventKey is the order.
func (e Paid) EventKey() int64 { return int64(e.Order) }

// EventKey is the order.
func (e Cancelled) EventKey() int64 { return int64(e.Order) }

// EventKey is the order.
func (e Shipped) EventKey() int64 { return int64(e.Order) }

// EventKey is the order.
func (e Completed) EventKey() int64 { return int64(e.Order) }

// EventKey is the order.
func (e Refunded) EventKey() int64 { return int64(e.Order) }
