package sale

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/platform/db"
)

// sinceSale bounds a walk over reservations by their ids, which are time-ordered: none is older than its sale, but for an hour
// granted to clocks that differ between nodes. The plus signs in the queries keep the engines from the (sale, buyer) index: a
// sale's rows lie together in id order, and a walk over neighbours costs a fraction of a million look-ups.
func sinceSale(v *Sale) int64 {
	return int64(v.ID) - int64(time.Hour/time.Millisecond)<<22
}

// holdings reads what every buyer holds of a sale. Who gave his units back is among them with none: his keys still count. about is how
// many units are held.
func (s *Service) holdings(ctx context.Context, read reader, v *Sale, about int64) ([]gate.Holding, error) {
	list := make([]gate.Holding, 0, max(about, 0))
	rows, err := read(ctx, "SELECT buyer_id, CASE WHEN state=3 THEN 0 ELSE quantity END FROM sale_reservation WHERE id>=? AND +sale_id=?", sinceSale(v), v.ID)
	err = each(rows, err, func() error {
		var h gate.Holding
		err := rows.Scan(&h.Buyer, &h.Quantity)
		list = append(list, h)
		return err
	})
	return list, err
}

// reader runs queries in one snapshot.
type reader func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// snapshot gives several reads one view of the database, beside the writer.
func (s *Service) snapshot(ctx context.Context, fn func(reader) error) error {
	tx, err := s.DB.Read(db.Primary(ctx)).BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	return errors.Join(fn(tx.QueryContext), tx.Rollback())
}

func (s *Service) readSale(ctx context.Context, read reader, sale levee.SaleID) (v *Sale, st Stock, err error) {
	rows, err := read(ctx, "SELECT "+headColumns+" FROM sale_head WHERE id=?", sale)
	if err = one(rows, err, func() (err error) { v, err = scanSale(rows); return err }); err != nil {
		return nil, st, err
	}
	rows, err = read(ctx, "SELECT "+stockColumns+" FROM sale_stock WHERE sale_id=?", sale)
	err = one(rows, err, func() (err error) { st, err = scanStock(rows); return err })
	return v, st, err
}

// one scans the only row of a sale, or fails with CodeNotFound.
func one(rows *db.Rows, err error, scan func() error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	if !rows.Next() {
		return errors.Join(rows.Err(), errNoSale)
	}
	return errors.Join(scan(), rows.Err())
}

// each scans every row.
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

func reservationSums(ctx context.Context, read reader, v *Sale) (map[ReservationState]books.Sum, error) {
	sums := map[ReservationState]books.Sum{}
	rows, err := read(ctx, "SELECT state, COUNT(*), SUM(quantity) FROM sale_reservation WHERE id>=? AND +sale_id=? GROUP BY state", sinceSale(v), v.ID)
	return sums, each(rows, err, func() error {
		var state ReservationState
		var sum books.Sum
		err := rows.Scan(&state, &sum.Count, &sum.Units)
		sums[state] = sum
		return err
	})
}

func ledgerSums(ctx context.Context, read reader, sale levee.SaleID) (map[string]int64, error) {
	sums := map[string]int64{}
	rows, err := read(ctx, "SELECT kind, SUM(quantity) FROM sale_ledger WHERE sale_id=? GROUP BY kind", sale)
	return sums, each(rows, err, func() error {
		var kind string
		var units int64
		err := rows.Scan(&kind, &units)
		sums[kind] = units
		return err
	})
}

// overLimit counts buyers who hold more than they may.
func overLimit(ctx context.Context, read reader, v *Sale) (n int64, err error) {
	rows, err := read(ctx, "SELECT COUNT(*) FROM (SELECT buyer_id FROM sale_reservation WHERE sale_id=? AND state IN (1,2) "+
		"GROUP BY buyer_id HAVING SUM(quantity) > ?) AS over_limit", v.ID, v.PerBuyer)
	return n, each(rows, err, func() error { return rows.Scan(&n) })
}

// Reservations walks a sale's reservations in id order after the given one, at most limit of them: for exports and audits.
func (s *Service) Reservations(ctx context.Context, v *Sale, after levee.ReservationID, limit int) ([]Reservation, error) {
	return scanReservations(s.DB.Query(db.Primary(ctx), reservationSelect+"id>? AND +sale_id=? ORDER BY id LIMIT ?", max(int64(after), sinceSale(v)-1), v.ID, limit))
}
