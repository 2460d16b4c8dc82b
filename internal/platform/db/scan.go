package db

import "strings"

// statement is one SQL statement of a text.
type statement struct {
	text   string // without the closing semicolon, comments kept
	verb   string // its first word, upper case
	params int    // number of ? in it; -1 when one has a number (?1)

	returning  bool // has the word RETURNING
	orRollback bool // has OR ROLLBACK or ON CONFLICT ROLLBACK
}

// splitSQL cuts a text into its statements. It knows quotes ('…', "…", `…`, […]) and comments (-- and /* */), which is all
// that SQL without triggers needs. Empty statements are left out.
func splitSQL(text string) []statement {
	var out []statement
	var st statement
	start, before := 0, ""
	end := func(i int) {
		if st.verb != "" {
			st.text = strings.TrimSpace(text[start:i])
			out = append(out, st)
		}
		start, before, st = i+1, "", statement{}
	}
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ';':
			end(i)
			i++
		case c == '\'' || c == '"' || c == '`':
			i = skipTo(text, i+1, string(c))
		case c == '[':
			i = skipTo(text, i+1, "]")
		case strings.HasPrefix(text[i:], "--"):
			i = skipTo(text, i+2, "\n")
		case strings.HasPrefix(text[i:], "/*"):
			i = skipTo(text, i+2, "*/")
		case c == '?':
			i++
			if i < len(text) && text[i] >= '0' && text[i] <= '9' {
				st.params = -1
			} else if st.params >= 0 {
				st.params++
			}
		case strings.HasPrefix(text[i:], "\ufeff"): // white space to SQLite
			i += len("\ufeff")
		case isWord(c):
			j := i
			for j < len(text) && isWord(text[j]) && !strings.HasPrefix(text[j:], "\ufeff") {
				j++
			}
			st.word(text[i:j], before)
			before, i = text[i:j], j
		default:
			if st.verb == "" && c > ' ' {
				st.verb = string(c)
			}
			i++
		}
	}
	end(len(text))
	return out
}

// word notes one bare word and what stood before it.
func (s *statement) word(w, before string) {
	if s.verb == "" {
		s.verb = strings.ToUpper(w)
	}
	switch {
	case strings.EqualFold(w, "RETURNING"):
		s.returning = true
	case strings.EqualFold(w, "ROLLBACK"):
		s.orRollback = s.orRollback || strings.EqualFold(before, "OR") || strings.EqualFold(before, "CONFLICT")
	}
}

// skipTo returns the index behind the next end in text from i on, or len(text).
func skipTo(text string, i int, end string) int {
	if j := strings.Index(text[i:], end); j >= 0 {
		return i + j + len(end)
	}
	return len(text)
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
