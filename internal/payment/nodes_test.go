package payment

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/obs"
)

// twoNodes are two nodes of one house behind one address: whoever asks is answered by the node that to names. Each has a folder of its
// own. With elsewhere the keys are kept there, as if the provider were no part of the house.
func twoNodes(t *testing.T, elsewhere bool) (h *house, nodes [2]struct {
	shop     *Service
	provider *Sandbox
}, to, told *atomic.Int32, takes *atomic.Bool) {
	h = open(t)
	to, told, takes = &atomic.Int32{}, &atomic.Int32{}, &atomic.Bool{}
	takes.Store(true)
	var muxes [2]*http.ServeMux
	both := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/payment-notifications/") {
			if told.Add(1); !takes.Load() {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
		}
		muxes[to.Load()].ServeHTTP(w, r)
	}))
	t.Cleanup(both.Close)
	for i := range nodes {
		d := Deps{DB: h.DB, IDs: h.IDs, Sealer: h.Sealer, Obs: obs.Test(t), Events: h.Events, Orders: h.orders, Clock: h.clock.Now,
			Config: Config{PublicURL: both.URL, Sandbox: SandboxConfig{Enabled: true, Dir: t.TempDir()}}}
		if elsewhere {
			d.Config.Sandbox.URL = both.URL + "/test-provider"
		}
		var err error
		nodes[i].shop, err = New(d)
		must(t, err)
		nodes[i].provider, err = NewSandbox(d)
		must(t, err)
		muxes[i] = http.NewServeMux()
		muxes[i].Handle("/test-provider/", http.StripPrefix("/test-provider", nodes[i].provider))
		muxes[i].Handle("POST /v1/payment-notifications/{provider}", nodes[i].shop.notifyHandler())
		if files, err := os.ReadDir(d.Config.Sandbox.Dir); err != nil || (len(files) > 0) != elsewhere {
			t.Errorf("files in the folder: %v, %v", files, err)
		}
	}
	return h, nodes, to, told, takes
}

// TestSandboxOverNodes: a payment that one node began is paid at another one's page, told of by a third party's turn to either, asked
// about and given back through the other.
func TestSandboxOverNodes(t *testing.T) {
	h, nodes, to, told, takes := twoNodes(t, false)
	for i := range 4 {
		begins, pays, tells := i&1, 1-i&1, i>>1
		o := h.buy(h.sku(1, 50))
		h.payments = nodes[begins].shop
		a, page := h.start(o)
		to.Store(int32(pays))
		if body := h.press(page, "pay"); !strings.Contains(body, "Paid.") {
			t.Fatalf("begun on %d, paid on %d:\n%s", begins, pays, body)
		}
		to.Store(int32(begins)) // who is told, and by whom
		must(t, nodes[tells].provider.deliver(t.Context()))
		must(t, nodes[1-tells].provider.deliver(t.Context()))
		if st := h.order(o.ID); st != order.StatePaid {
			t.Errorf("begun on %d, paid on %d, told by %d: the order is %v", begins, pays, tells, st)
		}
		if n := told.Swap(0); n != 1 {
			t.Errorf("the merchant was told %d times", n)
		}
		to.Store(int32(pays))
		tr, _, err := nodes[begins].shop.gateways["test"].Query(t.Context(), h.Sealer.Seal(levee.KindPayment, int64(a.ID)), "")
		if err != nil || tr.status != tradePaid {
			t.Errorf("asked: %+v, %v", tr, err)
		}
	}
	// A merchant who does not answer is told again after the same pauses as by one node, though two look.
	o := h.buy(h.sku(1, 50))
	_, page := h.start(o)
	h.press(page, "pay")
	takes.Store(false)
	told.Store(0)
	var at []time.Duration
	begun := h.clock.Now()
	for range 200 {
		before := told.Load()
		done := make(chan error, 2)
		for i := range nodes {
			go func() { done <- nodes[i].provider.deliver(t.Context()) }()
		}
		must(t, <-done)
		must(t, <-done)
		for range told.Load() - before {
			at = append(at, h.clock.Now().Sub(begun))
		}
		h.clock.Step(100 * time.Millisecond)
	}
	pauses := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} // each give or take a fifth, and the step
	if len(at) != 1+len(pauses) || at[0] != 0 {
		t.Fatalf("told at %v", at)
	}
	for i, want := range pauses {
		if got := at[i+1] - at[i]; got < want*4/5-100*time.Millisecond || got > want*6/5+100*time.Millisecond {
			t.Errorf("told at %v: a pause of %v, want about %v", at, got, want)
		}
	}
	takes.Store(true)
	h.clock.Step(time.Minute)
	must(t, nodes[1].provider.deliver(t.Context()))
	if st := h.order(o.ID); st != order.StatePaid {
		t.Errorf("the order is %v", st)
	}
}

// TestSandboxKeysOfTheirOwn is the control: nodes with keys of their own do not know each other's payments.
func TestSandboxKeysOfTheirOwn(t *testing.T) {
	h, nodes, to, _, _ := twoNodes(t, true)
	h.payments = nodes[0].shop
	_, page := h.start(h.buy(h.sku(1, 50)))
	to.Store(1)
	r, err := http.PostForm(page, url.Values{"action": {"pay"}})
	must(t, err)
	body, err := io.ReadAll(r.Body)
	must(t, err)
	must(t, r.Body.Close())
	if r.StatusCode != http.StatusForbidden {
		t.Errorf("%s\n%s", r.Status, body)
	}
}

// TestSandboxKeysFromBefore: the keys of a house that kept them in its folder go on, so that links which it gave out stay good.
func TestSandboxKeysFromBefore(t *testing.T) {
	h := open(t)
	dir := t.TempDir()
	before, err := openSandboxKeys(dir)
	must(t, err)
	d := Deps{DB: h.DB, Obs: h.Obs}
	for _, from := range []string{dir, t.TempDir()} {
		k, err := sandboxKeysOf(t.Context(), d, from)
		must(t, err)
		if !k.merchant.Equal(before.merchant) || !k.provider.Equal(before.provider) {
			t.Error("other keys")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "merchant.pem"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sandboxKeysOf(t.Context(), d, dir); err != nil {
		t.Error(err) // the database has the last word
	}
}
