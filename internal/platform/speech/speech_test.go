package speech

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// spoken are the packages whose texts a caller may be told: all rooms, the pipeline, and the parts that refuse on behalf of either. What the others
// refuse is configuration, or reaches a caller as "internal error".
var spoken = []string{"access", "admission", "catalog", "factor", "federation", "foreign", "handle", "identity", "lend", "line", "notify", "ops", "order", "payment", "phone", "plan", "sale", "tally", "terms", "throttle",
	"platform/blob", "platform/body", "platform/event", "platform/job", "platform/limit", "platform/patch", "platform/push", "platform/schedule", "platform/web", "platform/when"}

// texts returns the English formats of a package's error constructors: levee.E, levee.Invalid and the package's own refuse. What is put together from parts
// that are not constant has %s for them. odd are the places whose text is not said there at all.
func texts(t testing.TB, dir string) (found map[string]string, odd []string) {
	t.Helper()
	found = map[string]string{}
	set := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	consts := map[string]string{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(set, name, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		ast.Inspect(f, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Names) == len(v.Values) {
				for i, id := range v.Names {
					if s, ok := constant(v.Values[i], nil); ok {
						consts[id.Name] = s
					}
				}
			}
			return true
		})
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for _, arg := range said(call) {
				at := set.Position(call.Pos()).String()
				s, ok := constant(arg, consts)
				if !ok || strings.Trim(strings.ReplaceAll(s, "%s", ""), " ") == "" {
					odd = append(odd, at)
					continue
				}
				found[s] = at
			}
			return true
		})
	}
	return found, odd
}

// said returns the arguments of a call that are texts for people.
func said(call *ast.CallExpr) []ast.Expr {
	name := ""
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok && x.Name == "levee" {
			name = "levee." + f.Sel.Name
		}
	case *ast.Ident:
		name = f.Name
	}
	switch {
	case name == "levee.E" && len(call.Args) >= 2:
		return call.Args[1:2]
	case name == "levee.Invalid" && len(call.Args) == 3:
		return call.Args[1:2]
	case name == "refuse" && len(call.Args) == 4: // code, field, allowed, given
		return call.Args[2:3]
	case name == "refuse" && len(call.Args) >= 5: // code, field, allowed, given, format, …
		return []ast.Expr{call.Args[2], call.Args[4]}
	case name == "errKey":
		return call.Args[:1]
	}
	return nil
}

func constant(e ast.Expr, consts map[string]string) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.ParenExpr:
		return constant(e.X, consts)
	case *ast.Ident:
		s, ok := consts[e.Name]
		return s, ok
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" && len(e.Args) > 0 {
			return constant(e.Args[0], consts)
		}
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		l, lok := constant(e.X, consts)
		r, rok := constant(e.Y, consts)
		if !lok && !rok {
			return "", false
		}
		if !lok {
			l = "%s"
		}
		if !rok {
			r = "%s"
		}
		return strings.ReplaceAll(l+r, "%s%s", "%s"), true
	}
	return "", false
}

// TestEveryTextHasChinese fails for a text of the rooms or the pipeline that the catalogue neither has nor lists as told to nobody.
func TestEveryTextHasChinese(t *testing.T) {
	all, untold, err := parse(chinese)
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, e := range all {
		has[e.english] = true
	}
	used, counted := map[string]bool{}, 0
	for _, dir := range spoken {
		found, _ := texts(t, dir)
		counted += len(found)
		var missing []string
		for _, s := range slices.Sorted(maps.Keys(found)) {
			used[s] = true
			if !has[s] && !untold[s] {
				missing = append(missing, s)
			}
		}
		if len(missing) > 0 {
			t.Errorf("%s: zh.txt has no Chinese for\n%s", dir, strings.Join(missing, "\n"))
		}
	}
	if counted < 400 {
		t.Errorf("only %d texts were found in the source: does the test still see them?", counted)
	}
	for s := range untold {
		if !used[s] {
			t.Errorf("zh.txt lists %q as told to nobody, and nobody says it", s)
		}
	}
}

func TestChinese(t *testing.T) {
	for _, c := range []struct {
		english, chinese string
		whole            bool
	}{
		{"sign in first", "请先登录", true},
		{`body.title must be of length >= 1, got ""`, `body.title 必须是：长度不小于 1；收到 ""`, true},
		{`body.x must be one of "a, b", got " must be a string, got \"y\""`, `body.x 必须是：以下之一：a, b；收到 " must be a string, got \"y\""`, true},
		{`body.x must be something unheard of, got "y"`, `body.x 必须是：something unheard of；收到 "y"`, false},
		{`body.a must be a list, got "x" (and 3 more)`, `body.a 必须是：列表；收到 "x"（另有 3 处）`, true},
		{"the product was changed meanwhile: it is at version 7, you saw 6", "商品已被修改：现在是版本 7，你看到的是 6", true},
		{"this name is taken", "这个名称已被占用", true},
		{"GET, HEAD", "GET, HEAD", true},
		{"nobody has written this", "nobody has written this", false},
		{"", "", true},
		{"a\nb must be JSON, got \"c\"", "a\nb 必须是：JSON；收到 \"c\"", true},
		{strings.Repeat("x ", maxText), strings.Repeat("x ", maxText), false},
	} {
		if got, whole := Chinese(c.english); got != c.chinese || whole != c.whole {
			t.Errorf("%.80q is %.80q (%v), want %.80q (%v)", c.english, got, whole, c.chinese, c.whole)
		}
	}
}

func TestBrokenCatalogues(t *testing.T) {
	for _, text := range []string{"a", "a\n\nb\n", "a\n甲\n\na\n乙", "a %s\n甲 {2}"} {
		if _, _, err := parse(text); err == nil {
			t.Errorf("%q is taken for a catalogue", text)
		}
	}
}

func BenchmarkChinese(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Chinese(`body.title must be of length >= 1, got ""`)
	}
}
