package id

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"levee"
)

const (
	// abandonedAfter is how far a horizon must lie in the past before its number counts as abandoned: its process died without
	// giving it back. A living one moves its horizon every few seconds. It is long, because taking the number of a living
	// process costs that process its ids (never anybody's uniqueness), and because its reading is a clock of another machine.
	abandonedAfter = 10 * time.Minute

	// storeTime bounds one call of the store: callers may wait for it.
	storeTime = 2 * time.Second

	// claimTime bounds the claim of a worker number.
	claimTime = 20 * time.Second
)

// store is where the nodes share the worker numbers of one space. Each call is one step: all of it is done or nothing, and what was
// answered is durable. A call that failed may have been carried out, or may be carried out later.
type store interface {
	// rows returns the rows that exist.
	rows(ctx context.Context) ([]workerRow, error)
	// take makes the row the owner's if it is as it was read (turn 0: not there), and returns where the new life must begin.
	take(ctx context.Context, at workerRow, owner, node string) (won bool, floor int64, err error)
	// raise moves the horizon of the owner's row up; never down. errStolen where the row is not the owner's.
	raise(ctx context.Context, worker int, owner string, horizon int64) (grant, error)
	// free gives the owner's row back with a horizon that may be lower; errStolen where it is not the owner's.
	free(ctx context.Context, worker int, owner string, first int64) error
}

// leaseOptions are seams of the suite; zero in production.
type leaseOptions struct {
	store store             // instead of what the config names
	wrap  func(store) store // a store that fails or answers late
	steal bool              // take the number of a living process
}

// lease is one life's hold on one row of a store. It is used by one goroutine at a time.
type lease struct {
	store  store
	worker int
	floor  int64 // where this life begins
	owner  string
}

// workerRow is what a store keeps of one worker number.
type workerRow struct {
	worker  int
	owner   string // a random word of the life that holds it; "" when it was given back
	horizon int64
	turn    int64 // rises with every write; 0: no such row yet
}

// candidates returns the numbers that may be taken, the best first. A row with turn 0 does not exist yet.
//
// Best is a number that was given back and whose horizon is past, the longest past first: its ids start at the clock. Then
// one that was never used; then one whose process died long ago; and at last one that was given back with a horizon ahead of
// this clock, whose ids run ahead of it for a while.
func candidates(rows []workerRow, now int64, l Layout) []workerRow {
	var back, dead, ahead []workerRow
	used := map[int]bool{}
	for _, r := range rows {
		used[r.worker] = true
		switch {
		case r.worker < 0 || r.worker >= l.workers() || r.horizon < 0 || r.horizon >= l.end() || r.turn < 1:
			// written by another hand: its horizon means nothing, so the number is left out
		case r.owner != "" && r.horizon <= now-l.span(abandonedAfter):
			dead = append(dead, r)
		case r.owner != "":
		case r.horizon <= now:
			back = append(back, r)
		default:
			ahead = append(ahead, r)
		}
	}
	longest := func(a, b workerRow) int { return int(a.horizon - b.horizon) }
	slices.SortStableFunc(back, longest)
	slices.SortStableFunc(dead, longest)
	slices.SortStableFunc(ahead, longest)
	all := back
	for worker := range l.workers() {
		if !used[worker] {
			all = append(all, workerRow{worker: worker})
		}
	}
	return append(append(all, dead...), ahead...)
}

// store opens the one that the config names.
func (c Config) store(ctx context.Context) (store, error) {
	switch {
	case c.DB != nil:
		return openSQL(ctx, c)
	case c.Etcd != nil:
		return openEtcd(ctx, c)
	}
	return openRedis(ctx, c)
}

// claimLease takes a worker number in a store. It reads all rows and takes one by compare-and-set; whoever loses a race looks again. now is
// this node's clock, which decides only which number is convenient.
func claimLease(ctx context.Context, s store, cfg Config, now int64, log *slog.Logger, opt leaseOptions) (*lease, error) {
	var word [16]byte
	if _, err := rand.Read(word[:]); err != nil {
		return nil, err
	}
	l := &lease{store: s, owner: hex.EncodeToString(word[:])}
	for try := 0; ; try++ {
		rows, err := s.rows(ctx)
		if err != nil {
			return nil, levee.E(levee.CodeUnavailable, "the worker numbers cannot be read now").Because(err).After(time.Second)
		}
		if i := slices.IndexFunc(rows, func(r workerRow) bool { return r.owner == l.owner }); i >= 0 {
			l.worker, l.floor = rows[i].worker, rows[i].horizon // ours already: the answer of a take was lost
			return l, nil
		}
		all := candidates(rows, now, cfg.Layout)
		if opt.steal {
			all = slices.DeleteFunc(rows, func(r workerRow) bool { return r.owner == "" || r.turn < 1 })
		}
		if len(all) == 0 {
			return nil, allInUse(cfg.Layout)
		}
		// Nodes that start together spread out, the more the longer they collide.
		at := all[mathrand.IntN(min(len(all), 1+4*try))]
		won, floor, err := l.take(ctx, at, cfg.Node)
		switch {
		case won:
			l.worker, l.floor = at.worker, floor
			if at.owner != "" {
				log.Warn("a worker number was taken over whose process had not given it back", "worker", at.worker)
			}
			return l, nil
		case err != nil && (levee.CodeOf(err) != levee.CodeUnavailable || ctx.Err() != nil):
			return nil, err
		case ctx.Err() != nil:
			return nil, levee.E(levee.CodeUnavailable, "no worker number could be claimed in %v: too many nodes start at once", claimTime).
				Because(ctx.Err())
		case err != nil && try >= 5:
			return nil, err
		}
		pause := time.NewTimer(mathrand.N(time.Duration(min(try+1, 10)) * 10 * time.Millisecond))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

func (l *lease) take(ctx context.Context, at workerRow, node string) (bool, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	return l.store.take(ctx, at, l.owner, node)
}

// write makes a new horizon durable. It never lowers one, so a write whose answer was lost, and which the store carries out late, does
// no harm.
func (l *lease) write(horizon int64) (grant, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	return l.store.raise(ctx, l.worker, l.owner, horizon)
}

// free gives the number back; ids below first were given, none at or above it. The row stops naming this life's owner with the same
// write, so that nothing of this life can raise or lower it afterwards.
func (l *lease) free(first int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	return l.store.free(ctx, l.worker, l.owner, first)
}

// release leaves the row as it is: its number comes back into use when its horizon is long past.
func (l *lease) release() error { return nil }

var errRace = errors.New("another node was faster")
