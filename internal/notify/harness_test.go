package notify

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
	"levee/internal/platform/platformtest"
	"levee/internal/token"
	"levee/internal/trail"
)

// source is a seller without stock of its own.
type source struct{}

func (source) ReleaseTx(context.Context, *db.Tx, order.Order, string) error { return nil }
func (source) SoldTx(context.Context, *db.Tx, order.Order) error            { return nil }
func (source) ReviveTx(context.Context, *db.Tx, order.Order) (bool, error)  { return true, nil }
func (source) RefundedTx(context.Context, *db.Tx, order.Order, bool) error  { return nil }

// house is the room with orders and accounts, and receivers in memory.
type house struct {
	*Service
	*platformtest.Platform
	t      testing.TB
	orders *order.Service
	deps   Deps
	world  *world
	op     context.Context // of an operator
	stop   func()
}

func newHouse(t testing.TB, change ...func(*Config)) *house {
	t.Helper()
	return newHouseIn(t, t.TempDir(), newWorld(), change...)
}

func newHouseIn(t testing.TB, dir string, w *world, change ...func(*Config)) *house {
	t.Helper()
	h := &house{t: t, world: w, Platform: platformtest.Open(t, dir, trail.Schema(), token.Schema(), identity.Schema(), order.Schema(), node.Schema(), Schema())}
	tokens := token.New(token.Deps{DB: h.DB, Sealer: h.Sealer, Obs: h.Obs, Seal: platformtest.Key(4), Key: ed25519.NewKeyFromSeed(platformtest.Key(2))})
	told := trail.New(trail.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Key: platformtest.Key(4)})
	people := identity.New(identity.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Limits: h.Limits, Events: h.Events,
		Config: identity.Config{HashMemory: 8192, HashTime: 1}, Tokens: tokens, Trail: told})
	var err error
	h.orders, err = order.Open(order.Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Events: h.Events, Jobs: h.Platform.Jobs})
	h.must(err)
	h.orders.AddSource("sale", source{})
	h.orders.AddSource(sourceRehearsal, source{})
	h.deps = Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: h.Obs, Push: h.Push, Identity: people, Trail: told, Orders: h.orders, Key: platformtest.Key(3)}
	h.deps.Config.AllowHosts = []string{"shop.test", "other.test", "127.0.0.1"}
	for _, c := range change {
		c(&h.deps.Config)
	}
	h.Service, err = New(h.deps)
	h.must(err)
	h.Service.post = w.post
	h.must(h.Warm(h.t.Context()))
	h.must(h.Events.Register(h.Listeners()...))
	h.op = levee.WithActor(context.Background(), levee.Actor{User: 77, Roles: levee.RoleOperator})
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// run starts the room and the events, until the test ends or h.stop is called.
func (h *house) run() { h.start(h.serve, h.Events.Run) }

// serve is the room's work in a house of one node.
func (h *house) serve(ctx context.Context) error { return h.Serve(ctx, node.Forever()) }

// runQuietly starts the room alone: in a test of days, the relay's poll each second would take most of the time. What was emitted
// is heard by h.hear.
func (h *house) runQuietly() { h.start(h.serve) }

func (h *house) hear() { h.must(h.Events.Drain(context.Background())) }

func (h *house) start(parts ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range parts {
		wg.Go(func() { _ = run(ctx) })
	}
	h.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	h.t.Cleanup(h.stop)
}

// hook makes a webhook and returns it with its secret.
func (h *house) hook(url string, events ...string) (Webhook, string) {
	h.t.Helper()
	w, secret, err := h.Create(h.op, NewWebhook{URL: url, Events: events}, identity.Origin{})
	h.must(err)
	return w, secret
}

// order makes n orders of one batch, from a sale or a rehearsal.
func (h *house) order(source string, n int) []levee.OrderID {
	h.t.Helper()
	ids := make([]int64, n)
	h.must(h.IDs.NextN(ids))
	list, out := make([]order.New, n), make([]levee.OrderID, n)
	now := h.Obs.Clock()
	for i, id := range ids {
		out[i] = levee.OrderID(id)
		list[i] = order.New{ID: out[i], Buyer: levee.UserID(1000 + i), Source: source, SourceRef: 42, CreatedAt: now, PayBy: now.Add(time.Hour),
			Lines: []order.Line{{SKU: 5, Product: 6, Title: "Lamp", Quantity: 1, Price: levee.Money{Minor: 990, Currency: "CNY"}}}}
	}
	for len(list) > 0 {
		k := min(len(list), 4096)
		h.must(h.DB.Tx(context.Background(), "test.order", func(ctx context.Context, tx *db.Tx) error { return h.orders.CreateManyTx(ctx, tx, list[:k]) }))
		list = list[k:]
	}
	return out
}

func (h *house) tx(f func(ctx context.Context, tx *db.Tx) error) {
	h.t.Helper()
	h.must(h.DB.Tx(context.Background(), "test.act", f))
}

var operator = levee.Actor{User: 77, Roles: levee.RoleOperator}

func (h *house) pay(id levee.OrderID) {
	h.t.Helper()
	h.tx(func(ctx context.Context, tx *db.Tx) error {
		_, err := h.orders.MarkPaidTx(ctx, tx, id, order.PaidBy{Payment: 9, At: h.Obs.Clock()})
		return err
	})
}

func (h *house) cancel(id levee.OrderID, by levee.Actor) {
	h.t.Helper()
	h.must(h.orders.Cancel(context.Background(), id, by, "given up"))
}

func (h *house) ship(id levee.OrderID) {
	h.t.Helper()
	h.must(h.orders.Ship(context.Background(), id, operator, "SF Express", "SF123"))
}

func (h *house) complete(id levee.OrderID) {
	h.t.Helper()
	h.must(h.orders.Complete(context.Background(), id, operator))
}

func (h *house) refund(id levee.OrderID) {
	h.t.Helper()
	h.tx(func(ctx context.Context, tx *db.Tx) error {
		if err := h.orders.RefundingTx(ctx, tx, id, operator, "broken"); err != nil {
			return err
		}
		return h.orders.RefundedTx(ctx, tx, id)
	})
}

func (h *house) count(query string, args ...any) (n int) {
	h.t.Helper()
	h.must(h.DB.QueryRow(context.Background(), query, args...).Scan(&n))
	return n
}

// world is all receivers there are, by URL.
type world struct {
	mu        sync.Mutex
	receivers map[string]*receiver
}

func newWorld() *world { return &world{receivers: map[string]*receiver{}} }

func (w *world) at(url string) *receiver {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.receivers[url]
	if r == nil {
		r = &receiver{told: map[string][]message{}}
		w.receivers[url] = r
	}
	return r
}

func (w *world) post(ctx context.Context, to string, header map[string]string, body []byte) (answer, error) {
	return w.at(to).take(ctx, header, body)
}

// message is what arrived: parsed, and as it came.
type message struct {
	id, typ, subject string
	version          int64
	at               time.Time // of its arrival
	body             string
	answered         int
}

// receiver is a system that is told things. Its fields but the mutex may be set before or between messages.
type receiver struct {
	mu      sync.Mutex
	secrets []string // whsec_…; what any of them signs is good
	reply   func(m message) (answer, error)
	takes   time.Duration // an answer
	loses   func() bool   // answers on their way back: taken, but the sender does not learn of it

	all        []message            // in the order of arrival
	told       map[string][]message // what was answered 2xx, by subject, repeats left out
	badSign    int
	under, top int // requests under way now, and the most at once
	perSubject map[string]int
	crossed    int // messages that came while another of their subject was under way
	orderless  int // messages whose version is below one that was answered 2xx before
	repeats    int
}

func (r *receiver) set(f func(r *receiver)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *receiver) take(ctx context.Context, header map[string]string, body []byte) (answer, error) {
	var v struct {
		Type string `json:"type"`
		Data struct {
			Order, Sale, Webhook, Entry string
			Version                     int64
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return answer{status: 400}, nil
	}
	m := message{id: header["Webhook-Id"], typ: v.Type, subject: v.Data.Order, version: v.Data.Version, at: time.Now(), body: string(body)}
	if m.subject == "" {
		m.subject = v.Data.Sale + v.Data.Webhook
	}
	r.mu.Lock()
	if len(r.secrets) > 0 && !slices.ContainsFunc(r.secrets, func(s string) bool { return signed(s, header, body) }) {
		r.badSign++
	}
	if r.perSubject == nil {
		r.perSubject = map[string]int{}
	}
	if r.perSubject[m.subject]++; r.perSubject[m.subject] > 1 {
		r.crossed++
	}
	r.under++
	r.top = max(r.top, r.under)
	reply, takes := r.reply, r.takes
	r.mu.Unlock()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
		}
	}
	a, err := answer{status: 204}, ctx.Err()
	if err == nil && reply != nil {
		a, err = reply(m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.under--
	r.perSubject[m.subject]--
	m.answered = a.status
	if err != nil {
		m.answered = 0
	}
	r.all = append(r.all, m)
	if m.answered >= 200 && m.answered < 300 {
		before := r.told[m.subject]
		if slices.ContainsFunc(before, func(b message) bool { return b.id == m.id }) {
			r.repeats++
			return a, err // known by its id
		}
		if n := len(before); n > 0 && before[n-1].version > m.version {
			r.orderless++
		}
		r.told[m.subject] = append(before, m)
		if r.loses != nil && r.loses() {
			return answer{}, errAway
		}
	}
	return a, err
}

// signed checks a signature as a receiver would, by the scheme's own words.
func signed(secret string, header map[string]string, body []byte) bool {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return false
	}
	at, err := strconv.ParseInt(header["Webhook-Timestamp"], 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > 5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", header["Webhook-Id"], at, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return slices.Contains(strings.Fields(header["Webhook-Signature"]), want)
}

// types returns what a receiver was told of a subject, in order.
func (r *receiver) types(subject string) (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.told[subject] {
		list = append(list, m.typ)
	}
	return list
}

// taken returns how many messages were answered 2xx, repeats left out, and how many came in all.
func (r *receiver) taken() (good, all int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, list := range r.told {
		good += len(list)
	}
	return good, len(r.all)
}

func (h *house) public(id levee.OrderID) string { return h.Sealer.Seal(levee.KindOrder, int64(id)) }

// until waits until cond holds, in the bubble's time or in real time.
func (h *house) until(what string, most time.Duration, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(most); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not within %v: %s", most, what)
		}
	}
}
