package id

import (
	"strconv"

	"levee"
)

// ID is an id for JSON and for forms. It is written as a string, always, because JavaScript and many other readers turn a number above 2^53
// into another number without a word; it is read from a string or from a number. A database takes it as the integer that it is.
type ID int64

// Parse reads the decimal form of an id: digits alone, without sign, space or leading zero, from 0 to 2^63-1. CodeInvalid for anything else.
func Parse(text string) (ID, error) {
	if n := len(text); n > 0 && n <= 19 && (text[0] != '0' || n == 1) {
		if u, err := strconv.ParseUint(text, 10, 63); err == nil {
			return ID(u), nil
		}
	}
	return 0, levee.Invalid("id", "digits alone, from 0 to 9223372036854775807", text)
}

// String returns the decimal form.
func (i ID) String() string { return strconv.FormatInt(int64(i), 10) }

// MarshalJSON writes a string.
func (i ID) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 24), '"')
	b = strconv.AppendInt(b, int64(i), 10)
	return append(b, '"'), nil
}

// UnmarshalJSON reads a string or a number; null leaves the id as it is. CodeInvalid for anything else that Parse would refuse, such as
// 1.0 or 1e3.
func (i *ID) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if n := len(b); n >= 2 && b[0] == '"' && b[n-1] == '"' {
		b = b[1 : n-1]
	}
	return i.UnmarshalText(b)
}

// MarshalText writes the decimal form: for the keys of maps and for parameters of addresses.
func (i ID) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(i), 10), nil }

// UnmarshalText reads what Parse reads.
func (i *ID) UnmarshalText(b []byte) error {
	if len(b) > 40 { // no copy of a huge text for the error
		b = b[:40]
	}
	id, err := Parse(string(b))
	if err == nil {
		*i = id
	}
	return err
}
