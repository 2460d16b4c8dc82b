package phone

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

// Purpose says what a code is for. It is good for nothing else.
type Purpose string

// The purposes.
const (
	ForSignIn Purpose = "sign_in" // a session, and an account where there is none
	ForBind   Purpose = "bind"    // the number on the account of who asks
)

const (
	codeDigits = 6
	codeLife   = 5 * time.Minute
	triesMost  = 5
)

// Asked is what somebody gets who asked for a code. Beside the code itself he needs Request to use it.
type Asked struct {
	// Request is random, and only who asked has it: a code that was read from somebody's telephone is good in no other browser.
	Request   obs.Secret
	ExpiresAt time.Time
	// RetryAfter is how long to wait before another code can be asked for.
	RetryAfter time.Duration
}

// Ask makes a code for a phone number and has it sent; the number's earlier code for the purpose is good no more. It says the same whether an
// account has the number or not. CodeInvalid: no number, or one of a country that no codes are sent to; CodeNotFound: the house sends none;
// CodeUnauthenticated for ForBind without an account; CodeTooManyRequests: the number, the address or the house had its share
// (limit.SMS, SMSDay, SMSAddress, SMSHouse); CodeUnavailable: that cannot be told now.
func (s *Service) Ask(ctx context.Context, p Purpose, phone string, from identity.Origin) (a Asked, err error) {
	defer levee.Wrap(&err, "phone.Ask(%s)", p)
	if s.sender == nil {
		return a, levee.E(levee.CodeNotFound, "this house sends no codes by SMS: phone.sender names nobody")
	}
	number, err := s.Identity.ParsePhone("phone", phone)
	if err != nil {
		return a, err
	}
	if !s.sendsTo(number) {
		return a, levee.Invalid("phone", "a number of a country that codes are sent to: +"+strings.Join(s.cfg.Countries, ", +"), handle.Mask(number))
	}
	user, err := holder(ctx, p)
	if err != nil {
		return a, err
	}
	who := limit.Caller{Address: from.Address, Account: number}
	asks := make([]limit.Ask, 0, 4)
	for _, n := range []limit.Name{limit.SMS, limit.SMSDay, limit.SMSAddress, limit.SMSHouse} {
		asks = append(asks, limit.Ask{Name: n, Key: n.Key(who)})
	}
	answers := s.Limits.AllowAll(ctx, asks...)
	if err := answers.Err(); err != nil {
		s.metrics.asked.WithLabelValues(string(p), "limited").Inc()
		return a, err
	}
	if first := answers[0]; first.Remaining == 0 {
		a.RetryAfter = first.Reset
	}
	code := newCode()
	a.Request, a.ExpiresAt = obs.Secret(rand.Text()), s.Obs.Clock().Add(codeLife).Truncate(time.Microsecond)
	c := record{phone: number, purpose: p, user: user, request: hashOf(a.Request), expires: a.ExpiresAt}
	c.hash = s.hash(c, code)
	c.sealed = base64.RawStdEncoding.EncodeToString(s.seal.Seal(nil, nil, []byte(code), []byte(c.request)))
	err = s.DB.Tx(ctx, "phone.ask", func(ctx context.Context, tx *db.Tx) error {
		if err := putCode(ctx, tx, s.DB.Dialect(), c); err != nil {
			return err
		}
		_, err := s.send.EnqueueTx(ctx, tx, message{Request: c.request})
		return err
	})
	if err != nil {
		return Asked{}, err // it stays charged: whether it was sent may not be known, and that costs
	}
	s.metrics.asked.WithLabelValues(string(p), "ok").Inc()
	return a, nil
}

// sendsTo reports whether codes are sent to a number's country.
func (s *Service) sendsTo(number string) bool {
	for _, code := range s.cfg.Countries {
		if strings.HasPrefix(number, "+"+code) {
			return true
		}
	}
	return false
}

// holder is whose account a code is bound to: for ForBind the context's actor, else 0.
func holder(ctx context.Context, p Purpose) (levee.UserID, error) {
	a := levee.ActorFrom(ctx)
	switch {
	case p == ForSignIn:
		return 0, nil
	case p != ForBind:
		return 0, levee.Invalid("purpose", "sign_in or bind", p)
	case !a.SignedIn():
		return 0, levee.E(levee.CodeUnauthenticated, "sign in first")
	case a.Rehearsal:
		return 0, levee.E(levee.CodeForbidden, "an invented buyer of a rehearsal has no account")
	}
	return a.User, nil
}

// newCode draws six digits, all of a million equally often.
func newCode() string {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		panic(err) // crypto/rand.Reader never fails
	}
	return fmt.Sprintf("%0*d", codeDigits, n)
}

// hashOf is what SQL keeps of a request token, which is too random to be guessed from it.
func hashOf(request obs.Secret) string {
	sum := sha256.Sum256([]byte(request.Reveal()))
	return hex.EncodeToString(sum[:])
}

// hash is what SQL keeps of a code: an HMAC, as a million codes would be tried in a moment, over all that the code is bound to.
func (s *Service) hash(c record, code string) string {
	h := hmac.New(sha256.New, s.mark)
	for _, part := range []string{c.phone, string(c.purpose), c.request, strconv.FormatInt(int64(c.user), 10), code} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// useTx uses a code up and reports whether it was right: of any number who do so at once, one is told so. Each wrong one is counted, and after
// five the code is good no more; a caller without the request token cannot use up anybody's tries. The caller commits in either case.
func (s *Service) useTx(ctx context.Context, tx *db.Tx, c record, code string) (bool, error) {
	if ok, err := countTry(ctx, tx, c, s.Obs.Clock()); err != nil || !ok {
		return false, err
	}
	kept, err := readHash(ctx, tx, c)
	if err != nil || !hmac.Equal([]byte(kept), []byte(s.hash(c, code))) {
		return false, err
	}
	return true, dropCode(ctx, tx, c)
}

// presented reads what somebody shows of a code that he was sent; ok is false for what can be none.
func presented(phone string, p Purpose, user levee.UserID, code string, request obs.Secret) (c record, ok bool) {
	ok = len(code) == codeDigits && handle.AllDigits(code) && request != ""
	return record{phone: phone, purpose: p, user: user, request: hashOf(request)}, ok
}

// Prune deletes codes that are too old to be used.
func (s *Service) Prune(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "phone.Prune")
	return s.DB.Tx(ctx, "phone.prune", func(ctx context.Context, tx *db.Tx) error {
		return deleteCodes(ctx, tx, s.Obs.Clock())
	})
}
