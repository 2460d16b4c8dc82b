package main

import (
	"context"
	"errors"
	"io"
	"os"

	"levee/internal/app"
)

type openapiCmd struct{}

func (c *openapiCmd) Help() string {
	return "Prints the OpenAPI 3.1 document of this version, made from the code: for clients that are generated. It needs no server."
}

// Run builds a house in a folder that is thrown away, because the document is made from the routes that the rooms add.
func (c *openapiCmd) Run(env *common) (err error) {
	dir, err := os.MkdirTemp("", "levee-openapi-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg, err := app.ReadConfig("", placed(dir, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	cfg.Log.Level = "error"
	a, err := app.New(env.ctx, cfg, io.Discard)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close(context.WithoutCancel(env.ctx))) }()
	a.Web.Handler()
	document, err := a.Web.OpenAPI()
	if err != nil {
		return err
	}
	_, err = env.stdout.Write(append(document, '\n'))
	return err
}
