package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/rehearse"
)

var (
	runs      = flag.Int("chaos.runs", 0, "how many runs TestNodes makes, each with the next seed; 0: a small one, and small fail-overs")
	unitsEach = flag.Int64("chaos.units", 10_000, "units of a run's sale, with -chaos.runs")
	buyersOf  = flag.Int("chaos.buyers", 200_000, "buyers of a run, with -chaos.runs")
	pressRate = flag.Float64("chaos.rate", 8000, "presses a second, with -chaos.runs")
	redisOf   = flag.String("chaos.redis", "", "single, sentinel or cluster; each seed chooses one of them otherwise")
)

func decode(text []byte, into any) error { return json.Unmarshal(text, into) }

// size of a run.
type size struct {
	units  int64
	buyers int
	rate   float64
}

// small is what `go test ./...` makes.
var small = size{units: 600, buyers: 4000, rate: 1000}

// full reports whether the long forms are wanted.
func full() bool { return *runs > 0 }

// shapeOf is the shape of Redis that a seed's run stands on.
func shapeOf(seed uint64) string {
	if *redisOf != "" {
		return *redisOf
	}
	return []string{single, sentinel, cluster}[seed%3]
}

// Several nodes behind nginx sell what there is and not one more, to a crowd that asks until it knows, while nodes, links, MariaDB and Redis
// are killed, cut, slowed, paused and replaced; the audit after each run is clean. A seed repeats a run's plan.
func TestNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB, Redis, nginx and three nodes")
	}
	first, n, each := *seed, *runs, size{*unitsEach, *buyersOf, *pressRate}
	if first == 0 {
		first = 1 + rand.Uint64N(1_000_000_000)
	}
	if n == 0 {
		n, each = 1, small
	}
	t.Logf("-chaos.seed=%d -chaos.runs=%d", first, n)
	bin := *program
	if bin == "" {
		bin = build(t, overlay(t, settableClock...))
	}
	// Runs on one shape come one after the other, so that backends and nodes are kept.
	byShape := map[string][]uint64{}
	for i := range n {
		s := shapeOf(first + uint64(i))
		byShape[s] = append(byShape[s], first+uint64(i))
	}
	var all []result
	for _, shape := range []string{single, sentinel, cluster} {
		if len(byShape[shape]) == 0 {
			continue
		}
		t.Run(shape, func(t *testing.T) {
			f := newFleet(t, bin, shape)
			for _, seed := range byShape[shape] {
				r := f.run(t, bin, seed, draw(seed, shape, len(f.nodes), *mostFaults, *onlyFaults), each)
				all = append(all, r)
				t.Log(r)
				if len(r.wrong) > 0 {
					t.Errorf("seed %d on %s:%s", seed, shape, few(r.wrong))
					if err := f.heal(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
	clean, longest, back := 0, time.Duration(0), time.Duration(0)
	for _, r := range all {
		if len(r.wrong) == 0 {
			clean++
		}
		longest, back = max(longest, r.pause), max(back, r.back)
	}
	t.Logf("%d runs, %d clean; longest time without a sale %v, longest time from the end of a fault to the next sale %v", len(all), clean,
		longest.Round(time.Millisecond), back.Round(time.Millisecond))
}

// result of a run.
type result struct {
	seed        uint64
	shape       string
	plan        []trouble
	told        uint64 // orders that buyers were told of
	lost, busy  uint64 // answers that did not come; answers of 429 and 503
	late        int64  // units that were left for those who came late
	pause, back time.Duration
	took        time.Duration
	doctor      time.Duration
	wrong       []string
}

func (r result) String() string {
	plan := make([]string, len(r.plan))
	for i, x := range r.plan {
		plan[i] = x.String()
	}
	verdict := "clean"
	if len(r.wrong) > 0 {
		verdict = fmt.Sprintf("%d WRONG", len(r.wrong))
	}
	return fmt.Sprintf("seed %d %s: %s | told 201: %d, replies lost: %d, 503: %d, left for late comers: %d | longest without a sale %v, back after %v | %v (doctor %v) | %s",
		r.seed, r.shape, strings.Join(plan, " "), r.told, r.lost, r.busy, r.late, r.pause.Round(time.Millisecond), r.back.Round(time.Millisecond),
		r.took.Round(100*time.Millisecond), r.doctor.Round(time.Millisecond), verdict)
}

// pulse notes when buyers were told of orders.
type pulse struct {
	mu    sync.Mutex
	began time.Time
	at    []time.Time
	more  chan struct{} // capacity 1
}

func (p *pulse) beat() {
	now := time.Now()
	p.mu.Lock()
	p.at = append(p.at, now)
	p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *pulse) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.at)
}

// pauseAmong is the longest time without a sale among the first n, the time before the first one included.
func (p *pulse) pauseAmong(n int) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.began
	for _, at := range p.at[:min(n, len(p.at))] {
		longest, last = max(longest, at.Sub(last)), at
	}
	return longest
}

// after is how long it took from a moment to the next sale; false: there was none any more.
func (p *pulse) after(moment time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, _ := slices.BinarySearchFunc(p.at, moment, func(a, b time.Time) int { return a.Compare(b) })
	if i == len(p.at) {
		return 0, false
	}
	return p.at[i].Sub(moment), true
}

// pauseAt is how long after a moment the longest pause ended that began around it: answers that were under way then still come in. false: no
// order came after it.
func (p *pulse) pauseAt(moment time.Time) (ended time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := time.Duration(0)
	for i := 1; i < len(p.at); i++ {
		if d := p.at[i].Sub(p.at[i-1]); d > longest && p.at[i].After(moment) && p.at[i-1].Before(moment.Add(1500*time.Millisecond)) {
			longest, ended, ok = d, p.at[i].Sub(moment), true
		}
	}
	return ended, ok
}

// storm carries a plan out while a crowd buys.
type storm struct {
	f     *fleet
	plan  []trouble
	units int64
	pulse *pulse

	stop    context.CancelFunc
	work    sync.WaitGroup
	mu      sync.Mutex // guards what follows
	wrong   []string
	ended   []time.Time // when faults were over
	reached int
}

func (s *storm) begin(ctx context.Context) {
	s.pulse.began = time.Now()
	ctx, s.stop = context.WithCancel(ctx)
	s.work.Go(func() {
		for i, x := range s.plan {
			for float64(s.pulse.count()) < x.at*float64(s.units) {
				select {
				case <-ctx.Done():
					return
				case <-s.pulse.more:
				}
			}
			s.mu.Lock()
			s.reached = i + 1
			s.mu.Unlock()
			s.work.Go(func() {
				// A fault is carried to its end whatever happens to the crowd: it must not outlive the run.
				err := x.do(context.WithoutCancel(ctx), s.f)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.ended = append(s.ended, time.Now())
				if err != nil {
					s.wrong = append(s.wrong, fmt.Sprintf("the fault %v could not be carried out: %v", x, err))
				}
			})
		}
	})
}

// end waits until every fault that began is over.
func (s *storm) end() {
	if s.stop != nil {
		s.stop()
	}
	s.work.Wait()
}

// run rehearses one sale under a plan of faults and audits it.
func (f *fleet) run(t testing.TB, bin string, seed uint64, plan []trouble, size size) (r result) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	r = result{seed: seed, shape: f.shape, plan: plan}
	say := func(format string, args ...any) { r.wrong = append(r.wrong, fmt.Sprintf(format, args...)) }
	p := &pulse{more: make(chan struct{}, 1), at: make([]time.Time, 0, size.units)}
	s := &storm{f: f, plan: plan, units: size.units, pulse: p}
	defer s.end()
	f.signIn(t)
	f.sickness() // what a node said before is not of this run
	var copied string
	report, err := rehearse.Run(ctx, rehearse.Config{
		Server: f.base, User: "keeper", Password: password, Sale: f.sale, Units: size.units, PerBuyer: 1, Buyers: size.buyers, Rate: size.rate,
		Late: max(20, size.buyers/50), Duration: max(time.Second, time.Duration(float64(size.buyers)/size.rate*float64(time.Second))),
		Connections: 256, Patience: 5 * time.Minute, Settle: 4 * time.Minute, Timeout: 20 * time.Second, Seed: seed, Quiet: true,
		Watch: rehearse.Watch{
			Begin: func(copy string) {
				copied = copy
				s.begin(ctx)
			},
			Ordered: p.beat,
			Calm: func(ctx context.Context) error {
				s.end()
				if err := f.well(ctx); err != nil {
					return err
				}
				left, err := f.calm(ctx, copied, size.units)
				r.late = left
				return err
			},
		},
	}, io.Discard)
	s.end()
	r.wrong = append(r.wrong, s.wrong...)
	if err != nil {
		say("the rehearsal could not be carried through: %v\n%s", err, f.tails(2000))
		r.took = time.Since(began)
		return r
	}
	if s.reached < len(plan) {
		say("only %d of %d faults came before all was sold", s.reached, len(plan))
	}
	for _, c := range report.Audit {
		if c.Verdict == rehearse.Broken {
			say("%s: %s %s", c.Name, c.Facts, few(c.Findings))
		}
	}
	r.told, r.lost, r.busy = report.Outcomes["ordered"], report.Answers["lost"], report.Answers["busy"]
	// Whoever pressed has a definite answer, and those who got nothing were told so.
	if sum := report.Outcomes["ordered"] + report.Outcomes["sold_out"]; sum != uint64(size.buyers) || report.Arrivals != uint64(size.buyers) {
		say("of %d buyers %d pressed, and the last words are %v", size.buyers, report.Arrivals, report.Outcomes)
	}
	if r.told != uint64(size.units) || report.Account.Stock.Remaining != 0 || report.Account.Stock.Reserved != size.units {
		say("%d units were wanted by %d buyers, and %d were told that they have one: %+v", size.units, size.buyers, r.told, report.Account.Stock)
	}
	r.wrong = append(r.wrong, f.ledger(ctx, size.units)...)
	r.pause = p.pauseAmong(int(size.units) * 95 / 100)
	for _, over := range s.ended {
		if d, ok := p.after(over); ok && over.Before(p.at[int(size.units)*95/100]) {
			r.back = max(r.back, d)
		}
	}
	examined := time.Now()
	if err := f.doctor(ctx, bin); err != nil {
		say("%v", err)
	}
	r.doctor = time.Since(examined)
	r.wrong = append(r.wrong, f.sickness()...)
	r.took = time.Since(began)
	return r
}

// calm waits until nothing is under way any more, and until every node says of the gate what SQL says of the stock. It returns how many units
// are left.
func (f *fleet) calm(ctx context.Context, sale string, units int64) (left int64, err error) {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for {
		err = nil
		for _, m := range f.nodes {
			a, e := f.account(ctx, m, sale)
			st := a.Stock
			switch {
			case e != nil:
			case !a.Balanced:
				e = fmt.Errorf("node %d says that the books do not balance: %v", m.number, a.Problems)
			case !a.Gate.Warm || a.Gate.Unsettled != 0 || a.Gate.Remaining != st.Remaining:
				e = fmt.Errorf("node %d says that the gate has %+v and SQL %+v", m.number, a.Gate, st)
			case st.Offered != units || st.Remaining+st.Reserved != units:
				e = fmt.Errorf("node %d says that the stock is %+v", m.number, st)
			}
			left, err = st.Remaining, errors.Join(err, e)
		}
		if err == nil {
			return left, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("not calm within a minute after the last fault: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ledger asks MariaDB itself, past the product, about the newest rehearsal: what must never be there is looked for, row by row.
func (f *fleet) ledger(ctx context.Context, units int64) (wrong []string) {
	name := f.dbURL[strings.LastIndex(f.dbURL, "/")+1:]
	ask := func(query string) string {
		got, err := f.db.QueryString(ctx, strings.ReplaceAll(query, "$", name+"."))
		if err != nil {
			got = err.Error()
		}
		return got
	}
	sale := ask("SELECT MAX(id) FROM $sale_head WHERE rehearsal=1")
	for _, c := range []struct{ what, query, want string }{
		{"units that are held", "SELECT SUM(quantity) FROM $sale_reservation WHERE sale_id=? AND state=1", fmt.Sprint(units)},
		{"reservations without an order", "SELECT COUNT(*) FROM $sale_reservation r LEFT JOIN $order_head o ON o.id=r.id WHERE r.sale_id=? AND (o.id IS NULL OR o.buyer_id<>r.buyer_id)", "0"},
		{"orders without a reservation", "SELECT COUNT(*) FROM $order_head o LEFT JOIN $sale_reservation r ON r.id=o.id WHERE o.source_ref=? AND r.id IS NULL", "0"},
		{"orders without their one line", "SELECT COUNT(*) FROM (SELECT o.id, SUM(i.quantity) n FROM $order_head o LEFT JOIN $order_item i ON i.order_id=o.id WHERE o.source_ref=? GROUP BY o.id HAVING n IS NULL OR n<>1) x", "0"},
		{"keys with two orders", "SELECT COUNT(*) FROM (SELECT 1 FROM $sale_reservation WHERE sale_id=? GROUP BY buyer_id, key_hash HAVING COUNT(*)>1) x", "0"},
		{"buyers over the limit", "SELECT COUNT(*) FROM (SELECT 1 FROM $sale_reservation WHERE sale_id=? AND state<>3 GROUP BY buyer_id HAVING SUM(quantity)>1) x", "0"},
		{"what the ledger has reserved less what it has released", "SELECT COALESCE(SUM(CASE kind WHEN 'reserved' THEN quantity WHEN 'released' THEN -quantity ELSE 0 END),0) FROM $sale_ledger WHERE sale_id=?", fmt.Sprint(units)},
		{"holes in the ledger's numbers", "SELECT MAX(seq)-COUNT(*) FROM $sale_ledger WHERE sale_id=?", "0"},
		{"stock that does not add up", "SELECT COUNT(*) FROM $sale_stock WHERE sale_id=? AND (offered<>remaining+reserved+sold+withdrawn OR LEAST(remaining,reserved,sold,withdrawn)<0)", "0"},
	} {
		if got := ask(strings.ReplaceAll(c.query, "?", sale)); got != c.want {
			wrong = append(wrong, fmt.Sprintf("MariaDB says of %s: %s, and it should be %s", c.what, got, c.want))
		}
	}
	return wrong
}
