package line

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"levee"
)

// A draw's seed decides who wins, so nobody may read it before the entries are closed: not in a copy of the database, not in a
// log. At rest it is under AES-256-GCM, bound to its sale, with a key that is not in the database.
const seedSize = 32

// seals keeps seeds closed.
type seals struct{ aead cipher.AEAD }

func newSeals(key []byte) (*seals, error) {
	if len(key) != 32 {
		return nil, levee.E(levee.CodeInvalid, "the key of the draws' seeds must have 32 bytes, it has %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &seals{aead}, err
}

// draw makes a new seed for a sale: sealed, and its public hash.
func (s *seals) draw(sale levee.SaleID) (sealed, hash string) {
	var seed [seedSize]byte
	rand.Read(seed[:]) // never fails
	return s.seal(sale, seed[:]), hashOf(seed[:])
}

func (s *seals) seal(sale levee.SaleID, seed []byte) string {
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+seedSize+s.aead.Overhead())
	rand.Read(nonce)
	return hex.EncodeToString(s.aead.Seal(nonce, nonce, seed, bound(sale)))
}

// open returns the seed, if it is the one that hash promised. The error holds nothing of it.
func (s *seals) open(sale levee.SaleID, sealed, hash string) ([]byte, error) {
	raw, err := hex.DecodeString(sealed)
	if err == nil && len(raw) > s.aead.NonceSize() {
		n := s.aead.NonceSize()
		seed, err := s.aead.Open(nil, raw[:n], raw[n:], bound(sale))
		if err == nil && hashOf(seed) == hash {
			return seed, nil
		}
	}
	return nil, levee.E(levee.CodeInternal, "the sealed seed of the draw does not open: was the house's secret changed, or the row?")
}

func bound(sale levee.SaleID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(sale)) }

// hashOf is the commitment to a seed: its SHA-256 in lower case hexadecimal.
func hashOf(seed []byte) string {
	sum := sha256.Sum256(seed)
	return hex.EncodeToString(sum[:])
}
