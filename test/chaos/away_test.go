package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the house promises without Redis.
const (
	awayQueries = 1.5                    // of what the database is asked with it
	awayP99     = 100 * time.Millisecond // of pages, catalogue and sign-in, after the first second
	awayBack    = time.Second            // from Redis' first answer to the first order
	awayReads   = 150                    // a second
	awaySignIns = 5                      // a second
	awayBuys    = 60                     // a second
)

// visit is one answer.
type visit struct {
	what   string
	at     time.Time // it was meant to be sent
	took   time.Duration
	status int
	wait   string // Retry-After
	err    error
}

// Redis is gone altogether. Pages, catalogue and sign-in go on as if nothing had happened, and ask the database hardly more than before; buying
// answers 503 and says when to come again. When Redis is back, empty even, somebody buys within a second, and every buyer who was sent away
// gets his order with the key he had.
func TestRedisAway(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB, Redis, nginx and three nodes")
	}
	f := newFleet(t, built(t), single)
	f.call.must(t, 201, "POST", "/v1/users", "", map[string]any{"name": "visitor", "password": password}, nil)
	for _, empty := range []bool{false, true} {
		if !empty && !full() {
			continue // the harder one alone
		}
		t.Run(map[bool]string{false: "back with its data", true: "back with nothing"}[empty], func(t *testing.T) { f.away(t, empty) })
	}
}

func (f *fleet) away(t *testing.T, empty bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	f.signIn(t)
	const units = 5000
	phase := 2 * time.Second
	if full() {
		phase = 8 * time.Second
	}
	sale, buyers := f.copied(t, units, 3000)
	var product struct {
		Items []struct{ ID string }
	}
	f.call.must(t, 200, "GET", "/v1/products", "", nil, &product)
	pages := []string{"/v1/products", "/v1/products/" + product.Items[0].ID, "/v1/skus/" + f.sku, "/v1/sales", "/v1/sales/" + f.sale, "/v1/sales/" + sale}
	if a, err := f.call.do(ctx, "GET", "/", "", nil); err == nil && a.status == http.StatusOK { // the pages were built
		pages = append(pages, "/")
	}
	l := &load{f: f, sale: sale, buyers: buyers, pages: pages, http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	defer l.http.CloseIdleConnections()
	ctx, stop := context.WithCancel(ctx)
	reading := l.start(ctx, "read", awayReads, l.read)
	signing := l.start(ctx, "sign in", awaySignIns, l.signIn)
	defer func() { stop(); reading.Wait(); signing.Wait() }()

	// As always. Buying is not part of it: what it asks the database for would hide what reading asks.
	wait(ctx, 2*time.Second)
	from, asked := time.Now(), f.questions(t)
	wait(ctx, phase)
	normal := float64(f.questions(t)-asked) / time.Since(from).Seconds()
	usual := l.between(from, time.Now(), "read", "sign in")

	buyCtx, stopBuying := context.WithCancel(ctx)
	defer stopBuying()
	buying := l.start(buyCtx, "buy", awayBuys, l.buy)
	wait(ctx, time.Second)
	if v := l.between(from, time.Now(), "buy"); len(v) == 0 || v[0].status != 201 {
		t.Fatalf("nobody bought before: %+v", v)
	}

	must(t, f.single.Kill())
	gone := time.Now()
	wait(ctx, time.Second)
	from, asked = time.Now(), f.questions(t)
	wait(ctx, phase)
	without := float64(f.questions(t)-asked) / time.Since(from).Seconds()
	during := l.between(from, time.Now(), "read", "sign in")
	refused := l.between(gone.Add(200*time.Millisecond), time.Now(), "buy")
	all := slices.Concat(usual, during)
	for n := 0; n < 3 && p99(during) > awayP99; n++ { // what else runs on the machine may take a moment of it: what is slow is so each time
		at := time.Now()
		wait(ctx, phase)
		next := l.between(at, time.Now(), "read", "sign in")
		if all = append(all, next...); p99(next) < p99(during) {
			during = next
		}
	}

	if empty {
		must(t, f.single.RestartEmpty(ctx))
	} else {
		must(t, f.single.Restart(ctx))
	}
	back := time.Now()
	var first time.Duration
	for first == 0 {
		for _, v := range l.between(back.Add(-2*time.Second), time.Now(), "buy") {
			if v.status == 201 && v.at.Add(v.took).After(back) && (first == 0 || v.at.Add(v.took).Sub(back) < first) {
				first = v.at.Add(v.took).Sub(back)
			}
		}
		if time.Since(back) > 20*time.Second {
			t.Fatalf("nobody could buy 20 s after Redis was back\n%s", f.tails(3000))
		}
		wait(ctx, 5*time.Millisecond)
	}
	stopBuying()
	buying.Wait()
	told := l.settle(t)
	left, err := f.calm(ctx, sale, units)
	must(t, err)

	t.Logf("with Redis: %.0f queries a second, p99 %v; without: %.0f (%.2f ×), p99 %v of %d; %d × 503 to buyers; first order %v after Redis was back; %d orders in the end",
		normal, p99(usual).Round(time.Millisecond), without, without/normal, p99(during).Round(time.Millisecond), len(during), len(refused), first.Round(time.Millisecond), told)
	for _, v := range all {
		if v.err != nil || v.status >= 400 {
			t.Errorf("%s was answered %d %v", v.what, v.status, v.err)
			break
		}
	}
	if without > awayQueries*normal {
		t.Errorf("without Redis the database is asked %.2f times as often, promised %.1f", without/normal, awayQueries)
	}
	// A machine on which the same takes half as long with Redis shows nothing.
	if p := p99(during); p > awayP99 && p99(usual) < awayP99/2 {
		t.Errorf("p99 without Redis is %v, promised %v", p, awayP99)
	}
	if len(refused) < int(awayBuys*phase.Seconds()/2) {
		t.Errorf("only %d purchases were tried without Redis", len(refused))
	}
	for _, v := range refused {
		if n, err := strconv.Atoi(v.wait); v.status != 503 || err != nil || n < 1 {
			t.Errorf("buying without Redis was answered %d with Retry-After %q (%v), %v after it was gone", v.status, v.wait, v.err, v.at.Sub(gone))
			break
		}
	}
	if first > awayBack {
		t.Errorf("the first order came %v after Redis was back, promised %v", first, awayBack)
	}
	if left != units-int64(told) {
		t.Errorf("%d units are left of %d, and %d buyers hold one", left, units, told)
	}
	if sick := f.sickness(); len(sick) > 0 {
		t.Errorf("the nodes say:%s", few(sick))
	}
}

// copied makes a rehearsal copy with its buyers.
func (f *fleet) copied(t testing.TB, units, buyers int) (sale string, list []*buyer) {
	t.Helper()
	var v struct{ ID string }
	f.call.must(t, 201, "POST", "/v1/sales/"+f.sale+"/rehearsals", f.operator, map[string]any{"units": units, "per_buyer": 1, "starts_in_ms": 0,
		"lasts_seconds": 3600, "pay_within_seconds": 3600}, &v)
	a, err := f.call.do(t.Context(), "POST", "/v1/sales/"+v.ID+"/rehearsal-buyers", f.operator, map[string]any{"buyers": buyers, "ttl_seconds": 7200})
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("inventing buyers: %d %v %s", a.status, err, a.body)
	}
	for line := range bytes.Lines(a.body) {
		var l struct{ Buyer, Token, Admission string }
		must(t, decode(line, &l))
		list = append(list, &buyer{id: l.Buyer, token: l.Token, admission: l.Admission})
	}
	return v.ID, list
}

// questions is how many statements MariaDB has been asked.
func (f *fleet) questions(t testing.TB) int64 {
	t.Helper()
	text, err := f.db.QueryString(t.Context(), "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='QUESTIONS'")
	must(t, err)
	n, err := strconv.ParseInt(text, 10, 64)
	must(t, err)
	return n
}

func p99(list []visit) time.Duration {
	if len(list) == 0 {
		return 0
	}
	took := make([]time.Duration, len(list))
	for i, v := range list {
		took[i] = v.took
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// load is an open loop: what is sent does not wait for answers.
type load struct {
	f      *fleet
	sale   string
	buyers []*buyer
	pages  []string
	http   *http.Client

	mu     sync.Mutex
	visits []visit
}

func (l *load) start(ctx context.Context, what string, rate int, one func(n int) (method, path, token, body string, headers []string)) *sync.WaitGroup {
	var work sync.WaitGroup
	work.Go(func() {
		began := time.Now()
		for n := 0; ctx.Err() == nil; n++ {
			at := began.Add(time.Duration(n) * time.Second / time.Duration(rate))
			wait(ctx, time.Until(at))
			work.Go(func() {
				v := visit{what: what, at: at}
				method, path, token, body, headers := one(n)
				v.status, v.wait, v.err = l.ask(method, path, token, body, headers)
				v.took = time.Since(at)
				if v.err != nil && ctx.Err() != nil {
					return
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				l.visits = append(l.visits, v)
			})
		}
	})
	return &work
}

func (l *load) ask(method, path, token, body string, headers []string) (status int, retry string, err error) {
	req, err := http.NewRequest(method, l.f.base+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	a, err := l.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	_, err = io.Copy(io.Discard, a.Body)
	return a.StatusCode, a.Header.Get("Retry-After"), err
}

func (l *load) read(n int) (method, path, token, body string, headers []string) {
	return "GET", l.pages[n%len(l.pages)], "", "", nil
}

func (l *load) signIn(int) (method, path, token, body string, headers []string) {
	return "POST", "/v1/sessions", "", fmt.Sprintf(`{"name":"visitor","password":%q}`, password), nil
}

func (l *load) buy(n int) (method, path, token, body string, headers []string) {
	b := l.buyers[n]
	return "POST", "/v1/sales/" + l.sale + "/purchases", b.token, "", []string{"Idempotency-Key", "k", "Levee-Admission", b.admission}
}

func (l *load) between(from, to time.Time, what ...string) (list []visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.visits {
		if slices.Contains(what, v.what) && !v.at.Before(from) && v.at.Before(to) {
			list = append(list, v)
		}
	}
	return list
}

// settle has every buyer who pressed ask with his key until he has an order, and returns how many there are.
func (l *load) settle(t testing.TB) (orders int) {
	t.Helper()
	pressed := 0
	for _, v := range l.between(time.Time{}, time.Now().Add(time.Hour), "buy") {
		_ = v
		pressed++
	}
	for n := range pressed {
		for try := 0; ; try++ {
			method, path, token, body, headers := l.buy(n)
			status, _, err := l.ask(method, path, token, body, headers)
			if err == nil && status == 201 {
				orders++
				break
			}
			if try > 200 || err == nil && status != 503 && status != 202 && status != 409 {
				t.Fatalf("buyer %d has no order after %d tries: %d %v", n, try, status, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return orders
}
