package admission

import (
	"context"
	"slices"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// desk is one node of a house with a waiting room.
type desk struct {
	*Service
	nodes *node.Nodes
	stop  func()
}

// desks is a house of some nodes on one database.
type desks struct {
	*hall
	all []*desk
}

func (h *desks) open(name string) *desk {
	h.t.Helper()
	o := obs.Test(h.t)
	nodes, err := node.Open(h.DB, node.Config{Name: name, Address: name + ":8080"}, o)
	if err != nil {
		h.t.Fatal(err)
	}
	d := &desk{nodes: nodes}
	d.Service, err = New(Deps{IDs: h.IDs, Sealer: h.Sealer, Obs: o, Push: h.Push, DB: h.DB, Key: platformtest.Key(2), Config: h.config,
		Spread: func(hear func([]byte)) func([]byte) {
			return func(b []byte) {
				for _, other := range h.all {
					if other != d {
						other.hear(slices.Clone(b))
					}
				}
			}
		}})
	if err != nil {
		h.t.Fatal(err)
	}
	nodes.Keep(Duty, d.Serve)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nodes.Run(ctx) }()
	d.stop = func() {
		d.stop = func() {}
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
	h.t.Cleanup(func() { d.stop() })
	h.all = append(h.all, d)
	d.Follow(h.w)
	return d
}

// keeper waits for the desk that serves.
func (h *desks) keeper(not *desk) *desk {
	h.t.Helper()
	for range 1000 {
		for _, d := range h.all {
			if d == not {
				continue
			}
			if _, err := d.Mine(h.w.Public, person(999_999)); levee.CodeOf(err) == levee.CodeNotFound {
				return d
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Fatal("nobody keeps the line")
	return nil
}

func enterAt(t *testing.T, h *desks, d *desk, n int, ticket string) Place {
	t.Helper()
	p, err := d.Enter(context.Background(), h.w.Public, person(n), Visit{Ticket: ticket})
	if err != nil {
		t.Fatalf("person %d: %v", n, err)
	}
	return p
}

func newDesks(t *testing.T, p Policy) *desks {
	h := &desks{hall: hallOf(t, p)}
	h.hall.stop() // a house of desks instead
	return h
}

// Another node takes the line over, in order or not: everybody keeps his place by his ticket, no number is given twice, and the node
// that had it refuses from then on.
func TestAnotherNodeTakesTheLineOver(t *testing.T) {
	for name, end := range map[string]func(d *desk){
		"in order": func(d *desk) { d.stop() },
		"killed": func(d *desk) { // nothing more is written: as if another term had come and gone
			err := d.DB.Tx(context.Background(), "test.kill", func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE node_keep SET fence = fence + 1, member = 0 WHERE name = ?`, Duty)
				return err
			})
			if err != nil {
				t.Error(err)
			}
			d.stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				h := newDesks(t, Policy{PerSecond: 10, Multiple: 100})
				a := h.open("a")
				if h.keeper(nil) != a {
					t.Fatal("a does not keep the line")
				}
				b := h.open("b")
				time.Sleep(3 * time.Second)
				if _, err := b.Enter(t.Context(), h.w.Public, person(1), Visit{}); levee.CodeOf(err) != levee.CodeUnavailable {
					t.Fatalf("a node that does not keep the line said %v", err)
				}
				places := map[int]Place{}
				for n := range 200 {
					places[n] = enterAt(t, h, a, n, "")
				}
				h.toOpening()
				time.Sleep(5 * time.Second) // some fifty are admitted
				served := a.Numbers(theSale).Served
				if n := b.Numbers(theSale); !a.Numbers(theSale).Kept || n.Kept || n.Waiting+n.Admitted+n.Served != 0 {
					t.Fatalf("a node that does not keep the line tells %+v of it", n)
				}
				if served < 40 || served > 60 {
					t.Fatalf("%d were served", served)
				}
				time.Sleep(2 * time.Second) // what is kept is a second behind at most
				end(a)
				if h.keeper(a) != b {
					t.Fatal("b does not keep the line")
				}
				if _, err := a.Enter(t.Context(), h.w.Public, person(1000), Visit{}); levee.CodeOf(err) != levee.CodeUnavailable {
					t.Errorf("the node that kept the line before said %v", err)
				}
				if n := a.Numbers(theSale); n.Kept || n.Waiting+n.Admitted+n.Served != 0 || n.PerSecond != 0 || !b.Numbers(theSale).Kept {
					t.Errorf("the node that kept the line before still tells %+v of it", n)
				}
				stranger := enterAt(t, h, b, 5000, "")
				if stranger.Number <= places[199].Number {
					t.Errorf("a newcomer got number %d, the last before was %d", stranger.Number, places[199].Number)
				}
				for n := 199; n >= 100; n-- { // in the worst order
					p := enterAt(t, h, b, n, places[n].Ticket)
					if p.Number != places[n].Number {
						t.Errorf("person %d had number %d and has %d now", n, places[n].Number, p.Number)
					}
				}
				if p := enterAt(t, h, b, 5000, stranger.Ticket); p.Position < 100 {
					t.Errorf("the newcomer has come to position %d, before people who were there", p.Position)
				}
			})
		})
	}
}

// A node that slept through its lease does not write over what the next one has written.
func TestASleeperDoesNotWrite(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newDesks(t, Policy{PerSecond: 10, Multiple: 100})
		a := h.open("a")
		h.keeper(nil)
		old := *a.term.Load()
		for n := range 10 {
			enterAt(t, h, a, n, "")
		}
		time.Sleep(2 * time.Second)
		b := h.open("b")
		a.stop()
		h.keeper(a)
		for n := 100; n < 110; n++ {
			enterAt(t, h, b, n, "")
		}
		a.term.Store(&old) // it wakes in the middle of its work
		if err := a.saveRow(t.Context(), theSale, savedRow{order: OrderArrival, horizon: 1, given: 1}, nil); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("the sleeper's writing: %v", err)
		}
		if err := a.deleteRoom(t.Context(), theSale); levee.CodeOf(err) != levee.CodeConflict {
			t.Errorf("the sleeper's deletion: %v", err)
		}
		m, ok, err := b.remembered(t.Context(), theSale, time.Now())
		if err != nil || !ok || m.horizon < 20 {
			t.Errorf("after it stands %+v, %v, %v", m, ok, err)
		}
	})
}

// A purchase on any node frees the buyer's slot on the node that keeps the line.
func TestSpentReachesTheKeeper(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := newDesks(t, Policy{PerSecond: 100, Multiple: 1})
		h.units.Store(1) // one slot
		a := h.open("a")
		h.keeper(nil)
		b := h.open("b")
		h.toOpening()
		time.Sleep(time.Second)
		enterAt(t, h, a, 1, "")
		enterAt(t, h, a, 2, "")
		time.Sleep(time.Second)
		if p := enterAt(t, h, a, 1, ""); p.Status != Admitted {
			t.Fatalf("the first is %s", p.Status)
		}
		if p := enterAt(t, h, a, 2, ""); p.Status != Waiting {
			t.Fatalf("the second is %s before the first has bought", p.Status)
		}
		b.Spent(theSale, person(1).User)
		time.Sleep(time.Second)
		if p := enterAt(t, h, a, 2, ""); p.Status != Admitted {
			t.Errorf("the second is %s after the first has bought on another node", p.Status)
		}
	})
}
