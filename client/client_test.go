package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/client"
	"levee/internal/app"
	"levee/internal/app/apptest"
)

type product struct {
	ID    string `json:"id"`
	Title string `json:"title"`
}

func dial(t *testing.T, h *apptest.House, name string) *client.Client {
	t.Helper()
	c, err := client.New(h.Base)
	if err != nil {
		t.Fatal(err)
	}
	if name != "" {
		if err := c.SignIn(t.Context(), name, apptest.Password); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestNewRefuses(t *testing.T) {
	for _, base := range []string{"", "shop.example", "ftp://shop.example", "https://", "https://me:secret@shop.example", "https://shop.example?a=b", "http://a b"} {
		if _, err := client.New(base); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%q: %v", base, err)
		}
	}
}

// TestAgainstAHouse: what a program does with a house, and what the house refuses, by the house's own codes.
func TestAgainstAHouse(t *testing.T) {
	h := apptest.Start(t)
	ctx := t.Context()
	c := dial(t, h, "operator")
	for i := range 45 {
		if err := c.Do(ctx, "POST", "/v1/products", map[string]any{"title": fmt.Sprintf("Tea %02d", i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for p, err := range client.List[product](ctx, c, "/v1/products", url.Values{"limit": {"20"}, "state": {"draft"}}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[p.ID] {
			t.Errorf("%s comes twice", p.Title)
		}
		seen[p.ID] = true
	}
	if len(seen) != 45 {
		t.Errorf("%d of 45 products", len(seen))
	}
	n := 0
	for range client.List[product](ctx, c, "/v1/products", url.Values{"limit": {"20"}, "state": {"draft"}}) {
		if n++; n == 5 {
			break
		}
	}
	for _, err := range client.List[product](ctx, c, "/v1/products", url.Values{"colour": {"red"}}) {
		if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("an unknown filter: %v", err)
		}
	}

	var e *levee.Error
	err := c.Do(ctx, "POST", "/v1/products", map[string]any{"title": ""}, nil)
	if !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Field != "body.title" || e.Fields[0].Allowed == "" || e.Data["request_id"] == "" {
		t.Errorf("%+v", err)
	}
	c.Language = "zh"
	if err := c.Do(ctx, "GET", "/v1/orders/ord_00000000000000000000000000", nil, nil); levee.CodeOf(err) != levee.CodeNotFound || strings.Contains(err.Error(), "there is") {
		t.Errorf("in Chinese: %v", err)
	}
	c.Language = ""
	if err := c.Do(ctx, "GET", "v1/me", nil, nil); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a path without its slash: %v", err)
	}
	if err := c.SignOut(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Do(ctx, "GET", "/v1/me", nil, nil); levee.CodeOf(err) != levee.CodeUnauthenticated {
		t.Errorf("signed out: %v", err)
	}
	if err := c.SignIn(ctx, "operator", "wrong-wrong-wrong-1"); levee.CodeOf(err) != levee.CodeUnauthenticated {
		t.Errorf("a wrong password: %v", err)
	}
}

// TestStaysSignedIn: an access token lives a minute, and is replaced before it ends, once for all who ask at that moment.
func TestStaysSignedIn(t *testing.T) {
	h := apptest.Start(t, func(c *app.Config) { c.Identity.AccessTTL = time.Minute })
	c := dial(t, h, "customer")
	var refreshes atomic.Int64
	c.HTTP.Transport = sender(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/v1/tokens/refresh" {
			refreshes.Add(1)
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	client.Age(c, 45*time.Second)
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			if err := c.Do(t.Context(), "GET", "/v1/me", nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if n := refreshes.Load(); n != 1 {
		t.Errorf("%d refreshes for 20 callers", n)
	}
}

type sender func(*http.Request) (*http.Response, error)

func (s sender) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

// TestLostAnswers: what is safe to repeat is sent again and done once; what is not is sent once.
func TestLostAnswers(t *testing.T) {
	h := apptest.Start(t)
	c := dial(t, h, "operator")
	var sent, lose atomic.Int64
	c.HTTP.Transport = sender(func(r *http.Request) (*http.Response, error) {
		sent.Add(1)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err == nil && lose.Add(-1) >= 0 {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			return nil, errors.New("the answer was lost")
		}
		return resp, err
	})
	for name, one := range map[string]struct {
		method, path string
		in           any
		options      []client.Option
		lost, sent   int64
		fails        bool
	}{
		"read":                 {method: "GET", path: "/v1/products", lost: 2, sent: 3},
		"created with a key":   {method: "POST", path: "/v1/products", in: map[string]any{"title": "Keyed"}, options: []client.Option{client.IdempotencyKey("k1")}, lost: 2, sent: 3},
		"created without":      {method: "POST", path: "/v1/products", in: map[string]any{"title": "Bare"}, lost: 1, sent: 1, fails: true},
		"lost again and again": {method: "GET", path: "/v1/time", lost: 100, sent: 5, fails: true},
		"refused":              {method: "GET", path: "/v1/orders/x", sent: 1, fails: true},
	} {
		sent.Store(0)
		lose.Store(one.lost)
		err := c.Do(t.Context(), one.method, one.path, one.in, nil, one.options...)
		if sent.Load() != one.sent || (err != nil) != one.fails {
			t.Errorf("%s: sent %d times, %v", name, sent.Load(), err)
		}
	}
	lose.Store(0)
	titles := map[string]int{}
	for p, err := range client.List[product](t.Context(), c, "/v1/products", url.Values{"state": {"draft"}}) {
		if err != nil {
			t.Fatal(err)
		}
		titles[p.Title]++
	}
	if titles["Keyed"] != 1 || titles["Bare"] != 1 {
		t.Errorf("%v", titles)
	}
}

// TestPatience: a house that asks for patience is asked again; a caller who has none left is told why.
func TestPatience(t *testing.T) {
	h := apptest.Start(t)
	c := dial(t, h, "")
	busy := int64(2)
	var sent atomic.Int64
	c.HTTP.Transport = sender(func(r *http.Request) (*http.Response, error) {
		if sent.Add(1) <= busy {
			return &http.Response{StatusCode: 503, Status: "503 Service Unavailable", Header: http.Header{"Retry-After": {"1"}}, Body: io.NopCloser(strings.NewReader("busy")), Request: r}, nil
		}
		return http.DefaultTransport.RoundTrip(r)
	})
	if err := c.Do(t.Context(), "GET", "/v1/time", nil, nil); err != nil || sent.Load() != 3 {
		t.Errorf("%v after %d", err, sent.Load())
	}
	busy = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "GET", "/v1/time", nil, nil); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("out of patience: %v", err)
	}
}
