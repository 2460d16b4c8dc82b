package factor

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/trail"
)

const (
	wrongCode = "the code that the application shows now, not used before"
	oneAnswer = "one of code, recovery_code and assertion"
)

// Second is identity's question before a session begins. CodeSecondFactor when its holder has to show a second factor, or to set one up: its Data has
// challenge, expires_at, methods and, where passkey is among these, passkey: what the browser is asked with.
func (s *Service) Second(ctx context.Context, p identity.Proven) (err error) {
	defer levee.Wrap(&err, "factor.Second(%d)", p.User)
	f, _, err := s.factors(db.Primary(ctx), p.User)
	if err != nil {
		return err
	}
	c := challenge{purpose: forSignIn, user: p.User, how: p.How, mark: p.Mark}
	methods, said := f.methods(), "show a second factor to go on"
	var options map[string]any
	switch {
	case f.any():
		if s.keys != nil && len(f.Passkeys) > 0 {
			if options, c.data, err = s.keys.request(s.handleOf(p.User), f.Passkeys); err != nil {
				return err
			}
		}
	case s.required(p.Roles):
		c.purpose, methods, said = forEnrol, []string{byEnrol}, "this account must have a second factor: set one up to go on"
	default:
		return nil
	}
	text, expires, err := s.ask(ctx, c)
	if err != nil {
		return err
	}
	e := levee.E(levee.CodeSecondFactor, "%s", said).With("challenge", text.Reveal()).With("expires_at", expires).With("methods", methods)
	if options != nil {
		_ = e.With("passkey", options)
	}
	return e
}

// Enrol makes the secret of an application for a sign-in that waits until one is set up; asked again it makes another, and that one counts. CodeGone: the
// challenge is not good, or is not for this.
func (s *Service) Enrol(ctx context.Context, text obs.Secret) (e Enrolment, err error) {
	defer levee.Wrap(&err, "factor.Enrol")
	c, err := s.asked(ctx, text, forEnrol)
	if err != nil {
		return Enrolment{}, err
	}
	secret := newSecret()
	err = s.DB.Tx(ctx, "factor.enrol", func(ctx context.Context, tx *db.Tx) error {
		ok, err := setChallenge(ctx, tx, c.hash, s.seal.close(c.user, secret))
		if err == nil && !ok {
			err = spent()
		}
		return err
	})
	if err != nil {
		return Enrolment{}, err
	}
	e.Challenge, e.Expires = text, c.expires
	return e, s.show(ctx, &e, c.user, secret)
}

// Answer is what somebody shows: Code, Recovery or Assertion, one of them.
type Answer struct {
	Challenge obs.Secret
	Code      obs.Secret
	Recovery  obs.Secret
	Assertion []byte // of a passkey: PublicKeyCredential as JSON
}

func (in Answer) one() error {
	n := 0
	for _, given := range []bool{in.Code != "", in.Recovery != "", len(in.Assertion) > 0} {
		if given {
			n++
		}
	}
	if n != 1 {
		return levee.Invalid("code", oneAnswer, n)
	}
	return nil
}

// SignIn begins the session that a challenge of Second is for. CodeUnauthenticated: the answer is wrong, and may be tried again; CodeGone: the challenge is
// not good, begin anew; CodeTooManyRequests: too many wrong codes of this account; CodeUnavailable: they cannot be counted now. Otherwise as identity.SignInSecond.
func (s *Service) SignIn(ctx context.Context, in Answer, kind identity.SessionKind, from identity.Origin) (g identity.Grant, err error) {
	defer levee.Wrap(&err, "factor.SignIn")
	if err := in.one(); err != nil {
		return identity.Grant{}, err
	}
	c, err := s.asked(ctx, in.Challenge, forSignIn, forEnrol)
	if err != nil {
		return identity.Grant{}, err
	}
	method, err := s.prove(ctx, c.user, c, in, func(ctx context.Context, tx *db.Tx) error { return s.answer(ctx, tx, c) })
	if err != nil {
		s.refused(ctx, "session.refused", c.user, c.how+"+"+method, err, from)
		if e := (*levee.Error)(nil); errors.As(err, &e) && e.Code == levee.CodeInvalid {
			return identity.Grant{}, levee.E(levee.CodeUnauthenticated, "the second factor is wrong, too old or was used before")
		}
		return identity.Grant{}, err
	}
	return s.Identity.SignInSecond(ctx, identity.Proven{User: c.user, Mark: c.mark}, c.how+"+"+method, kind, from)
}

// refused tells the trail of an answer that was not good.
func (s *Service) refused(ctx context.Context, act string, user levee.UserID, by string, err error, from identity.Origin) {
	why := "refused"
	switch levee.CodeOf(err) {
	case levee.CodeTooManyRequests:
		why = "limited"
	case levee.CodeInvalid, levee.CodeConflict:
	default:
		return // nothing was judged
	}
	s.Trail.Note(ctx, trail.Act{Action: act, Kind: levee.KindUser, Subject: int64(user), Address: from.Address, RequestID: from.RequestID,
		After: map[string]string{"why": why, "by": by}}, true)
}

// prove judges an answer and uses it up in one transaction with then: CodeInvalid when it is wrong, CodeTooManyRequests after too many wrong codes.
func (s *Service) prove(ctx context.Context, user levee.UserID, c challenge, in Answer, then func(context.Context, *db.Tx) error) (method string, err error) {
	defer func() {
		result := "ok"
		if err != nil {
			result = "refused"
		}
		s.proofs.WithLabelValues(method, result).Inc()
	}()
	switch {
	case len(in.Assertion) > 0:
		return byPasskey, s.provePasskey(ctx, user, c, in.Assertion, then)
	case c.purpose == forEnrol:
		return byEnrol, s.proveEnrolment(ctx, c, in.Code.Reveal(), then)
	case in.Recovery != "":
		return byRecovery, s.guarded(ctx, "recovery ", user, func() error { return s.proveRecovery(ctx, user, in.Recovery.Reveal(), then) })
	}
	return byCode, s.guarded(ctx, "code ", user, func() error { return s.proveCode(ctx, user, in.Code.Reveal(), then) })
}

// guarded counts tries of what could be guessed; one that succeeds does not count. Recovery codes are counted apart, so that who guesses codes does not shut
// out who lost his telephone.
func (s *Service) guarded(ctx context.Context, what string, user levee.UserID, try func() error) error {
	key := what + s.Sealer.Seal(levee.KindUser, int64(user))
	if err := s.Limits.Allow(ctx, limit.SecondFactor, key).Err(); err != nil {
		return err
	}
	err := try()
	if err == nil {
		s.Limits.Refund(ctx, limit.SecondFactor, key)
	}
	return err
}

func (s *Service) proveCode(ctx context.Context, user levee.UserID, code string, then func(context.Context, *db.Tx) error) error {
	wrong := handle.Hidden("code", wrongCode)
	a, err := readAccount(db.Primary(ctx), s.DB.QueryRow, user, "")
	if err != nil {
		return err
	}
	if a.totp == "" {
		return wrong
	}
	secret, err := s.seal.open(user, a.totp)
	if err != nil {
		return err
	}
	step, ok := match(secret, code, s.now(), a.totpStep)
	if !ok {
		return wrong
	}
	return s.DB.Tx(ctx, "factor.code", func(ctx context.Context, tx *db.Tx) error {
		if err := then(ctx, tx); err != nil {
			return err
		}
		// Of any number who show this code at once, on any nodes, one raises the step.
		if ok, err := raiseStep(ctx, tx, user, a.totp, step); err != nil || !ok {
			return orWrong(err, wrong)
		}
		return nil
	})
}

func orWrong(err, wrong error) error {
	if err != nil {
		return err
	}
	return wrong
}

func (s *Service) proveRecovery(ctx context.Context, user levee.UserID, code string, then func(context.Context, *db.Tx) error) error {
	return s.DB.Tx(ctx, "factor.recover", func(ctx context.Context, tx *db.Tx) error {
		if err := then(ctx, tx); err != nil {
			return err
		}
		if ok, err := takeRecovery(ctx, tx, user, s.recoveryHash(user, code)); err != nil || !ok {
			return orWrong(err, handle.Hidden("recovery_code", "one of the account's recovery codes, not used before"))
		}
		left, err := countRecovery(ctx, tx.QueryRow, user)
		if err != nil {
			return err
		}
		return s.tell(ctx, tx, "factor.recovery_used", user, map[string]any{"left": left})
	})
}

func (s *Service) proveEnrolment(ctx context.Context, c challenge, code string, then func(context.Context, *db.Tx) error) error {
	if c.data == "" {
		return levee.E(levee.CodeConflict, "ask for the application's secret first")
	}
	step, err := s.confirms(c, code)
	if err != nil {
		return err
	}
	return s.DB.Tx(ctx, "factor.enrolled", func(ctx context.Context, tx *db.Tx) error {
		if err := then(ctx, tx); err != nil {
			return err
		}
		a, err := lockAccount(ctx, tx, s.DB.Dialect(), c.user)
		if err != nil {
			return err
		}
		if a.there { // somebody else set one up meanwhile: his counts
			return spent()
		}
		if err := putTOTP(ctx, tx, c.user, c.data, step, s.now()); err != nil {
			return err
		}
		return s.tell(ctx, tx, "factor.totp_added", c.user, map[string]any{"at": "sign_in"})
	})
}

// Fresh is an error unless the actor has proven himself a moment ago (Config.FreshFor), by signing in or by StepUp: CodeForbidden for who cannot, such as a
// personal access token; CodeStepUp for who has to, with methods in its Data: none of them means signing in anew. A session's number says when it began, so
// this reads nothing in its first minutes, and one row later.
func (s *Service) Fresh(ctx context.Context, a levee.Actor) (err error) {
	defer levee.Wrap(&err, "factor.Fresh")
	if err := himself(a); err != nil {
		return err
	}
	if s.recent(s.IDs.Layout().TimeOf(a.Session)) {
		return nil
	}
	at, err := readFresh(db.Primary(ctx), s.DB.QueryRow, a.Session)
	if err != nil || s.recent(at) {
		return err
	}
	methods, err := s.stepUpMethods(ctx, a)
	if err != nil {
		return err
	}
	return levee.E(levee.CodeStepUp, "prove first that it is still you").With("methods", methods).With("max_age_seconds", int64(s.cfg.FreshFor/time.Second))
}

// recent allows for the clocks of two nodes to differ by a minute.
func (s *Service) recent(at time.Time) bool {
	age := s.now().Sub(at)
	return age < s.cfg.FreshFor && age > -time.Minute
}

// stepUpMethods are those by which an actor can prove himself again. Who has a second factor shows that: a password alone would undo it.
func (s *Service) stepUpMethods(ctx context.Context, a levee.Actor) ([]string, error) {
	f, _, err := s.factors(db.Primary(ctx), a.User)
	if err != nil {
		return nil, err
	}
	list := []string{}
	if s.keys != nil && len(f.Passkeys) > 0 {
		list = append(list, byPasskey)
	}
	if f.TOTP {
		list = append(list, byCode)
	}
	if f.any() {
		return list, nil
	}
	ok, err := s.Identity.HasPassword(ctx, a.User)
	if ok {
		list = append(list, byPassword)
	}
	return list, err
}

// AskPasskey begins a StepUp by passkey: what the browser is asked with. CodeConflict without one.
func (s *Service) AskPasskey(ctx context.Context) (text obs.Secret, options map[string]any, expires time.Time, err error) {
	defer levee.Wrap(&err, "factor.AskPasskey")
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return "", nil, time.Time{}, err
	}
	list, err := readPasskeys(db.Primary(ctx), s.DB.Query, a.User)
	if err != nil {
		return "", nil, time.Time{}, err
	}
	if s.keys == nil || len(list) == 0 {
		return "", nil, time.Time{}, levee.E(levee.CodeConflict, "this account has no passkey")
	}
	c := challenge{purpose: forStepUp, user: a.User, session: a.Session}
	if options, c.data, err = s.keys.request(s.handleOf(a.User), list); err != nil {
		return "", nil, time.Time{}, err
	}
	text, expires, err = s.ask(ctx, c)
	return text, options, expires, err
}

// StepUp makes the session of the context's actor fresh: for Config.FreshFor from now on, on all nodes. in is a code or an assertion to a challenge of AskPasskey;
// a password counts only for who has no factor. CodeInvalid names what is wrong, CodeTooManyRequests after too many wrong ones. It returns until when.
func (s *Service) StepUp(ctx context.Context, password obs.Secret, in Answer, from identity.Origin) (until time.Time, err error) {
	defer levee.Wrap(&err, "factor.StepUp")
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return time.Time{}, err
	}
	var c challenge
	var method string
	now := s.now()
	refresh := func(ctx context.Context, tx *db.Tx) error {
		if c.hash != "" {
			if err := s.answer(ctx, tx, c); err != nil {
				return err
			}
		}
		if err := putFresh(ctx, tx, s.DB.Dialect(), a.Session, now); err != nil {
			return err
		}
		return s.tell(ctx, tx, "session.stepped_up", a.User, map[string]any{"by": method})
	}
	switch {
	case (password != "") == (in.Code != "" || len(in.Assertion) > 0), in.Code != "" && len(in.Assertion) > 0, in.Recovery != "":
		return time.Time{}, levee.Invalid("password", "one of password, code and assertion", "another number of them")
	case password != "":
		method = byPassword
		if err = s.passwordCounts(ctx, a); err == nil {
			if err = s.Identity.ProvePassword(ctx, "password", password); err == nil {
				err = s.DB.Tx(ctx, "factor.step_up", refresh)
			}
		}
	default:
		method = byCode
		if len(in.Assertion) > 0 {
			method = byPasskey
			if c, err = s.asked(ctx, in.Challenge, forStepUp); err != nil {
				return time.Time{}, err
			}
			if c.session != a.Session {
				return time.Time{}, spent()
			}
		}
		_, err = s.prove(ctx, a.User, c, in, refresh)
	}
	if err != nil {
		s.refused(ctx, "session.step_up_refused", a.User, method, err, from)
		return time.Time{}, err
	}
	return now.Add(s.cfg.FreshFor), nil
}

func (s *Service) passwordCounts(ctx context.Context, a levee.Actor) error {
	f, _, err := s.factors(db.Primary(ctx), a.User)
	if err == nil && f.any() {
		err = handle.Hidden("password", "left out: this account has a second factor, show that")
	}
	return err
}
