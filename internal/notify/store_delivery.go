package notify

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
)

var deliveryColumns = []string{"id", "webhook_id", "subject_kind", "subject_id", "type", "version", "data", "at", "state", "attempts", "status", "due_at",
	"tried_at", "give_up_at"}

const (
	shownColumns   = `id, webhook_id, subject_kind, subject_id, type, version, data, at, state, attempts, status, due_at, tried_at, give_up_at`
	selectDelivery = `SELECT ` + shownColumns + ` FROM notify_delivery`
)

func (d *Delivery) row() []any {
	return []any{int64(d.ID), int64(d.Webhook), int64(d.SubjectKind), d.Subject, d.Type, d.Version, d.data, micro(d.At), int64(d.state), int64(d.Attempts),
		int64(d.Status), micro(d.DueAt), micro(d.TriedAt), micro(d.GiveUpAt)}
}

func scanDeliveries(ctx context.Context, q query, text string, args ...any) (list []Delivery, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		d, err := scanDelivery(rows)
		list = append(list, d)
		return err
	}, text, args...)
	return list, err
}

func scanDelivery(row listing.Row) (d Delivery, err error) {
	var at, due, tried, giveUp int64
	err = row.Scan(&d.ID, &d.Webhook, &d.SubjectKind, &d.Subject, &d.Type, &d.Version, &d.data, &at, &d.state, &d.Attempts, &d.Status, &due, &tried, &giveUp)
	d.At, d.DueAt, d.TriedAt, d.GiveUpAt = fromMicro(at), fromMicro(due), fromMicro(tried), fromMicro(giveUp)
	return d, err
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

func deliveryList(sealer *id.Sealer) *listing.List[deliveryView] {
	return listing.New[deliveryView](listing.Spec{Name: "deliveries", Open: sealer.Open, ScanMost: scanMost, Export: true,
		Fields: []listing.Field{
			{Name: "state", Type: listing.Choice, Choices: []string{"pending", "failed", "delivered", "parked"}, Only: true, Order: dueOrder,
				Doc: "Where it stands; failed and parked ones go by when they are due or were parked, the latest first"},
			{Name: "type", Column: "type", Scans: true, Doc: "order.paid, sale.state_changed, …"},
			{Name: "at", Type: listing.Time, Column: "at", Scans: true, Doc: "When it happened"},
		},
		Keys: []listing.Key{{Name: "id", Column: "id"}, {Name: "due_at", Column: "due_at", With: true}}, Order: "-id", Unique: "id"})
}

// dueOrder: what an index serves by webhook and state goes by when it is due.
func dueOrder(state string) string {
	if state == "failed" || state == "parked" {
		return "-due_at"
	}
	return ""
}

// ofWebhook, and the sums beside it, keep engines from the index by webhook and state: with it they would read all that a webhook was ever told
// and sort it.
const ofWebhook = "webhook_id + 0 = ?"

// listDeliveries reads a page of a webhook's deliveries: the few that failed or are parked by their index, others by looking through all.
func listDeliveries(ctx context.Context, q query, id levee.WebhookID, asked *listing.Query) (*listing.Found[Delivery], error) {
	switch asked.Value("state") {
	case "failed":
		asked.Where("webhook_id = ? AND state = ?", int64(id), stateFailed)
	case "parked":
		asked.Where("webhook_id = ? AND state = ?", int64(id), stateParked)
	case "pending":
		asked.Whittle(ofWebhook+" AND state + 0 IN (?, ?)", int64(id), stateBehind, stateReady)
	case "delivered":
		asked.Whittle(ofWebhook+" AND state + 0 = ?", int64(id), stateDelivered)
	default:
		asked.Whittle(ofWebhook, int64(id))
	}
	return listing.Rows(ctx, listing.Reader(q), asked, shownColumns, "notify_delivery", scanDelivery)
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
