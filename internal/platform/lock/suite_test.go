package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// house is some nodes that share one store, for a check. Each node is a Locks with connections of its own; the memory driver has one.
type house struct {
	nodes []*Locks
	ttl   time.Duration           // the shortest TTL that the driver does well with
	stop  func(i int)             // ends node i as a crash does: what it holds stays until its TTL; nil: the driver has one process
	wipe  func(name string) error // has the store forget a name, as a hand or a flush does; nil: it cannot
	slack time.Duration           // until a request stands in the queue
	alone bool                    // the driver has exclusive locks only
	lacks map[string]string       // checks of what the driver's opener says that it does not promise, each with what it says
}

func (h *house) node(i int) *Locks { return h.nodes[i%len(h.nodes)] }

const (
	// calmTTL is the TTL of leases that must not run out by themselves while a busy machine looks elsewhere: a renewal may come 400 ms late.
	calmTTL = 600 * time.Millisecond
	// late is what a busy machine may add to what a waiter is promised. Who is never served ends with the check's minute.
	late = 10 * time.Second
)

// kinds are the drivers under the suite. A driver adds itself in its own test file.
var kinds = map[string]func(t testing.TB, nodes int) *house{
	"memory": func(t testing.TB, _ int) *house {
		l, err := Open(Config{}, obs.Test(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return &house{nodes: []*Locks{l}, ttl: calmTTL, slack: 50 * time.Millisecond}
	},
}

// checks are the contract. Each returns what it found wrong, so that drivers that are broken on purpose can be put under them too.
var checks = []struct {
	name  string
	check func(ctx context.Context, h *house) error
}{
	{"one holder at a time", checkExclusive},
	{"fences rise", checkFences},
	{"names are told apart", checkNames},
	{"first come, first served", checkOrder},
	{"nobody waits longer than a round", checkLongestWait},
	{"try does not wait nor pass", checkTry},
	{"who gives up leaves the queue", checkGiveUp},
	{"again through the context", checkAgain},
	{"readers and writers", checkShared},
	{"semaphore", checkPermits},
	{"several names", checkAnd},
	{"a lease lasts while it is renewed", checkRenewed},
	{"MaxHold ends it", checkMaxHold},
	{"a dead holder is passed over", checkDeadHolder},
	{"a forgotten lease is told", checkWiped},
	{"given back once", checkRelease},
	{"Do", checkDo},
	{"close", checkClose}, // the last: it closes a node
}

func TestSuite(t *testing.T) {
	for _, kind := range slices.Sorted(keys(kinds)) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := kinds[kind](t, 3)
			for _, c := range checks {
				t.Run(c.name, func(t *testing.T) {
					if why := h.lacks[c.name]; why != "" {
						t.Skip("not promised:", why)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					if err := c.check(ctx, h); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// crowd runs f in n goroutines and returns the first error.
func crowd(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

var fresh atomic.Int64

// newName is a name that no other check uses.
func newName() string { return fmt.Sprintf("suite/%d:%d", time.Now().UnixNano(), fresh.Add(1)) }

func checkExclusive(ctx context.Context, h *house) error {
	name, inside, sum := newName(), atomic.Int64{}, 0
	err := crowd(8, func(i int) error {
		for range 15 {
			err := h.node(i).Do(ctx, name, func(ctx context.Context, _ uint64) error {
				if n := inside.Add(1); n != 1 {
					return fmt.Errorf("%d are inside", n)
				}
				seen := sum
				time.Sleep(100 * time.Microsecond)
				sum = seen + 1
				inside.Add(-1)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && sum != 8*15 {
		err = fmt.Errorf("%d of %d additions are left", sum, 8*15)
	}
	return err
}

func checkFences(ctx context.Context, h *house) error {
	name, last := newName(), uint64(0)
	return crowd(6, func(i int) error {
		for j := range 10 {
			s, err := h.node(i+j).Acquire(ctx, name)
			if err != nil {
				return err
			}
			if s.Fence() <= last || s.Fence() >= 1<<53 {
				return fmt.Errorf("fence %d after %d", s.Fence(), last)
			}
			last = s.Fence()
			if err := s.Release(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkNames(ctx context.Context, h *house) error {
	name := newName()
	var all []*Lease
	for i, end := range []string{"a", "A", "aa", "a:held", "a'", `a\`, "a%", "a_", "a:queue"} {
		s, err := h.node(i).TryAcquire(ctx, name+end)
		if err != nil {
			return fmt.Errorf("%q is taken for another: %w", end, err)
		}
		all = append(all, s)
	}
	for _, s := range all {
		if err := s.Release(ctx); err != nil {
			return err
		}
	}
	return nil
}

func checkOrder(ctx context.Context, h *house) error {
	name := newName()
	s, err := h.node(0).Acquire(ctx, name)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var came []int
	var wg sync.WaitGroup
	const n = 6
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			errs <- h.node(i).Do(ctx, name, func(context.Context, uint64) error {
				mu.Lock()
				defer mu.Unlock()
				came = append(came, i)
				return nil
			})
		})
		time.Sleep(h.slack) // until it stands in the queue
	}
	if err := s.Release(ctx); err != nil {
		return err
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			return err
		}
	}
	if !slices.IsSorted(came) {
		return fmt.Errorf("they came in the order %v", came)
	}
	return nil
}

func checkLongestWait(ctx context.Context, h *house) error {
	// A busy machine may hold one up on his way to the queue, in one round or another; a queue that is unfair is so in each.
	var err error
	for range 3 {
		if err = longestWait(ctx, h); err == nil {
			return nil
		}
	}
	return err
}

// longestWait counts, not by the clock but by grants, how many others come in while one waits.
func longestWait(ctx context.Context, h *house) error {
	const n, rounds, hold = 8, 8, 20 * time.Millisecond
	name := newName()
	var grants, worst atomic.Int64
	err := crowd(n, func(i int) error {
		for range rounds {
			asked := grants.Load()
			s, err := h.node(i).Acquire(ctx, name)
			if err != nil {
				return err
			}
			for w := grants.Add(1) - 1 - asked; ; {
				if old := worst.Load(); w <= old || worst.CompareAndSwap(old, w) {
					break
				}
			}
			time.Sleep(hold)
			if err := s.Release(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && worst.Load() > 2*n {
		err = fmt.Errorf("%d came in before one of %d who waited", worst.Load(), n)
	}
	return err
}

func checkTry(ctx context.Context, h *house) error {
	name := newName()
	s, err := h.node(0).TryAcquire(ctx, name)
	if err != nil {
		return err
	}
	if _, err := h.node(1).TryAcquire(ctx, name); !errors.Is(err, ErrHeld) || levee.CodeOf(err) != levee.CodeConflict {
		return fmt.Errorf("a second one got %v", err)
	}
	next := make(chan error, 1)
	got, done := make(chan struct{}), make(chan struct{})
	go func() {
		next <- h.node(2).Do(ctx, name, func(context.Context, uint64) error {
			close(got)
			<-done
			return nil
		})
	}()
	time.Sleep(h.slack)
	if err := s.Release(ctx); err != nil {
		return err
	}
	// It is free or held by who waited: either way it is not for one who tries.
	for range 5 {
		if late, err := h.node(0).TryAcquire(ctx, name); !errors.Is(err, ErrHeld) {
			if err == nil {
				_ = late.Release(ctx)
			}
			close(done)
			return fmt.Errorf("try passed one who waits, or got %v", err)
		}
	}
	<-got
	close(done)
	return <-next
}

func checkGiveUp(ctx context.Context, h *house) error {
	name := newName()
	s, err := h.node(0).Acquire(ctx, name)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 60*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = h.node(1).Acquire(short, name)
	if levee.CodeOf(err) != levee.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the deadline gave %v", err)
	}
	if d := time.Since(began); d > late {
		return fmt.Errorf("the deadline of 60ms came after %v", d)
	}
	why := errors.New("enough")
	cut, stop := context.WithCancelCause(ctx)
	time.AfterFunc(30*time.Millisecond, func() { stop(why) })
	if _, err = h.node(2).Acquire(cut, name); !errors.Is(err, why) {
		return fmt.Errorf("the cancellation gave %v", err)
	}
	if _, err = h.node(2).Acquire(cut, name); !errors.Is(err, why) {
		return fmt.Errorf("a context that has ended gave %v", err)
	}
	if err := s.Release(ctx); err != nil {
		return err
	}
	// Nobody stands in the queue any more.
	if s, err = h.node(1).TryAcquire(ctx, name); err != nil {
		return fmt.Errorf("after all have given up: %w", err)
	}
	return s.Release(ctx)
}

func checkAgain(ctx context.Context, h *house) error {
	name, l := newName(), h.node(0)
	s, err := l.Acquire(ctx, name)
	if err != nil {
		return err
	}
	child, err := l.Acquire(s.Context(), name, Shared())
	if err != nil {
		return fmt.Errorf("again: %w", err)
	}
	inner, err := l.Acquire(child.Context(), newName())
	if err != nil {
		return err
	}
	deep, err := l.TryAcquire(inner.Context(), name)
	if err != nil {
		return fmt.Errorf("again, below another: %w", err)
	}
	if deep.Fence() != s.Fence() {
		return fmt.Errorf("fences %d and %d of one place", deep.Fence(), s.Fence())
	}
	// In any order: the place stays until the last.
	for i, each := range []*Lease{s, child, deep} {
		if _, err := h.node(1).TryAcquire(ctx, name); !errors.Is(err, ErrHeld) {
			return fmt.Errorf("after %d of 3 were given back: %v", i, err)
		}
		if err := each.Release(ctx); err != nil {
			return err
		}
	}
	if err := inner.Release(ctx); err != nil {
		return err
	}
	places := 2
	if h.alone {
		places = 1
	}
	next, err := h.node(1).TryAcquire(ctx, name, Permits(places))
	if err != nil {
		return fmt.Errorf("after all were given back: %w", err)
	}
	if !h.alone {
		if _, err := h.node(1).TryAcquire(next.Context(), name); levee.CodeOf(err) != levee.CodeInvalid {
			return fmt.Errorf("one of two places was raised to the only one: %v", err)
		}
	}
	if err := next.Release(ctx); err != nil {
		return err
	}
	if _, err := h.node(1).TryAcquire(next.Context(), name); levee.CodeOf(err) != levee.CodeGone {
		return fmt.Errorf("under a lease that has ended: %v", err)
	}
	// What outlives the lease is not under it.
	last, err := h.node(1).TryAcquire(context.WithoutCancel(next.Context()), name)
	if err != nil {
		return err
	}
	return last.Release(ctx)
}

func checkShared(ctx context.Context, h *house) error {
	name := newName()
	// Who tries at the same time as others do not stand in each other's way.
	if err := crowd(6, func(i int) error {
		s, err := h.node(i).TryAcquire(ctx, name, Shared())
		if err != nil {
			return fmt.Errorf("one of six readers at once: %w", err)
		}
		return s.Release(ctx)
	}); err != nil {
		return err
	}
	var readers []*Lease
	for i := range 3 {
		s, err := h.node(i).Acquire(ctx, name, Shared())
		if err != nil {
			return err
		}
		readers = append(readers, s)
	}
	if _, err := h.node(0).TryAcquire(ctx, name); !errors.Is(err, ErrHeld) {
		return fmt.Errorf("a writer beside readers: %v", err)
	}
	wrote := make(chan error, 1)
	var in atomic.Bool
	go func() {
		wrote <- h.node(1).Do(ctx, name, func(context.Context, uint64) error {
			in.Store(true)
			time.Sleep(20 * time.Millisecond)
			in.Store(false)
			return nil
		})
	}()
	time.Sleep(h.slack)
	// A reader who comes now waits behind the writer.
	read := make(chan error, 2)
	for i := range 2 {
		go func() {
			read <- h.node(2-i).Do(ctx, name, func(context.Context, uint64) error {
				if in.Load() {
					return errors.New("a reader beside the writer")
				}
				select {
				case err := <-wrote:
					return err
				case <-time.After(5 * time.Second):
					return errors.New("a reader passed the writer who waits")
				}
			}, Shared())
		}()
	}
	time.Sleep(h.slack)
	for _, s := range readers {
		if in.Load() {
			return errors.New("the writer came in beside readers")
		}
		if err := s.Release(ctx); err != nil {
			return err
		}
	}
	select {
	case err := <-read:
		if err != nil {
			return err
		}
		wrote <- nil
	case <-ctx.Done():
		return errors.New("no reader came in")
	}
	return <-read
}

func checkPermits(ctx context.Context, h *house) error {
	name, most := newName(), atomic.Int64{}
	var inside atomic.Int64
	err := crowd(9, func(i int) error {
		for range 5 {
			err := h.node(i).Do(ctx, name, func(context.Context, uint64) error {
				n := inside.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				time.Sleep(3 * time.Millisecond)
				inside.Add(-1)
				return nil
			}, Permits(3))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if most.Load() > 3 {
		return fmt.Errorf("%d were inside at once", most.Load())
	}
	// Three are: each waits inside for the others.
	var met sync.WaitGroup
	met.Add(3)
	all := make(chan struct{})
	go func() { met.Wait(); close(all) }()
	err = crowd(3, func(i int) error {
		return h.node(i).Do(ctx, name, func(context.Context, uint64) error {
			met.Done()
			select {
			case <-all:
				return nil
			case <-time.After(10 * time.Second):
				return errors.New("three places did not take three")
			}
		}, Permits(3))
	})
	if err != nil {
		return err
	}
	// Where they disagree the lowest counts.
	two, err := h.node(0).TryAcquire(ctx, name, Permits(2))
	if err != nil {
		return err
	}
	five, err := h.node(1).TryAcquire(ctx, name, Permits(5))
	if err != nil {
		return err
	}
	if _, err := h.node(2).TryAcquire(ctx, name, Permits(5)); !errors.Is(err, ErrHeld) {
		return fmt.Errorf("a third beside one who bears two: %v", err)
	}
	if err := two.Release(ctx); err != nil {
		return err
	}
	third, err := h.node(2).TryAcquire(ctx, name, Permits(5))
	if err != nil {
		return fmt.Errorf("after he has gone: %w", err)
	}
	return errors.Join(five.Release(ctx), third.Release(ctx))
}

func checkAnd(ctx context.Context, h *house) error {
	a, b, c := newName(), newName(), newName()
	s, err := h.node(0).Acquire(ctx, c, And(a, b, a))
	if err != nil {
		return err
	}
	for _, n := range []string{a, b, c} {
		if _, err := h.node(1).TryAcquire(ctx, n); !errors.Is(err, ErrHeld) {
			return fmt.Errorf("one of the names: %v", err)
		}
		if s.FenceOf(n) == 0 {
			return errors.New("a name without a fence")
		}
	}
	if s.Fence() != s.FenceOf(c) || s.FenceOf("other") != 0 {
		return errors.New("not the fence of the name")
	}
	if err := s.Release(ctx); err != nil {
		return err
	}
	// All or nothing.
	if s, err = h.node(0).Acquire(ctx, b); err != nil {
		return err
	}
	if _, err := h.node(1).TryAcquire(ctx, a, And(b, c)); !errors.Is(err, ErrHeld) {
		return fmt.Errorf("with one of three held: %v", err)
	}
	for _, n := range []string{a, c} {
		free, err := h.node(2).TryAcquire(ctx, n)
		if err != nil {
			return fmt.Errorf("what was not had as a whole was kept in part: %w", err)
		}
		if err := free.Release(ctx); err != nil {
			return err
		}
	}
	if err := s.Release(ctx); err != nil {
		return err
	}
	// Crosswise.
	return crowd(4, func(i int) error {
		first, second := a, b
		if i%2 == 1 {
			first, second = b, a
		}
		for range 8 {
			if err := h.node(i).Do(ctx, first, func(context.Context, uint64) error { return nil }, And(second)); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkRenewed(ctx context.Context, h *house) error {
	name := newName()
	s, err := h.node(0).Acquire(ctx, name, TTL(h.ttl))
	if err != nil {
		return err
	}
	for end := time.Now().Add(4 * h.ttl); time.Now().Before(end); time.Sleep(h.ttl / 10) {
		if err := s.Context().Err(); err != nil || !s.Held() {
			return fmt.Errorf("the lease ended while it was renewed: %v", context.Cause(s.Context()))
		}
		if late, err := h.node(1).TryAcquire(ctx, name); !errors.Is(err, ErrHeld) {
			if err == nil {
				_ = late.Release(ctx)
			}
			return fmt.Errorf("another one beside: %v", err)
		}
	}
	return s.Release(ctx)
}

func checkMaxHold(ctx context.Context, h *house) error {
	name := newName()
	most := 3 * h.ttl
	asked := time.Now()
	s, err := h.node(0).Acquire(ctx, name, TTL(h.ttl), MaxHold(most))
	if err != nil {
		return err
	}
	alive := lastAlive(s)
	next, err := h.node(1).Acquire(ctx, name)
	if err != nil {
		return err
	}
	got := time.Now()
	if s.Context().Err() == nil {
		return errors.New("another one got it while the context had not ended")
	}
	<-s.Context().Done()
	ended := <-alive
	switch {
	case ended.After(got):
		return fmt.Errorf("the context ended %v after another one had got it", ended.Sub(got))
	case ended.Sub(asked) < most-drift(most)-drift(h.ttl)-50*time.Millisecond:
		return fmt.Errorf("the lease ended after %v, not %v", ended.Sub(asked), most)
	case got.Sub(asked) > most+late:
		return fmt.Errorf("the next one had to wait for %v", got.Sub(asked))
	case !errors.Is(context.Cause(s.Context()), ErrLost):
		return fmt.Errorf("the cause is %v", context.Cause(s.Context()))
	case next.Fence() <= s.Fence():
		return fmt.Errorf("fence %d after %d", next.Fence(), s.Fence())
	}
	if err := s.Release(ctx); !errors.Is(err, ErrLost) || levee.CodeOf(err) != levee.CodeGone {
		return fmt.Errorf("what was lost was given back with %v", err)
	}
	if !next.Held() {
		return errors.New("who was late with giving back took the place of the next one")
	}
	return next.Release(ctx)
}

// lastAlive gives the last moment before which the lease's context was still alive. It does not depend on when a timer fires on a busy machine, but
// on what somebody who asks is told.
func lastAlive(s *Lease) <-chan time.Time {
	out, ctx := make(chan time.Time, 1), s.Context()
	go func() {
		last := time.Now()
		for asked := last; ctx.Err() == nil; asked = time.Now() {
			last = asked
			time.Sleep(time.Millisecond)
		}
		out <- last
	}()
	return out
}

func checkDeadHolder(ctx context.Context, h *house) error {
	if h.stop == nil {
		return nil
	}
	name := newName()
	last := len(h.nodes) - 1
	s, err := h.nodes[last].Acquire(ctx, name, TTL(h.ttl))
	if err != nil {
		return err
	}
	type result struct {
		s   *Lease
		err error
	}
	got := make(chan result, 1)
	go func() {
		n, err := h.node(0).Acquire(ctx, name)
		got <- result{n, err}
	}()
	time.Sleep(h.slack)
	h.stop(last)
	died := time.Now()
	r := <-got
	if r.err != nil {
		return r.err
	}
	if d := time.Since(died); d > h.ttl+late {
		return fmt.Errorf("the next one waited for %v, the TTL is %v", d, h.ttl)
	}
	if s.Held() {
		return errors.New("two hold it")
	}
	if r.s.Fence() <= s.Fence() {
		return fmt.Errorf("fence %d after %d", r.s.Fence(), s.Fence())
	}
	return r.s.Release(ctx)
}

func checkWiped(ctx context.Context, h *house) error {
	if h.wipe == nil {
		return nil
	}
	name := newName()
	for i, opt := range []Option{Permits(1), Permits(2)} {
		if h.alone && i > 0 {
			break
		}
		s, err := h.node(0).Acquire(ctx, name, TTL(h.ttl), opt)
		if err != nil {
			return err
		}
		if err := h.wipe(name); err != nil {
			return err
		}
		next, err := h.node(1).TryAcquire(ctx, name)
		if err != nil {
			return fmt.Errorf("after the store forgot the name: %w", err)
		}
		if next.Fence() <= s.Fence() {
			return fmt.Errorf("fence %d after %d", next.Fence(), s.Fence())
		}
		select {
		case <-s.Context().Done():
		case <-time.After(h.ttl):
			if s.Context().Err() == nil { // who asks is told by the clock, however late timers fire
				return errors.New("the holder was not told within the TTL")
			}
		}
		if cause := context.Cause(s.Context()); !errors.Is(cause, ErrLost) {
			return fmt.Errorf("the cause is %v", cause)
		}
		if err := s.Release(ctx); !errors.Is(err, ErrLost) {
			return fmt.Errorf("what was lost was given back with %v", err)
		}
		if err := next.Release(ctx); err != nil {
			return fmt.Errorf("the next holder: %w", err)
		}
	}
	return nil
}

func checkRelease(ctx context.Context, h *house) error {
	name := newName()
	s, err := h.node(0).Acquire(ctx, name)
	if err != nil {
		return err
	}
	work := s.Context()
	cut, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Release(cut); err != nil {
		return fmt.Errorf("with a context that has ended: %w", err)
	}
	if work.Err() == nil || !errors.Is(context.Cause(work), ErrReleased) {
		return fmt.Errorf("the context of what was given back: %v", context.Cause(work))
	}
	if s.Held() {
		return errors.New("held after it was given back")
	}
	next, err := h.node(1).TryAcquire(ctx, name)
	if err != nil {
		return err
	}
	if err := s.Release(ctx); err != nil {
		return fmt.Errorf("given back a second time: %w", err)
	}
	if _, err := h.node(2).TryAcquire(ctx, name); !errors.Is(err, ErrHeld) {
		return fmt.Errorf("giving back twice took the next one's place: %v", err)
	}
	if err := next.Release(ctx); err != nil {
		return err
	}
	// A context asked for after the end has ended.
	if s, err = h.node(0).Acquire(ctx, name); err != nil {
		return err
	}
	if err := s.Release(ctx); err != nil {
		return err
	}
	if s.Context().Err() == nil {
		return errors.New("the context that was asked for after the end goes on")
	}
	// What comes after Release at the driver, such as a renewal that was under way, brings nothing back.
	if err := s.l.driver.renew(ctx, &s.h.r, time.Hour); !errors.Is(err, errGone) {
		return fmt.Errorf("a renewal after the end: %v", err)
	}
	if s, err = h.node(1).TryAcquire(ctx, name); err != nil {
		return fmt.Errorf("after a renewal that came late: %w", err)
	}
	return s.Release(ctx)
}

func checkDo(ctx context.Context, h *house) error {
	name, l := newName(), h.node(0)
	want := errors.New("the work's own")
	type valueKey struct{}
	err := l.Do(context.WithValue(ctx, valueKey{}, 7), name, func(ctx context.Context, fence uint64) error {
		if fence == 0 || ctx.Err() != nil || ctx.Value(valueKey{}) != 7 {
			return fmt.Errorf("fence %d, context %v", fence, ctx.Err())
		}
		return want
	})
	if err != want {
		return fmt.Errorf("the work's error came back as %v", err)
	}
	cut, cancel := context.WithCancel(ctx)
	err = l.Do(cut, name, func(ctx context.Context, _ uint64) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the end of the caller's context: %v", err)
	}
	err = l.Do(ctx, name, func(ctx context.Context, _ uint64) error {
		<-ctx.Done() // MaxHold
		return nil
	}, TTL(h.ttl), MaxHold(h.ttl))
	if !errors.Is(err, ErrLost) || levee.CodeOf(err) != levee.CodeGone {
		return fmt.Errorf("work that took longer than its lease: %v", err)
	}
	raised := func() (r any) {
		defer func() { r = recover() }()
		_ = l.Do(ctx, name, func(context.Context, uint64) error { panic("mine") })
		return nil
	}()
	if raised != "mine" {
		return fmt.Errorf("the panic came back as %v", raised)
	}
	s, err := h.node(1).Acquire(ctx, name)
	if err != nil {
		return err
	}
	return s.Release(ctx)
}

func checkClose(ctx context.Context, h *house) error {
	name, l := newName(), h.node(1)
	if _, err := h.node(0).Acquire(ctx, name, TTL(h.ttl), MaxHold(2*time.Second)); err != nil {
		return err
	}
	waits := make(chan error, 1)
	go func() {
		_, err := l.Acquire(ctx, name)
		waits <- err
	}()
	time.Sleep(h.slack)
	if err := l.Close(); err != nil {
		return err
	}
	select {
	case err := <-waits:
		if levee.CodeOf(err) != levee.CodeUnavailable {
			return fmt.Errorf("who waited got %v", err)
		}
	case <-time.After(5 * time.Second):
		return errors.New("who waited waits on")
	}
	if _, err := l.TryAcquire(ctx, newName()); levee.CodeOf(err) != levee.CodeUnavailable {
		return fmt.Errorf("after the end: %v", err)
	}
	return nil
}
