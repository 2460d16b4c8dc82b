package sale

import (
	"context"
	"errors"
	stdflag "flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/gate"
	"levee/internal/order"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/redis"
	"levee/internal/tally"
)

// Several nodes sell one sale: each a whole Service with its own pool on one real MariaDB and its own connection to one real Redis.
var (
	fleetUnits  = stdflag.Int("fleet.units", 2000, "units of TestNodesSellExactly")
	fleetBuyers = stdflag.Int("fleet.buyers", 20000, "buyers of TestNodesSellExactly")
	fleetSeed   = stdflag.Uint64("fleet.seed", 1, "the seed of TestNodesSellExactly")
)

// needNodes ends a test that is of the distributed tier alone.
func needNodes(t testing.TB) {
	if !platformtest.Distributed() {
		t.Skip("of the distributed tier: LEVEE_TEST_TIER=distributed")
	}
}

type fleet struct {
	t     testing.TB
	redis *backends.RedisServer
	nodes []*node
	mu    sync.Mutex // guards dead of the nodes
	sale  levee.SaleID
	units int64
	next  atomic.Int64 // the next buyer
	loose bool         // nodes settle as if the gate were enough: the negative control
	// reads is db.Config.ReadReplicas: with it there is a replica that is two seconds behind. "all" is that of all nodes but the first.
	reads   string
	replica *backends.MySQLServer
}

// node is one process of the fleet.
type node struct {
	*shop
	l     *live
	stop  context.CancelFunc
	ended chan struct{}
	dead  bool
	still atomic.Bool // its gate does not follow the ledger for now; of nodes that settle loosely
	hook  atomic.Pointer[func(step string) error]
}

func (f *fleet) open(nodes int, perBuyer int32) {
	t, units := f.t, f.units
	t.Helper()
	needNodes(t)
	ctx := context.Background()
	server, err := backends.StartRedis(ctx, backends.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	f.redis = server
	dir := t.TempDir()
	schemas := []db.Schema{event.Schema(), job.Schema(), once.Schema(), catalog.Schema(), order.Schema(), Schema()}
	cfg := platformtest.Config(t, dir, schemas...)
	if f.reads != "" {
		cfg = f.lagging(cfg)
	}
	cfg.Writers, cfg.Readers = 8, 4
	bell := &fleetBell{}
	for i := range nodes {
		f.nodes = append(f.nodes, f.openNode(cfg, schemas, dir, i, bell))
	}
	if f.replica != nil {
		f.must(f.replica.CatchUp(ctx))
		f.must(f.replica.Lag(ctx, 2*time.Second))
		f.within(20*time.Second, "the replica to be read", func() bool { return f.nodes[0].DB.Stats().Replicas == 1 })
	}
	first := f.nodes[0]
	first.stock(t, units*10)
	first.open(t, units, perBuyer, func(terms *Terms) { terms.SKU = first.sku })
	f.sale = first.sales.Live()[0].ID
	f.each(func(n *node) {
		f.within(10*time.Second, "a node to sell a sale that another one scheduled", func() bool {
			l := n.sales.liveByID(f.sale)
			return l != nil && l.numbers().Warm
		})
		n.l = n.sales.liveByID(f.sale)
	})
}

// lagging is the Config of a database on a server of its own, with a replica from which all is read that does not ask for the primary.
func (f *fleet) lagging(cfg db.Config) db.Config {
	ctx := context.Background()
	server, err := backends.StartMySQL(ctx, backends.MySQLOptions{Replicas: 1})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = server.Close() })
	url, _, err := server.NewDatabase(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	f.replica = server.Replicas[0]
	cfg.URL, cfg.Replicas = url, []string{strings.Replace(url, server.Addr(), f.replica.Addr(), 1)}
	cfg.ReplicaLag, cfg.ReadReplicas = 10*time.Second, f.reads
	return cfg
}

// fleetBell rings the other nodes, sometimes not.
type fleetBell struct {
	mu    sync.Mutex
	wakes []func()
}

func (b *fleetBell) join(_ string, wake func()) func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	me := len(b.wakes)
	b.wakes = append(b.wakes, wake)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, wake := range b.wakes {
			if i != me && rand.IntN(4) > 0 {
				go wake()
			}
		}
	}
}

func (f *fleet) openNode(cfg db.Config, schemas []db.Schema, dir string, number int, bell *fleetBell) *node {
	t, ctx := f.t, context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o, err := obs.Open(obs.Config{Level: "error"}, testWriter{t})
	must(err)
	if p := &cfg.ReadReplicas; *p == "all" && number == 0 {
		*p = "unmarked"
	}
	p := &platformtest.Platform{Dir: dir, Obs: o}
	p.DB, err = db.Open(ctx, cfg, o)
	must(err)
	t.Cleanup(func() { must(p.DB.Close()) })
	if number == 0 {
		_, err = p.DB.Migrate(ctx, schemas)
		must(err)
	}
	p.IDs, err = id.Open(ctx, id.Config{Dir: dir + "/id"}, o)
	must(err)
	t.Cleanup(func() { must(p.IDs.Close()) })
	p.Sealer, err = id.NewSealer(platformtest.Key(1))
	must(err)
	p.Events, p.Jobs = event.Open(p.DB, p.IDs, o), job.Open(p.DB, p.IDs, o)
	p.Push = (&simHouse{}).hub(t, o)
	client, err := redis.Open(ctx, redis.Config{URL: f.redis.URL(), Prefix: "fleet:", Timeout: 500 * time.Millisecond}, o) // a busy machine is no outage
	must(err)
	t.Cleanup(func() { _ = client.Close() })
	s := &shop{Platform: p, clock: &testClock{}}
	s.catalog = catalog.New(catalog.Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: o, Events: p.Events})
	s.orders, err = order.Open(order.Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: o, Events: p.Events, Jobs: p.Jobs, Catalog: s.catalog})
	must(err)
	s.admission, err = admission.New(admission.Deps{IDs: p.IDs, Sealer: p.Sealer, Obs: o, Push: p.Push, Key: platformtest.Key(2)})
	must(err)
	name := fmt.Sprintf("node-%d", number)
	s.sales, err = New(Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: o, Events: p.Events, Push: p.Push, Catalog: s.catalog, Orders: s.orders,
		Admission: s.admission, Tally: tally.New(tally.Deps{Obs: o, Push: p.Push, Node: name}), Bell: bell.join,
		Gates: func(sale levee.SaleID, waitingMax int) *gate.Gate {
			return gate.NewRedis(client, sale, name, waitingMax, 1+int(*fleetSeed%3))
		},
		Config: Config{GateLease: 2 * time.Second, HoldFor: 5 * time.Second, ReconcileEvery: time.Second}})
	must(err)
	n := &node{shop: s, ended: make(chan struct{})}
	s.clock.now = time.Now()
	s.sales.fault = func(step string) error {
		if hook := n.hook.Load(); hook != nil {
			return (*hook)(step)
		}
		return nil
	}
	run, stop := context.WithCancel(ctx)
	n.stop = stop
	go func() {
		defer close(n.ended)
		if f.loose {
			n.settleLoosely(run)
			return
		}
		_ = s.sales.Run(run)
	}()
	t.Cleanup(func() { stop(); <-n.ended })
	return n
}

// settleLoosely is a node's work where SQL is not asked whether there is stock: the gate said so.
func (n *node) settleLoosely(ctx context.Context) {
	for ctx.Err() == nil {
		n.sales.lookAround(ctx)
		for _, l := range *n.sales.live.Load() {
			if !n.still.Load() {
				_ = l.follower.Look(ctx)
				l.follower.Flush(ctx)
			}
			for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); time.Sleep(time.Millisecond) {
				if batch := l.gate.Next(16); batch != nil {
					w := &world{sales: n.sales, l: l, sale: l.view.Load().ID}
					looseness{stock: true}.settle(w, batch)
					n.sales.deliver(l, batch)
				}
			}
		}
	}
}

// A crowd over a Redis that goes back to an earlier state: where SQL is asked again nothing is oversold, and where the gate is trusted
// more is sold than there is. It is the same harness, so what it proves of the engine is worth what it catches here.
func TestTrustingTheGateAloneOversells(t *testing.T) {
	for _, loose := range []bool{false, true} {
		t.Run(map[bool]string{true: "the gate alone", false: "SQL has the last word"}[loose], func(t *testing.T) {
			f := &fleet{t: t, units: 200, loose: loose}
			f.open(2, 2)
			ctx := context.Background()
			f.do(f.redis.Do(ctx, "SAVE"))
			won := f.crowd(190, 8, 0)
			// The gate forgets all of it, and more people come than the ledger is replayed: where the gate is trusted it is not replayed until they have
			// come, since which of the two is quicker is the machine's mood.
			for _, n := range f.nodes {
				n.still.Store(loose)
			}
			f.must(f.redis.Kill())
			f.must(f.redis.Restart(ctx))
			f.within(10*time.Second, "Redis", func() bool { _, err := f.nodes[0].l.gate.Numbers(ctx); return err == nil })
			f.next.Store(1000)
			f.crowd(1300, 64, 0).Range(func(id, who any) bool { won.Store(id, who); return true })
			stock, err := f.nodes[0].sales.StockOf(ctx, f.sale)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", stock)
			if oversold := stock.Reserved > 200; oversold != loose {
				t.Errorf("oversold: %v: %+v", oversold, stock)
			}
		})
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Log(string(p)); return len(p), nil }

func (f *fleet) each(do func(*node)) {
	for _, n := range f.nodes {
		if f.alive(n) {
			do(n)
		}
	}
}

func (f *fleet) alive(n *node) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !n.dead
}

// some draws a living node.
func (f *fleet) some(r *rand.Rand) *node {
	for {
		if n := f.nodes[r.IntN(len(f.nodes))]; f.alive(n) {
			return n
		}
	}
}

func (f *fleet) within(d time.Duration, what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("waited %s in vain for %s", d, what)
		}
	}
}

// kill ends a node's settler at its next such step, as a killed process does: whatever it was about to do is not done, and nobody of
// it ever acts again.
func (f *fleet) kill(n *node, step string) {
	f.t.Logf("%s is killed at %s", n.sales.Tally.Node, step)
	hook := func(at string) error {
		if !f.alive(n) || at == step {
			f.mu.Lock()
			n.dead = true
			f.mu.Unlock()
			n.stop()
			runtime.Goexit()
		}
		return nil
	}
	n.hook.Store(&hook)
}

// spare takes back a kill whose step nobody has come to.
func (f *fleet) spare() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		if !n.dead {
			n.hook.Store(nil)
		}
	}
}

// sleep stops a node's settler with a batch in its hands, for longer than its takings' lease.
func (f *fleet) sleep(n *node, d time.Duration) {
	f.t.Logf("%s sleeps", n.sales.Tally.Node)
	var once sync.Once
	hook := func(at string) error {
		if at == "settle.begin" {
			once.Do(func() { time.Sleep(d) })
		}
		return nil
	}
	n.hook.Store(&hook)
}

// wish is one buyer's wish until its end: won, or refused for good. It is repeated with its key, at any node, like a page does.
func (f *fleet) wish(r *rand.Rand, who int, quantity int32, key string) (Ticket, error) {
	var last error
	for range 200 {
		n := f.some(r)
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		t, err := n.sales.Buy(ctx, n.l, Wish{Buyer: buyer(who), Quantity: quantity, Key: key})
		cancel()
		switch {
		case err == nil && t.Settled && r.IntN(20) > 0: // else his answer is lost
			return t, nil
		case err == nil:
		case code(err) == levee.CodeSoldOut, code(err) == levee.CodeLimitReached:
			return Ticket{}, err
		}
		if last = err; err != nil {
			time.Sleep(time.Duration(10+r.IntN(90)) * time.Millisecond)
		}
	}
	return Ticket{}, fmt.Errorf("no answer after 200 tries, the last: %w", last)
}

func TestNodesSellExactly(t *testing.T) {
	needNodes(t)
	units, buyers := *fleetUnits, *fleetBuyers
	if testing.Short() {
		units, buyers = 200, 2000
	}
	f := &fleet{t: t, units: int64(units)}
	f.sellExactly(buyers)
}

// TestNodesSellExactlyBesideALaggingReplica: the same with every read on a replica that is two seconds behind, but for those that say
// that they decide something.
func TestNodesSellExactlyBesideALaggingReplica(t *testing.T) {
	needNodes(t)
	f := &fleet{t: t, units: 200, reads: "unmarked"}
	f.sellExactly(2000)
	// The crowd's own reads were all marked; this one is not, and shows that the replica was there to be read.
	q, err := f.nodes[0].sales.lists.ledger.Ask("limit=1")
	if err != nil {
		t.Fatal(err)
	}
	if a, err := readLedger(t.Context(), f.nodes[0].sales.DB.Query, f.sale, q); err != nil || len(a.Rows) == 0 {
		t.Fatalf("%v, %v", a, err)
	}
}

// sellExactly sells everything to a crowd among all troubles, and adds up.
func (f *fleet) sellExactly(buyers int) {
	t, units := f.t, int(f.units)
	f.open(3, 2)
	f.troubles(units)
	won := f.crowd(buyers, 48, 0.1)
	f.quiet()
	f.spare()
	// Nothing is left unsold while somebody asks for it, whatever was lost on the way.
	r := rand.New(rand.NewPCG(*fleetSeed, 99))
	for i := 0; ; i++ {
		stock, err := f.some(r).sales.StockOf(context.Background(), f.sale)
		if err != nil {
			t.Fatal(err)
		}
		if stock.Remaining == 0 {
			break
		}
		if i > 20*units {
			t.Fatalf("units are free and cannot be bought: %+v", stock)
		}
		var ticket Ticket
		err, done := errors.New("his node was killed under him"), make(chan struct{})
		go func() { // which may end with a node
			defer close(done)
			ticket, err = f.wish(r, buyers+i, 1, "late")
		}()
		if <-done; err == nil {
			won.Store(ticket.Reservation, buyer(buyers+i).User)
		} else if i > 100 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	f.quiet()
	if f.replica != nil {
		f.within(20*time.Second, "the replica to be read", func() bool { return f.nodes[0].DB.Stats().Replicas == 1 })
		f.must(f.replica.Lag(context.Background(), 0))
		f.must(f.replica.CatchUp(context.Background()))
	}
	f.audit(won)
	f.each(func(n *node) {
		t.Logf("%s: %+v, gate %+v", n.sales.Tally.Node, n.l.follower.Counts(), n.l.numbers())
	})
}

// troubles come one after the other while the crowd buys, as so many units are gone.
func (f *fleet) troubles(units int) {
	ctx := context.Background()
	list := []struct {
		at   float64
		what string
		do   func()
	}{
		{0.10, "a node sleeps longer than its takings' lease", func() { f.sleep(f.nodes[1], 4*time.Second) }},
		{0.20, "Redis is kept as it is now", func() { f.do(f.redis.Do(ctx, "SAVE")) }},
		{0.40, "Redis goes back to how it was kept", func() {
			f.must(f.redis.Kill())
			f.must(f.redis.Restart(ctx))
		}},
		{0.55, "a node is killed between taking and commit", func() { f.kill(f.nodes[1], "settle.before_commit") }},
		{0.70, "Redis comes back empty", func() { f.must(f.redis.RestartEmpty(ctx)) }},
		{0.85, "a node is killed between commit and gate", func() { f.kill(f.nodes[2], "settle.answer") }},
	}
	done := make(chan struct{})
	f.t.Cleanup(func() { <-done })
	stop := make(chan struct{})
	f.t.Cleanup(func() { close(stop) })
	go func() {
		defer close(done)
		for _, trouble := range list {
			for {
				st, err := f.nodes[0].sales.stockOf(ctx, f.sale)
				if err == nil && st.Offered > 0 && float64(st.Reserved+st.Sold) >= trouble.at*float64(units) {
					break
				}
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
			f.t.Log(trouble.what)
			trouble.do()
		}
	}()
}

func (f *fleet) must(err error) {
	if err != nil {
		f.t.Error(err)
	}
}

func (f *fleet) do(_ any, err error) { f.must(err) }

// crowd lets buyers buy, each once, some twice; some of the winners give up what they won. It returns who was told that he won and kept it.
func (f *fleet) crowd(buyers, atOnce int, giveUp float64) *sync.Map {
	won := &sync.Map{}
	next := &f.next
	var yes, no atomic.Int64
	var wg sync.WaitGroup
	for w := range atOnce {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(*fleetSeed, uint64(w)))
			for {
				who := int(next.Add(1)) - 1
				if who >= buyers {
					return
				}
				if r.IntN(10) == 0 && who > 0 {
					who = r.IntN(who) // he wants more, with another key
				}
				ticket, err := f.wish(r, who, 1+r.Int32N(2), fmt.Sprint("k", next.Load()))
				switch {
				case err == nil && r.Float64() < giveUp:
					yes.Add(1)
					f.giveUp(r, ticket.Reservation, who)
				case err == nil:
					yes.Add(1)
					won.Store(ticket.Reservation, buyer(who).User)
				case code(err) == levee.CodeSoldOut || code(err) == levee.CodeLimitReached:
					no.Add(1)
				default:
					f.t.Errorf("buyer %d: %v", who, err)
				}
			}
		})
	}
	wg.Wait()
	f.t.Logf("%d wishes were fulfilled, %d refused", yes.Load(), no.Load())
	return won
}

func (f *fleet) giveUp(r *rand.Rand, id levee.ReservationID, who int) {
	for range 50 {
		err := f.some(r).sales.GiveUp(context.Background(), id, buyer(who))
		if err == nil || code(err) == levee.CodeConflict { // done before, without an answer
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.t.Errorf("%d could not be given up", id)
}

// quiet waits until nothing is pending and every living node's gate counts what SQL counts.
func (f *fleet) quiet() {
	f.t.Helper()
	f.within(30*time.Second, "the gate to agree with SQL", func() bool {
		ok := true
		f.each(func(n *node) {
			a, err := n.sales.Prove(context.Background(), f.sale)
			ok = ok && err == nil && !a.moving && a.GateAgrees() && a.Gate.Unsettled == 0 && a.Gate.Applied == a.Stock.Seq
		})
		return ok
	})
}

// audit adds up what SQL holds at the end and compares it with what buyers were told.
func (f *fleet) audit(won *sync.Map) {
	t := f.t
	t.Helper()
	n := f.nodes[0]
	a, err := n.sales.Prove(context.Background(), f.sale)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Balanced() || a.Stock.Reserved != f.units || a.Stock.Remaining != 0 {
		t.Errorf("the books: %v, stock %+v, ledger %v, reservations %v; want %d reserved", a.Problems, a.Stock, a.Ledger, a.Reservations, f.units)
	}
	var told int
	won.Range(func(id, who any) bool {
		told++
		r, found, err := n.sales.reservationByID(context.Background(), id.(levee.ReservationID))
		if err != nil || !found || r.Buyer != who || r.State != Reserved {
			t.Errorf("buyer %v was told that he won %v, and SQL holds %+v, %v, %v", who, id, r, found, err)
		}
		return true
	})
	var orders, rows, numbered int64
	for into, query := range map[*int64]string{
		&orders:   "SELECT COUNT(*) FROM order_head o JOIN sale_reservation r ON r.id=o.id WHERE r.sale_id=?",
		&rows:     "SELECT COUNT(*) FROM sale_reservation WHERE sale_id=?",
		&numbered: "SELECT COUNT(*) FROM sale_ledger WHERE sale_id=?",
	} {
		if err := n.DB.QueryRow(context.Background(), query, f.sale).Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	if orders != rows {
		t.Errorf("%d reservations, %d orders", rows, orders)
	}
	if numbered != a.Stock.Seq {
		t.Errorf("the ledger has %d rows, and the last one has the number %d", numbered, a.Stock.Seq)
	}
	t.Logf("%d told as won and kept, %d reservations, %d movements, stock %+v", told, rows, numbered, a.Stock)
}
