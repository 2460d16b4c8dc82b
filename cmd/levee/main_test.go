package main

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"path/filepath"
	"slices"
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
		{"factors reset --help", 0, "stop the server first", ""},
		{"factors reset nobody", 1, "", "no such user"},
		{"version", 0, "levee", ""},
		{"config", 0, "[sale]", ""},
		{"config --keys", 0, "sale.hold_for duration", ""},
		{"sreve", 2, "", `did you mean "serve"`},
		{"serve --adr :80", 2, "", `did you mean "--addr"`},
		{"serve --addr", 2, "", "--addr"},
		{"serve --role web", 2, "", "distributed"},
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
	try(`"well": true`, 0, "doctor", "--json")
	// Servers that are away are findings, and the rest is looked at all the same.
	environ = append(environ, "LEVEE_MODE=distributed", "LEVEE_DB=mysql://root@127.0.0.1:1/levee", "LEVEE_REDIS=redis://127.0.0.1:1",
		"LEVEE_SECRET="+strings.Repeat("ab", 32))
	for _, want := range []string{"ok     disk", "WRONG  database server", "WRONG  redis", "WRONG  books", "do: start it", "3 of the examined things are wrong"} {
		try(want, 1, "doctor")
	}
	try(`"well": false`, 1, "doctor", "--json")
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

// A house that the command line puts into a folder has everything there, and nothing where it was started.
func TestEverythingIsInTheFolder(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stderr bytes.Buffer
	if code := run(ctx, []string{"serve", "--data", "house", "--addr", "127.0.0.1:0"}, nil, untilServing{stop}, &stderr); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &stderr)
	}
	names := func(dir string) (list []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	if got := names(here); !slices.Equal(got, []string{"house"}) {
		t.Errorf("where it was started: %q", got)
	}
	for _, name := range []string{"files", "id", "levee.db", "secret"} {
		if !slices.Contains(names("house"), name) {
			t.Errorf("no %s in the folder, only %q", name, names("house"))
		}
	}
}

// A second server on the same file is refused while the first one serves, and the doctor is not; a file whose server has ended is free.
func TestOneServerPerFile(t *testing.T) {
	dir := t.TempDir()
	serve := func(during func()) (code int, said string) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var stderr bytes.Buffer
		out := untilServing{func() {
			during()
			stop()
		}}
		code = run(ctx, []string{"serve", "--data", dir, "--addr", "127.0.0.1:0"}, nil, out, &stderr)
		return code, stderr.String()
	}
	for range 2 {
		code, said := serve(func() {
			if code, said := serve(func() { t.Error("the second one serves, too") }); code == 0 || !strings.Contains(said, "another Levee serves from") {
				t.Errorf("exit code %d: %s", code, said)
			}
			var out, stderr bytes.Buffer
			if code := run(t.Context(), []string{"doctor", "--data", dir}, nil, &out, &stderr); code != 0 {
				t.Errorf("the doctor's exit code is %d: %s %s", code, &out, &stderr)
			}
		})
		if code != 0 {
			t.Fatalf("exit code %d:\n%s", code, said)
		}
	}
}

// untilServing stops a server when it says that it serves.
type untilServing struct{ stop func() }

func (w untilServing) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("serves at")) {
		w.stop()
	}
	return len(p), nil
}
