package notify

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

const shopURL = "http://shop.test/hook"

var errAway = errors.New("connection refused")

func away(message) (answer, error) { return answer{}, errAway }

// The whole life of orders arrives: each step once, signed, in order, and nothing else.
func TestOrdersAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		_, secret := h.hook(shopURL, "order.*")
		shop.secrets = []string{secret}
		h.run()
		ids := h.order("sale", 5)
		h.pay(ids[0])
		h.ship(ids[0])
		h.complete(ids[0])
		h.cancel(ids[1], levee.System)
		h.pay(ids[1]) // revived
		h.refund(ids[1])
		h.cancel(ids[2], operator)
		h.until("all steps are told", time.Minute, func() bool { n, _ := shop.taken(); return n == 5+3+3+1 })
		for id, want := range map[levee.OrderID][]string{
			ids[0]: {typeCreated, typePaid, typeShipped, typeCompleted},
			ids[1]: {typeCreated, typeCancelled, typePaid, typeRefunded},
			ids[2]: {typeCreated, typeCancelled}, ids[3]: {typeCreated},
		} {
			if got := shop.types(h.public(id)); !slices.Equal(got, want) {
				t.Errorf("told %v, want %v", got, want)
			}
		}
		time.Sleep(time.Hour)
		if _, all := shop.taken(); all != 12 || shop.badSign != 0 || shop.crossed != 0 || shop.orderless != 0 {
			t.Errorf("%d messages came, %d badly signed, %d crossed, %d out of order", all, shop.badSign, shop.crossed, shop.orderless)
		}
	})
}

// A receiver is down for ten minutes while orders live on. Once it is back it gets everything, signed, in order per order, at once.
func TestReceiverDownForTenMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, secret := h.hook(shopURL, "order.*")
		shop.secrets, shop.takes = []string{secret}, 5*time.Millisecond
		shop.reply = away
		h.run()
		want := 0
		var ids []levee.OrderID
		for range 20 { // ten minutes, a batch of orders every half
			batch := h.order("sale", 40)
			ids = append(ids, batch...)
			want += len(batch)
			for range 30 {
				o := ids[rand.IntN(len(ids))]
				if got, err := h.orders.ByID(h.op, operator, o); err != nil {
					t.Fatal(err)
				} else if got.State.String() == "created" {
					h.pay(o)
					want++
				} else if got.State.String() == "paid" {
					h.ship(o)
					want++
				}
			}
			time.Sleep(30 * time.Second)
		}
		w, waiting, err := h.ByID(h.op, hook.ID)
		h.must(err)
		if v := h.viewWebhook(w); v.Health.State != "failing" || !w.Enabled || waiting != want {
			t.Errorf("after ten minutes it is %s, enabled %v, with %d waiting; want failing, enabled and %d", v.Health.State, w.Enabled, waiting, want)
		}
		good, tried := shop.taken()
		if good != 0 || tried < 10 || tried > 60 {
			t.Errorf("%d were taken and %d tried; a receiver that is away is asked now and then", good, tried)
		}
		back := time.Now()
		shop.set(func(r *receiver) { r.reply = nil })
		h.until("everything arrived", 15*time.Minute, func() bool { n, _ := shop.taken(); return n == want })
		// The first try after its return finds it, at most the pause that had grown while it was away; the rest follows at once.
		first := time.Duration(0)
		for _, m := range shop.all {
			if m.answered == 204 {
				first = m.at.Sub(back)
				break
			}
		}
		if took := time.Since(back) - first; took > h.cfg.RetryFirst+time.Duration(want)*shop.takes/4 {
			t.Errorf("from the first answer it took %v for %d deliveries", took, want)
		}
		t.Logf("%d deliveries; %d tries while away; found after %v, all %v later", want, tried, first, time.Since(back)-first)
		if shop.badSign != 0 || shop.crossed != 0 || shop.orderless != 0 || shop.top > h.cfg.Parallel {
			t.Errorf("%d badly signed, %d crossed, %d out of order, %d at once", shop.badSign, shop.crossed, shop.orderless, shop.top)
		}
		for _, id := range ids {
			got := shop.types(h.public(id))
			if !slices.Equal(got, []string{typeCreated, typePaid, typeShipped}[:len(got)]) {
				t.Errorf("an order was told as %v", got)
			}
		}
		if w, waiting, _ = h.ByID(h.op, hook.ID); w.Failures != 0 || waiting != 0 {
			t.Errorf("%d failures, %d waiting", w.Failures, waiting)
		}
	})
}

// When a receiver answers again, what it missed does not wait for its own pause, which may be a quarter of an hour by then.
func TestWokenAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		h.hook(shopURL, "order.*")
		shop.reply = away
		h.run()
		h.order("sale", 4)
		h.until("each has to wait for minutes", 3*time.Hour, func() bool {
			return h.count(`SELECT COUNT(*) FROM notify_delivery WHERE state = 2 AND due_at > ?`, time.Now().Add(4*time.Minute).UnixMicro()) == 4
		})
		shop.set(func(r *receiver) { r.reply = nil })
		h.order("sale", 1)
		h.until("all arrive", probeMost+h.cfg.RetryFirst, func() bool { n, _ := shop.taken(); return n == 5 })
	})
}

// Health and pauses of a single delivery: 5 s, 10 s, 20 s … at most 15 min, then parked after three days, and the next goes on.
func TestRetriesAndParking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, _ := h.hook(shopURL, "order.*")
		poison := ""
		shop.reply = func(m message) (answer, error) {
			if m.subject == poison && m.typ == typeCreated {
				return answer{status: 500, text: "cannot read this"}, nil
			}
			return answer{status: 200}, nil
		}
		ids := h.order("sale", 2)
		poison = h.public(ids[0])
		h.pay(ids[0])
		h.pay(ids[1])
		began := time.Now()
		h.runQuietly()
		h.hear()
		time.Sleep(73 * time.Hour)
		var tries []time.Duration
		for _, m := range shop.all {
			if m.subject == poison && m.typ == typeCreated {
				tries = append(tries, m.at.Sub(began).Round(time.Second))
			}
		}
		for i, want := 1, 5*time.Second; i < len(tries); i++ {
			if got := tries[i] - tries[i-1]; got < want*9/10-time.Second || got > want*11/10+time.Second {
				t.Fatalf("pause %d was %v, want about %v", i, got, want)
			}
			want = min(2*want, 15*time.Minute)
		}
		if n := len(tries); n < 280 || tries[n-1] < 71*time.Hour {
			t.Errorf("%d tries, the last after %v", n, tries[n-1])
		}
		if got := shop.types(poison); !slices.Equal(got, []string{typePaid}) {
			t.Errorf("after the parked one came %v", got)
		}
		if got := shop.types(h.public(ids[1])); !slices.Equal(got, []string{typeCreated, typePaid}) {
			t.Errorf("the other order was told %v", got)
		}
		list := h.told(hook.ID, "state=parked")
		if len(list) != 1 || list[0].Type != typeCreated {
			t.Fatalf("parked are %+v", list)
		}
		d, body, attempts, err := h.Delivery(h.op, list[0].ID)
		h.must(err)
		if d.Attempts != len(tries) || len(attempts) != 200 || attempts[199].Status != 500 || attempts[199].Answer != "cannot read this" || string(body) != shop.all[0].body && len(body) == 0 {
			t.Errorf("the log says %d attempts, shows %d, the last %+v", d.Attempts, len(attempts), attempts[len(attempts)-1])
		}
		// Replayed once the receiver can read it, it arrives under the id it always had.
		shop.set(func(r *receiver) { r.reply = nil })
		_, err = h.Replay(h.op, d.ID)
		h.must(err)
		h.until("the replay arrives", time.Minute, func() bool { return slices.Contains(shop.types(poison), typeCreated) })
	})
}

// A slow receiver, and one that is away, do not hold up the others; no order holds up another of the same receiver.
func TestSlowReceiverHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		slow, gone, fast := h.world.at("http://shop.test/slow"), h.world.at("http://shop.test/gone"), h.world.at("http://other.test/")
		h.hook("http://shop.test/slow", "*")
		h.hook("http://shop.test/gone", "*")
		h.hook("http://other.test/", "*")
		slow.takes = 9 * time.Second
		gone.reply = away
		h.run()
		h.order("sale", 100)
		began := time.Now()
		h.until("the fast one has all", 10*time.Second, func() bool { n, _ := fast.taken(); return n == 100 })
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the fast one waited for %v", took)
		}
		h.until("the slow one has all, eight at a time", 100/8*9*time.Second+30*time.Second, func() bool { n, _ := slow.taken(); return n == 100 })
		if slow.top != h.cfg.Parallel {
			t.Errorf("%d at once, want %d", slow.top, h.cfg.Parallel)
		}
	})
}

// A receiver that takes longer than the time limit counts as away.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, _ := h.hook(shopURL, "*")
		shop.takes = 11 * time.Second
		h.run()
		h.order("sale", 1)
		time.Sleep(10*time.Second + time.Second)
		list := h.told(hook.ID, "state=failed")
		if len(list) != 1 || list[0].Attempts != 1 {
			t.Fatalf("%+v", list)
		}
		_, _, attempts, err := h.Delivery(h.op, list[0].ID)
		h.must(err)
		if a := attempts[0]; a.Error != "no answer in time" || a.Duration != 10*time.Second {
			t.Errorf("%+v", a)
		}
	})
}

// What stands in SQL is sent by the next life of the house; what was under way when it stopped comes again under the same id.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		h.hook(shopURL, "order.*")
		shop.takes = 3 * time.Second // longer than the grace at a stop
		shop.loses = func() bool { return rand.IntN(8) == 0 }
		h.run()
		ids := h.order("sale", 50)
		for _, id := range ids {
			h.pay(id)
		}
		for life := range 12 {
			time.Sleep(time.Duration(rand.IntN(9000)) * time.Millisecond)
			if life == 8 {
				shop.set(func(r *receiver) { r.takes = time.Second })
			}
			h.stop()
			h.deps.Obs = obs.Test(t) // with metrics of its own
			next, err := New(h.deps)
			h.must(err)
			next.post = h.world.post
			h.Service = next
			h.must(h.Warm(t.Context()))
			h.run()
		}
		h.until("all arrive", 5*time.Minute, func() bool { n, _ := shop.taken(); return n == 100 })
		if shop.orderless != 0 {
			t.Errorf("%d out of order", shop.orderless)
		}
		for _, id := range ids {
			if got := shop.types(h.public(id)); !slices.Equal(got, []string{typeCreated, typePaid}) {
				t.Errorf("told %v", got)
			}
		}
		good, all := shop.taken()
		t.Logf("%d deliveries, %d messages, %d repeats", good, all, shop.repeats)
		if shop.repeats == 0 {
			t.Error("nothing came twice: the test has tried nothing")
		}
	})
}

// A receiver that answers only some of the time still gets everything in order, and a few orders that always fail are not tried in
// a loop by the successes of the others.
func TestFlakyReceiver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		h.hook(shopURL, "order.*")
		bad := map[string]bool{}
		var mu sync.Mutex
		refused := map[string]int{}
		shop.takes = 20 * time.Millisecond
		shop.reply = func(m message) (answer, error) {
			mu.Lock()
			defer mu.Unlock()
			// A message that chance refuses seven times in a row would rightly wait for hours: one in 240 runs had one.
			if bad[m.subject] || refused[m.id] < 6 && rand.IntN(3) == 0 {
				refused[m.id]++
				return answer{status: 503}, nil
			}
			return answer{status: 200}, nil
		}
		ids := h.order("sale", 500)
		for _, id := range ids[:8] {
			bad[h.public(id)] = true
		}
		for _, id := range ids[:250] {
			h.pay(id)
		}
		h.run()
		h.until("all but the bad ones arrive", time.Hour, func() bool { n, _ := shop.taken(); return n == 750-16 })
		shop.mu.Lock() // the bad ones are tried on
		defer shop.mu.Unlock()
		if shop.orderless != 0 || shop.crossed != 0 {
			t.Errorf("%d out of order, %d crossed", shop.orderless, shop.crossed)
		}
		last := map[string]time.Time{}
		for _, m := range shop.all {
			if bad[m.subject] {
				if gap := m.at.Sub(last[m.subject]); gap < h.cfg.RetryFirst*8/10 {
					t.Errorf("a bad one was tried again after %v", gap)
				}
				last[m.subject] = m.at
			}
		}
	})
}

// Deliveries that always fail, more of them than there are tries at a failing webhook before each is due again, do not take the
// tries that a new order needs.
func TestPoisonStarvesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		h.hook(shopURL, "order.*")
		bad := map[string]bool{}
		shop.reply = func(m message) (answer, error) {
			if bad[m.subject] {
				return answer{status: 500}, nil
			}
			return answer{status: 200}, nil
		}
		for _, id := range h.order("sale", 40) {
			bad[h.public(id)] = true
		}
		h.run()
		time.Sleep(6 * time.Hour) // by now each waits for the longest pause
		for n := range 12 {
			id := h.order("sale", 1)[0]
			h.until("a new order arrives", 2*probeMost+time.Second, func() bool { return len(shop.types(h.public(id))) == 1 })
			h.pay(id)
			h.until("its next step arrives", 2*probeMost+time.Second, func() bool { return len(shop.types(h.public(id))) == 2 })
			time.Sleep(time.Duration(n) * 7 * time.Minute)
		}
	})
}

// A webhook that is switched off keeps what waits and is told of nothing meanwhile; deleted, it gets nothing more.
func TestSwitchedOffAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, _ := h.hook(shopURL, "order.*")
		shop.reply = away
		h.run()
		before := h.order("sale", 3)
		time.Sleep(time.Second)
		off, on := false, true
		_, err := h.Change(h.op, hook.ID, Change{Enabled: &off}, identity.Origin{})
		h.must(err)
		shop.set(func(r *receiver) { r.reply = nil })
		meanwhile := h.order("sale", 3)
		time.Sleep(time.Hour)
		if n, _ := shop.taken(); n != 0 {
			t.Errorf("%d came while it was off", n)
		}
		_, err = h.Change(h.op, hook.ID, Change{Enabled: &on}, identity.Origin{})
		h.must(err)
		after := h.order("sale", 3)
		h.until("what waited and what is new", time.Minute, func() bool { n, _ := shop.taken(); return n == 6 })
		if len(shop.types(h.public(before[0]))) != 1 || len(shop.types(h.public(meanwhile[0]))) != 0 || len(shop.types(h.public(after[0]))) != 1 {
			t.Error("not the right ones")
		}
		shop.set(func(r *receiver) { r.reply = away })
		h.order("sale", 3)
		time.Sleep(time.Second)
		h.must(h.Delete(h.op, hook.ID, identity.Origin{}))
		shop.set(func(r *receiver) { r.reply = nil })
		h.order("sale", 3)
		time.Sleep(time.Hour)
		if n, _ := shop.taken(); n != 6 {
			t.Errorf("%d came after it was deleted", n-6)
		}
		h.must(h.Prune(t.Context()))
		if n := h.count(`SELECT (SELECT COUNT(*) FROM notify_webhook) + (SELECT COUNT(*) FROM notify_delivery) + (SELECT COUNT(*) FROM notify_attempt)`); n != 0 {
			t.Errorf("%d rows were left behind", n)
		}
	})
}

// Both secrets sign for 24 hours after a rotation, then the new one alone.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, first := h.hook(shopURL, "order.*")
		h.runQuietly()
		tell := func(secret string, bad int) {
			t.Helper()
			shop.set(func(r *receiver) { r.secrets, r.badSign = []string{secret}, 0 })
			n, _ := shop.taken()
			h.order("sale", 1)
			h.hear()
			h.until("told", time.Minute, func() bool { now, _ := shop.taken(); return now == n+1 })
			if shop.badSign != bad {
				t.Errorf("%d badly signed, want %d", shop.badSign, bad)
			}
		}
		tell(first, 0)
		_, second, err := h.Rotate(h.op, hook.ID, identity.Origin{})
		h.must(err)
		if first == second {
			t.Fatal("the same secret")
		}
		tell(first, 0)
		tell(second, 0)
		time.Sleep(overlap)
		tell(first, 1)
		tell(second, 0)
	})
}

// What is over is sent again by a replay, in order per order; repeats carry the ids that they had.
func TestReplaySince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, _ := h.hook(shopURL, "order.*")
		shop.takes = time.Millisecond
		h.run()
		old := h.order("sale", 10)
		time.Sleep(time.Hour)
		mark := time.Now()
		ids := h.order("sale", 300)
		for _, id := range ids {
			h.pay(id)
		}
		h.until("all", time.Minute, func() bool { n, _ := shop.taken(); return n == 610 })
		lost := shop.told
		shop.set(func(r *receiver) { r.told, r.all = map[string][]message{}, nil }) // the shop lost its data
		n, more, err := h.ReplaySince(h.op, hook.ID, mark, time.Time{})
		h.must(err)
		if n != 600 || more {
			t.Errorf("%d, more %v", n, more)
		}
		h.until("all again", time.Minute, func() bool { n, _ := shop.taken(); return n == 600 })
		time.Sleep(time.Minute)
		if _, all := shop.taken(); all != 600 || shop.orderless != 0 || shop.crossed != 0 || len(shop.types(h.public(old[0]))) != 0 {
			t.Errorf("%d came, %d out of order, %d crossed", all, shop.orderless, shop.crossed)
		}
		for subject, list := range shop.told {
			for i, m := range list {
				if m.id != lost[subject][i].id || m.body != lost[subject][i].body {
					t.Fatalf("a replay is not the same message: %+v and %+v", m, lost[subject][i])
				}
			}
		}
	})
}

// A failing webhook that is pinged or changed is tried at once; a parked backlog can be replayed whole.
func TestFailingIsTriedAtOnceWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, func(c *Config) { c.GiveUpAfter = 2 * time.Hour })
		shop := h.world.at(shopURL)
		hook, _ := h.hook(shopURL, "order.*")
		shop.reply = away
		h.runQuietly()
		h.order("sale", 200)
		h.hear()
		time.Sleep(3 * time.Hour)
		h.must(h.GiveUp(t.Context()))
		w, waiting, err := h.ByID(h.op, hook.ID)
		h.must(err)
		if waiting != 0 || w.Failures == 0 || !w.Enabled {
			t.Errorf("after that %d wait, %d failures", waiting, w.Failures)
		}
		shop.set(func(r *receiver) { r.reply = nil })
		_, err = h.Ping(h.op, hook.ID)
		h.must(err)
		h.until("the ping arrives", time.Second, func() bool { n, _ := shop.taken(); return n == 1 })
		n, _, err := h.ReplaySince(h.op, hook.ID, time.Now().Add(-1000*time.Hour), time.Time{})
		h.must(err)
		h.until("the backlog arrives", time.Minute, func() bool { n, _ := shop.taken(); return n == 201 })
		if n != 201 { // and the ping again
			t.Errorf("%d were replayed", n)
		}
	})
}

// A delivery that is parked, or deleted with its webhook, while it is under way does not stop the lane; replayed, it goes on counting.
func TestOverWhileUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		shop := h.world.at(shopURL)
		hook, _ := h.hook(shopURL, "order.*")
		shop.takes = 5 * time.Second
		shop.reply = away
		h.run()
		h.order("sale", 1)
		time.Sleep(time.Second)
		list := h.told(hook.ID, "")
		h.tx(func(ctx context.Context, tx *db.Tx) error {
			done, err := finish(ctx, tx, &list[0], stateParked, time.Now())
			if !done {
				t.Error("it was over already")
			}
			return err
		})
		time.Sleep(10 * time.Second)
		_, _, attempts, err := h.Delivery(h.op, list[0].ID)
		h.must(err)
		if len(attempts) != 1 {
			t.Fatalf("the log has %d attempts", len(attempts))
		}
		shop.set(func(r *receiver) { r.reply = nil })
		_, err = h.Replay(h.op, list[0].ID)
		h.must(err)
		h.until("the replay arrives", time.Minute, func() bool { n, _ := shop.taken(); return n == 1 })
		time.Sleep(time.Second)
		d, _, attempts, err := h.Delivery(h.op, list[0].ID)
		h.must(err)
		if d.Attempts != 2 || len(attempts) != 2 || d.State() != "delivered" {
			t.Errorf("%d attempts, %d in the log, %s", d.Attempts, len(attempts), d.State())
		}
		h.order("sale", 20)
		time.Sleep(time.Second)
		h.must(h.Delete(h.op, hook.ID, identity.Origin{}))
		h.must(h.Prune(t.Context()))
		time.Sleep(time.Minute)
		if n := h.count(`SELECT COUNT(*) FROM notify_attempt`); n != 0 {
			t.Errorf("%d attempts at nothing are left", n)
		}
	})
}

// Results whose commit was not answered are written down again: nothing counts twice, and the lane is not held up.
func TestResultsAreWrittenTwice(t *testing.T) {
	h := newHouse(t)
	hook, _ := h.hook(shopURL, "order.*")
	h.order("sale", 3)
	h.must(h.writeBatch(t.Context(), h.heardRows()[0]))
	list := h.told(hook.ID, "")
	l := &lane{s: h.Service, id: hook.ID}
	for attempt := 1; attempt <= 2; attempt++ {
		var rs []result
		for i, state := range []int{stateFailed, stateFailed, stateDelivered}[:4-attempt] { // the third is over after the first
			list[i].Attempts, list[i].state = attempt, state
			rs = append(rs, result{d: list[i], at: time.Now()})
		}
		for range 2 {
			h.tx(func(ctx context.Context, tx *db.Tx) error { return l.writeTx(ctx, tx, rs, health{}) })
		}
	}
	if n := h.count(`SELECT COUNT(*) FROM notify_attempt`); n != 5 {
		t.Errorf("%d attempts in the log, want 5", n)
	}
}

func TestBackoffBounds(t *testing.T) {
	c, err := (Config{}).normal()
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(1); n < 100; n++ {
		want := 15 * time.Minute
		if n < 9 {
			want = min(want, 5*time.Second<<(n-1))
		}
		for range 50 {
			if got := c.pause(n); got < want*9/10 || got > want*11/10 {
				t.Fatalf("after %d failures %v, want about %v", n, got, want)
			}
		}
	}
	for _, bad := range []Config{{Timeout: time.Millisecond}, {Parallel: 65}, {Parallel: -1}, {RetryFirst: 2 * time.Hour}, {RetryFirst: time.Minute, RetryMost: time.Second},
		{GiveUpAfter: time.Second}, {FailingAfter: 1001}} {
		if _, err := bad.normal(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
