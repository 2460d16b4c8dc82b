package obs

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"unicode/utf8"

	"levee"
)

const (
	hidden = "[redacted]"
	// textMax bounds one value in a log line, in bytes. A stack trace fits; a request's body must not.
	textMax = 16 << 10
	// depthMax bounds how deep a logged map or struct is looked into; what lies deeper is hidden.
	depthMax = 16
)

// Secret is a string that prints, logs and encodes as "[redacted]"; only Reveal gives it out. A struct that is printed whole
// must hold it in an exported field: package fmt reads unexported fields without asking their type.
type Secret string

// Reveal returns the secret itself. Its result must not be logged or kept in an error.
func (s Secret) Reveal() string { return string(s) }

// String returns "[redacted]".
func (Secret) String() string { return hidden }

// GoString returns "[redacted]".
func (Secret) GoString() string { return hidden }

// Format writes "[redacted]" for every verb: without it a wrong verb (%d) would print the string.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON returns "[redacted]" as a JSON string.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// Words that make an attribute's key a secret's or a phone number's, wherever they stand in it.
var (
	secretWords = []string{
		"password", "passwd", "passphrase", "token", "secret", "authorization", "cookie", "credential", "apikey", "privatekey",
	}
	phoneWords = []string{"phone", "mobile"}
)

// Redact reports whether the value of a log attribute with this key is never printed: keys about passwords, tokens, secrets,
// authorization, cookies, credentials, API keys and private keys, in any letter case and with any separators
// (Set-Cookie, refreshToken, api_key). Keys about phones are printed, masked to the last four characters.
func Redact(key string) bool { return hasWord(key, secretWords) }

// hasWord reports whether key, with its letters folded to lower case and everything else taken out, contains one of words.
// It is called for each attribute of each line, so it does not allocate for keys of ordinary length.
func hasWord(key string, words []string) bool {
	var room [64]byte
	folded := room[:0]
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z':
			folded = append(folded, c)
		case 'A' <= c && c <= 'Z':
			folded = append(folded, c+'a'-'A')
		}
	}
	for _, w := range words {
		if contains(folded, w) {
			return true
		}
	}
	return false
}

// contains is bytes.Contains with a string as its second argument.
func contains(b []byte, w string) bool {
	for i := 0; i+len(w) <= len(b); i++ {
		if b[i] == w[0] && string(b[i:i+len(w)]) == w {
			return true
		}
	}
	return false
}

// redactAttr is the ReplaceAttr of every log handler: it hides secrets by their key, masks phones and bounds sizes.
func redactAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		switch a.Key {
		case slog.TimeKey, slog.LevelKey:
			return a
		}
	}
	for _, g := range groups {
		if Redact(g) {
			a.Value = slog.StringValue(hidden)
			return a
		}
	}
	if Redact(a.Key) {
		a.Value = slog.StringValue(hidden)
		return a
	}
	if hasWord(a.Key, phoneWords) {
		a.Value = maskValue(a.Value)
		return a
	}
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); len(s) > textMax {
			a.Value = slog.StringValue(levee.Shorten(s, textMax))
		}
	case slog.KindAny:
		a.Value = cleanAny(a.Value)
	}
	return a
}

// consoleAttr is redactAttr for the readable form: whatever is not a plain value becomes one line of text.
func consoleAttr(groups []string, a slog.Attr) slog.Attr {
	a = redactAttr(groups, a)
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(oneLine(a.Value.String()))
	case slog.KindAny:
		if _, ok := a.Value.Any().(slog.Level); !ok {
			a.Value = slog.StringValue(oneLine(plainText(a.Value.Any())))
		}
	}
	return a
}

// plainText returns what people read of a value: an error's text, a type's own text, else JSON or Go's form.
func plainText(v any) (s string) {
	defer func() {
		if p := recover(); p != nil { // a nil pointer inside an interface, mostly; a log line must not end the program
			s = fmt.Sprintf("!PANIC: %v", p)
		}
	}()
	switch x := v.(type) {
	case error:
		return x.Error()
	case encoding.TextMarshaler:
		if b, err := x.MarshalText(); err == nil {
			return string(b)
		}
	case []byte:
		return string(x)
	case map[string]any, []any:
		if b, err := json.Marshal(x); err == nil {
			return string(b)
		}
	}
	return fmt.Sprintf("%+v", v)
}

// oneLine returns s with every control character shown as an escape, so that text from outside can neither begin a line that
// looks like ours nor drive the terminal. The escapes are written \u001b and never \x1b, which the console handler would turn
// back into the character.
func oneLine(s string) string {
	const turnedBack = `\x1b`
	if strings.IndexFunc(s, isControl) < 0 && utf8.ValidString(s) && !strings.Contains(s, turnedBack) {
		return s
	}
	var b strings.Builder
	for _, r := range strings.ReplaceAll(s, turnedBack, `\u001b`) {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case isControl(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// isControl also names the two separators that some terminals and viewers break lines at.
func isControl(r rune) bool { return r < 0x20 || 0x7F <= r && r < 0xA0 || r == 0x2028 || r == 0x2029 }

// cleanAny looks into maps, structs, slices and raw JSON for keys that are hidden. Types that say themselves how they are
// printed are left to do so.
func cleanAny(v slog.Value) slog.Value {
	any := v.Any()
	switch x := any.(type) {
	case nil, *slog.Source:
		return v
	case error:
		if s := plainText(x); len(s) > textMax {
			return slog.StringValue(levee.Shorten(s, textMax))
		}
		return v
	case json.RawMessage:
	case []byte:
		if len(x) > textMax {
			return slog.StringValue(fmt.Sprintf("[%d bytes]", len(x)))
		}
		return v
	case json.Marshaler, encoding.TextMarshaler, fmt.Stringer:
		return v
	}
	switch t := reflect.TypeOf(any); t.Kind() {
	case reflect.Pointer:
		if t.Elem().Kind() != reflect.Struct {
			return v
		}
	case reflect.Map, reflect.Struct, reflect.Slice, reflect.Array, reflect.Interface:
	default:
		return v
	}
	text, err := json.Marshal(any)
	if err != nil {
		return slog.StringValue("!ERROR: " + err.Error())
	}
	if len(text) > textMax {
		return slog.StringValue(fmt.Sprintf("[%d bytes of JSON]", len(text)))
	}
	clean, err := CleanJSON(text)
	if err != nil {
		return slog.StringValue("!ERROR: " + err.Error())
	}
	return slog.AnyValue(clean)
}

// CleanJSON returns what a JSON text holds, with what a log would not print hidden: the values of keys that Redact names, and phone numbers
// but for their last four characters. Numbers are json.Number, so that none loses digits. An error for what is no JSON.
func CleanJSON(text []byte) (any, error) {
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, errors.New("value is not JSON")
	}
	return cleanTree(tree, depthMax), nil
}

// cleanTree hides in a decoded JSON value, which it changes, what redactAttr hides in attributes.
func cleanTree(v any, depth int) any {
	switch x := v.(type) {
	case map[string]any:
		if depth == 0 {
			return hidden
		}
		for k, e := range x {
			switch {
			case Redact(k):
				x[k] = hidden
			case hasWord(k, phoneWords):
				x[k] = maskTree(e)
			default:
				x[k] = cleanTree(e, depth-1)
			}
		}
	case []any:
		if depth == 0 {
			return hidden
		}
		for i, e := range x {
			x[i] = cleanTree(e, depth-1)
		}
	}
	return v
}

// maskValue masks a phone number that is a string or a whole number, and hides anything else.
func maskValue(v slog.Value) slog.Value {
	switch v.Kind() {
	case slog.KindString, slog.KindInt64, slog.KindUint64:
		return slog.StringValue(mask(v.String()))
	case slog.KindAny:
		if r := reflect.ValueOf(v.Any()); r.Kind() == reflect.String {
			return slog.StringValue(mask(r.String()))
		}
	}
	return slog.StringValue(hidden)
}

func maskTree(v any) any {
	switch x := v.(type) {
	case string:
		return mask(x)
	case json.Number:
		return mask(x.String())
	case nil:
		return nil
	}
	return hidden
}

// mask hides all but the last four characters; of four or fewer it shows none.
func mask(s string) string {
	const shown, starsMax = 4, 16
	r := []rune(s)
	if len(r) <= shown {
		return strings.Repeat("*", len(r))
	}
	return strings.Repeat("*", min(len(r)-shown, starsMax)) + string(r[len(r)-shown:])
}
