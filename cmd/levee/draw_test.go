package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vectorDir writes the test vector of docs/draw.md as three files.
func vectorDir(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/draw.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(name string) string {
		_, rest, ok := strings.Cut(string(page), "```"+name+"\n")
		text, _, end := strings.Cut(rest, "```")
		if !ok || !end {
			t.Fatalf("docs/draw.md has no block %q", name)
		}
		return text
	}
	value := func(name string) string {
		for line := range strings.Lines(string(page)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == name && strings.HasPrefix(line, "    ") {
				return f[1]
			}
		}
		t.Fatalf("docs/draw.md has no value %q", name)
		return ""
	}
	dir := t.TempDir()
	draw := `{"sale":"` + value("sale") + `","state":"drawn","entries":5,"units":` + value("units") + `,"draw_at":"2026-03-01T12:00:00Z",` +
		`"algorithm":"levee-draw-1","seed_hash":"` + value("seed_hash") + `","seed":"` + value("seed") + `","entries_digest":"` + value("entries_digest") +
		`","results_digest":"` + value("results_digest") + `","winners":2,"drawn_at":"2026-03-01T12:00:01Z","links":{},"to_come":true}`
	for name, text := range map[string]string{drawFile: draw, entriesFile: block("entries"), resultsFile: block("results")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func verify(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"draw", "verify"}, args...), nil, &out, &errs)
	return code, out.String(), errs.String()
}

func TestDrawVerify(t *testing.T) {
	dir := vectorDir(t)
	entry := "ent_0fxw8d2r5m9k4h7t3n6p1q0v2c"
	code, stdout, stderr := verify(t, "--dir", dir, "--entry", entry)
	if code != 0 || !strings.Contains(stdout, "The draw holds.") || !strings.Contains(stdout, entry+" has rank 2 and won 1") || strings.Contains(stdout, "FAILED") {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if code, _, stderr := verify(t, "--dir", dir, "--entry", "ent_stranger"); code != 1 || !strings.Contains(stderr, "took no part") {
		t.Errorf("for a stranger: exit code %d, %s", code, stderr)
	}
	if code, stdout, _ := verify(t, "--dir", dir, "--seed-hash", strings.Repeat("0", 64)); code != 1 || !strings.Contains(stdout, "noted before the draw") {
		t.Errorf("with another hash noted: exit code %d\n%s", code, stdout)
	}
	// One changed byte of the entries, of the results, of the seed.
	for name, says := range map[string]string{entriesFile: "digest", resultsFile: "line 3 must be", drawFile: "published was"} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(whole)
		at := map[string]int{entriesFile: 31 + 33*3, resultsFile: 33*2 + 31 + 2, drawFile: bytes.Index(whole, []byte(`"seed":"`)) + 9}[name]
		changed[at] ^= 2
		if err := os.WriteFile(path, changed, 0o644); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := verify(t, "--dir", dir)
		if code != 1 || !strings.Contains(stdout, "FAILED") || !strings.Contains(stdout, says) || !strings.Contains(stderr, "does not hold") {
			t.Errorf("with a byte of %s changed: exit code %d\n%s%s", name, code, stdout, stderr)
		}
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, resultsFile)); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := verify(t, "--dir", dir); code != 1 || !strings.Contains(stderr, resultsFile) {
		t.Errorf("without results: exit code %d, %s", code, stderr)
	}
}

// TestDrawVerifyFromServer reads from a server, keeps what it read, and refuses answers that are none.
func TestDrawVerifyFromServer(t *testing.T) {
	dir, saved := vectorDir(t), filepath.Join(t.TempDir(), "kept")
	const sale = "sal_3zzzzzzzzzzzzzzzzzzzzzzzzz"
	draw := "/shop/v1/sales/" + sale + "/draw"
	files := map[string]string{draw: drawFile, draw + "/entries": entriesFile, draw + "/results": resultsFile}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := files[r.URL.Path]
		if !ok || r.Header.Get("Authorization") != "" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		http.ServeFile(w, r, filepath.Join(dir, name))
	}))
	defer srv.Close()
	code, stdout, stderr := verify(t, "--server", srv.URL+"/shop/", "--sale", sale, "--save", saved)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	if code, stdout, stderr := verify(t, "--dir", saved); code != 0 {
		t.Errorf("what was kept does not verify: exit code %d\n%s%s", code, stdout, stderr)
	}
	if code, _, stderr := verify(t, "--server", srv.URL, "--sale", sale); code != 1 || !strings.Contains(stderr, "404") {
		t.Errorf("at a wrong address: exit code %d, %s", code, stderr)
	}
	if err := os.WriteFile(filepath.Join(dir, drawFile), []byte(`{"state":"open","algorithm":"levee-draw-1"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := verify(t, "--server", srv.URL+"/shop", "--sale", sale); code != 1 || !strings.Contains(stdout, "only a drawn one") {
		t.Errorf("before the draw: exit code %d\n%s", code, stdout)
	}
	for _, args := range [][]string{{}, {"--server", srv.URL}, {"--sale", sale}, {"--dir", dir, "--server", srv.URL}, {"--server", "ftp://x", "--sale", sale}} {
		if code, _, stderr := verify(t, args...); code != 2 {
			t.Errorf("%v: exit code %d, %s", args, code, stderr)
		}
	}
}
