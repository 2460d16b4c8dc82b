// Package follow keeps a gate that several nodes share true to the ledger of its sale.
//
// It owns the way from a committed movement to the gate: telling it once, soon and without waiting; finding what was not told, because
// a node died or a message was lost; ending takings whose node does not settle them; and loading a gate that came back empty. Each node
// runs a follower for each sale; they need not know of each other, because whatever they do is idempotent. It owns no SQL: the ledger is
// read through Books. It decides nothing: SQL has the last word, and the gate only says no.
package follow

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/gate"
)

// Books is how the sale's ledger is read. All of it must see every commit that came before the call: no replica that lags.
type Books struct {
	// Seq returns the number of the ledger's last movement.
	Seq func(ctx context.Context) (int64, error)
	// Movements returns the movements with these numbers, in any order. CodeConflict where one cannot be told from the books any more.
	Movements func(ctx context.Context, seqs []int64) ([]gate.Movement, error)
	// Won returns those of the takings that have their reservation in SQL, with the number of its movement.
	Won func(ctx context.Context, ids []levee.ReservationID) ([]gate.Win, error)
	// State returns the books in one snapshot.
	State func(ctx context.Context) (gate.State, error)
}

// Options of a follower. Sale names it in logs. Zero values are the defaults.
type Options struct {
	Sale  string
	Log   *slog.Logger
	Clock func() time.Time
	// Every is the time between two looks: default 250 ms, with a spread of a quarter so that nodes do not look all at once.
	Every time.Duration
	// Grace is how long a movement may be missing in the gate before it is taken from SQL: until then whoever committed it may still be
	// telling it. Default 1 s.
	Grace time.Duration
	// Lease is how long a taking may be pending before anybody looks it up: its node died, or sleeps. Default 10 s.
	Lease time.Duration
	// Looked is called after each look that the gate answered, with its numbers. It must not wait.
	Looked func(gate.Numbers)
	// Over tells whether the sale has ended: then a cold gate is not loaded any more, and a shared one is kept for another hour once nothing
	// is pending in it. Default: never.
	Over func() bool
	// Freed is called when something that was told or found gave stock back: other nodes want to know. It must not wait.
	Freed func()
}

// The bounds of one look, so that a look is short however far behind the gate is.
const (
	queueMax    = 4096 // movements that wait to be told; what does not fit is found in SQL
	tellMax     = 128  // told in one step
	healMax     = 256  // taken from SQL in one step
	overdueMax  = 512
	tellTimeout = 2 * time.Second
	lookTimeout = 10 * time.Second
	loadTimeout = 2 * time.Minute
	keptAfter   = time.Hour
)

// Follower follows one sale on one node. All its methods may be called at any time from any goroutine.
type Follower struct {
	gate  *gate.Gate
	books Books
	o     Options

	mu    sync.Mutex // guards queue
	queue []gate.Movement
	told  chan struct{} // holds one signal while movements wait to be told
	wake  chan struct{} // holds one signal while somebody wants a look

	numbers atomic.Pointer[gate.Numbers]
	level   atomic.Int64 // when the gate was last seen to have all movements, in ns; 0 if it was not at the last look
	away    atomic.Bool

	looking sync.Mutex // one look at a time; guards below
	applied int64      // at the last look
	since   time.Time  // when applied last moved, or nothing was missing
	let     bool       // the gate's keys were let go

	counts counts
}

type counts struct{ told, dropped, healed, lost, loaded atomic.Int64 }

// Counts is what a follower did since it was made.
type Counts struct {
	Told    int64 // movements that this node told the gate
	Dropped int64 // movements that could not be told; they are found in SQL
	Healed  int64 // movements found missing in the gate and taken from SQL
	Lost    int64 // takings whose node did not settle them, and that SQL does not hold
	Loaded  int64 // loads of the gate
}

// New makes a follower. Its gate is not read before Look or Run.
func New(g *gate.Gate, b Books, o Options) *Follower {
	if o.Every == 0 {
		o.Every = 250 * time.Millisecond
	}
	if o.Grace == 0 {
		o.Grace = time.Second
	}
	if o.Lease == 0 {
		o.Lease = 10 * time.Second
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Looked == nil {
		o.Looked = func(gate.Numbers) {}
	}
	if o.Over == nil {
		o.Over = func() bool { return false }
	}
	if o.Freed == nil {
		o.Freed = func() {}
	}
	f := &Follower{gate: g, books: b, o: o, told: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	f.numbers.Store(&gate.Numbers{})
	return f
}

// Numbers returns the gate's account at the last look, cold before the first. Units are not below zero in it.
func (f *Follower) Numbers() gate.Numbers { return *f.numbers.Load() }

// Away reports whether the gate did not answer the last look.
func (f *Follower) Away() bool { return f.away.Load() }

// Level reports whether the gate had every movement of the ledger at the last look, and that was within a second: what it says of buyers
// then holds for all but the newest.
func (f *Follower) Level() bool {
	at := f.level.Load()
	return at != 0 && f.o.Clock().Sub(time.Unix(0, at)) < time.Second
}

// Counts returns what was done so far.
func (f *Follower) Counts() Counts {
	c := &f.counts
	return Counts{c.told.Load(), c.dropped.Load(), c.healed.Load(), c.lost.Load(), c.loaded.Load()}
}

// Tell has the gate follow committed movements soon, once, in the order given. It never waits: what finds no place, or the gate away, is
// found in SQL later.
func (f *Follower) Tell(moves ...gate.Movement) {
	f.mu.Lock()
	if len(f.queue)+len(moves) <= queueMax {
		f.queue = append(f.queue, moves...)
	} else {
		f.counts.dropped.Add(int64(len(moves)))
	}
	f.mu.Unlock()
	signal(f.told)
}

// Wake asks for a look now.
func (f *Follower) Wake() { signal(f.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run follows until ctx ends; what waits to be told then is told before it returns.
func (f *Follower) Run(ctx context.Context) {
	var joined sync.WaitGroup
	joined.Go(func() {
		for {
			select {
			case <-f.told:
				f.Flush(context.WithoutCancel(ctx))
			case <-ctx.Done():
				f.Flush(context.WithoutCancel(ctx))
				return
			}
		}
	})
	for ctx.Err() == nil {
		if err := f.Look(ctx); err != nil && ctx.Err() == nil {
			f.complain(err)
		}
		pause := time.NewTimer(f.o.Every*7/8 + rand.N(f.o.Every/4+1))
		select {
		case <-pause.C:
		case <-f.wake:
		case <-ctx.Done():
		}
		pause.Stop()
	}
	joined.Wait()
}

// complain says once that the gate is away, and everything else each time.
func (f *Follower) complain(err error) {
	if levee.CodeOf(err) == levee.CodeUnavailable {
		f.o.Log.Debug("a shared gate could not be followed; it is tried again", "sale", f.o.Sale, "err", err)
		return
	}
	f.o.Log.Warn("a shared gate could not be followed; it is tried again", "sale", f.o.Sale, "err", err)
}

// Flush tells the gate now what waits to be told. Run calls it.
func (f *Follower) Flush(ctx context.Context) {
	for {
		f.mu.Lock()
		n := min(len(f.queue), tellMax)
		batch := f.queue[:n:n]
		if f.queue = f.queue[n:]; len(f.queue) == 0 {
			f.queue = nil
		}
		f.mu.Unlock()
		if n == 0 {
			return
		}
		f.tell(ctx, batch)
	}
}

func (f *Follower) tell(ctx context.Context, batch []gate.Movement) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if err := f.gate.Apply(ctx, batch...); err != nil {
		f.counts.dropped.Add(int64(len(batch)))
		f.o.Log.Debug("movements could not be told to a shared gate; they will be found in SQL", "sale", f.o.Sale, "movements", len(batch), "err", err)
		f.Wake()
		return
	}
	f.counts.told.Add(int64(len(batch)))
	for _, m := range batch {
		if m.Free > 0 {
			f.Came()
			return
		}
	}
}

// Came says that stock came back to the gate: this node and the others look at once.
func (f *Follower) Came() {
	f.o.Freed()
	f.Wake()
}

// Look compares the gate with the ledger once and makes good what is missing. It fails with CodeUnavailable while the gate or SQL is away.
// Run calls it; a second call waits for the first.
func (f *Follower) Look(ctx context.Context) error {
	f.looking.Lock()
	defer f.looking.Unlock()
	n, err := f.count(ctx)
	if err != nil || !n.Warm {
		f.level.Store(0)
	}
	if err != nil {
		return err
	}
	over := f.o.Over()
	switch {
	case !n.Warm && over:
		return nil
	case !n.Warm:
		return f.load(ctx)
	}
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	again, err := f.heal(look, n)
	if err != nil {
		return err
	}
	ended, err := f.endOverdue(look)
	if err == nil && (again || ended) {
		_, err = f.count(ctx)
		f.o.Freed()
	}
	if over && err == nil && !f.let && n.Unsettled == 0 && f.level.Load() != 0 {
		err = f.gate.Forget(look, keptAfter)
		f.let = err == nil
	}
	return err
}

// count reads the gate's numbers and passes them on.
func (f *Follower) count(ctx context.Context) (gate.Numbers, error) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	n, err := f.gate.Numbers(ctx)
	f.away.Store(err != nil)
	if err != nil {
		return n, err
	}
	seen := n
	seen.Remaining = max(seen.Remaining, 0)
	f.numbers.Store(&seen)
	f.o.Looked(seen)
	return n, nil
}

// heal takes from SQL what the gate has been missing for longer than the grace. It reports whether there was something.
func (f *Follower) heal(ctx context.Context, n gate.Numbers) (bool, error) {
	seq, err := f.books.Seq(ctx) // after the gate's numbers, so it is not behind them
	if err != nil {
		return false, err
	}
	now := f.o.Clock()
	f.level.Store(0)
	if n.Applied == seq {
		f.level.Store(now.UnixNano())
	}
	if n.Applied > seq {
		f.o.Log.Warn("a shared gate follows another ledger than the one that is here, and is loaded anew", "sale", f.o.Sale, "gate", n.Applied, "ledger", seq)
		return true, f.load(ctx)
	}
	if n.Applied != f.applied || n.Applied == seq || now.Before(f.since) {
		f.applied, f.since = n.Applied, now
		return false, nil
	}
	if now.Sub(f.since) < f.o.Grace {
		return false, nil
	}
	for n.Applied < seq {
		moves, err := f.books.Movements(ctx, lacking(n, seq))
		if levee.CodeOf(err) == levee.CodeConflict {
			f.o.Log.Warn("a movement cannot be told from the ledger; the gate is loaded anew", "sale", f.o.Sale, "err", err)
			return true, f.load(ctx)
		}
		if err != nil {
			return true, err
		}
		if err := f.gate.Apply(ctx, moves...); err != nil {
			return true, err
		}
		f.counts.healed.Add(int64(len(moves)))
		before := n.Applied
		if n, err = f.gate.Numbers(ctx); err != nil || n.Applied <= before {
			return true, err
		}
	}
	f.applied, f.since = n.Applied, now
	return true, nil
}

// lacking lists movements that the gate does not have: the gaps, else what comes after the last one.
func lacking(n gate.Numbers, seq int64) []int64 {
	if len(n.Missing) > 0 {
		return n.Missing[:min(len(n.Missing), healMax)]
	}
	list := make([]int64, 0, healMax)
	for s := n.Applied + 1; s <= seq && len(list) < healMax; s++ {
		list = append(list, s)
	}
	return list
}

// endOverdue asks SQL what became of takings that nobody settled in time, and tells the gate. It reports whether there were some.
func (f *Follower) endOverdue(ctx context.Context) (bool, error) {
	late, err := f.gate.Overdue(ctx, f.o.Lease, overdueMax)
	if err != nil || len(late) == 0 {
		return false, err
	}
	ids := make([]levee.ReservationID, len(late))
	for i, a := range late {
		ids[i] = a.ID
	}
	won, err := f.books.Won(ctx, ids)
	if err != nil {
		return false, err
	}
	in := make(map[levee.ReservationID]bool, len(won))
	for _, w := range won {
		in[w.ID] = true
	}
	lost := make([]levee.ReservationID, 0, len(ids))
	for _, id := range ids {
		if !in[id] {
			lost = append(lost, id)
		}
	}
	if err := f.gate.Resolve(ctx, won, lost); err != nil {
		return false, err
	}
	if len(lost) > 0 {
		f.counts.lost.Add(int64(len(lost)))
		f.o.Log.Info("takings that their node did not settle in time were given back", "sale", f.o.Sale, "takings", len(lost))
	}
	return len(lost) > 0, nil
}

// Reload loads the gate anew from SQL whatever it says: an operator's act, and what follows a proof that failed. It fails with
// CodeConflict while another node loads it, and CodeUnavailable where the gate or SQL is away.
func (f *Follower) Reload(ctx context.Context) error {
	f.looking.Lock()
	defer f.looking.Unlock()
	return f.load(ctx)
}

func (f *Follower) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	started := time.Now()
	state, err := f.books.State(ctx)
	if err != nil {
		return err
	}
	if err := f.gate.Load(ctx, state); err != nil {
		if levee.CodeOf(err) == levee.CodeConflict {
			return nil // another node is at it
		}
		return err
	}
	f.counts.loaded.Add(1)
	f.o.Log.Info("a shared gate was loaded", "sale", f.o.Sale, "movement", state.Seq, "remaining", state.Remaining, "buyers", len(state.Holdings),
		"seconds", time.Since(started).Seconds())
	_, err = f.count(ctx)
	f.o.Freed()
	return err
}
