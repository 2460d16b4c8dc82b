package flow

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// crowd lets four nodes end members of many groups at once, in batches that hold members of several flows, and returns how many transactions the
// server has undone.
func crowd(t *testing.T, groups, members int, disorder bool) (reruns int64) {
	t.Helper()
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := platformtest.DB(t, dir, o, job.Schema(), Schema(), effects)
	var nodes []*house
	var member, callback []*job.Kind[int]
	for range 4 {
		h := node(t, dir, d, o, job.Config{Poll: 10 * time.Millisecond})
		h.flows.seam.disorder = disorder
		m := job.Define("member", job.Options{}, func(ctx context.Context, n int) error { return job.SetResult(ctx, n) })
		c := job.Define("callback", job.Options{}, func(ctx context.Context, want int) error {
			all, err := Results[int](ctx)
			if err == nil && len(all) != want {
				err = fmt.Errorf("%d of %d results", len(all), want)
			}
			h.note("%v", err)
			return err
		})
		if err := h.jobs.Register(m, c); err != nil {
			t.Fatal(err)
		}
		nodes, member, callback = append(nodes, h), append(member, m), append(callback, c)
	}
	flows := make([]int64, groups)
	for i := range flows {
		flows[i] = nodes[0].start(Chain(Group(slices.Repeat([]Part{Step(member[0], 1)}, members)...), Step(callback[0], members)))
	}
	// Due in the order of their ids' last digits, so that claims, and the batches of their ends, go across all flows.
	if err := d.Tx(t.Context(), "cross", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE job_task SET due_at = due_at - (id % 97) * 1000`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	before := d.Stats().Reruns
	began := time.Now()
	for _, h := range nodes {
		defer h.run()()
	}
	for limit := time.Now().Add(2 * time.Minute); nodes[0].count(`SELECT COUNT(*) FROM job_task`) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d jobs are left", nodes[0].count(`SELECT COUNT(*) FROM job_task`))
		}
	}
	reruns = d.Stats().Reruns - before
	t.Logf("%d groups of %d in %v, %d transactions were undone", groups, members, time.Since(began).Round(time.Millisecond), reruns)
	called := 0
	for _, h := range nodes {
		h.mu.Lock()
		for _, s := range h.said {
			if called++; s != "<nil>" {
				t.Error(s)
			}
		}
		h.mu.Unlock()
	}
	if called != groups {
		t.Errorf("%d callbacks of %d groups", called, groups)
	}
	for _, flow := range flows {
		nodes[0].is(flow, Done, fmt.Sprint(members+1, " done"))
	}
	return reruns
}

// Many ends of one group, and of many groups crosswise, from four nodes.
func TestCrowd(t *testing.T) {
	for _, c := range [][2]int{{1, 4000}, {50, 80}, {1000, 4}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) { crowd(t, c[0], c[1], false) })
	}
}

// The control: without an order of the flows, batches of ends lock crosswise, and the server undoes some.
func TestCrowdControl(t *testing.T) {
	if !platformtest.Distributed() {
		t.Skip("SQLite has one writer")
	}
	ordered, any := int64(0), int64(0)
	for range 3 {
		ordered += crowd(t, 50, 80, false)
		if any += crowd(t, 50, 80, true); any > 2*ordered+3 {
			return
		}
	}
	t.Errorf("%d transactions were undone in order, %d in any order: the check cannot see what it is there for", ordered, any)
}
