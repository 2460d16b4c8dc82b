package main

import (
	"cmp"
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	_ "modernc.org/sqlite"
)

// riverTask is a task as River wants it.
type riverTask struct{ task }

func (riverTask) Kind() string { return "bench" }

type riverWorker struct {
	river.WorkerDefaults[riverTask]
	f *work
}

func (w *riverWorker) Work(ctx context.Context, j *river.Job[riverTask]) error {
	return (*w.f)(ctx, j.Args.task, j.Attempt)
}

type riverQueue[T any] struct {
	client *river.Client[T]
	f      work
	count  func(ctx context.Context, query string, to any) error
	length func(ctx context.Context) (int64, error)
	end    func()
}

// riverSQLite is how River's page says to open it, with each commit forced to the disk as Levee's are.
const riverSQLite = "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate"

func openRiverSQLite(ctx context.Context, s spec) (queue, error) {
	file := filepath.Join(s.Dir, "river.db")
	d, err := sql.Open("sqlite", "file:"+file+riverSQLite)
	if err != nil {
		return nil, err
	}
	d.SetMaxOpenConns(1)
	q := &riverQueue[*sql.Tx]{
		count:  func(ctx context.Context, query string, to any) error { return d.QueryRowContext(ctx, query).Scan(to) },
		length: func(context.Context) (int64, error) { return sizeOfFiles(file) },
		end:    func() { _ = d.Close() },
	}
	return openRiver(ctx, q, riversqlite.New(d), s)
}

func openRiverPostgres(ctx context.Context, s spec) (queue, error) {
	cfg, err := pgxpool.ParseConfig(s.Postgres)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 24 // as Levee's writers
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	q := &riverQueue[pgx.Tx]{
		count: func(ctx context.Context, query string, to any) error { return pool.QueryRow(ctx, query).Scan(to) },
		length: func(ctx context.Context) (n int64, err error) {
			err = pool.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&n)
			return n, err
		},
		end: pool.Close,
	}
	return openRiver(ctx, q, riverpgxv5.New(pool), s)
}

func openRiver[T any](ctx context.Context, q *riverQueue[T], driver riverdriver.Driver[T], s spec) (queue, error) {
	m, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{f: &q.f})
	cfg := &river.Config{Logger: slog.New(slog.DiscardHandler), Workers: workers, Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}}}
	if s.Tuned {
		cfg.Queues[river.QueueDefault] = river.QueueConfig{MaxWorkers: 1000}
		cfg.FetchCooldown = time.Millisecond
	}
	q.client, err = river.NewClient(driver, cfg)
	return q, err
}

func (q *riverQueue[T]) batch() int { return 500 }

func riverOptions(t task) *river.InsertOpts {
	if t.Due == 0 {
		return nil
	}
	return &river.InsertOpts{ScheduledAt: time.Unix(0, t.Due)}
}

func (q *riverQueue[T]) put(ctx context.Context, ts []task) error {
	if len(ts) == 1 {
		_, err := q.client.Insert(ctx, riverTask{ts[0]}, riverOptions(ts[0]))
		return err
	}
	many := make([]river.InsertManyParams, len(ts))
	for i, t := range ts {
		many[i] = river.InsertManyParams{Args: riverTask{t}, InsertOpts: riverOptions(t)}
	}
	_, err := q.client.InsertManyFast(ctx, many)
	return err
}

func (q *riverQueue[T]) run(ctx context.Context, f work) (func(), error) {
	q.f = f
	if err := q.client.Start(ctx); err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_ = q.client.StopAndCancel(ctx)
	}, nil
}

func (q *riverQueue[T]) settle(ctx context.Context) error { return untilNone(ctx, q) }

func (q *riverQueue[T]) left(ctx context.Context) (n int, err error) {
	for _, state := range []string{"available", "running", "retryable", "scheduled", "pending"} {
		var c int
		err = cmp.Or(err, q.count(ctx, `SELECT COUNT(*) FROM river_job WHERE state = '`+state+`'`, &c))
		n += c
	}
	return n, err
}

func (q *riverQueue[T]) size(ctx context.Context) (int64, error) { return q.length(ctx) }

func (q *riverQueue[T]) close() { q.end() }
