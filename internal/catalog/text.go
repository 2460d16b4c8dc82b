package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"levee"
)

// A check returns the value as it will be kept and, when it is refused, what would be allowed. Requests and import lines
// share these, so that a page and a file are held to the same rules.

// checkCode wants the shop's own name of a thing: one line, no blanks around it.
func checkCode(s string) (kept, allowed string) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > MaxCode || !plain(s, false) {
		return s, fmt.Sprintf("1 to %d bytes of UTF-8 text without control characters", MaxCode)
	}
	return s, ""
}

// checkLine wants one line of min to max characters. Blanks around it are dropped.
func checkLine(s string, least, most int) (kept, allowed string) {
	s = strings.TrimSpace(s)
	if n := utf8.RuneCountInString(s); n < least || n > most || !plain(s, false) {
		return s, fmt.Sprintf("%d to %d characters of UTF-8 text without control characters", least, most)
	}
	return s, ""
}

// checkDescription wants text of several lines. Line ends become \n, so that a spreadsheet cannot change a text by saving it.
func checkDescription(s string) (kept, allowed string) {
	if strings.IndexByte(s, '\r') >= 0 {
		s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	}
	if len(s) > MaxDescription || !plain(s, true) {
		return s, fmt.Sprintf("at most %d bytes of UTF-8 text without control characters other than line ends and tabs", MaxDescription)
	}
	return s, ""
}

func checkPrice(minor int64) (allowed string) {
	if minor < 0 || minor > MaxPrice {
		return fmt.Sprintf("a whole number of minor units, 0 to %d", int64(MaxPrice))
	}
	return ""
}

func checkCurrency(s string) (allowed string) {
	if len(s) == 3 && isUpper(s[0]) && isUpper(s[1]) && isUpper(s[2]) {
		return ""
	}
	return "an ISO 4217 code of three capital letters"
}

func checkOnHand(n int64) (allowed string) {
	if n < 0 || n > MaxOnHand {
		return fmt.Sprintf("a whole number of units, 0 to %d", MaxOnHand)
	}
	return ""
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

// plain reports whether s is valid UTF-8 without control characters; several lines may hold line ends and tabs.
func plain(s string, lines bool) bool {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		}
		if unicode.IsControl(r) && !(lines && (r == '\n' || r == '\t')) {
			return false
		}
	}
	return true
}

// shown makes what was given fit to be shown: short, and without bytes that a terminal or a log would act upon.
func shown(s string) string {
	s = levee.Shorten(s, 60)
	if plain(s, false) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// titleKey is what a title is looked up by: letter case does not matter.
func titleKey(title string) string { return strings.ToLower(title) }

// refuse turns a check's answer into an error about the field; nil when nothing is wrong.
func refuse(field, allowed, given string) error {
	if allowed == "" {
		return nil
	}
	return levee.Invalid(field, allowed, shown(given))
}
