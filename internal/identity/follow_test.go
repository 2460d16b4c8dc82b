package identity

import (
	"context"
	"testing"
	"time"

	"levee"
)

// twoNodes returns a house and the same house in another process: one database, memories of their own.
func twoNodes(t *testing.T) (h *house, other *Service) {
	h = newHouse(t, cheap, nil)
	h.deps.Shared = true
	h.restart()
	return h, h.process()
}

// TestFollowEnds: what one node ends, another refuses after its next look; before it, it cannot know (the negative control).
func TestFollowEnds(t *testing.T) {
	h, other := twoNodes(t)
	h.signUp("alice")
	h.signUp("bob")
	f := follower{since: other.now()}
	bearer, cookie, bystander := h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie), h.signIn("bob", SessionToken)
	there := func(what string, want levee.Code) {
		t.Helper()
		_, err := other.AuthenticateToken(bearer.AccessToken.Reveal())
		if code := levee.CodeOf(err); code != want {
			t.Errorf("%s: the token gets %q, want %q", what, code, want)
		}
		_, err = other.AuthenticateCookie(context.Background(), cookie.Cookie.Reveal())
		if code := levee.CodeOf(err); code != want {
			t.Errorf("%s: the cookie gets %q, want %q", what, code, want)
		}
		if _, err := other.AuthenticateToken(bystander.AccessToken.Reveal()); err != nil {
			t.Errorf("%s: a bystander: %v", what, err)
		}
	}
	there("signed in", "")
	for _, g := range []Grant{bearer, cookie} {
		actor := levee.Actor{User: g.User.ID, Session: g.Session.ID}
		if err := h.SignOut(levee.WithActor(context.Background(), actor)); err != nil {
			t.Fatal(err)
		}
	}
	there("signed out on the other node, not looked yet", "")
	if err := other.follow(context.Background(), &f); err != nil {
		t.Fatal(err)
	}
	there("looked", levee.CodeUnauthenticated)
}

// TestFollowUsers: roles and shut accounts reach the other node, also what committed late, with a time before its last look.
func TestFollowUsers(t *testing.T) {
	h, other := twoNodes(t)
	u := h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	f := follower{since: other.now()}
	look := func() levee.Actor {
		t.Helper()
		if err := other.follow(context.Background(), &f); err != nil {
			t.Fatal(err)
		}
		a, _ := other.AuthenticateToken(g.AccessToken.Reveal())
		return a
	}
	if a := look(); a.Roles != levee.RoleCustomer {
		t.Fatalf("roles %v", a.Roles)
	}
	h.clock.Step(-30 * time.Second) // the other process's clock is behind
	_, err := h.SetRoles(h.admin, u.ID, levee.RoleCustomer|levee.RoleOperator, h.origin)
	h.wantCode(err, "")
	h.clock.Step(30 * time.Second)
	if a, err := other.AuthenticateToken(g.AccessToken.Reveal()); err != nil || a.Roles != levee.RoleCustomer {
		t.Errorf("negative control: the roles %v were known without a look (%v)", a.Roles, err)
	}
	if a := look(); !a.Roles.Has(levee.RoleOperator) {
		t.Errorf("roles %v after the look", a.Roles)
	}
	_, err = h.SetRoles(h.admin, u.ID, levee.RoleCustomer, h.origin)
	h.wantCode(err, "")
	if a := look(); a.Roles != levee.RoleCustomer {
		t.Errorf("roles %v after they were taken away", a.Roles)
	}
	_, err = h.Disable(h.admin, u.ID, "test", h.origin)
	h.wantCode(err, "")
	if a := look(); a.SignedIn() {
		t.Error("a disabled account goes on at the other node")
	}
}

// TestFollowPages: more than one page in one instant, and nothing is lost or read for ever.
func TestFollowPages(t *testing.T) {
	h, _ := twoNodes(t)
	u := h.signUp("alice")
	var want []int64
	for range 7 {
		want = append(want, h.signIn("alice", SessionToken).Session.ID)
	}
	if _, err := h.EndOtherSessions(levee.WithActor(context.Background(), levee.Actor{User: u.ID, Session: 1}), h.origin); err != nil {
		t.Fatal(err)
	}
	var got []int64
	for at, after := int64(0), int64(0); ; {
		page, err := endedSessions(context.Background(), h.db.Query, at, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			got = append(got, e.session)
			at, after = e.at, e.session
		}
		if len(page) < 2 {
			break
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d of %d sessions", len(got), len(want))
	}
}
