package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/line"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/sale"
)

// heardRows returns what was heard of the events so far, without the room writing it out.
func (h *house) heardRows() []heardRow {
	h.t.Helper()
	h.must(h.Events.Drain(h.t.Context()))
	rows, err := readHeard(context.Background(), h.DB.Query, 1000)
	h.must(err)
	return rows
}

// Whatever the order in which the events of an order come, its deliveries stand in the order of its steps, each once.
func TestEventsInAnyOrder(t *testing.T) {
	h := newHouse(t)
	h.hook("http://shop.test/all", "order.*")
	some, _ := h.hook("http://shop.test/some", "order.paid", "order.completed")
	lives := []struct {
		live func(levee.OrderID)
		want []string
	}{
		{func(levee.OrderID) {}, []string{typeCreated}},
		{h.pay, []string{typeCreated, typePaid}},
		{func(id levee.OrderID) { h.pay(id); h.ship(id); h.complete(id) }, []string{typeCreated, typePaid, typeShipped, typeCompleted}},
		{func(id levee.OrderID) { h.pay(id); h.ship(id); h.refund(id) }, []string{typeCreated, typePaid, typeShipped, typeRefunded}},
		{func(id levee.OrderID) { h.cancel(id, levee.System); h.pay(id); h.refund(id) }, []string{typeCreated, typeCancelled, typePaid, typeRefunded}},
		{func(id levee.OrderID) { h.cancel(id, operator) }, []string{typeCreated, typeCancelled}},
	}
	for range 25 {
		ids := h.order("sale", len(lives))
		for i, l := range lives {
			l.live(ids[i])
		}
		rows := h.heardRows()
		rand.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		again := slices.Clone(rows) // some are written out twice, as by a process that slept through the end of its turn
		for i, row := range append(rows, again[:len(again)/2]...) {
			write := func() error { return h.writeSteps(t.Context(), []heardRow{row}) }
			if row.what == typeCreated {
				write = func() error { return h.writeBatch(t.Context(), row) }
			}
			notices := h.count(`SELECT COUNT(*) FROM notify_notice`)
			if err := write(); i < len(rows) && err != nil || i >= len(rows) && !errors.Is(err, errElsewhere) {
				t.Fatal(err)
			}
			if now := h.count(`SELECT COUNT(*) FROM notify_notice`); i >= len(rows) && now != notices {
				t.Fatalf("%d notices came of a row that was written out already", now-notices)
			}
		}
		for i, id := range ids {
			check := func(hook levee.WebhookID, want []string) {
				t.Helper()
				list, err := scanDeliveries(t.Context(), h.DB.Query, selectDelivery+` WHERE subject_id = ? AND webhook_id = ? ORDER BY id`, int64(id), int64(hook))
				h.must(err)
				var got []string
				for j, d := range list {
					got = append(got, d.Type)
					if (d.state == stateReady) != (j == 0) || j > 0 && d.Version <= list[j-1].Version {
						t.Fatalf("life %d: place %d is in state %d, version %d", i, j, d.state, d.Version)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("life %d: %v, want %v", i, got, want)
				}
			}
			hooks := *h.hooks.Load()
			check(hooks[0].ID, lives[i].want)
			check(some.ID, slices.DeleteFunc(slices.Clone(lives[i].want), func(s string) bool { return s != typePaid && s != typeCompleted }))
		}
	}
}

// A rehearsal tells nobody, but webhooks that want to hear of it.
func TestRehearsals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop, other := h.world.at(shopURL), h.world.at("http://other.test/")
		h.hook(shopURL, "*")
		h.run()
		ids := h.order(sourceRehearsal, 10)
		h.pay(ids[0])
		time.Sleep(time.Minute)
		if n := h.count(`SELECT (SELECT COUNT(*) FROM notify_delivery) + (SELECT COUNT(*) FROM notify_notice) + (SELECT COUNT(*) FROM notify_heard)`); n != 0 {
			t.Errorf("%d rows were written of a rehearsal that nobody wants to hear of", n)
		}
		_, _, err := h.Create(h.op, NewWebhook{URL: "http://other.test/", Events: []string{"*"}, Rehearsals: true}, identity.Origin{})
		h.must(err)
		ids = h.order(sourceRehearsal, 10)
		h.pay(ids[0])
		h.order("sale", 1)
		h.until("the rehearsal is told", time.Minute, func() bool { n, _ := other.taken(); return n == 12 })
		time.Sleep(time.Minute)
		if n, _ := shop.taken(); n != 1 {
			t.Errorf("%d were told to the one who does not want rehearsals, want 1", n)
		}
		if n := h.count(`SELECT COUNT(*) FROM notify_notice`); n != 1 {
			t.Errorf("%d notices, want that of the real order", n)
		}
		if !strings.Contains(other.told[h.public(ids[0])][0].body, `"rehearsal":true`) {
			t.Error("the body does not say that it is a rehearsal")
		}
	})
}

// Without a webhook that wants it, nothing but the notices is written.
func TestNobodyWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.hook(shopURL, "order.shipped", "sale.*")
		h.run()
		h.order("sale", 100)
		h.until("written out", time.Minute, func() bool { return h.count(`SELECT COUNT(*) FROM notify_notice`) == 100 })
		if n := h.count(`SELECT COUNT(*) FROM notify_delivery`); n != 0 {
			t.Errorf("%d deliveries", n)
		}
	})
}

// What happened before a webhook was made is not told, even when it is heard later.
func TestOnlyWhatComesAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		time.Sleep(time.Millisecond)
		id := h.order("sale", 1)[0]
		time.Sleep(time.Millisecond)
		h.hook(shopURL, "order.*")
		h.run()
		h.pay(id)
		time.Sleep(time.Minute)
		if got := h.world.at(shopURL).types(h.public(id)); !slices.Equal(got, []string{typePaid}) {
			t.Errorf("told %v", got)
		}
	})
}

// Sales, draws and lines: each with its own subject, in order, and an offer comes after its order's creation.
func TestSalesAndLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var rehearsing levee.SaleID = 43
		h.Service.rehearsal = func(_ context.Context, id levee.SaleID) (bool, error) { return id == rehearsing, nil }
		shop := h.world.at(shopURL)
		h.hook(shopURL, "sale.*", "line.*", "order.created")
		emit := func(es ...event.Event) {
			h.tx(func(ctx context.Context, tx *db.Tx) error { return h.Events.EmitMany(ctx, tx, es...) })
		}
		id := h.order("sale", 1)[0]
		now := time.Now()
		emit(sale.StateChanged{Sale: 42, State: "scheduled", Version: 2, At: now}, sale.StateChanged{Sale: 42, State: "ended", Version: 3, At: now},
			sale.StateChanged{Sale: rehearsing, State: "ended", Version: 3, At: now}, line.Drawn{Sale: 42, Entries: 9, Winners: 0, At: now},
			line.Drawn{Sale: rehearsing, Entries: 9, Winners: 2, At: now},
			line.Offered{Entry: 7, Sale: 42, Buyer: 1000, Order: id, Quantity: 1, PayBy: now.Add(time.Hour)},
			line.Lost{Entry: 8, Sale: 42, Buyer: 1001, Reason: line.ReasonLimit, At: now}, line.Lost{Entry: 9, Sale: rehearsing, Buyer: 1001, Reason: line.ReasonLimit, At: now})
		h.run()
		h.until("all are told", time.Minute, func() bool { n, _ := shop.taken(); return n == 6 })
		time.Sleep(time.Minute)
		if n, _ := shop.taken(); n != 6 {
			t.Errorf("%d were told: rehearsals too", n)
		}
		if got := shop.types(h.public(id)); !slices.Equal(got, []string{typeCreated, typeOffered}) {
			t.Errorf("of the order: %v", got)
		}
		public := h.Sealer.Seal(levee.KindSale, 42)
		var bodies []string
		for _, m := range shop.told[public] {
			bodies = append(bodies, m.body)
		}
		for _, want := range []string{`"state":"scheduled"`, `"state":"ended"`, `"entries":9,"winners":0`, `"reason":"limit_reached"`} {
			if !strings.Contains(strings.Join(bodies, "\n"), want) {
				t.Errorf("no body says %s: %v", want, bodies)
			}
		}
		kinds := map[string]int{}
		for _, user := range []levee.UserID{1000, 1001} {
			list, _, _ := h.notices(user, "")
			for _, n := range list {
				kinds[fmt.Sprint(user, " ", n.Kind)]++
			}
		}
		if len(kinds) != 3 || kinds["1000 line.offered"] != 1 || kinds["1001 line.lost"] != 1 || kinds["1000 order.created"] != 1 {
			t.Errorf("the notices are %v", kinds)
		}
	})
}

// A fact that cannot be written out holds up the others for a while only, and is dropped loudly.
func TestBrokenFact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.hook(shopURL, "order.*")
		h.tx(func(ctx context.Context, tx *db.Tx) error {
			if err := insertHeard(ctx, tx, 1, typePaid, `{"order":4711}`); err != nil { // there is no such order
				return err
			}
			return insertHeard(ctx, tx, 2, typeCancelled, `no JSON`)
		})
		id := h.order("sale", 1)[0]
		h.pay(id)
		h.run()
		h.until("the good ones are told", 10*time.Minute, func() bool { n, _ := h.world.at(shopURL).taken(); return n == 2 })
		if n := h.count(`SELECT COUNT(*) FROM notify_heard`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// What a receiver reads: the whole of it, as documented.
func TestBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		h.hook(shopURL, "order.*")
		h.run()
		id := h.order("sale", 1)[0]
		h.until("created", time.Minute, func() bool { n, _ := shop.taken(); return n == 1 })
		h.pay(id)
		h.ship(id)
		h.until("shipped", time.Minute, func() bool { n, _ := shop.taken(); return n == 3 })
		for i, want := range []map[string]any{
			{"state": "created", "version": 1.0, "pay_by": "2000-01-01T01:00:00Z"},
			{"state": "paid", "version": 2.0, "payment": h.Sealer.Seal(levee.KindPayment, 9), "pay_by": nil},
			{"state": "shipped", "version": 3.0, "carrier": "SF Express", "tracking": "SF123"},
		} {
			var got struct {
				Data map[string]any
			}
			text := shop.told[h.public(id)][i].body
			h.must(json.Unmarshal([]byte(text), &got))
			want["order"], want["source"], want["sale"] = h.public(id), "sale", h.Sealer.Seal(levee.KindSale, 42)
			for k, v := range want {
				if fmt.Sprint(got.Data[k]) != fmt.Sprint(v) {
					t.Errorf("%s is %v, want %v in %s", k, got.Data[k], v, text)
				}
			}
			for _, piece := range []string{`"buyer":{"id":"usr_`, `"total":{"amount":990,"currency":"CNY"}`, `"title":"Lamp","quantity":1`} {
				if !strings.Contains(text, piece) {
					t.Errorf("%s is missing in %s", piece, text)
				}
			}
		}
	})
}

// Batches of new orders are written out by chunks; a stop in between repeats none and loses none.
func TestBatchStopsHalfway(t *testing.T) {
	h := newHouse(t)
	h.hook(shopURL, "order.created")
	h.order("sale", 2000)
	row := h.heardRows()[0]
	ctx, cancel := context.WithCancel(t.Context())
	written := func() int { return h.count(`SELECT COUNT(*) FROM notify_notice`) }
	go func() {
		for written() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_ = h.writeBatch(ctx, row)
	if n := written(); n == 0 {
		t.Fatal("the test stopped before it began")
	}
	for {
		rows := h.heardRows()
		if len(rows) == 0 {
			break
		}
		h.must(h.writeBatch(t.Context(), rows[0]))
	}
	if n, d := written(), h.count(`SELECT COUNT(*) FROM notify_delivery`); n != 2000 || d != 2000 {
		t.Errorf("%d notices and %d deliveries of 2000 orders", n, d)
	}
}
