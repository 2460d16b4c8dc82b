package admission

import (
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the room's migrations.
func Schema() db.Schema { return db.Schema{Owner: "admission", FS: schemaFS} }

// savedRow is what stands in admission_room.
type savedRow struct {
	order           string
	horizon         uint32
	given, served   uint32
	tokens, drawn   int64
	tokensUntil     int64 // microseconds
	ends, updatedAt int64
}

var roomColumns = []string{"sale_id", "order_kind", "horizon", "given", "served", "tokens", "tokens_until", "drawn", "ends_at", "updated_at"}

// tx writes as the keeper: what a node tries to write after its term is over is refused.
func (s *Service) tx(ctx context.Context, name string, fn func(ctx context.Context, tx *db.Tx) error) error {
	term := *s.term.Load()
	return s.DB.Tx(ctx, name, func(ctx context.Context, tx *db.Tx) error {
		if err := term.CheckTx(ctx, tx); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// saveRow writes a line's state, and the blocks of done numbers that changed.
func (s *Service) saveRow(ctx context.Context, sale levee.SaleID, row savedRow, blocks map[uint32][]uint64) error {
	if s.DB == nil {
		return nil
	}
	return s.tx(ctx, "admission.save", func(ctx context.Context, tx *db.Tx) error {
		for block, words := range blocks {
			bits := make([]byte, 0, len(words)*8)
			for _, w := range words {
				bits = binary.BigEndian.AppendUint64(bits, w)
			}
			if _, err := tx.Exec(ctx, s.DB.Dialect().Upsert("admission_done", []string{"sale_id", "block"}, []string{"bits"}, "sale_id", "block", "bits"),
				int64(sale), int64(block), bits); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, s.DB.Dialect().Upsert("admission_room", roomColumns[:1], roomColumns[1:], roomColumns...),
			int64(sale), row.order, int64(row.horizon), int64(row.given), int64(row.served), row.tokens, row.tokensUntil, row.drawn, row.ends, row.updatedAt)
		return err
	})
}

// lotsPerRow is how many lots one row of admission_lot holds, lotRows how many rows are written in one transaction: half a
// megabyte, so that purchases which settle at this moment wait some milliseconds at most.
const (
	lotsPerRow = 1024
	lotRows    = 64
)

// saveLots writes lots in their order. They count only when admission_room says that they are drawn.
func (s *Service) saveLots(ctx context.Context, sale levee.SaleID, sorted []lot) error {
	if s.DB == nil {
		return nil
	}
	up := s.DB.Dialect().Upsert("admission_lot", []string{"sale_id", "block"}, []string{"lots"}, "sale_id", "block", "lots")
	for block := 0; block*lotsPerRow < len(sorted); block += lotRows {
		err := s.tx(ctx, "admission.lots", func(ctx context.Context, tx *db.Tx) error {
			for b := block; b < block+lotRows && b*lotsPerRow < len(sorted); b++ {
				part := sorted[b*lotsPerRow : min((b+1)*lotsPerRow, len(sorted))]
				raw := make([]byte, 0, len(part)*8)
				for _, l := range part {
					raw = binary.BigEndian.AppendUint64(raw, l.lot)
				}
				if _, err := tx.Exec(ctx, up, int64(sale), int64(b), raw); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// remembered reads what an earlier life left of a line; ok is false when there was none.
func (s *Service) remembered(ctx context.Context, sale levee.SaleID, wall time.Time) (m memory, ok bool, err error) {
	if s.DB == nil {
		return m, false, nil
	}
	var horizon, given, served, until, drawn int64
	err = s.DB.QueryRow(db.Primary(ctx), "SELECT order_kind, horizon, given, served, tokens, tokens_until, drawn FROM admission_room WHERE sale_id=?", int64(sale)).
		Scan(&m.order, &horizon, &given, &served, &m.tokens, &until, &drawn)
	if errors.Is(err, db.ErrNoRows) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	m.horizon, m.given, m.served, m.drawn = uint32(horizon), uint32(given), uint32(served), int(drawn)
	m.left, m.latest = time.UnixMicro(until).Sub(wall), uint32(until/1_000_000)
	m.done = map[uint32][]uint64{}
	if err := s.eachBlob(ctx, "SELECT block, bits FROM admission_done WHERE sale_id=? ORDER BY block", sale, func(block int64, raw []byte) {
		words := make([]uint64, len(raw)/8)
		for i := range words {
			words[i] = binary.BigEndian.Uint64(raw[i*8:])
		}
		m.done[uint32(block)] = words
	}); err != nil {
		return m, false, err
	}
	if m.drawn > 0 {
		m.lots = make([]uint64, 0, m.drawn)
		err = s.eachBlob(ctx, "SELECT block, lots FROM admission_lot WHERE sale_id=? ORDER BY block", sale, func(_ int64, raw []byte) {
			for ; len(raw) >= 8 && len(m.lots) < m.drawn; raw = raw[8:] {
				m.lots = append(m.lots, binary.BigEndian.Uint64(raw))
			}
		})
		if err == nil && len(m.lots) != m.drawn {
			err = levee.E(levee.CodeInternal, "of %d lots of sale %d only %d are kept", m.drawn, sale, len(m.lots))
		}
	}
	return m, true, err
}

func (s *Service) eachBlob(ctx context.Context, query string, sale levee.SaleID, f func(block int64, raw []byte)) error {
	rows, err := s.DB.Query(db.Primary(ctx), query, int64(sale))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var block int64
		var raw []byte
		if err := rows.Scan(&block, &raw); err != nil {
			return err
		}
		f(block, raw)
	}
	return rows.Err()
}

// deleteRoom removes what is kept of a sale.
func (s *Service) deleteRoom(ctx context.Context, sale levee.SaleID) error {
	if s.DB == nil {
		return nil
	}
	return s.tx(ctx, "admission.delete", func(ctx context.Context, tx *db.Tx) error {
		for _, q := range []string{"DELETE FROM admission_lot WHERE sale_id=?", "DELETE FROM admission_done WHERE sale_id=?",
			"DELETE FROM admission_room WHERE sale_id=?"} {
			if _, err := tx.Exec(ctx, q, int64(sale)); err != nil {
				return err
			}
		}
		return nil
	})
}

// overSince lists the sales whose rooms are kept and whose time was over before a moment: their process ended before they did.
func (s *Service) overSince(ctx context.Context, before time.Time) (sales []levee.SaleID, err error) {
	if s.DB == nil {
		return nil, nil
	}
	rows, err := s.DB.Query(db.Primary(ctx), "SELECT sale_id FROM admission_room WHERE ends_at<? ORDER BY ends_at LIMIT 1000", before.UnixMicro())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		sales = append(sales, levee.SaleID(n))
	}
	return sales, rows.Err()
}
