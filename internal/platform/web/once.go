package web

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/header"
)

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables of this part: the answers kept for idempotency keys.
func Schema() db.Schema { return db.Schema{Owner: "web", FS: schemaFS} }

// answerMax is what fits into the smallest TEXT among the engines.
const answerMax = 60 << 10

// IdempotencyKey reads the request's Idempotency-Key: 1 to 128 visible ASCII characters, bare or as a quoted string of structured
// fields. Absent it is "", or CodeMalformed where it is required; otherwise unfit it is CodeMalformed.
func IdempotencyKey(r *http.Request, required bool) (string, error) {
	lines := r.Header["Idempotency-Key"]
	if len(lines) == 0 {
		if required {
			return "", errKey("a key of 1 to 128 visible ASCII characters, such as a random UUID", "nothing")
		}
		return "", nil
	}
	if len(lines) > 1 {
		return "", errKey("given once", fmt.Sprintf("%d times", len(lines)))
	}
	key, ok := header.Idempotency(lines[0])
	if !ok {
		return "", errKey("1 to 128 visible ASCII characters", lines[0])
	}
	return key, nil
}

func errKey(allowed, given string) error {
	given = levee.Shorten(strings.ToValidUTF8(given, "\uFFFD"), 80)
	return refuse(levee.CodeMalformed, "header.Idempotency-Key", allowed, given, "header.Idempotency-Key must be %s, got %q", allowed, given)
}

// Once runs fn in a transaction, once for all requests with this key: the answer is kept in the same transaction as the effect,
// so that either both are there or neither. A request with the same key and body gets the kept answer (and the header
// Idempotency-Replayed: true); with another body it is CodeIdempotencyMismatch. What fn returns as an error is not kept: nothing
// happened, and the key may be used again.
//
// route tells operations apart; a key counts per caller: per user, and for visitors per address. The key "" just runs fn. The
// body is what makes two requests the same, usually the handler's input; it is kept as a hash. The output must survive being
// written as JSON and read back, within 60 KiB.
func Once[O any](ctx context.Context, d *db.DB, route, key string, body any,
	fn func(ctx context.Context, tx *db.Tx) (*O, error)) (_ *O, err error) {
	defer levee.Wrap(&err, "web.Once(%s)", route)
	if key == "" {
		var out *O
		err := d.Tx(ctx, route, func(ctx context.Context, tx *db.Tx) (err error) {
			out, err = fn(ctx, tx)
			return err
		})
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	actor, key := keyOwner(ctx, key)
	hash, err := hashBody(body)
	if err != nil {
		return nil, err
	}
	// Most repeats find the answer without a transaction.
	if a, err := findAnswer(ctx, d, actor, route, key); err == nil {
		return replay[O](ctx, a, hash)
	} else if !errors.Is(err, db.ErrNoRows) {
		return nil, err
	}
	var out *O
	var kept *answer
	err = d.Tx(ctx, route, func(ctx context.Context, tx *db.Tx) error {
		out, kept = nil, nil
		// The row comes first and is filled in at the end: where transactions run side by side, a second one with this key waits here
		// for the first. To look for the row before it is written would lock the gap that all new keys go into.
		_, err := tx.Exec(ctx, "INSERT INTO web_answer (actor_id, route, idem_key, body_hash, answer, created_at) VALUES (?, ?, ?, ?, '', ?)",
			actor, route, key, hash, nowOf(ctx).UnixMicro())
		if db.IsUnique(err) {
			a, err := findAnswer(ctx, tx, actor, route, key)
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
		if len(text) > answerMax {
			return fmt.Errorf("the answer of %d bytes is more than %d and cannot be kept", len(text), answerMax)
		}
		_, err = tx.Exec(ctx, "UPDATE web_answer SET answer = ? WHERE actor_id = ? AND route = ? AND idem_key = ?", string(text), actor, route, key)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case kept != nil:
		return replay[O](ctx, *kept, hash)
	}
	return out, nil
}

type answer struct{ hash, text string }

func findAnswer(ctx context.Context, q interface {
	QueryRow(ctx context.Context, query string, args ...any) *db.Row
}, actor int64, route, key string) (a answer, err error) {
	err = q.QueryRow(ctx, "SELECT body_hash, answer FROM web_answer WHERE actor_id = ? AND route = ? AND idem_key = ?", actor, route, key).
		Scan(&a.hash, &a.text)
	return a, err
}

func replay[O any](ctx context.Context, a answer, hash string) (*O, error) {
	if a.hash != hash {
		return nil, levee.E(levee.CodeIdempotencyMismatch, "this Idempotency-Key was used with another request; use a new key")
	}
	var out *O
	if err := json.Unmarshal([]byte(a.text), &out); err != nil {
		return nil, fmt.Errorf("the kept answer cannot be read: %w", err)
	}
	if c := callOf(ctx); c != nil {
		c.told.Store(true) // when it was done
		c.Header()["Idempotency-Replayed"] = []string{"true"}
	}
	return out, nil
}

// keyOwner binds a key to its caller. Visitors share no account, so their keys are bound to their address: else one could fetch
// what another was answered.
func keyOwner(ctx context.Context, key string) (actor int64, owned string) {
	if a := levee.ActorFrom(ctx); a.SignedIn() {
		return int64(a.User), key
	}
	sum := sha256.Sum256([]byte(ClientIP(ctx).String() + " " + key))
	return 0, hex.EncodeToString(sum[:])
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

// nowOf is the server's clock, or the machine's outside of a request.
func nowOf(ctx context.Context) time.Time {
	if c := callOf(ctx); c != nil {
		return c.s.clock()
	}
	return time.Now()
}

// pruneMax bounds what one statement of Prune deletes, so that it does not hold up the writer.
const pruneMax = 1000

// Prune deletes the answers kept before a time and returns how many. Their keys may then be used anew, so before should lie at
// least as far back as callers repeat requests: a day.
func Prune(ctx context.Context, d *db.DB, before time.Time) (n int64, err error) {
	defer levee.Wrap(&err, "web.Prune")
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
