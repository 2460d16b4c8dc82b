package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"levee"
	"levee/internal/admission"
	"levee/internal/app"
	"levee/internal/catalog"
	"levee/internal/identity"
	"levee/internal/platform/obs"
	"levee/internal/sale"
	"levee/ui"
)

type demoCmd struct {
	Addr string `placeholder:"HOST:PORT" default:"127.0.0.1:8080" help:"Listen here."`
	Data string `placeholder:"DIR" default:"data/demo" help:"Folder of the demonstration; delete it to begin anew."`
}

func (c *demoCmd) Help() string {
	return "Serves a house with accounts, products with pictures, and four sales: one open, one behind a waiting room that starts in two\n" +
		"minutes, one whose units are drawn by lot in ten, one sold out with a waiting list. Orders are paid at the test provider,\n" +
		"which moves no money. Accounts and data are kept in the folder and used again."
}

func (c *demoCmd) Run(env *common) error {
	cfg, err := env.config(placed(c.Data, c.Addr)...)
	if err != nil {
		return err
	}
	cfg.Payment.Sandbox.Enabled = true
	a, err := app.New(env.ctx, cfg, env.stderr)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(env.ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	d := demo{a: a, path: filepath.Join(c.Data, "accounts.json")}
	err = d.seed(env.ctx)
	if err == nil {
		err = d.tell(env)
	}
	if err != nil {
		stop()
	}
	return errors.Join(err, <-ran, a.Close(context.WithoutCancel(env.ctx)))
}

type demo struct {
	a        *app.App
	path     string
	accounts map[string]string // name to password
	open     string            // the open sale's public id
}

var demoAccounts = []struct {
	name  string
	roles levee.Roles
}{
	{"administrator", levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator},
	{"operator", levee.RoleCustomer | levee.RoleOperator},
	{"customer", levee.RoleCustomer},
}

// seed fills what is missing, so that a second start finds a house as lively as the first.
func (d *demo) seed(ctx context.Context) error {
	ctx = levee.WithActor(ctx, levee.System)
	if err := d.seedAccounts(ctx); err != nil {
		return fmt.Errorf("demonstration accounts: %w", err)
	}
	products, err := d.seedProducts(ctx)
	if err != nil {
		return fmt.Errorf("demonstration products: %w", err)
	}
	if err := d.seedSales(ctx, products); err != nil {
		return fmt.Errorf("demonstration sales: %w", err)
	}
	return nil
}

func (d *demo) seedAccounts(ctx context.Context) error {
	text, err := os.ReadFile(d.path)
	switch {
	case err == nil:
		err = json.Unmarshal(text, &d.accounts)
	case errors.Is(err, fs.ErrNotExist):
		err = d.writeAccounts()
	}
	if err != nil {
		return err
	}
	// A start that was killed between the file and the accounts is made good here.
	for _, a := range demoAccounts {
		password := obs.Secret(d.accounts[a.name])
		if a.roles.Has(levee.RoleAdministrator) {
			err = d.a.Rooms.Identity.EnsureAdministrator(ctx, a.name, password)
		} else {
			_, err = d.a.Rooms.Identity.Create(ctx, identity.NewUser{Name: a.name, Password: password, Roles: a.roles}, identity.Origin{})
		}
		if err != nil && levee.CodeOf(err) != levee.CodeConflict {
			return err
		}
	}
	return nil
}

// writeAccounts draws the passwords. The file comes before the accounts: an account whose password nobody knows is of no use.
func (d *demo) writeAccounts() error {
	d.accounts = map[string]string{}
	for _, a := range demoAccounts {
		d.accounts[a.name] = rand.Text()[:12]
	}
	text, err := json.MarshalIndent(d.accounts, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(d.path+".new", d.path)
}

var demoProducts = []struct {
	code, title, text string
	minor             int64
	ground            uint32 // of the picture, as 0xRRGGBB
	draw              func(*canvas)
}{
	{"LANTERN", "River lantern", "A folding lantern for the evening on the levee. Red paper on a bamboo frame; burns eight hours on one candle.", 12900, 0xf6d9b8, drawLantern},
	{"KETTLE", "Enamel kettle", "One and a half litres in blue enamel, with a brass knob. Whistles in F sharp.", 25900, 0xcfe0e8, drawKettle},
	{"BLANKET", "Wool blanket", "Heavy, warm, woven in four colours. Made to be lent and never given back.", 39900, 0xefe0dc, drawBlanket},
	{"PARASOL", "Paper parasol", "Bamboo and oiled paper, painted by hand. For sun and for light rain.", 6900, 0xdfe8d6, drawParasol},
	{"COMPASS", "Pocket compass", "Brass case, floating needle. Points north also when everybody arrives at once.", 8900, 0xd9e3ea, drawCompass},
	{"THERMOS", "Steel flask", "Half a litre, double wall. Keeps tea hot for the length of any queue.", 15900, 0xe6e9d8, drawFlask},
	{"RADIO", "Weather radio", "Runs on two cells or its crank. Knows the river before the river comes.", 32900, 0xf1ddcf, drawRadio},
	{"BOAT", "Toy sloop", "Beech and linen, thirty centimetres from bow to stern. Sails in any bath.", 18900, 0xd3e6ef, drawBoat},
}

func (d *demo) seedProducts(ctx context.Context) ([]catalog.Product, error) {
	first, err := d.a.Rooms.Catalog.Ask("")
	if err != nil {
		return nil, err
	}
	found, err := d.a.Rooms.Catalog.List(ctx, first)
	if err != nil || len(found.Rows) > 0 {
		return found.Rows, err
	}
	var list []catalog.Product
	for i, p := range demoProducts {
		made, err := d.a.Rooms.Catalog.Create(ctx, catalog.NewProduct{Code: p.code, Title: p.title, Description: p.text, State: catalog.OnSale,
			SKUs: []catalog.NewSKU{{Code: p.code + "-1", Name: p.title, Price: levee.Money{Minor: p.minor, Currency: "CNY"}, OnHand: 100_000}}})
		if err != nil {
			return nil, err
		}
		picture, err := drawPicture(i)
		if err != nil {
			return nil, err
		}
		if _, err := d.a.Rooms.Catalog.AddPicture(ctx, made.ID, p.title, picture); err != nil {
			return nil, err
		}
		list = append(list, made)
	}
	return list, nil
}

// seedSales makes the sales of the demonstration, unless an earlier start's are still as they should be.
func (d *demo) seedSales(ctx context.Context, products []catalog.Product) error {
	now := d.a.Obs.Clock()
	phases, err := d.a.Rooms.Sale.Phases(ctx)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		phase, product  string
		title           string
		units           int64
		perBuyer        int32
		starts, lasts   time.Duration
		discountPercent int64
		terms           sale.Terms // what is particular about it
		draws           time.Duration
	}{
		{phase: "open", product: "LANTERN", title: "Lanterns at half price", units: 1000, perBuyer: 2, starts: -time.Minute, lasts: 24 * time.Hour, discountPercent: 50,
			terms: sale.Terms{TokenNeeded: true}},
		// A pace that lets a visitor see his position move, and a brake that a phone does not notice.
		{phase: "upcoming", product: "KETTLE", title: "Kettles, in two minutes", units: 100, perBuyer: 1, starts: 2 * time.Minute, lasts: 24 * time.Hour, discountPercent: 60,
			terms: sale.Terms{WaitingList: true, Admission: admission.Policy{Room: true, Order: admission.OrderRandom, PerSecond: 20,
				Brake: admission.BrakeWork, WorkBits: 14}}},
		{phase: "sold_out", product: "BLANKET", title: "Blankets, the last five", units: 5, perBuyer: 1, starts: -time.Hour, lasts: 24 * time.Hour, discountPercent: 70,
			terms: sale.Terms{TokenNeeded: true, WaitingList: true}},
		{phase: "entry", product: "PARASOL", title: "Parasols, by lot", units: 20, perBuyer: 1, starts: -time.Minute, lasts: 24 * time.Hour, discountPercent: 90,
			terms: sale.Terms{Mode: sale.ModeDraw}, draws: 10 * time.Minute},
	} {
		if id := phases[s.phase]; id != "" {
			if s.phase == "open" {
				d.open = id
			}
			continue
		}
		at := slices.IndexFunc(products, func(p catalog.Product) bool { return p.Code == s.product && len(p.SKUs) > 0 })
		if at < 0 {
			continue // it was taken out by hand
		}
		sku := products[at].SKUs[0]
		t := s.terms
		t.Title, t.SKU, t.Units, t.PerBuyer, t.StartsAt, t.EndsAt = s.title, sku.ID, s.units, s.perBuyer, now.Add(s.starts), now.Add(s.starts+s.lasts)
		t.Price = levee.Money{Minor: sku.Price.Minor * (100 - s.discountPercent) / 100, Currency: sku.Price.Currency}
		if s.draws > 0 {
			t.DrawAt = now.Add(s.draws)
		}
		v, err := d.a.Rooms.Sale.Open(ctx, t, levee.System)
		if err != nil {
			return err
		}
		public := d.a.Rooms.Sale.PublicID(v.ID)
		switch s.phase {
		case "open":
			d.open = public
		case "sold_out":
			if err := d.sellOut(ctx, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// sellOut lets invented customers buy the whole sale through the engine.
func (d *demo) sellOut(ctx context.Context, v *sale.Sale) error {
	for i := range v.Units {
		user, err := d.a.Rooms.Identity.Create(ctx, identity.NewUser{Name: fmt.Sprintf("early-bird-%d-%d", v.ID%100_000, i+1),
			Password: obs.Secret(rand.Text())}, identity.Origin{})
		if err != nil {
			return err
		}
		// A gate in Redis may not be loaded yet, and a busy machine's Redis may not answer in time: as any buyer, ask again with the same key.
		buyer := levee.Actor{User: user.ID, Roles: levee.RoleCustomer}
		for until := time.Now().Add(20 * time.Second); ; {
			err := d.a.Rooms.Sale.BuyFor(ctx, v.ID, buyer, 1, "demo")
			if err == nil {
				break
			}
			if code := levee.CodeOf(err); code != levee.CodeNotWarmed && code != levee.CodeUnavailable || time.Now().After(until) {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// tell prints where the house is and how to enter it.
func (d *demo) tell(env *common) error {
	base := "http://" + d.a.Addr.String()
	fmt.Fprintf(env.stdout, "\nLevee is ready.\n\n  storefront %s/\n  console    %s/console/\n  API        %s/docs\n\n", base, base, base)
	if !ui.Built() {
		fmt.Fprint(env.stdout, "  The pages are not built into this program, only the API is there: make ui build\n\n")
	}
	for _, a := range demoAccounts {
		fmt.Fprintf(env.stdout, "  sign in    %-14s password %s\n", a.name, d.accounts[a.name])
	}
	_, err := fmt.Fprintf(env.stdout, "\n  rehearse   LEVEE_PASSWORD=%s %s rehearse --server %s --user operator --sale %s --rate 10000 --buyers 100000 --duration 10s\n\nStop with Ctrl-C.\n",
		d.accounts["operator"], os.Args[0], base, d.open)
	return err
}
