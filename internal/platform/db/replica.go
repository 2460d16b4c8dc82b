package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"

	"levee"
	"levee/internal/platform/db/bastion"
	"levee/internal/platform/db/mysqlconn"
)

// Where a context's reads go.
const (
	OnPrimary = "primary" // the default
	OnReplica = "replica" // any replica that is healthy, or the primary when none is
)

type placeKey struct{}

type scopeKey struct{}

// scope is what a request does, as far as its reads care.
type scope struct{ wrote atomic.Bool }

// Scope returns a context that remembers, with all that are derived from it, whether a Tx was committed in it. From then on its reads
// go to the primary. web makes one per request.
func Scope(ctx context.Context) context.Context {
	return context.WithValue(ctx, scopeKey{}, &scope{})
}

// Using returns a context whose reads go to the place named: OnPrimary or OnReplica; any other name is the primary. A read that may be
// Config.ReplicaLag old says OnReplica. It makes a Scope where there is none, so what a caller writes with this context he
// also reads with it. Inside Primary it stays with the primary: whoever asked for that knows why, as a cache does that was shown
// an old row.
func Using(ctx context.Context, place string) context.Context {
	if place == OnReplica && ctx.Value(placeKey{}) == OnPrimary {
		return ctx
	}
	if place == OnReplica && ctx.Value(scopeKey{}) == nil {
		ctx = Scope(ctx)
	}
	return context.WithValue(ctx, placeKey{}, place)
}

// Primary returns a context whose reads go to the primary, also those of whoever is called with it: Using(ctx, OnPrimary).
func Primary(ctx context.Context) context.Context { return Using(ctx, OnPrimary) }

// StickyFor returns how long a Marker is good at most: Config.StickyFor, or 0 where there are no replicas and so no markers.
func (d *DB) StickyFor() time.Duration {
	if d.replicas == nil {
		return 0
	}
	return d.cfg.StickyFor
}

// Wrote reports whether a Tx was committed, or may have been, in ctx's Scope.
func Wrote(ctx context.Context) bool {
	s, _ := ctx.Value(scopeKey{}).(*scope)
	return s != nil && s.wrote.Load()
}

// NoteWrite says that somebody else has committed something on behalf of ctx, in a context of his own: what Wrote reports from then on.
func NoteWrite(ctx context.Context) {
	if s, _ := ctx.Value(scopeKey{}).(*scope); s != nil {
		s.wrote.Store(true)
	}
}

// Marker returns a short text that a session carries from a request that wrote to those that follow, or "" when ctx's Scope has not
// written or there is no replica. It says when the write was over by the primary's clock, which all nodes know. It is no secret: a
// forged one only makes its bearer read the primary, for Config.StickyFor at most.
func (d *DB) Marker(ctx context.Context) string {
	if d.replicas == nil || !Wrote(ctx) {
		return ""
	}
	_, latest := d.replicas.serverTime()
	return strconv.FormatInt(latest, 36)
}

// Follow returns ctx with its reads on the primary while a Marker of this session is valid, on whichever node it was made: until the
// replica that would be read is seen to have what was written, and for Config.StickyFor at most, by when every replica that
// may be read has it. Anything else in marker leaves ctx as it is.
func (d *DB) Follow(ctx context.Context, marker string) context.Context {
	if d.replicas == nil || marker == "" || len(marker) > markerMax {
		return ctx
	}
	written, err := strconv.ParseInt(marker, 36, 64)
	now := time.Since(d.replicas.begun)
	earliest, _ := d.replicas.serverTime()
	ago := time.Duration(earliest-written) * time.Millisecond
	if err != nil || written > earliest+clockSlack.Milliseconds() || ago >= d.cfg.StickyFor {
		return ctx
	}
	return context.WithValue(ctx, stickyKey{}, now-ago)
}

// stickyKey holds up to when (after begun) a replica must have everything for a context's reads.
type stickyKey struct{}

const (
	// markerMax is the most letters of a Marker, and clockSlack by how much two nodes may disagree about the primary's clock: each is
	// wrong by half of a question's journey, which takes BeatAnswer at most.
	markerMax  = 12
	clockSlack = 2 * mysqlconn.BeatAnswer
)

const (
	replicasMax = 8
	// beatEvery is how often this node counts up the row that all replicas are to show, and lookEvery how often it looks there.
	beatEvery = time.Second
	lookEvery = 250 * time.Millisecond
	// beatsKept is how many of this node's beats are remembered: more than the longest ReplicaLag has.
	beatsKept = 64
)

// replicas are the servers that may be read instead of the primary.
//
// How far behind one is, is measured by this node's own clock: it counts up a row on the primary each second and remembers when, and
// a replica that shows a number has everything that was committed before that number was sent. Clocks of servers need not agree,
// and a replica that stands still, is cut off from its primary, or follows a dead one, is found out in the same way.
type replicas struct {
	log     *slog.Logger
	primary *mysqlconn.Server
	all     []*replica
	lag     time.Duration
	next    atomic.Uint64
	begun   time.Time
	end     context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	beats []beat // guarded by mu; the newest last

	clock atomic.Pointer[serverClock]
}

// serverClock is what the primary's clock showed, in milliseconds since 1970, at begun; by the last answer, and give or take wrong.
type serverClock struct{ begun, wrong int64 }

// serverTime tells between which times the primary's clock is now. It goes on with this node's monotonic clock, which nobody sets.
func (rs *replicas) serverTime() (earliest, latest int64) {
	c, now := rs.clock.Load(), time.Since(rs.begun).Milliseconds()
	return c.begun + now - c.wrong, c.begun + now + c.wrong
}

// beat says that number n was sent at a time after begun.
type beat struct {
	n  int64
	at time.Duration
}

type replica struct {
	of      *replicas
	server  *mysqlconn.Server
	readers *sql.DB
	bun     *bun.DB
	// fresh is up to when (nanoseconds after begun) the replica is known to have everything; 0: nothing is known.
	fresh atomic.Int64
	lost  atomic.Bool // since the last look
}

// openReplicas makes the pools; nothing is sent yet, because a replica that is away must not keep a node from starting.
func openReplicas(cfg Config, primary *mysqlconn.Server, tunnel *bastion.Tunnel) (*replicas, error) {
	if len(cfg.Replicas) == 0 {
		return nil, nil
	}
	rs := &replicas{primary: primary, lag: cfg.ReplicaLag, begun: time.Now()}
	rs.clock.Store(&serverClock{begun: rs.begun.UnixMilli()}) // until it is asked, before any replica is read
	for i, url := range cfg.Replicas {
		s, err := mysqlconn.Parse(fmt.Sprintf("db.replicas[%d]", i), url, cfg.Password, cfg.BusyTimeout)
		if err != nil {
			return nil, err
		}
		if s.Addr == primary.Addr && s.Database == primary.Database {
			return nil, levee.Invalid(fmt.Sprintf("db.replicas[%d]", i), "another server than db.url", mysqlconn.WithoutPassword(url))
		}
		if s.Facts = primary.Facts; tunnel != nil {
			s.Through(tunnel.DialContext)
		}
		rs.all = append(rs.all, &replica{of: rs, server: s})
	}
	for _, r := range rs.all {
		r.readers = openReaders(mysqlconn.ReadPool{Server: r.server, Spare: func() bool { return false }}, cfg.Readers)
		r.bun = bun.NewDB(r.readers, newMySQLDialect(), bun.WithDiscardUnknownColumns())
	}
	return rs, nil
}

// start begins to watch.
func (rs *replicas) start(d *DB) {
	rs.log = d.log
	ctx, end := context.WithCancel(background)
	rs.end = end
	rs.done.Go(func() {
		rs.watch(ctx, rs.primary, beatEvery, "the heartbeat cannot be written: replicas are not read", rs.beat)
	})
	for _, r := range rs.all {
		rs.done.Go(func() {
			rs.watch(ctx, r.server, lookEvery, "a replica does not show the heartbeat: it is not read", r.look)
		})
	}
}

func (rs *replicas) stop() error {
	rs.end()
	rs.done.Wait()
	var err error
	for _, r := range rs.all {
		err = errors.Join(err, r.readers.Close())
	}
	return err
}

// watch calls do again and again with a connection of its own.
func (rs *replicas) watch(ctx context.Context, s *mysqlconn.Server, every time.Duration, what string, do func(ctx context.Context, c *mysqlconn.Conn) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var c *mysqlconn.Conn
	failing := false
	for {
		var err error
		if c == nil {
			c, err = s.Open(ctx, mysqlconn.ForBeating)
		}
		if err == nil {
			if err = do(ctx, c); err != nil {
				_ = c.Close()
				c = nil
			}
		}
		if err != nil {
			// Known to be failing from its first failure on: reads must not run into it one by one.
			for _, r := range rs.all {
				if r.server == s {
					r.lost.Store(true)
				}
			}
			if !failing && ctx.Err() == nil {
				rs.log.Warn(what, "server", s.Addr, "error", mysqlconn.FromServer(err))
			}
		} else if failing {
			rs.log.Info("the heartbeat is seen again", "server", s.Addr)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			if c != nil {
				_ = c.Close()
			}
			return
		case <-tick.C:
		}
	}
}

// beat counts up the row on the primary.
func (rs *replicas) beat(ctx context.Context, c *mysqlconn.Conn) error {
	if err := rs.readClock(ctx, c); err != nil {
		return err
	}
	at := time.Since(rs.begun) // before it is sent: what was committed until now comes before it
	res, err := c.Send(ctx, "UPDATE db_beat SET n = LAST_INSERT_ID(n + 1) WHERE id = 1", nil)
	if err != nil {
		return err
	}
	n, err := res.LastInsertId()
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("the row of db_beat is gone; start a node to make it again")
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if len(rs.beats) == beatsKept {
		rs.beats = append(rs.beats[:0], rs.beats[1:]...)
	}
	rs.beats = append(rs.beats, beat{n, at})
	return nil
}

// readClock learns what the primary's clock shows.
func (rs *replicas) readClock(ctx context.Context, c *mysqlconn.Conn) error {
	sent := time.Since(rs.begun)
	rows, err := c.Ask(ctx, "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)")
	if err != nil {
		return err
	}
	half := (time.Since(rs.begun) - sent) / 2
	var shown int64
	if len(rows) == 1 {
		shown, _ = rows[0][0].(int64)
	}
	if shown == 0 {
		return errors.New("the primary does not tell the time")
	}
	// Two milliseconds more for what rounding drops.
	rs.clock.Store(&serverClock{begun: shown - (sent + half).Milliseconds(), wrong: half.Milliseconds() + 2})
	return nil
}

// look reads the row on the replica.
func (r *replica) look(ctx context.Context, c *mysqlconn.Conn) error {
	rows, err := c.Ask(ctx, "SELECT n FROM db_beat WHERE id = 1")
	if err != nil {
		return err
	}
	var n int64
	if len(rows) == 1 {
		n, _ = rows[0][0].(int64)
	}
	r.of.mu.Lock()
	for i := len(r.of.beats) - 1; i >= 0; i-- {
		if b := r.of.beats[i]; b.n <= n {
			r.fresh.Store(max(int64(b.at), 1))
			break
		}
	}
	r.of.mu.Unlock()
	r.lost.Store(false)
	return nil
}

// healthy reports whether the replica surely has what is older than the lag that is allowed.
func (r *replica) healthy() bool {
	fresh := r.fresh.Load()
	return fresh > 0 && !r.lost.Load() && time.Since(r.of.begun)-time.Duration(fresh) < r.of.lag
}

// failed reports whether a query must be run on the primary instead, and leaves the replica out until it is seen well again.
func (r *replica) failed(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil || levee.CodeOf(err) != levee.CodeUnavailable {
		return false
	}
	r.lost.Store(true)
	return true
}

// usable counts the replicas that may be read now.
func (rs *replicas) usable() (n int) {
	if rs == nil {
		return 0
	}
	for _, r := range rs.all {
		if r.healthy() {
			n++
		}
	}
	return n
}

// replicaFor returns the replica that a context's read goes to, or nil for the primary.
func (d *DB) replicaFor(ctx context.Context) *replica {
	rs := d.replicas
	if rs == nil || Wrote(ctx) {
		return nil
	}
	switch place := ctx.Value(placeKey{}); {
	case place == OnReplica, d.cfg.ReadReplicas == "all", d.cfg.ReadReplicas == "unmarked" && place == nil:
	default:
		return nil
	}
	// Inside a transaction a read of the pool is rare, and what it is compared with is the primary's.
	if t, _ := ctx.Value(txKey{}).(*Tx); t != nil && t.state.Load() != txOver {
		return nil
	}
	need, _ := ctx.Value(stickyKey{}).(time.Duration)
	first := rs.next.Add(1)
	for i := range uint64(len(rs.all)) {
		if r := rs.all[(first+i)%uint64(len(rs.all))]; r.healthy() && r.fresh.Load() > int64(need) {
			return r
		}
	}
	return nil
}
