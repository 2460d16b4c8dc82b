package trail

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"levee"
)

// The canonical bytes of a list of texts: each as its length in bytes in decimal, a colon and the text itself. No two lists have the
// same, and any language writes it in a line. docs/audit.md says it for others; examples/verify-audit does it in Python.
func appendText[T string | []byte](b []byte, text T) []byte {
	b = strconv.AppendInt(b, int64(len(text)), 10)
	b = append(b, ':')
	return append(b, text...)
}

func appendNumber(b []byte, n int64) []byte {
	var digits [20]byte
	return appendText(b, strconv.AppendInt(digits[:0], n, 10))
}

// Head is the end of the chain at some place: the hash over all that stands before and at it.
type Head [sha256.Size]byte

// String returns the head in hexadecimal.
func (h Head) String() string { return hex.EncodeToString(h[:]) }

// parseHead reads what String wrote.
func parseHead(text string) (h Head, ok bool) {
	if len(text) != 2*len(h) {
		return h, false
	}
	_, err := hex.Decode(h[:], []byte(text))
	return h, err == nil
}

// digest is SHA-256 over what the world may see of an entry, in its public form, so that who has an export can make it again.
func (s *Service) digest(e *Entry) [sha256.Size]byte {
	b := make([]byte, 0, 512)
	b = appendText(b, "levee trail entry 1")
	b = appendText(b, s.Sealer.Seal(levee.KindEvent, e.ID))
	b = appendNumber(b, e.At.UnixMicro())
	b = appendNumber(b, e.Times)
	b = appendText(b, s.actor(e.Actor))
	b = appendText(b, e.Action)
	b = appendText(b, s.Sealer.Seal(e.Kind, e.Subject))
	b = appendText(b, e.Before)
	b = appendText(b, e.After)
	b = appendText(b, e.Address)
	b = appendText(b, e.RequestID)
	return sha256.Sum256(b)
}

// actor is how who did it is shown.
func (s *Service) actor(id levee.UserID) string {
	switch id {
	case 0:
		return "visitor"
	case levee.System.User:
		return "system"
	}
	return s.Sealer.Seal(levee.KindUser, int64(id))
}

// mark is the house's HMAC-SHA256 over the entry's digest: who can write to the database but has not the secret cannot make it.
func (s *Service) mark(e *Entry) string {
	d := s.digest(e)
	m := hmac.New(sha256.New, s.Key)
	m.Write(appendText(appendText(nil, "entry"), d[:]))
	return hex.EncodeToString(m.Sum(nil))
}

// next is the head after an entry that takes the place seq.
func (s *Service) next(h Head, seq int64, e *Entry) Head {
	d := s.digest(e)
	b := make([]byte, 0, 192)
	b = appendText(b, "levee trail link 1")
	b = appendText(b, h[:])
	b = appendNumber(b, seq)
	b = appendText(b, d[:])
	b = appendText(b, e.Mark)
	return sha256.Sum256(b)
}
