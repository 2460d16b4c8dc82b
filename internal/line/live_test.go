package line

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"levee"
	"levee/internal/order"
)

// TestTold: a buyer's pages hear of his offer, of its end, and of the end of the sale.
func TestTold(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 1, 1)
	h.buys(t, v, 1, 1, "a")
	h.joins(t, v, 10, 1)
	h.joins(t, v, 11, 1)
	topic := func(n int) string { return "user:" + h.Sealer.Seal(levee.KindUser, int64(buyer(n).User)) }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.Push.ServeSSE(w, r, r.URL.Query().Get("topic"))
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heard := func(topic string) <-chan entryView {
		req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"?topic="+topic, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		out, ready := make(chan entryView, 10), make(chan struct{})
		go func() {
			defer res.Body.Close()
			kind, listens := "", sync.OnceFunc(func() { close(ready) })
			for lines := bufio.NewScanner(res.Body); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "id: ") {
					listens() // the first position is that of now
				}
				if k, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
					kind = k
				}
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && kind == "line" {
					var view entryView
					if err := json.Unmarshal([]byte(data), &view); err != nil {
						t.Error(err)
					}
					out <- view
				}
			}
		}()
		<-ready
		return out
	}
	first, second := heard(topic(10)), heard(topic(11))
	h.cancel(t, h.ordersOf(t, 1, order.StateCreated)[0], buyer(1))
	got := <-first
	if got.Status != "offered" || got.Offer == nil || got.Offer.Quantity != 1 || got.Sale != h.sales.PublicID(v.ID) || got.Links.Pay == "" {
		t.Fatalf("the first heard %+v", got)
	}
	h.pay(t, h.is(t, v, 10, StateOffered).Order())
	h.settled(t)
	if got := <-first; got.Status != "ordered" || got.Links.Pay != "" {
		t.Fatalf("the first heard %+v", got)
	}
	h.act(t, v, "end", 0)
	h.tick(t)
	if got := <-second; got.Status != "over" || got.Position != nil {
		t.Fatalf("the second heard %+v", got)
	}
}
