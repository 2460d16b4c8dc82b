package job

import (
	"sync"
	"time"

	"levee"
)

// Event is what has happened to a job, told to listeners.
type Event struct {
	// What: enqueued, begun, done, retry (failed, tried again), dead, snoozed, interrupted (the process stopped), lost (taken over by another),
	// cancelled, stuck (long after its timeout), rescued (taken back from a process that died).
	What    string
	ID      int64
	Job     string // its kind
	Source  string // see From; not known of enqueued and rescued ones
	Attempt int
	At      time.Time
	Took    time.Duration // of a run that is over
	Err     error         // of a run that failed
}

const (
	whatEnqueued = "enqueued"
	whatBegun    = "begun"
	whatStuck    = "stuck"
	whatRescued  = "rescued"

	listenMax = 4096 // events that wait for one listener
)

type listener struct{ events chan Event }

// On calls fn, in one goroutine of its own, for everything that happens to jobs in this process from now on, in order and after the commit, until stop is
// called, which waits for fn to return. What other processes run is told to their listeners. A listener that is slow disturbs nobody: while 4,096 events
// wait for it, further ones are dropped and counted (levee_job_events_dropped_total). What must not be lost belongs into the job's transaction.
func (j *Jobs) On(fn func(Event)) (stop func()) {
	l := &listener{make(chan Event, listenMax)}
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case e := <-l.events:
				fn(e)
				continue
			default:
			}
			select {
			case e := <-l.events:
				fn(e)
			case <-over:
				return
			}
		}
	})
	change := func(add bool) {
		j.mu.Lock()
		defer j.mu.Unlock()
		var all []*listener
		if old := j.listeners.Load(); old != nil {
			for _, o := range *old {
				if o != l {
					all = append(all, o)
				}
			}
		}
		if add {
			all = append(all, l)
		}
		j.listeners.Store(&all)
	}
	change(true)
	return sync.OnceFunc(func() {
		change(false)
		close(over)
		wg.Wait()
	})
}

// heeded tells whether anybody listens.
func (j *Jobs) heeded() bool {
	all := j.listeners.Load()
	return all != nil && len(*all) > 0
}

func (j *Jobs) tell(e Event) {
	if !j.heeded() {
		return
	}
	if e.At.IsZero() {
		e.At = j.clock()
	}
	for _, l := range *j.listeners.Load() {
		select {
		case l.events <- e:
		default:
			j.m.dropped.Inc()
		}
	}
}

// Resize changes the slots of a pool of this process, 1 to 1000, until it ends. With fewer, what runs goes on. It fails with CodeInvalid, and
// with CodeNotFound for a pool that is not known here.
func (j *Jobs) Resize(pool string, slots int) (err error) {
	defer levee.Wrap(&err, "job.Resize(%q, %d)", pool, slots)
	if slots < 1 || slots > 1000 {
		return levee.Invalid("slots", "1 to 1000", slots)
	}
	j.mu.Lock()
	p := j.pools[pool]
	if p != nil {
		p.size = slots
	}
	j.mu.Unlock()
	if p == nil {
		return levee.E(levee.CodeNotFound, "there is no pool %q", levee.Shorten(pool, 80))
	}
	j.wake()
	return nil
}
