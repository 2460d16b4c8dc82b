package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
)

// noted2 and noted3 are later versions of noted.
type noted2 struct {
	Key   int64
	Count int
}

func (noted2) EventName() string { return "test.noted.v2" }
func (e noted2) EventKey() int64 { return e.Key }

type noted3 struct {
	Key   int64
	Count string
}

func (noted3) EventName() string { return "test.noted.v3" }
func (e noted3) EventKey() int64 { return e.Key }

func oneTwo() Option {
	return Upcast(func(e noted) (noted2, error) {
		switch {
		case e.Text == "error":
			return noted2{}, errors.New("no way up")
		case e.Text == "panic":
			panic("no way up")
		case e.Text == "key":
			return noted2{e.Key + 1, e.N}, nil
		}
		return noted2{e.Key, e.N}, nil
	})
}

func twoThree() Option {
	return Upcast(func(e noted2) (noted3, error) { return noted3{e.Key, fmt.Sprint(e.Count)}, nil })
}

// writer2 is writer for noted2, and with Upcast for noted.
func writer2(name string, opts ...Option) Listener {
	return Listen(name, func(ctx context.Context, tx *db.Tx, e noted2) error {
		return write(ctx, tx, name, noted{Key: e.Key, N: e.Count})
	}, opts...)
}

// A listener of the latest version hears the older ones too, in the order of their key over versions.
func TestUpcast(t *testing.T) {
	h := open(t)
	b := h.keeping(keptAll, writer("one"), writer2("two", oneTwo()),
		Listen("three", func(ctx context.Context, tx *db.Tx, e noted3) error {
			var n int
			fmt.Sscan(e.Count, &n)
			return write(ctx, tx, "three", noted{Key: e.Key, N: n})
		}, oneTwo(), twoThree()))
	want := []Known{{"test.noted.v1", []string{"one", "three", "two"}}, {"test.noted.v2", []string{"three", "two"}}, {"test.noted.v3", []string{"three"}}}
	if diff := cmp.Diff(want, b.Events()); diff != "" {
		t.Error(diff)
	}
	var es []Event
	for n := range 60 {
		for key := range int64(5) {
			switch n % 3 {
			case 0:
				es = append(es, noted{Key: key, N: n})
			case 1:
				es = append(es, noted2{key, n})
			default:
				es = append(es, noted3{key, fmt.Sprint(n)})
			}
		}
	}
	h.emit(b, es...)
	h.drain(b)
	h.each("three", 5, 60)
	if n := len(strings.Fields(h.effects("two"))); n != 200 {
		t.Errorf("two has %d, want 200", n)
	}
	h.exec(`DELETE FROM effect`)
	if _, err := b.Replay(t.Context(), "three", Start()); err != nil { // history of all versions, merged
		t.Fatal(err)
	}
	h.drain(b)
	h.each("three", 5, 60)
	h.empty()
}

// A program that no longer hears an old version is not held up by that.
func TestDroppedVersion(t *testing.T) {
	h := open(t)
	b := h.bus(writer2("two", oneTwo()))
	h.emit(b, noted{Key: 1, N: 0}, noted2{1, 1})
	h.drain(b)
	b = h.bus(writer2("two"))
	h.emit(b, noted2{1, 2})
	h.drain(b)
	if got := h.effects("two"); got != "1:0 1:1 1:2" {
		t.Errorf("two has %s", got)
	}
	if l := h.stats(b, "two"); l.Behind || l.Waiting != 0 || len(l.Elsewhere) != 1 || len(l.Events) != 1 {
		t.Errorf("%+v", l)
	}
	h.empty()
}

// A function that fails parks the event at once, for its listener alone; later the mended one takes it from there.
func TestUpcastFails(t *testing.T) {
	for _, fault := range []string{"error", "panic", "key"} {
		t.Run(fault, func(t *testing.T) {
			h := open(t)
			b := h.bus(writer("one"), writer2("two", oneTwo()))
			h.emit(b, noted{Key: 1, N: 0}, noted{Key: 1, N: 1, Text: fault}, noted{Key: 1, N: 2})
			h.drain(b)
			if got := h.effects("two"); got != "1:0 1:2" {
				t.Errorf("two has %s", got)
			}
			ps, err := b.ParkedOf(t.Context(), "two", 0, 10)
			if err != nil || len(ps) != 1 || !strings.Contains(ps[0].Payload, fault) {
				t.Fatalf("%+v, %v", ps, err)
			}
			if _, err := b.RetryParked(t.Context(), ps[0].EventID, "two"); err == nil {
				t.Error("a retry that cannot work")
			}
			mended := h.bus(writer("one"), writer2("two", Upcast(func(e noted) (noted2, error) { return noted2{e.Key, e.N}, nil })))
			if _, err := mended.RetryParked(t.Context(), ps[0].EventID, "two"); err != nil {
				t.Fatal(err)
			}
			if got := h.effects("two"); got != "1:0 1:2 1:1" {
				t.Errorf("two has %s", got)
			}
			h.empty()
		})
	}
}

func TestUpcastRegister(t *testing.T) {
	for name, l := range map[string]Listener{
		"no function":  writer2("a", Upcast[noted, noted2](nil)),
		"pointer":      writer2("a", Upcast(func(*noted) (noted2, error) { return noted2{}, nil })),
		"twice":        writer2("a", oneTwo(), oneTwo()),
		"no end":       writer2("a", twoThree()),
		"from its own": writer2("a", oneTwo(), Upcast(func(noted2) (noted, error) { return noted{}, nil })),
		"to itself":    writer2("a", Upcast(func(noted2) (noted2, error) { return noted2{}, nil })),
	} {
		if err := open(t).bus().Register(l); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An upgrade: the program that relays is the older one and knows neither the new version nor its listener. It leaves both to the newer one;
// without the list of listeners in the tables (the control: it is emptied) it throws them away, as nobody listens there.
func TestOlderProgramRelays(t *testing.T) {
	for _, control := range []bool{false, true} {
		t.Run(fmt.Sprintf("control %v", control), func(t *testing.T) {
			h := open(t)
			older := h.bus(writer("old"), writer("both"))
			newer := h.bus(writer("both"), writer2("new", oneTwo()))
			h.emit(older, noted{Key: 1, N: 0})
			h.drain(older)
			// The newer program emits for the first time, and runs no relay yet.
			h.emit(newer, noted2{1, 1})
			if control {
				h.exec(`DELETE FROM event_listener WHERE listener = 'new'`)
			}
			h.drain(older)
			h.emit(older, noted{Key: 1, N: 2})
			h.emit(newer, noted2{1, 3})
			if control {
				h.exec(`DELETE FROM event_listener WHERE listener = 'new'`)
			}
			h.drain(older)
			if n := h.count(`SELECT COUNT(*) FROM event_outbox`); n != 0 {
				t.Errorf("%d events fill the older program's outbox", n)
			}
			if got := h.effects("both"); got != "1:0 1:2" {
				t.Errorf("both has %s", got)
			}
			h.drain(newer)
			want := "1:1 1:2 1:3"
			if control {
				want = ""
			}
			if diff := cmp.Diff(want, h.effects("new")); diff != "" {
				t.Error(diff)
			}
			h.emit(newer, noted2{1, 4})
			h.drain(newer)
			if diff := cmp.Diff(strings.TrimSpace(want+" 1:4"), h.effects("new")); diff != "" {
				t.Error(diff)
			}
			if l := h.stats(newer, "old"); !control && (l.Here || !l.Behind) {
				t.Errorf("the old listener: %+v", l)
			}
		})
	}
}

// A listener had the event and failed when an older program took over: the event stays in the outbox for it, and is before the later ones.
func TestOlderProgramFindsAFailure(t *testing.T) {
	h := open(t)
	broken := true
	newer := func() *Bus {
		return h.keeping(keptAll, writer("both"), Listen("new", func(ctx context.Context, tx *db.Tx, e noted) error {
			if broken && e.N == 0 {
				return errors.New("not yet")
			}
			return write(ctx, tx, "new", e)
		}))
	}
	b := newer()
	h.emit(b, noted{Key: 1, N: 0}, noted{Key: 1, N: 1})
	h.drain(b)
	older := h.keeping(keptAll, writer("both"))
	h.emit(older, noted{Key: 1, N: 2})
	h.drain(older)
	if got := h.effects("both"); got != "1:0 1:1 1:2" {
		t.Errorf("both has %s", got)
	}
	broken = false
	b = newer()
	stop := h.run(b)
	defer stop()
	h.until("new has all", func() bool { return len(strings.Fields(h.effects("new"))) == 3 })
	if got := h.effects("new"); got != "1:0 1:1 1:2" {
		t.Errorf("new has %s", got)
	}
	h.until("it hears live", func() bool { return !h.stats(b, "new").Behind })
	h.drain(b)
	h.empty()
}

// Between nodes the newer program takes over after a lease, also while the older one works.
func TestNewerProgramTakesOver(t *testing.T) {
	f := fleetOf(t, 2, true, func(i int) []Listener {
		if i == 0 {
			return []Listener{writer("a")}
		}
		return []Listener{writer("a"), writer2("new")}
	}, nil)
	older, newer := f.nodes[0], f.nodes[1]
	f.start(older)
	f.emit(older.bus, noted{Key: 1, N: 0})
	f.quietly(5 * time.Second)
	f.start(newer)
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				f.emit(older.bus, noted{Key: 1, N: n})
			}
		}
	}()
	f.emit(newer.bus, noted2{2, 7})
	f.until("the new listener has its event", func() bool { return f.effects("new") == "2:7" })
	close(stop)
	<-done
	f.quietly(10 * time.Second)
	if _, lost, twice, disorder := f.faults("a"); lost+twice+disorder != 0 {
		t.Errorf("%d lost, %d twice, %d out of order", lost, twice, disorder)
	}
	f.emit(newer.bus, noted2{2, 8})
	f.until("and the next one", func() bool { return f.effects("new") == "2:7 2:8" })
}

// A listener that no program has any more is seen, forgotten, and new when it comes back. One that stays away for longer than events are kept
// is given up.
func TestVanishedListener(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"), writer("dead"))
	h.emit(b, noted{Key: 1, N: 0})
	h.drain(b)
	if err := b.Forget(t.Context(), "dead"); levee.CodeOf(err) != levee.CodeConflict {
		t.Errorf("it is here: %v", err)
	}
	b = h.bus(writer("a"))
	h.emit(b, noted{Key: 1, N: 1})
	h.drain(b)
	if l := h.stats(b, "dead"); l.Here || !l.Behind || l.Gone {
		t.Errorf("%+v", l)
	}
	if err := b.Forget(t.Context(), "dead"); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(t.Context(), "dead"); levee.CodeOf(err) != levee.CodeNotFound {
		t.Errorf("twice: %v", err)
	}
	before := h.count(`SELECT COUNT(*) FROM event_log`)
	h.emit(b, noted{Key: 1, N: 2})
	h.drain(b)
	if n := h.count(`SELECT COUNT(*) FROM event_log`); n != before {
		t.Errorf("%d are kept for nobody", n-before)
	}
	back := h.bus(writer("a"), writer("dead"))
	h.emit(back, noted{Key: 1, N: 3})
	h.drain(back)
	if got := h.effects("dead"); got != "1:0 1:3" {
		t.Errorf("it has %s", got)
	}

	late := Open(h.db, h.ids, h.o, Config{Keep: time.Hour})
	late.clock = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if err := late.Register(writer("a")); err != nil {
		t.Fatal(err)
	}
	h.emit(b, noted{Key: 1, N: 4}, noted{Key: 1, N: 5})
	h.drain(b) // now it is behind
	stop := h.run(late)
	defer stop()
	h.emit(late, noted{Key: 1, N: 6}) // a bus with nothing to do does nothing
	h.until("it is given up", func() bool { return h.stats(late, "dead").Gone })
	h.drain(late)
	last := h.count(`SELECT MAX(seq) FROM event_log`)
	h.emit(late, noted{Key: 1, N: 7})
	h.drain(late)
	if n := h.count(`SELECT MAX(seq) FROM event_log`); n != last {
		t.Errorf("%d are kept for one that is gone", n-last)
	}
}
