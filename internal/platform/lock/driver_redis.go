package lock

import (
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

var (
	//go:embed quick.lua
	quickText string
	//go:embed acquire.lua
	acquireText string
	//go:embed renew.lua
	renewText string
	//go:embed release.lua
	releaseText string

	quickScript, acquireScript = redis.NewScript(quickText), redis.NewScript(acquireText)
	renewScript, releaseScript = redis.NewScript(renewText), redis.NewScript(releaseText)
)

const (
	// beatEvery is how often one who waits shows that he lives, and looks. With more than beatMany waiters in a process it is stretched, so that they
	// do not cost more than beatMany calls a second.
	beatEvery = time.Second
	beatMany  = 2000
	// beatsAlive is how many beats may be missing before a waiter counts as dead.
	beatsAlive = 3
	// deafLook is how often one who waits looks while no calls are heard.
	deafLook = 50 * time.Millisecond
)

// remote is the driver that keeps places in Redis. Each step is one script on the keys of one name, which share a hash tag. Who gives a place back calls
// the head of the queue, and no other, over its process' channel; what is lost there is made good by looks once a second. All times are those of the Redis server.
type remote struct {
	client  *redis.Client
	log     *slog.Logger
	channel string
	ear     ear
	run     context.Context
	stop    context.CancelFunc
	chores
}

// OpenRedis makes locks that all processes of a house share over Redis, single, behind sentinels or as a cluster. It takes the client's prefix, and one
// more connection of the process as soon as somebody has to wait. client is not closed by Close.
//
// Places, order and fences live as long as the server's memory. The fence is the server's clock in microseconds, or one more than the last: it rises
// also over a flush and a restart without data, unless that clock was put back; but a replica that is promoted may lack the last grants, so two may hold
// a name after a fail-over, and the fence falls if the new primary's clock is behind the last grant. With fences, the number comes from the table of
// Schema in that database, durably, at the cost of one transaction for each grant: it then rises whatever happens to Redis. A server whose clock is put forward ends
// leases early: their holders learn it with the next renewal.
func OpenRedis(cfg Config, client *redis.Client, fences *db.DB, o *obs.Obs) (_ *Locks, err error) {
	defer levee.Wrap(&err, "lock.OpenRedis")
	return open(cfg, o, "redis", func(l *Locks) (driver, error) {
		r := newRemote(client, l.log)
		if fences == nil {
			return r, nil
		}
		names := newTable(fences)
		return strict{r, &names}, nil
	})
}

func newRemote(client *redis.Client, log *slog.Logger) *remote {
	r := &remote{client: client, log: log, channel: client.Key("lock:call:" + newToken())}
	r.run, r.stop = context.WithCancel(context.Background())
	r.ear.waiters = map[string]chan struct{}{}
	return r
}

func (r *remote) key(name string) string { return r.client.Key("lock:{" + name + "}") }

func (r *remote) keys(name string) []string {
	k := r.key(name)
	return []string{k, k + ":held", k + ":queue", k + ":wait"}
}

// look asks once; the first time of an exclusive request, it tries the short way before. again is how long nothing is to be expected, if there
// is no fence.
func (r *remote) look(ctx context.Context, q *request, first bool, wait string, lives time.Duration) (fence uint64, again time.Duration, err error) {
	if first && q.limit == 1 {
		n, err := quickScript.Run(ctx, r.client, []string{r.key(q.name)}, q.token, q.ttl.Microseconds()).Int64()
		if err != nil || n > 0 {
			return uint64(max(n, 0)), 0, err
		}
	}
	n, err := acquireScript.Run(ctx, r.client, r.keys(q.name), q.token, q.limit, q.ttl.Microseconds(), wait, r.channel, lives.Microseconds()).Int64()
	switch {
	case err != nil:
		return 0, 0, err
	case n > 0:
		return uint64(n), 0, nil
	}
	return 0, time.Duration(-n) * time.Microsecond, nil
}

func (r *remote) acquire(ctx context.Context, q *request) (grant, error) {
	if r.run.Err() != nil {
		return grant{}, errClosed
	}
	q.token = newToken()
	if q.try {
		return r.tryOnce(ctx, q)
	}
	call, alone := r.ear.enter(q.token)
	defer r.ear.leave(q.token)
	tried, queued := false, false
	for {
		beat := max(beatEvery, time.Duration(alone())*time.Second/beatMany)
		asked := time.Now()
		fence, again, err := r.look(ctx, q, !queued, "1", beatsAlive*beat)
		switch {
		case err == nil && fence > 0:
			return grant{fence: fence, asked: asked, ttl: q.ttl, waited: queued}, nil
		case ctx.Err() != nil:
			r.giveUp(q)
			return grant{}, ctx.Err()
		case err != nil && !queued:
			if tried || !r.again(err, asked) {
				r.giveUp(q)
				return grant{}, err
			}
			tried = true
			continue
		case err != nil:
			again = 4 * deafLook // it stands in the queue: it waits on, as long as the caller wants
		}
		queued = true
		r.listen()
		again = min(again, beat)
		if !r.ear.hears.Load() {
			again = min(again, deafLook)
		}
		if _, err := stand(ctx, r.run, call, again+rand.N(again/10+1)); err != nil {
			r.giveUp(q)
			return grant{}, err
		}
	}
}

func (r *remote) tryOnce(ctx context.Context, q *request) (grant, error) {
	for try := 0; ; try++ {
		asked := time.Now()
		fence, _, err := r.look(ctx, q, true, "0", 0)
		switch {
		case err == nil && fence > 0:
			return grant{fence: fence, asked: asked, ttl: q.ttl}, nil
		case err == nil:
			return grant{}, errHeld
		case ctx.Err() != nil || try > 0 || !r.again(err, asked):
			r.giveUp(q) // it may have been granted
			return grant{}, err
		}
	}
}

// again reports whether a failed call is worth a second one at once: a connection that was broken while it lay in the pool fails quickly.
func (r *remote) again(err error, asked time.Time) bool {
	return r.client.Healthy() && levee.CodeOf(err) == levee.CodeUnavailable && time.Since(asked) < 10*time.Millisecond
}

// giveUp takes the request out of the queue, and back what it may have been granted without our knowing. While the server does not answer it is tried
// again in the background, for as long as the place could last.
func (r *remote) giveUp(q *request) {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	if releaseScript.Run(ctx, r.client, r.keys(q.name), q.token, q.limit, 1).Err() == nil {
		return
	}
	name, token, limit, until := q.name, q.token, q.limit, time.Now().Add(q.ttl+beatsAlive*beatEvery)
	r.start(func() {
		for time.Now().Before(until) {
			select {
			case <-r.run.Done():
				return
			case <-time.After(againEvery):
			}
			if releaseScript.Run(r.run, r.client, r.keys(name), token, limit, 1).Err() == nil {
				return
			}
		}
	})
}

func (r *remote) renew(ctx context.Context, q *request, ttl time.Duration) error {
	return ours(renewScript.Run(ctx, r.client, r.keys(q.name), q.token, q.limit, ttl.Microseconds()))
}

func (r *remote) release(ctx context.Context, q *request) error {
	return ours(releaseScript.Run(ctx, r.client, r.keys(q.name), q.token, q.limit, 0))
}

func ours(c *goredis.Cmd) error {
	n, err := c.Int()
	if err == nil && n == 0 {
		err = errGone
	}
	return err
}

func (r *remote) close() error {
	r.stop()
	r.end()
	return nil
}

// listen starts the subscription with the first one who waits.
func (r *remote) listen() {
	if r.ear.began.Load() || !r.ear.began.CompareAndSwap(false, true) {
		return
	}
	r.start(func() {
		for r.run.Err() == nil {
			if err := r.session(); err != nil && r.run.Err() == nil {
				r.log.Warn("who waits for a lock is not called for the moment and looks instead", "error", err)
			}
			r.ear.hears.Store(false)
			select {
			case <-r.run.Done():
			case <-time.After(4 * deafLook):
			}
		}
	})
}

// silence is how long nothing is heard before the connection is asked for a sign of life, and again before it is given up.
const silence = 2 * time.Second

// session is one life of the subscription.
func (r *remote) session() error {
	u, err := r.client.Apart(1)
	if err != nil {
		return err
	}
	sub := u.Subscribe(r.run, r.channel)
	end := sync.OnceFunc(func() {
		_ = sub.Close()
		_ = u.Close()
	})
	defer end()
	defer context.AfterFunc(r.run, end)() // a receive that waits ends with its connection
	for asked := false; ; {
		got, err := sub.ReceiveTimeout(r.run, silence)
		var slow interface{ Timeout() bool }
		switch {
		case err != nil && errors.As(err, &slow) && slow.Timeout() && !asked:
			if err := sub.Ping(r.run); err != nil {
				return err
			}
			asked = true
			continue
		case err != nil:
			return err
		}
		asked = false
		switch m := got.(type) {
		case *goredis.Subscription: // also of a connection made anew: what was called before may be lost
			r.ear.hears.Store(true)
			r.ear.callAll(r.run)
		case *goredis.Message:
			r.ear.call(m.Payload)
		}
	}
}
