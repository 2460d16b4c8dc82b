package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/contract"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

// Who asks. A stranger is another customer; a program borrows ids and locks.
const (
	administrator, operator, customer, stranger, visitor, program = "administrator", "operator", "customer", "stranger", "visitor", "program"
)

const programSecret = "0123456789abcdef0123456789abcdef"

var accounts = map[string]levee.Roles{
	administrator: levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator,
	operator:      levee.RoleCustomer | levee.RoleOperator,
	customer:      levee.RoleCustomer,
	stranger:      levee.RoleCustomer,

	productAdministrator: levee.RoleProductAdministrator,
	orderAdministrator:   levee.RoleOrderAdministrator,
}

// scene is a house with people and objects in it, and what has been learned of them.
type scene struct {
	t     testing.TB
	house *apptest.House
	doc   *contract.Document

	mu     sync.Mutex
	tokens map[string]string
	people int
	known  map[string][]string // values of path parameters, by the path up to the parameter
	byKind map[string][]string // sealed ids, by their kind: ord
	next   map[string][]string // cursors, by operation
	tags   map[string]string   // entity tags, by path
	spare  []string            // accounts that requests may disable, rename and sign out
}

func open(t testing.TB) *scene {
	t.Helper()
	h := apptest.Start(t, func(c *app.Config) {
		c.Lend.Clients = obs.Secret("contract:" + programSecret)
		c.Log.Level = "error"
		c.HTTP.HeaderMax = 1 << 20        // long questions, so that they come to the list and not to 431
		for _, n := range limit.Names() { // what is limited is asked nothing
			c.Limits.Rates[n.String()] = "off"
		}
	})
	s := &scene{t: t, house: h, tokens: map[string]string{program: programSecret}, known: map[string][]string{},
		byKind: map[string][]string{}, next: map[string][]string{}, tags: map[string]string{}}
	text := h.Visitor.Do("GET", "/v1/openapi.json", nil).Want(200).Body
	var err error
	if s.doc, err = contract.Parse(text); err != nil {
		t.Fatal(err)
	}
	for name := range accounts {
		s.renew(name)
	}
	for path, names := range map[string][]string{"/v1/locks/{name}": {"nightly"}, "/v1/payment-notifications/{provider}": {"test"},
		"/v1/job-queue/pauses/{what}": {"pool", "kind"}} {
		s.known[path] = names
	}
	s.furnish()
	return s
}

// renew gives an actor an account of its own anew: requests may have disabled the last one, or changed its password.
func (s *scene) renew(actor string) {
	s.t.Helper()
	s.mu.Lock()
	s.people++
	name := fmt.Sprintf("%s-%d", actor, s.people)
	s.mu.Unlock()
	system := levee.WithActor(context.Background(), levee.System)
	if _, err := s.house.App.Rooms.Identity.Create(system, identity.NewUser{Name: name, Password: apptest.Password, Roles: accounts[actor]}, identity.Origin{}); err != nil {
		s.t.Fatal(err)
	}
	var grant struct {
		AccessToken string `json:"access_token"`
	}
	for end := time.Now().Add(20 * time.Second); grant.AccessToken == ""; time.Sleep(20 * time.Millisecond) {
		a := s.house.Visitor.Do("POST", "/v1/sessions", map[string]any{"name": name, "password": apptest.Password})
		if a.Status == http.StatusServiceUnavailable && time.Now().Before(end) {
			continue // another request is rolling the keys
		}
		if err := json.Unmarshal(a.Want(http.StatusCreated).Body, &grant); err != nil {
			s.t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[actor] = grant.AccessToken
}

func (s *scene) token(actor string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[actor]
}

// do sends a request of the scene's own and wants one of the statuses.
func (s *scene) do(actor, method, path string, body any, want ...int) map[string]any {
	s.t.Helper()
	return s.ask(actor, method, path, body, nil, want...)
}

func (s *scene) ask(actor, method, path string, body any, headers []pair, want ...int) map[string]any {
	s.t.Helper()
	c := *s.house.Visitor
	c.Token = s.token(actor)
	var lines []string
	for _, h := range headers {
		lines = append(lines, h.name+": "+h.value)
	}
	a := c.Do(method, path, body, lines...).Want(want...)
	s.learn(method, path, a.Header, a.Body)
	var v map[string]any
	_ = json.Unmarshal(a.Body, &v) // not all answers are objects
	return v
}

// furnish makes some of each thing, so that there is something to ask for.
func (s *scene) furnish() {
	s.t.Helper()
	s.mu.Lock()
	s.people++
	n := s.people
	s.mu.Unlock()
	sku := s.product(fmt.Sprintf("LAMP-%d", n))
	s.picture()
	order := s.order(customer, sku)
	s.do(customer, "POST", "/v1/orders/"+order+"/payments", map[string]any{"provider": "test"}, 201)
	s.order(stranger, sku)
	sale := s.sale(sku, nil)
	s.buy(customer, sale)
	s.sale(sku, map[string]any{"waiting_list": true, "units": 1, "token_needed": false})
	draw := s.sale(sku, map[string]any{"mode": "draw", "token_needed": false, "draw_at": time.Now().Add(time.Hour), "starts_at": time.Now().Add(-time.Minute)})
	s.do(customer, "POST", "/v1/sales/"+draw+"/line", map[string]any{"quantity": 1}, 201)
	hook := text(s.do(operator, "POST", "/v1/webhooks", map[string]any{"url": "https://hooks.example/levee", "events": []string{"order.created"}}, 201)["id"])
	s.do(operator, "POST", "/v1/webhooks/"+hook+"/pings", nil, 201)
	s.do(administrator, "POST", "/v1/schedules", map[string]any{"name": fmt.Sprintf("nightly-%d", n), "kind": "identity.prune", "trigger": "cron 30 2 * * *"}, 201)
	s.do(administrator, "POST", fmt.Sprintf("/v1/schedules/nightly-%d/runs", n), nil, 202)
	spare := text(s.do(administrator, "POST", "/v1/users", map[string]any{"name": fmt.Sprintf("spare-%d", n), "password": apptest.Password}, 201)["id"])
	s.do(administrator, "POST", "/v1/roles", map[string]any{"name": fmt.Sprintf("spare-%d", n)}, 201, 409)
	s.mu.Lock()
	s.spare = append(s.spare, spare)
	s.mu.Unlock()
	for _, list := range []string{"/v1/roles", "/v1/resources", "/v1/me/tokens", "/v1/signing-keys", "/v1/limits", "/v1/event-listeners", "/v1/schedules", "/v1/users", "/v1/audit", "/v1/jobs", "/v1/jobs?state=later", "/v1/jobs?state=done", "/v1/products", "/v1/orders"} {
		s.do(administrator, "GET", list, nil, 200)
	}
	for _, who := range []string{operator, customer, stranger} {
		s.do(who, "GET", "/v1/notices", nil, 200)
		s.do(who, "GET", "/v1/sessions", nil, 200)
	}
	lock := s.do(program, "POST", "/v1/locks/nightly/leases", map[string]any{"ttl_ms": 600000, "permits": 1000}, 201, 409)
	if l, _ := lock["links"].(map[string]any); l == nil && lock["error"] == nil {
		s.t.Fatalf("a lease without a link: %v", lock)
	}
}

func (s *scene) product(code string) (sku string) {
	p := s.do(operator, "POST", "/v1/products", map[string]any{"code": code, "title": "Lamp", "state": "on_sale", "skus": []any{
		map[string]any{"code": code + "-1", "price": map[string]any{"amount": 9900, "currency": "CNY"}, "on_hand": 100_000}}}, 201)
	return text(p["skus"].([]any)[0].(map[string]any)["id"])
}

func (s *scene) order(who, sku string) string {
	return text(s.do(who, "POST", "/v1/orders", map[string]any{"lines": []any{map[string]any{"sku": sku, "quantity": 1}}}, 201)["id"])
}

func (s *scene) sale(sku string, change map[string]any) string {
	terms := map[string]any{"title": "Lamp sale", "sku": sku, "price": map[string]any{"amount": 4900, "currency": "CNY"}, "units": 100, "per_buyer": 1,
		"starts_at": time.Now().Add(-time.Second), "ends_at": time.Now().Add(2 * time.Hour)}
	for k, v := range change {
		terms[k] = v
	}
	id := text(s.do(operator, "POST", "/v1/sales", terms, 201)["id"])
	s.do(operator, "POST", "/v1/sales/"+id+"/acts", map[string]any{"act": "schedule", "reason": "test"}, 201)
	return id
}

func (s *scene) buy(who, sale string) map[string]any {
	token := s.do(who, "POST", "/v1/sales/"+sale+"/admissions", nil, 201)["token"]
	return s.ask(who, "POST", "/v1/sales/"+sale+"/purchases", nil, []pair{{"Levee-Admission", text(token)}}, 201)
}

var onePicture = func() []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
		panic(err)
	}
	return b.Bytes()
}()

func (s *scene) picture() string {
	s.mu.Lock()
	products := s.byKind["prd"]
	s.mu.Unlock()
	return text(s.do(operator, "POST", "/v1/products/"+products[len(products)-1]+"/pictures?alt=a%20lamp", onePicture, 201)["id"])
}

func text(v any) string { t, _ := v.(string); return t }

var sealed = regexp.MustCompile(`^([a-z]{3})_[0-9a-z]{26}$`)

// learn takes ids, links and cursors out of an answer.
func (s *scene) learn(method, path string, header http.Header, body []byte) {
	path, _, _ = strings.Cut(path, "?")
	op, _, _ := s.doc.Find(method, path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if tag := header.Get("Etag"); tag != "" {
		s.tags[path] = tag
	}
	if to := header.Get("Location"); to != "" {
		s.learnLink(to)
	}
	var v any
	if json.Unmarshal(body, &v) != nil {
		return
	}
	s.learnFrom(v, op)
	if o, _ := v.(map[string]any); o != nil && op != nil {
		if c := text(o["next"]); c != "" {
			add(s.next, op.ID, c)
		}
		items, _ := o["items"].([]any)
		for _, i := range items {
			one, _ := i.(map[string]any)
			for _, key := range []string{"id", "name", "kid"} {
				if v := text(one[key]); v != "" {
					s.learnItem(op.Path, v)
					break
				}
			}
		}
		if v := text(o["id"]); v != "" && method == http.MethodPost {
			s.learnItem(op.Path, v)
		}
	}
}

// learnItem notes what a list or a maker gave for the path of one of its things.
func (s *scene) learnItem(path, v string) {
	for _, o := range s.doc.Operations {
		rest, ok := strings.CutPrefix(o.Path, path+"/{")
		if name, _, _ := strings.Cut(rest, "}"); ok {
			add(s.known, path+"/{"+name+"}", v)
		}
	}
}

func (s *scene) learnFrom(v any, op *contract.Operation) {
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			s.learnFrom(x, op)
		}
	case []any:
		for _, x := range v {
			s.learnFrom(x, op)
		}
	case string:
		if m := sealed.FindStringSubmatch(v); m != nil {
			add(s.byKind, m[1], v)
		} else if strings.HasPrefix(v, "/v1/") && !strings.Contains(v, "{") {
			s.learnLink(v)
		}
	}
}

// learnLink notes the values of a link's path, for every operation whose path begins like it.
func (s *scene) learnLink(link string) {
	link, _, _ = strings.Cut(link, "?")
	steps := strings.Split(link, "/")
	if op, values, others := s.doc.Find(http.MethodGet, link); op != nil && len(values) == 0 || others != nil {
		return // a list, a page or an act, whose last step is no value
	}
	for _, o := range s.doc.Operations {
		path := strings.Split(o.Path, "/")
		for i, p := range path {
			if i >= len(steps) || p != steps[i] && !strings.HasPrefix(p, "{") {
				break
			}
			if strings.HasPrefix(p, "{") && steps[i] != "mine" && steps[i] != "events" {
				if v, err := url.PathUnescape(steps[i]); err == nil {
					add(s.known, strings.Join(path[:i+1], "/"), v)
				}
			}
		}
	}
}

// add keeps the last forty.
func add(to map[string][]string, key, v string) {
	if slices.Contains(to[key], v) {
		return
	}
	if to[key] = append(to[key], v); len(to[key]) > 40 {
		to[key] = to[key][1:]
	}
}

// values returns what is known for a parameter of a path.
func (s *scene) values(op *contract.Operation, param string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, _, _ := strings.Cut(op.Path, "{"+param+"}")
	if before == "/v1/users/" && op.Method != http.MethodGet {
		return slices.Clone(s.spare)
	}
	all := slices.Clone(s.known[before+"{"+param+"}"])
	if len(all) > 0 {
		if m := sealed.FindStringSubmatch(all[0]); m != nil {
			all = append(all, s.byKind[m[1]]...)
		}
		return all
	}
	kind := map[string]string{"/v1/skus/": "sku", "/v1/reservations/": "rsv", "/v1/pictures/": "pic", "/v1/jobs/": "job"}[before]
	return slices.Clone(s.byKind[kind])
}

// tag returns the entity tag that a path was last shown with, or "".
func (s *scene) tag(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags[path]
}

// hints are what fields of these names may well be.
func (s *scene) hints() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	return map[string][]string{
		"sku": slices.Clone(s.byKind["sku"]), "sale": slices.Clone(s.byKind["sal"]), "buyer": slices.Clone(s.byKind["usr"]), "actor": slices.Clone(s.byKind["usr"]),
		"currency": {"CNY", "CNY", "CNY", "JPY"}, "provider": {"test"}, "url": {"https://hooks.example/a", "https://hooks.example/b?c=d"},
		"trigger": {"every 1h", "cron 0 3 * * *", "at 2031-01-01T00:00:00Z"}, "text": {"every 90s", "cron 0 3 * * 1-5"},
		"kind": {"identity.prune", "house.prune"}, "rate": {"5/s", "1000/m burst 50", "off"}, "events": {"order.created", "order.paid"},
		"roles": {"customer", "operator"}, "starts_at": {in(time.Minute), in(time.Hour)}, "ends_at": {in(2 * time.Hour), in(24 * time.Hour)},
		"draw_at": {in(90 * time.Minute)}, "password": {apptest.Password, "another-quiet-night-77"}, "current": {apptest.Password},
		"from": {in(-time.Hour), in(-24 * time.Hour)}, "since": {in(-time.Hour)}, "listener": {"notify.paid", "line.order_paid"},
		"state": {"created", "paid", "cancelled"}, "source": {"shop", "sale"}, "up_to": slices.Clone(s.byKind["ntc"]),
		"format": {"csv", "jsonl"}, "mode": {"all", "partial"}, "stock": {"keep", "set"}, "layout": {"signed"}, "count": {"3"}, "bom": {"true"},
		"name": {"lamp", "nightly"}, "phone": {"+8613800138000"},
	}
}
