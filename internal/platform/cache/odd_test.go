package cache

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// sharedOf is a cache of two levels with keys of any type.
func sharedOf[K comparable, V any](t *testing.T, addr string, cfg SharedConfig) *Shared[K, V] {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "odd"
	}
	s := NewShared[K, V](cfg, connectFor(t, addr, time.Second), quiet(t))
	t.Cleanup(s.Close)
	eventually(t, "the messages arrive", func() bool { return s.heard.Load() != 0 })
	return s
}

var oddTexts = []string{
	"", " ", "\x00", "a\x00b", "\n\r\t", "\"", `\`, "{", "}", "{x}", "x", "x00", "xff", "*", "?", "levee:", "#", "é", "\u2028", "\ufffd", "\xff", "\xfe", "a\xff", "a\xfe",
	"\xc3\x28", strings.Repeat("k", 199), strings.Repeat("k", 200), strings.Repeat("k", 201), strings.Repeat("k", 202), strings.Repeat("\xff", 500), "😀",
}

// No two keys are taken for each other, whatever bytes they are made of, in Redis and over the messages. The control is what JSON alone makes
// of them.
func TestOddKeys(t *testing.T) {
	addr := startServer(t).addr()
	a, b := sharedOf[string, string](t, addr, SharedConfig{}), sharedOf[string, string](t, addr, SharedConfig{})
	var version atomic.Int64
	version.Store(1)
	load := func(context.Context, string) (string, int64, error) { return "v", version.Load(), nil }
	names, plain := map[string]string{}, map[string]string{}
	alike := 0
	e, err := a.remote.settled(background)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range oddTexts {
		want := int64(i + 1)
		version.Store(want)
		if _, err := a.Get(background, k, load); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
		text, err := a.codec.key(k)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := a.codec.parseKey(text); back != k || err != nil {
			t.Errorf("%q comes back as %q, %v", k, back, err)
		}
		name := a.remote.keys(e, text)[0]
		if other, ok := names[name]; ok {
			t.Errorf("%q and %q are one key in Redis", k, other)
		}
		names[name] = k
		raw, _ := json.Marshal(k)
		if _, ok := plain[string(raw)]; ok {
			alike++
		}
		plain[string(raw)] = k
		if f, _, err := b.remote.get(background, text); f.version != want || err != nil {
			t.Errorf("%q: version %d in Redis, want %d", k, f.version, want)
		}
	}
	if alike == 0 {
		t.Error("the control: plain JSON tells them apart, too")
	}
	none := func(context.Context, string) (string, int64, error) { return "", 0, errors.New("it is not there") }
	for _, k := range oddTexts { // the other node has them all, forgets each when it is told, and only that
		if _, err := b.Get(background, k, none); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
	}
	for i, k := range oddTexts {
		if err := a.Invalidate(background, Change[string]{k, 1000}); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
		eventually(t, "the other node forgets it", func() bool { _, ok := b.first.GetEntryQuietly(k); return !ok })
		for _, other := range oddTexts[i+1:] {
			if _, ok := b.first.GetEntryQuietly(other); !ok {
				t.Fatalf("with %q it forgets %q", k, other)
			}
		}
	}
}

type pair struct{ Name, Kind string }

// Keys that cannot be written, or are huge, are an error that says so, for reads and changes; nothing is owed for them.
func TestKeysThatCannotBeWritten(t *testing.T) {
	addr := startServer(t).addr()
	s := sharedOf[pair, int](t, addr, SharedConfig{})
	load := func(context.Context, pair) (int, int64, error) { return 1, 1, nil }
	if v, err := s.Get(background, pair{"é", "\ufffd"}, load); v != 1 || err != nil {
		t.Errorf("an odd key: %d, %v", v, err)
	}
	for _, k := range []pair{{"\xff", ""}, {strings.Repeat("x", keyMost), ""}} {
		_, err := s.Get(background, k, load)
		_, many := s.GetMany(background, []pair{k}, func(context.Context, []pair) (map[pair]Many[int], error) { return nil, nil })
		change := s.Invalidate(background, Change[pair]{k, 1})
		for _, err := range []error{err, many, change} {
			var e *levee.Error
			if !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != "key" {
				t.Errorf("%.20q: %v, want invalid key", k, err)
			}
		}
	}
	if s.owes() {
		t.Error("a change that cannot be written is owed for ever")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("floats are taken as keys")
			}
		}()
		newCodec[struct{ X float64 }, int]()
	}()
}

// Values that JSON would change stay in the process as they are.
func TestValuesThatAreNoUTF8(t *testing.T) {
	addr := startServer(t).addr()
	a, b := sharedOf[string, string](t, addr, SharedConfig{}), sharedOf[string, string](t, addr, SharedConfig{})
	load := func(context.Context, string) (string, int64, error) { return "\xff\xfe", 1, nil }
	for _, s := range []*Shared[string, string]{a, b, a} {
		for _, ctx := range []context.Context{background, Strict(background)} {
			if v, err := s.Get(ctx, "k", load); v != "\xff\xfe" || err != nil {
				t.Errorf("%q, %v", v, err)
			}
		}
	}
	nan := sharedOf[string, float64](t, addr, SharedConfig{Config: Config{Name: "nan"}})
	for range 2 {
		if v, err := nan.Get(background, "k", func(context.Context, string) (float64, int64, error) { return math.NaN(), 1, nil }); !math.IsNaN(v) || err != nil {
			t.Errorf("%v, %v", v, err)
		}
	}
}

// Names go into metrics and into the names of keys: Validate refuses odd ones, and a cache that has one all the same gets another.
func TestOddNames(t *testing.T) {
	addr := startServer(t).addr()
	seen := map[string]bool{}
	for _, name := range []string{"\xff", "{a}", "a\nb", strings.Repeat("n", 65), "\x00", "é", "a}b"} {
		if err := (Config{Name: name}).Validate(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%q: %v", name, err)
		}
		c := New[int, int](Config{Name: name}, obs.Test(t))
		s := sharedOf[int, int](t, addr, SharedConfig{Config: Config{Name: name}})
		if c.cfg.Name != s.cfg.Name || !isName(s.cfg.Name) || seen[s.cfg.Name] {
			t.Errorf("%q becomes %q and %q", name, c.cfg.Name, s.cfg.Name)
		}
		seen[s.cfg.Name] = true
		if v, err := s.Get(background, 1, func(context.Context, int) (int, int64, error) { return 1, 1, nil }); v != 1 || err != nil {
			t.Errorf("%q: %d, %v", name, v, err)
		}
	}
	if err := (Config{Name: "catalog_product-2.a:b/c, d"}).Validate(); err != nil {
		t.Error(err)
	}
}

// A wrong clock of this node, which writes and reads the soft end, makes loads sooner or later, and never an old value or an error.
func TestWrongClocks(t *testing.T) {
	addr := startServer(t).addr()
	s := node[int64](t, addr, SharedConfig{Config: Config{TTL: time.Millisecond}})
	e, err := s.remote.settled(background)
	if err != nil {
		t.Fatal(err)
	}
	var d table
	for k, soft := range []time.Time{time.UnixMilli(0), time.UnixMilli(9_999_999_999_999), time.Now().Add(-50 * 365 * 24 * time.Hour), {}} {
		d.version[k].Store(7)
		text, err := s.codec.write(&versioned[int64]{value: 7, version: 7}, soft)
		if err != nil {
			t.Fatal(err)
		}
		key, _ := s.codec.key(k)
		if ok, err := s.remote.fill(background, e, &filling{key, text, time.Hour, time.Now().UnixMilli(), "me"}, time.Minute); !ok || err != nil {
			t.Fatal(ok, err)
		}
		for range 3 {
			if v, err := s.Get(background, k, d.load); v != 7 || err != nil {
				t.Errorf("%v: %d, %v", soft, v, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		d.version[k].Store(8)
		if err := s.Invalidate(background, Change[int]{k, 8}); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Get(background, k, d.load); v != 8 || err != nil {
			t.Errorf("%v, changed: %d, %v", soft, v, err)
		}
	}
	// The server's clock has gone back since a load began: what it brings is no older for that, and is judged by its version.
	text, _ := s.codec.write(&versioned[int64]{value: 7, version: 7}, time.Now())
	if ok, err := s.remote.fill(background, e, &filling{"0", text, time.Hour, time.Now().Add(time.Hour).UnixMilli(), "me"}, time.Minute); ok || err != nil {
		t.Errorf("a version that is older: taken %v, %v", ok, err)
	}
}

// Lifetimes of zero are the defaults, and negative ones the least; both work.
func TestOddLifetimes(t *testing.T) {
	least := SharedConfig{
		Config: Config{TTL: -1, NegativeTTL: -1, Spread: -1, Entries: -1}, Hard: -1, Soft: -1, Stale: -1, MaxLoad: -1, MaxLag: -1, Loads: -1,
		Refreshes: -1, AwayLoads: -1, HotTTL: -1, Sample: -1,
	}
	if err := least.Validate(); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("Validate: %v", err)
	}
	levels(t, func(t *testing.T, addr string) {
		for i, cfg := range []SharedConfig{{}, least} {
			cfg.Name = strconv.Itoa(i)
			got := cfg.clamped()
			if got.TTL < ttlMin || got.NegativeTTL < ttlMin || got.Hard < hardMin || got.Soft < ttlMin || got.Stale < 0 || got.HotTTL < got.TTL || got.Refreshes < 1 {
				t.Errorf("%+v", got)
			}
			var d table
			s := node[int64](t, addr, cfg)
			for v := int64(1); v < 5; v++ {
				d.version[1].Store(v)
				if err := s.Invalidate(background, Change[int]{1, v}); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					if got, err := s.Get(background, 1, d.load); got != v || err != nil {
						t.Fatalf("%d, %v; want %d", got, err, v)
					}
				}
			}
		}
	})
}

// The primary does not answer. Who allows it gets what a replica has, which is kept nowhere; others and strict reads get the error.
func TestAllowStale(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		type onReplica struct{}
		s := node[int64](t, addr, SharedConfig{
			Primary: primary, Replica: func(ctx context.Context) context.Context { return context.WithValue(ctx, onReplica{}, true) },
		})
		settle(s)
		var down atomic.Bool
		down.Store(true)
		load := func(ctx context.Context, _ int) (int64, int64, error) {
			switch {
			case ctx.Value(onReplica{}) != nil:
				return 3, 3, nil
			case down.Load():
				return 0, 0, levee.E(levee.CodeUnavailable, "the primary is away").After(time.Second)
			}
			return 5, 5, nil
		}
		if _, err := s.Get(background, 1, load); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("without leave: %v", err)
		}
		if v, err := s.Get(AllowStale(background), 1, load); v != 3 || err != nil {
			t.Errorf("with leave: %d, %v", v, err)
		}
		if s.remote != nil {
			if _, err := s.Get(Strict(AllowStale(background)), 1, load); levee.CodeOf(err) != levee.CodeUnavailable {
				t.Errorf("strict: %v", err)
			}
		}
		down.Store(false)
		if v, err := s.Get(background, 1, load); v != 5 || err != nil {
			t.Errorf("what the replica said was kept: %d, %v", v, err)
		}
	})
}
