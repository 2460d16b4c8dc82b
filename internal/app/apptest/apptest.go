// Package apptest starts the whole house for a test: on a free port, in a temporary folder, with accounts of each role.
//
// It owns no double of anything: what a test talks to over HTTP is what a customer talks to. Whatever a house answers to a client of this
// package or to http.DefaultClient is held against the OpenAPI document that it serves; an answer that is not as documented fails the test.
package apptest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/identity"
	"levee/internal/platform/contract"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// House is a running house.
type House struct {
	App  *app.App
	Base string // http://127.0.0.1:port
	// Operator and Customer are signed-in clients; Visitor is not signed in.
	Operator, Customer, Visitor *Client
}

// recorder judges what houses answer. It passes on what is for others.
var recorder = &contract.Recorder{Next: http.DefaultTransport}

func init() { http.DefaultClient.Transport = recorder }

// Password of the test accounts.
const Password = "quiet-levee-at-dusk-41"

// Start runs a house until the test ends. change may alter its configuration.
func Start(t testing.TB, change ...func(*app.Config)) *House {
	t.Helper()
	return StartIn(t, t.TempDir(), change...)
}

// StartIn is Start in a folder that may hold an earlier house's data.
func StartIn(t testing.TB, dir string, change ...func(*app.Config)) *House {
	t.Helper()
	if platformtest.Distributed() {
		return StartNode(t, dir, change...)
	}
	cfg := app.Config{Data: filepath.Join(dir, "data")}
	cfg.Database.RunTwice = platformtest.RunTwice()
	return start(t, cfg, change)
}

// StartNode starts one more node of the house that belongs to a folder, on MariaDB and Redis.
func StartNode(t testing.TB, dir string, change ...func(*app.Config)) *House {
	t.Helper()
	cfg := app.Config{Mode: "distributed", Data: filepath.Join(t.TempDir(), "data"), Secret: obs.Secret(hex.EncodeToString(platformtest.Key(7)))}
	cfg.Database = platformtest.MySQL(t, dir, app.Schemas()...)
	cfg.RedisServer = platformtest.Redis(t, dir)
	cfg.DB, cfg.Redis = cfg.Database.URL, cfg.RedisServer.URL
	return start(t, cfg, change)
}

func start(t testing.TB, cfg app.Config, change []func(*app.Config)) *House {
	t.Helper()
	cfg.Log.Level = "warn"
	cfg.HTTP.Addr = "127.0.0.1:0"
	cfg.Payment.Sandbox.Enabled = true
	// The suite hashes many passwords; what it proves does not hang on their cost.
	cfg.Identity.HashMemory, cfg.Identity.HashTime = 8192, 1
	cfg.Limits.Rates = map[string]string{"sign_in": "off", "sign_in_account": "off", "sign_up": "off", "write": "off", "purchase": "off",
		"read": "off", "admission": "off", "admission_address": "off", "poll": "off"}
	for _, c := range change {
		c(&cfg)
	}
	a, err := app.New(t.Context(), cfg, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the house did not stop well: %v", err)
		}
		if err := a.Close(context.Background()); err != nil {
			t.Errorf("the house did not close well: %v", err)
		}
	})
	h := &House{App: a, Base: "http://" + a.Addr.String()}
	h.Visitor = &Client{t: t, base: h.Base}
	h.watch(t)
	system := levee.WithActor(t.Context(), levee.System)
	for name, roles := range map[string]levee.Roles{"operator": levee.RoleCustomer | levee.RoleOperator, "customer": levee.RoleCustomer} {
		_, err := a.Rooms.Identity.Create(system, identity.NewUser{Name: name, Password: obs.Secret(Password), Roles: roles}, identity.Origin{})
		if err != nil && levee.CodeOf(err) != levee.CodeConflict {
			t.Fatal(err)
		}
	}
	h.Operator, h.Customer = h.SignIn(t, "operator"), h.SignIn(t, "customer")
	return h
}

// watch holds what the house answers against its document until the test ends.
func (h *House) watch(t testing.TB) {
	t.Helper()
	text := h.Visitor.Do("GET", "/v1/openapi.json", nil).Want(http.StatusOK).Body
	d, err := contract.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	stop := recorder.Watch(strings.TrimPrefix(h.Base, "http://"), d, func(b contract.Breach) {
		if !over.Load() {
			t.Errorf("not as documented: %s", b)
		}
	})
	t.Cleanup(func() {
		over.Store(true)
		stop()
	})
}

// SignIn returns a client of an account that exists.
func (h *House) SignIn(t testing.TB, name string) *Client {
	t.Helper()
	var grant struct {
		AccessToken string `json:"access_token"`
	}
	(&Client{t: t, base: h.Base}).Do("POST", "/v1/sessions", map[string]any{"name": name, "password": Password}).Want(http.StatusCreated).Into(&grant)
	return &Client{t: t, base: h.Base, Token: grant.AccessToken}
}

// NewCustomer signs a new customer up and in.
func (h *House) NewCustomer(t testing.TB, name string) *Client {
	t.Helper()
	h.Visitor.Do("POST", "/v1/users", map[string]any{"name": name, "password": Password}).Want(http.StatusCreated)
	return h.SignIn(t, name)
}

// Client is somebody who talks to the house.
type Client struct {
	t     testing.TB
	base  string
	Token string
}

// At is the same person at another node of the house.
func (c *Client) At(base string) *Client { return &Client{t: c.t, base: base, Token: c.Token} }

// Answer is what the house said.
type Answer struct {
	t       testing.TB
	request string
	Status  int
	Header  http.Header
	Body    []byte
}

// Do sends a request; headers are "Name: value". A string or []byte body is sent as it is, anything else as JSON. A request that
// changes something gets an idempotency key of its own unless it brings one. While a sale is being loaded it is sent again for up to ten
// seconds, as pages do: a node hears of a new sale a moment after the one that made it.
func (c *Client) Do(method, path string, body any, headers ...string) *Answer {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		a := c.once(method, path, body, headers)
		if a.Status != http.StatusServiceUnavailable || !bytes.Contains(a.Body, []byte(`"error":"`+levee.CodeNotWarmed+`"`)) || time.Now().After(end) {
			return a
		}
	}
}

func (c *Client) once(method, path string, body any, headers []string) *Answer {
	c.t.Helper()
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
		kind = ""
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			c.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.base+path, r)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if method != "GET" {
		req.Header.Set("Idempotency-Key", fmt.Sprintf("test-%d", time.Now().UnixNano()))
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Del(name)
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return &Answer{t: c.t, request: method + " " + path, Status: resp.StatusCode, Header: resp.Header, Body: text}
}

// Want fails the test unless the status is one of these.
func (a *Answer) Want(status ...int) *Answer {
	a.t.Helper()
	for _, s := range status {
		if a.Status == s {
			return a
		}
	}
	a.t.Fatalf("%s answered %d, want %v: %s", a.request, a.Status, status, a.Body)
	return a
}

// WantError fails the test unless the answer is a problem with this status and code.
func (a *Answer) WantError(status int, code levee.Code) *Answer {
	a.t.Helper()
	a.Want(status)
	var p struct {
		Error levee.Code `json:"error"`
	}
	if json.Unmarshal(a.Body, &p); p.Error != code || !strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
		a.t.Fatalf("%s answered %s with %q, want a problem with the error %q: %s", a.request, a.Header.Get("Content-Type"), p.Error, code, a.Body)
	}
	return a
}

// Contains fails the test unless every text stands in the body.
func (a *Answer) Contains(texts ...string) *Answer {
	a.t.Helper()
	for _, text := range texts {
		if !bytes.Contains(a.Body, []byte(text)) {
			a.t.Fatalf("%s: the answer does not hold %q: %s", a.request, text, a.Body)
		}
	}
	return a
}

// Into decodes the body.
func (a *Answer) Into(v any) *Answer {
	a.t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		a.t.Fatalf("%s: %v in %s", a.request, err, a.Body)
	}
	return a
}
