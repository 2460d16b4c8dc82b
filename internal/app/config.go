package app

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"levee"
	"levee/internal/admission"
	"levee/internal/catalog"
	"levee/internal/identity"
	"levee/internal/notify"
	"levee/internal/order"
	"levee/internal/payment"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/platform/web"
	"levee/internal/sale"
)

// Config of the whole house: which drivers, and the Config of each package under its own section. The zero value is the
// embedded tier in the folder "data".
type Config struct {
	// Mode sets the drivers of the lines below that are left empty. Only "embedded" exists in this version.
	Mode string
	// Data is the folder that holds everything this process keeps. Default "data".
	Data string
	// DB is where rows live: "sqlite:PATH". Default sqlite:DATA/levee.db.
	DB string
	// Cache, Limit, Gate and Push say where each of these parts keeps its state: "memory:".
	Cache, Limit, Gate, Push string
	// Nodes is how many processes serve this house. More than 1 needs drivers that several processes can share.
	Nodes int
	// Secret is what every key is derived from: 32 bytes in hexadecimal, from LEVEE_SECRET or the file named by
	// LEVEE_SECRET_FILE. Default: made at the first start and kept in DATA/secret. Losing it makes every public id and
	// session void.
	Secret obs.Secret

	Log       obs.Config
	Database  db.Config
	Limits    limit.Config
	Live      push.Config
	HTTP      web.Config
	Identity  identity.Config
	Catalog   catalog.Config
	Order     order.Config
	Payment   payment.Config
	Admission admission.Config
	Sale      sale.Config
	Notify    notify.Config
}

// settledElsewhere are keys of the packages' Config that the house fills itself.
var settledElsewhere = []string{"database.url", "payment.public_url", "payment.sandbox.dir"}

// Keys lists every key of the config file in order, with its type: what config.golden shows and what a typo is checked
// against.
func Keys() []string {
	var keys []string
	walk("", reflect.TypeFor[Config](), func(path string, t reflect.Type) {
		keys = append(keys, path+" "+typeName(t))
	})
	return keys
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

func walk(prefix string, t reflect.Type, visit func(path string, t reflect.Type)) {
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + snake(f.Name)
		switch {
		case !f.IsExported() || slices.Contains(settledElsewhere, path) || f.Type.Kind() == reflect.Func || f.Type.Kind() == reflect.Interface:
		case f.Type.Kind() == reflect.Struct:
			walk(path+".", f.Type, visit)
		default:
			visit(path, f.Type)
		}
	}
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

// ReadConfig reads a config file (none if path is empty) and the environment: LEVEE_SALE__HOLD_FOR=3s is sale.hold_for. Later
// ones win. Unknown keys and values of a wrong type are CodeInvalid and name what is allowed.
func ReadConfig(path string, environ []string) (c Config, err error) {
	k := koanf.New(".")
	if path != "" {
		text, err := os.ReadFile(path)
		if err == nil {
			err = k.Load(rawbytes.Provider(text), toml.Parser())
		}
		if err != nil {
			return c, levee.E(levee.CodeInvalid, "the config file %s cannot be read: %v", filepath.Base(path), err)
		}
		if k.Exists("secret") {
			return c, levee.E(levee.CodeInvalid, "the secret must not stand in the config file: use LEVEE_SECRET or LEVEE_SECRET_FILE")
		}
	}
	secretFile := ""
	err = k.Load(env.Provider(".", env.Opt{
		Prefix:      "LEVEE_",
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(key, value string) (string, any) {
			key = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, "LEVEE_")), "__", ".")
			if key == "secret_file" {
				secretFile = value
				return "", nil
			}
			if key == "password" || key == "token" {
				return "", nil // for the commands that talk to a server
			}
			if strings.Contains(value, ",") {
				return key, strings.Split(value, ",")
			}
			return key, value
		},
	}), nil)
	if err != nil {
		return c, err
	}
	if err := checkKeys(k); err != nil {
		return c, err
	}
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, WeaklyTypedInput: true,
		MatchName:  func(key, field string) bool { return key == snake(field) },
		DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), mapstructure.TextUnmarshallerHookFunc()),
	}})
	if err != nil {
		said := fieldName.ReplaceAllStringFunc(err.Error(), func(name string) string {
			parts := strings.Split(strings.Trim(name, "'"), ".")
			for i := range parts {
				parts[i] = snake(parts[i])
			}
			return strings.Join(parts, ".")
		})
		return c, levee.E(levee.CodeInvalid, "the configuration has a value of the wrong type: %s", strings.Join(strings.Fields(said), " "))
	}
	if secretFile != "" {
		text, err := os.ReadFile(secretFile)
		if err != nil {
			return c, levee.E(levee.CodeInvalid, "LEVEE_SECRET_FILE cannot be read").Because(err)
		}
		c.Secret = obs.Secret(strings.TrimSpace(string(text)))
	}
	return c, c.fill()
}

// fieldName finds the Go fields that the decoder names, to show them as keys.
var fieldName = regexp.MustCompile(`'[A-Z][A-Za-z.]*'`)

// checkKeys names the first unknown key and the one that was probably meant.
func checkKeys(k *koanf.Koanf) error {
	known := map[string]reflect.Type{}
	walk("", reflect.TypeFor[Config](), func(path string, t reflect.Type) { known[path] = t })
	for _, key := range k.Keys() {
		if known[key] != nil {
			continue
		}
		best, far := "", len(key)/2+1
		for name, t := range known {
			if t.Kind() == reflect.Map && strings.HasPrefix(key, name+".") {
				best, far = key, 0
				break
			}
			if d := distance(key, name); d < far || d == far && name < best {
				best, far = name, d
			}
		}
		switch {
		case best == key:
		case best != "":
			return levee.E(levee.CodeInvalid, "unknown config key %q; did you mean %q? (levee config --keys lists all)", key, best)
		default:
			return levee.E(levee.CodeInvalid, "unknown config key %q (levee config --keys lists all)", key)
		}
	}
	return nil
}

// distance is the number of letters to change, add or drop between two words (Wagner and Fischer 1974).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// fill sets defaults and refuses drivers that do not exist or cannot serve so many nodes.
func (c *Config) fill() error {
	if c.Mode == "" {
		c.Mode = "embedded"
	}
	if c.Mode != "embedded" {
		return levee.Invalid("mode", `"embedded"`, c.Mode)
	}
	if c.Data == "" {
		c.Data = "data"
	}
	if c.DB == "" {
		c.DB = "sqlite:" + filepath.Join(c.Data, "levee.db")
	}
	if !strings.HasPrefix(c.DB, "sqlite:") {
		return levee.Invalid("db", `"sqlite:PATH"`, c.DB)
	}
	for _, line := range []struct {
		name  string
		value *string
	}{{"cache", &c.Cache}, {"limit", &c.Limit}, {"gate", &c.Gate}, {"push", &c.Push}} {
		if *line.value == "" {
			*line.value = "memory:"
		}
		if *line.value != "memory:" {
			return levee.Invalid(line.name, `"memory:"`, *line.value)
		}
	}
	if c.Nodes == 0 {
		c.Nodes = 1
	}
	if c.Nodes != 1 {
		return levee.E(levee.CodeInvalid, "nodes is %d, but db = %q can serve one process only", c.Nodes, c.DB)
	}
	if c.HTTP.Addr == "" {
		c.HTTP.Addr = "127.0.0.1:8080"
	}
	if c.HTTP.PublicURL == "" {
		c.HTTP.PublicURL = "http://" + c.HTTP.Addr
	}
	c.Database.URL = c.DB
	c.Payment.PublicURL = c.HTTP.PublicURL
	c.Payment.Sandbox.Dir = filepath.Join(c.Data, "sandbox")
	return nil
}

// Show writes the configuration in force as a config file, secrets redacted.
func (c Config) Show() string {
	var b strings.Builder
	section := ""
	show("", reflect.ValueOf(c), func(path string, v reflect.Value) {
		dir, key, nested := cutLast(path)
		if nested && dir != section {
			section = dir
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		fmt.Fprintf(&b, "%s = %s\n", key, tomlValue(v))
	})
	return b.String()
}

func show(prefix string, v reflect.Value, visit func(path string, v reflect.Value)) {
	t := v.Type()
	var sections []int
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + snake(f.Name)
		switch {
		case !f.IsExported() || slices.Contains(settledElsewhere, path) || f.Type.Kind() == reflect.Func || f.Type.Kind() == reflect.Interface:
		case f.Type.Kind() == reflect.Struct:
			sections = append(sections, i)
		default:
			visit(path, v.Field(i))
		}
	}
	for _, i := range sections {
		show(prefix+snake(t.Field(i).Name)+".", v.Field(i), visit)
	}
}

func cutLast(path string) (dir, key string, nested bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

func tomlValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return fmt.Sprintf("%q", x.String())
	case obs.Secret:
		return `"[redacted]"`
	case []string:
		parts := make([]string, len(x))
		for i, s := range x {
			parts[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case map[string]string:
		parts := make([]string, 0, len(x))
		for k, s := range x {
			parts = append(parts, fmt.Sprintf("%s = %q", k, s))
		}
		slices.Sort(parts)
		return "{ " + strings.Join(parts, ", ") + " }"
	}
	if v.Kind() == reflect.String {
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(v.Interface())
}

// keys derives the house's keys from its secret (HKDF, RFC 5869).
type keys struct{ secret []byte }

func (k keys) derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, k.secret, nil, "levee "+purpose, 32)
}

// openSecret reads the secret, or makes it at the first start.
func (c *Config) openSecret() (keys, error) {
	text := c.Secret.Reveal()
	path := filepath.Join(c.Data, "secret")
	if text == "" {
		read, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			read, err = makeSecret(path)
		}
		if err != nil {
			return keys{}, err
		}
		text = strings.TrimSpace(string(read))
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 32 {
		return keys{}, levee.E(levee.CodeInvalid, "the secret must be 32 bytes in hexadecimal (64 digits)")
	}
	return keys{raw}, nil
}

// makeSecret writes a new secret whole or not at all: a kill in between must not leave an empty file that no start can read.
func makeSecret(path string) ([]byte, error) {
	raw := make([]byte, 32)
	rand.Read(raw)
	text := []byte(hex.EncodeToString(raw) + "\n")
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return text, os.Rename(path+".new", path)
}
