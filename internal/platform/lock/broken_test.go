package lock

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/obs"
)

// broken is the memory driver with one promise broken: the suite must see each.
type broken struct {
	*memory
	how   string
	stack *stack
}

// stack holds those who wait, the last on top.
type stack struct {
	mu  sync.Mutex
	all []*request
}

func (s *stack) push(who *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, who)
}

func (s *stack) top(who *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[len(s.all)-1] == who
}

func (s *stack) leave(who *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(w *request) bool { return w == who })
}

func (b broken) acquire(ctx context.Context, r *request) (grant, error) {
	name := r.name
	switch b.how {
	case "holders":
		r.name = newName()
	case "fence":
		g, err := b.memory.acquire(ctx, r)
		g.fence = 7
		return g, err
	case "order", "turns": // polls, as most locks do; who came last is the first to look, or it might be in order by chance
		try := r.try
		r.try = true
		b.stack.push(r)
		defer b.stack.leave(r)
		for {
			g, err := grant{}, error(errHeld)
			if b.stack.top(r) {
				g, err = b.memory.acquire(ctx, r)
			}
			if try || !errors.Is(err, errHeld) {
				return g, err
			}
			select {
			case <-ctx.Done():
				return g, ctx.Err()
			case <-b.done:
				return g, errClosed
			case <-time.After(7 * time.Millisecond):
			}
		}
	case "limit":
		r.limit = max(r.limit, 2)
	case "shared":
		r.limit = 1
	case "deaf":
		ctx = context.WithoutCancel(ctx)
	case "late": // its lease lasts longer here than there
		g, err := b.memory.acquire(ctx, r)
		g.asked = g.asked.Add(300 * time.Millisecond)
		return g, err
	}
	g, err := b.memory.acquire(ctx, r)
	r.name = name
	return g, err
}

func (b broken) release(ctx context.Context, r *request) error {
	if b.how == "keeps" {
		return nil
	}
	err := b.memory.release(ctx, r)
	if b.how == "silent" {
		err = nil
	}
	return err
}

func (b broken) renew(ctx context.Context, r *request, ttl time.Duration) error {
	if b.how == "revives" {
		_ = b.memory.release(ctx, r)
		_, err := b.memory.acquire(ctx, r)
		return err
	}
	return b.memory.renew(ctx, r, ttl)
}

// The negative controls of the suite: each breaks one promise, and the check that stands for it says so.
func TestBrokenDriversAreCaught(t *testing.T) {
	for how, check := range map[string]string{
		"holders": "one holder at a time",
		"fence":   "fences rise",
		"order":   "first come, first served",
		"turns":   "nobody waits longer than a round",
		"limit":   "one holder at a time",
		"shared":  "semaphore",
		"deaf":    "who gives up leaves the queue",
		"late":    "MaxHold ends it",
		"keeps":   "given back once",
		"revives": "given back once",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			l, err := open(Config{}, obs.Test(t), "memory", func(*Locks) (driver, error) { return broken{newMemory(), how, &stack{}}, nil })
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			h := &house{nodes: []*Locks{l}, ttl: ttlMin, slack: 50 * time.Millisecond}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			for _, c := range checks {
				if c.name != check {
					continue
				}
				found := make(chan error, 1)
				go func() { found <- c.check(ctx, h) }()
				select {
				case err := <-found:
					if err == nil {
						t.Errorf("%q did not notice", check)
					}
					t.Log(err)
				case <-time.After(6 * time.Second): // it waits for what does not come, which would be seen; Close ends it
				}
			}
		})
	}
}
