package id

import (
	"context"
	"embed"
	"errors"

	"levee/internal/platform/db"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables id_worker and id_space, which Config.DB needs, and id_segment, which SegmentsConfig.DB needs.
func Schema() db.Schema { return db.Schema{Owner: "id", FS: schemaFS} }

// spaceRows is how far apart the rows of two spaces lie in id_worker.
const spaceRows = 1 << 16

// sqlStore keeps worker numbers in id_worker.
type sqlStore struct {
	d     *db.DB
	first int64 // row of worker number 0
}

func openSQL(ctx context.Context, cfg Config) (store, error) {
	s := &sqlStore{d: cfg.DB}
	if cfg.Space == "" {
		return s, nil
	}
	var has string
	var number int64
	make := func(ctx context.Context, tx *db.Tx) error {
		err := tx.QueryRow(ctx, `SELECT number, layout FROM id_space WHERE name = ?`, cfg.Space).Scan(&number, &has)
		if !errors.Is(err, db.ErrNoRows) {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(number), 0) + 1 FROM id_space`).Scan(&number); err != nil {
			return err
		}
		has = cfg.Layout.String()
		_, err = tx.Exec(ctx, `INSERT INTO id_space (name, number, layout) VALUES (?, ?, ?)`, cfg.Space, number, has)
		if db.IsUnique(err) { // on MySQL another node's insert may come in between
			return errRace
		}
		return err
	}
	err := errRace
	for try := 0; errors.Is(err, errRace) && try < 10; try++ {
		err = cfg.DB.Tx(ctx, "id.space", make)
	}
	switch {
	case err != nil:
		return nil, err
	case has != cfg.Layout.String():
		return nil, otherLayout(cfg, has)
	}
	s.first = number * spaceRows
	return s, nil
}

func (s *sqlStore) rows(ctx context.Context) ([]workerRow, error) {
	rows, err := s.d.Query(db.Primary(ctx), `SELECT worker, owner, horizon, turn FROM id_worker WHERE worker >= ? AND worker < ? ORDER BY worker`,
		s.first, s.first+spaceRows)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []workerRow
	for rows.Next() {
		var r workerRow
		var at int64
		if err := rows.Scan(&at, &r.owner, &r.horizon, &r.turn); err != nil {
			return nil, err
		}
		r.worker = int(at - s.first)
		all = append(all, r)
	}
	return all, rows.Err()
}

func (s *sqlStore) take(ctx context.Context, at workerRow, owner, node string) (won bool, floor int64, err error) {
	err = s.d.Tx(ctx, "id.claim", func(ctx context.Context, tx *db.Tx) error {
		won = false
		if at.turn == 0 {
			_, err := tx.Exec(ctx, `INSERT INTO id_worker (worker, owner, node, horizon, turn) VALUES (?, ?, ?, 0, 1)`, s.first+int64(at.worker), owner, node)
			won = err == nil
			if db.IsUnique(err) {
				return errRace
			}
			return err
		}
		res, err := tx.Exec(ctx, `UPDATE id_worker SET owner = ?, node = ?, turn = turn + 1 WHERE worker = ? AND turn = ? AND owner = ?`,
			owner, node, s.first+int64(at.worker), at.turn, at.owner)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		won = err == nil && n == 1
		return err
	})
	if errors.Is(err, errRace) {
		return false, 0, nil
	}
	return won && err == nil, at.horizon, err
}

func (s *sqlStore) raise(ctx context.Context, worker int, owner string, horizon int64) (grant, error) {
	return grant{horizon: horizon}, s.change(ctx, "id.horizon",
		`UPDATE id_worker SET horizon = CASE WHEN horizon > ? THEN horizon ELSE ? END, turn = turn + 1 WHERE worker = ? AND owner = ?`,
		horizon, horizon, s.first+int64(worker), owner)
}

func (s *sqlStore) free(ctx context.Context, worker int, owner string, first int64) error {
	return s.change(ctx, "id.release", `UPDATE id_worker SET owner = '', horizon = ?, turn = turn + 1 WHERE worker = ? AND owner = ?`,
		first, s.first+int64(worker), owner)
}

func (s *sqlStore) change(ctx context.Context, name, query string, args ...any) error {
	return s.d.Tx(ctx, name, func(ctx context.Context, tx *db.Tx) error {
		res, err := tx.Exec(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n != 1 {
			return errStolen
		}
		return err
	})
}
