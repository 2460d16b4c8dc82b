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

// bare is one bare connection with the same settings, and prepared statements; checkpoints are made by SQLite, in between.
type bare struct {
	b     *testing.B
	c     rawConn
	stmts map[string]driver.StmtExecContext
	args  []driver.NamedValue
}

func openBare(b *testing.B, schema ...string) *bare {
	raw, err := openRaw("file:" + filepath.Join(b.TempDir(), "bare.db"))
	if err != nil {
		b.Fatal(err)
	}
	r := &bare{b: b, c: raw.(rawConn), stmts: map[string]driver.StmtExecContext{}}
	for _, q := range append([]string{"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA cache_size=-65536"}, schema...) {
		if _, err := r.c.ExecContext(background, q, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		if err := raw.Close(); err != nil {
			b.Error(err)
		}
	})
	return r
}

func (r *bare) run(query string, args ...any) {
	s := r.stmts[query]
	if s == nil {
		raw, err := r.c.Prepare(query)
		if err != nil {
			r.b.Fatal(err)
		}
		s = raw.(driver.StmtExecContext)
		r.stmts[query] = s
	}
	r.args = r.args[:0]
	for i, v := range args {
		r.args = append(r.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	if _, err := s.ExecContext(background, r.args); err != nil {
		r.b.Fatal(err)
	}
}

func BenchmarkBare(b *testing.B) {
	for _, size := range []int{1, 30, 100} {
		b.Run(fmt.Sprintf("tx=%d", size), func(b *testing.B) {
			c := openBare(b, benchSchema)
			b.ResetTimer()
			for i := 0; i < b.N; {
				c.run("BEGIN IMMEDIATE")
				for j := 0; j < size && i < b.N; j++ {
					i++
					c.run(benchInsert, int64(i), int64(i), int64(i), benchText)
				}
				c.run("COMMIT")
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
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

// BenchmarkOrders writes what one order of a sale needs: three rows in three tables with two more indexes; per caller a batch
// of 50 orders in one transaction, as settlement does, with one update of a hot row. Bare does the same without this package,
// with a prepared INSERT per row.
func BenchmarkOrders(b *testing.B) {
	const batch = 50
	schema := []string{
		"CREATE TABLE bench_head (id INTEGER NOT NULL PRIMARY KEY, buyer BIGINT NOT NULL, source VARCHAR(32) NOT NULL, ref BIGINT NOT NULL, " +
			"total BIGINT NOT NULL, currency CHAR(3) NOT NULL, due BIGINT, at BIGINT NOT NULL)",
		"CREATE INDEX bench_head_buyer ON bench_head (buyer, id)",
		"CREATE TABLE bench_item (order_id BIGINT NOT NULL, line SMALLINT NOT NULL, sku BIGINT NOT NULL, product BIGINT NOT NULL, " +
			"title VARCHAR(190) NOT NULL, quantity BIGINT NOT NULL, price BIGINT NOT NULL, PRIMARY KEY (order_id, line)) WITHOUT ROWID",
		"CREATE TABLE bench_taken (id INTEGER NOT NULL PRIMARY KEY, sale BIGINT NOT NULL, buyer BIGINT NOT NULL, quantity BIGINT NOT NULL, " +
			"state BIGINT NOT NULL, hash BIGINT NOT NULL, at BIGINT NOT NULL)",
		"CREATE INDEX bench_taken_buyer ON bench_taken (sale, buyer)",
		"CREATE TABLE bench_stock (id INTEGER NOT NULL PRIMARY KEY, remaining BIGINT NOT NULL)",
		"INSERT INTO bench_stock (id, remaining) VALUES (1, 1000000000)",
	}
	tables := []struct {
		name    string
		columns []string
		row     func(id, buyer int64) []any
	}{
		{"bench_head", []string{"id", "buyer", "source", "ref", "total", "currency", "due", "at"}, func(id, buyer int64) []any {
			return []any{id, buyer, "sale", id, int64(4999), "CNY", id, id}
		}},
		{"bench_item", []string{"order_id", "line", "sku", "product", "title", "quantity", "price"}, func(id, _ int64) []any {
			return []any{id, int64(1), int64(7), int64(8), "A phone, 256 GB, black", int64(1), int64(4999)}
		}},
		{"bench_taken", []string{"id", "sale", "buyer", "quantity", "state", "hash", "at"}, func(id, buyer int64) []any {
			return []any{id, int64(1), buyer, int64(1), int64(1), buyer * 31, id}
		}},
	}
	const take = "UPDATE bench_stock SET remaining = remaining - ? WHERE id = ? AND remaining >= ?"
	buyer := func(id int64) int64 { return id * 0x5851F42D4C957F2D >> 20 } // buyers come in no order
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			d := openBench(b)
			for _, q := range schema {
				if err := d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
					_, err := tx.Exec(ctx, q)
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
			callers(b, n, func(i int64) error {
				all := make([][][]any, len(tables))
				for j, t := range tables {
					all[j] = make([][]any, batch)
					for k := range all[j] {
						id := i*batch + int64(k)
						all[j][k] = t.row(id, buyer(id))
					}
				}
				return d.Tx(context.Background(), "bench", func(ctx context.Context, tx *Tx) error {
					if _, err := tx.Exec(ctx, take, batch, 1, batch); err != nil {
						return err
					}
					for j, t := range tables {
						if err := tx.InsertRows(ctx, t.name, t.columns, all[j]); err != nil {
							return err
						}
					}
					return nil
				})
			})
			b.ReportMetric(float64(b.N)*batch/b.Elapsed().Seconds(), "orders/s")
		})
	}
	b.Run("bare,tx=100", func(b *testing.B) {
		c := openBare(b, schema...)
		var texts [3]string
		for j, t := range tables {
			texts[j] = "INSERT" + values(t.name, t.columns)
		}
		b.ResetTimer()
		for i := range b.N {
			if i%2 == 0 {
				c.run("BEGIN IMMEDIATE")
			}
			for k := range batch {
				id := int64(i*batch + k)
				for j, t := range tables {
					c.run(texts[j], t.row(id, buyer(id))...)
				}
			}
			if i%2 == 1 || i == b.N-1 {
				c.run(take, int64(2*batch), int64(1), int64(2*batch))
				c.run("COMMIT")
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(b.N)*batch/b.Elapsed().Seconds(), "orders/s")
	})
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
