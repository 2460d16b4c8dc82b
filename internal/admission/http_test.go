package admission

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/web"
)

type answer struct {
	status int
	header http.Header
	body   string
}

// face is the room behind a real server. The header X-Actor is the number of a person.
func (h *hall) face(t testing.TB) func(method, path string, who int, body string) answer {
	t.Helper()
	srv, err := web.New(web.Config{}, web.Parts{Obs: h.s.Obs, DB: h.DB, Title: "test", Version: "0",
		Authenticate: func(r *http.Request) (levee.Actor, error) {
			n, err := strconv.Atoi(r.Header.Get("X-Actor"))
			if err != nil || n == 0 {
				return levee.Actor{}, nil
			}
			return person(n), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	h.s.Routes(srv)
	handler := srv.Handler()
	return func(method, path string, who int, body string) answer {
		r := httptest.NewRequest(method, "/v1/sales/"+h.w.Public+path, strings.NewReader(body))
		if body == "" {
			r = httptest.NewRequest(method, "/v1/sales/"+h.w.Public+path, nil)
		} else {
			r.Header.Set("Content-Type", "application/json")
		}
		r.Header.Set("X-Actor", strconv.Itoa(who))
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return answer{w.Code, w.Header(), w.Body.String()}
	}
}

func fields(t testing.TB, a answer) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return m
}

func TestHTTP(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 10, Brake: BrakeWork, WorkBits: 8})
		ask := h.face(t)
		if a := ask("POST", "/admissions", 0, ""); a.status != 401 {
			t.Errorf("a visitor: %d %s", a.status, a.body)
		}
		a := ask("POST", "/admissions", 1, "")
		data, _ := fields(t, a)["data"].(map[string]any)
		challenge, _ := data["challenge"].(map[string]any)
		if a.status != 403 || fields(t, a)["error"] != "challenge_required" || challenge["kind"] != "work" || challenge["bits"] != 8.0 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		proof := func(who int) string {
			a := ask("POST", "/challenges", who, "")
			c := fields(t, a)
			text, _ := c["challenge"].(string)
			if a.status != 201 || c["kind"] != "work" || text == "" || c["expires_at"] == nil {
				t.Fatalf("%d %s", a.status, a.body)
			}
			return fmt.Sprintf(`{"proof":{"challenge":%q,"answer":%q}}`, text, solve(text, 8))
		}
		if a := ask("POST", "/admissions", 1, `{"proof":{"challenge":"x","answer":"1"}}`); a.status != 403 || fields(t, a)["error"] != "challenge_failed" {
			t.Errorf("%d %s", a.status, a.body)
		}
		for _, c := range []struct {
			body   string
			status int
		}{
			{`{"ticket":1}`, 422}, {`{"proof":{}}`, 422}, {`{"`, 400}, {`{"proof":{"challenge":"x","answer":"` + strings.Repeat("1", 30) + `"}}`, 422},
			{`{"ticket":"` + strings.Repeat("x", 5000) + `"}`, 413}, {`{"token":"x"}`, 422},
		} {
			if a := ask("POST", "/admissions", 1, c.body); a.status != c.status {
				t.Errorf("%.40s: %d %s", c.body, a.status, a.body)
			}
		}
		for n := 1; n <= 30; n++ {
			a = ask("POST", "/admissions", n, proof(n))
			v := fields(t, a)
			if a.status != 202 || v["status"] != "waiting" || v["number"] != float64(n) || v["position"] != float64(n) || v["estimate_seconds"] != nil ||
				v["ticket"] == "" || v["token"] != nil || a.header.Get("Retry-After") == "" {
				t.Fatalf("%d %s", a.status, a.body)
			}
			links, _ := v["links"].(map[string]any)
			if links["self"] != "/v1/sales/"+h.w.Public+"/admissions/mine" || links["events"] != "/v1/sales/"+h.w.Public+"/admissions/events" {
				t.Fatal(a.body)
			}
		}
		if again := ask("POST", "/admissions", 30, ""); again.status != 202 || fields(t, again)["number"] != 30.0 {
			t.Errorf("repeated: %d %s", again.status, again.body)
		}
		a = ask("GET", "/admissions/mine", 5, "")
		if v := fields(t, a); a.status != 200 || v["position"] != 5.0 || v["waiting"] != 30.0 || v["opens_at"] == nil || v["poll_after_ms"].(float64) < 2000 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := ask("GET", "/admissions/mine", 99, ""); a.status != 404 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := ask("DELETE", "/admissions/mine", 5, ""); a.status != 204 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := ask("GET", "/admissions/mine", 5, ""); a.status != 404 {
			t.Errorf("%d %s", a.status, a.body)
		}
		h.toOpening()
		time.Sleep(time.Second + 100*time.Millisecond)
		a = ask("GET", "/admissions/mine", 1, "")
		v := fields(t, a)
		token, _ := v["token"].(string)
		if a.status != 200 || v["status"] != "admitted" || v["position"] != nil || v["expires_at"] == nil || h.s.Verify(token, theSale, person(1).User, time.Now()) != nil {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := ask("POST", "/admissions", 1, ""); a.status != 201 || fields(t, a)["token"] != token {
			t.Errorf("%d %s", a.status, a.body)
		}
		if v := fields(t, ask("GET", "/admissions/mine", 29, "")); v["estimate_seconds"] == nil {
			t.Errorf("no estimate: %v", v)
		}
		if a := ask("POST", "/challenges", 1, `{"kind":"picture"}`); a.status != 422 {
			t.Errorf("%d %s", a.status, a.body)
		}
		h.w.Policy.Brake = BrakePicture
		h.s.Follow(h.w)
		a = ask("POST", "/challenges", 1, `{"kind":"picture"}`)
		if v := fields(t, a); a.status != 201 || v["kind"] != "picture" || v["instead"] != "work" || v["bits"] != nil ||
			!strings.HasPrefix(fmt.Sprint(v["picture"]), "data:image/png;base64,iVBOR") {
			t.Errorf("%d %.200s", a.status, a.body)
		}
		a = ask("POST", "/challenges", 1, `{"kind":"work"}`)
		if v := fields(t, a); a.status != 201 || v["kind"] != "work" || v["bits"] != 12.0 {
			t.Errorf("%d %s", a.status, a.body)
		}
		h.w.Policy.Brake, h.w.Draw = BrakeNone, true
		h.s.Follow(h.w)
		if a := ask("POST", "/admissions", 1, ""); a.status != 409 || fields(t, a)["error"] != "draw_only" {
			t.Errorf("%d %s", a.status, a.body)
		}
		h.w.Draw, h.w.Policy.Room = false, false
		h.s.Follow(h.w)
		if a := ask("POST", "/challenges", 1, ""); a.status != 409 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := ask("POST", "/admissions", 77, `{}`); a.status != 201 || fields(t, a)["status"] != "admitted" {
			t.Errorf("%d %s", a.status, a.body)
		}
		h.w.Ends = time.Now()
		h.s.Follow(h.w)
		if a := ask("POST", "/admissions", 1, ""); a.status != 410 {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

// What one poll costs the server, without the network.
func BenchmarkHTTPMine(b *testing.B) {
	s, w := crowded(b, 50_000, Policy{Multiple: 1})
	srv, err := web.New(web.Config{}, web.Parts{Obs: s.Obs, Title: "test", Version: "0",
		Authenticate: func(*http.Request) (levee.Actor, error) { return person(25_000), nil }})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Obs.SetLevel("warn"); err != nil {
		b.Fatal(err)
	}
	s.Routes(srv)
	handler := srv.Handler()
	r := httptest.NewRequest("GET", "/v1/sales/"+w.Public+"/admissions/mine", nil)
	b.ReportAllocs()
	for b.Loop() {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		if rec.Code != 200 {
			b.Fatal(rec.Body)
		}
	}
}
