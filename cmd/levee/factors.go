package main

import (
	"context"
	"errors"
	"fmt"

	"levee"
	"levee/internal/app"
)

type factorsCmd struct {
	Reset factorsResetCmd `cmd:"" help:"Take all second factors of an account away and end its sessions."`
}

type factorsResetCmd struct {
	Name string `arg:"" help:"The account's name."`
}

func (c *factorsResetCmd) Help() string {
	return "For an administrator who is alone and has lost telephone, passkeys and recovery codes; others ask another administrator. It works on the database itself,\n" +
		"so it needs the configuration of a node; on the embedded tier stop the server first. The audit trail tells of it."
}

func (c *factorsResetCmd) Run(env *common) (err error) {
	cfg, err := env.config()
	if err != nil {
		return err
	}
	cfg.HTTP.Addr = "127.0.0.1:0" // nothing is served
	a, err := app.New(env.ctx, cfg, env.stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close(context.WithoutCancel(env.ctx))) }()
	ended, err := a.Rooms.Factor.ResetNamed(levee.WithActor(env.ctx, levee.System), c.Name)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.stdout, "%s has no second factor now; %d sessions ended\n", c.Name, ended)
	return err
}
