package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/platform/web"
)

// site is the room behind the real web part.
type site struct {
	*house
	handler http.Handler
	server  *web.Server
}

func newSite(t *testing.T, cfg web.Config, rates map[string]string) *site {
	t.Helper()
	return newSiteOn(t, newHouse(t, cheap, rates), cfg)
}

func newSiteOn(t *testing.T, h *house, cfg web.Config) *site {
	t.Helper()
	w, err := web.New(cfg, web.Parts{Obs: h.deps.Obs, Limits: h.deps.Limits, DB: h.deps.DB, Authenticate: h.Authenticate,
		Title: "test", Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	h.deps.Tokens.Routes(w)
	h.trail.Routes(w)
	h.Routes(w)
	return &site{house: h, handler: w.Handler(), server: w}
}

// answer is what the site said.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   string
}

// get returns a field of the body by its path.
func (a answer) get(path ...string) string {
	a.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		a.t.Fatalf("%v: %s", err, a.body)
	}
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			a.t.Fatalf("no %v in %s", path, a.body)
		}
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

func (a answer) want(status int, contains ...string) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	for _, c := range contains {
		if !strings.Contains(a.body, c) {
			a.t.Fatalf("%q is not in %s", c, a.body)
		}
	}
	return a
}

// ask sends a request; auth is a bearer token, or a cookie when it contains '=', or nothing.
func (s *site) ask(method, path, auth, body string, headers ...string) answer {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	switch {
	case strings.Contains(auth, "="):
		r.Header.Set("Cookie", auth)
	case auth != "":
		r.Header.Set("Authorization", "Bearer "+auth)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return answer{t: s.t.(*testing.T), status: w.Code, header: w.Header(), body: w.Body.String()}
}

func (s *site) signInBody(name string, cookie bool) string {
	b, err := json.Marshal(map[string]any{"name": name, "password": goodPassword.Reveal(), "cookie": cookie})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func TestHTTPStory(t *testing.T) {
	s := newSite(t, web.Config{}, nil)
	up := s.ask("POST", "/v1/users", "", `{"name":"alice","phone":"13800138000","password":"vines over 9 walls"}`).
		want(201, `"roles":["customer"]`, "+8613800138000")
	if up.header.Get("Location") != "/v1/users/"+up.get("id") || strings.Contains(up.body, "vines") || strings.Contains(up.body, "argon2") {
		t.Errorf("location %q, body %s", up.header.Get("Location"), up.body)
	}
	s.ask("POST", "/v1/users", "", `{"name":"ALICE","password":"vines over 9 walls"}`).want(409, "conflict", "body.name")
	s.ask("POST", "/v1/users", "", `{"name":"bob","password":"short"}`).want(422, "body.password")
	s.ask("POST", "/v1/users", "", `{"name":"bob","password":"vines over 9 walls","roles":["administrator"]}`).want(403)
	s.ask("POST", "/v1/users", "", `{"name":"bob","password":"vines over 9 walls","disabled":true}`).want(422, "disabled")

	in := s.ask("POST", "/v1/sessions", "", s.signInBody("alice", false), "User-Agent", "acme/1").want(201, `"token_type":"Bearer"`, "acme/1")
	if in.header.Get("Set-Cookie") != "" || in.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", in.header)
	}
	token := in.get("access_token")
	s.ask("GET", "/v1/me", token, "").want(200, `"name":"alice"`, up.get("id"), in.get("session", "id"))
	s.ask("GET", "/v1/me", "", "").want(401)
	s.ask("GET", "/v1/me", token+"x", "").want(401)
	if a := s.ask("GET", "/v1/me", "", "", "Authorization", "Basic "+token); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("%d %v", a.status, a.header)
	}
	next := s.ask("POST", "/v1/tokens/refresh", "", `{"refresh_token":"`+in.get("refresh_token")+`"}`).want(200)
	s.clock.Step(11 * time.Minute)
	s.ask("GET", "/v1/me", token, "").want(401, "expired")
	// A client that still sends its expired token along must be able to refresh and to sign in.
	next = s.ask("POST", "/v1/tokens/refresh", token, `{"refresh_token":"`+next.get("refresh_token")+`"}`).want(200)
	s.ask("POST", "/v1/sessions", token, s.signInBody("alice", false)).want(201)
	token = next.get("access_token")
	s.ask("POST", "/v1/tokens/refresh", "", `{"refresh_token":"`+in.get("refresh_token")+`"}`).want(401) // reuse
	s.ask("GET", "/v1/me", token, "").want(401, "session_ended")

	in = s.ask("POST", "/v1/sessions", "", s.signInBody("alice", false)).want(201)
	token = in.get("access_token")
	list := s.ask("GET", "/v1/sessions", token, "").want(200, `"current":true`, `"current":false`)
	if strings.Contains(list.body, "hash") || strings.Contains(list.body, "salt") {
		t.Errorf("body %s", list.body)
	}
	s.ask("DELETE", "/v1/sessions/"+in.get("user", "id"), token, "").want(404)
	s.ask("PUT", "/v1/me/password", token, `{"current":"nope nope","password":"a much better 1"}`).want(422, "body.current")
	s.ask("PUT", "/v1/me/password", token, `{"current":"vines over 9 walls","password":"a much better 1"}`).want(200, `"sessions_ended":1`)
	s.ask("DELETE", "/v1/sessions/current", token, "").want(204)
	s.ask("GET", "/v1/me", token, "").want(401)
	s.ask("POST", "/v1/sessions", "", s.signInBody("alice", false)).want(401)
	s.ask("GET", "/v1/setup", "", "").want(200, `"needed":false`)
	s.ask("POST", "/v1/setup", "", `{"code":"AAAA","name":"thief","password":"vines over 9 walls"}`).want(410)
	if keys := s.ask("GET", "/.well-known/jwks.json", "", "").want(200, `"kty":"OKP"`); strings.Contains(keys.body, `"d"`) {
		t.Error("the private key is shown")
	}
}

func TestHTTPSameAnswerForUnknownUser(t *testing.T) {
	s := newSite(t, web.Config{}, nil)
	s.signUp("alice")
	var bodies []string
	for _, name := range []string{"alice", "nobody.here"} {
		a := s.ask("POST", "/v1/sessions", "", `{"name":"`+name+`","password":"wrong password"}`).want(401)
		var v map[string]any
		if err := json.Unmarshal([]byte(a.body), &v); err != nil {
			t.Fatal(err)
		}
		delete(v, "request_id")
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []string{"X-Request-Id", "Date"} {
			a.header.Del(h)
		}
		bodies = append(bodies, string(body)+a.header.Get("WWW-Authenticate")+a.header.Get("Content-Type"))
	}
	if bodies[0] != bodies[1] {
		t.Errorf("%s\n%s", bodies[0], bodies[1])
	}
}

func TestHTTPCookie(t *testing.T) {
	for _, c := range []struct{ policy, name string }{{"never", cookiePlain}, {"always", cookieSecure}} {
		t.Run(c.policy, func(t *testing.T) {
			s := newSite(t, web.Config{CookieSecure: c.policy}, nil)
			s.signUp("alice")
			s.signUp("mallory")
			in := s.ask("POST", "/v1/sessions", "", s.signInBody("alice", true)).want(201)
			if strings.Contains(in.body, "access_token") || strings.Contains(in.body, "refresh_token") {
				t.Errorf("a page could read a token: %s", in.body)
			}
			set, err := http.ParseSetCookie(in.header.Get("Set-Cookie"))
			if err != nil {
				t.Fatal(err)
			}
			if set.Name != c.name || !set.HttpOnly || set.SameSite != http.SameSiteLaxMode || set.Secure != (c.policy == "always") ||
				set.Path != "/" || set.Domain != "" || set.MaxAge <= 0 || strings.Contains(in.body, set.Value) {
				t.Errorf("cookie %+v", set)
			}
			cookie := set.Name + "=" + set.Value
			s.ask("GET", "/v1/me", cookie, "").want(200, `"name":"alice"`)
			s.ask("GET", "/v1/me", set.Value, "").want(401) // not a bearer token

			// Two cookies of one name: one was planted.
			m, err := http.ParseSetCookie(s.ask("POST", "/v1/sessions", "", s.signInBody("mallory", true)).want(201).header.Get("Set-Cookie"))
			if err != nil {
				t.Fatal(err)
			}
			s.ask("GET", "/v1/me", m.Name+"="+m.Value+"; "+cookie, "").want(401)
			other := map[string]string{cookiePlain: cookieSecure, cookieSecure: cookiePlain}[c.name]
			s.ask("GET", "/v1/me", other+"="+set.Value, "").want(401)

			// Fixation: the browser of alice carries mallory's session when she signs in.
			again := s.ask("POST", "/v1/sessions", m.Name+"="+m.Value, s.signInBody("alice", true)).want(201)
			fresh, err := http.ParseSetCookie(again.header.Get("Set-Cookie"))
			if err != nil || fresh.Value == m.Value || fresh.Value == set.Value {
				t.Fatalf("%+v, %v", fresh, err)
			}
			s.ask("GET", "/v1/me", m.Name+"="+m.Value, "").want(401)

			// Another site's page cannot act with the cookie.
			s.ask("DELETE", "/v1/sessions", cookie, "", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example").want(403)
			s.ask("GET", "/v1/me", cookie, "").want(200)
			out := s.ask("DELETE", "/v1/sessions/current", cookie, "", "Sec-Fetch-Site", "same-origin").want(204)
			gone, err := http.ParseSetCookie(out.header.Get("Set-Cookie"))
			if err != nil || gone.Name != c.name || gone.MaxAge >= 0 || gone.Value != "" {
				t.Errorf("%+v, %v", gone, err)
			}
			s.ask("GET", "/v1/me", cookie, "").want(401)
			// A stale cookie must not lock the browser out.
			s.ask("POST", "/v1/sessions", cookie, s.signInBody("alice", true)).want(201)
		})
	}
}

func TestHTTPAdministration(t *testing.T) {
	s := newSite(t, web.Config{}, nil)
	head := s.ask("POST", "/v1/sessions", "", `{"name":"head","password":"gate-keeper-91"}`).want(201).get("access_token")
	alice := s.signUp("alice")
	public := s.sealer.Seal(levee.KindUser, int64(alice.ID))
	token := s.signIn("alice", SessionToken).AccessToken.Reveal()
	for _, route := range [][3]string{
		{"GET", "/v1/users", ""}, {"GET", "/v1/users/" + public, ""}, {"POST", "/v1/users/" + public + "/disable", `{"reason":"x"}`},
		{"POST", "/v1/users/" + public + "/enable", ""}, {"PUT", "/v1/users/" + public + "/roles", `{"roles":["administrator"]}`},
		{"PUT", "/v1/users/" + public + "/password", `{"password":"a much better 1"}`}, {"GET", "/v1/audit", ""},
	} {
		if a := s.ask(route[0], route[1], "", route[2]); a.status != 401 {
			t.Errorf("%v by a visitor: %d", route, a.status)
		}
		if a := s.ask(route[0], route[1], token, route[2]); a.status != 403 {
			t.Errorf("%v by a customer: %d", route, a.status)
		}
	}
	s.ask("POST", "/v1/users", head, `{"name":"olga","password":"vines over 9 walls","roles":["customer","operator"]}`).
		want(201, `"roles":["customer","operator"]`)
	s.ask("POST", "/v1/users", head, `{"name":"olga2","password":"vines over 9 walls","roles":["king"]}`).want(422, "body.roles[0]")
	page := s.ask("GET", "/v1/users?limit=2", head, "").want(200, "olga", "alice")
	s.ask("GET", "/v1/users?limit=2&after="+page.get("next"), head, "").want(200, "head")
	s.ask("GET", "/v1/users?after=nonsense", head, "").want(422, "after")
	s.ask("GET", "/v1/users?limit=1000", head, "").want(422, "limit")
	if a := s.ask("GET", "/v1/users?role=operator&disabled=false&name=OL", head, "").want(200, "olga"); strings.Contains(a.body, "alice") {
		t.Errorf("got %s", a.body)
	}
	s.ask("PUT", "/v1/users/"+public+"/roles", head, `{"roles":["customer","operator"]}`).want(200, "operator")
	s.ask("GET", "/v1/me", token, "").want(200, "operator")
	s.ask("POST", "/v1/users/"+public+"/disable", head, `{"reason":""}`).want(422, "body.reason")
	s.ask("POST", "/v1/users/"+public+"/disable", head, `{"reason":"spam, twice"}`).want(200, `"disabled":true`)
	s.ask("GET", "/v1/me", token, "").want(401)
	s.ask("POST", "/v1/sessions", "", s.signInBody("alice", false)).want(403)
	s.ask("POST", "/v1/users/"+public+"/enable", head, "").want(200, `"disabled":false`)
	s.ask("POST", "/v1/sessions", "", s.signInBody("alice", false)).want(201)
	s.ask("PUT", "/v1/users/"+public+"/password", head, `{"password":"a much better 1"}`).want(204)
	s.ask("POST", "/v1/sessions", "", s.signInBody("alice", false)).want(401)
	s.ask("POST", "/v1/users/"+s.sealer.Seal(levee.KindOrder, int64(alice.ID))+"/disable", head, `{"reason":"x"}`).want(404)

	trail := s.ask("GET", "/v1/audit?subject="+public, head, "").
		want(200, "user.disabled", "user.enabled", "user.roles_changed", "user.password_set", "user.signed_up",
			`"reason":"spam, twice"`, "request_id")
	if strings.Contains(trail.body, "better") {
		t.Error("a password in the trail")
	}
	s.ask("GET", "/v1/audit?action=user.disabled&limit=1", head, "").want(200, `"disabled":false`, `"disabled":true`)
	s.ask("GET", "/v1/audit?actor=nobody", head, "").want(422, "actor")
	if w := s.server.Routes(); len(w) < 18 {
		t.Errorf("routes: %v", w)
	}
	if doc, err := s.server.OpenAPI(); err != nil || !bytes.Contains(doc, []byte("refreshToken")) {
		t.Errorf("document: %v", err)
	}
}

func TestHTTPSignInIsLimitedByAddress(t *testing.T) {
	s := newSite(t, web.Config{}, map[string]string{"sign_in": "3/m"})
	for i := range 5 {
		a := s.ask("POST", "/v1/sessions", "", `{"name":"user`+string(rune('a'+i))+`","password":"wrong password"}`)
		if i < 3 {
			a.want(401)
		} else if a.want(429); a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
}

// The same canary as in TestNoSecretInLogs, through the web part: broken bodies, wrong types, secrets in wrong places.
func TestHTTPNoSecretInLogs(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	o, err := obs.Open(obs.Config{Level: "debug", Format: "json"}, lockedWriter{&mu, &out})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close(context.Background())
	s := newSiteOn(t, newHouseOn(t, o, cheap, map[string]string{"sign_in": "off"}), web.Config{})
	const canary = "canary-wren-finch-7"
	s.ask("POST", "/v1/users", "", `{"name":"alice","password":"`+canary+`"}`).want(201)
	in := s.ask("POST", "/v1/sessions", "", `{"name":"alice","password":"`+canary+`"}`).want(201)
	cookie := s.ask("POST", "/v1/sessions", "", `{"name":"alice","password":"`+canary+`","cookie":true}`).want(201).header.Get("Set-Cookie")
	cookie, _, _ = strings.Cut(cookie, ";")
	s.ask("GET", "/v1/me", in.get("access_token"), "").want(200)
	s.ask("GET", "/v1/me", cookie, "").want(200)
	for _, body := range []string{
		`{"name":"alice","password":"` + canary + `"`, `{"name":"alice","password":["` + canary + `"]}`, `{"password":"` + canary + `"}`,
		`{"name":"alice","password":"` + canary + `","extra":1}`, `{"name":"alice","password":"` + canary + `","password":"` + canary + `"}`,
		`{"name":"alice","password":"` + canary + `-wrong"}`, `{"name":"alice","Password":"` + canary + `"}`,
	} {
		if a := s.ask("POST", "/v1/sessions", "", body); a.status < 400 || a.status >= 500 {
			t.Errorf("%s: %d", body, a.status)
		}
	}
	s.ask("GET", "/v1/me", in.get("access_token")+"x", "").want(401)
	s.ask("POST", "/v1/tokens/refresh", "", `{"refresh_token":"`+in.get("refresh_token")+`x"}`).want(401)
	s.ask("POST", "/v1/tokens/refresh", "", `{"refresh_token":"`+in.get("refresh_token")+`"}`).want(200)
	mu.Lock()
	defer mu.Unlock()
	for _, secret := range []string{canary, in.get("access_token"), in.get("refresh_token"), strings.SplitN(cookie, "=", 2)[1]} {
		if i := strings.Index(out.String(), secret); i >= 0 {
			t.Errorf("the log holds a secret: …%s…", out.String()[max(0, i-300):i+len(secret)])
		}
	}
	if !strings.Contains(out.String(), "/v1/sessions") {
		t.Error("requests are not logged")
	}
}
