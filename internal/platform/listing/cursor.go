package listing

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// position is where a page begins: behind the row with these keys, or before it when back is set. Without keys it is the list's
// beginning, or its end.
type position struct {
	back bool
	keys []any // int64 or string each
}

// sealer makes cursors that only this house can make and read: keys of rows are database ids, and those do not leave the process. It is a synthetic
// initialisation vector (Rogaway and Shrimpton, "Deterministic Authenticated-Encryption", 2006) of HMAC-SHA-256 over AES-256 in counter mode: the
// first 16 bytes of the HMAC over what the cursor is bound to and its text are both the proof and the counter's start. Equal positions make equal
// cursors, and no nonce can be used up.
type sealer struct {
	mac   []byte
	block cipher.Block
}

const tagSize = 16

func newSealer(key []byte) *sealer {
	sub := func(what string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(what))
		return h.Sum(nil)
	}
	block, err := aes.NewCipher(sub("cursor text"))
	if err != nil {
		panic("listing: " + err.Error()) // 32 bytes are always a key
	}
	return &sealer{mac: sub("cursor proof"), block: block}
}

func (s *sealer) tag(bound string, text []byte) []byte {
	h := hmac.New(sha256.New, s.mac)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(bound)))
	h.Write(n[:])
	h.Write([]byte(bound))
	h.Write(text)
	return h.Sum(nil)[:tagSize]
}

// seal writes a position that opens only for the same bound text: the list, its path, filters and order.
func (s *sealer) seal(bound string, p position) string {
	text := []byte{0}
	if p.back {
		text[0] = 1
	}
	for _, k := range p.keys {
		switch k := k.(type) {
		case int64:
			text = binary.AppendVarint(append(text, 'n'), k)
		case string:
			text = append(binary.AppendUvarint(append(text, 't'), uint64(len(k))), k...)
		}
	}
	tag := s.tag(bound, text)
	cipher.NewCTR(s.block, tag).XORKeyStream(text, text)
	return base64.RawURLEncoding.EncodeToString(append(tag, text...))
}

var errCursor = errors.New("not a cursor of this question")

// open reads a position; keys tells of each key whether it is a text.
func (s *sealer) open(bound, cursor string, keys []bool) (p position, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) <= tagSize {
		return p, errCursor
	}
	tag, text := raw[:tagSize], raw[tagSize:]
	cipher.NewCTR(s.block, tag).XORKeyStream(text, text)
	if !hmac.Equal(tag, s.tag(bound, text)) {
		return p, errCursor
	}
	p.back, text = text[0] == 1, text[1:]
	if len(text) == 0 {
		return p, nil
	}
	for _, isText := range keys {
		if len(text) == 0 || isText != (text[0] == 't') {
			return p, errCursor
		}
		text = text[1:]
		if !isText {
			v, n := binary.Varint(text)
			if n <= 0 {
				return p, errCursor
			}
			p.keys, text = append(p.keys, v), text[n:]
			continue
		}
		v, n := binary.Uvarint(text)
		if n <= 0 || v > uint64(len(text)-n) {
			return p, errCursor
		}
		p.keys, text = append(p.keys, string(text[n:n+int(v)])), text[n+int(v):] //nolint:gosec // no more than the text is long
	}
	if len(text) != 0 {
		return p, errCursor
	}
	return p, nil
}
