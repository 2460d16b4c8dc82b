// Package token owns the credentials themselves: the keys that sign access tokens and how they are rolled, the access tokens (RFC 9068), the
// secrets of sessions, the form of personal access tokens, tokens that are good once, and the cache of credentials that were verified. Whom a
// credential stands for, and whether it still counts, is identity's to know.
package token

import (
	"context"
	"crypto/ed25519"
	"embed"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/schedule"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the tables token_*.
func Schema() db.Schema { return db.Schema{Owner: "token", FS: schemaFS} }

// Config sets what stands in access tokens and how their keys are rolled. The zero value is usable: each zero field stands for its default.
type Config struct {
	// Issuer and Audience are the iss and aud of access tokens; both default to "levee", at most 200 bytes. A token with others is refused.
	Issuer   string
	Audience string
	// Algorithm of the keys that are made from now on: RS256 (default), which every JWT library knows, or EdDSA, which signs 40 times faster.
	// A key that exists keeps its own; levee keys roll makes one of this algorithm.
	Algorithm string
	// KeyLead is how long a new key is published before it signs, so that services that cache the key set know it by then: default 1 h,
	// allowed 1 min to 7 days. It is also how long an upgrade from a version without keys in SQL may take.
	KeyLead time.Duration
	// KeyEvery has a new key made whenever the newest is that old: default 0, never by itself; allowed 1 day to 2 years.
	KeyEvery time.Duration
}

func (c Config) withDefaults() Config {
	if c.Issuer == "" {
		c.Issuer = "levee"
	}
	if c.Audience == "" {
		c.Audience = "levee"
	}
	if c.Algorithm == "" {
		c.Algorithm = string(RS256)
	}
	if c.KeyLead == 0 {
		c.KeyLead = time.Hour
	}
	return c
}

// Validate reports the first field that is outside its bounds, with CodeInvalid.
func (c Config) Validate() error {
	c = c.withDefaults()
	for _, s := range [][2]string{{"issuer", c.Issuer}, {"audience", c.Audience}} {
		if len(s[1]) > 200 {
			return levee.Invalid("token."+s[0], "at most 200 bytes", levee.Shorten(s[1], 200))
		}
	}
	if _, err := ParseAlgorithm(c.Algorithm); err != nil {
		return levee.Invalid("token.algorithm", algorithmsAllowed, levee.Shorten(c.Algorithm, 40))
	}
	const day = 24 * time.Hour
	if c.KeyLead < time.Minute || c.KeyLead > 7*day {
		return levee.Invalid("token.key_lead", "1m to 168h", c.KeyLead)
	}
	if c.KeyEvery != 0 && (c.KeyEvery < day || c.KeyEvery > 730*day) {
		return levee.Invalid("token.key_every", "0, or 24h to 17520h", c.KeyEvery)
	}
	return nil
}

// Audit writes an act of the context's actor into the trail, in the caller's transaction. Before and after are values that encode to JSON.
type Audit func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error

// Deps is what the room is built from.
type Deps struct {
	DB     *db.DB
	Sealer *id.Sealer
	Obs    *obs.Obs
	Config Config
	Audit  Audit
	// Seal is the key, of 32 bytes, under which private keys lie in SQL. The same on all nodes.
	Seal []byte
	// Key comes from the one secret. It signs the tokens of invented buyers, who are known nowhere but here; it signed everybody's before keys
	// were in SQL; and from its seed come the keys of session secrets.
	Key ed25519.PrivateKey
	// Shared says that other processes may serve the same database: Run then follows the keys that they make and withdraw.
	Shared bool
}

// lookEvery is how often Run looks for keys that other nodes made, retired or withdrew.
const lookEvery = 500 * time.Millisecond

// Service is the room. Its methods may be called from any number of goroutines, once Warm has loaded the keys.
type Service struct {
	db      *db.DB
	sealer  *id.Sealer
	log     *slog.Logger
	now     obs.Clock
	cfg     Config
	audit   Audit
	seal    sealing
	house   *key // derived from the one secret
	secrets *Secrets
	shared  bool
	metrics *metrics
	parser  *jwt.Parser

	ring       atomic.Pointer[ring]
	generation atomic.Int64
	loading    sync.Mutex // guards the exchange of ring: a load that began later must not be overtaken
	odd        string     // what the last load could not use, and logged; guarded by loading

	signing chan struct{} // a place for each signature that may be under way
	waiting atomic.Int64
}

// maxWaiting is how many callers may wait for a signature: with 0.75 ms each, half a second on two cores.
const maxWaiting = 512

// New makes the room. It panics on a key of the wrong length or a Config that Validate refuses: app checks both before.
func New(d Deps) *Service {
	if err := d.Config.Validate(); err != nil {
		panic("token.New: " + err.Error())
	}
	if len(d.Key) != ed25519.PrivateKeySize {
		panic(fmt.Sprintf("token.New: the key has %d bytes, an Ed25519 private key has %d", len(d.Key), ed25519.PrivateKeySize))
	}
	seal, err := newSealing(d.Seal)
	if err != nil {
		panic("token.New: " + err.Error())
	}
	s := &Service{
		db: d.DB, sealer: d.Sealer, log: d.Obs.Named("token"), now: d.Obs.Clock, cfg: d.Config.withDefaults(), audit: d.Audit, seal: seal,
		secrets: NewSecrets(d.Sealer, d.Key), shared: d.Shared, signing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	s.house = newKey(EdDSA, d.Key)
	s.parser = jwt.NewParser(jwt.WithValidMethods([]string{string(RS256), string(EdDSA)}), jwt.WithIssuer(s.cfg.Issuer),
		jwt.WithAudience(s.cfg.Audience), jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(skew), jwt.WithStrictDecoding(), jwt.WithTimeFunc(s.now))
	s.metrics = newMetrics(d.Obs.Metrics, s)
	return s
}

// Issuer is the iss of the access tokens.
func (s *Service) Issuer() string { return s.cfg.Issuer }

// Secrets makes and reads the secrets of sessions.
func (s *Service) Secrets() *Secrets { return s.secrets }

// Warm loads the keys, and makes the first one. earlier says that tokens signed with Deps.Key may be about, and nodes that know no other key:
// then the first key is published for Config.KeyLead before it signs, as every later one is. It must have returned before anything is signed or
// verified. CodeUnavailable when SQL is away.
func (s *Service) Warm(ctx context.Context, earlier bool) (err error) {
	defer levee.Wrap(&err, "token.Warm")
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.ring.Load().covered(s.now()) {
		return nil
	}
	fresh, err := s.make(ctx, Algorithm(s.cfg.Algorithm))
	if err != nil {
		return err
	}
	err = s.db.Tx(ctx, "token.first", func(ctx context.Context, tx *db.Tx) error {
		rows, err := readKeys(ctx, tx.Query)
		if err != nil || s.ringOf(rows).covered(s.now()) { // another node was first
			return err
		}
		now := s.now()
		fresh.made, fresh.signs = now, now
		if earlier && len(rows) == 0 {
			fresh.signs = now.Add(s.cfg.KeyLead)
		}
		fresh.number = nextNumber(rows)
		return insertKey(ctx, tx, fresh)
	})
	if err != nil && !db.IsUnique(err) { // unique: another node was first
		return err
	}
	return s.load(ctx)
}

// Run follows the keys that other nodes make and withdraw until ctx ends, within a second. A house of one process only waits.
func (s *Service) Run(ctx context.Context) error {
	if !s.shared {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := s.load(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the keys of access tokens cannot be read; those of before go on", "err", err)
		}
		failed = err != nil
	}
}

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{schedule.Every("token.keys", time.Hour, job.Options{}, s.tend)}
}

// tend makes a key when the newest is old, erases private keys that sign no more, and deletes what has served its time.
func (s *Service) tend(ctx context.Context) error {
	if newest := s.ring.Load().newest(); s.cfg.KeyEvery != 0 && newest != nil && s.now().Sub(newest.signs) >= s.cfg.KeyEvery {
		if _, err := s.Roll(levee.WithActor(ctx, levee.System), Rolling{}); err != nil && levee.CodeOf(err) != levee.CodeConflict {
			return err
		}
	}
	return s.db.Tx(ctx, "token.tend", func(ctx context.Context, tx *db.Tx) error {
		now := s.now()
		if err := eraseKeys(ctx, tx, now.Add(-time.Hour)); err != nil { // an hour: no node's clock is that far behind
			return err
		}
		if err := deleteKeys(ctx, tx, now.Add(-keysKept)); err != nil {
			return err
		}
		return deleteOnce(ctx, tx, now)
	})
}
