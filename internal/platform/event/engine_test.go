package event

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// distributed says that the suite runs on MySQL.
var distributed = os.Getenv("LEVEE_TEST_TIER") == "distributed"

// outside does work outside of the bubble of a test with a clock of its own, in which the connections of the shared server may not
// be used. Its channels are made outside, too.
var outside = struct {
	mu       sync.Mutex  // one at a time
	do, done chan func() // done carries nil
}{do: make(chan func()), done: make(chan func())}

func init() {
	go func() {
		for f := range outside.do {
			f()
			outside.done <- nil
		}
	}()
}

func doOutside(f func()) {
	outside.mu.Lock()
	defer outside.mu.Unlock()
	outside.do <- f
	<-outside.done
}

var databases = map[string]db.Config{} // by folder: a test that opens its folder again finds the database of before; of outside alone

// configOf names the database of the tier under test that belongs to the folder.
func configOf(t testing.TB, dir string) db.Config {
	t.Helper()
	if !distributed {
		return db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}
	}
	var cfg db.Config
	var err error
	var drop func()
	doOutside(func() {
		var s *backends.MySQLServer
		if s, err = backends.MySQL(context.Background()); err != nil {
			return
		}
		var ok bool
		if cfg, ok = databases[dir]; ok {
			return
		}
		cfg = db.Config{Password: obs.Secret(s.Password()), Writers: 16, Readers: 8}
		if cfg.URL, drop, err = s.NewDatabase(context.Background()); err == nil {
			databases[dir] = cfg
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if drop != nil {
		t.Cleanup(func() { doOutside(drop) })
	}
	return cfg
}

// openDB opens the database of the tier under test that belongs to the folder. The caller closes it.
func openDB(t testing.TB, dir string, o *obs.Obs) *db.DB {
	t.Helper()
	cfg := configOf(t, dir)
	cfg.RunTwice = os.Getenv("LEVEE_TEST_RUN_TWICE") == "1"
	d, err := db.Open(t.Context(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
