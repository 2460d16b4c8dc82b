package line

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/node"
)

// Every node of a house follows the lines from SQL, where each change has its number: so it answers for positions itself, wherever the
// change was made. What this process commits is taken in at the commit, if nothing is missing before it; a house of one node never
// reads a line again.
const (
	lookEvery  = 500 * time.Millisecond // how often a node looks whether another changed a line; a bell makes it look sooner
	lookPause  = 50 * time.Millisecond  // at least between two looks
	tellsEvery = time.Second            // how often the pages of a sale are told its line's numbers, at most
)

// Duty is what one node at a time keeps: it tells the pages how long each line is, once for the whole house. Positions are answered by
// every node.
const Duty = "line"

// Serve has this node tell the pages how long each line is, until ctx ends. A service without Deps.Bell does that without being asked.
func (s *Service) Serve(ctx context.Context, term node.Term) error {
	s.term.Store(&term)
	<-ctx.Done()
	s.term.Store(&node.Term{})
	return nil
}

// speaks reports whether it is this node that tells the pages.
func (s *Service) speaks() bool { return s.Bell == nil || s.term.Load().Held() }

// Run follows the lines until ctx ends, and publishes the counts of those that changed where it is this node's to do so.
func (s *Service) Run(ctx context.Context) error {
	tell := time.NewTicker(tellsEvery)
	defer tell.Stop()
	var looks <-chan time.Time
	if s.Bell != nil {
		t := time.NewTicker(lookEvery)
		defer t.Stop()
		looks = t.C
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	rung, failing := s.rung, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tell.C:
			s.tellNumbers()
			continue
		case <-pause.C:
			rung = s.rung
			continue
		case <-looks:
		case <-rung:
		}
		err := s.look(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil && !failing:
			s.log.Warn("the lines cannot be read; positions stand still until they can", "err", err)
		case err == nil && failing:
			s.log.Info("the lines can be read again")
		}
		failing = err != nil
		rung = nil // until the pause is over
		pause.Reset(lookPause)
	}
}

// heard has Run look soon: another node changed a line, or this one misses changes.
func (s *Service) heard() {
	select {
	case s.rung <- struct{}{}:
	default:
	}
}

// look brings every line to what SQL says now, and forgets those that are over.
func (s *Service) look(ctx context.Context) error {
	if s.cut != nil && s.cut("look") {
		return levee.E(levee.CodeUnavailable, "cut off by a test")
	}
	over := s.book.all() // before SQL is asked: a line that is made meanwhile is not among them
	heads, err := s.alive(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		delete(over, h.sale)
		if err := s.catchUp(ctx, h); err != nil {
			return err
		}
	}
	for of, p := range over {
		list, err := changesSince(ctx, s.DB, of, p.at())
		if err != nil {
			return err
		}
		p.follow(list, 0)
		s.endLine(of, p)
	}
	return nil
}

// catchUp brings one line to where SQL is, or later.
func (s *Service) catchUp(ctx context.Context, h head) error {
	p := s.book.of(h.sale)
	switch {
	case p == nil || !p.inOrder && h.inOrder():
		p, err := load(ctx, s.DB, h)
		if err != nil {
			return err
		}
		s.book.put(h.sale, p)
		// What this process committed between the reading and the putting has found no places, or others.
		p = s.book.of(h.sale)
		if p == nil || !p.inOrder {
			return nil
		}
		list, err := changesSince(ctx, s.DB, h.sale, p.at())
		if err == nil {
			p.follow(list, 0)
		}
		return err
	case !p.inOrder:
		p.enter(h.entered, h.seq)
		return nil
	case p.at() >= h.seq:
		return nil
	}
	list, err := changesSince(ctx, s.DB, h.sale, p.at())
	if err == nil {
		p.follow(list, h.seq)
	}
	return err
}

// took has this node's places take in a change that it committed, and tells the other nodes that there is one.
func (s *Service) took(of levee.SaleID, c change, entered int64) {
	if s.cut != nil && s.cut("took") {
		return
	}
	switch p := s.book.of(of); {
	case p == nil:
		s.heard()
	case p.inOrder && !p.own(c):
		s.heard()
	case !p.inOrder && entered >= 0:
		p.enter(entered, c.seq)
	case !p.inOrder: // the draw was decided on another node just now
		s.heard()
	}
	if s.ring != nil {
		s.ring()
	}
}

// tellNumbers publishes the numbers of the lines that changed.
func (s *Service) tellNumbers() {
	if !s.speaks() {
		return // what changed stays noted: this node may have to tell it when the one that does is gone
	}
	for of, p := range s.book.all() {
		if c, changed := p.takeChanged(); changed {
			s.publish(of, p.inOrder, c)
		}
	}
}

// announce tells the pages of a sale at once how its line is now. On another node than the one that tells, it is told within a second.
func (s *Service) announce(of levee.SaleID) {
	if p := s.book.of(of); p != nil && s.speaks() {
		c, _ := p.takeChanged()
		s.publish(of, p.inOrder, c)
	}
}

// endLine tells the pages of a sale that its line is over, and forgets it.
func (s *Service) endLine(of levee.SaleID, p *places) {
	p.end()
	s.announce(of)
	s.book.drop(of, p)
}
