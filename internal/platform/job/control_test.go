package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/obs"
)

// A cancellation takes a waiting job away, and reaches a running one on another node within a second, without a bell.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		var asked time.Time
		slow := func() *Kind[args] {
			return Define("slow", Options{Keep: time.Hour, Timeout: time.Hour}, func(ctx context.Context, a args) error {
				select {
				case <-ctx.Done():
					n.add("%d:%v@%v", a.N, context.Cause(ctx), time.Since(asked) <= time.Second)
					if a.N == 3 {
						return nil
					}
					return Snooze(time.Minute) // cancelled all the same
				case <-time.After(30 * time.Minute):
					return nil
				}
			})
		}
		k := slow()
		here := h.jobs(Config{}, k)
		there := h.jobs(Config{}, slow())
		waits := enqueue(h, k, args{1}, After(time.Hour), Unique("key"))
		if err := here.Cancel(t.Context(), waits); err != nil {
			t.Fatal(err)
		}
		if i := h.info(here, waits); i.State != Cancelled {
			t.Errorf("%+v", i)
		}
		if again := enqueue(h, k, args{1}, After(2*time.Hour), Unique("key")); again == waits {
			t.Error("the key of a cancelled job is not free")
		}
		runs, done := enqueue(h, k, args{2}), enqueue(h, k, args{3})
		stop := h.run(there)
		defer stop()
		time.Sleep(10 * time.Second)
		asked = time.Now()
		for _, id := range []int64{runs, done} {
			if err := here.Cancel(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(1100 * time.Millisecond)
		cause := strings.ReplaceAll(ErrCancelled.Error(), " ", "_")
		got := strings.ReplaceAll(n.String(), ErrCancelled.Error(), cause)
		n.all = strings.Fields(got)
		if got := n.sorted(); got != fmt.Sprintf("2:%s@true 3:%s@true", cause, cause) {
			t.Error(got)
		}
		if i := h.info(here, runs); i.State != Cancelled || i.Attempts != 1 {
			t.Errorf("%+v", i)
		}
		if i := h.info(here, done); i.State != Done {
			t.Errorf("%+v: it was done all the same", i)
		}
		for _, id := range []int64{runs, done, 77} {
			if err := here.Cancel(t.Context(), id); levee.CodeOf(err) != levee.CodeNotFound {
				t.Errorf("job %d is over: %v", id, err)
			}
		}
		time.Sleep(2 * keepEvery)
		if left := h.count(`SELECT COUNT(*) FROM job_control`); left != 0 {
			t.Errorf("%d requests are left", left)
		}
	})
}

// A job whose process died before it could obey is cancelled by whoever takes it over, without being run.
func TestCancelOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k := noter("note", &n, Options{Keep: time.Hour})
		dead := h.jobs(Config{}, k)
		id := enqueue(h, k, args{1})
		take(t, dead)
		if err := dead.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		j := h.jobs(Config{}, noter("note", &n, Options{Keep: time.Hour}))
		stop := h.run(j)
		defer stop()
		time.Sleep(time.Minute)
		if i := h.info(j, id); i.State != Cancelled || n.String() != "" {
			t.Errorf("%+v; ran %q", i, n.String())
		}
	})
}

// Pools and kinds are paused on all nodes within a second, what stands in the way of others is put aside, and all goes on afterwards.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var n notes
		k, other, side := noter("note", &n, Options{}), noter("other", &n, Options{}), noter("side", &n, Options{Pool: "side"})
		a := h.jobs(Config{}, k, other, side)
		b := h.jobs(Config{}, noter("note", &n, Options{}), noter("other", &n, Options{}), noter("side", &n, Options{Pool: "side"}))
		stop := h.run(b)
		defer stop()
		err := errors.Join(a.PauseKind(t.Context(), "note", true), a.PauseKind(t.Context(), "note", true), a.PausePool(t.Context(), "side", true))
		if err != nil {
			t.Fatal(err)
		}
		pools, kinds, err := a.Paused(t.Context())
		if diff := cmp.Diff([][]string{{"side"}, {"note"}}, [][]string{pools, kinds}); diff != "" || err != nil {
			t.Error(diff, err)
		}
		time.Sleep(1100 * time.Millisecond)
		for i := range 30 {
			enqueue(h, k, args{1})
			enqueue(h, side, args{2})
			if i < 2 {
				enqueue(h, other, args{3})
			}
		}
		time.Sleep(90 * time.Second)
		same(t, "3 3", &n)
		if i := h.count(`SELECT COUNT(*) FROM job_task WHERE pool = 'default|4|note' AND attempts = 0 AND fence = 0`); i != 30 {
			t.Errorf("%d are put aside unharmed, want 30", i)
		}
		if err := a.PausePool(t.Context(), "side", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
		same(t, "3 3"+strings.Repeat(" 2", 30), &n)
		n.all = nil
		if err := a.PauseKind(t.Context(), "note", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
		if got := n.String(); strings.Count(got, "1") != 30 {
			t.Error(got)
		}
		for _, err := range []error{a.PausePool(t.Context(), "", true), a.PauseKind(t.Context(), strings.Repeat("x", 191), true)} {
			if levee.CodeOf(err) != levee.CodeInvalid {
				t.Error(err)
			}
		}
	})
}

// Several nodes together never begin more of a limited kind than its rate in any window, and use most of it.
func TestRate(t *testing.T) {
	for _, r := range []Rate{{20, time.Second}, {7, 2 * time.Second}, {500, time.Second}, {6, time.Minute}} {
		t.Run(fmt.Sprint(r), func(t *testing.T) {
			total, most := rateOverNodes(t, r, 1)
			if total < 4*r.Count*3/4 || most > r.Count {
				t.Errorf("%d began of which %d were allowed, and %d of them within %v", total, 4*r.Count, most, r.Per)
			}
		})
	}
}

// The control: nodes that deal out twice as much are seen by this check.
func TestRateControl(t *testing.T) {
	r := Rate{20, time.Second}
	if _, most := rateOverNodes(t, r, 2); most <= r.Count {
		t.Errorf("at most %d began within %v: the check cannot see what it is there for", most, r.Per)
	}
}

// rateOverNodes lets three nodes work at a limited kind for five and a half spans, each dealing out the share by a factor, and returns how many
// began and how many of them in the fullest window.
func rateOverNodes(t *testing.T, r Rate, factor int) (total, most int) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var mu sync.Mutex
		var at []time.Time
		kind := func() *Kind[args] {
			return Define("limited", Options{Rate: r, Pool: "p"}, func(context.Context, args) error {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Now())
				return nil
			})
		}
		idle := func() *Kind[args] { return noter("free", new(notes), Options{Pool: "p"}) }
		var stops []func()
		var k, free *Kind[args]
		for range 3 {
			k, free = kind(), idle()
			j := h.jobs(Config{Poll: 100 * time.Millisecond}, k, free)
			k.limit.share *= factor
			stops = append(stops, h.run(j))
		}
		for done := 0; done < 4*r.Count; done += 1000 {
			if _, err := k.EnqueueMany(t.Context(), make([]args, min(1000, 4*r.Count-done))); err != nil {
				t.Fatal(err)
			}
		}
		enqueue(h, free, args{1}) // behind them, and not held up
		time.Sleep(r.Per / 2)
		if n := h.count(`SELECT COUNT(*) FROM job_task WHERE kind = 'free'`); n != 0 {
			t.Error("a limited kind holds up others")
		}
		time.Sleep(5 * r.Per)
		for _, stop := range stops {
			stop()
		}
		for from, to := 0, 0; to < len(at); to++ {
			for at[to].Sub(at[from]) >= r.Per {
				from++
			}
			most = max(most, to-from+1)
		}
		total = len(at)
	})
	return total, most
}

func TestRateSteps(t *testing.T) {
	l := newLimiter("x", Options{Rate: Rate{50, time.Second}})
	if l.share != 1 || l.step != 20*time.Millisecond {
		t.Errorf("%d each %v", l.share, l.step)
	}
	for _, r := range []Rate{{1, time.Hour}, {10007, time.Second}, {1000, time.Second}, {999_983, 10 * time.Millisecond}, {3, 10 * time.Millisecond}} {
		l := newLimiter("x", Options{Rate: r})
		if r.Count%l.share != 0 || l.step*time.Duration(r.Count/l.share) < r.Per || l.step < rateStep && l.share < r.Count {
			t.Errorf("%v: %d each %v", r, l.share, l.step)
		}
	}
	now := time.Now()
	l.seen = []sight{{now.Add(-time.Hour), 100}}
	if most, _ := l.deal(now, 100); most != 1 {
		t.Errorf("%d of a count that stands still", most)
	}
	if most, ready := l.deal(now, 101); most != 0 || !ready.After(now) {
		t.Errorf("%d although another node has begun one since it was seen", most)
	}
}

// Of a kind with a limit never more run at once, over nodes.
func TestMaxRunning(t *testing.T) {
	var now, most atomic.Int32
	var few *Kind[args] // of the last node
	f := fleetOf(t, 3, false, Config{Poll: 20 * time.Millisecond, Pools: map[string]int{"default": 8}}, once, func(nd *node) []Registration {
		few = Define("few", Options{MaxRunning: 3}, func(context.Context, args) error {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(2 * time.Millisecond)
			now.Add(-1)
			return nil
		})
		return []Registration{few}
	})
	for _, nd := range f.nodes {
		nd.off.Store(0)
		f.start(nd)
	}
	for range 120 {
		if _, err := few.Enqueue(t.Context(), args{}); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(30 * time.Second); f.count(`SELECT COUNT(*) FROM job_task`) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not done")
		}
	}
	t.Logf("at most %d ran at once", most.Load())
	if most.Load() > 3 || most.Load() < 2 {
		t.Errorf("%d ran at once, allowed are 3", most.Load())
	}
}

// A function that does not return loses its slot, not its process: others go on, once the log shows what all goroutines do.
func TestStuckGivesItsSlotAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var mu sync.Mutex
		o, err := obs.Open(obs.Config{Level: "error", Format: "json"}, locked{&mu, &log})
		if err != nil {
			t.Fatal(err)
		}
		h := openDir(t, t.TempDir(), o)
		var n notes
		free := make(chan struct{})
		k := Define("job", Options{Timeout: time.Second}, func(ctx context.Context, a args) error {
			if a.N < 2 {
				<-free
			}
			n.add("%d", a.N)
			return nil
		})
		j := h.jobs(Config{Pools: map[string]int{"default": 2}, Lease: 10 * time.Second}, k)
		var events notes
		stopListening := j.On(func(e Event) {
			if e.What == whatStuck {
				events.add("%s:%s", e.What, e.Job)
			}
		})
		stop := h.run(j)
		for i := range 5 {
			enqueue(h, k, args{i})
		}
		time.Sleep(14 * time.Second)
		if got := n.sorted(); got != "2 3 4" {
			t.Error(got)
		}
		if got := metric(t, j.m.stuck); got != 2 {
			t.Errorf("%v are stuck, want 2", got)
		}
		mu.Lock()
		text := log.String()
		mu.Unlock()
		if strings.Count(text, "goroutine ") == 0 || strings.Count(text, `"goroutines"`) != 1 {
			t.Errorf("the goroutines are logged %d times", strings.Count(text, `"goroutines"`))
		}
		close(free)
		time.Sleep(time.Minute)
		stop()
		stopListening()
		same(t, "stuck:job stuck:job", &events)
		if j.pools["default"].used != 0 || j.pools["default"].held != 0 {
			t.Errorf("%+v", j.pools["default"])
		}
	})
}

type locked struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Listeners hear of every state, in order; a slow one loses events, which is counted, and holds nobody up.
func TestListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		k := Define("job", Options{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Second }}, func(ctx context.Context, a args) error {
			at, _ := Attempt(ctx)
			switch {
			case a.N == 1 && at == 1:
				return errors.New("no")
			case a.N == 2:
				return errors.New("never")
			}
			return nil
		})
		j := h.jobs(Config{}, k)
		var n notes
		stopListening := j.On(func(e Event) { n.add("%s", e.What) })
		block := make(chan struct{})
		stopSlow := j.On(func(Event) { <-block })
		enqueue(h, k, args{1}, From("x"))
		stop := h.run(j)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		same(t, "enqueued begun retry begun done", &n)
		n.all = nil
		enqueue(h, k, args{2})
		time.Sleep(10 * time.Second)
		same(t, "enqueued begun retry begun dead", &n)
		if err := j.Cancel(t.Context(), enqueue(h, k, args{3}, After(time.Hour))); err != nil {
			t.Fatal(err)
		}
		if _, err := k.EnqueueMany(t.Context(), make([]args, listenMax), After(time.Hour)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := metric(t, j.m.dropped); got < 10 {
			t.Errorf("%v events dropped", got)
		}
		close(block)
		stopSlow()
		stopListening()
		stopListening()
		n.all = nil
		enqueue(h, k, args{3})
		stop()
		same(t, "", &n)
	})
}

// A pool grows and shrinks while it runs.
func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		var now atomic.Int32
		k := Define("job", Options{}, func(context.Context, args) error {
			now.Add(1)
			time.Sleep(time.Second) // of the bubble's clock
			now.Add(-1)
			return nil
		})
		j := h.jobs(Config{Pools: map[string]int{"default": 2}}, k)
		if _, err := k.EnqueueMany(t.Context(), make([]args, 200)); err != nil {
			t.Fatal(err)
		}
		stop := h.run(j)
		defer stop()
		for _, size := range []int{2, 9, 1, 30} {
			if err := j.Resize("default", size); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2370 * time.Millisecond)
			if got := now.Load(); got != int32(size) {
				t.Errorf("%d run in %d slots", got, size)
			}
		}
		if err := j.Resize("nothing", 1); levee.CodeOf(err) != levee.CodeNotFound {
			t.Error(err)
		}
		for _, size := range []int{0, 1001} {
			if err := j.Resize("default", size); levee.CodeOf(err) != levee.CodeInvalid {
				t.Error(err)
			}
		}
	})
}
