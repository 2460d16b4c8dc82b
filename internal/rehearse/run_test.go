package rehearse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/report"
)

func testConfig() Config {
	return Config{Server: "http://house.test", User: "operator", Password: "right", Sale: "sal_1", Rate: 200, Duration: 2 * time.Second,
		Connections: 16, Settle: 10 * time.Second, Quiet: true}
}

// rehearseIn runs a rehearsal against a house in a bubble with its own clock.
func rehearseIn(t *testing.T, h *house, change func(*Config)) (r Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		dial, stop := h.pipes()
		defer stop()
		c := testConfig()
		c.dial = dial
		if change != nil {
			change(&c)
		}
		var out bytes.Buffer
		var err error
		if r, err = Run(t.Context(), c, &out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "audit") {
			t.Errorf("the summary is missing: %s", out.String())
		}
	})
	return r
}

func broken(r Report) (names []string) {
	for _, c := range r.Audit {
		if c.Verdict == Broken {
			names = append(names, c.Name)
		}
	}
	return names
}

func mustHold(t *testing.T, r Report) {
	t.Helper()
	for _, c := range r.Audit {
		if c.Verdict == Broken {
			t.Errorf("%s: %s %v", c.Name, c.Facts, c.Findings)
		}
	}
	if !r.OK() || !r.Passed {
		t.Error("the report is not OK")
	}
}

func TestHonestHousePasses(t *testing.T) {
	h := newHouse(50, 1)
	r := rehearseIn(t, h, func(c *Config) { c.Double, c.Buyers = 0.2, 300 })
	mustHold(t, r)
	if r.Outcomes["ordered"] != 50 || r.Account.Stock.Reserved != 50 {
		t.Errorf("50 units are sold to 50 people: %v", r.Outcomes)
	}
	if got := report.Total(r.Outcomes); got != r.Arrivals {
		t.Errorf("%d presses, %d last words", r.Arrivals, got)
	}
	if r.SoldOutAfter == nil || r.LastOrderAfter == nil {
		t.Error("the sale was sold out and the report does not know when")
	}
	if !slices.Equal(h.acts, []string{"end"}) {
		t.Errorf("the copy is ended once: %v", h.acts)
	}
}

// Who comes late comes when all others have had their last word, and finds what came back meanwhile. Everybody comes once.
func TestLateBuyersFindWhatCameBack(t *testing.T) {
	h := newHouse(30, 1)
	var begun string
	var told, before atomic.Int64
	r := rehearseIn(t, h, func(c *Config) {
		c.Buyers, c.Late, c.Rate = 140, 40, 400
		c.Watch = Watch{
			Begin:   func(copy string) { begun = copy },
			Ordered: func() { told.Add(1) },
			Calm: func(context.Context) error {
				before.Store(told.Load())
				h.mu.Lock()
				defer h.mu.Unlock()
				h.units, h.free = h.units+7, h.free+7 // as if operators had added them
				return nil
			}}
		h.books = func(a *Account) { a.Stock.Offered = 30 }
	})
	if begun != "sal_2" || before.Load() != 30 || told.Load() != 37 || r.Arrivals != 140 || h.purchases.Load() != 140 {
		t.Errorf("the copy %q began, %d were told before the late ones and %d in all, of %d presses and %d requests", begun, before.Load(), told.Load(),
			r.Arrivals, h.purchases.Load())
	}
	for _, wrong := range []Config{{Late: 140}, {Late: -1}, {Late: 1, Max: true}, {Late: 1, Queue: true}} {
		wrong.Server, wrong.Sale, wrong.Token, wrong.Buyers = "http://127.0.0.1:1", "sal_1", "x", 140
		if _, err := wrong.Normal(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		dial, stop := newHouse(30, 1).pipes()
		defer stop()
		c := testConfig()
		c.dial, c.Watch.Calm = dial, func(context.Context) error { return errors.New("not calm") }
		if _, err := Run(t.Context(), c, io.Discard); err == nil || !strings.Contains(err.Error(), "not calm") {
			t.Errorf("an error of Calm was lost: %v", err)
		}
	})
}

func TestBuyersComeAgainUpToTheLimit(t *testing.T) {
	h := newHouse(1000, 2)
	r := rehearseIn(t, h, func(c *Config) { c.Buyers = 40 })
	mustHold(t, r)
	if r.Outcomes["ordered"] != 80 || r.Outcomes["limit_reached"] == 0 {
		t.Errorf("40 buyers may hold 2 each: %v", r.Outcomes)
	}
}

func TestPollingAndQuantity(t *testing.T) {
	h := newHouse(60, 3)
	h.async = 200 * time.Millisecond
	r := rehearseIn(t, h, func(c *Config) { c.Poll, c.Quantity = true, 3 })
	mustHold(t, r)
	if r.Outcomes["ordered"] != 20 {
		t.Errorf("60 units in threes: %v", r.Outcomes)
	}
	if l, ok := r.Latency("outcomes"); !ok || l.Max < 200 {
		t.Errorf("a reservation that takes 200 ms cannot be settled in %v ms", l.Max)
	}
	if _, ok := r.Latency("polls"); !ok {
		t.Error("nobody polled")
	}
}

func TestPeopleComeEarlyAndWaitForTheOpening(t *testing.T) {
	h := newHouse(50, 1)
	r := rehearseIn(t, h, func(c *Config) { c.Early = time.Second })
	mustHold(t, r)
	if math.Abs(r.OpenedAfter-1) > 0.01 || r.Answers["wait"] == 0 || r.Outcomes["ordered"] != 50 {
		t.Errorf("opened after %v s, %v", r.OpenedAfter, r.Answers)
	}
}

// People do as they are told: nobody presses again before Retry-After, and all get through in the end.
func TestRetryAfterIsHonoured(t *testing.T) {
	for _, refusal := range []struct {
		status int
		code   string
	}{{429, "too_many_requests"}, {503, "unavailable"}, {503, "not_warmed"}, {409, "paused"}} {
		t.Run(refusal.code, func(t *testing.T) {
			h := newHouse(10_000, 1)
			var mu sync.Mutex
			asked := map[string]time.Time{}
			h.before = func(_ *house, w http.ResponseWriter, r *http.Request, _ int64) bool {
				mu.Lock()
				defer mu.Unlock()
				key := r.Header.Get("Idempotency-Key")
				first, again := asked[key]
				if !again {
					asked[key] = time.Now()
					refuse(w, refusal.status, refusal.code, "", 2)
					return true
				}
				if d := time.Since(first); d < 2*time.Second {
					t.Errorf("came back after %v, was asked to wait for 2 s", d)
				}
				return false
			}
			r := rehearseIn(t, h, func(c *Config) { c.Buyers = 1000 })
			mustHold(t, r)
			if r.Outcomes["ordered"] != r.Arrivals {
				t.Errorf("%d presses: %v", r.Arrivals, r.Outcomes)
			}
		})
	}
}

func TestImpatientPeopleGiveUp(t *testing.T) {
	h := newHouse(50, 1)
	h.before = func(_ *house, w http.ResponseWriter, _ *http.Request, _ int64) bool {
		refuse(w, 409, "paused", "", 1)
		return true
	}
	r := rehearseIn(t, h, func(c *Config) { c.Patience = 3 * time.Second })
	mustHold(t, r)
	if r.Outcomes["gave_up"] != r.Arrivals || r.SettledAfter > 6.5 {
		t.Errorf("all give up after 3 s: %v after %v s", r.Outcomes, r.SettledAfter)
	}
}

// A reply that is lost after the commit is found out by asking again with the same key.
func TestLostRepliesAreResolved(t *testing.T) {
	h := newHouse(300, 1)
	cut := func(w http.ResponseWriter) bool {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return false
		}
		conn.Close()
		return true
	}
	lost := 0
	h.lie = func(h *house, w http.ResponseWriter, o *fakeOrder) bool {
		if len(h.orders)%3 != 0 {
			return false
		}
		lost++
		return cut(w)
	}
	r := rehearseIn(t, h, nil)
	mustHold(t, r)
	if lost == 0 || r.Answers["lost"] != uint64(lost) || r.Outcomes["unknown"] != 0 {
		t.Errorf("%d replies were cut: %v", lost, r.Answers)
	}
}

func TestUnknownOutcomesFailTheAudit(t *testing.T) {
	h := newHouse(300, 1)
	h.before = func(_ *house, w http.ResponseWriter, _ *http.Request, n int64) bool {
		if n < 100 {
			return false
		}
		refuse(w, 503, "timeout", "", 1)
		return true
	}
	r := rehearseIn(t, h, nil)
	if got := broken(r); !slices.Equal(got, []string{"every outcome is known"}) || r.Outcomes["unknown"] == 0 {
		t.Errorf("broken: %v, outcomes %v", got, r.Outcomes)
	}
}

func TestPayments(t *testing.T) {
	h := newHouse(20, 1)
	h.pay = true
	r := rehearseIn(t, h, func(c *Config) { c.Pay = 1 })
	mustHold(t, r)
	if r.Account.Stock.Sold != 20 {
		t.Errorf("20 orders are paid: %+v", r.Account.Stock)
	}
	h = newHouse(20, 1)
	r = rehearseIn(t, h, func(c *Config) { c.Pay = 1 })
	mustHold(t, r)
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "takes no payments") }) {
		t.Errorf("the report says that nobody could pay: %v", r.Notes)
	}
}

// Each lie is planted in an otherwise honest house, and the audit must name the promise that it breaks.
func TestAuditCatchesEachLie(t *testing.T) {
	every := func(n int, do func(h *house, w http.ResponseWriter, o *fakeOrder) bool) func(*house, http.ResponseWriter, *fakeOrder) bool {
		return func(h *house, w http.ResponseWriter, o *fakeOrder) bool { return len(h.orders)%n == 0 && do(h, w, o) }
	}
	for _, lie := range []struct {
		name  string
		plant func(h *house)
		wants []string
	}{
		{"oversells", func(h *house) { h.free += 5 }, []string{"nothing oversold", "the stock balances"}},
		{"loses an order", func(h *house) { h.export = func(rows []row) []row { return slices.Delete(rows, 7, 8) } }, []string{"every yes is kept"}},
		{"answers 201 without a row", func(h *house) {
			h.lie = every(9, func(h *house, w http.ResponseWriter, o *fakeOrder) bool {
				reply(w, 201, `{"reservation":"res_x`+o.key+`","order":"ord_x`+o.key+`","place":"ordered","quantity":1}`)
				h.orders = h.orders[:len(h.orders)-1]
				h.free++
				return true
			})
		}, []string{"every yes is kept"}},
		{"says sold out and writes an order", func(h *house) {
			h.lie = every(10, func(_ *house, w http.ResponseWriter, _ *fakeOrder) bool {
				refuse(w, 409, "sold_out", "", 0)
				return true
			})
		}, []string{"no order behind a buyer's back"}},
		{"gives one buyer two", func(h *house) {
			h.lie = every(10, func(h *house, w http.ResponseWriter, o *fakeOrder) bool { h.give(o.Buyer, "again", 1); return false })
		}, []string{"no order behind a buyer's back", "the limit per buyer"}},
		{"forgets the limit", func(h *house) { h.perBuyerEnforced(3) }, []string{"the limit per buyer"}},
		{"forgets the key", func(h *house) {
			h.lie = func(h *house, _ http.ResponseWriter, o *fakeOrder) bool {
				delete(h.byKey, o.Buyer+o.key)
				delete(h.held, o.Buyer)
				return false
			}
		}, []string{"each order once", "the limit per buyer"}},
		{"gives one order to two buyers", func(h *house) {
			var first *fakeOrder
			h.lie = func(h *house, w http.ResponseWriter, o *fakeOrder) bool {
				if first == nil {
					first = o
				}
				if len(h.orders) != 20 {
					return false
				}
				h.orders = h.orders[:19]
				h.free++
				h.yes(w, first)
				return true
			}
		}, []string{"each order once"}},
		{"tells another quantity", func(h *house) {
			h.lie = every(10, func(_ *house, w http.ResponseWriter, o *fakeOrder) bool {
				reply(w, 201, fmt.Sprintf(`{"reservation":%q,"order":%q,"place":"ordered","quantity":2}`, o.Reservation, o.Order))
				return true
			})
		}, []string{"every yes is kept"}},
		{"gives the order to somebody else", func(h *house) {
			h.export = func(rows []row) []row { rows[3].Buyer = "usr_399"; return rows }
		}, []string{"every yes is kept"}},
		{"gives an order to a stranger", func(h *house) {
			h.export = func(rows []row) []row {
				return append(rows[:len(rows):len(rows)], row{"res_s", "ord_s", "usr_stranger", 1, "reserved"})
			}
		}, []string{"no order behind a buyer's back"}},
		{"lists a row twice", func(h *house) {
			h.export = func(rows []row) []row { return append(rows[:len(rows):len(rows)], rows[0]) }
		},
			[]string{"each order once"}},
		{"keeps books that do not balance", func(h *house) { h.books = func(a *Account) { a.Stock.Remaining += 3 } }, []string{"the stock balances"}},
		{"admits a problem", func(h *house) { h.books = func(a *Account) { a.Problems, a.Balanced = []string{"ledger"}, false } }, []string{"the stock balances"}},
		{"keeps other books than rows", func(h *house) { h.books = func(a *Account) { a.Stock.Reserved--; a.Stock.Remaining++ } }, []string{"books and rows agree"}},
		{"never comes to rest", func(h *house) { h.books = func(a *Account) { a.Gate.Unsettled = 1 } }, []string{"books and rows agree"}},
		{"takes money for nothing", func(h *house) {
			h.pay = true
			h.export = func(rows []row) []row { rows[0].State = "reserved"; return rows }
		}, []string{"paid is sold"}},
		{"sells without money", func(h *house) { h.export = func(rows []row) []row { rows[5].State = "sold"; return rows } }, []string{"paid is sold"}},
		{"fails inside", func(h *house) {
			h.before = func(_ *house, w http.ResponseWriter, _ *http.Request, n int64) bool {
				if n%40 == 0 {
					refuse(w, 500, "internal", "", 0)
				}
				return n%40 == 0
			}
		}, []string{"no server errors", "no odd answers"}},
		{"turns buyers away as strangers", func(h *house) {
			h.before = func(_ *house, w http.ResponseWriter, _ *http.Request, n int64) bool {
				if n%40 == 0 {
					refuse(w, 401, "unauthenticated", "", 0)
				}
				return n%40 == 0
			}
		}, []string{"no odd answers"}},
	} {
		t.Run(lie.name, func(t *testing.T) {
			h := newHouse(50, 1)
			lie.plant(h)
			r := rehearseIn(t, h, func(c *Config) {
				c.Double = 0.5
				if h.pay {
					c.Pay = 1
				}
			})
			got := broken(r)
			if r.OK() || r.Passed {
				t.Fatal("the audit passed a liar")
			}
			for _, want := range lie.wants {
				if !slices.Contains(got, want) {
					t.Errorf("%q should be broken, broken are %q", want, got)
				}
			}
		})
	}
}

// perBuyerEnforced makes the house count to another limit than it says.
func (h *house) perBuyerEnforced(n int64) {
	h.before = func(h *house, _ http.ResponseWriter, r *http.Request, _ int64) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		if who := h.buyer(r); h.held[who] < n {
			h.held[who] = 0
		}
		// Each buyer presses again and again: there are few of them.
		r.Header.Set("Authorization", "Bearer tok."+fmt.Sprint(len(r.Header.Get("Idempotency-Key"))%1))
		r.Header.Set("Levee-Admission", "adm0")
		return false
	}
}

// The generator keeps its rate whatever the answers are, and counts a stall for everybody who arrived in it. The negative control:
// the same stall seen by a closed loop, and by measuring from the real sending, is hidden.
func TestStallCountsForEverybodyWhoArrivedInIt(t *testing.T) {
	const stallFrom, stallFor = time.Second, time.Second
	stalling := func() *house {
		h := newHouse(1, 1)
		var start atomic.Pointer[time.Time]
		h.before = func(_ *house, _ http.ResponseWriter, _ *http.Request, _ int64) bool {
			now := time.Now()
			start.CompareAndSwap(nil, &now)
			if since := now.Sub(*start.Load()); since > stallFrom && since < stallFrom+stallFor {
				time.Sleep(stallFrom + stallFor - since)
			} else {
				time.Sleep(time.Millisecond)
			}
			return false
		}
		return h
	}
	open := rehearseIn(t, stalling(), func(c *Config) { c.Duration, c.Rate, c.Connections = 5*time.Second, 500, 4 })
	mustHold(t, open)
	all, _ := open.Latency("answers")
	sent, _ := open.Latency("from_sending")
	// A fifth of all people arrived in the stall, and they waited for half of it on average.
	if all.P90 < 300 || all.P90 > 900 || all.P99 < 900 {
		t.Errorf("p90 %v ms, p99 %v ms: a fifth arrived in a stall of a second", all.P90, all.P99)
	}
	if sent.P99 > 20 {
		t.Errorf("measured from the real sending p99 is %v ms: 4 of %d requests were under way in the stall", sent.P99, sent.Count)
	}
	if !slices.ContainsFunc(open.Notes, func(n string) bool { return strings.Contains(n, "waited for a free connection") }) {
		t.Errorf("the report does not warn: %v", open.Notes)
	}
	if math.Abs(open.ArrivalsPerSecond-500) > 5*math.Sqrt(500*5)/5 {
		t.Errorf("%v presses a second, not 500", open.ArrivalsPerSecond)
	}
	closed := rehearseIn(t, stalling(), func(c *Config) { c.Duration, c.Max, c.Connections, c.Buyers = 5*time.Second, true, 4, 1000 })
	mustHold(t, closed)
	if hidden, _ := closed.Latency("answers"); hidden.P99 > 20 || hidden.Max < 900 {
		t.Errorf("a closed loop should hide the stall: p99 %v ms, max %v ms", hidden.P99, hidden.Max)
	}
}

func TestArrivalsArePoissonAtTheRate(t *testing.T) {
	const rate, length = 20_000.0, 30 * time.Second
	a, b := newArrivals(rate, length, 7), newArrivals(rate, length, 7)
	var last time.Duration
	var gaps, squares float64
	n := 0
	for ; !a.over(); n++ {
		k, at := a.next()
		if k2, at2 := b.next(); k2 != k || at2 != at {
			t.Fatal("the same seed gives other moments")
		}
		gap := (at - last).Seconds()
		gaps, squares, last = gaps+gap, squares+gap*gap, at
	}
	if want := rate * length.Seconds(); math.Abs(float64(n)-want) > 4*math.Sqrt(want) {
		t.Errorf("%d arrivals, %v are meant", n, want)
	}
	mean := gaps / float64(n)
	if spread := math.Sqrt(squares/float64(n)-mean*mean) / mean; math.Abs(spread-1) > 0.01 {
		t.Errorf("the gaps' standard deviation is %v of their mean; it is 1 in a Poisson process", spread)
	}
	if newArrivals(rate, length, 8).at == newArrivals(rate, length, 7).at {
		t.Error("another seed gives the same moments")
	}
}

func TestHabitsAreSpreadEvenly(t *testing.T) {
	var sum float64
	var below [10]int
	for n := range uint64(100_000) {
		v := habit(1, n, askPay)
		if v < 0 || v >= 1 {
			t.Fatal(v)
		}
		sum += v
		below[int(v*10)]++
	}
	if math.Abs(sum/100_000-0.5) > 0.005 || slices.Min(below[:]) < 9500 {
		t.Errorf("mean %v, tenths %v", sum/100_000, below)
	}
}

func TestMaxAsksForWhatItDoesNotKnow(t *testing.T) {
	forgetful := func(ready time.Duration) *house {
		h := newHouse(200, 1)
		h.before = func(_ *house, w http.ResponseWriter, _ *http.Request, _ int64) bool {
			time.Sleep(5 * time.Millisecond)
			return false
		}
		h.lie = func(h *house, w http.ResponseWriter, o *fakeOrder) bool {
			switch len(h.orders) % 4 {
			case 0:
				refuse(w, 503, "timeout", "", 1)
			case 1:
				o.ready = time.Now().Add(ready)
				reply(w, 202, fmt.Sprintf(`{"reservation":%q,"place":"queued","poll_after_ms":100}`, o.Reservation))
			case 2:
				conn, _, _ := http.NewResponseController(w).Hijack()
				conn.Close()
			default:
				return false
			}
			return true
		}
		return h
	}
	check := func(t *testing.T, r Report) {
		t.Helper()
		mustHold(t, r)
		if r.Account.Stock.Reserved != 200 || r.Outcomes["ordered"] != 200 {
			t.Errorf("200 units are sold: %v", r.Outcomes)
		}
	}
	t.Run("depth 1", func(t *testing.T) {
		check(t, rehearseIn(t, forgetful(6*time.Second), func(c *Config) { c.Max, c.Buyers, c.Settle = true, 1000, 30*time.Second }))
	})
	t.Run("depth 4", func(t *testing.T) { // on sockets: a pipe has no buffer in which requests could wait
		c := testConfig()
		c.Server, c.Max, c.Buyers, c.Depth, c.Duration = forgetful(1200*time.Millisecond).serve(t), true, 1000, 4, time.Second
		r, err := Run(t.Context(), c, new(bytes.Buffer))
		if err != nil {
			t.Fatal(err)
		}
		check(t, r)
	})
}

func TestNoCrowdIsSentToARealSale(t *testing.T) {
	h := newHouse(10, 1)
	h.notACopy = true
	c := testConfig()
	c.Server = h.serve(t)
	if _, err := Run(t.Context(), c, new(bytes.Buffer)); levee.CodeOf(err) != levee.CodeConflict || h.purchases.Load() > 0 {
		t.Errorf("got %v and %d purchases", err, h.purchases.Load())
	}
}

func TestRunFailsClearly(t *testing.T) {
	h := newHouse(10, 1)
	for _, c := range []struct {
		name   string
		change func(*Config)
		code   levee.Code
		says   string
	}{
		{"wrong password", func(c *Config) { c.Password = "wrong" }, levee.CodeUnauthenticated, "signing in as operator"},
		{"no such sale", func(c *Config) { c.Sale = "sal_9" }, levee.CodeInternal, "reading the sale sal_9"},
		{"other units than asked for", func(c *Config) { c.Units = 11 }, levee.CodeConflict, "10 units"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Server = h.serve(t)
			c.change(&cfg)
			_, err := Run(t.Context(), cfg, new(bytes.Buffer))
			if levee.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		cfg := testConfig()
		cfg.Server = "http://127.0.0.1:1"
		if _, err := Run(ctx, cfg, new(bytes.Buffer)); levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("got %v", err)
		}
	})
}

func TestCancelEndsTheCopy(t *testing.T) {
	h := newHouse(10, 1)
	ctx, cancel := context.WithCancel(t.Context())
	h.before = func(_ *house, _ http.ResponseWriter, _ *http.Request, n int64) bool {
		if n == 20 {
			cancel()
		}
		return false
	}
	for _, closed := range []bool{false, true} {
		cfg := testConfig()
		cfg.Server, cfg.Max, cfg.Duration = h.serve(t), closed, 30*time.Second
		if _, err := Run(ctx, cfg, new(bytes.Buffer)); !errors.Is(err, context.Canceled) && levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("got %v", err)
		}
	}
	if !slices.Contains(h.acts, "end") {
		t.Error("the copy was not ended")
	}
}

func TestConfigNamesWhatIsAllowed(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		says   string
	}{
		{func(c *Config) { c.Server = "house:8080" }, "--server"},
		{func(c *Config) { c.Server = "http://house/path" }, "--server"},
		{func(c *Config) { c.Sale = "" }, "--sale"},
		{func(c *Config) { c.Sale = "sal_1/../2" }, "--sale"},
		{func(c *Config) { c.User = "" }, "--user"},
		{func(c *Config) { c.Password = "" }, "--password-file"},
		{func(c *Config) { c.Token = "a\r\nb" }, "--token"},
		{func(c *Config) { c.Rate = -1 }, "--rate must be a number from 1 to 200000"},
		{func(c *Config) { c.Rate = math.NaN() }, "--rate"},
		{func(c *Config) { c.Rate = math.Inf(1) }, "--rate"},
		{func(c *Config) { c.Buyers = 1_000_001 }, "--buyers must be a number from 1 to 1000000"},
		{func(c *Config) { c.Buyers = -1 }, "--buyers"},
		{func(c *Config) { c.Connections = 20_000 }, "--connections"},
		{func(c *Config) { c.Units = -5 }, "--units"},
		{func(c *Config) { c.PerBuyer = 1001 }, "--per-buyer"},
		{func(c *Config) { c.Quantity = -1 }, "--quantity"},
		{func(c *Config) { c.Pay = 1.1 }, "--pay must be a number from 0 to 1"},
		{func(c *Config) { c.Double = -0.1 }, "--double"},
		{func(c *Config) { c.Depth = 65 }, "--depth"},
		{func(c *Config) { c.Duration = time.Millisecond }, "--duration must be a duration from 1s to 1h0m0s"},
		{func(c *Config) { c.Early = time.Hour }, "--early"},
		{func(c *Config) { c.Patience = time.Hour }, "--patience"},
		{func(c *Config) { c.Settle = -1 }, "--settle"},
		{func(c *Config) { c.Timeout = time.Nanosecond }, "--timeout"},
	} {
		cfg := testConfig()
		c.change(&cfg)
		_, err := cfg.Normal()
		if levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: got %v", c.says, err)
		}
		if strings.Contains(fmt.Sprint(err), "a\r\nb") {
			t.Error("the error shows the token")
		}
	}
	cfg, err := testConfig().Normal()
	if err != nil || cfg.Buyers != 400 || cfg.Seed != 1 || cfg.Timeout != timeoutDefault {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cmd := cfg.Command(); strings.Contains(cmd, "right") || !strings.Contains(cmd, "--rate 200 ") {
		t.Error(cmd)
	}
}
