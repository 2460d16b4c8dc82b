package id_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

func folder() string {
	dir, err := os.MkdirTemp("", "levee-ids-")
	if err != nil {
		panic(err)
	}
	return dir
}

var o = &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: time.Now}

// Ids of one machine: any number of processes on one folder.
func Example() {
	dir := folder()
	defer os.RemoveAll(dir)
	ids, err := id.Open(context.Background(), id.Config{Dir: dir}, o)
	if err != nil {
		panic(err)
	}
	defer ids.Close()

	first, err := ids.Next()
	if err != nil {
		panic(err)
	}
	many := make([]int64, 1000)
	if err := ids.NextN(many); err != nil {
		panic(err)
	}
	fmt.Println(many[0] > first, many[999] > many[998], time.Since(id.TimeOf(first)) < time.Minute)
	// Output: true true true
}

// Ids that JavaScript's numbers hold exactly.
func ExampleConfig_js53() {
	dir := folder()
	defer os.RemoveAll(dir)
	ids, err := id.Open(context.Background(), id.Config{Dir: dir, Space: "js53", Layout: id.JS53}, o)
	if err != nil {
		panic(err)
	}
	defer ids.Close()
	n, err := ids.Next()
	fmt.Println(n > 0 && n < 1<<53, err)
	// Output: true <nil>
}

// Four workers in one process, and no id ahead of the clock: 16 million a second.
func ExampleOpenSet() {
	dir := folder()
	defer os.RemoveAll(dir)
	ids, err := id.OpenSet(context.Background(), id.Config{Dir: dir, Lead: id.Strict}, 4, o)
	if err != nil {
		panic(err)
	}
	defer ids.Close()
	n, err := ids.Next()
	fmt.Println(ids.Workers(), id.TimeOf(n).After(time.Now()), err)
	// Output: [0 1 2 3] false <nil>
}

// What an id is made of.
func ExampleLayout_Explain() {
	p, err := id.Default.Explain(249988767346065408)
	fmt.Println(p.Time.Format(time.RFC3339Nano), p.Worker, p.Sequence, err)
	_, err = id.JS53.Explain(249988767346065408)
	fmt.Println(levee.CodeOf(err))
	// Output:
	// 2026-11-21T20:06:06.702Z 0 0 <nil>
	// invalid
}

// The rows of one hour, by the time in their key: WHERE id BETWEEN low AND high.
func ExampleLayout_At() {
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	low, _, _ := id.Default.At(noon)
	_, high, _ := id.Default.At(noon.Add(time.Hour - time.Millisecond))
	fmt.Println(low, high)
	// Output: 249866433331200000 249881532825599999
}

// Dense numbers by business tag, counted in the database.
func ExampleSegments() {
	dir := folder()
	defer os.RemoveAll(dir)
	ctx := context.Background()
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + dir + "/levee.db"}, o)
	if err != nil {
		panic(err)
	}
	defer d.Close()
	if _, err := d.Migrate(ctx, []db.Schema{id.Schema()}); err != nil {
		panic(err)
	}
	numbers, err := id.OpenSegments(id.SegmentsConfig{DB: d}, o)
	if err != nil {
		panic(err)
	}
	defer numbers.Close(ctx)
	for _, tag := range []string{"invoice/2026", "invoice/2026", "coupon"} {
		n, err := numbers.Next(ctx, tag)
		fmt.Println(tag, n, err)
	}
	// Output:
	// invoice/2026 1 <nil>
	// invoice/2026 2 <nil>
	// coupon 1 <nil>
}

// What strangers see of an id.
func ExampleSealer() {
	key := make([]byte, 32) // in truth: 32 secret random bytes, the same for ever
	s, err := id.NewSealer(key)
	if err != nil {
		panic(err)
	}
	public := s.Seal(levee.KindOrder, 249988767346065408)
	n, err := s.Open(levee.KindOrder, public)
	_, wrong := s.Open(levee.KindSale, public)
	fmt.Println(len(public), public[:4], n, err, levee.CodeOf(wrong))
	// Output: 30 ord_ 249988767346065408 <nil> not_found
}

// In JSON an id is a string; a number is read as well.
func ExampleID() {
	text, _ := json.Marshal(struct{ Order id.ID }{249988767346065408})
	var back struct{ Order id.ID }
	err := json.Unmarshal([]byte(`{"Order":249988767346065408}`), &back)
	fmt.Println(string(text), back.Order, err)
	// Output: {"Order":"249988767346065408"} 249988767346065408 <nil>
}
