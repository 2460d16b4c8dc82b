package lock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/lock"
	"levee/internal/platform/obs"
)

func open() *lock.Locks {
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		panic(err)
	}
	l, err := lock.Open(lock.Config{}, o) // or OpenRedis, OpenSQL: the same from here on
	if err != nil {
		panic(err)
	}
	return l
}

func ExampleLocks_Do() {
	l := open()
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // to wait and to work
	defer cancel()
	err := l.Do(ctx, "report/2026-11", func(ctx context.Context, fence uint64) error {
		fmt.Println("alone, under a number:", fence > 0)
		return nil
	})
	fmt.Println(err)
	// Output:
	// alone, under a number: true
	// <nil>
}

func ExampleLocks_Acquire() {
	l := open()
	defer l.Close()
	wait, cancel := context.WithTimeout(context.Background(), time.Second) // to wait, not to work
	defer cancel()
	lease, err := l.Acquire(wait, "import", lock.TTL(10*time.Second), lock.MaxHold(time.Hour))
	if err != nil {
		fmt.Println(err) // timeout, unavailable, invalid
		return
	}
	ctx := lease.Context() // ends with the lease, whatever happens
	for part := range 3 {
		if ctx.Err() != nil {
			break
		}
		fmt.Println("part", part)
	}
	if err := lease.Release(context.Background()); errors.Is(err, lock.ErrLost) {
		fmt.Println("another one may have been at work beside us")
	}
	// Output:
	// part 0
	// part 1
	// part 2
}

func ExampleLocks_TryAcquire() {
	l := open()
	defer l.Close()
	ctx := context.Background()
	first, _ := l.TryAcquire(ctx, "cleanup")
	_, err := l.TryAcquire(ctx, "cleanup")
	fmt.Println(errors.Is(err, lock.ErrHeld))
	fmt.Println(first.Release(ctx))
	// Output:
	// true
	// <nil>
}

func ExampleShared() {
	l := open()
	defer l.Close()
	ctx := context.Background()
	reader, _ := l.Acquire(ctx, "prices", lock.Shared())
	another, _ := l.Acquire(ctx, "prices", lock.Shared())
	_, err := l.TryAcquire(ctx, "prices") // to write
	fmt.Println(errors.Is(err, lock.ErrHeld))
	_, _ = reader.Release(ctx), another.Release(ctx)
	writer, err := l.TryAcquire(ctx, "prices")
	fmt.Println(err, writer.Release(ctx))
	// Output:
	// true
	// <nil> <nil>
}

func ExamplePermits() {
	l := open()
	defer l.Close()
	ctx := context.Background()
	for range 3 { // two may, the third may not
		_, err := l.TryAcquire(ctx, "sms-gateway", lock.Permits(2))
		fmt.Println(errors.Is(err, lock.ErrHeld))
	}
	// Output:
	// false
	// false
	// true
}

func ExampleAnd() {
	l := open()
	defer l.Close()
	ctx := context.Background()
	both, err := l.Acquire(ctx, "account/7", lock.And("account/3")) // in one order, whoever asks
	fmt.Println(err, both.FenceOf("account/3") > 0)
	fmt.Println(both.Release(ctx))
	// Output:
	// <nil> true
	// <nil>
}

// Again, further down, without knowing what the caller holds: the context knows.
func ExampleLease_Context() {
	l := open()
	defer l.Close()
	ctx := context.Background()
	rebuild := func(ctx context.Context) error {
		return l.Do(ctx, "index", func(context.Context, uint64) error {
			fmt.Println("rebuilt")
			return nil
		})
	}
	fmt.Println(l.Do(ctx, "index", func(ctx context.Context, _ uint64) error { return rebuild(ctx) }))
	// Output:
	// rebuilt
	// <nil>
}

// What keeps data right: the fence enters before the first read, in the same transaction.
func ExampleEnter() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "lock")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		panic(err)
	}
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, o)
	if err != nil {
		panic(err)
	}
	defer d.Close()
	if _, err := d.Migrate(ctx, []db.Schema{lock.Schema()}); err != nil {
		panic(err)
	}
	l := open()
	defer l.Close()
	work := func(fence uint64) error {
		return d.Tx(ctx, "example.work", func(ctx context.Context, tx *db.Tx) error {
			if err := lock.Enter(ctx, tx, lock.Named("stock/7"), fence); err != nil {
				return err
			}
			return nil // read, decide, write: nobody with another fence is in here before the commit
		})
	}
	yesterday, _ := l.Acquire(ctx, "stock/7")
	_ = yesterday.Release(ctx) // or paused for so long that its lease ended
	today, _ := l.Acquire(ctx, "stock/7")
	fmt.Println(work(today.Fence()))
	fmt.Println(errors.Is(work(yesterday.Fence()), lock.ErrFenced))
	// Output:
	// <nil>
	// true
}
