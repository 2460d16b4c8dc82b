package ops

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"levee"
	"levee/internal/platform/listing"
	"levee/internal/platform/schedule"
	"levee/internal/platform/web"
	"levee/internal/platform/when"
)

func (s *Service) scheduleRoutes(srv *web.Server) {
	const roles = levee.RoleAdministrator
	add := func(method, path, id, summary string) web.Route {
		return web.Route{Method: method, Path: path, ID: id, Tag: tag, Roles: roles, Summary: summary, Errors: []int{404, 422, 503}, BodyMax: 128 << 10}
	}
	listing.Add(srv, add("GET", "/v1/schedules", "listSchedules", "Schedules, by name"), scheduleList(), s.getSchedules)
	r := add("POST", "/v1/schedules", "createSchedule", "Make a schedule")
	r.Status, r.Errors = 201, []int{409, 413, 422, 503}
	r.Description = "409: the name is taken."
	web.Add(srv, r, s.postSchedule)
	web.Add(srv, add("GET", "/v1/schedules/{name}", "getSchedule", "A schedule with its next ten firings"), s.getSchedule)
	r = add("PATCH", "/v1/schedules/{name}", "changeSchedule", "Change a schedule")
	r.Description = "What is left out stays. With another trigger the first firing is the first after now. A patch of the document sees all but args, which are given whole."
	r.Current = s.currentSchedule
	web.Add(srv, r, s.patchSchedule)
	r = add("DELETE", "/v1/schedules/{name}", "removeSchedule", "Remove a schedule; jobs that it gave stay")
	r.Status, r.Errors = 204, []int{404, 409, 503}
	r.Description = "409: the program brings it, so it would be there again at the next start. Pause it instead."
	web.Add(srv, r, s.deleteSchedule)
	r = add("POST", "/v1/schedules/{name}/pause", "pauseSchedule", "Let a schedule fire no more until it is resumed")
	r.Errors = []int{404, 409, 503}
	web.Add(srv, r, s.postPause)
	r = add("POST", "/v1/schedules/{name}/resume", "resumeSchedule", "Let a paused schedule fire again")
	r.Errors = []int{404, 409, 422, 503}
	web.Add(srv, r, s.postResume)
	r = add("POST", "/v1/schedules/{name}/runs", "runSchedule", "Give a job of the schedule now, besides its firings")
	r.Status, r.Errors = 202, []int{404, 409, 503}
	r.Description = "409: as many of its jobs as may wait or run."
	web.Add(srv, r, s.postRun)
	r = add("GET", "/v1/triggers", "explainTrigger", "What a trigger's text means, and its next firings")
	r.Errors = []int{422}
	web.Add(srv, r, s.getTrigger)
}

type scheduleView struct {
	Name      string     `json:"name"`
	Kind      string     `json:"kind" doc:"Of the jobs that it gives"`
	Trigger   string     `json:"trigger"`
	Args      any        `json:"args,omitempty" doc:"Without what is secret in them; absent: each job is told what it is for"`
	State     string     `json:"state" enum:"active,paused,finished"`
	GraceMS   int64      `json:"grace_ms" doc:"How late a firing may come; 0: however late"`
	Coalesce  string     `json:"coalesce" enum:"latest,earliest,all" doc:"What becomes of several that are due at once"`
	Most      int        `json:"most" doc:"How many of them all gives"`
	MaxLive   int        `json:"max_live" doc:"How many of its jobs may wait or run at a time; -1: any number"`
	Note      string     `json:"note,omitempty"`
	Declared  bool       `json:"declared" doc:"The program brings it"`
	Changed   bool       `json:"changed" doc:"It was changed at run time since"`
	Fault     string     `json:"fault,omitempty" doc:"Why this node cannot fire it"`
	NextAt    *time.Time `json:"next_at,omitempty"`
	LastFor   *time.Time `json:"last_for,omitempty" doc:"The time that was last fired for"`
	LastRunAt *time.Time `json:"last_run_at,omitempty"`
	LastJob   string     `json:"last_job,omitempty"`
	Fired     int64      `json:"fired"`
	Late      int64      `json:"late" doc:"Firings left out because they came later than the grace"`
	Merged    int64      `json:"merged" doc:"Firings that went into another one"`
	Busy      int64      `json:"busy" doc:"Firings left out because of max_live"`
	Links     struct {
		Self string `json:"self"`
		Jobs string `json:"jobs"`
	} `json:"links"`
	NextRuns []time.Time `json:"next_runs,omitempty" doc:"As if it were active; only in the answer about one schedule"`
}

func (s *Service) viewSchedule(i schedule.Info) scheduleView {
	v := scheduleView{Name: i.Name, Kind: i.Kind, Trigger: i.Trigger.Text(), State: i.State.String(), GraceMS: i.Grace.Milliseconds(), Coalesce: i.Coalesce.String(),
		Most: i.Most, MaxLive: i.MaxLive, Note: i.Note, Declared: i.Declared, Changed: i.Changed, Fault: i.Fault, NextAt: orNil(i.Next), LastFor: orNil(i.Last),
		LastRunAt: orNil(i.LastRun), Fired: i.Fired, Late: i.Late, Merged: i.Merged, Busy: i.Busy}
	if raw, ok := i.Args.(json.RawMessage); ok && string(raw) != "null" {
		v.Args = masked(string(raw))
	}
	if i.LastJob != 0 {
		v.LastJob = s.Sealer.Seal(levee.KindJob, i.LastJob)
	}
	v.Links.Self = "/v1/schedules/" + url.PathEscape(i.Name)
	v.Links.Jobs = "/v1/jobs?source=" + url.QueryEscape("schedule/"+i.Name)
	return v
}

type schedulePath struct {
	Name string `path:"name" maxLength:"190"`
}

type scheduleOutput struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     scheduleView
}

// shown returns a schedule as it is now.
func (s *Service) shown(ctx context.Context, name string) (*scheduleOutput, error) {
	i, err := s.Schedules.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return &scheduleOutput{Body: s.viewSchedule(i), ETag: web.Tag(scheduleVersion(&i.Entry))}, nil
}

// scheduleVersion changes with all that a change can change, and not with firings.
func scheduleVersion(e *schedule.Entry) string {
	raw, _ := json.Marshal(e.Args) // what cannot be written was never kept
	return web.Digest(e.Kind, e.Trigger.Text(), raw, e.Grace, e.Coalesce, e.Most, e.MaxLive, e.Note)
}

func (s *Service) currentSchedule(ctx context.Context, name string) (doc any, tag string, err error) {
	i, err := s.Schedules.Get(ctx, name)
	if err != nil {
		return nil, "", err
	}
	trigger, grace, coalesce := i.Trigger.Text(), i.Grace.Milliseconds(), i.Coalesce.String()
	return Terms{Kind: &i.Kind, Trigger: &trigger, GraceMS: &grace, Coalesce: &coalesce, Most: &i.Most, MaxLive: &i.MaxLive, Note: &i.Note},
		web.Tag(scheduleVersion(&i.Entry)), nil
}

const runsShown = 10

func (s *Service) getSchedule(ctx context.Context, in *schedulePath) (*scheduleOutput, error) {
	out, err := s.shown(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	if out.Body.Fault == "" {
		out.Body.NextRuns, err = s.Schedules.NextRuns(ctx, in.Name, runsShown)
	}
	return out, err
}

func scheduleList() *listing.List[scheduleView] {
	return listing.New[scheduleView](listing.Spec{Name: "schedules", Forward: true, Export: true,
		Fields: []listing.Field{
			{Name: "prefix", Only: true, Doc: "Only names that begin with it"},
			{Name: "state", Type: listing.Choice, Only: true, Choices: []string{"active", "paused", "finished"}, Doc: "All if left out"},
		},
		Keys: []listing.Key{{Name: "name", Text: true}}})
}

func (s *Service) getSchedules(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[scheduleView], error) {
	f := schedule.Filter{Prefix: q.Value("prefix"), Limit: q.Limit}
	if key, ok := q.After(); ok {
		f.After, _ = key.(string)
	}
	for _, state := range []schedule.State{schedule.Active, schedule.Paused, schedule.Finished} {
		if state.String() == q.Value("state") {
			f.States = []schedule.State{state}
		}
	}
	list, next, err := s.Schedules.List(ctx, f)
	if err != nil {
		return nil, err
	}
	views := make([]scheduleView, len(list))
	for n, i := range list {
		views[n] = s.viewSchedule(i)
	}
	if next == "" {
		return listing.Rest(q, views, nil), nil
	}
	return listing.Rest(q, views, next), nil
}

// Terms are what may be said of a schedule; nil: nothing was said.
type Terms struct {
	Kind     *string         `json:"kind,omitempty" minLength:"1" maxLength:"160"`
	Trigger  *string         `json:"trigger,omitempty" minLength:"1" maxLength:"1000" doc:"docs/triggers.md: cron 0 9 * * mon-fri in Asia/Shanghai"`
	Args     json.RawMessage `json:"args,omitempty" doc:"The jobs' arguments, as JSON of at most 64 KiB; null: each job is told what it is for"`
	GraceMS  *int64          `json:"grace_ms,omitempty" minimum:"0" maximum:"31622400000"`
	Coalesce *string         `json:"coalesce,omitempty" enum:"latest,earliest,all"`
	Most     *int            `json:"most,omitempty" minimum:"1" maximum:"1000"`
	MaxLive  *int            `json:"max_live,omitempty" minimum:"-1" maximum:"10000"`
	Note     *string         `json:"note,omitempty" maxLength:"1000"`
}

// parse reads the trigger before anything is written. The error names the field of the body.
func (t *Terms) parse() (trigger when.Trigger, err error) {
	if t.Trigger == nil {
		return trigger, nil
	}
	return parse("body.trigger", *t.Trigger)
}

// parse reads a trigger. The error names the field that it came in, and says which part of the text is wrong.
func parse(field, text string) (t when.Trigger, err error) {
	t, err = when.Parse(text)
	if e, ok := errors.AsType[*levee.Error](err); ok && len(e.Fields) > 0 {
		e.Fields[0].Field = field
	}
	return t, err
}

func (t *Terms) apply(e *schedule.Entry, trigger when.Trigger) {
	set := func(to *string, from *string) {
		if from != nil {
			*to = *from
		}
	}
	set(&e.Kind, t.Kind)
	set(&e.Note, t.Note)
	if t.Trigger != nil {
		e.Trigger = trigger
	}
	if len(t.Args) > 0 {
		if e.Args = t.Args; string(t.Args) == "null" {
			e.Args = nil
		}
	}
	if t.GraceMS != nil {
		e.Grace = time.Duration(*t.GraceMS) * time.Millisecond
	}
	if t.Coalesce != nil {
		for _, c := range []schedule.Coalesce{schedule.Latest, schedule.Earliest, schedule.All} {
			if c.String() == *t.Coalesce {
				e.Coalesce = c
			}
		}
	}
	if t.Most != nil {
		e.Most = *t.Most
	}
	if t.MaxLive != nil {
		e.MaxLive = *t.MaxLive
	}
}

// told is what the trail says of a schedule.
type told struct {
	Name    string `json:"name"`
	Kind    string `json:"kind,omitempty"`
	Trigger string `json:"trigger,omitempty"`
	State   string `json:"state,omitempty"`
	Note    string `json:"note,omitempty"`
}

func tell(i schedule.Info) told {
	return told{i.Name, i.Kind, i.Trigger.Text(), i.State.String(), i.Note}
}

func (s *Service) postSchedule(ctx context.Context, in *struct {
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"160"`
		Terms
		Paused bool `json:"paused,omitempty" doc:"It begins paused"`
	}
}) (*scheduleOutput, error) {
	b := &in.Body
	switch {
	case b.Kind == nil:
		return nil, levee.Invalid("body.kind", "the name of a kind of job", "nothing")
	case b.Trigger == nil:
		return nil, levee.Invalid("body.trigger", "when it fires", "nothing")
	}
	trigger, err := b.parse()
	if err != nil {
		return nil, err
	}
	e := schedule.Entry{Name: b.Name, Paused: b.Paused}
	b.apply(&e, trigger)
	err = s.act(ctx, "schedule.create", "", nil, told{Name: e.Name, Kind: e.Kind, Trigger: trigger.Text(), Note: e.Note}, func(ctx context.Context) error {
		_, err := s.Schedules.Add(ctx, e, schedule.Fail)
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := s.shown(ctx, b.Name)
	if err == nil {
		out.Location = out.Body.Links.Self
	}
	return out, err
}

func (s *Service) patchSchedule(ctx context.Context, in *struct {
	Name string `path:"name" maxLength:"190"`
	web.Precondition
	Body Terms
}) (*scheduleOutput, error) {
	trigger, err := in.Body.parse()
	if err != nil {
		return nil, err
	}
	seen := in.Seen(false)
	return s.change(ctx, in.Name, "schedule.change", told{Name: in.Name, Trigger: trigger.Text()}, func(ctx context.Context) error {
		return s.Schedules.Modify(ctx, in.Name, func(e *schedule.Entry) error {
			if err := seen(scheduleVersion(e)); err != nil {
				return err
			}
			in.Body.apply(e, trigger)
			return nil
		})
	})
}

// change does something to a schedule that is there, and returns what it is then.
func (s *Service) change(ctx context.Context, name, what string, after any, do func(ctx context.Context) error) (*scheduleOutput, error) {
	i, err := s.Schedules.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := s.act(ctx, what, "", tell(i), after, do); err != nil {
		return nil, err
	}
	return s.shown(ctx, name)
}

func (s *Service) deleteSchedule(ctx context.Context, in *schedulePath) (*struct{}, error) {
	i, err := s.Schedules.Get(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return nil, s.act(ctx, "schedule.remove", "", tell(i), nil, func(ctx context.Context) error { return s.Schedules.Remove(ctx, in.Name) })
}

func (s *Service) postPause(ctx context.Context, in *schedulePath) (*scheduleOutput, error) {
	return s.change(ctx, in.Name, "schedule.pause", nil, func(ctx context.Context) error { return s.Schedules.Pause(ctx, in.Name) })
}

func (s *Service) postResume(ctx context.Context, in *struct {
	Name string `path:"name" maxLength:"190"`
	Body struct {
		From string `json:"from,omitempty" enum:"now,pause" default:"now" doc:"pause: what was missed since is due, as grace and coalesce say"`
	}
}) (*scheduleOutput, error) {
	from := schedule.Now
	if in.Body.From == "pause" {
		from = schedule.Where
	}
	return s.change(ctx, in.Name, "schedule.resume", map[string]string{"from": in.Body.From}, func(ctx context.Context) error {
		return s.Schedules.Resume(ctx, in.Name, from)
	})
}

type runOutput struct {
	Location string `header:"Location"`
	Body     struct {
		Job string `json:"job"`
	}
}

func (s *Service) postRun(ctx context.Context, in *schedulePath) (*runOutput, error) {
	i, err := s.Schedules.Get(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	out := &runOutput{}
	err = s.act(ctx, "schedule.run", "", tell(i), nil, func(ctx context.Context) error {
		id, err := s.Schedules.Trigger(ctx, in.Name)
		out.Body.Job = s.Sealer.Seal(levee.KindJob, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Location = "/v1/jobs/" + out.Body.Job
	return out, nil
}

type triggerOutput struct {
	Body struct {
		Trigger  string      `json:"trigger" doc:"As it is kept"`
		NextRuns []time.Time `json:"next_runs" nullable:"false" doc:"Fewer than asked for when it ends"`
	}
}

func (s *Service) getTrigger(ctx context.Context, in *struct {
	Text  string    `query:"text" required:"true" minLength:"1" maxLength:"1000"`
	After time.Time `query:"after" doc:"Default now"`
	Limit int       `query:"limit" minimum:"1" maximum:"100" default:"10"`
}) (*triggerOutput, error) {
	t, err := parse("query.text", in.Text)
	if err != nil {
		return nil, err
	}
	if in.After.IsZero() {
		in.After = s.clock()
	}
	out := &triggerOutput{}
	out.Body.Trigger, out.Body.NextRuns = t.Text(), when.NextRuns(t, in.After, in.Limit)
	if out.Body.NextRuns == nil {
		out.Body.NextRuns = []time.Time{}
	}
	return out, nil
}
