package rehearse_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/admission"
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

// A sale with a waiting room and a brake: everybody does the work, waits, has his turn and buys; and the operator takes part by hand
// while the crowd waits.
func TestTheHouseWithAWaitingRoom(t *testing.T) {
	h := apptest.Start(t, func(c *app.Config) { c.Limits.Rates = nil })
	ctx := levee.WithActor(t.Context(), levee.System)
	price := levee.Money{Minor: 4200, Currency: "CNY"}
	p, err := h.App.Rooms.Catalog.Create(ctx, catalog.NewProduct{Code: "LAMP", Title: "Lamp", State: catalog.OnSale,
		SKUs: []catalog.NewSKU{{Code: "LAMP-1", Name: "Lamp", Price: price, OnHand: 1000}}})
	if err != nil {
		t.Fatal(err)
	}
	now := h.App.Obs.Clock()
	v, err := h.App.Rooms.Sale.Open(ctx, sale.Terms{Title: "Lamps", SKU: p.SKUs[0].ID, Price: price, Units: 500, PerBuyer: 1, StartsAt: now,
		EndsAt: now.Add(time.Hour), Admission: admission.Policy{Room: true, PerSecond: 120, Multiple: 2, Brake: admission.BrakeWork, WorkBits: 8}}, levee.System)
	if err != nil {
		t.Fatal(err)
	}
	// The copy's address is told at once, so that somebody can open it.
	invited, told := io.Pipe()
	var r rehearse.Report
	ran := make(chan error, 1)
	go func() {
		var err error
		r, err = rehearse.Run(t.Context(), rehearse.Config{Server: h.Base, User: "operator", Password: apptest.Password,
			Sale: h.App.Rooms.Sale.PublicID(v.ID), Queue: true, Buyers: 300, Duration: time.Second, Settle: 10 * time.Second, Connections: 32, Units: 250, Listen: 0.05}, told)
		told.Close()
		ran <- err
	}()
	lines := bufio.NewScanner(invited)
	var copied string
	for copied == "" && lines.Scan() {
		if _, after, ok := strings.Cut(lines.Text(), "/sales/"); ok {
			copied, _, _ = strings.Cut(after, " ")
		}
	}
	go io.Copy(io.Discard, invited)
	buyByHand(t, h.Operator, copied)
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	for _, check := range r.Audit {
		if check.Verdict == rehearse.Broken {
			t.Errorf("%s: %s %v", check.Name, check.Facts, check.Findings)
		}
	}
	if r.Room == nil || r.Room.Places == 0 || r.Room.Solved != 300 || r.Outcomes["ordered"] != 249 || r.Account.Stock.Reserved != 250 {
		t.Errorf("249 of 300 buy what the operator left: %v, %+v, %+v", r.Outcomes, r.Room, r.Account.Stock)
	}
}

// buyByHand does what a page does: the work, the wait, the press.
func buyByHand(t *testing.T, who *apptest.Client, copied string) {
	t.Helper()
	path := "/v1/sales/" + copied
	var c struct{ Challenge string }
	who.Do("POST", path+"/challenges", map[string]string{"kind": "work"}).Want(201).Into(&c)
	answer := 0
	for sha256.Sum256([]byte(fmt.Sprint(c.Challenge, ".", answer)))[0] != 0 { // eight bits
		answer++
	}
	var place struct{ Status, Token string }
	proof := map[string]any{"proof": map[string]string{"challenge": c.Challenge, "answer": fmt.Sprint(answer)}}
	asked := who.Do("POST", path+"/admissions", proof)
	for end := time.Now().Add(10 * time.Second); asked.Status == 503 && time.Now().Before(end); asked = who.Do("POST", path+"/admissions", proof) {
		time.Sleep(200 * time.Millisecond) // the copy is a moment old: its room is being loaded
	}
	asked.Want(201, 202).Into(&place)
	for end := time.Now().Add(20 * time.Second); place.Token == "" && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		who.Do("GET", path+"/admissions/mine", nil).Want(200).Into(&place)
	}
	if place.Token == "" {
		t.Fatalf("the operator was not admitted in 20 s: %+v", place)
	}
	who.Do("POST", path+"/purchases", nil, "Levee-Admission: "+place.Token).Want(201)
}
