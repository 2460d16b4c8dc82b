package identity

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/obs"
	"levee/internal/token"
)

type testClock struct{}

func (testClock) now() time.Time { return (&obs.StepClock{}).Now() }

func TestRefreshRace(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	g := h.signIn("alice", SessionToken)
	for round := range 3 {
		var mu sync.Mutex
		successors := map[obs.Secret]int{}
		var next Grant
		parallel(50, func(int) {
			n, err := h.Refresh(context.Background(), g.RefreshToken, h.origin)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := h.authenticate(n); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			successors[n.RefreshToken]++
			next = n
		})
		if len(successors) != 1 || successors[next.RefreshToken] != 50 {
			t.Fatalf("round %d: %d successors of one token", round, len(successors))
		}
		if next.RefreshToken == g.RefreshToken {
			t.Fatal("not rotated")
		}
		g = next
		h.clock.Step(time.Minute)
	}
	row, err := readSession(context.Background(), h.db.QueryRow, g.Session.ID)
	if err != nil || row.generation != 3 {
		t.Errorf("generation %d after three rotations (%v)", row.generation, err)
	}
}

func TestRefreshReuse(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	ctx := context.Background()
	first := h.signIn("alice", SessionToken)
	bystander := h.signIn("alice", SessionToken)
	second, err := h.Refresh(ctx, first.RefreshToken, h.origin)
	h.wantCode(err, "")

	h.clock.Step(30 * time.Second) // the last moment of grace: the answer was lost, the client asks again
	again, err := h.Refresh(ctx, first.RefreshToken, h.origin)
	h.wantCode(err, "")
	if again.RefreshToken != second.RefreshToken {
		t.Fatal("another successor within the grace time")
	}
	h.restart() // the successor is not a matter of memory
	again, err = h.Refresh(ctx, first.RefreshToken, h.origin)
	h.wantCode(err, "")
	if again.RefreshToken != second.RefreshToken {
		t.Fatal("another successor after a restart")
	}

	h.clock.Step(time.Microsecond)
	h.as(second)
	_, err = h.Refresh(ctx, first.RefreshToken, h.origin)
	h.wantCode(err, levee.CodeUnauthenticated)
	for name, g := range map[string]Grant{"second": second, "again": again} {
		if _, err := h.authenticate(g); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("%s: access token lives on: %v", name, err)
		}
		if _, err := h.Refresh(ctx, g.RefreshToken, h.origin); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("%s: refresh token lives on: %v", name, err)
		}
	}
	h.as(bystander)
	if n := h.audited("session.reused"); n != 1 {
		t.Errorf("%d audit entries", n)
	}
}

// An old token is reuse also when it was replaced twice within the grace time.
func TestRefreshOfGrandparent(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	ctx := context.Background()
	first := h.signIn("alice", SessionToken)
	second, err := h.Refresh(ctx, first.RefreshToken, h.origin)
	h.wantCode(err, "")
	third, err := h.Refresh(ctx, second.RefreshToken, h.origin)
	h.wantCode(err, "")
	_, err = h.Refresh(ctx, first.RefreshToken, h.origin)
	h.wantCode(err, levee.CodeUnauthenticated)
	_, err = h.Refresh(ctx, third.RefreshToken, h.origin)
	h.wantCode(err, levee.CodeUnauthenticated)
}

// Who knows a session's id, but no secret of it, must not be able to end it by making up "replaced" tokens.
func TestMadeUpRefreshTokenEndsNothing(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	ctx := context.Background()
	g := h.signIn("alice", SessionToken)
	next, err := h.Refresh(ctx, g.RefreshToken, h.origin)
	h.wantCode(err, "")
	h.clock.Step(time.Hour)
	thief := token.NewSecrets(h.sealer, someKey("thief"))
	parts := strings.Split(g.RefreshToken.Reveal(), ".")
	for _, made := range []string{thief.Fresh(token.ForRefresh, g.Session.ID), "", "x", strings.Join(parts[:4], "."),
		strings.Join(append(parts[:4:4], "AAAAAAAAAAAAAAAAAAAAAA"), "."), g.AccessToken.Reveal()} {
		_, err := h.Refresh(ctx, obs.Secret(made), h.origin)
		h.wantCode(err, levee.CodeUnauthenticated)
	}
	_, err = h.Refresh(ctx, next.RefreshToken, h.origin)
	h.wantCode(err, "")
}

func TestSessionTimes(t *testing.T) {
	cfg := cheap
	cfg.SessionIdle, cfg.SessionTTL = time.Hour, 3*time.Hour
	h := newHouse(t, cfg, nil)
	h.signUp("alice")
	ctx := context.Background()

	t.Run("idle", func(t *testing.T) {
		token, cookie := h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)
		h.clock.Step(50 * time.Minute)
		h.as(cookie)
		var err error
		token, err = h.Refresh(ctx, token.RefreshToken, h.origin)
		h.wantCode(err, "")
		if err := h.FlushSeen(ctx); err != nil {
			t.Fatal(err)
		}
		h.restart()
		h.clock.Step(50 * time.Minute) // used 50 minutes ago
		h.as(cookie)
		h.clock.Step(61 * time.Minute)
		_, err = h.authenticate(cookie)
		h.wantCode(err, levee.CodeUnauthenticated)
		_, err = h.Refresh(ctx, token.RefreshToken, h.origin)
		h.wantCode(err, levee.CodeUnauthenticated)
	})
	t.Run("absolute", func(t *testing.T) {
		token, cookie := h.signIn("alice", SessionToken), h.signIn("alice", SessionCookie)
		for range 17 {
			h.clock.Step(10 * time.Minute)
			h.as(cookie)
			var err error
			token, err = h.Refresh(ctx, token.RefreshToken, h.origin)
			h.wantCode(err, "")
			h.wantCode(h.FlushSeen(ctx), "")
		}
		h.clock.Step(8 * time.Minute) // 2:58; the access token must not outlive the session
		token, err := h.Refresh(ctx, token.RefreshToken, h.origin)
		h.wantCode(err, "")
		h.as(token)
		if list, err := h.Sessions(h.as(cookie)); err != nil || len(list) != 2 {
			t.Errorf("%d sessions, %v", len(list), err)
		}
		h.clock.Step(2 * time.Minute)
		for _, g := range []Grant{token, cookie} {
			_, err := h.authenticate(g)
			h.wantCode(err, levee.CodeUnauthenticated)
		}
		_, err = h.Refresh(ctx, token.RefreshToken, h.origin)
		h.wantCode(err, levee.CodeUnauthenticated)
	})
	t.Run("pruned", func(t *testing.T) {
		count := func() (n int) {
			if err := h.db.QueryRow(ctx, `SELECT COUNT(*) FROM identity_session`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := count()
		if err := h.Prune(ctx); err != nil || count() != before {
			t.Errorf("pruned too early: %d of %d (%v)", count(), before, err)
		}
		h.clock.Step(32 * 24 * time.Hour)
		fresh := h.signIn("alice", SessionCookie)
		if err := h.Prune(ctx); err != nil || count() != 1 {
			t.Errorf("%d sessions kept (%v)", count(), err)
		}
		h.as(fresh)
	})
}

// A cookie that an attacker planted before the sign-in must be worth nothing after it, and the browser's earlier session ends.
func TestSessionFixation(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	h.signUp("mallory")
	planted := h.signIn("mallory", SessionCookie)
	in := SignIn{Name: "alice", Password: goodPassword, Kind: SessionCookie}
	alice, err := h.SignIn(h.as(planted), in, h.origin) // the victim's browser carries the attacker's cookie
	h.wantCode(err, "")
	if alice.Cookie == planted.Cookie || alice.Session.ID == planted.Session.ID {
		t.Fatal("the planted session was taken over")
	}
	_, err = h.authenticate(planted)
	h.wantCode(err, levee.CodeUnauthenticated)
	again, err := h.SignIn(h.as(alice), in, h.origin)
	h.wantCode(err, "")
	_, err = h.authenticate(alice)
	h.wantCode(err, levee.CodeUnauthenticated)
	if a := levee.ActorFrom(h.as(again)); a.User != alice.User.ID {
		t.Errorf("got %+v", a)
	}
}

func TestSessionsAreBounded(t *testing.T) {
	cfg := cheap
	cfg.SessionsPerUser = 3
	h := newHouse(t, cfg, nil)
	h.signUp("alice")
	var grants []Grant
	for range 5 {
		grants = append(grants, h.signIn("alice", SessionToken))
		h.clock.Step(time.Second)
	}
	for i, g := range grants {
		_, err := h.authenticate(g)
		h.wantCode(err, map[bool]levee.Code{true: levee.CodeUnauthenticated}[i < 2])
	}
	list, err := h.Sessions(h.as(grants[4]))
	if err != nil || len(list) != 3 || list[0].ID != grants[4].Session.ID || list[0].Address != "192.0.2.7" || list[0].Agent != "test" {
		t.Errorf("got %+v, %v", list, err)
	}
	h.signUp("bob")
	bob := h.as(h.signIn("bob", SessionToken))
	h.wantCode(h.EndSession(bob, grants[4].Session.ID, h.origin), levee.CodeNotFound)
	h.wantCode(h.EndSession(bob, 4711, h.origin), levee.CodeNotFound)
	h.as(grants[4])
}

func TestSignInTellsNothing(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_in_account": "off"})
	h.signUp("alice")
	h.signUp("gone")
	gone, err := h.SignIn(context.Background(), SignIn{Name: "gone", Password: goodPassword, Kind: SessionToken}, h.origin)
	h.wantCode(err, "")
	if _, err := h.Disable(h.admin, gone.User.ID, "test", h.origin); err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, in := range []SignIn{
		{Name: "alice", Password: "wrong password"}, {Name: "nobody.here", Password: "wrong password"},
		{Phone: "+8613800138000", Password: "wrong password"}, {Name: "gone", Password: "wrong password"},
	} {
		in.Kind = SessionToken
		before := h.hashed()
		_, err := h.SignIn(context.Background(), in, h.origin)
		h.wantCode(err, levee.CodeUnauthenticated)
		// Time: exactly one hash of the same cost whoever is asked for. Counted rather than measured, so that it cannot pass or
		// fail by luck.
		if n := h.hashed() - before; n != 1 {
			t.Errorf("%s%s: %d hashes", in.Name, in.Phone, n)
		}
		said = append(said, err.Error())
	}
	for _, s := range said[1:] {
		if s != said[0] {
			t.Errorf("%q differs from %q", s, said[0])
		}
	}
	nobody, err := handle.ParseHash(h.hasher.nobody)
	if err != nil || nobody.Passes != h.hasher.passes || nobody.Memory != h.hasher.memory {
		t.Errorf("nobody's hash costs %d × %d KiB (%v)", nobody.Passes, nobody.Memory, err)
	}
	_, err = h.SignIn(context.Background(), SignIn{Name: "gone", Password: goodPassword, Kind: SessionToken}, h.origin)
	h.wantCode(err, levee.CodeForbidden) // only who knows the password learns that it is disabled
}

// hashed returns how many passwords were hashed.
func (h *house) hashed() int {
	h.t.Helper()
	var m dto.Metric
	if err := h.metrics.hash.(prometheus.Metric).Write(&m); err != nil {
		h.t.Fatal(err)
	}
	return int(m.GetHistogram().GetSampleCount())
}

func TestGuessingIsLimitedByAccount(t *testing.T) {
	h := newHouse(t, cheap, map[string]string{"sign_in_account": "5/15m"})
	h.signUp("alice")
	ctx := context.Background()
	for range 20 { // who knows his password is never locked out by using it
		h.signIn("ALICE", SessionToken)
	}
	for _, name := range []string{"Alice", "unknown"} {
		for i := range 8 {
			_, err := h.SignIn(ctx, SignIn{Name: name, Password: "wrong password", Kind: SessionToken}, h.origin)
			want := levee.CodeUnauthenticated
			if i >= 5 {
				want = levee.CodeTooManyRequests
			}
			h.wantCode(err, want)
		}
	}
	_, err := h.SignIn(ctx, SignIn{Name: "aLICE", Password: goodPassword, Kind: SessionToken}, h.origin)
	h.wantCode(err, levee.CodeTooManyRequests)
}

// A flood of sign-ins is bounded in what runs and in what waits; the rest is told to come back, at once.
func TestSignInFlood(t *testing.T) {
	cfg := cheap
	cfg.HashesAtOnce, cfg.HashQueue = 2, 4
	h := newHouse(t, cfg, map[string]string{"sign_in_account": "off"})
	h.signUp("alice")
	for range 2 { // both slots are taken, as by two slow hashes
		h.hasher.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	codes := map[levee.Code]int{}
	refused := make(chan struct{}, 100)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			_, err := h.SignIn(ctx, SignIn{Name: fmt.Sprintf("user%d", i), Password: goodPassword, Kind: SessionToken}, h.origin)
			mu.Lock()
			defer mu.Unlock()
			codes[levee.CodeOf(err)]++
			var e *levee.Error
			if asError(err, &e) && e.Code == levee.CodeUnavailable {
				if e.RetryAfter <= 0 {
					t.Error("no RetryAfter")
				}
				refused <- struct{}{}
			}
		})
	}
	for range 96 { // refused while the slots are still taken, so they did not wait
		<-refused
	}
	if n := h.hasher.waiting.Load(); n != 4 {
		t.Errorf("%d wait", n)
	}
	<-h.hasher.slots // one slow hash is over: those who waited get their turn
	<-h.hasher.slots
	wg.Wait()
	cancel()
	if codes[levee.CodeUnavailable] != 96 || codes[levee.CodeUnauthenticated] != 4 {
		t.Errorf("got %v", codes)
	}
	if waiting, running := h.hasher.waiting.Load(), len(h.hasher.slots); waiting != 0 || running != 0 {
		t.Errorf("%d wait, %d run", waiting, running)
	}
}

func TestWaitingForAHashEndsWithTheRequest(t *testing.T) {
	cfg := cheap
	cfg.HashesAtOnce = 1
	h := newHouse(t, cfg, nil)
	h.hasher.slots <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.hasher.hash(ctx, "whatever"); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if n := h.hasher.waiting.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
	<-h.hasher.slots
}

func TestHashIsRenewed(t *testing.T) {
	h := newHouse(t, cheap, nil)
	u := h.signUp("alice")
	hash := func() string {
		row, err := readUser(context.Background(), h.db.QueryRow, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		return row.hash
	}
	old := hash()
	h.signIn("alice", SessionToken)
	if hash() != old {
		t.Error("renewed without need")
	}
	h.deps.Config.HashTime = 2
	h.restart()
	h.signIn("alice", SessionToken)
	if renewed := hash(); renewed == old || !strings.Contains(renewed, "t=2") {
		t.Errorf("got %s", renewed)
	}
	h.signIn("alice", SessionToken)
}

func TestChangePassword(t *testing.T) {
	h := newHouse(t, cheap, nil)
	h.signUp("alice")
	mine, other := h.signIn("alice", SessionCookie), h.signIn("alice", SessionToken)
	ctx := h.as(mine)
	for field, p := range map[string][2]obs.Secret{
		"current":  {"not this one", "a much better 1"},
		"password": {goodPassword, "password1"},
	} {
		_, err := h.ChangePassword(ctx, p[0], p[1], h.origin)
		var e *levee.Error
		if !asError(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != field || strings.Contains(err.Error(), p[1].Reveal()) {
			t.Errorf("%s: got %v", field, err)
		}
	}
	_, err := h.ChangePassword(ctx, goodPassword, goodPassword, h.origin)
	h.wantCode(err, levee.CodeInvalid)
	n, err := h.ChangePassword(ctx, goodPassword, "a much better 1", h.origin)
	if err != nil || n != 1 {
		t.Fatalf("ended %d, %v", n, err)
	}
	h.as(mine)
	_, err = h.authenticate(other)
	h.wantCode(err, levee.CodeUnauthenticated)
	_, err = h.SignIn(context.Background(), SignIn{Name: "alice", Password: goodPassword, Kind: SessionToken}, h.origin)
	h.wantCode(err, levee.CodeUnauthenticated)
	_, err = h.SignIn(context.Background(), SignIn{Name: "alice", Password: "a much better 1", Kind: SessionToken}, h.origin)
	h.wantCode(err, "")
}

func TestPhones(t *testing.T) {
	for text, want := range map[string]string{
		"+8613800138000": "+8613800138000", "+86 138-0013-8000": "+8613800138000", "0086 (138) 0013.8000": "+8613800138000",
		"13800138000": "+8613800138000", " +44 20 7946 0958 ": "+442079460958", "0171 1234567": "+861711234567",
	} {
		if got, err := handle.ParsePhone("phone", text, "86"); err != nil || got != want {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "+", "00", "abc", "+86138x", "1+2345678", "+0123456789", "+123456", "+1234567890123456",
		"１３８００１３８０００",
		strings.Repeat(" ", 40) + "+" + strings.Repeat("1", 33)} {
		if got, err := handle.ParsePhone("phone", text, "86"); err == nil {
			t.Errorf("%q gave %q", text, got)
		}
	}
}
