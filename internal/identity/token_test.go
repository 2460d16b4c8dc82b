package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

func asError(err error, target **levee.Error) bool { return errors.As(err, target) }

func TestTokenExpiresWhileCached(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	if want := h.clock.Now().Add(10 * time.Minute); !g.AccessExpires.Equal(want) {
		t.Errorf("expires %v, want %v", g.AccessExpires, want)
	}
	h.clock.Step(10*time.Minute - time.Microsecond)
	h.as(g)
	h.clock.Step(time.Microsecond)
	_, err := h.authenticate(g)
	h.wantCode(err, levee.CodeUnauthenticated)
	var e *levee.Error
	if !asError(err, &e) || e.Data["reason"] != "expired" {
		t.Errorf("a client cannot see that it should refresh: %v", e)
	}
	_, err = h.authenticate(g) // now from scratch
	h.wantCode(err, levee.CodeUnauthenticated)
	if !asError(err, &e) || e.Data["reason"] != "expired" {
		t.Errorf("a client cannot see that it should refresh: %v", e)
	}
}

// Whatever ends a session or changes what it may do acts on the next call, also while everything is cached.
func TestRevocationActsAtOnce(t *testing.T) {
	acts := map[string]func(h *house, g Grant, ctx context.Context) error{
		"disable": func(h *house, g Grant, _ context.Context) error {
			_, err := h.Disable(h.admin, g.User.ID, "test", h.origin)
			return err
		},
		"disable and enable": func(h *house, g Grant, _ context.Context) error {
			if _, err := h.Disable(h.admin, g.User.ID, "test", h.origin); err != nil {
				return err
			}
			_, err := h.Enable(h.admin, g.User.ID, h.origin)
			return err
		},
		"password set by an administrator": func(h *house, g Grant, _ context.Context) error {
			return h.SetPassword(h.admin, g.User.ID, "another one of 9", h.origin)
		},
		"sign out": func(h *house, _ Grant, ctx context.Context) error { return h.SignOut(ctx) },
		"session ended from elsewhere": func(h *house, g Grant, _ context.Context) error {
			return h.EndSession(h.as(h.signIn("alice", SessionToken)), g.Session.ID, h.origin)
		},
		"other sessions ended": func(h *house, _ Grant, _ context.Context) error {
			_, err := h.EndOtherSessions(h.as(h.signIn("alice", SessionToken)), h.origin)
			return err
		},
		"password changed elsewhere": func(h *house, _ Grant, _ context.Context) error {
			_, err := h.ChangePassword(h.as(h.signIn("alice", SessionToken)), goodPassword, "another one of 9", h.origin)
			return err
		},
	}
	for name, act := range acts {
		for _, kind := range []SessionKind{SessionToken, SessionCookie} {
			for _, warm := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/kind=%d/warm=%v", name, kind, warm), func(t *testing.T) {
					h := newHouse(t, cheap, nil)
					h.signUp("alice")
					g := h.signIn("alice", kind)
					ctx := h.as(g)
					if !warm {
						h.restart()
					}
					if err := act(h, g, ctx); err != nil {
						t.Fatal(err)
					}
					_, err := h.authenticate(g)
					h.wantCode(err, levee.CodeUnauthenticated)
					h.restart()
					_, err = h.authenticate(g)
					h.wantCode(err, levee.CodeUnauthenticated)
					if kind == SessionToken {
						_, err = h.Refresh(context.Background(), g.RefreshToken, h.origin)
						h.wantCode(err, levee.CodeUnauthenticated)
					}
				})
			}
		}
	}
}

func TestRolesActAtOnce(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	grants := []Grant{h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)}
	for _, roles := range []levee.Roles{levee.RoleCustomer | levee.RoleOperator, levee.RoleOperator, levee.RoleCustomer} {
		if _, err := h.SetRoles(h.admin, u.ID, roles, h.origin); err != nil {
			t.Fatal(err)
		}
		for _, g := range grants {
			if a, err := h.authenticate(g); err != nil || a.Roles != roles {
				t.Errorf("roles %v, want %v (%v)", a.Roles.Names(), roles.Names(), err)
			}
		}
	}
}

// Readers that load a session from SQL race with the act that ends it: once the act has returned, nobody may get through.
func TestRevocationRacesWithLoading(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_up": "off"})
	u := h.signUp("alice")
	for round := range 60 {
		g := h.signIn("alice", []SessionKind{SessionToken, SessionCookie}[round%2])
		h.restart() // all caches cold
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var err error
			if round%3 == 0 {
				_, err = h.SetRoles(h.admin, u.ID, levee.RoleOperator, Origin{})
			} else {
				_, err = h.Disable(h.admin, u.ID, "race", Origin{})
			}
			if err != nil {
				t.Error(err)
			}
		}()
		parallel(4, func(int) {
			for done := false; !done; {
				select {
				case <-ended:
					done = true
				default:
				}
				a, err := h.authenticate(g)
				if !done {
					continue
				}
				if round%3 == 0 && (err != nil || a.Roles != levee.RoleOperator) {
					t.Errorf("round %d: old roles %v after the change (%v)", round, a.Roles.Names(), err)
				}
				if round%3 != 0 && err == nil {
					t.Errorf("round %d: let in after the account was disabled", round)
				}
			}
		})
		if round%3 == 0 {
			if _, err := h.SetRoles(h.admin, u.ID, levee.RoleCustomer, Origin{}); err != nil {
				t.Fatal(err)
			}
		} else if _, err := h.Enable(h.admin, u.ID, Origin{}); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

func TestRestartKeepsSessions(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	grants := []Grant{h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)}
	h.restart()
	for _, g := range grants {
		a, err := h.authenticate(g)
		h.wantCode(err, "")
		if want := (levee.Actor{User: g.User.ID, Session: g.Session.ID, Roles: levee.RoleCustomer, Abilities: 1}); a != want {
			t.Errorf("got %+v, want %+v", a, want)
		}
	}
}

func TestRehearsalTokens(t *testing.T) {
	h := newHouse(t, cheap, nil)
	ctx := context.Background()
	seen := map[levee.UserID]string{}
	if err := h.IssueRehearsalTokens(ctx, 2500, time.Hour, func(u levee.UserID, token string) error {
		seen[u] = token
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2500 || h.tokens.Len() < 2400 {
		t.Fatalf("%d buyers, %d cached", len(seen), h.tokens.Len())
	}
	check := func(want levee.Code) {
		t.Helper()
		for u, token := range seen {
			a, err := h.AuthenticateToken(token)
			h.wantCode(err, want)
			if err == nil && a != (levee.Actor{User: u, Roles: levee.RoleCustomer, Abilities: 1, Rehearsal: true}) {
				t.Fatalf("got %+v", a)
			}
		}
	}
	check("")
	h.restart()
	check("")
	var invented context.Context
	for u := range seen {
		invented = levee.WithActor(ctx, levee.Actor{User: u, Roles: levee.RoleCustomer, Abilities: 1, Rehearsal: true})
	}
	_, err := h.ChangePassword(invented, "x", "y", Origin{})
	h.wantCode(err, levee.CodeForbidden)
	h.wantCode(h.SignOut(invented), levee.CodeForbidden)
	_, err = h.Sessions(invented)
	h.wantCode(err, levee.CodeForbidden)
	h.clock.Step(time.Hour)
	check(levee.CodeUnauthenticated)

	for _, c := range []struct {
		n   int
		ttl time.Duration
	}{{0, time.Hour}, {-1, time.Hour}, {1_000_001, time.Hour}, {1, 0}, {1, 25 * time.Hour}} {
		h.wantCode(h.IssueRehearsalTokens(ctx, c.n, c.ttl, func(levee.UserID, string) error { return nil }), levee.CodeInvalid)
	}
	stop := errors.New("enough")
	n := 0
	err = h.IssueRehearsalTokens(ctx, 5000, time.Hour, func(levee.UserID, string) error {
		if n++; n == 10 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 10 {
		t.Errorf("%v after %d", err, n)
	}
}

// The registry must not grow with all sessions that ever were.
func TestRegistryForgets(t *testing.T) {
	clock := &obs.StepClock{}
	r := newRegistry(clock.Now)
	for session := range int64(100_000) {
		r.hold(session<<12, clock.Now().Add(time.Minute).UnixMicro())
		clock.Step(100 * time.Millisecond) // 600 are good at any time
	}
	if n := r.len(); n > 64*64+2*600 {
		t.Errorf("%d states kept", n)
	}
}

// A state that was dropped while the clock was ahead must not shield a credential from a later end.
func TestClockStepsBack(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	h.as(g)
	h.clock.Step(time.Hour)
	for i := range h.live.shards {
		h.live.shards[i].mu.Lock()
		h.live.shards[i].sweep(h.clock.Now().UnixMicro())
		h.live.shards[i].mu.Unlock()
	}
	h.clock.Step(-time.Hour)
	h.as(g)
	if _, err := h.Disable(h.admin, u.ID, "test", h.origin); err != nil {
		t.Fatal(err)
	}
	_, err := h.authenticate(g)
	h.wantCode(err, levee.CodeUnauthenticated)
}

func TestAuthenticateTokenAllocatesNothing(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	token := h.signIn("alice", SessionToken).AccessToken.Reveal()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := h.AuthenticateToken(token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations on a hit", n)
	}
}

func BenchmarkAuthenticateToken(b *testing.B) {
	h := newHouse(b, cheap, nil)
	h.obsClock()
	for _, n := range []int{1, 1_000, 50_000} {
		var tokens []string
		if err := h.IssueRehearsalTokens(context.Background(), n, time.Hour, func(_ levee.UserID, token string) error {
			tokens = append(tokens, strings.Clone(token)) // as from a request: another string than the cache's
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("hit/tokens=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := h.AuthenticateToken(tokens[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("hit/parallel/tokens=%d", n), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := h.AuthenticateToken(tokens[i%n]); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	h.signUp("alice")
	token := h.signIn("alice", SessionToken).AccessToken.Reveal()
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.verifyToken(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("forged", func(b *testing.B) {
		bad := token[:len(token)-10] + "AAAAAAAAAA"
		for b.Loop() {
			if _, err := h.AuthenticateToken(bad); err == nil {
				b.Fatal("let in")
			}
		}
	})
	b.Run("issue", func(b *testing.B) {
		if err := h.IssueRehearsalTokens(context.Background(), min(max(1, b.N), 1_000_000), time.Hour,
			func(levee.UserID, string) error { return nil }); err != nil {
			b.Fatal(err)
		}
	})
}

// obsClock gives the house the real clock, whose cost belongs into a benchmark.
func (h *house) obsClock() {
	h.deps.Obs.Clock = time.Now
	h.restart()
}
