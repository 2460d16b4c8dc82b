package event_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// Paid is what happened, in the past tense; its name carries its version.
type Paid struct {
	Order int64
	Cents int64
}

func (Paid) EventName() string { return "order.paid.v2" }
func (e Paid) EventKey() int64 { return e.Order }

// PaidV1 is how it was said before, in whole euros.
type PaidV1 struct {
	Order int64
	Euros int64
}

func (PaidV1) EventName() string { return "order.paid.v1" }
func (e PaidV1) EventKey() int64 { return e.Order }

// house is what a program has anyway.
type house struct {
	*db.DB
	ids *id.Generator
	o   *obs.Obs
	dir string
}

func open() house {
	dir, err := os.MkdirTemp("", "event")
	must(err)
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	must(err)
	d, err := db.Open(context.Background(), db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, o) // or mysql://
	must(err)
	_, err = d.Migrate(context.Background(), []db.Schema{event.Schema()})
	must(err)
	ids, err := id.Open(context.Background(), id.Config{Dir: filepath.Join(dir, "id")}, o)
	must(err)
	return house{d, ids, o, dir}
}

func (h house) close() {
	must(h.ids.Close())
	must(h.DB.Close())
	must(os.RemoveAll(h.dir))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// An event is written with what it tells of, and its effect commits with the mark that it was handled.
func ExampleBus_Emit() {
	h := open()
	defer h.close()
	bus := event.Open(h.DB, h.ids, h.o)
	must(bus.Register(event.Listen("stats.paid", func(ctx context.Context, tx *db.Tx, e Paid) error {
		fmt.Println("order", e.Order, "paid", e.Cents) // a real one writes through tx
		return nil
	})))
	ctx := context.Background()
	must(h.Tx(ctx, "order.pay", func(ctx context.Context, tx *db.Tx) error {
		// … the order's row …
		return bus.Emit(ctx, tx, Paid{Order: 7, Cents: 1250})
	}))
	must(bus.Drain(ctx)) // a program has Run going instead
	// Output: order 7 paid 1250
}

// A listener of the new version hears what older programs say, and what was said before.
func ExampleUpcast() {
	h := open()
	defer h.close()
	bus := event.Open(h.DB, h.ids, h.o)
	must(bus.Register(event.Listen("stats.paid", func(ctx context.Context, tx *db.Tx, e Paid) error {
		fmt.Println("order", e.Order, "paid", e.Cents)
		return nil
	}, event.Upcast(func(e PaidV1) (Paid, error) { return Paid{Order: e.Order, Cents: 100 * e.Euros}, nil }))))
	ctx := context.Background()
	must(h.Tx(ctx, "order.pay", func(ctx context.Context, tx *db.Tx) error {
		return bus.EmitMany(ctx, tx, PaidV1{Order: 7, Euros: 12}, Paid{Order: 7, Cents: 50})
	}))
	must(bus.Drain(ctx))
	// Output:
	// order 7 paid 1200
	// order 7 paid 50
}

// A listener that comes later begins with what is kept; one that is there already is sent back.
func ExampleBus_Replay() {
	h := open()
	defer h.close()
	kept := event.Config{Kept: []string{"order.*"}} // for 7 days
	ctx := context.Background()
	say := func(bus *event.Bus, cents int64) {
		must(h.Tx(ctx, "order.pay", func(ctx context.Context, tx *db.Tx) error { return bus.Emit(ctx, tx, Paid{Order: 7, Cents: cents}) }))
		must(bus.Drain(ctx))
	}
	first := event.Open(h.DB, h.ids, h.o, kept)
	say(first, 100)

	next := event.Open(h.DB, h.ids, h.o, kept) // the next release has a listener
	total := int64(0)
	must(next.Register(event.Listen("stats.paid", func(ctx context.Context, tx *db.Tx, e Paid) error {
		total += e.Cents
		return nil
	}, event.FromKept())))
	say(next, 20)
	fmt.Println(total)

	total = 0 // its figures were wrong: clear them, and go through all again
	_, err := next.Replay(ctx, "stats.paid", event.Start())
	must(err)
	must(next.Drain(ctx))
	fmt.Println(total)
	// Output:
	// 120
	// 120
}

// What cannot be delivered is parked. It is listed by listener, retried once its cause is mended, or discarded.
func ExampleBus_RetryParkedOf() {
	h := open()
	defer h.close()
	bus := event.Open(h.DB, h.ids, h.o)
	broken := true
	must(bus.Register(event.Listen("stats.paid", func(ctx context.Context, tx *db.Tx, e Paid) error {
		fmt.Println("order", e.Order, "paid", e.Cents)
		return nil
	}, event.Upcast(func(e PaidV1) (Paid, error) {
		if broken {
			return Paid{}, fmt.Errorf("no rate for order %d", e.Order)
		}
		return Paid{Order: e.Order, Cents: 100 * e.Euros}, nil
	}))))
	ctx := context.Background()
	must(h.Tx(ctx, "order.pay", func(ctx context.Context, tx *db.Tx) error {
		return bus.EmitMany(ctx, tx, PaidV1{Order: 7, Euros: 12}, Paid{Order: 7, Cents: 50})
	}))
	must(bus.Drain(ctx))
	parked, err := bus.ParkedOf(ctx, "stats.paid", 0, 100)
	must(err)
	fmt.Println(len(parked), parked[0].Error)
	broken = false
	retried, err := bus.RetryParkedOf(ctx, "stats.paid", 0, 100)
	must(err)
	fmt.Println(len(retried.Done), "done,", len(retried.Failed), "failed")
	// Output:
	// order 7 paid 50
	// 1 event order.paid.v1 does not become order.paid.v2: no rate for order 7
	// order 7 paid 1200
	// 1 done, 0 failed
}
