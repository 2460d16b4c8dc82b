package db

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"levee"
)

func files(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m["schema/"+pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

const (
	shopFirst = `-- What is for sale; a comment with 'one quote and a ; semicolon.
CREATE TABLE shop_thing (
  id BIGINT NOT NULL PRIMARY KEY,
  title VARCHAR(190) NOT NULL DEFAULT 'a;b -- c',  -- shown
  price BIGINT NOT NULL
);
CREATE INDEX shop_thing_title ON shop_thing (title);
`
	shopSecond = "ALTER TABLE shop_thing ADD COLUMN state SMALLINT NOT NULL DEFAULT 0;\r\nUPDATE shop_thing SET state = 1;\r\n"
)

func TestMigrate(t *testing.T) {
	d := open(t, testConfig(t))
	v1 := []Schema{{"shop", files("0001_thing.sql", shopFirst)}, {"cart", files("0001_cart.sql", "CREATE TABLE cart_line (a BIGINT)")}}
	err := d.CheckMigrations(ctx, v1)
	wantCode(t, err, levee.CodeInternal, "shop/0001_thing", "cart/0001_cart", "levee migrate")
	applied, err := d.Migrate(ctx, v1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"shop/0001_thing", "cart/0001_cart"}, applied); diff != "" {
		t.Error(diff)
	}
	if err := d.CheckMigrations(ctx, v1); err != nil {
		t.Error(err)
	}
	if applied, err := d.Migrate(ctx, v1); err != nil || applied != nil {
		t.Errorf("again: %v, %v", applied, err)
	}
	mustExec(t, d, "INSERT INTO shop_thing (id, price) VALUES (1, 2)")
	if got := one[string](t, d, "SELECT title FROM shop_thing WHERE rowid = id"); got != "a;b -- c" {
		t.Errorf("title %q, or id is not the rowid", got)
	}

	// A second file, with another end of line than the checksum's: only the text counts.
	v2 := []Schema{{"shop", files("0001_thing.sql", strings.ReplaceAll(shopFirst, "\n", "\r\n"), "0002_state.sql", shopSecond)}, v1[1]}
	wantCode(t, d.CheckMigrations(ctx, v2), levee.CodeInternal, "shop/0002_state")
	if applied, err = d.Migrate(ctx, v2); err != nil || !slices.Equal(applied, []string{"shop/0002_state"}) {
		t.Fatal(applied, err)
	}
	if n := one[int](t, d, "SELECT state FROM shop_thing"); n != 1 {
		t.Errorf("state %d", n)
	}
	if n := one[int64](t, d, "SELECT max(applied_at) FROM db_migration"); n < 1e15 {
		t.Errorf("applied_at %d is not in microseconds", n)
	}

	// The older version starts on the newer file; one of its rooms is gone; a file was changed; a number came too late.
	wantCode(t, d.CheckMigrations(ctx, v1), levee.CodeInternal, "shop/0002_state", "newer version")
	_, err = d.Migrate(ctx, v1)
	wantCode(t, err, levee.CodeInternal, "newer version")
	wantCode(t, d.CheckMigrations(ctx, v2[:1]), levee.CodeInternal, "cart/0001_cart", "newer version")
	if _, err := d.Migrate(ctx, v2[:1]); err != nil {
		t.Errorf("migrating one owner: %v", err)
	}
	changed := []Schema{{"shop", files("0001_thing.sql", shopFirst+" ", "0002_state.sql", shopSecond)}, v1[1]}
	wantCode(t, d.CheckMigrations(ctx, changed), levee.CodeInternal, "shop/0001_thing", "changed")
	_, err = d.Migrate(ctx, changed)
	wantCode(t, err, levee.CodeInternal, "changed")
	late := []Schema{v2[0], {"cart", files("0000_early.sql", "CREATE TABLE cart_x (a BIGINT)",
		"0001_cart.sql", "CREATE TABLE cart_line (a BIGINT)")}}
	_, err = d.Migrate(ctx, late)
	wantCode(t, err, levee.CodeInternal, "cart/0000_early", "higher number")

	got, err := d.DumpSchema(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := `CREATE TABLE cart_line (a BIGINT);

CREATE TABLE db_migration (
  owner VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  checksum CHAR(64) NOT NULL,
  applied_at BIGINT NOT NULL,
  PRIMARY KEY (owner, name)
);

CREATE TABLE shop_thing (
  id INTEGER NOT NULL PRIMARY KEY,
  title VARCHAR(190) NOT NULL DEFAULT 'a;b -- c',  -- shown
  price BIGINT NOT NULL
, state SMALLINT NOT NULL DEFAULT 0);

CREATE INDEX shop_thing_title ON shop_thing (title);
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestMigrateFails: a file is applied as a whole or not at all, and those before it stay.
func TestMigrateFails(t *testing.T) {
	d := open(t, testConfig(t))
	bad := []Schema{{"shop", files("0001_a.sql", "CREATE TABLE shop_a (x BIGINT);",
		"0002_b.sql", "CREATE TABLE shop_b (x BIGINT); CREATE TABL oops;")}}
	applied, err := d.Migrate(ctx, bad)
	if err == nil || !strings.Contains(err.Error(), "shop/0002_b") || !strings.Contains(err.Error(), "oops") || len(applied) != 1 {
		t.Fatal(applied, err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM sqlite_master WHERE name = 'shop_b'"); n != 0 {
		t.Error("half a migration was kept")
	}
	good := []Schema{{"shop", files("0001_a.sql", "CREATE TABLE shop_a (x BIGINT);", "0002_b.sql", "CREATE TABLE shop_b (x BIGINT);")}}
	if applied, err := d.Migrate(ctx, good); err != nil || !slices.Equal(applied, []string{"shop/0002_b"}) {
		t.Fatal(applied, err)
	}
	cctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := d.Migrate(cctx, good); err == nil {
		t.Error("cancelled")
	}
}

func TestMigrateAtOnce(t *testing.T) { onEach(t, testMigrateAtOnce) }

func testMigrateAtOnce(t *testing.T, e tested) {
	cfg := e.config(t)
	dbs := []*DB{open(t, cfg), open(t, cfg), open(t, cfg)}
	fs := files()
	for i := range 9 {
		for name, f := range files(fmt.Sprintf("000%d_x.sql", i+1), fmt.Sprintf("CREATE TABLE x_%d (id BIGINT NOT NULL PRIMARY KEY);", i)) {
			fs[name] = f
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for _, d := range dbs {
		wg.Go(func() {
			applied, err := d.Migrate(ctx, []Schema{{"x", fs}})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += len(applied)
		})
	}
	wg.Wait()
	if total != 9 {
		t.Errorf("%d applied, want 9", total)
	}
}

func TestSchemaFiles(t *testing.T) {
	one := "CREATE TABLE t (x BIGINT);"
	for _, c := range []struct {
		schemas []Schema
		words   string
	}{
		{[]Schema{{"", files("0001_a.sql", one)}}, "schema.owner"},
		{[]Schema{{"A/b", files("0001_a.sql", one)}}, "schema.owner"},
		{[]Schema{{"a", files("0001_a.sql", one)}, {"a", files("0001_a.sql", one)}}, "twice"},
		{[]Schema{{"a", files()}}, "no files"},
		{[]Schema{{"a", files("1_a.sql", one)}}, "NNNN_what.sql"},
		{[]Schema{{"a", files("0001_A.sql", one)}}, "NNNN_what.sql"},
		{[]Schema{{"a", files("0001_a.oracle.sql", one)}}, "NNNN_what.sql"},
		{[]Schema{{"a", files("0001_a.mysql.sql", one)}}, "no twin"},
		{[]Schema{{"a", files("0001_a.sql", one, "0001_b.sql", one)}}, "same number"},
		{[]Schema{{"a", files("0001_a.sql", "-- nothing\n")}}, "no statements"},
		{[]Schema{{"a", files("0001_a.sql", "BEGIN; "+one+" COMMIT;")}}, "BEGIN"},
		{[]Schema{{"a", files("0001_a.sql", "PRAGMA foreign_keys = ON;")}}, "PRAGMA"},
		{[]Schema{{"a", files("0001_a.sql", "INSERT INTO t VALUES (?);")}}, "?"},
		{[]Schema{{"a", files("0001_a.sql", "CREATE TABLE t (x BIGINT, PRIMARY KEY (x)) WITHOUT ROWID;")}}, ".sqlite.sql"},
		{[]Schema{{"a", files("0001_a.sql", "-- "+strings.Repeat("x", schemaFileMax))}}, "larger"},
	} {
		if _, err := load(c.schemas, "sqlite"); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%v: %v does not say %q", c.schemas, err, c.words)
		}
	}
	ms, err := load([]Schema{{"a", files(
		"0001_a.sql", "create table t (Key_1 bigint not null primary key, y BIGINT NOT NULL);",
		"0002_b.sql", "portable", "0002_b.sqlite.sql", "CREATE TABLE u (x BIGINT NOT NULL, y BIGINT NOT NULL, PRIMARY KEY (x, y)) WITHOUT ROWID;",
		"0003_c.mysql.sql", "other", "0003_c.sqlite.sql", "CREATE TABLE v (\n  id BIGINT NOT NULL PRIMARY KEY\n);",
	)}}, "sqlite")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range ms {
		got = append(got, m.String()+": "+m.statements[0].Text)
	}
	want := []string{
		"a/0001_a: create table t (Key_1 INTEGER not null primary key, y BIGINT NOT NULL)",
		"a/0002_b: CREATE TABLE u (x BIGINT NOT NULL, y BIGINT NOT NULL, PRIMARY KEY (x, y)) WITHOUT ROWID",
		"a/0003_c: CREATE TABLE v (\n  id INTEGER NOT NULL PRIMARY KEY\n)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSplitSQL(t *testing.T) {
	for text, want := range map[string][]statement{
		"":                nil,
		" ; ;; -- x;\n;":  nil,
		"SELECT 1":        {{Text: "SELECT 1", Verb: "SELECT"}},
		"select ?, '?' ;": {{Text: "select ?, '?'", Verb: "SELECT", Params: 1}},
		"a ?1, ?; b ?":    {{Text: "a ?1, ?", Verb: "A", Params: -1}, {Text: "b ?", Verb: "B", Params: 1}},
		`a "x;""y"; b 'it''s;' ; c [;] ` + "`;`": {
			{Text: `a "x;""y"`, Verb: "A"}, {Text: "b 'it''s;'", Verb: "B"}, {Text: "c [;] `;`", Verb: "C"}},
		"/* ; ? */ a -- ;\n b; c":                {{Text: "/* ; ? */ a -- ;\n b", Verb: "A"}, {Text: "c", Verb: "C"}},
		"a '":                                    {{Text: "a '", Verb: "A"}},
		"(x":                                     {{Text: "(x", Verb: "("}},
		"UPDATE t SET returning_x = 'returning'": {{Text: "UPDATE t SET returning_x = 'returning'", Verb: "UPDATE"}},
		"UPDATE t SET x = 1 returning x":         {{Text: "UPDATE t SET x = 1 returning x", Verb: "UPDATE", Returning: true}},
		"insert or rollback into t":              {{Text: "insert or rollback into t", Verb: "INSERT", OrRollback: true}},
		"CREATE TABLE t (x UNIQUE ON CONFLICT /**/ ROLLBACK)": {{
			Text: "CREATE TABLE t (x UNIQUE ON CONFLICT /**/ ROLLBACK)", Verb: "CREATE", OrRollback: true}},
	} {
		if diff := cmp.Diff(want, splitSQL(text)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// FuzzSplitSQL: SQLite and splitSQL must agree on where a statement ends, or a COMMIT could be smuggled in behind one.
func FuzzSplitSQL(f *testing.F) {
	for _, s := range []string{"SELECT 1", "SELECT 1;COMMIT", "SELECT ';' ; -- x\nCOMMIT", "SELECT 'a''b;c'",
		"/* x */SELECT 1;;", "SELECT [a;b]",
		"SELECT \"a;\", `b;`;COMMIT", "SELECT 1 --;\n;COMMIT", "SELECT 1 /* ;", "SELECT 'x", "\x00;COMMIT", "SELECT 1;\x00COMMIT", "SELECT ?1, ?",
		"\x00YCOMMIT", "\ufeff", "\ufeffCOMMIT", "SELECT\ufeff1"} {
		f.Add(s)
	}
	d := open(f, testConfig(f))
	f.Fuzz(func(t *testing.T, text string) {
		parts := splitSQL(text)
		again := ""
		for _, p := range parts {
			if p.Text == "" || p.Verb == "" {
				t.Fatalf("%q: empty statement %+v", text, p)
			}
			again += p.Text + "\n;"
		}
		if n := len(splitSQL(again)); n != len(parts) && !strings.ContainsAny(text, "'\"`[*") {
			t.Fatalf("%q: %d statements, then %d", text, len(parts), n)
		}
		if len(text) > 1000 {
			return
		}
		// Whatever is tried, the group goes on: the next transaction is a whole one.
		_ = d.Tx(ctx, "fuzz", func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, text)
			_ = err // nearly all of it is no SQL
			if _, err := lite(d).writer.savepoint.ExecContext(background, nil); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if _, err := lite(d).writer.release.ExecContext(background, nil); err != nil {
				t.Fatalf("%q ended the transaction: %v", text, err)
			}
			if _, err := lite(d).writer.begin.ExecContext(background, nil); err == nil {
				t.Fatalf("%q ended the transaction: another could be begun", text)
			}
			return fmt.Errorf("undo")
		})
	})
}
