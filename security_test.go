package levee_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named is a test as the page names one: `internal/app TestGoldens`.
var named = regexp.MustCompile("`([a-z][a-z0-9/-]*) (Test[A-Za-z0-9_]+)`")

// Each test that the page on security names as a proof is there; each rule has one, or says that it is open or does not apply.
func TestSecurityNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !regexp.MustCompile(`^ \d+[a-z]? $`).MatchString(cells[1]) {
			continue
		}
		rules++
		proof := cells[4]
		tests := named.FindAllStringSubmatch(proof, -1)
		said := regexp.MustCompile(`(?i)\bopen:|does not apply|browser tests`).MatchString(proof)
		if len(tests) == 0 && !said {
			t.Errorf("rule%snames no test and does not say that it is open", cells[1])
		}
		for _, m := range tests {
			if !declared(t, m[1], m[2]) {
				t.Errorf("rule%snames %s in %s, which is not there", cells[1], m[2], m[1])
			}
		}
	}
	if rules != 41 {
		t.Errorf("the page has %d rules, want 41", rules)
	}
	if declared(t, "internal/trail", "TestThatNobodyWrote") {
		t.Error("a test that is not there is found: this test could not find a fault")
	}
}

// declared tells whether a folder's tests declare a function.
func declared(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+test+"(t *testing.T)") {
			return true
		}
	}
	return false
}
