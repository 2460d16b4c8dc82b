package main

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUse(t *testing.T) {
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string
	}{
		{"", 0, "levee demo", ""},
		{"--help", 0, "rehearse", ""},
		{"serve --help", 0, "one-time code", ""},
		{"rehearse --help", 0, "audits", ""},
		{"doctor --help", 0, "ledger", ""},
		{"version", 0, "levee", ""},
		{"config", 0, "[sale]", ""},
		{"config --keys", 0, "sale.hold_for duration", ""},
		{"sreve", 2, "", `did you mean "serve"`},
		{"serve --adr :80", 2, "", `did you mean "--addr"`},
		{"serve --addr", 2, "", "--addr"},
		{"rehearse", 2, "", "--sale"},
		{"rehearse --sale x --rate many", 2, "", "--rate"},
		{"rehearse --sale sal_x --user u --rate -5", 2, "", "--rate"},
		{"--config nowhere.toml serve", 2, "", "nowhere.toml"},
		{"doctor --data nowhere", 1, "", "there is no database"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Setenv("LEVEE_PASSWORD", "secret-of-the-test")
			t.Chdir(t.TempDir())
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), strings.Fields(c.args), nil, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Fatalf("exit code %d, want %d\nstdout (want %q):\n%s\nstderr (want %q):\n%s", code, c.code, c.stdout, &stdout, c.stderr, &stderr)
			}
			if strings.Contains(stdout.String()+stderr.String(), "secret-of-the-test") {
				t.Fatal("the password shows")
			}
		})
	}
}

func TestConfigFileWithTypos(t *testing.T) {
	t.Chdir(t.TempDir())
	for text, want := range map[string]string{
		"[sale]\nhold_fro = \"3s\"\n":   `did you mean "sale.hold_for"`,
		"[sale]\nhold_for = \"soon\"\n": "sale.hold_for",
		"secret = \"abc\"\n":            "LEVEE_SECRET",
		"[sale\n":                       "levee.toml",
	} {
		if err := os.WriteFile("levee.toml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"config"}, nil, &stdout, &stderr); code != 2 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%q: exit code %d, %s; want 2 and %q", text, code, &stderr, want)
		}
	}
}

func TestMigrateAndDoctor(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"LEVEE_DATA=" + filepath.Join(dir, "data"), "LEVEE_LOG__LEVEL=error"}
	try := func(want string, code int, args ...string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if got := run(t.Context(), args, environ, &stdout, &stderr); got != code || !strings.Contains(stdout.String()+stderr.String(), want) {
			t.Fatalf("levee %v: exit code %d, want %d and %q:\n%s%s", args, got, code, want, &stdout, &stderr)
		}
	}
	try("run `levee migrate`", 1, "migrate", "--check")
	try("applied sale/0001_sale", 0, "migrate")
	try("up to date", 0, "migrate", "--check")
	try("All is well", 0, "doctor")
}

func TestPictures(t *testing.T) {
	seen := map[string]bool{}
	for n := range len(demoProducts) {
		picture, err := drawPicture(n)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(picture))
		if err != nil || img.Bounds().Dx() != pictureWide {
			t.Fatalf("picture %d: %v", n, err)
		}
		if len(picture) > 30<<10 || seen[string(picture)] {
			t.Fatalf("picture %d is too large (%d bytes) or not its own", n, len(picture))
		}
		seen[string(picture)] = true
	}
}
