package db

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db/mysqlconn"
)

// wide is a config with room for n callers at once.
func (e tested) wide(t testing.TB, n int) Config {
	cfg := e.config(t)
	if e.mysql {
		cfg.Writers = n
	}
	return cfg
}

// TestReadThenWrite: what a function read is still true when its writes are committed, also for the oldest way to lose an update.
func TestReadThenWrite(t *testing.T) { onEach(t, testReadThenWrite) }

func testReadThenWrite(t *testing.T, e tested) {
	const callers, each = 16, 15
	count := func(before func(tx *Tx)) (acked, n int64) {
		d := e.with(t, e.wide(t, callers))
		mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
		var ok atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range each {
					err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
						before(tx)
						var n int64
						if err := tx.QueryRow(ctx, "SELECT n FROM test_row WHERE id = ?", 1).Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec(ctx, "UPDATE test_row SET n = ? WHERE id = ?", n+1, 1)
						return err
					})
					if err != nil {
						t.Error(err)
						continue
					}
					ok.Add(1)
				}
			})
		}
		wg.Wait()
		if e.mysql {
			t.Logf("%d transactions, %d reruns", ok.Load(), d.Stats().Reruns)
		}
		return ok.Load(), one[int64](t, d, "SELECT n FROM test_row")
	}
	if acked, n := count(func(*Tx) {}); acked != callers*each || n != acked {
		t.Errorf("%d acknowledged, n = %d, want %d", acked, n, callers*each)
	}
	if !e.mysql {
		return
	}
	// With the isolation that servers have by default the same code loses updates.
	if acked, n := count(func(tx *Tx) {
		if err := tx.session.(*mysqlconn.Conn).Command(ctx, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"); err != nil {
			t.Error(err)
		}
	}); n >= acked {
		t.Errorf("n = %d of %d: no update was lost under REPEATABLE READ, so this test has lost its teeth", n, acked)
	}
}

// TestWriteSkew: two who each look at what the other one writes.
func TestWriteSkew(t *testing.T) { onEach(t, testWriteSkew) }

func testWriteSkew(t *testing.T, e tested) {
	d := e.with(t, e.wide(t, 8))
	for round := range 30 {
		a, b := round*2, round*2+1
		mustExec(t, d, "INSERT INTO test_row (id, n) VALUES (?, 1), (?, 1)", a, b)
		var wg sync.WaitGroup
		for _, mine := range []int{a, b} {
			wg.Go(func() {
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					var on int
					if err := tx.QueryRow(ctx, "SELECT sum(n) FROM test_row WHERE id IN (?, ?)", a, b).Scan(&on); err != nil || on < 2 {
						return err
					}
					_, err := tx.Exec(ctx, "UPDATE test_row SET n = 0 WHERE id = ?", mine)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := one[int](t, d, "SELECT sum(n) FROM test_row WHERE id IN (?, ?)", a, b); n != 1 {
			t.Fatalf("round %d: %d left, want 1", round, n)
		}
	}
}

// TestAtCommitOrder: what follows SQL in memory sees the commits in their order.
func TestAtCommitOrder(t *testing.T) { onEach(t, testAtCommitOrder) }

func testAtCommitOrder(t *testing.T, e tested) {
	d := e.with(t, e.wide(t, 16))
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	var mu sync.Mutex // of order: AtCommit functions run one after the other, but the race detector shall say so
	var order []int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 20 {
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					if _, err := tx.Exec(ctx, "UPDATE test_row SET n = n + 1 WHERE id = 1"); err != nil {
						return err
					}
					var n int64
					if err := tx.QueryRow(ctx, "SELECT n FROM test_row WHERE id = 1").Scan(&n); err != nil {
						return err
					}
					tx.AtCommit(func() {
						if !mu.TryLock() {
							t.Error("two at once")
							return
						}
						order = append(order, n)
						mu.Unlock()
					})
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(order) != 320 || !slices.IsSorted(order) || order[0] != 1 || order[319] != 320 {
		t.Errorf("%d commits, in the order %v", len(order), order)
	}
}

func TestRunTwice(t *testing.T) { onEach(t, testRunTwice) }

func testRunTwice(t *testing.T, e tested) {
	cfg := e.oneWriter(t)
	cfg.RunTwice = true
	d := e.with(t, cfg)
	release := hold(t, d)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			runs, after, at := 0, 0, 0
			collected := []int{}
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				runs++
				run := runs
				collected = append(collected, run) // the mistake that RunTwice is there to show
				tx.AfterCommit(func() { after += run })
				tx.AtCommit(func() { at += run })
				rows, err := tx.Query(ctx, "SELECT id FROM test_row") // left open
				if err != nil {
					return err
				}
				rows.Next()
				if _, err := tx.Exec(ctx, "INSERT INTO test_row (id, n) VALUES (?, ?)", i, run); err != nil {
					return err
				}
				if i == 2 && run == 1 || i == 3 && run == 2 {
					return errors.New("boom")
				}
				return nil
			})
			if (err != nil) != (i == 3) {
				t.Errorf("caller %d: %v", i, err)
			}
			if want := map[bool]int{true: 2}[i != 3]; runs != 2 || after != want || at != want || len(collected) != 2 {
				t.Errorf("caller %d: %d runs, AfterCommit %d, AtCommit %d, collected %v", i, runs, after, at, collected)
			}
		})
		waitQueue(d, i+1)
	}
	release()
	wg.Wait()
	if n := one[int](t, d, "SELECT sum(n) FROM test_row"); n != 2*3 {
		t.Errorf("rows add up to %d, want 6", n)
	}
	// An update that stands on what the first run left behind would show.
	mustExec(t, d, "UPDATE test_row SET n = n + 10 WHERE id = 0")
	if n := one[int](t, d, "SELECT n FROM test_row WHERE id = 0"); n != 12 {
		t.Errorf("n = %d, want 12", n)
	}
}

// TestInsertIgnoreSwallowsNothingElse: only a row that is there already is passed over.
func TestInsertIgnoreSwallowsNothingElse(t *testing.T) {
	onEach(t, testInsertIgnoreSwallowsNothingElse)
}

func testInsertIgnoreSwallowsNothingElse(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "CREATE UNIQUE INDEX test_row_s ON test_row (s)")
	insert := d.Dialect().InsertIgnore("test_row", "id", "n", "s")
	affected := func(args ...any) (n int64, err error) {
		err = d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
			res, err := tx.Exec(ctx, insert, args...)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		return n, err
	}
	for _, c := range []struct {
		args []any
		want int64
	}{
		{[]any{1, 1, "a"}, 1}, {[]any{1, 2, "b"}, 0}, {[]any{2, 2, "a"}, 0}, {[]any{2, 2, "b"}, 1},
	} {
		if n, err := affected(c.args...); err != nil || n != c.want {
			t.Errorf("%v: %d rows, %v, want %d", c.args, n, err, c.want)
		}
	}
	if _, err := affected(3, nil, "c"); err == nil {
		t.Error("NULL in a NOT NULL column was passed over")
	}
	if e.mysql {
		long := make([]byte, 191)
		for i := range long {
			long[i] = 'x'
		}
		if _, err := affected(4, 1, string(long)); err == nil {
			t.Error("a text that is too long was passed over")
		}
		if _, err := affected("4z", 1, "d"); err == nil {
			t.Error("a text that is no number was passed over")
		}
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

// TestGiveUpWhileWaiting: a caller whose context ends leaves at once, and the others' places stay.
func TestGiveUpWhileWaiting(t *testing.T) { onEach(t, testGiveUpWhileWaiting) }

func testGiveUpWhileWaiting(t *testing.T, e tested) {
	d := e.with(t, e.oneWriter(t))
	release := hold(t, d)
	var started atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			cctx, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			if i%2 == 0 {
				cctx, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
			}
			started.Add(1)
			begun := time.Now()
			err := d.Tx(cctx, "test", func(ctx context.Context, tx *Tx) error {
				_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i)
				return err
			})
			if i%2 == 0 {
				if levee.CodeOf(err) != levee.CodeTimeout || time.Since(begun) > 5*time.Second {
					t.Errorf("caller %d: %v after %v", i, err, time.Since(begun))
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	for started.Load() < 20 {
		runtime.Gosched()
	}
	time.Sleep(50 * time.Millisecond)
	release()
	wg.Wait()
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 10 {
		t.Errorf("%d rows, want 10", n)
	}
}
