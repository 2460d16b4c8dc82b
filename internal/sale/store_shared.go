package sale

import (
	"context"
	"slices"

	"levee"
	"levee/internal/books"
	"levee/internal/gate"
	"levee/internal/platform/db"
)

// What a gate that nodes share is followed by: the ledger by its numbers, and the books in one snapshot.

// movements tells movements of a sale from the ledger and its reservations.
func (s *Service) movements(ctx context.Context, sale levee.SaleID, seqs []int64) (list []gate.Movement, err error) {
	for part := range slices.Chunk(seqs, 256) {
		marks, args := inList([]any{int64(sale)}, part)
		var rows []ledgerRow
		r, err := s.DB.Query(db.Primary(ctx), "SELECT seq, kind, quantity, reservation_id, last_id FROM sale_ledger WHERE sale_id=? AND seq IN ("+marks+") ORDER BY seq", args...)
		err = each(r, err, func() error {
			var row ledgerRow
			err := r.Scan(&row.seq, &row.kind, &row.units, &row.first, &row.last)
			rows = append(rows, row)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			m, err := s.movement(ctx, sale, row)
			if err != nil {
				return nil, err
			}
			list = append(list, m)
		}
	}
	return list, nil
}

type ledgerRow struct {
	seq, units  int64
	kind        string
	first, last levee.ReservationID
}

// movement tells a movement as the gate follows it.
func (s *Service) movement(ctx context.Context, sale levee.SaleID, row ledgerRow) (gate.Movement, error) {
	m := gate.Movement{Seq: row.seq, Free: books.Change(row.kind, row.units).Remaining}
	if row.first == 0 || row.kind == books.Sold {
		return m, nil
	}
	query, args := "id=?", []any{int64(row.first)}
	if row.last != 0 {
		query, args = "id BETWEEN ? AND ? AND +sale_id=? AND seq=?", []any{int64(row.first), int64(row.last), int64(sale), row.seq}
	}
	list, err := scanReservations(s.DB.Query(db.Primary(ctx), reservationSelect+query, args...))
	if err != nil {
		return m, err
	}
	var units int64
	for _, r := range list {
		units += int64(r.Quantity)
		switch {
		case row.kind != books.Reserved:
			m.Holdings = append(m.Holdings, gate.Change{Buyer: r.Buyer, Units: -r.Quantity})
		case r.seq != row.seq: // taken again after its release: there is no taking of it
			m.Holdings = append(m.Holdings, gate.Change{Buyer: r.Buyer, Units: r.Quantity})
		default:
			m.Won = append(m.Won, gate.Win{ID: r.ID, Buyer: r.Buyer, Quantity: r.Quantity})
		}
	}
	if len(m.Won) > 0 {
		m.Free = 0
	}
	if units != row.units { // written before rows told their reservations
		return m, levee.E(levee.CodeConflict, "the movement %d is of %d units, the reservations that it names of %d", row.seq, row.units, units)
	}
	return m, nil
}

// wins tells which takings have their reservation, and in which movement.
func (s *Service) wins(ctx context.Context, ids []levee.ReservationID) ([]gate.Win, error) {
	list, err := reservationsAmong(db.Primary(ctx), s.DB.Query, ids)
	won := make([]gate.Win, len(list))
	for i, r := range list {
		won[i] = gate.Win{ID: r.ID, Buyer: r.Buyer, Quantity: r.Quantity, Seq: r.seq}
	}
	return won, err
}

// gateState reads what a gate is loaded from, in one snapshot.
func (s *Service) gateState(ctx context.Context, sale levee.SaleID) (st gate.State, err error) {
	err = s.snapshot(ctx, func(read reader) error {
		v, stock, err := s.readSale(ctx, read, sale)
		if err != nil {
			return err
		}
		st = gate.State{Seq: stock.Seq, Remaining: stock.Remaining, PerBuyer: v.PerBuyer}
		st.Holdings, err = s.holdings(ctx, read, v, stock.Reserved+stock.Sold)
		return err
	})
	return st, err
}

// remainingAt tells what was free at an earlier movement of the ledger.
func (s *Service) remainingAt(ctx context.Context, sale levee.SaleID, seq int64) (free int64, err error) {
	err = s.snapshot(ctx, func(read reader) error {
		_, stock, err := s.readSale(ctx, read, sale)
		if free = stock.Remaining; err != nil {
			return err
		}
		rows, err := read(ctx, "SELECT kind, SUM(quantity) FROM sale_ledger WHERE sale_id=? AND seq>? GROUP BY kind", sale, seq)
		return each(rows, err, func() error {
			var kind string
			var units int64
			err := rows.Scan(&kind, &units)
			free -= books.Change(kind, units).Remaining
			return err
		})
	})
	return free, err
}

// versions reads which sales are neither drafts nor ended, and at which version each is.
func (s *Service) versions(ctx context.Context) (map[levee.SaleID]int64, error) {
	at := map[levee.SaleID]int64{}
	rows, err := s.DB.Query(db.Primary(ctx), "SELECT id, version FROM sale_head WHERE state IN (?,?,?)", StateScheduled, StatePaused, StateStopped)
	return at, each(rows, err, func() error {
		var id levee.SaleID
		var version int64
		err := rows.Scan(&id, &version)
		at[id] = version
		return err
	})
}
