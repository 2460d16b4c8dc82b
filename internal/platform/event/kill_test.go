//go:build unix

package event

import (
	"context"
	"errors"
	"fmt"
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
	"levee/internal/platform/obs"
)

// The environment that makes this test program a victim: the folder of its database, how many events there shall be, and
// whether the listener commits its effect apart from the bus's mark.
const (
	victimDir   = "LEVEE_EVENT_VICTIM"
	victimMany  = "LEVEE_EVENT_MANY"
	victimApart = "LEVEE_EVENT_APART"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim emits and delivers until all is done, and kills itself (SIGKILL: nothing is flushed, nothing deferred runs) at odd
// moments: in the middle of an emitting transaction, right after its commit, and in a listener whose effect is written.
func victim(dir string) (err error) {
	ctx := context.Background()
	many, err := strconv.Atoi(os.Getenv(victimMany))
	if err != nil {
		return err
	}
	die := func(chance int) {
		if rand.IntN(chance) == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	open := func(file string) (*db.DB, error) {
		d, err := db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, file)}, o)
		if err != nil {
			return nil, err
		}
		_, err = d.Migrate(ctx, []db.Schema{Schema(), {Owner: "test", FS: testFS}})
		return d, err
	}
	d, err := open("levee.db")
	if err != nil {
		return err
	}
	apart := d
	if os.Getenv(victimApart) != "" {
		if apart, err = open("apart.db"); err != nil {
			return err
		}
	}
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	if err != nil {
		return err
	}
	b := Open(d, ids, o)
	listener := func(name string) Listener {
		return Listen(name, func(ctx context.Context, tx *db.Tx, e noted) error {
			if apart == d {
				if err := write(ctx, tx, name, e); err != nil {
					return err
				}
			} else if err := apart.Tx(context.Background(), "apart", func(ctx context.Context, tx *db.Tx) error {
				return write(ctx, tx, name, e)
			}); err != nil {
				return err
			}
			die(60)
			return nil
		})
	}
	if err := b.Register(listener("one"), listener("two")); err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(run) }()
	for {
		var n int
		if err := d.QueryRow(ctx, `SELECT COUNT(*) FROM effect WHERE listener = 'said'`).Scan(&n); err != nil {
			return err
		}
		if n >= many {
			break
		}
		err := d.Tx(ctx, "emit", func(ctx context.Context, tx *db.Tx) error {
			e := noted{Key: int64(n % 5), N: n}
			if err := errors.Join(b.Emit(ctx, tx, e), write(ctx, tx, "said", e)); err != nil {
				return err
			}
			die(100)
			return nil
		})
		if err != nil {
			return err
		}
		die(100)
	}
	if err := b.Drain(ctx); err != nil {
		return err
	}
	stop()
	<-done
	return errors.Join(ids.Close(), apart.Close(), d.Close())
}

// suffer runs victims in dir, one after the other, until one survives, and returns how many did not.
func suffer(t *testing.T, dir string, many int, apart bool) (killed int) {
	t.Helper()
	for began := time.Now(); ; {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("not done after %d kills", killed)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victimDir+"="+dir, victimMany+"="+strconv.Itoa(many))
		if apart {
			cmd.Env = append(cmd.Env, victimApart+"=1")
		}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return killed
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
			killed++
		default:
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// missteps compares what was said with what the listeners did: events lost, done twice, and done out of order.
func missteps(t *testing.T, said, done *db.DB) (lost, twice, disorder int) {
	t.Helper()
	read := func(d *db.DB, listener string) (all []noted) {
		rows, err := d.Query(t.Context(), `SELECT event_key, n FROM effect WHERE listener = ? ORDER BY rowid`, listener)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var e noted
			if err := rows.Scan(&e.Key, &e.N); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		return all
	}
	want := read(said, "said")
	for _, l := range []string{"one", "two"} {
		seen, last := map[int]int{}, map[int64]int{}
		for _, e := range read(done, l) {
			seen[e.N]++
			if before, ok := last[e.Key]; ok && e.N < before {
				disorder++
			}
			last[e.Key] = e.N
		}
		for _, e := range want {
			switch n := seen[e.N]; {
			case n == 0:
				lost++
			case n > 1:
				twice++
			}
		}
	}
	return lost, twice, disorder
}

// Processes are killed again and again; nothing is lost and nothing is done twice.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	const many = 300
	killed := suffer(t, dir, many, false)
	h := openDir(t, dir, obs.Test(t))
	lost, twice, disorder := missteps(t, h.db, h.db)
	t.Logf("%d kills", killed)
	if killed < 3 {
		t.Errorf("only %d kills: the test has tried nothing", killed)
	}
	if lost+twice+disorder != 0 {
		t.Errorf("%d lost, %d twice, %d out of order", lost, twice, disorder)
	}
	if n := h.count(`SELECT COUNT(*) FROM effect WHERE listener = 'said'`); n != many {
		t.Errorf("%d said, want %d", n, many)
	}
	h.empty()
}

// The control: a listener that commits its effect apart from the mark repeats it after a kill, and this suite sees it.
func TestKilledControl(t *testing.T) {
	dir := t.TempDir()
	killed := suffer(t, dir, 300, true)
	h := openDir(t, dir, obs.Test(t))
	apart, err := db.Open(t.Context(), db.Config{URL: "sqlite:" + filepath.Join(dir, "apart.db")}, h.o)
	if err != nil {
		t.Fatal(err)
	}
	defer apart.Close()
	lost, twice, _ := missteps(t, h.db, apart)
	t.Logf("%d kills, %d twice", killed, twice)
	if lost != 0 {
		t.Errorf("%d lost: at least once does not hold", lost)
	}
	if twice == 0 {
		t.Error("no effect was repeated: the check cannot see what it is there for")
	}
}
