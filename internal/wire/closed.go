package wire

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"levee"
)

// Workers is how many goroutines a closed loop of so many connections uses.
func Workers(connections int) int { return max(1, min(connections, 2*runtime.GOMAXPROCS(0))) }

// Loop is a closed loop: each connection sends the next request when the one before is answered. Few goroutines serve many
// connections in turn, so that most answers are there before they are waited for.
type Loop struct {
	Net *Network
	// Connections, at least 1. Depth is how many requests are under way on each, 1 to DepthMost.
	Connections, Depth int
	// Timeout of one answer.
	Timeout time.Duration
	// Request appends the whole of the n-th HTTP/1.1 request. It is called from several goroutines.
	Request func(dst []byte, n uint64) []byte
	// Answer is told each answer, from several goroutines, each with its own worker number below Workers(). a is good until it
	// returns.
	Answer func(worker int, n uint64, a *Answer, sent, done time.Time)
	// Lost is told each request that has no answer; the server may have received it.
	Lost func(worker int, n uint64, sent time.Time)
}

// DepthMost bounds Loop.Depth.
const DepthMost = 64

// lane is one connection with what is under way on it, oldest first.
type lane struct {
	*Conn
	asked        [DepthMost]asked
	first, count int
}

type asked struct {
	n  uint64
	at time.Time
}

// noConnection is how long a closed loop goes on without a connection.
const (
	noConnection = 5 * time.Second
	dialPause    = 50 * time.Millisecond
)

// Run sends until the given time and waits for what is under way then. CodeUnavailable when no connection can be made for 5 s.
func (c *Loop) Run(ctx context.Context, until time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, c.Net.Cut)()
	workers := Workers(c.Connections)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			if errs[w] = c.work(ctx, w, workers, until); errs[w] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// work serves every workers-th connection in turn.
func (c *Loop) work(ctx context.Context, worker, workers int, until time.Time) error {
	var lanes []*lane
	for i := worker; i < c.Connections; i += workers {
		lanes = append(lanes, &lane{Conn: NewConn(c.Net, c.Timeout)})
	}
	defer func() {
		for _, l := range lanes {
			l.Drop()
		}
	}()
	next := uint64(worker)
	var failing time.Time
	for live := true; live; {
		live = false
		for _, l := range lanes {
			now := time.Now()
			if l.count > 0 {
				now = c.collect(worker, l)
			}
			if now.Before(until) && ctx.Err() == nil {
				err := c.fill(ctx, l, now, &next, uint64(workers))
				switch {
				case err == nil:
					failing = time.Time{}
				case failing.IsZero():
					failing = now
				case now.Sub(failing) > noConnection:
					return levee.E(levee.CodeUnavailable, "no connection to %s", c.Net.addr).Because(err)
				}
				if err != nil {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(dialPause):
					}
				}
				live = true
			}
			live = live || l.count > 0
		}
	}
	return ctx.Err()
}

// collect reads at least one answer of a lane, and those behind it that are here already.
func (c *Loop) collect(worker int, l *lane) (now time.Time) {
	for {
		a, err := l.read()
		now = time.Now()
		if err == nil {
			oldest := &l.asked[l.first]
			l.first, l.count = (l.first+1)%DepthMost, l.count-1
			c.Answer(worker, oldest.n, &a, oldest.at, now)
		}
		if err != nil || a.Close || l.count == 0 && l.more() { // more answers than requests: the line is out of step
			for ; l.count > 0; l.count-- {
				c.Lost(worker, l.asked[l.first].n, l.asked[l.first].at)
				l.first = (l.first + 1) % DepthMost
			}
			l.Drop()
			return now
		}
		if l.count == 0 || !l.more() {
			return now
		}
	}
}

// fill sends as many requests as the depth allows, in one write.
func (c *Loop) fill(ctx context.Context, l *lane, now time.Time, next *uint64, step uint64) error {
	if _, err := l.connect(ctx, now); err != nil {
		return err
	}
	l.out = l.out[:0]
	for l.count < c.Depth {
		l.out = c.Request(l.out, *next)
		l.asked[(l.first+l.count)%DepthMost] = asked{*next, now}
		l.count++
		*next += step
	}
	// A failed write shows in the read that follows: what was sent before it may still be answered.
	_ = l.send(now)
	return nil
}
