// Package speech says in Chinese what the house says in English to those who call it: the texts of errors, and the words of what is allowed.
//
// Rooms write English and know nothing of it: a catalogue (zh.txt) holds for each format of an English text what it is in Chinese, and a finished
// text is recognised by its format. A test reads the source of the rooms and fails for a text that the catalogue does not have.
package speech

import (
	"cmp"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed zh.txt
var chinese string

// Languages are those that are spoken, the usual one first.
var Languages = []string{"en", "zh"}

// maxText bounds a text that is looked up; ours have some hundred bytes.
const maxText = 4096

// template is one format of an English text.
type template struct {
	english, chinese string
	prefix, suffix   string // literal beginning and end of the English text
	literal          int    // bytes that are no verb: the more, the surer the match
	pattern          *regexp.Regexp
}

var catalogue = sync.OnceValue(func() []template {
	all, _, err := parse(chinese)
	if err != nil {
		panic(err) // a bug of this build, seen by the first test that asks for Chinese
	}
	return all
})

// Chinese returns what the English text is in Chinese. Parts of it that the catalogue does not know stay as they are: names, numbers, what
// was given. whole is false when the text itself, or a part that should be said in Chinese, is not known; then English is left in it.
func Chinese(text string) (_ string, whole bool) {
	return say(text, 0)
}

func say(text string, depth int) (string, bool) {
	if text == "" || len(text) > maxText || depth > 3 {
		return text, text == ""
	}
	for _, t := range catalogue() {
		if !strings.HasPrefix(text, t.prefix) || !strings.HasSuffix(text, t.suffix) || len(text) < t.literal {
			continue
		}
		if t.pattern == nil {
			if text == t.english {
				return t.chinese, true
			}
			continue
		}
		m := t.pattern.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		return t.fill(m[1:], depth)
	}
	return text, isNames(text)
}

// isNames reports whether a text is no words but names and numbers, which are the same in every language: application/json, GET, POST.
func isNames(text string) bool {
	for part := range strings.SplitSeq(text, ", ") {
		if strings.Contains(part, " ") {
			return false
		}
	}
	return true
}

var place = regexp.MustCompile(`\{(\d)(t?)\}`)

// fill puts the parts into the Chinese text: {1} as it is, {1t} said in Chinese.
func (t template) fill(parts []string, depth int) (_ string, whole bool) {
	whole = true
	out := place.ReplaceAllStringFunc(t.chinese, func(at string) string {
		part := parts[at[1]-'1']
		if !strings.HasSuffix(at, "t}") {
			return part
		}
		said, ok := say(part, depth+1)
		whole = whole && ok
		return said
	})
	return out, whole
}

// verb is a verb of fmt in a format.
var verb = regexp.MustCompile(`%([#+]?[sdvqxX]|\.\d+f|%)`)

// parse reads a catalogue: an English format, below it the Chinese text, then an empty line. A line that begins with # is a comment; one that
// begins with "- " is a text that no caller is ever told (it is about the configuration, or goes to the log), which stands there so that nobody
// misses it.
func parse(text string) (all []template, untold map[string]bool, err error) {
	untold = map[string]bool{}
	var english string
	seen := map[string]bool{}
	for n, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "- ") && english == "":
			untold[strings.TrimPrefix(line, "- ")] = true
		case line == "" && english != "":
			return nil, nil, fmt.Errorf("line %d: %q has no Chinese text", n+1, english)
		case line == "":
		case english == "":
			if english = line; seen[line] {
				return nil, nil, fmt.Errorf("line %d: %q stands there twice", n+1, line)
			}
			seen[line] = true
		default:
			t, err := compile(english, line)
			if err != nil {
				return nil, nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			all, english = append(all, t), ""
		}
	}
	if english != "" {
		return nil, nil, fmt.Errorf("%q has no Chinese text", english)
	}
	slices.SortStableFunc(all, func(a, b template) int { return cmp.Compare(b.literal, a.literal) })
	return all, untold, nil
}

func compile(english, chinese string) (t template, err error) {
	t = template{english: english, chinese: chinese}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	at, places := 0, 0
	for _, m := range verb.FindAllStringIndex(english, -1) {
		literal := english[at:m[0]]
		b.WriteString(regexp.QuoteMeta(literal))
		t.literal += len(literal)
		if at == 0 {
			t.prefix = literal
		}
		at = m[1]
		switch v := english[m[0]:m[1]]; {
		case v == "%%":
			b.WriteString("%")
			continue
		case v == "%d":
			b.WriteString(`(-?\d+)`)
		case strings.HasSuffix(v, "q"):
			b.WriteString(`("(?:[^"\\]|\\.)*")`)
		case places == 0:
			b.WriteString(`(.*?)`)
		default:
			b.WriteString(`(.*)`)
		}
		places++
	}
	if at == 0 {
		t.prefix, t.suffix, t.literal = english, english, len(english)
	} else {
		t.suffix = english[at:]
		t.literal += len(t.suffix)
		b.WriteString(regexp.QuoteMeta(t.suffix) + `$`)
		if t.pattern, err = regexp.Compile(b.String()); err != nil {
			return t, err
		}
	}
	for _, p := range place.FindAllStringSubmatch(chinese, -1) {
		if n, _ := strconv.Atoi(p[1]); n < 1 || n > places {
			return t, fmt.Errorf("%q has no part %s", english, p[0])
		}
	}
	return t, nil
}
