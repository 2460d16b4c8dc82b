// Package admission says who may try to buy in a sale, and when: admission tokens, the waiting room, and brakes against robots.
//
// It owns tokens, places in line and challenges. It does not own sales: the room above tells it of each sale's window and policy
// and which buyers are done, and it knows neither stock nor orders.
package admission

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/limit"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
)

// Config of the room. The zero value is usable.
type Config struct {
	// AdmissionFor is how long an admission token is valid from the moment it is picked up. Default 15 min, allowed 10 s to 24 h.
	// Longer: a buyer who is admitted and does nothing holds his slot longer.
	AdmissionFor time.Duration
	// TurnFor is how long somebody whose turn has come has to pick his token up before the slot goes to the next. Default 2 min,
	// allowed 5 s to 1 h. Shorter than the longest time between two polls (30 s), and people miss turns who never went away.
	TurnFor time.Duration
	// KeepFor is how long a missed turn is kept: who comes back within it is next. Default 15 min, allowed 10 s to 24 h.
	KeepFor time.Duration
	// GatherFor is how long after a restart the line waits for those who were in it. Default 45 s, allowed 1 s to 10 min. Shorter
	// than the longest time between two polls, and those who poll late are passed by those who poll early.
	GatherFor time.Duration
	// PlacesMax is the most places of one sale, each about 70 bytes of memory. Default 2,000,000, allowed 1 to 20,000,000. Beyond
	// it newcomers get 503 with Retry-After.
	PlacesMax int
	// ChallengesMax is the most challenges that are remembered as used or tried, each about 40 bytes. Default 500,000, allowed
	// 1,000 to 10,000,000. Beyond it answers get 503 until some have run out.
	ChallengesMax int
}

func (c *Config) fill() error {
	for _, f := range []struct {
		name     string
		v        *time.Duration
		def      time.Duration
		min, max time.Duration
	}{
		{"admission.admission_for", &c.AdmissionFor, 15 * time.Minute, 10 * time.Second, 24 * time.Hour},
		{"admission.turn_for", &c.TurnFor, 2 * time.Minute, 5 * time.Second, time.Hour},
		{"admission.keep_for", &c.KeepFor, 15 * time.Minute, 10 * time.Second, 24 * time.Hour},
		{"admission.gather_for", &c.GatherFor, 45 * time.Second, time.Second, 10 * time.Minute},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.min || *f.v > f.max {
			return levee.Invalid(f.name, "a duration from "+f.min.String()+" to "+f.max.String(), *f.v)
		}
	}
	if c.PlacesMax == 0 {
		c.PlacesMax = 2_000_000
	}
	if c.PlacesMax < 1 || c.PlacesMax > 20_000_000 {
		return levee.Invalid("admission.places_max", "a number from 1 to 20000000", c.PlacesMax)
	}
	if c.ChallengesMax == 0 {
		c.ChallengesMax = 500_000
	}
	if c.ChallengesMax < 1000 || c.ChallengesMax > 10_000_000 {
		return levee.Invalid("admission.challenges_max", "a number from 1000 to 10000000", c.ChallengesMax)
	}
	return nil
}

// Deps is what the room is built from. Key (32 bytes, secret) signs tokens; the keys of tickets, lots and challenges are derived
// from it. Without a DB nothing survives a restart, which does for tests of other rooms only.
type Deps struct {
	IDs    *id.Generator
	Sealer *id.Sealer
	Obs    *obs.Obs
	Push   *push.Hub
	DB     *db.DB
	Limits *limit.Limits
	// Spread connects the house's nodes: hear is given what another node published. Nil: there are no others.
	Spread func(hear func([]byte)) (publish func([]byte))
	Key    []byte
	Config Config
}

// Service is the room.
type Service struct {
	Deps
	log     *slog.Logger
	metrics *metrics
	tokens  *macs
	tickets *macs
	work    *macs
	picture cipher.AEAD
	lots    cipher.Block
	hashing maphash.Seed
	tried   *tried
	artists chan struct{} // a token for each picture that may be drawn at once
	started time.Time     // with its monotonic reading: all pacing is counted from here
	term    atomic.Pointer[node.Term]
	publish func([]byte) // to the other nodes, or nil

	mu    sync.Mutex                       // serialises changes of the map of rooms, and guards gone
	rooms atomic.Pointer[map[string]*room] // by the sale's public id, replaced as a whole: requests read it without a lock
	gone  []levee.SaleID                   // forgotten, whose rows are to be deleted

	wakePacer, wakeKeeper chan struct{}
	resting               atomic.Bool // the keeper sleeps until it is woken
}

// room is one sale's.
type room struct {
	window atomic.Pointer[Window]

	mu      sync.Mutex // guards what follows
	q       *queue     // nil until its memory was read
	toDraw  []lot      // frozen: the keeper draws them
	ahead   uint32     // how far the horizon is moved
	moved   time.Duration
	written savedRow // what stands in SQL
	told    lineEvent
	free    int64 // as the pacer last saw it

	refused [refusedKinds]atomic.Int64
}

// New builds the room. It fails with CodeInvalid on a key of another length and on a config value out of bounds.
func New(d Deps) (*Service, error) {
	if err := d.Config.fill(); err != nil {
		return nil, err
	}
	if len(d.Key) != 32 {
		return nil, levee.E(levee.CodeInvalid, "the admission key must be 32 bytes, got %d", len(d.Key))
	}
	s := &Service{
		Deps: d, log: d.Obs.Named("admission"), tokens: newMACs(d.Key), hashing: maphash.MakeSeed(),
		tried: newTried(d.Config.ChallengesMax), artists: make(chan struct{}, artistsMost),
		started:   time.Now(),
		wakePacer: make(chan struct{}, 1), wakeKeeper: make(chan struct{}, 1),
	}
	var keys [4][]byte
	for i, use := range [...]string{"tickets", "proofs of work", "pictures", "lots"} {
		key, err := hkdf.Expand(sha256.New, d.Key, "levee admission "+use, 32)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	s.tickets, s.work = newMACs(keys[0]), newMACs(keys[1])
	block, err := aes.NewCipher(keys[2])
	if err != nil {
		return nil, err
	}
	if s.picture, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	if s.lots, err = aes.NewCipher(keys[3]); err != nil {
		return nil, err
	}
	s.rooms.Store(&map[string]*room{})
	s.term.Store(&node.Term{})
	if d.Spread != nil {
		s.publish = d.Spread(s.hear)
	}
	s.metrics = newMetrics(d.Obs, s)
	return s, nil
}

// Follow makes a sale known, or its new terms. It may be called again with the same, and from inside a commit: it touches no
// database and waits for nothing. The order of a room in which people stand does not change any more.
func (s *Service) Follow(w Window) {
	if err := w.Policy.Check(); err != nil { // the terms were checked when they were made
		s.log.Error("a sale's admission policy is out of bounds; admissions need no room", "sale", w.Public, "err", err)
		w.Policy = Policy{}
		_ = w.Policy.Check()
	}
	s.mu.Lock()
	r := (*s.rooms.Load())[w.Public]
	if r == nil {
		r = &room{ahead: aheadLeast}
		r.window.Store(&w)
		next := maps.Clone(*s.rooms.Load())
		next[w.Public] = r
		s.rooms.Store(&next)
	} else {
		r.window.Store(&w)
	}
	s.mu.Unlock()
	wake(s.wakeKeeper)
	wake(s.wakePacer)
}

// Forget drops a sale with all its places, also what is kept of them for a restart. Tokens that are out stay good.
func (s *Service) Forget(sale levee.SaleID) {
	s.mu.Lock()
	next := maps.Clone(*s.rooms.Load())
	maps.DeleteFunc(next, func(_ string, r *room) bool { return r.window.Load().Sale == sale })
	s.rooms.Store(&next)
	s.gone = append(s.gone, sale)
	s.mu.Unlock()
	wake(s.wakeKeeper)
}

// Spent tells that the buyer got units or may not try again: his slot is free for the next. It is cheap, never waits for
// anything and may be called for anybody.
func (s *Service) Spent(sale levee.SaleID, buyer levee.UserID) {
	if s.publish != nil && !s.term.Load().Held() {
		s.publish(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(sale)), uint64(buyer)))
		return
	}
	s.spent(sale, buyer)
}

// hear takes in what Spent tells on another node. What is lost on the way costs a slot until its token has expired.
func (s *Service) hear(word []byte) {
	if len(word) == 16 && s.term.Load().Held() {
		s.spent(levee.SaleID(binary.BigEndian.Uint64(word)), levee.UserID(binary.BigEndian.Uint64(word[8:])))
	}
}

func (s *Service) spent(sale levee.SaleID, buyer levee.UserID) {
	r := s.roomOf(sale)
	if r == nil {
		return
	}
	r.mu.Lock()
	if r.q != nil {
		r.q.use(buyer)
	}
	r.mu.Unlock()
}

// roomOf finds a followed sale by its number, or nil.
func (s *Service) roomOf(sale levee.SaleID) *room {
	return (*s.rooms.Load())[s.Sealer.Seal(levee.KindSale, int64(sale))]
}

// Numbers of one sale's admissions, of this node.
type Numbers struct {
	// Kept tells that this node keeps the line; else Waiting, Admitted, Served and PerSecond are zero.
	Kept bool
	// Waiting is how many wait; after a restart those who are expected back among them.
	Waiting int64
	// Admitted is how many slots are taken: tokens out and unspent, and turns called that nobody has picked up yet.
	Admitted int64
	// Served is the number up to which people were admitted.
	Served int64
	// PerSecond is the pace of admissions, measured over the last 10 s.
	PerSecond float64
	// Refused counts who got no place since this node started the sale, by why: challenge_required, challenge_failed, per_address,
	// rate, full.
	Refused map[string]int64
}

// Numbers returns the numbers of a sale; zeros for one that is not followed or has no waiting room.
func (s *Service) Numbers(sale levee.SaleID) (n Numbers) {
	r := s.roomOf(sale)
	if r == nil {
		return n
	}
	n.Refused = map[string]int64{}
	for i, name := range refusedNames {
		if v := r.refused[i].Load(); v > 0 {
			n.Refused[name] = v
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.queue(r) != nil {
		n.Kept, n.Waiting, n.Admitted, n.Served = true, int64(r.q.size()), r.q.held, int64(r.q.served)
		n.PerSecond = r.q.rate.over(s.now(), 10)
	}
	return n
}

// now is the time since the room was built, on the monotonic clock: it does not see steps of the wall clock.
func (s *Service) now() time.Duration { return time.Since(s.started) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Duty is what one node at a time keeps: the lines of all sales. Requests about them go to that node (web.Route.Kept).
const Duty = "admission"

// Run keeps the lines for as long as the process lives: for a house of one.
func (s *Service) Run(ctx context.Context) error { return s.Serve(ctx, node.Forever()) }

// Serve admits people at their sales' pace and keeps what a restart needs, until ctx ends; then it writes down where the lines stand.
// A term begins as a life does: from what stands in SQL, and with the tickets that people bring.
func (s *Service) Serve(ctx context.Context, term node.Term) error {
	for _, r := range *s.rooms.Load() {
		r.mu.Lock()
		r.q, r.toDraw, r.written, r.ahead, r.moved, r.told = nil, nil, savedRow{}, aheadLeast, 0, lineEvent{}
		r.mu.Unlock()
	}
	s.term.Store(&term)
	var joined sync.WaitGroup
	joined.Go(func() { s.paceLoop(ctx) })
	s.keepLoop(ctx)
	joined.Wait()
	s.close()
	s.term.Store(&node.Term{})
	return nil
}

// queue returns the line of a room whose lock is held; nil while it is not loaded, or kept by another node: also by one that has taken
// it while this one slept.
func (s *Service) queue(r *room) *queue {
	if !s.term.Load().Held() {
		return nil
	}
	return r.q
}
