// Package once owns what was answered to whom under which Idempotency-Key, so that a request that is sent again has one effect and one answer.
// Its table is older than this package and carries the web part's name.
package once

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"levee"
	"levee/internal/platform/db"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables of this part: the answers kept for idempotency keys.
func Schema() db.Schema { return db.Schema{Owner: "web", FS: schemaFS} }

// AnswerMax is the most bytes of JSON that an answer may have: what fits into the smallest TEXT among the engines.
const AnswerMax = 60 << 10

// Key tells one request from all others.
type Key struct {
	// Actor is whose key it is, 0 for visitors. They share no account: who takes their keys says in Key whose each is.
	Actor int64
	// Route tells operations apart.
	Route string
	Key   string
}

// Do runs fn in a transaction, once for all requests with this key: the answer is kept in the same transaction as the effect, so that either
// both are there or neither. A request with the same key and body gets the kept answer, and replayed is true; with another body it is
// CodeIdempotencyMismatch. What fn returns as an error is not kept: nothing happened, and the key may be used again.
//
// The body is what makes two requests the same; it is kept as a hash. The answer must survive being written as JSON and read back, within
// 60 KiB. now is when it is kept, for Prune.
func Do[O any](ctx context.Context, d *db.DB, key Key, body any, now time.Time,
	fn func(ctx context.Context, tx *db.Tx) (*O, error)) (out *O, replayed bool, err error) {
	hash, err := hashBody(body)
	if err != nil {
		return nil, false, err
	}
	// Most repeats find the answer without a transaction.
	if a, err := find(ctx, d.QueryRow, key); err == nil {
		return replay[O](a, hash)
	} else if !errors.Is(err, db.ErrNoRows) {
		return nil, false, err
	}
	var kept *answer
	err = d.Tx(ctx, key.Route, func(ctx context.Context, tx *db.Tx) error {
		out, kept = nil, nil
		// The row comes first and is filled in at the end: where transactions run side by side, a second one with this key waits here
		// for the first. To look for the row before it is written would lock the gap that all new keys go into.
		_, err := tx.Exec(ctx, "INSERT INTO web_answer (actor_id, route, idem_key, body_hash, answer, created_at) VALUES (?, ?, ?, ?, '', ?)",
			key.Actor, key.Route, key.Key, hash, now.UnixMicro())
		if db.IsUnique(err) {
			a, err := find(ctx, tx.QueryRow, key)
			kept = &a
			return err
		}
		if err != nil {
			return err
		}
		if out, err = fn(ctx, tx); err != nil {
			return err
		}
		text, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("the answer is no JSON: %w", err)
		}
		if len(text) > AnswerMax {
			return fmt.Errorf("the answer of %d bytes is more than %d and cannot be kept", len(text), AnswerMax)
		}
		_, err = tx.Exec(ctx, "UPDATE web_answer SET answer = ? WHERE actor_id = ? AND route = ? AND idem_key = ?", string(text), key.Actor, key.Route, key.Key)
		return err
	})
	switch {
	case err != nil:
		return nil, false, err
	case kept != nil:
		return replay[O](*kept, hash)
	}
	return out, false, nil
}

type answer struct{ hash, text string }

func find(ctx context.Context, ask func(ctx context.Context, query string, args ...any) *db.Row, key Key) (a answer, err error) {
	err = ask(ctx, "SELECT body_hash, answer FROM web_answer WHERE actor_id = ? AND route = ? AND idem_key = ?", key.Actor, key.Route, key.Key).
		Scan(&a.hash, &a.text)
	return a, err
}

func replay[O any](a answer, hash string) (out *O, replayed bool, err error) {
	if a.hash != hash {
		return nil, false, levee.E(levee.CodeIdempotencyMismatch, "this Idempotency-Key was used with another request; use a new key")
	}
	if err := json.Unmarshal([]byte(a.text), &out); err != nil {
		return nil, false, fmt.Errorf("the kept answer cannot be read: %w", err)
	}
	return out, true, nil
}

func hashBody(body any) (string, error) {
	text, ok := body.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return "", fmt.Errorf("the body is no JSON: %w", err)
		}
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// pruneMax bounds what one statement of Prune deletes, so that it does not hold up the writer.
const pruneMax = 1000

// Prune deletes the answers kept before a time and returns how many. Their keys may then be used anew, so before should lie at
// least as far back as callers repeat requests: a day.
func Prune(ctx context.Context, d *db.DB, before time.Time) (n int64, err error) {
	defer levee.Wrap(&err, "once.Prune")
	for {
		var deleted int64
		err := d.Tx(ctx, "http.prune", func(ctx context.Context, tx *db.Tx) error {
			// The time up to which one portion reaches: portable, where DELETE … LIMIT is not.
			var upTo db.NullInt64
			err := tx.QueryRow(ctx, "SELECT MAX(created_at) FROM "+
				"(SELECT created_at FROM web_answer WHERE created_at < ? ORDER BY created_at LIMIT ?) AS oldest",
				before.UnixMicro(), pruneMax).Scan(&upTo)
			if err != nil || !upTo.Valid {
				return err
			}
			res, err := tx.Exec(ctx, "DELETE FROM web_answer WHERE created_at <= ?", upTo.Int64)
			if err != nil {
				return err
			}
			deleted, err = res.RowsAffected()
			return err
		})
		if err != nil || deleted == 0 {
			return n, err
		}
		n += deleted
	}
}
