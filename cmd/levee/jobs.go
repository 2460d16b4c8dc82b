package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"
)

type jobsCmd struct {
	Status jobsStatusCmd `cmd:"" help:"How many wait, run and are dead; kinds and pools."`
	List   jobsListCmd   `cmd:"" help:"List jobs of one state, newest first."`
	Show   jobsShowCmd   `cmd:"" help:"Show a job: arguments, attempts, progress, result."`
	Cancel jobsCancelCmd `cmd:"" help:"Cancel jobs that wait or run."`
	Retry  jobsRetryCmd  `cmd:"" help:"Let dead jobs run again."`
	Pause  jobsPauseCmd  `cmd:"" help:"Let no job of a pool or kind begin, on any node."`
	Resume jobsResumeCmd `cmd:"" help:"Let them begin again."`
}

type jobsStatusCmd struct{ remote }

func (c *jobsStatusCmd) Run(env *common) error {
	return c.with(env, func(s *caller) error {
		if c.JSON {
			return s.show("/v1/job-queue")
		}
		var q struct {
			Waiting, Later, Running, Dead int
			Kinds                         []struct {
				Name   string `json:"name"`
				Pool   string `json:"pool"`
				Paused bool   `json:"paused"`
			}
			Pools []struct {
				Name   string `json:"name"`
				Paused bool   `json:"paused"`
			}
		}
		if err := s.call(env.ctx, http.MethodGet, "/v1/job-queue", nil, &q); err != nil {
			return err
		}
		fmt.Fprintf(env.stdout, "waiting %d, later %d, running %d, dead %d\n\n", q.Waiting, q.Later, q.Running, q.Dead)
		paused := map[string]bool{}
		for _, p := range q.Pools {
			paused[p.Name] = p.Paused
		}
		t := newColumns(env, "KIND", "POOL", "STATE")
		for _, k := range q.Kinds {
			state := "runs"
			switch {
			case k.Paused:
				state = "paused"
			case paused[k.Pool]:
				state = "paused with its pool"
			}
			t.row(k.Name, k.Pool, state)
		}
		return t.end()
	})
}

type jobsListCmd struct {
	remote
	State  string `default:"waiting" enum:"waiting,later,running,done,cancelled,dead" help:"waiting, later, running, done, cancelled or dead."`
	Kind   string `help:"Only this kind."`
	Pool   string `help:"Only this pool."`
	Source string `help:"Only what this gave, such as schedule/NAME."`
	Limit  int    `default:"100" help:"At most so many, 1 to 100000."`
}

func (c *jobsListCmd) Run(env *common) error {
	query := url.Values{"state": {c.State}}
	for name, value := range map[string]string{"kind": c.Kind, "pool": c.Pool, "source": c.Source} {
		if value != "" {
			query.Set(name, value)
		}
	}
	type job struct {
		ID, Kind, Pool, Node string
		Attempts             int
		DueAt                *time.Time `json:"due_at"`
		EndedAt              *time.Time `json:"ended_at"`
		Failures             []struct{ Error string }
	}
	return c.with(env, func(s *caller) error {
		var t columns
		if !c.JSON {
			t = newColumns(env, "ID", "KIND", "POOL", "ATTEMPTS", "DUE OR ENDED", "NODE", "LAST ERROR")
		}
		err := pages(s, "/v1/jobs", query, c.Limit, func(j job) error {
			when, failure := j.DueAt, "-"
			if when == nil {
				when = j.EndedAt
			}
			if n := len(j.Failures); n > 0 {
				failure = fmt.Sprintf("%.80q", j.Failures[n-1].Error)
			}
			t.row(j.ID, j.Kind, j.Pool, fmt.Sprint(j.Attempts), at(when), or(j.Node, "-"), failure)
			return nil
		})
		if err != nil || c.JSON {
			return err
		}
		return t.end()
	})
}

func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

type jobsShowCmd struct {
	remote
	ID string `arg:"" help:"The job's id."`
}

func (c *jobsShowCmd) Run(env *common) error {
	return c.with(env, func(s *caller) error { return s.show("/v1/jobs/" + url.PathEscape(c.ID)) })
}

// each does the same to several things, and goes on after one that fails.
func (r remote) each(env *common, names []string, did string, do func(s *caller, name string) error) error {
	return r.with(env, func(s *caller) error {
		failed := 0
		var last error
		for _, name := range names {
			if err := do(s, name); err != nil {
				failed, last = failed+1, err
				fmt.Fprintf(env.stderr, "%s: %s\n", name, explain(err))
				continue
			}
			fmt.Fprintf(env.stdout, "%s: %s\n", name, did)
		}
		if failed > 0 && len(names) > 1 {
			return fmt.Errorf("%d of %d failed", failed, len(names))
		}
		return last
	})
}

type jobsCancelCmd struct {
	remote
	ID []string `arg:"" help:"Ids of jobs."`
}

func (c *jobsCancelCmd) Run(env *common) error {
	return c.each(env, c.ID, "cancelled, or told to end", func(s *caller, id string) error {
		return s.call(env.ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/cancellation", nil, nil)
	})
}

type jobsRetryCmd struct {
	remote
	ID []string `arg:"" help:"Ids of dead jobs."`
}

func (c *jobsRetryCmd) Run(env *common) error {
	return c.each(env, c.ID, "runs again", func(s *caller, id string) error {
		return s.call(env.ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/retry", nil, nil)
	})
}

type jobsPauseCmd struct {
	remote
	What string `arg:"" enum:"pool,kind" help:"pool or kind."`
	Name string `arg:"" help:"Its name."`
}

func (c *jobsPauseCmd) Run(env *common) error {
	return c.each(env, []string{c.Name}, "paused on all nodes within a second", func(s *caller, name string) error {
		return s.call(env.ctx, http.MethodPut, "/v1/job-queue/pauses/"+c.What+"/"+url.PathEscape(name), nil, nil)
	})
}

type jobsResumeCmd struct {
	remote
	What string `arg:"" enum:"pool,kind" help:"pool or kind."`
	Name string `arg:"" help:"Its name."`
}

func (c *jobsResumeCmd) Run(env *common) error {
	return c.each(env, []string{c.Name}, "goes on", func(s *caller, name string) error {
		return s.call(env.ctx, http.MethodDelete, "/v1/job-queue/pauses/"+c.What+"/"+url.PathEscape(name), nil, nil)
	})
}
