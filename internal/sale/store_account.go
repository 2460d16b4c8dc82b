package sale

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// sinceSale bounds a walk over reservations by their ids, which are time-ordered: none is older than its sale, but for an hour
// granted to clocks that differ between nodes. The plus signs in the queries keep the engines from the (sale, buyer) index: a
// sale's rows lie together in id order, and a walk over neighbours costs a fraction of a million look-ups.
func sinceSale(v *Sale) int64 {
	return int64(v.ID) - int64(time.Hour/time.Millisecond)<<22
}

// holdings reads what every buyer holds of a sale.
func (s *Service) holdings(ctx context.Context, tx *db.Tx, v *Sale) ([]holding, error) {
	var n int
	if err := tx.QueryRow(ctx, "SELECT reserved+sold FROM sale_stock WHERE sale_id=?", v.ID).Scan(&n); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, "SELECT buyer_id, quantity FROM sale_reservation WHERE id>=? AND +sale_id=? AND +state IN (1,2)", sinceSale(v), v.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := make([]holding, 0, n)
	for rows.Next() {
		var h holding
		if err := rows.Scan(&h.buyer, &h.quantity); err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

func (s *Service) reservationSums(ctx context.Context, tx *db.Tx, v *Sale) (map[ReservationState]Sum, error) {
	rows, err := tx.Query(ctx, "SELECT state, COUNT(*), SUM(quantity) FROM sale_reservation WHERE id>=? AND +sale_id=? GROUP BY state", sinceSale(v), v.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	sums := map[ReservationState]Sum{}
	for rows.Next() {
		var state ReservationState
		var sum Sum
		if err := rows.Scan(&state, &sum.Count, &sum.Units); err != nil {
			return nil, err
		}
		sums[state] = sum
	}
	return sums, rows.Err()
}

func (s *Service) ledgerSums(ctx context.Context, tx *db.Tx, sale levee.SaleID) (map[string]int64, error) {
	rows, err := tx.Query(ctx, "SELECT kind, SUM(quantity) FROM sale_ledger WHERE sale_id=? GROUP BY kind", sale)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	sums := map[string]int64{}
	for rows.Next() {
		var kind string
		var units int64
		if err := rows.Scan(&kind, &units); err != nil {
			return nil, err
		}
		sums[kind] = units
	}
	return sums, rows.Err()
}

// overLimit counts buyers who hold more than they may.
func (s *Service) overLimit(ctx context.Context, tx *db.Tx, v *Sale) (n int64, err error) {
	err = tx.QueryRow(ctx, "SELECT COUNT(*) FROM (SELECT buyer_id FROM sale_reservation WHERE sale_id=? AND state IN (1,2) "+
		"GROUP BY buyer_id HAVING SUM(quantity) > ?) AS over_limit", v.ID, v.PerBuyer).Scan(&n)
	return n, err
}

// outcomes walks the sale's reservations in id order after the given one, at most limit of them.
func (s *Service) outcomes(ctx context.Context, v *Sale, after levee.ReservationID, limit int) ([]Reservation, error) {
	return scanReservations(s.DB.Query(ctx, reservationSelect+"id>? AND +sale_id=? ORDER BY id LIMIT ?", max(int64(after), sinceSale(v)-1), v.ID, limit))
}
