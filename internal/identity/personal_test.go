package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/token"
)

func (h *house) personal(ctx context.Context, scopes ...string) (token.Personal, string) {
	h.t.Helper()
	p, text, err := h.CreatePersonal(ctx, token.Personal{Name: "nightly export", Scopes: scopes, ExpiresAt: h.clock.Now().Add(30 * 24 * time.Hour)}, h.origin)
	h.wantCode(err, "")
	return p, text.Reveal()
}

// TestPersonalTokens: a token acts for its owner within its scopes, shows when it was used, and cannot make another or look at its owner's.
func TestPersonalTokens(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	ctx := h.as(h.signIn("alice", SessionToken))
	p, text := h.personal(ctx, "orders:read", "listSales", "listSales")
	if strings.Join(p.Scopes, " ") != "listSales orders:read" || !strings.HasPrefix(text, "lvp_") {
		t.Errorf("%+v", p)
	}
	for range 2 { // the long way, then from the cache
		a, err := h.AuthenticateToken(text)
		h.wantCode(err, "")
		if a.User != u.ID || a.Roles != levee.RoleCustomer || !a.Scope.Allows("listSales", "sales", true) || !a.Scope.Allows("x", "orders", true) ||
			a.Scope.Allows("x", "orders", false) || a.Scope.Allows("changePassword", "accounts", true) {
			t.Errorf("%+v", a)
		}
	}
	a, _ := h.AuthenticateToken(text)
	asToken := levee.WithActor(context.Background(), a)
	_, _, err := h.CreatePersonal(asToken, token.Personal{Name: "child", Scopes: []string{"x"}, ExpiresAt: h.clock.Now().Add(time.Hour)}, h.origin)
	h.wantCode(err, levee.CodeForbidden)
	_, err = h.PersonalTokens(asToken)
	h.wantCode(err, levee.CodeForbidden)
	h.wantCode(h.RevokePersonal(asToken, p.ID, h.origin), levee.CodeForbidden)

	list, err := h.PersonalTokens(ctx)
	h.wantCode(err, "")
	if len(list) != 1 || list[0].Name != p.Name || fmt.Sprint(list[0].Scopes) != fmt.Sprint(p.Scopes) || !list[0].ExpiresAt.Equal(p.ExpiresAt) || !list[0].UsedAt.IsZero() {
		t.Errorf("%+v", list)
	}
	if sessions, err := h.Sessions(ctx); err != nil || len(sessions) != 1 {
		t.Errorf("a token stands among the sessions: %+v, %v", sessions, err)
	}
	h.clock.Step(3 * time.Hour)
	ctx = h.as(h.signIn("alice", SessionToken))
	if _, err := h.AuthenticateToken(text); err != nil {
		t.Fatal(err)
	}
	h.wantCode(h.FlushSeen(context.Background()), "")
	if list, _ = h.PersonalTokens(ctx); !list[0].UsedAt.Equal(h.clock.Now().Truncate(time.Microsecond)) {
		t.Errorf("used %v, now %v", list[0].UsedAt, h.clock.Now())
	}
	// It is not kept alive by being used, nor ended by being left alone: only its date counts.
	h.clock.Step(26 * 24 * time.Hour)
	h.restart()
	if _, err := h.AuthenticateToken(text); err != nil {
		t.Error(err)
	}
	h.clock.Step(4 * 24 * time.Hour)
	_, err = h.AuthenticateToken(text)
	h.wantCode(err, levee.CodeUnauthenticated)
	// At rest there is only the hash.
	var rest string
	h.wantCode(h.db.QueryRow(context.Background(), `SELECT secret_hash FROM identity_session WHERE id = ?`, p.ID).Scan(&rest), "")
	if rest != token.Hash(text) || strings.Contains(rest, text[30:60]) {
		t.Errorf("at rest: %q", rest)
	}
	if h.audited("token.created") != 1 {
		t.Error("nothing in the trail")
	}
	h.clock.Step(40 * 24 * time.Hour)
	h.wantCode(h.Prune(context.Background()), "")
	_, err = readScopes(context.Background(), h.db.QueryRow, p.ID)
	if !errors.Is(err, db.ErrNoRows) {
		t.Errorf("what it was for is kept for ever: %v", err)
	}
}

// TestPersonalEnds: whatever takes a token or its owner's rights away acts on the next call, also on another node once it has looked (and not before: the control).
func TestPersonalEnds(t *testing.T) {
	for what, act := range map[string]func(h *house, ctx context.Context, u User, p token.Personal) error{
		"revoked": func(h *house, ctx context.Context, _ User, p token.Personal) error {
			return h.RevokePersonal(ctx, p.ID, h.origin)
		},
		"disabled": func(h *house, _ context.Context, u User, _ token.Personal) error {
			_, err := h.Disable(h.admin, u.ID, "test", h.origin)
			return err
		},
		"all ended by an administrator": func(h *house, _ context.Context, u User, _ token.Personal) error {
			n, err := h.EndSessionsOf(h.admin, u.ID, h.origin)
			if err == nil && n != 2 {
				return fmt.Errorf("%d ended", n)
			}
			return err
		},
		"password changed": func(h *house, ctx context.Context, _ User, _ token.Personal) error {
			_, err := h.ChangePassword(ctx, goodPassword, "another one of 9", h.origin)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			h, other := twoNodes(t)
			u := h.signUp("alice")
			f := follower{since: other.now()}
			ctx := h.as(h.signIn("alice", SessionToken))
			p, text := h.personal(ctx, "x")
			for _, s := range []*Service{h.Service, other} {
				_, err := s.AuthenticateToken(text)
				h.wantCode(err, "")
			}
			h.wantCode(act(h, ctx, u, p), "")
			_, err := h.AuthenticateToken(text)
			h.wantCode(err, levee.CodeUnauthenticated)
			if _, err := other.AuthenticateToken(text); err != nil {
				t.Errorf("control: %v", err)
			}
			h.wantCode(other.follow(context.Background(), &f), "")
			_, err = other.AuthenticateToken(text)
			h.wantCode(err, levee.CodeUnauthenticated)
			h.restart()
			_, err = h.AuthenticateToken(text)
			h.wantCode(err, levee.CodeUnauthenticated)
		})
	}
}

// TestPersonalRoles: a token never gives more than its owner's roles at the moment of its use.
func TestPersonalRoles(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	_, err := h.SetRoles(h.admin, u.ID, levee.RoleOperator, h.origin)
	h.wantCode(err, "")
	_, text := h.personal(h.as(h.signIn("alice", SessionToken)), "x")
	for _, roles := range []levee.Roles{levee.RoleOperator, levee.RoleCustomer, levee.RoleCustomer | levee.RoleOperator} {
		if _, err := h.SetRoles(h.admin, u.ID, roles, h.origin); err != nil {
			t.Fatal(err)
		}
		if a, err := h.AuthenticateToken(text); err != nil || a.Roles != roles {
			t.Errorf("roles %v, want %v: %v", a.Roles.Names(), roles.Names(), err)
		}
	}
}

func TestPersonalBounds(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	ctx := h.as(h.signIn("alice", SessionToken))
	now := h.clock.Now()
	good := token.Personal{Name: "x", Scopes: []string{"x"}, ExpiresAt: now.Add(time.Hour)}
	for field, change := range map[string]func(p *token.Personal){
		"name":        func(p *token.Personal) { p.Name = " \t" },
		"name ":       func(p *token.Personal) { p.Name = strings.Repeat("é", 101) },
		"name  ":      func(p *token.Personal) { p.Name = "a\x00b" },
		"scopes":      func(p *token.Personal) { p.Scopes = nil },
		"scopes ":     func(p *token.Personal) { p.Scopes = make([]string, 51) },
		"scopes[1]":   func(p *token.Personal) { p.Scopes = []string{"x", "unknown"} },
		"scopes[0]":   func(p *token.Personal) { p.Scopes = []string{"a b"} },
		"scopes[0] ":  func(p *token.Personal) { p.Scopes = []string{""} },
		"expires_at":  func(p *token.Personal) { p.ExpiresAt = now.Add(367 * 24 * time.Hour) },
		"expires_at ": func(p *token.Personal) { p.ExpiresAt = now },
	} {
		p := good
		change(&p)
		_, _, err := h.CreatePersonal(ctx, p, h.origin)
		var e *levee.Error
		if levee.CodeOf(err) != levee.CodeInvalid || !asError(err, &e) || e.Fields[0].Field != strings.TrimSpace(field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	for who, actor := range map[string]levee.Actor{"a visitor": {}, "an invented buyer": {User: 5, Rehearsal: true}, "a foreign token": {User: 5, Roles: levee.RoleCustomer}} {
		if _, _, err := h.CreatePersonal(levee.WithActor(context.Background(), actor), good, h.origin); err == nil {
			t.Errorf("%s made a token", who)
		}
	}
	for range maxPersonal {
		_, _, err := h.CreatePersonal(ctx, good, h.origin)
		h.wantCode(err, "")
	}
	_, _, err := h.CreatePersonal(ctx, good, h.origin)
	h.wantCode(err, levee.CodeConflict)
	// Sign-ins do not push tokens out, and tokens do not push sign-ins out.
	for range 25 {
		h.signIn("alice", SessionCookie)
	}
	ctx = h.as(h.signIn("alice", SessionToken))
	list, err := h.PersonalTokens(ctx)
	h.wantCode(err, "")
	if len(list) != maxPersonal {
		t.Errorf("%d tokens", len(list))
	}
	if n, err := h.EndOtherSessions(ctx, h.origin); err != nil || n != 19 {
		t.Errorf("%d sessions ended, %v", n, err)
	}
	if list, _ = h.PersonalTokens(ctx); len(list) != maxPersonal {
		t.Errorf("%d tokens after the other sessions were ended", len(list))
	}
	h.signUp("bob")
	h.wantCode(h.RevokePersonal(h.as(h.signIn("bob", SessionToken)), list[0].ID, h.origin), levee.CodeNotFound)
	h.wantCode(h.EndSession(ctx, list[0].ID, h.origin), levee.CodeNotFound)
	h.wantCode(h.RevokePersonal(ctx, list[0].ID, h.origin), "")
	h.wantCode(h.RevokePersonal(ctx, list[0].ID, h.origin), levee.CodeNotFound)
}

// TestSessionsOfOthers: an administrator sees and ends the sessions of an account, and nobody else does.
func TestSessionsOfOthers(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u, other := h.signUp("alice"), h.signUp("bob")
	g := []Grant{h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie), h.signIn("bob", SessionToken)}
	for _, ctx := range []context.Context{h.as(g[2]), levee.WithActor(context.Background(), levee.Actor{User: 9, Roles: levee.RoleOperator})} {
		_, err := h.SessionsOf(ctx, u.ID)
		h.wantCode(err, levee.CodeForbidden)
		h.wantCode(h.EndSessionOf(ctx, u.ID, g[0].Session.ID, h.origin), levee.CodeForbidden)
		_, err = h.EndSessionsOf(ctx, u.ID, h.origin)
		h.wantCode(err, levee.CodeForbidden)
		_, _, err = h.CreatePasswordReset(ctx, u.ID, h.origin)
		h.wantCode(err, levee.CodeForbidden)
	}
	list, err := h.SessionsOf(h.admin, u.ID)
	h.wantCode(err, "")
	if len(list) != 2 || list[0].ID != g[1].Session.ID || list[1].ID != g[0].Session.ID {
		t.Errorf("%+v", list)
	}
	_, err = h.SessionsOf(h.admin, 4711)
	h.wantCode(err, levee.CodeNotFound)
	h.wantCode(h.EndSessionOf(h.admin, other.ID, g[0].Session.ID, h.origin), levee.CodeNotFound)
	h.wantCode(h.EndSessionOf(h.admin, u.ID, g[0].Session.ID, h.origin), "")
	_, err = h.authenticate(g[0])
	h.wantCode(err, levee.CodeUnauthenticated)
	h.as(g[1])
	if n, err := h.EndSessionsOf(h.admin, u.ID, h.origin); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	_, err = h.authenticate(g[1])
	h.wantCode(err, levee.CodeUnauthenticated)
	h.as(g[2])
	if h.audited("session.ended") != 1 || h.audited("user.sessions_ended") != 1 {
		t.Error("the trail lacks an act")
	}
}

// TestPasswordReset: of fifty who use one link at once, with as many passwords, one sets his; all sessions end.
func TestPasswordReset(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.deps.Config.HashQueue = 100
	h.restart()
	u := h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	_, personal := h.personal(h.as(g), "x")
	stale, _, err := h.CreatePasswordReset(h.admin, u.ID, h.origin)
	h.wantCode(err, "")
	link, expires, err := h.CreatePasswordReset(h.admin, u.ID, h.origin)
	h.wantCode(err, "")
	if !expires.Equal(h.clock.Now().Add(time.Hour).Truncate(time.Microsecond)) {
		t.Errorf("expires %v", expires)
	}
	ctx := context.Background()
	_, err = h.ResetPassword(ctx, stale, "another one of 9", h.origin)
	h.wantCode(err, levee.CodeGone)
	_, err = h.ResetPassword(ctx, link, "12345678", h.origin)
	h.wantCode(err, levee.CodeInvalid) // and the link is still good
	nodes := []*Service{h.Service, h.process(), h.process()}
	var won atomic.Int64
	var password obs.Secret
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			next := obs.Secret(fmt.Sprintf("another one of %d", i))
			switch _, err := nodes[i%3].ResetPassword(ctx, link, next, h.origin); levee.CodeOf(err) {
			case "":
				won.Add(1)
				password = next
			case levee.CodeGone, levee.CodeConflict:
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d set a password", won.Load())
	}
	for _, text := range []string{g.AccessToken.Reveal(), personal} {
		f := follower{since: h.now().Add(-time.Minute)}
		h.wantCode(h.follow(ctx, &f), "")
		_, err = h.AuthenticateToken(text)
		h.wantCode(err, levee.CodeUnauthenticated)
	}
	_, err = h.SignIn(ctx, SignIn{Name: "alice", Password: goodPassword, Kind: SessionToken}, h.origin)
	h.wantCode(err, levee.CodeUnauthenticated)
	_, err = h.SignIn(ctx, SignIn{Name: "alice", Password: password, Kind: SessionToken}, h.origin)
	h.wantCode(err, "")
	if h.audited("user.reset_created") != 2 || h.audited("user.password_reset") != 1 {
		t.Error("the trail lacks an act")
	}
	_, err = h.Disable(h.admin, u.ID, "test", h.origin)
	h.wantCode(err, "")
	_, _, err = h.CreatePasswordReset(h.admin, u.ID, h.origin)
	h.wantCode(err, levee.CodeConflict)
}
