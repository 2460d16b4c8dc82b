package main

import (
	"context"
	"slices"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/job"
)

func whenOf(t task) []job.Option {
	if t.Due == 0 {
		return nil
	}
	return []job.Option{job.At(time.Unix(0, t.Due))}
}

// putManyTx adds many jobs in a transaction: by one call where Levee has one and they have one time, else one by one.
func (q *leveeQueue) putManyTx(ctx context.Context, tx *db.Tx, ts []task) error {
	many, ok := any(q.kind).(interface {
		EnqueueManyTx(ctx context.Context, tx *db.Tx, args []task, at ...job.Option) ([]int64, error)
	})
	if ok && !slices.ContainsFunc(ts, func(t task) bool { return t.Due != ts[0].Due }) {
		_, err := many.EnqueueManyTx(ctx, tx, ts, whenOf(ts[0])...)
		return err
	}
	for _, t := range ts {
		if _, err := q.kind.EnqueueTx(ctx, tx, t, whenOf(t)...); err != nil {
			return err
		}
	}
	return nil
}
