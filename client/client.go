// Package client speaks to a Levee house over HTTP, from another Go program: it signs in, keeps itself signed in, sends what may be sent
// again until it has an answer, and reads lists to their end. What the house refuses is a *levee.Error with the house's own code, fields and
// words. The operations themselves stand in the house's OpenAPI document, /v1/openapi.json; docs/api.md tells what holds for all of them.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"levee"
)

const (
	// answerMost bounds the bytes of an answer.
	answerMost = 64 << 20
	// pauseMost is the longest pause between two tries.
	pauseMost = 30 * time.Second
	// early is how long before its end an access token is replaced: as long as a request may be under way.
	early = 30 * time.Second
)

// Client is one caller of a house. Its methods may be called at the same time.
type Client struct {
	// HTTP sends the requests; New sets one whose requests take at most 30 s.
	HTTP *http.Client
	// Language of the house's words, as in Accept-Language; "" leaves it to the house.
	Language string
	// Tries is how often a request that may be repeated is sent at most; New sets 5.
	Tries int

	base string

	mu      sync.Mutex // guards the rest; held while a token is being replaced, so that one caller replaces it for all
	access  string
	refresh string
	until   time.Time // of access, by this machine's clock; zero: it is not replaced
}

// New returns a client of the house at base, such as https://shop.example. CodeInvalid: base is no such address.
func New(base string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, levee.Invalid("base", "http:// or https:// and a host", base)
	}
	return &Client{HTTP: &http.Client{Timeout: 30 * time.Second}, Tries: 5, base: strings.TrimRight(base, "/")}, nil
}

// UseToken lets requests carry this token, which is not replaced: a personal access token, or an access token that somebody else looks after.
func (c *Client) UseToken(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.access, c.refresh, c.until = token, "", time.Time{}
}

type grant struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    int64  `json:"expires_in"`
}

// SignIn begins a session with a name and a password. The client keeps its tokens fresh from then on. CodeUnauthenticated: one of them is wrong.
func (c *Client) SignIn(ctx context.Context, name, password string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grantLocked(ctx, "/v1/sessions", map[string]string{"name": name, "password": password})
}

// grantLocked asks for tokens and keeps them. The caller holds mu.
func (c *Client) grantLocked(ctx context.Context, path string, in any) error {
	var g grant
	asked := time.Now()
	if _, err := c.once(ctx, http.MethodPost, path, "", in, &g); err != nil {
		return err
	}
	c.access, c.refresh, c.until = g.AccessToken, g.RefreshToken, asked.Add(time.Duration(g.ExpiresIn)*time.Second)
	return nil
}

// SignOut ends the session and forgets the tokens, whatever the house says to it.
func (c *Client) SignOut(ctx context.Context) error {
	err := c.Do(ctx, http.MethodDelete, "/v1/sessions/current", nil, nil)
	c.UseToken("")
	return err
}

// token returns the access token, a new one when the one that is there ends soon.
func (c *Client) token(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refresh == "" || time.Until(c.until) > early {
		return c.access, nil
	}
	// Asked again with the same refresh token, after an answer that was lost, the house gives the same successor.
	err := c.again(ctx, func() (time.Duration, error) {
		err := c.grantLocked(ctx, "/v1/tokens/refresh", map[string]string{"refresh_token": c.refresh})
		return pause(err), err
	})
	return c.access, err
}

// Option is something that one request says besides.
type Option func(http.Header)

// Header sets a header.
func Header(name, value string) Option { return func(h http.Header) { h.Set(name, value) } }

// IdempotencyKey makes a request that creates or changes something safe to send again: the house does it once for all requests with this key
// (1 to 128 visible ASCII characters, such as a random UUID). Only with it is a POST or PATCH sent again by the client itself.
func IdempotencyKey(key string) Option { return Header("Idempotency-Key", key) }

// IfMatch says which version of a thing the caller has seen: the ETag of the answer that he read, or * for whatever there is.
func IfMatch(tag string) Option { return Header("If-Match", tag) }

// Do asks the house: in, unless nil, is sent as JSON, and the answer is decoded into out, unless nil. path begins with / and may have a query.
//
// What is safe to repeat (GET, PUT, DELETE, and anything with an IdempotencyKey) is sent again, up to Tries times within ctx, when the answer is
// lost, when the house is away, or when it asks for patience (429, 503 with Retry-After). CodeUnavailable: it cannot be reached.
func (c *Client) Do(ctx context.Context, method, path string, in, out any, options ...Option) error {
	_, err := c.do(ctx, method, path, in, out, options)
	return err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any, options []Option) (h http.Header, err error) {
	probe := http.Header{}
	for _, o := range options {
		o(probe)
	}
	repeatable := method != http.MethodPost && method != http.MethodPatch || probe.Get("Idempotency-Key") != ""
	err = c.again(ctx, func() (time.Duration, error) {
		token, err := c.token(ctx)
		if err != nil {
			return 0, err
		}
		h, err = c.once(ctx, method, path, token, in, out, options...)
		if !repeatable {
			return 0, err
		}
		return pause(err), err
	})
	return h, err
}

// again calls try until it succeeds, says that it is of no use (a pause of 0), or was called often enough.
func (c *Client) again(ctx context.Context, try func() (time.Duration, error)) error {
	for n := 1; ; n++ {
		wait, err := try()
		if err == nil || wait == 0 || n >= c.Tries {
			return err
		}
		wait = min(max(wait, 100*time.Millisecond<<min(n, 10)), pauseMost)
		wait += rand.N(wait / 2) // many clients that were sent away together do not come back together
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// pause is how long to wait before asking again after an error; 0: that is of no use.
func pause(err error) time.Duration {
	var e *levee.Error
	if !errors.As(err, &e) || e.Code != levee.CodeUnavailable && e.Code != levee.CodeTooManyRequests && e.Code != levee.CodeTimeout {
		return 0
	}
	return max(e.RetryAfter, time.Millisecond)
}

// once sends one request and reads its answer.
func (c *Client) once(ctx context.Context, method, path, token string, in, out any, options ...Option) (http.Header, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, levee.E(levee.CodeInvalid, "what is to be sent is no JSON").Because(err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, levee.Invalid("path", "a path such as /v1/products?limit=5", path)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	if c.Language != "" {
		req.Header.Set("Accept-Language", c.Language)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, o := range options {
		o(req.Header)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, unreachable(ctx, "the server at "+c.base+" cannot be reached", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerMost+1))
	switch {
	case err != nil:
		return nil, unreachable(ctx, "the server's answer broke off", err)
	case len(text) > answerMost:
		return nil, levee.E(levee.CodeTooLarge, "the server's answer is larger than %d bytes", answerMost)
	case resp.StatusCode >= 300:
		return nil, refusal(resp, text)
	case out == nil || len(text) == 0:
		return resp.Header, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, levee.E(levee.CodeMalformed, "the server's answer cannot be read: is this Levee?").Because(err)
	}
	return resp.Header, nil
}

func unreachable(ctx context.Context, words string, err error) error {
	if ctx.Err() != nil { // it was the caller who gave up
		return ctx.Err()
	}
	return levee.E(levee.CodeUnavailable, "%s", words).Because(err)
}

// refusal turns problem details (RFC 9457) into the error that they were made from.
func refusal(resp *http.Response, text []byte) error {
	var p struct {
		Error     string         `json:"error"`
		Detail    string         `json:"detail"`
		RequestID string         `json:"request_id"`
		Data      map[string]any `json:"data"`
		Errors    []levee.Field  `json:"errors"`
	}
	if json.Unmarshal(text, &p) != nil || p.Error == "" { // of something that stands before the house
		p.Error, p.Detail = string(levee.CodeInternal), "the server answered "+resp.Status
		if resp.StatusCode >= 500 {
			p.Error = string(levee.CodeUnavailable)
		}
	}
	e := &levee.Error{Code: levee.Code(p.Error), Message: p.Detail, Fields: p.Errors, Data: p.Data}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	if p.RequestID != "" {
		_ = e.With("request_id", p.RequestID)
	}
	return e
}
