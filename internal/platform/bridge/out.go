package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
)

// errAway is in the error of a connection that cannot be made.
var errAway = errors.New("the broker is away")

const (
	pageBytes  = 4 << 20 // of their data
	look       = time.Second
	backoffMin = 200 * time.Millisecond
	backoffMax = 15 * time.Second
)

// lane carries the events of one name.
type lane struct {
	name, topic string
	listener    event.Listener
	bell        chan struct{} // capacity 1
}

func (l *lane) ring() {
	select {
	case l.bell <- struct{}{}:
	default:
	}
}

// enqueue is what every listener does: it writes the row. The row's id, by which the events of a name go out, is above those of all rows of the
// name that may still wait. The relay delivers the events of one key one after the other, also from node to node, so the rows of a
// key have the order of its events, whatever the nodes' clocks show.
func (b *Bridge) enqueue(ctx context.Context, tx *db.Tx, name string, key int64, data []byte) error {
	var floor db.NullInt64
	const highest = `SELECT MAX(id) FROM bridge_out WHERE name = ?`
	row := tx.QueryRow
	if b.d.DB.Dialect().Name() != "sqlite" {
		// Not through tx: it would lock the end of the index against the other lanes of the relay. What this lane wrote in tx is below b.last.
		row = b.d.DB.QueryRow
	}
	if err := row(db.Primary(ctx), highest, name).Scan(&floor); err != nil {
		return err
	}
	rowID, err := b.d.IDs.NextAfter(max(floor.Int64, b.last.Load()))
	if err != nil {
		return err
	}
	for old := b.last.Load(); old < rowID && !b.last.CompareAndSwap(old, rowID); old = b.last.Load() {
	}
	if _, err := tx.Exec(ctx, `INSERT INTO bridge_out (name, id, event_key, data) VALUES (?, ?, ?, ?)`, name, rowID, key, string(data)); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		if l := b.laneOf(name); l != nil {
			l.ring()
		}
		if ring := b.ring.Load(); ring != nil && !b.carrying.Load() {
			(*ring)()
		}
	})
	return nil
}

// publisher is the one connection on which events go out.
type publisher struct {
	mu sync.Mutex // guards d, and the dialling of it
	d  broker.Broker
}

// get returns the connection, made when there is none.
func (p *publisher) get(ctx context.Context, b *Bridge) (broker.Broker, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.d != nil {
		return p.d, nil
	}
	limited, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	d, err := b.cfg.to.Open(limited)
	if ctx.Err() == nil {
		b.status.set(ctx, b.log, "broker", err, pick(err, "the broker is away; events wait in SQL", "the broker is there again"), "kind", b.cfg.to.Kind(), "hosts", b.cfg.to.Hosts())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	p.d = d
	return d, nil
}

func pick(err error, bad, good string) string {
	if err != nil {
		return bad
	}
	return good
}

// drop closes the connection if it still is this one; nil: any.
func (p *publisher) drop(d broker.Broker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.d != nil && (d == nil || p.d == d) {
		p.d.Close()
		p.d = nil
	}
}

// carryOut publishes the events of a lane until ctx ends.
func (b *Bridge) carryOut(ctx context.Context, l *lane) {
	wait, counted, failed := backoffMin, time.Time{}, 0
	for ctx.Err() == nil {
		n, err := b.flush(ctx, l)
		switch {
		case err == nil:
			wait, failed = backoffMin, 0
			b.status.set(ctx, b.log, "out "+l.name, nil, "events of this name reach the broker again", "event", l.name, "topic", l.topic)
		case ctx.Err() != nil:
		default:
			b.m.failures.WithLabelValues("out", l.name).Inc()
			if failed++; failed > 1 && !errors.Is(err, errAway) { // a connection that was cut is told once, by get
				b.status.set(ctx, b.log, "out "+l.name, err, "events do not reach the broker and wait in SQL", "event", l.name, "topic", l.topic)
			}
		}
		if now := time.Now(); now.Sub(counted) >= look && ctx.Err() == nil {
			counted = now
			b.measure(ctx, l)
		}
		switch {
		case err != nil:
			pause(ctx, wait/2+rand.N(wait/2))
			wait = min(2*wait, backoffMax)
		case n == 0:
			t := time.NewTimer(look)
			select {
			case <-l.bell:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
	}
}

// measure brings the lane's gauges up to date.
func (b *Bridge) measure(ctx context.Context, l *lane) {
	n, oldest, err := b.waiting(ctx, l.name)
	if err != nil {
		return // the lane says so
	}
	lag := 0.0
	if n > 0 {
		lag = b.ageOf(oldest).Seconds()
	}
	b.m.waiting.WithLabelValues(l.name).Set(float64(n))
	b.m.lag.WithLabelValues(l.name).Set(lag)
}

// ageOf is how long a row of bridge_out is there.
func (b *Bridge) ageOf(rowID int64) time.Duration { return max(b.clock().Sub(id.TimeOf(rowID)), 0) }

// flush publishes one page of a lane and takes out what the broker has. n is how many events left the queue.
func (b *Bridge) flush(ctx context.Context, l *lane) (n int, err error) {
	select {
	case b.work <- struct{}{}:
		defer func() { <-b.work }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	rows, err := b.readOut(ctx, l.name)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	ms := make([]*broker.Message, len(rows))
	for i, r := range rows {
		if ms[i], err = b.cfg.encode(l.topic, l.name, r.id, r.key, id.TimeOf(r.id), r.data); err != nil {
			return 0, err
		}
	}
	if b.seam.markFirst {
		if err := b.markOut(ctx, l.name, rows); err != nil {
			return 0, err
		}
	}
	if b.seam.markFirst && b.seam.published != nil {
		b.seam.published()
	}
	d, err := b.pub.get(ctx, b)
	if err != nil {
		return 0, err
	}
	errs := b.publish(ctx, d, l.topic, ms)
	var safe, refused []*outRow
	var reasons []string
	broken := false
	for i, e := range errs {
		switch {
		case e == nil:
			safe = append(safe, rows[i])
		case errors.Is(e, broker.ErrRefused):
			refused, reasons = append(refused, rows[i]), append(reasons, e.Error())
		default:
			err, broken = e, broken || !errors.Is(e, broker.ErrMissing)
		}
	}
	if broken {
		b.pub.drop(d)
	}
	if b.seam.published != nil && len(safe) > 0 {
		b.seam.published()
	}
	// What the broker has is taken out also when ctx ends meanwhile: else it would go twice for nothing.
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.Timeout)
	defer cancel()
	if len(safe) > 0 && !b.seam.markFirst {
		if e := b.markOut(keep, l.name, safe); e != nil {
			return 0, e
		}
	}
	b.m.published.WithLabelValues(l.name).Add(float64(len(safe)))
	if len(refused) > 0 {
		if e := b.parkOut(keep, l, refused, reasons); e != nil {
			return len(safe), errors.Join(err, e)
		}
	}
	return len(safe) + len(refused), err
}

// publish has one message of a key under way at a time, unless the driver takes all or nothing: so nothing of a key overtakes what failed
// before it.
func (b *Bridge) publish(ctx context.Context, d broker.Broker, topic string, ms []*broker.Message) []error {
	errs := make([]error, len(ms))
	if d.Atomic() || b.seam.unordered {
		limited, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
		defer cancel()
		d.Publish(limited, topic, ms, errs)
		return errs
	}
	stuck := map[string]error{} // keys of which one failed
	for rest := indexes(len(ms)); len(rest) > 0; {
		var wave, later []int
		taken := map[string]bool{}
		for _, i := range rest {
			switch k := ms[i].Key; {
			case stuck[k] != nil:
				errs[i] = stuck[k]
			case taken[k]:
				later = append(later, i)
			default:
				taken[k] = true
				wave = append(wave, i)
			}
		}
		if len(wave) == 0 {
			break
		}
		part, results := make([]*broker.Message, len(wave)), make([]error, len(wave))
		for j, i := range wave {
			part[j] = ms[i]
		}
		limited, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
		d.Publish(limited, topic, part, results)
		cancel()
		broken := error(nil)
		for j, i := range wave {
			errs[i] = results[j]
			if e := results[j]; e != nil && !errors.Is(e, broker.ErrRefused) {
				stuck[ms[i].Key], broken = e, e
			}
		}
		if broken != nil { // the rest is for the next time
			for _, i := range later {
				errs[i] = broken
			}
			break
		}
		rest = later
	}
	return errs
}

func indexes(n int) []int {
	is := make([]int, n)
	for i := range is {
		is[i] = i
	}
	return is
}

// parkOut takes away what the broker refuses for ever.
func (b *Bridge) parkOut(ctx context.Context, l *lane, rows []*outRow, reasons []string) error {
	err := b.d.DB.Tx(ctx, "bridge.park_out", func(ctx context.Context, tx *db.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM bridge_parked WHERE direction = 1`).Scan(&n); err != nil {
			return err
		}
		if n+len(rows) > b.cfg.ParkedMax {
			return levee.E(levee.CodeUnavailable, "%d events are parked, as many as bridge.parked_max allows; the broker refuses others", n)
		}
		for i, r := range rows {
			p := Parked{ID: r.id, Out: true, Topic: l.topic, MessageID: "", Event: l.name, Key: r.key, Data: string(r.data), Reason: reasons[i]}
			if err := b.parkTx(ctx, tx, p); err != nil {
				return err
			}
		}
		return deleteOutTx(ctx, tx, l.name, rows)
	})
	if err != nil {
		return err
	}
	b.m.parked.WithLabelValues("out").Add(float64(len(rows)))
	b.log.ErrorContext(ctx, "events are parked: the broker refuses them", "event", l.name, "topic", l.topic, "count", len(rows), "id", rows[0].id, "reason", reasons[0])
	return nil
}

// status remembers what works, so that only changes are logged.
type status struct {
	mu  sync.Mutex
	bad map[string]string // what does not work, and why
}

// set logs one line when the state of what changes.
func (s *status) set(ctx context.Context, log *slog.Logger, what string, err error, text string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.bad[what]
	switch {
	case err == nil && was:
		delete(s.bad, what)
		log.InfoContext(ctx, text, args...)
	case err != nil:
		if s.bad == nil {
			s.bad = map[string]string{}
		}
		s.bad[what] = levee.Shorten(err.Error(), 300)
		if !was {
			log.ErrorContext(ctx, text, append(args, "err", err)...)
		}
	}
}

// why returns what is known about the first of these that does not work.
func (s *status) why(whats ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range whats {
		if text := s.bad[w]; text != "" {
			return text
		}
	}
	return ""
}

func (s *status) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = nil
}
