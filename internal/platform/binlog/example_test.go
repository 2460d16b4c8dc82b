package binlog_test

import (
	"context"
	"fmt"

	"levee/internal/platform/binlog"
	"levee/internal/platform/cache"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
)

// What a cache is told of some changes.
func ExampleInvalidation() {
	products := binlog.Invalidation[int64]{Table: "catalog_product", Key: "id", Version: "ver", ToKey: binlog.Int64Key}
	apply := products.Apply(func(_ context.Context, changes ...cache.Change[int64]) error {
		fmt.Println(changes)
		return nil
	})
	err := apply(context.Background(), []binlog.Change{
		{Table: "catalog_product", Kind: binlog.Update, Before: []any{int64(7), int64(3)}, After: []any{int64(7), int64(4)}},
		{Table: "catalog_product", Kind: binlog.Delete, Before: []any{int64(8), int64(1)}},
	})
	if err != nil {
		panic(err)
	}
	// Output: [{7 4} {8 2}]
}

type product struct{ Name string }

// One node of the house follows, and repairs a cache on all.
func ExampleFollower() {
	var (
		d      *db.DB
		cfg    db.Config
		nodes  *node.Nodes
		shared *cache.Shared[int64, product]
		o      *obs.Obs
	) // what app has opened
	products := binlog.Invalidation[int64]{Table: "catalog_product", Key: "id", Version: "ver", ToKey: binlog.Int64Key}
	f, err := binlog.Open(d, binlog.Config{
		Name: "cache", URL: cfg.URL, Password: cfg.Password,
		Tables: []binlog.Table{products.Columns()},
		Apply:  products.Apply(shared.Invalidate),
		Lost:   func(ctx context.Context, _ string) error { return shared.InvalidateAll(ctx) },
	}, o)
	if err != nil {
		panic(err)
	}
	nodes.Keep("binlog", func(ctx context.Context, t node.Term) error { return f.Run(ctx, t.CheckTx) })
}
