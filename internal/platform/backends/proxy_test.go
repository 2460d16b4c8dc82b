package backends

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"levee"
)

// upstream is a server that answers each byte with the same byte and counts what it hears. Asked for it, it closes first.
type upstream struct {
	addr  string
	heard atomic.Int64
	name  byte // when set, the answer to every byte
}

func listen(t *testing.T, name byte) *upstream {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	u := &upstream{addr: l.Addr().String(), name: name}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go u.serve(c)
		}
	}()
	return u
}

func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		u.heard.Add(int64(n))
		if bytes.Equal(b[:n], []byte("close")) {
			return
		}
		answer := b[:n]
		if u.name != 0 {
			answer = bytes.Repeat([]byte{u.name}, n)
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

func startProxy(t *testing.T, upstream string) *Proxy {
	t.Helper()
	p, err := StartProxy(t.Context(), upstream)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.Addr, time.Second)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// echo sends n bytes and waits for n; it says how long that took.
func echo(c net.Conn, n int, limit time.Duration) (time.Duration, error) {
	begin := time.Now()
	_ = c.SetDeadline(begin.Add(limit))
	sent := make(chan error, 1)
	go func() { _, err := c.Write(make([]byte, n)); sent <- err }()
	_, err := io.ReadFull(c, make([]byte, n))
	return time.Since(begin), errors.Join(err, <-sent)
}

// good fails the test unless new connections work and are quick; on a busy machine not each of them is.
func good(t *testing.T, p *Proxy) {
	t.Helper()
	eventually(t, time.Minute, "without a fault a connection is quick", func() error {
		c, err := net.DialTimeout("tcp", p.Addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		took, err := echo(c, 1000, 2*time.Second)
		if err == nil && took > 100*time.Millisecond {
			err = fmt.Errorf("it took %v", took)
		}
		return err
	})
}

func TestProxyFaultsAreFeltByOpenAndByNewConnections(t *testing.T) {
	for name, f := range map[string]struct {
		set  func(*Proxy) error
		feel func(*testing.T, net.Conn, *upstream)
	}{
		"latency": {func(p *Proxy) error { return p.Latency(200*time.Millisecond, 0) }, func(t *testing.T, c net.Conn, u *upstream) {
			if took, err := echo(c, 10, 10*time.Second); err != nil || took < 190*time.Millisecond {
				t.Errorf("%v after %v", err, took)
			}
		}},
		"bandwidth": {func(p *Proxy) error { return p.Bandwidth(100) }, func(t *testing.T, c net.Conn, u *upstream) {
			if took, err := echo(c, 40_000, 30*time.Second); err != nil || took < 350*time.Millisecond {
				t.Errorf("40 kB at 100 kB/s: %v after %v", err, took)
			}
		}},
		"slow close": {func(p *Proxy) error { return p.SlowClose(300 * time.Millisecond) }, func(t *testing.T, c net.Conn, u *upstream) {
			begin := time.Now()
			_, _ = c.Write([]byte("close"))
			_ = c.SetReadDeadline(begin.Add(25 * time.Second))
			_, err := c.Read(make([]byte, 1))
			if took := time.Since(begin); err == nil || errors.Is(err, context.DeadlineExceeded) || took < 290*time.Millisecond || took > 20*time.Second {
				t.Errorf("%v after %v", err, took)
			}
		}},
		"limit": {func(p *Proxy) error { return p.LimitAnswers(100) }, func(t *testing.T, c net.Conn, u *upstream) {
			_, _ = c.Write(make([]byte, 500))
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if b, err := io.ReadAll(c); len(b) != 100 || isTimeout(err) {
				t.Errorf("%d bytes and %v, want 100 and the end", len(b), err)
			}
		}},
		"drop answers": {func(p *Proxy) error { return p.DropAnswers(true) }, func(t *testing.T, c net.Conn, u *upstream) {
			before := u.heard.Load()
			if _, err := echo(c, 77, 200*time.Millisecond); !isTimeout(err) {
				t.Errorf("the answer gave %v", err)
			}
			if got := u.heard.Load() - before; got != 77 {
				t.Errorf("the server heard %d bytes, want 77", got)
			}
		}},
		"silence": {func(p *Proxy) error { return p.Silence(true) }, func(t *testing.T, c net.Conn, u *upstream) {
			before := u.heard.Load()
			if _, err := echo(c, 77, 200*time.Millisecond); !isTimeout(err) {
				t.Errorf("the answer gave %v", err)
			}
			if got := u.heard.Load() - before; got != 0 {
				t.Errorf("the server heard %d bytes, want none", got)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := listen(t, 0)
			p := startProxy(t, u.addr)
			good(t, p)
			open := dial(t, p)
			_, err := echo(open, 10, time.Second)
			must(t, err)
			must(t, f.set(p))
			f.feel(t, open, u)
			must(t, f.set(p)) // again: it is set, not added
			f.feel(t, dial(t, p), u)
			must(t, p.Heal())
			good(t, p)
		})
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestProxyDownUpResetAndUpstream(t *testing.T) {
	a, b := listen(t, 'a'), listen(t, 'b')
	p := startProxy(t, "redis://"+a.addr)
	c := dial(t, p)
	_, err := echo(c, 1, time.Second)
	must(t, err)
	addr := p.Addr
	p.Down()
	if _, err := net.DialTimeout("tcp", addr, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("down: a new connection gave %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("down: an open connection gave %v", err)
	}
	p.Down() // again
	must(t, p.Up())
	must(t, p.Up())
	if p.Addr != addr {
		t.Errorf("the proxy moved from %s to %s", addr, p.Addr)
	}
	good(t, p)

	c = dial(t, p)
	_, err = echo(c, 1, time.Second)
	must(t, err)
	eventually(t, time.Second, "one connection is counted", func() error {
		if got := p.Connections(); got != 1 {
			return fmt.Errorf("%d connections", got)
		}
		return nil
	})
	p.ResetPeer()
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset: an open connection gave %v", err)
	}
	good(t, p)

	c = dial(t, p)
	_, err = echo(c, 1, time.Second)
	must(t, err)
	must(t, p.SetUpstream("mysql://root@"+b.addr+"/"))
	read := func(c net.Conn) string {
		_, _ = c.Write([]byte("x"))
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		one := make([]byte, 1)
		_, err := io.ReadFull(c, one)
		return fmt.Sprint(string(one), err)
	}
	if open, fresh := read(c), read(dial(t, p)); open != "a<nil>" || fresh != "b<nil>" {
		t.Errorf("after the upstream moved: open %q, new %q", open, fresh)
	}
	url, err := p.URL("mysql://root@127.0.0.1:1/some")
	if must(t, err); url != "mysql://root@"+addr+"/some" {
		t.Errorf("through the proxy: %s", url)
	}
	// An upstream that is gone.
	must(t, p.SetUpstream("127.0.0.1:1"))
	// The proxy's reset may arrive before the client has looked at its connection: then the dial itself fails, and only with that.
	c, err = net.DialTimeout("tcp", p.Addr, 2*time.Second)
	if err != nil {
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		return
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("with a dead upstream a connection gave %v", err)
	}
}

func TestProxyRefusesBadInput(t *testing.T) {
	u := listen(t, 0)
	p := startProxy(t, u.addr)
	_, one := StartProxy(t.Context(), "nohost")
	_, two := StartProxy(t.Context(), "redis+cluster://127.0.0.1:1,127.0.0.1:2")
	_, three := StartProxy(t.Context(), "mysql://root:verysecret@127.0.0.1:x/")
	_, four := p.URL("nothing")
	for i, err := range []error{one, two, three, four, p.SetUpstream(":1"), p.Latency(-1, 0), p.Latency(time.Hour, 0), p.Latency(time.Second, time.Minute),
		p.Latency(time.Microsecond, 0), p.Bandwidth(-1), p.SlowClose(-1), p.LimitAnswers(-1)} {
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || strings.Contains(err.Error(), "verysecret") {
			t.Errorf("%d: %v", i, err)
		}
	}
	good(t, p)
}

// A reader that stands still with full buffers, and connections that break while faults change, hold nobody up.
func TestProxyChangesFaultsWhileConnectionsStandOrBreak(t *testing.T) {
	u := listen(t, 0)
	before := runtime.NumGoroutine()
	p, err := StartProxy(t.Context(), u.addr)
	must(t, err)
	stuck := dial(t, p)
	_ = stuck.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for {
		// It never reads, so its answers fill every buffer up to the server, and then its own writes stand.
		if _, err := stuck.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	begin := time.Now()
	must(t, p.Latency(10*time.Millisecond, 0))
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a fault took %v to set", took)
	}
	must(t, p.Heal())
	good(t, p)

	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c, err := net.DialTimeout("tcp", p.Addr, time.Second); err == nil {
				_, _ = echo(c, 5000, 50*time.Millisecond)
				_ = c.Close()
			}
		}
	}()
	for i := range 60 {
		must(t, p.Latency(time.Duration(1+i%3)*time.Millisecond, 0))
		must(t, p.Bandwidth(500))
		p.ResetPeer()
		must(t, p.DropAnswers(i%2 == 0))
		must(t, p.LimitAnswers(2000))
		must(t, p.Heal())
	}
	close(stop)
	<-done
	good(t, p)
	must(t, p.Latency(10*time.Minute, 0)) // must not hold up Close
	c := dial(t, p)
	_, _ = c.Write([]byte("x"))
	begin = time.Now()
	must(t, p.Close())
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("Close took %v", took)
	}
	must(t, p.Close())
	if p.Up() == nil || p.Latency(0, 0) == nil || p.Heal() == nil {
		t.Error("a closed proxy can be started or changed")
	}
	_ = stuck.Close()
	eventually(t, 3*time.Second, "the goroutines end", func() error {
		// The server's own may take a moment; a few more or fewer belong to other parts of the process.
		if now := runtime.NumGoroutine(); now > before+5 {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
}

func TestProxyInFrontOfTheServers(t *testing.T) {
	m, err := MySQL(t.Context())
	must(t, err)
	p := startProxy(t, m.URL())
	url, err := p.URL(m.URL())
	must(t, err)
	db := connect(t, url)
	must(t, db.Ping())
	p.Down()
	if err := db.Ping(); err == nil {
		t.Error("MariaDB answers through a proxy that is down")
	}
	must(t, p.Up())
	must(t, db.Ping())

	r := startRedis(t, RedisOptions{})
	p = startProxy(t, r.URL())
	must(t, ping(t.Context(), p.Addr))
	must(t, p.Latency(150*time.Millisecond, 0))
	begin := time.Now()
	must(t, ping(t.Context(), p.Addr))
	if took := time.Since(begin); took < 140*time.Millisecond {
		t.Errorf("Redis answered after %v in spite of a latency of 150 ms", took)
	}
}
