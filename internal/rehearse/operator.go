package rehearse

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/wire"
)

// operator speaks to the server as the person who rehearses: few calls, so net/http does.
type operator struct {
	cfg    *Config
	client *http.Client
	token  string
	user   string // his public id, "" where the server does not tell
}

const (
	callTries   = 5 // while the server is busy
	bodyRead    = 1 << 20
	headerWait  = 60 * time.Second
	callWaitMax = 10 * time.Second
)

func newOperator(cfg *Config) *operator {
	t := &http.Transport{ResponseHeaderTimeout: headerWait, MaxIdleConnsPerHost: payWorkers + 1, IdleConnTimeout: wire.IdleMost,
		DialContext: (&net.Dialer{Timeout: wire.DialTimeout}).DialContext}
	if cfg.dial != nil {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return cfg.dial(ctx) }
	}
	return &operator{cfg: cfg, token: cfg.Token, client: &http.Client{Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (o *operator) close() { o.client.CloseIdleConnections() }

// refused is the server's no to the operator.
type refused struct {
	status  int
	problem problem
	wait    time.Duration
}

func (r *refused) err(what string) error {
	return levee.E(cmp.Or(levee.Code(r.problem.Error), levee.CodeInternal), "%s: the server answered %d: %s", what, r.status,
		levee.Shorten(cmp.Or(r.problem.Detail, http.StatusText(r.status)), 300))
}

// do makes one call. The answer's body is open and to be closed when no refusal and no error is returned.
func (o *operator) do(ctx context.Context, method, path, token, key string, in any) (*http.Response, *refused, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, nil, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, o.cfg.Server+path, body)
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("User-Agent", "levee-rehearse")
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	resp, err := o.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil, nil
	}
	defer resp.Body.Close()
	no := &refused{status: resp.StatusCode, wait: time.Second}
	if text, err := io.ReadAll(io.LimitReader(resp.Body, bodyRead)); err == nil && json.Unmarshal(text, &no.problem) != nil {
		no.problem = problem{}
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		no.wait = min(time.Duration(n)*time.Second, callWaitMax)
	}
	return nil, no, nil
}

// call makes a call as the operator until it is answered: it waits while the server is busy, signs in again when the access
// token has run out, and repeats a call whose answer was lost, with the same key.
func (o *operator) call(ctx context.Context, what, method, path string, in any) (*http.Response, error) {
	key := ""
	if method == http.MethodPost {
		key = "rehearse-" + rand.Text()
	}
	signedIn := false
	for try := 1; ; try++ {
		resp, no, err := o.do(ctx, method, path, o.token, key, in)
		wait := time.Second
		switch {
		case err == nil && no == nil:
			return resp, nil
		case err != nil && (try == callTries || ctx.Err() != nil):
			return nil, unreachable(what, err)
		case err != nil:
		case no.status == http.StatusUnauthorized && !signedIn && o.cfg.Password != "" && o.cfg.User != "":
			if err := o.signIn(ctx); err != nil {
				return nil, err
			}
			signedIn = true
			continue
		case (no.status == http.StatusServiceUnavailable || no.status == http.StatusTooManyRequests) && try < callTries:
			wait = no.wait
		default:
			return nil, no.err(what)
		}
		if err := pause(ctx, wait, nil); err != nil {
			return nil, err
		}
	}
}

func unreachable(what string, err error) error {
	return levee.E(levee.CodeUnavailable, "%s: the server cannot be reached", what).Because(err)
}

// read makes a call and reads its JSON answer into out.
func (o *operator) read(ctx context.Context, what, method, path string, in, out any) error {
	resp, err := o.call(ctx, what, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, bodyRead)).Decode(out); err != nil {
		return levee.E(levee.CodeMalformed, "%s: the server's answer cannot be read", what).Because(err)
	}
	return nil
}

func (o *operator) signIn(ctx context.Context) error {
	what := "signing in as " + o.cfg.User
	resp, no, err := o.do(ctx, http.MethodPost, "/v1/sessions", "", "", map[string]string{"name": o.cfg.User, "password": o.cfg.Password})
	if err != nil {
		return unreachable(what, err)
	}
	if no != nil {
		return no.err(what)
	}
	defer resp.Body.Close()
	var grant struct {
		AccessToken string `json:"access_token"`
		User        struct {
			ID string `json:"id"`
		} `json:"user"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, bodyRead)).Decode(&grant); err != nil || !visible(grant.AccessToken) || grant.AccessToken == "" {
		return levee.E(levee.CodeMalformed, "%s: the server gave no access token", what).Because(err)
	}
	o.token, o.user = grant.AccessToken, grant.User.ID
	return nil
}

// learnSelf asks who the operator is, where his token was given and he did not sign in.
func (o *operator) learnSelf(ctx context.Context) {
	resp, no, err := o.do(ctx, http.MethodGet, "/v1/me", o.token, "", nil)
	if err != nil || no != nil {
		return
	}
	defer resp.Body.Close()
	var me struct {
		ID string `json:"id"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, bodyRead)).Decode(&me) == nil {
		o.user = me.ID
	}
}

// signOut ends the session that signIn began. That it fails is of no consequence: the session ends by itself.
func (o *operator) signOut(ctx context.Context) {
	if o.cfg.Token != "" || o.token == "" {
		return
	}
	if resp, _, err := o.do(ctx, http.MethodDelete, "/v1/sessions/current", o.token, "", nil); err == nil && resp != nil {
		resp.Body.Close()
	}
}

// saleView is a sale as far as a rehearsal looks at it.
type saleView struct {
	ID         string    `json:"id"`
	Title      string    `json:"title"`
	PerBuyer   int64     `json:"per_buyer"`
	StartsAt   time.Time `json:"starts_at"`
	ServerTime time.Time `json:"server_time"`
	Rehearsal  bool      `json:"rehearsal"`
	Operator   *struct {
		Units int64 `json:"units"`
	} `json:"operator"`
	Mode      string     `json:"mode"`
	Admission policyView `json:"admission"`
}

func (o *operator) sale(ctx context.Context) (v saleView, err error) {
	err = o.read(ctx, "reading the sale "+o.cfg.Sale, http.MethodGet, "/v1/sales/"+o.cfg.Sale, nil, &v)
	if err == nil && v.Operator == nil {
		err = levee.E(levee.CodeForbidden, "a rehearsal needs an operator's account, which this is not")
	}
	return v, err
}

// copySale makes the rehearsal copy. It refuses to go on with anything that does not call itself a rehearsal: a crowd must never
// be sent to a real sale.
func (o *operator) copySale(ctx context.Context, of saleView) (v saleView, err error) {
	c := o.cfg
	in := map[string]int64{"starts_in_ms": 0, "lasts_seconds": int64((c.Early + c.Duration + c.Settle + rehearsalTail) / time.Second)}
	if c.Early > 0 {
		in["starts_in_ms"] = (earlyMin + c.Early + time.Duration(c.Buyers)*earlyPerBuyer).Milliseconds()
	}
	if c.Units > 0 {
		in["units"] = c.Units
	}
	if c.PerBuyer > 0 {
		in["per_buyer"] = int64(c.PerBuyer)
	}
	const what = "making a rehearsal copy of the sale"
	if err = o.read(ctx, what, http.MethodPost, "/v1/sales/"+c.Sale+"/rehearsals", in, &v); err != nil {
		return v, err
	}
	if !v.Rehearsal || v.ID == "" || v.ID == of.ID || !visible(v.ID) || v.Operator == nil {
		return v, levee.E(levee.CodeConflict, "%s: the server answered with %q, which is no rehearsal; nothing was sent to it", what, v.ID)
	}
	return v, nil
}

func (o *operator) end(ctx context.Context, sale string) error {
	var v saleView
	return o.read(ctx, "ending the rehearsal", http.MethodPost, "/v1/sales/"+sale+"/acts",
		map[string]string{"act": "end", "reason": "the rehearsal is over"}, &v)
}

// invent gets the buyers of a rehearsal with their tokens.
func (o *operator) invent(ctx context.Context, sale string, n int, ttl time.Duration, seen func(n int)) ([]buyer, error) {
	const what = "inventing buyers"
	resp, err := o.call(ctx, what, http.MethodPost, "/v1/sales/"+sale+"/rehearsal-buyers",
		map[string]int64{"buyers": int64(n), "ttl_seconds": int64(ttl / time.Second)})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	crowd := make([]buyer, 0, n)
	for d := json.NewDecoder(resp.Body); ; {
		var line struct{ Buyer, Token, Admission string }
		err := d.Decode(&line)
		switch {
		case err == io.EOF && len(crowd) == n:
			return crowd, nil
		case err != nil:
			return nil, levee.E(levee.CodeUnavailable, "%s: the answer ended after %d of %d", what, len(crowd), n).Because(err)
		case line.Buyer == "" || line.Token == "" || !visible(line.Token) || !visible(line.Admission):
			return nil, levee.E(levee.CodeMalformed, "%s: line %d has no buyer or no token that can be sent", what, len(crowd)+1)
		case len(crowd) == n:
			return nil, levee.E(levee.CodeMalformed, "%s: the server sent more than the %d that were asked for", what, n)
		}
		crowd = append(crowd, newBuyer(line.Buyer, line.Token, line.Admission))
		seen(len(crowd))
	}
}

// row is a reservation as SQL holds it.
type row struct {
	Reservation string `json:"reservation"`
	Order       string `json:"order"`
	Buyer       string `json:"buyer"`
	Quantity    int64  `json:"quantity"`
	State       string `json:"state"`
}

// rows reads every reservation of a sale. An answer that was cut is an error, never a short list.
func (o *operator) rows(ctx context.Context, sale string, yield func(row)) error {
	const what = "reading the reservations for the audit"
	resp, err := o.call(ctx, what, http.MethodGet, "/v1/sales/"+sale+"/reservations", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var line row
		err := d.Decode(&line)
		if err == io.EOF { // and not ErrUnexpectedEOF, which a cut line or a missing last chunk gives
			return nil
		}
		if err != nil {
			return levee.E(levee.CodeUnavailable, "%s: the answer was cut or cannot be read", what).Because(err)
		}
		yield(line)
	}
}

func (o *operator) account(ctx context.Context, sale string) (a Account, err error) {
	err = o.read(ctx, "reading the account for the audit", http.MethodGet, "/v1/sales/"+sale+"/account", nil, &a)
	return a, err
}

// pay presses "pay" at the test provider for a buyer's order. no is the server's refusal, if it was one.
func (o *operator) pay(ctx context.Context, token, order string) (no *refused, err error) {
	resp, no, err := o.do(ctx, http.MethodPost, "/v1/orders/"+order+"/payments", token, "pay-"+order, map[string]string{"provider": "test"})
	if err != nil || no != nil {
		return no, err
	}
	var v struct {
		RedirectURL string `json:"redirect_url"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, bodyRead)).Decode(&v)
	resp.Body.Close()
	if err != nil || v.RedirectURL == "" {
		return nil, levee.E(levee.CodeMalformed, "a payment has no address to go to").Because(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, v.RedirectURL, strings.NewReader("action=pay"))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, err = o.client.Do(r); err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, bodyRead)); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the test provider answered %d", resp.StatusCode)
	}
	return nil, nil
}
