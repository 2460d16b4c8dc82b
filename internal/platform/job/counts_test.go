package job

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Every job is counted once, in its lane and state, and what the process did is counted, too.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		release := make(chan struct{})
		mail := Define("mail", Options{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Hour }}, func(_ context.Context, a args) error {
			switch a.N {
			case 1:
				return errors.New("closed")
			case 2:
				return Discard(errors.New("never"))
			case 3:
				<-release
			}
			return nil
		})
		other := Define("other", Options{Pool: "slow"}, func(context.Context, args) error { return nil })
		j := h.jobs(Config{Node: "n1"}, mail, other)
		for n := range 5 {
			enqueue(h, mail, args{n})
		}
		enqueue(h, mail, args{5}, After(time.Hour), Priority(1))
		enqueue(h, other, args{6}, After(24*time.Hour))
		want := []Count{
			{Pool: "default", Priority: 1, Kind: "mail", Later: 1},
			{Pool: "default", Priority: 4, Kind: "mail", Waiting: 5},
			{Pool: "slow", Priority: 4, Kind: "other", Later: 1},
		}
		check := func(what string) {
			t.Helper()
			got, whole, err := j.Counts(context.Background())
			if err != nil || !whole {
				t.Fatalf("%s: whole %v, %v", what, whole, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: %s", what, d)
			}
		}
		check("before")
		stop := h.run(j)
		time.Sleep(5 * time.Second)
		want[1] = Count{Pool: "default", Priority: 4, Kind: "mail", Later: 1, Retrying: 1, Running: 1, Dead: 1}
		check("while it runs")
		if got := j.Totals(); got.Node != "n1" || got.Enqueued != 7 || got.Done != 2 || got.Retried != 1 || got.Dead != 1 {
			t.Errorf("%+v", got)
		}
		close(release)
		stop()
	})
}
