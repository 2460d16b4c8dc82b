package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// leveeQueue is Levee's, on SQLite or MariaDB.
type leveeQueue struct {
	db   *db.DB
	ids  *id.Generator
	jobs *job.Jobs
	kind *job.Kind[task]
	file string        // of SQLite
	bell *redis.Client // nil: other processes are found out about by looking
	f    work
}

func openLevee(ctx context.Context, s spec) (_ queue, err error) {
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return nil, err
	}
	q := &leveeQueue{}
	cfg := db.Config{URL: s.MySQL, Password: obs.Secret(s.Password)}
	if s.MySQL == "" {
		q.file = filepath.Join(s.Dir, "levee.db")
		cfg = db.Config{URL: "sqlite:" + q.file}
	}
	if q.db, err = db.Open(ctx, cfg, o); err != nil {
		return nil, err
	}
	if _, err = q.db.Migrate(ctx, []db.Schema{job.Schema()}); err != nil {
		return nil, err
	}
	if q.ids, err = id.Open(ctx, id.Config{Dir: filepath.Join(s.Dir, "id")}, o); err != nil {
		return nil, err
	}
	q.jobs = job.Open(q.db, q.ids, o)
	q.kind = job.Define("bench.nothing", job.Options{}, func(ctx context.Context, t task) error {
		attempt, _ := job.Attempt(ctx)
		return q.f(ctx, t, attempt)
	})
	if s.Redis != "" {
		// As the house does on several nodes: who gives work that it does not run rings for the others.
		if q.bell, err = redis.Open(ctx, redis.Config{URL: "redis://" + s.Redis, Timeout: time.Second}, o); err != nil {
			return nil, err
		}
		var wake atomic.Pointer[func()]
		woken := q.jobs.Connect(q.bell.Bell("jobs", func() {
			if f := wake.Load(); f != nil {
				(*f)()
			}
		}))
		wake.Store(&woken)
	}
	measures := job.Config{Lease: time.Duration(s.Lease * float64(time.Second))}
	return q, errors.Join(q.jobs.Configure(measures), q.jobs.Register(q.kind))
}

func (q *leveeQueue) batch() int { return 500 }

func (q *leveeQueue) put(ctx context.Context, ts []task) error {
	if len(ts) == 1 {
		_, err := q.kind.Enqueue(ctx, ts[0], whenOf(ts[0])...)
		return err
	}
	return q.db.Tx(ctx, "bench.put", func(ctx context.Context, tx *db.Tx) error { return q.putManyTx(ctx, tx, ts) })
}

func (q *leveeQueue) run(ctx context.Context, f work) (func(), error) {
	q.f = f
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = q.jobs.Run(ctx) })
	return func() { stop(); wg.Wait() }, nil
}

func (q *leveeQueue) settle(ctx context.Context) error { return q.jobs.Drain(ctx) }

// look is a Drain with nothing due: it asks the one who runs the jobs for a round.
func (q *leveeQueue) look(ctx context.Context) error { return q.jobs.Drain(ctx) }

func (q *leveeQueue) left(ctx context.Context) (int, error) {
	s, err := q.jobs.Stats(ctx)
	return s.Due + s.Later + s.Running, err
}

func (q *leveeQueue) size(ctx context.Context) (n int64, err error) {
	if q.file == "" {
		err = q.db.QueryRow(ctx, `SELECT COALESCE(SUM(FILE_SIZE), 0) FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME LIKE CONCAT(DATABASE(), '/%')`).Scan(&n)
		return n, err
	}
	return sizeOfFiles(q.file)
}

// sizeOfFiles is the size of an SQLite file and its log.
func sizeOfFiles(file string) (n int64, err error) {
	for _, name := range []string{file, file + "-wal"} {
		info, err := os.Stat(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n += info.Size()
	}
	return n, nil
}

func (q *leveeQueue) close() {
	if q.bell != nil {
		_ = q.bell.Close()
	}
	_ = q.ids.Close()
	_ = q.db.Close()
}
