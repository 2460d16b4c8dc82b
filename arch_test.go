package levee_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The house's walls, as docs/house.md draws them. A change that needs a new arrow adds it here, where a reader sees it.

// arrows lists for each room and part what it may import on its own floor.
var arrows = map[string][]string{
	"internal/foreign":   {},
	"internal/handle":    {},
	"internal/token":     {},
	"internal/trail":     {},
	"internal/identity":  {"internal/foreign", "internal/handle", "internal/token", "internal/trail"},
	"internal/phone":     {"internal/handle", "internal/identity", "internal/trail"},
	"internal/catalog":   {},
	"internal/order":     {"internal/catalog"},
	"internal/payment":   {"internal/order"},
	"internal/gate":      {},
	"internal/admission": {},
	"internal/tally":     {},
	"internal/lend":      {},
	"internal/books":     {},
	"internal/terms":     {"internal/admission"},
	"internal/follow":    {"internal/gate"},
	"internal/recall":    {"internal/gate"},
	"internal/sale": {"internal/admission", "internal/books", "internal/catalog", "internal/follow", "internal/gate", "internal/order",
		"internal/recall", "internal/tally", "internal/terms"},
	"internal/throttle":   {},
	"internal/access":     {"internal/identity"},
	"internal/federation": {"internal/foreign", "internal/identity", "internal/trail"},
	"internal/factor":     {"internal/handle", "internal/identity", "internal/trail"},
	"internal/ops":        {},
	"internal/plan":       {"internal/admission", "internal/catalog", "internal/sale"},
	"internal/line":       {"internal/order", "internal/sale"},
	"internal/notify":     {"internal/identity", "internal/line", "internal/order", "internal/sale", "internal/trail"},

	"ui":     {},
	"client": {},

	"internal/phone/smstest": {},

	"internal/wire":     {},
	"internal/plot":     {},
	"internal/report":   {"internal/plot"},
	"internal/rehearse": {"internal/report", "internal/wire"},

	"internal/platform/obs":          {},
	"internal/platform/backends":     {},
	"internal/platform/redis":        {"internal/platform/obs"},
	"internal/platform/db":           {"internal/platform/db/bastion", "internal/platform/db/mysqlconn", "internal/platform/db/sqltext", "internal/platform/obs"},
	"internal/platform/db/mysqlconn": {"internal/platform/db/sqltext", "internal/platform/obs"},
	"internal/platform/db/sqltext":   {},
	"internal/platform/db/bastion":   {},
	"internal/platform/id":           {"internal/platform/db", "internal/platform/filelock", "internal/platform/obs", "internal/platform/redis"},
	"internal/platform/cache":        {"internal/platform/obs", "internal/platform/redis"},
	"internal/platform/limit":        {"internal/platform/obs", "internal/platform/redis"},
	"internal/platform/lock":         {"internal/platform/db", "internal/platform/obs", "internal/platform/redis"},
	"internal/platform/blob":         {"internal/platform/obs"},
	"internal/platform/count":        {"internal/platform/db", "internal/platform/obs", "internal/platform/redis"},
	"internal/platform/binlog":       {"internal/platform/cache", "internal/platform/db", "internal/platform/obs"},
	"internal/platform/push":         {"internal/platform/obs", "internal/platform/redis"},
	"internal/platform/node":         {"internal/platform/db", "internal/platform/obs"},
	"internal/platform/event":        {"internal/platform/db", "internal/platform/id", "internal/platform/obs"},
	"internal/platform/job":          {"internal/platform/db", "internal/platform/id", "internal/platform/obs"},
	"internal/platform/flow":         {"internal/platform/db", "internal/platform/id", "internal/platform/job", "internal/platform/obs"},
	"internal/platform/body":         {"internal/platform/obs"},
	"internal/platform/header":       {},
	"internal/platform/speech":       {},
	"internal/platform/patch":        {},
	"internal/platform/origin":       {},
	"internal/platform/once":         {"internal/platform/db"},
	"internal/platform/problem":      {"internal/platform/body", "internal/platform/header", "internal/platform/speech"},
	"internal/platform/listen":       {},
	"internal/platform/docpage":      {},
	"internal/platform/when":         {},
	"internal/platform/contract":     {},
	"internal/platform/permit":       {},
	"internal/platform/schedule":     {"internal/platform/db", "internal/platform/job", "internal/platform/obs", "internal/platform/when"},
	"internal/platform/web": {"internal/platform/body", "internal/platform/cache", "internal/platform/db", "internal/platform/docpage", "internal/platform/header",
		"internal/platform/limit", "internal/platform/listen", "internal/platform/obs", "internal/platform/once", "internal/platform/origin", "internal/platform/patch",
		"internal/platform/permit", "internal/platform/problem", "internal/platform/speech"},
	"internal/platform/listing": {"internal/platform/db", "internal/platform/web"},
	"internal/platform/bridge": {"internal/platform/bridge/broker", "internal/platform/db", "internal/platform/event", "internal/platform/id",
		"internal/platform/obs"},
	"internal/platform/bridge/broker": {"internal/platform/obs"},
	"internal/platform/platformtest": {"internal/platform/backends", "internal/platform/db", "internal/platform/event", "internal/platform/id", "internal/platform/job",
		"internal/platform/limit", "internal/platform/obs", "internal/platform/once", "internal/platform/push", "internal/platform/redis", "internal/platform/web"},
}

// tools speak to a house over HTTP only: they import nothing of it but the words, and each other along the arrows.
var tools = []string{"internal/wire", "internal/plot", "internal/report", "internal/rehearse"}

// floor of a package: arrows point down.
func floor(dir string) int {
	switch {
	case dir == ".":
		return 0
	case strings.HasPrefix(dir, "internal/platform/"):
		return 1
	case dir == "ui", dir == "client":
		return 1
	case dir == "internal/app" || dir == "internal/app/apptest" || slices.Contains(tools, dir):
		return 3
	case strings.HasPrefix(dir, "internal/"):
		return 2
	case strings.HasPrefix(dir, "cmd/"), strings.HasPrefix(dir, "test/"), strings.HasPrefix(dir, "tools/"), strings.HasPrefix(dir, "examples/"),
		dir == "deploy":
		return 4
	}
	return -1
}

// fence keeps an import to the files that match one of the patterns.
type fence struct {
	imports string
	allowed []string
	why     string
}

var fences = []fence{
	{"database/sql", []string{"internal/platform/db/*.go", "internal/platform/db/mysqlconn/*.go", "internal/platform/backends/*.go", "test/peers/jobs/river.go"}, "rows are reached through platform/db alone"},
	{"github.com/mattn/go-sqlite3", []string{"internal/platform/db/*.go"}, "one place chooses the engine"},
	{"modernc.org/sqlite", []string{"internal/platform/db/*.go", "test/peers/jobs/river.go"}, "one place chooses the engine"},
	{"net/http", []string{"internal/platform/web/*.go", "internal/platform/docpage/*.go", "internal/platform/origin/*.go", "internal/platform/problem/*.go", "internal/platform/listing/http.go", "internal/platform/push/*.go", "internal/platform/blob/*.go", "internal/platform/backends/*.go", "internal/platform/obs/*.go", "internal/platform/contract/*.go", "internal/app/*.go",
		"internal/app/apptest/*.go", "client/*.go", "internal/rehearse/*.go", "internal/wire/*.go", "cmd/*/*.go", "test/*/*.go", "test/peers/*/*.go", "tools/*/*.go", "internal/*/http*.go", "ui/*.go", "internal/*/gateway_*.go", "internal/phone/smstest/*.go",
		"*_test.go"}, "rules know no HTTP; it stands in http*.go"},
	{"github.com/danielgtaylor/huma/v2", []string{"internal/platform/web/*.go"}, "rooms speak web.Add, so that the library can be replaced"},
	{"github.com/evanphx/json-patch/v5", []string{"internal/platform/patch/*.go"}, "one reader of patches"},
	{"github.com/maypok86/otter/v2", []string{"internal/platform/cache/*.go", "test/peers/cache/*.go"}, "one cache"},
	{"levee/internal/platform/platformtest", []string{"*_test.go", "internal/app/apptest/*.go"}, "test helpers stay in tests"},
	{"levee/internal/phone/smstest", []string{"*_test.go"}, "test helpers stay in tests"},
	{"levee/internal/app/apptest", []string{"*_test.go", "test/*/*.go"}, "test helpers stay in tests"},
	{"levee/internal/platform/contract", []string{"*_test.go", "internal/app/apptest/*.go"}, "test helpers stay in tests"},
	{"github.com/go-webauthn/webauthn/webauthn", []string{"internal/factor/passkey.go"}, "one place speaks to authenticators"},
	{"github.com/go-webauthn/webauthn/protocol", []string{"internal/factor/passkey.go"}, "one place speaks to authenticators"},
	{"github.com/santhosh-tekuri/jsonschema/v6", []string{"internal/platform/contract/*.go"}, "schemas are judged in one place, in tests"},
	{"levee/internal/platform/backends", []string{"*_test.go", "deploy/*.go", "internal/platform/platformtest/*.go", "tools/*/*.go", "test/*/*.go", "test/peers/*/*.go"}, "servers for tests stay in tests"},
	{"github.com/go-sql-driver/mysql", []string{"internal/platform/db/*.go", "internal/platform/db/mysqlconn/*.go", "internal/platform/backends/*.go"}, "one place chooses the engine"},
	{"golang.org/x/crypto/ssh", []string{"internal/platform/db/bastion/*.go", "internal/platform/backends/*.go"}, "one tunnel, to the database"},
	{"golang.org/x/crypto/ssh/knownhosts", []string{"internal/platform/db/bastion/*.go"}, "one tunnel, to the database"},
	{"github.com/redis/go-redis/v9", []string{"internal/platform/redis/*.go", "internal/*/*_redis.go", "internal/platform/*/*_redis.go", "internal/platform/bridge/broker/redis.go", "test/peers/*/*.go", "*_test.go"}, "one Redis, opened in one place"},
	{"github.com/go-redsync/redsync/v4", []string{"internal/platform/lock/*_redis.go", "test/peers/*/*.go"}, "one driver of locks"},
	{"go.etcd.io/etcd/client/v3", []string{"internal/*/*_etcd.go", "internal/platform/*/*_etcd.go", "internal/platform/*/*/*_etcd.go", "test/peers/*/*.go", "*_test.go"}, "what needs etcd stands apart, so that who does not use it does not link it"},
	{"github.com/anishathalye/porcupine", []string{"*_test.go"}, "the checker of histories is for tests"},
	{"github.com/minio/minio-go/v7", []string{"internal/platform/blob/*.go"}, "one client of S3"},
	{"golang.org/x/image/draw", []string{"internal/platform/blob/*.go"}, "pictures are made smaller in one place, within its limits"},
	{"github.com/go-mysql-org/go-mysql/client", []string{"internal/platform/binlog/*.go"}, "one follower of the binary log"},
	{"github.com/go-mysql-org/go-mysql/mysql", []string{"internal/platform/binlog/*.go"}, "one follower of the binary log"},
	{"github.com/go-mysql-org/go-mysql/replication", []string{"internal/platform/binlog/*.go"}, "one follower of the binary log"},
	{"github.com/nats-io/nats.go", []string{"internal/platform/bridge/broker/*.go"}, "one place speaks to other people's brokers"},
	{"github.com/twmb/franz-go/pkg/kgo", []string{"internal/platform/bridge/broker/*.go"}, "one place speaks to other people's brokers"},
	{"github.com/rabbitmq/amqp091-go", []string{"internal/platform/bridge/broker/*.go"}, "one place speaks to other people's brokers"},
	{"github.com/nats-io/nats-server/v2/server", []string{"*_test.go"}, "servers for tests stay in tests"},
	{"github.com/twmb/franz-go/pkg/kfake", []string{"*_test.go"}, "servers for tests stay in tests"},
	{"github.com/go-jose/go-jose/v4", []string{"*_test.go"}, "the second reader of tokens is for tests"},
	{"github.com/go-jose/go-jose/v4/jwt", []string{"*_test.go"}, "the second reader of tokens is for tests"},
	{"testing", []string{"*_test.go", "internal/platform/platformtest/*.go", "internal/platform/obs/test.go", "internal/app/apptest/*.go", "test/peers/*/*.go"}, "production code does not link the test library"},
}

type source struct {
	dir, name string // of the package and of the file, both from the root
	file      *ast.File
	lines     int
	test      bool
}

func sources(t *testing.T) (all []source, set *token.FileSet) {
	t.Helper()
	set = token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || d.Name() == "node_modules" || name == "ui/dist" || d.Name() == "testdata" || d.Name() == "data") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{dir: path.Dir(name), name: name, file: f, lines: strings.Count(string(text), "\n"), test: strings.HasSuffix(name, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, set
}

func (s source) imports() (list []string) {
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		list = append(list, p)
	}
	return list
}

func TestFloorsAndArrows(t *testing.T) {
	all, _ := sources(t)
	for _, s := range all {
		from := floor(s.dir)
		if from < 0 {
			t.Errorf("%s: the folder %s is on no floor of the house", s.name, s.dir)
		}
		if s.test || from < 0 {
			continue
		}
		for _, imported := range s.imports() {
			inside, ours := strings.CutPrefix(imported, "levee/")
			if imported == "levee" {
				inside, ours = ".", true
			}
			if !ours {
				if from == 0 && strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
					t.Errorf("%s imports %s: the words import the standard library only", s.name, imported)
				}
				continue
			}
			to := floor(inside)
			switch {
			case to > from:
				t.Errorf("%s (floor %d) imports %s (floor %d): arrows point down", s.name, from, inside, to)
			case slices.Contains(tools, s.dir) && inside != "." && !slices.Contains(arrows[s.dir], inside):
				t.Errorf("%s imports %s: a tool knows the house over HTTP only", s.name, inside)
			case to == from && from > 0 && from < 3 && inside != s.dir && !slices.Contains(arrows[s.dir], inside):
				t.Errorf("%s imports %s: there is no such arrow in arch_test.go", s.name, inside)
			}
		}
	}
}

func TestFences(t *testing.T) {
	all, _ := sources(t)
	for _, s := range all {
		for _, imported := range s.imports() {
			for _, f := range fences {
				if imported != f.imports {
					continue
				}
				inside := slices.ContainsFunc(f.allowed, func(pattern string) bool {
					name := s.name
					if !strings.Contains(pattern, "/") {
						name = path.Base(name)
					}
					ok, err := path.Match(pattern, name)
					if err != nil {
						t.Fatal(err)
					}
					return ok
				})
				if !inside && !s.test {
					t.Errorf("%s imports %s: %s", s.name, imported, f.why)
				}
			}
		}
	}
}

var (
	sqlVerb   = regexp.MustCompile(`(?i)^\s*(select|insert|update|delete|with|create|drop|alter)\b`)
	sqlTables = regexp.MustCompile(`(?i)\b(?:from|into|update|join|table|on)\s+([a-z]+_[a-z_]+)`)
	created   = regexp.MustCompile(`(?i)CREATE (?:TABLE|(?:UNIQUE )?INDEX [a-z_]+ ON)\s+([a-z_]+)`)
)

// A room's SQL stands in its store*.go and names its own tables only.
func TestSQLStaysHome(t *testing.T) {
	all, set := sources(t)
	for _, s := range all {
		if s.test || floor(s.dir) != 2 {
			continue
		}
		room := path.Base(s.dir)
		ast.Inspect(s.file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil || !sqlVerb.MatchString(text) || !sqlTables.MatchString(text) {
				return true
			}
			if !strings.HasPrefix(path.Base(s.name), "store") {
				t.Errorf("%s: SQL outside of store*.go", set.Position(lit.Pos()))
			}
			for _, m := range sqlTables.FindAllStringSubmatch(text, -1) {
				if !strings.HasPrefix(m[1], room+"_") {
					t.Errorf("%s: the room %s names the table %s", set.Position(lit.Pos()), room, m[1])
				}
			}
			return true
		})
	}
	files, err := filepath.Glob("internal/*/schema/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no schema files found: %v", err)
	}
	for _, name := range files {
		room := path.Base(path.Dir(path.Dir(name)))
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range created.FindAllStringSubmatch(string(text), -1) {
			if !strings.HasPrefix(m[1], room+"_") {
				t.Errorf("%s makes the table %s, which is not the room's", name, m[1])
			}
		}
		if strings.Contains(strings.ToUpper(string(text)), "REFERENCES") || strings.Contains(strings.ToUpper(string(text)), "AUTO_INCREMENT") {
			t.Errorf("%s: no foreign keys and no AUTO_INCREMENT", name)
		}
	}
}

// The budgets: beyond them a package or file is split by noun.
const (
	packageLines   = 4000
	fileLines      = 600
	interfaceBound = 5
)

func TestBudgets(t *testing.T) {
	all, set := sources(t)
	packages := map[string]int{}
	for _, s := range all {
		if s.test {
			continue
		}
		packages[s.dir] += s.lines
		if s.lines > fileLines {
			t.Errorf("%s has %d lines, the budget is %d", s.name, s.lines, fileLines)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok && len(i.Methods.List) > interfaceBound {
				t.Errorf("%s: an interface of %d methods, the budget is %d", set.Position(i.Pos()), len(i.Methods.List), interfaceBound)
			}
			return true
		})
		if s.file.Name.Name != "main" && s.dir != "." && !documented(all, s.dir) {
			t.Errorf("%s: the package says nowhere what it owns", s.dir)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		if packages[dir] > packageLines {
			t.Errorf("%s has %d lines without tests, the budget is %d", dir, packages[dir], packageLines)
		}
	}
}

func documented(all []source, dir string) bool {
	return slices.ContainsFunc(all, func(s source) bool { return s.dir == dir && !s.test && s.file.Doc != nil })
}
