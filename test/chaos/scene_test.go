package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// scene is a house with sales, an operator and a crowd.
type scene struct {
	*house
	call     *caller
	operator string // token
	sku      string
	onHand   int64 // before the first sale
	crowd    *crowd
	checked  int // wishes whose orders were looked up
	topUp    int // how many top-ups were begun
	topOpen  bool
}

const (
	password = "quiet-levee-at-dusk-41"
	accounts = 60
	stockAll = 1_000_000
)

// open builds the scene on a house that is up for the first time.
func open(t testing.TB, h *house, seed uint64, think time.Duration) *scene {
	t.Helper()
	s := &scene{house: h, call: newCaller(h.base), onHand: stockAll}
	t.Cleanup(s.call.http.CloseIdleConnections)
	s.call.must(t, 201, "POST", "/v1/setup", "", map[string]any{"code": h.code(t), "name": "keeper", "password": password}, nil)
	s.operator = s.signIn(t, "keeper")
	var p struct{ SKUs []struct{ ID string } }
	s.call.must(t, 201, "POST", "/v1/products", s.operator, map[string]any{"code": "LAMP", "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": "LAMP-1", "price": money(9900), "on_hand": stockAll}}}, &p)
	s.sku = p.SKUs[0].ID
	s.crowd = &crowd{call: s.call, seed: seed, think: think, count: map[string]int{}, won: make(chan struct{})}
	// The real sale and a small one that sells out again and again; and two rehearsals, a wide one and a narrow one.
	people := s.people(t)
	for _, terms := range []struct{ units, perBuyer, payWithin int }{{3000, 40, 11}, {40, 3, 10}} {
		v := s.realSale(t, terms.units, terms.perBuyer, terms.payWithin)
		v.buyers = s.admitted(t, v, people)
		s.crowd.sales = append(s.crowd.sales, v)
	}
	for _, terms := range []struct{ units, perBuyer, payWithin, buyers int }{{100_000, 4, 10, 2500}, {60, 2, 10, 400}} {
		s.crowd.sales = append(s.crowd.sales, s.rehearsal(t, terms.units, terms.perBuyer, terms.payWithin, terms.buyers))
	}
	return s
}

func money(minor int) map[string]any { return map[string]any{"amount": minor, "currency": "CNY"} }

func (s *scene) signIn(t testing.TB, name string) string {
	t.Helper()
	var g struct {
		Token string `json:"access_token"`
	}
	s.call.must(t, 201, "POST", "/v1/sessions", "", map[string]any{"name": name, "password": password}, &g)
	return g.Token
}

// people signs accounts up and in.
func (s *scene) people(t testing.TB) []buyer {
	t.Helper()
	list := make([]buyer, accounts)
	for i := range list {
		name := fmt.Sprintf("buyer-%d", i)
		var u struct{ ID string }
		s.call.must(t, 201, "POST", "/v1/users", "", map[string]any{"name": name, "password": password}, &u)
		list[i].id, list[i].token = u.ID, s.signIn(t, name)
	}
	return list
}

func (s *scene) realSale(t testing.TB, units, perBuyer, payWithin int) *sold {
	t.Helper()
	var v struct{ ID string }
	s.call.must(t, 201, "POST", "/v1/sales", s.operator, map[string]any{"title": "Lamps", "sku": s.sku, "price": money(4900), "units": units,
		"per_buyer": perBuyer, "starts_at": time.Now().Add(-time.Second), "ends_at": time.Now().Add(24 * time.Hour), "pay_within_seconds": payWithin}, &v)
	s.call.must(t, 201, "POST", "/v1/sales/"+v.ID+"/acts", s.operator, map[string]any{"act": "schedule", "reason": "test"}, nil)
	out := &sold{id: v.ID, real: true, perBuyer: int32(perBuyer), payWithin: time.Duration(payWithin) * time.Second}
	out.offered.Store(int64(units))
	out.offerMost.Store(int64(units))
	return out
}

// admitted gives each account its admission to a sale.
func (s *scene) admitted(t testing.TB, v *sold, people []buyer) []*buyer {
	t.Helper()
	list := make([]*buyer, len(people))
	for i := range people {
		var a struct{ Token string }
		s.call.must(t, 201, "POST", "/v1/sales/"+v.id+"/admissions", people[i].token, nil, &a)
		list[i] = &buyer{id: people[i].id, token: people[i].token, admission: a.Token}
	}
	return list
}

func (s *scene) rehearsal(t testing.TB, units, perBuyer, payWithin, buyers int) *sold {
	t.Helper()
	var v struct{ ID string }
	s.call.must(t, 201, "POST", "/v1/sales/"+s.crowd.sales[0].id+"/rehearsals", s.operator, map[string]any{"units": units, "per_buyer": perBuyer,
		"starts_in_ms": 0, "lasts_seconds": 86400, "pay_within_seconds": payWithin}, &v)
	out := &sold{id: v.ID, perBuyer: int32(perBuyer), payWithin: time.Duration(payWithin) * time.Second}
	out.offered.Store(int64(units))
	out.offerMost.Store(int64(units))
	a, err := s.call.do(t.Context(), "POST", "/v1/sales/"+v.ID+"/rehearsal-buyers", s.operator, map[string]any{"buyers": buyers, "ttl_seconds": 7200})
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("inventing buyers: %d %v %s", a.status, err, a.body)
	}
	for line := range bytes.Lines(a.body) {
		var l struct{ Buyer, Token, Admission string }
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		out.buyers = append(out.buyers, &buyer{id: l.Buyer, token: l.Token, admission: l.Admission})
	}
	if len(out.buyers) != buyers {
		t.Fatalf("%d buyers were invented, not %d", len(out.buyers), buyers)
	}
	return out
}

// operate tops one sale up by 5, with one key until it is answered. The crowd may be busy.
func (s *scene) operate() {
	v := s.crowd.sales[3]
	if !s.topOpen {
		s.topUp++
		s.topOpen = true
		v.offerMost.Add(5)
	}
	a, err := s.call.do(context.Background(), "POST", "/v1/sales/"+v.id+"/acts", s.operator, map[string]any{"act": "top_up", "units": 5, "reason": "test"},
		"Idempotency-Key", fmt.Sprintf("top-up-%d", s.topUp))
	switch {
	case err != nil || a.status == http.StatusServiceUnavailable:
	case a.status == http.StatusCreated:
		v.offered.Add(5)
		s.topOpen = false
	default:
		s.crowd.accuse("a top-up was answered %d: %s", a.status, a.body)
		s.topOpen = false
	}
}

// books reads what the house shows of all sales. The crowd must be quiet. Orders of the wishes that were told since the last
// time are looked up, and some older ones; all of them if every is set.
func (s *scene) books(wishes []*wish, every, over bool, dice *rand.Rand) ([]*book, error) {
	list := make([]*book, len(s.crowd.sales))
	for i, v := range s.crowd.sales {
		b := &book{id: v.id, perBuyer: v.perBuyer, payWithin: v.payWithin, offered: v.offered.Load(), offeredMost: v.offerMost.Load(),
			orders: map[string]string{}, everyOrder: every, over: over}
		list[i] = b
		if err := errors.Join(s.get("/v1/sales/"+v.id+"/account", &b.before), s.export(b), s.get("/v1/sales/"+v.id+"/account", &b.after)); err != nil {
			return nil, err
		}
		b.taken = time.Now()
		if every {
			if err := s.allOrders(b); err != nil {
				return nil, err
			}
		}
	}
	if !every {
		if err := s.someOrders(list, wishes, dice); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (s *scene) get(path string, into any) error {
	a, err := s.call.do(context.Background(), "GET", path, s.operator, nil)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("GET %s answered %d: %s", path, a.status, a.body)
	}
	if err == nil {
		err = json.Unmarshal(a.body, into)
	}
	return err
}

func (s *scene) export(b *book) error {
	a, err := s.call.do(context.Background(), "GET", "/v1/sales/"+b.id+"/reservations", s.operator, nil)
	if err != nil || a.status != http.StatusOK {
		return fmt.Errorf("export: %d %w %.200s", a.status, err, a.body)
	}
	lines := bufio.NewScanner(bytes.NewReader(a.body))
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		b.rows = append(b.rows, r)
	}
	return lines.Err()
}

// allOrders walks the list of the sale's orders.
func (s *scene) allOrders(b *book) error {
	for cursor := ""; ; {
		var page struct {
			Items []struct{ ID, State string }
			Next  string
		}
		if err := s.get("/v1/orders?limit=100&sale="+b.id+cursor, &page); err != nil {
			return err
		}
		for _, o := range page.Items {
			b.orders[o.ID] = o.State
		}
		if cursor = "&cursor=" + page.Next; page.Next == "" {
			return nil
		}
	}
}

// someOrders looks orders up one by one.
func (s *scene) someOrders(books []*book, wishes []*wish, dice *rand.Rand) error {
	ask := wishes[s.checked:]
	for range min(50, s.checked) {
		ask = append(ask[:len(ask):len(ask)], wishes[dice.IntN(s.checked)])
	}
	s.checked = len(wishes)
	type pair struct {
		b     *book
		order string
	}
	orders := map[string]pair{}
	for _, b := range books {
		for _, r := range b.rows {
			orders[r.Reservation] = pair{b, r.Order}
		}
	}
	var mu sync.Mutex
	var first error
	var work sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, w := range ask {
		if len(w.told) == 0 || orders[w.told[0]].b == nil {
			continue
		}
		p := orders[w.told[0]]
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			a, err := s.call.do(context.Background(), "GET", "/v1/orders/"+p.order, s.operator, nil)
			var o struct{ State string }
			if err == nil && a.status != http.StatusNotFound {
				err = json.Unmarshal(a.body, &o)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil || a.status != http.StatusOK && a.status != http.StatusNotFound {
				first = fmt.Errorf("order %s: %d %w", p.order, a.status, err)
			}
			p.b.orders[p.order] = o.State
		})
	}
	work.Wait()
	return first
}

// again asks with the keys of some wishes that were told 201: the first answer must come again.
func (s *scene) again(dice *rand.Rand, n int) {
	for range n {
		v := s.crowd.sales[dice.IntN(len(s.crowd.sales))]
		b := v.buyers[dice.IntN(len(v.buyers))]
		if len(b.past) > 0 {
			if _, err := s.crowd.send(context.Background(), v, b, b.past[dice.IntN(len(b.past))]); err != nil {
				s.crowd.accuse("asking again: %v", err)
			}
		}
	}
}

// audit checks everything, and returns every difference between what was told and what is there. The crowd is kept quiet.
func (s *scene) audit(t testing.TB, every, over bool, dice *rand.Rand) []string {
	t.Helper()
	s.crowd.quiet.Lock()
	defer s.crowd.quiet.Unlock()
	s.again(dice, 25)
	wishes := s.crowd.snapshot()
	books, err := s.books(wishes, every, over, dice)
	if err != nil {
		t.Fatalf("the books cannot be read: %v\n%s", err, s.tail(3000))
	}
	s.crowd.mu.Lock()
	defer s.crowd.mu.Unlock()
	return append(problems(wishes, books), s.crowd.wrong...)
}
