package notify

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/push"
	"levee/internal/platform/redis"
	"levee/internal/platform/web"
)

// site is the room behind the house's web part, with a token for each role.
type site struct {
	*house
	base string
}

func newSite(t *testing.T) *site {
	h := newHouse(t, func(c *Config) { c.AllowHosts = []string{"127.0.0.1"} })
	h.Service.post = newPoster(h.Service)
	actors := map[string]levee.Actor{"operator": operator, "buyer": {User: 1000, Roles: levee.RoleCustomer}, "": {}}
	srv, err := web.New(web.Config{Addr: "127.0.0.1:0"}, web.Parts{Obs: h.Obs, DB: h.DB, Limits: h.Limits, Title: "t", Version: "t",
		Authenticate: func(r *http.Request) (levee.Actor, error) {
			return actors[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")], nil
		}})
	h.must(err)
	h.Routes(srv)
	front := httptest.NewServer(srv.Handler())
	t.Cleanup(front.Close)
	return &site{house: h, base: front.URL}
}

func (s *site) ask(as, method, path, body string, status int, into any) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.base+path, strings.NewReader(body))
	s.must(err)
	if as != "" {
		r.Header.Set("Authorization", "Bearer "+as)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("If-Match", "*")
	}
	resp, err := http.DefaultClient.Do(r)
	s.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	s.must(err)
	if resp.StatusCode != status {
		s.t.Fatalf("%s %s answered %d, want %d: %s", method, path, resp.StatusCode, status, text)
	}
	if into != nil {
		s.must(json.Unmarshal(text, into))
	}
}

// The story of a webhook over HTTP, with a real receiver.
func TestWebhookOverHTTP(t *testing.T) {
	s := newSite(t)
	shop := &receiver{told: map[string][]message{}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		header := map[string]string{}
		for name := range r.Header {
			header[name] = r.Header.Get(name)
		}
		if r.Method != http.MethodPost || header["Content-Type"] != "application/json" || !strings.HasPrefix(header["User-Agent"], "Levee") {
			t.Errorf("the request is %s %v", r.Method, header)
		}
		a, _ := shop.take(r.Context(), header, body)
		w.WriteHeader(a.status)
		fmt.Fprint(w, a.text)
	}))
	t.Cleanup(front.Close)
	s.run()

	for _, as := range []string{"buyer", ""} {
		status := map[string]int{"buyer": 403, "": 401}[as]
		s.ask(as, "POST", "/v1/webhooks", `{"url":"`+front.URL+`","events":["*"]}`, status, nil)
		s.ask(as, "GET", "/v1/webhooks", "", status, nil)
	}
	s.ask("operator", "POST", "/v1/webhooks", `{"url":"https://10.0.0.1/","events":["*"]}`, 422, nil)
	s.ask("operator", "POST", "/v1/webhooks", `{"url":"`+front.URL+`","events":["order.eaten"]}`, 422, nil)
	var hook webhookView
	s.ask("operator", "POST", "/v1/webhooks", `{"url":"`+front.URL+`/hook","events":["order.*"],"description":"the shop"}`, 201, &hook)
	if !strings.HasPrefix(hook.ID, "whk_") || !strings.HasPrefix(hook.Secret, "whsec_") || hook.Health.State != "unused" || !hook.Enabled {
		t.Fatalf("%+v", hook)
	}
	shop.set(func(r *receiver) { r.secrets = []string{hook.Secret} })
	self := hook.Links.Self
	var again webhookView
	s.ask("operator", "GET", self, "", 200, &again)
	if again.Secret != "" || again.Health.Waiting == nil || *again.Health.Waiting != 0 {
		t.Errorf("read again it is %+v", again)
	}
	var ping deliveryView
	s.ask("operator", "POST", self+"/pings", "", 201, &ping)
	id := s.order("sale", 1)[0]
	s.pay(id)
	s.until("the ping and two steps arrive", 10*time.Second, func() bool { n, _ := shop.taken(); return n == 3 })
	if shop.badSign != 0 {
		t.Errorf("%d badly signed", shop.badSign)
	}
	if shop.types(s.Sealer.Seal(levee.KindWebhook, func() int64 { n, _ := s.Sealer.Open(levee.KindWebhook, hook.ID); return n }()))[0] != typePing {
		t.Error("no ping")
	}
	type page struct {
		Items []deliveryView
		Next  string
	}
	delivered := func(query string) (p page) {
		s.ask("operator", "GET", hook.Links.Deliveries+"?state=delivered"+query, "", 200, &p)
		return p
	}
	s.until("they are noted", 10*time.Second, func() bool { return len(delivered("").Items) == 3 })
	first := delivered("&limit=2")
	list := delivered("&limit=2&after=" + first.Next)
	if len(list.Items) != 1 || list.Items[0].ID != ping.ID {
		t.Errorf("the second page is %+v", list)
	}
	s.ask("operator", "GET", hook.Links.Deliveries+"?state=eaten", "", 422, nil)
	var whole struct {
		deliveryView
		Payload  struct{ Type string }
		Attempts []attemptView
	}
	s.ask("operator", "GET", first.Items[0].Links.Self, "", 200, &whole)
	if whole.Payload.Type != typePaid || len(whole.Attempts) != 1 || whole.Attempts[0].Status != 204 || whole.State != "delivered" || whole.Subject != s.public(id) || whole.Tries != 1 {
		t.Errorf("%+v", whole)
	}
	s.ask("buyer", "GET", first.Items[0].Links.Self, "", 403, nil)
	s.ask("operator", "GET", "/v1/webhook-deliveries/dlv_00000000000000000000000000", "", 404, nil)

	_, before := shop.taken()
	s.ask("operator", "POST", first.Items[0].Links.Self+"/replays", "", 202, nil)
	s.ask("operator", "POST", self+"/replays", `{"from":"2020-01-01T00:00:00Z"}`, 202, nil)
	s.until("replays arrive", 10*time.Second, func() bool { _, n := shop.taken(); return n >= before+3 })
	s.ask("operator", "POST", self+"/replays", `{"from":"2120-01-01T00:00:00Z"}`, 422, nil)

	var rotated webhookView
	s.ask("operator", "POST", self+"/secrets", "", 201, &rotated)
	if rotated.Secret == hook.Secret || rotated.OldSecretUntil == nil {
		t.Errorf("%+v", rotated)
	}
	s.ask("operator", "PATCH", self, `{"enabled":false,"description":"off"}`, 200, &again)
	if again.Enabled || again.Description != "off" || again.URL != hook.URL {
		t.Errorf("%+v", again)
	}
	s.ask("operator", "POST", self+"/pings", "", 409, nil)
	s.ask("operator", "POST", first.Items[0].Links.Self+"/replays", "", 409, nil)
	s.ask("operator", "PATCH", self, `{"url":"http://[::1]/"}`, 422, nil)
	s.ask("operator", "DELETE", self, "", 204, nil)
	s.ask("operator", "DELETE", self, "", 404, nil)
	s.ask("operator", "GET", hook.Links.Deliveries, "", 404, nil)
	s.ask("operator", "GET", first.Items[0].Links.Self, "", 404, nil)
}

// A page hears of its user's notices as they come, and of nobody else's.
// On the distributed tier the page and the keeper of the duty are on different nodes.
func TestNoticesOverHTTP(t *testing.T) {
	s := newSite(t)
	work := s.serve
	if platformtest.Distributed() {
		s.Service.push = s.sharedHub()
		deps := s.deps
		deps.Obs, deps.Push = obs.Test(t), s.sharedHub()
		keeper, err := New(deps)
		s.must(err)
		s.Service.tellHeard = func() { ring(keeper.heard) }
		work = func(ctx context.Context) error { return keeper.Serve(ctx, node.Forever()) }
	}
	s.ask("", "GET", "/v1/notices", "", 401, nil)
	s.ask("", "GET", "/v1/notices/events", "", 401, nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.base+"/v1/notices/events", nil)
	s.must(err)
	r.Header.Set("Authorization", "Bearer buyer")
	resp, err := http.DefaultClient.Do(r)
	s.must(err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() (kind, data string) {
		for lines.Scan() {
			if k, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				kind = k
			}
			if d, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return kind, d
			}
		}
		t.Fatal("the stream ended")
		return "", ""
	}
	s.until("the page listens", 10*time.Second, func() bool { return s.Service.push.Conns() == 1 })
	s.start(work, s.Events.Run)
	ids := s.order("sale", 2) // of the users 1000 and 1001
	s.pay(ids[1])
	s.pay(ids[0])
	var seen []string
	for range 2 {
		kind, data := next()
		var v noticeView
		s.must(json.Unmarshal([]byte(data), &v))
		if kind != "notice" || v.Subject.Order != s.public(ids[0]) {
			t.Errorf("%s %s", kind, data)
		}
		seen = append(seen, v.Kind)
	}
	if fmt.Sprint(seen) != "[order.created order.paid]" {
		t.Errorf("heard %v", seen)
	}
	var list struct {
		Items  []noticeView
		Unread int
		Next   string
	}
	s.ask("buyer", "GET", "/v1/notices?limit=1", "", 200, &list)
	if list.Unread != 2 || len(list.Items) != 1 || list.Next == "" || list.Items[0].Kind != typePaid || list.Items[0].Read {
		t.Fatalf("%+v", list)
	}
	s.ask("buyer", "POST", "/v1/notices/reads", `{"up_to":"`+list.Items[0].ID+`"}`, 204, nil)
	s.ask("buyer", "POST", "/v1/notices/reads", `{"up_to":"`+s.public(ids[0])+`"}`, 404, nil)
	s.ask("buyer", "GET", "/v1/notices?unread=true", "", 200, &list)
	if list.Unread != 0 || len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}
}

// sharedHub is a node's part of the hub that the nodes of the house share.
func (h *house) sharedHub() *push.Hub {
	h.t.Helper()
	client, err := redis.Open(context.Background(), platformtest.Redis(h.t, h.Dir), h.Obs)
	h.must(err)
	h.t.Cleanup(func() { _ = client.Close() })
	hub, err := push.OpenShared(push.Config{}, client, obs.Test(h.t))
	h.must(err)
	h.t.Cleanup(func() { h.must(hub.Close(context.Background())) })
	return hub
}
