package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"levee/internal/platform/contract"
)

// The checks beyond those of one answer. Their names are schemathesis' too.
const (
	negative    = "negative_data_rejection"
	positive    = "positive_data_acceptance"
	needsHeader = "missing_required_header"
	badMethod   = "unsupported_method"
	noAuth      = "ignored_auth"
	slow        = "max_response_time"
)

// longest is how long an answer may take before it is a finding: the house gives each request 15 s.
const longest = 20 * time.Second

// trial is a request with what must become of it.
type trial struct {
	request
	check string // what is tried: positive, or what the request must be refused for
	where string // the field that is wrong, where one is
	how   string
	want  []int // the statuses that a wrong request may get; nil: any from 400 to 499
}

// finding is one breach with the request that shows it.
type finding struct {
	contract.Breach
	curl string
	seed string
}

func (f finding) String() string {
	return f.Breach.String() + "\n      " + f.curl + "\n      again: " + f.seed
}

// campaign sends trials to a scene and collects what is wrong.
type campaign struct {
	*scene
	base string // where requests go: the house, or what stands before it
	seed uint64
	most time.Duration // how long an answer may take before it is a finding

	mu       sync.Mutex
	findings []finding
	seen     map[string]bool
	sent     map[string]map[int]int // statuses by operation
}

func newCampaign(s *scene, seed uint64) *campaign {
	return &campaign{scene: s, base: s.house.Base, seed: seed, most: longest, seen: map[string]bool{}, sent: map[string]map[int]int{}}
}

// run makes the trials from first on of an operation. A trial hangs on the seed, its operation and its number, and on what the house holds.
func (c *campaign) run(ctx context.Context, op *contract.Operation, first, count int) {
	for n := first; n < first+count && ctx.Err() == nil; n++ {
		h := fnv.New64a()
		h.Write([]byte(op.ID))
		m := &maker{Rand: rand.New(rand.NewPCG(c.seed, h.Sum64()+uint64(n))), hints: c.hints()}
		t, ok := c.trial(m, op, n)
		if !ok {
			continue
		}
		c.judge(ctx, t, fmt.Sprintf("CONTRACT_SEED=%d CONTRACT_ONLY=%s/%d", c.seed, op.ID, n))
	}
}

// judge sends a trial, and makes what it found as small as it can.
func (c *campaign) judge(ctx context.Context, t trial, seed string) {
	for _, b := range c.send(ctx, t) {
		key := b.Check + b.Operation + t.how + shape(b.What)
		c.mu.Lock()
		known := c.seen[key]
		c.seen[key] = true
		c.mu.Unlock()
		if known {
			continue
		}
		small := c.shrink(ctx, t, b)
		b.What = strings.TrimSpace(b.What + " " + small.note())
		c.mu.Lock()
		c.findings = append(c.findings, finding{b, small.curl(c.base), seed})
		c.mu.Unlock()
	}
}

func (t trial) note() string {
	if t.check == positive {
		return "[allowed, as " + t.actor + "]"
	}
	return strings.TrimSpace("[" + t.how + " at " + t.where + ", as " + t.actor + "]")
}

// shape is a finding without the values in it, so that one is told once.
func shape(what string) string {
	what, _, _ = strings.Cut(what, ": {")
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, what)
}

func (c *campaign) send(ctx context.Context, t trial) []contract.Breach {
	ctx, cancel := context.WithTimeout(ctx, 2*c.most)
	defer cancel()
	var a contract.Answer
	var took time.Duration
	for try := 0; ; try++ {
		var err error
		begin := time.Now()
		token := c.token(t.actor)
		a, err = t.send(ctx, c.base, token)
		took = time.Since(begin)
		if err != nil {
			if ctx.Err() != nil && time.Since(begin) > c.most {
				return []contract.Breach{{Check: slow, Operation: t.op.ID, What: "no answer within " + (2 * c.most).String()}}
			}
			if ctx.Err() != nil {
				return nil
			}
			return []contract.Breach{{Check: contract.ServerError, Operation: t.op.ID, What: "the connection broke: " + err.Error()}}
		}
		code := problemOf(a).Code
		switch {
		case try > 200:
		case a.Status == http.StatusServiceUnavailable && code == "not_warmed": // a node hears of a new sale a moment after the one that made it
			time.Sleep(20 * time.Millisecond)
			continue
		case a.Status == http.StatusServiceUnavailable && code == "unavailable" && strings.Contains(problemOf(a).Detail, "being loaded"):
			time.Sleep(20 * time.Millisecond)
			continue
		case a.Status == http.StatusServiceUnavailable && t.op.ID == "takeLock": // a lease as short as is allowed may be over on a busy machine before it is told
			continue
		case try < 10 && t.check != noAuth && accounts[t.actor] != 0 && (a.Status == 401 || a.Status == 403 && code == "forbidden" && c.ended(ctx, t.actor)):
			c.renew(t.actor) // an earlier request has ended this account or its session
			continue
		}
		break
	}
	c.mu.Lock()
	if c.sent[t.op.ID] == nil {
		c.sent[t.op.ID] = map[int]int{}
	}
	if t.method == t.op.Method {
		c.sent[t.op.ID][a.Status]++
	}
	c.mu.Unlock()
	if a.Status < 300 && t.check == positive {
		c.learn(t.method, a.Path, a.Header, a.Body)
		c.tidy(t)
	}
	found := c.doc.Judge(a)
	if took > c.most {
		found = append(found, contract.Breach{Check: slow, Operation: t.op.ID, What: "answered after more than " + c.most.String()})
	}
	if t.op.ID == "batch" && a.Status == http.StatusOK {
		found = append(found, c.parts(t, a)...)
	}
	if a.Status > 500 {
		found = append(found, contract.Breach{Check: contract.ServerError, Operation: t.op.ID, What: fmt.Sprintf("answered %d: %.300s", a.Status, a.Body)})
	}
	return append(found, c.verdict(t, a)...)
}

// parts judges the answers inside of a batch's answer, each as if it had come by itself.
func (c *campaign) parts(t trial, a contract.Answer) (found []contract.Breach) {
	var asked struct {
		Requests []struct{ Method, Path string }
	}
	var got struct {
		Responses []struct {
			Status  int
			Headers map[string]string
			Body    json.RawMessage
			Omitted bool
		}
	}
	if json.Unmarshal(t.body(), &asked) != nil || json.Unmarshal(a.Body, &got) != nil || len(asked.Requests) != len(got.Responses) {
		return []contract.Breach{{Check: contract.Body, Operation: t.op.ID, What: fmt.Sprintf("%d requests, %d answers", len(asked.Requests), len(got.Responses))}}
	}
	for i, r := range got.Responses {
		if r.Status == http.StatusFailedDependency {
			continue
		}
		path, query, _ := strings.Cut(asked.Requests[i].Path, "?")
		part := contract.Answer{Method: asked.Requests[i].Method, Path: path, Query: query, Status: r.Status, Header: http.Header{}, Body: r.Body, Cut: r.Omitted}
		for name, v := range r.Headers {
			part.Header.Set(name, v)
		}
		for _, b := range c.doc.Judge(part) {
			b.What = fmt.Sprintf("(part %d of a batch) %s", i, b.What)
			found = append(found, b)
		}
	}
	return found
}

// ended reports whether an actor is no longer what it was.
func (c *campaign) ended(ctx context.Context, actor string) bool {
	me := request{op: c.doc.Named("getMe"), actor: actor, method: "GET"}
	a, err := me.send(ctx, c.house.Base, c.token(actor))
	var v struct{ Roles []string }
	return err == nil && (a.Status != 200 || json.Unmarshal(a.Body, &v) != nil || len(v.Roles) != len(accounts[actor].Names()))
}

// verdict is what the answer says about the trial, beyond the document's form.
func (c *campaign) verdict(t trial, a contract.Answer) (found []contract.Breach) {
	breach := func(check, format string, args ...any) {
		found = append(found, contract.Breach{Check: check, Operation: t.op.ID, What: fmt.Sprintf(format, args...)})
	}
	p := problemOf(a)
	if a.Status >= 500 {
		return nil // told already
	}
	for _, f := range p.Errors {
		if in, _, _ := strings.Cut(index.ReplaceAllString(f.Field, ""), "."); !slices.Contains([]string{"body", "query", "path", "header", "method", "cookie"}, in) && t.method == t.op.Method && t.op.ID != "importProducts" { // which names lines of its file
			breach(negative, "the refused field is called %q, which does not say where it stands", f.Field)
		}
	}
	if t.check == positive {
		switch a.Status {
		case 400, 406, 413, 415, 422:
			if t.media == patchType && a.Status == 422 && !slices.ContainsFunc(p.Errors, func(f struct{ Field, Allowed string }) bool { return !strings.HasPrefix(f.Field, "body") }) {
				break // what a patch comes to hangs on what it is applied to
			}
			if broken, ok := ruled(t.op, p); !ok {
				breach(positive, "answered %d to what the document allows (%s %s): %s", a.Status, p.Code, broken, p.Detail)
			}
		case 401:
			if len(t.op.Roles) == 0 {
				break // signing in with what is no password
			}
			breach(noAuth, "answered 401 to somebody who is signed in: %s", p.Detail)
		}
		if _, has := t.header("If-Match"); a.Status < 300 && guarded(t.op) && !has {
			if o, _ := t.tree.(map[string]any); o["version"] == nil {
				breach(needsHeader, "answered %d to a change that does not say which version it is about", a.Status)
			}
		}
		return found
	}
	if t.op.ID == "buyInSale" && (a.Status == 404 || a.Status == 409 || a.Status == 410) && t.check == negative {
		return found // a sale that sells nothing says so before it looks at anything else: the crowd's cheapest answer
	}
	refused := a.Status >= 400
	if t.want != nil {
		refused = slices.Contains(t.want, a.Status)
	}
	if !refused {
		want := "a refusal"
		if t.want != nil {
			want = fmt.Sprint(t.want)
		}
		breach(t.check, "answered %d, not %s: %.200s", a.Status, want, a.Body)
		return found
	}
	if t.op.ID == "buyInSale" && len(p.Errors) == 1 && p.Errors[0].Field == "header.Idempotency-Key" {
		return found // in a sale that asks no token the key is looked at first
	}
	if t.where != "" && (a.Status == 400 || a.Status == 422) && (p.Code == "invalid" || p.Code == "malformed") && !names(p, t.where) {
		breach(negative, "answered %d, but does not name %s: %.200s", a.Status, t.where, a.Body)
	}
	return found
}

// names reports whether the refusal points at the place, or at what it stands in, or at a part of it.
func names(p problem, where string) bool {
	for _, f := range p.Errors {
		if f.Field == where || strings.HasPrefix(where, f.Field) || strings.HasPrefix(f.Field, where) {
			return true
		}
	}
	return false
}

// shrink makes a trial smaller as long as it shows the same breach.
func (c *campaign) shrink(ctx context.Context, t trial, b contract.Breach) trial {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	same := func(x trial) bool {
		for _, y := range c.send(ctx, x) {
			if y.Check == b.Check && shape(y.What) == shape(b.What) {
				return true
			}
		}
		return false
	}
	for again := true; again && ctx.Err() == nil; {
		again = false
		for _, x := range t.smaller() {
			if ctx.Err() == nil && same(x) {
				t, again = x, true
				break
			}
		}
	}
	return t
}

// smaller lists the trial with one thing less each; what is wrong in it stays.
func (t trial) smaller() (all []trial) {
	for i, q := range t.query {
		if "query."+q.name != t.where && !t.needs("query", q.name) {
			x := t
			x.request = t.request.clone()
			x.query = slices.Delete(x.query, i, i+1)
			all = append(all, x)
		}
	}
	for i, h := range t.headers {
		if "header."+h.name != t.where && !t.needs("header", h.name) && h.name != "Accept" && h.name != "Authorization" {
			x := t
			x.request = t.request.clone()
			x.headers = slices.Delete(x.headers, i, i+1)
			all = append(all, x)
		}
	}
	if t.tree != nil && t.check == positive && t.op.Bodies[t.media] != nil {
		for _, tree := range smaller(t.op.Bodies[t.media], t.tree) {
			x := t
			x.request = t.request.clone()
			x.tree = tree
			all = append(all, x)
		}
	}
	return all
}

func (t trial) needs(in, name string) bool {
	for _, p := range t.op.Parameters {
		if p.In == in && p.Name == name {
			return p.Required
		}
	}
	return false
}

// report lists what was found, sorted.
func (c *campaign) report() []finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.findings, func(a, b finding) int { return strings.Compare(a.Breach.String(), b.Breach.String()) })
	return c.findings
}

// reached tells for each operation whether some request came through to its work.
func (c *campaign) reached() (never []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range c.doc.Operations {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(c.sent[op.ID])), func(status int) bool { return status < 400 }) {
			never = append(never, fmt.Sprintf("%s %v", op.ID, c.sent[op.ID]))
		}
	}
	return never
}
