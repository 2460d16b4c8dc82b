package identity

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// EnsureAdministrator makes sure that there is an administrator of this name, for a demonstration or an unattended set-up. An
// administrator who exists keeps his password. CodeConflict when the name belongs to somebody who is none or is disabled: a
// stranger who signed up with it must not become one.
func (s *Service) EnsureAdministrator(ctx context.Context, name string, password obs.Secret) (err error) {
	defer levee.Wrap(&err, "identity.EnsureAdministrator(%s)", name)
	_, key, err := handle.ParseName("name", name)
	if err != nil {
		return err
	}
	switch row, err := readUserByLogin(db.Primary(ctx), s.db.QueryRow, key, ""); {
	case err == nil && administrates(row.User):
		return nil
	case err == nil:
		return levee.E(levee.CodeConflict, "the user %q exists and is not an administrator", row.Name)
	case levee.CodeOf(err) != levee.CodeNotFound:
		return err
	}
	_, err = s.create(levee.WithActor(ctx, levee.System), NewUser{Name: name, Password: password, Roles: allRoles}, Origin{},
		"user.created", true)
	return err
}

// setupAlphabet has no characters that are mistaken for each other; 32 of them, so a byte's low 5 bits choose evenly.
const setupAlphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"

// The bounds of a set-up code: how long it is good, how many wrong ones may be tried meanwhile, and how many are good at a time.
const (
	setupFor   = 24 * time.Hour
	setupWrong = 1000
	setupCodes = 32
)

// SetupCode returns a new one-time code that makes its bearer the first administrator (80 random bits, four groups of four),
// or "" when there is an administrator. It is good on every node, for a day or until a thousand wrong ones were tried; its hash is kept in
// SQL. In a house of one process an earlier code stops working; among several each prints one at its start, and the last 32 are good.
func (s *Service) SetupCode(ctx context.Context) (code obs.Secret, err error) {
	defer levee.Wrap(&err, "identity.SetupCode")
	needed, err := s.SetupNeeded(ctx)
	if err != nil || !needed {
		return "", err
	}
	var random [16]byte
	rand.Read(random[:]) // never fails
	var text strings.Builder
	for i, b := range random {
		if i > 0 && i%4 == 0 {
			text.WriteByte('-')
		}
		text.WriteByte(setupAlphabet[b&31])
	}
	id, err := s.ids.Next()
	if err != nil {
		return "", err
	}
	now := s.now()
	err = s.db.Tx(ctx, "identity.setup_code", func(ctx context.Context, tx *db.Tx) error {
		list, err := listSetups(ctx, tx.Query)
		if err != nil {
			return err
		}
		for i, r := range list {
			if !s.shared || !r.good(now) || len(list)-i >= setupCodes {
				if _, err := deleteSetups(ctx, tx, r.id, r.id); err != nil {
					return err
				}
			}
		}
		return insertSetup(ctx, tx, setupRow{id: id, hash: setupHash(text.String()), expires: now.Add(setupFor).UnixMicro()})
	})
	if err != nil {
		return "", err
	}
	return obs.Secret(text.String()), nil
}

// good reports whether a code can still be used.
func (r setupRow) good(now time.Time) bool {
	return r.wrong < setupWrong && now.UnixMicro() < r.expires
}

// setupHash needs no salt and no slowness: a code has 80 random bits.
func setupHash(code string) string {
	sum := sha256.Sum256([]byte(code))
	return hex.EncodeToString(sum[:])
}

// SetupNeeded reports whether the house waits for its first administrator.
func (s *Service) SetupNeeded(ctx context.Context) (bool, error) {
	n, err := countAdministrators(db.Primary(ctx), s.db.Query)
	if err != nil {
		return false, fmt.Errorf("identity.SetupNeeded: %w", err)
	}
	return n == 0, nil
}

// Setup makes the first administrator for the bearer of the code. CodeGone when there is one already, CodeUnauthenticated for a
// wrong code, CodeInvalid as for SignUp. The code works once; input that is refused does not use it up.
func (s *Service) Setup(ctx context.Context, code obs.Secret, in NewUser, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.Setup")
	list, err := listSetups(db.Primary(ctx), s.db.Query)
	if err != nil {
		return User{}, err
	}
	// After the list: codes that went with the first administrator are not wrong, they are gone.
	if needed, err := s.SetupNeeded(ctx); err != nil || !needed {
		return User{}, cmp.Or(err, alreadySetUp())
	}
	given, now := setupHash(strings.ToUpper(strings.TrimSpace(code.Reveal()))), s.now()
	var right int64
	for _, r := range list {
		if subtle.ConstantTimeCompare([]byte(given), []byte(r.hash)) == 1 && r.good(now) {
			right = r.id
		}
	}
	if right == 0 {
		s.log.WarnContext(ctx, "a wrong set-up code was given", "address", from.address())
		if err := s.db.Tx(ctx, "identity.setup_wrong", wrongSetup); err != nil {
			return User{}, err
		}
		return User{}, levee.E(levee.CodeUnauthenticated, "the set-up code is wrong or too old; the program prints a new one at each start")
	}
	in.Roles = allRoles
	u, err = s.create(ctx, in, from, "user.set_up", true, func(ctx context.Context, tx *db.Tx) error {
		// All codes go with the account that one of them made. Whoever finds his gone was not the first.
		if n, err := deleteSetups(ctx, tx, right, right); err != nil || n == 0 {
			return cmp.Or(err, alreadySetUp())
		}
		if _, err := deleteSetups(ctx, tx, 0, math.MaxInt64); err != nil {
			return err
		}
		n, err := countAdministrators(ctx, tx.Query)
		if n > 0 {
			err = alreadySetUp()
		}
		return err
	})
	return u, err
}

func alreadySetUp() error {
	return levee.E(levee.CodeGone, "the house is set up: sign in as an administrator")
}
