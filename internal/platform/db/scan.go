package db

import "strings"

// statement is one SQL statement of a text.
type statement struct {
	text   string // without the closing semicolon, comments kept
	verb   string // its first word, upper case
	params int    // number of ? in it; -1 when one has a number (?1)
}

// splitSQL cuts a text into its statements. It knows quotes ('…', "…", `…`, […]) and comments (-- and /* */), which is all
// that SQL without triggers needs. Empty statements are left out.
func splitSQL(text string) []statement {
	var out []statement
	start, params := 0, 0
	verb := ""
	end := func(i int) {
		if verb != "" {
			out = append(out, statement{text: strings.TrimSpace(text[start:i]), verb: verb, params: params})
		}
		start, verb, params = i+1, "", 0
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
				params = -1
			} else if params >= 0 {
				params++
			}
		case isWord(c):
			j := i
			for j < len(text) && isWord(text[j]) {
				j++
			}
			if verb == "" {
				verb = strings.ToUpper(text[i:j])
			}
			i = j
		default:
			if verb == "" && c > ' ' {
				verb = string(c)
			}
			i++
		}
	}
	end(len(text))
	return out
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
