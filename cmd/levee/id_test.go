package main

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestID(t *testing.T) {
	t.Chdir(t.TempDir())
	levee := func(args string) (lines []string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), nil, &stdout, &stderr); code != 0 {
			t.Fatalf("%s: exit code %d: %s", args, code, &stderr)
		}
		return strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	}
	all := levee("id next")
	for range 3 {
		all = append(all, levee("id next 2500")...)
	}
	slices.SortFunc(all, func(a, b string) int { x, _ := strconv.Atoi(a); y, _ := strconv.Atoi(b); return x - y })
	if n := len(slices.Compact(all)); n != 7501 {
		t.Errorf("%d ids differ, want 7501", n)
	}
	for _, text := range levee("id next 3 --layout js53") {
		if n, err := strconv.ParseInt(text, 10, 64); err != nil || n <= 0 || n >= 1<<53 {
			t.Errorf("%s is no id for JavaScript", text)
		}
	}
	if got := levee("id explain 4194305"); !slices.Contains(got, "time      2025-01-01T00:00:00.001Z") || !slices.Contains(got, "sequence  1") {
		t.Errorf("%q", got)
	}
	if got := append(levee("id segments invoice/2026 3"), levee("id segments invoice/2026")...); !slices.Equal(got, []string{"1", "2", "3", "4"}) {
		t.Errorf("%q", got)
	}
	for args, want := range map[string]string{
		"id --help": "id segments", "id next --help": "worker number", "id next 0": "from 1 to", "id next -- -1": "from 1 to", "id next 10000001": "from 1 to", "id next many": "many",
		"id next --layout x": `"default" or "js53"`, "id explain": "<id>", "id explain 0": "from 1 to", "id explain 1x": "digits alone", "id explain -- -1": "digits alone",
		"id explain 9007199254740992 --layout js53": "9007199254740991", "id segments": "<name>", "id segments ä": "beginning with a letter", "id segments a 0": "from 1 to",
		"id sgements a": "",
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(args), nil, &stdout, &stderr)
		help := strings.HasSuffix(args, "--help")
		if help != (code == 0) || !help && code != 2 || !strings.Contains(stdout.String()+stderr.String(), want) {
			t.Errorf("%s: exit code %d, want %q in\n%s%s", args, code, want, &stdout, &stderr)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"id", "next"}, []string{"LEVEE_IDS=elsewhere:"}, &stdout, &stderr); code != 2 || !strings.Contains(stderr.String(), `"sql:"`) {
		t.Errorf("an unknown store: exit code %d, %s", code, &stderr)
	}
}
