package lock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ear passes the calls that one connection hears on to those of this process who wait.
type ear struct {
	began atomic.Bool // somebody listens
	hears atomic.Bool // calls come in

	mu      sync.Mutex // guards waiters
	waiters map[string]chan struct{}
}

// enter makes a token known, before its request is sent. count returns how many wait.
func (e *ear) enter(token string) (call <-chan struct{}, count func() int) {
	c := make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiters[token] = c
	return c, e.count
}

func (e *ear) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.waiters)
}

func (e *ear) leave(token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.waiters, token)
}

// call wakes one who waits; it never blocks.
func (e *ear) call(token string) {
	e.mu.Lock()
	c := e.waiters[token]
	e.mu.Unlock()
	if c != nil {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// callAll wakes all, as calls may have been missed: some at a time, so that they do not come to the server in one moment.
func (e *ear) callAll(ctx context.Context) {
	e.mu.Lock()
	all := make([]string, 0, len(e.waiters))
	for token := range e.waiters {
		all = append(all, token)
	}
	e.mu.Unlock()
	const some, pause = 200, 20 * time.Millisecond
	for i, part := 0, slices.Collect(slices.Chunk(all, some)); i < len(part); i++ {
		for _, token := range part[i] {
			e.call(token)
		}
		if i < len(part)-1 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// chores are goroutines of a driver, which its end waits for.
type chores struct {
	mu    sync.Mutex // guards over and the growth of tasks
	over  bool
	tasks sync.WaitGroup
}

// start runs f in the background, unless it is too late.
func (c *chores) start(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.tasks.Go(f)
	}
}

// end lets nothing more start and waits for what runs, which must have been told to stop.
func (c *chores) end() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.tasks.Wait()
}

// stand waits in a queue: for a call (none is heard on nil), for d at most. An error is that of ctx, or errClosed when run ended; then the request is to be given up.
func stand(ctx, run context.Context, call <-chan struct{}, d time.Duration) (called bool, err error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-call:
		return true, nil
	case <-t.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-run.Done():
		return false, errClosed
	}
}
