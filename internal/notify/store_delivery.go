package notify

import (
	"context"
	"errors"
	"math"
	"time"

	"levee"
	"levee/internal/platform/db"
)

var deliveryColumns = []string{"id", "webhook_id", "subject_kind", "subject_id", "type", "version", "data", "at", "state", "attempts", "status", "due_at",
	"tried_at", "give_up_at"}

const selectDelivery = `SELECT id, webhook_id, subject_kind, subject_id, type, version, data, at, state, attempts, status, due_at, tried_at, give_up_at
	FROM notify_delivery`

func (d *Delivery) row() []any {
	return []any{int64(d.ID), int64(d.Webhook), int64(d.SubjectKind), d.Subject, d.Type, d.Version, d.data, micro(d.At), int64(d.state), int64(d.Attempts),
		int64(d.Status), micro(d.DueAt), micro(d.TriedAt), micro(d.GiveUpAt)}
}

func scanDeliveries(ctx context.Context, q query, text string, args ...any) (list []Delivery, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var d Delivery
		var at, due, tried, giveUp int64
		err := rows.Scan(&d.ID, &d.Webhook, &d.SubjectKind, &d.Subject, &d.Type, &d.Version, &d.data, &at, &d.state, &d.Attempts, &d.Status, &due, &tried, &giveUp)
		d.At, d.DueAt, d.TriedAt, d.GiveUpAt = fromMicro(at), fromMicro(due), fromMicro(tried), fromMicro(giveUp)
		list = append(list, d)
		return err
	}, text, args...)
	return list, err
}

// readDelivery returns one delivery, or CodeNotFound.
func readDelivery(ctx context.Context, q query, id levee.DeliveryID) (Delivery, error) {
	list, err := scanDeliveries(ctx, q, selectDelivery+` WHERE id = ?`, int64(id))
	if err == nil && len(list) == 0 {
		err = levee.E(levee.CodeNotFound, "there is no such delivery")
	}
	if err != nil {
		return Delivery{}, err
	}
	return list[0], nil
}

// readReady returns what may be sent now, each list the longest waiting first: what was never tried, and what has failed and is due again.
func readReady(ctx context.Context, q query, id levee.WebhookID, now time.Time, limit int) (fresh, failed []Delivery, err error) {
	fresh, err = scanDeliveries(ctx, q, selectDelivery+` WHERE webhook_id = ? AND state = 1 ORDER BY due_at LIMIT ?`, int64(id), limit)
	if err == nil {
		failed, err = scanDeliveries(ctx, q, selectDelivery+` WHERE webhook_id = ? AND state = 2 AND due_at <= ? ORDER BY due_at LIMIT ?`,
			int64(id), now.UnixMicro(), limit)
	}
	return fresh, failed, err
}

// nextDue returns when the next failed delivery is due; the zero time for none.
func nextDue(ctx context.Context, q queryRow, id levee.WebhookID) (time.Time, error) {
	var due db.NullInt64
	err := q(ctx, `SELECT MIN(due_at) FROM notify_delivery WHERE webhook_id = ? AND state = 2`, int64(id)).Scan(&due)
	return fromMicro(due.Int64), err
}

// countWaiting counts what is not over, up to 10,000.
func countWaiting(ctx context.Context, q queryRow, id levee.WebhookID) (n int, err error) {
	err = q(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM notify_delivery WHERE webhook_id = ? AND state IN (0, 1, 2) LIMIT 10000) w`, int64(id)).Scan(&n)
	return n, err
}

// hasUnfinished reports whether a webhook has a delivery of the subject that is not over.
func hasUnfinished(ctx context.Context, tx *db.Tx, subject int64, id levee.WebhookID) (bool, error) {
	var one int
	err := tx.QueryRow(ctx, `SELECT 1 FROM notify_delivery WHERE subject_id = ? AND webhook_id = ? AND state < 3 LIMIT 1`, subject, int64(id)).Scan(&one)
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// told is what a webhook has been or will be told of a subject.
type told struct {
	subject int64
	webhook levee.WebhookID
	what    string
	version int64
	open    bool // not over
}

// readTold returns what webhooks are told of the subjects, at most 64 of them.
func readTold(ctx context.Context, tx *db.Tx, subjects []int64) (list []told, err error) {
	args := make([]any, len(subjects))
	for i, id := range subjects {
		args[i] = id
	}
	err = each(ctx, tx.Query, func(rows *db.Rows) error {
		var t told
		var state int
		err := rows.Scan(&t.subject, &t.webhook, &t.what, &t.version, &state)
		t.open = state < stateDelivered
		list = append(list, t)
		return err
	}, `SELECT subject_id, webhook_id, type, version, state FROM notify_delivery WHERE subject_id IN (`+places(len(subjects))+`)`, args...)
	return list, err
}

// finish ends a delivery that is not over and lets the next of its subject go. False: it was over already.
func finish(ctx context.Context, tx *db.Tx, d *Delivery, state int, now time.Time) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE notify_delivery SET state = ?, attempts = ?, status = ?, tried_at = ?, due_at = ? WHERE id = ? AND state IN (1, 2)`,
		state, d.Attempts, d.Status, micro(d.TriedAt), now.UnixMicro(), int64(d.ID))
	if err != nil {
		return false, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	if d.SubjectKind == levee.KindDelivery { // a ping is its only subject
		return true, nil
	}
	_, err = tx.Exec(ctx, promote, now.UnixMicro(), d.Subject, int64(d.Webhook))
	return true, err
}

// noteTry counts an attempt at a delivery that was parked or deleted while it was under way. False: it is not there any more, or the attempt
// was counted already, by a commit whose answer was lost.
func noteTry(ctx context.Context, tx *db.Tx, d *Delivery) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE notify_delivery SET attempts = ?, status = ?, tried_at = ? WHERE id = ? AND attempts < ?`,
		d.Attempts, d.Status, micro(d.TriedAt), int64(d.ID), d.Attempts)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// promote makes the next delivery of a subject ready. The inner name is there for engines that will not read what they change.
const promote = `UPDATE notify_delivery SET state = 1, due_at = ? WHERE id = (SELECT id FROM (SELECT MIN(id) AS id FROM notify_delivery
	WHERE subject_id = ? AND webhook_id = ? AND state = 0) n)`

// postpone makes a delivery that is not over due again. False: it was over already, or this was done before.
func postpone(ctx context.Context, tx *db.Tx, d *Delivery) (bool, error) {
	r, err := tx.Exec(ctx, `UPDATE notify_delivery SET state = 2, attempts = ?, status = ?, tried_at = ?, due_at = ? WHERE id = ? AND state IN (1, 2) AND attempts < ?`,
		d.Attempts, d.Status, micro(d.TriedAt), micro(d.DueAt), int64(d.ID), d.Attempts)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// requeue makes a delivery go again.
func requeue(ctx context.Context, tx *db.Tx, id levee.DeliveryID, state int, now, giveUp time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE notify_delivery SET state = ?, due_at = ?, give_up_at = ? WHERE id = ?`, state, now.UnixMicro(), giveUp.UnixMicro(), int64(id))
	return err
}

// sleepers returns failed deliveries that are not due yet.
func sleepers(ctx context.Context, q query, id levee.WebhookID, now time.Time, limit int) ([]Delivery, error) {
	return scanDeliveries(ctx, q, selectDelivery+` WHERE webhook_id = ? AND state = 2 AND due_at > ? LIMIT ?`, int64(id), now.UnixMicro(), limit)
}

// hasten makes a failed delivery due at the given time if that is sooner.
func hasten(ctx context.Context, tx *db.Tx, id levee.DeliveryID, due time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE notify_delivery SET due_at = ? WHERE id = ? AND state = 2 AND due_at > ?`, due.UnixMicro(), int64(id), due.UnixMicro())
	return err
}

var attemptColumns = []string{"delivery_id", "number", "at", "duration_us", "status", "answer", "error"}

func readAttempts(ctx context.Context, q query, id levee.DeliveryID) (list []Attempt, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var a Attempt
		var at, micros int64
		err := rows.Scan(&a.Number, &at, &micros, &a.Status, &a.Answer, &a.Error)
		a.At, a.Duration = fromMicro(at), time.Duration(micros)*time.Microsecond
		list = append(list, a)
		return err
	}, `SELECT number, at, duration_us, status, answer, error FROM notify_attempt WHERE delivery_id = ? ORDER BY number DESC LIMIT 200`, int64(id))
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, err
}

// scanMost bounds how many deliveries one page looks at: there is no index by webhook and age, as each delivery would pay for it.
const scanMost = 20_000

// listRecent returns a webhook's deliveries in some states, newest first.
func listRecent(ctx context.Context, q query, id levee.WebhookID, states []int, p levee.Page) (list []Delivery, next int64, err error) {
	after := p.After
	if after == 0 {
		after = math.MaxInt64
	}
	lowest, seen := int64(0), 0
	err = each(ctx, q, func(rows *db.Rows) error { return rows.Scan(&lowest, &seen) },
		`SELECT COALESCE(MIN(id), 0), COUNT(*) FROM (SELECT id FROM notify_delivery WHERE id < ? ORDER BY id DESC LIMIT ?) w`, after, scanMost)
	if err != nil || seen == 0 {
		return nil, 0, err
	}
	args := []any{after, lowest, int64(id)}
	for _, s := range states {
		args = append(args, int64(s))
	}
	list, err = scanDeliveries(ctx, q, selectDelivery+` WHERE id < ? AND id >= ? AND webhook_id = ? AND state IN (`+places(len(states))+`) ORDER BY id DESC LIMIT ?`,
		append(args, p.Limit)...)
	switch {
	case err != nil:
	case len(list) == p.Limit:
		next = int64(list[len(list)-1].ID)
	case seen == scanMost:
		next = lowest
	}
	return list, next, err
}

// listDue returns a webhook's deliveries of one state, the latest due (or over) first.
func listDue(ctx context.Context, d *db.DB, id levee.WebhookID, state int, p levee.Page) (list []Delivery, next int64, err error) {
	due := int64(math.MaxInt64)
	if p.After != 0 {
		last, err := readDelivery(ctx, d.Query, levee.DeliveryID(p.After))
		if err != nil {
			return nil, 0, err
		}
		due = last.DueAt.UnixMicro()
	}
	list, err = scanDeliveries(ctx, d.Query, selectDelivery+` WHERE webhook_id = ? AND state = ? AND due_at <= ? AND (due_at < ? OR id < ?) ORDER BY due_at DESC, id DESC LIMIT ?`,
		int64(id), state, due, due, afterOr(p.After), p.Limit)
	if err == nil && len(list) == p.Limit {
		next = int64(list[len(list)-1].ID)
	}
	return list, next, err
}

func afterOr(after int64) int64 {
	if after == 0 {
		return math.MaxInt64
	}
	return after
}

// listOver returns what is over and happened within a time, oldest first.
func listOver(ctx context.Context, q query, id levee.WebhookID, from, to time.Time, after int64, limit int) ([]Delivery, error) {
	return scanDeliveries(ctx, q, selectDelivery+` WHERE id > ? AND webhook_id = ? AND state IN (3, 4) AND at >= ? AND at < ? ORDER BY id LIMIT ?`,
		after, int64(id), from.UnixMicro(), to.UnixMicro(), limit)
}

// listGivenUp returns what is ready or due and too old to be tried on.
func listGivenUp(ctx context.Context, q query, id levee.WebhookID, now time.Time, limit int) ([]Delivery, error) {
	return scanDeliveries(ctx, q, selectDelivery+` WHERE webhook_id = ? AND state IN (1, 2) AND give_up_at <= ? LIMIT ?`, int64(id), now.UnixMicro(), limit)
}

const (
	deleteAttempts   = `DELETE FROM notify_attempt WHERE delivery_id IN`
	deleteDeliveries = `DELETE FROM notify_delivery WHERE id IN`
	deleteNotices    = `DELETE FROM notify_notice WHERE id IN`
	deleteWebhooks   = `DELETE FROM notify_webhook WHERE id IN`
)

// oldDeliveries returns, above an id, deliveries that were over before the time. Ids are ordered by time, so it stops at the first
// that is younger.
func oldDeliveries(ctx context.Context, d *db.DB, before time.Time, after int64) ([]int64, error) {
	return readIDs(ctx, d.Query, `SELECT id FROM (SELECT id, state, due_at, at FROM notify_delivery WHERE id > ? ORDER BY id LIMIT ?) w
		WHERE at < ? AND due_at < ? AND state IN (3, 4)`, after, pruneChunk, before.UnixMicro(), before.UnixMicro())
}

// orphans returns deliveries of deleted webhooks.
func orphans(ctx context.Context, d *db.DB) ([]int64, error) {
	return readIDs(ctx, d.Query, `SELECT id FROM notify_delivery WHERE webhook_id IN (SELECT id FROM notify_webhook WHERE deleted = 1) LIMIT ?`, pruneChunk)
}

// emptyWebhooks returns deleted webhooks without deliveries.
func emptyWebhooks(ctx context.Context, d *db.DB) ([]int64, error) {
	return readIDs(ctx, d.Query, `SELECT id FROM notify_webhook WHERE deleted = 1 AND NOT EXISTS
		(SELECT 1 FROM notify_delivery WHERE notify_delivery.webhook_id = notify_webhook.id) LIMIT ?`, pruneChunk)
}

func oldNotices(ctx context.Context, d *db.DB, before time.Time, after int64) ([]int64, error) {
	return readIDs(ctx, d.Query, `SELECT id FROM (SELECT id, at FROM notify_notice WHERE id > ? ORDER BY id LIMIT ?) w WHERE at < ?`,
		after, pruneChunk, before.UnixMicro())
}

// surplusNotices returns notices of one user that has more than are kept.
func surplusNotices(ctx context.Context, d *db.DB) ([]int64, error) {
	users, err := readIDs(ctx, d.Query, `SELECT user_id FROM notify_notice GROUP BY user_id HAVING COUNT(*) > ? LIMIT 1`, noticesPerUser)
	if err != nil || len(users) == 0 {
		return nil, err
	}
	return readIDs(ctx, d.Query, `SELECT id FROM notify_notice WHERE user_id = ? ORDER BY id DESC LIMIT ? OFFSET ?`, users[0], pruneChunk, noticesPerUser)
}
