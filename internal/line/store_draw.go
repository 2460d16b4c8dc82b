package line

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// The states of a draw in SQL.
const (
	drawTaking = 1 // entries are taken, or will be
	drawFrozen = 2 // no more entries; units are fixed
	drawListed = 3 // the entry list and its digest are public
	drawDone   = 4 // seed and results are public
)

// draw is a row of line_draw.
type draw struct {
	sale          levee.SaleID
	state         int
	hash, sealed  string
	seed          string // hexadecimal, once drawn
	entries       int64
	units         int64
	winners       int64
	entriesDigest string
	resultsDigest string
	drawnAt       time.Time
}

func drawOf(ctx context.Context, q querier, sale levee.SaleID) (d draw, found bool, err error) {
	d.sale = sale
	var drawn int64
	err = q.QueryRow(ctx, "SELECT state, seed_hash, seed_sealed, seed, entries, units, winners, entries_digest, results_digest, drawn_at "+
		"FROM line_draw WHERE sale_id=?", sale).
		Scan(&d.state, &d.hash, &d.sealed, &d.seed, &d.entries, &d.units, &d.winners, &d.entriesDigest, &d.resultsDigest, &drawn)
	if errors.Is(err, db.ErrNoRows) {
		return d, false, nil
	}
	d.drawnAt = micro(drawn)
	return d, err == nil, err
}

func (s *Service) insertDrawTx(ctx context.Context, tx *db.Tx, d draw) error {
	_, err := tx.Exec(ctx, "INSERT INTO line_draw (sale_id, state, seed_hash, seed_sealed, seed, entries, units, winners, entries_digest, "+
		"results_digest, created_at, closed_at, drawn_at) VALUES (?,?,?,?,'',0,0,0,'','',?,0,0)", d.sale, drawTaking, d.hash, d.sealed, s.nowMicro())
	return err
}

func (s *Service) countEntryTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, by int64) error {
	_, err := tx.Exec(ctx, "UPDATE line_draw SET entries=entries+? WHERE sale_id=?", by, sale)
	return err
}

// stepDrawTx writes a draw's next state and what became known with it, if nobody else did.
func (s *Service) stepDrawTx(ctx context.Context, tx *db.Tx, d draw, from int) (bool, error) {
	now := s.nowMicro()
	var r db.Result
	var err error
	switch d.state {
	case drawFrozen:
		r, err = tx.Exec(ctx, "UPDATE line_draw SET state=?, units=?, closed_at=? WHERE sale_id=? AND state=?", d.state, d.units, now, d.sale, from)
	case drawListed:
		r, err = tx.Exec(ctx, "UPDATE line_draw SET state=?, entries_digest=? WHERE sale_id=? AND state=?", d.state, d.entriesDigest, d.sale, from)
	case drawDone:
		r, err = tx.Exec(ctx, "UPDATE line_draw SET state=?, seed=?, winners=?, results_digest=?, drawn_at=? WHERE sale_id=? AND state=?",
			d.state, d.seed, d.winners, d.resultsDigest, d.drawnAt.UnixMicro(), d.sale, from)
	default:
		return false, errors.New("a draw has no such step")
	}
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// The texts of a draw.
const (
	textEntries = 1
	textResults = 2
)

// textPart is the most bytes of a text in one row: what the smallest TEXT among the engines holds.
const textPart = 60_000

func (s *Service) putTextTx(ctx context.Context, tx *db.Tx, sale levee.SaleID, kind, part int, body []byte) error {
	_, err := tx.Exec(ctx, s.DB.Dialect().Upsert("line_text", []string{"sale_id", "kind", "part"}, []string{"body"}, "sale_id", "kind", "part", "body"),
		sale, kind, part, string(body))
	return err
}

// textAt returns a part of a text; found is false after the last.
func textAt(ctx context.Context, q querier, sale levee.SaleID, kind, part int) (body string, found bool, err error) {
	err = q.QueryRow(ctx, "SELECT body FROM line_text WHERE sale_id=? AND kind=? AND part=?", sale, kind, part).Scan(&body)
	if errors.Is(err, db.ErrNoRows) {
		return "", false, nil
	}
	return body, err == nil, err
}
