package event

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

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

var keptAll = Config{Kept: []string{"test.*"}}

func (h *house) keeping(cfg Config, ls ...Listener) *Bus {
	h.t.Helper()
	b := Open(h.db, h.ids, h.o, cfg)
	if err := b.Register(ls...); err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *house) stats(b *Bus, listener string) ListenerStats {
	h.t.Helper()
	s, err := b.Stats(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range s.Listeners {
		if l.Name == listener {
			return l
		}
	}
	return ListenerStats{}
}

// until waits for what a test expects.
func (h *house) until(what string, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// each fails the test unless a listener has each of n events of each key once, in their order.
func (h *house) each(listener string, keys, n int) {
	h.t.Helper()
	seen := map[string]int{}
	for _, f := range strings.Fields(h.effects(listener)) {
		key, number, _ := strings.Cut(f, ":")
		if number != fmt.Sprint(seen[key]) {
			h.t.Fatalf("%s of key %s: %s came as number %d", listener, key, number, seen[key])
		}
		seen[key]++
	}
	for key := range keys {
		if got := seen[fmt.Sprint(key)]; got != n {
			h.t.Errorf("%s of key %d: %d events, want %d", listener, key, got, n)
		}
	}
}

func rounds(keys, from, to int) (es []Event) {
	for n := from; n < to; n++ {
		for key := range keys {
			es = append(es, noted{Key: int64(key), N: n})
		}
	}
	return es
}

// A new listener begins live; one that says so begins with all that is kept, and both go on live.
func TestNewListener(t *testing.T) {
	h := open(t)
	first := h.keeping(keptAll, writer("a"))
	h.emit(first, rounds(7, 0, 50)...)
	h.drain(first)
	b := h.keeping(keptAll, writer("a"), writer("late"),
		Listen("all", func(ctx context.Context, tx *db.Tx, e noted) error { return write(ctx, tx, "all", e) }, FromKept()))
	h.drain(b)
	if got := h.effects("late"); got != "" {
		t.Errorf("late has heard %s", got)
	}
	h.each("all", 7, 50)
	h.emit(b, rounds(7, 50, 60)...)
	h.drain(b)
	h.each("a", 7, 60)
	h.each("all", 7, 60)
	if n := len(strings.Fields(h.effects("late"))); n != 70 {
		t.Errorf("late has heard %d, want 70", n)
	}
	// It is no longer new: the start of the program does not send it back.
	again := h.keeping(keptAll, Listen("all", func(ctx context.Context, tx *db.Tx, e noted) error { return write(ctx, tx, "all", e) }, FromKept()))
	h.drain(again)
	h.each("all", 7, 60)
	h.empty()
	if n := h.count(`SELECT COUNT(*) FROM event_log`); n != 420 {
		t.Errorf("%d rows in the log, want 420", n)
	}
}

// Replay while much is emitted: all of the history, then what comes, each once and per key in order. Another listener notices nothing.
func TestReplayUnderLoad(t *testing.T) {
	const keys, history, more = 13, 200, 150 // the history is longer than what a join does at once
	h := open(t)
	var on atomic.Bool
	b := h.keeping(keptAll, writer("a"), Listen("again", func(ctx context.Context, tx *db.Tx, e noted) error {
		if !on.Load() {
			return nil
		}
		return write(ctx, tx, "again", e)
	}))
	for n := 0; n < history; n += 20 {
		h.emit(b, rounds(keys, n, n+20)...)
	}
	h.drain(b)
	for n := range 5000 / (keys * 5) { // of others, so that the rest is far
		_ = n
		h.emit(b, slices.Repeat([]Event{other{Key: 1000}}, keys*5)...)
	}
	stop := h.run(b)
	defer stop()
	h.drain(b)
	on.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := history; n < history+more; n++ {
			h.emit(b, rounds(keys, n, n+1)...)
		}
	})
	state, err := b.Replay(t.Context(), "again", Start())
	if err != nil {
		t.Fatal(err)
	}
	if state.From != 1 || state.Head < keys*history {
		t.Errorf("state %+v", state)
	}
	wg.Wait()
	h.until("the listener hears live", func() bool { return !h.stats(b, "again").Behind })
	h.drain(b)
	h.each("a", keys, history+more)
	// What was on its way to it live when the replay began came from the log, too.
	h.each("again", keys, history+more)
	h.empty()
	if n := h.count(`SELECT COUNT(*) FROM event_replay`); n != 0 {
		t.Errorf("%d copies are left", n)
	}
}

// A poisoned event in a replay is retried and parked as any, and holds back its own key only.
func TestReplayParks(t *testing.T) {
	h := open(t)
	var bad atomic.Bool
	b := h.keeping(keptAll, writer("a"), Listen("again", func(ctx context.Context, tx *db.Tx, e noted) error {
		if bad.Load() && e.Key == 3 && e.N == 1 {
			return errors.New("not this one")
		}
		return write(ctx, tx, "again", e)
	}))
	h.emit(b, rounds(5, 0, 4)...)
	h.drain(b)
	h.exec(`DELETE FROM effect WHERE listener = 'again'`)
	bad.Store(true)
	stop := h.run(b)
	if _, err := b.Replay(t.Context(), "again", Start()); err != nil {
		t.Fatal(err)
	}
	h.until("the sound keys are through", func() bool { return len(strings.Fields(h.effects("again"))) == 17 })
	h.emit(b, rounds(5, 4, 6)...) // the listener is behind: these wait for the first ones of their keys
	h.until("the sound keys go on", func() bool { return len(strings.Fields(h.effects("again"))) == 25 })
	h.drain(b) // nothing is due
	if l := h.stats(b, "again"); !l.Behind || l.Waiting == 0 {
		t.Errorf("%+v", l)
	}
	stop()
	h.exec(`UPDATE event_inbox SET attempts = 11, retry_at = 0 WHERE done = 0`) // the last attempt is next
	b = h.keeping(keptAll, writer("a"), Listen("again", func(ctx context.Context, tx *db.Tx, e noted) error {
		if e.Key == 3 && e.N == 1 {
			return errors.New("not this one")
		}
		return write(ctx, tx, "again", e)
	}))
	stop = h.run(b)
	defer stop()
	h.until("it is parked, and the rest is through", func() bool { return h.stats(b, "again").Parked == 1 && !h.stats(b, "again").Behind })
	h.drain(b)
	if got := len(strings.Fields(h.effects("again"))); got != 29 {
		t.Errorf("%d effects, want 29", got)
	}
	var of3 []string
	for _, f := range strings.Fields(h.effects("again")) {
		if n, ok := strings.CutPrefix(f, "3:"); ok {
			of3 = append(of3, n)
		}
	}
	if diff := cmp.Diff([]string{"0", "2", "3", "4", "5"}, of3); diff != "" {
		t.Error(diff)
	}
}

func (h *house) exec(query string, args ...any) {
	h.t.Helper()
	err := h.db.Tx(context.Background(), "test.exec", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// Replay of a listener that has a failing event under way: it is delivered once, as its log is.
func TestReplayTakesOverWhatWaits(t *testing.T) {
	for _, slow := range []time.Duration{0, 300 * time.Millisecond} { // until a term has read what lies in the outbox
		takesOver(t, slow)
	}
}

func takesOver(t *testing.T, slow time.Duration) {
	t.Helper()
	h := open(t)
	var bad atomic.Bool
	bad.Store(true)
	fails := func(name string) Listener {
		return Listen(name, func(ctx context.Context, tx *db.Tx, e noted) error {
			if bad.Load() && e.Key == 1 {
				return errors.New("not yet")
			}
			return write(ctx, tx, name, e)
		})
	}
	b := h.keeping(keptAll, fails("x"), fails("y"))
	b.seam.slow = func() { time.Sleep(slow) }
	stop := h.run(b)
	defer stop()
	h.emit(b, rounds(2, 0, 3)...)
	h.drain(b) // the key 1 waits for both
	if _, err := b.Replay(t.Context(), "x", Number(5)); err != nil {
		t.Fatal(err)
	}
	h.drain(b)
	bad.Store(false)
	h.until("all is through", func() bool { return h.count(`SELECT COUNT(*) FROM event_outbox`) == 0 && !h.stats(b, "x").Behind })
	h.drain(b)
	var x1, y1 []string
	for _, f := range strings.Fields(h.effects("x")) {
		if strings.HasPrefix(f, "1:") {
			x1 = append(x1, f)
		}
	}
	for _, f := range strings.Fields(h.effects("y")) {
		if strings.HasPrefix(f, "1:") {
			y1 = append(y1, f)
		}
	}
	want := []string{"1:0", "1:1", "1:2"}
	if diff := cmp.Diff(want, x1); diff != "" {
		t.Errorf("x, outbox read after %v: %s", slow, diff)
	}
	if diff := cmp.Diff(want, y1); diff != "" {
		t.Errorf("y, outbox read after %v: %s", slow, diff)
	}
	h.empty()
}

// Replays begin where they are told to.
func TestReplayFrom(t *testing.T) {
	h := open(t)
	b := h.keeping(keptAll, writer("a"))
	var at atomic.Int64 // the relay's clock
	b.clock = func() time.Time { return time.UnixMicro(at.Load()) }
	began := time.Now().Add(-time.Hour)
	for n := range 40 {
		at.Store(began.Add(time.Duration(n) * time.Minute).UnixMicro())
		h.emit(b, noted{Key: 1, N: n})
		h.drain(b)
	}
	at.Store(time.Now().UnixMicro())
	for _, test := range []struct {
		from  Point
		first int
	}{
		{Start(), 0}, {Since(began.Add(-time.Hour)), 0}, {Since(began.Add(10 * time.Minute)), 10}, {Since(began.Add(10*time.Minute + time.Second)), 11},
		{Number(15), 14}, {Number(-3), 0}, {Since(began.Add(90 * time.Minute)), 40}, {Number(1000), 40},
	} {
		h.exec(`DELETE FROM effect`)
		if _, err := b.Replay(t.Context(), "a", test.from); err != nil {
			t.Fatal(err)
		}
		h.drain(b)
		var want []string
		for n := test.first; n < 40; n++ {
			want = append(want, fmt.Sprintf("1:%d", n))
		}
		if diff := cmp.Diff(strings.Join(want, " "), h.effects("a")); diff != "" {
			t.Errorf("%+v: %s", test.from, diff)
		}
	}
	if _, err := b.Replay(t.Context(), "nobody", Start()); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("no such listener: %v", err)
	}
	unkept := h.keeping(Config{Kept: []string{"test.other.v1"}}, writer("a"))
	if _, err := unkept.Replay(t.Context(), "a", Start()); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("not kept: %v", err)
	}
}

// What is committed late, with an id below of what the replay has copied, is not passed over: the log's numbers are those of the relay. The
// control reads the log by ids instead, as readers of an outbox do, and loses the event.
func TestReplayLateCommit(t *testing.T) {
	for _, byID := range []bool{false, true} {
		t.Run(fmt.Sprintf("by id %v", byID), func(t *testing.T) {
			h := open(t)
			b := h.keeping(keptAll, writer("a"), Listen("b", func(ctx context.Context, tx *db.Tx, e noted) error { return write(ctx, tx, "b", e) }, FromKept()))
			b.seam.stay, b.seam.byID = true, byID
			stop := h.run(b)
			defer stop()
			low, err := h.ids.Next()
			if err != nil {
				t.Fatal(err)
			}
			h.emit(b, noted{Key: 1, N: 1})
			h.until("b has the first", func() bool { return h.effects("b") == "1:1" })
			err = h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, insertEvent, low, noted{}.EventName(), 2, `{"Key": 2, "N": 2}`, 0)
				tx.AfterCommit(b.wakeFn)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			h.until("a has both", func() bool { return h.effects("a") == "1:1 2:2" })
			h.emit(b, noted{Key: 1, N: 3})
			h.until("b has the third", func() bool { return strings.HasSuffix(h.effects("b"), "1:3") })
			if got := h.effects("b"); (got == "1:1 2:2 1:3") == byID {
				t.Errorf("b has %s", got)
			}
		})
	}
}

// Many transactions that commit in the reverse order of their ids, while a listener reads behind them.
func TestReplayReverseCommits(t *testing.T) {
	h := open(t)
	b := h.keeping(keptAll, writer("a"), Listen("b", func(ctx context.Context, tx *db.Tx, e noted) error { return write(ctx, tx, "b", e) }, FromKept()))
	if !b.crowd {
		t.Skip("one writer")
	}
	b.seam.stay = true
	if err := b.Announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := h.run(b)
	defer stop()
	const rounds, at = 6, 8
	for r := range rounds {
		var wg sync.WaitGroup
		gates := make([]chan struct{}, at+1)
		for i := range gates {
			gates[i] = make(chan struct{})
		}
		close(gates[at])
		for i := range at { // transaction i emits after i-1 and commits after i+1
			emitted := make(chan struct{})
			var once sync.Once
			wg.Go(func() {
				err := h.db.Tx(context.Background(), "test.reverse", func(ctx context.Context, tx *db.Tx) error {
					defer once.Do(func() { close(emitted) })
					if err := b.Emit(ctx, tx, noted{Key: int64(i), N: r}); err != nil {
						return err
					}
					once.Do(func() { close(emitted) })
					<-gates[i+1]
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				close(gates[i])
			})
			<-emitted
		}
		wg.Wait()
	}
	h.until("b has all", func() bool { return len(strings.Fields(h.effects("b"))) == rounds*at })
	h.each("b", at, rounds)
}

// A lane's transaction that has its numbers and commits after one with higher numbers: the log is read up to what is under way. The control
// reads to the end and loses what comes late.
func TestReplayUnderway(t *testing.T) {
	for _, rash := range []bool{false, true} {
		t.Run(fmt.Sprintf("rash %v", rash), func(t *testing.T) {
			h := open(t)
			b := h.keeping(keptAll, writer("a"), Listen("b", func(ctx context.Context, tx *db.Tx, e noted) error { return write(ctx, tx, "b", e) }, FromKept()))
			b.seam.stay, b.seam.rash = true, rash
			var armed atomic.Bool
			free := make(chan struct{})
			b.seam.hold = func() { // the first attempt after it is armed sleeps with its numbers
				if armed.CompareAndSwap(true, false) {
					<-free
				}
			}
			stop := h.run(b)
			defer stop()
			armed.Store(true)
			h.emit(b, noted{Key: 1, N: 0})
			h.until("it sleeps", func() bool { return !armed.Load() })
			h.emit(b, noted{Key: 2, N: 0}, noted{Key: 3, N: 0}, noted{Key: 4, N: 0}, noted{Key: 5, N: 0})
			h.until("others are through", func() bool { return h.count(`SELECT COUNT(*) FROM event_log`) >= 2 })
			time.Sleep(200 * time.Millisecond)
			close(free)
			h.until("a has all", func() bool { return len(strings.Fields(h.effects("a"))) == 5 })
			if !rash {
				h.until("b has all", func() bool { return len(strings.Fields(h.effects("b"))) == 5 })
				return
			}
			time.Sleep(500 * time.Millisecond)
			if got := len(strings.Fields(h.effects("b"))); got == 5 {
				t.Error("b has all: this test proves nothing")
			}
		})
	}
}

// The log is shortened in steps, but not past a listener that has yet to get it, and never emptied.
func TestRetention(t *testing.T) {
	h := open(t)
	b := h.keeping(Config{Kept: []string{"*"}, Keep: time.Hour}, writer("a"))
	var off atomic.Int64
	b.clock = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	for n := range 5 {
		h.emit(b, rounds(500, n, n+1)...)
	}
	h.drain(b)
	step := func(pumps ...*pump) int {
		t.Helper()
		fence, err := b.acquire(t.Context(), 0, true, &watch{})
		if err != nil {
			t.Fatal(err)
		}
		tm := &term{b: b, fence: fence, pumps: pumps}
		if err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error { return tm.lockedTx(ctx, tx, &tm.registry) }); err != nil {
			t.Fatal(err)
		}
		n, err := tm.retainStep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := step(); n != 0 {
		t.Errorf("%d went too early", n)
	}
	off.Store(int64(2 * time.Hour))
	p, want := &pump{}, h.count(`SELECT COUNT(*) FROM event_log WHERE seq <= 700`) // the numbers have gaps
	p.at.Store(700)
	if n := step(p); n != want {
		t.Errorf("%d went, want the %d that the listener has", n, want)
	}
	if n := step(); n != logStep {
		t.Errorf("%d went, want a step of %d", n, logStep)
	}
	for step() > 0 {
	}
	if n := h.count(`SELECT COUNT(*) FROM event_log`); n != 1 {
		t.Errorf("%d rows are left, want the last one", n)
	}
	last := h.count(`SELECT MAX(seq) FROM event_log`)
	h.emit(b, noted{Key: 1, N: 5})
	h.drain(b)
	if n := h.count(`SELECT MAX(seq) FROM event_log`); last < 2500 || n <= last {
		t.Errorf("the number %d after %d", n, last)
	}
}

func TestConfig(t *testing.T) {
	h := open(t)
	for _, cfg := range []Config{{Kept: []string{""}}, {Kept: []string{"a*b"}}, {Kept: []string{"*", "x**"}}, {Keep: time.Second}, {Keep: -1}} {
		b := Open(h.db, h.ids, h.o, cfg)
		if err := b.Register(writer("a")); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", cfg, err)
		}
		if err := b.Run(t.Context()); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	b := Open(h.db, h.ids, h.o, Config{Kept: []string{"order.*", "sale.changed.v1"}})
	for name, want := range map[string]bool{"order.paid.v1": true, "order": false, "sale.changed.v1": true, "sale.changed.v12": false} {
		if b.keeps(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// What is not kept leaves no trace, and a kept event one row.
func TestKeepsOnlyWhatIsAsked(t *testing.T) {
	h := openDir(t, t.TempDir(), obs.Test(t))
	b := h.keeping(Config{Kept: []string{"test.other.v1"}}, writer("a"))
	h.emit(b, noted{Key: 1, N: 1}, other{Key: 1}, noted{Key: 1, N: 2})
	h.drain(b)
	if n := h.count(`SELECT COUNT(*) FROM event_log WHERE name = 'test.other.v1'`); n != 1 {
		t.Errorf("%d, want 1", n)
	}
	if n := h.count(`SELECT COUNT(*) FROM event_log`); n != 1 {
		t.Errorf("%d, want 1", n)
	}
	h.empty()
}
