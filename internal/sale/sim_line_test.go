package sale

import (
	"context"
	"fmt"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/terms"
)

// The line in small: who waits for units, kept in the same database, so that a kill or a lost answer leaves it as true as the sale.
const simLineSchema = `
CREATE TABLE sim_line (
    place BIGINT NOT NULL PRIMARY KEY,
    sale_id BIGINT NOT NULL,
    buyer INTEGER NOT NULL,
    want INTEGER NOT NULL,
    within_us BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    reservation_id BIGINT NOT NULL,
    given INTEGER NOT NULL
);
CREATE INDEX sim_line_sale ON sim_line (sale_id, state, place);
`

// The states of sim_line.
const (
	simWaits = 1
	simGiven = 2
	simLost  = 3
)

type simPlace struct {
	place       int64
	buyer       int
	want        int32
	within      int64
	state       int
	reservation levee.ReservationID
	given       int32
}

func (p simPlace) key() string { return fmt.Sprint("place ", p.place) }

func (p simPlace) grant() Grant {
	return Grant{Buyer: buyer(p.buyer).User, Quantity: p.want, Key: p.key(), PayWithin: time.Duration(p.within) * time.Microsecond}
}

const simPlaceColumns = "SELECT place, buyer, want, within_us, state, reservation_id, given FROM sim_line WHERE "

func scanPlace(rows *db.Rows) (p simPlace, err error) {
	return p, rows.Scan(&p.place, &p.buyer, &p.want, &p.within, &p.state, &p.reservation, &p.given)
}

// places reads the line as it is committed.
func (w *world) places(where string, args ...any) (list []simPlace) {
	w.rows(func(rows *db.Rows) error {
		p, err := scanPlace(rows)
		list = append(list, p)
		return err
	}, simPlaceColumns+"sale_id=? AND "+where+" ORDER BY place", append([]any{w.sale}, args...)...)
	return list
}

func (w *world) someoneWaits() bool { return len(w.places("state=?", simWaits)) > 0 }

// joinLine puts somebody into the line: of a race when no unit is free, of a draw until it is drawn.
func (w *world) joinLine() {
	w.h.place++
	p := simPlace{place: w.h.place, buyer: w.r.IntN(w.buyers), want: 1 + w.r.Int32N(3)}
	if w.chance(0.3) {
		p.within = terms.MinPayWithin.Microseconds()
	}
	w.note("buyer %d wants to wait for %d units, at place %d", p.buyer, p.want, p.place)
	err := w.tx("line.join", func(ctx context.Context, tx *db.Tx) error {
		_, free, _, err := w.sales.FreeTx(ctx, tx, w.sale)
		if err != nil {
			return err
		}
		if v := w.l.view.Load(); v.Mode == ModeRace && free > 0 || v.Mode == ModeDraw && v.PhaseAt(w.clock.Now()) != PhaseEntry {
			return levee.E(levee.CodeConflict, "there is no need or no way to wait")
		}
		_, err = tx.Exec(ctx, "INSERT INTO sim_line (place, sale_id, buyer, want, within_us, state, reservation_id, given) VALUES (?,?,?,?,?,?,0,0)",
			p.place, w.sale, p.buyer, p.want, p.within, simWaits)
		return err
	})
	if err == nil {
		w.count("joined the line")
	}
}

// onFree is what the line does when it is asked.
func (w *world) onFree(ctx context.Context, tx *db.Tx, v *Sale) error {
	if v.ID != w.sale || v.Mode == ModeDraw && v.PhaseAt(w.clock.Now()) != PhaseDrawn {
		return nil
	}
	return w.giveTx(ctx, tx, 50, "on a return")
}

// giveLine gives what is free to the first few in line, as a draw does, or a job that makes good what was missed.
func (w *world) giveLine() {
	v := w.l.view.Load()
	if v.Mode == ModeDraw && v.PhaseAt(w.clock.Now()) != PhaseDrawn {
		return
	}
	n := 1 + w.r.IntN(8)
	w.note("the first %d in line are given what is free", n)
	w.tx("line.give", func(ctx context.Context, tx *db.Tx) error { return w.giveTx(ctx, tx, n, "by a job") })
}

func (w *world) giveTx(ctx context.Context, tx *db.Tx, n int, how string) error {
	var next []simPlace
	rows, err := tx.Query(ctx, simPlaceColumns+"sale_id=? AND state=? ORDER BY place LIMIT ?", w.sale, simWaits, n)
	if err = each(rows, err, func() error {
		p, err := scanPlace(rows)
		next = append(next, p)
		return err
	}); err != nil || len(next) == 0 {
		return err
	}
	grants := make([]Grant, len(next))
	for i, p := range next {
		grants[i] = p.grant()
	}
	granted, err := w.sales.GrantTx(ctx, tx, w.sale, grants)
	if err != nil {
		return err
	}
	for i, g := range granted {
		p, state := next[i], simWaits
		switch {
		case g.Why == nil && g.Quantity > 0 && g.Quantity <= p.want && g.Reservation > 0:
			state = simGiven
			w.count("granted " + how)
			if g.Quantity < p.want {
				w.count("granted less")
			}
			if w.flaw != nil && w.flaw.untoldGrant {
				tx.AtCommit(func() {
					drift(w.l.gate, int64(g.Quantity), 0, 0)
					w.sales.pass("gate.moved")
				})
			}
		case g.Why != nil && g.Quantity == 0 && code(g.Why) == levee.CodeLimitReached:
			state = simLost
			w.count("grant: limit_reached")
		case g.Why != nil && g.Quantity == 0:
			w.count("grant: " + string(code(g.Why)))
			continue
		default:
			w.fail("the grant for place %d gave %+v", p.place, g)
		}
		w.note("  place %d, buyer %d: %d of %d units, %d %v", p.place, p.buyer, g.Quantity, p.want, g.Reservation, g.Why)
		if _, err := tx.Exec(ctx, "UPDATE sim_line SET state=?, reservation_id=?, given=? WHERE place=?", state, g.Reservation, g.Quantity, p.place); err != nil {
			return err
		}
	}
	return nil
}

// repeatGrant asks once more for a grant that was given: a job that was cut off does.
func (w *world) repeatGrant() {
	given := w.places("state=?", simGiven)
	if len(given) == 0 {
		return
	}
	p := given[w.r.IntN(len(given))]
	g := p.grant()
	g.Quantity = 1 + w.r.Int32N(3)
	w.note("the grant of place %d comes again", p.place)
	err := w.tx("line.again", func(ctx context.Context, tx *db.Tx) error {
		out, err := w.sales.GrantTx(ctx, tx, w.sale, []Grant{g, g})
		if err != nil {
			return err
		}
		for _, again := range out {
			if !again.Repeated || again.Why != nil || again.Reservation != p.reservation || again.Quantity != p.given {
				w.fail("the grant of place %d was %d of %d units, and comes again as %+v", p.place, p.reservation, p.given, again)
			}
		}
		return nil
	})
	if err == nil {
		w.count("grant repeated")
	}
}

// gateMoved looks at the gate between two of its moves: at no moment may it have a unit that SQL gave away, nor may the crowd get
// what came back while somebody waits who could have it. It runs at a commit, so it must not panic.
func (w *world) gateMoved(freed bool) {
	if w.mate != nil || w.tainted || !w.warm || w.lost {
		return
	}
	n := numbersOf(w.l.gate)
	var remaining int64
	var state State
	var forced bool
	err := w.h.db.QueryRow(context.Background(), "SELECT s.remaining, h.state, h.forced_sold_out FROM sale_stock s JOIN sale_head h ON h.id=s.sale_id WHERE s.sale_id=?",
		w.sale).Scan(&remaining, &state, &forced)
	if err != nil {
		w.blame("%v", err)
		return
	}
	if n.Warm && n.Remaining+n.Unsettled > remaining {
		w.blame("for a moment the gate counts %+v, SQL has %d free", n, remaining)
	}
	v := w.l.view.Load()
	open := v.Mode == ModeRace && (state == StateScheduled || state == StatePaused) && !forced && w.clock.Now().Before(v.EndsAt)
	if freed && open && n.Remaining > 0 {
		var waiting int
		if err := w.h.db.QueryRow(context.Background(), "SELECT COUNT(*) FROM sim_line WHERE sale_id=? AND state=?", w.sale, simWaits).Scan(&waiting); err != nil {
			w.blame("%v", err)
		} else if waiting > 0 {
			w.blame("units came back, %d are for the crowd, and %d people wait in line", n.Remaining, waiting)
		}
	}
}

// checkLine: each place that was given units has its reservation, of its buyer, by its key, and nobody else has one by such a key.
func (w *world) checkLine() {
	for _, p := range w.places("state=?", simGiven) {
		row, found := w.reservation(p.reservation)
		if !found || row.Buyer != buyer(p.buyer).User || row.Quantity != p.given || row.key != grantKey(p.key()) {
			w.fail("place %d was given %d with %d units, SQL holds %+v", p.place, p.reservation, p.given, row)
		}
		if w.won[p.reservation] == nil {
			w.won[p.reservation] = &simBuy{buyer: p.buyer, quantity: p.given, key: p.key()}
			w.wonList = append(w.wonList, p.reservation)
		}
	}
	for _, p := range w.places("state<>?", simGiven) {
		var n int
		w.row(&n, "SELECT COUNT(*) FROM sale_reservation WHERE sale_id=? AND key_hash=?", w.sale, grantKey(p.key()))
		if n != 0 {
			w.fail("place %d was given nothing, and SQL holds a reservation for it", p.place)
		}
	}
}
