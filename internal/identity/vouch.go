package identity

import (
	"context"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/token"
	"levee/internal/trail"
)

// Rooms beside this one also learn who somebody is: by a code that was sent to a phone, by the word of another house. They make accounts
// and begin sessions through here, so that an account, its session and its trail are the same however its holder came in.

// Enrolment is a customer's account without a password.
type Enrolment struct {
	// Name is taken if it is a name, free and nobody's in particular, else Fallback, which must be a name and the caller's alone, such as
	// one made from the subject's hash.
	Name, Fallback string
	// Phone in E.164, or "".
	Phone string
	// Action and Told are what the audit trail keeps of it; Told may be nil.
	Action string
	Told   map[string]any
}

// EnrolTx makes an account within the caller's transaction, which binds it to what was proven. It asks for no right. CodeConflict: the phone
// number, or even the fallback, is another account's.
func (s *Service) EnrolTx(ctx context.Context, tx *db.Tx, in Enrolment, from Origin) (u User, err error) {
	id, err := s.ids.Next()
	if err != nil {
		return User{}, err
	}
	now := at(s.now().UnixMicro())
	u = User{ID: levee.UserID(id), Phone: in.Phone, Roles: levee.RoleCustomer, CreatedAt: now, UpdatedAt: now, Version: 1}
	var key string
	if u.Name, key, err = handle.ParseName("name", in.Name); err != nil || handle.Reserved(key) {
		u.Name, key = in.Fallback, handle.Fold(in.Fallback)
	}
	if err = insertUser(ctx, tx, u, key, ""); levee.CodeOf(err) == levee.CodeConflict && u.Name != in.Fallback {
		u.Name = in.Fallback
		err = insertUser(ctx, tx, u, handle.Fold(in.Fallback), "")
	}
	if err != nil {
		return User{}, err
	}
	ctx = levee.WithActor(ctx, levee.Actor{User: u.ID}) // who comes for the first time acts for the account that is made for him
	told := map[string]any{"name": u.Name, "phone": handle.Mask(u.Phone)}
	for k, v := range in.Told {
		told[k] = v
	}
	if err := s.recordTx(ctx, tx, trail.Act{Action: in.Action, Kind: levee.KindUser, Subject: id, After: told}, from); err != nil {
		return User{}, err
	}
	return u, s.events.Emit(ctx, tx, UserCreated{User: u.ID, Roles: u.Roles})
}

// SignInProven begins a session of an account whose holder has just proven to another room that he is; how is a word for it, such as "phone".
// It asks for no right and for nothing else. CodeNotFound: there is no such account; CodeForbidden: it is disabled.
func (s *Service) SignInProven(ctx context.Context, user levee.UserID, how string, kind SessionKind, from Origin) (g Grant, err error) {
	defer levee.Wrap(&err, "identity.SignInProven(%d)", user)
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, user)
	defer func() {
		s.metrics.signIns.WithLabelValues(signInResult(err)).Inc()
		s.noteSignIn(ctx, SignIn{}, how, row, err, from)
	}()
	if err != nil {
		return Grant{}, err
	}
	return s.begin(ctx, row, "", how, kind, from)
}

// Proven says that somebody has shown that an account is his, and how.
type Proven struct {
	User  levee.UserID
	Roles levee.Roles
	How   string // a word, such as "password"
	// Mark changes when the account's password does.
	Mark string
}

// Second is asked before each session that begins, however its holder came in. An error keeps it from beginning, and is what he is told:
// CodeSecondFactor, with what he goes on with.
type Second func(ctx context.Context, p Proven) error

// SignInSecond begins a session of an account whose holder has shown another factor besides what p says, and asks Second no more. how is the word for both.
// CodeUnauthenticated: the account's password changed since; CodeForbidden: the account is disabled.
func (s *Service) SignInSecond(ctx context.Context, p Proven, how string, kind SessionKind, from Origin) (g Grant, err error) {
	defer levee.Wrap(&err, "identity.SignInSecond(%d)", p.User)
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, p.User)
	defer func() {
		s.metrics.signIns.WithLabelValues(signInResult(err)).Inc()
		s.noteSignIn(ctx, SignIn{}, how, row, err, from)
	}()
	if err != nil {
		return Grant{}, err
	}
	if !same(token.Hash(row.hash), p.Mark) {
		return Grant{}, levee.E(levee.CodeUnauthenticated, "sign in anew: the password was changed meanwhile")
	}
	return s.beginProven(ctx, row, "", kind, from)
}

// ProvePassword is nil when the password is that of the context's actor. CodeInvalid names the field when it is wrong, CodeTooManyRequests after too many
// wrong ones.
func (s *Service) ProvePassword(ctx context.Context, field string, password obs.Secret) error {
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, levee.ActorFrom(ctx).User)
	if err != nil {
		return err
	}
	if err := handle.BoundPassword(field, password.Reveal()); err != nil {
		return err
	}
	key := "user:" + s.sealer.Seal(levee.KindUser, int64(row.ID))
	if err := s.limits.Allow(ctx, limit.SignInAccount, key).Err(); err != nil {
		return err
	}
	ok, _, err := s.hasher.check(ctx, password.Reveal(), row.hash)
	if err != nil {
		return err
	}
	if !ok {
		return handle.Hidden(field, "the current password")
	}
	s.limits.Refund(ctx, limit.SignInAccount, key)
	return nil
}

// HasPassword reports whether an account has one.
func (s *Service) HasPassword(ctx context.Context, user levee.UserID) (bool, error) {
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, user)
	return row.hash != "", err
}

// EndAllTx ends all sessions and personal access tokens of an account within the caller's transaction, who tells the trail, and returns how many were open.
// It asks for no right.
func (s *Service) EndAllTx(ctx context.Context, tx *db.Tx, user levee.UserID, why string) (ended int, err error) {
	sessions, err := unendedSessions(ctx, tx.Query, user)
	if err != nil {
		return 0, err
	}
	return s.endTx(ctx, tx, sessions, why)
}

// ParsePhone reads a phone number as people of this house write it (Config.PhoneCountry) and returns it in E.164; CodeInvalid names the field.
func (s *Service) ParsePhone(field, text string) (string, error) {
	return handle.ParsePhone(field, text, s.cfg.PhoneCountry)
}

// ByPhoneTx returns the account that has a phone number, whether it was proven or not, within the caller's transaction; CodeNotFound. It asks
// for no right.
func (s *Service) ByPhoneTx(ctx context.Context, tx *db.Tx, phone string) (User, error) {
	row, err := readUserByLogin(ctx, tx.QueryRow, "", phone)
	return row.User, err
}

// SetHandlesTx gives the account u another name and phone number, "" for none, as another room has proof for, within the caller's transaction
// in which u was read. It asks for no right; action is what the trail calls it. CodeConflict: one of them is another account's.
func (s *Service) SetHandlesTx(ctx context.Context, tx *db.Tx, u User, name, phone, action string, from Origin) error {
	told := func() map[string]any { return map[string]any{"name": u.Name, "phone": handle.Mask(u.Phone)} }
	before := told()
	u.Name, u.Phone = name, phone
	if err := updateHandles(ctx, tx, &u, s.now()); err != nil {
		return err
	}
	return s.recordTx(ctx, tx, trail.Act{Action: action, Kind: levee.KindUser, Subject: int64(u.ID), Before: before, After: told()}, from)
}

// HasPasswordTx tells whether an account's owner can sign in by a password, within the caller's transaction. It asks for no right. CodeNotFound: there is
// no such account.
func (s *Service) HasPasswordTx(ctx context.Context, tx *db.Tx, user levee.UserID) (bool, error) {
	row, err := readUser(ctx, tx.QueryRow, user)
	return row.hash != "", err
}
