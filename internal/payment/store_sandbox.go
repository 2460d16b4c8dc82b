package payment

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
)

type sandboxState uint8

const (
	sandboxWaiting sandboxState = 1
	sandboxPaid    sandboxState = 2
	sandboxClosed  sandboxState = 3 // the payer gave up
)

// sandboxTrade is a row of the test provider's books.
type sandboxTrade struct {
	id                        int64
	payment, order, notifyURL string
	amount                    levee.Money
	state                     sandboxState
	expireAt, paidAt          int64 // microseconds
	notifyID, tries           int64
}

const selectSandboxTrade = `SELECT id, out_trade_no, order_no, notify_url, amount_minor, currency, state, expire_at, paid_at,` +
	` notify_id, notify_tries FROM payment_sandbox_trade`

func listSandboxTrades(ctx context.Context, q query, text string, args ...any) (list []sandboxTrade, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		var t sandboxTrade
		err := rows.Scan(&t.id, &t.payment, &t.order, &t.notifyURL, &t.amount.Minor, &t.amount.Currency, &t.state, &t.expireAt, &t.paidAt,
			&t.notifyID, &t.tries)
		list = append(list, t)
		return err
	}, selectSandboxTrade+text, args...)
	return list, err
}

// sandboxTradeOf returns the trade of a merchant's number; its id is 0 when there is none.
func sandboxTradeOf(ctx context.Context, q query, payment, lock string) (sandboxTrade, error) {
	list, err := listSandboxTrades(ctx, q, ` WHERE out_trade_no = ?`+lock, payment)
	if err != nil || len(list) == 0 {
		return sandboxTrade{}, err
	}
	return list[0], nil
}

func insertSandboxTrade(ctx context.Context, tx *db.Tx, t sandboxTrade) error {
	_, err := tx.Exec(ctx, `INSERT INTO payment_sandbox_trade (id, out_trade_no, order_no, amount_minor, currency, notify_url, state, expire_at,`+
		` pay_at, paid_at, notify_id, notify_at, notify_tries) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, 0, NULL, 0)`,
		t.id, t.payment, t.order, t.amount.Minor, t.amount.Currency, t.notifyURL, int64(t.state), t.expireAt)
	return err
}

// endSandboxTrade moves a waiting trade on and says when its merchant is told.
func endSandboxTrade(ctx context.Context, tx *db.Tx, id int64, to sandboxState, notifyID int64, now, notifyAt time.Time) (bool, error) {
	paid := int64(0)
	if to == sandboxPaid {
		paid = now.UnixMicro()
	}
	return changed(tx.Exec(ctx, `UPDATE payment_sandbox_trade SET state = ?, pay_at = NULL, paid_at = ?, notify_id = ?,`+
		` notify_at = ?, notify_tries = 0 WHERE id = ? AND state = 1`, int64(to), paid, notifyID, notifyAt.UnixMicro(), id))
}

func laterSandboxTrade(ctx context.Context, tx *db.Tx, id int64, payAt time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE payment_sandbox_trade SET pay_at = ? WHERE id = ? AND state = 1`, payAt.UnixMicro(), id)
	return err
}

func lateSandboxTrades(ctx context.Context, q query, now time.Time, limit int) ([]sandboxTrade, error) {
	return listSandboxTrades(ctx, q, ` WHERE pay_at <= ? ORDER BY pay_at LIMIT ?`, now.UnixMicro(), limit)
}

func untoldSandboxTrades(ctx context.Context, q query, now time.Time, limit int) ([]sandboxTrade, error) {
	return listSandboxTrades(ctx, q, ` WHERE notify_at <= ? ORDER BY notify_at LIMIT ?`, now.UnixMicro(), limit)
}

// tellSandboxTrade counts a try to tell the merchant and sets the next one; 0 for none. It reports whether this node is the one to do it.
func tellSandboxTrade(ctx context.Context, tx *db.Tx, t sandboxTrade, next int64) (bool, error) {
	return changed(tx.Exec(ctx, `UPDATE payment_sandbox_trade SET notify_tries = notify_tries + 1, notify_at = ? WHERE id = ? AND notify_id = ?`+
		` AND notify_tries = ?`, nullable(next), t.id, t.notifyID, t.tries))
}

// storedSandboxKeys returns the private keys of both sides, "" before they are made.
func storedSandboxKeys(ctx context.Context, q query) (merchant, provider string, err error) {
	err = each(db.Primary(ctx), q, func(rows *db.Rows) error { return rows.Scan(&merchant, &provider) },
		`SELECT merchant, provider FROM payment_sandbox_key WHERE id = 1`)
	return merchant, provider, err
}

func insertSandboxKeys(ctx context.Context, tx *db.Tx, merchant, provider string, now time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO payment_sandbox_key (id, merchant, provider, made_at) VALUES (1, ?, ?, ?)`, merchant, provider, now.UnixMicro())
	return err
}

func toldSandboxTrade(ctx context.Context, tx *db.Tx, t sandboxTrade) error {
	_, err := tx.Exec(ctx, `UPDATE payment_sandbox_trade SET notify_at = NULL WHERE id = ? AND notify_id = ?`, t.id, t.notifyID)
	return err
}

// sandboxRefundOf returns the amount of the refund with this number, and whether there is one.
func sandboxRefundOf(ctx context.Context, q query, request string) (trade, amount int64, found bool, err error) {
	err = each(ctx, q, func(rows *db.Rows) error {
		found = true
		return rows.Scan(&trade, &amount)
	}, `SELECT trade_id, amount_minor FROM payment_sandbox_refund WHERE out_request_no = ?`, request)
	return trade, amount, found, err
}

func sandboxRefunded(ctx context.Context, q query, trade int64) (sum int64, err error) {
	err = each(ctx, q, func(rows *db.Rows) error { return rows.Scan(&sum) },
		`SELECT COALESCE(SUM(amount_minor), 0) FROM payment_sandbox_refund WHERE trade_id = ?`, trade)
	return sum, err
}

func insertSandboxRefund(ctx context.Context, tx *db.Tx, id int64, request string, trade, amount int64, now time.Time) error {
	_, err := tx.Exec(ctx, `INSERT INTO payment_sandbox_refund (id, out_request_no, trade_id, amount_minor, at) VALUES (?, ?, ?, ?, ?)`,
		id, request, trade, amount, now.UnixMicro())
	return err
}
