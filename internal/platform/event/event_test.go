package event

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// noted is the event of these tests.
type noted struct {
	Key  int64
	N    int
	Text string `json:",omitempty"`
}

func (noted) EventName() string { return "test.noted.v1" }
func (e noted) EventKey() int64 { return e.Key }

// other is an event that nobody listens to unless a test says so.
type other struct{ Key int64 }

func (other) EventName() string { return "test.other.v1" }
func (e other) EventKey() int64 { return e.Key }

const effectSchema = `CREATE TABLE effect (listener VARCHAR(190) NOT NULL, event_key BIGINT NOT NULL, n BIGINT NOT NULL, at BIGINT NOT NULL);`

type house struct {
	t   testing.TB
	o   *obs.Obs
	db  *db.DB
	ids *id.Generator
	dir string
}

func open(t testing.TB) *house {
	t.Helper()
	return openDir(t, t.TempDir(), obs.Test(t))
}

func openDir(t testing.TB, dir string, o *obs.Obs) *house {
	t.Helper()
	h := &house{t: t, o: o, dir: dir}
	var err error
	h.db = openDB(t, dir, o)
	if h.ids, err = id.Open(t.Context(), id.Config{Dir: filepath.Join(dir, "id")}, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(h.ids.Close(), h.db.Close()); err != nil {
			t.Error(err)
		}
	})
	if _, err := h.db.Migrate(t.Context(), []db.Schema{Schema(), {Owner: "test", FS: testFS}}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) bus(ls ...Listener) *Bus {
	h.t.Helper()
	b := Open(h.db, h.ids, h.o)
	if err := b.Register(ls...); err != nil {
		h.t.Fatal(err)
	}
	return b
}

// run starts b and returns what stops it and waits for it.
func (h *house) run(b *Bus) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			h.t.Errorf("Run: %v", err)
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (h *house) emit(b *Bus, es ...Event) {
	h.t.Helper()
	err := h.db.Tx(context.Background(), "test.emit", func(ctx context.Context, tx *db.Tx) error {
		return b.EmitMany(ctx, tx, es...)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) drain(b *Bus) {
	h.t.Helper()
	if err := b.Drain(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) count(query string, args ...any) (n int) {
	h.t.Helper()
	if err := h.db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// empty fails the test unless nothing is left of any event.
func (h *house) empty() {
	h.t.Helper()
	for _, table := range []string{"event_outbox", "event_inbox", "event_parked"} {
		if n := h.count("SELECT COUNT(*) FROM " + table); n != 0 {
			h.t.Errorf("%s has %d rows, want none", table, n)
		}
	}
}

// effects returns the effects of a listener in the order they were written, "key:n key:n".
func (h *house) effects(listener string) string {
	h.t.Helper()
	rows, err := h.db.Query(context.Background(), `SELECT event_key, n FROM effect WHERE listener = ? ORDER BY at`, listener)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var key, n int64
		if err := rows.Scan(&key, &n); err != nil {
			h.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%d:%d", key, n))
	}
	return strings.Join(all, " ")
}

func write(ctx context.Context, tx *db.Tx, listener string, e noted) error {
	_, err := tx.Exec(ctx, `INSERT INTO effect (listener, event_key, n, at) VALUES (?, ?, ?, ?)`, listener, e.Key, e.N, written.Add(1))
	return err
}

// written counts what listeners write, over the processes of a test: each begins at its time.
var written atomic.Int64

func init() { written.Store(time.Now().UnixNano()) }

// writer is a listener that notes each event as an effect.
func writer(name string) Listener {
	return Listen(name, func(ctx context.Context, tx *db.Tx, e noted) error { return write(ctx, tx, name, e) })
}

func TestRollbackSendsNothing(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"))
	fail := errors.New("no")
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		if err := b.Emit(ctx, tx, noted{Key: 1, N: 1}); err != nil {
			return err
		}
		return fail
	})
	if err != fail {
		t.Fatal(err)
	}
	h.drain(b)
	h.emit(b, noted{Key: 1, N: 2})
	h.drain(b)
	if diff := cmp.Diff("1:2", h.effects("a")); diff != "" {
		t.Error(diff)
	}
	h.empty()
}

func TestEveryListenerOnce(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"), writer("b"), writer("c"))
	for i := range 50 {
		h.emit(b, noted{Key: int64(i % 7), N: i}, other{Key: 1}, noted{Key: 1000, N: i})
	}
	h.drain(b)
	for _, l := range []string{"a", "b", "c"} {
		if n := h.count(`SELECT COUNT(DISTINCT event_key * 1000 + n) FROM effect WHERE listener = ?`, l); n != 100 {
			t.Errorf("%s has %d different effects, want 100", l, n)
		}
	}
	if n := h.count(`SELECT COUNT(*) FROM effect`); n != 300 {
		t.Errorf("%d effects, want 300", n)
	}
	h.empty()
}

// An emission from inside a listener is in the listener's transaction: a listener that fails afterwards has said nothing.
func TestListenerEmits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var b *Bus
		fails := 1
		b = h.bus(
			Listen("chain", func(ctx context.Context, tx *db.Tx, e other) error {
				if err := b.Emit(ctx, tx, noted{Key: e.Key, N: 7}); err != nil {
					return err
				}
				if fails > 0 {
					fails--
					return errors.New("after emitting")
				}
				return nil
			}), writer("a"))
		stop := h.run(b)
		defer stop()
		h.emit(b, other{Key: 3})
		time.Sleep(5 * time.Second) // of the bubble's clock
		synctest.Wait()
		if diff := cmp.Diff("3:7", h.effects("a")); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

func TestRegister(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"))
	for _, test := range []struct {
		name string
		l    Listener
	}{
		{"taken", writer("a")},
		{"no name", writer("")},
		{"long name", writer(strings.Repeat("x", 191))},
		{"pointer", Listen("p", func(context.Context, *db.Tx, *noted) error { return nil })},
		{"interface", Listen("i", func(context.Context, *db.Tx, Event) error { return nil })},
		{"no function", Listen[noted]("f", nil)},
		{"zero", Listener{}},
	} {
		if err := b.Register(writer("fresh"), test.l); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", test.name, err)
		}
	}
	if err := b.Register(writer("b"), Listen("o", func(context.Context, *db.Tx, other) error { return nil })); err != nil {
		t.Fatal(err)
	}
	want := []Known{{"test.noted.v1", []string{"a", "b"}}, {"test.other.v1", []string{"o"}}}
	if diff := cmp.Diff(want, b.Events()); diff != "" {
		t.Error(diff)
	}
	h.drain(b)
	if err := b.Register(writer("late")); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("after the start: got %v, want invalid", err)
	}
}

func TestEmitLimits(t *testing.T) {
	h := open(t)
	b := h.bus()
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		return b.Emit(ctx, tx, noted{Text: strings.Repeat("x", maxPayload)})
	})
	if levee.CodeOf(err) != levee.CodeTooLarge {
		t.Errorf("got %v, want too_large", err)
	}
}
