package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"levee"
	"levee/client"
)

// remote is a running server, for the commands that administer it: they ask it over HTTP, so that they may be anywhere and do what a
// person may, with a line in the trail.
type remote struct {
	Server       string `default:"http://127.0.0.1:8080" placeholder:"URL" help:"The running server."`
	User         string `placeholder:"NAME" help:"An administrator's name; the password comes from --password-file or LEVEE_PASSWORD."`
	PasswordFile string `placeholder:"FILE" help:"File with the administrator's password."`
	Token        string `env:"LEVEE_TOKEN" placeholder:"TOKEN" help:"An administrator's access token instead of name and password."`
	JSON         bool   `name:"json" help:"Print what the server answered, as JSON."`
}

// caller is a remote that somebody has signed in to.
type caller struct {
	remote
	env    *common
	client *client.Client
}

// with signs in, does something, and signs out again.
func (r remote) with(env *common, do func(c *caller) error) error {
	house, err := client.New(r.Server)
	if err != nil {
		return levee.Invalid("--server", "http:// or https:// and a host", levee.Shorten(r.Server, 200))
	}
	house.Tries = 1 // who types a command sees that it failed, and types it again
	c := &caller{remote: r, env: env, client: house}
	if r.Token != "" {
		house.UseToken(r.Token)
	} else {
		password, err := readPassword(r.PasswordFile)
		if err != nil {
			return err
		}
		if r.User == "" || password == "" {
			return levee.E(levee.CodeInvalid, "who asks? --user and LEVEE_PASSWORD (or --password-file), or --token")
		}
		if err := house.SignIn(env.ctx, r.User, password); err != nil {
			return inWords(err)
		}
		defer func() { _ = house.SignOut(context.WithoutCancel(env.ctx)) }() // that it fails is of no consequence: the session ends by itself
	}
	return do(c)
}

// readPassword returns the password in a file, or without one that of LEVEE_PASSWORD.
func readPassword(file string) (string, error) {
	if file == "" {
		return os.Getenv("LEVEE_PASSWORD"), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", levee.E(levee.CodeInvalid, "--password-file cannot be read").Because(err)
	}
	return strings.TrimSpace(string(text)), nil
}

// call asks the server and decodes its answer into out. What it refuses is an error with its own words.
func (c *caller) call(ctx context.Context, method, path string, in, out any) error {
	var options []client.Option
	if method == http.MethodPatch || method == http.MethodPut {
		options = append(options, client.IfMatch("*")) // who types a change means whatever stands there
	}
	return inWords(c.client.Do(ctx, method, path, in, out, options...))
}

// inWords adds to an error what is allowed in the fields that it is about.
func inWords(err error) error {
	var e *levee.Error
	if !errors.As(err, &e) || len(e.Fields) == 0 {
		return err
	}
	said := *e
	for _, f := range e.Fields {
		if !strings.Contains(said.Message, f.Allowed) {
			said.Message += fmt.Sprintf("; %s: allowed is %s", strings.TrimPrefix(f.Field, "body."), f.Allowed)
		}
	}
	return &said
}

// pages asks for page after page of a list until most items came, and gives each to see.
func pages[T any](c *caller, path string, query url.Values, most int, see func(T) error) error {
	if most < 1 || most > 100_000 {
		return levee.Invalid("--limit", "1 to 100000", most)
	}
	query.Set("limit", fmt.Sprint(min(most, 100)))
	for raw, err := range client.List[json.RawMessage](c.env.ctx, c.client, path, query) {
		if err != nil {
			return inWords(err)
		}
		if c.JSON {
			_, err = fmt.Fprintln(c.env.stdout, string(raw))
		} else {
			var item T
			if err = json.Unmarshal(raw, &item); err == nil {
				err = see(item)
			}
		}
		if most--; err != nil || most == 0 {
			return err
		}
	}
	return nil
}

// show prints one thing as JSON that people can read.
func (c *caller) show(path string) error {
	var raw json.RawMessage
	if err := c.call(c.env.ctx, http.MethodGet, path, nil, &raw); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.env.stdout, out.String())
	return err
}

// columns prints a table whose columns stand under each other.
type columns struct{ w *tabwriter.Writer }

func newColumns(env *common, heads ...string) columns {
	c := columns{tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)}
	c.row(heads...)
	return c
}

func (c columns) row(cells ...string) { fmt.Fprintln(c.w, strings.Join(cells, "\t")) }

func (c columns) end() error { return c.w.Flush() }

// at writes a time for a table; none is a dash.
func at(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}
