package cache_test

import (
	"context"
	"fmt"
	"io"
	"time"

	"levee"
	"levee/internal/platform/cache"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// Product is what a room caches.
type Product struct {
	Title string
	Price int64
}

// sql stands for the room's store: rows and their versions.
var sql = map[int]struct {
	Product
	ver int64
}{1: {Product{"Kettle", 4999}, 1}}

func load(_ context.Context, id int) (Product, int64, error) {
	row, ok := sql[id]
	if !ok {
		return Product{}, 0, levee.E(levee.CodeNotFound, "no such product")
	}
	return row.Product, row.ver, nil
}

func quiet() *obs.Obs {
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		panic(err)
	}
	return o
}

// A server gives its client of Redis; nil is one level, in this process.
var client *redis.Client

func ExampleShared() {
	ctx := context.Background()
	products := cache.NewShared[int, Product](cache.SharedConfig{Config: cache.Config{Name: "product"}}, client, quiet())
	defer products.Close()

	p, err := products.Get(ctx, 1, load)
	fmt.Println(p, err)

	// UPDATE … SET price = 3999, ver = ver + 1, then, after the commit:
	row := sql[1]
	row.Price, row.ver = 3999, 2
	sql[1] = row
	if err := products.Invalidate(ctx, cache.Change[int]{Key: 1, Version: 2}); err != nil {
		fmt.Println(err) // Redis did not take it; it goes on being sent
	}
	p, err = products.Get(cache.Strict(ctx), 1, load)
	fmt.Println(p, err)

	_, err = products.Get(ctx, 2, load)
	fmt.Println(levee.CodeOf(err) == levee.CodeNotFound)
	// Output:
	// {Kettle 4999} <nil>
	// {Kettle 3999} <nil>
	// true
}

func ExampleShared_GetMany() {
	products := cache.NewShared[int, Product](cache.SharedConfig{Config: cache.Config{Name: "product_many"}}, client, quiet())
	defer products.Close()
	many := func(ctx context.Context, ids []int) (map[int]cache.Many[Product], error) { // SELECT … WHERE id IN (…)
		rows := map[int]cache.Many[Product]{}
		for _, id := range ids {
			if p, ver, err := load(ctx, id); err == nil {
				rows[id] = cache.Many[Product]{Value: p, Version: ver}
			}
		}
		return rows, nil
	}
	got, err := products.GetMany(context.Background(), []int{1, 99}, many)
	fmt.Println(len(got), got[1].Title, err)
	// Output: 1 Kettle <nil>
}

func ExampleShared_Filter() {
	ctx := context.Background()
	products := cache.NewShared[int, Product](cache.SharedConfig{Config: cache.Config{Name: "product_ids"}, Guessable: true}, client, quiet())
	defer products.Close()
	products.Filter(cache.FilterConfig{MaxCommit: 10 * time.Millisecond}, func(_ context.Context, found func(int)) error {
		for id := range sql { // SELECT id … page by page, from the primary
			found(id)
		}
		return nil
	})
	// In the transaction that inserts 7, before its commit:
	fmt.Println(products.Announce(ctx, 7))
	// Output: <nil>
}

func ExampleNew() {
	titles := cache.New[int, string](cache.Config{Name: "title", TTL: time.Minute}, quiet())
	read := func(_ context.Context, id int) (string, error) { return sql[id].Title, nil }
	title, err := titles.Get(context.Background(), 1, read)
	fmt.Println(title, err)
	titles.Invalidate(1) // after a change
	// Output: Kettle <nil>
}
