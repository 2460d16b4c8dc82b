package token

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// Purpose says what a token that is good once is for. It is good for nothing else.
type Purpose string

// PasswordReset lets its bearer give an account a new password.
const PasswordReset Purpose = "password_reset"

const (
	prefixOnce = "lvo_"
	maxOnce    = 24 * time.Hour
	onceBytes  = 32
)

// OnceTx makes a token for a purpose and a subject that is good once, on whichever node, within ttl (1 s to 24 h) of the caller's commit. The subject's earlier
// ones for that purpose are good no more. SQL keeps its hash alone.
func (s *Service) OnceTx(ctx context.Context, tx *db.Tx, p Purpose, subject int64, ttl time.Duration) (text obs.Secret, expires time.Time, err error) {
	defer levee.Wrap(&err, "token.OnceTx(%s)", p)
	if ttl < time.Second || ttl > maxOnce {
		return "", time.Time{}, levee.Invalid("ttl", "1s to 24h", ttl)
	}
	var random [onceBytes]byte
	rand.Read(random[:]) // never fails
	plain := prefixOnce + crockford.EncodeToString(random[:])
	expires = at(s.now().Add(ttl).UnixMicro())
	if err := dropOnce(ctx, tx, string(p), subject); err != nil {
		return "", time.Time{}, err
	}
	return obs.Secret(plain), expires, insertOnce(ctx, tx, Hash(plain), string(p), subject, expires)
}

// Subject returns whom a token that is good once is for, and leaves it good; CodeGone for any that is not good.
func (s *Service) Subject(ctx context.Context, p Purpose, text obs.Secret) (subject int64, err error) {
	defer levee.Wrap(&err, "token.Subject(%s)", p)
	if !onceLike(text.Reveal()) {
		return 0, levee.E(levee.CodeGone, "this was used already, or is too old")
	}
	return readOnce(db.Primary(ctx), s.db.QueryRow, Hash(text.Reveal()), string(p), s.now())
}

// UseTx uses a token up, in the caller's transaction: of any number who use it at once, on any nodes, one commits. CodeGone for the others, and for a
// token that is not good.
func (s *Service) UseTx(ctx context.Context, tx *db.Tx, p Purpose, text obs.Secret) (err error) {
	defer levee.Wrap(&err, "token.UseTx(%s)", p)
	ok, err := takeOnce(ctx, tx, Hash(text.Reveal()), string(p), s.now())
	if err == nil && !ok {
		err = levee.E(levee.CodeGone, "this was used already, or is too old")
	}
	return err
}

// onceLike keeps what cannot be one of ours from the database.
func onceLike(text string) bool {
	rest, ours := strings.CutPrefix(text, prefixOnce)
	return ours && len(rest) == crockford.EncodedLen(onceBytes)
}
