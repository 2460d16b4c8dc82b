package identity

import (
	"context"
	"errors"
	"strings"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/token"
	"levee/internal/trail"
)

// maxPersonal is how many personal access tokens one user may have.
const maxPersonal = 50

// signedInHimself returns an error unless the actor has signed in here: not a visitor, an invented buyer, a foreign token or a personal one. The web part
// has refused a personal token before; here it holds for callers inside the process too.
func signedInHimself(a levee.Actor) error {
	if err := requireAccount(a); err != nil {
		return err
	}
	if a.Scope != nil || a.Session == 0 {
		return levee.E(levee.CodeForbidden, "this needs a sign-in of this house")
	}
	return nil
}

// CreatePersonal makes a personal access token of the context's actor, who must have signed in himself (else CodeForbidden), and returns its text, which
// nobody can read again: SQL has its hash. It never gives more than the roles that its owner has when it is used, and ends with a disabled account or another
// password. CodeInvalid names the field, in.Name, in.Scopes or in.ExpiresAt, that is not allowed; CodeConflict when he has 50 of them.
func (s *Service) CreatePersonal(ctx context.Context, in token.Personal, from Origin) (p token.Personal, text obs.Secret, err error) {
	defer levee.Wrap(&err, "identity.CreatePersonal")
	actor := levee.ActorFrom(ctx)
	if err := signedInHimself(actor); err != nil {
		return token.Personal{}, "", err
	}
	now := at(s.now().UnixMicro())
	if p, err = in.Check(now, func(word string) string { return s.scopeFault(word, actor.Roles) }); err != nil {
		return token.Personal{}, "", err
	}
	if p.ID, err = s.ids.Next(); err != nil {
		return token.Personal{}, "", err
	}
	p.User, p.CreatedAt = actor.User, now
	text = s.keys.NewPersonal(p.ID)
	err = s.db.Tx(ctx, "identity.create_personal", func(ctx context.Context, tx *db.Tx) error {
		// The session that asks must still be open: an account that is being shut must not keep a way in.
		row, err := readSession(ctx, tx.QueryRow, actor.Session)
		if errors.Is(err, db.ErrNoRows) || err == nil && (row.ended || row.userDisabled) {
			return endedSession()
		}
		if err != nil {
			return err
		}
		open, err := openPersonal(ctx, tx.Query, actor.User, now)
		if err != nil {
			return err
		}
		if len(open) >= maxPersonal {
			return levee.E(levee.CodeConflict, "there are %d tokens already: revoke one that is not needed", len(open))
		}
		session := Session{ID: p.ID, User: p.User, Kind: SessionPersonal, Address: from.address(), Agent: from.agent(), CreatedAt: now, SeenAt: now,
			ExpiresAt: p.ExpiresAt}
		if err := insertSession(ctx, tx, session, token.Hash(text.Reveal())); err != nil {
			return err
		}
		if err := insertPersonal(ctx, tx, p); err != nil {
			return err
		}
		act := trail.Act{Action: "token.created", Kind: levee.KindToken, Subject: p.ID, After: auditPersonal(p)}
		return s.recordTx(ctx, tx, act, from)
	})
	return p, text, err
}

// auditPersonal is what the trail shows of a token. Scopes may be longer than it takes.
func auditPersonal(p token.Personal) map[string]any {
	return map[string]any{"name": p.Name, "scopes": levee.Shorten(strings.Join(p.Scopes, " "), 2000), "expires_at": p.ExpiresAt}
}

// PersonalTokens lists the tokens of the context's actor that are good, newest first.
func (s *Service) PersonalTokens(ctx context.Context) (list []token.Personal, err error) {
	defer levee.Wrap(&err, "identity.PersonalTokens")
	actor := levee.ActorFrom(ctx)
	if err := signedInHimself(actor); err != nil {
		return nil, err
	}
	return openPersonal(db.Primary(ctx), s.db.Query, actor.User, s.now())
}

// RevokePersonal ends a token of the context's actor, on all nodes within a second. CodeNotFound for one that is not his or has ended.
func (s *Service) RevokePersonal(ctx context.Context, id int64, from Origin) (err error) {
	defer levee.Wrap(&err, "identity.RevokePersonal(%d)", id)
	actor := levee.ActorFrom(ctx)
	if err := signedInHimself(actor); err != nil {
		return err
	}
	return s.endOne(ctx, actor.User, id, true, trail.Act{Action: "token.revoked", Kind: levee.KindToken, Subject: id}, from)
}

// verifyPersonal is verifyToken for a personal access token.
func (s *Service) verifyPersonal(text string) (levee.Actor, error) {
	id, ours := s.keys.OpenPersonal(text)
	if !ours {
		return levee.Actor{}, token.Bad(nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	until := s.now().Add(cookieRecheck).UnixMicro()
	row, state, err := s.loadSession(ctx, id, until)
	if err != nil {
		return levee.Actor{}, err
	}
	if row.Kind != SessionPersonal || !same(token.Hash(text), row.secretHash) {
		return levee.Actor{}, token.Bad(nil)
	}
	scopes, err := readScopes(db.Primary(ctx), s.db.QueryRow, id)
	if err != nil {
		return levee.Actor{}, err
	}
	bits := state.bits.Load()
	if bits&stateMask != stateOpen {
		return levee.Actor{}, endedSession()
	}
	s.saw(state, s.now().UnixMicro())
	v := verified{user: row.User, session: id, generation: s.keys.Generation(), scope: levee.NewScope(scopes), state: state}
	s.remember(s.tokens, text, min(until, row.ExpiresAt.UnixMicro()), v)
	return s.actor(&v, bits), nil
}
