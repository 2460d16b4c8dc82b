package db

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
)

// withReplicas is a database on a primary with n replicas that are all in use. Their connections go through cutters.
func withReplicas(t *testing.T, n int) (*DB, *backends.MySQLServer, []*cutter) {
	t.Helper()
	s := startServer(t, backends.MySQLOptions{Replicas: n})
	cfg := onServer(t, s)
	cfg.ReplicaLag = 2 * time.Second
	var cutters []*cutter
	for _, r := range s.Replicas {
		c := startCutter(t, r.Addr())
		cutters = append(cutters, c)
		cfg.Replicas = append(cfg.Replicas, strings.Replace(cfg.URL, s.Addr(), c.listener.Addr().String(), 1))
	}
	d := tested{mysql: true}.with(t, cfg)
	waitUsable(t, d, n)
	return d, s, cutters
}

func waitUsable(t *testing.T, d *DB, n int) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); d.Stats().Replicas != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d replicas in use, want %d", d.Stats().Replicas, n)
		}
	}
}

// where tells which server a read came from: the number of the server.
func where(t testing.TB, d *DB, ctx context.Context) (id int) {
	t.Helper()
	if err := d.QueryRow(ctx, "SELECT @@server_id").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

func serverID(t testing.TB, s *backends.MySQLServer) (id int) {
	t.Helper()
	text, err := s.QueryString(ctx, "SELECT @@server_id")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(text, &id); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestWhereReadsGo is the table of what is read where.
func TestWhereReadsGo(t *testing.T) {
	d, s, cutters := withReplicas(t, 1)
	primary, replica := serverID(t, s), serverID(t, s.Replicas[0])
	reads := func(q string, args ...any) func(ctx context.Context) (int, error) {
		return func(ctx context.Context) (id int, err error) {
			return id, d.QueryRow(ctx, q, args...).Scan(&id)
		}
	}
	plain := reads("SELECT @@server_id")
	scoped := Scope(ctx)
	scopedReplica := Using(scoped, OnReplica)
	for _, c := range []struct {
		what string
		ctx  context.Context
		read func(ctx context.Context) (int, error)
		want int
	}{
		{"by default", ctx, plain, primary},
		{"in a scope", scoped, plain, primary},
		{"asked for", Using(ctx, OnReplica), plain, replica},
		{"asked for, in a scope", scopedReplica, plain, replica},
		{"asked for, with a value", Using(ctx, OnReplica), reads("SELECT @@server_id + ?", 0), replica},
		{"a WITH", Using(ctx, OnReplica), reads("WITH x AS (SELECT @@server_id AS id) SELECT id FROM x"), replica},
		{"in brackets", Using(ctx, OnReplica), reads("(SELECT @@server_id)"), replica},
		{"with a comment", Using(ctx, OnReplica), reads("/* FOR UPDATE */ SELECT @@server_id"), replica},
		{"an unknown place", Using(ctx, "moon"), plain, primary},
		{"primary over replica", Primary(Using(ctx, OnReplica)), plain, primary},
		{"replica under primary", Using(Primary(ctx), OnReplica), plain, primary},
		{"bun", Using(ctx, OnReplica), func(ctx context.Context) (id int, err error) {
			return id, d.Read(ctx).NewSelect().ColumnExpr("@@server_id").Scan(ctx, &id)
		}, replica},
		{"bun by default", ctx, func(ctx context.Context) (id int, err error) {
			return id, d.Read(ctx).NewSelect().ColumnExpr("@@server_id").Scan(ctx, &id)
		}, primary},
		{"a snapshot", Using(ctx, OnReplica), func(ctx context.Context) (id int, err error) {
			tx, err := d.Read(ctx).BeginTx(ctx, nil)
			if err != nil {
				return 0, err
			}
			return id, cmpOr(tx.QueryRowContext(ctx, "SELECT @@server_id").Scan(&id), tx.Rollback())
		}, replica},
		{"inside Tx", Using(ctx, OnReplica), func(ctx context.Context) (id int, err error) {
			return id, d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error { return tx.QueryRow(ctx, "SELECT @@server_id").Scan(&id) })
		}, primary},
		{"the pool inside Tx", Using(ctx, OnReplica), func(ctx context.Context) (id int, err error) {
			return id, d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error { return plainInto(d, ctx, &id) })
		}, primary},
		{"after a Tx in the same context", Using(ctx, OnReplica), func(ctx context.Context) (int, error) {
			if err := d.Tx(ctx, "test", func(context.Context, *Tx) error { return nil }); err != nil {
				return 0, err
			}
			return plain(ctx)
		}, primary},
		{"after a Tx in a context made from it", Using(ctx, OnReplica), func(ctx context.Context) (int, error) {
			inner, cancel := context.WithCancel(ctx)
			defer cancel()
			if err := d.Tx(inner, "test", func(context.Context, *Tx) error { return nil }); err != nil {
				return 0, err
			}
			return plain(ctx)
		}, primary},
		{"after a Tx that failed", Using(ctx, OnReplica), func(ctx context.Context) (int, error) {
			_ = d.Tx(ctx, "test", func(context.Context, *Tx) error { return fmt.Errorf("undo") })
			return plain(ctx)
		}, replica},
		{"asked for after the Tx of the scope", scoped, func(ctx context.Context) (int, error) {
			if err := d.Tx(ctx, "test", func(context.Context, *Tx) error { return nil }); err != nil {
				return 0, err
			}
			return plain(Using(ctx, OnReplica))
		}, primary},
		{"the other half of that scope", scopedReplica, plain, primary},
		{"another request meanwhile", Using(ctx, OnReplica), plain, replica},
	} {
		if id, err := c.read(c.ctx); err != nil || id != c.want {
			t.Errorf("%s: server %d, %v, want %d (the primary is %d)", c.what, id, err, c.want, primary)
		}
	}
	// What locks is refused, and nothing of it reaches a replica.
	var seen atomic.Int64
	cutters[0].on(func(q string) cutWhen {
		if strings.Contains(strings.ToUpper(q), "FOR ") || strings.Contains(strings.ToUpper(q), "LOCK") || strings.Contains(q, "DELETE") {
			seen.Add(1)
		}
		return cutNever
	})
	for _, q := range []string{"SELECT id FROM test_row FOR UPDATE", "SELECT id FROM test_row for update skip locked", "SELECT id FROM test_row FOR UPDATE NOWAIT",
		"SELECT id FROM test_row LOCK IN SHARE MODE", "SELECT id FROM test_row FOR SHARE", "(SELECT id FROM test_row FOR UPDATE)",
		"WITH x AS (SELECT id FROM test_row) SELECT * FROM x FOR\n/* */ UPDATE", "DELETE FROM test_row"} {
		if _, err := d.Query(Using(ctx, OnReplica), q); err == nil {
			t.Errorf("%s was taken", q)
		}
	}
	if err := d.Read(Using(ctx, OnReplica)).NewSelect().Table("test_row").For("UPDATE").Scan(ctx, &[]int{}); err == nil {
		t.Error("bun's FOR UPDATE was taken")
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("%d such statements reached the replica", n)
	}
}

func plainInto(d *DB, ctx context.Context, id *int) error {
	return d.QueryRow(ctx, "SELECT @@server_id").Scan(id)
}

// TestMarker: a session that wrote reads the primary for a while, over requests and nodes.
func TestMarker(t *testing.T) {
	d, s, _ := withReplicas(t, 1)
	primary, replica := serverID(t, s), serverID(t, s.Replicas[0])
	request := Scope(ctx)
	if m := d.Marker(request); m != "" || Wrote(request) {
		t.Errorf("a marker %q before anything was written", m)
	}
	if err := d.Tx(request, "test", func(context.Context, *Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	marker := d.Marker(request)
	if marker == "" || !Wrote(request) {
		t.Fatal("no marker after a write")
	}
	follow := func(marker string) context.Context { return Using(d.Follow(Scope(ctx), marker), OnReplica) }
	if id := where(t, d, follow(marker)); id != primary {
		t.Errorf("the next request read server %d", id)
	}
	// The replica shows soon that it has the write; the session is read there again long before StickyFor is over.
	begun := time.Now()
	for where(t, d, follow(marker)) != replica {
		if time.Since(begun) > d.cfg.StickyFor-500*time.Millisecond {
			t.Fatal("still on the primary")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("marker %q: on the replica again after %v", marker, time.Since(begun))
	// What no node has written does nothing.
	earliest, latest := d.replicas.serverTime()
	if latest-earliest > 200 {
		t.Errorf("the primary's clock is known to %d ms only", latest-earliest)
	}
	for _, m := range []string{"", "x", "-1", "0", "zzzzzzzzzzzz", "zzzzzzzzzzzzz", "1 2", strconv.FormatInt(latest+clockSlack.Milliseconds()+100, 36),
		strconv.FormatInt(earliest-d.cfg.StickyFor.Milliseconds(), 36), strconv.FormatInt(earliest-time.Hour.Milliseconds(), 36), strings.Repeat("9", 1<<20)} {
		if id := where(t, d, follow(m)); id != replica {
			t.Errorf("marker %q: read server %d, want the replica", levee.Shorten(m, 40), id)
		}
	}
	// The worst that a forged one does: the primary is read, until StickyFor is over, however far the replica is.
	if err := s.Replicas[0].StopReplication(ctx); err != nil {
		t.Fatal(err)
	}
	forged := strconv.FormatInt(earliest, 36)
	if id := where(t, d, follow(forged)); id != primary && id != replica {
		t.Errorf("read server %d", id)
	}
	time.Sleep(d.cfg.StickyFor)
	if fresh := d.Follow(ctx, forged); fresh.Value(stickyKey{}) != nil {
		t.Error("a marker outlives StickyFor")
	}
}

// TestMarkerOfAnotherNode: nodes agree on what a marker means, because the primary's clock is the only one that counts.
func TestMarkerOfAnotherNode(t *testing.T) {
	d, s, _ := withReplicas(t, 1)
	cfg := d.cfg
	cfg.ReplicaLag, cfg.StickyFor = time.Minute, time.Minute
	a, b := open(t, cfg), open(t, cfg)
	waitUsable(t, a, 1)
	waitUsable(t, b, 1)
	// However wrong a node's own clock is: what it goes by is what the primary said.
	right := b.replicas.clock.Load().begun
	b.replicas.clock.Store(&serverClock{begun: right + time.Hour.Milliseconds()})
	for deadline := time.Now().Add(10 * time.Second); max(b.replicas.clock.Load().begun-right, right-b.replicas.clock.Load().begun) > 300; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the node does not ask the primary what time it is")
		}
	}
	mustExec(t, a, "INSERT INTO test_row (id, n) VALUES (1, 0)")
	if err := s.Replicas[0].CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Replicas[0].Lag(ctx, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	waitUsable(t, b, 1)
	stale := 0
	for n := 1; n <= 200; n++ {
		request := Scope(ctx)
		if err := a.Tx(request, "test", func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, "UPDATE test_row SET n = ? WHERE id = 1", n)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := b.QueryRow(Using(b.Follow(Scope(ctx), a.Marker(request)), OnReplica), "SELECT n FROM test_row WHERE id = 1").Scan(&got); err != nil || got != n {
			t.Fatalf("read %d on the other node after %d was written, %v", got, n, err)
		}
		if err := b.QueryRow(Using(ctx, OnReplica), "SELECT n FROM test_row WHERE id = 1").Scan(&got); err != nil {
			t.Fatal(err)
		} else if got < n {
			stale++
		}
		time.Sleep(5 * time.Millisecond)
	}
	if stale < 100 {
		t.Errorf("only %d of 200 reads without a marker were stale: this test has lost its teeth", stale)
	}
}

// TestReplicaLags: a replica that stands still is read while it is within the lag, and left out when it is not; whoever wrote
// never sees less than he wrote.
func TestReplicaLags(t *testing.T) {
	d, s, _ := withReplicas(t, 1)
	replica := serverID(t, s.Replicas[0])
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	time.Sleep(100 * time.Millisecond)
	if err := s.Replicas[0].StopReplication(ctx); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	stale, out := 0, time.Duration(0)
	for n := 1; time.Since(stopped) < 4*time.Second; n++ {
		request := Using(Scope(ctx), OnReplica)
		err := d.Tx(request, "test", func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, "UPDATE test_row SET n = ? WHERE id = 1", n)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		written := time.Now()
		for who, ctx := range map[string]context.Context{"the request": request, "the session": Using(d.Follow(Scope(ctx), d.Marker(request)), OnReplica)} {
			var got int
			if err := d.QueryRow(ctx, "SELECT n FROM test_row WHERE id = 1").Scan(&got); err != nil || got != n {
				t.Fatalf("%s that wrote %d read %d, %v", who, n, got, err)
			}
		}
		// A stranger may read what is old, but no older than the lag.
		var got, id int
		begun := time.Now()
		if err := d.QueryRow(Using(ctx, OnReplica), "SELECT n, @@server_id FROM test_row WHERE id = 1").Scan(&got, &id); err != nil {
			t.Fatal(err)
		}
		if got < n {
			stale++
		}
		if id == replica {
			out = time.Since(stopped)
			if begun.Sub(stopped) > d.cfg.ReplicaLag {
				t.Errorf("a replica that stands still is read after %v", begun.Sub(stopped))
			}
		}
		_ = written
		time.Sleep(5 * time.Millisecond)
	}
	if stale == 0 {
		t.Error("no stale read at all: the replica was not lagging, so this test has lost its teeth")
	}
	if s := d.Stats(); s.Replicas != 0 {
		t.Error("a replica that stands still is in use")
	}
	t.Logf("%d stale reads by strangers, the last from the replica %v after it stopped", stale, out)
	if err := s.Replicas[0].StartReplication(ctx); err != nil {
		t.Fatal(err)
	}
	waitUsable(t, d, 1)
	if id := where(t, d, Using(ctx, OnReplica)); id != replica {
		t.Error("it is not read again")
	}
}

// TestReplicaDies: killed, paused and cut replicas are left out soon, and no read fails meanwhile but those that hang in a paused one.
func TestReplicaDies(t *testing.T) {
	d, s, cutters := withReplicas(t, 2)
	rctx := Using(ctx, OnReplica)
	ids := map[int]int{}
	for range 40 {
		ids[where(t, d, rctx)]++
	}
	if len(ids) != 2 || ids[serverID(t, s)] != 0 {
		t.Errorf("reads over two replicas went to %v", ids)
	}
	for _, c := range []struct {
		what      string
		down, up  func() error
		transport bool // reads that are under way may end with their context
	}{
		{"killed", s.Replicas[0].Kill, func() error { return s.Replicas[0].Restart(ctx) }, false},
		{"paused", s.Replicas[0].Pause, s.Replicas[0].Resume, true},
		{"cut", func() error { cutters[0].on(func(string) cutWhen { return cutBefore }); return nil }, func() error { cutters[0].on(nil); return nil }, false},
	} {
		waitUsable(t, d, 2)
		if err := c.down(); err != nil {
			t.Fatal(err)
		}
		begun, failed, out := time.Now(), 0, time.Time{}
		for out.IsZero() || time.Since(out) < 500*time.Millisecond {
			if time.Since(begun) > 30*time.Second {
				t.Fatalf("%s: it is in use after %v", c.what, time.Since(begun))
			}
			hangs, patience := c.transport && out.IsZero(), 10*time.Second // on a busy machine a read may take its time
			if hangs {
				patience = 200 * time.Millisecond
			}
			rctx, cancel := context.WithTimeout(rctx, patience)
			err := d.QueryRow(rctx, "SELECT count(*) FROM test_row").Scan(new(int))
			cancel()
			if err != nil {
				failed++
				if !hangs || levee.CodeOf(err) != levee.CodeTimeout {
					t.Errorf("%s: %v after %v", c.what, err, time.Since(begun))
				}
			}
			if out.IsZero() && d.Stats().Replicas == 1 {
				out = time.Now()
				t.Logf("%s: left out after %v", c.what, out.Sub(begun))
			}
		}
		if n := d.Stats().Replicas; n != 1 {
			t.Errorf("%s: %d replicas in use", c.what, n)
		}
		if c.transport && failed == 0 {
			t.Logf("%s: noticed by the watch before a read ran into it", c.what)
		}
		if err := c.up(); err != nil {
			t.Fatal(err)
		}
	}
	waitUsable(t, d, 2)
	// All are away: the primary serves.
	for _, r := range s.Replicas {
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if id := where(t, d, rctx); id != serverID(t, s) {
			t.Errorf("read from server %d", id)
		}
	}
	waitUsable(t, d, 0)
	// A node starts without its replicas.
	cfg := d.cfg
	other := open(t, cfg)
	if err := other.Ping(ctx); err != nil {
		t.Error(err)
	}
}

func TestReplicaConfigRefused(t *testing.T) {
	needMySQL(t)
	good := tested{mysql: true}.config(t)
	for _, c := range []struct {
		change func(c *Config)
		field  string
	}{
		{func(c *Config) { c.Replicas = []string{c.URL} }, "db.replicas[0]"},
		{func(c *Config) { c.Replicas = []string{"mysql://u:s3cret@h/x"} }, "db.replicas[0]"},
		{func(c *Config) { c.Replicas = []string{"sqlite:x"} }, "db.replicas[0]"},
		{func(c *Config) { c.Replicas = make([]string, 9) }, "db.replicas"},
		{func(c *Config) { c.ReplicaLag = time.Second }, "db.replica_lag"},
		{func(c *Config) { c.ReplicaLag, c.StickyFor = 10*time.Second, 5*time.Second }, "db.sticky_for"},
		{func(c *Config) {
			c.URL, c.Writers, c.Readers = "sqlite:x.db", 0, 0
			c.Replicas = []string{"mysql://u@h/x"}
		}, "db.replicas"},
	} {
		cfg := good
		c.change(&cfg)
		d, err := Open(ctx, cfg, quiet(t))
		if err == nil {
			_ = d.Close()
			t.Errorf("%s: taken", c.field)
			continue
		}
		wantCode(t, err, levee.CodeInvalid, c.field)
		if strings.Contains(err.Error(), "s3cret") {
			t.Error(err)
		}
	}
	// On SQLite the words mean nothing and do no harm.
	d := opened(t)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	if err := d.QueryRow(Using(ctx, OnReplica), "SELECT id FROM test_row").Scan(new(int)); err != nil || d.Marker(Scope(ctx)) != "" {
		t.Error(err)
	}
}
