package db

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"levee"
)

func TestOwnWriteIsSeen(t *testing.T) { onEach(t, testOwnWriteIsSeen) }

func testOwnWriteIsSeen(t *testing.T, e tested) {
	d := e.opened(t)
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO test_row (id, n) VALUES (1, 41)"); err != nil {
			return err
		}
		var a, b int
		if err := tx.QueryRow(ctx, "SELECT n FROM test_row WHERE id = ?", 1).Scan(&a); err != nil {
			return err
		}
		if err := tx.Bun().NewSelect().Table("test_row").Column("n").Where("id = ?", 1).Scan(ctx, &b); err != nil {
			return err
		}
		if a != 41 || b != 41 {
			t.Errorf("inside: %d, %d", a, b)
		}
		if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 0 {
			t.Errorf("a reader sees %d uncommitted rows", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT n FROM test_row"); n != 41 {
		t.Errorf("after: %d", n)
	}
	if err := d.QueryRow(ctx, "SELECT n FROM test_row WHERE id = 2").Scan(new(int)); !errors.Is(err, ErrNoRows) {
		t.Errorf("no row: %v", err)
	}
}

func TestNestedTxIsRefused(t *testing.T) { onEach(t, testNestedTxIsRefused) }

func testNestedTxIsRefused(t *testing.T, e tested) {
	d := e.opened(t)
	ran := false
	err := d.Tx(ctx, "outer", func(ctx context.Context, tx *Tx) error {
		ctx = context.WithValue(ctx, "k", "v") //nolint:staticcheck // any wrapping context
		err := d.Tx(ctx, "inner", func(context.Context, *Tx) error {
			ran = true
			return nil
		})
		wantCode(t, err, levee.CodeInternal, "inner", "outer")
		if _, err := tx.Bun().BeginTx(ctx, nil); err == nil {
			t.Error("bun began a transaction inside")
		}
		if err := tx.Bun().RunInTx(ctx, nil, func(context.Context, bun.Tx) error { return nil }); err == nil {
			t.Error("bun ran a transaction inside")
		}
		return nil
	})
	if err != nil || ran {
		t.Fatal(err, ran)
	}
	// After the end, also with the context from inside, and from AfterCommit.
	var inside context.Context
	err = d.Tx(ctx, "outer", func(ctx context.Context, tx *Tx) error {
		inside = ctx
		tx.AfterCommit(func() {
			if err := d.Tx(ctx, "later", func(context.Context, *Tx) error { return nil }); err != nil {
				t.Errorf("AfterCommit: %v", err)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Tx(inside, "later", func(context.Context, *Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestPanic(t *testing.T) { onEach(t, testPanic) }

func testPanic(t *testing.T, e tested) {
	d := e.with(t, e.oneWriter(t))
	release := hold(t, d)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			defer func() {
				if v := recover(); (v == "boom") != (i == 1) {
					t.Errorf("caller %d recovered %v", i, v)
				}
			}()
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				tx.AfterCommit(func() {
					if i == 1 {
						t.Error("AfterCommit ran after a panic")
					}
				})
				_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i)
				if i == 1 {
					panic("boom")
				}
				return err
			})
			if err != nil || i == 1 {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	waitQueue(d, 3)
	release()
	wg.Wait()
	if n := one[int](t, d, "SELECT sum(id) FROM test_row"); n != 2 {
		t.Errorf("rows add up to %d, want 0+2", n)
	}
}

// TestGoexit: t.FailNow inside a transaction ends the goroutine that runs it, which is the writer's.
func TestGoexit(t *testing.T) { onEach(t, testGoexit) }

func testGoexit(t *testing.T, e tested) {
	d := e.with(t, e.oneWriter(t))
	release := hold(t, d)
	var wg sync.WaitGroup
	var ended atomic.Int32
	for i := range 4 {
		wg.Go(func() {
			normal := false
			defer func() {
				if !normal {
					ended.Add(1)
				}
			}()
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				if _, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i); err != nil {
					return err
				}
				if i%2 == 1 {
					runtime.Goexit()
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			normal = true
		})
	}
	waitQueue(d, 4)
	release()
	wg.Wait()
	if n := one[int](t, d, "SELECT sum(id) FROM test_row"); n != 2 || ended.Load() != 2 {
		t.Errorf("rows add up to %d, want 0+2; %d goroutines ended, want 2", n, ended.Load())
	}
}

func TestCancel(t *testing.T) { onEach(t, testCancel) }

func testCancel(t *testing.T, e tested) {
	d := e.with(t, e.oneWriter(t))
	release := hold(t, d)
	cctx, cancel := context.WithCancel(ctx)
	errc := make(chan error, 1)
	go func() {
		errc <- d.Tx(cctx, "test", func(context.Context, *Tx) error {
			t.Error("ran although cancelled")
			return nil
		})
	}()
	waitQueue(d, 1)
	cancel()
	if err := <-errc; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while queued: %v", err)
	}
	dctx, dcancel := context.WithTimeout(ctx, time.Millisecond)
	defer dcancel()
	err := d.Tx(dctx, "test", func(context.Context, *Tx) error {
		t.Error("ran although too late")
		return nil
	})
	wantCode(t, err, levee.CodeTimeout)
	release()
	if err := d.Tx(cctx, "test", func(context.Context, *Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}

	// Once begun it runs to the end, statements and all, and the caller gets the true outcome.
	cctx, cancel = context.WithCancel(ctx)
	err = d.Tx(cctx, "test", func(ctx context.Context, tx *Tx) error {
		cancel()
		if ctx.Err() != nil || ctx.Done() != nil {
			t.Error("the function's context ends")
		}
		if _, err := tx.Exec(cctx, "INSERT INTO test_row (id) VALUES (1)"); err != nil {
			return err
		}
		if _, err := tx.Bun().NewUpdate().Table("test_row").Set("n = 3").Where("id = 1").Exec(cctx); err != nil {
			return err
		}
		return tx.QueryRow(cctx, "SELECT n FROM test_row").Scan(new(int))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT n FROM test_row"); n != 3 {
		t.Errorf("n = %d", n)
	}
	// A reader's query does end with its context, and the pool is sound after it.
	cctx, cancel = context.WithCancel(ctx)
	time.AfterFunc(20*time.Millisecond, cancel)
	long := "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c"
	if e.mysql {
		long = "SELECT SLEEP(30)"
	}
	err = d.QueryRow(cctx, long).Scan(new(int))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a reader's query: %v", err)
	}
	one[int](t, d, "SELECT 1")
}

func TestAfterCommit(t *testing.T) { onEach(t, testAfterCommit) }

func testAfterCommit(t *testing.T, e tested) {
	d := e.opened(t)
	var did []string
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		for _, w := range []string{"a", "b"} {
			tx.AfterCommit(func() {
				if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 1 {
					t.Error("called before the commit")
				}
				did = append(did, w)
			})
		}
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (1)")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, did); diff != "" {
		t.Error(diff)
	}
	boom := errors.New("boom")
	err = d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		tx.AfterCommit(func() { t.Error("called although rolled back") })
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (2)")
		return cmpOr(err, boom)
	})
	if err != boom {
		t.Errorf("fn's error came back as %v", err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func cmpOr(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// TestGroup: those who wait together are committed together, in their order, and the failing ones take nobody with them.
func TestGroup(t *testing.T) {
	for _, failing := range []func(i int) bool{
		func(int) bool { return false },
		func(i int) bool { return i == 0 },
		func(i int) bool { return i%3 == 0 },
		func(i int) bool { return i > 5 },
		func(int) bool { return true },
	} {
		d := opened(t)
		release := hold(t, d)
		before := d.Stats()
		boom := errors.New("boom")
		var wg sync.WaitGroup
		want := []int64{}
		for i := range 10 {
			if !failing(i) {
				want = append(want, int64(i))
			}
			wg.Go(func() {
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					if _, err := tx.Exec(ctx, "INSERT INTO test_row (id, n) SELECT ?, count(*) FROM test_row", i); err != nil {
						return err
					}
					if failing(i) {
						return boom
					}
					return nil
				})
				if (err == boom) != failing(i) || err != nil && err != boom {
					t.Errorf("member %d: %v", i, err)
				}
			})
			waitQueue(d, i+1)
		}
		release()
		wg.Wait()
		rows, err := d.Query(ctx, "SELECT id, n FROM test_row ORDER BY id")
		if err != nil {
			t.Fatal(err)
		}
		got := []int64{}
		for rows.Next() {
			var id, n int64
			if err := rows.Scan(&id, &n); err != nil {
				t.Fatal(err)
			}
			if n != int64(len(got)) {
				t.Errorf("member %d saw %d rows, want %d: out of order", id, n, len(got))
			}
			got = append(got, id)
		}
		if err := cmpOr(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		s := d.Stats()
		if commits := s.Commits - before.Commits; commits > 2 { // the holder's (perhaps with all), and the rest's
			t.Errorf("%d commits for 10 who waited together", commits)
		}
		if n := s.RolledBack - before.RolledBack; int(n) != 10-len(want) {
			t.Errorf("%d rolled back, want %d", n, 10-len(want))
		}
	}
}

// TestCrowd: many callers, some fail, some leave; the sum is what was acknowledged.
func TestCrowd(t *testing.T) { onEach(t, testCrowd) }

func testCrowd(t *testing.T, e tested) {
	cfg := e.config(t)
	cfg.GroupMax = 7
	d := open(t, cfg)
	mustExec(t, d, testTable)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	var acked atomic.Int64
	var wg sync.WaitGroup
	for g := range 32 {
		wg.Go(func() {
			for i := range 40 {
				cctx, cancel := context.WithCancel(ctx)
				if (g+i)%5 == 0 {
					go cancel()
				}
				err := d.Tx(cctx, "test", func(ctx context.Context, tx *Tx) error {
					if _, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = 1"); err != nil {
						return err
					}
					if (g+i)%7 == 0 {
						return io.EOF
					}
					return nil
				})
				switch {
				case err == nil:
					acked.Add(1)
				case err == io.EOF, errors.Is(err, context.Canceled):
				default:
					t.Error(err)
				}
				cancel()
				if _, err := d.Query(cctx, "SELECT 1"); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := one[int64](t, d, "SELECT n FROM test_row"); n != acked.Load() || n == 0 {
		t.Errorf("n = %d, acknowledged %d", n, acked.Load())
	}
	if err := d.Ping(ctx); err != nil { // behind all who left the queue
		t.Error(err)
	}
	if s := d.Stats(); s.Queue != 0 || s.ReadersBusy != 0 {
		t.Errorf("left over: %+v", s)
	}
}

func TestQueueFull(t *testing.T) { onEach(t, testQueueFull) }

func testQueueFull(t *testing.T, e tested) {
	cfg := e.oneWriter(t)
	cfg.QueueMax = 3
	d := open(t, cfg)
	release := hold(t, d)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if err := d.Tx(ctx, "test", func(context.Context, *Tx) error { return nil }); err != nil {
				t.Error(err)
			}
		})
		waitQueue(d, i+1)
	}
	err := d.Tx(ctx, "test", func(context.Context, *Tx) error {
		t.Error("ran over the limit")
		return nil
	})
	wantCode(t, err, levee.CodeUnavailable, "more work")
	if e, ok := errors.AsType[*levee.Error](err); !ok || e.RetryAfter != time.Second {
		t.Errorf("no RetryAfter: %v", err)
	}
	release()
	wg.Wait()
	if err := d.Ping(ctx); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) { onEach(t, testClose) }

func testClose(t *testing.T, e tested) {
	cfg := e.oneWriter(t)
	d, err := Open(ctx, cfg, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, d, testTable)
	release := hold(t, d)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	waitQueue(d, 5)
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	waitClosing(d)
	wantCode(t, d.Tx(ctx, "test", func(context.Context, *Tx) error { return nil }), levee.CodeUnavailable, "closing")
	release()
	wg.Wait()
	if err := cmpOr(<-closed, d.Close()); err != nil {
		t.Fatal(err)
	}
	if err := d.QueryRow(ctx, "SELECT 1").Scan(new(int)); err == nil {
		t.Error("a read after Close")
	}
	if !e.mysql {
		if _, err := os.Stat(lite(d).file.path + "-wal"); err == nil {
			t.Error("the log was left behind")
		}
	}
	d = open(t, cfg)
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 5 {
		t.Errorf("%d rows of 5 that were queued at Close", n)
	}
}

// TestInBubble: rooms test with virtual time; the database must not hold it up, nor be left behind.
func TestInBubble(t *testing.T) { onEach(t, testInBubble) }

func testInBubble(t *testing.T, e tested) {
	cfg := e.oneWriter(t)
	o := quiet(t)
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(ctx, cfg, o)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, d, testTable)
		begun := time.Now()
		time.Sleep(time.Hour)
		mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
		synctest.Wait()
		if took := time.Since(begun); took != time.Hour {
			t.Errorf("virtual time moved by %v", took)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
