package contract

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/internal/platform/contract"
)

// schemathesis is the version of the independent judge, as PyPI has it.
const schemathesis = "4.32.5"

// judgeHooks: fields= leaves parts of each row out, which no schema can say, for it hangs on the question; TestContract asks with it, and judges. An
// empty field of a form is one that was left out, as browsers send it, and a form of nothing is no body; TestContract's forms have neither.
const judgeHooks = `import schemathesis

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")

@schemathesis.hook
def filter_case(context, case):
    if case.media_type not in FORMS or not isinstance(case.body, dict):
        return True
    return bool(case.body) and not any(value == "" for value in case.body.values())

@schemathesis.hook
def before_load_schema(context, raw_schema):
    for path in raw_schema["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                operation["parameters"] = [p for p in operation.get("parameters", []) if p.get("name") != "fields"]
`

// judgeConfig tells schemathesis what else than 2xx may be an answer to allowed data, operation by operation: by what the house holds (404, 409,
// 410 of a sale that is over, 412 and 428 where a version must be told), by a rule that no schema says (422), by a key of which not enough is
// random (400), by what a file's bytes are (415), by a provider's signature (400). Where a version must be told, it is looked at before a patch is,
// so what is wrong may be 412 too. Which refusals of those are meant, TestContract holds field by field. All other checks stand as schemathesis has them.
func judgeConfig(d *contract.Document, hooks string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hooks = %q\n", hooks)
	for _, op := range d.Operations {
		expected := []string{`"2xx"`, `"3xx"`}
		for _, status := range []int{401, 403, 404, 409, 410, 412, 428, 429, 503} {
			if op.Responses[status] != nil {
				expected = append(expected, strconv.Itoa(status))
			}
		}
		if rules[op.ID] != nil || lists(op) || freeText(op) {
			expected = append(expected, "422")
		}
		if slices.ContainsFunc(op.Parameters, func(p contract.Parameter) bool { return p.Name == "Idempotency-Key" }) {
			expected = append(expected, "400")
		}
		if op.ID == "notifyPayment" {
			expected = append(expected, "400")
		}
		if op.ID == "importProducts" || op.ID == "createPicture" {
			expected = append(expected, "415")
		}
		fmt.Fprintf(&b, "[[operations]]\ninclude-operation-id = %q\nchecks.positive_data_acceptance.expected-statuses = [%s]\n", op.ID, strings.Join(expected, ", "))
		// As schemathesis has them; but a sale that is over says so before it looks at anything else.
		refusals := []string{"400", "401", "403", "404", "405", "406", "409", "415", "422", "428", "429", `"5xx"`}
		if guarded(op) || op.ID == "buyInSale" {
			refusals = append(refusals, "410", "412")
		}
		if op.Responses[413] != nil { // of many long texts, the whole may be refused for its length before one of them is
			refusals = append(refusals, "413")
		}
		fmt.Fprintf(&b, "checks.negative_data_rejection.expected-statuses = [%s]\n", strings.Join(refusals, ", "))
	}
	return b.String()
}

// freeText reports whether a request may carry a text without a pattern: those are bounded in bytes too, and take no control characters.
func freeText(op *contract.Operation) bool {
	free := func(s *contract.Schema) bool {
		return kindOf(s.Raw) == "string" && s.Raw["enum"] == nil && s.Raw["pattern"] == nil && s.Raw["format"] == nil
	}
	var within func(s *contract.Schema, depth int) bool
	within = func(s *contract.Schema, depth int) bool {
		if s == nil || s.Raw == nil || depth > 6 {
			return false
		}
		props, _ := s.Raw["properties"].(map[string]any)
		for name := range props {
			if within(s.Inner("properties", name), depth+1) {
				return true
			}
		}
		return free(s) || s.Raw["items"] != nil && within(s.Inner("items"), depth+1)
	}
	for _, s := range op.Bodies {
		if within(s, 0) {
			return true
		}
	}
	return slices.ContainsFunc(op.Parameters, func(p contract.Parameter) bool { return p.In != "header" && free(p.Schema) })
}

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
	"endUserSessions":  "ends the sessions of who asks",
	"endUserSession":   "ends the session of who asks",
	"setGrants":        "takes from roles what the run is about to do as them",
	"grant":            "gives roles what they are held to not have",
	"revoke":           "as setGrants",
	"importPolicy":     "as grant",
	"retireSigningKey": "ends the sessions of the next runs",
}

// TestSchemathesis lets schemathesis judge the house, all checks, as each role: part of the long run (make contract).
func TestSchemathesis(t *testing.T) {
	all := budget(t)
	if all == 0 {
		t.Skip("part of the long run: make contract")
	}
	st := installed(t)
	s := open(t)
	config, hooks := filepath.Join(t.TempDir(), "schemathesis.toml"), filepath.Join(t.TempDir(), "hooks.py")
	for file, text := range map[string]string{config: judgeConfig(s.doc, hooks), hooks: judgeHooks} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roles := []string{administrator, operator, customer, visitor}
	for _, who := range roles {
		t.Run(who, func(t *testing.T) {
			s.t = t
			for who := range accounts { // an earlier role's run may have ended anybody's session
				s.renew(who)
			}
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
			if who != visitor { // else an operation that stands in notAsked too late made the rest of the run one of refusals
				s.do(who, "GET", "/v1/me", nil, 200)
			}
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
