package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"levee"
	"levee/internal/app"
	"levee/internal/sale"
)

type serveCmd struct {
	Addr string `placeholder:"HOST:PORT" help:"Listen here. Default 127.0.0.1:8080."`
	Data string `placeholder:"DIR" help:"Folder that holds everything. Default data."`
}

func (c *serveCmd) Help() string {
	return "Starts the house and serves until it is told to stop (Ctrl-C or SIGTERM), then drains and closes in order.\n\n" +
		"At the first start it makes its database and its secret in the data folder and prints a one-time code with which you\n" +
		"become the first administrator: POST /v1/setup."
}

func (c *serveCmd) Run(env *common) error {
	cfg, err := env.config()
	if err != nil {
		return err
	}
	place(&cfg, c.Data, c.Addr)
	a, err := app.New(env.ctx, cfg, env.stderr)
	if err != nil {
		return err
	}
	code, err := a.Rooms.Identity.SetupCode(env.ctx)
	if err == nil && code != "" {
		fmt.Fprintf(env.stdout, "There is no administrator yet. This code makes you the first one (POST /v1/setup): %s\n", code.Reveal())
	}
	fmt.Fprintf(env.stdout, "Levee serves at http://%s (API: /docs)\n", a.Addr)
	return errors.Join(err, a.Run(env.ctx), a.Close(context.WithoutCancel(env.ctx)))
}

// place moves a house to another folder or address than the config says.
func place(cfg *app.Config, data, addr string) {
	if data != "" {
		if cfg.DB == "sqlite:"+filepath.Join(cfg.Data, "levee.db") {
			cfg.DB = "sqlite:" + filepath.Join(data, "levee.db")
		}
		cfg.Data = data
	}
	if addr != "" {
		if cfg.HTTP.PublicURL == "http://"+cfg.HTTP.Addr {
			cfg.HTTP.PublicURL = ""
		}
		cfg.HTTP.Addr = addr
	}
}

type migrateCmd struct {
	Check bool `help:"Change nothing; fail if something is pending."`
}

func (c *migrateCmd) Run(env *common) error {
	cfg, err := env.config()
	if err != nil {
		return err
	}
	applied, err := app.Migrate(env.ctx, cfg, c.Check, env.stderr)
	if err != nil {
		return err
	}
	for _, name := range applied {
		fmt.Fprintln(env.stdout, "applied", name)
	}
	fmt.Fprintln(env.stdout, "the schema is up to date")
	return nil
}

type configCmd struct {
	Keys bool `help:"List every key with its type instead."`
}

func (c *configCmd) Run(env *common) error {
	if c.Keys {
		fmt.Fprintln(env.stdout, strings.Join(app.Keys(), "\n"))
		return nil
	}
	cfg, err := env.config()
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(env.stdout, cfg.Show())
	return err
}

type versionCmd struct{}

func (versionCmd) Run(env *common) error {
	_, err := fmt.Fprintln(env.stdout, "levee", app.Version)
	return err
}

type doctorCmd struct {
	Data string `placeholder:"DIR" help:"Folder that holds everything. Default data."`
}

func (c *doctorCmd) Help() string {
	return "Reads the configuration, checks the database file, and proves the stock ledger of every product and every sale. It\n" +
		"changes nothing but applies pending migrations first. It may run beside a server; exit code 1 says that something is wrong."
}

func (c *doctorCmd) Run(env *common) error {
	cfg, err := env.config()
	if err != nil {
		return err
	}
	place(&cfg, c.Data, "127.0.0.1:0")
	cfg.Log.Level = "error"
	if _, err := os.Stat(strings.TrimPrefix(cfg.DB, "sqlite:")); err != nil {
		return levee.E(levee.CodeNotFound, "there is no database at %s: start levee serve once, or name the folder with --data", cfg.DB)
	}
	a, err := app.New(env.ctx, cfg, env.stderr)
	if err != nil {
		return err
	}
	defer a.Close(context.WithoutCancel(env.ctx))
	sick := 0
	report := func(what string, problems ...string) {
		if len(problems) == 0 {
			fmt.Fprintln(env.stdout, "ok    ", what)
			return
		}
		sick++
		for _, p := range problems {
			fmt.Fprintf(env.stdout, "WRONG  %s: %s\n", what, p)
		}
	}
	report("configuration")
	report("database file", problem(a.CheckIntegrity(env.ctx))...)
	report("free disk space", lowSpace(cfg.Data)...)
	drifts, err := a.Rooms.Catalog.Drifts(env.ctx)
	if err != nil {
		return err
	}
	var drifted []string
	for _, d := range drifts {
		drifted = append(drifted, fmt.Sprintf("%d on hand, but the ledger's sum is %d", d.OnHand, d.Ledger))
	}
	report("stock of all products", drifted...)
	err = a.Rooms.Sale.ProveAll(env.ctx, func(p *sale.Account) error {
		report(fmt.Sprintf("sale %q: %+v", p.Sale.Title, p.Stock), p.Problems...)
		return nil
	})
	if err != nil {
		return err
	}
	if sick > 0 {
		return fmt.Errorf("%d of the examined things are wrong", sick)
	}
	fmt.Fprintln(env.stdout, "All is well.")
	return nil
}

func problem(err error) []string {
	if err == nil {
		return nil
	}
	return []string{explain(err)}
}

// lowSpaceBelow is when the doctor warns: a sale of a million orders writes about half of it.
const lowSpaceBelow = 1 << 30

func lowSpace(dir string) []string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return problem(err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < lowSpaceBelow {
		return []string{fmt.Sprintf("only %d MiB are free", free>>20)}
	}
	return nil
}
