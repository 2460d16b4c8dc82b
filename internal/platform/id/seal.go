package id

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"sync"

	"levee"
)

// A public id is the kind's prefix, "_", and one AES-256 block in Crockford's base 32, lower case, most significant bits
// first. The block holds the id (8 bytes), the kind (1 byte) and seven zero bytes, so that a guess passes with a chance of
// 2^-64 and neither order nor count shows.
const (
	sealedChars = 26 // 128 bits in groups of 5; the first character has only 3
	alphabet    = "0123456789abcdefghjkmnpqrstvwxyz"
)

var digitOf = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xFF
	}
	for i := range len(alphabet) {
		t[alphabet[i]] = byte(i)
	}
	return t
}()

// Sealer turns ids into public ids and back. It keeps nothing: any process with the same key opens what another sealed. All
// methods may be called by many goroutines at once.
type Sealer struct {
	block   cipher.Block
	scratch sync.Pool // *[aes.BlockSize]byte; the cipher is behind an interface, so a block on the stack would escape
}

// NewSealer makes a Sealer from 32 random bytes that stay secret and the same for ever: with another key no public id ever
// shown opens again. It fails with CodeInvalid for another length, and never shows the key.
func NewSealer(key []byte) (_ *Sealer, err error) {
	defer levee.Wrap(&err, "id.NewSealer")
	if len(key) != 32 {
		return nil, levee.E(levee.CodeInvalid, "the key of the public ids must have 32 bytes, it has %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s := &Sealer{block: block}
	s.scratch.New = func() any { return new([aes.BlockSize]byte) }
	return s, nil
}

// Seal returns the public form of an id, 30 characters as in "ord_3gk…". The same id of the same kind always looks the
// same. A kind that levee does not list gives "".
func (s *Sealer) Seal(kind levee.Kind, id int64) string {
	var b [32]byte
	return string(s.AppendSeal(b[:0], kind, id))
}

// AppendSeal appends what Seal returns to dst. It allocates nothing when dst has room.
func (s *Sealer) AppendSeal(dst []byte, kind levee.Kind, id int64) []byte {
	prefix := kind.Prefix()
	if prefix == "" {
		return dst
	}
	b := s.scratch.Get().(*[aes.BlockSize]byte)
	binary.BigEndian.PutUint64(b[:8], uint64(id))
	binary.BigEndian.PutUint64(b[8:], uint64(kind)<<56)
	s.block.Encrypt(b[:], b[:])
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	s.scratch.Put(b)

	dst = append(dst, prefix...)
	dst = append(dst, '_')
	var text [sealedChars]byte
	for i := sealedChars - 1; i >= 0; i-- {
		text[i] = alphabet[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return append(dst, text[:]...)
}

// Open returns the id inside a public id of the given kind. Whatever was not sealed as this kind with this key (forged,
// altered in a single bit, of another kind, in another spelling) gets CodeNotFound, and no reason.
func (s *Sealer) Open(kind levee.Kind, public string) (int64, error) {
	prefix := kind.Prefix()
	n := len(prefix)
	if n == 0 || len(public) != n+1+sealedChars || public[:n] != prefix || public[n] != '_' {
		return 0, notFound()
	}
	text := public[n+1:]
	var hi, lo uint64
	bad := digitOf[text[0]] & 0xF8 // the first character holds the top three bits; 0xFF for a foreign one
	for i := range sealedChars {
		d := digitOf[text[i]]
		bad |= d & 0xE0
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(d&31)
	}
	if bad != 0 {
		return 0, notFound()
	}
	b := s.scratch.Get().(*[aes.BlockSize]byte)
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	s.block.Decrypt(b[:], b[:])
	id, check := int64(binary.BigEndian.Uint64(b[:8])), binary.BigEndian.Uint64(b[8:])
	s.scratch.Put(b)
	if check != uint64(kind)<<56 {
		return 0, notFound()
	}
	return id, nil
}

func notFound() error { return levee.E(levee.CodeNotFound, "there is no such thing") }
