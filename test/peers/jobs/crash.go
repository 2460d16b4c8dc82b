package main

import (
	"context"
	"fmt"
	"time"
)

// crash kills a worker with SIGKILL in the middle of a job, starts a new one at once, and sees when the job runs again, as which attempt, or
// whether it is lost.
func (b *bench) crash(ctx context.Context, c contestant, r *result) error {
	return b.with(ctx, c, func(s spec) error {
		events := s.Events
		s.Events = events + "-put"
		s.Do, s.Jobs, s.Hold = "put", 1, 3
		if _, err := b.ask(ctx, s); err != nil {
			return err
		}
		s.Do, s.Events = "work", events+"-first"
		first, err := b.start(ctx, s)
		if err != nil {
			return err
		}
		defer first.Close()
		before, ok := awaitStart(ctx, s.Events, time.Minute, nil)
		if !ok {
			return fmt.Errorf("the job did not start; the worker said: %s", first.Said())
		}
		time.Sleep(time.Second)
		if err := first.Kill(); err != nil {
			return err
		}
		killed := time.Now()
		s.Events = events + "-second"
		second, err := b.start(ctx, s)
		if err != nil {
			return err
		}
		defer second.Close()
		ask := s
		ask.Do, ask.Events = "left", events+"-left"
		left := func() (float64, error) {
			f, err := b.ask(ctx, ask)
			return f["left"], err
		}
		checkAt := killed.Add(12 * time.Second)
		after, ok := awaitStart(ctx, s.Events, b.o.most, func() bool {
			if time.Now().Before(checkAt) {
				return true
			}
			checkAt = time.Now().Add(15 * time.Second)
			n, err := left()
			return err != nil || n > 0 // nothing is left: nobody will run it
		})
		if ok {
			r.crash = fmt.Sprintf("%.1f s", after.at.Sub(killed).Seconds())
			r.attempt = "none"
			if n := after.attempt - before.attempt; n > 0 {
				r.attempt = fmt.Sprint(n)
			}
			return nil
		}
		if !second.Running() {
			return fmt.Errorf("the second worker ended: %s", second.Said())
		}
		n, err := left()
		if err != nil {
			return err
		}
		r.attempt = "–"
		if n == 0 {
			r.crash = "**never: lost**"
		} else {
			r.crash = fmt.Sprintf("not within %.0f s; it is still kept", b.o.most.Seconds())
		}
		return nil
	})
}

// awaitStart waits for the first start in a file, for most at the longest, and as long as another function, if there is one, says so.
func awaitStart(ctx context.Context, file string, most time.Duration, goOn func() bool) (start, bool) {
	for end := time.Now().Add(most); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		if s := startsIn(file); len(s) > 0 {
			return s[0], true
		}
		if goOn != nil && !goOn() {
			return start{}, false
		}
	}
	return start{}, false
}
