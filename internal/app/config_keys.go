package app

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"

	"levee"
	"levee/internal/platform/obs"
)

// Keys lists every key of the config file in order, with its type: what config.golden shows and what a typo is checked
// against. Each secret has a second key, ending in _file, which names a file that holds it.
func Keys() []string {
	var keys []string
	walk("", reflect.TypeFor[Config](), func(path string, t reflect.Type) {
		keys = append(keys, path+" "+typeName(t))
		if t == reflect.TypeFor[obs.Secret]() {
			keys = append(keys, path+secretFile+" path")
		}
	})
	return keys
}

// secretFile is the end of the key that names a secret's file, and secretFileMax the most bytes of such a file.
const (
	secretFile    = "_file"
	secretFileMax = 4096
)

// readSecrets puts the contents of the files that are named into the secrets themselves; white space at their ends is not part of them.
func readSecrets(k *koanf.Koanf) error {
	for _, key := range k.Keys() {
		path, named := strings.CutSuffix(key, secretFile)
		if !named || typeOfKey(path) != reflect.TypeFor[obs.Secret]() {
			continue
		}
		name := k.String(key)
		k.Delete(key)
		if name == "" { // as in a compose file, for a secret that there is none of
			continue
		}
		if err := readSecret(k, path, name); err != nil {
			return err
		}
	}
	return nil
}

func readSecret(k *koanf.Koanf, path, name string) error {
	if k.String(path) != "" {
		return levee.E(levee.CodeInvalid, "%s and %s are both given: one of them is enough", path, path+secretFile)
	}
	f, e := os.Open(name)
	if e != nil {
		return levee.E(levee.CodeInvalid, "the file that %s names cannot be read", path+secretFile).Because(e)
	}
	defer f.Close()
	text, e := io.ReadAll(io.LimitReader(f, secretFileMax+1))
	switch secret := strings.TrimSpace(string(text)); {
	case e != nil:
		return levee.E(levee.CodeInvalid, "the file that %s names cannot be read", path+secretFile).Because(e)
	case secret == "" || len(text) > secretFileMax:
		return levee.Invalid(path+secretFile, fmt.Sprintf("a file that holds the secret, of at most %d bytes", secretFileMax), name)
	default:
		return k.Set(path, secret)
	}
}

func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[obs.Secret]():
		return "secret"
	}
	return t.String()
}

// anyName stands in a key for the name of a section that the operator names himself.
const anyName = "NAME"

// sameKey reports whether a key that was given is one that walk visits.
func sameKey(visited, given string) bool {
	v, g := strings.Split(visited, "."), strings.Split(given, ".")
	return slices.EqualFunc(v, g, func(a, b string) bool { return a == b || a == anyName })
}

// typeOfKey returns the type of a key that was given, or nil for one that is unknown.
func typeOfKey(given string) (found reflect.Type) {
	walk("", reflect.TypeFor[Config](), func(path string, t reflect.Type) {
		if sameKey(path, given) {
			found = t
		}
	})
	return found
}

func walk(prefix string, t reflect.Type, visit func(path string, t reflect.Type)) {
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + snake(f.Name)
		switch {
		case !f.IsExported() || slices.Contains(settledElsewhere, path) || f.Type.Kind() == reflect.Func || f.Type.Kind() == reflect.Interface:
		case f.Type.Kind() == reflect.Struct:
			walk(path+".", f.Type, visit)
		case sections(f.Type):
			walk(path+"."+anyName+".", f.Type.Elem(), visit)
		default:
			visit(path, f.Type)
		}
	}
}

// sections reports whether a type is sections that the operator names himself.
func sections(t reflect.Type) bool {
	return t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct
}

// snake writes a field's name as a key: PayWithin is pay_within, HTTP is http, CORSOrigins is cors_origins.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		upper := r >= 'A' && r <= 'Z'
		if upper && i > 0 {
			before, after := name[i-1], byte(0)
			if i+1 < len(name) {
				after = name[i+1]
			}
			if before >= 'a' && before <= 'z' || before >= '0' && before <= '9' || after >= 'a' && after <= 'z' && after != 's' {
				b.WriteByte('_')
			}
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
