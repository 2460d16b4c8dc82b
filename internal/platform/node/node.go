// Package node knows the nodes of one house: which ones live, where they can be reached, and which one keeps what only one at a time
// may do.
//
// It owns membership and terms of keeping, in SQL. It does not own what is kept: whoever keeps something writes the term's fence into
// what it stores, or checks it there, because no lease alone protects a store from a writer that slept through its end.
//
// No two clocks are compared. A keeper raises a counter in SQL; another node takes over when it has seen the counter stand still for a
// whole lease by its own clock. A keeper counts its lease from before it raised the counter, so it stops first, whatever the
// clocks show and however slow SQL is. (Leases by observation: C. Gray and D. Cheriton, "Leases", SOSP 1989, with the waiting side's
// clock as the only one that matters.)
package node

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the part's tables.
func Schema() db.Schema { return db.Schema{Owner: "node", FS: schemaFS} }

// Config describes this node. The zero value is a node that is alone.
type Config struct {
	// Name is what people call the node, up to 190 bytes. Default: the host's name, given by app.
	Name string
	// Address is where other nodes reach this one, host:port. Empty: the node is alone; nothing is written to SQL and it keeps everything.
	Address string
	// Version of the program.
	Version string
	// Lease is how long a node that fell silent keeps what it kept, from 1 s to 1 minute. Default 5 s. Shorter heals sooner;
	// too short, and a slow database takes things away from nodes that live.
	Lease time.Duration
}

func (c Config) normal() (Config, error) {
	if c.Lease == 0 {
		c.Lease = 5 * time.Second
	}
	switch {
	case c.Lease < time.Second || c.Lease > time.Minute:
		return c, levee.Invalid("node.lease", "from 1s to 1m", c.Lease)
	case len(c.Name) > textMax:
		return c, levee.Invalid("node.name", fmt.Sprintf("up to %d bytes", textMax), c.Name)
	case len(c.Address) > textMax:
		return c, levee.Invalid("node.address", fmt.Sprintf("host:port of up to %d bytes", textMax), c.Address)
	}
	c.Version = levee.Shorten(c.Version, textMax)
	return c, nil
}

const (
	textMax  = 190
	beats    = 5                // beats in a lease: so many may be late before a lease ends
	forgetIn = 10 * time.Minute // a node that fell silent is forgotten
)

// Member is a node that lives.
type Member struct {
	ID        int64
	Name      string
	Address   string
	Version   string
	StartedAt time.Time
	Self      bool
}

// Term is the time in which this node keeps something.
type Term struct {
	// Fence is higher than that of every term before. Stores refuse what comes with a lower one than they have seen.
	Fence int64
	name  string        // "": nobody else could ever keep it
	until *atomic.Int64 // microseconds since Nodes.began
	began time.Time
}

// Forever is the term of a process that has no others beside it, as in tests of one room.
func Forever() Term { return Term{Fence: 1} }

// Held reports whether the term still holds. It costs a reading of the clock; asked before an act whose effect stays in memory, it keeps a
// node that slept through its lease from acting as the keeper.
func (t Term) Held() bool {
	return t.name == "" && t.Fence != 0 || t.until != nil && time.Since(t.began).Microseconds() < t.until.Load()
}

// Nodes is this node's view of the house.
type Nodes struct {
	cfg   Config
	db    *db.DB
	log   *slog.Logger
	clock obs.Clock
	self  Member
	began time.Time // monotonic base
	duty  []*duty   // by name; not changed after Run began

	view atomic.Pointer[view]
	seen map[string]sighting // of keeps and members, by Run alone
	// fault is called before each round; tests hold a node still with it.
	fault func()
}

// view is what the last round found.
type view struct {
	members map[int64]Member
	keepers map[string]int64
}

// sighting is when a counter was first seen as it is.
type sighting struct {
	fence, beat int64
	at          time.Time
}

// duty is something that one node keeps.
type duty struct {
	name string
	run  func(ctx context.Context, t Term) error

	fence  int64 // 0: another node keeps it, or nobody
	until  *atomic.Int64
	cancel context.CancelFunc
	timer  *time.Timer
	ended  chan struct{} // closed when run has returned
}

// Open prepares this node. Run makes it live.
func Open(d *db.DB, cfg Config, o *obs.Obs) (*Nodes, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	n := &Nodes{cfg: cfg, db: d, log: o.Named("node"), clock: o.Clock, began: time.Now(), seen: map[string]sighting{}}
	n.self = Member{ID: int64(binary.BigEndian.Uint64(id[:])>>1) | 1, Name: cfg.Name, Address: cfg.Address, Version: cfg.Version, StartedAt: o.Clock().UTC(), Self: true}
	n.view.Store(&view{members: map[int64]Member{n.self.ID: n.self}, keepers: map[string]int64{}})
	return n, nil
}

// Alone reports whether this node is the only one by its config.
func (n *Nodes) Alone() bool { return n.cfg.Address == "" }

// Keep has run called on one node at a time, as long as it keeps what the name stands for. run must return soon after its context
// ends; when it returns before, it is called again a second later. Keep must be called before Run, once per name.
func (n *Nodes) Keep(name string, run func(ctx context.Context, t Term) error) {
	n.duty = append(n.duty, &duty{name: name, run: run})
}

// Self returns this node.
func (n *Nodes) Self() Member { return n.self }

// List returns the nodes that live, the oldest first.
func (n *Nodes) List() []Member {
	list := slices.Collect(maps.Values(n.view.Load().members))
	slices.SortFunc(list, func(a, b Member) int {
		if c := a.StartedAt.Compare(b.StartedAt); c != 0 {
			return c
		}
		return int(min(max(a.ID-b.ID, -1), 1))
	})
	return list
}

// Keeper returns the node that keeps something, as of a second ago; false: nobody does just now, or it is not known here.
func (n *Nodes) Keeper(name string) (Member, bool) {
	v := n.view.Load()
	m, ok := v.members[v.keepers[name]]
	return m, ok
}

// Run makes this node live until ctx ends; then it gives up what it keeps, so that others need not wait. A failing database is logged, and
// what is kept is given up when its lease ends.
func (n *Nodes) Run(ctx context.Context) error {
	if n.Alone() {
		return n.runAlone(ctx)
	}
	logged := false
	t := time.NewTicker(n.cfg.Lease / beats)
	defer t.Stop()
	for {
		if n.fault != nil {
			n.fault()
		}
		err := n.round(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil && !logged:
			n.log.ErrorContext(ctx, "the nodes cannot be read; what this one keeps ends with its lease if that goes on", "err", err)
			logged = true
		case err == nil && logged:
			n.log.InfoContext(ctx, "the nodes can be read again")
			logged = false
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return n.leave(context.WithoutCancel(ctx))
		}
	}
}

func (n *Nodes) runAlone(ctx context.Context) error {
	keepers := map[string]int64{}
	var wg sync.WaitGroup
	for _, d := range n.duty {
		keepers[d.name] = n.self.ID
		wg.Go(func() { n.work(ctx, d, Forever()) })
	}
	n.view.Store(&view{members: map[int64]Member{n.self.ID: n.self}, keepers: keepers})
	<-ctx.Done()
	wg.Wait()
	return nil
}

// work calls a duty's function until its term ends.
func (n *Nodes) work(ctx context.Context, d *duty, t Term) {
	for ctx.Err() == nil {
		if err := d.run(ctx, t); err != nil && ctx.Err() == nil {
			n.log.ErrorContext(ctx, "what this node keeps has failed and is begun again", "keeps", d.name, "err", err)
		}
		again := time.NewTimer(time.Second)
		select {
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// round raises this node's counters, looks at the others' and takes what nobody keeps.
func (n *Nodes) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Lease)
	defer cancel()
	began := time.Now() // before the counters are raised: the lease counts from here
	if err := n.beat(ctx, began); err != nil {
		return err
	}
	members, keeps, err := n.read(ctx)
	if err != nil {
		return err
	}
	now := time.Now() // after they were read: what was seen was so no later
	v := &view{members: map[int64]Member{}, keepers: map[string]int64{}}
	for _, m := range members {
		silent := n.stillSince("member/"+fmt.Sprint(m.ID), 0, m.beat, now)
		switch {
		case m.ID == n.self.ID:
			m.Self = true
			v.members[m.ID] = m.Member
		case silent < n.cfg.Lease:
			v.members[m.ID] = m.Member
		case silent > forgetIn:
			if err := n.forget(ctx, m); err != nil {
				return err
			}
		}
	}
	for _, d := range n.duty {
		k, known := keeps[d.name]
		if d.fence != 0 && (!known || k.fence != d.fence) {
			n.end(d, "another node keeps it")
		}
		free := !known || k.member == 0 || k.member == n.self.ID || n.stillSince("keep/"+d.name, k.fence, k.beat, now) >= n.cfg.Lease
		if d.fence == 0 && free {
			asked := time.Now()
			fence, err := n.take(ctx, d.name, k, known)
			if err != nil {
				return err
			}
			if fence != 0 {
				k.member = n.self.ID
				n.start(d, fence, asked)
			}
		}
		if k.member != 0 {
			v.keepers[d.name] = k.member
		}
	}
	n.view.Store(v)
	return nil
}

// stillSince tells for how long a counter has been seen as it is.
func (n *Nodes) stillSince(what string, fence, beat int64, now time.Time) time.Duration {
	s, ok := n.seen[what]
	if !ok || s.fence != fence || s.beat != beat {
		n.seen[what] = sighting{fence, beat, now}
		return 0
	}
	return now.Sub(s.at)
}

// start begins a term.
func (n *Nodes) start(d *duty, fence int64, asked time.Time) {
	if d.ended != nil {
		<-d.ended // the term before was told to end
	}
	d.fence, d.until, d.ended = fence, new(atomic.Int64), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.timer = time.AfterFunc(time.Hour, cancel) // set by extend
	n.extend(d, asked)
	t := Term{Fence: fence, name: d.name, until: d.until, began: n.began}
	n.log.Info("this node keeps it now", "keeps", d.name, "fence", fence)
	go func(ended chan struct{}) {
		defer close(ended)
		n.work(ctx, d, t)
	}(d.ended)
}

// extend makes a term last a lease from the moment before its counter was raised.
func (n *Nodes) extend(d *duty, from time.Time) {
	until := from.Add(n.cfg.Lease)
	d.until.Store(until.Sub(n.began).Microseconds())
	d.timer.Reset(time.Until(until))
}

// end ends a term here and waits for its function.
func (n *Nodes) end(d *duty, why string) {
	d.until.Store(0)
	d.timer.Stop()
	d.cancel()
	<-d.ended
	n.log.Info("this node keeps it no more", "keeps", d.name, "fence", d.fence, "why", why)
	d.fence = 0
}

// leave gives up everything and takes this node off the list.
func (n *Nodes) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Lease)
	defer cancel()
	given := map[string]int64{}
	for _, d := range n.duty {
		if d.fence != 0 {
			given[d.name] = d.fence
			n.end(d, "the node stops")
		}
	}
	return n.giveUp(ctx, given)
}
