package db

import (
	"context"
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/obs"
)

// Run them alone on a quiet machine:
//
//	go test -run '^$' -bench . -benchtime 3s ./internal/platform/db/
//
// rows/s is the figure; Bare is the program without this package that group commit is measured against.

const benchSchema = `CREATE TABLE bench_row (
  id INTEGER NOT NULL PRIMARY KEY, a BIGINT NOT NULL, b BIGINT NOT NULL, c VARCHAR(190) NOT NULL)`

const benchInsert = "INSERT INTO bench_row (id, a, b, c) VALUES (?,?,?,?)"

var benchText = fmt.Sprintf("%0160d", 7)

func openBench(b *testing.B) *DB {
	b.Helper()
	d, err := Open(context.Background(), Config{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db")}, obs.Test(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	err = d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, benchSchema)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// callers runs fn from n goroutines, b.N times in all.
func callers(b *testing.B, n int, fn func(i int64) error) {
	var next atomic.Int64
	var worst atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				begun := time.Now()
				if err := fn(i); err != nil {
					b.Error(err)
					return
				}
				took := int64(time.Since(begun))
				for old := worst.Load(); took > old && !worst.CompareAndSwap(old, took); old = worst.Load() {
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(worst.Load())/1e6, "worst-ms")
}

func BenchmarkGroupCommit(b *testing.B) {
	for _, n := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			d := openBench(b)
			before := d.Stats()
			callers(b, n, func(i int64) error {
				return d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
					_, err := tx.Exec(ctx, benchInsert, i, i, i, benchText)
					return err
				})
			})
			s := d.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(s.Transactions-before.Transactions)/float64(s.Commits-before.Commits), "members")
		})
	}
}

// BenchmarkBare is a loop on one bare connection with the same settings, a commit per 100 rows (and checkpoints by SQLite).
func BenchmarkBare(b *testing.B) {
	for _, size := range []int{1, 30, 100} {
		b.Run(fmt.Sprintf("tx=%d", size), func(b *testing.B) {
			raw, err := openRaw("file:" + filepath.Join(b.TempDir(), "bare.db"))
			if err != nil {
				b.Fatal(err)
			}
			c := raw.(rawConn)
			run := func(q string) {
				if _, err := c.ExecContext(background, q, nil); err != nil {
					b.Fatal(err)
				}
			}
			run("PRAGMA journal_mode=WAL")
			run("PRAGMA synchronous=FULL")
			run("PRAGMA cache_size=-65536")
			run(benchSchema)
			st := map[string]driver.StmtExecContext{}
			for _, q := range []string{"BEGIN IMMEDIATE", "COMMIT", benchInsert} {
				s, err := c.Prepare(q)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				st[q] = s.(driver.StmtExecContext)
			}
			exec := func(q string, args ...driver.NamedValue) {
				if _, err := st[q].ExecContext(background, args); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for i := 0; i < b.N; {
				exec("BEGIN IMMEDIATE")
				for j := 0; j < size && i < b.N; j++ {
					i++
					id := int64(i)
					exec(benchInsert, driver.NamedValue{Ordinal: 1, Value: id}, driver.NamedValue{Ordinal: 2, Value: id},
						driver.NamedValue{Ordinal: 3, Value: id}, driver.NamedValue{Ordinal: 4, Value: benchText})
				}
				exec("COMMIT")
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkInsertRows compares one INSERT of many rows with a prepared INSERT per row, in transactions of 256 rows.
func BenchmarkInsertRows(b *testing.B) {
	const size = 256
	columns := []string{"id", "a", "b", "c"}
	for _, many := range []bool{false, true} {
		b.Run(fmt.Sprintf("many=%t", many), func(b *testing.B) {
			d := openBench(b)
			id := int64(0)
			rows := make([][]any, size)
			b.ResetTimer()
			for range b.N {
				for i := range rows {
					id++
					rows[i] = []any{id, id, id, benchText}
				}
				err := d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
					if many {
						return tx.InsertRows(ctx, "bench_row", columns, rows)
					}
					for _, r := range rows {
						if _, err := tx.Exec(ctx, benchInsert, r...); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*size/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			d := openBench(b)
			err := d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
				for i := range int64(10000) {
					if _, err := tx.Exec(ctx, benchInsert, i, i, i, benchText); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			callers(b, n, func(i int64) error {
				var got int64
				return d.QueryRow(context.Background(), "SELECT a FROM bench_row WHERE id = ?", i*7919%10000).Scan(&got)
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
		})
	}
}
