package line

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
	"levee/internal/platform/platformtest"
	"levee/internal/sale"
)

// street is a house of several nodes: each has its own rooms, memory and, where the engine allows it, its own connections to the one
// database. Their sales' gates are memories that follow the ledger; the crowd does not buy here, sale's own tests do that.
type street struct {
	t     testing.TB
	dir   string
	first *house
	nodes []*place
	v     *sale.Sale
	rings atomic.Int64
	deaf  bool // no bell is ever heard: looking alone
	blind bool // nobody follows the others: the negative control

	mu     sync.Mutex // guards wakes and what follows
	wakes  []func()
	seen   map[string]int
	ticked sync.Mutex // one tick at a time in the house, as the jobs see to
}

// place is one node of a street.
type place struct {
	*house
	name string
	gone atomic.Bool
	cut  atomic.Bool // its looks fail: SQL or the network is away
	mute atomic.Bool // what it commits it neither takes in nor rings for, as a process that dies, or sleeps, after its commit
	stop func()
}

func newStreet(t testing.TB, nodes int) *street {
	s := &street{t: t, dir: t.TempDir(), seen: map[string]int{}}
	for range nodes {
		s.open()
	}
	return s
}

// open adds a node.
func (s *street) open() *place {
	s.t.Helper()
	p := &place{name: fmt.Sprint("node ", len(s.nodes))}
	if s.first == nil {
		platform := platformtest.Open(s.t, s.dir, houseSchemas()...)
		s.first = &house{Platform: platform, clock: &testClock{now: time.Now()}, stop: func() {}}
		p.house = s.first
	} else {
		platform := *s.first.Platform
		if platformtest.Distributed() {
			platform.DB = platformtest.DB(s.t, s.dir, platform.Obs, withParts()...)
		}
		p.house = &house{Platform: &platform, clock: s.first.clock, sku: s.first.sku, stop: func() {}}
	}
	p.gates = func(_ levee.SaleID, waitingMax int) *gate.Gate { return gate.NewMemory(waitingMax) }
	p.bell = func(_ string, wake func()) func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		me := len(s.wakes)
		s.wakes = append(s.wakes, wake)
		return func() { s.ring(me) }
	}
	p.start(s.t)
	p.lines.cut = func(what string) bool {
		return what == "look" && (s.blind || p.cut.Load()) || what == "took" && p.mute.Load()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.lines.Run(ctx) }()
	rooms := p.house.stop
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		rooms()
	})
	s.t.Cleanup(p.stop)
	s.nodes = append(s.nodes, p)
	return p
}

// ring wakes the others, mostly.
func (s *street) ring(me int) {
	s.rings.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, wake := range s.wakes {
		if i != me && !s.deaf && rand.IntN(4) > 0 {
			go wake()
		}
	}
}

// kill ends a node: what it committed last it has told nobody.
func (s *street) kill(p *place) {
	p.mute.Store(true)
	p.gone.Store(true)
}

func (s *street) alive() (list []*place) {
	for _, p := range s.nodes {
		if !p.gone.Load() {
			list = append(list, p)
		}
	}
	return list
}

func (s *street) count(what string, err error) {
	if err != nil {
		what += " " + string(levee.CodeOf(err))
		if c := levee.CodeOf(err); c == levee.CodeInternal || c == "" {
			s.t.Errorf("%s: %v", what, err)
		}
	}
	s.mu.Lock()
	s.seen[what]++
	s.mu.Unlock()
}

// order picks an order of the sale in a state.
func (s *street) order(r *rand.Rand, p *place, state order.State) (o order.Order, ok bool) {
	list, err := listOrders(p.orders, "source=sale&state="+state.String()+"&sale="+p.Sealer.Seal(levee.KindSale, int64(s.v.ID)))
	if err != nil {
		s.t.Error(err)
	}
	if len(list) == 0 {
		return o, false
	}
	return list[r.IntN(len(list))], true
}

// move is one thing that somebody does at some node.
func (s *street) move(r *rand.Rand, people int) {
	ctx := context.Background()
	all := s.alive()
	p := all[r.IntN(len(all))]
	who := buyer(r.IntN(people))
	tx := func(name string, fn func(ctx context.Context, tx *db.Tx) error) error { return p.DB.Tx(ctx, name, fn) }
	act := func(act string, units int64) {
		_, err := p.sales.Do(ctx, s.v.ID, sale.Command{Act: act, Units: units, Reason: "test"}, operator)
		s.count(act, err)
	}
	switch k := r.IntN(100); {
	case k < 40:
		late := r.IntN(8) == 0
		s.count("join", tx("test.join", func(ctx context.Context, tx *db.Tx) error {
			_, err := p.lines.JoinTx(ctx, tx, s.v.ID, who, 1+r.Int32N(2))
			if late { // it has its number, and others wait for the next
				time.Sleep(20 * time.Millisecond)
			}
			return err
		}))
	case k < 50:
		s.count("leave", p.lines.Leave(ctx, s.v.ID, who.User))
	case k < 60:
		if o, ok := s.order(r, p, order.StateCreated); ok {
			s.count("pay", tx("test.pay", func(ctx context.Context, tx *db.Tx) error {
				_, err := p.orders.MarkPaidTx(ctx, tx, o.ID, order.PaidBy{Payment: levee.PaymentID(o.ID), At: p.clock.Now()})
				return err
			}))
		}
	case k < 75:
		if o, ok := s.order(r, p, order.StateCreated); ok {
			s.count("cancel", p.orders.Cancel(ctx, o.ID, levee.Actor{User: o.Buyer, Roles: levee.RoleCustomer}, "test"))
		}
	case k < 78:
		if o, ok := s.order(r, p, order.StatePaid); ok {
			s.count("refund", tx("test.refund", func(ctx context.Context, tx *db.Tx) error {
				if err := p.orders.RefundingTx(ctx, tx, o.ID, operator, "test"); err != nil {
					return err
				}
				return p.orders.RefundedTx(ctx, tx, o.ID)
			}))
		}
	case k < 82:
		p.clock.Step(time.Duration(r.IntN(12)) * time.Minute)
		_, err := p.orders.ExpireDue(ctx)
		s.count("expire", err)
	case k < 85:
		act("top_up", 1+r.Int64N(2))
	case k < 87:
		act("withdraw", 1+r.Int64N(2))
	case k < 88:
		act([]string{"pause", "force_sold_out"}[r.IntN(2)], 0)
	case k < 92:
		act("resume", 0)
	case k < 94:
		s.ticked.Lock()
		defer s.ticked.Unlock()
		s.count("tick", p.lines.Tick(ctx))
	case k < 96:
		s.count("events", errors.Join(p.Events.Drain(ctx), p.Jobs.Drain(ctx)))
	case k < 98:
		p.cut.Store(!p.cut.Load())
		s.count("cut", nil)
	default:
		p.mute.Store(!p.mute.Load())
		s.count("mute", nil)
	}
	// Whatever is on its way, what pages are shown makes sense.
	q := all[r.IntN(len(all))]
	if e, err := q.lines.Mine(ctx, s.v.ID, who.User); err == nil {
		view := q.lines.view(e, false)
		if view.Waiting < 0 || view.Position != nil && (*view.Position < 1 || *view.Position > view.Waiting) {
			s.t.Errorf("%s shows %+v", q.name, view)
		}
	}
}

// settle lets every event and job come to its end.
func (s *street) settle() {
	s.t.Helper()
	s.first.clock.Step(time.Millisecond)
	for _, p := range s.alive() {
		p.cut.Store(false)
		p.mute.Store(false)
		if err := errors.Join(p.Events.Drain(s.t.Context()), p.Jobs.Drain(s.t.Context())); err != nil {
			s.t.Fatal(err)
		}
	}
}

// differs compares what a node has in memory with a plain count in SQL; "" where they agree.
func (s *street) differs(p *place) string {
	all, err := entries(s.t.Context(), p.DB, "sale_id=? ORDER BY place", s.v.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	heads, err := p.lines.alive(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	at := slices.IndexFunc(heads, func(h head) bool { return h.sale == s.v.ID })
	memory := p.lines.book.of(s.v.ID)
	switch {
	case at < 0 && memory == nil:
		return ""
	case at < 0 || memory == nil:
		return fmt.Sprintf("SQL has the line: %v, memory: %v", at >= 0, memory != nil)
	case memory.inOrder != heads[at].inOrder():
		return fmt.Sprintf("memory has the order: %v", memory.inOrder)
	}
	var want counts
	for _, e := range all {
		switch {
		case !memory.inOrder:
			if e.State == StateEntered {
				want.Entered++
			}
			continue
		case e.State == StateOffered:
			want.Offered++
		}
		if e.State != StateWaiting {
			continue
		}
		if got, _ := memory.ahead(e.Place); got != want.Waiting {
			return fmt.Sprintf("%d wait before place %d, memory says %d", want.Waiting, e.Place, got)
		}
		want.Waiting++
	}
	if got := memory.counts(); got != want {
		return fmt.Sprintf("memory counts %+v, SQL %+v", got, want)
	}
	return ""
}

// agree waits until every node shows what SQL has, which takes a second at most and here, on a busy machine, longer; it returns the last
// difference.
func (s *street) agree(within time.Duration) (why string) {
	s.t.Helper()
	if s.blind {
		within = min(within, time.Second) // nothing will come
	}
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		why = ""
		for _, p := range s.alive() {
			if d := s.differs(p); d != "" {
				why = p.name + ": " + d
			}
		}
		if why == "" || time.Now().After(end) {
			return why
		}
	}
}

const calmIn = 20 * time.Second

func lifeOf(s *street, seed uint64, draw bool, rounds, moves int) (why string) {
	t, people := s.t, 40
	s.first.open(t, 1, 1) // for the SKU
	for _, p := range s.nodes {
		p.sku = s.first.sku
	}
	var change []func(*sale.Terms)
	if draw {
		change = append(change, draws(s.first, 45*time.Minute))
	}
	s.v = s.nodes[0].open(t, 6, 2, change...)
	if !draw {
		for n := range 3 { // the units are gone
			n += 1000
			err := s.first.DB.Tx(t.Context(), "test.grant", func(ctx context.Context, tx *db.Tx) error {
				_, err := s.first.sales.GrantTx(ctx, tx, s.v.ID, []sale.Grant{{Buyer: buyer(n).User, Quantity: 2, Key: "k"}})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range rounds {
		var crowd sync.WaitGroup
		for w := range 4 {
			crowd.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(round*10+w)))
				for range moves {
					s.move(r, people)
				}
			})
		}
		crowd.Wait()
		s.settle()
		if why = s.agree(calmIn); why != "" {
			return fmt.Sprintf("round %d: %s", round, why)
		}
		s.ticked.Lock()
		err := s.alive()[round%len(s.alive())].lines.Tick(t.Context())
		s.ticked.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		s.settle()
		if why = s.agree(calmIn); why != "" {
			return fmt.Sprintf("round %d, after a tick: %s", round, why)
		}
		live := s.alive()[0]
		live.holdsBooks(t, s.v)
		switch round {
		case 0:
			s.kill(s.nodes[2])
		case 1: // a newcomer knows the lines as they are
			p := s.open()
			p.sku = s.first.sku
			if d := s.differs(p); d != "" {
				return "a node that has just started: " + d
			}
		}
	}
	return ""
}

// TestNodesFollow lets people do random things at random nodes of one house, of which one is killed, one comes later, and each is cut off,
// falls silent and misses bells now and then, and compares what each shows with SQL whenever it is calm.
func TestNodesFollow(t *testing.T) {
	seeds, rounds, moves := 4, 5, 30
	if testing.Short() {
		seeds, rounds, moves = 2, 3, 15
	}
	all := map[string]int{}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := newStreet(t, 3)
			s.deaf = seed == 3
			if why := lifeOf(s, uint64(seed), seed%2 == 1, rounds, moves); why != "" {
				t.Fatal(why)
			}
			// The sale ends on one node; all the others forget its line.
			s.alive()[1].act(t, s.v, "end", 0)
			s.settle()
			for end := time.Now().Add(2 * calmIn); ; time.Sleep(100 * time.Millisecond) { // the node that ticks sees the end within a second
				if err := s.alive()[0].lines.Tick(t.Context()); err != nil {
					t.Fatal(err)
				}
				kept := slices.ContainsFunc(s.alive(), func(p *place) bool { return p.lines.book.of(s.v.ID) != nil })
				if !kept {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("a line that is over is kept: %s", s.agree(0))
				}
			}
			for what, n := range s.seen {
				all[what] += n
			}
		})
	}
	t.Log(all)
	if testing.Short() || t.Failed() {
		return
	}
	for _, what := range []string{"join", "leave", "pay", "cancel", "refund", "expire", "top_up", "withdraw", "tick", "events", "cut", "mute"} {
		if all[what] == 0 {
			t.Errorf("it never came to %q", what)
		}
	}
}

// TestNodesThatDoNotFollow is the control: the same life without the following is found out.
func TestNodesThatDoNotFollow(t *testing.T) {
	s := newStreet(t, 3)
	s.blind = true
	why := lifeOf(s, 0, false, 1, 20)
	if why == "" {
		t.Fatal("nobody follows, and nobody noticed")
	}
	t.Log(why)
}

// TestNodesGiveInOrder: units come back at many nodes at once, some of whose ticks and jobs move the line on as well; each is given once and
// in the order of the line.
func TestNodesGiveInOrder(t *testing.T) {
	s := newStreet(t, 3)
	n := s.nodes[0]
	const units, people = 12, 60
	s.v = n.open(t, units, 1)
	for i := range units {
		err := n.DB.Tx(t.Context(), "test.grant", func(ctx context.Context, tx *db.Tx) error {
			_, err := n.sales.GrantTx(ctx, tx, s.v.ID, []sale.Grant{{Buyer: buyer(i).User, Quantity: 1, Key: "k"}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range people {
		s.nodes[i%3].joins(t, s.v, 100+i, 1)
	}
	// Everybody gives up what he has, until nobody waits.
	for range 4 {
		list, err := listOrders(n.orders, "source=sale&state=created&sale="+n.Sealer.Seal(levee.KindSale, int64(s.v.ID)))
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i, o := range list {
			all.Go(func() {
				p := s.nodes[i%3]
				if err := p.orders.Cancel(context.Background(), o.ID, operator, "test"); err != nil && levee.CodeOf(err) != levee.CodeConflict {
					t.Error(err)
				}
				if i%4 == 0 {
					if err := p.lines.Tick(context.Background()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	}
	s.settle()
	if why := s.agree(calmIn); why != "" {
		t.Error(why)
	}
	n.holdsBooks(t, s.v)
	tally, err := n.lines.tally(t.Context(), s.v.ID)
	if err != nil || tally[StateOffered] != units || tally[StateLapsed] != 3*units || tally[StateWaiting] != people-4*units {
		t.Errorf("the entries are %v, %v", tally, err)
	}
}

// TestOneNodeTellsThePages: whichever node a line changes on, the house's pages are told once, and by another node when the one that does it
// is gone.
func TestOneNodeTellsThePages(t *testing.T) {
	s := newStreet(t, 3)
	n := s.nodes[0]
	s.v = n.open(t, 1, 1)
	err := n.DB.Tx(t.Context(), "test.grant", func(ctx context.Context, tx *db.Tx) error {
		_, err := n.sales.GrantTx(ctx, tx, s.v.ID, []sale.Grant{{Buyer: buyer(1).User, Quantity: 1, Key: "k"}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// One hub for all stands for hubs that share what is published.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Push.ServeSSE(w, r, "line:"+n.lines.saleRef(s.v.ID))
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	told := make(chan string, 100)
	ready := make(chan struct{})
	go func() {
		listens := sync.OnceFunc(func() { close(ready) })
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "id: ") {
				listens()
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: {"); ok {
				told <- data
			}
		}
	}()
	<-ready
	serve := func(p *place) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.lines.Serve(ctx, node.Forever()) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(stop)
		return stop
	}
	heard := func(of time.Duration) (list []string) {
		for end := time.After(of); ; {
			select {
			case text := <-told:
				list = append(list, text)
			case <-end:
				return list
			}
		}
	}
	stop := serve(s.nodes[0])
	s.nodes[2].joins(t, s.v, 10, 1)
	if list := heard(2500 * time.Millisecond); len(list) != 1 || !strings.Contains(list[0], `"waiting":1`) {
		t.Errorf("one change at another node was told as %q", list)
	}
	stop()
	s.nodes[1].joins(t, s.v, 11, 1)
	if list := heard(2500 * time.Millisecond); len(list) != 0 {
		t.Errorf("nobody was to tell, and it was told: %q", list)
	}
	serve(s.nodes[1])
	if list := heard(2500 * time.Millisecond); len(list) != 1 || !strings.Contains(list[0], `"waiting":2`) {
		t.Errorf("the next one told %q", list)
	}
	// A draw's places, and a line that is over, are told by whoever tells, too.
	s.nodes[2].act(t, s.v, "end", 0)
	if err := s.nodes[2].lines.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := heard(2500 * time.Millisecond); len(list) == 0 || !strings.Contains(list[len(list)-1], `"waiting":0`) {
		t.Errorf("at the end it told %q", list)
	}
}

// TestTermsOfAnotherNode: terms that another node changed bind at once, also where this one has not seen them.
func TestTermsOfAnotherNode(t *testing.T) {
	s := newStreet(t, 2)
	a, b := s.nodes[0], s.nodes[1]
	s.v = a.open(t, 3, 1, draws(a.house, time.Hour))
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) { // b sells it, too
		if slices.ContainsFunc(b.sales.Live(), func(v *sale.Sale) bool { return v.ID == s.v.ID }) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the other node does not know the sale")
		}
	}
	b.house.stop() // it looks at the sales no more: what it has in memory grows old
	s.nodes[1].joins(t, s.v, 1, 1)
	a.act(t, s.v, "pause", 0)
	_, err := b.join(s.v, 2, 1)
	wantCode(t, err, levee.CodePaused)
	a.act(t, s.v, "resume", 0)
	b.joins(t, s.v, 2, 1)
	a.act(t, s.v, "end", 0)
	_, err = b.join(s.v, 3, 1)
	wantCode(t, err, levee.CodeEnded)
	if v, err := b.sales.ByID(t.Context(), s.v.ID); err != nil || v.State == sale.StateEnded {
		t.Fatalf("the test tests nothing: %+v, %v", v, err)
	}
}
