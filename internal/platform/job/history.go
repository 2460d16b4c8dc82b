package job

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// State is where a job is.
type State string

const (
	Waiting   State = "waiting"   // due: it begins when there is a slot
	Later     State = "later"     // its time has not come, or it failed and is tried again then
	Running   State = "running"   // in some process, or waiting there for a slot
	Done      State = "done"      // kept for Options.Keep
	Cancelled State = "cancelled" // kept for Options.Keep
	Failed    State = "dead"      // given up; see Jobs.Dead
)

// Failure is how an attempt ended that did not succeed.
type Failure struct {
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Node    string    `json:"node"`
	Error   string    `json:"error"` // at most 1,000 bytes
}

// Progress is what a job's function has told by SetProgress.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Text  string `json:"text"`
}

// Info is a job as it was found in the tables.
type Info struct {
	ID       int64
	Kind     string
	Pool     string
	Priority int    // of one that waits or runs
	Source   string // see From
	State    State
	Args     string          // JSON
	Due      time.Time       // of one that waits; zero: it was interrupted, and is before all others
	Attempts int             // begun ones; those that were interrupted do not count
	Node     string          // that runs it, known after a third of the lease, or ran it last
	Progress *Progress       // of one that waits or runs; nil: none was told
	Failures []Failure       // the last five
	Result   json.RawMessage // of a kept one; nil: none
	Began    time.Time       // of the last run of a kept one
	Ended    time.Time       // of a kept or dead one
}

const (
	failuresMax = 5
	resultMax   = 64 << 10 // bytes of a result as JSON
	listScan    = 5_000    // rows that one List looks at, at most
	keepStep    = 500      // rows of history that leave in one transaction
	keepEvery   = time.Minute
)

// failed returns the failures of c with one more, as JSON.
func (j *Jobs) failed(failures string, attempt int, text string) string {
	var all []Failure
	if failures != "" {
		_ = json.Unmarshal([]byte(failures), &all) // what cannot be read is forgotten
	}
	all = append(all, Failure{attempt, j.clock().UTC(), j.cfg.Node, text})
	out, err := json.Marshal(all[max(0, len(all)-failuresMax):])
	if err != nil {
		return ""
	}
	return string(out)
}

var doneColumns = []string{"id", "kind", "pool", "args", "source", "outcome", "attempts", "node", "result", "failures", "began_at", "ended_at", "keep_until"}

// history makes the row of job_done for a run that is over; nil where its kind keeps none.
func (j *Jobs) history(c *claim, outcome string) []any {
	if c.kind == nil || c.kind.o.Keep == 0 {
		return nil
	}
	var result any
	if r := c.result.Load(); r != nil {
		result = *r
	}
	now := j.clock()
	j.mu.Lock()
	began := now.UnixMicro()
	if !c.began.IsZero() {
		began = now.Add(-time.Since(c.began)).UnixMicro()
	}
	j.mu.Unlock()
	return []any{c.id, c.name, c.pool.name, c.args, orNull(c.source), outcome, c.attempts, j.cfg.Node, result, orNull(c.failures),
		began, now.UnixMicro(), now.Add(c.kind.o.Keep).UnixMicro()}
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

const (
	infoTask = `SELECT id, kind, pool, COALESCE(source, ''), args, COALESCE(due_at, 0), lease_until IS NOT NULL, attempts, COALESCE(node, ''), ` +
		`COALESCE(progress, ''), COALESCE(failures, '') FROM job_task WHERE `
	infoDead = `SELECT id, kind, pool, COALESCE(source, ''), args, attempts, COALESCE(failures, ''), error, dead_at FROM job_dead WHERE `
	infoDone = `SELECT id, kind, pool, COALESCE(source, ''), args, outcome, attempts, node, COALESCE(result, ''), COALESCE(failures, ''), ` +
		`began_at, ended_at FROM job_done WHERE `
)

func (j *Jobs) readTask(rows *db.Rows) (i Info, err error) {
	var lane, progress, failures string
	var due int64
	var running bool
	if err := rows.Scan(&i.ID, &i.Kind, &lane, &i.Source, &i.Args, &due, &running, &i.Attempts, &i.Node, &progress, &failures); err != nil {
		return i, err
	}
	i.Pool, i.Priority, _ = splitLane(lane)
	i.State = Running
	if !running {
		i.State = Waiting
		if due > 0 {
			i.Due = time.UnixMicro(due)
		}
		if i.Due.After(j.clock()) {
			i.State = Later
		}
	}
	if progress != "" {
		i.Progress = new(Progress)
		err = json.Unmarshal([]byte(progress), i.Progress)
	}
	return i, errors.Join(err, i.readFailures(failures))
}

func (i *Info) readFailures(text string) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), &i.Failures)
}

func (j *Jobs) readDead(rows *db.Rows) (i Info, err error) {
	var failures, text string
	var at int64
	if err := rows.Scan(&i.ID, &i.Kind, &i.Pool, &i.Source, &i.Args, &i.Attempts, &failures, &text, &at); err != nil {
		return i, err
	}
	i.Pool, i.Priority, _ = splitLane(i.Pool)
	i.State, i.Ended = Failed, time.UnixMicro(at)
	if failures == "" { // of a version that kept only the last
		i.Failures = []Failure{{Attempt: i.Attempts, At: i.Ended, Error: text}}
	}
	return i, i.readFailures(failures)
}

func (j *Jobs) readDone(rows *db.Rows) (i Info, err error) {
	var outcome, result, failures string
	var began, ended int64
	if err := rows.Scan(&i.ID, &i.Kind, &i.Pool, &i.Source, &i.Args, &outcome, &i.Attempts, &i.Node, &result, &failures, &began, &ended); err != nil {
		return i, err
	}
	i.State, i.Began, i.Ended = State(outcome), time.UnixMicro(began), time.UnixMicro(ended)
	if result != "" {
		i.Result = json.RawMessage(result)
	}
	return i, i.readFailures(failures)
}

func (j *Jobs) infos(ctx context.Context, read func(*db.Rows) (Info, error), query string, args ...any) (all []Info, err error) {
	rows, err := j.db.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		i, err := read(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, rows.Err()
}

// Job returns a job, whichever state it is in. It fails with CodeNotFound for one that never was, was removed by CancelTx, or is over and not kept.
func (j *Jobs) Job(ctx context.Context, id int64) (i Info, err error) {
	defer levee.Wrap(&err, "job.Job(%d)", id)
	for _, q := range []struct {
		read func(*db.Rows) (Info, error)
		text string
	}{
		{j.readTask, infoTask}, {j.readDead, infoDead}, {j.readDone, infoDone},
		{j.readTask, infoTask}, // one that was dead when we came and was retried since
	} {
		all, err := j.infos(ctx, q.read, q.text+`id = ?`, id)
		if err != nil || len(all) > 0 {
			return append(all, i)[0], err
		}
	}
	return i, levee.E(levee.CodeNotFound, "no such job, or it is over and was not kept")
}

// Filter says which jobs List returns. Empty fields take all.
type Filter struct {
	State  State // needed
	Kind   string
	Pool   string
	Source string
	Before int64 // only ids below this: where the page before ended; 0: from the newest on
	Limit  int   // 1 to 1000; default 100
}

func (f *Filter) takes(i Info) bool {
	return (f.Kind == "" || f.Kind == i.Kind) && (f.Pool == "" || f.Pool == i.Pool) && (f.Source == "" || f.Source == i.Source) && f.State == i.State
}

// List returns jobs of one state, the newest first, and where the next page begins: 0 when there is none. One call looks at a bounded number
// of rows, so a page may be short, even empty, while there is a next one. It fails with CodeInvalid for an unknown state or a wrong limit.
func (j *Jobs) List(ctx context.Context, f Filter) (page []Info, next int64, err error) {
	defer levee.Wrap(&err, "job.List")
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 1 || f.Limit > 1000 {
		return nil, 0, levee.Invalid("limit", "1 to 1000", f.Limit)
	}
	if f.Before == 0 {
		f.Before = 1<<63 - 1
	}
	read, text := j.readTask, infoTask
	switch f.State {
	case Waiting, Later:
		text += `due_at IS NOT NULL AND `
	case Running:
		text += `lease_until IS NOT NULL AND `
	case Failed:
		read, text = j.readDead, infoDead
	case Done, Cancelled:
		read, text = j.readDone, infoDone
	default:
		return nil, 0, levee.Invalid("state", "waiting, later, running, done, cancelled or dead", f.State)
	}
	args := []any{}
	if f.State == Running { // few: all are read, by their leases' index
		all, err := j.infos(ctx, read, infoTask+`lease_until >= 0 LIMIT `+maxRunning)
		if err != nil {
			return nil, 0, err
		}
		slices.SortFunc(all, func(a, b Info) int { return int(min(max(b.ID-a.ID, -1), 1)) })
		for _, i := range all {
			if i.ID >= f.Before || !f.takes(i) {
				continue
			}
			if len(page) == f.Limit {
				return page, page[len(page)-1].ID, nil
			}
			page = append(page, i)
		}
		return page, 0, nil
	}
	all, err := j.infos(ctx, read, text+`id < ? ORDER BY id DESC LIMIT ?`, append(args, f.Before, listScan)...)
	if err != nil {
		return nil, 0, err
	}
	for _, i := range all {
		if len(page) == f.Limit {
			return page, page[len(page)-1].ID, nil
		}
		if f.takes(i) {
			page = append(page, i)
		}
	}
	if len(all) == listScan {
		next = all[len(all)-1].ID
	}
	return page, next, nil
}

const maxRunning = "20000" // rows that a list of running jobs reads

// forget lets history leave that was kept for long enough, a few rows at a time and by its index, until the run is over.
func (r *runner) forget(over <-chan struct{}) {
	j := r.j
	for wait := keepEvery / 4; ; {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-over:
			t.Stop()
			return
		}
		wait = keepEvery
		n, err := j.forgetSome(r.ctx)
		if err == nil {
			err = j.forgetControl(r.ctx)
		}
		switch {
		case err != nil && r.ctx.Err() == nil:
			j.log.WarnContext(r.base, "the history of jobs could not be shortened", "err", err)
		case n == keepStep:
			wait = 50 * time.Millisecond // there is more
		}
	}
}

func (j *Jobs) forgetSome(ctx context.Context) (int, error) {
	ids, err := idsOf(j.db.Query(ctx, `SELECT id FROM job_done WHERE keep_until < ? ORDER BY keep_until LIMIT ?`, j.clock().UnixMicro(), keepStep))
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	slices.Sort(ids)
	in, args := listIDs(ids, j.clock().UnixMicro())
	return len(ids), j.db.Tx(ctx, "job.forget", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, j.sql.forget+in, args...)
		return err
	})
}
