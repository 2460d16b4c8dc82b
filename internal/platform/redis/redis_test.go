package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/obs"
)

func openAt(t testing.TB, url string, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{URL: url, Timeout: 2 * time.Second} // a machine that is busy with other tests is no outage
	for _, c := range change {
		c(&cfg)
	}
	c, err := Open(context.Background(), cfg, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// quick is the time that calls have by default.
func quick(c *Config) { c.Timeout = 0 }

func TestURL(t *testing.T) {
	for url, want := range map[string]string{
		"redis://h":                              "{ false  [h:6379]  0}",
		"redis://ann@h:1/3":                      "{ false ann [h:1]  3}",
		"rediss://[::1]:7":                       "{ true  [[::1]:7]  0}",
		"rediss://[::1]":                         "{ true  [[::1]:6379]  0}",
		"redis+sentinel://a,b:2,c/shop":          "{sentinel false  [a:26379 b:2 c:26379] shop 0}",
		"rediss+sentinel://ann@a/shop/2":         "{sentinel true ann [a:26379] shop 2}",
		"redis+cluster://10.0.0.1:7000,10.0.0.2": "{cluster false  [10.0.0.1:7000 10.0.0.2:6379]  0}",
	} {
		a, err := parseURL(url)
		if got := fmt.Sprint(a); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", url, got, err, want)
		}
	}
	for _, url := range []string{
		"", "h", "http://h", "redis://", "redis://h:0", "redis://h:70000", "redis://h:x", "redis://h/1024", "redis://h/-1", "redis://h/01", "redis://h/x",
		"redis://a,b", "redis+sentinel://a", "redis+sentinel://a/", "redis+cluster://a/1", "redis+cluster://a,,b", "redis://h?db=hunter2", "redis://h#hunter2",
		"redis://:hunter2@h", "redis://ann:hunter2@h", "redis://ann:hun/ter2@h", "redis://hun@ter2:x@h", "redis://ann:hunter2@h:x", "redis://[::1", "redis://h h",
		"redis://ann:hunter2/@h?x", "redis:hunter2@h", "redis+cluster://" + strings.Repeat("h,", 40) + "h", "redis://" + strings.Repeat("h", 5000),
	} {
		_, err := parseURL(url)
		if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%.60s: %v", url, err)
		} else if strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: the error tells the password: %v", url, err)
		}
	}
}

func TestConfigIsBounded(t *testing.T) {
	ok := Config{URL: "redis://h"}
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(*Config){
		"redis.password":          func(c *Config) { c.Password = obs.Secret(strings.Repeat("x", 5000)) },
		"redis.sentinel_password": func(c *Config) { c.SentinelPassword = "hunter2" },
		"redis.ca":                func(c *Config) { c.CA = "ca.pem" },
		"redis.prefix":            func(c *Config) { c.Prefix = "a{b}" },
		"redis.timeout":           func(c *Config) { c.Timeout = time.Millisecond },
		"redis.connections":       func(c *Config) { c.Connections = 1 },
	} {
		c := ok
		change(&c)
		err := c.Validate()
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != field || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestOpenChecksTheServer(t *testing.T) {
	s := startServer(t)
	openAt(t, s.url())
	for _, c := range []struct {
		name string
		args []any
		url  string
		want string
	}{
		{"evicts anything", []any{"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"}, s.url(), "maxmemory-policy noeviction"},
		{"evicts what has a lifetime", []any{"CONFIG", "SET", "maxmemory-policy", "volatile-ttl"}, s.url(), ""},
		{"no cluster", []any{"PING"}, strings.Replace(s.url(), "redis:", "redis+cluster:", 1), "no cluster"},
		{"a replica", []any{"REPLICAOF", "127.0.0.1", "1"}, s.url(), "replica"},
	} {
		s.do(c.args...)
		cl, err := Open(t.Context(), Config{URL: c.url}, obs.Test(t))
		if cl != nil {
			_ = cl.Close()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || levee.CodeOf(err) != levee.CodeInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	s.kill()
	began := time.Now()
	if _, err := Open(t.Context(), Config{URL: s.url()}, obs.Test(t)); levee.CodeOf(err) != levee.CodeUnavailable || time.Since(began) > time.Minute {
		t.Errorf("no server: %v after %v", err, time.Since(began))
	}
	for _, v := range []Server{{Version: "6.0.16"}, {Version: "5.9"}, {Version: ""}, {Version: "x.y"}} {
		v.Primary, v.Policy = true, "noeviction"
		if v.fit(false) == nil {
			t.Errorf("version %q is taken", v.Version)
		}
	}
	for _, v := range []string{"6.2.0", "7.0.15", "8.0", "10.1.1"} {
		if err := (Server{Version: v, Primary: true, Policy: "noeviction"}).fit(false); err != nil {
			t.Error(err)
		}
	}
}

func TestPassword(t *testing.T) {
	s := startServer(t)
	s.do("CONFIG", "SET", "requirepass", "hunter2")
	openAt(t, s.url(), func(c *Config) { c.Password = "hunter2" })
	for _, p := range []obs.Secret{"", "wrong-secret"} {
		_, err := Open(t.Context(), Config{URL: s.url(), Password: p}, obs.Test(t))
		if levee.CodeOf(err) != levee.CodeUnavailable || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("password %q: %v", p.Reveal(), err)
		}
	}
}

func TestScript(t *testing.T) {
	s := startServer(t)
	c := openAt(t, s.url())
	sum := NewScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
	want := int64(0)
	run := func(f func() *goredis.Cmd) {
		t.Helper()
		want += 2
		if n, err := f().Int64(); err != nil || n != want {
			t.Errorf("%d, %v; want %d", n, err, want)
		}
	}
	keys := []string{c.Key("{x}:n")}
	for range 2 {
		run(func() *goredis.Cmd { return sum.Run(t.Context(), c, keys, 2) })
		s.do("SCRIPT", "FLUSH")
		run(func() *goredis.Cmd { return sum.RunFast(t.Context(), c, keys, 2) })
		s.do("SCRIPT", "FLUSH")
		run(func() *goredis.Cmd { return sum.RunOn(t.Context(), c.Patient(), keys, 2) })
	}
	if err := c.UniversalClient().Get(t.Context(), c.Key("none")).Err(); err != goredis.Nil {
		t.Errorf("a missing key: %v", err)
	}
	if err := NewScript("return redis.error_reply('MINE no')").Run(t.Context(), c, keys).Err(); err == nil || err.Error() != "MINE no" {
		t.Errorf("a script's own error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.UniversalClient().Get(ctx, "x").Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller's own end: %v", err)
	}
}

// While the server is away or hangs, calls fail within their time, then at once, on all faces; afterwards they work again. The bounds leave room
// for a busy machine: without the breaker the 3,000 calls to one that hangs would take five minutes.
func TestBreaker(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr())
	c := openAt(t, p.url(), quick)
	faces := map[string]func(context.Context) error{
		"command": func(ctx context.Context) error { return c.UniversalClient().Set(ctx, "levee:a", 1, 0).Err() },
		"fast":    func(ctx context.Context) error { return c.Fast().Set(ctx, "levee:a", 1, 0).Err() },
		"pipeline": func(ctx context.Context) error {
			pipe := c.UniversalClient().Pipeline()
			get := pipe.Get(ctx, "levee:a")
			_, err := pipe.Exec(ctx)
			if (err == nil) != (get.Err() == nil) {
				t.Errorf("the pipeline's error is %v, the command's %v", err, get.Err())
			}
			return err
		},
	}
	for name, down := range map[string]func(){
		"refused": func() { p.set(true, false) },
		"hangs":   func() { p.set(false, true) },
		"paused":  s.pause,
	} {
		t.Run(name, func(t *testing.T) {
			until(t, "healthy", c.Healthy)
			down()
			var slowest time.Duration
			for range 8 {
				for face, call := range faces {
					began := time.Now()
					if err := call(t.Context()); levee.CodeOf(err) != levee.CodeUnavailable {
						t.Errorf("%s: %v", face, err)
					}
					slowest = max(slowest, time.Since(began))
				}
			}
			if slowest > 10*time.Second {
				t.Errorf("a call took %v", slowest)
			}
			began := time.Now()
			for range 1000 {
				for face, call := range faces {
					if err := call(t.Context()); levee.CodeOf(err) != levee.CodeUnavailable {
						t.Fatalf("%s: %v", face, err)
					}
				}
			}
			if d := time.Since(began); d > 20*time.Second || c.Healthy() {
				t.Errorf("3,000 calls to a server that is away took %v; healthy is %v", d, c.Healthy())
			}
			s.resume()
			p.set(false, false)
			p.cut() // what was swallowed is gone
			began = time.Now()
			until(t, "calls work again", func() bool { return faces["command"](t.Context()) == nil && faces["fast"](t.Context()) == nil })
			t.Logf("back after %v", time.Since(began))
		})
	}
}

// One broken connection, or a server that says no, is no outage.
func TestBreakerStaysShut(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr())
	c := openAt(t, p.url())
	for range 20 {
		p.cut()
		for range 3 {
			_ = c.UniversalClient().Get(t.Context(), "x").Err()
		}
		if err := c.UniversalClient().LPush(t.Context(), c.Key("text"), 1).Err(); levee.CodeOf(err) == levee.CodeUnavailable && !c.Healthy() {
			t.Fatal("the breaker opened")
		}
		if err := c.UniversalClient().Incr(t.Context(), c.Key("text")).Err(); err == nil {
			t.Fatal("a list was counted up")
		}
	}
}

// A full server refuses writes; that is no defect of ours, and reads go on.
func TestFullServer(t *testing.T) {
	s := startServer(t)
	c := openAt(t, s.url())
	s.do("CONFIG", "SET", "maxmemory", "1")
	for range 20 {
		if err := c.UniversalClient().Set(t.Context(), c.Key("a"), 1, 0).Err(); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Fatal(err)
		}
	}
	if err := c.UniversalClient().Get(t.Context(), c.Key("a")).Err(); err != goredis.Nil {
		t.Error(err)
	}
}

// ear joins a bus and keeps what it heard.
type ear struct {
	mu      sync.Mutex
	heard   []string
	lost    int
	publish func([]byte)
}

func join(c *Client, name string) *ear {
	e := &ear{}
	e.publish = c.Bus(name, func(p []byte) {
		e.mu.Lock()
		e.heard = append(e.heard, string(p))
		e.mu.Unlock()
	}, func() {
		e.mu.Lock()
		e.lost++
		e.mu.Unlock()
	})
	return e
}

func (e *ear) state() (heard, lost int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heard), e.lost
}

func TestBus(t *testing.T) {
	s := startServer(t)
	a, b := openAt(t, s.url()), openAt(t, s.url())
	other := openAt(t, s.url(), func(c *Config) { c.Prefix = "other:" })
	ea, eb, eo := join(a, "x"), join(b, "x"), join(other, "x")
	ec := join(b, "y")
	until(t, "all hear", func() bool {
		_, la := ea.state()
		_, lb := eb.state()
		_, lc := ec.state()
		return la > 0 && lb > 0 && lc > 0 && a.Hearing() && b.Hearing()
	})
	const n = 5000
	for i := range n {
		ea.publish(fmt.Append(nil, i))
		if i%1000 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	eb.publish([]byte("bin\x00\xff\r\nary"))
	until(t, "messages", func() bool { nb, _ := eb.state(); na, _ := ea.state(); return nb == n && na == 1 })
	for i, m := range eb.heard {
		if m != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, m)
		}
	}
	if ea.heard[0] != "bin\x00\xff\r\nary" {
		t.Errorf("%q", ea.heard[0])
	}
	time.Sleep(2 * beatEvery)
	if h, _ := eo.state(); h != 0 {
		t.Error("another house hears us")
	}
	if h, _ := ec.state(); h != 0 {
		t.Error("another bus hears us")
	}
	if _, l := eb.state(); l != 1 {
		t.Errorf("lost was called %d times, want once for the start", l)
	}
	until(t, "nodes are counted", func() bool { return a.Nodes() == 2 && b.Nodes() == 2 })
}

// Whatever happens to messages on the way, the other node hears them or hears that it may not have.
func TestBusTellsLosses(t *testing.T) {
	for name, fault := range map[string]func(t *testing.T, s *server, p *proxy, from, to *Client, say func()){
		"the listener's connection is cut": func(t *testing.T, s *server, p *proxy, _, _ *Client, say func()) {
			p.set(true, false)
			say()
			p.set(false, false)
		},
		"the listener's connection hangs": func(t *testing.T, s *server, p *proxy, _, to *Client, say func()) {
			p.set(false, true)
			say()
			time.Sleep(3 * time.Second)
			p.set(false, false) // what was swallowed never comes
		},
		"the server restarts": func(t *testing.T, s *server, _ *proxy, _, _ *Client, say func()) {
			s.kill()
			say()
			s.start()
		},
		"one message is lost and nothing breaks": func(t *testing.T, _ *server, _ *proxy, from, _ *Client, _ func()) {
			r := from.radio
			r.mu.Lock()
			r.buses[from.Key("bus:x")].count++
			r.mu.Unlock()
		},
		"too much is said at once": func(t *testing.T, _ *server, _ *proxy, from, _ *Client, _ func()) {
			from.radio.say(from.radio.bus(from.Key("bus:x")), make([]byte, payloadMax+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			p := startProxy(t, s.addr())
			from, to := openAt(t, s.url()), openAt(t, p.url())
			ef, et := join(from, "x"), join(to, "x")
			until(t, "they hear", func() bool { _, l := et.state(); return l == 1 && to.Hearing() && from.Hearing() })
			ef.publish([]byte("before"))
			until(t, "a message", func() bool { h, _ := et.state(); return h == 1 })
			time.Sleep(newcomerFor + beatEvery)
			if _, l := et.state(); l != 1 {
				t.Fatalf("lost was called %d times before anything was", l)
			}
			began := time.Now()
			fault(t, s, p, from, to, func() { ef.publish([]byte("during")) })
			until(t, "the loss is told", func() bool { _, l := et.state(); return l >= 2 })
			t.Logf("told after %v", time.Since(began))
			until(t, "messages come again", func() bool {
				ef.publish([]byte("after"))
				time.Sleep(10 * time.Millisecond)
				et.mu.Lock()
				defer et.mu.Unlock()
				return et.heard[len(et.heard)-1] == "after"
			})
		})
	}
}

func TestBell(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s.addr())
	a, b := openAt(t, s.url()), openAt(t, p.url())
	var wa, wb atomic.Int64
	ring := a.Bell("jobs", func() { wa.Add(1) })
	b.Bell("jobs", func() { wb.Add(1) })
	until(t, "they hear", func() bool { return wa.Load() > 0 && wb.Load() > 0 })
	before := wb.Load()
	for range 100_000 {
		ring()
	}
	until(t, "the bell is heard", func() bool { return wb.Load() > before })
	time.Sleep(50 * time.Millisecond)
	last := wb.Load()
	if n := last - before; n > 50_000 {
		t.Errorf("100,000 rings were %d messages", n)
	}
	ring()
	until(t, "the last ring is heard", func() bool { return wb.Load() > last })
	if wa.Load() != 1 {
		t.Errorf("a woke itself: %d", wa.Load())
	}
	p.set(true, false)
	before = wb.Load()
	ring()
	time.Sleep(100 * time.Millisecond)
	p.set(false, false)
	until(t, "woken after the cut", func() bool { return wb.Load() > before })
}

func TestCloseIsQuick(t *testing.T) {
	s := startServer(t)
	for name, during := range map[string]func(*Client){
		"well": func(*Client) {},
		"busy": func(c *Client) {
			publish := c.Bus("x", func([]byte) {}, func() {})
			for range 100 {
				go func() {
					for c.UniversalClient().Incr(context.Background(), c.Key("n")).Err() == nil {
						publish([]byte("x"))
					}
				}()
			}
		},
		"away": func(*Client) { s.pause() },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(t.Context(), Config{URL: s.url()}, obs.Test(t))
			if err != nil {
				t.Fatal(err)
			}
			during(c)
			began := time.Now()
			_ = c.Close()
			_ = c.Close()
			if d := time.Since(began); d > 15*time.Second { // it waits for nobody, but on a busy machine for the processor
				t.Errorf("Close took %v", d)
			}
			if err := c.UniversalClient().Ping(t.Context()).Err(); err == nil {
				t.Error("a closed client works")
			}
			s.resume()
		})
	}
}
