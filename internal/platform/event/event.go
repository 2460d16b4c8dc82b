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
//   - Order is kept per listener and EventKey, by id. An event that fails holds back the later events of its key for this
//     one listener, nothing else, until it succeeds or is parked.
//   - One relay works at a time; the newest process wins, and each delivery checks its fence in its own transaction.
package event

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	name, event string
	decode      func(payload string) (deliver, error)
	err         error
}

// deliver runs a listener on an event that was decoded before the writer was taken.
type deliver func(ctx context.Context, tx *db.Tx) error

// Name returns the listener's name.
func (l Listener) Name() string { return l.name }

// Listen makes a listener. Its name ("catalog.restock", at most 190 bytes) is kept in SQL and must not change while events
// are under way. fn's writes and the mark that the event was handled commit together; fn may run again after an error, a
// crash, or when an event next to it in the same batch fails, so everything it does must go through tx. It must not block on
// anything but the database. An error or a panic is retried with growing pauses and parked after the 12th attempt.
func Listen[E Event](name string, fn func(ctx context.Context, tx *db.Tx, e E) error) Listener {
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
	l.event = zero.EventName()
	if l.event == "" || len(l.event) > maxName {
		l.err = levee.Invalid("event name", "1 to 190 bytes", l.event)
	}
	l.decode = func(payload string) (deliver, error) {
		var e E
		if err := json.Unmarshal([]byte(payload), &e); err != nil {
			return nil, fmt.Errorf("event %s does not decode: %w", l.event, err)
		}
		return func(ctx context.Context, tx *db.Tx) error { return fn(ctx, tx, e) }, nil
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

	wakeup chan struct{} // capacity 1: a wake-up is remembered, never waited for
	wakeFn func()        // b.wake, made once: Emit is on the hot path
	turn   chan struct{} // capacity 1: held by the one Run or Drain that relays in this process

	sqlLease string       // reads the relay's row in a transaction
	waiters  atomic.Int64 // Drains under way

	mu        sync.Mutex // guards what follows
	listeners map[string][]Listener
	started   bool            // Run or Drain began: no more listeners
	waiting   []chan struct{} // Drains that wait for the next moment with nothing due
}

// Open makes a bus on d. Nothing runs until Run.
func Open(d *db.DB, ids *id.Generator, o *obs.Obs) *Bus {
	b := &Bus{
		db: d, ids: ids, clock: o.Clock, log: o.Named("event"), m: newMetrics(o.Metrics),
		wakeup: make(chan struct{}, 1), turn: make(chan struct{}, 1), listeners: map[string][]Listener{},
	}
	b.wakeFn = b.wake
	b.sqlLease = strings.TrimSpace(`SELECT fence, lease_until FROM event_relay WHERE id = 1 ` + d.Dialect().ForUpdate())
	return b
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
		case l.decode == nil:
			return levee.Invalid("listener", "made by event.Listen", "a zero value")
		case taken[l.name]:
			return levee.Invalid("listener", "a name that is not taken", l.name)
		}
		taken[l.name] = true
	}
	for _, l := range ls {
		b.listeners[l.event] = append(b.listeners[l.event], l)
	}
	for name, of := range b.listeners {
		if len(of) > maxListeners {
			return levee.Invalid("listeners of "+name, fmt.Sprintf("at most %d", maxListeners), len(of))
		}
	}
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

const insertEvent = `INSERT INTO event_outbox (id, name, event_key, payload) VALUES (?, ?, ?, ?)`

// Emit writes e into the outbox within the caller's transaction and wakes the relay once that has committed. It fails with
// CodeTooLarge for a payload over 256 KiB.
func (b *Bus) Emit(ctx context.Context, tx *db.Tx, e Event) error {
	row, err := b.row(e)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, insertEvent, row...); err != nil {
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
	rows := make([][]any, len(events))
	for i, e := range events {
		if rows[i], err = b.row(e); err != nil {
			return err
		}
	}
	if err := tx.InsertRows(ctx, "event_outbox", outboxColumns, rows); err != nil {
		return err
	}
	tx.AfterCommit(b.wakeFn)
	return nil
}

var outboxColumns = []string{"id", "name", "event_key", "payload"}

func (b *Bus) row(e Event) ([]any, error) {
	name := e.EventName()
	if name == "" || len(name) > maxName {
		return nil, levee.Invalid("event name", "1 to 190 bytes", name)
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("event %s does not encode: %w", name, err)
	}
	if len(payload) > maxPayload {
		return nil, levee.E(levee.CodeTooLarge, "event %s has %d bytes, allowed are %d", name, len(payload), maxPayload)
	}
	id, err := b.ids.Next()
	if err != nil {
		return nil, err
	}
	b.m.emitted.WithLabelValues(name).Inc()
	return []any{id, name, e.EventKey(), string(payload)}, nil
}

func (b *Bus) wake() {
	select {
	case b.wakeup <- struct{}{}:
	default:
	}
}
