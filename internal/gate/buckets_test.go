package gate

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/redis"
)

// Buyers are spread evenly, and so are buckets over a cluster's slots; the places are for ever, because nodes of all versions must agree.
func TestPlaces(t *testing.T) {
	for _, count := range []int{1, 2, 3, 8, BucketsMax} {
		seen := make([]int, count)
		for i := range 60_000 {
			seen[bucketOf(levee.UserID(1<<61+i*4096), count)]++
		}
		for place, n := range seen {
			if want := 60_000 / count; n < want*9/10 || n > want*11/10 {
				t.Errorf("of 60,000 buyers, bucket %d of %d has %d", place, count, n)
			}
		}
		for sale := range 50 {
			for place := range count {
				if slot := slotOf(tagOf(levee.SaleID(1<<60+sale), count, place)); count > 1 && slot*count/16384 != place {
					t.Errorf("bucket %d of %d has slot %d", place, count, slot)
				}
			}
		}
	}
	if n := slotOf("123456789"); n != 0x31C3 { // the check value of the cluster specification
		t.Errorf("slot %d", n)
	}
	if tag, place := tagOf(77, 3, 2), bucketOf(123456789, 16); tag != "sale:25:3.2.12" || place != 5 {
		t.Errorf("a bucket is named %s, a buyer stands at %d: a gate that is loaded would not be found again", tag, place)
	}
}

// All shares of a movement are its units, and small ones go round.
func TestShares(t *testing.T) {
	for _, count := range []int{1, 2, 3, 8, BucketsMax} {
		for _, free := range []int64{0, 1, -1, 7, -7, 8, 100, -100, maxUnits, -maxUnits} {
			for seq := int64(1); seq < 40; seq++ {
				sum, least, most := int64(0), int64(maxUnits), int64(-maxUnits)
				for place := range count {
					n := share(free, seq, place, count)
					sum, least, most = sum+n, min(least, n), max(most, n)
				}
				if sum != free || most-least > 1 {
					t.Fatalf("%d over %d buckets: %d in all, from %d to %d", free, count, sum, least, most)
				}
			}
		}
		got := make([]int64, count)
		for seq := range int64(count) {
			for place := range got {
				got[place] += share(1, seq+1, place, count)
			}
		}
		for place, n := range got {
			if n != 1 {
				t.Errorf("of %d single units, bucket %d got %d", count, place, n)
			}
		}
	}
}

// moveLife draws moves whose halves are cut, repeated and late, between takes. Units are never more nor fewer: what is free, under way and
// taken is what there was. It returns what was wrong, or "".
func moveLife(t *testing.T, texts scripts, seed uint64) string {
	const stock, count = 60, 4
	ctx := t.Context()
	r := rand.New(rand.NewPCG(seed, 5))
	h := openShared(t, testServer(t), 1, 1<<20, texts, count)
	g, k := h.nodes[0], h.nodes[0].buckets
	load := func(n int64) {
		if err := g.Load(ctx, State{Remaining: n, PerBuyer: maxQuantity}); err != nil {
			t.Fatal(err)
		}
	}
	load(stock)
	list, generation := k.all(), k.look(ctx, k.all())[0].generation
	type receipt struct {
		from, to int
		sum      int64
	}
	var receipts []receipt
	taken, buyer := int64(0), levee.UserID(1)
	for range 150 {
		from, to := r.IntN(count), r.IntN(count)
		switch r.IntN(6) {
		case 0, 1:
			if from != to {
				sum, _, err := list[from].move(ctx, generation, to, "send", int64(1+r.IntN(30)))
				if err != nil {
					return err.Error()
				}
				if sum > 0 && r.IntN(2) == 0 { // the other half: at once or late, once or often, or never
					receipts = append(receipts, receipt{from, to, sum})
				}
			}
		case 2, 3:
			if len(receipts) > 0 {
				c := receipts[r.IntN(len(receipts))]
				if _, _, err := list[c.to].move(ctx, generation, c.from, "receive", c.sum); err != nil {
					return err.Error()
				}
				if _, _, err := list[c.from].move(ctx, generation, c.to, "owe", c.sum); err != nil { // as if it were forgotten there
					return err.Error()
				}
			}
		case 4:
			buyer++
			if t, _, _ := list[bucketOf(buyer, count)].take(Attempt{ID: levee.ReservationID(buyer), Buyer: buyer, Quantity: 1}); t != nil {
				taken++
			}
		case 5:
			if r.IntN(8) == 0 {
				if _, err := k.level(ctx, list); err != nil {
					return err.Error()
				}
			}
		}
		free := int64(0)
		for _, s := range k.look(ctx, list) {
			if s.remaining < 0 {
				return "a bucket gave what it had not"
			}
			free += s.remaining
			for other := range count {
				free += s.out[other] - s.in[other]
			}
		}
		if free+taken != stock {
			return "units were made or lost"
		}
	}
	// A new load: what was sent before it is no more.
	load(stock - 10)
	for _, c := range receipts {
		if _, _, err := list[c.to].move(ctx, generation, c.from, "receive", c.sum+5); err != errOther {
			return "a move of an earlier load arrived"
		}
	}
	if n, err := g.Numbers(ctx); err != nil || n.Remaining+n.Unsettled != stock-10 {
		return "after a load there are other units than were loaded"
	}
	return ""
}

func TestMovesThatAreCut(t *testing.T) {
	needRedis(t)
	for seed := range uint64(20) {
		if problem := moveLife(t, ofTheHouse, seed); problem != "" {
			t.Fatalf("life %d: %s", seed, problem)
		}
	}
	for what, b := range map[string][2]string{
		"a bucket sends what it has not":      {"math.max(math.min(number, remaining), 0)", "number"},
		"units move from one load to another": {"if head[2] ~= generation then", "if false then"},
	} {
		t.Run(what, func(t *testing.T) {
			if strings.Count(moveText, b[0]) != 1 {
				t.Fatalf("%q is %d times in move.lua", b[0], strings.Count(moveText, b[0]))
			}
			broken := ofTheHouse
			broken.move = redis.NewScript(strings.Replace(moveText, b[0], b[1], 1))
			for seed := range uint64(20) {
				if problem := moveLife(t, broken, seed); problem != "" {
					t.Logf("caught in life %d: %s", seed, problem)
					return
				}
			}
			t.Error("20 lives noticed nothing")
		})
	}
}

// Nodes that are set to other numbers of buckets follow the one that the gate was loaded with; the next load decides anew.
func TestNodesOfOtherNumbers(t *testing.T) {
	needRedis(t)
	ctx := t.Context()
	url := testServer(t)
	sale := levee.SaleID(saleNumber.Add(1))
	one := newGate(client(t, url, 1).Client, ofTheHouse, sale, "one", 100, 1)
	four := newGate(client(t, url, 2).Client, ofTheHouse, sale, "four", 100, 4)
	t.Cleanup(func() { _, _ = one.Forget(context.Background(), 1), four.Forget(context.Background(), 1) })
	buyer := levee.UserID(7)
	take := func(g *Gate, id int) Verdict {
		_, v, _ := g.Take(ctx, Attempt{ID: levee.ReservationID(id), Buyer: buyer, Quantity: 1, Key: int64(id), Checked: true})
		return v
	}
	warm := func(g *Gate, free int64, count int) {
		t.Helper()
		n, err := g.Numbers(ctx)
		if err != nil || !n.Warm || n.Remaining != free || len(g.buckets.all()) != count {
			t.Fatalf("%+v, %v, %d buckets; wanted are %d free in %d", n, err, len(g.buckets.all()), free, count)
		}
	}
	load := func(g *Gate, st State) {
		t.Helper()
		if err := g.Load(ctx, st); err != nil {
			t.Fatal(err)
		}
	}
	load(one, State{Remaining: 10, PerBuyer: 2})
	if v := take(four, 1); v != Cold {
		t.Fatalf("a node that looks for four buckets where one is said %d", v)
	}
	warm(four, 10, 1)
	if a, b, c := take(four, 2), take(one, 3), take(four, 4); a != Taken || b != Taken || c != OverLimit {
		t.Fatalf("one buyer at two nodes: %d, %d, %d", a, b, c)
	}
	load(four, State{Seq: 3, Remaining: 8, PerBuyer: 3, Holdings: []Holding{{buyer, 2}}})
	warm(four, 8, 4)
	if v := take(one, 5); v != Cold {
		t.Fatalf("a gate that is no more said %d", v)
	}
	warm(one, 8, 4)
	one.SetLimit(3)
	if a, b := take(one, 6), take(four, 7); a != Taken || b != OverLimit {
		t.Fatalf("one buyer at two nodes: %d, %d", a, b)
	}
	// A load that is under way keeps others out, whatever number they have; one whose lock was lost changes nothing.
	c := one.buckets.c.UniversalClient()
	if err := c.Set(ctx, one.buckets.base+"loading", "another node's token", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*Gate{one, four} {
		if err := g.Load(ctx, State{Remaining: 1, PerBuyer: 1}); levee.CodeOf(err) != levee.CodeConflict {
			t.Fatalf("two load at once: %v", err)
		}
	}
	warm(four, 7, 4)
	c.Del(ctx, one.buckets.base+"loading")
	load(one, State{Seq: 4, Remaining: 7, PerBuyer: 3, Holdings: []Holding{{buyer, 3}}})
	if v := take(four, 8); v != Cold {
		t.Fatalf("a gate that is no more said %d", v)
	}
	warm(four, 7, 1)
	keys, err := c.Keys(ctx, one.buckets.c.Key("{sale:"+name(sale)+"*")).Result()
	if err != nil || len(keys) != 2 {
		t.Errorf("more than head and buyers are left: %v, %v", keys, err)
	}
}

// A load that is cut between two buckets makes no units: the gate is cold until the next one, and nobody is told "sold out".
func TestLoadThatIsCut(t *testing.T) {
	needRedis(t)
	ctx := t.Context()
	for cut := 1; cut <= 3; cut++ {
		h := openShared(t, testServer(t), 1, 100, ofTheHouse, 3)
		g, k := h.nodes[0], h.nodes[0].buckets
		if err := g.Load(ctx, State{Remaining: 9, PerBuyer: 9}); err != nil {
			t.Fatal(err)
		}
		token := newToken()
		for i := 3 - cut; i < 3; i++ { // those after the first come first
			l := k.all()[i].loading(token)
			if err := l.begin(ctx); err != nil {
				t.Fatal(err)
			}
			st := State{PerBuyer: 9}
			if i == 0 {
				st.Remaining = 9
			}
			if err := l.end(ctx, 0, st); err != nil {
				t.Fatal(err)
			}
		}
		n, err := g.Numbers(ctx)
		if err != nil || n.Warm != (cut == 3) {
			t.Errorf("cut after %d: %+v, %v", cut, n, err)
		}
		taken := 0
		for buyer := levee.UserID(1); buyer < 60; buyer++ {
			switch _, v, _ := g.Take(ctx, Attempt{ID: levee.ReservationID(buyer), Buyer: buyer, Quantity: 1}); {
			case v == Taken:
				taken++
			case v == SoldOut && cut < 3:
				t.Fatalf("cut after %d, a buyer is told that all is sold", cut)
			}
		}
		if taken > 9 || cut == 3 && taken != 9 {
			t.Errorf("cut after %d: %d of 9 were taken", cut, taken)
		}
	}
}

// On a cluster, the buckets stand on different masters. One of them is killed in the crowd: buyers of the others go on, nobody is told "sold out"
// while it cannot be asked, and by the ledger and the sums of the moves the gate comes back to what SQL holds.
func TestMasterOfABucketIsKilled(t *testing.T) {
	needRedis(t)
	ctx := t.Context()
	cluster, err := backends.StartCluster(ctx, backends.ClusterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	h := bucketsOn(t, cluster.URL(), 2, 3)
	m := newMarket(t, h, 3000, 2)
	m.lossy = true
	for place, b := range h.observer.buckets.all() {
		if n, err := cluster.Nodes[place].Do(ctx, "EXISTS", b.keys[headKey]); err != nil || n != int64(1) {
			t.Fatalf("bucket %d is not on master %d: %v, %v", place, place, n, err)
		}
	}
	dead := make(chan error, 1)
	go func() {
		for m.took.Load() < 800 {
			time.Sleep(time.Millisecond)
		}
		dead <- cluster.Nodes[1].Kill()
	}()
	m.crowd(16, 20_000, func(n int) bool { return m.away.Load() > 50 || n == 3000 })
	if err := <-dead; err != nil {
		t.Fatal(err)
	}
	if m.away.Load() == 0 {
		t.Fatal("the death of a master was not noticed")
	}
	// Until its replica takes over, the others sell what they have, and then say that they cannot know.
	said := map[Verdict]int{}
	for buyer := levee.UserID(1 << 50); buyer < 1<<50+300; buyer++ {
		at := bucketOf(buyer, 3)
		v := m.buy(h.nodes[0], Attempt{ID: levee.ReservationID(buyer), Buyer: buyer, Quantity: 1, At: time.Now()})
		said[v]++
		if v == SoldOut {
			t.Fatalf("a buyer of bucket %d is told that all is sold, and one bucket cannot be asked", at)
		}
	}
	if err := cluster.Promoted(ctx, cluster.Nodes[4]); err != nil {
		t.Fatal(err)
	}
	until(t, "the gate is whole again", func() bool {
		n, err := h.observer.Numbers(ctx)
		return err == nil && n.Warm
	})
	took := m.took.Load()
	m.crowd(16, 20_000, func(n int) bool {
		n2, err := h.observer.Numbers(ctx)
		return n == 2000 || err == nil && n2.Remaining <= 0
	})
	m.rest(h.observer)
	t.Logf("%d taken, %d of them after the fail-over; %d away; while it lasted %v; SQL refused %d for lack of stock, %d units left",
		m.took.Load(), m.took.Load()-took, m.away.Load(), said, m.sql.noStock, m.sql.remaining)
}
