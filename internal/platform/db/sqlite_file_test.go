package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestOpenRefuses(t *testing.T) {
	fill := func(t *testing.T, path string) {
		d := open(t, Config{URL: "sqlite:" + path})
		mustExec(t, d, testTable)
		for i := range 20 {
			mustExec(t, d, "INSERT INTO test_row (id, s) VALUES (?, ?)", i, strings.Repeat("x", 3000))
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	pragma := func(t *testing.T, path string, qs ...string) {
		raw, err := openRaw("file:" + path)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qs {
			if _, err := raw.(rawConn).ExecContext(ctx, q, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := raw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		make  func(t *testing.T, path string)
		words string
	}{
		"garbage": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("not a database. "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a database"},
		"cut": {func(t *testing.T, path string) {
			fill(t, path)
			if err := os.Truncate(path, 3*4096); err != nil {
				t.Fatal(err)
			}
		}, "is damaged"},
		"other program": {func(t *testing.T, path string) { pragma(t, path, "CREATE TABLE x (y)") }, "another program's"},
		"other id":      {func(t *testing.T, path string) { pragma(t, path, "PRAGMA application_id = 77") }, "another program's"},
		"newer":         {func(t *testing.T, path string) { fill(t, path); pragma(t, path, "PRAGMA user_version = 2") }, "newer version"},
		"folder in the way": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "path of a file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			c.make(t, path)
			d, err := Open(ctx, Config{URL: "sqlite:" + path}, quiet(t))
			if err == nil {
				_ = d.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v does not say %q", err, c.words)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, Config{URL: "sqlite:" + path + "/x.db"}, quiet(t)); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("a file where the folder should be: %v", err)
	}
}

// TestDamageInside: pages in the middle are overwritten; Open does not read them, CheckIntegrity does, and a use of them is an
// error that says so.
func TestDamageInside(t *testing.T) {
	cfg := testConfig(t)
	d := open(t, cfg)
	mustExec(t, d, testTable)
	for i := range 200 {
		mustExec(t, d, "INSERT INTO test_row (id, s) VALUES (?, ?)", i, strings.Repeat("x", 1000))
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(lite(d).file.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xAA}, 20*4096), 10*4096); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, cfg)
	if err := d.CheckIntegrity(ctx); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("CheckIntegrity: %v", err)
	}
	if err := d.QueryRow(ctx, "SELECT sum(length(s)) FROM test_row").Scan(new(int)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a read: %v", err)
	}
	if n := one[int](t, d, "SELECT count(*) FROM db_migration"); n != 0 {
		t.Errorf("what is not damaged: %d", n)
	}
}

// childReadOnly tries folders it may not write, as a user who is not root.
func childReadOnly() error {
	if os.Getuid() == 0 {
		if err := syscall.Setgid(65534); err != nil {
			return err
		}
		if err := syscall.Setuid(65534); err != nil {
			return err
		}
	}
	d, err := openChild()
	if err == nil {
		return errors.Join(errors.New("opened"), d.Close())
	}
	fmt.Println(err)
	return nil
}

func TestReadOnlyFolder(t *testing.T) {
	base, err := os.MkdirTemp("", "levee-db-readonly")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(base, "there.db")
	d := open(t, Config{URL: "sqlite:" + there})
	mustExec(t, d, testTable)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(there, 0o444), os.Chmod(base, 0o555)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{there, filepath.Join(base, "new.db"), filepath.Join(base, "folder", "new.db")} {
		c := startChild(t, "readonly", path)
		said := ""
		for c.out.Scan() {
			said += c.out.Text()
		}
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%s: %v %s", path, err, c.err.String())
		}
		if !strings.Contains(said, path) && !strings.Contains(said, filepath.Dir(path)) || !strings.Contains(said, "db.url") {
			t.Errorf("%s: %s", path, said)
		}
	}
}

// TestLogIsMoved: under load the write-ahead log does not grow without end, and the file has what it held.
func TestLogIsMoved(t *testing.T) {
	d := opened(t)
	var wg sync.WaitGroup
	for g := range int64(8) {
		wg.Go(func() {
			for i := range int64(40) {
				rows := make([][]any, 60)
				for j := range rows {
					rows[j] = []any{g<<40 | i<<20 | int64(j), strings.Repeat("x", 4000)}
				}
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					return tx.InsertRows(ctx, "test_row", []string{"id", "s"}, rows)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := d.Stats()
	if s.FileBytes < 20<<20 {
		t.Errorf("only %d MiB of some 80 were moved into the file", s.FileBytes>>20)
	}
	if s.WALBytes > 64<<20 {
		t.Errorf("the log has %d MiB", s.WALBytes>>20)
	}
	if err := d.CheckIntegrity(ctx); err != nil {
		t.Error(err)
	}
}

// TestKeeperWithOldSnapshot: a reader that holds an old snapshot must not make the keeper try for ever, nor stop it for ever.
func TestKeeperWithOldSnapshot(t *testing.T) {
	d := opened(t)
	lite(d).keeper.stop() // it is called by hand here
	k := newKeeper(lite(d))
	// The writer looks at it after each group.
	if err := lite(d).writer.keep(func(*conn) error { lite(d).keeper = k; return nil }); err != nil {
		t.Fatal(err)
	}
	defer func() { go k.run() }()
	tx, err := d.Read(ctx).BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM test_row").Scan(new(int)); err != nil {
		t.Fatal(err)
	}
	grow := func(from, n int) {
		t.Helper()
		err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
			for i := range n {
				if _, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", from+i, strings.Repeat("x", 4000)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	grow(0, walPages+100)
	if err := k.checkpoint(); err != nil {
		t.Fatal(err)
	}
	tried := k.tried
	if tried < walPages {
		t.Fatalf("tried at %d pages", tried)
	}
	grow(10_000, 100)
	if err := k.checkpoint(); err != nil || k.tried != tried {
		t.Fatalf("tried again at once: %d, %v", k.tried, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	grow(20_000, walPages)
	if err := k.checkpoint(); err != nil {
		t.Fatal(err)
	}
	length, moved, err := walState(k.conn, "NOOP")
	if err != nil || length != moved {
		t.Errorf("%d of %d pages moved, %v", moved, length, err)
	}
}
