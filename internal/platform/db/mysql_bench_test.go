package db

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"levee/internal/platform/backends"
)

// BenchmarkMySQL measures this package (db) and the driver without it (bare; prep: with statements prepared on the server) on one durable
// server, each with 64 connections. Run it alone:
//
//	LEVEE_TEST_TIER=distributed go test -run '^$' -bench MySQL -benchtime 2s ./internal/platform/db/
func BenchmarkMySQL(b *testing.B) {
	needMySQL(b)
	s, err := backends.StartMySQL(ctx, backends.MySQLOptions{Durable: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	cfg := onServer(b, s)
	cfg.Writers, cfg.Readers = 64, 64
	d := open(b, cfg)
	mustExec(b, d, testTable)
	dsn := mysql.NewConfig()
	dsn.User, dsn.Net, dsn.Addr, dsn.DBName = "root", "tcp", s.Addr(), cfg.URL[strings.LastIndex(cfg.URL, "/")+1:]
	dsn.InterpolateParams = true
	connector, err := mysql.NewConnector(dsn)
	if err != nil {
		b.Fatal(err)
	}
	bare := sql.OpenDB(connector)
	bare.SetMaxOpenConns(64)
	bare.SetMaxIdleConns(64)
	b.Cleanup(func() { _ = bare.Close() })
	text := strings.Repeat("x", 150)
	const point = "SELECT n FROM test_row WHERE id = ?"
	const insert = "INSERT INTO test_row (id, n, s) VALUES (?, ?, ?)"
	next := int64(0)
	run := func(name string, n int, rows int64, fn func(i int64) error) {
		b.Run(fmt.Sprintf("%s/callers=%d", name, n), func(b *testing.B) {
			from := next
			next += int64(b.N+1) * rows
			callers(b, n, func(i int64) error { return fn(from + i*rows) })
			b.ReportMetric(float64(b.N)*float64(rows)/b.Elapsed().Seconds(), "rows/s")
		})
	}
	mustExec(b, d, "INSERT INTO test_row (id, n) VALUES (-1, 1)")
	prepared, err := bare.Prepare(point)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 16} {
		run("read/db", n, 1, func(int64) error { return d.QueryRow(ctx, point, -1).Scan(new(int)) })
		run("read/bare", n, 1, func(int64) error { return bare.QueryRow(point, -1).Scan(new(int)) })
		run("read/prep", n, 1, func(int64) error { return prepared.QueryRow(-1).Scan(new(int)) })
	}
	for _, n := range []int{1, 64} {
		run("insert/db", n, 1, func(i int64) error {
			return d.Tx(ctx, "bench", func(ctx context.Context, tx *Tx) error {
				_, err := tx.Exec(ctx, insert, i, i, text)
				return err
			})
		})
		run("insert/bare", n, 1, func(i int64) error {
			tx, err := bare.Begin()
			if err != nil {
				return err
			}
			_, err = tx.Exec(insert, i, i, text)
			return cmpOr(err, tx.Commit())
		})
	}
	for _, rows := range []int64{100, 1000} {
		batch := func(i int64) [][]any {
			all := make([][]any, rows)
			for k := range all {
				all[k] = []any{i + int64(k), i, text}
			}
			return all
		}
		run(fmt.Sprintf("rows=%d/db", rows), 1, rows, func(i int64) error {
			return d.Tx(ctx, "bench", func(ctx context.Context, tx *Tx) error {
				return tx.InsertRows(ctx, "test_row", []string{"id", "n", "s"}, batch(i))
			})
		})
		run(fmt.Sprintf("rows=%d/bare", rows), 1, rows, func(i int64) error {
			args := make([]any, 0, 3*rows)
			for _, r := range batch(i) {
				args = append(args, r...)
			}
			_, err := bare.Exec("INSERT INTO test_row (id, n, s) VALUES (?,?,?)"+strings.Repeat(",(?,?,?)", int(rows)-1), args...)
			return err
		})
	}
}
