// Package verifyaudit_test lets a verifier that was written from the documentation alone judge the audit trail of a real house.
package verifyaudit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"levee"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

// verifier runs the Python program; it reports whether the program was content, and what it said.
func verifier(t *testing.T, args ...string) (content bool, said string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", append([]string{"verify_audit.py"}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("the verifier itself failed: %v\n%s", err, out)
	}
	return err == nil, string(out)
}

func TestASecondProgramVerifiesTheTrail(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed: the second verifier is a Python program")
	}
	h := apptest.Start(t)
	system := levee.WithActor(t.Context(), levee.System)
	if _, err := h.App.Rooms.Identity.Create(system, identity.NewUser{Name: "boss", Password: obs.Secret(apptest.Password), Roles: levee.RoleAdministrator}, identity.Origin{}); err != nil {
		t.Fatal(err)
	}
	boss := h.SignIn(t, "boss")
	for i := range 4 {
		h.Operator.Do("POST", "/v1/products", map[string]any{"code": fmt.Sprint("P-", i), "title": "Tea & 茶 <\u2028>", "state": "draft"}).Want(201)
	}
	if err := h.App.Rooms.Trail.Seal(system); err != nil {
		t.Fatal(err)
	}
	var seen struct {
		Head    string
		Entries int64
		Intact  bool
	}
	boss.Do("GET", "/v1/audit/verification", nil).Want(200).Into(&seen)
	if !seen.Intact || seen.Entries < 7 {
		t.Fatalf("%+v", seen)
	}
	dir := t.TempDir()
	for _, format := range []string{"ndjson", "csv"} {
		file := filepath.Join(dir, "audit."+format)
		text := boss.Do("GET", "/v1/audit/export?format="+format, nil).Want(200).Body
		save := func(text []byte) {
			t.Helper()
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		save(text)
		if content, said := verifier(t, file, "--head", seen.Head); !content {
			t.Fatalf("the %s of a real house does not verify:\n%s\n%s", format, said, text)
		}
		if content, _ := verifier(t, file, "--head", seen.Head[:len(seen.Head)-1]+string("10"[strings.Count(seen.Head[len(seen.Head)-1:], "1")])); content {
			t.Errorf("%s: another head than the noted one passes", format)
		}
		// What is hashed, in each line.
		lines := bytes.SplitAfter(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
		digits := regexp.MustCompile(`[0-9a-f]{64}|usr_[0-9a-z]+|evt_[0-9a-z]+|product\.create|user\.created`)
		tried := 0
		for i, line := range lines[:min(len(lines), 5)] {
			for _, at := range digits.FindAllIndex(line, -1) {
				changed := bytes.Clone(line)
				if c := &changed[at[1]-1]; *c == '0' {
					*c = '1'
				} else {
					*c = '0'
				}
				save(bytes.Join(append(append(append([][]byte{}, lines[:i]...), changed), lines[i+1:]...), nil))
				if content, _ := verifier(t, file); content {
					t.Errorf("%s: %s was changed to %s, and it verifies still", format, line, changed)
				}
				tried++
			}
		}
		if tried < 10 {
			t.Errorf("%s: only %d changes were tried", format, tried)
		}
		// A line taken out, and two exchanged.
		k := len(lines) - 3
		for what, other := range map[string][][]byte{"taken out": append(append([][]byte{}, lines[:k]...), lines[k+1:]...),
			"exchanged": append(append(append([][]byte{}, lines[:k]...), lines[k+1], lines[k]), lines[k+2:]...)} {
			save(bytes.Join(other, nil))
			if content, _ := verifier(t, file); content {
				t.Errorf("%s: a line was %s, and it verifies still", format, what)
			}
		}
		// The end cut off is seen by who noted the head.
		save(bytes.Join(lines[:4], nil)) // well before the noted place: more may have been sealed behind it
		if content, _ := verifier(t, file, "--head", seen.Head); content {
			t.Errorf("%s: the end was cut off, and it verifies still", format)
		}
	}
}
