package line

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/sale"
)

// A draw is decided in steps, each a transaction or several small ones, so that 100,000 entries hold the writer for milliseconds
// at a time. Everything after the first step follows from what the first one froze and from the seed, so a run that is cut off
// anywhere is simply done again: it writes the same values to the same rows.
const (
	textAtOnce = 8   // parts of a text in one transaction, half a megabyte
	rankAtOnce = 500 // ranks in one transaction
	overAtOnce = 500 // entries that one transaction ends with their sale
)

// runDraw decides a draw whose time has come.
func (s *Service) runDraw(ctx context.Context, of levee.SaleID) (err error) {
	defer levee.Wrap(&err, "line.runDraw(%d)", of)
	started := time.Now()
	d, err := s.freeze(ctx, of)
	if err != nil || d.state == drawTaking || d.state == drawDone {
		return err
	}
	if err := s.step("draw.frozen"); err != nil {
		return err
	}
	list, ranked, err := s.readList(ctx, d)
	if err != nil {
		return err
	}
	text := entriesText(list)
	digest := digestOf(text)
	if d.state == drawListed && d.entriesDigest != digest {
		return fmt.Errorf("the published entry list has the digest %s, the rows give %s", d.entriesDigest, digest)
	}
	d.entriesDigest = digest
	if err := s.publishList(ctx, d, text); err != nil {
		return err
	}
	seed, err := s.seals.open(of, d.sealed, d.hash)
	if err != nil {
		return err
	}
	ranks, winners := shuffle(seed, s.saleRef(of), d.entriesDigest, list, d.units)
	if err := s.writeRanks(ctx, of, ranks, ranked); err != nil {
		return err
	}
	text = resultsText(ranks)
	d.winners, d.resultsDigest, d.seed = winners, digestOf(text), hex.EncodeToString(seed)
	if err := s.publishResults(ctx, d, text, int64(len(ranks))); err != nil {
		return err
	}
	s.metrics.draw.Observe(time.Since(started).Seconds())
	s.log.Info("a draw is decided", "sale", s.saleRef(of), "entries", len(ranks), "units", d.units, "winners", winners,
		"entries_digest", d.entriesDigest, "seconds", time.Since(started).Seconds())
	if err := s.step("draw.published"); err != nil {
		return err
	}
	return s.giveRest(ctx, followArgs{of})
}

// freeze closes the entries and fixes the units, once. It returns the draw as it stands.
func (s *Service) freeze(ctx context.Context, of levee.SaleID) (d draw, err error) {
	err = s.DB.Tx(ctx, "line.freeze", func(ctx context.Context, tx *db.Tx) error {
		v, free, err := s.termsTx(ctx, tx, of)
		if err != nil {
			return err
		}
		// As those who join do: whoever waits for them here does not hold what they need.
		if _, _, err := s.headTx(ctx, tx, of); err != nil {
			return err
		}
		found := false
		if d, found, err = drawOf(ctx, tx, of); err != nil || !found || d.state != drawTaking {
			return err
		}
		if v.State == sale.StateEnded || s.Obs.Clock().Before(v.DrawAt) {
			return nil
		}
		d.state, d.units = drawFrozen, free
		if _, err := s.stepDrawTx(ctx, tx, d, drawTaking); err != nil {
			return err
		}
		return s.step("draw.freezing")
	})
	return d, err
}

// readList reads the frozen entries in the order of their canonical text, and which of them have their rank already.
func (s *Service) readList(ctx context.Context, d draw) (list []listed, ranked map[int64]bool, err error) {
	rows, err := frozenList(ctx, s.DB, d.sale, d.entries)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(rows)) != d.entries {
		return nil, nil, fmt.Errorf("the draw counted %d entries and holds %d", d.entries, len(rows))
	}
	list, ranked = make([]listed, len(rows)), map[int64]bool{}
	for i, r := range rows {
		list[i] = listed{id: r.id, entry: s.entryRef(levee.EntryID(r.id)), quantity: r.quantity}
		if r.ranked {
			ranked[r.id] = true
		}
	}
	sortEntries(list)
	return list, ranked, nil
}

// publishList writes the entry list and its digest. From here on the world can read what the draw is over.
func (s *Service) publishList(ctx context.Context, d draw, text []byte) error {
	if d.state != drawFrozen {
		return nil
	}
	if err := s.putText(ctx, d.sale, textEntries, text); err != nil {
		return err
	}
	if err := s.step("draw.list_written"); err != nil {
		return err
	}
	d.state = drawListed
	return s.DB.Tx(ctx, "line.list", func(ctx context.Context, tx *db.Tx) error {
		_, err := s.stepDrawTx(ctx, tx, d, drawFrozen)
		return err
	})
}

// writeRanks gives every entry its place. They are not public before the results are.
func (s *Service) writeRanks(ctx context.Context, of levee.SaleID, ranks []placed, ranked map[int64]bool) error {
	for first := 0; first < len(ranks); first += rankAtOnce {
		if err := s.step("draw.ranks"); err != nil {
			return err
		}
		part := ranks[first:min(first+rankAtOnce, len(ranks))]
		err := s.DB.Tx(ctx, "line.rank", func(ctx context.Context, tx *db.Tx) error {
			for i, r := range part {
				if ranked[r.id] {
					continue
				}
				want := r.quantity
				if r.won > 0 {
					want = r.won // the last winner may get fewer than he asked for, and exactly that
				}
				if err := s.rankTx(ctx, tx, r.id, int64(first+i+1), want); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.step("draw.ranked")
}

// publishResults writes the results and, in one transaction, opens them to the world with the seed and puts the line into force.
func (s *Service) publishResults(ctx context.Context, d draw, text []byte, n int64) error {
	if err := s.putText(ctx, d.sale, textResults, text); err != nil {
		return err
	}
	if err := s.step("draw.results_written"); err != nil {
		return err
	}
	return s.DB.Tx(ctx, "line.drawn", func(ctx context.Context, tx *db.Tx) error {
		v, _, err := s.termsTx(ctx, tx, d.sale)
		if err != nil {
			return err
		}
		if v.State == sale.StateEnded {
			return levee.E(levee.CodeEnded, "the sale was ended while its draw was under way; nothing was drawn")
		}
		h, _, err := s.headTx(ctx, tx, d.sale)
		if err != nil {
			return err
		}
		d.state, d.drawnAt = drawDone, s.Obs.Clock().UTC().Truncate(time.Microsecond)
		first, err := s.stepDrawTx(ctx, tx, d, drawListed)
		if err != nil || !first {
			return err
		}
		h.last = n
		seq, err := s.numberTx(ctx, tx, &h)
		if err != nil {
			return err
		}
		p := fullPlaces(n, seq)
		tx.AtCommit(func() {
			s.book.put(d.sale, p)
			if s.ring != nil {
				s.ring()
			}
		})
		tx.AfterCommit(func() { s.announce(d.sale) })
		if err := s.Events.Emit(ctx, tx, Drawn{Sale: d.sale, Entries: n, Winners: d.winners, At: d.drawnAt}); err != nil {
			return err
		}
		return s.step("draw.publishing")
	})
}

// putText writes a text in parts. Written again it is the same.
func (s *Service) putText(ctx context.Context, of levee.SaleID, kind int, text []byte) error {
	parts := slices.Collect(slices.Chunk(text, textPart))
	for first := 0; first < len(parts); first += textAtOnce {
		err := s.DB.Tx(ctx, "line.text", func(ctx context.Context, tx *db.Tx) error {
			for part := first; part < min(first+textAtOnce, len(parts)); part++ {
				if err := s.putTextTx(ctx, tx, of, kind, part, parts[part]); err != nil {
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

// drawOfSale reads a sale's draw. One that has no seed yet gets it now. CodeNotFound for a sale
// without a draw.
func (s *Service) drawOfSale(ctx context.Context, v *sale.Sale) (d draw, err error) {
	if v.Mode != sale.ModeDraw {
		return d, levee.E(levee.CodeNotFound, "this sale has no draw")
	}
	d, found, err := drawOf(ctx, s.DB, v.ID)
	if err != nil || found || v.State == sale.StateDraft {
		return d, err
	}
	err = s.DB.Tx(ctx, "line.ensure", func(ctx context.Context, tx *db.Tx) error {
		v, _, err := s.termsTx(ctx, tx, v.ID)
		if err != nil || v.State == sale.StateEnded {
			return err
		}
		if _, err := s.ensureTx(ctx, tx, v); err != nil {
			return err
		}
		d, _, err = drawOf(ctx, tx, v.ID)
		return err
	})
	return d, err
}
