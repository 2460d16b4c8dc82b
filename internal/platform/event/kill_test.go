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
	"runtime"
	"strconv"
	"strings"
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
	victimURL   = "LEVEE_EVENT_URL" // of the database, and its password
	victimWord  = "LEVEE_EVENT_WORD"
	victimLog   = "LEVEE_EVENT_LOG" // "log": a third listener comes later and begins with what is kept; "control": with the fault of that
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
	open := func(cfg db.Config) (*db.DB, error) {
		d, err := db.Open(ctx, cfg, o)
		if err != nil {
			return nil, err
		}
		_, err = d.Migrate(ctx, []db.Schema{Schema(), {Owner: "test", FS: testFS}})
		return d, err
	}
	d, err := open(db.Config{URL: os.Getenv(victimURL), Password: obs.Secret(os.Getenv(victimWord))})
	if err != nil {
		return err
	}
	apart := d
	if os.Getenv(victimApart) != "" {
		if apart, err = open(db.Config{URL: "sqlite:" + filepath.Join(dir, "apart.db")}); err != nil {
			return err
		}
	}
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	if err != nil {
		return err
	}
	b := Open(d, ids, o, Config{Kept: []string{"*"}})
	b.lease = 200 * time.Millisecond // so long the dead one before keeps this one waiting, between nodes
	var third, early bool
	history := func() (n int, err error) {
		err = d.QueryRow(ctx, `SELECT COUNT(*) FROM event_log`).Scan(&n)
		return n, err
	}
	if mode := os.Getenv(victimLog); mode != "" {
		var n int
		if err := d.QueryRow(ctx, `SELECT COUNT(*) FROM effect WHERE listener = 'said'`).Scan(&n); err != nil {
			return err
		}
		logged, err := history()
		if err != nil {
			return err
		}
		// A third one comes late, to a history that is long enough to be copied: else it would hear live from its beginning.
		early = n > many/3 && logged < 20
		third = n > many/3 && !early
		b.most = 5 // so that the copies do the work
		b.seam.apart = mode == "control"
		b.seam.hold = func() {
			// Between the first copy for the late one and the note of it: once for certain, later by chance.
			var copies int
			if mode == "control" && calledBy("pump") &&
				d.QueryRow(ctx, `SELECT COUNT(*) FROM event_replay WHERE listener = 'late'`).Scan(&copies) == nil && copies > 0 {
				if f, err := os.OpenFile(filepath.Join(dir, "died between"), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
					_ = f.Close()
					die(1)
				}
			}
			die(150)
		}
	}
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
	if third {
		late := listener("late")
		late.kept = true
		if err := b.Register(late); err != nil {
			return err
		}
	}
	run, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(run) }()
	for early {
		if logged, err := history(); err != nil {
			return err
		} else if logged >= 20 {
			die(1)
		}
		time.Sleep(5 * time.Millisecond)
	}
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
	if os.Getenv(victimLog) != "" && !third {
		return errors.New("everything was said before the third came")
	}
	stop()
	<-done
	return errors.Join(ids.Close(), apart.Close(), d.Close())
}

// calledBy reports whether a method of the term is under way in this goroutine.
func calledBy(method string) bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*term)."+method) {
			return true
		}
		if !more {
			return false
		}
	}
}

// suffer runs victims in dir, one after the other, until one survives, and returns how many did not.
func suffer(t *testing.T, dir string, many int, apart bool, more ...string) (killed int) {
	t.Helper()
	for began := time.Now(); ; {
		if time.Since(began) > 6*time.Minute { // a process that dies takes seconds on a busy machine, and tens of them do
			t.Fatalf("not done after %d kills", killed)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cfg := configOf(t, dir)
		cmd.Env = append(os.Environ(), victimDir+"="+dir, victimMany+"="+strconv.Itoa(many), victimURL+"="+cfg.URL,
			victimWord+"="+string(cfg.Password))
		cmd.Env = append(cmd.Env, more...)
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
func missteps(t *testing.T, said, done *db.DB, listeners ...string) (lost, twice, disorder int) {
	t.Helper()
	read := func(d *db.DB, listener string) (all []noted) {
		rows, err := d.Query(t.Context(), `SELECT event_key, n FROM effect WHERE listener = ? ORDER BY at`, listener)
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
	if listeners == nil {
		listeners = []string{"one", "two"}
	}
	for _, l := range listeners {
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

// The same while a listener gets the history, first a new one and then one that is sent back: killed in the copies, in their deliveries and in
// between, each has each event once and in order.
func TestKilledInReplay(t *testing.T) {
	dir := t.TempDir()
	const many = 300
	killed := suffer(t, dir, many, false, victimLog+"=log")
	h := openDir(t, dir, obs.Test(t))
	lost, twice, disorder := missteps(t, h.db, h.db, "one", "two", "late")
	t.Logf("%d kills", killed)
	if lost+twice+disorder != 0 {
		t.Errorf("%d lost, %d twice, %d out of order", lost, twice, disorder)
	}
	b := h.keeping(Config{Kept: []string{"*"}}, writer("one"))
	h.exec(`DELETE FROM effect WHERE listener = 'one'`)
	if _, err := b.Replay(t.Context(), "one", Start()); err != nil {
		t.Fatal(err)
	}
	killed += suffer(t, dir, many+many/2, false, victimLog+"=log")
	lost, twice, disorder = missteps(t, h.db, h.db, "one", "two", "late")
	t.Logf("%d kills", killed)
	if killed < 10 {
		t.Errorf("only %d kills: the test has tried little", killed)
	}
	if lost+twice+disorder != 0 {
		t.Errorf("%d lost, %d twice, %d out of order", lost, twice, disorder)
	}
	h.empty()
	if n := h.count(`SELECT COUNT(*) FROM event_replay`); n != 0 {
		t.Errorf("%d copies are left", n)
	}
}

// The control: what was copied is noted after the copy, so a kill in between copies it again, and the suite sees it.
func TestKilledInReplayControl(t *testing.T) {
	dir := t.TempDir()
	killed := suffer(t, dir, 300, false, victimLog+"=control")
	h := openDir(t, dir, obs.Test(t))
	lost, twice, _ := missteps(t, h.db, h.db, "late")
	t.Logf("%d kills, %d twice", killed, twice)
	if lost != 0 {
		t.Errorf("%d lost", lost)
	}
	if twice == 0 {
		t.Error("no effect was repeated: the check cannot see what it is there for")
	}
}
