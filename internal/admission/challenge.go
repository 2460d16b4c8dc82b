package admission

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math/bits"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/limit"
)

const (
	// challengeFor is how long a challenge may be answered.
	challengeFor = 5 * time.Minute
	// pictureTries is how many answers one picture takes.
	pictureTries = 5
	// workInstead is how many more bits the way without sight costs than the operator's bits: else it would be the cheap one.
	workInstead = 4
	// answerMost is the most characters of an answer.
	answerMost = 20
	// artistsWait is how many requests may wait for a picture to be drawn.
	artistsWait = 256
)

// artistsMost is how many pictures are drawn at once: half of the cores, so that pictures never take the rest from those who buy.
var artistsMost = max(1, runtime.GOMAXPROCS(0)/2)

// Challenge is what must be solved before a place is given.
type Challenge struct {
	// Kind is BrakeWork or BrakePicture.
	Kind string
	// Text is opaque and goes back with the answer.
	Text string
	// Bits of BrakeWork: SHA-256(Text + "." + answer) must begin with so many zero bits.
	Bits int32
	// Picture of BrakePicture: a PNG with the five digits of the answer.
	Picture   []byte
	ExpiresAt time.Time
}

// A proof of work's challenge is sale (8 bytes), buyer (8), bits (1), expiry in unix milliseconds (8), the life that gave it (4), a
// nonce (8) and the MAC. A picture's is the same with the answer (4) in place of the bits, sealed by AES-GCM, under a nonce of 12
// bytes that also serves as its name: nothing of it can be read.
//
// The life keeps what is used once used once: which nonces were used is forgotten with the process, and so are its challenges.
const (
	workBody    = 37
	pictureBody = 32
	pictureSize = 12 + pictureBody + 16
)

// life tells the processes apart that share a key.
var life = func() (l [4]byte) {
	_, _ = rand.Read(l[:])
	return l
}()

var (
	errNoBrake   = levee.E(levee.CodeConflict, "this sale asks for no challenge")
	errAnswer    = levee.E(levee.CodeChallengeFailed, "the answer is wrong; ask for a new challenge")
	errChallenge = levee.E(levee.CodeChallengeFailed, "the challenge is used up, too old, or not for this sale and this buyer; ask for a new one")
	errTried     = levee.E(levee.CodeUnavailable, "too many challenges are being answered; try again in a minute").After(time.Minute)
	errArtists   = levee.E(levee.CodeUnavailable, "too many pictures are wanted; try again, or ask for kind work").After(2 * time.Second)
)

// Challenge makes a challenge for one buyer and sale, good for five minutes and one use. kind "" is the sale's own; BrakeWork is
// also there beside pictures, for people who cannot see them, at four more bits (24 at most). CodeInvalid: another kind;
// CodeConflict: the sale has no brake; CodeTooManyRequests: too many were asked for; CodeUnavailable: too many pictures at once.
func (s *Service) Challenge(ctx context.Context, public string, who levee.Actor, kind string) (Challenge, error) {
	_, w, err := s.visit(public, who)
	if err != nil {
		return Challenge{}, err
	}
	return s.challenge(ctx, w, who.User, kind)
}

func (s *Service) challenge(ctx context.Context, w *Window, buyer levee.UserID, kind string) (c Challenge, err error) {
	brake := w.Policy.Brake
	switch {
	case brake == BrakeNone:
		return c, errNoBrake
	case kind == "":
		kind = brake
	case kind != brake && !(kind == BrakeWork && brake == BrakePicture):
		return c, levee.Invalid("body.kind", "work, or picture where the sale asks for one", kind)
	}
	if s.Limits != nil {
		if err := s.Limits.Allow(ctx, limit.Challenge, userKey(buyer)).Err(); err != nil {
			return c, err
		}
	}
	c = Challenge{Kind: kind, ExpiresAt: s.Obs.Clock().Add(challengeFor).UTC().Truncate(time.Millisecond)}
	if kind == BrakeWork {
		c.Bits = workBits(w.Policy)
		c.Text = s.workChallenge(w.Sale, buyer, c.Bits, c.ExpiresAt)
		s.metrics.challenges[0].Inc()
		return c, nil
	}
	answer := draw5()
	if c.Picture, err = s.drawPicture(ctx, answer); err != nil {
		return Challenge{}, err
	}
	c.Text = s.pictureChallenge(w.Sale, buyer, answer, c.ExpiresAt)
	s.metrics.challenges[1].Inc()
	return c, nil
}

// workBits is what a proof of work takes in a sale.
func workBits(p Policy) int32 {
	if p.Brake == BrakePicture {
		return min(p.WorkBits+workInstead, bitsMost)
	}
	return p.WorkBits
}

func (s *Service) workChallenge(sale levee.SaleID, buyer levee.UserID, bits int32, expires time.Time) string {
	var b [workBody]byte
	binary.BigEndian.PutUint64(b[0:], uint64(sale))
	binary.BigEndian.PutUint64(b[8:], uint64(buyer))
	b[16] = byte(bits)
	binary.BigEndian.PutUint64(b[17:], uint64(expires.UnixMilli()))
	copy(b[25:], life[:])
	_, _ = rand.Read(b[29:]) // never fails
	return s.work.seal(b[:])
}

func (s *Service) pictureChallenge(sale levee.SaleID, buyer levee.UserID, answer uint32, expires time.Time) string {
	var b [pictureBody]byte
	binary.BigEndian.PutUint64(b[0:], uint64(sale))
	binary.BigEndian.PutUint64(b[8:], uint64(buyer))
	binary.BigEndian.PutUint64(b[16:], uint64(expires.UnixMilli()))
	copy(b[24:], life[:])
	binary.BigEndian.PutUint32(b[28:], answer)
	var out [pictureSize]byte
	_, _ = rand.Read(out[:12])
	return base64.RawURLEncoding.EncodeToString(s.picture.Seal(out[:12], out[:12], b[:], nil))
}

// draw5 draws the answer of a picture: 0 to 99999.
func draw5() uint32 {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:])
		if n := binary.BigEndian.Uint32(b[:]); n < 1<<32/100_000*100_000 {
			return n % 100_000
		}
	}
}

var wantedPictures atomic.Int32

// drawPicture draws one when an artist is free.
func (s *Service) drawPicture(ctx context.Context, answer uint32) ([]byte, error) {
	if wantedPictures.Add(1) > artistsWait {
		wantedPictures.Add(-1)
		return nil, errArtists
	}
	defer wantedPictures.Add(-1)
	select {
	case s.artists <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.artists }()
	started := time.Now()
	png, err := drawDigits(answer)
	s.metrics.pictures.Observe(time.Since(started).Seconds())
	return png, err
}

// brake asks for what the sale's brake wants of somebody who has no place yet, and counts those it refuses.
func (s *Service) brake(ctx context.Context, r *room, w *Window, buyer levee.UserID, v Visit) error {
	if w.Policy.Brake == BrakeNone {
		return nil
	}
	if v.Challenge == "" {
		c, err := s.challenge(ctx, w, buyer, "")
		if err != nil {
			s.refuse(r, refusedRate)
			return err
		}
		s.refuse(r, refusedChallenge)
		return levee.E(levee.CodeChallengeRequired, "solve the challenge first, and send its answer as proof").With("challenge", viewChallenge(c))
	}
	if err := s.solved(w, buyer, v.Challenge, v.Answer); err != nil {
		s.refuse(r, refusedAnswer)
		return err
	}
	return nil
}

// solved checks an answer, and uses the challenge up. What anybody could make up is refused before anything is remembered of it.
func (s *Service) solved(w *Window, buyer levee.UserID, text, answer string) error {
	if answer == "" || len(answer) > answerMost {
		return errAnswer
	}
	for i := range len(answer) {
		if answer[i] < '0' || answer[i] > '9' {
			return errAnswer
		}
	}
	if len(text) == encoding.EncodedLen(pictureSize) {
		return s.seen(w, buyer, text, answer)
	}
	return s.worked(w, buyer, text, answer)
}

// worked checks a proof of work: one MAC, one hash.
func (s *Service) worked(w *Window, buyer levee.UserID, text, answer string) error {
	var b [workBody]byte
	if !s.work.open(text, b[:]) || !s.ours(b[:], b[17:], b[25:29], w.Sale, buyer) || int32(b[16]) < workBits(w.Policy) {
		return errChallenge
	}
	var joined [128]byte
	sum := sha256.Sum256(append(append(append(joined[:0], text...), '.'), answer...))
	if leadingZeros(sum[:]) < int(b[16]) {
		return errAnswer
	}
	return s.once(binary.BigEndian.Uint64(b[29:]), true, 1)
}

// seen checks the answer to a picture.
func (s *Service) seen(w *Window, buyer levee.UserID, text, answer string) error {
	var raw [pictureSize + 3]byte
	n, err := encoding.Decode(raw[:], []byte(text))
	if err != nil || n != pictureSize || w.Policy.Brake != BrakePicture {
		return errChallenge
	}
	var plain [pictureBody]byte
	b, err := s.picture.Open(plain[:0], raw[:12], raw[12:n], nil)
	if err != nil || !s.ours(b, b[16:], b[24:28], w.Sale, buyer) {
		return errChallenge
	}
	right := len(answer) == 5 && answer == digitsOf(binary.BigEndian.Uint32(b[28:]))
	return s.once(binary.BigEndian.Uint64(raw[:8]), right, pictureTries)
}

// ours checks what both kinds hold: sale, buyer, expiry and life.
func (s *Service) ours(who, expiry, from []byte, sale levee.SaleID, buyer levee.UserID) bool {
	left := time.UnixMilli(int64(binary.BigEndian.Uint64(expiry))).Sub(s.Obs.Clock())
	return binary.BigEndian.Uint64(who) == uint64(sale) && binary.BigEndian.Uint64(who[8:]) == uint64(buyer) && left > 0 && [4]byte(from) == life
}

// once counts an answer to a challenge, of most tries.
func (s *Service) once(nonce uint64, right bool, most uint8) error {
	switch s.tried.try(s.now(), nonce, right, most) {
	case triedUp:
		return errChallenge
	case triedFull:
		return errTried
	}
	if !right {
		s.metrics.answers[1].Inc()
		return errAnswer
	}
	s.metrics.answers[0].Inc()
	return nil
}

// userKey is the account's key of a limit, as web makes it.
func userKey(buyer levee.UserID) string { return "u" + strconv.FormatInt(int64(buyer), 36) }

func digitsOf(n uint32) string {
	var b [5]byte
	for i := 4; i >= 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return string(b[:])
}

func leadingZeros(sum []byte) (n int) {
	for _, b := range sum {
		n += bits.LeadingZeros8(b)
		if b != 0 {
			break
		}
	}
	return n
}

// tried remembers which challenges were answered, and how often: in two generations, each for at least as long as a challenge
// lives, so that forgetting costs nothing. A full one refuses, as forgetting would let answers be used again.
type tried struct {
	most int

	mu       sync.Mutex // guards what follows
	cur, old map[uint64]uint8
	turned   time.Duration
}

func newTried(most int) *tried {
	return &tried{most: most, cur: map[uint64]uint8{}, old: map[uint64]uint8{}}
}

type triedResult uint8

const (
	triedOK triedResult = iota
	triedUp
	triedFull
)

func (t *tried) try(now time.Duration, nonce uint64, right bool, most uint8) triedResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since := now - t.turned; since >= 2*challengeFor {
		t.cur, t.old, t.turned = map[uint64]uint8{}, map[uint64]uint8{}, now
	} else if since >= challengeFor {
		t.cur, t.old, t.turned = map[uint64]uint8{}, t.cur, now
	}
	n, known := t.cur[nonce]
	if !known {
		if n, known = t.old[nonce]; !known && len(t.cur)+len(t.old) >= t.most {
			return triedFull
		}
	}
	if n >= most {
		return triedUp
	}
	if n++; right {
		n = most
	}
	t.cur[nonce] = n
	return triedOK
}

func (t *tried) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.cur) + len(t.old)
}
