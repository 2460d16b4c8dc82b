package blob

import (
	"crypto/rand"
	"mime"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"levee"
)

// Key names a file: "avatar/" and 26 random letters and digits (130 bits), for a size of a picture also "." and the size's name. Rooms keep keys
// as text, of at most 80 bytes.
type Key string

// incoming is the use of files that were sent by a Ticket and are not committed.
const incoming = "incoming"

var (
	useForm  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)
	sizeForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)
	keyForm  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}/[a-z2-7]{26}(\.[a-z][a-z0-9]{0,15})?$`)
)

func newID() string { return strings.ToLower(rand.Text()) }

func newKey(use, id string) Key {
	if id == "" {
		id = newID()
	}
	return Key(use + "/" + id)
}

// check is CodeNotFound for what cannot be a key: whoever tries paths learns nothing.
func (k Key) check() error {
	if !keyForm.MatchString(string(k)) {
		return errNotFound()
	}
	return nil
}

// Of returns the key of a picture's size.
func (k Key) Of(size string) Key { return k + Key("."+size) }

func (k Key) use() string  { return k.cut(0) }
func (k Key) id() string   { return k.cut(1) }
func (k Key) size() string { return k.cut(2) }

func (k Key) cut(part int) string {
	use, rest, _ := strings.Cut(string(k), "/")
	id, size, _ := strings.Cut(rest, ".")
	return [...]string{use, id, size}[part]
}

const (
	plainText  = "text/plain"
	nameRunes  = 100
	attachment = "attachment"
)

// known are the media types that bytes can be known by (WHATWG MIME Sniffing, as net/http has it), with the endings of their names.
var known = map[string][]string{
	"image/jpeg": {".jpg", ".jpeg"}, "image/png": {".png"}, "image/gif": {".gif"}, "image/webp": {".webp"},
	"application/pdf": {".pdf"}, "application/zip": {".zip"}, "application/x-gzip": {".gz"}, plainText: {".txt"},
	"video/mp4": {".mp4"}, "video/webm": {".webm"}, "audio/mpeg": {".mp3"}, "audio/wave": {".wav"}, "application/ogg": {".ogg"},
}

// Pictures returns the types that browsers may show in a page: they hold no script. SVG and HTML do.
func Pictures() []string { return []string{"image/jpeg", "image/png", "image/webp", "image/gif"} }

// Known returns the types that a Use may take, in order.
func Known() (types []string) {
	for t := range known {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}

// cleanName makes a name from outside fit for a header and for anybody's disk: its last part, without control characters, marks that turn the
// direction of writing, and what systems keep for themselves, at most 100 characters, with an ending that fits the type.
func cleanName(name, media string) string {
	name = strings.ToValidUTF8(name, "")
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) || strings.ContainsRune(`<>:"|?*%`, r) {
			return -1
		}
		return r
	}, name)
	name = strings.Trim(name, ". ")
	for utf8.RuneCountInString(name) > nameRunes {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	if name == "" {
		return ""
	}
	endings := known[media]
	fits := func(e string) bool { return strings.HasSuffix(strings.ToLower(name), e) }
	if len(endings) > 0 && !slices.ContainsFunc(endings, fits) {
		name += endings[0]
	}
	return name
}

// disposition is the Content-Disposition of an object: what is no picture is never shown in a page.
func disposition(o Object) string {
	d := attachment
	if slices.Contains(Pictures(), o.Type) {
		d = "inline"
	}
	if o.Name == "" {
		return d
	}
	return mime.FormatMediaType(d, map[string]string{"filename": o.Name})
}

// ParseKey reads a key from outside. CodeNotFound when it cannot be one.
func ParseKey(text string) (Key, error) {
	k := Key(levee.Shorten(text, 200))
	return k, k.check()
}
