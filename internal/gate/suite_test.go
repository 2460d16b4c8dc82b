package gate

import (
	"errors"
	"flag"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee"
)

var (
	lives = flag.Int("gate.lives", 60, "how many random lives the gate lives on each driver")
	first = flag.Uint64("gate.seed", 1, "the first life")
)

// A life of a sale over one to four nodes, drawn from a seed: after each step the gate holds what the books hold, and when all has come
// to rest, what SQL holds.
func TestLives(t *testing.T) {
	for _, d := range drivers(t) {
		t.Run(d.name, func(t *testing.T) {
			did, most := map[string]int{}, *lives
			if buckets := strings.Contains(d.name, "buckets"); testing.Short() && buckets {
				most = min(most, 12)
			}
			for seed := *first; seed < *first+uint64(most); seed++ {
				l := newLife(t, d.open(t, 1+int(seed%4), lineMax), seed)
				if problem := l.run(400, lifeOptions{calm: seed%5 == 0}); problem != "" {
					t.Fatalf("life %d: %s\n%s", seed, problem, strings.Join(l.log[max(0, len(l.log)-40):], "\n"))
				}
				for k, n := range l.did {
					did[k] += n
				}
			}
			t.Log(did)
			if most < *lives {
				return
			}
			must := []string{"verdict 0", "verdict 1", "verdict 2", "verdict 3", "verdict 4", "verdict 6", "follow", "number not known",
				"given up, and its node goes on", "stale load", "load"}
			if d.name != "memory" {
				must = append(must, "fault 1", "fault 2", "fault 3", "fault 4", "taken, reply lost", "back in time", "emptied", "pending twice over")
			}
			if strings.Contains(d.name, "buckets") {
				must = append(must, "one back in time", "one back before its load", "one emptied", "some told")
			}
			if strings.Contains(d.name, "8") { // where there are more moves
				must = append(must, "a move's fault 1", "a move's fault 2", "a move's fault 3", "a move's fault 4")
			}
			for _, k := range must {
				if did[k] == 0 {
					t.Errorf("in %d lives this never happened: %s", *lives, k)
				}
			}
		})
	}
}

// What is pending is overdue after its lease, and not before.
func TestOverdueKeepsToItsLease(t *testing.T) {
	for _, d := range drivers(t) {
		t.Run(d.name, func(t *testing.T) {
			ctx := t.Context()
			h := d.open(t, 1, 8)
			if err := h.observer.Load(ctx, State{Remaining: 5, PerBuyer: 5}); err != nil {
				t.Fatal(err)
			}
			old := Attempt{ID: 1<<62 + 1, Buyer: 1<<62 + 2, Quantity: 2, Key: -3, At: time.Now().Add(-time.Minute)}
			for i, a := range []Attempt{old, {ID: 1<<62 + 3, Buyer: 9, Quantity: 1, At: time.Now()}} {
				if _, v, _ := h.nodes[0].Take(ctx, a); v != Taken {
					t.Fatalf("attempt %d: verdict %d", i, v)
				}
			}
			if h.store != nil { // Redis goes by its own clock: the entry is made older there
				key := h.store.keys[4*bucketOf(old.Buyer, len(h.observer.buckets.all()))+pendingKey]
				log := strings.Fields(h.store.c.HGet(ctx, key, name(old.ID)).Val())
				log[3] = strconv.FormatInt(old.At.UnixMilli(), 10)
				if err := h.store.c.HSet(ctx, key, name(old.ID), strings.Join(log, " ")).Err(); err != nil {
					t.Fatal(err)
				}
			}
			for lease, want := range map[time.Duration]int{0: 2, 30 * time.Second: 1, time.Hour: 0} {
				list, err := h.observer.Overdue(ctx, lease, 10)
				if err != nil || len(list) != want || want == 1 && (list[0].ID != old.ID || list[0].Buyer != old.Buyer || list[0].Key != old.Key) {
					t.Errorf("after %s overdue are %+v (%v), want %d", lease, list, err, want)
				}
			}
		})
	}
}

// Bad input is refused as a whole, and the error names the field.
func TestBadInput(t *testing.T) {
	for _, d := range drivers(t) {
		t.Run(d.name, func(t *testing.T) {
			ctx := t.Context()
			h := d.open(t, 1, 8)
			g := h.nodes[0]
			if err := g.Load(ctx, State{Remaining: 5, PerBuyer: 5}); err != nil {
				t.Fatal(err)
			}
			win := func(w Win) Movement { return Movement{Seq: 1, Won: []Win{{ID: 1, Buyer: 1, Quantity: 1}, w}} }
			for field, err := range map[string]error{
				"seq":               g.Apply(ctx, Movement{Seq: 0, Free: 1}),
				"free":              g.Apply(ctx, Movement{Seq: 1, Free: maxUnits + 1}),
				"won.id":            g.Apply(ctx, win(Win{Buyer: 1, Quantity: 1})),
				"won.buyer":         g.Apply(ctx, win(Win{ID: 1, Quantity: 1})),
				"won.quantity":      g.Apply(ctx, win(Win{ID: 1, Buyer: 1})),
				"won.seq":           g.Resolve(ctx, []Win{{ID: 1, Buyer: 1, Quantity: 1, Seq: -1}}, nil),
				"won and lost":      g.Resolve(ctx, nil, make([]levee.ReservationID, maxItems+1)),
				"won and holdings":  g.Apply(ctx, Movement{Seq: 1, Won: make([]Win, maxItems+1)}),
				"holdings.buyer":    g.Apply(ctx, Movement{Seq: 1, Holdings: []Change{{0, 1}}}),
				"holdings.units":    g.Apply(ctx, Movement{Seq: 1, Holdings: []Change{{1, maxQuantity + 1}}}),
				"movements":         g.Apply(ctx, numbered(maxMovements+1)...),
				"remaining":         g.Load(ctx, State{Remaining: -1, PerBuyer: 1}),
				"per_buyer":         g.Load(ctx, State{}),
				"holdings.quantity": g.Load(ctx, State{PerBuyer: 1, Holdings: []Holding{{1, -1}}}),
			} {
				var e *levee.Error
				if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Field != field {
					t.Errorf("%s: %v", field, err)
				}
			}
			if err := g.Apply(ctx, Movement{Seq: maxEarly + 1}); levee.CodeOf(err) != levee.CodeConflict {
				t.Errorf("a movement far ahead: %v", err)
			}
			if n, err := g.Numbers(ctx); err != nil || n.Remaining != 5 || n.Applied != 0 || n.Buyers != 0 || len(n.Missing) != 0 {
				t.Errorf("after bad input %+v, %v", n, err)
			}
		})
	}
}

func numbered(n int) []Movement {
	list := make([]Movement, n)
	for i := range list {
		list[i].Seq = int64(i + 1)
	}
	return list
}
