package notify

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"levee"
	"levee/internal/line"
	"levee/internal/order"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/sale"
)

// sourceRehearsal is the source of a rehearsal's orders.
const sourceRehearsal = "rehearsal"

// stepHeard is what is noted of a step of one order.
type stepHeard struct {
	Order     levee.OrderID `json:"order"`
	Carrier   string        `json:"carrier,omitempty"`
	Tracking  string        `json:"tracking,omitempty"`
	Rehearsal bool          `json:"rehearsal,omitempty"`
}

// Listeners returns what the room wants to hear. Each notes it down in one row and does nothing else: they run inside the one
// writer that purchases wait for.
func (s *Service) Listeners() []event.Listener {
	return []event.Listener{
		event.Listen("notify.created", func(ctx context.Context, tx *db.Tx, e order.CreatedBatch) error {
			ids := make([]byte, 0, 20*len(e.Orders))
			for _, id := range e.Orders {
				ids = append(strconv.AppendInt(ids, int64(id), 10), ' ')
			}
			return s.hear(ctx, tx, typeCreated, string(ids))
		}),
		event.Listen("notify.paid", func(ctx context.Context, tx *db.Tx, e order.Paid) error {
			return s.hearStep(ctx, tx, typePaid, e.Source, stepHeard{Order: e.Order})
		}),
		event.Listen("notify.cancelled", func(ctx context.Context, tx *db.Tx, e order.Cancelled) error {
			return s.hearStep(ctx, tx, typeCancelled, e.Source, stepHeard{Order: e.Order})
		}),
		event.Listen("notify.shipped", func(ctx context.Context, tx *db.Tx, e order.Shipped) error {
			return s.hearStep(ctx, tx, typeShipped, "", stepHeard{Order: e.Order, Carrier: e.Carrier, Tracking: e.Tracking})
		}),
		event.Listen("notify.completed", func(ctx context.Context, tx *db.Tx, e order.Completed) error {
			return s.hearStep(ctx, tx, typeCompleted, "", stepHeard{Order: e.Order})
		}),
		event.Listen("notify.refunded", func(ctx context.Context, tx *db.Tx, e order.Refunded) error {
			return s.hearStep(ctx, tx, typeRefunded, e.Source, stepHeard{Order: e.Order})
		}),
		event.Listen("notify.sale_changed", func(ctx context.Context, tx *db.Tx, e sale.StateChanged) error {
			return s.hearJSON(ctx, tx, typeSaleChanged, e)
		}),
		event.Listen("notify.offered", func(ctx context.Context, tx *db.Tx, e line.Offered) error { return s.hearJSON(ctx, tx, typeOffered, e) }),
		event.Listen("notify.lost", func(ctx context.Context, tx *db.Tx, e line.Lost) error { return s.hearJSON(ctx, tx, typeLost, e) }),
		event.Listen("notify.drawn", func(ctx context.Context, tx *db.Tx, e line.Drawn) error { return s.hearJSON(ctx, tx, typeDrawn, e) }),
	}
}

// hearStep leaves out the steps of rehearsals that nobody wants, which may be thousands a second. Where another node may just have made a
// webhook that wants them, plan does.
func (s *Service) hearStep(ctx context.Context, tx *db.Tx, what, source string, h stepHeard) error {
	if h.Rehearsal = source == sourceRehearsal; h.Rehearsal && s.alone() && !s.anyForRehearsals() {
		return nil
	}
	return s.hearJSON(ctx, tx, what, h)
}

func (s *Service) anyForRehearsals() bool {
	for _, w := range *s.hooks.Load() {
		if w.Enabled && w.Rehearsals {
			return true
		}
	}
	return false
}

func (s *Service) hearJSON(ctx context.Context, tx *db.Tx, what string, e any) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.hear(ctx, tx, what, string(text))
}

func (s *Service) hear(ctx context.Context, tx *db.Tx, what, data string) error {
	id, err := s.ids.Next()
	if err != nil {
		return err
	}
	s.metrics.heard.WithLabelValues(what).Inc()
	tx.AfterCommit(func() { ring(s.heard); s.tellHeard() })
	return insertHeard(ctx, tx, id, what, data)
}

// fact is one thing to tell: what a notice and the deliveries of it are made of.
type fact struct {
	what      string
	kind      levee.Kind
	subject   int64
	version   int64
	at        time.Time
	rehearsal bool
	detail    detail
}

// plan is what is to be written of one heard row, worked out outside of any transaction.
type plan struct {
	notices []Notice
	// facts by subject, each subject's in their order. Those which a webhook was told already are left out when they are written.
	facts []fact
}

// The writer's measures: what one transaction writes holds up purchases by a few milliseconds, and the reads of a batch leave half
// of a small machine to the buyers.
const (
	heardPage  = 64
	batchChunk = 512
	readers    = 2
	heardPoll  = 30 * time.Second // a net under the bell
	heardTries = 12               // with the pauses below about five minutes
)

// writeLoop writes out what was heard until ctx ends.
func (s *Service) writeLoop(ctx context.Context) {
	tries := map[int64]int{} // of rows that failed
	for ctx.Err() == nil {
		rows, err := readHeard(ctx, s.db.Query, heardPage)
		if err == nil && len(rows) == 0 {
			clear(tries)
			rest(ctx, s.heard, s.poll(heardPoll))
			continue
		}
		if err == nil { // after the rows: a webhook that was made before something happened is told of it
			err = s.refreshHooks(ctx)
		}
		if err == nil {
			err = s.writeOut(ctx, rows, tries)
		}
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "what was heard could not be written out; it is tried again", "err", err)
			rest(ctx, nil, time.Second)
		}
	}
}

// writeOut handles a page of rows: together, and where that fails one by one, so that one which cannot be handled holds up the others
// for a while only. It is then dropped, loudly, but never because the database is away.
func (s *Service) writeOut(ctx context.Context, rows []heardRow, tries map[int64]int) error {
	single := 0 // rows to take one by one
	for ; len(rows) > 0 && ctx.Err() == nil; rows, single = rows[1:], single-1 {
		n := 0
		for single <= 0 && n < len(rows) && rows[n].what != typeCreated {
			n++
		}
		if n > 1 {
			err := s.writeSteps(ctx, rows[:n])
			if err == nil {
				rows = rows[n-1:]
				continue
			}
			if errors.Is(err, errElsewhere) {
				return nil
			}
			single = n
		}
		h := rows[0]
		write := func() error { return s.writeSteps(ctx, rows[:1]) }
		if h.what == typeCreated {
			write = func() error { return s.writeBatch(ctx, h) }
		}
		err := write()
		if err == nil {
			continue
		}
		if errors.Is(err, errElsewhere) { // what is left is read anew
			return nil
		}
		if s.db.Ping(ctx) == nil {
			tries[h.id]++
		}
		if tries[h.id] < heardTries {
			rest(ctx, nil, time.Duration(tries[h.id])*time.Second)
			return err
		}
		s.metrics.dropped.Inc()
		s.log.ErrorContext(ctx, "what was heard is dropped: it cannot be written out", "what", h.what, "data", levee.Shorten(h.data, 500), "err", err)
		if err := s.tx(ctx, "notify.drop", func(ctx context.Context, tx *db.Tx) error { return deleteHeard(ctx, tx, h.id) }); err != nil {
			return err
		}
	}
	return nil
}

// writeBatch writes out a batch of new orders, chunk by chunk. All orders of a batch come from one settlement, so that the first
// one tells where all come from.
func (s *Service) writeBatch(ctx context.Context, h heardRow) error {
	var ids []levee.OrderID
	for _, f := range strings.Fields(h.data) {
		id, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return err
		}
		ids = append(ids, levee.OrderID(id))
	}
	for {
		if h.done >= int64(len(ids)) {
			return s.tx(ctx, "notify.write", func(ctx context.Context, tx *db.Tx) error { return deleteHeard(ctx, tx, h.id) })
		}
		chunk := ids[h.done:min(int64(len(ids)), h.done+batchChunk)]
		p, err := s.planCreated(ctx, chunk)
		if err != nil {
			return err
		}
		if p == nil { // a rehearsal that nobody wants to hear of
			h.done = int64(len(ids))
			continue
		}
		h.done += int64(len(chunk))
		over := h.done >= int64(len(ids))
		err = s.commit(ctx, p, func(ctx context.Context, tx *db.Tx) error {
			if over {
				return deleteHeard(ctx, tx, h.id)
			}
			return advanceHeard(ctx, tx, h.id, h.done-int64(len(chunk)), h.done)
		})
		if err != nil || over {
			return err
		}
	}
}

// planCreated plans new orders of one batch. Nil: nobody is to be told.
func (s *Service) planCreated(ctx context.Context, ids []levee.OrderID) (*plan, error) {
	first, err := s.orders.ByID(ctx, levee.System, ids[0])
	if err != nil {
		return nil, err
	}
	p := &plan{facts: make([]fact, len(ids))}
	rehearsal := first.Source == sourceRehearsal
	if rehearsal && !s.anyForRehearsals() {
		return nil, nil //nolint:nilnil // said above
	}
	if rehearsal { // nobody to be noticed: what is told is the same for all, but for the number
		for i, id := range ids {
			p.facts[i] = createdFact(first)
			p.facts[i].subject = int64(id)
		}
		return p, nil
	}
	p.notices = make([]Notice, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	for r := range readers {
		g.Go(func() error {
			for i := r; i < len(ids); i += readers {
				o, err := s.orders.ByID(ctx, levee.System, ids[i])
				if err != nil {
					return err
				}
				p.facts[i], p.notices[i] = createdFact(o), noticeOf(o, typeCreated, o.CreatedAt)
			}
			return nil
		})
	}
	return p, g.Wait()
}

func createdFact(o order.Order) fact {
	f := fact{what: typeCreated, kind: levee.KindOrder, subject: int64(o.ID), version: 1, at: o.CreatedAt, rehearsal: o.Source == sourceRehearsal}
	if !o.PayBy.IsZero() {
		f.detail.PayBy = &o.PayBy
	}
	return f
}

func noticeOf(o order.Order, kind string, at time.Time) Notice {
	n := Notice{User: o.Buyer, Kind: kind, Order: o.ID, At: at}
	if o.Source == "sale" {
		n.Sale = levee.SaleID(o.SourceRef)
	}
	return n
}

// writeSteps writes out rows about single things.
func (s *Service) writeSteps(ctx context.Context, rows []heardRow) error {
	p := &plan{}
	ids := make([]int64, len(rows))
	for i, h := range rows {
		ids[i] = h.id
		if err := s.plan(ctx, p, h); err != nil {
			return err
		}
	}
	return s.commit(ctx, p, func(ctx context.Context, tx *db.Tx) error { return deleteHeard(ctx, tx, ids...) })
}

// plan adds what is to be written of one row.
func (s *Service) plan(ctx context.Context, p *plan, h heardRow) error {
	decode := func(into any) error { return json.Unmarshal([]byte(h.data), into) }
	switch h.what {
	case typeSaleChanged:
		var e sale.StateChanged
		if err := decode(&e); err != nil {
			return err
		}
		return s.planSale(ctx, p, fact{what: h.what, subject: int64(e.Sale), version: e.Version, at: e.At, detail: detail{State: string(e.State)}})
	case typeDrawn:
		var e line.Drawn
		if err := decode(&e); err != nil {
			return err
		}
		return s.planSale(ctx, p, fact{what: h.what, subject: int64(e.Sale), version: 1, at: e.At, detail: detail{Entries: e.Entries, Winners: e.Winners}})
	case typeLost:
		var e line.Lost
		if err := decode(&e); err != nil {
			return err
		}
		rehearsal, err := s.rehearsal(ctx, e.Sale)
		if err != nil {
			return err
		}
		p.facts = append(p.facts, fact{what: h.what, kind: levee.KindEntry, subject: int64(e.Entry), version: 1, at: e.At, rehearsal: rehearsal,
			detail: detail{Sale: e.Sale, Buyer: e.Buyer, Reason: e.Reason}})
		if !rehearsal {
			p.notices = append(p.notices, Notice{User: e.Buyer, Kind: h.what, Sale: e.Sale, At: e.At})
		}
		return nil
	case typeOffered:
		var e line.Offered
		if err := decode(&e); err != nil {
			return err
		}
		return s.planOrder(ctx, p, h.what, e.Order, func(o order.Order, _ fact) fact {
			return fact{what: h.what, kind: levee.KindOrder, subject: int64(o.ID), version: 1, at: o.CreatedAt, detail: detail{Entry: e.Entry, PayBy: &e.PayBy}}
		})
	}
	var e stepHeard
	if err := decode(&e); err != nil || e.Rehearsal && !s.anyForRehearsals() {
		return err
	}
	return s.planOrder(ctx, p, h.what, e.Order, func(_ order.Order, f fact) fact {
		if e.Carrier != "" {
			f.detail.Carrier, f.detail.Tracking = e.Carrier, e.Tracking
		}
		return f
	})
}

func (s *Service) planSale(ctx context.Context, p *plan, f fact) (err error) {
	f.kind = levee.KindSale
	f.rehearsal, err = s.rehearsal(ctx, levee.SaleID(f.subject))
	p.facts = append(p.facts, f)
	return err
}

// planOrder adds the steps of an order up to now, by its history, so that what comes first is told first whichever event came
// first; and for what was heard the notice to the buyer. own makes the fact of the event itself, from the step's if it is one.
func (s *Service) planOrder(ctx context.Context, p *plan, what string, id levee.OrderID, own func(o order.Order, f fact) fact) error {
	o, err := s.orders.ByID(ctx, levee.System, id)
	if err != nil {
		return err
	}
	rehearsal := o.Source == sourceRehearsal
	if rehearsal && !s.anyForRehearsals() {
		return nil
	}
	entries, err := s.orders.Timeline(ctx, levee.System, id)
	if err != nil {
		return err
	}
	at := o.UpdatedAt
	found := false
	for i, e := range entries {
		f := fact{what: stepType(e), kind: levee.KindOrder, subject: int64(id), version: int64(i + 1), at: e.At, rehearsal: rehearsal}
		switch f.what {
		case "":
			continue
		case typeCreated:
			f = createdFact(o)
		case typePaid:
			f.detail.Payment, f.detail.Revived = levee.PaymentID(e.Ref), e.From == order.StateCancelled
		case typeCancelled, typeRefunded:
			f.detail.Reason = e.Reason
		case typeShipped:
			f.detail.Carrier, f.detail.Tracking = splitShipment(e.Reason)
		}
		if f.what == what {
			f, at, found = own(o, f), e.At, true
		}
		p.facts = append(p.facts, f)
		if f.what == typeCreated && what == typeOffered {
			p.facts, at, found = append(p.facts, own(o, f)), e.At, true
			p.facts[len(p.facts)-1].rehearsal = rehearsal
		}
	}
	if !rehearsal && found {
		p.notices = append(p.notices, noticeOf(o, what, at))
	}
	return nil
}

// stepType is what a step of an order's history is called outside; "" for what is not told.
func stepType(e order.Entry) string {
	switch {
	case e.From == 0:
		return typeCreated
	case e.To == order.StatePaid && e.From != order.StateRefunding:
		return typePaid
	case e.To == order.StateCancelled:
		return typeCancelled
	case e.To == order.StateShipped && e.From == order.StatePaid:
		return typeShipped
	case e.To == order.StateDone:
		return typeCompleted
	case e.To == order.StateRefunded:
		return typeRefunded
	}
	return ""
}

// splitShipment takes a history's "carrier tracking" apart; a tracking number has seldom a space in it.
func splitShipment(text string) (carrier, tracking string) {
	if i := strings.LastIndexByte(text, ' '); i > 0 {
		return text[:i], text[i+1:]
	}
	return text, ""
}

// commit writes a plan in one transaction with the note that it is written, then tells pages and lanes.
func (s *Service) commit(ctx context.Context, p *plan, done func(ctx context.Context, tx *db.Tx) error) error {
	var woken map[levee.WebhookID]bool
	if err := s.number(p); err != nil {
		return err
	}
	err := s.tx(ctx, "notify.write", func(ctx context.Context, tx *db.Tx) (err error) {
		if woken, err = s.deliverTx(ctx, tx, p.facts); err != nil {
			return err
		}
		rows := make([][]any, len(p.notices))
		for i := range p.notices {
			rows[i] = p.notices[i].row()
		}
		if err := tx.InsertRows(ctx, "notify_notice", noticeColumns, rows); err != nil {
			return err
		}
		return done(ctx, tx)
	})
	if err != nil {
		return err
	}
	s.metrics.notices.Add(float64(len(p.notices)))
	for i := range p.notices {
		s.publish(&p.notices[i])
	}
	for id := range woken {
		s.wakeLane(id, false)
	}
	return nil
}

func (s *Service) number(p *plan) error {
	ids := make([]int64, len(p.notices))
	if err := s.ids.NextN(ids); err != nil {
		return err
	}
	for i := range ids {
		p.notices[i].ID = levee.NoticeID(ids[i])
	}
	return nil
}

// toldMost is how many subjects one query asks about.
const toldMost = 64

// deliverTx writes the deliveries of facts: to each webhook that wants them and was not told yet, ready to be sent if nothing of
// their subject is under way, else behind it. It returns which webhooks have something new.
func (s *Service) deliverTx(ctx context.Context, tx *db.Tx, facts []fact) (map[levee.WebhookID]bool, error) {
	hooks := *s.hooks.Load() // as of this transaction: it changes at commits only
	var wanted []int         // facts that some webhook wants
	for i := range facts {
		for _, w := range hooks {
			if w.wants(facts[i].what, facts[i].rehearsal, facts[i].at) {
				wanted = append(wanted, i)
				break
			}
		}
	}
	woken := map[levee.WebhookID]bool{}
	if len(wanted) == 0 {
		return woken, nil
	}
	type place struct {
		subject int64
		webhook levee.WebhookID
	}
	type thing struct {
		place
		what    string
		version int64
	}
	known, open := map[thing]bool{}, map[place]bool{}
	var subjects []int64
	for i, at := range wanted {
		if n := len(subjects); n == 0 || subjects[n-1] != facts[at].subject {
			subjects = append(subjects, facts[at].subject)
		}
		if len(subjects) == toldMost || i == len(wanted)-1 {
			list, err := readTold(ctx, tx, subjects)
			if err != nil {
				return nil, err
			}
			for _, t := range list {
				at := place{t.subject, t.webhook}
				known[thing{at, t.what, t.version}] = true
				open[at] = open[at] || t.open
			}
			subjects = subjects[:0]
		}
	}
	now := s.clock()
	var list []Delivery
	for _, at := range wanted {
		f := &facts[at]
		data := ""
		for _, w := range hooks {
			to := place{f.subject, w.ID}
			it := thing{to, f.what, f.version}
			if known[it] || !w.wants(f.what, f.rehearsal, f.at) {
				continue
			}
			known[it] = true
			if data == "" {
				data = f.detail.encode()
			}
			d := Delivery{Webhook: w.ID, SubjectKind: f.kind, Subject: f.subject, Type: f.what, Version: f.version, data: data, At: f.at,
				state: stateReady, DueAt: now, GiveUpAt: now.Add(s.cfg.GiveUpAfter)}
			if open[to] {
				d.state = stateBehind
			} else {
				woken[w.ID] = true
			}
			open[to] = true
			list = append(list, d)
		}
	}
	ids := make([]int64, len(list))
	if err := s.ids.NextN(ids); err != nil {
		return nil, err
	}
	rows := make([][]any, len(list))
	for i := range list {
		list[i].ID = levee.DeliveryID(ids[i])
		rows[i] = list[i].row()
	}
	n := float64(len(list))
	tx.AfterCommit(func() { s.metrics.written.Add(n) })
	return woken, tx.InsertRows(ctx, "notify_delivery", deliveryColumns, rows)
}
