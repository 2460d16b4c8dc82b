package identity

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/trail"
)

// Nothing secret may reach a log, an error or the trail, whatever goes wrong.
func TestNoSecretInLogs(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	o, err := obs.Open(obs.Config{Level: "debug", Format: "json"}, lockedWriter{&mu, &out})
	if err != nil {
		t.Fatal(err)
	}
	h := newHouseOn(t, o, cheap, map[string]string{"sign_in_account": "3/m"})
	ctx := context.Background()
	const canary = "canary-wren-finch-7"
	var secrets []string
	note := func(what string, err error) {
		if err != nil {
			h.log.Error("what a handler would log", "what", what, "error", err)
			var e *levee.Error
			if asError(err, &e) {
				h.log.Error("fields", "fields", fmt.Sprintf("%+v", e.Fields), "data", e.Data)
			}
		}
	}
	_, err = h.SignUp(ctx, NewUser{Name: "alice", Phone: "+8613800138000", Password: canary}, h.origin)
	note("sign up", err)
	_, err = h.SignUp(ctx, NewUser{Name: canary + "\n", Password: canary}, h.origin)
	note("password as name", nil) // a name is no secret, so its error may show it; only that nothing else leaks matters
	_, err = h.SignUp(ctx, NewUser{Name: "bob", Password: canary + obs.Secret(strings.Repeat("x", 200))}, h.origin)
	note("too long", err)
	_, err = h.SignUp(ctx, NewUser{Name: "alice", Password: canary}, h.origin)
	note("taken", err)
	for _, kind := range []SessionKind{SessionToken, SessionCookie} {
		g, err := h.SignIn(ctx, SignIn{Name: "alice", Password: canary, Kind: kind}, h.origin)
		if err != nil {
			t.Fatal(err)
		}
		g.User.Phone = "" // known by other names than "phone" here, and no secret
		h.log.Info("a grant by mistake", "grant", g, "text", fmt.Sprintf("%v %+v %#v", g, g, g))
		for _, s := range []obs.Secret{g.AccessToken, g.RefreshToken, g.Cookie} {
			if s != "" {
				secrets = append(secrets, s.Reveal())
			}
		}
		if kind == SessionToken {
			next, err := h.Refresh(ctx, g.RefreshToken, h.origin)
			note("refresh", err)
			secrets = append(secrets, next.RefreshToken.Reveal(), next.AccessToken.Reveal())
			_, err = h.AuthenticateToken(g.AccessToken.Reveal() + "x")
			note("tampered", err)
			_, err = h.Refresh(ctx, g.RefreshToken+"x", h.origin)
			note("tampered refresh", err)
			h.clock.Step(time.Hour)
			_, err = h.AuthenticateToken(g.AccessToken.Reveal())
			note("expired", err)
			_, err = h.Refresh(ctx, g.RefreshToken, h.origin)
			note("reuse", err)
		} else {
			_, err = h.ChangePassword(h.as(g), canary+"-wrong", canary+"-new", h.origin)
			note("wrong current", err)
			_, err = h.ChangePassword(h.as(g), canary, canary, h.origin)
			note("same", err)
			_, err = h.ChangePassword(h.as(g), canary, canary+"-new", h.origin)
			note("change", err)
		}
	}
	for range 5 {
		_, err = h.SignIn(ctx, SignIn{Name: "alice", Password: canary + "-bad", Kind: SessionToken}, h.origin)
		note("wrong", err)
	}
	_, err = h.Setup(ctx, canary, NewUser{Name: "thief", Password: canary}, h.origin)
	note("setup", err)
	entries, _, err := h.trail.List(h.admin, trail.Filter{Page: levee.Page{Limit: 100}})
	if err != nil || len(entries) < 3 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	var trail strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&trail, "%+v\n", e)
	}
	// At rest: only hashes.
	rest := dump(t, h)
	mu.Lock()
	logged := out.String()
	mu.Unlock()
	if !strings.Contains(logged, "what a handler would log") {
		t.Fatal("nothing was logged")
	}
	secrets = append(secrets, canary)
	for _, s := range secrets {
		for _, part := range append(strings.Split(s, "."), s) {
			if len(part) < 12 || strings.HasPrefix(part, "ses_") || strings.HasPrefix(part, "eyJhbGci") { // a public id, a public header
				continue
			}
			for where, text := range map[string]string{"the log": logged, "the trail": trail.String(), "SQL": rest} {
				if i := strings.Index(text, part); i >= 0 {
					t.Errorf("%s holds a secret: …%s…", where, text[max(0, i-200):min(len(text), i+40)])
				}
			}
		}
	}
	if strings.Contains(logged, "13800138000") || strings.Contains(trail.String(), "13800138000") {
		t.Error("a whole phone number in the log or the trail")
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// dump shows all that the room keeps in SQL about credentials and sessions.
func dump(t *testing.T, h *house) string {
	var text strings.Builder
	for _, q := range []string{`SELECT hash, '', '' FROM identity_credential`, `SELECT secret_hash, previous_hash, salt FROM identity_session`,
		`SELECT payload, '', '' FROM event_outbox`} {
		rows, err := h.db.Query(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var a, b, c string
			if err := rows.Scan(&a, &b, &c); err != nil {
				t.Fatal(err)
			}
			text.WriteString(a + " " + b + " " + c + "\n")
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}
