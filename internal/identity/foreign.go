package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"levee"
	"levee/internal/foreign"
	"levee/internal/platform/db"
	"levee/internal/token"
)

// foreign is the part of the config that says whose tokens are accepted besides ours.
func (c Config) foreign() foreign.Config {
	return foreign.Config{Issuer: c.ForeignIssuer, Audience: c.ForeignAudience, Keys: c.ForeignKeys, Insecure: c.ForeignKeysInsecure,
		Name: c.ForeignNameClaim}
}

// foreignRoles is all that a foreign token can ever give, whatever the account is given besides.
const foreignRoles = levee.RoleCustomer

// verifyForeign is verifyToken for a token of the foreign issuer. The place of its session in the registry is taken by the account
// itself, so that a disabled account is out on the next call.
func (s *Service) verifyForeign(text string) (levee.Actor, error) {
	generation := s.keys.Generation()
	t, err := s.foreign.Verify(text)
	if levee.CodeOf(err) == levee.CodeUnavailable {
		return levee.Actor{}, err
	} else if err != nil {
		return levee.Actor{}, token.Refused(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	user, err := s.foreignAccount(ctx, t.Subject, t.Name)
	if err != nil {
		return levee.Actor{}, err
	}
	now := s.now()
	until := min(t.Expires.UnixMicro(), now.Add(foreign.Recheck).UnixMicro())
	for range 3 { // as in loadSession
		state := s.live.hold(int64(user), until)
		row, err := readUser(db.Primary(ctx), s.db.QueryRow, user)
		if err != nil {
			return levee.Actor{}, err
		}
		if row.Disabled {
			return levee.Actor{}, endedSession()
		}
		s.live.learn(int64(user), state, row.Roles&foreignRoles, row.Version, 0)
		if bits := state.bits.Load(); bits&stateMask == stateOpen {
			s.remember(s.tokens, text, until, verified{user: user, state: state, generation: generation})
			return s.actor(&verified{user: user}, bits), nil
		}
	}
	return levee.Actor{}, levee.E(levee.CodeUnavailable, "the account is being changed").After(time.Second)
}

// foreignAccount returns the account of a subject, made at first sight: a customer without a password, called what the token
// says if that is a name and free, else by a name made from the subject.
func (s *Service) foreignAccount(ctx context.Context, subject, name string) (user levee.UserID, err error) {
	issuer := s.cfg.ForeignIssuer
	if user, err = readForeign(db.Primary(ctx), s.db.QueryRow, issuer, subject); user != 0 || err != nil {
		return user, err
	}
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject))
	in := Enrolment{Name: name, Fallback: "buyer-" + hex.EncodeToString(sum[:8]), Action: "user.foreign_seen", Told: map[string]any{"issuer": issuer, "subject": subject}}
	err = s.db.Tx(ctx, "identity.foreign", func(ctx context.Context, tx *db.Tx) error {
		if user, err = readForeign(ctx, tx.QueryRow, issuer, subject); user != 0 || err != nil {
			return err // somebody was first
		}
		u, err := s.EnrolTx(ctx, tx, in, Origin{})
		if err != nil {
			return err
		}
		user = u.ID
		return insertForeign(ctx, tx, issuer, subject, u)
	})
	return user, err
}

// ForeignSubject returns the name under which the foreign issuer knows a user, or "" for an account of the house's own. It asks
// for no right: only rooms that tell that issuer's shop call it.
func (s *Service) ForeignSubject(ctx context.Context, user levee.UserID) (string, error) {
	if s.foreign == nil {
		return "", nil
	}
	return readForeignSubject(db.Primary(ctx), s.db.QueryRow, s.cfg.ForeignIssuer, user)
}
