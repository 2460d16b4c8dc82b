package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"levee"
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

const (
	remoteTimeout = 30 * time.Second
	remoteMost    = 16 << 20 // bytes of an answer
)

// caller is a remote that somebody has signed in to.
type caller struct {
	remote
	env    *common
	client http.Client
	token  string
}

// with signs in, does something, and signs out again.
func (r remote) with(env *common, do func(c *caller) error) error {
	base, err := url.Parse(r.Server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return levee.Invalid("--server", "http:// or https:// and a host", levee.Shorten(r.Server, 200))
	}
	r.Server = strings.TrimRight(r.Server, "/")
	c := &caller{remote: r, env: env, client: http.Client{Timeout: remoteTimeout}, token: r.Token}
	if c.token == "" {
		password, err := readPassword(r.PasswordFile)
		if err != nil {
			return err
		}
		if r.User == "" || password == "" {
			return levee.E(levee.CodeInvalid, "who asks? --user and LEVEE_PASSWORD (or --password-file), or --token")
		}
		var grant struct {
			AccessToken string `json:"access_token"`
		}
		if err := c.call(env.ctx, http.MethodPost, "/v1/sessions", map[string]string{"name": r.User, "password": password}, &grant); err != nil {
			return err
		}
		c.token = grant.AccessToken
		// That it fails is of no consequence: the session ends by itself.
		defer func() {
			_ = c.call(context.WithoutCancel(env.ctx), http.MethodDelete, "/v1/sessions/current", nil, nil)
		}()
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
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Server+path, body)
	if err != nil {
		return levee.Invalid("--server", "an address", levee.Shorten(c.Server, 200))
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPatch || method == http.MethodPut {
		req.Header.Set("If-Match", "*") // who types a change means whatever stands there
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return levee.E(levee.CodeUnavailable, "the server at %s cannot be reached", c.Server).Because(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, remoteMost))
	if err != nil {
		return levee.E(levee.CodeUnavailable, "the server's answer broke off").Because(err)
	}
	if resp.StatusCode >= 300 {
		return refusal(resp.StatusCode, text)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return levee.E(levee.CodeMalformed, "the server's answer cannot be read: is this Levee?").Because(err)
	}
	return nil
}

// refusal is a problem document as an error.
func refusal(status int, text []byte) error {
	var p struct {
		Detail string `json:"detail"`
		Errors []struct {
			Field   string `json:"field"`
			Allowed string `json:"allowed"`
		} `json:"errors"`
	}
	if json.Unmarshal(text, &p) != nil || p.Detail == "" {
		return fmt.Errorf("the server answered %d %s", status, http.StatusText(status))
	}
	code := levee.CodeConflict
	switch {
	case status == http.StatusNotFound:
		code = levee.CodeNotFound
	case status == http.StatusUnprocessableEntity || status == http.StatusBadRequest:
		code = levee.CodeInvalid
	case status >= 500:
		code = levee.CodeUnavailable
	}
	for _, f := range p.Errors {
		if !strings.Contains(p.Detail, f.Allowed) {
			p.Detail += fmt.Sprintf("; %s: allowed is %s", strings.TrimPrefix(f.Field, "body."), f.Allowed)
		}
	}
	return levee.E(code, "%s", p.Detail)
}

// pages asks for page after page of a list until most items came, and gives each to see.
func pages[T any](c *caller, path string, query url.Values, most int, see func(T) error) error {
	if most < 1 || most > 100_000 {
		return levee.Invalid("--limit", "1 to 100000", most)
	}
	for left := most; left > 0; {
		query.Set("limit", fmt.Sprint(min(left, 100)))
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next"`
		}
		if err := c.call(c.env.ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, raw := range page.Items {
			left--
			if c.JSON {
				if _, err := fmt.Fprintln(c.env.stdout, string(raw)); err != nil {
					return err
				}
				continue
			}
			var item T
			if err := json.Unmarshal(raw, &item); err != nil {
				return levee.E(levee.CodeMalformed, "the server's answer cannot be read").Because(err)
			}
			if err := see(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("after", page.Next)
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
