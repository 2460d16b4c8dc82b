// Command jobs measures Levee's jobs beside the libraries that others pick, each on a server of its own kind in one run: how many jobs a second,
// how soon an idle worker starts one, a million jobs of tomorrow, and what becomes of a job whose worker is killed.
//
// A contestant is one line in the list of all. Each measurement runs in a process of its own (this program with childEnv set, or Python for
// Celery), so that no engine pays for another's memory, and on a store that was empty before. With -chaos it does something else: see chaos.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee/internal/platform/backends"
	"levee/test/table"
)

// contestant is an engine on a store. What is false is not measured.
type contestant struct {
	name, engine, store string
	tuned, late         bool // see spec
	bell                bool // processes wake each other over Redis
	through, idle       bool
	timers, crash       bool
	share               float64 // of the jobs in a measurement of throughput: slow ones get fewer
	future              float64 // of the jobs of tomorrow
	how                 string  // for the table of settings
}

const (
	ofSQLite   = "file, WAL, synchronous=FULL"
	ofRedis    = "append-only file, fsync "
	ofPostgres = "fsync and synchronous_commit on, shared_buffers 512 MB"
)

var all = []contestant{
	{name: "**Levee**, SQLite", engine: "levee", store: "sqlite", through: true, idle: true, timers: true, crash: true, share: 1, future: 1, how: "as it comes: 16 slots"},
	{name: "**Levee**, MariaDB", engine: "levee", store: "mysql", through: true, idle: true, timers: true, crash: true, share: 0.5, future: 1, how: "as it comes: 16 slots, 24 writers"},
	{name: "**Levee**, MariaDB, with a bell over Redis", engine: "levee", store: "mysql", bell: true, idle: true, how: "as the house has it on several nodes"},
	{name: "asynq, Redis, fsync each second", engine: "asynq", store: "redis", through: true, idle: true, timers: true, crash: true, share: 1, future: 1,
		how: fmt.Sprintf("as it comes, but for Concurrency %d", asynqConcurrency)},
	{name: "asynq, Redis, fsync always", engine: "asynq", store: "redis-always", through: true, share: 0.5, how: fmt.Sprintf("Concurrency %d", asynqConcurrency)},
	{name: "River, SQLite", engine: "river-sqlite", store: "sqlite", through: true, idle: true, timers: true, crash: true, share: 0.1, future: 1, how: "as it comes: MaxWorkers 100"},
	{name: "River, SQLite, tuned", engine: "river-sqlite", store: "sqlite", tuned: true, through: true, idle: true, share: 0.25, how: "MaxWorkers 1000, FetchCooldown 1 ms"},
	{name: "River, PostgreSQL", engine: "river-postgres", store: "postgres", through: true, idle: true, timers: true, crash: true, share: 0.1, future: 1,
		how: "as it comes: MaxWorkers 100; 24 connections"},
	{name: "River, PostgreSQL, tuned", engine: "river-postgres", store: "postgres", tuned: true, through: true, idle: true, share: 0.5,
		how: "MaxWorkers 1000, FetchCooldown 1 ms; 24 connections"},
	{name: "Celery, Redis", engine: "celery", store: "redis", through: true, idle: true, timers: true, crash: true, share: 0.1, future: 0.02,
		how: "as it comes: prefork, 2 processes, acknowledged before the run; 1 caller; no results"},
	{name: "Celery, Redis, acks_late", engine: "celery", store: "redis", late: true, crash: true, how: "acks_late, reject_on_worker_lost"},
}

// options are the flags.
type options struct {
	page, only, measures         string
	jobs, samples, future, due   int
	passes                       int
	budget, spread, most, length time.Duration
	quick, chaos, loose          bool
	kills, lease                 time.Duration
}

func main() {
	if text := os.Getenv(childEnv); text != "" {
		if err := child(context.Background(), text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.page, "write", "", "the page that gets the tables, between its marks")
	flag.StringVar(&o.only, "only", "", "measure only the contestants whose name has this in it")
	flag.StringVar(&o.measures, "measures", "throughput,idle,timers,crash", "what to measure")
	flag.IntVar(&o.jobs, "jobs", 100_000, "jobs in a measurement of throughput; slow contestants get a share")
	flag.IntVar(&o.passes, "passes", 3, "how often throughput is measured; the best of each figure counts")
	flag.IntVar(&o.samples, "samples", 200, "starts of an idle worker")
	flag.DurationVar(&o.budget, "budget", 40*time.Second, "the time that they may take")
	flag.IntVar(&o.future, "future", 1_000_000, "jobs of tomorrow; Celery, whose worker reads them all, gets a fiftieth")
	flag.IntVar(&o.due, "due", 10_000, "delayed jobs that become due beside them")
	flag.DurationVar(&o.spread, "spread", 10*time.Second, "the time over which they do")
	flag.DurationVar(&o.most, "most", 130*time.Second, "how long to wait for the job of a killed worker")
	flag.BoolVar(&o.quick, "quick", false, "small numbers, all at once: that everything works, not what it measures")
	flag.BoolVar(&o.chaos, "chaos", false, "kill and pause workers of Levee on MariaDB, and audit (-chaos-jobs, -kill-every, -lease, -loose)")
	flag.BoolVar(&o.loose, "loose", false, "chaos: the control: effects do not commit with the end of their job")
	chaosJobs := flag.Int("chaos-jobs", 100_000, "chaos: jobs")
	flag.DurationVar(&o.kills, "kill-every", time.Second, "chaos: pause between two kills")
	flag.DurationVar(&o.lease, "lease", 10*time.Second, "chaos: the lease of the workers; 10 s is what it comes with")
	flag.DurationVar(&o.length, "patience", 20*time.Minute, "the most time for one measurement")
	flag.Parse()
	if o.quick {
		o.jobs, o.passes, o.samples, o.budget, o.future, o.due, o.spread, o.most = 2000, 1, 10, 2*time.Second, 5000, 300, time.Second, 17*time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.chaos {
		err = chaos(ctx, o, *chaosJobs)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// bench is a run.
type bench struct {
	o        options
	redis    *backends.RedisServer
	always   *backends.RedisServer
	mysql    *backends.MySQLServer
	postgres *postgresServer // nil: not to be had here
	python   *python         // nil: not to be had here
	self     string
	missing  []string

	mu     sync.Mutex // guards what follows
	number int        // of databases and Redis' too
	failed []error
}

func openBench(ctx context.Context, o options) (b *bench, err error) {
	b = &bench{o: o}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.self, err = os.Executable(); err != nil {
		return b, err
	}
	wants := func(part func(contestant) bool) bool { return slices.ContainsFunc(b.list(), part) }
	if wants(func(c contestant) bool { return c.store == "redis" || c.bell }) {
		if b.redis, err = backends.StartRedis(ctx, backends.RedisOptions{AOF: true, Durable: true, Settings: databases()}); err != nil {
			return b, err
		}
	}
	if wants(func(c contestant) bool { return c.store == "redis-always" }) {
		settings := databases()
		settings["appendfsync"] = "always"
		if b.always, err = backends.StartRedis(ctx, backends.RedisOptions{AOF: true, Durable: true, Settings: settings}); err != nil {
			return b, err
		}
	}
	if wants(func(c contestant) bool { return c.store == "mysql" }) {
		o := backends.MySQLOptions{Durable: true, Settings: map[string]string{"innodb-buffer-pool-size": "512M"}}
		if b.mysql, err = backends.StartMySQL(ctx, o); err != nil {
			return b, err
		}
	}
	if wants(func(c contestant) bool { return c.store == "postgres" }) {
		b.postgres, err = startPostgres(ctx)
		if errors.Is(err, backends.ErrMissing) {
			b.missing = append(b.missing, "PostgreSQL is not to be had on this machine: River on it is left out.")
		} else if err != nil {
			return b, err
		}
	}
	if wants(func(c contestant) bool { return c.engine == "celery" }) {
		if b.python, err = openPython(ctx); err != nil {
			if ctx.Err() != nil {
				return b, err
			}
			fmt.Fprintln(os.Stderr, "Celery is left out:", err)
			b.missing = append(b.missing, "Celery could not be installed on this machine: it is left out.")
		}
	}
	return b, nil
}

const redisDatabases = 512

func databases() map[string]string { return map[string]string{"databases": fmt.Sprint(redisDatabases)} }

func (b *bench) close() {
	if b.python != nil {
		_ = b.python.folder.Close()
	}
	if b.redis != nil {
		_ = b.redis.Close()
	}
	if b.always != nil {
		_ = b.always.Close()
	}
	if b.mysql != nil {
		_ = b.mysql.Close()
	}
	b.postgres.close()
}

// list are the contestants that take part.
func (b *bench) list() []contestant {
	return slices.DeleteFunc(slices.Clone(all), func(c contestant) bool { return !strings.Contains(c.name, b.o.only) })
}

// place is an empty store for a contestant; done removes it.
func (b *bench) place(ctx context.Context, c contestant) (s spec, done func(), err error) {
	folder, err := backends.PrepareProgram(backends.ProgramOptions{Name: "store", Durable: true})
	if err != nil {
		return s, nil, err
	}
	done = func() { _ = folder.Close() }
	s = spec{Engine: c.engine, Dir: folder.Dir(), Tuned: c.tuned, Late: c.late, Events: folder.Dir() + "/events", Budget: b.o.budget.Seconds(),
		Spread: b.o.spread.Seconds(), Rest: 3, Warm: 1000}
	if b.o.quick {
		s.Rest, s.Warm = 0.5, 100
	}
	b.mu.Lock()
	b.number++
	number := b.number
	b.mu.Unlock()
	if c.bell {
		s.Redis = b.redis.Addr()
	}
	switch c.store {
	case "mysql":
		var drop func()
		s.Password = b.mysql.Password()
		s.MySQL, drop, err = b.mysql.NewDatabase(ctx)
		done = func() { drop(); _ = folder.Close() }
	case "postgres":
		name := fmt.Sprintf("bench%d", number)
		s.Postgres = b.postgres.url(name)
		err = b.postgres.exec(ctx, "CREATE DATABASE "+name)
		done = func() {
			_ = b.postgres.exec(context.WithoutCancel(ctx), "DROP DATABASE "+name+" WITH (FORCE)")
			_ = folder.Close()
		}
	case "redis", "redis-always":
		server := b.redis
		if c.store == "redis-always" {
			server = b.always
		}
		s.Redis = server.Addr()
		s.RedisDB = number % redisDatabases
		clear := func(ctx context.Context) error {
			r := goredis.NewClient(&goredis.Options{Addr: s.Redis, DB: s.RedisDB, ReadTimeout: time.Minute})
			defer r.Close()
			return r.FlushDB(ctx).Err()
		}
		err = clear(ctx)
		done = func() { _ = clear(context.WithoutCancel(ctx)); _ = folder.Close() }
	}
	return s, done, err
}

// start starts a child.
func (b *bench) start(ctx context.Context, s spec) (*backends.Program, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	o := backends.ProgramOptions{Name: s.Engine + " " + s.Do, Path: b.self, Env: append(os.Environ(), childEnv+"="+string(text))}
	if s.Engine == "celery" {
		o.Name, o.Path, o.Args = b.python.path, b.python.path, []string{b.python.folder.Dir() + "/bench.py"} // Python finds its libraries by its name
		o.Env = append(o.Env, "PYTHONPATH="+b.python.folder.Dir())
	}
	return backends.StartProgram(ctx, o)
}

// ask starts a child and waits for its figures.
func (b *bench) ask(ctx context.Context, s spec) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, b.o.length)
	defer cancel()
	p, err := b.start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := p.Wait(ctx); err != nil {
		return nil, fmt.Errorf("%s, %s: %w; it said: %s", s.Engine, s.Do, err, p.Said())
	}
	_, text, ok := strings.Cut(p.Log(), "\n"+resultMark)
	if !ok {
		return nil, fmt.Errorf("%s, %s gave no result; it said: %s", s.Engine, s.Do, p.Said())
	}
	var f figures
	err = json.Unmarshal([]byte(strings.SplitN(text, "\n", 2)[0]), &f)
	return f, err
}

// result is all that was measured of a contestant.
type result struct {
	through, idle, other figures
	fill, alone, node    figures
	crash                string
	attempt              string
	failed               bool
}

func (b *bench) fail(c contestant, r *result, err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r.failed = true
	b.failed = append(b.failed, fmt.Errorf("%s: %w", c.name, err))
	fmt.Fprintln(os.Stderr, c.name, "FAILED:", err)
}

func (b *bench) on(measure string) bool {
	return slices.Contains(strings.Split(b.o.measures, ","), measure)
}

// with does something on an empty store.
func (b *bench) with(ctx context.Context, c contestant, do func(s spec) error) error {
	s, done, err := b.place(ctx, c)
	if done != nil {
		defer done()
	}
	if err != nil {
		return err
	}
	if c.engine != "celery" {
		// One process makes the tables: two of River's that do it at once fail.
		s.Do = "left"
		if _, err := b.ask(ctx, s); err != nil {
			return err
		}
	}
	return do(s)
}

func (b *bench) measure(ctx context.Context, c contestant, r *result) error {
	said := func(what string) { fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), c.name, what) }
	if b.on("throughput") && c.through {
		for range b.o.passes {
			said("throughput")
			if err := b.with(ctx, c, func(s spec) error {
				s.Do, s.Jobs = "throughput", max(int(float64(b.o.jobs)*c.share), 200)
				f, err := b.ask(ctx, s)
				if r.through == nil {
					r.through = f
				}
				for name, v := range f {
					r.through[name] = max(r.through[name], v)
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	if b.on("idle") && c.idle {
		said("idle")
		if err := b.with(ctx, c, func(s spec) (err error) {
			s.Do, s.Jobs = "idle", b.o.samples
			r.idle, err = b.ask(ctx, s)
			return err
		}); err != nil {
			return err
		}
		said("idle, put by another process")
		if err := b.with(ctx, c, func(s spec) (err error) {
			r.other, err = b.other(ctx, s)
			return err
		}); err != nil {
			return err
		}
	}
	if b.on("timers") && c.timers {
		said("jobs of tomorrow")
		return b.with(ctx, c, func(s spec) (err error) {
			s.Do, s.Jobs = "node", 0
			if r.alone, err = b.ask(ctx, s); err != nil {
				return err
			}
			s.Do, s.Future = "fill", int(float64(b.o.future)*c.future)
			if r.fill, err = b.ask(ctx, s); err != nil {
				return err
			}
			r.fill["n"] = float64(s.Future)
			s.Do, s.Jobs = "node", b.o.due
			r.node, err = b.ask(ctx, s)
			return err
		})
	}
	return nil
}

// other is idle with the jobs put by a process that runs none.
func (b *bench) other(ctx context.Context, s spec) (figures, error) {
	s.Do = "work"
	worker, err := b.start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer worker.Close()
	put := s
	put.Do, put.Events = "put", s.Events+"-put"
	// The first job tells that the worker is up.
	var starts []start
	for _, put.Jobs = range []int{1, min(b.o.samples, int(b.o.budget.Seconds()*2))} {
		if _, err := b.ask(ctx, put); err != nil {
			return nil, err
		}
		put.First, put.Gap = 1, 0.3
		before := len(starts)
		for end := time.Now().Add(time.Minute); len(starts) < before+put.Jobs && time.Now().Before(end) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			starts = startsIn(s.Events)
		}
		if len(starts) < before+put.Jobs {
			return nil, fmt.Errorf("%d of %d jobs of another process started; the worker said: %s", len(starts)-before, put.Jobs, worker.Said())
		}
	}
	var each []time.Duration
	for _, st := range starts {
		if st.n > 0 {
			each = append(each, st.at.Sub(st.sent))
		}
	}
	return spreadOf(each), nil
}

func run(ctx context.Context, o options) error {
	b, err := openBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	list := slices.DeleteFunc(b.list(), func(c contestant) bool {
		return c.engine == "celery" && b.python == nil || c.store == "postgres" && b.postgres == nil
	})
	results := make([]result, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		measure := func() { b.fail(c, &results[i], b.measure(ctx, c, &results[i])) }
		if o.quick {
			wg.Go(measure)
			continue
		}
		measure()
		if ctx.Err() != nil {
			break
		}
	}
	if b.on("crash") && ctx.Err() == nil {
		// They mostly wait: all at once.
		fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), "crashes, all contestants at once")
		for i, c := range list {
			if c.crash {
				wg.Go(func() { b.fail(c, &results[i], b.crash(ctx, c, &results[i])) })
			}
		}
	}
	wg.Wait()
	text := b.tables(context.WithoutCancel(ctx), list, results)
	if ctx.Err() != nil {
		fmt.Printf("Interrupted; so far:\n\n%s", text)
		return ctx.Err()
	}
	how := ""
	if o.quick {
		how = "**With -quick: these are no measurements.** "
	}
	how += fmt.Sprintf("Throughput: best of %d passes, each in a new process on an empty store; clients, workers and servers share the machine. ", o.passes) +
		strings.Join(b.missing, " ")
	return errors.Join(append(b.failed, table.Publish(o.page, "bench", "make bench-peers PEERS_OF=jobs", strings.TrimSpace(how), text))...)
}

// versionOf is a module's version in this program.
func versionOf(module string) string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, d := range info.Deps {
			if d.Path == module {
				return strings.TrimPrefix(d.Version, "v")
			}
		}
	}
	return "?"
}
