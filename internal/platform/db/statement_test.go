package db

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"levee"
)

func TestRowsAffected(t *testing.T) { onEach(t, testRowsAffected) }

func testRowsAffected(t *testing.T, e tested) {
	d := e.opened(t)
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		for _, c := range []struct {
			query string
			want  int64
		}{
			{"INSERT INTO test_row (id, n) VALUES (1, 5), (2, 5)", 2},
			{"UPDATE test_row SET n = 5 WHERE id = 1", 1}, // changes nothing
			{"UPDATE test_row SET n = 6 WHERE id = 1 AND n = 5", 1},
			{"UPDATE test_row SET n = 6 WHERE id = 1 AND n = 5", 0}, // compare-and-set lost
			{"UPDATE test_row SET n = n + 1", 2},
			{"UPDATE test_row SET s = 'returning' WHERE id = 1", 1},
			{d.Dialect().InsertIgnore("test_row", "id"), 0},
			{"DELETE FROM test_row WHERE id = 99", 0},
			{"DELETE FROM test_row", 2},
		} {
			var args []any
			if strings.Contains(c.query, "?") {
				args = []any{1}
			}
			res, err := tx.Exec(ctx, c.query, args...)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n != c.want {
				t.Errorf("%s: %d rows, want %d (%v)", c.query, n, c.want, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDuplicateKey(t *testing.T) { onEach(t, testDuplicateKey) }

func testDuplicateKey(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "CREATE UNIQUE INDEX test_row_s ON test_row (s)")
	mustExec(t, d, "INSERT INTO test_row (id, s) VALUES (1, 'x')")
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", 1, "y")
		if !IsUnique(err) {
			t.Errorf("primary key: %v", err)
		}
		_, err = tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", 2, "x")
		if !IsUnique(err) {
			t.Errorf("unique index: %v", err)
		}
		if strings.Contains(fmt.Sprint(err), "'x'") {
			t.Errorf("a value in the error: %v", err)
		}
		_, err = tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", 3, nil)
		if err == nil || IsUnique(err) {
			t.Errorf("NULL: %v", err)
		}
		if err := tx.InsertRows(ctx, "test_row", []string{"id", "s"}, [][]any{{4, "p"}, {5, "x"}}); !IsUnique(err) {
			t.Errorf("InsertRows: %v", err)
		}
		_, err = tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", 6, "q")
		return err // goes on after refused rows
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
	if IsUnique(nil) || IsUnique(io.EOF) {
		t.Error("IsUnique of another error")
	}
	err = d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (1, 'z')")
		return fmt.Errorf("wrapped: %w", err)
	})
	if !IsUnique(err) {
		t.Errorf("through Tx: %v", err)
	}
}

func TestTxIsOverAfterwards(t *testing.T) { onEach(t, testTxIsOverAfterwards) }

func testTxIsOverAfterwards(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1), (2), (3)")
	var kept *Tx
	var left *Rows
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		kept = tx
		var err error
		if left, err = tx.Query(ctx, "SELECT id FROM test_row"); err != nil { // neither read nor closed
			return err
		}
		left.Next()
		tx.QueryRow(ctx, "SELECT id FROM test_row WHERE id > ?", 0) // not scanned
		_, err = tx.Exec(ctx, "UPDATE test_row SET n = 1")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !e.mysql {
		if n := len(lite(d).writer.conn.open); n != 0 {
			t.Errorf("%d rows left open", n)
		}
	}
	for left.Next() {
		t.Error("rows go on after their transaction")
	}
	if left.Err() == nil {
		t.Error("rows end after their transaction as if they were complete")
	}
	_, err = kept.Exec(ctx, "DELETE FROM test_row")
	wantCode(t, err, levee.CodeInternal, "over")
	_, err = kept.Query(ctx, "SELECT 1")
	wantCode(t, err, levee.CodeInternal, "over")
	wantCode(t, kept.QueryRow(ctx, "SELECT 1").Scan(new(int)), levee.CodeInternal, "over")
	wantCode(t, kept.InsertRows(ctx, "test_row", []string{"id"}, [][]any{{9}}), levee.CodeInternal, "over")
	_, err = kept.Bun().NewDelete().Table("test_row").Where("1=1").Exec(ctx)
	wantCode(t, err, levee.CodeInternal, "over")
	wantCode(t, kept.Bun().QueryRowContext(ctx, "SELECT 1").Scan(new(int)), levee.CodeInternal, "over")
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 3 {
		t.Errorf("%d rows", n)
	}
}

// TestSameQueryInsideItself: a prepared statement that is being read must not be begun anew.
func TestSameQueryInsideItself(t *testing.T) { onEach(t, testSameQueryInsideItself) }

func testSameQueryInsideItself(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1), (2), (3)")
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		const q = "SELECT id FROM test_row WHERE id >= ? ORDER BY id"
		var walk func(from int64, depth int) (string, error)
		walk = func(from int64, depth int) (out string, err error) {
			rows, err := tx.Query(ctx, q, from)
			if err != nil {
				return "", err
			}
			defer rows.Close()
			for rows.Next() {
				var id int64
				if err := rows.Scan(&id); err != nil {
					return "", err
				}
				inner, err := walk(id+1, depth+1)
				if err != nil {
					return "", err
				}
				out += fmt.Sprintf("%d(%s)", id, inner)
			}
			return out, rows.Err()
		}
		got, err := walk(1, 0)
		if want := "1(2(3())3())2(3())3()"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStatementsRefused(t *testing.T) { onEach(t, testStatementsRefused) }

func testStatementsRefused(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		for _, q := range []string{
			"COMMIT", " commit ;", "ROLLBACK", "BEGIN", "/* x */ END", "SAVEPOINT a", "RELEASE member", "ROLLBACK TO member",
			"PRAGMA synchronous = OFF",
			"ATTACH 'x.db' AS x", "VACUUM", "INSERT OR ROLLBACK INTO test_row (id) VALUES (1)", "SELECT 1; SELECT 2", "", "-- nothing",
			"INSERT INTO test_row (id) VALUES (?)", "SELECT x FROM nowhere", "SELEC",
		} {
			if _, err := tx.Exec(ctx, q); err == nil {
				t.Errorf("Exec took %q", q)
			}
			if _, err := tx.Query(ctx, q); err == nil {
				t.Errorf("Query took %q", q)
			}
			if _, err := tx.Bun().ExecContext(ctx, q); err == nil {
				t.Errorf("bun took %q", q)
			}
			if _, err := d.Query(ctx, q); err == nil {
				t.Errorf("a reader took %q", q)
			}
		}
		if _, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", 1, 2); err == nil {
			t.Error("two values for one parameter")
		}
		_, err := tx.Bun().NewRaw("INSERT INTO test_row (id, s) VALUES (?, ?)", 2, "then OR ROLLBACK; COMMIT").Exec(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"DELETE FROM test_row", "CREATE TABLE test_other (x BIGINT)"} {
		if _, err := d.Read(ctx).ExecContext(ctx, q); err == nil {
			t.Errorf("a reader ran %s", q)
		}
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 2 {
		t.Errorf("%d rows", n)
	}
}
