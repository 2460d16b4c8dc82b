package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

func TestSharedValidate(t *testing.T) {
	if err := (SharedConfig{}).Validate(); err != nil {
		t.Errorf("the zero config: %v", err)
	}
	for field, cfg := range map[string]SharedConfig{
		"cache.entries":    {Config: Config{Entries: -1}},
		"cache.hard":       {Hard: time.Millisecond},
		"cache.soft":       {Soft: 2 * time.Hour},
		"cache.stale":      {Stale: 48 * time.Hour},
		"cache.max_load":   {MaxLoad: time.Hour},
		"cache.max_lag":    {MaxLag: -1},
		"cache.loads":      {Loads: 1001},
		"cache.away_loads": {AwayLoads: -1},
	} {
		var e *levee.Error
		if err := cfg.Validate(); !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != field {
			t.Errorf("%+v: %v, want %s", cfg, err, field)
		}
		var d table
		d.version[1].Store(7)
		s := node[int64](t, "", cfg) // and works all the same
		if v, err := s.Get(background, 1, d.load); v != 7 || err != nil {
			t.Errorf("%+v: %d, %v", cfg, v, err)
		}
	}
}

// levels runs a test of the contract with one level and with two.
func levels(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("one level", func(t *testing.T) { test(t, "") })
	t.Run("two levels", func(t *testing.T) { test(t, startServer(t).addr()) })
}

func TestSharedContract(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		var d table
		d.version[1].Store(1)
		s := node[int64](t, addr, SharedConfig{})
		get := func(want, loads int64) {
			t.Helper()
			if v, err := s.Get(background, 1, d.load); v != want || err != nil || d.loads.Load() != loads {
				t.Fatalf("%d, %v after %d loads; want %d after %d", v, err, d.loads.Load(), want, loads)
			}
		}
		get(1, 1)
		get(1, 1)
		d.version[1].Store(2)
		get(1, 1) // nobody said so
		for range 2 {
			if err := s.Invalidate(background, Change[int]{1, 2}); err != nil {
				t.Fatal(err)
			}
		}
		get(2, 2)
		if err := s.Invalidate(background, Change[int]{1, 1}); err != nil { // late, and no news
			t.Fatal(err)
		}
		get(2, 2)
		if err := s.Invalidate(background, Change[int]{1, 0}); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("version 0: %v", err)
		}

		// Absence is kept as it was told, and ends with a creation.
		var calls atomic.Int64
		absent := func(context.Context, int) (int64, int64, error) {
			calls.Add(1)
			return 5, 5, levee.E(levee.CodeNotFound, "no such product").With("seen", "1")
		}
		for range 3 {
			v, err := s.Get(background, 2, absent)
			var e *levee.Error
			if v != 0 || !errors.As(err, &e) || e.Code != levee.CodeNotFound || e.Message != "no such product" || e.Data["seen"] != "1" || calls.Load() != 1 {
				t.Fatalf("%d, %v, %d loads", v, err, calls.Load())
			}
			_ = e.With("seen", "2")
		}
		d.version[2].Store(1)
		if err := s.Invalidate(background, Change[int]{2, 1}); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Get(background, 2, d.load); v != 1 || err != nil {
			t.Errorf("after its creation: %d, %v", v, err)
		}

		// Errors are not kept; a version that is none is an error.
		for _, want := range []error{errors.New("broken"), levee.E(levee.CodeConflict, "no")} {
			if _, err := s.Get(background, 3, func(context.Context, int) (int64, int64, error) { return 1, 1, want }); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		if _, err := s.Get(background, 3, d.load); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("version 0: %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			_, _ = s.Get(background, 3, func(context.Context, int) (int64, int64, error) { panic("bug") })
		}()
		d.version[3].Store(9)
		if v, err := s.Get(background, 3, d.load); v != 9 || err != nil {
			t.Errorf("after a panic: %d, %v", v, err)
		}
	})
}

func TestSharedManyKeys(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		var d table
		for k := range 20 {
			d.version[k].Store(int64(k)) // 0: there is none
		}
		s := node[int64](t, addr, SharedConfig{})
		var asked [][]int
		load := func(_ context.Context, keys []int) (map[int]Many[int64], error) {
			asked = append(asked, keys)
			got := map[int]Many[int64]{}
			for _, k := range keys {
				if v := d.version[k].Load(); v > 0 {
					got[k] = Many[int64]{v, v}
				}
			}
			return got, nil
		}
		for range 2 {
			got, err := s.GetMany(background, []int{0, 1, 2, 3, 3}, load)
			if err != nil || fmt.Sprint(got) != "map[1:1 2:2 3:3]" || fmt.Sprint(asked) != "[[0 1 2 3]]" {
				t.Fatalf("%v, %v, asked %v", got, err, asked)
			}
		}
		if addr != "" { // another node finds them in the second level
			s = node[int64](t, addr, SharedConfig{})
			asked = nil
			if got, err := s.GetMany(background, []int{0, 1, 2, 3, 4}, load); err != nil || len(got) != 4 || fmt.Sprint(asked) != "[[4]]" {
				t.Fatalf("%v, %v, asked %v", got, err, asked)
			}
		}
		d.version[2].Store(50)
		if err := s.Invalidate(background, Change[int]{2, 50}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.GetMany(Strict(background), []int{1, 2}, load); err != nil || got[2] != 50 {
			t.Errorf("after a change: %v, %v", got, err)
		}
		if _, err := s.GetMany(background, make([]int, 1001), load); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("1001 keys: %v", err)
		}
		if _, err := s.GetMany(background, []int{19}, func(context.Context, []int) (map[int]Many[int64], error) { return nil, errors.New("broken") }); err == nil {
			t.Error("a load that failed gave no error")
		}
	})
}

// A change is seen by the other node, whose copy came before it, without asking the second level in vain.
func TestSharedOtherNodeHears(t *testing.T) {
	addr := startServer(t).addr()
	var d table
	d.version[1].Store(1)
	a, b := node[int64](t, addr, SharedConfig{}), node[int64](t, addr, SharedConfig{})
	for _, s := range []*Shared[int, int64]{a, b, b} {
		if v, err := s.Get(background, 1, d.load); v != 1 || err != nil {
			t.Fatal(v, err)
		}
	}
	if n := d.loads.Load(); n != 1 {
		t.Errorf("%d loads for two nodes, want 1", n)
	}
	d.version[1].Store(2)
	if err := a.Invalidate(background, Change[int]{1, 2}); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Get(Strict(background), 1, d.load); v != 2 || err != nil {
		t.Errorf("strict: %d, %v", v, err)
	}
	began := time.Now()
	eventually(t, "the other node's copy goes", func() bool {
		v, err := b.Get(background, 1, d.load)
		return v == 2 && err == nil
	})
	t.Logf("the other node saw the change after %v", time.Since(began)) // its copy would have lived for a minute
	if n := d.loads.Load(); n != 2 {
		t.Errorf("%d loads, want 2", n)
	}
}

// Changes that nobody told of are seen after InvalidateAll: at once here, and within a second elsewhere.
func TestInvalidateAll(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		var d table
		a, b := node[int64](t, addr, SharedConfig{}), node[int64](t, addr, SharedConfig{})
		see := func(s *Shared[int, int64], k int) int64 {
			v, err := s.Get(background, k, d.load)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		for k := range 5 {
			d.version[k].Store(1)
			see(a, k)
			see(b, k)
		}
		// One load is under way, and has read already.
		hold, began := make(chan struct{}), make(chan struct{})
		slow := make(chan int64, 1)
		go func() {
			v, _ := a.Get(background, 9, func(context.Context, int) (int64, int64, error) {
				close(began)
				<-hold
				return 1, 1, nil
			})
			slow <- v
		}()
		<-began
		for k := range 5 {
			d.version[k].Store(2)
		}
		d.version[9].Store(2)
		for k := range 5 {
			if v := see(a, k); v != 1 {
				t.Fatalf("key %d is %d before anything is dropped: nothing was kept", k, v)
			}
		}
		if err := a.InvalidateAll(background); err != nil {
			t.Fatal(err)
		}
		for k := range 5 {
			if v := see(a, k); v != 2 {
				t.Errorf("key %d is %d here", k, v)
			}
		}
		if addr == "" { // with two levels the one who loads holds the key's lease, and others wait for it
			if v := see(a, 9); v != 2 {
				t.Errorf("a load from before was joined: %d", v)
			}
		}
		close(hold)
		<-slow
		if v := see(a, 9); v != 2 {
			t.Errorf("a load from before was kept: %d", v)
		}
		if addr == "" {
			return // the other one is not told
		}
		eventually(t, "the other node's copies go", func() bool {
			for k := range 5 {
				if see(b, k) != 2 {
					return false
				}
			}
			return true
		})
	})
}

// While Redis is away it is owed, and done when Redis is back.
func TestInvalidateAllIsOwed(t *testing.T) {
	srv := startServer(t)
	var d table
	a, b := node[int64](t, srv.addr(), SharedConfig{}), node[int64](t, srv.addr(), SharedConfig{})
	d.version[1].Store(1)
	for _, s := range []*Shared[int, int64]{a, b} {
		if v, err := s.Get(background, 1, d.load); v != 1 || err != nil {
			t.Fatal(v, err)
		}
	}
	d.version[1].Store(2)
	srv.pause()
	if err := a.InvalidateAll(background); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("a server that does not answer: %v", err)
	}
	srv.resume()
	eventually(t, "the other node's copy goes", func() bool {
		v, err := b.Get(background, 1, d.load)
		return v == 2 && err == nil
	})
}

// One process loads for all: the others wait for it as long as the lease lasts.
func TestSharedOneLoadOverProcesses(t *testing.T) {
	addr := startServer(t).addr()
	var nodes []*Shared[int, int64]
	for range 3 {
		nodes = append(nodes, node[int64](t, addr, SharedConfig{}))
	}
	var calls atomic.Int64
	load := func(context.Context, int) (int64, int64, error) {
		calls.Add(1)
		time.Sleep(30 * time.Millisecond)
		return 1, 1, nil
	}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			ctx := background
			if i%2 == 0 {
				ctx = Strict(ctx)
			}
			if v, err := nodes[i%3].Get(ctx, 5, load); v != 1 || err != nil {
				t.Errorf("%d, %v", v, err)
			}
		})
	}
	wg.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("%d loads of one key by three processes, want 1", n)
	}
}

// The history that breaks cache-aside, over two nodes: a load reads 1, the truth becomes 2, the change is acknowledged, and only then the
// load ends. The control is the same script without versions: what deletes after the commit.
func TestSharedSlowReaderCannotPutTheOldValueBack(t *testing.T) {
	srv := startServer(t)
	var d table
	d.version[1].Store(1)
	a, b := node[int64](t, srv.addr(), SharedConfig{}), node[int64](t, srv.addr(), SharedConfig{})
	read, release := make(chan struct{}), make(chan struct{})
	done := make(chan int64)
	go func() {
		v, _ := a.Get(background, 1, func(ctx context.Context, k int) (int64, int64, error) {
			v, ver, err := d.load(ctx, k)
			close(read)
			<-release
			return v, ver, err
		})
		done <- v
	}()
	<-read
	d.version[1].Store(2)
	if err := b.Invalidate(background, Change[int]{1, 2}); err != nil {
		t.Fatal(err)
	}
	close(release)
	if v := <-done; v != 1 { // it began before the change
		t.Errorf("the slow reader got %d", v)
	}
	for name, s := range map[string]*Shared[int, int64]{"a": a, "b": b} {
		if v, err := s.Get(Strict(background), 1, d.load); v != 2 || err != nil {
			t.Errorf("%s, strict: %d, %v", name, v, err)
		}
		if v, err := s.Get(background, 1, d.load); v != 2 || err != nil {
			t.Errorf("%s: %d, %v", name, v, err)
		}
	}
}

// What the scripts take and refuse, one by one.
func TestFence(t *testing.T) {
	srv := startServer(t)
	s := node[int64](t, srv.addr(), SharedConfig{})
	r := s.remote
	e, err := r.settled(background)
	if err != nil {
		t.Fatal(err)
	}
	now := func() int64 { return time.Now().UnixMilli() }
	fill := func(key string, version, begin int64, life time.Duration) bool {
		t.Helper()
		text, err := s.codec.write(&versioned[int64]{value: version, version: version}, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		ok, err := r.fill(background, e, &filling{key, text, life, begin, "me"}, 12*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	bury := func(key string, version int64) {
		t.Helper()
		if err := r.bury(background, []burial{{key, version}}, 20*time.Second, false, r.do); err != nil {
			t.Fatal(err)
		}
	}
	check := func(key string, kind byte, version int64) {
		t.Helper()
		got, _, err := r.get(background, key)
		if err != nil || got.kind != kind || got.version != version {
			t.Errorf("%s: %c%d, %v; want %c%d", key, got.kind, got.version, err, kind, version)
		}
	}
	const huge = 1<<63 - 1
	check("none", 0, 0)
	if !fill("k", 5, now(), time.Hour) || fill("k", 4, now(), time.Hour) || !fill("k", 5, now(), time.Hour) {
		t.Error("a fill over an older, newer, or the same version")
	}
	bury("k", 4) // late
	bury("k", 5) // no news
	check("k", kindValue, 5)
	bury("k", 6)
	check("k", kindTombstone, 6)
	if fill("k", 5, now(), time.Hour) {
		t.Error("a fill got past a tombstone")
	}
	check("k", kindTombstone, 6)
	if !fill("k", 6, now(), time.Millisecond) {
		t.Error("the version of the tombstone was refused")
	}
	check("k", kindValue, 6) // and is the fence from now on, for as long as the tombstone would have been
	time.Sleep(5 * time.Millisecond)
	check("k", kindValue, 6)
	if fill("old", 9, now()-13_000, time.Hour) {
		t.Error("a load that began thirteen seconds ago was taken")
	}
	// Neighbours that one Lua number cannot tell apart.
	if !fill("big", huge-1, now(), time.Hour) || !fill("big", huge, now(), time.Hour) || fill("big", huge-1, now(), time.Hour) {
		t.Error("large versions are not told apart")
	}
	bury("big", huge-1)
	check("big", kindValue, huge)
	// A stranger's text counts as nothing, and is replaced.
	srv.do("SET", r.keys(e, "strange")[0], "{}")
	check("strange", 0, 0)
	bury("strange", 1)
	check("strange", kindTombstone, 1)
	for _, key := range []string{strings.Repeat("x", 10_000), "a{b}c", "é\x00 \n"} {
		if !fill(key, 3, now(), time.Hour) {
			t.Errorf("%.20q was refused", key)
		}
		check(key, kindValue, 3)
	}
	if n := len(fmt.Sprint(srv.do("KEYS", "*"))); n > 5000 {
		t.Errorf("keys are kept at length: %d bytes", n)
	}
	// Wrong arguments write nothing.
	if err := fillScript.Run(background, r.c, r.keys(e, "bad"), "5", "5V", 1000, now(), 1000, "me").Err(); err == nil {
		t.Error("a short version was taken")
	}
	if err := buryScript.Run(background, r.c, r.keys(e, "bad")[:1], "5", "5T", 1000, "c", "m").Err(); err == nil {
		t.Error("a short version was taken")
	}
	check("bad", 0, 0)
}

// An older build reads what it understands and leaves the rest: a value of another shape is loaded anew, and its version is heeded.
func TestAnotherShapeIsNoValue(t *testing.T) {
	addr := startServer(t).addr()
	type before struct{ Title string }
	type after struct {
		Title string
		Price int64
	}
	a, b := node[before](t, addr, SharedConfig{}), node[after](t, addr, SharedConfig{})
	loads := 0
	for range 2 {
		if _, err := a.Get(background, 1, func(context.Context, int) (before, int64, error) { loads++; return before{"x"}, 1, nil }); err != nil {
			t.Fatal(err)
		}
		v, err := b.Get(Strict(background), 1, func(context.Context, int) (after, int64, error) { loads++; return after{"x", 5}, 1, nil })
		if err != nil || v.Price != 5 {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if loads != 2 {
		t.Errorf("%d loads, want 2", loads)
	}
}

func TestTypesThatWouldLoseSomethingAreABug(t *testing.T) {
	type inner struct{ secret int }
	_ = inner{}.secret
	for name, f := range map[string]func(){
		"unexported": func() { newCodec[int, []inner]() },
		"interface":  func() { newCodec[int, map[string]any]() },
		"left out": func() {
			newCodec[int, struct {
				A int `json:"-"`
			}]()
		},
		"key": func() { newCodec[inner, int]() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: taken", name)
				}
			}()
			f()
		}()
	}
	type tree struct {
		At   time.Time
		Kids []*tree
		By   map[string][2]float64
	}
	newCodec[levee.ProductID, tree]()
}

// A replica that lags is found out by the version, and the primary asked: for a change, a creation and a deletion.
func TestReplicaBehind(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		type primary struct{}
		var now, late atomic.Int64 // what primary and replica have; 0: no row
		var onPrimary atomic.Int64
		s := node[int64](t, addr, SharedConfig{Primary: func(ctx context.Context) context.Context { return context.WithValue(ctx, primary{}, true) }})
		load := func(ctx context.Context, _ int) (int64, int64, error) {
			v := late.Load()
			if ctx.Value(primary{}) != nil {
				onPrimary.Add(1)
				v = now.Load()
			}
			if v == 0 {
				return 0, 0, levee.E(levee.CodeNotFound, "none")
			}
			return v, v, nil
		}
		many := func(ctx context.Context, keys []int) (map[int]Many[int64], error) {
			v, ver, err := load(ctx, keys[0])
			if err != nil {
				return nil, nil
			}
			return map[int]Many[int64]{keys[0]: {v, ver}}, nil
		}
		settle(s)
		if _, err := s.Get(background, 1, load); levee.CodeOf(err) != levee.CodeNotFound || onPrimary.Load() != 0 {
			t.Fatal(err, onPrimary.Load())
		}
		for _, v := range []int64{1, 2, 0} { // made, changed, deleted; the replica sees nothing of it
			now.Store(v)
			version := v
			if v == 0 {
				version = 3
			}
			if err := s.Invalidate(background, Change[int]{1, version}); err != nil {
				t.Fatal(err)
			}
			was := onPrimary.Load()
			got, err := s.Get(background, 1, load)
			if got != v || (levee.CodeOf(err) == levee.CodeNotFound) != (v == 0) || onPrimary.Load() != was+1 {
				t.Errorf("version %d: %d, %v, primary asked %d times", version, got, err, onPrimary.Load()-was)
			}
			if err := s.Invalidate(background, Change[int]{1, version}); err != nil {
				t.Fatal(err)
			}
			if got, err := s.GetMany(background, []int{1}, many); got[1] != v || err != nil {
				t.Errorf("version %d, many: %v, %v", version, got, err)
			}
			late.Store(min(v, 1))
		}
		late.Store(2)
		now.Store(0)
		if err := s.Invalidate(background, Change[int]{2, 3}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.GetMany(background, []int{2}, many); len(got) != 0 || err != nil {
			t.Errorf("deleted, many: %v, %v", got, err)
		}
	})
}

// settle makes a young epoch an old one: in a young one all loads go to the primary.
func settle[V any](s *Shared[int, V]) {
	if s.remote == nil {
		return
	}
	e, _ := s.remote.settled(background)
	old := *e
	old.began = old.began.Add(-time.Hour)
	s.remote.epoch.Store(&old)
}

func TestYoungEpochReadsThePrimary(t *testing.T) {
	type primary struct{}
	s := node[int64](t, startServer(t).addr(), SharedConfig{Primary: func(ctx context.Context) context.Context { return context.WithValue(ctx, primary{}, true) }})
	load := func(ctx context.Context, _ int) (int64, int64, error) {
		if ctx.Value(primary{}) == nil {
			return 1, 1, nil
		}
		return 2, 2, nil
	}
	if v, err := s.Get(background, 1, load); v != 2 || err != nil {
		t.Errorf("young: %d, %v", v, err)
	}
	settle(s)
	if v, err := s.Get(background, 2, load); v != 1 || err != nil {
		t.Errorf("old: %d, %v", v, err)
	}
}

// Past its soft end a value is still used, and loaded once in the background.
func TestSoftEnd(t *testing.T) {
	addr := startServer(t).addr()
	var d table
	d.version[1].Store(1)
	cfg := SharedConfig{Soft: 50 * time.Millisecond, Config: Config{TTL: time.Millisecond}}
	a, b := node[int64](t, addr, cfg), node[int64](t, addr, cfg)
	if v, err := a.Get(background, 1, d.load); v != 1 || err != nil {
		t.Fatal(v, err)
	}
	d.version[1].Store(2) // and nobody says so
	time.Sleep(70 * time.Millisecond)
	gate := make(chan struct{})
	var begun atomic.Int64
	slow := func(ctx context.Context, k int) (int64, int64, error) {
		begun.Add(1)
		<-gate
		return d.load(ctx, k)
	}
	for range 20 {
		for _, s := range []*Shared[int, int64]{a, b} {
			if v, err := s.Get(background, 1, slow); v != 1 || err != nil {
				t.Fatalf("%d, %v", v, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	// One, or one of each process where forty reads take longer than the lease.
	if n := begun.Load(); n < 1 || n > 2 {
		t.Errorf("%d loads begun for 40 reads past the soft end", n)
	}
	close(gate)
	eventually(t, "the value is renewed", func() bool {
		v, err := b.Get(background, 1, slow)
		return v == 2 && err == nil
	})
}

func TestLargeValuesStayInTheProcess(t *testing.T) {
	srv := startServer(t)
	s := node[string](t, srv.addr(), SharedConfig{})
	for range 2 {
		v, err := s.Get(background, 1, func(context.Context, int) (string, int64, error) { return strings.Repeat("x", bodyMost+1), 1, nil })
		if len(v) != bodyMost+1 || err != nil {
			t.Fatal(len(v), err)
		}
	}
	if _, ok := s.first.GetIfPresent(1); !ok {
		t.Error("it is not in the first level")
	}
	if f, _, _ := s.remote.get(background, "1"); f.kind != 0 {
		t.Error("it is in Redis")
	}
}

// Changes of one key that come together are one message, and each is acknowledged.
func TestChangesAreSentTogether(t *testing.T) {
	addr := startServer(t).addr()
	a, b := node[int64](t, addr, SharedConfig{MaxLoad: time.Minute}), node[int64](t, addr, SharedConfig{MaxLoad: time.Minute})
	const changes = 2000
	var wg sync.WaitGroup
	var next atomic.Int64
	began := time.Now()
	for range 50 {
		wg.Go(func() {
			for range changes / 50 {
				if err := a.Invalidate(background, Change[int]{7, next.Add(1)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	most := int(time.Since(began)/apart) + 2
	time.Sleep(50 * time.Millisecond)
	if n := int(counter(t, b.m.heard)); n > most || n == 0 {
		t.Errorf("%d messages in %v, want at most one a millisecond", n, time.Since(began))
	}
	f, _, err := b.remote.get(background, "7")
	if err != nil || f.version != changes {
		t.Errorf("version %d, %v", f.version, err)
	}
}

func TestCloseEnds(t *testing.T) {
	c := connect(t, startServer(t).addr())
	s := NewShared[int, int64](SharedConfig{Config: Config{Name: "closed"}}, c, obs.Test(t))
	ended := make(chan struct{})
	go func() { s.Close(); s.Close(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("Close does not end")
	}
}
