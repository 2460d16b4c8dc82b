// Package identity owns who somebody is and what he may do: accounts, passwords, sessions, access tokens and roles. It
// does not own what people buy or write; other rooms know users by id only.
package identity

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"levee"
	"levee/internal/foreign"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/platform/permit"
	"levee/internal/token"
	"levee/internal/trail"
)

// Config sets the room's times and bounds. The zero value is usable: each zero field stands for its default.
type Config struct {
	// AccessTTL is the life of an access token: default 10 min, allowed 1 min to 1 h. Revocation does not wait for it.
	AccessTTL time.Duration
	// RefreshGrace is how long a replaced refresh token still returns its successor, for clients that lost the answer or
	// asked twice at once: default 30 s, allowed 1 s to 2 min. Longer helps thieves, shorter signs honest clients out.
	RefreshGrace time.Duration
	// SessionIdle ends a session that was not used for so long: default 14 days, allowed 10 min to SessionTTL.
	SessionIdle time.Duration
	// SessionTTL ends a session whatever its use: default 90 days, allowed 10 min to 400 days.
	SessionTTL time.Duration
	// SessionsPerUser is how many sessions one user may have open; the next sign-in ends the one unused for longest.
	// Default 20, allowed 1 to 200.
	SessionsPerUser int
	// TokenCache is how many verified access tokens, and as many cookies, are remembered while they are good: default 1,000,000
	// (about 600 bytes each), allowed 1,000 to 10,000,000. A token that fell out costs one signature check and one read.
	TokenCache int
	// PhoneCountry is the country calling code of phone numbers given without one: default "86", digits only, at most 3.
	PhoneCountry string
	// HashMemory and HashTime are argon2id's cost: default 19,456 KiB and 2 passes, allowed 8,192 to 1,048,576 KiB and
	// 1 to 16. Hashes made with another cost are renewed at the next sign-in.
	HashMemory int
	HashTime   int
	// HashesAtOnce bounds how many passwords are hashed at one time (memory is HashesAtOnce × HashMemory): default half of the cores, which leaves
	// the others to everybody else; allowed 1 to 256. HashQueue callers wait, the others get CodeUnavailable: default 64, allowed 1 to 10,000.
	HashesAtOnce int
	HashQueue    int
	// ForeignIssuer is the iss of another shop's JWTs that are accepted as bearer tokens; their sub becomes a customer's account at
	// first sight. Default "": none are. ForeignAudience is the aud they must have; ForeignKeys is the file or https address of
	// the issuer's JWK set (RS256, ES256, EdDSA). Whoever holds those keys can act as any of its customers, and as nobody else.
	ForeignIssuer   string
	ForeignAudience string
	ForeignKeys     string
	// ForeignKeysInsecure lists hosts whose key set may be fetched by plain http, such as 127.0.0.1. Who sits between can then sign in
	// as anybody of that issuer.
	ForeignKeysInsecure []string
	// ForeignNameClaim is the claim that holds what a foreign customer is called, such as preferred_username. Default "": a name is
	// made from the subject, as also when the claim is no name or is taken.
	ForeignNameClaim string
}

// withDefaults returns the config with every zero field set to its default.
func (c Config) withDefaults() Config {
	set(&c.AccessTTL, 10*time.Minute)
	set(&c.RefreshGrace, 30*time.Second)
	set(&c.SessionTTL, 90*24*time.Hour)
	set(&c.SessionIdle, min(14*24*time.Hour, c.SessionTTL))
	set(&c.SessionsPerUser, 20)
	set(&c.TokenCache, 1_000_000)
	set(&c.PhoneCountry, "86")
	set(&c.HashMemory, 19_456)
	set(&c.HashTime, 2)
	set(&c.HashesAtOnce, max(1, runtime.GOMAXPROCS(0)/2))
	set(&c.HashQueue, 64)
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first field that is outside its bounds, with CodeInvalid.
func (c Config) Validate() error {
	c = c.withDefaults()
	for _, d := range []struct {
		field       string
		given       time.Duration
		least, most time.Duration
	}{
		{"access_ttl", c.AccessTTL, time.Minute, time.Hour},
		{"refresh_grace", c.RefreshGrace, time.Second, 2 * time.Minute},
		{"session_ttl", c.SessionTTL, 10 * time.Minute, 400 * 24 * time.Hour},
		{"session_idle", c.SessionIdle, 10 * time.Minute, c.SessionTTL},
	} {
		if d.given < d.least || d.given > d.most {
			return levee.Invalid("identity."+d.field, fmt.Sprintf("%v to %v", d.least, d.most), d.given)
		}
	}
	for _, n := range []struct {
		field              string
		given, least, most int
	}{
		{"sessions_per_user", c.SessionsPerUser, 1, 200},
		{"token_cache", c.TokenCache, 1_000, 10_000_000},
		{"hash_memory", c.HashMemory, 8_192, 1_048_576},
		{"hash_time", c.HashTime, 1, 16},
		{"hashes_at_once", c.HashesAtOnce, 1, 256},
		{"hash_queue", c.HashQueue, 1, 10_000},
	} {
		if n.given < n.least || n.given > n.most {
			return levee.Invalid("identity."+n.field, fmt.Sprintf("%d to %d", n.least, n.most), n.given)
		}
	}
	if len(c.PhoneCountry) > 3 || !handle.AllDigits(c.PhoneCountry) || c.PhoneCountry[0] == '0' {
		return levee.Invalid("identity.phone_country", "1 to 3 digits that do not begin with 0", c.PhoneCountry)
	}
	return c.foreign().Check()
}

// Deps is what the room is built from.
type Deps struct {
	DB     *db.DB
	IDs    *id.Generator
	Sealer *id.Sealer
	Obs    *obs.Obs
	Limits *limit.Limits
	Events *event.Bus
	Trail  *trail.Service
	Config Config
	// Shared says that other processes may serve the same database: Run then follows what they commit.
	Shared bool
	// Tokens signs and verifies, and makes the secrets of sessions.
	Tokens *token.Service
	// PublicURL is where people reach the house's pages, for links to them.
	PublicURL string
	// Permits are the house's permissions. Nil: as the code says.
	Permits *permit.Table
	// Second is asked before a session begins. Nil: one proof is enough.
	Second Second
}

// Service is the room. Its methods may be called from any number of goroutines.
type Service struct {
	db      *db.DB
	ids     *id.Generator
	sealer  *id.Sealer
	log     *slog.Logger
	now     obs.Clock
	limits  *limit.Limits
	events  *event.Bus
	trail   *trail.Service
	cfg     Config
	hasher  *hasher
	keys    *token.Service
	foreign *foreign.Issuer // nil: none is configured
	secrets *token.Secrets
	tokens  *token.Cache[verified] // access tokens
	cookies *token.Cache[verified] // cookie values
	live    *registry
	metrics *metrics
	shared  bool
	// publicURL is where people reach the house's pages.
	publicURL string
	// scopeFault says what is wrong with a word of a scope; Routes sets it, who knows the operations.
	scopeFault func(word string, roles levee.Roles) string
	permits    *permit.Table
	users      *listing.List[userView]
	second     Second
}

// New builds the room. It panics on a Config that Validate refuses: app checks it before.
func New(d Deps) *Service {
	if err := d.Config.Validate(); err != nil {
		panic("identity.New: " + err.Error())
	}
	cfg := d.Config.withDefaults()
	m := newMetrics(d.Obs.Metrics)
	s := &Service{
		db: d.DB, ids: d.IDs, sealer: d.Sealer, log: d.Obs.Named("identity"), now: d.Obs.Clock, limits: d.Limits,
		events: d.Events, trail: d.Trail, second: d.Second, cfg: cfg, metrics: m, shared: d.Shared, publicURL: d.PublicURL,
		hasher:  newHasher(cfg, d.Obs.Clock, m),
		keys:    d.Tokens,
		secrets: d.Tokens.Secrets(),
		foreign: foreign.New(cfg.foreign(), d.Obs.Clock, d.Obs.Named("identity")),
		tokens:  token.NewCache[verified](cfg.TokenCache),
		cookies: token.NewCache[verified](cfg.TokenCache),
		live:    newRegistry(d.Obs.Clock),
	}
	if s.permits = d.Permits; s.permits == nil {
		s.permits = permit.New()
	}
	s.users = userList(d.Sealer, s.permits, cfg.PhoneCountry)
	m.watch(d.Obs.Metrics, s)
	return s
}

// User is one account.
type User struct {
	ID levee.UserID
	// Name is as the user wrote it; two names that differ only in case are the same. Empty: signs in by phone only.
	Name string
	// Phone is in E.164 form (+8613800138000), or empty.
	Phone string
	Roles levee.Roles
	// Disabled accounts cannot sign in, and have no open session.
	Disabled       bool
	DisabledReason string
	CreatedAt      time.Time
	UpdatedAt      time.Time
	// Version grows by one with each change of the account.
	Version int64
}

// Origin says where a request came from; it is written into sessions and into the audit trail.
type Origin struct {
	Address   netip.Addr
	Agent     string // what the client calls itself; shortened to 180 bytes
	RequestID string
}

// recordTx writes an act into the trail, in the caller's transaction.
func (s *Service) recordTx(ctx context.Context, tx *db.Tx, act trail.Act, from Origin) error {
	act.Address, act.RequestID = from.Address, from.RequestID
	return s.trail.RecordTx(ctx, tx, act)
}

func (o Origin) address() string {
	if !o.Address.IsValid() {
		return ""
	}
	return o.Address.Unmap().String()
}

// agent is shortened so that it fits its column with whatever the cut adds.
func (o Origin) agent() string { return levee.Shorten(strings.ToValidUTF8(o.Agent, "?"), 180) }

// SessionKind says what a session's secret is.
type SessionKind int

// A cookie session belongs to a browser; a token session to a program that holds access and refresh tokens; a personal one is a personal access token,
// which has no sign-in of its own.
const (
	SessionCookie   SessionKind = 1
	SessionToken    SessionKind = 2
	SessionPersonal SessionKind = 3
)

// Session is one sign-in that has not ended.
type Session struct {
	ID        int64
	User      levee.UserID
	Kind      SessionKind
	Address   string
	Agent     string
	CreatedAt time.Time
	SeenAt    time.Time // exact to a thousandth of SessionIdle and a minute for cookie sessions, to the last refresh for token sessions
	ExpiresAt time.Time
}

// Grant is what a sign-in or a refresh gives. For a token session AccessToken and RefreshToken are set, for a cookie
// session Cookie.
type Grant struct {
	User          User
	Session       Session
	AccessToken   obs.Secret
	AccessExpires time.Time
	RefreshToken  obs.Secret
	Cookie        obs.Secret
}

// require is nil when the actor has the ability; CodeUnauthenticated for visitors, CodeForbidden for others.
func require(a levee.Actor, wanted levee.Ability) error {
	if !a.SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	if !a.May(wanted) {
		return levee.E(levee.CodeForbidden, "this needs a role that has %s", wanted)
	}
	return nil
}

// mayGive is nil when the actor may everything that the roles may: nobody gives, or takes hold of, more than he has. Else CodeForbidden.
func (s *Service) mayGive(a levee.Actor, roles levee.Roles) error {
	if !s.permits.Covers(a.Roles, roles) {
		return levee.E(levee.CodeForbidden, "%s may more than you", strings.Join(s.permits.Names(roles), " with "))
	}
	return nil
}

// actor is who a verified credential stands for, with what his session's state says.
func (s *Service) actor(v *verified, bits uint64) levee.Actor {
	roles := levee.Roles(bits >> rolesShift)
	return levee.Actor{User: v.user, Session: v.session, Roles: roles, Abilities: s.permits.Abilities(roles), Rehearsal: v.rehearsal, Scope: v.scope}
}

// requireAccount returns an error unless the actor is a person with an account: not a visitor, not an invented buyer.
func requireAccount(a levee.Actor) error {
	if !a.SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	if a.Rehearsal {
		return levee.E(levee.CodeForbidden, "an invented buyer of a rehearsal has no account")
	}
	return nil
}
