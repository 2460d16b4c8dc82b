package cache

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"levee"
)

// sampledNode looks into every read, soon.
func sampledNode(t *testing.T, addr string) *Shared[int, int64] {
	t.Helper()
	cfg := SharedConfig{Sample: 1, Config: Config{Name: t.Name(), TTL: time.Hour}}
	s := node[int64](t, addr, cfg)
	s.sampleAfter = 20 * time.Millisecond // before the first read
	return s
}

func (s *Shared[K, V]) looked(t *testing.T, result string) int {
	t.Helper()
	return int(counter(t, s.m.samples.WithLabelValues(s.cfg.Name, result)))
}

// Staleness that is put in on purpose is counted; what is right, or changed in between, is not.
func TestSampler(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		var d table
		var fail atomic.Bool
		load := func(ctx context.Context, k int) (int64, int64, error) {
			if fail.Load() {
				return 0, 0, levee.E(levee.CodeUnavailable, "down")
			}
			v, ver, err := d.load(ctx, k)
			if v == 0 {
				return 0, 0, levee.E(levee.CodeNotFound, "none")
			}
			return v, ver, err
		}
		s := sampledNode(t, addr)
		wait := func(result string, read func()) {
			t.Helper()
			was := map[string]int{}
			for _, r := range []string{"ok", "stale", "ahead", "error"} {
				was[r] = s.looked(t, r)
			}
			for range 3 { // the first one loads, and with one level is no sample
				read()
			}
			eventually(t, "a sample is "+result, func() bool { return s.looked(t, result) > was[result] })
			eventually(t, "all are looked into", func() bool { return len(s.samples) == 0 })
			time.Sleep(150 * time.Millisecond)
			for r, n := range was {
				if r != result && s.looked(t, r) != n {
					t.Errorf("a sample is %s, want %s", r, result)
				}
			}
		}
		get := func(k int) func() { return func() { _, _ = s.Get(background, k, load) } }
		d.version[1].Store(1)
		wait("ok", get(1))
		d.version[1].Store(2) // nobody says so
		wait("stale", get(1))
		if err := s.Invalidate(background, Change[int]{1, 2}); err != nil {
			t.Fatal(err)
		}
		wait("ok", get(1))
		// Changed after the read and before the look: no fault of the cache.
		d.version[2].Store(1)
		wait("ok", func() {
			get(2)()
			get(2)()
			d.version[2].Add(1)
			if err := s.Invalidate(background, Change[int]{2, d.version[2].Load()}); err != nil {
				t.Error(err)
			}
		})
		wait("ok", get(3)) // none
		d.version[3].Store(1)
		wait("stale", get(3)) // made, and nobody says so
		d.version[4].Store(5)
		get(4)()
		d.version[4].Store(0)
		wait("stale", get(4)) // deleted, and nobody says so
		d.version[5].Store(9)
		get(5)()
		d.version[5].Store(8)
		wait("ahead", get(5)) // a backup was restored
		d.version[6].Store(1)
		get(6)()
		fail.Store(true)
		wait("error", get(6))
	})
}

// However much is read, few samples are looked into.
func TestSamplerIsBounded(t *testing.T) {
	s := sampledNode(t, "")
	var d table
	d.version[1].Store(1)
	began := time.Now()
	for time.Since(began) < time.Second {
		if _, err := s.Get(background, 1, d.load); err != nil {
			t.Fatal(err)
		}
	}
	most := int64(time.Since(began)/sampleApart) + 3
	if n := d.loads.Load(); n > most || n < 3 {
		t.Errorf("%d loads in a second of reads that are all samples, want a few and at most %d", n, most)
	}
	none := node[int64](t, "", SharedConfig{Sample: -1})
	for range 10_000 {
		_, _ = none.Get(background, 1, d.load)
	}
	if len(none.samples) > 0 {
		t.Error("samples were taken although none were asked for")
	}
}
