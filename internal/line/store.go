package line

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
)

// querier is a *db.DB (what is committed) or a *db.Tx (what the transaction sees).
type querier interface {
	Query(ctx context.Context, query string, args ...any) (*db.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *db.Row
}

type scanner interface{ Scan(...any) error }

// micro turns microseconds of SQL into a time; 0 is no time.
func micro(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *Service) nowMicro() int64 { return s.Obs.Clock().UnixMicro() }

// The states of line_head.
const (
	headAlive = 1
	headOver  = 2
)

type head struct {
	sale  levee.SaleID
	draw  bool
	last  int64
	state int
	seq   int64 // of the line's last change
	given bool  // in this transaction: its changes share one number
	// entered is how many have entered a draw that takes entries; -1 where it is not known or does not change.
	entered int64
	drawn   int  // the draw's state; of alive only
	waits   bool // somebody waits, or has his place and does not know it yet; of alive only
}

// inOrder reports whether the line has its order: a waiting list always, a draw's once it is drawn. For heads of alive.
func (h head) inOrder() bool { return !h.draw || h.drawn == drawDone }

// headTx reads a sale's row and locks it, so that those who join one line follow each other on every engine; ok is false where
// there is none.
func (s *Service) headTx(ctx context.Context, tx *db.Tx, sale levee.SaleID) (h head, ok bool, err error) {
	h.sale, h.entered = sale, -1
	var draw int
	err = tx.QueryRow(ctx, "SELECT draw, last_place, state, seq FROM line_head WHERE sale_id=?"+s.DB.Dialect().ForUpdate(), sale).
		Scan(&draw, &h.last, &h.state, &h.seq)
	if errors.Is(err, db.ErrNoRows) {
		return h, false, nil
	}
	h.draw = draw != 0
	return h, err == nil, err
}

func (s *Service) insertHeadTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, draw bool) error {
	_, err := tx.Exec(ctx, "INSERT INTO line_head (sale_id, draw, last_place, state, created_at) VALUES (?,?,0,?,?)", sale, flag(draw), headAlive, s.nowMicro())
	return err
}

// numberTx gives the changes of a line in this transaction their number, and writes it with the last place. The line is locked.
func (s *Service) numberTx(ctx context.Context, tx *db.Tx, h *head) (int64, error) {
	if h.given {
		return h.seq, nil
	}
	h.seq, h.given = h.seq+1, true
	_, err := tx.Exec(ctx, "UPDATE line_head SET last_place=?, seq=? WHERE sale_id=?", h.last, h.seq, h.sale)
	return h.seq, err
}

func (s *Service) endHeadTx(ctx context.Context, tx *db.Tx, sale levee.SaleID) error {
	_, err := tx.Exec(ctx, "UPDATE line_head SET state=? WHERE sale_id=?", headOver, sale)
	return err
}

// alive lists the lines whose sales are not over, oldest first.
func (s *Service) alive(ctx context.Context) (list []head, err error) {
	rows, err := s.DB.Query(ctx, "SELECT h.sale_id, h.draw, h.last_place, h.state, h.seq, COALESCE(d.state, 0), COALESCE(d.entries, 0), "+
		"EXISTS (SELECT 1 FROM line_entry e WHERE e.sale_id=h.sale_id AND e.state=?) "+
		"FROM line_head h LEFT JOIN line_draw d ON d.sale_id=h.sale_id WHERE h.state=? ORDER BY h.sale_id", StateWaiting, headAlive)
	return list, each(rows, err, func() error {
		var h head
		var draw, waits int
		err := rows.Scan(&h.sale, &draw, &h.last, &h.state, &h.seq, &h.drawn, &h.entered, &waits)
		h.draw, h.waits = draw != 0, waits != 0
		list = append(list, h)
		return err
	})
}

// each scans every row and closes them.
func each(rows *db.Rows, err error, scan func() error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(); err != nil {
			return err
		}
	}
	return rows.Err()
}

const entryColumns = "id, sale_id, buyer_id, draw, quantity, want, place, state, reason, reservation_id, given, pay_by, created_at, updated_at, seq"

func scanEntry(row scanner) (e Entry, err error) {
	var reservation db.NullInt64
	var payBy, created, updated int64
	var drawn int
	err = row.Scan(&e.ID, &e.Sale, &e.Buyer, &drawn, &e.Quantity, &e.want, &e.Place, &e.State, &e.Reason, &reservation, &e.Given, &payBy, &created, &updated, &e.seq)
	e.Draw, e.Reservation = drawn != 0, levee.ReservationID(reservation.Int64)
	e.PayBy, e.EnteredAt, e.UpdatedAt = micro(payBy), micro(created), micro(updated)
	return e, err
}

// oneEntry reads the first entry that a query finds; found is false where there is none.
func oneEntry(ctx context.Context, q querier, where string, args ...any) (e Entry, found bool, err error) {
	e, err = scanEntry(q.QueryRow(ctx, "SELECT "+entryColumns+" FROM line_entry WHERE "+where, args...))
	if errors.Is(err, db.ErrNoRows) {
		return e, false, nil
	}
	return e, err == nil, err
}

func entries(ctx context.Context, q querier, where string, args ...any) (list []Entry, err error) {
	rows, err := q.Query(ctx, "SELECT "+entryColumns+" FROM line_entry WHERE "+where, args...)
	return list, each(rows, err, func() error {
		e, err := scanEntry(rows)
		list = append(list, e)
		return err
	})
}

// latestOf returns the buyer's entry in a sale, the latest of several.
func latestOf(ctx context.Context, q querier, sale levee.SaleID, buyer levee.UserID) (Entry, bool, error) {
	return oneEntry(ctx, q, "sale_id=? AND buyer_id=? ORDER BY id DESC LIMIT 1", sale, buyer)
}

// standingTx returns the entry by which the buyer stands in a line now.
func standingTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, buyer levee.UserID) (Entry, bool, error) {
	return oneEntry(ctx, tx, "sale_id=? AND holder=?", sale, int64(buyer))
}

// hopefulTx returns entries that have not had their turn, at most n.
func hopefulTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, n int) ([]Entry, error) {
	return entries(ctx, tx, "sale_id=? AND state IN (?,?) LIMIT ?", sale, StateEntered, StateWaiting, n)
}

func entryByID(ctx context.Context, q querier, id levee.EntryID) (Entry, bool, error) {
	return oneEntry(ctx, q, "id=?", id)
}

func entryByReservation(ctx context.Context, q querier, r levee.ReservationID) (Entry, bool, error) {
	return oneEntry(ctx, q, "reservation_id=?", r)
}

// nextTx returns who is next in line, at most n.
func nextTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, n int64) ([]Entry, error) {
	return entries(ctx, tx, "sale_id=? AND state=? ORDER BY place LIMIT ?", sale, StateWaiting, n)
}

func someWaitTx(ctx context.Context, tx *db.Tx, sale levee.SaleID) (bool, error) {
	list, err := nextTx(ctx, tx, sale, 1)
	return len(list) > 0, err
}

func timesInTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, buyer levee.UserID) (n int, err error) {
	return n, tx.QueryRow(ctx, "SELECT COUNT(*) FROM line_entry WHERE sale_id=? AND buyer_id=?", sale, buyer).Scan(&n)
}

func (s *Service) insertEntryTx(ctx context.Context, tx *db.Tx, e Entry) error {
	at := e.EnteredAt.UnixMicro()
	_, err := tx.Exec(ctx, "INSERT INTO line_entry (id, sale_id, buyer_id, holder, draw, quantity, want, place, state, reason, reservation_id, "+
		"given, pay_by, created_at, updated_at, seq) VALUES (?,?,?,?,?,?,?,?,?,'',NULL,0,0,?,?,?)",
		e.ID, e.Sale, e.Buyer, e.Buyer, flag(e.Draw), e.Quantity, e.want, e.Place, e.State, at, at, e.seq)
	return err
}

// moveEntryTx is the compare-and-set on which every step of an entry turns: it writes e's state and offer if the entry is still
// in the state from, and reports whether it was.
func (s *Service) moveEntryTx(ctx context.Context, tx *db.Tx, e *Entry, from State) (bool, error) {
	e.UpdatedAt = s.Obs.Clock().UTC().Truncate(time.Microsecond)
	var holder, reservation any
	if e.State.alive() {
		holder = int64(e.Buyer)
	}
	if e.Reservation != 0 {
		reservation = int64(e.Reservation)
	}
	payBy := int64(0)
	if !e.PayBy.IsZero() {
		payBy = e.PayBy.UnixMicro()
	}
	r, err := tx.Exec(ctx, "UPDATE line_entry SET state=?, holder=?, reason=?, reservation_id=?, given=?, pay_by=?, updated_at=?, seq=? WHERE id=? AND state=?",
		e.State, holder, e.Reason, reservation, e.Given, payBy, e.UpdatedAt.UnixMicro(), e.seq, e.ID, from)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// rankTx writes an entry's place by the draw. It may be written again with the same values.
func (s *Service) rankTx(ctx context.Context, tx *db.Tx, id int64, place int64, want int32) error {
	_, err := tx.Exec(ctx, "UPDATE line_entry SET state=?, place=?, want=?, updated_at=? WHERE id=? AND state=?",
		StateWaiting, place, want, s.nowMicro(), id, StateEntered)
	return err
}

// frozenList reads the entries of a closed draw. Some may be ranked already, by a run that was cut off.
func frozenList(ctx context.Context, q querier, sale levee.SaleID, expected int64) (list []frozen, err error) {
	list = make([]frozen, 0, expected)
	for _, state := range []State{StateEntered, StateWaiting} {
		rows, err := q.Query(ctx, "SELECT id, quantity FROM line_entry WHERE sale_id=? AND state=?", sale, state)
		err = each(rows, err, func() error {
			f := frozen{ranked: state == StateWaiting}
			err := rows.Scan(&f.id, &f.quantity)
			list = append(list, f)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

type frozen struct {
	id       int64
	quantity int32
	ranked   bool
}

// load reads a line's places and counts, as of h or later.
func load(ctx context.Context, q querier, h head) (*places, error) {
	p := newPlaces(h.inOrder())
	p.seq = -1      // also what has not changed since before changes had numbers
	if !p.inOrder { // places that a cut-off run wrote are not public yet
		p.enter(h.entered, h.seq)
		return p, nil
	}
	list, err := changes(ctx, q, "sale_id=? AND state IN (?,?)", h.sale, StateWaiting, StateOffered)
	if err != nil {
		return nil, err
	}
	p.grow(h.last)
	p.follow(list, h.seq)
	p.changed = true
	return p, nil
}

// changesSince reads what became of the entries of a line that changed after a change, each once.
func changesSince(ctx context.Context, q querier, sale levee.SaleID, seq int64) ([]change, error) {
	return changes(ctx, q, "sale_id=? AND seq>?", sale, seq)
}

func changes(ctx context.Context, q querier, where string, args ...any) (list []change, err error) {
	rows, err := q.Query(ctx, "SELECT place, seq, state FROM line_entry WHERE "+where, args...)
	return list, each(rows, err, func() error {
		var c change
		err := rows.Scan(&c.place, &c.seq, &c.state)
		list = append(list, c)
		return err
	})
}

func entryList(sealer *id.Sealer) *listing.List[listedEntry] {
	stored := map[string]any{}
	for n, name := range stateNames {
		stored[name] = int64(n)
	}
	return listing.New[listedEntry](listing.Spec{Name: "line", Open: sealer.Open, ScanMost: 20_000, Export: true,
		Fields: []listing.Field{
			// The plus keeps the engine from the order of places, which it would have to sort.
			{Name: "status", Type: listing.Choice, Column: "+state", Choices: stateNames[1:], Stored: stored, Scans: true, Doc: "Where the entry stands"},
			{Name: "buyer", Type: listing.ID, Kind: levee.KindUser, Column: "buyer_id", Doc: "Whose it is"},
			{Name: "entered_at", Type: listing.Time, Column: "created_at", Scans: true, Doc: "When it was made"},
		},
		Keys: []listing.Key{{Name: "id", Column: "id"}}, Order: "-id", Unique: "id"})
}

// readLine returns a page of the entries of a sale.
func readLine(ctx context.Context, read listing.Reader, sale levee.SaleID, q *listing.Query) (*listing.Found[Entry], error) {
	q.Where("sale_id = ?", sale)
	return listing.Rows(ctx, read, q, entryColumns, "line_entry", func(row listing.Row) (Entry, error) { return scanEntry(row) })
}

// tally counts a line's entries by state.
func (s *Service) tally(ctx context.Context, sale levee.SaleID) (map[State]int64, error) {
	counts := map[State]int64{}
	rows, err := s.DB.Query(ctx, "SELECT state, COUNT(*) FROM line_entry WHERE sale_id=? GROUP BY state", sale)
	return counts, each(rows, err, func() error {
		var state State
		var n int64
		err := rows.Scan(&state, &n)
		counts[state] = n
		return err
	})
}
