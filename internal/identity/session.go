package identity

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/schedule"
	"levee/internal/token"
	"levee/internal/trail"
)

// SignIn is what somebody shows to begin a session.
type SignIn struct {
	// Name or Phone, not both.
	Name     string
	Phone    string
	Password obs.Secret
	Kind     SessionKind
}

// SignIn begins a session. CodeUnauthenticated does not tell a wrong password from an account that does not exist, neither by
// its words nor by its time. CodeForbidden: the password is right but the account is disabled. CodeTooManyRequests: too many
// tries on this account; a try that succeeds does not count. CodeUnavailable: too many passwords are being hashed.
//
// The secret is always new, whatever the browser brought along; a cookie session that the context's actor signed in with
// before, which the new cookie replaces in the browser, ends.
func (s *Service) SignIn(ctx context.Context, in SignIn, from Origin) (g Grant, err error) {
	defer levee.Wrap(&err, "identity.SignIn")
	var row userRow
	defer func() {
		s.metrics.signIns.WithLabelValues(signInResult(err)).Inc()
		s.noteSignIn(ctx, in, "password", row, err, from)
	}()
	if in.Kind != SessionCookie && in.Kind != SessionToken {
		return Grant{}, levee.Invalid("kind", "cookie or token", in.Kind)
	}
	if (in.Name == "") == (in.Phone == "") {
		return Grant{}, levee.Invalid("name", "given, or a phone number instead, not both", in.Name)
	}
	if err := handle.BoundPassword("password", in.Password.Reveal()); err != nil {
		return Grant{}, err
	}
	var key, phone string
	if in.Name != "" {
		if _, key, err = handle.ParseName("name", in.Name); err != nil {
			return Grant{}, err
		}
	} else if phone, err = handle.ParsePhone("phone", in.Phone, s.cfg.PhoneCountry); err != nil {
		return Grant{}, err
	}
	if err := s.hasher.room(); err != nil {
		return Grant{}, err
	}
	account := key + phone // a name never begins with '+', so the two never meet
	if err := s.limits.Allow(ctx, limit.SignInAccount, account).Err(); err != nil {
		return Grant{}, err
	}
	row, err = readUserByLogin(db.Primary(ctx), s.db.QueryRow, key, phone)
	if err != nil && levee.CodeOf(err) != levee.CodeNotFound {
		return Grant{}, err
	}
	ok, stale, err := s.hasher.check(ctx, in.Password.Reveal(), row.hash) // for nobody too: the same time
	if err != nil {
		return Grant{}, err
	}
	if !ok {
		if row.ID != 0 {
			s.log.InfoContext(ctx, "sign-in refused", "user", int64(row.ID), "address", from.address())
		}
		return Grant{}, wrongPassword()
	}
	s.limits.Refund(ctx, limit.SignInAccount, account)
	renewed := ""
	if stale {
		if renewed, err = s.hasher.hash(ctx, in.Password.Reveal()); err != nil {
			renewed = "" // the next sign-in will do it
		}
	}
	return s.begin(ctx, row, renewed, "password", in.Kind, from)
}

// noteSignIn tells the trail how a sign-in ended. Of a name that nobody has it does not tell: it may be a password that was put into the
// wrong field.
func (s *Service) noteSignIn(ctx context.Context, in SignIn, how string, row userRow, err error, from Origin) {
	act := trail.Act{Action: "session.refused", Address: from.Address, RequestID: from.RequestID, After: map[string]string{"why": signInResult(err), "by": how}}
	switch levee.CodeOf(err) {
	case levee.CodeInvalid, levee.CodeUnavailable, levee.CodeInternal:
		return // nothing was tried
	case "":
		act.Action, act.After = "session.begun", map[string]string{"by": how}
		ctx = levee.WithActor(ctx, levee.Actor{User: row.ID})
	case levee.CodeSecondFactor: // the first was right
		act.Action = "session.second_asked"
	case levee.CodeTooManyRequests: // the account is shut to sign-ins for a while
		act.Action, act.After = "session.shut_out", map[string]string{"name": levee.Shorten(in.Name, 40), "phone": handle.Mask(in.Phone)}
	}
	if row.ID != 0 {
		act.Kind, act.Subject = levee.KindUser, int64(row.ID)
	}
	s.trail.Note(ctx, act, row.Roles.Staff())
}

func wrongPassword() error {
	return levee.E(levee.CodeUnauthenticated, "the name or the password is wrong")
}

func signInResult(err error) string {
	switch levee.CodeOf(err) {
	case "":
		return "ok"
	case levee.CodeTooManyRequests, levee.CodeUnavailable:
		return "limited"
	case levee.CodeForbidden:
		return "disabled"
	case levee.CodeSecondFactor:
		return "second_factor"
	}
	return "refused"
}

// begin begins a session of an account whose holder has proven himself a moment ago, unless he has to show a second factor.
func (s *Service) begin(ctx context.Context, row userRow, renewed, how string, kind SessionKind, from Origin) (Grant, error) {
	if s.second != nil && !row.Disabled {
		if err := s.second(ctx, Proven{User: row.ID, Roles: row.Roles, How: how, Mark: token.Hash(row.hash)}); err != nil {
			return Grant{}, err
		}
	}
	return s.beginProven(ctx, row, renewed, kind, from)
}

// beginProven stores a session and makes its secret.
func (s *Service) beginProven(ctx context.Context, row userRow, renewed string, kind SessionKind, from Origin) (Grant, error) {
	id, err := s.ids.Next()
	if err != nil {
		return Grant{}, err
	}
	now := at(s.now().UnixMicro())
	session := Session{ID: id, User: row.ID, Kind: kind, Address: from.address(), Agent: from.agent(), CreatedAt: now, SeenAt: now,
		ExpiresAt: now.Add(s.cfg.SessionTTL)}
	purpose := token.ForRefresh
	if kind == SessionCookie {
		purpose = token.ForCookie
	}
	text := s.secrets.Fresh(purpose, id)
	state := s.live.hold(id, now.Add(s.cfg.AccessTTL).UnixMicro()) // before the transaction: see registry
	var user userRow
	err = s.db.Tx(ctx, "identity.sign_in", func(ctx context.Context, tx *db.Tx) error {
		if user, err = readUser(ctx, tx.QueryRow, row.ID); err != nil {
			return err
		}
		if user.hash != row.hash { // changed since it was checked
			return wrongPassword()
		}
		if user.Disabled {
			return levee.E(levee.CodeForbidden, "this account is disabled")
		}
		if renewed != "" {
			if _, err := updatePassword(ctx, tx, user.ID, user.hash, renewed, now); err != nil {
				return err
			}
		}
		if err := s.makeRoom(ctx, tx, kind, user.ID, now); err != nil {
			return err
		}
		return insertSession(ctx, tx, session, token.Hash(text))
	})
	if err != nil {
		return Grant{}, err
	}
	s.live.learn(id, state, user.Roles, user.Version, now.UnixMicro())
	g := Grant{User: user.User, Session: session}
	if kind == SessionCookie {
		g.Cookie = obs.Secret(text)
		return g, nil
	}
	return s.withTokens(ctx, g, state, text, now)
}

// makeRoom ends what the new session replaces: the browser's earlier one, and the one unused for longest when the user has
// as many as he may.
func (s *Service) makeRoom(ctx context.Context, tx *db.Tx, kind SessionKind, user levee.UserID, now time.Time) error {
	if before := levee.ActorFrom(ctx); kind == SessionCookie && before.Session != 0 {
		row, err := readSession(ctx, tx.QueryRow, before.Session)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return err
		}
		if err == nil && row.Kind == SessionCookie {
			if _, err := s.endTx(ctx, tx, []int64{row.ID}, "replaced"); err != nil {
				return err
			}
		}
	}
	open, err := openSessions(ctx, tx.Query, user, now, s.cfg.SessionIdle)
	if err != nil {
		return err
	}
	for len(open) >= s.cfg.SessionsPerUser {
		if _, err := s.endTx(ctx, tx, []int64{open[0].ID}, "too_many"); err != nil {
			return err
		}
		open = open[1:]
	}
	return nil
}

// withTokens adds the access token and the refresh token to a grant.
func (s *Service) withTokens(ctx context.Context, g Grant, state *live, refresh string, now time.Time) (Grant, error) {
	access, expires, err := s.issue(ctx, g.Session, state, now)
	if err != nil {
		return Grant{}, err
	}
	g.AccessToken, g.AccessExpires, g.RefreshToken = obs.Secret(access), expires, obs.Secret(refresh)
	return g, nil
}

// endTx ends sessions in the caller's transaction and, once it has committed, in this process. It returns how many were open.
func (s *Service) endTx(ctx context.Context, tx *db.Tx, sessions []int64, why string) (ended int, err error) {
	now := s.now()
	for _, id := range sessions {
		open, err := endSession(ctx, tx, id, why, now)
		if err != nil {
			return 0, err
		}
		if open {
			ended++
		}
	}
	sessions = slices.Clone(sessions)
	tx.AfterCommit(func() { s.live.end(sessions...) })
	return ended, nil
}

// Refresh replaces a refresh token by its successor and gives a new access token. Asked again within Config.RefreshGrace with
// the same token, by a client that lost the answer or by several at once, it gives the same successor. A token that was
// replaced longer ago is in two hands: the whole session ends. CodeUnauthenticated in every case that gives nothing.
func (s *Service) Refresh(ctx context.Context, refresh obs.Secret, from Origin) (g Grant, err error) {
	defer levee.Wrap(&err, "identity.Refresh")
	result := "refused"
	defer func() { s.metrics.refreshes.WithLabelValues(result).Inc() }()
	refused := levee.E(levee.CodeUnauthenticated, "the refresh token is not valid; sign in again")
	presented, ours := s.secrets.Read(token.ForRefresh, refresh.Reveal())
	if !ours {
		return Grant{}, refused
	}
	hash := token.Hash(refresh.Reveal())
	now := at(s.now().UnixMicro())
	state := s.live.hold(presented.Session, now.Add(s.cfg.AccessTTL).UnixMicro()) // before the transaction: see registry
	var successor string
	var row sessionRow
	var user userRow
	err = s.db.Tx(ctx, "identity.refresh", func(ctx context.Context, tx *db.Tx) error {
		if row, err = readSession(ctx, tx.QueryRow, presented.Session); errors.Is(err, db.ErrNoRows) {
			return refused
		} else if err != nil {
			return err
		}
		if row.Kind != SessionToken || !s.usable(row, now) {
			return refused
		}
		if user, err = readUser(ctx, tx.QueryRow, row.User); err != nil {
			return err
		}
		switch {
		case same(hash, row.secretHash):
			result = "rotated"
			successor, err = s.rotate(ctx, tx, row, presented, from, now)
			return err
		case same(hash, row.previousHash) && !now.After(row.rotatedAt.Add(s.cfg.RefreshGrace)):
			result = "grace"
			successor, err = s.successorAgain(row, presented)
			return err
		case presented.Generation < row.generation:
			result = "reused"
			return s.reused(ctx, tx, row, from)
		}
		return refused // of a later generation than SQL knows: a restored backup
	})
	if err != nil || result == "reused" {
		if err != nil {
			result = "refused"
			return Grant{}, err
		}
		return Grant{}, refused
	}
	s.live.learn(row.ID, state, user.Roles, user.Version, row.SeenAt.UnixMicro())
	return s.withTokens(ctx, Grant{User: user.User, Session: row.Session}, state, successor, now)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// rotate gives the session its next refresh token.
func (s *Service) rotate(ctx context.Context, tx *db.Tx, row sessionRow, presented token.Secret, from Origin, now time.Time) (string, error) {
	var salt [16]byte
	rand.Read(salt[:]) // never fails
	successor := s.secrets.Successor(presented, salt[:])
	ok, err := rotateSession(ctx, tx, row, token.Hash(successor), hex.EncodeToString(salt[:]), from, now)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", levee.E(levee.CodeUnavailable, "the session is being refreshed").After(time.Second)
	}
	return successor, nil
}

// successorAgain returns the successor that the presented token was given before.
func (s *Service) successorAgain(row sessionRow, presented token.Secret) (string, error) {
	salt, err := hex.DecodeString(row.salt)
	if err != nil {
		return "", err
	}
	successor := s.secrets.Successor(presented, salt)
	if !same(token.Hash(successor), row.secretHash) {
		return "", levee.E(levee.CodeUnauthenticated, "the refresh token is not valid; sign in again") // the house has another secret since
	}
	return successor, nil
}

// reused ends a session whose replaced refresh token was shown again. It returns nil so that this commits.
func (s *Service) reused(ctx context.Context, tx *db.Tx, row sessionRow, from Origin) error {
	if _, err := s.endTx(ctx, tx, []int64{row.ID}, "reused"); err != nil {
		return err
	}
	user := row.User
	tx.AfterCommit(func() {
		s.log.WarnContext(ctx, "a replaced refresh token was shown again, its session has ended", "user", int64(user), "address", from.address())
	})
	act := trail.Act{Action: "session.reused", Kind: levee.KindSession, Subject: row.ID,
		Before: map[string]any{"user": s.sealer.Seal(levee.KindUser, int64(user)), "address": row.Address}}
	if err := s.recordTx(ctx, tx, act, from); err != nil {
		return err
	}
	return s.events.Emit(ctx, tx, SessionReused{User: user, Address: from.address()})
}

// AuthenticateCookie returns who a session cookie's value stands for. CodeUnauthenticated for one that is not ours, or whose
// session or account has ended.
func (s *Service) AuthenticateCookie(ctx context.Context, value string) (levee.Actor, error) {
	now := s.now().UnixMicro()
	if e := s.cookies.Get(value); e != nil && now < e.Expires && now < e.Value.state.seen.Load()+s.cfg.SessionIdle.Microseconds() {
		switch bits := e.Value.state.bits.Load(); bits & stateMask {
		case stateOpen:
			s.saw(e.Value.state, now)
			return s.actor(&e.Value, bits), nil
		case stateEnded:
			return levee.Actor{}, endedSession()
		}
	}
	return s.verifyCookie(ctx, value, now)
}

// saw notes a use of a cookie session; to the tenth of a percent of the idle time, so that hardly any call writes.
func (s *Service) saw(state *live, now int64) {
	if now-state.seen.Load() >= s.cfg.SessionIdle.Microseconds()/1000 {
		state.seen.Store(now)
	}
}

// cookieRecheck is how long a cookie session is believed before SQL is asked again.
const cookieRecheck = 10 * time.Minute

// verifyCookie is the long way of AuthenticateCookie.
func (s *Service) verifyCookie(ctx context.Context, value string, now int64) (actor levee.Actor, err error) {
	defer func() { s.metrics.checks.WithLabelValues(resultOf(err)).Inc() }()
	sec, ours := s.secrets.Read(token.ForCookie, value)
	if !ours {
		return levee.Actor{}, levee.E(levee.CodeUnauthenticated, "the session cookie is not valid")
	}
	until := now + cookieRecheck.Microseconds()
	row, state, err := s.loadSession(ctx, sec.Session, until)
	if err != nil {
		return levee.Actor{}, err
	}
	if row.Kind != SessionCookie || !same(token.Hash(value), row.secretHash) {
		return levee.Actor{}, levee.E(levee.CodeUnauthenticated, "the session cookie is not valid")
	}
	bits := state.bits.Load()
	if bits&stateMask != stateOpen {
		return levee.Actor{}, endedSession()
	}
	s.saw(state, now)
	v := verified{user: row.User, session: row.ID, state: state}
	s.remember(s.cookies, value, min(until, row.ExpiresAt.UnixMicro()), v)
	return s.actor(&v, bits), nil
}

// SignOut ends the context's actor's own session.
func (s *Service) SignOut(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "identity.SignOut")
	actor := levee.ActorFrom(ctx)
	if err := requireAccount(actor); err != nil {
		return err
	}
	err = s.db.Tx(ctx, "identity.sign_out", func(ctx context.Context, tx *db.Tx) error {
		_, err := s.endTx(ctx, tx, []int64{actor.Session}, "signed_out")
		return err
	})
	if err == nil {
		s.trail.Note(ctx, trail.Act{Action: "session.ended", Kind: levee.KindUser, Subject: int64(actor.User)}, actor.Roles.Staff())
	}
	return err
}

// Sessions lists the open sessions of the context's actor, newest first.
func (s *Service) Sessions(ctx context.Context) (list []Session, err error) {
	defer levee.Wrap(&err, "identity.Sessions")
	actor := levee.ActorFrom(ctx)
	if err := requireAccount(actor); err != nil {
		return nil, err
	}
	list, err = openSessions(ctx, s.db.Query, actor.User, s.now(), s.cfg.SessionIdle)
	slices.SortFunc(list, func(a, b Session) int { return cmp.Compare(b.ID, a.ID) })
	return list, err
}

// EndSession ends one session of the context's actor. CodeNotFound for one that is not his or has ended.
func (s *Service) EndSession(ctx context.Context, id int64, from Origin) (err error) {
	defer levee.Wrap(&err, "identity.EndSession(%d)", id)
	actor := levee.ActorFrom(ctx)
	if err := requireAccount(actor); err != nil {
		return err
	}
	return s.endOne(ctx, actor.User, id, false, trail.Act{Action: "session.revoked", Kind: levee.KindSession, Subject: id}, from)
}

// endOne ends one session of a user, or one personal access token, and records it. CodeNotFound for one that is not his or has ended.
func (s *Service) endOne(ctx context.Context, user levee.UserID, id int64, personal bool, act trail.Act, from Origin) error {
	return s.db.Tx(ctx, "identity.end_session", func(ctx context.Context, tx *db.Tx) error {
		row, err := readSession(ctx, tx.QueryRow, id)
		if errors.Is(err, db.ErrNoRows) || err == nil && (row.User != user || row.ended || (row.Kind == SessionPersonal) != personal) {
			return levee.E(levee.CodeNotFound, "there is no such session or token")
		}
		if err != nil {
			return err
		}
		if _, err := s.endTx(ctx, tx, []int64{id}, act.Action); err != nil {
			return err
		}
		return s.recordTx(ctx, tx, act, from)
	})
}

// EndOtherSessions ends all sessions of the context's actor but the one he asks with, and returns how many. His personal access tokens stay.
func (s *Service) EndOtherSessions(ctx context.Context, from Origin) (ended int, err error) {
	defer levee.Wrap(&err, "identity.EndOtherSessions")
	actor := levee.ActorFrom(ctx)
	if err := requireAccount(actor); err != nil {
		return 0, err
	}
	return s.endMany(ctx, actor.User, actor.Session, false, "session.others_revoked", from)
}

// endMany ends a user's sessions but keep, also those that are too old, with or without his personal access tokens, and records how many were open.
func (s *Service) endMany(ctx context.Context, user levee.UserID, keep int64, personal bool, action string, from Origin) (ended int, err error) {
	err = s.db.Tx(ctx, "identity.end_sessions", func(ctx context.Context, tx *db.Tx) error {
		sessions, err := unendedSessions(ctx, tx.Query, user)
		if err != nil {
			return err
		}
		var kept []token.Personal
		if !personal {
			if kept, err = openPersonal(ctx, tx.Query, user, s.now()); err != nil {
				return err
			}
		}
		others := slices.DeleteFunc(sessions, func(id int64) bool {
			return id == keep || slices.ContainsFunc(kept, func(p token.Personal) bool { return p.ID == id })
		})
		if ended, err = s.endTx(ctx, tx, others, action); err != nil || ended == 0 {
			return err
		}
		return s.recordTx(ctx, tx, trail.Act{Action: action, Kind: levee.KindUser, Subject: int64(user), After: map[string]any{"sessions_ended": ended}}, from)
	})
	return ended, err
}

// SessionsOf lists the open sessions of an account, newest first. For administrators; else CodeForbidden. CodeNotFound without the account.
func (s *Service) SessionsOf(ctx context.Context, user levee.UserID) (list []Session, err error) {
	defer levee.Wrap(&err, "identity.SessionsOf(%d)", user)
	if err := s.administers(ctx, user); err != nil {
		return nil, err
	}
	list, err = openSessions(db.Primary(ctx), s.db.Query, user, s.now(), s.cfg.SessionIdle)
	slices.SortFunc(list, func(a, b Session) int { return cmp.Compare(b.ID, a.ID) })
	return list, err
}

// EndSessionOf ends one session of an account, on all nodes within a second. For administrators; else CodeForbidden. CodeNotFound for one that is not its own
// or has ended.
func (s *Service) EndSessionOf(ctx context.Context, user levee.UserID, id int64, from Origin) (err error) {
	defer levee.Wrap(&err, "identity.EndSessionOf(%d, %d)", user, id)
	if err := s.administers(ctx, user); err != nil {
		return err
	}
	act := trail.Act{Action: "session.ended", Kind: levee.KindSession, Subject: id, After: map[string]any{"user": s.sealer.Seal(levee.KindUser, int64(user))}}
	return s.endOne(ctx, user, id, false, act, from)
}

// EndSessionsOf ends all sessions and personal access tokens of an account, on all nodes within a second, and returns how many were open. Its owner may sign in
// again. For administrators; else CodeForbidden. CodeNotFound without the account.
func (s *Service) EndSessionsOf(ctx context.Context, user levee.UserID, from Origin) (ended int, err error) {
	defer levee.Wrap(&err, "identity.EndSessionsOf(%d)", user)
	if err := s.administers(ctx, user); err != nil {
		return 0, err
	}
	return s.endMany(ctx, user, 0, true, "user.sessions_ended", from)
}

// administers returns an error unless the context's actor is an administrator and the account is there.
func (s *Service) administers(ctx context.Context, user levee.UserID) error {
	if err := require(levee.ActorFrom(ctx), levee.AccountsOfOthers); err != nil {
		return err
	}
	_, err := readUser(db.Primary(ctx), s.db.QueryRow, user)
	return err
}

const (
	flushBatch = 500
	// sessionsKept is how long sessions stay readable for an investigation after they expired.
	sessionsKept = 30 * 24 * time.Hour
)

// FlushSeen writes when cookie sessions were last used, as far as this process knows. A job calls it; at a stop it
// may be called once more.
func (s *Service) FlushSeen(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "identity.FlushSeen")
	for {
		batch := s.live.unflushed(flushBatch)
		if len(batch) == 0 {
			return nil
		}
		err := s.db.Tx(ctx, "identity.seen", func(ctx context.Context, tx *db.Tx) error {
			for _, b := range batch {
				if err := touchSession(ctx, tx, b.session, b.at); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, b := range batch {
			b.state.flushed.Store(b.at)
		}
	}
}

// Prune deletes sessions that expired more than 30 days ago.
func (s *Service) Prune(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "identity.Prune")
	for n := flushBatch; n == flushBatch; {
		err := s.db.Tx(ctx, "identity.prune", func(ctx context.Context, tx *db.Tx) error {
			n, err = deleteSessions(ctx, tx, s.now().Add(-sessionsKept), flushBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{schedule.Every("identity.seen", time.Minute, job.Options{}, s.FlushSeen),
		schedule.Every("identity.prune", time.Hour, job.Options{Timeout: 10 * time.Minute}, s.Prune), s.moveTrail()}
}
