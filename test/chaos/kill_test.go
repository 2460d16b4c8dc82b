package chaos

import (
	"flag"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	kills = flag.Int("chaos.kills", 25, "how often TestKills kills the house")
	seed  = flag.Uint64("chaos.seed", 0, "of the dice; 0: a new one")
)

// run is one crowd over many lives of one house.
type run struct {
	*scene
	dice   *rand.Rand
	killed int
	ready  []time.Duration // from exec to ready, of each life that came so far
}

// newRun opens a house in a folder on the disk. Its first life is up.
func newRun(t testing.TB, bin string) *run {
	t.Helper()
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-chaos.seed=%d", n)
	began := time.Now()
	h := newHouse(t, bin, filepath.Join(t.TempDir(), "data"))
	r := &run{dice: rand.New(rand.NewPCG(n, 0))}
	r.ready = append(r.ready, h.up(t))
	r.scene = open(t, h, n, 30*time.Millisecond)
	t.Logf("the first life took %v to begin, the scene %v", r.ready[0].Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	return r
}

// between is a random time.
func (r *run) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.dice.Int64N(int64(most-least)+1))
}

// kill kills the house at a random moment of its life and returns once it is dead.
func (r *run) kill(t testing.TB) {
	switch n := r.dice.IntN(10); {
	case n < 2: // in its start-up: kill, start, kill again
		time.Sleep(r.between(50*time.Millisecond, 500*time.Millisecond))
		r.house.kill()
		r.killed++
		r.start(t)
		time.Sleep(r.between(0, slices.Max(r.ready)))
	case n < 4: // soon after it is ready
		time.Sleep(r.between(0, 60*time.Millisecond))
	default: // in mid-sale, sometimes in an operator's act
		time.Sleep(r.between(100*time.Millisecond, 700*time.Millisecond))
		if r.dice.IntN(3) == 0 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				r.operate()
			}()
			time.Sleep(r.between(0, 4*time.Millisecond))
			r.house.kill()
			r.killed++
			<-done
			return
		}
		if r.topOpen {
			r.operate()
		}
		if r.dice.IntN(3) > 0 { // the moment at which an answer that ran ahead of its commit would be a lie
			select {
			case <-r.crowd.won:
			case <-time.After(time.Second):
			}
			time.Sleep(r.between(0, 300*time.Microsecond))
		}
	}
	r.house.kill()
	r.killed++
}

// lives kills and restarts until the audit finds something that holds the text, or the number of kills is reached. It returns
// what was found then.
func (r *run) lives(t testing.TB, kills int, text string) []string {
	t.Helper()
	for r.killed < kills {
		r.kill(t)
		r.ready = append(r.ready, r.up(t))
		wrong := r.audit(t, false, false, r.dice)
		if slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(s, text) }) {
			return wrong
		}
	}
	return nil
}

func (r *run) report(t testing.TB) {
	t.Helper()
	rows := map[string]int{}
	for _, w := range r.crowd.wishes {
		if len(w.told) > 0 {
			rows["told 201"]++
		}
	}
	sorted := slices.Sorted(slices.Values(r.ready))
	t.Logf("%d kills, %d restarts; exec to ready: median %v, max %v; %d keys, %d told 201; answers %v",
		r.killed, len(r.ready)-1, sorted[len(sorted)/2].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond),
		len(r.crowd.wishes), rows["told 201"], r.crowd.count)
}

// The real thing, killed: whatever a buyer was told is there after every restart, once, and nothing is oversold.
func TestKills(t *testing.T) {
	r := newRun(t, built(t))
	r.crowd.start(24)
	wrong := r.lives(t, *kills, "")
	if len(wrong) == 0 {
		r.stop(t) // in order, in mid-sale
		r.ready = append(r.ready, r.up(t))
		wrong = r.audit(t, false, false, r.dice)
	}
	r.crowd.halt()
	if len(wrong) > 0 {
		r.report(t)
		t.Fatalf("after %d kills:%s", r.killed, few(wrong))
	}
	r.crowd.resolve(t)
	if r.topOpen {
		r.operate()
	}
	r.settle(t)
	if wrong := r.audit(t, true, true, r.dice); len(wrong) > 0 {
		t.Fatalf("at the end, after %d kills:%s", r.killed, few(wrong))
	}
	r.close(t)
	r.report(t)
	r.stop(t)
	r.doctor(t)
	if lines := r.sickness(); len(lines) > 0 {
		t.Errorf("the house says of itself:%s", few(lines))
	}
}

// settle waits until every unpaid order has expired and every payment has arrived.
func (r *run) settle(t testing.TB) {
	t.Helper()
	began := time.Now()
	for {
		var reserved int64
		for _, v := range r.crowd.sales {
			var a account
			if err := r.get("/v1/sales/"+v.id+"/account", &a); err != nil {
				t.Fatal(err)
			}
			reserved += a.Stock.Reserved
		}
		if reserved == 0 {
			t.Logf("nothing is reserved any more %v after the last purchase", time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > 100*time.Second {
			t.Fatalf("%d units are still reserved after %v", reserved, time.Since(began))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// close ends every sale: what is not sold must be back in the catalog, to the unit.
func (r *run) close(t testing.TB) {
	t.Helper()
	var sold int64
	for _, v := range r.crowd.sales {
		r.call.must(t, 201, "POST", "/v1/sales/"+v.id+"/acts", r.operator, map[string]any{"act": "end", "reason": "test"}, nil)
		var a account
		if err := r.get("/v1/sales/"+v.id+"/account", &a); err != nil {
			t.Fatal(err)
		}
		st := a.Stock
		if !a.Balanced || st.Remaining != 0 || st.Reserved != 0 || st.Sold+st.Withdrawn != st.Offered {
			t.Errorf("an ended sale's stock does not add up: %+v", a)
		}
		if v.real {
			sold += st.Sold
		} else if st.Sold != 0 {
			t.Errorf("a rehearsal sold %d units", st.Sold)
		}
	}
	var sku struct {
		OnHand int64 `json:"on_hand"`
	}
	if err := r.get("/v1/skus/"+r.sku, &sku); err != nil {
		t.Fatal(err)
	}
	if sku.OnHand != r.onHand-sold {
		t.Errorf("the catalog has %d on hand; it had %d and %d were sold", sku.OnHand, r.onHand, sold)
	}
	if sold == 0 {
		t.Error("nothing was sold: the test proves less than it says")
	}
}

// A house killed in its first start, at any moment of it, begins well the next time: schema, secret, keys and setup code.
func TestKillsInTheFirstStart(t *testing.T) {
	bin := built(t)
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-chaos.seed=%d", n)
	dice := rand.New(rand.NewPCG(n, 1))
	for i := range 6 {
		h := newHouse(t, bin, filepath.Join(t.TempDir(), "data"))
		for range 3 {
			h.start(t)
			time.Sleep(time.Duration(dice.Int64N(int64(time.Duration(i+1) * 40 * time.Millisecond))))
			h.kill()
		}
		h.up(t)
		call := newCaller(h.base)
		call.must(t, 201, "POST", "/v1/setup", "", map[string]any{"code": h.code(t), "name": "keeper", "password": password}, nil)
		call.must(t, 201, "POST", "/v1/sessions", "", map[string]any{"name": "keeper", "password": password}, nil)
		call.http.CloseIdleConnections()
		h.stop(t)
		h.doctor(t)
	}
}
