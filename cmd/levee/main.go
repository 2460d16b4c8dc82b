// Command levee runs the house: the server, its migrations, a demonstration, a rehearsal against a running server, and a doctor.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"levee"
	"levee/internal/app"
)

// common is what every command gets.
type common struct {
	ctx    context.Context
	stdout io.Writer
	stderr io.Writer
	config func(last ...string) (app.Config, error) // last: what wins over the file and the environment, in the environment's words
}

type cli struct {
	Config string `short:"c" placeholder:"FILE" help:"Config file (TOML). Default: levee.toml, if it is there."`

	Serve     serveCmd     `cmd:"" help:"Serve the house."`
	Migrate   migrateCmd   `cmd:"" help:"Bring the database's schema up to date."`
	Demo      demoCmd      `cmd:"" help:"Serve a house with demonstration data."`
	Rehearse  rehearseCmd  `cmd:"" help:"Rehearse a sale against a running server, and audit the result."`
	Draw      drawCmd      `cmd:"" help:"Verify the draw of a sale from public data."`
	ID        idCmd        `cmd:"" name:"id" help:"Give ids and numbers, and explain them."`
	Jobs      jobsCmd      `cmd:"" help:"Show and manage background jobs of a running server."`
	Schedules schedulesCmd `cmd:"" help:"Show and manage its schedules."`
	Events    eventsCmd    `cmd:"" help:"Show and manage its events and their listeners."`
	Audit     auditCmd     `cmd:"" help:"Verify its audit trail."`
	Keys      keysCmd      `cmd:"" help:"Show and roll the keys that sign its access tokens."`
	Factors   factorsCmd   `cmd:"" help:"Take the second factors of an account away, for who is locked out."`
	Doctor    doctorCmd    `cmd:"" help:"Examine the configuration, the database and every sale's books."`
	Show      configCmd    `cmd:"" name:"config" help:"Show the configuration in force, secrets redacted."`
	Ready     readyCmd     `cmd:"" help:"Ask the server on this machine whether it takes requests."`
	OpenAPI   openapiCmd   `cmd:"" name:"openapi" help:"Print the OpenAPI document of this version."`
	Version   versionCmd   `cmd:"" help:"Show the version."`
}

const description = `Levee sells limited stock to a crowd: never oversold, never an order lost.

Try it:       levee demo
Run it:       levee serve
Environment:  every config key may be set as LEVEE_SECTION__KEY, for example LEVEE_HTTP__ADDR=:8080.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the program without its process: tests call it. It returns the exit code: 0 well, 1 failed, 2 used wrongly.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Name("levee"), kong.Description(description), kong.UsageOnError(), kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}), kong.Exit(func(code int) { exit = code }))
	if err != nil {
		panic(err) // the struct above is wrong: a defect
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exit >= 0 {
		return exit // help was asked for
	}
	if err != nil {
		fmt.Fprintf(stderr, "levee: %v\nSee levee --help", err)
		if parsed, ok := errors.AsType[*kong.ParseError](err); ok && parsed.Context.Command() != "" {
			fmt.Fprintf(stderr, " or levee %s --help", strings.Fields(parsed.Context.Command())[0])
		}
		fmt.Fprintln(stderr, ".")
		return 2
	}
	env := common{ctx: ctx, stdout: stdout, stderr: stderr, config: func(last ...string) (app.Config, error) {
		return readConfig(c.Config, slices.Concat(environ, last))
	}}
	if err := parsed.Run(&env); err != nil {
		fmt.Fprintln(stderr, "levee:", explain(err))
		if levee.CodeOf(err) == levee.CodeInvalid {
			return 2
		}
		return 1
	}
	return 0
}

func readConfig(path string, environ []string) (app.Config, error) {
	if path == "" {
		if _, err := os.Stat("levee.toml"); err == nil {
			path = "levee.toml"
		}
	}
	return app.ReadConfig(path, environ)
}

// explain shows an error to the person at the terminal: the message, and the cause in brackets.
func explain(err error) string {
	if e, ok := errors.AsType[*levee.Error](err); ok {
		if e.Err != nil {
			return e.Message + " (" + e.Err.Error() + ")"
		}
		return e.Message
	}
	return err.Error()
}
