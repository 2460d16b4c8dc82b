package cache

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
)

// wire stands between a node and its server, and can be cut, slowed and led elsewhere.
type wire struct {
	l        net.Listener
	upstream atomic.Pointer[string]
	down     atomic.Bool
	delay    atomic.Int64 // nanoseconds by which what comes back is late

	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
	all   sync.WaitGroup
}

func startWire(t testing.TB, upstream string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l, conns: map[net.Conn]struct{}{}}
	w.upstream.Store(&upstream)
	w.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if w.down.Load() {
				_ = c.Close()
				continue
			}
			w.all.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); w.cut(); w.all.Wait() })
	return w
}

func (w *wire) addr() string { return w.l.Addr().String() }

func (w *wire) carry(c net.Conn) {
	up, err := net.Dial("tcp", *w.upstream.Load())
	if err != nil {
		_ = c.Close()
		return
	}
	w.mu.Lock()
	w.conns[c], w.conns[up] = struct{}{}, struct{}{}
	w.mu.Unlock()
	if w.down.Load() {
		w.cut()
	}
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := up.Read(buf)
		if d := w.delay.Load(); d > 0 {
			time.Sleep(time.Duration(d))
		}
		if _, werr := c.Write(buf[:n]); err != nil || werr != nil {
			break
		}
	}
	w.mu.Lock()
	delete(w.conns, c)
	delete(w.conns, up)
	w.mu.Unlock()
	_ = c.Close()
	_ = up.Close()
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

// crowd reads at a fixed rate and is measured second by second.
type crowd struct {
	mu      sync.Mutex // guards the rest
	seconds []second
}

type second struct {
	took   []time.Duration
	idle   []time.Duration // how late somebody was woken who does nothing
	failed int
	loads  int64
}

func (s second) p99() time.Duration { return p99(s.took) }

// starved reports that the machine had other things to do: then times say nothing.
func (s second) starved() bool { return p99(s.idle) > 20*time.Millisecond }

func p99(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)*99/100]
}

// run offers rate reads a second for a time: each has a moment at which it should begin, from which it is measured.
func (c *crowd) run(seconds, rate int, loads *atomic.Int64, read func(k int) error) []second {
	c.seconds = make([]second, seconds)
	const workers = 64
	began := time.Now()
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(rand.Uint64(), 1)), 1.01, 1, drillKeys-1) //nolint:gosec // chance, not secrecy
			for i := w; i < seconds*rate; i += workers {
				due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
				time.Sleep(time.Until(due))
				err := read(int(zipf.Uint64()))
				took := time.Since(due)
				n := int(due.Sub(began) / time.Second)
				c.mu.Lock()
				c.seconds[n].took = append(c.seconds[n].took, took)
				if err != nil {
					c.seconds[n].failed++
				}
				c.mu.Unlock()
			}
		})
	}
	all.Go(func() {
		for i := range seconds * 200 {
			due := began.Add(time.Duration(i) * 5 * time.Millisecond)
			time.Sleep(time.Until(due))
			late := time.Since(due)
			c.mu.Lock()
			c.seconds[i/200].idle = append(c.seconds[i/200].idle, late)
			c.mu.Unlock()
		}
	})
	was := loads.Load()
	for i := range seconds {
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * time.Second)))
		now := loads.Load()
		c.mu.Lock()
		c.seconds[i].loads, was = now-was, now
		c.mu.Unlock()
	}
	all.Wait()
	return c.seconds
}

const (
	drillKeys = 4000
	drillRate = 2000
)

// Redis refused, slow, and silent: the database is asked no more than 1.5 times what is usual, reads are answered within 100 ms after
// the first second, and what was is again within a second of its return. The control falls through to the database.
func TestRedisAway(t *testing.T) {
	srv := startServer(t)
	w := startWire(t, srv.addr())
	cfg := SharedConfig{
		// Lifetimes are short so that there is something usual: values end, and copies do sooner.
		Config: Config{TTL: 300 * time.Millisecond, Entries: 3000}, Hard: 2 * time.Second, Soft: 2 * time.Second, Stale: time.Minute,
	}
	s := nodeFor[int64](t, w.addr(), cfg, 60*time.Millisecond)
	var loads atomic.Int64
	load := func(context.Context, int) (int64, int64, error) {
		loads.Add(1)
		time.Sleep(time.Millisecond)
		return 1, 1, nil
	}
	read := func(k int) error {
		_, err := s.Get(background, k, load)
		return err
	}
	length := 3
	if testing.Short() {
		length = 2
	}
	var c crowd
	normal := c.run(4, drillRate, &loads, read)
	usual := int64(0)
	for _, n := range normal[1:] {
		usual = max(usual, n.loads)
		if n.failed > 0 && !n.starved() {
			t.Errorf("%d errors before anything happened", n.failed)
		}
	}
	t.Logf("usual: %d loads a second, p99 %v", usual, normal[3].p99())
	if usual < 50 {
		t.Fatalf("%d loads a second are too few to compare with", usual)
	}
	for _, fault := range []struct {
		name      string
		on, off   func()
		recovered func() bool
	}{
		{name: "refused", on: func() { w.down.Store(true); w.cut() }, off: func() { w.down.Store(false) }},
		{name: "800 ms late", on: func() { w.delay.Store(int64(800 * time.Millisecond)) }, off: func() { w.delay.Store(0) }},
		{name: "stopped", on: srv.pause, off: srv.resume},
	} {
		fault.on()
		seconds := c.run(length, drillRate, &loads, read)
		if !s.remote.away.Load() {
			t.Errorf("%s: nobody noticed", fault.name)
		}
		for i, n := range seconds {
			t.Logf("%s, second %d: %d reads, p99 %v, %d loads, %d refused", fault.name, i+1, len(n.took), n.p99(), n.loads, n.failed)
			if n.loads > usual*3/2 && n.loads > 150 {
				t.Errorf("%s, second %d: %d loads, usual are %d", fault.name, i+1, n.loads, usual)
			}
			if n.starved() {
				t.Logf("%s, second %d is not judged: the machine is busy with other things", fault.name, i+1)
				continue
			}
			if i > 0 && n.p99() > 100*time.Millisecond {
				t.Errorf("%s, second %d: p99 %v", fault.name, i+1, n.p99())
			}
			if i > 0 && n.failed > len(n.took)/4 {
				t.Errorf("%s, second %d: %d of %d reads refused", fault.name, i+1, n.failed, len(n.took))
			}
		}
		fault.off()
		back := time.Now()
		eventually(t, "Redis is asked again", func() bool { return !s.remote.away.Load() })
		took := time.Since(back)
		after := c.run(2, drillRate, &loads, read)
		t.Logf("%s: asked again after %v; then p99 %v, %d loads, %d refused", fault.name, took.Round(time.Millisecond), after[1].p99(), after[1].loads, after[1].failed)
		if (took > time.Second || after[1].failed > 0) && !after[0].starved() && !after[1].starved() {
			t.Errorf("%s: asked again after %v, %d errors in the second second", fault.name, took, after[1].failed)
		}
	}
	// The control: what most do.
	plain := goredis.NewClient(&goredis.Options{Addr: w.addr(), ReadTimeout: 60 * time.Millisecond, DialTimeout: 60 * time.Millisecond, DialerRetries: 1, PoolSize: 100, MaxRetries: -1})
	defer func() { _ = plain.Close() }()
	w.down.Store(true)
	w.cut()
	was := loads.Load()
	_ = c.run(2, drillRate, &loads, func(k int) error {
		if plain.Get(background, "x").Err() != nil {
			_, _, err := load(background, k)
			return err
		}
		return nil
	})
	if n := (loads.Load() - was) / 2; n <= usual*3/2 {
		t.Errorf("the control loaded %d a second, usual are %d: this test cannot see what it looks for", n, usual)
	}
}

// A cold node whose Redis is away refuses what it may not load, and says when to come again.
func TestBoundedLoads(t *testing.T) {
	srv := startServer(t)
	s := node[int64](t, srv.addr(), SharedConfig{AwayLoads: 100, Loads: 4})
	srv.kill()
	var calls, under, most atomic.Int64
	load := func(context.Context, int) (int64, int64, error) {
		calls.Add(1)
		raise(&most, under.Add(1))
		defer under.Add(-1)
		time.Sleep(5 * time.Millisecond)
		return 1, 1, nil
	}
	eventually(t, "it is noticed", func() bool {
		_, _ = s.Get(background, 1, load)
		return s.remote.away.Load()
	})
	calls.Store(0)
	began := time.Now()
	var refused int
	var mu sync.Mutex // guards refused
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 20 {
				ctx := background
				if j%2 == 0 {
					ctx = Strict(ctx)
				}
				_, err := s.Get(ctx, 100+i*20+j, load)
				time.Sleep(20 * time.Millisecond)
				var e *levee.Error
				if err == nil {
					continue
				}
				if !errors.As(err, &e) || e.Code != levee.CodeUnavailable || e.RetryAfter <= 0 {
					t.Errorf("%v, want unavailable with a time", err)
				}
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	allowed := 100*time.Since(began).Seconds() + 11
	if n := calls.Load(); float64(n) > allowed || n == 0 || most.Load() > 4 || refused == 0 {
		t.Errorf("%d loads where %.0f are allowed, %d at a time, %d refused", n, allowed, most.Load(), refused)
	}
	// What this node changes shows here, although Redis cannot be told.
	var d table
	d.version[1].Store(5)
	if err := s.Invalidate(background, Change[int]{1, 5}); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("a change that Redis did not take: %v", err)
	}
	eventually(t, "the change shows", func() bool {
		v, err := s.Get(background, 1, d.load)
		return v == 5 && err == nil
	})
	// And Redis is told when it is back, before it is asked.
	srv.start()
	eventually(t, "Redis is asked again", func() bool { return !s.remote.away.Load() })
	f, _, err := s.remote.get(background, "1")
	if err != nil || f.version != 5 {
		t.Errorf("what was owed: version %d, %v", f.version, err)
	}
}

// More is owed than can be kept: everything is put out of sight.
func TestTooMuchOwed(t *testing.T) {
	srv := startServer(t)
	a, b := node[int64](t, srv.addr(), SharedConfig{}), node[int64](t, srv.addr(), SharedConfig{})
	var d table
	d.version[1].Store(1)
	if _, err := b.Get(background, 1, d.load); err != nil {
		t.Fatal(err)
	}
	old, err := a.remote.settled(background)
	if err != nil {
		t.Fatal(err)
	}
	d.version[1].Store(2)
	list := map[int]int64{1: 2}
	for k := range owedMost {
		list[1000+k] = 1
	}
	a.owe(list)
	eventually(t, "the epoch is another on both nodes", func() bool {
		e := b.remote.epoch.Load()
		return !a.owes() && e.name != old.name && a.remote.epoch.Load().name == e.name
	})
	if v, err := b.Get(background, 1, d.load); v != 2 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
}

// A server that was emptied has forgotten its tombstones.
func TestEmptiedServer(t *testing.T) {
	srv := startServer(t)
	s := node[int64](t, srv.addr(), SharedConfig{})
	e, err := s.remote.settled(background)
	if err != nil {
		t.Fatal(err)
	}
	srv.do("FLUSHALL")
	eventually(t, "a new epoch begins", func() bool { return s.remote.epoch.Load().name != e.name })
}

// A replica that lagged takes the server's place. It has an old value where its primary had a tombstone: that must not be seen, by
// strict reads ever and by others but for milliseconds. The control looks at what the replica itself would have answered.
func TestFailOverToAReplicaThatLagged(t *testing.T) {
	old, promoted := startServer(t), startServer(t)
	w := startWire(t, old.addr())
	host, port, _ := net.SplitHostPort(old.addr())
	promoted.do("REPLICAOF", host, port)
	a, b := node[int64](t, w.addr(), SharedConfig{}), node[int64](t, w.addr(), SharedConfig{})
	var d table
	for k := range 5 {
		d.version[k].Store(4)
		if v, err := a.Get(background, k, d.load); v != 4 || err != nil {
			t.Fatal(v, err)
		}
		_, _ = b.Get(background, k, d.load)
	}
	e := a.remote.epoch.Load()
	rdb := goredis.NewClient(&goredis.Options{Addr: promoted.addr()})
	defer func() { _ = rdb.Close() }()
	eventually(t, "the replica has it", func() bool { return rdb.Exists(background, a.remote.keys(e, "4")[0]).Val() == 1 })
	promoted.do("REPLICAOF", "NO", "ONE") // from here on it lags
	for k := range 5 {
		d.version[k].Store(5)
		if err := a.Invalidate(background, Change[int]{k, 5}); err != nil {
			t.Fatal(err)
		}
	}
	to := promoted.addr()
	w.upstream.Store(&to)
	w.cut()
	for k := range 5 {
		for name, s := range map[string]*Shared[int, int64]{"a": a, "b": b} {
			eventually(t, "a strict read is answered", func() bool {
				v, err := s.Get(Strict(background), k, d.load)
				if err == nil && v != 5 {
					t.Fatalf("%s: a strict read of what was lost in the fail-over got version %d", name, v)
				}
				return err == nil
			})
		}
	}
	if text := rdb.Get(background, a.remote.keys(e, "0")[0]).Val(); parseStored(text).version != 4 {
		t.Errorf("the promoted server does not hold the old value (%q): this test cannot see what it looks for", text)
	}
	if now := a.remote.epoch.Load(); now.name == e.name || b.remote.epoch.Load().name != now.name {
		t.Error("the nodes are not in one new epoch")
	}
	// A change made now is in the new epoch for both.
	d.version[1].Store(6)
	if err := b.Invalidate(background, Change[int]{1, 6}); err != nil {
		t.Fatal(err)
	}
	if v, err := a.Get(Strict(background), 1, d.load); v != 6 || err != nil {
		t.Errorf("after the fail-over: %d, %v", v, err)
	}
}

// The database is away, and Redis has nothing: a copy past its time is better than none.
func TestDatabaseAway(t *testing.T) {
	s := node[int64](t, startServer(t).addr(), SharedConfig{Config: Config{TTL: 20 * time.Millisecond}, Hard: time.Second, Soft: time.Second})
	var d table
	d.version[1].Store(1)
	if v, err := s.Get(background, 1, d.load); v != 1 || err != nil {
		t.Fatal(v, err)
	}
	time.Sleep(1100 * time.Millisecond)
	down := func(context.Context, int) (int64, int64, error) { return 0, 0, levee.E(levee.CodeUnavailable, "down") }
	if v, err := s.Get(background, 1, down); v != 1 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	if _, err := s.Get(Strict(background), 1, down); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("strict: %v", err)
	}
}
