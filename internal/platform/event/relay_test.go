package event

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/db"
)

// A failing event holds back its own key for its own listener, and nothing else.
func TestFailureBlocksItsKeyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var broken atomic.Bool
		broken.Store(true)
		b := h.bus(writer("sound"), Listen("flaky", func(ctx context.Context, tx *db.Tx, e noted) error {
			if err := write(ctx, tx, "flaky", e); err != nil {
				return err
			}
			if e.Key == 1 && e.N == 1 && broken.Load() {
				return errors.New("not yet")
			}
			return nil
		}))
		stop := h.run(b)
		defer stop()
		h.emit(b, noted{Key: 1, N: 1}, noted{Key: 2, N: 1}, noted{Key: 1, N: 2}, noted{Key: 2, N: 2})
		h.drain(b)
		for n := 3; n < 300; n++ {
			h.emit(b, noted{Key: 1, N: n})
		}
		h.emit(b, noted{Key: 3, N: 1})
		h.drain(b)
		if got := h.effects("flaky"); sorted(got) != sorted("2:1 2:2 3:1") {
			t.Errorf("flaky: %s", got)
		}
		if n := h.count(`SELECT COUNT(*) FROM effect WHERE listener = 'sound' AND event_key = 1`); n != 299 {
			t.Errorf("the sound listener has %d effects of the blocked key, want 299", n)
		}
		broken.Store(false)
		time.Sleep(10 * time.Second) // of the bubble's clock: the next attempt
		h.drain(b)
		want := make([]string, 0, 299)
		for n := 1; n < 300; n++ {
			want = append(want, fmt.Sprintf("1:%d", n))
		}
		got := slices.DeleteFunc(strings.Fields(h.effects("flaky")), func(s string) bool { return !strings.HasPrefix(s, "1:") })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

func sorted(s string) string {
	f := strings.Fields(s)
	slices.Sort(f)
	return strings.Join(f, " ")
}

// Whatever fails, and however often: each listener has each event once, and those of a key in order.
func TestOrderAndOnceUnderFailures(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { orderAndOnce(t, seed) })
		})
	}
}

func orderAndOnce(t *testing.T, seed uint64) {
	h := open(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex // guards calls
	calls := map[string]int{}
	flaky := func(name string, percent uint32) Listener {
		return Listen(name, func(ctx context.Context, tx *db.Tx, e noted) error {
			if err := write(ctx, tx, name, e); err != nil {
				return err
			}
			id := fmt.Sprint(seed, name, e.Key, e.N)
			mu.Lock()
			calls[id]++
			n := calls[id]
			mu.Unlock()
			sum := fnv.New32a()
			fmt.Fprint(sum, id, n)
			switch s := sum.Sum32() % 100; {
			case n > 8 || s >= percent: // so that none is parked
				return nil
			case s%2 == 0:
				panic("a bad day")
			}
			return errors.New("a bad moment")
		})
	}
	b := h.bus(flaky("never", 0), flaky("some", 15), flaky("often", 60))
	stop := h.run(b)
	keys := int64(1 + rnd.IntN(20))
	last := map[int64]int{}
	for range 60 {
		var es []Event
		for range 1 + rnd.IntN(20) {
			key := rnd.Int64N(keys)
			last[key]++
			es = append(es, noted{Key: key, N: last[key]})
		}
		h.emit(b, es...)
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond) // of the bubble's clock
		if rnd.IntN(10) == 0 {
			stop() // another life, with what the tables remember
			b = h.bus(flaky("never", 0), flaky("some", 15), flaky("often", 60))
			stop = h.run(b)
		}
	}
	for range 1000 {
		if h.count(`SELECT COUNT(*) FROM event_outbox`) == 0 {
			break
		}
		time.Sleep(time.Minute)
	}
	stop()
	for _, l := range []string{"never", "some", "often"} {
		seen := map[string]int{}
		for _, f := range strings.Fields(h.effects(l)) {
			key, n, _ := strings.Cut(f, ":")
			seen[key]++
			if n != fmt.Sprint(seen[key]) {
				t.Fatalf("%s of key %s: %s came as number %d", l, key, n, seen[key])
			}
		}
		for key, n := range last {
			if got := seen[fmt.Sprint(key)]; got != n {
				t.Errorf("%s of key %d: %d effects, want %d", l, key, got, n)
			}
		}
	}
	h.empty()
}

func TestParking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var broken atomic.Bool
		var calls atomic.Int32
		broken.Store(true)
		b := h.bus(writer("sound"), Listen("bad", func(ctx context.Context, tx *db.Tx, e noted) error {
			if e.N == 1 && broken.Load() {
				calls.Add(1)
				return errors.New("never")
			}
			return write(ctx, tx, "bad", e)
		}))
		stop := h.run(b)
		defer stop()
		began := time.Now()
		h.emit(b, noted{Key: 1, N: 1, Text: "kept"}, noted{Key: 1, N: 2})
		for h.count(`SELECT COUNT(*) FROM event_parked`) == 0 {
			if time.Since(began) > time.Hour {
				t.Fatal("not parked within an hour")
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took < 4*time.Minute {
			t.Errorf("parked after %v: too little time for a person or a restart to help", took)
		}
		h.drain(b)
		want := int64(maxAttempts)
		if os.Getenv("LEVEE_TEST_RUN_TWICE") == "1" {
			want *= 2
		}
		if n := int64(calls.Load()); n != want {
			t.Errorf("%d attempts, want %d", n, want)
		}
		if diff := cmp.Diff("1:2", h.effects("bad")); diff != "" {
			t.Errorf("the key did not go on: %s", diff)
		}
		if n := h.count(`SELECT COUNT(*) FROM event_outbox`) + h.count(`SELECT COUNT(*) FROM event_inbox`); n != 0 {
			t.Errorf("%d rows are left in outbox and inbox", n)
		}
		ps, err := b.Parked(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(ps) != 1 || ps[0].Listener != "bad" || ps[0].Attempts != maxAttempts || ps[0].Error != "never" ||
			ps[0].Payload != `{"Key":1,"N":1,"Text":"kept"}` {
			t.Fatalf("parked: %+v", ps)
		}
		if _, err := b.RetryParked(t.Context(), ps[0].EventID, "bad"); err == nil || !strings.Contains(err.Error(), "never") {
			t.Errorf("a retry that fails: %v", err)
		}
		if _, err := b.RetryParked(t.Context(), ps[0].EventID, "sound"); levee.CodeOf(err) != levee.CodeNotFound {
			t.Errorf("a retry of another listener: %v", err)
		}
		broken.Store(false)
		if _, err := b.RetryParked(t.Context(), ps[0].EventID, "bad"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("1:2 1:1", h.effects("bad")); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

// What cannot be decoded is parked at once: waiting does not help, and the rest of its batch must not suffer.
func TestUnreadable(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"), writer("b"))
	err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		if err := b.Emit(ctx, tx, noted{Key: 1, N: 1}); err != nil {
			return err
		}
		n, err := h.ids.Next()
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertEvent, n, noted{}.EventName(), 1, `{"Key": "one"}`, 0); err != nil {
			return err
		}
		return b.Emit(ctx, tx, noted{Key: 1, N: 3})
	})
	if err != nil {
		t.Fatal(err)
	}
	h.drain(b)
	for _, l := range []string{"a", "b"} {
		if diff := cmp.Diff("1:1 1:3", h.effects(l)); diff != "" {
			t.Errorf("%s: %s", l, diff)
		}
	}
	ps, err := b.Parked(t.Context(), 10)
	if err != nil || len(ps) != 2 {
		t.Fatalf("parked: %v, %v", ps, err)
	}
	if n, err := b.Prune(t.Context(), ps[0].ParkedAt); err != nil || n != 0 {
		t.Errorf("Prune of older ones: %d, %v", n, err)
	}
	if n, err := b.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 2 {
		t.Errorf("Prune: %d, %v", n, err)
	}
	h.empty()
}

// A backend that is away is not the event's fault: it is tried beyond the last attempt.
func TestUnavailableIsNotParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var away atomic.Bool
		away.Store(true)
		b := h.bus(Listen("a", func(ctx context.Context, tx *db.Tx, e noted) error {
			if away.Load() {
				return levee.E(levee.CodeUnavailable, "away")
			}
			return write(ctx, tx, "a", e)
		}))
		stop := h.run(b)
		defer stop()
		h.emit(b, noted{Key: 1, N: 1})
		time.Sleep(40 * time.Minute) // of the bubble's clock
		synctest.Wait()
		away.Store(false)
		time.Sleep(backoffMost*11/10 + time.Second) // the spread goes a tenth beyond
		h.drain(b)
		if diff := cmp.Diff("1:1", h.effects("a")); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

// An event of another process may commit after one with a higher id has long been delivered.
func TestLateLowerID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		b := h.bus(writer("a"))
		stop := h.run(b)
		defer stop()
		low, err := h.ids.Next()
		if err != nil {
			t.Fatal(err)
		}
		h.emit(b, noted{Key: 1, N: 2})
		h.drain(b)
		err = h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insertEvent, low, noted{}.EventName(), 1, `{"Key": 1, "N": 1}`, 0)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * poll) // of the bubble's clock
		synctest.Wait()
		if diff := cmp.Diff("1:2 1:1", h.effects("a")); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

// The same while the key is held back for one listener: the other one gets it, the blocked one gets it first.
func TestLateLowerIDOnABlockedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var broken atomic.Bool
		broken.Store(true)
		b := h.bus(writer("sound"), Listen("flaky", func(ctx context.Context, tx *db.Tx, e noted) error {
			if broken.Load() {
				return errors.New("not yet")
			}
			return write(ctx, tx, "flaky", e)
		}))
		stop := h.run(b)
		defer stop()
		low, err := h.ids.Next()
		if err != nil {
			t.Fatal(err)
		}
		h.emit(b, noted{Key: 1, N: 2})
		time.Sleep(20 * time.Second) // of the bubble's clock: the pauses are long by now
		err = h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insertEvent, low, noted{}.EventName(), 1, `{"Key": 1, "N": 1}`, 0)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * poll)
		synctest.Wait()
		if diff := cmp.Diff("1:2 1:1", h.effects("sound")); diff != "" {
			t.Error(diff)
		}
		broken.Store(false)
		time.Sleep(backoffMost)
		h.drain(b)
		if diff := cmp.Diff("1:1 1:2", h.effects("flaky")); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

// An emission wakes the relay, and not before its commit: no time passes until the delivery.
func TestWakesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		b := h.bus(writer("a"))
		stop := h.run(b)
		defer stop()
		for n := range 50 {
			time.Sleep(300 * time.Millisecond) // of the bubble's clock: off the beat of the poll
			err := h.db.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
				if n%2 == 0 {
					return b.EmitMany(ctx, tx, noted{Key: 1, N: n})
				}
				return b.Emit(ctx, tx, noted{Key: 1, N: n})
			})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := h.count(`SELECT COUNT(*) FROM effect`); got != n+1 {
				t.Fatalf("%d delivered at once, want %d", got, n+1)
			}
		}
	})
}

// On an engine with one writer the newest bus relays, between nodes the one that was there; what it leaves behind, the other one takes
// up.
func TestTwoRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		by := func(name string) Listener {
			return Listen("a", func(ctx context.Context, tx *db.Tx, e noted) error {
				if err := write(ctx, tx, "a", e); err != nil {
					return err
				}
				return write(ctx, tx, name, e)
			})
		}
		older, newer := h.bus(by("older")), h.bus(by("newer"))
		stopOlder := h.run(older)
		defer stopOlder()
		synctest.Wait() // it relays, or the Run of a Drain might be the first, and this one the newest of all
		h.emit(older, noted{Key: 1, N: 1})
		h.drain(older)
		stopNewer := h.run(newer)
		synctest.Wait()
		h.emit(older, noted{Key: 1, N: 2})
		h.drain(older) // asks the tables, as it stands by
		h.emit(newer, noted{Key: 1, N: 3})
		h.drain(newer)
		stopNewer()
		h.emit(older, noted{Key: 1, N: 4})
		h.drain(older)
		if diff := cmp.Diff("1:1 1:2 1:3 1:4", h.effects("a")); diff != "" {
			t.Error(diff)
		}
		want := "1:2 1:3"
		if older.crowd {
			want = ""
		}
		if diff := cmp.Diff(want, h.effects("newer")); diff != "" {
			t.Error(diff)
		}
		h.empty()
	})
}

// A relay that was paused and overtaken must not deliver: its fence is checked in the delivering transaction.
func TestFence(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"))
	h.emit(b, noted{Key: 1, N: 1})
	old, err := b.acquire(t.Context(), 0, true, &watch{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := h.bus().acquire(t.Context(), 0, false, &watch{}); err != nil || got != 0 {
		t.Fatalf("a lease that has not run out was taken without stealing: %d, %v", got, err)
	}
	if _, err := h.bus().acquire(t.Context(), 0, true, &watch{}); err != nil {
		t.Fatal(err)
	}
	if err := b.relay(t.Context(), old); !errors.Is(err, errLost) {
		t.Errorf("the overtaken relay: %v, want %v", err, errLost)
	}
	if got := h.effects("a"); got != "" {
		t.Errorf("the overtaken relay has delivered %s", got)
	}
	h.drain(b)
	if diff := cmp.Diff("1:1", h.effects("a")); diff != "" {
		t.Error(diff)
	}
}

// A relay that holds the lease but fell silent is left after it ran out.
func TestLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		b := h.bus(writer("a"))
		stop := h.run(b)
		defer stop()
		synctest.Wait()
		if _, err := h.bus().acquire(t.Context(), 0, true, &watch{}); err != nil { // a process that is killed right after
			t.Fatal(err)
		}
		began := time.Now()
		h.emit(b, noted{Key: 1, N: 1})
		h.drain(b)
		if took := time.Since(began); took < lease-2*poll || took > lease+2*poll {
			t.Errorf("delivered after %v, want about %v", took, lease)
		}
		if diff := cmp.Diff("1:1", h.effects("a")); diff != "" {
			t.Error(diff)
		}
	})
}

// A bus with nothing to do writes nothing.
func TestIdleWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		b := h.bus(writer("a"))
		stop := h.run(b)
		defer stop()
		h.emit(b, noted{Key: 1, N: 1})
		h.drain(b)
		time.Sleep(lease) // one beat may follow the work
		before := h.db.Stats()
		time.Sleep(time.Hour) // of the bubble's clock
		if after := h.db.Stats(); after.Commits != before.Commits {
			t.Errorf("%d commits in an idle hour", after.Commits-before.Commits)
		}
	})
}

func TestDrainGivesUp(t *testing.T) {
	h := open(t)
	b := h.bus(writer("a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.emit(b, noted{Key: 1, N: 1})
	if err := b.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Many broken keys must not keep the sound ones waiting, nor fill the memory with payloads.
func TestManyBrokenKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		b := h.bus(Listen("a", func(ctx context.Context, tx *db.Tx, e noted) error {
			if e.Key < 500 {
				return errors.New("broken")
			}
			return write(ctx, tx, "a", e)
		}))
		stop := h.run(b)
		defer stop()
		for n := range 12 {
			var es []Event
			for key := range int64(500) {
				es = append(es, noted{Key: key, N: n, Text: strings.Repeat("x", 500)})
			}
			h.emit(b, append(es, noted{Key: 500, N: n})...)
		}
		h.drain(b)
		if n := h.count(`SELECT COUNT(*) FROM effect`); n != 12 {
			t.Errorf("%d sound events delivered, want 12", n)
		}
	})
}
