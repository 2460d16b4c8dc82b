package bridge

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
)

const (
	intakeBytes = 1 << 20 // of events in one transaction
	forgetEvery = time.Minute
	forgetRows  = 1000
)

// intake is one topic from which messages come in.
type intake struct {
	topic, event string // event "": the messages name theirs
	types        map[string]Type
}

// carryIn takes in the messages of a topic until ctx ends, each time over a connection of its own.
func (b *Bridge) carryIn(ctx context.Context, in *intake) {
	wait := backoffMin
	what := "in " + in.topic
	works := func() {
		b.status.set(ctx, b.log, what, nil, "messages come in again", "topic", in.topic)
		wait = backoffMin
	}
	for ctx.Err() == nil {
		err := b.session(ctx, in, works)
		if ctx.Err() != nil {
			return
		}
		b.m.failures.WithLabelValues("in", in.topic).Inc()
		b.status.set(ctx, b.log, what, err, "messages do not come in and are left to the broker", "topic", in.topic)
		pause(ctx, wait/2+rand.N(wait/2))
		wait = min(2*wait, backoffMax)
	}
}

// session takes in over one connection. Its error is never nil.
func (b *Bridge) session(ctx context.Context, in *intake, works func()) error {
	limited, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	d, err := b.cfg.to.Open(limited)
	cancel()
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Consume(ctx, in.topic, func(ctx context.Context, ms []*broker.Message) error {
		works() // an empty call says that the topic was asked and answered
		all := func() error {
			for len(ms) > 0 {
				n, err := b.take(ctx, in, ms)
				if err != nil {
					return err
				}
				ms = ms[n:]
			}
			return nil
		}
		if b.seam.deliver != nil {
			return b.seam.deliver(all)
		}
		return all()
	})
	if err == nil {
		err = errors.New("the broker ended the reading")
	}
	return err
}

// take makes events of the first of ms and returns how many messages they are.
func (b *Bridge) take(ctx context.Context, in *intake, ms []*broker.Message) (int, error) {
	as, size := make([]*arrival, 0, len(ms)), 0
	for _, m := range ms {
		a := in.read(m, b.cfg.MaxMessage)
		as = append(as, a)
		if size += a.size; size >= intakeBytes {
			break
		}
	}
	err := b.store(ctx, in, as)
	switch code := levee.CodeOf(err); {
	case err == nil:
	case len(as) > 1 && (code == levee.CodeInvalid || code == levee.CodeTooLarge):
		// One of them is at fault. Each goes alone, so that it parks alone.
		for i := range as {
			if err := b.storeAlone(ctx, in, as[i]); err != nil {
				return 0, err
			}
		}
	case code == levee.CodeInvalid || code == levee.CodeTooLarge:
		if err := b.storeAlone(ctx, in, as[0]); err != nil {
			return 0, err
		}
	default:
		return 0, err
	}
	if b.seam.taken != nil {
		b.seam.taken()
	}
	return len(as), nil
}

// storeAlone stores one message, as parked when the bus does not take its event.
func (b *Bridge) storeAlone(ctx context.Context, in *intake, a *arrival) error {
	err := b.store(ctx, in, []*arrival{a})
	if code := levee.CodeOf(err); code == levee.CodeInvalid || code == levee.CodeTooLarge {
		a.ev, a.reason = nil, err.Error()
		err = b.store(ctx, in, []*arrival{a})
	}
	return err
}

// store commits the events of messages that were not seen before, with the note that they were.
func (b *Bridge) store(ctx context.Context, in *intake, as []*arrival) error {
	var taken, repeated, parked int
	err := b.d.DB.Tx(ctx, "bridge.take", func(ctx context.Context, tx *db.Tx) error {
		taken, repeated, parked = 0, 0, 0
		seen := map[string]bool{}
		if !b.seam.blind {
			if err := seenTx(ctx, tx, as, seen); err != nil {
				return err
			}
		}
		now := b.clock().UnixMicro()
		var events []event.Event
		var notes [][]any
		for _, a := range as {
			if seen[a.digest] {
				repeated++
				continue
			}
			if a.digest != "" && !b.seam.blind {
				seen[a.digest] = true
				notes = append(notes, []any{a.digest, now})
			}
			if a.ev != nil {
				events = append(events, a.ev)
				taken++
				continue
			}
			parked++
			if err := b.parkInTx(ctx, tx, in, a); err != nil {
				return err
			}
		}
		if err := tx.InsertRows(ctx, "bridge_seen", []string{"digest", "seen_at"}, notes); err != nil {
			return err
		}
		if parked > 0 {
			if err := b.boundParkedTx(ctx, tx); err != nil {
				return err
			}
		}
		return b.d.Bus.EmitMany(ctx, tx, events...)
	})
	if err != nil {
		return err
	}
	b.m.received.WithLabelValues(in.topic).Add(float64(taken))
	b.m.repeated.WithLabelValues(in.topic).Add(float64(repeated))
	b.m.parked.WithLabelValues("in").Add(float64(parked))
	for _, a := range as {
		if a.ev == nil && parked > 0 {
			b.log.WarnContext(ctx, "messages are parked: they cannot be read", "topic", in.topic, "count", parked, "id", levee.Shorten(a.id, 80), "reason", a.reason)
			break
		}
	}
	return nil
}

// parkInTx keeps a message that cannot be read.
func (b *Bridge) parkInTx(ctx context.Context, tx *db.Tx, in *intake, a *arrival) error {
	parkedID, err := b.d.IDs.Next()
	if err != nil {
		return err
	}
	p := Parked{ID: parkedID, Topic: in.topic, MessageID: levee.Shorten(a.id, 190), Event: levee.Shorten(a.name, 190), Reason: a.reason}
	text := a.m.Body
	if p.Cut = len(text) > maxData; p.Cut {
		text = text[:maxData]
	}
	p.Data = string(text)
	if !utf8.ValidString(p.Data) {
		p.Cut = true // what cannot be kept as it is cannot be given again
		p.Data = toUTF8(p.Data)
	}
	return b.parkTx(ctx, tx, p)
}

// forget removes notes that are older than the window, in small steps.
func (b *Bridge) forget(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := b.forgetSome(ctx, b.clock().Add(-b.cfg.Window))
		if err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "old notes of incoming messages could not be removed; it is tried again", "err", err)
		}
		if err != nil || n < forgetRows {
			pause(ctx, forgetEvery)
		}
	}
}
