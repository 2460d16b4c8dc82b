// Spoil writes one statement into the SQLite database of a house that runs, for tests of the pages: it leaves there what only long
// faults do, such as a job that has used up its attempts. Use: spoil FILE 'UPDATE … WHERE source = ?' ARGUMENT…
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: spoil FILE STATEMENT [ARGUMENT…]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "spoil:", err)
		os.Exit(1)
	}
}

func run(file, statement string, given []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	defer o.Close(ctx)
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + file}, o)
	if err != nil {
		return err
	}
	defer d.Close()
	args := make([]any, len(given))
	for i, a := range given {
		args[i] = a
	}
	return d.Tx(ctx, "spoil", func(ctx context.Context, tx *db.Tx) error {
		result, err := tx.Exec(ctx, statement, args...)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		fmt.Println(n)
		return err
	})
}
