package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"levee"
	"levee/internal/platform/db"
)

// Parked deliveries are listed by listener, retried in the order of their keys, and discarded, and each act returns what it was about.
func TestParkedManagement(t *testing.T) {
	h := open(t)
	var bad atomic.Int64 // this N fails
	bad.Store(-1)
	b := h.bus(writer("sound"), Listen("bad", func(ctx context.Context, tx *db.Tx, e noted) error {
		if e.N == int(bad.Load()) {
			return errors.New("still")
		}
		return write(ctx, tx, "bad", e)
	}))
	h.drain(b)
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		for i := range 12 {
			if _, err := tx.Exec(ctx, `INSERT INTO event_parked (event_id, listener, name, event_key, payload, attempts, error, parked_at) VALUES (?, ?, ?, ?, ?, 12, 'no', ?)`,
				100+i, []string{"bad", "sound"}[i/10], noted{}.EventName(), i%3, fmt.Sprintf(`{"Key": %d, "N": %d}`, i%3, i), 1000-i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := b.ParkedOf(t.Context(), "bad", 102, 4)
	if err != nil || len(page) != 4 || page[0].EventID != 103 || page[3].EventID != 106 {
		t.Fatalf("%+v, %v", page, err)
	}
	if _, err := b.ParkedOf(t.Context(), "bad", 0, 1001); levee.CodeOf(err) != levee.CodeInvalid {
		t.Error(err)
	}
	gone, err := b.DiscardParked(t.Context(), 109, "bad")
	if err != nil || gone.EventID != 109 || gone.Payload == "" || gone.Listener != "bad" {
		t.Errorf("discarded %+v, %v", gone, err)
	}
	if _, err := b.DiscardParked(t.Context(), 109, "bad"); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("twice: %v", err)
	}
	bad.Store(4) // of the key 1, whose are 1, 4 and 7
	r, err := b.RetryParkedOf(t.Context(), "bad", 0, 5)
	if err != nil || len(r.Done) != 4 || len(r.Failed) != 1 || r.Failed[0].EventID != 104 || !strings.Contains(r.Failed[0].Error, "still") || r.Next != 104 {
		t.Errorf("%+v, %v", r, err)
	}
	bad.Store(4)
	r, err = b.RetryParkedOf(t.Context(), "bad", 0, 100)
	if err != nil || len(r.Done) != 3 || len(r.Failed) != 1 || r.Held != 1 || r.Next != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	bad.Store(-1)
	if r, err = b.RetryParkedOf(t.Context(), "bad", 0, 100); err != nil || len(r.Done) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if diff := cmp.Diff("0:0 1:1 2:2 0:3 2:5 0:6 2:8 1:4 1:7", h.effects("bad")); diff != "" {
		t.Error(diff)
	}
	if l := h.stats(b, "sound"); l.Parked != 2 {
		t.Errorf("%+v", l)
	}
	if _, err := h.bus().RetryParkedOf(t.Context(), "sound", 0, 10); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("no such listener: %v", err)
	}
}

// An event that one listener cannot read is parked whole, also when another one fails on its key meanwhile.
func TestParkedPayloadBesideAFailure(t *testing.T) {
	h := open(t)
	b := h.bus(Listen("fails", func(context.Context, *db.Tx, noted) error { return errors.New("no") }),
		writer2("cannot read", oneTwo()))
	h.emit(b, noted{Key: 1, N: 1, Text: "error"}, noted{Key: 1, N: 2, Text: "error"})
	h.drain(b)
	ps, err := b.ParkedOf(t.Context(), "cannot read", 0, 10)
	if err != nil || len(ps) != 2 || !strings.Contains(ps[0].Payload, `"N":1`) || !strings.Contains(ps[1].Payload, `"N":2`) {
		t.Errorf("%+v, %v", ps, err)
	}
}

// What waits for a listener is counted, also where others are through, and its age; the gauges show the same.
func TestStats(t *testing.T) {
	h := open(t)
	var broken atomic.Bool
	broken.Store(true)
	b := h.keeping(keptAll, writer("sound"), Listen("flaky", func(ctx context.Context, tx *db.Tx, e noted) error {
		if broken.Load() && e.Key == 1 {
			return errors.New("not yet")
		}
		return nil
	}))
	stop := h.run(b)
	defer stop()
	h.emit(b, noted{Key: 1, N: 0}, noted{Key: 2, N: 0}, noted{Key: 1, N: 1})
	h.drain(b)
	time.Sleep(20 * time.Millisecond)
	s, err := b.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Relays || s.Waiting != 2 || s.Oldest < 10*time.Millisecond || s.Log.First < 1 || s.Log.Last < 3 || len(s.Listeners) != 2 {
		t.Errorf("%+v", s)
	}
	flaky, sound := s.Listeners[0], s.Listeners[1]
	if flaky.Name != "flaky" || flaky.Waiting != 2 || flaky.Oldest < 10*time.Millisecond || !flaky.Here || flaky.Behind {
		t.Errorf("%+v", flaky)
	}
	if sound.Waiting != 0 || sound.Oldest != 0 || sound.PerSecond <= 0 {
		t.Errorf("%+v", sound)
	}
	stop()
	stop = h.run(b) // the gauges are read when a term begins
	h.until("the gauge", func() bool { return h.metric("levee_event_waiting")["flaky"] == 2 })
	broken.Store(false)
	h.until("all is through", func() bool { return h.stats(b, "flaky").Waiting == 0 })
	if lag := h.metric("levee_event_lag_seconds"); lag["sound"] != 3 || lag["flaky"] != 3 {
		t.Errorf("the lag of each listener: %v", lag)
	}
}

// metric returns what a gauge shows, or how often a histogram has seen something, by listener.
func (h *house) metric(name string) map[string]float64 {
	h.t.Helper()
	all, err := h.o.Metrics.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}
