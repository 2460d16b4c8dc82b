package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// childEnv tells a process of this program that it is a child, and what it shall do: a spec as JSON.
const childEnv = "LEVEE_PEERS_JOBS"

// spec is what a child shall do. celery/bench.py reads the same.
type spec struct {
	Engine string `json:"engine"`
	Do     string `json:"do"` // a key of deeds, or of the program in Python

	// Where the engine keeps its jobs.
	Dir      string `json:"dir"` // a folder that all processes of one measurement share
	MySQL    string `json:"mysql"`
	Password string `json:"password"`
	Postgres string `json:"postgres"`
	Redis    string `json:"redis"` // HOST:PORT
	RedisDB  int    `json:"redis_db"`

	Tuned bool `json:"tuned"` // larger measures than the engine's own, where they hold it back
	Late  bool `json:"late"`  // Celery: acknowledge after the run

	Fenced bool    `json:"fenced"` // chaos: effect and end commit together
	Lease  float64 `json:"lease"`  // chaos: seconds; 0: as it comes

	First  int     `json:"first"` // number of the first job
	Jobs   int     `json:"jobs"`
	Future int     `json:"future"`
	Spread float64 `json:"spread"` // seconds over which Jobs are due
	Budget float64 `json:"budget"` // seconds that samples may take
	Hold   float64 `json:"hold"`   // seconds that a job takes
	Gap    float64 `json:"gap"`    // seconds between two jobs, on average
	Warm   int     `json:"warm"`   // jobs that a process runs before it is looked at
	Rest   float64 `json:"rest"`   // seconds that a process is left alone before and while it is looked at
	Events string  `json:"events"` // file that gets a line for each start
}

// figures are a child's result.
type figures map[string]float64

// task is a job of a measurement. Times are Unix nanoseconds.
type task struct {
	N    int     `json:"n"`
	Sent int64   `json:"s,omitempty"`
	Due  int64   `json:"d,omitempty"` // 0: now
	Hold float64 `json:"h,omitempty"` // seconds
}

// work is what a job does. attempt counts from 1, as the engine tells it.
type work func(ctx context.Context, t task, attempt int) error

// queue is an engine as one process has opened it.
type queue interface {
	// put adds jobs in one call of the engine; more than one only if it said so with batch.
	put(ctx context.Context, ts []task) error
	// batch is how many jobs one call takes; 1 if it has no call for many.
	batch() int
	// run starts workers, and returns when they are up. stop ends them.
	run(ctx context.Context, f work) (stop func(), err error)
	// settle returns when nothing is due or running. It is called when all functions have returned.
	settle(ctx context.Context) error
	store
}

// store is where a queue keeps its jobs.
type store interface {
	// left counts the jobs that wait or run.
	left(ctx context.Context) (int, error)
	// size is what lies there, in bytes.
	size(ctx context.Context) (int64, error)
	close()
}

// idler is a queue that can be told to look for work.
type idler interface {
	look(ctx context.Context) error
}

var engines = map[string]func(ctx context.Context, s spec) (queue, error){
	"levee": openLevee, "asynq": openAsynq, "river-sqlite": openRiverSQLite, "river-postgres": openRiverPostgres,
}

var deeds = map[string]func(ctx context.Context, q queue, s spec) (figures, error){
	"throughput": throughput, "idle": idle, "fill": fill, "node": node, "put": put, "work": workUntilKilled,
	"left": func(ctx context.Context, q queue, s spec) (figures, error) {
		n, err := q.left(ctx)
		return figures{"left": float64(n)}, err
	},
}

// child does what the environment says and prints the figures as the last line.
func child(ctx context.Context, text string) error {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if s.Do == "chaos" {
		return chaosChild(ctx, s)
	}
	open, do := engines[s.Engine], deeds[s.Do]
	if open == nil || do == nil {
		return fmt.Errorf("no engine %q or nothing to do: %q", s.Engine, s.Do)
	}
	q, err := open(ctx, s)
	if err != nil {
		return fmt.Errorf("opening %s: %w", s.Engine, err)
	}
	defer q.close()
	f, err := do(ctx, q, s)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", s.Engine, s.Do, err)
	}
	line, err := json.Marshal(f)
	fmt.Printf("\n%s%s\n", resultMark, line)
	return err
}

const resultMark = "RESULT "

// putAll adds jobs n at a time by some callers.
func putAll(ctx context.Context, q queue, ts []task, callers, each int) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for failed.Load() == nil {
				at := int(next.Add(int64(each))) - each
				if at >= len(ts) {
					return
				}
				if err := q.put(ctx, ts[at:min(at+each, len(ts))]); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return *e
	}
	return nil
}

func numbered(first, n int) []task {
	ts := make([]task, n)
	for i := range ts {
		ts[i].N = first + i
	}
	return ts
}

// tally counts runs and says when the awaited number is there.
type tally struct {
	n, want atomic.Int64
	there   chan struct{} // capacity 1
}

func (t *tally) work(context.Context, task, int) error {
	if t.n.Add(1) == t.want.Load() {
		t.there <- struct{}{}
	}
	return nil
}

const (
	singleCallers = 64
	batchCallers  = 4
	fillCallers   = 16
)

// throughput: jobs put without a worker; those run; put one by one and run at the same time; the same in batches. From the first call until
// nothing is left.
func throughput(ctx context.Context, q queue, s spec) (figures, error) {
	out := figures{}
	count := &tally{there: make(chan struct{}, 1)}
	phase := func(name string, n int, do func() error) error {
		debug.FreeOSMemory()
		count.n.Store(0)
		count.want.Store(int64(n))
		began := time.Now()
		if err := do(); err != nil {
			return err
		}
		select {
		case <-count.there:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := q.settle(ctx); err != nil {
			return err
		}
		out[name] = float64(n) / time.Since(began).Seconds()
		if got := count.n.Load(); got != int64(n) {
			return fmt.Errorf("%s: %d jobs ran %d times", name, n, got)
		}
		return nil
	}
	began := time.Now()
	if err := putAll(ctx, q, numbered(0, s.Jobs), singleCallers, 1); err != nil {
		return nil, err
	}
	out["put"] = float64(s.Jobs) / time.Since(began).Seconds()
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	if err := phase("run", s.Jobs, func() (err error) {
		stop, err = q.run(ctx, count.work)
		return err
	}); err != nil {
		return nil, err
	}
	if err := phase("through", s.Jobs, func() error { return putAll(ctx, q, numbered(0, s.Jobs), singleCallers, 1) }); err != nil {
		return nil, err
	}
	if q.batch() == 1 {
		return out, nil
	}
	err := phase("batch", s.Jobs, func() error { return putAll(ctx, q, numbered(0, s.Jobs), batchCallers, q.batch()) })
	return out, err
}

// idle: from the call that puts one job to the start of its function, in one process that has nothing else to do.
func idle(ctx context.Context, q queue, s spec) (figures, error) {
	started := make(chan time.Time, 1)
	stop, err := q.run(ctx, func(context.Context, task, int) error {
		started <- time.Now()
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	time.Sleep(500 * time.Millisecond)
	var each []time.Duration
	for end := time.Now().Add(time.Duration(s.Budget * float64(time.Second))); len(each) < s.Jobs && time.Now().Before(end); {
		began := time.Now()
		if err := q.put(ctx, numbered(len(each), 1)); err != nil {
			return nil, err
		}
		select {
		case at := <-started:
			each = append(each, at.Sub(began))
		case <-time.After(30 * time.Second):
			return nil, errors.New("a job did not start within 30 s")
		}
		time.Sleep(20*time.Millisecond + rand.N(100*time.Millisecond))
	}
	return spreadOf(each), nil
}

// spreadOf tells about times in milliseconds.
func spreadOf(each []time.Duration) figures {
	if len(each) == 0 {
		return figures{}
	}
	slices.Sort(each)
	ms := func(share float64) float64 {
		return float64(each[min(int(share*float64(len(each))), len(each)-1)]) / 1e6
	}
	return figures{"p50": ms(0.5), "p99": ms(0.99), "max": ms(1), "min": ms(0), "n": float64(len(each))}
}

// fill adds jobs of tomorrow.
func fill(ctx context.Context, q queue, s spec) (figures, error) {
	before, err := q.size(ctx)
	if err != nil {
		return nil, err
	}
	ts := numbered(0, s.Future)
	tomorrow := time.Now().Add(24 * time.Hour)
	for i := range ts {
		ts[i].Due = tomorrow.Add(time.Duration(i/500) * 500 * time.Millisecond).UnixNano() // those of one call have one time
	}
	callers := fillCallers
	if q.batch() > 1 {
		callers = batchCallers
	}
	began := time.Now()
	if err := putAll(ctx, q, ts, callers, q.batch()); err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := q.size(ctx)
	return figures{"put": float64(s.Future) / took.Seconds(), "size": float64(after - before)}, err
}

// node is a process that runs jobs beside whatever lies in the store: its memory and CPU while nothing is due, and how late what is due starts.
func node(ctx context.Context, q queue, s spec) (figures, error) {
	var mu sync.Mutex // guards late
	var late []time.Duration
	count := &tally{there: make(chan struct{}, 1)}
	stop, err := q.run(ctx, func(ctx context.Context, t task, n int) error {
		if t.Due != 0 {
			d := time.Duration(time.Now().UnixNano() - t.Due)
			mu.Lock()
			late = append(late, d)
			mu.Unlock()
		}
		return count.work(ctx, t, n)
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	count.want.Store(int64(s.Warm))
	if err := putAll(ctx, q, numbered(0, s.Warm), 8, 1); err != nil {
		return nil, err
	}
	if err := arrive(ctx, count, time.Minute); err != nil {
		return nil, err
	}
	rest := time.Duration(s.Rest * float64(time.Second))
	time.Sleep(rest)
	debug.FreeOSMemory()
	out := figures{"rss": float64(resident())}
	cpu, began := used(), time.Now()
	time.Sleep(rest)
	out["cpu"] = (used() - cpu).Seconds() / time.Since(began).Seconds() * 1000
	if l, ok := q.(idler); ok {
		var each []time.Duration
		for range 300 {
			began := time.Now()
			if err := l.look(ctx); err != nil {
				return nil, err
			}
			each = append(each, time.Since(began))
		}
		out["look"] = spreadOf(each)["p50"]
	}
	if s.Jobs == 0 {
		return out, nil
	}
	count.n.Store(0)
	count.want.Store(int64(s.Jobs))
	ts := numbered(0, s.Jobs)
	base := time.Now().Add(max(rest, time.Second))
	for i := range ts {
		ts[i].Due = base.Add(time.Duration(float64(i) / float64(len(ts)) * s.Spread * float64(time.Second))).UnixNano()
	}
	callers := fillCallers
	if q.batch() > 1 {
		callers = batchCallers
	}
	if err := putAll(ctx, q, ts, callers, q.batch()); err != nil {
		return nil, err
	}
	if took := time.Since(base); took > 0 {
		return nil, fmt.Errorf("the delayed jobs were put %v too late", took)
	}
	if err := arrive(ctx, count, time.Duration(s.Spread*float64(time.Second))+2*time.Minute); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	for name, v := range spreadOf(late) {
		out[name] = v
	}
	return out, nil
}

func arrive(ctx context.Context, count *tally, most time.Duration) error {
	select {
	case <-count.there:
		return nil
	case <-time.After(most):
		return fmt.Errorf("%d of %d jobs ran within %v", count.n.Load(), count.want.Load(), most)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resident is the memory of this process.
func resident() int64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// used is the CPU time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// put adds jobs one by one with pauses.
func put(ctx context.Context, q queue, s spec) (figures, error) {
	for i := range s.Jobs {
		t := task{N: s.First + i, Hold: s.Hold, Sent: time.Now().UnixNano()}
		if err := q.put(ctx, []task{t}); err != nil {
			return nil, err
		}
		if i+1 < s.Jobs {
			time.Sleep(time.Duration((0.5 + rand.Float64()) * s.Gap * float64(time.Second)))
		}
	}
	return figures{}, nil
}

// workUntilKilled runs jobs and writes down each start, and each end.
func workUntilKilled(ctx context.Context, q queue, s spec) (figures, error) {
	file, err := os.OpenFile(s.Events, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	stop, err := q.run(ctx, func(ctx context.Context, t task, attempt int) error {
		_, err := fmt.Fprintf(file, "START %d %d %d %d\n", t.N, attempt, time.Now().UnixNano(), t.Sent)
		if err != nil || t.Hold == 0 {
			return err
		}
		select {
		case <-time.After(time.Duration(t.Hold * float64(time.Second))):
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	<-ctx.Done()
	return nil, ctx.Err()
}

// start is a line of Events.
type start struct {
	n, attempt int
	at, sent   time.Time
}

func startsIn(file string) (all []start) {
	text, _ := os.ReadFile(file) // it is not there before the first
	for line := range strings.Lines(string(text)) {
		var s start
		var at, sent int64
		if n, _ := fmt.Sscanf(line, "START %d %d %d %d\n", &s.n, &s.attempt, &at, &sent); n == 4 {
			s.at, s.sent = time.Unix(0, at), time.Unix(0, sent)
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b start) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.n, b.n)) })
	return all
}
