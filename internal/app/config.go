package app

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
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
	"levee/internal/factor"
	"levee/internal/federation"
	"levee/internal/gate"
	"levee/internal/identity"
	"levee/internal/lend"
	"levee/internal/notify"
	"levee/internal/order"
	"levee/internal/payment"
	"levee/internal/phone"
	"levee/internal/platform/blob"
	"levee/internal/platform/bridge"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/limit"
	"levee/internal/platform/lock"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
	"levee/internal/platform/push"
	"levee/internal/platform/redis"
	"levee/internal/platform/web"
	"levee/internal/sale"
	"levee/internal/token"
	"levee/internal/trail"
)

// Config of the whole house: which drivers, and the Config of each package under its own section. The zero value is the
// embedded tier in the folder "data".
type Config struct {
	// Mode says on what the house stands: "embedded" (default) is one process that keeps everything in itself and its folder;
	// "distributed" is any number of processes with MySQL and Redis, and then DB, Redis and Secret must be given.
	Mode string
	// Data is the folder that holds everything this process keeps. Default "data".
	Data string
	// DB is where rows live: "sqlite:PATH", or "mysql://USER@HOST:PORT/DATABASE" for MySQL or MariaDB, whose password is
	// database.password. Default sqlite:DATA/levee.db.
	DB string
	// Redis names the one Redis of all parts that use it: "redis://HOST:PORT", "redis+sentinel://HOST:PORT,…/MASTER" or
	// "redis+cluster://HOST:PORT,…"; rediss for TLS. Its password is redis_server.password. Default: none.
	Redis string
	// Limit, Gate and Push say where each of these parts keeps its state: "memory:" (default, embedded) or "redis:" (default,
	// distributed). With mode "distributed" all are in Redis, and Gate is there only.
	Limit, Gate, Push string
	// Blob is where uploaded files are kept: "file:PATH", a folder; "s3:", the S3-compatible store that files.s3 names; or "none:". Default:
	// file:DATA/files with mode "embedded"; with mode "distributed" s3: where files.s3.endpoint is given, else none:. A folder serves several
	// nodes only where it is on a file system that is one for all of them.
	Blob string
	// IDs says where worker numbers of ids are claimed: "file:" (default, embedded: in DATA/id), "sql:" (default, distributed), "redis:" or
	// "etcd://[USER@]HOST:PORT,…" (etcds for TLS). With mode "distributed" it is the same on all nodes, and not "file:". It must not change
	// while a node runs; after a change the house must have been still for two minutes. docs/ids.md weighs them.
	IDs string
	// Locks says where the locks are that lend gives to other programs: "sql:" (default, embedded), "redis:" (default, distributed), "etcd://…" as
	// with ids, or, embedded, "memory:", which forgets them with the process. A change forgets who holds. docs/locks.md weighs them.
	Locks string
	// GateBuckets is over how many masters of a Redis cluster each sale's gate is spread, 1 to 16. Default 1, which is right below some 100,000
	// attempts a second at one sale. A sale that is loaded keeps its number until it is loaded again.
	GateBuckets int
	// Role is what this node does: "all" (default); "web", which answers requests and leaves events, jobs and webhooks to others; or
	// "worker", which does those, keeps no waiting room and is meant to get no visitors, so that their crowd does not slow it down. A worker
	// listens all the same: for health, metrics and other nodes. With mode "embedded" the one node does all. Nodes that are all "web" leave
	// payments unconfirmed, orders unexpired and webhooks unsent; nodes that are all "worker" let nobody into a waiting room.
	Role string
	// Secret is what every key is derived from: 32 bytes in hexadecimal, from LEVEE_SECRET or the file named by
	// LEVEE_SECRET_FILE, the same on all nodes. Default, embedded only: made at the first start and kept in DATA/secret. Losing
	// it makes every public id and session void.
	Secret obs.Secret

	Log         obs.Config
	Node        node.Config
	Database    db.Config
	RedisServer redis.Config
	Etcd        id.EtcdConfig
	Limits      limit.Config
	Live        push.Config
	Files       blob.Config
	Event       event.Config
	Bridge      bridge.Config
	HTTP        web.Config
	Token       token.Config
	Trail       trail.Config
	Identity    identity.Config
	Phone       phone.Config
	Federation  federation.Config
	Factor      factor.Config
	Catalog     catalog.Config
	Order       order.Config
	Payment     payment.Config
	Admission   admission.Config
	Sale        sale.Config
	Notify      notify.Config
	Lend        lend.Config
	Lock        lock.Config
}

// distributed reports whether other processes may serve the same house.
func (c *Config) distributed() bool { return c.Mode == "distributed" }

// settledElsewhere are keys of the packages' Config that the house fills itself.
var settledElsewhere = []string{"database.url", "database.run_twice", "database.read_replicas", "redis_server.url", "etcd.url", "node.version", "payment.public_url", "payment.sandbox.dir"}

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
	err = k.Load(env.Provider(".", env.Opt{
		Prefix:      "LEVEE_",
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(key, value string) (string, any) {
			key = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, "LEVEE_")), "__", ".")
			if key == "password" || key == "token" || strings.HasPrefix(key, "test_") {
				return "", nil // for the commands that talk to a server, and for tests
			}
			if strings.Contains(value, ",") && !oneValue(key) {
				return key, strings.Split(value, ",")
			}
			return key, value
		},
	}), nil)
	if err != nil {
		return c, err
	}
	if err := readSecrets(k); err != nil {
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
	return c, c.fill()
}

// oneValue reports whether a key's commas in the environment are its own: addresses of several servers, and secrets.
func oneValue(key string) bool {
	t := typeOfKey(key)
	return t != nil && t.Kind() == reflect.String
}

// fieldName finds the Go fields that the decoder names, to show them as keys.
var fieldName = regexp.MustCompile(`'[A-Z][A-Za-z.]*'`)

// checkKeys names the first unknown key and the one that was probably meant.
func checkKeys(k *koanf.Koanf) error {
	known := map[string]reflect.Type{}
	walk("", reflect.TypeFor[Config](), func(path string, t reflect.Type) { known[path] = t })
	for _, key := range k.Keys() {
		if typeOfKey(key) != nil {
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
	if c.Mode != "embedded" && c.Mode != "distributed" {
		return levee.Invalid("mode", `"embedded" or "distributed"`, c.Mode)
	}
	if c.Role == "" {
		c.Role = "all"
	}
	if !slices.Contains([]string{"all", "web", "worker"}, c.Role) || c.Role != "all" && !c.distributed() {
		return levee.Invalid("role", `"all", or with mode = "distributed" also "web" and "worker"`, c.Role)
	}
	if c.Data == "" {
		c.Data = "data"
	}
	if c.DB == "" && c.Mode == "embedded" {
		c.DB = "sqlite:" + filepath.Join(c.Data, "levee.db")
	}
	switch mysql := strings.HasPrefix(c.DB, "mysql:"); {
	case c.Mode == "distributed" && !mysql:
		return levee.Invalid("db", `"mysql://USER@HOST:PORT/DATABASE" with mode = "distributed"`, withoutPassword(c.DB))
	case c.Mode == "embedded" && !strings.HasPrefix(c.DB, "sqlite:"):
		return levee.Invalid("db", `"sqlite:PATH" with mode = "embedded" (the default), or mode = "distributed" for a MySQL server`, withoutPassword(c.DB))
	case c.distributed() && c.Redis == "":
		return levee.Invalid("redis", `"redis://HOST:PORT", "redis+sentinel://…" or "redis+cluster://…" with mode = "distributed"`, c.Redis)
	case c.distributed() && c.Secret == "":
		return levee.E(levee.CodeInvalid, "with mode = \"distributed\" the secret must be given, the same on all nodes: LEVEE_SECRET or LEVEE_SECRET_FILE "+
			"(32 bytes in hexadecimal, as from: openssl rand -hex 32)")
	}
	c.RedisServer.URL = c.Redis
	if c.Redis != "" {
		if err := c.RedisServer.Validate(); err != nil {
			return err
		}
	}
	// What each line may say with either mode, the default first. In one process's memory or folder the other nodes would not know of it;
	// the gate of one process has nobody to be shared with.
	const etcd = "etcd://HOST:PORT,…"
	for _, line := range []struct {
		name                  string
		value                 *string
		embedded, distributed []string
	}{
		{"limit", &c.Limit, []string{"memory:", "redis:"}, []string{"redis:"}},
		{"gate", &c.Gate, []string{"memory:"}, []string{"redis:"}},
		{"push", &c.Push, []string{"memory:", "redis:"}, []string{"redis:"}},
		{"ids", &c.IDs, []string{"file:", "sql:", "redis:", etcd}, []string{"sql:", "redis:", etcd}},
		{"locks", &c.Locks, []string{"sql:", "memory:", "redis:", etcd}, []string{"redis:", "sql:", etcd}},
	} {
		allowed := line.embedded
		if c.distributed() {
			allowed = line.distributed
		}
		if *line.value == "" {
			*line.value = allowed[0]
		}
		switch kind := *line.value; {
		case isEtcd(kind) && slices.Contains(allowed, etcd):
		case !slices.Contains(allowed, kind):
			return levee.Invalid(line.name, fmt.Sprintf("%q with mode = %q", allowed, c.Mode), withoutPassword(kind))
		case kind == "redis:" && c.Redis == "":
			return levee.E(levee.CodeInvalid, "%s is kept in Redis, but the line redis does not say where that is", line.name)
		}
	}
	if isEtcd(c.Locks) && isEtcd(c.IDs) && c.Locks != c.IDs {
		return levee.Invalid("locks", "the same etcd as ids has", withoutPassword(c.Locks))
	}
	if err := c.fillBlob(); err != nil {
		return err
	}
	if err := c.Lend.Validate(); err != nil {
		return err
	}
	if c.GateBuckets == 0 {
		c.GateBuckets = 1
	}
	if most := gate.BucketsMax; c.GateBuckets < 1 || c.GateBuckets > most || c.GateBuckets > 1 && !c.distributed() {
		return levee.Invalid("gate_buckets", fmt.Sprintf("1, or with mode = \"distributed\" up to %d", most), c.GateBuckets)
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

// folderOf begins the driver line of a folder.
const folderOf = "file:"

// fillBlob chooses where files are kept.
func (c *Config) fillBlob() error {
	switch {
	case c.Blob != "":
	case !c.distributed():
		c.Blob = folderOf + filepath.Join(c.Data, "files")
	case c.Files.S3.Endpoint != "":
		c.Blob = "s3:"
	default:
		c.Blob = "none:"
	}
	if c.Blob != "s3:" && c.Blob != "none:" && (!strings.HasPrefix(c.Blob, folderOf) || c.Blob == folderOf) {
		return levee.Invalid("blob", `"file:PATH", "s3:" or "none:"`, c.Blob)
	}
	return nil
}

// isEtcd reports whether a line names an etcd.
func isEtcd(line string) bool {
	return strings.HasPrefix(line, "etcd://") || strings.HasPrefix(line, "etcds://")
}

// withoutPassword drops what may be a password from an address that somebody put one into.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that cannot be read"
	}
	return u.Redacted()
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
	var inner []int
	for i := range t.NumField() {
		f := t.Field(i)
		path := prefix + snake(f.Name)
		switch {
		case !f.IsExported() || slices.Contains(settledElsewhere, path) || f.Type.Kind() == reflect.Func || f.Type.Kind() == reflect.Interface:
		case f.Type.Kind() == reflect.Struct || sections(f.Type):
			inner = append(inner, i)
		default:
			visit(path, v.Field(i))
		}
	}
	for _, i := range inner {
		path := prefix + snake(t.Field(i).Name) + "."
		if !sections(t.Field(i).Type) {
			show(path, v.Field(i), visit)
			continue
		}
		for _, name := range slices.SortedFunc(slices.Values(v.Field(i).MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			show(path+name.String()+".", v.Field(i).MapIndex(name), visit)
		}
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
