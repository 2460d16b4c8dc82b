package sale

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
)

const headColumns = "id, title, product_id, sku_id, price_minor, currency, planned_units, per_buyer, starts_at, ends_at, " +
	"pay_within_us, state, forced_sold_out, admission, rehearsal, version, created_by, created_at, updated_at, " +
	"mode, draw_at, waiting_list, room, room_order, room_pace, room_multiple, brake, brake_bits, per_address"

type scanner interface{ Scan(...any) error }

func scanSale(row scanner) (*Sale, error) {
	var (
		v                                           Sale
		starts, ends, payWithin, created, upd, draw int64
		forced, token, rehearsal, waiting, room     int
		p                                           = &v.Admission
	)
	err := row.Scan(&v.ID, &v.Title, &v.Product, &v.SKU, &v.Price.Minor, &v.Price.Currency, &v.Units, &v.PerBuyer, &starts, &ends,
		&payWithin, &v.State, &forced, &token, &rehearsal, &v.Version, &v.CreatedBy, &created, &upd,
		&v.Mode, &draw, &waiting, &room, &p.Order, &p.PerSecond, &p.Multiple, &p.Brake, &p.WorkBits, &p.PerAddress)
	if errors.Is(err, db.ErrNoRows) {
		return nil, errNoSale
	}
	if err != nil {
		return nil, err
	}
	v.StartsAt, v.EndsAt, v.CreatedAt, v.UpdatedAt = micro(starts), micro(ends), micro(created), micro(upd)
	v.PayWithin = time.Duration(payWithin) * time.Microsecond
	v.early = new(atomic.Pointer[refusal])
	v.ForcedSoldOut, v.TokenNeeded, v.Rehearsal, v.WaitingList, p.Room = forced != 0, token != 0, rehearsal != 0, waiting != 0, room != 0
	if draw != 0 {
		v.DrawAt = micro(draw)
	}
	return &v, nil
}

// drawMicro is the moment of the draw as it is stored: 0 for a race.
func (s *Sale) drawMicro() int64 {
	if s.DrawAt.IsZero() {
		return 0
	}
	return s.DrawAt.UnixMicro()
}

var errNoSale = levee.E(levee.CodeNotFound, "there is no such sale")

func micro(us int64) time.Time { return time.UnixMicro(us).UTC() }

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *Service) insertSaleTx(ctx context.Context, tx *db.Tx, v *Sale) error {
	_, err := tx.Exec(ctx, "INSERT INTO sale_head ("+headColumns+") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
		v.ID, v.Title, v.Product, v.SKU, v.Price.Minor, v.Price.Currency, v.Units, v.PerBuyer, v.StartsAt.UnixMicro(), v.EndsAt.UnixMicro(),
		v.PayWithin.Microseconds(), v.State, boolean(v.ForcedSoldOut), boolean(v.TokenNeeded), boolean(v.Rehearsal), v.Version, v.CreatedBy,
		v.CreatedAt.UnixMicro(), v.UpdatedAt.UnixMicro(), v.Mode, v.drawMicro(), boolean(v.WaitingList), boolean(v.Admission.Room),
		v.Admission.Order, v.Admission.PerSecond, v.Admission.Multiple, v.Admission.Brake, v.Admission.WorkBits, v.Admission.PerAddress)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO sale_stock (sale_id, "+stockColumns+") VALUES (?,0,0,0,0,0,0)", v.ID)
	return err
}

// updateSaleTx writes the terms if nobody changed them since they were read, and raises the version.
func (s *Service) updateSaleTx(ctx context.Context, tx *db.Tx, v *Sale) error {
	v.UpdatedAt = s.Obs.Clock().UTC().Truncate(time.Microsecond)
	r, err := tx.Exec(ctx, "UPDATE sale_head SET title=?, product_id=?, sku_id=?, price_minor=?, currency=?, planned_units=?, per_buyer=?, "+
		"starts_at=?, ends_at=?, pay_within_us=?, state=?, forced_sold_out=?, admission=?, mode=?, draw_at=?, waiting_list=?, room=?, room_order=?, "+
		"room_pace=?, room_multiple=?, brake=?, brake_bits=?, per_address=?, version=version+1, updated_at=? WHERE id=? AND version=?",
		v.Title, v.Product, v.SKU, v.Price.Minor, v.Price.Currency, v.Units, v.PerBuyer, v.StartsAt.UnixMicro(), v.EndsAt.UnixMicro(),
		v.PayWithin.Microseconds(), v.State, boolean(v.ForcedSoldOut), boolean(v.TokenNeeded), v.Mode, v.drawMicro(), boolean(v.WaitingList),
		boolean(v.Admission.Room), v.Admission.Order, v.Admission.PerSecond, v.Admission.Multiple, v.Admission.Brake, v.Admission.WorkBits,
		v.Admission.PerAddress, v.UpdatedAt.UnixMicro(), v.ID, v.Version)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return errors.Join(levee.E(levee.CodeConflict, "the sale was changed by somebody else; read it again"), err)
	}
	v.Version++
	return nil
}

func (s *Service) saleTx(ctx context.Context, tx *db.Tx, sale levee.SaleID) (*Sale, error) {
	return scanSale(tx.QueryRow(ctx, "SELECT "+headColumns+" FROM sale_head WHERE id=?", sale))
}

func (s *Service) saleByID(ctx context.Context, sale levee.SaleID) (*Sale, error) {
	return scanSale(s.DB.QueryRow(db.Primary(ctx), "SELECT "+headColumns+" FROM sale_head WHERE id=?", sale))
}

// sales lists sales newest first. Without drafts and rehearsals unless all is set; live leaves out ended ones.
func (s *Service) sales(ctx context.Context, p levee.Page, all, live bool) ([]*Sale, error) {
	p = p.Normal()
	if p.After == 0 {
		p.After = 1<<63 - 1
	}
	where, args := "id < ?", []any{p.After}
	if !all {
		where += " AND state <> ? AND rehearsal = 0"
		args = append(args, StateDraft)
	}
	if live {
		where += " AND state <> ?"
		args = append(args, StateEnded)
	}
	return s.listSales(ctx, "SELECT "+headColumns+" FROM sale_head WHERE "+where+" ORDER BY id DESC LIMIT ?", append(args, p.Limit)...)
}

// unfinished lists every sale that is neither a draft nor ended: what must be live.
func (s *Service) unfinished(ctx context.Context) ([]*Sale, error) {
	return s.listSales(db.Primary(ctx), "SELECT "+headColumns+" FROM sale_head WHERE state IN (?,?,?) ORDER BY id", StateScheduled, StatePaused, StateStopped)
}

func (s *Service) listSales(ctx context.Context, query string, args ...any) (list []*Sale, err error) {
	rows, err := s.DB.Query(ctx, query, args...)
	err = each(rows, err, func() error {
		v, err := scanSale(rows)
		list = append(list, v)
		return err
	})
	return list, err
}

const stockColumns = "offered, remaining, reserved, sold, withdrawn, seq"

func scanStock(row scanner) (st Stock, err error) {
	err = row.Scan(&st.Offered, &st.Remaining, &st.Reserved, &st.Sold, &st.Withdrawn, &st.Seq)
	if errors.Is(err, db.ErrNoRows) {
		err = errNoSale
	}
	return st, err
}

func (s *Service) stockTx(ctx context.Context, tx *db.Tx, sale levee.SaleID) (Stock, error) {
	return scanStock(tx.QueryRow(ctx, "SELECT "+stockColumns+" FROM sale_stock WHERE sale_id=?"+s.DB.Dialect().ForUpdate(), sale))
}

func (s *Service) stockOf(ctx context.Context, sale levee.SaleID) (Stock, error) {
	return scanStock(s.DB.QueryRow(db.Primary(ctx), "SELECT "+stockColumns+" FROM sale_stock WHERE sale_id=?", sale))
}

// lockSale locks the sale's stock row, so that settlements of one sale follow each other on every engine, and reads the terms.
func (s *Service) lockSale(ctx context.Context, tx *db.Tx, sale levee.SaleID) (*Sale, Stock, error) {
	st, err := s.stockTx(ctx, tx, sale)
	if err != nil {
		return nil, st, err
	}
	v, err := s.saleTx(ctx, tx, sale)
	return v, st, err
}

// moveTx writes one movement of a sale's stock: the stock row by condition, which makes overselling impossible whatever the gate said,
// and the row of the ledger with the next number. st is what was read under the row's lock in this transaction; it is kept true. It
// returns the movement as a gate follows it, without buyers.
func (s *Service) moveTx(ctx context.Context, tx *db.Tx, st *Stock, m movement) (gate.Movement, error) {
	d := books.Change(m.kind, m.units)
	r, err := tx.Exec(ctx, "UPDATE sale_stock SET offered=offered+?, remaining=remaining+?, reserved=reserved+?, sold=sold+?, withdrawn=withdrawn+?, seq=seq+1 "+
		"WHERE sale_id=? AND seq=? AND remaining>=? AND reserved>=? AND sold>=?",
		d.Offered, d.Remaining, d.Reserved, d.Sold, d.Withdrawn, m.sale, st.Seq, -d.Remaining, -d.Reserved, -d.Sold)
	if err != nil {
		return gate.Movement{}, err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return gate.Movement{}, errors.Join(errStockMoved, err)
	}
	*st = st.Add(d)
	return gate.Movement{Seq: st.Seq, Free: d.Remaining}, s.ledgerTx(ctx, tx, st.Seq, m)
}

// errStockMoved: the stock row does not hold what the transaction read under its lock; the transaction must not go on.
var errStockMoved = errors.New("the sale's stock row refused a change that its account allowed")

var reservationColumns = []string{"id", "sale_id", "buyer_id", "quantity", "state", "key_hash", "updated_at", "seq"}

// insertReservationsTx writes reservations of the movement seq.
func (s *Service) insertReservationsTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, won []*gate.Taking, now time.Time, seq int64) error {
	values := make([]any, 0, len(won)*len(reservationColumns))
	rows := make([][]any, len(won))
	at := now.UnixMicro()
	for i, t := range won {
		values = append(values, int64(t.ID), int64(sale), int64(t.Buyer), int64(t.Quantity), int64(Reserved), t.Key, at, seq)
		rows[i] = values[i*len(reservationColumns):]
	}
	return tx.InsertRows(ctx, "sale_reservation", reservationColumns, rows)
}

const reservationSelect = "SELECT id, sale_id, buyer_id, quantity, state, key_hash, seq FROM sale_reservation WHERE "

func scanReservations(rows *db.Rows, err error) (list []Reservation, _ error) {
	err = each(rows, err, func() error {
		var r Reservation
		err := rows.Scan(&r.ID, &r.Sale, &r.Buyer, &r.Quantity, &r.State, &r.key, &r.seq)
		list = append(list, r)
		return err
	})
	return list, err
}

// placeholders returns "?,?,…" for at least n values, padded to a power of two so that few statements are prepared.
func placeholders(n int) (string, int) {
	size := 1
	for size < n {
		size *= 2
	}
	return strings.TrimSuffix(strings.Repeat("?,", size), ","), size
}

// inList appends n ids to args, padded with the last one.
func inList[T ~int64](args []any, ids []T) (string, []any) {
	marks, size := placeholders(len(ids))
	for i := range size {
		args = append(args, int64(ids[min(i, len(ids)-1)]))
	}
	return marks, args
}

// heldBy reads what the batch's buyers hold of the sale, released reservations included because their keys still count.
func (s *Service) heldBy(ctx context.Context, tx *db.Tx, sale levee.SaleID, batch []*gate.Taking) (map[levee.UserID][]Reservation, error) {
	buyers := make([]levee.UserID, len(batch))
	for i, t := range batch {
		buyers[i] = t.Buyer
	}
	held := map[levee.UserID][]Reservation{}
	for len(buyers) > 0 {
		part := buyers[:min(len(buyers), 256)]
		buyers = buyers[len(part):]
		marks, args := inList([]any{int64(sale)}, part)
		list, err := scanReservations(tx.Query(ctx, reservationSelect+"sale_id=? AND buyer_id IN ("+marks+")", args...))
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			held[r.Buyer] = append(held[r.Buyer], r)
		}
	}
	return held, nil
}

// settledAmong tells which takings have their reservation on disk. It asks under the lock of the sale's stock row, so that it
// sees every commit that came before, and waits for one that is still under way: a transaction whose answer was lost holds that lock until
// the server has made up its mind.
func (s *Service) settledAmong(ctx context.Context, sale levee.SaleID, ids []levee.ReservationID) (map[levee.ReservationID]bool, error) {
	var found map[levee.ReservationID]bool
	err := s.DB.Tx(ctx, "sale.lookup", func(ctx context.Context, tx *db.Tx) error {
		found = map[levee.ReservationID]bool{}
		if _, err := s.stockTx(ctx, tx, sale); err != nil {
			return err
		}
		list, err := reservationsAmong(ctx, tx.Query, ids)
		for _, r := range list {
			found[r.ID] = true
		}
		return err
	})
	return found, err
}

// reservationsAmong reads those of the reservations that there are.
func reservationsAmong(ctx context.Context, read reader, ids []levee.ReservationID) (all []Reservation, err error) {
	for part := range slices.Chunk(ids, 256) {
		marks, args := inList(nil, part)
		list, err := scanReservations(read(ctx, reservationSelect+"id IN ("+marks+")", args...))
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

func (s *Service) reservationsOf(ctx context.Context, sale levee.SaleID, buyer levee.UserID) ([]Reservation, error) {
	return scanReservations(s.DB.Query(db.Primary(ctx), reservationSelect+"sale_id=? AND buyer_id=? ORDER BY id", sale, buyer))
}

func (s *Service) reservationByKey(ctx context.Context, sale levee.SaleID, buyer levee.UserID, key int64) (Reservation, bool, error) {
	list, err := s.reservationsOf(ctx, sale, buyer)
	for _, r := range list {
		if r.key == key {
			return r, true, nil
		}
	}
	return Reservation{}, false, err
}

func (s *Service) reservationByID(ctx context.Context, id levee.ReservationID) (Reservation, bool, error) {
	list, err := scanReservations(s.DB.Query(db.Primary(ctx), reservationSelect+"id=?", id))
	if err != nil || len(list) == 0 {
		return Reservation{}, false, err
	}
	return list[0], true, nil
}

func (s *Service) reservationTx(ctx context.Context, tx *db.Tx, id levee.ReservationID) (Reservation, error) {
	list, err := scanReservations(tx.Query(ctx, reservationSelect+"id=?", id))
	if err == nil && len(list) == 0 {
		err = levee.E(levee.CodeNotFound, "there is no such reservation")
	}
	if err != nil {
		return Reservation{}, err
	}
	return list[0], nil
}

// moveReservationTx is the compare-and-set on which every release, sale and revival turns. It reports whether it was the one.
func (s *Service) moveReservationTx(ctx context.Context, tx *db.Tx, id levee.ReservationID, from, to ReservationState) (bool, error) {
	r, err := tx.Exec(ctx, "UPDATE sale_reservation SET state=?, updated_at=? WHERE id=? AND state=?", to, s.Obs.Clock().UnixMicro(), id, from)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// movement is what a row of the ledger says. last is the last reservation of several.
type movement struct {
	sale              levee.SaleID
	kind              string
	units             int64
	reservation, last levee.ReservationID
	actor             levee.UserID
	reason            string
}

func (s *Service) ledgerTx(ctx context.Context, tx *db.Tx, seq int64, m movement) error {
	id, err := s.IDs.Next()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO sale_ledger (id, sale_id, kind, quantity, reservation_id, actor_id, reason, at, seq, last_id) VALUES (?,?,?,?,?,?,?,?,?,?)",
		id, m.sale, m.kind, m.units, m.reservation, m.actor, m.reason, s.Obs.Clock().UnixMicro(), seq, m.last)
	return err
}

// Movement is one row of a sale's ledger.
type Movement struct {
	ID          int64
	Kind        string
	Quantity    int64
	Reservation levee.ReservationID
	Actor       levee.UserID
	Reason      string
	At          time.Time
}

func readLedger(ctx context.Context, read listing.Reader, sale levee.SaleID, q *listing.Query) (*listing.Found[Movement], error) {
	q.Where("sale_id = ?", sale)
	return listing.Rows(ctx, read, q, "id, kind, quantity, reservation_id, actor_id, reason, at", "sale_ledger", func(row listing.Row) (m Movement, err error) {
		var at int64
		err = row.Scan(&m.ID, &m.Kind, &m.Quantity, &m.Reservation, &m.Actor, &m.Reason, &at)
		m.At = micro(at)
		return m, err
	})
}

// Act is one act of an operator on a sale.
type Act struct {
	ID     int64
	Act    string
	Units  int64
	Reason string
	Detail string
	Actor  levee.UserID
	At     time.Time
}

func (s *Service) actTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, a Act) error {
	id, err := s.IDs.Next()
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, "INSERT INTO sale_act (id, sale_id, act, units, reason, detail, actor_id, at) VALUES (?,?,?,?,?,?,?,?)",
		id, sale, a.Act, a.Units, a.Reason, a.Detail, a.Actor, s.Obs.Clock().UnixMicro()); err != nil || s.Audit == nil {
		return err
	}
	return s.Audit(levee.WithActor(ctx, levee.Actor{User: a.Actor}), tx, "sale."+a.Act, s.ref(sale), nil, map[string]any{"units": a.Units, "reason": a.Reason, "detail": levee.Shorten(a.Detail, 1000)})
}

func readActs(ctx context.Context, read listing.Reader, sale levee.SaleID, q *listing.Query) (*listing.Found[Act], error) {
	q.Where("sale_id = ?", sale)
	return listing.Rows(ctx, read, q, "id, act, units, reason, detail, actor_id, at", "sale_act", func(row listing.Row) (a Act, err error) {
		var at int64
		err = row.Scan(&a.ID, &a.Act, &a.Units, &a.Reason, &a.Detail, &a.Actor, &at)
		a.At = micro(at)
		return a, err
	})
}
