package db

import "time"

// keeper moves committed pages from the write-ahead log into the file (a checkpoint) beside the writer, so that the writer
// does not stand still for it.
//
// A checkpoint beside the writer never reaches the log's end while the writer goes on, and only a log that was moved as a
// whole is written from its beginning again. So when the log is long, most of it is moved beside the writer, and then the
// writer itself, between two groups, moves the few pages that came since.
type keeper struct {
	d    *sqliteEngine
	wake chan struct{}
	end  chan struct{}
	done chan struct{}
	last time.Time // of the writer: when it nudged last
	conn *conn

	tried   int64 // length of the log when it was moved last
	warned  int64 // length of the log that was warned of
	failing bool  // the last checkpoint failed and was logged
}

const (
	// nudgeEvery is how often the log's length is looked at under load.
	nudgeEvery = 20 * time.Millisecond
	// walPages is from how many pages (4 KiB) on the log is moved: 16 MiB, some 0.3 s of full load.
	walPages = 4096
	// walRest is how few pages are left for the writer to move, and besideMax how often the keeper tries to come down to it.
	walRest   = 128
	besideMax = 4
	// walLong is from how many pages on a log that cannot be moved is warned of: 256 MiB.
	walLong = 65536
)

func newKeeper(d *sqliteEngine) *keeper {
	return &keeper{d: d, wake: make(chan struct{}, 1), end: make(chan struct{}), done: make(chan struct{})}
}

// nudge is called by the writer after each commit.
func (k *keeper) nudge(now time.Time) {
	if now.Sub(k.last) < nudgeEvery {
		return
	}
	k.last = now
	k.d.metrics.queue.Set(float64(k.d.writer.queue.len()))
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) run() {
	defer close(k.done)
	for {
		select {
		case <-k.end:
			if k.conn != nil {
				if err := k.conn.Close(); err != nil {
					k.d.log.Warn("closing the checkpoint's connection failed", "error", err)
				}
			}
			return
		case <-k.wake:
			err := k.checkpoint()
			if err != nil && !k.failing {
				k.d.log.Warn("a checkpoint failed; the write-ahead log grows until one succeeds", "error", err)
			}
			k.failing = err != nil
		}
	}
}

func (k *keeper) stop() {
	close(k.end)
	<-k.done
}

// checkpoint looks at the log's length and moves it when it is long.
func (k *keeper) checkpoint() error {
	if k.conn == nil {
		c, err := k.d.file.open(true)
		if err != nil {
			return err
		}
		k.conn = c
	}
	length, moved, err := walState(k.conn, "NOOP")
	if err != nil {
		return err
	}
	k.d.metrics.wal.Set(float64(length))
	if length < k.tried {
		k.tried = 0 // the log was begun anew
	}
	// A reader with an old snapshot stops the moving there; it is tried again only after the log has grown by as much.
	if length-max(moved, k.tried) < walPages {
		return nil
	}
	k.tried = length
	for range besideMax {
		begun, before := time.Now(), moved
		if length, moved, err = walState(k.conn, "PASSIVE"); err != nil {
			return err
		}
		// SQLite flushes the file only when nothing came in meanwhile. Flushed here, the writer's part below has little to flush.
		if err := k.d.handle.sync(); err != nil {
			return err
		}
		k.d.metrics.checkpoint.Observe(time.Since(begun).Seconds())
		if moved <= before {
			k.warnLong(length)
			return nil
		}
		if length-moved < walRest {
			break
		}
	}
	k.tried = 0
	return k.d.writer.keep(func(c *conn) error {
		begun := time.Now()
		_, _, err := walState(c, "PASSIVE")
		k.d.metrics.pause.Observe(time.Since(begun).Seconds())
		return err
	})
}

// warnLong is told of a log that cannot be moved.
func (k *keeper) warnLong(length int64) {
	if length >= walLong && length >= 2*k.warned {
		k.warned = length
		k.d.log.Warn("the write-ahead log grows: some reader holds an old snapshot (rows that are not closed?)",
			"mebibytes", length*4096>>20)
	}
}

// walState runs one checkpoint of the given mode and returns how many pages the log has and how many of them are moved; both
// are 0 when another process is moving them just now.
func walState(c *conn, mode string) (length, moved int64, err error) {
	rows, err := c.ask(background, "PRAGMA wal_checkpoint("+mode+")")
	if err != nil || len(rows) == 0 || len(rows[0]) < 3 {
		return 0, 0, err
	}
	length, _ = rows[0][1].(int64)
	moved, _ = rows[0][2].(int64)
	return max(length, 0), max(moved, 0), nil
}
