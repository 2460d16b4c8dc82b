package bridge

import (
	"context"
	"testing"
	"time"

	"levee/internal/platform/db"
)

// TestCatchUp carries out 20,000 events of 500 keys that have waited: from the broker's return to the empty queue.
func TestCatchUp(t *testing.T) {
	if testing.Short() {
		t.Skip("a measurement")
	}
	const many = 20_000
	forEach(t, func(t *testing.T, s *started) {
		topic := s.newTopic(t)
		s.proxy.Down()
		h := newHouse(t, s, Config{Out: []string{"*=" + topic}}, nil)
		h.stop()
		for n := 0; n < many; n += 1000 {
			if err := h.d.Tx(t.Context(), "fill", func(ctx context.Context, tx *db.Tx) error {
				for i := n; i < n+1000; i++ {
					if err := h.b.enqueue(ctx, tx, "test.noted.v1", int64(i%500), []byte(`{"Key":1,"N":1,"Pad":"some text of an ordinary event"}`)); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.proxy.Up(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		h.run()
		until(t, "the queue is empty", time.Minute, func() bool { return h.count(t, `SELECT COUNT(*) FROM (SELECT id FROM bridge_out LIMIT 1) x`) == 0 })
		took := time.Since(began)
		t.Logf("%d events in %v: %.0f/s", many, took.Round(time.Millisecond), many/took.Seconds())
	})
}
