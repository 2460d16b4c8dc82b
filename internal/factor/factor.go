// Package factor owns what somebody shows besides his first proof: codes of an application (TOTP), passkeys, recovery codes; and how long ago he
// last proved himself, which dangerous acts ask for. It does not own accounts, passwords or sessions: identity does, and asks here before a session
// begins.
package factor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/handle"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/permit"
	"levee/internal/platform/schedule"
	"levee/internal/trail"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the room's tables.
func Schema() db.Schema { return db.Schema{Owner: "factor", FS: schemaFS} }

// Config of the room. The zero value is usable.
type Config struct {
	// Require says who must have a second factor: "off" (default), nobody, or "staff", operators and administrators and whoever has a role beyond a
	// customer's. Who must and has none sets one up at his next sign-in before a session begins. Sessions that are open stay.
	Require string
	// FreshFor is how long after a sign-in or a step-up dangerous acts may be done: default 10 min, allowed 1 min to 12 h.
	FreshFor time.Duration
}

func (c Config) withDefaults() Config {
	if c.Require == "" {
		c.Require = "off"
	}
	if c.FreshFor == 0 {
		c.FreshFor = 10 * time.Minute
	}
	return c
}

const freshMost = 12 * time.Hour

// Validate reports the first field that is not allowed, with CodeInvalid.
func (c Config) Validate() error {
	c = c.withDefaults()
	if c.Require != "off" && c.Require != "staff" {
		return levee.Invalid("factor.require", "off or staff", c.Require)
	}
	if c.FreshFor < time.Minute || c.FreshFor > freshMost {
		return levee.Invalid("factor.fresh_for", "1m to 12h", c.FreshFor)
	}
	return nil
}

// Deps are what the room is built from.
type Deps struct {
	DB       *db.DB
	IDs      *id.Generator
	Sealer   *id.Sealer
	Obs      *obs.Obs
	Limits   *limit.Limits
	Trail    *trail.Service
	Identity *identity.Service
	Permits  *permit.Table
	Config   Config
	// Key, 32 bytes, seals secrets at rest.
	Key []byte
	// PublicURL is where people reach the house's pages. Passkeys are bound to its host; without a name of the host there are none.
	PublicURL string
}

// Service is the room. Its methods may be called from any number of goroutines.
type Service struct {
	Deps
	log    *slog.Logger
	cfg    Config
	seal   sealing
	pepper []byte
	host   string // of PublicURL
	keys   *passkeys
	proofs *prometheus.CounterVec
}

// New makes the room. CodeInvalid for a Config or a Key that is not allowed.
func New(d Deps) (*Service, error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	if len(d.Key) != 32 {
		return nil, levee.Invalid("factor.key", "32 bytes", len(d.Key))
	}
	derive := func(what string) []byte {
		m := hmac.New(sha256.New, d.Key)
		m.Write([]byte(what))
		return m.Sum(nil)
	}
	s := &Service{Deps: d, log: d.Obs.Named("factor"), cfg: d.Config.withDefaults(), pepper: derive("recovery codes")}
	var err error
	if s.seal, err = newSealing(derive("secrets of codes")); err != nil {
		return nil, err
	}
	u, err := url.Parse(d.PublicURL)
	if err != nil {
		return nil, levee.Invalid("http.public_url", "an address such as https://shop.example", d.PublicURL)
	}
	if s.host = u.Hostname(); s.host != "" && !isAddress(s.host) {
		if s.keys, err = newPasskeys(s.host, u.Scheme+"://"+u.Host); err != nil {
			return nil, err
		}
	}
	s.proofs = obs.Register(d.Obs.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_factor_proofs_total", Help: "Second factors and passwords that were shown, by method and result."}, []string{"method", "result"}))
	return s, nil
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

func (s *Service) now() time.Time { return s.Obs.Clock() }

// The methods of a proof, as the API names them.
const (
	byPassword = "password"
	byCode     = "totp"
	byRecovery = "recovery_code"
	byPasskey  = "passkey"
	byEnrol    = "enrol"
)

// Factors are what an account has.
type Factors struct {
	TOTP     bool
	TOTPAt   time.Time
	Passkeys []Passkey // oldest first
	Recovery int       // codes that are not used yet
	Required bool      // it must not be without
	// Passworded says that the account has a password.
	Passworded bool
}

func (f *Factors) any() bool { return f.TOTP || len(f.Passkeys) > 0 }

// methods are those by which a sign-in can go on, the safest first.
func (f *Factors) methods() []string {
	list := []string{}
	if len(f.Passkeys) > 0 {
		list = append(list, byPasskey)
	}
	if f.TOTP {
		list = append(list, byCode)
	}
	if f.any() && f.Recovery > 0 {
		list = append(list, byRecovery)
	}
	return list
}

func (s *Service) required(roles levee.Roles) bool { return s.cfg.Require == "staff" && roles.Staff() }

// himself returns an error unless the actor has signed in here: not a visitor, an invented buyer, a foreign or a personal access token.
func himself(a levee.Actor) error {
	if !a.SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	if a.Rehearsal || a.Scope != nil || a.Session == 0 {
		return levee.E(levee.CodeForbidden, "this needs a sign-in of this house")
	}
	return nil
}

// Own returns what the context's actor has; CodeForbidden unless he has signed in himself.
func (s *Service) Own(ctx context.Context) (f Factors, err error) {
	defer levee.Wrap(&err, "factor.Own")
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return Factors{}, err
	}
	ctx = db.Primary(ctx)
	if f, _, err = s.factors(ctx, a.User); err != nil {
		return f, err
	}
	f.Required = s.required(a.Roles)
	f.Passworded, err = s.Identity.HasPassword(ctx, a.User)
	return f, err
}

// factors reads what an account has. One that has nothing, as most, costs one read.
func (s *Service) factors(ctx context.Context, user levee.UserID) (f Factors, a account, err error) {
	a, err = readAccount(ctx, s.DB.QueryRow, user, "")
	if err != nil || !a.there {
		return f, a, err
	}
	f.TOTP, f.TOTPAt = a.totp != "", time.UnixMicro(a.totpAt).UTC()
	if f.Passkeys, err = readPasskeys(ctx, s.DB.Query, user); err != nil {
		return f, a, err
	}
	f.Recovery, err = countRecovery(ctx, s.DB.QueryRow, user)
	return f, a, err
}

// Enrolment is what an application is set up with. It is shown once.
type Enrolment struct {
	Challenge obs.Secret
	Secret    obs.Secret // in base32
	URI       obs.Secret
	Expires   time.Time
}

// BeginTOTP makes a secret for an application of the context's actor. It counts once ConfirmTOTP has had a code of it; until then the one before does.
func (s *Service) BeginTOTP(ctx context.Context) (e Enrolment, err error) {
	defer levee.Wrap(&err, "factor.BeginTOTP")
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return Enrolment{}, err
	}
	secret := newSecret()
	e.Challenge, e.Expires, err = s.ask(ctx, challenge{purpose: forTOTP, user: a.User, session: a.Session, data: s.seal.close(a.User, secret)})
	if err != nil {
		return Enrolment{}, err
	}
	return e, s.show(ctx, &e, a.User, secret)
}

// show puts a secret into an enrolment, with its account's name.
func (s *Service) show(ctx context.Context, e *Enrolment, user levee.UserID, secret []byte) error {
	name, err := s.nameOf(ctx, user)
	e.Secret, e.URI = obs.Secret(inBase32.EncodeToString(secret)), obs.Secret(uri(s.host, name, secret))
	return err
}

func (s *Service) nameOf(ctx context.Context, user levee.UserID) (name string, err error) {
	err = s.DB.Tx(ctx, "factor.name", func(ctx context.Context, tx *db.Tx) error {
		u, err := s.Identity.FindTx(ctx, tx, user, "")
		if name = u.Name; name == "" {
			name = s.Sealer.Seal(levee.KindUser, int64(user))
		}
		return err
	})
	return name, err
}

// ConfirmTOTP makes the secret of BeginTOTP the account's, once a code shows that the application has it. With an account's first factor it returns
// recovery codes. CodeInvalid: the code is wrong, and may be tried again; CodeGone: the challenge is not good.
func (s *Service) ConfirmTOTP(ctx context.Context, text obs.Secret, code string) (recovery []string, err error) {
	defer levee.Wrap(&err, "factor.ConfirmTOTP")
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return nil, err
	}
	c, err := s.asked(ctx, text, forTOTP)
	if err != nil {
		return nil, err
	}
	if c.session != a.Session {
		return nil, spent()
	}
	step, err := s.confirms(c, code)
	if err != nil {
		return nil, err
	}
	err = s.DB.Tx(ctx, "factor.totp", func(ctx context.Context, tx *db.Tx) error {
		if err := s.answer(ctx, tx, c); err != nil {
			return err
		}
		return s.setTOTP(ctx, tx, c, step, &recovery)
	})
	return recovery, err
}

// confirms returns the step of a code that an application makes with the secret of an enrolment.
func (s *Service) confirms(c challenge, code string) (int64, error) {
	secret, err := s.seal.open(c.user, c.data)
	if err != nil {
		return 0, err
	}
	step, ok := match(secret, code, s.now(), 0)
	if !ok {
		return 0, handle.Hidden("code", wrongCode)
	}
	return step, nil
}

// setTOTP stores an account's secret, with the step of the code that confirmed it as taken.
func (s *Service) setTOTP(ctx context.Context, tx *db.Tx, c challenge, step int64, recovery *[]string) error {
	before, err := lockAccount(ctx, tx, s.DB.Dialect(), c.user)
	if err != nil {
		return err
	}
	if err := putTOTP(ctx, tx, c.user, c.data, step, s.now()); err != nil {
		return err
	}
	if *recovery, err = s.firstRecovery(ctx, tx, c.user); err != nil {
		return err
	}
	act := "factor.totp_added"
	if before.totp != "" {
		act = "factor.totp_replaced"
	}
	return s.tell(ctx, tx, act, c.user, nil)
}

// tell writes an act about an account's factors into the trail.
func (s *Service) tell(ctx context.Context, tx *db.Tx, act string, user levee.UserID, after any) error {
	if levee.ActorFrom(ctx).User == 0 { // who shows a factor at a sign-in acts for the account
		ctx = levee.WithActor(ctx, levee.Actor{User: user})
	}
	return s.Trail.RecordTx(ctx, tx, trail.Act{Action: act, Kind: levee.KindUser, Subject: int64(user), After: after})
}

// RemoveTOTP takes the application of the context's actor away. CodeNotFound when there is none; CodeConflict when it is the last factor of an account that
// must have one.
func (s *Service) RemoveTOTP(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "factor.RemoveTOTP")
	return s.remove(ctx, "factor.totp_removed", nil, func(ctx context.Context, tx *db.Tx, a account) (bool, error) {
		return a.totp != "", dropTOTP(ctx, tx, a.user)
	})
}

// remove takes a factor of the context's actor away.
func (s *Service) remove(ctx context.Context, act string, told any, drop func(context.Context, *db.Tx, account) (bool, error)) error {
	actor := levee.ActorFrom(ctx)
	if err := himself(actor); err != nil {
		return err
	}
	return s.DB.Tx(ctx, "factor.remove", func(ctx context.Context, tx *db.Tx) error {
		a, err := lockAccount(ctx, tx, s.DB.Dialect(), actor.User)
		if err != nil {
			return err
		}
		there, err := drop(ctx, tx, a)
		if err != nil {
			return err
		}
		if !there {
			return levee.E(levee.CodeNotFound, "there is no such factor")
		}
		left, err := readPasskeys(ctx, tx.Query, actor.User)
		if err != nil {
			return err
		}
		if a, err = readAccount(ctx, tx.QueryRow, actor.User, ""); err != nil {
			return err
		}
		if a.totp == "" && len(left) == 0 {
			if s.required(actor.Roles) {
				return levee.E(levee.CodeConflict, "this account must have a second factor: add another one first")
			}
			if err := dropAccount(ctx, tx, actor.User); err != nil {
				return err
			}
		}
		return s.tell(ctx, tx, act, actor.User, told)
	})
}

const (
	recoveryCodes = 10
	// recoveryAlphabet has no characters that are mistaken for each other; 32 of them, so a byte's low 5 bits choose evenly.
	recoveryAlphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
	recoveryChars    = 16 // 80 bits
)

// RenewRecovery gives the context's actor ten new recovery codes; those of before are good no more. They are shown once: SQL has their hashes.
// CodeConflict without a factor.
func (s *Service) RenewRecovery(ctx context.Context) (codes []string, err error) {
	defer levee.Wrap(&err, "factor.RenewRecovery")
	actor := levee.ActorFrom(ctx)
	if err := himself(actor); err != nil {
		return nil, err
	}
	err = s.DB.Tx(ctx, "factor.recovery", func(ctx context.Context, tx *db.Tx) error {
		a, err := lockAccount(ctx, tx, s.DB.Dialect(), actor.User)
		if err != nil {
			return err
		}
		if !a.there {
			return levee.E(levee.CodeConflict, "set up a second factor first: recovery codes stand in for one")
		}
		if codes, err = s.newRecovery(ctx, tx, actor.User); err != nil {
			return err
		}
		return s.tell(ctx, tx, "factor.recovery_renewed", actor.User, nil)
	})
	return codes, err
}

// firstRecovery makes recovery codes for an account that has none.
func (s *Service) firstRecovery(ctx context.Context, tx *db.Tx, user levee.UserID) ([]string, error) {
	if n, err := countRecovery(ctx, tx.QueryRow, user); err != nil || n > 0 {
		return nil, err
	}
	return s.newRecovery(ctx, tx, user)
}

func (s *Service) newRecovery(ctx context.Context, tx *db.Tx, user levee.UserID) ([]string, error) {
	codes, hashes := make([]string, recoveryCodes), make([]string, recoveryCodes)
	for i := range codes {
		var random [recoveryChars]byte
		rand.Read(random[:]) // never fails
		var text strings.Builder
		for j, b := range random {
			if j > 0 && j%4 == 0 {
				text.WriteByte('-')
			}
			text.WriteByte(recoveryAlphabet[b&31])
		}
		codes[i] = text.String()
		hashes[i] = s.recoveryHash(user, codes[i])
	}
	return codes, putRecovery(ctx, tx, user, hashes)
}

// recoveryHash is how a code stands in SQL. It has 80 random bits and the hash a key, so it needs no slowness.
func (s *Service) recoveryHash(user levee.UserID, code string) string {
	code = strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToUpper(code))
	m := hmac.New(sha256.New, s.pepper)
	fmt.Fprintf(m, "%d %s", user, code)
	return hex.EncodeToString(m.Sum(nil))
}

// Reset takes all factors of another account away and ends its sessions and personal access tokens, for its owner who lost them and showed an
// administrator who he is; it returns how many sessions were open. CodeForbidden for who does not reach the account or may less than it; CodeConflict for
// one's own.
func (s *Service) Reset(ctx context.Context, user levee.UserID) (ended int, err error) {
	defer levee.Wrap(&err, "factor.Reset(%d)", user)
	actor := levee.ActorFrom(ctx)
	if !actor.SignedIn() {
		return 0, levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	if !actor.May(levee.AccountsOfOthers) {
		return 0, levee.E(levee.CodeForbidden, "this needs a role that has %s", levee.AccountsOfOthers)
	}
	if actor.User == user {
		return 0, levee.E(levee.CodeConflict, "one's own factors are taken away one by one")
	}
	err = s.DB.Tx(ctx, "factor.reset", func(ctx context.Context, tx *db.Tx) error {
		u, err := s.Identity.FindTx(ctx, tx, user, "")
		if err != nil {
			return err
		}
		if !s.Permits.Covers(actor.Roles, u.Roles) {
			return levee.E(levee.CodeForbidden, "%s may more than you", strings.Join(s.Permits.Names(u.Roles), " with "))
		}
		ended, err = s.resetTx(ctx, tx, user)
		return err
	})
	return ended, err
}

// ResetNamed is Reset for the machine's owner, who acts as levee.System (else CodeForbidden), of the account of a name; CodeNotFound without one. It is the last
// way in of an administrator who is alone.
func (s *Service) ResetNamed(ctx context.Context, name string) (ended int, err error) {
	defer levee.Wrap(&err, "factor.ResetNamed(%s)", levee.Shorten(name, 40))
	if levee.ActorFrom(ctx).User != levee.System.User {
		return 0, levee.E(levee.CodeForbidden, "this is for the owner of the machine")
	}
	err = s.DB.Tx(ctx, "factor.reset", func(ctx context.Context, tx *db.Tx) error {
		u, err := s.Identity.FindTx(ctx, tx, 0, name)
		if err != nil {
			return err
		}
		ended, err = s.resetTx(ctx, tx, u.ID)
		return err
	})
	return ended, err
}

func (s *Service) resetTx(ctx context.Context, tx *db.Tx, user levee.UserID) (ended int, err error) {
	if _, err := lockAccount(ctx, tx, s.DB.Dialect(), user); err != nil {
		return 0, err
	}
	if err := dropAccount(ctx, tx, user); err != nil {
		return 0, err
	}
	if ended, err = s.Identity.EndAllTx(ctx, tx, user, "factors_reset"); err != nil {
		return 0, err
	}
	return ended, s.tell(ctx, tx, "factor.reset", user, map[string]any{"sessions_ended": ended})
}

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{schedule.Every("factor.sweep", 10*time.Minute, job.Options{}, s.Sweep)}
}

// Sweep deletes challenges that have expired and proofs that are too old to count.
func (s *Service) Sweep(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "factor.Sweep")
	return s.DB.Tx(ctx, "factor.sweep", func(ctx context.Context, tx *db.Tx) error {
		return sweep(ctx, tx, s.now(), s.now().Add(-freshMost))
	})
}
