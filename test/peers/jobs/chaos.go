package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/fstest"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
)

// The chaos: three workers of Levee on MariaDB run jobs that each write one row of an effect. One of the workers is killed each second, another is
// paused for longer than its lease now and then. Then the rows are counted, and the lines that the workers wrote about their starts and ends.
//
// The control, -loose, leaves the end of the job out of the effect's transaction (job.DoneTx): then effects must show twice, else nothing was
// tested. (What takes the fence itself away is not exported by package job: its own suite has that control.)
const (
	chaosNodes  = 3
	chaosOver   = 5 * time.Second  // a pause is so much longer than the lease
	chaosEvery  = 12 * time.Second // from the end of a pause to the next
	chaosFirst  = 2 * time.Second
	chaosLength = 40 * time.Millisecond // the longest job
)

var effects = db.Schema{Owner: "bench", FS: fstest.MapFS{"schema/0001_effect.sql": {Data: []byte(
	`CREATE TABLE bench_effect (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL, life BIGINT NOT NULL);`)}}}

// chaosChild is a worker. Its lines: START as everywhere; END n life when effect and end have committed; LOST n when its lease was.
func chaosChild(ctx context.Context, s spec) error {
	opened, err := openLevee(ctx, s)
	if err != nil {
		return err
	}
	q := opened.(*leveeQueue)
	defer q.close()
	file, err := os.OpenFile(s.Events, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	stop, err := q.run(ctx, func(ctx context.Context, t task, attempt int) error {
		if _, err := fmt.Fprintf(file, "START %d %d %d 0\n", t.N, attempt, time.Now().UnixNano()); err != nil {
			return err
		}
		time.Sleep(rand.N(chaosLength))
		row, err := q.ids.Next()
		if err != nil {
			return err
		}
		err = q.db.Tx(ctx, "bench.effect", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO bench_effect (id, n, life) VALUES (?, ?, ?)`, row, t.N, s.First); err != nil {
				return err
			}
			if !s.Fenced {
				return nil
			}
			return job.DoneTx(ctx, tx)
		})
		switch {
		case levee.CodeOf(err) == levee.CodeConflict:
			fmt.Fprintf(file, "LOST %d\n", t.N)
		case err == nil:
			fmt.Fprintf(file, "END %d\n", t.N)
		default:
			fmt.Fprintf(file, "ERROR %d %s\n", t.N, strings.ReplaceAll(err.Error(), "\n", " "))
		}
		return err
	})
	if err != nil {
		return err
	}
	defer stop()
	<-ctx.Done()
	return nil
}

// life is one process of a worker.
type life struct {
	number  int
	program *backends.Program
	events  string
	killed  time.Time // zero: it was not
	paused  bool
}

type chaosRun struct {
	o     options
	s     spec
	self  string
	mu    sync.Mutex // guards what follows
	lives []*life
	slots [chaosNodes]*life
}

func chaos(ctx context.Context, o options, jobs int) (err error) {
	server, err := backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true, Settings: map[string]string{"innodb-buffer-pool-size": "512M"}})
	if err != nil {
		return err
	}
	defer server.Close()
	folder, err := backends.PrepareProgram(backends.ProgramOptions{Name: "chaos", Durable: true})
	if err != nil {
		return err
	}
	defer folder.Close()
	c := &chaosRun{o: o}
	if c.self, err = os.Executable(); err != nil {
		return err
	}
	c.s = spec{Engine: "levee", Do: "chaos", Dir: folder.Dir(), Fenced: !o.loose, Lease: o.lease.Seconds(), Password: server.Password()}
	if c.s.MySQL, _, err = server.NewDatabase(ctx); err != nil {
		return err
	}
	opened, err := openLevee(ctx, c.s)
	if err != nil {
		return err
	}
	q := opened.(*leveeQueue)
	defer q.close()
	if _, err := q.db.Migrate(ctx, []db.Schema{job.Schema(), effects}); err != nil {
		return err
	}
	began := time.Now()
	if err := putAll(ctx, q, numbered(0, jobs), batchCallers, q.batch()); err != nil {
		return err
	}
	fmt.Printf("%d jobs put in %.1f s\n", jobs, time.Since(began).Seconds())
	defer func() {
		for _, l := range c.slots {
			if l != nil {
				_ = l.program.Close()
			}
		}
	}()
	for i := range c.slots {
		if err := c.begin(ctx, i); err != nil {
			return err
		}
	}
	began = time.Now()
	limited, cancel := context.WithTimeout(ctx, o.length)
	defer cancel()
	pauses, raged := c.rage(limited, q)
	if raged == nil {
		fmt.Printf("all jobs are over after %.1f s\n", time.Since(began).Seconds())
	} else {
		fmt.Printf("given up after %.1f s: %v\n", time.Since(began).Seconds(), raged)
	}
	return errors.Join(raged, c.audit(context.WithoutCancel(ctx), q, jobs, pauses))
}

// begin starts a new life of a worker.
func (c *chaosRun) begin(ctx context.Context, slot int) error {
	l := &life{number: len(c.lives) + 1}
	s := c.s
	s.First = l.number
	l.events = filepath.Join(s.Dir, fmt.Sprintf("events-%d", l.number))
	s.Events = l.events
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	l.program, err = backends.StartProgram(ctx, backends.ProgramOptions{Name: fmt.Sprintf("worker, life %d", l.number), Path: c.self,
		Env: append(os.Environ(), childEnv+"="+string(text))})
	c.lives, c.slots[slot] = append(c.lives, l), l
	return err
}

// rage kills and pauses until no job is left. It returns the number of pauses.
func (c *chaosRun) rage(ctx context.Context, q *leveeQueue) (pauses int, err error) {
	paused, resumeAt, pauseAt := -1, time.Time{}, time.Now().Add(chaosFirst)
	tick := time.NewTicker(c.o.kills)
	defer tick.Stop()
	last, since, began, told := -1, time.Now(), time.Now(), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return pauses, ctx.Err()
		}
		left, err := q.left(ctx)
		if err != nil {
			return pauses, err
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Fprintf(os.Stderr, "%.0f s: %d jobs are left, %d lives\n", told.Sub(began).Seconds(), left, len(c.lives))
		}
		if left == 0 && paused < 0 {
			return pauses, nil
		}
		if left != last {
			last, since = left, time.Now()
		} else if time.Since(since) > 2*time.Minute {
			return pauses, fmt.Errorf("%d jobs are left and nothing has happened for 2 minutes", left)
		}
		now := time.Now()
		switch {
		case paused >= 0 && now.After(resumeAt):
			if err := c.slots[paused].program.Resume(); err != nil {
				return pauses, err
			}
			paused, pauseAt = -1, now.Add(chaosEvery)
			time.Sleep(500 * time.Millisecond) // it may find out that it is late before it is killed
		case paused < 0 && now.After(pauseAt) && left > 0:
			paused, resumeAt = rand.IntN(chaosNodes), now.Add(c.o.lease+chaosOver)
			if err := c.slots[paused].program.Pause(); err != nil {
				return pauses, err
			}
			c.slots[paused].paused = true
			pauses++
		}
		if left == 0 {
			continue
		}
		victim := rand.IntN(chaosNodes)
		for victim == paused {
			victim = rand.IntN(chaosNodes)
		}
		l := c.slots[victim]
		if !l.program.Running() {
			return pauses, fmt.Errorf("life %d ended by itself: %s", l.number, l.program.Said())
		}
		if err := l.program.Kill(); err != nil {
			return pauses, err
		}
		l.killed = time.Now()
		if err := errors.Join(l.program.Close(), c.begin(ctx, victim)); err != nil {
			return pauses, err
		}
	}
}

// audit counts.
func (c *chaosRun) audit(ctx context.Context, q *leveeQueue, jobs, pauses int) error {
	for _, l := range c.slots {
		_ = l.program.Close()
	}
	times := make([]int, jobs)
	did := map[[2]int]bool{} // job and life whose effect is there
	rows, err := q.db.Query(ctx, `SELECT n, life FROM bench_effect`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var n, life int
		if err := rows.Scan(&n, &life); err != nil {
			return err
		}
		times[n]++
		did[[2]int{n, life}] = true
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	missing, twice := 0, 0
	for _, n := range times {
		switch {
		case n == 0:
			missing++
		case n > 1:
			twice++
		}
	}
	type run struct {
		start
		life *life
	}
	starts := map[int][]run{} // by job
	whys := map[string]int{}
	all, kills, lost, failed := 0, 0, 0, 0
	for _, l := range c.lives {
		if !l.killed.IsZero() {
			kills++
		}
		for _, s := range startsIn(l.events) {
			starts[s.n] = append(starts[s.n], run{s, l})
			all++
		}
		text, _ := os.ReadFile(l.events)
		lost += strings.Count(string(text), "\nLOST ")
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "ERROR "); ok {
				_, what, _ := strings.Cut(strings.TrimSpace(rest), " ")
				failed++
				whys[what]++
			}
		}
	}
	// A job that a killed life had begun and not done starts again somewhere, as the same attempt.
	var again []time.Duration
	interrupted, never, used := 0, 0, 0
	for n, rs := range starts {
		slices.SortFunc(rs, func(a, b run) int { return a.at.Compare(b.at) })
		for i, r := range rs {
			if r.life.killed.IsZero() || r.life.paused || did[[2]int{n, r.life.number}] {
				continue
			}
			interrupted++
			if i+1 == len(rs) {
				never++
				continue
			}
			next := rs[i+1]
			again = append(again, max(next.at.Sub(r.life.killed), 0))
			if next.attempt > r.attempt {
				used++
			}
		}
	}
	stats, err := q.jobs.Stats(ctx)
	if err != nil {
		return err
	}
	f, late := spreadOf(again), 0
	for _, d := range again {
		if d > c.o.lease {
			late++
		}
	}
	fmt.Printf(`kills %d, pauses of %v %d, starts %d
jobs %d: without an effect %d, with more than one %d, dead %d, still there %d
ends refused because the lease was lost %d, other failures %d
interrupted by a kill in the middle %d: never started again %d, with an attempt used up %d
started again after p50 %.1f s, p99 %.1f s, at most %.1f s; after more than %v: %d
`, kills, c.o.lease+chaosOver, pauses, all, jobs, missing, twice, stats.Dead, stats.Due+stats.Later+stats.Running, lost, failed, interrupted, never, used,
		f["p50"]/1000, f["p99"]/1000, f["max"]/1000, c.o.lease, late)
	for what, n := range whys {
		fmt.Printf("%d times: %s\n", n, levee.Shorten(what, 300))
	}
	switch {
	case c.o.loose && twice == 0:
		return errors.New("the control shows no effect twice: the chaos tests nothing")
	case c.o.loose:
		fmt.Println("control: effects show twice without DoneTx, as they must")
		return nil
	case missing+twice+stats.Dead+never+used > 0:
		return errors.New("the audit failed")
	}
	fmt.Println("audit passed")
	return nil
}
