package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// follow writes down what a follower is told, in the transaction in which it is.
func follow(t testing.TB, j *Jobs) {
	t.Helper()
	if err := j.Follow(Follower{Prefix: "test/", Enter: func(ctx context.Context, id int64) context.Context { return context.WithValue(ctx, followKey{}, id) },
		Ended: func(ctx context.Context, tx *db.Tx, ends []End) error {
			if !slices.IsSortedFunc(ends, func(a, b End) int { return int(a.ID - b.ID) }) {
				t.Errorf("ends out of order: %+v", ends)
			}
			for _, e := range ends {
				if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES (?, ?)`, strings.Join(strings.Fields(e.What+" "+e.Result+" "+e.Error), " "), e.ID); err != nil {
					return err
				}
			}
			return nil
		}}); err != nil {
		t.Fatal(err)
	}
}

type followKey struct{}

// Every way in which a job leaves the table is told once; those of other sources are not, nor what goes on waiting.
func TestFollower(t *testing.T) {
	for _, c := range []struct {
		name, want string
		do         func(ctx context.Context, h *house, j *Jobs, attempt int) error
		then       func(h *house, j *Jobs, id int64) error
	}{
		{"done", "done 7", func(ctx context.Context, h *house, j *Jobs, attempt int) error { return SetResult(ctx, 7) }, nil},
		{"retried and snoozed", "done", func(ctx context.Context, h *house, j *Jobs, attempt int) error {
			if attempt < 3 {
				return errors.New("not yet")
			}
			if h.count(`SELECT COUNT(*) FROM effect WHERE what = 'snoozed'`) == 0 {
				if err := h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
					_, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('snoozed', 0)`)
					return err
				}); err != nil {
					return err
				}
				return Snooze(time.Second)
			}
			return nil
		}, nil},
		{"in its own transaction", "done 1", func(ctx context.Context, h *house, j *Jobs, attempt int) error {
			if err := SetResult(ctx, 1); err != nil {
				return err
			}
			return h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error { return DoneTx(ctx, tx) })
		}, nil},
		{"dead", "dead no", func(ctx context.Context, h *house, j *Jobs, attempt int) error { return Discard(errors.New("no")) }, nil},
		{"dead, retried and done", "dead no; retried; done", func(ctx context.Context, h *house, j *Jobs, attempt int) error {
			if h.count(`SELECT COUNT(*) FROM effect`) == 0 {
				return Discard(errors.New("no"))
			}
			return nil
		}, func(h *house, j *Jobs, id int64) error { return j.RetryDead(h.t.Context(), id) }},
		{"dead and pruned", "dead no; pruned", func(ctx context.Context, h *house, j *Jobs, attempt int) error { return Discard(errors.New("no")) },
			func(h *house, j *Jobs, id int64) error {
				_, err := j.Prune(h.t.Context(), time.Now().Add(time.Hour))
				return err
			}},
		{"cancelled while it runs", "cancelled", func(ctx context.Context, h *house, j *Jobs, attempt int) error { <-ctx.Done(); return ctx.Err() },
			func(h *house, j *Jobs, id int64) error { return j.Cancel(h.t.Context(), id) }},
		{"cancelled while it waits", "cancelled", func(ctx context.Context, h *house, j *Jobs, attempt int) error { return Snooze(time.Hour) },
			func(h *house, j *Jobs, id int64) error { return j.Cancel(h.t.Context(), id) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t)
				var j *Jobs
				k := Define("job", Options{Backoff: func(int) time.Duration { return time.Second }}, func(ctx context.Context, a args) error {
					if id, _ := ctx.Value(followKey{}).(int64); (id != 0) != (a.N == 1) {
						t.Errorf("job %d was entered as %d", a.N, id)
					}
					if a.N != 1 {
						return nil
					}
					attempt, _ := Attempt(ctx)
					return c.do(ctx, h, j, attempt)
				})
				j = h.jobs(Config{}, k)
				follow(t, j)
				defer h.run(j)()
				id := enqueue(h, k, args{1}, From("test/1"))
				enqueue(h, k, args{2}, From("other/1"))
				enqueue(h, k, args{3})
				time.Sleep(time.Minute)
				if c.then != nil {
					if err := c.then(h, j, id); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
				}
				if got := told(h); got != c.want {
					t.Errorf("told %q, want %q", got, c.want)
				}
			})
		})
	}
}

// told lists what was told, in its order as far as a job has one.
func told(h *house) string {
	rows, err := h.db.Query(context.Background(), `SELECT what FROM effect WHERE n > 0`)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var what string
		if err := rows.Scan(&what); err != nil {
			h.t.Fatal(err)
		}
		all = append(all, what)
	}
	rank := map[byte]int{'r': 1, 'p': 1} // after dead; done comes last
	slices.SortStableFunc(all, func(a, b string) int {
		x, y := rank[a[0]], rank[b[0]]
		if strings.HasPrefix(a, "done") {
			x = 2
		}
		if strings.HasPrefix(b, "done") {
			y = 2
		}
		return x - y
	})
	return strings.Join(all, "; ")
}

// A job that takes its process down again and again is told to be dead by whoever gives it up.
func TestFollowerOfPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		life := func() (*Jobs, *Kind[args]) {
			k := Define("poison", Options{}, func(context.Context, args) error { return nil })
			j := h.jobs(Config{}, k)
			follow(t, j)
			return j, k
		}
		j, k := life()
		enqueue(h, k, args{1}, From("test/1"))
		for range maxCrashes {
			take(t, j)
			j, _ = life()
			rescue(t, j)
		}
		if got := told(h); !strings.HasPrefix(got, "dead its lease ran out") || strings.Contains(got, ";") {
			t.Errorf("told %q", got)
		}
	})
}

// A follower that fails undoes the ends; they are written again, and told once. Many ends are told together.
func TestFollowerFails(t *testing.T) {
	h := open(t)
	k := Define("job", Options{}, func(context.Context, args) error { return nil })
	j := h.jobs(Config{}, k)
	var calls, most atomic.Int64
	if err := j.Follow(Follower{Prefix: "test/", Enter: func(ctx context.Context, id int64) context.Context { return ctx },
		Ended: func(ctx context.Context, tx *db.Tx, ends []End) error {
			most.Store(max(most.Load(), int64(len(ends))))
			for _, e := range ends {
				if _, err := tx.Exec(ctx, `INSERT INTO effect (what, n) VALUES ('done', ?)`, e.ID); err != nil {
					return err
				}
			}
			if calls.Add(1)%3 == 1 {
				return errors.New("no")
			}
			return nil
		}}); err != nil {
		t.Fatal(err)
	}
	if err := j.Follow(Follower{Prefix: "more/", Ended: j.follows.Ended, Enter: j.follows.Enter}); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a second follower: %v", err)
	}
	if _, err := k.EnqueueMany(t.Context(), make([]args, 500), From("test/1")); err != nil {
		t.Fatal(err)
	}
	h.drain(j)
	if n, single := h.count(`SELECT COUNT(*) FROM effect`), h.count(`SELECT COUNT(DISTINCT n) FROM effect`); n != 500 || single != 500 {
		t.Errorf("%d ends told of %d jobs, want 500", n, single)
	}
	if most.Load() < 2 {
		t.Error("no two ends were told together")
	}
	if n := h.count(`SELECT COUNT(*) FROM job_task`); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
}

// A node sleeps in a job for longer than its lease; another does the job; the sleeper wakes and ends it, too. Without the fence the follower is
// told twice.
func TestSleeperTellsNobody(t *testing.T) {
	for _, unfenced := range []bool{false, true} {
		t.Run(fmt.Sprintf("unfenced %v", unfenced), func(t *testing.T) {
			began, woke, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			var first atomic.Bool
			f := fleetOf(t, 2, true, quick, func(f *fleet, nd *node, ctx context.Context, a args) error {
				if !first.CompareAndSwap(false, true) {
					return nil
				}
				close(began)
				<-woke
				err := f.db.Tx(context.WithoutCancel(ctx), "late", func(ctx context.Context, tx *db.Tx) error { return DoneTx(ctx, tx) })
				over <- err
				return err
			}, func(nd *node) []Registration { follow(t, nd.jobs); return nil })
			sleeper, other := f.nodes[0], f.nodes[1]
			sleeper.jobs.seam.unfenced = unfenced
			f.start(sleeper)
			if _, err := sleeper.kind.Enqueue(t.Context(), args{1}, From("test/1")); err != nil {
				t.Fatal(err)
			}
			<-began
			sleeper.held.Store(true)
			f.start(other)
			for end := time.Now().Add(10 * time.Second); f.count(`SELECT COUNT(*) FROM effect`) == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("nobody took over")
				}
			}
			sleeper.held.Store(false)
			close(woke)
			err := <-over
			if n := f.count(`SELECT COUNT(*) FROM effect WHERE what = 'done'`); !unfenced && (n != 1 || err == nil) {
				t.Errorf("told %d times, the sleeper ends with %v", n, err)
			} else if unfenced && n != 2 {
				t.Errorf("told %d times without the fence: this test proves nothing", n)
			}
		})
	}
}
