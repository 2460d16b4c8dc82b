package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"levee"
	"levee/internal/app"
	"levee/internal/sale"
)

type doctorCmd struct {
	Data string `placeholder:"DIR" help:"Folder that holds everything. Default data."`
	JSON bool   `name:"json" help:"Print all findings as JSON instead."`
}

func (c *doctorCmd) Help() string {
	return "Reads the configuration and examines what the house stands on: disk, certificate, and on several nodes the database server and its\n" +
		"replicas, Redis, clocks, nodes, the common secret. Then it checks the database and proves the stock ledger of every product and every\n" +
		"sale, for which it applies pending migrations; it changes nothing else. What does not answer is a finding, and it goes on\n" +
		"with the rest. It may run beside servers; exit code 1 says that something is wrong, a warning alone does not."
}

// findings are printed as they come, or kept for JSON.
type findings struct {
	out  io.Writer
	list []app.Finding
	json bool
}

func (f *findings) add(one app.Finding) {
	f.list = append(f.list, one)
	if f.json {
		return
	}
	switch mark := map[string]string{app.FindingOK: "ok    ", app.FindingWarn: "WARN  ", app.FindingWrong: "WRONG "}[one.State]; {
	case one.State == app.FindingOK && one.Said == "":
		fmt.Fprintln(f.out, mark, one.Check)
	case one.State == app.FindingOK:
		fmt.Fprintf(f.out, "%s %s: %s\n", mark, one.Check, one.Said)
	default:
		fmt.Fprintf(f.out, "%s %s: %s\n       do: %s\n", mark, one.Check, one.Said, one.Do)
	}
}

// report adds what was found wrong about one thing, or that it is well.
func (f *findings) report(check, do string, problems ...string) {
	if len(problems) == 0 {
		f.add(app.Finding{Check: check, State: app.FindingOK})
	}
	for _, p := range problems {
		f.add(app.Finding{Check: check, State: app.FindingWrong, Said: p, Do: do})
	}
}

func (f *findings) count(state string) (n int) {
	for _, one := range f.list {
		if one.State == state {
			n++
		}
	}
	return n
}

func (c *doctorCmd) Run(env *common) error {
	cfg, err := env.config(placed(c.Data, "127.0.0.1:0")...)
	if err != nil {
		return err
	}
	cfg.Log.Level = "error"
	if file, here := strings.CutPrefix(cfg.DB, "sqlite:"); here && !exists(file) {
		return levee.E(levee.CodeNotFound, "there is no database at %s: start levee serve once, or name the folder with --data", cfg.DB)
	}
	f := &findings{out: env.stdout, json: c.JSON}
	stands, err := (&app.Doctor{Config: cfg}).Examine(env.ctx)
	if err != nil {
		return err
	}
	for _, one := range stands {
		f.add(one)
	}
	if app.Away(stands) {
		f.report("books", "first make well what is said above", "they cannot be read while that is away")
	} else if err := f.books(env, cfg); err != nil {
		f.report("books", "levee serve would not start either: first make well what it says", explain(err))
	}
	sick := f.count(app.FindingWrong)
	if c.JSON {
		out := json.NewEncoder(env.stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(map[string]any{"well": sick == 0, "findings": f.list}); err != nil {
			return err
		}
	}
	switch warned := f.count(app.FindingWarn); {
	case sick > 0:
		return fmt.Errorf("%d of the examined things are wrong", sick)
	case c.JSON:
	case warned > 0:
		fmt.Fprintf(env.stdout, "It works; %d things want to be looked at.\n", warned)
	default:
		fmt.Fprintln(env.stdout, "All is well.")
	}
	return nil
}

// books proves what is written down: it opens the house as a server does, beside those that run.
func (f *findings) books(env *common, cfg app.Config) error {
	a, err := app.Beside(env.ctx, cfg, env.stderr)
	if err != nil {
		return err
	}
	defer a.Close(context.WithoutCancel(env.ctx))
	f.report("database", "restore the last backup beside it and compare", problem(a.CheckIntegrity(env.ctx))...)
	drifts, err := a.Rooms.Catalog.Drifts(env.ctx)
	if err != nil {
		return err
	}
	const compare = "compare the ledger with the orders before anything is corrected by hand"
	var drifted []string
	for _, d := range drifts {
		drifted = append(drifted, fmt.Sprintf("%d on hand, but the ledger's sum is %d", d.OnHand, d.Ledger))
	}
	f.report("stock of all products", compare, drifted...)
	return a.Rooms.Sale.ProveAll(env.ctx, func(p *sale.Account) error {
		f.report(fmt.Sprintf("sale %q: %+v", p.Sale.Title, p.Stock), compare, p.Problems...)
		return nil
	})
}

func problem(err error) []string {
	if err == nil {
		return nil
	}
	return []string{explain(err)}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
