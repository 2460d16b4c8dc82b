package rehearse

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"levee"
)

// Load is a closed loop: each connection sends the next request when the one before is answered. It is built to cost little, for
// benchmarks in which it shares the processor with the server: requests are bytes, answers are parsed in place, and few
// goroutines serve many connections in turn, so that most answers are there before they are waited for.
type Load struct {
	// Server is the address of the server, http:// or https://, without a path.
	Server string
	// Connections, 1 to 16,384; default 16. Depth is how many requests are under way on each, 1 to 64; default 1.
	Connections, Depth int
	// Duration, 1 ms to 1 h. What is under way at its end is waited for.
	Duration time.Duration
	// Timeout of one answer, 100 ms to 2 min; default 20 s.
	Timeout time.Duration
	// Request appends the whole of the n-th HTTP/1.1 request. It is called from several goroutines.
	Request func(dst []byte, n uint64) []byte
	// Answer is told each answer, from several goroutines, each with its own worker number below Workers(). body is good until it
	// returns. Nil: answers are only counted.
	Answer func(worker int, n uint64, status int, body []byte)
}

// LoadFigures is what a Load came to.
type LoadFigures struct {
	Requests  uint64         `json:"requests"` // answered
	Lost      uint64         `json:"lost"`     // without an answer
	Seconds   float64        `json:"seconds"`
	PerSecond float64        `json:"per_second"`
	Statuses  map[int]uint64 `json:"statuses"`
}

// Workers is how many goroutines a closed loop of so many connections uses.
func Workers(connections int) int { return max(1, min(connections, 2*runtime.GOMAXPROCS(0))) }

// Drive runs a load. It fails with CodeInvalid for a value that is not allowed and CodeUnavailable when no connection can be made.
func Drive(ctx context.Context, l Load) (_ LoadFigures, err error) {
	defer levee.Wrap(&err, "rehearse.Drive(%s)", l.Server)
	def(&l.Connections, 16)
	def(&l.Depth, 1)
	def(&l.Timeout, timeoutDefault)
	switch {
	case l.Connections < 1 || l.Connections > connMax:
		return LoadFigures{}, levee.Invalid("Connections", fmt.Sprintf("1 to %d", connMax), l.Connections)
	case l.Depth < 1 || l.Depth > depthMax:
		return LoadFigures{}, levee.Invalid("Depth", fmt.Sprintf("1 to %d", depthMax), l.Depth)
	case l.Duration < time.Millisecond || l.Duration > time.Hour:
		return LoadFigures{}, levee.Invalid("Duration", "1ms to 1h", l.Duration)
	case l.Timeout < 100*time.Millisecond || l.Timeout > 2*time.Minute:
		return LoadFigures{}, levee.Invalid("Timeout", "100ms to 2m", l.Timeout)
	case l.Request == nil:
		return LoadFigures{}, levee.Invalid("Request", "a function", "nil")
	}
	network, err := newNetwork(l.Server, nil)
	if err != nil {
		return LoadFigures{}, err
	}
	defer network.cut()
	counts := make([][600]uint64, Workers(l.Connections))
	c := closed{net: network, connections: l.Connections, depth: l.Depth, timeout: l.Timeout, request: l.Request,
		answer: func(worker int, n uint64, a *answer, _, _ time.Time) {
			counts[worker][min(a.status, 599)]++
			if l.Answer != nil {
				l.Answer(worker, n, a.status, a.body)
			}
		},
		lost: func(int, uint64, time.Time) {},
	}
	start := time.Now()
	if err := c.run(ctx, start.Add(l.Duration)); err != nil {
		return LoadFigures{}, err
	}
	f := LoadFigures{Seconds: time.Since(start).Seconds(), Lost: c.losses.Load(), Statuses: map[int]uint64{}}
	for _, worker := range counts {
		for status, n := range worker {
			if n > 0 {
				f.Requests += n
				f.Statuses[status] += n
			}
		}
	}
	f.PerSecond = float64(f.Requests) / f.Seconds
	return f, nil
}

// closed is the loop itself.
type closed struct {
	net                *network
	connections, depth int
	timeout            time.Duration
	request            func(dst []byte, n uint64) []byte
	answer             func(worker int, n uint64, a *answer, sent, done time.Time)
	lost               func(worker int, n uint64, sent time.Time) // the server may have received it
	losses             atomic.Uint64
}

// lane is one connection with what is under way on it, oldest first.
type lane struct {
	*wire
	asked        [depthMax]asked
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

// run sends until the given time and waits for what is under way then.
func (c *closed) run(ctx context.Context, until time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, c.net.cut)()
	workers := Workers(c.connections)
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
func (c *closed) work(ctx context.Context, worker, workers int, until time.Time) error {
	var lanes []*lane
	for i := worker; i < c.connections; i += workers {
		lanes = append(lanes, &lane{wire: newWire(c.net, c.timeout)})
	}
	defer func() {
		for _, l := range lanes {
			l.drop()
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
					return levee.E(levee.CodeUnavailable, "no connection to %s", c.net.addr).Because(err)
				}
				if err != nil && pause(ctx, dialPause, nil) != nil {
					return ctx.Err()
				}
				live = true
			}
			live = live || l.count > 0
		}
	}
	return ctx.Err()
}

// pause waits for that long, or until something comes from wake or it is closed. Its error is that of ctx.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wake:
	case <-t.C:
	}
	return nil
}

// collect reads at least one answer of a lane, and those behind it that are here already.
func (c *closed) collect(worker int, l *lane) (now time.Time) {
	for {
		a, err := l.read()
		now = time.Now()
		if err == nil {
			oldest := &l.asked[l.first]
			l.first, l.count = (l.first+1)%depthMax, l.count-1
			c.answer(worker, oldest.n, &a, oldest.at, now)
		}
		if err != nil || a.close || l.count == 0 && l.more() { // more answers than requests: the line is out of step
			for ; l.count > 0; l.count-- {
				c.lost(worker, l.asked[l.first].n, l.asked[l.first].at)
				c.losses.Add(1)
				l.first = (l.first + 1) % depthMax
			}
			l.drop()
			return now
		}
		if l.count == 0 || !l.more() {
			return now
		}
	}
}

// fill sends as many requests as the depth allows, in one write.
func (c *closed) fill(ctx context.Context, l *lane, now time.Time, next *uint64, step uint64) error {
	if _, err := l.connect(ctx, now); err != nil {
		return err
	}
	l.out = l.out[:0]
	for l.count < c.depth {
		l.out = c.request(l.out, *next)
		l.asked[(l.first+l.count)%depthMax] = asked{*next, now}
		l.count++
		*next += step
	}
	// A failed write shows in the read that follows: what was sent before it may still be answered.
	_ = l.send(now)
	return nil
}
