package phone

import (
	"context"
	"crypto/rand"
	"strings"

	"levee"
	"levee/internal/handle"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/trail"
)

// SignIn is what somebody shows who was sent a code for ForSignIn.
type SignIn struct {
	Phone, Code string
	Request     obs.Secret
	Kind        identity.SessionKind
}

// SignIn uses a code up and begins a session of the account that has proven the number: the one that did before, or else a new one, which is then
// the number's. An account on which the number merely stands is not entered: the number is taken from it. CodeInvalid: no phone number;
// CodeUnauthenticated: the code is wrong, was used, tried too often, replaced or is too old, or is not this caller's; else as identity.SignInProven.
func (s *Service) SignIn(ctx context.Context, in SignIn, from identity.Origin) (g identity.Grant, err error) {
	defer levee.Wrap(&err, "phone.SignIn")
	if in.Kind != identity.SessionCookie && in.Kind != identity.SessionToken {
		return g, levee.Invalid("kind", "cookie or token", in.Kind)
	}
	number, err := s.Identity.ParsePhone("phone", in.Phone)
	if err != nil {
		return g, err
	}
	c, right := presented(number, ForSignIn, 0, in.Code, in.Request)
	var user levee.UserID
	if right {
		err = s.DB.Tx(ctx, "phone.sign_in", func(ctx context.Context, tx *db.Tx) (err error) {
			if right, err = s.useTx(ctx, tx, c, in.Code); err != nil || !right {
				return err
			}
			user, err = s.accountTx(ctx, tx, number, from)
			return err
		})
		if err != nil {
			return g, err
		}
	}
	s.count(ForSignIn, right)
	if !right {
		s.Trail.Note(ctx, trail.Act{Action: "session.refused", Address: from.Address, RequestID: from.RequestID,
			After: map[string]string{"why": "refused", "by": "phone", "phone": handle.Mask(number)}}, false)
		return g, levee.E(levee.CodeUnauthenticated, "this code is wrong, or was used, replaced or tried too often, or is too old; ask for a new one")
	}
	return s.Identity.SignInProven(ctx, user, "phone", in.Kind, from)
}

func (s *Service) count(p Purpose, right bool) {
	word := "wrong"
	if right {
		word = "ok"
	}
	s.metrics.used.WithLabelValues(string(p), word).Inc()
}

// accountTx returns the account of a number that was proven a moment ago, and makes it where there is none.
func (s *Service) accountTx(ctx context.Context, tx *db.Tx, number string, from identity.Origin) (levee.UserID, error) {
	user, err := readProver(ctx, tx, s.DB.Dialect(), number)
	if err != nil || user != 0 {
		return user, err
	}
	if err := s.freeTx(ctx, tx, number, 0, from); err != nil {
		return 0, err
	}
	u, err := s.Identity.EnrolTx(ctx, tx, identity.Enrolment{Fallback: guest(), Phone: number, Action: "user.signed_up_by_phone"}, from)
	if err != nil {
		return 0, err
	}
	return u.ID, putProof(ctx, tx, number, u.ID, s.Obs.Clock())
}

// freeTx takes a number from the account that has it without a proof, unless that is the one of who proves it now. An account that signs in by
// nothing else is given a name, so that its holder, who may have put a wrong number down, can still be helped.
func (s *Service) freeTx(ctx context.Context, tx *db.Tx, number string, prover levee.UserID, from identity.Origin) error {
	u, err := s.Identity.ByPhoneTx(ctx, tx, number)
	if levee.CodeOf(err) == levee.CodeNotFound || err == nil && u.ID == prover {
		return nil
	}
	if err != nil {
		return err
	}
	name := u.Name
	if name == "" {
		name = guest()
	}
	if err := s.Identity.SetHandlesTx(ctx, tx, u, name, "", "user.phone_taken", from); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "a number was taken from an account that had not proven it", "user", int64(u.ID), "phone", handle.Mask(number))
	return nil
}

// guest is a name that nobody has: fifty random bits.
func guest() string { return "guest-" + strings.ToLower(rand.Text()[:10]) }

// Bind puts a number on the account of the context's actor, who shows the code that he was sent for ForBind; it takes the place of the number
// he had, and is taken from an account on which it merely stands. CodeInvalid: no phone number, or a code that is not good; CodeConflict: another
// account has proven the number; CodeUnauthenticated and CodeForbidden without an account.
func (s *Service) Bind(ctx context.Context, phone, code string, request obs.Secret, from identity.Origin) (number string, err error) {
	defer levee.Wrap(&err, "phone.Bind")
	me, err := holder(ctx, ForBind)
	if err != nil {
		return "", err
	}
	if number, err = s.Identity.ParsePhone("phone", phone); err != nil {
		return "", err
	}
	c, right := presented(number, ForBind, me, code, request)
	other := false
	if right {
		err = s.DB.Tx(ctx, "phone.bind", func(ctx context.Context, tx *db.Tx) (err error) {
			other = false
			if right, err = s.useTx(ctx, tx, c, code); err != nil || !right {
				return err
			}
			other, err = s.bindTx(ctx, tx, number, me, from)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	s.count(ForBind, right)
	switch {
	case !right:
		return "", handle.Hidden("code", "the code of the latest message, not used, replaced or tried too often, and at most five minutes old")
	case other:
		return "", levee.E(levee.CodeConflict, "this number belongs to another account, which has proven it: sign in there by SMS instead")
	}
	return number, nil
}

// bindTx does what Bind says of a number that was proven a moment ago; other: it is an other account's.
func (s *Service) bindTx(ctx context.Context, tx *db.Tx, number string, me levee.UserID, from identity.Origin) (other bool, err error) {
	prover, err := readProver(ctx, tx, s.DB.Dialect(), number)
	if err != nil || prover != 0 {
		return prover != me, err
	}
	if err := s.freeTx(ctx, tx, number, me, from); err != nil {
		return false, err
	}
	u, err := s.Identity.FindTx(ctx, tx, me, "")
	if err != nil {
		return false, err
	}
	if err := s.Identity.SetHandlesTx(ctx, tx, u, u.Name, number, "user.phone_proven", from); err != nil {
		return false, err
	}
	return false, putProof(ctx, tx, number, me, s.Obs.Clock())
}

// SignsInTx tells whether an account's owner can sign in by a code that is sent to him, within the caller's transaction. It asks for no right.
func (s *Service) SignsInTx(ctx context.Context, tx *db.Tx, user levee.UserID) (bool, error) {
	if s.sender == nil {
		return false, nil
	}
	return hasProof(ctx, tx, user)
}
