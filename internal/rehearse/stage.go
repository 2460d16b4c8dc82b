package rehearse

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"levee"
	"levee/internal/wire"
)

// stage is one rehearsal under way.
type stage struct {
	cfg      Config
	out      io.Writer
	net      *wire.Network
	op       *operator
	of, copy saleView
	crowd    []buyer
	phrases  phrases
	told     *told
	rec      *recorder
	payers   *payers
	room     *room         // nil: buyers come without asking for their admission
	offset   time.Duration // the server's clock minus ours
	begun    time.Time     // the start; has the monotonic clock
	opened   time.Duration // when the copy opens, since the start
	ended    time.Duration // when the last person came, since the start
	settled  time.Duration // when everybody had his last word
	cpu      time.Duration // of this process, from begun to settled
	over     bool          // the copy was ended
}

// now is the time since the start.
func (s *stage) now() time.Duration { return time.Since(s.begun) }

// newStage signs in, makes the copy and gets the crowd.
func newStage(ctx context.Context, c Config, out io.Writer) (_ *stage, err error) {
	s := &stage{cfg: c, out: out, op: newOperator(&c), told: newTold(c.Buyers)}
	s.payers = newPayers(s)
	if s.net, err = wire.NewNetwork(c.Server, c.dial); err != nil {
		return nil, err
	}
	s.rec = newRecorder(c.Duration, c.Connections)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if c.Token == "" {
		if err := s.op.signIn(ctx); err != nil {
			return nil, err
		}
	}
	if c.Token != "" {
		s.op.learnSelf(ctx)
	}
	if s.of, err = s.op.sale(ctx); err != nil {
		return nil, err
	}
	switch {
	case s.of.Mode == "draw":
		return nil, levee.E(levee.CodeConflict, "the units of this sale are given by a draw: there is no crowd to rehearse")
	case c.Queue && !s.of.Admission.Room:
		return nil, levee.E(levee.CodeConflict, "the sale %s has no waiting room", s.of.ID)
	case c.Late > 0 && s.of.Admission.through():
		return nil, levee.E(levee.CodeConflict, "the sale %s has a waiting room or a brake, so nobody comes late", s.of.ID)
	case c.Max && s.of.Admission.through():
		return nil, levee.E(levee.CodeConflict, "the sale %s has a waiting room or a brake, so --max cannot press as fast as it goes", s.of.ID)
	}
	if s.copy, err = s.op.copySale(ctx, s.of); err != nil {
		return nil, err
	}
	s.offset = time.Until(s.copy.ServerTime)
	if s.copy.Admission.through() {
		s.room = newRoom(s.copy)
		s.cfg.Double = 0 // who presses twice is of the race; in a room a page that is loaded again takes its place
	}
	if c.PerBuyer > 0 && s.copy.PerBuyer != int64(c.PerBuyer) || c.Units > 0 && s.copy.Operator.Units != c.Units {
		return nil, levee.E(levee.CodeConflict, "the rehearsal copy has %d units and %d per buyer, which is not what was asked for",
			s.copy.Operator.Units, s.copy.PerBuyer)
	}
	p := newProgress(s)
	p.invite()
	if s.crowd, err = s.op.invent(ctx, s.copy.ID, c.Buyers, min(24*time.Hour, c.Early+c.Duration+c.Settle+rehearsalTail+time.Hour), p.inventing); err != nil {
		return nil, err
	}
	p.line("")
	s.phrases = newPhrases(s.net.Host(), s.copy.ID, c.Quantity, c.Poll)
	return s, nil
}

// closing is how long the last calls may take when the rehearsal was broken off.
const closing = 10 * time.Second

// close ends what the rehearsal began on the server, as far as it still can, and all connections.
func (s *stage) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	if s.copy.Rehearsal && !s.over {
		// Best effort: a copy that is not ended ends by itself.
		_ = s.op.end(ctx, s.copy.ID)
	}
	s.op.signOut(ctx)
	s.op.close()
	if s.net != nil {
		s.net.Cut()
	}
}

// play lets the crowd come and waits for every last word.
func (s *stage) play(ctx context.Context) error {
	if s.cfg.Early > 0 {
		opens := s.copy.StartsAt.Add(-s.offset)
		if err := pause(ctx, time.Until(opens.Add(-s.cfg.Early)), nil); err != nil {
			return err
		}
	}
	s.begun = time.Now()
	s.opened = max(0, s.copy.StartsAt.Add(-s.offset).Sub(s.begun))
	cpu := processTime()
	ctx, cancel := context.WithCancel(ctx)
	var side sync.WaitGroup
	defer side.Wait()
	defer cancel()
	if s.cfg.Pay > 0 {
		side.Go(func() { s.payers.run(ctx) })
	}
	if s.room != nil {
		side.Go(func() { s.watch(ctx) })
	}
	p := newProgress(s)
	side.Go(func() { p.run(ctx) })
	if s.cfg.Watch.Begin != nil {
		s.cfg.Watch.Begin(s.copy.ID)
	}
	var err error
	if s.cfg.Max {
		err = s.playClosed(ctx, p)
	} else {
		s.ended = s.cfg.Duration
		coming := newArrivals(s.cfg.Rate, s.cfg.Duration, s.cfg.Seed)
		if s.room != nil { // everybody comes once; after that there is waiting
			coming.most, coming.end = uint64(len(s.crowd)), s.homeAt()
		}
		if s.cfg.Late > 0 {
			coming.most, coming.end = uint64(s.prompt()), s.cfg.Duration+s.cfg.Settle
		}
		o := s.newOffice(coming, nil)
		p.office.Store(o)
		err = o.run(ctx, s.cfg.Duration+s.cfg.Settle)
	}
	if err == nil && s.cfg.Watch.Calm != nil {
		err = s.cfg.Watch.Calm(ctx)
	}
	if err == nil && s.cfg.Late > 0 {
		err = s.playLate(ctx, p)
	}
	s.settled, s.cpu = s.now(), processTime()-cpu
	if err != nil {
		return err
	}
	s.payers.finish()
	if s.cfg.Pay > 0 {
		return pause(ctx, s.cfg.Settle, s.payers.gone)
	}
	return nil
}

// prompt is how many people do not come late.
func (s *stage) prompt() int { return len(s.crowd) - s.cfg.Late }

// playLate lets those come who come when all others have gone.
func (s *stage) playLate(ctx context.Context, p *progress) (err error) {
	// The connections of the others were cut with their last words.
	if s.net, err = wire.NewNetwork(s.cfg.Server, s.cfg.dial); err != nil {
		return err
	}
	now := s.now()
	late := make([]*flow, 0, s.cfg.Late)
	for n := s.prompt(); n < len(s.crowd); n++ {
		late = append(late, &flow{press: uint64(n), buyer: int32(n), pressed: now, due: now})
		s.rec.arrived(s.rec.shard(n), now, 0)
	}
	o := s.newOffice(nil, late)
	p.office.Store(o)
	return o.run(ctx, now+s.cfg.Settle)
}

// playClosed sends as much as the server takes, and then asks for what is not known yet.
func (s *stage) playClosed(ctx context.Context, p *progress) error {
	workers := wire.Workers(s.cfg.Connections)
	open := make([][]*flow, workers)
	readers := make([]reader, workers)
	follow := func(worker int, f flow) { open[worker] = append(open[worker], &f) }
	c := wire.Loop{Net: s.net, Connections: s.cfg.Connections, Depth: s.cfg.Depth, Timeout: s.cfg.Timeout,
		Request: func(dst []byte, n uint64) []byte {
			return s.phrases.cheapest(dst, &s.crowd[n%uint64(len(s.crowd))], n)
		},
		Answer: func(worker int, n uint64, a *wire.Answer, sent, done time.Time) {
			f := flow{press: n, buyer: int32(n % uint64(len(s.crowd))), pressed: sent.Sub(s.begun), sent: true}
			end := done.Sub(s.begun)
			v := s.hear(&f, a, &readers[worker])
			shard := s.rec.shard(worker)
			s.rec.answered(shard, event{class: v.class, meant: f.pressed, sent: f.pressed, done: end})
			switch {
			case v.final != finalNone:
				s.lastWord(shard, &f, v.final, end)
			case v.unknown:
				f.unknown = true
				follow(worker, f)
			default: // told to wait: in a closed loop the next press comes at once, and this one is over
				s.lastWord(shard, &f, finalGaveUp, end)
			}
		},
		Lost: func(worker int, n uint64, sent time.Time) {
			at := sent.Sub(s.begun)
			s.rec.answered(s.rec.shard(worker), event{class: classLost, meant: at, sent: at, done: s.now()})
			follow(worker, flow{press: n, buyer: int32(n % uint64(len(s.crowd))), pressed: at, sent: true, unknown: true, tries: 1})
		},
	}
	err := c.Run(ctx, s.begun.Add(s.cfg.Duration))
	s.ended = s.now()
	if err != nil {
		return err
	}
	var all []*flow
	for _, list := range open {
		all = append(all, list...)
	}
	for _, f := range all {
		f.due = s.ended
	}
	o := s.newOffice(nil, all)
	p.office.Store(o)
	return o.run(ctx, s.ended+s.cfg.Settle)
}

const (
	quietTick = 100 * time.Millisecond
	quietMost = 30 * time.Second
	// quietReads is how often rows and account are read until they are of one moment.
	quietReads = 5
)

// judge waits until the server is quiet, audits, and ends the copy.
func (s *stage) judge(ctx context.Context) (Report, error) {
	paid := s.told.paidUnits()
	var account Account
	for end := time.Now().Add(quietMost); ; {
		var err error
		if account, err = s.op.account(ctx, s.copy.ID); err != nil {
			return Report{}, err
		}
		if account.Gate.Unsettled == 0 && account.Gate.Waiting == 0 && account.Stock.Sold >= paid || time.Now().After(end) {
			break
		}
		if err := pause(ctx, quietTick, nil); err != nil {
			return Report{}, err
		}
	}
	var rows []row
	for range quietReads {
		before := account.Stock
		rows = rows[:0]
		if err := s.op.rows(ctx, s.copy.ID, func(r row) { rows = append(rows, r) }); err != nil {
			return Report{}, err
		}
		var err error
		if account, err = s.op.account(ctx, s.copy.ID); err != nil {
			return Report{}, err
		}
		if account.Stock == before { // else an order expired in between: read both again
			break
		}
	}
	checks := audit(&evidence{crowd: s.crowd, told: s.told, rows: rows, account: account, perBuyer: s.copy.PerBuyer, operator: s.op.user,
		units: s.copy.Operator.Units, answered: s.rec.read()})
	if s.room != nil {
		checks = append(checks, s.judgeRoom(s.figures())...)
	}
	notes := s.notes()
	if err := s.op.end(ctx, s.copy.ID); err != nil {
		notes = append(notes, fmt.Sprintf("The rehearsal copy could not be ended and stays open until its end: %v.", err))
	}
	s.over = true
	return s.report(checks, account, notes), nil
}

// notes are what a reader of the figures should know.
func (s *stage) notes() (list []string) {
	if s.cfg.Pay > 0 {
		list = append(list, s.payers.notes()...)
	}
	if r := s.room; r != nil {
		r.mu.Lock()
		if r.deaf > 0 {
			list = append(list, fmt.Sprintf("%d of %d listeners never heard the counter: the server bounds how many streams one address opens.", r.deaf, r.deaf+r.listeners))
		}
		r.mu.Unlock()
	}
	if s.cfg.Max {
		list = append(list, "This was a closed loop: each connection waits for its answer before it sends again, so latencies do not "+
			"show how long people would have waited in a stall. Use --rate for that.")
	}
	return list
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
