package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"levee"
	"levee/internal/platform/when"
)

type schedulesCmd struct {
	List    schedulesListCmd    `cmd:"" help:"List schedules, by name."`
	Show    schedulesShowCmd    `cmd:"" help:"Show a schedule with its next firings."`
	Add     schedulesAddCmd     `cmd:"" help:"Make a schedule."`
	Change  schedulesChangeCmd  `cmd:"" help:"Change a schedule."`
	Run     schedulesRunCmd     `cmd:"" help:"Give a job of a schedule now."`
	Pause   schedulesPauseCmd   `cmd:"" help:"Let schedules fire no more until they are resumed."`
	Resume  schedulesResumeCmd  `cmd:"" help:"Let paused schedules fire again."`
	Remove  schedulesRemoveCmd  `cmd:"" help:"Remove schedules."`
	Explain schedulesExplainCmd `cmd:"" help:"Show the next firings of a trigger; needs no server."`
}

type schedulesListCmd struct {
	remote
	Prefix string `help:"Only names that begin with it."`
	State  string `enum:",active,paused,finished" default:"" help:"active, paused or finished."`
	Limit  int    `default:"1000" help:"At most so many, 1 to 100000."`
}

func (c *schedulesListCmd) Run(env *common) error {
	query := url.Values{}
	if c.Prefix != "" {
		query.Set("prefix", c.Prefix)
	}
	if c.State != "" {
		query.Set("state", c.State)
	}
	type entry struct {
		Name, Kind, Trigger, State string
		NextAt                     *time.Time `json:"next_at"`
		LastRunAt                  *time.Time `json:"last_run_at"`
		Fired, Late, Merged, Busy  int64
	}
	return c.with(env, func(s *caller) error {
		var t columns
		if !c.JSON {
			t = newColumns(env, "NAME", "KIND", "STATE", "NEXT", "LAST", "FIRED", "LEFT OUT", "TRIGGER")
		}
		err := pages(s, "/v1/schedules", query, c.Limit, func(e entry) error {
			t.row(e.Name, e.Kind, e.State, at(e.NextAt), at(e.LastRunAt), fmt.Sprint(e.Fired), fmt.Sprint(e.Late+e.Merged+e.Busy), e.Trigger)
			return nil
		})
		if err != nil || c.JSON {
			return err
		}
		return t.end()
	})
}

type scheduleName struct {
	remote
	Name string `arg:"" help:"The schedule's name."`
}

func (c *scheduleName) path(tail string) string {
	return "/v1/schedules/" + url.PathEscape(c.Name) + tail
}

type schedulesShowCmd struct{ scheduleName }

func (c *schedulesShowCmd) Run(env *common) error {
	return c.with(env, func(s *caller) error { return s.show(c.path("")) })
}

// scheduleTerms are the flags of a schedule's terms.
type scheduleTerms struct {
	Args     string        `placeholder:"JSON" help:"The jobs' arguments, as JSON."`
	Grace    time.Duration `help:"How late a firing may come. Default: however late."`
	Coalesce string        `enum:",latest,earliest,all" default:"" help:"What becomes of several that are due at once: latest, earliest or all."`
	MaxLive  int           `help:"How many of its jobs may wait or run at a time; -1: any number. Default 1."`
	Note     string        `help:"A text for people."`
}

func (c *scheduleTerms) body(body map[string]any) (map[string]any, error) {
	if c.Args != "" {
		if !json.Valid([]byte(c.Args)) {
			return nil, levee.Invalid("--args", "JSON", levee.Shorten(c.Args, 200))
		}
		body["args"] = json.RawMessage(c.Args)
	}
	if c.Grace != 0 {
		body["grace_ms"] = c.Grace.Milliseconds()
	}
	if c.MaxLive != 0 {
		body["max_live"] = c.MaxLive
	}
	for name, value := range map[string]string{"coalesce": c.Coalesce, "note": c.Note} {
		if value != "" {
			body[name] = value
		}
	}
	return body, nil
}

type schedulesAddCmd struct {
	scheduleName
	Kind    string `arg:"" help:"The kind of the jobs that it gives (levee jobs status)."`
	Trigger string `arg:"" help:"When: \"cron 0 9 * * mon-fri in Asia/Shanghai\", \"every 90m\" (docs/triggers.md)."`
	scheduleTerms
	Paused bool `help:"It begins paused."`
}

func (c *schedulesAddCmd) Run(env *common) error {
	body, err := c.body(map[string]any{"name": c.Name, "kind": c.Kind, "trigger": c.Trigger, "paused": c.Paused})
	if err != nil {
		return err
	}
	return c.each(env, []string{c.Name}, "made", func(s *caller, _ string) error {
		return s.call(env.ctx, http.MethodPost, "/v1/schedules", body, nil)
	})
}

type schedulesChangeCmd struct {
	scheduleName
	Trigger string `help:"Another trigger; the first firing is the first after now."`
	Kind    string `help:"Another kind of jobs."`
	scheduleTerms
}

func (c *schedulesChangeCmd) Run(env *common) error {
	body, err := c.body(map[string]any{})
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"trigger": c.Trigger, "kind": c.Kind} {
		if value != "" {
			body[name] = value
		}
	}
	if len(body) == 0 {
		return levee.E(levee.CodeInvalid, "nothing is to be changed: give --trigger, --kind, --args, --grace, --coalesce, --max-live or --note")
	}
	return c.each(env, []string{c.Name}, "changed", func(s *caller, _ string) error { return s.call(env.ctx, http.MethodPatch, c.path(""), body, nil) })
}

type schedulesRunCmd struct{ scheduleName }

func (c *schedulesRunCmd) Run(env *common) error {
	return c.with(env, func(s *caller) error {
		var out struct{ Job string }
		if err := s.call(env.ctx, http.MethodPost, c.path("/runs"), nil, &out); err != nil {
			return err
		}
		_, err := fmt.Fprintln(env.stdout, out.Job)
		return err
	})
}

type scheduleNames struct {
	remote
	Name []string `arg:"" help:"Names of schedules."`
}

func (c *scheduleNames) post(env *common, did, tail string, body any) error {
	return c.each(env, c.Name, did, func(s *caller, name string) error {
		return s.call(env.ctx, http.MethodPost, "/v1/schedules/"+url.PathEscape(name)+tail, body, nil)
	})
}

type schedulesPauseCmd struct{ scheduleNames }

func (c *schedulesPauseCmd) Run(env *common) error { return c.post(env, "paused", "/pause", nil) }

type schedulesResumeCmd struct {
	scheduleNames
	From string `enum:"now,pause" default:"now" help:"now; or pause: what was missed since is due, as grace and coalesce say."`
}

func (c *schedulesResumeCmd) Run(env *common) error {
	return c.post(env, "goes on", "/resume", map[string]string{"from": c.From})
}

type schedulesRemoveCmd struct{ scheduleNames }

func (c *schedulesRemoveCmd) Run(env *common) error {
	return c.each(env, c.Name, "removed", func(s *caller, name string) error {
		return s.call(env.ctx, http.MethodDelete, "/v1/schedules/"+url.PathEscape(name), nil, nil)
	})
}

type schedulesExplainCmd struct {
	Trigger string `arg:"" help:"The trigger's text."`
	Count   int    `short:"n" default:"10" help:"How many firings, 1 to 10000."`
}

func (c *schedulesExplainCmd) Run(env *common) error {
	if c.Count < 1 || c.Count > 10_000 {
		return levee.Invalid("--count", "1 to 10000", c.Count)
	}
	t, err := when.Parse(c.Trigger)
	if err != nil {
		return err
	}
	fmt.Fprintln(env.stdout, t.Text())
	for _, run := range when.NextRuns(t, time.Now(), c.Count) {
		fmt.Fprintln(env.stdout, run.Format("Mon 2006-01-02 15:04:05.999999 -07:00 MST"))
	}
	return nil
}
