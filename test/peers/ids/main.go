// Command ids measures the foundation id beside the libraries and servers that others number things with: how fast, with how much garbage, and
// what becomes of uniqueness when a process starts again in the same moment or with a clock that was set back.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/bwmarrin/snowflake"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/xid"
	"github.com/sony/sonyflake/v2"
	"github.com/sqids/sqids-go"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
	"levee/test/table"
)

func main() {
	page := flag.String("write", "", "the page whose table is written anew")
	best := flag.Duration("for", 300*time.Millisecond, "how long each of three measurements takes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *page, *best); err != nil {
		fmt.Fprintln(os.Stderr, "ids:", err)
		os.Exit(1)
	}
}

// bench is what is measured.
type bench struct {
	each time.Duration
	dir  string
	rows [][]string
	stop []func()
}

// maker makes what one goroutine calls; a call gives some ids.
type maker func() func() int

func quiet(clock obs.Clock) *obs.Obs {
	return &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: clock}
}

// time returns the time of one id and the allocations for it, the best of three.
func (b *bench) time(goroutines int, make maker) (ns, allocs float64) {
	for round := range 3 {
		var wg sync.WaitGroup
		counts := [2]int{}
		var before, after runtime.MemStats
		calls := [2]func() int{}
		for i := range goroutines {
			calls[i] = make()
			calls[i]() // what the first call prepares is not measured
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		begun := time.Now()
		for i := range goroutines {
			wg.Go(func() {
				call, n, end := calls[i], 0, begun.Add(b.each)
				for time.Now().Before(end) {
					for range 64 {
						n += call()
					}
				}
				counts[i] = n
			})
		}
		wg.Wait()
		took := time.Since(begun)
		runtime.ReadMemStats(&after)
		n := float64(counts[0] + counts[1])
		if each := float64(took.Nanoseconds()) / n; round == 0 || each < ns {
			ns, allocs = each, float64(after.Mallocs-before.Mallocs)/n
		}
	}
	return ns, allocs
}

// row measures a row of the table; make returns what one goroutine calls.
func (b *bench) row(what, restart, stepped string, make maker) {
	one, allocs := b.time(1, make)
	two, _ := b.time(2, make)
	if allocs < 0.01 {
		allocs = 0
	}
	b.add(what, number(one), number(two), number(1000/min(one, two)), number(allocs), restart, stepped)
}

func (b *bench) add(cells ...string) {
	fmt.Fprintln(os.Stderr, cells)
	b.rows = append(b.rows, cells)
}

func number(x float64) string {
	switch {
	case x >= 100 || x == 0:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'g', 2, 64)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func single[T any](f func() T) maker {
	return func() func() int { return func() int { _ = f(); return 1 } }
}

// twice counts ids that came again.
func twice[T comparable](ids []T) string {
	seen := make(map[T]bool, len(ids))
	again := 0
	for _, i := range ids {
		if seen[i] {
			again++
		}
		seen[i] = true
	}
	return fmt.Sprintf("%d of %d", again, len(ids))
}

// lives makes a generator again and again, 2,000 times, and asks each for five ids, as processes do that start again at once.
func lives[T comparable](open func() (next func() T, end func())) string {
	var all []T
	for range 2000 {
		next, end := open()
		for range 5 {
			all = append(all, next())
		}
		end()
	}
	return twice(all)
}

// setBack gives ids for 60 ms, and again for 60 ms with a generator whose clock is 50 ms behind.
func setBack[T comparable](open func(behind time.Duration) (next func() T, end func())) string {
	var all []T
	for _, behind := range []time.Duration{0, 50 * time.Millisecond} {
		next, end := open(behind)
		for begun := time.Now(); time.Since(begun) < 60*time.Millisecond; {
			all = append(all, next())
			time.Sleep(20 * time.Microsecond)
		}
		end()
	}
	return twice(all)
}

func run(ctx context.Context, page string, each time.Duration) (err error) {
	b := &bench{each: each}
	if b.dir, err = os.MkdirTemp("", "levee-peers-ids-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer func() {
		for _, f := range slices.Backward(b.stop) {
			f()
		}
	}()
	b.ours(ctx)
	if err := b.stores(ctx); err != nil {
		return err
	}
	if err := b.overHTTP(ctx); err != nil {
		return err
	}
	b.libraries()
	heads := []string{"", "ns an id, 1 goroutine", "2 goroutines", "M ids/s", "allocations an id", "again after 2,000 restarts", "again after the clock was set back by 50 ms"}
	return table.Publish(page, "bench", "make bench-peers PEERS_OF=ids", "Best of three. The two last columns count ids that were given twice: a generator is made "+
		"2,000 times over and asked for five ids each time; and one is made again with a clock that is 50 ms behind (bwmarrin and sonyflake: by their epoch). "+
		"kill -9 in these columns is a server that was killed, and started again on what it had kept. "+
		"\"Strict\" is at the layout's own ceiling, 4,096 ids in a millisecond of each worker (4.096 M/s): nobody can be faster without more bits, more workers or ids ahead of the clock.",
		table.Markdown(heads, b.rows))
}

// flake opens a generator on a folder, and ends it without a word, as a crash does.
func (b *bench) flake(cfg id.Config, behind time.Duration) (func() int64, func()) {
	g := must(id.Open(context.Background(), cfg, quiet(func() time.Time { return time.Now().Add(-behind) })))
	return func() int64 { return must(g.Next()) }, func() { _ = g.Close() }
}

func (b *bench) folder() string { return must(os.MkdirTemp(b.dir, "")) }

func (b *bench) set(workers int, lead time.Duration, layout id.Layout) *id.Set {
	cfg := id.Config{Dir: b.folder(), Lead: lead, Layout: layout}
	if layout != id.Default {
		cfg.Space = "other"
	}
	s := must(id.OpenSet(context.Background(), cfg, workers, quiet(time.Now)))
	b.stop = append(b.stop, func() { _ = s.Close() })
	return s
}

func (b *bench) ours(ctx context.Context) {
	dir := b.folder()
	restart := lives(func() (func() int64, func()) { return b.flake(id.Config{Dir: dir}, 0) })
	stepped := setBack(func(behind time.Duration) (func() int64, func()) { return b.flake(id.Config{Dir: dir}, behind) })
	g := must(id.Open(ctx, id.Config{Dir: b.folder()}, quiet(time.Now)))
	b.stop = append(b.stop, func() { _ = g.Close() })
	b.row("**levee** `Next`, ids may run ahead of the clock", restart, stepped, single(func() int64 { return must(g.Next()) }))
	for _, n := range []int{16, 1000} {
		b.row(fmt.Sprintf("**levee** `NextN` of %d", n), restart, stepped, func() func() int {
			dst := make([]int64, n)
			return func() int {
				if err := g.NextN(dst); err != nil {
					panic(err)
				}
				return n
			}
		})
	}
	for _, workers := range []int{1, 2, 4} {
		s := b.set(workers, id.Strict, id.Default)
		b.row(fmt.Sprintf("**levee** strict, workers: %d (ceiling %.3f M/s)", workers, 4.096*float64(workers)), restart, stepped, single(func() int64 { return must(s.Next()) }))
	}
	s := b.set(4, id.Strict, id.Default)
	b.row("**levee** strict, 4 workers, `NextN` of 1000", restart, stepped, func() func() int {
		dst := make([]int64, 1000)
		return func() int {
			if err := s.NextN(dst); err != nil {
				panic(err)
			}
			return len(dst)
		}
	})
	sealer := must(id.NewSealer(slices.Repeat([]byte{7}, 32)))
	b.row("**levee** `AppendSeal`: a public id", "stateless", "stateless", func() func() int {
		buf := make([]byte, 0, 64)
		n := rand.Int64()
		return func() int { n++; buf = sealer.AppendSeal(buf[:0], levee.KindOrder, n); return 1 }
	})
	public := sealer.Seal(levee.KindOrder, 247063142400000000)
	b.row("**levee** `Open` of a public id", "stateless", "stateless", single(func() int64 { return must(sealer.Open(levee.KindOrder, public)) }))
}

func (b *bench) libraries() {
	back := snowflake.Epoch
	flake := func(behind time.Duration) (func() snowflake.ID, func()) {
		snowflake.Epoch = back + behind.Milliseconds()
		n := must(snowflake.NewNode(1))
		return n.Generate, func() { snowflake.Epoch = back }
	}
	restart, stepped := lives(func() (func() snowflake.ID, func()) { return flake(0) }), setBack(flake)
	n := must(snowflake.NewNode(1))
	b.row("bwmarrin/snowflake 0.3.0", restart, stepped, single(n.Generate))

	start := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	sony := func(bits, machine int, unit time.Duration) func(time.Duration) (func() int64, func()) {
		return func(behind time.Duration) (func() int64, func()) {
			s := must(sonyflake.New(sonyflake.Settings{BitsSequence: bits, BitsMachineID: machine, TimeUnit: unit, StartTime: start.Add(behind), MachineID: func() (int, error) { return 1, nil }}))
			return func() int64 { return must(s.NextID()) }, func() {}
		}
	}
	for _, s := range []struct {
		name string
		open func(time.Duration) (func() int64, func())
	}{{"sonyflake 2.2.0, as it comes", sony(0, 0, 0)}, {"sonyflake 2.2.0, 12 bits of sequence, 1 ms", sony(12, 10, time.Millisecond)}} {
		next, _ := s.open(0)
		b.row(s.name, lives(func() (func() int64, func()) { return s.open(0) }), setBack(s.open), single(next))
	}

	const process = "– (one state a process)"
	b.row("google/uuid 1.6.0, version 7", process, process, single(func() uuid.UUID { return must(uuid.NewV7()) }))
	b.row("oklog/ulid 2.1.1, `Make`", process, process, single(ulid.Make))
	b.row("rs/xid 1.6.0", process, process, single(xid.New))
	q := must(sqids.New())
	b.row("sqids 0.4.1: a public id, no secret", "stateless", "stateless", single(func() string { return must(q.Encode([]uint64{uint64(rand.Int64())})) }))
}

// stores measures what asks a server.
func (b *bench) stores(ctx context.Context) error {
	server, err := backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true})
	if err != nil {
		return err
	}
	b.stop = append(b.stop, func() { _ = server.Close() })
	url, _, err := server.NewDatabase(ctx)
	if err != nil {
		return err
	}
	d, err := db.Open(ctx, db.Config{URL: url, Password: obs.Secret(server.Password())}, quiet(time.Now))
	if err != nil {
		return err
	}
	b.stop = append(b.stop, func() { _ = d.Close() })
	if _, err := d.Migrate(ctx, []db.Schema{id.Schema()}); err != nil {
		return err
	}
	for _, step := range []int64{1000, 100_000} {
		s := must(id.OpenSegments(id.SegmentsConfig{DB: d, StepMin: step, StepMax: step}, quiet(time.Now)))
		b.stop = append(b.stop, func() { _ = s.Close(context.Background()) })
		b.row(fmt.Sprintf("**levee** `Segments` over MariaDB, step %d", step), "0: a row", "no clock", single(func() int64 { return must(s.Next(ctx, "invoice")) }))
	}
	seven := segmentsAfterAKill(ctx, server, d)

	r, err := backends.StartRedis(ctx, backends.RedisOptions{})
	if err != nil {
		return err
	}
	b.stop = append(b.stop, func() { _ = r.Close() })
	c, err := redis.Open(ctx, redis.Config{URL: r.URL(), Timeout: time.Second}, quiet(time.Now))
	if err != nil {
		return err
	}
	b.stop = append(b.stop, func() { _ = c.Close() })
	u := c.UniversalClient()
	var all []int64
	incr := func() { all = append(all, u.Incr(ctx, "count").Val()) }
	for range 1000 {
		incr()
	}
	if err := r.Kill(); err != nil {
		return err
	}
	if err := r.Restart(ctx); err != nil {
		return err
	}
	for begun := time.Now(); u.Ping(ctx).Err() != nil && time.Since(begun) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	for range 1000 {
		incr()
	}
	b.row("Redis `INCR` without a log, one call each", "kill -9: "+twice(all), "no clock", single(func() int64 { return u.Incr(ctx, "count").Val() }))
	b.row("MariaDB `LAST_INSERT_ID(next + 1)`, one transaction each", "kill -9: "+seven, "no clock", func() func() int {
		s := must(id.OpenSegments(id.SegmentsConfig{DB: d, StepMin: 1, StepMax: 1}, quiet(time.Now)))
		return func() int { _ = must(s.Next(ctx, "one-by-one")); return 1 }
	})
	return nil
}

// segmentsAfterAKill takes segments of one, kills the server, and takes more.
func segmentsAfterAKill(ctx context.Context, server *backends.MySQLServer, d *db.DB) string {
	s := must(id.OpenSegments(id.SegmentsConfig{DB: d, StepMin: 1, StepMax: 1}, quiet(time.Now)))
	var all []int64
	for range 1000 {
		all = append(all, must(s.Next(ctx, "kill")))
	}
	if err := server.Kill(); err != nil {
		panic(err)
	}
	if err := server.Restart(ctx); err != nil {
		panic(err)
	}
	for begun := time.Now(); len(all) < 2000 && time.Since(begun) < 20*time.Second; {
		if n, err := s.Next(ctx, "kill"); err == nil {
			all = append(all, n)
		} else {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return twice(all)
}

// root is the folder of the product: the program runs in test/peers.
func root() string { return must(filepath.Abs(filepath.Join("..", ".."))) }
