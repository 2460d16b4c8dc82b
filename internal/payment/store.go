package payment

import (
	"context"
	"errors"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// query is DB.Query or Tx.Query: what a store function reads through.
type query func(ctx context.Context, text string, args ...any) (*db.Rows, error)

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

func changed(r db.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

func fromMicro(n int64) time.Time { return time.UnixMicro(n).UTC() }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// nullable is a moment in SQL: NULL for 0.
func nullable(micro int64) any {
	if micro == 0 {
		return nil
	}
	return micro
}

const selectAttempt = `SELECT id, order_id, number, buyer_id, provider, state, paid_order, amount_minor, currency, provider_ref,` +
	` pay_by, ask_at, asked, created_at, updated_at FROM payment_attempt`

func scanAttempt(rows *db.Rows) (a Attempt, err error) {
	var ask db.NullInt64
	var payBy, created, updated int64
	err = rows.Scan(&a.ID, &a.Order, &a.Number, &a.Buyer, &a.Provider, &a.State, &a.PaidOrder, &a.Amount.Minor, &a.Amount.Currency,
		&a.ProviderRef, &payBy, &ask, &a.asked, &created, &updated)
	a.PayBy, a.CreatedAt, a.UpdatedAt, a.askAt = fromMicro(payBy), fromMicro(created), fromMicro(updated), ask.Int64
	return a, err
}

// loadAttempt reads an attempt; lock is what the SELECT ends with to lock it, or "".
func loadAttempt(ctx context.Context, q query, id levee.PaymentID, lock string) (a Attempt, err error) {
	err = each(ctx, q, func(rows *db.Rows) (err error) {
		a, err = scanAttempt(rows)
		return err
	}, selectAttempt+` WHERE id = ?`+lock, int64(id))
	if err == nil && a.ID == 0 {
		err = notFound()
	}
	return a, err
}

func listAttempts(ctx context.Context, q query, text string, args ...any) (list []Attempt, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		a, err := scanAttempt(rows)
		list = append(list, a)
		return err
	}, selectAttempt+text, args...)
	return list, err
}

func attemptsOf(ctx context.Context, q query, id levee.OrderID) ([]Attempt, error) {
	return listAttempts(ctx, q, ` WHERE order_id = ? ORDER BY number`, int64(id))
}

func dueAttempts(ctx context.Context, q query, now time.Time, limit int) ([]Attempt, error) {
	return listAttempts(ctx, q, ` WHERE ask_at <= ? ORDER BY ask_at LIMIT ?`, now.UnixMicro(), limit)
}

func insertAttempt(ctx context.Context, tx *db.Tx, a Attempt) error {
	_, err := tx.Exec(ctx, `INSERT INTO payment_attempt (id, order_id, number, buyer_id, provider, state, paid_order, amount_minor, currency,`+
		` provider_ref, pay_by, ask_at, asked, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		int64(a.ID), int64(a.Order), a.Number, int64(a.Buyer), a.Provider, int64(a.State), flag(a.PaidOrder), a.Amount.Minor, a.Amount.Currency,
		a.ProviderRef, a.PayBy.UnixMicro(), nullable(a.askAt), a.asked, a.CreatedAt.UnixMicro(), a.UpdatedAt.UnixMicro())
	return err
}

// moveAttempt changes an attempt's state if it is still in the state it was read in. Only a started one is asked about.
func moveAttempt(ctx context.Context, tx *db.Tx, a *Attempt, to State, now time.Time) (bool, error) {
	ok, err := changed(tx.Exec(ctx, `UPDATE payment_attempt SET state = ?, paid_order = ?, provider_ref = ?, ask_at = NULL, updated_at = ?`+
		` WHERE id = ? AND state = ?`, int64(to), flag(a.PaidOrder), a.ProviderRef, now.UnixMicro(), int64(a.ID), int64(a.State)))
	if ok {
		a.State, a.UpdatedAt, a.askAt = to, fromMicro(now.UnixMicro()), 0
	}
	return ok, err
}

func markPaidOrder(ctx context.Context, tx *db.Tx, id levee.PaymentID) error {
	_, err := tx.Exec(ctx, `UPDATE payment_attempt SET paid_order = 1 WHERE id = ?`, int64(id))
	return err
}

// claimAttempt moves the next question about an attempt to a later time, for the one who asks now.
func claimAttempt(ctx context.Context, tx *db.Tx, a Attempt, next time.Time) (bool, error) {
	return changed(tx.Exec(ctx, `UPDATE payment_attempt SET ask_at = ?, asked = asked + 1 WHERE id = ? AND ask_at = ?`,
		next.UnixMicro(), int64(a.ID), a.askAt))
}

// insertNotification reports false when this notification has had its effect already.
func insertNotification(ctx context.Context, tx *db.Tx, d db.Dialect, id int64, provider string, n notice,
	attempt levee.PaymentID, now time.Time) (bool, error) {
	return changed(tx.Exec(ctx, d.InsertIgnore("payment_notification", "id", "provider", "notification_id", "attempt_id", "status", "received_at"),
		id, provider, n.id, int64(attempt), int64(n.status), now.UnixMicro()))
}

const selectRefund = `SELECT id, attempt_id, order_id, state, for_order, amount_minor, currency, reason, actor_id, due_at, tries, last_error,` +
	` created_at, updated_at FROM payment_refund`

func listRefunds(ctx context.Context, q query, text string, args ...any) (list []Refund, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var r Refund
		var due db.NullInt64
		var created, updated int64
		err := rows.Scan(&r.ID, &r.Payment, &r.Order, &r.State, &r.ForOrder, &r.Amount.Minor, &r.Amount.Currency, &r.Reason, &r.Actor, &due,
			&r.Tries, &r.LastError, &created, &updated)
		r.dueAt, r.CreatedAt, r.UpdatedAt = due.Int64, fromMicro(created), fromMicro(updated)
		list = append(list, r)
		return err
	}, selectRefund+text, args...)
	return list, err
}

func refundsOf(ctx context.Context, q query, id levee.PaymentID) ([]Refund, error) {
	return listRefunds(ctx, q, ` WHERE attempt_id = ? ORDER BY id`, int64(id))
}

func dueRefunds(ctx context.Context, q query, now time.Time, limit int) ([]Refund, error) {
	return listRefunds(ctx, q, ` WHERE due_at <= ? ORDER BY due_at LIMIT ?`, now.UnixMicro(), limit)
}

func insertRefund(ctx context.Context, tx *db.Tx, r Refund) error {
	_, err := tx.Exec(ctx, `INSERT INTO payment_refund (id, attempt_id, order_id, state, for_order, amount_minor, currency, reason,`+
		` actor_id, due_at, tries, last_error, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		int64(r.ID), int64(r.Payment), int64(r.Order), int64(r.State), flag(r.ForOrder), r.Amount.Minor, r.Amount.Currency, r.Reason, int64(r.Actor),
		nullable(r.dueAt), r.Tries, r.LastError, r.CreatedAt.UnixMicro(), r.UpdatedAt.UnixMicro())
	return err
}

// claimRefund counts a try and moves the next one to the given time, for the one who tries now.
func claimRefund(ctx context.Context, tx *db.Tx, r Refund, next time.Time) (bool, error) {
	return changed(tx.Exec(ctx, `UPDATE payment_refund SET due_at = ?, tries = tries + 1 WHERE id = ? AND state = 1 AND due_at = ?`,
		next.UnixMicro(), int64(r.ID), r.dueAt))
}

// delayRefund notes why a try failed and when the next one is. Nothing happens to a refund that is over.
func delayRefund(ctx context.Context, tx *db.Tx, id levee.RefundID, why string, next, now time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE payment_refund SET due_at = ?, last_error = ?, updated_at = ? WHERE id = ? AND state = 1`,
		next.UnixMicro(), why, now.UnixMicro(), int64(id))
	return err
}

// endRefund ends a pending refund; false when it is over already.
func endRefund(ctx context.Context, tx *db.Tx, id levee.RefundID, to RefundState, why string, now time.Time) (bool, error) {
	return changed(tx.Exec(ctx, `UPDATE payment_refund SET state = ?, due_at = NULL, last_error = ?, updated_at = ? WHERE id = ? AND state = 1`,
		int64(to), why, now.UnixMicro(), int64(id)))
}
