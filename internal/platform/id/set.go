package id

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"

	"levee"
	"levee/internal/platform/obs"
)

// Set is several generators of one space in one process, each with a worker number of its own, over which callers are spread: more ids than one
// worker has room for without running ahead of the clock. All methods may be called by many goroutines at once.
//
// All ids of a set differ. Their order is weaker than a Generator's: ids of one worker rise, but two calls of one goroutine may go to two
// workers. With Config.Lead = Strict an id that was asked for at least one Unit of the clock after another was given is above it, as long as
// the clock does not step back; without, ids are ordered about as well as the workers are equally busy.
type Set struct {
	all []*Generator
}

// OpenSet opens n generators, 1 to 64, as Open does. What it opened before a failure is closed.
func OpenSet(ctx context.Context, cfg Config, n int, o *obs.Obs) (_ *Set, err error) {
	defer levee.Wrap(&err, "id.OpenSet(%d)", n)
	if n < 1 || n > 64 {
		return nil, levee.Invalid("id.workers", "from 1 to 64", strconv.Itoa(n))
	}
	s := &Set{}
	for range n {
		g, err := Open(ctx, cfg, o)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.all = append(s.all, g)
	}
	return s, nil
}

// Next returns an id, of a worker that has room in this Unit where there is one. Errors are those of Generator.Next. A worker whose number
// was taken over is left out.
func (s *Set) Next() (int64, error) {
	g, word, _, err := s.some(1)
	if err != nil {
		return 0, err
	}
	return g.id(word), nil
}

// NextN fills dst with ids. Those of one worker are contiguous and rise; where one has no room left in this Unit, the next one goes on. Errors
// are those of Generator.NextN.
func (s *Set) NextN(dst []int64) error {
	for len(dst) > 0 {
		g, word, got, err := s.some(int64(min(len(dst), reserveMost)))
		if err != nil {
			return err
		}
		g.fill(dst[:got], word)
		dst = dst[got:]
	}
	return nil
}

// some takes up to n contiguous words of one worker, at least one.
func (s *Set) some(n int64) (g *Generator, first, got int64, err error) {
	at := 0
	if len(s.all) > 1 {
		at = int(rand.Uint32() % uint32(len(s.all))) // a counter would be one more cache line that all fight for
	}
	tick := s.all[at].now() // they share one clock
	for i := range s.all {  // who has room now
		g = s.all[(at+i)%len(s.all)]
		if first, got = g.atOnce(tick, n); got > 0 {
			return g, first, got, nil
		}
	}
	for i := range s.all { // nobody: wait for one, or hear why not
		g = s.all[(at+i)%len(s.all)]
		if first, got, err = g.reserve(n); err == nil {
			return g, first, got, nil
		}
	}
	return nil, 0, 0, err
}

// Workers returns the worker numbers in use.
func (s *Set) Workers() []int {
	var all []int
	for _, g := range s.all {
		all = append(all, g.Worker())
	}
	return all
}

// Layout returns the layout of the ids.
func (s *Set) Layout() Layout { return s.all[0].layout }

// Close closes all generators and returns their errors.
func (s *Set) Close() error {
	var all []error
	for _, g := range s.all {
		all = append(all, g.Close())
	}
	return errors.Join(all...)
}
