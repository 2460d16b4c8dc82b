package count_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"levee/internal/platform/count"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// open is what app does: a database, its tables, and the counts on it.
func open() (*db.DB, *count.Counts, func()) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "count")
	check(err)
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	check(err)
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, o)
	check(err)
	_, err = d.Migrate(ctx, []db.Schema{count.Schema()})
	check(err)
	c, err := count.Open(d, count.Config{}, o) // over Redis: count.OpenShared(d, count.Config{}, client, o)
	check(err)
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(c.Run(ctx))
	}()
	return d, c, func() {
		stop()
		<-done
		check(d.Close())
		check(os.RemoveAll(dir))
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ExampleCounter() {
	ctx := context.Background()
	d, c, done := open()
	defer done()
	reads, likes := c.Counter("article.reads"), c.Counter("article.likes")

	check(reads.Add(ctx, "42", 1))
	check(reads.Add(ctx, "42", 1))
	// What may not be lost is counted with the row that it counts.
	check(d.Tx(ctx, "article.like", func(ctx context.Context, tx *db.Tx) error { return likes.AddTx(ctx, tx, "42", 1) }))

	n, err := reads.Get(ctx, "42")
	check(err)
	m, err := likes.GetMany(ctx, []string{"41", "42"})
	check(err)
	fmt.Println(n, m["41"], m["42"])
	// Output: 2 0 1
}

func ExampleBoard() {
	ctx := context.Background()
	_, c, done := open()
	defer done()
	hot := c.Board("article.hot", 100)

	check(hot.Set(ctx, "channel:7", "article:1", 120))
	check(hot.Incr(ctx, "channel:7", "article:2", 30))
	check(hot.Incr(ctx, "channel:7", "article:1", 5))

	top, err := hot.Top(ctx, "channel:7", 0, 10)
	check(err)
	rank, score, ok, err := hot.Rank(ctx, "channel:7", "article:2")
	check(err)
	fmt.Println(top, rank, score, ok)
	// Output: [{article:1 125} {article:2 30}] 1 30 true
}

func ExampleCounter_Correct() {
	ctx := context.Background()
	_, c, done := open()
	defer done()
	likes := c.Counter("article.likes")
	check(likes.Add(ctx, "1", 7)) // wrong: there are 5

	truth := map[string]int64{"1": 5, "2": 3} // a room's rows
	found, err := likes.Correct(ctx, count.Truth{
		// SELECT DISTINCT article_id … WHERE article_id > ? ORDER BY article_id LIMIT 500
		Keys: func(_ context.Context, after string) ([]string, error) {
			if after == "" {
				return []string{"1", "2"}, nil
			}
			return nil, nil
		},
		// SELECT article_id, COUNT(*) … WHERE article_id IN (…) GROUP BY article_id
		Count: func(context.Context, []string) (map[string]int64, error) { return truth, nil },
	})
	check(err)
	m, err := likes.GetMany(ctx, []string{"1", "2"})
	check(err)
	fmt.Println(found.Differ, found.Sum, m["1"], m["2"])
	// Output: 2 5 5 3
}
