package header

import (
	"strings"
	"testing"
)

func TestAcceptable(t *testing.T) {
	js := []string{"application/json"}
	pictures := []string{"image/png", "image/webp"}
	for _, c := range []struct {
		accept []string
		types  []string
		want   bool
	}{
		{nil, js, true},
		{[]string{""}, js, true},
		{[]string{" , "}, js, true},
		{[]string{"*/*"}, js, true},
		{[]string{"application/json"}, js, true},
		{[]string{"APPLICATION/JSON"}, js, true},
		{[]string{"application/*"}, js, true},
		{[]string{"text/html, application/xhtml+xml, */*;q=0.8"}, js, true},
		{[]string{"text/html", "application/json"}, js, true},
		{[]string{"text/html"}, js, false},
		{[]string{"application/json;q=0"}, js, false},
		{[]string{"application/json;q=0, */*"}, js, false}, // the more specific one decides
		{[]string{"*/*;q=0"}, js, false},
		{[]string{"*/*;q=0, application/json;q=0.001"}, js, true},
		{[]string{"application/json;q=0.0"}, js, false},
		{[]string{"application/json; charset=utf-8"}, js, true},
		{[]string{"application/json; version=1"}, js, true},
		{[]string{"application/json; version=2"}, js, false},
		{[]string{"application/json; version=2, */*"}, js, false},
		{[]string{"application/json;q=2"}, js, false},
		{[]string{"application/json;q=-1"}, js, false},
		{[]string{"application/json;q=NaN"}, js, false},
		{[]string{"application/json;q="}, js, false},
		{[]string{"json"}, js, false},
		{[]string{"*/json"}, js, false},
		{[]string{"application/problem+json"}, js, false},
		{[]string{"image/*;q=0.5"}, pictures, true},
		{[]string{"image/webp"}, pictures, true},
		{[]string{"image/png;q=0, image/*"}, pictures, true},
		{[]string{"image/avif"}, pictures, false},
		{[]string{"*/*"}, pictures, true},
		{[]string{strings.Repeat("a/b,", 1000) + "application/json"}, js, false}, // beyond what is looked at
	} {
		if got := Acceptable(c.accept, "1", c.types); got != c.want {
			t.Errorf("%.80q for %v is %v", c.accept, c.types, got)
		}
	}
}

// FuzzAccept: no header makes it fail, a range that allows all allows all, and what is refused has said so.
func FuzzAccept(f *testing.F) {
	f.Add("text/html, application/xhtml+xml;q=0.9, */*;q=0.8")
	f.Add(`application/json;q="0.5";version=1, a/*`)
	f.Add(";q=,,//*;=")
	f.Fuzz(func(t *testing.T, accept string) {
		types := []string{"application/json", "text/csv"}
		got := Acceptable([]string{accept}, "1", types)
		if !got && strings.Trim(accept, " \t,") == "" {
			t.Fatalf("%q says nothing and is refused", accept)
		}
		if strings.Count(accept, ",") < maxRanges-2 && !strings.Contains(accept, `"`) {
			if !Acceptable([]string{accept, "application/json;q=1"}, "1", types) {
				t.Fatalf("%q with application/json is refused", accept)
			}
			if got && strings.Trim(accept, " \t,") != "" && !Acceptable([]string{accept + ",x/y"}, "1", types) {
				t.Fatalf("%q is refused with one more type", accept)
			}
		}
		_ = MediaType(accept)
	})
}

// FuzzIdempotencyKey: a key that passes is visible ASCII, within bounds, and means itself when it is quoted.
func FuzzIdempotencyKey(f *testing.F) {
	f.Add("abc")
	f.Add(`"a\"b"`)
	f.Add(`"`)
	f.Fuzz(func(t *testing.T, v string) {
		key, ok := Idempotency(v)
		if !ok {
			return
		}
		if len(key) == 0 || len(key) > IdempotencyMax || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q became %q", v, key)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, ok := Idempotency(quoted); !ok || again != key {
			t.Fatalf("%q, quoted %q, became %q", key, quoted, again)
		}
	})
}

func TestLanguage(t *testing.T) {
	for _, c := range []struct{ lines, want string }{
		{"", "en"}, {"zh", "zh"}, {"zh-CN,zh;q=0.9,en;q=0.8", "zh"}, {"en-GB,en;q=0.9,zh;q=0.8", "en"}, {"en;q=0.1, zh;q=0.2", "zh"}, {"fr, de", "en"}, {"fr, zh;q=0.1", "zh"},
		{"*", "en"}, {"zh;q=0", "en"}, {"zh;q=x", "en"}, {"ZH-hant-TW", "zh"}, {"zh;q=0.5, *;q=0.8", "en"}, {"zh;level=1", "en"}, {"en;q=0, zh", "zh"}, {",,;q=1,", "en"}, {"zh;Q=0.4", "zh"},
	} {
		if got := Language([]string{c.lines}, "en", "zh"); got != c.want {
			t.Errorf("%q is %s, want %s", c.lines, got, c.want)
		}
	}
	if got := Language([]string{strings.Repeat("fr,", 40) + "zh"}, "en", "zh"); got != "en" {
		t.Errorf("beyond what is looked at: %s", got)
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct{ accept, want string }{
		{"application/json", ""}, {"application/json;version=1", "1"}, {"application/json;version=1;q=0.5, application/json;version=2", "2 1"},
		{"application/json;version=2, */*;q=0.1", ""}, {"application/json;version=2;q=0", ""}, {"text/plain, a/b;version=3", ""}, {"version", ""},
	} {
		if got := strings.Join(Versions([]string{c.accept}), " "); got != c.want {
			t.Errorf("%q names %q, want %q", c.accept, got, c.want)
		}
	}
}
