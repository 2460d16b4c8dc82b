package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// answer is what the house said.
type answer struct {
	status int
	body   []byte
}

func (a answer) code() string {
	var p struct{ Error string }
	_ = json.Unmarshal(a.body, &p) // what is no problem has no code
	return p.Error
}

// caller talks to the house.
type caller struct {
	base string
	http *http.Client
}

func newCaller(base string) *caller {
	return &caller{base: base, http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (c *caller) do(ctx context.Context, method, path, token string, body any, headers ...string) (answer, error) {
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, text}, err
}

// must sends a request that has to be answered with this status, and decodes the answer.
func (c *caller) must(t testing.TB, status int, method, path, token string, body, into any, headers ...string) {
	t.Helper()
	a, err := c.do(t.Context(), method, path, token, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != status {
		t.Fatalf("%s %s answered %d, want %d: %s", method, path, a.status, status, a.body)
	}
	if into != nil {
		if err := json.Unmarshal(a.body, into); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
		}
	}
}

// sold is a sale of the test.
type sold struct {
	id                 string
	real               bool // sells to accounts, who can pay; the others are rehearsals
	perBuyer           int32
	payWithin          time.Duration
	offered, offerMost atomic.Int64
	buyers             []*buyer
}

type buyer struct {
	id, token string
	admission string
	mu        sync.Mutex // one act at a time
	open      *wish      // a wish whose outcome he does not know
	past      []*wish    // those with a 201
}

// crowd buys until it is stopped. Its workers hold quiet for reading during each act.
type crowd struct {
	call  *caller
	sales []*sold
	seed  uint64
	think time.Duration // a worker's longest pause between two acts

	quiet sync.RWMutex
	keys  atomic.Int64
	won   chan struct{} // somebody was told 201 this moment, and the killer waits for that

	mu     sync.Mutex // guards all below and the fields of every wish
	wishes []*wish
	wrong  []string
	count  map[string]int // what was answered

	stop context.CancelFunc
	work sync.WaitGroup
}

func (c *crowd) start(workers int) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	for i := range workers {
		dice := rand.New(rand.NewPCG(c.seed, uint64(i)))
		c.work.Go(func() {
			for ctx.Err() == nil {
				c.quiet.RLock()
				well := c.act(dice)
				c.quiet.RUnlock()
				pause := time.Duration(dice.Int64N(int64(c.think)))
				if !well {
					pause += 10 * time.Millisecond // nobody is there
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
}

func (c *crowd) halt() {
	c.stop()
	c.work.Wait()
}

func (c *crowd) accuse(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) < 1000 {
		c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
	}
}

// act lets one buyer do one thing. It reports false if nobody answered.
func (c *crowd) act(dice *rand.Rand) bool {
	s := c.sales[dice.IntN(len(c.sales))]
	b := s.buyers[dice.IntN(len(s.buyers))]
	if !b.mu.TryLock() {
		return true // he is busy
	}
	defer b.mu.Unlock()
	if b.open != nil {
		if dice.IntN(20) == 0 {
			b.open = nil // he gives up without ever learning
			return true
		}
		return c.try(dice, s, b, b.open)
	}
	if len(b.past) > 0 {
		w := b.past[dice.IntN(len(b.past))]
		switch n := dice.IntN(100); {
		case n < 8:
			return c.try(dice, s, b, w) // the same key, long after
		case n < 20:
			return c.giveUp(s, b, w)
		case n < 60 && s.real:
			return c.pay(b, w)
		}
	}
	w := &wish{sale: s.id, buyer: b.id, key: fmt.Sprintf("key-%d", c.keys.Add(1)), quantity: 1 + dice.Int32N(3), first: time.Now(), lost: true}
	c.mu.Lock()
	c.wishes = append(c.wishes, w)
	c.mu.Unlock()
	return c.try(dice, s, b, w)
}

// try sends a wish: once, or twice at the same moment, or hanging up in the middle.
func (c *crowd) try(dice *rand.Rand, s *sold, b *buyer, w *wish) bool {
	switch n := dice.IntN(100); {
	case n < 4:
		ctx, stop := context.WithTimeout(context.Background(), time.Duration(dice.Int64N(int64(4*time.Millisecond))))
		defer stop()
		c.mu.Lock()
		w.cut = true
		c.mu.Unlock()
		_, err := c.send(ctx, s, b, w)
		return err == nil || ctx.Err() != nil
	case n < 9:
		var other error
		var both sync.WaitGroup
		both.Go(func() { _, other = c.send(context.Background(), s, b, w) })
		_, err := c.send(context.Background(), s, b, w)
		both.Wait()
		if (err == nil) != (other == nil) {
			c.mu.Lock()
			w.cut = true // which of the two was first is not known
			c.mu.Unlock()
		}
		return err == nil && other == nil
	default:
		_, err := c.send(context.Background(), s, b, w)
		return err == nil
	}
}

type ticket struct {
	Reservation, Sale, Order, Place string
	Quantity                        int32
}

// send sends a wish once and remembers what was told.
func (c *crowd) send(ctx context.Context, s *sold, b *buyer, w *wish) (answer, error) {
	a, err := c.call.do(ctx, "POST", "/v1/sales/"+w.sale+"/purchases", b.token, map[string]any{"quantity": w.quantity},
		"Idempotency-Key", w.key, "Levee-Admission", b.admission)
	if err == nil && a.status == http.StatusCreated {
		select {
		case c.won <- struct{}{}:
		default:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		w.lost = true
		if len(w.told) == 0 {
			b.open = w
		}
		c.count["no answer"]++
		return a, err
	}
	code := a.code()
	c.count[fmt.Sprintf("%d %s", a.status, code)]++
	var t ticket
	switch {
	case a.status == http.StatusCreated:
		if err := json.Unmarshal(a.body, &t); err != nil || t.Reservation == "" || t.Order == "" || t.Quantity != w.quantity || t.Sale != w.sale {
			c.wrong = append(c.wrong, fmt.Sprintf("a 201 for %d of %s: %s (%v)", w.quantity, w.sale, a.body, err))
		}
		w.told, w.lost, b.open = append(w.told, t.Reservation), false, nil
		if len(w.told) == 1 {
			b.past = append(b.past, w)
		} else {
			w.told = w.told[:min(len(w.told), 8)]
		}
	case a.status == http.StatusAccepted:
		_ = json.Unmarshal(a.body, &t) // checked by the line below
		if t.Reservation == "" || t.Place != "queued" {
			c.wrong = append(c.wrong, fmt.Sprintf("a 202: %s", a.body))
		}
		w.queued, w.lost, b.open = t.Reservation, true, w
	case code == "idempotency_running":
		b.open = w
	case code == "sold_out" || code == "limit_reached" || a.status == http.StatusServiceUnavailable:
		if len(w.told) > 0 {
			c.wrong = append(c.wrong, fmt.Sprintf("the key of %s, told 201 before, was refused: %s", w.told[0], a.body))
		}
		w.lost, b.open = false, nil
	default:
		c.wrong = append(c.wrong, fmt.Sprintf("a purchase was answered %d: %s", a.status, a.body))
		w.lost, b.open = false, nil
	}
	return a, nil
}

func (c *crowd) set(field *string, to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *field != "done" {
		*field = to
	}
}

func (c *crowd) giveUp(s *sold, b *buyer, w *wish) bool {
	if w.giveUp == "done" || w.paid != "" {
		return true
	}
	c.set(&w.giveUp, "tried")
	a, err := c.call.do(context.Background(), "DELETE", "/v1/reservations/"+w.told[0], b.token, nil)
	switch {
	case err != nil:
		return false
	case a.status == http.StatusNoContent:
		c.set(&w.giveUp, "done")
	case a.status == http.StatusConflict: // expired or given up before
	case a.status == http.StatusServiceUnavailable:
	default:
		c.accuse("giving %s up was answered %d: %s", w.told[0], a.status, a.body)
	}
	return true
}

// pay goes the payer's way: begin, and press "pay" on the provider's page. The provider's notification does the rest.
func (c *crowd) pay(b *buyer, w *wish) bool {
	if w.paid == "done" || w.giveUp != "" {
		return true
	}
	var at struct{ Order string }
	a, err := c.call.do(context.Background(), "GET", "/v1/reservations/"+w.told[0], b.token, nil)
	if err != nil {
		return false
	}
	if a.status != http.StatusOK || json.Unmarshal(a.body, &at) != nil || at.Order == "" {
		c.accuse("asking for %s was answered %d: %s", w.told[0], a.status, a.body)
		return true
	}
	order := at.Order
	a, err = c.call.do(context.Background(), "POST", "/v1/orders/"+order+"/payments", b.token, map[string]any{"provider": "test"}, "Idempotency-Key", w.key)
	if err != nil {
		return false
	}
	var started struct {
		Redirect string `json:"redirect_url"`
	}
	switch {
	case a.status == http.StatusConflict || a.status == http.StatusGone || a.status == http.StatusServiceUnavailable:
		return true // too late, or paid before
	case a.status != http.StatusCreated || json.Unmarshal(a.body, &started) != nil:
		c.accuse("paying %s was answered %d: %s", order, a.status, a.body)
		return true
	case started.Redirect == "":
		return true // the attempt is over
	}
	c.set(&w.paid, "tried")
	req, err := http.NewRequest("POST", started.Redirect, strings.NewReader(url.Values{"action": {"pay"}}.Encode()))
	if err != nil {
		c.accuse("the address of the payment page is %q: %v", started.Redirect, err)
		return true
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.call.http.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return false
	}
	if resp.StatusCode == http.StatusOK && bytes.Contains(page, []byte("Paid. The shop is being told.")) {
		c.set(&w.paid, "done")
		c.mu.Lock()
		c.count["paid"]++
		c.mu.Unlock()
	}
	return true
}

// snapshot copies the wishes: the crowd must be quiet.
func (c *crowd) snapshot() []*wish {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*wish, len(c.wishes))
	for i, w := range c.wishes {
		copied := *w
		list[i] = &copied
	}
	return list
}

// resolve asks again for every wish whose outcome is not known, until each has one.
func (c *crowd) resolve(t testing.TB) {
	t.Helper()
	for _, s := range c.sales {
		for _, b := range s.buyers {
			for try := 0; b.open != nil; try++ {
				if _, err := c.send(t.Context(), s, b, b.open); err != nil || try > 500 {
					t.Fatalf("a purchase has no outcome after %d tries: %v", try, err)
				}
				if b.open != nil {
					time.Sleep(10 * time.Millisecond)
				}
			}
		}
	}
}
