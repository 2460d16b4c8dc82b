//go:build unix

package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// The environment that makes this test program a house that kills itself.
const (
	victimDir  = "LEVEE_BRIDGE_VICTIM"
	victimPlan = "LEVEE_BRIDGE_PLAN"
	victimWord = "LEVEE_BRIDGE_WORD" // the database's password
)

// plan is what a victim is to do.
type plan struct {
	Database, Broker, Out, In string
	Many                      int
	Life                      int // how many died before: the first two die at the first chance
	RunTwice                  bool
	MarkFirst, AckFirst       bool // the controls
}

// victim emits, carries out and takes in until all is done, and kills itself (SIGKILL) between the broker's acknowledgement and the commit, and between
// the commit and the acknowledgement to the broker.
func victim() error {
	ctx := context.Background()
	var p plan
	if err := json.Unmarshal([]byte(os.Getenv(victimPlan)), &p); err != nil {
		return err
	}
	die := func(chance int) {
		if p.Life < 2 || rand.IntN(chance) == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	cfg := Config{URL: p.Broker, Source: "test/house", Timeout: 5 * time.Second}
	if p.Out != "" {
		cfg.Out = []string{"*=" + p.Out}
	}
	if p.In != "" {
		cfg.In = []string{p.In}
	}
	dbc := db.Config{URL: p.Database, Password: obs.Secret(os.Getenv(victimWord)), RunTwice: p.RunTwice}
	h, err := openHouse(ctx, os.Getenv(victimDir), dbc, cfg, o, func(b *Bridge) {
		b.seam.published = func() { die(3) }
		b.seam.taken = func() { die(4) }
		b.seam.markFirst = p.MarkFirst
		if p.AckFirst {
			b.seam.deliver = func(take func() error) error {
				go func() {
					if time.Sleep(20 * time.Millisecond); p.Life < 2 { // these die for certain: not before the broker has heard
						time.Sleep(500 * time.Millisecond)
					}
					die(4)
					_ = take()
				}()
				return nil
			}
		}
	})
	if err != nil {
		return err
	}
	h.run()
	for p.Out != "" {
		var last db.NullInt64
		if err := h.d.QueryRow(ctx, `SELECT MAX(at) FROM effect WHERE event_key = -1`).Scan(&last); err != nil {
			return err
		}
		n := int(last.Int64)
		if n >= p.Many {
			break
		}
		err := h.d.Tx(ctx, "emit", func(ctx context.Context, tx *db.Tx) error {
			var es []event.Event
			for i := n; i < n+10; i++ {
				es = append(es, noted{Key: int64(i % 4), N: i})
			}
			_, err := tx.Exec(ctx, `INSERT INTO effect (at, event_key, n) VALUES (?, -1, 0)`, n+10)
			return errors.Join(err, h.bus.EmitMany(ctx, tx, es...))
		})
		time.Sleep(15 * time.Millisecond) // so that there are many pages to die at
		if err != nil {
			return err
		}
	}
	query, want := `SELECT (SELECT COUNT(*) FROM bridge_out) + (SELECT COUNT(*) FROM event_outbox)`, 0
	if p.In != "" {
		query, want = `SELECT COUNT(*) FROM effect WHERE event_key >= 0`, p.Many
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var n int
		if err := h.d.QueryRow(ctx, query).Scan(&n); err != nil {
			return err
		}
		if p.In != "" && n >= want || p.In == "" && n == want || time.Now().After(end) || p.AckFirst && time.Now().After(end.Add(-56*time.Second)) {
			break
		}
	}
	h.close()
	return nil
}

// suffer runs victims, one after the other, until one survives, and returns how many did not.
func suffer(t *testing.T, dir string, p plan, word string) (killed int) {
	t.Helper()
	for began := time.Now(); ; {
		if time.Since(began) > 4*time.Minute {
			t.Fatalf("not done after %d kills", killed)
		}
		p.Life = killed
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victimDir+"="+dir, victimPlan+"="+string(text), victimWord+"="+word)
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

// killedOut is a run of victims that carry out; it returns what came.
func killedOut(t *testing.T, s *started, many int, markFirst bool) (all []got, killed int) {
	t.Helper()
	dir, topic := t.TempDir(), s.newTopic(t)
	c := platformtest.Config(t, dir, schemas()...)
	killed = suffer(t, dir, plan{Database: c.URL, RunTwice: c.RunTwice, Broker: s.kind + "://" + s.direct, Out: topic, Many: many, MarkFirst: markFirst}, c.Password.Reveal())
	return s.read(t, topic, 3*time.Second, func([]got) bool { return false }), killed
}

// forEachToKill is forEach, over one broker where the database has many writers: there each kill costs the lease of the bus's relay, 15 seconds.
func forEachToKill(t *testing.T, test func(t *testing.T, s *started)) {
	if platformtest.Distributed() {
		t.Run("redis", func(t *testing.T) { test(t, start(t, "redis")) })
		return
	}
	forEach(t, test)
}

// The carrying process is killed between the broker's acknowledgement and the commit: nothing is lost, what comes again has the id it had, and what
// comes first comes in order.
func TestKilledOut(t *testing.T) {
	forEachToKill(t, func(t *testing.T, s *started) {
		const many = 400
		all, killed := killedOut(t, s, many, false)
		ns, repeated := firsts(all)
		ids := map[string]bool{}
		for _, g := range all {
			ids[g.ce.ID] = true
		}
		t.Logf("%d kills, %d came again", killed, repeated)
		if lost, disorder := audit(ns, many); lost+disorder > 0 {
			t.Errorf("%d lost, %d out of order", lost, disorder)
		}
		if len(ids) != many {
			t.Errorf("%d ids for %d events: a repetition cannot be told", len(ids), many)
		}
		if killed == 0 || repeated == 0 && s.kind != "nats" { // its server drops what comes again
			t.Errorf("%d kills, %d came again: the test has tried nothing", killed, repeated)
		}
	})
}

// The control: a bridge that takes events out of SQL before the broker has them loses some, and this suite sees it.
func TestKilledOutControl(t *testing.T) {
	if platformtest.Distributed() {
		t.Skip("the embedded tier shows it")
	}
	s := start(t, "redis")
	const many = 400
	all, killed := killedOut(t, s, many, true)
	ns, _ := firsts(all)
	lost, _ := audit(ns, many)
	t.Logf("%d kills, %d lost", killed, lost)
	if lost == 0 {
		t.Error("nothing was lost: the check cannot see what it is there for")
	}
}

// killedIn is a run of victims that take in; it returns the effects.
func killedIn(t *testing.T, s *started, many int, ackFirst bool) (ns []noted, killed int) {
	t.Helper()
	dir, topic := t.TempDir(), s.newTopic(t)
	c := platformtest.Config(t, dir, schemas()...)
	for n := 0; n < many; n += 40 {
		var ms []sent
		for i := n; i < n+40; i++ {
			ms = append(ms, sent{strconv.Itoa(i % 4), nil, eventBody("p", fmt.Sprint(i), heard{Key: int64(i % 4), N: i})})
		}
		s.send(t, topic, ms...)
	}
	killed = suffer(t, dir, plan{Database: c.URL, RunTwice: c.RunTwice, Broker: s.kind + "://" + s.direct, In: topic, Many: many, AckFirst: ackFirst}, c.Password.Reveal())
	h, err := openHouse(t.Context(), dir, c, Config{}, obs.Test(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	return h.effects(t), killed
}

// The process that takes in is killed between its commit and the acknowledgement: each message has its effect once, in order per key.
func TestKilledIn(t *testing.T) {
	forEachToKill(t, func(t *testing.T, s *started) {
		const many = 1200
		ns, killed := killedIn(t, s, many, false)
		t.Logf("%d kills", killed)
		if lost, disorder := audit(ns, many); lost+disorder > 0 || len(ns) != many {
			t.Errorf("%d lost, %d out of order, %d effects of %d", lost, disorder, len(ns), many)
		}
		if killed == 0 {
			t.Error("no kill: the test has tried nothing")
		}
	})
}

// The control: a bridge that acknowledges before its commit loses messages, and this suite sees it.
func TestKilledInControl(t *testing.T) {
	if platformtest.Distributed() {
		t.Skip("the embedded tier shows it")
	}
	s := start(t, "redis")
	const many = 1200
	ns, killed := killedIn(t, s, many, true)
	lost, _ := audit(ns, many)
	t.Logf("%d kills, %d lost", killed, lost)
	if lost == 0 {
		t.Error("nothing was lost: the check cannot see what it is there for")
	}
}
