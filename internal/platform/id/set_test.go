package id

import (
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"levee"
)

func mustSet(t testing.TB, n int, lead time.Duration) *Set {
	t.Helper()
	s, err := OpenSet(t.Context(), Config{Dir: t.TempDir(), Lead: lead}, n, quiet(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSet(t *testing.T) {
	for _, lead := range []time.Duration{0, Strict} {
		s := mustSet(t, 4, lead)
		if w := s.Workers(); !slices.Equal(w, []int{0, 1, 2, 3}) {
			t.Errorf("workers %v", w)
		}
		var mu sync.Mutex
		var all []int64
		var wg sync.WaitGroup
		worst := time.Duration(math.MinInt64)
		for range 4 {
			wg.Go(func() {
				var got []int64
				high := map[int64]int64{}
				buf := make([]int64, 10_000)
				for i := range 40 {
					dst := buf[:1+i%2*9999]
					if i%3 == 0 {
						id, err := s.Next()
						if err != nil {
							t.Error(err)
							return
						}
						dst = dst[:1]
						dst[0] = id
					} else if err := s.NextN(dst); err != nil {
						t.Error(err)
						return
					}
					lag := time.Until(TimeOf(dst[len(dst)-1]))
					for _, id := range dst {
						worker := id >> seqBits & (maxWorkers - 1)
						if id <= high[worker] {
							t.Errorf("%d after %d of one worker", id, high[worker])
						}
						high[worker] = id
					}
					got = append(got, dst...)
					mu.Lock()
					worst = max(worst, lag)
					mu.Unlock()
				}
				mu.Lock()
				defer mu.Unlock()
				all = append(all, got...)
			})
		}
		wg.Wait()
		if lead == Strict && worst > 0 {
			t.Errorf("strict, and %v ahead of the clock", worst)
		}
		if d := duplicates(all); d != 0 {
			t.Errorf("%d duplicates in %d", d, len(all))
		}
		// Strict, what is asked for a Unit later is above, whichever worker gives it.
		for range 200 {
			if lead != Strict {
				break
			}
			a, _ := s.Next()
			time.Sleep(1100 * time.Microsecond)
			if b, err := s.Next(); err != nil || b <= a {
				t.Fatalf("%d after %d, %v", b, a, err)
			}
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = s.Next() }); n != 0 {
			t.Errorf("Next allocates %v times", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Next(); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("after Close: %v", err)
		}
	}
	for _, n := range []int{-1, 0, 65} {
		if _, err := OpenSet(t.Context(), Config{Dir: t.TempDir()}, n, quiet(time.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%d workers: %v", n, err)
		}
	}
	few := Layout{Epoch: Default.Epoch, Unit: time.Millisecond, TimeBits: 41, WorkerBits: 1, SeqBits: 12}
	dir := t.TempDir()
	if _, err := OpenSet(t.Context(), Config{Dir: dir, Space: "few", Layout: few}, 3, quiet(time.Now)); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("three of two workers: %v", err)
	}
	if s, err := OpenSet(t.Context(), Config{Dir: dir, Space: "few", Layout: few}, 2, quiet(time.Now)); err != nil || s.Close() != nil {
		t.Errorf("after a failed OpenSet numbers are still held: %v", err)
	}
}

// A worker whose number was taken over is left out; the others go on.
func TestSetWithoutOne(t *testing.T) {
	s := mustSet(t, 2, 0)
	s.all[0].mu.Lock()
	s.all[0].kill(errStolen)
	s.all[0].mu.Unlock()
	for range 100 {
		if id, err := s.Next(); err != nil || id>>seqBits&(maxWorkers-1) != 1 {
			t.Fatalf("%d, %v", id, err)
		}
	}
}

func benchmarkSet(b *testing.B, n int, lead time.Duration) {
	s := mustSet(b, n, lead)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Next(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkStrict1(b *testing.B) { benchmarkSet(b, 1, Strict) }
func BenchmarkStrict2(b *testing.B) { benchmarkSet(b, 2, Strict) }
func BenchmarkStrict4(b *testing.B) { benchmarkSet(b, 4, Strict) }
func BenchmarkSet4(b *testing.B)    { benchmarkSet(b, 4, 0) }
