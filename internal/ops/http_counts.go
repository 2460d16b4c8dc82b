package ops

import (
	"context"
	"time"
)

// QueueCounts is the queue in numbers: what lies where, and what this node has done.
type QueueCounts struct {
	Counts []countView `json:"counts" nullable:"false" doc:"By pool, priority and kind"`
	Whole  bool        `json:"whole" doc:"False: only the first 100,000 jobs are in counts; the sums are of all"`
	Totals totalsView  `json:"totals" doc:"What this node has done since it started; two readings give a rate"`
}

type countView struct {
	Pool     string `json:"pool"`
	Priority int    `json:"priority" doc:"0 (first) to 9"`
	Kind     string `json:"kind"`
	Waiting  int    `json:"waiting"`
	Later    int    `json:"later"`
	Retrying int    `json:"retrying" doc:"Of those that wait or come later: have failed before"`
	Running  int    `json:"running"`
	Dead     int    `json:"dead"`
}

type totalsView struct {
	Node     string    `json:"node"`
	At       time.Time `json:"at"`
	Enqueued int64     `json:"enqueued"`
	Done     int64     `json:"done"`
	Retried  int64     `json:"retried" doc:"Attempts that failed and are followed by another"`
	Dead     int64     `json:"dead"`
}

func (s *Service) counts(ctx context.Context) (QueueCounts, error) {
	list, whole, err := s.Jobs.Counts(ctx)
	if err != nil {
		return QueueCounts{}, err
	}
	q := QueueCounts{Counts: make([]countView, len(list)), Whole: whole}
	for n, c := range list {
		q.Counts[n] = countView(c)
	}
	at, t := s.clock().UTC(), s.Jobs.Totals()
	q.Totals = totalsView{t.Node, at, t.Enqueued, t.Done, t.Retried, t.Dead}
	return q, nil
}
