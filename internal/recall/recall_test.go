package recall

import (
	"errors"
	"testing"
	"time"

	"levee"
	"levee/internal/gate"
)

func TestOutcomesAreKeptForTheirTimeAndBounded(t *testing.T) {
	var m Memory
	now, why := time.Unix(1000, 0), errors.New("no")
	if m.Of(1) != (gate.Outcome{}) {
		t.Error("something is remembered that was never kept")
	}
	m.Keep(1, gate.Outcome{Err: why}, now)
	m.Keep(2, gate.Outcome{Existing: 7}, now.Add(time.Second))
	m.Sweep(now.Add(Kept))
	if m.Of(1).Err != why || m.Of(2).Existing != 7 {
		t.Error("forgotten too early")
	}
	m.Sweep(now.Add(Kept + time.Nanosecond))
	if m.Of(1) != (gate.Outcome{}) || m.Of(2).Existing != 7 {
		t.Error("the older one must be forgotten, and no other")
	}
	for id := range levee.ReservationID(atMost + 10) {
		m.Keep(id+10, gate.Outcome{Err: why}, now)
	}
	if n := len(m.why); n != atMost {
		t.Errorf("%d are kept, the bound is %d", n, atMost)
	}
}
