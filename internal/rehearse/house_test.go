package rehearse_test

import (
	"io"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/catalog"
	"levee/internal/rehearse"
	"levee/internal/sale"
)

// The real house, with its own limits, is rehearsed in each way.
func TestTheHouseItself(t *testing.T) {
	h := apptest.Start(t, func(c *app.Config) { c.Limits.Rates = nil })
	ctx := levee.WithActor(t.Context(), levee.System)
	price := levee.Money{Minor: 4200, Currency: "CNY"}
	p, err := h.App.Rooms.Catalog.Create(ctx, catalog.NewProduct{Code: "LAMP", Title: "Lamp", State: catalog.OnSale,
		SKUs: []catalog.NewSKU{{Code: "LAMP-1", Name: "Lamp", Price: price, OnHand: 1000}}})
	if err != nil {
		t.Fatal(err)
	}
	now := h.App.Obs.Clock()
	v, err := h.App.Rooms.Sale.Open(ctx, sale.Terms{Title: "Lamps", SKU: p.SKUs[0].ID, Price: price, Units: 500, PerBuyer: 1,
		StartsAt: now, EndsAt: now.Add(time.Hour), TokenNeeded: true, WaitingList: true}, levee.System)
	if err != nil {
		t.Fatal(err)
	}
	base := rehearse.Config{Server: h.Base, User: "operator", Password: apptest.Password, Sale: h.App.Rooms.Sale.PublicID(v.ID), Rate: 500, Buyers: 600,
		Duration: time.Second, Connections: 16, Units: 150, PerBuyer: 2, Quiet: true}
	for _, c := range []struct {
		name   string
		change func(*rehearse.Config)
		sold   bool
	}{
		{"holding the line", func(c *rehearse.Config) { c.Double, c.Pay = 0.2, 0.5 }, true},
		{"polling, two units a press", func(c *rehearse.Config) { c.Poll, c.Quantity = true, 2 }, true},
		{"before the opening", func(c *rehearse.Config) { c.Early = time.Second }, false},
		{"as fast as it goes", func(c *rehearse.Config) { c.Max, c.Depth = true, 4 }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := base
			c.change(&cfg)
			r, err := rehearse.Run(t.Context(), cfg, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range r.Audit {
				if check.Verdict == rehearse.Broken {
					t.Errorf("%s: %s %v", check.Name, check.Facts, check.Findings)
				}
			}
			if c.sold && r.Account.Stock.Remaining != 0 {
				t.Errorf("%d of 150 units remain: %v", r.Account.Stock.Remaining, r.Outcomes)
			}
		})
	}
	var live struct {
		Operator struct{ Units int64 }
		Phase    string
	}
	h.Operator.Do("GET", "/v1/sales/"+base.Sale, nil).Want(200).Into(&live)
	if live.Operator.Units != 500 || live.Phase != "open" {
		t.Errorf("the sale itself was touched: %+v", live)
	}
}
