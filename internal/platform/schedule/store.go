package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/when"
)

// record is a row.
type record struct {
	Info
	args, text, declared string
}

const columns = `name, kind, args, trigger_text, note, grace, coalesce_how, most, max_live, state, next_at, held_at, version, declared, ` +
	`changed, fired, late, merged, busy, last_at, last_run_at, last_job, skipped_at, skipped_why, created_at, changed_at, finished_at`

// stamp reads a time; null leaves it zero.
type stamp struct{ t *time.Time }

func (s stamp) Scan(v any) error {
	if n, ok := v.(int64); ok {
		*s.t = timeOf(n)
	} else if v != nil {
		return fmt.Errorf("a time is %T in the database", v)
	}
	return nil
}

// timeOf is a time of microseconds; 0: the zero time.
func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// null is a time as the database has it.
func null(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// micros undoes timeOf.
func micros(t time.Time) int64 {
	n, _ := null(t).(int64)
	return n
}

// scan reads a row of columns. A trigger that this process cannot read makes a Fault, not an error.
func scan(row interface{ Scan(...any) error }) (*record, error) {
	r := &record{}
	var grace int64
	var job db.NullInt64
	err := row.Scan(&r.Name, &r.Kind, &r.args, &r.text, &r.Note, &grace, &r.Coalesce, &r.Most, &r.MaxLive, &r.State, stamp{&r.Next}, stamp{&r.Next},
		&r.Version, &r.declared, &r.Changed, &r.Fired, &r.Late, &r.Merged, &r.Busy, stamp{&r.Last}, stamp{&r.LastRun}, &job, stamp{&r.Skipped},
		&r.Reason, stamp{&r.Created}, stamp{&r.Modified}, stamp{&r.Finished})
	if err != nil {
		return nil, err
	}
	r.Args, r.Grace, r.LastJob = json.RawMessage(r.args), time.Duration(grace)*time.Microsecond, job.Int64
	r.Paused, r.Declared = r.State == Paused, r.declared != ""
	if r.Trigger, err = when.Parse(r.text); err != nil {
		r.Fault = "its trigger cannot be read: " + err.Error()
	}
	return r, nil
}

// info is the row as callers see it.
func (r *record) info(kinds map[string]bool) Info {
	if r.Fault == "" && !kinds[r.Kind] {
		r.Fault = "no such kind of job is registered here"
	}
	return r.Info
}

// set gives a row other values. Another trigger counts from now.
func (r *record) set(c entry, now int64) {
	another := c.text != r.text
	r.Entry, r.args, r.text = c.Entry, c.args, c.text
	if !another {
		return
	}
	if first := next(c.Trigger, now); r.State == Paused {
		r.Next = timeOf(first)
	} else {
		r.activate(first, now)
	}
}

// activate has the row go on at a time; 0: it is finished.
func (r *record) activate(at, now int64) {
	r.State, r.Next, r.Finished = Active, timeOf(at), time.Time{}
	if at == 0 {
		r.State, r.Finished = Finished, timeOf(now)
	}
}

// places are next_at and held_at: of an active row the first is set, so that the index holds only what can come due.
func (r *record) places() (next, held any) {
	if r.State == Paused {
		return nil, null(r.Next)
	}
	return null(r.Next), nil
}

// insertTx makes a row; first 0: it is finished from the beginning. Its version is another one than that of a row of the same name that was
// removed: else who has seen that one could fire it.
func (s *Schedules) insertTx(ctx context.Context, tx *db.Tx, c entry, declared string, first, now int64) error {
	r := record{}
	r.activate(first, now)
	if c.Paused && first != 0 {
		r.State = Paused
	}
	next, held := r.places()
	_, err := tx.Exec(ctx, `INSERT INTO schedule_entry (`+columns+`) VALUES (`+strings.Repeat("?, ", 26)+`?)`,
		c.Name, c.Kind, c.args, c.text, c.Note, c.Grace.Microseconds(), int(c.Coalesce), c.Most, c.MaxLive, int(r.State), next, held,
		now, declared, false, 0, 0, 0, 0, nil, nil, nil, nil, "", now, now, null(r.Finished))
	if err == nil {
		s.changedTx(tx, next, now)
	}
	return err
}

func notFound(name string) error {
	return levee.E(levee.CodeNotFound, "there is no schedule %q", levee.Shorten(name, maxNames))
}

// lockTx reads a row and keeps others from it until the commit.
func (s *Schedules) lockTx(ctx context.Context, tx *db.Tx, name string) (*record, error) {
	r, err := scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM schedule_entry WHERE name = ?`+s.db.Dialect().ForUpdate(), name))
	if errors.Is(err, db.ErrNoRows) {
		return nil, notFound(name)
	}
	return r, err
}

// change changes a row in a transaction of its own.
func (s *Schedules) change(ctx context.Context, tx, name string, change func(r *record, now int64) error) error {
	now, err := s.micros(ctx)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, tx, func(ctx context.Context, tx *db.Tx) error {
		return s.changeTx(ctx, tx, name, now, func(r *record) error { return change(r, now) })
	})
}

func (s *Schedules) changeTx(ctx context.Context, tx *db.Tx, name string, now int64, change func(r *record) error) error {
	r, err := s.lockTx(ctx, tx, name)
	if err != nil {
		return err
	}
	if err := change(r); err != nil {
		return err
	}
	next, held := r.places()
	_, err = tx.Exec(ctx, `UPDATE schedule_entry SET kind = ?, args = ?, trigger_text = ?, note = ?, grace = ?, coalesce_how = ?, most = ?, `+
		`max_live = ?, state = ?, next_at = ?, held_at = ?, version = version + 1, declared = ?, changed = ?, changed_at = ?, finished_at = ? `+
		`WHERE name = ?`, r.Kind, r.args, r.text, r.Note, r.Grace.Microseconds(), int(r.Coalesce), r.Most, r.MaxLive, int(r.State), next, held,
		r.declared, r.Changed, now, null(r.Finished), name)
	if err == nil {
		s.changedTx(tx, next, now)
	}
	return err
}

func (s *Schedules) deleteTx(ctx context.Context, tx *db.Tx, name string) error {
	res, err := tx.Exec(ctx, `DELETE FROM schedule_entry WHERE name = ?`, name)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(err, notFound(name))
	}
	return nil
}

// noteJobTx writes down a job that was given besides the firings.
func (s *Schedules) noteJobTx(ctx context.Context, tx *db.Tx, name string, id, now int64) error {
	_, err := tx.Exec(ctx, `UPDATE schedule_entry SET fired = fired + 1, last_run_at = ?, last_job = ? WHERE name = ?`, now, id, name)
	return err
}

func (s *Schedules) count(ctx context.Context) (n int, err error) {
	err = s.db.QueryRow(db.Primary(ctx), `SELECT COUNT(*) FROM schedule_entry`).Scan(&n)
	return n, err
}

// askDatabase asks the database's clock. It is UTC whatever the session's zone is.
func (s *Schedules) askDatabase(ctx context.Context) (time.Time, error) {
	var micros int64
	err := s.db.QueryRow(db.Primary(ctx), `SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))`).Scan(&micros)
	return time.UnixMicro(micros), err
}

// Get returns a schedule. It fails with CodeNotFound.
func (s *Schedules) Get(ctx context.Context, name string) (i Info, err error) {
	defer levee.Wrap(&err, "schedule.Get")
	r, err := scan(s.db.QueryRow(db.Primary(ctx), `SELECT `+columns+` FROM schedule_entry WHERE name = ?`, name))
	if errors.Is(err, db.ErrNoRows) {
		return i, notFound(name)
	}
	if err != nil {
		return i, err
	}
	return r.info(s.known()), nil
}

// Filter says which schedules List returns, in the order of their names' bytes.
type Filter struct {
	Prefix string  // of the name
	States []State // none: all
	After  string  // the cursor: the last name of the page before
	Limit  int     // 1 to 1000; 0: 100
}

// List returns a page of schedules, and the cursor of the next one: "" when this is the last. It fails with CodeInvalid for a limit out of
// bounds.
func (s *Schedules) List(ctx context.Context, f Filter) (is []Info, after string, err error) {
	defer levee.Wrap(&err, "schedule.List")
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 1 || f.Limit > 1000 {
		return nil, "", levee.Invalid("limit", "1 to 1000", f.Limit)
	}
	query, args := `SELECT `+columns+` FROM schedule_entry WHERE name > ? AND name >= ? AND name <= ?`, []any{f.After, f.Prefix, f.Prefix + "\U0010FFFF"}
	if len(f.States) > 0 {
		query += ` AND state IN (?` + strings.Repeat(", ?", len(f.States)-1) + `)`
		for _, state := range f.States {
			args = append(args, int(state))
		}
	}
	rows, err := s.db.Query(db.Primary(ctx), query+` ORDER BY name LIMIT ?`, append(args, f.Limit+1)...)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	kinds := s.known()
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, "", err
		}
		is = append(is, r.info(kinds))
	}
	if len(is) > f.Limit {
		is = is[:f.Limit]
		after = is[f.Limit-1].Name
	}
	return is, after, rows.Err()
}

// writeDeclared writes what the program declares and has not been written, or is another one than was.
func (s *Schedules) writeDeclared(ctx context.Context) error {
	s.mu.Lock()
	s.running = true
	s.kinds = s.known()
	var all []entry
	for _, c := range s.declared {
		all = append(all, c)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(x, y entry) int { return strings.Compare(x.Name, y.Name) }) // everybody locks in this order
	now, err := s.micros(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if _, err := c.check(s.kinds); err != nil {
			return err
		}
		var there string
		mark := c.fingerprint()
		err := s.db.QueryRow(db.Primary(ctx), `SELECT declared FROM schedule_entry WHERE name = ?`, c.Name).Scan(&there)
		if err == nil && there == mark {
			continue
		}
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return err
		}
		err = s.db.Tx(ctx, "schedule.declare", func(ctx context.Context, tx *db.Tx) error {
			err := s.insertTx(ctx, tx, c, mark, next(c.Trigger, now), now)
			if !db.IsUnique(err) {
				return err
			}
			return s.changeTx(ctx, tx, c.Name, now, func(r *record) error {
				if r.declared != mark {
					r.set(c, now)
					r.declared, r.Changed = mark, false
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// row is what a firing needs of a schedule.
type row struct {
	name, kind, args string
	trigger          when.Trigger
	grace            int64 // microseconds
	how              Coalesce
	most, maxLive    int
	next, version    int64
	text, fault      string
}

// What each look reads, along the index by next_at.
const (
	selectPage = `SELECT name, kind, args, trigger_text, grace, coalesce_how, most, max_live, next_at, version FROM schedule_entry ` +
		`WHERE next_at >= ? AND (next_at > ? OR name > ?) AND next_at <= ? ORDER BY next_at, name LIMIT ?`
	selectFirst = `SELECT next_at FROM schedule_entry WHERE next_at >= 0 ORDER BY next_at LIMIT 1`
)

// page reads active schedules in the order of their firings: those after a firing and a name, up to a time.
func (s *Schedules) page(ctx context.Context, after int64, name string, to int64, limit int) (page []*row, err error) {
	rows, err := s.db.Query(db.Primary(ctx), selectPage, after, after, name, to, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r := &row{}
		if err := rows.Scan(&r.name, &r.kind, &r.args, &r.text, &r.grace, &r.how, &r.most, &r.maxLive, &r.next, &r.version); err != nil {
			return nil, err
		}
		page = append(page, r)
	}
	return page, rows.Err()
}

// earliest returns the next firing of all; 0: there is none.
func (s *Schedules) earliest(ctx context.Context) (at int64, err error) {
	err = s.db.QueryRow(db.Primary(ctx), selectFirst).Scan(&at)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	return at, err
}

// stand is where a row stands.
type stand struct{ next, version int64 }

// standTx reads where rows stand and, where many write at once, locks them, passing over those that another node has locked: of what is due
// at one time each node gets a part.
func (s *Schedules) standTx(ctx context.Context, tx *db.Tx, plans []plan) (map[string]stand, error) {
	n := 1
	for n < len(plans) {
		n *= 2
	}
	args := make([]any, n) // filled up with repetitions, so that few different statements are prepared
	for i := range args {
		args[i] = plans[min(i, len(plans)-1)].r.name
	}
	hint := ""
	if s.crowd {
		hint = ` FORCE INDEX (PRIMARY)` // to lock these rows alone
	}
	rows, err := tx.Query(ctx, `SELECT name, next_at, version FROM schedule_entry`+hint+` WHERE name IN (?`+strings.Repeat(", ?", n-1)+`)`+
		s.db.Dialect().ForUpdate()+s.db.Dialect().SkipLocked(), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	stands := make(map[string]stand, len(plans))
	for rows.Next() {
		var name string
		var next db.NullInt64
		var st stand
		if err := rows.Scan(&name, &next, &st.version); err != nil {
			return nil, err
		}
		st.next = next.Int64
		stands[name] = st
	}
	return stands, errors.Join(rows.Err(), rows.Close())
}

// moveTx moves a row on from the very firing that was planned, and tells whether it stood there.
func (s *Schedules) moveTx(ctx context.Context, tx *db.Tx, p plan, o *outcome, now int64) (bool, error) {
	state, finished := Active, int64(0)
	if p.next == 0 {
		state, finished = Finished, now
	}
	query := `UPDATE schedule_entry SET next_at = ?, state = ?, finished_at = ?, late = late + ?, merged = merged + ?, busy = busy + ?, fired = fired + ?, `
	args := []any{null(timeOf(p.next)), int(state), null(timeOf(finished)), p.late, p.merged, o.busy, len(o.jobs)}
	if n := len(o.jobs); n > 0 {
		query += `last_at = ?, last_run_at = ?, last_job = ?, `
		args = append(args, o.last, now, o.jobs[n-1])
	}
	if why := o.why(p); why != "" {
		query += `skipped_at = ?, skipped_why = ?, `
		args = append(args, now, why)
	}
	query += `version = version WHERE name = ?`
	args = append(args, p.r.name)
	if !s.seam.unfenced {
		query += ` AND next_at = ? AND version = ? AND state = 0`
		args = append(args, p.r.next, p.r.version)
	}
	res, err := tx.Exec(ctx, query, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// prune removes schedules that are finished for long and not declared, a few at a time.
func (s *Schedules) prune(ctx context.Context, before int64) (n int, err error) {
	rows, err := s.db.Query(db.Primary(ctx), `SELECT name FROM schedule_entry WHERE finished_at < ? AND declared = '' ORDER BY finished_at LIMIT 500`, before)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return 0, err
		}
		names = append(names, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(names) == 0 {
		return 0, err
	}
	slices.Sort(names)
	return len(names), s.db.Tx(ctx, "schedule.prune", func(ctx context.Context, tx *db.Tx) error {
		for _, name := range names {
			if _, err := tx.Exec(ctx, `DELETE FROM schedule_entry WHERE name = ? AND declared = '' AND finished_at < ?`, name, before); err != nil {
				return err
			}
		}
		return nil
	})
}
