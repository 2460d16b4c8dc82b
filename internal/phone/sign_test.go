package phone

import (
	"context"
	"strings"
	"sync"
	"testing"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
)

func (h *house) withPassword(in identity.SignIn) error {
	in.Password, in.Kind = password, identity.SessionToken
	_, err := h.ids.SignIn(context.Background(), in, h.origin)
	return err
}

// A number that somebody typed when he signed up, ahead of its owner, gives him nothing: the owner proves it and gets an account of his own.
func TestUnprovenNumberIsTaken(t *testing.T) {
	h := newHouse(t, free)
	squatter := h.account("squatter", ann)
	nameless := h.account("", bob)
	for _, in := range []identity.SignIn{{Phone: ann}, {Name: "squatter"}, {Phone: bob}} { // as long as nobody proves them
		h.want(h.withPassword(in), "")
	}

	g := h.byPhone(ann)
	if g.User.ID == squatter.ID || g.User.Phone != ann || !strings.HasPrefix(g.User.Name, "guest-") || g.User.Roles != levee.RoleCustomer {
		t.Fatalf("who proved the number is %+v", g.User)
	}
	if u := h.user(squatter.ID); u.Phone != "" || u.Name != "squatter" || u.Disabled {
		t.Errorf("who had typed it is %+v", u)
	}
	h.want(h.withPassword(identity.SignIn{Phone: ann}), levee.CodeUnauthenticated)
	h.want(h.withPassword(identity.SignIn{Name: "squatter"}), "")
	if again := h.byPhone(ann); again.User.ID != g.User.ID {
		t.Errorf("the second time it opens %+v", again.User)
	}
	if h.prover(ann) != g.User.ID || len(h.told("user.phone_taken", squatter.ID)) != 1 || len(h.told("user.signed_up_by_phone", g.User.ID)) != 1 {
		t.Errorf("proven by %d; the trail: %v, %v", h.prover(ann), h.told("user.phone_taken", squatter.ID), h.told("user.signed_up_by_phone", g.User.ID))
	}
	if e := h.told("user.phone_taken", squatter.ID)[0]; strings.Contains(e.Before+e.After, ann[1:]) || e.Address != "192.0.2.7" || e.RequestID != "req-1" {
		t.Errorf("%+v", e)
	}

	// By binding, too; and an account without a name gets one, by which its password is still good.
	me := h.account("marie", "")
	a, code := h.ask(as(me), ForBind, bob)
	number, err := h.Bind(as(me), bob, code, a.Request, h.origin)
	h.want(err, "")
	if number != bob || h.user(me.ID).Phone != bob || h.user(me.ID).Name != "marie" || h.prover(bob) != me.ID {
		t.Errorf("%s, %+v", number, h.user(me.ID))
	}
	left := h.user(nameless.ID)
	if left.Phone != "" || !strings.HasPrefix(left.Name, "guest-") {
		t.Fatalf("%+v", left)
	}
	h.want(h.withPassword(identity.SignIn{Name: left.Name}), "")
	h.want(h.withPassword(identity.SignIn{Phone: bob}), "") // marie's password is the same one: it opens her account
	if len(h.told("user.phone_taken", nameless.ID)) != 1 || len(h.told("user.phone_proven", me.ID)) != 1 {
		t.Error("the trail does not tell of both")
	}
	if again := h.byPhone(bob); again.User.ID != me.ID {
		t.Errorf("it opens %+v", again.User)
	}
}

// A number that an account has proven opens it, and no second account gets it.
func TestProvenNumberStays(t *testing.T) {
	h := newHouse(t, free)
	owner := h.byPhone(ann).User
	me := h.account("marie", bob)
	a, code := h.ask(as(me), ForBind, ann)
	_, err := h.Bind(as(me), ann, code, a.Request, h.origin)
	h.want(err, levee.CodeConflict)
	_, err = h.Bind(as(me), ann, code, a.Request, h.origin) // it was used
	h.want(err, levee.CodeInvalid)
	if h.user(me.ID).Phone != bob || h.prover(ann) != owner.ID || h.user(owner.ID).Phone != ann {
		t.Errorf("%+v, %+v", h.user(me.ID), h.user(owner.ID))
	}
	if _, err := h.ids.SignUp(context.Background(), identity.NewUser{Name: "late", Phone: ann, Password: password}, h.origin); levee.CodeOf(err) != levee.CodeConflict {
		t.Errorf("a proven number can be typed: %v", err)
	}

	// One's own number, typed before, becomes proven; proving it once more changes nothing; another one takes its place and sets it free.
	for i := range 2 {
		a, code = h.ask(as(me), ForBind, bob)
		_, err = h.Bind(as(me), bob, code, a.Request, h.origin)
		h.want(err, "")
		if h.prover(bob) != me.ID || len(h.told("user.phone_proven", me.ID)) != 1 {
			t.Fatalf("%d: proven by %d, told %d times", i, h.prover(bob), len(h.told("user.phone_proven", me.ID)))
		}
	}
	const next = "+8613800138009"
	a, code = h.ask(as(me), ForBind, next)
	_, err = h.Bind(as(me), next, code, a.Request, h.origin)
	h.want(err, "")
	if h.prover(bob) != 0 || h.prover(next) != me.ID || h.user(me.ID).Phone != next {
		t.Errorf("%d, %d, %+v", h.prover(bob), h.prover(next), h.user(me.ID))
	}
	if g := h.byPhone(bob); g.User.ID == me.ID {
		t.Error("the number that was given up still opens the account")
	}
}

// A session that is begun by phone is as any other, and a disabled account has none.
func TestSessionsByPhone(t *testing.T) {
	h := newHouse(t, free)
	g := h.byPhone(ann)
	if a, err := h.ids.AuthenticateToken(g.AccessToken.Reveal()); err != nil || a.User != g.User.ID {
		t.Fatalf("%+v, %v", a, err)
	}
	a, code := h.ask(context.Background(), ForSignIn, ann)
	c, err := h.SignIn(context.Background(), SignIn{Phone: "138-0013-8000", Code: code, Request: a.Request, Kind: identity.SessionCookie}, h.origin)
	h.want(err, "")
	if who, err := h.ids.AuthenticateCookie(context.Background(), c.Cookie.Reveal()); err != nil || who.User != g.User.ID || c.AccessToken != "" {
		t.Fatalf("%+v, %v", who, err)
	}
	if _, err := h.ids.Disable(levee.WithActor(context.Background(), levee.System), g.User.ID, "test", h.origin); err != nil {
		t.Fatal(err)
	}
	a, code = h.ask(context.Background(), ForSignIn, ann)
	_, err = h.enter(ann, code, a.Request)
	h.want(err, levee.CodeForbidden)
	_, err = h.SignIn(context.Background(), SignIn{Phone: ann, Code: code, Request: a.Request, Kind: identity.SessionPersonal}, h.origin)
	h.want(err, levee.CodeInvalid)
}

// Two who prove one number at once, one to sign in and one for his account, leave one of them with it, and nobody else.
func TestTwoProversAtOnce(t *testing.T) {
	h := newHouse(t, free)
	for round := range 8 {
		number := "+861380013810" + string(rune('0'+round))
		squatter, me := h.account("squatter"+number[13:], number), h.account("marie"+number[13:], "")
		a, code := h.ask(context.Background(), ForSignIn, number)
		b, codeToBind := h.ask(as(me), ForBind, number)
		var g identity.Grant
		var signedIn, bound error
		parallel(2, func(i int) {
			if i == 0 {
				g, signedIn = h.enter(number, code, a.Request)
				return
			}
			_, bound = h.Bind(as(me), number, codeToBind, b.Request, h.origin)
		})
		h.want(signedIn, "")
		owner := h.prover(number)
		switch {
		case bound == nil && g.User.ID == me.ID && owner == me.ID: // the binding came first: signing in opens that account
		case levee.CodeOf(bound) == levee.CodeConflict && g.User.ID != me.ID && owner == g.User.ID:
		default:
			t.Fatalf("round %d: bound: %v, signed in as %d, proven by %d, me %d", round, bound, g.User.ID, owner, me.ID)
		}
		if h.user(owner).Phone != number || h.user(squatter.ID).Phone != "" || owner != me.ID && h.user(me.ID).Phone != "" {
			t.Fatalf("round %d: %+v, %+v, %+v", round, h.user(owner), h.user(squatter.ID), h.user(me.ID))
		}
	}
}

// Who proves a number while others sign up with it, typed, has it in the end.
func TestProofAgainstSignUps(t *testing.T) {
	h := newHouse(t, map[string]string{"sms": "off", "sms_day": "off", "sms_address": "off", "sms_house": "off", "sign_up": "off"})
	for round := range 5 {
		number := "+861380013820" + string(rune('0'+round))
		a, code := h.ask(context.Background(), ForSignIn, number)
		var g identity.Grant
		var entered error
		var mu sync.Mutex
		var typed []identity.User
		parallel(4, func(i int) {
			if i == 0 {
				g, entered = h.enter(number, code, a.Request)
				return
			}
			u, err := h.ids.SignUp(context.Background(), identity.NewUser{Phone: number, Password: password}, h.origin)
			switch levee.CodeOf(err) {
			case "":
				mu.Lock()
				typed = append(typed, u)
				mu.Unlock()
			case levee.CodeConflict:
			default:
				t.Error(err)
			}
		})
		h.want(entered, "")
		if h.prover(number) != g.User.ID || h.user(g.User.ID).Phone != number || len(typed) > 1 {
			t.Fatalf("round %d: %+v, %+v", round, h.user(g.User.ID), typed)
		}
		for _, u := range typed {
			if u.ID == g.User.ID || h.user(u.ID).Phone != "" {
				t.Fatalf("round %d: %+v", round, h.user(u.ID))
			}
		}
	}
	var stray int
	if err := h.DB.QueryRow(db.Primary(context.Background()), `SELECT COUNT(*) FROM phone_proof p WHERE NOT EXISTS
		(SELECT 1 FROM identity_user u WHERE u.id = p.user_id AND u.phone = p.phone)`).Scan(&stray); err != nil || stray != 0 {
		t.Errorf("%d proofs without their account (%v)", stray, err)
	}
}
