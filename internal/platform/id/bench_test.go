package id

import (
	"sync/atomic"
	"testing"
	"time"

	"levee"
)

func BenchmarkFloorAtomicAdd(b *testing.B) {
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n.Add(1)
		}
	})
}

func BenchmarkFloorClock(b *testing.B) {
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = time.Now().UnixMilli()
		}
	})
}

func BenchmarkNext(b *testing.B) {
	g := mustOpen(b, Config{Dir: b.TempDir()}, time.Now)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := g.Next(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkNextN64PerID(b *testing.B) {
	g := mustOpen(b, Config{Dir: b.TempDir()}, time.Now)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ids := make([]int64, 64)
		for {
			for range ids {
				if !pb.Next() {
					return
				}
			}
			if err := g.NextN(ids); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkOpenAndClose(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if err := mustOpen(b, Config{Dir: dir}, time.Now).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendSeal(b *testing.B) {
	s := testSealer(b, 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 0, 32)
		for pb.Next() {
			buf = s.AppendSeal(buf[:0], levee.KindOrder, 247063142400000000)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s := testSealer(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Seal(levee.KindOrder, 247063142400000000)
	}
}

func BenchmarkUnseal(b *testing.B) {
	s := testSealer(b, 0)
	p := s.Seal(levee.KindOrder, 247063142400000000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Open(levee.KindOrder, p); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
