package main

import (
	"bytes"
	"strings"
	"testing"

	"levee"
	"levee/internal/app/apptest"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

// The commands that administer a running server, as somebody types them one after another.
func TestRemoteCommands(t *testing.T) {
	h := apptest.Start(t)
	_, err := h.App.Rooms.Identity.Create(levee.WithActor(t.Context(), levee.System),
		identity.NewUser{Name: "boss", Password: obs.Secret(apptest.Password), Roles: levee.RoleAdministrator}, identity.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("LEVEE_PASSWORD", apptest.Password)
	trigger := "cron 0 9 * * mon-fri in Asia/Shanghai"
	for _, c := range []struct {
		args   []string
		code   int
		stdout string // what it says, among others
		stderr string
	}{
		{[]string{"jobs", "status"}, 0, "line.give", ""},
		{[]string{"jobs", "list", "--state", "dead"}, 0, "LAST ERROR", ""},
		{[]string{"jobs", "list", "--state", "tired"}, 2, "", "--state"},
		{[]string{"jobs", "list", "--limit", "0"}, 2, "", "1 to 100000"},
		{[]string{"jobs", "show", "job_nobody"}, 1, "", "no"},
		{[]string{"jobs", "pause", "kind", "line.give"}, 0, "line.give: paused", ""},
		{[]string{"jobs", "status"}, 0, "paused", ""},
		{[]string{"jobs", "resume", "kind", "line.give"}, 0, "line.give: goes on", ""},
		{[]string{"jobs", "pause", "house", "x"}, 2, "", "pool"},
		{[]string{"schedules", "add", "morning", "line.give", trigger, "--note", "for the test", "--paused"}, 0, "morning: made", ""},
		{[]string{"schedules", "add", "morning", "line.give", trigger}, 1, "", "morning"},
		{[]string{"schedules", "add", "evening", "line.give", "cron 0 25 * * *"}, 2, "", "0-23"},
		{[]string{"schedules", "add", "evening", "line.give", trigger, "--args", "{"}, 2, "", "--args"},
		{[]string{"schedules", "list"}, 0, "morning", ""},
		{[]string{"schedules", "list", "--json", "--state", "paused"}, 0, `"name":"morning"`, ""},
		{[]string{"schedules", "resume", "morning", "nobody"}, 1, "morning: goes on", "nobody"},
		{[]string{"schedules", "change", "morning", "--grace", "90s"}, 0, "changed", ""},
		{[]string{"schedules", "change", "morning"}, 2, "", "--trigger"},
		{[]string{"schedules", "show", "morning"}, 0, `"grace_ms": 90000`, ""},
		{[]string{"schedules", "pause", "morning"}, 0, "paused", ""},
		{[]string{"schedules", "remove", "morning"}, 0, "removed", ""},
		{[]string{"schedules", "show", "morning"}, 1, "", "morning"},
		{[]string{"audit", "verify"}, 0, "entries verify", ""},
		{[]string{"audit", "verify", "--head", "1:x"}, 2, "", "{64}"},
		{[]string{"audit", "verify", "--head", "999999:" + strings.Repeat("0", 64)}, 1, "its end was cut off", "does not verify"},
		{[]string{"keys", "list"}, 0, "signing", ""},
		{[]string{"keys", "list", "--json"}, 0, `"state": "signing"`, ""},
		{[]string{"keys", "roll", "--algorithm", "HS256"}, 2, "", "--algorithm"},
		{[]string{"keys", "roll", "--algorithm", "EdDSA"}, 0, "published", ""},
		{[]string{"keys", "roll"}, 1, "", "waits already"},
		{[]string{"keys", "retire", "nobody", "--withdraw"}, 1, "", "no such key"},
		{[]string{"keys", "retire", strings.Repeat("x", 65)}, 2, "", "KEY"},
		{[]string{"events", "listeners"}, 0, "LISTENER", ""},
		{[]string{"events", "parked", "notify.orders"}, 0, "ATTEMPTS", ""},
		{[]string{"events", "retry", "nobody", "evt_x"}, 1, "", "evt_x"},
		{[]string{"events", "forget", "nobody"}, 1, "", "no such listener"},
		{[]string{"events", "replay", "nobody", "--since", "yesterday"}, 2, "", "--since"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append(append([]string{}, c.args...), "--server", h.Base, "--user", "boss")
			code := run(t.Context(), args, nil, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Fatalf("exit code %d, want %d\nstdout (want %q):\n%s\nstderr (want %q):\n%s", code, c.code, c.stdout, &stdout, c.stderr, &stderr)
			}
			if strings.Contains(stdout.String()+stderr.String(), apptest.Password) {
				t.Fatal("the password shows")
			}
		})
	}
	for _, c := range []struct {
		args   []string
		stderr string
	}{
		{[]string{"jobs", "status", "--server", h.Base}, "who asks?"},
		{[]string{"jobs", "status", "--server", h.Base, "--user", "operator"}, "administrator"},
		{[]string{"jobs", "status", "--server", "ftp://x", "--user", "boss"}, "--server"},
		{[]string{"jobs", "status", "--server", "http://127.0.0.1:1", "--user", "boss"}, "cannot be reached"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), c.args, nil, &stdout, &stderr); code == 0 || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%q: exit code %d: %s", c.args, code, &stderr)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"schedules", "explain", trigger, "-n", "3"}, nil, &stdout, &stderr); code != 0 || strings.Count(stdout.String(), "09:00:00 +08:00") != 3 {
		t.Errorf("exit code %d: %s%s", code, &stdout, &stderr)
	}
}
