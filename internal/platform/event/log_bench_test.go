package event

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// BenchmarkKept is BenchmarkRelay with one listener, and with the events kept.
func BenchmarkKept(b *testing.B) {
	for _, kept := range []bool{false, true} {
		b.Run(fmt.Sprintf("kept=%v", kept), func(b *testing.B) {
			h := openDir(b, b.TempDir(), quiet(b))
			bus := h.keepingBus(b, kept, writer("a"))
			h.fill(bus, b.N)
			b.ResetTimer()
			h.drain(bus)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkReplay sends a listener back to the start of a log.
func BenchmarkReplay(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	bus := h.keepingBus(b, true, writer("a"))
	h.fill(bus, b.N)
	h.drain(bus)
	stop := h.run(bus)
	defer stop()
	b.ResetTimer()
	if _, err := bus.Replay(context.Background(), "a", Start()); err != nil {
		b.Fatal(err)
	}
	for h.count(`SELECT COUNT(*) FROM event_listener WHERE state = 1`) > 0 {
		time.Sleep(time.Millisecond)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	b.StopTimer()
	if n := h.count(`SELECT COUNT(*) FROM effect`); n != 2*b.N {
		b.Errorf("%d effects, want %d", n, 2*b.N)
	}
}

func (h *house) keepingBus(b *testing.B, kept bool, ls ...Listener) *Bus {
	cfg := Config{}
	if kept {
		cfg = keptAll
	}
	bus := Open(h.db, h.ids, h.o, cfg)
	if err := bus.Register(ls...); err != nil {
		b.Fatal(err)
	}
	return bus
}

// fill emits n events, each for its own key, 500 at once.
func (h *house) fill(bus *Bus, n int) {
	for i := 0; i < n; {
		var es []Event
		for ; i < n && len(es) < 500; i++ {
			es = append(es, noted{Key: int64(i), N: i})
		}
		h.emit(bus, es...)
	}
}
