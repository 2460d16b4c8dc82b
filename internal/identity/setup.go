package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// EnsureAdministrator makes sure that there is an administrator of this name, for a demonstration or an unattended set-up. An
// administrator who exists keeps his password. CodeConflict when the name belongs to somebody who is none or is disabled: a
// stranger who signed up with it must not become one.
func (s *Service) EnsureAdministrator(ctx context.Context, name string, password obs.Secret) (err error) {
	defer levee.Wrap(&err, "identity.EnsureAdministrator(%s)", name)
	_, key, err := parseName("name", name)
	if err != nil {
		return err
	}
	switch row, err := readUserByLogin(ctx, s.db.QueryRow, key, ""); {
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

// SetupCode returns a new one-time code that makes its bearer the first administrator (80 random bits, four groups of four),
// or "" when there is an administrator. It is kept only in this process; an earlier code stops working. The program prints it
// to its operator at start.
func (s *Service) SetupCode(ctx context.Context) (code obs.Secret, err error) {
	defer levee.Wrap(&err, "identity.SetupCode")
	n, err := countAdministrators(ctx, s.db.Query)
	if err != nil || n > 0 {
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
	s.setupMu.Lock()
	defer s.setupMu.Unlock()
	s.setupHash = sha256.Sum256([]byte(text.String()))
	return obs.Secret(text.String()), nil
}

// SetupNeeded reports whether the house waits for its first administrator.
func (s *Service) SetupNeeded(ctx context.Context) (bool, error) {
	n, err := countAdministrators(ctx, s.db.Query)
	if err != nil {
		return false, fmt.Errorf("identity.SetupNeeded: %w", err)
	}
	return n == 0, nil
}

// Setup makes the first administrator for the bearer of the code. CodeGone when there is one already, CodeUnauthenticated for a
// wrong code, CodeInvalid as for SignUp. The code works once; input that is refused does not use it up.
func (s *Service) Setup(ctx context.Context, code obs.Secret, in NewUser, from Origin) (u User, err error) {
	defer levee.Wrap(&err, "identity.Setup")
	sum := sha256.Sum256([]byte(strings.ToUpper(strings.TrimSpace(code.Reveal()))))
	s.setupMu.Lock()
	expected := s.setupHash
	s.setupMu.Unlock()
	if needed, err := s.SetupNeeded(ctx); err != nil {
		return User{}, err
	} else if !needed {
		return User{}, alreadySetUp()
	}
	if expected == ([32]byte{}) || subtle.ConstantTimeCompare(sum[:], expected[:]) != 1 {
		s.log.WarnContext(ctx, "a wrong set-up code was given", "address", from.address())
		return User{}, levee.E(levee.CodeUnauthenticated, "the set-up code is wrong; the program prints a new one at each start")
	}
	in.Roles = allRoles
	u, err = s.create(ctx, in, from, "user.set_up", true, func(ctx context.Context, tx *db.Tx) error {
		n, err := countAdministrators(ctx, tx.Query)
		if err == nil && n > 0 {
			return alreadySetUp()
		}
		return err
	})
	if err != nil {
		return User{}, err
	}
	s.setupMu.Lock()
	defer s.setupMu.Unlock()
	s.setupHash = [32]byte{}
	return u, nil
}

func alreadySetUp() error {
	return levee.E(levee.CodeGone, "the house is set up: sign in as an administrator")
}
