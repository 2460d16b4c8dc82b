package lock

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

const (
	// pollMin to pollMax is the pause between two looks of who waits, growing: a hand-over to another process takes that long without a bell.
	pollMin, pollMax = 2 * time.Millisecond, 25 * time.Millisecond
	pollHead         = 5 * time.Millisecond // of who comes next
	// turnHold is how long one of this process may stand at its head: for as long as it waits.
	turnHold = 100 * 365 * 24 * time.Hour
)

// rows is the driver that keeps places in rows of the SQL database. Of those of one process who wait for a name one stands in the row's
// queue, the others behind it in memory: the queue is as long as there are processes, and fair between them, and first come, first served in each.
type rows struct {
	table
	turns *memory // who of this process is next, per name
	ear   ear     // by name
	ring  func(name string)
	run   context.Context
	stop  context.CancelFunc
	chores
}

// OpenSQL makes locks that all processes share over the SQL database, with the tables of Schema. Grants and fences are as durable as anything in
// it: the fence rises over crashes and restarts of everything. A grant and a release are a transaction each.
//
// A process that waits looks every 2 to 25 ms; with bell, which may be nil, processes tell each other of releases over that Redis, whose
// loss costs no more than these looks. It joins the bus "lock" of bell, so there can be one OpenSQL for each client. Those who wait in one process are served
// in their order, and the processes take turns.
//
// No two clocks are compared: a holder is dead when another process has seen it stand still for its TTL. So TryAcquire finds a dead holder's name
// free only if this process has looked before, at least a TTL ago; who waits gets it a TTL after the death, or after he came.
func OpenSQL(cfg Config, d *db.DB, bell *redis.Client, o *obs.Obs) (_ *Locks, err error) {
	defer levee.Wrap(&err, "lock.OpenSQL")
	return open(cfg, o, "sql", func(*Locks) (driver, error) { return newRows(d, bell), nil })
}

func newRows(d *db.DB, bell *redis.Client) *rows {
	r := &rows{table: newTable(d), turns: newMemory(), ring: func(string) {}}
	r.ear.waiters = map[string]chan struct{}{}
	r.run, r.stop = context.WithCancel(context.Background())
	if bell != nil {
		publish := bell.Bus("lock", func(name []byte) { r.ear.call(string(name)) }, func() { r.start(func() { r.ear.callAll(r.run) }) })
		r.ring = func(name string) { publish([]byte(name)) }
	}
	return r
}

// freed calls who waits for the name, here and elsewhere.
func (r *rows) freed(name string) {
	r.ear.call(name)
	r.ring(name)
}

func (r *rows) acquire(ctx context.Context, q *request) (grant, error) {
	q.token = newToken()
	if q.try {
		if r.turns.queued(q.name) {
			return grant{}, errHeld
		}
		asked := time.Now()
		fence, err := r.look(ctx, q)
		switch {
		case err == nil && fence > 0:
			return grant{fence: fence, asked: asked, ttl: q.ttl}, nil
		case err == nil:
			return grant{}, errHeld
		}
		r.giveUp(q)
		return grant{}, err
	}
	turn := request{name: q.name, limit: 1, hold: turnHold, began: q.began}
	g, err := r.turns.acquire(ctx, &turn)
	if err != nil {
		return grant{}, err
	}
	defer func() { _ = r.turns.release(ctx, &turn) }()
	call, _ := r.ear.enter(q.name)
	defer r.ear.leave(q.name)
	waited, queued, pause := g.waited, false, pollMin
	var beaten time.Time
	worth := true // a look that may change something is worth while
	for {
		if worth {
			asked := time.Now()
			fence, err := r.look(ctx, q)
			switch {
			case err == nil && fence > 0:
				return grant{fence: fence, asked: asked, ttl: q.ttl, waited: waited}, nil
			case ctx.Err() != nil:
				r.giveUp(q)
				return grant{}, ctx.Err()
			case err != nil && !queued:
				r.giveUp(q)
				return grant{}, err
			case err != nil:
				pause = pollMax // it stands in the queue: it waits on, as long as the caller wants
			default:
				queued, beaten = true, asked
			}
		}
		waited = true
		called, err := stand(ctx, r.run, call, pause+rand.N(pause/4))
		if err != nil {
			r.giveUp(q)
			return grant{}, err
		}
		if pause = min(pause*3/2, pollMax); called {
			pause = pollMin
		}
		var s state
		err = r.read(ctx, q.name, &s)
		before := len(s.entries)
		r.bury(q.name, &s, time.Now())
		me := s.find(q.token)
		if me != nil && me.waits && s.head() == q.token {
			pause = min(pause, pollHead)
		}
		worth = err == nil && (me == nil || !me.waits || s.enters(q) || len(s.entries) < before) || time.Since(beaten) > beatEvery
	}
}

// look takes the place if it is free, or else, if q waits, shows in the queue that it lives.
func (r *rows) look(ctx context.Context, q *request) (fence uint64, err error) {
	err = r.step(ctx, q.name, func(s *state) bool {
		fence = 0
		me := s.find(q.token)
		switch {
		case me != nil && !me.waits: // of a commit whose answer was lost
			me.beat++
			fence = me.fence
		case s.enters(q):
			s.remove(q.token)
			s.fence++
			fence = s.fence
			s.entries = append(s.entries, entry{token: q.token, limit: q.limit, ttl: whole(q.ttl), fence: fence})
		case me != nil:
			me.beat++
		case !q.try:
			s.entries = append(s.entries, entry{waits: true, token: q.token, limit: q.limit, ttl: beatsAlive * beatEvery})
		default:
			return false
		}
		return true
	})
	if err == nil && fence > 0 && q.limit > 1 {
		r.freed(q.name) // who comes next may fit beside
	}
	return fence, err
}

// whole rounds a TTL up to what a row holds.
func whole(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}

// giveUp takes the request out of the row. When the database does not answer, it is passed over once it has stood still long enough.
func (r *rows) giveUp(q *request) {
	if err := r.release(context.Background(), q); errors.Is(err, errGone) {
		r.freed(q.name) // who stood behind may be the head now
	}
}

func (r *rows) renew(ctx context.Context, q *request, ttl time.Duration) error {
	found := false
	err := r.step(ctx, q.name, func(s *state) bool {
		me := s.find(q.token)
		if found = me != nil && !me.waits; found {
			me.beat++
			me.ttl = whole(ttl)
		}
		return found
	})
	if err == nil && !found {
		err = errGone
	}
	return err
}

func (r *rows) release(ctx context.Context, q *request) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	held := false
	err := r.step(ctx, q.name, func(s *state) bool {
		was := s.remove(q.token)
		held = was != nil && !was.waits
		return was != nil
	})
	switch {
	case err != nil:
		return err
	case !held:
		return errGone
	}
	r.freed(q.name)
	return nil
}

func (r *rows) close() error {
	r.stop()
	r.end()
	return r.turns.close()
}
