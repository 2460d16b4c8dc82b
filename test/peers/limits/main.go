// Program limits measures rate limits beside the libraries that others pick: decisions a second in process and on Redis, by one caller and by 64,
// and how many of 50 callers at the same moment each lets through at five a day.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"
	"github.com/ulule/limiter/v3"
	"github.com/ulule/limiter/v3/drivers/store/memory"
	redisstore "github.com/ulule/limiter/v3/drivers/store/redis"
	"golang.org/x/time/rate"

	"levee/internal/platform/backends"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
	"levee/test/table"
)

const (
	people  = 10_000          // keys
	each    = 2 * time.Second // of a measurement
	crowd   = 50
	runs    = 20
	script  = "../../internal/platform/limit/take.lua"
	command = "make bench-peers PEERS_OF=limits"
)

// allow asks once whether the key may.
type allow func(ctx context.Context, key string) bool

// rival is somebody's limiter. Each call of open is another node of the same house.
type rival struct {
	name  string
	redis bool
	// open makes a limiter of so many in a time. Houses of different names share nothing.
	open func(house string, count int, per time.Duration) (allow, error)
	// exact measures the speed at the largest rate that is a log.
	exact bool
}

func main() {
	write := flag.String("write", "", "the page to write the tables into")
	flag.Parse()
	if err := run(*write); err != nil {
		slog.Error("limits", "error", err)
		os.Exit(1)
	}
}

func run(page string) error {
	ctx := context.Background()
	server, err := backends.StartRedis(ctx, backends.RedisOptions{})
	if err != nil {
		return err
	}
	defer server.Close()
	all := rivals(server)
	keys := make([]string, people)
	for i := range keys {
		keys[i] = "user-" + strconv.Itoa(i)
	}
	var rows [][]string
	for i, r := range all {
		fmt.Fprintln(os.Stderr, "measuring", r.name)
		row := []string{r.name, where(r)}
		for _, callers := range []int{1, 64} {
			a, err := r.open(fmt.Sprintf("speed-%d-%d", i, callers), rateOf(r), time.Second)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			row = append(row, perSecond(speed(ctx, a, keys, callers)))
		}
		through, err := storms(ctx, r, i)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		rows = append(rows, append(row, through...))
	}
	bare, err := benchmark(ctx, server)
	if err != nil {
		return err
	}
	text := table.Markdown([]string{"limiter", "kept in", "1 caller", "64 callers", "5/day: of 50 at once", "of 50 on three nodes"}, append(rows, bare...))
	return table.Publish(page, "bench", command, fmt.Sprintf("Decisions a second over %d keys, %v each; what each lets through is the least and most "+
		"of %d runs (5 is right). Redis is one private server on the same machine, which server, callers and redis-benchmark share.", people, each, runs), text)
}

func where(r rival) string {
	if r.redis {
		return "Redis"
	}
	return "process"
}

// rateOf is high enough for nobody to be refused while speed is measured: a refusal costs less.
func rateOf(r rival) int {
	if r.exact {
		return 100 // the largest that is exact
	}
	return 1_000_000
}

func rivals(server *backends.RedisServer) []rival {
	ours := func(shared bool) func(string, int, time.Duration) (allow, error) {
		return func(house string, count int, per time.Duration) (allow, error) {
			o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
			if err != nil {
				return nil, err
			}
			o.Metrics = prometheus.NewRegistry()
			cfg := limit.Config{Rates: map[string]string{"write": limit.Rate{Count: count, Per: per}.String()}}
			var l *limit.Limits
			if shared {
				c, err := redis.Open(context.Background(), redis.Config{URL: server.URL(), Prefix: house + ":"}, o)
				if err != nil {
					return nil, err
				}
				l, err = limit.OpenShared(cfg, c, o)
				if err != nil {
					return nil, err
				}
			} else if l, err = limit.Open(cfg, o); err != nil {
				return nil, err
			}
			return func(ctx context.Context, key string) bool { return l.Allow(ctx, limit.Write, key).OK }, nil
		}
	}
	client := func() *goredis.Client { return goredis.NewClient(&goredis.Options{Addr: server.Addr(), PoolSize: 64}) }
	return []rival{
		{name: "Levee, exact log (100/s)", open: ours(false), exact: true},
		{name: "Levee, bucket", open: ours(false)},
		{name: "golang.org/x/time/rate, one per key in a sync.Map that forgets nothing", open: func(_ string, count int, per time.Duration) (allow, error) {
			var keys sync.Map
			return func(_ context.Context, key string) bool {
				l, ok := keys.Load(key)
				if !ok {
					l, _ = keys.LoadOrStore(key, rate.NewLimiter(rate.Every(per/time.Duration(count)), count))
				}
				return l.(*rate.Limiter).Allow()
			}, nil
		}},
		{name: "ulule/limiter v3, memory (fixed window)", open: func(_ string, count int, per time.Duration) (allow, error) {
			return ulule(memory.NewStore(), count, per), nil
		}},
		{name: "Levee, exact log (100/s)", redis: true, open: ours(true), exact: true},
		{name: "Levee, bucket", redis: true, open: ours(true)},
		{name: "go-redis/redis_rate v10 (GCRA)", redis: true, open: func(house string, count int, per time.Duration) (allow, error) {
			c := client()
			l := redis_rate.NewLimiter(c)
			r := redis_rate.Limit{Rate: count, Burst: count, Period: per}
			return func(ctx context.Context, key string) bool {
				res, err := l.Allow(ctx, house+key, r)
				return err == nil && res.Allowed > 0
			}, nil
		}},
		{name: "ulule/limiter v3, Redis (fixed window)", redis: true, open: func(house string, count int, per time.Duration) (allow, error) {
			c := client()
			store, err := redisstore.NewStoreWithOptions(c, limiter.StoreOptions{Prefix: house})
			if err != nil {
				return nil, err
			}
			return ulule(store, count, per), nil
		}},
		{name: "read, think, write (what many houses do)", redis: true, open: func(house string, count int, per time.Duration) (allow, error) {
			c := client()
			return func(ctx context.Context, key string) bool {
				n, err := c.Get(ctx, house+key).Int()
				if err != nil && !errors.Is(err, goredis.Nil) || n >= count {
					return false
				}
				return c.Set(ctx, house+key, n+1, per).Err() == nil
			}, nil
		}},
	}
}

func ulule(store limiter.Store, count int, per time.Duration) allow {
	l := limiter.New(store, limiter.Rate{Period: per, Limit: int64(count)})
	return func(ctx context.Context, key string) bool {
		got, err := l.Get(ctx, key)
		return err == nil && !got.Reached
	}
}

// speed is decisions a second.
func speed(ctx context.Context, a allow, keys []string, callers int) float64 {
	for _, k := range keys[:100] {
		a(ctx, k)
	}
	var done atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	began := time.Now()
	for c := range callers {
		wg.Go(func() {
			n := 0
			for i := c * 151; !stop.Load(); i++ {
				a(ctx, keys[i%len(keys)])
				n++
			}
			done.Add(int64(n))
		})
	}
	time.Sleep(each)
	stop.Store(true)
	wg.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// storms counts how many of 50 callers at the same moment are let through at five a day, by one node and by three.
func storms(ctx context.Context, r rival, number int) (cells []string, err error) {
	for _, nodes := range []int{1, 3} {
		house := fmt.Sprintf("storm-%d-%d", number, nodes)
		asks := make([]allow, nodes)
		for i := range asks {
			if asks[i], err = r.open(house, 5, 24*time.Hour); err != nil {
				return nil, err
			}
		}
		least, most := crowd, 0
		for run := range runs {
			var ok atomic.Int64
			var start, wg sync.WaitGroup
			start.Add(1)
			for i := range crowd {
				wg.Go(func() {
					start.Wait()
					if asks[i%nodes](ctx, "run"+strconv.Itoa(run)) {
						ok.Add(1)
					}
				})
			}
			start.Done()
			wg.Wait()
			least, most = min(least, int(ok.Load())), max(most, int(ok.Load()))
		}
		switch {
		case nodes > 1 && !r.redis:
			cells = append(cells, fmt.Sprintf("%d to %d (nothing is shared)", least, most))
		case least == most:
			cells = append(cells, strconv.Itoa(least))
		default:
			cells = append(cells, fmt.Sprintf("%d to %d", least, most))
		}
	}
	return cells, nil
}

var rps = regexp.MustCompile(`([0-9.]+) requests per second`)

// benchmark is the bare script under redis-benchmark: what is left when nothing of ours is in the way.
func benchmark(ctx context.Context, server *backends.RedisServer) (rows [][]string, err error) {
	text, err := os.ReadFile(script)
	if err != nil {
		return nil, err
	}
	sha, err := server.Do(ctx, "SCRIPT", "LOAD", string(text))
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(server.Addr())
	if err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		name string
		args []string
	}{
		{"exact log (100/s)", []string{"1", "100", "1000000", "10000", "100", "0"}},
		{"bucket", []string{"0", "1000000", "1000000", "1", "1000000", "0"}},
	} {
		for _, wide := range []string{"1", "16"} {
			row := []string{"redis-benchmark, our bare script, " + kind.name + ", " + wide + " in a pipeline", "Redis"}
			for i, callers := range []string{"1", "64"} {
				args := []string{"-h", host, "-p", port, "-q", "-c", callers, "-P", wide, "-r", strconv.Itoa(people),
					"-n", []string{"40000", "200000"}[i], "EVALSHA", fmt.Sprint(sha), "1", "bench:" + kind.name[:3] + ":__rand_int__", "0"}
				out, err := exec.CommandContext(ctx, "redis-benchmark", append(args, kind.args...)...).CombinedOutput()
				found := rps.FindAllSubmatch(out, -1)
				if err != nil || len(found) == 0 {
					return nil, fmt.Errorf("redis-benchmark: %w: %s", err, out)
				}
				n, err := strconv.ParseFloat(string(found[len(found)-1][1]), 64)
				if err != nil {
					return nil, err
				}
				row = append(row, perSecond(n))
			}
			rows = append(rows, append(row, "", ""))
		}
	}
	return rows, nil
}

func perSecond(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.2f M", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.0f k", n/1e3)
	}
	return fmt.Sprintf("%.1f k", n/1e3)
}
