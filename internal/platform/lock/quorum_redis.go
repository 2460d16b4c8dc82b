package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

const (
	// quorumCall is how long a server may take to answer before it counts as away, and with short TTLs quorumShare of them.
	quorumCall  = 200 * time.Millisecond
	quorumShare = 0.3
	// quorumPollMin to quorumPollMax is the pause between two tries of who waits, growing.
	quorumPollMin, quorumPollMax = 4 * time.Millisecond, 30 * time.Millisecond
)

// Both keep a number for two hours, longer than any lease.
var (
	// mintScript returns a number above all that this server has seen for the name, and above its clock's microseconds.
	mintScript = redis.NewScript(`local t = redis.call('TIME')
local n = string.format('%.0f', math.max(tonumber(redis.call('GET', KEYS[1]) or 0) + 1, t[1] * 1000000 + t[2]))
redis.call('SET', KEYS[1], n, 'PX', 7200000)
return n`)
	// raiseScript tells a server of the number that was taken.
	raiseScript = redis.NewScript(`if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', 7200000)
end
return 1`)
)

// quorum is the driver over several Redis servers that know nothing of each other: Redlock, by redsync. Who has set his token on more than half of them within the TTL holds.
type quorum struct {
	sync    *redsync.Redsync
	clients []*redis.Client
	turns   *memory // who of this process is next, per name: so only one of them tries at a time
	run     context.Context
	stop    context.CancelFunc

	mu     sync.Mutex // guards closed and the growth of tasks
	closed bool
	tasks  sync.WaitGroup
}

// OpenQuorum makes exclusive locks that all processes share over several independent Redis servers, an odd number from 3 to 9, none a replica of another: Redlock. A minority of
// them may be down or lose its memory one after the other, at least the longest TTL apart. All clients must have the same prefix; Close does not close them.
//
// It is there for those who must not depend on one Redis and have no SQL database or etcd, which do the same better. Be sure that you want it: each grant costs three rounds
// to all servers, five servers cost five times one, and it is no safer than one Redis against a paused holder. For that there is the fence alone, with all drivers.
// redsync gives none; this driver has each server mint a number above its last one and its clock, takes the highest and tells all servers. With a majority of the servers and
// their data it rises with every grant; when a majority has lost its data, it rises if their clocks are not behind those of the last grant.
//
// It does not keep everything that the other drivers keep. There is no order between processes: who waits tries again every 4 to 30 ms, one of each process,
// so the one who just gave it back most often gets it again, and others may wait for long. TryAcquire passes those who wait; where several ask in one moment each may be
// refused. Shared and Permits are CodeInvalid.
func OpenQuorum(cfg Config, clients []*redis.Client, o *obs.Obs) (_ *Locks, err error) {
	defer levee.Wrap(&err, "lock.OpenQuorum")
	if n := len(clients); n < 3 || n > 9 || n%2 == 0 {
		return nil, levee.Invalid("servers", "an odd number from 3 to 9", n)
	}
	for _, c := range clients {
		if c.Key("") != clients[0].Key("") {
			return nil, levee.Invalid("servers", "the same prefix for all", c.Key(""))
		}
	}
	return open(cfg, o, "quorum", func(*Locks) (driver, error) { return newQuorum(clients), nil })
}

func newQuorum(clients []*redis.Client) *quorum {
	var pools []redsyncredis.Pool
	for _, c := range clients {
		pools = append(pools, goredis.NewPool(c.UniversalClient()))
	}
	d := &quorum{sync: redsync.New(pools...), clients: clients, turns: newMemory()}
	d.run, d.stop = context.WithCancel(context.Background())
	return d
}

func (d *quorum) key(name string) string { return d.clients[0].Key("lock:{" + name + "}:quorum") }

// callTime bounds a round.
func callTime(ttl time.Duration) time.Duration {
	return min(quorumCall, time.Duration(quorumShare*float64(ttl)))
}

// mutex is redsync's view of the request.
func (d *quorum) mutex(q *request, ttl time.Duration) *redsync.Mutex {
	return d.sync.NewMutex(d.key(q.name), redsync.WithExpiry(ttl), redsync.WithTries(1), redsync.WithValue(q.token),
		redsync.WithGenValueFunc(func() (string, error) { return q.token, nil }), redsync.WithTimeoutFactor(float64(callTime(ttl))/float64(ttl)))
}

func (d *quorum) acquire(ctx context.Context, q *request) (grant, error) {
	if q.limit != 1 {
		return grant{}, levee.Invalid("permits", "1: a quorum of Redis servers has exclusive locks alone", q.limit)
	}
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return grant{}, errClosed
	}
	turn := request{name: q.name, limit: 1, hold: turnHold, try: q.try, began: q.began}
	g, err := d.turns.acquire(ctx, &turn)
	if err != nil {
		return grant{}, err
	}
	defer func() { _ = d.turns.release(ctx, &turn) }()
	q.token = newToken()
	waited := g.waited
	for pause := quorumPollMin; ; pause = min(2*pause, quorumPollMax) {
		asked := time.Now()
		err := d.once(ctx, q)
		if err == nil {
			fence, fenceErr := d.fence(ctx, q)
			if fenceErr == nil {
				return grant{fence: fence, asked: asked, ttl: q.ttl, waited: waited}, nil
			}
			err = fenceErr
		}
		switch {
		case ctx.Err() != nil:
			d.giveUp(q)
			return grant{}, ctx.Err()
		case q.try && errors.Is(err, errHeld):
			return grant{}, err
		case !errors.Is(err, errHeld) && (q.try || !waited):
			d.giveUp(q)
			return grant{}, err
		}
		waited = true
		if _, err := stand(ctx, d.run, nil, pause+rand.N(pause)); err != nil {
			d.giveUp(q)
			return grant{}, err
		}
	}
}

// once tries on all servers. What it did not get it has given back, as far as ctx allowed. errHeld: so many are taken or were not there that there is no majority, and more
// than half have answered.
func (d *quorum) once(ctx context.Context, q *request) error {
	err := d.mutex(q, q.ttl).TryLockContext(ctx)
	if err == nil {
		return nil
	}
	if d.majority(len(d.clients) - serverFailures(err)) {
		return errHeld
	}
	return fmt.Errorf("no majority of the Redis servers answers: %w", err)
}

func (d *quorum) majority(n int) bool { return n > len(d.clients)/2 }

// serverFailures counts the servers that did not answer.
func serverFailures(err error) (n int) {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case *redsync.RedisError:
		return 1
	case interface{ WrappedErrors() []error }: // of go-multierror
		for _, one := range e.WrappedErrors() {
			n += serverFailures(one)
		}
	}
	return n
}

// each asks all servers at once and returns the answers of those that gave one, and the first error.
func (d *quorum) each(ctx context.Context, limit time.Duration, ask func(ctx context.Context, c *redis.Client) (string, error)) (answers []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		text string
		err  error
	}
	all := make(chan answer, len(d.clients))
	for _, c := range d.clients {
		go func() {
			text, err := ask(ctx, c)
			all <- answer{text, err}
		}()
	}
	for range d.clients {
		if a := <-all; a.err == nil {
			answers = append(answers, a.text)
		} else if err == nil {
			err = a.err
		}
	}
	return answers, err
}

// fence mints the number of a grant: the highest of what the servers say, told to a majority before anybody hears of it. Each later majority has one that knows it.
func (d *quorum) fence(ctx context.Context, q *request) (fence uint64, err error) {
	key := []string{d.key(q.name) + ":fence"}
	answers, err := d.each(ctx, callTime(q.ttl), func(ctx context.Context, c *redis.Client) (string, error) { return mintScript.Run(ctx, c, key).Text() })
	if !d.majority(len(answers)) {
		return 0, fmt.Errorf("no majority of the Redis servers mints a fence: %w", err)
	}
	for _, text := range answers {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n >= 1<<53 {
			return 0, fmt.Errorf("a Redis server has %q for a fence", levee.Shorten(text, 40))
		}
		fence = max(fence, n)
	}
	answers, err = d.each(ctx, callTime(q.ttl), func(ctx context.Context, c *redis.Client) (string, error) {
		return "", raiseScript.Run(ctx, c, key, strconv.FormatUint(fence, 10)).Err()
	})
	if !d.majority(len(answers)) {
		return 0, fmt.Errorf("no majority of the Redis servers takes a fence: %w", err)
	}
	return fence, nil
}

// giveUp gives back what the request may hold at some of the servers; those that do not answer are asked again in the background while it could last there.
func (d *quorum) giveUp(q *request) {
	ctx, cancel := context.WithTimeout(context.Background(), quorumCall)
	defer cancel()
	if ok, err := d.mutex(q, q.ttl).UnlockContext(ctx); ok || serverFailures(err) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	name, token, ttl, until := q.name, q.token, q.ttl, time.Now().Add(q.ttl)
	d.tasks.Go(func() {
		for time.Now().Before(until) {
			select {
			case <-d.run.Done():
				return
			case <-time.After(againEvery):
			}
			ctx, cancel := context.WithTimeout(d.run, quorumCall)
			_, err := d.mutex(&request{name: name, token: token}, ttl).UnlockContext(ctx)
			cancel()
			if serverFailures(err) == 0 {
				return
			}
		}
	})
}

func (d *quorum) renew(ctx context.Context, q *request, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTime(q.ttl))
	defer cancel()
	ok, err := d.mutex(q, ttl).ExtendContext(ctx)
	return d.verdict(ok, err)
}

func (d *quorum) release(ctx context.Context, q *request) error {
	ctx, cancel := context.WithTimeout(ctx, quorumCall)
	defer cancel()
	ok, err := d.mutex(q, q.ttl).UnlockContext(ctx)
	return d.verdict(ok, err)
}

// verdict tells a place that is lost from servers that do not answer.
func (d *quorum) verdict(ok bool, err error) error {
	switch {
	case ok:
		return nil
	case d.majority(len(d.clients) - serverFailures(err)):
		return errGone // more than half have answered, and it is not on more than half
	}
	return err
}

func (d *quorum) close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	err := d.turns.close()
	d.tasks.Wait()
	return err
}
