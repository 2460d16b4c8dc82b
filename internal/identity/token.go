package identity

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/token"
)

// loadTimeout bounds the read of a session whose token is seen for the first time.
const loadTimeout = 5 * time.Second

// verified is what a credential stands for whose signature, claims and session were checked once. What may change later (ended, roles) is not here
// but behind state.
type verified struct {
	user       levee.UserID
	session    int64
	generation int64 // of the signing keys when it was checked
	rehearsal  bool
	scope      *levee.Scope
	state      *live
}

// remember puts a credential into a cache. The caller's string may be a piece of a whole request's headers, which the cache must not keep.
func (s *Service) remember(c *token.Cache[verified], credential string, expires int64, v verified) {
	c.Put(&token.Entry[verified]{Credential: strings.Clone(credential), Expires: expires, Value: v}, s.now().UnixMicro())
}

func endedSession() error {
	return levee.E(levee.CodeUnauthenticated, "the session has ended").With("reason", "session_ended")
}

// Warm makes the room ready: it loads the keys of access tokens. It must have returned before the first request; CodeUnavailable when SQL is away.
func (s *Service) Warm(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "identity.Warm")
	earlier, err := anySession(db.Primary(ctx), s.db.QueryRow, s.now())
	if err != nil {
		return err
	}
	return s.keys.Warm(ctx, earlier)
}

// issue makes an access token of an open session and puts it into the cache, so that its first use is a hit. state was
// held before the transaction that gave the session and the user's roles.
func (s *Service) issue(ctx context.Context, session Session, state *live, now time.Time) (text string, expires time.Time, err error) {
	expires = now.Add(s.cfg.AccessTTL).Truncate(time.Second)
	if expires.After(session.ExpiresAt) {
		expires = session.ExpiresAt.Truncate(time.Second)
	}
	generation := s.keys.Generation() // before the key is chosen
	text, err = s.keys.Sign(ctx, token.Claims{Subject: s.sealer.Seal(levee.KindUser, int64(session.User)),
		Session: s.sealer.Seal(levee.KindSession, session.ID), Expires: expires}, now)
	if err != nil {
		return "", time.Time{}, err
	}
	s.remember(s.tokens, text, expires.UnixMicro(), verified{user: session.User, session: session.ID, generation: generation, state: state})
	return text, expires, nil
}

// AuthenticateToken returns who an access token, ours or the foreign issuer's, or a personal access token stands for. It fails with
// CodeUnauthenticated for one that is none of these, forged, expired, or whose session or account has ended; that acts on the very next call, also for
// tokens that were good a moment ago. The usual case, a token seen before, takes one hash and one map look-up and allocates nothing.
func (s *Service) AuthenticateToken(text string) (levee.Actor, error) {
	if e := s.tokens.Get(text); e != nil {
		v, now := &e.Value, s.now().UnixMicro()
		if now >= e.Expires || v.generation != s.keys.Generation() {
			s.tokens.Remove(e)
			return s.verifyToken(text)
		}
		switch bits := v.state.bits.Load(); bits & stateMask {
		case stateOpen:
			if v.scope != nil {
				s.saw(v.state, now)
			}
			return s.actor(v, bits), nil
		case stateEnded:
			return levee.Actor{}, endedSession()
		}
	}
	return s.verifyToken(text)
}

// verifyToken is the long way of AuthenticateToken: signature, claims, and the session's state from SQL.
func (s *Service) verifyToken(text string) (actor levee.Actor, err error) {
	defer func() { s.metrics.checks.WithLabelValues(resultOf(err)).Inc() }()
	if token.IsPersonal(text) {
		return s.verifyPersonal(text)
	}
	if s.foreign.Issued(text) {
		return s.verifyForeign(text)
	}
	generation := s.keys.Generation() // before the keys are looked at
	c, err := s.keys.Verify(text)
	if err != nil {
		return levee.Actor{}, err
	}
	user, err := s.sealer.Open(levee.KindUser, c.Subject)
	if err != nil {
		return levee.Actor{}, token.Bad(err)
	}
	v := verified{user: levee.UserID(user), generation: generation, rehearsal: c.Rehearsal, state: rehearsalState}
	if !c.Rehearsal {
		if v.session, err = s.sealer.Open(levee.KindSession, c.Session); err != nil {
			return levee.Actor{}, token.Bad(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
		defer cancel()
		row, state, err := s.loadSession(ctx, v.session, c.Expires.UnixMicro())
		if err != nil {
			return levee.Actor{}, err
		}
		if row.User != v.user || row.Kind != SessionToken {
			return levee.Actor{}, token.Bad(nil)
		}
		v.state = state
	}
	bits := v.state.bits.Load()
	if bits&stateMask != stateOpen {
		return levee.Actor{}, endedSession()
	}
	s.remember(s.tokens, text, c.Expires.UnixMicro(), v)
	return s.actor(&v, bits), nil
}

func resultOf(err error) string {
	if err != nil {
		return "refused"
	}
	return "ok"
}

// loadSession reads a session that must be open, and returns it with its state in this process, kept until the given time
// (microseconds) at least.
func (s *Service) loadSession(ctx context.Context, session, until int64) (sessionRow, *live, error) {
	// A second round is needed only when roles changed, or the clock jumped, between the read and learn.
	for range 3 {
		state := s.live.hold(session, until)
		row, err := readSession(db.Primary(ctx), s.db.QueryRow, session)
		if errors.Is(err, db.ErrNoRows) {
			return row, nil, endedSession()
		}
		if err != nil {
			return row, nil, err
		}
		now := s.now()
		if seen := at(state.seen.Load()); seen.After(row.SeenAt) { // not flushed yet
			row.SeenAt = seen
		}
		if !s.usable(row, now) {
			return row, nil, endedSession()
		}
		s.live.learn(session, state, row.roles, row.userVersion, row.SeenAt.UnixMicro())
		if state.bits.Load()&stateMask != 0 {
			return row, state, nil
		}
	}
	return sessionRow{}, nil, levee.E(levee.CodeUnavailable, "the session is being changed").After(time.Second)
}

// usable reports whether a session may still be used: not ended, not too old, not unused for too long, user not disabled.
func (s *Service) usable(row sessionRow, now time.Time) bool {
	return !row.ended && !row.userDisabled && now.Before(row.ExpiresAt) &&
		(row.Kind == SessionPersonal || now.Before(row.SeenAt.Add(s.cfg.SessionIdle)))
}

// rehearsalState is the state of all invented buyers: they are customers, and their tokens end by expiry alone.
var rehearsalState = func() *live {
	l := &live{}
	l.bits.Store(stateOpen | uint64(levee.RoleCustomer)<<rolesShift)
	return l
}()

// The bounds of IssueRehearsalTokens.
const (
	maxRehearsalTokens = 1_000_000
	maxRehearsalTTL    = 24 * time.Hour
	rehearsalChunk     = 1024 // tokens signed before they are handed over
)

// IssueRehearsalTokens invents n buyers (1 to 1,000,000) who have no account and no session, and gives the token of each
// to yield, one call at a time. The tokens are good for ttl (1 s to 24 h) and are in the cache already. Only sales that
// are rehearsals sell to them. It stops at yield's first error and returns it. Signing costs about 25 µs of one core each
// and uses all cores.
func (s *Service) IssueRehearsalTokens(ctx context.Context, n int, ttl time.Duration,
	yield func(levee.UserID, string) error) (err error) {
	defer levee.Wrap(&err, "identity.IssueRehearsalTokens(%d, %v)", n, ttl)
	if n < 1 || n > maxRehearsalTokens {
		return levee.Invalid("n", fmt.Sprintf("1 to %d", maxRehearsalTokens), n)
	}
	if ttl < time.Second || ttl > maxRehearsalTTL {
		return levee.Invalid("ttl", fmt.Sprintf("1s to %v", maxRehearsalTTL), ttl)
	}
	users, tokens := make([]int64, rehearsalChunk), make([]string, rehearsalChunk)
	for done := 0; done < n; {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := min(rehearsalChunk, n-done)
		if err := s.ids.NextN(users[:chunk]); err != nil {
			return err
		}
		if err := s.signRehearsal(ctx, users[:chunk], tokens[:chunk], ttl); err != nil {
			return err
		}
		for i := range chunk {
			if err := yield(levee.UserID(users[i]), tokens[i]); err != nil {
				return err
			}
		}
		done += chunk
	}
	return nil
}

// signRehearsal fills tokens with one for each user, on all cores.
func (s *Service) signRehearsal(ctx context.Context, users []int64, tokens []string, ttl time.Duration) error {
	now := s.now()
	expires := now.Add(ttl).Truncate(time.Second)
	workers := min(runtime.GOMAXPROCS(0), len(users))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(users) && errs[w] == nil; i += workers {
				c := token.Claims{Subject: s.sealer.Seal(levee.KindUser, users[i]), Rehearsal: true, Expires: expires}
				if tokens[i], errs[w] = s.keys.Sign(ctx, c, now); errs[w] != nil {
					return
				}
				s.remember(s.tokens, tokens[i], expires.UnixMicro(), verified{user: levee.UserID(users[i]), rehearsal: true, state: rehearsalState,
					generation: s.keys.Generation()})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
