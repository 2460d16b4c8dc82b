package notify

import (
	"context"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
)

// Duty is what one node at a time keeps: it writes out what was heard, and sends. Two would tell everybody everything twice, and in any
// order. Requests are answered by every node: what they change stands in SQL, where the keeper finds it.
const Duty = "notify"

// asideEvery is how often the keeper looks for what other nodes have left in SQL, whose bells it may not hear.
const asideEvery = time.Second

// Serve writes out what was heard and sends, until ctx ends. Requests under way then get a moment to end; what was not answered is sent
// again by whoever comes next. A term begins as a life does: from what stands in SQL.
//
// A node that sleeps through the end of its term between asking for it and sending may send once more what another sends, too: receivers
// know repeats by webhook-id. It writes nothing down any more.
func (s *Service) Serve(ctx context.Context, term node.Term) error {
	s.term.Store(&term)
	defer s.term.Store(&node.Term{})
	var wg sync.WaitGroup
	wg.Go(func() { s.writeLoop(ctx) })
	wg.Go(func() { s.laneLoop(ctx) })
	wg.Wait()
	return nil
}

// tx writes as the keeper: what a node tries to write after its term is over is refused (CodeConflict).
func (s *Service) tx(ctx context.Context, name string, fn func(ctx context.Context, tx *db.Tx) error) error {
	s.fault()
	term := *s.term.Load()
	return s.db.Tx(ctx, name, func(ctx context.Context, tx *db.Tx) error {
		if err := term.CheckTx(ctx, tx); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// alone reports whether no other node can serve this database: then memory holds what stands in SQL.
func (s *Service) alone() bool { return *s.term.Load() == node.Forever() }

// poll is how long the keeper rests under a bell.
func (s *Service) poll(alone time.Duration) time.Duration {
	if s.alone() {
		return alone
	}
	return asideEvery
}

// refreshHooks takes in what other nodes changed of webhooks.
func (s *Service) refreshHooks(ctx context.Context) error {
	if s.alone() {
		return nil
	}
	was := s.hooks.Load()
	hooks, err := readWebhooks(ctx, s.db.Query)
	if err == nil {
		s.hooks.CompareAndSwap(was, &hooks) // whoever changed one in this process meanwhile knows better
	}
	return err
}

// asked lets every webhook be tried now, however long it has been failing: on another node somebody waits to see one tried, or has
// changed it.
func (s *Service) asked() {
	ring(s.changed)
	for _, w := range *s.hooks.Load() {
		s.wakeLane(w.ID, true)
	}
}

// wake has the keeper try a webhook now, on whichever node it is.
func (s *Service) wake(id levee.WebhookID) {
	s.wakeLane(id, true)
	s.tellAsked()
}
