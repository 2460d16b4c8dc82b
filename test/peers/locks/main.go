// Command locks measures named locks beside the libraries that others pick, each on the same servers in one run: pairs of lock and unlock without
// contention, and what contenders get from each other's hands.
//
// A lock is one line in the list of all; its open makes one contender, a process of its own as far as connections go.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	redsyncpool "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/lock"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
	"levee/test/table"
)

// ttl is long enough for no lock to end in a measurement.
const ttl = 30 * time.Second

// contender is one who locks.
type contender struct {
	lock  func(ctx context.Context, name string) (unlock func() error, err error)
	close func()
}

// kind is a lock under measurement.
type kind struct {
	name string
	open func(s *servers) (contender, error)
}

// servers are started once for all.
type servers struct {
	redis *backends.RedisServer
	mysql *backends.MySQLServer
	url   string // of the database
	obs   *obs.Obs
	local *lock.Locks
}

var all = []kind{
	{"**Levee**, in process", func(s *servers) (contender, error) { return ours(s.local, func() {}), nil }},
	{"**Levee**, Redis", func(s *servers) (contender, error) {
		c, err := redis.Open(context.Background(), redis.Config{URL: s.redis.URL(), Timeout: time.Second}, s.obs)
		if err != nil {
			return contender{}, err
		}
		l, err := lock.OpenRedis(lock.Config{TTL: ttl}, c, nil, s.obs)
		return ours(l, func() { _ = c.Close() }), err
	}},
	{"**Levee**, MariaDB", func(s *servers) (contender, error) { return overSQL(s, false) }},
	{"**Levee**, MariaDB with a bell over Redis", func(s *servers) (contender, error) { return overSQL(s, true) }},
	{"bsm/redislock, retry 5 ms", func(s *servers) (contender, error) {
		c := client(s)
		l := redislock.New(c)
		o := &redislock.Options{RetryStrategy: redislock.LinearBackoff(5 * time.Millisecond)}
		return contender{func(ctx context.Context, name string) (func() error, error) {
			held, err := l.Obtain(ctx, "bsm:"+name, ttl, o)
			return func() error { return held.Release(ctx) }, err
		}, func() { _ = c.Close() }}, nil
	}},
	{"redsync, 1 node, default retry", func(s *servers) (contender, error) { return overRedsync(s) }},
	{"redsync, 1 node, retry 5 ms", func(s *servers) (contender, error) { return overRedsync(s, redsync.WithRetryDelay(5*time.Millisecond)) }},
	{"rueidislock, majority 1", func(s *servers) (contender, error) {
		l, err := rueidislock.NewLocker(rueidislock.LockerOption{
			ClientOption: rueidis.ClientOption{InitAddress: []string{s.redis.Addr()}}, KeyMajority: 1, KeyValidity: ttl, NoLoopTracking: true, KeyPrefix: "rueidis",
		})
		if err != nil {
			return contender{}, err
		}
		return contender{func(ctx context.Context, name string) (func() error, error) {
			_, cancel, err := l.WithContext(ctx, name)
			return func() error { cancel(); return nil }, err
		}, l.Close}, nil
	}},
}

func ours(l *lock.Locks, end func()) contender {
	return contender{func(ctx context.Context, name string) (func() error, error) {
		s, err := l.Acquire(ctx, name)
		if err != nil {
			return nil, err
		}
		return func() error { return s.Release(ctx) }, nil
	}, func() {
		end()
	}}
}

func overSQL(s *servers, bell bool) (contender, error) {
	d, err := db.Open(context.Background(), db.Config{URL: s.url, Password: obs.Secret(s.mysql.Password())}, s.obs)
	if err != nil {
		return contender{}, err
	}
	var c *redis.Client
	if bell {
		if c, err = redis.Open(context.Background(), redis.Config{URL: s.redis.URL(), Timeout: time.Second}, s.obs); err != nil {
			return contender{}, err
		}
	}
	l, err := lock.OpenSQL(lock.Config{TTL: ttl}, d, c, s.obs)
	return ours(l, func() {
		_ = l.Close()
		_ = d.Close()
		if c != nil {
			_ = c.Close()
		}
	}), err
}

func client(s *servers) *goredis.Client {
	return goredis.NewClient(&goredis.Options{Addr: s.redis.Addr(), PoolSize: 64})
}

func overRedsync(s *servers, more ...redsync.Option) (contender, error) {
	c := client(s)
	r := redsync.New(redsyncpool.NewPool(c))
	more = append([]redsync.Option{redsync.WithExpiry(ttl), redsync.WithTries(1 << 20)}, more...)
	return contender{func(ctx context.Context, name string) (func() error, error) {
		m := r.NewMutex("redsync:"+name, more...)
		err := m.LockContext(ctx)
		return func() error { _, err := m.UnlockContext(ctx); return err }, err
	}, func() { _ = c.Close() }}, nil
}

// alone measures pairs without contention: each caller has a name of its own, all share one contender.
func alone(c contender, callers int, length time.Duration) (pairs float64, p50, p99 time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*length+10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	takes := make([][]time.Duration, callers)
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			name := fmt.Sprintf("alone-%d", i)
			last := time.Now()
			for n := 0; last.Sub(began) < length; n++ {
				unlock, err := c.lock(ctx, name)
				if err == nil {
					err = unlock()
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				now := time.Now()
				takes[i] = append(takes[i], now.Sub(last))
				last = now
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if e := failed.Load(); e != nil {
		return 0, 0, 0, *e
	}
	each := slices.Concat(takes...)
	slices.Sort(each)
	return float64(len(each)) / took.Seconds(), at(each, 0.5), at(each, 0.99), nil
}

func at(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// contest is what contenders for one name got.
type contest struct {
	perSecond     float64
	p50, p99      time.Duration // from the call that gives back to the return of another contender's call
	longest       time.Duration // wait
	fewest, most  int           // grants of a contender
	regrants      int
	handed, total int
}

const hold = 2 * time.Millisecond

func contend(k kind, s *servers, contenders, grants int, most time.Duration) (out contest, err error) {
	name := fmt.Sprintf("contest-%d-%d", contenders, time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	list := make([]contender, contenders)
	for i := range list {
		if list[i], err = k.open(s); err != nil {
			return out, err
		}
		defer list[i].close()
		unlock, err := list[i].lock(ctx, fmt.Sprintf("%s-warm-%d", name, i)) // connections are there
		if err != nil {
			return out, err
		}
		if err := unlock(); err != nil {
			return out, err
		}
	}
	var mu sync.Mutex // guards what follows
	var handed []time.Duration
	var gave time.Time
	var failed error
	last, count, each := -1, 0, make([]int, contenders)
	began := time.Now()
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			for {
				asked := time.Now()
				unlock, err := c.lock(ctx, name)
				got := time.Now()
				mu.Lock()
				if err != nil || count >= grants {
					if err != nil && ctx.Err() == nil && failed == nil {
						failed = err
					}
					mu.Unlock()
					if err == nil {
						_ = unlock()
					}
					return
				}
				out.longest = max(out.longest, got.Sub(asked))
				switch last {
				case -1:
				case i:
					out.regrants++
				default:
					handed = append(handed, got.Sub(gave))
				}
				last = i
				each[i]++
				count++
				mu.Unlock()
				time.Sleep(hold)
				mu.Lock()
				gave = time.Now()
				mu.Unlock()
				if err := unlock(); err != nil && ctx.Err() == nil {
					mu.Lock()
					failed = cmp.Or(failed, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(handed)
	out.perSecond = float64(count) / time.Since(began).Seconds()
	out.p50, out.p99, out.handed, out.total = at(handed, 0.5), at(handed, 0.99), len(handed), count
	out.fewest, out.most = slices.Min(each), slices.Max(each)
	return out, failed
}

func main() {
	page := flag.String("write", "", "the page that gets the tables, between its marks")
	length := flag.Duration("time", time.Second, "length of each measurement without contention")
	passes := flag.Int("passes", 3, "how often each is measured; the best pass counts")
	grants := flag.Int("grants", 300, "grants in each contest")
	only := flag.String("only", "", "measure only the locks whose name has this in it")
	flag.Parse()
	if err := run(*page, *length, *passes, *grants, *only); err != nil {
		log.Fatal(err)
	}
}

func start(ctx context.Context) (*servers, error) {
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		return nil, err
	}
	s := &servers{obs: o}
	if s.redis, err = backends.StartRedis(ctx, backends.RedisOptions{}); err != nil {
		return nil, err
	}
	if s.mysql, err = backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true}); err != nil {
		return nil, err
	}
	if s.url, _, err = s.mysql.NewDatabase(ctx); err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, db.Config{URL: s.url, Password: obs.Secret(s.mysql.Password())}, o)
	if err != nil {
		return nil, err
	}
	if _, err := d.Migrate(ctx, []db.Schema{lock.Schema()}); err != nil {
		return nil, err
	}
	s.local, err = lock.Open(lock.Config{TTL: ttl}, o)
	return s, cmp.Or(d.Close(), err)
}

func run(page string, length time.Duration, passes, grants int, only string) error {
	ctx := context.Background()
	s, err := start(ctx)
	if err != nil {
		return err
	}
	defer s.redis.Close()
	defer s.mysql.Close()
	var pairs, contests [][]string
	for _, k := range all {
		if !strings.Contains(k.name, only) {
			continue
		}
		fmt.Fprintln(os.Stderr, k.name)
		row := []string{k.name}
		c, err := k.open(s)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		for _, callers := range []int{1, 16} {
			var best float64
			var p50, p99 time.Duration
			for range passes {
				runtime.GC()
				n, a, b, err := alone(c, callers, length)
				if err != nil {
					return fmt.Errorf("%s: %w", k.name, err)
				}
				if n > best {
					best, p50, p99 = n, a, b
				}
			}
			row = append(row, count(best))
			if callers == 1 {
				row = append(row, short(p50)+" / "+short(p99))
			}
		}
		c.close()
		pairs = append(pairs, row)
		for _, n := range []int{2, 8} {
			var best contest
			for range passes {
				out, err := contend(k, s, n, grants, time.Minute)
				if err != nil {
					return fmt.Errorf("%s, %d contenders: %w", k.name, n, err)
				}
				if best.total == 0 || out.longest < best.longest {
					best = out
				}
			}
			contests = append(contests, []string{k.name, fmt.Sprint(n), fmt.Sprintf("%.0f", best.perSecond), short(best.p50) + " / " + short(best.p99), short(best.longest),
				fmt.Sprintf("%d to %d of %d", best.fewest, best.most, best.total), fmt.Sprintf("%.0f %%", 100*float64(best.regrants)/float64(max(best.total, 1)))})
		}
	}
	text := "Without contention, pairs of lock and unlock:\n\n" +
		table.Markdown([]string{"lock", "pairs/s, 1 caller", "a pair p50 / p99", "pairs/s, 16 callers, 16 names"}, pairs) +
		"\nContenders for one name, each with connections of its own, who hold it for 2 ms and ask again at once. A fair queue of n makes each wait for\n" +
		"(n − 1) holds; \"hand-over\" is from the call that gives back to the return of another contender's call.\n\n" +
		table.Markdown([]string{"lock", "contenders", "grants/s", "hand-over p50 / p99", "longest wait", "grants of one contender", "taken again by the same"}, contests)
	how := fmt.Sprintf("Best of %d passes; client and servers share the machine; Redis keeps nothing on disk, MariaDB flushes each commit.", passes)
	return table.Publish(page, "bench", "make bench-peers PEERS_OF=locks", how, text)
}

func count(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.2f M", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1f k", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
