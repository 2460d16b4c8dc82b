package identity

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/token"
	"levee/internal/trail"
)

const (
	allRoles = levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator
	// maxReason bounds why an account was disabled, in characters.
	maxReason = 500
)

// NewUser is an account to be.
type NewUser struct {
	// Name or Phone, or both.
	Name     string
	Phone    string
	Password obs.Secret
	// Roles: for Create only; 0 means customer. The house's permissions know which there are.
	Roles levee.Roles
}

// SignUp makes a customer's account. CodeInvalid names the field that is not allowed; CodeConflict a name or phone number that is
// taken; CodeTooManyRequests when the address made too many; CodeUnavailable when too many passwords are being hashed.
func (s *Service) SignUp(ctx context.Context, in NewUser, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.SignUp")
	if in.Roles != 0 {
		return User{}, levee.E(levee.CodeForbidden, "only an administrator gives roles")
	}
	if err := s.limits.Allow(ctx, limit.SignUp, limit.AddressKey(from.Address)).Err(); err != nil {
		return User{}, err
	}
	in.Roles = levee.RoleCustomer
	return s.create(ctx, in, from, "user.signed_up", false)
}

// Create makes an account with roles, for who may (levee.AccountsCreate) and has what they give; else CodeForbidden. Otherwise as SignUp, without its limit.
func (s *Service) Create(ctx context.Context, in NewUser, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.Create")
	actor := levee.ActorFrom(ctx)
	if err := require(actor, levee.AccountsCreate); err != nil {
		return User{}, err
	}
	set(&in.Roles, levee.RoleCustomer)
	if err := cmp.Or(s.checkRoles(in.Roles), s.mayGive(actor, in.Roles)); err != nil {
		return User{}, err
	}
	return s.create(ctx, in, from, "user.created", true)
}

func (s *Service) checkRoles(r levee.Roles) error {
	if known := s.permits.Known(); r == 0 || r&^known != 0 {
		return levee.Invalid("roles", "some of "+strings.Join(s.permits.Names(known), ", "), fmt.Sprint(r.Names()))
	}
	return nil
}

// create checks, hashes and stores a new account. check runs first in the transaction, when given.
func (s *Service) create(ctx context.Context, in NewUser, from Origin, action string, reservedToo bool,
	check ...func(ctx context.Context, tx *db.Tx) error) (User, error) {
	u := User{Roles: in.Roles, Version: 1}
	if in.Name == "" && in.Phone == "" {
		return User{}, levee.Invalid("name", "given, or a phone number instead", "")
	}
	key, err := "", error(nil)
	if in.Name != "" {
		if u.Name, key, err = handle.ParseName("name", in.Name); err != nil {
			return User{}, err
		}
		if !reservedToo && handle.Reserved(key) {
			return User{}, levee.Invalid("name", "one that could not be taken for the house itself", u.Name)
		}
	}
	if in.Phone != "" {
		if u.Phone, err = handle.ParsePhone("phone", in.Phone, s.cfg.PhoneCountry); err != nil {
			return User{}, err
		}
	}
	if err := handle.NewPassword("password", in.Password.Reveal(), u.Name, u.Phone); err != nil {
		return User{}, err
	}
	hash, err := s.hasher.hash(ctx, in.Password.Reveal())
	if err != nil {
		return User{}, err
	}
	id, err := s.ids.Next()
	if err != nil {
		return User{}, err
	}
	now := s.now()
	u.ID, u.CreatedAt, u.UpdatedAt = levee.UserID(id), at(now.UnixMicro()), at(now.UnixMicro())
	if levee.ActorFrom(ctx).User == 0 { // who signs up acts for the account that he makes
		ctx = levee.WithActor(ctx, levee.Actor{User: u.ID})
	}
	err = s.db.Tx(ctx, "identity.create", func(ctx context.Context, tx *db.Tx) error {
		for _, f := range check {
			if err := f(ctx, tx); err != nil {
				return err
			}
		}
		if err := insertUser(ctx, tx, u, key, hash); err != nil {
			return err
		}
		after := map[string]any{"name": u.Name, "phone": handle.Mask(u.Phone), "roles": s.permits.Names(u.Roles)}
		if err := s.recordTx(ctx, tx, trail.Act{Action: action, Kind: levee.KindUser, Subject: id, After: after}, from); err != nil {
			return err
		}
		return s.events.Emit(ctx, tx, UserCreated{User: u.ID, Roles: u.Roles})
	})
	if err != nil {
		return User{}, err
	}
	return u, nil
}

// ByID returns an account: to its owner, and to who reaches other people's; to others CodeNotFound.
func (s *Service) ByID(ctx context.Context, id levee.UserID) (u User, err error) {
	defer levee.Wrap(&err, "identity.ByID(%d)", id)
	if !levee.ActorFrom(ctx).Reaches(id, levee.AccountsOfOthers) {
		return User{}, levee.E(levee.CodeNotFound, "there is no such user")
	}
	row, err := readUser(ctx, s.db.QueryRow, id)
	return row.User, err
}

// List returns a page of accounts. For administrators; else CodeForbidden.
func (s *Service) List(ctx context.Context, q *listing.Query) (_ *listing.Found[User], err error) {
	defer levee.Wrap(&err, "identity.List")
	if err := require(levee.ActorFrom(ctx), levee.AccountsOfOthers); err != nil {
		return nil, err
	}
	return listUsers(ctx, s.db.Query, q)
}

// Disable shuts an account and ends all its sessions: whatever it holds is refused from the next call on. For administrators;
// else CodeForbidden. CodeConflict for the last administrator and for oneself. Disabling twice changes nothing.
func (s *Service) Disable(ctx context.Context, id levee.UserID, reason string, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.Disable(%d)", id)
	reason = strings.TrimSpace(reason)
	if n := utf8.RuneCountInString(reason); n == 0 || n > maxReason || !utf8.ValidString(reason) {
		return User{}, levee.Invalid("reason", fmt.Sprintf("1 to %d characters", maxReason), reason)
	}
	return s.change(ctx, id, from, "user.disabled", func(u *User) bool {
		if u.Disabled {
			return false
		}
		u.Disabled, u.DisabledReason = true, reason
		return true
	})
}

// Enable opens a disabled account again; its owner has to sign in anew. For administrators; else CodeForbidden.
func (s *Service) Enable(ctx context.Context, id levee.UserID, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.Enable(%d)", id)
	return s.change(ctx, id, from, "user.enabled", func(u *User) bool {
		if !u.Disabled {
			return false
		}
		u.Disabled, u.DisabledReason = false, ""
		return true
	})
}

// SetRoles gives an account other roles; they act from its next call on, without a new sign-in. For who reaches the account and
// has what it has and gets; else CodeForbidden. CodeInvalid without any role; CodeConflict when no administrator would be left, and for oneself.
func (s *Service) SetRoles(ctx context.Context, id levee.UserID, roles levee.Roles, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.SetRoles(%d, %v)", id, roles.Names())
	if err := s.checkRoles(roles); err != nil {
		return User{}, err
	}
	err = s.db.Tx(ctx, "identity.change", func(ctx context.Context, tx *db.Tx) error {
		u, err = s.SetRolesTx(ctx, tx, id, roles, from)
		return err
	})
	return u, err
}

// change alters one account by an administrator's act: the row, its sessions, the trail and the event commit together, and
// what processes hold in memory follows right after the commit.
func (s *Service) change(ctx context.Context, id levee.UserID, from Origin, action string, alter func(u *User) bool) (changed User, err error) {
	err = s.db.Tx(ctx, "identity.change", func(ctx context.Context, tx *db.Tx) error {
		changed, err = s.changeTx(ctx, tx, id, from, action, alter)
		return err
	})
	return changed, err
}

func (s *Service) changeTx(ctx context.Context, tx *db.Tx, id levee.UserID, from Origin, action string, alter func(u *User) bool) (changed User, err error) {
	actor := levee.ActorFrom(ctx)
	if err := require(actor, levee.AccountsOfOthers); err != nil {
		return User{}, err
	}
	row, err := readUser(ctx, tx.QueryRow, id)
	if err != nil {
		return User{}, err
	}
	before := row.User
	if changed = row.User; !alter(&changed) {
		return changed, nil
	}
	if err := s.mayGive(actor, before.Roles|changed.Roles); err != nil {
		return User{}, err
	}
	if wasAdministrator, is := administrates(before), administrates(changed); wasAdministrator && !is {
		if actor.User == id {
			return User{}, levee.E(levee.CodeConflict, "ask another administrator: nobody takes this away from himself")
		}
		n, err := countAdministrators(ctx, tx.Query)
		if err != nil {
			return User{}, err
		}
		if n < 2 {
			return User{}, levee.E(levee.CodeConflict, "this is the last administrator")
		}
	} else if actor.User == id && changed.Disabled {
		return User{}, levee.E(levee.CodeConflict, "nobody disables himself")
	}
	now := s.now()
	if err := updateUser(ctx, tx, &changed, now); err != nil {
		return User{}, err
	}
	sessions, err := unendedSessions(ctx, tx.Query, id)
	if err != nil {
		return User{}, err
	}
	if changed.Disabled {
		// The account itself stands in the registry for its foreign tokens.
		if _, err := s.endTx(ctx, tx, append(sessions, int64(id)), action); err != nil {
			return User{}, err
		}
	} else {
		roles, version := changed.Roles, changed.Version
		tx.AfterCommit(func() {
			s.live.setRoles(roles, version, sessions...)
			s.live.forget(int64(id))
		})
	}
	act := trail.Act{Action: action, Kind: levee.KindUser, Subject: int64(id), Before: s.auditUser(before), After: s.auditUser(changed)}
	if err := s.recordTx(ctx, tx, act, from); err != nil {
		return User{}, err
	}
	switch {
	case changed.Disabled && !before.Disabled:
		err = s.events.Emit(ctx, tx, UserDisabled{User: id})
	case before.Disabled && !changed.Disabled:
		err = s.events.Emit(ctx, tx, UserEnabled{User: id})
	default:
		err = s.events.Emit(ctx, tx, RolesChanged{User: id, Before: before.Roles, After: changed.Roles})
	}
	return changed, err
}

func administrates(u User) bool { return !u.Disabled && u.Roles.Has(levee.RoleAdministrator) }

// auditUser is what the trail shows of an account: only what an administrator can change.
func (s *Service) auditUser(u User) map[string]any {
	return map[string]any{"roles": s.permits.Names(u.Roles), "disabled": u.Disabled, "reason": u.DisabledReason}
}

// ChangePassword gives the context's actor a new password and ends his other sessions; it returns how many. CodeInvalid names
// the field: the current password when it is wrong, the new one when it is not allowed. CodeTooManyRequests after too many
// wrong ones.
func (s *Service) ChangePassword(ctx context.Context, current, next obs.Secret, from Origin) (ended int, err error) {
	defer levee.Wrap(&err, "identity.ChangePassword")
	actor := levee.ActorFrom(ctx)
	if err := requireAccount(actor); err != nil {
		return 0, err
	}
	if err := handle.BoundPassword("current", current.Reveal()); err != nil {
		return 0, err
	}
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, actor.User)
	if err != nil {
		return 0, err
	}
	if err := handle.NewPassword("password", next.Reveal(), row.Name, row.Phone); err != nil {
		return 0, err
	}
	if next == current {
		return 0, handle.Hidden("password", "different from the current one")
	}
	if err := s.ProvePassword(ctx, "current", current); err != nil {
		return 0, err
	}
	return s.setPassword(ctx, row, next, actor.Session, "user.password_changed", from)
}

// SetPassword gives an account a new password and ends all its sessions, for its owner who forgot the old one and showed an
// administrator who he is; else CodeForbidden.
func (s *Service) SetPassword(ctx context.Context, id levee.UserID, next obs.Secret, from Origin) (err error) {
	defer levee.Wrap(&err, "identity.SetPassword(%d)", id)
	if err := require(levee.ActorFrom(ctx), levee.AccountsOfOthers); err != nil {
		return err
	}
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, id)
	if err != nil {
		return err
	}
	if err := cmp.Or(s.mayGive(levee.ActorFrom(ctx), row.Roles), handle.NewPassword("password", next.Reveal(), row.Name, row.Phone)); err != nil {
		return err
	}
	_, err = s.setPassword(ctx, row, next, 0, "user.password_set", from)
	return err
}

// resetFor is how long a link to set a new password is good.
const resetFor = time.Hour

// CreatePasswordReset makes a token with which an account's owner, who forgot his password and showed an administrator who he is, sets a new one. It is good
// once, until expires; an earlier one is good no more. For administrators; else CodeForbidden. CodeConflict for an account that is disabled or has no password.
func (s *Service) CreatePasswordReset(ctx context.Context, id levee.UserID, from Origin) (text obs.Secret, expires time.Time, err error) {
	defer levee.Wrap(&err, "identity.CreatePasswordReset(%d)", id)
	if err := require(levee.ActorFrom(ctx), levee.AccountsOfOthers); err != nil {
		return "", time.Time{}, err
	}
	err = s.db.Tx(ctx, "identity.create_reset", func(ctx context.Context, tx *db.Tx) error {
		row, err := readUser(ctx, tx.QueryRow, id)
		switch {
		case err != nil:
			return err
		case row.Disabled:
			return levee.E(levee.CodeConflict, "this account is disabled")
		case row.hash == "":
			return levee.E(levee.CodeConflict, "this account has no password: its owner signs in elsewhere")
		}
		if text, expires, err = s.keys.OnceTx(ctx, tx, token.PasswordReset, int64(id), resetFor); err != nil {
			return err
		}
		return s.recordTx(ctx, tx, trail.Act{Action: "user.reset_created", Kind: levee.KindUser, Subject: int64(id), After: map[string]any{"expires_at": expires}}, from)
	})
	return text, expires, err
}

// ResetPassword gives the account that a token of CreatePasswordReset is for a new password, ends all its sessions and personal access tokens, and returns how
// many. CodeGone for a token that is not good; CodeInvalid for a password that is not allowed, which leaves the token good.
func (s *Service) ResetPassword(ctx context.Context, text, next obs.Secret, from Origin) (ended int, err error) {
	defer levee.Wrap(&err, "identity.ResetPassword")
	id, err := s.keys.Subject(ctx, token.PasswordReset, text)
	if err != nil {
		return 0, err
	}
	row, err := readUser(db.Primary(ctx), s.db.QueryRow, levee.UserID(id))
	if err != nil {
		return 0, err
	}
	if err := handle.NewPassword("password", next.Reveal(), row.Name, row.Phone); err != nil {
		return 0, err
	}
	ctx = levee.WithActor(ctx, levee.Actor{User: row.ID}) // whoever has the link acts for the account
	return s.setPassword(ctx, row, next, 0, "user.password_reset", from, func(ctx context.Context, tx *db.Tx) error {
		return s.keys.UseTx(ctx, tx, token.PasswordReset, text)
	})
}

// setPassword stores the password and ends all sessions but keep, and all personal access tokens. check runs first in the transaction, when given.
func (s *Service) setPassword(ctx context.Context, row userRow, next obs.Secret, keep int64, action string, from Origin,
	check ...func(ctx context.Context, tx *db.Tx) error) (int, error) {
	hash, err := s.hasher.hash(ctx, next.Reveal())
	if err != nil {
		return 0, err
	}
	ended := 0
	err = s.db.Tx(ctx, "identity.password", func(ctx context.Context, tx *db.Tx) error {
		for _, f := range check {
			if err := f(ctx, tx); err != nil {
				return err
			}
		}
		if ok, err := updatePassword(ctx, tx, row.ID, row.hash, hash, s.now()); err != nil {
			return err
		} else if !ok {
			return levee.E(levee.CodeConflict, "the password was changed at the same time")
		}
		sessions, err := unendedSessions(ctx, tx.Query, row.ID)
		if err != nil {
			return err
		}
		others := make([]int64, 0, len(sessions))
		for _, id := range sessions {
			if id != keep {
				others = append(others, id)
			}
		}
		if ended, err = s.endTx(ctx, tx, others, action); err != nil {
			return err
		}
		act := trail.Act{Action: action, Kind: levee.KindUser, Subject: int64(row.ID), After: map[string]any{"sessions_ended": ended}}
		return s.recordTx(ctx, tx, act, from)
	})
	return ended, err
}

// HeldTx reports whether any account, also a disabled one, has one of the roles, within the caller's transaction. It asks for no right.
func (s *Service) HeldTx(ctx context.Context, tx *db.Tx, roles levee.Roles) (bool, error) {
	n, err := holders(ctx, tx.Query, roles, true)
	return n > 0, err
}

// FindTx returns the account of a number, or of a name in any case when the number is 0, within the caller's transaction; CodeNotFound. It
// asks for no right.
func (s *Service) FindTx(ctx context.Context, tx *db.Tx, id levee.UserID, name string) (User, error) {
	if id != 0 {
		row, err := readUser(ctx, tx.QueryRow, id)
		return row.User, err
	}
	row, err := readUserByLogin(ctx, tx.QueryRow, handle.Fold(name), "")
	return row.User, err
}

// SetRolesTx is SetRoles within the caller's transaction. Roles that are made in it may be among them.
func (s *Service) SetRolesTx(ctx context.Context, tx *db.Tx, id levee.UserID, roles levee.Roles, from Origin) (u User, err error) {
	return s.changeTx(ctx, tx, id, from, "user.roles_changed", func(u *User) bool {
		changed := u.Roles != roles
		u.Roles = roles
		return changed
	})
}
