package follow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/gate"
)

// ledger is SQL's side in small: movements by number, and who won.
type ledger struct {
	mu      sync.Mutex
	moves   []gate.Movement
	remains int64
	away    error
	untold  map[int64]bool // movements that cannot be told from the books
	states  int
}

func (l *ledger) write(m gate.Movement) gate.Movement {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Seq = int64(len(l.moves)) + 1
	l.moves = append(l.moves, m)
	l.remains += m.Free
	for _, w := range m.Won {
		l.remains -= int64(w.Quantity)
	}
	return m
}

func (l *ledger) books() Books {
	return Books{
		Seq: func(context.Context) (int64, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return int64(len(l.moves)), l.away
		},
		Movements: func(_ context.Context, seqs []int64) (list []gate.Movement, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, m := range l.moves {
				if slices.Contains(seqs, m.Seq) {
					if l.untold[m.Seq] {
						return nil, levee.E(levee.CodeConflict, "untold")
					}
					list = append(list, m)
				}
			}
			return list, l.away
		},
		Won: func(_ context.Context, ids []levee.ReservationID) (won []gate.Win, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, m := range l.moves {
				for _, w := range m.Won {
					if slices.Contains(ids, w.ID) {
						w.Seq = m.Seq
						won = append(won, w)
					}
				}
			}
			return won, l.away
		},
		State: func(context.Context) (gate.State, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.states++
			return gate.State{Seq: int64(len(l.moves)), Remaining: l.remains, PerBuyer: 5}, l.away
		},
	}
}

type bench struct {
	*Follower
	ledger *ledger
	now    time.Time
	over   bool
	freed  int
}

func open(t *testing.T) *bench {
	b := &bench{ledger: &ledger{untold: map[int64]bool{}}, now: time.Unix(1_000_000, 0)}
	b.Follower = New(gate.NewMemory(100), b.ledger.books(), Options{Clock: func() time.Time { return b.now }, Lease: time.Hour,
		Over: func() bool { return b.over }, Freed: func() { b.freed++ }})
	return b
}

func (b *bench) look(t *testing.T) gate.Numbers {
	t.Helper()
	if err := b.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := b.gate.Numbers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAColdGateIsLoadedUnlessTheSaleIsOver(t *testing.T) {
	b := open(t)
	b.ledger.write(gate.Movement{Free: 10})
	b.over = true
	if n := b.look(t); n.Warm {
		t.Error("a gate was loaded for a sale that is over")
	}
	b.over = false
	if n := b.look(t); !n.Warm || n.Remaining != 10 || n.Applied != 1 || b.Numbers().Remaining != 10 {
		t.Errorf("%+v, seen as %+v", n, b.Numbers())
	}
}

// What was told in time is not taken from SQL; what nobody told is, after the grace and not before.
func TestWhatNobodyToldIsTakenFromTheLedger(t *testing.T) {
	b := open(t)
	b.look(t)
	told, lost, late := b.ledger.write(gate.Movement{Free: 10}), b.ledger.write(gate.Movement{Free: 5}), b.ledger.write(gate.Movement{Free: -3})
	b.Tell(told, late)
	b.Flush(t.Context())
	if n := b.look(t); n.Remaining != 7 || n.Applied != 1 || b.Level() {
		t.Fatalf("%+v, level %v", n, b.Level())
	}
	b.now = b.now.Add(b.o.Grace - 1)
	if n := b.look(t); n.Applied != 1 {
		t.Fatalf("healed within the grace: %+v", n)
	}
	b.now = b.now.Add(2)
	freed := b.freed
	if n := b.look(t); n.Applied != 3 || n.Remaining != 12 || b.Counts().Healed != 1 || b.freed == freed {
		t.Fatalf("%+v, %+v; movement %d is missing", n, b.Counts(), lost.Seq)
	}
	b.look(t)
	if !b.Level() {
		t.Error("the gate has everything and is not level")
	}
	b.now = b.now.Add(time.Second)
	if b.Level() {
		t.Error("a look of a second ago says nothing of now")
	}
}

func TestAMovementThatCannotBeToldIsLoaded(t *testing.T) {
	b := open(t)
	b.look(t)
	b.ledger.untold[b.ledger.write(gate.Movement{Free: 4}).Seq] = true
	b.look(t)
	b.now = b.now.Add(2 * time.Second)
	if n := b.look(t); n.Applied != 1 || n.Remaining != 4 || b.ledger.states != 2 {
		t.Errorf("%+v, %d loads", n, b.ledger.states)
	}
}

// A gate that knows more than the ledger belongs to another one: a database that was restored from a backup.
func TestAGateOfAnotherLedgerIsLoaded(t *testing.T) {
	b := open(t)
	b.ledger.write(gate.Movement{Free: 4})
	b.look(t)
	if err := b.gate.Apply(t.Context(), gate.Movement{Seq: 2, Free: 100}); err != nil {
		t.Fatal(err)
	}
	if n := b.look(t); n.Applied != 1 || n.Remaining != 4 {
		t.Errorf("%+v", n)
	}
}

func TestOverdueTakingsEnd(t *testing.T) {
	b := open(t)
	b.o.Lease = time.Nanosecond
	b.ledger.write(gate.Movement{Free: 10})
	b.look(t)
	for id := range levee.ReservationID(2) {
		if _, v, _ := b.gate.Take(t.Context(), gate.Attempt{ID: id + 1, Buyer: levee.UserID(id + 1), Quantity: 2, Key: 1, At: time.Now().Add(-time.Minute)}); v != gate.Taken {
			t.Fatal(v)
		}
	}
	won := b.ledger.write(gate.Movement{Won: []gate.Win{{ID: 1, Buyer: 1, Quantity: 2}}})
	if n := b.look(t); n.Unsettled != 2 || n.Remaining != 8 || b.Counts().Lost != 1 {
		t.Fatalf("the lost one must be given back and the won one wait for its movement: %+v", n)
	}
	b.Tell(won)
	b.Flush(t.Context())
	if n := b.look(t); n.Unsettled != 0 || n.Remaining != 8 {
		t.Fatalf("%+v", n)
	}
}

func TestTellingIsBoundedAndNeverWaits(t *testing.T) {
	b := open(t) // cold: nothing can be told
	m := make([]gate.Movement, queueMax)
	for i := range m {
		m[i] = gate.Movement{Seq: int64(i) + 1, Free: 1}
	}
	b.Tell(m...)
	b.Tell(gate.Movement{Seq: queueMax + 1, Free: 1})
	if c := b.Counts(); c.Dropped != 1 {
		t.Errorf("%+v", c)
	}
	b.Flush(t.Context())
	if c := b.Counts(); c.Dropped != queueMax+1 || c.Told != 0 {
		t.Errorf("%+v", c)
	}
}

func TestRunTellsWhatWaitsBeforeItEnds(t *testing.T) {
	b := open(t)
	b.look(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { b.Run(ctx); close(done) }()
	for range 20 {
		b.Tell(b.ledger.write(gate.Movement{Free: 1}))
	}
	stop()
	<-done
	if n, err := b.gate.Numbers(context.Background()); err != nil || n.Applied != 20 {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestBooksThatAreAwayChangeNothing(t *testing.T) {
	b := open(t)
	b.ledger.write(gate.Movement{Free: 3})
	b.look(t)
	b.ledger.away = errors.New("away")
	if err := b.Look(t.Context()); err == nil {
		t.Error("a look without books is no look")
	}
	if n, _ := b.gate.Numbers(t.Context()); n.Remaining != 3 || b.Level() {
		t.Errorf("%+v, level %v", n, b.Level())
	}
}
