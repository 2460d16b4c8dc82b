package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"levee/internal/platform/obs"
)

// row is about what a product is in JSON: 200 bytes.
type row struct {
	ID          int64
	Title, Note string
	Price, Left int64
	Tags        []string
	Updated     time.Time
}

const benchKeys = 20_000

func loadRow(_ context.Context, k int) (row, int64, error) {
	return row{int64(k), fmt.Sprintf("Kettle, %d litres", k), "stainless steel, keeps warm for six hours", 4999, 120, []string{"kitchen", "steel"}, time.Unix(1_760_000_000, 0).UTC()}, 1, nil
}

// run reads from the given number of callers.
func run(b *testing.B, callers int, get func(k int)) {
	b.Helper()
	b.SetParallelism(max(callers/2, 1)) // GOMAXPROCS is 2 where the page's figures are from
	b.ReportAllocs()
	b.ResetTimer()
	was := spent()
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(rand.Uint64(), 1)) //nolint:gosec // chance, not secrecy
		z := rand.NewZipf(r, 1.01, 1, benchKeys-1)
		for pb.Next() {
			get(int(z.Uint64()))
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1000, "k/s")
	b.ReportMetric(float64(spent()-was)/float64(b.N), "cpu-ns/op")
}

// same reads one key again and again: the read itself, and not the memory that it finds.
func same(b *testing.B, get func()) {
	b.Helper()
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		was := spent()
		for range b.N {
			get()
		}
		b.ReportMetric(float64(spent()-was)/float64(b.N), "cpu-ns/op")
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		was := spent()
		defer func() { b.ReportMetric(float64(spent()-was)/float64(b.N), "cpu-ns/op") }()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				get()
			}
		})
	})
}

func BenchmarkFirstHit(b *testing.B) {
	process := New[int, row](Config{Entries: benchKeys}, obs.Test(b))
	load := func(ctx context.Context, k int) (row, error) { v, _, err := loadRow(ctx, k); return v, err }
	b.Run("process", func(b *testing.B) { same(b, func() { _, _ = process.Get(background, 7, load) }) })
	addr := startServer(b).addr()
	for name, addr := range map[string]string{"shared, one level": "", "shared, two levels": addr} {
		s := node[row](b, addr, SharedConfig{Config: Config{Name: name, Entries: benchKeys, TTL: time.Hour}})
		b.Run(name, func(b *testing.B) { same(b, func() { _, _ = s.Get(background, 7, loadRow) }) })
	}
}

func BenchmarkSecondHit(b *testing.B) {
	s := node[row](b, startServer(b).addr(), SharedConfig{MaxLoad: time.Minute, Config: Config{Entries: 100, TTL: time.Millisecond}})
	for k := range benchKeys {
		if _, err := s.Get(background, k, loadRow); err != nil {
			b.Fatal(err)
		}
	}
	strict := Strict(background)
	for _, callers := range []int{2, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			run(b, callers, func(k int) {
				if _, err := s.Get(strict, k, loadRow); err != nil {
					b.Error(err)
				}
			})
		})
	}
	b.Run("many=100", func(b *testing.B) {
		load := func(context.Context, []int) (map[int]Many[row], error) { b.Error("not there"); return nil, nil }
		keys := make([]int, 100)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			for j := range keys {
				keys[j] = (i*100 + j) % benchKeys
			}
			if _, err := s.GetMany(strict, keys, load); err != nil {
				b.Fatal(err)
			}
		}
	})
}
