//go:build unix

package job

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// The environment that makes this test program a victim: the folder of its database and what it shall suffer.
const (
	victimDir  = "LEVEE_JOB_VICTIM"
	victimWhat = "LEVEE_JOB_WHAT" // killed, control (as killed, but without DoneTx), paused
	victimURL  = "LEVEE_JOB_URL"  // of the database, and its password
	victimWord = "LEVEE_JOB_WORD"
	manyJobs   = 200
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir, os.Getenv(victimWhat)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// shortLease lets the next life take over soon; it is still far longer than any of these jobs.
var shortLease = Config{Lease: 200 * time.Millisecond, Poll: 10 * time.Millisecond, Pools: map[string]int{"default": 4}}

func victim(dir, what string) error {
	ctx := context.Background()
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	d, err := db.Open(ctx, db.Config{URL: os.Getenv(victimURL), Password: obs.Secret(os.Getenv(victimWord))}, o)
	if err != nil {
		return err
	}
	if _, err = d.Migrate(ctx, []db.Schema{Schema(), {Owner: "test", FS: testFS}}); err != nil {
		return err
	}
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	if err != nil {
		return err
	}
	j := Open(d, ids, o)
	if what == "paused" {
		return paused(ctx, j, d)
	}
	die := func(chance int) {
		if rand.IntN(chance) == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	// between dies for certain, once: whether chance ever comes to it is not left to chance.
	between := func() {
		if f, err := os.OpenFile(filepath.Join(dir, "died between"), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			_ = f.Close()
			die(1)
		}
	}
	k := Define("effect", Options{}, func(ctx context.Context, a args) error {
		die(40)
		err := d.Tx(ctx, "effect", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('done', ?)`, a.N); err != nil {
				return err
			}
			if what == "control" {
				return nil
			}
			defer die(40)
			return DoneTx(ctx, tx)
		})
		if what == "control" && err == nil {
			between()
		}
		die(40)
		return err
	})
	if err := errors.Join(j.Configure(shortLease), j.Register(k)); err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); _ = j.Run(run) }()
	for {
		var said, left int
		err := d.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM effect WHERE what = 'said'), (SELECT COUNT(*) FROM job_task)`).Scan(&said, &left)
		if err != nil {
			return err
		}
		if said == manyJobs {
			if left == 0 {
				break
			}
			<-time.After(10 * time.Millisecond) // for the leases of the life before
			continue
		}
		err = d.Tx(ctx, "say", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('said', ?)`, said); err != nil {
				return err
			}
			_, err := k.EnqueueTx(ctx, tx, args{said})
			return err
		})
		if err != nil {
			return err
		}
	}
	stop()
	<-done
	return errors.Join(ids.Close(), d.Close())
}

// paused runs one job that waits, inside its function, for a line on standard input, and then tries to complete it.
func paused(ctx context.Context, j *Jobs, d *db.DB) error {
	finished := make(chan error, 1)
	k := Define("slow", Options{}, func(ctx context.Context, a args) error {
		fmt.Println("running")
		bufio.NewReader(os.Stdin).ReadString('\n')
		err := d.Tx(context.WithoutCancel(ctx), "effect", func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('paused', ?)`, a.N); err != nil {
				return err
			}
			return DoneTx(ctx, tx)
		})
		finished <- err
		return nil // whatever happened: the end of this run must not be written either
	})
	if err := errors.Join(j.Configure(shortLease), j.Register(k)); err != nil {
		return err
	}
	if _, err := k.Enqueue(ctx, args{1}); err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); _ = j.Run(run) }()
	err := <-finished
	stop()
	<-done
	fmt.Println("completed:", err)
	return nil
}

func command(t *testing.T, dir, what string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cfg := configOf(t, dir)
	cmd.Env = append(os.Environ(), victimDir+"="+dir, victimWhat+"="+what, victimURL+"="+cfg.URL, victimWord+"="+string(cfg.Password))
	return cmd
}

// suffer runs victims until one survives and returns how many did not, and how often each job had its effect.
func suffer(t *testing.T, what string) (h *house, killed int, effects map[int]int) {
	t.Helper()
	dir := t.TempDir()
	for began := time.Now(); ; {
		if time.Since(began) > 6*time.Minute { // a process that dies takes seconds on a busy machine, and tens of them do
			t.Fatalf("not done after %d kills", killed)
		}
		out, err := command(t, dir, what).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			killed++
			continue
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		break
	}
	h = openDir(t, dir, obs.Test(t))
	rows, err := h.db.Query(t.Context(), `SELECT n FROM effect WHERE what = 'done'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	effects = map[int]int{}
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		effects[n]++
	}
	return h, killed, effects
}

// Processes are killed in the middle of their jobs; each job has its effect once.
func TestKilled(t *testing.T) {
	h, killed, effects := suffer(t, "killed")
	t.Logf("%d kills", killed)
	if killed < 2 {
		t.Errorf("only %d kills: the test has tried nothing", killed)
	}
	for n := range manyJobs {
		if effects[n] != 1 {
			t.Errorf("job %d has its effect %d times", n, effects[n])
		}
	}
	if s, err := Open(h.db, h.ids, h.o).Stats(t.Context()); err != nil || s != (Stats{}) {
		t.Errorf("Stats: %+v, %v", s, err)
	}
}

// The control: without DoneTx a kill between effect and completion repeats the effect, and this suite sees it.
func TestKilledControl(t *testing.T) {
	_, killed, effects := suffer(t, "control")
	twice := 0
	for n := range manyJobs {
		switch {
		case effects[n] == 0:
			t.Errorf("job %d is lost: at least once does not hold", n)
		case effects[n] > 1:
			twice++
		}
	}
	t.Logf("%d kills, %d effects repeated", killed, twice)
	if twice == 0 {
		t.Error("no effect was repeated: the check cannot see what it is there for")
	}
}

// A process is stopped by a signal for longer than its lease; when it goes on, its job belongs to another.
func TestPausedProcess(t *testing.T) {
	dir := t.TempDir()
	cmd := command(t, dir, "paused")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "running\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	h := openDir(t, dir, obs.Test(t))
	taken := make(chan struct{})
	slow := Define("slow", Options{}, func(ctx context.Context, a args) error {
		close(taken)
		return nil
	})
	stop := h.run(h.jobs(shortLease, slow))
	<-taken
	stop()
	if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 0 {
		t.Errorf("%d jobs are left after the takeover", n)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "go on\n"); err != nil {
		t.Fatal(err)
	}
	line, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(line, "lease was lost") {
		t.Errorf("the paused process reports %q, %v; want that its lease was lost", line, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if n := h.count(`SELECT COUNT(*) FROM effect`); n != 0 {
		t.Error("the effect of the paused process is kept")
	}
}
