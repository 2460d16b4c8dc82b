package id

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/filelock"
)

func mustOpen(t testing.TB, cfg Config, clock func() time.Time) *Generator {
	t.Helper()
	g, err := Open(context.Background(), cfg, quiet(clock))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

func mustNext(t testing.TB, g *Generator) int64 {
	t.Helper()
	id, err := g.Next()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestLayout(t *testing.T) {
	clock := newWrongClock()
	dir := t.TempDir()
	g0 := mustOpen(t, Config{Dir: dir}, clock.Now)
	g1 := mustOpen(t, Config{Dir: dir}, clock.Now)
	a, b := mustNext(t, g0), mustNext(t, g1)
	if g0.Worker() != 0 || g1.Worker() != 1 {
		t.Errorf("workers %d and %d", g0.Worker(), g1.Worker())
	}
	if b-a != 1<<seqBits {
		t.Errorf("the worker is not in its place: %x %x", a, b)
	}
	if got := TimeOf(a); !got.Equal(clock.Now()) {
		t.Errorf("TimeOf = %v, want %v", got, clock.Now())
	}
	if a <= 0 {
		t.Errorf("id %d", a)
	}
	if last := int64(maxMillis-1)<<22 | (maxWorkers-1)<<12 | seqMask; last != 1<<63-1 || TimeOf(last).Year() != 2094 {
		t.Errorf("the last id is %d of %v", last, TimeOf(last))
	}
	clock.step(5 * time.Second)
	if c := mustNext(t, g0); !TimeOf(c).Equal(clock.Now()) {
		t.Errorf("TimeOf = %v, want %v", TimeOf(c), clock.Now())
	}
}

func TestNextN(t *testing.T) {
	clock := newWrongClock()
	g := mustOpen(t, Config{Dir: t.TempDir()}, clock.Now)
	if err := g.NextN(nil); err != nil {
		t.Fatal(err)
	}
	before := mustNext(t, g)
	ids := make([]int64, 3*reserveMost+17)
	if err := g.NextN(ids); err != nil {
		t.Fatal(err)
	}
	last := before
	for i, id := range ids {
		// Alone, a caller gets every number of a millisecond, and then the next millisecond.
		if id != last+1 && id != (last>>22+1)<<22 {
			t.Fatalf("ids[%d] = %x after %x", i, id, last)
		}
		last = id
	}
	if id := mustNext(t, g); id <= last {
		t.Fatalf("%d after %d", id, last)
	}
}

// A clean restart need not skip to the horizon; a kill must; neither may go back.
func TestRestart(t *testing.T) {
	for _, step := range []time.Duration{0, -time.Millisecond, -3 * time.Hour, 3 * time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			clock := newWrongClock()
			cfg := Config{Dir: t.TempDir(), Ahead: 3 * time.Second}
			g := mustOpen(t, cfg, clock.Now)
			a := mustNext(t, g)
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Next(); levee.CodeOf(err) != levee.CodeUnavailable {
				t.Errorf("Next after Close: %v", err)
			}
			if err := g.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			clock.step(step)
			g = mustOpen(t, cfg, clock.Now)
			b := mustNext(t, g)
			if want := max(TimeOf(a).Add(time.Millisecond).UnixMilli(), clock.Now().UnixMilli()); TimeOf(b).UnixMilli() != want {
				t.Errorf("after a clean restart ids begin at %v, want %v", TimeOf(b).UnixMilli(), want)
			}
			g.crash()
			g = mustOpen(t, cfg, clock.Now)
			c := mustNext(t, g)
			if ahead := TimeOf(c).Sub(TimeOf(b)); ahead < 3*time.Second || ahead > 3*time.Second+time.Millisecond || c <= b {
				t.Errorf("after a kill ids begin %v after the last", ahead)
			}
			if g.Worker() != 0 {
				t.Errorf("worker %d", g.Worker())
			}
		})
	}
}

// A clock that is set back by hours must not stop ids, for hours or at all.
func TestClockStepsBackWithinALife(t *testing.T) {
	clock := newWrongClock()
	g := mustOpen(t, Config{Dir: t.TempDir()}, clock.Now)
	a := mustNext(t, g)
	clock.step(-5 * time.Hour)
	began := time.Now()
	last := a
	for range 100_000 {
		id := mustNext(t, g)
		if id <= last {
			t.Fatalf("%d after %d", id, last)
		}
		last = id
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	if ahead := TimeOf(last).Sub(TimeOf(a)); ahead > 30*time.Millisecond {
		t.Errorf("100,000 ids moved their time by %v", ahead)
	}
}

func TestClockBeyondTheLayoutIsIgnored(t *testing.T) {
	clock := newWrongClock()
	g := mustOpen(t, Config{Dir: t.TempDir()}, clock.Now)
	a := mustNext(t, g)
	good := clock.ms.Load()
	for _, ms := range []int64{0, -5, epochMillis - 1, epochMillis + maxMillis, 1 << 50} {
		clock.ms.Store(ms)
		b := mustNext(t, g)
		if b != a+1 {
			t.Errorf("clock at %d: %x after %x", ms, b, a)
		}
		a = b
	}
	clock.ms.Store(good)

	// Before the epoch the first id of a new folder still is a proper one.
	clock.ms.Store(0)
	if id := mustNext(t, mustOpen(t, Config{Dir: t.TempDir()}, clock.Now)); id <= 0 {
		t.Errorf("id %d", id)
	}

	// And at the very end there is an error, not a negative number.
	clock.ms.Store(good)
	g = mustOpen(t, Config{Dir: t.TempDir()}, clock.Now)
	clock.ms.Store(epochMillis + maxMillis - 2)
	ids := make([]int64, 1<<seqBits)
	for i := range 3 {
		err := g.NextN(ids)
		if i < 2 && err != nil {
			t.Fatal(err)
		}
		if i == 2 && levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("past the end: %v", err)
		}
		if ids[0] <= 0 {
			t.Errorf("id %d", ids[0])
		}
	}
}

func TestDiskFails(t *testing.T) {
	clock := newWrongClock()
	m := &machine{rng: newRand(1), durable: map[string][]byte{}}
	dir := t.TempDir()
	g, err := open(t.Context(), Config{Dir: dir}, quiet(clock.Now), options{claim: claimOptions{wrap: m.wrap}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	last := mustNext(t, g)
	m.fail.Store(true)
	clock.step(2900 * time.Millisecond) // inside the horizon all is well
	last = max(last, mustNext(t, g))
	clock.step(time.Second)
	for range 3 {
		_, err := g.Next()
		e := levee.E(levee.CodeInternal, "none")
		if levee.CodeOf(err) != levee.CodeUnavailable || !errors.As(err, &e) || e.RetryAfter <= 0 {
			t.Fatalf("beyond the horizon on a failing disk: %v", err)
		}
	}
	if _, err := open(t.Context(), Config{Dir: dir}, quiet(clock.Now), options{claim: claimOptions{wrap: m.wrap}}); err == nil {
		t.Error("a generator was opened on a disk that fails")
	}
	m.fail.Store(false)
	g.mu.Lock()
	g.failedAt = time.Time{} // instead of waiting out the pause
	g.mu.Unlock()
	if id := mustNext(t, g); id <= last {
		t.Errorf("%d after %d", id, last)
	}
}

func TestWorkerFileTakenAway(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"deleted":  os.Remove,
		"replaced": func(p string) error { return copyOver(p) },
		"emptied":  func(p string) error { return os.Truncate(p, 0) },
		"written by another": func(p string) error {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			r := record{turn: 1000, horizon: 5, owner: strings.Repeat("e", 32)}
			_, err = f.WriteAt(r.append(nil), 0)
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newWrongClock()
			dir := t.TempDir()
			g := mustOpen(t, Config{Dir: dir}, clock.Now)
			mustNext(t, g)
			if err := harm(filepath.Join(dir, "worker-0000")); err != nil {
				t.Fatal(err)
			}
			mustNext(t, g) // up to the horizon nobody else's ids can be met
			clock.step(10 * time.Second)
			for range 2 {
				if _, err := g.Next(); levee.CodeOf(err) != levee.CodeUnavailable {
					t.Fatalf("an id was given past the horizon of a lost file: %v", err)
				}
			}
			if err := g.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

func TestDamagedWorkerFile(t *testing.T) {
	clock := newWrongClock()
	dir := t.TempDir()
	cfg := Config{Dir: dir, Ahead: time.Second}
	path := filepath.Join(dir, "worker-0000")
	g := mustOpen(t, cfg, clock.Now)
	last := mustNext(t, g)
	g.crash()

	// One record damaged: whichever it was, the next life stays above the last.
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{5, slotSize + 5} {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		g := mustOpen(t, cfg, clock.Now)
		if id := mustNext(t, g); id <= last || g.Worker() != 0 {
			t.Errorf("byte %d: %d of worker %d after %d", at, id, g.Worker(), last)
		}
		g.crash()
	}

	// Both damaged: the number is left out.
	if err := os.WriteFile(path, []byte("not a worker file"), 0o644); err != nil {
		t.Fatal(err)
	}
	if g := mustOpen(t, cfg, clock.Now); g.Worker() != 1 {
		t.Errorf("worker %d, want 1", g.Worker())
	}
}

func TestAllWorkersTaken(t *testing.T) {
	dir := t.TempDir()
	for i := range maxWorkers {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("worker-%04d", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if ok, err := filelock.Try(f); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	_, err := Open(t.Context(), Config{Dir: dir}, quiet(time.Now))
	if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	for _, d := range []time.Duration{time.Millisecond, -time.Second, 2 * time.Hour} {
		if _, err := Open(t.Context(), Config{Dir: t.TempDir(), Ahead: d}, quiet(time.Now)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("Ahead %v: %v", d, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: filepath.Join(file, "id")}, quiet(time.Now)); err == nil {
		t.Error("a folder below a file was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{Dir: t.TempDir()}, quiet(time.Now)); err == nil {
		t.Error("Open ignored a cancelled context")
	}
}

// The keeper spares callers the flush: with it running, the horizon is ahead before anyone reaches it; without ids, the file
// is left alone.
func TestHorizonIsMovedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := func() time.Time { return time.Now().AddDate(30, 0, 0) } // a bubble's time begins in 2000
		g, err := Open(t.Context(), Config{Dir: t.TempDir()}, quiet(clock))
		if err != nil {
			t.Fatal(err)
		}
		writes := func() int64 {
			synctest.Wait()
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.claim.(*claim).turn
		}
		began := writes()
		for range 300 {
			id := mustNext(t, g)
			synctest.Wait()
			left := time.UnixMilli(g.limit.Load()>>seqBits + epochMillis).Sub(TimeOf(id))
			if left < 900*time.Millisecond || left > 3001*time.Millisecond {
				t.Fatalf("the horizon is %v ahead", left)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := writes() - began; n < 10 || n > 31 {
			t.Errorf("%d writes in 30 s", n)
		}
		time.Sleep(2 * time.Second)
		began = writes()
		time.Sleep(time.Hour)
		if n := writes() - began; n != 0 {
			t.Errorf("an idle generator wrote %d times", n)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	g := mustOpen(t, Config{Dir: t.TempDir(), Ahead: time.Hour}, time.Now)
	if n := testing.AllocsPerRun(1000, func() { mustNext(t, g) }); n != 0 {
		t.Errorf("Next allocates %v times", n)
	}
	ids := make([]int64, 64)
	if n := testing.AllocsPerRun(1000, func() {
		if err := g.NextN(ids); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("NextN allocates %v times", n)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(record{turn: 1, horizon: 0, owner: strings.Repeat("0", 32)}.append(nil))
	f.Add(record{turn: 1<<63 - 1, horizon: maxMillis, owner: strings.Repeat("f", 32)}.append(nil))
	f.Add([]byte("levee-id 1 turn=-000000000000000001"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parseRecord(b)
		if !ok {
			return
		}
		if again := r.append(nil); len(again) != recordSize || string(again) != string(b[:recordSize]) {
			t.Errorf("%q reads as %+v, which is written %q", b, r, again)
		}
		if r.turn < 1 || r.horizon < 0 || r.horizon > maxMillis {
			t.Errorf("%+v", r)
		}
	})
}
