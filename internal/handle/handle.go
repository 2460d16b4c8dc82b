// Package handle reads what people sign in by: names, phone numbers and passwords. It knows what may be one and which two are the same; it
// knows no accounts.
package handle

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"levee"
)

// The bounds of a name, in characters.
const (
	MinName = 2
	MaxName = 40
)

// reservedNames cannot be taken by sign-up, only given by an administrator: their owner would be believed too easily.
var reservedNames = []string{"admin", "administrator", "root", "system", "levee", "support", "operator", "security", "moderator",
	"help", "staff", "official", "service", "null", "me"}

// ParseName checks a name and returns it without surrounding space, and the key that makes it unique. Names begin with a
// letter, so they cannot be taken for phone numbers, and their letters come from scripts that do not imitate each other.
func ParseName(field, text string) (name, key string, err error) {
	allowed := fmt.Sprintf("%d to %d letters, digits, '.', '_' or '-', beginning with a letter, in one script", MinName, MaxName)
	name = strings.TrimSpace(text)
	n := utf8.RuneCountInString(name)
	if !utf8.ValidString(name) || n < MinName || n > MaxName {
		return "", "", levee.Invalid(field, allowed, text)
	}
	script := ""
	for i, r := range name {
		switch {
		case unicode.IsLetter(r):
			s := scriptOf(r)
			if s == "" || (script != "" && s != script) {
				return "", "", levee.Invalid(field, allowed, text)
			}
			script = s
		case i > 0 && (r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'):
		default:
			return "", "", levee.Invalid(field, allowed, text)
		}
	}
	return name, Fold(name), nil
}

// scriptOf returns the letter's script, one word for those that are written together and look unlike, "" for letters
// that only imitate others (full width, mathematical, modifiers).
func scriptOf(r rune) string {
	switch {
	case r < unicode.MaxASCII:
		return "together"
	case r >= 0xFF00 && r <= 0xFFEF, unicode.Is(unicode.Lm, r), unicode.Is(unicode.Common, r), unicode.Is(unicode.Inherited, r):
		return ""
	case unicode.In(r, unicode.Latin, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Bopomofo):
		return "together"
	}
	for name, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			return name
		}
	}
	return ""
}

// Fold returns the form in which two names are the same: without case, by Unicode's simple folding.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return unicode.ToLower(least)
	}, name)
}

// Reserved reports whether only an administrator gives this key.
func Reserved(key string) bool { return slices.Contains(reservedNames, key) }

// ParsePhone reads a phone number as people write it (+86 138-0013-8000, 0086…, 138 0013 8000 with the default country)
// and returns it in E.164 form.
func ParsePhone(field, text, country string) (string, error) {
	refuse := func() (string, error) {
		return "", levee.Invalid(field, "a phone number of 7 to 15 digits with its country code, such as +8613800138000", Mask(text))
	}
	text = strings.TrimSpace(text)
	if len(text) > 32 {
		return refuse()
	}
	var digits []byte
	plus := false
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			digits = append(digits, c)
		case c == '+' && len(digits) == 0 && !plus:
			plus = true
		case c == ' ' || c == '-' || c == '.' || c == '(' || c == ')':
		default:
			return refuse()
		}
	}
	number := string(digits)
	switch {
	case plus:
	case strings.HasPrefix(number, "00"):
		number = number[2:]
	case number != "":
		number = country + strings.TrimPrefix(number, "0")
	}
	if len(number) < 7 || len(number) > 15 || number[0] == '0' {
		return refuse()
	}
	return "+" + number, nil
}

// Mask leaves the last four characters, for places where the whole is not needed.
func Mask(phone string) string {
	if len(phone) <= 4 {
		return strings.Repeat("*", len(phone))
	}
	return "***" + strings.ToValidUTF8(phone[len(phone)-4:], "")
}

// AllDigits reports whether a text is digits and nothing else.
func AllDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
