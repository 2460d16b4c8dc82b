package job

import (
	"cmp"
	"context"
	"slices"

	dto "github.com/prometheus/client_model/go"

	"levee"
)

// Count is how many jobs of a kind there are in one lane: a pool at a priority. Retrying are those of Waiting and Later that failed before.
type Count struct {
	Pool                                    string
	Priority                                int
	Kind                                    string
	Waiting, Later, Retrying, Running, Dead int
}

const (
	countMost = 100_000 // rows of a table that Counts reads at most
	countLive = `SELECT pool, kind, state, again, COUNT(*) FROM (SELECT pool, kind, CASE WHEN due_at IS NULL THEN 2 WHEN due_at <= ? THEN 0 ELSE 1 END AS state, ` +
		`CASE WHEN due_at IS NOT NULL AND attempts > 0 THEN 1 ELSE 0 END AS again FROM job_task LIMIT ?) t GROUP BY pool, kind, state, again`
	countDead = `SELECT pool, kind, 3, 0, COUNT(*) FROM (SELECT pool, kind FROM job_dead LIMIT ?) t GROUP BY pool, kind`
)

// Counts counts jobs by pool, priority and kind, in this order, of up to 100,000 rows that wait or run and as many dead ones; whole says whether
// these are all. It is for a page, not for a loop.
func (j *Jobs) Counts(ctx context.Context) (list []Count, whole bool, err error) {
	defer levee.Wrap(&err, "job.Counts")
	all, whole := map[Count]Count{}, true
	for query, args := range map[string][]any{countLive: {j.clock().UnixMicro(), countMost}, countDead: {countMost}} {
		rows, err := j.db.Query(ctx, query, args...)
		if err != nil {
			return nil, false, err
		}
		defer rows.Close()
		read := 0
		for rows.Next() {
			var lane string
			var key Count
			var state, again, n int
			if err := rows.Scan(&lane, &key.Kind, &state, &again, &n); err != nil {
				return nil, false, err
			}
			key.Pool, key.Priority, _ = splitLane(lane)
			c := cmp.Or(all[key], key)
			*[]*int{&c.Waiting, &c.Later, &c.Running, &c.Dead}[state] += n
			c.Retrying += again * n
			all[key], read = c, read+n
		}
		if err := rows.Err(); err != nil {
			return nil, false, err
		}
		whole = whole && read < countMost
	}
	for _, c := range all {
		list = append(list, c)
	}
	slices.SortFunc(list, func(x, y Count) int {
		return cmp.Or(cmp.Compare(x.Pool, y.Pool), cmp.Compare(x.Priority, y.Priority), cmp.Compare(x.Kind, y.Kind))
	})
	return list, whole, nil
}

// Totals are what a process has done since it started, over all kinds: the difference of two readings is a rate. Enqueued counts those rolled back
// later, too; Retried the attempts that failed and are followed by another.
type Totals struct {
	Node                          string // Config.Node
	Enqueued, Done, Retried, Dead int64
}

// Totals reads what this process has counted.
func (j *Jobs) Totals() Totals {
	t := Totals{Node: j.cfg.Node}
	j.m.kinds.Range(func(_, v any) bool {
		k, m := v.(*kindMetrics), dto.Metric{}
		for to, c := range map[*int64]interface{ Write(*dto.Metric) error }{&t.Enqueued: k.enqueued, &t.Done: k.finished(outcomeDone),
			&t.Retried: k.finished(outcomeRetry), &t.Dead: k.finished(outcomeDead)} {
			if c.Write(&m) == nil {
				*to += int64(m.GetCounter().GetValue())
			}
		}
		return true
	})
	return t
}
