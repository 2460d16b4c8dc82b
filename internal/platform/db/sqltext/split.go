// Package sqltext reads SQL and values as both engines of platform/db need them: it cuts a text into statements and turns what rooms
// hand over into what drivers take. It runs nothing.
package sqltext

import "strings"

// Statement is one SQL statement of a text.
type Statement struct {
	Text   string // without the closing semicolon, comments kept
	Verb   string // its first word, upper case
	Params int    // number of ? in it; -1 when one has a number (?1)

	Returning  bool // has the word RETURNING
	Locking    bool // locks what it reads: FOR UPDATE, FOR SHARE, LOCK IN SHARE MODE
	OrRollback bool // has OR ROLLBACK or ON CONFLICT ROLLBACK
}

// Split cuts a text into its statements. It knows quotes ('…', "…", `…`, […]) and comments (-- and /* */), which is all
// that SQL without triggers needs. Empty statements are left out.
func Split(text string) []Statement {
	var out []Statement
	var st Statement
	start, before := 0, ""
	end := func(i int) {
		if st.Verb != "" {
			st.Text = strings.TrimSpace(text[start:i])
			out = append(out, st)
		}
		start, before, st = i+1, "", Statement{}
	}
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ';':
			end(i)
			i++
		case c == '\'' || c == '"' || c == '`':
			i = SkipTo(text, i+1, string(c))
		case c == '[':
			i = SkipTo(text, i+1, "]")
		case strings.HasPrefix(text[i:], "--"):
			i = SkipTo(text, i+2, "\n")
		case strings.HasPrefix(text[i:], "/*"):
			i = SkipTo(text, i+2, "*/")
		case c == '?':
			i++
			if i < len(text) && text[i] >= '0' && text[i] <= '9' {
				st.Params = -1
			} else if st.Params >= 0 {
				st.Params++
			}
		case strings.HasPrefix(text[i:], "\ufeff"): // white space to SQLite
			i += len("\ufeff")
		case IsWord(c):
			j := i
			for j < len(text) && IsWord(text[j]) && !strings.HasPrefix(text[j:], "\ufeff") {
				j++
			}
			st.word(text[i:j], before)
			before, i = text[i:j], j
		default:
			if st.Verb == "" && c > ' ' {
				st.Verb = string(c)
			}
			i++
		}
	}
	end(len(text))
	return out
}

// word notes one bare word and what stood before it.
func (s *Statement) word(w, before string) {
	if s.Verb == "" {
		s.Verb = strings.ToUpper(w)
	}
	switch {
	case strings.EqualFold(w, "RETURNING"):
		s.Returning = true
	case strings.EqualFold(before, "FOR") && (strings.EqualFold(w, "UPDATE") || strings.EqualFold(w, "SHARE")),
		strings.EqualFold(before, "LOCK") && strings.EqualFold(w, "IN"):
		s.Locking = true
	case strings.EqualFold(w, "ROLLBACK"):
		s.OrRollback = s.OrRollback || strings.EqualFold(before, "OR") || strings.EqualFold(before, "CONFLICT")
	}
}

// SkipTo returns the index behind the next end in text from i on, or len(text).
func SkipTo(text string, i int, end string) int {
	if j := strings.Index(text[i:], end); j >= 0 {
		return i + j + len(end)
	}
	return len(text)
}

// IsWord reports whether a byte may stand in a bare word.
func IsWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
