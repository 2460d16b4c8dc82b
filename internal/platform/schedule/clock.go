package schedule

import (
	"context"
	"sync"
	"time"

	"levee/internal/platform/obs"
)

// clock tells the time that counts: on SQLite this process' own; where many nodes share a database, that of the database, because it
// is one. It is asked out of band, now and then, and goes on with this node's monotonic clock, which nobody sets, so no decision needs
// a round trip. The estimate is that of Cristian and Marzullo: an answer that was sent for at s and came at r showed a time between
// the two, so what the server's clock is ahead lies in an interval; intervals of several answers are intersected, widened by
// what a monotonic clock may have drifted meanwhile. now is the early end: a firing may come late by the width, never early.
type clock struct {
	own   obs.Clock
	ask   func(ctx context.Context) (time.Time, error) // nil: own counts
	begun time.Time                                    // has a monotonic reading

	mu        sync.Mutex // guards what follows
	known     bool
	low, high int64         // what the server's clock is ahead of begun's, microseconds
	at        time.Duration // of the last answer, after begun
}

const (
	askEvery = 900 * time.Millisecond // with the looks, which are a second apart
	trust    = 10 * time.Second       // after which an answer is too old to go on from without asking
	drift    = 5000                   // a monotonic clock is wrong by no more than one part in this: 200 ppm
)

// now returns the time that counts; it asks only when it does not know.
func (c *clock) now(ctx context.Context) (time.Time, error) {
	if c.ask == nil {
		return c.own(), nil
	}
	if c.age() > trust {
		if err := c.sync(ctx); err != nil {
			return time.Time{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMicro(c.low + time.Since(c.begun).Microseconds()), nil
}

func (c *clock) age() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return 1 << 62
	}
	return time.Since(c.begun) - c.at
}

// sync asks.
func (c *clock) sync(ctx context.Context) error {
	if c.ask == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	sent := time.Since(c.begun)
	shown, err := c.ask(ctx)
	if err != nil {
		return err
	}
	came := time.Since(c.begun)
	low, high := shown.UnixMicro()-came.Microseconds()-1, shown.UnixMicro()-sent.Microseconds()+1
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		wider := (came-c.at).Microseconds()/drift + 1
		if l, h := max(low, c.low-wider), min(high, c.high+wider); l <= h {
			low, high = l, h
		} // else it was set, or it is another server's
	}
	c.known, c.low, c.high, c.at = true, low, high, came
	return nil
}
