package platformtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
)

// To make a database with forty tables takes a server longer than most tests take. So the databases of a process are kept, by their
// schemas: a test gets one that an earlier test is done with, its rows deleted; only when there is none a new one is made.
type pool struct {
	mu   sync.Mutex             // guards all below
	free map[string][]*database // by schemas
	held map[string]*database   // by the folder of the test that has it
}

// database is one on the server.
type database struct {
	url, schema string
	drop        func()
	shape       string   // of its tables, once it was emptied; "" before
	tables      []string // once it was emptied
}

var databases = pool{free: map[string][]*database{}, held: map[string]*database{}}

// Config returns the Config of the database that belongs to a folder. On the embedded tier that is a file in it; on the distributed one
// an empty database, which is given back when the test ends. schemas are those that it will be migrated to: another test
// gets the same database only for the same ones.
func Config(t testing.TB, dir string, schemas ...db.Schema) db.Config {
	t.Helper()
	if !Distributed() {
		return db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db"), RunTwice: RunTwice()}
	}
	return MySQL(t, dir, schemas...)
}

// MySQL is Config on the distributed tier, whichever tier the run is on.
func MySQL(t testing.TB, dir string, schemas ...db.Schema) db.Config {
	t.Helper()
	var server *backends.MySQLServer
	if err := outside(func() (err error) {
		server, err = backends.MySQL(context.Background())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	d, err := databases.take(t, server, dir, fingerprint(t, schemas))
	if err != nil {
		t.Fatal(err)
	}
	return db.Config{URL: d.url, Password: obs.Secret(server.Password()), Writers: 16, Readers: 8, RunTwice: RunTwice()}
}

// take returns the database of a folder, or gives it one.
func (p *pool) take(t testing.TB, server *backends.MySQLServer, dir, schema string) (*database, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.held[dir]; d != nil {
		return d, nil
	}
	d := &database{schema: schema}
	if free := p.free[schema]; len(free) > 0 {
		d = free[len(free)-1]
		p.free[schema] = free[:len(free)-1]
	} else if err := outside(func() (err error) {
		d.url, d.drop, err = server.NewDatabase(context.Background())
		return err
	}); err != nil {
		return nil, err
	}
	p.held[dir] = d
	// Cleanups run last first: whoever opens the database after this closes it before.
	t.Cleanup(func() {
		again := false
		if err := outside(func() (err error) {
			again, err = d.empty(server)
			return err
		}); err != nil {
			t.Errorf("the test's database cannot be emptied: %v", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.held, dir)
		if again {
			p.free[schema] = append(p.free[schema], d)
		}
	})
	return d, nil
}

// empty deletes all rows and reports whether the next test may have the database. One whose tables are not what they were when it was
// first emptied is dropped: a test has changed them.
func (d *database) empty(server *backends.MySQLServer) (again bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	name := nameOf(d.url)
	shape, err := server.QueryString(ctx, `SELECT CONCAT(COUNT(*), ' ', COALESCE(SUM(CRC32(CONCAT(table_name, ' ', column_name, ' ', column_type))), 0), ' ',
		(SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = ?)) FROM information_schema.columns WHERE table_schema = ?`, name, name)
	if err != nil {
		return false, err
	}
	if d.shape != "" && d.shape != shape {
		d.drop()
		return false, nil
	}
	if d.shape = shape; d.tables == nil {
		if err := d.list(ctx, server); err != nil {
			return false, err
		}
	}
	for _, table := range d.tables {
		if err := server.Exec(ctx, "DELETE FROM "+name+"."+table); err != nil {
			return false, err
		}
	}
	return true, nil
}

// outside runs fn on a goroutine that belongs to no test, also when a test with virtual time asks for it: what it opens (connections of
// the server's own pool, processes) outlives that test's bubble.
func outside(fn func() error) error {
	work.mu.Lock()
	defer work.mu.Unlock()
	work.fn <- fn
	return <-work.err
}

var work = struct {
	mu  sync.Mutex // one at a time
	fn  chan func() error
	err chan error
}{fn: make(chan func() error), err: make(chan error)}

func init() {
	go func() {
		for fn := range work.fn {
			work.err <- fn()
		}
	}()
}

// fingerprint tells lists of schemas apart by their texts.
func fingerprint(t testing.TB, schemas []db.Schema) string {
	h := sha256.New()
	for _, s := range schemas {
		files, err := fs.Glob(s.FS, "schema/*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := fs.ReadFile(s.FS, f)
			if err != nil {
				t.Fatal(err)
			}
			h.Write(bytes.Join([][]byte{[]byte(s.Owner), []byte(f), text}, []byte{0}))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Hold keeps the database of a folder until this test ends, where parts of the test open and close it.
func Hold(t testing.TB, dir string, schemas ...db.Schema) {
	t.Helper()
	Config(t, dir, withParts(schemas)...)
}

// CopyDatabase gives one folder's database the rows of another's, which nobody may have open: on the distributed tier, what copying the
// folder does on the embedded one, where it does nothing. Both are migrated to the same schemas, with those of the parts.
func CopyDatabase(t testing.TB, o *obs.Obs, from, to string, schemas ...db.Schema) {
	t.Helper()
	if !Distributed() {
		return
	}
	schemas = withParts(schemas)
	source, target := Config(t, from, schemas...), Config(t, to, schemas...)
	for _, cfg := range []db.Config{source, target} {
		d, err := db.Open(t.Context(), cfg, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = d.Migrate(t.Context(), schemas); err == nil {
			err = d.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := outside(func() error {
		server, err := backends.MySQL(context.Background())
		if err != nil {
			return err
		}
		d := database{url: target.URL}
		if err := d.list(context.Background(), server); err != nil {
			return err
		}
		for _, table := range d.tables {
			err := server.Exec(context.Background(), "INSERT INTO "+nameOf(target.URL)+"."+table+" SELECT * FROM "+nameOf(source.URL)+"."+table)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// withParts puts the schemas of the parts before those of a test's rooms.
func withParts(schemas []db.Schema) []db.Schema {
	return append([]db.Schema{event.Schema(), job.Schema(), once.Schema()}, schemas...)
}

// nameOf is the database's name in its URL.
func nameOf(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// list notes the tables that hold what tests write: all but those of the migrations themselves.
func (d *database) list(ctx context.Context, server *backends.MySQLServer) error {
	for last := ""; ; {
		next, err := server.QueryString(ctx, "SELECT COALESCE(MIN(table_name), '') FROM information_schema.tables WHERE table_schema = ? AND table_name > ?",
			nameOf(d.url), last)
		if err != nil || next == "" {
			return err
		}
		if last = next; !strings.HasPrefix(last, "db_") {
			d.tables = append(d.tables, last)
		}
	}
}
