package push

import (
	"math"
	"strconv"
)

// position is a place in the stream of one hub's life.
type position struct {
	epoch  uint64
	offset int64
}

// epochChars is the length of an epoch, in hexadecimal digits.
const epochChars = 16

func (p position) append(b []byte) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[p.epoch>>shift&15])
	}
	b = append(b, '-')
	return strconv.AppendInt(b, p.offset, 10)
}

func (p position) String() string { return string(p.append(make([]byte, 0, 36))) }

// parsePosition reads what append writes, and nothing else: lower case, no sign, no leading zeros.
func parsePosition(s string) (p position, ok bool) {
	if len(s) < epochChars+2 || len(s) > epochChars+1+19 || s[epochChars] != '-' {
		return position{}, false
	}
	for i := range epochChars {
		var d byte
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			d = c - '0'
		case 'a' <= c && c <= 'f':
			d = c - 'a' + 10
		default:
			return position{}, false
		}
		p.epoch = p.epoch<<4 | uint64(d)
	}
	digits := s[epochChars+1:]
	if digits[0] == '0' && len(digits) > 1 {
		return position{}, false
	}
	for i := range len(digits) {
		d := int64(digits[i]) - '0'
		if d < 0 || d > 9 || p.offset > (math.MaxInt64-d)/10 {
			return position{}, false
		}
		p.offset = p.offset*10 + d
	}
	return p, true
}
