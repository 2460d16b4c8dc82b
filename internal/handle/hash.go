package handle

import (
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"levee"
)

// HashBytes is how long the sum of a Hash is.
const HashBytes = 32

// Hash is an argon2id hash of a password (RFC 9106) of one lane: Passes over Memory KiB.
type Hash struct {
	Passes, Memory uint32
	Salt, Sum      []byte
}

// String returns the hash in PHC form: $argon2id$v=19$m=…,t=…,p=1$salt$sum.
func (h Hash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, h.Memory, h.Passes, b64.EncodeToString(h.Salt), b64.EncodeToString(h.Sum))
}

// ParseHash reads a hash in PHC form, with bounds on its cost (8 to 1,048,576 KiB, 1 to 16 passes), so that a damaged row cannot ask for a
// terabyte. CodeInternal: it is none.
func ParseHash(text string) (h Hash, err error) {
	bad := levee.E(levee.CodeInternal, "a stored password hash cannot be read")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return Hash{}, bad
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=1", &h.Memory, &h.Passes); n != 2 || err != nil ||
		fmt.Sprintf("m=%d,t=%d,p=1", h.Memory, h.Passes) != parts[3] ||
		h.Memory < 8 || h.Memory > 1_048_576 || h.Passes < 1 || h.Passes > 16 {
		return Hash{}, bad
	}
	b64 := base64.RawStdEncoding.Strict()
	if h.Salt, err = b64.DecodeString(parts[4]); err != nil || len(h.Salt) < 8 || len(h.Salt) > 64 {
		return Hash{}, bad
	}
	if h.Sum, err = b64.DecodeString(parts[5]); err != nil || len(h.Sum) != HashBytes {
		return Hash{}, bad
	}
	return h, nil
}
