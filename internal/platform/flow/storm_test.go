//go:build unix

package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// The environment that makes this test program a node that is killed: the folder of its database, what it breaks, until when it starts flows.
const (
	nodeDir  = "LEVEE_FLOW_NODE"
	nodeWhat = "LEVEE_FLOW_WHAT" // "" or outside
	nodeEnd  = "LEVEE_FLOW_END"  // Unix milliseconds
	nodeURL  = "LEVEE_FLOW_URL"
	nodeWord = "LEVEE_FLOW_WORD"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(nodeDir); dir != "" {
		fmt.Fprintln(os.Stderr, victim(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var shortLease = job.Config{Lease: 300 * time.Millisecond, Poll: 10 * time.Millisecond, Pools: map[string]int{"default": 8}}

// steps are the kinds of the storm: a member that sometimes fails or dies, and a callback that checks what it finds. Effects commit with DoneTx.
type steps struct {
	member, plain, callback *job.Kind[int]
}

func define(d *db.DB) steps {
	effect := func(ctx context.Context, what string, n int64) error {
		return d.Tx(ctx, "effect", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES (?, ?)`, what, n); err != nil {
				return err
			}
			return job.DoneTx(ctx, tx)
		})
	}
	o := job.Options{MaxAttempts: 1000, Backoff: func(int) time.Duration { return 10 * time.Millisecond }}
	unsure := func() error {
		time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
		switch rand.IntN(200) {
		case 0:
			return job.Discard(errors.New("dies"))
		case 1, 2, 3, 4:
			return errors.New("fails")
		}
		return nil
	}
	return steps{
		member: job.Define("member", o, func(ctx context.Context, n int) error {
			if err := errors.Join(unsure(), job.SetResult(ctx, n)); err != nil {
				return err
			}
			flow, step, err := Of(ctx)
			if err != nil {
				return err
			}
			return effect(context.WithoutCancel(ctx), "member", flow*100+int64(step))
		}),
		plain: job.Define("plain", o, func(ctx context.Context, n int) error {
			return errors.Join(unsure(), job.SetResult(ctx, n))
		}),
		callback: job.Define("callback", o, func(ctx context.Context, want int) error {
			flow, _, err := Of(ctx)
			if err != nil {
				return err
			}
			what := "callback"
			all, err := Results[int](ctx)
			if ctx.Err() != nil {
				return ctx.Err() // a process that was not heard of for a lease stops its reads: this runs again
			}
			sum := 0
			for _, n := range all {
				sum += n
			}
			if err != nil || sum != want {
				what = fmt.Sprintf("%d of %d, %v", sum, want, err)
			}
			return effect(context.WithoutCancel(ctx), what, flow)
		}),
	}
}

func (s steps) part() Part {
	return Chain(Step(s.plain, 1),
		Group(Step(s.member, 1), Step(s.plain, 2), Chain(Step(s.plain, 0), Step(s.member, 4)), Step(s.member, 8).Regardless()),
		Step(s.callback, 15), Step(s.plain, 3))
}

const stepsOfPart = 8

// victim is a node that starts flows and runs jobs until it is killed.
func victim(dir string) error {
	ctx := context.Background()
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		return err
	}
	cfg := db.Config{URL: os.Getenv(nodeURL), Password: obs.Secret(os.Getenv(nodeWord))}
	if platformtest.Distributed() {
		cfg.Writers, cfg.Readers = 8, 4
	}
	d, err := db.Open(ctx, cfg, o)
	if err != nil {
		return err
	}
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	if err != nil {
		return err
	}
	j := job.Open(d, ids, o)
	if err := j.Configure(shortLease); err != nil {
		return err
	}
	f, err := Open(Config{}, d, ids, j, o)
	if err != nil {
		return err
	}
	f.seam.outside = os.Getenv(nodeWhat) == "outside"
	s := define(d)
	if err := j.Register(s.member, s.plain, s.callback); err != nil {
		return err
	}
	end, err := strconv.ParseInt(os.Getenv(nodeEnd), 10, 64)
	if err != nil {
		return err
	}
	go func() {
		for time.Now().UnixMilli() < end {
			err := d.Tx(ctx, "say", func(ctx context.Context, tx *db.Tx) error {
				for range 1 + rand.IntN(4) {
					flow, err := f.StartTx(ctx, tx, "storm", s.part())
					if err != nil {
						return err
					}
					if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('said', ?)`, flow); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				fmt.Fprintln(os.Stderr, "say:", err)
			}
			time.Sleep(time.Duration(rand.IntN(15)) * time.Millisecond)
		}
	}()
	return j.Run(ctx)
}

// storm lets nodes start flows and run them for a time while they are killed and stopped for longer than their leases (on the embedded tier one
// node at a time, which is killed), and then lets the last ones finish. It returns how many were harmed.
func storm(t *testing.T, what string, d time.Duration) (h *house, killed, slept int) {
	t.Helper()
	dir := t.TempDir()
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	cfg := platformtest.Config(t, dir, job.Schema(), Schema(), effects)
	open := platformtest.DB(t, dir, o, job.Schema(), Schema(), effects)
	h = node(t, dir, open, o, shortLease)
	nodes := 1
	if platformtest.Distributed() {
		nodes = 3
	}
	end := time.Now().Add(d)
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), nodeDir+"="+dir, nodeWhat+"="+what, nodeEnd+"="+strconv.FormatInt(end.UnixMilli(), 10), nodeURL+"="+cfg.URL, nodeWord+"="+string(cfg.Password))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	var live []*exec.Cmd
	defer func() {
		for _, cmd := range live {
			kill(cmd)
		}
	}()
	for range nodes {
		live = append(live, start())
	}
	retry := func() { // the person who tries again what is dead
		dead, err := h.jobs.Dead(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range dead {
			if err := h.jobs.RetryDead(t.Context(), x.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := 0; time.Now().Before(end) || round < 2; round++ { // a kill and a sleep at least, however slow the machine is
		time.Sleep(time.Duration(300+rand.IntN(700)) * time.Millisecond)
		i := rand.IntN(nodes)
		if nodes > 1 && round%2 == 1 {
			slept++
			_ = live[i].Process.Signal(syscall.SIGSTOP)
			time.Sleep(2 * shortLease.Lease)
			_ = live[i].Process.Signal(syscall.SIGCONT)
		} else {
			killed++
			kill(live[i])
			live[i] = start()
		}
		retry()
	}
	quiet := time.Now()
	for limit := time.Now().Add(90 * time.Second); time.Since(quiet) < time.Second; time.Sleep(20 * time.Millisecond) {
		retry()
		if h.count(`SELECT COUNT(*) FROM job_task`)+h.count(`SELECT COUNT(*) FROM job_dead`) > 0 {
			quiet = time.Now()
		}
		if time.Now().After(limit) {
			t.Fatalf("%d jobs are left", h.count(`SELECT COUNT(*) FROM job_task`))
		}
	}
	return h, killed, slept
}

// Nodes are killed and sleep; each step has its effect once, each callback is called once, with all results, and every flow ends.
func TestStorm(t *testing.T) {
	d := 25 * time.Second
	if testing.Short() {
		d = 4 * time.Second
	}
	h, killed, slept := storm(t, "", d)
	said := h.count(`SELECT COUNT(*) FROM effect WHERE what = 'said'`)
	t.Logf("%d flows, %d kills, %d nodes put to sleep; %d steps lay dead and were gone on without", said, killed, slept, h.count(`SELECT COUNT(*) FROM flow_result WHERE error IS NOT NULL`))
	if said < 50 || killed == 0 || platformtest.Distributed() && slept == 0 {
		t.Errorf("%d flows, %d kills, %d sleeps: the test has tried nothing", said, killed, slept)
	}
	for what, want := range map[string]int{
		`SELECT COUNT(*) FROM flow_run WHERE state = 'done' AND dead = 0`:                                    said,
		`SELECT COUNT(*) FROM flow_step WHERE state = 'done'`:                                                stepsOfPart*said - h.count(`SELECT COUNT(*) FROM flow_step WHERE state = 'failed'`),
		`SELECT COUNT(*) FROM flow_step WHERE state NOT IN ('done', 'failed')`:                               0,
		`SELECT COUNT(*) FROM flow_joint WHERE waits <> 0`:                                                   0,
		`SELECT COUNT(DISTINCT n) FROM effect WHERE what NOT IN ('said', 'member')`:                          said,
		`SELECT COUNT(*) FROM effect WHERE what NOT IN ('said', 'member')`:                                   said,
		`SELECT COUNT(*) FROM (SELECT n FROM effect WHERE what = 'member' GROUP BY n HAVING COUNT(*) > 1) x`: 0,
		`SELECT COUNT(*) FROM effect WHERE what = 'member'`:                                                  3 * said,
	} {
		if got := h.count(what); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	// Only a member that is Regardless and was dead may be missing to the callback.
	wrong := h.count(`SELECT COUNT(*) FROM effect WHERE what NOT IN ('said', 'member', 'callback')`)
	if failed := h.count(`SELECT COUNT(*) FROM flow_step WHERE state = 'failed'`); wrong > failed {
		var first, last string
		err := h.db.QueryRow(t.Context(), `SELECT MIN(what), MAX(what) FROM effect WHERE what NOT IN ('said', 'member', 'callback')`).Scan(&first, &last)
		t.Errorf("%d callbacks have found other results than were given, %d for a reason: from %q to %q, %v", wrong, failed, first, last, err)
	}
}

// The control: what an end sets going is committed a moment after it. A kill between the two loses flows, and the storm's checks see it.
func TestStormControl(t *testing.T) {
	d := 10 * time.Second
	if testing.Short() {
		d = 5 * time.Second
	}
	h, killed, _ := storm(t, "outside", d)
	lost := h.count(`SELECT COUNT(*) FROM flow_run WHERE state = 'running'`)
	t.Logf("%d kills, %d of %d flows lost", killed, lost, h.count(`SELECT COUNT(*) FROM flow_run`))
	if lost == 0 {
		t.Error("no flow was lost: the check cannot see what it is there for")
	}
}
