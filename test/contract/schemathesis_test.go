package contract

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// schemathesis is the version of the independent judge, as PyPI has it.
const schemathesis = "4.32.5"

// judgeConfig: a refusal by a rule that no schema says is 422 (410 once a sale is over); which of those are meant, TestContract holds
// field by field. All else stands as schemathesis has it.
const judgeConfig = `[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 410, 422, 429, 503]
`

// notAsked are operations that schemathesis does not ask, with the reason.
var notAsked = map[string]string{
	"endSession":       "ends the session that asks",
	"endOtherSessions": "ends the sessions of the next run",
	"changePassword":   "ends the session that asks",
	"disableUser":      "ends the account that asks",
	"setPassword":      "ends the sessions of who asks",
	"setRoles":         "takes the roles of who asks",
	"setLimit":         "then everything is 429",
	"pauseJobs":        "then nothing is done any more",
	"inventBuyers":     "a million tokens are an allowed answer",
	"takeLock":         "waits as long as it is told, up to a minute",
}

// TestSchemathesis lets schemathesis judge the house, all checks, as each role: part of the long run (make contract).
func TestSchemathesis(t *testing.T) {
	all := budget(t)
	if all == 0 {
		t.Skip("part of the long run: make contract")
	}
	st := installed(t)
	s := open(t)
	config := filepath.Join(t.TempDir(), "schemathesis.toml")
	if err := os.WriteFile(config, []byte(judgeConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	roles := []string{administrator, operator, customer, visitor}
	for _, who := range roles {
		t.Run(who, func(t *testing.T) {
			s.t = t
			s.furnish()
			most := max(all/time.Duration(len(roles)), 30*time.Second)
			args := []string{"--config-file", config, "run", s.house.Base + "/v1/openapi.json", "--checks", "all", "--max-time", strconv.Itoa(int(most.Seconds())),
				"--request-timeout", "20", "--continue-on-failure", "--seed", strconv.FormatInt(time.Now().Unix(), 10), "--exclude-path-regex", "/events$", "--warnings", "off"}
			for id := range notAsked {
				args = append(args, "--exclude-operation-id", id)
			}
			if token := s.token(who); token != "" {
				args = append(args, "-H", "Authorization: Bearer "+token)
			}
			ctx, cancel := context.WithTimeout(t.Context(), most+5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, st, args...)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "NO_COLOR=1", "COLUMNS=200")
			out, err := cmd.CombinedOutput()
			text := string(out)
			if !strings.Contains(text, "Test cases") {
				t.Fatalf("schemathesis did not come to its end: %v\n%s", err, text)
			}
			if err != nil {
				_, failures, _ := strings.Cut(text, "= FAILURES =")
				t.Errorf("schemathesis found something: %v\n%s", err, failures)
				return
			}
			t.Log(text[strings.LastIndex(text, "Test cases"):])
		})
	}
}

// installed returns the program, installed into a cache of its own when it is not there yet. Without python3 the test is left out.
func installed(t *testing.T) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("schemathesis needs python3: ", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	venv := filepath.Join(cache, "levee", "schemathesis-"+schemathesis)
	st := filepath.Join(venv, "bin", "schemathesis")
	if _, err := os.Stat(st); err == nil {
		return st
	}
	for _, line := range [][]string{{python, "-m", "venv", venv}, {filepath.Join(venv, "bin", "pip"), "install", "--quiet", "schemathesis==" + schemathesis}} {
		if out, err := exec.CommandContext(t.Context(), line[0], line[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", line, err, out)
		}
	}
	return st
}
