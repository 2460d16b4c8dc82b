package sale

import (
	"time"

	"levee"
)

// StateChanged says that a sale was scheduled, paused, stopped, resumed, changed or ended.
type StateChanged struct {
	Sale    levee.SaleID
	State   State
	Version int64
	At      time.Time
}

// EventName is the event's name and version.
func (StateChanged) EventName() string { return "sale.state_changed.v1" }

// EventKey keeps the events of one sale in order.
func (e StateChanged) EventKey() int64 { return int64(e.Sale) }
