package payment

import (
	"time"

	"levee"
)

// Received says that money came, and what it did: paid, revived, already_paid or too_late. In the last two cases it is on
// its way back already.
type Received struct {
	Payment levee.PaymentID `json:"payment"`
	Order   levee.OrderID   `json:"order"`
	Buyer   levee.UserID    `json:"buyer"`
	Amount  levee.Money     `json:"amount"`
	Outcome string          `json:"outcome"`
	At      time.Time       `json:"at"`
}

// Returned says that a provider confirmed that money went back.
type Returned struct {
	Refund  levee.RefundID  `json:"refund"`
	Payment levee.PaymentID `json:"payment"`
	Order   levee.OrderID   `json:"order"`
	Amount  levee.Money     `json:"amount"`
	At      time.Time       `json:"at"`
}

// ReturnRefused says that a provider refused a refund for good: an operator has to see to it.
type ReturnRefused struct {
	Refund  levee.RefundID  `json:"refund"`
	Payment levee.PaymentID `json:"payment"`
	Order   levee.OrderID   `json:"order"`
	Amount  levee.Money     `json:"amount"`
	Reason  string          `json:"reason"`
	At      time.Time       `json:"at"`
}

// EventName is the name the event is kept under.
func (Received) EventName() string { return "payment.received.v1" }

// EventName is the name the event is kept under.
func (Returned) EventName() string { return "payment.returned.v1" }

// EventName is the name the event is kept under.
func (ReturnRefused) EventName() string { return "payment.return_refused.v1" }

// EventKey is the order.
func (e Received) EventKey() int64 { return int64(e.Order) }

// EventKey is the order.
func (e Returned) EventKey() int64 { return int64(e.Order) }

// EventKey is the order.
func (e ReturnRefused) EventKey() int64 { return int64(e.Order) }
