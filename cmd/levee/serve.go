package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"levee/internal/app"
)

type serveCmd struct {
	Addr string `placeholder:"HOST:PORT" help:"Listen here. Default 127.0.0.1:8080."`
	Data string `placeholder:"DIR" help:"Folder that holds everything. Default data."`
	Role string `placeholder:"ROLE" help:"What this node does: web, worker or all (default). See docs/operate.md."`
}

func (c *serveCmd) Help() string {
	return "Starts the house and serves until it is told to stop (Ctrl-C or SIGTERM), then drains and closes in order.\n\n" +
		"At the first start it makes its database and its secret in the data folder and prints a one-time code with which you\n" +
		"become the first administrator: POST /v1/setup."
}

func (c *serveCmd) Run(env *common) error {
	cfg, err := env.config(placed(c.Data, c.Addr)...)
	if err != nil {
		return err
	}
	if c.Role != "" {
		cfg.Role = c.Role
	}
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

// placed puts a house's folder and address, where the command line gives them, into the words of the environment: everything that is
// derived from them follows.
func placed(data, addr string) (environ []string) {
	if data != "" {
		environ = append(environ, "LEVEE_DATA="+data)
	}
	if addr != "" {
		environ = append(environ, "LEVEE_HTTP__ADDR="+addr)
	}
	return environ
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
