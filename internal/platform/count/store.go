package count

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// store is the totals in SQL.
type store struct {
	db    *db.DB
	slots chan struct{} // of reads
	id    int64         // of this process as a writer
	// fault, in tests, is called after a commit and makes its answer be lost.
	fault func() error
}

type row struct{ n, epoch, applied, ver int64 }

// change is a difference.
type change struct {
	key
	n int64
}

// counted is what a key of Redis has counted in its life.
type counted struct {
	key
	epoch, c int64
}

func newStore(d *db.DB, loads int) *store {
	return &store{db: d, slots: make(chan struct{}, loads), id: number()}
}

// sizes of statements of many rows: few texts, which are kept prepared.
var sizes = []int{256, 64, 8, 1}

// chunks calls fn with parts of n things, of the sizes above.
func chunks(n int, fn func(from, to int) error) error {
	for at := 0; at < n; {
		for _, s := range sizes {
			if n-at >= s {
				if err := fn(at, at+s); err != nil {
					return err
				}
				at += s
				break
			}
		}
	}
	return nil
}

// bounded runs a read when there is a slot for it.
func (s *store) bounded(ctx context.Context, fn func(ctx context.Context) error) error {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case s.slots <- struct{}{}:
	case <-t.C:
		return levee.E(levee.CodeUnavailable, "too many read counts from the database").After(time.Second)
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.slots }()
	return fn(db.Primary(ctx))
}

// rows reads the totals that SQL has; what it has not is left out.
func (s *store) rows(ctx context.Context, kind string, names []string) (map[string]row, error) {
	found := make(map[string]row, len(names))
	err := s.bounded(ctx, func(ctx context.Context) error {
		for part := range slices.Chunk(names, 512) {
			size := 1
			for size < len(part) {
				size *= 8
			}
			args := make([]any, 1, size+1)
			args[0] = kind
			for i := range size {
				args = append(args, part[min(i, len(part)-1)])
			}
			q := `SELECT name, n, epoch, applied, ver FROM count_value WHERE kind = ? AND name IN (` + strings.Repeat("?,", size-1) + `?)`
			if err := s.query(ctx, q, args, func(scan func(...any) error) error {
				var name string
				var r row
				err := scan(&name, &r.n, &r.epoch, &r.applied, &r.ver)
				found[name] = r
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

func (s *store) query(ctx context.Context, q string, args []any, each func(scan func(...any) error) error) error {
	rows, err := s.db.Query(ctx, q, args...)
	if err != nil {
		return err
	}
	return drain(rows, each)
}

func drain(rows *db.Rows, each func(scan func(...any) error) error) error {
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// upsert returns an INSERT of many rows; set is what a row that is there gets, with new(column) for the new value.
func (s *store) upsert(rows int, set string) string {
	q := `INSERT INTO count_value (kind, name, n, epoch, applied, ver) VALUES ` + strings.Repeat("(?,?,?,?,?,?),", rows-1) + "(?,?,?,?,?,?)"
	if s.db.Dialect().Name() == "mysql" {
		return q + " ON DUPLICATE KEY UPDATE " + strings.ReplaceAll(set, "new(", "VALUES(")
	}
	r := strings.NewReplacer("new(n)", "excluded.n", "new(epoch)", "excluded.epoch", "new(applied)", "excluded.applied")
	return q + " ON CONFLICT (kind, name) DO UPDATE SET " + r.Replace(set)
}

// addTx adds differences. Rows are locked in one order.
func (s *store) addTx(ctx context.Context, tx *db.Tx, cs []change) error {
	slices.SortFunc(cs, func(a, b change) int { return a.compare(b.key) })
	return chunks(len(cs), func(from, to int) error {
		args := make([]any, 0, 6*(to-from))
		for _, c := range cs[from:to] {
			args = append(args, c.kind, c.name, c.n, 0, 0, 1)
		}
		_, err := tx.Exec(ctx, s.upsert(to-from, "n = n + new(n), ver = ver + 1"), args...)
		return err
	})
}

// countTx writes what keys of Redis have counted: of what is in n already, by epoch and applied, nothing is added again.
func (s *store) countTx(ctx context.Context, tx *db.Tx, cs []counted) error {
	slices.SortFunc(cs, func(a, b counted) int { return a.compare(b.key) })
	return chunks(len(cs), func(from, to int) error {
		args := make([]any, 0, 6*(to-from))
		for _, c := range cs[from:to] {
			args = append(args, c.kind, c.name, c.c, c.epoch, c.c, 0)
		}
		// MySQL sets the columns one after another and sees what it has set: n is first.
		_, err := tx.Exec(ctx, s.upsert(to-from,
			"n = n + new(applied) - CASE WHEN epoch = new(epoch) THEN applied ELSE 0 END, epoch = new(epoch), applied = new(applied)"), args...)
		return err
	})
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), cmp.Compare(k.name, o.name))
}

// readTx reads totals within a transaction.
func (s *store) readTx(ctx context.Context, tx *db.Tx, cs []counted) (map[key]row, error) {
	found := make(map[key]row, len(cs))
	err := chunks(len(cs), func(from, to int) error {
		args := make([]any, 0, 2*(to-from))
		for _, c := range cs[from:to] {
			args = append(args, c.kind, c.name)
		}
		// SERIALIZABLE locks what is read, but these rows are this transaction's already.
		rows, err := tx.Query(ctx, `SELECT kind, name, n, epoch, applied, ver FROM count_value WHERE (kind, name) IN (VALUES `+
			strings.Repeat("(?,?),", to-from-1)+`(?,?))`, args...)
		if s.db.Dialect().Name() == "mysql" {
			rows, err = tx.Query(ctx, `SELECT kind, name, n, epoch, applied, ver FROM count_value WHERE (kind, name) IN (`+
				strings.Repeat("(?,?),", to-from-1)+`(?,?))`, args...)
		}
		if err != nil {
			return err
		}
		return drain(rows, func(scan func(...any) error) error {
			var k key
			var r row
			err := scan(&k.kind, &k.name, &r.n, &r.epoch, &r.applied, &r.ver)
			found[k] = r
			return err
		})
	})
	return found, err
}

// tx is db.Tx, after which a test may lose the answer.
func (s *store) tx(ctx context.Context, name string, fn func(ctx context.Context, tx *db.Tx) error) error {
	err := s.db.Tx(ctx, name, fn)
	if err == nil && s.fault != nil {
		return s.fault()
	}
	return err
}

const writerKept = 24 * time.Hour

// batch writes differences as this process' batch of that number, once, however often it is called for it.
func (s *store) batch(ctx context.Context, number int64, cs []change, join func(tx *db.Tx)) error {
	return s.tx(ctx, "count.batch", func(ctx context.Context, tx *db.Tx) error {
		join(tx)
		now := time.Now().UnixMicro()
		var last int64
		err := tx.QueryRow(ctx, `SELECT batch FROM count_writer WHERE id = ?`+s.db.Dialect().ForUpdate(), s.id).Scan(&last)
		switch {
		case errors.Is(err, db.ErrNoRows):
			_, err = tx.Exec(ctx, `INSERT INTO count_writer (id, batch, at) VALUES (?, ?, ?)`, s.id, number, now)
		case err == nil && last >= number:
			return nil
		case err == nil:
			_, err = tx.Exec(ctx, `UPDATE count_writer SET batch = ?, at = ? WHERE id = ?`, number, now, s.id)
		}
		if err != nil {
			return err
		}
		return s.addTx(ctx, tx, cs)
	})
}

// leave removes this process from the writers, and those that have been silent for a day.
func (s *store) leave(ctx context.Context) error {
	var old []int64
	err := s.query(db.Primary(ctx), `SELECT id FROM count_writer WHERE at < ? LIMIT 1000`, []any{time.Now().Add(-writerKept).UnixMicro()},
		func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			old = append(old, id)
			return err
		})
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, "count.leave", func(ctx context.Context, tx *db.Tx) error {
		for _, id := range append(old, s.id) {
			if _, err := tx.Exec(ctx, `DELETE FROM count_writer WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// turns reads how often each lane was written.
func (s *store) turns(ctx context.Context) (map[int]int64, error) {
	found := map[int]int64{}
	err := s.query(db.Primary(ctx), `SELECT lane, turn FROM count_lane`, nil, func(scan func(...any) error) error {
		var lane int
		var turn int64
		err := scan(&lane, &turn)
		found[lane] = turn
		return err
	})
	return found, err
}

// takeTurnTx reports whether nobody wrote the lane since turn was read.
func (s *store) takeTurnTx(ctx context.Context, tx *db.Tx, lane int, turn int64) (bool, error) {
	if turn == 0 {
		_, err := tx.Exec(ctx, `INSERT INTO count_lane (lane, turn) VALUES (?, 1)`, lane)
		if db.IsUnique(err) {
			return false, nil
		}
		return err == nil, err
	}
	res, err := tx.Exec(ctx, `UPDATE count_lane SET turn = turn + 1 WHERE lane = ? AND turn = ?`, lane, turn)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// place is a member's score to be written, or that it is gone.
type place struct {
	key
	member string
	score  int64
	gone   bool
}

// placeTx writes members of boards as they are.
func (s *store) placeTx(ctx context.Context, tx *db.Tx, ps []place) error {
	slices.SortFunc(ps, func(a, b place) int { return cmp.Or(a.compare(b.key), cmp.Compare(a.member, b.member)) })
	var gone, there []place
	for _, p := range ps {
		if p.gone {
			gone = append(gone, p)
		} else {
			there = append(there, p)
		}
	}
	for _, p := range gone {
		if _, err := tx.Exec(ctx, `DELETE FROM count_member WHERE kind = ? AND name = ? AND member = ?`, p.kind, p.name, p.member); err != nil {
			return err
		}
	}
	return chunks(len(there), func(from, to int) error {
		q := `INSERT INTO count_member (kind, name, member, score) VALUES ` + strings.Repeat("(?,?,?,?),", to-from-1) + "(?,?,?,?)"
		if s.db.Dialect().Name() == "mysql" {
			q += " ON DUPLICATE KEY UPDATE score = VALUES(score)"
		} else {
			q += " ON CONFLICT (kind, name, member) DO UPDATE SET score = excluded.score"
		}
		args := make([]any, 0, 4*(to-from))
		for _, p := range there[from:to] {
			args = append(args, p.kind, p.name, p.member, p.score)
		}
		_, err := tx.Exec(ctx, q, args...)
		return err
	})
}

// board reads a board from SQL, the highest first.
func (s *store) board(ctx context.Context, k key, offset, n int) (es []Entry, err error) {
	err = s.bounded(ctx, func(ctx context.Context) error {
		return s.query(ctx, `SELECT member, score FROM count_member WHERE kind = ? AND name = ? ORDER BY score DESC, member DESC LIMIT ? OFFSET ?`,
			[]any{k.kind, k.name, n, offset}, func(scan func(...any) error) error {
				var e Entry
				err := scan(&e.Member, &e.Score)
				es = append(es, e)
				return err
			})
	})
	return es, err
}

// beginRun makes this the run that may correct a kind, and forgets what an earlier one has left.
func (s *store) beginRun(ctx context.Context, kind string) (fence int64, err error) {
	err = s.db.Tx(ctx, "count.run", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO count_run (kind, fence) VALUES (?, 1)`, kind)
		if db.IsUnique(err) {
			_, err = tx.Exec(ctx, `UPDATE count_run SET fence = fence + 1 WHERE kind = ?`, kind)
		}
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT fence FROM count_run WHERE kind = ?`, kind).Scan(&fence); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM count_fix WHERE kind = ?`, kind)
		return err
	})
	return fence, err
}

// unfenced is for tests: what goes wrong without the fence.
const unfenced = -1

func (s *store) checkRunTx(ctx context.Context, tx *db.Tx, kind string, fence int64) error {
	if fence == unfenced {
		return nil
	}
	var now int64
	if err := tx.QueryRow(ctx, `SELECT fence FROM count_run WHERE kind = ?`+s.db.Dialect().ForUpdate(), kind).Scan(&now); err != nil {
		return err
	}
	if now != fence {
		return levee.E(levee.CodeConflict, "another correction of %s has begun; this one ends", kind)
	}
	return nil
}

// note keeps differences until all are found.
func (s *store) note(ctx context.Context, kind string, fence int64, cs []change) error {
	return s.db.Tx(ctx, "count.note", func(ctx context.Context, tx *db.Tx) error {
		if err := s.checkRunTx(ctx, tx, kind, fence); err != nil {
			return err
		}
		q := s.db.Dialect().Upsert("count_fix", []string{"kind", "name"}, []string{"d"}, "kind", "name", "d")
		for _, c := range cs {
			if _, err := tx.Exec(ctx, q, kind, c.name, c.n); err != nil {
				return err
			}
		}
		return nil
	})
}

// apply adds up to 500 of the noted differences and returns how many.
func (s *store) apply(ctx context.Context, kind string, fence int64, join func(tx *db.Tx, keys []key)) (n int, err error) {
	err = s.db.Tx(ctx, "count.correct", func(ctx context.Context, tx *db.Tx) error {
		if err := s.checkRunTx(ctx, tx, kind, fence); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT name, d FROM count_fix WHERE kind = ? ORDER BY name LIMIT 500`, kind)
		if err != nil {
			return err
		}
		var cs []change
		var keys []key
		if err := drain(rows, func(scan func(...any) error) error {
			c := change{key: key{kind: kind}}
			err := scan(&c.name, &c.n)
			cs, keys = append(cs, c), append(keys, c.key)
			return err
		}); err != nil {
			return err
		}
		if n = len(cs); n == 0 {
			return nil
		}
		if err := s.addTx(ctx, tx, cs); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM count_fix WHERE kind = ? AND name <= ?`, kind, cs[n-1].name); err != nil {
			return err
		}
		join(tx, keys)
		return nil
	})
	return n, err
}

// names returns up to 500 keys of a kind after one.
func (s *store) names(ctx context.Context, kind, after string) (names []string, err error) {
	err = s.query(db.Primary(ctx), `SELECT name FROM count_value WHERE kind = ? AND name > ? ORDER BY name LIMIT 500`, []any{kind, after},
		func(scan func(...any) error) error {
			var n string
			err := scan(&n)
			names = append(names, n)
			return err
		})
	return names, err
}
