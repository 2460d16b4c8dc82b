package trail

import (
	"context"
	"embed"
	"strings"
	"time"

	"levee/internal/platform/db"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables trail_*.
func Schema() db.Schema { return db.Schema{Owner: "trail", FS: schemaFS} }

// query is Query of a *db.DB or of a *db.Tx.
type query func(ctx context.Context, query string, args ...any) (*db.Rows, error)

// at turns microseconds of SQL into a time.
func at(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

var entryInsert = []string{"id", "at", "times", "actor_id", "action", "subject_kind", "subject_id", "before_state", "after_state", "address",
	"request_id", "mark"}

// insertEntries appends to the trail.
func insertEntries(ctx context.Context, tx *db.Tx, entries []Entry) error {
	rows := make([][]any, 0, len(entries))
	for _, e := range entries {
		rows = append(rows, []any{e.ID, e.At.UnixMicro(), e.Times, int64(e.Actor), e.Action, int(e.Kind), e.Subject, e.Before, e.After, e.Address,
			e.RequestID, e.Mark})
	}
	return tx.InsertRows(ctx, "trail_entry", entryInsert, rows)
}

const entryColumns = `id, COALESCE(seq, 0), at, times, actor_id, action, subject_kind, subject_id, before_state, after_state, address, request_id, mark`

// listEntries returns entries, newest first, and one more than the page's limit when there are more.
func listEntries(ctx context.Context, q query, f Filter) ([]Entry, error) {
	where, args := []string{"1 = 1"}, []any{}
	and := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if f.Actor != 0 {
		and("actor_id = ?", int64(f.Actor))
	}
	if f.Visitors {
		and("actor_id = 0")
	}
	if f.Subject != 0 {
		and("subject_id = ? AND subject_kind = ?", f.Subject, int(f.Kind))
	}
	if f.Action != "" {
		and("action >= ? AND action < ?", f.Action, f.Action+"\U0010FFFF")
	}
	if f.Address != "" {
		and("address = ?", f.Address)
	}
	if !f.From.IsZero() {
		and("at >= ?", f.From.UnixMicro())
	}
	if !f.Before.IsZero() {
		and("at < ?", f.Before.UnixMicro())
	}
	if f.Page.After != 0 {
		and("id < ?", f.Page.After)
	}
	return scanEntries(q(ctx, `SELECT `+entryColumns+` FROM trail_entry WHERE `+strings.Join(where, " AND ")+` ORDER BY id DESC LIMIT ?`,
		append(args, f.Page.Limit+1)...))
}

func scanEntries(rows *db.Rows, err error) ([]Entry, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var list []Entry
	for rows.Next() {
		var e Entry
		var when int64
		err := rows.Scan(&e.ID, &e.Seq, &when, &e.Times, &e.Actor, &e.Action, &e.Kind, &e.Subject, &e.Before, &e.After, &e.Address, &e.RequestID, &e.Mark)
		if err != nil {
			return nil, err
		}
		e.At = at(when)
		list = append(list, e)
	}
	return list, rows.Err()
}
