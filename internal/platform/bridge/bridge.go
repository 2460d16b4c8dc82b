// Package bridge carries chosen events of the house out to a broker that a site has already, and messages of that broker in as events. It is
// off unless Config.URL names a broker: Redis streams, NATS JetStream, Kafka or AMQP 0-9-1 (RabbitMQ).
//
// It owns the tables bridge_*, the way between them and the broker, and the form of the messages (CloudEvents 1.0). It does not own the
// events, and it makes no topics, subjects, streams, queues or exchanges: those are the site's.
//
// The promises, out:
//
//   - An event goes out if and only if the transaction that emitted it committed. It waits in SQL until the broker has acknowledged it; a broker
//     that is away for hours costs rows, nothing else: no listener, no transaction and no memory waits for it.
//   - At least once: a message may come again after a crash or a cut connection, always with the same id. What comes for the first
//     time comes in order per event name and key.
//   - What the broker refuses for ever (too large) is parked with the reason and does not hold up others.
//
// The promises, in:
//
//   - A message is acknowledged to the broker after the transaction that took it in has committed. Its event, and the note that it was seen,
//     commit together, so each id of a source becomes one event within Config.Window, however often it is delivered.
//   - What cannot be read is parked with the reason and acknowledged.
//
// Two nodes that carry at once do no harm (repetitions have the same ids), they only waste work: app lets one node do it.
package bridge

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables bridge_*.
func Schema() db.Schema { return db.Schema{Owner: "bridge", FS: schemaFS} }

// Type is an event type that may cross, made by Of.
type Type struct {
	name   string
	export func(name string, fn func(ctx context.Context, tx *db.Tx, name string, key int64, data []byte) error) event.Listener
	decode func(data []byte) (event.Event, error)
}

// Name returns the event's name.
func (t Type) Name() string { return t.name }

// Of makes the Type of an event: its JSON crosses as it is.
func Of[E event.Event]() Type {
	var zero E
	t := Type{name: zero.EventName()}
	t.export = func(listener string, fn func(context.Context, *db.Tx, string, int64, []byte) error) event.Listener {
		return event.Listen(listener, func(ctx context.Context, tx *db.Tx, e crossing[E]) error {
			return fn(ctx, tx, t.name, e.key, e.data)
		})
	}
	t.decode = func(data []byte) (event.Event, error) {
		var e E
		if err := json.Unmarshal(data, &e); err != nil {
			return nil, err
		}
		return e, nil
	}
	return t
}

// crossing is an event whose JSON is kept as it was written, with its key.
type crossing[E event.Event] struct {
	key  int64
	data []byte
}

func (crossing[E]) EventName() string {
	var zero E
	return zero.EventName()
}

func (c crossing[E]) EventKey() int64 { return c.key }

// UnmarshalJSON reads the key and keeps the text.
func (c *crossing[E]) UnmarshalJSON(data []byte) error {
	var e E
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	c.key, c.data = e.EventKey(), append([]byte(nil), data...)
	return nil
}

// Deps is what a bridge stands on.
type Deps struct {
	DB  *db.DB
	IDs *id.Generator
	Bus *event.Bus
	Obs *obs.Obs
	Out []Type // events that Config.Out may choose from
	In  []Type // events that messages may become
}

// Bridge is a house's way to one broker. It is made by Open and safe for concurrent use.
type Bridge struct {
	cfg   settled
	d     Deps
	log   *slog.Logger
	clock obs.Clock
	m     *metrics

	out  []*lane // by rising name
	in   []*intake
	last atomic.Int64 // the highest id given to a row of bridge_out here
	ring atomic.Pointer[func()]
	pub  publisher
	work chan struct{} // capacity: how many pages of outgoing events are in memory at once

	carrying atomic.Bool
	status   status
	seam     seam
}

// seam is what the suite takes away, to see the faults come that the rest prevents, and where it lets the process die. Zero in production.
type seam struct {
	markFirst bool                          // take events out of SQL before the broker has them
	unordered bool                          // publish the messages of one key all at once
	blind     bool                          // do not look whether a message came before
	published func()                        // called between the broker's acknowledgement and the commit that takes the events out of SQL
	taken     func()                        // called between the commit of incoming messages and their acknowledgement
	deliver   func(take func() error) error // in place of take: may acknowledge before the commit
}

// Open makes a bridge. With no URL it is off: it has no listeners and Run does nothing. CodeInvalid names field, allowed and given for a wrong config.
// The broker is not asked: one that is away at the start is no reason not to sell.
func Open(d Deps, cfg Config) (_ *Bridge, err error) {
	defer levee.Wrap(&err, "bridge.Open")
	b := &Bridge{d: d, log: d.Obs.Named("bridge"), clock: d.Obs.Clock, work: make(chan struct{}, 4)}
	if cfg.URL == "" {
		return b, nil
	}
	if b.cfg, err = cfg.settle(); err != nil {
		return nil, err
	}
	b.m = newMetrics(d.Obs.Metrics)
	if b.out, err = b.routesOut(d.Out); err != nil {
		return nil, err
	}
	if b.in, err = b.routesIn(d.In); err != nil {
		return nil, err
	}
	return b, nil
}

// On reports whether the bridge is configured.
func (b *Bridge) On() bool { return b.m != nil }

// Connect joins the bridges of several nodes: ring is called after each commit that gave this bridge something to carry while another node
// carries, and must not block; the wake that it returns is for the ring of another node. Without it the node that carries
// finds such events by looking, within a second. It is called at most once, before Run.
func (b *Bridge) Connect(ring func()) (wake func()) {
	b.ring.Store(&ring)
	return b.wake
}

func (b *Bridge) wake() {
	for _, l := range b.out {
		l.ring()
	}
}

// Listeners returns the listeners of the events that go out, for event.Bus.Register. Each only writes a row in the transaction that it is given.
func (b *Bridge) Listeners() []event.Listener {
	ls := make([]event.Listener, len(b.out))
	for i, l := range b.out {
		ls[i] = l.listener
	}
	return ls
}

// Run carries both ways until ctx ends, then returns nil. A broker or a database that is away is logged once and tried again. One node of a
// house is to run it at a time.
func (b *Bridge) Run(ctx context.Context) error {
	if !b.On() {
		<-ctx.Done()
		return nil
	}
	ctx = db.Primary(ctx)
	b.carrying.Store(true)
	defer b.carrying.Store(false)
	b.warnOrphans(ctx)
	var wg sync.WaitGroup
	for _, l := range b.out {
		wg.Go(func() { b.carryOut(ctx, l) })
	}
	for _, in := range b.in {
		wg.Go(func() { b.carryIn(ctx, in) })
	}
	if len(b.in) > 0 {
		wg.Go(func() { b.forget(ctx) })
	}
	wg.Wait()
	b.pub.drop(nil)
	b.m.lag.Reset() // another node knows from now on
	b.m.waiting.Reset()
	b.status.forget()
	return nil
}

// warnOrphans says when events wait that no line of the config sends anywhere any more.
func (b *Bridge) warnOrphans(ctx context.Context) {
	names, err := b.waitingNames(ctx)
	if err != nil {
		return // the lanes will say so
	}
	for _, name := range names {
		if b.laneOf(name) == nil {
			b.log.WarnContext(ctx, "events wait to go out and no line of bridge.out chooses them any more; they stay where they are", "event", name)
		}
	}
}

func (b *Bridge) laneOf(name string) *lane {
	for _, l := range b.out {
		if l.name == name {
			return l
		}
	}
	return nil
}

// pause waits d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// routesOut finds the events that each pattern chooses; the first pattern that fits decides.
func (b *Bridge) routesOut(types []Type) (lanes []*lane, err error) {
	used := make([]bool, len(b.cfg.out))
	for _, t := range types {
		if b.laneOf(t.name) != nil {
			continue
		}
		for i, r := range b.cfg.out {
			if !r.fits(t.name) {
				continue
			}
			used[i] = true
			l := &lane{name: t.name, topic: strings.ReplaceAll(r.topic, "{event}", t.name), bell: make(chan struct{}, 1)}
			if err := b.cfg.to.CheckTopic("bridge.out", l.topic); err != nil {
				return nil, err
			}
			l.listener = t.export("bridge/"+t.name, b.enqueue)
			if l.listener.Name() == "" {
				return nil, levee.Invalid("bridge.out", "events with names of at most 183 bytes", t.name)
			}
			b.out, lanes = append(b.out, l), append(lanes, l)
			break
		}
	}
	for i, r := range b.cfg.out {
		if !used[i] {
			return nil, levee.Invalid("bridge.out", "patterns that choose an event: "+nameList(types), r.pattern)
		}
	}
	return lanes, nil
}

func (b *Bridge) routesIn(types []Type) (ins []*intake, err error) {
	known := map[string]Type{}
	for _, t := range types {
		known[t.name] = t
	}
	for _, r := range b.cfg.in {
		if err := b.cfg.to.CheckTopic("bridge.in", r.topic); err != nil {
			return nil, err
		}
		in := &intake{topic: r.topic, event: r.event, types: known}
		if _, ok := known[r.event]; r.event != "" && !ok {
			return nil, levee.Invalid("bridge.in", "events that may come in: "+nameList(types), r.event)
		}
		for name := range known {
			if (r.event == "" || r.event == name) && b.laneOf(name) != nil {
				return nil, levee.Invalid("bridge.in", "events that do not go out by bridge.out, too: they would run in a circle", name)
			}
		}
		for _, other := range ins {
			if other.topic == in.topic {
				return nil, levee.Invalid("bridge.in", "each topic once", in.topic)
			}
		}
		ins = append(ins, in)
	}
	return ins, nil
}

func nameList(types []Type) string {
	if len(types) == 0 {
		return "there are none"
	}
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.name
	}
	return strings.Join(names, ", ")
}

// String is for logs: which broker, without its password.
func (b *Bridge) String() string {
	if !b.On() {
		return "bridge: off"
	}
	return fmt.Sprintf("bridge to %s at %s", b.cfg.to.Kind(), strings.Join(b.cfg.to.Hosts(), ","))
}
