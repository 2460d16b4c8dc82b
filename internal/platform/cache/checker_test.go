package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// The stale-read checker. Writers count a row's version up in SQL, invalidate, and then acknowledge. A reader notes the highest
// version acknowledged on any node before it reads: a smaller one that comes back is a stale read.

const (
	checkedKeys = 16
	ackMost     = 200_000 // versions of one key in one run
	replicaLag  = 30 * time.Millisecond
)

type onPrimary struct{}

// Which replica the loads ask: none; one that is played, and shows every commit replicaLag late; a MariaDB that stops applying
// for moments.
type replica int

const (
	noReplica replica = iota
	played
	real
)

// house is the database of the checker.
type house struct {
	db      *db.DB
	loads   atomic.Int64
	late    atomic.Pointer[[checkedKeys]int64] // what the played replica shows
	acked   atomic.Pointer[func(k int, version int64)]
	replica replica
}

// primary leads the loads to the primary, whatever the replica is.
func primary(ctx context.Context) context.Context {
	return db.Primary(context.WithValue(ctx, onPrimary{}, true))
}

func newHouse(t *testing.T, kind replica) *house {
	t.Helper()
	cfg := db.Config{URL: "sqlite:" + t.TempDir() + "/checker.db"}
	if kind == real {
		cfg = stumbling(t)
	}
	d, err := db.Open(background, cfg, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{db: d, replica: kind}
	h.late.Store(new([checkedKeys]int64))
	make := []string{"CREATE TABLE cache_row (id BIGINT PRIMARY KEY, ver BIGINT NOT NULL)", "CREATE TABLE cache_outbox (ver BIGINT NOT NULL, id BIGINT NOT NULL, PRIMARY KEY (id, ver))"}
	for k := range checkedKeys {
		make = append(make, "INSERT INTO cache_row (id, ver) VALUES ("+strconv.Itoa(k)+", 1)")
	}
	for _, statement := range make {
		if err := d.Tx(background, "make", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, statement)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(background)
	var wg sync.WaitGroup
	if kind == played {
		wg.Go(func() { h.replicate(ctx) })
	}
	t.Cleanup(func() {
		stop()
		wg.Wait()
		_ = d.Close()
	})
	for end := time.Now().Add(15 * time.Second); kind == real && d.Stats().Replicas == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the replica is not used")
		}
	}
	return h
}

// stumbling starts a MariaDB with a replica that stops applying for moments, again and again.
func stumbling(t *testing.T) db.Config {
	t.Helper()
	s, err := backends.StartMySQL(background, backends.MySQLOptions{Replicas: 1})
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		behind := s.Replicas[0]
		for {
			err := errors.Join(behind.Exec(background, "STOP SLAVE SQL_THREAD"), wait(stop, replicaLag+rand.N(2*replicaLag)), behind.Exec(background, "START SLAVE SQL_THREAD"))
			if err == nil {
				err = wait(stop, replicaLag)
			}
			if err != nil {
				if !errors.Is(err, errStop) {
					t.Error(err)
				}
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	address, _, err := s.NewDatabase(background)
	if err != nil {
		t.Fatal(err)
	}
	return db.Config{URL: address, Password: obs.Secret(s.Password()), Replicas: []string{strings.Replace(address, s.Addr(), s.Replicas[0].Addr(), 1)}}
}

var errStop = errors.New("stopped")

func wait(stop chan struct{}, d time.Duration) error {
	select {
	case <-stop:
		return errStop
	case <-time.After(d):
		return nil
	}
}

// replicate takes snapshots, and shows each when it is old enough.
func (h *house) replicate(ctx context.Context) {
	type snapshot struct {
		at   time.Time
		rows *[checkedKeys]int64
	}
	var line []snapshot
	for ctx.Err() == nil {
		at := time.Now()
		rows := new([checkedKeys]int64)
		if r, err := h.db.Query(ctx, "SELECT id, ver FROM cache_row"); err == nil {
			for r.Next() {
				var k, ver int64
				if r.Scan(&k, &ver) == nil {
					rows[k] = ver
				}
			}
			_ = r.Close()
			line = append(line, snapshot{at, rows})
		}
		for len(line) > 0 && time.Since(line[0].at) >= replicaLag {
			h.late.Store(line[0].rows)
			line = line[1:]
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// load reads a row; one in fifty answers is slow to arrive.
func (h *house) load(ctx context.Context, k int) (v, version int64, err error) {
	h.loads.Add(1)
	if h.replica == real {
		ctx = db.Using(ctx, db.OnReplica) // unless it is asked for the primary
	}
	if h.replica == played && ctx.Value(onPrimary{}) == nil {
		version = max(h.late.Load()[k], 1)
	} else if err := h.db.QueryRow(ctx, "SELECT ver FROM cache_row WHERE id = ?", k).Scan(&version); err != nil {
		return 0, 0, err
	}
	if rand.N(50) == 0 {
		time.Sleep(5*time.Millisecond + rand.N(55*time.Millisecond))
	}
	return version, version, nil
}

// change counts up, and writes into the outbox in the same transaction.
func (h *house) change(k int) (version int64, err error) {
	err = h.db.Tx(background, "change", func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE cache_row SET ver = ver + 1 WHERE id = ?", k); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT ver FROM cache_row WHERE id = ?", k).Scan(&version); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO cache_outbox (id, ver) VALUES (?, ?)", k, version)
		return err
	})
	return version, err
}

// relay does what the listener of an event does: it repeats the invalidation, until that is taken.
func (h *house) relay(ctx context.Context, s kept) {
	for ctx.Err() == nil {
		var list []Change[int]
		if r, err := h.db.Query(ctx, "SELECT id, MAX(ver) FROM cache_outbox GROUP BY id"); err == nil {
			for r.Next() {
				var c Change[int]
				if r.Scan(&c.Key, &c.Version) == nil {
					list = append(list, c)
				}
			}
			_ = r.Close()
		}
		for _, c := range list {
			if s.invalidate(c.Key, c.Version) == nil {
				if acked := h.acked.Load(); acked != nil {
					(*acked)(c.Key, c.Version)
				}
				_ = h.db.Tx(ctx, "relayed", func(ctx context.Context, tx *db.Tx) error {
					_, err := tx.Exec(ctx, "DELETE FROM cache_outbox WHERE id = ? AND ver <= ?", c.Key, c.Version)
					return err
				})
			}
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// kept is a strategy on one node.
type kept interface {
	get(k int) (int64, error)
	invalidate(k int, version int64) error
}

// fenced is ours.
type fenced struct {
	s   *Shared[int, int64]
	h   *house
	ctx context.Context
}

func (f fenced) get(k int) (int64, error) { return f.s.Get(f.ctx, k, f.h.load) }
func (f fenced) invalidate(k int, version int64) error {
	return f.s.Invalidate(background, Change[int]{k, version})
}

// deleted is the negative control: read through Redis, delete after the commit. Of each key, the first reader who finds nothing writes what he has
// read only after the next change: that such a one comes is a matter of time, and here not of chance.
type deleted struct {
	c    *goredis.Client
	h    *house
	slow *slowReaders
}

// slowReaders holds the first reader of each key until the key was changed and deleted.
type slowReaders struct {
	first   [checkedKeys]atomic.Bool
	changed [checkedKeys]atomic.Int64
}

func (s *slowReaders) wait(k int) {
	if !s.first[k].CompareAndSwap(false, true) {
		return
	}
	was := s.changed[k].Load()
	for end := time.Now().Add(5 * time.Second); s.changed[k].Load() == was && time.Now().Before(end); { // in the end nobody writes any more
		time.Sleep(time.Millisecond)
	}
}

func (d deleted) get(k int) (int64, error) {
	key := strconv.Itoa(k)
	v, err := d.c.Get(background, key).Int64()
	if err == nil || !errors.Is(err, goredis.Nil) {
		return v, err
	}
	v, _, err = d.h.load(background, k)
	if err == nil {
		d.slow.wait(k)
		err = d.c.Set(background, key, v, time.Minute).Err()
	}
	return v, err
}
func (d deleted) invalidate(k int, _ int64) error {
	err := d.c.Del(background, strconv.Itoa(k)).Err()
	d.slow.changed[k].Add(1)
	return err
}

// verdict is what a run found.
type verdict struct {
	reads, stale, stuck, loads, errors, changes int64
	oldest                                      time.Duration // how long after its acknowledgement a change was not seen
}

// judge runs writers and readers over the nodes for a time, and then looks whether every key is right within the patience.
func judge(t *testing.T, h *house, nodes []kept, lost float64, control bool, length, patience time.Duration) verdict {
	t.Helper()
	return judgeUnder(t, h, nodes, lost, false, control, length, patience)
}

// judgeUnder is judge while servers fail: a change is acknowledged when it was taken, by the relay at last, and never by a writer that dies
// between commit and invalidation, which is what lost ones then are.
func judgeUnder(t *testing.T, h *house, nodes []kept, lost float64, faults, control bool, length, patience time.Duration) verdict {
	t.Helper()
	var v verdict
	var floor [checkedKeys]atomic.Int64
	acked := make([]atomic.Int64, checkedKeys*ackMost) // when, in nanoseconds since began; 0: not yet
	began := time.Now()
	var stop atomic.Bool
	var all sync.WaitGroup
	var reads, stale, oldest, failed, changes atomic.Int64
	ack := func(k int, version int64) {
		acked[k*ackMost+int(version)].CompareAndSwap(0, int64(time.Since(began)))
		raise(&floor[k], version)
	}
	if faults {
		h.acked.Store(&ack)
		defer h.acked.Store(nil)
	}
	for w := range 4 {
		all.Go(func() {
			for !stop.Load() {
				k := rand.N(checkedKeys)
				version, err := h.change(k)
				if err != nil || version >= ackMost {
					t.Errorf("change to %d: %v", version, err)
					return
				}
				changes.Add(1)
				if rand.Float64() >= lost {
					err = nodes[w%len(nodes)].invalidate(k, version)
					if err != nil && !faults {
						t.Errorf("invalidate: %v", err)
					}
				} else if faults {
					err = errors.New("it died")
				}
				if err == nil {
					ack(k, version)
				}
				time.Sleep(rand.N(4 * time.Millisecond))
			}
		})
	}
	for r := range 16 {
		all.Go(func() {
			for !stop.Load() {
				k := rand.N(checkedKeys)
				least, asked := floor[k].Load(), int64(time.Since(began))
				got, err := nodes[r%len(nodes)].get(k)
				reads.Add(1)
				time.Sleep(rand.N(200 * time.Microsecond)) // the writers and the messages need the processor too
				if err != nil {
					failed.Add(1)
					continue
				}
				if got < least {
					stale.Add(1)
					for missed := int(got) + 1; missed <= int(least); missed++ {
						if at := acked[k*ackMost+missed].Load(); at > 0 {
							raise(&oldest, asked-at) // not until the answer: a machine that is slow to bring it is no staleness
							break
						}
					}
				}
			}
		})
	}
	// On a machine that has other things to do a run goes on until it has seen enough to say something.
	for end := began.Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) >= length && reads.Load() >= 2000 && changes.Load() >= 100 && (!control || stale.Load() > 0) {
			break
		}
	}
	stop.Store(true)
	all.Wait()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		v.stuck = 0
		for k := range checkedKeys {
			for _, n := range nodes {
				if got, err := n.get(k); err != nil || got < floor[k].Load() {
					v.stuck++
				}
			}
		}
		if v.stuck == 0 || time.Now().After(end) {
			break
		}
	}
	v.changes = changes.Load()
	v.reads, v.stale, v.errors, v.loads, v.oldest = reads.Load(), stale.Load(), failed.Load(), h.loads.Load(), time.Duration(oldest.Load())
	return v
}

func TestStaleReads(t *testing.T) {
	length := 1500 * time.Millisecond
	if testing.Short() {
		length = 400 * time.Millisecond
	}
	for _, tc := range []struct {
		name            string
		strict          bool
		replica         replica
		lost            float64
		control         bool
		bound, patience time.Duration // of staleness while it runs, and of getting right after it
	}{
		{name: "strict", strict: true, patience: 100 * time.Millisecond},
		{name: "strict, replica behind", strict: true, replica: played, patience: 100 * time.Millisecond},
		{name: "strict, MariaDB's replica behind", strict: true, replica: real, patience: 100 * time.Millisecond},
		{name: "default", bound: 500 * time.Millisecond, patience: 500 * time.Millisecond},
		{name: "default, replica behind", replica: played, bound: 500 * time.Millisecond, patience: 500 * time.Millisecond},
		{name: "default, changes lost", lost: 0.02, bound: 5 * time.Second, patience: 5 * time.Second},
		{name: "strict, changes lost, replica behind", strict: true, replica: played, lost: 0.02, bound: 5 * time.Second, patience: 5 * time.Second},
		{name: "strict, changes lost, MariaDB's replica behind", strict: true, replica: real, lost: 0.02, bound: 5 * time.Second, patience: 5 * time.Second},
		{name: "control: delete after commit", control: true, patience: 100 * time.Millisecond},
		{name: "control: delete after commit, replica behind", control: true, replica: played, patience: 100 * time.Millisecond},
		{name: "control: delete after commit, MariaDB's replica behind", control: true, replica: real, patience: 100 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := startServer(t)
			h := newHouse(t, tc.replica)
			var nodes []kept
			if tc.control {
				slow := &slowReaders{}
				for range 2 {
					c := goredis.NewClient(&goredis.Options{Addr: srv.addr()})
					t.Cleanup(func() { _ = c.Close() })
					nodes = append(nodes, deleted{c, h, slow})
				}
			} else {
				for range 2 {
					s := node[int64](t, srv.addr(), SharedConfig{MaxLoad: time.Minute, Primary: primary})
					ctx := background
					if tc.strict {
						ctx = Strict(ctx)
					}
					settle(s) // a young epoch would spare the replica
					nodes = append(nodes, fenced{s, h, ctx})
				}
				ctx, stop := context.WithCancel(background)
				done := make(chan struct{})
				go func() {
					defer close(done)
					h.relay(ctx, nodes[0])
				}()
				t.Cleanup(func() { stop(); <-done })
			}
			v := judge(t, h, nodes, tc.lost, tc.control, length, tc.patience)
			t.Logf("%d of %d reads stale (%.3f %%), for %v at most; %d changes, %d loads, %d errors, %d stuck", v.stale, v.reads,
				100*float64(v.stale)/float64(v.reads), v.oldest.Round(100*time.Microsecond), v.changes, v.loads, v.errors, v.stuck)
			switch {
			case tc.control:
				if v.stale == 0 {
					t.Error("the control was never stale: this test cannot see what it looks for")
				}
				return
			case tc.strict && tc.lost == 0 && v.stale > 0:
				t.Errorf("%d strict reads were stale", v.stale)
			case v.oldest > tc.bound && tc.bound > 0:
				t.Errorf("a change was not seen for %v, the bound is %v", v.oldest, tc.bound)
			}
			if v.stuck > 0 || v.errors > 0 || v.reads < 1000 || v.changes < 50 {
				t.Errorf("%d keys stuck, %d errors, %d reads, %d changes", v.stuck, v.errors, v.reads, v.changes)
			}
		})
	}
}

// Strict reads while Redis is killed and comes back empty, is replaced by its replica through sentinels, or hangs, and while writers die between
// commit and invalidation: not one is older than what was acknowledged. The control is what most do.
func TestStaleReadsUnderFaults(t *testing.T) {
	length := 6 * time.Second
	if testing.Short() {
		length = 2 * time.Second
	}
	every := func(stop chan struct{}, pause time.Duration, fault func() error) {
		for wait(stop, pause) == nil {
			if err := fault(); err != nil {
				t.Error(err)
				return
			}
		}
	}
	for _, tc := range []struct {
		name    string
		replica replica
		dies    float64
		control bool
		start   func(t *testing.T) (url string, fault func(stop chan struct{}))
	}{
		{name: "writers die", dies: 0.05, start: plainRedis},
		{name: "writers die, replica behind", dies: 0.05, replica: played, start: plainRedis},
		{name: "Redis restarts", dies: 0.02, start: func(t *testing.T) (string, func(chan struct{})) {
			srv := startServer(t)
			return srv.addr(), func(stop chan struct{}) {
				every(stop, 400*time.Millisecond, func() error {
					srv.kill()
					time.Sleep(100 * time.Millisecond)
					srv.start()
					return nil
				})
			}
		}},
		{name: "Redis hangs", dies: 0.02, start: func(t *testing.T) (string, func(chan struct{})) {
			srv := startServer(t)
			return srv.addr(), func(stop chan struct{}) {
				every(stop, 400*time.Millisecond, func() error {
					srv.pause()
					time.Sleep(300 * time.Millisecond)
					srv.resume()
					return nil
				})
			}
		}},
		{name: "a replica takes Redis' place", dies: 0.02, start: sentinels},
		{name: "a replica takes Redis' place, MariaDB's replica behind", replica: real, start: sentinels},
		{name: "control: delete after commit, Redis restarts", control: true, start: func(t *testing.T) (string, func(chan struct{})) {
			srv := startServer(t)
			return srv.addr(), func(stop chan struct{}) {
				every(stop, 400*time.Millisecond, func() error { srv.kill(); srv.start(); return nil })
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, fault := tc.start(t)
			h := newHouse(t, tc.replica)
			var nodes []kept
			slow := &slowReaders{}
			for range 2 {
				if tc.control {
					c := goredis.NewClient(&goredis.Options{Addr: url})
					t.Cleanup(func() { _ = c.Close() })
					nodes = append(nodes, deleted{c, h, slow})
					continue
				}
				s := faultNode(t, url, SharedConfig{Primary: primary, AwayLoads: 100_000, Loads: 64})
				settle(s)
				nodes = append(nodes, fenced{s, h, Strict(background)})
			}
			stop := make(chan struct{})
			var all sync.WaitGroup
			all.Go(func() { fault(stop) })
			ctx, end := context.WithCancel(background)
			if !tc.control {
				all.Go(func() { h.relay(ctx, nodes[0]) })
			}
			v := judgeUnder(t, h, nodes, tc.dies, true, tc.control, length, 0)
			close(stop)
			end()
			all.Wait()
			t.Logf("%d of %d reads stale (%.3f %%), for %v at most; %d changes, %d loads, %d errors", v.stale, v.reads,
				100*float64(v.stale)/float64(v.reads), v.oldest.Round(100*time.Microsecond), v.changes, v.loads, v.errors)
			if tc.control {
				if v.stale == 0 {
					t.Error("the control was never stale: this test cannot see what it looks for")
				}
				return
			}
			if v.stale > 0 {
				t.Errorf("%d strict reads were stale", v.stale)
			}
			if v.reads-v.errors < 500 || v.changes < 50 {
				t.Errorf("%d reads of which %d failed, %d changes: too few to say something", v.reads, v.errors, v.changes)
			}
		})
	}
}

func plainRedis(t *testing.T) (string, func(chan struct{})) {
	return startServer(t).addr(), func(stop chan struct{}) { <-stop }
}

// sentinels start a primary with a replica; the primary is killed once, and its replica promoted.
func sentinels(t *testing.T) (string, func(chan struct{})) {
	g, err := backends.StartSentinel(t.Context(), backends.SentinelOptions{})
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g.URL(), func(stop chan struct{}) {
		if wait(stop, 300*time.Millisecond) != nil {
			return
		}
		before, err := g.Primary(background)
		if err == nil {
			err = before.Kill()
		}
		if err == nil {
			ctx, cancel := context.WithTimeout(background, 30*time.Second)
			defer cancel()
			_, err = g.Promoted(ctx, before)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// faultNode is a node that is quick to see that Redis is away.
func faultNode(t *testing.T, url string, cfg SharedConfig) *Shared[int, int64] {
	t.Helper()
	if !strings.Contains(url, "://") {
		url = "redis://" + url
	}
	c, err := redis.Open(background, redis.Config{URL: url, Timeout: 200 * time.Millisecond}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	cfg.Name = "faults"
	s := NewShared[int, int64](cfg, c, quiet(t))
	t.Cleanup(s.Close)
	eventually(t, "the messages arrive", func() bool { return s.heard.Load() != 0 })
	return s
}
