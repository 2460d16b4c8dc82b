package web

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/origin"
)

// house is some nodes whose keeper the test chooses.
type house struct {
	nodes  []*Server
	urls   []string
	keeper atomic.Int32 // -1: nobody
}

type keptIn struct {
	Body struct {
		Word string `json:"word" maxLength:"1000"`
	}
}

type keptOut struct {
	Body struct {
		Node   int    `json:"node"`
		Word   string `json:"word"`
		Client string `json:"client"`
		User   int64  `json:"user"`
	}
}

func newNodes(t *testing.T, n int, key func(i int) []byte) *house {
	t.Helper()
	h := &house{}
	for i := range n {
		o := obs.Test(t)
		limits, err := limit.Open(limit.Config{}, o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Addr: "127.0.0.1:0"}, Parts{Obs: o, Limits: limits, Authenticate: testAuthenticate,
			Nodes: Nodes{Key: key(i), Keeper: func(name string) (string, bool, bool) {
				k := int(h.keeper.Load())
				if k < 0 || name != "hall" {
					return "", false, false
				}
				return strings.TrimPrefix(h.urls[k], "http://"), k == i, true
			}}})
		if err != nil {
			t.Fatal(err)
		}
		Add(s, Route{Method: "POST", Path: "/v1/kept", ID: "kept", Roles: levee.RoleCustomer, Kept: "hall", BodyMax: 2000},
			func(ctx context.Context, in *keptIn) (*keptOut, error) {
				out := &keptOut{}
				out.Body.Node, out.Body.Word, out.Body.Client, out.Body.User = i, in.Body.Word, ClientIP(ctx).String(), int64(levee.ActorFrom(ctx).User)
				if in.Body.Word == "no" {
					return nil, levee.E(levee.CodeConflict, "not so").With("node", i)
				}
				return out, nil
			})
		front := httptest.NewServer(s.Handler())
		t.Cleanup(front.Close)
		h.nodes, h.urls = append(h.nodes, s), append(h.urls, front.URL)
	}
	return h
}

func ask(t *testing.T, url, body string, header ...string) (status int, text string, head http.Header) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url+"/v1/kept", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer buyer")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func sameKey(int) []byte { return bytes.Repeat([]byte{7}, 32) }

// Whatever node is asked, the keeper answers, and what it answers is what a caller sees: once each header, who he is, where he is.
func TestKeptRoutesAreAnsweredByTheKeeper(t *testing.T) {
	h := newNodes(t, 3, sameKey)
	h.keeper.Store(2)
	for i, url := range h.urls {
		status, text, head := ask(t, url, `{"word":"hello"}`)
		if status != 200 || !strings.Contains(text, `"node":2`) || !strings.Contains(text, `"word":"hello"`) || !strings.Contains(text, `"user":11`) ||
			!strings.Contains(text, `"client":"127.0.0.1"`) {
			t.Errorf("node %d: %d %s", i, status, text)
		}
		for name, values := range head {
			if len(values) != 1 && name != "Vary" {
				t.Errorf("node %d: header %s comes %d times: %q", i, name, len(values), values)
			}
		}
	}
	if status, text, _ := ask(t, h.urls[0], `{"word":"no"}`); status != 409 || !strings.Contains(text, "not so") {
		t.Errorf("a refusal came as %d %s", status, text)
	}
	if status, text, _ := ask(t, h.urls[0], `{"word":5}`); status != 422 || !strings.Contains(text, "body.word") {
		t.Errorf("a bad body came as %d %s", status, text)
	}
	if status, _, _ := ask(t, h.urls[0], `{"word":"`+strings.Repeat("x", 3000)+`"}`); status != 413 {
		t.Errorf("a body that is too large came as %d", status)
	}
	if status, _, _ := ask(t, h.urls[0], `{"word":"hello"}`, "Authorization", ""); status != 401 {
		t.Errorf("a visitor got %d", status)
	}
}

// Nobody keeps it, the keeper is away, or two nodes do not agree on who it is: 503 with a time to ask again, and never a loop.
func TestKeptRoutesWithoutAKeeper(t *testing.T) {
	h := newNodes(t, 2, sameKey)
	check := func(what string) {
		t.Helper()
		status, text, head := ask(t, h.urls[0], `{"word":"hello"}`)
		if status != 503 || head.Get("Retry-After") == "" || !strings.Contains(text, "unavailable") {
			t.Errorf("%s: %d %s, Retry-After %q", what, status, text, head.Get("Retry-After"))
		}
	}
	h.keeper.Store(-1)
	check("nobody keeps it")
	h.keeper.Store(1)
	h.nodes[1].forward.Keeper = func(string) (string, bool, bool) { return strings.TrimPrefix(h.urls[0], "http://"), false, true }
	check("each says that the other does")
	h.urls[1] = "http://127.0.0.1:1"
	check("the keeper is away")
}

// Only a node of this house can say where a request came from.
func TestOnlyNodesVouch(t *testing.T) {
	h := newNodes(t, 2, sameKey)
	h.keeper.Store(0)
	f, now := h.nodes[0].forward, time.Now()
	request := httptest.NewRequest(http.MethodPost, "/v1/kept", nil)
	vouch := func(key origin.Key, at time.Time, client netip.Addr, r *http.Request) string {
		return key.Vouch(at, client, true, r)
	}
	key, client := f.Key, netip.MustParseAddr("203.0.113.9")
	other := httptest.NewRequest(http.MethodPost, "/v1/other", nil)
	for name, c := range map[string]struct{ header, client string }{
		"a node":          {vouch(key, now, client, request), "203.0.113.9"},
		"another key":     {vouch(bytes.Repeat([]byte{8}, 32), now, client, request), "127.0.0.1"},
		"long ago":        {vouch(key, now.Add(-2*time.Minute), client, request), "127.0.0.1"},
		"another path":    {vouch(key, now, client, other), "127.0.0.1"},
		"changed":         {strings.Replace(vouch(key, now, client, request), "113.9", "113.8", 1), "127.0.0.1"},
		"no address":      {vouch(key, now, netip.Addr{}, request), "127.0.0.1"},
		"nothing to read": {"x", "127.0.0.1"},
		"very long":       {strings.Repeat("1 ", 500), "127.0.0.1"},
		"X-Forwarded-For": {"", "127.0.0.1"},
	} {
		header := []string{"X-Forwarded-For", "203.0.113.9"}
		if c.header != "" {
			header = []string{origin.Header, c.header}
		}
		if status, text, _ := ask(t, h.urls[0], `{"word":"hello"}`, header...); status != 200 || !strings.Contains(text, `"client":"`+c.client+`"`) {
			t.Errorf("%s: %d %s; want client %s", name, status, text, c.client)
		}
	}
	if _, err := New(Config{}, Parts{Obs: obs.Test(t), Nodes: Nodes{Key: []byte("short"), Keeper: f.Keeper}}); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a short key: %v", err)
	}
}
