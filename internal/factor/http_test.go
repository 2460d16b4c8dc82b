package factor

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/web"
)

// site is the room and identity behind the real web part, which asks the room for fresh proofs.
type site struct {
	*house
	handler http.Handler
}

func newSite(t *testing.T, cfg Config) *site {
	t.Helper()
	h := newHouse(t, cfg, map[string]string{"second_factor": "off", "sign_in": "off", "sign_in_account": "off"})
	w, err := web.New(web.Config{}, web.Parts{Obs: h.Obs, Limits: h.Limits, DB: h.DB, Authenticate: h.Identity.Authenticate, Permits: h.Permits, Fresh: h.Fresh,
		Title: "test", Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	h.Identity.Routes(w)
	h.Routes(w)
	return &site{house: h, handler: w.Handler()}
}

type answer struct {
	t      *testing.T
	Status int
	Header http.Header
	Text   string
}

// ask sends a request; auth is a bearer token, or a cookie when it contains '=', or nothing.
func (s *site) ask(method, path, auth string, body any) answer {
	s.t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			s.t.Fatal(err)
		}
	}
	r := httptest.NewRequest(method, path, strings.NewReader(string(text)))
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	switch {
	case strings.Contains(auth, "="):
		r.Header.Set("Cookie", auth)
	case auth != "":
		r.Header.Set("Authorization", "Bearer "+auth)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return answer{s.t, w.Code, w.Header(), w.Body.String()}
}

func (a answer) want(status int, parts ...string) answer {
	a.t.Helper()
	if a.Status != status {
		a.t.Fatalf("%d, want %d: %s", a.Status, status, a.Text)
	}
	for _, p := range parts {
		if !strings.Contains(a.Text, p) {
			a.t.Fatalf("%q is not in %s", p, a.Text)
		}
	}
	return a
}

// at returns what stands at a path of the body.
func (a answer) at(path ...string) any {
	a.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.Text), &v); err != nil {
		a.t.Fatalf("%v: %s", err, a.Text)
	}
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

type m = map[string]any

func (s *site) signInOver(name string, status int) answer {
	s.t.Helper()
	return s.ask("POST", "/v1/sessions", "", m{"name": name, "password": password.Reveal()}).want(status)
}

func (a answer) token() string {
	text, _ := a.at("access_token").(string)
	return text
}

// From the password to a session, as a program and as a browser; nothing of it stays in caches or in the log.
func TestHTTPSecondFactor(t *testing.T) {
	s := newSite(t, Config{})
	s.signUp("ann", levee.RoleCustomer)
	ann := s.signInOver("ann", 201).token()
	s.ask("GET", "/v1/me/factors", "", nil).want(401)
	s.ask("GET", "/v1/me/factors", ann, nil).want(200, `"totp":false`, `"passkeys":[]`, `"password":true`, `"passkeys_usable":true`)
	begun := s.ask("POST", "/v1/me/totp", ann, nil).want(200, "otpauth://totp/shop.test:ann?")
	if begun.Header.Get("Cache-Control") != "no-store" {
		t.Error("a secret may be cached")
	}
	secret, err := inBase32.DecodeString(begun.at("secret").(string))
	s.want(err, "")
	s.ask("POST", "/v1/me/totp/confirmation", ann, m{"challenge": begun.at("challenge"), "code": "x"}).want(422, "body.code", "redacted")
	codes := s.ask("POST", "/v1/me/totp/confirmation", ann, m{"challenge": begun.at("challenge"), "code": s.code(secret, 0).Reveal()}).want(200).at("recovery_codes").([]any)
	if len(codes) != recoveryCodes {
		t.Fatal(codes)
	}
	half := s.signInOver("ann", 401).want(401, `"error":"second_factor_required"`, `"methods":["totp","recovery_code"]`)
	if h := half.Header; h.Get("WWW-Authenticate") != `Bearer realm="levee"` || h.Get("Cache-Control") != "no-store" || h.Get("Set-Cookie") != "" {
		t.Errorf("%v", h)
	}
	challenge := half.at("data", "challenge")
	s.ask("GET", "/v1/me", challenge.(string), nil).want(401) // it is no credential
	s.clock.Step(period)
	s.ask("POST", "/v1/sessions/second-factor", "stale token", m{"challenge": challenge, "code": "000000"}).want(401, `"error":"unauthenticated"`)
	s.ask("POST", "/v1/sessions/second-factor", "", m{"challenge": challenge}).want(422, "recovery_code and assertion")
	got := s.ask("POST", "/v1/sessions/second-factor", "stale token", m{"challenge": challenge, "code": s.code(secret, 0).Reveal()}).want(201, "refresh_token")
	s.ask("GET", "/v1/me", got.token(), nil).want(200, `"ann"`)
	s.ask("POST", "/v1/sessions/second-factor", "", m{"challenge": challenge, "recovery_code": codes[0]}).want(410)
	challenge = s.signInOver("ann", 401).at("data", "challenge")
	got = s.ask("POST", "/v1/sessions/second-factor", "", m{"challenge": challenge, "recovery_code": codes[0], "cookie": true}).want(201)
	if !strings.Contains(got.Header.Get("Set-Cookie"), "HttpOnly") || got.token() != "" {
		t.Errorf("%v %s", got.Header, got.Text)
	}
	s.ask("GET", "/v1/me/factors", got.Header.Get("Set-Cookie"), nil).want(200, `"recovery_codes":9`)
	// A passkey the same way.
	asked := s.ask("POST", "/v1/me/passkeys/options", ann, nil).want(200)
	a := newAuthenticator(t)
	var made, shown any
	s.want(json.Unmarshal(a.create(asked.at("public_key").(m)), &made), "")
	key := s.ask("POST", "/v1/me/passkeys", ann, m{"challenge": asked.at("challenge"), "name": "telephone", "credential": made}).want(201, `"recovery_codes":[]`, "psk_")
	half = s.signInOver("ann", 401).want(401, `"methods":["passkey","totp","recovery_code"]`)
	s.want(json.Unmarshal(a.get(half.at("data", "passkey").(m)), &shown), "")
	got = s.ask("POST", "/v1/sessions/second-factor", "", m{"challenge": half.at("data", "challenge"), "assertion": shown}).want(201)
	s.ask("DELETE", "/v1/me/passkeys/"+key.at("passkey", "id").(string), got.token(), nil).want(204)
	s.ask("DELETE", "/v1/me/totp", got.token(), nil).want(204)
	s.signInOver("ann", 201)
}

// Where a factor must be set up first, the sign-in itself leads to it.
func TestHTTPEnrolAtSignIn(t *testing.T) {
	s := newSite(t, Config{Require: "staff"})
	s.signUp("boss", levee.RoleAdministrator)
	challenge := s.signInOver("boss", 401).want(401, `"methods":["enrol"]`).at("data", "challenge")
	e := s.ask("POST", "/v1/sessions/second-factor/enrolment", "", m{"challenge": challenge}).want(200)
	secret, err := inBase32.DecodeString(e.at("secret").(string))
	s.want(err, "")
	boss := s.ask("POST", "/v1/sessions/second-factor", "", m{"challenge": challenge, "code": s.code(secret, 0).Reveal()}).want(201).token()
	if n := len(s.ask("POST", "/v1/me/recovery-codes", boss, nil).want(200).at("recovery_codes").([]any)); n != recoveryCodes {
		t.Errorf("%d codes", n)
	}
	s.ask("DELETE", "/v1/me/totp", boss, nil).want(409)
	s.ask("POST", "/v1/sessions/second-factor/enrolment", "", m{"challenge": challenge}).want(410)
}

// A session that proved itself long ago cannot do what is dangerous until it did again; what is not dangerous it can.
func TestHTTPStepUp(t *testing.T) {
	s := newSite(t, Config{FreshFor: 2 * time.Minute})
	_, user := s.signUp("ann", levee.RoleCustomer)
	s.signUp("boss", levee.RoleAdministrator|levee.RoleCustomer)
	id := s.Sealer.Seal(levee.KindUser, int64(user))
	grant := s.signInOver("boss", 201)
	boss := grant.token()
	personal := s.ask("POST", "/v1/me/tokens", boss, m{"name": "p", "scopes": []string{"accounts:all", "administration:all"}, "expires_at": s.clock.Now().Add(40 * 24 * time.Hour)}).want(201).at("token").(string)
	dangerous := []struct {
		method, path string
		body         any
		status       int
	}{
		{"PUT", "/v1/users/" + id + "/roles", m{"roles": []string{"customer", "operator"}}, 200},
		{"PUT", "/v1/users/" + id + "/password", m{"password": "vines over 10 walls"}, 204},
		{"POST", "/v1/users/" + id + "/password-resets", nil, 201},
		{"POST", "/v1/users/" + id + "/disable", m{"reason": "r"}, 200},
		{"DELETE", "/v1/users/" + id + "/factors", nil, 200},
		{"POST", "/v1/users", m{"name": "second", "password": "vines over 11 walls", "roles": []string{"administrator"}}, 201},
		{"POST", "/v1/me/tokens", m{"name": "q", "scopes": []string{"accounts:read"}, "expires_at": s.clock.Now().Add(40 * 24 * time.Hour)}, 201},
		{"POST", "/v1/me/totp", nil, 200},
		{"POST", "/v1/me/passkeys/options", nil, 200},
	}
	s.clock.Step(s.cfg.FreshFor)
	renewed := s.ask("POST", "/v1/tokens/refresh", "", m{"refresh_token": grant.at("refresh_token")}).want(200).token() // a new token is no new proof
	for _, auth := range []string{boss, renewed} {
		for _, d := range dangerous {
			a := s.ask(d.method, d.path, auth, d.body).want(401, `"error":"step_up_required"`, `"methods":["password"]`, `"max_age_seconds":120`)
			if got := a.Header.Get("WWW-Authenticate"); got != `Bearer realm="levee", error="insufficient_user_authentication"` {
				t.Errorf("%s", got)
			}
		}
	}
	for _, d := range dangerous {
		s.ask(d.method, d.path, personal, d.body).want(403)
	}
	s.ask("GET", "/v1/users/"+id, boss, nil).want(200)
	s.ask("POST", "/v1/users", "", m{"name": "visitor", "password": "vines over 12 walls"}).want(201) // visitors sign up as ever
	s.ask("POST", "/v1/me/step-up", personal, m{"password": password.Reveal()}).want(403)
	s.ask("POST", "/v1/me/step-up", boss, m{"password": "not it at all"}).want(422, "body.password", "redacted")
	s.ask("POST", "/v1/me/step-up", boss, m{"password": password.Reveal()}).want(200, "fresh_until")
	for _, d := range dangerous {
		s.ask(d.method, d.path, renewed, d.body).want(d.status) // the session is fresh, whichever of its tokens asks
	}
}
