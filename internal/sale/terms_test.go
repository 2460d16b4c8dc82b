package sale

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/platform/db"
	"levee/internal/platform/platformtest"
)

func (s *shop) terms(units int64) Terms {
	return Terms{Title: "Lamp sale", SKU: s.sku, Price: levee.Money{Minor: 4900, Currency: "CNY"}, Units: units, PerBuyer: 1,
		StartsAt: s.clock.Now().Add(-time.Second), EndsAt: s.clock.Now().Add(time.Hour)}
}

// One refusal names every term that is wrong.
func TestTermsNameEveryProblem(t *testing.T) {
	now := time.Date(2026, 11, 11, 10, 0, 0, 0, time.UTC)
	bad := Terms{Title: strings.Repeat("x", 121), Price: levee.Money{Minor: -1, Currency: "cny"}, Units: 0, PerBuyer: 1001, StartsAt: now, EndsAt: now,
		PayWithin: time.Second, Mode: ModeDraw, DrawAt: now,
		Admission: admission.Policy{Room: true, Order: "loudest", PerSecond: -1, Multiple: 1001, Brake: "magic", WorkBits: 25, PerAddress: -1}}
	want := []string{"title", "sku", "price.amount", "price.currency", "units", "per_buyer", "ends_at", "pay_within_seconds", "admission.order", "admission.brake",
		"admission.per_second", "admission.multiple", "admission.work_bits", "admission.per_address", "draw_at", "admission.room", "admission.brake"}
	err := bad.Check(now)
	var e *levee.Error
	if !errors.As(err, &e) || e.Code != levee.CodeInvalid {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, f := range e.Fields {
		got = append(got, strings.TrimPrefix(f.Field, "body."))
		if f.Allowed == "" {
			t.Errorf("%s does not tell what is allowed", f.Field)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("the problems are\n%v, want\n%v", got, want)
	}
}

func TestTermsFillInAndForce(t *testing.T) {
	now := time.Date(2026, 11, 11, 10, 0, 0, 0, time.UTC)
	good := Terms{Title: " Lamp ", SKU: 1, Price: levee.Money{Currency: "CNY"}, Units: 1, PerBuyer: 1, StartsAt: now, EndsAt: now.Add(time.Hour)}
	race := good
	if err := race.Check(now); err != nil {
		t.Fatal(err)
	}
	defaults := admission.Policy{}
	_ = defaults.Check()
	if race.Mode != ModeRace || race.PayWithin != 30*time.Minute || race.Admission != defaults || race.TokenNeeded || race.WaitingList || race.Title != "Lamp" {
		t.Fatalf("the defaults are %+v", race)
	}
	for _, p := range []admission.Policy{{Room: true}, {Brake: admission.BrakeWork}} {
		forced := good
		forced.Admission = p
		if err := forced.Check(now); err != nil || !forced.TokenNeeded {
			t.Fatalf("%+v: a token is needed: %v (%v)", p, forced.TokenNeeded, err)
		}
	}
	lots := good
	lots.Mode, lots.DrawAt = ModeDraw, now.Add(time.Minute)
	if err := lots.Check(now); err != nil || !lots.WaitingList {
		t.Fatalf("a draw has a waiting list: %v (%v)", lots.WaitingList, err)
	}
	for name, change := range map[string]func(*Terms){
		"a draw without its moment":   func(t *Terms) { t.Mode = ModeDraw },
		"a draw at the start":         func(t *Terms) { t.Mode, t.DrawAt = ModeDraw, t.StartsAt },
		"a draw at the end":           func(t *Terms) { t.Mode, t.DrawAt = ModeDraw, t.EndsAt },
		"a race with a draw's moment": func(t *Terms) { t.DrawAt = now.Add(time.Minute) },
		"a mode that is none":         func(t *Terms) { t.Mode = "auction" },
	} {
		wrong := good
		change(&wrong)
		if code(wrong.Check(now)) != levee.CodeInvalid {
			t.Errorf("%s was allowed", name)
		}
	}
}

// What may change when, and that each change is kept with what it changed.
func TestChangesOfALiveSale(t *testing.T) {
	s := newShop(t, Config{})
	s.stock(t, 1000)
	try := func(l *live, change func(*Terms)) error {
		v := l.view.Load()
		terms := v.Terms()
		change(&terms)
		_, err := s.sales.Change(t.Context(), v.ID, v.Version, terms, operator)
		return err
	}
	later := func(terms *Terms) { terms.StartsAt = s.clock.Now().Add(time.Minute) }
	race := s.open(t, 10, 2, later, func(terms *Terms) { terms.Admission, terms.WaitingList = admission.Policy{Room: true}, true })
	lots := s.open(t, 10, 2, later, draw)
	for name, change := range map[string]func(*Terms){
		"mode":  func(t *Terms) { t.Mode, t.DrawAt, t.Admission.Room = ModeDraw, t.StartsAt.Add(time.Second), false },
		"units": func(t *Terms) { t.Units++ },
	} {
		if code(try(race, change)) != levee.CodeConflict {
			t.Errorf("%s could be changed once scheduled", name)
		}
	}
	for i, change := range []func(*Terms){
		func(t *Terms) { t.Admission.Room = false },
		func(t *Terms) { t.Admission.Order = admission.OrderRandom },
		func(t *Terms) { t.Price.Minor-- },
		func(t *Terms) { t.WaitingList = false },
	} {
		if err := try(race, change); err != nil {
			t.Errorf("change %d was refused before the start: %v", i, err)
		}
	}
	if err := try(lots, func(t *Terms) { t.DrawAt = t.DrawAt.Add(time.Second) }); err != nil {
		t.Fatal(err)
	}
	if err := try(race, func(t *Terms) { t.Admission.Room, t.WaitingList = true, true }); err != nil {
		t.Fatal(err)
	}
	s.clock.Step(time.Minute)
	for name, err := range map[string]error{
		"draw_at": try(lots, func(t *Terms) { t.DrawAt = t.DrawAt.Add(time.Second) }),
		"room":    try(race, func(t *Terms) { t.Admission.Room = false }),
		"order":   try(race, func(t *Terms) { t.Admission.Order = admission.OrderArrival }),
		"price":   try(race, func(t *Terms) { t.Price.Minor-- }),
		"waiting": try(race, func(t *Terms) { t.WaitingList = false }),
		"limit":   try(race, func(t *Terms) { t.PerBuyer-- }),
		"starts":  try(race, func(t *Terms) { t.StartsAt = t.StartsAt.Add(time.Second) }),
	} {
		if code(err) != levee.CodeConflict {
			t.Errorf("%s could be changed after the start: %v", name, err)
		}
	}
	if err := try(race, func(t *Terms) {
		t.Admission.PerSecond, t.Admission.Multiple, t.Admission.Brake, t.Admission.PerAddress = 7, 5, admission.BrakePicture, 3
		t.PerBuyer, t.EndsAt = 3, t.EndsAt.Add(time.Minute)
	}); err != nil {
		t.Fatal(err)
	}
	acts, err := s.sales.actsOf(race.view.Load().ID, "limit=1")
	if err != nil || len(acts) != 1 {
		t.Fatal(acts, err)
	}
	for _, part := range []string{"per_second 100 -> 7", "multiple 3 -> 5", "brake none -> picture", "per_address 0 -> 3", "per_buyer 2 -> 3", "ends_at "} {
		if !strings.Contains(acts[0].Detail, part) {
			t.Errorf("the act %q does not tell %q", acts[0].Detail, part)
		}
	}
	if strings.Contains(acts[0].Detail, "title") || acts[0].Actor != operator.User {
		t.Errorf("the act is %+v", acts[0])
	}
	// What was written is what is read.
	read, err := s.sales.saleByID(t.Context(), race.view.Load().ID)
	if err != nil || read.Terms() != race.view.Load().Terms() || read.Terms().Admission.PerSecond != 7 {
		t.Fatalf("SQL has %+v, this node sells by %+v (%v)", read, race.view.Load(), err)
	}
	read, err = s.sales.saleByID(t.Context(), lots.view.Load().ID)
	if err != nil || read.Terms() != lots.view.Load().Terms() || read.DrawAt.IsZero() {
		t.Fatalf("SQL has %+v, this node sells by %+v (%v)", read, lots.view.Load(), err)
	}
}

// A token that was not needed may become needed while the sale is on: robots came. The other way round people would pass those who
// have waited.
func TestABrakeMayComeLater(t *testing.T) {
	s := newShop(t, Config{})
	s.run(t)
	l := s.open(t, 10, 1)
	v := l.view.Load()
	if _, err := s.buy(l, 1, 1, "k"); err != nil {
		t.Fatal(err)
	}
	terms := v.Terms()
	terms.Admission.Brake = admission.BrakeWork
	v, err := s.sales.Change(t.Context(), v.ID, v.Version, terms, operator)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.buy(l, 2, 1, "k")
	wantCode(t, err, levee.CodeAdmissionMissing)
	terms = v.Terms()
	terms.Admission.Brake, terms.TokenNeeded = admission.BrakeNone, false
	_, err = s.sales.Change(t.Context(), v.ID, v.Version, terms, operator)
	wantCode(t, err, levee.CodeConflict)
}

// A sale that an older version of the program wrote is a race with the gentlest policy.
func TestSalesFromBefore(t *testing.T) {
	s := newShop(t, Config{})
	s.stock(t, 10)
	at := s.clock.Now()
	err := s.DB.Tx(t.Context(), "test.old", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO sale_head (id, title, product_id, sku_id, price_minor, currency, planned_units, per_buyer, starts_at, ends_at, "+
			"pay_within_us, state, forced_sold_out, admission, rehearsal, version, created_by, created_at, updated_at) VALUES "+
			"(7,'Old',1,?,100,'CNY',5,1,?,?,60000000,'scheduled',0,1,0,1,1,?,?)", s.sku, at.UnixMicro(), at.Add(time.Hour).UnixMicro(), at.UnixMicro(), at.UnixMicro())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.sales.saleByID(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	gentlest := admission.Policy{}
	_ = gentlest.Check()
	if v.Mode != ModeRace || !v.DrawAt.IsZero() || !v.WaitingList || !v.TokenNeeded || v.Admission != gentlest {
		t.Fatalf("an old sale is read as %+v", v)
	}
	terms := v.Terms()
	if problems := terms.Problems(at); len(problems) > 0 {
		t.Fatalf("an old sale could not be changed: %v", problems)
	}
}

// TestListsUseIndexes: no page of a list that grows makes the engine sort what it chooses from.
func TestListsUseIndexes(t *testing.T) {
	s := newShop(t, Config{})
	read, sorting := platformtest.Explaining(t, s.sales.DB)
	q, err := s.sales.lists.sales.Ask("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readSales(t.Context(), read, q, true); err != nil {
		t.Fatal(err)
	}
	if q, err = s.sales.lists.acts.Ask("act=pause"); err != nil {
		t.Fatal(err)
	}
	if _, err := readActs(t.Context(), read, 1, q); err != nil {
		t.Fatal(err)
	}
	if q, err = s.sales.lists.ledger.Ask("kind=sold"); err != nil {
		t.Fatal(err)
	}
	if _, err := readLedger(t.Context(), read, 1, q); err != nil {
		t.Fatal(err)
	}
	if plans := sorting(); plans != "" {
		t.Error(plans)
	}
}
