package binlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/cache"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

var background = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// house is a MariaDB of the test's own, behind an address that may lead to another one.
type house struct {
	t      testing.TB
	server *backends.MySQLServer
	proxy  *backends.Proxy
	url    string // through the proxy
	name   string // of the database
	db     *db.DB
	log    *logged
}

// logged keeps what was logged.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHouse(t testing.TB, o backends.MySQLOptions) *house {
	t.Helper()
	s, err := backends.StartMySQL(background, o)
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	h := &house{t: t, server: s, log: &logged{}}
	h.proxy, err = backends.StartProxy(background, s.URL())
	must(t, err)
	t.Cleanup(func() { _ = h.proxy.Close() })
	direct, _, err := s.NewDatabase(background)
	must(t, err)
	h.name = direct[strings.LastIndexByte(direct, '/')+1:]
	h.url, err = h.proxy.URL(direct)
	must(t, err)
	h.db, err = db.Open(background, db.Config{URL: h.url}, quiet(t))
	must(t, err)
	t.Cleanup(func() { _ = h.db.Close() })
	_, err = h.db.Migrate(background, []db.Schema{Schema()})
	must(t, err)
	h.exec("CREATE TABLE item (id BIGINT PRIMARY KEY, ver BIGINT NOT NULL, name VARCHAR(190))")
	return h
}

func quiet(t testing.TB) *obs.Obs {
	t.Helper()
	o := obs.Test(t)
	must(t, o.SetLevel("error"))
	return o
}

// exec runs statements on the server itself, in the test's database.
func (h *house) exec(statements ...string) {
	h.t.Helper()
	for _, s := range statements {
		words := strings.Replace(s, " item", " "+h.name+".item", 1)
		if err := h.server.Exec(background, words); err != nil {
			h.t.Fatalf("%s: %v", words, err)
		}
	}
}

// seen is what a follower applied.
type seen struct {
	mu    sync.Mutex
	list  []Change
	why   []string
	fails int // so many calls fail first
}

func (s *seen) apply(_ context.Context, cs []Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		return errors.New("not now")
	}
	s.list = append(s.list, cs...)
	return nil
}

func (s *seen) lost(_ context.Context, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = append(s.why, why)
	return nil
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list)
}

func (s *seen) reasons() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.why)
}

func (s *seen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, c := range s.list {
		fmt.Fprintf(&b, "%s %v→%v; ", c.Kind, c.Before, c.After)
	}
	return b.String()
}

func (h *house) config(s *seen) Config {
	return Config{Name: "test", URL: h.url, Tables: []Table{{"item", []string{"id", "ver", "name"}}}, Apply: s.apply, Lost: s.lost, StoreEvery: 10 * time.Millisecond}
}

func (h *house) open(cfg Config) (*Follower, *obs.Obs) {
	h.t.Helper()
	o, err := obs.Open(obs.Config{Level: "info", Format: "json"}, h.log)
	must(h.t, err)
	f, err := Open(h.db, cfg, o)
	must(h.t, err)
	return f, o
}

// run follows until the function it returns is called.
func (h *house) run(f *Follower) (stop func()) {
	ctx, cancel := context.WithCancel(background)
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, nil) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					h.t.Error(err)
				}
			case <-time.After(30 * time.Second):
				h.t.Error("the follower does not end")
			}
		})
	}
	h.t.Cleanup(stop)
	return stop
}

func TestOrderAndValues(t *testing.T) {
	for _, metadata := range []string{"FULL", "NO_LOG", "MINIMAL"} {
		t.Run(metadata, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, backends.MySQLOptions{Settings: map[string]string{"binlog-row-metadata": metadata}})
			h.exec("INSERT INTO item VALUES (99, 1, 'before')")
			s := &seen{}
			f, _ := h.open(h.config(s))
			stop := h.run(f)
			eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
			h.exec("INSERT INTO item VALUES (1, 1, 'ä'), (2, 1, NULL)", "UPDATE item SET ver = ver + 1, name = '漢' WHERE id = 1", "UPDATE item SET id = -3 WHERE id = 2", "DELETE FROM item WHERE id = 1")
			must(t, h.db.Tx(background, "test", func(ctx context.Context, tx *db.Tx) error {
				for i := range 3 {
					if _, err := tx.Exec(ctx, "INSERT INTO item VALUES (?, ?, ?)", 10+i, 1, "tx"); err != nil {
						return err
					}
				}
				return nil
			}))
			undone := errors.New("undone")
			if err := h.db.Tx(background, "test", func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, "INSERT INTO item VALUES (1000, 1, 'never')")
				return errors.Join(err, undone)
			}); !errors.Is(err, undone) {
				t.Fatal(err)
			}
			h.exec("DELETE FROM item WHERE id = 99")
			want := "insert []→[1 1 ä]; insert []→[2 1 <nil>]; update [1 1 ä]→[1 2 漢]; update [2 1 <nil>]→[-3 1 <nil>]; delete [1 2 漢]→[]; " +
				"insert []→[10 1 tx]; insert []→[11 1 tx]; insert []→[12 1 tx]; delete [99 1 before]→[]; "
			eventually(t, "all changes", func() bool { return s.count() >= 9 })
			if got := s.text(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			// A big transaction comes in parts, whole and in order, and its position after it.
			h.exec("INSERT INTO item SELECT 100000 + seq, 1, 'big' FROM " + h.name + ".seq_1_to_20000")
			eventually(t, "the big transaction", func() bool { return s.count() >= 20_009 })
			s.mu.Lock()
			for i, c := range s.list[9:] {
				if c.After[0] != int64(100_001+i) {
					t.Fatalf("place %d has %v", i, c.After)
				}
			}
			s.mu.Unlock()
			stop()
			h.exec("INSERT INTO item VALUES (5, 1, 'while away')")
			again := &seen{}
			f2, _ := h.open(h.config(again))
			h.run(f2)
			eventually(t, "it goes on", func() bool { return again.count() >= 1 })
			time.Sleep(100 * time.Millisecond)
			if got := again.text(); got != "insert []→[5 1 while away]; " || len(again.reasons()) != 0 {
				t.Errorf("after a restart in order: %s %v", got, again.reasons())
			}
		})
	}
}

// What Apply refuses is given again, and nothing after it before it.
func TestApplyFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t, backends.MySQLOptions{})
	s := &seen{}
	f, _ := h.open(h.config(s))
	h.run(f)
	eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
	for i := range 200 {
		if i%40 == 0 {
			s.mu.Lock()
			s.fails = 2
			s.mu.Unlock()
		}
		h.exec(fmt.Sprintf("INSERT INTO item VALUES (%d, 1, '')", i))
	}
	eventually(t, "all come", func() bool { return s.last() == 199 })
	checkOrder(t, s, 200)
}

func (s *seen) last() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return -1
	}
	return s.list[len(s.list)-1].After[0].(int64)
}

// checkOrder sees that 0 to n-1 came, each for the first time after the one before, repeats allowed.
func checkOrder(t *testing.T, s *seen, n int64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := inOrder(s.list, n); err != nil {
		t.Error(err)
	}
}

func inOrder(list []Change, n int64) error {
	next := int64(0)
	for _, c := range list {
		switch id := c.After[0].(int64); {
		case id > next:
			return fmt.Errorf("%d came before %d", id, next)
		case id == next:
			next++
		}
	}
	if next != n {
		return fmt.Errorf("%d of %d came", next, n)
	}
	return nil
}

// The server dies and comes back, and gives way to a replica: nothing is skipped, and nothing has to be dropped.
func TestServerRestartAndFailover(t *testing.T) {
	t.Parallel()
	h := newHouse(t, backends.MySQLOptions{Replicas: 1})
	s := &seen{}
	f, _ := h.open(h.config(s))
	h.run(f)
	eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
	n := int64(0)
	insert := func(count int) {
		for range count {
			h.exec(fmt.Sprintf("INSERT INTO item VALUES (%d, 1, '')", n))
			n++
		}
	}
	insert(20)
	must(t, h.server.Kill())
	must(t, h.server.Restart(background))
	insert(20)
	eventually(t, "it goes on after a restart", func() bool { return s.last() == n-1 })
	replica := h.server.Replicas[0]
	eventually(t, "the replica has everything", func() bool { return replica.CatchUp(background) == nil })
	must(t, h.server.Kill())
	next, err := h.server.Promote(background, 0)
	must(t, err)
	must(t, h.proxy.SetUpstream(next.Addr()))
	old := h.server
	t.Cleanup(func() { _ = next.Close(); _ = old.Close() })
	h.server = next
	h.proxy.ResetPeer()
	insert(20)
	eventually(t, "it goes on at the new primary", func() bool { return s.last() == n-1 })
	checkOrder(t, s, n)
	if len(s.reasons()) != 1 {
		t.Errorf("dropped for %q", s.reasons())
	}
}

// What the server has thrown away is said, everything is dropped, and following goes on from now.
func TestPurged(t *testing.T) {
	t.Parallel()
	h := newHouse(t, backends.MySQLOptions{})
	s := &seen{}
	f, _ := h.open(h.config(s))
	stop := h.run(f)
	eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
	h.exec("INSERT INTO item VALUES (0, 1, '')")
	eventually(t, "it comes", func() bool { return s.count() == 1 })
	stop()
	h.exec("INSERT INTO item VALUES (1, 1, 'never seen')")
	must(t, h.server.Exec(background, "FLUSH BINARY LOGS"))
	h.exec("INSERT INTO item VALUES (2, 1, 'never seen')")
	must(t, h.server.Exec(background, "FLUSH BINARY LOGS"))
	eventually(t, "nobody reads the log: what is read is not thrown away", func() bool {
		n, err := h.server.QueryString(background, "SELECT COUNT(*) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")
		must(t, err)
		return n == "0"
	})
	eventually(t, "the server throws its log away: not before its engine has noted all of it", func() bool {
		must(t, h.server.Exec(background, "FLUSH BINARY LOGS"))
		must(t, h.server.Exec(background, "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 HOUR"))
		there, err := h.server.QueryString(background, "SELECT BINLOG_GTID_POS('binlog.000002', 4)")
		must(t, err)
		return there == ""
	})
	f, _ = h.open(h.config(s))
	h.run(f)
	eventually(t, "everything is dropped", func() bool { return len(s.reasons()) == 2 })
	eventually(t, "it follows", func() bool { return strings.Count(h.log.String(), "the binary log is followed") == 3 })
	h.exec("INSERT INTO item VALUES (3, 1, '')")
	eventually(t, "it goes on", func() bool { return s.last() == 3 })
	if got := s.text(); strings.Contains(got, "never") {
		t.Error(got)
	}
	for _, say := range []string{"binlog_expire_logs_seconds", "does not have what follows the position"} {
		if !strings.Contains(h.log.String(), say) {
			t.Errorf("the log does not say %q: %s", say, h.log)
		}
	}
}

func TestSchemaChanges(t *testing.T) {
	for _, metadata := range []string{"FULL", "NO_LOG"} {
		t.Run(metadata, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, backends.MySQLOptions{Settings: map[string]string{"binlog-row-metadata": metadata}})
			s := &seen{}
			cfg := h.config(s)
			f, _ := h.open(cfg)
			stop := h.run(f)
			eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
			h.exec("INSERT INTO item VALUES (1, 1, 'a')", "ALTER TABLE item ADD COLUMN first_one VARCHAR(9) FIRST, ADD COLUMN last_one INT", "INSERT INTO item VALUES ('x', 2, 1, 'b', 7)")
			eventually(t, "both", func() bool { return s.count() >= 2 || len(s.reasons()) > 1 })
			if got := s.text(); got != "insert []→[1 1 a]; insert []→[2 1 b]; " && metadata == "FULL" {
				t.Errorf("%s %v", got, s.reasons())
			}
			h.exec("TRUNCATE TABLE item")
			eventually(t, "what was emptied is dropped", func() bool { return strings.Contains(strings.Join(s.reasons(), "; "), "emptied") })
			h.exec("INSERT INTO item VALUES ('x', 3, 1, 'c', 7)")
			eventually(t, "it goes on", func() bool { return strings.Contains(s.text(), "[3 1 c]") })
			// The table changes while nobody follows: with names in the log all is exact, without them everything is dropped.
			// (Once or twice: the row before may come again when the end of its transaction had not been read yet.)
			stop()
			before := len(s.reasons())
			h.exec("INSERT INTO item VALUES ('x', 4, 1, 'd', 7)", "ALTER TABLE item DROP COLUMN first_one", "INSERT INTO item VALUES (5, 1, 'e', 7)")
			f, _ = h.open(cfg)
			h.run(f)
			eventually(t, "it goes on", func() bool { return strings.Contains(s.text(), "[5 1 e]") })
			exact := strings.Contains(s.text(), "[4 1 d]") && len(s.reasons()) == before
			dropped := !strings.Contains(s.text(), "[4 1 d]") && len(s.reasons()) > before
			if metadata == "FULL" && !exact || metadata != "FULL" && !dropped {
				t.Errorf("%s %v", s.text(), s.reasons())
			}
		})
	}
}

// Rows over the limit, statements logged as such and parts of rows are not passed over in silence.
func TestWhatTheLogDoesNotSay(t *testing.T) {
	t.Parallel()
	h := newHouse(t, backends.MySQLOptions{})
	h.exec("ALTER TABLE item ADD COLUMN body MEDIUMTEXT")
	s := &seen{}
	cfg := h.config(s)
	cfg.RowMost = 4 << 10
	f, _ := h.open(cfg)
	h.run(f)
	n := 1
	expect := func(why string) {
		t.Helper()
		n++
		eventually(t, why, func() bool { return len(s.reasons()) == n })
		if got := s.reasons()[n-1]; !strings.Contains(got, why) {
			t.Errorf("%q, want %q", got, why)
		}
	}
	eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
	h.exec("INSERT INTO item VALUES (1, 1, '', REPEAT('x', 5000))")
	expect("larger than the limit")
	h.exec("INSERT INTO item VALUES (2, 1, '', 'small')")
	eventually(t, "it goes on", func() bool { return s.last() == 2 })
	conn := func(setting, statement string) {
		must(t, h.server.Exec(background, "SET STATEMENT "+setting+" FOR "+strings.Replace(statement, " item", " "+h.name+".item", 1)))
	}
	conn("binlog_row_image = 'MINIMAL'", "UPDATE item SET ver = 2 WHERE id = 2")
	expect("in parts")
	h.exec("INSERT INTO item VALUES (3, 1, '', '')")
	eventually(t, "it goes on", func() bool { return s.last() == 3 })
}

// What is wrong with a server is said, and what to do.
func TestUnfitServers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, backends.MySQLOptions{})
	check := func(change func(*Config)) error {
		cfg := h.config(&seen{})
		if change != nil {
			change(&cfg)
		}
		f, _ := h.open(cfg)
		return f.Check(background)
	}
	must(t, check(nil))
	must(t, h.server.Exec(background, "CREATE USER reader@'127.0.0.1' IDENTIFIED BY 'word'"))
	must(t, h.server.Exec(background, "GRANT SELECT ON "+h.name+".* TO reader@'127.0.0.1'"))
	reader := func(c *Config) {
		c.URL, c.Password = strings.Replace(h.url, "root@", "reader@", 1), "word"
	}
	err := check(reader)
	if levee.CodeOf(err) != levee.CodeForbidden || !errors.Is(err, ErrPrivilege) || !strings.Contains(err.Error(), "GRANT REPLICATION SLAVE ON *.* TO reader") {
		t.Error(err)
	}
	// Run says the same, from what the server answers.
	cfg := h.config(&seen{})
	reader(&cfg)
	f, _ := h.open(cfg)
	err = (&session{Follower: f}).run(background)
	if levee.CodeOf(err) != levee.CodeForbidden || !errors.Is(err, ErrPrivilege) {
		t.Error(err)
	}
	must(t, h.server.Exec(background, "GRANT REPLICATION SLAVE ON *.* TO reader@'127.0.0.1'"))
	must(t, check(reader))
	if err := check(func(c *Config) { reader(c); c.Password = "wrong" }); levee.CodeOf(err) != levee.CodeForbidden || strings.Contains(err.Error(), "word'") {
		t.Error(err)
	}
	must(t, h.server.Exec(background, "SET GLOBAL binlog_row_image = 'MINIMAL'"))
	if err := check(nil); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "binlog_row_image = FULL") {
		t.Error(err)
	}
	must(t, h.server.Exec(background, "SET GLOBAL binlog_row_image = 'FULL'"))
	must(t, h.server.Exec(background, "SET GLOBAL binlog_format = 'MIXED'"))
	if err := check(nil); !errors.Is(err, ErrOff) || levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), "binlog_format = ROW") {
		t.Error(err)
	}
	h.proxy.Down()
	if err := check(nil); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Error(err)
	}
	bare, err := backends.StartMySQL(background, backends.MySQLOptions{Settings: map[string]string{"skip-log-bin": "1"}})
	must(t, err)
	defer func() { _ = bare.Close() }()
	url, drop, err := bare.NewDatabase(background)
	must(t, err)
	defer drop()
	if err := check(func(c *Config) { c.URL = url }); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "set log_bin") {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"url": func(c *Config) { c.URL = "http://x" }, "password": func(c *Config) { c.URL = strings.Replace(h.url, "root@", "root:secret@", 1) },
		"tls": func(c *Config) { c.URL += "?tls=on" }, "tables": func(c *Config) { c.Tables = nil }, "name": func(c *Config) { c.Name = "" },
		"apply": func(c *Config) { c.Apply = nil }, "rows": func(c *Config) { c.RowMost = 1 }, "store": func(c *Config) { c.StoreEvery = time.Hour },
	} {
		cfg := h.config(&seen{})
		change(&cfg)
		if _, err := Open(h.db, cfg, quiet(t)); levee.CodeOf(err) != levee.CodeInvalid || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A process that lost its term stores nothing and ends.
func TestAnotherFollows(t *testing.T) {
	t.Parallel()
	h := newHouse(t, backends.MySQLOptions{})
	s := &seen{}
	f, _ := h.open(h.config(s))
	var over atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- f.Run(background, func(context.Context, *db.Tx) error {
			if over.Load() {
				return levee.E(levee.CodeConflict, "another node keeps it")
			}
			return nil
		})
	}()
	eventually(t, "it begins", func() bool { return len(s.reasons()) == 1 })
	before := ""
	eventually(t, "its position is stored", func() bool {
		_, p, err := f.load(background)
		must(t, err)
		before = p
		return p != ""
	})
	over.Store(true)
	h.exec("INSERT INTO item VALUES (0, 1, '')")
	if err := <-done; levee.CodeOf(err) != levee.CodeConflict {
		t.Error(err)
	}
	if _, after, err := f.load(background); err != nil || after != before {
		t.Errorf("the position moved from %s to %s: %v", before, after, err)
	}
}

func TestInvalidation(t *testing.T) {
	var told []cache.Change[int64]
	apply := Invalidation[int64]{"item", "id", "ver", Int64Key}.Apply(func(_ context.Context, cs ...cache.Change[int64]) error {
		told = append(told, cs...)
		return nil
	})
	row := func(id, ver int64) []any { return []any{id, ver} }
	must(t, apply(background, []Change{
		{Table: "item", Kind: Insert, After: row(1, 1)}, {Table: "item", Kind: Update, Before: row(1, 1), After: row(1, 2)}, {Table: "other", Kind: Insert, After: row(7, 1)},
		{Table: "item", Kind: Delete, Before: row(2, 5)}, {Table: "item", Kind: Update, Before: row(3, 8), After: row(4, 9)},
	}))
	if got := fmt.Sprint(told); got != "[{1 2} {2 6} {3 9} {4 9}]" {
		t.Error(got)
	}
	if err := apply(background, []Change{{Table: "item", Kind: Insert, After: []any{"x", int64(1)}}}); err == nil {
		t.Error("a key of another type was taken")
	}
}
