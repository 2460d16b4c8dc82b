package notify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// lease is how long a node keeps the duty that has fallen silent, and takeOver how long it takes until another one does.
const (
	lease    = 5 * time.Second
	takeOver = lease + 2*lease/5 + 100*time.Millisecond
)

// crew is a house of some nodes on one database. The house's own Service stands for the nodes that never keep the duty: events are
// heard there.
type crew struct {
	*house
	bells bool // the nodes ring each other
	loose bool // the control: what the keeper does is not checked against its term

	mu    sync.Mutex // guards all below
	all   []*member
	wakes map[string][]func() // by bell
	top   int64               // the latest term that has begun
	wrong []string
	acts  map[string]int // by node
}

func newCrew(t testing.TB) *crew {
	c := &crew{house: newHouse(t), acts: map[string]int{}, wakes: map[string][]func(){}}
	c.Service.tellHeard = c.bell("notify.heard", func() {})
	c.start(c.Events.Run)
	return c
}

// member is one node. What it sends and writes goes through a gate, which holds it still while it sleeps.
type member struct {
	*Service
	c     *crew
	name  string
	db    *db.DB // the room's
	fence atomic.Int64

	mu     sync.Mutex // guards all below
	dead   bool
	lost   bool // its database
	wakeAt time.Time
	link   *db.DB // the node part's: cut for a node that sleeps
	leave  func() // has the node part end
	left   chan struct{}
	sleeps sync.WaitGroup
}

func (c *crew) open() *db.DB {
	c.t.Helper()
	d, err := db.Open(context.Background(), platformtest.Config(c.t, c.Dir), obs.Test(c.t))
	c.must(err)
	c.t.Cleanup(func() { _ = d.Close() })
	return d
}

func (c *crew) join(name string) *member {
	c.t.Helper()
	m := &member{c: c, name: name, db: c.open()}
	deps := c.deps
	deps.DB, deps.Obs = m.db, obs.Test(c.t)
	deps.Bell = c.bell
	var err error
	m.Service, err = New(deps)
	c.must(err)
	m.Service.fault = func() { m.alive() }
	m.Service.post = m.send
	c.must(m.Warm(context.Background()))
	c.mu.Lock()
	c.all = append(c.all, m)
	c.mu.Unlock()
	m.enter()
	c.t.Cleanup(m.stop)
	return m
}

// bell rings everybody, also the one who rings, where the nodes ring each other.
func (c *crew) bell(name string, wake func()) (ring func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wakes[name] = append(c.wakes[name], wake)
	return func() {
		c.mu.Lock()
		wakes := slices.Clone(c.wakes[name])
		c.mu.Unlock()
		for _, wake := range wakes {
			if c.bells {
				wake()
			}
		}
	}
}

func (c *crew) members() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// enter makes the node a part of the house, as when it starts or has slept for long.
func (m *member) enter() {
	c := m.c
	link := c.open()
	nodes, err := node.Open(link, node.Config{Name: m.name, Address: m.name + ":8080", Lease: lease}, obs.Test(c.t))
	c.must(err)
	nodes.Keep(Duty, func(ctx context.Context, term node.Term) error {
		m.fence.Store(term.Fence)
		c.mu.Lock()
		c.top = max(c.top, term.Fence)
		c.mu.Unlock()
		held, end := context.WithCancel(context.WithoutCancel(ctx))
		defer end()
		defer context.AfterFunc(ctx, func() {
			if before := time.Now(); m.alive() && time.Since(before) > 0 {
				time.Sleep(20 * time.Millisecond) // timers that went off while it slept come when they come
			}
			end()
		})()
		if c.loose {
			term = node.Forever()
		}
		return m.Serve(held, term)
	})
	ctx, leave := context.WithCancel(context.Background())
	left := make(chan struct{})
	m.mu.Lock()
	m.link, m.leave, m.left = link, leave, left
	m.mu.Unlock()
	go func() {
		defer close(left)
		_ = nodes.Run(ctx)
	}()
}

// alive returns when the node does not sleep, and reports whether it lives.
func (m *member) alive() bool {
	for {
		m.mu.Lock()
		d, dead := time.Until(m.wakeAt), m.dead
		m.mu.Unlock()
		if dead || d <= 0 {
			return !dead
		}
		time.Sleep(d)
	}
}

// send is the node's way to the receivers, with a witness: no node may send in a term after the next has begun.
func (m *member) send(ctx context.Context, to string, header map[string]string, body []byte) (answer, error) {
	m.mu.Lock()
	dead := m.dead
	m.mu.Unlock()
	if dead {
		return answer{}, errAway
	}
	m.c.mu.Lock()
	if fence := m.fence.Load(); fence < m.c.top {
		m.c.wrong = append(m.c.wrong, fmt.Sprintf("%s sends in term %d although %d has begun", m.name, fence, m.c.top))
	}
	m.c.acts[m.name]++
	m.c.mu.Unlock()
	a, err := m.c.world.post(ctx, to, header, body)
	if !m.alive() {
		return answer{}, errAway
	}
	return a, err
}

// stop ends the node in order, once it is awake.
func (m *member) stop() {
	m.sleeps.Wait()
	m.mu.Lock()
	leave, left := m.leave, m.left
	m.mu.Unlock()
	leave()
	<-left
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
	_, _ = m.db.Close(), m.link.Close()
}

// lose takes the database away from the node for good.
func (m *member) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = true
	_, _ = m.db.Close(), m.link.Close()
}

// kill ends the node without a word: nothing it does from now on has an effect.
func (m *member) kill() {
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
	m.lose()
	m.leave()
}

// sleep holds the whole node still, for longer than its lease.
func (m *member) sleep(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().Before(m.wakeAt) {
		return
	}
	m.wakeAt = time.Now().Add(d)
	_ = m.link.Close()
	m.leave()
	left := m.left
	m.sleeps.Go(func() {
		<-left // it wakes and finds that its term is over
		if awake := m.alive(); awake && !m.lost {
			m.enter()
		}
	})
}

// keeper waits for the node that keeps the duty.
func (c *crew) keeper(most time.Duration, not ...*member) (k *member) {
	c.t.Helper()
	c.until("somebody keeps the duty", most, func() bool {
		for _, m := range c.members() {
			if m.Service.term.Load().Held() && !slices.Contains(not, m) {
				k = m
			}
		}
		return k != nil
	})
	return k
}

// sell makes orders and pays for them, n each second, until the function that it returns is called. That returns all orders.
func (c *crew) sell(n int) (stop func() []levee.OrderID) {
	var ids []levee.OrderID
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			batch := c.order("sale", n)
			for _, id := range batch {
				c.pay(id)
			}
			ids = append(ids, batch...)
			select {
			case <-over:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() []levee.OrderID { close(over); <-ended; return ids }
}

// check waits until everything is told, and looks whether it was told right.
func (c *crew) check(shop *receiver, ids []levee.OrderID, most time.Duration) {
	c.t.Helper()
	c.until("everything is told", most, func() bool { good, _ := shop.taken(); return good == 2*len(ids) })
	c.until("everything is written down", most, func() bool { return c.count(`SELECT COUNT(*) FROM notify_delivery WHERE state <> 3`) == 0 })
	for _, id := range ids {
		if got := shop.types(c.public(id)); !slices.Equal(got, []string{typeCreated, typePaid}) {
			c.t.Errorf("an order was told as %v", got)
		}
	}
	c.witnessed(shop)
	if n := c.count(`SELECT COUNT(*) FROM notify_notice`); n != 2*len(ids) {
		c.t.Errorf("%d notices of %d facts", n, 2*len(ids))
	}
	if n := c.count(`SELECT COUNT(*) FROM notify_attempt`); n != 2*len(ids) {
		c.t.Errorf("%d attempts are in the log of %d deliveries that were all taken at once", n, 2*len(ids))
	}
}

// witnessed looks at what may never have happened.
func (c *crew) witnessed(at *receiver) {
	c.t.Helper()
	at.set(func(r *receiver) {
		if r.orderless != 0 || r.badSign != 0 {
			c.t.Errorf("%d out of order, %d badly signed", r.orderless, r.badSign)
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) > 0 {
		c.t.Errorf("%d acts outside of a term: %s", len(c.wrong), c.wrong[0])
	}
}

// ends are the ways in which a node stops to keep the duty.
var ends = map[string]struct {
	end func(m *member)
	in  time.Duration // within which another one keeps it
}{
	"in order":          {(*member).stop, stopGrace + time.Second + 100*time.Millisecond},
	"killed":            {(*member).kill, takeOver},
	"asleep":            {func(m *member) { m.sleep(2 * lease) }, takeOver},
	"its database lost": {(*member).lose, takeOver},
}

// The keeper goes, in each way there is, while orders are made and told, and then the next one: each fact is told in order and none is lost,
// and a node sends in its own term only. What was under way may come twice, but not when the keeper went in order.
func TestTheNextNodeGoesOn(t *testing.T) {
	for name, e := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCrew(t)
				shop := c.world.at(shopURL)
				shop.takes = 800 * time.Millisecond // something is always under way
				a := c.join("a")
				c.keeper(time.Second)
				b := c.join("b")
				c.join("d")
				_, secret, err := b.Create(c.op, NewWebhook{URL: shopURL, Events: []string{"order.*"}}, identity.Origin{})
				c.must(err)
				shop.secrets = []string{secret}
				stop := c.sell(3)
				time.Sleep(4 * time.Second)
				e.end(a)
				second := c.keeper(e.in, a)
				time.Sleep(3*lease + 150*time.Millisecond)
				e.end(second)
				third := c.keeper(takeOver, second)
				time.Sleep(4 * time.Second)
				c.check(shop, stop(), time.Minute)
				c.mu.Lock()
				defer c.mu.Unlock()
				if third == a && name == "in order" || c.acts[a.name] == 0 || c.acts[second.name] == 0 || c.acts[third.name] == 0 {
					t.Errorf("%v were sent", c.acts)
				}
				if name == "in order" && shop.repeats != 0 {
					t.Errorf("%d came twice", shop.repeats)
				}
				if name != "in order" && shop.repeats == 0 {
					t.Error("nothing came twice: nothing was under way, the test has tried nothing")
				}
			})
		})
	}
}

// The control: where what the keeper does is not checked against its term, a node that wakes sends on, and the witness sees it.
func TestASleeperWithoutTheTermIsCaught(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		c.loose, c.bells = true, true
		c.world.at(shopURL).takes = 300 * time.Millisecond
		c.hook(shopURL, "order.*")
		a := c.join("a")
		c.keeper(time.Second)
		c.join("b")
		stop := c.sell(40)
		time.Sleep(4 * time.Second)
		a.sleep(2 * lease)
		time.Sleep(3 * lease)
		stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.wrong) == 0 {
			t.Error("nothing was seen")
		}
	})
}

// What a sleeper writes down after another has taken over is refused by SQL, whatever the sleeper believes; the control is that of a
// process alone, which may.
func TestTheFenceKeepsASleeperOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		hook, _ := c.hook(shopURL, "order.*")
		shop := c.world.at(shopURL)
		shop.reply = away
		a := c.join("a")
		c.keeper(time.Second)
		old := *a.term.Load()
		ids := c.order("sale", 1)
		c.until("it waits for long", time.Minute, func() bool {
			return c.count(`SELECT COUNT(*) FROM notify_delivery WHERE state = 2 AND attempts = 3`) == 1
		})
		b := c.join("b")
		a.stop()
		c.keeper(time.Minute)
		b.kill() // nobody writes what the sleeper might have written
		c.pay(ids[0])
		rows := c.heardRows()
		list := c.told(hook.ID, "state=failed")
		a.Service.db = c.DB
		act := func() map[string]error {
			l := &lane{s: a.Service, id: hook.ID, wrote: make(chan struct{}, 1)}
			ctx, cancel := context.WithCancel(t.Context())
			l.cancel = cancel
			r := result{d: list[0], at: time.Now()}
			r.d.Attempts, r.d.state = 100, stateFailed
			l.judged = []result{r}
			l.write(ctx)
			<-l.wrote
			return map[string]error{"what was heard": a.writeSteps(t.Context(), rows), "waking": l.wakeAll(t.Context()), "results": ctx.Err()}
		}
		const left = `SELECT (SELECT COUNT(*) FROM notify_heard) * 1000 + (SELECT COUNT(*) FROM notify_delivery WHERE attempts < 100) * 100
			+ (SELECT COUNT(*) FROM notify_attempt)`
		before := c.count(left)
		a.term.Store(&old) // it wakes in the middle of its work
		for what, err := range act() {
			if what == "results" && err == nil || what != "results" && levee.CodeOf(err) != levee.CodeConflict {
				t.Errorf("%s: %v", what, err)
			}
		}
		if after := c.count(left); after != before {
			t.Errorf("the sleeper has written: %d, %d before", after, before)
		}
		forever := node.Forever()
		a.term.Store(&forever)
		for what, err := range act() {
			if err != nil {
				t.Errorf("control: %s: %v", what, err)
			}
		}
		if after := c.count(left); after == before {
			t.Error("control: nothing was written")
		}
	})
}

// Random lives of three nodes: they come, stop, are killed, sleep and lose the database, while orders are made and told by receivers that lose
// answers. In the end everything is told, in order per order, and no node has sent outside of its term.
func TestRandomLives(t *testing.T) {
	seeds := uint64(3)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				c := newCrew(t)
				c.bells = seed%2 == 0
				shop, other := c.world.at(shopURL), c.world.at("http://other.test/")
				shop.takes, other.takes = 200*time.Millisecond, 900*time.Millisecond
				c.hook(shopURL, "order.*")
				c.hook("http://other.test/", "order.*")
				var alive []*member
				var ids []levee.OrderID
				for step := range 25 {
					for len(alive) < 3 {
						alive = append(alive, c.join(fmt.Sprintf("n%d.%d", step, len(alive))))
					}
					batch := c.order("sale", 1+r.IntN(30))
					ids = append(ids, batch...)
					time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
					for _, id := range batch {
						c.pay(id)
					}
					time.Sleep(time.Duration(r.IntN(2500)) * time.Millisecond)
					i := r.IntN(len(alive))
					switch m := alive[i]; r.IntN(5) {
					case 0:
						m.sleep(lease + time.Duration(r.IntN(15_000))*time.Millisecond)
					case 1:
						m.kill()
						alive = slices.Delete(alive, i, i+1)
					case 2:
						go m.stop() // it may be asleep
						alive = slices.Delete(alive, i, i+1)
					case 3:
						m.lose()
						alive = slices.Delete(alive, i, i+1)
					}
					time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
				}
				c.join("last")
				for _, at := range []*receiver{shop, other} {
					c.until("everything is told", 5*time.Minute, func() bool { good, _ := at.taken(); return good == 2*len(ids) })
					for _, id := range ids {
						if got := at.types(c.public(id)); !slices.Equal(got, []string{typeCreated, typePaid}) {
							t.Errorf("an order was told as %v", got)
						}
					}
					c.witnessed(at)
				}
				c.until("all is written down", time.Minute, func() bool { return c.count(`SELECT COUNT(*) FROM notify_delivery WHERE state <> 3`) == 0 })
				if n := c.count(`SELECT COUNT(*) FROM notify_notice`); n != 2*len(ids) {
					t.Errorf("%d notices of %d facts", n, 2*len(ids))
				}
				good, all := shop.taken()
				c.mu.Lock()
				defer c.mu.Unlock()
				t.Logf("%d orders, %d terms; of %d messages %d came twice", len(ids), c.top, all, all-good)
			})
		})
	}
}

// What is asked of a node that does not keep the duty is done within a second by the one that does; where they ring each other, at once, and
// also at a webhook that is failing.
func TestAskedOnAnotherNode(t *testing.T) {
	for _, bells := range []bool{false, true} {
		t.Run(fmt.Sprint("bells ", bells), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrew(t)
				c.bells = bells
				soon := asideEvery + 100*time.Millisecond
				if bells {
					soon = 50 * time.Millisecond
				}
				shop, other := c.world.at(shopURL), c.world.at("http://other.test/")
				c.join("a")
				c.keeper(time.Second)
				b := c.join("b")
				w, _, err := b.Create(c.op, NewWebhook{URL: shopURL, Events: []string{"order.*"}}, identity.Origin{})
				c.must(err)
				told := func(r *receiver, what string, most time.Duration, n int) {
					t.Helper()
					c.until(what, most, func() bool { _, all := r.taken(); return all == n })
				}
				ids := c.order("sale", 1)
				told(shop, "an order, of a webhook that another node made", 2*time.Second+soon, 1) // the relay looks each second
				c.until("it is written down", time.Second, func() bool { return c.count(`SELECT COUNT(*) FROM notify_delivery WHERE state = 3`) == 1 })
				q, err := b.Service.deliveries.Ask("state=delivered")
				c.must(err)
				found, err := b.Deliveries(c.op, w.ID, q)
				c.must(err)
				list := found.Rows
				_, err = b.Replay(c.op, list[0].ID)
				c.must(err)
				told(shop, "a replay", soon, 2)
				_, err = b.Ping(c.op, w.ID)
				c.must(err)
				told(shop, "a ping", soon, 3)
				time.Sleep(time.Second)
				_, _, err = b.ReplaySince(c.op, w.ID, time.Now().Add(-time.Hour), time.Time{})
				c.must(err)
				told(shop, "a replay of all", soon, 5)
				if _, _, attempts, err := b.Delivery(c.op, list[0].ID); err != nil || len(attempts) != 3 {
					t.Errorf("the log on another node: %v, %v", attempts, err)
				}
				if bells { // without, a failing webhook is tried when its pause is over
					shop.set(func(r *receiver) { r.reply = away })
					c.order("sale", 50)
					c.until("it is failing", 2*time.Minute, func() bool { got, _, _ := b.ByID(c.op, w.ID); return got.Failures >= int64(c.cfg.FailingAfter)+3 })
					_, before := shop.taken()
					_, err = b.Ping(c.op, w.ID)
					c.must(err)
					told(shop, "a failing webhook is tried at once", soon, before+1)
				}
				to := "http://other.test/"
				_, err = b.Change(c.op, w.ID, Change{URL: &to}, identity.Origin{})
				c.must(err)
				time.Sleep(soon)
				_, was := other.taken()
				c.pay(ids[0])
				c.until("the next step goes to where the webhook was moved", 2*time.Minute, func() bool { return slices.Contains(other.types(c.public(ids[0])), typePaid) })
				if _, now := other.taken(); !bells && (now != 1 || was != 0) {
					t.Errorf("%d messages", now)
				}
				c.must(b.Delete(c.op, w.ID, identity.Origin{}))
				time.Sleep(soon)
				_, was = other.taken()
				c.order("sale", 3)
				time.Sleep(time.Minute)
				if _, now := other.taken(); now != was {
					t.Errorf("%d were sent to a webhook that was deleted on another node", now-was)
				}
			})
		})
	}
}

// How a webhook fails goes from keeper to keeper: the next one does not flood a receiver that is away.
func TestTheNextNodeKnowsWhatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		w, _ := c.hook(shopURL, "order.*")
		shop := c.world.at(shopURL)
		shop.reply = away
		a := c.join("a")
		c.keeper(time.Second)
		c.join("b")
		c.order("sale", 100)
		time.Sleep(10 * time.Minute)
		before, _, err := c.ByID(c.op, w.ID)
		c.must(err)
		_, tried := shop.taken()
		a.stop()
		time.Sleep(10 * time.Minute)
		after, _, err := c.ByID(c.op, w.ID)
		c.must(err)
		_, now := shop.taken()
		if after.Failures <= before.Failures || !after.FailingSince.Equal(before.FailingSince) || now-tried > 30 {
			t.Errorf("%d failures since %v, then %d since %v; %d tries in ten minutes", before.Failures, before.FailingSince, after.Failures, after.FailingSince, now-tried)
		}
	})
}

// A rehearsal's steps are told to a webhook that another node has just made for it, and are dropped where there is none.
func TestRehearsalsOverNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t)
		c.join("a")
		c.keeper(time.Second)
		b := c.join("b")
		ids := c.order(sourceRehearsal, 2)
		c.pay(ids[0])
		time.Sleep(5 * time.Second)
		if n := c.count(`SELECT (SELECT COUNT(*) FROM notify_heard) + (SELECT COUNT(*) FROM notify_notice)`); n != 0 {
			t.Errorf("%d rows are left of what nobody wants", n)
		}
		_, _, err := b.Create(c.op, NewWebhook{URL: shopURL, Events: []string{"order.paid"}, Rehearsals: true}, identity.Origin{})
		c.must(err)
		c.pay(ids[1])
		c.hear() // where the webhook is not known yet
		c.until("told", 2*time.Second, func() bool {
			return slices.Equal(c.world.at(shopURL).types(c.public(ids[1])), []string{typePaid})
		})
	})
}
