package ops

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

const tag = "machinery"

// Routes adds the room's operations: for administrators.
func (s *Service) Routes(srv *web.Server) {
	s.jobRoutes(srv)
	s.scheduleRoutes(srv)
	s.eventRoutes(srv)
}

func (s *Service) jobRoutes(srv *web.Server) {
	const roles = levee.RoleAdministrator
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/job-queue", ID: "getJobQueue", Tag: tag, Roles: roles,
		Summary: "How many jobs wait, run and are dead; the kinds and pools that this node has", Errors: []int{503}}, s.getQueue)
	web.Add(srv, web.Route{Method: "PUT", Path: "/v1/job-queue/pauses/{what}/{name}", ID: "pauseJobs", Tag: tag, Roles: roles, Status: 204, Errors: []int{422, 503},
		Summary: "Let no job of a pool or kind begin, on any node, within a second", Description: "What runs goes on; what is enqueued waits. A second time changes nothing."}, s.putPause)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/job-queue/pauses/{what}/{name}", ID: "resumeJobs", Tag: tag, Roles: roles, Status: 204, Errors: []int{422, 503},
		Summary: "Let the jobs of a pool or kind begin again"}, s.deletePause)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/jobs", ID: "listJobs", Tag: tag, Roles: roles, Errors: []int{422, 503}, Summary: "Jobs of one state, newest first",
		Description: "A page may hold fewer jobs than asked for and still have a next one: go on until next is missing."}, jobList(s.Sealer), s.getJobs)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/jobs/{id}", ID: "getJob", Tag: tag, Roles: roles, Errors: []int{404, 503}, Summary: "A job",
		Description: "One that is over is there for as long as its kind keeps it."}, s.getJob)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/jobs/{id}/cancellation", ID: "cancelJob", Tag: tag, Roles: roles, Status: 204, Errors: []int{404, 503},
		Summary: "Cancel a job", Description: "One that waits leaves at once. One that runs is told within a second, on whichever node; when it succeeds all the same, it is done."}, s.postCancellation)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/jobs/{id}/retry", ID: "retryJob", Tag: tag, Roles: roles, Status: 204, Errors: []int{404, 409, 503},
		Summary: "Let a dead job run again, with all its attempts", Description: "409: another job of the same key waits or runs."}, s.postRetry)
}

type failureView struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Node    string    `json:"node"`
	Error   string    `json:"error"`
}

type progressView struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Text  string `json:"text,omitempty"`
}

type jobView struct {
	ID       string        `json:"id"`
	Kind     string        `json:"kind"`
	Pool     string        `json:"pool"`
	Priority *int          `json:"priority,omitempty" doc:"0 (first) to 9; of a job that waits or runs"`
	Source   string        `json:"source,omitempty" doc:"What gave it: schedule/NAME"`
	State    string        `json:"state" enum:"waiting,later,running,done,cancelled,dead"`
	Args     any           `json:"args,omitempty" doc:"Its arguments, without what is secret in them"`
	Result   any           `json:"result,omitempty"`
	DueAt    *time.Time    `json:"due_at,omitempty"`
	BeganAt  *time.Time    `json:"began_at,omitempty" doc:"Of the last run, once it is over"`
	EndedAt  *time.Time    `json:"ended_at,omitempty"`
	Attempts int           `json:"attempts" doc:"That were begun, without those that a crash or a stop of the node interrupted"`
	Node     string        `json:"node,omitempty" doc:"That runs it or ran it last"`
	Progress *progressView `json:"progress,omitempty"`
	Failures []failureView `json:"failures" nullable:"false" doc:"The last five attempts that failed"`
	Links    struct {
		Self string `json:"self"`
	} `json:"links"`
}

func (s *Service) viewJob(i job.Info) jobView {
	v := jobView{ID: s.Sealer.Seal(levee.KindJob, i.ID), Kind: i.Kind, Pool: i.Pool, Source: i.Source, State: string(i.State), Args: masked(i.Args),
		Result: masked(string(i.Result)), DueAt: orNil(i.Due), BeganAt: orNil(i.Began), EndedAt: orNil(i.Ended), Attempts: i.Attempts, Node: i.Node, Failures: []failureView{}}
	switch i.State {
	case job.Waiting, job.Later, job.Running:
		v.Priority = &i.Priority
	}
	if p := i.Progress; p != nil {
		v.Progress = &progressView{p.Done, p.Total, p.Text}
	}
	for _, f := range i.Failures {
		v.Failures = append(v.Failures, failureView(f))
	}
	v.Links.Self = "/v1/jobs/" + v.ID
	return v
}

type jobPath struct {
	ID string `path:"id" maxLength:"64" doc:"The job's id"`
}

// job opens the id, and sees to it that there is such a job before anything is written about it.
func (s *Service) job(ctx context.Context, id string) (job.Info, error) {
	n, err := s.Sealer.Open(levee.KindJob, id)
	if err != nil {
		return job.Info{}, err
	}
	return s.Jobs.Job(ctx, n)
}

type jobOutput struct{ Body jobView }

func (s *Service) getJob(ctx context.Context, in *jobPath) (*jobOutput, error) {
	i, err := s.job(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &jobOutput{s.viewJob(i)}, nil
}

// trailed is what the trail says of a job.
type trailed struct {
	Kind  string `json:"kind"`
	State string `json:"state"`
}

func (s *Service) postCancellation(ctx context.Context, in *jobPath) (*struct{}, error) {
	i, err := s.job(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.act(ctx, "job.cancel", in.ID, trailed{i.Kind, string(i.State)}, nil, func(ctx context.Context) error { return s.Jobs.Cancel(ctx, i.ID) })
}

func (s *Service) postRetry(ctx context.Context, in *jobPath) (*struct{}, error) {
	i, err := s.job(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.act(ctx, "job.retry", in.ID, trailed{i.Kind, string(i.State)}, nil, func(ctx context.Context) error { return s.Jobs.RetryDead(ctx, i.ID) })
}

func jobList(sealer *id.Sealer) *listing.List[jobView] {
	return listing.New[jobView](listing.Spec{Name: "jobs", Forward: true, Open: sealer.Open, Export: true,
		Fields: []listing.Field{
			{Name: "state", Type: listing.Choice, Only: true, Default: "waiting", Doc: "Where they stand",
				Choices: []string{"waiting", "later", "running", "done", "cancelled", "dead"}},
			{Name: "kind", Only: true, Doc: "Of one kind"},
			{Name: "pool", Only: true, Doc: "Of one pool"},
			{Name: "source", Only: true, Doc: "schedule/NAME: the jobs of a schedule"},
		},
		Keys: []listing.Key{{Name: "id"}}})
}

func (s *Service) getJobs(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[jobView], error) {
	f := job.Filter{State: job.State(q.Value("state")), Kind: q.Value("kind"), Pool: q.Value("pool"), Source: q.Value("source"), Limit: q.Limit}
	if key, ok := q.After(); ok {
		f.Before, _ = key.(int64)
	}
	page, next, err := s.Jobs.List(ctx, f)
	if err != nil {
		return nil, err
	}
	views := make([]jobView, len(page))
	for n, i := range page {
		views[n] = s.viewJob(i)
	}
	if next == 0 {
		return listing.Rest(q, views, nil), nil
	}
	return listing.Rest(q, views, next), nil
}

type kindView struct {
	Name   string `json:"name"`
	Pool   string `json:"pool"`
	Paused bool   `json:"paused"`
}

type poolView struct {
	Name   string `json:"name"`
	Paused bool   `json:"paused"`
}

type queueOutput struct {
	Body struct {
		Waiting int        `json:"waiting" doc:"Could begin now"`
		Later   int        `json:"later" doc:"Their time has not come"`
		Running int        `json:"running" doc:"On all nodes"`
		Dead    int        `json:"dead" doc:"Given up; they wait for a person"`
		Kinds   []kindView `json:"kinds" nullable:"false"`
		Pools   []poolView `json:"pools" nullable:"false"`
		QueueCounts
	}
}

func (s *Service) getQueue(ctx context.Context, _ *struct{}) (*queueOutput, error) {
	stats, err := s.Jobs.Stats(ctx)
	if err != nil {
		return nil, err
	}
	pausedPools, pausedKinds, err := s.Jobs.Paused(ctx)
	if err != nil {
		return nil, err
	}
	has := func(list []string) map[string]bool {
		set := map[string]bool{}
		for _, name := range list {
			set[name] = true
		}
		return set
	}
	pools, kinds := has(pausedPools), has(pausedKinds)
	out := &queueOutput{}
	b := &out.Body
	b.Waiting, b.Later, b.Running, b.Dead = stats.Due, stats.Later, stats.Running, stats.Dead
	if b.QueueCounts, err = s.counts(ctx); err != nil {
		return nil, err
	}
	b.Kinds, b.Pools = []kindView{}, []poolView{}
	seen := map[string]bool{}
	for _, k := range s.Jobs.Known() {
		b.Kinds = append(b.Kinds, kindView{Name: k.Name, Pool: k.Pool, Paused: kinds[k.Name]})
		if !seen[k.Pool] {
			seen[k.Pool] = true
			b.Pools = append(b.Pools, poolView{k.Pool, pools[k.Pool]})
		}
	}
	return out, nil
}

type pausePath struct {
	What string `path:"what" enum:"pool,kind"`
	Name string `path:"name" maxLength:"190"`
}

func (s *Service) putPause(ctx context.Context, in *pausePath) (*struct{}, error) {
	return nil, s.pause(ctx, in, "jobs.pause", true)
}

func (s *Service) deletePause(ctx context.Context, in *pausePath) (*struct{}, error) {
	return nil, s.pause(ctx, in, "jobs.resume", false)
}

// pause does not ask whether this node knows the name: another version of the program may.
func (s *Service) pause(ctx context.Context, in *pausePath, what string, paused bool) error {
	return s.act(ctx, what, "", map[string]string{in.What: in.Name}, nil, func(ctx context.Context) error {
		if in.What == "pool" {
			return s.Jobs.PausePool(ctx, in.Name, paused)
		}
		return s.Jobs.PauseKind(ctx, in.Name, paused)
	})
}
