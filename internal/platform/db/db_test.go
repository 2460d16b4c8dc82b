package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/uptrace/bun"

	"levee"
	"levee/internal/platform/obs"
)

func secret(s string) obs.Secret { return obs.Secret(s) }

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		os.Exit(runChild(role))
	}
	os.Exit(m.Run())
}

var ctx = context.Background()

const testTable = `CREATE TABLE test_row (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL DEFAULT 0, s VARCHAR(190) NOT NULL DEFAULT '')`

// quiet is an Obs that logs nowhere: for tests that provoke errors.
func quiet(t testing.TB) *obs.Obs {
	t.Helper()
	o, err := obs.Open(obs.Config{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func testConfig(t testing.TB) Config {
	t.Helper()
	return Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "test.db")}
}

func open(t testing.TB, cfg Config) *DB {
	t.Helper()
	d, err := Open(ctx, cfg, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// opened is a fresh database with test_row.
func opened(t testing.TB) *DB {
	t.Helper()
	d := open(t, testConfig(t))
	mustExec(t, d, testTable)
	return d
}

func mustExec(t testing.TB, d *DB, query string, args ...any) {
	t.Helper()
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func one[T any](t testing.TB, d *DB, query string, args ...any) T {
	t.Helper()
	var v T
	if err := d.QueryRow(ctx, query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func wantCode(t testing.TB, err error, code levee.Code, words ...string) {
	t.Helper()
	if levee.CodeOf(err) != code {
		t.Fatalf("got %v, want code %q", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q does not say %q", err, w)
		}
	}
}

// hold keeps the writer busy with one transaction until the function returned is called.
func hold(t *testing.T, d *DB) (release func()) {
	t.Helper()
	end := holdLost(t, d)
	return func() {
		t.Helper()
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}

// waitQueue waits until n callers wait for the writer.
func waitQueue(d *DB, n int) {
	for d.Stats().Queue < n {
		runtime.Gosched()
	}
}

func TestSettings(t *testing.T) {
	d := opened(t)
	err := lite(d).writer.keep(func(c *conn) error {
		for q, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "0", "wal_autocheckpoint": "0",
			"application_id": fmt.Sprint(applicationID)} {
			rows, err := c.ask(ctx, "PRAGMA "+q)
			if err != nil {
				return err
			}
			if got := fmt.Sprint(rows[0][0]); got != want {
				t.Errorf("PRAGMA %s = %s, want %s", q, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(lite(d).file.path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may read the file: %v", st.Mode())
	}
	if err := d.Ping(ctx); err != nil {
		t.Error(err)
	}
	if err := d.CheckIntegrity(ctx); err != nil {
		t.Error(err)
	}
	s := d.Stats()
	if s.Driver != driverName || s.Transactions == 0 || s.Commits == 0 || s.FileBytes == 0 || s.Readers == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestConfigRefused(t *testing.T) {
	dir := t.TempDir()
	good := "sqlite:" + filepath.Join(dir, "x.db")
	for _, c := range []struct {
		cfg   Config
		field string
	}{
		{Config{}, "db.url"},
		{Config{URL: "sqlite:"}, "db.url"},
		{Config{URL: "sqlite::memory:"}, "db.url"},
		{Config{URL: "sqlite:file:x.db"}, "db.url"},
		{Config{URL: "sqlite:x.db?mode=memory"}, "db.url"},
		{Config{URL: "sqlite:" + dir}, "db.url"},
		{Config{URL: good, Readers: 1000}, "db.readers"},
		{Config{URL: good, Readers: -1}, "db.readers"},
		{Config{URL: good, GroupMax: 5000}, "db.group_max"},
		{Config{URL: good, QueueMax: -1}, "db.queue_max"},
		{Config{URL: good, BusyTimeout: time.Hour}, "db.busy_timeout"},
	} {
		d, err := Open(ctx, c.cfg, quiet(t))
		if err == nil {
			t.Errorf("%+v was accepted", c.cfg)
			_ = d.Close()
			continue
		}
		wantCode(t, err, levee.CodeInvalid, c.field, "must be")
	}
	if _, err := os.Stat(filepath.Join(dir, "x.db")); err == nil {
		t.Error("a refused config left a file behind")
	}
}

func TestOddPath(t *testing.T) {
	d := open(t, Config{URL: "sqlite:" + filepath.Join(t.TempDir(), "a b", "é%41&=", "x'y.db")})
	mustExec(t, d, testTable)
	if _, err := os.Stat(lite(d).file.path); err != nil {
		t.Fatal(err)
	}
}

// TestText: what is stored comes back as it was, and differs from its look-alikes.
func TestText(t *testing.T) { onEach(t, testText) }

func testText(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "CREATE TABLE test_key (k VARCHAR(190) NOT NULL PRIMARY KEY)")
	texts := []string{"a", "A", "a ", " a", "e", "é", "e\u0301", "É", "ß", "ss", "", "a\x00b", "𝄞", "it's", `"?"`, "%", "_", "returning"}
	for _, s := range texts {
		mustExec(t, d, "INSERT INTO test_key (k) VALUES (?)", s)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_key"); n != len(texts) {
		t.Fatalf("%d of %d texts", n, len(texts))
	}
	for _, s := range texts {
		if got := one[string](t, d, "SELECT k FROM test_key WHERE k = ?", s); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
		var got string
		if s == "a\x00b" && !e.mysql {
			continue // bun writes values into the text, where a zero byte cannot stand
		}
		if err := d.Read(ctx).NewSelect().Table("test_key").Column("k").Where("k = ?", s).Scan(ctx, &got); err != nil || got != s {
			t.Errorf("bun: %q came back as %q, %v", s, got, err)
		}
	}
	// The same compared as literals.
	for _, q := range []string{"'a' = 'A'", "'a' = 'a '", "'e' = 'é'"} {
		if one[int](t, d, "SELECT "+q) != 0 {
			t.Errorf("%s holds", q)
		}
	}
}

func TestValues(t *testing.T) { onEach(t, testValues) }

func testValues(t *testing.T, e tested) {
	d := e.opened(t)
	type kind string
	mustExec(t, d, map[bool]string{false: "CREATE TABLE test_any (v)", true: "CREATE TABLE test_any (i INTEGER, f DOUBLE, s TEXT, b BLOB)"}[e.mysql])
	for _, c := range []struct {
		given any
		want  any
	}{
		{int64(1) << 62, int64(1) << 62}, {7, int64(7)}, {int32(-7), int64(-7)}, {uint8(7), int64(7)}, {levee.OrderID(9), int64(9)},
		{true, int64(1)}, {false, int64(0)}, {1.5, 1.5}, {"x", "x"}, {kind("x"), "x"}, {[]byte("x"), []byte("x")}, {nil, nil},
		{NullInt64{}, nil}, {NullInt64{Int64: 3, Valid: true}, int64(3)}, {(*int64)(nil), nil},
	} {
		var got any
		column := map[bool]string{false: "v", true: "i"}[e.mysql]
		switch {
		case !e.mysql:
		case isType[string](c.want):
			column = "s"
		case isType[[]byte](c.want):
			column = "b"
		case isType[float64](c.want):
			column = "f"
		}
		err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
			// Exec's own way and database/sql's must agree.
			if _, err := tx.Exec(ctx, "INSERT INTO test_any ("+column+") VALUES (?)", c.given); err != nil {
				return err
			}
			if err := tx.InsertRows(ctx, "test_any", []string{column}, [][]any{{c.given}}); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, "SELECT "+column+" FROM test_any UNION ALL SELECT ?", c.given)
			if err != nil {
				return err
			}
			defer rows.Close()
			n := 0
			for ; rows.Next(); n++ {
				if err := rows.Scan(&got); err != nil {
					return err
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%T %v, row %d: %s", c.given, c.given, n, diff)
				}
			}
			if n != 3 {
				t.Errorf("%d rows", n)
			}
			return errors.New("undo")
		})
		if err == nil || err.Error() != "undo" {
			t.Fatalf("%T: %v", c.given, err)
		}
	}
	now := time.Unix(1, 0)
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", now)
		wantCode(t, err, levee.CodeInvalid, "UnixMicro")
		_, err = tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", &now)
		wantCode(t, err, levee.CodeInvalid, "UnixMicro")
		_, err = tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", struct{}{})
		if err == nil {
			t.Error("a struct was taken for a value")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Query(ctx, "SELECT ?", now); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a time for a reader: %v", err)
	}
}

func TestReadSnapshot(t *testing.T) { onEach(t, testReadSnapshot) }

func testReadSnapshot(t *testing.T, e tested) {
	d := e.opened(t)
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	tx, err := d.Read(ctx).BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := tx.NewSelect().Table("test_row").ColumnExpr("count(*)").Scan(ctx, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := count()
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (2)")
	if second := count(); first != 1 || second != 1 {
		t.Errorf("%d, then %d rows in one snapshot", first, second)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestInsertRows(t *testing.T) { onEach(t, testInsertRows) }

func testInsertRows(t *testing.T, e tested) {
	d := e.opened(t)
	columns := []string{"id", "n", "s"}
	id := int64(0)
	for _, n := range []int{0, 1, 2, 3, 63, 64, 65, 127, 128, 300, 1000} {
		from := id
		rows := make([][]any, n)
		for i := range rows {
			id++
			rows[i] = []any{id, id * 2, fmt.Sprint("row ", id)}
		}
		err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error { return tx.InsertRows(ctx, "test_row", columns, rows) })
		if err != nil {
			t.Fatal(err)
		}
		if got := one[int](t, d, "SELECT count(*) FROM test_row WHERE id > ? AND n = id*2 AND s = 'row ' || id", from); got != n {
			t.Errorf("%d rows of %d", got, n)
		}
	}
	wide := make([]string, 100)
	row := make([]any, len(wide))
	for i := range wide {
		wide[i], row[i] = fmt.Sprint("c", i), i
	}
	mustExec(t, d, "CREATE TABLE test_wide ("+strings.Join(wide, " BIGINT, ")+" BIGINT)")
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		if err := tx.InsertRows(ctx, "test_row", columns, [][]any{{-1, 1, "x"}, {-2, 1}}); err == nil {
			t.Error("a short row was taken")
		}
		if err := tx.InsertRows(ctx, "test_row", nil, [][]any{{}}); err == nil {
			t.Error("no columns were taken")
		}
		if err := tx.InsertRows(ctx, "test_row", []string{"id", "s"}, [][]any{{-3, "other columns"}}); err != nil {
			return err
		}
		return tx.InsertRows(ctx, "test_wide", wide, slicesRepeat(row, 50))
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_wide WHERE c99 = 99"); n != 50 {
		t.Errorf("%d wide rows", n)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row WHERE id < 0"); n != 1 {
		t.Errorf("%d rows with negative ids", n)
	}
}

func slicesRepeat(row []any, n int) [][]any {
	rows := make([][]any, n)
	for i := range rows {
		rows[i] = row
	}
	return rows
}

func TestStatementCache(t *testing.T) {
	d := opened(t)
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		for i := range stmtsMax + 50 {
			if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT ? + %d", i), 1).Scan(new(int)); err != nil {
				return err
			}
		}
		c := lite(d).writer.conn
		if len(c.stmts) != stmtsMax || c.stmts["SELECT ? + 0"] != nil || c.stmts[fmt.Sprintf("SELECT ? + %d", stmtsMax+49)] == nil {
			t.Errorf("%d statements kept, or the wrong ones", len(c.stmts))
		}
		n := 0
		for s := c.oldest; s != nil; s = s.next {
			n++
		}
		if n != len(c.stmts) {
			t.Errorf("%d in the list, %d in the map", n, len(c.stmts))
		}
		// A changed table is seen by statements that were prepared before.
		if _, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", 1); err != nil {
			return err
		}
		const star = "SELECT * FROM test_row WHERE id = ?"
		for _, want := range []int{3, 4} {
			rows, err := tx.Query(ctx, star, 1)
			if err != nil {
				return err
			}
			cols, err := rows.Columns()
			if err := cmpOr(err, rows.Close()); err != nil {
				return err
			}
			if want == 3 {
				_, err = tx.Exec(ctx, "ALTER TABLE test_row ADD COLUMN extra BIGINT NOT NULL DEFAULT 7")
			} else if len(cols) != 4 {
				t.Logf("columns %v", cols)
			}
			if err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, "SELECT extra FROM test_row WHERE id = ?", 1).Scan(new(int))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDialect(t *testing.T) { onEach(t, testDialect) }

func testDialect(t *testing.T, e tested) {
	d := e.opened(t)
	q := d.Dialect()
	if e.mysql {
		if q.Name() != "mysql" || q.ForUpdate() != " FOR UPDATE" || q.SkipLocked() != " SKIP LOCKED" || q.LimitOne() != " LIMIT 1" {
			t.Error("words")
		}
	} else if q.Name() != "sqlite" || q.ForUpdate() != "" || q.SkipLocked() != "" || q.LimitOne() != " LIMIT 1" {
		t.Error("words")
	}
	for range 2 {
		mustExec(t, d, q.InsertIgnore("test_row", "id", "n"), 1, 5)
	}
	mustExec(t, d, q.Upsert("test_row", []string{"id"}, []string{"n"}, "id", "n", "s"), 1, 6, "new")
	mustExec(t, d, q.Upsert("test_row", []string{"id"}, []string{"n"}, "id", "n", "s"), 2, 7, "two")
	mustExec(t, d, q.Upsert("test_row", []string{"id"}, nil, "id", "n"), 2, 8)
	for id, want := range map[int]string{1: "6/", 2: "7/two"} {
		if got := one[string](t, d, "SELECT n || '/' || s FROM test_row WHERE id = ?"+q.LimitOne(), id); got != want {
			t.Errorf("row %d: %s, want %s", id, got, want)
		}
	}
}

func TestBunModels(t *testing.T) { onEach(t, testBunModels) }

func testBunModels(t *testing.T, e tested) {
	d := e.opened(t)
	type row struct {
		bun.BaseModel `bun:"table:test_row"`
		ID            int64 `bun:"id,pk"`
		N             int64
		S             string
	}
	want := []row{{ID: 1, N: 2, S: "a'?"}, {ID: 2, N: 4, S: ""}}
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		if _, err := tx.Bun().NewInsert().Model(&want).Exec(ctx); err != nil {
			return err
		}
		update := tx.Bun().NewUpdate().Model(&want[1]).Set("n = n + 1").WherePK()
		if e.mysql { // has no RETURNING
			want[1].N++
		} else {
			update = update.Returning("n")
		}
		_, err := update.Exec(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []row
	if err := d.Read(ctx).NewSelect().Model(&got).OrderExpr("id").Scan(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || got[1].N != 5 {
		t.Error(diff, got)
	}
}

// TestTwoOverOneObs: metrics are shared, not registered twice.
func TestTwoOverOneObs(t *testing.T) {
	o := quiet(t)
	for range 2 {
		d, err := Open(ctx, testConfig(t), o)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, d, testTable)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := o.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range all {
		found[f.GetName()] = true
		if f.GetName() == "levee_db_commit_members" && f.GetMetric()[0].GetHistogram().GetSampleCount() < 2 {
			t.Error("commits are not counted")
		}
	}
	for _, name := range []string{"levee_db_commit_seconds", "levee_db_queue_transactions",
		"levee_db_wal_pages", "levee_db_failed_groups_total"} {
		if !found[name] {
			t.Errorf("no metric %s", name)
		}
	}
}

func isType[T any](v any) bool {
	_, ok := v.(T)
	return ok
}
