package db

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db/mysqlconn"
)

func TestMySQLConfigRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "no.pem")
	if err := os.WriteFile(file, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	const good = "mysql://u@127.0.0.1:1/x"
	for _, c := range []struct {
		cfg   Config
		field string
	}{
		{Config{URL: "mysql://root:s3cret@host/x"}, "db.url"},
		{Config{URL: "mysql:root:s3cret@host/x"}, "db.url"},
		{Config{URL: "mysql://host/x"}, "db.url"},
		{Config{URL: "mysql://u@/x"}, "db.url"},
		{Config{URL: "mysql://u@host"}, "db.url"},
		{Config{URL: "mysql://u@host/"}, "db.url"},
		{Config{URL: "mysql://u@host/a/b"}, "db.url"},
		{Config{URL: "mysql://u@host/a;b"}, "db.url"},
		{Config{URL: "mysql://u@host:0/x"}, "db.url"},
		{Config{URL: "mysql://u@host:70000/x"}, "db.url"},
		{Config{URL: "mysql://u@host/x#f"}, "db.url"},
		{Config{URL: good + "?foo=1"}, "db.url"},
		{Config{URL: good + "?tls=maybe"}, "db.url?tls"},
		{Config{URL: good + "?tls=on&tls=on"}, "db.url"},
		{Config{URL: good + "?tls_ca=" + file}, "db.url?tls_ca"},
		{Config{URL: good + "?tls_ca=/nowhere"}, "db.url?tls_ca"},
		{Config{URL: good + "?connect_timeout=1ms"}, "db.url?connect_timeout"},
		{Config{URL: good + "?answer_timeout=1h"}, "db.url?answer_timeout"},
		{Config{URL: good, Readers: 2000}, "db.readers"},
		{Config{URL: good, Writers: -1}, "db.writers"},
		{Config{URL: "sqlite:x.db", Writers: 2}, "db.writers"},
		{Config{URL: "sqlite:x.db", Password: "s3cret"}, "db.password"},
		{Config{URL: "postgres://root:s3cret@host/x"}, "db.url"},
	} {
		d, err := Open(ctx, c.cfg, quiet(t))
		if err == nil {
			t.Errorf("%+v was accepted", c.cfg)
			_ = d.Close()
			continue
		}
		wantCode(t, err, levee.CodeInvalid, c.field, "must be")
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the password is shown: %v", err)
		}
	}
	_, err := Open(ctx, Config{URL: good}, quiet(t))
	wantCode(t, err, levee.CodeUnavailable, "cannot be reached")
}

// TestMySQLPassword: users with passwords, wrong ones, and databases that are not there.
func TestMySQLPassword(t *testing.T) {
	s := startServer(t, backends.MySQLOptions{})
	user(t, s, "shop", "pass''word")
	cfg := onServer(t, s)
	cfg.URL = strings.Replace(cfg.URL, "root@", "shop@", 1)
	for password, words := range map[string]string{"pass'word": "", "wr0ng": "does not let this user in", "": "does not let this user in"} {
		cfg.Password = secret(password)
		d, err := Open(ctx, cfg, quiet(t))
		if words == "" {
			if err != nil {
				t.Fatal(err)
			}
			if err := cmpOr(d.Ping(ctx), d.Close()); err != nil {
				t.Error(err)
			}
			continue
		}
		wantCode(t, err, levee.CodeInternal, words)
		if password != "" && strings.Contains(err.Error(), password) {
			t.Errorf("the password is shown: %v", err)
		}
	}
	cfg.Password = "pass'word"
	cfg.URL += "_other"
	_, err := Open(ctx, cfg, quiet(t))
	wantCode(t, err, levee.CodeInternal, "no such database")
	// A user who may read only.
	for _, q := range []string{"CREATE USER guest@'%'", "GRANT SELECT ON *.* TO guest@'%'"} {
		if err := s.Exec(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	cfg = onServer(t, s)
	cfg.URL = strings.Replace(cfg.URL, "root@", "guest@", 1)
	_, err = Open(ctx, cfg, quiet(t))
	wantCode(t, err, levee.CodeInternal, "lacks a right")
}

// TestMySQLTLS: the server's certificate is checked against the authority that is named.
func TestMySQLTLS(t *testing.T) {
	needMySQL(t)
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority := func(name string) (*x509.Certificate, *ecdsa.PrivateKey, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return c, key, write(name+".pem", "CERTIFICATE", der)
	}
	ca, caKey, caFile := authority("right")
	_, _, otherFile := authority("wrong")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "db"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, backends.MySQLOptions{Settings: map[string]string{"ssl_cert": write("db.pem", "CERTIFICATE", der),
		"ssl_key": write("db.key", "PRIVATE KEY", keyDER), "ssl_ca": caFile}})
	cfg := onServer(t, s)
	plain := cfg.URL
	cfg.URL = plain + "?tls_ca=" + caFile
	d := open(t, cfg)
	if c := one[string](t, d, "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'"); c == "" {
		t.Error("not encrypted")
	}
	if err := d.Ping(ctx); err != nil {
		t.Error(err)
	}
	for _, tail := range []string{"?tls=on", "?tls=on&tls_ca=" + otherFile} {
		cfg.URL = plain + tail
		if d, err := Open(ctx, cfg, quiet(t)); err == nil {
			t.Errorf("%s: a certificate of an unknown authority was taken", tail)
			_ = d.Close()
		}
	}
}

// TestMySQLHidesValues: what a server answers repeats values; our errors do not.
func TestMySQLHidesValues(t *testing.T) {
	needMySQL(t)
	d := tested{mysql: true}.opened(t)
	const value = "t0psecret"
	mustExec(t, d, "CREATE UNIQUE INDEX test_row_s ON test_row (s)")
	mustExec(t, d, "INSERT INTO test_row (id, s) VALUES (1, ?)", value)
	_ = d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		for _, c := range []struct {
			query string
			args  []any
		}{
			{"INSERT INTO test_row (id, s) VALUES (?, ?)", []any{2, value}},
			{"INSERT INTO test_row (id, s) VALUEZ (?, ?)", []any{2, value}},
			{"INSERT INTO test_row (id, n) VALUES (?, ?)", []any{3, value}},
			{"INSERT INTO test_row (id, s) VALUES (?, ?)", []any{4, value + "\xff\xfe"}},
			{"INSERT INTO test_row (id, s) VALUES (?, ?)", []any{5, strings.Repeat(value, 30)}},
			{"INSERT INTO test_nowhere (id, s) VALUES (?, ?)", []any{5, value}},
			{"UPDATE test_row SET n = ? + 1 WHERE s = ?", []any{value, value}},
		} {
			_, err := tx.Exec(ctx, c.query, c.args...)
			if err == nil {
				t.Errorf("%s was taken", c.query)
			} else if strings.Contains(err.Error(), value) {
				t.Errorf("a value in the error: %v", err)
			} else if levee.CodeOf(err) != levee.CodeInternal {
				t.Errorf("%s: %v", c.query, err)
			}
		}
		return nil
	})
}

// TestMySQLSizes: integers of 64 bits, texts beyond 64 KiB, trailing spaces and statements beyond what a server takes.
func TestMySQLSizes(t *testing.T) {
	needMySQL(t)
	d := open(t, tested{mysql: true}.config(t))
	schema := []Schema{{"shop", files("0001_a.sql", `CREATE TABLE shop_a (
  id BIGINT NOT NULL PRIMARY KEY,
  i INTEGER NOT NULL, j INT NOT NULL,
  text TEXT NOT NULL, -- a name that is a type, too
  code CHAR(5) NOT NULL,
  data BLOB NOT NULL,
  CONSTRAINT shop_a_i CHECK (i >= 0)
);
CREATE INDEX shop_a_code ON shop_a (code);
ALTER TABLE shop_a ADD COLUMN more TEXT;`)}}
	if _, err := d.Migrate(ctx, schema); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("é", 1_500_000)
	insert := func(id int, i int64, text, code string) error {
		return d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
			return tx.InsertRows(ctx, "shop_a", []string{"id", "i", "j", "text", "code", "data", "more"}, [][]any{{id, i, i, text, code, []byte(text), text}})
		})
	}
	if err := insert(1, 1<<40, long, "a  "); err != nil {
		t.Fatal(err)
	}
	var i, j int64
	var text, code, more string
	var data []byte
	if err := d.QueryRow(ctx, "SELECT i, j, text, code, data, more FROM shop_a").Scan(&i, &j, &text, &code, &data, &more); err != nil {
		t.Fatal(err)
	}
	if i != 1<<40 || j != i || text != long || code != "a  " || string(data) != long || more != long {
		t.Errorf("came back otherwise: %d %d %d %q %d %d", i, j, len(text), code, len(data), len(more))
	}
	if n := one[int](t, d, "SELECT count(*) FROM shop_a WHERE code = 'a'"); n != 0 {
		t.Error("trailing spaces do not count")
	}
	if err := insert(2, -1, "", ""); err == nil {
		t.Error("a CHECK that is not checked")
	}
	if err := insert(3, 1, "", "123456"); err == nil {
		t.Error("a text that is too long was cut")
	}
	wantCode(t, insert(4, 1, strings.Repeat("x", 17<<20), ""), levee.CodeTooLarge, "max_allowed_packet")
	if err := insert(5, 1, "", ""); err != nil {
		t.Errorf("after a statement that was too long: %v", err)
	}
	// Many rows that are too much for one statement together.
	rows := make([][]any, 40)
	for i := range rows {
		rows[i] = []any{100 + i, 1, 1, strings.Repeat("y", 1<<20), "", []byte{}, nil}
	}
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		if err := tx.InsertRows(ctx, "shop_a", []string{"id", "i", "j", "text", "code", "data", "more"}, rows); err != nil {
			return err
		}
		_, err := tx.Query(ctx, "SELECT text, text, text FROM shop_a")
		wantCode(t, err, levee.CodeTooLarge, "pages")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM shop_a"); n != 42 {
		t.Errorf("%d rows", n)
	}
	if err := d.CheckIntegrity(ctx); err != nil {
		t.Error(err)
	}
	dump, err := d.DumpSchema(ctx)
	if err != nil || !strings.Contains(dump, "CREATE TABLE \"shop_a\"") || strings.Count(dump, "utf8mb4_nopad_bin") < 3 {
		t.Errorf("%v\n%s", err, dump)
	}
	s, err := backends.MySQL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	db := strings.TrimPrefix(d.cfg.URL[strings.LastIndex(d.cfg.URL, "/"):], "/")
	for _, q := range []string{"CREATE TABLE %s.other (a VARCHAR(10)) ENGINE=MyISAM", "ALTER TABLE %s.shop_a MODIFY code VARCHAR(5) COLLATE utf8mb4_general_ci"} {
		if err := s.Exec(ctx, fmt.Sprintf(q, db)); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, d.CheckIntegrity(ctx), levee.CodeInternal, "other has engine MyISAM", "shop_a.code has collation utf8mb4_general_ci")
}

func TestForMySQL(t *testing.T) {
	const tail = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=c ROW_FORMAT=DYNAMIC"
	for given, want := range map[string]string{
		"CREATE TABLE t (x INT)":                                          "CREATE TABLE t (x BIGINT)" + tail,
		"create table t (x integer, y char(3) -- INT\n, z text)":          "create table t (x BIGINT, y VARCHAR(3) \n, z MEDIUMTEXT)" + tail,
		"CREATE TABLE text (text TEXT, int INT, PRIMARY KEY (text, int))": "CREATE TABLE text (text MEDIUMTEXT, int BIGINT, PRIMARY KEY (text, int))" + tail,
		"CREATE TABLE t (x VARCHAR(9) DEFAULT 'a INT', \"int\" BLOB)":     "CREATE TABLE t (x VARCHAR(9) DEFAULT 'a INT', \"int\" MEDIUMBLOB)" + tail,
		"ALTER TABLE t ADD COLUMN text TEXT":                              "ALTER TABLE t ADD COLUMN text MEDIUMTEXT",
		"CREATE INDEX i ON t (int)":                                       "CREATE INDEX i ON t (int)",
		"CREATE TABLE t (x MEDIUMBLOB, y SMALLINT /* INT */)":             "CREATE TABLE t (x MEDIUMBLOB, y SMALLINT  )" + tail,
	} {
		got, err := mysqlconn.Translate(splitSQL(given)[0], "c")
		if err != nil || got != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", given, got, err, want)
		}
	}
	for _, bad := range []string{"CREATE TABLE t (x INT) ENGINE=MyISAM", "CREATE TABLE t (x TEXT COLLATE utf8_bin)", "CREATE TABLE t (x INT) charset utf8"} {
		if _, err := mysqlconn.Translate(splitSQL(bad)[0], "c"); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestMySQLSchemaInTx: a change of the schema would commit half a transaction.
func TestMySQLSchemaInTx(t *testing.T) {
	needMySQL(t)
	d := tested{mysql: true}.opened(t)
	err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (1)"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "CREATE TABLE test_other (x BIGINT)"); err == nil || !strings.Contains(err.Error(), "only one") {
			t.Errorf("a table in the middle: %v", err)
		}
		return fmt.Errorf("undo")
	})
	if err == nil || err.Error() != "undo" {
		t.Fatal(err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 0 {
		t.Error("half a transaction was committed")
	}
	for _, q := range []string{"SELECT * FROM test_row FOR UPDATE", "SELECT * FROM test_row LOCK IN SHARE MODE", "SELECT * FROM test_row FOR SHARE",
		"WITH x AS (SELECT 1) SELECT * FROM x FOR UPDATE SKIP LOCKED", "SET autocommit = 1", "DO SLEEP(1)", "CALL x()"} {
		if _, err := d.Query(ctx, q); err == nil {
			t.Errorf("a reader took %s", q)
		}
	}
}

const migrationSteps = `CREATE TABLE shop_a (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL);
INSERT INTO shop_a (id, n) VALUES (1, 1);
ALTER TABLE shop_a ADD COLUMN s TEXT;
UPDATE shop_a SET n = n + 1;
CREATE INDEX shop_a_n ON shop_a (n);
CREATE TABLE shop_b (id BIGINT NOT NULL PRIMARY KEY);
UPDATE shop_a SET n = n * 10;
DROP TABLE shop_b;`

// TestMigrateKilled: a node that dies at any point of a migration leaves it so that the next one goes on, and each statement counts once.
func TestMigrateKilled(t *testing.T) {
	needMySQL(t)
	s, err := backends.MySQL(ctx)
	if err != nil {
		t.Fatal(err)
	}
	schemas := []Schema{{"shop", files("0001_a.sql", migrationSteps)}}
	want := ""
	for cut := -1; ; cut++ {
		ended := true
		for _, when := range []cutWhen{cutBefore, cutAfter} {
			c := startCutter(t, s.Addr())
			d := open(t, c.config(onServer(t, s)))
			var seen atomic.Int64
			c.on(func(q string) cutWhen {
				verb := strings.ToUpper(strings.Fields(q)[0])
				if !slices.Contains([]string{"CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "COMMIT", "START"}, verb) {
					return cutNever
				}
				if int(seen.Add(1))-1 == cut {
					return when
				}
				return cutNever
			})
			applied, err := d.Migrate(ctx, schemas)
			c.on(nil)
			if int(seen.Load()) > cut && cut >= 0 {
				ended = false
				if err == nil {
					t.Fatalf("cut %d: nothing was cut", cut)
				}
			}
			if err != nil {
				if applied, err = d.Migrate(ctx, schemas); err != nil {
					t.Fatalf("cut %d, %v: going on: %v", cut, when, err)
				}
			}
			if len(applied) > 1 {
				t.Errorf("applied %v", applied)
			}
			if n := one[int](t, d, "SELECT n FROM shop_a"); n != 20 {
				t.Errorf("cut %d, %v: n = %d, want 20", cut, when, n)
			}
			if n := one[int](t, d, "SELECT count(*) FROM db_step"); n != 0 {
				t.Errorf("cut %d: %d notes are left", cut, n)
			}
			dump, err := d.DumpSchema(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if want == "" {
				want = dump
			} else if diff := cmp.Diff(want, dump); diff != "" {
				t.Errorf("cut %d, %v: %s", cut, when, diff)
			}
			if err := d.CheckMigrations(ctx, schemas); err != nil {
				t.Error(err)
			}
		}
		if ended && cut >= 0 {
			t.Logf("%d places to die in", cut)
			break
		}
	}
}

// TestMigrateFailsMySQL: a statement that fails stops there; with its text mended the migration goes on after those that are done.
func TestMigrateFailsMySQL(t *testing.T) {
	needMySQL(t)
	d := open(t, tested{mysql: true}.config(t))
	with := func(text string) []Schema { return []Schema{{"shop", files("0001_a.sql", text)}} }
	const first = "CREATE TABLE shop_a (id BIGINT NOT NULL PRIMARY KEY);\n"
	_, err := d.Migrate(ctx, with(first+"CREATE TABLE shop_a (id BIGINT NOT NULL PRIMARY KEY);"))
	if err == nil || !strings.Contains(err.Error(), "shop/0001_a") {
		t.Fatal(err)
	}
	// Again: an answer that it is there already is an error still, because it was not this statement that made it.
	if _, err = d.Migrate(ctx, with(first+"CREATE TABLE shop_a (id BIGINT NOT NULL PRIMARY KEY);")); err == nil {
		t.Fatal("a table that was there before was taken for the migration's own")
	}
	_, err = d.Migrate(ctx, with("CREATE TABLE shop_z (id BIGINT NOT NULL PRIMARY KEY);\nCREATE TABLE shop_b (id BIGINT NOT NULL PRIMARY KEY);"))
	wantCode(t, err, levee.CodeInternal, "changed after a part of it")
	if applied, err := d.Migrate(ctx, with(first+"CREATE TABLE shop_b (id BIGINT NOT NULL PRIMARY KEY);")); err != nil || len(applied) != 1 {
		t.Fatal(applied, err)
	}
	cctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := d.Migrate(cctx, with(first)); err == nil {
		t.Error("cancelled")
	}
}

// TestMySQLInBubble: virtual time stands still while the network is waited for, and idle connections do not hold it up.
func TestMySQLInBubble(t *testing.T) {
	needMySQL(t)
	cfg := tested{mysql: true}.config(t)
	o := quiet(t)
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(ctx, cfg, o)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, d, testTable)
		begun := time.Now()
		cctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := d.QueryRow(cctx, "SELECT SLEEP(1.2)").Scan(new(int)); err != nil { // more than a second of real time, none of virtual
			t.Error(err)
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("virtual time moved by %v while the server was waited for", took)
		}
		done := make(chan error)
		for i := range 4 {
			go func() {
				done <- d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", i)
					return err
				})
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(24 * time.Hour) // beyond the life of all connections
		mustExec(t, d, "INSERT INTO test_row (id) VALUES (9)")
		synctest.Wait()
		if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 5 {
			t.Errorf("%d rows", n)
		}
		if took := time.Since(begun); took != 24*time.Hour {
			t.Errorf("virtual time moved by %v", took)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
