package gate

import (
	"context"
	"errors"

	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
)

// market is a crowd at the gates of several nodes, each with its settler, in front of one simulated SQL.
type market struct {
	t       testing.TB
	h       *shop
	mu      sync.Mutex // guards sql: it is SQL's row lock, and movements are numbered under it
	sql     ledger
	limit   int32
	lossy   bool         // settlements are lost now and then: the follower has to bring them
	next    atomic.Int64 // ids
	took    atomic.Int64
	away    atomic.Int64
	cold    atomic.Int64
	stop    chan struct{}
	workers sync.WaitGroup
}

func newMarket(t testing.TB, h *shop, stock int64, limit int32) *market {
	m := &market{t: t, h: h, limit: limit, stop: make(chan struct{}),
		sql: ledger{reservations: map[levee.ReservationID]sold{}, held: map[levee.UserID]int32{}, known: map[levee.UserID]bool{}}}
	m.sql.commit(Movement{Free: stock})
	if err := h.observer.Load(t.Context(), m.sql.state(limit)); err != nil {
		t.Fatal(err)
	}
	for n, g := range h.nodes {
		g.SetLimit(limit)
		m.workers.Go(func() { m.settler(g, uint64(n)) })
	}
	return m
}

func (m *market) settler(g *Gate, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	for {
		select {
		case <-g.Wake():
		case <-m.stop:
			for batch := g.Next(64); batch != nil; batch = g.Next(64) {
				m.settle(g, r, batch)
			}
			return
		}
		for batch := g.Next(64); batch != nil; batch = g.Next(64) {
			m.settle(g, r, batch)
		}
	}
}

func (m *market) settle(g *Gate, r *rand.Rand, batch []*Taking) {
	m.mu.Lock()
	v := m.sql.settle(r, batch, m.limit)
	m.mu.Unlock()
	if !m.lossy || r.IntN(10) > 0 {
		g.Settle(context.Background(), batch, v.Seq)
	}
	g.Signal(batch)
}

// buy is one attempt as the sale makes it.
func (m *market) buy(g *Gate, a Attempt) Verdict {
	ctx := context.Background()
	t, v, _ := g.Take(ctx, a)
	if v == Known {
		a.Checked = true
		t, v, _ = g.Take(ctx, a)
	}
	switch v {
	case Taken:
		m.took.Add(1)
		<-t.Settled
		t.Free()
	case Away:
		m.away.Add(1)
	case Cold:
		m.cold.Add(1)
	}
	return v
}

// crowd lets buyers come until done says so; each tries some times with a few keys, at any node.
func (m *market) crowd(workers, buyers int, done func(n int) bool) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 9))
			for n := 0; !done(n); n++ {
				a := Attempt{ID: levee.ReservationID(1<<61 + m.next.Add(1)), Buyer: levee.UserID(1<<62 + r.IntN(buyers)), Quantity: int32(1 + r.IntN(2)),
					Key: int64(r.IntN(3)), At: time.Now()}
				m.buy(m.h.nodes[r.IntN(len(m.h.nodes))], a)
			}
		})
	}
	wg.Wait()
}

// release gives units of reservations back while the crowd buys, and tops up.
func (m *market) release(times int) {
	r := rand.New(rand.NewPCG(1, 4))
	for range times {
		m.mu.Lock()
		v := Movement{Free: int64(r.IntN(3))}
		for id, s := range m.sql.reservations {
			if !s.released && r.IntN(2) == 0 {
				s.released = true
				m.sql.reservations[id] = s
				v.Free, v.Holdings = int64(s.Quantity), []Change{{s.Buyer, -s.Quantity}}
				break
			}
		}
		v = m.sql.commit(v)
		m.mu.Unlock()
		for range 1 + r.IntN(2) { // now and then twice
			if err := m.h.nodes[r.IntN(len(m.h.nodes))].Apply(context.Background(), v); err != nil && !m.lossy {
				m.t.Error(err)
			}
		}
	}
}

// follow brings the gate what it lacks, as each node's follower does.
func (m *market) follow(g *Gate) error {
	ctx := context.Background()
	n, err := g.Numbers(ctx)
	if err != nil {
		return err
	}
	if !n.Warm {
		m.mu.Lock()
		s := m.sql.state(m.limit)
		m.mu.Unlock()
		return g.Load(ctx, s)
	}
	m.mu.Lock()
	missing := m.sql.movements[min(n.Applied, int64(len(m.sql.movements))):]
	m.mu.Unlock()
	if len(missing) > 200 {
		missing = missing[:200]
	}
	if len(missing) == 0 {
		return nil
	}
	return g.Apply(ctx, missing...)
}

// resolve looks overdue takings up.
func (m *market) resolve(g *Gate, lease time.Duration) (int, error) {
	ctx := context.Background()
	list, err := g.Overdue(ctx, lease, 500)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	var won []Win
	var lost []levee.ReservationID
	m.mu.Lock()
	for _, a := range list {
		if s, ok := m.sql.reservations[a.ID]; ok {
			won = append(won, s.Win)
		} else {
			lost = append(lost, a.ID)
		}
	}
	m.mu.Unlock()
	return len(list), g.Resolve(ctx, won, lost)
}

// watch sets the gate beside SQL in the midst of the crowd: free and taken units are together what SQL had at the movement that the gate has come
// to, however many takings, returns and moves are under way. It calls enough when it has compared them three times, or has given up.
func (m *market) watch(g *Gate, enough func()) {
	defer enough()
	looks, compared := 0, 0
	for done := false; !done; looks++ {
		select {
		case <-m.stop:
			done = true
		default:
		}
		n, err := g.Numbers(context.Background())
		if err != nil || !n.Warm || len(n.Missing) > 0 {
			continue
		}
		m.mu.Lock()
		want := m.sql.after[n.Applied-1]
		m.mu.Unlock()
		if compared++; compared == 3 {
			enough()
		}
		if n.Remaining+n.Unsettled != want {
			m.t.Errorf("look %d: %+v, after movement %d SQL had %d", looks, n, n.Applied, want)
			return
		}
	}
	if m.t.Logf("%d of %d looks could be compared", compared, looks); compared < 3 {
		m.t.Errorf("only %d looks could be compared", compared)
	}
}

// rest lets all come to rest and compares the gate with SQL.
func (m *market) rest(g *Gate) {
	m.t.Helper()
	close(m.stop)
	m.workers.Wait()
	ctx := context.Background()
	for end := time.Now().Add(20 * time.Second); ; {
		err := m.follow(g)
		_, err2 := m.resolve(g, 0)
		n, err3 := g.Numbers(ctx)
		if err = errors.Join(err, err2, err3); err == nil && n.Warm && n.Applied == int64(len(m.sql.movements)) && n.Unsettled == 0 {
			if n.Remaining != m.sql.remaining || len(n.Missing) != 0 || n.Waiting != 0 {
				m.t.Fatalf("at rest the gate has %+v, SQL has %d", n, m.sql.remaining)
			}
			break
		}
		if time.Now().After(end) {
			m.t.Fatalf("the gate does not come to rest: %+v, %v; SQL has %d movements", n, err, len(m.sql.movements))
		}
	}
	var sum int64
	for b, units := range m.sql.held {
		held, known, err := g.Held(ctx, b)
		for try := 0; err != nil && try < 50; try++ { // a fail-over ends connections a moment after it
			time.Sleep(20 * time.Millisecond)
			held, known, err = g.Held(ctx, b)
		}
		if err != nil || held != units || !known {
			m.t.Fatalf("buyer %d holds %d (known %v, %v), SQL says %d", b, held, known, err, units)
		}
		if units > m.limit {
			m.t.Fatalf("buyer %d holds %d", b, units)
		}
		sum += int64(units)
	}
	if m.sql.remaining < 0 {
		m.t.Fatalf("SQL sold %d too many", -m.sql.remaining)
	}
}

// A crowd at all nodes at once, with retries, several units, releases and top-ups: as long as nothing is lost, the gate lets through not one
// taking for which SQL has no unit, and at rest both hold the same.
func TestCrowd(t *testing.T) {
	for _, d := range drivers(t) {
		t.Run(d.name, func(t *testing.T) {
			h := d.open(t, 3, 4096)
			m := newMarket(t, h, 1000, 2)
			released, watched := make(chan struct{}), make(chan struct{})
			m.workers.Go(func() {
				defer close(released)
				m.release(300)
			})
			m.workers.Go(func() { m.watch(h.observer, sync.OnceFunc(func() { close(watched) })) })
			m.crowd(32, 2000, func(n int) bool {
				switch n {
				case 200: // a fast gate would be done before anybody has looked
					<-watched
				case 400: // and before anything was given back that could be taken again
					<-released
				}
				return n == 500
			})
			m.rest(h.observer)
			if m.sql.noStock != 0 || m.away.Load() != 0 || m.took.Load() < 1000 {
				t.Fatalf("SQL refused %d for lack of stock; %d were taken, %d away", m.sql.noStock, m.took.Load(), m.away.Load())
			}
			t.Logf("%d taken, %d movements, %d units left", m.took.Load(), len(m.sql.movements), m.sql.remaining)
		})
	}
}
