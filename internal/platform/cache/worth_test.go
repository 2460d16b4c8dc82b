package cache

import (
	"context"
	"testing"
	"time"
)

func TestWorth(t *testing.T) {
	const s = int64(time.Second)
	w := newWorth()
	step := func(now, asks, hits int64, changed, idle bool) {
		t.Helper()
		w.asks.Add(asks)
		w.hits.Add(hits)
		if got := w.judge(now * s); got != changed || w.idle.Load() != idle {
			t.Errorf("at %d s: changed %v, idle %v; want %v, %v", now, got, w.idle.Load(), changed, idle)
		}
	}
	step(1, 5000, 0, false, false)      // the window is not over
	step(301, 5000, 2001, false, false) // 20.01 %
	step(601, 999, 0, false, false)     // too few to say something
	step(901, 1000, 200, false, false)
	step(1201, 1000, 199, true, true)
	step(1500, 9000, 0, false, true) // it rests
	step(1801, 0, 0, true, false)    // and is tried again, whatever was in between
	step(1900, 1000, 0, false, false)
	w.forget() // what was stored is out of sight
	step(2101, 1000, 0, false, false)
	step(2300, 1000, 0, false, false)
	step(2401, 0, 0, true, true)
}

// A cache that never finds anything in the second level stops filling it, says so, still keeps its promises, and tries again.
func TestUselessSecondLevelIsNotFilled(t *testing.T) {
	srv := startServer(t)
	s := node[int64](t, srv.addr(), SharedConfig{})
	s.worth.forget()
	s.worth.window, s.worth.rest, s.worth.least = 200*time.Millisecond, 300*time.Millisecond, 50
	kept := func() int64 { n, _ := srv.do("DBSIZE").(int64); return n }
	read := func(k int) {
		t.Helper()
		if _, err := s.Get(background, k, func(context.Context, int) (int64, int64, error) { return 1, 1, nil }); err != nil {
			t.Fatal(err)
		}
	}
	next := 1000
	eventually(t, "it stops", func() bool {
		next++
		read(next)
		return s.worth.idle.Load()
	})
	if kept() < 50 {
		t.Errorf("%d keys were stored before", kept())
	}
	was := kept()
	for range 20 {
		next++
		read(next)
	}
	idle := s.worth.idle.Load()
	if now := kept(); idle && now != was {
		t.Errorf("%d keys more are stored while it is not filled", now-was)
	}
	var d table
	for v := int64(1); v < 20; v++ { // and no promise is broken
		d.version[1].Store(v)
		if err := s.Invalidate(background, Change[int]{1, v}); err != nil {
			t.Fatal(err)
		}
		for _, ctx := range []context.Context{background, Strict(background)} {
			if got, err := s.Get(ctx, 1, d.load); got != v || err != nil {
				t.Fatalf("%d, %v; want %d", got, err, v)
			}
		}
	}
	eventually(t, "it is tried again", func() bool { return !s.worth.idle.Load() })
	s.worth.forget()
	was = kept()
	for range 20 {
		next++
		read(next)
	}
	if now := kept(); now < was+20 && !s.worth.idle.Load() {
		t.Errorf("%d of 20 keys are stored", now-was)
	}
}

// What is read again and again goes on being stored: the control.
func TestUsefulSecondLevelIsFilled(t *testing.T) {
	s := node[int64](t, startServer(t).addr(), SharedConfig{})
	s.worth.window, s.worth.least = 100*time.Millisecond, 50
	var d table
	d.version[1].Store(1)
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		if _, err := s.Get(Strict(background), 1, d.load); err != nil {
			t.Fatal(err)
		}
	}
	if s.worth.idle.Load() || s.worth.asks.Load() < 50 {
		t.Errorf("not filled after %d reads of one key", s.worth.asks.Load())
	}
}
