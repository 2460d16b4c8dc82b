package event

import (
	"context"
	"io"
	"sync/atomic"
	"testing"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

func quiet(b *testing.B) *obs.Obs {
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	return o
}

// BenchmarkRelay delivers events that lie in the outbox, each for its own key, to listeners that write one row each.
func BenchmarkRelay(b *testing.B) {
	for _, bench := range []struct {
		name      string
		listeners []Listener
	}{
		{"one listener", []Listener{writer("a")}},
		{"two listeners", []Listener{writer("a"), writer("b")}},
		{"no effect", []Listener{Listen("a", func(context.Context, *db.Tx, noted) error { return nil })}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			h := openDir(b, b.TempDir(), quiet(b))
			bus := h.bus(bench.listeners...)
			for n := 0; n < b.N; {
				var es []Event
				for ; n < b.N && len(es) < 500; n++ {
					es = append(es, noted{Key: int64(n), N: n})
				}
				h.emit(bus, es...)
			}
			b.ResetTimer()
			h.drain(bus)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkThrough is the whole way under load: 64 callers emit one event per transaction while the relay delivers.
func BenchmarkThrough(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	bus := h.bus(writer("a"))
	stop := h.run(bus)
	defer stop()
	b.SetParallelism(32)
	var next atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := next.Add(1)
			h.emit(bus, noted{Key: n % 1000, N: int(n)})
		}
	})
	h.drain(bus)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkIdle is one event on an idle bus: from the call that emits it until it is delivered.
func BenchmarkIdle(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	heard := make(chan struct{}, 1)
	bus := h.bus(Listen("a", func(_ context.Context, tx *db.Tx, _ noted) error {
		tx.AfterCommit(func() { heard <- struct{}{} })
		return nil
	}))
	stop := h.run(bus)
	defer stop()
	for b.Loop() {
		h.emit(bus, noted{Key: 1, N: 1})
		<-heard
	}
}
