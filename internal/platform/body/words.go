package body

import "strings"

// Worded puts what a schema's checker found wrong into our words: what is allowed.
func Worded(message string) string {
	for _, w := range wordings {
		if rest, ok := strings.CutPrefix(message, w.theirs); ok {
			return w.ours + rest
		}
	}
	return message
}

// wordings are longest first where one begins another.
var wordings = []struct{ theirs, ours string }{
	{"expected string to be RFC 3339 date-time", TimeForm},
	{"expected string to be RFC 3339 date", "a date such as 2026-01-31 (RFC 3339)"},
	{"expected string to be ", ""},
	{"expected string to match pattern ", "a string that matches "},
	{"expected string", "a string"},
	{"expected boolean", "true or false"},
	{"invalid boolean", "true or false"},
	{"expected integer", "an integer"},
	{"invalid integer", "an integer"},
	{"expected number to be a multiple of ", "a multiple of "},
	{"expected number ", "a number "},
	{"expected number", "a number"},
	{"invalid float", "a number"},
	{"expected array items to be unique", "a list without repetitions"},
	{"expected array length ", "a list of length "},
	{"expected array", "a list"},
	{"expected object with ", "an object with "},
	{"expected object", "an object"},
	{"expected value to be ", ""},
	{"expected length ", "of length "},
	{"expected ", ""},
	{"invalid value: ", ""},
}
