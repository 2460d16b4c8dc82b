package event

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"levee"
	"levee/internal/platform/db"
)

// Option says more about a listener, to Listen.
type Option struct {
	up   *upcaster
	kept bool
	err  error
}

// upcaster makes the event of one version into that of the next.
type upcaster struct {
	from, to         string
	fromType, toType reflect.Type
	read             func(payload string) (any, error)
	step             func(any) (any, error)
}

// Upcast has a listener hear an older event too, which fn makes into the newer one: Upcast[PaidV1, PaidV2] on a listener of PaidV2. Several go
// on from each other (v1 to v2, v2 to v3). fn must be pure and must keep the EventKey; an event on which it fails is parked at once, as one
// that does not decode. It serves live, replayed and parked events alike.
func Upcast[From, To Event](fn func(From) (To, error)) Option {
	from, to := reflect.TypeFor[From](), reflect.TypeFor[To]()
	for _, t := range []reflect.Type{from, to} {
		if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
			return Option{err: levee.Invalid("upcast", "between structs, not pointers or interfaces", t)}
		}
	}
	if fn == nil {
		return Option{err: levee.Invalid("upcast", "a function", "nil")}
	}
	var f From
	var t To
	u := &upcaster{from: f.EventName(), to: t.EventName(), fromType: from, toType: to}
	if u.from == u.to || u.from == "" || len(u.from) > maxName {
		return Option{err: levee.Invalid("upcast", "from one event name to another one, of 1 to 190 bytes", u.from)}
	}
	u.read = func(payload string) (any, error) {
		var e From
		err := json.Unmarshal([]byte(payload), &e)
		return e, err
	}
	u.step = func(v any) (any, error) {
		e := v.(From)
		next, err := fn(e)
		if err == nil && next.EventKey() != e.EventKey() {
			err = fmt.Errorf("the key %d became %d", e.EventKey(), next.EventKey())
		}
		return next, err
	}
	return Option{up: u}
}

// FromKept has a listener that is new to the bus begin with the oldest event that is kept (Config.Kept), in order, and go on live from there.
// Without it a new listener begins with the events that were not delivered yet when it came. It does nothing for a listener that the bus has
// seen before: that one is sent back by Replay.
func FromKept() Option { return Option{kept: true} }

// decoder makes a payload into what runs a listener.
type decoder func(payload string) (deliver, error)

// decoders returns the decoder of each event name that a listener of E with these options hears.
func decoders[E Event](fn func(ctx context.Context, tx *db.Tx, e E) error, opts []Option) (map[string]decoder, error) {
	var zero E
	own := zero.EventName()
	steps := map[string]*upcaster{}
	for _, o := range opts {
		switch {
		case o.err != nil:
			return nil, o.err
		case o.up == nil:
		case steps[o.up.from] != nil || o.up.from == own:
			return nil, levee.Invalid("upcast", "one way from each event to "+own, o.up.from)
		default:
			steps[o.up.from] = o.up
		}
	}
	all := map[string]decoder{own: func(payload string) (run deliver, err error) {
		defer caught(own, &err)
		var e E
		if err := json.Unmarshal([]byte(payload), &e); err != nil {
			return nil, fmt.Errorf("event %s does not decode: %w", own, err)
		}
		return func(ctx context.Context, tx *db.Tx) error { return fn(ctx, tx, e) }, nil
	}}
	for from, first := range steps {
		way := []*upcaster{first}
		for at := first; at.to != own; way = append(way, at) {
			next := steps[at.to]
			if next == nil || next.fromType != at.toType || len(way) > len(steps) {
				return nil, levee.Invalid("upcast", "a way that ends at "+own, from)
			}
			at = next
		}
		if way[len(way)-1].toType != reflect.TypeFor[E]() {
			return nil, levee.Invalid("upcast", "a way that ends at the listener's type", from)
		}
		all[from] = func(payload string) (run deliver, err error) {
			defer caught(from, &err)
			v, err := first.read(payload)
			if err != nil {
				return nil, fmt.Errorf("event %s does not decode: %w", from, err)
			}
			for _, u := range way {
				if v, err = u.step(v); err != nil {
					return nil, fmt.Errorf("event %s does not become %s: %w", u.from, u.to, err)
				}
			}
			e := v.(E)
			return func(ctx context.Context, tx *db.Tx) error { return fn(ctx, tx, e) }, nil
		}
	}
	return all, nil
}

// caught turns a panic of a decoder into its error.
func caught(name string, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("event %s does not decode: panic: %v\n%s", name, p, stack())
	}
}
