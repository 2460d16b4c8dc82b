package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/job"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/schedule"
	"levee/internal/platform/web"
)

type letter struct {
	To       string `json:"to"`
	Password string `json:"password"`
	Phone    string `json:"phone"`
}

type sent struct {
	Letter int64 `json:"letter"`
}

func (sent) EventName() string { return "letter.sent.v1" }
func (s sent) EventKey() int64 { return s.Letter }

// town is a house with jobs, schedules and events, whose trail is kept in memory.
type town struct {
	*platformtest.Platform
	t         *testing.T
	schedules *schedule.Schedules
	mail      *job.Kind[letter]
	handler   http.Handler

	mu    sync.Mutex // guards below
	trail []string
	deny  error // what the trail says
	fail  error // what the job's function returns
	sick  error // what the listener returns
	heard int
}

var actors = map[string]levee.Actor{"": {}, "customer": {User: 2, Roles: levee.RoleCustomer}, "operator": {User: 3, Roles: levee.RoleOperator},
	"boss": {User: 4, Roles: levee.RoleAdministrator}}

func newTown(t *testing.T) *town {
	h := &town{Platform: platformtest.New(t, schedule.Schema()), t: t}
	h.mail = job.Define("mail.send", job.Options{MaxAttempts: 1, Keep: time.Hour}, func(ctx context.Context, l letter) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		return errors.Join(h.fail, job.SetResult(ctx, map[string]string{"receipt": "r-1", "token": "hush-hush"}))
	})
	must(t, h.Jobs.Register(h.mail, job.Define("mail.sweep", job.Options{}, func(context.Context, struct{}) error { return nil })))
	must(t, h.Events.Register(event.Listen("search.letters", func(context.Context, *db.Tx, sent) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.heard++
		return h.sick
	})))
	var err error
	h.schedules, err = schedule.Open(schedule.Config{}, h.DB, h.Jobs, h.Obs)
	must(t, err)
	s := New(Deps{DB: h.DB, Sealer: h.Sealer, Obs: h.Obs, Jobs: h.Jobs, Schedules: h.schedules, Events: h.Events, Audit: h.audit})
	srv, err := web.New(web.Config{}, web.Parts{Obs: h.Obs, DB: h.DB, Title: "test", Version: "0",
		Authenticate: func(r *http.Request) (levee.Actor, error) { return actors[r.Header.Get("X-Actor")], nil }})
	must(t, err)
	s.Routes(srv)
	h.handler = srv.Handler()
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *town) audit(_ context.Context, tx *db.Tx, act, subject string, _, _ any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deny == nil {
		tx.AfterCommit(func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.trail = append(h.trail, act)
		})
	}
	return h.deny
}

// ask asks as the administrator, wants a status, and returns the answer.
func (h *town) ask(status int, method, path string, body any) map[string]any {
	h.t.Helper()
	return h.askAs("boss", status, method, path, body)
}

func (h *town) askAs(who string, status int, method, path string, body any) map[string]any {
	h.t.Helper()
	var in strings.Builder
	if body != nil {
		must(h.t, json.NewEncoder(&in).Encode(body))
	}
	r := httptest.NewRequest(method, path, strings.NewReader(in.String()))
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Actor", who)
	r.Header.Set("If-Match", "*")
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	if w.Code != status {
		h.t.Fatalf("%s %s as %q: %d, want %d: %s", method, path, who, w.Code, status, w.Body)
	}
	if strings.Contains(w.Body.String(), "hush-hush") || strings.Contains(w.Body.String(), "13800138000") {
		h.t.Fatalf("%s %s shows what is secret: %s", method, path, w.Body)
	}
	out := map[string]any{"location": w.Header().Get("Location")}
	if w.Body.Len() > 0 {
		must(h.t, json.Unmarshal(w.Body.Bytes(), &out))
	}
	return out
}

func items(answer map[string]any) (list []map[string]any) {
	for _, one := range answer["items"].([]any) {
		list = append(list, one.(map[string]any))
	}
	return list
}

func (h *town) drain() {
	h.t.Helper()
	must(h.t, h.Jobs.Drain(h.t.Context()))
}

var secrets = letter{To: "anna", Password: "hush-hush", Phone: "13800138000"}

func TestJobs(t *testing.T) {
	h := newTown(t)
	id, err := h.mail.Enqueue(t.Context(), secrets)
	must(t, err)
	later, err := h.mail.Enqueue(t.Context(), secrets, job.After(time.Hour), job.Priority(2))
	must(t, err)
	public, publicLater := h.Sealer.Seal(levee.KindJob, id), h.Sealer.Seal(levee.KindJob, later)

	one := h.ask(200, "GET", "/v1/jobs/"+public, nil)
	args := one["args"].(map[string]any)
	if one["state"] != "waiting" || one["kind"] != "mail.send" || args["to"] != "anna" || args["password"] == nil || !strings.HasSuffix(args["phone"].(string), "8000") {
		t.Errorf("%v", one)
	}
	if list := items(h.ask(200, "GET", "/v1/jobs?state=later", nil)); len(list) != 1 || list[0]["id"] != publicLater || list[0]["priority"] != 2.0 {
		t.Errorf("later: %v", list)
	}
	q := h.ask(200, "GET", "/v1/job-queue", nil)
	if q["waiting"] != 1.0 || q["later"] != 1.0 || len(q["kinds"].([]any)) != 2 {
		t.Errorf("%v", q)
	}
	if got := fmt.Sprint(q["counts"]); q["whole"] != true || len(q["counts"].([]any)) != 2 || !strings.Contains(got, "priority:2") || q["totals"].(map[string]any)["enqueued"] != 2.0 {
		t.Errorf("%v, %v", got, q["totals"])
	}

	// A waiting one leaves when it is cancelled, and is gone for good.
	h.ask(204, "POST", "/v1/jobs/"+publicLater+"/cancellation", nil)
	if got := h.ask(200, "GET", "/v1/jobs/"+publicLater, nil)["state"]; got != "cancelled" {
		t.Errorf("cancelled: %v", got)
	}
	h.ask(404, "POST", "/v1/jobs/"+publicLater+"/cancellation", nil)

	// One that fails for good is dead, says why, and may run again.
	h.fail = errors.New("the post is closed")
	h.drain()
	dead := items(h.ask(200, "GET", "/v1/jobs?state=dead&kind=mail.send", nil))
	if len(dead) != 1 || dead[0]["id"] != public || !strings.Contains(fmt.Sprint(dead[0]["failures"]), "the post is closed") {
		t.Fatalf("dead: %v", dead)
	}
	h.mu.Lock()
	h.fail = nil
	h.mu.Unlock()
	h.ask(204, "POST", "/v1/jobs/"+public+"/retry", nil)
	h.drain()
	one = h.ask(200, "GET", "/v1/jobs/"+public, nil)
	if result := one["result"].(map[string]any); one["state"] != "done" || result["receipt"] != "r-1" {
		t.Errorf("done: %v", one)
	}
	h.ask(404, "POST", "/v1/jobs/"+public+"/retry", nil)
	h.ask(404, "GET", "/v1/jobs/"+h.Sealer.Seal(levee.KindJob, 77), nil)
	h.ask(404, "GET", "/v1/jobs/"+h.Sealer.Seal(levee.KindUser, id), nil)
	h.ask(422, "GET", "/v1/jobs?state=tired", nil)
	h.ask(422, "GET", "/v1/jobs?after=junk", nil)

	// Pages: each job once, newest first.
	for range 5 {
		_, err := h.mail.Enqueue(t.Context(), secrets)
		must(t, err)
	}
	seen, after := map[string]bool{}, ""
	for range 10 {
		page := h.ask(200, "GET", "/v1/jobs?limit=2"+after, nil)
		for _, j := range items(page) {
			if id := j["id"].(string); seen[id] {
				t.Errorf("%s comes twice", id)
			} else {
				seen[id] = true
			}
		}
		if page["next"] == nil {
			break
		}
		after = "&after=" + page["next"].(string)
	}
	if len(seen) != 5 {
		t.Errorf("%d jobs in the pages, want 5", len(seen))
	}

	h.ask(204, "PUT", "/v1/job-queue/pauses/kind/mail.send", nil)
	h.ask(204, "PUT", "/v1/job-queue/pauses/pool/default", nil)
	if q := fmt.Sprint(h.ask(200, "GET", "/v1/job-queue", nil)); strings.Count(q, "paused:true") != 2 {
		t.Errorf("paused: %s", q)
	}
	h.ask(204, "DELETE", "/v1/job-queue/pauses/kind/mail.send", nil)
	h.ask(204, "DELETE", "/v1/job-queue/pauses/pool/default", nil)
	if q := fmt.Sprint(h.ask(200, "GET", "/v1/job-queue", nil)); strings.Contains(q, "paused:true") {
		t.Errorf("resumed: %s", q)
	}
	h.ask(422, "PUT", "/v1/job-queue/pauses/house/x", nil)
	if want := []string{"job.cancel", "job.cancel", "job.retry", "job.retry", "jobs.pause", "jobs.pause", "jobs.resume", "jobs.resume"}; !slices.Equal(h.trail, want) {
		t.Errorf("the trail has %v", h.trail)
	}
}

func TestSchedules(t *testing.T) {
	h := newTown(t)
	made := h.ask(201, "POST", "/v1/schedules", map[string]any{"name": "night mail", "kind": "mail.send", "trigger": "cron 30 2 * * *", "args": secrets, "grace_ms": 5000})
	if made["location"] != "/v1/schedules/night%20mail" || made["state"] != "active" || made["grace_ms"] != 5000.0 || made["next_at"] == nil {
		t.Errorf("%v", made)
	}
	h.ask(409, "POST", "/v1/schedules", map[string]any{"name": "night mail", "kind": "mail.send", "trigger": "cron 30 2 * * *"})
	for field, body := range map[string]map[string]any{
		"trigger":  {"name": "x", "kind": "mail.send", "trigger": "cron 30 25 * * *"},
		"kind":     {"name": "x", "kind": "mail.lose", "trigger": "cron 30 2 * * *"},
		"coalesce": {"name": "x", "kind": "mail.send", "trigger": "cron 30 2 * * *", "coalesce": "some"},
		"grace_ms": {"name": "x", "kind": "mail.send", "trigger": "cron 30 2 * * *", "grace_ms": -1},
		"name":     {"name": "", "kind": "mail.send", "trigger": "cron 30 2 * * *"},
	} {
		if got := fmt.Sprint(h.ask(422, "POST", "/v1/schedules", body)); !strings.Contains(got, field) {
			t.Errorf("%s is not named: %s", field, got)
		}
	}
	one := h.ask(200, "GET", "/v1/schedules/night%20mail", nil)
	if runs := one["next_runs"].([]any); len(runs) != 10 {
		t.Errorf("%d runs to come", len(runs))
	}
	if got := h.ask(200, "POST", "/v1/schedules/night%20mail/pause", nil)["state"]; got != "paused" {
		t.Errorf("paused: %v", got)
	}
	if list := items(h.ask(200, "GET", "/v1/schedules?state=paused", nil)); len(list) != 1 {
		t.Errorf("%d are paused", len(list))
	}
	if got := h.ask(200, "POST", "/v1/schedules/night%20mail/resume", map[string]any{})["state"]; got != "active" {
		t.Errorf("resumed: %v", got)
	}
	changed := h.ask(200, "PATCH", "/v1/schedules/night%20mail", map[string]any{"note": "for the night watch", "max_live": 3})
	if changed["note"] != "for the night watch" || changed["max_live"] != 3.0 || changed["grace_ms"] != 5000.0 || changed["trigger"] != made["trigger"] {
		t.Errorf("%v", changed)
	}
	h.ask(422, "PATCH", "/v1/schedules/night%20mail", map[string]any{"trigger": "now and then"})

	run := h.ask(202, "POST", "/v1/schedules/night%20mail/runs", nil)
	jobs := items(h.ask(200, "GET", one["links"].(map[string]any)["jobs"].(string), nil))
	if len(jobs) != 1 || jobs[0]["id"] != run["job"] || run["location"] != "/v1/jobs/"+run["job"].(string) {
		t.Errorf("%v gave %v", run, jobs)
	}
	if got := h.ask(200, "GET", "/v1/schedules/night%20mail", nil); got["fired"] != 1.0 || got["last_job"] != run["job"] {
		t.Errorf("%v", got)
	}
	h.ask(204, "DELETE", "/v1/schedules/night%20mail", nil)
	h.ask(404, "GET", "/v1/schedules/night%20mail", nil)
	for _, path := range []string{"pause", "resume", "runs"} {
		body := map[string]any(nil)
		if path == "resume" {
			body = map[string]any{}
		}
		var in any = body
		if body == nil {
			in = nil
		}
		h.ask(404, "POST", "/v1/schedules/nobody/"+path, in)
	}

	explained := h.ask(200, "GET", "/v1/triggers?text=cron+0+9+*+*+mon&after=2026-11-21T00:00:00Z&limit=3", nil)
	if runs := explained["next_runs"].([]any); len(runs) != 3 || !strings.HasPrefix(runs[0].(string), "2026-11-23T09:00:00") {
		t.Errorf("%v", explained)
	}
	h.ask(422, "GET", "/v1/triggers?text=soon", nil)
	if want := []string{"schedule.create", "schedule.create", "schedule.create", "schedule.pause", "schedule.resume", "schedule.change", "schedule.run", "schedule.remove"}; len(h.trail) < len(want) || h.trail[len(h.trail)-1] != "schedule.remove" {
		t.Errorf("the trail has %v", h.trail)
	}
}

func TestEvents(t *testing.T) {
	h := newTown(t)
	emit := func() {
		must(t, h.DB.Tx(t.Context(), "emit", func(ctx context.Context, tx *db.Tx) error { return h.Events.Emit(ctx, tx, sent{7}) }))
	}
	emit()
	must(t, h.Events.Drain(t.Context()))
	all := h.ask(200, "GET", "/v1/event-listeners", nil)
	if list := items(all); len(list) != 1 || list[0]["name"] != "search.letters" || list[0]["here"] != true || list[0]["parked"] != 0.0 {
		t.Errorf("%v", all)
	}
	h.ask(404, "DELETE", "/v1/event-listeners/nobody", nil)
	h.ask(409, "DELETE", "/v1/event-listeners/search.letters", nil)
	h.ask(404, "POST", "/v1/event-listeners/nobody/replay", map[string]any{})

	// What was given up lies there with its reason; a retry that fails says why and leaves it.
	must(t, h.DB.Tx(t.Context(), "park", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO event_parked (event_id, listener, name, event_key, payload, attempts, error, parked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			501, "search.letters", "letter.sent.v1", 7, `{"letter":7,"token":"hush-hush"}`, 12, "no such letter", time.Now().UnixMicro())
		return err
	}))
	parked := items(h.ask(200, "GET", "/v1/parked-events?listener=search.letters", nil))
	if len(parked) != 1 || parked[0]["error"] != "no such letter" || parked[0]["attempts"] != 12.0 {
		t.Fatalf("%v", parked)
	}
	path := "/v1/parked-events/search.letters/" + parked[0]["event"].(string)
	h.mu.Lock()
	h.sick = errors.New("still no such letter")
	h.mu.Unlock()
	if got := fmt.Sprint(h.ask(409, "POST", path+"/retry", nil)); !strings.Contains(got, "still no such letter") {
		t.Errorf("%s", got)
	}
	h.mu.Lock()
	h.sick = nil
	before := h.heard
	h.mu.Unlock()
	h.ask(204, "POST", path+"/retry", nil)
	if h.heard == before {
		t.Error("it was not delivered")
	}
	h.ask(404, "POST", path+"/retry", nil)
	h.ask(404, "DELETE", path, nil)
	h.ask(422, "GET", "/v1/parked-events", nil)
	h.ask(422, "GET", "/v1/parked-events?listener=x&after=junk", nil)
}

// Nobody but an administrator sees or does anything here, and nothing is done that the trail does not take.
func TestWhoMay(t *testing.T) {
	h := newTown(t)
	id, err := h.mail.Enqueue(t.Context(), secrets, job.After(time.Hour))
	must(t, err)
	public := h.Sealer.Seal(levee.KindJob, id)
	for who, status := range map[string]int{"": 401, "customer": 403, "operator": 403} {
		for _, route := range []string{"GET /v1/job-queue", "GET /v1/jobs", "GET /v1/jobs/" + public, "POST /v1/jobs/" + public + "/cancellation", "POST /v1/jobs/" + public + "/retry",
			"PUT /v1/job-queue/pauses/pool/default", "DELETE /v1/job-queue/pauses/pool/default", "GET /v1/schedules", "GET /v1/schedules/x", "DELETE /v1/schedules/x",
			"POST /v1/schedules/x/pause", "POST /v1/schedules/x/runs", "GET /v1/triggers?text=x", "GET /v1/event-listeners", "DELETE /v1/event-listeners/x",
			"GET /v1/parked-events?listener=x", "POST /v1/parked-events/x/y/retry", "DELETE /v1/parked-events/x/y"} {
			method, path, _ := strings.Cut(route, " ")
			h.askAs(who, status, method, path, nil)
		}
		h.askAs(who, status, "POST", "/v1/schedules", map[string]any{"name": "x", "kind": "mail.send", "trigger": "every 1h"})
		h.askAs(who, status, "PATCH", "/v1/schedules/x", map[string]any{})
		h.askAs(who, status, "POST", "/v1/schedules/x/resume", map[string]any{})
		h.askAs(who, status, "POST", "/v1/event-listeners/x/replay", map[string]any{})
	}
	if len(h.trail) != 0 {
		t.Errorf("the trail has %v", h.trail)
	}
	h.mu.Lock()
	h.deny = levee.E(levee.CodeUnavailable, "the trail is away")
	h.mu.Unlock()
	h.ask(503, "POST", "/v1/jobs/"+public+"/cancellation", nil)
	if got := h.ask(200, "GET", "/v1/jobs/"+public, nil)["state"]; got != "later" {
		t.Errorf("it was cancelled without a trail: %v", got)
	}
}
