package db

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
)

// needMySQL is for tests of what only MySQL does; they are not part of a run of the embedded tier.
func needMySQL(t testing.TB) {
	t.Helper()
	if !distributed() {
		t.Skip("tests MySQL: LEVEE_TEST_TIER=distributed")
	}
}

// startServer starts a server for this test alone.
func startServer(t *testing.T, o backends.MySQLOptions) *backends.MySQLServer {
	t.Helper()
	needMySQL(t)
	s, err := backends.StartMySQL(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// cutter stands between a client and a server and cuts a connection when a statement is seen that cut asks for.
type cutter struct {
	listener net.Listener
	server   string
	// cut is asked for each statement that a client sends.
	cut atomic.Pointer[func(query string) cutWhen]
}

type cutWhen int

const (
	cutNever  cutWhen = iota
	cutBefore         // the server does not get it
	cutAfter          // the server has done it and answered; the answer is lost
)

func startCutter(t *testing.T, server string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, server: server}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return c
}

// config is cfg with the cutter in the server's place.
func (c *cutter) config(cfg Config) Config {
	cfg.URL = strings.Replace(cfg.URL, c.server, c.listener.Addr().String(), 1)
	return cfg
}

// on sets what is cut; nil cuts nothing.
func (c *cutter) on(cut func(query string) cutWhen) {
	if cut == nil {
		c.cut.Store(nil)
		return
	}
	c.cut.Store(&cut)
}

func (c *cutter) serve(client net.Conn) {
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		_ = client.Close()
		return
	}
	var lost atomic.Bool // the server's answers go nowhere
	answered := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				break
			}
			if lost.Load() {
				select {
				case answered <- struct{}{}:
				default:
				}
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				break
			}
		}
		_ = client.Close()
	})
	r := bufio.NewReader(client)
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(r, head); err != nil {
			break
		}
		size := int(binary.LittleEndian.Uint32(head) & 0xffffff)
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			break
		}
		when := cutNever
		if f := c.cut.Load(); f != nil && size > 1 && body[0] == 3 && head[3] == 0 {
			when = (*f)(string(body[1:]))
		}
		if when == cutBefore {
			break
		}
		lost.Store(when == cutAfter)
		if _, err := server.Write(append(head, body...)); err != nil {
			break
		}
		if when == cutAfter {
			select {
			case <-answered:
			case <-time.After(10 * time.Second):
			}
			break
		}
	}
	_ = client.Close()
	_ = server.Close()
	wg.Wait()
}

// once cuts the first statement that begins with a word.
func once(word string, when cutWhen) func(string) cutWhen {
	var done atomic.Bool
	return func(q string) cutWhen {
		if strings.HasPrefix(q, word) && done.CompareAndSwap(false, true) {
			return when
		}
		return cutNever
	}
}

// behindCutter is a fresh database whose connections go through a cutter.
func behindCutter(t *testing.T) (*DB, *cutter) {
	t.Helper()
	needMySQL(t)
	s, err := backends.MySQL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := startCutter(t, s.Addr())
	return tested{mysql: true}.with(t, c.config(onServer(t, s))), c
}

// TestConnectionLostBeforeCommit: the function is run again, and what it did counts once.
func TestConnectionLostBeforeCommit(t *testing.T) {
	d, c := behindCutter(t)
	for i, when := range []cutWhen{cutBefore, cutAfter} {
		for _, word := range []string{"INSERT", "SELECT", "UPDATE"} {
			mustExec(t, d, "DELETE FROM test_row")
			c.on(once(word, when))
			runs, after := 0, 0
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				runs++
				tx.AfterCommit(func() { after++ })
				if _, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", 1); err != nil {
					return err
				}
				var n int
				if err := tx.QueryRow(ctx, "SELECT n FROM test_row WHERE id = ?", 1).Scan(&n); err != nil {
					return errors.New("hidden") // the cause is not passed on, and it does not matter
				}
				_, _ = tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = 1") // an error that is ignored must not lead to half a commit
				return nil
			})
			c.on(nil)
			if err != nil || runs != 2 || after != 1 {
				t.Errorf("%d, %s: %v, %d runs, %d AfterCommit", i, word, err, runs, after)
			}
			if n := one[int](t, d, "SELECT sum(n) FROM test_row"); n != 1 {
				t.Errorf("%d, %s: n = %d", i, word, n)
			}
		}
	}
	// A server that is never reached is not tried for ever.
	c.on(func(q string) cutWhen {
		if strings.HasPrefix(q, "INSERT") {
			return cutBefore
		}
		return cutNever
	})
	runs := 0
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		runs++
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", 7)
		return err
	})
	wantUnavailable(t, err, "broke")
	if runs != lostMax || OutcomeUnknown(err) {
		t.Errorf("%d runs, unknown %v", runs, OutcomeUnknown(err))
	}
}

// TestCommitAnswerLost: the error says that the outcome is unknown, which is the truth both times.
func TestCommitAnswerLost(t *testing.T) {
	d, c := behindCutter(t)
	for id, when := range map[int]cutWhen{1: cutBefore, 2: cutAfter} {
		c.on(once("COMMIT", when))
		runs := 0
		err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
			runs++
			tx.AfterCommit(func() { t.Error("AfterCommit of an unknown commit") })
			tx.AtCommit(func() { t.Error("AtCommit of an unknown commit") })
			_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", id)
			return err
		})
		c.on(nil)
		wantUnavailable(t, err, "unknown")
		if runs != 1 || !OutcomeUnknown(err) {
			t.Errorf("%d runs, unknown %v", runs, OutcomeUnknown(err))
		}
		if n := one[int](t, d, "SELECT count(*) FROM test_row WHERE id = ?", id); n != map[cutWhen]int{cutBefore: 0, cutAfter: 1}[when] {
			t.Errorf("cut %v: %d rows", when, n)
		}
	}
	if s := d.Stats(); s.Unknown != 2 {
		t.Errorf("%d unknown outcomes counted", s.Unknown)
	}
	if OutcomeUnknown(nil) || OutcomeUnknown(io.EOF) || OutcomeUnknown(unavailable("x", io.EOF)) {
		t.Error("OutcomeUnknown of other errors")
	}
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (9)") // the order of commits is not held by the one that was lost
}

// TestReadAfterCut: a query is repeated on another connection by itself.
func TestReadAfterCut(t *testing.T) {
	d, c := behindCutter(t)
	for _, when := range []cutWhen{cutBefore, cutAfter} {
		c.on(once("SELECT", when))
		if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 0 {
			t.Error(n)
		}
	}
	c.on(func(string) cutWhen { return cutBefore })
	err := d.QueryRow(ctx, "SELECT count(*) FROM test_row").Scan(new(int))
	if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("a query without a server: %v", err)
	}
	c.on(nil)
	one[int](t, d, "SELECT count(*) FROM test_row")
}

// TestCrosswise: two who lock the same rows in opposite order, and a crowd on one row.
func TestCrosswise(t *testing.T) {
	needMySQL(t)
	e := tested{mysql: true}
	d := e.with(t, e.wide(t, 64))
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1), (2), (3)")
	meet := make(chan struct{})
	var wg sync.WaitGroup
	for _, ids := range [][2]int{{1, 2}, {2, 1}} {
		wg.Go(func() {
			first := true
			err := d.Tx(ctx, "cross", func(ctx context.Context, tx *Tx) error {
				for i, id := range ids {
					if _, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = ?", id); err != nil {
						return err
					}
					if i == 0 && first { // both hold their first row now
						first = false
						select {
						case meet <- struct{}{}:
						case <-meet:
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := one[int](t, d, "SELECT sum(n) FROM test_row"); n != 4 || d.Stats().Reruns == 0 {
		t.Errorf("sum %d, want 4; %d reruns, want some", n, d.Stats().Reruns)
	}
	before, begun := d.Stats().Reruns, time.Now()
	for range 64 {
		wg.Go(func() {
			for range 10 {
				err := d.Tx(ctx, "crowd", func(ctx context.Context, tx *Tx) error {
					var n int
					if err := tx.QueryRow(ctx, "SELECT n FROM test_row WHERE id = 3").Scan(&n); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, "UPDATE test_row SET n = ? WHERE id = 3", n+1)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := one[int](t, d, "SELECT n FROM test_row WHERE id = 3"); n != 640 {
		t.Errorf("n = %d, want 640", n)
	}
	t.Logf("64 callers on one row, each reads and then writes: 640 transactions, %d reruns, %v", d.Stats().Reruns-before, time.Since(begun))
}

// TestLockTimeout: a lock that is held for too long ends in CodeUnavailable, after the tries that there is time for.
func TestLockTimeout(t *testing.T) {
	needMySQL(t)
	e := tested{mysql: true}
	cfg := e.config(t)
	cfg.BusyTimeout = time.Second
	d := e.with(t, cfg)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	locked, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := d.Tx(ctx, "hold", func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, "UPDATE test_row SET n = 1 WHERE id = 1")
			close(locked)
			for err == nil { // a transaction without a word would be undone
				select {
				case <-end:
					return nil
				case <-time.After(time.Second):
					_, err = tx.Exec(ctx, "UPDATE test_row SET n = 1 WHERE id = 1")
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-locked
	cctx, cancel := context.WithTimeout(ctx, 2500*time.Millisecond)
	defer cancel()
	runs := 0
	err := d.Tx(cctx, "wait", func(ctx context.Context, tx *Tx) error {
		runs++
		_, err := tx.Exec(ctx, "UPDATE test_row SET n = 2 WHERE id = 1")
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) || runs < 2 {
		t.Errorf("%v after %d runs", err, runs)
	}
	close(end)
	wg.Wait()
	mustExec(t, d, "UPDATE test_row SET n = 3 WHERE id = 1")
}

// TestSilentHolder: a node that sleeps inside a transaction does not keep the others from its rows, and when it wakes it begins anew.
func TestSilentHolder(t *testing.T) {
	needMySQL(t)
	e := tested{mysql: true}
	d := e.with(t, e.config(t))
	mustExec(t, d, "INSERT INTO test_row (id, n) VALUES (1, 0)")
	locked, wake := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	runs := 0
	var slept error
	wg.Go(func() {
		slept = d.Tx(ctx, "sleep", func(ctx context.Context, tx *Tx) error {
			runs++
			if _, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 10 WHERE id = 1"); err != nil {
				return err
			}
			once.Do(func() { close(locked) })
			<-wake
			return nil
		})
	})
	<-locked
	began := time.Now()
	for { // BusyTimeout may come before the end of the sleeper's time
		err := d.Tx(ctx, "wait", func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = 1")
			return err
		})
		if err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Error(err)
			break
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("a row was held for %s by a node that slept", took)
	}
	close(wake)
	wg.Wait()
	// What it did before was undone. It is told either that nobody knows, as COMMIT was its next word, or that it did all of it again.
	n := one[int](t, d, "SELECT n FROM test_row WHERE id = 1")
	if !(slept == nil && runs == 2 && n == 11) && !(OutcomeUnknown(slept) && runs == 1 && n == 1) {
		t.Errorf("n = %d after %d runs: %v", n, runs, slept)
	}
}

// TestServerKilled: no transaction that was answered is lost, none is there in half, and the pool heals.
func TestServerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills servers")
	}
	s := startServer(t, backends.MySQLOptions{Durable: true})
	run := func(early bool) (acked, missing int) {
		cfg := onServer(t, s)
		cfg.Writers = 16
		d := tested{mysql: true}.with(t, cfg)
		var mu sync.Mutex
		told, unknown := map[int64]bool{}, map[int64]bool{}
		tell := func(m map[int64]bool, id int64) {
			mu.Lock()
			defer mu.Unlock()
			m[id] = true
		}
		stop := make(chan struct{})
		var n atomic.Int64
		var wg sync.WaitGroup
		for g := range int64(16) {
			wg.Go(func() {
				for i := int64(0); ; i += 2 {
					select {
					case <-stop:
						return
					default:
					}
					id := g<<32 | i
					err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
						for _, id := range []int64{id, id + 1} {
							if _, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", id, strings.Repeat("x", 150)); err != nil {
								return err
							}
						}
						if early {
							tell(told, id)
						}
						return nil
					})
					switch {
					case err == nil:
						tell(told, id)
						n.Add(1)
					case OutcomeUnknown(err):
						tell(unknown, id)
					case levee.CodeOf(err) != levee.CodeUnavailable:
						t.Error(err)
					}
				}
			})
		}
		for kill := range 3 {
			for n.Load() < int64(200*(kill+1)) {
				time.Sleep(time.Millisecond)
			}
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			if err := s.Restart(ctx); err != nil {
				t.Fatal(err)
			}
		}
		before := n.Load()
		for deadline := time.Now().Add(20 * time.Second); n.Load() < before+200; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the pool did not heal")
			}
		}
		close(stop)
		wg.Wait()
		rows, err := d.Query(ctx, "SELECT id FROM test_row ORDER BY id")
		if err != nil {
			t.Fatal(err)
		}
		there := map[int64]bool{}
		for rows.Next() {
			var id int64
			if err := rows.Scan(&id); err != nil {
				t.Fatal(err)
			}
			there[id] = true
		}
		if err := cmpOr(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		for id := range there {
			if id%2 == 0 && !there[id+1] || id%2 == 1 && !there[id-1] {
				t.Errorf("half a transaction: %d", id)
			}
			if !early && id%2 == 0 && !told[id] && !unknown[id] {
				t.Errorf("%d is there although its caller was told that nothing was changed", id)
			}
		}
		for id := range told {
			if !there[id] {
				missing++
			}
		}
		st := d.Stats()
		t.Logf("%d answered, %d unknown, %d reruns, %d rows", len(told), len(unknown), st.Reruns, len(there))
		return len(told), missing
	}
	if acked, missing := run(false); missing > 0 {
		t.Errorf("%d of %d answered transactions are lost", missing, acked)
	}
	for range 5 {
		if _, missing := run(true); missing > 0 {
			return
		}
	}
	t.Error("a caller who answers before the commit is not caught: this test has lost its teeth")
}

// TestServerPaused: callers who wait leave with their context, those under way get an error in bounded time, and nothing is half done.
func TestServerPaused(t *testing.T) {
	s := startServer(t, backends.MySQLOptions{})
	cfg := onServer(t, s)
	cfg.URL += "?answer_timeout=2s&connect_timeout=1s"
	cfg.Writers, cfg.Readers, cfg.BusyTimeout = 4, 2, time.Second
	d := tested{mysql: true}.with(t, cfg)
	paused := make(chan struct{})
	var wg sync.WaitGroup
	began := make(chan struct{}, 4)
	for i := range 4 {
		wg.Go(func() {
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				if _, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i); err != nil {
					return err
				}
				began <- struct{}{}
				<-paused
				_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", 100+i)
				return err
			})
			wantUnavailable(t, err, "does not answer")
		})
	}
	for range 4 {
		<-began
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // all of the server's threads have stopped
	begun := time.Now()
	close(paused)
	for i := range 8 {
		wg.Go(func() {
			cctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			begun := time.Now()
			err := d.Tx(cctx, "test", func(context.Context, *Tx) error { return nil })
			if levee.CodeOf(err) != levee.CodeTimeout || time.Since(begun) > 20*time.Second {
				t.Errorf("waiting caller %d: %v after %v", i, err, time.Since(begun))
			}
			cctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			begun = time.Now()
			if err := d.QueryRow(cctx, "SELECT 1").Scan(new(int)); levee.CodeOf(err) != levee.CodeTimeout || time.Since(begun) > 20*time.Second {
				t.Errorf("reader %d: %v after %v", i, err, time.Since(begun))
			}
		})
	}
	wg.Wait()
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("all were answered only after %v", took)
	}
	err := d.Ping(ctx)
	if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("Ping: %v", err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); d.Ping(ctx) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the pool did not heal")
		}
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 0 {
		t.Errorf("%d rows of transactions whose callers were told that nothing was changed", n)
	}
}

// TestServerFull: more callers than the server has connections are served, or told to come again.
func TestServerFull(t *testing.T) {
	s := startServer(t, backends.MySQLOptions{Settings: map[string]string{"max_connections": "12"}})
	user(t, s, "shop", "")
	cfg := onServer(t, s)
	cfg.URL = strings.Replace(cfg.URL, "root@", "shop@", 1) // the administrator has one connection more
	cfg.Writers, cfg.Readers = 32, 4
	d := tested{mysql: true}.with(t, cfg)
	var ok, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 10 {
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					time.Sleep(time.Millisecond)
					_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i*100+j)
					return err
				})
				switch {
				case err == nil:
					ok.Add(1)
				case levee.CodeOf(err) == levee.CodeUnavailable:
					wantUnavailable(t, err, "no connection free")
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := one[int64](t, d, "SELECT count(*) FROM test_row"); n != ok.Load() || n == 0 {
		t.Errorf("%d rows, %d acknowledged", n, ok.Load())
	}
	t.Logf("%d served, %d refused", ok.Load(), refused.Load())
}

// user makes a user who is not an administrator.
func user(t *testing.T, s *backends.MySQLServer, name, password string) {
	t.Helper()
	for _, q := range []string{
		fmt.Sprintf("CREATE USER %s@'%%' IDENTIFIED BY '%s'", name, password),
		fmt.Sprintf("GRANT ALL ON *.* TO %s@'%%'", name),
		fmt.Sprintf("REVOKE SUPER, READ_ONLY ADMIN, CONNECTION ADMIN ON *.* FROM %s@'%%'", name),
	} {
		if err := s.Exec(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServerReadOnly: as a replica is, or a primary in the middle of a fail-over.
func TestServerReadOnly(t *testing.T) {
	s := startServer(t, backends.MySQLOptions{})
	user(t, s, "shop", "")
	cfg := onServer(t, s)
	cfg.URL = strings.Replace(cfg.URL, "root@", "shop@", 1)
	d := tested{mysql: true}.with(t, cfg)
	inside := make(chan struct{})
	go func() {
		<-inside
		if err := s.Exec(ctx, "SET GLOBAL read_only = 1"); err != nil {
			t.Error(err)
		}
		inside <- struct{}{}
	}()
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		if err := tx.QueryRow(ctx, "SELECT 1").Scan(new(int)); err != nil {
			return err
		}
		inside <- struct{}{}
		<-inside
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (1)")
		return err
	})
	wantUnavailable(t, err, "read-only")
	_, err = Open(ctx, cfg, quiet(t))
	wantCode(t, err, levee.CodeUnavailable, "read-only")
	one[int](t, d, "SELECT count(*) FROM test_row")
	if err := s.Exec(ctx, "SET GLOBAL read_only = 0"); err != nil {
		t.Fatal(err)
	}
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (2)")
}

// TestServerRestarted: connections that lay idle while the server was restarted are noticed before anything is sent over them.
func TestServerRestarted(t *testing.T) {
	s := startServer(t, backends.MySQLOptions{})
	d := tested{mysql: true}.with(t, onServer(t, s))
	one[int](t, d, "SELECT count(*) FROM test_row")
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	runs := 0
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		runs++
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (1)")
		return err
	})
	if err != nil || runs != 1 {
		t.Errorf("%v, %d runs", err, runs)
	}
	one[int](t, d, "SELECT count(*) FROM test_row")
}
