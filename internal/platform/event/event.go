// Package event carries what happened in one room to the rooms that want to know: an outbox, a relay and an inbox, all in
// the same database as the facts themselves.
//
// It owns the tables event_*, the order of delivery, the retries and the parking of what cannot be delivered. It does not
// carry anything out of the process, and it is no place for slow work: a listener that has to talk to the outside enqueues a
// job (package job) in the transaction it is given.
//
// The promises:
//
//   - An event is delivered if and only if the transaction that emitted it committed.
//   - Delivery is at least once, the effect exactly once: what a listener does in its transaction and the mark that it was
//     done commit together. A listener's function itself may run several times.
//   - Order is kept per listener and EventKey, as the emitting transactions committed, whatever the clocks of their nodes. An event
//     that fails holds back the later events of its key for this one listener, nothing else, until it succeeds or is parked.
//   - One relay works at a time, and each delivery checks its fence in its own transaction. On an engine with one writer the newest
//     process takes over at once; between nodes, one that has gone without a word is replaced after the lease, which is measured
//     by watching, never by comparing two clocks.
package event

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// Limits of one event. A name is also part of the goldens; the payload limit keeps a batch of deliveries within a few
// megabytes.
const (
	maxName    = 190
	maxPayload = 256 << 10
)

// Event is a fact in the past tense, a plain struct (no pointer) that encodes to JSON of at most 256 KiB. A change that old
// listeners cannot read needs a new name.
type Event interface {
	// EventName is constant per type, with its version: "order.paid.v1". At most 190 bytes.
	EventName() string
	// EventKey names the thing it is about (an order's id): events of one key arrive in the order of their emission.
	EventKey() int64
}

// Listener is one named wish to hear one event, made by Listen.
type Listener struct {
	name  string
	hears map[string]decoder // by event name
	kept  bool               // FromKept
	err   error
}

// deliver runs a listener on an event that was decoded before the writer was taken.
type deliver func(ctx context.Context, tx *db.Tx) error

// Name returns the listener's name.
func (l Listener) Name() string { return l.name }

// Listen makes a listener. Its name ("catalog.restock", at most 190 bytes) is kept in SQL and must not change while events
// are under way. fn's writes and the mark that the event was handled commit together; fn may run again after an error, a
// crash, or when an event next to it in the same batch fails, so everything it does must go through tx. It must not block on
// anything but the database. An error or a panic is retried with growing pauses and parked after the 12th attempt. The options are
// Upcast and FromKept.
func Listen[E Event](name string, fn func(ctx context.Context, tx *db.Tx, e E) error, opts ...Option) Listener {
	l := Listener{name: name}
	t := reflect.TypeFor[E]()
	switch {
	case name == "" || len(name) > maxName:
		l.err = levee.Invalid("listener", "a name of 1 to 190 bytes", name)
	case fn == nil:
		l.err = levee.Invalid("listener "+name, "a function", "nil")
	case t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface:
		l.err = levee.Invalid("listener "+name, "for a struct, not a pointer or an interface", t)
	}
	if l.err != nil {
		return l
	}
	var zero E
	if own := zero.EventName(); own == "" || len(own) > maxName {
		l.err = levee.Invalid("event name", "1 to 190 bytes", own)
		return l
	}
	for _, o := range opts {
		l.kept = l.kept || o.kept
	}
	if l.hears, l.err = decoders(fn, opts); l.err != nil {
		l.err = fmt.Errorf("listener %s: %w", name, l.err)
	}
	return l
}

// Known is one event name and who listens to it, sorted.
type Known struct {
	Name      string
	Listeners []string
}

// Bus is the house's one place to say and hear events.
type Bus struct {
	db    *db.DB
	ids   *id.Generator
	clock obs.Clock
	log   *slog.Logger
	m     *metrics

	crowd bool          // the engine has many writers at once
	lease time.Duration // how long a relay that fell silent keeps others waiting
	most  int64         // numbers of the log that a listener may have to go to be let hear live
	seam  seam

	wakeup   chan struct{} // capacity 1: a wake-up is remembered, never waited for
	wakeFn   func()        // b.given, made once: Emit is on the hot path
	ring     atomic.Pointer[func()]
	relaying atomic.Bool
	turn     chan struct{} // capacity 1: held by the one Run or Drain that relays in this process

	sqlLease string      // reads the relay's row in a transaction, to change it
	sqlFence string      // the same, to keep it as it is until the commit
	known    atomic.Bool // event_listener has all listeners of this process

	keep    time.Duration // how long the log keeps
	kept    []string      // Config.Kept
	badConf error
	joins   map[string]joinTry // by listener: the last try to let it hear live; of the relay alone
	waiters atomic.Int64       // Drains under way

	mu        sync.Mutex // guards what follows
	listeners map[string][]Listener
	started   bool            // Run or Drain began: no more listeners
	waiting   []chan struct{} // Drains that wait for the next moment with nothing due
}

// seam is what the suite takes away, to see the faults come that it prevents, and how it makes a node sleep or die. Zero in production.
type seam struct {
	unfenced bool   // deliver without the fence
	blind    bool   // do not look for the event before
	dead     bool   // end without giving the lease back
	stay     bool   // never let a listener that is behind hear live
	byID     bool   // read the log by the events' ids, as if they rose with the commits
	rash     bool   // read the log up to its highest number, whatever is under way below it
	apart    bool   // note what was copied from the log after the copy, not with it
	hold     func() // called before each delivery and each beat: a sleeping process does not return from it
	slow     func() // called before a term reads the outbox
}

func (s *seam) sleep() {
	if s.hold != nil {
		s.hold()
	}
}

// Config says what is kept. Its zero value keeps events until they are delivered.
type Config struct {
	// Kept names the events that stay readable after their delivery, for Replay and for new listeners (FromKept): whole names
	// ("order.paid.v1") or beginnings that end in a star ("order.*"; "*": all). What is kept costs the relay one more row per event; emitting costs
	// the same. All programs on one database should name the same: the one that relays decides. Default: none.
	Kept []string
	// Keep is how long they stay, from 1 minute to 10 years, by the relay's clock. Default 7 days. What a listener of a program that does
	// not run at the moment has yet to get stays as long, too.
	Keep time.Duration
}

// keepDefault is Config.Keep's default.
const keepDefault = 7 * 24 * time.Hour

// Open makes a bus on d, with at most one Config. Nothing runs until Run. A Config that is not allowed is told by Register and Run, as
// CodeInvalid.
func Open(d *db.DB, ids *id.Generator, o *obs.Obs, cfg ...Config) *Bus {
	b := &Bus{
		db: d, ids: ids, joins: map[string]joinTry{}, clock: o.Clock, log: o.Named("event"), m: newMetrics(o.Metrics),
		wakeup: make(chan struct{}, 1), turn: make(chan struct{}, 1), listeners: map[string][]Listener{},
		crowd: d.Dialect().Name() != "sqlite", lease: lease, most: joinMost,
	}
	b.wakeFn = b.given
	b.configure(cfg)
	b.sqlFence = `SELECT fence, registry FROM event_relay WHERE id = 1`
	if b.crowd {
		b.sqlFence += ` LOCK IN SHARE MODE` // the lanes of one relay do not wait for each other
	}
	b.sqlLease = strings.TrimSpace(`SELECT fence, lease_until FROM event_relay WHERE id = 1 ` + d.Dialect().ForUpdate())
	return b
}

func (b *Bus) configure(cfg []Config) {
	b.keep = keepDefault
	for _, c := range cfg {
		if c.Keep != 0 {
			b.keep = c.Keep
		}
		b.kept = c.Kept
		for _, name := range c.Kept {
			if i := strings.IndexByte(name, '*'); name == "" || len(name) > maxName || i >= 0 && i != len(name)-1 {
				b.badConf = levee.Invalid("event.kept", "names of events, or beginnings that end in *", name)
			}
		}
	}
	if b.keep < time.Minute || b.keep > 3660*24*time.Hour {
		b.badConf = levee.Invalid("event.keep", "1m to 10 years", b.keep)
	}
}

// keeps says whether events of this name are kept.
func (b *Bus) keeps(name string) bool {
	return slices.ContainsFunc(b.kept, func(k string) bool {
		start, open := strings.CutSuffix(k, "*")
		return name == k || open && strings.HasPrefix(name, start)
	})
}

// Connect joins the buses of several nodes: ring is called after each commit that gave work, unless this node relays itself, and must
// not block; the wake that it returns is for the ring of another node. Without it events of other nodes are found by looking, within
// a second. It is called at most once, before Run.
func (b *Bus) Connect(ring func()) (wake func()) {
	b.ring.Store(&ring)
	return b.wake
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables event_*.
func Schema() db.Schema { return db.Schema{Owner: "event", FS: schemaFS} }

// Register adds listeners. All of a process register before Run or Drain; afterwards, for a name that is taken or a listener
// that was made wrongly it fails with CodeInvalid and adds none.
func (b *Bus) Register(ls ...Listener) (err error) {
	defer levee.Wrap(&err, "event.Register")
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.badConf != nil {
		return b.badConf
	}
	if b.started {
		return levee.E(levee.CodeInvalid, "listeners must be registered before the bus runs")
	}
	taken := map[string]bool{}
	for _, of := range b.listeners {
		for _, l := range of {
			taken[l.name] = true
		}
	}
	for _, l := range ls {
		switch {
		case l.err != nil:
			return l.err
		case l.hears == nil:
			return levee.Invalid("listener", "made by event.Listen", "a zero value")
		case taken[l.name]:
			return levee.Invalid("listener", "a name that is not taken", l.name)
		}
		taken[l.name] = true
	}
	all := maps.Clone(b.listeners)
	for _, l := range ls {
		for name := range l.hears {
			all[name] = append(slices.Clip(all[name]), l)
		}
	}
	for name, g := range groupsOf(all) {
		if len(g.listeners) > maxListeners {
			return levee.Invalid("listeners of "+name, fmt.Sprintf("at most %d, also over versions", maxListeners), len(g.listeners))
		}
	}
	b.listeners = all
	b.known.Store(false)
	return nil
}

// Events returns every event that has a listener, sorted by name.
func (b *Bus) Events() []Known {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := make([]Known, 0, len(b.listeners))
	for name, of := range b.listeners {
		k := Known{Name: name}
		for _, l := range of {
			k.Listeners = append(k.Listeners, l.name)
		}
		slices.Sort(k.Listeners)
		known = append(known, k)
	}
	slices.SortFunc(known, func(x, y Known) int { return strings.Compare(x.Name, y.Name) })
	return known
}

const insertEvent = `INSERT INTO event_outbox (id, name, event_key, payload, previous) VALUES (?, ?, ?, ?, ?)`

var outboxColumns = []string{"id", "name", "event_key", "payload", "previous"}

// Emit writes e into the outbox within the caller's transaction and wakes the relay once that has committed. Transactions of one key
// wait for each other from here to their commit. It fails with CodeTooLarge for a payload over 256 KiB.
func (b *Bus) Emit(ctx context.Context, tx *db.Tx, e Event) error {
	es := [1]emission{}
	var err error
	if es[0], err = b.emission(e); err != nil {
		return err
	}
	if !b.known.Load() {
		if err := b.announceTx(ctx, tx); err != nil {
			return fmt.Errorf("event.Emit(%s): %w", e.EventName(), err)
		}
	}
	if err := b.numberTx(ctx, tx, es[:]); err != nil {
		return fmt.Errorf("event.Emit(%s): %w", e.EventName(), err)
	}
	if _, err := tx.Exec(ctx, insertEvent, es[0].row()...); err != nil {
		return fmt.Errorf("event.Emit(%s): %w", e.EventName(), err)
	}
	tx.AfterCommit(b.wakeFn)
	return nil
}

// EmitMany is Emit for several events, in this order and by few statements.
func (b *Bus) EmitMany(ctx context.Context, tx *db.Tx, events ...Event) (err error) {
	defer levee.Wrap(&err, "event.EmitMany(%d)", len(events))
	if len(events) == 0 {
		return nil
	}
	es := make([]emission, len(events))
	for i, e := range events {
		if es[i], err = b.emission(e); err != nil {
			return err
		}
	}
	if !b.known.Load() {
		if err := b.announceTx(ctx, tx); err != nil {
			return err
		}
	}
	if err := b.numberTx(ctx, tx, es); err != nil {
		return err
	}
	rows := make([][]any, len(es))
	for i := range es {
		rows[i] = es[i].row()
	}
	if err := tx.InsertRows(ctx, "event_outbox", outboxColumns, rows); err != nil {
		return err
	}
	tx.AfterCommit(b.wakeFn)
	return nil
}

// emission is e without its id.
func (b *Bus) emission(e Event) (emission, error) {
	name := e.EventName()
	if name == "" || len(name) > maxName {
		return emission{}, levee.Invalid("event name", "1 to 190 bytes", name)
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return emission{}, fmt.Errorf("event %s does not encode: %w", name, err)
	}
	if len(payload) > maxPayload {
		return emission{}, levee.E(levee.CodeTooLarge, "event %s has %d bytes, allowed are %d", name, len(payload), maxPayload)
	}
	b.m.emitted.WithLabelValues(name).Inc()
	return emission{key: e.EventKey(), name: name, payload: string(payload)}, nil
}

func (e *emission) row() []any { return []any{e.id, e.name, e.key, e.payload, e.previous} }

// given is called after a commit that gave work.
func (b *Bus) given() {
	b.wake()
	if ring := b.ring.Load(); ring != nil && !b.relaying.Load() {
		(*ring)()
	}
}

func (b *Bus) wake() {
	select {
	case b.wakeup <- struct{}{}:
	default:
	}
}
