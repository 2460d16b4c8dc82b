package app_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// A shop over three nodes: what one was told, all know. Products and sales are made on one, bought on another, paid for on a third; the
// waiting room is asked on each; a crowd on all three at once gets what there is and not one more.
func TestThreeNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	dir := t.TempDir()
	nodes := make([]*apptest.House, 3)
	for i := range nodes {
		nodes[i] = apptest.StartNode(t, dir)
	}
	a, b, c := nodes[0], nodes[1], nodes[2]
	on := func(h *apptest.House, who *apptest.Client) *apptest.Client { return who.At(h.Base) }

	sku := makeProduct(a, "LAMP", 300)
	sale := makeSale(a, sku, 2, nil)
	var ticket ticket
	for _, h := range nodes { // within moments, all know of it
		eventually(t, "the sale is on every node", func() bool {
			return strings.Contains(string(on(h, a.Visitor).Do("GET", "/v1/sales/"+sale, nil).Body), `"phase":"open"`)
		})
		eventually(t, "every node knows who keeps the waiting rooms", func() bool {
			return on(h, a.Customer).Do("GET", "/v1/sales/"+sale+"/admissions/mine", nil).Status != http.StatusServiceUnavailable
		})
	}
	token := admit(on(b, a.Customer), sale)
	on(c, a.Customer).Do("POST", "/v1/sales/"+sale+"/purchases", nil, token, "Idempotency-Key: mine").Want(201).Into(&ticket)
	first := ticket.Order
	on(a, a.Customer).Do("POST", "/v1/sales/"+sale+"/purchases", nil, token, "Idempotency-Key: mine").Want(201).Into(&ticket)
	if ticket.Order != first || !ticket.Repeated {
		t.Fatalf("the same key on another node gave %+v, want %s again", ticket, first)
	}
	on(b, a.Customer).Do("POST", "/v1/sales/"+sale+"/purchases", nil, token).WantError(409, levee.CodeLimitReached)

	const units, people = 60, 150
	crowded := makeSale(b, sku, units, map[string]any{"title": "A crowd"})
	buyers := make([]*apptest.Client, people)
	for i := range buyers {
		buyers[i] = nodes[i%3].NewCustomer(t, fmt.Sprintf("buyer%03d", i))
	}
	for _, h := range nodes {
		eventually(t, "the second sale is on every node", func() bool {
			return strings.Contains(string(on(h, a.Visitor).Do("GET", "/v1/sales/"+crowded, nil).Body), `"phase":"open"`)
		})
	}
	var bought, soldOut atomic.Int64
	var wg sync.WaitGroup
	for i, buyer := range buyers {
		wg.Go(func() {
			token := admit(on(nodes[(i+1)%3], buyer), crowded)
			switch got := on(nodes[(i+2)%3], buyer).Do("POST", "/v1/sales/"+crowded+"/purchases", nil, token, "Idempotency-Key: crowd"); got.Status {
			case 201:
				bought.Add(1)
			case 409, 410:
				soldOut.Add(1)
			default:
				t.Errorf("buyer %d: %d %s", i, got.Status, got.Body)
			}
		})
	}
	wg.Wait()
	if bought.Load() != units || soldOut.Load() != people-units {
		t.Errorf("%d bought and %d were told that it is sold out, of %d with %d units", bought.Load(), soldOut.Load(), people, units)
	}
	for _, h := range nodes {
		var account struct {
			Balanced bool
			Stock    struct{ Offered, Remaining, Reserved, Sold int }
		}
		on(h, a.Operator).Do("GET", "/v1/sales/"+crowded+"/account", nil).Want(200).Into(&account)
		if !account.Balanced || account.Stock.Reserved != units || account.Stock.Remaining != 0 {
			t.Errorf("account %+v", account)
		}
	}
	on(c, a.Operator).Do("POST", "/v1/sales/"+crowded+"/acts", map[string]any{"act": "pause", "reason": "test"}).Want(201)
	for _, h := range nodes {
		eventually(t, "a pause is on every node", func() bool {
			return strings.Contains(string(on(h, a.Visitor).Do("GET", "/v1/sales/"+crowded, nil).Body), `"phase":"paused"`)
		})
	}
}

// eventually waits for what one node did to be on another: a second by looking alone, less by bells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// A node whose secret is another one would void the others' ids and sign-ins: it does not start.
func TestANodeWithAnotherSecret(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	dir := t.TempDir()
	apptest.StartNode(t, dir)
	cfg := app.Config{Mode: "distributed", Data: t.TempDir(), Secret: obs.Secret(strings.Repeat("ab", 32))}
	cfg.Database = platformtest.MySQL(t, dir, app.Schemas()...)
	cfg.RedisServer = platformtest.Redis(t, dir)
	cfg.DB, cfg.Redis, cfg.HTTP.Addr = cfg.Database.URL, cfg.RedisServer.URL, "127.0.0.1:0"
	a, err := app.New(t.Context(), cfg, t.Output())
	if err == nil {
		_ = a.Close(context.Background())
	}
	if levee.CodeOf(err) != levee.CodeConflict || !strings.Contains(err.Error(), "LEVEE_SECRET") || strings.Contains(err.Error(), "abab") {
		t.Errorf("it said %v", err)
	}
}

// A web node leaves what happens later to the others: a notice of an order comes once a worker is there, and not before.
func TestRoles(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB and Redis")
	}
	dir := t.TempDir()
	web := apptest.StartNode(t, dir, func(c *app.Config) { c.Role = "web" })
	sku := makeProduct(web, "LAMP", 300)
	web.Customer.Do("POST", "/v1/orders", map[string]any{"lines": []any{map[string]any{"sku": sku, "quantity": 1}}}).Want(201)
	noticed := func() bool {
		return strings.Contains(string(web.Customer.Do("GET", "/v1/notices", nil).Want(200).Body), "order")
	}
	time.Sleep(3 * time.Second) // with a worker it takes some tenths
	if noticed() {
		t.Error("a web node relays events")
	}
	apptest.StartNode(t, dir, func(c *app.Config) { c.Role = "worker" })
	eventually(t, "the notice is there", noticed)
}
