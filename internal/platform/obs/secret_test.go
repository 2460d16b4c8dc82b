package obs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"levee"
)

// Everything that must never be printed, in every way that a careless line could print it, in both formats and in the file.
func TestSecretsStayHidden(t *testing.T) {
	type login struct {
		User     string
		Password string
		Nested   map[string]any
		Key      Secret
	}
	const canary = "hunter2"
	for _, format := range []string{"json", "console"} {
		t.Run(format, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "l.log")
			o, out := open(t, Config{Format: format, File: file, Level: "debug"})
			lines := []func(*slog.Logger){
				func(l *slog.Logger) { l.Info("m", "password", canary) },
				func(l *slog.Logger) { l.Info("m", "PassWord", canary) },
				func(l *slog.Logger) { l.Info("m", "new_password_2", canary) },
				func(l *slog.Logger) { l.Info("m", "refreshToken", canary) },
				func(l *slog.Logger) { l.Info("m", "Set-Cookie", canary) },
				func(l *slog.Logger) { l.Info("m", "x-api-key", canary) },
				func(l *slog.Logger) { l.Info("m", "Proxy-Authorization", []string{canary}) },
				func(l *slog.Logger) { l.With("client_secret", canary).Info("m") },
				func(l *slog.Logger) { l.WithGroup("cookie").Info("m", "value", canary) },
				func(l *slog.Logger) { l.Info("m", slog.Group("credentials", "user", canary)) },
				func(l *slog.Logger) { l.Info("m", slog.Group("a", slog.Group("b", "token", canary))) },
				func(l *slog.Logger) { l.Info("m", "k", Secret(canary)) },
				func(l *slog.Logger) { l.Info("m", "k", []Secret{canary}) },
				func(l *slog.Logger) {
					l.Info("m", "k", fmt.Sprintf("%d %v %x", Secret(canary), Secret(canary), Secret(canary)))
				},
				func(l *slog.Logger) {
					l.Info("m", "request", login{"u", canary, map[string]any{"token": canary}, canary})
				},
				func(l *slog.Logger) { l.Info("m", "request", &login{"u", canary, nil, canary}) },
				func(l *slog.Logger) { l.Info("m", "header", http.Header{"Authorization": {canary}, "Accept": {"*"}}) },
				func(l *slog.Logger) { l.Info("m", "list", []any{map[string]string{"secret": canary}}) },
				func(l *slog.Logger) { l.Info("m", "body", json.RawMessage(`{"a":[{"access_token":"`+canary+`"}]}`)) },
				func(l *slog.Logger) { l.Info("m", "v", valuer{slog.GroupValue(slog.String("passphrase", canary))}) },
				func(l *slog.Logger) { l.Info("m", "deep", deep(depthMax+5, canary)) },
			}
			for i, line := range lines {
				line(o.Log)
				got := out.take()
				if strings.Contains(got, canary) || strings.Contains(got, fmt.Sprintf("%x", canary)) {
					t.Errorf("line %d shows the secret: %s", i, got)
				}
				if !strings.Contains(got, "[redacted]") {
					t.Errorf("line %d does not say that it hides something: %s", i, got)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte(canary)) {
				t.Error("the file shows the secret")
			}
			if n := bytes.Count(text, []byte("\n")); n != len(lines) {
				t.Errorf("%d lines in the file, want %d", n, len(lines))
			}
		})
	}
}

type valuer struct{ v slog.Value }

func (v valuer) LogValue() slog.Value { return v.v }

func deep(n int, leaf string) any {
	if n == 0 {
		return leaf
	}
	return map[string]any{"in": deep(n-1, leaf)}
}

func TestPlainValuesAreShown(t *testing.T) {
	o, out := open(t, Config{})
	type view struct{ Name, Phone string }
	o.Log.Info("m", "key", "idempotency-1", "status", 409, "err", levee.E(levee.CodeConflict, "taken"),
		"view", view{"ann", "13800138000"}, "took", 1500*time.Millisecond, "phone", "13800138000", "mobile_number", 13800138000,
		"phone2", "1234", "phones", map[string]int64{"home": 1}, "phone_typed", stringer("13800138000"), "nothing", nil)
	var got map[string]any
	if err := json.Unmarshal([]byte(out.take()), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "m", "key": "idempotency-1", "status": 409.0, "err": "conflict: taken",
		"view": map[string]any{"Name": "ann", "Phone": "*******8000"}, "took": 1.5e9, "phone": "*******8000",
		"mobile_number": "*******8000", "phone2": "****", "phones": "[redacted]", "phone_typed": "*******8000", "nothing": nil,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRedactKeys(t *testing.T) {
	for key, want := range map[string]bool{
		"password": true, "PASSWORD": true, "old-password": true, "token": true, "X-Auth-Token": true, "secret": true,
		"authorization": true, "Cookie": true, "set_cookie": true, "api.key": true, "privateKey": true,
		strings.Repeat("x", 100) + "_token": true,
		"":                                  false,
		"user":                              false, "key": false, "phone": false, "to_kin": false, "pass": false,
		"sku": false, "request_id": false,
	} {
		if got := Redact(key); got != want {
			t.Errorf("Redact(%q) = %v, want %v", key, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Redact("ordinary_attribute_key") }); n != 0 {
		t.Errorf("Redact allocates %v times", n)
	}
}

func TestSecret(t *testing.T) {
	const canary = "hunter2"
	s := Secret(canary)
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(struct{ Key Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{
		s.String(), s.GoString(), s.LogValue().String(), string(text), string(config), fmt.Sprint(s),
		fmt.Sprintf("%s|%v|%+v|%#v|%q|%x|%X|%d|%t|%c|%U|%08.3f|%T", s, s, s, s, s, s, s, s, s, s, s, s, s),
		fmt.Sprintf("%+v %#v", struct{ Key Secret }{s}, &struct{ Keys []Secret }{[]Secret{s}}),
		fmt.Sprintf("%v", map[Secret]Secret{s: s}), fmt.Errorf("bad key %w: %s", io.EOF, s).Error(),
	} {
		if strings.Contains(got, canary) || strings.Contains(strings.ToLower(got), fmt.Sprintf("%x", canary)) {
			t.Errorf("shown: %s", got)
		}
	}
	if s.Reveal() != canary {
		t.Error("Reveal does not give the secret")
	}
	var back struct{ Key Secret }
	if err := json.Unmarshal([]byte(`{"Key":"hunter2"}`), &back); err != nil || back.Key != s {
		t.Errorf("a config cannot be read: %q, %v", back.Key.Reveal(), err)
	}
}

// Text from outside must neither begin a line of its own nor reach the terminal as a control sequence.
func TestForgedLines(t *testing.T) {
	forged := "x\r\n10:00:00.000 ERR admin signed in\x1b[2J\u2028\u009b1m" + `\x1b[31m` + "\x00\xff"
	for _, format := range []string{"json", "console"} {
		for _, terminal := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,terminal=%v", format, terminal), func(t *testing.T) {
				var b safeBuffer
				o := &Obs{Clock: time.Now, Metrics: prometheus.NewRegistry()}
				if err := o.openLog(Config{Format: format}, &b); err != nil {
					t.Fatal(err)
				}
				if terminal && format == "console" {
					o.Log = slog.New(consoleHandler(&b, slog.LevelInfo, true))
				}
				o.Log.Info(forged, "name", forged, "err", errors.New(forged), "list", []string{forged},
					"text", []byte(forged), "map", map[string]string{forged: forged}, "stringer", stringer(forged))
				got := b.take()
				if n := strings.Count(got, "\n"); n != 1 || !strings.HasSuffix(got, "\n") {
					t.Errorf("%d lines: %q", n, got)
				}
				got = strings.TrimSuffix(got, "\n")
				if terminal { // its own colours
					got = regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllStringFunc(got, func(s string) string {
						if s == "\x1b[31m" { // ours is 91
							return s
						}
						return ""
					})
				}
				if i := strings.IndexFunc(got, func(r rune) bool { return isControl(r) && format == "console" || r < 0x20 }); i >= 0 {
					t.Errorf("control character at %d: %q", i, got)
				}
			})
		}
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

func TestBrokenValues(t *testing.T) {
	for _, format := range []string{"json", "console"} {
		o, out := open(t, Config{Format: format})
		var nilErr *levee.Error
		o.Log.Info("m", "err", error(nilErr), "fn", func() {}, "chan", make(chan int), "loop", loop(), "huge", strings.Repeat("x", 1<<20),
			"hugeErr", errors.New(strings.Repeat("x", 1<<20)), "hugeBytes", make([]byte, 1<<20), "hugeList", make([]int, 1<<20))
		got := out.take()
		if strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %q", format, levee.Shorten(got, 300))
		}
		if len(got) > 4*textMax {
			t.Errorf("%s: the line has %d bytes", format, len(got))
		}
	}
}

func loop() any {
	m := map[string]any{}
	m["self"] = m
	return m
}

func FuzzOneLine(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb", "\x1b[2J", `\x1b[2J`, `\\x1b`, "\xff\xfe", "\u2028", "é\u0085", `\x1` + "\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if i := strings.IndexFunc(oneLine(s), isControl); i >= 0 {
			t.Errorf("oneLine(%q) has a control character at %d", s, i)
		}
		var b bytes.Buffer
		slog.New(consoleHandler(&b, slog.LevelInfo, true)).Info(s, "v", s, "e", errors.New(s))
		line := strings.NewReplacer("\x1b[2m", "", "\x1b[0m", "", "\x1b[92m", "").Replace(strings.TrimSuffix(b.String(), "\n"))
		if i := strings.IndexFunc(line, isControl); i >= 0 {
			t.Errorf("%q puts a control character into the line at %d: %q", s, i, line)
		}
	})
}

func FuzzCleanJSON(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `{"password":{"a":1}}`, `{"a":[{"b":null}]}`, `{"phone":[1]}`, `1e999`, `"x"`, `{"a":1}{`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tree, err := CleanJSON([]byte(s))
		if err != nil {
			return
		}
		if _, err := json.Marshal(tree); err != nil {
			t.Errorf("%q does not encode after cleaning: %v", s, err)
		}
	})
}
