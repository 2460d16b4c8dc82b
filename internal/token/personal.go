package token

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/obs"
)

// Personal is a personal access token: what a program uses that acts for somebody who is not there.
type Personal struct {
	ID   int64
	User levee.UserID
	// Name is what its owner calls it: 1 to 100 characters.
	Name string
	// Scopes are the operations that it is for (levee.NewScope): 1 to 50.
	Scopes    []string
	CreatedAt time.Time
	ExpiresAt time.Time // a minute to a year after CreatedAt
	UsedAt    time.Time // not exact to the hour; zero: never
}

// The bounds of personal access tokens.
const (
	maxName   = 100
	maxScopes = 50
	maxScope  = 60 // bytes of one
	minLife   = time.Minute
	maxLife   = 366 * 24 * time.Hour
)

// Check returns p in the form in which it is kept, or CodeInvalid about its name, expires_at or scopes. fault says what is wrong with a word of the scopes.
func (p Personal) Check(now time.Time, fault func(word string) string) (Personal, error) {
	p.Name = strings.TrimSpace(p.Name)
	if n := utf8.RuneCountInString(p.Name); n == 0 || n > maxName || !utf8.ValidString(p.Name) || strings.ContainsFunc(p.Name, unicode.IsControl) {
		return p, levee.Invalid("name", fmt.Sprintf("1 to %d characters", maxName), levee.Shorten(p.Name, 200))
	}
	p.ExpiresAt = at(p.ExpiresAt.UnixMicro())
	if life := p.ExpiresAt.Sub(now); life < minLife || life > maxLife {
		return p, levee.Invalid("expires_at", "a minute to a year from now", p.ExpiresAt.Format(time.RFC3339))
	}
	if len(p.Scopes) == 0 || len(p.Scopes) > maxScopes {
		return p, levee.Invalid("scopes", fmt.Sprintf("1 to %d", maxScopes), len(p.Scopes))
	}
	for i, word := range p.Scopes {
		allowed := "an operation's id, or a category with :read or :all"
		if word != "" && len(word) <= maxScope && !strings.ContainsFunc(word, unicode.IsSpace) {
			allowed = fault(word)
		}
		if allowed != "" {
			return p, levee.Invalid(fmt.Sprintf("scopes[%d]", i), allowed, levee.Shorten(word, maxScope))
		}
	}
	p.Scopes = slices.Compact(slices.Sorted(slices.Values(p.Scopes)))
	return p, nil
}

// The text of a personal access token is
//
//	lvp_<sealed id, 26 characters><secret, 32><checksum, 7>
//
// in Crockford's base 32, lower case, so that `lvp_[0-9a-hjkmnp-tv-z]{65}` finds it in a repository or a log, and the checksum (CRC-32 of all before it)
// tells it from a text that only looks like one, without asking this house. SQL keeps its hash alone.
const (
	prefixPersonal = "lvp_"
	personalBytes  = 20
	sealedChars    = 26
	secretChars    = 32
	checkChars     = 7
	personalChars  = len(prefixPersonal) + sealedChars + secretChars + checkChars
)

var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewPersonal makes the text of a personal access token.
func (s *Service) NewPersonal(id int64) obs.Secret {
	var random [personalBytes]byte
	rand.Read(random[:]) // never fails
	text := prefixPersonal + s.sealer.Seal(levee.KindToken, id)[len(levee.KindToken.Prefix())+1:] + crockford.EncodeToString(random[:])
	return obs.Secret(text + checksum(text))
}

func checksum(text string) string {
	return crockford.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(text))))
}

// IsPersonal reports whether a credential claims to be a personal access token.
func IsPersonal(text string) bool { return strings.HasPrefix(text, prefixPersonal) }

// OpenPersonal returns the id inside a personal access token. It returns false for what this house did not make, as far as that shows without its
// secret's hash.
func (s *Service) OpenPersonal(text string) (int64, bool) {
	if len(text) != personalChars || !IsPersonal(text) || checksum(text[:personalChars-checkChars]) != text[personalChars-checkChars:] {
		return 0, false
	}
	id, err := s.sealer.Open(levee.KindToken, levee.KindToken.Prefix()+"_"+text[len(prefixPersonal):][:sealedChars])
	return id, err == nil
}
