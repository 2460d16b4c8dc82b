package event

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"levee/internal/platform/db"
)

// Order. An id is made before its transaction commits, by the clock of the node that makes it. So of two events of one key the one that
// was emitted later could have the lower id (its node's clock is behind), and an event could become visible after one with a
// higher id was delivered. Both are made impossible per key, without a clock:
//
//   - An emission takes its key's turn, which it keeps until its commit, and an id above that of the key's event before it. On an
//     engine with one writer every emission has the turn of all; else it locks the key's row in event_chain.
//   - It notes the id of the event before it: of its key, or with one writer of the whole outbox. Whoever reads an event has a snapshot in which that one is committed too: it is either
//     delivered or found by that id, even if the relay's cursor has passed it.

const (
	chainPage  = 512 // rows of event_chain looked at by one query
	chainPause = time.Second
	chainInto  = `INSERT INTO event_chain (event_key, last_id, previous) VALUES `
	// On a key that is there, previous is set from last_id before that is changed: assignments run from left to right.
	chainOnKey = ` ON DUPLICATE KEY UPDATE previous = last_id, last_id = GREATEST(last_id, VALUES(last_id))`
)

// emission is one event on its way into the outbox.
type emission struct {
	id, key, previous int64
	name, payload     string
}

// numberTx gives the emissions their ids and takes the turns of their keys.
func (b *Bus) numberTx(ctx context.Context, tx *db.Tx, es []emission) error {
	if !b.crowd {
		var last db.NullInt64
		if err := tx.QueryRow(ctx, `SELECT MAX(id) FROM event_outbox`).Scan(&last); err != nil {
			return err
		}
		for i := range es {
			id, err := b.ids.NextAfter(last.Int64)
			if err != nil {
				return err
			}
			es[i].id, es[i].previous, last.Int64 = id, last.Int64, id
		}
		return nil
	}
	firsts := make(map[int64]int64, len(es)) // by key, the id of its first emission here
	keys := make([]int64, 0, len(es))
	for i := range es {
		id, err := b.ids.Next()
		if err != nil {
			return err
		}
		es[i].id = id
		if _, ok := firsts[es[i].key]; !ok {
			firsts[es[i].key] = id
			keys = append(keys, es[i].key)
		}
	}
	lasts := make(map[int64]int64, len(keys))
	for i := range es {
		lasts[es[i].key] = es[i].id
	}
	slices.Sort(keys) // everybody locks in this order
	before := map[int64]int64{}
	for rest := keys; len(rest) > 0; {
		n := 64
		for n > len(rest) {
			n /= 2
		}
		if err := b.turnsTx(ctx, tx, rest[:n], lasts, before); err != nil {
			return err
		}
		rest = rest[n:]
	}
	// The ids here only rise, so within this emission they are in order; those of a key whose last event another node has numbered
	// higher are moved above that.
	moved := map[int64]bool{}
	for i := range es {
		e := &es[i]
		if e.previous = before[e.key]; e.previous >= e.id {
			id, err := b.ids.NextAfter(e.previous)
			if err != nil {
				return err
			}
			e.id, moved[e.key] = id, true
		}
		before[e.key] = e.id
	}
	for key := range moved {
		if _, err := tx.Exec(ctx, `UPDATE event_chain SET last_id = ? WHERE event_key = ?`, before[key], key); err != nil {
			return err
		}
	}
	return nil
}

// turnsTx locks the rows of the keys, which makes their lasts the last ones, and puts the ids that were so before into before.
func (b *Bus) turnsTx(ctx context.Context, tx *db.Tx, keys []int64, lasts, before map[int64]int64) error {
	args := make([]any, 0, 2*len(keys))
	for _, key := range keys {
		args = append(args, key, lasts[key])
	}
	res, err := tx.Exec(ctx, chainInto+strings.Repeat("(?, ?, 0), ", len(keys)-1)+"(?, ?, 0)"+chainOnKey, args...)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected() // 1 for each new row, 2 for each that was there
	if err != nil || n == int64(len(keys)) {
		return err
	}
	for _, key := range keys {
		var previous int64
		if err := tx.QueryRow(ctx, `SELECT previous FROM event_chain WHERE event_key = ? FOR UPDATE`, key).Scan(&previous); err != nil {
			return err
		}
		before[key] = previous
	}
	return nil
}

// chains takes the rows of keys whose last event was delivered out of event_chain, a page after the other, as long as the term lasts. A
// row that is left longer does no harm.
func (t *term) chains(ctx context.Context) error {
	after, first := int64(0), true
	for ctx.Err() == nil {
		gone, next, err := t.b.chainsPage(ctx, after, first)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			t.b.log.WarnContext(ctx, "keys that are through could not be tidied up", "err", err)
		}
		first, after = next == 0, next
		if err != nil || gone < chainPage/2 {
			t.b.pause(ctx, chainPause)
		}
	}
	return nil
}

// chainsPage looks at the keys behind one, or at the first ones, and returns the number of rows that went and the key to go on behind; 0
// at the end.
func (b *Bus) chainsPage(ctx context.Context, after int64, first bool) (gone int, next int64, err error) {
	query, args := `SELECT event_key, last_id FROM event_chain WHERE event_key > ? ORDER BY event_key LIMIT ?`, []any{after, chainPage}
	if first {
		query, args = `SELECT event_key, last_id FROM event_chain ORDER BY event_key LIMIT ?`, []any{chainPage}
	}
	lasts, keys, err := b.readPairs(ctx, query, args...)
	if err != nil || len(keys) == 0 {
		return 0, 0, err
	}
	if len(keys) == chainPage {
		next = keys[len(keys)-1]
	}
	ids := make([]int64, 0, len(keys))
	for _, id := range lasts {
		ids = append(ids, id)
	}
	in, args := list(ids)
	still, _, err := b.readPairs(ctx, `SELECT id, id FROM event_outbox WHERE id IN `+in, args...)
	if err != nil {
		return 0, next, err
	}
	var through []int64
	for _, key := range keys {
		if _, ok := still[lasts[key]]; !ok {
			through = append(through, key)
		}
	}
	if len(through) == 0 {
		return 0, next, nil
	}
	err = b.db.Tx(ctx, "event.chains", func(ctx context.Context, tx *db.Tx) error {
		gone = 0
		// Rows that an emission has locked are passed over: their keys are not through.
		in, args := list(through)
		rows, err := tx.Query(ctx, `SELECT event_key, last_id FROM event_chain FORCE INDEX (PRIMARY) WHERE event_key IN `+in+` FOR UPDATE SKIP LOCKED`, args...)
		if err != nil {
			return err
		}
		var free []int64
		for rows.Next() {
			var key, id int64
			if err := rows.Scan(&key, &id); err != nil {
				return errors.Join(err, rows.Close())
			}
			if id == lasts[key] {
				free = append(free, key)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(free) == 0 {
			return err
		}
		in, args = list(free)
		_, err = tx.Exec(ctx, `DELETE c FROM event_chain AS c FORCE INDEX (PRIMARY) WHERE c.event_key IN `+in, args...)
		gone = len(free)
		return err
	})
	return gone, next, err
}

// readPairs returns the rows of a query of two numbers, by the first, and the first ones in their order.
func (b *Bus) readPairs(ctx context.Context, query string, args ...any) (map[int64]int64, []int64, error) {
	rows, err := b.db.Query(ctx, query, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	pairs, order := map[int64]int64{}, []int64(nil)
	for rows.Next() {
		var x, y int64
		if err := rows.Scan(&x, &y); err != nil {
			return nil, nil, err
		}
		pairs[x] = y
		order = append(order, x)
	}
	return pairs, order, rows.Err()
}

// withPrevious adds to events those that were emitted before them for their keys and that are neither in memory nor delivered: they were
// committed after the cursor had passed their ids. What it returns is sorted by id.
func (t *term) withPrevious(ctx context.Context, events []*row) ([]*row, error) {
	if t.b.seam.blind {
		return events, nil
	}
	have := map[int64]bool{}
	var asked []int64
	ask := func(rs []*row) {
		asked = asked[:0]
		for _, r := range rs {
			if _, known := t.known[r.previous]; r.previous != 0 && !known && !have[r.previous] {
				asked = append(asked, r.previous)
				have[r.previous] = true
			}
		}
	}
	for _, r := range events {
		have[r.id] = true
	}
	added := false
	for ask(events); len(asked) > 0; {
		var found []*row
		for rest := asked; len(rest) > 0; rest = rest[min(len(rest), pageSize):] {
			some, err := t.b.readByID(ctx, rest[:min(len(rest), pageSize)])
			if err != nil {
				return nil, err
			}
			found = append(found, some...)
		}
		events = append(events, found...)
		added = added || len(found) > 0
		ask(found)
	}
	if added {
		slices.SortFunc(events, func(x, y *row) int {
			if x.id < y.id {
				return -1
			}
			return 1
		})
	}
	return events, nil
}
