package job

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"levee/internal/platform/db"
)

// BenchmarkLimitRows is what MariaDB does with the same rows and indexes when nobody keeps pools, leases and ends: one connection inserts a thousand to a
// transaction, one takes a thousand, one deletes them. Beside BenchmarkEndToEnd by a thousand.
func BenchmarkLimitRows(b *testing.B) {
	if !distributed {
		b.Skip("one connection writes here: there is no faster way through it")
	}
	const batch = 1000
	h := openDir(b, b.TempDir(), quiet(b))
	sql := textsOf(true)
	n := (b.N + batch - 1) / batch
	do := func(what string, f func(context.Context, *db.Tx) error) {
		if err := h.db.Tx(context.Background(), what, f); err != nil {
			b.Error(err)
		}
	}
	taken := make(chan []int64, n)
	b.ResetTimer()
	go func() {
		id, due := int64(1), time.Now().UnixMicro()
		for range n {
			do("limit.insert", func(ctx context.Context, tx *db.Tx) error {
				for left, at := batch, id; left > 0; {
					e := len(insertTexts) - 1
					for 1<<e > left {
						e--
					}
					values := make([]any, 0, 7<<e)
					for range 1 << e {
						values = append(values, at, "nothing", "default", `{"N":0}`, nil, due, nil)
						at, left = at+1, left-1
					}
					if _, err := tx.Exec(ctx, insertTexts[e], values...); err != nil {
						return err
					}
				}
				return nil
			})
			id += batch
		}
	}()
	go func() {
		defer close(taken)
		for got := 0; got < n*batch && !b.Failed(); {
			ids, err := idsOf(h.db.Query(context.Background(), `SELECT id FROM job_task WHERE pool = ? AND due_at >= 0`+oldest, "default", batch))
			if err != nil {
				b.Error(err)
			}
			if len(ids) == 0 {
				continue
			}
			do("limit.take", func(ctx context.Context, tx *db.Tx) error {
				in, args := listIDs(ids, time.Now().UnixMicro())
				rows, err := tx.Query(ctx, lockDue+in+lockDueEnd, args...)
				if err != nil {
					return err
				}
				for rows.Next() {
				}
				if err := rows.Close(); err != nil {
					return err
				}
				in, args = listIDs(ids, time.Now().UnixMicro(), 1)
				_, err = tx.Exec(ctx, sql.take+in, args...)
				return err
			})
			got += len(ids)
			taken <- ids
		}
	}()
	for ids := range taken {
		do("limit.delete", func(ctx context.Context, tx *db.Tx) error {
			in, args := listIDs(ids, 1)
			_, err := tx.Exec(ctx, sql.deleteMany+in, args...)
			return err
		})
	}
	b.StopTimer()
	b.ReportMetric(float64(n*batch)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkLimitIdle is two commits of one row, which an idle house needs to give a job and to begin it. Beside BenchmarkIdle.
func BenchmarkLimitIdle(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	var took []time.Duration
	id := int64(0)
	for b.Loop() {
		id++
		began := time.Now()
		for _, step := range []func(ctx context.Context, tx *db.Tx) error{
			func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, insertTask, id, "note", "default", `{"N":0}`, nil, began.UnixMicro(), nil)
				return err
			},
			func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE job_task SET due_at = NULL, lease_until = ? WHERE id = ?`, began.UnixMicro(), id)
				return err
			},
		} {
			if err := h.db.Tx(b.Context(), "limit.step", step); err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkLimitLook is a question that asks for nothing. Beside BenchmarkEmptyPoll.
func BenchmarkLimitLook(b *testing.B) {
	h := openDir(b, b.TempDir(), quiet(b))
	for b.Loop() {
		var one int
		if err := h.db.QueryRow(b.Context(), fmt.Sprintf(`SELECT %d`, 1)).Scan(&one); err != nil {
			b.Fatal(err)
		}
	}
}
