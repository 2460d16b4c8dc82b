package db

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"

	"levee"
)

// sqliteEngine is the engine over one file: one goroutine that writes, a checkpointer beside it, and the pool of readers.
type sqliteEngine struct {
	cfg     Config
	file    file
	log     *slog.Logger
	metrics *metrics
	writer  *writer
	keeper  *keeper // checkpoints
	handle  *handle
}

// openSQLite opens the file and the reader pool over it.
func openSQLite(cfg Config, d *DB) (*sqliteEngine, *sql.DB, error) {
	f, err := parsePath(cfg.URL, cfg.BusyTimeout)
	if err != nil {
		return nil, nil, err
	}
	if err := f.prepare(); err != nil {
		return nil, nil, err
	}
	h, err := openHandle(f.path)
	if err != nil {
		return nil, nil, err
	}
	s := &sqliteEngine{cfg: cfg, handle: h, file: f, log: d.log, metrics: d.metrics}
	readers := sql.OpenDB(readerConnector{f})
	readers.SetMaxOpenConns(cfg.Readers)
	readers.SetMaxIdleConns(cfg.Readers)
	s.writer = newWriter(s)
	s.keeper = newKeeper(s)
	go s.writer.run(false)
	go s.keeper.run()
	return s, readers, nil
}

// close is called after the readers are closed.
func (s *sqliteEngine) close(readers *sql.DB) error {
	s.keeper.stop()
	s.writer.stop()
	err := readers.Close()
	// The last connection moves the log into the file and removes it.
	if e := s.writer.drop(); err == nil {
		err = e
	}
	if e := s.handle.close(); err == nil {
		err = e
	}
	return err
}

// transact queues the transaction for the writer and waits for its outcome, which is left in t.
func (s *sqliteEngine) transact(ctx context.Context, t *Tx) error {
	if err := s.writer.queue.push(t); err != nil {
		return err
	}
	end := ctx.Done()
	if end == nil {
		<-t.done
		return nil
	}
	select {
	case <-t.done:
	case <-end:
		if t.state.CompareAndSwap(txQueued, txWithdrawn) {
			return ctx.Err()
		}
		<-t.done
	}
	return nil
}

// apply runs one migration in one transaction, unless another process was faster.
func (s *sqliteEngine) apply(ctx context.Context, d *DB, m migration) (ran bool, err error) {
	err = d.Tx(ctx, "db.migrate", func(ctx context.Context, tx *Tx) error {
		ran = false
		done, err := recorded(func(q string) (*Rows, error) { return tx.Query(ctx, q) })
		if err != nil {
			return err
		}
		if _, ok := done[m.String()]; ok {
			return nil
		}
		ran = true
		for _, st := range m.statements {
			if _, err := tx.Exec(ctx, st.Text); err != nil {
				return err
			}
			s.writer.conn.forget(st.Text)
		}
		_, err = tx.Exec(ctx, recordMigration, m.owner, m.name, m.checksum, d.clock().UnixMicro())
		return err
	})
	return ran, err
}

// check reads the whole file.
func (s *sqliteEngine) check(ctx context.Context, _ *DB) (err error) {
	c, err := s.file.open(false)
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Close(); err == nil {
			err = e
		}
	}()
	found, err := c.ask(ctx, "PRAGMA quick_check(10)")
	if err != nil {
		return err
	}
	if len(found) != 1 || fmt.Sprint(found[0][0]) != "ok" {
		return levee.E(levee.CodeInternal, "the database file %s is damaged: %v; restore it from a backup", s.file.path, found)
	}
	return nil
}

func (s *sqliteEngine) stats(out *Stats) {
	out.Driver, out.File = driverName, s.file.path
	out.Queue = s.writer.queue.len()
	out.Transactions, out.Commits = s.writer.committed.Load(), s.writer.commits.Load()
	out.RolledBack, out.Failed = s.writer.rolledBack.Load(), s.writer.failed.Load()
	if st, err := os.Stat(s.file.path); err == nil {
		out.FileBytes = st.Size()
	}
	if st, err := os.Stat(s.file.path + "-wal"); err == nil {
		out.WALBytes = st.Size()
	}
}
