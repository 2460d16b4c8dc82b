package notify

import (
	"context"
	"errors"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
)

// query is Query of a *db.DB or of a *db.Tx; queryRow is their QueryRow.
type (
	query    func(ctx context.Context, text string, args ...any) (*db.Rows, error)
	queryRow func(ctx context.Context, text string, args ...any) *db.Row
)

// each calls fn for every row of a query.
func each(ctx context.Context, q query, fn func(rows *db.Rows) error, text string, args ...any) (err error) {
	rows, err := q(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func places(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// micro and fromMicro are times in SQL; the zero time is 0.
func micro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicro(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

const selectWebhook = `SELECT id, url, events, description, rehearsals, enabled, since_at, secret, old_secret, old_until,
	failures, failing_since, succeeded_at, failed_at, last_error, created_at, updated_at FROM notify_webhook WHERE deleted = 0`

func scanWebhook(rows *db.Rows) (*webhook, error) {
	w := &webhook{}
	var events string
	var rehearsals, enabled, since, until, failing, succeeded, failed, created, updated int64
	err := rows.Scan(&w.ID, &w.URL, &events, &w.Description, &rehearsals, &enabled, &since, &w.secret, &w.oldSecret, &until,
		&w.Failures, &failing, &succeeded, &failed, &w.LastError, &created, &updated)
	if err != nil {
		return nil, err
	}
	w.Events, w.Rehearsals, w.Enabled = strings.Fields(events), rehearsals != 0, enabled != 0
	w.since, w.OldSecretUntil, w.FailingSince, w.SucceededAt, w.FailedAt = fromMicro(since), fromMicro(until), fromMicro(failing), fromMicro(succeeded), fromMicro(failed)
	w.CreatedAt, w.UpdatedAt = fromMicro(created), fromMicro(updated)
	w.wishes, err = parseWishes("events", w.Events)
	return w, err
}

// readWebhooks returns all webhooks, oldest first.
func readWebhooks(ctx context.Context, q query) (list []*webhook, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		w, err := scanWebhook(rows)
		list = append(list, w)
		return err
	}, selectWebhook+` ORDER BY id`)
	return list, err
}

// readWebhook returns one webhook, or CodeNotFound.
func readWebhook(ctx context.Context, q query, id levee.WebhookID) (w *webhook, err error) {
	err = each(ctx, q, func(rows *db.Rows) (err error) {
		w, err = scanWebhook(rows)
		return err
	}, selectWebhook+` AND id = ?`, int64(id))
	if err == nil && w == nil {
		return nil, levee.E(levee.CodeNotFound, "there is no such webhook")
	}
	return w, err
}

func insertWebhook(ctx context.Context, tx *db.Tx, w *webhook) error {
	_, err := tx.Exec(ctx, `INSERT INTO notify_webhook (id, url, events, description, rehearsals, enabled, deleted, since_at, secret, old_secret, old_until,
		failures, failing_since, succeeded_at, failed_at, last_error, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, '', 0, 0, 0, 0, 0, '', ?, ?)`,
		int64(w.ID), w.URL, strings.Join(w.Events, " "), w.Description, flag(w.Rehearsals), flag(w.Enabled), micro(w.since), w.secret, micro(w.CreatedAt), micro(w.UpdatedAt))
	return err
}

func updateWebhook(ctx context.Context, tx *db.Tx, w *webhook) error {
	_, err := tx.Exec(ctx, `UPDATE notify_webhook SET url = ?, events = ?, description = ?, rehearsals = ?, enabled = ?, since_at = ?, secret = ?, old_secret = ?,
		old_until = ?, updated_at = ? WHERE id = ?`, w.URL, strings.Join(w.Events, " "), w.Description, flag(w.Rehearsals), flag(w.Enabled), micro(w.since),
		w.secret, w.oldSecret, micro(w.OldSecretUntil), micro(w.UpdatedAt), int64(w.ID))
	return err
}

// hideWebhook marks a webhook deleted; its rows go bit by bit (Prune), as they may be many.
func hideWebhook(ctx context.Context, tx *db.Tx, id levee.WebhookID) error {
	_, err := tx.Exec(ctx, `UPDATE notify_webhook SET deleted = 1, enabled = 0, secret = '', old_secret = '' WHERE id = ?`, int64(id))
	return err
}

// updateHealth stores how the last attempts went.
func updateHealth(ctx context.Context, tx *db.Tx, id levee.WebhookID, h health) error {
	_, err := tx.Exec(ctx, `UPDATE notify_webhook SET failures = ?, failing_since = ?, succeeded_at = ?, failed_at = ?, last_error = ? WHERE id = ?`,
		h.failures, micro(h.failingSince), micro(h.succeededAt), micro(h.failedAt), h.lastError, int64(id))
	return err
}

// heardRow is something heard and not yet written out.
type heardRow struct {
	id   int64
	what string
	data string
	done int64
}

const insertHeardText = `INSERT INTO notify_heard (id, what, data, done) VALUES (?, ?, ?, 0)`

func insertHeard(ctx context.Context, tx *db.Tx, id int64, what, data string) error {
	_, err := tx.Exec(ctx, insertHeardText, id, what, data)
	return err
}

// readHeard returns the oldest rows; a batch may have 100 KB.
func readHeard(ctx context.Context, q query, limit int) (list []heardRow, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var h heardRow
		err := rows.Scan(&h.id, &h.what, &h.data, &h.done)
		list = append(list, h)
		return err
	}, `SELECT id, what, data, done FROM notify_heard ORDER BY id LIMIT ?`, limit)
	return list, err
}

// errElsewhere: what was to be written out is written out already, by a commit whose answer was lost.
var errElsewhere = errors.New("this was written out before")

// deleteHeard takes rows away that are written out; errElsewhere when one is not there any more.
func deleteHeard(ctx context.Context, tx *db.Tx, ids ...int64) error {
	for _, id := range ids {
		if err := oneRow(tx.Exec(ctx, `DELETE FROM notify_heard WHERE id = ?`, id)); err != nil {
			return err
		}
	}
	return nil
}

// advanceHeard notes how much of a row is written out; errElsewhere when that is not what it was any more.
func advanceHeard(ctx context.Context, tx *db.Tx, id, was, done int64) error {
	return oneRow(tx.Exec(ctx, `UPDATE notify_heard SET done = ? WHERE id = ? AND done = ?`, done, id, was))
}

func oneRow(r db.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return errors.Join(errElsewhere, err)
	}
	return nil
}

var noticeColumns = []string{"id", "user_id", "kind", "order_id", "sale_id", "at"}

func (n *Notice) row() []any {
	return []any{int64(n.ID), int64(n.User), n.Kind, int64(n.Order), int64(n.Sale), n.At.UnixMicro()}
}

func noticeList(sealer *id.Sealer) *listing.List[noticeView] {
	return listing.New[noticeView](listing.Spec{Name: "notices", Open: sealer.Open,
		Fields: []listing.Field{
			{Name: "unread", Type: listing.Bool, Only: true, Doc: "true: only those that are not read; false: only those that are"},
			{Name: "kind", Column: "kind", Doc: "order.paid, line.offered, …"},
			{Name: "at", Type: listing.Time, Column: "at", Doc: "When it happened"},
		},
		Keys: []listing.Key{{Name: "id", Column: "id"}}, Order: "-id", Unique: "id"})
}

// readNotices reads a page of a user's notices above a bound; upTo is how far he has read.
func readNotices(ctx context.Context, q query, asked *listing.Query, user levee.UserID, floor, upTo int64) (*listing.Found[Notice], error) {
	asked.Where("user_id = ? AND id > ?", int64(user), floor)
	switch asked.Value("unread") {
	case "true":
		asked.Where("id > ?", upTo)
	case "false":
		asked.Where("id <= ?", upTo)
	}
	return listing.Rows(ctx, listing.Reader(q), asked, "id, kind, order_id, sale_id, at", "notify_notice", func(row listing.Row) (Notice, error) {
		n := Notice{User: user}
		var at int64
		err := row.Scan(&n.ID, &n.Kind, &n.Order, &n.Sale, &at)
		n.At = fromMicro(at)
		return n, err
	})
}

// noticeBounds returns up to where a user has read, and the id under which his notices are not shown any more (0: all are).
func noticeBounds(ctx context.Context, d *db.DB, user levee.UserID) (upTo, floor int64, err error) {
	err = d.QueryRow(ctx, `SELECT up_to FROM notify_reader WHERE user_id = ?`, int64(user)).Scan(&upTo)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return 0, 0, err
	}
	err = d.QueryRow(ctx, `SELECT id FROM notify_notice WHERE user_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?`, int64(user), noticesPerUser).Scan(&floor)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return 0, 0, err
	}
	return upTo, floor, nil
}

func countUnread(ctx context.Context, q queryRow, user levee.UserID, above int64) (n int, err error) {
	err = q(ctx, `SELECT COUNT(*) FROM notify_notice WHERE user_id = ? AND id > ?`, int64(user), above).Scan(&n)
	return n, err
}

// raiseReader notes up to where a user has read; it never goes back.
func raiseReader(ctx context.Context, tx *db.Tx, d db.Dialect, user levee.UserID, upTo int64) error {
	if _, err := tx.Exec(ctx, d.InsertIgnore("notify_reader", "user_id", "up_to"), int64(user), int64(0)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE notify_reader SET up_to = ? WHERE user_id = ? AND up_to < ?`, upTo, int64(user), upTo)
	return err
}

// readIDs returns the one column of a query.
func readIDs(ctx context.Context, q query, text string, args ...any) (ids []int64, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}, text, args...)
	return ids, err
}

// deleteByID deletes rows of a table by their ids (or delivery_id).
func deleteByID(ctx context.Context, tx *db.Tx, text string, ids []int64) error {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	_, err := tx.Exec(ctx, text+` (`+places(len(ids))+`)`, args...)
	return err
}
