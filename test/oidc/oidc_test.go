package oidc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/federation"
)

const public = "https://shop.example"

// files are what the provider is made of.
var files = []string{"package.json", "package-lock.json", ".npmrc", "server.mjs"}

// installed returns a folder that holds the provider, installed by the lock file into a cache when it is not there yet. Without Node the test is left out.
func installed(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("the provider needs Node 20 and npm: ", err)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	texts := map[string][]byte{}
	for _, name := range files {
		if texts[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		sum.Write(texts[name])
	}
	dir := filepath.Join(cache, "levee", "oidc-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	fresh, err := os.MkdirTemp(filepath.Dir(makeDir(t, dir)), "oidc-new-")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(fresh, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(fresh, dir); err != nil { // whole or not at all; another run may have been first
		if _, there := os.Stat(dir); there != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(fresh)
	}
	return dir
}

func makeDir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

// provider runs it until the test ends, and returns its issuer.
func provider(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("node", "server.mjs")
	cmd.Dir = installed(t)
	cmd.Env = append(os.Environ(), "REDIRECT="+public+"/sign-in/ALG/callback", "NODE_ENV=production")
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the provider did not start: %v", err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(line)
}

// browser is somebody's: it keeps cookies of both sides, and stops where the provider sends it back to the shop.
type browser struct {
	t      *testing.T
	house  *apptest.House
	own    map[string]string // cookies of the house
	client *http.Client      // at the provider
}

func newBrowser(t *testing.T, h *apptest.House) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, house: h, own: map[string]string{}, client: &http.Client{Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.String(), public) {
				return http.ErrUseLastResponse
			}
			return nil
		}}}
}

// ask sends a request of the house's own pages.
func (b *browser) ask(method, path string, body any, headers ...string) *apptest.Answer {
	b.t.Helper()
	var cookies []string
	for name, value := range b.own {
		cookies = append(cookies, name+"="+value)
	}
	a := b.house.Visitor.Do(method, path, body, append(headers, "Cookie: "+strings.Join(cookies, "; "))...)
	for _, c := range (&http.Response{Header: a.Header}).Cookies() {
		if b.own[c.Name] = c.Value; c.MaxAge < 0 {
			delete(b.own, c.Name)
		}
		if !c.HttpOnly || !c.Secure || c.Path != "/" || c.Domain != "" || !strings.HasPrefix(c.Name, "__Host-") || c.SameSite == http.SameSiteNoneMode {
			b.t.Errorf("a cookie that others can read or plant: %+v", c)
		}
		if c.Name == "__Host-levee-attempt" && (c.SameSite != http.SameSiteStrictMode || c.MaxAge != 600) {
			b.t.Errorf("the attempt's cookie: %+v", c)
		}
	}
	return a
}

var (
	form  = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	abort = regexp.MustCompile(`href="([^"]+/abort)"`)
)

// visit goes to the provider, signs in as login and consents ("": cancels), and returns what came back in the address.
func (b *browser) visit(address, login string) map[string]any {
	b.t.Helper()
	resp, err := b.client.Get(address)
	for step := 0; ; step++ {
		if err != nil {
			b.t.Fatal(err)
		}
		page, err2 := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err2 != nil || step > 5 {
			b.t.Fatalf("step %d: %v: %s", step, err2, page)
		}
		if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && strings.HasPrefix(to, public) {
			u, err := url.Parse(to)
			if err != nil {
				b.t.Fatal(err)
			}
			answer := map[string]any{"provider": strings.Split(u.Path, "/")[2]}
			for _, name := range []string{"state", "code", "iss", "error"} {
				if v := u.Query().Get(name); v != "" {
					answer[name] = v
				}
			}
			return answer
		}
		if m := abort.FindSubmatch(page); m != nil && login == "" {
			resp, err = b.client.Get(string(m[1]))
			continue
		}
		m := form.FindSubmatch(page)
		if m == nil {
			b.t.Fatalf("the provider shows %d: %s", resp.StatusCode, page)
		}
		prompt := "consent"
		if bytes.Contains(page, []byte(`value="login"`)) {
			prompt = "login"
		}
		resp, err = b.client.PostForm(string(m[1]), url.Values{"prompt": {prompt}, "login": {login}, "password": {"any"}})
	}
}

func (b *browser) begin(path, name string) string {
	b.t.Helper()
	var begun struct {
		Address string `json:"address"`
	}
	b.ask("POST", path, map[string]any{"provider": name, "return_to": "/orders"}).Want(201).Into(&begun)
	return begun.Address
}

type grant struct {
	User struct {
		ID string `json:"id"`
	} `json:"user"`
	ReturnTo string `json:"return_to"`
	New      bool   `json:"new_account"`
}

func TestARealProvider(t *testing.T) {
	issuer := provider(t)
	h := apptest.Start(t, func(c *app.Config) {
		c.HTTP.PublicURL = public
		c.Federation.Insecure = []string{"127.0.0.1"}
		c.Federation.Providers = map[string]federation.Provider{}
		for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
			c.Federation.Providers[strings.ToLower(alg)] = federation.Provider{Kind: "oidc", Issuer: issuer, ClientID: "levee-" + alg, ClientSecret: "canary: of 100% & more"}
		}
	})
	h.Visitor.Do("GET", "/v1/providers", nil).Want(200).Contains(`"name":"eddsa","kind":"oidc","label":"eddsa"`)
	accounts := map[string]string{}
	for _, name := range []string{"rs256", "es256", "eddsa"} {
		b := newBrowser(t, h)
		var first, again grant
		answer := b.visit(b.begin("/v1/sign-in-attempts", name), "mei")
		if answer["provider"] != name || answer["iss"] != issuer {
			t.Fatalf("%s: came back with %v", name, answer)
		}
		a := b.ask("POST", "/v1/sessions/federated", answer).Want(201).Into(&first)
		if first.ReturnTo != "/orders" || bytes.Contains(a.Body, []byte("access_token")) || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s", name, a.Body)
		}
		b.ask("GET", "/v1/me", nil).Want(200).Contains(first.User.ID)
		b.ask("POST", "/v1/sessions/federated", answer).WantError(410, "gone") // a second time
		b.ask("POST", "/v1/sessions/federated", b.visit(b.begin("/v1/sign-in-attempts", name), "mei")).Want(201).Into(&again)
		if again.User.ID != first.User.ID || again.New {
			t.Errorf("%s: the second time leads to another account", name)
		}
		accounts[first.User.ID] = name
		// One's only way in stays. Three clients of one issuer are one link, by the name by which it was made.
		b.ask("DELETE", "/v1/me/links/rs256", nil).WantError(409, "conflict").Contains(`"reason":"last"`)
	}
	if len(accounts) != 1 { // three clients of one issuer, which knows one mei
		t.Errorf("one person has the accounts %v", accounts)
	}
	refusals(t, h)
	links(t, h)
}

func refusals(t *testing.T, h *apptest.House) {
	b := newBrowser(t, h)
	answer := b.visit(b.begin("/v1/sign-in-attempts", "rs256"), "")
	if answer["error"] != "access_denied" {
		t.Fatalf("came back with %v", answer)
	}
	b.ask("POST", "/v1/sessions/federated", answer).WantError(403, "forbidden").Contains(`"reason":"denied"`)
	// Another site cannot have a browser begin or end anything.
	b.ask("POST", "/v1/sign-in-attempts", map[string]any{"provider": "rs256"}, "Sec-Fetch-Site: cross-site").WantError(403, "forbidden")
	b.ask("POST", "/v1/sessions/federated", answer, "Sec-Fetch-Site: cross-site").WantError(403, "forbidden")
	// A victim who opens an attacker's callback address, and one in whose browser an attacker's attempt began.
	attacker, victim := newBrowser(t, h), newBrowser(t, h)
	answer = attacker.visit(attacker.begin("/v1/sign-in-attempts", "rs256"), "attacker")
	victim.ask("POST", "/v1/sessions/federated", answer).WantError(410, "gone").Contains(`"reason":"over"`)
	victim.begin("/v1/sign-in-attempts", "rs256")
	victim.ask("POST", "/v1/sessions/federated", answer).WantError(410, "gone")
	// The code of one attempt in another: the provider sees the other verifier.
	stolen := victim.visit(victim.begin("/v1/sign-in-attempts", "rs256"), "victim")
	mine := attacker.visit(attacker.begin("/v1/sign-in-attempts", "rs256"), "attacker")
	mine["code"] = stolen["code"]
	attacker.ask("POST", "/v1/sessions/federated", mine).WantError(410, "gone").Contains(`"reason":"code"`)
	if len(victim.own) != 1 || attacker.own["__Host-levee"] != "" {
		t.Errorf("somebody is signed in: %v, %v", victim.own, attacker.own)
	}
	b.ask("POST", "/v1/sign-in-attempts", map[string]any{"provider": "rs256", "return_to": "//evil.example"}).WantError(422, "invalid").Contains("body.return_to")
	b.ask("POST", "/v1/sign-in-attempts", map[string]any{"provider": "none"}).WantError(422, "invalid").Contains("body.provider")
	b.ask("POST", "/v1/me/link-attempts", map[string]any{"provider": "rs256"}).WantError(401, "unauthenticated")
	h.Customer.Do("DELETE", "/v1/me/links/rs256", nil).WantError(404, "not_found")
}

func links(t *testing.T, h *apptest.House) {
	b := newBrowser(t, h)
	h.NewCustomer(t, "linker")
	b.ask("POST", "/v1/sessions", map[string]any{"name": "linker", "password": apptest.Password, "cookie": true}).Want(201)
	answer := b.visit(b.begin("/v1/me/link-attempts", "es256"), "bo")
	b.ask("POST", "/v1/sessions/federated", answer).WantError(410, "gone") // a linking's answer signs nobody in
	b.ask("POST", "/v1/me/links", answer).Want(201).Contains(`"return_to":"/orders"`)
	b.ask("GET", "/v1/me/links", nil).Want(200).Contains(`"usable":true`)
	var me, in grant
	b.ask("GET", "/v1/me", nil).Want(200)
	other := newBrowser(t, h)
	other.ask("POST", "/v1/sessions/federated", other.visit(other.begin("/v1/sign-in-attempts", "es256"), "bo")).Want(201).Into(&in)
	if err := json.Unmarshal(b.ask("GET", "/v1/me", nil).Want(200).Body, &me.User); err != nil || me.User.ID != in.User.ID || in.New {
		t.Errorf("the link leads to %s, want %s (%v)", in.User.ID, me.User.ID, err)
	}
	// mei has an account of her own by now.
	second := newBrowser(t, h)
	second.ask("POST", "/v1/sessions", map[string]any{"name": "linker", "password": apptest.Password, "cookie": true}).Want(201)
	second.ask("POST", "/v1/me/links", second.visit(second.begin("/v1/me/link-attempts", "es256"), "mei")).WantError(409, "conflict").Contains(`"reason":"linked"`)
	second.ask("DELETE", "/v1/me/links/es256", nil).Want(204)
	second.ask("GET", "/v1/me/links", nil).Want(200).Contains(`"items":[]`)
}
