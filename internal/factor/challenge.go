package factor

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// What a challenge is for. It is good for nothing else.
const (
	forSignIn  = "sign_in" // a session that waits for a second factor
	forEnrol   = "enrol"   // a session that waits until a factor is set up
	forTOTP    = "totp"    // an application that waits for its first code
	forPasskey = "passkey" // a passkey that is being made
	forStepUp  = "step_up" // a passkey that proves its holder again
	prefix     = "lvf_"    // of a challenge's text
	askedFor   = 5 * time.Minute
	// maxAsked is how many challenges of an account are kept; the oldest goes. Who knows its password could else fill the table.
	maxAsked = 50
)

// challenge is what somebody was asked.
type challenge struct {
	hash, purpose string
	user          levee.UserID
	session       int64  // whose holder was asked; 0 before there is one
	how, mark     string // of the first proof, for a session that waits
	data          string // what the answer is checked against
	expires       time.Time
}

// ask keeps a challenge, good once, on any node, for five minutes, and returns its text. SQL has the text's hash alone.
func (s *Service) ask(ctx context.Context, c challenge) (text obs.Secret, expires time.Time, err error) {
	var random [32]byte
	rand.Read(random[:]) // never fails
	plain := prefix + base64.RawURLEncoding.EncodeToString(random[:])
	c.hash, c.expires = hashOf(plain), time.UnixMicro(s.now().Add(askedFor).UnixMicro()).UTC()
	err = s.DB.Tx(ctx, "factor.ask", func(ctx context.Context, tx *db.Tx) error { return insertChallenge(ctx, tx, c, maxAsked) })
	return obs.Secret(plain), c.expires, err
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// asked returns a challenge for one of the purposes and leaves it good; CodeGone for any that is not good.
func (s *Service) asked(ctx context.Context, text obs.Secret, purposes ...string) (challenge, error) {
	if !strings.HasPrefix(text.Reveal(), prefix) {
		return challenge{}, spent()
	}
	c, err := readChallenge(db.Primary(ctx), s.DB.QueryRow, hashOf(text.Reveal()), s.now())
	if err != nil {
		return challenge{}, err
	}
	for _, p := range purposes {
		if c.purpose == p {
			return c, nil
		}
	}
	return challenge{}, spent()
}

// answer uses a challenge up, in the caller's transaction: of any number who do so at once, on any nodes, one commits. CodeGone for the others.
func (s *Service) answer(ctx context.Context, tx *db.Tx, c challenge) error {
	ok, err := takeChallenge(ctx, tx, c.hash, s.now())
	if err == nil && !ok {
		err = spent()
	}
	return err
}

func spent() error {
	return levee.E(levee.CodeGone, "this challenge was answered already, or is too old: begin anew")
}
