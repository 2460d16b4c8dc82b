package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/header"
	"levee/internal/platform/once"
	"levee/internal/platform/problem"
)

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
	return problem.Refuse(levee.CodeMalformed, "header.Idempotency-Key", allowed, given, "header.Idempotency-Key must be %s, got %q", allowed, given)
}

// Once is once.Do for a request: a repeat's answer has the header Idempotency-Replayed: true. route tells operations apart; a key counts per
// caller: per user, and for visitors per address. The key "" just runs fn in a transaction. body is usually the handler's input.
func Once[O any](ctx context.Context, d *db.DB, route, key string, body any,
	fn func(ctx context.Context, tx *db.Tx) (*O, error)) (out *O, err error) {
	defer levee.Wrap(&err, "web.Once(%s)", route)
	if key == "" {
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
	out, replayed, err := once.Do(ctx, d, once.Key{Actor: actor, Route: route, Key: key}, body, nowOf(ctx), fn)
	if c := callOf(ctx); replayed && c != nil {
		c.told.Store(true) // when it was done
		c.Header()["Idempotency-Replayed"] = []string{"true"}
	}
	return out, err
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

// nowOf is the server's clock, or the machine's outside of a request.
func nowOf(ctx context.Context) time.Time {
	if c := callOf(ctx); c != nil {
		return c.s.clock()
	}
	return time.Now()
}
