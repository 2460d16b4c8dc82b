package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Option says when, and whether, a job is added.
type Option func(*request)

type request struct {
	at     time.Time
	after  time.Duration
	key    string
	source string

	priority *int
}

// At runs the job at t or soon after; a time in the past means now, one more than ten years ahead is refused.
func At(t time.Time) Option { return func(r *request) { r.at = t } }

// After runs the job d from now or soon after. With At, it counts from there.
func After(d time.Duration) Option { return func(r *request) { r.after = d } }

// Unique adds the job only when none of this kind and key waits or runs; otherwise that one's id is returned and its time and
// arguments stay as they are. Name and key have at most 189 bytes together.
func Unique(key string) Option { return func(r *request) { r.key = key } }

// From names what gave the job ("schedule/nightly"), at most 190 bytes: for LiveTx and the history.
func From(source string) Option { return func(r *request) { r.source = source } }

func (k *kind) uniqueKey(key string) (any, error) {
	if key == "" {
		return nil, nil
	}
	unique := k.name + "/" + key
	if len(unique) > maxName {
		return nil, levee.Invalid("unique key of "+k.name, fmt.Sprintf("at most %d bytes", maxName-1-len(k.name)), key)
	}
	return unique, nil
}

const (
	insertInto   = `INSERT INTO job_task (id, kind, pool, args, unique_key, due_at, source, lease_until, fence, attempts, crashes, error) VALUES `
	insertRow    = `(?, ?, ?, ?, ?, ?, ?, NULL, 0, 0, 0, '')`
	insertTask   = insertInto + insertRow
	selectUnique = `SELECT id FROM job_task WHERE unique_key = ?`
	insertMax    = 64      // rows of one statement
	insertBytes  = 1 << 20 // of their arguments: servers bound a statement
	manyMax      = 10_000  // jobs of one transaction
)

// EnqueueTx adds a job within the caller's transaction and returns its id. It fails with CodeInvalid for a time, key or source out
// of bounds, and with CodeTooLarge for arguments over 256 KiB.
func (k *Kind[A]) EnqueueTx(ctx context.Context, tx *db.Tx, args A, at ...Option) (id int64, err error) {
	defer levee.Wrap(&err, "job.Enqueue(%s)", k.name)
	text, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	return k.enqueue(ctx, tx, string(text), at)
}

// Enqueue is EnqueueTx in a transaction of its own.
func (k *Kind[A]) Enqueue(ctx context.Context, args A, at ...Option) (id int64, err error) {
	defer levee.Wrap(&err, "job.Enqueue(%s)", k.name)
	j, err := k.home()
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	err = j.db.Tx(ctx, "job.enqueue", func(ctx context.Context, tx *db.Tx) error {
		id, err = k.enqueue(ctx, tx, string(text), at)
		return err
	})
	return id, err
}

// EnqueueManyTx adds a job for each of up to 10,000 args, all with the same options, of which Unique is not allowed, in few
// statements. It returns their ids in the order of args and fails as EnqueueTx does, for all together.
func (k *Kind[A]) EnqueueManyTx(ctx context.Context, tx *db.Tx, args []A, at ...Option) (ids []int64, err error) {
	defer levee.Wrap(&err, "job.EnqueueMany(%s)", k.name)
	texts, err := k.encode(args)
	if err != nil {
		return nil, err
	}
	return k.enqueueMany(ctx, tx, texts, at)
}

// EnqueueMany is EnqueueManyTx in a transaction of its own.
func (k *Kind[A]) EnqueueMany(ctx context.Context, args []A, at ...Option) (ids []int64, err error) {
	defer levee.Wrap(&err, "job.EnqueueMany(%s)", k.name)
	j, err := k.home()
	if err != nil {
		return nil, err
	}
	texts, err := k.encode(args)
	if err != nil {
		return nil, err
	}
	err = j.db.Tx(ctx, "job.enqueue", func(ctx context.Context, tx *db.Tx) error {
		ids, err = k.enqueueMany(ctx, tx, texts, at)
		return err
	})
	return ids, err
}

// EnqueueRawTx adds a job of a registered kind by its name, with arguments as JSON. It fails as EnqueueTx does, with CodeNotFound when
// no such kind is registered here, and with CodeInvalid when the kind cannot read the arguments.
func (j *Jobs) EnqueueRawTx(ctx context.Context, tx *db.Tx, kind string, args json.RawMessage, at ...Option) (id int64, err error) {
	defer levee.Wrap(&err, "job.EnqueueRaw(%q)", kind)
	j.mu.Lock()
	k := j.kinds[kind]
	j.mu.Unlock()
	if k == nil {
		return 0, levee.E(levee.CodeNotFound, "there is no job kind %q", levee.Shorten(kind, 80))
	}
	if _, err := k.decode(string(args)); err != nil {
		return 0, levee.E(levee.CodeInvalid, "the arguments of %s: %v", kind, err)
	}
	return k.enqueue(ctx, tx, string(args), at)
}

// LiveTx counts the jobs of a source (From) that wait or run.
func (j *Jobs) LiveTx(ctx context.Context, tx *db.Tx, source string) (n int, err error) {
	defer levee.Wrap(&err, "job.LiveTx(%q)", source)
	err = tx.QueryRow(ctx, `SELECT COUNT(*) FROM job_task WHERE source = ?`, source).Scan(&n)
	return n, err
}

// HastenTx makes up to 100 jobs of a source (From) due now that wait for a later time: for their next attempt, or put off.
func (j *Jobs) HastenTx(ctx context.Context, tx *db.Tx, source string) (err error) {
	defer levee.Wrap(&err, "job.HastenTx(%q)", source)
	now := j.clock().UnixMicro()
	rows, err := tx.Query(ctx, `SELECT id FROM job_task WHERE source = ? AND due_at > ? ORDER BY id LIMIT 100`, source, now)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(ids) == 0 {
		return err
	}
	for _, id := range ids {
		if _, err := tx.Exec(ctx, `UPDATE job_task SET due_at = ? WHERE id = ? AND due_at > ?`, now, id, now); err != nil {
			return err
		}
	}
	tx.AfterCommit(j.wakeFn)
	return nil
}

func (k *Kind[A]) encode(args []A) ([]string, error) {
	if len(args) > manyMax {
		return nil, levee.Invalid("jobs at once", fmt.Sprintf("at most %d", manyMax), len(args))
	}
	texts := make([]string, len(args))
	for i, a := range args {
		text, err := json.Marshal(a)
		if err != nil {
			return nil, err
		}
		texts[i] = string(text)
	}
	return texts, nil
}

func (k *kind) home() (*Jobs, error) {
	if j := k.jobs.Load(); j != nil {
		return j, nil
	}
	return nil, errors.New("the kind is not registered")
}

// placed is a request as it is stored.
type placed struct {
	lane           string
	due            int64
	soon           bool
	unique, source any
	from           string
}

func (k *kind) read(j *Jobs, at []Option) (g placed, err error) {
	var r request
	for _, o := range at {
		o(&r)
	}
	now := j.clock()
	due := r.at
	if due.IsZero() {
		due = now
	}
	due = due.Add(r.after)
	if due.Before(now) {
		due = now
	}
	if due.Sub(now) > maxWait {
		return g, levee.Invalid("time of the job", "at most ten years ahead", due)
	}
	if len(r.source) > maxName {
		return g, levee.Invalid("source of the job", "at most 190 bytes", r.source)
	}
	if r.key != "" && j.followed(r.source) {
		return g, levee.Invalid("unique key of the job", "none, with this source", r.key)
	}
	if r.source != "" {
		g.source, g.from = r.source, r.source
	}
	priority := usual
	if r.priority != nil {
		priority = *r.priority
	}
	if g.lane, err = k.laneOf(j, priority); err != nil {
		return g, err
	}
	g.due = due.Add(time.Microsecond - 1).UnixMicro() // rounded up: a job must never run before its time
	g.soon = due.Sub(now) <= j.cfg.Poll               // a later one is found by the look before its time
	g.unique, err = k.uniqueKey(r.key)
	return g, err
}

func checkArgs(text string) error {
	if len(text) > maxArgs {
		return levee.E(levee.CodeTooLarge, "the arguments have %d bytes, allowed are %d", len(text), maxArgs)
	}
	return nil
}

func (k *kind) enqueue(ctx context.Context, tx *db.Tx, args string, at []Option) (int64, error) {
	j, err := k.home()
	if err != nil {
		return 0, err
	}
	if err := checkArgs(args); err != nil {
		return 0, err
	}
	g, err := k.read(j, at)
	if err != nil {
		return 0, err
	}
	id, err := j.ids.Next()
	if err != nil {
		return 0, err
	}
	// The insert comes first: to look for the key and then insert it would lock a gap, where two may wait for each other.
	if _, err := tx.Exec(ctx, insertTask, id, k.name, g.lane, args, g.unique, g.due, g.source); err != nil {
		if g.unique != nil && db.IsUnique(err) {
			err := tx.QueryRow(ctx, selectUnique, g.unique).Scan(&id)
			return id, err
		}
		return 0, err
	}
	tx.AfterCommit(k.m.enqueuedOne)
	if j.heeded() {
		tx.AfterCommit(func() { j.tell(Event{What: whatEnqueued, ID: id, Job: k.name, Source: g.from}) })
	}
	if g.soon {
		tx.AfterCommit(j.wakeFn)
	}
	return id, nil
}

// insertTexts are the statements for 1, 2, 4 … rows.
var insertTexts = func() (texts [7]string) {
	for i := range texts {
		texts[i] = insertInto + insertRow + strings.Repeat(", "+insertRow, 1<<i-1)
	}
	return texts
}()

func size(texts []string) (n int) {
	for _, text := range texts {
		n += len(text)
	}
	return n
}

func (k *kind) enqueueMany(ctx context.Context, tx *db.Tx, texts []string, at []Option) ([]int64, error) {
	j, err := k.home()
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	for _, text := range texts {
		if err := checkArgs(text); err != nil {
			return nil, err
		}
	}
	g, err := k.read(j, at)
	if err != nil {
		return nil, err
	}
	if g.unique != nil {
		return nil, levee.Invalid("options of many jobs", "without Unique", g.unique)
	}
	ids := make([]int64, len(texts))
	if err := j.ids.NextN(ids); err != nil {
		return nil, err
	}
	var name, lane, due any = k.name, g.lane, g.due
	values := make([]any, 0, 7*insertMax)
	for at := 0; at < len(ids); {
		e := len(insertTexts) - 1
		for e > 0 && (1<<e > len(ids)-at || size(texts[at:at+1<<e]) > insertBytes) {
			e--
		}
		values = values[:0]
		for range 1 << e {
			values = append(values, ids[at], name, lane, texts[at], nil, due, g.source)
			at++
		}
		if _, err := tx.Exec(ctx, insertTexts[e], values...); err != nil {
			return nil, err
		}
	}
	tx.AfterCommit(func() {
		k.m.enqueued.Add(float64(len(ids)))
		if j.heeded() {
			for _, id := range ids {
				j.tell(Event{What: whatEnqueued, ID: id, Job: k.name, Source: g.from})
			}
		}
	})
	if g.soon {
		tx.AfterCommit(j.wakeFn)
	}
	return ids, nil
}

// CancelTx removes the job that was enqueued with Unique(key), unless it runs already, and tells whether it did.
func (k *Kind[A]) CancelTx(ctx context.Context, tx *db.Tx, key string) (was bool, err error) {
	defer levee.Wrap(&err, "job.CancelTx(%s, %q)", k.name, key)
	unique, err := k.uniqueKey(key)
	if err != nil || unique == nil {
		return false, err
	}
	res, err := tx.Exec(ctx, `DELETE FROM job_task WHERE unique_key = ? AND due_at IS NOT NULL`, unique)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// Ready is a job made ahead, checked and encoded: PlaceTx enqueues it at any later time, also on a node that does not have its kind.
type Ready struct {
	ID               int64 // who places it gives it one, from the house's generator
	Kind, Lane, Args string
	After            time.Duration // from when it is placed
}

// Ready makes a job ahead. It fails as EnqueueTx does.
func (k *Kind[A]) Ready(args A, priority int, after time.Duration) (r Ready, err error) {
	defer levee.Wrap(&err, "job.Ready(%s)", k.name)
	j, err := k.home()
	if err != nil {
		return r, err
	}
	g, err := k.read(j, []Option{Priority(priority), After(after)})
	text, bad := json.Marshal(args)
	return Ready{0, k.name, g.lane, string(text), max(after, 0)}, cmp.Or(err, bad, checkArgs(string(text)))
}

// PlaceTx enqueues jobs that were made ahead, in few statements.
func (j *Jobs) PlaceTx(ctx context.Context, tx *db.Tx, source string, rs []Ready) error {
	rows, now := make([][]any, len(rs)), j.clock().Add(time.Microsecond-1)
	for i, r := range rs {
		rows[i] = []any{r.ID, r.Kind, r.Lane, r.Args, now.Add(r.After).UnixMicro(), source, 0, 0, 0, ""}
		tx.AfterCommit(func() {
			j.m.kind(r.Kind).enqueued.Inc()
			j.tell(Event{What: whatEnqueued, ID: r.ID, Job: r.Kind, Source: source})
		})
	}
	tx.AfterCommit(j.wakeFn)
	return tx.InsertRows(ctx, "job_task", []string{"id", "kind", "pool", "args", "due_at", "source", "fence", "attempts", "crashes", "error"}, rows)
}
